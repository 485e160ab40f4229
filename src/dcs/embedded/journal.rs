//! The store's file: an image of everything, then one checksummed record for each change. No I/O: what must be written goes out as
//! [`FileOp`]s, what the file held comes in as bytes.
//!
//! ```text
//! "MASTIFF" version | salt u64 | record 0 (image) | record 1 | record 2 | … | zeros
//! record = length u32 | checksum u32 | sequence u64 | payload
//! ```
//!
//! One record holds all that must become durable together: term, vote and entries. It is written in one piece and flushed before anything that
//! follows from it leaves the box, and before the next one is written. So at most the last record can be torn, and a torn one was never
//! promised to anybody: it is dropped. A bad record with a good one behind it is damage, and damage is not guessed at. The file is written anew
//! beside itself and renamed when it has grown, so an image is whole or not there.

use raft::eraftpb::{Entry, Snapshot};

use super::codec::{Coded, Malformed, Reader, Writer};
use crate::postgres::controldata::crc32c;

/// What every file begins with.
const MAGIC: &[u8; 7] = b"MASTIFF";
/// Of this format.
const VERSION: u8 = 1;
/// Magic, version, salt.
const HEAD: usize = 16;
/// Length, checksum and sequence in front of each record.
const RECORD_HEAD: usize = 16;
/// How much room for records an image is followed by. Written as zeros at once: a flush later on does not have to write the length of the file,
/// too, and a file that was cut off shows.
pub const ROOM: usize = 64 * 1024;
/// No file is larger: state, entries and room are bounded.
const MAX_FILE: usize = 16 * 1024 * 1024;

/// A change of the file. Each must be on the disk before the next one begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileOp {
    /// Write there and flush.
    Write {
        /// From the beginning of the file, in bytes.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Write a new file, flush it, put it in the place of the old one, flush the directory.
    Replace {
        /// The whole file.
        bytes: Vec<u8>,
    },
}

/// What became durable together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The latest term.
    pub term: u64,
    /// For whom this box voted in it; 0: nobody.
    pub vote: u64,
    /// Up to here entries were known to be agreed upon. A change of members counts from then on, and after a new start, too: who holds the entry of
    /// the next change must not elect with the members from before the last one. (`docs/decisions.md`, the file)
    pub commit: u64,
    /// Entries of the log. One with an index that is there already takes its place and ends the log there.
    pub entries: Vec<Entry>,
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// Number of this box in the store, chosen at random when its file was made. A box that lost its file gets another one: the old number's
    /// votes and promises went with the file.
    pub node: u64,
    /// The state up to an index, and the members then.
    pub snapshot: Snapshot,
    /// Term, vote, and the log after that index.
    pub tail: Record,
}

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It is something else.
    #[error("it is not a store file of Mastiff")]
    Foreign,
    /// A later Mastiff wrote it.
    #[error("it has format {0}, this program knows format {VERSION}: install the version that wrote it, or a later one")]
    Newer(u8),
    /// The file is cut off, or larger than any.
    #[error("it has {0} bytes")]
    Size(usize),
    /// A record cannot be read although it was on the disk once.
    #[error("it is damaged at byte {0}")]
    Record(usize),
    /// A record says what cannot be.
    #[error("it is damaged at byte {0}: {1}")]
    Content(usize, Malformed),
}

/// Where the file ends and what comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    salt: u64,
    sequence: u64,
    end: usize,
    room: usize,
}

impl Journal {
    /// A new file with this content.
    #[must_use]
    pub fn create(image: &Image, salt: u64) -> (Journal, FileOp) {
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        bytes.extend_from_slice(&salt.to_le_bytes());
        bytes.extend_from_slice(&framed(salt, 0, &image.to_bytes()));
        let end = bytes.len();
        bytes.resize(end + ROOM, 0);
        (Journal { salt, sequence: 1, end, room: end + ROOM }, FileOp::Replace { bytes })
    }

    /// Adds a record. `None`: there is no room for it, time for [`Journal::create`].
    pub fn append(&mut self, record: &Record) -> Option<FileOp> {
        let bytes = framed(self.salt, self.sequence, &record.to_bytes());
        if self.end + bytes.len() + RECORD_HEAD > self.room {
            return None;
        }
        let offset = self.end as u64;
        self.sequence += 1;
        self.end += bytes.len();
        Some(FileOp::Write { offset, bytes })
    }

    /// Reads a file. The flag says that the last record was torn: then the file must be written anew before anything is added.
    ///
    /// # Errors
    /// It is not one of ours, or damaged.
    pub fn recover(bytes: &[u8]) -> Result<(Journal, Image, bool), Damage> {
        if bytes.len() < HEAD || bytes.len() > MAX_FILE {
            return Err(if bytes.starts_with(MAGIC) { Damage::Size(bytes.len()) } else { Damage::Foreign });
        }
        let mut head = Reader::new(bytes.get(MAGIC.len()..HEAD).unwrap_or_default());
        let (Ok(version), Ok(salt)) = (head.u8("a version"), head.u64("a salt")) else { return Err(Damage::Foreign) };
        if !bytes.starts_with(MAGIC) {
            return Err(Damage::Foreign);
        }
        if version != VERSION {
            return Err(Damage::Newer(version));
        }
        let (payload, mut end) = unframed(bytes, HEAD, salt, 0).ok_or(Damage::Record(HEAD))?;
        // A file that is cut off could lack records that were promised.
        if bytes.len() != end + ROOM {
            return Err(Damage::Size(bytes.len()));
        }
        let mut image = Image::from_bytes(payload).map_err(|error| Damage::Content(HEAD, error))?;
        let mut sequence = 1;
        while let Some((payload, next)) = unframed(bytes, end, salt, sequence) {
            let record = Record::from_bytes(payload).map_err(|error| Damage::Content(end, error))?;
            image.extend(record).map_err(|error| Damage::Content(end, error))?;
            (sequence, end) = (sequence + 1, next);
        }
        if has_record_after(bytes, end, salt, sequence) {
            return Err(Damage::Record(end));
        }
        let torn = bytes.get(end..).is_some_and(|rest| rest.iter().any(|byte| *byte != 0));
        Ok((Journal { salt, sequence, end, room: bytes.len() }, image, torn))
    }
}

impl Image {
    /// Adds what a record brought.
    fn extend(&mut self, record: Record) -> Result<(), Malformed> {
        let first = self.snapshot.get_metadata().index.saturating_add(1);
        for entry in record.entries {
            let next = first.saturating_add(self.tail.entries.len() as u64);
            if entry.index < first || entry.index > next {
                return Err(Malformed::Invalid("the index of an entry"));
            }
            self.tail.entries.truncate(usize::try_from(entry.index - first).unwrap_or(0));
            self.tail.entries.push(entry);
        }
        (self.tail.term, self.tail.vote, self.tail.commit) = (record.term, record.vote, record.commit);
        Ok(())
    }
}

fn framed(salt: u64, sequence: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    out.u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    out.u32(checksum(salt, sequence, payload));
    out.u64(sequence);
    let mut bytes = out.finish();
    bytes.extend_from_slice(payload);
    bytes
}

/// The payload of a record with this sequence number, and where it ends; `None`: there is none.
fn unframed(bytes: &[u8], offset: usize, salt: u64, sequence: u64) -> Option<(&[u8], usize)> {
    let mut from = Reader::new(bytes.get(offset..)?);
    let length = usize::try_from(from.u32("").ok()?).ok()?;
    let stored = from.u32("").ok()?;
    if from.u64("").ok()? != sequence {
        return None;
    }
    let payload = from.rest().get(..length)?;
    (checksum(salt, sequence, payload) == stored).then_some((payload, offset + RECORD_HEAD + length))
}

/// Whether a record that comes after the missing one stands anywhere behind it.
fn has_record_after(bytes: &[u8], offset: usize, salt: u64, sequence: u64) -> bool {
    let next = sequence + 1;
    let mark = next.to_le_bytes();
    let rest = bytes.get(offset..).unwrap_or_default();
    rest.windows(mark.len())
        .enumerate()
        .any(|(at, window)| window == mark && at >= RECORD_HEAD / 2 && unframed(bytes, offset + at - RECORD_HEAD / 2, salt, next).is_some())
}

/// The salt keeps bytes that somebody put into a value from looking like a record.
fn checksum(salt: u64, sequence: u64, payload: &[u8]) -> u32 {
    let mut all = salt.to_le_bytes().to_vec();
    all.extend_from_slice(&sequence.to_le_bytes());
    all.extend_from_slice(&u64::try_from(payload.len()).unwrap_or(u64::MAX).to_le_bytes());
    all.extend_from_slice(payload);
    crc32c(&all)
}

impl Coded for Record {
    fn write(&self, out: &mut Writer) {
        out.u64(self.term);
        out.u64(self.vote);
        out.u64(self.commit);
        out.list(&self.entries);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (term, vote, commit) = (from.u64("a term")?, from.u64("a vote")?, from.u64("an index")?);
        Ok(Record { term, vote, commit, entries: from.list("entries")? })
    }
}

impl Coded for Image {
    fn write(&self, out: &mut Writer) {
        out.u64(self.node);
        self.snapshot.write(out);
        self.tail.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut image = Image { node: from.u64("a box's number")?, snapshot: Snapshot::read(from)?, tail: Record::default() };
        if image.node == 0 {
            return Err(Malformed::Invalid("the box's number"));
        }
        let tail = Record::read(from)?;
        image.extend(tail)?;
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![7; 40], ..Entry::default() }
    }

    fn image() -> Image {
        let mut snapshot = Snapshot { data: b"state".to_vec(), ..Snapshot::default() };
        snapshot.mut_metadata().index = 5;
        snapshot.mut_metadata().term = 2;
        Image { node: 9, snapshot, tail: Record { term: 3, vote: 1, commit: 5, entries: vec![entry(6, 2)] } }
    }

    fn carry_out(file: &mut Vec<u8>, op: FileOp) {
        match op {
            FileOp::Replace { bytes } => *file = bytes,
            FileOp::Write { offset, bytes } => {
                let offset = usize::try_from(offset).unwrap();
                file.resize(file.len().max(offset + bytes.len()), 0);
                file[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
        }
    }

    fn written() -> (Journal, Vec<u8>, Vec<usize>) {
        let (mut journal, op) = Journal::create(&image(), 77);
        let (mut file, mut ends) = (Vec::new(), Vec::new());
        carry_out(&mut file, op);
        ends.push(journal.end);
        for record in [
            Record { term: 4, vote: 0, commit: 6, entries: vec![entry(7, 4), entry(8, 4)] },
            Record { term: 5, vote: 9, commit: 6, entries: vec![] },
            Record { term: 6, vote: 2, commit: 7, entries: vec![entry(8, 6)] },
        ] {
            carry_out(&mut file, journal.append(&record).unwrap());
            ends.push(journal.end);
        }
        (journal, file, ends)
    }

    #[test]
    fn what_was_written_comes_back() {
        let (journal, file, _) = written();
        let (recovered, image, torn) = Journal::recover(&file).unwrap();
        assert_eq!((recovered, torn), (journal, false));
        assert_eq!(image.tail, Record { term: 6, vote: 2, commit: 7, entries: vec![entry(6, 2), entry(7, 4), entry(8, 6)] });
        assert_eq!((image.node, image.snapshot.get_metadata().index), (9, 5));
    }

    #[test]
    fn a_torn_last_record_never_was() {
        let (_, whole, ends) = written();
        let [.., before, end] = ends[..] else { panic!() };
        for cut in before..end {
            // The rest of the record did not reach the disk, and the file is as long as it was made.
            let mut file = whole.clone();
            file[cut..end].fill(0);
            if file == whole {
                continue;
            }
            let (journal, image, torn) = Journal::recover(&file).unwrap();
            assert_eq!((image.tail.term, image.tail.entries.len()), (5, 3));
            assert_eq!((journal.end, torn), (before, cut > before));
        }
        // Only the end of it did.
        let mut file = whole.clone();
        file[before..before + 8].fill(0);
        assert!(Journal::recover(&file).unwrap().2);
    }

    #[test]
    fn damage_is_not_guessed_at() {
        let (_, whole, ends) = written();
        for at in HEAD..ends[2] {
            let mut file = whole.clone();
            file[at] ^= 0x10;
            assert!(Journal::recover(&file).is_err(), "byte {at}");
        }
        for cut in 0..whole.len() {
            assert!(Journal::recover(&whole[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(Journal::recover(b"garbage that is long enough"), Err(Damage::Foreign));
        let mut file = whole;
        file[MAGIC.len()] = 9;
        assert_eq!(Journal::recover(&file), Err(Damage::Newer(9)));
    }

    #[test]
    fn it_says_when_it_is_full() {
        let (mut journal, _) = Journal::create(&image(), 1);
        let mut count = 0;
        while journal.append(&Record { term: 1, vote: 1, commit: 6, entries: vec![entry(7, 1)] }).is_some() {
            count += 1;
        }
        assert!((400..1000).contains(&count), "{count} records");
    }
}
