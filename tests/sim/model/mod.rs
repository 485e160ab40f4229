//! The simulated world: one file for each part.

pub mod agent;
pub mod client;
pub mod clock;
pub mod describe;
pub mod faults;
pub mod guard;
pub mod jobs;
pub mod network;
pub mod node;
pub mod operator;
pub mod pg_events;
pub mod postgres;
pub mod requests;
pub mod rng;
pub mod store;
pub mod vip;
pub mod wal;
pub mod watchdog;
pub mod world;
