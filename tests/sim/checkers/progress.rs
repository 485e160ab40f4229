//! L1: progress. Once everything is healed there is a leader in time, all members stream from it, and then nobody does anything.

/// What the world looks like from outside at one moment.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// The holder of the key accepts writes.
    pub led: bool,
    /// Members that should stream from it and do not, with a reason for the log.
    pub missing: Vec<String>,
    /// Members that do not stream either, and for whom the configuration may allow no way back. They are given their time all the same.
    pub hopeless: Vec<String>,
    /// World time of the last action of any core that changes something.
    pub last_change: u64,
    /// What that was.
    pub changed: String,
}

/// Bounds after the healing, milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// A leader accepts writes.
    pub led: u64,
    /// All members stream.
    pub whole: u64,
    /// After that, time for the last writes.
    pub settle: u64,
    /// And then so long nobody does anything.
    pub quiet: u64,
}

/// The checker.
#[derive(Debug)]
pub struct Progress {
    bounds: Bounds,
    healed_at: u64,
    led: bool,
    whole_at: Option<u64>,
}

/// What is known after a look.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Look again.
    Wait,
    /// All is as it should be.
    Passed,
    /// It is not.
    Failed(String),
}

impl Progress {
    /// Everything was healed at `healed_at`.
    pub fn new(healed_at: u64, bounds: Bounds) -> Progress {
        Progress { bounds, healed_at, led: false, whole_at: None }
    }

    /// Takes a look.
    pub fn look(&mut self, at: u64, health: &Health) -> Verdict {
        let age = at - self.healed_at;
        self.led |= health.led;
        if !self.led && age > self.bounds.led {
            return Verdict::Failed(format!("no leader accepts writes {} s after everything was healed", age / 1000));
        }
        let whole = health.led && health.missing.is_empty();
        let Some(since) = self.whole_at else {
            if whole && (health.hopeless.is_empty() || age > self.bounds.whole) {
                self.whole_at = Some(at);
            } else if age > self.bounds.whole && !whole {
                return Verdict::Failed(format!("{} s after everything was healed: {}", age / 1000, health.missing.join("; ")));
            }
            return Verdict::Wait;
        };
        let calm_from = since + self.bounds.settle;
        if !whole && at < calm_from {
            // The last request of an operator was still under way.
            self.whole_at = None;
            return Verdict::Wait;
        }
        if !whole {
            return Verdict::Failed(format!("was whole and is not any more: {}", health.missing.join("; ")));
        }
        if health.last_change > calm_from {
            return Verdict::Failed(format!("{} although there is nothing to do", health.changed));
        }
        if at >= calm_from + self.bounds.quiet {
            Verdict::Passed
        } else {
            Verdict::Wait
        }
    }
}

/// Made-up histories.
pub fn self_test() -> Result<(), String> {
    let bounds = Bounds { led: 100, whole: 200, settle: 50, quiet: 100 };
    let good = Health { led: true, ..Health::default() };
    let run = |looks: &[(u64, Health)]| {
        let mut checker = Progress::new(0, bounds);
        looks.iter().map(|(at, health)| checker.look(*at, health)).find(|verdict| *verdict != Verdict::Wait)
    };
    let failed = |looks: &[(u64, Health)]| matches!(run(looks), Some(Verdict::Failed(_)));
    let missing = Health { missing: vec!["n2".to_owned()], ..good.clone() };
    let flapping = Health { last_change: 250, changed: "n1 restarts".to_owned(), ..good.clone() };
    let checks = [
        ("good", run(&[(90, good.clone()), (150, good.clone()), (260, good.clone())]) == Some(Verdict::Passed)),
        ("no leader", failed(&[(101, Health::default())])),
        ("not whole", failed(&[(90, missing.clone()), (201, missing.clone())])),
        ("falls apart", failed(&[(90, good.clone()), (150, missing)])),
        ("flaps", failed(&[(90, good), (260, flapping)])),
    ];
    checks.iter().find(|(_, passed)| !passed).map_or(Ok(()), |(name, _)| Err(format!("progress: {name}")))
}
