//! SIGTERM: stop PostgreSQL in order, hand the key over, exit. In pause PostgreSQL and key are left alone.

use super::successor::{self, Successor};
use super::{Decision, Facts, LeaderKey, Need, PgWanted, Wanted};
use crate::ha::action::StopMode;
use crate::ha::types::Millis;
use crate::ha::verdict::Verdict;
use crate::ha::view::{ControlData, DcsHealth, PgState};

pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    if facts.cluster.is_paused() {
        return exit();
    }
    if facts.memory.job.is_some() {
        return Decision::nothing(Verdict::Stopping);
    }
    if facts.node.pg.is_alive() {
        let escalate_after = match facts.node.pg {
            PgState::Unresponsive { .. } => Some(Millis(5_000)),
            _ => Some(facts.config.pg_ctl_timeout),
        };
        let stop = PgWanted::Stopped { mode: StopMode::Fast, checkpoint_first: facts.node.pg.is_primary(), escalate_after };
        return Decision::postgres(Verdict::Stopping, stop);
    }
    match &facts.node.pg {
        PgState::Stopped(control) if facts.memory.lock && facts.memory.dcs == DcsHealth::Good && control.state.is_clean() => {
            hand_over(facts, control)
        }
        _ => exit(),
    }
}

/// The key is given up for one who has everything. Else it stays: this box is back before the lease ends, or the lease ends.
fn hand_over(facts: &Facts<'_>, control: &ControlData) -> Decision {
    match successor::look(facts, control.checkpoint) {
        Successor::Ready => Decision::key(Verdict::Stopping, LeaderKey::Release),
        Successor::Ask => Decision::need(Verdict::WaitingForSuccessor, Need::Peers),
        Successor::NotYet => Decision::nothing(Verdict::WaitingForSuccessor),
        Successor::Nobody => Decision { verdict: Verdict::KeepingKey, ..exit() },
    }
}

fn exit() -> Decision {
    Decision { verdict: Verdict::Stopping, wanted: Wanted { exit: Some(0), ..Wanted::default() } }
}
