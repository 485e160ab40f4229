//! This box's PostgreSQL: observed over SQL and through `/proc`, changed by jobs that run children and send signals.
//!
//! [`Postgres`] is the handle that the shell works with. The parts below it are pure where they can be (`conf`, `controldata`,
//! `conninfo`, `files`, `params`, `pgpass`, `postmaster`); the others act.

mod basebackup;
mod bootstrap;
mod callback;
mod child;
pub mod conf;
pub mod conninfo;
pub mod controldata;
pub mod error;
pub mod files;
mod jobs;
pub mod launch;
pub mod leftovers;
mod observe;
pub mod params;
pub mod pgpass;
mod plan;
pub mod postmaster;
mod process;
mod query;
mod remove;
mod rewind;
mod start;
mod stop;
mod tasks;
mod upstream;
mod worker;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

pub use error::Error;

use crate::config::types::PostgresConfig;
use crate::ha::action::{Job, Task, Upstream};
use crate::ha::input::JobOutcome;
use crate::ha::view::{NodeView, UpstreamHistory};
use child::Spec;
use observe::Cache;
pub(crate) use worker::describe;
use worker::Link;

/// Progress of a job: bytes done, bytes in all if known.
pub type ProgressSender = mpsc::Sender<(u64, Option<u64>)>;

/// The PostgreSQL of this box. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Postgres {
    shared: Arc<Shared>,
}

impl Postgres {
    /// A handle on the PostgreSQL that the configuration describes. Touches nothing.
    #[must_use]
    pub fn new(config: PostgresConfig) -> Postgres {
        Postgres::with_launcher(config, launch::own_binary())
    }

    /// Like [`Postgres::new`], with another program in place of the agent's own binary for [`launch::ROLE`]. For tests.
    #[must_use]
    pub fn with_launcher(config: PostgresConfig, launcher: PathBuf) -> Postgres {
        Postgres { shared: Arc::new(Shared::new(config, launcher)) }
    }

    /// Takes a new configuration. Files and server follow with [`Task::ReloadPostgres`] or the next start.
    pub fn reconfigure(&self, config: PostgresConfig) {
        *lock(&self.shared.config) = Arc::new(config);
        self.shared.generation.fetch_add(1, Ordering::Relaxed);
        // User, password or address may be others.
        if let Ok(mut link) = self.shared.link.try_lock() {
            *link = None;
        }
    }

    /// Looks at PostgreSQL. Answers within `deadline`, whatever PostgreSQL does.
    pub async fn observe(&self, deadline: Duration) -> NodeView {
        observe::observe(&self.shared, deadline).await
    }

    /// Runs a job to its end, its own deadline or the cancellation. Children are killed with it.
    pub async fn run_job(&self, job: Job, progress: ProgressSender, cancel: watch::Receiver<bool>) -> JobOutcome {
        jobs::run(&self.shared, job, progress, cancel).await
    }

    /// Runs a short task.
    ///
    /// # Errors
    /// It could not be done; the sentence is for the log.
    pub async fn background(&self, task: Task) -> Result<(), Error> {
        tasks::run(&self.shared, task).await
    }

    /// Reads an upstream's role, timeline and history over SQL, within `deadline`.
    ///
    /// # Errors
    /// A sentence that says why it could not be read.
    pub async fn read_upstream(&self, upstream: &Upstream, deadline: Duration) -> Result<UpstreamHistory, String> {
        upstream::read(&self.shared.config(), upstream, deadline).await
    }

    /// Kills PostgreSQL: SIGQUIT now, SIGKILL to all that is left after `kill_after`. Needs no answer from PostgreSQL. To be called
    /// inside the runtime.
    pub fn fence(&self, kill_after: Duration) {
        stop::fence(&self.shared, kill_after);
    }

    /// Watches the postmaster of the moment, for ever; sends one message for each that ends.
    pub async fn postmaster_exits(&self, exits: mpsc::Sender<()>) {
        stop::watch_exits(&self.shared, &exits).await;
    }

    /// Runs the configured callback for an event, if there is one: `COMMAND… event role scope`. One at a time; a running one is
    /// killed first. To be called inside the runtime.
    pub fn run_callback(&self, event: &str, role: &str) {
        callback::run(&self.shared, event, role);
    }
}

/// What all parts of the PostgreSQL side share.
#[derive(Debug)]
pub(crate) struct Shared {
    config: Mutex<Arc<PostgresConfig>>,
    generation: AtomicU64,
    launcher: PathBuf,
    /// The heartbeat's connection.
    pub(crate) link: tokio::sync::Mutex<Option<Link>>,
    cache: Mutex<Cache>,
    /// Process id of the postmaster that was seen last.
    postmaster: watch::Sender<Option<i32>>,
    /// A job works on the data directory: processes in it are its own.
    pub(crate) busy: AtomicBool,
    callback: Mutex<Option<tokio::task::AbortHandle>>,
    /// Names of the server's parameters, once they were asked for.
    parameters: Mutex<Option<Arc<BTreeSet<String>>>>,
    warned: Mutex<BTreeSet<String>>,
}

impl Shared {
    fn new(config: PostgresConfig, launcher: PathBuf) -> Shared {
        Shared {
            config: Mutex::new(Arc::new(config)),
            generation: AtomicU64::new(0),
            launcher,
            link: tokio::sync::Mutex::new(None),
            cache: Mutex::new(Cache::default()),
            postmaster: watch::Sender::new(None),
            busy: AtomicBool::new(false),
            callback: Mutex::new(None),
            parameters: Mutex::new(None),
            warned: Mutex::new(BTreeSet::new()),
        }
    }

    /// The configuration of the moment.
    pub(crate) fn config(&self) -> Arc<PostgresConfig> {
        lock(&self.config).clone()
    }

    /// Counts the configurations that were taken.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Works on the cache. Never call it from within itself.
    pub(crate) fn cache<T>(&self, work: impl FnOnce(&mut Cache) -> T) -> T {
        work(&mut lock(&self.cache))
    }

    /// A living postmaster was seen.
    pub(crate) fn saw_postmaster(&self, pid: i32) {
        self.postmaster.send_if_modified(|known| known.replace(pid) != Some(pid));
    }

    /// Closes the heartbeat's connection, unless somebody is using it.
    pub(crate) async fn drop_link(&self) {
        let _ = tokio::time::timeout(Duration::from_millis(1), async { self.link.lock().await.take() }).await;
    }

    /// A program of PostgreSQL with arguments.
    pub(crate) fn tool(&self, name: &str, args: Vec<String>) -> Spec {
        Spec::tool(&program(&self.config(), name), args)
    }

    /// Writes a warning that is not worth repeating.
    pub(crate) fn warn_once(&self, text: &str) {
        if lock(&self.warned).insert(text.to_owned()) {
            log::warn!("{text}");
        }
    }

    /// The server's parameters, if they are known already.
    pub(crate) fn known_parameters(&self) -> Option<Arc<BTreeSet<String>>> {
        lock(&self.parameters).clone()
    }

    /// Asks the server for its parameters, once. A failure only means that unknown names are not found out.
    pub(crate) async fn learn_parameters(&self) {
        if self.known_parameters().is_some() {
            return;
        }
        let mut text = String::new();
        let mut spec = self.tool("postgres", vec!["--describe-config".to_owned()]);
        spec.level = log::Level::Trace;
        let collect = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        let run = tokio::time::timeout(Duration::from_secs(5), spec.succeed(collect)).await;
        if let Ok(Ok(())) = run {
            *lock(&self.parameters) = Some(Arc::new(params::parse_describe_config(&text)));
        }
    }
}

/// Where a program of PostgreSQL is: `bin_name`, `bin_dir`, else `PATH`.
/// The first of PostgreSQL's programs that is not where the configuration (or `PATH`) says. An agent without them could only fail later.
#[must_use]
pub fn missing_program(config: &PostgresConfig) -> Option<String> {
    ["postgres", "initdb", "pg_basebackup"].iter().find_map(|name| {
        let path = program(config, name);
        let found = if path.components().count() > 1 { is_executable(&path) } else { in_path(&path) };
        (!found).then(|| path.display().to_string())
    })
}

fn in_path(name: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| is_executable(&dir.join(name)))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

pub(crate) fn program(config: &PostgresConfig, name: &str) -> PathBuf {
    let name = config.bin_name.get(name).map_or(name, String::as_str);
    match &config.bin_dir {
        Some(dir) if !name.contains('/') => dir.join(name),
        _ => Path::new(name).to_owned(),
    }
}

/// A panic cannot happen while one of these is held (abort), so poison has no meaning.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
