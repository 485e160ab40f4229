//! Watchdog, guard and virtual addresses: after Patroni's words, and only what is true at the moment of the question.

use std::sync::Arc;

use mastiff::ha::action::Snapshot;
use mastiff::ha::config::WatchdogMode;
use mastiff::ha::fence::{Guard, VipRole, Watchdog};
use mastiff::ha::types::{Instant, Millis, WallTime};
use mastiff::http::client::peer_status;
use mastiff::http::routes::{answer, Question, Routed};
use mastiff::http::{Current, Published, View, VipStatus};
use serde_json::{json, Value};

use crate::states::{async_leader, async_replica, current, identity, NOW, WALL};

fn ask_at(current: &Current, method: &str, target: &str, now: Instant) -> (u16, String) {
    let identity = identity("n1");
    let view = View { current, identity: &identity, now, wall: WALL };
    match answer(&Question { method, target, has_length: false, body: b"" }, &view) {
        Routed::Done(response) => (response.code, String::from_utf8(response.body.to_vec()).unwrap()),
        other => panic!("{other:?}"),
    }
}

fn status(current: &Current, now: Instant) -> Value {
    serde_json::from_str(&ask_at(current, "GET", "/patroni", now).1).unwrap()
}

fn fenced(mut snapshot: Snapshot, mode: WatchdogMode, watchdog: Watchdog, guard: Guard) -> Snapshot {
    let config = Arc::make_mut(&mut snapshot.config);
    config.watchdog.mode = mode;
    config.guard = true;
    (snapshot.watchdog, snapshot.guard) = (watchdog, guard);
    snapshot
}

fn addresses() -> Vec<VipStatus> {
    let held = VipStatus {
        address: "10.0.0.9".parse().unwrap(),
        prefix: 24,
        interface: "eth0".into(),
        role: VipRole::Primary,
        held: true,
        since: Some(WallTime(1_795_209_780_000)),
        expires_at: Some(NOW + Millis(3500)),
        conflict: None,
        error: None,
    };
    let lost = VipStatus {
        address: "fd00::9".parse().unwrap(),
        prefix: 128,
        role: VipRole::AnyStandby,
        held: false,
        since: None,
        expires_at: None,
        conflict: Some("02:00:00:00:00:07".into()),
        error: Some("another box \"answers\"".into()),
        ..held.clone()
    };
    vec![held, lost]
}

fn armed() -> Snapshot {
    let watchdog = Watchdog::Armed { timeout: Millis(10_000), stoppable: true };
    fenced(async_leader(), WatchdogMode::Automatic, watchdog, Guard::Armed { until: NOW + Millis(21_500) })
}

#[test]
fn the_document_ends_with_the_fences() {
    let current = current(armed()).with_vips(addresses());
    let body = ask_at(&current, "GET", "/patroni", NOW).1;
    let end = concat!(
        r#""name": "n1", "agent": "mastiff 0.0.0"}, "watchdog": {"mode": "automatic", "state": "armed", "timeout": 10, "stoppable": true}, "#,
        r#""guard": {"state": "armed", "seconds_left": 21.5}, "#,
        r#""vip": [{"address": "10.0.0.9", "prefix": 24, "interface": "eth0", "role": "primary", "held": true, "#,
        r#""since": "2026-11-20T21:23:00+00:00", "seconds_left": 3.5}, "#,
        r#"{"address": "fd00::9", "prefix": 128, "interface": "eth0", "role": "any-standby", "held": false, "#,
        r#""conflict": "02:00:00:00:00:07", "error": "another box \"answers\""}]}"#,
    );
    assert!(body.ends_with(end), "{body}");
    // The same without them, and nothing before them differs.
    let plain = ask_at(&crate::states::current(async_leader()), "GET", "/patroni", NOW).1;
    assert!(body.starts_with(plain.strip_suffix('}').unwrap()), "{plain}");
}

#[test]
fn what_there_is_nothing_to_say_of_is_absent() {
    let nothing = status(&current(async_leader()), NOW);
    for key in ["watchdog", "guard", "vip", "watchdog_failed"] {
        assert_eq!(nothing.get(key), None, "{key}");
    }
    let bare = status(&current(fenced(async_leader(), WatchdogMode::Required, Watchdog::Ready, Guard::Absent)), NOW);
    assert_eq!(bare["watchdog"], json!({"mode": "required", "state": "ready"}));
    assert_eq!(bare["guard"], json!({"state": "absent"}));
    let late = Guard::Armed { until: NOW - Millis(1) };
    let late = status(&current(fenced(async_leader(), WatchdogMode::Off, Watchdog::Unknown, late)), NOW);
    assert_eq!((&late["guard"]["seconds_left"], late.get("watchdog")), (&json!(0), None));
    let before = status(&Current::new(None, NOW, WALL), NOW);
    assert_eq!((before.get("watchdog"), before.get("guard")), (None, None));
}

#[test]
fn a_demanded_watchdog_that_fails_is_said_in_patronis_word() {
    let broken = || Watchdog::Unusable("there is no /dev/watchdog".into());
    let works = Watchdog::Armed { timeout: Millis(10_000), stoppable: false };
    for (mode, watchdog, failed) in [
        (WatchdogMode::Required, broken(), true),
        (WatchdogMode::Required, works, false),
        (WatchdogMode::Required, Watchdog::Ready, false),
        (WatchdogMode::Automatic, broken(), false),
        (WatchdogMode::Off, Watchdog::Unknown, false),
    ] {
        let shown = status(&current(fenced(async_replica(), mode, watchdog.clone(), Guard::Idle)), NOW);
        assert_eq!(shown.get("watchdog_failed"), failed.then_some(&json!(true)), "{mode:?} {watchdog:?}");
        assert_eq!(peer_status(&shown).unwrap().watchdog_failed, failed);
    }
    let shown = status(&current(fenced(async_replica(), WatchdogMode::Automatic, broken(), Guard::Idle)), NOW);
    assert_eq!(shown["watchdog"], json!({"mode": "automatic", "state": "unusable", "reason": "there is no /dev/watchdog"}));
    assert_eq!(shown["guard"], json!({"state": "idle"}));
}

#[test]
fn the_list_of_addresses_counts_by_the_clock() {
    let current = current(armed()).with_vips(addresses());
    let at = |now: Instant| -> Value { serde_json::from_str(&ask_at(&current, "GET", "/vip", now).1).unwrap() };
    let first = at(NOW + Millis(2000));
    assert_eq!((&first[0]["held"], &first[0]["seconds_left"]), (&json!(true), &json!(1.5)));
    // The kernel removes it, whoever is stopped.
    let gone = at(NOW + Millis(3500));
    assert_eq!(gone[0], json!({"address": "10.0.0.9", "prefix": 24, "interface": "eth0", "role": "primary", "held": false}));
    for method in ["HEAD", "OPTIONS"] {
        assert_eq!(ask_at(&current, method, "/vip", NOW), (200, String::new()), "{method}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(ask_at(&current, method, "/vip", NOW).0, 501, "{method}");
    }
    let none = crate::states::current(async_replica());
    assert_eq!(ask_at(&none, "GET", "/vip", NOW), (200, "[]".to_owned()));
    for target in ["/vip", "/vip/", "/vip?x=1"] {
        assert_eq!(ask_at(&none, "HEAD", target, NOW).0, 200, "{target}: whatever the role");
    }
    assert_eq!(ask_at(&Current::new(None, NOW, WALL), "GET", "/vip", NOW), (200, "[]".to_owned()));
}

#[test]
fn of_a_hung_main_loop_no_fence_is_claimed() {
    let mut vips = addresses();
    vips[0].expires_at = None;
    let current = current(armed()).with_vips(vips);
    let held = |now| serde_json::from_str::<Value>(&ask_at(&current, "GET", "/vip", now).1).unwrap()[0]["held"].clone();
    assert_eq!((held(NOW + Millis(5000)), held(NOW + Millis(5001))), (json!(true), json!(false)));
    let stale = status(&current, NOW + Millis(5001));
    assert_eq!((stale.get("watchdog"), stale.get("guard"), stale.get("vip")), (None, None, None));
    let metrics = ask_at(&current, "GET", "/metrics", NOW + Millis(5001)).1;
    assert!(metrics.contains("mastiff_guard_armed{scope=\"bench\",name=\"n1\"} 0\n"), "{metrics}");
}

#[test]
fn metrics() {
    let page = |current: &Current, now| ask_at(current, "GET", "/metrics", now).1;
    let current = current(armed()).with_vips(addresses());
    let labels = "{scope=\"bench\",name=\"n1\"";
    let text = page(&current, NOW);
    for line in [
        format!("mastiff_watchdog_armed{labels}}} 1"),
        format!("mastiff_watchdog_usable{labels}}} 1"),
        format!("mastiff_watchdog_resets_total{labels}}} 0"),
        format!("mastiff_guard_armed{labels}}} 1"),
        format!("mastiff_vip_held{labels},address=\"10.0.0.9\",role=\"primary\"}} 1"),
        format!("mastiff_vip_held{labels},address=\"fd00::9\",role=\"any-standby\"}} 0"),
        format!("mastiff_vip_conflict{labels},address=\"fd00::9\",role=\"any-standby\"}} 1"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    for name in ["mastiff_vip_held", "mastiff_watchdog_armed"] {
        assert_eq!(text.matches(&format!("# TYPE {name} gauge\n")).count(), 1, "{name}");
    }
    assert!(page(&current, NOW + Millis(3500)).contains("address=\"10.0.0.9\",role=\"primary\"} 0\n"));
    let ready = crate::states::current(fenced(async_replica(), WatchdogMode::Automatic, Watchdog::Ready, Guard::Idle));
    let text = page(&ready, NOW);
    assert!(
        text.contains(&format!("mastiff_watchdog_armed{labels}}} 0\n")) && text.contains(&format!("mastiff_watchdog_usable{labels}}} 1\n"))
    );
    assert!(text.contains(&format!("mastiff_guard_armed{labels}}} 0\n")) && !text.contains("mastiff_vip"), "{text}");
}

#[test]
fn addresses_and_snapshots_come_one_after_the_other() {
    let published = Published::new();
    published.set_vips(addresses());
    assert_eq!((published.load().vips.len(), published.load().snapshot.is_none()), (2, true));
    published.store(async_leader());
    let body = |current: &Current| current.status_body(&identity("n1"), false);
    let first = published.load();
    assert!(first.vips.len() == 2 && body(&first).ends_with(b"}]}"));
    published.set_vips(Vec::new());
    let second = published.load();
    assert!(second.snapshot.is_some() && second.vips.is_empty());
    assert!(!String::from_utf8_lossy(&body(&second)).contains("vip"), "the text is made anew");
    assert_eq!((first.published_at, first.wall), (second.published_at, second.wall));
}
