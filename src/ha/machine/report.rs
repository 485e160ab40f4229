//! What others see: the member key and the snapshot for REST.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Machine, WriteKind};
use crate::ha::action::{Action, Snapshot, StoreRequest};
use crate::ha::config::WatchdogMode;
use crate::ha::decide::BootstrapStep;
use crate::ha::fence::Watchdog;
use crate::ha::types::{Instant, LeaseId};
use crate::ha::view::{ClusterView, NodeView, PgRunning, PgState, Role};

/// The member key as it was written last.
#[derive(Debug, Default)]
pub(super) struct MemberDocument {
    written: Option<(Map<String, Value>, LeaseId, Instant)>,
}

impl MemberDocument {
    /// The key may be gone: write it again.
    pub(super) fn forget(&mut self) {
        self.written = None;
    }
}

/// Fields that change with every transaction: written at the pace of the loop, not with every event.
const POSITIONS: [&str; 3] = ["xlog_location", "replay_lsn", "receive_lsn"];

impl Machine {
    pub(super) fn write_member(&mut self, cluster: &ClusterView, node: &NodeView, out: &mut Vec<Action>) {
        let Some(lease) = self.memory.lease else { return };
        let document = self.member_document(cluster, node);
        let due = match &self.member.written {
            None => true,
            Some((old, old_lease, at)) => {
                let pace = self.now.since(*at) >= self.config.loop_wait;
                *old_lease != lease.id || without_positions(old) != without_positions(&document) || (pace && *old != document)
            }
        };
        if !due {
            return;
        }
        let request = StoreRequest::PutMember { value: Value::Object(document.clone()), lease: lease.id };
        if self.send_write(WriteKind::Member, request, out) {
            self.member.written = Some((document, lease.id, self.now));
        }
    }

    /// The document in Patroni's order of keys.
    fn member_document(&self, cluster: &ClusterView, node: &NodeView) -> Map<String, Value> {
        let config = &self.config;
        let mut doc = Map::new();
        let mut put = |key: &str, value: Value| {
            doc.insert(key.to_owned(), value);
        };
        put("conn_url", config.conn_url.clone().into());
        put("api_url", config.api_url.clone().into());
        put("state", self.state_word(node).into());
        put("role", self.role_word(node).into());
        put("version", config.version.clone().into());
        put("agent", config.agent.clone().into());
        if let Some(proxy_url) = &config.proxy_url {
            put("proxy_url", proxy_url.clone().into());
        }
        if self.checkpoint_pending {
            put("checkpoint_after_promote", false.into());
        }
        if !config.tags_raw.is_empty() {
            put("tags", Value::Object(config.tags_raw.clone()));
        }
        if let Some(running) = node.pg.running() {
            running_fields(running, &mut put);
        }
        if let Some(request) = &self.scheduled_restart {
            put("scheduled_restart", super::command::restart_document(request, node));
        }
        if cluster.is_paused() {
            put("pause", true.into());
        }
        if let Some(word) = self.watchdog_word() {
            put("watchdog", word.into());
        }
        if !self.held_vips().is_empty() {
            put("vip", self.held_vips().iter().map(|role| Value::from(role.word())).collect());
        }
        doc
    }

    /// What the others' `list` shows of the watchdog. Where one is only used if it is there, its absence is no news.
    fn watchdog_word(&self) -> Option<&'static str> {
        match (&self.memory.watchdog, self.config.watchdog.mode) {
            (Watchdog::Unknown, _) => None,
            (Watchdog::Unusable(_), mode) if mode != WatchdogMode::Required => None,
            // A moment: not worth a write of its own.
            (Watchdog::Arming, _) => Some(Watchdog::Ready.word()),
            (watchdog, _) => Some(watchdog.word()),
        }
    }

    /// Patroni's word for the state.
    pub(super) fn state_word(&self, node: &NodeView) -> &'static str {
        if let Some(job) = &self.memory.job {
            match job.name {
                "bootstrap" => return "initializing new cluster",
                "clone" => return "creating replica",
                "restart" => return "restarting",
                "stop" => return "stopping",
                "start" => return "starting",
                _ => {}
            }
        }
        match &node.pg {
            PgState::Running(_) | PgState::Unresponsive { .. } => "running",
            PgState::Starting { stopping: true, .. } => "stopping",
            PgState::Starting { .. } => "starting",
            PgState::Stopped(_) if self.memory.start_failures > 0 => "start failed",
            PgState::Stopped(_) if self.memory.crashed_at.is_some() => "crashed",
            PgState::Empty if self.memory.bootstrap == BootstrapStep::Failed => "initdb failed",
            _ => "stopped",
        }
    }

    /// Patroni's word for the role.
    pub(super) fn role_word(&self, node: &NodeView) -> &'static str {
        match &node.pg {
            PgState::Running(running) if running.role == Role::Primary => "primary",
            PgState::Starting { as_standby: false, .. } if self.memory.lock => "primary",
            PgState::Empty => "uninitialized",
            PgState::Stopped(control) if control.was_primary() && self.memory.lock => "primary",
            PgState::Stopped(control) if control.was_primary() => "demoted",
            PgState::Unresponsive { .. } if self.memory.lock => "primary",
            _ => "replica",
        }
    }

    pub(super) fn publish(&self, out: &mut Vec<Action>) {
        let (state, role) = match &self.node {
            Some(node) => (self.state_word(node), self.role_word(node)),
            None => ("stopped", "uninitialized"),
        };
        out.push(Action::Publish(Box::new(Snapshot {
            at: self.now,
            verdict: self.verdict.as_ref().map_or_else(String::new, |verdict| verdict.sentence(&self.config.me)),
            config: Arc::clone(&self.config),
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            is_leader: self.memory.lock && self.memory.lease.is_some_and(|lease| self.now < lease.deadline()),
            lease_deadline: self.memory.lease.map(|lease| lease.deadline()),
            dcs: self.memory.dcs,
            dcs_seen_at: self.dcs_seen_at,
            state,
            role,
            job: self.memory.job.as_ref().map(|job| (job.name, self.progress)),
            scheduled_restart: self.scheduled_restart.clone(),
            failsafe_active: false,
            watchdog: self.memory.watchdog.clone(),
            guard: self.memory.guard,
            vips: self.held_vips(),
            timeline: self.node.as_ref().and_then(|node| node.pg.running()).map(|running| running.timeline),
        })));
    }
}

fn without_positions(document: &Map<String, Value>) -> Vec<(&String, &Value)> {
    document.iter().filter(|(key, _)| !POSITIONS.contains(&key.as_str())).collect()
}

fn running_fields(running: &PgRunning, put: &mut impl FnMut(&str, Value)) {
    if !running.pending_restart.is_empty() {
        put("pending_restart", true.into());
        let reasons = running.pending_restart.iter().map(|(name, (old, new))| {
            let mut reason = Map::new();
            reason.insert("old_value".to_owned(), old.clone().into());
            reason.insert("new_value".to_owned(), new.clone().into());
            (name.clone(), Value::Object(reason))
        });
        put("pending_restart_reason", Value::Object(reasons.collect()));
    }
    put("xlog_location", running.position.0.into());
    if running.role == Role::Standby {
        if let Some(replayed) = running.replayed {
            put("replay_lsn", replayed.0.into());
        }
        if let Some(received) = running.received {
            put("receive_lsn", received.0.into());
        }
        put("replication_state", if running.streaming { "streaming" } else { "in archive recovery" }.into());
    }
    put("timeline", running.timeline.0.into());
}
