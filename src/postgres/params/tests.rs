//! Parameters against the captures, and the version rules.

use std::path::Path;

use super::{command_line, drop_unknown, for_server, parse_describe_config, raise_for_standby, Raised};
use crate::postgres::conf::tests::sample;
use crate::postgres::controldata;

#[test]
fn command_line_as_captured() {
    for (name, captured) in [
        ("n1", include_str!("../../../tests/pgdata/leader/postmaster-cmdline.txt")),
        ("n2", include_str!("../../../tests/pgdata/replica/postmaster-cmdline.txt")),
    ] {
        let config = sample(name);
        let (parameters, _) = for_server(&config, 15);
        let arguments = command_line(&config.data_dir, &config.data_dir.join("postgresql.conf"), &parameters);
        let wanted: Vec<&str> = captured.lines().skip(1).collect();
        assert_eq!(arguments, wanted);
    }
}

#[test]
fn defaults_and_old_names() {
    let mut config = sample("n1");
    config.parameters.clear();
    config.parameters.insert("Wal_Level".to_owned(), "HOT_STANDBY".to_owned());
    config.parameters.insert("Port".to_owned(), "1".to_owned());
    config.parameters.insert("TimeZone".to_owned(), "UTC".to_owned());
    config.parameters.insert("restore_command".to_owned(), "x".to_owned());
    let (parameters, _) = for_server(&config, 15);
    assert_eq!(parameters.get("wal_level").map(String::as_str), Some("replica"));
    assert_eq!(parameters.get("port").map(String::as_str), Some("5432"));
    assert_eq!(parameters.get("TimeZone").map(String::as_str), Some("UTC"));
    assert_eq!(parameters.get("max_connections").map(String::as_str), Some("100"));
    assert!(!parameters.contains_key("Port") && !parameters.contains_key("restore_command"));
}

#[test]
fn wal_keep_follows_the_version() {
    let keep = |major: u32, configured: &[(&str, &str)]| {
        let mut config = sample("n1");
        for (name, value) in configured {
            config.parameters.insert((*name).to_owned(), (*value).to_owned());
        }
        let (parameters, _) = for_server(&config, major);
        (parameters.get("wal_keep_size").cloned(), parameters.get("wal_keep_segments").cloned())
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(keep(15, &[]), (some("128MB"), None));
    assert_eq!(keep(15, &[("wal_keep_segments", "10")]), (some("160MB"), None));
    assert_eq!(keep(15, &[("wal_keep_segments", "10"), ("wal_keep_size", "1GB")]), (some("1GB"), None));
    assert_eq!(keep(12, &[]), (None, some("8")));
    assert_eq!(keep(12, &[("wal_keep_size", "1GB")]), (None, some("64")));
    assert_eq!(keep(12, &[("wal_keep_size", "nonsense")]), (None, some("8")));
}

#[test]
fn names_of_other_versions_are_left_out() {
    let mut config = sample("n1");
    for name in ["io_method", "stats_temp_directory", "Idle_Session_Timeout", "work_mem", "my.setting"] {
        config.parameters.insert(name.to_owned(), "1".to_owned());
    }
    assert_eq!(for_server(&config, 13).1, ["Idle_Session_Timeout", "io_method"]);
    assert_eq!(for_server(&config, 15).1, ["io_method", "stats_temp_directory"]);
    assert_eq!(for_server(&config, 18).1, ["stats_temp_directory"]);
    assert!(for_server(&config, 18).0.contains_key("my.setting"));
}

#[test]
fn a_standby_needs_at_least_what_the_primary_had() {
    let mut settings = controldata::parse(include_bytes!("../../../tests/pgdata/control/15-shut-down.bin")).unwrap().settings;
    settings.max_connections = 200;
    settings.max_worker_processes = 8;
    let (mut parameters, _) = for_server(&sample("n2"), 15);
    let raised = raise_for_standby(&mut parameters, &settings);
    assert_eq!(parameters.get("max_connections").map(String::as_str), Some("200"));
    assert_eq!(raised.get("max_connections"), Some(&Raised { configured: "50".to_owned(), needed: 200 }));
    let names: Vec<&str> = raised.keys().map(String::as_str).collect();
    assert_eq!(names, ["max_connections", "max_locks_per_transaction", "max_prepared_transactions"]);
    assert!(raise_for_standby(&mut parameters, &settings).is_empty());
}

#[test]
fn unknown_names_are_dropped_by_the_servers_own_list() {
    let known = parse_describe_config("work_mem\tuser\tResource\tINTEGER\t4096\nTimeZone\tuser\tx\n\n");
    let (mut parameters, _) = for_server(&sample("n1"), 15);
    for name in ["wrok_mem", "TimeZone", "ext.setting", "zero_damaged_pages", "debug_x"] {
        parameters.insert(name.to_owned(), "1".to_owned());
    }
    parameters.remove("shared_buffers");
    parameters.remove("unix_socket_directories");
    assert_eq!(drop_unknown(&mut parameters, &known), ["wrok_mem"]);
    assert!(parameters.contains_key("TimeZone") && parameters.contains_key("max_connections"));
    assert!(drop_unknown(&mut parameters, &std::collections::BTreeSet::new()).is_empty());
}

#[test]
fn values_are_passed_as_they_are() {
    let mut config = sample("n1");
    config.scope = "it's a \"scope\"".to_owned();
    let arguments = command_line(Path::new("/d"), Path::new("/c/postgresql.conf"), &for_server(&config, 15).0);
    assert_eq!(arguments.get(..3).unwrap(), ["-D", "/d", "--config-file=/c/postgresql.conf"]);
    assert!(arguments.contains(&"--cluster_name=it's a \"scope\"".to_owned()));
}
