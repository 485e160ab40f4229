//! dcs.
