//! Documents as Patroni writes them: compact JSON, its key order.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{json, Map, Value};

use super::format_wall;
use crate::ha::types::Lsn;
use crate::ha::view::{FailoverRequest, HistoryEntry};

/// `/status`.
#[must_use]
pub fn status(optime: Lsn, slots: &BTreeMap<String, Lsn>, retain_slots: &BTreeSet<String>) -> String {
    let slots: Map<String, Value> = slots.iter().map(|(name, lsn)| (name.clone(), Value::from(lsn.0))).collect();
    json!({ "optime": optime.0, "slots": slots, "retain_slots": retain_slots }).to_string()
}

/// `/failover`; `None` is the cleared form `{}`. What is absent is left out.
#[must_use]
pub fn failover(request: Option<&FailoverRequest>) -> String {
    let mut document = Map::new();
    if let Some(request) = request {
        let names = [("leader", &request.leader), ("member", &request.candidate)];
        for (key, name) in names {
            if let Some(name) = name {
                document.insert(key.to_owned(), Value::from(name.as_str()));
            }
        }
        if let Some(at) = request.scheduled_at {
            document.insert("scheduled_at".to_owned(), Value::from(format_wall(at)));
        }
    }
    Value::Object(document).to_string()
}

/// `/history`: one list for each line, shorter where time or leader are not known.
#[must_use]
pub fn history(entries: &[HistoryEntry]) -> String {
    let lines: Vec<Value> = entries.iter().map(history_line).collect();
    Value::Array(lines).to_string()
}

fn history_line(entry: &HistoryEntry) -> Value {
    let mut line = vec![Value::from(entry.timeline.0), Value::from(entry.lsn.0), Value::from(entry.reason.as_str())];
    if let Some(timestamp) = &entry.timestamp {
        line.push(Value::from(timestamp.as_str()));
        if let Some(leader) = &entry.new_leader {
            line.push(Value::from(leader.as_str()));
        }
    }
    Value::Array(line)
}
