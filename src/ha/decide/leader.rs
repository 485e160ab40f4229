//! The leader key carries our name.

use super::{demotion, race, recover, switchover, Decision, Facts, LeaderKey, PgWanted};
use crate::ha::types::{Instant, MemberName, Timeline};
use crate::ha::verdict::Verdict;
use crate::ha::view::{HistoryEntry, PgRunning, PgState, Role};
use crate::ha::wall;

pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    if !facts.memory.lock {
        return repair(facts);
    }
    if !facts.leads() {
        return lease_ends(facts);
    }
    match &facts.node.pg {
        PgState::Empty => Decision::key(Verdict::ReleasingEmpty, LeaderKey::Release),
        PgState::Unreadable { reason } => Decision::nothing(Verdict::Unreadable(reason.clone())),
        PgState::Stopped(_) if facts.lacks_watchdog() => Decision::key(Verdict::NoWatchdog, LeaderKey::Release),
        PgState::Stopped(control) => recover::stopped_leader(facts, control),
        PgState::Starting { .. } => recover::starting_leader(facts),
        PgState::Unresponsive { .. } => Decision::nothing(Verdict::Unresponsive),
        PgState::Running(running) if running.role == Role::Standby => promote(facts),
        PgState::Running(running) => lead(facts, running),
    }
}

/// Our name on another lease: an earlier life of this agent, or a changed ttl.
fn repair(facts: &Facts<'_>) -> Decision {
    if race::writes_too_long_without_key(facts) {
        return Decision::postgres(Verdict::DemotingNoLock, demotion(facts));
    }
    match facts.memory.lease {
        Some(_) => Decision::key(Verdict::RepairingKey, LeaderKey::Repair),
        None => Decision::nothing(Verdict::WaitingForLease),
    }
}

/// The key is ours but the lease could not be renewed in time, although reads succeed.
fn lease_ends(facts: &Facts<'_>) -> Decision {
    if facts.node.pg.is_primary() || matches!(facts.node.pg, PgState::Starting { .. } | PgState::Unresponsive { .. }) {
        return Decision::postgres(Verdict::DemotingNoDcs, demotion(facts));
    }
    Decision::nothing(Verdict::WaitingForLease)
}

fn promote(facts: &Facts<'_>) -> Decision {
    if facts.memory.handover || facts.now < facts.memory.race_not_before {
        // The promotion was refused (`pre_promote`), or the request named us as the one who steps back, and PostgreSQL is in recovery already.
        return Decision::key(Verdict::Releasing, LeaderKey::Release);
    }
    if facts.lacks_watchdog() && !facts.cluster.is_paused() {
        return Decision::key(Verdict::NoWatchdog, LeaderKey::Release);
    }
    let verdict = if facts.memory.won_race { Verdict::PromotingAsWinner } else { Verdict::Promoting };
    let mut decision = Decision::postgres(verdict, PgWanted::Primary);
    // The slots first: the others connect as soon as they see who leads, and one that finds no slot waits seconds before it tries again.
    decision.wanted.slots = facts.node.pg.running().and_then(|running| slots_to_change(facts, running));
    decision
}

fn lead(facts: &Facts<'_>, running: &PgRunning) -> Decision {
    if let Some(decision) = switchover::leading(facts) {
        return decision;
    }
    if facts.lacks_watchdog() && !facts.cluster.is_paused() {
        return Decision::postgres(Verdict::DemotingNoWatchdog, demotion(facts));
    }
    if let Some(decision) = switchover::without_carrier(facts) {
        return decision;
    }
    let mut decision = Decision::nothing(Verdict::Leading);
    if facts.memory.restart.is_some() {
        decision = Decision::postgres(Verdict::Restarting, PgWanted::Restarted);
    }
    let wanted = &mut decision.wanted;
    wanted.history = history_to_write(facts, running);
    wanted.slots = slots_to_change(facts, running);
    wanted.write_config = facts.cluster.config.is_none();
    wanted.clear_failover = switchover::answered(facts);
    wanted.initialize = match facts.cluster.initialize {
        Some(_) => super::InitializeWanted::Leave,
        // A wiped store, or a cluster that is taken over: our data is what there is.
        None => super::InitializeWanted::Set(running.system_id),
    };
    decision
}

/// The history that the store should show: PostgreSQL's own, with the times and names that are known.
fn history_to_write(facts: &Facts<'_>, running: &PgRunning) -> Option<Vec<HistoryEntry>> {
    if running.history.is_empty() {
        return None;
    }
    let known: &[HistoryEntry] = facts.cluster.history.as_ref().map_or(&[], |history| &history.value);
    let newest = running.history.iter().map(|entry| entry.timeline).max().unwrap_or(Timeline(0));
    let mut merged: Vec<HistoryEntry> = running.history.iter().map(|entry| merge_line(facts, known, entry, newest)).collect();
    let keep = facts.config.max_timelines_history;
    if keep > 0 && merged.len() > keep {
        merged.drain(..merged.len() - keep);
    }
    (merged != known).then_some(merged)
}

fn merge_line(facts: &Facts<'_>, known: &[HistoryEntry], entry: &HistoryEntry, newest: Timeline) -> HistoryEntry {
    let old = known.iter().find(|old| old.timeline == entry.timeline && old.lsn == entry.lsn);
    let mut line = entry.clone();
    line.timestamp = old.and_then(|old| old.timestamp.clone()).or_else(|| entry.timestamp.clone());
    if line.timestamp.is_none() && old.is_none() && entry.timeline == newest {
        line.timestamp = Some(wall::iso(facts.memory.wall));
    }
    line.new_leader = old.and_then(|old| old.new_leader.clone());
    if line.new_leader.is_none() && old.is_none() && entry.timeline == newest {
        line.new_leader = Some(facts.config.me.clone());
    }
    line
}

/// One slot for each other member that streams from us; slots of members that left go when nobody uses them.
fn slots_to_change(facts: &Facts<'_>, running: &PgRunning) -> Option<(Vec<String>, Vec<String>)> {
    if !facts.config.use_slots {
        return None;
    }
    let wanted = member_slots(facts);
    let create: Vec<String> = wanted.iter().filter(|name| !running.slots.contains_key(*name)).cloned().collect();
    // A slot that this cluster made is named in /status; others are the administrator's and stay.
    let ours = |name: &str| facts.cluster.status.slots.contains_key(name) || facts.cluster.status.retain_slots.contains(name);
    let gone = |name: &str| !wanted.iter().any(|kept| kept == name);
    let drop: Vec<String> = running
        .slots
        .iter()
        .filter(|(name, slot)| slot.physical && !slot.active && ours(name) && gone(name))
        .map(|(name, _)| name.clone())
        .collect();
    (!create.is_empty() || !drop.is_empty()).then_some((create, drop))
}

/// Names of the slots that members need on this node: those that follow it, and for a while those that are gone.
fn member_slots(facts: &Facts<'_>) -> Vec<String> {
    let cascades = |name: &MemberName| {
        let member = facts.cluster.members.get(name);
        let source = member.and_then(|member| member.tags.replicatefrom.as_ref());
        source.is_some_and(|source| *source != facts.config.me && facts.cluster.members.contains_key(source))
    };
    let streams = |name: &MemberName| !facts.cluster.members.get(name).is_some_and(|member| member.tags.nostream);
    let kept = |seen: Instant| facts.now.since(seen) <= facts.config.member_slots_ttl;
    let names = facts.memory.members_seen.iter().filter(|(name, seen)| {
        let present = facts.cluster.members.contains_key(*name);
        **name != facts.config.me && (present || kept(**seen)) && streams(name) && !cascades(name)
    });
    names.map(|(name, _)| name.slot_name()).collect()
}
