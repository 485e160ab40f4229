//! `/failover`: somebody asked for another leader.

use super::{Decision, Facts, Need, PgWanted};
use crate::ha::action::StopMode;
use crate::ha::election;
use crate::ha::fence::VipRole;
use crate::ha::types::{MemberName, Millis};
use crate::ha::verdict::Verdict;
use crate::ha::view::{FailoverRequest, PeersView};

/// What a running leader does about a request; `None`: nothing now.
pub(super) fn leading(facts: &Facts<'_>) -> Option<Decision> {
    let request = due(facts)?;
    let Some(peers) = facts.fresh_peers() else {
        return (!facts.others().is_empty()).then(|| Decision::need(Verdict::AskingPeers, Need::Peers));
    };
    let by_hand = request.leader.is_none();
    let possible = match &request.candidate {
        Some(candidate) => could_lead(facts, peers, candidate, by_hand),
        None => facts.others().iter().any(|(name, _)| could_lead(facts, peers, name, by_hand)),
    };
    possible.then(|| step_back(facts, Verdict::DemotingForSwitchover))
}

/// Whether `name` could take over from us.
fn could_lead(facts: &Facts<'_>, peers: &PeersView, name: &MemberName, by_hand: bool) -> bool {
    let timeline = facts.node.pg.running().map(|running| running.timeline);
    let status = peers.peers.get(name).and_then(Option::as_ref);
    // One that is not on our timeline (yet) could not take over: it would refuse itself.
    let follows = status.is_some_and(|peer| peer.timeline.is_none() || peer.timeline == timeline);
    follows && election::is_good_candidate(facts.config, facts.cluster, name, status, by_hand)
}

/// A stop in order. One that waits for a standby that hangs ends after `pg_ctl_timeout`: without a clean end nothing is handed over.
fn step_back(facts: &Facts<'_>, verdict: Verdict) -> Decision {
    let escalate_after = Some(facts.config.pg_ctl_timeout);
    let stop = PgWanted::Stopped { mode: StopMode::Fast, checkpoint_first: true, escalate_after };
    let mut decision = Decision::postgres(verdict, stop);
    decision.wanted.handover = true;
    decision
}

/// The cable of the virtual IP's interface is out for longer than a switch needs to come back: nobody reaches us by it.
fn is_cut_off(facts: &Facts<'_>) -> bool {
    let has_address = facts.config.vip_roles.contains(&VipRole::Primary);
    has_address && facts.memory.carrier_lost_at.is_some_and(|at| facts.now.since(at) >= CARRIER_PATIENCE)
}

/// A running leader whose clients cannot reach it hands over, if somebody who answers can lead.
pub(super) fn without_carrier(facts: &Facts<'_>) -> Option<Decision> {
    if !is_cut_off(facts) || facts.cluster.is_paused() || facts.others().is_empty() {
        return None;
    }
    let Some(peers) = facts.fresh_peers() else { return Some(Decision::need(Verdict::AskingPeers, Need::Peers)) };
    let possible = facts.others().iter().any(|(name, _)| could_lead(facts, peers, name, false));
    possible.then(|| step_back(facts, Verdict::DemotingNoCarrier))
}

/// Without a leader: whether another member that answers should lead instead, because clients cannot reach us.
pub(super) fn better_reached(facts: &Facts<'_>, peers: &PeersView) -> bool {
    is_cut_off(facts) && facts.others().iter().any(|(name, _)| could_lead(facts, peers, name, false))
}

/// How long a carrier may be away: a switch that restarts a port, a cable that is plugged again.
pub const CARRIER_PATIENCE: Millis = Millis(2_000);

/// A request that concerns this leader and whose time has come.
fn due<'a>(facts: &Facts<'a>) -> Option<&'a FailoverRequest> {
    let request = &facts.cluster.failover.as_ref()?.value;
    let for_me = request.leader.as_ref().is_none_or(|leader| *leader == facts.config.me);
    let to_other = request.candidate.as_ref() != Some(&facts.config.me);
    if facts.cluster.is_paused() && request.candidate.is_none() {
        return None;
    }
    let acted_on = facts.memory.handed_over == facts.cluster.failover.as_ref().map(|failover| failover.revision);
    let now = request.scheduled_at.is_none_or(|at| at <= facts.memory.wall);
    (for_me && to_other && now && !acted_on && !is_stale(facts, request)).then_some(request)
}

/// A schedule that passed while nobody could act on it.
fn is_stale(facts: &Facts<'_>, request: &FailoverRequest) -> bool {
    let patience = Millis((facts.config.loop_wait.0 * 3 / 2).max(10_000));
    request.scheduled_at.is_some_and(|at| facts.memory.wall.0.saturating_sub(at.0) > i64::try_from(patience.0).unwrap_or(i64::MAX))
}

/// Why a running leader clears the request: done, not ours, or impossible.
pub(super) fn answered(facts: &Facts<'_>) -> Option<String> {
    let failover = facts.cluster.failover.as_ref()?;
    let request = &failover.value;
    if facts.memory.handed_over == Some(failover.revision) {
        return Some("Cleaning up failover key: nobody took over".to_owned());
    }
    if request.candidate.as_ref() == Some(&facts.config.me) {
        return Some("Cleaning up failover key: I am the leader already".to_owned());
    }
    if let Some(leader) = request.leader.as_ref().filter(|leader| **leader != facts.config.me) {
        return Some(format!("Cleaning up failover key: leader name does not match: {leader} != {}", facts.config.me));
    }
    if is_stale(facts, request) {
        return Some("Found a stale switchover value, cleaning up".to_owned());
    }
    let waits = request.scheduled_at.is_some_and(|at| at > facts.memory.wall);
    // Due and asked, and still here: `leading` found nobody who could take over.
    (!waits && (facts.fresh_peers().is_some() || facts.others().is_empty())).then(|| "Failover: no healthy members found".to_owned())
}

/// Without a leader: whether the request lets this member race. `Err`: who is waited for.
pub(super) fn may_race(facts: &Facts<'_>) -> Result<(), Option<MemberName>> {
    let Some(request) = facts.cluster.failover.as_ref().map(|failover| &failover.value) else { return Ok(()) };
    if request.scheduled_at.is_some_and(|at| at > facts.memory.wall) {
        return Ok(());
    }
    let patience = facts.config.ttl;
    if facts.memory.leaderless_since.is_some_and(|since| facts.now.since(since) >= patience) {
        return Ok(());
    }
    match &request.candidate {
        Some(candidate) if *candidate == facts.config.me => Ok(()),
        Some(candidate) => named_candidate(facts, candidate),
        None if request.leader.as_ref() == Some(&facts.config.me) => Err(None),
        None => Ok(()),
    }
}

/// Somebody else is named: wait for it while it answers and is fit.
fn named_candidate(facts: &Facts<'_>, candidate: &MemberName) -> Result<(), Option<MemberName>> {
    if !facts.cluster.members.contains_key(candidate) {
        return Ok(());
    }
    let Some(peers) = facts.race_peers() else { return Ok(()) };
    let status = peers.peers.get(candidate).and_then(Option::as_ref);
    if election::is_good_candidate(facts.config, facts.cluster, candidate, status, true) {
        return Err(Some(candidate.clone()));
    }
    Ok(())
}
