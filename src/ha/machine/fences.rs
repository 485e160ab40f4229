//! The fences behind a primary: the guard process and the hardware watchdog. Both stand before PostgreSQL may become writable, follow the
//! lease while it is, and are taken away only with a proof.

use super::{may_write, Machine, Wake};
use crate::ha::action::{Action, GuardAction, WatchdogAction};
use crate::ha::config::WatchdogMode;
use crate::ha::decide::JobKind;
use crate::ha::fence::{Guard, GuardReport, Watchdog, WatchdogReport};
use crate::ha::lease::{GuardOrder, KickPermit, LeaseClock, NoWriter, PauseSeen, PostgresStopped, Unfenced};
use crate::ha::types::{Instant, Millis};
use crate::ha::view::{ClusterView, DcsHealth, NodeView, PgState, Role};

/// What was ordered from the fences.
#[derive(Debug, Default)]
pub(super) struct Fences {
    /// The last order to the guard that was not answered by its loss.
    guard: GuardOrdered,
    /// No new guard before this: the last one could not be started.
    guard_not_before: Instant,
    /// The guard has spoken.
    guard_heard: bool,
    /// An earlier life of this agent left a fence armed: it may have begun a promotion that still goes on.
    adopted: bool,
    /// The end of the last job that could have made PostgreSQL writable.
    writer_floor: Instant,
    /// The watchdog's next kick.
    kick_at: Instant,
    /// And its last one.
    kicked_at: Instant,
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
        // The answer to the last order: one to an earlier order says nothing about what came in between.
        let armed =
            matches!(self.memory.guard, Guard::Armed { until } if until > self.now && self.fences.guard == GuardOrdered::Watch(until));
        (armed || !self.config.guard) && self.watchdog_suffices()
    }

    fn watchdog_suffices(&self) -> bool {
        match (&self.memory.watchdog, self.config.watchdog.mode) {
            (_, WatchdogMode::Off) => true,
            // One that was told to stop is armed no more, whatever it said last.
            (Watchdog::Armed { .. }, _) => !self.fences.disarming,
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

    /// With the key in hand, and time left to use it, PostgreSQL may be on its way to become primary (again).
    fn may_lead_again(&self) -> bool {
        let in_time = self.memory.lease.is_some_and(|lease| lease.promote_permit(self.now).is_some());
        self.memory.lock && in_time && !self.memory.terminate
    }

    /// Why nothing needs to be fenced, if so.
    fn unfenced(&self) -> Option<Unfenced> {
        if let Some(seen) = self.cluster.as_ref().and_then(|cluster| PauseSeen::observe(cluster)) {
            return Some(Unfenced::Paused(seen));
        }
        let job_writes = self.memory.job.as_ref().is_some_and(|job| job.kind == JobKind::Writable);
        if self.may_lead_again() || job_writes || self.memory.promotion_open || self.node_is_old || self.is_left_promoting() {
            return None;
        }
        PostgresStopped::observe(self.node.as_ref()?, self.node_floor).map(Unfenced::Stopped)
    }

    /// What a standby can show that starts, is silent, or is being copied.
    fn no_writer(&self) -> Option<NoWriter> {
        if self.may_lead_again() || self.memory.promotion_open || self.is_left_promoting() {
            return None;
        }
        match &self.memory.job {
            Some(job) if job.kind == JobKind::Writable => None,
            Some(job) if NoWriter::by_job(job.kind).is_some() => NoWriter::by_job(job.kind),
            // The next look may take longer than the device waits: only what could have made a writer since the last one counts.
            _ => NoWriter::observe(self.node.as_ref()?, self.fences.writer_floor),
        }
    }

    /// A standby that an earlier life of this agent may have told to promote: "in recovery" proves nothing until PostgreSQL was seen down.
    fn is_left_promoting(&self) -> bool {
        self.fences.adopted && self.node.as_ref().is_some_and(|node| node.pg.is_alive())
    }

    /// What an adopted fence means once the store was read: with the key still in our name the promotion is finished, else PostgreSQL is stopped.
    pub(super) fn judge_adopted(&mut self, cluster: &ClusterView, node: &NodeView) {
        if !self.fences.adopted {
            return;
        }
        let standby = node.pg.running().is_some_and(|running| running.role == Role::Standby);
        let out_of_time = self.memory.lock && !self.may_lead_again();
        let lost = out_of_time || (self.memory.dcs == DcsHealth::Good && cluster.leader_name() != Some(&self.config.me));
        let lost = lost && !self.is_paused();
        if standby && lost && self.memory.job.is_none() {
            self.memory.promotion_open = true;
        }
        self.fences.adopted =
            standby && !lost || matches!(node.pg, PgState::Starting { as_standby: true, .. } | PgState::Unresponsive { .. });
    }

    /// A job ended that may have made PostgreSQL writable.
    pub(super) fn distrust_standby_looks(&mut self) {
        self.fences.writer_floor = self.now;
    }

    fn guard_is_armed(&self) -> bool {
        matches!(self.memory.guard, Guard::Armed { .. }) || matches!(self.fences.guard, GuardOrdered::Watch(_))
    }

    fn tend_guard(&mut self, out: &mut Vec<Action>) {
        let armed = self.guard_is_armed();
        if let Some(unfenced) = self.unfenced().filter(|_| armed) {
            if self.fences.guard != GuardOrdered::Disarm {
                self.fences.guard = GuardOrdered::Disarm;
                out.push(Action::Guard(GuardAction::Disarm(unfenced)));
            }
        } else if self.memory.lock && (armed || self.leads_writable()) && !self.is_paused() {
            // Armed, it follows the lease also while PostgreSQL is down under the key: it must not fire at what is started next.
            if let Some(lease) = self.memory.lease {
                self.order_guard(lease.guard_order(), out);
            }
        }
    }

    /// Each renewal of the lease moves the deadline. An order that was given is not repeated.
    fn order_guard(&mut self, order: GuardOrder, out: &mut Vec<Action>) {
        let given = self.fences.guard == GuardOrdered::Watch(order.kill_at());
        // One that is armed follows the lease even if it was taken out of the configuration: without a proof it is not disarmed.
        if (self.config.guard || self.guard_is_armed()) && !given && self.now >= self.fences.guard_not_before && order.kill_at() > self.now
        {
            self.fences.guard = GuardOrdered::Watch(order.kill_at());
            out.push(Action::Guard(GuardAction::Watch(order)));
        }
    }

    pub(super) fn take_guard(&mut self, report: GuardReport, out: &mut Vec<Action>) -> Wake {
        let heard = std::mem::replace(&mut self.fences.guard_heard, true);
        match report {
            GuardReport::Idle => {
                self.memory.guard = Guard::Idle;
                if self.fences.guard == GuardOrdered::Disarm {
                    self.fences.guard = GuardOrdered::Nothing;
                }
                Wake::Sleep
            }
            GuardReport::Armed { until } => {
                self.memory.guard = Guard::Armed { until };
                if self.fences.guard == GuardOrdered::Nothing {
                    // Adopted from an earlier life of this agent, or begun anew after it fired.
                    self.fences.guard = GuardOrdered::Watch(until);
                    self.fences.adopted |= !heard;
                }
                // A promotion may wait for this.
                if self.memory.lock && !self.node.as_ref().is_some_and(|node| node.pg.is_primary()) {
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
            Watchdog::Ready if self.leads_writable() && !self.is_paused() => self.order_arming(out),
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
        let due = self.now >= self.next_kick(timeout);
        if let Some(unfenced) = self.unfenced() {
            if stoppable && !self.fences.disarming {
                self.fences.disarming = true;
                out.push(Action::Watchdog(WatchdogAction::Disarm(unfenced)));
            } else if !stoppable && due {
                self.kick(timeout, unfenced.kick_permit(), out);
            }
            return;
        }
        if self.fences.disarming {
            // Neither kicked nor set: its answer says whether it has to be armed anew.
            return;
        }
        if let Some(proof) = self.no_writer().filter(|_| !stoppable && due) {
            self.kick(timeout, proof.kick_permit(), out);
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

    /// Three times in its timeout, and once more just before the lease permits no further kick: a leader that cannot renew has all the time
    /// that there is to stop PostgreSQL in order.
    fn next_kick(&self, timeout: Millis) -> Instant {
        let last = self.memory.lease.filter(|_| self.memory.lock).map(|lease| lease.last_kick(timeout) - LAST_KICK_LEAD);
        match last {
            Some(last) if last > self.fences.kicked_at => self.fences.kick_at.min(last),
            _ => self.fences.kick_at,
        }
    }

    fn kick(&mut self, timeout: Millis, permit: KickPermit, out: &mut Vec<Action>) {
        self.fences.kicked_at = self.now;
        self.fences.kick_at = self.now + Millis(timeout.0 / 3);
        out.push(Action::Watchdog(WatchdogAction::Kick(permit)));
    }

    fn watchdog_limit(&self) -> Millis {
        self.config.watchdog.limit(self.config.ttl, self.config.loop_wait)
    }

    /// Arming feeds it, too: only while it would bite before the lease ends.
    fn order_arming(&mut self, out: &mut Vec<Action>) {
        let limit = self.watchdog_limit();
        let permitted = |lease: &LeaseClock| lease.kick_permit(self.now + KICK_SLACK, limit).is_some();
        if !self.memory.lease.as_ref().is_some_and(|lease| self.memory.lock && permitted(lease)) {
            return;
        }
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
        if before == Watchdog::Unknown {
            // On a standby one that cannot be stopped counts always, and tells nothing.
            self.fences.adopted |= matches!(report, WatchdogReport::Armed { stoppable: true, .. });
        }
        self.memory.watchdog = match report {
            WatchdogReport::Ready => Watchdog::Ready,
            WatchdogReport::Unusable(reason) => Watchdog::Unusable(reason),
            WatchdogReport::Armed { timeout, stoppable } => Watchdog::Armed { timeout, stoppable },
        };
        match &self.memory.watchdog {
            Watchdog::Armed { timeout, stoppable } => {
                if self.fences.limit == Millis::ZERO && *timeout <= self.watchdog_limit() {
                    self.fences.limit = self.watchdog_limit();
                } else if self.fences.limit == Millis::ZERO {
                    // Taken over with a timeout that is too long by now: it is set anew.
                    self.fences.limit = *timeout;
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
                if before == Watchdog::Arming {
                    // A look would find it ready again: others get the time to lead.
                    self.fences.look_at = self.now + REFUSED_PAUSE;
                }
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
        let watchdog = match &self.memory.watchdog {
            Watchdog::Armed { timeout, stoppable } => {
                let lease = self.memory.lease.filter(|_| self.memory.lock && self.unfenced().is_none());
                let next = self.next_kick(*timeout);
                let permitted = lease.is_some_and(|lease| lease.kick_permit(next.max(self.now) + KICK_SLACK, *timeout).is_some());
                let stays = !*stoppable && (self.unfenced().is_some() || self.no_writer().is_some());
                (permitted || stays).then_some(next)
            }
            Watchdog::Unknown | Watchdog::Unusable(_) if mode != WatchdogMode::Off => Some(self.fences.look_at),
            _ => None,
        };
        let bare = self.config.guard && self.fences.guard == GuardOrdered::Nothing && self.leads_writable() && !self.is_paused();
        let guard = bare.then_some(self.fences.guard_not_before).filter(|at| *at > self.now);
        watchdog.into_iter().chain(guard).min()
    }
}

/// A guard that could not be started is tried again after this.
const GUARD_PAUSE: Millis = Millis(1_000);
/// A watchdog that cannot be used is looked at again after this.
const LOOK_PAUSE: Millis = Millis(10_000);
/// One that could not be armed is looked at again after this.
const REFUSED_PAUSE: Millis = Millis(60_000);
/// The last kick that a lease permits is given so long before: a timer may be late.
const LAST_KICK_LEAD: Millis = Millis(300);
/// From the decision to kick until the device has it.
const KICK_SLACK: Millis = Millis(100);
