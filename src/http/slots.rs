//! Who may hold a connection. Sixteen at a time for the network, sixteen more for this box, at most eight for one address.
//!
//! A connection that finds no slot waits for a moment; while one waits, idle and slow connections give way and busy ones end after
//! their answer. So neither 300 half-open connections nor a monitoring system that keeps its connections can lock others out.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::{count, METRICS};

/// Connections that are served at a time, in each pool.
const SLOTS: usize = 16;
/// Of these for one address from the network.
const SLOTS_PER_PEER: usize = 8;
/// Connections that may wait for a slot, in each pool.
const WAITING: usize = 32;
/// Of these for one address from the network.
const WAITING_PER_PEER: usize = 8;
/// How long one waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// A request that is not there after this gives way to others.
const SLOW: Duration = Duration::from_millis(500);
/// A kept connection without a request for this long gives way. (One that is busy ends with its next answer, see `should_close`.)
const PAUSE: Duration = Duration::from_millis(100);
/// Time for a whole request: from the connection, or from the previous answer's end plus what the client may idle.
pub(super) const READING: Duration = Duration::from_secs(5);
/// How long a connection may stay without a request.
const IDLE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The first request has not arrived.
    Reading,
    /// A request is being answered.
    Serving,
    /// Answered; perhaps another request comes.
    Idle,
    /// Told to go.
    Evicted,
}

/// One connection that holds a slot.
pub(super) struct Connection {
    /// The client.
    pub(super) peer: IpAddr,
    phase: Cell<Phase>,
    since: Cell<Instant>,
    deadline: Cell<Instant>,
    evict: Notify,
    pool: Rc<Pool>,
}

impl Connection {
    /// A request has arrived: it is answered within `limit`.
    pub(super) fn begin(&self, limit: Duration) {
        self.enter(Phase::Serving, limit);
    }

    /// The answer is made.
    pub(super) fn end(&self) {
        self.enter(Phase::Idle, IDLE);
    }

    fn enter(&self, phase: Phase, limit: Duration) {
        let now = Instant::now();
        if self.phase.get() != Phase::Evicted {
            self.phase.set(phase);
        }
        self.since.set(now);
        self.deadline.set(now + limit);
    }

    /// Others wait for a slot: this connection should end with its answer.
    pub(super) fn should_close(&self) -> bool {
        !self.pool.waiting.borrow().is_empty()
    }

    /// Returns when the connection must end: deadline or eviction.
    pub(super) async fn expires(&self) {
        loop {
            // The deadline moves with every request: look again from time to time instead of setting a timer each time.
            let deadline = self.deadline.get().min(Instant::now() + IDLE);
            tokio::select! {
                () = self.evict.notified() => break,
                () = tokio::time::sleep_until(deadline) => {
                    if self.deadline.get() <= Instant::now() {
                        break;
                    }
                }
            }
        }
        count(&METRICS.http_evicted);
    }

    fn gives_way(&self, now: Instant) -> bool {
        let quiet = now.duration_since(self.since.get());
        match self.phase.get() {
            Phase::Idle => quiet >= PAUSE,
            Phase::Reading => quiet >= SLOW,
            Phase::Serving | Phase::Evicted => false,
        }
    }
}

/// A slot; free again when dropped.
pub(super) struct Slot(pub(super) Rc<Connection>);

impl Drop for Slot {
    fn drop(&mut self) {
        let pool = &self.0.pool;
        pool.held.borrow_mut().retain(|held| !Rc::ptr_eq(held, &self.0));
        pool.freed.notify_waiters();
    }
}

/// The slots of one kind of client.
pub(super) struct Pool {
    per_peer: usize,
    waiting_per_peer: usize,
    held: RefCell<Vec<Rc<Connection>>>,
    waiting: RefCell<Vec<IpAddr>>,
    freed: Notify,
}

/// Counts a waiting connection for as long as it lives.
struct Waiting<'a>(&'a Pool, IpAddr);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.borrow_mut();
        if let Some(at) = waiting.iter().position(|peer| *peer == self.1) {
            waiting.swap_remove(at);
        }
    }
}

impl Pool {
    /// For clients of the network.
    pub(super) fn network() -> Rc<Pool> {
        Pool::with(SLOTS_PER_PEER, WAITING_PER_PEER)
    }

    /// For clients on this box: local probes are served whatever the network does.
    pub(super) fn local() -> Rc<Pool> {
        Pool::with(SLOTS, WAITING)
    }

    fn with(per_peer: usize, waiting_per_peer: usize) -> Rc<Pool> {
        let (held, waiting) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        Rc::new(Pool { per_peer, waiting_per_peer, held, waiting, freed: Notify::new() })
    }

    /// A slot for `peer`, if one is or becomes free in time.
    pub(super) async fn enter(self: &Rc<Pool>, peer: IpAddr) -> Option<Slot> {
        if let Some(slot) = self.take(peer) {
            return Some(slot);
        }
        let Some(_waiting) = self.line_up(peer) else {
            count(&METRICS.http_refused);
            return None;
        };
        let give_up = Instant::now() + PATIENCE;
        while Instant::now() < give_up {
            let freed = self.freed.notified();
            if let Some(slot) = self.take(peer) {
                return Some(slot);
            }
            self.evict_for(peer);
            // The tick is for connections that become slow while nobody leaves.
            let _ = tokio::time::timeout(Duration::from_millis(100), freed).await;
        }
        count(&METRICS.http_refused);
        None
    }

    fn take(self: &Rc<Pool>, peer: IpAddr) -> Option<Slot> {
        let mut held = self.held.borrow_mut();
        let same_peer = held.iter().filter(|connection| connection.peer == peer).count();
        if held.len() >= SLOTS || same_peer >= self.per_peer {
            return None;
        }
        let now = Instant::now();
        let connection = Rc::new(Connection {
            peer,
            phase: Cell::new(Phase::Reading),
            since: Cell::new(now),
            deadline: Cell::new(now + READING),
            evict: Notify::new(),
            pool: Rc::clone(self),
        });
        held.push(Rc::clone(&connection));
        Some(Slot(connection))
    }

    fn line_up(&self, peer: IpAddr) -> Option<Waiting<'_>> {
        let mut waiting = self.waiting.borrow_mut();
        let same_peer = waiting.iter().filter(|other| **other == peer).count();
        if waiting.len() >= WAITING || same_peer >= self.waiting_per_peer {
            return None;
        }
        waiting.push(peer);
        Some(Waiting(self, peer))
    }

    /// Ends the connection that was quiet for longest, among those that would make room for `peer`.
    fn evict_for(&self, peer: IpAddr) {
        let held = self.held.borrow();
        let same_peer = held.iter().filter(|connection| connection.peer == peer).count();
        let own_only = same_peer >= self.per_peer;
        let now = Instant::now();
        let oldest = held
            .iter()
            .filter(|connection| connection.gives_way(now) && (!own_only || connection.peer == peer))
            .min_by_key(|connection| connection.since.get());
        if let Some(connection) = oldest {
            connection.phase.set(Phase::Evicted);
            connection.evict.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Pool, Slot, READING, SLOTS, SLOTS_PER_PEER, WAITING_PER_PEER};

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn run<T>(future: impl std::future::Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    /// A client that never sends anything, until it is told to go.
    async fn silent(slot: Slot) {
        slot.0.expires().await;
    }

    #[test]
    fn one_address_cannot_have_all() {
        run(async {
            let pool = Pool::network();
            let mut held = Vec::new();
            for _ in 0..SLOTS_PER_PEER {
                held.push(pool.enter(peer(1)).await.unwrap());
            }
            assert!(pool.take(peer(1)).is_none());
            assert!(pool.take(peer(2)).is_some());
            held.pop();
            assert!(pool.enter(peer(1)).await.is_some());
        });
    }

    #[test]
    fn the_line_is_short() {
        run(async {
            let pool = Pool::network();
            let _lines: Vec<_> = (0..WAITING_PER_PEER).map(|_| pool.line_up(peer(1)).unwrap()).collect();
            assert!(pool.line_up(peer(1)).is_none());
            assert!(pool.line_up(peer(2)).is_some());
        });
    }

    #[test]
    fn slow_connections_give_way_and_busy_ones_do_not() {
        run(async {
            let pool = Pool::local();
            let busy = pool.enter(peer(1)).await.unwrap();
            busy.0.begin(Duration::from_secs(60));
            let mut quiet = Vec::new();
            for _ in 1..SLOTS {
                quiet.push(pool.enter(peer(1)).await.unwrap());
            }
            let victim = quiet.remove(0);
            let begun = Instant::now();
            let (slot, ()) = tokio::join!(pool.enter(peer(2)), silent(victim));
            assert!(slot.is_some() && begun.elapsed() < Duration::from_secs(2));
            assert!(!busy.0.should_close());
        });
    }

    #[test]
    fn a_connection_without_a_request_ends() {
        run(async {
            let begun = Instant::now();
            silent(Pool::network().enter(peer(1)).await.unwrap()).await;
            assert!(begun.elapsed() >= READING && begun.elapsed() < READING + Duration::from_secs(1));
        });
    }
}
