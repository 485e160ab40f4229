//! What can go wrong, one sentence each with a way out.

use std::path::PathBuf;

use rustix::io::Errno;

use crate::holder::Holder;

/// Why something with a watchdog device did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path does not exist (`ENOENT`).
    #[error("{path}: there is no such device; load the driver of the board's watchdog (or softdog), or name another device", path = path.display())]
    Missing {
        /// The device as configured.
        path: PathBuf,
    },
    /// The device may not be opened for writing (`EACCES`, `EPERM`).
    #[error(
        "{path}: permission denied; give the user write access by a udev rule (KERNEL==\"watchdog*\", SUBSYSTEM==\"watchdog\", \
         GROUP=\"postgres\", MODE=\"0660\") and DeviceAllow= in the unit",
        path = path.display()
    )]
    Denied {
        /// The device as configured.
        path: PathBuf,
    },
    /// Somebody else has it open (`EBUSY`).
    #[error("{path}: the device is in use by {}; only one program can own a watchdog", crate::holder::sentence(holders), path = path.display())]
    Busy {
        /// The device as configured.
        path: PathBuf,
        /// Who has it open as far as `/proc` shows; empty when it does not.
        holders: Vec<Holder>,
    },
    /// A device node without hardware or driver behind it (`ENODEV`, `ENXIO`).
    #[error("{path}: no driver answers behind this node; load the board's watchdog driver and look into the kernel log", path = path.display())]
    NoDevice {
        /// The device as configured.
        path: PathBuf,
    },
    /// A regular file, a directory, or another character device.
    #[error("{path}: this is no watchdog device; the usual ones are /dev/watchdog and /dev/watchdog0", path = path.display())]
    NotWatchdog {
        /// The device as configured.
        path: PathBuf,
    },
    /// A testing FIFO that nobody reads.
    #[error("{path}: nobody reads this pipe; start its reader first (driver testing)", path = path.display())]
    NoReader {
        /// The pipe as configured.
        path: PathBuf,
    },
    /// The device went away while it was open.
    #[error("{path}: the device has gone away ({errno})", path = path.display())]
    Gone {
        /// The device as configured.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// The driver does not do this at all.
    #[error("{path}: the driver cannot {what}", path = path.display())]
    Unsupported {
        /// The device as configured.
        path: PathBuf,
        /// What was asked, as a verb.
        what: &'static str,
    },
    /// A timeout that the driver does not take (`EINVAL`).
    #[error("{path}: the driver refuses a timeout of {seconds} s", path = path.display())]
    TimeoutRefused {
        /// The device as configured.
        path: PathBuf,
        /// What was asked.
        seconds: u32,
    },
    /// No timeout that fits could be set.
    #[error(
        "{path}: no timeout between {least} s and {most} s can be set, the driver says {got}; raise ttl, or use another device (softdog takes any)",
        path = path.display(),
        got = got.map_or_else(|| "no to all".to_owned(), |got| format!("{got} s"))
    )]
    NoTimeoutFits {
        /// The device as configured.
        path: PathBuf,
        /// The smallest one tried.
        least: u32,
        /// The largest one tried.
        most: u32,
        /// What the driver made of the last one, `None` when it refused all.
        got: Option<u32>,
    },
    /// The device keeps running whatever user space does.
    #[error("{path}: the device cannot be stopped ({why}); it must be kicked until the machine is shut down", path = path.display())]
    Unstoppable {
        /// The device as configured.
        path: PathBuf,
        /// How we know.
        why: &'static str,
    },
    /// Any other refusal of the kernel.
    #[error("{path}: cannot {what}: {errno}", path = path.display())]
    Kernel {
        /// The device as configured.
        path: PathBuf,
        /// What was asked, as a verb.
        what: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
}

impl Error {
    /// Whether the device no longer exists, so that there is nothing left to kick or to disarm.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Error::Gone { .. })
    }
}
