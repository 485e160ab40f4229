//! `/metrics`: Patroni's names for what Patroni measures, `mastiff_…` for the rest.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ha::fence::{Guard, Watchdog};
use crate::ha::types::Millis;
use crate::ha::view::Role;
use crate::http::parse;
use crate::http::status::Status;
use crate::http::view::{is_paused, visible_cluster, View, VipStatus};

/// What the agent counts about itself. One for the process: [`METRICS`].
#[derive(Debug, Default)]
pub struct Metrics {
    loop_last_ms: AtomicU64,
    loop_max_ms: AtomicU64,
    loops: AtomicU64,
    store_last_ms: AtomicU64,
    store_max_ms: AtomicU64,
    store_calls: AtomicU64,
    store_failures: AtomicU64,
    /// Resets of this box by its watchdog that are known of. Set at the start, by whoever reads the device's boot status.
    pub watchdog_resets: AtomicU64,
    /// Requests answered by the REST API.
    pub http_requests: AtomicU64,
    /// Connections closed for want of a slot.
    pub http_refused: AtomicU64,
    /// Connections closed because they were too slow, or idle while others waited.
    pub http_evicted: AtomicU64,
    /// Connections that could not be accepted (file descriptors).
    pub http_accept_errors: AtomicU64,
}

/// The process's counters.
pub static METRICS: Metrics = Metrics::new();

impl Metrics {
    /// All zero.
    #[must_use]
    pub const fn new() -> Metrics {
        Metrics {
            loop_last_ms: AtomicU64::new(0),
            loop_max_ms: AtomicU64::new(0),
            loops: AtomicU64::new(0),
            store_last_ms: AtomicU64::new(0),
            store_max_ms: AtomicU64::new(0),
            store_calls: AtomicU64::new(0),
            store_failures: AtomicU64::new(0),
            watchdog_resets: AtomicU64::new(0),
            http_requests: AtomicU64::new(0),
            http_refused: AtomicU64::new(0),
            http_evicted: AtomicU64::new(0),
            http_accept_errors: AtomicU64::new(0),
        }
    }

    /// One pass of the main loop: step and dispatch took this long.
    pub fn loop_took(&self, time: Millis) {
        self.loops.fetch_add(1, Ordering::Relaxed);
        self.loop_last_ms.store(time.0, Ordering::Relaxed);
        self.loop_max_ms.fetch_max(time.0, Ordering::Relaxed);
    }

    /// One call to the store: it took this long, with or without success.
    pub fn store_took(&self, time: Millis, success: bool) {
        self.store_calls.fetch_add(1, Ordering::Relaxed);
        self.store_failures.fetch_add(u64::from(!success), Ordering::Relaxed);
        self.store_last_ms.store(time.0, Ordering::Relaxed);
        self.store_max_ms.fetch_max(time.0, Ordering::Relaxed);
    }
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

struct Page {
    out: String,
    labels: String,
}

impl Page {
    fn put(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        let labels = &self.labels;
        // Writing to a String cannot fail.
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{labels} {value}\n");
    }

    /// One line for each virtual address; nothing where there are none.
    fn addresses<'v>(&mut self, name: &str, help: &str, values: impl Iterator<Item = (&'v VipStatus, bool)>) {
        for (index, (vip, value)) in values.enumerate() {
            if index == 0 {
                let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} gauge\n");
            }
            let labels = self.labels.trim_end_matches('}');
            let (address, role, value) = (vip.address, vip.role.word(), u8::from(value));
            let _ = writeln!(self.out, "{name}{labels},address=\"{address}\",role=\"{role}\"}} {value}");
        }
    }

    fn flag(&mut self, name: &str, help: &str, value: bool) {
        self.put(name, "gauge", help, u8::from(value));
    }
}

/// The text exposition.
#[must_use]
pub fn render(view: &View<'_>) -> String {
    let labels = format!("{{scope=\"{}\",name=\"{}\"}}", escape(&view.identity.scope), escape(&view.identity.name));
    let mut page = Page { out: String::with_capacity(8192), labels };
    let status = Status::of(view.snapshot(), view.is_stale());
    let padded: String = view.identity.version.split('.').map(|part| format!("{part:0>2}")).collect();
    page.put("patroni_version", "gauge", "Patroni semver without periods.", padded);
    postgres_part(&mut page, &status);
    cluster_part(&mut page, view, &status);
    own_part(&mut page, view);
    page.out
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn postgres_part(page: &mut Page, status: &Status<'_>) {
    let running = status.running;
    let primary = running.filter(|running| running.role == Role::Primary);
    let standby = running.filter(|running| running.role == Role::Standby);
    let started = running.map_or_else(|| "0".to_owned(), |running| parse::epoch_seconds(&running.started_at));
    page.flag("patroni_postgres_running", "Value is 1 if Postgres is running, 0 otherwise.", status.state == "running");
    page.put("patroni_postmaster_start_time", "gauge", "Epoch seconds since Postgres started.", started);
    page.flag("patroni_primary", "Value is 1 if this node is the leader, 0 otherwise.", status.role == "primary");
    let help = "Current location of the Postgres transaction log, 0 if this node is not the leader.";
    page.put("patroni_xlog_location", "counter", help, primary.map_or(0, |running| running.position.0));
    page.flag("patroni_standby_leader", "Value is 1 if this node is the standby_leader, 0 otherwise.", status.role == "standby_leader");
    page.flag("patroni_replica", "Value is 1 if this node is a replica, 0 otherwise.", status.role == "replica");
    page.flag("patroni_sync_standby", "Value is 1 if this node is a sync standby, 0 otherwise.", status.sync == Some("sync_standby"));
    let help = "Value is 1 if this node is a quorum standby, 0 otherwise.";
    page.flag("patroni_quorum_standby", help, status.sync == Some("quorum_standby"));
    let help = "Current location of the received Postgres transaction log, 0 if this node is not a replica.";
    page.put("patroni_xlog_received_location", "counter", help, standby.map_or(0, |_| status.received().0));
    let help = "Current location of the replayed Postgres transaction log, 0 if this node is not a replica.";
    page.put("patroni_xlog_replayed_location", "counter", help, standby.map_or(0, |_| status.replayed().0));
    let replayed = standby.and_then(|running| running.replayed_at.as_deref()).map_or_else(|| "0".to_owned(), parse::epoch_seconds);
    let help = "Current timestamp of the replayed Postgres transaction log, 0 if null.";
    page.put("patroni_xlog_replayed_timestamp", "gauge", help, replayed);
    let help = "Value is 1 if the Postgres xlog is paused, 0 otherwise.";
    page.flag("patroni_xlog_paused", help, standby.is_some_and(|running| running.replay_paused));
    if running.is_some() {
        let streaming = status.replication_state == Some("streaming");
        page.flag("patroni_postgres_streaming", "Value is 1 if Postgres is streaming, 0 otherwise.", streaming);
        let archive = status.replication_state == Some("in archive recovery");
        let help = "Value is 1 if Postgres is replicating from archive, 0 otherwise.";
        page.flag("patroni_postgres_in_archive_recovery", help, archive);
    }
    let help = "Version of Postgres (if running), 0 otherwise.";
    page.put("patroni_postgres_server_version", "gauge", help, running.map_or(0, |running| running.server_version));
}

fn cluster_part(page: &mut Page, view: &View<'_>, status: &Status<'_>) {
    let snapshot = view.snapshot();
    let unlocked = view.is_stale() || snapshot.and_then(visible_cluster).is_none_or(|cluster| cluster.leader.is_none());
    page.flag("patroni_cluster_unlocked", "Value is 1 if the cluster is unlocked, 0 if locked.", unlocked);
    let failsafe = snapshot.is_some_and(|snapshot| snapshot.failsafe_active);
    page.flag("patroni_failsafe_mode_is_active", "Value is 1 if failsafe mode is active, 0 if inactive.", failsafe);
    let timeline = status.running.map_or(0, |running| snapshot.and_then(|snapshot| snapshot.timeline).unwrap_or(running.timeline).0);
    page.put("patroni_postgres_timeline", "gauge", "Postgres timeline of this node (if running), 0 otherwise.", timeline);
    let help = "Epoch timestamp when DCS was last contacted successfully by Patroni.";
    page.put("patroni_dcs_last_seen", "gauge", help, view.current.dcs_last_seen());
    let pending = status.running.is_some_and(|running| !running.pending_restart.is_empty());
    page.flag("patroni_pending_restart", "Value is 1 if the node needs a restart, 0 otherwise.", pending);
    page.flag("patroni_is_paused", "Value is 1 if auto failover is disabled, 0 otherwise.", snapshot.is_some_and(is_paused));
    let labels = &page.labels;
    let _ = write!(
        page.out,
        "# HELP patroni_postgres_state Numeric representation of Postgres state.\n# Values: {STATES}\n# TYPE patroni_postgres_state gauge\n\
         patroni_postgres_state{labels} {}\n",
        state_number(status.state)
    );
}

const STATES: &str = "0=initdb, 1=initdb_failed, 2=custom_bootstrap, 3=custom_bootstrap_failed, 4=creating_replica, 5=running, 6=starting, \
                      7=bootstrap_starting, 8=start_failed, 9=restarting, 10=restart_failed, 11=stopping, 12=stopped, 13=stop_failed, 14=crashed";

/// Patroni's number for its word; -1 for `unknown`.
fn state_number(state: &str) -> i32 {
    match state {
        "initializing new cluster" => 0,
        "initdb failed" => 1,
        "running custom bootstrap script" => 2,
        "custom bootstrap failed" => 3,
        "creating replica" => 4,
        "running" => 5,
        "starting" => 6,
        "starting after custom bootstrap" => 7,
        "start failed" => 8,
        "restarting" => 9,
        "restart failed" => 10,
        "stopping" => 11,
        "stopped" => 12,
        "stop failed" => 13,
        "crashed" => 14,
        _ => -1,
    }
}

fn seconds(millis: u64) -> String {
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

fn own_part(page: &mut Page, view: &View<'_>) {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let left = view.snapshot().filter(|_| view.is_leader()).and_then(|snapshot| snapshot.lease_deadline);
    let left = left.map_or(0, |deadline| view.now.until(deadline).0);
    page.flag("mastiff_leader", "Value is 1 if this node may act as leader at this moment, 0 otherwise.", view.is_leader());
    page.put("mastiff_lease_seconds_left", "gauge", "Time until this node's lease ends, 0 if it is not the leader.", seconds(left));
    page.put("mastiff_snapshot_age_seconds", "gauge", "Age of the state that this page shows.", seconds(view.age().0));
    let metrics = &METRICS;
    page.put("mastiff_loops_total", "counter", "Passes of the main loop.", load(&metrics.loops));
    page.put("mastiff_loop_seconds", "gauge", "Time of the last pass of the main loop.", seconds(load(&metrics.loop_last_ms)));
    page.put("mastiff_loop_seconds_max", "gauge", "Longest pass of the main loop so far.", seconds(load(&metrics.loop_max_ms)));
    page.put("mastiff_store_calls_total", "counter", "Calls to the store.", load(&metrics.store_calls));
    page.put("mastiff_store_failures_total", "counter", "Calls to the store without success.", load(&metrics.store_failures));
    page.put("mastiff_store_seconds", "gauge", "Time of the last call to the store.", seconds(load(&metrics.store_last_ms)));
    page.put("mastiff_store_seconds_max", "gauge", "Longest call to the store so far.", seconds(load(&metrics.store_max_ms)));
    fences_part(page, view);
    page.put("mastiff_http_requests_total", "counter", "Requests answered by the REST API.", load(&metrics.http_requests));
    page.put("mastiff_http_refused_total", "counter", "Connections closed for want of a slot.", load(&metrics.http_refused));
    page.put("mastiff_http_evicted_total", "counter", "Slow or idle connections closed.", load(&metrics.http_evicted));
    page.put("mastiff_http_accept_errors_total", "counter", "Connections not accepted.", load(&metrics.http_accept_errors));
}

fn fences_part(page: &mut Page, view: &View<'_>) {
    // Of a hung main loop nobody knows what still stands.
    let snapshot = view.snapshot().filter(|_| !view.is_stale());
    let watchdog = snapshot.map(|snapshot| &snapshot.watchdog);
    let armed = matches!(watchdog, Some(Watchdog::Armed { .. }));
    page.flag("mastiff_watchdog_armed", "Value is 1 if the watchdog resets this node unless it is fed, 0 otherwise.", armed);
    let usable = matches!(watchdog, Some(Watchdog::Ready | Watchdog::Arming | Watchdog::Armed { .. }));
    page.flag("mastiff_watchdog_usable", "Value is 1 if there is a watchdog that works, 0 otherwise.", usable);
    let resets = METRICS.watchdog_resets.load(Ordering::Relaxed);
    page.put("mastiff_watchdog_resets_total", "counter", "Resets of this node by its watchdog.", resets);
    let guarded = matches!(snapshot.map(|snapshot| snapshot.guard), Some(Guard::Armed { until }) if view.now < until);
    page.flag("mastiff_guard_armed", "Value is 1 if the guard process ends Postgres when the lease is not renewed, 0 otherwise.", guarded);
    let vips = &view.current.vips;
    let held = vips.iter().map(|vip| (vip, vip.is_held(view.now, view.is_stale())));
    page.addresses("mastiff_vip_held", "Value is 1 if this node holds the virtual address, 0 otherwise.", held);
    let conflicts = vips.iter().map(|vip| (vip, vip.conflict.is_some()));
    page.addresses("mastiff_vip_conflict", "Value is 1 if somebody else answers for the virtual address, 0 otherwise.", conflicts);
}
