//! The task that keeps a box's part of the store going: time, messages, finished writes and requests in, messages, writes and answers out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{interval, MissedTickBehavior};

use super::disk::{self, Directory, Disk};
use super::node::{Node, Note, Output, ELECTION_TICKS};
use super::peers::{Event, Peers};
use super::request::{Answer, Place, Request};
use super::state::Change;
use crate::clock;
use crate::dcs::keys::{Key, Keys};
use crate::ha::types::{Instant, MemberName, Millis};
use crate::log::CRITICAL;
use crate::wake::Timer;

/// A tick for the shortest and for the longest leases, in milliseconds.
const TICKS: (u64, u64) = (30, 300);
/// An election must be over before a lease that was renewed just before is: its time is a hundredth of the lease for each tick.
const LEASE_PARTS: u64 = 10 * ELECTION_TICKS as u64;
/// Between two questions of a box that wants to take part.
const JOIN_PAUSE: Duration = Duration::from_secs(1);

/// What is wanted of the task.
pub(super) enum Ask {
    /// A request to the store.
    Request {
        /// What.
        request: Request,
        /// How long an answer is of use.
        until: Instant,
        /// Where it goes.
        reply: oneshot::Sender<Answer>,
    },
    /// See [`Node::set_burden`].
    Burden(bool),
}

/// The network side of a box that has partners.
pub(super) struct Net {
    pub(super) peers: Peers,
    pub(super) events: mpsc::Receiver<Event>,
    /// Addresses of the configuration.
    pub(super) partners: Vec<String>,
}

/// What the task needs besides its network.
pub(super) struct Setup {
    pub(super) keys: Keys,
    pub(super) me: MemberName,
    pub(super) own: Place,
    pub(super) asks: mpsc::UnboundedReceiver<Ask>,
    pub(super) alarm: mpsc::Sender<()>,
    /// Length of a lease as long as the store holds no configuration.
    pub(super) ttl: Millis,
}

/// A box's part.
pub(super) struct Driver {
    node: Node,
    disk: Disk,
    written: mpsc::UnboundedReceiver<Result<u64, disk::Error>>,
    setup: Setup,
    net: Option<Net>,
    timer: Timer,
    waiting: BTreeMap<u64, oneshot::Sender<Answer>>,
    next: u64,
    /// Why this box takes no part any more.
    failed: Option<String>,
    /// What was said and told last.
    led: Option<u64>,
    cluster: u64,
    addresses: Vec<String>,
}

/// How long a tick is where leases have this length.
pub(super) fn tick(ttl: Millis) -> Millis {
    Millis((ttl.0 / LEASE_PARTS).clamp(TICKS.0, TICKS.1))
}

impl Driver {
    pub(super) fn new(node: Node, directory: Directory, setup: Setup, net: Option<Net>) -> std::io::Result<Driver> {
        let (done, written) = mpsc::unbounded_channel();
        let disk = Disk::start(directory, done)?;
        let mut driver = Driver {
            node,
            disk,
            written,
            setup,
            net,
            timer: Timer::new()?,
            waiting: BTreeMap::new(),
            next: 1,
            failed: None,
            led: None,
            cluster: 0,
            addresses: Vec::new(),
        };
        driver.take_length();
        let there: Vec<u64> = driver.net.iter().flat_map(|net| net.peers.connected()).map(|(node, _)| node).collect();
        for peer in there {
            driver.node.connected(peer);
        }
        Ok(driver)
    }

    /// Carries out what the node wants.
    fn drain(&mut self) {
        let mut lost = BTreeSet::new();
        loop {
            let outputs = self.node.outputs();
            if outputs.is_empty() {
                break;
            }
            for output in outputs {
                match output {
                    Output::Send { to, note } => {
                        if !self.net.as_ref().is_some_and(|net| net.peers.send(to, &note)) {
                            lost.insert(to);
                        }
                    }
                    Output::Write { number, op } => self.disk.write(number, op),
                    Output::Answer { id, answer } => {
                        if let Some(reply) = self.waiting.remove(&id) {
                            let _ = reply.send(answer);
                        }
                    }
                    Output::Changed(changes) => self.changed(&changes),
                }
            }
            for peer in std::mem::take(&mut lost) {
                self.node.unreachable(clock::now(), peer);
            }
        }
        self.notice_standing();
    }

    fn notice_standing(&mut self) {
        let standing = self.node.standing();
        if standing.leader != self.led {
            self.led = standing.leader;
            match standing.leader {
                Some(leader) if leader == standing.node => log::info!("store: this box leads the log (term {})", standing.term),
                Some(leader) => log::info!("store: {} leads the log (term {})", self.name(leader), standing.term),
                None => log::info!("store: nobody leads the log"),
            }
        }
        let Some(net) = &self.net else { return };
        let state = &self.node.log().state;
        if state.cluster() != self.cluster {
            self.cluster = state.cluster();
            net.peers.set_cluster(self.cluster);
        }
        let known = state.places().values().map(|place| &place.address).chain(&net.partners);
        let addresses: BTreeSet<&String> = known.filter(|address| !address.is_empty() && **address != self.setup.own.address).collect();
        let addresses: Vec<String> = addresses.into_iter().cloned().collect();
        if addresses != self.addresses {
            net.peers.set_addresses(&addresses);
            self.addresses = addresses;
        }
    }

    /// A box's name, or what else is known of it.
    fn name(&self, node: u64) -> String {
        let said = self.net.iter().flat_map(|net| net.peers.connected()).find(|(peer, _)| *peer == node).map(|(_, hello)| hello.name);
        let place = self.node.log().state.places().get(&node);
        let known = place.map(|place| if place.name.is_empty() { place.address.clone() } else { place.name.clone() });
        said.or(known).unwrap_or_else(|| format!("box {node:x}"))
    }

    fn changed(&mut self, changes: &[Change]) {
        let paths: Vec<String> = changes.iter().map(|change| String::from_utf8_lossy(&change.key).into_owned()).collect();
        let kinds: Vec<Key<'_>> = paths.iter().filter_map(|path| self.setup.keys.classify(path)).collect();
        let me = self.setup.me.as_str();
        let matters = |key: &Key<'_>| match key {
            Key::Status | Key::OldOptime => false,
            Key::Member(name) => *name != me,
            _ => true,
        };
        if kinds.iter().any(matters) {
            let _ = self.setup.alarm.try_send(());
        }
        if kinds.contains(&Key::Config) {
            self.take_length();
        }
    }

    /// Ticks follow the length of the lease, as the configuration has it.
    fn take_length(&mut self) {
        let config = self.node.log().state.get(self.setup.keys.path(Key::Config).as_bytes());
        let document: Option<Value> = config.and_then(|record| serde_json::from_slice(&record.value).ok());
        let seconds = document.and_then(|document| document.get("ttl").and_then(Value::as_u64));
        self.node.set_tick(tick(seconds.map_or(self.setup.ttl, |seconds| Millis(seconds.saturating_mul(1000)))));
    }

    fn take(&mut self, ask: Ask) {
        match ask {
            Ask::Request { reply, .. } if self.failed.is_some() => {
                let _ = reply.send(Answer::Refused(self.failed.clone().unwrap_or_default()));
            }
            Ask::Request { request, until, reply } => {
                // Whoever asked and did not wait is forgotten.
                self.waiting.retain(|_, reply| !reply.is_closed());
                let id = self.next;
                self.next += 1;
                self.waiting.insert(id, reply);
                self.node.request(clock::now(), id, request, until);
            }
            Ask::Burden(burdened) => self.node.set_burden(burdened),
        }
    }

    fn heard(&mut self, event: Event) {
        let now = clock::now();
        match event {
            Event::Connected { hello } => self.node.connected(hello.node),
            Event::Lost { node } => self.node.unreachable(now, node),
            Event::Note { from, note } => {
                if let Err(error) = self.node.hear(now, from, note) {
                    log::warn!("store: {} sent what no box sends: {error}; the connection is closed", self.name(from));
                    if let Some(net) = &self.net {
                        net.peers.close(from);
                    }
                }
            }
            // The transport has said so, as it says who comes and goes.
            Event::Refused { .. } => {}
        }
    }

    /// A box that never was part of the store asks everybody for it: the Raft leader will be among them.
    fn join(&mut self) {
        let standing = self.node.standing();
        // Not one that was part of it and was sent away: its place may be taken.
        let is_new = standing.voters.is_empty() && standing.learners.is_empty();
        let Some(net) = self.net.as_ref().filter(|_| is_new) else { return };
        let request = Request::Join { node: standing.node, place: self.setup.own.clone() };
        for (peer, _) in net.peers.connected() {
            // Lost is asked again.
            let _ = net.peers.send(peer, &Note::Ask { number: 0, request: request.clone() });
        }
    }

    fn fail(&mut self, why: &str) {
        log::error!(target: CRITICAL, "{why}; this box takes no part in the store until the agent is started again");
        self.failed = Some(why.to_owned());
        self.waiting.clear();
        self.net = None;
    }
}

/// Runs until nobody can ask any more.
pub(super) async fn run(mut driver: Driver) {
    let mut joining = interval(JOIN_PAUSE);
    joining.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        driver.drain();
        if driver.failed.is_none() {
            if let Err(error) = driver.timer.set(driver.node.next_deadline()) {
                driver.fail(&format!("store: no timer: {error}"));
            }
        }
        let works = driver.failed.is_none();
        tokio::select! {
            biased;
            done = driver.written.recv(), if works => match done {
                Some(Ok(number)) => driver.node.written(clock::now(), number),
                Some(Err(error)) => driver.fail(&error.to_string()),
                None => driver.fail("the store's disk thread has ended"),
            },
            () = driver.timer.expired(), if works => driver.node.advance(clock::now()),
            ask = driver.setup.asks.recv() => match ask {
                Some(ask) => driver.take(ask),
                None => return,
            },
            Some(event) = next_event(&mut driver.net) => driver.heard(event),
            _ = joining.tick(), if works => driver.join(),
        }
    }
}

/// Answers everybody that there is nothing yet, until nobody can ask any more. What was never answered would pile up.
pub(super) async fn decline(asks: &mut mpsc::UnboundedReceiver<Ask>) {
    while let Some(ask) = asks.recv().await {
        if let Ask::Request { reply, .. } = ask {
            let _ = reply.send(Answer::Busy);
        }
    }
}

/// For ever, where there is no network.
pub(super) async fn next_event(net: &mut Option<Net>) -> Option<Event> {
    match net {
        Some(net) => net.events.recv().await,
        None => std::future::pending().await,
    }
}
