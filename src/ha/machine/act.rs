//! From what is wanted to what is done: the difference to what is there and what is in flight.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Machine, Pending, WriteKind};
use crate::ha::action::{Action, StoreRequest, Task, Upstream};
use crate::ha::decide::{BootstrapStep, Decision, InitializeWanted, LeaderKey, Need, Wanted};
use crate::ha::lease::PostgresStopped;
use crate::ha::types::Millis;
use crate::ha::verdict::Verdict;
use crate::ha::view::{ClusterView, NodeView, PgState};

impl Machine {
    pub(super) fn apply(&mut self, cluster: &ClusterView, node: &NodeView, decision: Decision, out: &mut Vec<Action>) {
        let Decision { verdict, wanted } = decision;
        if let Verdict::SystemIdMismatch { .. } = verdict {
            self.log(log::Level::Error, verdict.sentence(&self.config.me), out);
        }
        self.apply_key(node, wanted.leader_key, out);
        self.apply_initialize(wanted.initialize, out);
        self.apply_leader_documents(cluster, &wanted, out);
        self.apply_need(&wanted, out);
        if let Verdict::KeepingKey = verdict {
            self.log(log::Level::Warn, verdict.sentence(&self.config.me), out);
        }
        if self.memory.job.is_none() {
            if wanted.repair.is_some() {
                self.memory.repair = wanted.repair;
                self.memory.can_follow = false;
            }
            self.apply_postgres(node, wanted.postgres, wanted.handover, out);
        }
        if let Some(code) = wanted.exit {
            self.leave(code, out);
        }
    }

    /// The end: once nothing that must be answered is in flight.
    fn leave(&mut self, code: i32, out: &mut Vec<Action>) {
        if self.flight.writes.values().any(|kind| *kind == WriteKind::Release) || self.memory.job.is_some() {
            return;
        }
        if let (0, Some(node), Some(cluster)) = (code, self.node.clone(), self.cluster.clone()) {
            self.write_member(&cluster, &node, out);
            self.publish(out);
        }
        self.drop_vips(out);
        self.take_leave_of_fences(out);
        self.exit_code = Some(code);
        out.push(Action::Exit { code });
    }

    fn apply_key(&mut self, node: &NodeView, wanted: LeaderKey, out: &mut Vec<Action>) {
        match wanted {
            LeaderKey::Leave => {}
            LeaderKey::Acquire => self.acquire(out),
            LeaderKey::Repair => self.repair(out),
            LeaderKey::Release => self.release(node, out),
        }
        if self.next_lease.is_some() && self.memory.lock {
            self.repair(out);
        }
    }

    fn acquire(&mut self, out: &mut Vec<Action>) {
        // A release whose answer is out could delete what we are about to create.
        if self.flight.writes.values().any(|kind| *kind == WriteKind::Release) {
            return;
        }
        // Only with a lease that is worth something: it may have been granted long ago.
        let Some(lease) = self.memory.lease.filter(|lease| lease.promote_permit(self.now).is_some()) else {
            self.timers.renew_at = self.now;
            return;
        };
        self.send_write(WriteKind::Acquire { lease: lease.id }, StoreRequest::Acquire { lease: lease.id }, out);
    }

    fn repair(&mut self, out: &mut Vec<Action>) {
        if self.flight.writes.values().any(|kind| *kind == WriteKind::Release) {
            return;
        }
        let Some(lease) = self.next_lease.or(self.memory.lease) else { return };
        let Some(expect) = self.leader_revision() else { return };
        self.send_write(WriteKind::Repair { lease: lease.id }, StoreRequest::Repair { lease: lease.id, expect }, out);
    }

    fn release(&mut self, node: &NodeView, out: &mut Vec<Action>) {
        let Some(proof) = PostgresStopped::observe(node, self.node_floor) else { return };
        // An acquisition whose answer is out would look like the key afterwards.
        let taken = |kind: &WriteKind| matches!(kind, WriteKind::Acquire { .. } | WriteKind::Repair { .. });
        if self.memory.job.is_some() || self.flight.writes.values().any(taken) {
            return;
        }
        self.drop_vips(out);
        let optime = match &node.pg {
            PgState::Stopped(control) if control.state.is_clean() => Some(control.checkpoint),
            _ => None,
        };
        if self.send_write(WriteKind::Release, StoreRequest::Release { optime, proof }, out) {
            // From here on somebody else may lead. A view that was asked for before may still show the key as ours.
            self.memory.lock = false;
            self.distrust_older_reads();
            self.log(log::Level::Info, "Releasing leader key", out);
        }
    }

    fn apply_initialize(&mut self, wanted: InitializeWanted, out: &mut Vec<Action>) {
        match wanted {
            InitializeWanted::Leave => {}
            InitializeWanted::Claim => {
                if let Some(lease) = self.memory.lease {
                    self.send_write(WriteKind::Claim, StoreRequest::ClaimInitialize { lease: lease.id }, out);
                }
            }
            InitializeWanted::Set(id) => {
                self.send_write(WriteKind::SetInitialize, StoreRequest::SetInitialize { id }, out);
            }
            InitializeWanted::Cancel => match self.memory.lease {
                Some(lease) => {
                    self.send_write(WriteKind::CancelInitialize, StoreRequest::CancelInitialize { lease: lease.id }, out);
                }
                // The claim went with its lease.
                None => self.memory.bootstrap = BootstrapStep::None,
            },
        }
    }

    fn apply_leader_documents(&mut self, cluster: &ClusterView, wanted: &Wanted, out: &mut Vec<Action>) {
        if let Some(history) = &wanted.history {
            self.send_write(WriteKind::History, StoreRequest::PutHistory(history.clone()), out);
        }
        if wanted.write_config {
            let value = self.config.initial_dynamic.clone().unwrap_or_else(|| Value::Object(Map::new()));
            self.send_write(WriteKind::Config, StoreRequest::PutConfig { value, expect: None }, out);
        }
        // Only what is there: clearing wakes everybody, us too.
        if let (Some(reason), Some(failover)) = (&wanted.clear_failover, &cluster.failover) {
            let expect = Some(failover.revision);
            if self.send_write(WriteKind::Failover, StoreRequest::PutFailover { value: None, expect }, out) {
                self.log(log::Level::Info, reason.clone(), out);
            }
        }
        if let Some((create, drop)) = &wanted.slots {
            out.push(Action::Background(Task::SyncSlots { create: create.clone(), drop: drop.clone() }));
        }
    }

    fn apply_need(&mut self, wanted: &Wanted, out: &mut Vec<Action>) {
        match &wanted.need {
            Need::Nothing => {}
            Need::Peers => self.ask_peers(out),
            Need::Upstream(upstream) => self.ask_upstream(upstream, out),
        }
    }

    pub(super) fn ask_peers(&mut self, out: &mut Vec<Action>) {
        if self.flight.peers.is_some() {
            return;
        }
        let Some(cluster) = self.cluster.clone() else { return };
        let others = cluster.members.iter().filter(|(name, _)| **name != self.config.me);
        let peers: Vec<_> = others.filter_map(|(name, member)| Some((name.clone(), member.api_url.clone()?))).collect();
        let id = self.new_id();
        self.flight.peers = Some(Pending { id, sent_at: self.now });
        let deadline = self.config.peers_deadline();
        out.push(Action::AskPeers { id, peers, deadline });
    }

    fn ask_upstream(&mut self, upstream: &Upstream, out: &mut Vec<Action>) {
        if self.flight.upstream.is_some() {
            return;
        }
        let recent = self.memory.upstream.as_ref().is_some_and(|answer| {
            answer.member == upstream.name && answer.history.is_none() && self.now.since(answer.asked_at) < UPSTREAM_PAUSE
        });
        if recent {
            self.timers.cycle_at = self.timers.cycle_at.min(self.now + UPSTREAM_PAUSE);
            return;
        }
        let id = self.new_id();
        self.flight.upstream = Some((Pending { id, sent_at: self.now }, upstream.name.clone()));
        let deadline = Millis(self.config.retry_timeout.0.clamp(1_000, 5_000));
        out.push(Action::ReadUpstream { id, upstream: upstream.clone(), deadline });
    }

    /// `/status` of a leader that writes.
    pub(super) fn write_status(&mut self, cluster: &ClusterView, node: &NodeView, out: &mut Vec<Action>) {
        let Some(running) = node.pg.running().filter(|_| self.memory.lock && node.pg.is_primary()) else { return };
        let me = self.config.me.slot_name();
        let mut slots: BTreeMap<_, _> = BTreeMap::new();
        for (name, slot) in running.slots.iter().filter(|(_, slot)| slot.physical) {
            if let Some(lsn) = slot.restart_lsn {
                slots.insert(name.clone(), lsn);
            }
        }
        slots.insert(me.clone(), running.position);
        let mut retain_slots: Vec<String> = slots.keys().filter(|name| **name == me || self.is_member_slot(name)).cloned().collect();
        retain_slots.sort();
        let status = &cluster.status;
        let same = status.optime == Some(running.position) && status.slots == slots;
        // Positions change with every transaction: written at the pace of the loop, however often somebody makes us look.
        let pause = Millis(self.config.loop_wait.0 / 2);
        let paced = self.status_written.as_ref().is_some_and(|(at, names)| self.now.since(*at) < pause && slots.keys().eq(names));
        if !same && !paced {
            self.status_written = Some((self.now, slots.keys().cloned().collect()));
            self.send_write(WriteKind::Status, StoreRequest::PutStatus { optime: running.position, slots, retain_slots }, out);
        }
    }

    fn is_member_slot(&self, slot: &str) -> bool {
        self.memory.members_seen.keys().any(|name| name.slot_name() == slot)
    }
}

/// The upstream is asked again after this when it could not be read.
const UPSTREAM_PAUSE: Millis = Millis(1_000);
