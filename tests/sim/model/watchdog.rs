//! The hardware watchdog of a box, with the habits of real ones: `/dev/watchdog` as `watchdog-api` describes it.

use mastiff::ha::action::WatchdogAction;
use mastiff::ha::fence::WatchdogReport;
use mastiff::ha::input::Input;
use mastiff::ha::types::Millis;

use super::node::{Power, Process};
use super::postgres::Proc;
use super::world::{Event, World};
use crate::checkers::Fact;
use crate::options::{Dog, DogMode, Mutation};

/// A box that was reset is up again after this, plus what its start takes.
const RESET_MS: u64 = 3_000;

/// The device counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counting {
    /// From a kick to the bite.
    pub timeout: u64,
    /// World time of the bite.
    pub bites_at: u64,
}

/// One device.
#[derive(Debug, Default)]
pub struct Watchdog {
    /// What it is.
    pub kind: Dog,
    /// It disappeared.
    pub vanished: bool,
    /// It cannot be opened.
    pub refuses: bool,
    /// It counts.
    pub counting: Option<Counting>,
    /// The agent holds it open.
    pub open: bool,
    /// The life of the agent that took it over while it counted, if it never armed it itself.
    pub taken_over_by: u32,
    /// A bite event is on the heap.
    pub ticking: bool,
}

impl Watchdog {
    /// Whether it can be used with timeouts up to a limit.
    pub fn is_usable(&self, mode: DogMode, limit: Millis) -> bool {
        let fit = match self.kind {
            Dog::None | Dog::Busy => false,
            // What a mere close disarms is no fence that may be required.
            Dog::NoMagic => mode == DogMode::Automatic,
            _ => mode != DogMode::Off,
        };
        fit && !self.vanished && self.fitting(limit.0).is_some()
    }

    /// It stops when asked to.
    pub fn is_stoppable(&self) -> bool {
        self.kind != Dog::NoWayOut
    }

    /// The longest timeout within a limit.
    fn fitting(&self, limit: u64) -> Option<u64> {
        let secs = limit / 1000;
        let fit = match self.kind {
            Dog::Coarse => (0..8).map(|step| 1 << step).filter(|&step| step <= secs).max(),
            Dog::Short => Some(secs.min(15)),
            _ => Some(secs),
        };
        fit.filter(|&secs| secs > 0).map(|secs| secs * 1000)
    }
}

impl World {
    /// The agent's order.
    pub fn dog_order(&mut self, node: usize, action: WatchdogAction) {
        match action {
            WatchdogAction::Look { .. } => self.dog_look(node),
            WatchdogAction::Arm { limit } => {
                self.changed(node, "arm the watchdog");
                self.dog_arm(node, limit);
            }
            WatchdogAction::Kick(_) => self.dog_kick(node),
            WatchdogAction::Disarm(_) => {
                self.changed(node, "disarm the watchdog");
                self.dog_disarm(node);
            }
        }
        self.tell_fences(node);
    }

    fn dog_says(&mut self, node: usize, report: WatchdogReport) {
        self.send(node, 0, Input::Watchdog(report));
    }

    fn dog_unusable(&mut self, node: usize) -> Option<&'static str> {
        let dog = &self.nodes[node].dog;
        match dog.kind {
            _ if dog.vanished => Some("it disappeared"),
            Dog::None => Some("there is none"),
            Dog::Busy => Some("it is busy"),
            Dog::NoMagic if self.options.dog_mode == DogMode::Required => Some("closing it disarms it"),
            _ => None,
        }
    }

    fn dog_look(&mut self, node: usize) {
        if let Some(why) = self.dog_unusable(node) {
            return self.dog_says(node, WatchdogReport::Unusable(why.to_owned()));
        }
        let life = self.nodes[node].agent.life;
        let dog = &mut self.nodes[node].dog;
        if dog.refuses && !dog.open && dog.counting.is_some() {
            return self.dog_says(node, WatchdogReport::Unusable("it cannot be opened".to_owned()));
        }
        if dog.counting.is_some() && !std::mem::replace(&mut dog.open, true) {
            dog.taken_over_by = life;
        }
        let report = match dog.counting {
            Some(counting) => WatchdogReport::Armed { timeout: Millis(counting.timeout), stoppable: dog.is_stoppable() },
            None => WatchdogReport::Ready,
        };
        self.dog_says(node, report);
    }

    fn dog_arm(&mut self, node: usize, limit: Millis) {
        let refused = (self.nodes[node].dog.refuses && !self.nodes[node].dog.open).then_some("it cannot be opened");
        if let Some(why) = self.dog_unusable(node).or(refused) {
            return self.dog_says(node, WatchdogReport::Unusable(why.to_owned()));
        }
        let Some(timeout) = self.nodes[node].dog.fitting(limit.0) else {
            return self.dog_says(node, WatchdogReport::Unusable("no timeout fits".to_owned()));
        };
        self.check_feed(node, timeout);
        self.dog_feed(node, timeout);
        self.nodes[node].dog.open = true;
        self.nodes[node].dog.taken_over_by = 0;
        let stoppable = self.nodes[node].dog.is_stoppable();
        self.dog_says(node, WatchdogReport::Armed { timeout: Millis(timeout), stoppable });
    }

    fn dog_kick(&mut self, node: usize) {
        if self.nodes[node].dog.vanished {
            return self.dog_says(node, WatchdogReport::Unusable("it disappeared".to_owned()));
        }
        match self.nodes[node].dog.counting {
            Some(Counting { timeout, .. }) => {
                self.check_feed(node, timeout);
                self.dog_feed(node, timeout);
            }
            // The device is another one, or was armed by nobody: the open file is dead.
            None => self.dog_says(node, WatchdogReport::Unusable("it disappeared".to_owned())),
        }
    }

    /// Fed or armed while PostgreSQL may write, it must bite before the store lets the lease end.
    fn check_feed(&mut self, node: usize, timeout: u64) {
        // A promotion that an earlier life of the agent began cannot be seen before it is through (docs/decisions.md).
        let unseen = self.nodes[node].pg.proc == Proc::Promoting && self.nodes[node].promoted_by != self.nodes[node].agent.life;
        if unseen || !self.nodes[node].pg.may_write() || self.nodes[node].stray || self.store.view().is_paused() {
            return;
        }
        let until = self.store.leader_until().filter(|_| self.store.holder() == Some(node));
        let too_long = until.is_none_or(|until| self.now + timeout > until);
        self.fact(Fact::Fed { node, too_long });
    }

    fn dog_feed(&mut self, node: usize, timeout: u64) {
        let bites_at = self.now + timeout;
        let dog = &mut self.nodes[node].dog;
        dog.counting = Some(Counting { timeout, bites_at });
        if !std::mem::replace(&mut dog.ticking, true) {
            self.push(bites_at, Event::DogBites { node });
        }
    }

    fn dog_disarm(&mut self, node: usize) {
        let paused = self.store.view().is_paused();
        let may_write = self.nodes[node].pg.may_write();
        self.fact(Fact::Disarm { node, device: "watchdog", may_write, paused });
        let dog = &mut self.nodes[node].dog;
        if dog.vanished {
            return self.dog_says(node, WatchdogReport::Unusable("it disappeared".to_owned()));
        }
        if let (Some(counting), false) = (dog.counting, dog.is_stoppable()) {
            // The magic close is refused, and the close feeds it.
            self.dog_feed(node, counting.timeout);
            return self.dog_says(node, WatchdogReport::Armed { timeout: Millis(counting.timeout), stoppable: false });
        }
        dog.counting = None;
        dog.open = false;
        self.dog_says(node, WatchdogReport::Ready);
    }

    /// The agent's process ended, and the device was closed with it. The kernel feeds a device that goes on counting
    /// (`watchdog_release()` in `watchdog_dev.c`: "watchdog did not stop!").
    pub fn dog_closed(&mut self, node: usize) {
        let dog = &mut self.nodes[node].dog;
        dog.open = false;
        let Some(counting) = dog.counting else { return };
        if dog.kind == Dog::NoMagic {
            dog.counting = None;
        } else {
            self.dog_feed(node, counting.timeout);
            self.excuse_last_meal(node);
        }
        self.tell_fences(node);
    }

    /// Nobody asked for the meal at the close: a box whose renewals had failed for long before it lost agent and guard is reset so much later.
    pub fn excuse_last_meal(&mut self, node: usize) {
        let target = &self.nodes[node];
        let Some(until) = target.dog.counting.map(|counting| counting.bites_at) else { return };
        if target.agent.process == Process::Dead && !target.guard.stands() {
            self.fact(Fact::Excused { node, until });
        }
    }

    /// The time of a bite, unless it was fed since.
    pub fn dog_bites(&mut self, node: usize) {
        let dog = &mut self.nodes[node].dog;
        dog.ticking = false;
        let Some(counting) = dog.counting else { return };
        let asleep = self.options.dog_sleeps && self.nodes[node].power == Power::Suspended;
        if counting.bites_at > self.now || asleep {
            self.nodes[node].dog.ticking = true;
            let at = if asleep { self.now + 500 } else { counting.bites_at };
            self.push(at, Event::DogBites { node });
            return;
        }
        self.note(node, || "the watchdog resets the box".to_owned());
        self.changed(node, "a reset by the watchdog");
        self.check_false_reset(node);
        self.power_off(node);
        let resets = self.nodes[node].resets + 1;
        self.nodes[node].resets = resets;
        self.after(RESET_MS, Event::Reset { node, resets });
    }

    /// Reset although PostgreSQL was stopped in time, or the lease is fresh, and the agent could have said so.
    fn check_false_reset(&mut self, node: usize) {
        let target = &self.nodes[node];
        let patience = target.dog.counting.map_or(0, |counting| counting.timeout) + 3_000;
        let now = target.clock.now(self.now);
        let Some(machine) = target.agent.machine.as_ref().filter(|_| target.agent_runs() && target.agent.runs_since + patience < self.now)
        else {
            return;
        };
        let memory = machine.memory();
        let fresh = memory.lease.is_some_and(|lease| memory.lock && lease.guard_at() > now + Millis(patience));
        let proven = matches!(target.pg.proc, Proc::Down | Proc::Standby);
        // An agent that took it over from an earlier life cannot tell a standby from a promotion that goes on.
        let proven = proven && target.dog.taken_over_by != target.agent.life;
        let stopped = proven && target.calm_since + 3_000 < self.now;
        if (fresh || stopped) && target.dog.open {
            let what = if fresh { "is reset although its lease is fresh" } else { "is reset although its PostgreSQL cannot write" };
            self.fact(Fact::Contract { node, what });
        }
    }

    /// The box was suspended for so long: some devices did not count.
    pub fn dog_wakes(&mut self, node: usize, slept: u64) {
        if let (true, Some(counting)) = (self.options.dog_sleeps, self.nodes[node].dog.counting.as_mut()) {
            counting.bites_at += slept;
        }
    }

    /// The power went.
    pub fn dog_off(&mut self, node: usize) {
        self.nodes[node].dog.counting = None;
        self.nodes[node].dog.open = false;
    }

    /// It disappears, or is there again.
    pub fn dog_vanish(&mut self, node: usize, on: bool) {
        let dog = &mut self.nodes[node].dog;
        dog.vanished = on;
        if on {
            dog.counting = None;
            dog.open = false;
        }
        self.tell_fences(node);
    }

    /// The mutation `blind-kick`: fed all the time.
    pub fn kick_blindly(&mut self, node: usize) {
        if self.is_mutated(Mutation::BlindKick) && self.nodes[node].dog.counting.is_some() && self.nodes[node].agent_runs() {
            self.dog_kick(node);
        }
    }
}
