//! The status document: the body of `/patroni` and of every health check. Absent rather than false, in Patroni's order.

use serde_json::{json, Map, Value};

use crate::ha::action::Snapshot;
use crate::ha::types::Lsn;
use crate::ha::view::{PgRunning, ReplicationRow, Role};

use super::view::{is_paused, is_sync_member, sync_word, visible_cluster, Current, Identity};
use super::{fences, json, parse};

/// What a snapshot says of this box, in Patroni's words.
#[derive(Clone, Copy, Debug)]
pub struct Status<'a> {
    /// `state`.
    pub state: &'a str,
    /// `role`.
    pub role: &'a str,
    /// PostgreSQL's answer, where the document shows it.
    pub running: Option<&'a PgRunning>,
    /// `sync_standby` or `quorum_standby`.
    pub sync: Option<&'static str>,
    /// `replication_state`.
    pub replication_state: Option<&'static str>,
}

impl<'a> Status<'a> {
    /// The status that `snapshot` shows. A stale one says `unknown` and gives no positions, so that no peer reckons with this member.
    #[must_use]
    pub fn of(snapshot: Option<&'a Snapshot>, stale: bool) -> Status<'a> {
        let Some(snapshot) = snapshot else {
            return Status { state: "stopped", role: "uninitialized", running: None, sync: None, replication_state: None };
        };
        let answering = snapshot.node.as_deref().and_then(|node| node.pg.running());
        let shows = matches!(snapshot.state, "running" | "restarting" | "starting");
        match answering.filter(|_| shows && !stale) {
            Some(running) => Status::of_running(snapshot, running),
            None => {
                let state = if snapshot.state == "running" || stale { "unknown" } else { snapshot.state };
                Status { state, role: snapshot.role, running: None, sync: None, replication_state: None }
            }
        }
    }

    fn of_running(snapshot: &'a Snapshot, running: &'a PgRunning) -> Status<'a> {
        let role = match running.role {
            Role::Primary => "primary",
            Role::Standby if snapshot.config.standby_cluster => snapshot.role,
            Role::Standby => "replica",
        };
        let listed = || visible_cluster(snapshot).is_some_and(|cluster| is_sync_member(cluster, snapshot.config.me.as_str()));
        let sync = sync_word(snapshot.config.synchronous_mode).filter(|_| role == "replica" && listed());
        let replication_state = (running.role == Role::Standby && running.streaming).then_some("streaming");
        Status { state: snapshot.state, role, running: Some(running), sync, replication_state }
    }

    /// Received position of a standby; the replayed one where nothing was received.
    #[must_use]
    pub fn received(&self) -> Lsn {
        self.running.and_then(|running| running.received.or(running.replayed)).unwrap_or_default()
    }

    /// Replayed position of a standby.
    #[must_use]
    pub fn replayed(&self) -> Lsn {
        self.running.and_then(|running| running.replayed).unwrap_or_default()
    }
}

/// The document as text.
#[must_use]
pub fn render(current: &Current, identity: &Identity, stale: bool) -> String {
    json::render(&Value::Object(document(current, identity, stale)))
}

fn document(current: &Current, identity: &Identity, stale: bool) -> Map<String, Value> {
    let snapshot = current.snapshot.as_ref();
    let status = Status::of(snapshot, stale);
    let mut doc = postgres_part(&status, snapshot);
    let cluster = snapshot.filter(|_| !stale).and_then(visible_cluster);
    if snapshot.is_some_and(is_paused) {
        doc.insert("pause".into(), Value::Bool(true));
    }
    if cluster.is_none_or(|cluster| cluster.leader.is_none()) {
        doc.insert("cluster_unlocked".into(), Value::Bool(true));
    }
    if snapshot.is_some_and(|snapshot| snapshot.failsafe_active) {
        doc.insert("failsafe_mode_is_active".into(), Value::Bool(true));
    }
    doc.insert("dcs_last_seen".into(), json!(current.dcs_last_seen()));
    if let Some(snapshot) = snapshot {
        member_part(&mut doc, snapshot, &status);
    }
    let patroni = json!({"version": identity.version, "scope": identity.scope, "name": identity.name, "agent": identity.agent});
    doc.insert("patroni".into(), patroni);
    if let Some(snapshot) = snapshot {
        task_part(&mut doc, snapshot);
    }
    fences::put(&mut doc, current, stale);
    doc
}

fn postgres_part(status: &Status<'_>, snapshot: Option<&Snapshot>) -> Map<String, Value> {
    let mut doc = Map::new();
    doc.insert("state".into(), json!(status.state));
    let Some(running) = status.running else {
        doc.insert("role".into(), json!(status.role));
        return doc;
    };
    doc.insert("postmaster_start_time".into(), json!(parse::python_timestamp(&running.started_at)));
    doc.insert("role".into(), json!(status.role));
    doc.insert("server_version".into(), json!(running.server_version));
    doc.insert("xlog".into(), positions(status, running));
    if let Some(word) = status.sync {
        doc.insert(word.into(), Value::Bool(true));
    }
    let timeline = snapshot.and_then(|snapshot| snapshot.timeline).unwrap_or(running.timeline);
    doc.insert("timeline".into(), json!(timeline.0));
    if let Some(state) = status.replication_state {
        doc.insert("replication_state".into(), json!(state));
    }
    if !running.replication.is_empty() {
        doc.insert("replication".into(), running.replication.iter().map(replication_row).collect());
    }
    doc
}

fn positions(status: &Status<'_>, running: &PgRunning) -> Value {
    match running.role {
        Role::Primary => json!({"location": running.position.0}),
        Role::Standby => json!({
            "received_location": status.received().0,
            "replayed_location": status.replayed().0,
            "replayed_timestamp": running.replayed_at.as_deref().map(parse::python_timestamp),
            "paused": running.replay_paused,
        }),
    }
}

fn replication_row(row: &ReplicationRow) -> Value {
    json!({
        "usename": row.usename,
        "application_name": row.application_name,
        "client_addr": row.client_addr,
        "state": row.state,
        "sync_state": row.sync_state,
        "sync_priority": row.sync_priority,
    })
}

fn member_part(doc: &mut Map<String, Value>, snapshot: &Snapshot, status: &Status<'_>) {
    if !snapshot.config.tags_raw.is_empty() {
        doc.insert("tags".into(), Value::Object(snapshot.config.tags_raw.clone()));
    }
    let own = snapshot.node.as_deref().and_then(|node| node.pg.system_id());
    let system_id = own.or_else(|| snapshot.cluster.as_deref().and_then(|cluster| cluster.system_id()));
    if let Some(id) = system_id {
        doc.insert("database_system_identifier".into(), json!(id.to_string()));
    }
    let pending = status.running.map(|running| &running.pending_restart).filter(|pending| !pending.is_empty());
    if let Some(pending) = pending {
        let reason: Map<String, Value> =
            pending.iter().map(|(name, (old, new))| (name.clone(), json!({"old_value": old, "new_value": new}))).collect();
        doc.insert("pending_restart".into(), Value::Bool(true));
        doc.insert("pending_restart_reason".into(), Value::Object(reason));
    }
}

fn task_part(doc: &mut Map<String, Value>, snapshot: &Snapshot) {
    if let Some(restart) = &snapshot.scheduled_restart {
        let mut shown = Map::new();
        if restart.restart_pending {
            shown.insert("restart_pending".into(), Value::Bool(true));
        }
        if let Some(role) = &restart.role {
            shown.insert("role".into(), json!(role));
        }
        if let Some(version) = restart.postgres_version {
            shown.insert("postgres_version".into(), json!(version_text(version)));
        }
        if let Some(timeout) = restart.timeout {
            shown.insert("timeout".into(), json!(timeout.as_secs()));
        }
        if let Some(at) = restart.schedule {
            shown.insert("schedule".into(), json!(parse::isoformat(at)));
        }
        doc.insert("scheduled_restart".into(), Value::Object(shown));
    }
    if fences::watchdog_failed(snapshot) {
        doc.insert("watchdog_failed".into(), Value::Bool(true));
    }
    if let Some((name, progress)) = &snapshot.job {
        let mut job = Map::new();
        job.insert("name".into(), json!(name));
        if let Some(progress) = progress {
            job.insert("bytes_done".into(), json!(progress.done));
            if let Some(total) = progress.total {
                job.insert("bytes_total".into(), json!(total));
            }
        }
        // Not in Patroni: the copy's progress, for `list` and for the operator who waits.
        doc.insert("job".into(), Value::Object(job));
    }
}

fn version_text(version: u32) -> String {
    if version >= 100_000 {
        format!("{}.{}", version / 10_000, version % 10_000)
    } else {
        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }
}
