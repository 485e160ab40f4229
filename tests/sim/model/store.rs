//! The store: keys with revisions, leases that end by the store's own time, and the transactions of `StoreRequest`.

use std::collections::BTreeMap;

use mastiff::ha::action::StoreRequest;
use mastiff::ha::input::{DcsFailure, StoreOutcome};
use mastiff::ha::types::{LeaseId, Lsn, MemberName, Millis, Revision, SystemId, Timeline};
use mastiff::ha::view::{ClusterStatus, ClusterView, FailoverRequest, HistoryEntry, Initialize, LeaderEntry, Member, Tags, Versioned};
use serde_json::Value;

/// A lease.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Granted length, milliseconds.
    pub ttl: u64,
    /// World time of its end.
    pub expires: u64,
    /// Whose it is.
    pub node: usize,
}

/// What changed, for the watchers and the checkers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// A key changed that wakes the members up.
    pub watched: bool,
    /// The leader key was deleted on request.
    pub released: bool,
    /// A lease was granted: its end must be looked at.
    pub granted: Option<i64>,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    revision: i64,
    view: ClusterView,
    initialize_lease: Option<i64>,
    /// Leases by number.
    pub leases: BTreeMap<i64, Lease>,
    next_lease: i64,
    /// Outages under way.
    pub outages: u32,
    names: Vec<MemberName>,
}

impl Store {
    /// An empty store.
    pub fn new(names: Vec<MemberName>) -> Store {
        Store {
            revision: 1,
            view: ClusterView::default(),
            initialize_lease: None,
            leases: BTreeMap::new(),
            next_lease: 0x1000,
            outages: 0,
            names,
        }
    }

    /// Whether it answers.
    pub fn is_up(&self) -> bool {
        self.outages == 0
    }

    /// The truth, for the checkers.
    pub fn view(&self) -> &ClusterView {
        &self.view
    }

    /// Who holds the leader key.
    pub fn holder(&self) -> Option<usize> {
        let name = self.view.leader_name()?;
        self.names.iter().position(|known| known == name)
    }

    /// World time until which the leader key's lease lasts.
    pub fn leader_until(&self) -> Option<u64> {
        self.leases.get(&self.view.leader.as_ref()?.lease.0).map(|lease| lease.expires)
    }

    /// Revision of the store.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Carries a request out.
    pub fn apply(&mut self, node: usize, request: StoreRequest, now: u64) -> (StoreOutcome, Change) {
        let mut change = Change::default();
        let outcome = self.apply_to(node, request, now, &mut change);
        (outcome, change)
    }

    fn apply_to(&mut self, node: usize, request: StoreRequest, now: u64, change: &mut Change) -> StoreOutcome {
        match request {
            StoreRequest::Read => {
                self.view.revision = Revision(self.revision);
                StoreOutcome::View(Box::new(self.view.clone()))
            }
            StoreRequest::RenewLease { lease, ttl } => self.renew(node, lease, ttl, now, change),
            StoreRequest::Acquire { lease } => self.acquire(node, lease, change),
            StoreRequest::Repair { lease, expect } => self.repair(node, lease, expect, change),
            StoreRequest::Release { optime, .. } => self.release(node, optime, change),
            StoreRequest::ReleaseUnused { .. } => self.release(node, None, change),
            StoreRequest::PutMember { value, lease } => self.put_member(node, value, lease),
            StoreRequest::ClaimInitialize { lease } => self.claim(lease, change),
            StoreRequest::SetInitialize { id } => self.set_initialize(id, change),
            StoreRequest::CancelInitialize { lease } => {
                if self.view.initialize != Some(Initialize::InProgress) || self.initialize_lease != Some(lease.0) {
                    return StoreOutcome::Conflict;
                }
                self.view.initialize = None;
                self.initialize_lease = None;
                self.done(change)
            }
            StoreRequest::PutConfig { value, expect } => {
                if self.view.config.as_ref().map(|config| config.revision) != expect {
                    return StoreOutcome::Conflict;
                }
                let revision = self.bump();
                self.view.config = Some(Versioned { revision, value });
                change.watched = true;
                StoreOutcome::Done { revision }
            }
            StoreRequest::PutStatus { .. } | StoreRequest::PutHistory(_) if self.view.leader_name() != Some(&self.names[node]) => {
                StoreOutcome::Conflict
            }
            StoreRequest::PutStatus { optime, slots, retain_slots } => {
                let retain_slots = retain_slots.into_iter().collect();
                self.view.status = ClusterStatus { optime: Some(optime), slots, retain_slots };
                StoreOutcome::Done { revision: self.bump() }
            }
            StoreRequest::PutFailover { value, expect } => self.put_failover(value, expect, change),
            StoreRequest::PutHistory(history) => self.put_history(history),
            #[allow(unreachable_patterns)]
            other => StoreOutcome::Failed(DcsFailure::Error(format!("the model does not know {other:?}"))),
        }
    }

    fn bump(&mut self) -> Revision {
        self.revision += 1;
        Revision(self.revision)
    }

    fn done(&mut self, change: &mut Change) -> StoreOutcome {
        change.watched = true;
        StoreOutcome::Done { revision: self.bump() }
    }

    fn renew(&mut self, node: usize, lease: Option<LeaseId>, ttl: Millis, now: u64, change: &mut Change) -> StoreOutcome {
        let Some(LeaseId(id)) = lease else {
            let id = self.next_lease;
            self.next_lease += 1;
            self.leases.insert(id, Lease { ttl: ttl.0, expires: now + ttl.0, node });
            change.granted = Some(id);
            return StoreOutcome::Lease { lease: LeaseId(id), ttl };
        };
        match self.leases.get_mut(&id) {
            Some(lease) => {
                lease.expires = now + lease.ttl;
                StoreOutcome::Lease { lease: LeaseId(id), ttl: Millis(lease.ttl) }
            }
            None => StoreOutcome::LeaseGone,
        }
    }

    fn acquire(&mut self, node: usize, lease: LeaseId, change: &mut Change) -> StoreOutcome {
        if !self.leases.contains_key(&lease.0) {
            return StoreOutcome::LeaseGone;
        }
        if let Some(leader) = &self.view.leader {
            // Ours on our lease: an earlier attempt was applied and its answer lost.
            let ours = leader.name == self.names[node] && leader.lease == lease;
            return if ours { StoreOutcome::Done { revision: leader.revision } } else { StoreOutcome::Conflict };
        }
        let revision = self.bump();
        self.view.leader = Some(LeaderEntry { name: self.names[node].clone(), lease, revision });
        change.watched = true;
        StoreOutcome::Done { revision }
    }

    fn repair(&mut self, node: usize, lease: LeaseId, expect: Revision, change: &mut Change) -> StoreOutcome {
        if !self.leases.contains_key(&lease.0) {
            return StoreOutcome::LeaseGone;
        }
        match &self.view.leader {
            Some(leader) if leader.name == self.names[node] && leader.revision == expect => {}
            Some(leader) if leader.name == self.names[node] && leader.lease == lease => {
                return StoreOutcome::Done { revision: leader.revision };
            }
            _ => return StoreOutcome::Conflict,
        }
        let revision = self.bump();
        self.view.leader = Some(LeaderEntry { name: self.names[node].clone(), lease, revision });
        change.watched = true;
        StoreOutcome::Done { revision }
    }

    fn release(&mut self, node: usize, optime: Option<Lsn>, change: &mut Change) -> StoreOutcome {
        match self.view.leader_name() {
            None => return StoreOutcome::Done { revision: Revision(self.revision) },
            Some(name) if *name != self.names[node] => return StoreOutcome::Conflict,
            Some(_) => {}
        }
        self.view.leader = None;
        if let Some(optime) = optime {
            self.view.status.optime = Some(optime);
        }
        change.released = true;
        self.done(change)
    }

    fn put_member(&mut self, node: usize, value: Value, lease: LeaseId) -> StoreOutcome {
        if !self.leases.contains_key(&lease.0) {
            return StoreOutcome::LeaseGone;
        }
        let revision = self.bump();
        self.view.members.insert(self.names[node].clone(), parse_member(value, lease));
        StoreOutcome::Done { revision }
    }

    fn claim(&mut self, lease: LeaseId, change: &mut Change) -> StoreOutcome {
        if !self.leases.contains_key(&lease.0) {
            return StoreOutcome::LeaseGone;
        }
        if self.view.initialize == Some(Initialize::InProgress) && self.initialize_lease == Some(lease.0) {
            return StoreOutcome::Done { revision: Revision(self.revision) };
        }
        if self.view.initialize.is_some() {
            return StoreOutcome::Conflict;
        }
        self.view.initialize = Some(Initialize::InProgress);
        self.initialize_lease = Some(lease.0);
        self.done(change)
    }

    fn set_initialize(&mut self, id: SystemId, change: &mut Change) -> StoreOutcome {
        match self.view.initialize {
            Some(Initialize::Done(known)) if known == id => return StoreOutcome::Done { revision: Revision(self.revision) },
            Some(Initialize::Done(_)) => return StoreOutcome::Conflict,
            _ => {}
        }
        self.view.initialize = Some(Initialize::Done(id));
        self.initialize_lease = None;
        self.done(change)
    }

    fn put_failover(&mut self, value: Option<FailoverRequest>, expect: Option<Revision>, change: &mut Change) -> StoreOutcome {
        if expect.is_some() && self.view.failover.as_ref().map(|failover| failover.revision) != expect {
            return StoreOutcome::Conflict;
        }
        let revision = self.bump();
        self.view.failover = value.map(|value| Versioned { revision, value });
        change.watched = true;
        StoreOutcome::Done { revision }
    }

    fn put_history(&mut self, history: Vec<HistoryEntry>) -> StoreOutcome {
        let revision = self.bump();
        self.view.history = Some(Versioned { revision, value: history });
        StoreOutcome::Done { revision }
    }

    /// Ends a lease and deletes its keys. True if a watched key went.
    pub fn end_lease(&mut self, id: i64) -> bool {
        if self.leases.remove(&id).is_none() {
            return false;
        }
        self.bump();
        self.view.members.retain(|_, member| member.lease.0 != id);
        let mut watched = false;
        if self.view.leader.as_ref().is_some_and(|leader| leader.lease.0 == id) {
            self.view.leader = None;
            watched = true;
        }
        if self.initialize_lease == Some(id) {
            self.initialize_lease = None;
            self.view.initialize = None;
            watched = true;
        }
        watched
    }

    /// The store elected a leader: all leases begin anew.
    pub fn extend_leases(&mut self, now: u64) {
        for lease in self.leases.values_mut() {
            lease.expires = now + lease.ttl;
        }
    }

    /// The store forgot everything.
    pub fn wipe(&mut self) {
        self.bump();
        self.view = ClusterView::default();
        self.initialize_lease = None;
        self.leases.clear();
    }
}

fn parse_member(value: Value, lease: LeaseId) -> Member {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let timeline = value.get("timeline").and_then(Value::as_u64).and_then(|tl| u32::try_from(tl).ok()).map(Timeline);
    let position = value.get("xlog_location").and_then(Value::as_u64).map(Lsn);
    let pending = value.get("checkpoint_after_promote").and_then(Value::as_bool) == Some(false);
    let nofailover = value.pointer("/tags/nofailover").and_then(Value::as_bool).unwrap_or(false);
    Member {
        conn_url: text("conn_url"),
        api_url: text("api_url"),
        state: text("state").unwrap_or_default(),
        role: text("role").unwrap_or_default(),
        timeline,
        position,
        checkpoint_pending: pending,
        tags: Tags { nofailover, ..Tags::default() },
        lease,
        // Only what the core looks at: copying documents would be most of the simulator's work.
        raw: Value::Object(
            ["replication_state", "no_carrier"].iter().filter_map(|key| Some(((*key).to_owned(), value.get(key)?.clone()))).collect(),
        ),
    }
}

/// Checks of the model itself.
pub fn self_test() -> Result<(), String> {
    let mut store = Store::new(vec![MemberName::from("n1"), MemberName::from("n2")]);
    let grant = StoreRequest::RenewLease { lease: None, ttl: Millis(1000) };
    let (StoreOutcome::Lease { lease, .. }, _) = store.apply(0, grant, 0) else { return Err("store: grant".to_owned()) };
    let taken = store.apply(0, StoreRequest::Acquire { lease }, 1).0;
    let foreign = store.apply(1, StoreRequest::Acquire { lease }, 2).0;
    let again = store.apply(0, StoreRequest::Acquire { lease }, 2).0;
    if !matches!((taken, foreign, again), (StoreOutcome::Done { .. }, StoreOutcome::Conflict, StoreOutcome::Done { .. }))
        || store.holder() != Some(0)
    {
        return Err("store: the leader key is created once".to_owned());
    }
    store.end_lease(lease.0);
    let late = store.apply(0, StoreRequest::Acquire { lease }, 3).0;
    if store.holder().is_some() || !matches!(late, StoreOutcome::LeaseGone) {
        return Err("store: keys go with their lease".to_owned());
    }
    Ok(())
}
