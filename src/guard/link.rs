//! The agent's side of the guard: adopts the one that runs or starts one, hands it the core's orders and reports what it says.
//!
//! Sending never waits; answers are read by a task. The end of the guard is noticed at once, its silence after [`SILENCE`].

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::{Rc, Weak};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{connect, recv, send, socketpair, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{getuid, pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, Notify};
use tokio::time::{sleep, sleep_until, timeout, Instant};

use super::process::{foreign, seqpacket};
use super::{Address, Answer, Order, PACKET_MAX, ROLE};
use crate::ha::action::GuardAction;
use crate::ha::fence::GuardReport;
use crate::ha::input::Input;

/// A guard that does not answer an order for so long is taken for stuck, killed and replaced.
const SILENCE: Duration = Duration::from_millis(1_500);
/// How long the exit status of a guard that closed its connection is waited for, for the log.
const STATUS_LIMIT: Duration = Duration::from_millis(300);
/// An idle guard that was just about to end with its last agent is given this long.
const LEAVING: Duration = Duration::from_millis(20);

/// Why there is no guard.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The program could not be run.
    #[error("it cannot be started: {0}")]
    Spawn(std::io::Error),
    /// A socket call failed.
    #[error("it cannot be reached: {0}")]
    Socket(#[from] Errno),
    /// Another user's process holds the name.
    #[error("{0}")]
    Foreign(String),
}

/// The agent's hold on its guard.
#[derive(Debug)]
pub struct GuardLink {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    data_dir: PathBuf,
    program: PathBuf,
    inputs: mpsc::UnboundedSender<Input>,
    addresses: RefCell<Vec<Address>>,
    connection: RefCell<Option<Rc<Connection>>>,
}

/// One connection to one guard.
#[derive(Debug)]
struct Connection {
    socket: AsyncFd<OwnedFd>,
    /// The guard's process, held so that no other one is ever killed for it.
    process: Option<OwnedFd>,
    /// It ran before this agent.
    adopted: bool,
    /// It knows what to kill, and the addresses.
    told: Cell<bool>,
    /// It has spoken.
    greeted: Cell<bool>,
    /// It was given an order.
    ordered: Cell<bool>,
    /// Since when an answer is waited for.
    asked: Cell<Option<Instant>>,
    bell: Notify,
}

impl GuardLink {
    /// A link that is not connected. `inputs` gets an [`Input::Guard`] for whatever the guard says.
    #[must_use]
    pub fn new(data_dir: &Path, scope: &str, member: &str, inputs: mpsc::UnboundedSender<Input>) -> GuardLink {
        GuardLink::with_program(crate::postgres::launch::own_binary(), data_dir, scope, member, inputs)
    }

    /// Like [`GuardLink::new`], with another program in place of the agent's own binary. For tests.
    #[must_use]
    pub fn with_program(program: PathBuf, data_dir: &Path, scope: &str, member: &str, inputs: mpsc::UnboundedSender<Input>) -> GuardLink {
        let name = super::name(getuid().as_raw(), data_dir, scope, member);
        let (addresses, connection) = (RefCell::default(), RefCell::default());
        GuardLink { inner: Rc::new(Inner { name, data_dir: data_dir.to_owned(), program, inputs, addresses, connection }) }
    }

    /// Adopts the guard that an earlier life of the agent left, or starts one, so that a promotion need not wait for it. To be called inside a
    /// `LocalSet`, as all of these.
    pub fn start(&self) {
        if let Err(error) = self.inner.connected() {
            self.inner.report(GuardReport::Gone(error.to_string()));
        }
    }

    /// Hands it an order. The answer comes as an [`Input::Guard`]; if there is no guard and none can be started, that says so.
    pub fn order(&self, action: GuardAction) {
        let order = match action {
            GuardAction::Watch(order) => Order::Watch { kill_at: order.kill_at(), kill_after: order.kill_after() },
            GuardAction::Disarm(_) => Order::Disarm,
        };
        self.inner.order(&order);
    }

    /// The addresses that it drops before it kills, from the next order on.
    pub fn set_addresses(&self, addresses: Vec<Address>) {
        if *self.inner.addresses.borrow() != addresses {
            self.inner.addresses.replace(addresses);
            if let Some(connection) = &*self.inner.connection.borrow() {
                connection.told.set(false);
            }
        }
    }
}

impl Inner {
    fn report(&self, report: GuardReport) {
        let _ = self.inputs.send(Input::Guard(report));
    }

    fn order(self: &Rc<Self>, order: &Order) {
        // Without a guard nothing is watched.
        if *order == Order::Disarm && self.connection.borrow().is_none() {
            return self.report(GuardReport::Idle);
        }
        let sent = self.connected().and_then(|connection| {
            if !connection.told.replace(true) {
                connection.send(&target(&self.data_dir))?;
                connection.send(&Order::Addresses(self.addresses.borrow().clone()))?;
            }
            connection.ordered.set(true);
            connection.send(order)?;
            // What lives in the data directory may be another one after a disarm.
            connection.told.set(*order != Order::Disarm);
            connection.expect_answer();
            Ok(())
        });
        match sent {
            Ok(()) => {}
            // Its reader will say that it is gone, or that it is silent.
            Err(Error::Socket(_)) if self.connection.borrow().is_some() => {}
            Err(error) => self.report(GuardReport::Gone(error.to_string())),
        }
    }

    /// The connection; a new one if there is none.
    fn connected(self: &Rc<Self>) -> Result<Rc<Connection>, Error> {
        if let Some(connection) = &*self.connection.borrow() {
            return Ok(Rc::clone(connection));
        }
        let (connection, child) = match self.adopt()? {
            Some(connection) => (connection, None),
            None => self.spawn()?,
        };
        let connection = Rc::new(connection);
        connection.expect_answer();
        self.connection.replace(Some(Rc::clone(&connection)));
        tokio::task::spawn_local(read(Rc::downgrade(self), Rc::clone(&connection), child));
        Ok(connection)
    }

    /// The guard that runs already.
    fn adopt(&self) -> Result<Option<Connection>, Error> {
        let socket = seqpacket()?;
        match connect(&socket, &SocketAddrUnix::new_abstract_name(self.name.as_bytes())?) {
            Ok(()) => {}
            Err(Errno::CONNREFUSED) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // The credentials are those of the process that listens.
        let peer = socket_peercred(&socket)?;
        if peer.uid != getuid() {
            return Err(Error::Foreign(foreign(&self.name, peer.uid.as_raw())));
        }
        Connection::new(socket, Some(peer.pid), true).map(Some)
    }

    fn spawn(&self) -> Result<(Connection, Option<Child>), Error> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let mut command = Command::new(&self.program);
        command.arg0("mastiff").args([ROLE, &self.name]).env_clear().current_dir("/");
        // Tells it how lines look in the journal.
        command.envs(std::env::var_os("JOURNAL_STREAM").map(|value| ("JOURNAL_STREAM", value)));
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).kill_on_drop(false);
        let child = crate::privileges::lend_network(|| command.spawn()).map_err(Error::Spawn)?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok((Connection::new(ours, pid, false)?, Some(child)))
    }

    /// Forgets a connection that is over.
    fn forget(&self, over: &Rc<Connection>) {
        let mut slot = self.connection.borrow_mut();
        if slot.as_ref().is_some_and(|now| Rc::ptr_eq(now, over)) {
            *slot = None;
        }
    }
}

/// The data directory as the guard compares it. A directory that is not there yet has a name only.
fn target(data_dir: &Path) -> Order {
    let path = data_dir.canonicalize().or_else(|_| std::path::absolute(data_dir)).unwrap_or_else(|_| data_dir.to_owned());
    let (dev, ino) = std::fs::metadata(&path).map_or((0, 0), |data| (data.dev(), data.ino()));
    Order::Target { dev, ino, path: path.into_os_string().into_encoded_bytes() }
}

impl Connection {
    // The safe constructor is deprecated for types whose descriptor may change or close behind its back; an `OwnedFd` never does that.
    #[allow(deprecated)]
    fn new(socket: OwnedFd, pid: Option<Pid>, adopted: bool) -> Result<Connection, Error> {
        Ok(Connection {
            socket: AsyncFd::new(socket).map_err(Error::Spawn)?,
            process: pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()),
            adopted,
            told: Cell::new(false),
            greeted: Cell::new(false),
            ordered: Cell::new(false),
            asked: Cell::new(None),
            bell: Notify::new(),
        })
    }

    fn send(&self, order: &Order) -> Result<(), Error> {
        send(self.socket.get_ref(), &order.to_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn expect_answer(&self) {
        if self.asked.get().is_none() {
            self.asked.set(Some(Instant::now()));
            self.bell.notify_one();
        }
    }

    /// Ends when an answer is overdue.
    async fn silent(&self) {
        loop {
            match self.asked.get() {
                Some(asked) if asked.elapsed() >= SILENCE => return,
                Some(asked) => sleep_until(asked + SILENCE).await,
                None => self.bell.notified().await,
            }
        }
    }

    /// The next answer; `Err`: why there will be none.
    async fn next(&self) -> Result<Answer, String> {
        let mut packet = [0_u8; PACKET_MAX];
        loop {
            let mut ready = tokio::select! {
                biased;
                ready = self.socket.readable() => ready.map_err(|error| error.to_string())?,
                () = self.silent() => {
                    self.kill();
                    return Err("it did not answer an order, so it was killed".to_owned());
                }
            };
            match recv(self.socket.get_ref(), &mut packet, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.to_string()),
                Ok((0, _)) => return Err("it ended".to_owned()),
                Ok((length, _)) => {
                    self.asked.set(None);
                    self.greeted.set(true);
                    if let Some(answer) = packet.get(..length).and_then(Answer::parse) {
                        return Ok(answer);
                    }
                }
            }
        }
    }

    /// A guard that is stuck would fire with an old deadline.
    fn kill(&self) {
        if let Some(process) = &self.process {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }
}

/// Reads what the guard says until it is gone.
async fn read(inner: Weak<Inner>, connection: Rc<Connection>, mut child: Option<Child>) {
    let reason = loop {
        let answer = connection.next().await;
        let Some(inner) = inner.upgrade() else { return };
        match answer {
            Ok(Answer::Idle) => inner.report(GuardReport::Idle),
            Ok(Answer::Armed(until)) => {
                if connection.adopted && !connection.ordered.get() {
                    // It knows its prey; asking the disk for it again could only take time.
                    connection.told.set(true);
                }
                inner.report(GuardReport::Armed { until });
            }
            Ok(Answer::Firing(_)) => {}
            Ok(Answer::Fired(_)) => {
                let _ = connection.send(&Order::Seen);
                inner.report(GuardReport::Fired);
            }
            Ok(Answer::Replaced) => break "another agent of this member took it over".to_owned(),
            Ok(Answer::Refused(reason)) => break reason,
            Err(reason) => break status(child.as_mut()).await.unwrap_or(reason),
        }
    };
    let Some(inner) = inner.upgrade() else { return };
    inner.forget(&connection);
    if connection.adopted && !connection.greeted.get() && !connection.ordered.get() {
        // It was on its way out with its last agent.
        sleep(LEAVING).await;
        if let Err(error) = inner.connected() {
            inner.report(GuardReport::Gone(error.to_string()));
        }
        return;
    }
    inner.report(GuardReport::Gone(reason));
}

/// How the guard ended. A child that goes on is collected by the runtime later.
async fn status(child: Option<&mut Child>) -> Option<String> {
    let status = timeout(STATUS_LIMIT, child?.wait()).await.ok()?.ok()?;
    Some(format!("it ended with {status}"))
}
