//! What is known of the fences (watchdog, guard) and of the virtual IP. The shell reports, the core remembers and shows.

use super::types::{Instant, Millis};

/// The hardware watchdog of this box.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Watchdog {
    /// Nobody looked at it yet, or it is switched off.
    #[default]
    Unknown,
    /// It cannot be used; why.
    Unusable(String),
    /// It is there and not armed.
    Ready,
    /// It was asked to be armed.
    Arming,
    /// It counts.
    Armed {
        /// It resets the box this long after the last kick.
        timeout: Millis,
        /// It can be disarmed (magic close without `nowayout`).
        stoppable: bool,
    },
}

impl Watchdog {
    /// One word for REST and `list`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Watchdog::Unknown => "off",
            Watchdog::Unusable(_) => "unusable",
            Watchdog::Ready => "ready",
            Watchdog::Arming => "arming",
            Watchdog::Armed { .. } => "armed",
        }
    }
}

/// What the shell tells about the watchdog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchdogReport {
    /// The device is there and is not armed: after a look, or after a disarm.
    Ready,
    /// There is no device, it is busy, it disappeared, no timeout fits; it is not armed by us.
    Unusable(String),
    /// It is armed, by an order or taken over from an earlier life of the agent.
    Armed {
        /// As read back from the device.
        timeout: Millis,
        /// It can be disarmed.
        stoppable: bool,
    },
}

/// The guard process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// It was not started yet, or is gone.
    #[default]
    Absent,
    /// It runs and watches nothing.
    Idle,
    /// It kills PostgreSQL at this time.
    Armed {
        /// On the boot clock.
        until: Instant,
    },
}

/// What the shell tells about the guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardReport {
    /// It runs and watches nothing: after a disarm, or adopted like that.
    Idle,
    /// It acknowledged a deadline, or was adopted with one.
    Armed {
        /// On the boot clock.
        until: Instant,
    },
    /// It could not be started or died; why.
    Gone(String),
    /// It ended PostgreSQL because its deadline passed.
    Fired,
}

/// Who carries a virtual IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VipRole {
    /// The leader, while PostgreSQL accepts writes.
    Primary,
    /// One streaming standby; the leader where there is none.
    Standby,
    /// A synchronous standby.
    Sync,
    /// One streaming standby, never the leader.
    AnyStandby,
}

impl VipRole {
    /// The word of the configuration, REST and `list`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            VipRole::Primary => "primary",
            VipRole::Standby => "standby",
            VipRole::Sync => "sync",
            VipRole::AnyStandby => "any-standby",
        }
    }
}
