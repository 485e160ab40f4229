//! Frames as bytes: ARP and neighbour discovery, built and parsed without any I/O.
//!
//! Parsers take whatever a network peer sent. They return `None` for everything that they do not understand and never panic.
#![forbid(unsafe_code)]

pub mod arp;
pub mod ethernet;
pub mod ndp;

use std::fmt;
use std::str::FromStr;

/// An Ethernet hardware address.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of everybody: `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    /// "Not known" in ARP: `00:00:00:00:00:00`.
    pub const ZERO: Mac = Mac([0; 6]);

    /// Whether one single station can have it: not a group address and not zero.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self != Mac::ZERO
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is no hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hardware address looks like 02:00:5e:10:00:01")]
pub struct MacError;

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Mac, MacError> {
        let mut mac = [0_u8; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(MacError)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacError)?;
        }
        match parts.next() {
            None => Ok(Mac(mac)),
            Some(_) => Err(MacError),
        }
    }
}

/// `N` bytes at an offset, `None` when the slice is too short.
pub(crate) fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// A 16-bit number in network order.
pub(crate) fn be16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_be_bytes)
}

#[cfg(test)]
pub(crate) mod mutate {
    //! A deterministic fuzzer: every truncation and many random changes of a good packet.

    /// The next number of a small generator (splitmix64).
    pub(crate) fn random(state: &mut u64) -> u64 {
        crate::schedule::splitmix64(state)
    }

    /// Calls `parse` with every truncation of `good` and with `rounds` random changes of it.
    pub(crate) fn everything(good: &[u8], rounds: u32, mut parse: impl FnMut(&[u8])) {
        for length in 0..=good.len() {
            parse(&good[..length]);
        }
        let mut state = 0x6d61_7374_6966_6621_u64;
        for _ in 0..rounds {
            let mut packet = good.to_vec();
            for _ in 0..=random(&mut state) % 4 {
                let at = random(&mut state) as usize % packet.len();
                packet[at] = random(&mut state) as u8;
            }
            let grow = random(&mut state) as usize % 24;
            packet.extend((0..grow).map(|i| (state >> (i % 8)) as u8));
            packet.truncate(packet.len() - random(&mut state) as usize % (grow + 2));
            parse(&packet);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_written_and_read() {
        let mac = Mac([0x02, 0, 0x5e, 0x10, 0, 0xff]);
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        assert_eq!("02:00:5e:10:00:ff".parse(), Ok(mac));
        for bad in ["", "02:00:5e:10:00", "02:00:5e:10:00:ff:01", "2:0:5e:10:0:ff", "02-00-5e-10-00-ff", "zz:00:5e:10:00:ff"] {
            assert_eq!(bad.parse::<Mac>(), Err(MacError), "{bad}");
        }
        assert!(mac.is_unicast() && !Mac::BROADCAST.is_unicast() && !Mac::ZERO.is_unicast() && !Mac([1, 0, 0x5e, 0, 0, 1]).is_unicast());
    }
}
