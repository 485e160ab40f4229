//! The faults of the schedule: their begins, their ends, and the healing of everything.

use mastiff::ha::input::Input;
use mastiff::ha::types::Millis;

use super::guard::THAWED_GUARD_MS;
use super::node::{Power, Process};
use super::world::{Event, World};
use crate::checkers::Fact;
use crate::options::Mutation;
use crate::schedule::{Fault, Kind};

impl World {
    /// A fault begins.
    pub fn fault(&mut self, index: usize) {
        if self.healed {
            return;
        }
        let fault = self.faults[index];
        self.note(fault.node, || format!("FAULT {:?} peer=n{} for {} ms, arg {}", fault.kind, fault.peer + 1, fault.for_ms, fault.arg));
        self.fault_begins(&fault);
        self.after(fault.for_ms, Event::FaultEnds(index));
    }

    fn fault_begins(&mut self, fault: &Fault) {
        let node = fault.node;
        match fault.kind {
            Kind::AgentStop => self.agent_stop(node),
            Kind::FrozenRenewal => self.nodes[node].freeze = Some((fault.for_ms, fault.arg)),
            Kind::AgentKill => self.agent_die(node),
            Kind::BothKill => {
                self.agent_die(node);
                self.pg_kill(node);
            }
            Kind::PowerCut => self.power_off(node),
            Kind::Blackout => (0..self.nodes.len()).for_each(|node| self.power_off(node)),
            Kind::PgCrash => self.pg_kill(node),
            Kind::PgHang => self.nodes[node].pg.hung = self.nodes[node].pg.is_alive(),
            Kind::StoreOutage => self.store.outages += 1,
            Kind::StoreElection => self.store.extend_leases(self.now),
            Kind::StoreSlow => self.net.store_slow_ms = fault.arg,
            Kind::Suspend => self.suspend(node),
            Kind::WallStep => {
                let by = (fault.arg / 2) as i64;
                self.nodes[node].clock.step_wall(if fault.arg.is_multiple_of(2) { by } else { -by });
            }
            Kind::WalLag => self.nodes[node].wal_lag_ms = fault.arg,
            Kind::Bulk => (0..self.nodes.len()).for_each(|node| self.write(node, fault.arg)),
            Kind::SlowPromote => self.nodes[node].slow_promote_ms = fault.arg,
            Kind::SlowStop => self.nodes[node].slow_stop_ms = fault.arg,
            Kind::ChildFails => self.nodes[node].child_fails = true,
            Kind::StrayPromote => self.stray_promote(node),
            Kind::LeaseLost => self.lose_lease(node),
            Kind::StoreWiped => self.wipe_store(),
            Kind::Switchover | Kind::Failover | Kind::Restart | Kind::PatchConfig => self.command(fault),
            Kind::Terminate => self.terminate(node),
            Kind::GuardKill => self.guard_kill(node, true),
            Kind::GuardStop => self.guard_stop(node),
            Kind::GuardBroken => {
                self.nodes[node].guard.broken = true;
                self.guard_kill(node, true);
            }
            Kind::GroupStop => {
                self.agent_stop(node);
                self.guard_stop(node);
            }
            Kind::GroupKill => {
                self.agent_die(node);
                self.guard_kill(node, true);
            }
            Kind::DogVanishes => self.dog_vanish(node, true),
            Kind::DogRefuses => self.nodes[node].dog.refuses = true,
            Kind::CarrierLost => self.carrier(node, true),
            Kind::Pause => self.pause(node, true),
            _ => self.cut(fault, true),
        }
    }

    /// A fault ends.
    pub fn fault_ends(&mut self, index: usize) {
        let fault = self.faults[index];
        if self.healed {
            return;
        }
        let node = fault.node;
        match fault.kind {
            Kind::AgentStop => self.agent_continue(node),
            Kind::AgentKill | Kind::BothKill | Kind::Terminate | Kind::GroupKill => self.agent_start(node),
            Kind::GuardStop => self.guard_continue(node),
            Kind::GuardBroken => self.nodes[node].guard.broken = false,
            Kind::GroupStop => {
                self.guard_continue(node);
                self.agent_continue(node);
            }
            Kind::DogVanishes => self.dog_vanish(node, false),
            Kind::DogRefuses => self.nodes[node].dog.refuses = false,
            Kind::CarrierLost => self.carrier(node, false),
            Kind::Pause => self.pause(node, false),
            Kind::PowerCut => self.power_on(node),
            Kind::Blackout => (0..self.nodes.len()).for_each(|node| self.power_on(node)),
            Kind::PgHang => self.unhang(node),
            Kind::StoreOutage => self.store_back(),
            Kind::StoreSlow => self.net.store_slow_ms = 0,
            Kind::Suspend => self.resume(node),
            Kind::WalLag => self.nodes[node].wal_lag_ms = 0,
            _ => self.cut(&fault, false),
        }
    }

    /// Links that a fault cuts, or frees again.
    fn cut(&mut self, fault: &Fault, on: bool) {
        let (node, peer, store) = (fault.node, fault.peer, self.net.store());
        match fault.kind {
            Kind::StorePartition => {
                self.net.block(node, store, on);
                self.net.block(store, node, on);
            }
            Kind::StoreRepliesLost => self.net.block(store, node, on),
            Kind::PeerOneWay => self.net.block(node, peer, on),
            Kind::PeerPartition => {
                self.net.block(node, peer, on);
                self.net.block(peer, node, on);
            }
            Kind::Isolation => {
                for other in (0..=store).filter(|&other| other != node) {
                    self.net.block(node, other, on);
                    self.net.block(other, node, on);
                }
            }
            _ => {}
        }
    }

    fn agent_stop(&mut self, node: usize) {
        let was = self.nodes[node].agent_runs();
        if self.nodes[node].agent.process == Process::Running {
            self.nodes[node].agent.process = Process::Stopped;
            self.tell_agent(node, was, false);
        }
    }

    /// The renewal is on its way: the agent is stopped before it can see the answer, and comes back without the store.
    pub fn freeze(&mut self, node: usize) {
        let Some((stopped_for, away_for)) = self.nodes[node].freeze.take() else { return };
        self.note(node, || "stopped after it sent a renewal".to_owned());
        self.agent_stop(node);
        self.after(stopped_for, Event::Continue { node });
        self.after(1_000.min(stopped_for), Event::Reach { node, cut: true });
        self.after(1_000.min(stopped_for) + away_for, Event::Reach { node, cut: false });
    }

    /// The store gets out of reach, or back.
    pub fn reach(&mut self, node: usize, cut: bool) {
        if !self.healed {
            let store = self.net.store();
            self.net.block(node, store, cut);
            self.net.block(store, node, cut);
        }
    }

    /// The cable of the virtual IP's interface.
    fn carrier(&mut self, node: usize, lost: bool) {
        if self.nodes[node].carrier_lost != lost {
            self.nodes[node].carrier_lost = lost;
            if self.options.vip && self.nodes[node].agent.process != Process::Dead {
                self.send(node, 2, Input::Carrier { lost });
            }
            if !lost {
                self.vips_announce_again(node);
            }
        }
    }

    /// SIGCONT.
    pub fn agent_continue(&mut self, node: usize) {
        if self.nodes[node].agent.process == Process::Stopped {
            self.nodes[node].agent.process = Process::Running;
            self.tell_agent(node, false, false);
            self.resume_agent(node);
        }
    }

    /// The power goes.
    pub fn power_off(&mut self, node: usize) {
        if self.nodes[node].power == Power::Off {
            return;
        }
        if self.nodes[node].power == Power::Suspended {
            self.tell_frozen(node, false);
        }
        self.agent_die(node);
        self.nodes[node].power = Power::Off;
        self.guard_kill(node, false);
        self.dog_off(node);
        self.drop_all_vips(node);
        self.tell_fences(node);
        self.pg_kill(node);
        self.nodes[node].deferred.clear();
    }

    fn power_on(&mut self, node: usize) {
        if self.nodes[node].power == Power::Off {
            self.nodes[node].power = Power::On;
            self.nodes[node].clock.boot(self.now);
            let boot = self.nodes[node].rng.between(2_000, 20_000);
            self.after(boot, Event::AgentStart { node });
        }
    }

    /// A reset by the watchdog is through, unless the power went for another reason since.
    pub fn reset_ends(&mut self, node: usize, resets: u32) {
        if self.nodes[node].resets == resets {
            self.power_on(node);
        }
    }

    /// A frozen box does nothing, and when it thaws it gets what its fences need.
    fn tell_frozen(&mut self, node: usize, on: bool) {
        let target = &self.nodes[node];
        let bite = target.dog.counting.map_or(0, |counting| counting.bites_at.saturating_sub(self.now));
        let grace_ms = if target.guard.stands() { THAWED_GUARD_MS } else { bite };
        let last = target.vips.values().max().map_or(0, |until| until.saturating_sub(self.now));
        let running = target.agent.process == Process::Running;
        let vip_grace_ms = if target.guard.stands() {
            THAWED_GUARD_MS
        } else if running {
            last.min(1_500)
        } else {
            last
        };
        self.fact(Fact::Frozen { node, on, grace_ms, vip_grace_ms });
    }

    fn suspend(&mut self, node: usize) {
        let was = self.nodes[node].agent_runs();
        if self.nodes[node].power == Power::On {
            self.tell_frozen(node, true);
            self.nodes[node].power = Power::Suspended;
            self.nodes[node].suspended_at = self.now;
            self.tell_agent(node, was, false);
        }
    }

    fn resume(&mut self, node: usize) {
        if self.nodes[node].power != Power::Suspended {
            return;
        }
        self.nodes[node].power = Power::On;
        let slept = self.now - self.nodes[node].suspended_at;
        if self.is_mutated(Mutation::SleepingClock) {
            self.nodes[node].clock.hidden += slept;
        }
        self.dog_wakes(node, slept);
        self.vips_wake(node, slept);
        self.tell_frozen(node, false);
        self.tell_agent(node, false, false);
        for event in std::mem::take(&mut self.nodes[node].deferred) {
            self.push(self.now, event);
        }
        self.resume_agent(node);
        if !self.is_mutated(Mutation::SleepingClock) {
            self.send(node, 20, Input::ClockJumped { by: Millis(slept) });
        }
    }

    fn unhang(&mut self, node: usize) {
        let pg = &mut self.nodes[node].pg;
        pg.hung = false;
        let life = pg.life;
        match pg.held_stop.take() {
            Some(true) => self.pg_immediate(node),
            Some(false) => self.pg_fast_stop(node),
            None => {}
        }
        self.after(10, Event::WalConnect { node, life });
    }

    fn store_back(&mut self) {
        self.store.outages = self.store.outages.saturating_sub(1);
        if self.store.is_up() {
            self.store.extend_leases(self.now);
        }
    }

    /// By hand, past the agent: nobody is to blame until the agents had a chance to see it.
    fn stray_promote(&mut self, node: usize) {
        self.nodes[node].stray = true;
        let grace = 2 * self.options.loop_wait_s * 1000 + self.options.retry_timeout_s * 1000 + 90_000;
        if self.pg_promote(node) {
            let until = self.now + grace;
            self.fact(Fact::Excused { node, until });
        }
    }

    /// The store breaks its promise: whoever holds a lease may believe in it for as long as it was granted.
    fn excuse_all(&mut self) {
        let until = self.now + 60_000.max(self.options.ttl_s * 1000) + 5_000;
        for node in 0..self.nodes.len() {
            self.fact(Fact::Excused { node, until });
        }
    }

    fn lose_lease(&mut self, node: usize) {
        self.excuse_all();
        self.wiped_at = Some(self.now);
        let lost: Vec<i64> = self.store.leases.iter().filter(|(_, lease)| lease.node == node).map(|(&id, _)| id).collect();
        for lease in lost {
            self.store.end_lease(lease);
        }
        self.tell_holder();
        self.alarm();
    }

    fn wipe_store(&mut self) {
        self.excuse_all();
        self.store.wipe();
        self.wiped_at = Some(self.now);
        self.tell_holder();
        self.alarm();
    }

    /// All faults end, everybody comes back.
    pub fn heal(&mut self) {
        self.healed = true;
        self.note(usize::MAX, || "everything is healed".to_owned());
        self.net.heal();
        self.store.outages = self.store.outages.min(1);
        self.store_back();
        for node in 0..self.nodes.len() {
            self.power_on(node);
            self.resume(node);
            self.guard_continue(node);
            self.agent_continue(node);
            self.unhang(node);
            self.dog_vanish(node, false);
            self.carrier(node, false);
            let target = &mut self.nodes[node];
            target.wal_lag_ms = 0;
            target.slow_promote_ms = 0;
            target.slow_stop_ms = 0;
            target.child_fails = false;
            target.freeze = None;
            target.guard.broken = false;
            target.dog.refuses = false;
            if target.agent.process == Process::Dead {
                self.after(1_000, Event::AgentStart { node });
            }
        }
    }
}
