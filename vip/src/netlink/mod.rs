//! Addresses, interfaces and their events through rtnetlink(7).
//!
//! The kernel handles a request while it is sent, so an answer is there at once; a receive timeout guards against the impossible.

pub(crate) mod message;
pub(crate) mod socket;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::Protocol;

use crate::error::Error;
pub use message::{Assigned, Link};
use message::{Messages, NewAddress, RTM_DELADDR, RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE};
use socket::{Complete, Socket};

/// `NETLINK_ROUTE` is 0, which is what no protocol means.
const ROUTE: Option<Protocol> = None;
const ADMIN: &str = "CAP_NET_ADMIN";
/// `RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR` (linux/rtnetlink.h).
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// Documentation addresses (RFC 5737, RFC 3849): the way to them is the default route.
const OUTSIDE4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const OUTSIDE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// A connection to the kernel for requests.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// Opens it, in the network namespace of the calling thread. Needs no capability.
    ///
    /// # Errors
    /// The kernel's, such as no file descriptor left.
    pub fn open() -> Result<Netlink, Error> {
        Ok(Netlink { socket: Socket::open(ROUTE, 0)? })
    }

    /// The interface of this name.
    ///
    /// # Errors
    /// [`Error::NoInterface`], [`Error::BadName`].
    pub fn link(&mut self, name: &str) -> Result<Link, Error> {
        check_name(name)?;
        let mut found = None;
        let answer = self.socket.ask(message::get_link(name), |kind, payload| {
            if kind == RTM_NEWLINK {
                found = message::parse_link(payload);
            }
        });
        match (answer, found) {
            (Ok(_), Some(link)) => Ok(link),
            (Err(Errno::NODEV), _) | (Ok(_), None) => Err(Error::NoInterface { interface: name.to_owned() }),
            (Err(errno), _) => Err(Error::kernel(format!("looking for interface {name}"), ADMIN, errno)),
        }
    }

    /// All interfaces.
    ///
    /// # Errors
    /// The kernel's.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let mut found = Vec::new();
        let answer = self.socket.ask(message::dump_links(), |kind, payload| {
            if kind == RTM_NEWLINK {
                found.extend(message::parse_link(payload));
            }
        });
        answer.map_err(|errno| Error::kernel("listing the network interfaces", ADMIN, errno))?;
        Ok(found)
    }

    /// All addresses of the family of `like`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn addresses(&mut self, like: IpAddr) -> Result<Vec<Assigned>, Error> {
        let mut found = Vec::new();
        self.each_address(like, |one| found.push(one))?;
        Ok(found)
    }

    /// Every place where `ip` is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn places(&mut self, ip: IpAddr) -> Result<Vec<Assigned>, Error> {
        /// A list that changes while it is read is read again, so often.
        const ATTEMPTS: u32 = 4;
        let mut found = Vec::new();
        for _ in 0..ATTEMPTS {
            let complete = self.each_address(ip, |one| {
                if one.ip == ip && !found.contains(&one) {
                    found.push(one);
                }
            })?;
            if complete == Complete::Yes {
                break;
            }
        }
        Ok(found)
    }

    fn each_address(&mut self, like: IpAddr, mut each: impl FnMut(Assigned)) -> Result<Complete, Error> {
        let answer = self.socket.ask(message::dump_addresses(message::family(like)), |kind, payload| {
            if kind == RTM_NEWADDR {
                message::parse_address(payload).into_iter().for_each(&mut each);
            }
        });
        answer.map_err(|errno| Error::kernel("listing the addresses", ADMIN, errno))
    }

    /// Adds an address to an interface, or renews it.
    pub(crate) fn add(&mut self, new: &NewAddress<'_>, interface: &str) -> Result<(), Error> {
        let answer = self.socket.ask(message::new_address(new), |_, _| ());
        match answer {
            // A kernel that does not replace says that it is there; one older than 3.9 has no lifetimes either.
            Ok(_) | Err(Errno::EXIST) => Ok(()),
            Err(Errno::NODEV) => Err(Error::NoInterface { interface: interface.to_owned() }),
            Err(Errno::ACCESS | Errno::OPNOTSUPP) if new.ip.is_ipv6() => Err(Error::Ipv6Off { interface: interface.to_owned() }),
            Err(errno) => Err(Error::kernel(format!("adding {}/{} to {interface}", new.ip, new.prefix), ADMIN, errno)),
        }
    }

    /// Removes an address from an interface. `false` when it was not there.
    ///
    /// # Errors
    /// [`Error::Capability`] without CAP_NET_ADMIN; the kernel's.
    pub fn delete(&mut self, ip: IpAddr, prefix: u8, interface: u32) -> Result<bool, Error> {
        match self.socket.ask(message::delete_address(ip, prefix, interface), |_, _| ()) {
            Ok(_) => Ok(true),
            Err(Errno::ADDRNOTAVAIL | Errno::NODEV | Errno::NXIO) => Ok(false),
            Err(errno) => Err(Error::kernel(format!("removing {ip}/{prefix}"), ADMIN, errno)),
        }
    }

    /// Removes an address from wherever it is, with whatever prefix. The number of places.
    ///
    /// # Errors
    /// As [`delete`](Self::delete).
    pub fn delete_everywhere(&mut self, ip: IpAddr) -> Result<usize, Error> {
        let mut removed = 0;
        for one in self.places(ip)? {
            removed += usize::from(self.delete(one.ip, one.prefix, one.interface)?);
        }
        Ok(removed)
    }

    /// Whether this process may change addresses. Asks for something impossible: the kernel checks the right first.
    ///
    /// # Errors
    /// [`Error::Capability`].
    pub fn check_admin(&mut self) -> Result<(), Error> {
        match self.socket.ask(message::delete_address(OUTSIDE4, 32, 0), |_, _| ()) {
            Err(Errno::PERM) => Err(Error::kernel("changing addresses", ADMIN, Errno::PERM)),
            _ => Ok(()),
        }
    }

    /// Whether packets to `ip` are taken in by this host.
    pub fn is_local(&mut self, ip: IpAddr) -> bool {
        let mut local = false;
        let answer = self.socket.ask(message::get_route(ip, 0), |kind, payload| {
            if kind == RTM_NEWROUTE {
                local = message::parse_is_local(payload);
            }
        });
        answer.is_ok() && local
    }

    /// The gateway of the default route through an interface, in the family of `like`. `None` when there is none.
    pub fn gateway(&mut self, like: IpAddr, interface: u32) -> Option<IpAddr> {
        let outside = if like.is_ipv4() { OUTSIDE4 } else { OUTSIDE6 };
        let mut found = None;
        let answer = self.socket.ask(message::get_route(outside, interface), |kind, payload| {
            if kind == RTM_NEWROUTE {
                found = message::parse_gateway(payload);
            }
        });
        found.filter(|(ip, index)| answer.is_ok() && *index == interface && ip.is_ipv4() == like.is_ipv4()).map(|(ip, _)| ip)
    }
}

/// Whether a text can be an interface's name (`dev_valid_name` of the kernel).
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0';
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(bad) {
        return Err(Error::BadName { interface: name.to_owned() });
    }
    Ok(())
}

/// What the kernel says by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// An interface is there, with these properties.
    Link(Link),
    /// An interface has gone.
    LinkGone(Link),
    /// An address has gone.
    AddressGone(Assigned),
    /// More happened than the buffer could keep.
    Lost,
}

/// A subscription to interfaces and addresses.
#[derive(Debug)]
pub(crate) struct Notices {
    socket: Socket,
}

impl Notices {
    /// Subscribes.
    pub(crate) fn open() -> Result<Notices, Error> {
        Ok(Notices { socket: Socket::open(ROUTE, GROUPS)? })
    }

    /// Hands everything that has arrived to `each`, without waiting.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(Notice)) {
        /// More datagrams than that at a time are left for the next call.
        const AT_ONCE: usize = 1024;
        for _ in 0..AT_ONCE {
            match self.socket.receive() {
                Ok(datagram) => Messages(datagram).filter_map(|one| notice(one.kind, one.payload)).for_each(&mut each),
                Err(Errno::NOBUFS | Errno::MSGSIZE) => each(Notice::Lost),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads one message of a subscription.
fn notice(kind: u16, payload: &[u8]) -> Option<Notice> {
    match kind {
        RTM_NEWLINK => message::parse_link(payload).map(Notice::Link),
        RTM_DELLINK => message::parse_link(payload).map(Notice::LinkGone),
        RTM_DELADDR => message::parse_address(payload).map(Notice::AddressGone),
        _ => None,
    }
}
