//! Links between boxes and the store, each direction on its own.

use super::rng::Rng;

/// Who talks to whom. Index `nodes` is the store.
#[derive(Debug)]
pub struct Network {
    size: usize,
    blocked: Vec<u16>,
    /// Extra latency of every message to the store (slow store or slow network).
    pub store_slow_ms: u64,
    /// Messages lost between a box and the store, per mille.
    pub loss: u64,
    rng: Rng,
}

impl Network {
    /// A network without faults.
    pub fn new(nodes: usize, seed: u64, loss: u64) -> Network {
        let size = nodes + 1;
        Network { size, blocked: vec![0; size * size], store_slow_ms: 0, loss, rng: Rng::new(seed, "network") }
    }

    /// Index of the store.
    pub fn store(&self) -> usize {
        self.size - 1
    }

    /// Blocks or frees one direction. Counted, so that partitions may overlap.
    pub fn block(&mut self, from: usize, to: usize, on: bool) {
        let count = &mut self.blocked[from * self.size + to];
        *count = if on { *count + 1 } else { count.saturating_sub(1) };
    }

    /// Whether messages pass.
    pub fn is_open(&self, from: usize, to: usize) -> bool {
        self.blocked[from * self.size + to] == 0
    }

    /// Whether both directions pass.
    pub fn is_connected(&self, a: usize, b: usize) -> bool {
        self.is_open(a, b) && self.is_open(b, a)
    }

    /// All faults end.
    pub fn heal(&mut self) {
        self.blocked.fill(0);
        self.store_slow_ms = 0;
        self.loss = 0;
    }

    /// Time of flight of one message between boxes.
    pub fn latency(&mut self) -> u64 {
        if self.rng.chance(5) {
            self.rng.between(20, 200)
        } else {
            self.rng.between(1, 4)
        }
    }

    /// Time of flight of one message between a box and the store.
    pub fn store_latency(&mut self) -> u64 {
        let slow = if self.store_slow_ms > 0 { self.rng.below(self.store_slow_ms) } else { 0 };
        self.latency() + slow
    }

    /// Whether a message to or from the store is lost.
    pub fn is_lost(&mut self) -> bool {
        self.loss > 0 && self.rng.chance(self.loss)
    }

    /// A partition's messages are sometimes not lost but delivered late: for how long.
    pub fn clogged(&mut self) -> Option<u64> {
        self.rng.chance(250).then(|| self.rng.between(500, 9_000))
    }

    /// A draw for those who need one about messages.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.rng.chance(per_mille)
    }
}
