//! TLS for the REST API, for calls to other members and for connections to PostgreSQL: rustls with ring, the library that etcd needs anyway.
//!
//! Files are read when they are needed and read again when their content has changed, so that renewed certificates are used without a restart.

mod ciphers;
mod client;
mod encrypted;
pub(crate) mod files;
pub mod postgres;
mod server;
mod stream;
pub(crate) mod verify;
mod x509;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::crypto::{ring, CryptoProvider};

pub use client::Client;
pub(crate) use server::Server;
pub(crate) use stream::Stream;

/// What can be wrong with certificates and keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{what}: cannot read {}: {source}", path.display())]
    Read {
        /// The setting.
        what: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{what}: {} holds no {expected} in PEM form", path.display())]
    Content {
        /// The setting.
        what: String,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// A key that cannot be used.
    #[error("{what}: the key in {} cannot be used: {reason}", path.display())]
    Key {
        /// The setting.
        what: String,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Certificate and key are not a pair.
    #[error("{what}: the key in {} does not belong to the certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// The setting.
        what: String,
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A server must be verified, and there is no CA to do it with.
    #[error("{what} names no CA, and the system has no CA bundle in {} either", files::SYSTEM_CAS)]
    NoCa {
        /// The setting.
        what: String,
    },
    /// The library refuses what the files hold.
    #[error("{what}: {reason}")]
    Unusable {
        /// The setting.
        what: String,
        /// Why.
        reason: String,
    },
}

/// The one set of algorithms.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(ring::default_provider())))
}
