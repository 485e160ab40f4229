//! S2, the asynchronous part: a new primary is at most `maximum_lag_on_failover` behind the last position that the leader left in `/status`.

use super::Fact;

/// The checker.
#[derive(Debug)]
pub struct BoundedLoss {
    max_lag: u64,
}

impl BoundedLoss {
    /// With this bound in bytes.
    pub fn new(max_lag: u64) -> BoundedLoss {
        BoundedLoss { max_lag }
    }

    /// Takes a fact.
    pub fn fact(&mut self, fact: &Fact) -> Result<(), String> {
        let Fact::Loss { node, position, optime } = *fact else { return Ok(()) };
        let lag = optime.saturating_sub(position);
        if lag > self.max_lag {
            return Err(format!("n{} becomes primary {lag} bytes behind the last known position, {} are allowed", node + 1, self.max_lag));
        }
        Ok(())
    }
}

/// Made-up histories.
pub fn self_test() -> Result<(), String> {
    use super::expect;
    let run = |position| BoundedLoss::new(100).fact(&Fact::Loss { node: 0, position, optime: 1000 });
    expect("ahead", run(1200), false)?;
    expect("just so", run(900), false)?;
    expect("behind", run(899), true)
}
