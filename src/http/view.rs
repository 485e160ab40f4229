//! What the server thread sees: the published snapshot, and how much of it is still true.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use crate::clock;
use crate::ha::action::Snapshot;
use crate::ha::config::SyncMode;
use crate::ha::fence::VipRole;
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

/// One virtual address as whoever holds and renews it last said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipStatus {
    /// The address.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// The interface.
    pub interface: String,
    /// Who is to have it.
    pub role: VipRole,
    /// It is configured on this box, by us.
    pub held: bool,
    /// Since when it is held.
    pub since: Option<WallTime>,
    /// Boot clock: when the kernel removes it unless it is renewed. `None`: never, or it is not held.
    pub expires_at: Option<Instant>,
    /// Somebody else answers for it: a hardware address, with the member's name where it is one.
    pub conflict: Option<String>,
    /// Why it is not held although it should be, or cannot be announced.
    pub error: Option<String>,
}

impl VipStatus {
    /// Held at that moment, by the last word of a main loop that is heard (`stale`: it is not): the kernel has not removed it since. An
    /// address without an end may be gone by the guard's hand.
    #[must_use]
    pub fn is_held(&self, now: Instant, stale: bool) -> bool {
        self.held && self.expires_at.map_or(!stale, |at| now < at)
    }
}

/// One published snapshot with the texts that were made of it. Each text is made at most once.
#[derive(Debug)]
pub struct Current {
    /// The snapshot; `None` before the first one.
    pub snapshot: Option<Snapshot>,
    /// The virtual addresses, in the order of the configuration.
    pub vips: Arc<[VipStatus]>,
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
        Current { snapshot, vips: Arc::default(), published_at, wall, fresh: OnceLock::new(), stale: OnceLock::new() }
    }

    /// The same with these virtual addresses.
    #[must_use]
    pub fn with_vips(self, vips: Vec<VipStatus>) -> Current {
        Current { vips: vips.into(), fresh: OnceLock::new(), stale: OnceLock::new(), ..self }
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

    /// Shows `snapshot` from now on, with the virtual addresses as they were told last.
    pub fn store(&self, snapshot: Snapshot) {
        let next = Current::new(Some(snapshot), clock::now(), clock::wall());
        self.exchange(|now| Current { vips: Arc::clone(&now.vips), ..next });
    }

    /// Shows these virtual addresses from now on, in this order: all that are configured, held or not.
    pub fn set_vips(&self, vips: Vec<VipStatus>) {
        self.exchange(|now| Current::new(now.snapshot.clone(), now.published_at, now.wall).with_vips(vips));
    }

    /// As [`store`](Published::store), with the caller's clocks; for tests.
    pub fn replace(&self, current: Current) {
        self.exchange(|_| current);
    }

    fn exchange(&self, next: impl FnOnce(&Current) -> Current) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::new(next(&current));
        let previous = std::mem::replace(&mut *current, next);
        // Freed outside the lock: a large cluster view takes a while.
        drop(current);
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
