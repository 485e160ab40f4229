//! The ioctls of `linux/watchdog.h`: numbers per family of architectures, the structure, and the only `unsafe` of the crate.
//!
//! The numbers are `_IOR('W', n, int)`, whose direction bits differ between families; a wrong one answers `ENOTTY` and looks like a device
//! without the ability. They are therefore computed and, at compile time, compared with the literal values of both families.
//!
//! Every call goes through [`int_call`] or [`support`], and both pass zeroed memory of exactly the size that the number carries.
#![allow(clippy::unnecessary_cast)] // The type of a number is another one where rustix goes through libc.
#![allow(unsafe_code)] // JUSTIFICATION: an ioctl has no safe form; rustix gives the call, this file the agreement on number and type.

use std::mem::{offset_of, size_of};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{ioctl, opcode, Opcode, Updater};

use crate::flags::{Flags, Support};

/// `struct watchdog_info`: no padding and no pointers, so the same on every architecture.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct WatchdogInfo {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

const _: () = {
    assert!(size_of::<WatchdogInfo>() == 40);
    assert!(offset_of!(WatchdogInfo, options) == 0);
    assert!(offset_of!(WatchdogInfo, firmware_version) == 4);
    assert!(offset_of!(WatchdogInfo, identity) == 8);
    // The numbers carry sizeof(int).
    assert!(size_of::<std::ffi::c_int>() == 4);
};

const GROUP: u8 = b'W';
const GETSUPPORT: Opcode = opcode::read::<WatchdogInfo>(GROUP, 0);
/// `WDIOC_GETSTATUS`: current status flags.
pub(crate) const GETSTATUS: Opcode = opcode::read::<i32>(GROUP, 1);
/// `WDIOC_GETBOOTSTATUS`: status flags at the last boot.
pub(crate) const GETBOOTSTATUS: Opcode = opcode::read::<i32>(GROUP, 2);
/// `WDIOC_SETOPTIONS`: stops or starts without closing. The header says read, the kernel reads *from* us.
pub(crate) const SETOPTIONS: Opcode = opcode::read::<i32>(GROUP, 4);
/// `WDIOC_KEEPALIVE`: a kick; the argument is not looked at.
pub(crate) const KEEPALIVE: Opcode = opcode::read::<i32>(GROUP, 5);
/// `WDIOC_SETTIMEOUT`: seconds in, seconds as taken out. It is a kick, too.
pub(crate) const SETTIMEOUT: Opcode = opcode::read_write::<i32>(GROUP, 6);
/// `WDIOC_GETTIMEOUT`: seconds.
pub(crate) const GETTIMEOUT: Opcode = opcode::read::<i32>(GROUP, 7);
/// `WDIOC_SETPRETIMEOUT`: seconds before the end.
pub(crate) const SETPRETIMEOUT: Opcode = opcode::read_write::<i32>(GROUP, 8);
/// `WDIOC_GETPRETIMEOUT`: seconds before the end.
pub(crate) const GETPRETIMEOUT: Opcode = opcode::read::<i32>(GROUP, 9);
/// `WDIOC_GETTIMELEFT`: seconds.
pub(crate) const GETTIMELEFT: Opcode = opcode::read::<i32>(GROUP, 10);

/// `WDIOS_DISABLECARD`, for [`SETOPTIONS`].
pub(crate) const DISABLECARD: i32 = 1;

/// Numbers as the kernel's headers give them: (ours, mips and powerpc and sparc, all others).
const TABLE: [(Opcode, u32, u32); 10] = [
    (GETSUPPORT, 0x4028_5700, 0x8028_5700),
    (GETSTATUS, 0x4004_5701, 0x8004_5701),
    (GETBOOTSTATUS, 0x4004_5702, 0x8004_5702),
    (SETOPTIONS, 0x4004_5704, 0x8004_5704),
    (KEEPALIVE, 0x4004_5705, 0x8004_5705),
    (SETTIMEOUT, 0xC004_5706, 0xC004_5706),
    (GETTIMEOUT, 0x4004_5707, 0x8004_5707),
    (SETPRETIMEOUT, 0xC004_5708, 0xC004_5708),
    (GETPRETIMEOUT, 0x4004_5709, 0x8004_5709),
    (GETTIMELEFT, 0x4004_570A, 0x8004_570A),
];

/// Whether this architecture has the direction bits of mips, powerpc and sparc.
const OTHER_FAMILY: bool = cfg!(any(
    target_arch = "mips",
    target_arch = "mips32r6",
    target_arch = "mips64",
    target_arch = "mips64r6",
    target_arch = "powerpc",
    target_arch = "powerpc64",
    target_arch = "sparc",
    target_arch = "sparc64"
));

const _: () = {
    let mut row = 0;
    while row < TABLE.len() {
        let (ours, other, common) = TABLE[row];
        assert!(ours as u32 == if OTHER_FAMILY { other } else { common }, "an ioctl number is not that of the kernel's header");
        row += 1;
    }
};

/// One of the ioctls above that take a pointer to an `int`; gives what the kernel left there (`value` when it wrote nothing).
pub(crate) fn int_call<const NUMBER: Opcode>(fd: BorrowedFd<'_>, value: i32) -> Result<i32, Errno> {
    const { assert!((NUMBER as u32 >> 16) & 0x1fff == size_of::<i32>() as u32, "only numbers that carry the size of an int") };
    let mut value = value;
    // JUSTIFICATION: no safe interface exists. SAFETY: NUMBER carries the size of an int in group 'W' (asserted above), so that a driver
    // that knows it accesses four bytes, which `value` has, initialised, writable and alive for the call; others answer ENOTTY.
    unsafe { ioctl(fd, Updater::<NUMBER, i32>::new(&mut value))? };
    Ok(value)
}

/// `WDIOC_GETSUPPORT`.
pub(crate) fn support(fd: BorrowedFd<'_>) -> Result<Support, Errno> {
    let mut info = WatchdogInfo::default();
    // JUSTIFICATION: no safe interface exists. SAFETY: GETSUPPORT makes the kernel write one struct watchdog_info; `info` has its layout
    // (asserted above), is initialised, writable and alive for the call, and any bytes are valid in it.
    unsafe { ioctl(fd, Updater::<GETSUPPORT, WatchdogInfo>::new(&mut info))? };
    let identity = info.identity.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Support {
        options: Flags(info.options),
        firmware: info.firmware_version,
        identity: String::from_utf8_lossy(identity).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm"))]
    fn numbers_are_those_of_the_header() {
        assert_eq!(GETSUPPORT, 0x8028_5700);
        assert_eq!(GETBOOTSTATUS, 0x8004_5702);
        assert_eq!(KEEPALIVE, 0x8004_5705);
        assert_eq!(SETTIMEOUT, 0xC004_5706);
        assert_eq!(GETTIMELEFT, 0x8004_570A);
    }

    #[test]
    fn what_is_no_watchdog_says_so() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(support(null.as_fd()), Err(Errno::NOTTY));
        assert_eq!(int_call::<GETTIMEOUT>(null.as_fd(), 0), Err(Errno::NOTTY));
    }
}
