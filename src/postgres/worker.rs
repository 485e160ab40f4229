//! Connections to PostgreSQL. Every wait is bounded here by the caller's deadline: a stopped server accepts connections in the kernel and
//! never answers, and no setting of the driver or of the server covers that.

use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};

use super::error::Error;
use super::postmaster::PostmasterPid;
use super::process::{parent_of, Postmaster};
use crate::config::types::{PgUser, PostgresConfig};
use crate::tls::postgres as tls;

/// `application_name` of the agent's own connections, as Patroni's: monitors look for it.
const HEARTBEAT: &str = "Patroni heartbeat";

/// An open connection. Dropping it closes the socket at once, whatever the server does.
#[derive(Debug)]
pub(crate) struct Link {
    /// For queries.
    pub(crate) client: Client,
    /// The prepared observation, once it was used.
    pub(crate) observation: Option<Statement>,
    /// The postmaster it belongs to; zero for a remote one.
    pub(crate) postmaster_pid: i32,
    driver: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Where to connect, as whom, and how the connection is secured.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// Address, user and session settings.
    pub(crate) settings: tokio_postgres::Config,
    /// TLS.
    pub(crate) tls: tls::Options,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The server is starting up or shutting down (57P03).
    NotNow,
    /// Nobody listens.
    NotListening(String),
    /// User, password or access rule.
    Denied(String),
    /// No answer in time.
    Silent,
    /// Anything else, in the server's words.
    Other(String),
}

impl Refused {
    pub(crate) fn reason(&self) -> String {
        match self {
            Refused::NotNow => "the database system is starting up or shutting down".to_owned(),
            Refused::Silent => "no answer in time".to_owned(),
            Refused::NotListening(text) | Refused::Denied(text) | Refused::Other(text) => text.clone(),
        }
    }
}

/// Limits that the server applies by itself, so that no forgotten query of ours lives on in it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limits {
    /// The heartbeat's: 5 s.
    Short,
    /// None: checkpoints.
    Long,
}

impl Limits {
    fn options(self) -> &'static str {
        match self {
            Limits::Short => "-c statement_timeout=5000 -c lock_timeout=5000",
            Limits::Long => "-c statement_timeout=0 -c lock_timeout=5000",
        }
    }
}

/// Where the local server is reached, in the order to be tried: as configured, then by its socket.
pub(crate) fn local_hosts(config: &PostgresConfig, file: &PostmasterPid) -> Vec<String> {
    let socket = file
        .socket_dir
        .as_ref()
        .map(|dir| dir.display().to_string())
        .filter(|dir| dir.starts_with('/'))
        .or_else(|| configured_socket_dir(config));
    let listen = file.listen_address.clone().unwrap_or_else(|| config.listen_addresses.clone());
    let tcp = local_address(&listen);
    let mut hosts: Vec<String> = match config.use_unix_socket {
        true => socket.iter().cloned().collect(),
        false => tcp.iter().cloned().collect(),
    };
    if hosts.is_empty() {
        hosts.extend(tcp.or(socket));
    }
    hosts
}

/// First absolute directory of `unix_socket_directories`.
pub(crate) fn configured_socket_dir(config: &PostgresConfig) -> Option<String> {
    let all = config.parameters.get("unix_socket_directories")?;
    all.split(',').map(str::trim).find(|dir| dir.starts_with('/')).map(str::to_owned)
}

/// An address under which a server that listens on `listen` is reached from this box.
pub(crate) fn local_address(listen: &str) -> Option<String> {
    let first = listen.split(',').map(str::trim).find(|address| !address.is_empty())?;
    Some(match first {
        "*" | "0.0.0.0" | "localhost" => "127.0.0.1".to_owned(),
        "::" => "::1".to_owned(),
        address => address.to_owned(),
    })
}

/// Settings for a connection as `user` to the local server at `host`.
pub(crate) fn local_config(config: &PostgresConfig, file: &PostmasterPid, host: &str, limits: Limits) -> Access {
    let mut access = for_user(&config.superuser);
    let settings = &mut access.settings;
    settings.host(host).port(file.port.unwrap_or(config.port)).dbname("postgres");
    settings.application_name(HEARTBEAT).options(limits.options());
    access
}

/// User, password and TLS.
fn for_user(user: &PgUser) -> Access {
    let mut settings = tokio_postgres::Config::new();
    if !user.username.is_empty() {
        settings.user(&user.username);
    }
    if let Some(password) = &user.password {
        settings.password(&password.0);
    }
    Access { settings, tls: tls::Options::new(|name| user.options.get(name).cloned()) }
}

/// Connects to this box's server, whose postmaster is known, within `deadline`.
pub(crate) async fn connect_local(
    config: &PostgresConfig,
    postmaster: &Postmaster,
    limits: Limits,
    deadline: Duration,
) -> Result<Link, Refused> {
    let mut last = Refused::NotListening("it listens nowhere that is known".to_owned());
    let end = tokio::time::Instant::now() + deadline;
    for host in local_hosts(config, &postmaster.file) {
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        match connect(&local_config(config, &postmaster.file, &host, limits), left).await {
            Ok(mut link) => {
                link.postmaster_pid = postmaster.pid();
                return verify(link, postmaster, end).await;
            }
            Err(refused) => last = refused,
        }
    }
    Err(last)
}

/// Another server may answer on the same address or port: ours is the one whose backend is a child of our postmaster.
async fn verify(link: Link, postmaster: &Postmaster, end: tokio::time::Instant) -> Result<Link, Refused> {
    let left = end.saturating_duration_since(tokio::time::Instant::now());
    let query = link.client.query_one("SELECT pg_catalog.pg_backend_pid()", &[]);
    let pid: i32 = match timeout(left, query).await {
        Err(_) => return Err(Refused::Silent),
        Ok(Err(error)) => return Err(classify(&error)),
        Ok(Ok(row)) => row.try_get(0).map_err(|error| Refused::Other(error.to_string()))?,
    };
    let parent = parent_of(pid);
    if parent == Some(postmaster.pid()) || parent.is_none() && postmaster.has_exited() {
        return Ok(link);
    }
    Err(Refused::Other(format!("another PostgreSQL (process {pid}) answers at the address of the one in the data directory")))
}

/// Connects within `deadline`.
pub(crate) async fn connect(access: &Access, deadline: Duration) -> Result<Link, Refused> {
    match timeout(deadline, tls::connect(&access.settings, &access.tls)).await {
        Err(_) => Err(Refused::Silent),
        Ok(Err(error)) => Err(classify(&error)),
        Ok(Ok((client, connection))) => {
            let driver = tokio::spawn(async move {
                if let Err(error) = connection.await {
                    log::debug!("connection to PostgreSQL closed: {}", describe(&error));
                }
            });
            Ok(Link { client, observation: None, postmaster_pid: 0, driver: driver.abort_handle() })
        }
    }
}

/// What an error of the driver means for the state of the server.
pub(crate) fn classify(error: &tokio_postgres::Error) -> Refused {
    let words = describe(error);
    match error.code() {
        Some(code) if *code == SqlState::CANNOT_CONNECT_NOW => Refused::NotNow,
        // The server is being stopped or a backend crashed, and it says so on connections that exist.
        Some(code) if *code == SqlState::ADMIN_SHUTDOWN || *code == SqlState::CRASH_SHUTDOWN => Refused::NotNow,
        Some(code)
            if *code == SqlState::INVALID_PASSWORD
                || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION
                || *code == SqlState::INSUFFICIENT_PRIVILEGE =>
        {
            Refused::Denied(words)
        }
        Some(_) => Refused::Other(words),
        None => match io_kind(error) {
            Some(std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound) => Refused::NotListening(words),
            _ => Refused::Other(words),
        },
    }
}

fn io_kind(error: &tokio_postgres::Error) -> Option<std::io::ErrorKind> {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        source = inner.source();
    }
    None
}

/// The server's message, or the driver's with its cause. Never holds a password.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{}: {}", db.severity(), db.message());
    }
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Runs statements that return nothing, within `deadline`.
pub(crate) async fn execute(link: &Link, what: &'static str, sql: &str, deadline: Duration) -> Result<(), Error> {
    match timeout(deadline, link.client.batch_execute(sql)).await {
        Err(_) => Err(Error::Timeout { what, after_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX) }),
        Ok(Err(error)) => Err(Error::Query { what, reason: describe(&error) }),
        Ok(Ok(())) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::local_address;

    #[test]
    fn where_a_listening_server_is_reached() {
        assert_eq!(local_address("*").as_deref(), Some("127.0.0.1"));
        assert_eq!(local_address(" 0.0.0.0, ::").as_deref(), Some("127.0.0.1"));
        assert_eq!(local_address("::").as_deref(), Some("::1"));
        assert_eq!(local_address("10.0.0.1,127.0.0.1").as_deref(), Some("10.0.0.1"));
        assert_eq!(local_address(""), None);
    }
}
