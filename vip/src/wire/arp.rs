//! ARP over Ethernet for IPv4 (RFC 826), announcements and probes (RFC 5227).
//!
//! Which form a receiver takes differs. Measured on Linux (see the crate documentation): a *request* with sender = target address
//! updates always, a *reply* only bypasses the neighbour lock time when its target hardware address equals its sender's. So an
//! announcement is a pair: [`announce_request`] and [`announce_reply`].

use std::net::Ipv4Addr;

use super::ethernet::{self, ETHERTYPE_ARP, HEADER};
use super::{be16_at, bytes_at, Mac};

/// Length of a frame with an ARP packet. Hardware pads it to 60 bytes.
pub const FRAME: usize = HEADER + 28;

/// Ethernet, IPv4, address lengths 6 and 4.
const PREAMBLE: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// Question or answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// "Who has it?"
    Request,
    /// "I have it."
    Reply,
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Question or answer.
    pub operation: Operation,
    /// SHA: hardware address of who speaks.
    pub sender_mac: Mac,
    /// SPA: address of who speaks; `0.0.0.0` in a probe.
    pub sender_ip: Ipv4Addr,
    /// THA: hardware address of who is meant.
    pub target_mac: Mac,
    /// TPA: the address asked for.
    pub target_ip: Ipv4Addr,
}

impl Arp {
    /// The frame that carries it, from the sender's hardware address.
    #[must_use]
    pub fn frame(&self, destination: Mac) -> [u8; FRAME] {
        let mut bytes = [0; FRAME];
        bytes[..HEADER].copy_from_slice(&ethernet::header(destination, self.sender_mac, ETHERTYPE_ARP));
        let operation = match self.operation {
            Operation::Request => REQUEST,
            Operation::Reply => REPLY,
        };
        bytes[14..20].copy_from_slice(&PREAMBLE);
        bytes[20..22].copy_from_slice(&operation.to_be_bytes());
        bytes[22..28].copy_from_slice(&self.sender_mac.0);
        bytes[28..32].copy_from_slice(&self.sender_ip.octets());
        bytes[32..38].copy_from_slice(&self.target_mac.0);
        bytes[38..42].copy_from_slice(&self.target_ip.octets());
        bytes
    }

    /// Whether somebody else than `own` says that it has `ip`.
    #[must_use]
    pub fn claims(&self, ip: Ipv4Addr, own: Mac) -> bool {
        self.sender_ip == ip && self.sender_mac != own && self.sender_mac.is_unicast()
    }
}

/// Reads a frame. `None` for everything that is not ARP for IPv4 over Ethernet.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Arp> {
    let frame = ethernet::parse(frame).filter(|frame| frame.ethertype == ETHERTYPE_ARP)?;
    let packet = frame.payload;
    if bytes_at::<6>(packet, 0)? != PREAMBLE {
        return None;
    }
    let operation = match be16_at(packet, 6)? {
        REQUEST => Operation::Request,
        REPLY => Operation::Reply,
        _ => return None,
    };
    Some(Arp {
        operation,
        sender_mac: Mac(bytes_at(packet, 8)?),
        sender_ip: bytes_at::<4>(packet, 14)?.into(),
        target_mac: Mac(bytes_at(packet, 18)?),
        target_ip: bytes_at::<4>(packet, 24)?.into(),
    })
}

/// Announcement as a request to everybody: SPA = TPA = `ip`, THA = broadcast.
#[must_use]
pub fn announce_request(mac: Mac, ip: Ipv4Addr) -> [u8; FRAME] {
    let target_mac = Mac::BROADCAST;
    Arp { operation: Operation::Request, sender_mac: mac, sender_ip: ip, target_mac, target_ip: ip }.frame(Mac::BROADCAST)
}

/// Announcement as a reply to everybody: SPA = TPA = `ip`, THA = SHA.
#[must_use]
pub fn announce_reply(mac: Mac, ip: Ipv4Addr) -> [u8; FRAME] {
    Arp { operation: Operation::Reply, sender_mac: mac, sender_ip: ip, target_mac: mac, target_ip: ip }.frame(Mac::BROADCAST)
}

/// Probe: asks for `ip` without naming a sender address, so that no cache changes (RFC 5227, 2.1.1).
#[must_use]
pub fn probe(mac: Mac, ip: Ipv4Addr) -> [u8; FRAME] {
    let sender_ip = Ipv4Addr::UNSPECIFIED;
    Arp { operation: Operation::Request, sender_mac: mac, sender_ip, target_mac: Mac::ZERO, target_ip: ip }.frame(Mac::BROADCAST)
}

/// A question for `gateway` that comes *from* `ip`: who answers must learn (or correct) the sender first.
#[must_use]
pub fn ask(mac: Mac, ip: Ipv4Addr, gateway: Ipv4Addr) -> [u8; FRAME] {
    let target_mac = Mac::ZERO;
    Arp { operation: Operation::Request, sender_mac: mac, sender_ip: ip, target_mac, target_ip: gateway }.frame(Mac::BROADCAST)
}

#[cfg(test)]
mod tests {
    use super::super::mutate;
    use super::*;

    const MAC: Mac = Mac([0x02, 0x42, 0x0a, 0, 0, 0x0b]);
    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 50);

    #[rustfmt::skip]
    const ANNOUNCEMENT: [u8; 42] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x42, 0x0a, 0, 0, 0x0b, 0x08, 0x06,
        0, 1, 0x08, 0, 6, 4, 0, 1,
        0x02, 0x42, 0x0a, 0, 0, 0x0b, 10, 0, 0, 50,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 10, 0, 0, 50,
    ];

    #[test]
    fn the_announcement_is_a_request_for_itself() {
        assert_eq!(announce_request(MAC, IP), ANNOUNCEMENT);
    }

    #[test]
    fn the_reply_names_itself_as_target() {
        let mut want = ANNOUNCEMENT;
        want[21] = 2;
        want[32..38].copy_from_slice(&MAC.0);
        assert_eq!(announce_reply(MAC, IP), want);
    }

    #[test]
    fn a_probe_has_no_sender_address() {
        let mut want = ANNOUNCEMENT;
        want[28..38].fill(0);
        assert_eq!(probe(MAC, IP), want);
    }

    #[test]
    fn the_gateway_is_asked_from_the_address() {
        let mut want = ANNOUNCEMENT;
        want[32..38].fill(0);
        want[38..42].copy_from_slice(&[10, 0, 0, 1]);
        assert_eq!(ask(MAC, IP, Ipv4Addr::new(10, 0, 0, 1)), want);
    }

    #[test]
    fn what_is_built_is_parsed_also_with_padding_and_tag() {
        let want = Arp { operation: Operation::Request, sender_mac: MAC, sender_ip: IP, target_mac: Mac::BROADCAST, target_ip: IP };
        assert_eq!(parse(&ANNOUNCEMENT), Some(want));
        let mut padded = ANNOUNCEMENT.to_vec();
        padded.resize(60, 0);
        assert_eq!(parse(&padded), Some(want));
        padded.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
        assert_eq!(parse(&padded), Some(want));
    }

    #[test]
    fn others_are_not_parsed() {
        for (at, value, what) in [(13, 0, "IPv4"), (15, 6, "not Ethernet"), (16, 0x86, "not IPv4"), (18, 8, "lengths"), (21, 3, "RARP")] {
            let mut frame = ANNOUNCEMENT;
            frame[at] = value;
            assert_eq!(parse(&frame), None, "{what}");
        }
    }

    #[test]
    fn a_claim_is_somebody_elses() {
        let arp = parse(&ANNOUNCEMENT).unwrap();
        assert!(arp.claims(IP, Mac([9; 6])));
        assert!(!arp.claims(IP, MAC));
        assert!(!arp.claims(Ipv4Addr::new(10, 0, 0, 51), Mac([9; 6])));
        assert!(!Arp { sender_mac: Mac::BROADCAST, ..arp }.claims(IP, MAC), "nobody can be everybody");
    }

    #[test]
    fn whatever_comes_does_not_panic() {
        mutate::everything(&ANNOUNCEMENT, 20_000, |bytes| {
            if let Some(arp) = parse(bytes) {
                let again = arp.frame(Mac::BROADCAST);
                assert_eq!(parse(&again), Some(arp));
            }
        });
    }
}
