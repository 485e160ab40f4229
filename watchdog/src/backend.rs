//! The operations of an open device: the kernel's ioctls, the testing FIFO, and in unit tests a scripted device.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::ioctl::Opcode;

use crate::flags::{Flags, Support};
use crate::ioctl;

/// What a fresh testing device reports, in seconds, as in Patroni's suite.
const TESTING_TIMEOUT_S: i32 = 60;

/// An open device.
#[derive(Debug)]
pub(crate) enum Backend {
    /// A watchdog driver of the kernel.
    Linux(OwnedFd),
    /// A FIFO that somebody reads: `Ctimeout=N` lines, `1` per kick, `V` at the orderly end.
    Testing { pipe: OwnedFd, timeout_s: i32 },
    #[cfg(test)]
    Scripted(crate::armed::tests::Script),
}

/// `write` of some bytes; a short write cannot happen for so few.
fn put(fd: &OwnedFd, bytes: &[u8]) -> Result<(), Errno> {
    loop {
        match rustix::io::write(fd, bytes) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

impl Backend {
    pub(crate) fn testing(pipe: OwnedFd) -> Backend {
        Backend::Testing { pipe, timeout_s: TESTING_TIMEOUT_S }
    }

    pub(crate) fn support(&self) -> Result<Support, Errno> {
        match self {
            Backend::Linux(fd) => ioctl::support(fd.as_fd()),
            Backend::Testing { .. } => {
                let options = Flags::SETTIMEOUT.and(Flags::MAGICCLOSE);
                Ok(Support { options, firmware: 0, identity: "testing FIFO".to_owned() })
            }
            #[cfg(test)]
            Backend::Scripted(script) => Ok(script.support()),
        }
    }

    /// One ioctl that carries an `int`.
    pub(crate) fn int<const NUMBER: Opcode>(&mut self, value: i32) -> Result<i32, Errno> {
        match self {
            Backend::Linux(fd) => ioctl::int_call::<NUMBER>(fd.as_fd(), value),
            Backend::Testing { pipe, timeout_s } => match NUMBER {
                ioctl::SETTIMEOUT => {
                    put(pipe, format!("Ctimeout={value}\n").as_bytes())?;
                    *timeout_s = value;
                    Ok(value)
                }
                ioctl::GETTIMEOUT => Ok(*timeout_s),
                ioctl::KEEPALIVE => put(pipe, b"1").map(|()| 0),
                _ => Err(Errno::NOTTY),
            },
            #[cfg(test)]
            Backend::Scripted(script) => script.int(NUMBER, value),
        }
    }

    /// Writes bytes to the device: any but `V` kick, `V` allows the next close to stop.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        match self {
            Backend::Linux(fd) => put(fd, bytes),
            Backend::Testing { pipe, .. } => put(pipe, bytes),
            #[cfg(test)]
            Backend::Scripted(script) => script.write(bytes),
        }
    }
}
