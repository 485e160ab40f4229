//! A note beside the data directory while it is neither the old one nor the new one: the next life of the agent must know.
//!
//! It lies beside and not inside, because a copy wants an empty directory and `pg_rewind` removes what its source does not have.

use std::path::PathBuf;

use crate::ha::action::Job;
use crate::ha::input::{JobOutcome, Unfinished};

/// The note.
#[derive(Debug)]
pub struct Marker {
    path: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    /// What the note said before the job under way.
    before: Option<Unfinished>,
    /// The job under way: whether it began such work, and whether its success ends it.
    current: Option<Work>,
}

/// Work that leaves a note if it does not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Work(Unfinished);

impl Marker {
    /// The note of this data directory: `DATA.unfinished` beside it.
    #[must_use]
    pub fn beside(data_dir: Option<PathBuf>) -> Marker {
        let path = data_dir.as_ref().map(|dir| {
            let mut name = dir.clone().into_os_string();
            name.push(".unfinished");
            PathBuf::from(name)
        });
        Marker { path, data_dir, before: None, current: None }
    }

    /// What an earlier life left. A copy writes `pg_control` last, and a removal takes it first: with it the directory is complete, or the
    /// administrator has put something else there meanwhile. That is nothing to be removed.
    #[must_use]
    pub fn found(&self) -> Option<Unfinished> {
        let left = self.read();
        if left == Some(Unfinished::Copy) && self.data_dir.as_ref().is_some_and(|dir| dir.join("global/pg_control").exists()) {
            self.clear();
            return None;
        }
        left
    }

    /// The directory is empty (again): nothing is left of what was begun.
    pub fn emptied(&self) {
        if self.current.is_none() {
            self.clear();
        }
    }

    fn clear(&self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }

    fn read(&self) -> Option<Unfinished> {
        match std::fs::read_to_string(self.path.as_ref()?).ok()?.trim() {
            "rewind" => Some(Unfinished::Rewind),
            "copy" => Some(Unfinished::Copy),
            "bootstrap" => Some(Unfinished::Bootstrap),
            _ => None,
        }
    }

    /// A job begins.
    pub fn begin(&mut self, job: &Job) {
        self.current = match job {
            Job::Bootstrap { .. } => Some(Work(Unfinished::Bootstrap)),
            Job::Clone { .. } => Some(Work(Unfinished::Copy)),
            Job::Rewind { .. } => Some(Work(Unfinished::Rewind)),
            // What a removal that was cut short leaves is no more a member than half a copy.
            Job::RemoveData { .. } => Some(Work(Unfinished::Copy)),
            _ => None,
        };
        if let Some(Work(what)) = self.current {
            self.before = self.read();
            self.write(what);
        }
    }

    fn write(&self, what: Unfinished) {
        let Some(path) = &self.path else { return };
        let text = match what {
            Unfinished::Rewind => "rewind",
            Unfinished::Copy => "copy",
            Unfinished::Bootstrap => "bootstrap",
        };
        let _ = path.parent().map(std::fs::create_dir_all);
        if let Err(error) = crate::postgres::files::write_atomic(path, text.as_bytes(), 0o600) {
            log::warn!("cannot note beside the data directory that work on it began: {error}");
        }
    }

    /// The job ended. A failure leaves the note where it is; one that touched nothing leaves it as it was.
    pub fn end(&mut self, outcome: &JobOutcome) {
        if self.current.take().is_none() {
            return;
        }
        match (outcome, self.before) {
            (JobOutcome::Done, _) | (JobOutcome::Refused(_), None) => self.clear(),
            (JobOutcome::Refused(_), Some(before)) => self.write(before),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Marker;
    use crate::ha::action::{Job, WipeReason};
    use crate::ha::input::{JobOutcome, Unfinished};

    #[test]
    fn a_note_outlives_a_failure_and_ends_with_success_or_removal() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("deep/data");
        let mut marker = Marker::beside(Some(data.clone()));
        assert_eq!(marker.found(), None);
        marker.begin(&Job::Clone { source: None });
        assert_eq!(Marker::beside(Some(data.clone())).found(), Some(Unfinished::Copy));
        marker.end(&JobOutcome::Failed(String::new()));
        assert_eq!(marker.found(), Some(Unfinished::Copy));
        marker.begin(&Job::RemoveData { reason: WipeReason::HalfMade });
        marker.end(&JobOutcome::Done);
        assert_eq!(marker.found(), None);
    }

    #[test]
    fn what_an_administrator_restored_is_not_half_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut marker = Marker::beside(Some(data.clone()));
        marker.begin(&Job::Clone { source: None });
        marker.end(&JobOutcome::Refused("it is not empty".to_owned()));
        assert_eq!(marker.found(), None, "nothing was touched");
        marker.begin(&Job::Clone { source: None });
        marker.end(&JobOutcome::Failed("no space".to_owned()));
        std::fs::create_dir_all(data.join("global")).unwrap();
        assert_eq!(marker.found(), Some(Unfinished::Copy));
        std::fs::write(data.join("global/pg_control"), "").unwrap();
        assert_eq!(Marker::beside(Some(data)).found(), None, "complete");
        marker.begin(&Job::Clone { source: None });
        marker.end(&JobOutcome::Failed("no space".to_owned()));
        marker.emptied();
        assert_eq!(marker.read(), None);
    }
}
