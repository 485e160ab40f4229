//! S6: data directories are safe.

use super::{Fact, Touch};

/// Looks at one fact; this promise needs no memory.
pub fn check(fact: &Fact) -> Result<(), String> {
    let Fact::Data { node, touch, alive, foreign, allowed } = *fact else { return Ok(()) };
    let what = match touch {
        Touch::Remove => "removes the data directory",
        Touch::Rewind => "rewinds the data directory",
        Touch::Clone => "copies into the data directory",
        Touch::Init => "runs initdb in the data directory",
    };
    if alive {
        return Err(format!("n{} {what} of a living postmaster", node + 1));
    }
    if foreign {
        return Err(format!("n{} {what} of another cluster", node + 1));
    }
    if !allowed {
        return Err(format!("n{} {what}, and nothing allows it", node + 1));
    }
    Ok(())
}

/// Made-up histories.
pub fn self_test() -> Result<(), String> {
    use super::expect;
    let run = |alive, foreign, allowed| check(&Fact::Data { node: 0, touch: Touch::Remove, alive, foreign, allowed });
    expect("allowed", run(false, false, true), false)?;
    expect("alive", run(true, false, true), true)?;
    expect("foreign", run(false, true, true), true)?;
    expect("not allowed", run(false, false, false), true)
}
