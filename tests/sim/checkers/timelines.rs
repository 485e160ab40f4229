//! S5: timelines only grow; nobody follows a lower one; no primary without a branch where one is due.

use super::Fact;
use crate::options::Options;

/// The checker.
#[derive(Debug)]
pub struct Timelines {
    newest: u32,
    check_timeline: bool,
}

impl Timelines {
    /// For a run with these options.
    pub fn new(options: &Options) -> Timelines {
        // A stray hand, and a store without its keys, break the link between timelines and leader keys.
        Timelines { newest: 0, check_timeline: options.check_timeline }
    }

    /// Takes a fact.
    pub fn fact(&mut self, fact: &Fact) -> Result<(), String> {
        match *fact {
            Fact::Branched { node, from, to, by_agent } => {
                if to <= from {
                    return Err(format!("n{} goes from timeline {from} to {to}", node + 1));
                }
                if by_agent {
                    self.newest = self.newest.max(to);
                }
            }
            Fact::Streams { node, timeline, upstream } if upstream < timeline => {
                return Err(format!("n{} on timeline {timeline} follows timeline {upstream}", node + 1));
            }
            Fact::Promotion { node, without_branch: true, .. } => {
                return Err(format!("n{} starts a standby's data as a primary without a new timeline", node + 1));
            }
            _ => {}
        }
        let _ = self.check_timeline;
        Ok(())
    }
}

/// Made-up histories.
pub fn self_test() -> Result<(), String> {
    use super::expect;
    let run = |fact: Fact| Timelines::new(&Options::draw(1)).fact(&fact);
    expect("up", run(Fact::Branched { node: 0, from: 1, to: 2, by_agent: true }), false)?;
    expect("same", run(Fact::Branched { node: 0, from: 2, to: 2, by_agent: true }), true)?;
    expect("follows", run(Fact::Streams { node: 0, timeline: 1, upstream: 2 }), false)?;
    expect("follows a lower one", run(Fact::Streams { node: 0, timeline: 3, upstream: 2 }), true)?;
    expect("no branch", run(Fact::Promotion { node: 0, holds_key: true, without_branch: true, fenced: true }), true)
}
