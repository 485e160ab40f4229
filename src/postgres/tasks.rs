//! Short work beside the jobs: checkpoint, slots, reload.

use std::sync::Mutex;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::timeout;

use super::error::Error;
use super::plan::{standing_of_running, Plan, Standing};
use super::process::{self, Postmaster};
use super::worker::{self, describe, Limits, Link};
use super::{lock, Shared};
use crate::config::types::PostgresConfig;
use crate::ha::action::Task;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(3600);
const SLOT_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs one task.
pub(crate) async fn run(shared: &Shared, task: Task) -> Result<(), Error> {
    match task {
        Task::Checkpoint => checkpoint(shared, CHECKPOINT_TIMEOUT).await,
        Task::SyncSlots { create, drop } => sync_slots(shared, &create, &drop).await,
        Task::ReloadPostgres => reload(shared).await,
    }
}

/// The living postmaster, or an error.
pub(crate) fn postmaster(config: &PostgresConfig) -> Result<Postmaster, Error> {
    let postmaster = process::living(&config.data_dir).filter(|postmaster| !postmaster.file.standalone);
    postmaster.ok_or_else(|| Error::NotRunning { data_dir: config.data_dir.clone() })
}

/// A connection of its own, so that a long statement never delays an observation.
pub(crate) async fn connection(config: &PostgresConfig, limits: Limits, limit: Duration) -> Result<Link, Error> {
    let postmaster = postmaster(config)?;
    worker::connect_local(config, &postmaster, limits, limit)
        .await
        .map_err(|refused| Error::Connect { target: format!("port {}", config.port), reason: refused.reason() })
}

/// `CHECKPOINT`, at most `limit`; given up on, it goes on in the server.
pub(crate) async fn checkpoint(shared: &Shared, limit: Duration) -> Result<(), Error> {
    let link = connection(&shared.config(), Limits::Long, CONNECT_TIMEOUT.min(limit)).await?;
    worker::execute(&link, "CHECKPOINT", "CHECKPOINT", limit).await
}

async fn sync_slots(shared: &Shared, create: &[String], drop: &[String]) -> Result<(), Error> {
    if create.is_empty() && drop.is_empty() {
        return Ok(());
    }
    let link = connection(&shared.config(), Limits::Short, CONNECT_TIMEOUT).await?;
    let creating = "SELECT pg_catalog.pg_create_physical_replication_slot($1, true) \
         WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_name = $1)";
    let dropping = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
         WHERE slot_name = $1 AND slot_type = 'physical' AND NOT active";
    let mut result = Ok(());
    // One slot that cannot be made must not keep the others from being made.
    for (sql, names, what) in [(creating, create, "create"), (dropping, drop, "drop")] {
        for name in names {
            match slot(&link, sql, name).await {
                Ok(0) => {}
                Ok(_) => log::info!("{what} replication slot {name}: done"),
                Err(error) => result = result.and(Err(error)),
            }
        }
    }
    result
}

async fn slot(link: &Link, sql: &str, name: &str) -> Result<usize, Error> {
    // The type is named because `$1` alone could be text.
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), _); 1] = [(&name, tokio_postgres::types::Type::NAME)];
    match timeout(SLOT_TIMEOUT, link.client.query_typed(sql, &parameters)).await {
        Err(_) => Err(Error::Timeout { what: "replication slot", after_ms: 5000 }),
        Ok(Err(error)) => Err(Error::Query { what: "replication slot", reason: format!("{name}: {}", describe(&error)) }),
        Ok(Ok(rows)) => Ok(rows.len()),
    }
}

/// Writes the files for the role that PostgreSQL runs in and has it read them.
async fn reload(shared: &Shared) -> Result<(), Error> {
    let config = shared.config();
    let postmaster = postmaster(&config)?;
    let known = shared.cache(|cache| cache.last.clone()).filter(|last| last.pid == postmaster.pid());
    let standing = known.map_or(Standing::Keep, |last| standing_of_running(last.role, &last.primary_conninfo));
    if standing == Standing::Keep {
        return Err(Error::Unusable("PostgreSQL was not observed yet: its configuration is left as it is".to_owned()));
    }
    let plan = Plan::new(shared, &config, &standing)?;
    let changes = {
        let config = config.clone();
        off_loop(move || plan.write_for_reload(&config)).await?
    };
    log::info!("reloading PostgreSQL, {} changed", if changes.any() { "files" } else { "nothing" });
    postmaster.signal(Signal::HUP).map_err(Error::file("signal", &config.data_dir))
}

/// Runs file work beside the main loop. One piece at a time: work that was begun goes on when its job is cancelled, and the next job
/// must find it finished.
pub(crate) async fn off_loop<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    static ORDER: Mutex<()> = Mutex::new(());
    let in_order = move || {
        let _turn = lock(&ORDER);
        work()
    };
    match tokio::task::spawn_blocking(in_order).await {
        Ok(result) => result,
        Err(_) => Err(Error::Cancelled),
    }
}
