//! Virtual IP addresses.
#![deny(unsafe_code)]

pub mod error;
pub mod lifetime;
pub mod schedule;
pub mod wire;

pub use error::Error;
