//! What the core is configured with: validated, in the core's own types. Built by `crate::config` from files, environment and store.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::fence::VipRole;
use super::types::{MemberName, Millis};
use super::view::Tags;

/// The configuration that decisions depend on. Static and dynamic settings merged, limits applied.
#[derive(Clone, Debug, PartialEq)]
pub struct HaConfig {
    /// This member's name.
    pub me: MemberName,
    /// Lease length.
    pub ttl: Millis,
    /// Longest pause between two cycles.
    pub loop_wait: Millis,
    /// Budget for one attempt at the store or PostgreSQL.
    pub retry_timeout: Millis,
    /// A standby further behind than this (bytes) does not race.
    pub maximum_lag_on_failover: u64,
    /// Refuse to race on a timeline older than the cluster's.
    pub check_timeline: bool,
    /// Allowance for a crashed primary to come back before its key is given up; zero: fail over at once.
    pub primary_start_timeout: Millis,
    /// In synchronous mode: a stop that takes longer is finished with SIGKILL. Zero: unset.
    pub primary_stop_timeout: Millis,
    /// How long start, stop and restart may take.
    pub pg_ctl_timeout: Millis,
    /// `synchronous_mode`.
    pub synchronous_mode: SyncMode,
    /// `synchronous_mode_strict`.
    pub synchronous_mode_strict: bool,
    /// `synchronous_node_count`.
    pub synchronous_node_count: u32,
    /// `maximum_lag_on_syncnode`; `None`: off.
    pub maximum_lag_on_syncnode: Option<u64>,
    /// `failsafe_mode`.
    pub failsafe_mode: bool,
    /// `pg_rewind` is configured.
    pub use_pg_rewind: bool,
    /// A failed rewind may end in a fresh clone.
    pub remove_data_directory_on_rewind_failure: bool,
    /// Diverged timelines without a usable rewind may end in a fresh clone.
    pub remove_data_directory_on_diverged_timelines: bool,
    /// Replication slots for members.
    pub use_slots: bool,
    /// How long the slot of an absent member is kept.
    pub member_slots_ttl: Millis,
    /// Entries kept in `/history`; zero: all.
    pub max_timelines_history: usize,
    /// Own tags.
    pub tags: Tags,
    /// Own tags as they are published.
    pub tags_raw: Map<String, Value>,
    /// `conn_url` of the member key.
    pub conn_url: String,
    /// `api_url` of the member key.
    pub api_url: String,
    /// `proxy_url` of the member key.
    pub proxy_url: Option<String>,
    /// Patroni release that this agent matches; `version` of the member key.
    pub version: String,
    /// `agent` of the member key: `mastiff X.Y.Z`.
    pub agent: String,
    /// Initial dynamic configuration (`bootstrap.dcs` or the cache file), written where `/config` is missing.
    pub initial_dynamic: Option<Value>,
    /// The watchdog.
    pub watchdog: WatchdogConfig,
    /// A guard process stands behind the agent.
    pub guard: bool,
    /// Roles for which a virtual IP is configured.
    pub vip_roles: BTreeSet<VipRole>,
    /// This cluster is a standby cluster: its leader follows a remote primary.
    pub standby_cluster: bool,
    /// Replica methods that work without a leader exist.
    pub can_clone_without_leader: bool,
    /// A custom bootstrap method is configured (`bootstrap.method` other than `initdb`).
    pub custom_bootstrap: bool,
    /// A bootstrap section exists: this member may initialise a new cluster.
    pub may_bootstrap: bool,
}

impl HaConfig {
    /// How long the other members' answers are waited for.
    #[must_use]
    pub fn peers_deadline(&self) -> Millis {
        Millis((self.retry_timeout.0 / 2).clamp(500, 1_500))
    }

    /// Defaults as in Patroni, for tests and the simulator.
    #[must_use]
    pub fn for_member(name: &str) -> HaConfig {
        HaConfig {
            me: MemberName::from(name),
            ttl: Millis::from_secs(30),
            loop_wait: Millis::from_secs(10),
            retry_timeout: Millis::from_secs(10),
            maximum_lag_on_failover: 1_048_576,
            check_timeline: false,
            primary_start_timeout: Millis::from_secs(300),
            primary_stop_timeout: Millis::ZERO,
            pg_ctl_timeout: Millis::from_secs(60),
            synchronous_mode: SyncMode::Off,
            synchronous_mode_strict: false,
            synchronous_node_count: 1,
            maximum_lag_on_syncnode: None,
            failsafe_mode: false,
            use_pg_rewind: false,
            remove_data_directory_on_rewind_failure: false,
            remove_data_directory_on_diverged_timelines: false,
            use_slots: true,
            member_slots_ttl: Millis::from_secs(1800),
            max_timelines_history: 0,
            tags: Tags::default(),
            tags_raw: Map::new(),
            conn_url: format!("postgres://{name}:5432/postgres"),
            api_url: format!("http://{name}:8008/patroni"),
            proxy_url: None,
            version: "4.1.5".to_owned(),
            agent: concat!("mastiff ", env!("CARGO_PKG_VERSION")).to_owned(),
            initial_dynamic: None,
            watchdog: WatchdogConfig::default(),
            guard: false,
            vip_roles: BTreeSet::new(),
            standby_cluster: false,
            can_clone_without_leader: false,
            custom_bootstrap: false,
            may_bootstrap: true,
        }
    }
}

/// `synchronous_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// Asynchronous.
    Off,
    /// Priority (`FIRST n`).
    On,
    /// Quorum commit (`ANY n`).
    Quorum,
}

/// The part of the `watchdog` section that decisions depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchdogConfig {
    /// `mode`.
    pub mode: WatchdogMode,
    /// `hw_timeout`; `None`: chosen.
    pub hw_timeout: Option<Millis>,
    /// `safety_margin`: the device's timeout is at most `ttl` less this; `None` (-1 in the file): at most half of `ttl`.
    pub safety_margin: Option<Millis>,
}

impl Default for WatchdogConfig {
    fn default() -> WatchdogConfig {
        WatchdogConfig { mode: WatchdogMode::Off, hw_timeout: None, safety_margin: Some(Millis::from_secs(5)) }
    }
}

impl WatchdogConfig {
    /// The longest timeout that the device may have. A shorter one leaves more of the lease for renewals: the device is fed as long as it
    /// would bite before the lease deadline, so it need not cover the lease, and 10 s are plenty.
    #[must_use]
    pub fn limit(&self, ttl: Millis, loop_wait: Millis) -> Millis {
        let margin = self.safety_margin.map_or(Millis(ttl.0 / 2), |margin| ttl.saturating_sub(margin));
        let half = Millis(ttl.saturating_sub(loop_wait.min(Millis(ttl.0 / 3))).0 / 2);
        let longest = margin.min(half).min(Millis(10_000));
        self.hw_timeout.unwrap_or(longest).min(half).max(Millis(1_000))
    }
}

/// `watchdog.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchdogMode {
    /// Never used.
    Off,
    /// Used when it works.
    Automatic,
    /// Never lead without it.
    Required,
}
