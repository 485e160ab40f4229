//! The embedded store: a small replicated key-value store with leases inside the agent, for boxes that have no etcd.
//!
//! What is here does no I/O, as the core does none: bytes, times and requests come in, bytes and answers go out. So the simulator runs it as it is.

pub mod codec;
pub mod gate;
pub mod journal;
pub mod log;
pub mod node;
pub mod peers;
pub mod proto;
pub mod request;
pub mod state;
pub mod txn;
