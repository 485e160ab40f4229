//! Connection strings of libpq: building, parsing, comparing. Passwords are never shown by `Debug` or [`Conninfo::normalised`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::types::{HostPort, PgUser, PostgresConfig};
use crate::ha::action::Upstream;

/// A connection string or URL that cannot be understood. The text itself is not shown: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not `postgres://` or `postgresql://`.
    #[error("the connection URL does not begin with postgres://")]
    Scheme,
    /// A port that is no number from 1 to 65535.
    #[error("the port of the connection URL is not a number from 1 to 65535")]
    Port,
    /// No host in it.
    #[error("the connection URL names no host")]
    Host,
    /// `[` without `]`, or something odd behind it.
    #[error("the IPv6 address of the connection URL is not closed by ]")]
    Bracket,
    /// A `%` without two hex digits behind it, or bytes that are no UTF-8.
    #[error("a percent escape of the connection URL is broken")]
    Percent,
    /// `keyword=value` expected.
    #[error("the connection string has no '=' behind a keyword at character {0}")]
    Equals(usize),
    /// A quote that is not closed.
    #[error("the connection string ends inside a quoted value")]
    Quote,
}

/// Keywords in the order in which Patroni writes them, with the first major version that knows them.
const KEYWORDS: [(&str, u32); 20] = [
    ("dbname", 0),
    ("user", 0),
    ("passfile", 10),
    ("password", 0),
    ("host", 0),
    ("port", 0),
    ("sslmode", 0),
    ("sslcompression", 0),
    ("sslcert", 0),
    ("sslkey", 0),
    ("sslpassword", 13),
    ("sslrootcert", 0),
    ("sslcrl", 0),
    ("sslcrldir", 14),
    ("application_name", 0),
    ("krbsrvname", 0),
    ("gssencmode", 12),
    ("channel_binding", 13),
    ("target_session_attrs", 10),
    ("sslnegotiation", 17),
];

/// Keywords that are secrets, or that say where one is, or that differ by nature between what is written and what runs.
const NOT_COMPARED: [&str; 4] = ["password", "passfile", "sslpassword", "dbname"];

/// libpq's own defaults: writing them or leaving them out is the same.
const DEFAULTS: [(&str, &str); 8] = [
    ("port", "5432"),
    ("sslmode", "prefer"),
    ("sslcompression", "0"),
    ("krbsrvname", "postgres"),
    ("gssencmode", "prefer"),
    ("channel_binding", "prefer"),
    ("target_session_attrs", "any"),
    ("sslnegotiation", "postgres"),
];

/// Keywords that a WAL receiver shows beside the ones above.
const SHOWN: [&str; 27] = [
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssdelegation",
    "gsslib",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "oauth_client_id",
    "oauth_issuer",
    "options",
    "replication",
    "require_auth",
    "requirepeer",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslkeylogfile",
    "sslsni",
    "tcp_user_timeout",
];

/// `keyword=rest`, if the text begins with a keyword of libpq.
fn shown_keyword(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.split_once('=')?;
    let known = KEYWORDS.iter().any(|(keyword, _)| *keyword == name) || SHOWN.contains(&name);
    known.then_some((name, rest))
}

/// Connection parameters by libpq's names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Conninfo {
    values: BTreeMap<String, String>,
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = |name: &str| matches!(name, "password" | "sslpassword");
        f.debug_map().entries(self.values.iter().map(|(name, value)| (name, if secret(name) { "***" } else { value }))).finish()
    }
}

impl Conninfo {
    /// Parses `keyword=value …` or a `postgres://` URL.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn parse(text: &str) -> Result<Conninfo, Error> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            parse_url(text)
        } else {
            parse_keywords(text)
        }
    }

    /// Reads what `pg_stat_wal_receiver` shows. It looks like a connection string, but values are not quoted there: one ends only
    /// where the next keyword of libpq begins.
    #[must_use]
    pub fn parse_shown(text: &str) -> Conninfo {
        let mut conninfo = Conninfo::default();
        let mut rest = text.trim_start();
        while let Some((name, after)) = shown_keyword(rest) {
            let end =
                after.match_indices(' ').map(|(at, _)| at).find(|at| after.get(at + 1..).is_some_and(|next| shown_keyword(next).is_some()));
            let (value, next) = after.split_at_checked(end.unwrap_or(after.len())).unwrap_or((after, ""));
            conninfo.set(name, value);
            rest = next.trim_start_matches(' ');
        }
        conninfo
    }

    /// The value of a keyword.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Sets a keyword.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.values.insert(name.to_owned(), value.into());
    }

    /// Sets a keyword that has no value yet.
    pub fn set_default(&mut self, name: &str, value: &str) {
        self.values.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    }

    /// Removes a keyword and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        self.values.remove(name)
    }

    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All keywords with their values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The string for libpq of the given major version: Patroni's order, unknown keywords behind it, keywords that are too new left
    /// out. A `passfile` replaces the password.
    #[must_use]
    pub fn render(&self, major: u32) -> String {
        let has_passfile = self.get("passfile").is_some();
        let mut words = Vec::new();
        for (name, since) in &KEYWORDS {
            let Some(value) = self.get(name) else { continue };
            if major >= *since && !(has_passfile && *name == "password") {
                words.push(format!("{name}={}", escape(value)));
            }
        }
        for (name, value) in self.iter() {
            if !KEYWORDS.iter().any(|(known, _)| *known == name) {
                words.push(format!("{name}={}", escape(value)));
            }
        }
        words.join(" ")
    }

    /// The form that two connection strings are compared in, and that may be shown: no secrets, no database, no defaults, none of
    /// the many values that a running WAL receiver adds.
    #[must_use]
    pub fn normalised(&self) -> String {
        let mut plain = Conninfo::default();
        for (name, _) in &KEYWORDS {
            let Some(value) = self.get(name) else { continue };
            let default = DEFAULTS.iter().any(|(key, default)| key == name && *default == value);
            if !value.is_empty() && !default && !NOT_COMPARED.contains(name) {
                plain.set(name, value);
            }
        }
        plain.render(u32::MAX)
    }

    /// Host and port, if the string names exactly one of each.
    #[must_use]
    pub fn endpoint(&self) -> Option<HostPort> {
        let host = self.get("host").filter(|host| !host.is_empty() && !host.contains(','))?;
        let port = match self.get("port") {
            None | Some("") => 5432,
            Some(text) => text.parse().ok()?,
        };
        Some(HostPort { host: host.to_owned(), port })
    }

    /// Adds a user's name, password and TLS options. `options` and `connect_timeout` are not taken from there: they are ours.
    fn set_user(&mut self, user: &PgUser) {
        if !user.username.is_empty() {
            self.set("user", user.username.as_str());
        }
        if let Some(password) = &user.password {
            self.set("password", password.0.as_str());
        }
        for (name, value) in &user.options {
            if !matches!(name.as_str(), "options" | "connect_timeout" | "username" | "password") {
                self.set(name, value.as_str());
            }
        }
    }
}

/// Whether a running standby's connection string leads to the same place in the same way as the wanted one. `running` may be the
/// parameter `primary_conninfo` or what `pg_stat_wal_receiver` shows.
#[must_use]
pub fn same(running: &str, wanted: &str) -> bool {
    let Ok(wanted) = Conninfo::parse(wanted) else { return false };
    readings(running).any(|running| running.normalised() == wanted.normalised())
}

/// Whether a running standby's connection string leads to the given upstream's host and port.
#[must_use]
pub fn points_to(running: &str, conn_url: &str) -> bool {
    let Some(wanted) = member(conn_url).ok().and_then(|conninfo| conninfo.endpoint()) else { return false };
    readings(running).any(|running| running.endpoint().as_ref() == Some(&wanted))
}

/// The two ways to read what a server says of its connection.
fn readings(text: &str) -> impl Iterator<Item = Conninfo> {
    Conninfo::parse(text).ok().into_iter().chain(std::iter::once(Conninfo::parse_shown(text)))
}

/// Backslashes as Patroni writes them: before quotes, backslashes and blanks. An empty value needs quotes, or libpq would take the
/// next keyword for it.
fn escape(value: &str) -> String {
    if value.is_empty() {
        return "''".to_owned();
    }
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        // libpq ends an unquoted value at any blank, and a backslash protects each of them.
        if matches!(c, '\'' | '\\') || c.is_ascii_whitespace() || c == '\x0b' {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn is_blank(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\x0b'
}

fn parse_keywords(text: &str) -> Result<Conninfo, Error> {
    let mut conninfo = Conninfo::default();
    let mut chars = text.char_indices().peekable();
    loop {
        while chars.next_if(|(_, c)| is_blank(*c)).is_some() {}
        let Some((start, _)) = chars.peek().copied() else { return Ok(conninfo) };
        let mut name = String::new();
        while let Some((_, c)) = chars.next_if(|(_, c)| *c != '=' && !is_blank(*c)) {
            name.push(c);
        }
        while chars.next_if(|(_, c)| is_blank(*c)).is_some() {}
        if name.is_empty() || chars.next_if(|(_, c)| *c == '=').is_none() {
            return Err(Error::Equals(start));
        }
        while chars.next_if(|(_, c)| is_blank(*c)).is_some() {}
        let value = parse_value(&mut chars)?;
        conninfo.values.insert(name, value);
    }
}

fn parse_value(chars: &mut std::iter::Peekable<std::str::CharIndices<'_>>) -> Result<String, Error> {
    let quoted = chars.next_if(|(_, c)| *c == '\'').is_some();
    let mut value = String::new();
    while let Some((_, c)) = chars.next_if(|(_, c)| quoted || !is_blank(*c)) {
        match c {
            '\'' if quoted => return Ok(value),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    if quoted {
        Err(Error::Quote)
    } else {
        Ok(value)
    }
}

/// Parses `postgres://user:password@host:port,host:port/dbname?key=value`.
fn parse_url(url: &str) -> Result<Conninfo, Error> {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://")).ok_or(Error::Scheme)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (credentials, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut conninfo = Conninfo::default();
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    for (name, value) in [("user", user), ("password", password), ("dbname", database)] {
        if !value.is_empty() {
            conninfo.set(name, decode(value)?);
        }
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = split_host(host)?;
        names.push(decode(name)?);
        ports.push(port.to_owned());
    }
    if names.iter().any(|name| !name.is_empty()) {
        conninfo.set("host", names.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        conninfo.set("port", ports.join(","));
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (decode(name)?.as_str(), decode(value)?) {
            ("ssl", value) if value == "true" => conninfo.set("sslmode", "require"),
            (name, value) => conninfo.set(name, value),
        }
    }
    Ok(conninfo)
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`; the port is checked.
fn split_host(text: &str) -> Result<(&str, &str), Error> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or(Error::Bracket)?;
            match rest.strip_prefix(':') {
                Some(port) => (host, port),
                None if rest.is_empty() => (host, ""),
                None => return Err(Error::Bracket),
            }
        }
        // A bare IPv6 address has more than one colon and no port.
        None if text.matches(':').count() > 1 => (text, ""),
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let number = port.parse::<u16>().is_ok_and(|port| port > 0) && port.bytes().all(|b| b.is_ascii_digit());
    if !port.is_empty() && !number {
        return Err(Error::Port);
    }
    Ok((host, port))
}

fn decode(text: &str) -> Result<String, Error> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else { return Err(Error::Percent) };
            bytes.push(u8::try_from(high * 16 + low).map_err(|_| Error::Percent)?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| Error::Percent)
}

/// The `conn_url` of a member key: `postgres://host:port/postgres`.
#[must_use]
pub fn conn_url(address: &HostPort) -> String {
    format!("postgres://{address}/postgres")
}

/// Host, port and database of a member's `conn_url`, without credentials.
///
/// # Errors
/// The URL is not one that a member would publish.
pub fn member(conn_url: &str) -> Result<Conninfo, Error> {
    if !conn_url.starts_with("postgres://") && !conn_url.starts_with("postgresql://") {
        return Err(Error::Scheme);
    }
    let url = parse_url(conn_url)?;
    let mut conninfo = Conninfo::default();
    conninfo.set("host", url.get("host").filter(|host| !host.is_empty()).ok_or(Error::Host)?);
    conninfo.set("port", url.get("port").unwrap_or("5432"));
    if let Some(database) = url.get("dbname") {
        conninfo.set("dbname", database);
    }
    Ok(conninfo)
}

/// How to reach another member's PostgreSQL as one of our users (replication for base backups, rewind for `pg_rewind` and for reading
/// its history). Holds the password; [`Conninfo::remove`] it, or set a `passfile`, before the string goes to a command line.
///
/// # Errors
/// The URL makes no sense.
pub fn connect_as(user: &PgUser, conn_url: &str) -> Result<Conninfo, Error> {
    let mut conninfo = member(conn_url)?;
    conninfo.set_user(user);
    Ok(conninfo)
}

/// The user of `pg_rewind` and of looks at other members.
#[must_use]
pub fn rewind_user(config: &PostgresConfig) -> &PgUser {
    config.rewind.as_ref().unwrap_or(&config.superuser)
}

/// `primary_conninfo` for following a member, as Patroni writes it. Contains the password: [`passfile_instead`] takes it out.
///
/// # Errors
/// The upstream's URL makes no sense.
pub fn primary(config: &PostgresConfig, upstream: &Upstream, major: u32) -> Result<Conninfo, Error> {
    let mut conninfo = connect_as(&config.replication, &upstream.conn_url)?;
    conninfo.set("application_name", config.name.as_str());
    conninfo.set_default("sslmode", "prefer");
    conninfo.set_default("gssencmode", "prefer");
    conninfo.set_default("channel_binding", "prefer");
    if major >= 17 {
        conninfo.set_default("sslnegotiation", "postgres");
    }
    conninfo.set_default("dbname", "postgres");
    Ok(conninfo)
}

/// The same connection with the password replaced by the file that holds it.
#[must_use]
pub fn passfile_instead(connection: &Conninfo, passfile: &Path) -> Conninfo {
    let mut connection = connection.clone();
    if connection.remove("password").is_some() {
        connection.set("passfile", passfile.to_string_lossy());
    }
    connection
}

/// The connection string for a child's command line (`pg_basebackup -d`, `pg_rewind --source-server`, scripts): no password. The
/// child gets `PGPASSFILE` in its environment.
#[must_use]
pub fn for_command_line(connection: &Conninfo, major: u32) -> String {
    let mut connection = connection.clone();
    connection.remove("password");
    connection.render(major)
}

/// How we reach our own server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalHost {
    /// A directory of `unix_socket_directories`.
    Socket(PathBuf),
    /// A Unix socket, but the directory is the server's built-in default; `postmaster.pid` names it.
    DefaultSocket,
    /// A TCP host.
    Tcp(String),
}

/// How the agent reaches its own server: `use_unix_socket` for itself, `use_unix_socket_repl` for replication connections.
#[must_use]
pub fn local_host(config: &PostgresConfig, replication: bool) -> LocalHost {
    let tcp = LocalHost::Tcp(local_tcp(&config.listen_addresses));
    if !(if replication { config.use_unix_socket_repl } else { config.use_unix_socket }) {
        return tcp;
    }
    let directories = config.parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case("unix_socket_directories"));
    let Some((_, directories)) = directories else { return LocalHost::DefaultSocket };
    // Only an absolute path can be connected to; without one there is TCP.
    match directories.split(',').map(str::trim).find(|directory| directory.starts_with('/')) {
        Some(directory) => LocalHost::Socket(PathBuf::from(directory)),
        None => tcp,
    }
}

/// `localhost` where the server listens on it, else the first address.
fn local_tcp(listen_addresses: &str) -> String {
    let addresses = || listen_addresses.split(',').map(str::trim);
    let local = |address: &str| address.eq_ignore_ascii_case("localhost") || matches!(address, "*" | "0.0.0.0" | "127.0.0.1");
    if addresses().any(local) {
        return "localhost".to_owned();
    }
    addresses().find(|address| !address.is_empty()).unwrap_or("localhost").to_owned()
}

/// The connection of a user to our own server, with password. `user`: the superuser, or the replication user with `replication`.
#[must_use]
pub fn local(config: &PostgresConfig, user: &PgUser, replication: bool) -> Conninfo {
    let mut conninfo = Conninfo::default();
    match local_host(config, replication) {
        LocalHost::Socket(directory) => conninfo.set("host", directory.to_string_lossy()),
        LocalHost::DefaultSocket => {}
        LocalHost::Tcp(host) => conninfo.set("host", host),
    }
    conninfo.set("port", config.port.to_string());
    conninfo.set("dbname", "postgres");
    conninfo.set_user(user);
    conninfo
}

#[cfg(test)]
mod tests;
