//! What one run is made of, drawn from its seed ("swarm"): the size of the cluster, its configuration, which faults exist at all.

use serde::{Deserialize, Serialize};

use crate::model::rng::Rng;
use crate::schedule::Kind;

/// The hardware watchdog of a box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dog {
    /// There is none.
    #[default]
    None,
    /// Any number of seconds, can be disarmed.
    Normal,
    /// Powers of two.
    Coarse,
    /// At most 15 s.
    Short,
    /// Without magic close: it stops whenever it is closed, also by the end of the agent.
    NoMagic,
    /// It cannot be stopped.
    NoWayOut,
    /// Somebody else holds it.
    Busy,
}

/// `watchdog.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DogMode {
    /// Never used.
    #[default]
    Off,
    /// Used when it works.
    Automatic,
    /// Never lead without it.
    Required,
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
    /// Orders to the guard are lost, and it says that it is armed.
    LostOrder,
    /// The watchdog is fed all the time.
    BlindKick,
    /// Addresses are not removed.
    StickyVip,
}

impl Mutation {
    /// All of them with their names on the command line.
    pub const ALL: [(&'static str, Mutation); 8] = [
        ("queued-is-renewed", Mutation::QueuedIsRenewed),
        ("promote-without-lease", Mutation::PromoteWithoutLease),
        ("sleeping-clock", Mutation::SleepingClock),
        ("lost-fence", Mutation::LostFence),
        ("early-release", Mutation::EarlyRelease),
        ("lost-order", Mutation::LostOrder),
        ("blind-kick", Mutation::BlindKick),
        ("sticky-vip", Mutation::StickyVip),
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
    /// The guard process is configured.
    #[serde(default)]
    pub guard: bool,
    /// The hardware watchdogs of the boxes; none where the list ends.
    #[serde(default)]
    pub dogs: Vec<Dog>,
    /// What they are used for.
    #[serde(default)]
    pub dog_mode: DogMode,
    /// A watchdog does not count while its box is suspended.
    #[serde(default)]
    pub dog_sleeps: bool,
    /// A virtual IP for the primary.
    #[serde(default)]
    pub vip: bool,
    /// Virtual IPs for standbys, too.
    #[serde(default)]
    pub standby_vip: bool,
    /// Announcements of a virtual IP that are lost, per mille.
    #[serde(default)]
    pub announce_loss: u64,
    /// A broken rule, if this run must be red.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutation: Option<Mutation>,
}

/// What a box may have, the usual more often.
const DOGS: [Dog; 10] =
    [Dog::Normal, Dog::Normal, Dog::Normal, Dog::Coarse, Dog::Short, Dog::NoMagic, Dog::NoWayOut, Dog::NoWayOut, Dog::Busy, Dog::None];

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
            guard: false,
            dogs: Vec::new(),
            dog_mode: DogMode::Off,
            dog_sleeps: false,
            vip: false,
            standby_vip: false,
            announce_loss: 0,
            mutation: None,
        };
        options.kinds = Kind::ALL.iter().copied().filter(|kind| rng.chance(kind.presence())).collect();
        options.draw_fences();
        options
    }

    /// A generator of their own: what else a seed means does not change with them.
    fn draw_fences(&mut self) {
        let mut rng = Rng::new(self.seed, "fences");
        self.guard = rng.chance(700);
        self.dog_mode = rng.pick(&[DogMode::Off, DogMode::Off, DogMode::Automatic, DogMode::Automatic, DogMode::Required]);
        let all = rng.pick(&DOGS);
        let mixed = rng.chance(400);
        self.dogs = (0..self.nodes).map(|_| if mixed { rng.pick(&DOGS) } else { all }).collect();
        self.dog_sleeps = rng.chance(500);
        self.vip = rng.chance(700);
        self.standby_vip = self.vip && rng.chance(500);
        self.announce_loss = rng.pick(&[0, 100, 200]);
    }

    /// The watchdog of a box.
    pub fn dog(&self, node: usize) -> Dog {
        self.dogs.get(node).copied().unwrap_or_default()
    }
}
