//! Golden tests from recordings of a real Patroni 4.1.5 (`tests/dcs/*.txt`), and what broken and old documents become.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{json, Value};

use super::{parse, tags, Entry, Parsed};
use crate::dcs::keys::{Key, Keys};
use crate::dcs::{parse_wall, render_failover, render_history, render_status};
use crate::ha::types::{Instant, LeaseId, Lsn, MemberName, Revision, SystemId, Timeline, WallTime};
use crate::ha::view::{FailoverRequest, Initialize, Tags};

/// The keys of a recording: name, value, lease.
fn recording(name: &str) -> Vec<(String, String, i64)> {
    let path = format!("{}/tests/dcs/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut entries = Vec::new();
    for block in text.split("### ").skip(1) {
        let mut lines = block.lines();
        let key = lines.next().unwrap().to_owned();
        let lease = lines.next().unwrap().split("lease: lease ").nth(1).map_or(0, |rest| i64::from_str_radix(&rest[..16], 16).unwrap());
        entries.push((key, lines.next().unwrap_or_default().to_owned(), lease));
    }
    entries
}

fn keys() -> Keys {
    Keys::new("/service", "bench")
}

fn parse_all(entries: &[(String, String, i64)]) -> Parsed {
    let entries = entries.iter().zip(11..).map(|((key, value, lease), revision)| Entry {
        key: Cow::Borrowed(key),
        value: Cow::Borrowed(value),
        lease: LeaseId(*lease),
        revision: Revision(revision),
    });
    parse(&keys(), entries, Revision(99), Instant(5))
}

/// One key of the scope with this content.
fn one(key: Key<'_>, value: &str) -> Parsed {
    parse_all(&[(keys().path(key), value.to_owned(), 7)])
}

fn value_of<'a>(entries: &'a [(String, String, i64)], key: Key<'_>) -> &'a str {
    let path = keys().path(key);
    &entries.iter().find(|(name, ..)| *name == path).unwrap().1
}

#[test]
fn after_failover() {
    let entries = recording("after-failover");
    let Parsed { view, problems } = parse_all(&entries);
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!((view.revision, view.read_at), (Revision(99), Instant(5)));
    assert_eq!(view.initialize, Some(Initialize::Done(SystemId(7_710_367_197_904_733_785))));
    let leader = view.leader.as_ref().unwrap();
    assert_eq!((leader.name.as_str(), leader.lease), ("n1", LeaseId(0x0b6f_a1fa_d6fc_1706)));
    assert_eq!(view.failover, None);
    assert_eq!(view.sync, None);
    assert_eq!(view.config.as_ref().unwrap().value["ttl"], json!(20));
    assert!(!view.is_paused());
    let n3 = &view.members[&MemberName::from("n3")];
    assert_eq!(n3.api_url.as_deref(), Some("http://10.77.0.3:8008/patroni"));
    assert_eq!((n3.state.as_str(), n3.role.as_str()), ("running", "replica"));
    assert_eq!((n3.timeline, n3.position), (Some(Timeline(5)), Some(Lsn(100_665_416))));
    assert!(n3.tags.nofailover && n3.tags.nosync && n3.tags.clonefrom && n3.tags.noloadbalance);
    assert_eq!((n3.tags.failover_priority, n3.tags.sync_priority), (0, 0));
    assert_eq!(view.members[&MemberName::from("n1")].tags, Tags::default());
    let history = view.history.unwrap().value;
    assert_eq!(history.len(), 4);
    assert_eq!(render_history(&history), value_of(&entries, Key::History));
    assert_eq!(view.status.optime, Some(Lsn(100_665_416)));
    assert_eq!(view.status.slots.len(), 3);
}

#[test]
fn status_is_written_as_patroni_does() {
    let entries = recording("permanent-slots");
    let status = parse_all(&entries).view.status;
    let ours = render_status(status.optime.unwrap(), &status.slots, &status.retain_slots);
    // Slots have no order; all else is the same to the byte.
    let theirs = value_of(&entries, Key::Status);
    assert_eq!(ours.len(), theirs.len());
    assert_eq!(serde_json::from_str::<Value>(&ours).unwrap(), serde_json::from_str::<Value>(theirs).unwrap());
    assert_eq!(
        render_status(Lsn(5), &BTreeMap::from([("n1".to_owned(), Lsn(5))]), &BTreeSet::from(["n1".to_owned()])),
        r#"{"optime":5,"slots":{"n1":5},"retain_slots":["n1"]}"#
    );
}

#[test]
fn scheduled_switchover() {
    let entries = recording("scheduled-switchover");
    let view = parse_all(&entries).view;
    let request = view.failover.unwrap().value;
    assert_eq!(request.leader, Some(MemberName::from("n1")));
    assert_eq!(request.candidate, Some(MemberName::from("n2")));
    assert_eq!(request.scheduled_at, Some(WallTime(1_795_217_068_998)));
    // Our clock has milliseconds.
    assert_eq!(render_failover(Some(&request)), value_of(&entries, Key::Failover).replace("998562", "998000"));
}

#[test]
fn quorum_and_failsafe() {
    let sync = parse_all(&recording("quorum")).view.sync.unwrap().value;
    assert_eq!((sync.leader, sync.quorum), (Some(MemberName::from("n1")), 0));
    assert_eq!(sync.standbys, BTreeSet::from([MemberName::from("n2")]));
    let view = parse_all(&recording("leader-agent-stopped")).view;
    assert_eq!(view.failsafe.unwrap()[&MemberName::from("n2")], "http://10.77.0.2:8008/patroni");
    assert_eq!(view.members[&MemberName::from("n2")].position, None);
}

#[test]
fn broken_documents_hide_nothing_else() {
    let mut entries = recording("after-failover");
    for entry in &mut entries {
        if !entry.0.ends_with("/leader") && !entry.0.ends_with("/n2") {
            entry.1 = "{\"broken".to_owned();
        }
    }
    let Parsed { view, problems } = parse_all(&entries);
    assert_eq!(view.leader_name(), Some(&MemberName::from("n1")));
    assert_eq!(view.members.len(), 3);
    assert_eq!(view.members[&MemberName::from("n2")].timeline, Some(Timeline(5)));
    assert_eq!(view.members[&MemberName::from("n1")].raw, json!({}));
    assert_eq!(view.config, None);
    assert_eq!(view.initialize, Some(Initialize::InProgress));
    assert_eq!(view.history.unwrap().value, vec![]);
    assert_eq!(view.failover, None);
    // config, failover, history, initialize, two members, status.
    assert_eq!(problems.len(), 7, "{problems:?}");
}

#[test]
fn failover_forms() {
    let request = |text: &str| one(Key::Failover, text).view.failover.map(|request| request.value);
    let names = |leader: Option<&str>, candidate: Option<&str>| {
        Some(FailoverRequest { leader: leader.map(MemberName::from), candidate: candidate.map(MemberName::from), scheduled_at: None })
    };
    assert_eq!(request(""), None);
    assert_eq!(request("{}"), None);
    assert_eq!(request(r#"{"leader":null,"member":""}"#), None);
    assert_eq!(request("n1:n2"), names(Some("n1"), Some("n2")));
    assert_eq!(request(":n2"), names(None, Some("n2")));
    assert_eq!(request("n1"), names(Some("n1"), None));
    assert_eq!(request(r#"{"member":"n2"}"#), names(None, Some("n2")));
    assert_eq!(render_failover(names(None, Some("n2")).as_ref()), r#"{"member":"n2"}"#);
    assert_eq!(render_failover(None), "{}");
    for bad in [r#"{"leader":"n1","scheduled_at":"soon"}"#, r#"{"leader":"n1","scheduled_at":"2026-01-01T00:00:00"}"#, "[1]", "5"] {
        let parsed = one(Key::Failover, bad);
        assert_eq!((parsed.view.failover, parsed.problems.len()), (None, 1), "{bad}");
    }
    let at = parse_wall("2026-01-01T00:00:00Z").unwrap();
    let scheduled = one(Key::Failover, r#"{"leader":"n1","scheduled_at":"2026-01-01 00:00:00+00:00"}"#).view.failover.unwrap();
    assert_eq!(scheduled.value.scheduled_at, Some(at));
    assert_eq!(scheduled.revision, Revision(11));
}

#[test]
fn sync_forms() {
    let sync = |text: &str| one(Key::Sync, text).view.sync.unwrap().value;
    assert_eq!(sync(r#"{"leader":"n2","quorum":0,"sync_standby":null}"#).standbys, BTreeSet::new());
    let two = sync(r#"{"leader":"n2","quorum":"1","sync_standby":"a, b"}"#);
    assert_eq!((two.quorum, two.standbys.len()), (1, 2));
    for empty in ["", "{}", "null", "x", r#"{"leader":null,"sync_standby":"a"}"#] {
        assert_eq!(sync(empty), Default::default(), "{empty}");
    }
}

#[test]
fn status_forms() {
    assert_eq!(one(Key::Status, "123").view.status.optime, Some(Lsn(123)));
    assert_eq!(one(Key::Status, r#"{"optime":"123","slots":null}"#).view.status.optime, Some(Lsn(123)));
    assert_eq!(one(Key::OldOptime, "456").view.status.optime, Some(Lsn(456)));
    let both = parse_all(&[
        (keys().path(Key::OldOptime), "456".to_owned(), 0),
        (keys().path(Key::Status), r#"{"optime":789,"slots":{"a":"1","b":true},"retain_slots":["a",1]}"#.to_owned(), 0),
    ]);
    assert_eq!(both.view.status.optime, Some(Lsn(789)));
    assert_eq!(both.view.status.slots, BTreeMap::from([("a".to_owned(), Lsn(1))]));
    assert_eq!(both.view.status.retain_slots, BTreeSet::from(["a".to_owned()]));
}

#[test]
fn member_forms() {
    let member = |text: &str| one(Key::Member("n1"), text).view.members.remove(&MemberName::from("n1")).unwrap();
    let old = member("postgres://10.0.0.1:5432/postgres?application_name=http://10.0.0.1:8008/patroni");
    assert_eq!(old.conn_url.as_deref(), Some("postgres://10.0.0.1:5432/postgres"));
    assert_eq!(old.api_url.as_deref(), Some("http://10.0.0.1:8008/patroni"));
    let kwargs = member(r#"{"conn_kwargs":{"host":"10.0.0.1","port":"5433"},"role":"master","xlog_location":"12","timeline":-1}"#);
    assert_eq!(kwargs.conn_url.as_deref(), Some("postgres://10.0.0.1:5433"));
    assert_eq!((kwargs.role.as_str(), kwargs.position, kwargs.timeline), ("primary", Some(Lsn(12)), None));
    assert_eq!(kwargs.lease, LeaseId(7));
    assert!(member(r#"{"checkpoint_after_promote":false}"#).checkpoint_pending);
    assert!(!member(r#"{"checkpoint_after_promote":true}"#).checkpoint_pending);
}

#[test]
fn tag_forms() {
    let with = |value: Value| tags(&value);
    assert!(with(json!({"nofailover": "false"})).nofailover);
    assert!(!with(json!({"nofailover": ""})).nofailover);
    assert!(with(json!({"failover_priority": "0"})).nofailover);
    assert_eq!(with(json!({"failover_priority": "5"})).failover_priority, 5);
    assert_eq!(with(json!({"failover_priority": "many"})).failover_priority, 1);
    assert_eq!(with(json!({"nofailover": true, "failover_priority": 3})).failover_priority, 0);
    assert!(with(json!({"sync_priority": -1})).nosync);
    assert_eq!(with(json!({"replicatefrom": "n2"})).replicatefrom, Some(MemberName::from("n2")));
    assert_eq!(with(json!("odd")), Tags::default());
}
