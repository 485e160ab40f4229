//! postgres.

pub mod conf;
pub mod conninfo;
pub mod controldata;
pub mod files;
pub mod params;
pub mod pgpass;
pub mod postmaster;
