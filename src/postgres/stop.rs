//! Ending PostgreSQL: in order, harder and harder, or at once.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::child::Spec;
use super::error::Error;
use super::process::{self, Found, Postmaster};
use super::{postmaster, tasks, Shared};
use crate::config::types::PostgresConfig;
use crate::ha::action::StopMode;

/// The longest checkpoint before a stop that nobody limited.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(300);
/// From SIGQUIT to SIGKILL.
const QUIT_LIMIT: Duration = Duration::from_secs(2);
/// How long killed processes may take to leave (they may be in an uninterruptible wait for a disk).
const GONE_LIMIT: Duration = Duration::from_secs(30);

/// Stops PostgreSQL. `Ok` only if no process of it is left.
pub(crate) async fn stop(shared: &Shared, mode: StopMode, checkpoint_first: bool, escalate_after: Option<Duration>) -> Result<(), Error> {
    let config = shared.config();
    let Some(postmaster) = find(&config)? else {
        return finish(shared, &config).await;
    };
    if mode == StopMode::Fast && !postmaster.is_stopping() && !postmaster.frozen {
        let limit = escalate_after.unwrap_or(CHECKPOINT_LIMIT);
        if checkpoint_first {
            if let Err(error) = tasks::checkpoint(shared, limit).await {
                log::warn!("no checkpoint before the stop: {error}");
            }
        }
        before_stop(&config, limit).await;
    }
    log::info!("stopping PostgreSQL (process {}, {mode:?})", postmaster.pid());
    let (signal, patience) = match mode {
        StopMode::Fast => (Signal::INT, escalate_after),
        StopMode::Immediate => (Signal::QUIT, Some(escalate_after.unwrap_or(QUIT_LIMIT))),
    };
    send(&postmaster, signal, &config)?;
    match patience {
        None => postmaster.exited().await.map_err(Error::file("wait for PostgreSQL in", &config.data_dir))?,
        Some(limit) if postmaster.exited_within(limit).await => {}
        Some(_) => escalate(&postmaster, mode, &config).await?,
    }
    finish(shared, &config).await
}

fn find(config: &PostgresConfig) -> Result<Option<Postmaster>, Error> {
    match process::find(&config.data_dir).map_err(Error::file("read postmaster.pid in", &config.data_dir))? {
        Found::Alive(postmaster) => Ok(Some(postmaster)),
        Found::Nobody | Found::Stranger { .. } => Ok(None),
    }
}

fn send(postmaster: &Postmaster, signal: Signal, config: &PostgresConfig) -> Result<(), Error> {
    postmaster.signal(signal).map_err(Error::file("signal PostgreSQL in", &config.data_dir))
}

async fn escalate(postmaster: &Postmaster, mode: StopMode, config: &PostgresConfig) -> Result<(), Error> {
    // A process that is stopped by a signal would not hear SIGQUIT.
    let frozen = process::living(&config.data_dir).is_some_and(|now| now.frozen);
    if mode == StopMode::Fast && !frozen {
        log::warn!("PostgreSQL did not stop in time: stopping it immediately");
        send(postmaster, Signal::QUIT, config)?;
        if postmaster.exited_within(QUIT_LIMIT).await {
            return Ok(());
        }
    }
    log::warn!("PostgreSQL (process {}) does not stop: killing it", postmaster.pid());
    send(postmaster, Signal::KILL, config)?;
    if postmaster.exited_within(GONE_LIMIT).await {
        return Ok(());
    }
    Err(still_running("ending the stop", postmaster.pid(), &config.data_dir))
}

/// The postmaster has ended; its children have too, or are made to.
async fn finish(shared: &Shared, config: &PostgresConfig) -> Result<(), Error> {
    shared.drop_link().await;
    if process::clear_orphans(&config.data_dir, None, GONE_LIMIT).await {
        return Ok(());
    }
    let pid = postmaster::processes_in(&config.data_dir).first().copied().unwrap_or(0);
    Err(still_running("ending the stop", pid, &config.data_dir))
}

/// The error for something that needs a stopped PostgreSQL.
pub(crate) fn still_running(what: &'static str, pid: i32, data_dir: &Path) -> Error {
    Error::StillRunning { what, pid: u32::try_from(pid).unwrap_or(0), data_dir: data_dir.to_owned() }
}

async fn before_stop(config: &PostgresConfig, limit: Duration) {
    let Some(command) = &config.before_stop else { return };
    let spec = Spec::command(command, []);
    match timeout(limit, spec.succeed(|_| ())).await {
        Ok(Ok(())) => {}
        // As in Patroni: the script's failure does not keep PostgreSQL from being stopped.
        Ok(Err(error)) => log::warn!("before_stop: {error}"),
        Err(_) => log::warn!("before_stop did not end in time and was killed"),
    }
}

/// See [`super::Postgres::fence`].
pub(crate) fn fence(shared: &Arc<Shared>, kill_after: Duration) {
    let config = shared.config();
    let postmaster = process::living(&config.data_dir);
    match &postmaster {
        Some(postmaster) => {
            log::warn!("killing PostgreSQL (process {}): the lease ends", postmaster.pid());
            if let Err(error) = postmaster.signal(Signal::QUIT) {
                log::error!("cannot signal PostgreSQL (process {}): {error}", postmaster.pid());
            }
            if postmaster.frozen {
                // A stopped process handles no SIGQUIT; its children would go on.
                let _ = postmaster.signal(Signal::KILL);
                process::kill_orphans(&config.data_dir, None);
            }
        }
        None => {
            process::kill_orphans(&config.data_dir, None);
        }
    }
    tokio::spawn(async move {
        if let Some(postmaster) = postmaster {
            if !postmaster.exited_within(kill_after).await {
                let _ = postmaster.signal(Signal::KILL);
            }
            let _ = postmaster.exited_within(GONE_LIMIT).await;
        }
        let now = process::ticks_now();
        if !process::clear_orphans(&config.data_dir, Some(now), GONE_LIMIT).await {
            log::error!("processes of PostgreSQL in {} do not end", config.data_dir.display());
        }
    });
}

/// See [`super::Postgres::postmaster_exits`].
pub(crate) async fn watch_exits(shared: &Shared, exits: &mpsc::Sender<()>) {
    shared.learn_parameters().await;
    let mut seen = shared.postmaster.subscribe();
    loop {
        let Some(pid) = *seen.borrow_and_update() else {
            match seen.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        };
        let data_dir = shared.config().data_dir.clone();
        if let Some(postmaster) = process::living(&data_dir).filter(|postmaster| postmaster.pid() == pid) {
            tokio::select! {
                result = postmaster.exited() => if let Err(error) = result {
                    // The observation notices the end too, only later.
                    log::warn!("cannot watch process {pid}: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                },
                _ = seen.changed() => continue,
            }
        }
        end_orphans(shared, &data_dir);
        // Forgotten, so that the next one is news even if it gets the same number.
        shared.postmaster.send_if_modified(|current| *current == Some(pid) && current.take().is_some());
        if exits.send(()).await.is_err() {
            return;
        }
    }
}

/// Backends of a dead postmaster may go on with what they do, even commit; nobody could tell them to stop. Unless a job works here,
/// which may have started the next postmaster already.
fn end_orphans(shared: &Shared, data_dir: &Path) {
    let now = process::ticks_now();
    if shared.busy.load(Ordering::Relaxed) {
        return;
    }
    let killed = process::kill_orphans(data_dir, Some(now));
    if killed > 0 {
        log::warn!("the postmaster has died: {killed} of its processes were killed");
    }
}
