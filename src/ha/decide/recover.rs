//! The leader's PostgreSQL is not up: restart it in place, or let somebody else lead.

use super::successor::{self, Successor};
use super::{Decision, Facts, LeaderKey, Need, PgWanted};
use crate::ha::action::StopMode;
use crate::ha::election;
use crate::ha::types::Millis;
use crate::ha::verdict::Verdict;
use crate::ha::view::ControlData;

/// Starts that fail this often in a row count as "cannot be started".
const START_ATTEMPTS: u32 = 3;

pub(super) fn stopped_leader(facts: &Facts<'_>, control: &ControlData) -> Decision {
    if facts.memory.handover && control.state.is_clean() {
        return hand_over(facts, control);
    }
    if start_is_hopeless(facts) {
        match somebody_else(facts) {
            Candidates::Unknown => return Decision::need(Verdict::AskingPeers, Need::Peers),
            Candidates::Some => return Decision::key(Verdict::FailingOver, LeaderKey::Release),
            Candidates::None => {}
        }
    }
    if facts.now < facts.memory.start_not_before {
        return Decision::nothing(Verdict::RestartingPrimary);
    }
    // A directory that was a standby (a stop in the middle of a promotion) is promoted once it runs.
    let wanted = if control.was_primary() { PgWanted::Primary } else { PgWanted::Standby(None) };
    Decision::postgres(Verdict::RestartingPrimary, wanted)
}

/// The key goes when somebody has everything. If nobody does, the switchover is off and we lead again.
fn hand_over(facts: &Facts<'_>, control: &ControlData) -> Decision {
    match successor::look(facts, control.checkpoint) {
        Successor::Ready => Decision::key(Verdict::Releasing, LeaderKey::Release),
        Successor::Ask => Decision::need(Verdict::WaitingForSuccessor, Need::Peers),
        Successor::NotYet => Decision::nothing(Verdict::WaitingForSuccessor),
        Successor::Nobody => {
            let mut decision = Decision::postgres(Verdict::RestartingPrimary, PgWanted::Primary);
            decision.wanted.clear_failover = Some("Switchover is off: no candidate has received all WAL".to_owned());
            decision
        }
    }
}

/// Crash recovery takes its time: as long as the configuration allows, and longer if nobody else could lead.
pub(super) fn starting_leader(facts: &Facts<'_>) -> Decision {
    if !crash_is_too_old(facts) {
        return Decision::nothing(Verdict::Starting);
    }
    match somebody_else(facts) {
        Candidates::Unknown => Decision::need(Verdict::AskingPeers, Need::Peers),
        Candidates::None => Decision::nothing(Verdict::Starting),
        Candidates::Some => Decision::postgres(
            Verdict::FailingOver,
            PgWanted::Stopped { mode: StopMode::Immediate, checkpoint_first: false, escalate_after: Some(Millis(1_000)) },
        ),
    }
}

fn start_is_hopeless(facts: &Facts<'_>) -> bool {
    crash_is_too_old(facts) || facts.memory.start_failures >= START_ATTEMPTS
}

fn crash_is_too_old(facts: &Facts<'_>) -> bool {
    facts.memory.crashed_at.is_some_and(|at| facts.now.since(at) >= facts.config.primary_start_timeout)
}

enum Candidates {
    Unknown,
    Some,
    None,
}

fn somebody_else(facts: &Facts<'_>) -> Candidates {
    let others = facts.others();
    if others.is_empty() {
        return Candidates::None;
    }
    let Some(peers) = facts.fresh_peers() else { return Candidates::Unknown };
    let good = |(name, _): &(_, String)| {
        let status = peers.peers.get(name).and_then(Option::as_ref);
        election::is_good_candidate(facts.config, facts.cluster, name, status, false)
    };
    if others.iter().any(good) {
        Candidates::Some
    } else {
        Candidates::None
    }
}
