//! Commands through the running server: rights, answers, waits; and the client side.

use std::time::{Duration, Instant};

use mastiff::config::types::Secret;
use mastiff::ha::action::{Reply, ReplyBody};
use mastiff::ha::input::Command;
use mastiff::ha::types::{Lsn, MemberName};
use mastiff::http::client::Client;
use mastiff::http::{spawn, Error, Operator, Published, Request};
use serde_json::json;
use tokio::sync::mpsc;

use crate::live::{config, connect, exchange, send, Live};
use crate::states::identity;

/// Answers every command with `reply`, on a thread; the commands that came.
pub fn core(mut commands: mpsc::Receiver<Request>, reply: Reply) -> std::thread::JoinHandle<Vec<Operator>> {
    std::thread::spawn(move || {
        let mut seen = Vec::new();
        while let Some(request) = commands.blocking_recv() {
            let _ = request.reply.send(reply.clone());
            seen.push(request.command);
        }
        seen
    })
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap_or(("", "")).1
}

#[test]
fn a_switchover_is_answered_by_the_core() {
    let live = Live::start(&config());
    let address = live.address();
    let core = core(live.commands, Reply::text(200, "Successfully switched over to \"n2\""));
    let answer = send(address, "POST", "/switchover", "", r#"{"leader": "n1", "member": "n2"}"#);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("Content-Type: text/html\r\n"), "{answer}");
    assert_eq!(body(&answer), "Successfully switched over to \"n2\"");
    live.server.stop();
    let wanted = Command::Switchover { leader: "n1".into(), candidate: Some("n2".into()), scheduled_at: None };
    assert_eq!(core.join().unwrap(), [Operator::Ha(wanted)]);
}

#[test]
fn documents_and_error_pages_of_the_core() {
    let live = Live::start(&config());
    let address = live.address();
    let _core = core(live.commands, Reply { code: 200, body: ReplyBody::Json(json!({"ttl": 20, "a": [1, 2]})) });
    let answer = send(address, "PATCH", "/config", "", r#"{"ttl": 20}"#);
    assert!(answer.contains("Content-Type: application/json\r\n"), "{answer}");
    assert_eq!(body(&answer), r#"{"ttl": 20, "a": [1, 2]}"#);
    let live = Live::start(&config());
    let address = live.address();
    let _core = core(live.commands, Reply::text(409, ""));
    let answer = send(address, "PATCH", "/config", "", r#"{"ttl": 20}"#);
    assert!(answer.starts_with("HTTP/1.1 409 Conflict\r\n") && body(&answer).contains("Error code: 409"), "{answer}");
}

#[test]
fn a_body_without_length() {
    let live = Live::start(&config());
    let answer = exchange(live.address(), b"POST /switchover HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 411"), "{answer}");
}

#[test]
fn a_main_loop_that_does_not_listen() {
    let mut live = Live::start(&config());
    let address = live.address();
    // Eight commands fit into the queue of this test; four may be in flight.
    let busy: Vec<_> = (0..4).map(|_| std::thread::spawn(move || send(address, "DELETE", "/restart", "", ""))).collect();
    std::thread::sleep(Duration::from_millis(500));
    let answer = send(address, "DELETE", "/restart", "", "");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("too many commands"), "{answer}");
    live.assert_serves(Duration::from_secs(1));
    // The main loop drops them unanswered.
    while live.commands.try_recv().is_ok() {}
    for thread in busy {
        assert!(thread.join().unwrap().contains("the agent is stopping"));
    }
    drop(std::mem::replace(&mut live.commands, mpsc::channel(1).1));
    let answer = send(address, "DELETE", "/restart", "", "");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}

#[test]
fn reload_comes_after_its_answer() {
    let mut live = Live::start(&config());
    let answer = send(live.address(), "POST", "/reload", "", "");
    let answered = Instant::now();
    assert!(answer.starts_with("HTTP/1.1 202 Accepted") && body(&answer) == "reload scheduled", "{answer}");
    send(live.address(), "POST", "/reload", "", "");
    assert!(live.commands.try_recv().is_err());
    let request = live.commands.blocking_recv().unwrap();
    assert_eq!(request.command, Operator::Reload);
    assert!(answered.elapsed() > Duration::from_millis(800));
    std::thread::sleep(Duration::from_millis(1200));
    assert!(live.commands.try_recv().is_err(), "two requests, one reload");
}

#[test]
fn passwords() {
    let mut config = config();
    config.authentication = Some(("admin".into(), Secret("s3cret".into())));
    let live = Live::start(&config);
    let address = live.address();
    let _core = core(live.commands, Reply::text(404, "no restarts are scheduled"));
    let ask = |headers: &str| send(address, "DELETE", "/restart", headers, "");
    let none = ask("");
    assert!(none.starts_with("HTTP/1.1 401") && none.contains("Www-Authenticate: Basic realm=\"Patroni\"\r\n"), "{none}");
    assert_eq!(body(&none), "no auth header received");
    assert_eq!(body(&ask("Authorization: Basic YWRtaW46d3Jvbmc=\r\n")), "not authenticated");
    assert_eq!(body(&ask("Authorization: Bearer x\r\n")), "not authenticated");
    assert_eq!(body(&ask("Authorization: Basic YWRtaW46czNjcmV0\r\n")), "no restarts are scheduled");
    // Reading needs none; nor does learning that a path does not exist.
    assert!(send(address, "GET", "/config", "", "").starts_with("HTTP/1.1 200"));
    assert!(send(address, "POST", "/x", "", "").starts_with("HTTP/1.1 501 Unsupported method ('POST')\r\n"));
    config.authentication = None;
    live.server.reconfigure(&config).unwrap();
    assert_eq!(body(&ask("")), "no restarts are scheduled");
}

#[test]
fn allowlist() {
    let mut config = config();
    config.allowlist = Some(vec!["192.0.2.0/24".into()]);
    let live = Live::start(&config);
    let address = live.address();
    let _core = core(live.commands, Reply::text(404, "no restarts are scheduled"));
    let ask = || send(address, "DELETE", "/restart", "", "");
    let refused = ask();
    assert!(refused.starts_with("HTTP/1.1 403") && body(&refused) == "Access is denied", "{refused}");
    assert!(send(address, "GET", "/primary", "", "").starts_with("HTTP/1.1 200"));
    for entry in ["127.0.0.1", "127.0.0.0/8", "localhost"] {
        config.allowlist = Some(vec![entry.into()]);
        live.server.reconfigure(&config).unwrap();
        assert_eq!(body(&ask()), "no restarts are scheduled", "{entry}");
    }
    config.allowlist = None;
    config.allowlist_include_members = true;
    live.server.reconfigure(&config).unwrap();
    assert_eq!(body(&ask()), "Access is denied");
}

#[test]
fn headers() {
    let mut config = config();
    config.extra_headers = vec![("X-Frame-Options".into(), "DENY".into()), ("bad header".into(), "x".into())];
    config.server_tokens = "Minimal".into();
    let live = Live::start(&config);
    let answer = send(live.address(), "GET", "/primary", "", "");
    for line in ["Server: Patroni/4.1.5\r\n", "X-Frame-Options: DENY\r\n", "Content-Type: application/json\r\n", "Age: 0\r\n"] {
        assert!(answer.contains(line), "{line} {answer}");
    }
    let code_only = send(live.address(), "OPTIONS", "/primary", "", "");
    assert!(code_only.starts_with("HTTP/1.1 200 OK\r\n") && !code_only.contains("Server:"), "{code_only}");
    let old = exchange(live.address(), b"OPTIONS /primary HTTP/1.0\r\n\r\n");
    assert!(old.starts_with("HTTP/1.0 200 OK\r\n"), "{old}");
}

#[test]
fn what_cannot_be_started() {
    let live = Live::start(&config());
    let start = |config: &_| spawn(config, identity("n1"), Published::new().into(), mpsc::channel(1).0).map(|_| ()).unwrap_err();
    let mut taken = config();
    taken.listen.port = live.address().port();
    let error = start(&taken);
    assert!(matches!(error, Error::Bind { .. }) && error.to_string().contains("restapi.listen"), "{error}");
    let mut foreign = config();
    foreign.listen.host = "192.0.2.1".into();
    assert!(matches!(start(&foreign), Error::Bind { .. }));
    let mut nameless = config();
    nameless.listen.host = "no-such-host.invalid".into();
    assert!(matches!(start(&nameless), Error::Resolve { .. }));
    let address = live.address();
    live.server.stop();
    assert!(std::net::TcpStream::connect(address).is_err(), "the port is free again");
}

#[test]
fn every_address() {
    let mut config = config();
    config.listen.host = "*".into();
    let live = Live::start(&config);
    let port = live.address().port();
    assert!(send(([127, 0, 0, 1], port).into(), "GET", "/primary", "", "").starts_with("HTTP/1.1 200"));
}

fn run<T>(future: impl std::future::Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn asking_peers() {
    let live = Live::start(&config());
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = |address: std::net::SocketAddr| format!("http://{address}/patroni");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let peers: Vec<(MemberName, String)> = vec![
        ("n1".into(), url(live.address())),
        ("silent".into(), url(silent.local_addr().unwrap())),
        ("dead".into(), url(free)),
        ("odd".into(), "ftp://x".into()),
    ];
    let begun = Instant::now();
    let view = run(Client::default().ask_peers(peers, Duration::from_millis(700), mastiff::clock::now()));
    assert!(begun.elapsed() < Duration::from_secs(2));
    let status = view.peers[&MemberName::from("n1")].as_ref().unwrap();
    assert!(!status.in_recovery && status.position == Lsn(67_108_864));
    assert!(status.dcs_last_seen > 1_700_000_000);
    assert_eq!(view.peers.values().filter(|status| status.is_none()).count(), 3);
    // A member with a hung main loop is not reckoned with.
    let mut hung = crate::live::leader_now();
    hung.at = mastiff::ha::types::Instant(0);
    live.published.store(hung);
    let view = run(Client::default().ask_peers(vec![("n1".into(), url(live.address()))], Duration::from_secs(2), mastiff::clock::now()));
    assert_eq!(view.peers[&MemberName::from("n1")], None);
    assert!(run(Client::default().is_running(&url(live.address()), Duration::from_secs(1))));
    assert!(!run(Client::default().is_running(&url(free), Duration::from_secs(1))));
}

#[test]
fn calls() {
    let live = Live::start(&config());
    let base = format!("http://{}", live.address());
    let _core = core(live.commands, Reply::text(412, "leader name does not match"));
    let answer = run(Client::default().call(
        "POST",
        &format!("{base}/switchover"),
        Some(json!({"leader": "n2"})),
        Some(("u", "p")),
        Duration::from_secs(2),
    ));
    assert_eq!(answer.unwrap(), (412, b"leader name does not match".to_vec()));
    let odd = run(Client::default().call("GET", "ftp://127.0.0.1:1/", None, None, Duration::from_secs(1))).unwrap_err();
    assert!(matches!(odd, Error::Url { .. }), "{odd}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let late = run(Client::default().call("GET", &format!("http://{address}/"), None, None, Duration::from_millis(200))).unwrap_err();
    assert!(matches!(late, Error::Timeout { .. }), "{late}");
    let (accepted, _) = listener.accept().unwrap();
    drop(accepted);
    // An old server, then one that never ends.
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\nServer: BaseHTTP/0.6\r\n\r\nold").unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 65536]).is_ok() {}
    });
    let old = run(Client::default().call("GET", &format!("http://{address}/x"), None, None, Duration::from_secs(2)));
    assert_eq!(old.unwrap(), (200, b"old".to_vec()));
    let endless = run(Client::default().call("GET", &format!("http://{address}/x"), None, None, Duration::from_secs(5))).unwrap_err();
    assert!(matches!(endless, Error::TooLong { .. }), "{endless}");
    server.join().unwrap();
    drop(connect(live.server.address()));
}
