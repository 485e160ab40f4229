//! `/cluster` and `/history`: what the store says of all members.

use serde_json::{json, Map, Value};

use crate::ha::config::SyncMode;
use crate::ha::types::{Lsn, MemberName};
use crate::ha::view::{ClusterView, HistoryEntry, Member};

use super::parse;
use super::view::{is_sync_member, sync_word};

/// Settings that `/cluster` words depend on, read from the store's `/config` as Patroni does.
#[derive(Clone, Copy, Debug)]
pub struct Wording {
    /// Synchronous mode.
    pub sync: SyncMode,
    /// A standby cluster.
    pub standby_cluster: bool,
}

/// The `/cluster` document.
#[must_use]
pub fn document(cluster: &ClusterView, wording: Wording, scope: &str) -> Value {
    let mut doc = Map::new();
    let members: Vec<Value> = cluster.members.iter().map(|(name, member)| row(cluster, wording, name, member)).collect();
    doc.insert("members".into(), Value::Array(members));
    if cluster.is_paused() {
        doc.insert("pause".into(), Value::Bool(true));
    }
    if let Some(switchover) = scheduled_switchover(cluster) {
        doc.insert("scheduled_switchover".into(), switchover);
    }
    doc.insert("scope".into(), json!(scope));
    Value::Object(doc)
}

fn scheduled_switchover(cluster: &ClusterView) -> Option<Value> {
    let request = &cluster.failover.as_ref()?.value;
    let mut shown = Map::new();
    shown.insert("at".into(), json!(parse::isoformat(request.scheduled_at?)));
    if let Some(leader) = &request.leader {
        shown.insert("from".into(), json!(leader.0));
    }
    if let Some(candidate) = &request.candidate {
        shown.insert("to".into(), json!(candidate.0));
    }
    Some(Value::Object(shown))
}

fn role(cluster: &ClusterView, wording: Wording, name: &MemberName, member: &Member) -> &'static str {
    if cluster.leader_name() == Some(name) {
        return match member.role.as_str() {
            _ if wording.standby_cluster => "standby_leader",
            "promoted" => "promoted",
            _ => "leader",
        };
    }
    sync_word(wording.sync).filter(|_| is_sync_member(cluster, name.as_str())).unwrap_or("replica")
}

fn row(cluster: &ClusterView, wording: Wording, name: &MemberName, member: &Member) -> Value {
    let role = role(cluster, wording, name, member);
    let replication_state = member.raw.get("replication_state").and_then(Value::as_str).filter(|state| !state.is_empty());
    let state = replication_state.filter(|_| role != "leader").unwrap_or(&member.state);
    let mut row = Map::new();
    row.insert("name".into(), json!(name.0));
    row.insert("role".into(), json!(role));
    row.insert("state".into(), json!(state));
    row.insert("api_url".into(), json!(member.api_url));
    if let Some((host, port)) = member.conn_url.as_deref().and_then(host_and_port) {
        row.insert("host".into(), json!(host));
        row.insert("port".into(), json!(port));
    }
    for key in ["timeline", "pending_restart", "pending_restart_reason", "scheduled_restart", "tags"] {
        if let Some(value) = member.raw.get(key) {
            row.insert(key.into(), value.clone());
        }
    }
    if cluster.leader_name() != Some(name) {
        lags(&mut row, cluster, member);
    }
    Value::Object(row)
}

fn lags(row: &mut Map<String, Value>, cluster: &ClusterView, member: &Member) {
    let ahead = cluster.status.optime.unwrap_or_default();
    for (key, lsn_name, lag_name) in
        [("receive_lsn", "receive_lsn", "receive_lag"), ("replay_lsn", "replay_lsn", "replay_lag"), ("xlog_location", "lsn", "lag")]
    {
        match member.raw.get(key).and_then(Value::as_u64).filter(|lsn| *lsn != 0) {
            None => {
                row.insert(lsn_name.into(), json!("unknown"));
                row.insert(lag_name.into(), json!("unknown"));
            }
            Some(lsn) => {
                row.insert(lag_name.into(), json!(Lsn(lsn).lag_bytes(ahead)));
                row.insert(lsn_name.into(), json!(Lsn(lsn).to_string()));
            }
        }
    }
}

/// Host (without brackets) and port of `postgres://[user@]host[:port]/…`.
fn host_and_port(url: &str) -> Option<(&str, u16)> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?']).next()?;
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').unwrap_or("5432")),
        None => address.rsplit_once(':').unwrap_or((address, "5432")),
    };
    (!host.is_empty()).then_some((host, port.parse().ok()?))
}

/// The `/history` document.
#[must_use]
pub fn history(cluster: &ClusterView) -> Value {
    cluster.history.iter().flat_map(|history| &history.value).map(history_line).collect()
}

fn history_line(entry: &HistoryEntry) -> Value {
    let mut line = vec![json!(entry.timeline.0), json!(entry.lsn.0), json!(entry.reason)];
    if entry.timestamp.is_some() || entry.new_leader.is_some() {
        line.push(json!(entry.timestamp));
    }
    if let Some(leader) = &entry.new_leader {
        line.push(json!(leader.0));
    }
    Value::Array(line)
}

#[cfg(test)]
mod tests {
    use super::host_and_port;

    #[test]
    fn hosts() {
        assert_eq!(host_and_port("postgres://10.77.0.1:5432/postgres"), Some(("10.77.0.1", 5432)));
        assert_eq!(host_and_port("postgres://u:p@[fe80::1]:5433/postgres"), Some(("fe80::1", 5433)));
        assert_eq!(host_and_port("postgres://h/db?x=y"), Some(("h", 5432)));
        assert_eq!(host_and_port("nonsense"), None);
        assert_eq!(host_and_port("postgres://h:99999/"), None);
    }
}
