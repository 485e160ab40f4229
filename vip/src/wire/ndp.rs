//! Neighbour discovery for IPv6 (RFC 4861): unsolicited advertisements, solicitations as probes (RFC 4862) and as questions.

use std::net::Ipv6Addr;

use super::ethernet::{self, ETHERTYPE_IPV6, HEADER};
use super::{be16_at, bytes_at, Mac};

/// Next header of ICMPv6.
pub const ICMPV6: u8 = 58;
/// ICMPv6 type of a neighbour solicitation.
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type of a neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;
/// Only packets that no router forwarded have it (RFC 4861, 7.1).
pub const HOP_LIMIT: u8 = 255;
/// All nodes on the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Length of a frame with a message and one link-layer address option.
pub const FRAME_WITH_OPTION: usize = BODY + 32;
/// Length of a frame with a message without options.
pub const FRAME_BARE: usize = BODY + 24;

const IPV6_HEADER: usize = 40;
const BODY: usize = HEADER + IPV6_HEADER;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
const FLAG_ROUTER: u8 = 0x80;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;

/// Which message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// "Who has it?"
    Solicitation,
    /// "I have it."
    Advertisement {
        /// R: the sender forwards packets.
        router: bool,
        /// S: it answers a solicitation.
        solicited: bool,
        /// O: caches shall replace what they know.
        overriding: bool,
    },
}

/// A neighbour solicitation or advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Which message.
    pub kind: Kind,
    /// Hardware address that the frame came from.
    pub source_mac: Mac,
    /// Address that the packet came from; `::` in a probe.
    pub source_ip: Ipv6Addr,
    /// The address that it is about.
    pub target: Ipv6Addr,
    /// The hardware address that the option names.
    pub link_layer: Option<Mac>,
}

impl Neighbour {
    /// The hardware address of who speaks: the option of an advertisement, else the frame's source.
    #[must_use]
    pub fn speaker(&self) -> Mac {
        self.link_layer.unwrap_or(self.source_mac)
    }

    /// Whether somebody else than `own` says that it has `ip`.
    #[must_use]
    pub fn claims(&self, ip: Ipv6Addr, own: Mac) -> bool {
        let says_so = matches!(self.kind, Kind::Advertisement { .. }) || self.source_ip == ip;
        let subject = if matches!(self.kind, Kind::Advertisement { .. }) { self.target } else { self.source_ip };
        says_so && subject == ip && self.speaker() != own && self.source_mac != own && self.speaker().is_unicast()
    }
}

/// The multicast address of those whose address ends like `ip` (RFC 4291, 2.7.1).
#[must_use]
pub fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The Ethernet group of a multicast address (RFC 2464, 7).
#[must_use]
pub fn multicast_mac(ip: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = ip.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// Unsolicited advertisement of `ip` to all nodes: O=1, S=0, R as told, with the target's link-layer address.
#[must_use]
pub fn announce(mac: Mac, ip: Ipv6Addr, router: bool) -> [u8; FRAME_WITH_OPTION] {
    let mut frame = [0; FRAME_WITH_OPTION];
    let flags = FLAG_OVERRIDE | if router { FLAG_ROUTER } else { 0 };
    option(&mut frame, OPTION_TARGET, mac);
    fill(&mut frame, mac, ip, ALL_NODES, ADVERTISEMENT, flags, ip);
    frame
}

/// Probe: asks for `ip` from the unspecified address, so that no cache changes (RFC 4862, 5.4.2).
#[must_use]
pub fn probe(mac: Mac, ip: Ipv6Addr) -> [u8; FRAME_BARE] {
    let mut frame = [0; FRAME_BARE];
    fill(&mut frame, mac, Ipv6Addr::UNSPECIFIED, solicited_node(ip), SOLICITATION, 0, ip);
    frame
}

/// A question for `gateway` that comes *from* `ip` and names our hardware address: who answers must learn the sender first.
#[must_use]
pub fn ask(mac: Mac, ip: Ipv6Addr, gateway: Ipv6Addr) -> [u8; FRAME_WITH_OPTION] {
    let mut frame = [0; FRAME_WITH_OPTION];
    option(&mut frame, OPTION_SOURCE, mac);
    fill(&mut frame, mac, ip, solicited_node(gateway), SOLICITATION, 0, gateway);
    frame
}

/// Writes the only option.
fn option(frame: &mut [u8; FRAME_WITH_OPTION], kind: u8, mac: Mac) {
    frame[78] = kind;
    frame[79] = 1;
    frame[80..86].copy_from_slice(&mac.0);
}

/// Writes everything but the option into a frame that is at least [`FRAME_BARE`] long, the checksum last.
fn fill(frame: &mut [u8], mac: Mac, source: Ipv6Addr, destination: Ipv6Addr, kind: u8, flags: u8, target: Ipv6Addr) {
    let length = (frame.len() - BODY) as u16;
    frame[..HEADER].copy_from_slice(&ethernet::header(multicast_mac(destination), mac, ETHERTYPE_IPV6));
    frame[14] = 0x60;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[20] = ICMPV6;
    frame[21] = HOP_LIMIT;
    frame[22..38].copy_from_slice(&source.octets());
    frame[38..54].copy_from_slice(&destination.octets());
    frame[54] = kind;
    frame[58] = flags;
    frame[62..78].copy_from_slice(&target.octets());
    let sum = checksum(source, destination, &frame[BODY..]);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
}

/// The ICMPv6 checksum with its pseudo header (RFC 4443, 2.3). 0 over a message whose checksum is right.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let pairs = |bytes: &[u8]| -> u64 {
        bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0))).sum::<u64>()
    };
    let mut sum = pairs(&source.octets()) + pairs(&destination.octets()) + pairs(message);
    sum += message.len() as u64 + u64::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Reads a frame. `None` for everything that is no valid neighbour message (RFC 4861, 7.1: hop limit, code, length, checksum, options).
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Neighbour> {
    let frame = ethernet::parse(frame).filter(|frame| frame.ethertype == ETHERTYPE_IPV6)?;
    let packet = frame.payload;
    let (version, next, hops) = (packet.first()? >> 4, *packet.get(6)?, *packet.get(7)?);
    if (version, next, hops) != (6, ICMPV6, HOP_LIMIT) {
        return None;
    }
    let length = usize::from(be16_at(packet, 4)?);
    let message = packet.get(IPV6_HEADER..IPV6_HEADER.checked_add(length)?)?;
    let source_ip = Ipv6Addr::from(bytes_at::<16>(packet, 8)?);
    let destination = Ipv6Addr::from(bytes_at::<16>(packet, 24)?);
    if *message.get(1)? != 0 || checksum(source_ip, destination, message) != 0 {
        return None;
    }
    let flags = *message.get(4)?;
    let (kind, wanted) = match *message.first()? {
        SOLICITATION => (Kind::Solicitation, OPTION_SOURCE),
        ADVERTISEMENT => (advertisement(flags), OPTION_TARGET),
        _ => return None,
    };
    let target = Ipv6Addr::from(bytes_at::<16>(message, 8)?);
    let link_layer = link_layer(message.get(24..)?, wanted)?;
    (!target.is_multicast()).then_some(Neighbour { kind, source_mac: frame.source, source_ip, target, link_layer })
}

fn advertisement(flags: u8) -> Kind {
    Kind::Advertisement { router: flags & FLAG_ROUTER != 0, solicited: flags & FLAG_SOLICITED != 0, overriding: flags & FLAG_OVERRIDE != 0 }
}

/// The link-layer address among the options; the outer `None` when the options are broken.
fn link_layer(mut options: &[u8], wanted: u8) -> Option<Option<Mac>> {
    let mut found = None;
    while !options.is_empty() {
        let (kind, length) = (options[0], usize::from(*options.get(1)?) * 8);
        if length == 0 || length > options.len() {
            return None;
        }
        if kind == wanted && length == 8 {
            found = Some(Mac(bytes_at(options, 2)?));
        }
        options = &options[length..];
    }
    Some(found)
}

#[cfg(test)]
#[path = "ndp_tests.rs"]
mod tests;
