//! The REST API: a server on its own thread that reads snapshots and hands commands to the main loop, and a client for the other members.
//!
//! The server asks nobody: everything that it shows is in the published [`Snapshot`](crate::ha::action::Snapshot), and it decides for itself
//! whether that is still true. So a hung main loop, a silent store or a dead PostgreSQL cannot delay an answer, and no client can delay the main loop.
//!
//! `routes`, `health`, `status`, `cluster`, `fences` and `operator` are pure: request and view in, answer out.

pub mod access;
pub mod client;
pub mod cluster;
pub mod fences;
pub mod health;
pub mod json;
pub mod operator;
pub mod parse;
pub mod routes;
pub mod server;
mod slots;
pub mod status;
pub mod view;

use std::net::SocketAddr;

use tokio::sync::oneshot;

use crate::ha::action::Reply;
use crate::ha::input::Command;

pub use server::{spawn, Server};
pub use view::{Current, Identity, Published, View, VipStatus};

/// What an operator asks of the main loop.
#[derive(Clone, Debug, PartialEq)]
pub enum Operator {
    /// Something that the core decides.
    Ha(Command),
    /// Look at PostgreSQL now; answered when that is published.
    Refresh,
    /// `POST /reload`: read the configuration again. Already answered with 202 when this arrives; the reply is dropped.
    Reload,
}

/// A command on its way to the main loop.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub command: Operator,
    /// Where the answer goes. A reply with an error code and an empty text is shown as Patroni's HTML error page.
    pub reply: oneshot::Sender<Reply>,
}

/// What can go wrong with the REST API.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `restapi.listen` does not name an address of this box.
    #[error("restapi.listen: cannot find an address for {listen}: {reason}")]
    Resolve {
        /// As configured.
        listen: String,
        /// The resolver's words.
        reason: String,
    },
    /// The port is taken, or the address is not ours.
    #[error("restapi.listen: cannot listen on {address}: {source}; is another agent running, or is the address not of this box?")]
    Bind {
        /// Address and port.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Certificate, key or CA cannot be used.
    #[error(transparent)]
    Tls(#[from] crate::tls::Error),
    /// There is no TLS with the other side.
    #[error("{url}: {reason}")]
    Handshake {
        /// The URL.
        url: String,
        /// Why.
        reason: String,
    },
    /// The server thread or its runtime could not be made.
    #[error("cannot start the REST API thread: {0}")]
    Thread(std::io::Error),
    /// A URL that cannot be called.
    #[error("cannot call {url}: {reason}")]
    Url {
        /// The URL, as given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nobody answers there.
    #[error("{url}: cannot connect: {source}")]
    Connect {
        /// The URL.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// The peer broke off or did not speak HTTP.
    #[error("{url}: {source}")]
    Exchange {
        /// The URL.
        url: String,
        /// Why.
        source: hyper::Error,
    },
    /// The peer's answer is longer than this agent reads.
    #[error("{url}: the answer is longer than {limit} bytes")]
    TooLong {
        /// The URL.
        url: String,
        /// The limit.
        limit: usize,
    },
    /// The deadline passed.
    #[error("{url}: no answer within {waited:?}")]
    Timeout {
        /// The URL.
        url: String,
        /// The deadline.
        waited: std::time::Duration,
    },
}
