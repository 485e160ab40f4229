//! Golden texts against the captures of a real Patroni, and the writes on a real directory.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{
    append_hba, changed_settings, escape, plan_standby, render, render_bootstrap_hba, render_hba, render_ident, restore_backups,
    sanitise_auto, save_backups, write_all, write_for_reload, Error, Layout, Recovery, HEADER,
};
use crate::config::types::{BootstrapConfig, HostPort, PgUser, PostgresConfig, Secret};
use crate::ha::action::Upstream;
use crate::ha::types::MemberName;
use crate::postgres::params;

fn user(name: &str, password: &str) -> PgUser {
    PgUser { username: name.to_owned(), password: Some(Secret(password.to_owned())), options: BTreeMap::new() }
}

/// The configuration of the captures' member `n1` or `n2`.
pub(in crate::postgres) fn sample(name: &str) -> PostgresConfig {
    let home = PathBuf::from("/LAB").join(name);
    let parameter = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    PostgresConfig {
        scope: "bench".to_owned(),
        name: name.to_owned(),
        listen_addresses: "0.0.0.0".to_owned(),
        port: 5432,
        connect_address: HostPort { host: format!("10.77.0.{}", &name[1..]), port: 5432 },
        data_dir: home.join("data"),
        config_dir: home.join("data"),
        config_base_name: "postgresql".to_owned(),
        bin_dir: None,
        bin_name: BTreeMap::new(),
        pgpass: home.join("pgpass"),
        superuser: user("postgres", "superpw"),
        replication: user("replicator", "replpw"),
        rewind: None,
        use_unix_socket: false,
        use_unix_socket_repl: false,
        parameters: BTreeMap::from([
            parameter("max_connections", "50"),
            parameter("shared_buffers", "32MB"),
            parameter("unix_socket_directories", &home.join("sock").to_string_lossy()),
            parameter("wal_level", "hot_standby"),
            parameter("wal_log_hints", "on"),
        ]),
        recovery_conf: BTreeMap::new(),
        pg_hba: Some(vec![
            "local all all trust".to_owned(),
            "host all all 0.0.0.0/0 md5".to_owned(),
            "host replication replicator 0.0.0.0/0 md5".to_owned(),
        ]),
        pg_ident: None,
        custom_conf: None,
        basebackup: Vec::new(),
        create_replica_methods: Vec::new(),
        replica_methods: BTreeMap::new(),
        callbacks: BTreeMap::new(),
        pre_promote: None,
        before_stop: None,
        use_slots: true,
        pg_ctl_timeout_ms: 60_000,
        rewind_options: Vec::new(),
        bootstrap: BootstrapConfig::default(),
    }
}

pub(in crate::postgres) fn upstream(conn_url: &str) -> Upstream {
    Upstream { name: MemberName::from("n1"), conn_url: conn_url.to_owned() }
}

/// The same configuration in a directory of this test.
fn on_disk(dir: &Path) -> PostgresConfig {
    let mut config = sample("n2");
    config.data_dir = dir.join("data");
    config.config_dir = dir.join("data");
    config.pgpass = dir.join("pgpass");
    std::fs::create_dir(&config.data_dir).unwrap();
    std::fs::write(config.data_dir.join("postgresql.conf"), "# original\nmax_wal_size = 1GB\n").unwrap();
    config
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn leader_as_captured() {
    let config = sample("n1");
    let (parameters, dropped) = params::for_server(&config, 15);
    assert_eq!(render(&config, &parameters, &Recovery::None), include_str!("../../../tests/pgdata/leader/postgresql.conf"));
    assert_eq!(render_hba(&config, &parameters).as_deref(), Some(include_str!("../../../tests/pgdata/leader/pg_hba.conf")));
    assert_eq!(render_ident(&config, &parameters), None);
    assert!(dropped.is_empty());
}

#[test]
fn standby_as_captured() {
    let config = sample("n2");
    let (parameters, _) = params::for_server(&config, 15);
    let plan = plan_standby(&config, Some(&upstream("postgres://10.77.0.1:5432/postgres")), 15).unwrap();
    let text = render(&config, &parameters, &Recovery::Standby(plan.settings));
    assert_eq!(text, include_str!("../../../tests/pgdata/replica/postgresql.conf"));
    assert!(!text.contains("replpw"));
    assert_eq!(plan.connection.unwrap().get("password"), Some("replpw"));
}

#[test]
fn standby_of_nobody_and_of_itself() {
    let config = sample("n1");
    for upstream in [None, Some(&upstream("postgres://10.77.0.1:5432/postgres"))] {
        let plan = plan_standby(&config, upstream, 15).unwrap();
        assert_eq!(plan.connection, None);
        assert!(!plan.settings.contains_key("primary_conninfo") && !plan.settings.contains_key("primary_slot_name"));
        assert_eq!(plan.settings.get("recovery_target_timeline").map(String::as_str), Some("latest"));
    }
}

#[test]
fn configured_recovery_settings_but_never_a_target() {
    let mut config = sample("n2");
    config.use_slots = false;
    for (name, value) in [
        ("restore_command", "cp /a/%f '%p'"),
        ("Recovery_Min_Apply_Delay", "5s"),
        ("recovery_target_time", "yesterday"),
        ("primary_conninfo", "host=evil"),
        ("standby_mode", "off"),
        ("trigger_file", "/x"),
        ("promote_trigger_file", "/y"),
    ] {
        config.recovery_conf.insert(name.to_owned(), value.to_owned());
    }
    let settings = plan_standby(&config, None, 16).unwrap().settings;
    let text = render(&config, &params::for_server(&config, 16).0, &Recovery::Standby(settings));
    let tail = text.split("# recovery.conf\n").nth(1).unwrap();
    assert_eq!(
        tail,
        "recovery_min_apply_delay = '5s'\nrecovery_target = ''\nrecovery_target_lsn = ''\nrecovery_target_name = ''\n\
         recovery_target_time = ''\nrecovery_target_timeline = 'latest'\nrecovery_target_xid = ''\nrestore_command = 'cp /a/%f ''%p'''\n"
    );
    assert!(plan_standby(&config, None, 15).unwrap().settings.contains_key("promote_trigger_file"));
}

#[test]
fn a_bad_upstream_is_named() {
    let error = plan_standby(&sample("n2"), Some(&upstream("mysql://x")), 15).unwrap_err();
    assert!(matches!(error, Error::Upstream { .. }));
    assert!(error.to_string().starts_with("cannot follow n1: "));
}

#[test]
fn custom_includes_and_files_elsewhere() {
    let mut config = sample("n1");
    config.custom_conf = Some("/etc/it's.conf".to_owned());
    config.parameters.insert("HBA_FILE".to_owned(), "own_hba.conf".to_owned());
    config.parameters.insert("ident_file".to_owned(), "/LAB/n1/data/pg_ident.conf".to_owned());
    config.pg_ident = Some(vec!["m a b".to_owned()]);
    let (parameters, _) = params::for_server(&config, 15);
    let text = render(&config, &parameters, &Recovery::None);
    assert!(text.contains("include '/etc/it''s.conf'\n\n"));
    assert!(text.contains("\nhba_file = '/LAB/n1/data/own_hba.conf'\n"));
    assert_eq!(text.matches("hba_file").count(), 1);
    assert_eq!(text.matches("ident_file").count(), 1);
    assert_eq!(render_hba(&config, &parameters), None);
    assert_eq!(render_ident(&config, &parameters), Some(format!("{HEADER}m a b\n")));
}

#[test]
fn quoting() {
    assert_eq!(escape(r"it's a\b"), r"it''s a\\b");
    assert_eq!(escape("a\nb\0"), "a b ");
}

#[test]
fn bootstrap_access_is_local() {
    let text = render_bootstrap_hba("replicator", "", &["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]);
    assert_eq!(
        text,
        format!(
            "{HEADER}local\treplication\treplicator\t\ttrust\nlocal\tall\tall\t\ttrust\n\
             host\treplication\treplicator\t127.0.0.1/32\ttrust\nhost\tall\tall\t127.0.0.1/32\ttrust\n\
             host\treplication\treplicator\t::1/128\ttrust\nhost\tall\tall\t::1/128\ttrust\n"
        )
    );
    assert!(render_bootstrap_hba("a b", "x\"y", &[]).contains("local\tall\t\"x\"\"y\"\t\ttrust"));
}

#[test]
fn auto_conf_loses_recovery_settings_only() {
    let captured = include_str!("../../../tests/pgdata/replica/postgresql.auto.conf");
    assert_eq!(sanitise_auto(captured), None);
    let text =
        "# note\nwork_mem = '1MB'\nprimary_conninfo = 'x'\n  RECOVERY_TARGET_TIME= 'x'\nrestore_command 'y'\n#primary_conninfo = 'z'";
    assert_eq!(sanitise_auto(text).as_deref(), Some("# note\nwork_mem = '1MB'\n#primary_conninfo = 'z'"));
}

#[test]
fn differences_by_name() {
    let old = "# a\ninclude 'x'\na = '1'\nb = '2'\nc = '3'\n";
    let new = "# b\ninclude 'x'\na = '1'\nb = '9'\nd = '4'\n";
    assert_eq!(changed_settings(old, new).into_iter().collect::<Vec<_>>(), ["b", "c", "d"]);
    assert!(changed_settings(new, new).is_empty());
}

#[test]
fn first_write_keeps_the_original_and_the_second_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = on_disk(dir.path());
    let (parameters, _) = params::for_server(&config, 15);
    let plan = plan_standby(&config, Some(&upstream("postgres://10.77.0.1:5432/postgres")), 15).unwrap();
    let recovery = Recovery::Standby(plan.settings);
    let changes = write_all(&config, &parameters, &recovery, plan.connection.as_ref()).unwrap();
    let layout = Layout::new(&config);
    assert_eq!(read(&layout.base), "# original\nmax_wal_size = 1GB\n");
    assert!(read(&layout.conf).starts_with(HEADER));
    assert_eq!(read(&layout.standby_signal), "");
    assert_eq!(read(&config.pgpass), "10.77.0.1:5432:*:replicator:replpw\n");
    for path in [&layout.conf, &layout.hba, &layout.standby_signal, &config.pgpass] {
        assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o777, 0o600, "{}", path.display());
    }
    assert!(changes.settings.contains("primary_conninfo") && changes.files.contains(&layout.conf));
    let again = write_all(&config, &parameters, &recovery, plan.connection.as_ref()).unwrap();
    assert!(!again.any() && again.settings.is_empty(), "{again:?}");
}

#[test]
fn a_reload_names_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = on_disk(dir.path());
    let write = |config: &PostgresConfig| write_for_reload(config, &params::for_server(config, 15).0, &Recovery::None, None).unwrap();
    write(&config);
    config.parameters.insert("work_mem".to_owned(), "8MB".to_owned());
    config.parameters.remove("shared_buffers");
    let changes = write(&config);
    assert_eq!(changes.settings.iter().map(String::as_str).collect::<Vec<_>>(), ["shared_buffers", "work_mem"]);
    assert_eq!(changes.files.len(), 1);
    config.pg_hba.as_mut().unwrap().push("host all all ::/0 md5".to_owned());
    let changes = write(&config);
    assert!(changes.any() && changes.settings.is_empty());
    assert!(!write(&config).any());
}

#[test]
fn a_primary_has_no_signal_files() {
    let dir = tempfile::tempdir().unwrap();
    let config = on_disk(dir.path());
    let layout = Layout::new(&config);
    for path in [&layout.standby_signal, &layout.recovery_signal, &layout.recovery_conf] {
        std::fs::write(path, "").unwrap();
    }
    let (parameters, _) = params::for_server(&config, 15);
    write_all(&config, &parameters, &Recovery::Keep, None).unwrap();
    assert!(layout.standby_signal.exists() && layout.recovery_conf.exists());
    write_all(&config, &parameters, &Recovery::Targeted(BTreeMap::new()), None).unwrap();
    assert!(!layout.standby_signal.exists() && layout.recovery_signal.exists());
    write_all(&config, &parameters, &Recovery::None, None).unwrap();
    assert!(!layout.recovery_signal.exists() && !layout.recovery_conf.exists());
}

#[test]
fn a_generated_file_never_becomes_the_base() {
    let dir = tempfile::tempdir().unwrap();
    let config = on_disk(dir.path());
    let (parameters, _) = params::for_server(&config, 15);
    let layout = Layout::new(&config);
    std::fs::write(&layout.conf, render(&config, &parameters, &Recovery::None)).unwrap();
    write_all(&config, &parameters, &Recovery::None, None).unwrap();
    assert_eq!(read(&layout.base), "");
    // From the backup, where there is one.
    std::fs::remove_file(&layout.base).unwrap();
    std::fs::write(config.data_dir.join("postgresql.base.conf.backup"), "# saved\n").unwrap();
    write_all(&config, &parameters, &Recovery::None, None).unwrap();
    assert_eq!(read(&layout.base), "# saved\n");
}

#[test]
fn a_crash_between_the_link_and_the_new_file_repeats_harmlessly() {
    let dir = tempfile::tempdir().unwrap();
    let config = on_disk(dir.path());
    let (parameters, _) = params::for_server(&config, 15);
    let layout = Layout::new(&config);
    std::fs::hard_link(&layout.conf, &layout.base).unwrap();
    write_all(&config, &parameters, &Recovery::None, None).unwrap();
    assert_eq!(read(&layout.base), "# original\nmax_wal_size = 1GB\n");
    assert!(read(&layout.conf).starts_with(HEADER));
}

#[test]
fn backups_go_there_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let config = on_disk(dir.path());
    let (parameters, _) = params::for_server(&config, 15);
    let layout = Layout::new(&config);
    std::fs::write(&layout.ident, "# ident\n").unwrap();
    write_all(&config, &parameters, &Recovery::None, None).unwrap();
    save_backups(&config, &parameters).unwrap();
    for name in ["postgresql.conf", "postgresql.base.conf", "pg_hba.conf", "pg_ident.conf"] {
        let backup = config.data_dir.join(format!("{name}.backup"));
        assert_eq!(read(&backup), read(&config.data_dir.join(name)));
        assert_eq!(std::fs::metadata(backup).unwrap().mode() & 0o777, 0o600);
    }
    let base = read(&layout.base);
    std::fs::remove_file(&layout.base).unwrap();
    std::fs::remove_file(&layout.ident).unwrap();
    std::fs::remove_file(config.data_dir.join("pg_ident.conf.backup")).unwrap();
    restore_backups(&config, &parameters).unwrap();
    assert_eq!((read(&layout.base), read(&layout.ident)), (base, String::new()));
}

#[test]
fn bootstrap_lines_are_appended_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = on_disk(dir.path());
    config.pg_hba = None;
    let (parameters, _) = params::for_server(&config, 15);
    let layout = Layout::new(&config);
    std::fs::write(&layout.hba, "# from initdb\n").unwrap();
    let lines = ["host all all all md5".to_owned()];
    append_hba(&config, &parameters, &lines).unwrap();
    append_hba(&config, &parameters, &lines).unwrap();
    assert_eq!(read(&layout.hba), "# from initdb\n\nhost all all all md5\n");
    config.pg_hba = Some(vec!["x".to_owned()]);
    append_hba(&config, &parameters, &["never".to_owned()]).unwrap();
    assert!(!read(&layout.hba).contains("never"));
}

#[test]
fn group_access_is_kept() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let config = on_disk(dir.path());
    std::fs::set_permissions(&config.data_dir, std::fs::Permissions::from_mode(0o750)).unwrap();
    write_all(&config, &params::for_server(&config, 15).0, &Recovery::None, None).unwrap();
    assert_eq!(std::fs::metadata(config.data_dir.join("postgresql.conf")).unwrap().mode() & 0o777, 0o640);
}
