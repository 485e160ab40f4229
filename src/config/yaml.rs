//! YAML as Patroni's parser (PyYAML, YAML 1.1) reads it: one text to a `serde_json` tree, with the line of every key.
//!
//! The structure comes from serde_norway (libyaml's scanner, the same as PyYAML's). What YAML 1.1 reads differently (`on`, `0640`,
//! `1_000`, merge keys, repeated keys) is resolved here. Lines come from the scalars that serde hands out as slices of the source.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::lines::{Lines, Path};
use super::scalar;

/// One parsed text.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// The tree; merge keys are merged, of repeated keys the last one counts.
    pub(crate) value: Value,
    /// Where its keys are.
    pub(crate) lines: Lines,
    /// Keys that were given more than once in one mapping, with the line of the repetition.
    pub(crate) repeated: Vec<(Path, Option<usize>)>,
    /// Keys whose value carries an anchor (`key: &name`).
    pub(crate) anchored: BTreeSet<Path>,
}

/// Why a text could not be read. `message` never quotes the text: it may hold secrets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) line: Option<usize>,
    pub(crate) message: String,
}

/// Parses one document.
pub(crate) fn parse(text: &str) -> Result<Parsed, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut node: Node = serde_yaml::from_str(text).map_err(|error| syntax_error(&error))?;
    if node.has_number() {
        // serde reads more as numbers than PyYAML does (`1e3`): a second pass asks for their text.
        if let Ok(spelled) = Again(&node).deserialize(serde_yaml::Deserializer::from_str(text)) {
            node = spelled;
        }
    }
    let mut parsed = Parsed::default();
    // libyaml counts characters, slices count bytes: beyond ASCII the positions are taken from a copy with one byte for each character.
    let shadow = if text.is_ascii() { None } else { Some(shadow_of(text)) };
    let positions: Option<Node> = shadow.as_deref().and_then(|shadow| serde_yaml::from_str(shadow).ok());
    let mut builder = Builder { text: shadow.as_deref().unwrap_or(text), starts: Vec::new(), parsed: &mut parsed, error: None };
    builder.starts = line_starts(builder.text);
    let value = builder.build(&node, positions.as_ref().unwrap_or(&node), &mut Vec::new());
    if let Some(error) = builder.error {
        return Err(error);
    }
    parsed.value = value;
    Ok(parsed)
}

fn syntax_error(error: &serde_yaml::Error) -> SyntaxError {
    let text = error.to_string();
    // serde quotes values that do not fit their tag (`!!int x`): they may be secrets.
    let text =
        if text.contains("invalid value") || text.contains("invalid type") { "a value does not fit its tag".to_owned() } else { text };
    let message = text.split(" at line ").next().unwrap_or("not YAML").trim_end_matches(',').to_owned();
    SyntaxError { line: error.location().map(|at| at.line()), message: format!("not valid YAML: {message}") }
}

fn shadow_of(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\u{85}' | '\u{2028}' | '\u{2029}' => '\n',
            c if c.is_ascii() => c,
            _ => '_',
        })
        .collect()
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1)).collect()
}

/// What serde saw. `at` is the address of the text in the source, if it stands there as it is.
enum Node {
    Scalar(Value),
    /// What serde takes for a number, as it is written.
    Number {
        spelled: String,
    },
    Text {
        text: String,
        at: Option<usize>,
    },
    Seq(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

impl Node {
    fn has_number(&self) -> bool {
        match self {
            Node::Scalar(value) => value.is_number(),
            Node::Number { .. } => true,
            Node::Text { .. } => false,
            Node::Seq(items) => items.iter().any(Node::has_number),
            Node::Map(entries) => entries.iter().any(|(key, value)| key.has_number() || value.has_number()),
        }
    }
}

struct Builder<'a> {
    text: &'a str,
    starts: Vec<usize>,
    parsed: &'a mut Parsed,
    error: Option<SyntaxError>,
}

impl Builder<'_> {
    fn offset(&self, node: &Node) -> Option<usize> {
        let Node::Text { at: Some(at), .. } = node else { return None };
        at.checked_sub(self.text.as_ptr() as usize).filter(|offset| *offset <= self.text.len())
    }

    fn line(&self, node: &Node) -> Option<usize> {
        let offset = self.offset(node)?;
        Some(self.starts.partition_point(|start| *start <= offset))
    }

    /// Without quotes before it; a text whose place is unknown (block scalars, escapes) is no plain one.
    fn is_plain(&self, node: &Node) -> bool {
        self.offset(node).is_some_and(|offset| {
            let before = self.text.get(..offset).unwrap_or("");
            !before.ends_with(['"', '\'']) && !before.trim_end_matches(' ').ends_with("!!str")
        })
    }

    fn is_merge(&self, key: &Node, position: &Node) -> bool {
        matches!(key, Node::Text { text, .. } if text == "<<") && self.is_plain(position)
    }

    /// `key: &anchor`.
    fn has_anchor(&self, node: &Node, key: &str) -> bool {
        let Some(rest) = self.offset(node).and_then(|offset| self.text.get(offset.saturating_add(key.chars().count())..)) else {
            return false;
        };
        let rest = rest.trim_start_matches(['"', '\'', ' ']);
        rest.strip_prefix(':').is_some_and(|rest| rest.trim_start_matches([' ', '\t']).starts_with('&'))
    }

    fn build(&mut self, node: &Node, positions: &Node, path: &mut Path) -> Value {
        match (node, positions) {
            (Node::Scalar(value), _) => value.clone(),
            (Node::Number { spelled }, _) => scalar::resolve(spelled).unwrap_or_else(|| Value::String(spelled.clone())),
            (Node::Text { text, .. }, _) => {
                let resolved = if self.is_plain(positions) { scalar::resolve(text) } else { None };
                resolved.unwrap_or_else(|| Value::String(text.clone()))
            }
            (Node::Seq(items), at) => Value::Array(self.build_list(items, at, path)),
            (Node::Map(entries), at) => Value::Object(self.build_map(entries, at, path)),
        }
    }

    fn build_list(&mut self, items: &[Node], positions: &Node, path: &mut Path) -> Vec<Value> {
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let at = match positions {
                Node::Seq(positions) => positions.get(index).unwrap_or(item),
                _ => item,
            };
            path.push(index.to_string());
            let first_key = match at {
                Node::Map(entries) => entries.first().map_or(at, |(key, _)| key),
                other => other,
            };
            self.parsed.lines.record(path, self.line(first_key));
            list.push(self.build(item, at, path));
            path.pop();
        }
        list
    }

    fn build_map(&mut self, entries: &[(Node, Node)], positions: &Node, path: &mut Path) -> Map<String, Value> {
        let places: &[(Node, Node)] = match positions {
            Node::Map(places) if places.len() == entries.len() => places,
            _ => entries,
        };
        let mut map = Map::new();
        // Merged keys come first, so that the mapping's own keys win, in value, order and line.
        for ((key, value), (key_at, value_at)) in entries.iter().zip(places) {
            if self.is_merge(key, key_at) && !self.merge(value, value_at, path, &mut map) {
                let line = self.line(key_at);
                self.error
                    .get_or_insert(SyntaxError { line, message: "a merge key `<<` needs a mapping or a list of mappings".to_owned() });
            }
        }
        let mut seen = BTreeSet::new();
        for ((key, value), (key_at, value_at)) in entries.iter().zip(places) {
            if self.is_merge(key, key_at) {
                continue;
            }
            let name = key_text(key);
            let line = self.line(key_at);
            path.push(name.clone());
            if !seen.insert(name.clone()) {
                self.parsed.repeated.push((path.clone(), line));
            }
            self.parsed.lines.record(path, line);
            if self.has_anchor(key_at, &name) {
                self.parsed.anchored.insert(path.clone());
            }
            let built = self.build(value, value_at, path);
            map.insert(name, built);
            path.pop();
        }
        map
    }

    fn merge(&mut self, value: &Node, positions: &Node, path: &mut Path, into: &mut Map<String, Value>) -> bool {
        match value {
            Node::Map(entries) => {
                let merged = self.build_map(entries, positions, path);
                into.extend(merged);
                true
            }
            Node::Seq(items) => {
                // The first of the list wins: it is applied last.
                items.iter().enumerate().rev().all(|(index, item)| {
                    let at = match positions {
                        Node::Seq(places) => places.get(index).unwrap_or(item),
                        _ => item,
                    };
                    matches!(item, Node::Map(_)) && self.merge(item, at, path, into)
                })
            }
            Node::Scalar(Value::Null) => true,
            _ => false,
        }
    }
}

fn key_text(key: &Node) -> String {
    match key {
        Node::Text { text, .. } => text.clone(),
        Node::Number { spelled } => spelled.clone(),
        Node::Scalar(Value::String(text)) => text.clone(),
        Node::Scalar(value) => value.to_string(),
        Node::Seq(_) | Node::Map(_) => "?".to_owned(),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Number(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Number(value.into())))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(value.to_string())))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(value.to_string())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        // Infinity has no JSON form.
        Ok(Node::Scalar(Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number)))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Node, E> {
        Ok(Node::Text { text: text.to_owned(), at: Some(text.as_ptr() as usize) })
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text { text: text.to_owned(), at: None })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }

    /// A value with a tag of its own (`!thing value`); the tag has no meaning here.
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Node, A::Error> {
        let (tag, content): (String, _) = data.variant()?;
        let node = content.newtype_variant()?;
        if tag.is_empty() {
            return Err(A::Error::custom("an empty tag"));
        }
        Ok(node)
    }
}

/// The second pass: the shape is known, numbers are asked for as text.
struct Again<'n>(&'n Node);

impl<'de> DeserializeSeed<'de> for Again<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        match self.0 {
            Node::Scalar(Value::Number(_)) => deserializer.deserialize_str(self),
            Node::Seq(_) => deserializer.deserialize_seq(self),
            Node::Map(_) => deserializer.deserialize_map(self),
            _ => deserializer.deserialize_any(NodeVisitor),
        }
    }
}

impl<'de> Visitor<'de> for Again<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the same value as before")
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Number { spelled: text.to_owned() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let Node::Seq(items) = self.0 else { return Err(A::Error::custom("no list")) };
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            list.push(seq.next_element_seed(Again(item))?.ok_or_else(|| A::Error::custom("shorter than before"))?);
        }
        Ok(Node::Seq(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let Node::Map(entries) = self.0 else { return Err(A::Error::custom("no mapping")) };
        let mut list = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            list.push(map.next_entry_seed(Again(key), Again(value))?.ok_or_else(|| A::Error::custom("shorter than before"))?);
        }
        Ok(Node::Map(list))
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use serde_json::json;

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(str::to_owned).collect()
    }

    #[test]
    fn booleans_of_yaml_1_1_are_read_unless_quoted() {
        let parsed = parse("a: on\nb: 'on'\nc: No\nd: \"off\"\ne: y\nf: [yes, 'yes']\ng: {h: OFF}\n").unwrap();
        assert_eq!(parsed.value, json!({"a": true, "b": "on", "c": false, "d": "off", "e": "y", "f": [true, "yes"], "g": {"h": false}}));
    }

    #[test]
    fn positions_survive_characters_beyond_ascii() {
        let parsed = parse("# größe → ü\na: 'ö'\nb: on\nc:\n  d: \"on\"\n").unwrap();
        assert_eq!(parsed.value, json!({"a": "ö", "b": true, "c": {"d": "on"}}));
        assert_eq!(parsed.lines.get(&path("c.d")), Some(5));
    }

    #[test]
    fn merge_keys_and_anchors() {
        let text = "x: &x {a: 1, b: 2}\ny: &y\n  b: 3\n  c: 4\nz:\n  <<: [*x, *y]\n  c: 5\nw:\n  d: 6\n  <<: *y\n";
        let parsed = parse(text).unwrap();
        assert_eq!(parsed.value["z"], json!({"b": 2, "c": 5, "a": 1}));
        assert_eq!(parsed.value["w"], json!({"b": 3, "c": 4, "d": 6}));
        assert_eq!(parsed.lines.get(&path("z.a")), Some(1));
        assert_eq!(parsed.lines.get(&path("z.c")), Some(7));
        assert!(parsed.anchored.contains(&path("x")) && !parsed.anchored.contains(&path("z")));
        let error = parse("a:\n  <<: 5\n").unwrap_err();
        assert_eq!(error.line, Some(2));
    }

    #[test]
    fn the_last_of_repeated_keys_counts() {
        let parsed = parse("a: 1\nb:\n  c: 2\n  c: 3\na: 4\n").unwrap();
        assert_eq!(parsed.value, json!({"a": 4, "b": {"c": 3}}));
        assert_eq!(parsed.repeated, vec![(path("b.c"), Some(4)), (path("a"), Some(5))]);
        assert_eq!(parsed.lines.get(&path("a")), Some(5));
    }

    #[test]
    fn broken_text_is_an_error_with_its_line() {
        let error = parse("a: 1\nb: [1, 2\nc: }\n").unwrap_err();
        assert!(error.line.is_some() && error.message.starts_with("not valid YAML"), "{error:?}");
        assert!(parse("a: *nothing\n").is_err());
        assert!(parse("a: 1\n---\nb: 2\n").is_err());
        assert_eq!(parse("").unwrap().value, serde_json::Value::Null);
        assert!(parse("a: !thing 5\n").is_ok());
        assert!(parse(&"[".repeat(5_000)).is_err());
    }
}
