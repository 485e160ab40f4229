//! Before a leader gives its key up in order: does somebody else have everything it wrote?

use super::Facts;
use crate::ha::election;
use crate::ha::types::{Lsn, MemberName, Millis};

/// How long an answer that says "not yet" is believed before the others are asked again.
const ASK_AGAIN: Millis = Millis(200);
/// How long the others get to receive the rest after PostgreSQL stopped. Its WAL senders send everything before they end.
const PATIENCE: Millis = Millis(3_000);

/// What is known of the members that could lead next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Successor {
    /// They must be asked (again).
    Ask,
    /// They were asked a moment ago; none has everything yet.
    NotYet,
    /// At least one has everything.
    Ready,
    /// Nobody has everything, and nobody will.
    Nobody,
}

/// Looks for a member that has everything up to the shutdown checkpoint at `end`.
pub(super) fn look(facts: &Facts<'_>, end: Lsn) -> Successor {
    let stopped_at = facts.memory.job_ended_at;
    let others = facts.others();
    if others.is_empty() {
        return Successor::Nobody;
    }
    let Some(peers) = facts.memory.peers.as_ref().filter(|peers| peers.asked_at >= stopped_at) else { return Successor::Ask };
    let request = facts.cluster.failover.as_ref().map(|failover| &failover.value);
    let named = request.filter(|_| facts.memory.handover).and_then(|request| request.candidate.as_ref());
    let has_all = |name: &MemberName| {
        let status = peers.peers.get(name).and_then(Option::as_ref);
        let fit = election::is_good_candidate(facts.config, facts.cluster, name, status, named.is_some());
        // The checkpoint record begins at `end`: who is past it has it.
        fit && status.is_some_and(|peer| peer.position > end)
    };
    let ready = match named {
        Some(candidate) => has_all(candidate),
        None => others.iter().any(|(name, _)| has_all(name)),
    };
    if ready {
        Successor::Ready
    } else if facts.now.since(stopped_at) >= PATIENCE {
        Successor::Nobody
    } else if facts.now.since(peers.asked_at) >= ASK_AGAIN {
        Successor::Ask
    } else {
        Successor::NotYet
    }
}
