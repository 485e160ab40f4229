//! The consensus library's messages as bytes of our own. Its generated parser (protobuf) never sees what a peer or a file holds.

use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};

use super::codec::{Coded, Malformed, Reader, Writer};

impl Coded for Entry {
    fn write(&self, out: &mut Writer) {
        out.u8(match self.get_entry_type() {
            EntryType::EntryNormal => 0,
            EntryType::EntryConfChange => 1,
            EntryType::EntryConfChangeV2 => 2,
        });
        out.u64(self.term);
        out.u64(self.index);
        out.bytes(&self.data);
        out.bytes(&self.context);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut entry = Entry::default();
        entry.set_entry_type(match from.u8("an entry")? {
            0 => EntryType::EntryNormal,
            2 => EntryType::EntryConfChangeV2,
            number => return Err(Malformed::Unknown { what: "an entry", number }),
        });
        entry.term = from.u64("an entry's term")?;
        entry.index = from.u64("an entry's index")?;
        entry.data = from.bytes("an entry's data")?.to_vec();
        entry.context = from.bytes("an entry's context")?.to_vec();
        Ok(entry)
    }
}

impl Coded for ConfState {
    fn write(&self, out: &mut Writer) {
        for ids in [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next] {
            out.numbers(ids);
        }
        out.bool(self.auto_leave);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let state = ConfState {
            voters: from.numbers("voters")?,
            learners: from.numbers("learners")?,
            voters_outgoing: from.numbers("voters")?,
            learners_next: from.numbers("learners")?,
            auto_leave: from.bool("a membership")?,
        };
        if state.voters.contains(&0) || state.learners.contains(&0) {
            return Err(Malformed::Invalid("a member without a number"));
        }
        Ok(state)
    }
}

impl Coded for Snapshot {
    fn write(&self, out: &mut Writer) {
        let metadata = self.get_metadata();
        out.u64(metadata.index);
        out.u64(metadata.term);
        metadata.get_conf_state().write(out);
        out.bytes(&self.data);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = from.u64("a snapshot's index")?;
        metadata.term = from.u64("a snapshot's term")?;
        metadata.set_conf_state(ConfState::read(from)?);
        snapshot.data = from.bytes("a snapshot")?.to_vec();
        Ok(snapshot)
    }
}

/// The kinds that boxes send to each other. Everything else (proposals, reads) has messages of its own here.
const KINDS: [MessageType; 11] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTimeoutNow,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
    MessageType::MsgTransferLeader,
];

/// Whether boxes send this to each other.
#[must_use]
pub fn is_sent(message: &Message) -> bool {
    KINDS.contains(&message.get_msg_type())
}

impl Coded for Message {
    fn write(&self, out: &mut Writer) {
        let kind = KINDS.iter().position(|kind| *kind == self.get_msg_type()).and_then(|kind| u8::try_from(kind).ok());
        out.u8(kind.unwrap_or(u8::MAX));
        for number in [self.to, self.from, self.term, self.log_term, self.index, self.commit, self.commit_term] {
            out.u64(number);
        }
        for number in [self.request_snapshot, self.reject_hint, self.deprecated_priority] {
            out.u64(number);
        }
        out.i64(self.priority);
        out.bool(self.reject);
        out.bytes(&self.context);
        out.list(&self.entries);
        out.option(self.snapshot.as_ref());
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let number = from.u8("a message")?;
        let kind = KINDS.get(usize::from(number)).ok_or(Malformed::Unknown { what: "a message", number })?;
        let mut message = Message::default();
        message.set_msg_type(*kind);
        for field in [&mut message.to, &mut message.from, &mut message.term, &mut message.log_term] {
            *field = from.u64("a message's number")?;
        }
        for field in [&mut message.index, &mut message.commit, &mut message.commit_term, &mut message.request_snapshot] {
            *field = from.u64("a message's number")?;
        }
        message.reject_hint = from.u64("a message's hint")?;
        message.deprecated_priority = from.u64("a message's priority")?;
        message.priority = from.i64("a message's priority")?;
        message.reject = from.bool("a message's answer")?;
        message.context = from.bytes("a message's context")?.to_vec();
        message.entries = from.list("a message's entries")?;
        message.snapshot = from.option("a message's snapshot")?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coded() {
        let mut entry = Entry { term: 3, index: 9, data: b"d".to_vec(), context: b"c".to_vec(), ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        let mut snapshot = Snapshot { data: b"state".to_vec(), ..Snapshot::default() };
        snapshot.mut_metadata().index = 8;
        snapshot.mut_metadata().set_conf_state(ConfState {
            voters: vec![1, 2],
            learners: vec![3],
            auto_leave: true,
            ..ConfState::default()
        });
        for kind in KINDS {
            let mut message = Message { to: 1, from: 2, term: 3, priority: -1, reject: true, ..Message::default() };
            message.set_msg_type(kind);
            message.entries = vec![entry.clone(), Entry::default()];
            message.snapshot = Some(snapshot.clone());
            message.context = b"ctx".to_vec();
            message.commit_term = 7;
            message.request_snapshot = 6;
            let bytes = message.to_bytes();
            assert_eq!(Message::from_bytes(&bytes), Ok(message));
            for cut in 0..bytes.len() {
                assert!(Message::from_bytes(&bytes[..cut]).is_err());
            }
        }
        let mut proposal = Message::default();
        proposal.set_msg_type(MessageType::MsgPropose);
        assert!(!is_sent(&proposal));
        assert!(Message::from_bytes(&proposal.to_bytes()).is_err());
    }
}
