//! Every fact that can reach the core. Each carries the time at which it was *asked*, so that it can never look newer than it is.

use serde_json::Value;

use super::action::Task;
use super::config::HaConfig;
use super::fence::{GuardReport, WatchdogReport};
use super::types::{Instant, JobId, LeaseId, MemberName, Millis, ReplyId, RequestId, Revision, WallTime};
use super::view::{ClusterView, NodeView, PeersView, UpstreamHistory};

/// A fact.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed; sent when [`super::Machine::next_deadline`] is reached.
    Tick,
    /// The configuration after a reload or a change of the store's `/config`. Always valid.
    Config(Box<HaConfig>),
    /// The store answered, or its deadline passed.
    Store {
        /// Which request.
        id: RequestId,
        /// What came of it.
        outcome: StoreOutcome,
    },
    /// A key of the scope changed: look at once. An alarm clock, not a truth.
    StoreChanged,
    /// This box's PostgreSQL was observed.
    Observed {
        /// Which request.
        id: RequestId,
        /// What was found.
        node: Box<NodeView>,
    },
    /// An earlier life of this agent ended in the middle of this. Sent once, before anything is observed.
    Unfinished(Unfinished),
    /// Somebody wants to know how PostgreSQL is *now* (a peer before an election): look at it.
    Refresh,
    /// The postmaster ended (pidfd).
    PostmasterExited,
    /// The other members answered, or their deadline passed.
    Peers {
        /// Which request.
        id: RequestId,
        /// What they said.
        view: PeersView,
    },
    /// The upstream's timeline history was read, or could not be.
    Upstream {
        /// Which request.
        id: RequestId,
        /// What it is, or why not.
        result: Result<UpstreamHistory, String>,
    },
    /// A job ended.
    JobExited {
        /// Which.
        id: JobId,
        /// How.
        outcome: JobOutcome,
    },
    /// A background task ended, well or not.
    TaskDone(Task),
    /// A long job got on (for REST, `list` and the log).
    JobProgress {
        /// Which.
        id: JobId,
        /// Bytes done.
        done: u64,
        /// Bytes in all, if known.
        total: Option<u64>,
    },
    /// An operator asks for something.
    Command {
        /// Where the answer goes.
        reply: ReplyId,
        /// What is asked.
        command: Command,
    },
    /// The wall clock, for schedules and display; sent before each cycle's decision.
    WallClock(WallTime),
    /// A signal.
    Signal(Signal),
    /// The hardware watchdog.
    Watchdog(WatchdogReport),
    /// The guard process.
    Guard(GuardReport),
    /// The interface of a primary's virtual IP lost its carrier or is down, or has it back.
    Carrier {
        /// It is lost.
        lost: bool,
    },
    /// Boot clock and monotonic clock moved apart: the machine was suspended.
    ClockJumped {
        /// For how long.
        by: Millis,
    },
}

/// Work on the data directory that did not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// A bootstrap: the database may stand and nobody knows of it.
    Bootstrap,
    /// A copy of another member into an empty directory.
    Copy,
    /// A rewind.
    Rewind,
}

/// Signals that the core knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: stop PostgreSQL in order, hand over, exit.
    Terminate,
}

/// What came of a store request.
#[derive(Clone, Debug)]
pub enum StoreOutcome {
    /// [`super::action::StoreRequest::Read`]: the snapshot.
    View(Box<ClusterView>),
    /// [`super::action::StoreRequest::RenewLease`]: acknowledged. Counts from when the request was sent, which the core knows.
    Lease {
        /// The lease, new or renewed.
        lease: LeaseId,
        /// What the store granted.
        ttl: Millis,
    },
    /// The lease does not exist any more: definite.
    LeaseGone,
    /// A write was applied.
    Done {
        /// Store revision after it.
        revision: Revision,
    },
    /// A compare-and-set found something else: definitely not applied.
    Conflict,
    /// No answer, or an error: a write may or may not have been applied.
    Failed(DcsFailure),
}

/// Why the store gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DcsFailure {
    /// The deadline passed.
    Timeout,
    /// Connection refused, reset, unreachable.
    Unavailable(String),
    /// User or password wrong, permission denied.
    Denied(String),
    /// Anything else, in the store's words.
    Error(String),
}

impl std::fmt::Display for DcsFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DcsFailure::Timeout => f.write_str("no answer in time"),
            DcsFailure::Unavailable(text) | DcsFailure::Denied(text) | DcsFailure::Error(text) => f.write_str(text),
        }
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// As asked.
    Done,
    /// Not as asked; the sentence is for the log and the operator, secrets removed.
    Failed(String),
    /// On request.
    Cancelled,
    /// Nothing was touched: what the job needs (an empty directory) was not there. The sentence is for the log.
    Refused(String),
}

/// What an operator can ask for, by REST. The body's form is already checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// `POST /switchover`.
    Switchover {
        /// Who must lead now.
        leader: MemberName,
        /// Who shall lead next; `None`: the best.
        candidate: Option<MemberName>,
        /// When; `None`: now.
        scheduled_at: Option<WallTime>,
    },
    /// `POST /failover`.
    Failover {
        /// Who shall lead.
        candidate: MemberName,
    },
    /// `DELETE /switchover`.
    CancelSwitchover,
    /// `POST /restart`.
    Restart(RestartRequest),
    /// `DELETE /restart`.
    CancelRestart,
    /// `POST /reinitialize`.
    Reinitialize {
        /// Cancel a job that is under way.
        force: bool,
        /// Take the copy from the leader whatever the tags say.
        from_leader: bool,
    },
    /// `PATCH /config`.
    PatchConfig(Value),
    /// `PUT /config`.
    PutConfig(Value),
}

/// `POST /restart`: all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestartRequest {
    /// Only if a restart is pending.
    pub restart_pending: bool,
    /// Only in this role, in Patroni's words.
    pub role: Option<String>,
    /// Only below this server version number.
    pub postgres_version: Option<u32>,
    /// How long it may take.
    pub timeout: Option<Millis>,
    /// When; `None`: now.
    pub schedule: Option<WallTime>,
}

/// Progress of the job under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all, if known.
    pub total: Option<u64>,
    /// When this was last heard.
    pub at: Instant,
}
