//! Configuration from the environment: `PATRONI_*`, and the same names with `MASTIFF_`, which are taken first.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::docs;
use super::lines::{dotted, Path};
use super::units::{as_list, parse_bool, parse_int_text};
use super::yaml;

/// In the order in which they are taken.
const PREFIXES: [&str; 2] = ["MASTIFF_", "PATRONI_"];

/// How the text of a variable becomes a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Text,
    Bool,
    Int,
    /// A YAML list, or a comma list.
    List,
    /// A YAML flow map, with or without its braces.
    Map,
    /// Text with `%(name)s`, or a list.
    LogFormat,
    /// A scalar as it would be written in the file: `false` is a boolean.
    Scalar,
}

/// A group of variables `SECTION_NAME` for keys `section.name`.
struct Group {
    variables: &'static str,
    keys: &'static str,
    names: &'static [&'static str],
    shape: Shape,
}

const fn group(variables: &'static str, keys: &'static str, shape: Shape, names: &'static [&'static str]) -> Group {
    Group { variables, keys, names, shape }
}

const USER: &[&str] = &[
    "username",
    "password",
    "sslmode",
    "sslkey",
    "sslpassword",
    "sslcert",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "sslnegotiation",
    "gssencmode",
    "channel_binding",
];

#[rustfmt::skip]
const GROUPS: &[Group] = &[
    group("", "", Shape::Text, &["name", "namespace", "scope", "thread_pool_size", "thread_stack_size"]),
    group("LOG_", "log.", Shape::Text, &["type", "level", "traceback_level", "dateformat", "dir"]),
    group("LOG_", "log.", Shape::Int, &["max_queue_size", "mode", "file_size", "file_num"]),
    group("LOG_", "log.", Shape::Map, &["static_fields", "loggers"]),
    group("LOG_", "log.", Shape::Bool, &["deduplicate_heartbeat_logs"]),
    group("LOG_", "log.", Shape::LogFormat, &["format"]),
    group("RESTAPI_", "restapi.", Shape::Text, &["listen", "connect_address", "certfile", "keyfile", "keyfile_password", "cafile", "ciphers", "verify_client", "server_tokens"]),
    group("RESTAPI_", "restapi.", Shape::Map, &["http_extra_headers", "https_extra_headers"]),
    group("RESTAPI_", "restapi.", Shape::List, &["allowlist"]),
    group("RESTAPI_", "restapi.", Shape::Bool, &["allowlist_include_members"]),
    group("RESTAPI_", "restapi.", Shape::Int, &["request_queue_size", "thread_pool_size"]),
    group("RESTAPI_", "restapi.authentication.", Shape::Text, &["username", "password"]),
    group("CTL_", "ctl.", Shape::Text, &["cacert", "certfile", "keyfile", "keyfile_password"]),
    group("CTL_", "ctl.", Shape::Bool, &["insecure"]),
    group("CTL_", "ctl.authentication.", Shape::Text, &["username", "password"]),
    group("POSTGRESQL_", "postgresql.", Shape::Text, &["listen", "connect_address", "proxy_address", "config_dir", "data_dir", "pgpass", "bin_dir"]),
    group("POSTGRESQL_BIN_", "postgresql.bin_name.", Shape::Text, &["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready", "pg_rewind"]),
    group("SUPERUSER_", "postgresql.authentication.superuser.", Shape::Text, USER),
    group("REPLICATION_", "postgresql.authentication.replication.", Shape::Text, USER),
    group("REWIND_", "postgresql.authentication.rewind.", Shape::Text, USER),
    group("RAFT_", "raft.", Shape::Text, &["data_dir", "self_addr", "password", "bind_addr", "min_timeout", "max_timeout", "connection_timeout", "append_entries_period", "connection_retry_time", "leader_fallback_timeout"]),
    group("RAFT_", "raft.", Shape::List, &["partner_addrs"]),
    // Patroni has none for these.
    group("WATCHDOG_", "watchdog.", Shape::Text, &["mode", "device", "driver", "hw_timeout", "pretimeout"]),
    group("WATCHDOG_", "watchdog.", Shape::Int, &["safety_margin"]),
    group("VIP_", "vip.", Shape::Text, &["address", "interface", "role", "lifetime", "on_conflict"]),
    group("", "", Shape::Map, &["tags"]),
    group("TAGS_", "tags.", Shape::Scalar, &["nofailover", "failover_priority", "nosync", "sync_priority", "clonefrom", "noloadbalance", "replicatefrom", "nostream"]),
];

/// Old names, taken where the new one is not set.
const OLD_NAMES: &[(&str, &str)] = &[("LOGLEVEL", "LOG_LEVEL"), ("LOGFORMAT", "LOG_FORMAT"), ("LOG_DATEFMT", "LOG_DATEFORMAT")];

/// Names that are read elsewhere.
const OTHER_NAMES: &[&str] = &["CONFIGURATION", "VERSION", "IMAGE", "HOME"];

const STORES: &[&str] = &["ETCD", "ETCD3", "CONSUL", "ZOOKEEPER", "EXHIBITOR", "KUBERNETES", "CITUS"];

#[rustfmt::skip]
const STORE_NAMES: &[(&str, Shape)] = &[
    ("HOST", Shape::Text), ("HOSTS", Shape::List), ("PORT", Shape::Int), ("USE_PROXIES", Shape::Bool), ("PROTOCOL", Shape::Text), ("SRV", Shape::Text),
    ("SRV_SUFFIX", Shape::Text), ("URL", Shape::Text), ("PROXY", Shape::Text), ("CACERT", Shape::Text), ("CERT", Shape::Text), ("KEY", Shape::Text),
    ("VERIFY", Shape::Bool), ("TOKEN", Shape::Text), ("CHECKS", Shape::List), ("DC", Shape::Text), ("CONSISTENCY", Shape::Text),
    ("REGISTER_SERVICE", Shape::Bool), ("SERVICE_CHECK_INTERVAL", Shape::Text), ("SERVICE_CHECK_TLS_SERVER_NAME", Shape::Text),
    ("SERVICE_TAGS", Shape::List), ("NAMESPACE", Shape::Text), ("CONTEXT", Shape::Text), ("USE_ENDPOINTS", Shape::Bool), ("SCOPE_LABEL", Shape::Text),
    ("ROLE_LABEL", Shape::Text), ("POD_IP", Shape::Text), ("PORTS", Shape::List), ("LABELS", Shape::Map), ("BYPASS_API_SERVICE", Shape::Bool),
    ("RETRIABLE_HTTP_CODES", Shape::List), ("KEY_PASSWORD", Shape::Text), ("USE_SSL", Shape::Text), ("SET_ACLS", Shape::Map), ("GROUP", Shape::Int),
    ("DATABASE", Shape::Text), ("LEADER_LABEL_VALUE", Shape::Text), ("FOLLOWER_LABEL_VALUE", Shape::Text), ("STANDBY_LEADER_LABEL_VALUE", Shape::Text),
    ("TMP_ROLE_LABEL", Shape::Text), ("AUTH_DATA", Shape::Map), ("BOOTSTRAP_LABELS", Shape::Map), ("USERNAME", Shape::Text), ("PASSWORD", Shape::Text),
    ("SCHEME", Shape::Text),
];

/// What the environment says.
#[derive(Debug, Default)]
pub(crate) struct FromEnvironment {
    /// The tree.
    pub(crate) value: Map<String, Value>,
    /// Which variable set which key.
    pub(crate) variables: BTreeMap<Path, String>,
    /// Variables that were not understood, with the reason.
    pub(crate) problems: Vec<(String, String)>,
}

/// Whether a variable belongs to the agent: it is not passed on to PostgreSQL and scripts.
#[must_use]
pub fn is_own_variable(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// `MASTIFF_CONFIGURATION` or `PATRONI_CONFIGURATION`: a whole document.
pub(crate) fn whole_document(env: &BTreeMap<String, String>) -> Option<&String> {
    PREFIXES.iter().find_map(|prefix| env.get(&format!("{prefix}CONFIGURATION"))).filter(|text| !text.trim().is_empty())
}

/// Collects all variables that stand for keys. Empty ones do not count.
pub(crate) fn collect(env: &BTreeMap<String, String>) -> FromEnvironment {
    let mut out = FromEnvironment::default();
    let mut known: BTreeSet<String> = OTHER_NAMES.iter().map(|name| (*name).to_owned()).collect();
    for group in GROUPS {
        for name in group.names {
            let variable = format!("{}{}", group.variables, name.to_uppercase());
            out.take(env, &variable, &format!("{}{name}", group.keys), group.shape);
            known.insert(variable);
        }
    }
    for (old, new) in OLD_NAMES {
        known.insert((*old).to_owned());
        if !PREFIXES.iter().any(|prefix| env.contains_key(&format!("{prefix}{new}"))) {
            let shape = if *new == "LOG_FORMAT" { Shape::LogFormat } else { Shape::Text };
            out.take(env, old, &new.to_lowercase().replacen('_', ".", 1), shape);
        }
    }
    for store in STORES {
        for (name, shape) in STORE_NAMES {
            let variable = format!("{store}_{name}");
            out.take(env, &variable, &format!("{}.{}", store.to_lowercase(), name.to_lowercase()), *shape);
            known.insert(variable);
        }
    }
    out.report_unknown(env, &known);
    out
}

impl FromEnvironment {
    fn take(&mut self, env: &BTreeMap<String, String>, variable: &str, key: &str, shape: Shape) {
        let found = PREFIXES.iter().map(|prefix| format!("{prefix}{variable}")).find_map(|name| env.get(&name).map(|text| (name, text)));
        let Some((name, text)) = found.filter(|(_, text)| !text.is_empty()) else { return };
        match shaped(text, shape) {
            Some(value) => {
                let path = dotted(key);
                insert(&mut self.value, &path, value);
                self.variables.insert(path, name);
            }
            None => self.problems.push((name, format!("is not {}; the variable is ignored", wanted(shape)))),
        }
    }

    fn report_unknown(&mut self, env: &BTreeMap<String, String>, known: &BTreeSet<String>) {
        for name in env.keys() {
            let Some(bare) = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)) else { continue };
            if known.contains(bare) {
                continue;
            }
            let near =
                known.iter().map(|candidate| (docs::distance(bare, candidate), candidate)).min().filter(|(distance, _)| *distance <= 2);
            let hint = near.map(|(_, candidate)| format!("; did you mean {candidate}?")).unwrap_or_default();
            self.problems.push((name.clone(), format!("is not a known variable and is ignored{hint}")));
        }
    }
}

fn wanted(shape: Shape) -> &'static str {
    match shape {
        Shape::Text | Shape::Scalar => "text",
        Shape::Bool => "a boolean (on, off, true, false, yes, no, 1, 0)",
        Shape::Int => "a whole number",
        Shape::List | Shape::LogFormat => "a list",
        Shape::Map => "a map like {a: 1, b: 2}",
    }
}

fn shaped(text: &str, shape: Shape) -> Option<Value> {
    match shape {
        Shape::Text => Some(Value::String(text.to_owned())),
        Shape::Bool => parse_bool(&Value::String(text.to_owned())).map(Value::Bool),
        Shape::Int => parse_int_text(text, "").map(|number| Value::Number(number.into())),
        Shape::List => list(text),
        Shape::Map => {
            let map = if text.trim_start().starts_with('{') { text.to_owned() } else { format!("{{{text}}}") };
            yaml::parse(&map).ok().map(|parsed| parsed.value).filter(Value::is_object)
        }
        Shape::LogFormat if text.contains("%(") => Some(Value::String(text.to_owned())),
        Shape::LogFormat => list(text),
        // In a list, so that the scalar has a place and quotes are seen.
        Shape::Scalar => {
            yaml::parse(&format!("- {text}")).ok()?.value.get(0).filter(|value| !value.is_array() && !value.is_object()).cloned()
        }
    }
}

fn list(text: &str) -> Option<Value> {
    if text.trim_start().starts_with('-') || text.trim_start().starts_with('[') {
        return yaml::parse(text).ok().map(|parsed| parsed.value).filter(Value::is_array);
    }
    // Not through YAML: `[fe80::1]:2379,host:2379` must stay text.
    as_list(&Value::String(text.to_owned())).map(|items| items.into_iter().map(|item| Value::String(unquoted(&item).to_owned())).collect())
}

fn unquoted(text: &str) -> &str {
    let inner = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('\'').or_else(|| inner('"')).unwrap_or(text)
}

fn insert(map: &mut Map<String, Value>, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        // A map given whole, then single keys of it: the single keys win, whatever comes first.
        match (map.get_mut(first), value) {
            (Some(Value::Object(old)), Value::Object(new)) => new.into_iter().for_each(|(key, value)| {
                old.entry(key).or_insert(value);
            }),
            (_, value) => {
                map.insert(first.clone(), value);
            }
        }
        return;
    }
    let inner = map.entry(first.clone()).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inner) = inner {
        insert(inner, rest, value);
    }
}

#[cfg(test)]
mod tests {
    use super::collect;
    use serde_json::{json, Value};
    use std::collections::BTreeMap;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_shape_is_read() {
        let out = collect(&env(&[
            ("PATRONI_SCOPE", "demo"),
            ("PATRONI_NAME", ""),
            ("PATRONI_RESTAPI_USERNAME", "admin"),
            ("PATRONI_RESTAPI_ALLOWLIST", "10.0.0.1, 10.0.0.2"),
            ("PATRONI_CTL_INSECURE", "on"),
            ("PATRONI_LOG_LOGGERS", "a.b: WARNING, c: DEBUG"),
            ("PATRONI_LOGLEVEL", "DEBUG"),
            ("PATRONI_LOG_FORMAT", "'asctime', 'levelname'"),
            ("PATRONI_ETCD3_HOSTS", "'10.0.0.1:2379',10.0.0.2:2379"),
            ("PATRONI_ETCD_HOSTS", "- a:1\n- b:2"),
            ("PATRONI_ETCD3_PORT", "2380"),
            ("PATRONI_POSTGRESQL_BIN_PG_CTL", "pg_ctl2"),
            ("PATRONI_SUPERUSER_SSLMODE", "require"),
            ("MASTIFF_TAGS", "{nofailover: yes, rack: 'on'}"),
            ("MASTIFF_TAGS_NOSYNC", "true"),
            ("MASTIFF_WATCHDOG_MODE", "required"),
        ]));
        assert_eq!(
            Value::Object(out.value),
            json!({
                "scope": "demo",
                "log": {"loggers": {"a.b": "WARNING", "c": "DEBUG"}, "format": ["asctime", "levelname"], "level": "DEBUG"},
                "restapi": {"allowlist": ["10.0.0.1", "10.0.0.2"], "authentication": {"username": "admin"}},
                "ctl": {"insecure": true},
                "postgresql": {"bin_name": {"pg_ctl": "pg_ctl2"}, "authentication": {"superuser": {"sslmode": "require"}}},
                "watchdog": {"mode": "required"},
                "tags": {"nofailover": true, "rack": "on", "nosync": true},
                "etcd": {"hosts": ["a:1", "b:2"]},
                "etcd3": {"hosts": ["10.0.0.1:2379", "10.0.0.2:2379"], "port": 2380},
            })
        );
        assert!(out.problems.is_empty(), "{:?}", out.problems);
    }

    #[test]
    fn own_prefix_wins_and_nonsense_is_named() {
        let out = collect(&env(&[
            ("PATRONI_SCOPE", "old"),
            ("MASTIFF_SCOPE", "new"),
            ("PATRONI_CTL_INSECURE", "maybe"),
            ("PATRONI_RESTAPI_LISTN", "x"),
            ("PATRONICTL_CONFIG_FILE", "x"),
        ]));
        assert_eq!(Value::Object(out.value), json!({"scope": "new"}));
        let problems: Vec<String> = out.problems.iter().map(|(name, why)| format!("{name} {why}")).collect();
        assert_eq!(
            problems,
            [
                "PATRONI_CTL_INSECURE is not a boolean (on, off, true, false, yes, no, 1, 0); the variable is ignored",
                "PATRONI_RESTAPI_LISTN is not a known variable and is ignored; did you mean RESTAPI_LISTEN?",
            ]
        );
    }
}
