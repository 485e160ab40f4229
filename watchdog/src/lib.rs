//! The Linux watchdog device (`linux/watchdog.h`): arm it, kick it, disarm it, and know what it really does.
//!
//! A watchdog is a timer in hardware (or in the kernel) that resets the machine when nobody kicks it in time. This crate is a small wrapper
//! around its character device that takes the traps of the interface seriously:
//!
//! - **Opening arms.** There is no way to look at a device by opening it; look at [`sysfs`] instead. [`Device`] is a name, nothing is open.
//!   [`Device::arm`] opens, and the timer runs.
//! - **Dropping does not disarm.** [`Armed`] has no `Drop` of its own: when it goes away without [`Armed::disarm`], by a panic, a kill or
//!   a forgotten variable, the device **stays armed and resets the machine**, unless somebody opens it again in time. That is what a
//!   watchdog is for. Only a driver without magic close stops by itself ([`Armed::stops_on_any_close`]).
//! - **The closing is a kick.** When a device is closed without having been stopped, the kernel kicks it once more
//!   (`watchdog_release` in `drivers/watchdog/watchdog_dev.c`): the reset comes one whole timeout after the *close*, which for a killed
//!   process is the moment of its death, not its last kick.
//! - **A timeout is a wish.** Drivers refuse it (`EINVAL`), round it down, or up. [`Armed::set_timeout`] reads back what became of it,
//!   [`choose::plan`] makes a list of wishes and [`Device::arm_with`] tries them.
//! - **Disarming can be impossible** (`nowayout`, or a driver that cannot stop). [`Armed::disarm`] then gives the open device back, so
//!   that the caller can keep kicking it: never armed and unfed.
//! - **One opener.** A second one gets [`Error::Busy`], which says who has it, as far as `/proc` tells.
//!
//! Sources: `Documentation/watchdog/watchdog-api.rst`, `watchdog-kernel-api.rst` and `drivers/watchdog/watchdog_dev.c` of the kernel.
//!
//! ```no_run
//! use mastiff_watchdog::{choose, Device};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::linux("/dev/watchdog");
//! let limits = device.info().map(|info| info.limits()).unwrap_or_default();
//! let times = choose::Times { ttl_ms: 30_000, loop_wait_ms: 10_000, margin_ms: 550 };
//! let mut armed = device.arm_with(&choose::plan(times, None, limits)?)?;
//! println!("{}: {} s", armed.support().identity, armed.timeout_s());
//! armed.kick()?;
//! armed.disarm()?;
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

mod armed;
mod backend;
pub mod choose;
mod device;
mod error;
mod flags;
mod holder;
mod ioctl;
pub mod sysfs;

pub use armed::{Armed, CanStop, DisarmError, Disarmed};
pub use device::{Device, Driver, OpenError};
pub use error::Error;
pub use flags::{Flags, Support};
pub use holder::{holders, Holder};
pub use sysfs::{Info, Roots, State};
