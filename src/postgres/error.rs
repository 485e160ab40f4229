//! What can go wrong on the PostgreSQL side. The sentences reach the operator; none of them carries a secret.

use std::io;
use std::path::PathBuf;

/// An error of the PostgreSQL side.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read, written or removed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// `read`, `write`, `remove`, …
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("cannot run {program}: {source}")]
    Spawn {
        /// Its path or name.
        program: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A program ended otherwise than with success.
    #[error("{program} {how}{}", last_words(tail))]
    Child {
        /// Its name.
        program: String,
        /// `exited with code 1`, `was ended by signal 9`.
        how: String,
        /// The last lines it wrote.
        tail: Vec<String>,
    },
    /// No connection to a PostgreSQL.
    #[error("cannot connect to PostgreSQL at {target}: {reason}")]
    Connect {
        /// Where: host and port, or the socket directory.
        target: String,
        /// Why not.
        reason: String,
    },
    /// A query failed.
    #[error("{what} failed: {reason}")]
    Query {
        /// What it was for.
        what: &'static str,
        /// PostgreSQL's words.
        reason: String,
    },
    /// A deadline passed.
    #[error("{what} did not end within {after_ms} ms")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long, in milliseconds.
        after_ms: u64,
    },
    /// Something that needs a stopped PostgreSQL found a running one.
    #[error("refused: {what} while PostgreSQL (process {pid}) is running in {}", data_dir.display())]
    StillRunning {
        /// What was refused.
        what: &'static str,
        /// A process of it.
        pid: u32,
        /// Its data directory.
        data_dir: PathBuf,
    },
    /// Something that needs a running PostgreSQL found none.
    #[error("PostgreSQL is not running in {}", data_dir.display())]
    NotRunning {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// A copy or a bootstrap found something in the directory, and touched nothing.
    #[error("cannot {what} into {}: it is not empty", data_dir.display())]
    NotEmpty {
        /// `copy`, `bootstrap`.
        what: &'static str,
        /// The data directory.
        data_dir: PathBuf,
    },
    /// `pg_rewind` failed before it wrote anything.
    #[error("{0}; nothing was changed")]
    NotBegun(Box<Error>),
    /// Something unusable was found; the sentence says what and where.
    #[error("{0}")]
    Unusable(String),
    /// The lease would end before the promotion could be issued.
    #[error("the lease ran out before PostgreSQL could be made writable")]
    NoPermit,
    /// Cancelled on request.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// For `map_err` on file operations.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { action, path, source }
    }
}

fn last_words(tail: &[String]) -> String {
    match tail {
        [] => String::new(),
        lines => format!(": {}", lines.join(" | ")),
    }
}
