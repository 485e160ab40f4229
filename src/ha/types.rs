//! Small value types of the core. Units are in the type, never in a bare integer.

use std::fmt;
use std::ops::{Add, Sub};

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// No time at all.
    pub const ZERO: Millis = Millis(0);

    /// Whole seconds as milliseconds, saturating.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Millis {
        Millis(secs.saturating_mul(1000))
    }

    /// Whole seconds, rounded down.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// The difference, or zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Millis) -> Millis {
        Millis(self.0.saturating_sub(other.0))
    }

    /// For the shell's timers.
    #[must_use]
    pub const fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1000, self.0 % 1000)
    }
}

/// A point on the boot clock (`CLOCK_BOOTTIME`, suspend counts) of one machine, in milliseconds. Never compared between machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// The time since `earlier`, zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Instant) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }

    /// The time until `later`, zero if it has passed.
    #[must_use]
    pub const fn until(self, later: Instant) -> Millis {
        later.since(self)
    }
}

impl Add<Millis> for Instant {
    type Output = Instant;
    fn add(self, rhs: Millis) -> Instant {
        Instant(self.0.saturating_add(rhs.0))
    }
}

impl Sub<Millis> for Instant {
    type Output = Instant;
    fn sub(self, rhs: Millis) -> Instant {
        Instant(self.0.saturating_sub(rhs.0))
    }
}

/// Wall-clock time, milliseconds since the Unix epoch. For display and schedules only, never for a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub i64);

/// A WAL position, printed `X/Y`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Bytes by which `self` is behind `ahead`, zero if it is not.
    #[must_use]
    pub const fn lag_bytes(self, ahead: Lsn) -> u64 {
        ahead.0.saturating_sub(self.0)
    }

    /// Parses `X/Y`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Lsn> {
        let (high, low) = text.trim().split_once('/')?;
        let high = u32::from_str_radix(high, 16).ok()?;
        let low = u32::from_str_radix(low, 16).ok()?;
        Some(Lsn((u64::from(high) << 32) | u64::from(low)))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A branch of PostgreSQL's history, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// PostgreSQL's database system identifier (`pg_control`), the same on all members of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a member, unique in its scope.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberName(pub String);

impl MemberName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The replication slot that serves this member, by Patroni's rule: lower case, `-` and `.` become `_`,
    /// other odd characters `u` and four hex digits, at most 63 characters.
    #[must_use]
    pub fn slot_name(&self) -> String {
        let mut name = String::new();
        for c in self.0.to_lowercase().chars() {
            match c {
                'a'..='z' | '0'..='9' | '_' => name.push(c),
                '-' | '.' => name.push('_'),
                other => name.push_str(&format!("u{:04}", u32::from(other))),
            }
        }
        name.truncate(63);
        name
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for MemberName {
    fn from(name: &str) -> MemberName {
        MemberName(name.to_owned())
    }
}

/// A store revision. For compare-and-set: the `mod_revision` of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

/// A lease in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// One job that the shell runs for the core. Unique within one life of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// One request to the store, to PostgreSQL or to peers; a reply with another number is stale and dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Where the answer to an operator's command goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyId(pub u64);

#[cfg(test)]
mod tests {
    use super::{Lsn, MemberName};

    #[test]
    fn lsn_prints_and_parses() {
        let lsn = Lsn(0x1_0600_0848);
        assert_eq!(lsn.to_string(), "1/6000848");
        assert_eq!(Lsn::parse("1/6000848"), Some(lsn));
        assert_eq!(Lsn::parse("1-2"), None);
        assert_eq!(Lsn::parse("100000000/0"), None);
    }

    #[test]
    fn slot_names_follow_patroni() {
        assert_eq!(MemberName::from("Node-1.a").slot_name(), "node_1_a");
        assert_eq!(MemberName::from("a b").slot_name(), "au0032b");
        assert_eq!(MemberName("x".repeat(70)).slot_name().len(), 63);
    }
}
