//! Static and dynamic configuration together: what the core and the PostgreSQL side work with.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::parameters;
use super::read::{options, Reader};
use super::tags;
use super::types::{Config, Effective, HostPort, PgUser, PostgresConfig, Secret};
use super::units::{as_text, hosts_and_port, is_truthy, parse_bool, parse_int};
use super::{vip, watchdog};
use crate::ha::config::{HaConfig, SyncMode};
use crate::ha::types::{MemberName, Millis};

/// Keys below `postgresql` that the dynamic configuration cannot set.
const LOCAL_ONLY: [&str; 7] = ["connect_address", "proxy_address", "listen", "config_dir", "data_dir", "pgpass", "authentication"];
/// Options that the agent sets itself, or that would break the clone.
const BASEBACKUP_NOT_ALLOWED: [&str; 11] =
    ["pgdata", "format", "wal-method", "xlog-method", "gzip", "version", "dbname", "host", "port", "username", "password"];
const REWIND_NOT_ALLOWED: [&str; 10] = [
    "target-pgdata",
    "source-pgdata",
    "source-server",
    "dry-run",
    "restore-target-wal",
    "config-file",
    "no-ensure-shutdown",
    "version",
    "help",
    "write-recovery-conf",
];
const USER_OPTIONS: [&str; 10] = [
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

/// Settings that this build knows and does not act on. Each changes what a cluster promises, so each is said loudly.
fn not_in_this_build(dynamic: Option<&Map<String, Value>>) -> Vec<String> {
    let set = |name: &str| {
        let value = dynamic.and_then(|dynamic| dynamic.get(name));
        value.is_some_and(|value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Object(map) => !map.is_empty(),
            Value::Array(list) => !list.is_empty(),
            _ => true,
        })
    };
    let mut said = Vec::new();
    if sync_mode(dynamic) != SyncMode::Off {
        said.push(
            "synchronous_mode is on, but this build does not manage synchronous standbys: replication is asynchronous, and a failover may lose \
             acknowledged commits"
                .to_owned(),
        );
    }
    if Reader(dynamic).flag("failsafe_mode").unwrap_or(false) {
        said.push(
            "failsafe_mode is on, but not in this build: the leader stops when the store is out for longer than the lease".to_owned(),
        );
    }
    for name in ["standby_cluster", "slots", "permanent_slots", "permanent_replication_slots", "ignore_slots"] {
        if set(name) {
            said.push(format!("{name} is set, but not in this build: it has no effect"));
        }
    }
    said
}

impl Config {
    /// Merges the dynamic configuration (the store's, or that of the cache file) with this one. Without one, `bootstrap.dcs` counts, as it
    /// will be the first. Never fails: what is wrong is left out or corrected, with a warning.
    #[must_use]
    pub fn effective(&self, dynamic: Option<&Value>) -> Effective {
        let mut warnings = Vec::new();
        let dynamic = dynamic.or(self.bootstrap.dcs.as_ref());
        if dynamic.is_some_and(|dynamic| !dynamic.is_object()) {
            warnings.push("the dynamic configuration is not a map of keys and is ignored".to_owned());
        }
        let dynamic = dynamic.and_then(Value::as_object);
        warnings.extend(not_in_this_build(dynamic));
        let section = merged_section(&self.postgresql.section, dynamic, &mut warnings);
        let postgres = self.postgres(&section, dynamic, &mut warnings);
        let ha = self.ha(&section, dynamic, &postgres, &mut warnings);
        let watchdog = watchdog::fit(&ha.watchdog, &self.watchdog_device, ha.ttl, ha.loop_wait, &mut warnings);
        vip::fit(&self.vip, ha.ttl, ha.loop_wait, &mut warnings);
        Effective { ha, postgres, watchdog, vip: self.vip.clone(), warnings }
    }

    fn postgres(&self, section: &Map<String, Value>, dynamic: Option<&Map<String, Value>>, warnings: &mut Vec<String>) -> PostgresConfig {
        let pg = Reader(Some(section));
        let (listen_addresses, port) =
            pg.text("listen").and_then(|text| hosts_and_port(&text, Some(5432)).ok()).unwrap_or_else(|| ("localhost".to_owned(), 5432));
        let data_dir = pg.path("data_dir").unwrap_or_default();
        let config_dir = pg.path("config_dir").unwrap_or_else(|| data_dir.clone());
        let dynamic_pg = Reader(dynamic).section("postgresql");
        let local = Reader(Some(&self.postgresql.section)).map("parameters");
        let mut merged = parameters::merge(dynamic_pg.map("parameters"), local, pg.map("recovery_conf"), warnings);
        for (name, value) in
            [("cluster_name", self.scope.clone()), ("listen_addresses", listen_addresses.clone()), ("port", port.to_string())]
        {
            merged.parameters.insert(name.to_owned(), value);
        }
        if sync_mode(dynamic) != SyncMode::Off && merged.parameters.remove("synchronous_standby_names").is_some() {
            warnings.push("synchronous_standby_names is ignored: synchronous_mode sets it".to_owned());
        }
        for name in ["hba_file", "ident_file"] {
            if let Some(file) = merged.parameters.get_mut(name) {
                *file = config_dir.join(&*file).display().to_string();
            }
        }
        let users = pg.section("authentication");
        let methods = replica_methods(pg);
        PostgresConfig {
            scope: self.scope.clone(),
            name: self.name.clone(),
            connect_address: pg.address("connect_address", Some(port)).unwrap_or_else(|| reachable(&listen_addresses, port)),
            listen_addresses,
            port,
            config_base_name: pg.text("config_base_name").unwrap_or_else(|| "postgresql".to_owned()),
            bin_dir: pg.path("bin_dir"),
            bin_name: text_map(pg.map("bin_name")),
            pgpass: pg.path("pgpass").unwrap_or_else(|| data_dir.with_extension("pgpass")),
            superuser: user(users.section("superuser")),
            replication: user(users.section("replication")),
            rewind: users.map("rewind").map(|rewind| user(Reader(Some(rewind)))),
            use_unix_socket: pg.flag("use_unix_socket").unwrap_or(false),
            use_unix_socket_repl: pg.flag("use_unix_socket_repl").unwrap_or(false),
            parameters: merged.parameters,
            recovery_conf: merged.recovery,
            pg_hba: pg.lines("pg_hba"),
            pg_ident: pg.lines("pg_ident"),
            custom_conf: pg.text("custom_conf"),
            basebackup: basebackup(pg, warnings),
            replica_methods: methods.iter().filter_map(|name| Some((name.clone(), method_section(pg, name)?))).collect(),
            create_replica_methods: methods,
            callbacks: callbacks(pg.section("callbacks")),
            pre_promote: pg.command("pre_promote"),
            before_stop: pg.command("before_stop"),
            use_slots: dynamic_pg.flag("use_slots").unwrap_or(true),
            pg_ctl_timeout_ms: seconds(pg.int("pg_ctl_timeout", "s"), 60).0,
            rewind_options: rewind_options(pg, warnings),
            bootstrap: self.bootstrap.clone(),
            data_dir,
            config_dir,
        }
    }

    fn ha(
        &self,
        section: &Map<String, Value>,
        dynamic: Option<&Map<String, Value>>,
        postgres: &PostgresConfig,
        warnings: &mut Vec<String>,
    ) -> HaConfig {
        let pg = Reader(Some(section));
        let timing = Timing::of(dynamic, warnings);
        let mut global = Global { dynamic: Reader(dynamic), warnings };
        let scheme = if self.restapi.tls.is_some() { "https" } else { "http" };
        let database = pg.text("database").unwrap_or_else(|| "postgres".to_owned());
        let proxy = pg.address("proxy_address", Some(postgres.port));
        HaConfig {
            me: MemberName(self.name.clone()),
            ttl: timing.ttl,
            loop_wait: timing.loop_wait,
            retry_timeout: timing.retry_timeout,
            maximum_lag_on_failover: u64::try_from(global.int("maximum_lag_on_failover", "B", 0, 1_048_576)).unwrap_or(0),
            check_timeline: global.flag("check_timeline"),
            primary_start_timeout: global.seconds(&["primary_start_timeout", "master_start_timeout"], 300),
            primary_stop_timeout: global.seconds(&["primary_stop_timeout", "master_stop_timeout"], 0),
            pg_ctl_timeout: Millis(postgres.pg_ctl_timeout_ms),
            synchronous_mode: sync_mode(dynamic),
            synchronous_mode_strict: global.flag("synchronous_mode_strict"),
            synchronous_node_count: u32::try_from(global.int("synchronous_node_count", "", 1, 1)).unwrap_or(u32::MAX),
            maximum_lag_on_syncnode: u64::try_from(global.int("maximum_lag_on_syncnode", "B", -1, -1)).ok().filter(|lag| *lag > 0),
            failsafe_mode: global.flag("failsafe_mode"),
            use_pg_rewind: pg.flag("use_pg_rewind").unwrap_or(false),
            remove_data_directory_on_rewind_failure: pg.flag("remove_data_directory_on_rewind_failure").unwrap_or(false),
            remove_data_directory_on_diverged_timelines: pg.flag("remove_data_directory_on_diverged_timelines").unwrap_or(false),
            use_slots: postgres.use_slots,
            member_slots_ttl: global.seconds(&["member_slots_ttl"], 1800),
            max_timelines_history: usize::try_from(global.int("max_timelines_history", "", 0, 0)).unwrap_or(0),
            tags: tags::typed(&self.tags),
            tags_raw: self.tags.clone(),
            conn_url: format!("postgres://{}/{database}", postgres.connect_address),
            api_url: format!("{scheme}://{}/patroni", self.restapi.connect_address),
            proxy_url: proxy.map(|proxy| format!("postgres://{proxy}/{database}")),
            initial_dynamic: self.bootstrap.dcs.clone(),
            watchdog: self.watchdog,
            vip_roles: self.vip.iter().map(|vip| vip.role).collect(),
            guard: true,
            standby_cluster: is_standby_cluster(dynamic),
            can_clone_without_leader: postgres.replica_methods.values().any(|section| section.get("no_leader").is_some_and(is_truthy)),
            custom_bootstrap: self.bootstrap.method != "initdb",
            may_bootstrap: self.bootstrap.present,
            ..HaConfig::for_member(&self.name)
        }
    }
}

/// `ttl`, `loop_wait` and `retry_timeout` after the minimums and the rule `loop_wait + 2*retry_timeout <= ttl`.
#[derive(Debug, PartialEq)]
struct Timing {
    ttl: Millis,
    loop_wait: Millis,
    retry_timeout: Millis,
}

impl Timing {
    fn of(dynamic: Option<&Map<String, Value>>, warnings: &mut Vec<String>) -> Timing {
        let mut read = |name: &str, default: i64, min: i64| {
            let given = Reader(dynamic).get(name);
            let value = given.and_then(|value| parse_int(value, "s"));
            if given.is_some() && value.is_none() {
                warnings.push(format!("{name} in the dynamic configuration is not a number, defaulting to {default}"));
            }
            let value = value.unwrap_or(default);
            if value < min {
                warnings.push(format!("{name}={value} can't be smaller than {min}, adjusting..."));
            }
            // Above a year nothing changes any more, and sums cannot overflow.
            value.clamp(min, 31_536_000)
        };
        let mut loop_wait = read("loop_wait", 10, 1);
        // Patroni's minimums are 3 and 20; a shorter lease is what an appliance may want.
        let mut retry_timeout = read("retry_timeout", 10, 1);
        let ttl = read("ttl", 30, 3);
        if 1 + 2 * retry_timeout > ttl {
            let lower = (ttl - 1) / 2;
            warnings.push(format!(
                "Violated the rule \"loop_wait + 2*retry_timeout <= ttl\", where ttl={ttl}. \
                 Adjusting loop_wait from {loop_wait} to 1 and retry_timeout from {retry_timeout} to {lower}"
            ));
            (loop_wait, retry_timeout) = (1, lower);
        } else if loop_wait + 2 * retry_timeout > ttl {
            let lower = ttl - 2 * retry_timeout;
            warnings.push(format!(
                "Violated the rule \"loop_wait + 2*retry_timeout <= ttl\", where ttl={ttl} and retry_timeout={retry_timeout}. \
                 Adjusting loop_wait from {loop_wait} to {lower}"
            ));
            loop_wait = lower;
        }
        let [ttl, loop_wait, retry_timeout] = [ttl, loop_wait, retry_timeout].map(|value| seconds(Some(value), 0));
        Timing { ttl, loop_wait, retry_timeout }
    }
}

/// Reads the dynamic configuration; a value of a wrong type counts as absent, with a warning.
struct Global<'a, 'w> {
    dynamic: Reader<'a>,
    warnings: &'w mut Vec<String>,
}

impl Global<'_, '_> {
    fn int(&mut self, name: &str, unit: &str, min: i64, default: i64) -> i64 {
        let Some(value) = self.dynamic.get(name) else { return default };
        match parse_int(value, unit) {
            Some(number) if number >= min => number,
            Some(number) => {
                self.warnings.push(format!("{name}={number} can't be smaller than {min}, adjusting..."));
                min
            }
            None => {
                self.warnings.push(format!("{name} in the dynamic configuration is not a number, defaulting to {default}"));
                default
            }
        }
    }

    /// The first of the names that is there counts: new name, then old name.
    fn seconds(&mut self, names: &[&str], default: i64) -> Millis {
        let name = names.iter().find(|name| self.dynamic.get(name).is_some()).or(names.first());
        let value = name.map_or(default, |name| self.int(name, "s", 0, default));
        seconds(Some(value), default)
    }

    fn flag(&mut self, name: &str) -> bool {
        let Some(value) = self.dynamic.get(name) else { return false };
        parse_bool(value).unwrap_or_else(|| {
            self.warnings.push(format!("{name} in the dynamic configuration is not a boolean, defaulting to off"));
            false
        })
    }
}

fn seconds(value: Option<i64>, default: i64) -> Millis {
    Millis::from_secs(u64::try_from(value.unwrap_or(default)).unwrap_or(0))
}

/// `standby_cluster` with host, port or restore_command.
fn is_standby_cluster(dynamic: Option<&Map<String, Value>>) -> bool {
    let section = Reader(dynamic).section("standby_cluster");
    ["host", "port", "restore_command"].iter().any(|key| section.get(key).is_some_and(is_truthy))
}

fn sync_mode(dynamic: Option<&Map<String, Value>>) -> SyncMode {
    match Reader(dynamic).get("synchronous_mode") {
        _ if is_standby_cluster(dynamic) => SyncMode::Off,
        Some(Value::String(text)) if text.eq_ignore_ascii_case("quorum") => SyncMode::Quorum,
        Some(value) if parse_bool(value) == Some(true) => SyncMode::On,
        _ => SyncMode::Off,
    }
}

/// `postgresql` of the dynamic configuration with the local one over it, key by key.
fn merged_section(local: &Map<String, Value>, dynamic: Option<&Map<String, Value>>, warnings: &mut Vec<String>) -> Map<String, Value> {
    let mut section = Map::new();
    for (name, value) in Reader(dynamic).map("postgresql").into_iter().flatten() {
        if LOCAL_ONLY.contains(&name.as_str()) {
            warnings.push(format!("postgresql.{name} in the dynamic configuration is ignored: it is local to each member"));
        } else {
            section.insert(name.clone(), value.clone());
        }
    }
    for (name, value) in local {
        if name != "use_slots" {
            section.insert(name.clone(), value.clone());
        }
    }
    section
}

fn reachable(listen: &str, port: u16) -> HostPort {
    let first = listen.split(',').next().unwrap_or("localhost");
    let host = if matches!(first, "*" | "0.0.0.0" | "::") { "localhost" } else { first };
    HostPort { host: host.to_owned(), port }
}

fn text_map(map: Option<&Map<String, Value>>) -> BTreeMap<String, String> {
    map.into_iter().flatten().filter_map(|(name, value)| Some((name.clone(), as_text(value)?))).collect()
}

/// One entry of `postgresql.authentication`.
pub(crate) fn user(section: Reader<'_>) -> PgUser {
    PgUser {
        username: section.text("username").unwrap_or_default(),
        password: section.text("password").map(Secret),
        options: USER_OPTIONS.iter().filter_map(|name| Some(((*name).to_owned(), section.text(name)?))).collect(),
    }
}

fn replica_methods(pg: Reader<'_>) -> Vec<String> {
    ["create_replica_methods", "create_replica_method"]
        .iter()
        .find_map(|key| pg.list(key).filter(|list| !list.is_empty()))
        .unwrap_or_else(|| vec!["basebackup".to_owned()])
}

/// The section of a custom method; a method without one is a command of its own name.
fn method_section(pg: Reader<'_>, name: &str) -> Option<Map<String, Value>> {
    (name != "basebackup").then(|| pg.map(name).cloned().unwrap_or_default())
}

fn callbacks(section: Reader<'_>) -> BTreeMap<String, Vec<String>> {
    let names = section.0.into_iter().flatten().map(|(name, _)| name);
    names.filter_map(|name| Some((name.clone(), section.command(name)?))).collect()
}

fn basebackup(pg: Reader<'_>, warnings: &mut Vec<String>) -> Vec<String> {
    let mut refused = Vec::new();
    let mut list = options(pg.get("basebackup"), &BASEBACKUP_NOT_ALLOWED, &mut refused);
    for name in refused {
        warnings.push(format!("{name} option for basebackup is not allowed"));
    }
    list.retain(|option| {
        // What the client compresses is no data directory any more.
        let client_side = option.starts_with("--compress") && !option.starts_with("--compress=server");
        if client_side {
            warnings.push("compress option for basebackup must use server-side compression (e.g., server-gzip, server-zstd)".to_owned());
        }
        !client_side
    });
    list
}

fn rewind_options(pg: Reader<'_>, warnings: &mut Vec<String>) -> Vec<String> {
    let mut refused = Vec::new();
    let list = options(pg.get("rewind"), &REWIND_NOT_ALLOWED, &mut refused);
    warnings.extend(refused.into_iter().map(|name| format!("{name} option for pg_rewind is not allowed")));
    list
}

#[cfg(test)]
#[path = "effective_tests.rs"]
mod tests;
