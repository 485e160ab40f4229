//! The guard: a small process of its own that ends PostgreSQL when the agent does not move the lease deadline in time, because it was stopped,
//! killed or is stuck. It is the fence of a box without a hardware watchdog.
//!
//! It is this binary, run again with the hidden first argument [`ROLE`]: one thread, one poll loop ([`process`]), no runtime, no file access on
//! the disk of the data. [`hunt`] finds and kills, [`link`] is the agent's side.
//!
//! Agent and guard speak over a socket of the type `SOCK_SEQPACKET` with an abstract name ([`name`]), one order or answer in a packet, words
//! separated by blanks. Only processes of the same user are heard. Unknown orders and further words are ignored, so that a guard
//! of an older release and an agent of a newer one understand each other: an upgraded agent adopts the guard that runs.
//!
//! | order | answer |
//! | --- | --- |
//! | `target DEV INO PATH`: the data directory; PATH is the rest of the packet | |
//! | `vips IP/PREFIX DEVICE,…`: the addresses to drop, possibly none | |
//! | `watch KILL_AT KILL_AFTER`: milliseconds of the boot clock; milliseconds | `armed KILL_AT` |
//! | `disarm` | `idle` |
//! | `seen`: the agent knows that it has fired | `idle` |
//! | `state?`; also answered unasked to a new connection | `idle`, `armed KILL_AT` or `fired KILL_AT` |
//! | any of these while it kills | `firing KILL_AT`; the real answer follows |
//! | | `fired KILL_AT`, unasked, when no process of PostgreSQL is left |
//! | | `replaced`: a newer connection took its place; `refused REASON`: it cannot work |
//!
//! Life: an idle guard ends with its agent. An armed one waits for its deadline, fires, and then waits an hour for an agent. It is in the agent's
//! control group: where systemd runs the agent, `KillMode=process` or `mixed` lets it live until the agent has ended in order; the default
//! `control-group` sends it SIGTERM together with the agent (the agent says so and starts another one while it needs one). A control group that is
//! frozen as a whole freezes the guard, too; then only the hardware watchdog helps. Real-time scheduling would need `unsafe`; the guard runs with
//! the best nice value that it may have.

pub mod hunt;
pub mod link;
pub mod process;

use std::net::IpAddr;
use std::path::Path;

use crate::ha::types::{Instant, Millis};

/// The hidden first argument that selects this role of the binary; the second one is the socket's [`name`].
pub const ROLE: &str = "guard";
/// How every socket name begins.
pub const NAME_PREFIX: &str = "mastiff-guard-";
/// The longest packet, bytes.
pub const PACKET_MAX: usize = 8192;

/// Whether the program's arguments select this role. A configuration file may be called `guard`, too.
#[must_use]
pub fn is_role(args: &[String]) -> bool {
    matches!(args, [role, name] if role == ROLE && name.starts_with(NAME_PREFIX))
}

/// The abstract name of the guard's socket: one for each user, data directory, scope and member.
#[must_use]
pub fn name(uid: u32, data_dir: &Path, scope: &str, member: &str) -> String {
    let path = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let mut hash = FNV_BASIS;
    for part in [path.as_os_str().as_encoded_bytes(), scope.as_bytes(), member.as_bytes()] {
        // No part holds a NUL: it separates them.
        for byte in part.iter().chain(&[0]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
        }
    }
    format!("{NAME_PREFIX}{uid}-{hash:016x}")
}

/// FNV-1a, 64 bits: it must be the same in every release, or an upgraded agent would not find the guard that is armed.
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// An address of the virtual IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Length of the prefix.
    pub prefix: u8,
    /// Name of the network device.
    pub device: String,
}

/// What the guard is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// The data directory, so that the guard itself need not look at its disk.
    Target {
        /// Device number.
        dev: u64,
        /// Inode number; zero: unknown.
        ino: u64,
        /// Path without symbolic links.
        path: Vec<u8>,
    },
    /// The addresses to drop before the kill.
    Addresses(Vec<Address>),
    /// Kill at that time, unless a later order comes.
    Watch {
        /// SIGQUIT, on the boot clock.
        kill_at: Instant,
        /// From SIGQUIT to SIGKILL.
        kill_after: Millis,
    },
    /// Watch nothing.
    Disarm,
    /// The agent knows that the guard has fired.
    Seen,
    /// Say the state.
    State,
}

impl Order {
    /// The packet.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Order::Target { dev, ino, path } => {
                let mut bytes = format!("target {dev} {ino} ").into_bytes();
                bytes.extend_from_slice(path);
                bytes
            }
            Order::Addresses(list) => {
                let list: Vec<String> = list.iter().map(|a| format!("{}/{} {}", a.ip, a.prefix, a.device)).collect();
                format!("vips {}", list.join(",")).into_bytes()
            }
            Order::Watch { kill_at, kill_after } => format!("watch {} {}", kill_at.0, kill_after.0).into_bytes(),
            Order::Disarm => b"disarm".to_vec(),
            Order::Seen => b"seen".to_vec(),
            Order::State => b"state?".to_vec(),
        }
    }

    /// Reads a packet; `None` for what is not known or not complete.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Order> {
        if let Some(rest) = packet.strip_prefix(b"target ") {
            let mut parts = rest.splitn(3, |byte| *byte == b' ');
            let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse().ok();
            let (dev, ino) = (number()?, number()?);
            return Some(Order::Target { dev, ino, path: parts.next()?.to_vec() });
        }
        let text = std::str::from_utf8(packet).ok()?;
        let mut words = text.split_ascii_whitespace();
        match words.next()? {
            "watch" => {
                let mut number = || words.next()?.parse::<u64>().ok();
                Some(Order::Watch { kill_at: Instant(number()?), kill_after: Millis(number()?) })
            }
            "vips" => Some(Order::Addresses(text.strip_prefix("vips")?.split(',').filter_map(parse_address).collect())),
            "disarm" => Some(Order::Disarm),
            "seen" => Some(Order::Seen),
            "state?" => Some(Order::State),
            _ => None,
        }
    }
}

fn parse_address(text: &str) -> Option<Address> {
    let mut words = text.split_ascii_whitespace();
    let (ip, prefix) = words.next()?.split_once('/')?;
    Some(Address { ip: ip.parse().ok()?, prefix: prefix.parse().ok()?, device: words.next()?.to_owned() })
}

/// What the guard says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It watches nothing.
    Idle,
    /// It kills at that time.
    Armed(Instant),
    /// That time has come and it kills; orders are carried out afterwards.
    Firing(Instant),
    /// It killed because that time had come.
    Fired(Instant),
    /// A newer connection took over.
    Replaced,
    /// It cannot work; why.
    Refused(String),
}

impl Answer {
    /// The packet.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let text = match self {
            Answer::Idle => "idle".to_owned(),
            Answer::Armed(at) => format!("armed {}", at.0),
            Answer::Firing(at) => format!("firing {}", at.0),
            Answer::Fired(at) => format!("fired {}", at.0),
            Answer::Replaced => "replaced".to_owned(),
            Answer::Refused(reason) => format!("refused {reason}"),
        };
        text.into_bytes()
    }

    /// Reads a packet; `None` for what is not known.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Answer> {
        let text = std::str::from_utf8(packet).ok()?;
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let time = || rest.split_ascii_whitespace().next()?.parse().ok().map(Instant);
        match word {
            "idle" => Some(Answer::Idle),
            "armed" => time().map(Answer::Armed),
            "firing" => time().map(Answer::Firing),
            "fired" => time().map(Answer::Fired),
            "replaced" => Some(Answer::Replaced),
            "refused" => Some(Answer::Refused(rest.to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{is_role, name, Address, Answer, Order};
    use crate::ha::types::{Instant, Millis};

    #[test]
    fn orders_come_back() {
        let address = |text: &str, prefix, device: &str| Address { ip: text.parse().unwrap(), prefix, device: device.to_owned() };
        for order in [
            Order::Target { dev: 2049, ino: 77, path: b"/var/lib/a b/\xff".to_vec() },
            Order::Addresses(Vec::new()),
            Order::Addresses(vec![address("10.0.0.1", 24, "eth0"), address("fd00::1", 128, "br-lan.7")]),
            Order::Watch { kill_at: Instant(u64::MAX), kill_after: Millis(75) },
            Order::Disarm,
            Order::Seen,
            Order::State,
        ] {
            assert_eq!(Order::parse(&order.to_bytes()), Some(order));
        }
    }

    #[test]
    fn answers_come_back() {
        for answer in [
            Answer::Idle,
            Answer::Armed(Instant(5)),
            Answer::Firing(Instant(9)),
            Answer::Fired(Instant(0)),
            Answer::Replaced,
            Answer::Refused("no room: \"x\"".to_owned()),
        ] {
            assert_eq!(Answer::parse(&answer.to_bytes()), Some(answer));
        }
    }

    #[test]
    fn other_releases() {
        // Words that come with a later release.
        assert_eq!(Order::parse(b"watch 10 20 fast=1 more"), Some(Order::Watch { kill_at: Instant(10), kill_after: Millis(20) }));
        assert_eq!(Order::parse(b"disarm now"), Some(Order::Disarm));
        assert_eq!(Answer::parse(b"armed 10 pid=5"), Some(Answer::Armed(Instant(10))));
        for packet in
            [&b"dance"[..], b"", b" ", b"watch", b"watch x 1", b"watch -1 5", b"watch 99999999999999999999 1", b"target 1", b"\xff\xfe"]
        {
            assert_eq!(Order::parse(packet), None, "{packet:?}");
        }
        for packet in [&b""[..], b"armed", b"armed x", b"fired", b"\xff"] {
            assert_eq!(Answer::parse(packet), None, "{packet:?}");
        }
    }

    #[test]
    fn the_name_never_changes() {
        // Written down: another value would mean that an upgraded agent does not find the guard that is armed.
        assert_eq!(name(26, Path::new("/var/lib/pg"), "demo", "n1"), "mastiff-guard-26-339ae322383e8c23");
        assert_ne!(name(26, Path::new("/var/lib/pg"), "demo", "n1"), name(26, Path::new("/var/lib/pg"), "demon", "1"));
    }

    #[test]
    fn a_configuration_file_may_be_called_guard() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(is_role(&words("guard mastiff-guard-26-0")));
        assert!(!is_role(&words("guard")) && !is_role(&words("guard --validate-config")) && !is_role(&words("x mastiff-guard-26-0")));
    }
}
