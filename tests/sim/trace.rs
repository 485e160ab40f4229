//! What a run says about itself: nothing, a hash, or one line for each event with fixed columns.

use crate::checkers::Fact;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Nothing: the fast way.
    Off,
    /// A hash of all lines.
    Hash,
    /// The lines, on standard output.
    Print,
}

/// The trace of one run.
#[derive(Debug)]
pub struct Trace {
    detail: Detail,
    hash: u64,
    lines: u64,
    only: Option<String>,
    from: u64,
}

impl Trace {
    /// A trace without a filter.
    pub fn new(detail: Detail) -> Trace {
        Trace { detail, hash: 0xcbf2_9ce4_8422_2325, lines: 0, only: None, from: 0 }
    }

    /// Shows one node only, and nothing before a world time (milliseconds).
    pub fn filtered(mut self, only: Option<String>, from: u64) -> Trace {
        self.only = only;
        self.from = from;
        self
    }

    /// Whether lines are wanted at all.
    pub fn is_on(&self) -> bool {
        self.detail != Detail::Off
    }

    /// The hash of all lines so far.
    pub fn hash(&self) -> (u64, u64) {
        (self.lines, self.hash)
    }

    /// The header of the columns.
    pub fn header(&self) {
        if self.detail == Detail::Print {
            println!("{:>10} {:5} {:<8} {:<9} {:>3} {:>10} {:>7}  what", "time", "node", "process", "postgres", "tl", "lsn", "lease");
        }
    }

    /// A line of a core's step, with the node's columns.
    pub fn step(&mut self, at: u64, node: &str, columns: &str, text: &str) {
        self.line(at, node, &format!("{columns}  {text}"));
    }

    /// A line of the world.
    pub fn event(&mut self, at: u64, node: &str, text: &str) {
        self.line(at, node, &format!("{:<42}  * {text}", ""));
    }

    /// A fact that the checkers see.
    pub fn fact(&mut self, at: u64, fact: &Fact) {
        if !matches!(fact, Fact::Step { .. }) {
            self.line(at, "-", &format!("{:<42}  # {fact:?}", ""));
        }
    }

    fn line(&mut self, at: u64, node: &str, text: &str) {
        self.lines += 1;
        if self.detail == Detail::Hash {
            for byte in node.bytes().chain(at.to_le_bytes()).chain(text.bytes()) {
                self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
            }
            return;
        }
        let wanted = self.only.as_deref().is_none_or(|only| only == node || node == "-" || node == "store");
        if wanted && at >= self.from {
            println!("{:>6}.{:03} {node:5} {text}", at / 1000, at % 1000);
        }
    }
}
