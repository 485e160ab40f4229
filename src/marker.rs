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
        let path = data_dir.map(|dir| {
            let mut name = dir.into_os_string();
            name.push(".unfinished");
            PathBuf::from(name)
        });
        Marker { path, current: None }
    }

    /// What an earlier life left.
    #[must_use]
    pub fn found(&self) -> Option<Unfinished> {
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
        if let (Some(Work(what)), Some(path)) = (self.current, &self.path) {
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
    }

    /// The job ended. A failure leaves the note where it is.
    pub fn end(&mut self, outcome: &JobOutcome) {
        if self.current.take().is_some() && *outcome == JobOutcome::Done {
            if let Some(path) = &self.path {
                let _ = std::fs::remove_file(path);
            }
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
}
