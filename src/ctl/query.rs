//! `query`: a few SQL statements on a member, for a quick look. `psql` does more.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::types::Type;
use tokio_postgres::SimpleQueryMessage;

use super::args::Values;
use super::error::Error;
use super::inspect::pick;
use super::members::host_and_port;
use super::session::{Session, Watch};
use super::tables::{Format, Table};
use super::when;
use crate::tls::postgres as tls;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the statements may take.
const EXECUTE: Duration = Duration::from_secs(600);

/// Columns and rows, or a sentence that takes their place.
type Answer = Result<(Vec<String>, Vec<Vec<Value>>), String>;

/// `query`.
///
/// # Errors
/// Options that exclude each other, a file that cannot be read; store and output. What PostgreSQL says is output.
pub async fn run(session: &mut Session<'_>, values: &Values) -> Result<i32, Error> {
    let sql = match (values.get("file"), values.get("command")) {
        (Some(_), Some(_)) => return Err(Error::refused("--file and --command are mutually exclusive options")),
        (None, None) => return Err(Error::refused("You need to specify either --command or --file")),
        (Some(file), None) => std::fs::read_to_string(file).map_err(|source| Error::Read { path: PathBuf::from(file), source })?,
        (None, Some(sql)) => sql.to_owned(),
    };
    let format = match values.get("format") {
        None => Format::Tsv,
        Some(name) => Format::of(Some(name)),
    };
    let delimiter = values.get("delimiter").unwrap_or("\t");
    let watch = Watch::of(values);
    let (_, _, view) = session.open(values).await?;
    let config = connection(session, values)?;
    let security = tls::Options::new(|name| from_environment(session, name));
    loop {
        let since = tokio::time::Instant::now();
        let answer = match pick(&view, values)? {
            Some((_, member)) => ask(&config, &security, member.conn_url.as_deref(), &sql).await,
            None => Err(match (values.get("member"), values.get("role")) {
                (Some(member), _) => format!("No connection to member {member} is available"),
                (None, Some(role)) => format!("No connection to role '{role}' is available"),
                _ => "No connection is available".to_owned(),
            }),
        };
        let failed = answer.is_err();
        let text = render(answer, format, delimiter, &when::stamp(session.now(), 0));
        session.console.print(&text)?;
        if !watch.next(since).await {
            return Ok(i32::from(failed));
        }
    }
}

/// libpq's variables for its options.
fn from_environment(session: &Session<'_>, name: &str) -> Option<String> {
    let name = match name {
        "channel_binding" => "PGCHANNELBINDING".to_owned(),
        name => format!("PG{}", name.to_ascii_uppercase()),
    };
    session.env.get(&name).cloned()
}

fn connection(session: &mut Session<'_>, values: &Values) -> Result<tokio_postgres::Config, Error> {
    let mut config = tokio_postgres::Config::new();
    let from_env = |name: &str| session.env.get(name).filter(|value| !value.is_empty()).cloned();
    let user = values.get("username").map(str::to_owned).or_else(|| from_env("PGUSER")).or_else(|| from_env("USER"));
    let user = user.unwrap_or_else(|| "postgres".to_owned());
    config.application_name("Patroni ctl").connect_timeout(CONNECT).user(&user);
    config.dbname(values.get("dbname").unwrap_or(&user));
    let password = if values.has("password") { Some(session.console.ask_secret("Password")?) } else { from_env("PGPASSWORD") };
    if let Some(password) = password {
        config.password(password);
    }
    Ok(config)
}

async fn ask(config: &tokio_postgres::Config, security: &tls::Options, conn_url: Option<&str>, sql: &str) -> Answer {
    let (host, port) = conn_url.and_then(host_and_port).ok_or("No connection is available")?;
    let mut config = config.clone();
    config.host(&host).port(port);
    let refused = |error: tokio_postgres::Error| {
        let text = match error.as_db_error() {
            Some(error) => error.code().code().to_owned(),
            None => std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(": "),
        };
        format!("ERROR, SQLSTATE: {}", text.replace('\n', " "))
    };
    let late = |_| "ERROR, SQLSTATE: no answer in time".to_owned();
    let (client, connection) = tokio::time::timeout(CONNECT, tls::connect(&config, security)).await.map_err(late)?.map_err(refused)?;
    let talk = tokio::spawn(connection);
    // The types are known only where there is one statement; several are run as they are.
    let types: Vec<Type> = match tokio::time::timeout(EXECUTE, client.prepare(sql)).await {
        Ok(Ok(statement)) => statement.columns().iter().map(|column| column.type_().clone()).collect(),
        _ => Vec::new(),
    };
    let messages = tokio::time::timeout(EXECUTE, client.simple_query(sql)).await.map_err(late).and_then(|result| result.map_err(refused));
    drop(client);
    talk.abort();
    let (mut columns, mut rows) = (Vec::new(), Vec::new());
    for message in messages? {
        match message {
            SimpleQueryMessage::RowDescription(names) => {
                columns = names.iter().map(|column| column.name().to_owned()).collect();
                rows.clear();
            }
            SimpleQueryMessage::Row(row) => rows.push((0..row.len()).map(|at| value(row.get(at), types.get(at))).collect()),
            _ => {}
        }
    }
    Ok((columns, rows))
}

fn value(text: Option<&str>, of: Option<&Type>) -> Value {
    let Some(text) = text else { return Value::Null };
    let parsed = match of {
        Some(&Type::BOOL) => Some(Value::Bool(text == "t")),
        Some(&Type::INT2 | &Type::INT4 | &Type::INT8 | &Type::OID) => text.parse::<i64>().ok().map(Value::from),
        Some(&Type::FLOAT4 | &Type::FLOAT8) => text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::Number),
        _ => None,
    };
    parsed.unwrap_or_else(|| text.into())
}

fn render(answer: Answer, format: Format, delimiter: &str, stamp: &str) -> String {
    let (columns, rows) = match answer {
        Ok(answer) => answer,
        Err(sentence) => return format!("{stamp}{delimiter}{sentence}\n"),
    };
    let table = Table { title: None, columns, right: &[], rows };
    let text = table.render_with(format, delimiter);
    if text.is_empty() {
        text
    } else {
        text + "\n"
    }
}
