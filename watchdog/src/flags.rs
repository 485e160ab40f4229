//! What a device says about itself and about the last boot.

use std::fmt;

/// The `WDIOF_*` bits of `linux/watchdog.h`: abilities in [`Support`], causes in the boot status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// Last reset because of overheating.
    pub const OVERHEAT: Flags = Flags(0x0001);
    /// A fan failed.
    pub const FANFAULT: Flags = Flags(0x0002);
    /// External relay 1.
    pub const EXTERN1: Flags = Flags(0x0004);
    /// External relay 2.
    pub const EXTERN2: Flags = Flags(0x0008);
    /// Supply voltage too low.
    pub const POWERUNDER: Flags = Flags(0x0010);
    /// As a boot status: the watchdog itself reset the machine. As an ability: it can tell.
    pub const CARDRESET: Flags = Flags(0x0020);
    /// Supply voltage too high.
    pub const POWEROVER: Flags = Flags(0x0040);
    /// The timeout can be set.
    pub const SETTIMEOUT: Flags = Flags(0x0080);
    /// The device stops at a close only after the character `V`.
    pub const MAGICCLOSE: Flags = Flags(0x0100);
    /// There is a warning before the reset.
    pub const PRETIMEOUT: Flags = Flags(0x0200);
    /// The device raises an alarm and resets nothing.
    pub const ALARMONLY: Flags = Flags(0x0400);
    /// The keepalive ioctl works; without it only a write kicks.
    pub const KEEPALIVEPING: Flags = Flags(0x8000);

    const NAMES: [(Flags, &'static str); 12] = [
        (Flags::OVERHEAT, "overheat"),
        (Flags::FANFAULT, "fan fault"),
        (Flags::EXTERN1, "external 1"),
        (Flags::EXTERN2, "external 2"),
        (Flags::POWERUNDER, "power under"),
        (Flags::CARDRESET, "card reset"),
        (Flags::POWEROVER, "power over"),
        (Flags::SETTIMEOUT, "set timeout"),
        (Flags::MAGICCLOSE, "magic close"),
        (Flags::PRETIMEOUT, "pretimeout"),
        (Flags::ALARMONLY, "alarm only"),
        (Flags::KEEPALIVEPING, "keepalive"),
    ];

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    pub const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// As a boot status: whether the watchdog was the cause of the last reset.
    #[must_use]
    pub const fn reset_by_watchdog(self) -> bool {
        self.has(Flags::CARDRESET)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut separator = "";
        for (flag, name) in Flags::NAMES {
            if self.has(flag) {
                write!(f, "{separator}{name}")?;
                rest &= !flag.0;
                separator = ", ";
            }
        }
        match (rest, separator) {
            (0, "") => f.write_str("none"),
            (0, _) => Ok(()),
            _ => write!(f, "{separator}{rest:#x}"),
        }
    }
}

/// The answer to `WDIOC_GETSUPPORT`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Support {
    /// What the driver can do.
    pub options: Flags,
    /// Firmware version of the card, 0 where there is none.
    pub firmware: u32,
    /// The driver's name of the device, such as `i6300ESB timer`.
    pub identity: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_words() {
        assert_eq!(Flags::default().to_string(), "none");
        assert_eq!(Flags(0x8180).to_string(), "set timeout, magic close, keepalive");
        assert_eq!(Flags(0x0021_0020).to_string(), "card reset, 0x210000");
        assert!(Flags(0x8180).has(Flags::MAGICCLOSE) && !Flags(0x8180).reset_by_watchdog());
        assert!(Flags::MAGICCLOSE.and(Flags::CARDRESET).reset_by_watchdog());
    }
}
