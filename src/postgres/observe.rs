//! What is the state of this box's PostgreSQL? One look at the data directory and the process, one query if it runs.
//!
//! An answer never claims more than was seen: a server that lives and does not answer (stopped by a signal, access denied, all
//! connections in use) is [`PgState::Unresponsive`], and one whose postmaster is dead but whose backends still run is shutting down.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{timeout_at, Instant};

use super::conninfo::Conninfo;
use super::files::{self, Contents};
use super::postmaster::{self, Status};
use super::process::{self, Found, Postmaster};
use super::query::{self, Answer};
use super::worker::{self, Limits, Link, Refused};
use super::{controldata, params, Shared};
use crate::clock;
use crate::config::types::PostgresConfig;
use crate::ha::types::{Lsn, Timeline};
use crate::ha::view::{ControlData, HistoryEntry, NodeView, PgRunning, PgState, Role};

/// How long the list of settings that wait for a restart is believed, milliseconds.
const SETTINGS_MAX_AGE_MS: u64 = 30_000;

/// A process without a postmaster that is older than this is an orphan: 5 s in clock ticks.
const ORPHAN_AGE_TICKS: u64 = 500;

/// What rarely changes, kept between observations.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    history: Option<(Timeline, Vec<HistoryEntry>)>,
    pending: Option<Pending>,
    /// The last complaint about the connection, so that it is written once.
    complaint: Option<String>,
    /// What was learnt from the last answer of a running server.
    pub(crate) last: Option<LastAnswer>,
}

/// The parts of the last answer that other jobs build on.
#[derive(Clone, Debug)]
pub(crate) struct LastAnswer {
    pub(crate) pid: i32,
    pub(crate) role: Role,
    pub(crate) primary_conninfo: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PendingKey {
    pid: i32,
    loaded_at: String,
    generation: u64,
}

#[derive(Debug)]
struct Pending {
    key: PendingKey,
    at: crate::ha::types::Instant,
    settings: BTreeMap<String, (String, String)>,
    needs_reload: bool,
}

/// One observation; ends within `deadline`.
pub(crate) async fn observe(shared: &Shared, deadline: Duration) -> NodeView {
    let observed_at = clock::now();
    let pg = look(shared, Instant::now() + deadline).await;
    NodeView { observed_at, pg }
}

async fn look(shared: &Shared, end: Instant) -> PgState {
    let config = shared.config();
    let postmaster = match process::find(&config.data_dir) {
        Err(error) => {
            return PgState::Unreadable { reason: format!("cannot read postmaster.pid in {}: {error}", config.data_dir.display()) };
        }
        Ok(Found::Nobody | Found::Stranger { .. }) => return without_postmaster(shared, &config).await,
        Ok(Found::Alive(postmaster)) => postmaster,
    };
    if postmaster.file.standalone {
        return starting(&config, false);
    }
    shared.saw_postmaster(postmaster.pid());
    if postmaster.frozen {
        shared.complain("PostgreSQL is stopped by a signal (SIGSTOP): it accepts nobody");
        return unresponsive(&config);
    }
    // A server that says it is starting would only write the question into its log.
    let linked = || shared.link.try_lock().is_ok_and(|link| link.is_some());
    let state = match postmaster.file.status {
        None | Some(Status::Starting) => starting(&config, false),
        Some(Status::Stopping) if !linked() => starting(&config, true),
        _ => ask(shared, &config, &postmaster, end).await,
    };
    if !matches!(state, PgState::Running(_)) && postmaster.has_exited() {
        return without_postmaster(shared, &config).await;
    }
    state
}

/// The state of a data directory that has no postmaster.
async fn without_postmaster(shared: &Shared, config: &PostgresConfig) -> PgState {
    shared.drop_link().await;
    let orphans = postmaster::processes_in(&config.data_dir);
    if let Some(pid) = orphans.first() {
        end_old_orphans(shared, config);
        log::debug!("the postmaster is gone, {} of its processes are not yet, for example {pid}", orphans.len());
        return starting(config, true);
    }
    match files::classify(&config.data_dir) {
        Contents::Empty => PgState::Empty,
        Contents::Unreadable { reason } => PgState::Unreadable { reason },
        Contents::Cluster { .. } => match control(shared, config).await {
            Ok(control) => {
                let is_copy = config.data_dir.join("backup_label").exists();
                PgState::Stopped(ControlData { is_copy, ..control.data })
            }
            Err(reason) => PgState::Unreadable { reason },
        },
    }
}

/// Backends that outlived their postmaster (it died while no agent was there to see it) end now. Young processes may belong to a
/// server that somebody is just starting, and those of a running job are its own.
fn end_old_orphans(shared: &Shared, config: &PostgresConfig) {
    let limit = process::ticks_now().saturating_sub(ORPHAN_AGE_TICKS);
    if !shared.busy.load(Ordering::Relaxed) && process::kill_orphans(&config.data_dir, Some(limit)) > 0 {
        log::warn!("processes of a dead postmaster were killed");
    }
}

/// `pg_control`; by the server's own tool where its layout is not known here.
pub(crate) async fn control(shared: &Shared, config: &PostgresConfig) -> Result<controldata::ControlFile, String> {
    let error = match controldata::read(&config.data_dir) {
        Ok(control) => return Ok(control),
        Err(error) => error,
    };
    if !error.ask_pg_controldata() {
        return Err(error.to_string());
    }
    let mut text = String::new();
    let mut spec = shared.tool("pg_controldata", vec!["-D".to_owned(), config.data_dir.display().to_string()]);
    spec.level = log::Level::Trace;
    let collect = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    let run = tokio::time::timeout(Duration::from_secs(5), spec.succeed(collect)).await;
    match run {
        Ok(Ok(())) => controldata::parse_text(&text).map_err(|error| error.to_string()),
        Ok(Err(tool)) => Err(format!("{error}; {tool}")),
        Err(_) => Err(format!("{error}; pg_controldata did not end within 5 s")),
    }
}

fn starting(config: &PostgresConfig, stopping: bool) -> PgState {
    let control: Option<ControlData> = controldata::read(&config.data_dir).ok().map(|control| control.data);
    PgState::Starting { stopping, as_standby: asks_for_recovery(config), control }
}

fn unresponsive(config: &PostgresConfig) -> PgState {
    PgState::Unresponsive { as_standby: asks_for_recovery(config) }
}

/// A signal file is there. PostgreSQL removes it before it opens for writes.
fn asks_for_recovery(config: &PostgresConfig) -> bool {
    ["standby.signal", "recovery.signal"].iter().any(|name| config.data_dir.join(name).exists())
}

/// Asks the server; a connection that broke is replaced once.
async fn ask(shared: &Shared, config: &Arc<PostgresConfig>, postmaster: &Postmaster, end: Instant) -> PgState {
    for attempt in 0..2 {
        let Ok(answer) = timeout_at(end, ask_once(shared, config, postmaster, end)).await else {
            shared.complain("PostgreSQL gives no answer in time");
            return unresponsive(config);
        };
        match answer {
            Ok(running) => {
                shared.content();
                return PgState::Running(running);
            }
            Err(Failure { had_link: true, .. }) if attempt == 0 => {}
            Err(failure) => return judge(shared, config, postmaster, &failure.refused),
        }
    }
    unresponsive(config)
}

struct Failure {
    refused: Refused,
    had_link: bool,
}

/// What a refused connection or query says about the server.
fn judge(shared: &Shared, config: &PostgresConfig, postmaster: &Postmaster, refused: &Refused) -> PgState {
    // The file is newer than what was read before the attempt.
    let status = postmaster::read(&config.data_dir).ok().flatten().filter(|file| file.pid == postmaster.pid()).and_then(|file| file.status);
    match (refused, status) {
        (Refused::NotNow | Refused::NotListening(_), Some(Status::Stopping)) => starting(config, true),
        (Refused::NotNow, _) | (Refused::NotListening(_), None | Some(Status::Starting)) => starting(config, false),
        (refused, _) => {
            shared.complain(&format!("PostgreSQL runs, but the agent cannot ask it: {}", refused.reason()));
            unresponsive(config)
        }
    }
}

async fn ask_once(shared: &Shared, config: &Arc<PostgresConfig>, postmaster: &Postmaster, end: Instant) -> Result<PgRunning, Failure> {
    let mut slot = shared.link.lock().await;
    // Taken out: if this future is dropped by the deadline, the connection goes with it.
    let old = slot.take().filter(|link| link.postmaster_pid == postmaster.pid() && !link.client.is_closed());
    let had_link = old.is_some();
    let fail = |refused| Failure { refused, had_link };
    let mut link = match old {
        Some(link) => link,
        None => connect(config, postmaster, end).await.map_err(fail)?,
    };
    let answer = run_observation(&mut link, config).await.map_err(fail)?;
    let running = digest(shared, config, postmaster, &link, answer).await.map_err(fail)?;
    *slot = Some(link);
    Ok(running)
}

async fn connect(config: &PostgresConfig, postmaster: &Postmaster, end: Instant) -> Result<Link, Refused> {
    let left = end.saturating_duration_since(Instant::now());
    worker::connect_local(config, postmaster, Limits::Short, left).await
}

async fn run_observation(link: &mut Link, config: &PostgresConfig) -> Result<Answer, Refused> {
    let failed = |error: tokio_postgres::Error| worker::classify(&error);
    let statement = match &link.observation {
        Some(statement) => statement.clone(),
        None => {
            let major = files::version(&config.data_dir).ok().flatten().unwrap_or(0);
            let statement = link.client.prepare(&query::observe_sql(major)).await.map_err(failed)?;
            link.observation.insert(statement).clone()
        }
    };
    let row = link.client.query_one(&statement, &[]).await.map_err(failed)?;
    Answer::read(&row).map_err(Refused::Other)
}

/// Turns the answer into what the core wants to know, with what only the disk tells.
async fn digest(
    shared: &Shared,
    config: &Arc<PostgresConfig>,
    postmaster: &Postmaster,
    link: &Link,
    answer: Answer,
) -> Result<PgRunning, Refused> {
    let control = control(shared, config).await.map_err(Refused::Other)?;
    let timeline = answer.timeline.unwrap_or_else(|| standby_timeline(&config.data_dir, &answer, &control));
    let last = LastAnswer { pid: postmaster.pid(), role: answer.role, primary_conninfo: answer.primary_conninfo.clone() };
    shared.cache(|cache| cache.last = Some(last));
    let (pending_restart, needs_reload) = settings(shared, config, postmaster, link, &answer).await?;
    let position = answer.written.or_else(|| answer.received.max(answer.replayed)).unwrap_or_default();
    let upstream = (answer.role == Role::Standby).then(|| upstream_address(&answer.primary_conninfo)).flatten();
    Ok(PgRunning {
        role: answer.role,
        system_id: control.data.system_id,
        server_version: answer.version,
        timeline,
        position,
        received: answer.received,
        replayed: answer.replayed,
        replay_paused: answer.paused,
        replayed_at: answer.replayed_at,
        streaming: answer.streaming && answer.role == Role::Standby,
        upstream,
        started_at: answer.started_at,
        replication: answer.replication,
        slots: answer.slots,
        pending_restart,
        needs_reload,
        history: history(shared, &config.data_dir, timeline),
        synchronous_standby_names: answer.sync_names,
    })
}

/// `host:port` of a connection string, IPv6 addresses in brackets.
pub(crate) fn upstream_address(primary_conninfo: &str) -> Option<String> {
    Conninfo::parse(primary_conninfo).ok()?.endpoint().map(|endpoint| endpoint.to_string())
}

/// The newest timeline that a standby has WAL of. `pg_control` lags behind, and the WAL receiver forgets when it ends.
fn standby_timeline(data_dir: &Path, answer: &Answer, control: &controldata::ControlFile) -> Timeline {
    let known = control.data.timeline.max(control.data.min_recovery_timeline);
    match (answer.received_tli, answer.received.max(answer.replayed)) {
        (Some(received), _) => received.max(known),
        (None, Some(position)) => {
            wal_timeline(data_dir, position, control.settings.wal_segment_size).map_or(known, |found| found.max(known))
        }
        (None, None) => known,
    }
}

/// The newest timeline that has a WAL file holding the byte before `position`, and whose history is known.
fn wal_timeline(data_dir: &Path, position: Lsn, segment_size: u32) -> Option<Timeline> {
    let segment_size = u64::from(segment_size).max(1);
    let segment = position.0.checked_sub(1)? / segment_size;
    let per_id = 0x1_0000_0000_u64.checked_div(segment_size).filter(|count| *count > 0)?;
    let suffix = format!("{:08X}{:08X}", segment / per_id, segment % per_id);
    let wal = data_dir.join("pg_wal");
    std::fs::read_dir(&wal)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let timeline = name.to_str()?.strip_suffix(suffix.as_str()).filter(|head| head.len() == 8)?;
            u32::from_str_radix(timeline, 16).ok().map(Timeline)
        })
        .filter(|timeline| timeline.0 == 1 || wal.join(files::history_name(*timeline)).exists())
        .max()
}

/// The history of the timeline, read once; the last entry with the time of the file, as Patroni has it.
fn history(shared: &Shared, data_dir: &Path, timeline: Timeline) -> Vec<HistoryEntry> {
    let cached = shared.cache(|cache| cache.history.clone().filter(|(known, _)| *known == timeline));
    if let Some((_, entries)) = cached {
        return entries;
    }
    let Ok(mut entries) = files::read_history(data_dir, timeline) else { return Vec::new() };
    let path = data_dir.join("pg_wal").join(files::history_name(timeline));
    if let Some(last) = entries.last_mut().filter(|last| last.timeline.0 + 1 == timeline.0) {
        last.timestamp = std::fs::metadata(path).and_then(|file| file.modified()).ok().and_then(iso_time);
    }
    shared.cache(|cache| cache.history = Some((timeline, entries.clone())));
    entries
}

/// `2026-11-20T21:23:38.588275+00:00`.
fn iso_time(at: std::time::SystemTime) -> Option<String> {
    let at = time::OffsetDateTime::from(at);
    let format = time::format_description::parse_borrowed::<2>("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]+00:00");
    at.format(&format.ok()?).ok()
}

/// Settings that wait for a restart, and whether the files differ from the configuration. Looked at again when PostgreSQL or the agent
/// loaded a configuration, else now and then.
async fn settings(
    shared: &Shared,
    config: &Arc<PostgresConfig>,
    postmaster: &Postmaster,
    link: &Link,
    answer: &Answer,
) -> Result<(BTreeMap<String, (String, String)>, bool), Refused> {
    let key = PendingKey { pid: postmaster.pid(), loaded_at: answer.loaded_at.clone(), generation: shared.generation() };
    let now = clock::now();
    let cached = shared.cache(|cache| {
        let pending = cache.pending.as_ref()?;
        let fresh = pending.key == key && now.since(pending.at).0 < SETTINGS_MAX_AGE_MS;
        fresh.then(|| (pending.settings.clone(), pending.needs_reload))
    });
    if let Some(known) = cached {
        return Ok(known);
    }
    let settings = pending_restart(config, link, answer.version / 10_000).await?;
    let needs_reload = super::plan::differs(shared, config, answer.role, &answer.primary_conninfo);
    let result = (settings.clone(), needs_reload);
    shared.cache(|cache| cache.pending = Some(Pending { key, at: now, settings, needs_reload }));
    Ok(result)
}

async fn pending_restart(config: &PostgresConfig, link: &Link, major: u32) -> Result<BTreeMap<String, (String, String)>, Refused> {
    let (wanted, _) = params::for_server(config, major);
    let names: Vec<&str> = wanted.keys().map(String::as_str).collect();
    let rows = link.client.query(query::RESTART_SETTINGS, &[&names]).await.map_err(|error| worker::classify(&error))?;
    let mut pending = BTreeMap::new();
    for row in rows {
        let text = |column: usize| row.try_get::<_, Option<String>>(column).ok().flatten();
        let Some(name) = text(0) else { continue };
        let (setting, unit, kind) = (text(1).unwrap_or_default(), text(2), text(3).unwrap_or_default());
        let waits: bool = row.try_get(4).unwrap_or(false);
        let shown = text(5).unwrap_or_else(|| setting.clone());
        let differs = wanted.get(&name).is_some_and(|value| !query::same_setting(&setting, unit.as_deref(), &kind, value));
        if waits || differs {
            let new = wanted.get(&name).cloned().or_else(|| text(6)).unwrap_or_default();
            pending.insert(name, (shown, new));
        }
    }
    Ok(pending)
}

impl Shared {
    /// Writes a complaint about the connection, unless it is the same as before.
    pub(crate) fn complain(&self, text: &str) {
        let news =
            self.cache(|cache| (cache.complaint.as_deref() != Some(text)).then(|| cache.complaint = Some(text.to_owned())).is_some());
        if news {
            log::warn!("{text}");
        }
    }

    fn content(&self) {
        if self.cache(|cache| cache.complaint.take()).is_some() {
            log::info!("PostgreSQL answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{iso_time, upstream_address, wal_timeline};
    use crate::ha::types::{Lsn, Timeline};

    #[test]
    fn times_as_patroni_writes_them() {
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_micros(1_000_000_588_275);
        assert_eq!(iso_time(at).as_deref(), Some("1970-01-12T13:46:40.588275+00:00"));
    }

    #[test]
    fn address_of_a_conninfo() {
        assert_eq!(upstream_address("user=r host=10.0.0.1 port=5433"), Some("10.0.0.1:5433".to_owned()));
        assert_eq!(upstream_address("host=fe80::1"), Some("[fe80::1]:5432".to_owned()));
        assert_eq!(upstream_address(""), None);
    }

    #[test]
    fn timeline_of_wal_files() {
        let dir = tempfile::tempdir().unwrap();
        let wal = dir.path().join("pg_wal");
        std::fs::create_dir(&wal).unwrap();
        for name in ["000000010000000000000003", "000000020000000000000003", "000000030000000000000003", "000000030000000000000004"] {
            std::fs::write(wal.join(name), "").unwrap();
        }
        std::fs::write(wal.join("00000002.history"), "").unwrap();
        let size = 16 * 1024 * 1024;
        // The end of segment 3 is the first byte of segment 4.
        assert_eq!(wal_timeline(dir.path(), Lsn(0x400_0000), size), Some(Timeline(2)));
        assert_eq!(wal_timeline(dir.path(), Lsn(0x400_0001), size), None);
        assert_eq!(wal_timeline(dir.path(), Lsn(0), size), None);
    }
}
