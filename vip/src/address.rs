//! What is configured about an address, and what may be wrong with that.

use std::net::IpAddr;
use std::time::Duration;

use crate::error::Error;
use crate::lifetime::Lifetime;
use crate::netlink::check_name;
use crate::schedule::REFRESH;

/// How often a defence answers a foreign claim, at most, when a lease says that we are right.
pub const DEFEND_LEASED: Duration = Duration::from_secs(1);
/// The same without a lease (RFC 5227, 2.4).
pub const DEFEND_RFC: Duration = Duration::from_secs(10);

/// What to do when another station has the address already. The caller's decision; this crate only carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// Take it and raise an alarm: the lease says that it is ours.
    #[default]
    Claim,
    /// Do not take it.
    Refuse,
}

/// What is configured about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix: 32 or 128 keeps it independent of the interface's other addresses. An IPv4 address is added with 32 while it would
    /// be the first one of its subnet on the interface: that one carries the others.
    pub prefix: u8,
    /// Name of the interface: hardware, VLAN, bridge, bond.
    pub interface: String,
    /// Its label, IPv4 only (`eth0:pg`): what old tools show.
    pub label: Option<String>,
    /// With a prefix of the whole subnet: no route to it through this address. Wise, because that route goes with the address.
    pub no_prefix_route: bool,
    /// Whether the kernel removes it by itself.
    pub lifetime: Lifetime,
    /// What a conflict means.
    pub on_conflict: OnConflict,
    /// Whether it is announced, probed and defended. Without it no CAP_NET_RAW is needed.
    pub announce: bool,
    /// Pause between announcements after those of the first seconds, [`REFRESH`] by default; `None`: only those, and after events.
    pub announce_every: Option<Duration>,
    /// The router to ask from the address after each announcement. `None`: that of the default route through the interface.
    pub gateway: Option<IpAddr>,
    /// An IPv6 address may be the source of new connections. IPv4 has no such choice: its single addresses are taken when no other fits.
    pub preferred: bool,
    /// How often foreign claims are answered, at most.
    pub defend_every: Duration,
}

impl Address {
    /// The single address (/32, /128) on an interface, everything else as is best with a lease.
    #[must_use]
    pub fn new(ip: IpAddr, interface: &str) -> Address {
        Address {
            ip,
            prefix: if ip.is_ipv4() { 32 } else { 128 },
            interface: interface.to_owned(),
            label: None,
            no_prefix_route: true,
            lifetime: Lifetime::Auto,
            on_conflict: OnConflict::Claim,
            announce: true,
            announce_every: Some(REFRESH),
            gateway: None,
            preferred: false,
            defend_every: DEFEND_LEASED,
        }
    }

    /// What can be told without asking the kernel.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::BadPrefix`], [`Error::BadLabel`].
    pub fn validate(&self) -> Result<(), Error> {
        check_name(&self.interface)?;
        if self.prefix == 0 || self.prefix > if self.ip.is_ipv4() { 32 } else { 128 } {
            return Err(Error::BadPrefix { ip: self.ip, prefix: self.prefix });
        }
        let bad = |label: &str| self.ip.is_ipv6() || label.is_empty() || label.len() > 15;
        match &self.label {
            Some(label) if bad(label) => Err(Error::BadLabel { label: label.clone(), interface: self.interface.clone() }),
            _ => Ok(()),
        }
    }
}

/// What [`check`](crate::holder::Holder::check) found worth saying. Nothing of it prevents holding the address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// The interface is down or without carrier.
    #[error("{interface} is down or without carrier: nobody reaches {ip} there")]
    NotRunning {
        /// The address.
        ip: IpAddr,
        /// The interface.
        interface: String,
    },
    /// No ARP there.
    #[error("{interface} is no Ethernet: {ip} is added but cannot be announced there")]
    NoNeighbours {
        /// The address.
        ip: IpAddr,
        /// The interface.
        interface: String,
    },
    /// The prefix ties the address to others.
    #[error(
        "{ip}/{prefix} on {interface} goes when the first address of its subnet is removed, or takes others along: use the prefix of a single address, or set net.ipv4.conf.{interface}.promote_secondaries to 1"
    )]
    TiedToOthers {
        /// The address.
        ip: IpAddr,
        /// The interface.
        interface: String,
        /// The prefix.
        prefix: u8,
    },
    /// It is on another interface, or with another prefix: perhaps configured by the system.
    #[error("{ip} is already on this host (interface number {interface}, /{prefix}) and not from here: remove it from the network configuration")]
    Elsewhere {
        /// The address.
        ip: IpAddr,
        /// Number of the interface.
        interface: u32,
        /// The prefix there.
        prefix: u8,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_settings_are_told() {
        let four = Address::new("10.0.0.50".parse().unwrap(), "eth0");
        let six = Address::new("2001:db8::50".parse().unwrap(), "eth0.7");
        assert_eq!((four.prefix, six.prefix), (32, 128));
        assert_eq!(four.validate().and(six.validate()), Ok(()));
        for (bad, want) in [
            (Address { prefix: 33, ..four.clone() }, "/33 is no prefix length for 10.0.0.50"),
            (Address { prefix: 0, ..six.clone() }, "/0 is no prefix length"),
            (Address { interface: "a/b".into(), ..four.clone() }, "\"a/b\" cannot be the name"),
            (Address { interface: "a-very-long-name".into(), ..four.clone() }, "cannot be the name"),
            (Address { label: Some(String::new()), ..four.clone() }, "cannot label"),
            (Address { label: Some("x".into()), ..six.clone() }, "IPv4 only"),
        ] {
            let error = bad.validate().unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
