//! Virtual IPs: who has which address configured, and whom the clients' neighbour caches point to.

use std::collections::BTreeMap;

use mastiff::ha::action::VipAction;
use mastiff::ha::fence::VipRole;

use super::postgres::Proc;
use super::world::{Event, World};
use crate::checkers::Fact;
use crate::options::Mutation;

/// The kernel removes an address up to so much later than its lifetime says (measured: 0.01 to 0.4 s).
const KERNEL_LATE_MS: u64 = 400;
/// Announcements after an address was configured.
const ANNOUNCED_AT_MS: [u64; 9] = [0, 100, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000];
/// A box that wakes up keeps its addresses for so long before it speaks of them.
const PROOF_MS: u64 = 2_000;
/// Taken off the time that the lease has left: more than the kernel is late, and so little that the shortest lease leaves two seconds.
const MARGIN_MS: u64 = 500;

/// The addresses of one box: world time of the kernel's removal.
pub type Vips = BTreeMap<VipRole, u64>;

impl World {
    /// The agent's order.
    pub fn vip_order(&mut self, node: usize, action: VipAction) {
        match action {
            VipAction::Hold { role, lease } => {
                let now = self.nodes[node].clock.now(self.now);
                let seconds = (now.until(lease.until()).0.saturating_sub(MARGIN_MS) / 1000).max(1);
                let late = self.nodes[node].rng.below(KERNEL_LATE_MS);
                let until = self.now + seconds * 1000 + late;
                let fresh = self.nodes[node].vips.insert(role, until).is_none();
                self.push(until, Event::VipExpires { node, role });
                if fresh {
                    self.changed(node, "configure an address");
                    let standby = matches!(self.nodes[node].pg.proc, Proc::Standby | Proc::Promoting);
                    self.fact(Fact::Vip { node, role, on: true, standby });
                    self.vip_announce(node, role, 0);
                }
            }
            VipAction::Drop { role } => {
                if self.nodes[node].vips.contains_key(&role) {
                    self.changed(node, "remove an address");
                }
                if !self.is_mutated(Mutation::StickyVip) {
                    self.vip_gone(node, role);
                }
            }
        }
    }

    fn vip_announce(&mut self, node: usize, role: VipRole, from: u64) {
        for after in ANNOUNCED_AT_MS {
            self.after(from + after, Event::VipAnnounced { node, role });
        }
    }

    /// The link is up again, or the box is awake: whatever was said in between was lost. Not at once: the address may be on its way out, and
    /// nobody may speak against the next holder.
    pub fn vips_announce_again(&mut self, node: usize) {
        for role in self.nodes[node].vips.keys().copied().collect::<Vec<_>>() {
            self.vip_announce(node, role, PROOF_MS);
        }
    }

    fn vip_gone(&mut self, node: usize, role: VipRole) {
        if self.nodes[node].vips.remove(&role).is_some() {
            self.fact(Fact::Vip { node, role, on: false, standby: false });
        }
    }

    /// By the guard, or with the power.
    pub fn drop_all_vips(&mut self, node: usize) {
        for role in self.nodes[node].vips.keys().copied().collect::<Vec<_>>() {
            self.vip_gone(node, role);
        }
    }

    /// The end of a lifetime, unless it was renewed.
    pub fn vip_expires(&mut self, node: usize, role: VipRole) {
        if self.nodes[node].vips.get(&role).is_some_and(|&until| until <= self.now) {
            self.note(node, || format!("the kernel removes the address {role:?}"));
            self.vip_gone(node, role);
        }
    }

    /// Lifetimes do not go on while the box is suspended.
    pub fn vips_wake(&mut self, node: usize, slept: u64) {
        let mut again = Vec::new();
        for (role, until) in &mut self.nodes[node].vips {
            *until += slept;
            again.push((*role, *until));
        }
        for (role, until) in again {
            self.push(until, Event::VipExpires { node, role });
        }
    }

    /// Clients learn where the address is, or not.
    pub fn vip_announced(&mut self, node: usize, role: VipRole) {
        let target = &self.nodes[node];
        let awake = target.agent_runs() && target.agent.runs_since + PROOF_MS <= self.now;
        if !awake || !target.vips.contains_key(&role) || target.carrier_lost {
            return;
        }
        let loss = self.options.announce_loss;
        for client in 0..self.clients.caches.len() {
            if !self.net.chance(loss) {
                self.clients.caches[client].insert(role, node);
            }
        }
    }
}
