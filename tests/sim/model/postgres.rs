//! One PostgreSQL: data directory, process, WAL and how they look to an observer. Pure state; time passes in `pg_events.rs`.

use std::collections::BTreeMap;

use mastiff::ha::types::{Lsn, SystemId, Timeline};
use mastiff::ha::view::{ControlData, ControlState, HistoryEntry, PgRunning, PgState, ReplicationRow, Role, SlotRow};

use super::wal::Wal;

/// What is in the data directory.
#[derive(Clone, Debug)]
pub enum Data {
    /// Nothing.
    Empty,
    /// The rest of a copy, an initdb or a removal that did not end.
    Partial,
    /// A cluster.
    Cluster(Box<Cluster>),
}

/// A data directory's content.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// System identifier.
    pub system_id: u64,
    /// WAL.
    pub wal: Wal,
    /// `pg_control`'s state.
    pub state: ControlState,
    /// Latest checkpoint: timeline and position.
    pub checkpoint: (u32, u64),
    /// Minimum recovery end of a standby.
    pub min_recovery: (u32, u64),
    /// The newest timeline of which a history file was seen.
    pub seen_timeline: u32,
    /// A rewind ended half-way: it does not start before one succeeds.
    pub corrupt: bool,
    /// A `backup_label` lies in it: a copy that never ran here.
    pub is_copy: bool,
    /// Slots.
    pub slots: BTreeMap<String, Lsn>,
}

impl Cluster {
    /// Fresh from initdb.
    pub fn new(system_id: u64, record: u64) -> Cluster {
        let mut wal = Wal::default();
        wal.append(record, 120);
        let end = wal.end();
        Cluster {
            system_id,
            wal,
            state: ControlState::ShutDown,
            checkpoint: (1, end - 120),
            min_recovery: (0, 0),
            seen_timeline: 1,
            corrupt: false,
            is_copy: false,
            slots: BTreeMap::new(),
        }
    }

    /// What `pg_controldata` shows.
    pub fn control(&self) -> ControlData {
        ControlData {
            system_id: SystemId(self.system_id),
            state: self.state,
            timeline: Timeline(self.checkpoint.0),
            checkpoint: Lsn(self.checkpoint.1),
            min_recovery_end: Lsn(self.min_recovery.1),
            min_recovery_timeline: Timeline(self.min_recovery.0),
            can_rewind: true,
            is_copy: self.is_copy,
        }
    }

    /// A checkpoint at the end of the WAL, with its record on a primary.
    pub fn write_checkpoint(&mut self, record: u64) {
        self.wal.append(record, 120);
        self.checkpoint = (self.wal.timeline(), self.wal.last_start());
    }

    /// What a standby notes when it stops or checkpoints.
    pub fn note_recovery(&mut self) {
        self.min_recovery = (self.wal.timeline(), self.wal.end());
    }
}

/// The postmaster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proc {
    /// None.
    Down,
    /// Starts; connections are refused.
    Starting {
        /// Becomes a primary.
        primary: bool,
    },
    /// A standby.
    Standby,
    /// A standby that was told to promote.
    Promoting,
    /// A primary.
    Primary,
    /// Shuts down; cannot write any more.
    Stopping {
        /// Was a primary.
        primary: bool,
        /// World time of the order.
        since: u64,
    },
}

/// A standby's connection to its upstream.
#[derive(Clone, Debug)]
pub struct Stream {
    /// From whom.
    pub upstream: usize,
    /// Number of the connection.
    pub id: u64,
    /// A delivery is under way.
    pub pending: bool,
    /// Nothing came through since then.
    pub stalled_since: Option<u64>,
}

/// One PostgreSQL.
#[derive(Debug)]
pub struct Pg {
    /// The data directory.
    pub data: Data,
    /// The postmaster.
    pub proc: Proc,
    /// Counts lives of the postmaster; events of an earlier life are void.
    pub life: u64,
    /// Does not react: until then.
    pub hung: bool,
    /// A stop that was asked for while it hung.
    pub held_stop: Option<bool>,
    /// `primary_conninfo`.
    pub upstream: Option<usize>,
    /// The WAL receiver.
    pub stream: Option<Stream>,
    /// When the postmaster started.
    pub started_at: u64,
    /// What the checkers were told last.
    pub told_writable: bool,
    /// The postmaster lives because of a bootstrap job.
    pub bootstrapping: bool,
}

impl Pg {
    /// No data, no process.
    pub fn new() -> Pg {
        Pg {
            data: Data::Empty,
            proc: Proc::Down,
            life: 0,
            hung: false,
            held_stop: None,
            upstream: None,
            stream: None,
            started_at: 0,
            told_writable: false,
            bootstrapping: false,
        }
    }

    /// A postmaster lives.
    pub fn is_alive(&self) -> bool {
        self.proc != Proc::Down
    }

    /// Accepts writes.
    pub fn is_writable(&self) -> bool {
        self.proc == Proc::Primary
    }

    /// Accepts writes, or will without being asked again.
    pub fn may_write(&self) -> bool {
        matches!(self.proc, Proc::Primary | Proc::Promoting | Proc::Starting { primary: true })
    }

    /// Serves others: as an upstream, as a source of copies.
    pub fn is_serving(&self) -> bool {
        matches!(self.proc, Proc::Primary | Proc::Standby | Proc::Promoting) && !self.hung
    }

    /// The cluster in the data directory.
    pub fn cluster(&self) -> Option<&Cluster> {
        match &self.data {
            Data::Cluster(cluster) => Some(cluster),
            _ => None,
        }
    }

    /// The cluster in the data directory.
    pub fn cluster_mut(&mut self) -> Option<&mut Cluster> {
        match &mut self.data {
            Data::Cluster(cluster) => Some(cluster),
            _ => None,
        }
    }

    /// Its timeline, zero without data.
    pub fn timeline(&self) -> u32 {
        self.cluster().map_or(0, |cluster| cluster.wal.timeline())
    }

    /// What an observer finds. `names` and `children` are for the details of a running server.
    pub fn observe(&self, names: &[String], children: Vec<ReplicationRow>) -> PgState {
        let cluster = match &self.data {
            Data::Empty => return PgState::Empty,
            Data::Partial => return PgState::Unreadable { reason: "the data directory is incomplete".to_owned() },
            Data::Cluster(cluster) => cluster,
        };
        if self.proc == Proc::Down {
            return PgState::Stopped(cluster.control());
        }
        if self.hung {
            return PgState::Unresponsive { as_standby: !matches!(self.proc, Proc::Starting { primary: true } | Proc::Primary) };
        }
        let role = match self.proc {
            Proc::Starting { primary } => {
                return PgState::Starting { stopping: false, as_standby: !primary, control: Some(cluster.control()) };
            }
            Proc::Stopping { primary, .. } => {
                return PgState::Starting { stopping: true, as_standby: !primary, control: Some(cluster.control()) };
            }
            Proc::Primary => Role::Primary,
            Proc::Standby | Proc::Promoting | Proc::Down => Role::Standby,
        };
        PgState::Running(self.running(cluster, role, names, children))
    }

    fn running(&self, cluster: &Cluster, role: Role, names: &[String], children: Vec<ReplicationRow>) -> PgRunning {
        let end = Lsn(cluster.wal.end());
        let standby = role == Role::Standby;
        let slot = |lsn: &Lsn| SlotRow { physical: true, active: false, restart_lsn: Some(*lsn), confirmed_flush: None };
        let entry = |&(timeline, lsn): &(u32, u64)| HistoryEntry {
            timeline: Timeline(timeline),
            lsn: Lsn(lsn),
            reason: String::new(),
            timestamp: None,
            new_leader: None,
        };
        PgRunning {
            role,
            system_id: SystemId(cluster.system_id),
            server_version: 150_008,
            timeline: Timeline(cluster.wal.timeline()),
            position: end,
            received: standby.then_some(end),
            replayed: standby.then_some(end),
            replay_paused: false,
            replayed_at: None,
            streaming: self.stream.is_some(),
            upstream: self.upstream.filter(|_| standby).map(|node| upstream_text(&names[node])),
            started_at: self.started_at.to_string(),
            replication: children,
            slots: cluster.slots.iter().map(|(name, lsn)| (name.clone(), slot(lsn))).collect(),
            pending_restart: BTreeMap::new(),
            needs_reload: false,
            history: cluster.wal.history.iter().map(entry).collect(),
            synchronous_standby_names: String::new(),
        }
    }
}

/// `primary_conninfo` as an observation shows it.
pub fn upstream_text(name: &str) -> String {
    format!("{name}:5432")
}
