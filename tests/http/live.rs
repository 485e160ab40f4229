//! A running server, and a client that sends bytes as they are.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use mastiff::clock;
use mastiff::config::types::{HostPort, RestConfig};
use mastiff::ha::action::Snapshot;
use mastiff::ha::types::Millis;
use mastiff::http::{spawn, Published, Request, Server};
use tokio::sync::mpsc;

use crate::states::{async_leader, identity};

pub fn config() -> RestConfig {
    RestConfig {
        listen: HostPort { host: "127.0.0.1".into(), port: 0 },
        connect_address: HostPort { host: "127.0.0.1".into(), port: 0 },
        authentication: None,
        tls: None,
        cafile: None,
        ciphers: None,
        verify_client: "none".into(),
        allowlist: None,
        allowlist_include_members: false,
        extra_headers: Vec::new(),
        request_queue_size: 5,
        server_tokens: "Original".into(),
    }
}

/// A leader whose snapshot stays fresh for ten minutes.
pub fn leader_now() -> Snapshot {
    let mut snapshot = async_leader();
    let config = Arc::make_mut(&mut snapshot.config);
    (config.retry_timeout, config.ttl) = (Millis(600_000), Millis(1_200_000));
    let now = clock::now();
    (snapshot.at, snapshot.dcs_seen_at, snapshot.lease_deadline) = (now, Some(now), Some(now + Millis(600_000)));
    snapshot
}

pub struct Live {
    pub server: Server,
    pub published: Arc<Published>,
    pub commands: mpsc::Receiver<Request>,
}

impl Live {
    pub fn start(config: &RestConfig) -> Live {
        let published = Arc::new(Published::new());
        published.store(leader_now());
        let (sender, commands) = mpsc::channel(8);
        let server = spawn(config, identity("n1"), Arc::clone(&published), sender).unwrap();
        Live { server, published, commands }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Asserts that an ordinary request is answered within `limit`.
    pub fn assert_serves(&self, limit: Duration) {
        assert_serves(self.address(), limit);
    }
}

pub fn assert_serves(address: SocketAddr, limit: Duration) {
    let begun = std::time::Instant::now();
    let mut last = String::new();
    while begun.elapsed() < limit {
        last = exchange(address, b"GET /primary HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        if last.starts_with("HTTP/1.1 200 OK\r\n") {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no answer within {limit:?}, last: {last:?}");
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(12))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

/// Sends `bytes` and reads until the server closes; what was read until then, also on an error.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(address);
    // The server may have answered and closed before it has read all.
    let _ = stream.write_all(bytes);
    read_all(&mut stream)
}

pub fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request with a body; the connection is closed after it.
pub fn send(address: SocketAddr, method: &str, target: &str, headers: &str, body: &str) -> String {
    let text =
        format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len());
    exchange(address, text.as_bytes())
}
