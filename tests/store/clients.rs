//! What the users of the store rely on, checked at every answer.
//!
//! - Holder: one on every box wants the leader key on its lease, and believes that it has it until its own deadline, as the agent does. Never two.
//! - Counter: compare-and-set. What was acknowledged is in every later read, and every change has a higher revision than any read before it.
//! - Soft: writes soft keys if the counter is what it was, and reads. Such a write has a higher revision than any read before it, too.

use mastiff::dcs::embedded::request::{Answer, Request};
use mastiff::dcs::embedded::txn::{Compare, Op, Operand, Order, Span, Txn};
use mastiff::ha::types::{Instant, Millis};

pub const LEADER: &[u8] = b"/s/leader";
pub const COUNTER: &[u8] = b"/s/counter";
pub const PREFIX: &str = "/s/";

/// A member that wants the leader key.
#[derive(Default)]
pub struct Holder {
    pub lease: Option<i64>,
    /// By its own clock.
    pub deadline: Option<Instant>,
    pub holds: bool,
    /// The request under way: its number, what it is, when it was sent by the own clock.
    pub under_way: Option<(u64, What, Instant)>,
    pub next_at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Grant,
    Renew,
    Acquire,
    Count,
    Read,
    Soft,
}

/// The agent's own rule, see `ha/lease.rs`.
fn deadline(sent: Instant, ttl: u64) -> Instant {
    sent + Millis(ttl - ttl / 100 - 250)
}

impl Holder {
    pub fn believes(&self, now: Instant) -> bool {
        self.holds && self.deadline.is_some_and(|deadline| now < deadline)
    }

    /// The next request.
    pub fn want(&self, ttl: u64, name: &str, other: u64) -> (What, Request) {
        match (self.lease, self.holds) {
            (None, _) => (What::Grant, Request::Grant { ttl }),
            (Some(lease), false) if other.is_multiple_of(2) => (What::Acquire, Request::Txn(acquire(lease, name))),
            (Some(lease), _) => (What::Renew, Request::Renew { lease }),
        }
    }

    /// An answer, or none in time.
    pub fn take(&mut self, what: What, sent: Instant, answer: Option<&Answer>) {
        match (what, answer) {
            (What::Grant | What::Renew, Some(Answer::Lease { lease, ttl })) => {
                self.lease = Some(*lease);
                self.deadline = Some(deadline(sent, *ttl));
            }
            (_, Some(Answer::LeaseGone)) => *self = Holder { next_at: self.next_at, ..Holder::default() },
            (What::Acquire, Some(Answer::Txn { succeeded, results, .. })) => {
                let ours = matches!(results.first(), Some(mastiff::dcs::embedded::state::Done::Range(found))
                    if found.first().is_some_and(|(_, record)| Some(record.lease) == self.lease));
                self.holds = *succeeded || ours;
            }
            _ => {}
        }
    }

    /// The own deadline is over: it has given up, and begins anew.
    pub fn expire(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            let under_way = self.under_way.take();
            *self = Holder { next_at: self.next_at, under_way: under_way.map(|(id, _, at)| (id, What::Read, at)), ..Holder::default() };
        }
    }
}

fn acquire(lease: i64, name: &str) -> Txn {
    Txn {
        when: vec![Compare { key: LEADER.to_vec(), order: Order::Equal, operand: Operand::Created(0) }],
        then: vec![Op::Put { key: LEADER.to_vec(), value: name.into(), lease }],
        otherwise: vec![Op::Range(Span::one(LEADER))],
    }
}

/// What everybody has seen, in real time.
#[derive(Default)]
pub struct History {
    /// The highest counter that was acknowledged to anybody, and when.
    acknowledged: Vec<(u64, i64)>,
    /// When reads ended, the revision that they reported, and the one at which the counter was changed last.
    reads: Vec<(u64, i64, i64)>,
    pub writes: u64,
}

impl History {
    /// Sets the counter to `next` if it is `next - 1`.
    pub fn count(known: Option<(i64, i64)>) -> (Txn, i64) {
        let (value, modified) = known.unwrap_or((0, 0));
        let next = value + 1;
        let txn = Txn {
            when: vec![Compare { key: COUNTER.to_vec(), order: Order::Equal, operand: Operand::Modified(modified) }],
            then: vec![Op::Put { key: COUNTER.to_vec(), value: next.to_string().into_bytes(), lease: 0 }],
            otherwise: vec![],
        };
        (txn, next)
    }

    /// Writes a soft key if the counter is still as it was. Returns what it was.
    pub fn soft(known: Option<(i64, i64)>, op: Op) -> (Txn, i64) {
        let (value, modified) = known.unwrap_or((0, 0));
        let when = vec![Compare { key: COUNTER.to_vec(), order: Order::Equal, operand: Operand::Modified(modified) }];
        (Txn { when, then: vec![op], otherwise: vec![] }, value)
    }

    /// That succeeded: at `began` nobody may have been told of a higher counter, or have read a revision as high.
    pub fn softly(&mut self, began: u64, revision: i64, known: i64) -> Result<(), String> {
        let promised = self.promised(began);
        if known < promised {
            return Err(format!("a soft write that began at {began} found the counter at {known}, {promised} was acknowledged before"));
        }
        let seen = self.seen(began).0;
        if revision <= seen {
            return Err(format!("a soft write that began at {began} got revision {revision}, an earlier read reported {seen}"));
        }
        Ok(())
    }

    fn promised(&self, began: u64) -> i64 {
        self.acknowledged.iter().rev().find(|(at, _)| *at < began).map_or(0, |(_, value)| *value)
    }

    fn seen(&self, began: u64) -> (i64, i64) {
        self.reads.iter().rev().find(|(at, ..)| *at < began).map_or((0, 0), |(_, revision, changed)| (*revision, *changed))
    }

    pub fn counted(&mut self, now: u64, next: i64) {
        self.writes += 1;
        let highest = self.acknowledged.last().map_or(0, |(_, value)| *value);
        self.acknowledged.push((now, next.max(highest)));
    }

    /// A read that began at `began` and ended now. Returns what it saw of the counter.
    pub fn read(&mut self, began: u64, now: u64, revision: i64, counter: Option<(i64, i64)>) -> Result<(), String> {
        let (value, modified) = counter.unwrap_or((0, 0));
        let promised = self.promised(began);
        if value < promised {
            return Err(format!("a read that began at {began} saw the counter at {value}, {promised} was acknowledged before"));
        }
        let (seen, changed) = self.seen(began);
        if modified != changed && modified <= seen {
            return Err(format!("the counter was changed at {modified}, below the revision {seen} of an earlier read that did not see it"));
        }
        if revision < seen {
            return Err(format!("a read that began at {began} reported revision {revision}, an earlier one {seen}"));
        }
        if modified > revision {
            return Err(format!("the counter was changed at {modified}, but the store is at {revision}"));
        }
        // Of reads that ran at the same time the later revision counts.
        let last = self.reads.last().map_or((0, 0), |(_, revision, changed)| (*revision, *changed));
        let (revision, modified) = last.max((revision, modified));
        self.reads.push((now, revision, modified));
        Ok(())
    }
}
