//! `tags`: what is published, what the core decides by, and contradictions.

use serde_json::{Map, Value};

use super::units::{as_text, is_truthy, parse_bool, parse_int};
use crate::ha::types::MemberName;
use crate::ha::view::Tags;

/// Not published while false.
const PREDEFINED: [&str; 5] = ["clonefrom", "nofailover", "noloadbalance", "nosync", "nostream"];

/// The tags as they are published: as written, keys sorted, predefined ones left out while false (but `nofailover` stays beside
/// `failover_priority`, `nosync` beside `sync_priority`).
#[must_use]
pub fn published(tags: Option<&Map<String, Value>>) -> Map<String, Value> {
    let Some(tags) = tags else { return Map::new() };
    let kept = |(name, value): &(&String, &Value)| {
        !PREDEFINED.contains(&name.as_str())
            || is_truthy(value)
            || name.as_str() == "nofailover" && tags.contains_key("failover_priority")
            || name.as_str() == "nosync" && tags.contains_key("sync_priority")
    };
    let mut list: Vec<(&String, &Value)> = tags.iter().filter(kept).collect();
    list.sort_by_key(|(name, _)| *name);
    list.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// What the core reads out of tags, own ones or those of a member's document.
#[must_use]
pub fn typed(tags: &Map<String, Value>) -> Tags {
    let truthy = |name: &str| tags.get(name).is_some_and(is_truthy);
    Tags {
        nofailover: flag(tags, "nofailover", "failover_priority"),
        failover_priority: priority(tags, "nofailover", "failover_priority"),
        clonefrom: truthy("clonefrom"),
        nosync: flag(tags, "nosync", "sync_priority"),
        sync_priority: priority(tags, "nosync", "sync_priority"),
        noloadbalance: truthy("noloadbalance"),
        replicatefrom: tags.get("replicatefrom").and_then(as_text).filter(|name| !name.is_empty()).map(MemberName),
        // The one tag that Patroni parses: 'off' is false here.
        nostream: tags.get("nostream").is_some_and(|value| parse_bool(value).unwrap_or_else(|| is_truthy(value))),
    }
}

/// The boolean tag counts where it is given; else a priority of 0 or less.
fn flag(tags: &Map<String, Value>, flag: &str, priority: &str) -> bool {
    match tags.get(flag).filter(|value| !value.is_null()) {
        Some(value) => is_truthy(value),
        None => tags.get(priority).and_then(|value| parse_int(value, "")).is_some_and(|priority| priority <= 0),
    }
}

fn priority(tags: &Map<String, Value>, flag: &str, priority: &str) -> i64 {
    if tags.get(flag).is_some_and(is_truthy) {
        return 0;
    }
    tags.get(priority).and_then(|value| parse_int(value, "")).unwrap_or(1)
}

/// Boolean and priority that say different things, in Patroni's words.
#[must_use]
pub fn contradictions(tags: Option<&Map<String, Value>>) -> Vec<(&'static str, String)> {
    let Some(tags) = tags else { return Vec::new() };
    [("nofailover", "failover_priority"), ("nosync", "sync_priority")]
        .into_iter()
        .filter_map(|(name, priority_name)| {
            let value = tags.get(name)?;
            let priority = parse_int(tags.get(priority_name)?, "")?;
            let shown = python(value);
            (is_truthy(value) == (priority > 0)).then(|| {
                let conflict = format!("Conflicting configuration between {name}: {shown} and {priority_name}: {priority}.");
                (name, format!("{conflict} Defaulting to {name}: {shown}"))
            })
        })
        .collect()
}

/// A value as Python's `%s` prints it.
fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{contradictions, published, typed};
    use serde_json::{json, Map, Value};

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn published_tags_are_sorted_and_false_ones_left_out() {
        let tags = map(json!({"rack": "a", "nofailover": false, "clonefrom": "true", "nosync": false, "sync_priority": "2", "b": false}));
        assert_eq!(
            serde_json::to_string(&published(Some(&tags))).unwrap(),
            r#"{"b":false,"clonefrom":"true","nosync":false,"rack":"a","sync_priority":"2"}"#
        );
    }

    #[test]
    fn strings_count_as_patroni_counts_them() {
        let tags =
            typed(&map(json!({"nofailover": "false", "nosync": "", "sync_priority": "3", "nostream": "off", "replicatefrom": "n2"})));
        assert!(tags.nofailover && !tags.nosync && !tags.nostream);
        assert_eq!((tags.failover_priority, tags.sync_priority), (0, 3));
        assert_eq!(tags.replicatefrom.unwrap().as_str(), "n2");
        assert!(typed(&map(json!({"failover_priority": 0}))).nofailover);
        assert!(!typed(&map(json!({"nofailover": false, "failover_priority": 0}))).nofailover);
    }

    #[test]
    fn contradictions_have_patronis_words() {
        let found = contradictions(Some(&map(json!({"nofailover": true, "failover_priority": 1, "nosync": false, "sync_priority": "0"}))));
        assert_eq!(
            found[0].1,
            "Conflicting configuration between nofailover: True and failover_priority: 1. Defaulting to nofailover: True"
        );
        assert_eq!(found[1].1, "Conflicting configuration between nosync: False and sync_priority: 0. Defaulting to nosync: False");
        assert!(contradictions(Some(&map(json!({"nofailover": true, "failover_priority": 0})))).is_empty());
    }
}
