//! Ends the TCP sessions of an address (`SOCK_DESTROY` of sock_diag(7)).
//!
//! A server process whose client's address has moved away keeps its session for minutes: the peer answers nothing any more. Ending
//! the socket wakes it at once with `ECONNABORTED`. Sockets that listen are left alone: they belong to the server, not to a session.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;
use rustix::net::netlink::SOCK_DIAG;

use crate::error::Error;
use crate::netlink::message::{Request, AF_INET, AF_INET6, NLM_F_ACK, NLM_F_DUMP};
use crate::netlink::socket::Socket;
use crate::wire::bytes_at;

/// Message types of linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const IPPROTO_TCP: u8 = 6;
/// All states of net/tcp_states.h but TIME_WAIT (6), CLOSE (7) and LISTEN (10).
const STATES: u32 = 0x1fff & !(1 | 1 << 6 | 1 << 7 | 1 << 10);
/// Length of `struct inet_diag_sockid`, which both directions share.
const ID: usize = 48;

/// What became of the sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destroyed {
    /// So many were ended.
    Sessions(usize),
    /// This kernel cannot end sessions of others (it was built without `CONFIG_INET_DIAG_DESTROY`), or cannot list them
    /// (`CONFIG_INET_DIAG`). They end when their TCP gives up.
    Unsupported,
}

/// A connection to the kernel for this purpose.
#[derive(Debug)]
pub struct Destroyer {
    socket: Socket,
}

impl Destroyer {
    /// Opens it, in the network namespace of the calling thread. Needs no capability.
    ///
    /// # Errors
    /// The kernel's, such as no file descriptor left.
    pub fn open() -> Result<Destroyer, Error> {
        Ok(Destroyer { socket: Socket::open(Some(SOCK_DIAG), 0)? })
    }

    /// Ends all TCP sessions whose local address is `ip`, IPv4 ones on IPv6 sockets included.
    ///
    /// # Errors
    /// [`Error::Capability`] without CAP_NET_ADMIN, when there is anything to end.
    pub fn destroy(&mut self, ip: IpAddr) -> Result<Destroyed, Error> {
        match self.destroy_raw(ip) {
            Ok(count) => Ok(Destroyed::Sessions(count)),
            Err(Errno::OPNOTSUPP | Errno::NOENT | Errno::INVAL | Errno::PROTONOSUPPORT) => Ok(Destroyed::Unsupported),
            Err(errno) => Err(Error::kernel(format!("ending the sessions of {ip}"), "CAP_NET_ADMIN", errno)),
        }
    }

    fn destroy_raw(&mut self, ip: IpAddr) -> Result<usize, Errno> {
        let mut ended = 0;
        // IPv4 sessions may live on IPv6 sockets, not the other way round.
        let families: &[u8] = if ip.is_ipv4() { &[AF_INET, AF_INET6] } else { &[AF_INET6] };
        for family in families {
            let mut found: Vec<[u8; ID]> = Vec::new();
            let listing = self.socket.ask(request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, *family, STATES, &[0; ID]), |kind, payload| {
                if kind == SOCK_DIAG_BY_FAMILY {
                    found.extend(session(payload, ip));
                }
            });
            match listing {
                Ok(_) => {}
                // A kernel without IPv6.
                Err(Errno::NOENT | Errno::AFNOSUPPORT) if ended > 0 || ip.is_ipv4() && *family == AF_INET6 => continue,
                Err(errno) => return Err(errno),
            }
            for id in found {
                match self.socket.ask(request(SOCK_DESTROY, NLM_F_ACK, *family, STATES, &id), |_, _| ()) {
                    Ok(_) => ended += 1,
                    // It ended by itself meanwhile.
                    Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        Ok(ended)
    }
}

/// `struct inet_diag_req_v2` of linux/inet_diag.h.
fn request(kind: u16, flags: u16, family: u8, states: u32, id: &[u8; ID]) -> Request {
    let mut fixed = [0; 8 + ID];
    fixed[0] = family;
    fixed[1] = IPPROTO_TCP;
    fixed[4..8].copy_from_slice(&states.to_ne_bytes());
    fixed[8..].copy_from_slice(id);
    Request::new(kind, flags, &fixed)
}

/// The identity in a `struct inet_diag_msg`, when its local address is `ip`.
fn session(payload: &[u8], ip: IpAddr) -> Option<[u8; ID]> {
    let family = *payload.first()?;
    let id: [u8; ID] = bytes_at(payload, 4)?;
    let local = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::from(bytes_at::<4>(&id, 4)?)),
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(bytes_at::<16>(&id, 4)?)).to_canonical(),
        _ => return None,
    };
    (local == ip.to_canonical()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mutate;

    fn message(family: u8, local: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 72];
        bytes[0] = family;
        bytes[1] = 1;
        bytes[4..8].copy_from_slice(&[0x15, 0x38, 0xc0, 0x01]);
        bytes[8..8 + local.len()].copy_from_slice(local);
        bytes[44..52].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        bytes
    }

    #[test]
    fn sessions_are_told_by_their_local_address() {
        let ip: IpAddr = "10.0.0.50".parse().unwrap();
        let four = message(AF_INET, &[10, 0, 0, 50]);
        assert_eq!(session(&four, ip).unwrap()[..], four[4..52]);
        assert_eq!(session(&four, "10.0.0.51".parse().unwrap()), None);
        let mapped = message(AF_INET6, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 50]);
        assert!(session(&mapped, ip).is_some(), "IPv4 on an IPv6 socket");
        assert_eq!(session(&message(1, &[10, 0, 0, 50]), ip), None);
    }

    #[test]
    fn the_request_is_as_the_header_says() {
        let bytes = request(SOCK_DESTROY, NLM_F_ACK, AF_INET, STATES, &[7; ID]).finish(9);
        assert_eq!(bytes.len(), 72);
        assert_eq!(bytes[16..18], [2, 6]);
        assert_eq!(STATES, 0b1_1011_0011_1110);
        assert_eq!(bytes[24..], [7; ID]);
    }

    #[test]
    fn whatever_comes_does_not_panic() {
        let ip: IpAddr = "10.0.0.50".parse().unwrap();
        mutate::everything(&message(AF_INET, &[10, 0, 0, 50]), 5_000, |bytes| assert!(session(bytes, ip).is_none_or(|id| id.len() == ID)));
    }
}
