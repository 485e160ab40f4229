//! The virtual IP: an effect of the lease, and of nothing else.

use std::collections::BTreeMap;

use super::Machine;
use crate::ha::action::{Action, VipAction};
use crate::ha::decide::JobKind;
use crate::ha::fence::VipRole;
use crate::ha::lease::LeaseHeld;
use crate::ha::types::{Instant, MemberName};
use crate::ha::view::{DcsHealth, Member, PgRunning, PgState, Role};

/// The roles whose addresses were ordered to be here, and until when.
pub(super) type HeldVips = BTreeMap<VipRole, Instant>;

impl Machine {
    /// After each step: addresses follow the lease and what PostgreSQL was seen to be.
    pub(super) fn tend_vips(&mut self, out: &mut Vec<Action>) {
        let mut roles: Vec<VipRole> = self.config.vip_roles.iter().copied().collect();
        roles.extend(self.vips.keys().filter(|role| !self.config.vip_roles.contains(role)));
        for role in roles {
            let wanted = self.vip_lease(role).filter(|_| self.config.vip_roles.contains(&role));
            match wanted {
                Some(lease) if self.vips.get(&role) != Some(&lease.until()) => {
                    self.vips.insert(role, lease.until());
                    out.push(Action::Vip(VipAction::Hold { role, lease }));
                }
                Some(_) => {}
                None => self.drop_vip(role, out),
            }
        }
    }

    /// Before PostgreSQL stops, is killed, or its key goes.
    pub(super) fn drop_vips(&mut self, out: &mut Vec<Action>) {
        for role in self.vips.keys().copied().collect::<Vec<_>>() {
            self.drop_vip(role, out);
        }
    }

    fn drop_vip(&mut self, role: VipRole, out: &mut Vec<Action>) {
        if self.vips.remove(&role).is_some() {
            out.push(Action::Vip(VipAction::Drop { role }));
        }
    }

    fn vip_lease(&self, role: VipRole) -> Option<LeaseHeld> {
        let stopping = self.memory.job.as_ref().is_some_and(|job| matches!(job.kind, JobKind::Stop | JobKind::Remove));
        if stopping || self.exit_code.is_some() {
            return None;
        }
        let here = match role {
            VipRole::Primary => self.carries_primary_address(),
            VipRole::Standby => self.is_chosen_standby(false) || (self.carries_primary_address() && self.best_standby(false).is_none()),
            VipRole::AnyStandby => self.is_chosen_standby(false),
            VipRole::Sync => self.is_chosen_standby(true),
        };
        self.memory.lease.filter(|_| here)?.held(self.now)
    }

    /// Taken once PostgreSQL was seen writable under our key, or said so to the promotion. Kept through a crash that is mended in place.
    fn carries_primary_address(&self) -> bool {
        let Some(node) = self.node.as_ref().filter(|_| self.memory.lock && !self.memory.handover) else { return false };
        match &node.pg {
            PgState::Running(_) if self.just_promoted => true,
            PgState::Running(running) => running.role == Role::Primary && (!self.node_is_old || self.holds_primary_address()),
            PgState::Stopped(_) | PgState::Starting { .. } | PgState::Unresponsive { .. } => self.holds_primary_address(),
            PgState::Empty | PgState::Unreadable { .. } => false,
        }
    }

    fn holds_primary_address(&self) -> bool {
        self.vips.contains_key(&VipRole::Primary) || self.vips.contains_key(&VipRole::Standby)
    }

    fn is_chosen_standby(&self, sync: bool) -> bool {
        let streams = |running: &PgRunning| running.role == Role::Standby && running.streaming;
        let healthy = self.node.as_ref().and_then(|node| node.pg.running()).is_some_and(streams);
        healthy && self.memory.dcs == DcsHealth::Good && self.best_standby(sync) == Some(&self.config.me)
    }

    /// Everybody comes to the same answer from the same view of the store: the first by name.
    fn best_standby(&self, sync: bool) -> Option<&MemberName> {
        let cluster = self.cluster.as_ref()?;
        let is_sync = |name: &MemberName| cluster.sync.as_ref().is_some_and(|sync| sync.value.standbys.contains(name));
        let fit = |name: &MemberName, member: &Member| {
            let streams = member.raw.get("replication_state").and_then(serde_json::Value::as_str) == Some("streaming");
            streams && member.state == "running" && !member.tags.noloadbalance && (!sync || is_sync(name))
        };
        let others = |name: &MemberName| cluster.leader_name() != Some(name);
        cluster.members.iter().find(|(name, member)| others(name) && fit(name, member)).map(|(name, _)| name)
    }
}
