//! The embedded store as the agent sees it: the same requests and answers as with etcd, and the task that keeps this box's part of it going.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::disk::{self, Directory};
use super::driver::{self, Ask, Driver, Net, Setup};
use super::founding;
use super::journal::{Damage, Image, Journal};
use super::meeting::{self, Meeting};
use super::node::{self, Node};
use super::peers::{self, Hello, Peers, Security, Timeouts, FOUNDED, VERSION};
use super::request::{Answer, Place, Request};
use super::state::Done;
use super::txn::{Span, Txn};
use crate::clock;
use crate::dcs::documents::{self, Entry};
use crate::dcs::keys::Keys;
use crate::dcs::write::{Found, Memory, Next, Plan, Settled};
use crate::ha::action::StoreRequest;
use crate::ha::input::{DcsFailure, StoreOutcome};
use crate::ha::types::{Instant, LeaseId, Lsn, MemberName, Millis, Revision};
use crate::ha::view::ClusterStatus;

/// Between two questions to a store that is electing.
const BUSY_PAUSE: Duration = Duration::from_millis(30);
/// A position that moved by less is not worth a write to the disk, in bytes of WAL. It is told to the others all the same; only a restart of the whole
/// store would lose it, and whoever is promoted after that may lag by so much more than `maximum_lag_on_failover` says.
const POSITION_STEP: u64 = 256 * 1024;

/// What a box needs to take part.
#[derive(Clone, Debug)]
pub struct Config {
    /// Scope of the cluster.
    pub scope: String,
    /// What is in front of it in the names of keys.
    pub namespace: String,
    /// This member.
    pub me: MemberName,
    /// Where the file is.
    pub directory: PathBuf,
    /// This box, as others reach it.
    pub own: Place,
    /// Addresses of the other boxes.
    pub partners: Vec<String>,
    /// Where this box listens for them, and who may connect. `None`: it is alone.
    pub network: Option<Network>,
    /// Length of a lease as long as the store holds no configuration.
    pub ttl: Millis,
}

/// A box's end of the network.
#[derive(Clone, Debug)]
pub struct Network {
    /// `HOST:PORT` to listen on.
    pub bind: String,
    /// Who may connect.
    pub security: Security,
}

/// What can be wrong at the start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be used.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// The file cannot be used.
    #[error(
        "the store's file {}: {damage}. Nothing was changed. Put back a copy of it; or, if other boxes have the store, move the file away: this box comes back as a new one",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// What the file holds makes no store.
    #[error("the store's file {}: {source}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: node::Error,
    },
    /// Nobody could reach this box.
    #[error(transparent)]
    Peers(#[from] peers::Error),
    /// The system refused a thread or a timer.
    #[error("the store cannot be started: {0}")]
    System(#[from] std::io::Error),
}

/// This box's part of the store. Cheap to clone.
#[derive(Clone)]
pub struct EmbeddedStore {
    inner: Rc<Inner>,
}

struct Inner {
    keys: Keys,
    me: MemberName,
    asks: mpsc::UnboundedSender<Ask>,
    alarms: RefCell<Option<mpsc::Receiver<()>>>,
    state: RefCell<State>,
    /// Held by the write under way: writes reach the store in the order in which they were asked for.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    memory: Memory,
    /// The position that is on the disk.
    durable: Option<Lsn>,
    problems: Vec<String>,
}

impl EmbeddedStore {
    /// Opens the file and starts this box's part; where there is no file, the box founds a store, or comes to the one of its partners. Must be called
    /// inside a `LocalSet`.
    ///
    /// # Errors
    /// The file or its directory cannot be used, or nobody can reach this box.
    pub async fn open(config: Config) -> Result<EmbeddedStore, Error> {
        let directory = Directory::open(&config.directory)?;
        let (seed, newcomer) = (random()?, random()?.max(1));
        let file = directory.read()?.map(|bytes| recover(&directory, &bytes, seed)).transpose()?;
        let node = file.as_ref().map_or_else(|| founding::founder(&config.scope, &config.own.address), |(image, _)| image.node);
        let mut net = match &config.network {
            Some(network) => Some(listen(&config, network, node, if file.is_some() { FOUNDED } else { 0 }).await?),
            None => None,
        };
        let (asks, requests) = mpsc::unbounded_channel();
        let (alarm, alarms) = mpsc::channel(1);
        let keys = Keys::new(&config.namespace, &config.scope);
        let (me, own, ttl) = (config.me.clone(), config.own.clone(), config.ttl);
        let setup = Setup { keys: keys.clone(), me: me.clone(), own, asks: requests, alarm, ttl };
        match (file, net.as_mut()) {
            (Some((image, journal)), _) => start(image, journal, seed, directory, setup, net)?,
            (None, None) => {
                let image = founding::image(node, &founding::voters(&config.scope, &config.own, &[]));
                let journal = write(&directory, &image, seed)?;
                start(image, journal, seed, directory, setup, None)?;
            }
            // Everybody else may come later than this agent.
            (None, Some(_)) => {
                tokio::task::spawn_local(begin(config, newcomer, seed, directory, setup, net));
            }
        }
        let inner =
            Inner { keys, me, asks, alarms: RefCell::new(Some(alarms)), state: RefCell::default(), writing: tokio::sync::Mutex::default() };
        Ok(EmbeddedStore { inner: Rc::new(inner) })
    }

    /// Carries out a request. Answers within `deadline`; dropping the future is safe.
    pub async fn call(&self, request: StoreRequest, deadline: Duration) -> StoreOutcome {
        let end = clock::now() + Millis(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
        timeout(deadline, self.inner.dispatch(request, end)).await.unwrap_or(StoreOutcome::Failed(DcsFailure::Timeout))
    }

    /// Wakes the loop: sends `()` whenever a key changed that it should look at. Runs for ever.
    pub async fn watch(&self, alarm: mpsc::Sender<()>) {
        let alarms = self.inner.alarms.borrow_mut().take();
        if let Some(mut alarms) = alarms {
            while alarms.recv().await.is_some() {
                let _ = alarm.try_send(());
            }
        }
    }

    /// Whether PostgreSQL's primary runs on this box: then it would rather not lead the log, too.
    pub fn set_burden(&self, burdened: bool) {
        let _ = self.inner.asks.send(Ask::Burden(burdened));
    }
}

/// A number that comes never again, on no box: without one nothing may begin.
fn random() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn recover(directory: &Directory, bytes: &[u8], salt: u64) -> Result<(Image, Journal), Error> {
    let (journal, image, torn) = Journal::recover(bytes).map_err(|damage| Error::Damaged { path: directory.file(), damage })?;
    if !torn {
        return Ok((image, journal));
    }
    log::warn!("store: the last write of an earlier life did not reach the disk; nobody was told that it had");
    let journal = write(directory, &image, salt)?;
    Ok((image, journal))
}

fn write(directory: &Directory, image: &Image, salt: u64) -> Result<Journal, Error> {
    let (journal, op) = Journal::create(image, salt);
    directory.carry_out(&op)?;
    Ok(journal)
}

async fn listen(config: &Config, network: &Network, node: u64, cluster: u64) -> Result<Net, Error> {
    let hello = Hello {
        version: VERSION,
        scope: config.scope.clone(),
        cluster,
        node,
        name: config.own.name.clone(),
        address: config.own.address.clone(),
    };
    let (sender, events) = mpsc::channel(64);
    let timeouts = Timeouts::default();
    let start = peers::Config { bind: network.bind.clone(), hello, security: network.security.clone(), timeouts };
    let peers = Peers::start(start, sender).await?;
    peers.set_addresses(&config.partners);
    Ok(Net { peers, events, partners: config.partners.clone() })
}

fn start(image: Image, journal: Journal, seed: u64, directory: Directory, setup: Setup, net: Option<Net>) -> Result<(), Error> {
    let path = directory.file();
    let node = Node::new(image, journal, seed, driver::tick(setup.ttl), clock::now()).map_err(|source| Error::Content { path, source })?;
    let driver = Driver::new(node, directory, setup, net)?;
    tokio::task::spawn_local(driver::run(driver));
    Ok(())
}

/// The first moments of a box with partners. `newcomer` is its number if it comes to a store that is there.
async fn begin(config: Config, newcomer: u64, seed: u64, directory: Directory, mut setup: Setup, net: Option<Net>) {
    let Some(mut net) = net else { return };
    let voters = founding::voters(&config.scope, &config.own, &config.partners);
    let founder = founding::founder(&config.scope, &config.own.address);
    log::info!("store: no file yet: looking for the boxes at {}", config.partners.join(", "));
    let met = tokio::select! {
        met = meeting::meet(&mut net, &voters, founder) => met,
        () = driver::decline(&mut setup.asks) => Meeting::Nobody,
    };
    let image = match met {
        Meeting::Founders => founding::image(founder, &voters),
        Meeting::Store => Image { node: newcomer, ..Image::default() },
        Meeting::Nobody => return,
    };
    if image.node == founder {
        log::info!("store: founding one with {} voters", voters.len());
    } else {
        log::info!("store: there is one already; asking to take part");
        net.peers.set_node(image.node);
    }
    let written = write(&directory, &image, seed);
    if image.node == founder && written.is_ok() {
        net.peers.set_cluster(FOUNDED);
    }
    let started = written.and_then(|journal| start(image, journal, seed, directory, setup, Some(net)));
    if let Err(error) = started {
        log::error!(target: crate::log::CRITICAL, "{error}; this box takes no part in the store until the agent is started again");
    }
}

impl Inner {
    async fn dispatch(&self, request: StoreRequest, end: Instant) -> StoreOutcome {
        match request {
            StoreRequest::Read => self.read(end).await,
            StoreRequest::RenewLease { lease, ttl } => self.renew(lease, ttl, end).await,
            write => {
                let _turn = self.writing.lock().await;
                self.write(write, end).await
            }
        }
    }

    /// Asks until there is an answer other than "not now". `None`: there is none any more.
    async fn ask(&self, request: Request, end: Instant) -> Option<Answer> {
        loop {
            let (reply, answer) = oneshot::channel();
            self.asks.send(Ask::Request { request: request.clone(), until: end, reply }).ok()?;
            match answer.await.ok()? {
                Answer::Busy => sleep(BUSY_PAUSE).await,
                answer => return Some(answer),
            }
        }
    }

    async fn read(&self, end: Instant) -> StoreOutcome {
        let read_at = clock::now();
        let (revision, found) = match self.ask(Request::Range(Span::prefix(self.keys.prefix())), end).await {
            Some(Answer::Range { revision, found }) => (Revision(revision), found),
            answer => return failed(answer),
        };
        let entries = found.iter().map(|(key, record)| Entry {
            key: String::from_utf8_lossy(key),
            value: String::from_utf8_lossy(&record.value),
            lease: LeaseId(record.lease),
            revision: Revision(record.modified),
        });
        let parsed = documents::parse(&self.keys, entries, revision, read_at);
        let mut state = self.state.borrow_mut();
        state.memory.seen = revision.0;
        state.memory.status = Some(parsed.view.status.clone());
        if state.problems != parsed.problems {
            for problem in parsed.problems.iter().filter(|problem| !state.problems.contains(problem)) {
                log::warn!("store: key {problem}");
            }
            state.problems = parsed.problems;
        }
        StoreOutcome::View(Box::new(parsed.view))
    }

    async fn renew(&self, lease: Option<LeaseId>, ttl: Millis, end: Instant) -> StoreOutcome {
        let request = match lease {
            Some(lease) => Request::Renew { lease: lease.0 },
            None => Request::Grant { ttl: ttl.0 },
        };
        match self.ask(request, end).await {
            Some(Answer::Lease { lease, ttl }) => {
                self.state.borrow_mut().memory.lease = Some(LeaseId(lease));
                StoreOutcome::Lease { lease: LeaseId(lease), ttl: Millis(ttl) }
            }
            answer => failed(answer),
        }
    }

    async fn write(&self, request: StoreRequest, end: Instant) -> StoreOutcome {
        let plan = Plan::new(&request, &self.keys, &self.me, &self.state.borrow().memory);
        let Some(mut plan) = plan else {
            return StoreOutcome::Failed(DcsFailure::Error("store: internal: this is not a write".to_owned()));
        };
        let soft = self.is_soft(&request);
        if let StoreRequest::Acquire { lease } | StoreRequest::Repair { lease, .. } = &request {
            self.state.borrow_mut().memory.lease = Some(*lease);
        }
        let outcome = loop {
            let seen = self.state.borrow().memory.seen;
            let settled = match self.transact(plan.txn(seen), soft, end).await {
                Ok(settled) => settled,
                Err(outcome) => return outcome,
            };
            match plan.settle(&settled) {
                Next::Again => {}
                Next::Outcome(outcome) => break outcome,
                Next::Unknown => return unknown(plan.operation, "an answer was lost; it may have been applied"),
                Next::Contention => return unknown(plan.operation, "others keep changing the key"),
            }
        };
        self.remember(request, &outcome, soft);
        outcome
    }

    /// One transaction, again as long as its fate is unknown: each is safe to repeat.
    async fn transact(&self, txn: Txn, soft: bool, end: Instant) -> Result<Settled, StoreOutcome> {
        let request = if soft { Request::Soft(txn) } else { Request::Txn(txn) };
        let mut unsure = false;
        loop {
            match self.ask(request.clone(), end).await {
                Some(Answer::Txn { revision, succeeded, results }) => {
                    self.state.borrow_mut().memory.seen = revision;
                    let found = match results.into_iter().next() {
                        Some(Done::Range(found)) if !succeeded => found.into_iter().next(),
                        _ => None,
                    };
                    let found = found.map(|(_, record)| Found { value: record.value, lease: LeaseId(record.lease) });
                    return Ok(Settled { revision: Revision(revision), applied: succeeded, found, unsure });
                }
                Some(Answer::Unknown) => {
                    unsure = true;
                    sleep(BUSY_PAUSE).await;
                }
                answer => return Err(failed(answer)),
            }
        }
    }

    /// Member documents, and positions that moved a little.
    fn is_soft(&self, request: &StoreRequest) -> bool {
        match request {
            StoreRequest::PutMember { .. } => true,
            StoreRequest::PutStatus { optime, .. } => {
                self.state.borrow().durable.is_some_and(|known| optime.0.abs_diff(known.0) < POSITION_STEP)
            }
            _ => false,
        }
    }

    fn remember(&self, request: StoreRequest, outcome: &StoreOutcome, soft: bool) {
        let (StoreRequest::PutStatus { optime, slots, retain_slots }, StoreOutcome::Done { .. }) = (request, outcome) else { return };
        let mut state = self.state.borrow_mut();
        let retain_slots = retain_slots.into_iter().collect();
        state.memory.status = Some(ClusterStatus { optime: Some(optime), slots, retain_slots });
        if !soft {
            state.durable = Some(optime);
        }
    }
}

fn failed(answer: Option<Answer>) -> StoreOutcome {
    StoreOutcome::Failed(match answer {
        Some(Answer::LeaseGone) => return StoreOutcome::LeaseGone,
        Some(Answer::Refused(why)) => DcsFailure::Error(format!("store: {why}")),
        Some(_) => DcsFailure::Error("store: the answer of the Raft leader is not the one to this request".to_owned()),
        None => DcsFailure::Timeout,
    })
}

fn unknown(operation: &str, why: &str) -> StoreOutcome {
    StoreOutcome::Failed(DcsFailure::Error(format!("store: {operation}: {why}")))
}
