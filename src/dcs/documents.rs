//! Values of the keys → [`ClusterView`]. Tolerant: a broken document never hides the other keys, and old forms are understood.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::keys::{Key, Keys};
use super::parse_wall;
use crate::ha::types::{Instant, LeaseId, Lsn, MemberName, Revision, SystemId, Timeline};
use crate::ha::view::{
    ClusterStatus, ClusterView, FailoverRequest, HistoryEntry, Initialize, LeaderEntry, Member, SyncState, Tags, Versioned,
};

/// One key as the store returns it.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Full name.
    pub key: Cow<'a, str>,
    /// Content.
    pub value: Cow<'a, str>,
    /// The lease it hangs on, 0 for none.
    pub lease: LeaseId,
    /// `mod_revision`.
    pub revision: Revision,
}

/// A snapshot, and what was wrong in it.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// What could be understood.
    pub view: ClusterView,
    /// One sentence for each document that could not, for the log.
    pub problems: Vec<String>,
}

/// Parses all keys of a scope, read at one revision of the store.
pub fn parse<'a>(keys: &Keys, entries: impl IntoIterator<Item = Entry<'a>>, revision: Revision, read_at: Instant) -> Parsed {
    let mut parsed = Parsed { view: ClusterView { revision, read_at, ..ClusterView::default() }, problems: Vec::new() };
    let mut old_optime = None;
    let mut has_status = false;
    for entry in entries {
        match keys.classify(&entry.key) {
            None => {}
            Some(Key::OldOptime) => old_optime = entry.value.trim().parse().ok().map(Lsn),
            Some(key) => {
                has_status |= key == Key::Status;
                if let Err(problem) = take(&mut parsed.view, key, &entry) {
                    parsed.problems.push(format!("{}: {problem}", entry.key));
                }
            }
        }
    }
    if !has_status {
        parsed.view.status.optime = old_optime;
    }
    parsed
}

/// Puts one key into the view.
fn take(view: &mut ClusterView, key: Key<'_>, entry: &Entry<'_>) -> Result<(), &'static str> {
    let text = entry.value.as_ref();
    let revision = entry.revision;
    match key {
        Key::Leader => view.leader = Some(LeaderEntry { name: MemberName::from(text), lease: entry.lease, revision }),
        Key::Initialize => {
            let (value, result) = initialize(text);
            view.initialize = Some(value);
            return result;
        }
        // A broken configuration is no configuration: an empty one would reset every setting.
        Key::Config => view.config = Some(Versioned { revision, value: Value::Object(object(text)?) }),
        Key::Member(name) => {
            let (member, result) = member(text, entry.lease);
            view.members.insert(MemberName::from(name), member);
            return result;
        }
        Key::Status => view.status = status(text)?,
        Key::OldOptime => {}
        Key::Failover => view.failover = failover(text)?.map(|value| Versioned { revision, value }),
        Key::Sync => {
            let (value, result) = sync(text);
            view.sync = Some(Versioned { revision, value });
            return result;
        }
        Key::History => {
            let (value, result) = history(text);
            view.history = Some(Versioned { revision, value });
            return result;
        }
        Key::Failsafe => view.failsafe = Some(failsafe(text)?),
    }
    Ok(())
}

/// A JSON object.
fn object(text: &str) -> Result<Map<String, Value>, &'static str> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err("is not a JSON object; ignored"),
        Err(_) => Err("is not valid JSON; ignored"),
    }
}

/// A name; `None` for null, absent and empty.
fn name(value: Option<&Value>) -> Option<MemberName> {
    match value? {
        Value::String(text) if !text.is_empty() => Some(MemberName(text.clone())),
        Value::Number(number) => Some(MemberName(number.to_string())),
        _ => None,
    }
}

/// A whole number, also written as text.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A position: a number of bytes, also as text, or `X/Y`.
fn lsn(value: &Value) -> Option<Lsn> {
    match value {
        Value::Number(number) => number.as_u64().map(Lsn),
        Value::String(text) => text.trim().parse().ok().map(Lsn).or_else(|| Lsn::parse(text)),
        _ => None,
    }
}

/// Python's truth: any non-empty text is true, `"false"` too.
fn truthy(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(yes)) => *yes,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
    }
}

fn initialize(text: &str) -> (Initialize, Result<(), &'static str>) {
    let text = text.trim();
    match text.parse() {
        Ok(id) => (Initialize::Done(SystemId(id)), Ok(())),
        Err(_) if text.is_empty() => (Initialize::InProgress, Ok(())),
        // Nobody bootstraps over a key that is not understood.
        Err(_) => (Initialize::InProgress, Err("is not a system identifier; taken as an initialisation under way")),
    }
}

fn member(text: &str, lease: LeaseId) -> (Member, Result<(), &'static str>) {
    let (raw, result) = match old_member(text) {
        Some(raw) => (raw, Ok(())),
        None => match object(text) {
            Ok(raw) => (raw, Ok(())),
            Err(problem) => (Map::new(), Err(problem)),
        },
    };
    let word = |key: &str| raw.get(key).and_then(Value::as_str);
    let member = Member {
        conn_url: word("conn_url").map(str::to_owned).or_else(|| old_conn_url(raw.get("conn_kwargs")?)),
        api_url: word("api_url").map(str::to_owned),
        state: word("state").unwrap_or_default().to_owned(),
        role: match word("role") {
            Some("master") => "primary".to_owned(),
            role => role.unwrap_or_default().to_owned(),
        },
        timeline: raw.get("timeline").and_then(integer).and_then(|tl| u32::try_from(tl).ok()).filter(|tl| *tl > 0).map(Timeline),
        position: raw.get("xlog_location").and_then(lsn),
        checkpoint_pending: raw.get("checkpoint_after_promote") == Some(&Value::Bool(false)),
        tags: raw.get("tags").map(tags).unwrap_or_default(),
        lease,
        raw: Value::Object(raw),
    };
    (member, result)
}

/// The oldest form: `postgres://…?application_name=<api_url>`.
fn old_member(text: &str) -> Option<Map<String, Value>> {
    let text = text.trim();
    if !text.starts_with("postgres") {
        return None;
    }
    let (conn_url, query) = text.split_once('?').unwrap_or((text, ""));
    let api_url = query.split('&').find_map(|pair| pair.strip_prefix("application_name="));
    let mut raw = Map::new();
    raw.insert("conn_url".to_owned(), Value::from(conn_url));
    if let Some(api_url) = api_url {
        raw.insert("api_url".to_owned(), Value::from(api_url));
    }
    Some(raw)
}

/// `conn_kwargs` of older releases.
fn old_conn_url(kwargs: &Value) -> Option<String> {
    let host = kwargs.get("host")?.as_str()?;
    let port = kwargs.get("port").and_then(integer).unwrap_or(5432);
    Some(if host.contains(':') { format!("postgres://[{host}]:{port}") } else { format!("postgres://{host}:{port}") })
}

/// The tags that the core decides by, from `tags` of a member document or of `/patroni`.
#[must_use]
pub fn tags(value: &Value) -> Tags {
    let priority = |flag: &str, key: &str| {
        let priority = value.get(key).and_then(whole).unwrap_or(1);
        if truthy(value.get(flag)) {
            0
        } else {
            priority
        }
    };
    let failover_priority = priority("nofailover", "failover_priority");
    let sync_priority = priority("nosync", "sync_priority");
    Tags {
        nofailover: failover_priority <= 0,
        failover_priority,
        clonefrom: truthy(value.get("clonefrom")),
        nosync: sync_priority <= 0,
        sync_priority,
        noloadbalance: truthy(value.get("noloadbalance")),
        replicatefrom: name(value.get("replicatefrom")),
        nostream: truthy(value.get("nostream")),
    }
}

/// A priority: a whole number, a fraction (rounded) or either as text.
fn whole(value: &Value) -> Option<i64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse::<f64>().ok()?,
        _ => return None,
    };
    // `as` saturates, which is all that a priority needs.
    number.is_finite().then(|| number.round() as i64)
}

/// The current form, or a bare number.
fn status(text: &str) -> Result<ClusterStatus, &'static str> {
    let value: Value = serde_json::from_str(text).map_err(|_| "is not valid JSON; ignored")?;
    let Value::Object(map) = value else {
        let optime = lsn(&value).ok_or("is neither an object nor a number; ignored")?;
        return Ok(ClusterStatus { optime: Some(optime), ..ClusterStatus::default() });
    };
    let slots = map.get("slots").and_then(Value::as_object).into_iter().flatten();
    let retain = map.get("retain_slots").and_then(Value::as_array).into_iter().flatten();
    Ok(ClusterStatus {
        optime: map.get("optime").and_then(lsn),
        slots: slots.filter_map(|(name, value)| Some((name.clone(), lsn(value)?))).collect(),
        retain_slots: retain.filter_map(Value::as_str).map(str::to_owned).collect(),
    })
}

/// JSON, or the old text `leader:candidate`; without any name it is no request.
fn failover(text: &str) -> Result<Option<FailoverRequest>, &'static str> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let request = match serde_json::from_str(text) {
        Ok(Value::Object(map)) => FailoverRequest {
            leader: name(map.get("leader")),
            candidate: name(map.get("member")),
            scheduled_at: match map.get("scheduled_at") {
                None | Some(Value::Null) => None,
                Some(Value::String(at)) if at.is_empty() => None,
                // Never "at once" for a time that is not understood.
                Some(Value::String(at)) => Some(parse_wall(at).map_err(|_| "has no valid scheduled_at; ignored")?),
                Some(_) => return Err("has no valid scheduled_at; ignored"),
            },
        },
        Ok(_) => return Err("is not a JSON object; ignored"),
        Err(_) if text.starts_with(['{', '[', '"']) => return Err("is not valid JSON; ignored"),
        Err(_) => old_failover(text),
    };
    Ok((request.leader.is_some() || request.candidate.is_some()).then_some(request))
}

fn old_failover(text: &str) -> FailoverRequest {
    let mut parts = text.split(':').map(str::trim);
    let mut part = || parts.next().filter(|part| !part.is_empty()).map(MemberName::from);
    FailoverRequest { leader: part(), candidate: part(), scheduled_at: None }
}

/// A broken document counts as the empty state at its revision, so that it can be overwritten by compare-and-set.
fn sync(text: &str) -> (SyncState, Result<(), &'static str>) {
    let text = text.trim();
    if text.is_empty() {
        return (SyncState::default(), Ok(()));
    }
    let map = match object(text) {
        Ok(map) => map,
        Err(problem) => return (SyncState::default(), Err(problem)),
    };
    let Some(leader) = name(map.get("leader")) else {
        return (SyncState::default(), Ok(()));
    };
    let standbys: BTreeSet<MemberName> = match map.get("sync_standby") {
        Some(Value::String(list)) => list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(MemberName::from).collect(),
        Some(Value::Array(list)) => list.iter().filter_map(|value| name(Some(value))).collect(),
        _ => BTreeSet::new(),
    };
    let quorum = map.get("quorum").and_then(integer).and_then(|quorum| u32::try_from(quorum).ok()).unwrap_or(0);
    (SyncState { leader: Some(leader), standbys, quorum }, Ok(()))
}

fn history(text: &str) -> (Vec<HistoryEntry>, Result<(), &'static str>) {
    let lines = match serde_json::from_str(text) {
        Ok(Value::Array(lines)) => lines,
        _ if text.trim().is_empty() => Vec::new(),
        _ => return (Vec::new(), Err("is not a JSON list; ignored")),
    };
    let entries: Vec<HistoryEntry> = lines.iter().filter_map(history_line).collect();
    let result = if entries.len() == lines.len() { Ok(()) } else { Err("has lines that are not understood; left out") };
    (entries, result)
}

fn history_line(line: &Value) -> Option<HistoryEntry> {
    let line = line.as_array()?;
    let text = |at: usize| line.get(at).and_then(Value::as_str).map(str::to_owned);
    Some(HistoryEntry {
        timeline: Timeline(u32::try_from(integer(line.first()?)?).ok()?),
        lsn: lsn(line.get(1)?)?,
        reason: text(2).unwrap_or_default(),
        timestamp: text(3),
        new_leader: name(line.get(4)),
    })
}

fn failsafe(text: &str) -> Result<BTreeMap<MemberName, String>, &'static str> {
    let map = object(text)?;
    Ok(map.into_iter().filter_map(|(name, url)| Some((MemberName(name), url.as_str()?.to_owned()))).collect())
}

#[cfg(test)]
#[path = "documents_tests.rs"]
mod tests;
