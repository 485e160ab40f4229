//! The guard process: waits for orders, for its deadline, and kills.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use mastiff_vip::Interface;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::mm::{mlockall, MlockAllFlags};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{accept_with, bind, connect, listen, recv, send, socket_with};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{getrlimit, getuid, setrlimit, Pid, Resource, Rlimit, Signal};
use rustix::time::{timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

use super::hunt::{Hunter, Target};
use super::{Address, Answer, Order, PACKET_MAX};
use crate::clock;
use crate::ha::types::{Instant, Millis};

/// From one look for processes to the next while it kills.
const HUNT_PAUSE: Millis = Millis(10);
/// So many looks in a row must find nobody: a process that was just forked may have been behind the look.
const EMPTY_LOOKS: u32 = 2;
/// Processes that do not end after this (they wait for a disk) are told of.
const PATIENCE: Millis = Millis(2_000);
/// A guard that has fired and has no agent ends after this.
const LONELY: Millis = Millis(3_600_000);
/// A rehearsal is not repeated more often than this.
const REHEARSAL_PAUSE: Millis = Millis(5_000);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 8;

/// Exit code: started by hand, or in a way that cannot work.
const EXIT_USAGE: i32 = 64;
/// Exit code: it cannot work here; the agent was told why.
const EXIT_UNAVAILABLE: i32 = 69;

/// The re-executed role: `guard NAME`, with the first connection to the agent as standard input. Returns the exit code.
#[must_use]
pub fn main(name: &str) -> i32 {
    let Some(agent) = first_agent() else {
        let _ = writeln!(std::io::stderr(), "the guard is started by the agent, not by hand");
        return EXIT_USAGE;
    };
    settle();
    match Guard::new(name, agent) {
        Ok(mut guard) => {
            guard.run();
            0
        }
        Err((agent, reason)) => {
            tell(&agent, &Answer::Refused(reason));
            EXIT_UNAVAILABLE
        }
    }
}

/// The connection on standard input, which becomes `/dev/null`.
fn first_agent() -> Option<OwnedFd> {
    let agent = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
    socket_peercred(&agent).ok()?;
    let null = std::fs::File::open("/dev/null").ok()?;
    rustix::stdio::dup2_stdin(&null).ok()?;
    Some(agent)
}

/// Leaves the agent's session and becomes as hard to stop as it may be. What is not allowed is left as it is.
fn settle() {
    let _ = rustix::thread::set_name(c"mastiff-guard");
    // Fails only for the leader of a process group, which is as good.
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    let _ = rustix::process::nice(-20);
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let limit = getrlimit(Resource::Memlock);
    let _ = setrlimit(Resource::Memlock, Rlimit { current: limit.maximum, maximum: limit.maximum });
    // Pages that were touched stay; touching all of them would be the whole binary.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = mlockall(flags).or_else(|_| mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT)) {
        say("WARNING", &format!("the guard cannot lock its memory ({error}): give the agent's unit LimitMEMLOCK=16M"));
    }
}

/// What it does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Armed { kill_at: Instant, kill_after: Millis },
    Firing(Firing),
    Fired { kill_at: Instant },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Firing {
    kill_at: Instant,
    began: Instant,
    kill_after: Millis,
    /// Looks in a row that found nobody.
    empty: u32,
    /// Somebody was there.
    found: bool,
    quit: bool,
    said: bool,
    /// An order that came while it killed.
    next: Option<(Instant, Millis)>,
}

struct Agent {
    socket: OwnedFd,
    pid: Option<Pid>,
}

struct Guard {
    listener: OwnedFd,
    timer: OwnedFd,
    agent: Option<Agent>,
    /// When the last agent went.
    alone_since: Instant,
    hunter: Hunter,
    target: Target,
    addresses: Vec<Address>,
    state: State,
    rehearsed_at: Option<Instant>,
}

impl Guard {
    fn new(name: &str, agent: OwnedFd) -> Result<Guard, (OwnedFd, String)> {
        let parts = listen_on(name).and_then(|listener| {
            let hunter = Hunter::new().map_err(|error| format!("/proc cannot be read: {error}"))?;
            let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK);
            Ok((listener, hunter, timer.map_err(|error| format!("there is no timer: {error}"))?))
        });
        let (listener, hunter, timer) = match parts {
            Ok(parts) => parts,
            Err(reason) => return Err((agent, reason)),
        };
        let mut guard = Guard {
            listener,
            timer,
            agent: None,
            alone_since: clock::now(),
            hunter,
            target: Target::default(),
            addresses: Vec::new(),
            state: State::Idle,
            rehearsed_at: None,
        };
        guard.greet(agent);
        guard.rehearse();
        Ok(guard)
    }

    /// Until nobody needs it any more.
    fn run(&mut self) {
        loop {
            self.wait();
            // Orders first: after a pause of this process a newer deadline may be waiting behind the timer.
            self.hear();
            self.welcome();
            self.hear();
            let now = clock::now();
            self.act(now);
            if self.is_done(now) {
                return;
            }
        }
    }

    fn is_done(&self, now: Instant) -> bool {
        self.agent.is_none()
            && match self.state {
                State::Idle => true,
                State::Fired { .. } => now >= self.alone_since + LONELY,
                State::Armed { .. } | State::Firing(_) => false,
            }
    }

    /// Sleeps until a packet, a connection or the deadline is there.
    fn wait(&mut self) {
        let at = match self.state {
            State::Idle => None,
            State::Armed { kill_at, .. } => Some(kill_at),
            State::Firing(_) => Some(clock::now() + HUNT_PAUSE),
            State::Fired { .. } => Some(self.alone_since + LONELY),
        };
        if let Err(error) = set_timer(&self.timer, at) {
            say("ERROR", &format!("the guard's timer fails: {error}"));
        }
        let mut fds = [&self.listener, &self.timer, self.agent.as_ref().map_or(&self.timer, |agent| &agent.socket)]
            .map(|fd| PollFd::new(fd, PollFlags::IN));
        // Should the timer ever fail, the deadline is still looked at once a second.
        let longest = Timespec { tv_sec: if at.is_some() { 1 } else { 3600 }, tv_nsec: 0 };
        if poll(&mut fds, Some(&longest)).is_err_and(|error| error != Errno::INTR) {
            std::thread::sleep(Duration::from_millis(HUNT_PAUSE.0));
        }
    }

    /// Takes new connections; the newest wins.
    fn welcome(&mut self) {
        while let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            match socket_peercred(&socket) {
                Ok(peer) if peer.uid == getuid() => self.greet(socket),
                Ok(peer) => say("WARNING", &format!("the guard refused a connection of user {}", peer.uid.as_raw())),
                Err(_) => {}
            }
        }
    }

    fn greet(&mut self, socket: OwnedFd) {
        let pid = socket_peercred(&socket).ok().map(|peer| peer.pid);
        if let Some(old) = self.agent.replace(Agent { socket, pid }) {
            tell(&old.socket, &Answer::Replaced);
        }
        self.report();
    }

    /// Reads all that the agent sent.
    fn hear(&mut self) {
        let mut packet = [0_u8; PACKET_MAX];
        while let Some(agent) = &self.agent {
            match recv(&agent.socket, &mut packet, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Ok((length, _)) if length > 0 => {
                    if let Some(order) = packet.get(..length).and_then(Order::parse) {
                        self.obey(order);
                    }
                }
                // Gone. (An empty packet is none that an agent sends.)
                Ok(_) | Err(_) => {
                    self.agent = None;
                    self.alone_since = clock::now();
                }
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Target { dev, ino, path } => self.target = Target { dev, ino, path },
            Order::Addresses(addresses) => self.addresses = addresses,
            Order::Watch { kill_at, kill_after } => match &mut self.state {
                State::Firing(firing) => {
                    firing.next = Some((kill_at, kill_after));
                    self.report();
                }
                _ => {
                    self.state = State::Armed { kill_at, kill_after };
                    self.report();
                    self.rehearse();
                }
            },
            Order::Disarm => match &mut self.state {
                State::Firing(firing) => {
                    firing.next = None;
                    self.report();
                }
                _ => {
                    self.state = State::Idle;
                    self.report();
                }
            },
            Order::Seen => {
                if matches!(self.state, State::Fired { .. }) {
                    self.state = State::Idle;
                    self.report();
                }
            }
            Order::State => self.report(),
        }
    }

    /// Tells the agent the state.
    fn report(&self) {
        let answer = match self.state {
            State::Armed { kill_at, .. } => Answer::Armed(kill_at),
            State::Fired { kill_at } => Answer::Fired(kill_at),
            State::Firing(firing) => Answer::Firing(firing.kill_at),
            State::Idle => Answer::Idle,
        };
        if let Some(agent) = &self.agent {
            tell(&agent.socket, &answer);
        }
    }

    fn rehearse(&mut self) {
        let now = clock::now();
        if self.rehearsed_at.is_none_or(|at| now >= at + REHEARSAL_PAUSE) {
            self.rehearsed_at = Some(now);
            self.hunter.rehearse(&self.target, self.spared());
        }
    }

    /// The agent may have been started in the data directory.
    fn spared(&self) -> Option<Pid> {
        self.agent.as_ref().and_then(|agent| agent.pid)
    }

    fn act(&mut self, now: Instant) {
        if let State::Armed { kill_at, kill_after } = self.state {
            if now >= kill_at {
                drop_addresses(&self.addresses);
                let quiet = Firing { kill_at, began: now, kill_after, empty: 0, found: false, quit: false, said: false, next: None };
                self.state = State::Firing(quiet);
            }
        }
        if let State::Firing(mut firing) = self.state {
            let spared = self.spared();
            let over = firing.hunt(&mut self.hunter, &self.target, spared, now);
            self.state = State::Firing(firing);
            if over {
                self.end_firing(&firing, now);
            }
        }
    }

    fn end_firing(&mut self, firing: &Firing, now: Instant) {
        self.state = State::Fired { kill_at: firing.kill_at };
        self.report();
        if let Some((kill_at, kill_after)) = firing.next {
            self.state = State::Armed { kill_at, kill_after };
            self.report();
        }
        let (late, took) = (firing.began.since(firing.kill_at), now.since(firing.began));
        let what = if firing.found { "PostgreSQL was killed" } else { "PostgreSQL was not running" };
        say(
            "ERROR",
            &format!(
                "the guard fired, because the agent did not renew its lease in time: {what} ({took}, begun {late} after the deadline)"
            ),
        );
    }
}

impl Firing {
    /// One look and what it asks for; whether nobody is left.
    fn hunt(&mut self, hunter: &mut Hunter, target: &Target, spared: Option<Pid>, now: Instant) -> bool {
        if hunter.find(target, spared).is_empty() {
            self.empty += 1;
            return self.empty >= EMPTY_LOOKS;
        }
        self.empty = 0;
        self.found = true;
        if now >= self.began + self.kill_after {
            hunter.signal(target, Signal::KILL, false);
        } else if !self.quit {
            self.quit = true;
            hunter.signal(target, Signal::QUIT, true);
        }
        if !self.said && now >= self.began + PATIENCE {
            self.said = true;
            say("ERROR", "the guard fired and killed PostgreSQL, but some of its processes do not end: they wait for a disk or a device");
        }
        false
    }
}

/// Removes the virtual IPs before PostgreSQL is killed. What cannot be removed is left to the lifetime that the kernel was given for it.
fn drop_addresses(addresses: &[Address]) {
    let all: Vec<_> = addresses.iter().map(|address| (address.ip, Interface::Name(&address.device), address.prefix)).collect();
    if let (false, Err(error)) = (all.is_empty(), mastiff_vip::drop_addresses(&all)) {
        say("ERROR", &format!("the virtual IP cannot be removed: {error}"));
    }
}

/// Binds the name. Only one guard can have it.
fn listen_on(name: &str) -> Result<OwnedFd, String> {
    let failed = |error: Errno| format!("the socket @{name} cannot be made: {error}");
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(failed)?;
    let listener = seqpacket().map_err(failed)?;
    match bind(&listener, &address) {
        Ok(()) => {}
        Err(Errno::ADDRINUSE) => return Err(taken(name, &address)),
        Err(error) => return Err(failed(error)),
    }
    listen(&listener, BACKLOG).map_err(failed)?;
    Ok(listener)
}

fn taken(name: &str, address: &SocketAddrUnix) -> String {
    let holder = seqpacket().and_then(|socket| connect(&socket, address).and_then(|()| socket_peercred(&socket)));
    match holder {
        Ok(peer) if peer.uid != getuid() => foreign(name, peer.uid.as_raw()),
        _ => format!("the socket @{name} is in use, and not by a guard"),
    }
}

/// The sentence about a name that another user holds.
pub(super) fn foreign(name: &str, uid: u32) -> String {
    format!("the socket @{name} is held by a process of user {uid}: end that process, it keeps this agent from fencing PostgreSQL")
}

/// A socket for guard or agent.
pub(super) fn seqpacket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// An agent that does not read gets nothing: the guard never waits for it.
fn tell(agent: &OwnedFd, answer: &Answer) {
    let _ = send(agent, &answer.to_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

fn set_timer(timer: &OwnedFd, at: Option<Instant>) -> rustix::io::Result<()> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Zero would disarm it.
    let value = at.map_or(zero, |at| {
        let millis = i64::try_from(at.0.max(1)).unwrap_or(i64::MAX);
        Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 }
    });
    // Setting it also forgets an expiry that was not read.
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: zero, it_value: value }).map(|_| ())
}

/// A line on standard error, in the agent's plain format, if it can take it at once: a full pipe or a stopped journal must not stop the guard.
fn say(level: &str, text: &str) {
    let stderr = std::io::stderr();
    let fd = stderr.as_fd();
    let mut ready = [PollFd::new(&fd, PollFlags::OUT)];
    if !matches!(poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(count) if count > 0) {
        return;
    }
    let prefix = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) if level == "ERROR" => "<3>",
        Some(_) => "<4>",
        None => "",
    };
    let line = format!("{prefix}{} {level}: {text}\n", crate::log::plain_time(clock::wall()));
    // Nobody is left to tell of a failure.
    let _ = stderr.lock().write_all(line.as_bytes());
}
