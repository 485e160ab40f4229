//! How a box without a file finds out whether its partners have a store already.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use super::driver::Net;
use super::peers::{Event, FOUNDED};
use super::request::Place;

/// A box says by itself when it comes to know its cluster, but that is no event.
const LOOK: Duration = Duration::from_millis(500);

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
    loop {
        if net.peers.connected().iter().any(|(_, hello)| hello.cluster > FOUNDED) {
            return Meeting::Store;
        }
        // Who came without a store counts, also when it has founded one since: with this box. Who came with one does not: this box may have been among
        // its founders, and have lost what it promised them.
        if fresh.len() > voters.len() / 2 {
            return Meeting::Founders;
        }
        match timeout(LOOK, net.events.recv()).await {
            Ok(Some(Event::Connected { hello })) if hello.cluster == 0 && voters.iter().any(|(voter, _)| *voter == hello.node) => {
                fresh.insert(hello.node);
            }
            Ok(Some(Event::Lost { node })) => {
                fresh.remove(&node);
            }
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => return Meeting::Nobody,
        }
    }
}
