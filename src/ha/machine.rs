//! The state machine around `decide`.

use super::action::Action;
use super::config::HaConfig;
use super::input::Input;
use super::types::Instant;

/// The core's state between two inputs.
#[derive(Debug)]
pub struct Machine {
    config: HaConfig,
    now: Instant,
}

impl Machine {
    /// A core that has seen nothing yet.
    #[must_use]
    pub fn new(config: HaConfig, now: Instant) -> Machine {
        Machine { config, now }
    }

    /// Takes one fact and appends the effects that follow from it.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Vec<Action>) {
        let _ = (&self.config, input, out);
        self.now = now;
    }

    /// When [`Input::Tick`] is due at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        self.now
    }
}
