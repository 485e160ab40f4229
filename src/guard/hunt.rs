//! Finding and killing the processes of a data directory without touching its disk.
//!
//! What runs in the data directory is told by its working directory: the link `/proc/PID/cwd`, whose text the kernel makes from memory. Only
//! where nothing is found by text (a bind mount shows the directory under another name) device and inode are compared; reading these could wait for
//! a network file system.

use std::ffi::CStr;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{openat, readlinkat_raw, seek, statx, AtFlags, Mode, OFlags, RawDir, SeekFrom, StatxFlags, CWD};
use rustix::io::Errno;
use rustix::process::{getpid, kill_process, pidfd_open, pidfd_send_signal, test_kill_process, Pid, PidfdFlags, Signal};

/// The data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Device number as in `stat(2)`.
    pub dev: u64,
    /// Inode number; zero: unknown.
    pub ino: u64,
    /// Path without symbolic links.
    pub path: Vec<u8>,
}

/// A process in the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prey {
    /// Its process id.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
}

/// How the data directory is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Text,
    Inode,
}

/// The hunter: an open `/proc`, and room that is used again, so that hunting asks nobody for memory.
#[derive(Debug)]
pub struct Hunter {
    proc: OwnedFd,
    found: Vec<Prey>,
}

impl Hunter {
    /// Opens `/proc`.
    ///
    /// # Errors
    /// It is not mounted or cannot be read: a guard could not work.
    pub fn new() -> rustix::io::Result<Hunter> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Hunter { proc: openat(CWD, c"/proc", flags, Mode::empty())?, found: Vec::with_capacity(1024) })
    }

    /// Does everything that a kill does, with signal 0: afterwards the pages are in memory. Returns how many processes are there.
    pub fn rehearse(&mut self, target: &Target, spare: Option<Pid>) -> usize {
        self.look(target, spare, By::Text);
        for prey in &self.found {
            if let Some(pid) = Pid::from_raw(prey.pid) {
                let _held = pidfd_open(pid, PidfdFlags::empty());
                let _ = test_kill_process(pid);
            }
        }
        self.found.len()
    }

    /// The processes in the data directory, except this one and `spare` (the agent, which may have been started there).
    pub fn find(&mut self, target: &Target, spare: Option<Pid>) -> &[Prey] {
        self.look(target, spare, By::Text);
        if self.found.is_empty() && target.ino != 0 {
            self.look(target, spare, By::Inode);
        }
        &self.found
    }

    /// Signals what the last [`Hunter::find`] found: all of them, or only the postmaster, which is the one whose parent is not among them.
    /// Returns how many signals were sent.
    pub fn signal(&self, target: &Target, signal: Signal, only_roots: bool) -> usize {
        let is_root = |prey: &Prey| self.found.iter().all(|other| other.pid != prey.parent);
        self.found.iter().filter(|prey| !only_roots || is_root(prey)).filter(|prey| self.hit(target, prey.pid, signal)).count()
    }

    /// Between the look and the signal the number could pass to another process: hold it, look again, then signal.
    fn hit(&self, target: &Target, pid: i32, signal: Signal) -> bool {
        let Some(number) = Pid::from_raw(pid) else { return false };
        match pidfd_open(number, PidfdFlags::empty()) {
            Ok(held) => {
                (self.lives_in(target, pid, By::Text) || self.lives_in(target, pid, By::Inode)) && pidfd_send_signal(&held, signal).is_ok()
            }
            // Kernels before 5.3, or no descriptor left: the number alone must do.
            Err(Errno::SRCH) => false,
            Err(_) => kill_process(number, signal).is_ok(),
        }
    }

    fn look(&mut self, target: &Target, spare: Option<Pid>, by: By) {
        self.found.clear();
        if seek(&self.proc, SeekFrom::Start(0)).is_err() {
            return;
        }
        let skipped = [Some(getpid()), spare].map(|pid| pid.map_or(0, |pid| pid.as_raw_nonzero().get()));
        let mut room = [const { MaybeUninit::<u8>::uninit() }; 4096];
        let mut entries = RawDir::new(&self.proc, &mut room);
        while let Some(Ok(entry)) = entries.next() {
            let Some(pid) = number(entry.file_name()).filter(|pid| !skipped.contains(pid)) else { continue };
            if !self.lives_in(target, pid, by) {
                continue;
            }
            // Not every shell that stands in the data directory is a server process: a person's is left alone.
            if let Some(stat) = self.stat(pid).filter(|stat| stat.is_server || !stat.has_terminal) {
                self.found.push(Prey { pid, parent: stat.parent });
            }
        }
    }

    fn lives_in(&self, target: &Target, pid: i32, by: By) -> bool {
        let mut room = [0_u8; 32];
        let Some(path) = path(&mut room, pid, "cwd") else { return false };
        match by {
            By::Text => {
                let mut text = [0_u8; 4096];
                let Ok(length) = readlinkat_raw(&self.proc, path, &mut text) else { return false };
                let text = text.get(..length).unwrap_or_default();
                !text.is_empty() && text.strip_suffix(b" (deleted)").unwrap_or(text) == target.path
            }
            By::Inode if target.ino == 0 => false,
            By::Inode => statx(&self.proc, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO)
                .is_ok_and(|stat| stat.stx_ino == target.ino && rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor) == target.dev),
        }
    }

    fn stat(&self, pid: i32) -> Option<Stat> {
        let mut room = [0_u8; 32];
        let file = openat(&self.proc, path(&mut room, pid, "stat")?, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = [0_u8; 512];
        let length = rustix::io::read(&file, &mut text).ok()?;
        parse_stat(text.get(..length)?)
    }
}

/// What is needed of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: i32,
    has_terminal: bool,
    is_server: bool,
}

/// The name in the second field may hold anything, also parentheses and blanks.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let begin = text.iter().position(|byte| *byte == b'(')?;
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let name = text.get(begin.checked_add(1)?..end)?;
    let rest = std::str::from_utf8(text.get(end.checked_add(1)?..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let terminal: i64 = fields.nth(2)?.parse().ok()?;
    Some(Stat { parent, has_terminal: terminal != 0, is_server: matches!(name, b"postgres" | b"postmaster") })
}

fn number(name: &CStr) -> Option<i32> {
    std::str::from_utf8(name.to_bytes()).ok()?.parse().ok()
}

/// `PID/NAME` without asking for memory.
fn path<'a>(room: &'a mut [u8; 32], pid: i32, name: &str) -> Option<&'a CStr> {
    let mut rest = &mut room[..];
    write!(rest, "{pid}/{name}\0").ok()?;
    CStr::from_bytes_until_nul(room).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::process::{Child, Command, Stdio};

    use super::{parse_stat, Hunter, Stat, Target};
    use rustix::process::Signal;

    fn target(dir: &std::path::Path) -> Target {
        let data = std::fs::metadata(dir).unwrap();
        Target { dev: data.dev(), ino: data.ino(), path: dir.canonicalize().unwrap().into_os_string().into_encoded_bytes() }
    }

    /// Without a terminal, as a server runs.
    fn sleeper(dir: &std::path::Path) -> Child {
        Command::new("setsid").args(["sleep", "60"]).current_dir(dir).stdin(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn by_text_and_by_inode() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = sleeper(dir.path());
        let mut hunter = Hunter::new().unwrap();
        let whole = target(dir.path());
        let nameless = Target { path: b"/elsewhere".to_vec(), ..whole.clone() };
        let other = Target { ino: 0, ..nameless.clone() };
        let found = [&whole, &nameless, &other].map(|target| hunter.find(target, None).len());
        assert_eq!(hunter.rehearse(&whole, None), 1);
        let spared = hunter.find(&whole, rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap())).len();
        hunter.find(&whole, None);
        let hit = hunter.signal(&whole, Signal::KILL, true);
        child.wait().unwrap();
        assert_eq!(found, [1, 1, 0]);
        assert_eq!((spared, hit), (0, 1));
        assert!(hunter.find(&whole, None).is_empty());
    }

    #[test]
    fn odd_names() {
        let server = Stat { parent: 7, has_terminal: false, is_server: true };
        assert_eq!(parse_stat(b"5 (postgres) S 7 5 5 0 -1 4194304 1"), Some(server));
        assert_eq!(parse_stat(b"5 (a) (b) S) T 7 5 5 34816 -1 4"), Some(Stat { has_terminal: true, is_server: false, ..server }));
        for text in [&b""[..], b")(", b"5 (x)", b"5 (x) S", b"5 (x) S 1 2 3"] {
            assert_eq!(parse_stat(text), None);
        }
    }
}
