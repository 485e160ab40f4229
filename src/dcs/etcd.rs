//! The etcd v3 client. Every call ends within its deadline, moves on to other endpoints on the way, and says honestly whether a write was
//! applied, was not, or may have been.
//!
//! Reads are linearizable: a member that lost its quorum cannot answer them, so moving between endpoints never shows older data than before.
//! The renewal of a lease is confirmed by such a read, too, see [`lease`].

mod connect;
mod fault;
mod lease;
mod remove;
mod tls;
mod watch;
mod write;

use std::borrow::Cow;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Client, GetOptions, ResponseHeader};
use tokio::time::{sleep, timeout, timeout_at, Instant};

use self::connect::{Connector, Purpose};
use self::fault::{judge, Fault, CONNECT};
use self::lease::Keeper;
use super::documents::{self, Entry};
use super::keys::{Key, Keys};
use super::write::Memory;
use super::Error;
use crate::clock;
use crate::config::types::EtcdConfig;
use crate::ha::action::StoreRequest;
use crate::ha::input::{DcsFailure, StoreOutcome};
use crate::ha::types::{LeaseId, MemberName, Revision};

/// Between two questions to servers that have no leader.
const ELECTION_PAUSE: Duration = Duration::from_millis(100);

/// One scope in etcd. Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub struct EtcdStore {
    inner: Arc<Inner>,
}

/// What the clones share.
struct Inner {
    keys: Keys,
    me: MemberName,
    connector: Connector,
    state: Mutex<State>,
    /// Held while a connection is opened, so that concurrent calls open one, not two.
    connecting: tokio::sync::Mutex<()>,
    /// Held by the write under way: writes reach the store in the order in which they were asked for.
    writing: tokio::sync::Mutex<()>,
}

/// What changes. Never locked across an await.
#[derive(Default)]
struct State {
    link: Option<Link>,
    /// Counts connections, so that a late failure of an old one does not close its successor.
    generation: u64,
    keeper: Option<Keeper>,
    memory: Memory,
    /// What was wrong with the documents at the last read, so that it is logged once.
    problems: Vec<String>,
}

/// A connection that has answered.
#[derive(Clone)]
struct Link {
    client: Client,
    url: Arc<str>,
    generation: u64,
}

/// An answer, and whether an earlier attempt of the same call may have been applied.
struct Answer<T> {
    value: T,
    unsure: bool,
}

/// Closes the link if its call is dropped half-way: nobody would notice that it hangs.
struct Underway<'a> {
    inner: &'a Inner,
    generation: u64,
    armed: bool,
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.inner.close(self.generation);
        }
    }
}

impl EtcdStore {
    /// A store for one scope. Connects at the first call.
    ///
    /// # Errors
    /// No endpoint, a malformed one, or certificate files that cannot be used.
    pub fn new(config: &EtcdConfig, namespace: &str, scope: &str, me: &MemberName) -> Result<EtcdStore, Error> {
        let inner = Inner {
            keys: Keys::new(namespace, scope),
            me: me.clone(),
            connector: Connector::new(config)?,
            state: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        };
        Ok(EtcdStore { inner: Arc::new(inner) })
    }

    /// Carries out a request. Answers within `deadline`, whatever the network does; dropping the future is safe.
    pub async fn call(&self, request: StoreRequest, deadline: Duration) -> StoreOutcome {
        // The attempts end a little earlier, so that the one that hangs is the one that is blamed.
        let end = Instant::now() + deadline.saturating_sub((deadline / 10).min(Duration::from_millis(50)));
        // Boxed, as are the parts below: the futures of gRPC calls are large, and the caller's should not be.
        match timeout(deadline, Box::pin(self.inner.dispatch(request, end))).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(Fault::LeaseGone)) => StoreOutcome::LeaseGone,
            Ok(Err(fault)) => StoreOutcome::Failed(fault.into_failure()),
            Err(_) => StoreOutcome::Failed(DcsFailure::Timeout),
        }
    }

    /// Wakes the loop: sends `()` whenever a key changed that it should look at, and after each time the watch was interrupted. Runs for ever
    /// and reconnects with back-off. A full channel is a loop that is awake already.
    pub async fn watch(&self, alarm: tokio::sync::mpsc::Sender<()>) {
        Box::pin(watch::run(&self.inner, &alarm)).await;
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, key: Key<'_>) -> String {
        self.keys.path(key)
    }

    async fn dispatch(&self, request: StoreRequest, end: Instant) -> Result<StoreOutcome, Fault> {
        match request {
            StoreRequest::Read => self.read(end).await,
            StoreRequest::RenewLease { lease: None, ttl } => self.grant(ttl, end).await,
            StoreRequest::RenewLease { lease: Some(lease), .. } => self.renew(lease, end).await,
            write => {
                let _turn = self.writing.lock().await;
                Box::pin(self.write(write, end)).await
            }
        }
    }

    async fn read(&self, end: Instant) -> Result<StoreOutcome, Fault> {
        let answer = self.attempts("read", end, |mut link| async move {
            let read_at = clock::now();
            let options = GetOptions::new().with_prefix();
            link.client.get(self.keys.prefix(), Some(options)).await.map(|response| (read_at, response))
        });
        let (read_at, response) = answer.await?.value;
        let revision = self.saw(response.header());
        let entries = response.kvs().iter().map(|kv| Entry {
            key: String::from_utf8_lossy(kv.key()),
            value: text(kv.value()),
            lease: LeaseId(kv.lease()),
            revision: Revision(kv.mod_revision()),
        });
        let parsed = documents::parse(&self.keys, entries, revision, read_at);
        let mut state = self.state();
        state.memory.status = Some(parsed.view.status.clone());
        if state.problems != parsed.problems {
            for problem in parsed.problems.iter().filter(|problem| !state.problems.contains(problem)) {
                log::warn!("etcd key {problem}");
            }
            state.problems = parsed.problems;
        }
        Ok(StoreOutcome::View(Box::new(parsed.view)))
    }

    /// Remembers and returns the revision of an answer. Not the greatest ever: a wiped store counts from 1 again.
    fn saw(&self, header: Option<&ResponseHeader>) -> Revision {
        let mut state = self.state();
        if let Some(header) = header {
            state.memory.seen = header.revision();
        }
        Revision(state.memory.seen)
    }

    /// Runs `call` at the current endpoint, then at the others, until one answers or `end` comes. A connection that worked before gets half of
    /// the time, new ones share what is left, so that one silent endpoint never costs all of it.
    async fn attempts<T, F, Fut>(&self, operation: &'static str, end: Instant, call: F) -> Result<Answer<T>, Fault>
    where
        F: Fn(Link) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut left = (self.connector.count() + usize::from(self.state().link.is_some())).max(2);
        let mut unsure = false;
        let mut relogin = true;
        let mut last = Fault::Unsent(DcsFailure::Timeout);
        while left > 0 && Instant::now() < end {
            let warm = self.state().link.clone();
            let was_warm = warm.is_some();
            let link = match warm {
                Some(link) => Ok(link),
                None => self.connect(share(end, left), end).await,
            };
            let fault = match link {
                Ok(link) => {
                    let slice = if was_warm { share(end, left.min(2)) } else { share(end, left) };
                    match self.attempt(operation, slice, &link, &call).await {
                        Ok(value) => return Ok(Answer { value, unsure }),
                        Err(fault) => fault,
                    }
                }
                Err(fault) => fault,
            };
            match fault {
                Fault::LeaseGone | Fault::Refused(_) => return Err(fault),
                Fault::Stale(_) if relogin => relogin = false,
                Fault::Stale(_) => return Err(fault),
                // The servers are there and elect: that takes a second or two, and none of them is worse than the others.
                Fault::Electing { unsure: more, .. } => {
                    unsure |= more;
                    sleep(ELECTION_PAUSE.min(share(end, 2))).await;
                }
                Fault::Unsent(_) | Fault::Unknown(_) => {
                    unsure |= matches!(fault, Fault::Unknown(_));
                    left -= 1;
                }
            }
            last = fault;
        }
        Err(last)
    }

    /// One attempt over an open connection, which is closed if it fails.
    async fn attempt<T, F, Fut>(&self, operation: &'static str, slice: Duration, link: &Link, call: &F) -> Result<T, Fault>
    where
        F: Fn(Link) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut underway = Underway { inner: self, generation: link.generation, armed: true };
        let fault = match timeout(slice, Box::pin(call(link.clone()))).await {
            Ok(Ok(value)) => {
                underway.armed = false;
                return Ok(value);
            }
            Ok(Err(error)) => judge(&link.url, operation, &error),
            Err(_) => Fault::Unknown(DcsFailure::Timeout),
        };
        match &fault {
            Fault::Refused(_) | Fault::LeaseGone => underway.armed = false,
            Fault::Stale(failure) => log::info!("{failure}; logging in again"),
            Fault::Electing { failure, .. } | Fault::Unsent(failure) | Fault::Unknown(failure) => {
                match failure {
                    DcsFailure::Timeout => {
                        log::warn!("etcd {}: {operation}: no answer within {} ms; closing the connection", link.url, slice.as_millis())
                    }
                    failure => log::warn!("{failure}; closing the connection"),
                }
                self.connector.failed(&link.url);
            }
        }
        Err(fault)
    }

    /// Opens a connection to the current endpoint and proves it by a read: what fails up to here was certainly not applied.
    async fn connect(&self, slice: Duration, end: Instant) -> Result<Link, Fault> {
        let Ok(_turn) = timeout_at(end, self.connecting.lock()).await else {
            return Err(Fault::Unsent(DcsFailure::Timeout));
        };
        if let Some(link) = self.state().link.clone() {
            return Ok(link);
        }
        match timeout(slice, self.connector.prepare()).await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => return Err(Fault::Unsent(DcsFailure::Error(reason))),
            Err(_) => return Err(Fault::Unsent(DcsFailure::Timeout)),
        }
        let url = self.connector.url(0);
        let result = timeout(slice, Box::pin(self.open_and_prove(&url))).await.unwrap_or(Err(Fault::Unsent(DcsFailure::Timeout)));
        let client = match result {
            Ok(client) => client,
            Err(fault) => {
                log::debug!("no connection to etcd {url}: {}", fault.text());
                self.connector.failed(&url);
                return Err(fault);
            }
        };
        log::debug!("etcd {url}: connected");
        let mut state = self.state();
        state.generation += 1;
        let link = Link { client, url: Arc::from(url), generation: state.generation };
        state.link = Some(link.clone());
        Ok(link)
    }

    async fn open_and_prove(&self, url: &str) -> Result<Client, Fault> {
        let unsent = |fault| match fault {
            Fault::Unknown(failure) => Fault::Unsent(failure),
            Fault::Electing { failure, .. } => Fault::Electing { failure, unsure: false },
            fault => fault,
        };
        let mut client = self.connector.open(url, Purpose::Calls).await.map_err(unsent)?;
        let options = GetOptions::new().with_count_only();
        let response = client.get(self.key(Key::Leader), Some(options)).await.map_err(|error| unsent(judge(url, CONNECT, &error)))?;
        self.saw(response.header());
        Ok(client)
    }

    /// Forgets a connection, unless a newer one took its place.
    fn close(&self, generation: u64) {
        let mut state = self.state();
        if state.link.as_ref().is_some_and(|link| link.generation == generation) {
            state.link = None;
            state.keeper = None;
        }
    }
}

/// One of `parts` equal shares of the time until `end`.
fn share(end: Instant, parts: usize) -> Duration {
    end.saturating_duration_since(Instant::now()) / u32::try_from(parts.max(1)).unwrap_or(u32::MAX)
}

/// A value as text; what is not UTF-8 shows as such.
fn text(value: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(value)
}
