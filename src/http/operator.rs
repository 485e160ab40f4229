//! The bodies of commands: checked here as far as the words go, with Patroni's codes and sentences. Whether a well-formed command is
//! possible now is the core's decision.

use serde_json::{Map, Value};

use crate::ha::action::Reply;
use crate::ha::input::{Command, RestartRequest};
use crate::ha::types::{MemberName, Millis, WallTime};

use super::parse::{self, ScheduleError};
use super::view::View;

/// A body as JSON object. The error is the code of the error page.
pub fn read_body(body: &[u8], has_length: bool, optional: bool) -> Result<Map<String, Value>, u16> {
    if !has_length && !optional {
        return Err(411);
    }
    if body.is_empty() && optional {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) if optional || !map.is_empty() => Ok(map),
        _ => Err(400),
    }
}

/// `POST /switchover` (`failover: false`) and `POST /failover`.
pub fn switchover(failover: bool, body: &Map<String, Value>, view: &View<'_>) -> Result<Command, Reply> {
    let field = |name: &str| body.get(name).filter(|value| parse::truthy(value));
    let leader = field("leader").map(name);
    let candidate = field("candidate").or_else(|| field("member")).map(name);
    let bad = |text: &str| Err(Reply::text(400, text));
    if failover && candidate.is_none() {
        return bad("Failover could be performed only to a specific candidate");
    }
    if !failover && leader.is_none() {
        return bad("Switchover could be performed only from a specific leader");
    }
    let scheduled_at = match field("scheduled_at") {
        None => None,
        Some(_) if failover => return bad("Failover can't be scheduled"),
        Some(_) if view.is_paused() => return bad("Can't schedule switchover in the paused state"),
        Some(at) => Some(schedule(at, "switchover", view.wall)?),
    };
    if view.is_paused() && candidate.is_none() {
        return bad("Switchover is possible only to a specific candidate in a paused state");
    }
    if leader == candidate {
        return bad("Switchover target and source are the same");
    }
    match (leader, candidate) {
        // A failover that names the leader is a switchover.
        (Some(leader), candidate) => Ok(Command::Switchover { leader, candidate, scheduled_at }),
        (None, Some(candidate)) => Ok(Command::Failover { candidate }),
        (None, None) => bad("Failover could be performed only to a specific candidate"),
    }
}

/// Anything can be sent as a name; what is no text matches no member.
fn name(value: &Value) -> MemberName {
    MemberName(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

fn schedule(value: &Value, what: &str, now: WallTime) -> Result<WallTime, Reply> {
    match value.as_str().map_or(Err(ScheduleError::Unreadable), parse::schedule) {
        Ok(at) if at < now => Err(Reply::text(422, format!("Cannot schedule {what} in the past"))),
        Ok(at) => Ok(at),
        Err(ScheduleError::NoZone) => Err(Reply::text(400, format!("Timezone information is mandatory for the scheduled {what}"))),
        Err(ScheduleError::Unreadable) => {
            Err(Reply::text(422, "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601"))
        }
    }
}

/// `POST /restart`.
pub fn restart(body: &Map<String, Value>, view: &View<'_>) -> Result<Command, Reply> {
    if view.is_paused() && body.contains_key("schedule") {
        return Err(Reply::text(500, "Can't schedule restart in the paused state"));
    }
    let mut request = RestartRequest::default();
    for (key, value) in body {
        match key.as_str() {
            "schedule" => request.schedule = Some(schedule(value, "restart", view.wall)?),
            "role" => request.role = Some(restart_role(value)?),
            "postgres_version" => request.postgres_version = Some(version(value)?),
            "timeout" => request.timeout = Some(timeout(value)?),
            "restart_pending" => request.restart_pending = parse::truthy(value),
            other => return Err(Reply::text(400, format!("Unknown filter for the scheduled restart: {other}"))),
        }
    }
    Ok(Command::Restart(request))
}

fn restart_role(value: &Value) -> Result<String, Reply> {
    match value.as_str() {
        Some(role @ ("primary" | "standby_leader" | "replica")) => Ok(role.to_owned()),
        // The old word, which older scripts still send.
        Some("master") => Ok("primary".to_owned()),
        _ => Err(Reply::text(400, "PostgreSQL role should be either primary, standby_leader, or replica")),
    }
}

fn version(value: &Value) -> Result<u32, Reply> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    parse::server_version(&text).map_err(|sentence| Reply::text(400, sentence))
}

fn timeout(value: &Value) -> Result<Millis, Reply> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let seconds = parse::with_unit(&text, "s").and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    seconds.map(Millis::from_secs).ok_or_else(|| Reply::text(400, "Timeout should be a positive number of seconds"))
}

/// `POST /reinitialize`. Patroni's documentation writes `from-leader`, its code reads `from_leader`: both count.
#[must_use]
pub fn reinitialize(body: &Map<String, Value>) -> Command {
    let flag = |name: &str| body.get(name).is_some_and(parse::boolean);
    Command::Reinitialize { force: flag("force"), from_leader: flag("from_leader") || flag("from-leader") }
}

/// How long an answer to `command` is waited for.
#[must_use]
pub fn patience(command: &Command, view: &View<'_>) -> Millis {
    let Some(config) = view.snapshot().map(|snapshot| &snapshot.config) else { return Millis::from_secs(10) };
    let store = Millis(config.retry_timeout.0.saturating_add(config.loop_wait.0).saturating_add(5000));
    match command {
        Command::Switchover { scheduled_at: None, .. } | Command::Failover { .. } => {
            Millis(config.loop_wait.0.max(10_000).saturating_mul(2).saturating_add(5000))
        }
        Command::Restart(RestartRequest { schedule: None, timeout, .. }) => {
            let work = timeout.unwrap_or(config.primary_start_timeout).0.max(config.pg_ctl_timeout.0);
            Millis(work.saturating_add(config.pg_ctl_timeout.0).saturating_add(5000).min(3_600_000))
        }
        _ => store,
    }
}

/// The answer when `patience` has passed: the command may or may not be carried out.
#[must_use]
pub fn unanswered(command: &Command) -> Reply {
    let text = match command {
        Command::Switchover { .. } => "Switchover status unknown",
        Command::Failover { .. } => "Failover status unknown",
        Command::Restart(_) => "restart status unknown",
        _ => "no answer from the agent's main loop in time; the request may still be carried out",
    };
    Reply::text(503, text)
}
