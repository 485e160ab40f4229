//! How a box without a file finds out whether its partners have a store already.

use std::collections::BTreeSet;

use super::driver::Net;
use super::peers::Event;
use super::request::Place;

/// What a box met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meeting {
    /// With this one, a majority of those that are to vote, none of which has a store.
    Founders,
    /// A box that has one.
    Store,
    /// The program ends.
    Nobody,
}

/// Waits for it: as long as it takes, since nothing can be decided without the others.
pub(super) async fn meet(net: &mut Net, voters: &[(u64, Place)], me: u64) -> Meeting {
    let mut fresh = BTreeSet::from([me]);
    for (_, hello) in net.peers.connected() {
        if hello.cluster != 0 {
            return Meeting::Store;
        }
    }
    loop {
        match net.events.recv().await {
            Some(Event::Connected { hello }) if hello.cluster != 0 => return Meeting::Store,
            Some(Event::Connected { hello }) if voters.iter().any(|(node, _)| *node == hello.node) => {
                log::info!("store: {} has none yet, either", hello.name);
                fresh.insert(hello.node);
            }
            Some(Event::Lost { node }) => {
                fresh.remove(&node);
            }
            Some(Event::Connected { .. } | Event::Note { .. } | Event::Refused { .. }) => {}
            None => return Meeting::Nobody,
        }
        if fresh.len() > voters.len() / 2 {
            return Meeting::Founders;
        }
    }
}
