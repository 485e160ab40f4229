//! PostgreSQL parameters: which ones the agent controls, and how local, dynamic and default values become one set.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::units::{parse_bool, parse_int};

/// How a controlled parameter is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// Comes from `listen` and `scope`.
    Fixed,
    /// `hot_standby`: only on.
    AlwaysOn,
    /// `wal_level`: at least replica.
    Level,
    Bool,
    /// An integer of at least this; a size in MB if it has a unit.
    Int(i64, &'static str),
}

/// A parameter that must be the same on all members, or that is the agent's own.
#[derive(Debug)]
pub(crate) struct Rule {
    name: &'static str,
    default: &'static str,
    check: Check,
}

const fn rule_of(name: &'static str, default: &'static str, check: Check) -> Rule {
    Rule { name, default, check }
}

/// Reference 11. `wal_keep_size` has no default of its own: it is made of `wal_keep_segments` where it is not given.
const RULES: &[Rule] = &[
    rule_of("listen_addresses", "", Check::Fixed),
    rule_of("port", "", Check::Fixed),
    rule_of("cluster_name", "", Check::Fixed),
    rule_of("wal_level", "replica", Check::Level),
    rule_of("hot_standby", "on", Check::AlwaysOn),
    rule_of("max_connections", "100", Check::Int(25, "")),
    rule_of("max_wal_senders", "10", Check::Int(3, "")),
    rule_of("wal_keep_segments", "8", Check::Int(1, "")),
    rule_of("wal_keep_size", "128MB", Check::Int(16, "MB")),
    rule_of("max_prepared_transactions", "0", Check::Int(0, "")),
    rule_of("max_locks_per_transaction", "64", Check::Int(32, "")),
    rule_of("track_commit_timestamp", "off", Check::Bool),
    rule_of("max_replication_slots", "10", Check::Int(4, "")),
    rule_of("max_worker_processes", "8", Check::Int(2, "")),
    rule_of("wal_log_hints", "on", Check::Bool),
];

const RECOVERY: &[&str] = &[
    "archive_cleanup_command",
    "pause_at_recovery_target",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restore_command",
    "standby_mode",
    "trigger_file",
];

/// Set for each standby by the agent: never taken from the configuration.
const RECOVERY_OWN: &[&str] = &["primary_conninfo", "primary_slot_name", "standby_mode"];

/// The rule for a parameter, if it is a controlled one. Names of parameters know no case.
pub(crate) fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name.eq_ignore_ascii_case(name))
}

/// Names of the controlled parameters that are passed on the postmaster's command line, so that `ALTER SYSTEM` cannot change them.
#[must_use]
pub fn command_line_names() -> Vec<&'static str> {
    RULES.iter().map(|rule| rule.name).filter(|name| !name.starts_with("wal_keep_")).collect()
}

/// The controlled parameters with their defaults, as a first dynamic configuration spells them out.
pub(crate) fn defaults() -> impl Iterator<Item = (&'static str, &'static str)> {
    RULES.iter().filter(|rule| rule.check != Check::Fixed && rule.name != "wal_keep_segments").map(|rule| (rule.name, rule.default))
}

/// Whether a name is a recovery setting.
#[must_use]
pub fn is_recovery_setting(name: &str) -> bool {
    RECOVERY.iter().any(|known| known.eq_ignore_ascii_case(name))
}

impl Rule {
    /// Why a local value of it is ignored.
    pub(crate) fn why_not_local(&self) -> &'static str {
        match self.check {
            Check::Fixed => "ignored: it comes from postgresql.listen and scope",
            Check::AlwaysOn => "ignored: it is always on",
            _ => "ignored here: it must be equal on all members; set it in the dynamic configuration (edit-config)",
        }
    }

    /// The value as PostgreSQL's text, if it is a good one.
    fn accept(&self, value: &Value) -> Option<String> {
        match self.check {
            Check::Fixed => None,
            Check::AlwaysOn => (parse_bool(value)?).then(|| "on".to_owned()),
            Check::Level => match value.as_str()?.to_ascii_lowercase().as_str() {
                "hot_standby" | "replica" => Some("replica".to_owned()),
                "logical" => Some("logical".to_owned()),
                _ => None,
            },
            Check::Bool => Some(if parse_bool(value)? { "on" } else { "off" }.to_owned()),
            Check::Int(min, unit) => {
                parse_int(value, unit).filter(|number| *number >= min)?;
                parse_int(value, "").map(|number| number.to_string()).or_else(|| value.as_str().map(|text| text.trim().to_owned()))
            }
        }
    }
}

/// A value of a parameter as PostgreSQL's text; `None` for null, which takes the parameter out.
pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Bool(true) => Some("on".to_owned()),
        Value::Bool(false) => Some("off".to_owned()),
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(items) => Some(items.iter().filter_map(text).collect::<Vec<_>>().join(",")),
        Value::Object(_) => None,
    }
}

/// Parameters and recovery settings, merged.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Merged {
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) recovery: BTreeMap<String, String>,
}

/// Merges defaults, dynamic and local parameters. `recovery_conf` is the section of that name; recovery settings among the parameters
/// win over it.
pub(crate) fn merge(
    dynamic: Option<&Map<String, Value>>,
    local: Option<&Map<String, Value>>,
    recovery_conf: Option<&Map<String, Value>>,
    warnings: &mut Vec<String>,
) -> Merged {
    let mut out = Merged::default();
    for rule in RULES.iter().filter(|rule| rule.check != Check::Fixed && !rule.name.starts_with("wal_keep_")) {
        out.parameters.insert(rule.name.to_owned(), rule.default.to_owned());
    }
    for (name, value) in dynamic.into_iter().flatten() {
        match rule(name) {
            None => put(&mut out.parameters, name, value, warnings),
            Some(_) if value.is_null() => {}
            Some(rule) => match rule.accept(value) {
                Some(text) => {
                    out.parameters.insert(rule.name.to_owned(), text);
                }
                None if rule.check == Check::Fixed => {
                    warnings.push(format!("postgresql parameter {} in the dynamic configuration is {}", rule.name, rule.why_not_local()));
                }
                None => {
                    let shown = text(value).unwrap_or_default();
                    let default = rule.default;
                    warnings.push(format!("postgresql parameter {}={shown} failed validation, defaulting to {default}", rule.name));
                }
            },
        }
    }
    // Local values of controlled parameters were reported when the file was read.
    for (name, value) in local.into_iter().flatten().filter(|(name, _)| rule(name).is_none()) {
        put(&mut out.parameters, name, value, warnings);
    }
    wal_keep(&mut out.parameters);
    for (name, value) in recovery_conf.into_iter().flatten() {
        put(&mut out.recovery, name, value, warnings);
    }
    move_recovery(&mut out, warnings);
    out
}

/// Sets one value; another spelling of the same name goes.
fn put(into: &mut BTreeMap<String, String>, name: &str, value: &Value, warnings: &mut Vec<String>) {
    into.retain(|old, _| !old.eq_ignore_ascii_case(name));
    if value.is_object() {
        warnings.push(format!("postgresql parameter {name} is a map, not a value, and is left out"));
        return;
    }
    let Some(text) = text(value) else { return };
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$' | '-')) {
        warnings.push(format!("'{}' is no name of a postgresql parameter and is left out", name.escape_debug()));
        return;
    }
    into.insert(name.to_owned(), text);
}

/// PostgreSQL 13 and newer know `wal_keep_size` only; a segment is taken for 16 MB.
fn wal_keep(parameters: &mut BTreeMap<String, String>) {
    let segments = parameters.remove("wal_keep_segments").and_then(|text| text.parse::<i64>().ok()).unwrap_or(8);
    parameters.entry("wal_keep_size".to_owned()).or_insert_with(|| format!("{}MB", segments.saturating_mul(16)));
}

fn move_recovery(out: &mut Merged, warnings: &mut Vec<String>) {
    let moved: Vec<String> = out.parameters.keys().filter(|name| is_recovery_setting(name)).cloned().collect();
    for name in moved {
        if let Some(value) = out.parameters.remove(&name) {
            out.recovery.insert(name.to_ascii_lowercase(), value);
        }
    }
    out.recovery.retain(|name, _| {
        let own = RECOVERY_OWN.iter().any(|own| own.eq_ignore_ascii_case(name));
        let target = name.to_ascii_lowercase().starts_with("recovery_target");
        if own || target {
            warnings.push(format!("recovery setting {name} is ignored: the agent sets it for each standby"));
        }
        !own && !target
    });
    if let Some(file) = out.recovery.remove("trigger_file") {
        out.recovery.entry("promote_trigger_file".to_owned()).or_insert(file);
    }
}

#[cfg(test)]
mod tests {
    use super::merge;
    use serde_json::{json, Value};

    fn merged(dynamic: &Value, local: &Value, recovery: &Value) -> (super::Merged, Vec<String>) {
        let mut warnings = Vec::new();
        let out = merge(dynamic.as_object(), local.as_object(), recovery.as_object(), &mut warnings);
        (out, warnings)
    }

    #[test]
    fn defaults_are_patronis() {
        let (out, warnings) = merged(&json!(null), &json!(null), &json!(null));
        assert!(warnings.is_empty());
        assert_eq!(
            serde_json::to_value(&out.parameters).unwrap(),
            json!({"hot_standby": "on", "max_connections": "100", "max_locks_per_transaction": "64", "max_prepared_transactions": "0",
                "max_replication_slots": "10", "max_wal_senders": "10", "max_worker_processes": "8", "track_commit_timestamp": "off",
                "wal_keep_size": "128MB", "wal_level": "replica", "wal_log_hints": "on"})
        );
    }

    #[test]
    fn controlled_ones_come_from_the_dynamic_configuration() {
        let dynamic = json!({"max_connections": "50", "Max_WAL_senders": 2, "wal_level": "HOT_STANDBY", "hot_standby": "off", "port": 1,
            "wal_keep_segments": 4, "wal_log_hints": true, "work_mem": "4MB", "shared_buffers": null});
        let (out, warnings) = merged(&dynamic, &json!({"max_connections": 500, "WORK_MEM": "8MB", "fsync": false}), &json!(null));
        let get = |name: &str| out.parameters.get(name).map(String::as_str);
        assert_eq!(get("max_connections"), Some("50"));
        assert_eq!(get("max_wal_senders"), Some("10"));
        assert_eq!(get("wal_level"), Some("replica"));
        assert_eq!(get("hot_standby"), Some("on"));
        assert_eq!(get("wal_keep_size"), Some("64MB"));
        assert_eq!((get("work_mem"), get("WORK_MEM"), get("fsync")), (None, Some("8MB"), Some("off")));
        assert_eq!(get("shared_buffers"), None);
        assert!(
            warnings.iter().any(|text| text == "postgresql parameter max_wal_senders=2 failed validation, defaulting to 10"),
            "{warnings:?}"
        );
        assert_eq!(warnings.len(), 3, "{warnings:?}");
    }

    #[test]
    fn wal_keep_size_wins_over_segments() {
        let (out, _) = merged(&json!({"wal_keep_size": "1GB", "wal_keep_segments": 4}), &json!(null), &json!(null));
        assert_eq!(out.parameters["wal_keep_size"], "1GB");
        let (out, _) = merged(&json!({"wal_keep_size": 256}), &json!(null), &json!(null));
        assert_eq!(out.parameters["wal_keep_size"], "256");
        let (out, warnings) = merged(&json!({"wal_keep_size": "1MB"}), &json!(null), &json!(null));
        assert_eq!((out.parameters["wal_keep_size"].as_str(), warnings.len()), ("128MB", 1));
    }

    #[test]
    fn recovery_settings_are_moved() {
        let (out, warnings) = merged(
            &json!({"restore_command": "cp a b", "recovery_target_time": "now"}),
            &json!({"recovery_min_apply_delay": 5}),
            &json!({"restore_command": "old", "primary_conninfo": "x", "trigger_file": "/t"}),
        );
        let recovery = serde_json::to_value(&out.recovery).unwrap();
        assert_eq!(recovery, json!({"restore_command": "cp a b", "recovery_min_apply_delay": "5", "promote_trigger_file": "/t"}));
        assert!(!out.parameters.contains_key("restore_command"));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }
}
