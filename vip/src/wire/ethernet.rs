//! The Ethernet II header, with VLAN tags tolerated (IEEE 802.1Q, 802.1ad).

use super::{be16_at, bytes_at, Mac};

/// Type of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// Type of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Length of an untagged header.
pub const HEADER: usize = 14;

/// The tags that may stand before the type: customer, service, and the old one of some switches.
const VLAN_TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// More tags than this are nobody's network.
const VLAN_TAGS_MAX: usize = 2;

/// A frame taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// To whom.
    pub destination: Mac,
    /// From whom.
    pub source: Mac,
    /// Type of the payload, after VLAN tags.
    pub ethertype: u16,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// Takes a frame apart. `None` when it is too short or carries more than two VLAN tags.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Frame<'_>> {
    let mut at = 12;
    let mut ethertype = be16_at(frame, at)?;
    for _ in 0..VLAN_TAGS_MAX {
        if VLAN_TAGS.contains(&ethertype) {
            at += 4;
            ethertype = be16_at(frame, at)?;
        }
    }
    if VLAN_TAGS.contains(&ethertype) {
        return None;
    }
    let payload = frame.get(at + 2..)?;
    Some(Frame { destination: Mac(bytes_at(frame, 0)?), source: Mac(bytes_at(frame, 6)?), ethertype, payload })
}

/// Writes an untagged header.
pub(crate) fn header(destination: Mac, source: Mac, ethertype: u16) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..6].copy_from_slice(&destination.0);
    bytes[6..12].copy_from_slice(&source.0);
    bytes[12..].copy_from_slice(&ethertype.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_skipped() {
        let mut bytes = header(Mac::BROADCAST, Mac([2; 6]), ETHERTYPE_ARP).to_vec();
        bytes.push(7);
        let want = Frame { destination: Mac::BROADCAST, source: Mac([2; 6]), ethertype: ETHERTYPE_ARP, payload: &[7] };
        assert_eq!(parse(&bytes), Some(want));
        let mut tagged = bytes.clone();
        for tag in [[0x81, 0, 0, 5], [0x88, 0xa8, 0, 6]] {
            tagged.splice(12..12, tag);
            assert_eq!(parse(&tagged), Some(want));
        }
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        assert_eq!(parse(&tagged), None, "three tags");
        assert_eq!(parse(&bytes[..13]), None);
    }
}
