//! The etcd store against real etcd servers: every request and outcome, and what networks and servers do on bad days.
//! Needs `etcd` and `openssl` in the path. Each test has its own servers on free ports and its own directory.
#![allow(clippy::unwrap_used, clippy::panic)]
#![cfg(feature = "etcd")]

#[path = "etcd/support.rs"]
mod support;

#[path = "etcd/faults.rs"]
mod faults;
#[path = "etcd/requests.rs"]
mod requests;
#[path = "etcd/security.rs"]
mod security;
#[path = "etcd/watching.rs"]
mod watching;
