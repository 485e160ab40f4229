//! Operators' commands: checked, turned into a key of the store or a job, answered when done.

use serde_json::{Map, Value};

use super::{Machine, Wake, WriteKind};
use crate::ha::action::{Action, Reply, ReplyBody, StoreRequest};
use crate::ha::decide::Reinitialize;
use crate::ha::election;
use crate::ha::input::{Command, JobOutcome, RestartRequest};
use crate::ha::types::{Instant, MemberName, Millis, ReplyId, Revision, WallTime};
use crate::ha::view::{ClusterView, FailoverRequest, NodeView, PgState};

/// A command that is answered later.
#[derive(Debug)]
pub(super) struct Waiting {
    to: ReplyId,
    what: What,
    until: Instant,
}

#[derive(Debug)]
enum What {
    /// The others are asked whether the switchover is possible at all.
    Checking { request: FailoverRequest, asked_at: Instant },
    /// The key is written, somebody else must lead.
    LeaderChange { from: Option<MemberName>, candidate: Option<MemberName>, by_hand: bool, seen: bool },
    /// A restart runs.
    Restart,
    /// A document is being written; this is the answer if it was.
    Write(Reply, &'static str),
}

impl Machine {
    pub(super) fn take_command(&mut self, reply: ReplyId, command: Command, out: &mut Vec<Action>) -> Wake {
        let Some(cluster) = self.cluster.clone() else {
            return answer(reply, Reply::text(503, "the store was not read yet"), out);
        };
        match command {
            Command::Switchover { leader, candidate, scheduled_at } => {
                let request = FailoverRequest { leader: Some(leader), candidate, scheduled_at };
                self.take_leader_change(reply, request, &cluster, out)
            }
            Command::Failover { candidate } => {
                let request = FailoverRequest { leader: None, candidate: Some(candidate), scheduled_at: None };
                self.take_leader_change(reply, request, &cluster, out)
            }
            Command::CancelSwitchover => self.cancel_switchover(reply, &cluster, out),
            Command::Restart(request) => self.take_restart(reply, request, &cluster, out),
            Command::CancelRestart => self.cancel_restart(reply, out),
            Command::Reinitialize { force, from_leader } => self.take_reinitialize(reply, force, from_leader, &cluster, out),
            Command::PatchConfig(patch) => self.patch_config(reply, &patch, &cluster, out),
            Command::PutConfig(value) => {
                let expect = cluster.config.as_ref().map(|config| config.revision);
                self.write_for(reply, value, expect, out)
            }
        }
    }

    fn take_leader_change(&mut self, to: ReplyId, request: FailoverRequest, cluster: &ClusterView, out: &mut Vec<Action>) -> Wake {
        if let Some(refusal) = refuse_leader_change(&request, cluster) {
            return answer(to, refusal, out);
        }
        if request.scheduled_at.is_some_and(|at| at > self.memory.wall) {
            return self.write_leader_change(to, request, out);
        }
        self.ask_peers(out);
        let until = self.now + CHECK_TIME;
        self.commands.push(Waiting { to, what: What::Checking { request, asked_at: self.now }, until });
        Wake::Sleep
    }

    fn write_leader_change(&mut self, to: ReplyId, request: FailoverRequest, out: &mut Vec<Action>) -> Wake {
        let scheduled = request.scheduled_at.is_some_and(|at| at > self.memory.wall);
        let what = if scheduled {
            What::Write(Reply::text(202, "Switchover scheduled"), "failed to write failover key into DCS")
        } else {
            let from = self.cluster.as_ref().and_then(|cluster| cluster.leader_name().cloned());
            let by_hand = request.leader.is_none();
            What::LeaderChange { from, candidate: request.candidate.clone(), by_hand, seen: false }
        };
        let patience = Millis((self.config.loop_wait.0.max(10_000)) * 2);
        self.commands.push(Waiting { to, what, until: self.now + patience });
        let put = StoreRequest::PutFailover { value: Some(request), expect: None };
        self.send_write(WriteKind::Command(to), put, out);
        Wake::Sleep
    }

    fn cancel_switchover(&mut self, to: ReplyId, cluster: &ClusterView, out: &mut Vec<Action>) -> Wake {
        let Some(failover) = cluster.failover.as_ref().filter(|failover| failover.value.scheduled_at.is_some()) else {
            return answer(to, Reply::text(404, "no switchover is scheduled"), out);
        };
        let reply = Reply::text(200, "scheduled switchover deleted");
        self.commands.push(Waiting { to, what: What::Write(reply, "failed to delete scheduled switchover"), until: self.now + WRITE_TIME });
        let put = StoreRequest::PutFailover { value: None, expect: Some(failover.revision) };
        self.send_write(WriteKind::Command(to), put, out);
        Wake::Sleep
    }

    fn take_restart(&mut self, to: ReplyId, request: RestartRequest, cluster: &ClusterView, out: &mut Vec<Action>) -> Wake {
        if request.schedule.is_some() {
            if cluster.is_paused() {
                return answer(to, Reply::text(500, "Can not schedule restart in the paused state"), out);
            }
            if self.scheduled_restart.is_some() {
                return answer(to, Reply::text(409, "Another restart is already scheduled"), out);
            }
            self.scheduled_restart = Some(request);
            answer(to, Reply::text(202, "Restart scheduled"), out);
            return Wake::Cycle;
        }
        if !self.restart_matches(&request) {
            return answer(to, Reply::text(503, "restart conditions are not satisfied"), out);
        }
        if let Some(job) = &self.memory.job {
            let text = format!("{} already in progress", job.name);
            return answer(to, Reply::text(503, text), out);
        }
        let patience = request.timeout.unwrap_or(self.config.pg_ctl_timeout);
        self.memory.restart = Some(request);
        self.commands.push(Waiting { to, what: What::Restart, until: self.now + patience + WRITE_TIME });
        Wake::Cycle
    }

    fn restart_matches(&self, request: &RestartRequest) -> bool {
        let Some(node) = &self.node else { return false };
        let Some(running) = node.pg.running() else { return false };
        let role = request.role.as_deref().is_none_or(|role| role == self.role_word(node));
        let version = request.postgres_version.is_none_or(|version| running.server_version < version);
        let pending = !request.restart_pending || !running.pending_restart.is_empty();
        role && version && pending
    }

    /// A scheduled restart whose time has come.
    pub(super) fn take_due_restart(&mut self) {
        let due = |request: &mut RestartRequest| request.schedule.is_some_and(|at| at <= self.memory.wall);
        let mut scheduled = self.scheduled_restart.take();
        let ripe = scheduled.take_if(due);
        self.scheduled_restart = scheduled;
        if let Some(request) = ripe.filter(|request| self.restart_matches(request)) {
            self.memory.restart = Some(request);
        }
    }

    pub(super) fn restart_ended(&mut self, outcome: &JobOutcome, out: &mut Vec<Action>) {
        let reply = match outcome {
            JobOutcome::Done => Reply::text(200, "restarted successfully"),
            JobOutcome::Failed(reason) | JobOutcome::Refused(reason) => Reply::text(503, format!("restart failed: {reason}")),
            JobOutcome::Cancelled => Reply::text(503, "restart was cancelled"),
        };
        for waiting in self.commands.extract_if(.., |waiting| matches!(waiting.what, What::Restart)) {
            out.push(Action::Reply { to: waiting.to, reply: reply.clone() });
        }
        if *outcome == JobOutcome::Done {
            let role = self.node.as_ref().map_or("replica", |node| self.role_word(node));
            out.push(Action::Callback { event: "on_restart", role });
        }
    }

    fn cancel_restart(&mut self, to: ReplyId, out: &mut Vec<Action>) -> Wake {
        let reply = match self.scheduled_restart.take() {
            Some(_) => Reply::text(200, "scheduled restart deleted"),
            None => Reply::text(404, "no restarts are scheduled"),
        };
        answer(to, reply, out);
        Wake::Cycle
    }

    fn take_reinitialize(&mut self, to: ReplyId, force: bool, from_leader: bool, cluster: &ClusterView, out: &mut Vec<Action>) -> Wake {
        if self.memory.lock || cluster.leader_name() == Some(&self.config.me) {
            return answer(to, Reply::text(503, "I am the leader, can not reinitialize"), out);
        }
        if cluster.leader.is_none() {
            return answer(to, Reply::text(503, "Cluster has no leader, can not reinitialize"), out);
        }
        if let Some(job) = &self.memory.job {
            if !force {
                return answer(to, Reply::text(503, format!("{} already in progress", job.name)), out);
            }
            self.cancel_job(out);
        }
        self.memory.reinitialize = Some(Reinitialize { from_leader, wiped: false });
        answer(to, Reply::text(200, "reinitialize started"), out);
        Wake::Cycle
    }

    fn patch_config(&mut self, to: ReplyId, patch: &Value, cluster: &ClusterView, out: &mut Vec<Action>) -> Wake {
        let Some(config) = &cluster.config else {
            return answer(to, Reply::text(503, "no config key in DCS"), out);
        };
        let mut value = config.value.clone();
        if !merge_patch(&mut value, patch) {
            return answer(to, Reply { code: 200, body: ReplyBody::Json(value) }, out);
        }
        self.write_for(to, value, Some(config.revision), out)
    }

    fn write_for(&mut self, to: ReplyId, value: Value, expect: Option<Revision>, out: &mut Vec<Action>) -> Wake {
        let reply = Reply { code: 200, body: ReplyBody::Json(value.clone()) };
        self.commands.push(Waiting { to, what: What::Write(reply, "the configuration was not written"), until: self.now + WRITE_TIME });
        self.send_write(WriteKind::Command(to), StoreRequest::PutConfig { value, expect }, out);
        Wake::Sleep
    }

    /// The store answered a command's write.
    pub(super) fn command_written(&mut self, to: ReplyId, revision: Option<Revision>, unknown: bool, out: &mut Vec<Action>) -> Wake {
        let Some(at) = self.commands.iter().position(|waiting| waiting.to == to) else { return Wake::Cycle };
        match (&mut self.commands[at].what, revision) {
            (What::LeaderChange { seen, .. }, Some(_)) => {
                *seen = true;
                self.distrust_older_reads();
            }
            (What::Write(reply, _), Some(_)) => {
                let reply = reply.clone();
                self.commands.remove(at);
                answer(to, reply, out);
            }
            (What::Write(_, failure), None) => {
                let reply = Reply::text(if unknown { 502 } else { 409 }, *failure);
                self.commands.remove(at);
                answer(to, reply, out);
            }
            _ => {
                self.commands.remove(at);
                answer(to, Reply::text(503, "failed to write failover key into DCS"), out);
            }
        }
        Wake::Cycle
    }

    /// Answers whatever the new facts allow.
    pub(super) fn answer_commands(&mut self, cluster: &ClusterView, out: &mut Vec<Action>) {
        let waiting = std::mem::take(&mut self.commands);
        for mut command in waiting {
            match self.try_answer(&mut command, cluster, out) {
                Some(reply) => out.push(Action::Reply { to: command.to, reply }),
                None if self.now >= command.until => {
                    if matches!(command.what, What::Restart) {
                        self.memory.restart = None;
                    }
                    out.push(Action::Reply { to: command.to, reply: too_late(&command.what) });
                }
                None if matches!(command.what, What::Checking { .. }) && self.checked(&command).is_some() => {
                    if let What::Checking { request, .. } = command.what {
                        self.write_leader_change(command.to, request, out);
                    }
                }
                None => self.commands.push(command),
            }
        }
    }

    /// The others answered after the command came.
    fn checked(&self, command: &Waiting) -> Option<&crate::ha::view::PeersView> {
        let What::Checking { asked_at, .. } = &command.what else { return None };
        self.memory.peers.as_ref().filter(|peers| peers.asked_at >= *asked_at)
    }

    fn try_answer(&mut self, command: &mut Waiting, cluster: &ClusterView, out: &mut Vec<Action>) -> Option<Reply> {
        if matches!(command.what, What::Checking { .. }) {
            if self.checked(command).is_none() {
                self.ask_peers(out);
                return None;
            }
            let What::Checking { request, .. } = &command.what else { return None };
            return self.refuse_by_peers(request, cluster);
        }
        match &command.what {
            What::LeaderChange { from, candidate, by_hand, seen: true } if cluster.read_at >= self.view_floor => {
                leader_changed(from.as_ref(), candidate.as_ref(), *by_hand, cluster)
            }
            _ => None,
        }
    }

    fn refuse_by_peers(&self, request: &FailoverRequest, cluster: &ClusterView) -> Option<Reply> {
        let action = if request.leader.is_some() { "switchover" } else { "failover" };
        let peers = self.memory.peers.as_ref()?;
        let good = |name: &MemberName| {
            if *name == self.config.me {
                return election::may_lead(&self.config.tags);
            }
            let status = peers.peers.get(name).and_then(Option::as_ref);
            election::is_good_candidate(&self.config, cluster, name, status, request.leader.is_none())
        };
        let possible = match &request.candidate {
            Some(candidate) => good(candidate),
            None => cluster.members.keys().filter(|name| Some(*name) != cluster.leader_name()).any(good),
        };
        (!possible).then(|| Reply::text(412, format!("{action} is not possible: no good candidates have been found")))
    }
}

fn leader_changed(from: Option<&MemberName>, candidate: Option<&MemberName>, by_hand: bool, cluster: &ClusterView) -> Option<Reply> {
    let done = if by_hand { "Failed" } else { "Switched" };
    match cluster.leader_name() {
        Some(leader) if Some(leader) != from => Some(match candidate {
            Some(candidate) if candidate != leader => Reply::text(200, format!("{done} over to \"{leader}\" instead of \"{candidate}\"")),
            _ => Reply::text(200, format!("Successfully {} over to \"{leader}\"", done.to_lowercase())),
        }),
        Some(_) if cluster.failover.is_none() => Some(Reply::text(503, if by_hand { "Failover failed" } else { "Switchover failed" })),
        _ => None,
    }
}

fn too_late(what: &What) -> Reply {
    match what {
        What::Checking { .. } => Reply::text(503, "the other members did not answer"),
        What::LeaderChange { by_hand: true, .. } => Reply::text(503, "Failover status unknown"),
        What::LeaderChange { .. } => Reply::text(503, "Switchover status unknown"),
        What::Restart => Reply::text(503, "restart is still in progress"),
        What::Write(_, failure) => Reply::text(503, *failure),
    }
}

/// What can be refused without asking anybody.
fn refuse_leader_change(request: &FailoverRequest, cluster: &ClusterView) -> Option<Reply> {
    let action = if request.leader.is_some() { "switchover" } else { "failover" };
    if let Some(leader) = &request.leader {
        if cluster.leader_name() != Some(leader) {
            return Some(Reply::text(412, "leader name does not match"));
        }
        if request.candidate.as_ref() == Some(leader) {
            return Some(Reply::text(400, "Switchover target and source are the same"));
        }
        if cluster.is_paused() && request.candidate.is_none() {
            return Some(Reply::text(400, "Switchover is possible only to a specific candidate in a paused state"));
        }
    }
    match &request.candidate {
        Some(candidate) if !cluster.members.contains_key(candidate) => Some(Reply::text(412, "candidate does not exists")),
        None if cluster.members.keys().all(|name| Some(name) == cluster.leader_name()) => {
            Some(Reply::text(412, format!("{action} is not possible: cluster does not have members except leader")))
        }
        _ => None,
    }
}

fn answer(to: ReplyId, reply: Reply, out: &mut Vec<Action>) -> Wake {
    out.push(Action::Reply { to, reply });
    Wake::Sleep
}

/// `scheduled_restart` of the member key.
pub(super) fn restart_document(request: &RestartRequest, node: &NodeView) -> Value {
    let mut doc = Map::new();
    if request.restart_pending {
        doc.insert("restart_pending".to_owned(), true.into());
    }
    if let Some(role) = &request.role {
        doc.insert("role".to_owned(), role.clone().into());
    }
    if let Some(version) = request.postgres_version {
        doc.insert("postgres_version".to_owned(), version.into());
    }
    if let Some(timeout) = request.timeout {
        doc.insert("timeout".to_owned(), timeout.as_secs().into());
    }
    if let Some(WallTime(at)) = request.schedule {
        doc.insert("schedule".to_owned(), crate::ha::wall::iso(WallTime(at)).into());
    }
    if let PgState::Running(running) = &node.pg {
        doc.insert("postmaster_start_time".to_owned(), running.started_at.clone().into());
    }
    Value::Object(doc)
}

/// Patroni's `PATCH`: null removes a key that exists; where the parent does not exist the object is stored as given, nulls included;
/// scalars compare by their text. Returns whether anything changed.
fn merge_patch(target: &mut Value, patch: &Value) -> bool {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else { return false };
    let mut changed = false;
    for (key, value) in patch {
        changed |= merge_key(target, key, value);
    }
    changed
}

fn merge_key(target: &mut Map<String, Value>, key: &str, value: &Value) -> bool {
    match (target.get_mut(key), value) {
        (Some(_), Value::Null) => target.shift_remove(key).is_some(),
        (None, Value::Null) => false,
        (Some(old @ Value::Object(_)), Value::Object(_)) => merge_patch(old, value),
        (Some(old), new) if text(old) == text(new) => false,
        _ => {
            target.insert(key.to_owned(), value.clone());
            true
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A command's question to the others waits this long.
const CHECK_TIME: Millis = Millis(5_000);
/// A command's write waits this long.
const WRITE_TIME: Millis = Millis(10_000);

#[cfg(test)]
mod tests {
    use super::merge_patch;
    use serde_json::{json, Value};

    fn patched(target: Value, patch: &Value) -> (bool, Value) {
        let mut target = target;
        let changed = merge_patch(&mut target, patch);
        (changed, target)
    }

    #[test]
    fn patches_like_patroni() {
        assert_eq!(patched(json!({"a": 1, "b": {"c": 2}}), &json!({"a": null, "b": {"c": null}})), (true, json!({"b": {}})));
        assert_eq!(patched(json!({"a": 101}), &json!({"a": "101"})), (false, json!({"a": 101})));
        assert_eq!(patched(json!({}), &json!({"slots": {"x": null}})), (true, json!({"slots": {"x": null}})));
        assert_eq!(patched(json!({}), &json!({"a": null})), (false, json!({})));
        assert_eq!(patched(json!({"p": {"x": 1}}), &json!({"p": "x"})), (true, json!({"p": "x"})));
    }
}
