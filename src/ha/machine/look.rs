//! Looks at this box's PostgreSQL: which of them count, and what each one changes in the memory.

use std::sync::Arc;

use super::{Machine, Wake, POLL_FASTEST, POLL_SLOWEST};
use crate::ha::input::Unfinished;
use crate::ha::types::{Millis, RequestId};
use crate::ha::view::{NodeView, PgState, Role};

impl Machine {
    pub(super) fn take_observation(&mut self, id: RequestId, mut node: NodeView) -> Wake {
        let Some(pending) = self.flight.observe.take_if(|pending| pending.id == id) else { return Wake::Sleep };
        node.observed_at = pending.sent_at;
        if pending.id < self.first_fresh_look {
            self.timers.observe_at = Some(self.now);
            return Wake::Sleep;
        }
        self.just_promoted = false;
        self.remember_observation(&node);
        self.node_is_old = false;
        self.node = Some(Arc::new(node));
        Wake::Decide
    }

    /// PostgreSQL was changed or ended: what was seen before does not count any more.
    pub(super) fn distrust_older_looks(&mut self) {
        self.node_floor = self.now;
        self.first_fresh_look = RequestId(self.next_id);
        self.node_is_old = true;
    }

    /// What an observation changes in the memory, whatever is decided.
    fn remember_observation(&mut self, node: &NodeView) {
        let mut died_at_once = false;
        let memory = &mut self.memory;
        if let PgState::Running(running) = &node.pg {
            memory.start_failures = 0;
            memory.won_race &= running.role == Role::Standby;
            memory.crashed_at = None;
            memory.start_unproven = false;
            memory.up_since.get_or_insert(self.now);
            memory.promotion_open &= running.role == Role::Standby;
            let before = self.node.as_ref().and_then(|node| node.pg.running());
            let progressed = before.is_none_or(|old| old.position < running.position || old.upstream != running.upstream);
            if running.role == Role::Primary || running.streaming || progressed || memory.stream_progress_at.is_none() {
                memory.stream_progress_at = Some(self.now);
                // What the upstream said before must not be compared with where we are now.
                memory.upstream = None;
            }
            if running.role == Role::Primary || running.streaming {
                memory.rewound_at = None;
                memory.rewind_failed = false;
                memory.can_follow = false;
                memory.repair = None;
                memory.upstream_failures = 0;
            }
        } else {
            memory.stream_progress_at = None;
            memory.up_since = None;
            memory.promotion_open &= node.pg.is_alive();
            if memory.start_unproven && !node.pg.is_alive() {
                memory.start_unproven = false;
                died_at_once = true;
            }
        }
        if died_at_once {
            self.count_failed_start();
        }
        let memory = &mut self.memory;
        if node.pg == PgState::Empty {
            memory.half_made = false;
        }
        self.judge_unfinished(node);
        let poll = matches!(node.pg, PgState::Starting { .. } | PgState::Unresponsive { .. });
        if poll {
            self.timers.observe_at = Some(self.now + self.timers.observe_pause);
            self.timers.observe_pause = Millis((self.timers.observe_pause.0 * 3 / 2).min(POLL_SLOWEST.0));
        } else {
            self.timers.observe_pause = POLL_FASTEST;
        }
    }

    /// What an earlier life left is only believed where the directory looks like it: a note alone removes nothing.
    fn judge_unfinished(&mut self, node: &NodeView) {
        let memory = &mut self.memory;
        match (memory.left_unfinished, &node.pg) {
            (Some(Unfinished::Copy), PgState::Unreadable { .. }) => memory.half_made = true,
            (Some(Unfinished::Rewind), PgState::Stopped(_) | PgState::Unreadable { .. }) => memory.torn = true,
            (Some(Unfinished::Bootstrap), PgState::Stopped(_)) => return,
            _ => {}
        }
        memory.left_unfinished = None;
    }
}

/// Whether PostgreSQL on this box writes, or would as soon as its start is through.
pub(super) fn may_write(node: &NodeView, promotion_open: bool) -> bool {
    match &node.pg {
        PgState::Unresponsive { as_standby } => !as_standby,
        PgState::Running(running) => running.role == Role::Primary || promotion_open,
        // One that stops may let its sessions go on until they end by themselves, and orphans of a dead postmaster may still commit.
        PgState::Starting { as_standby, .. } => !as_standby,
        _ => false,
    }
}
