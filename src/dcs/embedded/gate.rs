//! What the consensus library may be given of a peer's messages.
//!
//! The library (raft 0.7) takes every message for one of an honest peer: many that no honest peer would send end in a panic, and some of them in
//! one at every start. So everything is looked at here first. What breaks the form is [`Malformed`], and its sender a broken or hostile one; what is
//! only out of date is dropped. The list of conditions comes from reading the library and from fuzzing it (docs/decisions.md, 2026-11-21).

use raft::eraftpb::{ConfState, EntryType, Message, MessageType};
use raft::{Raft, StateRole};

use super::codec::{Coded, Malformed};
use super::journal::Image;
use super::log::Log;
use super::proto;
use super::state::State;

/// Terms and indices stay below: a peer must not be able to use up the numbers.
const MAX_NUMBER: u64 = 1 << 62;
/// Bytes in entries that are not carried out yet, and of a snapshot. An honest Raft leader has 2 MiB of them open, and 4 MiB under way to a box;
/// with the state they fit into the file.
const MAX_OPEN: usize = 8 * 1024 * 1024;
/// See [`MAX_OPEN`]: keys and values count with what surrounds them.
const MAX_SNAPSHOT: usize = 4 * 1024 * 1024;
/// Boxes in a store, and in a change of its members. Nobody has a tenth of them.
pub const MAX_MEMBERS: usize = 64;
/// A term may be so far ahead of ours. Each takes an election.
const MAX_TERM_STEP: u64 = 1_000_000;

/// Whether the library may hear this message; false: it is out of date. `vote_sent` is the term for which this box asked for votes last.
///
/// # Errors
/// No box that follows the rules sends this.
pub fn admit(raft: &Raft<Log>, from: u64, vote_sent: u64, message: &Message) -> Result<bool, Malformed> {
    let ours = message.from == from && from != 0 && from != raft.id && message.to == raft.id;
    if !ours || !proto::is_sent(message) {
        return Err(Malformed::Invalid("a message's sender"));
    }
    numbers(raft, message)?;
    let last = raft.raft_log.last_index();
    let position = (message.index == 0) == (message.log_term == 0);
    Ok(match message.get_msg_type() {
        MessageType::MsgAppend => {
            entries(message)?;
            if !position {
                return Err(Malformed::Invalid("an entry's position"));
            }
            let size: usize = message.entries.iter().map(Log::size_of).sum();
            raft.store().open() + size <= MAX_OPEN
        }
        MessageType::MsgHeartbeat => message.commit <= last,
        MessageType::MsgSnapshot => snapshot(raft, message)?,
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
            if !position || message.log_term >= message.term {
                return Err(Malformed::Invalid("a vote's position"));
            }
            message.get_msg_type() == MessageType::MsgRequestVote || raft.term > 0
        }
        MessageType::MsgRequestVoteResponse => message.term > raft.term || message.term == vote_sent,
        MessageType::MsgRequestPreVoteResponse => true,
        MessageType::MsgAppendResponse => message.index <= last && (!message.reject || message.reject_hint <= last),
        MessageType::MsgHeartbeatResponse => message.commit <= last,
        MessageType::MsgTimeoutNow => message.term == raft.term && raft.leader_id == from && is_settled(raft),
        _ => return Err(Malformed::Invalid("a message's kind")),
    })
}

fn numbers(raft: &Raft<Log>, message: &Message) -> Result<(), Malformed> {
    let numbers = [message.log_term, message.index, message.commit, message.reject_hint];
    if numbers.iter().any(|number| *number >= MAX_NUMBER) || message.request_snapshot != 0 {
        return Err(Malformed::Invalid("a message's number"));
    }
    if message.term == 0 || message.term >= MAX_NUMBER || message.term > raft.term.saturating_add(MAX_TERM_STEP) {
        return Err(Malformed::Invalid("a message's term"));
    }
    if !message.entries.is_empty() && message.get_msg_type() != MessageType::MsgAppend {
        return Err(Malformed::Invalid("a message with entries"));
    }
    Ok(())
}

/// Entries follow each other without a gap, and their terms never fall.
fn entries(message: &Message) -> Result<(), Malformed> {
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in &message.entries {
        if entry.get_entry_type() == EntryType::EntryConfChange {
            return Err(Malformed::Invalid("an entry's kind"));
        }
        let follows = entry.index == index + 1 && entry.term >= term.max(1) && entry.term <= message.term;
        if !follows {
            return Err(Malformed::Invalid("an entry's index or term"));
        }
        (index, term) = (entry.index, entry.term);
    }
    if message.log_term > message.term {
        return Err(Malformed::Invalid("an entry's term"));
    }
    Ok(())
}

/// A snapshot has to be readable before the library says that it was taken.
fn snapshot(raft: &Raft<Log>, message: &Message) -> Result<bool, Malformed> {
    let snapshot = message.snapshot.as_ref().ok_or(Malformed::Short("a snapshot"))?;
    let metadata = snapshot.get_metadata();
    let (index, term) = (metadata.index, metadata.term);
    if index == 0 || index >= MAX_NUMBER || term == 0 || term > message.term {
        return Err(Malformed::Invalid("a snapshot's index or term"));
    }
    members(metadata.get_conf_state())?;
    if snapshot.data.len() > MAX_SNAPSHOT {
        return Err(Malformed::Long("a snapshot"));
    }
    State::from_bytes(&snapshot.data)?;
    Ok(index != raft.raft_log.committed || raft.raft_log.match_term(index, term))
}

/// A membership that the library can work with.
///
/// # Errors
/// It cannot.
pub fn members(members: &ConfState) -> Result<(), Malformed> {
    let lists = [&members.voters, &members.learners, &members.voters_outgoing, &members.learners_next];
    if lists.iter().any(|list| list.len() > MAX_MEMBERS) {
        return Err(Malformed::Long("a membership"));
    }
    let once = |list: &[u64]| list.iter().enumerate().all(|(at, id)| *id != 0 && !list.iter().take(at).any(|other| other == id));
    let apart = |id: &u64| !members.voters.contains(id) && !members.voters_outgoing.contains(id) && !members.learners_next.contains(id);
    let leaves = |id: &u64| members.voters_outgoing.contains(id) && !members.voters.contains(id);
    let valid = !members.voters.is_empty()
        && lists.iter().all(|list| once(list))
        && members.learners.iter().all(apart)
        && members.learners_next.iter().all(leaves)
        && (!members.auto_leave || !members.voters_outgoing.is_empty());
    valid.then_some(()).ok_or(Malformed::Invalid("a membership"))
}

/// A file that the library can begin with. Its checksums hold; this is about what a liar made a box write, and about mistakes of our own.
///
/// # Errors
/// It cannot.
pub fn image(image: &Image) -> Result<(), Malformed> {
    let metadata = image.snapshot.get_metadata();
    if metadata.index >= MAX_NUMBER || image.tail.term >= MAX_NUMBER || metadata.term > image.tail.term {
        return Err(Malformed::Invalid("an index or a term"));
    }
    if metadata.index > 0 || *metadata.get_conf_state() != ConfState::default() {
        members(metadata.get_conf_state())?;
    }
    let mut term = metadata.term;
    for entry in &image.tail.entries {
        if entry.term < term || entry.term > image.tail.term {
            return Err(Malformed::Invalid("an entry's term"));
        }
        term = entry.term;
    }
    Ok(())
}

/// Everything that the library handed out is on the disk: only then may an election begin here.
#[must_use]
pub fn is_settled(raft: &Raft<Log>) -> bool {
    let log = &raft.raft_log;
    log.persisted == log.last_index() && log.unstable_snapshot().is_none()
}

/// The library's clock may go on: a box that is behind with its disk begins no election.
#[must_use]
pub fn may_tick(raft: &Raft<Log>) -> bool {
    raft.state == StateRole::Leader || is_settled(raft)
}
