//! What the server thread sees: the published snapshot, and how much of it is still true.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use crate::clock;
use crate::ha::action::Snapshot;
use crate::ha::config::SyncMode;
use crate::ha::types::{Instant, Millis, WallTime};
use crate::ha::view::{ClusterView, DcsHealth};

use super::status;

/// What never changes while the agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Cluster name.
    pub scope: String,
    /// Member name.
    pub name: String,
    /// The Patroni release that this agent matches, for example `4.1.5`.
    pub version: String,
    /// `mastiff X.Y.Z`.
    pub agent: String,
}

/// One published snapshot with the texts that were made of it. Each text is made at most once.
#[derive(Debug)]
pub struct Current {
    /// The snapshot; `None` before the first one.
    pub snapshot: Option<Snapshot>,
    /// Boot clock when it was published.
    pub published_at: Instant,
    /// Wall clock at the same moment.
    pub wall: WallTime,
    fresh: OnceLock<Bytes>,
    stale: OnceLock<Bytes>,
}

impl Current {
    /// A snapshot as published at the given times.
    #[must_use]
    pub fn new(snapshot: Option<Snapshot>, published_at: Instant, wall: WallTime) -> Current {
        Current { snapshot, published_at, wall, fresh: OnceLock::new(), stale: OnceLock::new() }
    }

    /// The status document.
    #[must_use]
    pub fn status_body(&self, identity: &Identity, stale: bool) -> Bytes {
        let cell = if stale { &self.stale } else { &self.fresh };
        cell.get_or_init(|| status::render(self, identity, stale).into()).clone()
    }

    /// Seconds since the epoch at which the store was last read with success; zero: never.
    #[must_use]
    pub fn dcs_last_seen(&self) -> i64 {
        let seen = self.snapshot.as_ref().and_then(|snapshot| snapshot.dcs_seen_at);
        seen.map_or(0, |seen| {
            let age = i64::try_from(self.published_at.since(seen).0).unwrap_or(i64::MAX);
            self.wall.0.saturating_sub(age).div_euclid(1000)
        })
    }
}

/// The latest snapshot: set by the main loop, read by the server thread.
#[derive(Debug)]
pub struct Published {
    current: Mutex<Arc<Current>>,
}

impl Default for Published {
    fn default() -> Published {
        Published::new()
    }
}

impl Published {
    /// Nothing published yet.
    #[must_use]
    pub fn new() -> Published {
        Published { current: Mutex::new(Arc::new(Current::new(None, clock::now(), clock::wall()))) }
    }

    /// Shows `snapshot` from now on.
    pub fn store(&self, snapshot: Snapshot) {
        self.replace(Current::new(Some(snapshot), clock::now(), clock::wall()));
    }

    /// As [`store`](Published::store), with the caller's clocks; for tests.
    pub fn replace(&self, current: Current) {
        let next = Arc::new(current);
        let previous = std::mem::replace(&mut *self.current.lock().unwrap_or_else(PoisonError::into_inner), next);
        // Freed outside the lock: a large cluster view takes a while.
        drop(previous);
    }

    /// The latest one.
    #[must_use]
    pub fn load(&self) -> Arc<Current> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A snapshot seen at a given moment.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The snapshot.
    pub current: &'a Current,
    /// Who we are.
    pub identity: &'a Identity,
    /// Boot clock of the question.
    pub now: Instant,
    /// Wall clock of the question, for schedules.
    pub wall: WallTime,
}

impl<'a> View<'a> {
    /// The snapshot, if there is one.
    #[must_use]
    pub fn snapshot(&self) -> Option<&'a Snapshot> {
        self.current.snapshot.as_ref()
    }

    /// How old it is.
    #[must_use]
    pub fn age(&self) -> Millis {
        self.now.since(self.snapshot().map_or(self.current.published_at, |snapshot| snapshot.at))
    }

    /// The main loop has not been heard for longer than a cycle can take: nothing in the snapshot counts as true any more.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.snapshot().is_none_or(|snapshot| self.age() > freshness(snapshot))
    }

    /// We may act as leader at this very moment: the core said so, recently, and the lease has not ended since.
    ///
    /// The one leader without a lease deadline is one that the core vouches for in pause, where PostgreSQL is left alone.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.snapshot().is_some_and(|snapshot| {
            let in_time = match snapshot.lease_deadline {
                Some(deadline) => self.now < deadline,
                None => is_paused(snapshot),
            };
            snapshot.is_leader && in_time && !self.is_stale()
        })
    }

    /// The cluster as last read, if that is recent enough to act upon.
    #[must_use]
    pub fn cluster(&self) -> Option<&'a ClusterView> {
        (!self.is_stale()).then(|| visible_cluster(self.snapshot()?)).flatten()
    }

    /// The cluster as last read, whatever its age.
    #[must_use]
    pub fn last_cluster(&self) -> Option<&'a ClusterView> {
        self.snapshot()?.cluster.as_deref()
    }

    /// Pause mode, as last known.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.snapshot().is_some_and(is_paused)
    }
}

/// After this the snapshot is stale: the longest sleep, one attempt at the store, and a second for the machine.
#[must_use]
pub fn freshness(snapshot: &Snapshot) -> Millis {
    let config = &snapshot.config;
    Millis(config.loop_wait.0.saturating_add(config.retry_timeout.0).saturating_add(1000))
}

/// The cluster view of the snapshot, unless the store has been silent for longer than one attempt may take.
#[must_use]
pub fn visible_cluster(snapshot: &Snapshot) -> Option<&ClusterView> {
    let recent = snapshot.dcs_seen_at.is_some_and(|seen| snapshot.at.since(seen) <= snapshot.config.retry_timeout);
    match snapshot.dcs {
        DcsHealth::Good => snapshot.cluster.as_deref(),
        DcsHealth::Unreachable { .. } if recent => snapshot.cluster.as_deref(),
        DcsHealth::Unreachable { .. } | DcsHealth::NeverSeen => None,
    }
}

/// Pause mode by the last read.
#[must_use]
pub fn is_paused(snapshot: &Snapshot) -> bool {
    snapshot.cluster.as_deref().is_some_and(ClusterView::is_paused)
}

/// `sync_standby` or `quorum_standby`: the word for a synchronous member in this configuration.
#[must_use]
pub fn sync_word(mode: SyncMode) -> Option<&'static str> {
    match mode {
        SyncMode::Off => None,
        SyncMode::On => Some("sync_standby"),
        SyncMode::Quorum => Some("quorum_standby"),
    }
}

/// Whether `/sync` lists `name`. Patroni compares without case.
#[must_use]
pub fn is_sync_member(cluster: &ClusterView, name: &str) -> bool {
    cluster.sync.as_ref().is_some_and(|sync| sync.value.standbys.iter().any(|member| member.0.eq_ignore_ascii_case(name)))
}
