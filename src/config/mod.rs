//! Configuration.

pub mod types;
