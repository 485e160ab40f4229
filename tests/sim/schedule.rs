//! The fault schedule: a list of timed events, drawn from the seed, written as JSON lines, and cut down by the shrinker.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::model::rng::Rng;
use crate::options::Options;

/// What can go wrong, or be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// SIGSTOP of the agent, SIGCONT at the end.
    AgentStop,
    /// SIGSTOP of the agent just after it sent its next renewal; when it goes on, it finds the answer, and the store is out of reach for `arg`
    /// milliseconds.
    FrozenRenewal,
    /// SIGKILL of the agent, started again at the end.
    AgentKill,
    /// SIGKILL of agent and postmaster together.
    BothKill,
    /// Power cut, and return at the end.
    PowerCut,
    /// The postmaster crashes.
    PgCrash,
    /// The postmaster is silent: open sessions write on, nothing new is answered.
    PgHang,
    /// No way between the box and the store.
    StorePartition,
    /// Requests reach the store, answers do not come back.
    StoreRepliesLost,
    /// No way between two boxes.
    PeerPartition,
    /// One direction between two boxes.
    PeerOneWay,
    /// A box without any network.
    Isolation,
    /// The whole store is away; its leases are extended when it comes back.
    StoreOutage,
    /// The store elects a leader: leases are extended.
    StoreElection,
    /// Answers of the store take long.
    StoreSlow,
    /// The box is suspended.
    Suspend,
    /// The wall clock steps (`arg` milliseconds, sign in the low bit).
    WallStep,
    /// Replication to the box lags (`arg` milliseconds).
    WalLag,
    /// A big transaction (`arg` bytes).
    Bulk,
    /// The next promotion on the box takes long (`arg` milliseconds).
    SlowPromote,
    /// The next stop on the box takes long (`arg` milliseconds).
    SlowStop,
    /// The next rewind, clone or bootstrap on the box fails.
    ChildFails,
    /// An operator promotes a standby by hand, for a moment.
    StrayPromote,
    /// All boxes lose power at once.
    Blackout,
    /// The store loses the lease of the box early.
    LeaseLost,
    /// The store loses all its keys.
    StoreWiped,
    /// Operator: switchover; `peer` is the candidate.
    Switchover,
    /// Operator: failover to `peer`.
    Failover,
    /// Operator: restart of PostgreSQL.
    Restart,
    /// Operator: a change of the dynamic configuration (`arg` chooses).
    PatchConfig,
    /// SIGTERM of the agent, started again at the end.
    Terminate,
    /// SIGKILL of the guard.
    GuardKill,
    /// SIGSTOP of the guard, SIGCONT at the end.
    GuardStop,
    /// SIGKILL of the guard, and none can be started until the end.
    GuardBroken,
    /// SIGSTOP of agent and guard: their control group is frozen.
    GroupStop,
    /// SIGKILL of agent and guard, the agent is started again at the end.
    GroupKill,
    /// The watchdog disappears, and is there again at the end.
    DogVanishes,
    /// The watchdog cannot be opened until the end.
    DogRefuses,
    /// The interface of the virtual IP has no carrier.
    CarrierLost,
    /// The operator pauses the cluster, and resumes it at the end.
    Pause,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 40] = [
        Kind::AgentStop,
        Kind::FrozenRenewal,
        Kind::AgentKill,
        Kind::BothKill,
        Kind::PowerCut,
        Kind::PgCrash,
        Kind::PgHang,
        Kind::StorePartition,
        Kind::StoreRepliesLost,
        Kind::PeerPartition,
        Kind::PeerOneWay,
        Kind::Isolation,
        Kind::StoreOutage,
        Kind::StoreElection,
        Kind::StoreSlow,
        Kind::Suspend,
        Kind::WallStep,
        Kind::WalLag,
        Kind::Bulk,
        Kind::SlowPromote,
        Kind::SlowStop,
        Kind::ChildFails,
        Kind::StrayPromote,
        Kind::Blackout,
        Kind::LeaseLost,
        Kind::StoreWiped,
        Kind::Switchover,
        Kind::Failover,
        Kind::Restart,
        Kind::PatchConfig,
        Kind::Terminate,
        Kind::GuardKill,
        Kind::GuardStop,
        Kind::GuardBroken,
        Kind::GroupStop,
        Kind::GroupKill,
        Kind::DogVanishes,
        Kind::DogRefuses,
        Kind::CarrierLost,
        Kind::Pause,
    ];

    /// In how many of 1,000 runs it exists.
    pub fn presence(self) -> u64 {
        match self {
            // The store breaks its promises: a class of its own, where S1 allows what the lease rules cannot prevent.
            Kind::LeaseLost | Kind::StoreWiped => 20,
            Kind::StrayPromote => 60,
            Kind::Blackout => 150,
            Kind::PatchConfig | Kind::Restart => 200,
            Kind::GuardBroken | Kind::DogVanishes | Kind::DogRefuses => 150,
            Kind::Pause => 0,
            _ => 400,
        }
    }

    /// Longest duration in milliseconds; zero for events without one.
    fn longest(self, ttl: u64) -> u64 {
        match self {
            Kind::AgentStop | Kind::GuardStop | Kind::GroupStop => 90_000,
            Kind::FrozenRenewal => 2 * ttl,
            Kind::AgentKill | Kind::BothKill | Kind::Terminate | Kind::GroupKill => 30_000,
            Kind::GuardBroken | Kind::DogVanishes | Kind::DogRefuses | Kind::CarrierLost | Kind::Pause => 60_000,
            Kind::PowerCut | Kind::Blackout => 180_000,
            Kind::PgHang | Kind::StoreSlow => 60_000,
            Kind::Suspend => 600_000.min(8 * ttl),
            Kind::StorePartition
            | Kind::StoreRepliesLost
            | Kind::PeerPartition
            | Kind::PeerOneWay
            | Kind::Isolation
            | Kind::StoreOutage
            | Kind::WalLag => 4 * ttl,
            Kind::StrayPromote => 5_000,
            _ => 0,
        }
    }

    fn argument(self, rng: &mut Rng) -> u64 {
        match self {
            Kind::WallStep => rng.below(7_200_000),
            Kind::WalLag => rng.between(500, 30_000),
            Kind::FrozenRenewal => rng.between(5_000, 120_000),
            Kind::Bulk => rng.between(10_000, 8_000_000),
            Kind::SlowPromote | Kind::SlowStop => rng.between(1_000, 60_000),
            Kind::StoreSlow => rng.between(200, 6_000),
            Kind::PatchConfig => rng.below(8),
            _ => 0,
        }
    }
}

/// One entry of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// World time of its begin, milliseconds.
    pub at: u64,
    /// What.
    pub kind: Kind,
    /// Where.
    #[serde(default)]
    pub node: usize,
    /// The other side, where there is one.
    #[serde(default)]
    pub peer: usize,
    /// For how long, milliseconds.
    #[serde(default)]
    pub for_ms: u64,
    /// What else the kind needs.
    #[serde(default)]
    pub arg: u64,
}

/// Options and schedule: a run is a function of these.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// The options.
    pub options: Options,
    /// The faults, in order of time.
    pub faults: Vec<Fault>,
    /// The invariant that this scenario broke when it was recorded, if it did.
    pub broke: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    options: Options,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    broke: Option<String>,
}

/// The first minute belongs to the bootstrap.
const QUIET_START_MS: u64 = 60_000;

impl Scenario {
    /// Draws options and schedule of a seed.
    pub fn draw(seed: u64) -> Scenario {
        let options = Options::draw(seed);
        let faults = draw_faults(&options);
        Scenario { options, faults, broke: None }
    }

    /// Reads a file of JSON lines: options first, then one fault a line.
    pub fn read(path: &Path) -> Result<Scenario, String> {
        let place = path.display();
        let text = fs::read_to_string(path).map_err(|error| format!("{place}: {error}"))?;
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let (_, first) = lines.next().ok_or_else(|| format!("{place}: empty; expected a line with the options"))?;
        let header: Header = serde_json::from_str(first).map_err(|error| format!("{place}:1: options: {error}"))?;
        let mut faults = Vec::new();
        for (number, line) in lines {
            let fault: Fault = serde_json::from_str(line).map_err(|error| format!("{place}:{}: fault: {error}", number + 1))?;
            if fault.node >= header.options.nodes || fault.peer >= header.options.nodes {
                return Err(format!("{place}:{}: no such node", number + 1));
            }
            faults.push(fault);
        }
        Ok(Scenario { options: header.options, faults, broke: header.broke })
    }

    /// The file that [`Scenario::read`] reads.
    pub fn to_lines(&self) -> Result<String, String> {
        let header = Header { options: self.options.clone(), broke: self.broke.clone() };
        let mut text = serde_json::to_string(&header).map_err(|error| error.to_string())?;
        text.push('\n');
        for fault in &self.faults {
            text.push_str(&serde_json::to_string(fault).map_err(|error| error.to_string())?);
            text.push('\n');
        }
        Ok(text)
    }
}

fn draw_faults(options: &Options) -> Vec<Fault> {
    let mut rng = Rng::new(options.seed, "faults");
    let mut faults = Vec::new();
    if options.kinds.is_empty() {
        return faults;
    }
    let (mut at, end) = (QUIET_START_MS, options.safety_s * 1000);
    loop {
        // Half of the faults come in bursts: trouble rarely comes alone.
        let pause = options.fault_every_s * 1000;
        at += if rng.chance(300) { rng.below(3_000) } else { rng.below(2 * pause) };
        if at >= end {
            return faults;
        }
        let kind = rng.pick(&options.kinds);
        let node = rng.below(options.nodes as u64) as usize;
        let peer = (node + 1 + rng.below(options.nodes as u64 - 1) as usize) % options.nodes;
        let longest = kind.longest(options.ttl_s * 1000);
        // Short ones are as interesting as long ones.
        let for_ms = if rng.chance(400) { rng.below(longest / 10 + 1) } else { rng.below(longest + 1) };
        let arg = kind.argument(&mut rng);
        faults.push(Fault { at, kind, node, peer, for_ms, arg });
    }
}

/// Checks of the reader and writer.
pub fn self_test() -> Result<(), String> {
    let scenario = Scenario::draw(7);
    let path = std::env::temp_dir().join(format!("mastiff-sim-{}.jsonl", std::process::id()));
    fs::write(&path, scenario.to_lines()?).map_err(|error| error.to_string())?;
    let back = Scenario::read(&path);
    let _ = fs::remove_file(&path);
    if back? == scenario {
        Ok(())
    } else {
        Err("schedule: what was written is not what was read".to_owned())
    }
}
