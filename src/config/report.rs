//! The report of `--validate-config`.
