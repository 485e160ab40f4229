//! Commands that only look: `list`, `topology`, `history`, `show-config`, `dsn`, `version`.

use serde_json::Value;

use super::args::Values;
use super::error::Error;
use super::rest::PROMPT;
use super::select::{in_role, Named};
use super::session::{Session, Watch};
use super::tables::Format;
use super::{show, when};
use crate::ha::view::ClusterView;

/// The release of Patroni whose surface this is.
pub const PATRONI_VERSION: &str = "4.1.5";

/// `list` and `topology`.
///
/// # Errors
/// Store and output.
pub async fn list(session: &mut Session<'_>, values: &Values, format: Format) -> Result<i32, Error> {
    let mut scopes = values.all("clusters").to_vec();
    if scopes.is_empty() {
        scopes.push(session.scope(values)?);
    }
    let stores: Vec<_> = scopes.iter().map(|scope| session.store(scope).map(|store| (scope, store))).collect::<Result<_, _>>()?;
    let watch = Watch::of(values);
    loop {
        let since = tokio::time::Instant::now();
        let mut text = String::new();
        if values.has("timestamp") {
            text.push_str(&format!("{}\n", when::stamp(session.now(), 0)));
        }
        for (scope, store) in &stores {
            match store.cluster().await {
                Ok(view) => text.push_str(&show::cluster(&view, scope, values.has("extended"), format)),
                // Who watches wants to see the store come back.
                Err(error) if watch.repeats() => text.push_str(&format!("Error: {error}\n")),
                Err(error) => return Err(error),
            }
        }
        if watch.repeats() {
            session.console.clear()?;
        }
        session.console.print(&text)?;
        if !watch.next(since).await {
            return Ok(0);
        }
    }
}

/// `history`.
///
/// # Errors
/// Store and output.
pub async fn history(session: &mut Session<'_>, values: &Values) -> Result<i32, Error> {
    let (_, _, view) = session.open(values).await?;
    session.console.print(&show::history(&view, Format::of(values.get("format"))))?;
    Ok(0)
}

/// `show-config`.
///
/// # Errors
/// Store and output.
pub async fn show_config(session: &mut Session<'_>, values: &Values) -> Result<i32, Error> {
    let (_, _, view) = session.open(values).await?;
    session.console.print(&show::config(&view))?;
    Ok(0)
}

/// The member that `--role` and `--member` mean; the leader where neither is given.
///
/// # Errors
/// Both are given.
pub fn pick<'a>(view: &'a ClusterView, values: &Values) -> Result<Option<Named<'a>>, Error> {
    let (role, member) = (values.get("role"), values.get("member"));
    if role.is_some() && member.is_some() {
        return Err(Error::refused("--role and --member are mutually exclusive options"));
    }
    let role = if member.is_some() { "any" } else { role.unwrap_or("leader") };
    Ok(in_role(view, role).into_iter().find(|(name, _)| member.is_none_or(|member| member == name.as_str())))
}

/// `dsn`.
///
/// # Errors
/// No such member; store and output.
pub async fn dsn(session: &mut Session<'_>, values: &Values) -> Result<i32, Error> {
    let (_, _, view) = session.open(values).await?;
    let text = pick(&view, values)?.and_then(|(_, member)| show::dsn(member));
    session.console.print(&text.ok_or_else(|| Error::refused("Can not find a suitable member"))?)?;
    Ok(0)
}

/// `version`.
///
/// # Errors
/// Store and output. A member that does not answer is a line of the output.
pub async fn version(session: &mut Session<'_>, values: &Values) -> Result<i32, Error> {
    let own = format!("mastiff {}", env!("CARGO_PKG_VERSION"));
    let line = if session.as_patronictl { format!("patronictl version {PATRONI_VERSION}") } else { own };
    session.console.line(&line)?;
    if !values.has("cluster") {
        return Ok(0);
    }
    session.console.line("")?;
    let (_, _, view) = session.open(values).await?;
    let wanted = values.all("members");
    let mut code = 0;
    for (name, member) in &view.members {
        if member.api_url.is_none() || !(wanted.is_empty() || wanted.iter().any(|wanted| wanted == name.as_str())) {
            continue;
        }
        let answer = session.rest.call(member, "GET", "", None, PROMPT).await;
        let status = answer.and_then(|answer| serde_json::from_str::<Value>(&answer.text).map_err(|error| error.to_string()));
        match status {
            Ok(status) => session.console.line(&format!("{name}: {}", versions(&status)))?,
            Err(error) => {
                code = 1;
                session.console.line(&format!("{name}: failed to get version: {error}"))?;
            }
        }
    }
    Ok(code)
}

fn versions(status: &Value) -> String {
    let agent = status.pointer("/patroni/version").and_then(Value::as_str).unwrap_or("None");
    let postgres = status.get("server_version").and_then(Value::as_u64).filter(|version| *version > 0);
    let postgres = postgres.map(|version| format!(" PostgreSQL {}", show::postgres_version(version))).unwrap_or_default();
    format!("Patroni {agent}{postgres}")
}
