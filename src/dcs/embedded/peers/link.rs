//! One connection with another box: from the handshake to its end.
//!
//! Both sides greet, judge the other's greeting, and say so: with a farewell, or with anything else. Only then the connection is up for the main loop,
//! so that a box that is refused there is not taken for connected here.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{watch, Notify};
use tokio::time::{timeout, Instant};

use super::frame::{self, Broken, Frame, Hello};
use super::identity::Stream;
use super::{Event, Shared};

/// So much may wait for a box, bytes.
const MOST_QUEUED: usize = 4 * 1024 * 1024;
/// A farewell is tried for so long.
const FAREWELL: Duration = Duration::from_secs(1);
/// And so many bytes that are under way are swallowed meanwhile. Closing a socket with unread bytes resets the connection, and the farewell is lost.
const SWALLOWED: u64 = 8 * 1024 * 1024;
/// A connection of this age is not given up for a new one between the same boxes, whoever dialled it: they did not dial at the same time.
const SETTLED: Duration = Duration::from_secs(10);
/// The farewell of the connection that is one too many.
const DUPLICATE: &str = "these two boxes have another connection, which stays";

/// Who called.
pub(super) enum Side<'a> {
    /// We did. The number of who answered is put here.
    Dialled(&'a mut Option<u64>),
    /// The other one.
    Answered,
}

/// A connection with a box.
pub(super) struct Link {
    /// Tells it from another one with the same box.
    number: u64,
    /// The box.
    pub(super) node: u64,
    /// What it says about itself.
    pub(super) hello: RefCell<Hello>,
    dialled: bool,
    /// The main loop knows of it.
    up: Cell<bool>,
    /// The main loop has not been told yet that the connection is lost in whose place this one came.
    owes: Cell<bool>,
    since: Instant,
    heard: Cell<Instant>,
    queue: RefCell<VecDeque<Vec<u8>>>,
    queued: Cell<usize>,
    wake: Notify,
    /// The farewell, as soon as it is to be closed.
    closing: watch::Sender<Option<String>>,
}

impl Link {
    fn new(number: u64, hello: Hello, dialled: bool) -> Rc<Link> {
        Rc::new(Link {
            number,
            node: hello.node,
            hello: RefCell::new(hello),
            dialled,
            up: Cell::new(false),
            owes: Cell::new(false),
            since: Instant::now(),
            heard: Cell::new(Instant::now()),
            queue: RefCell::default(),
            queued: Cell::new(0),
            wake: Notify::new(),
            closing: watch::Sender::new(None),
        })
    }

    /// Both sides have accepted each other, and it is not about to end.
    pub(super) fn is_up(&self) -> bool {
        self.up.get() && !self.is_closing()
    }

    fn is_closing(&self) -> bool {
        self.closing.borrow().is_some()
    }

    /// Sends a frame, if not too much is waiting.
    pub(super) fn offer(&self, bytes: Vec<u8>) -> bool {
        let fits = self.queued.get() + bytes.len() <= MOST_QUEUED;
        if fits {
            self.urgent(bytes);
        }
        fits
    }

    /// Sends a frame, whatever is waiting.
    pub(super) fn urgent(&self, bytes: Vec<u8>) {
        self.queued.set(self.queued.get() + bytes.len());
        self.queue.borrow_mut().push_back(bytes);
        self.wake.notify_one();
    }

    /// Ends it with a farewell.
    pub(super) fn close(&self, why: &str) {
        self.closing.send_if_modified(|closing| {
            let first = closing.is_none();
            closing.get_or_insert_with(|| why.to_owned());
            first
        });
        self.wake.notify_one();
    }

    async fn closed(&self) {
        let mut closing = self.closing.subscribe();
        let _ = closing.wait_for(Option::is_some).await;
    }

    fn describe(&self) -> String {
        let hello = self.hello.borrow();
        format!("box {} ({} at {})", self.node, hello.name, hello.address)
    }
}

/// Why two did not come together.
pub(super) enum Unmet {
    /// For this reason.
    Refused(String),
    /// There is a connection with this box already.
    Duplicate,
    /// It was this box.
    Oneself,
}

impl Unmet {
    /// Into the log.
    pub(super) fn tell(&self, shared: &Shared, address: &str) {
        match self {
            Unmet::Refused(why) => shared.refuse(address, why),
            Unmet::Duplicate => log::debug!("store: another connection with {address} is not needed"),
            Unmet::Oneself => log::debug!("store: {address} is this box"),
        }
    }

    fn farewell(&self) -> &str {
        match self {
            Unmet::Refused(why) => why,
            Unmet::Duplicate => DUPLICATE,
            Unmet::Oneself => "it is this box itself",
        }
    }
}

impl From<String> for Unmet {
    fn from(why: String) -> Unmet {
        Unmet::Refused(why)
    }
}

/// Whether two boxes may talk; else the sentence for both.
pub(super) fn judge(own: &Hello, other: &Hello) -> Result<(), String> {
    if own.scope != other.scope {
        return Err(format!("{} belongs to the scope {:?}, {} to {:?}", other.name, other.scope, own.name, own.scope));
    }
    if own.cluster > frame::FOUNDED && other.cluster > frame::FOUNDED && own.cluster != other.cluster {
        let (ours, theirs) = (own.cluster, other.cluster);
        return Err(format!(
            "{} belongs to another cluster of this name (number {theirs:016x}) than {} (number {ours:016x}): one of them has to be removed from its own before it can join the other",
            other.name, own.name
        ));
    }
    if own.node == other.node {
        return Err(format!(
            "{} at {} and {} at {} have the same number {}: a box's store must not be copied to another box",
            own.name, own.address, other.name, other.address, own.node
        ));
    }
    Ok(())
}

/// Two that have accepted each other's greeting, as far as this side knows.
pub(super) struct Met {
    stream: Stream,
    link: Rc<Link>,
}

/// The handshakes, from a fresh connection. Whoever is refused is told why.
pub(super) async fn meet(shared: &Shared, stream: TcpStream, remote: SocketAddr, side: Side<'_>) -> Result<Met, Unmet> {
    prepare(&stream, shared.timeouts.silence);
    let deadline = shared.timeouts.handshake;
    let late = || Unmet::Refused(format!("it did not show who it is within {} s", deadline.as_secs_f32()));
    let dialled = matches!(side, Side::Dialled(_));
    let greeting = async {
        let identity = shared.identity();
        let done = if dialled { identity.connect(stream).await } else { identity.accept(stream).await };
        let mut stream = done.map_err(|error| identity.explain(&error))?;
        let own = shared.hello.borrow().clone();
        frame::write(&mut stream, &frame::hello(&own), deadline).await.map_err(|error| explain(&identity, &error))?;
        let greeting = frame::read(&mut stream, frame::MAX_OPENING, deadline, || {}).await;
        Ok::<_, String>((stream, own.cluster, greeting.map_err(|broken| (broken.is_content(), explain(&identity, &broken)))))
    };
    let (mut stream, cluster, greeting) = timeout(deadline, greeting).await.map_err(|_| late())??;
    let met = match greeting {
        Ok(Frame::Goodbye(why)) => return Err(Unmet::Refused(format!("it refuses this box: {why}"))),
        Ok(frame) => enrol(shared, frame, side),
        Err((true, why)) => Err(Unmet::Refused(why)),
        Err((false, why)) => return Err(Unmet::Refused(why)),
    };
    match met {
        Ok(link) => {
            let own = shared.hello.borrow();
            if own.cluster != cluster {
                link.urgent(frame::hello(&own));
            }
            log::debug!("store: {} and this box greeted each other over {remote}", link.describe());
            Ok(Met { stream, link })
        }
        Err(unmet) => {
            let _ = timeout(FAREWELL, part(&mut stream, unmet.farewell())).await;
            Err(unmet)
        }
    }
}

/// What the handshake's last part means: in TLS 1.3 a caller learns only with the first bytes that it was not accepted.
fn explain(identity: &super::identity::Identity, broken: &Broken) -> String {
    match broken {
        Broken::Io(error) => identity.explain(error),
        other => other.to_string(),
    }
}

async fn part(stream: &mut Stream, why: &str) {
    if frame::write(stream, &frame::goodbye(why), FAREWELL).await.is_ok() && stream.shutdown().await.is_ok() {
        swallow(stream).await;
    }
}

async fn swallow(from: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let _ = tokio::io::copy(&mut from.take(SWALLOWED), &mut tokio::io::sink()).await;
}

/// Small notes leave at once, and what nobody confirms is given up in the time after which silence is, too (tcp(7), `TCP_USER_TIMEOUT`).
fn prepare(stream: &TcpStream, silence: Duration) {
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, u32::try_from(silence.as_millis()).unwrap_or(u32::MAX));
}

/// Takes a greeted box among the connected ones. Of two connections with the same box, the one stays that was dialled by the smaller number: both
/// sides see the same two and choose the same one. A connection over which nothing came for two pings does not count.
fn enrol(shared: &Shared, frame: Frame, side: Side<'_>) -> Result<Rc<Link>, Unmet> {
    let hello = match frame {
        Frame::Hello(hello) => hello,
        Frame::Stranger(version) => {
            return Err(Unmet::Refused(format!(
                "one box speaks version {version} of the protocol, the other one version {}: both need the same release",
                frame::VERSION
            )));
        }
        _ => return Err(Unmet::Refused("it did not greet".to_owned())),
    };
    let own = shared.hello.borrow();
    let dialled = match side {
        Side::Answered => false,
        Side::Dialled(node) => {
            *node = Some(hello.node);
            true
        }
    };
    if (own.node, &own.name, &own.address) == (hello.node, &hello.name, &hello.address) {
        return Err(Unmet::Oneself);
    }
    judge(&own, &hello)?;
    let mut links = shared.links.borrow_mut();
    let new = Link::new(shared.number(), hello, dialled);
    if let Some(old) = links.get(&new.node) {
        let (there, here) = (old.hello.borrow(), new.hello.borrow());
        if there.address != here.address {
            return Err(Unmet::Refused(format!(
                "{} at {} says that it is box {}, but that is {} at {}, which is connected: a box's store must not be copied to another box",
                here.name, here.address, new.node, there.name, there.address
            )));
        }
        let is_preferred = |link: &Link| link.dialled == (own.node < link.node);
        let is_dead = old.is_closing() || old.heard.get().elapsed() > shared.timeouts.ping.saturating_mul(2);
        if !is_dead && (is_preferred(old) || !is_preferred(&new) || old.since.elapsed() > SETTLED) {
            return Err(Unmet::Duplicate);
        }
        // Not short-circuit: both are taken over.
        new.owes.set(old.owes.take() | old.up.take());
        old.close(DUPLICATE);
    }
    links.insert(new.node, Rc::clone(&new));
    Ok(new)
}

/// How a connection ended.
enum End {
    /// It broke.
    Broken(Broken),
    /// The other side said why.
    Told(String),
    /// It sent something that it must not.
    Fault(String),
    /// From here; the farewell says why.
    Ours,
    /// Nobody listens any more.
    Over,
}

/// Runs a connection to its end. `address` is who was dialled, or where the caller came from.
pub(super) async fn run(shared: Rc<Shared>, met: Met, address: String) {
    let Met { stream, link } = met;
    let (mut incoming, mut outgoing) = tokio::io::split(stream);
    let end = {
        let mut writing = pin!(send(&shared, &link, &mut outgoing));
        let end = tokio::select! {
            biased;
            () = link.closed() => End::Ours,
            end = receive(&shared, &link, &mut incoming) => end,
            broken = &mut writing => End::Broken(broken),
        };
        match &end {
            End::Fault(why) => link.close(why),
            End::Ours | End::Broken(_) | End::Told(_) | End::Over => {}
        }
        if let End::Fault(_) | End::Ours = end {
            let _ = timeout(FAREWELL, async { tokio::join!(&mut writing, swallow(&mut incoming)) }).await;
        }
        end
    };
    leave(&shared, &link, &address, end).await;
}

/// Takes it from the connected ones and tells everybody who has to know.
async fn leave(shared: &Shared, link: &Link, address: &str, end: End) {
    let was_up = link.up.get();
    // As long as the box's store sends the same nonsense, that is one line, however often it connects.
    let place = link.describe();
    if was_up {
        shared.said.borrow_mut().forget(address);
    }
    match &end {
        End::Broken(broken) if was_up => {
            log::warn!("store: the connection with {place} is lost: {broken}");
            shared.said.borrow_mut().forget(&place);
        }
        End::Broken(broken) => shared.refuse(address, &broken.to_string()),
        End::Told(why) if why == DUPLICATE => log::debug!("store: {place} has another connection with this box"),
        End::Told(why) => shared.refuse(&place, &format!("it refuses this box: {why}")),
        End::Fault(why) => shared.refuse(&place, why),
        End::Ours | End::Over => {
            log::debug!("store: the connection with {place} was closed from here: {:?}", link.closing.borrow().as_deref());
        }
    }
    link.up.set(false);
    let is_current = shared.links.borrow().get(&link.node).is_some_and(|current| current.number == link.number);
    if is_current {
        shared.links.borrow_mut().remove(&link.node);
    }
    shared.ended.notify_waiters();
    if link.owes.take() || was_up && is_current {
        let _ = shared.events.send(Event::Lost { node: link.node }).await;
    }
}

async fn receive(shared: &Shared, link: &Link, from: &mut ReadHalf<Stream>) -> End {
    if link.owes.get() {
        if shared.events.send(Event::Lost { node: link.node }).await.is_err() {
            return End::Over;
        }
        link.owes.set(false);
    }
    loop {
        let patience = if link.up.get() { shared.timeouts.silence } else { shared.timeouts.handshake };
        let frame = match frame::read(from, frame::MAX_FRAME, patience, || link.heard.set(Instant::now())).await {
            Ok(frame) => frame,
            Err(broken) if broken.is_content() => return End::Fault(broken.to_string()),
            Err(broken) => return End::Broken(broken),
        };
        let note = match frame {
            Frame::Goodbye(why) => return End::Told(why),
            Frame::Stranger(_) => return End::Fault("it changed its version".to_owned()),
            Frame::Hello(hello) => match again(shared, link, hello) {
                Ok(()) => None,
                Err(why) => return End::Fault(why),
            },
            Frame::Ping => None,
            Frame::Note(note) => Some(note),
        };
        if !link.up.get() && !announce(shared, link).await {
            return End::Over;
        }
        if let Some(note) = note {
            // Waits as long as the main loop does: meanwhile nothing is read, and the sender notices.
            if shared.events.send(Event::Note { from: link.node, note }).await.is_err() {
                return End::Over;
            }
        }
    }
}

/// A second greeting: the cluster is known now. Everything else stays.
fn again(shared: &Shared, link: &Link, hello: Hello) -> Result<(), String> {
    let mut known = link.hello.borrow_mut();
    if hello != (Hello { cluster: hello.cluster, ..known.clone() }) {
        return Err("it says now that it is another box".to_owned());
    }
    judge(&shared.hello.borrow(), &hello)?;
    *known = hello;
    Ok(())
}

async fn announce(shared: &Shared, link: &Link) -> bool {
    let hello = link.hello.borrow().clone();
    let (place, own) = (link.describe(), hello.address.clone());
    if shared.events.send(Event::Connected { hello }).await.is_err() {
        return false;
    }
    link.up.set(true);
    let mut said = shared.said.borrow_mut();
    said.forget(&own);
    let level = if said.knows(&place) { log::Level::Debug } else { log::Level::Info };
    log::log!(level, "store: {place} is connected");
    true
}

/// Sends what waits. Returns when the connection is broken, or after the farewell.
async fn send(shared: &Shared, link: &Link, to: &mut WriteHalf<Stream>) -> Broken {
    let patience = shared.timeouts.silence;
    // The other side waits for a sign that it is accepted.
    let mut ping = true;
    loop {
        let farewell = link.closing.borrow().clone();
        if let Some(why) = farewell {
            let written = frame::write(to, &frame::goodbye(&why), patience).await;
            let _ = to.shutdown().await;
            return written.err().unwrap_or(Broken::Closed);
        }
        let next = link.queue.borrow_mut().pop_front();
        let written = match &next {
            Some(bytes) => frame::write(to, bytes, patience).await,
            None if ping => frame::write(to, &frame::ping(), patience).await,
            None => Ok(()),
        };
        if let Err(broken) = written {
            return broken;
        }
        ping = match next {
            Some(bytes) => {
                link.queued.set(link.queued.get().saturating_sub(bytes.len()));
                false
            }
            None => timeout(shared.timeouts.ping, link.wake.notified()).await.is_err(),
        };
    }
}
