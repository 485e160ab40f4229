//! Generation of configuration files.
