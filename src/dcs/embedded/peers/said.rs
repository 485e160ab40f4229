//! What was said about whom, so that a peer that fails for ever is one line in the log.

use std::collections::BTreeMap;

/// So many addresses are remembered. The boxes of a store are a handful; the rest are strangers, and these must not cost memory.
const MOST: usize = 256;

/// The last reason for each address.
#[derive(Debug, Default)]
pub(super) struct Said(BTreeMap<String, String>);

impl Said {
    /// Whether this was not the last thing that was said about it. Strangers beyond the limit are not spoken of.
    pub(super) fn is_new(&mut self, address: &str, why: &str) -> bool {
        if self.0.get(address).is_some_and(|last| last == why) || self.0.len() >= MOST && !self.0.contains_key(address) {
            return false;
        }
        self.0.insert(address.to_owned(), why.to_owned());
        true
    }

    /// Whether there is something to be forgotten.
    pub(super) fn knows(&self, address: &str) -> bool {
        self.0.contains_key(address)
    }

    /// It works again: the next failure is news.
    pub(super) fn forget(&mut self, address: &str) {
        self.0.remove(address);
    }
}

#[cfg(test)]
mod tests {
    use super::{Said, MOST};

    #[test]
    fn once() {
        let mut said = Said::default();
        assert!(said.is_new("a", "dead") && !said.is_new("a", "dead") && said.is_new("b", "dead"));
        assert!(said.is_new("a", "drunk") && said.is_new("a", "dead"));
        said.forget("a");
        assert!(said.is_new("a", "dead"));
        for number in 0..10 * MOST {
            said.is_new(&number.to_string(), "scan");
        }
        assert!(said.0.len() <= MOST && said.is_new("a", "drunk"));
    }
}
