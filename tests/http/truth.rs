//! What may be said when: a leader only while its lease lasts, nothing at all when the main loop hangs. And what the parameters mean.

use mastiff::ha::action::Snapshot;
use mastiff::ha::input::{Progress, RestartRequest};
use mastiff::ha::types::{Instant, Lsn, Millis};
use mastiff::ha::view::{PgState, Role};
use mastiff::http::routes::{answer, Question, Routed};
use mastiff::http::{Current, View};
use serde_json::{json, Value};

use crate::states::{async_leader, async_replica, current, identity, scene, Scene, NOW, WALL};

fn get_at(current: &Current, target: &str, now: Instant) -> (u16, String) {
    let identity = identity("n1");
    let view = View { current, identity: &identity, now, wall: WALL };
    match answer(&Question { method: "GET", target, has_length: false, body: b"" }, &view) {
        Routed::Done(response) => (response.code, String::from_utf8(response.body.to_vec()).unwrap()),
        other => panic!("{other:?}"),
    }
}

fn code(snapshot: &Snapshot, target: &str) -> u16 {
    get_at(&current(snapshot.clone()), target, NOW).0
}

const LEADER_PATHS: [&str; 8] =
    ["/", "/primary", "/master", "/read-write", "/leader", "/read-only", "/read-only-sync", "/read-only-quorum"];

#[test]
fn no_leader_after_the_lease() {
    let mut snapshot = async_leader();
    snapshot.lease_deadline = Some(NOW + Millis(2000));
    let current = current(snapshot);
    for path in LEADER_PATHS {
        assert_eq!(get_at(&current, path, NOW + Millis(1999)).0, 200, "{path}");
        assert_eq!(get_at(&current, path, NOW + Millis(2000)).0, 503, "{path}");
    }
    assert_eq!(get_at(&current, "/readiness", NOW + Millis(2000)).0, 503);
}

#[test]
fn nothing_is_true_of_a_hung_main_loop() {
    // loop_wait 1 s + retry_timeout 3 s + 1 s.
    let current = current(async_leader());
    for path in LEADER_PATHS {
        assert_eq!(get_at(&current, path, NOW + Millis(5000)).0, 200, "{path}");
        assert_eq!(get_at(&current, path, NOW + Millis(5001)).0, 503, "{path}");
    }
    let (code, body) = get_at(&current, "/patroni", NOW + Millis(5001));
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &body["state"], body.get("xlog")), (200, &json!("unknown"), None));
    let replica = crate::states::current(async_replica());
    assert_eq!(get_at(&replica, "/replica", NOW + Millis(5000)).0, 200);
    assert_eq!(get_at(&replica, "/replica", NOW + Millis(5001)).0, 503);
    assert_eq!(get_at(&replica, "/health", NOW + Millis(5001)).0, 503);
}

#[test]
fn liveness_of_a_hung_main_loop() {
    let leader = current(async_leader());
    assert_eq!(get_at(&leader, "/liveness", NOW + Millis(20_999)).0, 200);
    assert_eq!(get_at(&leader, "/liveness", NOW + Millis(21_000)).0, 503);
    let replica = current(async_replica());
    assert_eq!(get_at(&replica, "/liveness", NOW + Millis(40_999)).0, 200);
    assert_eq!(get_at(&replica, "/liveness", NOW + Millis(41_000)).0, 503);
    let paused = current(scene(9, 1, false, vec![("pause", json!(true))]).leader("", &[]));
    assert_eq!(get_at(&paused, "/liveness", NOW + Millis(1_000_000)).0, 200);
}

#[test]
fn a_leader_that_is_not_promoted_yet() {
    let mut snapshot = async_leader();
    let mut node = snapshot.node.as_deref().cloned().unwrap();
    if let PgState::Running(running) = &mut node.pg {
        running.role = Role::Standby;
    }
    snapshot.node = Some(node.into());
    assert_eq!(code(&snapshot, "/primary"), 503);
    assert_eq!(code(&snapshot, "/leader"), 200);
}

#[test]
fn pause_without_a_lease_is_the_cores_word() {
    let paused = scene(9, 1, false, vec![("pause", json!(true))]);
    let mut snapshot = paused.leader("", &[]);
    snapshot.lease_deadline = None;
    assert_eq!(code(&snapshot, "/primary"), 200);
    snapshot.is_leader = false;
    assert_eq!(code(&snapshot, "/primary"), 503);
    let mut awake = async_leader();
    awake.lease_deadline = None;
    assert_eq!(code(&awake, "/primary"), 503);
}

#[test]
fn before_the_first_snapshot() {
    let nothing = Current::new(None, NOW, WALL);
    for path in LEADER_PATHS.into_iter().chain(["/replica", "/health", "/readiness", "/sync", "/async", "/cluster", "/history"]) {
        assert_eq!(get_at(&nothing, path, NOW).0, 503, "{path}");
    }
    assert_eq!(get_at(&nothing, "/config", NOW).0, 502);
    assert_eq!(get_at(&nothing, "/liveness", NOW).0, 200);
    assert_eq!(get_at(&nothing, "/patroni", NOW).0, 200);
    assert_eq!(get_at(&nothing, "/metrics", NOW).0, 200);
}

#[test]
fn lag_and_tags() {
    let mut behind = scene(1000, 1, false, Vec::new());
    behind.cluster.status.optime = Some(Lsn(3048));
    let snapshot = behind.standby("n2", "", None);
    for (target, wanted) in [
        ("/replica", 200),
        ("/replica?lag=2048", 200),
        ("/replica?lag=2047", 503),
        ("/replica?lag=2kB", 200),
        ("/replica?lag=1kB", 503),
        ("/replica?lag=bogus", 200),
        ("/async?lag=2047", 503),
        ("/replica?replication_state=streaming", 200),
        ("/replica?replication_state=in+archive+recovery", 503),
        ("/foo-replica", 200),
        ("/replica/anything", 200),
        ("/replica?tag_datacenter=edge", 503),
        ("/readiness", 200),
        ("/readiness?lag=1kB", 503),
        ("/readiness?lag=1kB&mode=write", 503),
        ("/health?tag_x=1", 503),
    ] {
        assert_eq!(code(&snapshot, target), wanted, "{target}");
    }
    let mut tagged = behind.standby("n3", "", None);
    std::sync::Arc::make_mut(&mut tagged.config).tags.noloadbalance = false;
    assert_eq!(code(&tagged, "/replica?tag_datacenter=edge&tag_nosync=true"), 200);
    assert_eq!(code(&tagged, "/replica?tag_datacenter=core"), 503);
}

#[test]
fn standby_cluster() {
    let mut snapshot = async_leader();
    std::sync::Arc::make_mut(&mut snapshot.config).standby_cluster = true;
    snapshot.role = "standby_leader";
    let mut node = snapshot.node.as_deref().cloned().unwrap();
    if let PgState::Running(running) = &mut node.pg {
        running.role = Role::Standby;
    }
    snapshot.node = Some(node.into());
    for (target, wanted) in [("/standby-leader", 200), ("/leader", 200), ("/primary", 503), ("/replica", 503), ("/read-only", 200)] {
        assert_eq!(code(&snapshot, target), wanted, "{target}");
    }
    let body: Value = serde_json::from_str(&get_at(&current(snapshot), "/patroni", NOW).1).unwrap();
    assert_eq!(body["role"], "standby_leader");
}

#[test]
fn own_facts_of_the_document() {
    let mut snapshot = async_replica();
    snapshot.scheduled_restart = Some(RestartRequest {
        role: Some("primary".into()),
        schedule: Some(mastiff::ha::types::WallTime(1_795_216_981_872)),
        ..RestartRequest::default()
    });
    snapshot.job = Some(("basebackup", Some(Progress { done: 5, total: Some(10), at: NOW })));
    let body = get_at(&current(snapshot), "/patroni", NOW).1;
    let end = r#", "scheduled_restart": {"role": "primary", "schedule": "2026-11-20T23:23:01.872000+00:00"}, "job": {"name": "basebackup", "bytes_done": 5, "bytes_total": 10}}"#;
    assert!(body.ends_with(end), "{body}");
    assert!(body.contains(r#""name": "n1", "agent": "mastiff 0.0.0"}"#), "{body}");
}

#[test]
fn a_silent_store_still_gets_answers() {
    let mut snapshot = async_leader();
    Scene::without_store(&mut snapshot);
    let current = current(snapshot);
    assert_eq!(get_at(&current, "/config", NOW).0, 200);
    assert_eq!(get_at(&current, "/history", NOW).0, 200);
    assert_eq!(get_at(&current, "/cluster", NOW).0, 200);
    assert_eq!(get_at(&current, "/cluster", NOW + Millis(6000)), (503, "DCS is not accessible".to_owned()));
}
