//! What a box asks of the store, and what the Raft leader answers.

use super::codec::{Coded, Malformed, Reader, Writer};
use super::state::{Done, KeyLine, Record};
use super::txn::{Span, Txn};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Reads keys, as they are after everything that was acknowledged before this was asked.
    Range(Span),
    /// Makes a lease.
    Grant {
        /// Its length in milliseconds.
        ttl: u64,
    },
    /// Keeps a lease alive: it ends `ttl` after the Raft leader heard this, or later. Costs no write.
    Renew {
        /// Which.
        lease: i64,
    },
    /// Ends a lease.
    Revoke {
        /// Which.
        lease: i64,
    },
    /// A conditional write through the log.
    Txn(Txn),
    /// A conditional write of soft keys, see [`super::state`].
    Soft(Txn),
    /// A change of the members.
    Members(Vec<Member>),
}

/// What a box of the store is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub node: u64,
    /// As what.
    pub part: Part,
    /// Its name and address, unless it leaves.
    pub place: Place,
}

/// What a box has to say in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It votes.
    Voter,
    /// It keeps a copy.
    Learner,
    /// Nothing: it leaves.
    Gone,
}

/// Where a box is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its name, for people.
    pub name: String,
    /// `HOST:PORT` of its transport.
    pub address: String,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The keys, in order.
    Range {
        /// The store's revision then.
        revision: i64,
        /// What was found.
        found: Vec<(Vec<u8>, Record)>,
    },
    /// The lease is there.
    Lease {
        /// Its number.
        lease: i64,
        /// Its length in milliseconds.
        ttl: u64,
    },
    /// The lease does not exist (any more): definite.
    LeaseGone,
    /// The transaction was evaluated.
    Txn {
        /// The store's revision after it.
        revision: i64,
        /// All conditions held.
        succeeded: bool,
        /// What the operations gave.
        results: Vec<Done>,
    },
    /// Done.
    Done {
        /// The store's revision after it.
        revision: i64,
    },
    /// Not done, and never will be: the sentence says why.
    Refused(String),
    /// It may have been done, or may still be: the Raft leader changed or the time was up.
    Unknown,
    /// Not done: there is no Raft leader, or it is about to hand over. Ask again.
    Busy,
}

impl Coded for Request {
    fn write(&self, out: &mut Writer) {
        match self {
            Request::Range(span) => {
                out.u8(0);
                span.write(out);
            }
            Request::Grant { ttl } => {
                out.u8(1);
                out.u64(*ttl);
            }
            Request::Renew { lease } => {
                out.u8(2);
                out.i64(*lease);
            }
            Request::Revoke { lease } => {
                out.u8(3);
                out.i64(*lease);
            }
            Request::Txn(txn) => {
                out.u8(4);
                txn.write(out);
            }
            Request::Soft(txn) => {
                out.u8(5);
                txn.write(out);
            }
            Request::Members(members) => {
                out.u8(6);
                out.list(members);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match from.u8("a request")? {
            0 => Request::Range(Span::read(from)?),
            1 => Request::Grant { ttl: from.u64("a length")? },
            2 => Request::Renew { lease: from.i64("a lease")? },
            3 => Request::Revoke { lease: from.i64("a lease")? },
            4 => Request::Txn(Txn::read(from)?),
            5 => Request::Soft(Txn::read(from)?),
            6 => Request::Members(from.list("members")?),
            number => return Err(Malformed::Unknown { what: "a request", number }),
        })
    }
}

impl Coded for Member {
    fn write(&self, out: &mut Writer) {
        out.u64(self.node);
        out.u8(match self.part {
            Part::Voter => 0,
            Part::Learner => 1,
            Part::Gone => 2,
        });
        self.place.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let node = from.u64("a box's number")?;
        let part = match from.u8("a box's part")? {
            0 => Part::Voter,
            1 => Part::Learner,
            2 => Part::Gone,
            number => return Err(Malformed::Unknown { what: "a box's part", number }),
        };
        if node == 0 {
            return Err(Malformed::Invalid("a box's number"));
        }
        Ok(Member { node, part, place: Place::read(from)? })
    }
}

impl Coded for Place {
    fn write(&self, out: &mut Writer) {
        out.bytes(self.name.as_bytes());
        out.bytes(self.address.as_bytes());
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Place { name: text(from, "a name")?, address: text(from, "an address")? })
    }
}

/// Nothing that is kept about a box is longer.
const MAX_TEXT: usize = 1024;

fn text(from: &mut Reader<'_>, what: &'static str) -> Result<String, Malformed> {
    let bytes = from.bytes(what)?;
    if bytes.len() > MAX_TEXT {
        return Err(Malformed::Long(what));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed::Invalid(what))
}

impl Coded for Answer {
    fn write(&self, out: &mut Writer) {
        match self {
            Answer::Range { revision, found } => {
                out.u8(0);
                out.i64(*revision);
                lines(out, found);
            }
            Answer::Lease { lease, ttl } => {
                out.u8(1);
                out.i64(*lease);
                out.u64(*ttl);
            }
            Answer::LeaseGone => out.u8(2),
            Answer::Txn { revision, succeeded, results } => {
                out.u8(3);
                out.i64(*revision);
                out.bool(*succeeded);
                out.list(results);
            }
            Answer::Done { revision } => {
                out.u8(4);
                out.i64(*revision);
            }
            Answer::Refused(why) => {
                out.u8(5);
                out.bytes(why.as_bytes());
            }
            Answer::Unknown => out.u8(6),
            Answer::Busy => out.u8(7),
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match from.u8("an answer")? {
            0 => Answer::Range { revision: from.i64("a revision")?, found: found(from)? },
            1 => Answer::Lease { lease: from.i64("a lease")?, ttl: from.u64("a length")? },
            2 => Answer::LeaseGone,
            3 => Answer::Txn { revision: from.i64("a revision")?, succeeded: from.bool("an answer")?, results: from.list("results")? },
            4 => Answer::Done { revision: from.i64("a revision")? },
            5 => Answer::Refused(text(from, "a reason")?),
            6 => Answer::Unknown,
            7 => Answer::Busy,
            number => return Err(Malformed::Unknown { what: "an answer", number }),
        })
    }
}

impl Coded for Done {
    fn write(&self, out: &mut Writer) {
        match self {
            Done::Range(found) => {
                out.u8(0);
                lines(out, found);
            }
            Done::Put => out.u8(1),
            Done::Deleted(count) => {
                out.u8(2);
                out.u64(*count as u64);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8("a result")? {
            0 => Ok(Done::Range(found(from)?)),
            1 => Ok(Done::Put),
            2 => usize::try_from(from.u64("a count")?).map(Done::Deleted).map_err(|_| Malformed::Long("a count")),
            number => Err(Malformed::Unknown { what: "a result", number }),
        }
    }
}

fn lines(out: &mut Writer, found: &[(Vec<u8>, Record)]) {
    out.list(&found.iter().map(|(key, record)| KeyLine(key.clone(), record.clone())).collect::<Vec<_>>());
}

fn found(from: &mut Reader<'_>) -> Result<Vec<(Vec<u8>, Record)>, Malformed> {
    Ok(from.list::<KeyLine>("keys")?.into_iter().map(|KeyLine(key, record)| (key, record)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn back_and_forth<T: Coded + PartialEq + std::fmt::Debug>(value: T) {
        let bytes = value.to_bytes();
        assert_eq!(T::from_bytes(&bytes).as_ref(), Ok(&value));
        for cut in 0..bytes.len() {
            assert!(T::from_bytes(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn coded() {
        let place = Place { name: "n1".to_owned(), address: "[fd00::1]:7000".to_owned() };
        for part in [Part::Voter, Part::Learner, Part::Gone] {
            back_and_forth(Request::Members(vec![Member { node: 5, part, place: place.clone() }]));
        }
        let requests =
            [Request::Range(Span::prefix("a")), Request::Grant { ttl: 1 }, Request::Renew { lease: 2 }, Request::Revoke { lease: -3 }];
        requests.into_iter().for_each(back_and_forth);
        back_and_forth(Request::Txn(Txn::default()));
        back_and_forth(Request::Soft(Txn::default()));
        let found = vec![(b"k".to_vec(), Record { value: b"v".to_vec(), modified: 3, ..Record::default() })];
        back_and_forth(Answer::Range { revision: 7, found: found.clone() });
        back_and_forth(Answer::Txn { revision: 7, succeeded: true, results: vec![Done::Range(found), Done::Put, Done::Deleted(2)] });
        let answers = [
            Answer::Lease { lease: 1, ttl: 2 },
            Answer::LeaseGone,
            Answer::Done { revision: 1 },
            Answer::Refused("no".to_owned()),
            Answer::Unknown,
            Answer::Busy,
        ];
        answers.into_iter().for_each(back_and_forth);
        assert!(Request::from_bytes(&[9]).is_err() && Answer::from_bytes(&[9]).is_err());
    }
}
