//! The virtual IP: an effect of the lease, and of nothing else.

use std::collections::{BTreeMap, BTreeSet};

use super::Machine;
use crate::ha::action::{Action, VipAction};
use crate::ha::decide::JobKind;
use crate::ha::fence::VipRole;
use crate::ha::lease::LeaseHeld;
use crate::ha::types::{Instant, MemberName, Millis};
use crate::ha::view::{DcsHealth, Member, PgRunning, PgState, Role};

/// What is known of the addresses.
#[derive(Debug, Default)]
pub(super) struct Vips {
    /// The roles whose addresses were ordered to be here, and until when.
    held: BTreeMap<VipRole, Instant>,
    /// An earlier life of this agent may have left the addresses of these roles here.
    left: BTreeSet<VipRole>,
    /// PostgreSQL was seen writable under the present key.
    earned: bool,
    /// Whose turn it is to carry a standbys' address, by the views of the store, and from when on it may be taken.
    turns: BTreeMap<VipRole, Turn>,
}

/// One address of standbys.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Turn {
    who: Option<MemberName>,
    from: Instant,
}

impl Vips {
    /// Nothing is known yet of the addresses of these roles.
    pub(super) fn new(roles: &BTreeSet<VipRole>) -> Vips {
        Vips { left: roles.clone(), ..Vips::default() }
    }
}

impl Machine {
    /// After each step: addresses follow the lease and what PostgreSQL was seen to be.
    pub(super) fn tend_vips(&mut self, out: &mut Vec<Action>) {
        self.vips.earned = self.earns_address();
        let mut roles: Vec<VipRole> = self.config.vip_roles.iter().copied().collect();
        roles.extend(self.vips.held.keys().filter(|role| !self.config.vip_roles.contains(role)));
        for role in roles {
            self.take_turn(role);
            let wanted = self.vip_lease(role).filter(|_| self.config.vip_roles.contains(&role));
            match wanted {
                Some(lease) if self.vips.held.get(&role) != Some(&lease.until()) => {
                    self.vips.held.insert(role, lease.until());
                    self.vips.left.remove(&role);
                    out.push(Action::Vip(VipAction::Hold { role, lease }));
                }
                Some(_) => {}
                None if self.vips.left.contains(&role) && self.may_be_ours(role) => {}
                None => self.drop_vip(role, out),
            }
        }
    }

    /// What an earlier life left stays until it is known whom it belongs to: an agent that comes back to its primary does not make clients
    /// connect again. It has a lifetime, too.
    fn may_be_ours(&self, role: VipRole) -> bool {
        let Some(node) = self.node.as_ref() else { return true };
        let writes = super::may_write(node, self.memory.promotion_open);
        match self.memory.dcs {
            DcsHealth::NeverSeen => writes || role != VipRole::Primary,
            _ if role == VipRole::Primary => {
                writes && self.cluster.as_ref().and_then(|cluster| cluster.leader_name()) == Some(&self.config.me)
            }
            _ => self.vips.turns.get(&role).is_some_and(|turn| turn.who.as_ref() == Some(&self.config.me)),
        }
    }

    /// Roles whose addresses are here.
    pub(super) fn held_vips(&self) -> Vec<VipRole> {
        self.vips.held.keys().copied().collect()
    }

    /// When the addresses need a step by themselves.
    pub(super) fn vips_deadline(&self) -> Option<Instant> {
        let ends = self.memory.lease.map(|lease| lease.stop_at()).filter(|_| !self.vips.held.is_empty());
        let turns = self.vips.turns.values().map(|turn| turn.from);
        turns.chain(ends).filter(|at| self.now < *at).min()
    }

    /// Before PostgreSQL stops, is killed, or its key goes.
    pub(super) fn drop_vips(&mut self, out: &mut Vec<Action>) {
        self.vips.earned = false;
        let roles: BTreeSet<VipRole> = self.vips.held.keys().chain(&self.vips.left).copied().collect();
        for role in roles {
            self.drop_vip(role, out);
        }
    }

    fn drop_vip(&mut self, role: VipRole, out: &mut Vec<Action>) {
        let left = self.vips.left.remove(&role);
        if self.vips.held.remove(&role).is_some() || left {
            out.push(Action::Vip(VipAction::Drop { role }));
        }
    }

    fn vip_lease(&self, role: VipRole) -> Option<LeaseHeld> {
        if self.is_stopping() || self.exit_code.is_some() {
            return None;
        }
        let here = match role {
            VipRole::Primary => self.vips.earned,
            VipRole::Standby => self.is_chosen_standby(role) || (self.vips.earned && self.is_turn_of(role, None)),
            VipRole::AnyStandby | VipRole::Sync => self.is_chosen_standby(role),
        };
        self.memory.lease.filter(|_| here)?.held(self.now)
    }

    fn is_stopping(&self) -> bool {
        self.memory.job.as_ref().is_some_and(|job| matches!(job.kind, JobKind::Stop | JobKind::Remove))
    }

    /// Earned once PostgreSQL was seen writable under our key, or said so to the promotion. Kept through a crash that is mended in place, but not
    /// through a stop: whatever is started after that has to be seen anew.
    fn earns_address(&self) -> bool {
        if self.is_stopping() {
            return false;
        }
        let Some(node) = self.node.as_ref().filter(|_| self.memory.lock && !self.memory.handover) else { return false };
        match &node.pg {
            PgState::Running(_) if self.just_promoted => true,
            PgState::Running(running) => running.role == Role::Primary && (!self.node_is_old || self.vips.earned),
            PgState::Starting { as_standby: true, .. } => false,
            PgState::Stopped(_) | PgState::Starting { .. } | PgState::Unresponsive { .. } => self.vips.earned,
            PgState::Empty | PgState::Unreadable { .. } => false,
        }
    }

    fn is_chosen_standby(&self, role: VipRole) -> bool {
        let streams = |running: &PgRunning| running.role == Role::Standby && running.streaming;
        let healthy = self.node.as_ref().and_then(|node| node.pg.running()).is_some_and(streams);
        healthy && self.is_turn_of(role, Some(&self.config.me))
    }

    /// Whether it is this one's turn, and whoever carried the address before has had the time to notice.
    fn is_turn_of(&self, role: VipRole, who: Option<&MemberName>) -> bool {
        let turn = self.vips.turns.get(&role).filter(|turn| turn.who.as_ref() == who);
        turn.is_some_and(|turn| self.now >= turn.from || self.vips.held.contains_key(&role))
    }

    /// There is no lock for the address of standbys, only the same view of the store for everybody, and some see it later than others. Who lets go
    /// does so at once, who takes waits for as long as a cycle and a lifetime last; where the member key of the last one is gone, and so its lease,
    /// for a cycle: somebody else may have seen it, too.
    fn take_turn(&mut self, role: VipRole) {
        if role == VipRole::Primary {
            return;
        }
        let limit = Millis(self.config.loop_wait.0 + self.read_deadline().0 + VIEW_SLACK.0);
        let fresh = self.memory.dcs == DcsHealth::Good && self.dcs_seen_at.is_some_and(|at| self.now.since(at) <= limit);
        let Some(cluster) = self.cluster.as_ref().filter(|_| fresh) else {
            self.vips.turns.remove(&role);
            return;
        };
        let who = self.best_standby(role == VipRole::Sync).cloned();
        let before = self.vips.turns.get(&role);
        if before.is_some_and(|turn| turn.who == who) {
            return;
        }
        let gone = |name: &MemberName| !cluster.members.contains_key(name);
        let free = before.is_some_and(|turn| turn.who.as_ref().is_some_and(gone));
        let wait = if free { limit } else { Millis(self.config.ttl.0 + self.config.loop_wait.0) };
        self.vips.turns.insert(role, Turn { who, from: self.now + wait });
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

/// A view of the store that is older than a cycle takes by so much says nothing about whose turn it is: this agent slept.
const VIEW_SLACK: Millis = Millis(1_000);
