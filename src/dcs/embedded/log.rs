//! What the consensus library reads: the log behind the last snapshot, and the state up to what was applied, all in memory. That it is on the
//! disk, too, before anything follows from it, is [`super::node`]'s affair.

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

use super::codec::{Coded, Malformed};
use super::journal::{Image, Record};
use super::state::State;

/// Log and state of a box.
#[derive(Debug, Default)]
pub struct Log {
    /// Term, vote and commit index.
    pub hard: HardState,
    /// The state after the entry [`Log::applied`].
    pub state: State,
    /// Index and term of the last entry that was applied.
    pub applied: (u64, u64),
    /// The members after it.
    pub members: ConfState,
    /// Index and term of the last entry that is not in `entries` any more.
    base: (u64, u64),
    entries: Vec<Entry>,
}

impl Log {
    /// From a file.
    ///
    /// # Errors
    /// The snapshot in it is not ours.
    pub fn new(image: Image) -> Result<Log, Malformed> {
        let metadata = image.snapshot.get_metadata();
        let base = (metadata.index, metadata.term);
        // An empty snapshot is the one of a box that was never part of anything.
        let state = if image.snapshot.data.is_empty() { State::default() } else { State::from_bytes(&image.snapshot.data)? };
        // Not above what is there, whatever the file says.
        let commit = image.tail.commit.clamp(base.0, base.0 + image.tail.entries.len() as u64);
        let hard = HardState { term: image.tail.term, vote: image.tail.vote, commit };
        Ok(Log { hard, state, applied: base, members: metadata.get_conf_state().clone(), base, entries: image.tail.entries })
    }

    /// Everything, with a snapshot of what was applied.
    #[must_use]
    pub fn image(&self, node: u64) -> Image {
        let entries = self.entries.iter().filter(|entry| entry.index > self.applied.0).cloned().collect();
        let tail = Record { term: self.hard.term, vote: self.hard.vote, commit: self.hard.commit, entries };
        Image { node, snapshot: self.image_of_state(), tail }
    }

    fn image_of_state(&self) -> Snapshot {
        let mut snapshot = Snapshot { data: self.state.to_bytes(), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = self.applied;
        metadata.set_conf_state(self.members.clone());
        snapshot
    }

    /// Forgets the entries that [`Log::image`] does not hold.
    pub fn compact(&mut self) {
        self.base = self.applied;
        self.entries.retain(|entry| entry.index > self.applied.0);
    }

    /// Adds entries; those with the same index or a later one go.
    pub fn append(&mut self, entries: &[Entry]) {
        if let Some(first) = entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend_from_slice(entries);
        }
    }

    /// Begins anew from a snapshot.
    ///
    /// # Errors
    /// It cannot be read: nothing is changed.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), Malformed> {
        self.state.restore(State::from_bytes(&snapshot.data)?);
        let metadata = snapshot.get_metadata();
        self.applied = (metadata.index, metadata.term);
        self.base = self.applied;
        self.members = metadata.get_conf_state().clone();
        self.entries.clear();
        self.hard.commit = self.hard.commit.max(metadata.index);
        Ok(())
    }

    /// Bytes of an entry.
    #[must_use]
    pub fn size_of(entry: &Entry) -> usize {
        entry.data.len() + entry.context.len() + 32
    }

    /// Bytes of the entries that are not carried out yet.
    #[must_use]
    pub fn open(&self) -> usize {
        self.entries.iter().filter(|entry| entry.index > self.applied.0).map(Log::size_of).sum()
    }

    /// Index of the last entry.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    fn position(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.base.0 + 1)?).ok()
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.members.clone()))
    }

    fn entries(&self, low: u64, high: u64, max_size: impl Into<Option<u64>>, _: GetEntriesContext) -> raft::Result<Vec<Entry>> {
        let (Some(low), Some(high)) = (self.position(low), self.position(high)) else {
            return Err(Error::Store(StorageError::Compacted));
        };
        let found = self.entries.get(low..high).ok_or(Error::Store(StorageError::Unavailable))?;
        let (limit, mut size) = (max_size.into().unwrap_or(u64::MAX), 0_u64);
        // The first one goes whatever its size is.
        let fits = |entry: &&Entry| {
            let before = size;
            size = size.saturating_add(entry.data.len() as u64 + 32);
            before == 0 || size <= limit
        };
        Ok(found.iter().take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.0 {
            return Ok(self.base.1);
        }
        let position = self.position(index).ok_or(Error::Store(StorageError::Compacted))?;
        self.entries.get(position).map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _: u64) -> raft::Result<Snapshot> {
        if self.applied.0 < request_index.max(1) {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(self.image_of_state())
    }
}
