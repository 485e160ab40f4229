//! What each write of the core means as transactions, for either store. Pure: it says what to send and what an answer means.
//!
//! Each write is one transaction with a condition, so that an answer that was lost, a repetition at another endpoint, and a request that a stopped
//! member carries out much later can all be told apart or do no harm. A few are tried again when somebody else changed a key at the same time.

use super::embedded::txn::{Compare, Op, Operand, Order, Span, Txn};
use super::keys::{Key, Keys};
use super::{render_failover, render_history, render_status};
use crate::ha::action::StoreRequest;
use crate::ha::input::StoreOutcome;
use crate::ha::types::{LeaseId, Lsn, MemberName, Revision};
use crate::ha::view::ClusterStatus;

/// How often a write is repeated because others change the same key at the same time.
const CONTENTION_LIMIT: usize = 5;

/// What a store's client remembers between calls.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The lease that was granted, renewed or used last.
    pub(super) lease: Option<LeaseId>,
    /// Store revision of the latest answer; 0 before the first.
    pub(super) seen: i64,
    /// `/status` as last read or written, for the release.
    pub(super) status: Option<ClusterStatus>,
}

/// A key as a transaction found it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) value: Vec<u8>,
    pub(super) lease: LeaseId,
}

/// What came of a transaction.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) revision: Revision,
    /// The conditions held and the operations were carried out.
    pub(super) applied: bool,
    /// Otherwise: the key in question, if it exists.
    pub(super) found: Option<Found>,
    /// An earlier attempt may have been carried out.
    pub(super) unsure: bool,
}

impl Settled {
    /// Whether the key holds this value (on this lease).
    fn holds(&self, value: &[u8], lease: Option<LeaseId>) -> bool {
        self.found.as_ref().is_some_and(|found| found.value == value && lease.is_none_or(|lease| found.lease == lease))
    }
}

/// What to do after a transaction.
#[derive(Debug)]
pub(super) enum Next {
    /// Send [`Plan::txn`] again: it has changed.
    Again,
    /// This came of it.
    Outcome(StoreOutcome),
    /// Others kept changing the key: it was not written.
    Contention,
    /// It may have been written by an attempt whose answer was lost.
    Unknown,
}

/// When a write that was not carried out had been carried out before, by an attempt whose answer was lost.
#[derive(Debug)]
enum Before {
    /// The key holds this (on this lease).
    Holds(Vec<u8>, Option<LeaseId>),
    /// The same, if an answer was lost indeed: others may write this, too.
    IfLost(Vec<u8>),
    /// The key is gone.
    Absent,
    /// Never: nobody can tell.
    Unknowable,
}

/// A write under way.
#[derive(Debug)]
pub(super) struct Plan {
    /// For messages.
    pub(super) operation: &'static str,
    /// The key that is looked at when the conditions do not hold.
    key: String,
    /// Conditions, tried one after the other.
    stages: Vec<Vec<Compare>>,
    then: Vec<Op>,
    before: Before,
    /// Written only over a state that was seen: this key did not change since.
    guard: Option<String>,
    /// With a guard: it is worth another attempt as long as the key holds this (on this lease); `None`: always.
    while_holds: Option<(Vec<u8>, Option<LeaseId>)>,
    turns: usize,
    unsure: bool,
}

impl Plan {
    /// How a request is written; `None`: it is no write.
    pub(super) fn new(request: &StoreRequest, keys: &Keys, me: &MemberName, memory: &Memory) -> Option<Plan> {
        let me = me.as_str();
        let path = |key: Key<'_>| keys.path(key);
        Some(match request {
            StoreRequest::Acquire { lease } => {
                let key = path(Key::Leader);
                let absent = created(&key, 0);
                Plan::once("acquire the leader key", &key, vec![absent], put(&key, me, Some(*lease)), holds(me, Some(*lease)))
            }
            StoreRequest::Repair { lease, expect } => {
                let key = path(Key::Leader);
                let unchanged = vec![value(&key, me), modified(&key, Order::Equal, expect.0)];
                Plan::once("repair the leader key", &key, unchanged, put(&key, me, Some(*lease)), holds(me, Some(*lease)))
            }
            StoreRequest::Release { optime, proof: _ } => release(keys, me, memory, *optime),
            StoreRequest::ReleaseUnused { proof: _ } => release(keys, me, memory, None),
            StoreRequest::PutMember { value, lease } => {
                overwrite("write the member key", path(Key::Member(me)), value.to_string(), Some(*lease))
            }
            StoreRequest::ClaimInitialize { lease } => {
                let key = path(Key::Initialize);
                // Nobody may begin a new cluster beside a leader. The claim hangs on our lease, so that it ends with us; Patroni's hangs on none and
                // looks the same to readers.
                let nobody = vec![created(&key, 0), created(&path(Key::Leader), 0)];
                Plan::once("claim the initialize key", &key, nobody, put(&key, "", Some(*lease)), holds("", Some(*lease)))
            }
            StoreRequest::SetInitialize { id } => {
                let (key, id) = (path(Key::Initialize), id.to_string());
                // Over an absent key or a claim, never over another identifier.
                let stages = vec![vec![created(&key, 0)], vec![value(&key, "")]];
                Plan { stages, ..Plan::once("set the initialize key", &key, vec![], put(&key, &id, None), holds(&id, None)) }
            }
            StoreRequest::CancelInitialize { lease } => {
                let key = path(Key::Initialize);
                // Only our own claim: a late one must not delete another member's.
                let ours = vec![value(&key, ""), on_lease(&key, *lease)];
                Plan::once("cancel the initialisation", &key, ours, Op::Delete(Span::one(key.as_str())), Before::Absent)
            }
            StoreRequest::PutConfig { value, expect } => put_if("write the configuration", path(Key::Config), value.to_string(), *expect),
            StoreRequest::PutStatus { optime, slots, retain_slots } => {
                let text = render_status(*optime, slots, &retain_slots.iter().cloned().collect());
                as_leader("write the status", keys, me, Key::Status, text)
            }
            StoreRequest::PutFailover { value, expect } => {
                let (operation, key, text) = ("write the failover request", path(Key::Failover), render_failover(value.as_ref()));
                match expect {
                    Some(_) => put_if(operation, key, text, *expect),
                    None => overwrite(operation, key, text, None),
                }
            }
            StoreRequest::PutHistory(entries) => as_leader("write the history", keys, me, Key::History, render_history(entries)),
            StoreRequest::Read | StoreRequest::RenewLease { .. } => return None,
        })
    }

    /// One transaction, once.
    fn once(operation: &'static str, key: &str, when: Vec<Compare>, then: Op, before: Before) -> Plan {
        let (stages, then) = (vec![when], vec![then]);
        Plan { operation, key: key.to_owned(), stages, then, before, guard: None, while_holds: None, turns: 0, unsure: false }
    }

    /// What to send now. `seen`: the revision of the latest answer.
    pub(super) fn txn(&self, seen: i64) -> Txn {
        let mut when = self.stages.get(self.turns).or(self.stages.last()).cloned().unwrap_or_default();
        // An absent key has the revision 0.
        when.extend(self.guard.as_ref().map(|key| modified(key, Order::Less, seen.saturating_add(1))));
        Txn { when, then: self.then.clone(), otherwise: vec![Op::Range(Span::one(self.key.as_str()))] }
    }

    /// What an answer means.
    pub(super) fn settle(&mut self, settled: &Settled) -> Next {
        self.turns += 1;
        self.unsure |= settled.unsure;
        let done_before = match &self.before {
            Before::Holds(value, lease) => settled.holds(value, *lease),
            Before::IfLost(value) => self.unsure && settled.holds(value, None),
            Before::Absent => settled.found.is_none(),
            Before::Unknowable => false,
        };
        if settled.applied || done_before {
            return Next::Outcome(StoreOutcome::Done { revision: settled.revision });
        }
        let again = match (&self.guard, &self.while_holds) {
            (None, _) => self.turns < self.stages.len(),
            (Some(_), None) => true,
            (Some(_), Some((value, lease))) => settled.holds(value, *lease),
        };
        if again && (self.guard.is_none() || self.turns < CONTENTION_LIMIT) {
            return Next::Again;
        }
        match (again, self.unsure) {
            (true, _) => Next::Contention,
            (false, true) => Next::Unknown,
            (false, false) => Next::Outcome(StoreOutcome::Conflict),
        }
    }
}

/// Deletes the leader key if it is ours, and leaves `optime` beside the slots that `/status` had.
///
/// The revision is part of the condition: a release that a stopped member carries out late must not delete a key that was acquired or repaired
/// after it.
fn release(keys: &Keys, me: &str, memory: &Memory, optime: Option<Lsn>) -> Plan {
    let key = keys.path(Key::Leader);
    let mut when = vec![value(&key, me)];
    when.extend(memory.lease.map(|lease| on_lease(&key, lease)));
    let mut plan = Plan::once("release the leader key", &key, when, Op::Delete(Span::one(key.as_str())), Before::Absent);
    if let Some(optime) = optime {
        let status = memory.status.clone().unwrap_or_default();
        plan.then.push(put(&keys.path(Key::Status), &render_status(optime, &status.slots, &status.retain_slots), None));
    }
    plan.while_holds = Some((me.as_bytes().to_vec(), memory.lease));
    plan.guard = Some(key);
    plan
}

/// Writes a key if it has the expected revision, or if it is absent.
fn put_if(operation: &'static str, key: String, text: String, expect: Option<Revision>) -> Plan {
    let condition = match expect {
        Some(revision) => modified(&key, Order::Equal, revision.0),
        None => created(&key, 0),
    };
    Plan::once(operation, &key, vec![condition], put(&key, &text, None), Before::IfLost(text.into_bytes()))
}

/// Writes a key that only the leader writes, over a state that was seen.
///
/// A write that arrives after the lease has ended changes nothing: those who race for the key judge their lag by what they read.
fn as_leader(operation: &'static str, keys: &Keys, me: &str, key: Key<'_>, text: String) -> Plan {
    let (leader, key) = (keys.path(Key::Leader), keys.path(key));
    let mut plan = Plan::once(operation, &leader, vec![value(&leader, me)], put(&key, &text, None), Before::Unknowable);
    plan.while_holds = Some((me.as_bytes().to_vec(), None));
    plan.guard = Some(key);
    plan
}

/// Writes a key whatever it holds, but only over a state that was seen: a write that a stopped member carries out late does not undo a newer one.
fn overwrite(operation: &'static str, key: String, text: String, lease: Option<LeaseId>) -> Plan {
    let target = lease.unwrap_or(LeaseId(0));
    let mut plan = Plan::once(operation, &key, vec![], put(&key, &text, lease), Before::Holds(text.into_bytes(), Some(target)));
    plan.guard = Some(key);
    plan
}

fn holds(value: &str, lease: Option<LeaseId>) -> Before {
    Before::Holds(value.as_bytes().to_vec(), lease)
}

fn put(key: &str, value: &str, lease: Option<LeaseId>) -> Op {
    Op::Put { key: key.as_bytes().to_vec(), value: value.as_bytes().to_vec(), lease: lease.map_or(0, |lease| lease.0) }
}

fn compare(key: &str, order: Order, operand: Operand) -> Compare {
    Compare { key: key.as_bytes().to_vec(), order, operand }
}

fn created(key: &str, revision: i64) -> Compare {
    compare(key, Order::Equal, Operand::Created(revision))
}

fn modified(key: &str, order: Order, revision: i64) -> Compare {
    compare(key, order, Operand::Modified(revision))
}

fn value(key: &str, text: &str) -> Compare {
    compare(key, Order::Equal, Operand::Value(text.as_bytes().to_vec()))
}

fn on_lease(key: &str, lease: LeaseId) -> Compare {
    compare(key, Order::Equal, Operand::Lease(lease.0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::dcs::embedded::state::{Command, Done, Outcome, State};
    use crate::ha::lease::PostgresStopped;
    use crate::ha::types::{Instant, SystemId};
    use crate::ha::view::{NodeView, PgState};

    /// A store in memory, and the clients of two members.
    struct Bench {
        state: State,
        keys: Keys,
        memory: [Memory; 2],
    }

    impl Bench {
        fn new() -> Bench {
            let mut state = State::default();
            for lease in [7, 8] {
                state.apply(0, &Command::Grant { lease, ttl: 1000 }, &mut Vec::new());
            }
            let lease = |lease| Memory { lease: Some(LeaseId(lease)), ..Memory::default() };
            Bench { state, keys: Keys::new("service", "demo"), memory: [lease(7), lease(8)] }
        }

        /// Sends one transaction of a plan. `lost`: an earlier attempt's answer was lost.
        fn send(&mut self, who: usize, plan: &mut Plan, lost: bool) -> Next {
            let txn = plan.txn(self.memory[who].seen);
            let outcome = self.state.apply(0, &Command::Txn(txn), &mut Vec::new());
            let Outcome::Txn { succeeded, results } = outcome else { panic!("{outcome:?}") };
            let revision = self.state.revision();
            self.memory[who].seen = revision;
            let found = match results.into_iter().next() {
                Some(Done::Range(found)) => {
                    found.into_iter().next().map(|(_, record)| Found { value: record.value, lease: LeaseId(record.lease) })
                }
                _ => None,
            };
            plan.settle(&Settled { revision: Revision(revision), applied: succeeded, found, unsure: lost })
        }

        fn plan(&self, who: usize, request: &StoreRequest) -> Plan {
            Plan::new(request, &self.keys, &MemberName::from(["n1", "n2"][who]), &self.memory[who]).unwrap()
        }

        /// Until there is an outcome.
        fn write(&mut self, who: usize, request: &StoreRequest) -> StoreOutcome {
            let mut plan = self.plan(who, request);
            loop {
                match self.send(who, &mut plan, false) {
                    Next::Again => {}
                    Next::Outcome(outcome) => return outcome,
                    other => panic!("{other:?}"),
                }
            }
        }

        fn text(&self, key: Key<'_>) -> Option<String> {
            self.state.get(self.keys.path(key).as_bytes()).map(|record| String::from_utf8_lossy(&record.value).into_owned())
        }
    }

    fn done(outcome: &StoreOutcome) -> bool {
        matches!(outcome, StoreOutcome::Done { .. })
    }

    fn conflict(outcome: &StoreOutcome) -> bool {
        matches!(outcome, StoreOutcome::Conflict)
    }

    fn stopped() -> PostgresStopped {
        PostgresStopped::observe(&NodeView { observed_at: Instant(1), pg: PgState::Empty }, Instant(0)).unwrap()
    }

    #[test]
    fn one_leader() {
        let mut bench = Bench::new();
        let acquire = |lease| StoreRequest::Acquire { lease: LeaseId(lease) };
        assert!(done(&bench.write(0, &acquire(7))));
        assert!(conflict(&bench.write(1, &acquire(8))));
        // The same again: an earlier attempt was applied.
        assert!(done(&bench.write(0, &acquire(7))));
        let status = |optime| StoreRequest::PutStatus { optime: Lsn(optime), slots: BTreeMap::new(), retain_slots: vec![] };
        assert!(done(&bench.write(0, &status(5))));
        assert!(conflict(&bench.write(1, &status(3))));
        assert!(conflict(&bench.write(1, &StoreRequest::Release { optime: None, proof: stopped() })));
        assert!(done(&bench.write(0, &StoreRequest::Release { optime: Some(Lsn(9)), proof: stopped() })));
        assert_eq!(
            (bench.text(Key::Leader), bench.text(Key::Status)),
            (None, Some("{\"optime\":9,\"slots\":{},\"retain_slots\":[]}".to_owned()))
        );
        // Gone already is as good as released.
        assert!(done(&bench.write(0, &StoreRequest::ReleaseUnused { proof: stopped() })));
    }

    #[test]
    fn a_late_release_deletes_no_later_key() {
        let mut bench = Bench::new();
        bench.write(0, &StoreRequest::Acquire { lease: LeaseId(7) });
        let mut late = bench.plan(0, &StoreRequest::Release { optime: None, proof: stopped() });
        let sent = late.txn(bench.memory[0].seen);
        bench.write(0, &StoreRequest::Release { optime: None, proof: stopped() });
        bench.write(0, &StoreRequest::Acquire { lease: LeaseId(7) });
        bench.state.apply(0, &Command::Txn(sent), &mut Vec::new());
        assert_eq!(bench.text(Key::Leader).as_deref(), Some("n1"));
        assert!(matches!(bench.send(0, &mut late, true), Next::Outcome(StoreOutcome::Done { .. })));
    }

    #[test]
    fn bootstrap_is_claimed_by_one() {
        let mut bench = Bench::new();
        let claim = |lease| StoreRequest::ClaimInitialize { lease: LeaseId(lease) };
        assert!(done(&bench.write(0, &claim(7))));
        assert!(conflict(&bench.write(1, &claim(8))));
        assert!(conflict(&bench.write(1, &StoreRequest::CancelInitialize { lease: LeaseId(8) })));
        assert!(done(&bench.write(0, &StoreRequest::SetInitialize { id: SystemId(42) })));
        assert!(done(&bench.write(1, &StoreRequest::SetInitialize { id: SystemId(42) })));
        assert!(conflict(&bench.write(1, &StoreRequest::SetInitialize { id: SystemId(43) })));
        assert_eq!(bench.text(Key::Initialize).as_deref(), Some("42"));
    }

    #[test]
    fn compare_and_set() {
        let mut bench = Bench::new();
        let config = |text: &str, expect| StoreRequest::PutConfig { value: text.into(), expect };
        assert!(done(&bench.write(0, &config("a", None))));
        let revision = Some(Revision(bench.state.revision()));
        assert!(conflict(&bench.write(1, &config("b", None))));
        assert!(done(&bench.write(1, &config("b", revision))));
        assert!(conflict(&bench.write(0, &config("c", revision))));
        // An answer was lost: what is there may be ours, or nobody knows.
        let mut plan = bench.plan(1, &config("b", revision));
        assert!(matches!(bench.send(1, &mut plan, true), Next::Outcome(StoreOutcome::Done { .. })));
        let mut plan = bench.plan(1, &config("d", revision));
        assert!(matches!(bench.send(1, &mut plan, true), Next::Unknown));
    }

    #[test]
    fn overwriting_gives_up_when_others_never_stop() {
        let mut bench = Bench::new();
        let member = StoreRequest::PutMember { value: "x".into(), lease: LeaseId(7) };
        assert!(done(&bench.write(0, &member)));
        let mut plan = bench.plan(0, &StoreRequest::PutMember { value: "y".into(), lease: LeaseId(7) });
        for turn in 1..=CONTENTION_LIMIT {
            let other = Op::Put { key: bench.keys.path(Key::Member("n1")).into_bytes(), value: vec![b'z'], lease: 0 };
            bench.state.apply(0, &Command::Txn(Txn { then: vec![other], ..Txn::default() }), &mut Vec::new());
            let next = bench.send(0, &mut plan, false);
            assert!(matches!(next, Next::Again | Next::Contention) && matches!(next, Next::Contention) == (turn == CONTENTION_LIMIT));
            bench.memory[0].seen = 0;
        }
    }
}
