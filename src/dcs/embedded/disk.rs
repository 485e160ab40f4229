//! The store's directory: one file, written by a thread of its own so that a slow disk stops nothing else, and a lock.
//!
//! An error while flushing is final: the kernel may have dropped what it could not write, and a second attempt would succeed without it (what PostgreSQL
//! learnt in 2018). The box takes no part any more until its program is started again and reads what really is there.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{flock, FlockOperation};
use tokio::sync::mpsc::UnboundedSender;

use super::journal::FileOp;

/// The file in its directory.
const FILE: &str = "store";
/// The next one, until it takes the place of the other.
const NEW: &str = "store.new";
/// Held as long as the program runs.
const LOCK: &str = "lock";
/// Between two attempts to find room for a new file.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// What can go wrong with the directory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("the store's {what} {}: {source}", path.display())]
    Io {
        /// What was done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another program uses it.
    #[error("the store's directory {} is in use: another agent or witness runs on it", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
}

impl Error {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { what, path, source }
    }

    fn is_full(&self) -> bool {
        matches!(self, Error::Io { source, .. } if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// A directory that is locked for this program.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes it where it is missing, for the owner alone: it holds the members' documents and their secrets.
    ///
    /// # Errors
    /// It cannot be used, or somebody else uses it.
    pub fn open(path: &Path) -> Result<Directory, Error> {
        if !path.is_dir() {
            let mut builder = std::fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
            builder.create(path).map_err(Error::io("directory cannot be made:", path))?;
        }
        let lock = path.join(LOCK);
        let file = private().truncate(false).open(&lock).map_err(Error::io("lock cannot be opened:", &lock))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| Error::Locked { path: path.to_owned() })?;
        Ok(Directory { path: path.to_owned(), _lock: file })
    }

    /// What the file holds; `None`: there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self) -> Result<Option<Vec<u8>>, Error> {
        let path = self.file();
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(64 << 20).read_to_end(&mut bytes)) {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("file cannot be read:", &path)(error)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.path.join(FILE)
    }

    /// Carries out one change; it is on the disk afterwards.
    ///
    /// # Errors
    /// It is not, and nobody knows what is.
    pub fn carry_out(&self, op: &FileOp) -> Result<(), Error> {
        match op {
            FileOp::Write { offset, bytes } => {
                let path = self.file();
                let written = OpenOptions::new().write(true).open(&path).and_then(|file| {
                    file.write_all_at(bytes, *offset)?;
                    file.sync_data()
                });
                written.map_err(Error::io("file cannot be written:", &path))
            }
            FileOp::Replace { bytes } => self.replace(bytes),
        }
    }

    /// The old file is whole as long as the new one is not.
    fn replace(&self, bytes: &[u8]) -> Result<(), Error> {
        let (new, path) = (self.path.join(NEW), self.file());
        let written = private().truncate(true).open(&new).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        if let Err(error) = written {
            let _ = std::fs::remove_file(&new);
            return Err(Error::io("file cannot be written anew:", &new)(error));
        }
        std::fs::rename(&new, &path).map_err(Error::io("file cannot be put in its place:", &path))?;
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(Error::io("directory cannot be flushed:", &self.path))
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

/// The thread that writes.
#[derive(Debug)]
pub struct Disk {
    ops: Sender<(u64, FileOp)>,
}

impl Disk {
    /// Starts it. `done` hears the number of every write that is on the disk, or once that it failed.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(directory: Directory, done: UnboundedSender<Result<u64, Error>>) -> io::Result<Disk> {
        let (ops, work) = channel();
        std::thread::Builder::new().name("store-disk".to_owned()).stack_size(64 * 1024).spawn(move || run(&directory, &work, &done))?;
        Ok(Disk { ops })
    }

    /// Puts a write in the queue.
    pub fn write(&self, number: u64, op: FileOp) {
        // A thread that has ended has said why.
        let _ = self.ops.send((number, op));
    }
}

fn run(directory: &Directory, work: &Receiver<(u64, FileOp)>, done: &UnboundedSender<Result<u64, Error>>) {
    while let Ok((number, op)) = work.recv() {
        let result = patiently(directory, &op).map(|()| number);
        let failed = result.is_err();
        if done.send(result).is_err() || failed {
            return;
        }
    }
}

/// A new file that finds no room is tried again: each attempt begins with a file of its own, and the old one is whole. Nothing else is, see above.
fn patiently(directory: &Directory, op: &FileOp) -> Result<(), Error> {
    let mut warned = false;
    loop {
        match directory.carry_out(op) {
            Err(error) if error.is_full() && matches!(op, FileOp::Replace { .. }) => {
                if !std::mem::replace(&mut warned, true) {
                    log::error!("{error}; waiting for room");
                }
                sleep(FULL_PAUSE);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dcs::embedded::journal::{Image, Journal, Record};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_that_lives_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let directory = Directory::open(&path).unwrap();
        assert_eq!(directory.read().unwrap(), None);
        assert!(matches!(Directory::open(&path), Err(Error::Locked { .. })));
        let image = Image { node: 5, ..Image::default() };
        let (mut journal, op) = Journal::create(&image, 1);
        directory.carry_out(&op).unwrap();
        directory.carry_out(&journal.append(&Record { term: 9, vote: 5, ..Record::default() }).unwrap()).unwrap();
        let (_, found, torn) = Journal::recover(&directory.read().unwrap().unwrap()).unwrap();
        assert_eq!((found.tail.term, found.tail.vote, torn), (9, 5, false));
        assert_eq!(std::fs::metadata(directory.file()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(directory);
        Directory::open(&path).unwrap();
    }

    #[test]
    fn the_thread_says_what_is_written_and_ends_with_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (done, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let disk = Disk::start(Directory::open(&path).unwrap(), done).unwrap();
        let (mut journal, op) = Journal::create(&Image { node: 5, ..Image::default() }, 1);
        disk.write(1, op);
        assert!(matches!(heard.blocking_recv(), Some(Ok(1))));
        std::fs::remove_file(path.join(FILE)).unwrap();
        disk.write(2, journal.append(&Record::default()).unwrap());
        assert!(matches!(heard.blocking_recv(), Some(Err(Error::Io { .. }))));
        assert!(heard.blocking_recv().is_none());
    }
}
