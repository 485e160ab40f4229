//! The jobs of the core: one at a time, each ended by itself, by its deadline or by its cancellation.
//!
//! A job is one future. Cancellation drops it, and dropping it kills the children that it runs with all their descendants; what
//! PostgreSQL itself was told stays told.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::{sleep, timeout, Instant};

use super::child::Spec;
use super::error::Error;
use super::plan::{Plan, Standing};
use super::process::Postmaster;
use super::tasks::{self, off_loop};
use super::worker::{describe, Limits, Link};
use super::{basebackup, bootstrap, remove, rewind, start, stop, ProgressSender, Shared};
use crate::clock;
use crate::config::types::PostgresConfig;
use crate::ha::action::{Job, StopMode, Upstream};
use crate::ha::input::JobOutcome;
use crate::ha::lease::PromotePermit;
use crate::ha::types::Millis;

/// Pause between two looks at a promotion: clients wait for it.
const PROMOTE_POLL: Duration = Duration::from_millis(3);
/// How long the heartbeat's connection may take to show that it works.
const HEARTBEAT_LIMIT: Duration = Duration::from_millis(200);
/// A server under promotion that does not answer for so long hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long a reload is waited for before the observation is left to show it.
const RELOAD_LIMIT: Duration = Duration::from_secs(1);

/// Marks the time in which a job works on the data directory.
struct Busy<'a>(&'a Shared);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Relaxed);
    }
}

/// Runs a job; see [`super::Postgres::run_job`].
pub(crate) async fn run(shared: &Shared, job: Job, progress: ProgressSender, mut cancel: watch::Receiver<bool>) -> JobOutcome {
    shared.busy.store(true, Ordering::Relaxed);
    let busy = Busy(shared);
    let name = job.name();
    // A removal goes on once it has begun: nobody may find the directory half there and in use.
    let can_cancel = !matches!(job, Job::RemoveData { .. });
    let result = tokio::select! {
        biased;
        result = work(shared, job, &progress) => result,
        () = cancelled(&mut cancel), if can_cancel => Err(Error::Cancelled),
    };
    drop(busy);
    match result {
        Ok(()) => JobOutcome::Done,
        Err(Error::Cancelled) => {
            log::info!("{name}: cancelled");
            JobOutcome::Cancelled
        }
        Err(error @ (Error::NotEmpty { .. } | Error::NotBegun(_))) => JobOutcome::Refused(error.to_string()),
        Err(error) => JobOutcome::Failed(error.to_string()),
    }
}

async fn cancelled(cancel: &mut watch::Receiver<bool>) {
    if cancel.wait_for(|cancelled| *cancelled).await.is_err() {
        // Nobody is left who could cancel.
        std::future::pending::<()>().await;
    }
}

async fn work(shared: &Shared, job: Job, progress: &ProgressSender) -> Result<(), Error> {
    match job {
        Job::Bootstrap { deadline } => bootstrap::run(shared, deadline).await,
        Job::Clone { source } => basebackup::run(shared, source.as_ref(), progress).await,
        Job::RemoveData { reason } => remove::remove(shared, reason).await,
        Job::Start { role, deadline } => start::start(shared, &role, deadline).await,
        Job::Stop { mode, checkpoint_first, escalate_after } => {
            stop::stop(shared, mode, checkpoint_first, escalate_after.map(Millis::to_std)).await
        }
        Job::Promote { permit, deadline } => promote(shared, &permit, deadline).await,
        Job::Follow { upstream } => follow(shared, upstream).await,
        Job::Rewind { source, torn } => rewind::run(shared, &source, torn, progress).await,
        Job::Restart { role, deadline } => start::restart(shared, &role, deadline).await,
    }
}

/// Makes the standby writable. `Ok` when it is out of recovery.
async fn promote(shared: &Shared, permit: &PromotePermit, deadline: Millis) -> Result<(), Error> {
    let config = shared.config();
    let end = Instant::now() + deadline.to_std();
    pre_promote(&config, end).await?;
    let postmaster = tasks::postmaster(&config)?;
    let link = heartbeat(shared, &config, &postmaster, Duration::from_secs(3).min(deadline.to_std())).await?;
    if !in_recovery(&link, end).await? {
        return Ok(());
    }
    let trigger = config.data_dir.join("promote");
    if clock::now() >= permit.until() {
        return Err(Error::NoPermit);
    }
    // What pg_promote() does, without its polling in steps of 100 ms.
    std::fs::write(&trigger, "").map_err(Error::file("write", &trigger))?;
    if let Err(source) = postmaster.signal(Signal::USR1) {
        let _ = std::fs::remove_file(&trigger);
        return Err(Error::File { action: "signal PostgreSQL in", path: config.data_dir.clone(), source });
    }
    log::info!("promotion was requested");
    if let Err(error) = promoted(&link, &postmaster, deadline).await {
        // What was requested may still happen, minutes later and without the key. It must not: the core takes a failed promotion for none.
        log::warn!("the promotion went wrong, PostgreSQL is killed so that it cannot end later: {error}");
        stop::stop(shared, StopMode::Immediate, false, None).await?;
        return Err(error);
    }
    if let Ok(mut slot) = shared.link.try_lock() {
        *slot = Some(link);
    }
    Ok(())
}

/// Waits until the server is out of recovery. It first replays what it has received, which may take longer than any deadline: as long as it
/// answers it is waited for. The lease is watched by the core meanwhile.
async fn promoted(link: &Link, postmaster: &Postmaster, patience: Millis) -> Result<(), Error> {
    let mut say_at = Instant::now() + patience.to_std();
    while in_recovery(link, Instant::now() + ANSWER_LIMIT).await? {
        if postmaster.has_exited() {
            return Err(Error::Unusable("PostgreSQL ended during the promotion".to_owned()));
        }
        if Instant::now() >= say_at {
            log::warn!("the promotion takes longer than {patience}: received WAL is still being replayed");
            say_at = Instant::now() + patience.to_std();
        }
        sleep(PROMOTE_POLL).await;
    }
    Ok(())
}

/// The heartbeat's connection, which spares the time of a new one, or a new one.
async fn heartbeat(shared: &Shared, config: &PostgresConfig, postmaster: &Postmaster, limit: Duration) -> Result<Link, Error> {
    let known = shared.link.try_lock().ok().and_then(|mut slot| slot.take());
    if let Some(link) = known.filter(|link| link.postmaster_pid == postmaster.pid() && !link.client.is_closed()) {
        let asked = timeout(HEARTBEAT_LIMIT, link.client.simple_query("")).await;
        if matches!(asked, Ok(Ok(_))) {
            return Ok(link);
        }
    }
    tasks::connection(config, Limits::Short, limit).await
}

async fn pre_promote(config: &PostgresConfig, end: Instant) -> Result<(), Error> {
    let Some(command) = &config.pre_promote else { return Ok(()) };
    let left = end.saturating_duration_since(Instant::now());
    match timeout(left, Spec::command(command, []).succeed(|_| ())).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout { what: "pre_promote", after_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX) }),
    }
}

async fn in_recovery(link: &Link, end: Instant) -> Result<bool, Error> {
    let what = "the question for recovery";
    let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
    match timeout(left, link.client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[])).await {
        Err(_) => Err(Error::Timeout { what, after_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX) }),
        Ok(Err(error)) => Err(Error::Query { what, reason: describe(&error) }),
        Ok(Ok(row)) => row.try_get(0).map_err(|error| Error::Query { what, reason: error.to_string() }),
    }
}

/// Points a running standby elsewhere. `primary_conninfo` and the slot are taken up by a reload since PostgreSQL 13.
async fn follow(shared: &Shared, upstream: Option<Upstream>) -> Result<(), Error> {
    let config = shared.config();
    let postmaster = tasks::postmaster(&config)?;
    let name = upstream.as_ref().map_or("nobody", |upstream| upstream.name.as_str());
    log::info!("following {name}");
    let plan = Plan::new(shared, &config, &Standing::Standby(upstream.clone()))?;
    {
        let (plan, config) = (plan.clone(), config.clone());
        off_loop(move || plan.write(&config)).await?;
    }
    postmaster.signal(Signal::HUP).map_err(Error::file("signal PostgreSQL in", &config.data_dir))?;
    let wanted = match &plan.recovery {
        super::conf::Recovery::Standby(settings) => settings.get("primary_conninfo").cloned().unwrap_or_default(),
        _ => String::new(),
    };
    // If PostgreSQL does not answer now, the observation will tell; the reload is under way in any case.
    let _ = timeout(RELOAD_LIMIT, until_applied(&config, &wanted)).await;
    Ok(())
}

async fn until_applied(config: &PostgresConfig, wanted: &str) -> Result<(), Error> {
    let link = tasks::connection(config, Limits::Short, RELOAD_LIMIT).await?;
    let what = "reading primary_conninfo";
    loop {
        let row = link.client.query_one("SELECT pg_catalog.current_setting('primary_conninfo')", &[]).await;
        let row = row.map_err(|error| Error::Query { what, reason: describe(&error) })?;
        let effective: String = row.try_get(0).map_err(|error| Error::Query { what, reason: error.to_string() })?;
        if effective == wanted {
            return Ok(());
        }
        sleep(Duration::from_millis(10)).await;
    }
}
