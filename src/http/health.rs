//! Health checks. They decide where writes go, so a `200` for a leader needs a lease that is ours at this very moment.
//!
//! Paths match by substring, as in Patroni: `/foo-replica` asks the same as `/replica`.

use serde_json::Value;

use crate::ha::types::Lsn;
use crate::ha::view::Role;

use super::parse;
use super::status::Status;
use super::view::{is_paused, View};

/// The facts that every check is made of.
struct Facts<'a> {
    status: Status<'a>,
    leader: bool,
    primary: bool,
    standby_leader: bool,
    replica: bool,
}

impl<'a> Facts<'a> {
    fn gather(view: &View<'a>, query: &[(String, String)]) -> Facts<'a> {
        let status = Status::of(view.snapshot(), view.is_stale());
        let leader = view.is_leader();
        let standby_cluster = view.snapshot().is_some_and(|snapshot| snapshot.config.standby_cluster);
        // The key may be ours before PostgreSQL has left recovery: then nobody can write here yet.
        let in_recovery = status.running.is_some_and(|running| running.role == Role::Standby);
        Facts {
            leader,
            primary: leader && !standby_cluster && !in_recovery,
            standby_leader: leader && standby_cluster && matches!(status.role, "replica" | "standby_leader"),
            replica: is_replica(view, &status, query) && !(leader && standby_cluster),
            status,
        }
    }
}

fn is_replica(view: &View<'_>, status: &Status<'_>, query: &[(String, String)]) -> bool {
    let Some(snapshot) = view.snapshot() else { return false };
    let state_wanted = parse::param(query, "replication_state");
    status.role == "replica"
        && status.state == "running"
        && !snapshot.config.tags.noloadbalance
        && !is_lagging(view, status, query)
        && state_wanted.is_none_or(|wanted| status.replication_state == Some(wanted))
}

/// Behind the leader's last known position by more than `lag=`. Received WAL counts: paused replay loses nothing.
fn is_lagging(view: &View<'_>, status: &Status<'_>, query: &[(String, String)]) -> bool {
    let Some(most) = parse::param(query, "lag").and_then(|lag| parse::with_unit(lag, "B")) else { return false };
    let ahead = leader_position(view);
    ahead.0 != 0 && i128::from(ahead.0) > i128::from(status.received().0) + i128::from(most)
}

fn leader_position(view: &View<'_>) -> Lsn {
    view.cluster().and_then(|cluster| cluster.status.optime).unwrap_or_default()
}

/// Whether the check that `path` names holds.
#[must_use]
pub fn check(path: &str, query: &[(String, String)], view: &View<'_>) -> bool {
    let path = if path == "/" { "/primary" } else { path };
    let facts = Facts::gather(view, query);
    let (good, tags_count) = by_path(path, &facts, view);
    good && (!tags_count || tags_match(view, query))
}

/// The answer without regard to tags, and whether tags count for it.
fn by_path(path: &str, facts: &Facts<'_>, view: &View<'_>) -> (bool, bool) {
    let has = |word: &str| path.contains(word);
    let writable = facts.primary || facts.standby_leader;
    if has("standby_leader") || has("standby-leader") {
        return (facts.standby_leader, false);
    }
    if has("leader") {
        return (facts.leader, false);
    }
    if has("master") || has("primary") || has("read-write") {
        return (facts.primary, false);
    }
    if has("replica") {
        return (facts.replica, true);
    }
    if has("read-only") && !has("sync") && !has("quorum") {
        return (writable || facts.replica, true);
    }
    if has("health") {
        return (facts.status.state == "running", true);
    }
    // Who is synchronous stands in the store: without it, neither "synchronous" nor "asynchronous" is known.
    if view.cluster().is_none() {
        return (false, true);
    }
    let sync = facts.status.sync == Some("sync_standby");
    let quorum = facts.status.sync == Some("quorum_standby");
    let good = match path {
        "/sync" | "/synchronous" => facts.replica && sync,
        "/quorum" => facts.replica && quorum,
        "/async" | "/asynchronous" => facts.replica && !sync && !quorum,
        "/read-only-quorum" => writable || facts.replica && quorum,
        "/read-only-sync" | "/read-only-synchronous" => writable || facts.replica && sync,
        _ => false,
    };
    (good, true)
}

/// Every `tag_NAME=VALUE` of the query is a tag of this member.
fn tags_match(view: &View<'_>, query: &[(String, String)]) -> bool {
    query.iter().filter_map(|(key, wanted)| Some((key.strip_prefix("tag_")?, wanted))).all(|(tag, wanted)| {
        let tags = view.snapshot().map(|snapshot| &snapshot.config.tags_raw);
        match tags.and_then(|tags| tags.get(tag)) {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => text == wanted,
            Some(other) => other.to_string().to_lowercase() == *wanted,
        }
    })
}

/// `/liveness`: the loop ran within ttl (primary) or twice ttl (others) of when it was due, or pause, where a stuck loop does no harm.
#[must_use]
pub fn liveness(view: &View<'_>) -> bool {
    let Some(snapshot) = view.snapshot() else { return view.age().as_secs() < 60 };
    let primary = snapshot.node.as_deref().is_some_and(|node| node.pg.is_primary());
    let patience = if primary { snapshot.config.ttl.0 } else { snapshot.config.ttl.0.saturating_mul(2) };
    is_paused(snapshot) || view.age().0 < snapshot.config.loop_wait.0.saturating_add(patience)
}

/// `/readiness`: leader, or a streaming standby that is not too far behind.
#[must_use]
pub fn readiness(query: &[(String, String)], view: &View<'_>) -> bool {
    if view.is_leader() {
        return true;
    }
    let Some(snapshot) = view.snapshot() else { return false };
    let status = Status::of(Some(snapshot), view.is_stale());
    if status.state != "running" || status.replication_state != Some("streaming") {
        return false;
    }
    let own = if parse::param(query, "mode") == Some("write") { status.received() } else { status.replayed() };
    let ahead = leader_position(view).max(status.received());
    let most = parse::param(query, "lag")
        .and_then(|lag| parse::with_unit(lag, "B"))
        .map_or_else(|| i128::from(snapshot.config.maximum_lag_on_failover), i128::from);
    i128::from(own.lag_bytes(ahead)) <= most
}
