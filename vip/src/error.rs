//! What can go wrong, each with its way out.

use rustix::io::Errno;

/// An error of this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such network interface.
    #[error("there is no network interface {interface} here; `ip link` lists those that are")]
    NoInterface {
        /// Its name, or its number.
        interface: String,
    },
    /// A name that no interface can have.
    #[error("{interface:?} cannot be the name of a network interface: 1 to 15 characters without blanks and slashes")]
    BadName {
        /// What was given.
        interface: String,
    },
    /// A prefix length that the family does not have.
    #[error("/{prefix} is no prefix length for {ip}; leave it out for the single address")]
    BadPrefix {
        /// The address.
        ip: std::net::IpAddr,
        /// What was given.
        prefix: u8,
    },
    /// A label that the kernel does not take.
    #[error("{label:?} cannot label an address of {interface}: 1 to 15 characters, and IPv4 only")]
    BadLabel {
        /// What was given.
        label: String,
        /// The interface.
        interface: String,
    },
    /// A capability is missing.
    #[error(
        "{doing} needs {capability}; give it to the process (systemd: AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW) or run it as root"
    )]
    Capability {
        /// What was tried.
        doing: String,
        /// The capability's name.
        capability: &'static str,
    },
    /// IPv6 is switched off on the interface.
    #[error("IPv6 is switched off on {interface}: set net.ipv6.conf.{interface}.disable_ipv6 to 0, or use an IPv4 address")]
    Ipv6Off {
        /// The interface.
        interface: String,
    },
    /// An announcement was asked for an address that is not there: it would draw traffic that nobody answers.
    #[error("{ip} is not on {interface}, so it is not announced; add it first")]
    NotHeld {
        /// The address.
        ip: std::net::IpAddr,
        /// The interface.
        interface: String,
    },
    /// The kernel refused for another reason.
    #[error("{doing}: {errno}")]
    Kernel {
        /// What was tried.
        doing: String,
        /// The kernel's reason.
        errno: Errno,
    },
}

impl Error {
    /// The error for a failed system call; a refusal for lack of rights names the capability.
    pub(crate) fn kernel(doing: impl Into<String>, capability: &'static str, errno: Errno) -> Error {
        match errno {
            Errno::PERM => Error::Capability { doing: doing.into(), capability },
            errno => Error::Kernel { doing: doing.into(), errno },
        }
    }

    /// The kernel's error number, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Kernel { errno, .. } => Some(*errno),
            Error::Capability { .. } => Some(Errno::PERM),
            _ => None,
        }
    }
}
