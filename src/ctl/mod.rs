//! The operator's commands: `mastiff ctl …`, and the same under the name `patronictl`.
//!
//! What they print is what Patroni's own tool prints, byte for byte where it matters: people and scripts read it.

mod args;
mod commands;
mod help;
mod json;
mod yaml;
mod yaml_scalar;

/// stub
pub fn run(_program: &str, _args: &[String]) -> i32 { 0 }
