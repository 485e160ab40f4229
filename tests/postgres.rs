//! The PostgreSQL side against a real PostgreSQL: every job once, and what must not go wrong.
//!
//! PostgreSQL refuses to run as root; run as root, each test runs itself again as the user `postgres`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mastiff::clock;
use mastiff::config::types::{BootstrapConfig, HostPort, PgUser, PostgresConfig, Secret};
use mastiff::ha::action::{Job, StartAs, StopMode, Task, Upstream, WipeReason};
use mastiff::ha::input::JobOutcome;
use mastiff::ha::lease::{LeaseClock, PromotePermit};
use mastiff::ha::types::{LeaseId, MemberName, Millis, Timeline};
use mastiff::ha::view::{ControlState, PgRunning, PgState, Role};
use mastiff::postgres::Postgres;
use tokio::sync::{mpsc, watch};

const BIN: &str = "/usr/lib/postgresql/15/bin";
const ROOT_HOME: &str = "/tmp";

/// Runs a test as a user that PostgreSQL accepts.
fn test(name: &str, body: impl Future<Output = ()>) {
    assert!(Path::new(BIN).join("postgres").exists(), "PostgreSQL 15 is missing: apt-get install postgresql-15");
    if rustix::process::geteuid().is_root() {
        again_as_postgres(name);
        return;
    }
    log::set_logger(&Stderr).map(|()| log::set_max_level(log::LevelFilter::Info)).ok();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body);
}

fn again_as_postgres(name: &str) {
    // The user may not be able to reach the build directory.
    let dir = tempfile::Builder::new().prefix("mastiff-test-").tempdir_in(ROOT_HOME).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = |from: &Path, name: &str| {
        let to = dir.path().join(name);
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).unwrap();
        to
    };
    let exe = copy(&std::env::current_exe().unwrap(), "test");
    let agent = copy(Path::new(env!("CARGO_BIN_EXE_mastiff")), "mastiff");
    let status = Command::new("runuser")
        .args(["-u", "postgres", "--", "env", &format!("TEST_AGENT={}", agent.display())])
        .arg(exe)
        .args(["--exact", name, "--nocapture"])
        .current_dir("/tmp")
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed as user postgres");
}

struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        eprintln!("{:>8} {}: {}", clock::now().0 % 1_000_000, record.level(), record.args());
    }
    fn flush(&self) {}
}

/// One member; its server is killed and its directory removed at the end.
struct Node {
    pg: Postgres,
    config: PostgresConfig,
    _dir: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        for pid in mastiff::postgres::postmaster::processes_in(&self.config.data_dir) {
            let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL);
        }
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn user(name: &str, password: &str) -> PgUser {
    PgUser { username: name.to_owned(), password: Some(Secret(password.to_owned())), options: BTreeMap::new() }
}

impl Node {
    fn new(name: &str) -> Node {
        Node::with(name, |_| ())
    }

    fn with(name: &str, change: impl FnOnce(&mut PostgresConfig)) -> Node {
        let dir = tempfile::Builder::new().prefix("mastiff-pg-").tempdir_in("/tmp").unwrap();
        let port = free_port();
        let data_dir = dir.path().join("data");
        let parameters = [("unix_socket_directories", dir.path().to_str().unwrap()), ("shared_buffers", "16MB"), ("max_connections", "30")];
        let hba = ["local all all md5", "host all all 127.0.0.1/32 md5", "host replication replicator 127.0.0.1/32 md5"];
        let mut config = PostgresConfig {
            scope: "demo".to_owned(),
            name: name.to_owned(),
            listen_addresses: "127.0.0.1".to_owned(),
            port,
            connect_address: HostPort { host: "127.0.0.1".to_owned(), port },
            config_dir: data_dir.clone(),
            data_dir,
            config_base_name: "postgresql".to_owned(),
            bin_dir: Some(PathBuf::from(BIN)),
            bin_name: BTreeMap::new(),
            pgpass: dir.path().join("pgpass"),
            superuser: user("postgres", "it's \\secret"),
            replication: user("replicator", "rep$$pass"),
            rewind: Some(user("rewinder", "rew:pass")),
            use_unix_socket: false,
            use_unix_socket_repl: false,
            parameters: parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            recovery_conf: BTreeMap::new(),
            pg_hba: Some(hba.map(str::to_owned).to_vec()),
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
            bootstrap: BootstrapConfig {
                present: true,
                method: "initdb".to_owned(),
                initdb: vec!["--encoding=UTF8".to_owned(), "--locale=C".to_owned(), "--data-checksums".to_owned()],
                ..BootstrapConfig::default()
            },
        };
        change(&mut config);
        let agent = std::env::var("TEST_AGENT").unwrap_or_else(|_| env!("CARGO_BIN_EXE_mastiff").to_owned());
        Node { pg: Postgres::with_launcher(config.clone(), PathBuf::from(agent)), config, _dir: dir }
    }

    async fn job(&self, job: Job) -> JobOutcome {
        let name = job.name();
        let begin = Instant::now();
        let (progress, _kept) = mpsc::channel(8);
        let (_cancel, cancelled) = watch::channel(false);
        let outcome = self.pg.run_job(job, progress, cancelled).await;
        eprintln!("-------- {} {name}: {outcome:?} after {:?}", self.config.name, begin.elapsed());
        outcome
    }

    async fn done(&self, job: Job) {
        assert_eq!(self.job(job).await, JobOutcome::Done);
    }

    async fn look(&self) -> PgState {
        self.pg.observe(Duration::from_secs(3)).await.pg
    }

    /// Waits until PostgreSQL answers and `what` is true of the answer.
    async fn until(&self, what: impl Fn(&PgRunning) -> bool) -> PgRunning {
        let begin = Instant::now();
        loop {
            match self.look().await {
                PgState::Running(running) if what(&running) => return running,
                state => assert!(begin.elapsed() < Duration::from_secs(15), "{state:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn bootstrap(&self) {
        self.done(Job::Bootstrap { deadline: Millis::from_secs(60) }).await;
    }

    async fn stop(&self, mode: StopMode) {
        self.done(Job::Stop { mode, checkpoint_first: true, escalate_after: Some(Millis::from_secs(20)) }).await;
    }

    fn upstream(&self) -> Upstream {
        Upstream { name: MemberName(self.config.name.clone()), conn_url: format!("postgres://127.0.0.1:{}/postgres", self.config.port) }
    }

    fn sql(&self, sql: &str) -> String {
        let output = Command::new(format!("{BIN}/psql"))
            .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres", "-d", "postgres", "-c", sql])
            .args(["-p", &self.config.port.to_string()])
            .env("PGPASSWORD", &self.config.superuser.password.as_ref().unwrap().0)
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn postmaster_pid(&self) -> rustix::process::Pid {
        let file = mastiff::postgres::postmaster::read(&self.config.data_dir).unwrap().unwrap();
        rustix::process::Pid::from_raw(file.pid).unwrap()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.postmaster_pid(), signal).unwrap();
    }
}

fn permit() -> PromotePermit {
    let now = clock::now();
    LeaseClock { id: LeaseId(1), ttl: Millis::from_secs(60), sent_at: now }.promote_permit(now).unwrap()
}

fn start_primary() -> Job {
    Job::Start { role: StartAs::Primary(permit()), deadline: Millis::from_secs(20) }
}

fn start_standby(upstream: &Node) -> Job {
    Job::Start { role: StartAs::Standby(Some(upstream.upstream())), deadline: Millis::from_secs(20) }
}

fn promote() -> Job {
    Job::Promote { permit: permit(), deadline: Millis::from_secs(20) }
}

#[test]
fn whole_life() {
    test("whole_life", async {
        let (a, b) = (Node::new("a"), Node::new("b"));
        assert_eq!(a.look().await, PgState::Empty);
        a.bootstrap().await;
        let first = a.until(|_| true).await;
        assert_eq!((first.role, first.timeline), (Role::Primary, Timeline(1)));
        assert_eq!(first.server_version / 10_000, 15);
        assert!(!first.needs_reload && first.pending_restart.is_empty(), "{first:?}");
        assert!(first.started_at.ends_with("+00:00"), "{}", first.started_at);
        assert_eq!(a.sql("SELECT count(*) FROM pg_roles WHERE rolname IN ('replicator', 'rewinder') AND rolcanlogin"), "2");
        assert_eq!(a.sql("SELECT has_function_privilege('rewinder', 'pg_read_binary_file(text)', 'execute')"), "t");
        survives_us(&a);

        a.pg.background(Task::SyncSlots { create: vec!["b".to_owned()], drop: vec![] }).await.unwrap();
        copy(&a, &b).await;
        let standby = b.until(|running| running.streaming).await;
        assert_eq!((standby.role, standby.timeline), (Role::Standby, Timeline(1)));
        assert_eq!(standby.upstream.as_deref(), Some(a.upstream().address()));
        assert!(!standby.needs_reload, "{standby:?}");
        let primary = a.until(|running| running.replication.len() == 1).await;
        assert_eq!(primary.replication[0].application_name, "b");
        assert!(primary.slots["b"].active && primary.slots["b"].physical);

        fail_over(&a, &b).await;
        rejoin(&a, &b).await;
        switch_over(&a, &b).await;
    });
}

/// The postmaster is not our child.
fn survives_us(node: &Node) {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.postmaster_pid().as_raw_nonzero())).unwrap();
    let parent = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().to_owned();
    assert_ne!(parent, std::process::id().to_string());
    let environment = std::fs::read(format!("/proc/{}/environ", node.postmaster_pid().as_raw_nonzero())).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("PATRONI_"));
}

async fn copy(from: &Node, to: &Node) {
    let (progress, mut heard) = mpsc::channel(64);
    let (_cancel, cancelled) = watch::channel(false);
    let outcome = to.pg.run_job(Job::Clone { source: Some(from.upstream()) }, progress, cancelled).await;
    assert_eq!(outcome, JobOutcome::Done);
    let mut last = None;
    while let Ok(news) = heard.try_recv() {
        last = Some(news);
    }
    let (done, total) = last.unwrap();
    assert!(done > 1_000_000 && total.unwrap() >= done, "{last:?}");
    let PgState::Stopped(_) = to.look().await else { panic!("a copy does not run") };
    assert!(to.config.data_dir.join("standby.signal").exists());
    to.done(start_standby(from)).await;
}

/// `a` is killed; `b` is promoted with what it has, `a` had more.
async fn fail_over(a: &Node, b: &Node) {
    a.sql("CREATE TABLE t AS SELECT 1 AS x");
    b.until(|running| running.position >= running.replayed.unwrap() && running.streaming).await;
    b.signal(rustix::process::Signal::STOP);
    b.done(Job::Stop { mode: StopMode::Fast, checkpoint_first: false, escalate_after: Some(Millis(300)) }).await;
    a.sql("INSERT INTO t SELECT generate_series(1, 1000)");
    a.signal(rustix::process::Signal::KILL);
    a.stop(StopMode::Immediate).await;
    let PgState::Stopped(control) = a.look().await else { panic!("it was killed") };
    assert_eq!(control.state, ControlState::InProduction);
    b.done(start_standby(a)).await;
    b.until(|running| !running.streaming).await;
    b.done(promote()).await;
    let promoted = b.until(|_| true).await;
    assert_eq!((promoted.role, promoted.timeline), (Role::Primary, Timeline(2)));
    assert_eq!(promoted.history.len(), 1);
    assert!(promoted.history[0].timestamp.is_some());
    assert!(!promoted.needs_reload, "{promoted:?}");
    b.sql("INSERT INTO t VALUES (2)");
    b.pg.background(Task::Checkpoint).await.unwrap();
    let history = a.pg.read_upstream(&b.upstream(), Duration::from_secs(3)).await.unwrap();
    assert!(history.is_primary && history.timeline == Timeline(2) && history.history.len() == 1, "{history:?}");
    assert!(history.oldest_wal.is_some());
    assert_eq!(history.system_id, promoted.system_id);
}

/// `a` has diverged and crashed: rewind, follow.
async fn rejoin(a: &Node, b: &Node) {
    b.pg.background(Task::SyncSlots { create: vec!["a".to_owned()], drop: vec!["b".to_owned()] }).await.unwrap();
    a.done(Job::Rewind { source: b.upstream(), torn: false }).await;
    a.done(start_standby(b)).await;
    let rejoined = a.until(|running| running.streaming).await;
    assert_eq!(rejoined.timeline, Timeline(2));
    let position = b.until(|_| true).await.position;
    a.until(|running| running.replayed >= Some(position)).await;
    assert_eq!(a.sql("SELECT count(*) FROM t"), b.sql("SELECT count(*) FROM t"));
}

/// In order, the other way round, without a rewind; and a change of the upstream by reload.
async fn switch_over(a: &Node, b: &Node) {
    b.stop(StopMode::Fast).await;
    let PgState::Stopped(control) = b.look().await else { panic!("it was stopped") };
    assert_eq!(control.state, ControlState::ShutDown);
    a.done(promote()).await;
    assert_eq!(a.until(|_| true).await.timeline, Timeline(3));
    b.done(start_standby(a)).await;
    a.pg.background(Task::SyncSlots { create: vec!["b".to_owned()], drop: vec![] }).await.unwrap();
    let following = b.until(|running| running.streaming).await;
    assert_eq!(following.timeline, Timeline(3));
    b.done(Job::Follow { upstream: None }).await;
    assert_eq!(b.until(|running| !running.streaming).await.upstream, None);
    b.done(Job::Follow { upstream: Some(a.upstream()) }).await;
    assert_eq!(b.until(|running| running.streaming).await.upstream.as_deref(), Some(a.upstream().address()));
    b.done(Job::Restart { role: StartAs::Standby(Some(a.upstream())), deadline: Millis::from_secs(30) }).await;
    b.until(|running| running.streaming).await;
}

#[test]
fn silence_and_death() {
    test("silence_and_death", async {
        let node = Node::new("a");
        node.bootstrap().await;
        node.until(|_| true).await;
        let refused = node.job(Job::RemoveData { reason: WipeReason::Reinitialize }).await;
        assert!(matches!(&refused, JobOutcome::Failed(text) if text.contains("refused")), "{refused:?}");
        frozen(&node).await;
        died(&node).await;
        fenced(&node).await;
        node.done(Job::RemoveData { reason: WipeReason::Reinitialize }).await;
        assert_eq!(node.look().await, PgState::Empty);
        assert!(node.config.data_dir.exists());
    });
}

/// Everything stopped by a signal, then the postmaster alone: no answer is an answer, in time.
async fn frozen(node: &Node) {
    let all = mastiff::postgres::postmaster::processes_in(&node.config.data_dir);
    let postmaster = node.postmaster_pid();
    let signal = |signal| {
        for pid in &all {
            let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(*pid).unwrap(), signal);
        }
    };
    // The backends alone: the connection exists, the postmaster is awake, nothing answers.
    signal(rustix::process::Signal::STOP);
    rustix::process::kill_process(postmaster, rustix::process::Signal::CONT).unwrap();
    let begin = Instant::now();
    assert!(matches!(node.pg.observe(Duration::from_millis(300)).await.pg, PgState::Unresponsive { .. }));
    assert!(begin.elapsed() < Duration::from_millis(400), "{:?}", begin.elapsed());
    signal(rustix::process::Signal::STOP);
    let begin = Instant::now();
    assert!(matches!(node.pg.observe(Duration::from_millis(300)).await.pg, PgState::Unresponsive { .. }));
    assert!(begin.elapsed() < Duration::from_millis(400));
    signal(rustix::process::Signal::CONT);
    node.until(|_| true).await;
}

/// kill -9 of the postmaster: told at once, orphans gone, started again.
async fn died(node: &Node) {
    let (exits, mut heard) = mpsc::channel(4);
    let watcher = tokio::spawn({
        let pg = node.pg.clone();
        async move { pg.postmaster_exits(exits).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(heard.try_recv().is_err());
    let mut sleeper = Command::new(format!("{BIN}/psql"))
        .args(["-X", "-h", "127.0.0.1", "-U", "postgres", "-d", "postgres", "-c", "SELECT pg_sleep(60)"])
        .args(["-p", &node.config.port.to_string()])
        .env("PGPASSWORD", &node.config.superuser.password.as_ref().unwrap().0)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begin = Instant::now();
    node.signal(rustix::process::Signal::KILL);
    tokio::time::timeout(Duration::from_secs(2), heard.recv()).await.unwrap().unwrap();
    eprintln!("-------- death was noticed after {:?}", begin.elapsed());
    node.done(start_primary()).await;
    node.until(|_| true).await;
    eprintln!("-------- writable again after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(3));
    watcher.abort();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

async fn fenced(node: &Node) {
    node.signal(rustix::process::Signal::STOP);
    let begin = Instant::now();
    node.pg.fence(Duration::from_millis(500));
    while !mastiff::postgres::postmaster::processes_in(&node.config.data_dir).is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(2));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(matches!(node.look().await, PgState::Stopped(_)));
    node.done(start_primary()).await;
    node.until(|_| true).await;
    node.pg.fence(Duration::from_secs(2));
    while !mastiff::postgres::postmaster::processes_in(&node.config.data_dir).is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(6));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn bad_surroundings() {
    test("bad_surroundings", async {
        let node = Node::new("a");
        node.bootstrap().await;
        // A wrong password says nothing about the server.
        let mut wrong = node.config.clone();
        wrong.superuser.password = Some(Secret("wrong".to_owned()));
        node.pg.reconfigure(wrong);
        assert!(matches!(node.look().await, PgState::Unresponsive { .. }));
        node.pg.reconfigure(node.config.clone());
        node.until(|_| true).await;

        // Changed parameters: a reload and a restart are due.
        let mut changed = node.config.clone();
        changed.parameters.insert("max_connections".to_owned(), "40".to_owned());
        changed.parameters.insert("work_mem".to_owned(), "5MB".to_owned());
        changed.parameters.insert("no_such_parameter".to_owned(), "1".to_owned());
        node.pg.reconfigure(changed);
        let before = node.until(|running| running.needs_reload).await;
        assert_eq!(before.pending_restart["max_connections"], ("30".to_owned(), "40".to_owned()));
        node.pg.background(Task::ReloadPostgres).await.unwrap();
        let after = node.until(|running| !running.needs_reload).await;
        assert_eq!(after.pending_restart.len(), 1);
        assert_eq!(node.sql("SHOW work_mem"), "5MB");
        node.done(Job::Restart { role: StartAs::Primary(permit()), deadline: Millis::from_secs(30) }).await;
        assert!(node.until(|_| true).await.pending_restart.is_empty());

        // A lease that ran out.
        node.stop(StopMode::Fast).await;
        let old = LeaseClock { id: LeaseId(1), ttl: Millis::from_secs(1), sent_at: clock::now() };
        let permit = old.promote_permit(clock::now()).unwrap();
        tokio::time::sleep(Duration::from_millis(1000)).await;
        let outcome = node.job(Job::Start { role: StartAs::Primary(permit), deadline: Millis::from_secs(5) }).await;
        assert!(matches!(&outcome, JobOutcome::Failed(text) if text.contains("lease")), "{outcome:?}");

        // The port is in use.
        let taken = std::net::TcpListener::bind(("127.0.0.1", node.config.port)).unwrap();
        let outcome = node.job(start_primary()).await;
        assert!(matches!(&outcome, JobOutcome::Failed(text) if text.contains("is in use")), "{outcome:?}");
        drop(taken);

        // A parameter that PostgreSQL refuses.
        let mut broken = node.config.clone();
        broken.parameters.insert("shared_buffers".to_owned(), "many".to_owned());
        node.pg.reconfigure(broken);
        let outcome = node.job(start_primary()).await;
        assert!(matches!(&outcome, JobOutcome::Failed(text) if text.contains("shared_buffers")), "{outcome:?}");
        assert!(matches!(node.look().await, PgState::Stopped(_)));

        // A recycled process number in postmaster.pid.
        node.pg.reconfigure(node.config.clone());
        let pid = rustix::process::getppid().unwrap().as_raw_nonzero();
        let port = node.config.port;
        std::fs::write(node.config.data_dir.join("postmaster.pid"), format!("{pid}\n/x\n1\n{port}\n/tmp\n127.0.0.1\n\nready\n")).unwrap();
        assert!(matches!(node.look().await, PgState::Stopped(_)));
        node.done(start_primary()).await;
        node.until(|_| true).await;

        // Something else in the directory.
        let stranger = Node::new("b");
        std::fs::create_dir(&stranger.config.data_dir).unwrap();
        std::fs::write(stranger.config.data_dir.join("diary.txt"), "").unwrap();
        assert!(matches!(stranger.look().await, PgState::Unreadable { .. }));
        assert!(matches!(stranger.job(Job::Clone { source: Some(node.upstream()) }).await, JobOutcome::Refused(_)));
        assert!(stranger.config.data_dir.join("diary.txt").exists());
    });
}

#[test]
fn scripts() {
    test("scripts", async {
        let words = |script: &str| vec!["sh".to_owned(), "-c".to_owned(), script.to_owned(), "script".to_owned()];
        let out = tempfile::tempdir_in("/tmp").unwrap();
        let file = |name: &str| out.path().join(name).display().to_string();
        let node = Node::with("a", |config| {
            let script = format!(
                "shift; {BIN}/initdb -A md5 -U postgres --pwfile={} -D \"${{2#--datadir=}}\"; echo \"$@\" > {}",
                file("pw"),
                file("args")
            );
            config.use_unix_socket = true;
            config.bootstrap.method = "restore".to_owned();
            let command = shlex::try_join(words(&script).iter().map(String::as_str).chain(["x"])).unwrap();
            config.bootstrap.custom = serde_json::json!({"command": command, "extra": 5, "yes": true}).as_object().unwrap().clone();
            config.bootstrap.post_bootstrap =
                Some(words(&format!("echo \"$1\" > {}; {BIN}/psql -w -d \"$1\" -c 'CREATE TABLE made()'", file("post"))));
            config.callbacks.insert("on_role_change".to_owned(), words(&format!("sleep 0.2; echo \"$@\" >> {}", file("events"))));
        });
        std::fs::write(out.path().join("pw"), "another\n").unwrap();
        node.bootstrap().await;
        node.until(|running| running.role == Role::Primary).await;
        assert_eq!(node.sql("SELECT count(*) FROM made"), "0");
        let args = std::fs::read_to_string(file("args")).unwrap();
        assert!(args.contains("--scope=demo --datadir=") && args.contains("--extra=5") && args.contains("--yes=True"), "{args}");
        assert!(!std::fs::read_to_string(file("post")).unwrap().contains("password"));
        // The newest callback wins.
        node.pg.run_callback("on_role_change", "replica");
        node.pg.run_callback("on_role_change", "primary");
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(std::fs::read_to_string(file("events")).unwrap(), "on_role_change primary demo\n");
        cancelled_copy(&node).await;
        copy_by_scripts(&node).await;
    });
}

/// The first method leaves half a copy and fails, the second one works.
async fn copy_by_scripts(primary: &Node) {
    let method = |script: &str| {
        let words = ["sh", "-c", script, "sh"];
        serde_json::json!({"command": shlex::try_join(words).unwrap(), "no_such": "x"}).as_object().unwrap().clone()
    };
    let node = Node::with("d", |config| {
        config.create_replica_methods = vec!["bad".to_owned(), "good".to_owned()];
        config
            .replica_methods
            .insert("bad".to_owned(), method("for a; do case $a in --datadir=*) mkdir -p ${a#*=}/half;; esac; done; exit 3"));
        let good = format!(
            "for a; do case $a in --datadir=*) d=${{a#*=}};; --connstring=*) c=${{a#*=}};; esac; done; {BIN}/pg_basebackup -w -c fast -X stream -D $d -d \"$c\""
        );
        config.replica_methods.insert("good".to_owned(), method(&good));
        config.use_slots = false;
    });
    let alone = node.job(Job::Clone { source: None }).await;
    assert!(matches!(&alone, JobOutcome::Failed(text) if text.contains("no replica method")), "{alone:?}");
    node.done(Job::Clone { source: Some(primary.upstream()) }).await;
    node.done(start_standby(primary)).await;
    node.until(|running| running.streaming).await;
}

/// A copy that is cancelled ends at once and leaves nothing running.
async fn cancelled_copy(primary: &Node) {
    let node = Node::with("c", |config| config.basebackup = vec!["--max-rate=1M".to_owned()]);
    let (progress, mut heard) = mpsc::channel(8);
    let (cancel, cancelled) = watch::channel(false);
    let job = Job::Clone { source: Some(primary.upstream()) };
    let (outcome, begin) = tokio::join!(node.pg.run_job(job, progress, cancelled), async {
        heard.recv().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        cancel.send(true).unwrap();
        Instant::now()
    });
    assert_eq!(outcome, JobOutcome::Cancelled);
    assert!(begin.elapsed() < Duration::from_millis(500));
    node.done(Job::RemoveData { reason: WipeReason::HalfMade }).await;
    assert_eq!(node.look().await, PgState::Empty);
}

/// A promotion that was requested happens, sooner or later: the job must not end before it, or the key would be given away meanwhile.
#[test]
fn a_slow_promotion_is_waited_for() {
    test("a_slow_promotion_is_waited_for", async {
        let node = Node::new("a");
        node.bootstrap().await;
        node.stop(StopMode::Fast).await;
        node.done(Job::Start { role: StartAs::Standby(None), deadline: Millis::from_secs(20) }).await;
        node.until(|running| running.role == Role::Standby).await;
        let children = node.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'");
        let startup = rustix::process::Pid::from_raw(children.parse().unwrap()).unwrap();
        rustix::process::kill_process(startup, rustix::process::Signal::STOP).unwrap();
        let wake = async {
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            rustix::process::kill_process(startup, rustix::process::Signal::CONT).unwrap();
        };
        let (outcome, ()) = tokio::join!(node.job(Job::Promote { permit: permit(), deadline: Millis::from_secs(1) }), wake);
        assert_eq!(outcome, JobOutcome::Done);
        node.until(|running| running.role == Role::Primary).await;
    });
}
