//! The configuration of a witness: which store it belongs to, and nothing about PostgreSQL.

use std::collections::BTreeMap;
use std::path::Path;

use super::check::{self, Mode};
use super::types::{LogConfig, RaftConfig};
use super::validate::{log, namespace, Build};
use super::{gather, sort, Diagnostic, Severity};

/// What a witness needs to know.
#[derive(Clone, Debug)]
pub struct WitnessConfig {
    /// `scope`.
    pub scope: String,
    /// `name`, `witness` where absent.
    pub name: String,
    /// `namespace`.
    pub namespace: String,
    /// `log`.
    pub log: LogConfig,
    /// `raft`, with an address, a way to know the others, and a directory.
    pub raft: RaftConfig,
}

/// Reads it from a file and variables, as the agent's; what only the agent needs may be there and is not looked at.
///
/// # Errors
/// All problems, of which one at least is an error.
pub fn load(path: Option<&Path>, env: &BTreeMap<String, String>) -> Result<(WitnessConfig, Vec<Diagnostic>), Vec<Diagnostic>> {
    let sources = gather(path, env);
    let mut found = sources.found.clone();
    let failed = |found: &[Diagnostic]| found.iter().any(|one| one.severity == Severity::Error);
    if failed(&found) {
        return Err(found);
    }
    found.extend(check::check(&sources, Mode::Start));
    let mut build = Build::new(&sources);
    let raft = build.raft(false);
    let config = WitnessConfig {
        scope: build.scope(),
        name: build.root.text("name").unwrap_or_else(|| "witness".to_owned()),
        namespace: namespace(build.root),
        log: log(build.root.section("log")),
        raft,
    };
    if config.raft.address.is_none() {
        build.say(Severity::Error, "raft.self_addr", "missing: where do the other boxes reach this one?");
    }
    if config.raft.partners.is_empty() && !found.iter().chain(&build.found).any(|one| one.key.starts_with("raft.partner_addrs")) {
        build.say(Severity::Error, "raft.partner_addrs", "missing: a witness alone would make a store of its own");
    }
    if config.raft.data_dir.is_none() {
        build.say(Severity::Error, "raft.data_dir", "missing: where is the store's file to be kept?");
    }
    found.append(&mut build.found);
    sort(&mut found);
    if failed(&found) {
        return Err(found);
    }
    Ok((config, found))
}
