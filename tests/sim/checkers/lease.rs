//! S4: no promotion without the key, no release while writable.

use super::Fact;

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
    let promotion = |holds_key| Fact::Promotion { node: 0, holds_key, without_branch: false };
    expect("with the key", run(&[(5, promotion(true))]), false)?;
    expect("without the key", run(&[(5, promotion(false))]), true)?;
    expect("the store lost the key", run(&[(1, Fact::Excused { node: 0, until: 9 }), (5, promotion(false))]), false)?;
    expect("release after the stop", run(&[(5, Fact::Released { node: 0, writable: false })]), false)?;
    expect("release before the stop", run(&[(5, Fact::Released { node: 0, writable: true })]), true)
}
