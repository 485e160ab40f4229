//! rewind.
