//! The embedded store's transport on loopback: boxes that belong together, and everybody else who finds the port. Needs `openssl` in the path.
#![allow(clippy::unwrap_used, clippy::panic)]
#![cfg(feature = "tls")]

#[path = "common/certs.rs"]
mod certs;

#[path = "peers/raw.rs"]
mod raw;
#[path = "peers/strangers.rs"]
mod strangers;
#[path = "peers/support.rs"]
mod support;
#[path = "peers/together.rs"]
mod together;
