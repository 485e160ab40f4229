//! A disk: what was flushed survives, the write under way may be torn or lost.

use mastiff::dcs::embedded::journal::FileOp;

/// One box's disk.
#[derive(Default)]
pub struct Disk {
    /// What a power cut leaves.
    pub file: Vec<u8>,
    /// Handed over and not flushed yet, in order.
    pub pending: Vec<(u64, FileOp)>,
}

impl Disk {
    /// The first one is flushed now.
    pub fn flush(&mut self) -> Option<u64> {
        if self.pending.is_empty() {
            return None;
        }
        let (number, op) = self.pending.remove(0);
        self.carry_out(&op, usize::MAX);
        Some(number)
    }

    /// The power fails: of the first write `kept` bytes have reached the disk, of the others nothing.
    pub fn fail(&mut self, kept: usize) {
        if let Some((_, op)) = self.pending.first().cloned() {
            // A new file takes the old one's place whole or not at all.
            if matches!(op, FileOp::Write { .. }) {
                self.carry_out(&op, kept);
            }
        }
        self.pending.clear();
    }

    fn carry_out(&mut self, op: &FileOp, kept: usize) {
        match op {
            FileOp::Replace { bytes } => self.file.clone_from(bytes),
            FileOp::Write { offset, bytes } => {
                let offset = usize::try_from(*offset).unwrap();
                let kept = kept.min(bytes.len());
                self.file[offset..offset + kept].copy_from_slice(&bytes[..kept]);
            }
        }
    }
}
