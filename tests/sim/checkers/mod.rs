//! The promises, as observers of facts. One file each; each can be tested on a made-up history.

pub mod address;
pub mod data;
pub mod lease;
pub mod loss;
pub mod progress;
pub mod timelines;
pub mod work;
pub mod writer;

use mastiff::ha::fence::VipRole;

use crate::options::Options;

/// Something that is true in the simulated world, seen from outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// The PostgreSQL of a node begins or ceases to accept writes.
    Writable {
        /// Where.
        node: usize,
        /// Begins or ceases.
        on: bool,
    },
    /// An agent begins or ceases to run: stopped, killed, box suspended or off.
    Agent {
        /// Where.
        node: usize,
        /// Runs.
        running: bool,
        /// A new process, which remembers nothing (as opposed to SIGCONT and wake-up).
        fresh: bool,
    },
    /// The leader key changes hands, by the store's truth.
    Holder(Option<usize>),
    /// The store, or somebody with power over PostgreSQL, broke a rule that the lease depends on: `node` may be wrong until then.
    Excused {
        /// Who.
        node: usize,
        /// World time.
        until: u64,
    },
    /// PostgreSQL is told to become writable.
    Promotion {
        /// Where.
        node: usize,
        /// The key is this node's, by the store's truth.
        holds_key: bool,
        /// It was last a standby and is started as a primary without a new timeline.
        without_branch: bool,
        /// The fences that its configuration asks for stand.
        fenced: bool,
    },
    /// A release of the key was applied.
    Released {
        /// By whom.
        node: usize,
        /// Its PostgreSQL accepts writes.
        writable: bool,
    },
    /// A node begins a timeline.
    Branched {
        /// Where.
        node: usize,
        /// From.
        from: u32,
        /// To.
        to: u32,
        /// By order of the agent (as opposed to a stray hand).
        by_agent: bool,
    },
    /// A standby begins to stream.
    Streams {
        /// Standby.
        node: usize,
        /// Its timeline.
        timeline: u32,
        /// The upstream's timeline.
        upstream: u32,
    },
    /// A job is about to change a data directory as a whole.
    Data {
        /// Where.
        node: usize,
        /// What.
        touch: Touch,
        /// A postmaster lives in it.
        alive: bool,
        /// Its system identifier is another than the cluster's.
        foreign: bool,
        /// The configuration, the operator or the history of the directory allows it.
        allowed: bool,
    },
    /// A new primary: what of the acknowledged rows is lost.
    Loss {
        /// New primary.
        node: usize,
        /// Its position.
        position: u64,
        /// `/status` when it took the key.
        optime: u64,
        /// `maximum_lag_on_failover` in its configuration.
        allowed: u64,
    },
    /// A fence beside the agent begins or ceases to stand behind a PostgreSQL: an armed guard, a watchdog that counts.
    Fenced {
        /// Where.
        node: usize,
        /// It stands.
        standing: bool,
    },
    /// A box is suspended, or wakes up.
    Frozen {
        /// Where.
        node: usize,
        /// Suspended.
        on: bool,
        /// After that its fences need so long.
        grace_ms: u64,
        /// And its addresses go within this.
        vip_grace_ms: u64,
    },
    /// A fence is told that there is nothing to fence.
    Disarm {
        /// Where.
        node: usize,
        /// Which.
        device: &'static str,
        /// PostgreSQL writes, or is on its way.
        may_write: bool,
        /// The cluster is paused.
        paused: bool,
    },
    /// A watchdog is fed or armed while PostgreSQL may write.
    Fed {
        /// Where.
        node: usize,
        /// It bites later than the lease ends, or there is none.
        too_long: bool,
    },
    /// PostgreSQL writes under its key although no guard is armed.
    Unguarded {
        /// Where.
        node: usize,
        /// For how long by now.
        for_ms: u64,
    },
    /// An address is configured or removed.
    Vip {
        /// Where.
        node: usize,
        /// Which.
        role: VipRole,
        /// Configured.
        on: bool,
        /// PostgreSQL there is a standby.
        standby: bool,
    },
    /// One step of a core.
    Step {
        /// Where.
        node: usize,
        /// Number of actions.
        actions: usize,
    },
    /// A core broke its contract with the shell.
    Contract {
        /// Where.
        node: usize,
        /// How.
        what: &'static str,
    },
}

/// What a job does to a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Removes it.
    Remove,
    /// Rewinds it.
    Rewind,
    /// Fills it by a copy.
    Clone,
    /// Fills it by initdb.
    Init,
}

/// A promise was broken.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// Which: `S1`, `S4`, ...
    pub invariant: &'static str,
    /// World time, milliseconds.
    pub at: u64,
    /// What happened.
    pub text: String,
}

/// All checkers of a run.
#[derive(Debug)]
pub struct Checks {
    writer: writer::OneWriter,
    lease: lease::Permits,
    address: address::Addresses,
    timelines: timelines::Timelines,
    work: work::BoundedWork,
}

impl Checks {
    /// For a run with these options.
    pub fn new(options: &Options) -> Checks {
        Checks {
            writer: writer::OneWriter::new(options),
            lease: lease::Permits::new(options.nodes),
            address: address::Addresses::new(options.nodes),
            timelines: timelines::Timelines::new(options),
            work: work::BoundedWork::new(options.nodes),
        }
    }

    /// Takes a fact.
    pub fn fact(&mut self, at: u64, fact: &Fact) -> Option<Violation> {
        let found = [
            ("S1", self.writer.fact(at, fact)),
            ("S3", self.address.fact(at, fact)),
            ("S4", self.lease.fact(at, fact)),
            ("S5", self.timelines.fact(fact)),
            ("S6", data::check(fact)),
            ("S2", loss::check(fact)),
            ("L2", self.work.fact(at, fact)),
        ];
        found.into_iter().find_map(|(invariant, result)| Some(Violation { invariant, at, text: result.err()? }))
    }

    /// Takes note that time passed.
    pub fn time(&mut self, at: u64) -> Option<Violation> {
        let found = [("S1", self.writer.time(at)), ("S3", self.address.time(at))];
        found.into_iter().find_map(|(invariant, result)| Some(Violation { invariant, at, text: result.err()? }))
    }
}

/// A unit test that needs no harness.
pub type SelfTest = fn() -> Result<(), String>;

/// The unit tests of all checkers, by name.
pub fn self_tests() -> Vec<(&'static str, SelfTest)> {
    vec![
        ("writer", writer::self_test),
        ("lease", lease::self_test),
        ("address", address::self_test),
        ("timelines", timelines::self_test),
        ("data", data::self_test),
        ("loss", loss::self_test),
        ("work", work::self_test),
        ("progress", progress::self_test),
    ]
}

/// A made-up history must end as expected.
pub fn expect(name: &str, result: Result<(), String>, broken: bool) -> Result<(), String> {
    match (result, broken) {
        (Ok(()), false) | (Err(_), true) => Ok(()),
        (Ok(()), true) => Err(format!("{name}: a broken promise was not seen")),
        (Err(text), false) => Err(format!("{name}: a false alarm: {text}")),
    }
}
