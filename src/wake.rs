//! When the main loop wakes by itself: a timer on the boot clock, and a watch on the time that the machine was suspended.

use std::cell::RefCell;
use std::time::Duration;

use rustix::time::{timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;

use crate::clock;
use crate::ha::types::{Instant, Millis};

/// A timer on the boot clock: it goes on while the machine is suspended, so that a lease that ended meanwhile is noticed at once.
#[derive(Debug)]
pub struct Timer {
    fd: AsyncFd<std::os::fd::OwnedFd>,
    set: RefCell<Option<Instant>>,
}

impl Timer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// When the system gives no timer.
    pub fn new() -> std::io::Result<Timer> {
        let fd = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        // Deprecated because a type could hand out a descriptor that it does not own; `OwnedFd` owns its own, and the replacement is `unsafe`.
        #[allow(deprecated)]
        let fd = AsyncFd::new(fd)?;
        Ok(Timer { fd, set: RefCell::new(None) })
    }

    /// Sets it to a point of the boot clock.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set(&self, at: Instant) -> std::io::Result<()> {
        if *self.set.borrow() == Some(at) {
            return Ok(());
        }
        // Zero would disarm it.
        let millis = i64::try_from(at.0.max(1)).unwrap_or(i64::MAX);
        let value = Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 };
        let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(self.fd.get_ref(), TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: interval, it_value: value })?;
        self.set.replace(Some(at));
        Ok(())
    }

    /// Waits for it.
    pub async fn expired(&self) {
        loop {
            let Ok(mut ready) = self.fd.readable().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                return;
            };
            let mut count = [0u8; 8];
            match rustix::io::read(self.fd.get_ref(), &mut count) {
                Ok(_) => {
                    self.set.replace(None);
                    return;
                }
                Err(_) => ready.clear_ready(),
            }
        }
    }
}

/// Watches boot clock and monotonic clock move apart.
#[derive(Debug)]
pub struct Jump {
    offset: u64,
}

impl Jump {
    /// The clocks as they are.
    #[must_use]
    pub fn now() -> Jump {
        Jump { offset: clock::now().0.saturating_sub(clock::monotonic().0) }
    }

    /// By how much the boot clock ran ahead since the last look.
    pub fn check(&mut self) -> Option<Millis> {
        let offset = Jump::now().offset;
        let by = offset.saturating_sub(self.offset);
        // The two clocks are not read at the same instant.
        if by < 100 {
            return None;
        }
        self.offset = offset;
        Some(Millis(by))
    }
}
