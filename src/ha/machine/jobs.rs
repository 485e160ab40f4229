//! Jobs: which one brings PostgreSQL to what is wanted, and what their end means.

use super::{Machine, Wake};
use crate::ha::action::{Action, Job, StartAs, StopMode, Task, Upstream, WipeReason};
use crate::ha::decide::{BootstrapStep, JobKind, PgWanted, Reinitialize, RunningJob};
use crate::ha::input::JobOutcome;
use crate::ha::lease::PromotePermit;
use crate::ha::types::{JobId, Millis};
use crate::ha::view::{NodeView, PgState, Role};

impl Machine {
    pub(super) fn apply_postgres(&mut self, node: &NodeView, wanted: PgWanted, handover: bool, out: &mut Vec<Action>) {
        match wanted {
            PgWanted::Leave => {}
            PgWanted::Primary => self.be_primary(node, out),
            PgWanted::Standby(upstream) => self.be_standby(node, upstream, out),
            PgWanted::Stopped { mode, checkpoint_first, escalate_after } => {
                self.be_stopped(node, mode, checkpoint_first, escalate_after, handover, out);
            }
            PgWanted::Bootstrap => {
                self.memory.half_made = true;
                self.start_job(JobKind::Other, Job::Bootstrap { deadline: BOOTSTRAP_DEADLINE }, out);
            }
            PgWanted::Clone(source) => {
                self.memory.half_made = true;
                self.start_job(JobKind::Copy, Job::Clone { source }, out);
            }
            PgWanted::Removed(reason) => self.remove(node, reason, out),
            PgWanted::Rewound(source) => {
                if matches!(node.pg, PgState::Stopped(_)) {
                    self.start_job(JobKind::Rewind, Job::Rewind { torn: self.memory.torn, source }, out);
                }
            }
            PgWanted::Restarted => self.restart(node, out),
        }
    }

    fn permit(&self) -> Option<PromotePermit> {
        self.memory.lease.filter(|_| self.memory.lock)?.promote_permit(self.now)
    }

    fn be_primary(&mut self, node: &NodeView, out: &mut Vec<Action>) {
        if !self.fenced(out) {
            return;
        }
        let Some(permit) = self.permit() else { return };
        let deadline = self.config.pg_ctl_timeout;
        match &node.pg {
            PgState::Running(running) if running.role == Role::Standby => {
                self.start_job(JobKind::Writable, Job::Promote { permit, deadline }, out);
            }
            PgState::Stopped(_) => {
                self.memory.handover = false;
                self.start_job(JobKind::Writable, Job::Start { role: StartAs::Primary(permit), deadline }, out);
            }
            _ => {}
        }
    }

    fn be_standby(&mut self, node: &NodeView, upstream: Option<Upstream>, out: &mut Vec<Action>) {
        let aim = upstream.as_ref().map(|upstream| upstream.address().to_owned());
        match &node.pg {
            PgState::Starting { as_standby: true, .. } => {
                self.memory.aimed_at = aim;
                self.start_job(JobKind::Other, Job::Follow { upstream }, out);
            }
            PgState::Running(running) if running.role == Role::Standby => {
                self.memory.aimed_at = aim;
                self.memory.stream_progress_at = Some(self.now);
                self.start_job(JobKind::Other, Job::Follow { upstream }, out);
            }
            PgState::Stopped(_) => {
                self.memory.aimed_at = aim;
                let deadline = self.config.pg_ctl_timeout;
                self.start_job(JobKind::Other, Job::Start { role: StartAs::Standby(upstream), deadline }, out);
            }
            _ => {}
        }
    }

    fn be_stopped(
        &mut self,
        node: &NodeView,
        mode: StopMode,
        checkpoint_first: bool,
        escalate_after: Option<Millis>,
        handover: bool,
        out: &mut Vec<Action>,
    ) {
        if !node.pg.is_alive() {
            return;
        }
        if handover {
            self.memory.handover = true;
            self.memory.carrier_acted_at = self.memory.carrier_lost_at.map(|_| self.now);
            self.memory.handed_over = self.cluster.as_ref().and_then(|cluster| cluster.failover.as_ref()).map(|failover| failover.revision);
        }
        if node.pg.is_primary() {
            out.push(Action::Callback { event: "on_stop", role: "primary" });
        }
        self.start_job(JobKind::Stop, Job::Stop { mode, checkpoint_first, escalate_after }, out);
    }

    fn remove(&mut self, node: &NodeView, reason: WipeReason, out: &mut Vec<Action>) {
        if node.pg.is_alive() {
            // A database that must not stand beside another is ended at once, a standby in order.
            let (mode, patience) = if reason == WipeReason::HalfMade { (StopMode::Immediate, 500) } else { (StopMode::Fast, 30_000) };
            let stop = Job::Stop { mode, checkpoint_first: false, escalate_after: Some(Millis(patience)) };
            self.start_job(JobKind::Stop, stop, out);
        } else {
            self.start_job(JobKind::Remove, Job::RemoveData { reason }, out);
        }
    }

    fn restart(&mut self, node: &NodeView, out: &mut Vec<Action>) {
        let Some(request) = self.memory.restart.take() else { return };
        let deadline = request.timeout.unwrap_or(self.config.pg_ctl_timeout);
        let (kind, role) = match &node.pg {
            PgState::Running(running) if running.role == Role::Primary => match self.permit() {
                Some(permit) => (JobKind::Writable, StartAs::Primary(permit)),
                None => return,
            },
            _ => (JobKind::Other, StartAs::Standby(self.current_upstream())),
        };
        self.start_job(kind, Job::Restart { role, deadline }, out);
    }

    /// The upstream that this standby follows, as the store knows it.
    fn current_upstream(&self) -> Option<Upstream> {
        let running = self.node.as_ref()?.pg.running()?;
        let address = running.upstream.as_deref()?;
        let cluster = self.cluster.as_ref()?;
        let all =
            cluster.members.iter().filter_map(|(name, member)| Some(Upstream { name: name.clone(), conn_url: member.conn_url.clone()? }));
        all.into_iter().find(|upstream| upstream.address() == address)
    }

    fn start_job(&mut self, kind: JobKind, job: Job, out: &mut Vec<Action>) {
        assert!(self.memory.job.is_none(), "one job at a time");
        if matches!(kind, JobKind::Stop | JobKind::Remove) {
            self.drop_vips(out);
        }
        let id = self.new_job_id();
        self.progress = None;
        self.memory.job = Some(RunningJob { id, name: job.name(), kind, started_at: self.now, cancelled: false });
        out.push(Action::RunJob { id, job });
    }

    pub(super) fn cancel_job(&mut self, out: &mut Vec<Action>) {
        if let Some(job) = self.memory.job.as_mut().filter(|job| !job.cancelled) {
            job.cancelled = true;
            out.push(Action::CancelJob { id: job.id });
        }
    }

    pub(super) fn take_job_exit(&mut self, id: JobId, outcome: JobOutcome, out: &mut Vec<Action>) -> Wake {
        let Some(job) = self.memory.job.take_if(|job| job.id == id) else { return Wake::Sleep };
        self.just_promoted = false;
        self.distrust_older_looks();
        if job.kind == JobKind::Writable || job.name == "bootstrap" {
            self.distrust_standby_looks();
        }
        self.memory.job_ended_at = self.now;
        self.timers.observe_at = Some(self.now);
        self.timers.observe_pause = super::POLL_FASTEST;
        self.progress = None;
        if let JobOutcome::Failed(reason) | JobOutcome::Refused(reason) = &outcome {
            self.log(log::Level::Error, format!("{} failed: {reason}", job.name), out);
        }
        let done = outcome == JobOutcome::Done;
        match job.name {
            // The directory holds something, and it is not of our making.
            "bootstrap" | "clone" if matches!(outcome, JobOutcome::Refused(_)) => {
                self.memory.half_made = false;
                self.memory.copy_not_before = self.now + COPY_PAUSE;
            }
            "bootstrap" => self.bootstrap_ended(done),
            "clone" => self.clone_ended(done),
            "remove data" => self.removal_ended(done),
            "start" => self.start_ended(done, job.kind, out),
            "promote" => self.promotion_ended(done, out),
            "rewind" => self.rewind_ended(&outcome),
            "follow" if !done => self.memory.start_not_before = self.now + FOLLOW_PAUSE,
            "restart" => self.restart_ended(&outcome, out),
            _ => {}
        }
        Wake::Cycle
    }

    fn bootstrap_ended(&mut self, done: bool) {
        self.memory.bootstrap = if done { BootstrapStep::Done } else { BootstrapStep::Failed };
        self.memory.half_made = !done;
        if !done {
            self.memory.copy_not_before = self.now + self.config.loop_wait;
        }
    }

    fn clone_ended(&mut self, done: bool) {
        self.memory.half_made = !done;
        if done {
            self.memory.reinitialize = None;
            self.memory.can_follow = true;
            self.memory.repair = None;
            self.memory.rewind_failed = false;
            self.memory.rewound_at = None;
        } else {
            self.memory.copy_not_before = self.now + COPY_PAUSE;
        }
    }

    fn removal_ended(&mut self, done: bool) {
        if !done {
            self.memory.start_not_before = self.now + COPY_PAUSE;
            return;
        }
        self.memory.half_made = false;
        self.memory.torn = false;
        self.memory.repair = None;
        self.memory.rewind_failed = false;
        self.memory.rewind_failures = 0;
        self.memory.rewound_at = None;
        if let Some(Reinitialize { wiped, .. }) = &mut self.memory.reinitialize {
            *wiped = true;
        }
    }

    fn start_ended(&mut self, done: bool, kind: JobKind, out: &mut Vec<Action>) {
        if done {
            // The postmaster lives. Whether it stays shows when it is looked at.
            self.memory.start_unproven = true;
            let role = if kind == JobKind::Writable { "primary" } else { "replica" };
            out.push(Action::Callback { event: "on_start", role });
            return;
        }
        self.count_failed_start();
    }

    pub(super) fn count_failed_start(&mut self) {
        self.memory.start_failures = self.memory.start_failures.saturating_add(1);
        let pause = Millis((500 << self.memory.start_failures.min(6)).min(30_000));
        self.memory.start_not_before = self.now + pause;
        self.timers.cycle_at = self.timers.cycle_at.min(self.memory.start_not_before);
        if self.memory.rewound_at.is_some() && self.memory.start_failures >= STARTS_AFTER_REWIND {
            // "No rewind required" after an earlier one ended half-way: success in words only.
            self.memory.torn = true;
            self.memory.rewind_failed = true;
            self.memory.can_follow = false;
        }
    }

    fn promotion_ended(&mut self, done: bool, out: &mut Vec<Action>) {
        if done {
            // Clients wait for the address: it does not wait for the next look.
            self.just_promoted = true;
            self.tend_vips(out);
            self.checkpoint_pending = true;
            out.push(Action::Callback { event: "on_role_change", role: "primary" });
            out.push(Action::Background(Task::Checkpoint));
        } else {
            self.memory.race_not_before = self.now + self.config.ttl;
            // It may have been asked for and go on: from here on "in recovery" proves nothing until PostgreSQL was stopped.
            self.memory.promotion_open = true;
        }
    }

    fn rewind_ended(&mut self, outcome: &JobOutcome) {
        self.memory.upstream = None;
        // One that did not get to write leaves the directory as it was, torn or not.
        self.memory.torn |= matches!(outcome, JobOutcome::Failed(_) | JobOutcome::Cancelled);
        if *outcome == JobOutcome::Done {
            self.memory.rewound_at = Some(self.now);
            self.memory.torn = false;
            self.memory.can_follow = true;
            self.memory.repair = None;
            self.memory.rewind_failures = 0;
            return;
        }
        // A target that a first attempt left half-way is rewound again before anything is given up.
        self.memory.rewind_failures = self.memory.rewind_failures.saturating_add(1);
        self.memory.rewind_failed = self.memory.rewind_failures >= REWIND_ATTEMPTS;
        self.memory.copy_not_before = self.now + COPY_PAUSE;
    }
}

/// `initdb` and a first start are quick, a restore from a backup is not.
const BOOTSTRAP_DEADLINE: Millis = Millis(24 * 3600 * 1000);
/// Between two attempts to copy, rewind or remove.
const COPY_PAUSE: Millis = Millis(3_000);
/// Between two attempts to point a standby elsewhere.
const FOLLOW_PAUSE: Millis = Millis(1_000);
/// So many failed starts after a rewind tell that it failed, whatever it said.
const STARTS_AFTER_REWIND: u32 = 3;
/// So many failed rewinds in a row are a failure.
const REWIND_ATTEMPTS: u32 = 2;
