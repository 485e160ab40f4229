//! Frames to and from one interface (packet(7)).
//!
//! One socket does both: it is opened once, which is when CAP_NET_RAW is needed, and bound to whatever interface has the address.
//! A filter in the kernel lets through only what concerns the address, so a busy network does not wake the process.
// JUSTIFICATION: neither rustix nor std knows `struct sockaddr_ll` and `SO_ATTACH_FILTER`; both are passed to the kernel here and nowhere else.
#![allow(unsafe_code)]

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{bind, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::Error;
use crate::wire::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV6};
use crate::wire::{arp, ndp, Mac};

/// Longer frames are no neighbour messages; their rest is cut off.
const FRAME_MAX: usize = 512;

/// `struct sockaddr_ll` for a bind: protocol and interface.
struct LinkAddress(libc::sockaddr_ll);

impl LinkAddress {
    fn new(ethertype: u16, interface: u32) -> LinkAddress {
        LinkAddress(libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::c_ushort,
            sll_protocol: ethertype.to_be(),
            sll_ifindex: i32::try_from(interface).unwrap_or(0),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        })
    }
}

// SAFETY: the pointer is to an initialised `sockaddr_ll` that lives during the call, the length is that of the structure, and its
// family is AF_PACKET, for which the kernel reads exactly this structure.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f(std::ptr::from_ref(&self.0).cast(), size_of::<libc::sockaddr_ll>() as SocketAddrLen)
    }
}

/// Gives the socket a classic BPF program.
fn attach(fd: BorrowedFd<'_>, program: &[libc::sock_filter]) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        // The kernel only reads it.
        filter: program.as_ptr().cast_mut(),
    };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the descriptor is open (borrowed), `program` points to `len` initialised instructions that live during the call, and
    // the length is that of the structure. The kernel copies both.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, std::ptr::from_ref(&program).cast(), length) };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

/// Who else has the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The hardware address that said so.
    pub mac: Mac,
}

/// A socket for the neighbour messages about one address.
#[derive(Debug)]
pub struct Frames {
    fd: OwnedFd,
    ip: IpAddr,
    interface: Option<u32>,
}

impl Frames {
    /// Opens it, in the network namespace of the calling thread, bound to nothing.
    ///
    /// # Errors
    /// [`Error::Capability`] without CAP_NET_RAW.
    pub fn open(ip: IpAddr) -> Result<Frames, Error> {
        let failed = |errno| Error::kernel(format!("opening a raw socket to announce {ip}"), "CAP_NET_RAW", errno);
        // No protocol yet: nothing arrives before the filter is there.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None).map_err(failed)?;
        let program = match ip {
            IpAddr::V4(ip) => filter_arp(ip),
            IpAddr::V6(ip) => filter_advertisement(ip),
        };
        attach(fd.as_fd(), &program).map_err(failed)?;
        Ok(Frames { fd, ip, interface: None })
    }

    /// Speaks and listens on this interface from now on. Needs no capability.
    ///
    /// # Errors
    /// The kernel's, such as `ENODEV`.
    pub fn bind(&mut self, interface: u32) -> Result<(), Error> {
        if self.interface == Some(interface) {
            return Ok(());
        }
        let ethertype = if self.ip.is_ipv4() { ETHERTYPE_ARP } else { ETHERTYPE_IPV6 };
        bind(&self.fd, &LinkAddress::new(ethertype, interface)).map_err(|errno| self.failed("binding the raw socket of", errno))?;
        self.interface = Some(interface);
        Ok(())
    }

    /// Sends a frame without waiting.
    ///
    /// # Errors
    /// The kernel's, such as `ENETDOWN`.
    pub fn send(&self, frame: &[u8]) -> Result<(), Error> {
        let sent = match send(&self.fd, frame, SendFlags::DONTWAIT) {
            // An error that waited for us, such as that the interface had been down: it is told once.
            Err(Errno::NETDOWN) => send(&self.fd, frame, SendFlags::DONTWAIT),
            other => other,
        };
        sent.map(drop).map_err(|errno| self.failed("announcing", errno))
    }

    /// The next claim of somebody else than `own` that has arrived. `None` when there is no more.
    pub fn next_claim(&self, own: Mac) -> Option<Claim> {
        /// Frames that are looked at in one call: a flood does not hold the caller.
        const AT_ONCE: usize = 256;
        let mut buffer = [0_u8; FRAME_MAX];
        for _ in 0..AT_ONCE {
            let length = match recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, length)) => length.min(FRAME_MAX),
                Err(Errno::INTR | Errno::NETDOWN) => continue,
                Err(_) => return None,
            };
            if let Some(claim) = claim(buffer.get(..length)?, self.ip, own) {
                return Some(claim);
            }
        }
        None
    }

    fn failed(&self, what: &str, errno: Errno) -> Error {
        Error::kernel(format!("{what} {}", self.ip), "CAP_NET_RAW", errno)
    }
}

impl AsFd for Frames {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Who claims `ip` in a frame.
fn claim(frame: &[u8], ip: IpAddr, own: Mac) -> Option<Claim> {
    match ip {
        IpAddr::V4(ip) => arp::parse(frame).filter(|arp| arp.claims(ip, own)).map(|arp| Claim { mac: arp.sender_mac }),
        IpAddr::V6(ip) => ndp::parse(frame).filter(|one| one.claims(ip, own)).map(|one| Claim { mac: one.speaker() }),
    }
}

/// Loads of classic BPF (linux/filter.h): a word, a half word, a byte at an absolute offset; compare; return.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Where a program finds to whom a frame was sent (`SKF_AD_OFF + SKF_AD_PKTTYPE`).
const PACKET_TYPE: u32 = 0xffff_f004;
/// `PACKET_OTHERHOST`: also given to frames of VLANs that are not configured here, and those say nothing about our network.
const OTHER_HOST: u32 = 3;

/// A program that accepts a frame that may be for us when all of (how to load, offset, value) agree.
fn all_of(conditions: &[(u16, u32, u32)]) -> Vec<libc::sock_filter> {
    let mut program = Vec::with_capacity(conditions.len() * 2 + 4);
    let away = u8::try_from(conditions.len() * 2 + 1).unwrap_or(u8::MAX);
    program.push(libc::sock_filter { code: LOAD_BYTE, jt: 0, jf: 0, k: PACKET_TYPE });
    program.push(libc::sock_filter { code: JUMP_EQUAL, jt: away, jf: 0, k: OTHER_HOST });
    for (number, (load, offset, value)) in conditions.iter().enumerate() {
        // To the last instruction: over the rest of the comparisons and the accepting return.
        let away = u8::try_from((conditions.len() - number - 1) * 2 + 1).unwrap_or(u8::MAX);
        program.push(libc::sock_filter { code: *load, jt: 0, jf: 0, k: *offset });
        program.push(libc::sock_filter { code: JUMP_EQUAL, jt: 0, jf: away, k: *value });
    }
    program.push(libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: FRAME_MAX as u32 });
    program.push(libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: 0 });
    program
}

/// ARP whose sender address is `ip`.
fn filter_arp(ip: Ipv4Addr) -> Vec<libc::sock_filter> {
    all_of(&[(LOAD_HALF, 12, u32::from(ETHERTYPE_ARP)), (LOAD_WORD, 28, u32::from(ip))])
}

/// Neighbour advertisements about `ip`.
fn filter_advertisement(ip: Ipv6Addr) -> Vec<libc::sock_filter> {
    let word = |n: usize| ip.octets().iter().skip(n * 4).take(4).fold(0, |word, octet| word << 8 | u32::from(*octet));
    all_of(&[
        (LOAD_HALF, 12, u32::from(ETHERTYPE_IPV6)),
        (LOAD_BYTE, 20, u32::from(ndp::ICMPV6)),
        (LOAD_BYTE, 54, u32::from(ndp::ADVERTISEMENT)),
        (LOAD_WORD, 62, word(0)),
        (LOAD_WORD, 66, word(1)),
        (LOAD_WORD, 70, word(2)),
        (LOAD_WORD, 74, word(3)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program of these five instructions.
    fn accepts(program: &[libc::sock_filter], frame: &[u8]) -> bool {
        accepts_for(program, frame, 1)
    }

    fn accepts_for(program: &[libc::sock_filter], frame: &[u8], packet_type: u32) -> bool {
        let (mut at, mut a) = (0, 0_u32);
        loop {
            let one = &program[at];
            let k = one.k as usize;
            let wide = |n: usize| frame.get(k..k + n).map(|bytes| bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)));
            let loaded = match one.code {
                LOAD_WORD => wide(4),
                LOAD_HALF => wide(2),
                LOAD_BYTE if one.k == PACKET_TYPE => Some(packet_type),
                LOAD_BYTE => wide(1),
                JUMP_EQUAL => {
                    at += usize::from(if a == one.k { one.jt } else { one.jf });
                    Some(a)
                }
                _ => return one.k != 0,
            };
            let Some(loaded) = loaded else { return false };
            a = loaded;
            at += 1;
        }
    }

    #[test]
    fn the_filters_pass_claims_only() {
        let (mac, ip) = (Mac([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(10, 0, 0, 50));
        let program = filter_arp(ip);
        assert!(accepts(&program, &arp::announce_request(mac, ip)) && accepts(&program, &arp::announce_reply(mac, ip)));
        assert!(!accepts(&program, &arp::probe(mac, ip)));
        assert!(!accepts(&program, &arp::announce_request(mac, Ipv4Addr::new(10, 0, 0, 51))));
        assert!(!accepts(&program, &[0xff; 13]));
        assert!(!accepts_for(&program, &arp::announce_request(mac, ip), OTHER_HOST), "a VLAN that is not ours");

        let ip: Ipv6Addr = "2001:db8:1:2:3:4:5:50".parse().unwrap();
        let program = filter_advertisement(ip);
        assert!(accepts(&program, &ndp::announce(mac, ip, true)));
        assert!(!accepts(&program, &ndp::probe(mac, ip)));
        assert!(!accepts(&program, &ndp::announce(mac, "2001:db8:1:2:3:4:5:51".parse().unwrap(), true)));
        assert!(!accepts(&program, &ndp::announce(mac, "2001:db8:9:2:3:4:5:50".parse().unwrap(), true)));
    }

    #[test]
    fn a_claim_is_read_from_both_families() {
        let (mac, own) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let four = Ipv4Addr::new(10, 0, 0, 50);
        let six: Ipv6Addr = "2001:db8::50".parse().unwrap();
        assert_eq!(claim(&arp::announce_reply(mac, four), four.into(), own), Some(Claim { mac }));
        assert_eq!(claim(&arp::announce_reply(own, four), four.into(), own), None);
        assert_eq!(claim(&ndp::announce(mac, six, false), six.into(), own), Some(Claim { mac }));
        assert_eq!(claim(&ndp::announce(mac, six, false), four.into(), own), None);
    }
}
