//! Good and bad configuration files. Expected diagnostics stand beside the files; `UPDATE_GOLDEN=1` rewrites them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mastiff::config::report::{validate_config, Options};
use mastiff::config::{dump, load, load_ctl, Config, Diagnostic, Effective, Loaded};
use mastiff::ha::config::{SyncMode, WatchdogMode};
use mastiff::ha::types::Millis;
use serde_json::json;

type Environment = BTreeMap<String, String>;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(name)
}

fn home() -> Environment {
    BTreeMap::from([("HOME".to_owned(), "/home/pg".to_owned())])
}

/// Paths of this machine have no place in the expectations.
fn lines(found: &[Diagnostic]) -> String {
    let prefix = format!("{}/", env!("CARGO_MANIFEST_DIR"));
    found.iter().map(|one| format!("{one}\n").replace(&prefix, "")).collect()
}

fn golden(path: &Path, actual: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(actual, expected, "{}: run with UPDATE_GOLDEN=1 and review the difference", path.display());
}

fn environment_of(path: &Path) -> Environment {
    let text = std::fs::read_to_string(path).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).chain(home()).collect()
}

fn good(name: &str) -> Loaded {
    let path = folder("good").join(name);
    let result = if name.ends_with(".env") { load(None, &environment_of(&path)) } else { load(Some(&path), &home()) };
    result.unwrap_or_else(|found| panic!("{name}:\n{}", lines(&found)))
}

fn effective(name: &str) -> (Config, Effective) {
    let config = good(name).config;
    let effective = config.effective(None);
    (config, effective)
}

fn files(of: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder(of)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_none_or(|extension| extension != "expected"));
    files.sort();
    files
}

#[test]
fn good_files_load() {
    for path in files("good") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let loaded = good(name);
        let effective = loaded.config.effective(None);
        let mut text = lines(&loaded.warnings);
        effective.warnings.iter().for_each(|warning| text.push_str(&format!("effective: {warning}\n")));
        golden(&path.with_extension("expected"), &text);
        // What is printed without its secrets loads again: nothing is lost on the way.
        let printed = BTreeMap::from([
            ("PATRONI_CONFIGURATION".to_owned(), dump::to_yaml(&loaded.config.raw)),
            ("HOME".to_owned(), "/home/pg".to_owned()),
        ]);
        let again = load(None, &printed).unwrap_or_else(|found| panic!("{name} printed:\n{}", lines(&found)));
        assert_eq!(again.config.raw, loaded.config.raw, "{name}");
        assert_eq!(again.config.effective(None).postgres, effective.postgres, "{name}");
    }
}

#[test]
fn bad_files_name_all_their_problems() {
    for path in files("bad") {
        let found = match load(Some(&path), &home()) {
            Ok(_) => panic!("{} loaded", path.display()),
            Err(found) => found,
        };
        let text = lines(&found);
        assert!(!text.contains("hunter2"), "{}: a secret is shown:\n{text}", path.display());
        golden(&path.with_extension("expected"), &text);
    }
}

#[test]
fn the_recorded_cluster_gets_its_recorded_parameters() {
    let (config, effective) = effective("n1.yml");
    assert_eq!((config.namespace.as_str(), config.etcd.unwrap().endpoints.len()), ("/service", 3));
    let pg = &effective.postgres;
    let recorded = json!({"cluster_name": "bench", "hot_standby": "on", "listen_addresses": "0.0.0.0", "max_connections": "50",
        "max_locks_per_transaction": "64", "max_prepared_transactions": "0", "max_replication_slots": "10", "max_wal_senders": "10",
        "max_worker_processes": "8", "port": "5432", "shared_buffers": "32MB", "track_commit_timestamp": "off",
        "unix_socket_directories": "/var/lib/lab/n1/sock", "wal_keep_size": "128MB", "wal_level": "replica", "wal_log_hints": "on"});
    assert_eq!(serde_json::to_value(&pg.parameters).unwrap(), recorded);
    assert_eq!(pg.bootstrap.initdb, ["--encoding=UTF8", "--locale=C", "--data-checksums"]);
    assert_eq!((effective.ha.ttl, effective.ha.loop_wait, effective.ha.retry_timeout), (Millis(20_000), Millis(1000), Millis(3000)));
    assert!(effective.ha.use_pg_rewind && effective.ha.remove_data_directory_on_rewind_failure && effective.ha.may_bootstrap);
    assert_eq!(effective.ha.conn_url, "postgres://10.77.0.1:5432/postgres");
    let tags = good("n3.yml").config.tags;
    let published = r#"{"clonefrom":true,"datacenter":"edge","nofailover":true,"noloadbalance":true,"nosync":true}"#;
    assert_eq!(serde_json::to_string(&tags).unwrap(), published);
}

#[test]
fn anchors_merges_and_text_for_everything() {
    let (config, effective) = effective("anchors.yml");
    assert_eq!((config.scope.as_str(), config.name.as_str()), ("12", "größe-1"));
    assert_eq!(config.restapi.authentication.as_ref().unwrap().0, "admin");
    assert_eq!(config.ctl.authentication.as_ref().unwrap().1 .0, "secret word");
    assert!(config.restapi.allowlist_include_members && config.ctl.insecure && config.restapi.request_queue_size == 7);
    assert_eq!(config.etcd.unwrap().endpoints, ["https://10.0.0.1:2379", "https://10.0.0.2:2379", "https://10.0.0.3:2379"]);
    assert_eq!((config.log.mode, config.log.file_size, config.log.deduplicate_heartbeat_logs), (Some(0o640), 1_000_000, false));
    assert_eq!(config.watchdog.mode, WatchdogMode::Off);
    let published = r#"{"clonefrom":1,"failover_priority":"2","nofailover":false,"nosync":"true","rack":false,"zone":3}"#;
    assert_eq!(serde_json::to_string(&config.tags).unwrap(), published);
    let pg = &effective.postgres;
    assert_eq!((pg.superuser.username.as_str(), pg.replication.username.as_str()), ("postgres", "replicator"));
    assert_eq!(pg.replication.options["sslmode"], "prefer");
    assert!(pg.use_unix_socket && pg.parameters["fsync"] == "on" && pg.recovery_conf["restore_command"] == "cp %f %p");
    assert_eq!(pg.callbacks["on_start"], ["/bin/sh", "-c", "echo 'a b'"]);
    assert_eq!(pg.replica_methods["pgbackrest"]["keep_data"], json!(true));
    assert_eq!(pg.bootstrap.initdb, ["--encoding=UTF8", "--data-checksums"]);
    assert_eq!(pg.pgpass, Path::new("/home/pg/pgpass-größe-1"));
    assert_eq!((effective.ha.ttl, effective.ha.synchronous_mode), (Millis(60_000), SyncMode::On));
    assert!(!effective.ha.tags.nofailover && effective.ha.tags.nosync && effective.ha.tags.clonefrom);
    assert_eq!(effective.ha.tags.failover_priority, 2);
}

#[test]
fn a_directory_is_one_configuration() {
    let (config, effective) = effective("directory");
    assert_eq!((config.name.as_str(), config.namespace.as_str()), ("n1", "/service/eu"));
    let etcd = config.etcd.unwrap();
    assert_eq!(etcd.endpoints, ["https://etcd.example:2380"]);
    assert_eq!(etcd.user.map(|(user, password)| (user, password.0)), Some(("root".to_owned(), "pass word".to_owned())));
    assert_eq!(effective.ha.api_url, "https://[fd00::1]:8008/patroni");
    assert_eq!(effective.postgres.listen_addresses, "10.0.0.1,::1");
    assert_eq!(effective.postgres.callbacks.keys().collect::<Vec<_>>(), ["on_start"]);
    assert_eq!(serde_json::to_string(&config.tags).unwrap(), r#"{"b":2}"#);
}

#[test]
fn variables_alone_and_over_a_file() {
    let (config, effective) = effective("environment.env");
    assert_eq!(config.etcd.as_ref().unwrap().endpoints, ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]);
    assert_eq!((config.log.level, config.watchdog.mode), (log::LevelFilter::Error, WatchdogMode::Required));
    assert!(effective.ha.tags.nofailover && !effective.ha.may_bootstrap);
    assert_eq!(effective.postgres.replication.options["sslmode"], "verify-full");

    let mut env = home();
    env.insert("PATRONI_NAME".to_owned(), "other".to_owned());
    env.insert("PATRONI_RESTAPI_CONNECT_ADDRESS".to_owned(), "10.0.0.9:port".to_owned());
    let found = load(Some(&folder("good/n1.yml")), &env).unwrap_err();
    let expected = "error: restapi.connect_address: '10.0.0.9:port' is not host:port: the port must be a number from 1 to 65535 \
                    (set by PATRONI_RESTAPI_CONNECT_ADDRESS)\n";
    assert_eq!(lines(&found), expected);
    env.remove("PATRONI_RESTAPI_CONNECT_ADDRESS");
    assert_eq!(load(Some(&folder("good/n1.yml")), &env).unwrap().config.name, "other");
}

#[test]
fn nothing_that_is_cut_or_bent_panics() {
    let text = std::fs::read_to_string(folder("good/anchors.yml")).unwrap();
    let mut count = 0_u32;
    let mut load_text = |text: &str| {
        let env = BTreeMap::from([("PATRONI_CONFIGURATION".to_owned(), text.to_owned())]);
        if let Ok(loaded) = load(None, &env) {
            let _ = loaded.config.effective(None);
        }
        let _ = load_ctl(None, &env);
        count += 1;
        if count.is_multiple_of(8) {
            let _ = validate_config(None, &env, Options::default());
        }
    };
    for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
        load_text(&text[..end]);
    }
    // Each value in turn becomes something else.
    let names: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#') && line.contains(": ")).collect();
    for line in names {
        for value in [
            "[]",
            "{}",
            "5",
            "-1",
            "x",
            "true",
            "~",
            "'",
            "1e308",
            "[[1]]",
            "{a: {b: c}}",
            "99999999999999999999",
            "é",
            "<<",
            "::::",
            "%zz://@",
        ] {
            let key = line.split(": ").next().unwrap();
            load_text(&text.replacen(line, &format!("{key}: {value}"), 1));
        }
    }
}

#[test]
fn validation_refuses_what_patroni_refuses() {
    let path = folder("good/patroni-sample.yml");
    let report = validate_config(Some(&path), &home(), Options::default());
    let text = report.text();
    assert!(report.failed, "{text}");
    for key in ["restapi.connect_address", "postgresql.connect_address"] {
        assert!(text.contains(&format!("error: {key}: must not contain \"127.0.0.1\"")), "{text}");
    }

    let report = validate_config(Some(&folder("good/n1.yml")), &home(), Options { strict: true, ..Options::default() });
    assert!(!report.failed, "{}", report.text());
    assert!(report.document.contains("password: '***'") && !report.document.contains("superpw"), "{}", report.document);
    assert!(validate_config(Some(&folder("bad/syntax.yml")), &home(), Options::default()).failed);

    let report = validate_config(Some(&folder("good/anchors.yml")), &home(), Options::default());
    let text = report.text();
    assert!(text.contains("ctl.insecure: must be a boolean without quotes"), "{text}");
    assert!(text.contains("tags.nofailover: only one of nofailover and failover_priority may be given"), "{text}");
    assert!(!text.contains("request_queue_size"), "quoted numbers are fine: {text}");
}

#[test]
fn validation_looks_at_the_machine() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("something"), "x").unwrap();
    let file = directory.path().join("mastiff.yml");
    let text = format!(
        "scope: s\nname: n\nrestapi: {{listen: '127.0.0.1:{port}', connect_address: 'h:1'}}\netcd3: {{host: '127.0.0.1:{port}'}}\n\
         postgresql: {{listen: '127.0.0.1:1', connect_address: 'h:1', data_dir: {}, bin_dir: /nowhere, authentication: {{replication: {{username: r}}}}}}\n",
        data.display()
    );
    std::fs::write(&file, text).unwrap();
    let look = Options { look_at_machine: true, ..Options::default() };
    let text = validate_config(Some(&file), &home(), look).text();
    assert!(text.contains(&format!("restapi.listen: Port {port} is already in use.")), "{text}");
    assert!(text.contains("doesn't look like a valid data directory") && text.contains("'/nowhere' does not exist"), "{text}");
    assert!(!text.contains("not reachable"), "{text}");
    let text = validate_config(Some(&file), &home(), Options { ignore_listen_port: true, ..look }).text();
    assert!(!text.contains("in use"), "{text}");
}

#[test]
fn the_command_reads_any_of_them() {
    for path in files("good").iter().filter(|path| path.extension().is_some_and(|extension| extension == "yml")) {
        let settings = load_ctl(Some(path), &Environment::new()).unwrap();
        assert!(settings.etcd.is_some() && settings.scope.is_some(), "{}", path.display());
    }
}

/// The printed tables are those of the code. UPDATE_GOLDEN=1 writes them.
#[test]
fn the_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let tables = mastiff::config::reference_markdown();
    let begin = page.find(tables.lines().next().unwrap()).expect("the tables begin with their first line");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, format!("{}{}", &page[..begin], tables)).unwrap();
    }
    assert!(page[begin..].trim_end() == tables.trim_end(), "UPDATE_GOLDEN=1 cargo test --test config writes docs/configuration.md anew");
}
