//! Literal views for tests and the golden cases.

use std::collections::BTreeMap;

use crate::ha::types::{Lsn, SystemId, Timeline};
use crate::ha::view::{ControlData, ControlState, PgRunning, Role};

/// The system identifier of the samples.
pub const SYSTEM_ID: SystemId = SystemId(7_000_000_000_000_000_001);

fn running(role: Role, timeline: u32, position: u64) -> PgRunning {
    PgRunning {
        role,
        system_id: SYSTEM_ID,
        server_version: 150_020,
        timeline: Timeline(timeline),
        position: Lsn(position),
        received: None,
        replayed: None,
        replay_paused: false,
        replayed_at: None,
        streaming: false,
        upstream: None,
        started_at: "2026-11-20 21:22:38.723601+00:00".to_owned(),
        replication: Vec::new(),
        slots: BTreeMap::new(),
        pending_restart: BTreeMap::new(),
        needs_reload: false,
        history: Vec::new(),
        synchronous_standby_names: String::new(),
    }
}

/// A primary.
#[must_use]
pub fn primary(timeline: u32, position: u64) -> PgRunning {
    running(Role::Primary, timeline, position)
}

/// A standby that follows nobody.
#[must_use]
pub fn standby(timeline: u32, position: u64) -> PgRunning {
    PgRunning { received: Some(Lsn(position)), replayed: Some(Lsn(position)), ..running(Role::Standby, timeline, position) }
}

/// A stopped directory.
#[must_use]
pub fn control(state: ControlState, timeline: u32, checkpoint: u64) -> ControlData {
    ControlData {
        system_id: SYSTEM_ID,
        state,
        timeline: Timeline(timeline),
        checkpoint: Lsn(checkpoint),
        min_recovery_end: Lsn(0),
        min_recovery_timeline: Timeline(0),
        can_rewind: true,
        is_copy: false,
    }
}
