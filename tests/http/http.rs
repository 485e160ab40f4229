//! The REST API against recordings of a real Patroni 4.1.5, and against clients that mean no good.
#![allow(clippy::unwrap_used, clippy::panic)]

mod abuse;
mod bench;
#[path = "../common/certs.rs"]
mod certs;
mod commands;
mod fences;
mod golden;
mod live;
mod states;
#[cfg(feature = "tls")]
mod tls;
mod truth;
