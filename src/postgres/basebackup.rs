//! A copy of another member's data directory: `pg_basebackup`, or the configured methods in their order.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::child::Spec;
use super::conninfo::{self, Conninfo};
use super::error::Error;
use super::files::{self, Contents};
use super::plan::{Plan, Standing};
use super::rewind::{parse_progress, write_pgpass};
use super::tasks::off_loop;
use super::{conf, remove, ProgressSender, Shared};
use crate::config::types::PostgresConfig;
use crate::ha::action::Upstream;

/// Between two progress lines in the log.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// The methods' own words among a section's keys.
const OWN_KEYS: [&str; 5] = ["command", "keep_data", "no_leader", "no_master", "no_params"];

/// Makes the data directory a copy of `source`'s, ready to start as a standby.
pub(crate) async fn run(shared: &Shared, source: Option<&Upstream>, progress: &ProgressSender) -> Result<(), Error> {
    let config = shared.config();
    let was_empty = files::classify(&config.data_dir) == Contents::Empty;
    let connection = match source {
        Some(source) => Some(
            conninfo::connect_as(&config.replication, &source.conn_url)
                .map_err(|error| Error::Unusable(format!("cannot copy from {}: {error}", source.name)))?,
        ),
        None => None,
    };
    let has_password = match &connection {
        Some(connection) => write_pgpass(&config, connection).await?,
        None => false,
    };
    let run = Run { shared, config: &config, connection: connection.as_ref(), has_password, progress };
    let mut last = Error::Unusable("no replica method is configured that works here".to_owned());
    for method in methods(&config, source.is_some()) {
        let section = config.replica_methods.get(&method).cloned().unwrap_or_default();
        if !flag(&section, "keep_data") {
            make_room(&config, was_empty).await?;
        }
        match run.method(&method, &section).await {
            Ok(()) => {
                close_to_others(&config)?;
                log::info!("replica has been created using {method}");
                return own_files(shared, &config, source).await;
            }
            Err(error) => {
                log::error!("replica method {method}: {error}");
                last = error;
            }
        }
    }
    Err(last)
}

/// The configured methods; without a source only those that need none.
fn methods(config: &PostgresConfig, with_source: bool) -> Vec<String> {
    let all = match config.create_replica_methods.as_slice() {
        [] => vec!["basebackup".to_owned()],
        methods => methods.to_vec(),
    };
    let alone = |method: &String| {
        config.replica_methods.get(method).is_some_and(|section| flag(section, "no_leader") || flag(section, "no_master"))
    };
    all.into_iter().filter(|method| with_source || alone(method)).collect()
}

/// A method that failed left something: it is removed, but only if the directory was empty when this job began.
async fn make_room(config: &PostgresConfig, was_empty: bool) -> Result<(), Error> {
    if files::classify(&config.data_dir) == Contents::Empty {
        return Ok(());
    }
    if !was_empty {
        return Err(Error::NotEmpty { what: "copy", data_dir: config.data_dir.clone() });
    }
    let data_dir = config.data_dir.clone();
    off_loop(move || remove::wipe(&data_dir)).await
}

/// A directory that somebody else made keeps its mode through a copy, and PostgreSQL starts in none that others may look into.
pub(crate) fn close_to_others(config: &PostgresConfig) -> Result<(), Error> {
    let dir = &config.data_dir;
    let mode = std::fs::metadata(dir).map_err(Error::file("look at", dir))?.permissions().mode();
    if mode & 0o027 == 0 {
        return Ok(());
    }
    log::info!("the data directory {} gets mode 0700", dir.display());
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(Error::file("change the mode of", dir))
}

/// The copy carries its origin's files: ours take their place at once, so that nothing starts it as a primary.
async fn own_files(shared: &Shared, config: &PostgresConfig, source: Option<&Upstream>) -> Result<(), Error> {
    let (params, _) = super::params::for_server(config, super::plan::major(config)?);
    let plan_config = config.clone();
    off_loop(move || conf::restore_backups(&plan_config, &params).map_err(|error| Error::Unusable(error.to_string()))).await?;
    let plan = Plan::new(shared, config, &Standing::Standby(source.cloned()))?;
    let config = config.clone();
    off_loop(move || plan.write(&config)).await.map(|_| ())
}

struct Run<'a> {
    shared: &'a Shared,
    config: &'a PostgresConfig,
    connection: Option<&'a Conninfo>,
    has_password: bool,
    progress: &'a ProgressSender,
}

impl Run<'_> {
    async fn method(&self, name: &str, section: &Map<String, Value>) -> Result<(), Error> {
        match (name, self.connection) {
            ("basebackup", Some(connection)) => self.basebackup(connection).await,
            _ => self.custom(name, section).await,
        }
    }

    async fn basebackup(&self, connection: &Conninfo) -> Result<(), Error> {
        let options = &self.config.basebackup;
        let given = |names: &[&str]| options.iter().any(|option| names.iter().any(|name| option.starts_with(name)));
        let dsn = conninfo::for_command_line(connection, u32::MAX);
        let mut args = vec![format!("--pgdata={}", self.config.data_dir.display()), "-X".to_owned(), "stream".to_owned()];
        args.extend([format!("--dbname={dsn}"), "--progress".to_owned()]);
        if !given(&["--checkpoint", "-c"]) {
            args.push("--checkpoint=fast".to_owned());
        }
        args.extend(options.iter().filter(|option| !matches!(option.as_str(), "--progress" | "-P")).cloned());
        let mut spec = self.with_pgpass(self.shared.tool("pg_basebackup", args));
        // Its progress lines are many; what matters of them is logged below.
        spec.level = log::Level::Debug;
        let mut logged = Instant::now();
        let on_line = |line: &str| match parse_progress(line) {
            Some((done, total)) => {
                let _ = self.progress.try_send((done, Some(total)));
                if logged.elapsed() >= LOG_EVERY {
                    logged = Instant::now();
                    let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0);
                    log::info!("base backup: {} of {} MB ({percent}%)", done >> 20, total >> 20);
                }
            }
            None => log::info!("pg_basebackup: {line}"),
        };
        let finished = spec.run(on_line).await?;
        if finished.status.success() {
            return Ok(());
        }
        let tail = finished.tail.iter().filter(|line| parse_progress(line).is_none()).cloned().collect();
        Err(Error::Child { program: "pg_basebackup".to_owned(), how: finished.how(), tail })
    }

    async fn custom(&self, name: &str, section: &Map<String, Value>) -> Result<(), Error> {
        let command = match section.get("command").and_then(Value::as_str) {
            Some(command) => shlex::split(command),
            None => Some(vec![name.to_owned()]),
        };
        let words = command.filter(|words| !words.is_empty());
        let words = words.ok_or_else(|| Error::Unusable(format!("the command of the replica method {name} cannot be split into words")))?;
        let dsn = self.connection.map(|connection| conninfo::for_command_line(connection, u32::MAX)).unwrap_or_default();
        let args = arguments(self.config, section, &dsn);
        self.with_pgpass(Spec::command(&words, args)).succeed(|_| ()).await
    }

    fn with_pgpass(&self, spec: Spec) -> Spec {
        match self.has_password {
            true => spec.env("PGPASSFILE", self.config.pgpass.display().to_string()),
            false => spec,
        }
    }
}

/// `--key=value` for the section's own keys, then scope, role, data directory and connection string, unless `no_params`.
fn arguments(config: &PostgresConfig, section: &Map<String, Value>, dsn: &str) -> Vec<String> {
    let no_params = flag(section, "no_params");
    let skipped: &[&str] = if no_params { &OWN_KEYS } else { &["command"] };
    let ours = ["scope", "role", "datadir", "connstring"];
    let mut args: Vec<String> = section
        .iter()
        .filter(|(key, _)| !skipped.contains(&key.as_str()) && (no_params || !ours.contains(&key.as_str())))
        .map(|(key, value)| format!("--{key}={}", plain(value)))
        .collect();
    if !no_params {
        args.extend([
            format!("--scope={}", config.scope),
            "--role=replica".to_owned(),
            format!("--datadir={}", config.data_dir.display()),
            format!("--connstring={dsn}"),
        ]);
    }
    args
}

/// A value as Python's `str` would print it.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Null => "None".to_owned(),
        other => other.to_string(),
    }
}

/// A switch of a section, whatever type it was written in.
pub(crate) fn flag(section: &Map<String, Value>, name: &str) -> bool {
    match section.get(name) {
        Some(Value::Bool(value)) => *value,
        Some(Value::Number(number)) => number.as_i64() != Some(0),
        Some(Value::String(text)) => matches!(text.to_ascii_lowercase().as_str(), "true" | "yes" | "on" | "1"),
        _ => false,
    }
}
