//! How long the kernel keeps the address when nobody renews it. Pure.
//!
//! The address is added with a lifetime that ends before the lease does, and each renewal of the lease renews it. A holder that
//! dies, hangs or is stopped loses the address by itself. The kernel removes an address up to about half a second late (measured
//! 0.01 to 0.37 s on Linux 6.18), hence the second of [`MARGIN`].

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// Taken off the time that the lease has left.
pub const MARGIN: Duration = Duration::from_secs(1);
/// What the kernel reads as "for ever".
pub const FOREVER: u32 = u32::MAX;

/// The setting `lifetime`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as the lease, see [`MARGIN`].
    #[default]
    Auto,
    /// For ever: only the holder removes it.
    Off,
    /// So many seconds after each renewal, whatever the lease says. Longer than the lease it is no fence.
    Seconds(NonZeroU32),
}

impl Lifetime {
    /// The lifetime to give to the kernel when the lease ends at `deadline`, in seconds; `None` is for ever.
    ///
    /// `floor(deadline - now - 1 s)`, never below 1 s: the kernel takes 0 as an error. A caller whose deadline has passed removes
    /// the address instead of renewing it.
    #[must_use]
    pub fn valid_for(self, deadline: Duration, now: Duration) -> Option<u32> {
        match self {
            Lifetime::Auto => {
                let left = deadline.saturating_sub(now).saturating_sub(MARGIN).as_secs();
                Some(u32::try_from(left).unwrap_or(FOREVER - 1).clamp(1, FOREVER - 1))
            }
            Lifetime::Off => None,
            Lifetime::Seconds(seconds) => Some(seconds.get().min(FOREVER - 1)),
        }
    }
}

/// A text is no lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lifetime is auto, off, or a number of seconds from 1 on")]
pub struct LifetimeError;

impl FromStr for Lifetime {
    type Err = LifetimeError;

    fn from_str(text: &str) -> Result<Lifetime, LifetimeError> {
        match text {
            "auto" => Ok(Lifetime::Auto),
            "off" => Ok(Lifetime::Off),
            number => number.parse().map(Lifetime::Seconds).map_err(|_| LifetimeError),
        }
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lifetime::Auto => f.write_str("auto"),
            Lifetime::Off => f.write_str("off"),
            Lifetime::Seconds(seconds) => write!(f, "{seconds}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn it_ends_a_second_before_the_lease() {
        for (left, want) in [(30_000, 29), (29_999, 28), (4_000, 3), (3_999, 2), (2_000, 1), (1_999, 1), (500, 1), (0, 1)] {
            assert_eq!(Lifetime::Auto.valid_for(ms(1_000_000 + left), ms(1_000_000)), Some(want), "{left} ms left");
        }
        assert_eq!(Lifetime::Auto.valid_for(ms(1), ms(50_000)), Some(1), "deadline passed");
        assert_eq!(Lifetime::Auto.valid_for(Duration::MAX, ms(0)), Some(FOREVER - 1), "never for ever by accident");
    }

    #[test]
    fn it_never_outlives_the_lease_but_for_the_least_second() {
        for left in 2_000..20_000 {
            let valid = Lifetime::Auto.valid_for(ms(left), ms(0)).unwrap();
            assert!(u64::from(valid) * 1000 + 1000 <= left);
        }
    }

    #[test]
    fn settings_are_read_and_written() {
        for text in ["auto", "off", "1", "4294967295"] {
            assert_eq!(text.parse::<Lifetime>().unwrap().to_string(), text);
        }
        for bad in ["", "0", "-1", "5s", "Auto", "4294967296"] {
            assert_eq!(bad.parse::<Lifetime>(), Err(LifetimeError), "{bad}");
        }
        assert_eq!("off".parse::<Lifetime>().unwrap().valid_for(ms(9), ms(0)), None);
        assert_eq!("7".parse::<Lifetime>().unwrap().valid_for(ms(9), ms(0)), Some(7));
        assert_eq!("4294967295".parse::<Lifetime>().unwrap().valid_for(ms(9), ms(0)), Some(FOREVER - 1));
    }
}
