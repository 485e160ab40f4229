//! The guard: a process of its own beside the agent. It outlives it, and ends PostgreSQL when its deadline passes.

use std::collections::VecDeque;

use mastiff::ha::action::GuardAction;
use mastiff::ha::fence::GuardReport;
use mastiff::ha::input::Input;
use mastiff::ha::types::{Instant, Millis};

use super::node::{Power, Process};
use super::world::{Event, World};
use crate::checkers::Fact;
use crate::options::Mutation;

/// A thawed guard fires at once: one late wake-up, SIGQUIT, SIGKILL.
pub const THAWED_GUARD_MS: u64 = 250;
/// A guard that does not answer for so long is killed by the agent, and a new one is started with the next order.
const SILENCE_MS: u64 = 1_500;
/// After the last process of PostgreSQL is gone it looks once more.
const LOOK_AGAIN_MS: u64 = 20;

/// What the agent tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A new connection: say the state.
    Hello,
    /// Kill at that time.
    Watch(Instant, Millis),
    /// Watch nothing.
    Disarm,
}

/// The process.
#[derive(Debug, Default)]
pub struct Guard {
    /// It lives.
    pub alive: bool,
    /// SIGSTOP.
    pub stopped: bool,
    /// Counts lives.
    pub life: u32,
    /// When it kills, and from SIGQUIT to SIGKILL.
    pub armed: Option<(Instant, Millis)>,
    /// It kills right now.
    pub firing: bool,
    /// An order that came while it killed.
    pub next: Option<(Instant, Millis)>,
    /// It fired while there was no agent.
    pub fired_alone: bool,
    /// What could not reach it while it was stopped.
    pub deferred: VecDeque<Event>,
    /// None can be started.
    pub broken: bool,
    /// Orders arrive one after the other.
    pub order_at: u64,
    /// So do its answers: a socket keeps their order.
    pub answer_at: u64,
    /// Since when an answer is waited for.
    pub asked_at: Option<u64>,
    /// World time of the last fault that hit it.
    pub hurt_at: u64,
}

impl Guard {
    /// It will end PostgreSQL by itself.
    pub fn stands(&self) -> bool {
        self.alive && !self.stopped && (self.armed.is_some() || self.firing)
    }
}

impl World {
    /// The agent hands over an order.
    pub fn guard_order(&mut self, node: usize, action: GuardAction) {
        match action {
            GuardAction::Watch(order) => {
                if self.is_mutated(Mutation::LostOrder) {
                    self.send(node, 3, Input::Guard(GuardReport::Armed { until: order.kill_at() }));
                    return;
                }
                self.guard_send(node, Order::Watch(order.kill_at(), order.kill_after()));
            }
            GuardAction::Disarm(_) => {
                let paused = self.store.view().is_paused();
                let may_write = self.nodes[node].pg.may_write();
                self.fact(Fact::Disarm { node, device: "guard", may_write, paused });
                if self.nodes[node].guard.alive {
                    self.guard_send(node, Order::Disarm);
                } else {
                    self.send(node, 0, Input::Guard(GuardReport::Idle));
                }
            }
        }
    }

    /// The agent connects to the guard that runs, or starts one.
    pub fn guard_connect(&mut self, node: usize) {
        if self.options.guard {
            self.guard_send(node, Order::Hello);
        }
    }

    fn guard_send(&mut self, node: usize, order: Order) {
        let (spawn, way) = (self.nodes[node].rng.between(3, 40), self.nodes[node].rng.below(3));
        let now = self.now;
        let guard = &mut self.nodes[node].guard;
        if !guard.alive {
            if guard.broken {
                self.send(node, 5, Input::Guard(GuardReport::Gone("it cannot be started".to_owned())));
                return;
            }
            *guard = Guard { alive: true, life: guard.life + 1, order_at: now + spawn, hurt_at: guard.hurt_at, ..Guard::default() };
        }
        guard.order_at = guard.order_at.max(now + way);
        let (at, life) = (guard.order_at, guard.life);
        if guard.asked_at.is_none() {
            guard.asked_at = Some(now);
            let agent = self.nodes[node].agent.life;
            self.after(SILENCE_MS, Event::GuardSilence { node, agent, life, asked_at: now });
        }
        let agent = self.nodes[node].agent.life;
        self.push(at, Event::GuardHears { node, life, agent, order });
        self.tell_fences(node);
    }

    /// Did it answer?
    pub fn guard_silence(&mut self, node: usize, agent: u32, life: u32, asked_at: u64) {
        let target = &self.nodes[node];
        let same = target.agent.life == agent && target.guard.life == life && target.guard.alive;
        if same && target.guard.asked_at == Some(asked_at) {
            self.note(node, || "the guard is silent: killed".to_owned());
            self.guard_kill(node, false);
        }
    }

    /// An order arrives.
    pub fn guard_hears(&mut self, node: usize, life: u32, agent: u32, order: Order) {
        let guard = &mut self.nodes[node].guard;
        if guard.life != life || !guard.alive {
            return;
        }
        guard.asked_at = None;
        match order {
            Order::Watch(kill_at, kill_after) if guard.firing => guard.next = Some((kill_at, kill_after)),
            Order::Watch(kill_at, kill_after) => self.guard_arm(node, kill_at, kill_after),
            Order::Disarm if guard.firing => guard.next = None,
            Order::Disarm => {
                guard.armed = None;
                self.note(node, || "guard disarmed".to_owned());
                self.guard_says(node, Some(agent), GuardReport::Idle);
            }
            Order::Hello if guard.firing => {}
            Order::Hello if std::mem::take(&mut guard.fired_alone) => self.guard_says(node, Some(agent), GuardReport::Fired),
            Order::Hello => {
                let report = guard.armed.map_or(GuardReport::Idle, |(until, _)| GuardReport::Armed { until });
                self.guard_says(node, Some(agent), report);
            }
        }
        self.tell_fences(node);
    }

    fn guard_arm(&mut self, node: usize, kill_at: Instant, kill_after: Millis) {
        self.nodes[node].guard.armed = Some((kill_at, kill_after));
        self.guard_says(node, None, GuardReport::Armed { until: kill_at });
        let late = self.nodes[node].rng.below(15);
        let at = self.nodes[node].clock.world_at(kill_at, self.now) + late;
        let life = self.nodes[node].guard.life;
        self.push(at, Event::GuardTimer { node, life, kill_at });
    }

    /// To the agent that asked, or to whoever is there.
    fn guard_says(&mut self, node: usize, agent: Option<u32>, report: GuardReport) {
        let target = &mut self.nodes[node].agent;
        if target.process != Process::Dead && agent.is_none_or(|life| life == target.life) {
            let life = target.life;
            let way = self.nodes[node].rng.below(2) + self.hiccup(node);
            let at = self.nodes[node].guard.answer_at.max(self.now + way);
            self.nodes[node].guard.answer_at = at;
            self.push(at, Event::Deliver { node, life, input: Box::new(Input::Guard(report)) });
        } else if report == GuardReport::Fired {
            self.nodes[node].guard.fired_alone = true;
        }
    }

    /// Its deadline.
    pub fn guard_timer(&mut self, node: usize, life: u32, kill_at: Instant) {
        let guard = &mut self.nodes[node].guard;
        let Some((armed, kill_after)) = guard.armed.filter(|_| guard.life == life && guard.alive) else { return };
        if armed != kill_at {
            return;
        }
        guard.armed = None;
        guard.firing = true;
        self.note(node, || "the guard fires".to_owned());
        self.check_false_alarm(node);
        self.drop_all_vips(node);
        self.pg_immediate(node);
        self.after(kill_after.0, Event::GuardKills { node, life });
    }

    /// Fired although the lease is fresh and the agent could have said so.
    fn check_false_alarm(&mut self, node: usize) {
        let target = &self.nodes[node];
        let now = target.clock.now(self.now);
        let Some(machine) = target.agent.machine.as_ref().filter(|_| target.agent_runs() && target.agent.runs_since + 5_000 < self.now)
        else {
            return;
        };
        let memory = machine.memory();
        let fresh = memory.lease.is_some_and(|lease| memory.lock && lease.guard_at() > now + Millis(1_000));
        if fresh && self.now > target.guard.hurt_at + 5_000 {
            self.fact(Fact::Contract { node, what: "the guard fires although the lease is fresh" });
        }
    }

    /// SIGKILL for what is left.
    pub fn guard_kills(&mut self, node: usize, life: u32) {
        if self.nodes[node].guard.life != life || !self.nodes[node].guard.firing {
            return;
        }
        if self.nodes[node].pg.is_alive() {
            self.pg_kill(node);
            self.after(LOOK_AGAIN_MS, Event::GuardKills { node, life });
            return;
        }
        let guard = &mut self.nodes[node].guard;
        guard.firing = false;
        let next = guard.next.take();
        self.guard_says(node, None, GuardReport::Fired);
        if let Some((kill_at, kill_after)) = next {
            self.guard_arm(node, kill_at, kill_after);
        }
        self.tell_fences(node);
    }

    /// It ends: killed, or with its box.
    pub fn guard_kill(&mut self, node: usize, by_fault: bool) {
        let now = self.now;
        let guard = &mut self.nodes[node].guard;
        if by_fault {
            guard.hurt_at = now;
        }
        if !std::mem::take(&mut guard.alive) {
            return;
        }
        guard.deferred.clear();
        guard.stopped = false;
        guard.armed = None;
        guard.firing = false;
        if self.nodes[node].agent.process != Process::Dead && self.nodes[node].power != Power::Off {
            self.send(node, 2, Input::Guard(GuardReport::Gone("it ended".to_owned())));
        }
        self.excuse_last_meal(node);
        self.tell_fences(node);
    }

    /// The agent is gone: a guard that watches nothing goes, too.
    pub fn guard_alone(&mut self, node: usize) {
        let guard = &mut self.nodes[node].guard;
        guard.asked_at = None;
        if guard.alive && guard.armed.is_none() && !guard.firing && !guard.fired_alone {
            guard.alive = false;
            guard.stopped = false;
            guard.deferred.clear();
            self.tell_fences(node);
        }
    }

    /// SIGSTOP.
    pub fn guard_stop(&mut self, node: usize) {
        let now = self.now;
        let guard = &mut self.nodes[node].guard;
        if guard.alive {
            guard.stopped = true;
            guard.hurt_at = now;
            self.excuse_last_meal(node);
            self.tell_fences(node);
        }
    }

    /// SIGCONT. Orders are read first: a newer deadline may be waiting behind the timer.
    pub fn guard_continue(&mut self, node: usize) {
        let guard = &mut self.nodes[node].guard;
        if !std::mem::take(&mut guard.stopped) {
            return;
        }
        let (orders, rest): (Vec<Event>, Vec<Event>) =
            std::mem::take(&mut guard.deferred).into_iter().partition(|event| matches!(event, Event::GuardHears { .. }));
        for event in orders.into_iter().chain(rest) {
            self.push(self.now, event);
        }
        // Nobody could have been quicker.
        let until = self.now + THAWED_GUARD_MS;
        self.fact(Fact::Excused { node, until });
        self.tell_fences(node);
    }
}
