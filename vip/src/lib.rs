//! Virtual IP addresses on Linux: added with an expiry, announced, probed, defended, removed.
#![deny(unsafe_code)]

pub mod address;
pub mod destroy;
pub mod error;
pub mod guard;
pub mod holder;
pub mod lifetime;
pub mod netlink;
pub mod schedule;
pub mod send;
pub mod wire;

pub use address::{Address, OnConflict, Warning};
pub use destroy::Destroyed;
pub use error::Error;
pub use guard::{drop_addresses, Dropper, Interface};
pub use holder::{Event, Holder, Probe, Removal};
pub use lifetime::Lifetime;
pub use wire::Mac;
