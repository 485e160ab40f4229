//! A box's clocks: boot time with drift (suspend counts), wall time with steps.

use mastiff::ha::types::{Instant, WallTime};

/// Clocks of one box. World time is in milliseconds.
#[derive(Clone, Debug)]
pub struct Clock {
    booted_at: u64,
    base: u64,
    drift_ppm: i64,
    wall_offset: i64,
    /// Time that the mutation `sleeping-clock` hides from the core.
    pub hidden: u64,
}

const WALL_EPOCH: i64 = 1_800_000_000_000;

impl Clock {
    /// A clock with a drift in parts per million.
    pub fn new(drift_ppm: i64) -> Clock {
        Clock { booted_at: 0, base: 5_000, drift_ppm, wall_offset: 0, hidden: 0 }
    }

    /// The box boots.
    pub fn boot(&mut self, world: u64) {
        self.booted_at = world;
        self.base = 5_000;
        self.hidden = 0;
    }

    /// Steps the wall clock.
    pub fn step_wall(&mut self, by: i64) {
        self.wall_offset += by;
    }

    /// Boot clock at a world time.
    pub fn now(&self, world: u64) -> Instant {
        let real = world.saturating_sub(self.booted_at) as i64;
        let drifted = real + real * self.drift_ppm / 1_000_000;
        Instant((self.base + drifted.max(0) as u64).saturating_sub(self.hidden))
    }

    /// The first world time at which the boot clock shows at least `at`.
    pub fn world_at(&self, at: Instant, world: u64) -> u64 {
        let now = self.now(world);
        if at <= now {
            return world;
        }
        let ahead = (at.0 - now.0).min(86_400_000) as i64;
        let mut guess = world + (ahead - ahead * self.drift_ppm / 1_000_000).max(0) as u64;
        while self.now(guess) < at {
            guess += 1;
        }
        guess
    }

    /// Wall clock at a world time.
    pub fn wall(&self, world: u64) -> WallTime {
        WallTime(WALL_EPOCH + world as i64 + self.wall_offset)
    }
}
