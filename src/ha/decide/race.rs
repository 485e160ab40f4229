//! There is no leader.

use super::{bootstrap, demotion, switchover, Decision, Facts, LeaderKey, Need, PgWanted, UNLOCKED_LIMIT};
use crate::ha::election::{self, Obstacle};
use crate::ha::types::{MemberName, Millis};
use crate::ha::verdict::Verdict;
use crate::ha::view::{Initialize, PeersView, PgRunning, PgState, Role};

impl Facts<'_> {
    /// The others' answers for an election: asked after the leader was gone.
    pub(super) fn race_peers(&self) -> Option<&PeersView> {
        let since = self.memory.leaderless_since?;
        self.fresh_peers().filter(|peers| peers.asked_at >= since)
    }
}

pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    match &facts.node.pg {
        PgState::Empty => bootstrap::without_leader(facts),
        PgState::Unreadable { reason } => Decision::nothing(Verdict::Unreadable(reason.clone())),
        PgState::Unresponsive { as_standby: false } => Decision::postgres(Verdict::DemotingNoLock, demotion(facts)),
        PgState::Unresponsive { .. } => Decision::nothing(Verdict::Unresponsive),
        PgState::Stopped(_) if facts.now < facts.memory.start_not_before => Decision::nothing(Verdict::StartingStandby),
        PgState::Stopped(_) if facts.memory.torn => Decision::nothing(Verdict::Torn),
        // Whoever it was before: a member races from recovery, where it cannot write.
        PgState::Stopped(_) => Decision::postgres(Verdict::StartingStandby, PgWanted::Standby(None)),
        PgState::Starting { as_standby: false, .. } => Decision::postgres(Verdict::DemotingNoLock, demotion(facts)),
        PgState::Starting { .. } => Decision::nothing(Verdict::Starting),
        PgState::Running(running) if running.role == Role::Primary => running_primary(facts, running),
        PgState::Running(running) => candidate(facts, running),
    }
}

/// Adopted, or its key is gone: it writes, so it must have the key at once, or stop. Nobody is asked first: the key decides.
fn running_primary(facts: &Facts<'_>, running: &PgRunning) -> Decision {
    let outdated = election::cluster_timeline(facts.cluster).is_some_and(|newest| newest > running.timeline);
    let behind = facts.cluster.status.optime.is_some_and(|optime| optime > running.position);
    if outdated || behind || writes_too_long_without_key(facts) {
        return Decision::postgres(Verdict::DemotingNoLock, demotion(facts));
    }
    if somebody_initialises(facts) {
        return Decision::nothing(Verdict::WaitingForBootstrap);
    }
    if facts.memory.lease.is_none() {
        return Decision::nothing(Verdict::WaitingForLease);
    }
    Decision::key(Verdict::AcquiringAsPrimary, LeaderKey::Acquire)
}

/// A primary whose key could not be had (again) within a second must not go on.
pub(super) fn writes_too_long_without_key(facts: &Facts<'_>) -> bool {
    facts.memory.unlocked_since.is_some_and(|since| facts.now.since(since) > UNLOCKED_LIMIT)
}

/// A claim of `/initialize` that is not ours: its owner's new database writes as soon as it stands, whoever holds the leader key by then.
fn somebody_initialises(facts: &Facts<'_>) -> bool {
    facts.cluster.initialize == Some(Initialize::InProgress)
}

fn candidate(facts: &Facts<'_>, running: &PgRunning) -> Decision {
    if somebody_initialises(facts) {
        return Decision::nothing(Verdict::WaitingForBootstrap);
    }
    if let Err(obstacle) = election::check_self(facts.config, facts.cluster, running) {
        return obstructed(obstacle);
    }
    if facts.memory.lease.is_none() {
        return Decision::nothing(Verdict::WaitingForLease);
    }
    if facts.lacks_watchdog() {
        return Decision::nothing(Verdict::NoWatchdog);
    }
    if facts.now < facts.memory.race_not_before {
        return Decision::nothing(Verdict::NotHealthiest("a promotion failed here a moment ago".to_owned()));
    }
    // A leader that handed over made sure that somebody has everything: nobody needs to be waited for.
    // And a leader that was seen since we came up is no blackout.
    let memory = facts.memory;
    let saw_leader = memory.leader_seen_at.is_some_and(|seen| memory.up_since.is_some_and(|up| seen >= up));
    let blackout = facts.cluster.failover.is_none() && !saw_leader;
    if blackout && wait_for_absent(facts) {
        return Decision::nothing(Verdict::NotHealthiest("other members may come up and have more WAL".to_owned()));
    }
    if facts.others().is_empty() {
        return acquire();
    }
    let Some(peers) = facts.race_peers() else { return Decision::need(Verdict::AskingPeers, Need::Peers) };
    if let Some(name) = wait_for_starting(facts, peers).filter(|_| blackout) {
        return Decision::nothing(Verdict::NotHealthiest(format!("{name} is still starting and may have more WAL")));
    }
    if switchover::better_reached(facts, peers) {
        return Decision::nothing(Verdict::NotHealthiest("the network of the virtual IP is down here".to_owned()));
    }
    match switchover::may_race(facts) {
        Err(Some(candidate)) => return Decision::nothing(Verdict::WaitingForCandidate(candidate)),
        Err(None) => return Decision::nothing(Verdict::NotHealthiest("I was asked to step back".to_owned())),
        Ok(()) => {}
    }
    let named = facts.cluster.failover.as_ref().is_some_and(|f| f.value.candidate.as_ref() == Some(&facts.config.me));
    match election::check_peers(facts.config, facts.cluster, running, peers) {
        Err(obstacle) if !named => obstructed(obstacle),
        // Named by hand: the operator's choice beats a peer that is a little ahead, but never a live primary.
        Err(Obstacle::Unfit(reason)) if reason.ends_with("is still alive") => obstructed(Obstacle::Unfit(reason)),
        _ => acquire(),
    }
}

/// After a blackout longer than the lease no member key is left, and the first to register would be alone. Members whose slots the last
/// leader kept get the same patience.
fn wait_for_absent(facts: &Facts<'_>) -> bool {
    let just_up = facts.memory.up_since.is_none_or(|since| facts.now.since(since) < BLACKOUT_PATIENCE);
    let present: Vec<String> = facts.cluster.members.keys().map(MemberName::slot_name).collect();
    just_up && facts.cluster.status.retain_slots.iter().any(|slot| *slot != facts.config.me.slot_name() && !present.contains(slot))
}

/// After a blackout everybody starts at about the same time, and the first to answer need not be the one with the most WAL.
fn wait_for_starting<'a>(facts: &Facts<'a>, peers: &'a PeersView) -> Option<&'a MemberName> {
    let just_up = facts.memory.up_since.is_none_or(|since| facts.now.since(since) < BLACKOUT_PATIENCE);
    peers.starting.iter().next().filter(|_| just_up)
}

/// How long one that just came up waits for others that are coming up.
const BLACKOUT_PATIENCE: Millis = Millis(10_000);

fn acquire() -> Decision {
    Decision::key(Verdict::Acquiring, LeaderKey::Acquire)
}

fn obstructed(obstacle: Obstacle) -> Decision {
    match obstacle {
        Obstacle::NotAllowed => Decision::nothing(Verdict::NotAllowed),
        Obstacle::Unfit(reason) => Decision::nothing(Verdict::NotHealthiest(reason)),
    }
}
