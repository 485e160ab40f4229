//! A new cluster: one member wins `/initialize` and makes it, the others wait.

use super::{BootstrapStep, Decision, Facts, InitializeWanted, PgWanted, Wanted};
use crate::ha::action::WipeReason;
use crate::ha::election;
use crate::ha::types::SystemId;
use crate::ha::verdict::Verdict;
use crate::ha::view::{DcsHealth, Initialize, PgState};

/// Our own bootstrap is under way.
pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    if facts.memory.dcs != DcsHealth::Good {
        return Decision::nothing(Verdict::NoDcs);
    }
    match (facts.memory.bootstrap, &facts.node.pg) {
        (BootstrapStep::Claimed, PgState::Empty) if facts.cluster.system_id().is_none() => {
            Decision::postgres(Verdict::Bootstrapping, PgWanted::Bootstrap)
        }
        // No job of ours wrote here yet: what is there now is somebody else's (a volume that was mounted, a backup that was restored).
        (BootstrapStep::Claimed, _) => give_back(),
        // Also after a database that came too late was removed.
        (BootstrapStep::Failed | BootstrapStep::Done, PgState::Empty) => give_back(),
        (BootstrapStep::Failed, _) => removed(facts, Verdict::BootstrapFailed),
        (BootstrapStep::Done, PgState::Running(running)) => publish(facts, running.system_id),
        // It stands, and starts again like any member.
        (BootstrapStep::Done, PgState::Stopped(control)) => publish(facts, control.system_id),
        _ => Decision::nothing(Verdict::Starting),
    }
}

/// What our bootstrap left goes.
fn removed(facts: &Facts<'_>, verdict: Verdict) -> Decision {
    if facts.now < facts.memory.start_not_before {
        return Decision::nothing(verdict);
    }
    Decision::postgres(verdict, PgWanted::Removed(WipeReason::HalfMade))
}

fn give_back() -> Decision {
    Decision { verdict: Verdict::BootstrapFailed, wanted: Wanted { initialize: InitializeWanted::Cancel, ..Wanted::default() } }
}

fn claim() -> Decision {
    Decision { verdict: Verdict::ClaimingInitialize, wanted: Wanted { initialize: InitializeWanted::Claim, ..Wanted::default() } }
}

/// The database stands: its identifier makes it the cluster's. From then on it is a member like any other.
fn publish(facts: &Facts<'_>, id: SystemId) -> Decision {
    if facts.cluster.leader_name().is_some_and(|leader| *leader != facts.config.me) {
        // Two claims crossed, or somebody with data took the key: nobody knows of this database yet, so it goes.
        return removed(facts, Verdict::Initialized);
    }
    match facts.cluster.initialize {
        // Our claim ended with our lease, and somebody else was quicker.
        Some(Initialize::Done(other)) if other != id => removed(facts, Verdict::Initialized),
        _ => Decision { verdict: Verdict::Initialized, wanted: Wanted { initialize: InitializeWanted::Set(id), ..Wanted::default() } },
    }
}

/// No data here and no leader: win the right to initialise, or wait.
pub(super) fn without_leader(facts: &Facts<'_>) -> Decision {
    match facts.cluster.initialize {
        None if !facts.config.may_bootstrap || !election::may_lead(&facts.config.tags) => Decision::nothing(Verdict::MayNotBootstrap),
        None if facts.now < facts.memory.copy_not_before => Decision::nothing(Verdict::BootstrapFailed),
        None if facts.lacks_watchdog() => Decision::nothing(Verdict::NoWatchdog),
        None if facts.memory.lease.is_none() => Decision::nothing(Verdict::WaitingForLease),
        None => claim(),
        // The claim's answer was lost: asking again tells whether it is ours, because it hangs on our lease.
        Some(Initialize::InProgress) if facts.memory.claim_unknown => claim(),
        Some(_) if facts.config.can_clone_without_leader && facts.now >= facts.memory.copy_not_before => {
            Decision::postgres(Verdict::Cloning(None), PgWanted::Clone(None))
        }
        Some(_) => Decision::nothing(Verdict::WaitingForBootstrap),
    }
}
