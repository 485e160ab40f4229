//! The distributed configuration store: key names and documents as Patroni writes them, and the etcd v3 client.
//!
//! [`keys`] and [`documents`] are pure; [`etcd`] does the talking. [`embedded`] is a store of our own,
//! for boxes that have no etcd.

use std::path::PathBuf;

pub mod documents;
pub mod embedded;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod keys;
mod render;
#[cfg(feature = "etcd")]
pub(crate) mod srv;
mod store;
mod walltime;
mod write;

#[cfg(feature = "etcd")]
pub use etcd::EtcdStore;
pub use render::{failover as render_failover, history as render_history, status as render_status};
pub use store::{witness_store, Store};
pub use walltime::{format_wall, parse_wall, BadTime};

/// Why a store cannot be set up from its configuration. Nothing was sent anywhere yet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The embedded store cannot be used.
    #[error(transparent)]
    Embedded(#[from] embedded::store::Error),
    /// The list of endpoints is empty.
    #[error("etcd: no endpoint is configured (set etcd3.host, etcd3.hosts or etcd3.srv)")]
    NoEndpoint,
    /// An endpoint is not a URL.
    #[error("etcd: {url} is not a valid endpoint (expected http://HOST:PORT or https://HOST:PORT)")]
    BadEndpoint {
        /// As configured, without user and password.
        url: String,
    },
    /// A certificate or key cannot be read.
    #[error("etcd: cannot read {what} {}: {source}", path.display())]
    TlsFile {
        /// Which key of the configuration.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds no PEM block of the expected kind.
    #[error("etcd: {what} {} holds no PEM {expected}", path.display())]
    TlsContent {
        /// Which key of the configuration.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// An https endpoint, and nothing to verify its certificate with.
    #[error("etcd: https endpoints need etcd3.cacert; the system has no CA bundle in /etc/ssl/certs/ca-certificates.crt either")]
    NoCa,
    /// An https endpoint, but this build has no TLS.
    #[error("etcd: {url} needs TLS, which this build leaves out (feature \"tls\")")]
    NoTls {
        /// Which endpoint.
        url: String,
    },
}
