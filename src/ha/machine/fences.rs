//! The fences behind a primary: the guard process and the hardware watchdog. Both stand before PostgreSQL may become writable, follow the
//! lease while it is, and are taken away only with a proof.

use super::{may_write, Machine, Wake};
use crate::ha::action::{Action, GuardAction, WatchdogAction};
use crate::ha::config::WatchdogMode;
use crate::ha::decide::JobKind;
use crate::ha::fence::{Guard, GuardReport, Watchdog, WatchdogReport};
use crate::ha::lease::{GuardOrder, PauseSeen, PostgresStopped, Unfenced};
use crate::ha::types::{Instant, Millis};

/// What was ordered from the fences.
#[derive(Debug, Default)]
pub(super) struct Fences {
    /// The last order to the guard that was not answered by its loss.
    guard: GuardOrdered,
    /// No new guard before this: the last one could not be started.
    guard_not_before: Instant,
    /// The watchdog's next kick.
    kick_at: Instant,
    /// A disarm was ordered.
    disarming: bool,
    /// The limit of the last order to the watchdog.
    limit: Millis,
    /// The next look at a watchdog that cannot be used.
    look_at: Instant,
}

/// The last order to the guard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum GuardOrdered {
    #[default]
    Nothing,
    Watch(Instant),
    Disarm,
}

impl Machine {
    /// Whether the fences stand that a primary needs. Orders what is missing; its report leads to the same decision again.
    pub(super) fn fenced(&mut self, out: &mut Vec<Action>) -> bool {
        if self.is_paused() {
            return true;
        }
        let Some(lease) = self.memory.lease.filter(|_| self.memory.lock) else { return false };
        self.order_guard(lease.guard_order(), out);
        self.order_arming(out);
        let guarded = !self.config.guard || matches!(self.memory.guard, Guard::Armed { until } if until > self.now);
        guarded && self.watchdog_suffices()
    }

    fn watchdog_suffices(&self) -> bool {
        match (&self.memory.watchdog, self.config.watchdog.mode) {
            (_, WatchdogMode::Off) | (Watchdog::Armed { .. }, _) => true,
            (Watchdog::Unusable(_), mode) => mode == WatchdogMode::Automatic,
            _ => false,
        }
    }

    /// After each step: what the fences need now.
    pub(super) fn tend_fences(&mut self, out: &mut Vec<Action>) {
        self.tend_guard(out);
        self.tend_watchdog(out);
    }

    fn is_paused(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.is_paused())
    }

    /// PostgreSQL writes, or may at any moment, under our key.
    fn leads_writable(&self) -> bool {
        let job_writes = self.memory.job.as_ref().is_some_and(|job| job.kind == JobKind::Writable);
        let node_writes = self.node.as_ref().is_some_and(|node| may_write(node, self.memory.promotion_open));
        self.memory.lock && (job_writes || node_writes)
    }

    /// Why nothing needs to be fenced, if so. With the key in hand it stays: PostgreSQL may be on its way to become primary (again).
    fn unfenced(&self) -> Option<Unfenced> {
        if let Some(seen) = self.cluster.as_ref().and_then(|cluster| PauseSeen::observe(cluster)) {
            return Some(Unfenced::Paused(seen));
        }
        let job_writes = self.memory.job.as_ref().is_some_and(|job| job.kind == JobKind::Writable);
        if (self.memory.lock && !self.memory.terminate) || job_writes || self.memory.promotion_open || self.node_is_old {
            return None;
        }
        PostgresStopped::observe(self.node.as_ref()?, self.node_floor).map(Unfenced::Stopped)
    }

    fn tend_guard(&mut self, out: &mut Vec<Action>) {
        let armed = matches!(self.memory.guard, Guard::Armed { .. }) || matches!(self.fences.guard, GuardOrdered::Watch(_));
        if let Some(unfenced) = self.unfenced().filter(|_| armed) {
            if self.fences.guard != GuardOrdered::Disarm {
                self.fences.guard = GuardOrdered::Disarm;
                out.push(Action::Guard(GuardAction::Disarm(unfenced)));
            }
        } else if self.leads_writable() && !self.is_paused() {
            if let Some(lease) = self.memory.lease {
                self.order_guard(lease.guard_order(), out);
            }
        }
    }

    /// Each renewal of the lease moves the deadline. An order that was given is not repeated.
    fn order_guard(&mut self, order: GuardOrder, out: &mut Vec<Action>) {
        let given = self.fences.guard == GuardOrdered::Watch(order.kill_at());
        if self.config.guard && !given && self.now >= self.fences.guard_not_before && order.kill_at() > self.now {
            self.fences.guard = GuardOrdered::Watch(order.kill_at());
            out.push(Action::Guard(GuardAction::Watch(order)));
        }
    }

    pub(super) fn take_guard(&mut self, report: GuardReport, out: &mut Vec<Action>) -> Wake {
        match report {
            GuardReport::Idle => {
                self.memory.guard = Guard::Idle;
                if self.fences.guard == GuardOrdered::Disarm {
                    self.fences.guard = GuardOrdered::Nothing;
                }
                Wake::Sleep
            }
            GuardReport::Armed { until } => {
                let first = !matches!(self.memory.guard, Guard::Armed { .. });
                self.memory.guard = Guard::Armed { until };
                if self.fences.guard == GuardOrdered::Nothing {
                    // Adopted from an earlier life of this agent.
                    self.fences.guard = GuardOrdered::Watch(until);
                }
                if first {
                    Wake::Decide
                } else {
                    Wake::Sleep
                }
            }
            GuardReport::Gone(reason) => {
                self.log(log::Level::Error, format!("the guard process is gone: {reason}"), out);
                self.memory.guard = Guard::Absent;
                self.fences.guard = GuardOrdered::Nothing;
                self.fences.guard_not_before = self.now + GUARD_PAUSE;
                Wake::Sleep
            }
            GuardReport::Fired => {
                self.log(log::Level::Error, "the guard ended PostgreSQL: the lease was not renewed in time", out);
                self.memory.guard = Guard::Idle;
                self.fences.guard = GuardOrdered::Nothing;
                self.distrust_older_looks();
                self.timers.observe_at = Some(self.now);
                Wake::Cycle
            }
        }
    }

    fn tend_watchdog(&mut self, out: &mut Vec<Action>) {
        let mode = self.config.watchdog.mode;
        match self.memory.watchdog.clone() {
            Watchdog::Armed { timeout, stoppable } => self.tend_armed(timeout, stoppable, out),
            Watchdog::Unknown | Watchdog::Unusable(_) if mode != WatchdogMode::Off => self.look_at_watchdog(out),
            Watchdog::Ready if mode != WatchdogMode::Off && self.leads_writable() && !self.is_paused() => self.order_arming(out),
            _ => {}
        }
    }

    fn look_at_watchdog(&mut self, out: &mut Vec<Action>) {
        if self.now >= self.fences.look_at {
            self.fences.look_at = self.now + LOOK_PAUSE;
            out.push(Action::Watchdog(WatchdogAction::Look { limit: self.watchdog_limit() }));
        }
    }

    fn tend_armed(&mut self, timeout: Millis, stoppable: bool, out: &mut Vec<Action>) {
        let due = self.now >= self.fences.kick_at;
        if let Some(unfenced) = self.unfenced() {
            if stoppable && !self.fences.disarming {
                self.fences.disarming = true;
                out.push(Action::Watchdog(WatchdogAction::Disarm(unfenced)));
            } else if !stoppable && due {
                self.kick(timeout, unfenced.kick_permit(), out);
            }
            return;
        }
        if self.watchdog_limit() != self.fences.limit && self.fences.limit != Millis::ZERO {
            self.order_arming(out);
        }
        let lease = self.memory.lease.filter(|_| self.memory.lock);
        if let Some(permit) = lease.filter(|_| due).and_then(|lease| lease.kick_permit(self.now + KICK_SLACK, timeout)) {
            self.kick(timeout, permit, out);
        }
    }

    fn kick(&mut self, timeout: Millis, permit: crate::ha::lease::KickPermit, out: &mut Vec<Action>) {
        self.fences.kick_at = self.now + Millis(timeout.0 / 3);
        out.push(Action::Watchdog(WatchdogAction::Kick(permit)));
    }

    fn watchdog_limit(&self) -> Millis {
        self.config.watchdog.limit(self.config.ttl, self.config.loop_wait)
    }

    fn order_arming(&mut self, out: &mut Vec<Action>) {
        let limit = self.watchdog_limit();
        match &self.memory.watchdog {
            // Nobody looked yet: arming is looking, too.
            Watchdog::Ready | Watchdog::Unknown if self.config.watchdog.mode != WatchdogMode::Off => {
                self.memory.watchdog = Watchdog::Arming;
            }
            Watchdog::Armed { .. } if self.fences.limit != limit => {}
            _ => return,
        }
        self.fences.limit = limit;
        out.push(Action::Watchdog(WatchdogAction::Arm { limit }));
    }

    pub(super) fn take_watchdog(&mut self, report: WatchdogReport, out: &mut Vec<Action>) -> Wake {
        let before = self.memory.watchdog.clone();
        self.memory.watchdog = match report {
            WatchdogReport::Ready => Watchdog::Ready,
            WatchdogReport::Unusable(reason) => Watchdog::Unusable(reason),
            WatchdogReport::Armed { timeout, stoppable } => Watchdog::Armed { timeout, stoppable },
        };
        match &self.memory.watchdog {
            Watchdog::Armed { timeout, stoppable } => {
                if self.fences.limit == Millis::ZERO {
                    self.fences.limit = self.watchdog_limit();
                }
                // It counts from when it was opened; the next kick is due at once, if there is a permit.
                self.fences.kick_at = self.now;
                // A disarm that ends in "armed" was refused: from here on it is fed instead.
                self.fences.disarming &= *stoppable;
                if !matches!(before, Watchdog::Armed { .. }) {
                    let how = if *stoppable { "" } else { "; it cannot be disarmed" };
                    self.log(
                        log::Level::Info,
                        format!("the watchdog is armed: it resets this box {timeout} after the last kick{how}"),
                        out,
                    );
                }
            }
            Watchdog::Unusable(reason) => {
                self.fences.disarming = false;
                self.fences.limit = Millis::ZERO;
                if before != self.memory.watchdog {
                    let level = match self.config.watchdog.mode {
                        WatchdogMode::Required => log::Level::Error,
                        _ if matches!(before, Watchdog::Armed { .. } | Watchdog::Arming) => log::Level::Warn,
                        _ => log::Level::Info,
                    };
                    self.log(level, format!("the watchdog cannot be used: {reason}"), out);
                }
            }
            _ => {
                self.fences.disarming = false;
                self.fences.limit = Millis::ZERO;
                if matches!(before, Watchdog::Armed { .. }) {
                    self.log(log::Level::Info, "the watchdog is disarmed", out);
                }
            }
        }
        if before == self.memory.watchdog {
            Wake::Sleep
        } else {
            Wake::Decide
        }
    }

    /// The last moment of this process: fences that are not needed go, and one that stays is told of.
    pub(super) fn take_leave_of_fences(&mut self, out: &mut Vec<Action>) {
        self.tend_fences(out);
        if let Watchdog::Armed { timeout, .. } = self.memory.watchdog {
            if !self.fences.disarming {
                let text = format!("the watchdog stays armed: without an agent that feeds it this box is reset in {timeout}");
                self.log(log::Level::Warn, text, out);
            }
        }
    }

    /// When the fences need a step by themselves.
    pub(super) fn fences_deadline(&self) -> Option<Instant> {
        let mode = self.config.watchdog.mode;
        match &self.memory.watchdog {
            Watchdog::Armed { timeout, .. } => {
                let lease = self.memory.lease.filter(|_| self.memory.lock);
                let at = self.fences.kick_at.max(self.now);
                let permitted = lease.is_some_and(|lease| lease.kick_permit(at + KICK_SLACK, *timeout).is_some());
                (permitted || self.unfenced().is_some()).then_some(self.fences.kick_at)
            }
            Watchdog::Unknown | Watchdog::Unusable(_) if mode != WatchdogMode::Off => Some(self.fences.look_at),
            _ => None,
        }
    }
}

/// A guard that could not be started is tried again after this.
const GUARD_PAUSE: Millis = Millis(1_000);
/// A watchdog that cannot be used is looked at again after this.
const LOOK_PAUSE: Millis = Millis(10_000);
/// From the decision to kick until the device has it.
const KICK_SLACK: Millis = Millis(100);
