//! The operator: commands at awkward moments.

use mastiff::ha::input::{Command, Input, RestartRequest, Signal};
use mastiff::ha::types::{MemberName, ReplyId};
use serde_json::json;

use super::world::World;
use crate::schedule::{Fault, Kind};

impl World {
    /// Sends a command to the node's REST API.
    pub fn command(&mut self, fault: &Fault) {
        if !self.nodes[fault.node].agent_runs() {
            return;
        }
        let name = |index: usize| MemberName(self.names[index].clone());
        let command = match fault.kind {
            Kind::Switchover => {
                let leader = self.store.view().leader_name().cloned().unwrap_or_else(|| name(fault.node));
                let candidate = fault.at.is_multiple_of(2).then(|| name(fault.peer));
                Command::Switchover { leader, candidate, scheduled_at: None }
            }
            Kind::Failover => Command::Failover { candidate: name(fault.peer) },
            Kind::Restart => Command::Restart(RestartRequest::default()),
            Kind::PatchConfig => Command::PatchConfig(patch(fault.arg)),
            _ => return,
        };
        self.commands += 1;
        let reply = ReplyId(self.commands);
        self.nodes[fault.node].agent.replies_due.insert(reply.0);
        self.send(fault.node, 1, Input::Command { reply, command });
    }

    /// Pause, or its end.
    pub fn pause(&mut self, node: usize, on: bool) {
        if self.nodes[node].agent_runs() {
            self.commands += 1;
            let reply = ReplyId(self.commands);
            self.nodes[node].agent.replies_due.insert(reply.0);
            self.send(node, 1, Input::Command { reply, command: Command::PatchConfig(json!({ "pause": on })) });
        }
    }

    /// SIGTERM of the agent.
    pub fn terminate(&mut self, node: usize) {
        if self.nodes[node].agent_runs() {
            self.send(node, 1, Input::Signal(Signal::Terminate));
        }
    }
}

fn patch(choice: u64) -> serde_json::Value {
    match choice {
        0 => json!({ "ttl": 40 }),
        1 => json!({ "ttl": 20 }),
        2 => json!({ "loop_wait": 2 }),
        3 => json!({ "loop_wait": 5 }),
        4 => json!({ "maximum_lag_on_failover": 33_554_432 }),
        5 => json!({ "ttl": 60, "loop_wait": 10 }),
        _ => json!({ "maximum_lag_on_failover": 1_048_576 }),
    }
}
