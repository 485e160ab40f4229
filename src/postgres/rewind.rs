//! `pg_rewind`: brings a former primary back onto the timeline of another one, after crash recovery where it did not stop in order.

use std::collections::BTreeMap;

use super::child::Spec;
use super::conninfo::{self, Conninfo};
use super::error::Error;
use super::plan::{self, Plan, Standing};
use super::stop::still_running;
use super::tasks::off_loop;
use super::worker;
use super::{conf, controldata, files, pgpass, postmaster, program, upstream as member, ProgressSender, Shared};
use crate::config::types::PostgresConfig;
use crate::ha::action::Upstream;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(60);

/// What `pg_rewind --progress` says right before it begins to write into the directory (PostgreSQL 13 to 18).
const FIRST_WRITE: &str = "need to copy";

/// Whether the connected role may do a checkpoint: superusers, and from PostgreSQL 15 on members of `pg_checkpoint`.
const MAY_CHECKPOINT: &str = "SELECT 1 FROM pg_catalog.pg_roles u WHERE u.rolname = current_user AND (u.rolsuper OR EXISTS \
 (SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolname = 'pg_checkpoint' AND pg_catalog.pg_has_role(r.oid, 'USAGE')))";

/// Rewinds the stopped data directory from `source`.
pub(crate) async fn run(shared: &Shared, source: &Upstream, torn: bool, progress: &ProgressSender) -> Result<(), Error> {
    let not_begun = |error| Error::NotBegun(Box::new(error));
    let config = shared.config();
    let spec = prepare(shared, &config, source).await.map_err(not_begun)?;
    log::info!("running pg_rewind from {}", source.name);
    let mut began = false;
    let heard = |line: &str| {
        began |= line.contains(FIRST_WRITE);
        report(line, progress);
    };
    let finished = spec.run(heard).await.map_err(not_begun)?;
    log::info!("pg_rewind {}", finished.how());
    if !finished.status.success() {
        let error = Error::Child { program: "pg_rewind".to_owned(), how: finished.how(), tail: finished.tail };
        return Err(if began { error } else { not_begun(error) });
    }
    if torn && !began {
        let text = "pg_rewind finds nothing to do, but an earlier one left the data directory half-way: it cannot be mended";
        return Err(Error::Unusable(text.to_owned()));
    }
    own_files(shared, &config, source).await
}

/// Everything before `pg_rewind`, which may fail without a loss.
async fn prepare(shared: &Shared, config: &PostgresConfig, source: &Upstream) -> Result<Spec, Error> {
    if let Some(pid) = postmaster::processes_in(&config.data_dir).first() {
        return Err(still_running("pg_rewind", *pid, &config.data_dir));
    }
    let major = plan::major(config)?;
    crash_recovery(config).await?;
    let mut connection = conninfo::connect_as(conninfo::rewind_user(config), &source.conn_url)
        .map_err(|error| Error::Unusable(format!("cannot rewind from {}: {error}", source.name)))?;
    connection.set("dbname", "postgres");
    // Ours must be in place before, too: pg_rewind reads restore_command from them.
    own_files(shared, config, source).await?;
    checkpoint_source(&connection).await;
    let passfile = write_pgpass(config, &connection).await?;
    Ok(command(shared, config, &connection, major, passfile))
}

/// After the rewind the files are the other member's: ours take their place, so that nothing starts this directory as a primary.
async fn own_files(shared: &Shared, config: &PostgresConfig, source: &Upstream) -> Result<(), Error> {
    let plan = Plan::new(shared, config, &Standing::Standby(Some(source.clone())))?;
    let config = config.clone();
    off_loop(move || plan.write(&config)).await.map(|_| ())
}

/// `123456/234567 kB (52%) copied`.
fn report(line: &str, progress: &ProgressSender) {
    if let Some((done, total)) = parse_progress(line) {
        let _ = progress.try_send((done, Some(total)));
    }
}

/// Bytes done and bytes in all from a progress line of `pg_rewind` or `pg_basebackup`.
pub(crate) fn parse_progress(line: &str) -> Option<(u64, u64)> {
    let (numbers, rest) = line.trim().split_once(" kB")?;
    if !rest.trim_start().starts_with('(') {
        return None;
    }
    let (done, total) = numbers.split_once('/')?;
    let bytes = |text: &str| text.trim().parse::<u64>().ok()?.checked_mul(1024);
    Some((bytes(done)?, bytes(total)?))
}

fn command(shared: &Shared, config: &PostgresConfig, connection: &Conninfo, major: u32, passfile: bool) -> Spec {
    let mut args = vec!["--progress".to_owned()];
    // Until version 15 pg_rewind looks for postgresql.conf in the data directory alone.
    let in_data_dir = config.config_dir == config.data_dir && config.config_base_name == "postgresql";
    if has_restore_command(config) && major >= 13 && (in_data_dir || major >= 15) {
        args.push("--restore-target-wal".to_owned());
        if !in_data_dir {
            args.push(format!("--config-file={}", conf::Layout::new(config).conf.display()));
        }
    }
    args.extend(config.rewind_options.iter().cloned());
    args.extend(["-D".to_owned(), config.data_dir.display().to_string()]);
    args.push(format!("--source-server={}", conninfo::for_command_line(connection, major)));
    let spec = shared.tool("pg_rewind", args).env("PGOPTIONS", "-c statement_timeout=0");
    if passfile {
        spec.env("PGPASSFILE", config.pgpass.display().to_string())
    } else {
        spec
    }
}

fn has_restore_command(config: &PostgresConfig) -> bool {
    config.recovery_conf.get("restore_command").is_some_and(|command| !command.trim().is_empty())
}

/// Writes the password file for one connection; whether there is a password.
pub(crate) async fn write_pgpass(config: &PostgresConfig, connection: &Conninfo) -> Result<bool, Error> {
    let (path, connection) = (config.pgpass.clone(), connection.clone());
    off_loop(move || pgpass::write(&path, &connection).map_err(|error| Error::Unusable(error.to_string()))).await
}

/// The source's `pg_control` must name its new timeline, or `pg_rewind` finds nothing to do: after a promotion that takes a checkpoint.
/// The rewind user may lack the right; then the leader's own checkpoint has to do.
async fn checkpoint_source(connection: &Conninfo) {
    let Ok(settings) = member::settings(connection) else { return };
    let link = match worker::connect(&settings, CONNECT_TIMEOUT).await {
        Ok(link) => link,
        Err(refused) => {
            log::debug!("no checkpoint on the source of the rewind: {}", refused.reason());
            return;
        }
    };
    match link.client.query_opt(MAY_CHECKPOINT, &[]).await {
        Ok(Some(_)) => {}
        _ => return,
    }
    for sql in ["SET statement_timeout = 0", "CHECKPOINT"] {
        if let Err(error) = worker::execute(&link, "checkpoint on the source", sql, CHECKPOINT_LIMIT).await {
            log::debug!("{error}");
        }
    }
}

/// Single-user crash recovery of a directory that was not shut down in order: `pg_rewind` needs a clean end.
async fn crash_recovery(config: &PostgresConfig) -> Result<(), Error> {
    let control = controldata::read(&config.data_dir).map_err(|error| Error::Unusable(error.to_string()))?;
    if control.data.state.is_clean() {
        return Ok(());
    }
    log::info!("crash recovery in single-user mode, so that pg_rewind can work");
    let layout = conf::Layout::new(config);
    // A single-user server refuses to be a standby.
    for signal in [&layout.standby_signal, &layout.recovery_signal] {
        files::remove(signal).map_err(|error| Error::Unusable(error.to_string()))?;
    }
    let mut spec = Spec::tool(&program(config, "postgres"), single_user_args(config));
    if let Some(pid) = super::start::vacant(config)? {
        spec = spec.env("PG_GRANDPARENT_PID", pid.to_string());
    }
    let result = spec.succeed(|_| ()).await;
    // Whatever happened, this directory must not start as a primary by itself.
    files::write_atomic(&layout.standby_signal, b"", files::file_mode(&config.data_dir))
        .map_err(|error| Error::Unusable(error.to_string()))?;
    result
}

/// With the options of the last start, without archiving: what this WAL became is not decided yet.
fn single_user_args(config: &PostgresConfig) -> Vec<String> {
    let opts = std::fs::read_to_string(config.data_dir.join("postmaster.opts")).unwrap_or_default();
    let mut options = last_options(&opts);
    options.insert("archive_mode".to_owned(), "on".to_owned());
    options.insert("archive_command".to_owned(), "false".to_owned());
    options.entry("config_file".to_owned()).or_insert_with(|| conf::Layout::new(config).conf.display().to_string());
    let mut args = vec!["--single".to_owned(), "-D".to_owned(), config.data_dir.display().to_string()];
    for (name, value) in options {
        args.extend(["-c".to_owned(), format!("{name}={value}")]);
    }
    args.push("template1".to_owned());
    args
}

/// The `--name=value` words of `postmaster.opts`.
fn last_options(text: &str) -> BTreeMap<String, String> {
    text.split("\" \"")
        .filter_map(|word| word.trim().trim_matches('"').strip_prefix("--")?.split_once('='))
        .map(|(name, value)| (name.replace('-', "_"), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{last_options, parse_progress};

    #[test]
    fn progress_of_both_tools() {
        assert_eq!(parse_progress(" 24576/40960 kB (60%), 0/1 tablespace"), Some((24576 * 1024, 40960 * 1024)));
        assert_eq!(parse_progress("14339/14339 kB (100%) copied"), Some((14339 * 1024, 14339 * 1024)));
        assert_eq!(parse_progress("waiting for checkpoint"), None);
        assert_eq!(parse_progress("1/2 kB"), None);
    }

    #[test]
    fn options_of_the_last_start() {
        let text = "/bin/postgres \"-D\" \"/data\" \"--config-file=/data/postgresql.conf\" \"--port=5432\"\n";
        let options = last_options(text);
        assert_eq!(options["config_file"], "/data/postgresql.conf");
        assert_eq!(options["port"], "5432");
        assert_eq!(options.len(), 2);
    }
}
