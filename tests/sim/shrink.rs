//! Makes a failing scenario small: works on the fault schedule, keeps what still breaks the same promise.

use crate::runner::{run, Outcome};
use crate::schedule::{Fault, Kind, Scenario};
use crate::trace::{Detail, Trace};

/// Runs that a shrink may cost.
const BUDGET: u32 = 1_500;

struct Shrinker {
    best: Scenario,
    invariant: &'static str,
    runs: u32,
}

/// The smallest scenario found that breaks the same promise, and what it says.
pub fn shrink(scenario: &Scenario, outcome: &Outcome) -> Scenario {
    let Some(violation) = &outcome.violation else { return scenario.clone() };
    let mut shrinker = Shrinker { best: scenario.clone(), invariant: violation.invariant, runs: 0 };
    shrinker.cut_time(violation.at);
    loop {
        let before = shrinker.best.clone();
        shrinker.drop_kinds();
        shrinker.drop_parts();
        shrinker.drop_nodes();
        shrinker.calm_options();
        shrinker.shorten();
        if shrinker.best == before || shrinker.runs >= BUDGET {
            break;
        }
    }
    shrinker.best.broke = Some(shrinker.invariant.to_owned());
    shrinker.best
}

impl Shrinker {
    /// Keeps the candidate if the same promise breaks.
    fn attempt(&mut self, candidate: Scenario) -> bool {
        if self.runs >= BUDGET || candidate == self.best {
            return false;
        }
        self.runs += 1;
        let outcome = run(&candidate, Trace::new(Detail::Off));
        let same = outcome.violation.is_some_and(|violation| violation.invariant == self.invariant);
        if same {
            self.best = candidate;
        }
        same
    }

    fn with_faults(&self, faults: Vec<Fault>) -> Scenario {
        Scenario { faults, ..self.best.clone() }
    }

    /// Nothing after the failure matters; a failure of progress needs its healing at the same time or earlier.
    fn cut_time(&mut self, at: u64) {
        let faults: Vec<Fault> = self.best.faults.iter().copied().filter(|fault| fault.at <= at).collect();
        self.attempt(self.with_faults(faults));
        for minutes in [3, 5, 8, 12] {
            let mut candidate = self.best.clone();
            candidate.options.safety_s = minutes * 60;
            candidate.faults.retain(|fault| fault.at < minutes * 60_000);
            if self.attempt(candidate) {
                return;
            }
        }
    }

    fn drop_kinds(&mut self) {
        for kind in Kind::ALL {
            let faults: Vec<Fault> = self.best.faults.iter().copied().filter(|fault| fault.kind != kind).collect();
            if faults.len() < self.best.faults.len() {
                self.attempt(self.with_faults(faults));
            }
        }
        let mut candidate = self.best.clone();
        candidate.options.kinds.retain(|kind| candidate.faults.iter().any(|fault| fault.kind == *kind));
        self.attempt(candidate);
    }

    /// Delta debugging: halves, quarters, ... single faults.
    fn drop_parts(&mut self) {
        let mut size = self.best.faults.len().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < self.best.faults.len() {
                let mut faults = self.best.faults.clone();
                faults.drain(from..(from + size).min(faults.len()));
                if !self.attempt(self.with_faults(faults)) {
                    from += size;
                }
            }
            size /= 2;
        }
    }

    fn drop_nodes(&mut self) {
        while self.best.options.nodes > 2 {
            let last = self.best.options.nodes - 1;
            let mut candidate = self.best.clone();
            candidate.options.nodes = last;
            candidate.faults.retain(|fault| fault.node < last);
            for fault in &mut candidate.faults {
                if fault.peer >= last {
                    fault.peer = (fault.node + 1) % last;
                }
            }
            if !self.attempt(candidate) {
                return;
            }
        }
    }

    fn calm_options(&mut self) {
        let calm: [fn(&mut Scenario); 7] = [
            |scenario| scenario.options.loss = 0,
            |scenario| scenario.options.hiccup_ms = 3,
            |scenario| scenario.options.drift_ppm = 0,
            |scenario| scenario.options.watch_loss = 0,
            |scenario| scenario.options.slow_percent = 100,
            |scenario| scenario.options.foreign = false,
            |scenario| scenario.options.write_ms = 3_000,
        ];
        for change in calm {
            let mut candidate = self.best.clone();
            change(&mut candidate);
            self.attempt(candidate);
        }
    }

    fn shorten(&mut self) {
        for index in 0..self.best.faults.len() {
            for divisor in [10, 2] {
                let mut faults = self.best.faults.clone();
                let Some(fault) = faults.get_mut(index) else { break };
                fault.for_ms /= divisor;
                if self.attempt(self.with_faults(faults)) {
                    break;
                }
            }
        }
    }
}
