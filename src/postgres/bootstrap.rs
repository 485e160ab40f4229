//! A new cluster: `initdb` or the configured method, the first start, the roles, `post_bootstrap`.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::{sleep, Instant};

use super::basebackup::{close_to_others, flag, plain};
use super::child::Spec;
use super::conninfo;
use super::error::Error;
use super::files::{self, Contents};
use super::plan::Standing;
use super::postmaster::Status;
use super::process;
use super::query;
use super::rewind::write_pgpass;
use super::start::start_as;
use super::stop;
use super::tasks::off_loop;
use super::worker::{self, Limits, Link, Refused};
use super::{conf, params, plan, Shared};
use crate::config::types::{PgUser, PostgresConfig};
use crate::ha::action::StopMode;
use crate::ha::types::Millis;

/// Between two attempts to connect while PostgreSQL starts.
const POLL: Duration = Duration::from_millis(4);
/// Keys of a method's section that are not arguments.
const RESERVED: [&str; 6] = ["command", "no_params", "keep_existing_recovery_conf", "recovery_conf", "scope", "datadir"];

/// Makes a new cluster in the empty data directory and leaves it running as a primary.
pub(crate) async fn run(shared: &Shared, deadline: Millis) -> Result<(), Error> {
    match tokio::time::timeout(deadline.to_std(), create(shared, Instant::now() + deadline.to_std())).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout { what: "the bootstrap", after_ms: deadline.0 }),
    }
}

async fn create(shared: &Shared, end: Instant) -> Result<(), Error> {
    let config = shared.config();
    if files::classify(&config.data_dir) != Contents::Empty {
        return Err(Error::NotEmpty { what: "bootstrap", data_dir: config.data_dir.clone() });
    }
    match custom_command(&config)? {
        Some(words) => custom(shared, &config, &words, end).await,
        None => initdb(shared, &config, end).await,
    }
}

/// The words of the custom method's command; `None`: `initdb`.
fn custom_command(config: &PostgresConfig) -> Result<Option<Vec<String>>, Error> {
    let method = config.bootstrap.method.as_str();
    if matches!(method, "" | "initdb") {
        return Ok(None);
    }
    let Some(command) = config.bootstrap.custom.get("command").and_then(Value::as_str) else { return Ok(None) };
    match shlex::split(command).filter(|words| !words.is_empty()) {
        Some(words) => Ok(Some(words)),
        None => Err(Error::Unusable(format!("the command of the bootstrap method {method} cannot be split into words"))),
    }
}

async fn initdb(shared: &Shared, config: &PostgresConfig, end: Instant) -> Result<(), Error> {
    let mut args = vec![format!("--pgdata={}", config.data_dir.display())];
    args.extend(config.bootstrap.initdb.iter().cloned());
    if !config.superuser.username.is_empty() {
        args.push(format!("--username={}", config.superuser.username));
    }
    let pwfile = config.superuser.password.as_ref().map(|password| PasswordFile::new(&password.0)).transpose()?;
    if let Some(file) = &pwfile {
        args.push(format!("--pwfile={}", file.0.display()));
    }
    let spec = shared.tool("initdb", args);
    // The list of the server's parameters costs nothing beside initdb.
    let (made, ()) = tokio::join!(spec.succeed(|_| ()), shared.learn_parameters());
    made?;
    drop(pwfile);
    let (parameters, _) = params::for_server(config, plan::major(config)?);
    let lines = config.bootstrap.pg_hba.clone();
    let for_hba = config.clone();
    off_loop(move || conf::append_hba(&for_hba, &parameters, &lines).map_err(|error| Error::Unusable(error.to_string()))).await?;
    start_as(shared, config, &Standing::Primary, end, None).await?;
    let link = connect(config, end).await?;
    finish(config, &link).await
}

/// Roles, then the script, on a primary that accepts connections.
async fn finish(config: &PostgresConfig, link: &Link) -> Result<(), Error> {
    let limit = Duration::from_secs(30);
    if config.superuser.password.is_some() && !config.superuser.username.is_empty() {
        let sql = format!("{}{}", query::QUIET, role_sql(&config.superuser, "SUPERUSER"));
        worker::execute(link, "setting the superuser's password", &sql, limit).await?;
    }
    post_bootstrap(config).await?;
    worker::execute(link, "creating the roles", &roles(config), limit).await
}

fn roles(config: &PostgresConfig) -> String {
    let mut sql = query::QUIET.to_owned();
    if !config.replication.username.is_empty() && config.replication.username != config.superuser.username {
        sql.push_str(&role_sql(&config.replication, "REPLICATION"));
    }
    if let Some(rewind) = config.rewind.as_ref().filter(|rewind| !rewind.username.is_empty()) {
        if rewind.username != config.superuser.username {
            // The replication user may be the same one.
            let options = if rewind.username == config.replication.username { "REPLICATION" } else { "" };
            sql.push_str(&role_sql(rewind, options));
            sql.push_str(&query::rewind_grants(&rewind.username));
        }
    }
    sql
}

fn role_sql(user: &PgUser, options: &str) -> String {
    query::role(&user.username, user.password.as_ref().map(|password| password.0.as_str()), options)
}

/// Waits until the new server accepts connections.
async fn connect(config: &PostgresConfig, end: Instant) -> Result<Link, Error> {
    loop {
        let Some(postmaster) = process::living(&config.data_dir) else {
            return Err(Error::Unusable("PostgreSQL ended during the bootstrap; its own messages are in the log above".to_owned()));
        };
        let left = end.saturating_duration_since(Instant::now());
        if !matches!(postmaster.file.status, Some(Status::Ready)) && !left.is_zero() {
            sleep(POLL).await;
            continue;
        }
        let refused = match worker::connect_local(config, &postmaster, Limits::Long, left).await {
            Ok(link) => return Ok(link),
            Err(refused) => refused,
        };
        let hopeless = matches!(refused, Refused::Denied(_) | Refused::Other(_)) && !postmaster.has_exited();
        if hopeless || left.is_zero() {
            return Err(Error::Connect { target: format!("port {}", config.port), reason: refused.reason() });
        }
        sleep(POLL).await;
    }
}

/// `post_bootstrap`: the connection string without its password is the last argument, the password is in `PGPASSFILE`.
async fn post_bootstrap(config: &PostgresConfig) -> Result<(), Error> {
    let Some(command) = &config.bootstrap.post_bootstrap else { return Ok(()) };
    let connection = conninfo::local(config, &config.superuser, false);
    let has_password = write_pgpass(config, &connection).await?;
    let dsn = conninfo::for_command_line(&connection, u32::MAX);
    let mut spec = Spec::command(command, [dsn]).env("PGOPTIONS", "-c synchronous_commit=local -c statement_timeout=0");
    if has_password {
        spec = spec.env("PGPASSFILE", config.pgpass.display().to_string());
    }
    spec.succeed(|_| ()).await
}

/// A restore by the operator's command.
async fn custom(shared: &Shared, config: &PostgresConfig, words: &[String], end: Instant) -> Result<(), Error> {
    let section = &config.bootstrap.custom;
    log::info!("Running custom bootstrap script: {}", words.first().map_or("", String::as_str));
    Spec::command(words, custom_arguments(config, section)).succeed(|_| ()).await?;
    close_to_others(config)?;
    if !matches!(files::classify(&config.data_dir), Contents::Cluster { .. }) {
        return Err(Error::Unusable(format!("the bootstrap method left no PostgreSQL cluster in {}", config.data_dir.display())));
    }
    let standing = custom_standing(section);
    // The restored cluster has its own passwords and access rules: ours hold until the roles are set.
    let mut open = config.clone();
    open.pg_hba = Some(bootstrap_hba(config));
    start_as(shared, &open, &standing, end, None).await?;
    let link = connect(&open, end).await?;
    out_of_recovery(&link, end).await?;
    finish(config, &link).await?;
    drop(link);
    settle(shared, config, end).await
}

fn custom_arguments(config: &PostgresConfig, section: &Map<String, Value>) -> Vec<String> {
    let mut args = Vec::new();
    if !flag(section, "no_params") {
        args.extend([format!("--scope={}", config.scope), format!("--datadir={}", config.data_dir.display())]);
    }
    let own = section.iter().filter(|(key, _)| !RESERVED.contains(&key.as_str()));
    args.extend(own.map(|(key, value)| format!("--{key}={}", plain(value))));
    args
}

fn custom_standing(section: &Map<String, Value>) -> Standing {
    match section.get("recovery_conf").and_then(Value::as_object) {
        Some(settings) => Standing::Targeted(settings.iter().map(|(name, value)| (name.clone(), plain(value))).collect()),
        None if flag(section, "keep_existing_recovery_conf") => Standing::Keep,
        None => Standing::Primary,
    }
}

/// Lines that let the agent in without a password from this box, and nobody else.
fn bootstrap_hba(config: &PostgresConfig) -> Vec<String> {
    let mut addresses = vec![std::net::IpAddr::from([127, 0, 0, 1]), std::net::IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
    addresses.extend(config.listen_addresses.split(',').filter_map(|address| address.trim().parse::<std::net::IpAddr>().ok()));
    let text = conf::render_bootstrap_hba(&config.replication.username, &config.superuser.username, &addresses);
    text.strip_prefix(conf::HEADER).unwrap_or(&text).lines().map(str::to_owned).collect()
}

async fn out_of_recovery(link: &Link, end: Instant) -> Result<(), Error> {
    let what = "the end of the restore's recovery";
    loop {
        let row = link.client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await;
        let row = row.map_err(|error| Error::Query { what, reason: worker::describe(&error) })?;
        if !row.try_get::<_, bool>(0).map_err(|error| Error::Query { what, reason: error.to_string() })? {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Error::Timeout { what, after_ms: 0 });
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Back to the configured access rules and parameters: by a restart, which also takes up what recovery had to run with.
async fn settle(shared: &Shared, config: &PostgresConfig, end: Instant) -> Result<(), Error> {
    if config.pg_hba.is_none() {
        // Nobody configured rules: those of the restored cluster were replaced by ours, which let only this box in.
        shared.warn_once("no pg_hba is configured: after a custom bootstrap only local connections are allowed");
    }
    stop::stop(shared, StopMode::Fast, true, None).await?;
    start_as(shared, config, &Standing::Primary, end, None).await?;
    connect(config, end).await.map(drop)
}

/// A file with the superuser's password for `initdb`, readable by us alone and removed with this value.
struct PasswordFile(PathBuf);

impl PasswordFile {
    fn new(password: &str) -> Result<PasswordFile, Error> {
        let name = format!("mastiff-{}-{}.pw", std::process::id(), crate::clock::now().0);
        let path = std::env::temp_dir().join(name);
        let failed = |source| Error::File { action: "write", path: path.clone(), source };
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let guard = PasswordFile(path.clone());
        writeln!(file, "{password}").map_err(failed)?;
        Ok(guard)
    }
}

impl Drop for PasswordFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
