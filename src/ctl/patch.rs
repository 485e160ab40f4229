//! Changing a configuration document the way operators are used to: dotted paths, and merging of mappings.

use serde_json::{Map, Value};

/// Applies `key.path=value`; the value is already parsed. Null removes the key, and mappings that become empty go with it.
/// Below `postgresql.parameters` the rest of the path is one name: PostgreSQL's own parameters have dots.
pub fn set_path(document: &mut Map<String, Value>, path: &str, value: Value) {
    let parts: Vec<&str> = path.trim().split('.').collect();
    set(document, &parts, value, 0, &parts);
}

fn set(map: &mut Map<String, Value>, path: &[&str], value: Value, depth: usize, whole: &[&str]) {
    let flat = depth == 2 && whole.starts_with(&["postgresql", "parameters"]);
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() || flat {
        let key = if flat { path.join(".") } else { (*first).to_owned() };
        if value.is_null() {
            map.shift_remove(&key);
        } else {
            map.insert(key, value);
        }
        return;
    }
    let entry = map.entry(*first).or_insert_with(|| Value::Object(Map::new()));
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    if let Value::Object(inner) = entry {
        set(inner, rest, value, depth + 1, whole);
        if inner.is_empty() {
            map.shift_remove(*first);
        }
    }
}

/// Merges `change` into `document`: null removes, mappings are merged, scalars are compared by their text so that `"101"` does not replace 101.
/// Where the document has no such key, the value is taken as it is, nulls inside included.
pub fn merge(document: &mut Map<String, Value>, change: &Map<String, Value>) {
    for (key, value) in change {
        if value.is_null() {
            document.shift_remove(key);
            continue;
        }
        match (document.get_mut(key), value) {
            (Some(Value::Object(inner)), Value::Object(change)) => merge(inner, change),
            (Some(current), value) => {
                if value.is_object() || text(current) != text(value) {
                    *current = value.clone();
                }
            }
            (None, value) => {
                document.insert(key.clone(), value.clone());
            }
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{merge, set_path};
    use serde_json::{json, Map, Value};

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn paths_are_set_and_removed() {
        let mut document = map(json!({"ttl": 20, "postgresql": {"parameters": {"max_connections": 50}}, "x": 1}));
        set_path(&mut document, "ttl", json!(30));
        set_path(&mut document, "postgresql.parameters.pg_stat_statements.max", json!(10));
        set_path(&mut document, "x.y.z", json!(true));
        set_path(&mut document, "none.such", Value::Null);
        let expected = json!({"ttl": 30, "postgresql": {"parameters": {"max_connections": 50, "pg_stat_statements.max": 10}}, "x": {"y": {"z": true}}});
        assert_eq!(Value::Object(document.clone()), expected);
        set_path(&mut document, "postgresql.parameters.pg_stat_statements.max", Value::Null);
        set_path(&mut document, "postgresql.parameters.max_connections", Value::Null);
        assert_eq!(Value::Object(document), json!({"ttl": 30, "x": {"y": {"z": true}}}));
    }

    #[test]
    fn documents_are_merged() {
        let mut document = map(json!({"ttl": 20, "a": {"b": 101, "c": 2}, "list": [1]}));
        merge(&mut document, &map(json!({"ttl": null, "a": {"b": "101", "c": null}, "new": {"d": null}, "list": {"e": 1}})));
        assert_eq!(Value::Object(document), json!({"a": {"b": 101}, "list": {"e": 1}, "new": {"d": null}}));
    }
}
