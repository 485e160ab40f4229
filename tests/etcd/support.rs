//! Real etcd servers, and a proxy that loses answers.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mastiff::config::types::EtcdConfig;
use mastiff::dcs::EtcdStore;
use mastiff::ha::action::StoreRequest;
use mastiff::ha::input::StoreOutcome;
use mastiff::ha::lease::PostgresStopped;
use mastiff::ha::types::{Instant as HaInstant, LeaseId, MemberName, Millis, Revision};
use mastiff::ha::view::{ClusterView, NodeView, PgState};
use rustix::process::{kill_process, Pid, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Plenty for a call to a healthy server, also on a busy machine.
pub const LONG: Duration = Duration::from_secs(10);

/// Ports that were free a moment ago, all different.
pub fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// One etcd process; killed when dropped.
pub struct Etcd {
    child: Option<Child>,
    arguments: Vec<String>,
    data: PathBuf,
    pub url: String,
}

impl Etcd {
    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
        // The threads stop one after the other.
        while signal == Signal::STOP && !self.all_threads_stopped() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn all_threads_stopped(&self) -> bool {
        let tasks = format!("/proc/{}/task", self.pid().as_raw_nonzero());
        std::fs::read_dir(tasks).unwrap().all(|task| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        })
    }

    pub fn start(&mut self) {
        let log = std::fs::File::create(self.data.with_extension("log")).unwrap();
        let child = Command::new("etcd").args(&self.arguments).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.child = Some(child);
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops the server and removes all it knew.
    pub fn wipe(&mut self) {
        self.kill();
        std::fs::remove_dir_all(&self.data).unwrap();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Some servers that form one cluster.
pub struct Cluster {
    pub members: Vec<Etcd>,
    /// Removed after the servers.
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts `count` servers and waits until they answer.
    pub async fn start(count: usize) -> Cluster {
        Cluster::with(count, "http", &[]).await
    }

    /// With another scheme for clients and further arguments.
    pub async fn with(count: usize, scheme: &str, more: &[String]) -> Cluster {
        let cluster = Cluster::unproven(count, scheme, more, tempfile::tempdir_in("/dev/shm").unwrap());
        if scheme == "http" {
            cluster.ready().await;
        }
        cluster
    }

    pub fn unproven(count: usize, scheme: &str, more: &[String], dir: tempfile::TempDir) -> Cluster {
        let ports = free_ports(count * 2);
        let names: Vec<String> = (0..count).map(|at| format!("e{at}")).collect();
        let peers: Vec<String> = ports[count..].iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let initial: Vec<String> = names.iter().zip(&peers).map(|(name, peer)| format!("{name}={peer}")).collect();
        let mut members = Vec::new();
        for at in 0..count {
            let url = format!("{scheme}://127.0.0.1:{}", ports[at]);
            let data = dir.path().join(&names[at]);
            let pairs = [
                ("name", names[at].clone()),
                ("data-dir", data.display().to_string()),
                ("listen-client-urls", url.clone()),
                ("advertise-client-urls", url.clone()),
                ("listen-peer-urls", peers[at].clone()),
                ("initial-advertise-peer-urls", peers[at].clone()),
                ("initial-cluster", initial.join(",")),
            ];
            let mut arguments: Vec<String> = pairs.iter().map(|(key, value)| format!("--{key}={value}")).collect();
            arguments.extend_from_slice(more);
            let mut etcd = Etcd { child: None, arguments, data, url };
            etcd.start();
            members.push(etcd);
        }
        Cluster { members, _dir: dir }
    }

    /// Waits until every member answers.
    pub async fn ready(&self) {
        for member in &self.members {
            let store = store(&[&member.url], "probe");
            eventually(|| async { matches!(store.call(StoreRequest::Read, Duration::from_secs(1)).await, StoreOutcome::View(_)) }).await;
        }
    }

    pub fn urls(&self) -> Vec<&str> {
        self.members.iter().map(|member| member.url.as_str()).collect()
    }

    /// A plain client for what the store does not do.
    pub async fn client(&self) -> etcd_client::Client {
        etcd_client::Client::connect([&self.members[0].url], None).await.unwrap()
    }
}

/// Repeats until it holds; fails after a while.
pub async fn eventually<F: Future<Output = bool>>(check: impl Fn() -> F) {
    let begin = Instant::now();
    while !check().await {
        assert!(begin.elapsed() < Duration::from_secs(30), "does not come true");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub fn config(urls: &[&str]) -> EtcdConfig {
    let endpoints = urls.iter().map(|url| (*url).to_owned()).collect();
    EtcdConfig { endpoints, fixed: true, user: None, cacert: None, cert: None, key: None, srv: None }
}

pub fn store(urls: &[&str], me: &str) -> EtcdStore {
    store_with(&config(urls), me)
}

pub fn store_with(config: &EtcdConfig, me: &str) -> EtcdStore {
    EtcdStore::new(config, "/service", "demo", &MemberName::from(me)).unwrap()
}

pub async fn read(store: &EtcdStore) -> ClusterView {
    match store.call(StoreRequest::Read, LONG).await {
        StoreOutcome::View(view) => *view,
        other => panic!("{other:?}"),
    }
}

pub async fn grant(store: &EtcdStore, seconds: u64) -> LeaseId {
    let outcome = store.call(StoreRequest::RenewLease { lease: None, ttl: Millis::from_secs(seconds) }, LONG).await;
    let StoreOutcome::Lease { lease, ttl } = outcome else { panic!("{outcome:?}") };
    assert_eq!(ttl, Millis::from_secs(seconds));
    lease
}

/// Takes the leader key, which some documents need.
pub async fn lead(store: &EtcdStore) -> LeaseId {
    let lease = grant(store, 30).await;
    done(store, StoreRequest::Acquire { lease }).await;
    lease
}

pub async fn renew(store: &EtcdStore, lease: LeaseId, deadline: Duration) -> StoreOutcome {
    store.call(StoreRequest::RenewLease { lease: Some(lease), ttl: Millis::from_secs(30) }, deadline).await
}

pub async fn done(store: &EtcdStore, request: StoreRequest) -> Revision {
    match store.call(request, LONG).await {
        StoreOutcome::Done { revision } => revision,
        other => panic!("{other:?}"),
    }
}

pub async fn conflict(store: &EtcdStore, request: StoreRequest) {
    let outcome = store.call(request, LONG).await;
    assert!(matches!(outcome, StoreOutcome::Conflict), "{outcome:?}");
}

pub fn proof() -> PostgresStopped {
    PostgresStopped::observe(&NodeView { observed_at: HaInstant(1), pg: PgState::Empty }, HaInstant(0)).unwrap()
}

/// A TCP proxy to one server that can begin to lose the server's answers.
pub struct Proxy {
    pub url: String,
    pub loses_answers: Arc<AtomicBool>,
}

impl Proxy {
    pub async fn start(target: &str) -> Proxy {
        let target: SocketAddr = target.rsplit('/').next().unwrap().parse().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let loses_answers = Arc::new(AtomicBool::new(false));
        let lossy = loses_answers.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = tokio::net::TcpStream::connect(target).await else { continue };
                let (client_in, client_out) = client.into_split();
                let (server_in, server_out) = server.into_split();
                tokio::spawn(pump(client_in, server_out, Arc::default()));
                tokio::spawn(pump(server_in, client_out, lossy.clone()));
            }
        });
        Proxy { url, loses_answers }
    }

    pub fn lose_answers(&self) {
        self.loses_answers.store(true, Ordering::SeqCst);
    }
}

async fn pump(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, lossy: Arc<AtomicBool>) {
    let mut buffer = vec![0; 65536];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if !lossy.load(Ordering::SeqCst) && to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
}
