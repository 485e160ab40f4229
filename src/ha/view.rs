//! What the core knows: the store's content, this box's PostgreSQL, the other members. Snapshots with the time they were true.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::types::{Instant, LeaseId, Lsn, MemberName, Revision, SystemId, Timeline, WallTime};

/// A value with the revision that a compare-and-set needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// `mod_revision` of the key.
    pub revision: Revision,
    /// Its parsed content.
    pub value: T,
}

/// All keys of one scope as one snapshot of the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterView {
    /// Revision of the store at the read.
    pub revision: Revision,
    /// When the read was *sent*; the content is at least as new as this.
    pub read_at: Instant,
    /// `/initialize`: absent, claimed (being initialised) or the system identifier.
    pub initialize: Option<Initialize>,
    /// `/config`: the dynamic configuration as written.
    pub config: Option<Versioned<Value>>,
    /// `/leader`.
    pub leader: Option<LeaderEntry>,
    /// `/members/*`.
    pub members: BTreeMap<MemberName, Member>,
    /// `/status` (or the old `/optime/leader`).
    pub status: ClusterStatus,
    /// `/failover`, absent if empty or `{}`.
    pub failover: Option<Versioned<FailoverRequest>>,
    /// `/sync`.
    pub sync: Option<Versioned<SyncState>>,
    /// `/history`.
    pub history: Option<Versioned<Vec<HistoryEntry>>>,
    /// `/failsafe`: member name to `api_url`.
    pub failsafe: Option<BTreeMap<MemberName, String>>,
}

impl ClusterView {
    /// The leader's name, if a leader key exists.
    #[must_use]
    pub fn leader_name(&self) -> Option<&MemberName> {
        self.leader.as_ref().map(|leader| &leader.name)
    }

    /// The leader's member entry.
    #[must_use]
    pub fn leader_member(&self) -> Option<&Member> {
        self.members.get(self.leader_name()?)
    }

    /// The system identifier that the cluster was initialised with.
    #[must_use]
    pub fn system_id(&self) -> Option<SystemId> {
        match self.initialize {
            Some(Initialize::Done(id)) => Some(id),
            _ => None,
        }
    }

    /// `pause: true` in the dynamic configuration.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.config.as_ref().and_then(|config| config.value.get("pause")).and_then(Value::as_bool).unwrap_or(false)
    }
}

/// The `/initialize` key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initialize {
    /// Somebody is initialising the cluster: the key is there and empty.
    InProgress,
    /// The cluster exists.
    Done(SystemId),
}

/// The `/leader` key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderEntry {
    /// Its value.
    pub name: MemberName,
    /// The lease it hangs on; a key with our name but a foreign lease is not ours.
    pub lease: LeaseId,
    /// `mod_revision`.
    pub revision: Revision,
}

/// One `/members/NAME` key. What the core does not decide by stays in `raw`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Member {
    /// `conn_url`: `postgres://host:port/postgres`.
    pub conn_url: Option<String>,
    /// `api_url`: `http://host:port/patroni`.
    pub api_url: Option<String>,
    /// `state`, in Patroni's words.
    pub state: String,
    /// `role`, in Patroni's words.
    pub role: String,
    /// `timeline`.
    pub timeline: Option<Timeline>,
    /// `xlog_location`: the newest position (received or replayed, or written).
    pub position: Option<Lsn>,
    /// `checkpoint_after_promote: false` is still pending.
    pub checkpoint_pending: bool,
    /// `tags`.
    pub tags: Tags,
    /// The lease of the key.
    pub lease: LeaseId,
    /// The document as it was read.
    pub raw: Value,
}

/// The tags that the core decides by. Others live in [`Member::raw`] and [`super::config::HaConfig`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tags {
    /// Never becomes leader. Also true for `failover_priority <= 0`.
    pub nofailover: bool,
    /// Tie-break among equal positions; 1 by default.
    pub failover_priority: i64,
    /// Preferred source of base backups.
    pub clonefrom: bool,
    /// Never a synchronous standby.
    pub nosync: bool,
    /// Preference for the synchronous role.
    pub sync_priority: i64,
    /// Not served to load balancers.
    pub noloadbalance: bool,
    /// Cascade from this member.
    pub replicatefrom: Option<MemberName>,
    /// Archive only.
    pub nostream: bool,
}

impl Default for Tags {
    fn default() -> Tags {
        Tags {
            nofailover: false,
            failover_priority: 1,
            clonefrom: false,
            nosync: false,
            sync_priority: 1,
            noloadbalance: false,
            replicatefrom: None,
            nostream: false,
        }
    }
}

/// `/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterStatus {
    /// `optime`: the leader's last written position.
    pub optime: Option<Lsn>,
    /// `slots`: name to confirmed position.
    pub slots: BTreeMap<String, Lsn>,
    /// `retain_slots`.
    pub retain_slots: BTreeSet<String>,
}

/// `/failover`: a switchover (with `leader`) or a failover (without).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailoverRequest {
    /// Who must be leader for this to count; `None` is a failover.
    pub leader: Option<MemberName>,
    /// Who shall lead; `None`: the best.
    pub candidate: Option<MemberName>,
    /// When; `None`: at once.
    pub scheduled_at: Option<WallTime>,
}

/// `/sync`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncState {
    /// Who wrote it.
    pub leader: Option<MemberName>,
    /// The synchronous standbys.
    pub standbys: BTreeSet<MemberName>,
    /// Votes needed beside the leader's own knowledge; 0 in priority mode.
    pub quorum: u32,
}

/// One line of `/history`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The timeline that ended.
    pub timeline: Timeline,
    /// Where it ended.
    pub lsn: Lsn,
    /// PostgreSQL's reason.
    pub reason: String,
    /// When, as written (ISO 8601), if known.
    pub timestamp: Option<String>,
    /// Who led next, if known.
    pub new_leader: Option<MemberName>,
}

/// What one observation of this box found.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    /// When the observation was *started*; every fact is at least this new.
    pub observed_at: Instant,
    /// PostgreSQL.
    pub pg: PgState,
}

/// This box's PostgreSQL. Unknown is a value: it leads to a decision like any other.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)] // one value lives at a time; a box would only move it
pub enum PgState {
    /// No data directory, or an empty one.
    Empty,
    /// Something is in the data directory, but it is no PostgreSQL cluster that we can read. Never touched.
    Unreadable {
        /// What is wrong, for the operator.
        reason: String,
    },
    /// A data directory without a running postmaster.
    Stopped(ControlData),
    /// The postmaster runs but does not accept connections yet (start-up, crash recovery) or any more (shutting down).
    Starting {
        /// The server's answer is "shutting down" rather than "starting up".
        stopping: bool,
        /// A signal file asks for recovery: it will come up as a standby.
        as_standby: bool,
        /// `pg_control` at the same time, if readable.
        control: Option<ControlData>,
    },
    /// The postmaster runs and gave no answer in time.
    Unresponsive {
        /// A signal file asks for recovery: PostgreSQL removes it before it opens for writes, so with the file it cannot write.
        as_standby: bool,
    },
    /// It answers.
    Running(PgRunning),
}

impl PgState {
    /// The answer of a running PostgreSQL.
    #[must_use]
    pub fn running(&self) -> Option<&PgRunning> {
        match self {
            PgState::Running(running) => Some(running),
            _ => None,
        }
    }

    /// Whether a running PostgreSQL accepts writes.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.running().is_some_and(|running| running.role == Role::Primary)
    }

    /// Whether a postmaster is alive, answering or not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self, PgState::Starting { .. } | PgState::Unresponsive { .. } | PgState::Running(_))
    }

    /// The system identifier, where it is known.
    #[must_use]
    pub fn system_id(&self) -> Option<SystemId> {
        match self {
            PgState::Stopped(control) | PgState::Starting { control: Some(control), .. } => Some(control.system_id),
            PgState::Running(running) => Some(running.system_id),
            _ => None,
        }
    }
}

/// Whether PostgreSQL accepts writes or is in recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Accepts writes.
    Primary,
    /// In recovery.
    Standby,
}

/// What `pg_control` says (`src/include/catalog/pg_control.h`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlData {
    /// System identifier.
    pub system_id: SystemId,
    /// The state at the last write of the file.
    pub state: ControlState,
    /// Timeline of the latest checkpoint.
    pub timeline: Timeline,
    /// Latest checkpoint's record position.
    pub checkpoint: Lsn,
    /// Minimum recovery ending position (zero on a primary).
    pub min_recovery_end: Lsn,
    /// And its timeline (zero on a primary).
    pub min_recovery_timeline: Timeline,
    /// Data checksums or `wal_log_hints`: `pg_rewind` can work.
    pub can_rewind: bool,
    /// A `backup_label` lies beside it: a copy of another member that never ran here, whatever state its origin was in.
    pub is_copy: bool,
}

impl ControlData {
    /// Whether the data was last written here by a primary (cleanly stopped or crashed).
    #[must_use]
    pub fn was_primary(&self) -> bool {
        self.state.was_primary() && !self.is_copy
    }

    /// Where this data directory stands: timeline and position up to which it is consistent.
    #[must_use]
    pub fn end(&self) -> (Timeline, Lsn) {
        match self.state {
            ControlState::InArchiveRecovery | ControlState::ShutDownInRecovery
                if self.min_recovery_timeline.0 != 0 && self.min_recovery_end >= self.checkpoint =>
            {
                (self.min_recovery_timeline, self.min_recovery_end)
            }
            _ => (self.timeline, self.checkpoint),
        }
    }
}

/// `DBState` of `pg_control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlState {
    /// `starting up`.
    StartingUp,
    /// `shut down`: a clean stop of a primary.
    ShutDown,
    /// `shut down in recovery`: a clean stop of a standby.
    ShutDownInRecovery,
    /// `shutting down`.
    ShuttingDown,
    /// `in crash recovery`.
    InCrashRecovery,
    /// `in archive recovery`: a standby that was killed, or runs.
    InArchiveRecovery,
    /// `in production`: a primary that was killed, or runs.
    InProduction,
}

impl ControlState {
    /// Whether this is a primary's state (cleanly stopped, crashed or running).
    #[must_use]
    pub fn was_primary(self) -> bool {
        !matches!(self, ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery)
    }

    /// Whether a stopped directory in this state went down cleanly.
    #[must_use]
    pub fn is_clean(self) -> bool {
        matches!(self, ControlState::ShutDown | ControlState::ShutDownInRecovery)
    }
}

/// A running PostgreSQL's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct PgRunning {
    /// Primary or standby.
    pub role: Role,
    /// System identifier.
    pub system_id: SystemId,
    /// Server version number, for example 150020.
    pub server_version: u32,
    /// The timeline that is written (primary) or replayed and received (standby).
    pub timeline: Timeline,
    /// Written position on a primary; the newest of received and replayed on a standby.
    pub position: Lsn,
    /// Received position of a standby.
    pub received: Option<Lsn>,
    /// Replayed position of a standby.
    pub replayed: Option<Lsn>,
    /// Replay is paused.
    pub replay_paused: bool,
    /// Wall time of the last replayed transaction, as PostgreSQL prints it.
    pub replayed_at: Option<String>,
    /// The WAL receiver of a standby streams.
    pub streaming: bool,
    /// `host:port` of `primary_conninfo` as in effect (standby); the form of [`super::action::Upstream::address`].
    pub upstream: Option<String>,
    /// `pg_postmaster_start_time()` as PostgreSQL prints it.
    pub started_at: String,
    /// `pg_stat_replication`.
    pub replication: Vec<ReplicationRow>,
    /// `pg_replication_slots`.
    pub slots: BTreeMap<String, SlotRow>,
    /// Parameters that wait for a restart: name to (value in effect, value wanted).
    pub pending_restart: BTreeMap<String, (String, String)>,
    /// Configuration or data that differ from what the agent would write (parameters, hba): a reload is due.
    pub needs_reload: bool,
    /// The last part of the timeline history file: who ended where.
    pub history: Vec<HistoryEntry>,
    /// `synchronous_standby_names` in effect.
    pub synchronous_standby_names: String,
}

/// One row of `pg_stat_replication`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationRow {
    /// `usename`.
    pub usename: String,
    /// `application_name`: the member's name.
    pub application_name: String,
    /// `client_addr`.
    pub client_addr: Option<String>,
    /// `state`.
    pub state: String,
    /// `sync_state`.
    pub sync_state: String,
    /// `sync_priority`.
    pub sync_priority: i32,
    /// `flush_lsn`.
    pub flush: Option<Lsn>,
    /// `replay_lsn`.
    pub replay: Option<Lsn>,
}

/// One row of `pg_replication_slots`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotRow {
    /// Physical, or logical with its plugin and database.
    pub physical: bool,
    /// In use.
    pub active: bool,
    /// `restart_lsn`.
    pub restart_lsn: Option<Lsn>,
    /// `confirmed_flush_lsn` (logical).
    pub confirmed_flush: Option<Lsn>,
}

/// What the other members said when they were asked over REST.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeersView {
    /// When the questions were sent.
    pub asked_at: Instant,
    /// Members that answered and whose PostgreSQL is starting: where they stand is not known yet.
    pub starting: BTreeSet<MemberName>,
    /// One entry for each member that was asked; `None`: no usable answer.
    pub peers: BTreeMap<MemberName, Option<PeerStatus>>,
}

/// One member's `GET /patroni`, as far as an election needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// In recovery.
    pub in_recovery: bool,
    /// Newest received or replayed position; the written one on a primary.
    pub position: Lsn,
    /// Timeline.
    pub timeline: Option<Timeline>,
    /// `dcs_last_seen`, seconds since the epoch by its own clock.
    pub dcs_last_seen: u64,
    /// `watchdog_failed: true`.
    pub watchdog_failed: bool,
    /// Tags.
    pub tags: Tags,
}

/// What is known of the upstream's history, read from its SQL interface before a rewind decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamHistory {
    /// Whom it belongs to.
    pub member: MemberName,
    /// It is not in recovery.
    pub is_primary: bool,
    /// System identifier.
    pub system_id: SystemId,
    /// Its current timeline.
    pub timeline: Timeline,
    /// Its written (or replayed) position.
    pub position: Lsn,
    /// Ends of the earlier timelines, from its history file.
    pub history: Vec<(Timeline, Lsn)>,
    /// Start of the oldest WAL segment that it still has, if it could be read.
    pub oldest_wal: Option<Lsn>,
}

/// Health of the store as the core saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DcsHealth {
    /// Nothing was read yet.
    #[default]
    NeverSeen,
    /// The last read succeeded.
    Good,
    /// Reads fail since this time.
    Unreachable {
        /// First failure after the last success.
        since: Instant,
    },
}
