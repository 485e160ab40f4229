//! The timing rules of the lease, all of them. Nothing else in the core compares times to decide who may write.
//!
//! - The lease counts from when the acknowledged renewal was *sent*, shortened by what two clocks may drift apart.
//! - A primary that cannot renew begins to stop at [`LeaseClock::stop_at`] and is killed at [`LeaseClock::fence_at`] by the agent, at
//!   [`LeaseClock::guard_at`] by the guard process, all before the deadline. A watchdog that was kicked with a permit bites before it, too.
//! - Promotion, a watchdog kick and the virtual IP need a permit, and a permit needs time left.
//! - Another member can hold the lease only after the *store* let ours expire, which is later than our deadline.

use super::decide::JobKind;
use super::types::{Instant, LeaseId, Millis};
use super::view::{ClusterView, NodeView, PgState, Role};

/// What our lease is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseClock {
    /// The lease in the store.
    pub id: LeaseId,
    /// Its length as granted.
    pub ttl: Millis,
    /// When the last acknowledged grant or renewal was sent.
    pub sent_at: Instant,
}

impl LeaseClock {
    /// Last instant at which we may act as its holder: 1 % and 250 ms earlier than the store's earliest expiry.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.sent_at + self.ttl.saturating_sub(Millis(self.ttl.0 / 100 + 250))
    }

    /// When a primary without a newer renewal begins its fast stop.
    #[must_use]
    pub fn stop_at(&self) -> Instant {
        self.deadline() - Millis((self.ttl.0 / 5).clamp(600, 5_000))
    }

    /// When a primary that has not stopped by itself is killed.
    #[must_use]
    pub fn fence_at(&self) -> Instant {
        self.deadline() - Millis((self.ttl.0 / 20).clamp(250, 1_000))
    }

    /// When the guard process kills what the agent did not. What is left of the deadline is enough for it, see [`GUARD_KILL_AFTER`].
    #[must_use]
    pub fn guard_at(&self) -> Instant {
        self.deadline() - Millis((self.ttl.0 / 40).clamp(150, 500))
    }

    /// The order for the guard: kill at [`LeaseClock::guard_at`].
    #[must_use]
    pub fn guard_order(&self) -> GuardOrder {
        GuardOrder { kill_at: self.guard_at(), kill_after: GUARD_KILL_AFTER }
    }

    /// Proof that the lease is ours at `now`, for the virtual IP.
    #[must_use]
    pub fn held(&self, now: Instant) -> Option<LeaseHeld> {
        (now < self.stop_at()).then(|| LeaseHeld { until: self.deadline() })
    }

    /// Permission to make PostgreSQL writable: only while no stop would be due.
    #[must_use]
    pub fn promote_permit(&self, now: Instant) -> Option<PromotePermit> {
        (now < self.stop_at()).then(|| PromotePermit { until: self.fence_at() })
    }

    /// The last moment at which a watchdog with this timeout may be fed.
    #[must_use]
    pub fn last_kick(&self, timeout: Millis) -> Instant {
        self.deadline() - timeout
    }

    /// Permission to feed a watchdog that bites `timeout` after the kick: only while it would bite before the deadline.
    #[must_use]
    pub fn kick_permit(&self, now: Instant, timeout: Millis) -> Option<KickPermit> {
        (now <= self.last_kick(timeout)).then_some(KickPermit(()))
    }
}

/// The lease is ours until then. Only [`LeaseClock`] makes one.
#[derive(Debug, PartialEq, Eq)]
pub struct LeaseHeld {
    until: Instant,
}

impl LeaseHeld {
    /// The lease deadline.
    #[must_use]
    pub fn until(&self) -> Instant {
        self.until
    }
}

/// PostgreSQL may be made writable. Only [`LeaseClock`] makes one.
#[derive(Debug, PartialEq, Eq)]
pub struct PromotePermit {
    until: Instant,
}

impl PromotePermit {
    /// A promotion or start that was not begun by then must not begin any more: from [`LeaseClock::fence_at`] on PostgreSQL is killed, and what
    /// began before that the guard finds at [`LeaseClock::guard_at`].
    #[must_use]
    pub fn until(&self) -> Instant {
        self.until
    }
}

/// The watchdog may be fed: it bites before the lease deadline, or there is nothing to fence.
#[derive(Debug, PartialEq, Eq)]
pub struct KickPermit(());

/// When the guard kills. Only [`LeaseClock`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardOrder {
    kill_at: Instant,
    kill_after: Millis,
}

impl GuardOrder {
    /// SIGQUIT to the postmaster at this time (boot clock).
    #[must_use]
    pub fn kill_at(&self) -> Instant {
        self.kill_at
    }

    /// SIGKILL to all that is left after this.
    #[must_use]
    pub fn kill_after(&self) -> Millis {
        self.kill_after
    }
}

/// The guard's SIGQUIT becomes SIGKILL after this. Together with a pause of the scheduler it must fit between
/// [`LeaseClock::guard_at`] and the deadline for the shortest lease.
const GUARD_KILL_AFTER: Millis = Millis(75);

/// Why a fence may be taken away.
#[derive(Debug, PartialEq, Eq)]
pub enum Unfenced {
    /// There is nothing to fence.
    Stopped(PostgresStopped),
    /// The operator wants hands off.
    Paused(PauseSeen),
}

impl Unfenced {
    /// A device that cannot be disarmed is fed as long as this holds.
    #[must_use]
    pub fn kick_permit(&self) -> KickPermit {
        KickPermit(())
    }
}

/// PostgreSQL cannot write and nobody told it to change that. Less than [`PostgresStopped`]: it may be starting, or silent. Enough to feed a
/// watchdog that cannot be disarmed, on a standby that needs its time; not enough to give a key or a fence away.
#[derive(Debug, PartialEq, Eq)]
pub struct NoWriter(());

impl NoWriter {
    /// The proof, if `node` shows it and was observed after `not_before`. A signal file is removed before PostgreSQL opens for writes.
    #[must_use]
    pub fn observe(node: &NodeView, not_before: Instant) -> Option<NoWriter> {
        let recovers = matches!(node.pg, PgState::Starting { as_standby: true, .. } | PgState::Unresponsive { as_standby: true });
        let stopped = PostgresStopped::observe(node, not_before).is_some();
        (stopped || (recovers && node.observed_at >= not_before)).then_some(NoWriter(()))
    }

    /// While one of our own jobs fills or removes the data directory: it is refused where a postmaster lives.
    #[must_use]
    pub fn by_job(kind: JobKind) -> Option<NoWriter> {
        matches!(kind, JobKind::Copy | JobKind::Rewind | JobKind::Remove).then_some(NoWriter(()))
    }

    /// A device that cannot be disarmed is fed as long as this holds.
    #[must_use]
    pub fn kick_permit(&self) -> KickPermit {
        KickPermit(())
    }
}

/// The cluster is paused.
#[derive(Debug, PartialEq, Eq)]
pub struct PauseSeen(());

impl PauseSeen {
    /// The proof, if the store said so.
    #[must_use]
    pub fn observe(cluster: &ClusterView) -> Option<PauseSeen> {
        cluster.is_paused().then_some(PauseSeen(()))
    }
}

/// PostgreSQL on this box cannot write: it was seen stopped or in recovery, after the last job that could have changed that.
#[derive(Debug, PartialEq, Eq)]
pub struct PostgresStopped(());

impl PostgresStopped {
    /// The proof, if `node` shows it and was observed after `not_before` (the end of the last job).
    #[must_use]
    pub fn observe(node: &NodeView, not_before: Instant) -> Option<PostgresStopped> {
        let cannot_write = match &node.pg {
            PgState::Empty | PgState::Stopped(_) => true,
            PgState::Running(running) => running.role == Role::Standby,
            PgState::Unreadable { .. } | PgState::Starting { .. } | PgState::Unresponsive { .. } => false,
        };
        (cannot_write && node.observed_at >= not_before).then_some(PostgresStopped(()))
    }
}

#[cfg(test)]
mod tests {
    use super::{LeaseClock, NoWriter, PostgresStopped};
    use crate::ha::types::{Instant, LeaseId, Millis};
    use crate::ha::view::{NodeView, PgState};

    fn lease(ttl_secs: u64) -> LeaseClock {
        LeaseClock { id: LeaseId(7), ttl: Millis::from_secs(ttl_secs), sent_at: Instant(1_000_000) }
    }

    #[test]
    fn order_of_the_deadlines() {
        for ttl in 3..=600 {
            let lease = lease(ttl);
            assert!(lease.sent_at < lease.stop_at(), "ttl {ttl}");
            assert!(lease.stop_at() < lease.fence_at(), "ttl {ttl}");
            assert!(lease.fence_at() < lease.guard_at(), "ttl {ttl}");
            let order = lease.guard_order();
            assert!(order.kill_at() + order.kill_after() + Millis(50) < lease.deadline(), "ttl {ttl}");
            assert!(lease.deadline() < lease.sent_at + lease.ttl, "ttl {ttl}");
        }
    }

    #[test]
    fn thirty_seconds() {
        let lease = lease(30);
        assert_eq!(lease.deadline(), Instant(1_000_000 + 29_450));
        assert_eq!(lease.stop_at(), Instant(1_000_000 + 24_450));
        assert_eq!(lease.fence_at(), Instant(1_000_000 + 28_450));
    }

    #[test]
    fn no_permit_when_time_is_short() {
        let lease = lease(30);
        assert!(lease.promote_permit(lease.stop_at() - Millis(1)).is_some());
        assert!(lease.promote_permit(lease.stop_at()).is_none());
        assert!(lease.kick_permit(lease.deadline() - Millis(15_000), Millis(15_000)).is_some());
        assert!(lease.kick_permit(lease.deadline() - Millis(14_999), Millis(15_000)).is_none());
    }

    #[test]
    fn proof_of_stop_needs_a_fresh_look() {
        let node = NodeView { observed_at: Instant(10), pg: PgState::Empty };
        assert!(PostgresStopped::observe(&node, Instant(10)).is_some());
        assert!(PostgresStopped::observe(&node, Instant(11)).is_none());
        let silent = NodeView { observed_at: Instant(10), pg: PgState::Unresponsive { as_standby: true } };
        assert!(PostgresStopped::observe(&silent, Instant(0)).is_none());
        assert!(NoWriter::observe(&silent, Instant(10)).is_some());
        assert!(NoWriter::observe(&silent, Instant(11)).is_none());
        let writes = NodeView { observed_at: Instant(10), pg: PgState::Unresponsive { as_standby: false } };
        assert!(NoWriter::observe(&writes, Instant(0)).is_none());
    }
}
