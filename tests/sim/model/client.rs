//! Clients: they write to every node that accepts it, and remember what was acknowledged.

use std::collections::BTreeMap;

use mastiff::ha::fence::VipRole;

use super::node::Power;
use super::rng::Rng;
use super::world::{Event, World};

/// The writers.
#[derive(Debug)]
pub struct Clients {
    rng: Rng,
    pause: u64,
    /// Acknowledged commits so far.
    pub acknowledged: u64,
    /// Neighbour caches: behind which box a client believes an address.
    pub caches: Vec<BTreeMap<VipRole, usize>>,
}

/// Clients with a neighbour cache.
const CACHES: usize = 3;

impl Clients {
    /// With this mean pause between two writes.
    pub fn new(seed: u64, pause: u64) -> Clients {
        Clients { rng: Rng::new(seed, "clients"), pause, acknowledged: 0, caches: vec![BTreeMap::new(); CACHES] }
    }
}

impl World {
    /// A client writes wherever it can: sticky sessions reach a writer that others have given up long ago.
    pub fn client_write(&mut self) {
        let bytes = self.clients.rng.between(200, 8_000);
        for node in 0..self.nodes.len() {
            self.write(node, bytes);
        }
        self.look_for_unguarded();
        for node in 0..self.nodes.len() {
            self.kick_blindly(node);
        }
        let pause = self.clients.rng.below(2 * self.clients.pause) + 1;
        self.after(pause, Event::ClientWrite);
    }

    /// Writes so many bytes on a node, if it accepts them.
    pub fn write(&mut self, node: usize, bytes: u64) {
        if self.nodes[node].power != Power::On || !self.nodes[node].pg.is_writable() || self.nodes[node].pg.bootstrapping {
            return;
        }
        let record = self.unique();
        if let Some(cluster) = self.nodes[node].pg.cluster_mut() {
            cluster.wal.append(record, bytes);
            self.clients.acknowledged += 1;
        }
        self.wal_written(node);
    }
}
