//! Entries that a majority has become state here.

use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, EntryType};

use super::super::codec::{Coded, Malformed, Reader, Writer};
use super::super::gate;
use super::super::request::{Answer, Member, Part};
use super::super::state::{Change, Command, Outcome};
use super::{Node, Output};
use crate::ha::types::Instant;

/// What the data of an entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proposal<T> {
    /// The run of the program that proposed it.
    pub(super) life: u64,
    /// Its number there; 0: nobody waits for it.
    pub(super) number: u64,
    /// The revision that it gets.
    pub(super) revision: i64,
    /// What.
    pub(super) what: T,
}

impl<T: Coded> Coded for Proposal<T> {
    fn write(&self, out: &mut Writer) {
        out.u64(self.life);
        out.u64(self.number);
        out.i64(self.revision);
        self.what.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (life, number) = (from.u64("a proposal")?, from.u64("a proposal")?);
        Ok(Proposal { life, number, revision: from.i64("a revision")?, what: T::read(from)? })
    }
}

/// The members that a change names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members(pub(super) Vec<Member>);

impl Coded for Members {
    fn write(&self, out: &mut Writer) {
        out.list(&self.0);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Members(from.list("members")?))
    }
}

impl Members {
    /// The same in the library's words.
    pub(super) fn change(&self) -> ConfChangeV2 {
        let single = |member: &Member| {
            let mut change = ConfChangeSingle { node_id: member.node, ..ConfChangeSingle::default() };
            change.set_change_type(match member.part {
                Part::Voter => ConfChangeType::AddNode,
                Part::Learner => ConfChangeType::AddLearnerNode,
                Part::Gone => ConfChangeType::RemoveNode,
            });
            change
        };
        ConfChangeV2 { changes: self.0.iter().map(single).collect(), ..ConfChangeV2::default() }
    }
}

impl Node {
    pub(super) fn apply(&mut self, now: Instant, entries: Vec<Entry>) {
        let mut changes = Vec::new();
        for entry in entries {
            match entry.get_entry_type() {
                EntryType::EntryNormal => self.apply_command(now, &entry, &mut changes),
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.apply_members(&entry),
            }
            self.raft.mut_store().applied = (entry.index, entry.term);
            self.raft.advance_apply_to(entry.index);
        }
        if !changes.is_empty() {
            self.out.push(Output::Changed(changes));
        }
    }

    fn apply_command(&mut self, now: Instant, entry: &Entry, changes: &mut Vec<Change>) {
        if entry.data.is_empty() {
            return;
        }
        let proposal = match Proposal::<Command>::from_bytes(&entry.data) {
            Ok(proposal) => proposal,
            Err(error) => {
                log::error!("store: entry {} is ignored: {error}", entry.index);
                return;
            }
        };
        let state = &mut self.raft.mut_store().state;
        let outcome = state.apply(proposal.revision, &proposal.what, changes);
        let revision = state.revision();
        self.note_lease(now, &proposal.what, &outcome);
        if proposal.life != self.life {
            return;
        }
        if let Command::Begin { .. } = proposal.what {
            self.begun(now, proposal.number);
        }
        let answer = match (outcome, &proposal.what) {
            (Outcome::Done, Command::Grant { lease, ttl }) => Answer::Lease { lease: *lease, ttl: *ttl },
            (Outcome::Done, _) => Answer::Done { revision },
            (Outcome::Txn { succeeded, results }, _) => Answer::Txn { revision, succeeded, results },
            (Outcome::LeaseGone, _) => Answer::LeaseGone,
            (Outcome::Refused(why), _) => Answer::Refused(why.to_owned()),
        };
        self.settle_proposal(proposal.number, answer);
    }

    /// The context holds our own words for it; the library's are not read again.
    fn apply_members(&mut self, entry: &Entry) {
        let proposal = if entry.context.is_empty() {
            // The library's own second step out of a joint membership.
            Some(Proposal { life: 0, number: 0, revision: 0, what: Members::default() })
        } else {
            Proposal::<Members>::from_bytes(&entry.context).ok().filter(|proposal| proposal.what.0.len() <= gate::MAX_MEMBERS)
        };
        let Some(proposal) = proposal else {
            log::error!("store: the change of members in entry {} is ignored", entry.index);
            return;
        };
        let answer = match self.raft.apply_conf_change(&proposal.what.change()) {
            Ok(members) => {
                let store = self.raft.mut_store();
                store.members = members;
                store.state.settle(&proposal.what.0);
                let revision = store.state.revision();
                // The library does not expect to lead a log that it is no part of, and who has no vote should not.
                let term = self.raft.raft.term;
                if self.leads() && !self.raft.raft.promotable() {
                    self.raft.raft.become_follower(term, 0);
                }
                Answer::Done { revision }
            }
            Err(error) => Answer::Refused(error.to_string()),
        };
        if proposal.life == self.life {
            self.settle_proposal(proposal.number, answer);
        }
    }
}
