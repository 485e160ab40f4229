//! WAL as a list of records. A record's number is unique in the world, so two logs with the same record at the same place agree up to there.

/// One record: a commit, a checkpoint or the start of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rec {
    /// Position after it.
    pub end: u64,
    /// Unique number.
    pub id: u64,
    /// Timeline it was written on.
    pub timeline: u32,
}

/// A node's WAL.
#[derive(Clone, Debug, Default)]
pub struct Wal {
    /// All records, oldest first.
    pub recs: Vec<Rec>,
    /// Ends of the earlier timelines.
    pub history: Vec<(u32, u64)>,
}

/// Where WAL begins.
pub const ORIGIN: u64 = 0x0100_0028;

impl Wal {
    /// Position after the last record.
    pub fn end(&self) -> u64 {
        self.recs.last().map_or(ORIGIN, |rec| rec.end)
    }

    /// Start of the last record.
    pub fn last_start(&self) -> u64 {
        self.recs.len().checked_sub(2).map_or(ORIGIN, |index| self.recs[index].end)
    }

    /// Timeline of the last record.
    pub fn timeline(&self) -> u32 {
        self.recs.last().map_or(1, |rec| rec.timeline)
    }

    /// Writes a record on the current timeline.
    pub fn append(&mut self, id: u64, bytes: u64) {
        let rec = Rec { end: self.end() + bytes, id, timeline: self.timeline() };
        self.recs.push(rec);
    }

    /// Starts a timeline here.
    pub fn branch(&mut self, id: u64, timeline: u32) {
        let (old, end) = (self.timeline(), self.end());
        self.history.push((old, end));
        self.recs.push(Rec { end: end + 120, id, timeline });
    }

    /// Whether two primaries began a timeline of the same number, one of them maybe by way of another timeline that began at the same place: no
    /// timeline has two different ends in the histories, and the records are not the same.
    pub fn is_twin_of(&self, other: &Wal) -> bool {
        let at = self.common(other);
        let (Some(our), Some(their)) = (self.recs.get(at), other.recs.get(at)) else { return false };
        let begins = at.checked_sub(1).is_none_or(|before| self.recs[before].timeline != our.timeline);
        begins && (our.timeline == their.timeline || our.timeline == other.timeline())
    }

    /// Whether all of this is in `other`, at the same places.
    pub fn is_prefix_of(&self, other: &Wal) -> bool {
        match self.recs.last() {
            None => true,
            Some(last) => other.recs.get(self.recs.len() - 1) == Some(last),
        }
    }

    /// Number of records that both have.
    pub fn common(&self, other: &Wal) -> usize {
        let (mut low, mut high) = (0, self.recs.len().min(other.recs.len()));
        while low < high {
            let middle = (low + high).div_ceil(2);
            if self.recs[middle - 1] == other.recs[middle - 1] {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        low
    }

    /// Takes over what `other`, of which this is a prefix, has more. True if there was something.
    pub fn extend_from(&mut self, other: &Wal) -> bool {
        let from = self.recs.len();
        if other.recs.len() <= from {
            return false;
        }
        let before = self.timeline();
        self.recs.extend_from_slice(&other.recs[from..]);
        if self.timeline() != before {
            self.history = other.history.clone();
        }
        true
    }

    /// Whether it holds the record `rec`, given its place.
    pub fn holds(&self, index: usize, id: u64) -> bool {
        self.recs.get(index).is_some_and(|rec| rec.id == id)
    }
}

/// Checks of the model itself.
pub fn self_test() -> Result<(), String> {
    let mut a = Wal::default();
    for id in 1..=10 {
        a.append(id, 100);
    }
    let mut b = a.clone();
    a.append(11, 100);
    if !b.is_prefix_of(&a) || a.is_prefix_of(&b) || b.common(&a) != 10 {
        return Err("wal: prefix".to_owned());
    }
    b.branch(12, 2);
    if b.is_prefix_of(&a) || a.common(&b) != 10 || b.timeline() != 2 || b.history != vec![(1, ORIGIN + 1000)] {
        return Err("wal: branch".to_owned());
    }
    let mut c = Wal::default();
    if !c.extend_from(&b) || c.timeline() != 2 || c.history != b.history || !c.holds(10, 12) {
        return Err("wal: extend".to_owned());
    }
    Ok(())
}
