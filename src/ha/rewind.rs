//! Can this data directory follow that upstream? Timelines and positions only; PostgreSQL manual 27.2 and `pg_rewind`.

use super::types::{Lsn, Timeline};
use super::view::{HistoryEntry, PgState, UpstreamHistory};

/// Where a data directory stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalEnd {
    /// Its timeline.
    pub timeline: Timeline,
    /// The last position known to be written; a crashed primary may have written more.
    pub lsn: Lsn,
    /// `lsn` is the *start* of the last record (a shutdown checkpoint), so the record itself must lie before the branch.
    pub is_record_start: bool,
    /// The true end is unknown: a primary that crashed.
    pub open_ended: bool,
}

impl LocalEnd {
    /// The end of this box's WAL, as far as the observation tells.
    #[must_use]
    pub fn of(pg: &PgState) -> Option<LocalEnd> {
        match pg {
            PgState::Stopped(control) => {
                let (timeline, lsn) = control.end();
                let was_primary = control.was_primary();
                let open_ended = was_primary && !control.state.is_clean();
                Some(LocalEnd { timeline, lsn, is_record_start: was_primary, open_ended })
            }
            PgState::Running(running) => {
                Some(LocalEnd { timeline: running.timeline, lsn: running.position, is_record_start: false, open_ended: false })
            }
            _ => None,
        }
    }
}

/// How our WAL relates to the upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Our WAL is a prefix of its history: we can follow.
    Ancestor,
    /// As far as we can tell a prefix, but the upstream has removed what comes next.
    WalGone,
    /// A crashed primary on an older timeline: only a look at all of its WAL can tell.
    Unclear,
    /// We wrote what it does not have.
    Diverged,
}

/// Whether two histories name different ends of the same timeline: two primaries went on from different places under the same number.
#[must_use]
pub fn branches_differ(ours: &[HistoryEntry], upstream: &UpstreamHistory) -> bool {
    ours.iter().any(|our| upstream.history.iter().any(|(timeline, end)| *timeline == our.timeline && *end != our.lsn))
}

/// Compares our end with the upstream's history.
#[must_use]
pub fn compare(local: LocalEnd, upstream: &UpstreamHistory) -> Relation {
    if local.timeline > upstream.timeline {
        return Relation::Diverged;
    }
    if local.timeline == upstream.timeline {
        // A primary cannot be behind a standby of its own timeline, unless the standby's extra WAL was lost with an older primary's memory.
        let ahead = upstream.is_primary && local.lsn > upstream.position;
        return if ahead { Relation::Diverged } else { same_timeline(local, upstream) };
    }
    let Some(&(_, branch)) = upstream.history.iter().find(|(timeline, _)| *timeline == local.timeline) else {
        return Relation::Diverged;
    };
    let beyond = if local.is_record_start { local.lsn >= branch } else { local.lsn > branch };
    if beyond {
        Relation::Diverged
    } else if local.open_ended {
        Relation::Unclear
    } else {
        wal_left(local, upstream, Relation::Ancestor)
    }
}

/// A crashed primary's `pg_control` may name the timeline of its last checkpoint, while it wrote on a newer one already.
fn same_timeline(local: LocalEnd, upstream: &UpstreamHistory) -> Relation {
    if local.open_ended {
        Relation::Unclear
    } else {
        wal_left(local, upstream, Relation::Ancestor)
    }
}

fn wal_left(local: LocalEnd, upstream: &UpstreamHistory, otherwise: Relation) -> Relation {
    match upstream.oldest_wal {
        Some(oldest) if local.lsn < oldest => Relation::WalGone,
        _ => otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::{compare, LocalEnd, Relation};
    use crate::ha::types::{Lsn, MemberName, SystemId, Timeline};
    use crate::ha::view::UpstreamHistory;

    fn upstream(timeline: u32, position: u64, history: &[(u32, u64)]) -> UpstreamHistory {
        UpstreamHistory {
            member: MemberName::from("n2"),
            is_primary: true,
            system_id: SystemId(1),
            timeline: Timeline(timeline),
            position: Lsn(position),
            history: history.iter().map(|&(tl, lsn)| (Timeline(tl), Lsn(lsn))).collect(),
            oldest_wal: None,
        }
    }

    fn standby(timeline: u32, lsn: u64) -> LocalEnd {
        LocalEnd { timeline: Timeline(timeline), lsn: Lsn(lsn), is_record_start: false, open_ended: false }
    }

    fn stopped_primary(timeline: u32, checkpoint: u64, crashed: bool) -> LocalEnd {
        LocalEnd { timeline: Timeline(timeline), lsn: Lsn(checkpoint), is_record_start: true, open_ended: crashed }
    }

    #[test]
    fn standbys() {
        let two = upstream(2, 900, &[(1, 500)]);
        assert_eq!(compare(standby(1, 500), &two), Relation::Ancestor);
        assert_eq!(compare(standby(1, 501), &two), Relation::Diverged);
        assert_eq!(compare(standby(2, 900), &two), Relation::Ancestor);
        assert_eq!(compare(standby(2, 901), &two), Relation::Diverged);
        assert_eq!(compare(standby(3, 100), &two), Relation::Diverged);
    }

    #[test]
    fn former_primaries() {
        let two = upstream(2, 900, &[(1, 500)]);
        // The shutdown checkpoint starts before the branch: it was replicated.
        assert_eq!(compare(stopped_primary(1, 400, false), &two), Relation::Ancestor);
        assert_eq!(compare(stopped_primary(1, 500, false), &two), Relation::Diverged);
        assert_eq!(compare(stopped_primary(1, 400, true), &two), Relation::Unclear);
        assert_eq!(compare(stopped_primary(1, 600, true), &two), Relation::Diverged);
    }

    #[test]
    fn a_short_stray_promotion_is_seen() {
        let one = upstream(1, 900, &[]);
        assert_eq!(compare(standby(2, 600), &one), Relation::Diverged);
    }

    #[test]
    fn a_short_stray_promotion_that_crashed_is_not_trusted() {
        let one = upstream(1, 900, &[]);
        assert_eq!(compare(stopped_primary(1, 600, true), &one), Relation::Unclear);
        assert_eq!(compare(stopped_primary(1, 600, false), &one), Relation::Ancestor);
    }

    #[test]
    fn wal_that_is_gone_is_told_from_divergence() {
        let mut two = upstream(2, 900, &[(1, 500)]);
        two.oldest_wal = Some(Lsn(450));
        assert_eq!(compare(standby(1, 440), &two), Relation::WalGone);
        assert_eq!(compare(standby(1, 460), &two), Relation::Ancestor);
    }
}
