//! When to announce. Pure: the caller brings the clock and the seed.
//!
//! Fast at first, because the first frames decide how long clients wait; then a long tail, because a bridge that is still
//! learning its tree swallows the first seconds; then for ever, because switches forget a station after about 300 s.

use std::time::Duration;

/// Offsets of the first announcements from the start.
pub const FIRST: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];
/// Afterwards one every so often, unless another pause is asked for.
pub const REFRESH: Duration = Duration::from_secs(30);
/// Part of this pause that is added or taken away by chance, in percent, so that many holders do not speak in chorus.
pub const JITTER_PERCENT: u64 = 20;
/// Events that restart the schedule may come in swarms (a flapping link): never two announcements closer than this.
pub const GAP_MIN: Duration = Duration::from_millis(50);

/// The next number of a splitmix64 generator.
pub(crate) fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The announcements of one address. Times are durations since any fixed moment of the caller's clock.
#[derive(Clone, Debug)]
pub struct Schedule {
    random: u64,
    every: Option<Duration>,
    started: Duration,
    step: usize,
    next: Option<Duration>,
    last: Option<Duration>,
}

impl Schedule {
    /// A schedule at rest. The seed decides the jitter and nothing else.
    #[must_use]
    pub const fn new(seed: u64) -> Schedule {
        Schedule { random: seed, every: Some(REFRESH), started: Duration::ZERO, step: 0, next: None, last: None }
    }

    /// The same with another pause than [`REFRESH`] after the first announcements, up to a day; `None`: nothing follows them.
    #[must_use]
    pub fn every(self, pause: Option<Duration>) -> Schedule {
        Schedule { every: pause.map(|pause| pause.clamp(Duration::from_secs(1), Duration::from_secs(86_400))), ..self }
    }

    /// Begins (again): an announcement is due now, at most [`GAP_MIN`] after the last one.
    pub fn restart(&mut self, now: Duration) {
        let earliest = self.last.map_or(now, |last| last.saturating_add(GAP_MIN));
        self.started = now.max(earliest.min(now.saturating_add(GAP_MIN)));
        self.step = 0;
        self.next = Some(self.started);
    }

    /// Nothing more is due. The next start is a new one: it need not keep any distance.
    pub fn stop(&mut self) {
        self.next = None;
        self.last = None;
    }

    /// When the next announcement is due; `None` at rest.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.next
    }

    /// Whether one is due, and if so, sets the next. A caller that comes late gets one, not all that it missed.
    pub fn due(&mut self, now: Duration) -> bool {
        if self.next.is_none_or(|next| now < next) {
            return false;
        }
        self.last = Some(now);
        self.next = self.following(now);
        while self.next.is_some_and(|next| next <= now) && self.step < FIRST.len() {
            self.next = self.following(now);
        }
        true
    }

    /// The moment after the current one.
    fn following(&mut self, now: Duration) -> Option<Duration> {
        self.step = self.step.saturating_add(1);
        match FIRST.get(self.step) {
            Some(offset) => Some(self.started.saturating_add(*offset)),
            None => self.every.map(|every| now.saturating_add(self.jittered(every))),
        }
    }

    /// ± [`JITTER_PERCENT`].
    fn jittered(&mut self, every: Duration) -> Duration {
        let spread = every.as_millis() as u64 * JITTER_PERCENT / 100;
        let shift = splitmix64(&mut self.random) % (2 * spread + 1);
        every + Duration::from_millis(shift) - Duration::from_millis(spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// When a caller that comes at every due moment announces, relative to the start.
    fn run(schedule: &mut Schedule, start: Duration, count: usize) -> Vec<u64> {
        let mut times = Vec::new();
        while times.len() < count {
            let next = schedule.next().unwrap();
            assert!(!schedule.due(next.saturating_sub(ms(1))), "not before its time");
            assert!(schedule.due(next));
            times.push((next - start).as_millis() as u64);
        }
        times
    }

    #[test]
    fn fast_then_slow() {
        let mut schedule = Schedule::new(1);
        assert_eq!(schedule.next(), None);
        assert!(!schedule.due(ms(5)));
        schedule.restart(ms(7000));
        let times = run(&mut schedule, ms(7000), 40);
        assert_eq!(times[..8], [0, 100, 200, 500, 1000, 2000, 4000, 8000]);
        let gaps: Vec<u64> = times[7..].windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| (24_000..=36_000).contains(gap)), "{gaps:?}");
        assert!(gaps.iter().any(|gap| *gap < 28_000) && gaps.iter().any(|gap| *gap > 32_000), "they differ: {gaps:?}");
    }

    #[test]
    fn another_pause_or_none() {
        let mut schedule = Schedule::new(1).every(Some(ms(5000)));
        schedule.restart(ms(9));
        let times = run(&mut schedule, ms(9), 20);
        assert!(times[7..].windows(2).all(|pair| (4000..=6000).contains(&(pair[1] - pair[0]))), "{times:?}");
        let mut schedule = Schedule::new(1).every(None);
        schedule.restart(ms(9));
        assert_eq!(run(&mut schedule, ms(9), 8)[7], 8000);
        assert_eq!((schedule.next(), schedule.due(ms(1_000_000))), (None, false));
        schedule.restart(ms(20_000));
        assert!(schedule.due(ms(20_000)), "an event starts it again");
        assert!(schedule.due(Duration::MAX) && schedule.next().is_none(), "who comes late after all of them");
    }

    #[test]
    fn the_seed_decides() {
        let times = |seed| {
            let mut schedule = Schedule::new(seed);
            schedule.restart(ms(9));
            run(&mut schedule, ms(9), 20)
        };
        assert_eq!(times(5), times(5));
        assert_ne!(times(5), times(6));
    }

    #[test]
    fn who_comes_late_gets_one() {
        let mut schedule = Schedule::new(1);
        schedule.restart(ms(0));
        assert!(schedule.due(ms(1500)));
        assert_eq!(schedule.next(), Some(ms(2000)));
        assert!(schedule.due(ms(100_000)));
        assert!(!schedule.due(ms(100_000)));
        assert!(schedule.next().unwrap() >= ms(124_000));
    }

    #[test]
    fn a_restart_begins_again_but_never_storms() {
        let mut schedule = Schedule::new(1);
        schedule.restart(ms(0));
        assert!(schedule.due(ms(0)));
        let mut sent = 0;
        for now in 1..1000 {
            schedule.restart(ms(now));
            sent += u32::from(schedule.due(ms(now)));
        }
        assert!((15..=20).contains(&sent), "{sent} in a second of events each millisecond");
        schedule.restart(ms(5000));
        assert_eq!(run(&mut schedule, ms(5000), 3), [0, 100, 200]);
        schedule.stop();
        assert!(!schedule.due(ms(90_000)));
        schedule.restart(ms(90_000));
        assert!(schedule.due(ms(90_000)));
        schedule.stop();
        schedule.restart(ms(90_001));
        assert!(schedule.due(ms(90_001)), "taken again a moment after it was let go");
    }

    #[test]
    fn a_clock_that_starts_anywhere_is_fine() {
        let mut schedule = Schedule::new(1);
        schedule.restart(Duration::MAX);
        assert!(schedule.due(Duration::MAX));
        assert_eq!(schedule.next(), Some(Duration::MAX));
    }
}
