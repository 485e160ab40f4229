//! Writing YAML as PyYAML's `safe_dump` does in block style: what YAML 1.1 would read as something else is quoted (`'on'`), which serde's
//! writer does not do.

use serde_json::Value;

use super::yaml;

/// A value as a block of YAML, with a line end. Keys stay in their order.
#[must_use]
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(value, 0, &mut out),
        Value::Array(list) if !list.is_empty() => block(value, 0, &mut out),
        scalar => out.push_str(&format!("{}\n", inline(scalar))),
    }
    out
}

fn block(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (index, (name, value)) in map.iter().enumerate() {
                // The first key of a list item follows its dash.
                let pad = if index == 0 && out.ends_with("- ") { "" } else { &pad };
                out.push_str(&format!("{pad}{}:", text(name)));
                below(value, indent, out);
            }
        }
        Value::Array(list) => {
            for (index, item) in list.iter().enumerate() {
                let pad = if index == 0 && out.ends_with("- ") { "" } else { &pad };
                out.push_str(&format!("{pad}- "));
                match item {
                    Value::Object(map) if !map.is_empty() => block(item, indent + 2, out),
                    Value::Array(list) if !list.is_empty() => block(item, indent + 2, out),
                    scalar => out.push_str(&format!("{}\n", inline(scalar))),
                }
            }
        }
        scalar => out.push_str(&format!("{pad}{}\n", inline(scalar))),
    }
}

/// What follows `key:`.
fn below(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(value, indent + 2, out);
        }
        // A list stands under its key without further indentation, as PyYAML writes it.
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            block(value, indent, out);
        }
        scalar => out.push_str(&format!(" {}\n", inline(scalar))),
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        Value::String(value) => text(value),
        other => other.to_string(),
    }
}

/// Plain where that reads back as the same text, else in quotes.
fn text(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    if text.chars().any(|c| c.is_control() || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}')) {
        // JSON's escapes are YAML's.
        return Value::from(text).to_string();
    }
    format!("'{}'", text.replace('\'', "''"))
}

fn is_plain(text: &str) -> bool {
    let word = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/' | b'.'));
    if word && text.len() > 5 && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/') {
        // Most texts; no word of YAML is that long.
        return true;
    }
    let is_date = text.get(..5).is_some_and(|start| start[..4].bytes().all(|byte| byte.is_ascii_digit()) && start.ends_with('-'));
    if is_date || matches!(text, "y" | "Y" | "n" | "N" | "=" | "<<" | "") || text.contains('\n') {
        return false;
    }
    let same = |value: Option<&Value>| value.and_then(Value::as_str) == Some(text);
    yaml::parse(&format!("- {text}\n")).is_ok_and(|parsed| same(parsed.value.get(0)))
        && yaml::parse(&format!("k: {text}\n")).is_ok_and(|parsed| same(parsed.value.get("k")))
        && yaml::parse(&format!("{text}: k\n")).is_ok_and(|parsed| parsed.value.get(text).is_some())
}

#[cfg(test)]
mod tests {
    use super::to_yaml;
    use crate::config::yaml;
    use serde_json::json;

    #[test]
    fn looks_like_pyyaml() {
        let value =
            json!({"a": {"b": "on", "c": [1, {"d": "x", "e": []}, [2, 3]], "f": {}}, "g": null, "h": "it's: 'q'", "i": "10", "j": "a b"});
        let expected =
            "a:\n  b: 'on'\n  c:\n  - 1\n  - d: x\n    e: []\n  - - 2\n    - 3\n  f: {}\ng: null\nh: 'it''s: ''q'''\ni: '10'\nj: a b\n";
        assert_eq!(to_yaml(&value), expected);
        assert_eq!(to_yaml(&json!("x")), "x\n");
    }

    #[test]
    fn reads_back_as_it_was() {
        let texts = [
            "",
            " ",
            "on",
            "No",
            "~",
            "null",
            "1",
            "1.5",
            "1e3",
            "0640",
            "1:30",
            "0x1F",
            "a: b",
            "a #b",
            "#FIXME",
            "- x",
            "-",
            "?",
            "*",
            "&a",
            "!t",
            "%",
            "@",
            "`",
            "'",
            "\"",
            "a\nb",
            "\t",
            "ü",
            "{a}",
            "[a",
            "a,b",
            "x:",
            ":x",
            "<<",
            "=",
            "2020-01-01",
            "y",
            "true",
            ".inf",
            "|",
            ">",
            "a  b",
            "é: on",
            "\u{1}",
            "---",
            "...",
            "key: value, other",
            "\\d+",
            "\u{feff}x",
            "--max-rate=1",
        ];
        for text in texts {
            for value in [json!({"k": text}), json!([text]), json!({text: 1}), json!([{text: [text]}])] {
                let out = to_yaml(&value);
                assert_eq!(yaml::parse(&out).unwrap_or_else(|error| panic!("{out:?}: {error:?}")).value, value, "{out}");
            }
        }
    }
}
