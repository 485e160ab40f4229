//! Others come in. Nobody who stands in the doorway keeps anybody else out: when it is full, who came first from the busiest address leaves.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::link::{self, Side};
use super::Shared;

/// So many connections at a time have not shown yet who they are.
const MOST_WAITING: usize = 32;
/// So many there are in all.
const MOST: usize = 64;
/// After the system could not hand over a connection (no descriptors, no memory).
const PAUSE: Duration = Duration::from_millis(200);

/// Who has come in and has not shown yet who it is, in the order of arrival.
#[derive(Debug, Default)]
pub(super) struct Door(Vec<(u64, IpAddr, AbortHandle)>);

impl Door {
    /// Makes room: removes who is to leave. Whoever makes a crowd pays for it, not who comes alone.
    fn evict(&mut self) -> Option<AbortHandle> {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (_, ip, _) in &self.0 {
            *counts.entry(*ip).or_default() += 1;
        }
        let busiest = counts.into_iter().max_by_key(|(_, count)| *count)?.0;
        let at = self.0.iter().position(|(_, ip, _)| *ip == busiest)?;
        Some(self.0.remove(at).2)
    }
}

/// A place in the doorway. Left when dropped.
struct Place {
    shared: Rc<Shared>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.door.borrow_mut().0.retain(|(number, ..)| *number != self.number);
    }
}

/// Accepts connections for ever.
pub(super) async fn accept(shared: Rc<Shared>, listener: TcpListener) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                failing = false;
                admit(&shared, stream, remote);
            }
            Err(error) => {
                if !failing {
                    log::warn!("store: connections of other boxes cannot be accepted: {error}; it goes on trying");
                    failing = true;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn admit(shared: &Rc<Shared>, stream: TcpStream, remote: SocketAddr) {
    let ip = remote.ip().to_canonical();
    let (waiting, linked) = (shared.door.borrow().0.len(), shared.links.borrow().len());
    if waiting >= MOST_WAITING || waiting + linked >= MOST {
        let victim = shared.door.borrow_mut().evict();
        match victim {
            Some(task) => task.abort(),
            None => return log::debug!("store: {MOST} connections are open, {ip} is not let in"),
        }
    }
    let place = Place { shared: Rc::clone(shared), number: shared.number() };
    let number = place.number;
    let task = shared.spawn(welcome(Rc::clone(shared), stream, remote, ip.to_string(), place));
    shared.door.borrow_mut().0.push((number, ip, task.abort_handle()));
}

async fn welcome(shared: Rc<Shared>, stream: TcpStream, remote: SocketAddr, ip: String, place: Place) {
    let met = link::meet(&shared, stream, remote, Side::Answered).await;
    match met {
        Ok(met) => {
            drop(place);
            link::run(shared, met, ip).await;
        }
        Err(why) => why.tell(&shared, &ip),
    }
}

#[cfg(test)]
mod tests {
    use super::Door;

    #[tokio::test]
    async fn a_crowd_leaves_first() {
        let task = || tokio::spawn(async {}).abort_handle();
        let ip = |last: u8| std::net::IpAddr::from([10, 0, 0, last]);
        let mut door =
            Door((0..6).map(|number: u8| (u64::from(number), ip(if number == 0 { 1 } else { 2 + number % 2 }), task())).collect());
        // 10.0.0.3 has three places, the first of them number 1; then both have two.
        assert!(door.evict().is_some());
        assert_eq!(door.0.iter().map(|(number, ..)| *number).collect::<Vec<_>>(), [0, 2, 3, 4, 5]);
        for _ in 0..5 {
            assert!(door.evict().is_some());
        }
        assert!(door.evict().is_none());
    }
}
