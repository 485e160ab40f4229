//! The boxes of an embedded store talk to each other: one authenticated and encrypted TCP connection for each pair of boxes.
//!
//! - [`identity`]: who may connect. Nothing is read from anybody who has not proven that.
//! - [`frame`]: what goes through a connection.
//! - [`door`] lets others in, [`dial`] calls them, [`link`] is the connection that results. All run as tasks on the caller's thread.
//!
//! Notes may get lost, with a connection or because nobody takes them; within one connection they keep their order. Nothing here decides anything
//! about the store.

#[cfg(feature = "tls")]
mod der;
mod dial;
mod door;
pub mod frame;
#[cfg(feature = "tls")]
mod identity;
#[cfg(not(feature = "tls"))]
#[path = "identity_none.rs"]
mod identity;
mod link;
mod said;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch, Notify, Semaphore};
use tokio::task::{AbortHandle, JoinHandle};

pub use self::frame::{Hello, FOUNDED, VERSION};
use self::identity::Identity;
use self::link::Link;
use self::said::Said;
use super::codec::Malformed;
use super::node::Note;
use crate::config::types::Secret;

/// Files with certificates are looked at so often.
const RENEWAL: Duration = Duration::from_secs(60);

/// The name to listen on has to be found in so much time.
const LOOK_UP: Duration = Duration::from_secs(5);

/// How boxes know each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// A key that all boxes have in their configuration.
    Key(Secret),
    /// PEM files: the cluster's own CA, this box's certificate and its key.
    Certificates {
        /// Who is signed by this belongs to the cluster.
        ca: PathBuf,
        /// Of this box, for both directions.
        cert: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
}

/// How long what may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A box that sent nothing else for so long says that it is there.
    pub ping: Duration,
    /// A connection over which nothing came for so long is closed. At least twice `ping`, and less than the lease.
    pub silence: Duration,
    /// From the connection to the greeting of a box that has shown who it is.
    pub handshake: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { ping: Duration::from_secs(1), silence: Duration::from_secs(5), handshake: Duration::from_secs(3) }
    }
}

/// What [`Peers::start`] needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// `HOST:PORT` to listen on; port 0 takes a free one.
    pub bind: String,
    /// This box. A port of 0 in its address becomes the one that is listened on.
    pub hello: Hello,
    /// Who may connect.
    pub security: Security,
    /// How long what may take.
    pub timeouts: Timeouts,
}

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A box is connected: both sides have accepted each other. Never twice without `Lost` between.
    Connected {
        /// Which.
        hello: Hello,
    },
    /// It no longer is.
    Lost {
        /// Which.
        node: u64,
    },
    /// It sent this, between its `Connected` and its `Lost`.
    Note {
        /// Who.
        from: u64,
        /// What.
        note: Note,
    },
    /// A connection came to nothing. Told once for an address as long as the reason stays the same.
    Refused {
        /// Who was dialled, the IP address of who dialled, or, if it had been accepted already, the box with its number, name and address.
        address: String,
        /// A sentence.
        why: String,
    },
}

/// Why the transport cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A shared key of no characters.
    #[error("the store's key is empty: all boxes need the same one; openssl rand -hex 16 makes one")]
    EmptyKey,
    /// Certificates or keys cannot be used, or this build has no TLS.
    #[error(transparent)]
    Tls(#[from] crate::tls::Error),
    /// Nothing can be listened on.
    #[error("cannot listen on {bind} for the store's other boxes: {source}")]
    Bind {
        /// As configured.
        bind: String,
        /// Why.
        source: std::io::Error,
    },
    /// What this box says about itself would be refused by the others.
    #[error("the other boxes would refuse what this one says about itself: {0}")]
    Hello(Malformed),
    /// A time that makes no sense.
    #[error("a box is taken for dead after {silence} ms without a word, but speaks only every {ping} ms: it must be twice that at least")]
    Timeouts {
        /// [`Timeouts::silence`].
        silence: u128,
        /// [`Timeouts::ping`].
        ping: u128,
    },
    /// The thread that makes the key was stopped.
    #[error("the key could not be made: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}

/// What the tasks share.
struct Shared {
    timeouts: Timeouts,
    hello: RefCell<Hello>,
    identity: RefCell<Arc<Identity>>,
    events: mpsc::Sender<Event>,
    /// By node.
    links: RefCell<BTreeMap<u64, Rc<Link>>>,
    next: Cell<u64>,
    /// A connection has ended.
    ended: Notify,
    /// Who is inside the door and has not shown yet who it is.
    door: RefCell<door::Door>,
    said: RefCell<Said>,
    /// Names are looked up one after the other: a resolver that hangs must not take every thread of the pool.
    resolver: Arc<Semaphore>,
    /// Closed with [`Peers`].
    life: watch::Receiver<()>,
}

impl Shared {
    /// A task that ends with [`Peers`].
    fn spawn(self: &Rc<Shared>, work: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
        let mut life = self.life.clone();
        tokio::task::spawn_local(async move {
            tokio::select! {
                biased;
                _ = life.changed() => {}
                () = work => {}
            }
        })
    }

    fn number(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        number
    }

    fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.borrow())
    }

    /// Says why a connection came to nothing, unless it was said already.
    fn refuse(&self, address: &str, why: &str) {
        if self.said.borrow_mut().is_new(address, why) {
            log::warn!("store: no connection with {address}: {why}");
            // For the eyes of an operator: it may be missing when the main loop has more urgent things to read.
            let _ = self.events.try_send(Event::Refused { address: address.to_owned(), why: why.to_owned() });
        } else {
            log::debug!("store: no connection with {address}: {why}");
        }
    }
}

/// The connections to the other boxes. They end when it is dropped.
pub struct Peers {
    shared: Rc<Shared>,
    dials: RefCell<BTreeMap<String, AbortHandle>>,
    local: SocketAddr,
    _life: watch::Sender<()>,
}

impl Peers {
    /// Listens, and dials whom [`Peers::set_addresses`] names. Must run inside a [`tokio::task::LocalSet`]. Deriving the key takes up to a second on a
    /// small box; that happens on the pool.
    ///
    /// `events` bounds what waits for the main loop: when it is full, no connection is read on. A note has at most [`frame::MAX_FRAME`] bytes.
    ///
    /// # Errors
    /// The configuration cannot be used, or its address is taken.
    pub async fn start(config: Config, events: mpsc::Sender<Event>) -> Result<Peers, Error> {
        let Config { bind, mut hello, security, timeouts } = config;
        if timeouts.silence < timeouts.ping.saturating_mul(2) {
            return Err(Error::Timeouts { silence: timeouts.silence.as_millis(), ping: timeouts.ping.as_millis() });
        }
        hello.check().map_err(Error::Hello)?;
        let (scope, has_files) = (hello.scope.clone(), matches!(security, Security::Certificates { .. }));
        let identity = tokio::task::spawn_blocking(move || Identity::load(&security, &scope)).await??;
        let (listener, local) = listen(&bind).await.map_err(|source| Error::Bind { bind, source })?;
        if let Some(host) = hello.address.strip_suffix(":0") {
            hello.address = format!("{host}:{}", local.port());
        }
        let (alive, life) = watch::channel(());
        let shared = Rc::new(Shared {
            timeouts,
            hello: RefCell::new(hello),
            identity: RefCell::new(Arc::new(identity)),
            events,
            links: RefCell::default(),
            next: Cell::new(0),
            ended: Notify::new(),
            door: RefCell::default(),
            said: RefCell::default(),
            resolver: Arc::new(Semaphore::new(1)),
            life,
        });
        shared.spawn(door::accept(Rc::clone(&shared), listener));
        if has_files {
            shared.spawn(renew(Rc::clone(&shared)));
        }
        Ok(Peers { shared, dials: RefCell::default(), local, _life: alive })
    }

    /// Where others connect to.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Dials these (`HOST:PORT`) from now on, and no others. Connections that are there stay. This box's own address is recognised when it answers.
    pub fn set_addresses(&self, addresses: &[String]) {
        let mut dials = self.dials.borrow_mut();
        dials.retain(|address, task| {
            let wanted = addresses.contains(address);
            if !wanted {
                task.abort();
                self.shared.said.borrow_mut().forget(address);
            }
            wanted
        });
        for address in addresses {
            dials.entry(address.clone()).or_insert_with(|| {
                let shared = Rc::clone(&self.shared);
                self.shared.spawn(dial::keep(shared, address.clone())).abort_handle()
            });
        }
    }

    /// This box belongs to this cluster now; 0: to none. Boxes of another one are sent away, the others are told.
    pub fn set_cluster(&self, cluster: u64) {
        self.shared.hello.borrow_mut().cluster = cluster;
        let own = self.shared.hello.borrow().clone();
        for link in self.shared.links.borrow().values() {
            match link::judge(&own, &link.hello.borrow()) {
                Ok(()) => link.urgent(frame::hello(&own)),
                Err(why) => link.close(&why),
            }
        }
    }

    /// This box has another number from now on. All connections begin anew.
    pub fn set_node(&self, node: u64) {
        self.shared.hello.borrow_mut().node = node;
        for link in self.shared.links.borrow().values() {
            link.close("it has another number now");
        }
    }

    /// Sends a note. `false`: the box is not connected, or 4 MiB wait for it already; the note is lost.
    #[must_use]
    pub fn send(&self, node: u64, note: &Note) -> bool {
        let link = self.shared.links.borrow().get(&node).filter(|link| link.is_up()).cloned();
        let Some(link) = link else { return false };
        match frame::note(note) {
            Some(bytes) => link.offer(bytes),
            None => {
                log::error!("store: a note to box {node} is longer than {} bytes and cannot be sent", frame::MAX_FRAME);
                false
            }
        }
    }

    /// Who is connected, by number.
    #[must_use]
    pub fn connected(&self) -> Vec<(u64, Hello)> {
        let links = self.shared.links.borrow();
        links.iter().filter(|(_, link)| link.is_up()).map(|(node, link)| (*node, link.hello.borrow().clone())).collect()
    }

    /// Closes the connection with a box. It may connect again, and is dialled again if its address is among those to dial.
    pub fn close(&self, node: u64) {
        if let Some(link) = self.shared.links.borrow().get(&node) {
            link.close("it was asked to close the connection");
        }
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("local", &self.local).finish_non_exhaustive()
    }
}

async fn listen(bind: &str) -> std::io::Result<(TcpListener, SocketAddr)> {
    let mut failure = None;
    let addresses = tokio::time::timeout(LOOK_UP, tokio::net::lookup_host(bind)).await??;
    for address in addresses {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener.local_addr().map(|local| (listener, local)),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| std::io::ErrorKind::AddrNotAvailable.into()))
}

/// Uses renewed certificates for new connections. What cannot be used is said once and tried again: the other half of a pair may come.
async fn renew(shared: Rc<Shared>) {
    let mut said = None;
    loop {
        tokio::time::sleep(RENEWAL).await;
        let (identity, scope) = (shared.identity(), shared.hello.borrow().scope.clone());
        match tokio::task::spawn_blocking(move || identity.renewed(&scope)).await {
            Ok(Some(Ok(new))) => {
                log::info!("store: the certificates that have changed are used for new connections");
                *shared.identity.borrow_mut() = Arc::new(new);
                said = None;
            }
            Ok(Some(Err(error))) => {
                let text = error.to_string();
                if said.as_ref() != Some(&text) {
                    log::error!("store: the certificates before the change are used on: {text}");
                    said = Some(text);
                }
            }
            Ok(None) | Err(_) => said = None,
        }
    }
}
