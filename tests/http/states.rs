//! Snapshots of the cluster that the recordings were made of: three members, n1 leading, n3 with every tag.

use std::collections::BTreeMap;
use std::sync::Arc;

use mastiff::ha::action::Snapshot;
use mastiff::ha::config::{HaConfig, SyncMode};
use mastiff::ha::fence::{Guard, Watchdog};
use mastiff::ha::types::{Instant, LeaseId, Lsn, MemberName, Millis, Revision, SystemId, Timeline, WallTime};
use mastiff::ha::view::{
    ClusterStatus, ClusterView, DcsHealth, FailoverRequest, HistoryEntry, Initialize, LeaderEntry, Member, NodeView, PgRunning, PgState,
    ReplicationRow, Role, SyncState, Versioned,
};
use mastiff::http::{Current, Identity};
use serde_json::{json, Map, Value};

/// The boot clock of all snapshots.
pub const NOW: Instant = Instant(1_000_000);
/// 2026-11-20T21:23:00Z, when the commands were recorded.
pub const WALL: WallTime = WallTime(1_795_209_780_000);

const CONTROL: SystemId = SystemId(7_710_367_197_904_733_785);

pub fn identity(name: &str) -> Identity {
    Identity { scope: "bench".into(), name: name.into(), version: "4.1.5".into(), agent: "mastiff 0.0.0".into() }
}

pub fn current(snapshot: Snapshot) -> Current {
    Current::new(Some(snapshot), NOW, WALL)
}

fn versioned<T>(value: T) -> Versioned<T> {
    Versioned { revision: Revision(1), value }
}

fn tags() -> Value {
    json!({"nofailover": true, "noloadbalance": true, "clonefrom": true, "nosync": true, "datacenter": "edge"})
}

fn dynamic() -> Value {
    json!({"ttl": 20, "loop_wait": 1, "retry_timeout": 3, "maximum_lag_on_failover": 1_048_576, "postgresql": {"use_pg_rewind": true,
        "use_slots": true, "parameters": {"wal_log_hints": "on", "shared_buffers": "32MB", "max_connections": 50}}})
}

/// One recorded moment of the cluster.
pub struct Scene {
    pub position: u64,
    pub timeline: u32,
    pub n3_pending: bool,
    /// Keys that stand at the end of `/config`.
    pub config: Vec<(&'static str, Value)>,
    pub cluster: ClusterView,
}

/// A scene with all three members running.
pub fn scene(position: u64, timeline: u32, n3_pending: bool, config: Vec<(&'static str, Value)>) -> Scene {
    let mut cluster = ClusterView {
        revision: Revision(9),
        read_at: NOW,
        initialize: Some(Initialize::Done(CONTROL)),
        config: Some(versioned(with_keys(&config))),
        leader: Some(LeaderEntry { name: "n1".into(), lease: LeaseId(1), revision: Revision(1) }),
        status: ClusterStatus { optime: Some(Lsn(position)), ..ClusterStatus::default() },
        ..ClusterView::default()
    };
    for name in ["n1", "n2", "n3"] {
        cluster.members.insert(name.into(), member(name, position, timeline, n3_pending));
    }
    if timeline > 1 {
        cluster.history = Some(versioned(history(timeline)));
    }
    Scene { position, timeline, n3_pending, config, cluster }
}

fn with_keys(keys: &[(&'static str, Value)]) -> Value {
    let mut config = dynamic();
    for (key, value) in keys {
        config[*key] = value.clone();
    }
    config
}

fn history(timeline: u32) -> Vec<HistoryEntry> {
    let lines = [
        (100_663_632, "2026-11-20T21:23:38.588275+00:00", "n2"),
        (100_664_152, "2026-11-20T21:23:43.756275+00:00", "n1"),
        (100_664_672, "2026-11-20T21:23:49.016275+00:00", "n2"),
        (100_665_192, "2026-11-20T21:23:54.452276+00:00", "n1"),
        (100_938_592, "2026-11-20T21:26:27.200282+00:00", "n1"),
    ];
    let line = |(index, (lsn, at, leader)): (usize, (u64, &str, &str))| HistoryEntry {
        timeline: Timeline(u32::try_from(index).unwrap() + 1),
        lsn: Lsn(lsn),
        reason: "no recovery target specified".into(),
        timestamp: Some(at.into()),
        new_leader: Some(leader.into()),
    };
    lines.into_iter().enumerate().map(line).take(timeline as usize - 1).collect()
}

fn member(name: &str, position: u64, timeline: u32, n3_pending: bool) -> Member {
    let host = format!("10.77.0.{}", &name[1..]);
    let mut raw = json!({"conn_url": format!("postgres://{host}:5432/postgres"), "api_url": format!("http://{host}:8008/patroni"),
        "state": "running", "role": if name == "n1" { "primary" } else { "replica" }, "version": "4.1.5"});
    if name == "n3" {
        raw["tags"] = tags();
        if n3_pending {
            raw["pending_restart"] = json!(true);
            raw["pending_restart_reason"] = json!({"max_connections": {"old_value": "60", "new_value": "50"}});
        }
    }
    raw["xlog_location"] = json!(position);
    if name != "n1" {
        raw["replay_lsn"] = json!(position);
        raw["receive_lsn"] = json!(position);
        raw["replication_state"] = json!("streaming");
    }
    raw["timeline"] = json!(timeline);
    from_raw(raw)
}

fn from_raw(raw: Value) -> Member {
    let text = |key: &str| raw[key].as_str().map(str::to_owned);
    Member {
        conn_url: text("conn_url"),
        api_url: text("api_url"),
        state: text("state").unwrap(),
        role: text("role").unwrap(),
        position: raw["xlog_location"].as_u64().map(Lsn),
        raw,
        ..Member::default()
    }
}

impl Scene {
    fn base(&self, name: &str) -> Snapshot {
        let mut config = HaConfig::for_member(name);
        (config.ttl, config.loop_wait, config.retry_timeout) = (Millis(20_000), Millis(1000), Millis(3000));
        if name == "n3" {
            config.tags.noloadbalance = true;
            config.tags.nofailover = true;
            config.tags_raw = tags().as_object().cloned().unwrap();
        }
        for (key, value) in &self.config {
            if *key == "synchronous_mode" {
                config.synchronous_mode = if value == "quorum" { SyncMode::Quorum } else { SyncMode::On };
            }
        }
        Snapshot {
            at: NOW,
            verdict: String::new(),
            config: Arc::new(config),
            cluster: Some(Arc::new(self.cluster.clone())),
            node: None,
            is_leader: false,
            lease_deadline: None,
            dcs: DcsHealth::Good,
            dcs_seen_at: Some(NOW),
            state: "running",
            role: "replica",
            job: None,
            scheduled_restart: None,
            failsafe_active: false,
            timeline: Some(Timeline(self.timeline)),
            watchdog: Watchdog::Unknown,
            guard: Guard::Absent,
            vips: Vec::new(),
        }
    }

    fn running(&self, role: Role, started: &str) -> PgRunning {
        PgRunning {
            role,
            system_id: CONTROL,
            server_version: 150_020,
            timeline: Timeline(self.timeline),
            position: Lsn(self.position),
            received: (role == Role::Standby).then_some(Lsn(self.position)),
            replayed: (role == Role::Standby).then_some(Lsn(self.position)),
            replay_paused: false,
            replayed_at: None,
            streaming: role == Role::Standby,
            upstream: None,
            started_at: started.into(),
            replication: Vec::new(),
            slots: BTreeMap::new(),
            pending_restart: BTreeMap::new(),
            needs_reload: false,
            history: Vec::new(),
            synchronous_standby_names: String::new(),
        }
    }

    /// n1 leads, with these standbys in this order.
    pub fn leader(&self, started: &str, standbys: &[&str]) -> Snapshot {
        let mut running = self.running(Role::Primary, started);
        let sync = self.cluster.sync.is_some();
        running.replication = standbys.iter().map(|name| row(name, sync && *name == "n2")).collect();
        let mut snapshot = self.base("n1");
        snapshot.role = "primary";
        snapshot.is_leader = true;
        snapshot.lease_deadline = Some(NOW + Millis(15_000));
        snapshot.node = Some(Arc::new(NodeView { observed_at: NOW, pg: PgState::Running(running) }));
        snapshot
    }

    /// A standby.
    pub fn standby(&self, name: &str, started: &str, replayed_at: Option<&str>) -> Snapshot {
        let mut running = self.running(Role::Standby, started);
        running.replayed_at = replayed_at.map(str::to_owned);
        if name == "n3" && self.n3_pending {
            running.pending_restart.insert("max_connections".into(), ("60".into(), "50".into()));
        }
        let mut snapshot = self.base(name);
        snapshot.node = Some(Arc::new(NodeView { observed_at: NOW, pg: PgState::Running(running) }));
        snapshot
    }

    /// The store has been silent for a while.
    pub fn without_store(snapshot: &mut Snapshot) {
        snapshot.dcs = DcsHealth::Unreachable { since: NOW - Millis(15_000) };
        snapshot.dcs_seen_at = Some(NOW - Millis(16_000));
    }

    /// The list of the failsafe key.
    pub fn with_failsafe(mut self) -> Scene {
        let url = |name: &MemberName| format!("http://10.77.0.{}:8008/patroni", &name.0[1..]);
        self.cluster.failsafe = Some(self.cluster.members.keys().map(|name| (name.clone(), url(name))).collect());
        self
    }

    /// `/sync` with n2.
    pub fn with_sync(mut self) -> Scene {
        let sync = SyncState { leader: Some("n1".into()), standbys: ["n2".into()].into(), quorum: 0 };
        self.cluster.sync = Some(versioned(sync));
        self
    }

    /// A switchover that waits.
    pub fn with_switchover(mut self, at: WallTime) -> Scene {
        let request = FailoverRequest { leader: Some("n1".into()), candidate: Some("n2".into()), scheduled_at: Some(at) };
        self.cluster.failover = Some(versioned(request));
        self
    }

    /// n1's PostgreSQL was stopped in pause and its key is gone.
    pub fn stopped_in_pause(mut self) -> (Scene, Snapshot) {
        self.cluster.leader = None;
        self.cluster.status.optime = Some(Lsn(0x60434F0));
        let url = |name: &str| json!({"conn_url": format!("postgres://10.77.0.{name}:5432/postgres"), "api_url": format!("http://10.77.0.{name}:8008/patroni")});
        let mut stopped = url("1");
        stopped["state"] = json!("stopped");
        stopped["role"] = json!("primary");
        self.cluster.members.insert("n1".into(), from_raw(stopped));
        for name in ["n2", "n3"] {
            let mut raw = self.cluster.members[&MemberName::from(name)].raw.clone();
            raw.as_object_mut().map(|raw: &mut Map<String, Value>| raw.shift_remove("replication_state"));
            self.cluster.members.insert(name.into(), from_raw(raw));
        }
        let mut snapshot = self.base("n1");
        (snapshot.state, snapshot.role, snapshot.timeline) = ("stopped", "primary", None);
        snapshot.node = Some(Arc::new(NodeView { observed_at: NOW, pg: PgState::Unresponsive { as_standby: false } }));
        (self, snapshot)
    }
}

fn row(name: &str, sync: bool) -> ReplicationRow {
    ReplicationRow {
        usename: "replicator".into(),
        application_name: name.into(),
        client_addr: Some(format!("10.77.0.{}", &name[1..])),
        state: "streaming".into(),
        sync_state: if sync { "sync" } else { "async" }.into(),
        sync_priority: i32::from(sync),
        ..ReplicationRow::default()
    }
}

/// The usual pair: n1 leading, n2 following, in asynchronous mode.
pub fn async_leader() -> Snapshot {
    scene(67_108_864, 1, false, Vec::new()).leader("2026-11-20 21:22:38.723601+00", &["n2", "n3"])
}

/// Its follower.
pub fn async_replica() -> Snapshot {
    scene(67_108_864, 1, false, Vec::new()).standby("n2", "2026-11-20 21:22:42.433302+00", None)
}
