//! S4: no promotion without the key and its fences, no release while writable, no fence fed or taken away without a permit.

use super::Fact;

/// A guard that ended must be replaced within this: the agent hears of it, waits a second, starts another one.
const UNGUARDED_MS: u64 = 4_000;

/// The checker.
#[derive(Debug)]
pub struct Permits {
    excused_until: Vec<u64>,
    stopped: Vec<bool>,
}

impl Permits {
    /// For this many nodes.
    pub fn new(nodes: usize) -> Permits {
        Permits { excused_until: vec![0; nodes], stopped: vec![true; nodes] }
    }

    /// Takes a fact.
    pub fn fact(&mut self, at: u64, fact: &Fact) -> Result<(), String> {
        match *fact {
            Fact::Excused { node, until } => self.excused_until[node] = self.excused_until[node].max(until),
            Fact::Agent { node, running, .. } => self.stopped[node] = !running,
            Fact::Promotion { node, holds_key: false, .. } if at > self.excused_until[node] => {
                return Err(format!("n{} is told to become primary without the leader key", node + 1));
            }
            Fact::Promotion { node, fenced: false, .. } => {
                return Err(format!("n{} is told to become primary before its fences stand", node + 1));
            }
            Fact::Disarm { node, device, may_write: true, paused: false } if at > self.excused_until[node] => {
                return Err(format!("n{} disarms the {device} while its PostgreSQL may write", node + 1));
            }
            Fact::Fed { node, too_long: true } if at > self.excused_until[node] => {
                return Err(format!("n{} feeds the watchdog for longer than its lease lasts", node + 1));
            }
            Fact::Unguarded { node, for_ms } if for_ms > UNGUARDED_MS => {
                return Err(format!("n{} has been writing for {for_ms} ms without an armed guard", node + 1));
            }
            Fact::Released { node, writable: true } => {
                return Err(format!("n{} gives the leader key up while its PostgreSQL accepts writes", node + 1));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Made-up histories.
pub fn self_test() -> Result<(), String> {
    use super::expect;
    let run = |facts: &[(u64, Fact)]| {
        let mut checker = Permits::new(2);
        facts.iter().try_for_each(|(at, fact)| checker.fact(*at, fact))
    };
    let promotion = |holds_key| Fact::Promotion { node: 0, holds_key, without_branch: false, fenced: true };
    expect("with the key", run(&[(5, promotion(true))]), false)?;
    expect("without the key", run(&[(5, promotion(false))]), true)?;
    expect("the store lost the key", run(&[(1, Fact::Excused { node: 0, until: 9 }), (5, promotion(false))]), false)?;
    let bare = Fact::Promotion { node: 0, holds_key: true, without_branch: false, fenced: false };
    expect("without fences", run(&[(5, bare)]), true)?;
    let disarm = |may_write, paused| Fact::Disarm { node: 0, device: "guard", may_write, paused };
    expect("disarmed after the stop", run(&[(5, disarm(false, false))]), false)?;
    expect("disarmed in pause", run(&[(5, disarm(true, true))]), false)?;
    expect("disarmed while it writes", run(&[(5, disarm(true, false))]), true)?;
    expect("fed in time", run(&[(5, Fact::Fed { node: 0, too_long: false })]), false)?;
    expect("fed for too long", run(&[(5, Fact::Fed { node: 0, too_long: true })]), true)?;
    expect("a new guard", run(&[(5, Fact::Unguarded { node: 0, for_ms: 1_100 })]), false)?;
    expect("no guard", run(&[(5, Fact::Unguarded { node: 0, for_ms: 9_000 })]), true)?;
    expect("release after the stop", run(&[(5, Fact::Released { node: 0, writable: false })]), false)?;
    expect("release before the stop", run(&[(5, Fact::Released { node: 0, writable: true })]), true)
}
