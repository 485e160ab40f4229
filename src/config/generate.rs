//! `--generate-sample-config` and `--generate-config`: texts from gathered facts. Pure; the caller gathers and writes.

use std::collections::BTreeMap;

use serde_json::{json, Map, Value};

use super::dump::to_yaml;
use super::types::PgUser;
use super::{env, file, parameters};

/// Stands where the user must write something.
const FIXME: &str = "#FIXME";

/// What both forms need to know of the box.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Host name: the member's name. `None`: unknown.
    pub hostname: Option<String>,
    /// Address of the box. `None`: unknown.
    pub address: Option<String>,
}

/// What is read from a running server.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// The box.
    pub host: HostFacts,
    /// Directory of the postmaster's executable.
    pub bin_dir: String,
    /// `name` and `current_setting(name)` of the settings that come from file, command line or environment, and of those of
    /// [`parameters::command_line_names`], `data_directory`, `hba_file`, `ident_file`, `config_file`, `port` and `listen_addresses`.
    pub settings: Vec<(String, String)>,
    /// The user that was connected as.
    pub superuser: PgUser,
    /// Port that was connected to, if it was named.
    pub port: Option<u16>,
    /// `pg_hba.conf`, if it is in the data directory.
    pub hba: Option<String>,
    /// `pg_ident.conf`, if it is in the data directory.
    pub ident: Option<String>,
}

/// Kept out of the shared configuration: commands and files are each member's own affair.
const LOCAL_SETTINGS: [&str; 8] = [
    "archive_command",
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "ssl_passphrase_command",
    "hba_file",
    "ident_file",
    "config_file",
];

/// A sample with sane defaults; variables that are set take their place in it.
#[must_use]
pub fn sample_config(host: &HostFacts, variables: &BTreeMap<String, String>) -> String {
    let mut tree = template(host, variables);
    let replicator = tree["postgresql"]["authentication"]["replication"]["username"].as_str().unwrap_or("replicator").to_owned();
    set(&mut tree, &["postgresql", "parameters"], json!({"password_encryption": "scram-sha-256"}));
    set(
        &mut tree,
        &["postgresql", "pg_hba"],
        json!(["host all all all scram-sha-256", format!("host replication {replicator} all scram-sha-256")]),
    );
    set(&mut tree, &["postgresql", "authentication", "rewind"], json!({"username": "rewind_user", "password": FIXME}));
    set(&mut tree, &["bootstrap", "dcs", "postgresql", "use_pg_rewind"], json!(true));
    let defaults: Map<String, Value> = parameters::defaults().map(|(name, value)| (name.to_owned(), scalar(value))).collect();
    set(&mut tree, &["bootstrap", "dcs", "postgresql", "parameters"], Value::Object(defaults));
    render(&tree)
}

/// The configuration of a running server.
#[must_use]
pub fn config_of_server(facts: &ServerFacts, variables: &BTreeMap<String, String>) -> String {
    let mut tree = template(&facts.host, variables);
    let (mut local, mut shared) = (Map::new(), Map::new());
    let mut named: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, value) in &facts.settings {
        match name.as_str() {
            "data_directory" | "port" | "listen_addresses" | "cluster_name" => {
                named.insert(name, value);
            }
            name if LOCAL_SETTINGS.contains(&name) => {
                local.insert(name.to_owned(), json!(value));
            }
            name => {
                shared.insert(name.to_owned(), json!(value));
            }
        }
    }
    let port = named.get("port").copied().unwrap_or("5432");
    let listen = named.get("listen_addresses").copied().unwrap_or("localhost");
    let address = facts.host.address.as_deref().unwrap_or(FIXME);
    let connect_port = facts.port.map_or_else(|| port.to_owned(), |port| port.to_string());
    set(&mut tree, &["postgresql", "connect_address"], json!(format!("{}:{connect_port}", bracketed(address))));
    let listen_list: Vec<String> = listen.split(',').map(|one| bracketed(one.trim())).collect();
    set(&mut tree, &["postgresql", "listen"], json!(format!("{}:{port}", listen_list.join(","))));
    if let Some(directory) = named.get("data_directory") {
        set(&mut tree, &["postgresql", "data_dir"], json!(directory));
    }
    if let Some(scope) = named.get("cluster_name").filter(|scope| !scope.is_empty()) {
        set(&mut tree, &["scope"], json!(scope));
    }
    set(&mut tree, &["postgresql", "bin_dir"], json!(facts.bin_dir));
    set(&mut tree, &["postgresql", "authentication", "superuser"], user(&facts.superuser));
    set(&mut tree, &["postgresql", "authentication", "replication"], json!({"username": FIXME, "password": FIXME}));
    set(&mut tree, &["postgresql", "parameters"], Value::Object(local));
    set(&mut tree, &["bootstrap", "dcs", "postgresql", "parameters"], Value::Object(shared));
    for (key, text) in [("pg_hba", &facts.hba), ("pg_ident", &facts.ident)] {
        let lines: Vec<&str> =
            text.iter().flat_map(|text| text.lines()).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        if !lines.is_empty() {
            set(&mut tree, &["postgresql", key], json!(lines));
        }
    }
    render(&tree)
}

fn template(host: &HostFacts, variables: &BTreeMap<String, String>) -> Value {
    let address = bracketed(host.address.as_deref().unwrap_or(FIXME));
    let mut tree = json!({
        "scope": FIXME,
        "name": host.hostname.as_deref().unwrap_or(FIXME),
        "log": {"type": "plain", "level": "INFO", "max_queue_size": 1000},
        "restapi": {"connect_address": format!("{address}:8008"), "listen": format!("{address}:8008")},
        "bootstrap": {"dcs": {"loop_wait": 10, "retry_timeout": 10, "ttl": 30, "postgresql": {"use_slots": true}}},
        "postgresql": {
            "data_dir": FIXME,
            "connect_address": format!("{address}:5432"),
            "listen": format!("{address}:5432"),
            "bin_dir": "",
            "authentication": {
                "superuser": {"username": "postgres", "password": FIXME},
                "replication": {"username": "replicator", "password": FIXME},
            },
        },
        "tags": {"failover_priority": 1, "sync_priority": 1, "noloadbalance": false, "clonefrom": true, "nostream": false},
    });
    let over = env::collect(variables).value;
    if let Value::Object(map) = &mut tree {
        let has_store =
            ["etcd", "etcd3", "raft", "consul", "zookeeper", "kubernetes", "exhibitor"].iter().any(|store| over.contains_key(*store));
        if !has_store {
            map.insert("etcd3".to_owned(), json!({"hosts": [FIXME]}));
        }
        file::patch(map, over);
    }
    tree
}

fn user(user: &PgUser) -> Value {
    let mut map = Map::new();
    map.insert("username".to_owned(), json!(user.username));
    map.insert("password".to_owned(), json!(user.password.as_ref().map_or(FIXME, |password| password.0.as_str())));
    map.extend(user.options.iter().map(|(name, value)| (name.clone(), json!(value))));
    Value::Object(map)
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

fn scalar(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number))
}

fn set(tree: &mut Value, path: &[&str], value: Value) {
    let Some((last, sections)) = path.split_last() else { return };
    let mut at = tree;
    for section in sections {
        let Value::Object(map) = at else { return };
        at = map.entry((*section).to_owned()).or_insert_with(|| Value::Object(Map::new()));
    }
    if let Value::Object(map) = at {
        map.insert((*last).to_owned(), value);
    }
}

/// The sections in a readable order, with Patroni's comments.
fn render(tree: &Value) -> String {
    let mut text = String::new();
    let head = [
        "scope",
        "namespace",
        "name",
        "log",
        "restapi",
        "ctl",
        "citus",
        "consul",
        "etcd",
        "etcd3",
        "exhibitor",
        "kubernetes",
        "raft",
        "zookeeper",
    ];
    for name in head {
        section(&mut text, tree, name);
    }
    if let Some(bootstrap) = tree["bootstrap"].as_object() {
        text.push_str(
            "\n# The bootstrap configuration. Works only when the cluster is not yet initialized.\n\
             # If the cluster is already initialized, all changes in the `bootstrap` section are ignored!\nbootstrap:\n",
        );
        for (name, value) in bootstrap {
            if name == "dcs" {
                text.push_str(
                    "  # This section will be written into <dcs>:/<namespace>/<scope>/config after initializing\n\
                     \x20 # new cluster and all other cluster members will use it as a `global configuration`.\n\
                     \x20 # WARNING! If you want to change any of the parameters that were set up\n\
                     \x20 # via `bootstrap.dcs` section, please use `mastiff ctl edit-config`!\n",
                );
            }
            text.push_str(&block(name, value, "  "));
        }
    }
    section(&mut text, tree, "postgresql");
    for (name, example) in [("watchdog", WATCHDOG), ("vip", VIP)] {
        if tree.get(name).is_none() {
            text.push_str(example);
        }
        section(&mut text, tree, name);
    }
    section(&mut text, tree, "tags");
    text
}

const WATCHDOG: &str = "
# The hardware watchdog is used where there is one. `required` never leads without it.
#watchdog:
#  mode: automatic
#  device: /dev/watchdog
";
const VIP: &str = "
# An address that follows the leader. PostgreSQL must listen on it: `listen: '*:5432'`.
#vip:
#- address: 10.0.0.9
#  interface: eth0
";

fn section(text: &mut String, tree: &Value, name: &str) {
    if let Some(value) = tree.get(name) {
        if value.is_object() {
            text.push('\n');
        }
        text.push_str(&block(name, value, ""));
    }
}

fn block(name: &str, value: &Value, indent: &str) -> String {
    let map: Map<String, Value> = [(name.to_owned(), value.clone())].into_iter().collect();
    to_yaml(&Value::Object(map)).lines().map(|line| format!("{indent}{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::{config_of_server, sample_config, HostFacts, ServerFacts};
    use crate::config::types::{PgUser, Secret};
    use crate::config::yaml;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn host() -> HostFacts {
        HostFacts { hostname: Some("box1".to_owned()), address: Some("10.0.0.1".to_owned()) }
    }

    #[test]
    fn the_sample_loads_once_its_gaps_are_filled() {
        let variables =
            BTreeMap::from([("PATRONI_SCOPE".to_owned(), "on".to_owned()), ("PATRONI_ETCD3_HOSTS".to_owned(), "a:1,b:2".to_owned())]);
        let text = sample_config(&host(), &variables);
        let tree = yaml::parse(&text).unwrap().value;
        let uncommented =
            text.lines().map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ') || rest.starts_with("  ")).unwrap_or(line));
        let whole = yaml::parse(&uncommented.collect::<Vec<_>>().join("\n")).unwrap().value;
        assert_eq!(
            (&whole["watchdog"]["mode"], &whole["vip"][0]["interface"]),
            (&json!("automatic"), &json!("eth0")),
            "the examples are YAML"
        );
        assert_eq!(tree["scope"], json!("on"), "quoted, or YAML 1.1 reads a boolean");
        assert_eq!(tree["etcd3"]["hosts"], json!(["a:1", "b:2"]));
        assert_eq!(tree["bootstrap"]["dcs"]["postgresql"]["parameters"]["wal_log_hints"], json!("on"));
        let loaded = crate::config::load(None, &BTreeMap::from([("PATRONI_CONFIGURATION".to_owned(), text)])).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert!(loaded.config.effective(None).warnings.is_empty());
    }

    #[test]
    fn a_running_server_is_described() {
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let facts = ServerFacts {
            host: host(),
            bin_dir: "/bin".to_owned(),
            settings: vec![
                setting("data_directory", "/d"),
                setting("port", "5433"),
                setting("listen_addresses", "localhost,::1"),
                setting("cluster_name", "c1"),
                setting("archive_command", "cp %p /x"),
                setting("work_mem", "4MB"),
            ],
            superuser: PgUser { username: "p".to_owned(), password: Some(Secret("pw".to_owned())), options: BTreeMap::new() },
            port: None,
            hba: Some("# c\nlocal all all trust\n\n".to_owned()),
            ident: Some("# nothing\n".to_owned()),
        };
        let tree = yaml::parse(&config_of_server(&facts, &BTreeMap::new())).unwrap().value;
        assert_eq!(tree["scope"], json!("c1"));
        let pg = &tree["postgresql"];
        assert_eq!(
            (&pg["listen"], &pg["connect_address"], &pg["data_dir"]),
            (&json!("localhost,[::1]:5433"), &json!("10.0.0.1:5433"), &json!("/d"))
        );
        assert_eq!((&pg["pg_hba"], pg.get("pg_ident")), (&json!(["local all all trust"]), None));
        assert_eq!(pg["parameters"], json!({"archive_command": "cp %p /x"}));
        assert_eq!(tree["bootstrap"]["dcs"]["postgresql"]["parameters"], json!({"work_mem": "4MB"}));
        assert_eq!(pg["authentication"]["superuser"], json!({"username": "p", "password": "pw"}));
    }
}
