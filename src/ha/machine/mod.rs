//! The state machine around [`decide`]: what is in flight, when to look again, which replies are stale.
//!
//! One cycle is: read the store, look at PostgreSQL, decide, act, report. `loop_wait` is the longest pause between two; every
//! event that may matter starts one at once. The lease is watched on every step, whatever is in flight.

mod act;
mod address;
mod command;
mod fences;
mod jobs;
mod observe;
mod report;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::action::{Action, StoreRequest};
use super::config::HaConfig;
use super::decide::{decide, BootstrapStep, Decision, Facts, JobKind, Memory, CARRIER_PATIENCE, UNLOCKED_LIMIT};
use super::input::{Input, Progress, RestartRequest, Signal};
use super::lease::LeaseClock;
use super::types::{Instant, JobId, LeaseId, Millis, RequestId, Revision};
use super::verdict::Verdict;
use super::view::{ClusterView, DcsHealth, Initialize, NodeView, PgState, Role};

/// The core's state between two inputs.
#[derive(Debug)]
pub struct Machine {
    config: Arc<HaConfig>,
    memory: Memory,
    now: Instant,
    next_id: u64,
    cluster: Option<Arc<ClusterView>>,
    node: Option<Arc<NodeView>>,
    flight: Flight,
    timers: Timers,
    /// Views of the store that were asked for before this are stale: we wrote to it since.
    view_floor: Instant,
    /// The same as a number: two things in one millisecond are told apart by the order of their requests.
    first_fresh_read: RequestId,
    /// Observations that were started before this are stale: a job ended since.
    node_floor: Instant,
    /// The same as a number, see above.
    first_fresh_look: RequestId,
    /// No look since then was answered.
    node_is_old: bool,
    /// The length that our lease was granted for.
    asked_ttl: Millis,
    /// A lease that replaces ours once the leader key hangs on it.
    next_lease: Option<LeaseClock>,
    verdict: Option<Verdict>,
    said_at: Instant,
    commands: Vec<command::Waiting>,
    scheduled_restart: Option<RestartRequest>,
    progress: Option<Progress>,
    member: report::MemberDocument,
    checkpoint_pending: bool,
    dcs_seen_at: Option<Instant>,
    /// When `/status` was written last, with which slots.
    status_written: Option<(Instant, Vec<String>)>,
    fences: fences::Fences,
    vips: address::Vips,
    /// The promotion ended well, and no look since then was answered: PostgreSQL itself said that it is writable.
    just_promoted: bool,
    exit_code: Option<i32>,
}

/// Requests that wait for an answer.
#[derive(Debug, Default)]
struct Flight {
    read: Option<Pending>,
    observe: Option<Pending>,
    renew: Option<Pending>,
    /// The length that it asks for.
    renew_ttl: Millis,
    peers: Option<Pending>,
    upstream: Option<(Pending, super::types::MemberName)>,
    writes: BTreeMap<RequestId, WriteKind>,
    fenced_at: Option<Instant>,
}

/// One request.
#[derive(Clone, Copy, Debug)]
struct Pending {
    id: RequestId,
    sent_at: Instant,
}

/// What a write to the store was for. At most one of each kind is in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
enum WriteKind {
    Acquire {
        lease: LeaseId,
    },
    Repair {
        lease: LeaseId,
    },
    Release,
    Member,
    Claim,
    SetInitialize,
    CancelInitialize,
    Config,
    Status,
    Failover,
    History,
    /// Of an operator's command.
    Command(super::types::ReplyId),
}

/// When to do what by itself.
#[derive(Debug)]
struct Timers {
    cycle_at: Instant,
    cycle_started_at: Instant,
    observe_at: Option<Instant>,
    observe_pause: Millis,
    renew_at: Instant,
    /// Something that is decided by will have lasted long enough.
    decide_at: Option<Instant>,
}

/// What a fact leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    /// Nothing.
    Sleep,
    /// Decide with what is known.
    Decide,
    /// Look at everything again, then decide.
    Cycle,
}

impl Machine {
    /// A core that has seen nothing yet. The first step starts a cycle.
    #[must_use]
    pub fn new(config: HaConfig, now: Instant) -> Machine {
        let vips = address::Vips::new(&config.vip_roles);
        Machine {
            config: Arc::new(config),
            // Until PostgreSQL was seen it may be a primary: one that an earlier life of the agent left, and that does not answer.
            memory: Memory { race_not_before: Instant(0), ..Memory::default() },
            now,
            next_id: 1,
            cluster: None,
            node: None,
            flight: Flight::default(),
            timers: Timers {
                cycle_at: now,
                cycle_started_at: now,
                observe_at: None,
                observe_pause: POLL_FASTEST,
                renew_at: now,
                decide_at: None,
            },
            view_floor: Instant(0),
            first_fresh_read: RequestId(0),
            node_floor: Instant(0),
            first_fresh_look: RequestId(0),
            node_is_old: false,
            asked_ttl: Millis::ZERO,
            next_lease: None,
            verdict: None,
            said_at: Instant(0),
            commands: Vec::new(),
            scheduled_restart: None,
            progress: None,
            member: report::MemberDocument::default(),
            checkpoint_pending: false,
            dcs_seen_at: None,
            status_written: None,
            fences: fences::Fences::default(),
            vips,
            just_promoted: false,
            exit_code: None,
        }
    }

    /// The configuration in effect.
    #[must_use]
    pub fn config(&self) -> &HaConfig {
        &self.config
    }

    /// What is remembered; for replay, traces and checkers.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Takes one fact and appends the effects that follow from it, in order. `now` never goes back.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Vec<Action>) {
        assert!(now >= self.now, "the boot clock does not go back");
        self.now = now;
        if self.exit_code.is_some() {
            return;
        }
        let mut wake = self.take(input, out);
        if self.watch_lease(out) {
            wake = Wake::Decide;
        }
        if self.timers.decide_at.take_if(|at| now >= *at).is_some() && wake == Wake::Sleep {
            wake = Wake::Decide;
        }
        match wake {
            Wake::Sleep => {}
            Wake::Decide => self.evaluate(out),
            Wake::Cycle => self.timers.cycle_at = self.now,
        }
        self.tend_fences(out);
        self.tend_vips(out);
        self.run_timers(out);
    }

    fn take(&mut self, input: Input, out: &mut Vec<Action>) -> Wake {
        match input {
            Input::Tick => Wake::Sleep,
            Input::Config(config) => {
                self.config = Arc::new(*config);
                Wake::Cycle
            }
            Input::Store { id, outcome } => self.take_store(id, outcome, out),
            Input::Refresh => {
                self.timers.observe_at = Some(self.now);
                Wake::Sleep
            }
            Input::StoreChanged | Input::ClockJumped { .. } => Wake::Cycle,
            Input::Observed { id, node } => self.take_observation(id, *node),
            Input::Unfinished(left) => {
                self.memory.left_unfinished = Some(left);
                Wake::Sleep
            }
            Input::PostmasterExited => {
                self.just_promoted = false;
                self.distrust_older_looks();
                self.timers.observe_at = Some(self.now);
                Wake::Cycle
            }
            Input::Peers { id, view } => self.take_peers(id, view),
            Input::Upstream { id, result } => self.take_upstream(id, result),
            Input::JobExited { id, outcome } => self.take_job_exit(id, outcome, out),
            Input::JobProgress { id, done, total } => {
                if self.memory.job.as_ref().is_some_and(|job| job.id == id) {
                    self.progress = Some(Progress { done, total, at: self.now });
                    self.publish(out);
                }
                Wake::Sleep
            }
            Input::TaskDone(task) => self.take_task_done(&task),
            Input::Command { reply, command } => self.take_command(reply, command, out),
            Input::WallClock(wall) => {
                self.memory.wall = wall;
                Wake::Sleep
            }
            Input::Signal(Signal::Terminate) => self.take_terminate(out),
            Input::Watchdog(report) => self.take_watchdog(report, out),
            Input::Guard(report) => self.take_guard(report, out),
            Input::Carrier { lost } => self.take_carrier(lost),
        }
    }

    fn take_carrier(&mut self, lost: bool) -> Wake {
        self.memory.carrier_lost_at = lost.then(|| self.memory.carrier_lost_at.unwrap_or(self.now));
        self.timers.decide_at = self.memory.carrier_lost_at.map(|at| at + CARRIER_PATIENCE);
        Wake::Cycle
    }

    fn take_terminate(&mut self, out: &mut Vec<Action>) -> Wake {
        self.memory.terminate = true;
        // A promotion that replays a lot of WAL may take long; PostgreSQL is stopped next, which ends what was requested.
        if self.memory.job.as_ref().is_some_and(|job| matches!(job.kind, JobKind::Copy | JobKind::Rewind) || job.name == "promote") {
            self.cancel_job(out);
        }
        Wake::Cycle
    }

    fn take_peers(&mut self, id: RequestId, mut view: super::view::PeersView) -> Wake {
        let Some(pending) = self.flight.peers.take_if(|pending| pending.id == id) else { return Wake::Sleep };
        view.asked_at = pending.sent_at;
        self.memory.peers = Some(view);
        Wake::Decide
    }

    fn take_upstream(&mut self, id: RequestId, result: Result<super::view::UpstreamHistory, String>) -> Wake {
        let Some((pending, member)) = self.flight.upstream.take_if(|(pending, _)| pending.id == id) else {
            return Wake::Sleep;
        };
        self.memory.upstream_failures = if result.is_ok() { 0 } else { self.memory.upstream_failures.saturating_add(1) };
        let outdated = self.memory.stream_progress_at.is_some_and(|at| at > pending.sent_at);
        let answer = super::decide::UpstreamAnswer { asked_at: pending.sent_at, member, history: result.ok() };
        self.memory.upstream = (!outdated).then_some(answer);
        Wake::Decide
    }

    fn take_task_done(&mut self, task: &super::action::Task) -> Wake {
        if *task == super::action::Task::Checkpoint && self.checkpoint_pending {
            self.checkpoint_pending = false;
            return Wake::Decide;
        }
        Wake::Sleep
    }

    /// Decides, if every fact that was asked for is in. The end of a cycle.
    fn evaluate(&mut self, out: &mut Vec<Action>) {
        if self.flight.read.is_some() && self.memory.dcs == DcsHealth::NeverSeen {
            return;
        }
        let Some(node) = self.node.clone().filter(|_| !self.node_is_old) else { return };
        let cluster = self.cluster.clone().unwrap_or_default();
        self.remember_before_decision(&cluster, &node);
        self.judge_adopted(&cluster, &node);
        self.give_up_lost_bootstrap(&cluster, out);
        let facts = Facts { config: &self.config, cluster: &cluster, node: &node, memory: &self.memory, now: self.now };
        let decision = decide(&facts);
        self.say(&decision, out);
        self.apply(&cluster, &node, decision, out);
        if self.exit_code.is_none() {
            self.answer_commands(&cluster, out);
            self.write_member(&cluster, &node, out);
            self.write_status(&cluster, &node, out);
            self.publish(out);
        }
    }

    fn remember_before_decision(&mut self, cluster: &ClusterView, node: &NodeView) {
        let writable = may_write(node, self.memory.promotion_open);
        let memory = &mut self.memory;
        if memory.lock {
            // Asked of a standby. The leader's data is the cluster's, and an old order must not remove it at some later change of roles.
            memory.reinitialize = None;
        }
        if memory.lock || !writable {
            memory.unlocked_since = None;
        } else if memory.unlocked_since.is_none() {
            memory.unlocked_since = Some(self.now);
        }
        if memory.dcs == DcsHealth::Good {
            if cluster.leader.is_some() {
                memory.leaderless_since = None;
            } else if memory.leaderless_since.is_none() {
                memory.leaderless_since = Some(self.now);
            }
        }
        let down = matches!(node.pg, PgState::Stopped(_) | PgState::Starting { .. });
        if memory.lock && down && !memory.handover && !memory.terminate && memory.job.is_none() && memory.crashed_at.is_none() {
            memory.crashed_at = Some(self.now);
        }
        if !memory.lock && cluster.leader_name().is_some_and(|leader| *leader != self.config.me) {
            memory.handover = false;
        }
        if memory.bootstrap == BootstrapStep::Done && cluster.system_id().is_some() && cluster.system_id() == node.pg.system_id() {
            memory.bootstrap = BootstrapStep::None;
        }
        self.take_due_restart();
    }

    /// The heart of promise 1: whatever is in flight, a primary does not outlive its lease. Returns whether a decision is due.
    fn watch_lease(&mut self, out: &mut Vec<Action>) -> bool {
        let Some(node) = self.node.clone() else { return false };
        let job_writes = self.memory.job.as_ref().is_some_and(|job| job.kind == JobKind::Writable);
        if !may_write(&node, self.memory.promotion_open) && !job_writes {
            return false;
        }
        if self.cluster.as_ref().is_some_and(|cluster| cluster.is_paused()) && !job_writes {
            return false;
        }
        if !self.memory.lock {
            if job_writes {
                self.fence("the leader key was lost", out);
                return false;
            }
            if self.memory.dcs == DcsHealth::NeverSeen {
                return false;
            }
            // Whoever else must answer first (a read of the store that hangs): the decision is due.
            let since = *self.memory.unlocked_since.get_or_insert(self.now);
            return self.memory.job.is_none() && self.now.since(since) > UNLOCKED_LIMIT;
        }
        let Some(lease) = self.memory.lease else { return false };
        if self.now >= lease.fence_at() {
            self.memory.lock = false;
            self.fence("the lease ends", out);
            return true;
        }
        self.now >= lease.stop_at()
    }

    /// Our database is being made and somebody else leads, or the claim is not ours any more: it must not come up beside theirs.
    fn give_up_lost_bootstrap(&mut self, cluster: &ClusterView, out: &mut Vec<Action>) {
        if self.memory.bootstrap != BootstrapStep::Claimed || self.memory.job.is_none() || self.memory.dcs != DcsHealth::Good {
            return;
        }
        let somebody_leads = cluster.leader_name().is_some_and(|leader| *leader != self.config.me);
        if somebody_leads || cluster.initialize != Some(Initialize::InProgress) {
            self.log(log::Level::Error, "giving the bootstrap up: somebody else was quicker", out);
            self.cancel_job(out);
            out.push(Action::Fence { kill_after: FENCE_KILL_AFTER });
        }
    }

    fn fence(&mut self, why: &str, out: &mut Vec<Action>) {
        if self.flight.fenced_at.is_some_and(|at| self.now.since(at) < FENCE_AGAIN) {
            return;
        }
        self.flight.fenced_at = Some(self.now);
        self.log(log::Level::Error, format!("killing PostgreSQL because {why}"), out);
        if self.memory.job.as_ref().is_some_and(|job| job.kind != JobKind::Stop) {
            self.cancel_job(out);
        }
        self.just_promoted = false;
        self.drop_vips(out);
        out.push(Action::Fence { kill_after: FENCE_KILL_AFTER });
    }

    fn run_timers(&mut self, out: &mut Vec<Action>) {
        if self.exit_code.is_some() {
            return;
        }
        if self.flight.renew.is_none() && self.now >= self.timers.renew_at {
            self.send_renew(out);
        }
        if self.now >= self.timers.cycle_at && self.flight.read.is_none() {
            self.start_cycle(out);
        }
        if self.timers.observe_at.is_some_and(|at| self.now >= at) && self.flight.observe.is_none() {
            self.send_observe(out);
        }
    }

    fn start_cycle(&mut self, out: &mut Vec<Action>) {
        self.timers.cycle_started_at = self.now;
        self.timers.cycle_at = self.now + self.cycle_pause();
        let id = self.new_id();
        self.flight.read = Some(Pending { id, sent_at: self.now });
        out.push(Action::Store { id, request: StoreRequest::Read, deadline: self.read_deadline() });
        if self.flight.observe.is_none() {
            self.send_observe(out);
        }
    }

    /// Time until the next cycle begins by itself.
    fn cycle_pause(&self) -> Millis {
        let healthy = self.memory.dcs == DcsHealth::Good;
        let settled = matches!(
            self.verdict,
            Some(Verdict::Leading | Verdict::Following(_) | Verdict::Busy(_) | Verdict::Paused(_) | Verdict::NotAllowed)
        );
        if healthy && settled {
            self.config.loop_wait
        } else {
            Millis(self.config.loop_wait.0.min(1_000))
        }
    }

    fn read_deadline(&self) -> Millis {
        // Half of the retry budget, so that a second attempt fits before a leader's lease is in danger.
        Millis((self.config.retry_timeout.0 / 2).clamp(500, 5_000))
    }

    fn send_observe(&mut self, out: &mut Vec<Action>) {
        let id = self.new_id();
        self.flight.observe = Some(Pending { id, sent_at: self.now });
        self.timers.observe_at = None;
        let deadline = Millis((self.config.retry_timeout.0 / 2).clamp(500, 3_000));
        out.push(Action::Observe { id, deadline });
    }

    fn new_id(&mut self) -> RequestId {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        id
    }

    fn new_job_id(&mut self) -> JobId {
        JobId(self.new_id().0)
    }

    /// When [`Input::Tick`] is due at the latest. Waking earlier is harmless, waking later is not.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        let mut at = self.now + MAX_SLEEP;
        let mut earlier = |other: Option<Instant>| at = other.map_or(at, |other| at.min(other));
        // A cycle that is overdue waits for its read, which has a deadline of its own.
        if self.flight.read.is_none() {
            earlier(Some(self.timers.cycle_at));
        }
        if self.flight.renew.is_none() {
            earlier(Some(self.timers.renew_at));
        }
        if self.flight.observe.is_none() {
            earlier(self.timers.observe_at);
        }
        if let Some(lease) = self.memory.lease.filter(|_| self.memory.lock) {
            let next = if self.now < lease.stop_at() { lease.stop_at() } else { lease.fence_at() };
            earlier((self.now < next).then_some(next));
        }
        if let (Some(since), false, None) = (self.memory.unlocked_since, self.memory.lock, &self.memory.job) {
            let due = since + UNLOCKED_LIMIT + Millis(1);
            earlier((self.now < due).then_some(due));
        }
        earlier(self.fences_deadline());
        earlier(self.timers.decide_at);
        earlier(self.vips_deadline());
        at.max(self.now + Millis(1))
    }

    fn log(&self, level: log::Level, text: impl Into<String>, out: &mut Vec<Action>) {
        out.push(Action::Log { level, text: text.into() });
    }

    /// Says the verdict: at once when it changed, else as a heartbeat once a cycle.
    fn say(&mut self, decision: &Decision, out: &mut Vec<Action>) {
        let sentence = decision.verdict.sentence(&self.config.me);
        if self.verdict.as_ref() == Some(&decision.verdict) {
            if self.said_at < self.timers.cycle_started_at {
                self.said_at = self.now;
                out.push(Action::Heartbeat(sentence));
            }
        } else {
            self.said_at = self.now;
            self.log(log::Level::Info, sentence, out);
            self.verdict = Some(decision.verdict.clone());
        }
    }

    /// The revision of the leader key that was seen last.
    fn leader_revision(&self) -> Option<Revision> {
        self.cluster.as_ref()?.leader.as_ref().map(|leader| leader.revision)
    }
}

/// Whether PostgreSQL on this box writes, or would as soon as its start is through.
fn may_write(node: &NodeView, promotion_open: bool) -> bool {
    match &node.pg {
        PgState::Unresponsive { as_standby } => !as_standby,
        PgState::Running(running) => running.role == Role::Primary || promotion_open,
        // One that stops may let its sessions go on until they end by themselves, and orphans of a dead postmaster may still commit.
        PgState::Starting { as_standby, .. } => !as_standby,
        _ => false,
    }
}

/// A start-up is looked at this often in the beginning,
const POLL_FASTEST: Millis = Millis(20);
/// and this often in the end.
const POLL_SLOWEST: Millis = Millis(1_000);
/// Longest sleep.
const MAX_SLEEP: Millis = Millis(60_000);
/// SIGQUIT becomes SIGKILL after this.
const FENCE_KILL_AFTER: Millis = Millis(200);
/// A fence is repeated after this, as long as something may write.
const FENCE_AGAIN: Millis = Millis(500);
