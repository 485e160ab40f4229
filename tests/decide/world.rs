//! A small world from a few words: `pg=primary leader=n2 dcs=good …`.

use std::collections::BTreeMap;

use mastiff::ha::config::{HaConfig, WatchdogMode};
use mastiff::ha::decide::JobKind;
use mastiff::ha::decide::{samples, BootstrapStep, Facts, Memory, Reinitialize, RunningJob, UpstreamAnswer};
use mastiff::ha::fence::Watchdog;
use mastiff::ha::input::RestartRequest;
use mastiff::ha::lease::LeaseClock;
use mastiff::ha::types::{Instant, JobId, LeaseId, Lsn, MemberName, Millis, Revision, SystemId, Timeline, WallTime};
use mastiff::ha::view::{
    ClusterView, ControlState, DcsHealth, FailoverRequest, HistoryEntry, Initialize, LeaderEntry, Member, NodeView, PeerStatus, PeersView,
    PgRunning, PgState, SlotRow, Tags, UpstreamHistory, Versioned,
};

/// Now, in every case.
const NOW: Instant = Instant(1_000_000);
/// The wall clock in every case.
const WALL: WallTime = WallTime(1_795_000_000_000);

/// What a case gives.
pub struct World {
    config: HaConfig,
    cluster: ClusterView,
    memory: Memory,
    pg: PgState,
}

impl Default for World {
    fn default() -> World {
        let mut cluster = ClusterView { initialize: Some(Initialize::Done(samples::SYSTEM_ID)), ..ClusterView::default() };
        cluster.config = Some(Versioned { revision: Revision(1), value: serde_json::json!({}) });
        let memory = Memory { dcs: DcsHealth::Good, wall: WALL, leaderless_since: Some(NOW - Millis(1_500)), ..Memory::default() };
        World { config: HaConfig::for_member("n1"), cluster, memory, pg: PgState::Empty }
    }
}

fn name(text: &str) -> MemberName {
    MemberName::from(text)
}

fn duration(text: &str) -> Millis {
    Millis::from_secs(text.trim_end_matches('s').parse().expect("seconds"))
}

/// `100/1`: position and timeline.
fn position(text: &str) -> (Lsn, Timeline) {
    let (lsn, timeline) = text.split_once('/').expect("lsn/timeline");
    (Lsn(lsn.parse().expect("lsn")), Timeline(timeline.parse().expect("timeline")))
}

impl World {
    /// Takes words like `leader=n2`.
    pub fn take(&mut self, words: &str) {
        for word in words.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            if !(self.take_postgres(key, value) || self.take_store(key, value) || self.take_memory(key, value) || self.take_config(key)) {
                panic!("unknown word {word}");
            }
        }
    }

    /// Asks with these facts.
    pub fn with<T>(&self, ask: impl FnOnce(&Facts<'_>) -> T) -> T {
        let node = NodeView { observed_at: NOW, pg: self.pg.clone() };
        ask(&Facts { config: &self.config, cluster: &self.cluster, node: &node, memory: &self.memory, now: NOW })
    }

    fn running(&mut self) -> &mut PgRunning {
        match &mut self.pg {
            PgState::Running(running) => running,
            other => panic!("not running: {other:?}"),
        }
    }

    fn take_postgres(&mut self, key: &str, value: &str) -> bool {
        match key {
            "pg" => self.pg = postgres(value),
            "at" => {
                let (lsn, timeline) = position(value);
                match &mut self.pg {
                    PgState::Running(running) => (running.position, running.timeline) = (lsn, timeline),
                    PgState::Stopped(control) => (control.checkpoint, control.timeline) = (lsn, timeline),
                    other => panic!("no position: {other:?}"),
                }
            }
            "follows" => self.running().upstream = Some(format!("{value}:5432")),
            "streaming" => self.running().streaming = true,
            "replay_paused" => {
                let running = self.running();
                running.replay_paused = true;
                running.replayed = Some(Lsn(1));
            }
            "branch" => {
                let (lsn, timeline) = position(value);
                self.running().history.push(HistoryEntry {
                    timeline,
                    lsn,
                    reason: "no reason".to_owned(),
                    timestamp: None,
                    new_leader: None,
                });
            }
            "is_copy" => match &mut self.pg {
                PgState::Stopped(control) => control.is_copy = true,
                other => panic!("not stopped: {other:?}"),
            },
            "slot" => {
                self.running().slots.insert(value.to_owned(), SlotRow { physical: true, ..SlotRow::default() });
            }
            "system_id" => match &mut self.pg {
                PgState::Running(running) => running.system_id = SystemId(value.parse().expect("number")),
                PgState::Stopped(control) => control.system_id = SystemId(value.parse().expect("number")),
                other => panic!("no identifier: {other:?}"),
            },
            _ => return false,
        }
        true
    }

    fn take_store(&mut self, key: &str, value: &str) -> bool {
        match key {
            "leader" if value == "-" => self.cluster.leader = None,
            "leader" => {
                self.cluster.leader = Some(LeaderEntry { name: name(value), lease: LeaseId(1), revision: Revision(9) });
                self.memory.leaderless_since = None;
                self.cluster.members.entry(name(value)).or_insert_with(|| member(value));
            }
            "members" => self.cluster.members.extend(value.split(',').map(|who| (name(who), member(who)))),
            "tagged" => self.tag_member(value),
            "initialize" => {
                self.cluster.initialize = match value {
                    "-" => None,
                    "claimed" => Some(Initialize::InProgress),
                    id => Some(Initialize::Done(SystemId(id.parse().expect("number")))),
                }
            }
            "no_config" => self.cluster.config = None,
            "paused" => self.cluster.config = Some(Versioned { revision: Revision(1), value: serde_json::json!({"pause": true}) }),
            "optime" => self.cluster.status.optime = Some(Lsn(value.parse().expect("lsn"))),
            "status_slot" => {
                self.cluster.status.slots.insert(value.to_owned(), Lsn(1));
            }
            "failover" => self.failover(value),
            "history" => {
                let (lsn, timeline) = position(value);
                let entry = HistoryEntry { timeline, lsn, reason: String::new(), timestamp: None, new_leader: None };
                self.cluster.history = Some(Versioned { revision: Revision(1), value: vec![entry] });
            }
            _ => return false,
        }
        true
    }

    /// `n2:clonefrom`, `n2:replicatefrom:n3`, `n2:checkpoint_pending`, `n2:no_carrier`.
    fn tag_member(&mut self, value: &str) {
        let mut parts = value.split(':');
        let who = name(parts.next().expect("member"));
        let member = self.cluster.members.get_mut(&who).expect("a known member");
        match parts.next().expect("tag") {
            "clonefrom" => member.tags.clonefrom = true,
            "checkpoint_pending" => member.checkpoint_pending = true,
            "no_carrier" => member.raw = serde_json::json!({ "no_carrier": true }),
            "replicatefrom" => member.tags.replicatefrom = parts.next().map(name),
            other => panic!("unknown tag {other}"),
        }
    }

    /// `n1>n2`, `>n2` (failover), `n1>` (switchover to anybody), `n1>n2@60s` (in a minute).
    fn failover(&mut self, value: &str) {
        let (value, at) = value.split_once('@').map_or((value, None), |(value, at)| (value, Some(at)));
        let (leader, candidate) = value.split_once('>').expect("leader>candidate");
        let who = |text: &str| (!text.is_empty()).then(|| name(text));
        let seconds = |text: &str| text.trim_end_matches('s').parse::<i64>().expect("seconds");
        let scheduled_at = at.map(|at| WallTime(WALL.0 + seconds(at) * 1000));
        let request = FailoverRequest { leader: who(leader), candidate: who(candidate), scheduled_at };
        self.cluster.failover = Some(Versioned { revision: Revision(4), value: request });
    }

    fn take_memory(&mut self, key: &str, value: &str) -> bool {
        let memory = &mut self.memory;
        match key {
            "lock" => memory.lock = true,
            "lease_left" => {
                let ttl = self.config.ttl;
                let clock = LeaseClock { id: LeaseId(1), ttl, sent_at: Instant(0) };
                let sent_at = Instant((NOW + duration(value)).0 - clock.deadline().0);
                memory.lease = Some(LeaseClock { sent_at, ..clock });
            }
            "dcs" => {
                memory.dcs = match value {
                    "good" => DcsHealth::Good,
                    "never" => DcsHealth::NeverSeen,
                    _ => DcsHealth::Unreachable { since: NOW - Millis(2_000) },
                }
            }
            "peers" => {
                memory.peers =
                    Some(PeersView { asked_at: NOW - Millis(500), peers: value.split(',').map(peer).collect(), ..PeersView::default() })
            }
            "old_peers" => {
                memory.peers =
                    Some(PeersView { asked_at: NOW - Millis(60_000), peers: value.split(',').map(peer).collect(), ..PeersView::default() })
            }
            "starting" => memory.peers.get_or_insert_default().starting.extend(value.split(',').map(name)),
            "upstream" => memory.upstream = Some(upstream(value)),
            "old_upstream" => memory.upstream = Some(UpstreamAnswer { asked_at: NOW - Millis(60_000), ..upstream(value) }),
            "upstream_failures" => memory.upstream_failures = value.parse().expect("number"),
            "handover" => memory.handover = true,
            "terminate" => memory.terminate = true,
            "promotion_open" => memory.promotion_open = true,
            "torn" => memory.torn = true,
            "acted_on" => memory.handed_over = Some(Revision(4)),
            "up" => memory.up_since = Some(NOW - duration(value)),
            "half_made" => memory.half_made = true,
            "rewound" => memory.rewound_at = Some(NOW - Millis(10_000)),
            "aimed_at" => memory.aimed_at = Some(format!("{value}:5432")),
            "rewind_failed" => memory.rewind_failed = true,
            "can_follow" => memory.can_follow = true,
            "crashed" => memory.crashed_at = Some(NOW - duration(value)),
            "start_failures" => memory.start_failures = value.parse().expect("number"),
            "unlocked" => memory.unlocked_since = Some(NOW - duration(value)),
            "leaderless" => memory.leaderless_since = Some(NOW - duration(value)),
            "quiet" => memory.stream_progress_at = Some(NOW - duration(value)),
            "race_later" => memory.race_not_before = NOW + Millis(5_000),
            "seen" => memory.members_seen.extend(value.split(',').map(|who| (name(who), NOW))),
            "bootstrap" => {
                memory.bootstrap = match value {
                    "claimed" => BootstrapStep::Claimed,
                    "done" => BootstrapStep::Done,
                    _ => BootstrapStep::Failed,
                }
            }
            "reinitialize" => memory.reinitialize = Some(Reinitialize { from_leader: value == "leader", wiped: false }),
            "watchdog" => {
                memory.watchdog = match value {
                    "unusable" => Watchdog::Unusable("there is none".to_owned()),
                    "armed" => Watchdog::Armed { timeout: Millis(10_000), stoppable: true },
                    other => panic!("unknown watchdog {other}"),
                }
            }
            "carrier_acted" => memory.carrier_acted_at = Some(NOW - duration(value)),
            "no_carrier" => memory.carrier_lost_at = Some(NOW - duration(value)),
            "restart" => memory.restart = Some(RestartRequest::default()),
            "job" => {
                memory.job = Some(RunningJob { id: JobId(1), name: "clone", kind: JobKind::Copy, started_at: NOW, cancelled: false });
            }
            _ => return false,
        }
        true
    }

    fn take_config(&mut self, key: &str) -> bool {
        let config = &mut self.config;
        match key {
            "nofailover" => config.tags.nofailover = true,
            "rewind" => config.use_pg_rewind = true,
            "wipe" => {
                config.remove_data_directory_on_rewind_failure = true;
                config.remove_data_directory_on_diverged_timelines = true;
            }
            "fail_over_at_once" => config.primary_start_timeout = Millis::ZERO,
            "check_timeline" => config.check_timeline = true,
            "no_bootstrap" => config.may_bootstrap = false,
            "no_slots" => config.use_slots = false,
            "vip" => {
                config.vip_roles.insert(mastiff::ha::fence::VipRole::Primary);
            }
            "watchdog_required" => config.watchdog.mode = WatchdogMode::Required,
            "watchdog_automatic" => config.watchdog.mode = WatchdogMode::Automatic,
            _ => return false,
        }
        true
    }
}

fn member(who: &str) -> Member {
    Member {
        conn_url: Some(format!("postgres://{who}:5432/postgres")),
        api_url: Some(format!("http://{who}:8008/patroni")),
        state: "running".to_owned(),
        role: "replica".to_owned(),
        ..Member::default()
    }
}

fn postgres(value: &str) -> PgState {
    let stopped = |state| PgState::Stopped(samples::control(state, 1, 100));
    match value {
        "empty" => PgState::Empty,
        "unreadable" => PgState::Unreadable { reason: "not ours".to_owned() },
        "unresponsive" => PgState::Unresponsive { as_standby: false },
        "unresponsive_standby" => PgState::Unresponsive { as_standby: true },
        "starting" => PgState::Starting { stopping: false, as_standby: false, control: None },
        "starting_standby" => PgState::Starting { stopping: false, as_standby: true, control: None },
        "stopped(shutdown)" => stopped(ControlState::ShutDown),
        "stopped(production)" => stopped(ControlState::InProduction),
        "stopped(recovery)" => stopped(ControlState::ShutDownInRecovery),
        "primary" => PgState::Running(samples::primary(1, 100)),
        "standby" => PgState::Running(samples::standby(1, 100)),
        other => panic!("unknown state {other}"),
    }
}

/// `n2:standby@100/1`, `n2:primary@100/1`, `n2:-`, `n2:nofailover@100/1`, `n2:priority2@100/1`, `n2:no_watchdog@100/1`.
fn peer(text: &str) -> (MemberName, Option<PeerStatus>) {
    let (who, what) = text.split_once(':').expect("name:status");
    let Some((kind, at)) = what.split_once('@') else { return (name(who), None) };
    let (lsn, timeline) = position(at);
    let mut tags = Tags::default();
    match kind {
        "nofailover" => tags.nofailover = true,
        "priority2" => tags.failover_priority = 2,
        _ => {}
    }
    let watchdog_failed = kind == "no_watchdog";
    let status = PeerStatus {
        watchdog_failed,
        in_recovery: kind != "primary",
        position: lsn,
        timeline: Some(timeline),
        tags,
        ..PeerStatus::default()
    };
    (name(who), Some(status))
}

/// `n2@900/2:500/1`: n2 stands at 900 on timeline 2, timeline 1 ended at 500; `n2!` could not be read; `…:from700` has WAL from 700 on.
fn upstream(text: &str) -> UpstreamAnswer {
    let asked_at = NOW - Millis(100);
    if let Some(who) = text.strip_suffix('!') {
        return UpstreamAnswer { asked_at, member: name(who), history: None };
    }
    let (who, rest) = text.split_once('@').expect("name@position");
    let mut parts = rest.split(':');
    let (lsn, timeline) = position(parts.next().expect("position"));
    let mut ends = BTreeMap::new();
    let mut oldest_wal = None;
    for part in parts {
        if let Some(from) = part.strip_prefix("from") {
            oldest_wal = Some(Lsn(from.parse().expect("lsn")));
        } else {
            let (end, ended) = position(part);
            ends.insert(ended, end);
        }
    }
    let history = UpstreamHistory {
        member: name(who),
        is_primary: true,
        system_id: samples::SYSTEM_ID,
        timeline,
        position: lsn,
        history: ends.into_iter().collect(),
        oldest_wal,
    };
    UpstreamAnswer { asked_at, member: name(who), history: Some(history) }
}
