//! Tests of the merge with the dynamic configuration.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use serde_json::json;

use super::super::types::{Config, Effective};
use crate::ha::config::SyncMode;
use crate::ha::types::Millis;

const BASE: &str =
    "scope: demo\nname: n1\nrestapi: {listen: '*:8008', connect_address: 'h1:8008', certfile: /c}\netcd3: {host: 'e:2379'}\n\
    postgresql:\n  listen: '0.0.0.0,[::1]:5433'\n  connect_address: h1:5433\n  proxy_address: h1:6432\n  data_dir: /d/x\n\
    \x20 authentication: {replication: {username: r, password: 1, sslmode: require}, superuser: {username: p}}\n";

fn config(more: &str) -> Config {
    let env = BTreeMap::from([("PATRONI_CONFIGURATION".to_owned(), format!("{BASE}{more}"))]);
    super::super::load(None, &env)
        .unwrap_or_else(|errors| panic!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))
        .config
}

fn effective(more: &str, dynamic: serde_json::Value) -> Effective {
    config(more).effective(Some(&dynamic))
}

#[test]
fn addresses_and_defaults() {
    let out = effective("", json!({}));
    assert!(out.warnings.is_empty(), "{:?}", out.warnings);
    assert_eq!(out.ha.conn_url, "postgres://h1:5433/postgres");
    assert_eq!(out.ha.proxy_url.as_deref(), Some("postgres://h1:6432/postgres"));
    assert_eq!(out.ha.api_url, "https://h1:8008/patroni");
    assert_eq!((out.ha.ttl, out.ha.loop_wait, out.ha.member_slots_ttl), (Millis(30_000), Millis(10_000), Millis(1_800_000)));
    assert_eq!(out.postgres.listen_addresses, "0.0.0.0,::1");
    assert_eq!(out.postgres.parameters["listen_addresses"], "0.0.0.0,::1");
    assert_eq!((out.postgres.parameters["port"].as_str(), out.postgres.parameters["cluster_name"].as_str()), ("5433", "demo"));
    assert_eq!(out.postgres.replication.password.as_ref().unwrap().0, "1");
    assert_eq!(out.postgres.replication.options["sslmode"], "require");
    assert!(out.postgres.pgpass.ends_with("pgpass-n1") && !out.ha.may_bootstrap && out.postgres.use_slots);
}

#[test]
fn timing_is_made_to_fit() {
    let out = effective("", json!({"ttl": "20", "loop_wait": 10, "retry_timeout": 8}));
    assert_eq!((out.ha.loop_wait, out.ha.retry_timeout), (Millis(4000), Millis(8000)));
    assert_eq!(
        out.warnings,
        ["Violated the rule \"loop_wait + 2*retry_timeout <= ttl\", where ttl=20 and retry_timeout=8. Adjusting loop_wait from 10 to 4"]
    );
    let out = effective("", json!({"ttl": 5, "loop_wait": 0, "retry_timeout": 10}));
    assert_eq!((out.ha.ttl, out.ha.loop_wait, out.ha.retry_timeout), (Millis(5000), Millis(1000), Millis(2000)));
    assert_eq!(out.warnings.len(), 2, "{:?}", out.warnings);
    let out = effective("", json!({"ttl": i64::MAX, "loop_wait": "abc", "retry_timeout": -1}));
    assert_eq!(out.ha.retry_timeout, Millis(1000));
    let out = effective("", json!({"ttl": 1, "loop_wait": 1, "retry_timeout": 1}));
    assert_eq!((out.ha.ttl, out.ha.loop_wait, out.ha.retry_timeout), (Millis(3000), Millis(1000), Millis(1000)));
}

#[test]
fn the_watchdog_is_made_to_fit_the_lease() {
    let fitted = |watchdog: &str, ttl: i64| {
        let out = effective(&format!("watchdog: {watchdog}\n"), json!({"ttl": ttl, "loop_wait": 1, "retry_timeout": 1}));
        (out.ha.watchdog.limit(out.ha.ttl, out.ha.loop_wait), out.watchdog.pretimeout, out.warnings.len())
    };
    assert_eq!(fitted("{}", 30), (Millis(10_000), None, 0));
    assert_eq!(fitted("{}", 3), (Millis(1000), None, 0), "nobody wrote the margin of 5 s");
    assert_eq!(fitted("{safety_margin: 4}", 4), (Millis(1000), None, 1));
    assert_eq!(fitted("{safety_margin: 40, mode: off}", 30).2, 0);
    assert_eq!(fitted("{hw_timeout: 14, pretimeout: 13}", 30), (Millis(14_000), Some(Millis(13_000)), 0));
    assert_eq!(fitted("{hw_timeout: 15, pretimeout: 15}", 30), (Millis(14_500), None, 2));
}

#[test]
fn dynamic_values_in_all_spellings() {
    let out = effective(
        "",
        json!({"maximum_lag_on_failover": "16MB", "member_slots_ttl": "1h", "synchronous_mode": "Quorum", "synchronous_mode_strict": "on",
            "failsafe_mode": "yes", "check_timeline": 1, "master_start_timeout": "0", "primary_stop_timeout": 7, "master_stop_timeout": 9,
            "maximum_lag_on_syncnode": -1, "synchronous_node_count": 0, "postgresql": {"use_slots": "off", "use_pg_rewind": "true"}}),
    );
    let ha = &out.ha;
    assert_eq!((ha.maximum_lag_on_failover, ha.member_slots_ttl, ha.synchronous_mode), (16 << 20, Millis(3_600_000), SyncMode::Quorum));
    assert!(
        ha.synchronous_mode_strict && ha.failsafe_mode && ha.check_timeline && ha.use_pg_rewind && !ha.use_slots && !out.postgres.use_slots
    );
    assert_eq!((ha.primary_start_timeout, ha.primary_stop_timeout), (Millis(0), Millis(7000)));
    assert_eq!((ha.maximum_lag_on_syncnode, ha.synchronous_node_count), (None, 1));
    assert_eq!(effective("", json!({"synchronous_mode": true, "standby_cluster": {"host": "x"}})).ha.synchronous_mode, SyncMode::Off);
    assert_eq!(effective("", json!({"synchronous_mode": true})).ha.synchronous_mode, SyncMode::On);
}

#[test]
fn local_settings_win_over_dynamic_ones() {
    let local =
        "  pg_hba: ['local all all trust']\n  use_slots: false\n  parameters: {work_mem: 8MB, hba_file: my.conf}\n  use_pg_rewind: false\n";
    let dynamic = json!({"postgresql": {"pg_hba": ["x"], "pg_ident": ["i"], "data_dir": "/other", "use_pg_rewind": true,
        "parameters": {"work_mem": "4MB", "synchronous_standby_names": "a"}, "pg_ctl_timeout": "2min"}, "synchronous_mode": "on"});
    let out = effective(local, dynamic);
    let pg = &out.postgres;
    assert_eq!((pg.pg_hba.as_deref().unwrap()[0].as_str(), pg.pg_ident.as_deref().unwrap()[0].as_str()), ("local all all trust", "i"));
    assert_eq!((pg.parameters["work_mem"].as_str(), pg.parameters["hba_file"].as_str()), ("8MB", "/d/x/my.conf"));
    assert!(pg.use_slots && !out.ha.use_pg_rewind && pg.pg_ctl_timeout_ms == 120_000 && pg.data_dir.ends_with("x"));
    assert!(!pg.parameters.contains_key("synchronous_standby_names"));
    assert_eq!(out.warnings.len(), 3, "{:?}", out.warnings);
}

#[test]
fn bootstrap_counts_until_the_store_has_a_configuration() {
    let config =
        config("bootstrap:\n  dcs: {ttl: 40, loop_wait: 5}\n  initdb: [data-checksums, encoding: UTF8]\n  post_init: \"x 'a b'\"\n");
    assert_eq!(config.effective(None).ha.ttl, Millis(40_000));
    assert_eq!(config.effective(Some(&json!({}))).ha.ttl, Millis(30_000));
    let out = config.effective(Some(&json!("garbage")));
    assert_eq!((out.ha.ttl, out.warnings.len()), (Millis(30_000), 1));
    assert!(out.ha.may_bootstrap && out.ha.initial_dynamic.is_some());
    assert_eq!(out.postgres.bootstrap.initdb, ["--data-checksums", "--encoding=UTF8"]);
    assert_eq!(out.postgres.bootstrap.post_bootstrap.as_deref().unwrap(), ["x", "a b"]);
}

#[test]
fn replica_methods_and_callbacks() {
    let local = "  create_replica_methods: [wal_e, basebackup, script]\n  wal_e: {command: \"w -x\", no_leader: 1, retries: 3}\n\
        \x20 basebackup: [max-rate: 100M, pgdata: /x, compress=gzip, {compress: server-zstd}]\n  callbacks: {on_start: \"/bin/cb 'a b'\", on_stop: }\n";
    let out = effective(local, json!({}));
    assert_eq!(out.postgres.create_replica_methods, ["wal_e", "basebackup", "script"]);
    assert_eq!(out.postgres.replica_methods.keys().collect::<Vec<_>>(), ["script", "wal_e"]);
    assert!(out.ha.can_clone_without_leader);
    assert_eq!(out.postgres.basebackup, ["--max-rate=100M", "--compress=server-zstd"]);
    assert_eq!(out.postgres.callbacks["on_start"], ["/bin/cb", "a b"]);
    assert_eq!((out.postgres.callbacks.len(), out.warnings.len()), (1, 2), "{:?}", out.warnings);
}

#[test]
fn no_dynamic_document_panics() {
    let config = config("");
    for value in
        [json!(null), json!(1), json!([]), json!("x"), json!({"a": {}}), json!({"ttl": {}}), json!(1e300), json!(-1), json!({"host": 1})]
    {
        for key in super::super::keys::KEYS.iter().filter_map(|key| key.path.strip_prefix("dcs.")) {
            let name = key.split('.').next().unwrap().trim_matches(['{', '}']);
            for name in name.split(',') {
                let _ = config.effective(Some(&json!({ name: value })));
                let _ = config.effective(Some(&json!({ "postgresql": { name: value } })));
            }
        }
        for key in
            ["parameters", "pg_hba", "basebackup", "callbacks", "recovery_conf", "create_replica_methods", "rewind", "pg_ctl_timeout"]
        {
            let _ = config.effective(Some(&json!({ "postgresql": { key: value } })));
        }
    }
}
