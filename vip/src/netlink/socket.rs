//! A netlink socket: requests with their answers, notifications (netlink(7)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_timeout, Timeout};
use rustix::net::{bind, recvfrom, sendto, socket_with, AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::message::{Messages, Request, NLMSG_DONE, NLMSG_ERROR, NLM_F_DUMP_INTR};
use crate::error::Error;

/// The kernel answers while the request is sent. Who waits so long waits for nothing.
const ANSWER: Duration = Duration::from_millis(50);
/// The largest datagram of a dump.
const DATAGRAM: usize = 32 * 1024;
/// Room for notifications that come while nobody reads: some thousand.
const NOTICES: usize = 512 * 1024;
/// No answer has more datagrams: ten thousand interfaces or fifty thousand sockets.
const DATAGRAMS_MAX: usize = 1000;

/// Whether an answer has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complete {
    /// It has.
    Yes,
    /// The list changed meanwhile.
    No,
}

/// The socket, and room for one datagram.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket for requests, or, with groups, for notifications: that one never waits.
    pub(crate) fn open(protocol: Option<Protocol>, groups: u32) -> Result<Socket, Error> {
        Self::open_raw(protocol, groups).map_err(|errno| Error::kernel("opening a netlink socket", "CAP_NET_ADMIN", errno))
    }

    fn open_raw(protocol: Option<Protocol>, groups: u32) -> Result<Socket, Errno> {
        let flags = SocketFlags::CLOEXEC | if groups == 0 { SocketFlags::empty() } else { SocketFlags::NONBLOCK };
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        if groups == 0 {
            set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER))?;
        } else {
            set_socket_recv_buffer_size(&fd, NOTICES)?;
        }
        bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Socket { fd, sequence: 0, buffer: vec![0; DATAGRAM] })
    }

    /// Sends a request and hands every message of the answer to `each`, up to its end.
    ///
    /// `Complete::No` says that the list changed while it was read, so something may be missing. The error is the kernel's;
    /// `EAGAIN` when it said nothing in time.
    pub(crate) fn ask(&mut self, request: Request, mut each: impl FnMut(u16, &[u8])) -> Result<Complete, Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let mut complete = Complete::Yes;
        sendto(&self.fd, &request.finish(sequence), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        for _ in 0..DATAGRAMS_MAX {
            let datagram = match self.receive() {
                Ok(datagram) => datagram,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            // Answers to earlier questions, that we gave up, have other numbers.
            for message in Messages(datagram).filter(|message| message.sequence == sequence) {
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    complete = Complete::No;
                }
                match (message.kind, message.error()) {
                    (NLMSG_ERROR | NLMSG_DONE, Some(0)) | (NLMSG_DONE, None) => return Ok(complete),
                    (NLMSG_ERROR | NLMSG_DONE, Some(code)) => return Err(Errno::from_raw_os_error(code.saturating_neg().clamp(1, 4095))),
                    (NLMSG_ERROR, None) => return Err(Errno::PROTO),
                    (kind, _) => each(kind, message.payload),
                }
            }
        }
        Err(Errno::OVERFLOW)
    }

    /// One datagram of the kernel. What other processes send is dropped.
    pub(crate) fn receive(&mut self) -> Result<&[u8], Errno> {
        let (_, length, from) = recvfrom(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC)?;
        if length > self.buffer.len() {
            return Err(Errno::MSGSIZE);
        }
        let from_kernel = from.and_then(|from| SocketAddrNetlink::try_from(from).ok()).is_some_and(|from| from.pid() == 0);
        Ok(if from_kernel { &self.buffer[..length] } else { &[] })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
