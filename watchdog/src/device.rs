//! A device by its name. Nothing is open and nothing armed until [`Device::arm`].

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;

use crate::armed::Armed;
use crate::backend::Backend;
use crate::error::Error;
use crate::holder::holders;
use crate::sysfs::{self, Info, Roots};

/// What is behind the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A watchdog driver of the kernel.
    Linux,
    /// A FIFO, for tests (`driver: testing` of Patroni's suite).
    Testing,
}

/// A watchdog device that is not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    path: PathBuf,
    driver: Driver,
    roots: Roots,
}

/// Arming failed.
///
/// When the device was opened before that and could not be stopped again, it is here, still armed: **kick it**, or the machine resets.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct OpenError {
    /// Why.
    pub error: Error,
    /// The device that runs and cannot be stopped.
    pub armed: Option<Box<Armed>>,
}

impl From<Error> for OpenError {
    fn from(error: Error) -> Self {
        OpenError { error, armed: None }
    }
}

impl Device {
    /// A device of the kernel, such as `/dev/watchdog`.
    #[must_use]
    pub fn linux(path: impl Into<PathBuf>) -> Device {
        Device::new(path, Driver::Linux)
    }

    /// A FIFO with a reader, for tests.
    ///
    /// Opening writes nothing; a timeout is `Ctimeout=SECONDS\n` (60 before), a kick `1`, the orderly end `V`. No ioctl is made. Writes do
    /// not wait for the reader. The process must ignore SIGPIPE, as Rust programs do.
    #[must_use]
    pub fn testing(path: impl Into<PathBuf>) -> Device {
        Device::new(path, Driver::Testing)
    }

    /// Either of them.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, driver: Driver) -> Device {
        Device { path: path.into(), driver, roots: Roots::default() }
    }

    /// The same device with `/sys` and `/proc` elsewhere, for tests.
    #[must_use]
    pub fn with_roots(self, roots: Roots) -> Device {
        Device { roots, ..self }
    }

    /// The path as given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is behind the path.
    #[must_use]
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// What sysfs says about it, without opening it; `None` without sysfs files, and for a FIFO.
    #[must_use]
    pub fn info(&self) -> Option<Info> {
        match self.driver {
            Driver::Linux => sysfs::info(&self.path, &self.roots),
            Driver::Testing => None,
        }
    }

    /// Whether the device is there and this process may open it, without opening it. Somebody else may still hold it.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Denied`], [`Error::NotWatchdog`] or [`Error::Kernel`].
    pub fn check(&self) -> Result<(), Error> {
        self.check_kind()?;
        rustix::fs::access(&self.path, Access::WRITE_OK).map_err(|errno| self.open_error(errno))
    }

    /// Opens the device, which **arms** it with the timeout that the driver has at the moment.
    ///
    /// A device that still runs from an earlier opener is taken over in time. The descriptor is closed on exec.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Denied`], [`Error::Busy`], [`Error::NoDevice`], [`Error::NotWatchdog`], [`Error::NoReader`] or
    /// [`Error::Kernel`].
    pub fn arm(&self) -> Result<Armed, OpenError> {
        self.check_kind()?;
        let fd = rustix::fs::open(&self.path, OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())
            .map_err(|errno| self.open_error(errno))?;
        Armed::begin(self.clone(), self.backend(fd))
    }

    /// Arms the device and gives it the first of `candidates` (seconds, descending; see [`crate::choose::plan`]) that it takes.
    ///
    /// A driver that rounds up above the first candidate is asked for the next smaller one; a driver without a settable timeout is taken
    /// as it is when its own timeout is not longer than the first candidate. Whatever happens, no device stays armed and forgotten.
    ///
    /// # Errors
    /// Those of [`Device::arm`], and [`Error::NoTimeoutFits`]. After a failure the device has been disarmed, or it is in
    /// [`OpenError::armed`].
    pub fn arm_with(&self, candidates: &[u32]) -> Result<Armed, OpenError> {
        let mut armed = self.arm()?;
        match armed.negotiate(candidates) {
            Ok(_) => Ok(armed),
            Err(error) => Err(armed.give_up(error)),
        }
    }

    /// Asks the kind of file before opening it: an open may already do something.
    fn check_kind(&self) -> Result<(), Error> {
        let path = || self.path.clone();
        let kind = match fs::metadata(&self.path) {
            Ok(meta) => meta.file_type(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::Missing { path: path() }),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Err(Error::Denied { path: path() }),
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                return Err(Error::Kernel { path: path(), what: "look at the device", errno });
            }
        };
        let fits = match self.driver {
            Driver::Linux => kind.is_char_device(),
            Driver::Testing => kind.is_fifo(),
        };
        if fits {
            Ok(())
        } else {
            Err(Error::NotWatchdog { path: path() })
        }
    }

    fn open_error(&self, errno: Errno) -> Error {
        let path = self.path.clone();
        match errno {
            Errno::NOENT => Error::Missing { path },
            Errno::ACCESS | Errno::PERM => Error::Denied { path },
            Errno::BUSY => Error::Busy { holders: holders(&self.path, &self.roots), path },
            Errno::NXIO if self.driver == Driver::Testing => Error::NoReader { path },
            Errno::NODEV | Errno::NXIO => Error::NoDevice { path },
            errno => Error::Kernel { path, what: "open the device", errno },
        }
    }

    fn backend(&self, fd: OwnedFd) -> Backend {
        match self.driver {
            Driver::Linux => Backend::Linux(fd),
            Driver::Testing => Backend::testing(fd),
        }
    }
}
