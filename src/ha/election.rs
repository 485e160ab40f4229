//! May this member become leader? Tags, timelines and positions of everybody who answers.

use super::config::{HaConfig, SyncMode};
use super::types::{Lsn, MemberName, Timeline};
use super::view::{ClusterView, PeerStatus, PeersView, PgRunning, Role, Tags};

/// Why a member does not race.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Its tags forbid it.
    NotAllowed,
    /// For this reason.
    Unfit(String),
}

/// The newest timeline that the cluster is known to have had, from `/history` (ended ones count one up).
#[must_use]
pub fn cluster_timeline(cluster: &ClusterView) -> Option<Timeline> {
    let ended = cluster.history.as_ref()?.value.iter().map(|entry| entry.timeline.0).max()?;
    Some(Timeline(ended.saturating_add(1)))
}

/// What this member can tell alone, before anybody is asked.
pub fn check_self(config: &HaConfig, cluster: &ClusterView, me: &PgRunning) -> Result<(), Obstacle> {
    if !may_lead(&config.tags) {
        return Err(Obstacle::NotAllowed);
    }
    if me.role == Role::Standby && me.replay_paused && me.replayed < me.received {
        return Err(Obstacle::Unfit("replay is paused and WAL is not replayed".to_owned()));
    }
    if is_lagging(config, cluster, me.position) {
        return Err(Obstacle::Unfit("my wal position is too far behind the last known one of the leader".to_owned()));
    }
    if config.check_timeline {
        if let Some(newest) = cluster_timeline(cluster) {
            if me.timeline < newest {
                return Err(Obstacle::Unfit(format!("my timeline {} is behind the cluster's {newest}", me.timeline)));
            }
        }
    }
    if !is_allowed_by_sync(config, cluster, &config.me) {
        return Err(Obstacle::Unfit("only a synchronous standby may become leader".to_owned()));
    }
    Ok(())
}

/// Whether tags allow a member to lead at all.
#[must_use]
pub fn may_lead(tags: &Tags) -> bool {
    !tags.nofailover && tags.failover_priority > 0
}

/// Whether `position` is further behind `/status` than `maximum_lag_on_failover`.
#[must_use]
pub fn is_lagging(config: &HaConfig, cluster: &ClusterView, position: Lsn) -> bool {
    cluster.status.optime.is_some_and(|optime| position.lag_bytes(optime) > config.maximum_lag_on_failover)
}

/// In synchronous mode only those named in `/sync` may lead.
#[must_use]
pub fn is_allowed_by_sync(config: &HaConfig, cluster: &ClusterView, who: &MemberName) -> bool {
    if config.synchronous_mode == SyncMode::Off {
        return true;
    }
    match &cluster.sync {
        Some(sync) => sync.value.leader.is_none() || sync.value.leader.as_ref() == Some(who) || sync.value.standbys.contains(who),
        None => true,
    }
}

/// Compares this member with the answers of the others; the answers must be fresh.
pub fn check_peers(config: &HaConfig, cluster: &ClusterView, me: &PgRunning, peers: &PeersView) -> Result<(), Obstacle> {
    for (name, status) in &peers.peers {
        let Some(peer) = status else { continue };
        if !peer.in_recovery {
            return Err(Obstacle::Unfit(format!("primary ({name}) is still alive")));
        }
        // Who will not race itself must not hold others up, whatever its timeline: nobody would ever lead.
        if !may_lead(&peer.tags) || peer.watchdog_failed || is_lagging(config, cluster, peer.position) {
            continue;
        }
        check_peer(config, me, name, peer)?;
    }
    Ok(())
}

fn check_peer(config: &HaConfig, me: &PgRunning, name: &MemberName, peer: &PeerStatus) -> Result<(), Obstacle> {
    if peer.timeline.is_some_and(|timeline| timeline > me.timeline) {
        return Err(Obstacle::Unfit(format!("timeline of {name} is ahead of my timeline")));
    }
    if peer.timeline.is_some_and(|timeline| timeline < me.timeline) {
        return Ok(());
    }
    if peer.position > me.position {
        return Err(Obstacle::Unfit(format!("Wal position of {name} is ahead of my wal position")));
    }
    if peer.position == me.position && peer.tags.failover_priority > config.tags.failover_priority {
        return Err(Obstacle::Unfit(format!(
            "{name} has equally tolerable WAL position and priority {}, while this node has priority {}",
            peer.tags.failover_priority, config.tags.failover_priority
        )));
    }
    Ok(())
}

/// Whether a switchover or failover could succeed with this peer as the next leader.
#[must_use]
pub fn is_good_candidate(config: &HaConfig, cluster: &ClusterView, name: &MemberName, status: Option<&PeerStatus>, by_hand: bool) -> bool {
    let Some(peer) = status else { return false };
    let allowed = may_lead(&peer.tags) && !peer.watchdog_failed && peer.in_recovery;
    // A failover by hand may break the synchronous rule, a switchover and an automatic one may not.
    allowed && !is_lagging(config, cluster, peer.position) && (by_hand || is_allowed_by_sync(config, cluster, name))
}

#[cfg(test)]
mod tests {
    use super::{check_peers, Obstacle};
    use crate::ha::config::HaConfig;
    use crate::ha::decide::samples;
    use crate::ha::types::{Instant, Lsn, MemberName, Timeline};
    use crate::ha::view::{ClusterView, PeerStatus, PeersView, Tags};

    fn peers(position: u64, timeline: u32, tags: Tags, in_recovery: bool) -> PeersView {
        let status = PeerStatus { in_recovery, position: Lsn(position), timeline: Some(Timeline(timeline)), tags, ..PeerStatus::default() };
        PeersView { asked_at: Instant(0), peers: [(MemberName::from("n2"), Some(status))].into(), ..PeersView::default() }
    }

    fn check(view: &PeersView) -> Result<(), Obstacle> {
        check_peers(&HaConfig::for_member("n1"), &ClusterView::default(), &samples::standby(1, 100), view)
    }

    #[test]
    fn who_lags_too_far_does_not_hold_others_up() {
        let mut cluster = ClusterView::default();
        cluster.status.optime = Some(Lsn(5_000_000));
        let config = HaConfig::for_member("n1");
        let stray = peers(100, 2, Tags::default(), true);
        assert!(check_peers(&config, &cluster, &samples::standby(1, 5_000_000), &stray).is_ok());
    }

    #[test]
    fn who_is_ahead() {
        assert!(check(&peers(100, 1, Tags::default(), true)).is_ok());
        assert!(check(&peers(101, 1, Tags::default(), true)).is_err());
        assert!(check(&peers(50, 2, Tags::default(), true)).is_err(), "a newer timeline wins over a position");
        assert!(check(&peers(50, 1, Tags::default(), false)).is_err(), "a live primary ends the race");
    }

    #[test]
    fn tags_count() {
        let never = Tags { nofailover: true, ..Tags::default() };
        assert!(check(&peers(500, 1, never, true)).is_ok(), "who may not lead does not hold others up");
        let preferred = Tags { failover_priority: 2, ..Tags::default() };
        assert!(check(&peers(100, 1, preferred.clone(), true)).is_err());
        assert!(check(&peers(99, 1, preferred, true)).is_ok());
    }
}
