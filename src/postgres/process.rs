//! The postmaster of a data directory as a process: found through `postmaster.pid`, proven through `/proc`, held by a pidfd, so that a
//! recycled process id is never mistaken for it and never signalled.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;

use super::postmaster::{self, Occupant, PostmasterPid, Status};

/// What `postmaster.pid` leads to.
#[derive(Debug)]
pub(crate) enum Found {
    /// No file, or no process of that number.
    Nobody,
    /// A process of that number lives, but it is not a PostgreSQL of this directory.
    Stranger {
        /// Its number.
        pid: i32,
    },
    /// PostgreSQL runs in the directory.
    Alive(Postmaster),
}

/// A living postmaster (or a single-user server) of a data directory.
#[derive(Debug)]
pub(crate) struct Postmaster {
    /// The content of `postmaster.pid`.
    pub(crate) file: PostmasterPid,
    /// It is stopped by a signal (`T` in `/proc/PID/stat`): it accepts nobody.
    pub(crate) frozen: bool,
    fd: OwnedFd,
}

/// Looks for the postmaster of `data_dir`.
///
/// # Errors
/// `postmaster.pid` exists and cannot be read: nothing can be said then.
pub(crate) fn find(data_dir: &Path) -> io::Result<Found> {
    // The pidfd is opened first: what is read of /proc afterwards is about its process if that lives at the end.
    let Some(file) = postmaster::read(data_dir)? else { return Ok(Found::Nobody) };
    let Some(fd) = open(file.pid)? else { return Ok(Found::Nobody) };
    let found = match postmaster::occupant(data_dir)? {
        Occupant::Postmaster(now) if now.pid == file.pid => {
            let frozen = stat(file.pid).is_some_and(|stat| stat.state == 'T');
            Found::Alive(Postmaster { file: now, frozen, fd })
        }
        Occupant::Stranger(pid) => Found::Stranger { pid },
        _ => Found::Nobody,
    };
    match found {
        Found::Alive(postmaster) if postmaster.has_exited() => Ok(Found::Nobody),
        other => Ok(other),
    }
}

/// The living postmaster, if there is one; an unreadable file counts as none here.
pub(crate) fn living(data_dir: &Path) -> Option<Postmaster> {
    match find(data_dir) {
        Ok(Found::Alive(postmaster)) => Some(postmaster),
        _ => None,
    }
}

impl Postmaster {
    /// Process id.
    pub(crate) fn pid(&self) -> i32 {
        self.file.pid
    }

    /// Whether the server says that it is shutting down.
    pub(crate) fn is_stopping(&self) -> bool {
        self.file.status == Some(Status::Stopping)
    }

    /// Sends a signal to exactly this process. An already ended one is no error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_exited(&self) -> bool {
        has_exited(self.fd.as_fd())
    }

    /// Waits for its end, however long that takes.
    // The safe constructor is deprecated for types whose descriptor may change or close behind its back; an `OwnedFd` never does that.
    #[allow(deprecated)]
    pub(crate) async fn exited(&self) -> io::Result<()> {
        let fd = AsyncFd::with_interest(self.fd.try_clone()?, Interest::READABLE)?;
        let _guard = fd.readable().await?;
        Ok(())
    }

    /// Waits for its end, at most `limit`. Whether it ended.
    pub(crate) async fn exited_within(&self, limit: Duration) -> bool {
        matches!(tokio::time::timeout(limit, self.exited()).await, Ok(Ok(()))) || self.has_exited()
    }
}

/// Kills what is left of a PostgreSQL whose postmaster is dead. With `before_ticks` only processes that began before that: a new
/// postmaster may be starting already. Returns how many were there.
pub(crate) fn kill_orphans(data_dir: &Path, before_ticks: Option<u64>) -> usize {
    // Between the first look and the signal a number could pass to another process: hold it first, look again, then signal.
    let held: Vec<(i32, OwnedFd)> =
        postmaster::processes_in(data_dir).into_iter().filter_map(|pid| Some((pid, open(pid).ok()??))).collect();
    if held.is_empty() {
        return 0;
    }
    let still = postmaster::processes_in(data_dir);
    let mut killed = 0;
    for (pid, fd) in held {
        let old = before_ticks.is_none_or(|limit| postmaster::start_ticks(pid).is_some_and(|ticks| ticks < limit));
        if still.contains(&pid) && old && pidfd_send_signal(&fd, Signal::KILL).is_ok() {
            killed += 1;
        }
    }
    killed
}

/// Kills the orphans and waits until none is left, at most `limit`. Whether none is.
pub(crate) async fn clear_orphans(data_dir: &Path, before_ticks: Option<u64>, limit: Duration) -> bool {
    let end = tokio::time::Instant::now() + limit;
    while kill_orphans(data_dir, before_ticks) > 0 {
        if tokio::time::Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    true
}

/// The boot clock in the unit of `/proc/PID/stat` (clock ticks, 100 each second on Linux).
pub(crate) fn ticks_now() -> u64 {
    crate::clock::now().0 / 10
}

/// The parent of a process.
pub(crate) fn parent_of(pid: i32) -> Option<i32> {
    stat(pid).map(|stat| stat.parent)
}

struct Stat {
    state: char,
    parent: i32,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold anything, also parentheses and blanks.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some(Stat { state: fields.next()?.chars().next()?, parent: fields.next()?.parse().ok()? })
}

fn open(pid: i32) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn has_exited(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&zero)), Ok(count) if count > 0)
}

#[cfg(test)]
mod tests {
    use super::{find, Found};

    #[test]
    fn a_recycled_pid_is_a_stranger() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(find(dir.path()).unwrap(), Found::Nobody));
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        std::fs::write(dir.path().join("postmaster.pid"), format!("{}\n/x\n1\n", other.id())).unwrap();
        let found = find(dir.path()).unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(matches!(found, Found::Stranger { .. }));
        std::fs::write(dir.path().join("postmaster.pid"), "4194304\n/x\n1\n").unwrap();
        assert!(matches!(find(dir.path()).unwrap(), Found::Nobody));
    }
}
