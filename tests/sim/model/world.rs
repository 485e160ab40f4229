//! The world: one event heap keyed by (time, sequence), and everything in it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use mastiff::ha::action::{Action, StoreRequest};
use mastiff::ha::fence::VipRole;
use mastiff::ha::input::Input;
use mastiff::ha::types::{Instant, JobId, RequestId};

use super::client::Clients;
use super::guard::Order;
use super::network::Network;
use super::node::{names, Node, Power, Process};
use super::store::Store;
use crate::checkers::{Checks, Fact, Violation};
use crate::options::{Mutation, Options};
use crate::schedule::{Fault, Scenario};
use crate::trace::Trace;

/// A step of a job that the agent itself takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStep {
    /// The first one.
    Begin,
    /// The checkpoint before a stop is done.
    Signal,
    /// Look whether it is done.
    Poll,
    /// SIGQUIT.
    Escalate,
    /// SIGKILL.
    Kill,
    /// The deadline passed.
    Deadline,
    /// The child process ended well, or not.
    ChildEnded(bool),
}

/// Something that will happen.
#[derive(Debug)]
pub enum Event {
    /// The agent's timer.
    Wake { node: usize, life: u32 },
    /// An input arrives at the core.
    Deliver { node: usize, life: u32, input: Box<Input> },
    /// An observation is made at its end rather than at its beginning.
    Observe { node: usize, life: u32, id: RequestId, asked_at: Instant },
    /// The others look at their PostgreSQL again and answer.
    PeersAnswer { node: usize, life: u32, id: RequestId, asked_at: Instant, peers: Vec<usize>, give_up_at: u64 },
    /// The agent goes on with its job.
    Job { node: usize, life: u32, id: JobId, step: JobStep },
    /// SIGQUIT becomes SIGKILL.
    FenceKill { node: usize, life: u32, pg_life: u64 },
    /// The agent starts.
    AgentStart { node: usize },
    /// A child process of a job ends.
    ChildEnds { node: usize, life: u32, id: JobId },
    /// A request reaches the store.
    StoreArrives { node: usize, life: u32, id: RequestId, request: Box<StoreRequest>, give_up_at: u64 },
    /// A lease may be over.
    LeaseCheck { lease: i64 },
    /// PostgreSQL accepts connections.
    PgReady { node: usize, life: u64 },
    /// The postmaster ends.
    PgExit { node: usize, life: u64, clean: bool },
    /// The promotion is done.
    PgPromoted { node: usize, life: u64 },
    /// The checkpoint after a promotion is done.
    PgCheckpoint { node: usize, life: u64 },
    /// A standby tries to reach its upstream.
    WalConnect { node: usize, life: u64 },
    /// WAL arrives.
    WalDeliver { node: usize, stream: u64 },
    /// A client writes.
    ClientWrite,
    /// A stopped agent goes on.
    Continue { node: usize },
    /// The store gets out of reach of a node, or back.
    Reach { node: usize, cut: bool },
    /// An order reaches the guard.
    GuardHears { node: usize, life: u32, agent: u32, order: Order },
    /// The guard's deadline.
    GuardTimer { node: usize, life: u32, kill_at: Instant },
    /// The guard's SIGQUIT becomes SIGKILL.
    GuardKills { node: usize, life: u32 },
    /// The guard should have answered by now.
    GuardSilence { node: usize, agent: u32, life: u32, asked_at: u64 },
    /// The watchdog bites, unless it was fed.
    DogBites { node: usize },
    /// A box comes back after a reset.
    Reset { node: usize, resets: u32 },
    /// The kernel's lifetime of an address ends, unless it was renewed.
    VipExpires { node: usize, role: VipRole },
    /// An address is announced.
    VipAnnounced { node: usize, role: VipRole },
    /// A fault of the schedule.
    Fault(usize),
    /// Its end.
    FaultEnds(usize),
}

/// Who must be able to run for an event to happen.
enum Audience {
    Agent(usize),
    Guard(usize),
    Box(usize),
    World,
}

impl Event {
    fn audience(&self) -> Audience {
        match *self {
            Event::Wake { node, .. }
            | Event::Deliver { node, .. }
            | Event::Observe { node, .. }
            | Event::Job { node, .. }
            | Event::GuardSilence { node, .. }
            | Event::FenceKill { node, .. } => Audience::Agent(node),
            Event::GuardHears { node, .. } | Event::GuardTimer { node, .. } | Event::GuardKills { node, .. } => Audience::Guard(node),
            Event::ChildEnds { node, .. }
            | Event::PgReady { node, .. }
            | Event::PgExit { node, .. }
            | Event::PgPromoted { node, .. }
            | Event::PgCheckpoint { node, .. }
            | Event::VipExpires { node, .. }
            | Event::WalConnect { node, .. }
            | Event::WalDeliver { node, .. } => Audience::Box(node),
            _ => Audience::World,
        }
    }
}

#[derive(Debug)]
struct Entry {
    at: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// The world.
pub struct World {
    /// World time, milliseconds.
    pub now: u64,
    sequence: u64,
    heap: BinaryHeap<Reverse<Entry>>,
    /// Options of the run.
    pub options: Options,
    /// The faults.
    pub faults: Vec<Fault>,
    /// The boxes.
    pub nodes: Vec<Node>,
    /// Their names.
    pub names: Vec<String>,
    /// The store.
    pub store: Store,
    /// The network.
    pub net: Network,
    /// The clients.
    pub clients: Clients,
    /// The promises.
    pub checks: Checks,
    /// The first broken one.
    pub violation: Option<Violation>,
    /// The log of the run.
    pub trace: Trace,
    /// Unique numbers for WAL records and connections.
    pub next_unique: u64,
    /// `/status` when the present holder took the key.
    pub optime_at_acquire: u64,
    /// When the store last lost keys that it should have kept: what was decided by them just before may be wrong.
    pub wiped_at: Option<u64>,
    /// Faults are over.
    pub healed: bool,
    holder: Option<usize>,
    /// Steps of all cores.
    pub steps: u64,
    /// Operator's commands so far.
    pub commands: u64,
    pub(super) actions: Vec<Action>,
}

impl World {
    /// A world at its first moment.
    pub fn new(scenario: &Scenario, trace: Trace) -> World {
        let options = scenario.options.clone();
        let count = options.nodes;
        let mut world = World {
            now: 0,
            sequence: 0,
            heap: BinaryHeap::new(),
            faults: scenario.faults.clone(),
            nodes: (0..count).map(|index| Node::new(index, &options)).collect(),
            names: names(count).into_iter().map(|name| name.0).collect(),
            store: Store::new(names(count)),
            net: Network::new(count, options.seed, options.loss),
            clients: Clients::new(options.seed, options.write_ms),
            checks: Checks::new(&options),
            violation: None,
            trace,
            next_unique: 1,
            optime_at_acquire: 0,
            wiped_at: None,
            healed: false,
            holder: None,
            steps: 0,
            commands: 0,
            actions: Vec::new(),
            options,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for node in 0..self.nodes.len() {
            let at = self.nodes[node].rng.below(3_000);
            self.push(at, Event::AgentStart { node });
        }
        if self.options.foreign {
            self.make_foreign(self.nodes.len() - 1);
        }
        for index in 0..self.faults.len() {
            self.push(self.faults[index].at, Event::Fault(index));
        }
        self.push(1_000, Event::ClientWrite);
    }

    /// A number that was never used.
    pub fn unique(&mut self) -> u64 {
        self.next_unique += 1;
        self.next_unique
    }

    /// Puts an event on the heap.
    pub fn push(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.heap.push(Reverse(Entry { at: at.max(self.now), sequence: self.sequence, event }));
    }

    /// Puts an event on the heap, so many milliseconds from now.
    pub fn after(&mut self, delay: u64, event: Event) {
        self.push(self.now + delay, event);
    }

    /// Runs until a world time, or until a promise is broken.
    pub fn run_until(&mut self, end: u64) {
        while self.violation.is_none() {
            match self.heap.peek() {
                Some(Reverse(entry)) if entry.at <= end => {}
                _ => break,
            }
            let Some(Reverse(entry)) = self.heap.pop() else { break };
            self.now = entry.at;
            if let Some(violation) = self.checks.time(self.now) {
                self.violation = Some(violation);
                return;
            }
            self.route(entry.event);
        }
        self.now = self.now.max(end);
    }

    /// Lets an event happen, or keeps it for those who cannot run at the moment.
    fn route(&mut self, event: Event) {
        match event.audience() {
            Audience::Agent(node) if !self.nodes[node].agent_runs() => {
                let node = &mut self.nodes[node];
                if node.power != Power::Off && node.agent.process != Process::Dead {
                    node.agent.deferred.push_back(event);
                }
            }
            Audience::Guard(node) if self.nodes[node].guard.stopped => self.nodes[node].guard.deferred.push_back(event),
            Audience::Guard(node) | Audience::Box(node) if self.nodes[node].power == Power::Suspended => {
                self.nodes[node].deferred.push_back(event)
            }
            _ => self.happen(event),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake { node, life } => self.wake(node, life),
            Event::Deliver { node, life, input } => self.deliver(node, life, *input),
            Event::Observe { node, life, id, asked_at } => self.observed(node, life, id, asked_at),
            Event::PeersAnswer { node, life, id, asked_at, peers, give_up_at } => {
                self.peers_answer(node, life, id, asked_at, &peers, give_up_at);
            }
            Event::Job { node, life, id, step } => self.job_step(node, life, id, step),
            Event::FenceKill { node, life, pg_life } => {
                if self.nodes[node].agent.life == life && self.nodes[node].pg.life == pg_life {
                    self.pg_kill(node);
                }
            }
            Event::AgentStart { node } => self.agent_start(node),
            Event::ChildEnds { node, life, id } => self.child_ends(node, life, id),
            Event::StoreArrives { node, life, id, request, give_up_at } => self.store_arrives(node, life, id, *request, give_up_at),
            Event::LeaseCheck { lease } => self.lease_check(lease),
            Event::PgReady { node, life } => self.pg_ready(node, life),
            Event::PgExit { node, life, clean } => self.pg_exit_due(node, life, clean),
            Event::PgPromoted { node, life } => self.pg_promoted(node, life),
            Event::PgCheckpoint { node, life } => self.pg_checkpointed(node, life),
            Event::WalConnect { node, life } => self.wal_connect(node, life),
            Event::WalDeliver { node, stream } => self.wal_deliver(node, stream),
            Event::ClientWrite => self.client_write(),
            Event::Continue { node } => self.agent_continue(node),
            Event::Reach { node, cut } => self.reach(node, cut),
            Event::GuardHears { node, life, agent, order } => self.guard_hears(node, life, agent, order),
            Event::GuardTimer { node, life, kill_at } => self.guard_timer(node, life, kill_at),
            Event::GuardKills { node, life } => self.guard_kills(node, life),
            Event::GuardSilence { node, agent, life, asked_at } => self.guard_silence(node, agent, life, asked_at),
            Event::DogBites { node } => self.dog_bites(node),
            Event::Reset { node, resets } => self.reset_ends(node, resets),
            Event::VipExpires { node, role } => self.vip_expires(node, role),
            Event::VipAnnounced { node, role } => self.vip_announced(node, role),
            Event::Fault(index) => self.fault(index),
            Event::FaultEnds(index) => self.fault_ends(index),
        }
    }

    /// Tells the checkers.
    pub fn fact(&mut self, fact: Fact) {
        if self.trace.is_on() {
            self.trace.fact(self.now, &fact);
        }
        if self.violation.is_none() {
            self.violation = self.checks.fact(self.now, &fact);
        }
    }

    /// A line about something that the model did.
    pub fn note(&mut self, node: usize, text: impl FnOnce() -> String) {
        if self.trace.is_on() {
            let name = self.names.get(node).map_or("store", String::as_str);
            self.trace.event(self.now, name, &text());
        }
    }

    /// Compares the store's truth with what the checkers know.
    pub fn tell_holder(&mut self) {
        let holder = self.store.holder();
        if holder != self.holder {
            self.holder = holder;
            if holder.is_some() {
                self.optime_at_acquire = self.store.view().status.optime.map_or(0, |lsn| lsn.0);
            }
            self.fact(Fact::Holder(holder));
        }
    }

    /// Tells the checkers whether a fence beside the agent stands behind a node's PostgreSQL.
    pub fn tell_fences(&mut self, node: usize) {
        let target = &mut self.nodes[node];
        let standing = target.guard.stands() || target.dog.counting.is_some();
        if standing != target.told_fenced {
            target.told_fenced = standing;
            self.fact(Fact::Fenced { node, standing });
        }
    }

    /// Looks for primaries that write under their key without an armed guard.
    pub fn look_for_unguarded(&mut self) {
        if !self.options.guard || self.store.view().is_paused() {
            return;
        }
        for node in 0..self.nodes.len() {
            let (now, target) = (self.now, &mut self.nodes[node]);
            let boot = target.clock.now(now);
            let leads = target.agent.machine.as_ref().is_some_and(|machine| {
                let memory = machine.memory();
                memory.lock && memory.lease.is_some_and(|lease| lease.guard_at() > boot)
            });
            let guarded = target.guard.alive && target.guard.armed.is_some();
            let bare = target.agent_runs() && leads && target.pg.is_writable() && !guarded && !target.guard.broken;
            target.unguarded_since = if bare { target.unguarded_since.or(Some(now)) } else { None };
            // A frozen agent may have slept through it, and the next guard may have been hit, too.
            if let Some(since) = target.unguarded_since.map(|since| since.max(target.agent.runs_since).max(target.guard.hurt_at)) {
                self.fact(Fact::Unguarded { node, for_ms: now - since });
            }
        }
    }

    /// Tells the checkers whether a node's PostgreSQL accepts writes.
    pub fn tell_writable(&mut self, node: usize) {
        let now = self.now;
        self.nodes[node].calm_since = now;
        let pg = &mut self.nodes[node].pg;
        let on = pg.is_writable();
        if on != pg.told_writable {
            pg.told_writable = on;
            self.fact(Fact::Writable { node, on });
        }
    }

    /// Tells the checkers whether an agent runs.
    pub fn tell_agent(&mut self, node: usize, was: bool, fresh: bool) {
        let running = self.nodes[node].agent_runs();
        if running {
            self.nodes[node].agent.runs_since = self.now;
        }
        if running != was || fresh {
            self.fact(Fact::Agent { node, running, fresh });
        }
    }

    /// Gives an agent that can run again what it missed; now and then its timer is first.
    pub fn resume_agent(&mut self, node: usize) {
        if !self.nodes[node].agent_runs() {
            return;
        }
        let life = self.nodes[node].agent.life;
        if self.nodes[node].rng.chance(500) {
            self.push(self.now, Event::Wake { node, life });
        }
        for event in std::mem::take(&mut self.nodes[node].agent.deferred) {
            self.push(self.now, event);
        }
        self.push(self.now + 1, Event::Wake { node, life });
    }

    /// Whether a deliberately broken rule is in force.
    pub fn is_mutated(&self, mutation: Mutation) -> bool {
        self.options.mutation == Some(mutation)
    }
}
