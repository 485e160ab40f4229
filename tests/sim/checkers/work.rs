//! L2: bounded work, and the contract with the shell.

use super::Fact;

/// More actions than this in one step are a loop.
const ACTIONS_PER_STEP: usize = 40;
/// More steps than this within one second are a loop.
const STEPS_PER_SECOND: u32 = 300;

/// The checker.
#[derive(Debug)]
pub struct BoundedWork {
    seconds: Vec<(u64, u32)>,
}

impl BoundedWork {
    /// For this many nodes.
    pub fn new(nodes: usize) -> BoundedWork {
        BoundedWork { seconds: vec![(0, 0); nodes] }
    }

    /// Takes a fact.
    pub fn fact(&mut self, at: u64, fact: &Fact) -> Result<(), String> {
        match *fact {
            Fact::Step { node, actions } => {
                if actions > ACTIONS_PER_STEP {
                    return Err(format!("n{}: {actions} actions in one step", node + 1));
                }
                let (second, count) = &mut self.seconds[node];
                if *second != at / 1000 {
                    (*second, *count) = (at / 1000, 0);
                }
                *count += 1;
                if *count > STEPS_PER_SECOND {
                    return Err(format!("n{}: {count} steps in one second", node + 1));
                }
                Ok(())
            }
            Fact::Contract { node, what } => Err(format!("n{}: {what}", node + 1)),
            _ => Ok(()),
        }
    }
}

/// Made-up histories.
pub fn self_test() -> Result<(), String> {
    use super::expect;
    let run = |steps: usize, actions: usize| {
        let mut checker = BoundedWork::new(1);
        (0..steps).try_for_each(|_| checker.fact(5_000, &Fact::Step { node: 0, actions }))
    };
    expect("quiet", run(20, 3), false)?;
    expect("a flood of actions", run(1, 100), true)?;
    expect("a loop", run(400, 1), true)?;
    expect("contract", BoundedWork::new(1).fact(0, &Fact::Contract { node: 0, what: "two jobs" }), true)
}
