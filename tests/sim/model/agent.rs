//! The agent's process: the real core, and a model of the shell around it.

use mastiff::ha::action::{Action, StoreRequest};
use mastiff::ha::input::Input;
use mastiff::ha::lease::PostgresStopped;
use mastiff::ha::types::Instant;
use mastiff::ha::view::{NodeView, PgState};
use mastiff::ha::Machine;

use super::node::{Power, Process};
use super::postgres::{Data, Proc};
use super::world::{Event, World};
use crate::checkers::Fact;
use crate::options::Mutation;

/// The core may ask to be woken at once again, but not for ever.
const SHORTEST_SLEEP_MS: u64 = 1;

impl World {
    /// The agent's process starts on a box that is on.
    pub fn agent_start(&mut self, node: usize) {
        if self.nodes[node].power != Power::On || self.nodes[node].agent.process != Process::Dead {
            return;
        }
        let config = self.nodes[node].config(&self.options);
        let target = &mut self.nodes[node];
        let now = target.clock.now(self.now);
        let agent = &mut target.agent;
        agent.life += 1;
        agent.process = Process::Running;
        agent.machine = Some(Machine::new(config, now));
        agent.wake_at = u64::MAX;
        agent.job = None;
        agent.published = None;
        agent.config_seen = 0;
        agent.deferred.clear();
        let life = agent.life;
        self.note(node, || "agent starts".to_owned());
        self.tell_agent(node, false, true);
        if let Some(left) = self.nodes[node].marker {
            self.step(node, Input::Unfinished(left));
        }
        self.guard_connect(node);
        if self.options.vip && self.nodes[node].carrier_lost {
            self.step(node, Input::Carrier { lost: true });
        }
        self.after(1, Event::Wake { node, life });
    }

    /// The agent's process ends; its children with it.
    pub fn agent_die(&mut self, node: usize) {
        if self.nodes[node].agent.process == Process::Dead {
            return;
        }
        let was = self.nodes[node].agent_runs();
        self.kill_child(node);
        let agent = &mut self.nodes[node].agent;
        agent.process = Process::Dead;
        agent.machine = None;
        agent.job = None;
        agent.published = None;
        agent.deferred.clear();
        agent.replies_due.clear();
        self.note(node, || "agent is gone".to_owned());
        self.dog_closed(node);
        self.guard_alone(node);
        self.tell_agent(node, was, false);
    }

    /// The agent's timer.
    pub fn wake(&mut self, node: usize, life: u32) {
        if self.nodes[node].agent.life != life {
            return;
        }
        let now = self.now;
        let target = &mut self.nodes[node];
        if target.agent.wake_at <= now {
            target.agent.wake_at = u64::MAX;
        }
        let boot = target.clock.now(now);
        let due = target.agent.machine.as_ref().is_some_and(|machine| machine.next_deadline() <= boot);
        if due {
            let wall = target.clock.wall(now);
            self.step(node, Input::WallClock(wall));
            self.step(node, Input::Tick);
        } else {
            self.schedule_wake(node);
        }
    }

    /// An input for a certain life of the agent.
    pub fn deliver(&mut self, node: usize, life: u32, input: Input) {
        if self.nodes[node].agent.life == life && self.nodes[node].agent.process == Process::Running {
            self.step(node, input);
        }
    }

    /// Sends an input to the agent, so many milliseconds from now and whatever its processor adds.
    pub fn send(&mut self, node: usize, delay: u64, input: Input) {
        let life = self.nodes[node].agent.life;
        let hiccup = self.hiccup(node);
        self.after(delay + hiccup, Event::Deliver { node, life, input: Box::new(input) });
    }

    /// How late the agent comes to something.
    pub fn hiccup(&mut self, node: usize) -> u64 {
        let rng = &mut self.nodes[node].rng;
        if rng.chance(900) {
            rng.below(2)
        } else {
            rng.below(self.options.hiccup_ms + 1)
        }
    }

    /// One step of the real core, and what follows from it.
    pub fn step(&mut self, node: usize, input: Input) {
        let now = self.nodes[node].clock.now(self.now);
        let mut actions = std::mem::take(&mut self.actions);
        let text = self.trace.is_on().then(|| super::describe::input(&input));
        let Some(machine) = self.nodes[node].agent.machine.as_mut() else { return };
        machine.step(now, input, &mut actions);
        self.steps += 1;
        if let Some(text) = text {
            self.trace_step(node, now, &text, &actions);
        }
        self.fact(Fact::Step { node, actions: actions.len() });
        for action in actions.drain(..) {
            self.act(node, action);
        }
        self.actions = actions;
        self.schedule_wake(node);
    }

    fn trace_step(&mut self, node: usize, now: Instant, text: &str, actions: &[Action]) {
        let target = &self.nodes[node];
        let Some(machine) = target.agent.machine.as_ref() else { return };
        let lease = machine.memory().lease.map(|lease| lease.deadline().0 as i64 - now.0 as i64);
        let columns = super::describe::columns(target, lease, machine.memory().lock);
        let mut line = format!("< {text}");
        for action in actions {
            if let Some(said) = super::describe::action(action) {
                line.push('\n');
                line.push_str(&format!("{:>16} {:<42}    > {said}", "", ""));
            }
        }
        self.trace.step(self.now, &target.name, &columns, &line);
    }

    fn schedule_wake(&mut self, node: usize) {
        let now = self.now;
        let late = if self.nodes[node].rng.chance(980) { 0 } else { self.hiccup(node) };
        let target = &mut self.nodes[node];
        let Some(machine) = target.agent.machine.as_ref() else { return };
        let at = target.clock.world_at(machine.next_deadline(), now).max(now + SHORTEST_SLEEP_MS) + late;
        if at < target.agent.wake_at {
            target.agent.wake_at = at;
            let life = target.agent.life;
            self.push(at, Event::Wake { node, life });
        }
    }

    /// Carries out one action, as the shell does.
    fn act(&mut self, node: usize, action: Action) {
        match action {
            Action::Store { id, request, deadline } => self.store_send(node, id, request, deadline),
            Action::Observe { id, deadline } => self.observe_begin(node, id, deadline),
            Action::AskPeers { id, peers, deadline } => self.ask_peers(node, id, &peers, deadline),
            Action::ReadUpstream { id, upstream, deadline } => self.read_upstream(node, id, &upstream, deadline),
            Action::RunJob { id, job } => {
                self.changed(node, job.name());
                if self.is_mutated(Mutation::EarlyRelease) && matches!(job, mastiff::ha::action::Job::Stop { .. }) {
                    self.release_early(node);
                }
                self.job_begin(node, id, job);
            }
            Action::CancelJob { id } => {
                self.changed(node, "cancel");
                self.job_cancel(node, id);
            }
            Action::Background(task) => self.background(node, task),
            Action::Fence { kill_after } => {
                self.changed(node, "fence");
                if !self.is_mutated(Mutation::LostFence) {
                    self.fence(node, kill_after.0);
                }
            }
            Action::Publish(snapshot) => self.nodes[node].agent.published = Some(snapshot),
            Action::Reply { to, .. } => self.replied(node, to.0),
            Action::Exit { code } => self.agent_exit(node, code),
            Action::Guard(action) => self.guard_order(node, action),
            Action::Watchdog(action) => self.dog_order(node, action),
            Action::Vip(action) => self.vip_order(node, action),
            _ => {}
        }
    }

    fn replied(&mut self, node: usize, to: u64) {
        if !self.nodes[node].agent.replies_due.remove(&to) {
            self.fact(Fact::Contract { node, what: "an answer to a command that was not asked or is answered" });
        }
    }

    /// Notes that a core did something that changes the world: in a quiet cluster nobody does.
    pub fn changed(&mut self, node: usize, what: &'static str) {
        self.nodes[node].last_change = (self.now, what);
    }

    fn agent_exit(&mut self, node: usize, code: i32) {
        self.note(node, || format!("agent exits with {code}"));
        self.agent_die(node);
        // systemd's Restart=always; an orderly end is followed by the operator's start.
        let pause = self.nodes[node].rng.between(1_000, 6_000);
        self.after(pause, Event::AgentStart { node });
    }

    fn fence(&mut self, node: usize, kill_after: u64) {
        self.note(node, || "fence: SIGQUIT".to_owned());
        self.pg_immediate(node);
        let (life, pg_life) = (self.nodes[node].agent.life, self.nodes[node].pg.life);
        self.after(kill_after, Event::FenceKill { node, life, pg_life });
    }

    /// The mutation `early-release`: the key goes when the stop begins.
    fn release_early(&mut self, node: usize) {
        let down = NodeView { observed_at: Instant(0), pg: PgState::Empty };
        if let Some(proof) = PostgresStopped::observe(&down, Instant(0)) {
            if self.store.holder() == Some(node) {
                let (_, change) = self.store.apply(node, StoreRequest::ReleaseUnused { proof }, self.now);
                let writable = self.nodes[node].pg.is_writable();
                self.fact(Fact::Released { node, writable });
                self.store_changed(change);
            }
        }
    }

    /// The last member's disk carries a cluster that is not this one.
    pub fn make_foreign(&mut self, node: usize) {
        let record = self.unique();
        self.nodes[node].pg.data = Data::Cluster(Box::new(super::postgres::Cluster::new(666, record)));
        self.nodes[node].was_member = true;
        debug_assert_eq!(self.nodes[node].pg.proc, Proc::Down);
    }
}
