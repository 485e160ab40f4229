//! What was said about whom, so that a peer that fails for ever is one line in the log, and strangers cannot fill it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// So many strangers are remembered, and so many boxes. Nothing is said about more of them.
const MOST: usize = 256;
/// And so many reasons for each.
const MOST_REASONS: usize = 8;
/// When the memory is full for so long, it begins anew.
const MEMORY: Duration = Duration::from_secs(3600);

/// The reasons by address, as their hashes. Strangers, known by an IP address without port, never push out boxes.
#[derive(Debug, Default)]
pub(super) struct Said {
    strangers: BTreeMap<String, BTreeSet<u64>>,
    boxes: BTreeMap<String, BTreeSet<u64>>,
    /// When `strangers` was empty last.
    since: Option<Instant>,
}

impl Said {
    fn of(&mut self, address: &str) -> &mut BTreeMap<String, BTreeSet<u64>> {
        if address.parse::<IpAddr>().is_err() {
            return &mut self.boxes;
        }
        let since = self.since.get_or_insert_with(Instant::now);
        if self.strangers.len() >= MOST && since.elapsed() > MEMORY {
            *since = Instant::now();
            self.strangers.clear();
        }
        &mut self.strangers
    }

    /// Whether this was not said about it since it worked last.
    pub(super) fn is_new(&mut self, address: &str, why: &str) -> bool {
        let said = self.of(address);
        if said.len() >= MOST && !said.contains_key(address) {
            return false;
        }
        let mut hasher = DefaultHasher::new();
        why.hash(&mut hasher);
        let reasons = said.entry(address.to_owned()).or_default();
        reasons.len() < MOST_REASONS && reasons.insert(hasher.finish())
    }

    /// Whether there is something to be forgotten.
    pub(super) fn knows(&mut self, address: &str) -> bool {
        self.of(address).contains_key(address)
    }

    /// It works again: the next failure is news.
    pub(super) fn forget(&mut self, address: &str) {
        self.of(address).remove(address);
    }
}

#[cfg(test)]
mod tests {
    use super::{Said, MEMORY, MOST, MOST_REASONS};

    #[test]
    fn once() {
        let mut said = Said::default();
        assert!(said.is_new("a:1", "dead") && !said.is_new("a:1", "dead") && said.is_new("b:1", "dead"));
        assert!(said.is_new("a:1", "drunk") && !said.is_new("a:1", "dead") && said.knows("a:1"));
        said.forget("a:1");
        assert!(!said.knows("a:1") && said.is_new("a:1", "dead"));
    }

    #[test]
    fn strangers_fill_nothing() {
        let mut said = Said::default();
        let lines = (0..100_u32).filter(|number| said.is_new("10.0.0.1", &number.to_string())).count();
        assert_eq!(lines, MOST_REASONS);
        let scan = |said: &mut Said| (0..2000_u16).filter(|number| said.is_new(&format!("fd00::{number:x}"), "scan")).count();
        assert_eq!((scan(&mut said), scan(&mut said)), (MOST - 1, 0));
        assert!(said.is_new("10.0.0.1:5000", "dead"));
        if let Some(before) = said.since.and_then(|since| since.checked_sub(2 * MEMORY)) {
            said.since = Some(before);
            assert_eq!(scan(&mut said), MOST);
        }
    }
}
