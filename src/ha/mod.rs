//! The core: it decides, and does nothing else. Four rules hold here.
//!
//! 1. No I/O: no clock, file, socket, process, thread, environment or random number. Time comes in as an argument, effects go out as [`action::Action`]s.
//! 2. Same arguments, same answer: ordered maps only, no state outside [`Machine`].
//! 3. Unknown, stale and failed are values and lead to a decision like any other.
//! 4. What is dangerous needs a token that only [`lease`] can make: promotion, a watchdog kick, the virtual IP, a release, a disarm.

pub mod action;
pub mod config;
pub mod decide;
pub mod election;
pub mod fence;
pub mod input;
pub mod lease;
pub mod machine;
pub mod rewind;
pub mod types;
pub mod verdict;
pub mod view;
pub mod wall;

pub use machine::Machine;
