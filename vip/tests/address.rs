//! Addresses on a real kernel: they expire, are renewed, put back, removed; sessions end; carrier and hardware address are watched.
//!
//! Needs root and iproute2; says so and passes otherwise.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::io::Read;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use mastiff_vip::{drop_addresses, Address, Destroyed, Error, Event, Holder, Interface, Warning};
use rustix::thread::{capabilities, set_capabilities, CapabilitySet};
use support::{attempt, possible, until, Net, VIP4, VIP6};

fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

#[test]
fn it_expires_by_itself_and_is_not_announced_any_more() {
    if !possible() {
        return;
    }
    let net = Net::new(&["a"]);
    for ip in [VIP4, VIP6] {
        let mut holder = net.vip("a", ip);
        assert_eq!(holder.is_present(), Ok(false));
        holder.add(net.now(), Some(1)).unwrap();
        assert_eq!(holder.is_present(), Ok(true));
        assert_eq!(holder.announce(net.now()), Ok(()));
        net.event(&mut holder, "it expires", |event| *event == Event::AddressRemoved);
        assert_eq!(holder.is_present(), Ok(false));
        assert!(matches!(holder.announce(net.now()), Err(Error::NotHeld { .. })), "it would draw the next holder's traffic");
    }
}

#[test]
fn renewed_it_stays() {
    if !possible() {
        return;
    }
    let net = Net::new(&["a"]);
    let mut holders = [net.vip("a", VIP4), net.vip("a", VIP6)];
    for holder in &mut holders {
        holder.add(net.now(), Some(2)).unwrap();
    }
    for _ in 0..25 {
        pause(200);
        for holder in &mut holders {
            assert_eq!(holder.is_present(), Ok(true));
            assert_eq!(holder.poll_events(net.now()), []);
            holder.renew(Some(2)).unwrap();
        }
    }
    let text = net.ip("a", "addr show eth0");
    assert_eq!(text.matches(VIP4).count() + text.matches(VIP6).count(), 2, "each is there once: {text}");
    // From a lifetime to none and back, and added again when it has gone: all by the same call.
    for holder in &mut holders {
        holder.renew(None).unwrap();
        holder.renew(Some(2)).unwrap();
        holder.remove().unwrap();
        holder.renew(Some(2)).unwrap();
        assert_eq!(holder.is_present(), Ok(true));
    }
}

#[test]
fn what_others_remove_is_told_at_once() {
    if !possible() {
        return;
    }
    let net = Net::new(&["a"]);
    for (ip, bits) in [(VIP4, 32), (VIP6, 128)] {
        let mut holder = net.vip("a", ip);
        holder.add(net.now(), Some(30)).unwrap();
        net.ip("a", &format!("addr del {ip}/{bits} dev eth0"));
        assert_eq!(holder.poll_events(net.now()), [Event::AddressRemoved]);
        holder.add(net.now(), Some(30)).unwrap();
        assert_eq!(holder.is_present(), Ok(true));
        // Our own removal is nobody else's, also when the address is added again before the notice is read.
        holder.remove().unwrap();
        assert_eq!(holder.poll_events(net.now()), []);
        holder.add(net.now(), Some(30)).unwrap();
        holder.remove().unwrap();
        holder.add(net.now(), Some(30)).unwrap();
        assert_eq!(holder.poll_events(net.now()), []);
    }
}

#[test]
fn the_subnets_prefix_survives_the_first_address() {
    if !possible() {
        return;
    }
    for promote in ["0", "1"] {
        let net = Net::new(&["a"]);
        net.sysctl("a", "net/ipv4/conf/eth0/promote_secondaries", promote);
        let address = Address { prefix: 24, ..Address::new(VIP4.parse().unwrap(), "eth0") };
        let mut holder = net.inside("a", || Holder::open(address, 1).unwrap());
        let warned = holder.check().unwrap().iter().any(|one| matches!(one, Warning::TiedToOthers { .. }));
        assert_eq!(warned, promote == "0");
        holder.add(net.now(), Some(30)).unwrap();
        assert!(net.ip("a", "addr show eth0").contains("secondary"));
        net.ip("a", "addr del 10.77.0.1/24 dev eth0");
        let events = holder.poll_events(net.now());
        if promote == "0" {
            assert_eq!(events, [Event::AddressRemoved], "the kernel took it along");
            holder.add(net.now(), Some(30)).unwrap();
        } else {
            assert_eq!(events, []);
        }
        assert_eq!(holder.is_present(), Ok(true));
        // The host's own address comes back (a DHCP client, an administrator): it is the first one again, and stays without ours.
        net.ip("a", "addr add 10.77.0.1/24 dev eth0");
        holder.renew(Some(30)).unwrap();
        assert!(net.ip("a", "route show dev eth0").contains("10.77.0.0/24"), "promote_secondaries {promote}");
        holder.remove().unwrap();
        let text = net.ip("a", "addr show eth0");
        assert!(text.contains("10.77.0.1/24") && !text.contains("secondary"), "promote_secondaries {promote}: {text}");
    }
    // The single address does not depend on any other.
    let net = Net::new(&["a"]);
    let mut holder = net.vip("a", VIP4);
    holder.add(net.now(), Some(30)).unwrap();
    net.ip("a", "addr del 10.77.0.1/24 dev eth0");
    assert_eq!((holder.poll_events(net.now()), holder.is_present()), (vec![], Ok(true)));
}

#[test]
fn it_is_removed_from_everywhere() {
    if !possible() {
        return;
    }
    let net = Net::new(&["a"]);
    let mut holder = net.vip("a", VIP4);
    holder.add(net.now(), None).unwrap();
    net.ip("a", &format!("addr add {VIP4}/24 dev eth0"));
    net.ip("a", &format!("addr add {VIP4}/32 dev lo"));
    let elsewhere = holder.check().unwrap();
    assert_eq!(elsewhere.iter().filter(|one| matches!(one, Warning::Elsewhere { .. })).count(), 2, "{elsewhere:?}");
    assert_eq!(holder.remove().unwrap().places, 3);
    assert_eq!(holder.remove().unwrap().places, 0, "again is no error");
    assert!(!net.ip("a", "addr").contains(VIP4));
    assert!(net.ip("a", "addr").contains("10.77.0.1"), "others stay");
}

#[test]
fn a_guard_drops_everything() {
    if !possible() {
        return;
    }
    let net = Net::new(&["a"]);
    let (four, six): (IpAddr, IpAddr) = (VIP4.parse().unwrap(), VIP6.parse().unwrap());
    net.vip("a", VIP4).add(net.now(), None).unwrap();
    net.vip("a", VIP6).add(net.now(), None).unwrap();
    let addresses = [(four, Interface::Name("gone0"), 32), (four, Interface::Name("eth0"), 32), (six, Interface::Index(999), 128)];
    assert_eq!(net.inside("a", move || drop_addresses(&addresses)), Ok(()));
    let text = net.ip("a", "addr");
    assert!(!text.contains(VIP4) && !text.contains(VIP6), "{text}");
}

#[test]
fn sessions_end_with_the_address() {
    if !possible() {
        return;
    }
    let net = Net::new(&["a", "c"]);
    for (ip, any) in [(VIP4, "0.0.0.0"), (VIP4, "::"), (VIP6, "::"), (VIP4, VIP4), (VIP6, VIP6)] {
        let mut holder = net.vip("a", ip);
        holder.add(net.now(), Some(30)).unwrap();
        let listener = net.inside("a", move || TcpListener::bind((any, 5432)).unwrap());
        let to = (ip.parse::<IpAddr>().unwrap(), 5432);
        let client = net.inside("c", move || TcpStream::connect(to).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let removal = holder.remove().unwrap();
        if removal.sessions == Destroyed::Unsupported {
            eprintln!("skipped: this kernel has no SOCK_DESTROY");
            return;
        }
        assert_eq!(removal.sessions, Destroyed::Sessions(1), "{ip} on {any}: the session, not the listener");
        let error = server.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted, "{error}");
        drop((client, server));
        holder.add(net.now(), Some(30)).unwrap();
        net.inside("c", move || TcpStream::connect(to).unwrap());
        holder.remove().unwrap();
    }
}

#[test]
fn the_link_is_watched() {
    if !possible() {
        return;
    }
    let net = Net::new(&["a"]);
    let mut holder = net.vip("a", VIP4);
    holder.add(net.now(), Some(60)).unwrap();
    net.ip("sw", "link set port-a down");
    net.event(&mut holder, "carrier lost", |event| *event == Event::CarrierLost);
    assert!(!holder.is_running());
    assert!(matches!(holder.check().unwrap()[..], [Warning::NotRunning { .. }]));
    net.ip("sw", "link set port-a up");
    net.event(&mut holder, "carrier back", |event| *event == Event::CarrierBack);
    assert!(holder.is_running());
    net.ip("a", "link set eth0 address 02:00:00:00:77:77");
    let mac = "02:00:00:00:77:77".parse().unwrap();
    net.event(&mut holder, "another hardware address", |event| *event == Event::MacChanged { mac });
    // As a device that is made anew: gone with its address, back under another number.
    net.ip("a", "link del eth0");
    let events = net.event(&mut holder, "interface gone", |event| *event == Event::InterfaceGone);
    assert!(events.contains(&Event::AddressRemoved), "{events:?}");
    assert!(matches!(holder.renew(Some(60)), Err(Error::NoInterface { .. })));
    net.ip("sw", &format!("link add name port-a type veth peer name eth0 netns {}", net.name("a")));
    net.ip("sw", "link set port-a master br0 up");
    net.ip("a", "link set eth0 up");
    net.event(&mut holder, "interface back", |event| *event == Event::CarrierBack);
    holder.add(net.now(), Some(60)).unwrap();
    assert_eq!(holder.is_present(), Ok(true));
    holder.announce(net.now()).unwrap();
}

#[test]
fn other_kinds_of_devices() {
    if !possible() {
        return;
    }
    let mut missing = Vec::new();
    for (device, make, kind) in [
        ("br7", "link add br7 type bridge", "bridge"),
        ("eth0.7", "link add link eth0 name eth0.7 type vlan id 7", "vlan"),
        ("bond7", "link add bond7 type bond mode active-backup miimon 50", "bond"),
    ] {
        let net = Net::new(&["a"]);
        if !attempt(&format!("ip -n {} {make}", net.name("a"))).status.success() {
            missing.push(kind);
            continue;
        }
        if kind != "vlan" {
            net.ip("a", "link set eth0 down");
            net.ip("a", &format!("link set eth0 master {device}"));
            net.ip("a", "link set eth0 up");
        }
        let address = Address::new(VIP4.parse().unwrap(), device);
        let mut holder = net.inside("a", || Holder::open(address, 1).unwrap());
        net.ip("a", &format!("link set {device} up"));
        net.event(&mut holder, "the device runs", |event| *event == Event::CarrierBack);
        assert_eq!(holder.link().unwrap().kind, kind);
        holder.check().unwrap();
        holder.add(net.now(), Some(60)).unwrap();
        assert_eq!(holder.is_present(), Ok(true));
        if kind == "bridge" {
            // A second port: the way to the neighbours may have changed, so they are told.
            net.ip("a", "link add p0 type veth peer name p1");
            net.ip("a", "link set p1 up");
            net.ip("a", "link set p0 master br7 up");
            net.event(&mut holder, "a port came", |event| *event == Event::PathChanged);
            assert!(holder.next_deadline().unwrap() <= net.now() + Duration::from_millis(200), "announced from the start again");
        }
    }
    if !missing.is_empty() {
        eprintln!("skipped: this kernel has no {missing:?} devices");
    }
}

#[test]
fn who_may_not_is_told_what_is_missing() {
    if !possible() {
        return;
    }
    let net = Net::new(&["a"]);
    let errors = net.inside("a", || {
        let address = Address::new(VIP4.parse().unwrap(), "eth0");
        let quiet = Address { announce: false, ..address.clone() };
        let mut sets = capabilities(None).unwrap();
        sets.effective = CapabilitySet::empty();
        set_capabilities(None, sets).unwrap();
        let raw = Holder::open(address, 1).unwrap_err();
        let mut holder = Holder::open(quiet, 1).unwrap();
        [raw, holder.check().unwrap_err(), holder.add(Duration::ZERO, Some(3)).unwrap_err()].map(|error| error.to_string())
    });
    for (error, capability) in errors.iter().zip(["CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_NET_ADMIN"]) {
        assert!(error.contains(&format!("needs {capability}; give it")), "{error}");
    }
}

#[test]
fn what_is_not_there_is_told() {
    if !possible() {
        return;
    }
    let net = Net::new(&["a"]);
    let mut holder = net.inside("a", || Holder::open(Address::new(VIP4.parse().unwrap(), "eth9"), 1).unwrap());
    assert_eq!(holder.check(), Err(Error::NoInterface { interface: "eth9".into() }));
    assert_eq!(holder.add(net.now(), None), Err(Error::NoInterface { interface: "eth9".into() }));
    assert_eq!(holder.remove().unwrap().places, 0, "removing needs no interface");
    net.sysctl("a", "net/ipv6/conf/eth0/disable_ipv6", "1");
    let mut six = net.inside("a", || Holder::open(Address::new(VIP6.parse().unwrap(), "eth0"), 1).unwrap());
    assert_eq!(six.check(), Err(Error::Ipv6Off { interface: "eth0".into() }));
    assert_eq!(six.add(net.now(), None), Err(Error::Ipv6Off { interface: "eth0".into() }));
    until("nothing is left to read", || six.poll_events(net.now()).is_empty());
}
