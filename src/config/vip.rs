//! The `vip` section: virtual addresses, checked as far as that is possible without the machine.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::lines::Path;
use super::read::Reader;
use super::types::{OnConflict, VipLifetime, VipSettings};
use super::units::{hosts_and_port, seconds_or, SecondsOr};
use super::Severity;
use crate::ha::fence::VipRole;
use crate::ha::types::Millis;

/// Longest name of a network interface, and longest label: IFNAMSIZ is 16 with the zero at the end (`linux/if.h`).
const NAME_MAX: usize = 15;
/// Pause between announcements where none is given.
const ANNOUNCE: Millis = Millis(30_000);

/// A key, and what is wrong with it.
pub(crate) type Problem = (Severity, Path, String);

/// Reads all entries. Wrong types were reported by the check and are not spoken of again; an entry with an error is left out.
pub(crate) fn read(root: Reader<'_>) -> (Vec<VipSettings>, Vec<Problem>) {
    let mut found = Vec::new();
    let mut list: Vec<(Path, VipSettings)> = Vec::new();
    for (path, map) in entries(root.get("vip")) {
        let mut entry = Entry { at: Reader(Some(map)), path: path.clone(), found: &mut found };
        let Some(vip) = entry.settings() else { continue };
        if let Some((first, _)) = list.iter().find(|(_, other)| other.address == vip.address) {
            let why = format!("{} is there twice, {} has it too; write each address once", vip.address, first.join("."));
            entry.error("address", why);
            continue;
        }
        list.push((path, vip));
    }
    for (path, vip) in &list {
        surroundings(root, path, vip, &mut found);
    }
    (list.into_iter().map(|(_, vip)| vip).collect(), found)
}

/// The entries with their places: `vip.0`, or `vip` for one map.
pub(crate) fn entries(value: Option<&Value>) -> Vec<(Path, &Map<String, Value>)> {
    match value {
        Some(Value::Object(map)) => vec![(vec!["vip".to_owned()], map)],
        Some(Value::Array(items)) => {
            let maps = items.iter().enumerate().filter_map(|(index, item)| Some((index, item.as_object()?)));
            maps.map(|(index, map)| (vec!["vip".to_owned(), index.to_string()], map)).collect()
        }
        _ => Vec::new(),
    }
}

struct Entry<'a, 'f> {
    at: Reader<'a>,
    path: Path,
    found: &'f mut Vec<Problem>,
}

impl Entry<'_, '_> {
    fn error(&mut self, key: &str, why: impl Into<String>) {
        let path = self.path.iter().cloned().chain(key.split('.').map(str::to_owned)).collect();
        self.found.push((Severity::Error, path, why.into()));
    }

    fn settings(&mut self) -> Option<VipSettings> {
        // Each is read, so that all problems are told together.
        let address = self.address();
        let interface = self.interface();
        let label = self.label(address.map(|(address, _)| address), interface.as_deref());
        let gateway = self.gateway(address.map(|(address, _)| address));
        let (address, prefix) = address?;
        Some(VipSettings {
            address,
            prefix,
            interface: interface?,
            role: role(self.at.text("role").as_deref()),
            lifetime: match self.at.get("lifetime").and_then(|value| seconds_or(value, &["auto", "off"])) {
                Some(SecondsOr::Seconds(seconds)) => VipLifetime::Seconds(seconds),
                Some(SecondsOr::Word("off")) => VipLifetime::Off,
                _ => VipLifetime::Auto,
            },
            on_conflict: match self.at.text("on_conflict") {
                Some(word) if word.eq_ignore_ascii_case("refuse") => OnConflict::Refuse,
                _ => OnConflict::Claim,
            },
            announce_interval: match self.at.section("announce").get("interval").and_then(|value| seconds_or(value, &["off"])) {
                Some(SecondsOr::Seconds(seconds)) => Some(Millis::from_secs(u64::from(seconds.get()))),
                Some(SecondsOr::Word(_)) => None,
                None => Some(ANNOUNCE),
            },
            gateway,
            label,
            preferred: self.at.flag("preferred").unwrap_or(false),
        })
    }

    /// A text that is needed. A wrong type was reported.
    fn needed(&mut self, key: &str, example: &str) -> Option<String> {
        match self.at.text(key) {
            Some(text) => return Some(text.trim().to_owned()),
            None if self.at.get(key).is_none_or(|value| value == "") => self.error(key, format!("missing; {example}")),
            None => {}
        }
        None
    }

    fn address(&mut self) -> Option<(IpAddr, u8)> {
        let text = self.needed("address", "write the virtual address, like 10.0.0.9 or fd00::9")?;
        let parsed = parse_address(&text).and_then(|(address, prefix)| match unfit(address, prefix) {
            Some(why) => Err(format!("{address} is {why}")),
            None => Ok((address, prefix)),
        });
        match parsed {
            Ok(address) => Some(address),
            Err(why) => {
                self.error("address", why);
                None
            }
        }
    }

    fn interface(&mut self) -> Option<String> {
        let name = self.needed("interface", "name the network interface that carries the address, like eth0")?;
        let Some(why) = no_interface(&name) else { return Some(name) };
        self.error("interface", format!("'{}' {why}", name.escape_debug()));
        None
    }

    fn label(&mut self, address: Option<IpAddr>, interface: Option<&str>) -> Option<String> {
        let label = self.at.text("label")?;
        if address.is_some_and(|address| address.is_ipv6()) {
            self.error("label", "only IPv4 addresses have labels; remove it");
            return None;
        }
        let interface = interface?;
        let rest = label.strip_prefix(interface);
        let fits = rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(|word| !word.is_empty()));
        if !fits || label.contains(char::is_whitespace) {
            self.error("label", format!("'{}' must be the interface, a colon and a word, like {interface}:vip", label.escape_debug()));
            return None;
        }
        if label.len() > NAME_MAX {
            self.error("label", format!("'{}' is longer than {NAME_MAX} characters, the interface's name included", label.escape_debug()));
            return None;
        }
        Some(label)
    }

    fn gateway(&mut self, address: Option<IpAddr>) -> Option<IpAddr> {
        let text = self.at.section("announce").text("gateway")?;
        let Ok(gateway) = text.trim().parse::<IpAddr>() else {
            self.error("announce.gateway", format!("'{}' is not an IP address", text.escape_debug()));
            return None;
        };
        let why = match address {
            Some(address) if address == gateway => "is the virtual address itself; write the router's",
            Some(address) if address.is_ipv4() != gateway.is_ipv4() => "is not of the address's family (IPv4 or IPv6)",
            _ => return Some(gateway),
        };
        self.error("announce.gateway", format!("{gateway} {why}"));
        None
    }
}

/// Whether an interface can have this name (`dev_valid_name` of the kernel).
pub(crate) fn is_interface_name(name: &str) -> bool {
    no_interface(name).is_none()
}

fn no_interface(name: &str) -> Option<&'static str> {
    if name.contains(':') {
        Some("is an alias; name the interface itself, and write the alias as label")
    } else if name.len() > NAME_MAX {
        Some("is no name of an interface: at most 15 characters")
    } else if name.contains(['/', '%']) || name.contains(char::is_whitespace) || matches!(name, "." | "..") {
        Some("is no name of an interface: no blanks, slashes or percent signs")
    } else {
        None
    }
}

fn role(word: Option<&str>) -> VipRole {
    match word.map(str::to_ascii_lowercase).as_deref() {
        Some("standby") => VipRole::Standby,
        Some("sync") => VipRole::Sync,
        Some("any-standby") => VipRole::AnyStandby,
        _ => VipRole::Primary,
    }
}

/// `IP` or `IP/PREFIX`.
fn parse_address(text: &str) -> Result<(IpAddr, u8), String> {
    let (host, prefix) = text.split_once('/').map_or((text, None), |(host, prefix)| (host, Some(prefix)));
    let address: IpAddr = host.parse().map_err(|_| {
        let shown: String = text.chars().take(60).collect();
        format!("'{}' is not an IP address; write it like 10.0.0.9, 10.0.0.9/24 or fd00::9", shown.escape_debug())
    })?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let Some(prefix) = prefix else { return Ok((address, longest)) };
    // `parse` alone takes `+24`.
    let number = prefix.parse::<u8>().ok().filter(|number| (1..=longest).contains(number) && !prefix.starts_with('+'));
    let shown: String = prefix.chars().take(20).collect();
    match number {
        Some(number) => Ok((address, number)),
        None => Err(format!("the prefix length after the slash must be a number from 1 to {longest}, not '{}'", shown.escape_debug())),
    }
}

/// Why no box can have this address for others to reach it.
fn unfit(address: IpAddr, prefix: u8) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("no address of a box; write the virtual address");
    }
    if address.is_loopback() {
        return Some("a loopback address: no other box can reach it");
    }
    if address.is_multicast() {
        return Some("a multicast address: it cannot be held by a box");
    }
    let IpAddr::V4(v4) = address else {
        let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        return mapped.then_some("an IPv4 address in IPv6 form; write it as IPv4");
    };
    if v4.is_broadcast() {
        return Some("the broadcast address: it cannot be held by a box");
    }
    let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    if prefix < 31 && v4.to_bits() & host_bits == 0 {
        return Some("the address of the network itself with this prefix length; write an address in it");
    }
    (prefix < 31 && v4.to_bits() & host_bits == host_bits).then_some("the broadcast address of its network with this prefix length")
}

/// What the other sections say of the address.
fn surroundings(root: Reader<'_>, path: &Path, vip: &VipSettings, found: &mut Vec<Problem>) {
    let key = |name: &str| path.iter().cloned().chain([name.to_owned()]).collect::<Path>();
    let is_vip = |host: &str| host.parse() == Ok(vip.address);
    for section in ["postgresql", "restapi"] {
        if root.section(section).address("connect_address", Some(1)).is_some_and(|own| is_vip(&own.host)) {
            let why = format!(
                "{} is {section}.connect_address too: that must be this member's own address, which does not move; write that there",
                vip.address
            );
            found.push((Severity::Error, key("address"), why));
        }
    }
    let Some(Ok((hosts, _))) = root.section("postgresql").text("listen").map(|listen| hosts_and_port(&listen, Some(5432))) else { return };
    let every = if vip.address.is_ipv4() { "0.0.0.0" } else { "::" };
    let mut unclear = false;
    let mut named = false;
    for host in hosts.split(',') {
        if host == "*" || host == every {
            return;
        }
        named |= is_vip(host);
        // What a name stands for is not known here.
        unclear |= host != "localhost" && host.parse::<IpAddr>().is_err();
    }
    let sysctl = if vip.address.is_ipv4() { "net.ipv4.ip_nonlocal_bind=1" } else { "net.ipv6.ip_nonlocal_bind=1" };
    let why = if named {
        format!("PostgreSQL can listen on {} before it is there only with {sysctl}; `*` in postgresql.listen needs nothing", vip.address)
    } else if unclear {
        return;
    } else {
        format!("PostgreSQL does not listen on {}: write `*` in postgresql.listen, or add the address there and set {sysctl}", vip.address)
    };
    found.push((Severity::Warning, key("address"), why));
}

/// Lifetimes that do not go with the lease. They are used all the same: the operator may know more of the network.
pub(crate) fn fit(list: &[VipSettings], ttl: Millis, loop_wait: Millis, warnings: &mut Vec<String>) {
    let pause = loop_wait.min(Millis(ttl.0 / 3));
    // The kernel counts whole seconds, and a renewal may be answered late.
    let least = pause.0.div_ceil(1000) + 2;
    for vip in list {
        let VipLifetime::Seconds(seconds) = vip.lifetime else { continue };
        let seconds = u64::from(seconds.get());
        let address = vip.address;
        if seconds < least {
            warnings.push(format!(
                "vip {address}: lifetime {seconds} is too short: the lease is renewed every {pause}, and the kernel would remove the address in \
                 between. Write at least {least}, or auto"
            ));
        } else if Millis::from_secs(seconds) >= ttl {
            warnings.push(format!(
                "vip {address}: lifetime {seconds} is not shorter than the lease (ttl {ttl}): a box whose agent is gone would keep the address \
                 while another has it. Write less, or auto"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{is_interface_name, parse_address, unfit};

    #[test]
    fn addresses_and_their_networks() {
        let fits = |text: &str| parse_address(text).is_ok_and(|(address, prefix)| unfit(address, prefix).is_none());
        for good in
            ["10.0.0.9", "10.0.0.0", "10.0.0.255/32", "10.0.0.4/31", "10.0.0.5/30", "10.0.0.255/16", "1.2.3.4/1", "fd00::/64", "fe80::9"]
        {
            assert!(fits(good), "{good}");
        }
        for bad in
            ["10.0.0.4/30", "10.0.0.7/30", "10.0.255.255/16", "10.0.0.9/0", "10.0.0.9/", "10.0.0.9/24/1", "10.0.0.9/-1", "fd00::9/0", ""]
        {
            assert!(!fits(bad), "{bad}");
        }
    }

    #[test]
    fn names_of_interfaces() {
        assert!(["eth0", "a", "br-lan.100", "fifteen-letters"].into_iter().all(is_interface_name));
        assert!(!["sixteen-letters-", "eth0:1", "a/b", "a b", ".", "..", "a%d"].into_iter().any(is_interface_name));
    }
}
