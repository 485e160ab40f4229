//! A device that runs.

use rustix::io::Errno;
use rustix::ioctl::Opcode;

use crate::backend::Backend;
use crate::device::{Device, Driver, OpenError};
use crate::error::Error;
use crate::flags::{Flags, Support};
use crate::ioctl;
use crate::sysfs::State;

/// An open, running watchdog: kick it, or the machine resets.
///
/// **Dropping it does not disarm it.** The descriptor is closed, the kernel kicks once more, and one timeout later the machine resets,
/// unless the device is opened again before or its driver has no magic close ([`Armed::stops_on_any_close`]). Only [`Armed::disarm`] stops.
#[derive(Debug)]
#[must_use = "an armed watchdog resets the machine when nobody kicks it; dropping it does not disarm it"]
pub struct Armed {
    backend: Backend,
    device: Device,
    support: Support,
    timeout_s: u32,
}

/// Whether [`Armed::disarm`] will stop the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CanStop {
    /// It will.
    Yes,
    /// It will not (`nowayout`).
    No,
    /// The kernel does not say before it is tried.
    Unknown,
}

/// The device has been closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disarmed {
    /// The kernel confirmed that it no longer waits for kicks.
    Confirmed,
    /// The driver took the order; nothing contradicts and nothing confirms it.
    Assumed,
}

/// Disarming failed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct DisarmError {
    /// Why.
    pub error: Error,
    /// The device, still armed: kick it. `None` only when it was closed, still runs, and another program was faster in opening it.
    pub armed: Option<Box<Armed>>,
}

impl Armed {
    /// Takes a device over that was just opened.
    pub(crate) fn begin(device: Device, backend: Backend) -> Result<Armed, OpenError> {
        let mut armed = Armed { backend, device, support: Support::default(), timeout_s: 0 };
        match armed.backend.support() {
            Ok(support) => armed.support = support,
            // Another kind of character device: closing it is all that can be done.
            Err(Errno::NOTTY | Errno::INVAL) => return Err(Error::NotWatchdog { path: armed.path() }.into()),
            Err(errno) => {
                let error = armed.kernel("ask what the device can do", errno);
                return Err(armed.give_up(error));
            }
        }
        // 0 stands for unknown: the driver cannot tell.
        armed.timeout_s = armed.int::<{ ioctl::GETTIMEOUT }>(0).ok().and_then(|s| u32::try_from(s).ok()).unwrap_or(0);
        Ok(armed)
    }

    /// What the driver says about itself.
    #[must_use]
    pub fn support(&self) -> &Support {
        &self.support
    }

    /// The device by its name.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Seconds from a kick to the reset, as last read from the driver; 0 when it cannot tell.
    #[must_use]
    pub fn timeout_s(&self) -> u32 {
        self.timeout_s
    }

    /// Kicks: the reset is one timeout away again.
    ///
    /// # Errors
    /// [`Error::Gone`] when the device no longer exists, [`Error::Kernel`] for anything else; then assume that it was not kicked.
    pub fn kick(&mut self) -> Result<(), Error> {
        let by_ioctl = self.device.driver() == Driver::Testing || self.support.options.has(Flags::KEEPALIVEPING);
        let answer = if by_ioctl { self.int::<{ ioctl::KEEPALIVE }>(0).map(|_| ()) } else { Err(Errno::OPNOTSUPP) };
        let answer = match answer {
            // Any byte but the magic one.
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => self.backend.write(b"\0"),
            answer => answer,
        };
        answer.map_err(|errno| self.kernel("kick", errno))
    }

    /// Sets the timeout in seconds and returns what the driver made of it, which may be less or **more**. It is a kick, too.
    ///
    /// # Errors
    /// [`Error::TimeoutRefused`] when the driver does not take this value, [`Error::Unsupported`] when it takes none.
    pub fn set_timeout(&mut self, seconds: u32) -> Result<u32, Error> {
        let wish = i32::try_from(seconds).map_err(|_| Error::TimeoutRefused { path: self.path(), seconds })?;
        let answer = self.int::<{ ioctl::SETTIMEOUT }>(wish).map_err(|errno| match errno {
            Errno::INVAL => Error::TimeoutRefused { path: self.path(), seconds },
            errno => self.optional("set a timeout", errno),
        })?;
        // Some drivers do not write the real value back: the reading is the truth.
        let real = self.int::<{ ioctl::GETTIMEOUT }>(0).unwrap_or(answer);
        self.timeout_s = u32::try_from(real).unwrap_or(0);
        Ok(self.timeout_s)
    }

    /// Gives the device the first of `candidates` (seconds, descending) that it takes without exceeding the first of them.
    ///
    /// # Errors
    /// [`Error::NoTimeoutFits`], or the kernel's refusal. The device is still armed then, with some timeout.
    pub fn negotiate(&mut self, candidates: &[u32]) -> Result<u32, Error> {
        let (most, least) = match (candidates.first(), candidates.last()) {
            (Some(most), Some(least)) => (*most, *least),
            _ => (0, 0),
        };
        let mut got = None;
        for wish in candidates {
            let real = match self.set_timeout(*wish) {
                Err(Error::TimeoutRefused { .. }) => continue,
                Err(Error::Unsupported { .. }) => self.timeout_s,
                Err(error) => return Err(error),
                Ok(real) => real,
            };
            if (1..=most).contains(&real) {
                return Ok(real);
            }
            got = Some(real);
        }
        Err(Error::NoTimeoutFits { path: self.path(), least, most, got })
    }

    /// Seconds until the reset; `None` when the driver cannot tell.
    ///
    /// # Errors
    /// [`Error::Gone`] or [`Error::Kernel`].
    pub fn time_left(&mut self) -> Result<Option<u32>, Error> {
        self.ask::<{ ioctl::GETTIMELEFT }>("read the time left")
    }

    /// Why the machine was last reset, as far as the device knows; no flags when it does not.
    ///
    /// # Errors
    /// [`Error::Gone`] or [`Error::Kernel`].
    pub fn boot_status(&mut self) -> Result<Flags, Error> {
        Ok(Flags(self.ask::<{ ioctl::GETBOOTSTATUS }>("read the boot status")?.unwrap_or(0)))
    }

    /// The device's present status flags, such as overheating; no flags when it has none.
    ///
    /// # Errors
    /// [`Error::Gone`] or [`Error::Kernel`].
    pub fn status(&mut self) -> Result<Flags, Error> {
        Ok(Flags(self.ask::<{ ioctl::GETSTATUS }>("read the status")?.unwrap_or(0)))
    }

    /// Seconds before the reset at which the device warns; `None` when it cannot.
    ///
    /// # Errors
    /// [`Error::Gone`] or [`Error::Kernel`].
    pub fn pretimeout(&mut self) -> Result<Option<u32>, Error> {
        self.ask::<{ ioctl::GETPRETIMEOUT }>("read the pretimeout")
    }

    /// Sets the seconds before the reset at which the device warns (0: never) and returns what the driver made of it. Set it after the
    /// timeout. What the warning does is the business of the kernel's pretimeout governor (`panic` or `noop`).
    ///
    /// # Errors
    /// [`Error::TimeoutRefused`], [`Error::Unsupported`], [`Error::Gone`] or [`Error::Kernel`].
    pub fn set_pretimeout(&mut self, seconds: u32) -> Result<u32, Error> {
        let wish = i32::try_from(seconds).map_err(|_| Error::TimeoutRefused { path: self.path(), seconds })?;
        let answer = self.int::<{ ioctl::SETPRETIMEOUT }>(wish).map_err(|errno| match errno {
            Errno::INVAL => Error::TimeoutRefused { path: self.path(), seconds },
            errno => self.optional("set a pretimeout", errno),
        })?;
        Ok(u32::try_from(answer).unwrap_or(0))
    }

    /// Whether the device was configured never to stop; `None` when the kernel does not say.
    #[must_use]
    pub fn nowayout(&self) -> Option<bool> {
        match self.device.driver() {
            Driver::Linux => self.device.info().and_then(|info| info.nowayout),
            Driver::Testing => Some(false),
        }
    }

    /// Whether every close stops it, also that by a killed process: a driver without magic close is no fence against the death of its feeder.
    #[must_use]
    pub fn stops_on_any_close(&self) -> bool {
        !self.support.options.has(Flags::MAGICCLOSE) && self.nowayout() != Some(true)
    }

    /// Whether it only raises an alarm and resets nothing.
    #[must_use]
    pub fn alarm_only(&self) -> bool {
        self.support.options.has(Flags::ALARMONLY)
    }

    /// Whether [`Armed::disarm`] will work, before it is tried.
    #[must_use]
    pub fn can_stop(&self) -> CanStop {
        match self.nowayout() {
            Some(true) => CanStop::No,
            Some(false) => CanStop::Yes,
            None => CanStop::Unknown,
        }
    }

    /// Stops the device and closes it.
    ///
    /// First the driver is asked to stop while the device is open (`WDIOS_DISABLECARD`), so that a refusal costs nothing; then follow the
    /// magic character, the close, and a look into sysfs. A device that turns out to run on after the close is opened again at once.
    ///
    /// # Errors
    /// [`DisarmError`] with the device inside, armed as before: keep kicking it.
    pub fn disarm(mut self) -> Result<Disarmed, DisarmError> {
        if self.can_stop() == CanStop::No {
            return Err(self.unstoppable("nowayout is set"));
        }
        let stopped = match self.int::<{ ioctl::SETOPTIONS }>(ioctl::DISABLECARD) {
            Ok(_) => true,
            Err(Errno::BUSY) => return Err(self.unstoppable("the driver refuses to stop it")),
            // Not every driver has it: the close decides.
            Err(_) => false,
        };
        if let Err(errno) = self.backend.write(b"V") {
            if !stopped {
                let error = self.kernel("write the magic character", errno);
                return Err(DisarmError { error, armed: Some(Box::new(self)) });
            }
        }
        let Armed { backend, device, .. } = self;
        drop(backend);
        match device.info().and_then(|info| info.state) {
            Some(State::Inactive) => Ok(Disarmed::Confirmed),
            Some(State::Active) => Err(reopen(&device)),
            None if stopped => Ok(Disarmed::Confirmed),
            None => Ok(Disarmed::Assumed),
        }
    }

    /// Ends a failed start: disarms, or hands the device over that cannot be.
    pub(crate) fn give_up(self, error: Error) -> OpenError {
        match self.disarm() {
            Ok(_) => error.into(),
            Err(DisarmError { armed, .. }) => OpenError { error, armed },
        }
    }

    fn unstoppable(self, why: &'static str) -> DisarmError {
        DisarmError { error: Error::Unstoppable { path: self.path(), why }, armed: Some(Box::new(self)) }
    }

    fn path(&self) -> std::path::PathBuf {
        self.device.path().to_owned()
    }

    fn int<const NUMBER: Opcode>(&mut self, value: i32) -> Result<i32, Errno> {
        self.backend.int::<NUMBER>(value)
    }

    /// Reads a value that not every driver has.
    fn ask<const NUMBER: Opcode>(&mut self, what: &'static str) -> Result<Option<u32>, Error> {
        match self.int::<NUMBER>(0) {
            // Flags fill the sign bit in theory, times do not.
            Ok(value) => Ok(Some(u32::from_ne_bytes(value.to_ne_bytes()))),
            Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => Ok(None),
            Err(errno) => Err(self.kernel(what, errno)),
        }
    }

    fn optional(&self, what: &'static str, errno: Errno) -> Error {
        match errno {
            Errno::NOTTY | Errno::OPNOTSUPP => Error::Unsupported { path: self.path(), what },
            errno => self.kernel(what, errno),
        }
    }

    fn kernel(&self, what: &'static str, errno: Errno) -> Error {
        match errno {
            Errno::NODEV | Errno::NXIO | Errno::PIPE => Error::Gone { path: self.path(), errno },
            errno => Error::Kernel { path: self.path(), what, errno },
        }
    }
}

/// The device runs on although it was closed in order: takes it over again.
fn reopen(device: &Device) -> DisarmError {
    let why = Error::Unstoppable { path: device.path().to_owned(), why: "it still runs after an orderly close" };
    match device.arm() {
        Ok(armed) => DisarmError { error: why, armed: Some(Box::new(armed)) },
        Err(OpenError { error, armed }) => DisarmError { error, armed },
    }
}

#[cfg(test)]
#[path = "armed_tests.rs"]
pub(crate) mod tests;
