//! The decision: from what is known to what should be true. Pure; one file for each situation.

mod bootstrap;
mod follower;
mod leader;
mod pause;
mod race;
mod recover;
pub mod samples;
mod stopping;
mod successor;
mod switchover;

use std::collections::BTreeMap;

use super::action::{StopMode, Upstream, WipeReason};
use super::config::{HaConfig, WatchdogMode};
use super::fence::{Guard, Watchdog};
use super::input::{RestartRequest, Unfinished};
use super::lease::LeaseClock;
use super::rewind::Relation;
use super::types::{Instant, JobId, MemberName, Millis, Revision, SystemId, WallTime};
use super::verdict::Verdict;
use super::view::{ClusterView, DcsHealth, HistoryEntry, NodeView, PeersView, PgState, UpstreamHistory};

pub use switchover::CARRIER_PATIENCE;

/// What the core remembers between two decisions. Changed by [`super::Machine`] alone.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Our lease, if one is held.
    pub lease: Option<LeaseClock>,
    /// The leader key was last seen with our name on our lease (or our write of it was acknowledged).
    pub lock: bool,
    /// Health of the store.
    pub dcs: DcsHealth,
    /// Answers of the others.
    pub peers: Option<PeersView>,
    /// The upstream's history: asked when, for whom, what came of it.
    pub upstream: Option<UpstreamAnswer>,
    /// The job under way.
    pub job: Option<RunningJob>,
    /// The wall clock, for schedules.
    pub wall: WallTime,
    /// We own the claim in `/initialize`.
    pub bootstrap: BootstrapStep,
    /// The leader steps back for this request.
    pub handover: bool,
    /// When the last job ended.
    pub job_ended_at: Instant,
    /// When the running postmaster was first seen dead under our lock.
    pub crashed_at: Option<Instant>,
    /// Failed starts since the last success, and when the next may be tried.
    pub start_failures: u32,
    /// No start before this.
    pub start_not_before: Instant,
    /// No bootstrap, clone or rewind before this.
    pub copy_not_before: Instant,
    /// What an earlier life of the agent left unfinished, until the first observation tells what it means.
    pub left_unfinished: Option<Unfinished>,
    /// The directory holds a half-made copy of our own making.
    pub half_made: bool,
    /// When this standby last streamed, got on, or was given its upstream.
    pub stream_progress_at: Option<Instant>,
    /// Looks at the upstream's history that failed in a row.
    pub upstream_failures: u32,
    /// Why a running standby was stopped: it cannot follow. A stopped directory shows less of its history, so this is kept until it is mended.
    pub repair: Option<Relation>,
    /// A rewind ended with success at this time and streaming was not seen since.
    pub rewound_at: Option<Instant>,
    /// The address of the upstream that the last start or order to follow named.
    pub aimed_at: Option<String>,
    /// Rewinds that failed in a row.
    pub rewind_failures: u32,
    /// Rewinding is given up.
    pub rewind_failed: bool,
    /// The standby's data was compared with its upstream's history and can follow.
    pub can_follow: bool,
    /// SIGTERM was received.
    pub terminate: bool,
    /// A restart that may run now.
    pub restart: Option<RestartRequest>,
    /// A reinitialisation was asked for.
    pub reinitialize: Option<Reinitialize>,
    /// When a leader key was last seen.
    pub leader_seen_at: Option<Instant>,
    /// Since when the present leader leads.
    pub leader_since: Option<Instant>,
    /// When we last saw a leader, for the patience with a named candidate.
    pub leaderless_since: Option<Instant>,
    /// The key was won in a race, and PostgreSQL is not primary yet.
    pub won_race: bool,
    /// A promotion was begun and did not end well: it may go on by itself until PostgreSQL is stopped.
    pub promotion_open: bool,
    /// PostgreSQL was started and was not seen running yet.
    pub start_unproven: bool,
    /// Since when PostgreSQL runs without a break, as far as this agent saw.
    pub up_since: Option<Instant>,
    /// A rewind was begun and did not end well: the directory must not be started before one does.
    pub torn: bool,
    /// The switchover request that was acted on last.
    pub handed_over: Option<Revision>,
    /// Since when PostgreSQL writes (or may) without a key of ours.
    pub unlocked_since: Option<Instant>,
    /// Our claim of `/initialize` was sent and never answered: it may be ours.
    pub claim_unknown: bool,
    /// After a refused promotion: no race before this.
    pub race_not_before: Instant,
    /// The hardware watchdog.
    pub watchdog: Watchdog,
    /// The guard process.
    pub guard: Guard,
    /// The leader's network cable is out since then.
    pub carrier_lost_at: Option<Instant>,
    /// It began to hand over while that was so.
    pub carrier_acted_at: Option<Instant>,
    /// When each member was last seen in the store, for slots that are kept for the absent.
    pub members_seen: BTreeMap<MemberName, Instant>,
}

/// A reinitialisation that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reinitialize {
    /// From the leader, whatever the tags say.
    pub from_leader: bool,
    /// The old data is gone.
    pub wiped: bool,
}

/// How far our own bootstrap is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BootstrapStep {
    /// Not ours.
    #[default]
    None,
    /// We hold the claim.
    Claimed,
    /// The database stands.
    Done,
    /// It failed: clean up and give the claim back.
    Failed,
}

/// An answer about the upstream's history.
#[derive(Clone, Debug)]
pub struct UpstreamAnswer {
    /// When it was asked.
    pub asked_at: Instant,
    /// About whom.
    pub member: MemberName,
    /// `None`: it could not be read.
    pub history: Option<UpstreamHistory>,
}

/// The job under way.
#[derive(Clone, Debug)]
pub struct RunningJob {
    /// Its number.
    pub id: JobId,
    /// Its name.
    pub name: &'static str,
    /// Its kind, for decisions.
    pub kind: JobKind,
    /// When it was started.
    pub started_at: Instant,
    /// It was asked to end.
    pub cancelled: bool,
}

/// What a running job may do to PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// May make PostgreSQL writable.
    Writable,
    /// Stops it.
    Stop,
    /// Copies data into the directory.
    Copy,
    /// Rewinds.
    Rewind,
    /// Removes the directory.
    Remove,
    /// Anything else.
    Other,
}

/// What should be true. Repeating it changes nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// The leader key.
    pub leader_key: LeaderKey,
    /// PostgreSQL.
    pub postgres: PgWanted,
    /// A fact that is missing for a decision.
    pub need: Need,
    /// The `/initialize` key.
    pub initialize: InitializeWanted,
    /// Lines of `/history` to write.
    pub history: Option<Vec<HistoryEntry>>,
    /// PostgreSQL is stopped to hand the key over.
    pub handover: bool,
    /// PostgreSQL is stopped to repair its data directory.
    pub repair: Option<Relation>,
    /// Clear `/failover`, for this reason.
    pub clear_failover: Option<String>,
    /// Member slots to create and to drop.
    pub slots: Option<(Vec<String>, Vec<String>)>,
    /// Write the initial dynamic configuration where it is missing.
    pub write_config: bool,
    /// The process ends with this code once everything else is done.
    pub exit: Option<i32>,
}

/// The leader key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaderKey {
    /// As it is.
    #[default]
    Leave,
    /// Create it.
    Acquire,
    /// Move it from an earlier lease of ours to this one.
    Repair,
    /// Give it up; needs a proof that PostgreSQL cannot write.
    Release,
}

/// PostgreSQL.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum PgWanted {
    /// As it is.
    #[default]
    Leave,
    /// Accepting writes; needs the lease.
    Primary,
    /// In recovery, following somebody or nobody.
    Standby(Option<Upstream>),
    /// Down.
    Stopped {
        /// How it begins.
        mode: StopMode,
        /// A checkpoint first.
        checkpoint_first: bool,
        /// When it gets harder.
        escalate_after: Option<Millis>,
    },
    /// A new cluster.
    Bootstrap,
    /// A copy.
    Clone(Option<Upstream>),
    /// No data directory.
    Removed(WipeReason),
    /// On the upstream's history.
    Rewound(Upstream),
    /// Restarted in its role.
    Restarted,
}

/// A fact that is missing for a decision.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Need {
    /// None.
    #[default]
    Nothing,
    /// The other members' answers.
    Peers,
    /// This upstream's history.
    Upstream(Upstream),
}

/// The `/initialize` key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitializeWanted {
    /// As it is.
    #[default]
    Leave,
    /// Claim it.
    Claim,
    /// Write our identifier.
    Set(SystemId),
    /// Give the claim back.
    Cancel,
}

/// A verdict and what should be true.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The sentence.
    pub verdict: Verdict,
    /// The goal.
    pub wanted: Wanted,
}

impl Decision {
    /// A verdict that wants nothing.
    #[must_use]
    pub fn nothing(verdict: Verdict) -> Decision {
        Decision { verdict, wanted: Wanted::default() }
    }

    /// A verdict about PostgreSQL.
    #[must_use]
    pub fn postgres(verdict: Verdict, postgres: PgWanted) -> Decision {
        Decision { verdict, wanted: Wanted { postgres, ..Wanted::default() } }
    }

    /// A verdict about the leader key.
    #[must_use]
    pub fn key(verdict: Verdict, leader_key: LeaderKey) -> Decision {
        Decision { verdict, wanted: Wanted { leader_key, ..Wanted::default() } }
    }

    /// A verdict that waits for a fact.
    #[must_use]
    pub fn need(verdict: Verdict, need: Need) -> Decision {
        Decision { verdict, wanted: Wanted { need, ..Wanted::default() } }
    }
}

/// Everything a decision may look at.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The configuration.
    pub config: &'a HaConfig,
    /// The store.
    pub cluster: &'a ClusterView,
    /// This box.
    pub node: &'a NodeView,
    /// What is remembered.
    pub memory: &'a Memory,
    /// Now.
    pub now: Instant,
}

impl Facts<'_> {
    /// Whether the leader key is ours and its lease has time left.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.memory.lock && self.memory.lease.is_some_and(|lease| lease.promote_permit(self.now).is_some())
    }

    /// The others' answers, if they were asked recently enough and after the last read of the store began to matter.
    #[must_use]
    pub fn fresh_peers(&self) -> Option<&PeersView> {
        // Never below what an answer may take: it would be too old when it arrives, and the others would be asked for ever.
        let limit = Millis((self.config.loop_wait.0 / 2).clamp(500, 2_000).max(self.config.peers_deadline().0 + 500));
        self.memory.peers.as_ref().filter(|peers| self.now.since(peers.asked_at) <= limit)
    }

    /// Members other than this one that have an address.
    #[must_use]
    pub fn others(&self) -> Vec<(MemberName, String)> {
        let others = self.cluster.members.iter().filter(|(name, _)| **name != self.config.me);
        others.filter_map(|(name, member)| Some((name.clone(), member.api_url.clone()?))).collect()
    }

    /// The configuration demands a watchdog, and there is none that works.
    #[must_use]
    pub fn lacks_watchdog(&self) -> bool {
        self.config.watchdog.mode == WatchdogMode::Required && matches!(self.memory.watchdog, Watchdog::Unusable(_))
    }

    /// How long a stop may take before it gets harder: what the lease leaves.
    #[must_use]
    pub fn stop_budget(&self) -> Option<Millis> {
        let lease = self.memory.lease.filter(|_| self.memory.lock)?;
        Some(self.now.until(lease.fence_at()))
    }
}

/// The top of the decision.
#[must_use]
pub fn decide(facts: &Facts<'_>) -> Decision {
    let memory = facts.memory;
    if memory.promotion_open && memory.job.is_none() && facts.node.pg.is_alive() && !facts.node.pg.is_primary() {
        return Decision::postgres(Verdict::PromotionFailed, demotion_at_once());
    }
    if memory.terminate {
        return stopping::decide(facts);
    }
    if let Some(decision) = half_made(facts) {
        return decision;
    }
    if memory.left_unfinished == Some(Unfinished::Bootstrap) && matches!(facts.node.pg, PgState::Stopped(_)) {
        let reason = "it holds a bootstrap that was interrupted; remove it (and the note beside it) to begin again";
        return Decision::nothing(Verdict::Unreadable(reason.to_owned()));
    }
    if let (PgState::Unreadable { reason }, None, BootstrapStep::None) = (&facts.node.pg, &memory.job, memory.bootstrap) {
        // It was a member's data before a rewind of ours: what the configuration says about failed rewinds counts.
        if memory.torn && facts.config.remove_data_directory_on_rewind_failure && facts.now >= memory.start_not_before {
            return Decision::postgres(Verdict::RemovingData, PgWanted::Removed(WipeReason::RewindFailed));
        }
        if reinitialized(facts) {
            return Decision::postgres(Verdict::RemovingData, PgWanted::Removed(WipeReason::Reinitialize));
        }
        return Decision::nothing(Verdict::Unreadable(reason.clone()));
    }
    if let Some(decision) = foreign_data(facts) {
        return decision;
    }
    if facts.cluster.is_paused() {
        return pause::decide(facts);
    }
    if let Some(job) = &memory.job {
        return Decision::nothing(Verdict::Busy(job.name));
    }
    if memory.bootstrap != BootstrapStep::None {
        return bootstrap::decide(facts);
    }
    if memory.dcs != DcsHealth::Good {
        return without_store(facts);
    }
    match facts.cluster.leader_name() {
        Some(name) if *name == facts.config.me => leader::decide(facts),
        Some(_) => follower::decide(facts),
        None => race::decide(facts),
    }
}

/// The operator wants a copy in place of what is there, and there is somebody to copy from.
fn reinitialized(facts: &Facts<'_>) -> bool {
    let somebody_leads = facts.cluster.leader_name().is_some_and(|leader| *leader != facts.config.me);
    facts.memory.reinitialize.is_some()
        && facts.memory.dcs == DcsHealth::Good
        && somebody_leads
        && facts.now >= facts.memory.start_not_before
}

/// What a copy of ours left behind when it failed. It never was a member, and nobody else's files are in it: the directory was empty before.
fn half_made(facts: &Facts<'_>) -> Option<Decision> {
    let memory = facts.memory;
    let left_over = memory.half_made && memory.job.is_none() && memory.bootstrap == BootstrapStep::None && facts.node.pg != PgState::Empty;
    left_over.then(|| {
        let removed = PgWanted::Removed(WipeReason::HalfMade);
        let wanted = if facts.now < memory.start_not_before { PgWanted::Leave } else { removed };
        Decision::postgres(Verdict::RemovingData, wanted)
    })
}

/// The data belongs to another cluster: say so and end, whatever runs in it.
fn foreign_data(facts: &Facts<'_>) -> Option<Decision> {
    let ours = facts.node.pg.system_id()?;
    let theirs = facts.cluster.system_id()?;
    let trusted = facts.memory.dcs == DcsHealth::Good && !facts.memory.half_made && facts.memory.bootstrap == BootstrapStep::None;
    (trusted && ours != theirs && facts.memory.job.is_none()).then(|| {
        let mut decision = Decision::nothing(Verdict::SystemIdMismatch { ours, theirs });
        decision.wanted.exit = Some(EXIT_WRONG_CLUSTER);
        decision
    })
}

/// How long a primary may write without its key: so long that it can take it (back), and no longer.
pub const UNLOCKED_LIMIT: Millis = Millis(1_000);

/// Exit code: the data directory belongs to another cluster.
pub const EXIT_WRONG_CLUSTER: i32 = 66;

/// The store does not answer. The lease decides for how long a primary goes on.
fn without_store(facts: &Facts<'_>) -> Decision {
    match &facts.node.pg {
        PgState::Running(running) if running.role == super::view::Role::Primary => {
            if facts.leads() {
                Decision::nothing(Verdict::LeadingWithoutDcs)
            } else {
                Decision::postgres(Verdict::DemotingNoDcs, demotion(facts))
            }
        }
        PgState::Unresponsive { as_standby: false } if !facts.leads() => Decision::postgres(Verdict::DemotingNoDcs, demotion(facts)),
        PgState::Starting { as_standby: false, .. } if !facts.leads() => Decision::postgres(Verdict::DemotingNoDcs, demotion(facts)),
        PgState::Stopped(_) if facts.memory.dcs != DcsHealth::NeverSeen && !facts.memory.half_made && !facts.memory.torn => {
            // What was just rewound opens only with WAL of its upstream. Started without one it would hang, and nothing ends that.
            if facts.now < facts.memory.start_not_before || facts.memory.rewound_at.is_some() {
                return Decision::nothing(Verdict::NoDcs);
            }
            // Readable at least. Whether the data can follow anybody is looked at when the store is back.
            Decision::postgres(Verdict::NoDcs, PgWanted::Standby(None))
        }
        _ => Decision::nothing(Verdict::NoDcs),
    }
}

/// The stop of a primary whose lease ends, or that never had one.
fn demotion(facts: &Facts<'_>) -> PgWanted {
    let escalate_after = facts.stop_budget().unwrap_or(Millis(1_000));
    PgWanted::Stopped { mode: StopMode::Fast, checkpoint_first: false, escalate_after: Some(escalate_after) }
}

/// The stop of a primary that must not be one: somebody else leads.
fn demotion_at_once() -> PgWanted {
    PgWanted::Stopped { mode: StopMode::Immediate, checkpoint_first: false, escalate_after: Some(Millis(500)) }
}

/// The member to follow: `replicatefrom` where it exists and is not ourselves, else the leader.
fn upstream_of(facts: &Facts<'_>) -> Option<Upstream> {
    let leader = facts.cluster.leader_name().filter(|name| **name != facts.config.me)?;
    let cascade = facts.config.tags.replicatefrom.as_ref().filter(|name| **name != facts.config.me);
    let wanted = cascade.filter(|name| facts.cluster.members.get(name).is_some_and(|m| m.conn_url.is_some() && m.state == "running"));
    let name = wanted.unwrap_or(leader);
    let conn_url = facts.cluster.members.get(name)?.conn_url.clone()?;
    Some(Upstream { name: name.clone(), conn_url })
}

/// The leader as an upstream, for rewinds and comparisons.
fn leader_upstream(facts: &Facts<'_>) -> Option<Upstream> {
    let member = facts.cluster.leader_member()?;
    Some(Upstream { name: facts.cluster.leader_name()?.clone(), conn_url: member.conn_url.clone()? })
}
