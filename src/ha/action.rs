//! Every effect that the core can ask for. The shell carries them out in the order given and reports back with an [`super::input::Input`].
//!
//! Duties of the shell, in order:
//! 1. carry out the actions of one step before it feeds the next input;
//! 2. answer each request and each job exactly once, also when its deadline passed;
//! 3. send [`super::input::Input::Tick`] at [`super::Machine::next_deadline`] at the latest;
//! 4. never reorder `Store` actions: a release never overtakes an acquire.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::config::HaConfig;
use super::fence::{Guard, VipRole, Watchdog};
use super::input::{Progress, RestartRequest};
use super::lease::{GuardOrder, KickPermit, LeaseHeld, PostgresStopped, PromotePermit, Unfenced};
use super::types::{Instant, JobId, LeaseId, Lsn, MemberName, Millis, ReplyId, RequestId, Revision, SystemId, Timeline};
use super::view::{ClusterView, DcsHealth, FailoverRequest, HistoryEntry, NodeView};

/// An effect.
#[derive(Debug)]
pub enum Action {
    /// Ask the store. Answer: [`super::input::Input::Store`], within `deadline`.
    Store {
        /// Number of the request.
        id: RequestId,
        /// What.
        request: StoreRequest,
        /// How long an answer is waited for; then [`super::input::DcsFailure::Timeout`].
        deadline: Millis,
    },
    /// Look at this box's PostgreSQL. Answer: [`super::input::Input::Observed`].
    Observe {
        /// Number of the request.
        id: RequestId,
        /// After this the answer is [`super::view::PgState::Unresponsive`].
        deadline: Millis,
    },
    /// Ask other members over REST. Answer: [`super::input::Input::Peers`].
    AskPeers {
        /// Number of the request.
        id: RequestId,
        /// Name and `api_url`.
        peers: Vec<(MemberName, String)>,
        /// After this a member counts as silent.
        deadline: Millis,
    },
    /// Read an upstream's timeline and history over SQL. Answer: [`super::input::Input::Upstream`].
    ReadUpstream {
        /// Number of the request.
        id: RequestId,
        /// From where.
        upstream: Upstream,
        /// After this it counts as failed.
        deadline: Millis,
    },
    /// Start a job. At most one runs at a time. Answer: [`super::input::Input::JobExited`].
    RunJob {
        /// Number of the job.
        id: JobId,
        /// What.
        job: Job,
    },
    /// End the job under way; it still reports its exit.
    CancelJob {
        /// Number of the job.
        id: JobId,
    },
    /// Something short beside the job. Answer: [`super::input::Input::TaskDone`].
    Background(Task),
    /// Kill PostgreSQL now (SIGQUIT, then SIGKILL after the given time): the lease ends.
    Fence {
        /// When SIGQUIT becomes SIGKILL.
        kill_after: Millis,
    },
    /// The hardware watchdog.
    Watchdog(WatchdogAction),
    /// The guard process.
    Guard(GuardAction),
    /// The virtual IP.
    Vip(VipAction),
    /// Run the configured callback, if there is one.
    Callback {
        /// `on_start`, `on_stop`, `on_restart`, `on_reload`, `on_role_change`.
        event: &'static str,
        /// Patroni's word for the role.
        role: &'static str,
    },
    /// Answer an operator.
    Reply {
        /// Whom.
        to: ReplyId,
        /// What.
        reply: Reply,
    },
    /// What REST shows from now on.
    Publish(Box<Snapshot>),
    /// Say something.
    Log {
        /// How loud.
        level: log::Level,
        /// One sentence.
        text: String,
    },
    /// The verdict again, unchanged: for the log's heartbeat, which may be switched off.
    Heartbeat(String),
    /// The end of the process.
    Exit {
        /// Exit code.
        code: i32,
    },
}

/// Requests to the store. All of them are safe to repeat.
#[derive(Debug)]
pub enum StoreRequest {
    /// All keys of the scope, linearizable.
    Read,
    /// Keep our lease alive; `lease: None` grants a new one.
    RenewLease {
        /// The lease, if one is held.
        lease: Option<LeaseId>,
        /// Its length.
        ttl: Millis,
    },
    /// Create `/leader` if absent, on our lease.
    Acquire {
        /// Our lease.
        lease: LeaseId,
    },
    /// `/leader` carries our name on another lease (an earlier life, a changed ttl): put it on this one if it still has our name and revision.
    Repair {
        /// Our lease.
        lease: LeaseId,
        /// Revision that was seen.
        expect: Revision,
    },
    /// Delete `/leader` if it is ours, and leave the last position in `/status`.
    Release {
        /// The end of our WAL, if known.
        optime: Option<Lsn>,
        /// PostgreSQL cannot write any more.
        proof: PostgresStopped,
    },
    /// Delete `/leader` if it is ours, although PostgreSQL never wrote under it (a promotion was refused or a bootstrap failed).
    ReleaseUnused {
        /// PostgreSQL was a standby or was down when this was decided.
        proof: PostgresStopped,
    },
    /// Write our member key on our lease.
    PutMember {
        /// The document.
        value: Value,
        /// Our lease.
        lease: LeaseId,
    },
    /// Create `/initialize` empty, if absent, on our lease: a claim does not outlive its owner.
    ClaimInitialize {
        /// Our lease.
        lease: LeaseId,
    },
    /// Write the system identifier to `/initialize`, on no lease, if the key is absent or empty.
    SetInitialize {
        /// The identifier.
        id: SystemId,
    },
    /// Delete `/initialize` if it still is our claim, empty and on our lease: our bootstrap failed.
    CancelInitialize {
        /// Our lease.
        lease: LeaseId,
    },
    /// Write `/config`.
    PutConfig {
        /// The document.
        value: Value,
        /// `None`: only if absent.
        expect: Option<Revision>,
    },
    /// Write `/status`, if we hold the leader key.
    PutStatus {
        /// Leader's position.
        optime: Lsn,
        /// Slots with their positions.
        slots: BTreeMap<String, Lsn>,
        /// Member slots that are kept for absent members.
        retain_slots: Vec<String>,
    },
    /// Write `/failover`, or clear it.
    PutFailover {
        /// `None` clears it (`{}`).
        value: Option<FailoverRequest>,
        /// Revision that was seen; `None`: whatever is there.
        expect: Option<Revision>,
    },
    /// Write `/history`, if we hold the leader key.
    PutHistory(Vec<HistoryEntry>),
}

/// Work that takes longer than a moment. Each ends by itself or by its deadline.
#[derive(Debug)]
pub enum Job {
    /// `initdb` or the custom method into an empty directory, start as primary, roles, `post_bootstrap`.
    Bootstrap {
        /// We hold the leader key's predecessor, the claimed `/initialize`.
        deadline: Millis,
    },
    /// Copy a data directory from another member into an empty one.
    Clone {
        /// From whom; `None`: a method that needs no leader.
        source: Option<Upstream>,
    },
    /// Remove the data directory. Refused by the shell while a postmaster lives in it.
    RemoveData {
        /// Why this is allowed, for the log.
        reason: WipeReason,
    },
    /// Write the configuration and start PostgreSQL. Done when the postmaster lives; readiness is an observation.
    Start {
        /// As what.
        role: StartAs,
        /// How long until the postmaster must be there.
        deadline: Millis,
    },
    /// Stop PostgreSQL, harder and harder.
    Stop {
        /// How it begins.
        mode: StopMode,
        /// A checkpoint first, so that the stop is short.
        checkpoint_first: bool,
        /// From when on SIGQUIT, then SIGKILL; `None`: wait as long as it takes.
        escalate_after: Option<Millis>,
    },
    /// Promote a standby.
    Promote {
        /// The lease allows it.
        permit: PromotePermit,
        /// How long the promotion may take.
        deadline: Millis,
    },
    /// Point a running standby to another upstream without a restart.
    Follow {
        /// `None`: to nobody.
        upstream: Option<Upstream>,
    },
    /// `pg_rewind` from the given primary.
    Rewind {
        /// An earlier attempt may have left the directory half-way: "no rewind required" is a failure then.
        torn: bool,
        /// From whom.
        source: Upstream,
    },
    /// Restart PostgreSQL in its role.
    Restart {
        /// As what it starts again.
        role: StartAs,
        /// How long all of it may take.
        deadline: Millis,
    },
}

impl Job {
    /// A short name for logs and REST.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Job::Bootstrap { .. } => "bootstrap",
            Job::Clone { .. } => "clone",
            Job::RemoveData { .. } => "remove data",
            Job::Start { .. } => "start",
            Job::Stop { .. } => "stop",
            Job::Promote { .. } => "promote",
            Job::Follow { .. } => "follow",
            Job::Rewind { .. } => "rewind",
            Job::Restart { .. } => "restart",
        }
    }
}

/// Short work beside the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// `CHECKPOINT` on a freshly promoted primary. Answered by the observation's control data.
    Checkpoint,
    /// Physical slots that should exist; others that are ours and inactive are dropped.
    SyncSlots {
        /// Names to create if absent.
        create: Vec<String>,
        /// Names to drop.
        drop: Vec<String>,
    },
    /// Write configuration files and reload PostgreSQL, if they differ.
    ReloadPostgres,
}

/// Another member (or a remote primary) to follow or copy from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its name.
    pub name: MemberName,
    /// Its `conn_url`.
    pub conn_url: String,
}

impl Upstream {
    /// `host:port` of the `conn_url`, IPv6 addresses in brackets, without user and database.
    #[must_use]
    pub fn address(&self) -> &str {
        let rest = self.conn_url.split_once("://").map_or(self.conn_url.as_str(), |(_, rest)| rest);
        let host = rest.split(['/', '?']).next().unwrap_or(rest);
        host.rsplit_once('@').map_or(host, |(_, host)| host)
    }
}

/// As what PostgreSQL is started.
#[derive(Debug)]
pub enum StartAs {
    /// Accepting writes. Needs the lease.
    Primary(PromotePermit),
    /// In recovery, following `upstream`, or nobody.
    Standby(Option<Upstream>),
}

/// `pg_ctl` stop modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions are ended, a shutdown checkpoint is written.
    Fast,
    /// No checkpoint; crash recovery at the next start.
    Immediate,
}

/// Why a data directory may be removed. Only these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WipeReason {
    /// `remove_data_directory_on_rewind_failure`.
    RewindFailed,
    /// `remove_data_directory_on_diverged_timelines`.
    Diverged,
    /// `POST /reinitialize`.
    Reinitialize,
    /// Our own bootstrap or clone failed half-way: the directory holds nothing that ever was a member.
    HalfMade,
}

/// The hardware watchdog. Each order but a kick is answered with [`super::input::Input::Watchdog`]; a kick only when it fails.
#[derive(Debug)]
pub enum WatchdogAction {
    /// Look at the device without opening it; take it over if it counts already (an earlier life of the agent armed it).
    Look {
        /// The longest timeout that it may have.
        limit: Millis,
    },
    /// Open it and set the longest timeout that it can do within the limit.
    Arm {
        /// The longest timeout that it may have.
        limit: Millis,
    },
    /// Feed it.
    Kick(KickPermit),
    /// Magic close.
    Disarm(Unfenced),
}

/// The guard process. Each order is answered with [`super::input::Input::Guard`].
#[derive(Debug)]
pub enum GuardAction {
    /// Kill at that time, unless a later order comes. Starts the guard if it does not run.
    Watch(GuardOrder),
    /// Watch nothing.
    Disarm(Unfenced),
}

/// The virtual IP.
#[derive(Debug)]
pub enum VipAction {
    /// Configure the addresses of this role and announce them, or renew their lifetime.
    Hold {
        /// Which.
        role: VipRole,
        /// Until when they may stay.
        lease: LeaseHeld,
    },
    /// Remove them and end the sessions that use them.
    Drop {
        /// Which.
        role: VipRole,
    },
}

/// An answer to an operator: HTTP status and body.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// HTTP status code.
    pub code: u16,
    /// Body.
    pub body: ReplyBody,
}

/// Body of a [`Reply`].
#[derive(Clone, Debug, PartialEq)]
pub enum ReplyBody {
    /// A sentence.
    Text(String),
    /// A document.
    Json(Value),
}

impl Reply {
    /// A sentence with a status code.
    #[must_use]
    pub fn text(code: u16, text: impl Into<String>) -> Reply {
        Reply { code, body: ReplyBody::Text(text.into()) }
    }
}

/// What REST, metrics and commands show. Complete: the HTTP side asks nobody else.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was made.
    pub at: Instant,
    /// The verdict of the last cycle.
    pub verdict: String,
    /// The configuration in effect.
    pub config: Arc<HaConfig>,
    /// The last read of the store, if there was one.
    pub cluster: Option<Arc<ClusterView>>,
    /// The last observation of this box.
    pub node: Option<Arc<NodeView>>,
    /// We hold the leader key and its lease has not ended.
    pub is_leader: bool,
    /// When the lease ends for us.
    pub lease_deadline: Option<Instant>,
    /// Health of the store.
    pub dcs: DcsHealth,
    /// When the store was last read with success.
    pub dcs_seen_at: Option<Instant>,
    /// Patroni's word for PostgreSQL's state.
    pub state: &'static str,
    /// Patroni's word for the role.
    pub role: &'static str,
    /// The job under way and its progress.
    pub job: Option<(&'static str, Option<Progress>)>,
    /// A restart that waits for its time.
    pub scheduled_restart: Option<RestartRequest>,
    /// The failsafe agreement carries the lease at the moment.
    pub failsafe_active: bool,
    /// Timeline on display.
    pub timeline: Option<Timeline>,
    /// The hardware watchdog.
    pub watchdog: Watchdog,
    /// The guard process.
    pub guard: Guard,
    /// Roles whose virtual IPs are held.
    pub vips: Vec<VipRole>,
}
