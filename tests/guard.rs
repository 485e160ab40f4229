//! The guard as a real process against processes that stand for PostgreSQL: shells whose working directory is the data directory.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant as Watch};

use mastiff::clock;
use mastiff::guard::link::GuardLink;
use mastiff::guard::{self, Answer, Order};
use mastiff::ha::action::GuardAction;
use mastiff::ha::fence::GuardReport;
use mastiff::ha::input::Input;
use mastiff::ha::lease::{LeaseClock, PostgresStopped, Unfenced};
use mastiff::ha::types::{Instant, LeaseId, Millis};
use mastiff::ha::view::{NodeView, PgState};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::{connect, recv, send, socket_with, socketpair};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{kill_process, Pid, Signal};

const AGENT: &str = env!("CARGO_BIN_EXE_mastiff");
/// Whatever is waited for must be there after this.
const LIMIT: Duration = Duration::from_secs(20);

/// A data directory, a guard for it, and the agent's end of their connection.
struct Bench {
    dir: tempfile::TempDir,
    name: String,
    guard: Child,
    agent: Option<OwnedFd>,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let name = guard::name(rustix::process::getuid().as_raw(), dir.path(), "test", "n1");
        let (ours, theirs) = pair();
        let mut command = Command::new(AGENT);
        command.args([guard::ROLE, &name]).env_clear().stdin(Stdio::from(theirs)).stdout(Stdio::null());
        let bench = Bench { dir, name, guard: command.spawn().unwrap(), agent: Some(ours) };
        assert_eq!(bench.answer(), Some(Answer::Idle));
        bench
    }

    fn socket(&self) -> &OwnedFd {
        self.agent.as_ref().unwrap()
    }

    fn tell(&self, order: &Order) {
        send(self.socket(), &order.to_bytes(), SendFlags::NOSIGNAL).unwrap();
    }

    fn answer(&self) -> Option<Answer> {
        answer(self.socket())
    }

    fn ask(&self, order: &Order) -> Option<Answer> {
        self.tell(order);
        self.answer()
    }

    fn target(&self) -> Order {
        let path = self.dir.path().canonicalize().unwrap();
        let data = std::fs::metadata(&path).unwrap();
        Order::Target { dev: data.dev(), ino: data.ino(), path: path.into_os_string().into_encoded_bytes() }
    }

    /// Orders a kill in so many milliseconds; the deadline.
    fn watch(&self, millis: u64) -> Instant {
        let kill_at = clock::now() + Millis(millis);
        self.tell(&self.target());
        assert_eq!(self.ask(&Order::Watch { kill_at, kill_after: Millis(75) }), Some(Answer::Armed(kill_at)));
        kill_at
    }

    /// A server process: a shell with children in the data directory and without a terminal.
    fn server(&self, script: &str) -> Child {
        let mut command = Command::new("setsid");
        // A shell cannot trap what it was started to ignore, as everything is that another shell put in the background.
        command.args(["env", "--default-signal", "sh", "-c", script]).current_dir(self.dir.path()).stdin(Stdio::null());
        let child = command.spawn().unwrap();
        until("the server runs", || self.alive() >= 2);
        child
    }

    /// How many processes live in the data directory.
    fn alive(&self) -> usize {
        pids_in(self.dir.path()).len()
    }

    fn connect(&self) -> OwnedFd {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &SocketAddrUnix::new_abstract_name(self.name.as_bytes()).unwrap()).unwrap();
        socket
    }

    fn signal_guard(&self, signal: Signal) {
        kill_process(pid(self.guard.id()), signal).unwrap();
    }

    fn guard_state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.guard.id())).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    fn guard_exit(&mut self) -> ExitStatus {
        let mut status = None;
        until("the guard ends", || {
            status = self.guard.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        for _ in 0..100 {
            for found in pids_in(self.dir.path()) {
                let _ = kill_process(pid(found), Signal::KILL);
            }
            if self.alive() == 0 {
                break;
            }
        }
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

/// The next packet; `None`: the guard closed the connection.
fn answer(socket: &OwnedFd) -> Option<Answer> {
    let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
    let fd = socket.as_fd();
    // Another test's runtime hears of ended children by a signal.
    while poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).inspect(|count| assert_eq!(*count, 1, "the guard is silent")).is_err()
    {
    }
    let mut packet = [0_u8; guard::PACKET_MAX];
    match recv(socket, &mut packet, RecvFlags::empty()) {
        Ok((length, _)) if length > 0 => Some(Answer::parse(&packet[..length]).unwrap()),
        _ => None,
    }
}

fn pids_in(dir: &Path) -> Vec<u32> {
    let dir = dir.canonicalize().unwrap();
    let numbers = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|pid: &u32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir)).collect()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Watch::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_silent_agent() {
    let bench = Bench::new();
    let mut server = bench.server("sleep 60 & sleep 60 & wait");
    let kill_at = bench.watch(400);
    // Stopped and stuck look the same: the connection is there and nothing comes.
    assert_eq!(bench.answer(), Some(Answer::Fired(kill_at)));
    assert!(clock::now() >= kill_at);
    assert_eq!(bench.alive(), 0);
    server.wait().unwrap();
    assert_eq!(bench.ask(&Order::Seen), Some(Answer::Idle));
}

#[test]
fn a_killed_agent_and_its_successor() {
    let mut bench = Bench::new();
    let mut server = bench.server("sleep 60 & wait");
    let kill_at = bench.watch(400);
    bench.agent = None;
    until("PostgreSQL is killed", || bench.alive() == 0);
    assert!(clock::now() >= kill_at);
    server.wait().unwrap();
    // It waits for the next agent, tells it, and ends with it.
    bench.agent = Some(bench.connect());
    let mut said = bench.answer();
    if said == Some(Answer::Firing(kill_at)) {
        // It looks once more whether nobody is left.
        said = bench.answer();
    }
    assert_eq!(said, Some(Answer::Fired(kill_at)));
    assert_eq!(bench.ask(&Order::Seen), Some(Answer::Idle));
    bench.agent = None;
    assert!(bench.guard_exit().success());
}

#[test]
fn an_idle_guard_ends_with_its_agent() {
    let mut bench = Bench::new();
    bench.watch(60_000);
    assert_eq!(bench.ask(&Order::Disarm), Some(Answer::Idle));
    bench.agent = None;
    assert!(bench.guard_exit().success());
}

#[test]
fn renewed_and_disarmed() {
    let bench = Bench::new();
    let mut server = bench.server("sleep 60 & wait");
    let (first, alive) = (bench.watch(1_000), bench.alive());
    while clock::now() < first + Millis(500) {
        bench.watch(1_000);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(bench.alive(), alive);
    let last = bench.watch(1_000);
    assert_eq!(bench.ask(&Order::Disarm), Some(Answer::Idle));
    until("the deadline is over", || clock::now() > last + Millis(300));
    assert_eq!(bench.alive(), alive);
    assert_eq!(bench.ask(&Order::State), Some(Answer::Idle));
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn a_restarted_agent_adopts_it() {
    let mut bench = Bench::new();
    let mut server = bench.server("sleep 60 & wait");
    let (first, alive) = (bench.watch(1_500), bench.alive());
    bench.agent = None;
    bench.agent = Some(bench.connect());
    assert_eq!(bench.answer(), Some(Answer::Armed(first)));
    let next = bench.watch(60_000);
    until("the first deadline is over", || clock::now() > first + Millis(300));
    assert_eq!(bench.alive(), alive);
    // The newest connection wins; who loses is told.
    let newest = bench.connect();
    assert_eq!(answer(&newest), Some(Answer::Armed(next)));
    assert_eq!(bench.answer(), Some(Answer::Replaced));
    assert_eq!(bench.answer(), None);
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn a_stopped_guard_looks_for_orders_before_it_fires() {
    let bench = Bench::new();
    let mut server = bench.server("sleep 60 & wait");
    let (first, alive) = (bench.watch(1_000), bench.alive());
    // Its rehearsal is over and it waits.
    until("the guard sleeps", || bench.guard_state() == 'S');
    std::thread::sleep(Duration::from_millis(200));
    bench.signal_guard(Signal::STOP);
    until("the guard is stopped", || bench.guard_state() == 'T');
    bench.tell(&Order::Watch { kill_at: first + Millis(60_000), kill_after: Millis(75) });
    until("the first deadline is over", || clock::now() > first + Millis(200));
    bench.signal_guard(Signal::CONT);
    assert_eq!(bench.answer(), Some(Answer::Armed(first + Millis(60_000))));
    assert_eq!(bench.ask(&Order::State), Some(Answer::Armed(first + Millis(60_000))));
    assert_eq!(bench.alive(), alive);
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn a_postgres_that_is_stopped() {
    let bench = Bench::new();
    let mut server = bench.server("sleep 60 & sleep 60 & wait");
    for found in pids_in(bench.dir.path()) {
        kill_process(pid(found), Signal::STOP).unwrap();
    }
    let kill_at = bench.watch(200);
    assert_eq!(bench.answer(), Some(Answer::Fired(kill_at)));
    assert_eq!(bench.alive(), 0);
    server.wait().unwrap();
}

#[test]
fn a_postgres_that_does_not_want_to_and_forks() {
    let bench = Bench::new();
    // Each child outlives the next one's birth; all of them ignore SIGQUIT.
    let mut server = bench.server("trap '' QUIT TERM INT; while :; do (sleep 0.3; sleep 60) & sleep 0.01; done");
    let kill_at = bench.watch(300);
    assert_eq!(bench.answer(), Some(Answer::Fired(kill_at)));
    assert_eq!(bench.alive(), 0);
    server.wait().unwrap();
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(bench.alive(), 0);
}

#[test]
fn an_order_while_it_kills() {
    let bench = Bench::new();
    let mut server = bench.server("trap ': >asked' QUIT; sleep 60 & wait; sleep 60");
    let kill_at = clock::now() + Millis(100);
    bench.tell(&bench.target());
    // SIGKILL comes late, so that there is time to talk.
    assert_eq!(bench.ask(&Order::Watch { kill_at, kill_after: Millis(1_000) }), Some(Answer::Armed(kill_at)));
    until("the deadline is over", || clock::now() > kill_at + Millis(200));
    let next = kill_at + Millis(60_000);
    assert_eq!(bench.ask(&Order::Watch { kill_at: next, kill_after: Millis(75) }), Some(Answer::Firing(kill_at)));
    assert_eq!(bench.answer(), Some(Answer::Fired(kill_at)));
    assert_eq!(bench.alive(), 0);
    assert_eq!(bench.answer(), Some(Answer::Armed(next)));
    assert!(bench.dir.path().join("asked").exists(), "there was no SIGQUIT before the SIGKILL");
    server.wait().unwrap();
}

#[test]
fn garbage() {
    let bench = Bench::new();
    let packets: [&[u8]; 9] =
        [b"\0", b"watch", b"watch x y", b"watch 1", b"target", b"vips /,/ ,9.9.9.9/x", &[0xff; 8192], &[b'a'; 20_000], b"disarmed?"];
    for packet in packets {
        send(bench.socket(), packet, SendFlags::NOSIGNAL).unwrap();
    }
    assert_eq!(bench.ask(&Order::State), Some(Answer::Idle));
    // A deadline that is over, and one that never comes.
    assert_eq!(
        bench.ask(&Order::Watch { kill_at: Instant(u64::MAX), kill_after: Millis(u64::MAX) }),
        Some(Answer::Armed(Instant(u64::MAX)))
    );
    assert_eq!(bench.ask(&Order::State), Some(Answer::Armed(Instant(u64::MAX))));
    assert_eq!(bench.ask(&Order::Watch { kill_at: Instant(0), kill_after: Millis(0) }), Some(Answer::Armed(Instant(0))));
    assert_eq!(bench.answer(), Some(Answer::Fired(Instant(0))));
}

#[test]
fn other_users_are_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    // The guard of user nobody, under the name that root's agent would look for; we are root.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("mastiff");
    std::fs::copy(AGENT, &program).unwrap();
    let name = guard::name(0, dir.path(), "test", "n1");
    let (ours, theirs) = pair();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args([guard::ROLE, &name]).stdin(Stdio::from(theirs));
    let child = command.spawn().unwrap();
    let bench = Bench { dir, name, guard: child, agent: Some(ours) };
    assert_eq!(bench.answer(), Some(Answer::Idle));
    // No greeting, only the end.
    assert_eq!(answer(&bench.connect()), None);
    assert_eq!(bench.ask(&Order::State), Some(Answer::Idle));
    local(async {
        let mut link = Link::new(bench.dir.path(), Path::new(AGENT));
        link.link.start();
        match link.next().await {
            GuardReport::Gone(reason) => assert!(reason.contains("held by a process of user 65534"), "{reason}"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_name_that_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let name = guard::name(rustix::process::getuid().as_raw(), dir.path(), "test", "n1");
    let holder = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::bind(&holder, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
    local(async {
        let mut link = Link::new(dir.path(), Path::new(AGENT));
        link.link.start();
        match link.next().await {
            GuardReport::Gone(reason) => assert!(reason.contains("in use"), "{reason}"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_late_launch_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let launch = |until: u64| {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new(AGENT);
        command.args(["--launch-postmaster", "--in"]).arg(dir.path()).args(["--until", &until.to_string(), "touch", "here"]);
        let code = command.stdin(Stdio::from(OwnedFd::from(writer))).status().unwrap().code();
        drop(command);
        (code, std::io::read_to_string(reader).unwrap().is_empty())
    };
    assert_eq!(launch(clock::now().0.saturating_sub(1)), (Some(75), true));
    std::thread::sleep(Duration::from_millis(100));
    assert!(!dir.path().join("here").exists());
    assert_eq!(launch((clock::now() + Millis(60_000)).0), (Some(0), false));
    // It began in the directory, where the guard would have found it.
    until("the program ran", || dir.path().join("here").exists());
}

#[test]
fn by_hand_it_does_nothing() {
    let status = Command::new(AGENT).args([guard::ROLE, "mastiff-guard-0-0"]).stdin(Stdio::null()).stderr(Stdio::null()).status();
    assert_eq!(status.unwrap().code(), Some(64));
}

#[test]
#[allow(clippy::zombie_processes)]
fn memory() {
    let bench = Bench::new();
    let mut server = bench.server("sleep 60 & wait");
    bench.watch(60_000);
    let status = std::fs::read_to_string(format!("/proc/{}/status", bench.guard.id())).unwrap();
    for line in status.lines().filter(|line| ["VmRSS", "RssAnon", "RssFile", "VmLck", "Threads"].iter().any(|key| line.starts_with(key))) {
        println!("{line}");
    }
    assert!(status.contains("Threads:\t1\n"));
    server.kill().unwrap();
    server.wait().unwrap();
}

// --- the agent's side ---------------------------------------------------------------------------

/// A link and what it reports.
struct Link {
    link: GuardLink,
    inputs: tokio::sync::mpsc::UnboundedReceiver<Input>,
    dir: PathBuf,
}

impl Link {
    fn new(dir: &Path, program: &Path) -> Link {
        let (sender, inputs) = tokio::sync::mpsc::unbounded_channel();
        Link { link: GuardLink::with_program(PathBuf::from(program), dir, "test", "n1", sender), inputs, dir: dir.to_owned() }
    }

    async fn next(&mut self) -> GuardReport {
        match tokio::time::timeout(LIMIT, self.inputs.recv()).await.unwrap() {
            Some(Input::Guard(report)) => report,
            other => panic!("{other:?}"),
        }
    }

    /// Orders a kill with a lease that was renewed now.
    fn watch(&self) -> Instant {
        let order = LeaseClock { id: LeaseId(1), ttl: Millis::from_secs(20), sent_at: clock::now() }.guard_order();
        self.link.order(GuardAction::Watch(order));
        order.kill_at()
    }

    fn disarm(&self) {
        let node = NodeView { observed_at: clock::now(), pg: PgState::Empty };
        let proof = PostgresStopped::observe(&node, Instant(0)).unwrap();
        self.link.order(GuardAction::Disarm(Unfenced::Stopped(proof)));
    }
}

fn local(body: impl std::future::Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, body);
}

impl Drop for Link {
    fn drop(&mut self) {
        // An armed guard outlives its link, and a failed test must not leave one.
        if std::thread::panicking() {
            if let Some(guard) = guard_of(&self.dir) {
                let _ = kill_process(pid(guard), Signal::KILL);
            }
        }
    }
}

/// The guard of a directory, by its socket's name on its command line.
fn guard_of(dir: &Path) -> Option<u32> {
    let name = guard::name(rustix::process::getuid().as_raw(), dir, "test", "n1");
    let numbers = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found = numbers
        .filter(|pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(&name)));
    found.next()
}

#[test]
fn orders_and_answers() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let mut link = Link::new(dir.path(), Path::new(AGENT));
        link.link.start();
        assert_eq!(link.next().await, GuardReport::Idle);
        let until = link.watch();
        assert_eq!(link.next().await, GuardReport::Armed { until });
        link.disarm();
        assert_eq!(link.next().await, GuardReport::Idle);
    });
    until("the guard ended with the link", || guard_of(dir.path()).is_none());
}

#[test]
fn the_first_order_starts_a_guard_and_a_disarm_needs_none() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let mut link = Link::new(dir.path(), Path::new(AGENT));
        link.disarm();
        assert_eq!(link.next().await, GuardReport::Idle);
        assert_eq!(guard_of(dir.path()), None);
        let until = link.watch();
        assert_eq!(link.next().await, GuardReport::Idle);
        assert_eq!(link.next().await, GuardReport::Armed { until });
        // The next life of the agent finds it as it is, and with a newer deadline.
        let mut second = Link::new(dir.path(), Path::new(AGENT));
        second.link.start();
        assert_eq!(second.next().await, GuardReport::Armed { until });
        assert!(matches!(link.next().await, GuardReport::Gone(reason) if reason.contains("another agent")));
        let until = second.watch();
        assert_eq!(second.next().await, GuardReport::Armed { until });
        second.disarm();
        assert_eq!(second.next().await, GuardReport::Idle);
    });
}

#[test]
fn a_dead_guard_is_noticed_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let mut link = Link::new(dir.path(), Path::new(AGENT));
        link.link.start();
        assert_eq!(link.next().await, GuardReport::Idle);
        kill_process(pid(guard_of(dir.path()).unwrap()), Signal::KILL).unwrap();
        assert!(matches!(link.next().await, GuardReport::Gone(reason) if reason.contains("signal: 9")));
        let until = link.watch();
        assert_eq!(link.next().await, GuardReport::Idle);
        assert_eq!(link.next().await, GuardReport::Armed { until });
        // A stopped one does not answer: it is killed, so that it cannot fire with an old deadline later.
        let stopped = guard_of(dir.path()).unwrap();
        kill_process(pid(stopped), Signal::STOP).unwrap();
        link.watch();
        assert!(matches!(link.next().await, GuardReport::Gone(_)));
        let until = link.watch();
        assert_eq!(link.next().await, GuardReport::Idle);
        assert_eq!(link.next().await, GuardReport::Armed { until });
        assert_ne!(guard_of(dir.path()), Some(stopped));
        link.disarm();
        assert_eq!(link.next().await, GuardReport::Idle);
    });
}

#[test]
fn a_program_that_cannot_run() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let mut link = Link::new(dir.path(), &dir.path().join("missing"));
        link.link.start();
        assert!(matches!(link.next().await, GuardReport::Gone(reason) if reason.contains("cannot be started")));
        let mut link = Link::new(dir.path(), Path::new("/bin/false"));
        link.link.start();
        assert!(matches!(link.next().await, GuardReport::Gone(reason) if reason.contains("exit status: 1")));
    });
}
