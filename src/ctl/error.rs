//! Why an operator's command could not be carried out.

use std::io;
use std::path::PathBuf;

use crate::dcs;
use crate::ha::input::DcsFailure;

/// Each ends the command with exit code 1 and `Error: …` on standard error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster, or the operator's answer, does not allow it. The sentence says why.
    #[error("{0}")]
    Refused(String),
    /// The operator left (end of input at a question).
    #[error("Aborted!")]
    Aborted,
    /// Nobody reads the output any more.
    #[error("Cannot write the output: {0}")]
    Output(io::Error),
    /// A file cannot be read.
    #[error("Cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration file is not usable. One line per problem.
    #[error("{0}")]
    Config(String),
    /// The store cannot be set up.
    #[error(transparent)]
    StoreSetup(#[from] dcs::Error),
    /// The store did not answer as needed.
    #[error("{what}: {failure}")]
    Store {
        /// What was being done.
        what: &'static str,
        /// What came back.
        failure: DcsFailure,
    },
    /// The store answered something else than what was asked for.
    #[error("{what}: the store gave an unexpected answer")]
    StoreAnswer {
        /// What was being done.
        what: &'static str,
    },
    /// The editor could not be run or failed.
    #[error("{0}")]
    Editor(String),
    /// The runtime could not be started.
    #[error("Cannot start: {0}")]
    Runtime(io::Error),
}

impl Error {
    /// A refusal with its sentence.
    pub fn refused(text: impl Into<String>) -> Error {
        Error::Refused(text.into())
    }
}
