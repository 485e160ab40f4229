//! Starting and restarting PostgreSQL.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use tokio::time::{sleep, timeout, Instant};

use super::child::Spec;
use super::error::Error;
use super::files::{self, Contents};
use super::launch::Launch;
use super::plan::{Plan, Standing};
use super::process::{self, Found};
use super::stop::{self, still_running};
use super::tasks::off_loop;
use super::{postmaster, program, Shared};
use crate::clock;
use crate::config::types::PostgresConfig;
use crate::ha::action::{StartAs, StopMode};
use crate::ha::types::{Instant as BootInstant, Millis};

/// Pause between two looks at `postmaster.pid` while it starts.
const POLL: Duration = Duration::from_millis(4);
/// Processes of a dead postmaster get this long to leave before a start.
const ORPHAN_LIMIT: Duration = Duration::from_secs(10);

/// Writes the configuration and starts PostgreSQL; `Ok` when the postmaster lives.
pub(crate) async fn start(shared: &Shared, role: &StartAs, deadline: Millis) -> Result<(), Error> {
    permitted(role)?;
    let standing = Standing::of(role);
    start_as(shared, &shared.config(), &standing, Instant::now() + deadline.to_std(), until(role)).await.map(|_| ())
}

/// The last moment of a start, on the boot clock.
fn until(role: &StartAs) -> Option<BootInstant> {
    match role {
        StartAs::Primary(permit) => Some(permit.until()),
        StartAs::Standby(_) => None,
    }
}

/// Making PostgreSQL writable needs a lease that has not run out.
fn permitted(role: &StartAs) -> Result<(), Error> {
    in_time(until(role))
}

fn in_time(until: Option<BootInstant>) -> Result<(), Error> {
    match until {
        Some(until) if clock::now() >= until => Err(Error::NoPermit),
        _ => Ok(()),
    }
}

/// Stops PostgreSQL (fast) and starts it again.
pub(crate) async fn restart(shared: &Shared, role: &StartAs, deadline: Millis) -> Result<(), Error> {
    let end = Instant::now() + deadline.to_std();
    let left = || end.saturating_duration_since(Instant::now());
    match timeout(left(), stop::stop(shared, StopMode::Fast, true, None)).await {
        Ok(stopped) => stopped?,
        Err(_) => return Err(Error::Timeout { what: "the stop for a restart", after_ms: deadline.0 }),
    }
    permitted(role)?;
    start_as(shared, &shared.config(), &Standing::of(role), Instant::now() + left(), until(role)).await.map(|_| ())
}

/// Starts PostgreSQL in a standing, but not from `until` on. Returns the postmaster's process id.
pub(crate) async fn start_as(
    shared: &Shared,
    config: &PostgresConfig,
    standing: &Standing,
    end: Instant,
    until: Option<BootInstant>,
) -> Result<i32, Error> {
    shared.learn_parameters().await;
    let named = vacant(config)?.or_else(|| dead_socket_owner(config));
    if !process::clear_orphans(&config.data_dir, None, ORPHAN_LIMIT).await {
        let pid = postmaster::processes_in(&config.data_dir).first().copied().unwrap_or(0);
        return Err(still_running("start", pid, &config.data_dir));
    }
    let plan = Plan::new(shared, config, standing)?;
    for (name, raised) in &plan.raised {
        log::warn!("{name} is raised from {} to {}: the primary's WAL asks for it", raised.configured, raised.needed);
    }
    let args = plan.command_line(config);
    {
        let config = config.clone();
        off_loop(move || plan.write(&config)).await?;
    }
    in_time(until)?;
    shared.drop_link().await;
    let pid = launch(shared, config, &args, named, until)?;
    log::info!("postmaster pid={pid}");
    wait_until_alive(config, pid, end, &args).await?;
    shared.saw_postmaster(pid);
    Ok(pid)
}

/// Nobody runs in the directory. The process id that `postmaster.pid` still names is returned: it is a stranger, or a dead postmaster
/// that init has not yet collected, and PostgreSQL itself cannot tell these from a living one.
pub(crate) fn vacant(config: &PostgresConfig) -> Result<Option<i32>, Error> {
    match process::find(&config.data_dir).map_err(Error::file("read postmaster.pid in", &config.data_dir))? {
        Found::Stranger { pid } => Ok(Some(pid)),
        Found::Alive(postmaster) => Err(still_running("start", postmaster.pid(), &config.data_dir)),
        Found::Nobody => Ok(postmaster::read(&config.data_dir).ok().flatten().map(|file| file.pid)),
    }
}

/// The process id in a socket's lock file, if it is a postmaster that died and was not yet collected by init: `pg_rewind` and a copy take
/// `postmaster.pid` away, but not the lock of the socket.
fn dead_socket_owner(config: &PostgresConfig) -> Option<i32> {
    let directories = config.parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case("unix_socket_directories"));
    let directories = directories.map_or("/var/run/postgresql,/tmp", |(_, value)| value.as_str());
    let owner = |directory: &str| {
        let lock = Path::new(directory.trim()).join(format!(".s.PGSQL.{}.lock", config.port));
        std::fs::read_to_string(lock).ok()?.lines().next()?.trim().parse::<i32>().ok()
    };
    directories.split(',').filter_map(owner).find(|pid| postmaster::start_ticks(*pid).is_none())
}

fn launch(shared: &Shared, config: &PostgresConfig, args: &[String], named: Option<i32>, until: Option<BootInstant>) -> Result<i32, Error> {
    let program = resolved(config);
    // Relative paths mean the agent's directory.
    let inside =
        [&config.data_dir, &config.config_dir, &program].iter().all(|path| path.is_absolute()).then_some(config.data_dir.as_path());
    let ignore_pid = named.and_then(|pid| u32::try_from(pid).ok());
    let launch = Launch { launcher: &shared.launcher, program: &program, args, ignore_pid, inside, until };
    let pid = launch.run()?;
    i32::try_from(pid).map_err(|_| Error::Unusable(format!("the launcher reported the process id {pid}")))
}

/// The postmaster finds its other programs beside itself, so it is named by its path.
fn resolved(config: &PostgresConfig) -> std::path::PathBuf {
    let name = program(config, "postgres");
    if name.components().count() > 1 {
        return name;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(&name)).find(|path| path.is_file());
    found.unwrap_or(name)
}

/// Waits until the new postmaster has its lock, its sockets and its shared memory: the status line of `postmaster.pid`.
async fn wait_until_alive(config: &PostgresConfig, pid: i32, end: Instant, args: &[String]) -> Result<(), Error> {
    loop {
        let file = postmaster::read(&config.data_dir).ok().flatten();
        if file.is_some_and(|file| file.pid == pid && file.status.is_some()) {
            return Ok(());
        }
        if postmaster::start_ticks(pid).is_none() {
            return Err(early_end(config, args).await);
        }
        if Instant::now() >= end {
            return Err(Error::Timeout { what: "the start of PostgreSQL", after_ms: config.pg_ctl_timeout_ms });
        }
        sleep(POLL).await;
    }
}

/// Why a postmaster ended at once. Its own words went to the log; the usual reasons are looked for here.
async fn early_end(config: &PostgresConfig, args: &[String]) -> Error {
    if let Contents::Unreadable { reason } = files::classify(&config.data_dir) {
        return Error::Unusable(format!("PostgreSQL cannot start: {reason}"));
    }
    let program = resolved(config).display().to_string();
    let mut check = Spec::tool(&resolved(config), Vec::new());
    check.argv.extend(args.iter().cloned());
    check.argv.extend(["-C".to_owned(), "data_directory".to_owned()]);
    check.level = log::Level::Debug;
    if let Ok(Err(error)) = timeout(Duration::from_secs(5), check.succeed(|_| ())).await {
        return error;
    }
    for address in config.listen_addresses.split(',').map(str::trim).filter(|address| !address.is_empty()) {
        let host = if address == "*" { "0.0.0.0" } else { address };
        match TcpListener::bind((host, config.port)) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                return Error::Unusable(format!("PostgreSQL cannot start: port {} is in use on {address}", config.port));
            }
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
                return Error::Unusable(format!("PostgreSQL cannot start: this machine has no address {address}"));
            }
            _ => {}
        }
    }
    let how = "ended right after its start; its own messages are in the log above".to_owned();
    Error::Child { program, how, tail: Vec::new() }
}
