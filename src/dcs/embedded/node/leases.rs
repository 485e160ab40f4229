//! Leases on the Raft leader's clock.
//!
//! A lease ends `ttl` after the Raft leader last heard of it, on its own boot clock. Its holder counts from when it *sent*, so it gives up first as
//! long as the two clocks run at the same rate (the 1 % of [`crate::ha::lease`]). A renewal is acknowledged only after a majority has confirmed, *after*
//! the renewal was heard, that this box still leads the log: whoever leads it next was elected later, and restarts every lease from there.

use std::collections::{BTreeMap, BTreeSet};

use super::super::state::{Command, Outcome};
use super::Node;
use crate::ha::types::{Instant, Millis};

/// When leases end. Empty on boxes that do not lead the log.
#[derive(Debug, Default)]
pub(super) struct Leases {
    ends: BTreeMap<i64, Instant>,
    /// Their end is proposed: too late for a renewal.
    ending: BTreeSet<i64>,
}

impl Leases {
    /// Nothing is known any more.
    pub(super) fn forget(&mut self) {
        self.ends.clear();
        self.ending.clear();
    }

    /// Its end is proposed.
    pub(super) fn is_ending(&self, lease: i64) -> bool {
        self.ending.contains(&lease)
    }

    /// It was heard of at this time.
    pub(super) fn extend(&mut self, lease: i64, heard_at: Instant, ttl: u64) {
        let end = heard_at + Millis(ttl);
        let known = self.ends.entry(lease).or_insert(end);
        *known = end.max(*known);
    }
}

impl Node {
    /// This box leads the log now: nobody knows when a lease was renewed last, so all begin anew.
    pub(super) fn restart_leases(&mut self, now: Instant) {
        self.leases.forget();
        for (lease, ttl) in self.raft.store().state.leases() {
            self.leases.extend(lease, now, ttl);
        }
    }

    /// Proposes the end of what is over.
    pub(super) fn end_leases(&mut self, now: Instant) {
        if !self.desk.is_open() {
            return;
        }
        let over: Vec<i64> = self.leases.ends.iter().filter(|(_, end)| **end <= now).map(|(lease, _)| *lease).collect();
        for lease in over {
            if self.leases.ending.insert(lease) && !self.propose(0, &Command::Revoke { lease }) {
                // Not now: at the next tick again.
                self.leases.ending.remove(&lease);
            }
        }
    }

    /// What an entry means for the leases.
    pub(super) fn note_lease(&mut self, now: Instant, command: &Command, outcome: &Outcome) {
        if !self.leads() || *outcome != Outcome::Done {
            return;
        }
        match command {
            Command::Grant { lease, ttl } => self.leases.extend(*lease, now, *ttl),
            Command::Revoke { lease } => {
                self.leases.ends.remove(lease);
                self.leases.ending.remove(lease);
            }
            Command::Begin { .. } | Command::Txn(_) => {}
        }
    }
}
