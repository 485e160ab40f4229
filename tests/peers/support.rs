//! Boxes for tests, each with its transport and what came out of it.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use mastiff::config::types::Secret;
use mastiff::dcs::embedded::node::Note;
use mastiff::dcs::embedded::peers::{frame, Config, Error, Event, Hello, Peers, Security, Timeouts};
use mastiff::dcs::embedded::request::Request;
use mastiff::dcs::embedded::txn::{Op, Txn};
use tokio::sync::mpsc;

use crate::certs::Certs;

/// Nothing in these tests takes so long unless it is broken.
const LONG: Duration = Duration::from_secs(60);

/// Runs a test as the agent runs: one thread, local tasks.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build().unwrap();
    let test = async { tokio::time::timeout(LONG * 3, test).await.expect("the test hangs") };
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

pub fn key(text: &str) -> Security {
    Security::Key(Secret(text.to_owned()))
}

pub fn shared() -> Security {
    key("a key that is long enough")
}

/// Files of [`Certs`].
pub fn files(certs: &Certs, ca: &str, name: &str) -> Security {
    Security::Certificates { ca: certs.crt(ca), cert: certs.crt(name), key: certs.path(&format!("{name}.key")) }
}

pub fn hello(node: u64) -> Hello {
    let (scope, name) = ("demo".to_owned(), format!("n{node}"));
    Hello { version: frame::VERSION, scope, cluster: 7, node, name, address: "127.0.0.1:0".to_owned() }
}

pub fn config(node: u64, security: Security) -> Config {
    let timeouts = Timeouts { ping: Duration::from_millis(300), silence: Duration::from_secs(5), handshake: Duration::from_secs(5) };
    Config { bind: "127.0.0.1:0".to_owned(), hello: hello(node), security, timeouts }
}

/// A box.
pub struct Peer {
    pub peers: Peers,
    events: mpsc::Receiver<Event>,
    /// Events that were read while another one was waited for.
    kept: VecDeque<Event>,
}

impl Peer {
    pub async fn start(config: Config) -> Peer {
        Peer::try_start(config).await.unwrap()
    }

    pub async fn try_start(config: Config) -> Result<Peer, Error> {
        let (sender, events) = mpsc::channel(16);
        Ok(Peer { peers: Peers::start(config, sender).await?, events, kept: VecDeque::new() })
    }

    pub async fn of(node: u64) -> Peer {
        Peer::start(config(node, shared())).await
    }

    pub fn address(&self) -> String {
        self.peers.local_address().to_string()
    }

    pub fn dial(&self, other: &Peer) {
        self.peers.set_addresses(&[other.address()]);
    }

    /// The next event, as it comes.
    pub async fn event(&mut self) -> Event {
        match self.kept.pop_front() {
            Some(event) => event,
            None => tokio::time::timeout(LONG, self.events.recv()).await.expect("no event came").expect("the transport has ended"),
        }
    }

    /// What `pick` makes of the first event of which it makes something; others before it are forgotten.
    pub async fn find<T>(&mut self, pick: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(&self.event().await) {
                return found;
            }
        }
    }

    pub async fn connected(&mut self, node: u64) {
        self.find(|event| matches!(event, Event::Connected { hello } if hello.node == node).then_some(())).await;
    }

    pub async fn lost(&mut self, node: u64) {
        self.find(|event| (*event == Event::Lost { node }).then_some(())).await;
    }

    pub async fn note(&mut self) -> (u64, Note) {
        self.find(|event| match event {
            Event::Note { from, note } => Some((*from, note.clone())),
            _ => None,
        })
        .await
    }

    /// Why somebody was refused. A box that became connected instead is a failure.
    pub async fn refused(&mut self) -> String {
        self.find(|event| match event {
            Event::Refused { why, .. } => Some(why.clone()),
            Event::Connected { hello } => panic!("{hello:?} was accepted"),
            _ => None,
        })
        .await
    }

    /// Waits for a while, in which no event of this kind may come.
    pub async fn never(&mut self, time: Duration, what: impl Fn(&Event) -> bool) {
        let end = tokio::time::Instant::now() + time;
        while let Ok(event) = tokio::time::timeout_at(end, self.events.recv()).await {
            let event = event.unwrap();
            assert!(!what(&event), "{event:?}");
            self.kept.push_back(event);
        }
    }

    pub fn nodes(&self) -> Vec<u64> {
        self.peers.connected().into_iter().map(|(node, _)| node).collect()
    }
}

pub fn ask(number: u64) -> Note {
    Note::Ask { number, request: Request::Renew { lease: 5 } }
}

pub fn big(length: usize) -> Note {
    let put = Op::Put { key: b"k".to_vec(), value: vec![b'x'; length], lease: 0 };
    Note::Ask { number: 1, request: Request::Txn(Txn { then: vec![put], ..Txn::default() }) }
}
