//! The only place that reads a clock. Lease arithmetic is in boot time: suspend counts, steps of the wall clock do not.

use rustix::time::{clock_gettime, ClockId};

use crate::ha::types::{Instant, WallTime};

fn millis(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000)
}

/// `CLOCK_BOOTTIME`, the clock of every deadline.
#[must_use]
pub fn now() -> Instant {
    Instant(u64::try_from(millis(ClockId::Boottime)).unwrap_or(0))
}

/// `CLOCK_MONOTONIC`, which stops while the machine is suspended; only to notice that.
#[must_use]
pub fn monotonic() -> Instant {
    Instant(u64::try_from(millis(ClockId::Monotonic)).unwrap_or(0))
}

/// `CLOCK_REALTIME`, for display and schedules.
#[must_use]
pub fn wall() -> WallTime {
    WallTime(millis(ClockId::Realtime))
}
