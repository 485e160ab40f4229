//! Commands that change how the whole cluster works: `pause`, `resume`, `demote-cluster`, `promote-cluster`, `remove`.

use std::time::Duration;

use serde_json::{json, Map, Value};

use super::args::Values;
use super::dynamic::{is_truthy, Dynamic};
use super::error::Error;
use super::rest::PROMPT;
use super::select::leader_first;
use super::session::Session;
use super::store::Store;
use super::tables::Format;
use super::{show, when};
use crate::ha::view::ClusterView;

/// `pause` and `resume`.
///
/// # Errors
/// It is so already, nobody can be reached; store and output.
pub async fn pause(session: &mut Session<'_>, values: &Values, paused: bool) -> Result<i32, Error> {
    let (_, store, view) = session.open(values).await?;
    if Dynamic::of(&view).is_paused() == paused {
        return Err(Error::refused(format!("Cluster is {} paused", if paused { "already" } else { "not" })));
    }
    let body = json!({"pause": if paused { Value::Bool(true) } else { Value::Null }});
    for (name, member) in leader_first(&view) {
        let answer = match session.rest.call(member, "PATCH", "config", Some(body.clone()), PROMPT).await {
            Ok(answer) => answer,
            Err(reason) => {
                session.console.note(&format!("Member {name} is not accessible: {reason}"));
                continue;
            }
        };
        if answer.code == 200 {
            if values.has("wait") {
                return wait_for_pause(session, &store, &view, paused).await;
            }
            session.console.line(&format!("Success: cluster management is {}", past(paused)))?;
            return Ok(0);
        }
        let word = word(paused);
        session.console.line(&format!("Failed: {word} cluster management status code={}, ({})", answer.code, answer.text))?;
        return Ok(1);
    }
    Err(Error::refused("Can not find accessible cluster member"))
}

fn word(paused: bool) -> &'static str {
    if paused {
        "pause"
    } else {
        "resume"
    }
}

fn past(paused: bool) -> &'static str {
    if paused {
        "paused"
    } else {
        "resumed"
    }
}

async fn wait_for_pause(session: &mut Session<'_>, store: &Store, old: &ClusterView, paused: bool) -> Result<i32, Error> {
    session.console.line(&format!("'{}' request sent, waiting until it is recognized by all nodes", word(paused)))?;
    let limit_s = Dynamic::of(old).loop_wait_s();
    let end = tokio::time::Instant::now() + Duration::from_secs(limit_s + 1);
    loop {
        let view = store.cluster().await?;
        let asked = view.members.iter().filter(|(name, _)| old.members.get(*name).is_some_and(|member| member.api_url.is_some()));
        let remaining: Vec<&str> =
            asked.filter(|(_, member)| member.raw.get("pause").is_some_and(is_truthy) != paused).map(|(name, _)| name.as_str()).collect();
        if remaining.is_empty() {
            session.console.line(&format!("Success: cluster management is {}", past(paused)))?;
            return Ok(0);
        }
        if tokio::time::Instant::now() >= end {
            session.console.line(&format!("{} members didn't recognized pause state after {limit_s} seconds", remaining.join(", ")))?;
            return Ok(1);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// `demote-cluster`.
///
/// # Errors
/// As [`change_role`].
pub async fn demote(session: &mut Session<'_>, values: &Values) -> Result<i32, Error> {
    let mut source = Map::new();
    for key in ["host", "port", "primary_slot_name", "restore_command"] {
        if let Some(value) = values.get(key).filter(|value| !value.is_empty()) {
            let number = value.trim().parse::<i64>().ok().filter(|_| key == "port");
            source.insert(key.to_owned(), number.map_or_else(|| value.into(), Value::from));
        }
    }
    if ["host", "port", "restore_command"].iter().all(|key| !source.contains_key(*key)) {
        return Err(Error::refused("At least --host, --port or --restore-command should be specified"));
    }
    change_role(session, values, Some(Value::Object(source))).await
}

/// `promote-cluster`.
///
/// # Errors
/// As [`change_role`].
pub async fn promote(session: &mut Session<'_>, values: &Values) -> Result<i32, Error> {
    change_role(session, values, None).await
}

/// Writes or removes `standby_cluster` and watches the leader's role follow.
async fn change_role(session: &mut Session<'_>, values: &Values, source: Option<Value>) -> Result<i32, Error> {
    let (scope, store, view) = session.open(values).await?;
    let (action, target) = if source.is_some() { ("demot", "standby_leader") } else { ("promot", "primary") };
    let (Some(leader), Some(old)) = (view.leader_member(), view.leader_name().cloned()) else {
        return Err(Error::refused(format!("Cluster has no leader, {action}ion is not possible")));
    };
    if leader.role == target {
        return Err(Error::refused("Cluster is already in the required state"));
    }
    session.console.line("Current cluster topology")?;
    session.show_members(&view, &scope)?;
    if !values.has("force") && !session.console.confirm(&format!("Are you sure you want to {action}e {scope} cluster?"))? {
        return Err(Error::refused(format!("Aborted cluster {action}ion")));
    }
    let failed = |why: String| Error::refused(format!("Failed to {action}e {scope} cluster: {why}"));
    let answer = session.rest.call(leader, "PATCH", "config", Some(json!({"standby_cluster": source})), PROMPT).await.map_err(failed)?;
    if answer.code != 200 {
        return Err(failed(format!("/config PATCH status code={}, ({})", answer.code, answer.text)));
    }
    let view = loop {
        let view = store.cluster().await?;
        let now = view.leader_member();
        let old_runs = view.members.get(&old).is_some_and(|member| member.state == "running");
        let stamp = when::stamp(session.now(), 0);
        if now.is_some_and(|leader| leader.role == target && leader.state == "running") && (source.is_none() || old_runs) {
            session.console.line(&format!("{stamp} cluster is successfully {action}ed"))?;
            break view;
        }
        let text = |value: Option<&String>| value.map_or("None", String::as_str).to_owned();
        let (role, state) = (text(now.map(|leader| &leader.role)), text(now.map(|leader| &leader.state)));
        let unlocked = if view.leader.is_none() { "True" } else { "False" };
        session.console.line(&format!("{stamp} cluster is unlocked: {unlocked}, leader role: {role}, leader state: {state}"))?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    session.show_members(&view, &scope)?;
    Ok(0)
}

/// `remove`.
///
/// # Errors
/// An answer that does not match; store and output.
pub async fn remove(session: &mut Session<'_>, values: &Values) -> Result<i32, Error> {
    const AWARE: &str = "Yes I am aware";
    let (scope, store, view) = session.open(values).await?;
    session.console.print(&show::cluster(&view, &scope, false, Format::of(values.get("format"))))?;
    if session.console.ask("Please confirm the cluster name to remove", None)? != scope {
        return Err(Error::refused("Cluster names specified do not match"));
    }
    let question = format!("You are about to remove all information in DCS for {scope}, please type: \"{AWARE}\"");
    if session.console.ask(&question, None)? != AWARE {
        return Err(Error::refused(format!("You did not exactly type \"{AWARE}\"")));
    }
    if let Some(leader) = view.leader_name() {
        let answer = session.console.ask("This cluster currently is healthy. Please specify the leader name to continue", None)?;
        if answer != leader.as_str() {
            return Err(Error::refused("You did not specify the current leader of the cluster"));
        }
    }
    store.remove().await?;
    Ok(0)
}
