//! Good and bad configuration files. Expected diagnostics stand beside the files; `UPDATE_GOLDEN=1` rewrites them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mastiff::config::report::{validate_config, Options};
use mastiff::config::types::{OnConflict, VipLifetime, VipSettings, WatchdogDriver, WatchdogSettings};
use mastiff::config::{dump, load, load_ctl, reference_markdown, witness, Config, Diagnostic, Effective, Loaded};
use mastiff::ha::config::{SyncMode, WatchdogConfig, WatchdogMode};
use mastiff::ha::fence::VipRole;
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
    let texts = ["good/anchors.yml", "good/vip.yml"].map(|name| std::fs::read_to_string(folder(name)).unwrap());
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
    for text in &texts {
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
         watchdog: {{mode: required, device: /nowhere/watchdog}}\nvip: [{{address: 10.0.0.9, interface: lo}}, {{address: 10.0.0.8, interface: no-such}}]\n\
         postgresql: {{listen: '127.0.0.1:1', connect_address: 'h:1', data_dir: {}, bin_dir: /nowhere, authentication: {{replication: {{username: r}}}}}}\n",
        data.display()
    );
    std::fs::write(&file, text).unwrap();
    let look = Options { look_at_machine: true, ..Options::default() };
    let text = validate_config(Some(&file), &home(), look).text();
    assert!(text.contains(&format!("restapi.listen: Port {port} is already in use.")), "{text}");
    assert!(text.contains("doesn't look like a valid data directory") && text.contains("'/nowhere' does not exist"), "{text}");
    assert!(!text.contains("not reachable"), "{text}");
    assert!(text.contains("error: watchdog.device: there is no /nowhere/watchdog"), "{text}");
    assert!(
        text.contains("error: vip.1.interface: there is no interface 'no-such' on this box; it has ") && !text.contains("'lo'"),
        "{text}"
    );
    let text = validate_config(Some(&file), &home(), Options { ignore_listen_port: true, ..look }).text();
    assert!(!text.contains("in use"), "{text}");
}

#[test]
fn the_command_reads_any_of_them() {
    for path in files("good").iter().filter(|path| path.extension().is_some_and(|extension| extension == "yml")) {
        let settings = load_ctl(Some(path), &Environment::new()).unwrap();
        let alone = path.ends_with("no-store.yml");
        assert!(settings.etcd.is_none() == alone && settings.scope.is_some(), "{}", path.display());
    }
}

#[test]
fn watchdog_and_addresses_with_every_key() {
    let (config, effective) = effective("vip.yml");
    let watchdog = WatchdogConfig { mode: WatchdogMode::Required, hw_timeout: Some(Millis(8000)), safety_margin: None };
    assert_eq!((config.watchdog, effective.ha.watchdog), (watchdog, watchdog));
    let device = WatchdogSettings { device: "/dev/watchdog1".into(), driver: WatchdogDriver::Linux, pretimeout: Some(Millis(2000)) };
    assert_eq!(effective.watchdog, device);
    assert_eq!(effective.ha.vip_roles, [VipRole::Primary, VipRole::Standby, VipRole::Sync, VipRole::AnyStandby].into());
    let plain = VipSettings {
        address: "10.0.0.9".parse().unwrap(),
        prefix: 32,
        interface: "eth0".to_owned(),
        role: VipRole::Primary,
        lifetime: VipLifetime::Auto,
        on_conflict: OnConflict::Claim,
        announce_interval: Some(Millis(30_000)),
        gateway: None,
        label: None,
        preferred: false,
    };
    let expected = [
        plain.clone(),
        VipSettings {
            address: "10.0.0.10".parse().unwrap(),
            prefix: 24,
            role: VipRole::Standby,
            lifetime: VipLifetime::Off,
            on_conflict: OnConflict::Refuse,
            label: Some("eth0:ro".to_owned()),
            preferred: true,
            ..plain.clone()
        },
        VipSettings {
            address: "fd00::9".parse().unwrap(),
            prefix: 128,
            interface: "br-lan.100".to_owned(),
            role: VipRole::AnyStandby,
            lifetime: VipLifetime::Seconds(12.try_into().unwrap()),
            announce_interval: None,
            gateway: Some("fd00::1".parse().unwrap()),
            ..plain.clone()
        },
        VipSettings {
            address: "fd00::a".parse().unwrap(),
            prefix: 64,
            interface: "bond0".to_owned(),
            role: VipRole::Sync,
            announce_interval: Some(Millis(60_000)),
            ..plain.clone()
        },
    ];
    assert_eq!(effective.vip, expected);
    assert_eq!(effective.vip, config.vip);

    let (_, effective) = self::effective("watchdog-systemd.yml");
    assert_eq!((effective.ha.watchdog.mode, effective.watchdog.driver), (WatchdogMode::Automatic, WatchdogDriver::Systemd));
    assert_eq!(effective.vip, [plain], "one map is a list of one");
    let (config, effective) = self::effective("n1.yml");
    assert_eq!((config.watchdog.safety_margin, effective.watchdog), (Some(Millis(5000)), WatchdogSettings::default()));
    assert!(effective.vip.is_empty() && effective.ha.vip_roles.is_empty());
}

#[test]
fn variables_speak_of_one_address() {
    let (_, effective) = effective("environment.env");
    assert_eq!((effective.ha.watchdog.safety_margin, effective.watchdog.device.as_path()), (None, Path::new("/dev/watchdog1")));
    let vip = &effective.vip[0];
    assert_eq!((vip.address.to_string(), vip.prefix, vip.interface.as_str(), vip.role), ("10.0.0.9".into(), 24, "eth0", VipRole::Standby));
    assert_eq!((vip.lifetime, vip.on_conflict, effective.vip.len()), (VipLifetime::Off, OnConflict::Refuse, 1));

    // Over one address of a file they count key by key, longer lists they replace.
    let with = |file: &str, pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load(Some(file.as_ref()), &pairs.chain(home()).collect())
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("one.yml");
    let text = std::fs::read_to_string(folder("good/n1.yml")).unwrap();
    std::fs::write(&file, format!("{text}\nvip: [{{address: 10.0.0.7, interface: eth0, role: sync}}]\n")).unwrap();
    let file = file.to_str().unwrap();
    let vip = with(file, &[("MASTIFF_VIP_INTERFACE", "eth7")]).unwrap().config.vip;
    assert_eq!((vip[0].address.to_string(), vip[0].interface.as_str(), vip[0].role), ("10.0.0.7".into(), "eth7", VipRole::Sync));
    let four = folder("good/vip.yml");
    let found = with(four.to_str().unwrap(), &[("MASTIFF_VIP_INTERFACE", "eth7")]).unwrap_err();
    assert!(lines(&found).contains("error: vip.address: missing; write the virtual address"), "{}", lines(&found));
    let found = with(file, &[("MASTIFF_VIP_ADDRESS", "10.0.0.9/40")]).unwrap_err();
    let expected =
        "error: vip.address: the prefix length after the slash must be a number from 1 to 32, not '40' (set by MASTIFF_VIP_ADDRESS)\n";
    assert_eq!(lines(&found), expected);
}

#[test]
fn a_reload_says_what_needs_a_restart() {
    let old = good("vip.yml").config;
    let mut new = old.clone();
    (new.watchdog.mode, new.watchdog.hw_timeout, new.watchdog.safety_margin) = (WatchdogMode::Off, None, None);
    assert!(old.needs_restart(&new).is_empty());
    new.vip.pop();
    assert_eq!(old.needs_restart(&new), Vec::<&str>::new());
    let other = good("watchdog-systemd.yml").config;
    assert_eq!(old.needs_restart(&other), ["watchdog.device", "watchdog.driver", "watchdog.pretimeout"]);
}

/// The printed tables are those of the code; what stands above them is written by hand. UPDATE_GOLDEN=1 writes the tables.
#[test]
fn the_reference_is_generated() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let first = "\n## top level\n";
    let (head, _) = text.split_once(first).unwrap();
    let reference = reference_markdown();
    let (_, tables) = reference.split_once(first).unwrap();
    let whole = format!("{head}{first}{tables}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &whole).unwrap();
    }
    assert!(
        text == whole || std::env::var_os("UPDATE_GOLDEN").is_some(),
        "UPDATE_GOLDEN=1 cargo test --test config writes the tables anew"
    );
}

#[test]
fn a_witness_needs_its_store_and_nothing_else() {
    let load = |text: &str| witness::load(None, &BTreeMap::from([("PATRONI_CONFIGURATION".to_owned(), text.to_owned())]));
    let whole =
        "{scope: demo, raft: {self_addr: 'w:7000', partner_addrs: ['a:7000', 'b:7000'], password: 0123456789abcdef, data_dir: /var/lib/w}}";
    let (config, warnings) = load(whole).unwrap();
    assert_eq!((config.scope.as_str(), config.name.as_str(), config.namespace.as_str()), ("demo", "witness", "/service"));
    assert_eq!((config.raft.partners.len(), warnings.len()), (2, 0));
    let found = lines(&load("{scope: a/b, raft: {}}").unwrap_err());
    for key in ["scope: must not contain a slash", "raft.self_addr: missing", "raft.partner_addrs: missing", "raft.data_dir: missing"] {
        assert!(found.contains(key), "{key}: {found}");
    }
    let found = lines(&load("{scope: demo, raft: {self_addr: 'w:7000', partner_addrs: ['a b'], data_dir: /w}}").unwrap_err());
    assert!(found.contains("raft.password: missing") && !found.contains("raft.partner_addrs: missing"), "{found}");
}
