//! Dropping addresses in an emergency: for a guard process that must act when the holder cannot.

use std::net::IpAddr;

use crate::destroy::{Destroyed, Destroyer};
use crate::error::Error;
use crate::netlink::Netlink;

/// Connections to the kernel, opened while all is well: at the moment of need no descriptor has to be found.
#[derive(Debug)]
pub struct Dropper {
    netlink: Netlink,
    destroyer: Destroyer,
}

impl Dropper {
    /// Opens them, in the network namespace of the calling thread. Removing needs CAP_NET_ADMIN, opening needs nothing.
    ///
    /// # Errors
    /// The kernel's, such as no file descriptor left.
    pub fn open() -> Result<Dropper, Error> {
        Ok(Dropper { netlink: Netlink::open()?, destroyer: Destroyer::open()? })
    }

    /// Removes an address from whichever interfaces have it, with whatever prefix, then ends the TCP sessions that use it.
    /// Returns from how many places it was removed; 0 when it was not there.
    ///
    /// # Errors
    /// [`Error::Capability`], the kernel's. Sessions are ended only when the address has gone.
    pub fn remove_all_on(&mut self, ip: IpAddr) -> Result<(usize, Destroyed), Error> {
        let places = self.netlink.delete_everywhere(ip)?;
        Ok((places, self.destroyer.destroy(ip)?))
    }
}

/// An interface by its number, or by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface<'a> {
    /// Its number.
    Index(u32),
    /// Its name.
    Name(&'a str),
}

/// Removes addresses at once: first each where it should be, then from wherever else it is, then the sessions. Goes on after errors.
///
/// # Errors
/// The first error, after everything was tried.
pub fn drop_addresses(addresses: &[(IpAddr, Interface<'_>, u8)]) -> Result<(), Error> {
    let mut dropper = Dropper::open()?;
    let mut first = Ok(());
    for (ip, interface, prefix) in addresses {
        let index = match interface {
            Interface::Index(index) => Ok(*index),
            Interface::Name(name) => dropper.netlink.link(name).map(|link| link.index),
        };
        // A missing interface has no address; what matters comes from the second, complete removal.
        if let Ok(index) = index {
            first = first.and(dropper.netlink.delete(*ip, *prefix, index).map(drop));
        }
    }
    for (ip, _, _) in addresses {
        first = first.and(dropper.remove_all_on(*ip).map(drop));
    }
    first
}
