//! Maintenance: hands off. PostgreSQL is neither started nor stopped nor promoted; the key follows a primary that runs.

use super::{follower, leader, race, upstream_of, Decision, Facts, LeaderKey, PgWanted};
use crate::ha::types::MemberName;
use crate::ha::verdict::Verdict;
use crate::ha::view::{DcsHealth, PgRunning, PgState, Role};

pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    if let Some(job) = &facts.memory.job {
        return paused(Decision::nothing(Verdict::Busy(job.name)));
    }
    if facts.memory.dcs != DcsHealth::Good {
        return paused(Decision::nothing(Verdict::NoDcs));
    }
    match facts.cluster.leader_name() {
        Some(name) if *name == facts.config.me => with_key(facts),
        Some(name) => somebody_leads(facts, name),
        None => nobody_leads(facts),
    }
}

fn paused(decision: Decision) -> Decision {
    Decision { verdict: Verdict::Paused(Box::new(decision.verdict)), wanted: decision.wanted }
}

fn with_key(facts: &Facts<'_>) -> Decision {
    if !facts.memory.lock {
        let repair = if facts.memory.lease.is_some() { LeaderKey::Repair } else { LeaderKey::Leave };
        return paused(Decision::key(Verdict::RepairingKey, repair));
    }
    match &facts.node.pg {
        PgState::Running(running) if running.role == Role::Primary && facts.leads() => paused(leader::decide(facts)),
        PgState::Running(running) if running.role == Role::Primary => paused(Decision::nothing(Verdict::WaitingForLease)),
        // A switchover that the operator asked for goes on in pause.
        PgState::Stopped(_) if facts.memory.handover => paused(leader::decide(facts)),
        PgState::Running(_) if is_named(facts) => paused(leader::decide(facts)),
        PgState::Starting { .. } | PgState::Unresponsive { .. } => paused(Decision::nothing(Verdict::Unresponsive)),
        _ => paused(Decision::key(Verdict::Releasing, LeaderKey::Release)),
    }
}

fn somebody_leads(facts: &Facts<'_>, name: &MemberName) -> Decision {
    match &facts.node.pg {
        PgState::Empty => paused(follower::decide(facts)),
        PgState::Stopped(_) => Decision::nothing(Verdict::PausedDown),
        PgState::Running(running) if running.role == Role::Primary => Decision::nothing(Verdict::PausedPrimaryWithoutKey),
        PgState::Running(running) => follow(facts, running, name),
        _ => paused(Decision::nothing(Verdict::Starting)),
    }
}

fn follow(facts: &Facts<'_>, running: &PgRunning, name: &MemberName) -> Decision {
    match upstream_of(facts) {
        Some(upstream) if running.upstream.as_deref() != Some(upstream.address()) => {
            let verdict = Verdict::FollowingNewLeader(upstream.name.clone());
            paused(Decision::postgres(verdict, PgWanted::Standby(Some(upstream))))
        }
        _ => paused(Decision::nothing(Verdict::Following(name.clone()))),
    }
}

/// The operator named this member as the next leader.
fn is_named(facts: &Facts<'_>) -> bool {
    facts.cluster.failover.as_ref().is_some_and(|failover| failover.value.candidate.as_ref() == Some(&facts.config.me))
}

fn nobody_leads(facts: &Facts<'_>) -> Decision {
    match &facts.node.pg {
        PgState::Running(running) if running.role == Role::Standby && is_named(facts) => paused(race::decide(facts)),
        PgState::Running(running) if running.role == Role::Primary && facts.memory.lease.is_some() => {
            paused(Decision::key(Verdict::AcquiringAsPrimary, LeaderKey::Acquire))
        }
        PgState::Stopped(_) | PgState::Empty => Decision::nothing(Verdict::PausedDown),
        _ => Decision::nothing(Verdict::PausedNoLeader),
    }
}
