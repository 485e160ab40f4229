//! The embedded store: a small replicated key-value store with leases inside the agent, for boxes that have no etcd.
//!
//! [`disk`], [`peers`] and [`store`] do the I/O. Everything else does none, as the core does none: bytes, times and requests come in, bytes and answers go out, so
//! the simulation runs it as it is.

pub mod codec;
pub mod disk;
mod driver;
pub mod founding;
pub mod gate;
pub mod journal;
pub mod log;
mod meeting;
pub mod node;
pub mod peers;
pub mod proto;
pub mod request;
pub mod state;
pub mod store;
pub mod txn;
