//! Which timeout a device should get, as arithmetic without a device.
//!
//! A lease holder kicks only while the reset would come before its lease ends. So the timeout must leave room for a cycle
//! (`loop_wait + timeout + margin <= ttl`), and it need not be near the lease at all: a short one lets a device with a small maximum
//! serve a long lease, and costs nothing but a few kicks more.

/// Longest timeout that is chosen automatically, in seconds: longer ones only make the fence later.
pub const AUTOMATIC_MAX_S: u32 = 10;

/// The times of a lease, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Length of the lease.
    pub ttl_ms: u64,
    /// Longest pause between two renewals.
    pub loop_wait_ms: u64,
    /// What the holder's own deadline is earlier than the lease.
    pub margin_ms: u64,
}

/// What a device takes, in seconds, as far as it is known before opening it ([`crate::Info::limits`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Smallest timeout.
    pub min_s: Option<u32>,
    /// Largest timeout.
    pub max_s: Option<u32>,
}

/// Why there is no timeout to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not even a second fits between two renewals and the end of the lease.
    #[error("a ttl of {ttl_ms} ms leaves no room for a watchdog beside a loop_wait of {loop_wait_ms} ms; raise ttl or lower loop_wait")]
    NoRoom {
        /// The lease.
        ttl_ms: u64,
        /// The pause.
        loop_wait_ms: u64,
    },
    /// The wanted timeout is longer than the lease allows, or zero.
    #[error("a hardware timeout of {requested_s} s does not fit into the lease; it may be 1 to {largest_s} s here")]
    RequestOutOfRange {
        /// What was wanted.
        requested_s: u32,
        /// What would fit.
        largest_s: u32,
    },
    /// The device's smallest timeout is too long.
    #[error("the device takes no timeout below {min_s} s, and only {largest_s} s fit into the lease; raise ttl or use another device")]
    DeviceTooSlow {
        /// The device's minimum.
        min_s: u32,
        /// What would fit.
        largest_s: u32,
    },
}

/// The timeouts to try, in seconds, from the best down; never empty.
///
/// With `requested_s` the first is that one, else the largest up to `min((ttl - loop_wait) / 2, 10 s)`. Further ones follow down to 2 s
/// (1 s where no more fits), for drivers that refuse or round. None is above what the lease leaves or outside the known limits.
///
/// # Errors
/// When the lease leaves no room, the request does not fit, or the device's minimum is too long.
pub fn plan(times: Times, requested_s: Option<u32>, limits: Limits) -> Result<Vec<u32>, PlanError> {
    let Times { ttl_ms, loop_wait_ms, margin_ms } = times;
    let room_s = whole_seconds(ttl_ms.saturating_sub(loop_wait_ms).saturating_sub(margin_ms));
    if room_s == 0 {
        return Err(PlanError::NoRoom { ttl_ms, loop_wait_ms });
    }
    let wanted_s = match requested_s {
        Some(requested_s) if requested_s == 0 || requested_s > room_s => {
            return Err(PlanError::RequestOutOfRange { requested_s, largest_s: room_s });
        }
        Some(requested_s) => requested_s,
        None => (whole_seconds(ttl_ms.saturating_sub(loop_wait_ms)) / 2).clamp(1, AUTOMATIC_MAX_S).min(room_s),
    };
    let top_s = limits.max_s.map_or(wanted_s, |max_s| wanted_s.min(max_s.max(1)));
    let min_s = limits.min_s.unwrap_or(1).max(1);
    if min_s > top_s {
        // A device that needs more than the automatic choice still serves, as long as the lease has room for it.
        let possible = requested_s.is_none() && min_s <= room_s && limits.max_s.is_none_or(|max_s| min_s <= max_s);
        return if possible { Ok(vec![min_s]) } else { Err(PlanError::DeviceTooSlow { min_s, largest_s: top_s }) };
    }
    let least_s = min_s.max(if top_s >= 2 { 2 } else { 1 });
    Ok((least_s..=top_s).rev().collect())
}

fn whole_seconds(ms: u64) -> u32 {
    u32::try_from(ms / 1000).unwrap_or(u32::MAX).min(100_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ttl_s: u64, loop_wait_s: u64) -> Times {
        Times { ttl_ms: ttl_s * 1000, loop_wait_ms: loop_wait_s * 1000, margin_ms: 250 + ttl_s * 10 }
    }

    fn auto(ttl_s: u64, loop_wait_s: u64, limits: Limits) -> Result<Vec<u32>, PlanError> {
        plan(times(ttl_s, loop_wait_s), None, limits)
    }

    const ANY: Limits = Limits { min_s: None, max_s: None };

    #[test]
    fn automatic_is_half_of_what_a_cycle_leaves() {
        assert_eq!(auto(30, 10, ANY).unwrap(), [10, 9, 8, 7, 6, 5, 4, 3, 2]);
        assert_eq!(auto(9, 2, ANY).unwrap(), [3, 2]);
        assert_eq!(auto(3, 1, ANY).unwrap(), [1]);
        assert_eq!(auto(300, 10, ANY).unwrap()[0], AUTOMATIC_MAX_S);
    }

    #[test]
    fn known_limits_are_kept() {
        assert_eq!(auto(30, 10, Limits { min_s: Some(5), max_s: Some(7) }).unwrap(), [7, 6, 5]);
        assert_eq!(auto(30, 10, Limits { min_s: None, max_s: Some(1) }).unwrap(), [1]);
        assert_eq!(auto(30, 10, Limits { min_s: Some(12), max_s: None }).unwrap(), [12]);
        assert_eq!(auto(30, 10, Limits { min_s: Some(25), max_s: None }), Err(PlanError::DeviceTooSlow { min_s: 25, largest_s: 10 }));
    }

    #[test]
    fn a_request_must_fit_into_the_lease() {
        assert_eq!(plan(times(30, 10), Some(15), ANY).unwrap()[0], 15);
        assert_eq!(plan(times(30, 10), Some(1), ANY).unwrap(), [1]);
        let wrong = |requested_s| PlanError::RequestOutOfRange { requested_s, largest_s: 19 };
        assert_eq!(plan(times(30, 10), Some(20), ANY), Err(wrong(20)));
        assert_eq!(plan(times(30, 10), Some(0), ANY), Err(wrong(0)));
        assert_eq!(auto(3, 2, ANY), Err(PlanError::NoRoom { ttl_ms: 3000, loop_wait_ms: 2000 }));
    }

    #[test]
    fn no_candidate_breaks_the_rule() {
        for ttl_s in 1..=120 {
            for loop_wait_s in 1..=30 {
                let t = times(ttl_s, loop_wait_s);
                for limits in [ANY, Limits { min_s: Some(3), max_s: Some(15) }, Limits { min_s: Some(0), max_s: Some(0) }] {
                    let Ok(list) = plan(t, None, limits) else { continue };
                    assert!(!list.is_empty() && list.windows(2).all(|pair| pair[0] > pair[1]), "{t:?} {list:?}");
                    let fits = |s: &u32| *s >= 1 && u64::from(*s) * 1000 + t.loop_wait_ms + t.margin_ms <= t.ttl_ms;
                    assert!(list.iter().all(fits), "{t:?} {list:?}");
                }
            }
        }
    }
}
