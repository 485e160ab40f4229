//! Netlink messages as bytes, without I/O: `struct nlmsghdr` and attributes (linux/netlink.h), interfaces, addresses and routes
//! (linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h).
//!
//! Own code instead of a crate: measured, the packet crates add about 500 kB to a static binary; these five messages add a few.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use crate::wire::{bytes_at, Mac};

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_GETADDR: u16 = 22;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_GETROUTE: u16 = 26;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_CREATE: u16 = 0x400;

/// `AF_UNSPEC`, `AF_INET`, `AF_BRIDGE`, `AF_INET6` of Linux.
pub(crate) const AF_UNSPEC: u8 = 0;
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_BRIDGE: u8 = 7;
pub(crate) const AF_INET6: u8 = 10;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_EVENT: u16 = 44;
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_CONF: u16 = 2;
/// No counters in the answer: they are the larger half of it.
const RTEXT_FILTER_SKIP_STATS: u32 = 8;

/// Places in the array of `IFLA_INET_CONF` (linux/ip.h, counted from 1) and `IFLA_INET6_CONF` (linux/ipv6.h, from 0).
const PROMOTE_SECONDARIES: usize = 19;
const FORWARDING6: usize = 0;
const DISABLE_IPV6: usize = 26;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
/// No duplicate address detection: it would hold an IPv6 address back for a second (our own probe runs before).
const IFA_F_NODAD: u32 = 0x02;
/// No route to the subnet.
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
/// Who added the address, shown by `ip address` as `proto 0x6d` since Linux 5.18; older kernels ignore it.
pub(crate) const PROTOCOL: u8 = 0x6d;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

const IFF_UP: u32 = 0x1;
const IFF_RUNNING: u32 = 0x40;
const IFF_NOARP: u32 = 0x80;
const IFF_LOWER_UP: u32 = 0x1_0000;
/// `ARPHRD_ETHER`.
const HARDWARE_ETHERNET: u16 = 1;
/// `BR_STATE_FORWARDING`.
const BRIDGE_FORWARDING: u8 = 3;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_ne_bytes)
}

/// A length rounded up to the alignment of netlink.
const fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// `AF_INET` or `AF_INET6`.
pub(crate) const fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// The octets of an address.
fn octets(ip: IpAddr) -> ([u8; 16], usize) {
    let mut bytes = [0; 16];
    match ip {
        IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes = ip.octets(),
    }
    (bytes, if ip.is_ipv4() { 4 } else { 16 })
}

/// A request being written.
pub(crate) struct Request(Vec<u8>);

impl Request {
    /// The header, and the fixed part that follows it.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Request {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(fixed);
        Request(bytes)
    }

    /// Adds an attribute.
    fn with(mut self, kind: u16, value: &[u8]) -> Request {
        self.0.resize(align(self.0.len()), 0);
        self.0.extend((value.len() as u16 + 4).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(align(self.0.len()), 0);
        self
    }

    /// Adds an attribute with an address.
    fn with_ip(self, kind: u16, ip: IpAddr) -> Request {
        let (bytes, length) = octets(ip);
        self.with(kind, &bytes[..length])
    }

    /// The bytes, with length and sequence number set.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = (self.0.len() as u32).to_ne_bytes();
        self.0[..4].copy_from_slice(&length);
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// A message of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

impl Message<'_> {
    /// For [`NLMSG_ERROR`]: the error number, 0 for an acknowledgement. For [`NLMSG_DONE`]: how a dump ended.
    pub(crate) fn error(&self) -> Option<i32> {
        bytes_at(self.payload, 0).map(i32::from_ne_bytes)
    }
}

/// The messages of a datagram, up to the first broken one.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = u32_at(self.0, 0)? as usize;
        let payload = self.0.get(HEADER..length)?;
        let message = Message { kind: u16_at(self.0, 4)?, flags: u16_at(self.0, 6)?, sequence: u32_at(self.0, 8)?, payload };
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some(message)
    }
}

/// The attributes of a message, up to the first broken one.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = usize::from(u16_at(self.0, 0)?);
        let value = self.0.get(4..length)?;
        // The two highest bits say "nested" and "network order".
        let kind = u16_at(self.0, 2)? & 0x3fff;
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, when it is an Ethernet one.
    pub mac: Option<Mac>,
    /// `IFF_*`.
    pub flags: u32,
    /// `vlan`, `bridge`, `bond`, `veth`…; empty for most hardware.
    pub kind: String,
    /// Number of the bridge or bond that it belongs to.
    pub master: Option<u32>,
    /// Number of the interface below it, of a VLAN.
    pub lower: Option<u32>,
    /// Whether it forwards IPv6 packets (`net.ipv6.conf.*.forwarding`).
    pub forwards6: bool,
    /// Whether IPv6 is switched off (`net.ipv6.conf.*.disable_ipv6`), or not there at all.
    pub ipv6_off: bool,
    /// Whether an address takes over when the first one of its subnet goes (`net.ipv4.conf.*.promote_secondaries`, this interface's own).
    pub promotes: bool,
    /// `ARPHRD_*`.
    pub(crate) hardware: u16,
    /// `IFLA_EVENT_*` of a notification, 0 otherwise.
    pub(crate) event: u32,
    /// `AF_UNSPEC`, or `AF_BRIDGE` when a bridge speaks about its port.
    pub(crate) family: u8,
    /// Whether its bridge lets it forward; only with family `AF_BRIDGE`.
    pub(crate) bridge_forwards: bool,
}

impl Link {
    /// Whether it is switched on.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }

    /// Whether packets can leave: up, with carrier, and not held back (802.1X, a bond without slaves).
    #[must_use]
    pub fn is_running(&self) -> bool {
        let all = IFF_UP | IFF_RUNNING | IFF_LOWER_UP;
        self.flags & all == all
    }

    /// Whether neighbours find each other with ARP and neighbour discovery there: Ethernet and its like.
    #[must_use]
    pub fn has_neighbours(&self) -> bool {
        self.hardware == HARDWARE_ETHERNET && self.flags & IFF_NOARP == 0 && self.mac.is_some()
    }
}

/// Asks for one interface by its name.
pub(crate) fn get_link(name: &str) -> Request {
    let mut terminated = name.as_bytes().to_vec();
    terminated.push(0);
    Request::new(RTM_GETLINK, NLM_F_ACK, &[0; 16])
        .with(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes())
        .with(IFLA_IFNAME, &terminated)
}

/// Asks for all interfaces.
pub(crate) fn dump_links() -> Request {
    Request::new(RTM_GETLINK, NLM_F_DUMP, &[0; 16]).with(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes())
}

/// Reads an [`RTM_NEWLINK`] or [`RTM_DELLINK`].
pub(crate) fn parse_link(payload: &[u8]) -> Option<Link> {
    let mut link = Link {
        family: *payload.first()?,
        hardware: u16_at(payload, 2)?,
        index: u32_at(payload, 4)?,
        flags: u32_at(payload, 8)?,
        ipv6_off: true,
        ..Link::default()
    };
    for (kind, value) in Attributes(payload.get(16..)?) {
        match kind {
            IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
            IFLA_IFNAME => link.name = text(value),
            IFLA_LINK => link.lower = u32_at(value, 0),
            IFLA_MASTER => link.master = u32_at(value, 0).filter(|master| *master != 0),
            IFLA_PROTINFO if link.family == AF_BRIDGE => link.bridge_forwards = bridge_forwards(value),
            IFLA_LINKINFO => link.kind = attribute(value, IFLA_INFO_KIND).map(text).unwrap_or_default(),
            IFLA_AF_SPEC if link.family == AF_UNSPEC => switches(&mut link, value),
            IFLA_EVENT => link.event = u32_at(value, 0).unwrap_or(0),
            _ => {}
        }
    }
    Some(link)
}

/// A nested attribute.
fn attribute(nest: &[u8], kind: u16) -> Option<&[u8]> {
    Attributes(nest).find(|(one, _)| *one == kind).map(|(_, value)| value)
}

fn bridge_forwards(nest: &[u8]) -> bool {
    attribute(nest, IFLA_BRPORT_STATE).and_then(<[u8]>::first) == Some(&BRIDGE_FORWARDING)
}

/// The per-family switches of an interface (`net.ipv4.conf`, `net.ipv6.conf`).
fn switches(link: &mut Link, families: &[u8]) {
    let on = |table: &[u8], place: usize| u32_at(table, place * 4).is_some_and(|value| value != 0);
    for (family, nest) in Attributes(families) {
        if family == u16::from(AF_INET) {
            link.promotes = attribute(nest, IFLA_INET_CONF).is_some_and(|table| on(table, PROMOTE_SECONDARIES));
        } else if family == u16::from(AF_INET6) {
            let table = attribute(nest, IFLA_INET6_CONF).unwrap_or_default();
            link.forwards6 = on(table, FORWARDING6);
            link.ipv6_off = on(table, DISABLE_IPV6);
        }
    }
}

/// A text up to its terminating zero.
fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// An address on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix, in bits.
    pub prefix: u8,
    /// Number of its interface.
    pub interface: u32,
    /// `IFA_F_*`.
    pub flags: u32,
    /// Seconds until the kernel removes it; `None` is for ever.
    pub valid: Option<u32>,
    /// Its label, IPv4 only.
    pub label: String,
    /// Whether this crate added it (needs Linux 5.18).
    pub ours: bool,
}

impl Assigned {
    /// Whether this is the first address of the IPv4 subnet that `other` with this prefix is in, the one that carries the subnet's route.
    #[must_use]
    pub fn is_first_of(&self, other: IpAddr, prefix: u8) -> bool {
        /// `IFA_F_SECONDARY` of linux/if_addr.h.
        const SECONDARY: u32 = 1;
        let (IpAddr::V4(own), IpAddr::V4(other)) = (self.ip, other) else { return false };
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        self.flags & SECONDARY == 0 && self.prefix == prefix && own.to_bits() & mask == other.to_bits() & mask
    }
}

/// What to add.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewAddress<'a> {
    pub(crate) ip: IpAddr,
    pub(crate) prefix: u8,
    pub(crate) interface: u32,
    pub(crate) label: Option<&'a str>,
    pub(crate) no_prefix_route: bool,
    /// IPv6: it may be the source of new connections.
    pub(crate) preferred: bool,
    /// Seconds; `None` is for ever.
    pub(crate) valid: Option<u32>,
}

/// `struct ifaddrmsg`.
fn address_header(ip: IpAddr, prefix: u8, interface: u32) -> [u8; 8] {
    let [a, b, c, d] = interface.to_ne_bytes();
    [family(ip), prefix, 0, 0, a, b, c, d]
}

/// Adds an address, or renews it when it is there.
///
/// An IPv6 address gets a preferred lifetime of 0 unless it is wanted as the source of new connections.
pub(crate) fn new_address(new: &NewAddress<'_>) -> Request {
    let valid = new.valid.unwrap_or(crate::lifetime::FOREVER);
    let preferred = if new.ip.is_ipv6() && !new.preferred { 0 } else { valid };
    let mut cache = [0; 16];
    cache[..4].copy_from_slice(&preferred.to_ne_bytes());
    cache[4..8].copy_from_slice(&valid.to_ne_bytes());
    let flags = if new.ip.is_ipv6() { IFA_F_NODAD } else { 0 } | if new.no_prefix_route { IFA_F_NOPREFIXROUTE } else { 0 };
    let header = address_header(new.ip, new.prefix, new.interface);
    let mut request = Request::new(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &header)
        .with_ip(IFA_LOCAL, new.ip)
        .with_ip(IFA_ADDRESS, new.ip)
        .with(IFA_FLAGS, &flags.to_ne_bytes())
        .with(IFA_CACHEINFO, &cache)
        .with(IFA_PROTO, &[PROTOCOL]);
    if let Some(label) = new.label {
        let mut terminated = label.as_bytes().to_vec();
        terminated.push(0);
        request = request.with(IFA_LABEL, &terminated);
    }
    request
}

/// Removes an address.
pub(crate) fn delete_address(ip: IpAddr, prefix: u8, interface: u32) -> Request {
    Request::new(RTM_DELADDR, NLM_F_ACK, &address_header(ip, prefix, interface)).with_ip(IFA_LOCAL, ip).with_ip(IFA_ADDRESS, ip)
}

/// Asks for all addresses of a family.
pub(crate) fn dump_addresses(family: u8) -> Request {
    Request::new(RTM_GETADDR, NLM_F_DUMP, &[family, 0, 0, 0, 0, 0, 0, 0])
}

/// Reads an [`RTM_NEWADDR`] or [`RTM_DELADDR`].
pub(crate) fn parse_address(payload: &[u8]) -> Option<Assigned> {
    let (mut local, mut address, mut valid) = (None, None, None);
    let (mut label, mut ours) = (String::new(), false);
    let mut flags = u32::from(*payload.get(2)?);
    for (kind, value) in Attributes(payload.get(8..)?) {
        match kind {
            IFA_LOCAL => local = parse_ip(value),
            IFA_ADDRESS => address = parse_ip(value),
            IFA_LABEL => label = text(value),
            IFA_FLAGS => flags = u32_at(value, 0)?,
            IFA_CACHEINFO => valid = u32_at(value, 4).filter(|valid| *valid != crate::lifetime::FOREVER),
            IFA_PROTO => ours = value == [PROTOCOL],
            _ => {}
        }
    }
    // With a peer, the local one is ours; IPv6 without a peer has only the other attribute.
    let ip = local.or(address)?;
    Some(Assigned { ip, prefix: payload[1], interface: u32_at(payload, 4)?, flags, valid, label, ours })
}

/// An address by its length.
fn parse_ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => bytes_at::<4>(value, 0).map(IpAddr::from),
        16 => bytes_at::<16>(value, 0).map(IpAddr::from),
        _ => None,
    }
}

/// Asks which way packets to `to` take through an interface, or through any for 0.
pub(crate) fn get_route(to: IpAddr, interface: u32) -> Request {
    let bits = octets(to).1 as u8 * 8;
    let fixed = [family(to), bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    Request::new(RTM_GETROUTE, NLM_F_ACK, &fixed).with_ip(RTA_DST, to).with(RTA_OIF, &interface.to_ne_bytes())
}

/// Whether an [`RTM_NEWROUTE`] leads to this host itself.
pub(crate) fn parse_is_local(payload: &[u8]) -> bool {
    /// `RTN_LOCAL` (linux/rtnetlink.h).
    const LOCAL: u8 = 2;
    payload.get(7) == Some(&LOCAL)
}

/// The gateway of an [`RTM_NEWROUTE`], and the interface that leads to it.
pub(crate) fn parse_gateway(payload: &[u8]) -> Option<(IpAddr, u32)> {
    let attributes = payload.get(12..)?;
    let gateway = attribute(attributes, RTA_GATEWAY).and_then(parse_ip)?;
    Some((gateway, attribute(attributes, RTA_OIF).and_then(|value| u32_at(value, 0))?))
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
