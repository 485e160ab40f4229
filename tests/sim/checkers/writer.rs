//! S1: one writer.
//!
//! At most one node whose PostgreSQL accepts writes. Where a fence stands beside the agent (a guard that is armed and runs, a watchdog that counts)
//! there is no exception, but for a box that was suspended: it writes nothing, and when it wakes up its fences need a moment.
//! Where none stands, because there is none or the schedule took it away: a node that does not hold the leader key may still be writable while its
//! agent does not run, and for the time that the configuration gives a returning agent to put that right.

use super::Fact;
use crate::options::Options;

/// A thawed agent acts at once: one late wake-up, SIGQUIT, and SIGKILL after the core's `kill_after` (at most one second).
const THAWED_MS: u64 = 1_500;

#[derive(Clone, Debug)]
struct Seat {
    writable: bool,
    running: bool,
    frozen: bool,
    /// A fence beside the agent stands.
    fenced: bool,
    excused_until: u64,
    /// Only as long as no fence stands.
    returning_until: u64,
}

/// The checker.
#[derive(Debug)]
pub struct OneWriter {
    seats: Vec<Seat>,
    holder: Option<usize>,
    fresh_ms: u64,
    /// Two or more are writable: look at every event.
    crowded: bool,
}

impl OneWriter {
    /// For a run with these options.
    pub fn new(options: &Options) -> OneWriter {
        // A fresh agent knows of no lease. It must learn that the key is its own, or stop: one budget for the store, one fast stop that is
        // finished by a kill.
        let fresh_ms = options.retry_timeout_s * 1000 + THAWED_MS;
        let seat = Seat { writable: false, running: false, frozen: false, fenced: false, excused_until: 0, returning_until: 0 };
        OneWriter { seats: vec![seat; options.nodes], holder: None, fresh_ms, crowded: false }
    }

    /// Takes a fact.
    pub fn fact(&mut self, at: u64, fact: &Fact) -> Result<(), String> {
        match *fact {
            Fact::Writable { node, on } => self.seats[node].writable = on,
            Fact::Agent { node, running, fresh } => {
                let seat = &mut self.seats[node];
                seat.running = running;
                if running {
                    let grace = if fresh { self.fresh_ms } else { THAWED_MS };
                    seat.returning_until = seat.returning_until.max(at + grace);
                }
            }
            Fact::Fenced { node, standing } => self.seats[node].fenced = standing,
            Fact::Frozen { node, on, grace_ms, .. } => {
                let seat = &mut self.seats[node];
                seat.frozen = on;
                if !on {
                    seat.excused_until = seat.excused_until.max(at + grace_ms);
                }
            }
            Fact::Holder(holder) => self.holder = holder,
            Fact::Excused { node, until } => {
                let seat = &mut self.seats[node];
                seat.excused_until = seat.excused_until.max(until);
            }
            _ => return Ok(()),
        }
        self.crowded = self.seats.iter().filter(|seat| seat.writable && !seat.frozen).count() > 1;
        self.time(at)
    }

    /// Looks whether what was allowed so far is still allowed.
    pub fn time(&self, at: u64) -> Result<(), String> {
        if !self.crowded {
            return Ok(());
        }
        let writers: Vec<usize> = (0..self.seats.len()).filter(|&node| self.seats[node].writable && !self.seats[node].frozen).collect();
        let unexcused: Vec<usize> = writers.iter().copied().filter(|&node| !self.is_excused(node, at)).collect();
        if unexcused.len() > 1 {
            let names: Vec<String> = writers.iter().map(|node| format!("n{}", node + 1)).collect();
            return Err(format!("{} accept writes; the leader key is {:?}'s", names.join(" and "), self.holder.map(|node| node + 1)));
        }
        Ok(())
    }

    /// Without the key, and its agent cannot have put that right.
    fn is_excused(&self, node: usize, at: u64) -> bool {
        let seat = &self.seats[node];
        let unfenced = !seat.fenced && (!seat.running || at <= seat.returning_until);
        self.holder != Some(node) && (unfenced || at <= seat.excused_until)
    }
}

/// Made-up histories.
pub fn self_test() -> Result<(), String> {
    use super::expect;
    let mut options = Options::draw(1);
    options.nodes = 2;
    options.retry_timeout_s = 10;
    let run = |facts: &[(u64, Fact)]| {
        let mut checker = OneWriter::new(&options);
        facts.iter().try_for_each(|(at, fact)| checker.fact(*at, fact))
    };
    let agent = |node, running| Fact::Agent { node, running, fresh: false };
    let writes = |node, on| Fact::Writable { node, on };
    let start = [(0, agent(0, true)), (0, agent(1, true)), (1, Fact::Holder(Some(0))), (2, writes(0, true))];
    let with = |rest: &[(u64, Fact)]| run(&[&start[..], rest].concat());

    expect("hand-over", with(&[(90_000, writes(0, false)), (90_001, Fact::Holder(Some(1))), (90_002, writes(1, true))]), false)?;
    expect("overlap", with(&[(90_000, Fact::Holder(Some(1))), (90_001, writes(1, true))]), true)?;
    let stopped = [(90_000, agent(0, false)), (99_000, Fact::Holder(Some(1))), (99_001, writes(1, true))];
    expect("stopped agent", with(&stopped), false)?;
    let back = [&stopped[..], &[(120_000, agent(0, true)), (120_500, writes(0, false))]].concat();
    expect("stopped agent that comes back", with(&back), false)?;
    let late = [&stopped[..], &[(120_000, agent(0, true)), (122_000, Fact::Holder(Some(1)))]].concat();
    expect("stopped agent that comes back and does nothing", with(&late), true)?;
    let thief = [(90_000, agent(0, false)), (90_001, writes(1, true))];
    expect("the holder's agent is stopped, and nobody else may write", with(&thief), true)?;
    let fenced = |standing| Fact::Fenced { node: 0, standing };
    expect("stopped agent, and a fence that does nothing", with(&[&[(3, fenced(true))][..], &stopped].concat()), true)?;
    let shot = [
        (3, fenced(true)),
        (90_000, agent(0, false)),
        (98_900, writes(0, false)),
        (99_000, Fact::Holder(Some(1))),
        (99_001, writes(1, true)),
    ];
    expect("stopped agent, and a fence that works", with(&shot), false)?;
    let freeze = |on| Fact::Frozen { node: 0, on, grace_ms: 250, vip_grace_ms: 0 };
    let asleep =
        [(3, fenced(true)), (90_000, freeze(true)), (99_000, Fact::Holder(Some(1))), (99_001, writes(1, true)), (120_000, freeze(false))];
    expect("suspended", with(&[&asleep[..], &[(120_200, writes(0, false))]].concat()), false)?;
    expect("suspended and back for long", with(&[&asleep[..], &[(120_300, Fact::Holder(Some(1)))]].concat()), true)?;
    let both = [(90_000, agent(1, true)), (91_000, writes(1, true)), (95_000, Fact::Holder(Some(0)))];
    expect("a second writer without the key", with(&both), true)
}
