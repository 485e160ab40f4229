//! election.
