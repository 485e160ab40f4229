//! Writes. Each is one transaction with a condition, so that an answer that was lost, a repetition at another endpoint, and a request that
//! a stopped member carries out much later can all be told apart or do no harm.

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::time::Instant;

use super::fault::{fate_unknown, Fault};
use super::{Answer, Inner};
use crate::dcs::keys::Key;
use crate::dcs::{render_failover, render_history, render_status};
use crate::ha::action::StoreRequest;
use crate::ha::input::{DcsFailure, StoreOutcome};
use crate::ha::types::{LeaseId, Lsn, Revision};
use crate::ha::view::ClusterStatus;

/// How often a write is repeated because others change the same key at the same time.
const CONTENTION_LIMIT: usize = 5;

/// What stands in a key now.
#[derive(Debug)]
struct Found {
    value: Vec<u8>,
    lease: LeaseId,
}

/// What came of a transaction.
struct Settled {
    revision: Revision,
    /// The conditions held and the operations were carried out.
    applied: bool,
    /// Otherwise: the key in question, if it exists.
    found: Option<Found>,
    /// An earlier attempt may have been carried out.
    unsure: bool,
}

impl Settled {
    /// The outcome, where `ours` says whether the key is as this write would have left it.
    fn outcome(&self, operation: &str, ours: bool) -> Result<StoreOutcome, Fault> {
        match (self.applied || ours, self.unsure) {
            (true, _) => Ok(StoreOutcome::Done { revision: self.revision }),
            (false, false) => Ok(StoreOutcome::Conflict),
            (false, true) => Err(fate_unknown(operation)),
        }
    }

    /// Whether the key holds this value (on this lease).
    fn holds(&self, value: &[u8], lease: Option<LeaseId>) -> bool {
        self.found.as_ref().is_some_and(|found| found.value == value && lease.is_none_or(|lease| found.lease == lease))
    }
}

impl Inner {
    /// Carries out a write.
    pub(super) async fn write(&self, request: StoreRequest, end: Instant) -> Result<StoreOutcome, Fault> {
        match request {
            StoreRequest::Acquire { lease } => self.acquire(lease, end).await,
            StoreRequest::Repair { lease, expect } => self.repair(lease, expect, end).await,
            StoreRequest::Release { optime, proof: _ } => self.release(optime, end).await,
            StoreRequest::ReleaseUnused { proof: _ } => self.release(None, end).await,
            StoreRequest::PutMember { value, lease } => {
                let key = self.keys.member(&self.me);
                self.overwrite("write the member key", key, value.to_string(), Some(lease), end).await
            }
            StoreRequest::ClaimInitialize { lease } => self.claim_initialize(lease, end).await,
            StoreRequest::SetInitialize { id } => self.set_initialize(&id.to_string(), end).await,
            StoreRequest::CancelInitialize { lease } => self.cancel_initialize(lease, end).await,
            StoreRequest::PutConfig { value, expect } => {
                self.put_if("write the configuration", self.key(Key::Config), value.to_string(), expect, end).await
            }
            StoreRequest::PutStatus { optime, slots, retain_slots } => {
                let status = ClusterStatus { optime: Some(optime), slots, retain_slots: retain_slots.into_iter().collect() };
                let text = render_status(optime, &status.slots, &status.retain_slots);
                let outcome = self.write_as_leader("write the status", self.key(Key::Status), text, end).await?;
                if matches!(outcome, StoreOutcome::Done { .. }) {
                    self.state().status = Some(status);
                }
                Ok(outcome)
            }
            StoreRequest::PutFailover { value, expect } => {
                let (operation, key, text) = ("write the failover request", self.key(Key::Failover), render_failover(value.as_ref()));
                match expect {
                    Some(_) => self.put_if(operation, key, text, expect, end).await,
                    None => self.overwrite(operation, key, text, None, end).await,
                }
            }
            StoreRequest::PutHistory(entries) => {
                self.write_as_leader("write the history", self.key(Key::History), render_history(&entries), end).await
            }
            StoreRequest::Read | StoreRequest::RenewLease { .. } => {
                Err(Fault::Refused(DcsFailure::Error("etcd: internal: this is not a write".to_owned())))
            }
        }
    }

    /// `then` if all of `when` holds, else a look at `key`.
    async fn transact(
        &self,
        operation: &'static str,
        when: Vec<Compare>,
        then: Vec<TxnOp>,
        key: &str,
        end: Instant,
    ) -> Result<Settled, Fault> {
        let txn = Txn::new().when(when).and_then(then).or_else(vec![TxnOp::get(key, None)]);
        let call = |mut link: super::Link| {
            let txn = txn.clone();
            async move { link.client.txn(txn).await }
        };
        let Answer { value: response, unsure } = self.attempts(operation, end, call).await?;
        let revision = self.saw(response.header());
        let applied = response.succeeded();
        let found = match response.op_responses().into_iter().next() {
            Some(TxnOpResponse::Get(get)) if !applied => {
                get.kvs().first().map(|kv| Found { value: kv.value().to_vec(), lease: LeaseId(kv.lease()) })
            }
            _ => None,
        };
        Ok(Settled { revision, applied, found, unsure })
    }

    async fn acquire(&self, lease: LeaseId, end: Instant) -> Result<StoreOutcome, Fault> {
        const OPERATION: &str = "acquire the leader key";
        self.state().lease = Some(lease);
        let key = self.key(Key::Leader);
        let absent = Compare::create_revision(key.as_str(), CompareOp::Equal, 0);
        let settled = self.transact(OPERATION, vec![absent], vec![self.put_leader(lease)], &key, end).await?;
        // Ours on our lease: an earlier attempt was applied and its answer lost.
        settled.outcome(OPERATION, settled.holds(self.me.as_str().as_bytes(), Some(lease)))
    }

    async fn repair(&self, lease: LeaseId, expect: Revision, end: Instant) -> Result<StoreOutcome, Fault> {
        const OPERATION: &str = "repair the leader key";
        self.state().lease = Some(lease);
        let key = self.key(Key::Leader);
        let mine = Compare::value(key.as_str(), CompareOp::Equal, self.me.as_str());
        let unchanged = Compare::mod_revision(key.as_str(), CompareOp::Equal, expect.0);
        let settled = self.transact(OPERATION, vec![mine, unchanged], vec![self.put_leader(lease)], &key, end).await?;
        settled.outcome(OPERATION, settled.holds(self.me.as_str().as_bytes(), Some(lease)))
    }

    fn put_leader(&self, lease: LeaseId) -> TxnOp {
        TxnOp::put(self.key(Key::Leader), self.me.as_str(), Some(PutOptions::new().with_lease(lease.0)))
    }

    /// Deletes the leader key if it is ours, and leaves `optime` beside the slots that `/status` had.
    ///
    /// The revision is part of the condition: a release that a stopped member carries out late must not delete a key that was acquired or
    /// repaired after it.
    async fn release(&self, optime: Option<Lsn>, end: Instant) -> Result<StoreOutcome, Fault> {
        const OPERATION: &str = "release the leader key";
        let key = self.key(Key::Leader);
        let me = self.me.as_str();
        let mut unsure = false;
        for _ in 0..CONTENTION_LIMIT {
            let (seen, lease, mut status) = {
                let state = self.state();
                (state.seen, state.lease, state.status.clone().unwrap_or_default())
            };
            let mut when = vec![Compare::value(key.as_str(), CompareOp::Equal, me), untouched_since(&key, seen)];
            when.extend(lease.map(|lease| Compare::lease(key.as_str(), CompareOp::Equal, lease.0)));
            let mut then = vec![TxnOp::delete(key.as_str(), None)];
            if let Some(optime) = optime {
                status.optime = Some(optime);
                then.push(TxnOp::put(self.key(Key::Status), render_status(optime, &status.slots, &status.retain_slots), None));
            }
            let mut settled = self.transact(OPERATION, when, then, &key, end).await?;
            unsure |= settled.unsure;
            settled.unsure = unsure;
            if settled.applied || !settled.holds(me.as_bytes(), lease) {
                return settled.outcome(OPERATION, settled.found.is_none());
            }
        }
        Err(fate_unknown(OPERATION))
    }

    /// The claim hangs on our lease, so that it ends with us; Patroni's hangs on none and looks the same to readers.
    async fn claim_initialize(&self, lease: LeaseId, end: Instant) -> Result<StoreOutcome, Fault> {
        const OPERATION: &str = "claim the initialize key";
        let key = self.key(Key::Initialize);
        let absent = Compare::create_revision(key.as_str(), CompareOp::Equal, 0);
        let put = TxnOp::put(key.as_str(), "", Some(PutOptions::new().with_lease(lease.0)));
        // Nobody may begin a new cluster beside a leader.
        let nobody_leads = Compare::create_revision(self.key(Key::Leader), CompareOp::Equal, 0);
        let settled = self.transact(OPERATION, vec![absent, nobody_leads], vec![put], &key, end).await?;
        // Empty on our lease: an earlier attempt was applied and its answer lost.
        settled.outcome(OPERATION, settled.holds(b"", Some(lease)))
    }

    /// Over an absent key or a claim, never over another identifier.
    async fn set_initialize(&self, id: &str, end: Instant) -> Result<StoreOutcome, Fault> {
        const OPERATION: &str = "set the initialize key";
        let key = self.key(Key::Initialize);
        let absent = Compare::create_revision(key.as_str(), CompareOp::Equal, 0);
        let claimed = Compare::value(key.as_str(), CompareOp::Equal, "");
        let mut last = None;
        for condition in [absent, claimed] {
            let put = TxnOp::put(key.as_str(), id, None);
            let settled = self.transact(OPERATION, vec![condition], vec![put], &key, end).await?;
            if settled.applied || settled.holds(id.as_bytes(), None) {
                return settled.outcome(OPERATION, true);
            }
            last = Some(settled);
        }
        match last {
            Some(settled) => settled.outcome(OPERATION, false),
            None => Err(fate_unknown(OPERATION)),
        }
    }

    /// Only our own claim: a late one must not delete another member's.
    async fn cancel_initialize(&self, lease: LeaseId, end: Instant) -> Result<StoreOutcome, Fault> {
        const OPERATION: &str = "cancel the initialisation";
        let key = self.key(Key::Initialize);
        let empty = Compare::value(key.as_str(), CompareOp::Equal, "");
        let ours = Compare::lease(key.as_str(), CompareOp::Equal, lease.0);
        let settled = self.transact(OPERATION, vec![empty, ours], vec![TxnOp::delete(key.as_str(), None)], &key, end).await?;
        settled.outcome(OPERATION, settled.found.is_none())
    }

    /// Writes a key if it has the expected revision, or if it is absent.
    async fn put_if(
        &self,
        operation: &'static str,
        key: String,
        value: String,
        expect: Option<Revision>,
        end: Instant,
    ) -> Result<StoreOutcome, Fault> {
        let condition = match expect {
            Some(revision) => Compare::mod_revision(key.as_str(), CompareOp::Equal, revision.0),
            None => Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
        };
        let put = TxnOp::put(key.as_str(), value.as_str(), None);
        let settled = self.transact(operation, vec![condition], vec![put], &key, end).await?;
        settled.outcome(operation, settled.unsure && settled.holds(value.as_bytes(), None))
    }

    /// Writes a key that only the leader writes, over a state that was seen.
    ///
    /// A write that arrives after the lease has ended changes nothing: those who race for the key judge their lag by what they read.
    async fn write_as_leader(&self, operation: &'static str, key: String, value: String, end: Instant) -> Result<StoreOutcome, Fault> {
        let leader = self.key(Key::Leader);
        for _ in 0..CONTENTION_LIMIT {
            let leads = Compare::value(leader.as_str(), CompareOp::Equal, self.me.as_str());
            let when = vec![leads, untouched_since(&key, self.state().seen)];
            let put = TxnOp::put(key.as_str(), value.as_str(), None);
            let settled = self.transact(operation, when, vec![put], &leader, end).await?;
            if settled.applied || !settled.holds(self.me.as_str().as_bytes(), None) {
                return settled.outcome(operation, false);
            }
        }
        Err(Fault::Unknown(DcsFailure::Error(format!("etcd: {operation}: others keep changing the key"))))
    }

    /// Writes a key whatever it holds, but only over a state that was seen: a write that a stopped member carries out late does not undo a
    /// newer one.
    async fn overwrite(
        &self,
        operation: &'static str,
        key: String,
        value: String,
        lease: Option<LeaseId>,
        end: Instant,
    ) -> Result<StoreOutcome, Fault> {
        let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
        let target = lease.unwrap_or(LeaseId(0));
        for _ in 0..CONTENTION_LIMIT {
            let condition = untouched_since(&key, self.state().seen);
            let put = TxnOp::put(key.as_str(), value.as_str(), options.clone());
            let settled = self.transact(operation, vec![condition], vec![put], &key, end).await?;
            if settled.applied || settled.holds(value.as_bytes(), Some(target)) {
                return settled.outcome(operation, true);
            }
        }
        Err(Fault::Unknown(DcsFailure::Error(format!("etcd: {operation}: others keep changing the key"))))
    }
}

/// The key was not changed after the revision `seen` (an absent key has the revision 0).
fn untouched_since(key: &str, seen: i64) -> Compare {
    Compare::mod_revision(key, CompareOp::Less, seen.saturating_add(1))
}
