//! Jobs: the agent's own steps, and the child processes that work on the data directory.

use mastiff::ha::action::{Job, StartAs, StopMode, Task, WipeReason};
use mastiff::ha::input::{Input, JobOutcome, Unfinished};
use mastiff::ha::lease::PromotePermit;
use mastiff::ha::types::JobId;
use mastiff::ha::view::ControlState;

use super::node::{index_of, Power, RunningJob};
use super::postgres::{Cluster, Data, Proc};
use super::world::{Event, JobStep, World};
use crate::checkers::{Fact, Touch};
use crate::options::{DogMode, Mutation};

impl World {
    /// The core starts a job.
    pub fn job_begin(&mut self, node: usize, id: JobId, job: Job) {
        if self.nodes[node].agent.job.is_some() {
            self.fact(Fact::Contract { node, what: "a second job beside the one under way" });
            return;
        }
        self.note_unfinished(node, &job);
        let deadline = match &job {
            Job::Bootstrap { deadline } | Job::Start { deadline, .. } | Job::Promote { deadline, .. } | Job::Restart { deadline, .. } => {
                Some(deadline.0)
            }
            _ => None,
        };
        self.nodes[node].works_on_data =
            matches!(job, Job::Bootstrap { .. } | Job::Clone { .. } | Job::Rewind { .. } | Job::RemoveData { .. });
        self.nodes[node].agent.job = Some(RunningJob { id, job, child: false, told: false, second_half: false });
        let fork = self.takes(node, 2, 25);
        self.job_later(node, id, fork, JobStep::Begin);
        if let Some(deadline) = deadline {
            self.job_later(node, id, deadline, JobStep::Deadline);
        }
    }

    fn job_later(&mut self, node: usize, id: JobId, delay: u64, step: JobStep) {
        let life = self.nodes[node].agent.life;
        self.after(delay, Event::Job { node, life, id, step });
    }

    /// The note beside the data directory that the shell writes before such work begins.
    fn note_unfinished(&mut self, node: usize, job: &Job) {
        let marker = &mut self.nodes[node].marker;
        match job {
            Job::Bootstrap { .. } => *marker = Some(Unfinished::Bootstrap),
            Job::Clone { .. } => *marker = Some(Unfinished::Copy),
            Job::Rewind { .. } => *marker = Some(Unfinished::Rewind),
            Job::RemoveData { .. } => *marker = Some(Unfinished::Copy),
            _ => {}
        }
    }

    fn job_ended(&mut self, node: usize, id: JobId, outcome: JobOutcome) {
        if outcome == JobOutcome::Done && self.nodes[node].works_on_data {
            self.nodes[node].marker = None;
        }
        self.nodes[node].agent.job = None;
        self.send(node, 1, Input::JobExited { id, outcome });
    }

    /// The core wants the job to end.
    pub fn job_cancel(&mut self, node: usize, id: JobId) {
        if self.nodes[node].agent.job.as_ref().is_some_and(|job| job.id == id) {
            self.kill_child(node);
            self.job_ended(node, id, JobOutcome::Cancelled);
        }
    }

    /// The agent goes on with its job.
    pub fn job_step(&mut self, node: usize, life: u32, id: JobId, step: JobStep) {
        let agent = &mut self.nodes[node].agent;
        if agent.life != life || agent.job.as_ref().is_none_or(|job| job.id != id) {
            return;
        }
        let Some(mut job) = agent.job.take() else { return };
        let outcome = self.advance(node, &mut job, step);
        match outcome {
            Some(outcome) => self.job_ended(node, id, outcome),
            None => self.nodes[node].agent.job = Some(job),
        }
    }

    fn advance(&mut self, node: usize, job: &mut RunningJob, step: JobStep) -> Option<JobOutcome> {
        if let JobStep::ChildEnded(good) = step {
            return Some(if good { JobOutcome::Done } else { JobOutcome::Failed("the child failed".to_owned()) });
        }
        if step == JobStep::Deadline {
            return Some(JobOutcome::Failed("not done in time".to_owned()));
        }
        match &job.job {
            Job::Stop { .. } => self.advance_stop(node, job, step),
            Job::Start { .. } => self.advance_start(node, job, step),
            Job::Restart { .. } => self.advance_restart(node, job, step),
            Job::Promote { .. } => self.advance_promote(node, job, step),
            Job::Follow { upstream } => {
                let upstream = upstream.as_ref().and_then(|upstream| index_of(&upstream.name));
                Some(self.follow(node, upstream))
            }
            Job::Bootstrap { .. } if job.second_half => {
                let ready = self.nodes[node].pg.is_writable();
                let alive = self.nodes[node].pg.is_alive();
                self.nodes[node].pg.bootstrapping = false;
                match (ready, alive) {
                    (true, _) => Some(JobOutcome::Done),
                    (false, true) => {
                        self.job_later(node, job.id, 100, JobStep::Poll);
                        None
                    }
                    (false, false) => Some(JobOutcome::Failed("PostgreSQL ended".to_owned())),
                }
            }
            _ => self.begin_child(node, job),
        }
    }

    fn advance_stop(&mut self, node: usize, job: &mut RunningJob, step: JobStep) -> Option<JobOutcome> {
        let Job::Stop { mode, checkpoint_first, escalate_after } = &job.job else { return None };
        let (mode, checkpoint_first, escalate_after) = (*mode, *checkpoint_first, *escalate_after);
        if !self.nodes[node].pg.is_alive() {
            return Some(JobOutcome::Done);
        }
        match step {
            JobStep::Begin => {
                if let Some(after) = escalate_after {
                    self.job_later(node, job.id, after.0, JobStep::Escalate);
                }
                if checkpoint_first && self.nodes[node].pg.is_writable() && !self.nodes[node].pg.hung {
                    let takes = self.takes(node, 20, 2_000);
                    self.job_later(node, job.id, takes, JobStep::Signal);
                } else {
                    self.signal_stop(node, job, mode);
                }
            }
            JobStep::Signal => self.signal_stop(node, job, mode),
            JobStep::Escalate => {
                self.pg_immediate(node);
                job.told = true;
                self.job_later(node, job.id, 1_000, JobStep::Kill);
            }
            JobStep::Kill => self.pg_kill_for_job(node, job),
            _ => {}
        }
        (!self.nodes[node].pg.is_alive()).then_some(JobOutcome::Done)
    }

    fn pg_kill_for_job(&mut self, node: usize, job: &mut RunningJob) {
        job.told = true;
        self.pg_kill(node);
    }

    fn signal_stop(&mut self, node: usize, job: &mut RunningJob, mode: StopMode) {
        job.told = true;
        if self.is_mutated(Mutation::LostFence) && self.nodes[node].pg.is_writable() {
            return;
        }
        match mode {
            StopMode::Fast => self.pg_fast_stop(node),
            StopMode::Immediate => self.pg_immediate(node),
        }
    }

    fn permit_holds(&self, node: usize, permit: &PromotePermit) -> bool {
        self.nodes[node].clock.now(self.now) < permit.until()
    }

    /// Tells the checkers that PostgreSQL is about to be made writable.
    fn tell_promotion(&mut self, node: usize, start: bool, restart: bool) {
        let holds_key = self.store.holder() == Some(node);
        let was_standby = self.nodes[node].pg.cluster().is_some_and(|cluster| !cluster.control().was_primary());
        let target = &self.nodes[node];
        // A restart makes nothing worse that writes without a guard because none can be started.
        let hurt = self.now < target.guard.hurt_at + 5_000 || (restart && target.guard.broken);
        let guarded = !self.options.guard || hurt || target.guard.armed.is_some() || self.store.view().is_paused();
        let fed = target.dog.counting.is_some() || self.options.dog_mode != DogMode::Required || self.store.view().is_paused();
        self.fact(Fact::Promotion {
            node,
            holds_key,
            without_branch: start && was_standby,
            fenced: guarded && (fed || target.dog.vanished),
        });
    }

    fn start(&mut self, node: usize, job: &mut RunningJob) -> Option<JobOutcome> {
        let failed = |why: &str| Some(JobOutcome::Failed(why.to_owned()));
        let (primary, upstream) = match job.start_as() {
            Some(StartAs::Primary(permit)) if !self.permit_holds(node, permit) => return failed("the lease ended"),
            Some(StartAs::Primary(_)) => (true, None),
            Some(StartAs::Standby(upstream)) => (false, upstream.as_ref().and_then(|upstream| index_of(&upstream.name))),
            None => return failed("nothing to start"),
        };
        if self.nodes[node].pg.is_alive() {
            return failed("a postmaster is there already");
        }
        if primary {
            self.tell_promotion(node, true, matches!(job.job, Job::Restart { .. }));
        }
        if !self.pg_start(node, primary, upstream) {
            return failed("no cluster to start");
        }
        job.told = true;
        let takes = self.takes(node, 30, 200);
        self.job_later(node, job.id, takes, JobStep::Poll);
        None
    }

    fn advance_start(&mut self, node: usize, job: &mut RunningJob, step: JobStep) -> Option<JobOutcome> {
        match step {
            JobStep::Begin => self.start(node, job),
            _ if self.nodes[node].pg.is_alive() => Some(JobOutcome::Done),
            _ => Some(JobOutcome::Failed("the postmaster ended".to_owned())),
        }
    }

    fn advance_restart(&mut self, node: usize, job: &mut RunningJob, step: JobStep) -> Option<JobOutcome> {
        if step == JobStep::Begin && self.nodes[node].pg.is_alive() {
            job.told = true;
            self.pg_fast_stop(node);
            return None;
        }
        if job.second_half {
            return self.advance_start(node, job, step);
        }
        if self.nodes[node].pg.is_alive() {
            return None;
        }
        job.second_half = true;
        self.start(node, job)
    }

    fn advance_promote(&mut self, node: usize, job: &mut RunningJob, step: JobStep) -> Option<JobOutcome> {
        let Job::Promote { permit, .. } = &job.job else { return None };
        if step == JobStep::Begin {
            if !self.permit_holds(node, permit) {
                return Some(JobOutcome::Failed("the lease ended".to_owned()));
            }
            if self.nodes[node].pg.proc == Proc::Standby {
                self.tell_promotion(node, false, false);
                let position = self.nodes[node].pg.cluster().map_or(0, |cluster| cluster.wal.end());
                let allowed = self.nodes[node].config(&self.options).maximum_lag_on_failover;
                let known = self.wiped_at.is_none_or(|at| self.now > at + 60_000);
                let optime = if known { self.optime_at_acquire } else { 0 };
                self.fact(Fact::Loss { node, position, optime, allowed });
            }
            // Asked again while it is under way (by an earlier life of the agent), PostgreSQL just goes on.
            if self.nodes[node].pg.proc != Proc::Promoting && !self.pg_promote(node) {
                return Some(JobOutcome::Failed("no running standby".to_owned()));
            }
            job.told = true;
            return None;
        }
        match self.nodes[node].pg.proc {
            Proc::Primary => Some(JobOutcome::Done),
            Proc::Promoting => None,
            _ => Some(JobOutcome::Failed("the promotion was interrupted".to_owned())),
        }
    }

    fn follow(&mut self, node: usize, upstream: Option<usize>) -> JobOutcome {
        let pg = &mut self.nodes[node].pg;
        if !matches!(pg.proc, Proc::Starting { primary: false } | Proc::Standby | Proc::Promoting) || pg.hung {
            return JobOutcome::Failed("no running standby".to_owned());
        }
        if pg.upstream != upstream {
            pg.upstream = upstream;
            pg.stream = None;
        }
        let life = pg.life;
        let takes = self.takes(node, 20, 200);
        self.after(takes, Event::WalConnect { node, life });
        JobOutcome::Done
    }

    fn touch(&mut self, node: usize, touch: Touch, allowed: bool, foreign: bool) {
        let alive = self.nodes[node].pg.is_alive();
        self.fact(Fact::Data { node, touch, alive, foreign, allowed });
    }

    fn is_foreign(&self, node: usize) -> bool {
        let cluster = self.store.view().system_id();
        let ours = self.nodes[node].pg.cluster().map(|cluster| cluster.system_id);
        matches!((cluster, ours), (Some(cluster), Some(ours)) if cluster.0 != ours)
    }

    fn wipe_allowed(&self, node: usize, reason: WipeReason) -> bool {
        match reason {
            WipeReason::RewindFailed => self.options.wipe_rewind_failed,
            WipeReason::Diverged => self.options.wipe_diverged,
            WipeReason::Reinitialize => self.nodes[node].reinit_asked,
            WipeReason::HalfMade => !self.nodes[node].was_member || matches!(self.nodes[node].pg.data, Data::Partial),
        }
    }

    /// Jobs that a child process does.
    fn begin_child(&mut self, node: usize, job: &mut RunningJob) -> Option<JobOutcome> {
        let takes = match &job.job {
            Job::Clone { .. } => {
                let empty = matches!(self.nodes[node].pg.data, Data::Empty);
                self.touch(node, Touch::Clone, empty, false);
                self.nodes[node].pg.data = Data::Partial;
                self.nodes[node].was_member = false;
                self.takes(node, 2_000, 15_000)
            }
            Job::Bootstrap { .. } => {
                let empty = matches!(self.nodes[node].pg.data, Data::Empty);
                self.touch(node, Touch::Init, empty, false);
                self.nodes[node].pg.data = Data::Partial;
                self.nodes[node].was_member = false;
                self.takes(node, 500, 3_000)
            }
            Job::RemoveData { reason } => {
                let (allowed, foreign) = (self.wipe_allowed(node, *reason), self.is_foreign(node) && *reason != WipeReason::HalfMade);
                self.touch(node, Touch::Remove, allowed, foreign && *reason != WipeReason::Reinitialize);
                self.nodes[node].pg.data = Data::Partial;
                self.takes(node, 50, 2_000)
            }
            Job::Rewind { .. } => {
                let foreign = self.is_foreign(node);
                self.touch(node, Touch::Rewind, self.options.use_pg_rewind, foreign);
                self.takes(node, 500, 8_000)
            }
            _ => return Some(JobOutcome::Failed("the model does not know this job".to_owned())),
        };
        job.child = true;
        let life = self.nodes[node].agent.life;
        self.after(takes, Event::ChildEnds { node, life, id: job.id });
        None
    }

    /// A child process is killed: with its agent, or because the core asked for it.
    pub fn kill_child(&mut self, node: usize) {
        let torn = self.nodes[node].rng.chance(500);
        let Some(job) = self.nodes[node].agent.job.as_mut().filter(|job| job.child) else { return };
        job.child = false;
        if let (Job::Rewind { .. }, true) = (&job.job, torn) {
            if let Some(cluster) = self.nodes[node].pg.cluster_mut() {
                cluster.corrupt = true;
            }
        }
    }

    /// A child process ends by itself.
    pub fn child_ends(&mut self, node: usize, life: u32, id: JobId) {
        let agent = &mut self.nodes[node].agent;
        if agent.life != life || agent.job.as_ref().is_none_or(|job| job.id != id || !job.child) {
            return;
        }
        let Some(mut job) = agent.job.take() else { return };
        job.child = false;
        let fails = std::mem::take(&mut self.nodes[node].child_fails);
        let good = match &job.job {
            Job::Clone { source } => {
                let source = source.as_ref().and_then(|source| index_of(&source.name));
                !fails && self.cloned(node, source)
            }
            Job::Bootstrap { .. } => {
                job.second_half = true;
                job.told = true;
                !fails && self.initialised(node)
            }
            Job::RemoveData { .. } => {
                self.nodes[node].pg.data = Data::Empty;
                self.nodes[node].was_member = false;
                self.nodes[node].reinit_asked = false;
                true
            }
            Job::Rewind { source, torn } => {
                let (source, torn) = (index_of(&source.name), *torn);
                self.rewound(node, source, fails, torn)
            }
            _ => false,
        };
        let goes_on = job.second_half && good;
        self.nodes[node].agent.job = Some(job);
        let step = if goes_on { JobStep::Poll } else { JobStep::ChildEnded(good) };
        self.job_later(node, id, 2, step);
    }

    fn source_cluster(&self, node: usize, source: Option<usize>) -> Option<Cluster> {
        let source = source?;
        let there = self.net.is_connected(node, source) && self.nodes[source].power == Power::On;
        if !there || !self.nodes[source].pg.is_serving() {
            return None;
        }
        self.nodes[source].pg.cluster().cloned()
    }

    fn cloned(&mut self, node: usize, source: Option<usize>) -> bool {
        let Some(mut copy) = self.source_cluster(node, source) else { return false };
        copy.is_copy = true;
        copy.slots.clear();
        self.nodes[node].pg.data = Data::Cluster(Box::new(copy));
        true
    }

    fn initialised(&mut self, node: usize) -> bool {
        let (record, id) = (self.unique(), self.unique());
        self.nodes[node].pg.data = Data::Cluster(Box::new(Cluster::new(7_000_000_000 + id, record)));
        let started = self.pg_start(node, true, None);
        self.nodes[node].pg.bootstrapping = true;
        started
    }

    /// `pg_rewind`: compares the control files' timelines, and if they differ makes this directory a copy of the source that needs recovery.
    fn rewound(&mut self, node: usize, source: Option<usize>, fails: bool, torn_before: bool) -> bool {
        let source_cluster = self.source_cluster(node, source);
        let torn = self.nodes[node].rng.chance(300);
        self.nodes[node].rewound_by = self.nodes[node].agent.life;
        let Some(ours) = self.nodes[node].pg.cluster_mut() else { return false };
        let Some(theirs) = source_cluster.filter(|theirs| theirs.system_id == ours.system_id && !fails) else {
            if fails && torn {
                ours.corrupt = true;
            }
            return false;
        };
        if theirs.state != ControlState::InProduction {
            return false;
        }
        if theirs.checkpoint.0 == ours.checkpoint.0 {
            // "no rewind required", whatever the logs hold: no success where an earlier attempt left half of it.
            return !torn_before;
        }
        ours.wal = theirs.wal;
        ours.checkpoint = theirs.checkpoint;
        ours.seen_timeline = theirs.seen_timeline;
        ours.state = ControlState::InArchiveRecovery;
        // A target that a first attempt left half-way is whole again.
        ours.corrupt = false;
        ours.is_copy = true;
        ours.slots.clear();
        ours.note_recovery();
        true
    }

    /// Short work beside the job.
    pub fn background(&mut self, node: usize, task: Task) {
        let takes = self.takes(node, 5, 400);
        let pg = &mut self.nodes[node].pg;
        let (life, serving) = (pg.life, pg.is_serving());
        match &task {
            Task::Checkpoint if serving => self.after(takes / 2, Event::PgCheckpoint { node, life }),
            Task::SyncSlots { create, drop } if serving => {
                let end = mastiff::ha::types::Lsn(pg.cluster().map_or(0, |cluster| cluster.wal.end()));
                if let Some(cluster) = pg.cluster_mut() {
                    for name in drop {
                        cluster.slots.remove(name);
                    }
                    for name in create {
                        cluster.slots.entry(name.clone()).or_insert(end);
                    }
                }
            }
            _ => {}
        }
        self.send(node, takes, Input::TaskDone(task));
    }
}
