//! `switchover` and `failover`: questions, checks, then the leader's REST API or, where that is silent, the store.

use std::time::Duration;

use serde_json::{json, Map, Value};

use super::args::Values;
use super::dynamic::Dynamic;
use super::error::Error;
use super::members::is_synchronous_standby;
use super::rest::Answer;
use super::session::Session;
use super::store::Store;
use super::when::{self, Scheduled};
use crate::ha::types::MemberName;
use crate::ha::view::{ClusterView, FailoverRequest, Member};

/// The two ways to another leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In order, from a healthy leader.
    Switchover,
    /// To a named member, whatever the leader does.
    Failover,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Switchover => "switchover",
            Kind::Failover => "failover",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Kind::Switchover => "Switchover",
            Kind::Failover => "Failover",
        }
    }
}

/// What was agreed on with the operator.
struct Plan {
    kind: Kind,
    leader: Option<MemberName>,
    candidate: Option<MemberName>,
    scheduled: Option<Scheduled>,
}

impl Plan {
    fn body(&self) -> Value {
        let mut body = Map::new();
        body.insert("candidate".to_owned(), self.candidate.as_ref().map_or(Value::Null, |name| name.as_str().into()));
        if self.kind == Kind::Switchover {
            body.insert("leader".to_owned(), json!(self.leader.as_ref().map(MemberName::as_str)));
        }
        if let Some(scheduled) = &self.scheduled {
            body.insert("scheduled_at".to_owned(), json!(scheduled.iso));
        }
        Value::Object(body)
    }

    fn request(&self) -> FailoverRequest {
        FailoverRequest {
            leader: self.leader.clone(),
            candidate: self.candidate.clone(),
            scheduled_at: self.scheduled.as_ref().map(|scheduled| scheduled.at),
        }
    }
}

/// `switchover` and `failover`.
///
/// # Errors
/// A refusal with its reason; store and output.
pub async fn run(session: &mut Session<'_>, values: &Values, kind: Kind) -> Result<i32, Error> {
    let (scope, store, view) = session.open(values).await?;
    session.console.line("Current cluster topology")?;
    session.show_members(&view, &scope)?;
    let plan = plan(session, values, kind, &view, &scope)?;
    if !values.has("force") {
        confirm(session, &plan, &view, &scope)?;
    }
    execute(session, &plan, &store, view, &scope).await
}

fn plan(session: &mut Session<'_>, values: &Values, kind: Kind, view: &ClusterView, scope: &str) -> Result<Plan, Error> {
    let force = values.has("force");
    let leader = match kind {
        Kind::Switchover => Some(current_leader(session, values, view, scope)?),
        Kind::Failover => None,
    };
    let candidate = candidate(session, values, kind, view, scope)?;
    if let (Kind::Failover, Some(name), false) = (kind, &candidate, force) {
        let synchronous = Dynamic::of(view).is_synchronous() && view.sync.as_ref().is_some_and(|sync| sync.value.leader.is_some());
        let was_leader = view.sync.as_ref().and_then(|sync| sync.value.leader.as_ref()) == Some(name);
        if synchronous
            && !was_leader
            && !is_synchronous_standby(view, name)
            && !session.console.confirm(&format!("Are you sure you want to failover to the asynchronous node {name}?"))?
        {
            return Err(Error::refused("Aborting failover"));
        }
    }
    let scheduled = match kind {
        Kind::Switchover => schedule(session, values, view)?,
        Kind::Failover => None,
    };
    Ok(Plan { kind, leader, candidate, scheduled })
}

fn current_leader(session: &mut Session<'_>, values: &Values, view: &ClusterView, scope: &str) -> Result<MemberName, Error> {
    let leader = view.leader_name().ok_or_else(|| Error::refused("This cluster has no leader"))?;
    let named = match values.get("leader") {
        Some(name) => name.to_owned(),
        None if values.has("force") => leader.to_string(),
        None => {
            let question = if Dynamic::of(view).is_standby_cluster() { "Standby Leader" } else { "Primary" };
            session.console.ask(question, Some(leader.as_str()))?
        }
    };
    if named != leader.as_str() {
        return Err(Error::refused(format!("Member {named} is not the leader of cluster {scope}")));
    }
    Ok(leader.clone())
}

fn candidate(session: &mut Session<'_>, values: &Values, kind: Kind, view: &ClusterView, scope: &str) -> Result<Option<MemberName>, Error> {
    let possible: Vec<&str> = view
        .members
        .iter()
        .filter(|(name, member)| Some(*name) != view.leader_name() && !member.tags.nofailover)
        .map(|(name, _)| name.as_str())
        .collect();
    if possible.is_empty() {
        return Err(Error::refused(format!("No candidates found to {} to", kind.word())));
    }
    let named = match values.get("candidate") {
        Some(name) => name.to_owned(),
        None if values.has("force") => String::new(),
        None => {
            let names: Vec<String> = possible.iter().map(|name| format!("'{name}'")).collect();
            session.console.ask(&format!("Candidate [{}]", names.join(", ")), Some(""))?
        }
    };
    if named.is_empty() {
        return match kind {
            Kind::Switchover => Ok(None),
            Kind::Failover => Err(Error::refused("Failover could be performed only to a specific candidate")),
        };
    }
    if !possible.contains(&named.as_str()) {
        let text = if view.leader_name().is_some_and(|leader| leader.as_str() == named) {
            format!("Member {named} is already the leader of cluster {scope}")
        } else {
            format!("Member {named} does not exist in cluster {scope} or is tagged as nofailover")
        };
        return Err(Error::refused(text));
    }
    Ok(Some(MemberName(named)))
}

fn schedule(session: &mut Session<'_>, values: &Values, view: &ClusterView) -> Result<Option<Scheduled>, Error> {
    let text = match values.get("scheduled") {
        Some(text) => text.to_owned(),
        None if values.has("force") => return Ok(None),
        None => {
            let example = when::next_hour(session.now());
            session.console.ask(&format!("When should the switchover take place (e.g. {example} ) "), Some("now"))?
        }
    };
    let scheduled = session.schedule(Some(&text))?;
    if scheduled.is_some() && Dynamic::of(view).is_paused() {
        return Err(Error::refused("Can't schedule switchover in the paused state"));
    }
    Ok(scheduled)
}

fn confirm(session: &mut Session<'_>, plan: &Plan, view: &ClusterView, scope: &str) -> Result<(), Error> {
    let word = plan.kind.word();
    let demoting = view.leader_name().map(|leader| format!(", demoting current leader {leader}")).unwrap_or_default();
    let (question, refusal) = match &plan.scheduled {
        Some(at) => (
            format!("Are you sure you want to schedule switchover of cluster {scope} at {}{demoting}?", at.iso),
            format!("Aborting scheduled {word}"),
        ),
        None => (format!("Are you sure you want to {word} cluster {scope}{demoting}?"), format!("Aborting {word}")),
    };
    if session.console.confirm(&question)? {
        Ok(())
    } else {
        Err(Error::refused(refusal))
    }
}

async fn execute(session: &mut Session<'_>, plan: &Plan, store: &Store, view: ClusterView, scope: &str) -> Result<i32, Error> {
    let target = view.leader_member().or_else(|| view.members.get(plan.candidate.as_ref()?));
    // The member answers when it is done: its own limit is twice the larger of ten seconds and its loop_wait.
    let patience = Duration::from_secs(Dynamic::of(&view).loop_wait_s().clamp(10, 600) * 2 + 15);
    let view = match ask(session, plan, target, patience).await {
        Ok(answer) if matches!(answer.code, 200 | 202) => {
            let stamp = when::stamp(session.now(), 6);
            let view = store.cluster().await?;
            session.console.line(&format!("{stamp} {}", answer.text))?;
            view
        }
        Ok(answer) => {
            session.console.line(&format!("{} failed, details: {}, {}", plan.kind.title(), answer.code, answer.text))?;
            return Ok(1);
        }
        Err(reason) => match fall_back(session, plan, store, &reason).await? {
            Some(view) => view,
            None => view,
        },
    };
    session.show_members(&view, scope)?;
    Ok(0)
}

async fn ask(session: &Session<'_>, plan: &Plan, target: Option<&Member>, patience: Duration) -> Result<Answer, String> {
    let target = target.ok_or("the cluster has no member to ask")?;
    let answer = session.rest.call(target, "POST", plan.kind.word(), Some(plan.body()), patience).await?;
    // Members older than switchover know only failover.
    if answer.code == 501 && plan.kind == Kind::Switchover && answer.text.contains("Server does not support this operation") {
        return session.rest.call(target, "POST", "failover", Some(plan.body()), patience).await;
    }
    Ok(answer)
}

/// Writes the request into the store, unless the silent leader has carried it out meanwhile: then the cluster as it is now.
async fn fall_back(session: &mut Session<'_>, plan: &Plan, store: &Store, reason: &str) -> Result<Option<ClusterView>, Error> {
    session.console.note(&format!("{} - WARNING - {reason}", when::stamp(session.now(), 3)));
    let view = store.cluster().await?;
    let stamp = when::stamp(session.now(), 6);
    if let (Some(asked), Some(now), None) = (&plan.leader, view.leader_name(), &plan.scheduled) {
        if asked != now {
            session.console.line(&format!("{stamp} No answer from {asked}, but the leader is {now} now"))?;
            return Ok(Some(view));
        }
    }
    let word = plan.kind.word();
    session.console.line(&format!("{stamp} Could not {word} using Patroni api, falling back to DCS"))?;
    store.put_failover(Some(plan.request()), None).await?;
    Ok(None)
}
