//! YAML as PyYAML's `safe_dump` writes it (keys sorted, 200 columns, unicode kept), because operators and scripts diff these texts.
//!
//! The algorithm is PyYAML's: a scalar is analysed once, its style is chosen from that and from the place where it stands.

use serde_json::{Map, Value};

use super::yaml_scalar::{analyse, is_break, is_implicit_other_type, Analysis};

const WIDTH: usize = 200;
const INDENT: usize = 2;

/// Block style, the form for people. Ends with a line break.
#[must_use]
pub fn block(value: &Value) -> String {
    dump(value, false)
}

/// Flow style, one line unless it is very long. Ends with a line break.
#[must_use]
pub fn flow(value: &Value) -> String {
    dump(value, true)
}

fn dump(value: &Value, flow: bool) -> String {
    let mut emitter =
        Emitter { out: String::new(), column: 0, whitespace: true, indention: true, indents: Vec::new(), flow_level: 0, all_flow: flow };
    emitter.node(value, Place::Root);
    if matches!(value, Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) {
        emitter.out.push_str("\n...");
    }
    emitter.out.push('\n');
    emitter.out
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Item,
    /// The value of a mapping, or a key that needs `?`.
    Value,
    Key,
}

struct Emitter {
    out: String,
    column: usize,
    /// The last thing written was white space.
    whitespace: bool,
    /// Only indentation was written on this line so far.
    indention: bool,
    indents: Vec<usize>,
    flow_level: usize,
    all_flow: bool,
}

impl Emitter {
    fn put(&mut self, text: &str) {
        self.column += text.chars().count();
        self.out.push_str(text);
    }

    fn indicator(&mut self, text: &str, need_whitespace: bool, whitespace: bool, indention: bool) {
        if need_whitespace && !self.whitespace {
            self.put(" ");
        }
        self.whitespace = whitespace;
        self.indention = self.indention && indention;
        self.put(text);
    }

    fn line_break(&mut self, text: &str) {
        self.whitespace = true;
        self.indention = true;
        self.column = 0;
        self.out.push_str(text);
    }

    fn write_indent(&mut self) {
        let indent = self.indents.last().copied().unwrap_or(0);
        if !self.indention || self.column > indent || (self.column == indent && !self.whitespace) {
            self.line_break("\n");
        }
        if self.column < indent {
            self.whitespace = true;
            self.put(&" ".repeat(indent - self.column));
        }
    }

    fn push_indent(&mut self, flow: bool, indentless: bool) {
        let next = match self.indents.last() {
            None if flow => INDENT,
            None => 0,
            Some(indent) if indentless => *indent,
            Some(indent) => indent + INDENT,
        };
        self.indents.push(next);
    }

    fn node(&mut self, value: &Value, place: Place) {
        match value {
            Value::Object(map) if self.all_flow || self.flow_level > 0 || map.is_empty() => self.flow_mapping(map),
            Value::Object(map) => self.block_mapping(map),
            Value::Array(items) if self.all_flow || self.flow_level > 0 || items.is_empty() => self.flow_sequence(items),
            Value::Array(items) => self.block_sequence(items, place),
            Value::String(text) => self.string(text, place),
            Value::Null => self.plain("null", true),
            Value::Bool(flag) => self.plain(if *flag { "true" } else { "false" }, true),
            Value::Number(number) => self.plain(&yaml_number(&super::json::number_text(number)), true),
        }
    }

    fn block_sequence(&mut self, items: &[Value], place: Place) {
        self.push_indent(false, place == Place::Value && !self.indention);
        for item in items {
            self.write_indent();
            self.indicator("-", true, false, true);
            self.node(item, Place::Item);
        }
        self.indents.pop();
    }

    fn block_mapping(&mut self, map: &Map<String, Value>) {
        self.push_indent(false, false);
        for (key, value) in sorted(map) {
            self.write_indent();
            if is_simple_key(key) {
                self.string(key, Place::Key);
                self.indicator(":", false, false, false);
            } else {
                self.indicator("?", true, false, true);
                self.string(key, Place::Value);
                self.write_indent();
                self.indicator(":", true, false, true);
            }
            self.node(value, Place::Value);
        }
        self.indents.pop();
    }

    fn flow_sequence(&mut self, items: &[Value]) {
        self.indicator("[", true, true, false);
        self.flow_level += 1;
        self.push_indent(true, false);
        for (at, item) in items.iter().enumerate() {
            self.flow_separator(at);
            self.node(item, Place::Item);
        }
        self.indents.pop();
        self.flow_level -= 1;
        self.indicator("]", false, false, false);
    }

    fn flow_mapping(&mut self, map: &Map<String, Value>) {
        self.indicator("{", true, true, false);
        self.flow_level += 1;
        self.push_indent(true, false);
        for (at, (key, value)) in sorted(map).into_iter().enumerate() {
            self.flow_separator(at);
            if is_simple_key(key) {
                self.string(key, Place::Key);
                self.indicator(":", false, false, false);
            } else {
                self.indicator("?", true, false, false);
                self.string(key, Place::Value);
                if self.column > WIDTH {
                    self.write_indent();
                }
                self.indicator(":", true, false, false);
            }
            self.node(value, Place::Value);
        }
        self.indents.pop();
        self.flow_level -= 1;
        self.indicator("}", false, false, false);
    }

    fn flow_separator(&mut self, at: usize) {
        if at > 0 {
            self.indicator(",", false, false, false);
        }
        if self.column > WIDTH {
            self.write_indent();
        }
    }

    fn string(&mut self, text: &str, place: Place) {
        let analysis = analyse(text);
        let key = place == Place::Key;
        // A plain or quoted scalar that is broken over lines is indented deeper than what it belongs to.
        self.push_indent(true, false);
        match style(text, &analysis, key, self.flow_level > 0) {
            Style::Plain => self.plain(text, !key),
            Style::Single => self.single_quoted(text, !key),
            Style::Double => self.double_quoted(text, !key),
        }
        self.indents.pop();
    }

    fn plain(&mut self, text: &str, split: bool) {
        if text.is_empty() {
            return;
        }
        if !self.whitespace {
            self.put(" ");
        }
        self.whitespace = false;
        self.indention = false;
        for piece in pieces(text) {
            if piece == " " && self.column > WIDTH && split {
                self.write_indent();
                self.whitespace = false;
                self.indention = false;
            } else {
                self.put(piece);
            }
        }
    }

    fn single_quoted(&mut self, text: &str, split: bool) {
        self.indicator("'", true, false, false);
        let all = pieces(text);
        for (at, piece) in all.iter().enumerate() {
            let inner = at > 0 && at + 1 < all.len();
            if *piece == " " && self.column > WIDTH && split && inner {
                self.write_indent();
            } else if piece.starts_with(is_break) {
                if piece.starts_with('\n') {
                    self.line_break("\n");
                }
                for c in piece.chars() {
                    self.line_break(c.encode_utf8(&mut [0; 4]));
                }
                self.write_indent();
            } else {
                self.put(&piece.replace('\'', "''"));
            }
        }
        self.indicator("'", false, false, false);
    }

    fn double_quoted(&mut self, text: &str, split: bool) {
        self.indicator("\"", true, false, false);
        let chars: Vec<char> = text.chars().collect();
        let mut start = 0;
        for end in 0..=chars.len() {
            let here = chars.get(end).copied();
            if here.is_none_or(needs_escape) {
                if start < end {
                    self.put(&chars[start..end].iter().collect::<String>());
                    start = end;
                }
                if let Some(c) = here {
                    self.put(&escape(c));
                    start = end + 1;
                }
            }
            let inner = end > 0 && end + 1 < chars.len();
            if inner && (here == Some(' ') || start >= end) && self.column + end > WIDTH + start && split {
                let mut data: String = chars.get(start..end).unwrap_or(&[]).iter().collect();
                data.push('\\');
                start = start.max(end);
                self.put(&data);
                self.write_indent();
                self.whitespace = false;
                self.indention = false;
                if chars.get(start) == Some(&' ') {
                    self.put("\\");
                }
            }
        }
        self.indicator("\"", false, false, false);
    }
}

/// Runs of spaces, runs of line breaks, and what is between them.
fn pieces(text: &str) -> Vec<&str> {
    let kind = |c: char| if c == ' ' { 0 } else { 1 + u8::from(is_break(c)) };
    let mut all = Vec::new();
    let mut start = 0;
    let mut last = None;
    for (at, c) in text.char_indices() {
        if last.is_some_and(|last| last != kind(c)) {
            all.push(&text[start..at]);
            start = at;
        }
        last = Some(kind(c));
    }
    if start < text.len() {
        all.push(&text[start..]);
    }
    all
}

fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut all: Vec<_> = map.iter().collect();
    all.sort_by(|left, right| left.0.chars().cmp(right.0.chars()));
    all
}

/// The original counts the tag `!!str` as part of a key's length.
fn is_simple_key(key: &str) -> bool {
    key.chars().count() + 5 < 128 && !key.is_empty() && !key.contains(is_break)
}

enum Style {
    Plain,
    Single,
    Double,
}

fn style(text: &str, analysis: &Analysis, key: bool, in_flow: bool) -> Style {
    let plain_here = if in_flow { analysis.flow_plain } else { analysis.block_plain };
    if !is_implicit_other_type(text) && plain_here && !(key && (text.is_empty() || analysis.multiline)) {
        Style::Plain
    } else if analysis.single_quoted && !(key && analysis.multiline) {
        Style::Single
    } else {
        Style::Double
    }
}

fn yaml_number(text: &str) -> String {
    if text.contains('.') {
        text.to_owned()
    } else {
        text.replacen('e', ".0e", 1)
    }
}

fn needs_escape(c: char) -> bool {
    matches!(c, '"' | '\\' | '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
        || !matches!(c, ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}')
}

fn escape(c: char) -> String {
    let letter = match c {
        '\0' => '0',
        '\u{7}' => 'a',
        '\u{8}' => 'b',
        '\t' => 't',
        '\n' => 'n',
        '\u{b}' => 'v',
        '\u{c}' => 'f',
        '\r' => 'r',
        '\u{1b}' => 'e',
        '"' | '\\' => c,
        '\u{85}' => 'N',
        '\u{2028}' => 'L',
        '\u{2029}' => 'P',
        other => {
            let code = u32::from(other);
            return match code {
                0..=0xFF => format!("\\x{code:02X}"),
                0x100..=0xFFFF => format!("\\u{code:04X}"),
                _ => format!("\\U{code:08X}"),
            };
        }
    };
    format!("\\{letter}")
}

#[cfg(test)]
mod tests {
    use super::{block, flow};
    use serde_json::json;

    /// Written by PyYAML 6.0.
    #[test]
    fn looks_like_pyyaml() {
        let value = json!({
            "ttl": 20, "postgresql": {"parameters": {"wal_log_hints": "on", "empty": "", "n": "12", "t": "2026-01-01", "x": "a: b", "h": "a #b",
            "star": "*", "quote": "it's", "nl": "a\nb", "tab": "a\tb", "float": 1.5, "big": 1e20, "null": null, "tilde": "~", "path": "cp %p /x/%f"},
            "pg_hba": ["local all all trust", "host all all 0.0.0.0/0 md5"], "none": [], "no": {}}, "slots": [{"a": 1, "b": [1, [2]]}]
        });
        let expected = "postgresql:\n  'no': {}\n  none: []\n  parameters:\n    big: 1.0e+20\n    empty: ''\n    float: 1.5\n    h: 'a #b'\n    \
            n: '12'\n    nl: 'a\n\n      b'\n    'null': null\n    path: cp %p /x/%f\n    quote: it's\n    star: '*'\n    t: '2026-01-01'\n    \
            tab: \"a\\tb\"\n    tilde: '~'\n    wal_log_hints: 'on'\n    x: 'a: b'\n  pg_hba:\n  - local all all trust\n  \
            - host all all 0.0.0.0/0 md5\nslots:\n- a: 1\n  b:\n  - 1\n  - - 2\nttl: 20\n";
        assert_eq!(block(&value), expected);
        assert_eq!(flow(&json!({"b": true, "a": ["x,y", "z"], "c": {}})), "{a: ['x,y', z], b: true, c: {}}\n");
    }
}
