//! One run: a phase with faults, the healing, and the wait until everything is whole and quiet.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};

use mastiff::ha::fence::VipRole;
use mastiff::ha::input::Unfinished;
use mastiff::ha::view::ControlState;

use crate::checkers::progress::{Bounds, Health, Progress, Verdict};
use crate::checkers::Violation;
use crate::model::node::{Node, Power};
use crate::model::postgres::{Data, Proc};
use crate::model::world::World;
use crate::options::DogMode;
use crate::schedule::{Kind, Scenario};
use crate::trace::Trace;

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The first broken promise.
    pub violation: Option<Violation>,
    /// Lines and hash of the trace.
    pub hash: (u64, u64),
    /// Steps of all cores.
    pub steps: u64,
    /// Acknowledged commits.
    pub acknowledged: u64,
    /// Timelines that were begun.
    pub timeline: u32,
    /// Simulated milliseconds.
    pub simulated: u64,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on a panic is kept for [`run`] instead of being printed.
pub fn catch_panics() {
    panic::set_hook(Box::new(|info| PANIC.with(|kept| *kept.borrow_mut() = Some(info.to_string()))));
}

/// Runs a scenario. A panic in the core is a broken promise like any other.
pub fn run(scenario: &Scenario, trace: Trace) -> Outcome {
    let mut world = World::new(scenario, trace);
    world.trace.header();
    let result = panic::catch_unwind(AssertUnwindSafe(|| play(&mut world)));
    if result.is_err() {
        let text = PANIC.with(|kept| kept.borrow_mut().take()).unwrap_or_default().replace('\n', " ");
        world.violation = Some(Violation { invariant: "assert", at: world.now, text });
    }
    let timeline = world.nodes.iter().map(|node| node.pg.timeline()).max().unwrap_or(0);
    Outcome {
        violation: world.violation.take(),
        hash: world.trace.hash(),
        steps: world.steps,
        acknowledged: world.clients.acknowledged,
        timeline,
        simulated: world.now,
    }
}

fn play(world: &mut World) {
    world.run_until(world.options.safety_s * 1000);
    if world.violation.is_some() {
        return;
    }
    world.heal();
    let mut progress = Progress::new(world.now, bounds(world));
    while world.violation.is_none() {
        world.run_until(world.now + 500);
        if world.violation.is_some() {
            return;
        }
        let health = health(world);
        match progress.look(world.now, &health) {
            Verdict::Wait => {}
            Verdict::Passed => return,
            Verdict::Failed(text) => world.violation = Some(Violation { invariant: "L1", at: world.now, text }),
        }
    }
}

fn bounds(world: &World) -> Bounds {
    let options = &world.options;
    let patched = options.kinds.contains(&Kind::PatchConfig);
    let ttl = if patched { options.ttl_s.max(60) } else { options.ttl_s } * 1000;
    let loop_wait = if patched { options.loop_wait_s.max(10) } else { options.loop_wait_s } * 1000;
    // Boot of a box, a stop that hangs, crash recovery and promotion, one after the other.
    let slow = options.slow_percent.max(100);
    let work = 25_000 + 30_000 + 30_000 * slow / 100;
    let led = ttl + 2 * loop_wait + work;
    let whole = led + 120_000 * slow / 100 + 6 * loop_wait + 60_000;
    // The standbys' address changes hands after a lifetime.
    let turn = if options.standby_vip { ttl + 2 * loop_wait } else { 0 };
    Bounds { led, whole, settle: 3 * loop_wait + 10_000 + turn, quiet: 10 * loop_wait }
}

/// The state of the world, by the model's truth.
fn health(world: &World) -> Health {
    let leader = world.store.holder().filter(|&holder| world.nodes[holder].pg.proc == Proc::Primary);
    let mut health = Health { led: leader.is_some() || nobody_can_lead(world), ..Health::default() };
    let Some(leader) = leader else {
        if health.led {
            return health;
        }
        health.missing.push("nobody leads".to_owned());
        return health;
    };
    let timeline = world.nodes[leader].pg.timeline();
    if world.store.view().failover.is_some() {
        health.missing.push("a switchover or failover is pending".to_owned());
    }
    for node in (0..world.nodes.len()).filter(|&node| node != leader) {
        let pg = &world.nodes[node].pg;
        if pg.stream.is_none() || pg.timeline() != timeline {
            let text = format!("n{} is {:?} on timeline {} of {timeline} and does not stream", node + 1, pg.proc, pg.timeline());
            let list = if is_expected(world, node, leader) { &mut health.missing } else { &mut health.hopeless };
            list.push(text);
        }
    }
    fences_and_addresses(world, leader, &mut health);
    for (index, node) in world.nodes.iter().enumerate().filter(|&(index, _)| index == leader || is_expected(world, index, leader)) {
        if node.last_change.0 > health.last_change {
            health.last_change = node.last_change.0;
            health.changed = format!("n{}: {}", index + 1, node.last_change.1);
        }
    }
    health
}

/// Fences stand behind the leader and behind nobody else; addresses are where they belong, and the clients know it.
fn fences_and_addresses(world: &World, leader: usize, health: &mut Health) {
    let options = &world.options;
    let mut missing = |text: String| health.missing.push(text);
    for (index, node) in world.nodes.iter().enumerate().filter(|(_, node)| node.power == Power::On) {
        let (name, leads) = (index + 1, index == leader);
        let fit = options.dog_mode != DogMode::Off && node.has_watchdog(options);
        let armed = node.dog.counting.is_some();
        if leads && fit && !armed {
            missing(format!("n{name} leads and its watchdog is not armed"));
        }
        if leads && !fit && options.dog_mode == DogMode::Required {
            missing(format!("n{name} leads without the watchdog that is required"));
        }
        if !leads && armed && node.dog.is_stoppable() {
            missing(format!("n{name} is a standby and its watchdog is armed"));
        }
        if options.guard && leads != node.guard.armed.is_some() {
            missing(format!("n{name}: leads is {leads}, its guard is armed until {:?}", node.guard.armed));
        }
        if options.vip && leads != node.vips.contains_key(&VipRole::Primary) {
            missing(format!("n{name}: leads is {leads}, it has the addresses {:?}", node.vips));
        }
    }
    if options.vip && world.clients.caches.iter().any(|cache| cache.get(&VipRole::Primary) != Some(&leader)) {
        missing("a client does not know where the address is".to_owned());
    }
    let holds = |node: &Node| node.vips.contains_key(&VipRole::Standby);
    let streams = |(index, node): (usize, &Node)| index != leader && node.pg.stream.is_some();
    if options.standby_vip && world.nodes.iter().filter(|node| holds(node)).count() != 1 {
        missing("the standbys' address is not in one place".to_owned());
    }
    if options.standby_vip && holds(&world.nodes[leader]) && world.nodes.iter().enumerate().any(streams) {
        missing("the standbys' address is on the leader".to_owned());
    }
}

/// Whether a node must stream once everything is healed. Not, if the configuration allows no way back.
fn is_expected(world: &World, node: usize, leader: usize) -> bool {
    let (target, options) = (&world.nodes[node], &world.options);
    if target.power != Power::On {
        return true;
    }
    let Data::Cluster(ours) = &target.pg.data else { return true };
    let Some(theirs) = world.nodes[leader].pg.cluster() else { return true };
    if ours.system_id != theirs.system_id {
        return false;
    }
    // Known limit (docs/decisions.md): nothing that PostgreSQL shows of its timelines tells twins apart.
    if ours.wal.is_twin_of(&theirs.wal) {
        return false;
    }
    // Known limit: a rewind tore the data, the next one said that none was required, and the agent that saw the starts fail is gone.
    if ours.corrupt && target.marker.is_none() && target.rewound_by != target.agent.life {
        return false;
    }
    // Rewinds failed, and the configuration does not allow a copy: an operator must decide.
    if target.marker == Some(Unfinished::Rewind) && !options.wipe_rewind_failed {
        return false;
    }
    let diverged = !ours.wal.is_prefix_of(&theirs.wal);
    let copies = options.wipe_diverged && options.wipe_rewind_failed;
    // A rewind may repair a diverged one, but need not: it compares less than it should, and it may have failed before.
    copies || (!diverged && !ours.corrupt)
}

/// No member has data that may lead: all are empty (and the cluster was initialised), torn, behind the allowed lag, or of another cluster.
fn nobody_can_lead(world: &World) -> bool {
    let fenced = |node: &Node| world.options.dog_mode != DogMode::Required || node.has_watchdog(&world.options);
    if !world.nodes.iter().any(fenced) {
        return true;
    }
    let view = world.store.view();
    let Some(id) = view.system_id() else { return false };
    let optime = view.status.optime.map_or(0, |lsn| lsn.0);
    let lag = world.options.max_lag;
    let fit = |node: &Node| match &node.pg.data {
        Data::Cluster(cluster) => {
            let behind = optime.saturating_sub(cluster.wal.end()) > lag;
            cluster.system_id == id.0 && !cluster.corrupt && !behind && cluster.state != ControlState::StartingUp
        }
        _ => false,
    };
    !world.nodes.iter().any(|node| fit(node) && fenced(node))
}
