//! Capabilities: what the agent has for the virtual IP (`CAP_NET_ADMIN`, `CAP_NET_RAW`, as ambient ones from its unit) is not for PostgreSQL
//! and scripts, only for the guard. capabilities(7).

use rustix::thread::{capability_is_in_ambient_set, clear_ambient_capability_set, configure_capability_in_ambient_set, CapabilitySet};

/// From here on no child of the calling thread inherits a capability. The agent itself keeps what it has.
pub fn keep_from_children() {
    if let Err(error) = clear_ambient_capability_set() {
        log::debug!("ambient capabilities: {error}");
    }
}

/// Runs `work`, whose children may remove addresses.
pub fn lend_network<T>(work: impl FnOnce() -> T) -> T {
    // Refused where the agent has not got it, or where its file carries it: then the child's file does, too.
    let lent = configure_capability_in_ambient_set(CapabilitySet::NET_ADMIN, true).is_ok();
    let result = work();
    if lent {
        keep_from_children();
    }
    result
}

/// Whether children would inherit the capability to change the network. For tests and `doctor`.
#[must_use]
pub fn children_inherit() -> bool {
    capability_is_in_ambient_set(CapabilitySet::NET_ADMIN).unwrap_or(false)
}
