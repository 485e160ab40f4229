//! What the voters agree on: keys with revisions as in etcd v3, leases, and who the members of the store are.
//!
//! Two kinds of keys. *Durable* ones change only by entries of the log, the same way on every box. *Soft* ones (member documents and the position
//! in `/status`) change many times a minute and mean nothing after a restart: the Raft leader orders them in memory, tells the others, and writes
//! nothing to disk. Revisions are handed out by the Raft leader in the order in which requests arrive, so they never go back, and "unchanged
//! since revision N" means the same for both kinds.

mod coded;

use std::collections::BTreeMap;

use super::request::{Member, Part, Place};
use super::txn::{Compare, Op, Operand, Order, Span, Txn};

pub use self::coded::KeyLine;

/// The longest value in bytes.
pub const MAX_VALUE: usize = 256 * 1024;
/// The longest key in bytes.
pub const MAX_KEY: usize = 1024;
/// What surrounds a key and its value in memory and in the file, in bytes: many tiny keys are not for nothing.
const SURROUNDING: usize = 64;
/// All durable keys and values together with [`SURROUNDING`], in bytes; soft ones may take as much again.
pub const MAX_STATE: usize = 1024 * 1024;
/// The revisions of a Raft leader begin this far above the log's: soft keys of an earlier one that it never heard of stay below.
const REVISION_GAP: i64 = 1 << 32;
/// Revisions stay below, so that none can be used up: with 2^32 for every Raft leader it is far away.
const MAX_REVISION: i64 = 1 << 62;
/// Leases at a time.
pub const MAX_LEASES: usize = 1024;

/// A key's value and history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// What it holds.
    pub value: Vec<u8>,
    /// Revision of its creation.
    pub created: i64,
    /// Revision of its last change.
    pub modified: i64,
    /// Writes since its creation.
    pub version: i64,
    /// With which lease it goes; 0: none.
    pub lease: i64,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The first one of a Raft leader.
    Begin {
        /// Names the cluster, if it has no name yet: a random number.
        cluster: u64,
    },
    /// A new lease.
    Grant {
        /// Its number, chosen at random by the Raft leader.
        lease: i64,
        /// Its length in milliseconds.
        ttl: u64,
    },
    /// The end of a lease and of all keys on it.
    Revoke {
        /// Which.
        lease: i64,
    },
    /// A conditional write.
    Txn(Txn),
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to tell.
    Done,
    /// The transaction was evaluated.
    Txn {
        /// All conditions held.
        succeeded: bool,
        /// What the operations of the chosen list gave.
        results: Vec<Done>,
    },
    /// The lease does not exist.
    LeaseGone,
    /// It was refused, mostly because a limit is reached. Nothing was changed.
    Refused(&'static str),
}

/// What an operation gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The keys that were found, in order.
    Range(Vec<(Vec<u8>, Record)>),
    /// Written.
    Put,
    /// How many were deleted.
    Deleted(usize),
}

/// A change for those who watch. `None`: deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// At which revision.
    pub revision: i64,
    /// Of which key.
    pub key: Vec<u8>,
    /// What it holds now.
    pub record: Option<Record>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Random, set by the first entry; 0: not yet.
    cluster: u64,
    /// Of the last durable change.
    revision: i64,
    keys: BTreeMap<Vec<u8>, Record>,
    leases: BTreeMap<i64, u64>,
    /// Where the boxes of the store are.
    places: BTreeMap<u64, Place>,
    /// Bytes in `keys`.
    size: usize,
    soft: BTreeMap<Vec<u8>, Record>,
    /// The highest revision that a soft key ever had here.
    soft_revision: i64,
    soft_size: usize,
}

impl State {
    /// The cluster's random name; 0 before its first entry.
    #[must_use]
    pub fn cluster(&self) -> u64 {
        self.cluster
    }

    /// The revision of what can be read now.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision.max(self.soft_revision)
    }

    /// Where the boxes of the store are.
    #[must_use]
    pub fn places(&self) -> &BTreeMap<u64, Place> {
        &self.places
    }

    /// Takes note of who came and went.
    pub fn settle(&mut self, members: &[Member]) {
        for member in members {
            if member.part == Part::Gone {
                self.places.remove(&member.node);
            } else {
                self.places.insert(member.node, member.place.clone());
            }
        }
    }

    /// Length of a lease in milliseconds, if it exists.
    #[must_use]
    pub fn ttl(&self, lease: i64) -> Option<u64> {
        self.leases.get(&lease).copied()
    }

    /// All leases with their lengths.
    pub fn leases(&self) -> impl Iterator<Item = (i64, u64)> + '_ {
        self.leases.iter().map(|(lease, ttl)| (*lease, *ttl))
    }

    /// The keys of a lease.
    pub fn keys_of(&self, lease: i64) -> impl Iterator<Item = &[u8]> {
        self.visible().filter(move |(_, record)| record.lease == lease).map(|(key, _)| key)
    }

    /// A key as it is now.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Record> {
        self.soft_over(key).or_else(|| self.keys.get(key))
    }

    /// A key as the log left it.
    #[must_use]
    pub fn durable(&self, key: &[u8]) -> Option<&Record> {
        self.keys.get(key)
    }

    /// Some keys as they are now, in order.
    #[must_use]
    pub fn range(&self, span: &Span) -> Vec<(Vec<u8>, Record)> {
        self.visible().filter(|(key, _)| span.holds(key)).map(|(key, record)| (key.to_vec(), record.clone())).collect()
    }

    /// The soft keys, for a box that knows none of them.
    pub fn soft(&self) -> impl Iterator<Item = (&[u8], &Record)> {
        self.soft.keys().filter_map(|key| self.soft_over(key).map(|record| (key.as_slice(), record)))
    }

    fn soft_over(&self, key: &[u8]) -> Option<&Record> {
        let record = self.soft.get(key)?;
        let newer = self.keys.get(key).is_none_or(|durable| durable.modified < record.modified);
        (newer && (record.lease == 0 || self.leases.contains_key(&record.lease))).then_some(record)
    }

    fn visible(&self) -> impl Iterator<Item = (&[u8], &Record)> {
        let only_soft = self.soft.keys().filter(|key| !self.keys.contains_key(*key));
        let mut keys: Vec<&Vec<u8>> = self.keys.keys().chain(only_soft).collect();
        keys.sort_unstable();
        keys.into_iter().filter_map(|key| self.get(key).map(|record| (key.as_slice(), record)))
    }

    /// Carries out an entry of the log. `number` is the revision that the Raft leader gave it.
    pub fn apply(&mut self, number: i64, command: &Command, changes: &mut Vec<Change>) -> Outcome {
        let number = if number < MAX_REVISION { number } else { 0 };
        let revision = self.revision.max(number.saturating_sub(1)).saturating_add(1);
        match command {
            Command::Begin { cluster } => {
                self.revision = revision.saturating_add(REVISION_GAP);
                if self.cluster == 0 {
                    self.cluster = *cluster;
                }
                Outcome::Done
            }
            Command::Grant { lease, ttl } => self.grant(*lease, *ttl),
            Command::Revoke { lease } => self.revoke(revision, *lease, changes),
            Command::Txn(txn) => self.transact(revision, txn, changes),
        }
    }

    fn grant(&mut self, lease: i64, ttl: u64) -> Outcome {
        if self.leases.len() >= MAX_LEASES && !self.leases.contains_key(&lease) {
            return Outcome::Refused("there are too many leases");
        }
        self.leases.insert(lease, ttl);
        Outcome::Done
    }

    fn revoke(&mut self, revision: i64, lease: i64, changes: &mut Vec<Change>) -> Outcome {
        let gone: Vec<Vec<u8>> = self.keys_of(lease).map(<[u8]>::to_vec).collect();
        if self.leases.remove(&lease).is_none() {
            return Outcome::LeaseGone;
        }
        self.revision = revision;
        self.delete(revision, gone, changes);
        Outcome::Done
    }

    fn transact(&mut self, revision: i64, txn: &Txn, changes: &mut Vec<Change>) -> Outcome {
        // Only durable keys count: the soft ones differ from box to box.
        let succeeded = txn.when.iter().all(|compare| holds(compare, self.keys.get(&compare.key)));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        if let Some(outcome) = self.refusal(ops, self.size) {
            return outcome;
        }
        if ops.iter().any(|op| !matches!(op, Op::Range(_))) {
            self.revision = revision;
        }
        let results = ops.iter().map(|op| self.operate(revision, op, changes)).collect();
        Outcome::Txn { succeeded, results }
    }

    /// Why these operations cannot be carried out. Leases and limits are looked at first, so that a transaction is whole or nothing.
    fn refusal(&self, ops: &[Op], size: usize) -> Option<Outcome> {
        let mut size = size;
        for op in ops {
            let Op::Put { key, value, lease } = op else { continue };
            if *lease != 0 && !self.leases.contains_key(lease) {
                return Some(Outcome::LeaseGone);
            }
            if key.len() > MAX_KEY {
                return Some(Outcome::Refused("the key is longer than 1 KiB"));
            }
            if value.len() > MAX_VALUE {
                return Some(Outcome::Refused("the value is longer than 256 KiB"));
            }
            size += weight(key, value);
        }
        (size > MAX_STATE).then_some(Outcome::Refused("the store holds 1 MiB already"))
    }

    fn operate(&mut self, revision: i64, op: &Op, changes: &mut Vec<Change>) -> Done {
        match op {
            Op::Range(span) => Done::Range(self.range(span)),
            Op::Put { key, value, lease } => {
                // Again only from what is durable.
                let record = next(self.keys.get(key), revision, value, *lease);
                self.soft_size -= self.soft.remove(key).map_or(0, |old| weight(key, &old.value));
                self.size += weight(key, value);
                self.size -= self.keys.insert(key.clone(), record.clone()).map_or(0, |old| weight(key, &old.value));
                changes.push(Change { revision, key: key.clone(), record: Some(record) });
                Done::Put
            }
            Op::Delete(span) => {
                let gone: Vec<Vec<u8>> = self.visible().map(|(key, _)| key).filter(|key| span.holds(key)).map(<[u8]>::to_vec).collect();
                let count = gone.len();
                self.delete(revision, gone, changes);
                Done::Deleted(count)
            }
        }
    }

    fn delete(&mut self, revision: i64, gone: Vec<Vec<u8>>, changes: &mut Vec<Change>) {
        for key in gone {
            self.size -= self.keys.remove(&key).map_or(0, |old| weight(&key, &old.value));
            self.soft_size -= self.soft.remove(&key).map_or(0, |old| weight(&key, &old.value));
            changes.push(Change { revision, key, record: None });
        }
    }

    /// Carries out a transaction on soft keys, on the Raft leader. Which keys are soft is for the asker to know: nobody else may write them otherwise.
    pub fn soft_transact(&mut self, number: i64, txn: &Txn, changes: &mut Vec<Change>) -> Outcome {
        let succeeded = txn.when.iter().all(|compare| holds(compare, self.get(&compare.key)));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        if ops.iter().any(|op| matches!(op, Op::Delete(_))) {
            return Outcome::Refused("a soft transaction deletes nothing");
        }
        if let Some(outcome) = self.refusal(ops, self.soft_size) {
            return outcome;
        }
        let revision = self.revision().max(number.saturating_sub(1)).saturating_add(1);
        let mut results = Vec::new();
        for op in ops {
            results.push(match op {
                Op::Range(span) => Done::Range(self.range(span)),
                Op::Put { key, value, lease } => {
                    let record = next(self.get(key), revision, value, *lease);
                    self.hear(key.clone(), record.clone());
                    changes.push(Change { revision, key: key.clone(), record: Some(record) });
                    Done::Put
                }
                Op::Delete(_) => Done::Deleted(0),
            });
        }
        Outcome::Txn { succeeded, results }
    }

    /// Takes over a soft key as the Raft leader has it. What is older than what is known changes nothing.
    pub fn hear(&mut self, key: Vec<u8>, record: Record) {
        if record.modified >= MAX_REVISION
            || record.value.len() > MAX_VALUE
            || key.len() > MAX_KEY
            || self.soft_size + weight(&key, &record.value) > 2 * MAX_STATE
        {
            return;
        }
        if self.soft.get(&key).is_some_and(|known| known.modified >= record.modified) {
            return;
        }
        self.soft_revision = self.soft_revision.max(record.modified);
        self.soft_size += weight(&key, &record.value);
        // The key is the same in both.
        let length = key.len();
        self.soft_size -= self.soft.insert(key, record).map_or(0, |old| length + old.value.len() + SURROUNDING);
    }

    /// Takes over what the log would have given, keeping the soft keys.
    pub fn restore(&mut self, durable: State) {
        let soft = std::mem::take(&mut self.soft);
        let (soft_revision, soft_size) = (self.soft_revision, self.soft_size);
        *self = State { soft, soft_revision, soft_size, ..durable };
    }
}

/// What a key counts against the limits.
fn weight(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + SURROUNDING
}

fn next(old: Option<&Record>, revision: i64, value: &[u8], lease: i64) -> Record {
    let (created, version) = old.map_or((revision, 1), |old| (old.created, old.version.saturating_add(1)));
    Record { value: value.to_vec(), created, modified: revision, version, lease }
}

/// Whether a condition holds for a key, which may be absent.
fn holds(compare: &Compare, record: Option<&Record>) -> bool {
    let number = |property: fn(&Record) -> i64| record.map_or(0, property);
    let ordering = match &compare.operand {
        Operand::Created(operand) => number(|record| record.created).cmp(operand),
        Operand::Modified(operand) => number(|record| record.modified).cmp(operand),
        Operand::Version(operand) => number(|record| record.version).cmp(operand),
        Operand::Lease(operand) => number(|record| record.lease).cmp(operand),
        Operand::Value(operand) => match record {
            Some(record) => record.value.cmp(operand),
            None => return false,
        },
    };
    match compare.order {
        Order::Equal => ordering.is_eq(),
        Order::Greater => ordering.is_gt(),
        Order::Less => ordering.is_lt(),
        Order::NotEqual => ordering.is_ne(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dcs::embedded::codec::Coded;

    fn put(key: &str, value: &str, lease: i64) -> Op {
        Op::Put { key: key.into(), value: value.into(), lease }
    }

    fn is(key: &str, operand: Operand) -> Compare {
        Compare { key: key.into(), order: Order::Equal, operand }
    }

    fn txn(when: Vec<Compare>, then: Vec<Op>) -> Txn {
        Txn { when, then, otherwise: vec![] }
    }

    fn apply(state: &mut State, command: Command) -> Outcome {
        state.apply(0, &command, &mut Vec::new())
    }

    fn succeeded(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Txn { succeeded: true, .. })
    }

    #[test]
    fn a_key_is_created_once_and_goes_with_its_lease() {
        let mut state = State::default();
        let acquire = || Command::Txn(txn(vec![is("/s/leader", Operand::Created(0))], vec![put("/s/leader", "n1", 7)]));
        assert_eq!(apply(&mut state, acquire()), Outcome::LeaseGone);
        assert_eq!(state, State::default());
        apply(&mut state, Command::Grant { lease: 7, ttl: 30_000 });
        assert!(succeeded(&apply(&mut state, acquire())));
        assert!(!succeeded(&apply(&mut state, acquire())));
        assert_eq!(state.get(b"/s/leader").map(|record| (record.created, record.modified, record.lease)), Some((1, 1, 7)));
        let mut changes = Vec::new();
        assert_eq!(state.apply(9, &Command::Revoke { lease: 7 }, &mut changes), Outcome::Done);
        assert_eq!(changes, [Change { revision: 9, key: b"/s/leader".to_vec(), record: None }]);
        assert_eq!((state.get(b"/s/leader"), state.revision()), (None, 9));
        assert_eq!(apply(&mut state, Command::Revoke { lease: 7 }), Outcome::LeaseGone);
    }

    #[test]
    fn soft_keys_lie_over_durable_ones_and_change_nothing_below() {
        let (mut leader, mut other) = (State::default(), State::default());
        for state in [&mut leader, &mut other] {
            apply(state, Command::Grant { lease: 7, ttl: 1000 });
            apply(state, Command::Txn(txn(vec![], vec![put("/s/status", "1", 0)])));
        }
        let soft = txn(vec![is("/s/status", Operand::Modified(1))], vec![put("/s/status", "2", 0), put("/s/members/a", "x", 7)]);
        assert!(succeeded(&leader.soft_transact(0, &soft, &mut Vec::new())));
        assert!(!succeeded(&leader.soft_transact(0, &soft, &mut Vec::new())));
        assert_eq!(leader.get(b"/s/status").map(|record| record.value.as_slice()), Some(&b"2"[..]));
        assert_eq!(leader.revision(), 2);
        // The log decides by what the log has, so both boxes agree.
        let both = Command::Txn(txn(vec![is("/s/status", Operand::Modified(1))], vec![put("/s/status", "3", 0)]));
        let outcomes = [&mut leader, &mut other].map(|state| succeeded(&state.apply(3, &both, &mut Vec::new())));
        assert_eq!(outcomes, [true, true]);
        assert_eq!(leader.get(b"/s/status"), other.get(b"/s/status"));
        assert_eq!(leader.to_bytes(), other.to_bytes());
        // What is heard late is older, and hidden.
        other.hear(b"/s/status".to_vec(), Record { value: b"2".to_vec(), modified: 2, ..Record::default() });
        assert_eq!(leader.get(b"/s/status"), other.get(b"/s/status"));
        apply(&mut leader, Command::Revoke { lease: 7 });
        assert_eq!(leader.get(b"/s/members/a"), None);
    }

    #[test]
    fn limits() {
        let mut state = State::default();
        let large = "x".repeat(MAX_VALUE);
        for number in 0..3 {
            assert!(succeeded(&apply(&mut state, Command::Txn(txn(vec![], vec![put(&number.to_string(), &large, 0)])))));
        }
        let before = state.clone();
        assert!(matches!(apply(&mut state, Command::Txn(txn(vec![], vec![put("k", "v", 0), put("3", &large, 0)]))), Outcome::Refused(_)));
        assert_eq!(state, before);
        let soft = txn(vec![], vec![put("/s/members/a", &(large + "x"), 0)]);
        assert!(matches!(state.soft_transact(0, &soft, &mut Vec::new()), Outcome::Refused(_)));
        for lease in 0..MAX_LEASES {
            apply(&mut state, Command::Grant { lease: i64::try_from(lease).unwrap(), ttl: 1 });
        }
        assert!(matches!(apply(&mut state, Command::Grant { lease: -1, ttl: 1 }), Outcome::Refused(_)));
    }

    #[test]
    fn a_snapshot_brings_all_but_the_soft_keys() {
        let mut state = State::default();
        apply(&mut state, Command::Begin { cluster: 5 });
        apply(&mut state, Command::Grant { lease: 7, ttl: 1000 });
        apply(&mut state, Command::Txn(txn(vec![], vec![put("a", "1", 7), put("b", "2", 0)])));
        assert!(state.revision() > REVISION_GAP);
        state.hear(b"/s/members/a".to_vec(), Record { modified: 100, ..Record::default() });
        let bytes = state.to_bytes();
        let mut copy = State::default();
        copy.hear(b"/s/members/b".to_vec(), Record { modified: 50, ..Record::default() });
        copy.restore(State::from_bytes(&bytes).unwrap());
        assert_eq!(copy.to_bytes(), bytes);
        assert_eq!((copy.cluster(), copy.revision(), copy.ttl(7)), (5, state.revision(), Some(1000)));
        assert_eq!(copy.range(&Span::prefix("")).len(), 3);
        for cut in 0..bytes.len() {
            assert!(State::from_bytes(&bytes[..cut]).is_err());
        }
    }
}
