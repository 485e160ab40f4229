//! One box: power, clock, agent, PostgreSQL.

use std::collections::{BTreeSet, VecDeque};

use mastiff::ha::action::{Job, Snapshot, StartAs};
use mastiff::ha::config::{HaConfig, WatchdogMode};
use mastiff::ha::fence::VipRole;
use mastiff::ha::input::Unfinished;
use mastiff::ha::types::{JobId, MemberName, Millis};
use mastiff::ha::Machine;
use serde_json::{json, Value};

use super::clock::Clock;
use super::guard::Guard;
use super::postgres::Pg;
use super::rng::Rng;
use super::vip::Vips;
use super::watchdog::Watchdog;
use super::world::Event;
use crate::options::{DogMode, Options};

/// Power of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// On.
    On,
    /// Off.
    Off,
    /// Suspended: nothing runs, memory is kept, boot time goes on.
    Suspended,
}

/// The agent's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// Runs.
    Running,
    /// SIGSTOP.
    Stopped,
    /// Gone.
    Dead,
}

/// What a job still waits for.
#[derive(Debug)]
pub struct RunningJob {
    /// Its number.
    pub id: JobId,
    /// What.
    pub job: Job,
    /// A child process of the agent works on the data directory.
    pub child: bool,
    /// PostgreSQL was told; the next look decides.
    pub told: bool,
    /// Bootstrap: initdb is done.
    pub second_half: bool,
}

impl RunningJob {
    /// As what a restart starts again.
    pub fn start_as(&self) -> Option<&StartAs> {
        match &self.job {
            Job::Start { role, .. } | Job::Restart { role, .. } => Some(role),
            _ => None,
        }
    }
}

/// The agent.
#[derive(Debug)]
pub struct Agent {
    /// Its process.
    pub process: Process,
    /// Counts lives; events of an earlier life are void.
    pub life: u32,
    /// World time since which it runs without a break.
    pub runs_since: u64,
    /// The core.
    pub machine: Option<Machine>,
    /// What arrived while it could not run.
    pub deferred: VecDeque<Event>,
    /// World time of the next wake-up that is in the heap.
    pub wake_at: u64,
    /// The job under way.
    pub job: Option<RunningJob>,
    /// What REST shows.
    pub published: Option<Box<Snapshot>>,
    /// Revision of `/config` that the shell applied.
    pub config_seen: i64,
    /// Answers to the operator that are due.
    pub replies_due: BTreeSet<u64>,
}

/// One box.
#[derive(Debug)]
pub struct Node {
    /// Its member name.
    pub name: String,
    /// Power.
    pub power: Power,
    /// Clocks.
    pub clock: Clock,
    /// Agent.
    pub agent: Agent,
    /// PostgreSQL.
    pub pg: Pg,
    /// What PostgreSQL and jobs have to do with while the box is suspended.
    pub deferred: VecDeque<Event>,
    /// Generator of everything that happens on the box.
    pub rng: Rng,
    /// Requests to the store arrive in order.
    pub request_at: u64,
    /// Extra lag of replication to this box.
    pub wal_lag_ms: u64,
    /// The next promotion takes so much longer.
    pub slow_promote_ms: u64,
    /// The next stop takes so much longer.
    pub slow_stop_ms: u64,
    /// The next child fails.
    pub child_fails: bool,
    /// The cache file of the dynamic configuration.
    pub dynamic: Option<Value>,
    /// The note beside the data directory: work on it that did not end.
    pub marker: Option<Unfinished>,
    /// The job under way works on the data directory as a whole.
    pub works_on_data: bool,
    /// Reinitialisations that the operator asked for.
    pub reinit_asked: bool,
    /// PostgreSQL ran as a standby on this data directory: it is no half-made one.
    pub was_member: bool,
    /// World time of the last action that changes something, and its name.
    pub last_change: (u64, &'static str),
    /// The agent is stopped when it has sent its next renewal: for how long, and how long the store is out of reach then.
    pub freeze: Option<(u64, u64)>,
    /// Life of the agent that ran the last rewind.
    pub rewound_by: u32,
    /// Life of the agent that began the last promotion.
    pub promoted_by: u32,
    /// When it was suspended.
    pub suspended_at: u64,
    /// It was promoted by a stray hand.
    pub stray: bool,
    /// The guard process.
    pub guard: Guard,
    /// The hardware watchdog.
    pub dog: Watchdog,
    /// The virtual IPs that are configured here.
    pub vips: Vips,
    /// Their interface has no carrier.
    pub carrier_lost: bool,
    /// Resets by the watchdog.
    pub resets: u32,
    /// World time since which PostgreSQL cannot write.
    pub calm_since: u64,
    /// World time since which PostgreSQL writes under our key without a guard that is armed.
    pub unguarded_since: Option<u64>,
    /// The checkers know that a fence stands.
    pub told_fenced: bool,
}

impl Node {
    /// A box that is on, with an empty disk and no agent.
    pub fn new(index: usize, options: &Options) -> Node {
        let name = format!("n{}", index + 1);
        let mut rng = Rng::new(options.seed, &name);
        let drift = rng.below(2 * options.drift_ppm + 1) as i64 - options.drift_ppm as i64;
        Node {
            name,
            power: Power::On,
            clock: Clock::new(drift),
            agent: Agent {
                process: Process::Dead,
                life: 0,
                runs_since: 0,
                machine: None,
                deferred: VecDeque::new(),
                wake_at: u64::MAX,
                job: None,
                published: None,
                config_seen: 0,
                replies_due: BTreeSet::new(),
            },
            pg: Pg::new(),
            deferred: VecDeque::new(),
            rng,
            request_at: 0,
            wal_lag_ms: 0,
            slow_promote_ms: 0,
            slow_stop_ms: 0,
            child_fails: false,
            dynamic: None,
            marker: None,
            works_on_data: false,
            reinit_asked: false,
            was_member: false,
            last_change: (0, ""),
            freeze: None,
            rewound_by: 0,
            promoted_by: 0,
            suspended_at: 0,
            stray: false,
            guard: Guard::default(),
            dog: Watchdog { kind: options.dog(index), ..Watchdog::default() },
            vips: Vips::new(),
            carrier_lost: false,
            resets: 0,
            calm_since: 0,
            unguarded_since: None,
            told_fenced: false,
        }
    }

    /// The agent's process runs and gets the processor.
    pub fn agent_runs(&self) -> bool {
        self.power == Power::On && self.agent.process == Process::Running
    }

    /// Its watchdog can be used with the configuration in effect.
    pub fn has_watchdog(&self, options: &Options) -> bool {
        let config = self.config(options);
        self.dog.is_usable(options.dog_mode, config.watchdog.limit(config.ttl, config.loop_wait))
    }

    /// The configuration that the agent starts with or reloads to.
    pub fn config(&self, options: &Options) -> HaConfig {
        let mut config = HaConfig::for_member(&self.name);
        config.ttl = Millis::from_secs(options.ttl_s);
        config.loop_wait = Millis::from_secs(options.loop_wait_s);
        config.retry_timeout = Millis::from_secs(options.retry_timeout_s);
        config.maximum_lag_on_failover = options.max_lag;
        config.check_timeline = options.check_timeline;
        config.primary_start_timeout = Millis::from_secs(options.primary_start_timeout_s);
        config.use_pg_rewind = options.use_pg_rewind;
        config.remove_data_directory_on_rewind_failure = options.wipe_rewind_failed;
        config.remove_data_directory_on_diverged_timelines = options.wipe_diverged;
        config.use_slots = options.use_slots;
        config.guard = options.guard;
        config.watchdog.mode = match options.dog_mode {
            DogMode::Off => WatchdogMode::Off,
            DogMode::Automatic => WatchdogMode::Automatic,
            DogMode::Required => WatchdogMode::Required,
        };
        config.vip_roles.extend(options.vip.then_some(VipRole::Primary));
        config.vip_roles.extend(options.standby_vip.then_some(VipRole::Standby));
        config.initial_dynamic = Some(self.dynamic.clone().unwrap_or_else(|| json!({ "loop_wait": options.loop_wait_s })));
        if let Some(dynamic) = &self.dynamic {
            apply_dynamic(&mut config, dynamic);
        }
        config
    }
}

fn apply_dynamic(config: &mut HaConfig, dynamic: &Value) {
    let number = |key: &str| dynamic.get(key).and_then(Value::as_u64);
    if let Some(secs) = number("ttl") {
        config.ttl = Millis::from_secs(secs);
    }
    if let Some(secs) = number("loop_wait") {
        config.loop_wait = Millis::from_secs(secs);
    }
    if let Some(bytes) = number("maximum_lag_on_failover") {
        config.maximum_lag_on_failover = bytes;
    }
}

/// Names of all members.
pub fn names(nodes: usize) -> Vec<MemberName> {
    (1..=nodes).map(|number| MemberName(format!("n{number}"))).collect()
}

/// Index of a member.
pub fn index_of(name: &MemberName) -> Option<usize> {
    name.as_str().strip_prefix('n')?.parse::<usize>().ok()?.checked_sub(1)
}
