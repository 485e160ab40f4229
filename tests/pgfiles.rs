//! The files that are written and the parsers against a real PostgreSQL: a primary and a standby start from them.
//!
//! Needs `initdb` (in `PATH` or where Debian puts it) and, as root, the user `postgres`; without them it says so and passes.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mastiff::config::types::{BootstrapConfig, HostPort, PgUser, PostgresConfig, Secret};
use mastiff::ha::action::Upstream;
use mastiff::ha::types::MemberName;
use mastiff::ha::view::ControlState;
use mastiff::postgres::conf::{self, Recovery};
use mastiff::postgres::postmaster::{self, Occupant, Status};
use mastiff::postgres::{conninfo, controldata, files, params};

fn bin_dir() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").ok().into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = debian.chain(std::env::split_paths(&path)).filter(|dir| complete(dir)).collect();
    found.sort();
    found.pop()
}

fn complete(dir: &Path) -> bool {
    ["initdb", "postgres", "pg_ctl", "pg_controldata", "pg_basebackup", "psql"].iter().all(|name| dir.join(name).is_file())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command as a user that PostgreSQL accepts.
fn as_postgres(program: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.env("LC_ALL", "C").stdin(Stdio::null()).current_dir("/");
    command
}

fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn give_to_postgres(path: &Path) {
    if is_root() {
        run(Command::new("chown").args(["-R", "postgres:"]).arg(path));
    }
}

fn user(name: &str, password: &str) -> PgUser {
    PgUser { username: name.to_owned(), password: Some(Secret(password.to_owned())), options: BTreeMap::new() }
}

/// One server of this test; it ends with it.
struct Node {
    config: PostgresConfig,
    bin: PathBuf,
    major: u32,
    child: Option<Child>,
}

impl Node {
    fn new(home: &Path, name: &str, bin: &Path) -> Node {
        let home = home.join(name);
        std::fs::create_dir(&home).unwrap();
        give_to_postgres(&home);
        let port = free_port();
        let config = PostgresConfig {
            scope: "it's".to_owned(),
            name: name.to_owned(),
            listen_addresses: "127.0.0.1".to_owned(),
            port,
            connect_address: HostPort { host: "127.0.0.1".to_owned(), port },
            data_dir: home.join("data"),
            config_dir: home.join("data"),
            config_base_name: "postgresql".to_owned(),
            bin_dir: Some(bin.to_owned()),
            bin_name: BTreeMap::new(),
            pgpass: home.join("pgpass"),
            superuser: user("postgres", "s"),
            replication: user("repl icator", "p:w\\'x"),
            rewind: None,
            use_unix_socket: true,
            use_unix_socket_repl: false,
            parameters: BTreeMap::from([
                ("unix_socket_directories".to_owned(), home.to_string_lossy().into_owned()),
                ("max_connections".to_owned(), "30".to_owned()),
                ("shared_buffers".to_owned(), "8MB".to_owned()),
                ("log_line_prefix".to_owned(), "it's \\ %m ".to_owned()),
                ("io_method".to_owned(), "worker".to_owned()),
                ("wal_keep_segments".to_owned(), "2".to_owned()),
            ]),
            recovery_conf: BTreeMap::new(),
            pg_hba: Some(vec![
                "local all all trust".to_owned(),
                "host all,replication \"repl icator\" 127.0.0.1/32 scram-sha-256".to_owned(),
            ]),
            pg_ident: None,
            custom_conf: None,
            basebackup: Vec::new(),
            create_replica_methods: Vec::new(),
            replica_methods: BTreeMap::new(),
            callbacks: BTreeMap::new(),
            pre_promote: None,
            before_stop: None,
            use_slots: false,
            pg_ctl_timeout_ms: 60_000,
            rewind_options: Vec::new(),
            bootstrap: BootstrapConfig::default(),
        };
        Node { config, bin: bin.to_owned(), major: 0, child: None }
    }

    fn parameters(&self) -> params::Parameters {
        params::for_server(&self.config, self.major).0
    }

    fn start(&mut self, parameters: &params::Parameters) {
        give_to_postgres(self.config.data_dir.parent().unwrap());
        let conf_file = conf::Layout::new(&self.config).conf;
        let log = std::fs::File::create(self.config.data_dir.with_extension("log")).unwrap();
        let mut command = as_postgres(&self.bin.join("postgres"));
        command.args(params::command_line(&self.config.data_dir, &conf_file, parameters));
        self.child = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        self.wait(|file| file.status == Some(Status::Ready));
    }

    fn wait(&self, done: impl Fn(&postmaster::PostmasterPid) -> bool) {
        let until = Instant::now() + Duration::from_secs(30);
        while !postmaster::read(&self.config.data_dir).unwrap().is_some_and(|file| done(&file)) {
            let log = || std::fs::read_to_string(self.config.data_dir.with_extension("log")).unwrap_or_default();
            assert!(Instant::now() < until, "{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn sql(&self, query: &str) -> String {
        let local = conninfo::for_command_line(&conninfo::local(&self.config, &self.config.superuser, false), self.major);
        run(as_postgres(&self.bin.join("psql")).args(["-AtXq", "-F=", "-d", &local, "-c", query])).trim_end().to_owned()
    }

    fn stop(&mut self, mode: &str) {
        run(as_postgres(&self.bin.join("pg_ctl")).args(["-w", "-m", mode, "-D"]).arg(&self.config.data_dir).arg("stop"));
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
    }

    /// Bytes and text of `pg_control` must say the same.
    fn control(&self) -> controldata::ControlFile {
        let text = run(as_postgres(&self.bin.join("pg_controldata")).arg(&self.config.data_dir));
        let file = controldata::read(&self.config.data_dir).unwrap();
        assert_eq!(controldata::parse_text(&text).unwrap(), file);
        file
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for pid in postmaster::processes_in(&self.config.data_dir) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

fn make_primary(home: &Path, bin: &Path) -> Node {
    let mut node = Node::new(home, "n1", bin);
    run(as_postgres(&bin.join("initdb")).args(["--no-sync", "-k", "-A", "trust", "-U", "postgres", "-D"]).arg(&node.config.data_dir));
    let files::Contents::Cluster { major } = files::classify(&node.config.data_dir) else { panic!("no cluster after initdb") };
    node.major = major;
    assert_eq!(node.control().data.state, ControlState::ShutDown);
    let parameters = node.parameters();
    conf::write_all(&node.config, &parameters, &Recovery::None, None).unwrap();
    node.start(&parameters);
    node
}

fn make_standby(home: &Path, primary: &Node) -> (Node, String) {
    let mut node = Node::new(home, "n2", &primary.bin);
    node.major = primary.major;
    let upstream = Upstream { name: MemberName::from("n1"), conn_url: conninfo::conn_url(&primary.config.connect_address) };
    let source = conninfo::connect_as(&node.config.replication, &upstream.conn_url).unwrap();
    mastiff::postgres::pgpass::write(&node.config.pgpass, &source).unwrap();
    give_to_postgres(&node.config.pgpass);
    let mut copy = as_postgres(&node.bin.join("pg_basebackup"));
    copy.env("PGPASSFILE", &node.config.pgpass).args(["-X", "stream", "-c", "fast", "-R"]);
    run(copy.arg("-D").arg(&node.config.data_dir).args(["-d", &conninfo::for_command_line(&source, node.major)]));
    let label = std::fs::read_to_string(node.config.data_dir.join("backup_label")).unwrap();
    assert!(files::parse_backup_label(&label).is_some());

    // The primary had 30 connections when it wrote its WAL.
    node.config.parameters.insert("max_connections".to_owned(), "25".to_owned());
    let mut parameters = node.parameters();
    let raised = params::raise_for_standby(&mut parameters, &controldata::read(&node.config.data_dir).unwrap().settings);
    assert_eq!(raised.len(), 1);
    let plan = conf::plan_standby(&node.config, Some(&upstream), node.major).unwrap();
    let wanted = plan.settings["primary_conninfo"].clone();
    conf::write_all(&node.config, &parameters, &Recovery::Standby(plan.settings), plan.connection.as_ref()).unwrap();
    let auto = std::fs::read_to_string(node.config.data_dir.join("postgresql.auto.conf")).unwrap();
    assert!(!auto.contains("primary_conninfo"), "pg_basebackup -R wrote it, and it must not win: {auto}");
    node.start(&parameters);
    (node, wanted)
}

#[test]
fn primary_and_standby_start_from_our_files() {
    let Some(bin) = bin_dir() else {
        println!("skipped: no initdb found");
        return;
    };
    let home = tempfile::tempdir().unwrap();
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut primary = make_primary(home.path(), &bin);

    let Occupant::Postmaster(file) = postmaster::occupant(&primary.config.data_dir).unwrap() else { panic!("nobody lives there") };
    assert_eq!((file.port, file.socket_dir.as_deref()), (Some(primary.config.port), primary.config.data_dir.parent()));
    assert!(postmaster::processes_in(&primary.config.data_dir).len() > 3);
    assert_eq!(primary.sql("show cluster_name"), "it's");
    assert_eq!(primary.sql("show log_line_prefix"), "it's \\ %m");
    let sources =
        primary.sql("select name, setting, source from pg_settings where name in ('max_connections', 'wal_level', 'wal_log_hints')");
    assert_eq!(sources, "max_connections=30=command line\nwal_level=replica=command line\nwal_log_hints=on=command line");
    if primary.major >= 13 {
        assert_eq!(primary.sql("show wal_keep_size"), "32MB");
    }
    assert_eq!(primary.sql("select count(*) from pg_file_settings where error is not null and error not like '%cannot be changed%'"), "0");
    primary.sql("create role \"repl icator\" login replication password 'p:w\\''x'");
    primary.sql("checkpoint");
    assert_eq!(primary.control().data.state, ControlState::InProduction);
    assert_eq!(primary.control().settings.max_connections, 30);

    let (mut standby, wanted) = make_standby(home.path(), &primary);
    assert_eq!(standby.sql("select pg_is_in_recovery()"), "t");
    let until = Instant::now() + Duration::from_secs(30);
    while standby.sql("select status from pg_stat_wal_receiver") != "streaming" {
        assert!(Instant::now() < until, "the standby does not stream");
        std::thread::sleep(Duration::from_millis(50));
    }
    let running = standby.sql("select conninfo from pg_stat_wal_receiver");
    assert!(conninfo::same(&running, &wanted), "{running}\n{wanted}");
    assert!(conninfo::same(&standby.sql("show primary_conninfo"), &wanted));
    assert!(conninfo::points_to(&running, &conninfo::conn_url(&primary.config.connect_address)));
    assert_eq!(standby.control().data.state, ControlState::InArchiveRecovery);

    standby.stop("fast");
    assert_eq!(standby.control().data.state, ControlState::ShutDownInRecovery);
    primary.stop("immediate");
    assert_eq!(primary.control().data.state, ControlState::InProduction);
    assert_eq!(postmaster::occupant(&standby.config.data_dir).unwrap(), Occupant::Nobody);
    assert!(postmaster::processes_in(&standby.config.data_dir).is_empty());
}
