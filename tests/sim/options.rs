//! What one run is made of, drawn from its seed ("swarm"): the size of the cluster, its configuration, which faults exist at all.

use serde::{Deserialize, Serialize};

use crate::model::rng::Rng;
use crate::schedule::Kind;

/// The fence of the boxes. Invariant S1 allows less the more there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fence {
    /// None: while an agent does not run, its PostgreSQL may outlive the lease.
    None,
    /// The guard process (not modelled yet).
    Guard,
    /// A hardware watchdog (not modelled yet).
    Watchdog,
}

/// A deliberately broken rule, put in at the seam.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mutation {
    /// A renewal that was sent counts as acknowledged, answer or not (TRAPS 5.3: `Ok` means queued).
    QueuedIsRenewed,
    /// A refused leader key is taken for granted.
    PromoteWithoutLease,
    /// The core's clock stops while the box is suspended.
    SleepingClock,
    /// Fences and stops are lost.
    LostFence,
    /// The key is released when the stop begins, not when it ended.
    EarlyRelease,
}

impl Mutation {
    /// All of them with their names on the command line.
    pub const ALL: [(&'static str, Mutation); 5] = [
        ("queued-is-renewed", Mutation::QueuedIsRenewed),
        ("promote-without-lease", Mutation::PromoteWithoutLease),
        ("sleeping-clock", Mutation::SleepingClock),
        ("lost-fence", Mutation::LostFence),
        ("early-release", Mutation::EarlyRelease),
    ];

    /// By name.
    pub fn parse(name: &str) -> Option<Mutation> {
        Mutation::ALL.iter().find(|(known, _)| *known == name).map(|(_, mutation)| *mutation)
    }
}

/// Everything that a run depends on beside the fault schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Seed of all generators.
    pub seed: u64,
    /// Members.
    pub nodes: usize,
    /// `ttl`, seconds.
    pub ttl_s: u64,
    /// `loop_wait`, seconds.
    pub loop_wait_s: u64,
    /// `retry_timeout`, seconds.
    pub retry_timeout_s: u64,
    /// `primary_start_timeout`, seconds.
    pub primary_start_timeout_s: u64,
    /// `maximum_lag_on_failover`, bytes.
    pub max_lag: u64,
    /// `check_timeline`.
    pub check_timeline: bool,
    /// `use_pg_rewind`.
    pub use_pg_rewind: bool,
    /// `remove_data_directory_on_rewind_failure`.
    pub wipe_rewind_failed: bool,
    /// `remove_data_directory_on_diverged_timelines`.
    pub wipe_diverged: bool,
    /// Replication slots are used and needed for streaming.
    pub use_slots: bool,
    /// The last member starts with a data directory of another cluster.
    pub foreign: bool,
    /// Clocks drift by up to this many parts per million.
    pub drift_ppm: u64,
    /// Longest delay before an agent handles an event.
    pub hiccup_ms: u64,
    /// Messages to and from the store that are lost, per mille.
    pub loss: u64,
    /// Watch events that are lost, per mille.
    pub watch_loss: u64,
    /// How long jobs and PostgreSQL take, in percent of the usual.
    pub slow_percent: u64,
    /// Mean pause between two writes of a client.
    pub write_ms: u64,
    /// Length of the phase with faults, seconds.
    pub safety_s: u64,
    /// Mean pause between two faults, seconds.
    pub fault_every_s: u64,
    /// Faults that exist in this run.
    pub kinds: Vec<Kind>,
    /// Fences of the boxes.
    pub fence: Fence,
    /// A broken rule, if this run must be red.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutation: Option<Mutation>,
}

/// (ttl, `loop_wait`, `retry_timeout`) in seconds; all satisfy `loop_wait + 2 * retry_timeout <= ttl`.
const TIMINGS: [(u64, u64, u64); 9] =
    [(30, 10, 10), (30, 10, 10), (20, 5, 5), (20, 1, 5), (15, 3, 5), (10, 2, 3), (60, 10, 20), (5, 1, 2), (3, 1, 1)];

impl Options {
    /// Draws the options of a seed.
    pub fn draw(seed: u64) -> Options {
        let mut rng = Rng::new(seed, "options");
        let (ttl_s, loop_wait_s, retry_timeout_s) = rng.pick(&TIMINGS);
        let repairs = rng.chance(700);
        let mut options = Options {
            seed,
            nodes: rng.pick(&[2, 3, 3, 3, 3, 4, 5]),
            ttl_s,
            loop_wait_s,
            retry_timeout_s,
            primary_start_timeout_s: rng.pick(&[0, 10, 60, 300, 300]),
            max_lag: rng.pick(&[1_048_576, 1_048_576, 0, 65_536, 16_777_216]),
            check_timeline: rng.chance(400),
            use_pg_rewind: repairs || rng.chance(400),
            wipe_rewind_failed: repairs,
            wipe_diverged: repairs,
            use_slots: rng.chance(800),
            foreign: rng.chance(30),
            drift_ppm: if rng.chance(700) { 200 } else { 0 },
            hiccup_ms: rng.pick(&[3, 3, 20, 90]),
            loss: rng.pick(&[0, 0, 5, 30]),
            watch_loss: rng.pick(&[0, 20, 1000]),
            slow_percent: rng.pick(&[100, 100, 100, 30, 300]),
            write_ms: rng.pick(&[700, 1500, 3000]),
            safety_s: 240 + rng.between(loop_wait_s * 30, loop_wait_s * 150),
            fault_every_s: rng.pick(&[8 + loop_wait_s, 10 + 2 * loop_wait_s, 15 + 5 * loop_wait_s]),
            kinds: Vec::new(),
            fence: Fence::None,
            mutation: None,
        };
        options.kinds = Kind::ALL.iter().copied().filter(|kind| rng.chance(kind.presence())).collect();
        options
    }
}
