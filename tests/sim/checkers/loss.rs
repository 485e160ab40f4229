//! S2, the asynchronous part: a new primary is at most `maximum_lag_on_failover` behind the last position that the leader left in `/status`.

use super::Fact;

/// Looks at one fact; this promise needs no memory.
pub fn check(fact: &Fact) -> Result<(), String> {
    let Fact::Loss { node, position, optime, allowed } = *fact else { return Ok(()) };
    let lag = optime.saturating_sub(position);
    if lag > allowed {
        return Err(format!("n{} becomes primary {lag} bytes behind the last known position, {allowed} are allowed", node + 1));
    }
    Ok(())
}

/// Made-up histories.
pub fn self_test() -> Result<(), String> {
    use super::expect;
    let run = |position| check(&Fact::Loss { node: 0, position, optime: 1000, allowed: 100 });
    expect("ahead", run(1200), false)?;
    expect("just so", run(900), false)?;
    expect("behind", run(899), true)
}
