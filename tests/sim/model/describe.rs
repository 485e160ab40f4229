//! Inputs, actions and nodes as short text for the trace.

use mastiff::ha::action::{Action, Job, StartAs, StoreRequest};
use mastiff::ha::input::{Input, StoreOutcome};
use mastiff::ha::view::{NodeView, PgState, Role};

use super::node::{Node, Power, Process};
use super::postgres::Proc;

/// The fixed columns of a node.
pub fn columns(node: &Node, lease_left: Option<i64>, lock: bool) -> String {
    let process = match (node.power, node.agent.process) {
        (Power::Off, _) => "off",
        (Power::Suspended, _) => "suspend",
        (_, Process::Running) => "runs",
        (_, Process::Stopped) => "stopped",
        (_, Process::Dead) => "dead",
    };
    let postgres = match node.pg.proc {
        Proc::Down if node.pg.cluster().is_none() => "empty",
        Proc::Down => "down",
        Proc::Starting { primary: true } => "starting!",
        Proc::Starting { primary: false } => "starting",
        Proc::Standby if node.pg.stream.is_some() => "streams",
        Proc::Standby => "standby",
        Proc::Promoting => "promotes",
        Proc::Primary => "primary",
        Proc::Stopping { .. } => "stopping",
    };
    let lsn = node.pg.cluster().map_or(0, |cluster| cluster.wal.end());
    let mark = if lock { '*' } else { ' ' };
    let lease = lease_left.map_or("-".to_owned(), |left| format!("{}.{}", left / 1000, left.abs() % 1000 / 100));
    format!("{process:<8} {postgres:<9} {:>3} {lsn:>10x} {lease:>6}{mark}", node.pg.timeline())
}

/// An input.
pub fn input(input: &Input) -> String {
    match input {
        Input::Store { id, outcome } => format!("store {}: {}", id.0, self::outcome(outcome)),
        Input::Observed { id, node } => format!("observed {}: {} (asked at {})", id.0, postgres(node), node.observed_at.0),
        Input::Config(config) => format!("config ttl={} loop_wait={}", config.ttl, config.loop_wait),
        Input::Upstream { id, result: Ok(history) } => {
            format!(
                "upstream {}: {} primary={} tl={} at {:x} history={:?}",
                id.0, history.member, history.is_primary, history.timeline, history.position.0, history.history
            )
        }
        Input::Peers { id, view } => {
            let mut text = format!("peers {}:", id.0);
            for (name, status) in &view.peers {
                match status {
                    Some(status) => {
                        let role = if status.in_recovery { "standby" } else { "primary" };
                        let timeline = status.timeline.map_or(0, |timeline| timeline.0);
                        text.push_str(&format!(" {name}={role},tl={timeline},{:x}", status.position.0));
                    }
                    None => text.push_str(&format!(" {name}=silent")),
                }
            }
            text
        }
        other => format!("{other:?}"),
    }
}

fn outcome(outcome: &StoreOutcome) -> String {
    match outcome {
        StoreOutcome::View(view) => {
            let members: Vec<&str> = view.members.keys().map(|name| name.as_str()).collect();
            let leader = view.leader.as_ref().map_or("-".to_owned(), |leader| format!("{} (lease {:x})", leader.name, leader.lease.0));
            format!(
                "view rev={} leader={leader} members={} init={:?} optime={:x} failover={:?}",
                view.revision.0,
                members.join(","),
                view.initialize,
                view.status.optime.map_or(0, |lsn| lsn.0),
                view.failover.as_ref().map(|failover| &failover.value)
            )
        }
        other => format!("{other:?}"),
    }
}

fn postgres(node: &NodeView) -> String {
    match &node.pg {
        PgState::Running(running) => format!(
            "{} tl={} at {:x}{} upstream={:?}",
            if running.role == Role::Primary { "primary" } else { "standby" },
            running.timeline,
            running.position.0,
            if running.streaming { " streaming" } else { "" },
            running.upstream
        ),
        PgState::Stopped(control) => {
            format!("stopped {:?} tl={} checkpoint {:x}", control.state, control.timeline, control.checkpoint.0)
        }
        PgState::Starting { stopping, as_standby, .. } => format!("starting stopping={stopping} as_standby={as_standby}"),
        other => format!("{other:?}"),
    }
}

/// An action, unless it is of no interest.
pub fn action(action: &Action) -> Option<String> {
    match action {
        Action::Store { id, request, deadline } => Some(format!("store {}: {} within {deadline}", id.0, self::request(request))),
        Action::RunJob { id, job } => Some(format!("job {}: {}", id.0, self::job(job))),
        Action::Log { level, text } => Some(format!("{level}: {text}")),
        Action::Observe { id, .. } => Some(format!("observe {}", id.0)),
        Action::Reply { to, reply } => Some(format!("reply {}: {} {:?}", to.0, reply.code, reply.body)),
        Action::Publish(_) => None,
        other => Some(format!("{other:?}")),
    }
}

fn request(request: &StoreRequest) -> String {
    match request {
        StoreRequest::PutMember { value, lease } => format!("put member {value} on {:x}", lease.0),
        StoreRequest::PutStatus { optime, .. } => format!("put status optime={:x}", optime.0),
        StoreRequest::PutHistory(history) => format!("put history of {}", history.len()),
        other => format!("{other:?}"),
    }
}

fn job(job: &Job) -> String {
    match job {
        Job::Start { role: StartAs::Standby(upstream), .. } => {
            format!("start as standby of {}", upstream.as_ref().map_or("nobody", |upstream| upstream.name.as_str()))
        }
        other => format!("{other:?}"),
    }
}
