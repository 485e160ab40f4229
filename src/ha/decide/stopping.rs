//! SIGTERM: stop PostgreSQL in order, hand the key over, exit. In pause PostgreSQL and key are left alone.

use super::{Decision, Facts, LeaderKey, PgWanted, Wanted};
use crate::ha::action::StopMode;
use crate::ha::types::Millis;
use crate::ha::verdict::Verdict;
use crate::ha::view::{DcsHealth, PgState};

pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    if facts.cluster.is_paused() {
        return exit();
    }
    if facts.memory.job.is_some() {
        return Decision::nothing(Verdict::Stopping);
    }
    if facts.node.pg.is_alive() {
        let escalate_after = match facts.node.pg {
            PgState::Unresponsive => Some(Millis(5_000)),
            _ => None,
        };
        let stop = PgWanted::Stopped { mode: StopMode::Fast, checkpoint_first: facts.node.pg.is_primary(), escalate_after };
        return Decision::postgres(Verdict::Stopping, stop);
    }
    if facts.memory.lock && facts.memory.dcs == DcsHealth::Good {
        return Decision::key(Verdict::Stopping, LeaderKey::Release);
    }
    exit()
}

fn exit() -> Decision {
    Decision { verdict: Verdict::Stopping, wanted: Wanted { exit: Some(0), ..Wanted::default() } }
}
