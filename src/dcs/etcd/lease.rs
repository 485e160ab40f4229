//! Leases: granted through consensus, kept alive by the etcd leader alone, and therefore confirmed.
//!
//! An etcd leader renews leases without asking the others. One that was stopped and continues, or is cut off, does so for a moment although
//! its successor may have expired the same lease. So each renewal is followed by a linearizable read, which only the true leader can serve:
//! with the same raft term before and after, the renewal was the true leader's.

use etcd_client::{Error as ClientError, GetOptions, LeaseKeepAliveStream, LeaseKeeper};
use tokio::time::Instant;

use super::fault::Fault;
use super::{Inner, Link};
use crate::dcs::keys::Key;
use crate::ha::input::StoreOutcome;
use crate::ha::types::{LeaseId, Millis};

/// An open stream of renewals without any under way. It is taken out while it is used: a renewal that was given up leaves an answer in the
/// stream that would look like the answer to the next one, and make the lease seem newer than it is.
pub(super) struct Keeper {
    lease: LeaseId,
    generation: u64,
    sender: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

/// What a renewal found.
enum Renewal {
    /// Renewed; length in seconds.
    Alive(i64),
    /// No such lease.
    Gone,
}

impl Inner {
    /// Grants a lease. If the answer is lost, the lease ends by itself after its time.
    pub(super) async fn grant(&self, ttl: Millis, end: Instant) -> Result<StoreOutcome, Fault> {
        let seconds = i64::try_from(ttl.0.div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        let answer = self.attempts("grant a lease", end, |mut link| async move { link.client.lease_grant(seconds, None).await });
        let granted = answer.await?.value;
        self.saw(granted.header());
        let lease = LeaseId(granted.id());
        self.state().memory.lease = Some(lease);
        Ok(StoreOutcome::Lease { lease, ttl: seconds_to_millis(granted.ttl()) })
    }

    /// Renews a lease.
    pub(super) async fn renew(&self, lease: LeaseId, end: Instant) -> Result<StoreOutcome, Fault> {
        let answer = self.attempts("renew the lease", end, |link| self.renew_over(link, lease)).await?;
        let mut state = self.state();
        match answer.value {
            Renewal::Alive(ttl) => {
                state.memory.lease = Some(lease);
                Ok(StoreOutcome::Lease { lease, ttl: seconds_to_millis(ttl) })
            }
            Renewal::Gone => {
                if state.memory.lease == Some(lease) {
                    state.memory.lease = None;
                }
                Ok(StoreOutcome::LeaseGone)
            }
        }
    }

    async fn renew_over(&self, mut link: Link, lease: LeaseId) -> Result<Renewal, ClientError> {
        // An etcd leader change in the middle makes the terms differ; then once more.
        for _ in 0..3 {
            let (mut keeper, ttl, term) = match self.keep_alive(&mut link, lease).await? {
                Some(renewed) => renewed,
                None => return Ok(Renewal::Gone),
            };
            let options = GetOptions::new().with_count_only();
            let response = link.client.get(self.key(Key::Leader), Some(options)).await?;
            self.saw(response.header());
            if response.header().is_some_and(|header| header.raft_term() == term) {
                keeper.generation = link.generation;
                self.state().keeper = Some(keeper);
                return Ok(Renewal::Alive(ttl));
            }
        }
        Err(ClientError::LeaseKeepAliveError("the etcd leader keeps changing".to_owned()))
    }

    /// One renewal: the stream it went over, the length of the lease, the raft term before it. `None`: no such lease.
    async fn keep_alive(&self, link: &mut Link, lease: LeaseId) -> Result<Option<(Keeper, i64, u64)>, ClientError> {
        let kept = self.state().keeper.take().filter(|keeper| keeper.lease == lease && keeper.generation == link.generation);
        if let Some(mut keeper) = kept {
            if let Ok(Some((ttl, term))) = ask(&mut keeper).await {
                return Ok((ttl > 0).then_some((keeper, ttl, term)));
            }
            // The server closed the old stream; a new one may do.
        }
        // Opening renews once, but does not tell the length.
        let (sender, answers) = match link.client.lease_keep_alive(lease.0).await {
            Ok(opened) => opened,
            Err(ClientError::LeaseKeepAliveError(text)) if text == "lease not found" => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut keeper = Keeper { lease, generation: link.generation, sender, answers };
        match ask(&mut keeper).await? {
            Some((ttl, term)) => Ok((ttl > 0).then_some((keeper, ttl, term))),
            None => Err(ClientError::LeaseKeepAliveError("the server closed the stream".to_owned())),
        }
    }
}

/// Sends one renewal and waits for its answer: length of the lease (0: gone) and raft term. `None`: the stream is closed.
async fn ask(keeper: &mut Keeper) -> Result<Option<(i64, u64)>, ClientError> {
    keeper.sender.keep_alive().await?;
    let answer = keeper.answers.message().await?;
    // The member notes its term before it asks the leader, so a change on the way shows.
    Ok(answer.map(|answer| (answer.ttl(), answer.header().map_or(0, etcd_client::ResponseHeader::raft_term))))
}

fn seconds_to_millis(seconds: i64) -> Millis {
    Millis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}
