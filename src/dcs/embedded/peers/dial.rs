//! Calls one address until it answers, and again when the connection was lost.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{timeout, Instant};

use super::link::{self, Side, Unmet};
use super::Shared;

/// The first pause after a failure, and the longest.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);
/// An address that turned out to be this box may be somebody else's later.
const SELF_PAUSE: Duration = Duration::from_secs(60);
/// Of the addresses that a name has, so many are tried.
const MOST_ADDRESSES: usize = 4;

/// Pauses that double, with jitter: two boxes shall not go on calling each other at the same moment.
#[derive(Debug, Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    /// The next pause; `random` is any number.
    fn next(&mut self, random: u64) -> Duration {
        let full = SHORTEST.saturating_mul(1 << self.0.min(5)).min(LONGEST);
        self.0 = self.0.saturating_add(1);
        // From three quarters to five quarters of it.
        let jitter = full.mul_f64((random % 1024) as f64 / 2048.0);
        (full * 3 / 4 + jitter).clamp(SHORTEST, LONGEST)
    }
}

/// A number that differs between boxes and between calls. Not a secret.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Dials `address` for ever.
pub(super) async fn keep(shared: Rc<Shared>, address: String) {
    let mut backoff = Backoff::default();
    // Who answered there last: the address may be another name than the one that it gives itself.
    let mut node = None;
    loop {
        let since = Instant::now();
        wait(&shared, &address, node).await;
        let pause = match call(&shared, &address, &mut node).await {
            Ok(()) => None,
            Err(Unmet::Oneself) => Some(SELF_PAUSE),
            Err(unmet) => {
                unmet.tell(&shared, &address);
                None
            }
        };
        if since.elapsed() > shared.timeouts.handshake.saturating_add(LONGEST) {
            backoff = Backoff::default();
        }
        tokio::time::sleep(pause.unwrap_or_else(|| backoff.next(random()))).await;
    }
}

/// Until the box behind the address is not connected. It is known for certain if it has answered there and gives the same address itself. Else
/// somebody else may be there (by now), so it is dialled all the same after a while; if not, that connection is one too many and ends.
async fn wait(shared: &Shared, address: &str, node: Option<u64>) {
    loop {
        let ended = shared.ended.notified();
        if !is_linked(shared, address, node) || timeout(SELF_PAUSE, ended).await.is_err() && !is_certain(shared, address, node) {
            return;
        }
    }
}

fn is_certain(shared: &Shared, address: &str, node: Option<u64>) -> bool {
    shared.links.borrow().values().any(|link| Some(link.node) == node && link.hello.borrow().address == address)
}

fn is_linked(shared: &Shared, address: &str, node: Option<u64>) -> bool {
    shared.links.borrow().values().any(|link| node.map_or_else(|| link.hello.borrow().address == address, |node| link.node == node))
}

/// One call, to the end of the connection.
async fn call(shared: &Rc<Shared>, address: &str, node: &mut Option<u64>) -> Result<(), Unmet> {
    let deadline = shared.timeouts.handshake;
    let (stream, remote) = match timeout(deadline, connect(shared, address)).await {
        Err(_) => return Err(Unmet::Refused(format!("it did not answer within {} s", deadline.as_secs_f32()))),
        Ok(Err(error)) => return Err(Unmet::Refused(error.to_string())),
        Ok(Ok(found)) => found,
    };
    let met = link::meet(shared, stream, remote, Side::Dialled(node)).await?;
    // A task of its own: the connection stays when the address is no longer to be dialled.
    let running = shared.spawn(link::run(Rc::clone(shared), met, address.to_owned()));
    let _ = running.await;
    Ok(())
}

async fn connect(shared: &Rc<Shared>, address: &str) -> io::Result<(TcpStream, SocketAddr)> {
    let mut failure = None;
    for one in resolve(shared, address).await?.into_iter().take(MOST_ADDRESSES) {
        match TcpStream::connect(one).await {
            Ok(stream) => return Ok((stream, one)),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its name has no address")))
}

/// The addresses of `HOST:PORT`. The C library's resolver cannot be stopped: who waits for it gives up at its deadline, the next look-up waits until
/// it has come back.
async fn resolve(shared: &Rc<Shared>, address: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(literal) = address.parse() {
        return Ok(vec![literal]);
    }
    let turn = Arc::clone(&shared.resolver).acquire_owned().await.map_err(io::Error::other)?;
    let name = address.to_owned();
    let looking = tokio::task::spawn_local(async move {
        let _turn = turn;
        tokio::net::lookup_host(name).await.map(Iterator::collect)
    });
    looking.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::{random, Backoff, LONGEST, SHORTEST};

    #[test]
    fn pauses_grow_and_stay() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..40).map(|_| backoff.next(512)).collect();
        assert_eq!(pauses[0], SHORTEST);
        assert!(pauses[3] > pauses[1] && pauses.iter().all(|pause| (SHORTEST..=LONGEST).contains(pause)));
        assert_eq!(pauses[39], LONGEST);
        for number in [0, 1023, u64::MAX] {
            assert!((SHORTEST..=LONGEST).contains(&Backoff::default().next(number)));
        }
        assert_ne!(random(), random());
    }
}
