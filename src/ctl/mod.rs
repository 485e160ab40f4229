//! The operator's commands: `mastiff ctl …`, and the same under the name `patronictl`.
//!
//! What they print is what Patroni's own tool prints, byte for byte where it matters: people and scripts read it.

pub mod args;
pub mod commands;
pub mod console;
pub mod diff;
pub mod dynamic;
pub mod error;
pub mod help;
pub mod json;
pub mod members;
pub mod patch;
pub mod select;
pub mod show;
pub mod tables;
pub mod when;
pub mod yaml;
mod yaml_scalar;

/// stub
pub fn run(_program: &str, _args: &[String]) -> i32 {
    0
}
