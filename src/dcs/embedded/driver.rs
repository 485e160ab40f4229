//! The task that keeps a box's part of the store going: time, finished writes and requests in, writes and answers out.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::disk::{self, Directory, Disk};
use super::node::{Node, Output, Standing, ELECTION_TICKS};
use super::request::{Answer, Request};
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
    /// What is known of the store.
    Standing(oneshot::Sender<Standing>),
}

/// A box's part.
pub(super) struct Driver {
    node: Node,
    disk: Disk,
    written: mpsc::UnboundedReceiver<Result<u64, disk::Error>>,
    asks: mpsc::UnboundedReceiver<Ask>,
    alarm: mpsc::Sender<()>,
    keys: Keys,
    me: MemberName,
    timer: Timer,
    waiting: BTreeMap<u64, oneshot::Sender<Answer>>,
    next: u64,
    /// Why this box takes no part any more.
    failed: Option<String>,
    led: Option<u64>,
    /// Length of a lease as long as the store holds no configuration.
    ttl: Millis,
}

/// How long a tick is where leases have this length.
pub(super) fn tick(ttl: Millis) -> Millis {
    Millis((ttl.0 / LEASE_PARTS).clamp(TICKS.0, TICKS.1))
}

impl Driver {
    pub(super) fn new(
        node: Node,
        directory: Directory,
        keys: Keys,
        me: MemberName,
        asks: mpsc::UnboundedReceiver<Ask>,
        alarm: mpsc::Sender<()>,
        ttl: Millis,
    ) -> std::io::Result<Driver> {
        let (done, written) = mpsc::unbounded_channel();
        let disk = Disk::start(directory, done)?;
        let timer = Timer::new()?;
        let mut driver =
            Driver { node, disk, written, asks, alarm, keys, me, timer, waiting: BTreeMap::new(), next: 1, failed: None, led: None, ttl };
        driver.take_length();
        Ok(driver)
    }

    /// Carries out what the node wants.
    fn drain(&mut self) {
        loop {
            let outputs = self.node.outputs();
            if outputs.is_empty() {
                break;
            }
            for output in outputs {
                match output {
                    Output::Send { .. } => {}
                    Output::Write { number, op } => self.disk.write(number, op),
                    Output::Answer { id, answer } => {
                        if let Some(reply) = self.waiting.remove(&id) {
                            let _ = reply.send(answer);
                        }
                    }
                    Output::Changed(changes) => self.changed(&changes),
                }
            }
        }
        self.say_who_leads();
    }

    fn say_who_leads(&mut self) {
        let standing = self.node.standing();
        if standing.leader != self.led {
            self.led = standing.leader;
            match standing.leader {
                Some(leader) if leader == standing.node => log::info!("store: this box leads the log (term {})", standing.term),
                Some(leader) => log::info!("store: box {leader:x} leads the log (term {})", standing.term),
                None => log::info!("store: nobody leads the log"),
            }
        }
    }

    fn changed(&mut self, changes: &[Change]) {
        let paths: Vec<String> = changes.iter().map(|change| String::from_utf8_lossy(&change.key).into_owned()).collect();
        let kinds: Vec<Key<'_>> = paths.iter().filter_map(|path| self.keys.classify(path)).collect();
        let me = self.me.as_str();
        let matters = |key: &Key<'_>| match key {
            Key::Status | Key::OldOptime => false,
            Key::Member(name) => *name != me,
            _ => true,
        };
        if kinds.iter().any(matters) {
            let _ = self.alarm.try_send(());
        }
        if kinds.contains(&Key::Config) {
            self.take_length();
        }
    }

    /// Ticks follow the length of the lease, as the configuration has it.
    fn take_length(&mut self) {
        let config = self.node.log().state.get(self.keys.path(Key::Config).as_bytes());
        let document: Option<Value> = config.and_then(|record| serde_json::from_slice(&record.value).ok());
        let seconds = document.and_then(|document| document.get("ttl").and_then(Value::as_u64));
        self.node.set_tick(tick(seconds.map_or(self.ttl, |seconds| Millis(seconds.saturating_mul(1000)))));
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
            Ask::Standing(reply) => {
                let _ = reply.send(self.node.standing());
            }
        }
    }

    fn fail(&mut self, why: &str) {
        log::error!(target: CRITICAL, "{why}; this box takes no part in the store until the agent is started again");
        self.failed = Some(why.to_owned());
        self.waiting.clear();
    }
}

/// Runs until nobody can ask any more.
pub(super) async fn run(mut driver: Driver) {
    loop {
        driver.drain();
        if driver.failed.is_none() {
            if let Err(error) = driver.timer.set(driver.node.next_deadline()) {
                driver.fail(&format!("store: no timer: {error}"));
            }
        }
        tokio::select! {
            biased;
            done = driver.written.recv(), if driver.failed.is_none() => match done {
                Some(Ok(number)) => driver.node.written(clock::now(), number),
                Some(Err(error)) => driver.fail(&error.to_string()),
                None => driver.fail("the store's disk thread has ended"),
            },
            ask = driver.asks.recv() => match ask {
                Some(ask) => driver.take(ask),
                None => return,
            },
            () = driver.timer.expired(), if driver.failed.is_none() => driver.node.advance(clock::now()),
        }
    }
}
