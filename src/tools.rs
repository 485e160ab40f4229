//! What the program does besides running the agent: check a configuration, and write one to start from.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};

use tokio_postgres::Client;

use crate::config::generate::{config_of_server, sample_config, HostFacts, ServerFacts};
use crate::config::report::{validate_config, Options};
use crate::config::types::{PgUser, Secret};
use crate::postgres::conninfo::Conninfo;
use crate::tls::postgres as tls;

/// Exit code of a refused configuration.
const EXIT_CONFIG: i32 = 64;
/// Exit code of a server that could not be asked.
const EXIT_UNAVAILABLE: i32 = 69;

/// `--validate-config`: prints all that is found; the exit code.
#[must_use]
pub fn validate(path: Option<&Path>, env: &BTreeMap<String, String>, ignore_listen_port: bool, strict: bool, print: bool) -> i32 {
    let report = validate_config(path, env, Options { ignore_listen_port, strict, look_at_machine: true });
    if print {
        print!("{}", report.document);
    }
    eprint!("{}", report.text());
    if report.failed {
        EXIT_CONFIG
    } else {
        0
    }
}

/// `--generate-sample-config`: prints it.
#[must_use]
pub fn sample(env: &BTreeMap<String, String>) -> i32 {
    print!("{}", sample_config(&host(), env));
    0
}

/// `--generate-config`: prints a configuration for the server that answers at `dsn` (libpq's form; the local one by default).
#[must_use]
pub fn generate(dsn: Option<&str>, env: &BTreeMap<String, String>) -> i32 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return EXIT_UNAVAILABLE;
        }
    };
    match runtime.block_on(ask_server(dsn, env)) {
        Ok(facts) => {
            print!("{}", config_of_server(&facts, env));
            0
        }
        Err(reason) => {
            eprintln!("--generate-config: {reason}");
            EXIT_UNAVAILABLE
        }
    }
}

fn host() -> HostFacts {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    HostFacts { hostname: hostname.filter(|name| !name.is_empty()), address: own_address() }
}

/// The address that this box would use towards others. Connecting a datagram socket sends nothing.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

async fn ask_server(dsn: Option<&str>, env: &BTreeMap<String, String>) -> Result<ServerFacts, String> {
    let (mut config, security) = parse_dsn(dsn.unwrap_or(""), env)?;
    complete(&mut config, env);
    let port = config.get_ports().first().copied();
    let connect = tokio::time::timeout(std::time::Duration::from_secs(10), tls::connect(&config, &security));
    let (client, connection) = match connect.await {
        Ok(Ok(pair)) => pair,
        Ok(Err(error)) => {
            let error = crate::postgres::describe(&error);
            return Err(format!("cannot connect to PostgreSQL: {error}; name a superuser with --dsn"));
        }
        Err(_) => return Err("PostgreSQL did not answer within 10 s".to_owned()),
    };
    tokio::spawn(connection);
    let settings = settings(&client).await.map_err(|error| format!("cannot read the settings: {error}"))?;
    let value = |name: &str| settings.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let data_dir = PathBuf::from(value("data_directory").ok_or("the user may not see data_directory: use a superuser")?);
    let password = config.get_password().map(|password| Secret(String::from_utf8_lossy(password).into_owned()));
    let superuser = PgUser { username: config.get_user().unwrap_or("postgres").to_owned(), password, options: BTreeMap::new() };
    let inside = |name: &str| value(name).map(PathBuf::from).filter(|path| path.starts_with(&data_dir));
    let read = |name: &str| inside(name).and_then(|path| std::fs::read_to_string(path).ok());
    let (hba, ident) = (read("hba_file"), read("ident_file"));
    Ok(ServerFacts { host: host(), bin_dir: bin_dir(&data_dir), settings, superuser, port, hba, ident })
}

/// The connection string: what is about TLS for our own code, the rest for the driver.
fn parse_dsn(dsn: &str, env: &BTreeMap<String, String>) -> Result<(tokio_postgres::Config, tls::Options), String> {
    let mut conninfo = Conninfo::parse(dsn).map_err(|error| format!("the connection string cannot be read: {error}"))?;
    let mut taken = BTreeMap::new();
    for name in ["sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslcrldir", "sslnegotiation", "channel_binding"] {
        let variable = if name == "channel_binding" { "PGCHANNELBINDING".to_owned() } else { format!("PG{}", name.to_ascii_uppercase()) };
        if let Some(value) = conninfo.remove(name).or_else(|| env.get(&variable).cloned()) {
            taken.insert(name, value);
        }
    }
    for name in ["gssencmode", "sslcompression", "krbsrvname"] {
        conninfo.remove(name);
    }
    let text = conninfo.render(u32::MAX);
    let config = text.parse().map_err(|error| format!("the connection string cannot be read: {error}"))?;
    Ok((config, tls::Options::new(|name| taken.get(name).cloned())))
}

/// What libpq takes from the environment, where the connection string is silent.
fn complete(config: &mut tokio_postgres::Config, env: &BTreeMap<String, String>) {
    let user = ["PATRONI_SUPERUSER_USERNAME", "PGUSER"].iter().find_map(|name| env.get(*name)).map_or("postgres", String::as_str);
    if config.get_user().is_none() {
        config.user(user);
    }
    if config.get_hosts().is_empty() {
        config.host(env.get("PGHOST").map_or("/var/run/postgresql", String::as_str));
    }
    if config.get_dbname().is_none() {
        config.dbname("postgres");
    }
    let password = ["PATRONI_SUPERUSER_PASSWORD", "PGPASSWORD"].iter().find_map(|name| env.get(*name));
    if let (None, Some(password)) = (config.get_password(), password) {
        config.password(password);
    }
}

async fn settings(client: &Client) -> Result<Vec<(String, String)>, tokio_postgres::Error> {
    let rows = client.query("SELECT name, current_setting(name, true) FROM pg_catalog.pg_settings ORDER BY name", &[]).await?;
    let sources = client
        .query(
            "SELECT name FROM pg_catalog.pg_settings WHERE context <> 'internal' AND source IN ('configuration file', 'command line', \
             'environment variable') AND (category <> 'Write-Ahead Log / Recovery Target' OR setting <> '')",
            &[],
        )
        .await?;
    let mut wanted: Vec<String> = sources.iter().map(|row| row.get::<_, String>(0)).collect();
    wanted.extend(crate::config::parameters::command_line_names().into_iter().map(str::to_owned));
    let always = ["data_directory", "hba_file", "ident_file", "config_file", "port", "listen_addresses"];
    wanted.extend(always.iter().map(ToString::to_string));
    let pairs = rows.iter().filter_map(|row| Some((row.get::<_, String>(0), row.get::<_, Option<String>>(1)?)));
    Ok(pairs.filter(|(name, _)| wanted.contains(name)).collect())
}

/// Directory of the running postmaster's executable.
fn bin_dir(data_dir: &Path) -> String {
    let pid = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok();
    let pid = pid.as_deref().and_then(|text| text.lines().next()).and_then(|line| line.trim().parse::<u32>().ok());
    let exe = pid.and_then(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).ok());
    exe.and_then(|path| path.parent().map(|dir| dir.display().to_string())).unwrap_or_default()
}
