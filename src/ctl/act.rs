//! Commands to single members: `restart`, `reload`, `reinit`, `flush`.

use std::time::Duration;

use serde_json::{json, Map, Value};

use super::args::Values;
use super::dynamic::{is_truthy, Dynamic};
use super::error::Error;
use super::rest::{Answer, PROMPT};
use super::select::{in_role, leader_first, Named};
use super::session::Session;
use super::when::{self, Scheduled};
use crate::ha::view::ClusterView;

/// The longest that a restart is waited for where `--timeout` says nothing.
const RESTART: Duration = Duration::from_secs(3600);

/// The members that are meant: by role and by name. Asks where that is needed.
fn choose<'a>(
    session: &mut Session<'_>,
    view: &'a ClusterView,
    scope: &str,
    values: &Values,
    role: &str,
    action: &str,
) -> Result<Vec<Named<'a>>, Error> {
    let mut members = in_role(view, role);
    let mut names = values.all("members").to_vec();
    if names.is_empty() && members.is_empty() {
        return Err(Error::refused(format!("{scope} cluster doesn't have any members")));
    }
    session.show_members(view, scope)?;
    if let Some(unknown) = names.iter().find(|name| !view.members.contains_key(&name.as_str().into())) {
        return Err(Error::refused(format!("{unknown} is not a member of cluster")));
    }
    let is_candidate = |name: &String| members.iter().any(|(member, _)| member.as_str() == name);
    if names.is_empty() && action == "reinitialize" {
        if values.has("force") {
            return Ok(Vec::new());
        }
        let all: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        let answer = session.console.ask(&format!("Which member do you want to {action} [{}]?", all.join(", ")), Some(""))?;
        if !is_candidate(&answer) {
            return Err(Error::refused(format!("{answer} is not a member of cluster")));
        }
        names.push(answer);
    }
    if !names.is_empty() {
        if !names.iter().any(is_candidate) {
            return Err(Error::refused(format!("No '{role}' among provided members")));
        }
        members.retain(|(member, _)| names.iter().any(|name| name == member.as_str()));
    }
    Ok(members)
}

fn listed(members: &[Named<'_>]) -> String {
    members.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}

fn confirm(session: &mut Session<'_>, members: &[Named<'_>], action: &str) -> Result<(), Error> {
    if session.console.confirm(&format!("Are you sure you want to {action} members {}?", listed(members)))? {
        Ok(())
    } else {
        Err(Error::refused(format!("Aborted {action}")))
    }
}

fn role_of(values: &Values) -> &str {
    values.get("role").unwrap_or("any")
}

/// `reload`.
///
/// # Errors
/// A refusal with its reason; store and output. What single members say is output.
pub async fn reload(session: &mut Session<'_>, values: &Values) -> Result<i32, Error> {
    let (scope, _, view) = session.open(values).await?;
    let members = choose(session, &view, &scope, values, role_of(values), "reload")?;
    if !values.has("force") {
        confirm(session, &members, "reload")?;
    }
    let within = Dynamic::of(&view).loop_wait_s();
    let mut code = 0;
    for (name, member) in members {
        let line = match session.rest.call(member, "POST", "reload", None, PROMPT).await {
            Ok(Answer { code: 200, .. }) => format!("No changes to apply on member {name}"),
            Ok(Answer { code: 202, .. }) => {
                format!("Reload request received for member {name} and will be processed within {within} seconds")
            }
            other => {
                code = 1;
                failed(&format!("reload for member {name}"), other)
            }
        };
        session.console.line(&line)?;
    }
    Ok(code)
}

fn failed(what: &str, answer: Result<Answer, String>) -> String {
    match answer {
        Ok(answer) => format!("Failed: {what}, status code={}, ({})", answer.code, answer.text),
        Err(reason) => format!("Failed: {what}, ({reason})"),
    }
}

/// `restart`.
///
/// # Errors
/// As [`reload`].
pub async fn restart(session: &mut Session<'_>, values: &Values) -> Result<i32, Error> {
    let (scope, _, view) = session.open(values).await?;
    let mut members = choose(session, &view, &scope, values, role_of(values), "restart")?;
    let force = values.has("force");
    let scheduled = restart_time(session, values)?;
    let pending = values.has("pending");
    if pending && scheduled.is_none() {
        members.retain(|(_, member)| member.raw.get("pending_restart").is_some_and(is_truthy));
    }
    if values.has("any") && !members.is_empty() {
        let lot = usize::try_from(session.now().0).unwrap_or(0) % members.len();
        members = vec![members.swap_remove(lot)];
    }
    if !force {
        confirm_restart(session, &members, scheduled.as_ref(), pending)?;
    }
    let content = restart_body(session, values, scheduled.as_ref(), &view)?;
    let patience = values.get("timeout").and_then(seconds).map_or(RESTART, |limit| limit + Duration::from_secs(60));
    let mut code = 0;
    for (name, member) in members {
        if scheduled.is_some() && force && member.raw.get("scheduled_restart").is_some_and(|plan| !plan.is_null()) {
            let answer = session.rest.call(member, "DELETE", "restart", None, PROMPT).await;
            if !matches!(&answer, Ok(answer) if answer.code < 400) {
                session.console.line(&failed(&format!("flush scheduled restart for member {name}"), answer))?;
            }
        }
        let line = match session.rest.call(member, "POST", "restart", Some(content.clone()), patience).await {
            Ok(Answer { code: 200, .. }) => format!("Success: restart on member {name}"),
            Ok(Answer { code: 202, .. }) => format!("Success: restart scheduled on member {name}"),
            other => {
                code = 1;
                match other {
                    Ok(Answer { code: 409, .. }) => format!("Failed: another restart is already scheduled on member {name}"),
                    other => failed(&format!("restart for member {name}"), other),
                }
            }
        };
        session.console.line(&line)?;
    }
    Ok(code)
}

fn restart_time(session: &mut Session<'_>, values: &Values) -> Result<Option<Scheduled>, Error> {
    let text = match values.get("scheduled") {
        Some(text) => text.to_owned(),
        None if values.has("force") => return Ok(None),
        None => {
            let example = when::next_hour(session.now());
            session.console.ask(&format!("When should the restart take place (e.g. {example}) "), Some("now"))?
        }
    };
    session.schedule(Some(&text))
}

fn confirm_restart(session: &mut Session<'_>, members: &[Named<'_>], scheduled: Option<&Scheduled>, pending: bool) -> Result<(), Error> {
    let Some(at) = scheduled else { return confirm(session, members, "restart") };
    let question = if pending {
        "The nodes needing a restart will be identified at the scheduled time, and might be different from the ones showing pending restart \
         right now. Is this fine?"
            .to_owned()
    } else {
        format!("Are you sure you want to schedule restart of members {} at {}?", listed(members), at.iso.replacen('T', " ", 1))
    };
    if session.console.confirm(&question)? {
        Ok(())
    } else {
        Err(Error::refused("Aborted scheduled restart"))
    }
}

fn restart_body(session: &mut Session<'_>, values: &Values, scheduled: Option<&Scheduled>, view: &ClusterView) -> Result<Value, Error> {
    let version = match values.get("pg_version") {
        Some(version) => version.to_owned(),
        None if values.has("force") => String::new(),
        None => session.console.ask("Restart if the PostgreSQL version is less than provided (e.g. 9.5.2) ", Some(""))?,
    };
    let mut body = Map::new();
    if values.has("pending") {
        body.insert("restart_pending".to_owned(), Value::Bool(true));
    }
    if !version.is_empty() {
        check_version(&version)?;
        body.insert("postgres_version".to_owned(), json!(version));
    }
    if let Some(at) = scheduled {
        if Dynamic::of(view).is_paused() {
            return Err(Error::refused("Can't schedule restart in the paused state"));
        }
        body.insert("schedule".to_owned(), json!(at.iso));
    }
    if let Some(timeout) = values.get("timeout") {
        body.insert("timeout".to_owned(), json!(timeout));
    }
    Ok(Value::Object(body))
}

fn check_version(text: &str) -> Result<(), Error> {
    let parts: Vec<Option<u32>> = text.split('.').map(|part| part.parse().ok().filter(|part| *part < 100)).collect();
    match parts[..] {
        [Some(10..), Some(_)] | [Some(_), Some(_), Some(_)] => Ok(()),
        _ if parts.contains(&None) => Err(Error::refused(format!("Invalid PostgreSQL version: {text}"))),
        _ => Err(Error::refused(format!("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {text}"))),
    }
}

/// `30`, `30s`, `5min`, `1h`, `500ms`.
fn seconds(text: &str) -> Option<Duration> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..at].parse().ok()?;
    let unit = match text[at..].trim() {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit).ok().filter(|limit| *limit < Duration::from_secs(86_400 * 30))
}

/// `reinit`.
///
/// # Errors
/// As [`reload`].
pub async fn reinit(session: &mut Session<'_>, values: &Values) -> Result<i32, Error> {
    let (scope, _, view) = session.open(values).await?;
    let members = choose(session, &view, &scope, values, "replica", "reinitialize")?;
    let force = values.has("force");
    if !force {
        confirm(session, &members, "reinitialize")?;
    }
    let mut started = Vec::new();
    let mut code = 0;
    for (name, member) in members {
        let mut forced = force;
        loop {
            let body = json!({"force": forced, "from_leader": values.has("from_leader")});
            let answer = session.rest.call(member, "POST", "reinitialize", Some(body), PROMPT).await;
            if matches!(&answer, Ok(answer) if answer.code < 400) {
                session.console.line(&format!("Success: reinitialize for member {name}"))?;
                started.push((name, member));
                break;
            }
            let busy = matches!(&answer, Ok(answer) if answer.text.ends_with(" already in progress"));
            session.console.line(&failed(&format!("reinitialize for member {name}"), answer))?;
            if busy && !forced && session.console.confirm("Do you want to cancel it and reinitialize anyway?")? {
                forced = true;
                continue;
            }
            code = 1;
            break;
        }
    }
    if values.has("wait") {
        wait_for_copies(session, started).await?;
    }
    Ok(code)
}

/// Until nobody copies any more. A copy takes as long as the data is large, so the end is the operator's to set (Ctrl-C).
async fn wait_for_copies(session: &mut Session<'_>, mut waiting: Vec<Named<'_>>) -> Result<(), Error> {
    let mut shown = usize::MAX;
    while !waiting.is_empty() {
        if waiting.len() != shown {
            session.console.line(&format!("Waiting for reinitialize to complete on: {}", listed(&waiting)))?;
            shown = waiting.len();
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut still = Vec::new();
        for (name, member) in waiting {
            let answer = session.rest.call(member, "GET", "patroni", None, PROMPT).await;
            let status = answer.ok().and_then(|answer| serde_json::from_str::<Value>(&answer.text).ok());
            match status.as_ref().and_then(|status| status.get("state")).and_then(Value::as_str) {
                Some(state) if state != "creating replica" => {
                    session.console.line(&format!("Reinitialize is completed on: {name}"))?;
                }
                _ => still.push((name, member)),
            }
        }
        waiting = still;
    }
    Ok(())
}

/// `flush`.
///
/// # Errors
/// As [`reload`].
pub async fn flush(session: &mut Session<'_>, values: &Values) -> Result<i32, Error> {
    if values.get("target") == Some("switchover") {
        return flush_switchover(session, values).await;
    }
    let (scope, _, view) = session.open(values).await?;
    let members = choose(session, &view, &scope, values, role_of(values), "flush")?;
    if !values.has("force") {
        confirm(session, &members, "flush")?;
    }
    let mut code = 0;
    for (name, member) in members {
        if member.raw.get("scheduled_restart").is_none_or(Value::is_null) {
            session.console.line(&format!("No scheduled restart for member {name}"))?;
            continue;
        }
        let answer = session.rest.call(member, "DELETE", "restart", None, PROMPT).await;
        let what = format!("flush scheduled restart for member {name}");
        let line = if matches!(&answer, Ok(answer) if answer.code < 400) {
            format!("Success: {what}")
        } else {
            code = 1;
            failed(&what, answer)
        };
        session.console.line(&line)?;
    }
    Ok(code)
}

async fn flush_switchover(session: &mut Session<'_>, values: &Values) -> Result<i32, Error> {
    let (scope, store, view) = session.open(values).await?;
    let Some(request) = view.failover.as_ref().filter(|failover| failover.value.scheduled_at.is_some()) else {
        session.console.line("No pending scheduled switchover")?;
        return Ok(0);
    };
    for (name, member) in leader_first(&view) {
        match session.rest.call(member, "DELETE", "switchover", None, PROMPT).await {
            Ok(answer) if matches!(answer.code, 200 | 404) => {
                let word = if answer.code == 200 { "Success" } else { "Failed" };
                session.console.line(&format!("{word}: {}", answer.text))?;
                return Ok(i32::from(answer.code != 200));
            }
            Ok(answer) => {
                session.console.line(&format!("Failed: member={name}, status_code={}, ({})", answer.code, answer.text))?;
            }
            Err(reason) => session.console.note(&format!("Member {name} is not accessible: {reason}")),
        }
    }
    session.console.note("Failing over to DCS");
    let stamp = when::stamp(session.now(), 6);
    session.console.line(&format!("{stamp} Could not find any accessible member of cluster {scope}"))?;
    if store.put_failover(None, Some(request.revision)).await? {
        Ok(0)
    } else {
        Err(Error::refused("The scheduled switchover was changed by somebody else meanwhile"))
    }
}

#[cfg(test)]
mod tests {
    use super::{check_version, seconds};
    use std::time::Duration;

    #[test]
    fn versions_and_limits() {
        for good in ["9.5.2", "15.4", "10.0"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["15", "", "15.", "9.5", "a.b", "1.2.3.4", "150.1"] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
        assert_eq!(seconds("30"), Some(Duration::from_secs(30)));
        assert_eq!(seconds("5min"), Some(Duration::from_secs(300)));
        assert_eq!(seconds("500 ms"), Some(Duration::from_millis(500)));
        assert_eq!(seconds("soon"), None);
        assert_eq!(seconds("1e400"), None);
    }
}
