//! Somebody else leads: be its standby, prove that WAL really arrives, and repair what prevents it.

use super::{demotion_at_once, leader_upstream, upstream_of, Decision, Facts, Need, PgWanted};
use crate::ha::action::{StopMode, Upstream, WipeReason};
use crate::ha::rewind::{self, LocalEnd, Relation};
use crate::ha::types::Millis;
use crate::ha::verdict::Verdict;
use crate::ha::view::{ControlData, PgRunning, PgState, Role, UpstreamHistory};

/// How long a standby may be without WAL before its history is compared with the upstream's.
const STREAM_PATIENCE: Millis = Millis(3_000);
/// What the upstream has removed may be in the local `pg_wal` or come from an archive, a slow one too: a copy is made after so long without WAL.
const ARCHIVE_PATIENCE: Millis = Millis(20_000);
/// How long a new leader is given to become primary before it is followed anyway.
const PROMOTION_PATIENCE: Millis = Millis(3_000);
/// How long an answer about the upstream's history counts.
const HISTORY_AGE: Millis = Millis(5_000);
/// After so many failed looks at the upstream a stopped former primary is started as a standby anyway: it cannot write.
const HISTORY_ATTEMPTS: u32 = 5;

pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    match &facts.node.pg {
        PgState::Empty => copy(facts),
        PgState::Unreadable { reason } => Decision::nothing(Verdict::Unreadable(reason.clone())),
        PgState::Stopped(control) => stopped(facts, control),
        PgState::Starting { as_standby: false, .. } => Decision::postgres(Verdict::DemotingNoLock, demotion_at_once()),
        PgState::Starting { stopping: false, control, .. } => starting(facts, control.as_ref()),
        PgState::Starting { .. } => Decision::nothing(Verdict::Starting),
        PgState::Unresponsive { as_standby: false } => Decision::postgres(Verdict::DemotingNoLock, demotion_at_once()),
        PgState::Unresponsive { .. } => Decision::nothing(Verdict::Unresponsive),
        PgState::Running(running) if running.role == Role::Primary => Decision::postgres(Verdict::DemotingNoLock, demotion_at_once()),
        PgState::Running(running) => standby(facts, running),
    }
}

/// An empty directory: a copy from a member that offers itself, or from the leader.
fn copy(facts: &Facts<'_>) -> Decision {
    let Some(source) = clone_source(facts) else {
        return Decision::nothing(Verdict::WaitingForBootstrap);
    };
    let verdict = Verdict::Cloning(Some(source.name.clone()));
    if facts.now < facts.memory.copy_not_before {
        return Decision::nothing(verdict);
    }
    Decision::postgres(verdict, PgWanted::Clone(Some(source)))
}

fn clone_source(facts: &Facts<'_>) -> Option<Upstream> {
    let from_leader = facts.memory.reinitialize.is_some_and(|request| request.from_leader);
    let offered = facts.cluster.members.iter().find(|(name, member)| {
        let fit = member.tags.clonefrom && member.state == "running" && member.conn_url.is_some();
        **name != facts.config.me && fit && facts.cluster.leader_name() != Some(*name)
    });
    match offered {
        Some((name, member)) if !from_leader => Some(Upstream { name: name.clone(), conn_url: member.conn_url.clone()? }),
        _ => leader_upstream(facts),
    }
}

fn stopped(facts: &Facts<'_>, control: &ControlData) -> Decision {
    if facts.now < facts.memory.start_not_before {
        return Decision::nothing(Verdict::StartingStandby);
    }
    if facts.memory.reinitialize.is_some() {
        return Decision::postgres(Verdict::RemovingData, PgWanted::Removed(WipeReason::Reinitialize));
    }
    let Some(leader) = leader_upstream(facts) else { return start(facts) };
    if facts.memory.torn {
        return torn(facts, leader);
    }
    // A fresh copy, or one that was just rewound: whether it can follow shows in the stream.
    if facts.memory.can_follow || control.is_copy {
        return start(facts);
    }
    // A former standby is started first: whether it can follow shows in the stream, and a wrong guess costs nothing.
    let was_standby = !control.was_primary();
    let was_standby = was_standby && !was_judged(facts, &leader);
    let known = facts.memory.upstream_failures >= HISTORY_ATTEMPTS;
    match history_of(facts, &leader) {
        Some(history) => judge(facts, &leader, history, Some(control)),
        None if (was_standby && facts.memory.repair.is_none()) || known => start(facts),
        None => Decision::need(Verdict::CheckingHistory(leader.name.clone()), Need::Upstream(leader)),
    }
}

/// A rewind was interrupted: the directory is of two minds until one succeeds.
fn torn(facts: &Facts<'_>, leader: Upstream) -> Decision {
    if facts.memory.rewind_failed || !facts.config.use_pg_rewind {
        let allowed = facts.config.remove_data_directory_on_rewind_failure;
        let wanted = if allowed { PgWanted::Removed(WipeReason::RewindFailed) } else { PgWanted::Leave };
        let verdict = if allowed { Verdict::RemovingData } else { Verdict::Torn };
        return Decision::postgres(verdict, wanted);
    }
    match history_of(facts, &leader) {
        Some(history) if history.is_primary && facts.now >= facts.memory.copy_not_before => {
            Decision::postgres(Verdict::Rewinding(leader.name.clone()), PgWanted::Rewound(leader))
        }
        Some(_) => Decision::nothing(Verdict::WaitingForUpstream(leader.name)),
        None => Decision::need(Verdict::CheckingHistory(leader.name.clone()), Need::Upstream(leader)),
    }
}

/// It was stopped for what the comparison said, maybe longer ago than an answer counts: then it is compared again, not started again.
fn was_judged(facts: &Facts<'_>, leader: &Upstream) -> bool {
    facts.memory.upstream.as_ref().is_some_and(|answer| answer.member == leader.name && answer.history.is_some())
}

fn start(facts: &Facts<'_>) -> Decision {
    Decision::postgres(Verdict::StartingStandby, PgWanted::Standby(upstream_of(facts)))
}

fn standby(facts: &Facts<'_>, running: &PgRunning) -> Decision {
    if facts.memory.reinitialize.is_some() {
        return Decision::postgres(Verdict::RemovingData, stop_standby());
    }
    if facts.memory.restart.is_some() {
        return Decision::postgres(Verdict::Restarting, PgWanted::Restarted);
    }
    let Some(upstream) = upstream_of(facts) else {
        return Decision::nothing(Verdict::Starting);
    };
    if running.upstream.as_deref() != Some(upstream.address()) {
        let verdict = Verdict::FollowingNewLeader(upstream.name.clone());
        if facts.now < facts.memory.start_not_before || is_still_promoting(facts, &upstream) {
            return Decision::nothing(verdict);
        }
        return Decision::postgres(verdict, PgWanted::Standby(Some(upstream)));
    }
    let leader = facts.cluster.leader_name().cloned().unwrap_or_else(|| upstream.name.clone());
    if running.streaming {
        return Decision::nothing(Verdict::Following(leader));
    }
    not_streaming(facts, leader_upstream(facts).unwrap_or(upstream))
}

/// The leader has the key and is not primary yet. One that connects before it has its slot there waits 5 s before it tries again.
fn is_still_promoting(facts: &Facts<'_>, upstream: &Upstream) -> bool {
    let leads = facts.cluster.leader_name() == Some(&upstream.name);
    let role = facts.cluster.leader_member().map_or("", |member| member.role.as_str());
    let new = facts.memory.leader_since.is_some_and(|since| facts.now.since(since) < PROMOTION_PATIENCE);
    leads && new && !matches!(role, "primary" | "master" | "standby_leader")
}

/// The WAL receiver does not stream. After a little patience the histories are compared.
fn not_streaming(facts: &Facts<'_>, leader: Upstream) -> Decision {
    let waiting = Verdict::WaitingForStream(leader.name.clone());
    let quiet = facts.memory.stream_progress_at.map_or(Millis::ZERO, |at| facts.now.since(at));
    if quiet < STREAM_PATIENCE || facts.config.tags.nostream {
        return Decision::nothing(waiting);
    }
    match history_of(facts, &leader) {
        Some(history) => judge(facts, &leader, history, None),
        None => Decision::need(waiting, Need::Upstream(leader)),
    }
}

fn history_of<'a>(facts: &Facts<'a>, leader: &Upstream) -> Option<&'a UpstreamHistory> {
    let answer = facts.memory.upstream.as_ref().filter(|answer| answer.member == leader.name)?;
    answer.history.as_ref().filter(|_| facts.now.since(answer.asked_at) <= HISTORY_AGE)
}

/// After a rewind PostgreSQL opens only when it has all WAL from the common checkpoint on. What the upstream has removed never comes.
fn starting(facts: &Facts<'_>, control: Option<&ControlData>) -> Decision {
    let waiting = Decision::nothing(Verdict::Starting);
    // Started while there was no leader, or for another one: without the WAL that is missing it would never open.
    if let Some(upstream) = upstream_of(facts).filter(|_| facts.memory.rewound_at.is_some()) {
        if facts.memory.aimed_at.as_deref() != Some(upstream.address()) && facts.now >= facts.memory.start_not_before {
            return Decision::postgres(Verdict::FollowingNewLeader(upstream.name.clone()), PgWanted::Standby(Some(upstream)));
        }
    }
    let long = facts.memory.rewound_at.is_some_and(|at| facts.now.since(at) >= ARCHIVE_PATIENCE);
    let Some(leader) = leader_upstream(facts).filter(|_| long && facts.config.remove_data_directory_on_rewind_failure) else {
        return waiting;
    };
    let Some(history) = history_of(facts, &leader) else { return Decision::need(Verdict::Starting, Need::Upstream(leader)) };
    let needs = control.map(|control| control.checkpoint);
    let gone = history.is_primary && history.oldest_wal.is_some_and(|oldest| needs.is_some_and(|needs| needs < oldest));
    if !gone {
        return waiting;
    }
    let mut decision = remove(facts, WipeReason::RewindFailed, None);
    decision.wanted.repair = Some(Relation::Diverged);
    decision
}

/// What the comparison with the leader's history leads to.
fn judge(facts: &Facts<'_>, leader: &Upstream, history: &UpstreamHistory, stopped: Option<&ControlData>) -> Decision {
    if Some(history.system_id) != facts.node.pg.system_id() {
        return Decision::nothing(Verdict::WaitingForUpstream(leader.name.clone()));
    }
    let Some(end) = LocalEnd::of(&facts.node.pg) else { return Decision::nothing(Verdict::Starting) };
    let branched = facts.node.pg.running().is_some_and(|running| rewind::branches_differ(&running.history, history));
    let relation = if branched { Relation::Diverged } else { rewind::compare(end, history) };
    let mut decision = act_on(facts, relation, leader, history, stopped);
    // Stopped for repair: what was found is remembered.
    if stopped.is_none() && decision.wanted.postgres != PgWanted::Leave {
        decision.wanted.repair = Some(relation);
    }
    decision
}

fn act_on(facts: &Facts<'_>, relation: Relation, leader: &Upstream, history: &UpstreamHistory, stopped: Option<&ControlData>) -> Decision {
    match facts.memory.repair.filter(|_| stopped.is_some()).unwrap_or(relation) {
        Relation::Ancestor => go_on(facts, leader, stopped),
        Relation::Unclear if facts.config.use_pg_rewind => diverged(facts, leader, history, stopped),
        Relation::Unclear => go_on(facts, leader, stopped),
        Relation::Diverged => diverged(facts, leader, history, stopped),
        Relation::WalGone => wal_gone(facts, leader, stopped),
    }
}

fn go_on(facts: &Facts<'_>, leader: &Upstream, stopped: Option<&ControlData>) -> Decision {
    match stopped {
        Some(_) => start(facts),
        None => Decision::nothing(Verdict::WaitingForStream(leader.name.clone())),
    }
}

fn diverged(facts: &Facts<'_>, leader: &Upstream, history: &UpstreamHistory, stopped: Option<&ControlData>) -> Decision {
    let config = facts.config;
    // A rewind that succeeded and yet left us diverged has failed, whatever it said.
    let failed = facts.memory.rewind_failed || facts.memory.rewound_at.is_some();
    let possible = stopped.is_none_or(|control| control.can_rewind);
    if config.use_pg_rewind && possible && !failed {
        return rewind_now(facts, leader, history, stopped);
    }
    let reason = if config.use_pg_rewind && failed {
        config.remove_data_directory_on_rewind_failure.then_some(WipeReason::RewindFailed)
    } else {
        config.remove_data_directory_on_diverged_timelines.then_some(WipeReason::Diverged)
    };
    match reason {
        // Nothing irreversible on the word of a member that is not primary (yet).
        Some(_) if !history.is_primary => Decision::nothing(Verdict::WaitingForUpstream(leader.name.clone())),
        Some(reason) => remove(facts, reason, stopped),
        None => Decision::nothing(Verdict::Diverged(leader.name.clone())),
    }
}

fn rewind_now(facts: &Facts<'_>, leader: &Upstream, history: &UpstreamHistory, stopped: Option<&ControlData>) -> Decision {
    let checkpoint_pending = facts.cluster.leader_member().is_some_and(|member| member.checkpoint_pending);
    if !history.is_primary || checkpoint_pending || facts.now < facts.memory.copy_not_before {
        return Decision::nothing(Verdict::WaitingForUpstream(leader.name.clone()));
    }
    let verdict = Verdict::Rewinding(leader.name.clone());
    if stopped.is_none() {
        return Decision::postgres(verdict, stop_standby());
    }
    Decision::postgres(verdict, PgWanted::Rewound(leader.clone()))
}

/// The upstream has removed WAL that we need. A fresh copy, where the configuration lets data be removed for such a reason.
fn wal_gone(facts: &Facts<'_>, leader: &Upstream, stopped: Option<&ControlData>) -> Decision {
    let quiet = facts.memory.stream_progress_at.map_or(Millis::ZERO, |at| facts.now.since(at));
    if stopped.is_none() && quiet < ARCHIVE_PATIENCE {
        return Decision::nothing(Verdict::WaitingForStream(leader.name.clone()));
    }
    if facts.config.remove_data_directory_on_diverged_timelines {
        return remove(facts, WipeReason::Diverged, stopped);
    }
    match stopped {
        // Readable, if not up to date.
        Some(_) => start(facts),
        None => Decision::nothing(Verdict::WalGone(leader.name.clone())),
    }
}

fn remove(facts: &Facts<'_>, reason: WipeReason, stopped: Option<&ControlData>) -> Decision {
    if stopped.is_none() {
        return Decision::postgres(Verdict::RemovingData, stop_standby());
    }
    // The stop took its time: whoever leads now may have what the former leader had not.
    if facts.cluster.read_at < facts.memory.job_ended_at {
        return Decision::nothing(Verdict::RemovingData);
    }
    Decision::postgres(Verdict::RemovingData, PgWanted::Removed(reason))
}

fn stop_standby() -> PgWanted {
    PgWanted::Stopped { mode: StopMode::Fast, checkpoint_first: false, escalate_after: Some(Millis(30_000)) }
}
