//! Mastiff: a high-availability agent for PostgreSQL on appliances.

pub mod clock;
pub mod config;
pub mod ctl;
pub mod dcs;
pub mod ha;
pub mod http;
pub mod log;
pub mod marker;
pub mod metrics;
pub mod notify;
pub mod postgres;
pub mod shell;
pub mod signals;
pub mod tools;
