//! Answers of the store: views, leases, writes.

use std::sync::Arc;

use super::{Machine, Pending, Wake, WriteKind};
use crate::ha::action::{Action, StoreRequest};
use crate::ha::decide::BootstrapStep;
use crate::ha::input::{DcsFailure, StoreOutcome};
use crate::ha::lease::LeaseClock;
use crate::ha::types::{Instant, LeaseId, MemberName, Millis, RequestId, Revision};
use crate::ha::view::{ClusterView, DcsHealth, Initialize, LeaderEntry};

impl Machine {
    pub(super) fn take_store(&mut self, id: RequestId, outcome: StoreOutcome, out: &mut Vec<Action>) -> Wake {
        if let Some(pending) = self.flight.read.take_if(|pending| pending.id == id) {
            return self.take_read(pending, outcome, out);
        }
        if let Some(pending) = self.flight.renew.take_if(|pending| pending.id == id) {
            return self.take_lease(pending, outcome, out);
        }
        match self.flight.writes.remove(&id) {
            Some(kind) => self.take_write(&kind, outcome, out),
            None => Wake::Sleep,
        }
    }

    fn take_read(&mut self, pending: Pending, outcome: StoreOutcome, out: &mut Vec<Action>) -> Wake {
        match outcome {
            // Asked before our own last write was answered: it may not show it.
            StoreOutcome::View(_) if pending.id < self.first_fresh_read => Wake::Cycle,
            StoreOutcome::View(mut view) => {
                view.read_at = pending.sent_at;
                self.accept_view(*view, pending.sent_at, out);
                Wake::Decide
            }
            StoreOutcome::Failed(failure) => self.store_failed(pending.sent_at, &failure, out),
            _ => self.store_failed(pending.sent_at, &DcsFailure::Error("unexpected answer to a read".to_owned()), out),
        }
    }

    fn store_failed(&mut self, since: Instant, failure: &DcsFailure, out: &mut Vec<Action>) -> Wake {
        if !matches!(self.memory.dcs, DcsHealth::Unreachable { .. }) {
            self.memory.dcs = DcsHealth::Unreachable { since };
            self.log(log::Level::Error, format!("Error communicating with DCS: {failure}"), out);
        }
        self.timers.cycle_at = self.timers.cycle_at.min(self.now + Millis(self.config.loop_wait.0.min(1_000)));
        Wake::Decide
    }

    /// A write of ours was answered: what was asked before may not show it.
    pub(super) fn distrust_older_reads(&mut self) {
        self.view_floor = self.now;
        self.first_fresh_read = RequestId(self.next_id);
    }

    fn accept_view(&mut self, view: ClusterView, asked_at: Instant, out: &mut Vec<Action>) {
        self.memory.dcs = DcsHealth::Good;
        self.dcs_seen_at = Some(asked_at);
        if self.cluster.is_none() {
            self.remember_kept_slots(&view);
        }
        if view.leader.is_some() {
            self.memory.leader_seen_at = Some(self.now);
        }
        for name in view.members.keys() {
            self.memory.members_seen.insert(name.clone(), self.now);
        }
        let ours = |leader: &LeaderEntry| leader.name == self.config.me && self.memory.lease.is_some_and(|lease| lease.id == leader.lease);
        let lock = view.leader.as_ref().is_some_and(ours);
        if self.memory.lock && !lock {
            self.log(log::Level::Warn, "the leader key is not ours any more", out);
        }
        self.memory.lock = lock;
        let before = self.cluster.as_ref().and_then(|old| old.leader_name());
        if self.cluster.is_none() || before != view.leader_name() {
            let owner = view.leader_name().map_or("None".to_owned(), ToString::to_string);
            self.memory.leader_since = Some(self.now);
            // It was found out against the former leader's history.
            self.memory.repair = None;
            self.log(log::Level::Info, format!("Lock owner: {owner}; I am {}", self.config.me), out);
        }
        self.cluster = Some(Arc::new(view));
    }

    /// Slots that the last leader kept for absent members: their time begins anew, because nobody knows when it began.
    fn remember_kept_slots(&mut self, view: &ClusterView) {
        let present: Vec<String> = view.members.keys().map(MemberName::slot_name).collect();
        for slot in view.status.retain_slots.iter().filter(|slot| !present.contains(slot)) {
            self.memory.members_seen.insert(MemberName(slot.clone()), self.now);
        }
    }

    pub(super) fn send_renew(&mut self, out: &mut Vec<Action>) {
        let id = self.new_id();
        let lease = self.memory.lease.filter(|_| self.asked_ttl == self.config.ttl).map(|lease| lease.id);
        self.flight.renew_ttl = self.config.ttl;
        self.flight.renew = Some(Pending { id, sent_at: self.now });
        let deadline = self.read_deadline();
        out.push(Action::Store { id, request: StoreRequest::RenewLease { lease, ttl: self.config.ttl }, deadline });
    }

    fn take_lease(&mut self, pending: Pending, outcome: StoreOutcome, out: &mut Vec<Action>) -> Wake {
        match outcome {
            StoreOutcome::Lease { lease, ttl } => self.renewed(pending.sent_at, lease, ttl),
            StoreOutcome::LeaseGone => self.lease_gone(out),
            StoreOutcome::Failed(failure) => {
                self.log(log::Level::Warn, format!("the lease was not renewed: {failure}"), out);
                self.timers.renew_at = self.now + Millis(self.config.loop_wait.0.min(1_000));
                Wake::Sleep
            }
            _ => {
                self.timers.renew_at = self.now + Millis(1_000);
                Wake::Sleep
            }
        }
    }

    fn renewed(&mut self, sent_at: Instant, id: LeaseId, ttl: Millis) -> Wake {
        // Never more than we asked for: a store that grants more must not make us slower than the others expect.
        let clock = LeaseClock { id, ttl: ttl.min(self.config.ttl), sent_at };
        self.asked_ttl = self.flight.renew_ttl;
        self.timers.renew_at = self.timers.renew_at.max(sent_at) + self.renew_pause();
        if self.timers.renew_at <= self.now {
            self.timers.renew_at = self.now + self.renew_pause();
        }
        match self.memory.lease {
            Some(old) if old.id == id => {
                self.memory.lease = Some(LeaseClock { ttl: old.ttl.min(ttl), ..clock });
                Wake::Sleep
            }
            // The leader key hangs on the old lease: it is moved first, and the old one counts until then.
            Some(_) if self.memory.lock => {
                self.next_lease = Some(clock);
                Wake::Decide
            }
            _ => {
                self.memory.lease = Some(clock);
                self.member.forget();
                Wake::Cycle
            }
        }
    }

    fn renew_pause(&self) -> Millis {
        Millis(self.config.loop_wait.0.min(self.config.ttl.0 / 3))
    }

    /// Definite: the store has no such lease, and so neither our key. Another member may lead already.
    fn lease_gone(&mut self, out: &mut Vec<Action>) -> Wake {
        self.log(log::Level::Warn, "the store does not know our lease any more", out);
        self.memory.lease = None;
        self.memory.lock = false;
        self.next_lease = None;
        self.member.forget();
        self.distrust_older_reads();
        self.timers.renew_at = self.now;
        Wake::Cycle
    }

    fn take_write(&mut self, kind: &WriteKind, outcome: StoreOutcome, out: &mut Vec<Action>) -> Wake {
        if matches!(outcome, StoreOutcome::LeaseGone) {
            return self.lease_gone(out);
        }
        let failed = matches!(outcome, StoreOutcome::Failed(_));
        let revision = match outcome {
            StoreOutcome::Done { revision } => Some(revision),
            _ => None,
        };
        match kind {
            WriteKind::Acquire { lease } => self.acquired(*lease, revision),
            WriteKind::Repair { lease } => self.repaired(*lease, revision),
            WriteKind::Release => self.released(revision.is_some()),
            WriteKind::Member => {
                if revision.is_none() {
                    self.member.forget();
                }
                Wake::Sleep
            }
            WriteKind::Claim => self.claimed(revision.is_some(), failed),
            WriteKind::CancelInitialize => {
                // A conflict means that there is no claim of ours any more: it went with the lease.
                if !failed {
                    self.memory.bootstrap = BootstrapStep::None;
                }
                Wake::Cycle
            }
            WriteKind::Command(reply) => self.command_written(*reply, revision, failed, out),
            WriteKind::Failover | WriteKind::SetInitialize | WriteKind::Config => Wake::Cycle,
            WriteKind::Status | WriteKind::History => Wake::Sleep,
        }
    }

    fn acquired(&mut self, on: LeaseId, revision: Option<Revision>) -> Wake {
        // Created on a lease that is not ours any more, the key is as good as gone.
        let lease = self.memory.lease.filter(|lease| lease.id == on);
        let (Some(revision), Some(lease)) = (revision, lease) else { return Wake::Cycle };
        self.distrust_older_reads();
        self.memory.lock = true;
        self.memory.won_race = true;
        self.memory.handover = false;
        self.set_leader(Some(LeaderEntry { name: self.config.me.clone(), lease: lease.id, revision }));
        Wake::Decide
    }

    fn repaired(&mut self, lease: LeaseId, revision: Option<Revision>) -> Wake {
        let Some(revision) = revision else { return Wake::Cycle };
        if let Some(next) = self.next_lease.take_if(|next| next.id == lease) {
            self.memory.lease = Some(next);
            self.member.forget();
        }
        if self.memory.lease.is_none_or(|ours| ours.id != lease) {
            return Wake::Cycle;
        }
        self.distrust_older_reads();
        self.memory.lock = true;
        self.set_leader(Some(LeaderEntry { name: self.config.me.clone(), lease, revision }));
        Wake::Decide
    }

    fn released(&mut self, done: bool) -> Wake {
        if done {
            self.distrust_older_reads();
            self.memory.lock = false;
            self.memory.handover = false;
            self.memory.crashed_at = None;
            self.set_leader(None);
        }
        Wake::Cycle
    }

    fn claimed(&mut self, done: bool, unknown: bool) -> Wake {
        self.memory.claim_unknown = unknown;
        if !done {
            return Wake::Cycle;
        }
        self.memory.bootstrap = BootstrapStep::Claimed;
        // What was read before does not show the claim, and must not look as if it were lost.
        self.distrust_older_reads();
        let mut view = self.cluster.as_deref().cloned().unwrap_or_default();
        view.initialize = Some(Initialize::InProgress);
        self.cluster = Some(Arc::new(view));
        Wake::Decide
    }

    /// What our own acknowledged write made true.
    fn set_leader(&mut self, leader: Option<LeaderEntry>) {
        let mut view = self.cluster.as_deref().cloned().unwrap_or_default();
        view.leader = leader;
        self.cluster = Some(Arc::new(view));
    }

    /// Sends a write, unless one of its kind waits for its answer.
    pub(super) fn send_write(&mut self, kind: WriteKind, request: StoreRequest, out: &mut Vec<Action>) -> bool {
        if self.flight.writes.values().any(|waiting| *waiting == kind) {
            return false;
        }
        let id = self.new_id();
        self.flight.writes.insert(id, kind);
        out.push(Action::Store { id, request, deadline: self.read_deadline() });
        true
    }
}
