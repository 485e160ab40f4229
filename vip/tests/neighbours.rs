//! What neighbours do when the address moves: on a real kernel, three hosts on a bridge.
//!
//! Each test moves the address from host `a`, whose cable is pulled while it still has it, to host `b`, and asks from host `c`. The
//! client's cache entry is fresh (the old holder announced itself 0.2 s ago), so without an announcement that it accepts it would go
//! on sending to the dead host for half a minute.
//!
//! Neighbours that ignore one form of announcement are made with `tc`: a u32 filter matches the ARP operation (or the ICMPv6 type)
//! and redirects such frames into an interface that leads nowhere. That needs neither nftables nor arptables.
//!
//! Needs root and iproute2; says so and passes otherwise.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::{Duration, Instant};

use mastiff_vip::{Address, Event, Holder, Mac, Probe};
use support::{attempt, possible, until, Net, VIP4, VIP6};

/// Match of ARP requests, of ARP replies, of neighbour advertisements, as offsets into the packet.
const REQUESTS: &str = "protocol arp u32 match u16 1 0xffff at 6";
const REPLIES: &str = "protocol arp u32 match u16 2 0xffff at 6";
const ADVERTISEMENTS: &str = "protocol ipv6 u32 match u8 136 0xff at 40";

/// Hosts a and b that can hold an address, and the client c, which has learnt that `a` holds it just now.
fn learnt(ip: &str) -> (Net, Holder, [support::Echo; 2]) {
    let net = Net::new(&["a", "b", "c"]);
    let echo = [net.echo("a"), net.echo("b")];
    let mut old = net.vip("a", ip);
    old.add(net.now(), Some(60)).unwrap();
    // The later holder must know the client: a client that ignores requests cannot be asked who it is.
    let own = if ip == VIP4 { "10.77.0.2" } else { "2001:db8:77::2" };
    until("the client reaches the other host", || net.who_answers("c", own).as_deref() == Some("b"));
    until("the client reaches the old holder", || net.who_answers("c", ip).as_deref() == Some("a"));
    (net, old, echo)
}

/// The old holder speaks a last time, 0.2 s before it dies.
fn dies(net: &Net, mut old: Holder) {
    old.announce(net.now()).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    net.ip("sw", "link set port-a down");
}

/// Makes the client ignore frames. `false` when this kernel cannot.
fn ignores(net: &Net, what: &str) -> bool {
    let tc = |line: String| attempt(&format!("tc -n {} {line}", net.name("c"))).status.success();
    if !net.ip("c", "link").contains("hole") {
        net.ip("c", "link add hole type veth peer name nowhere");
        net.ip("c", "link set hole up");
    }
    // The second time it is there already.
    tc("qdisc add dev eth0 ingress".into());
    let done = tc(format!("filter add dev eth0 parent ffff: {what} action mirred egress redirect dev hole"));
    if !done {
        eprintln!("skipped: this kernel's tc has no u32 filter with mirred, so no neighbour can be made deaf");
    }
    done
}

/// The hardware address that the client sends to.
fn client_sends_to(net: &Net, ip: &str) -> Option<String> {
    let text = net.ip("c", &format!("neigh show {ip} dev eth0"));
    text.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).map(str::to_owned)
}

/// The new holder takes over; the client's very next packet reaches it.
fn taken_over(net: &Net, ip: &str) {
    let mut new = net.vip("b", ip);
    new.add(net.now(), Some(60)).unwrap();
    // The frame has been sent when `add` returns; the client's kernel may need a moment to take it up.
    let begun = Instant::now();
    until("the client's cache has the new holder", || {
        new.tick(net.now());
        client_sends_to(net, ip) == Some(net.mac("b"))
    });
    println!("{ip}: taken up after {} ms", begun.elapsed().as_millis());
    assert!(begun.elapsed() < Duration::from_secs(5), "by the first announcements, not by the cache's own age");
    assert_eq!(net.who_answers("c", ip).as_deref(), Some("b"));
}

#[test]
fn a_neighbour_that_has_just_learnt_the_old_holder() {
    if !possible() {
        return;
    }
    for ip in [VIP4, VIP6] {
        let (net, old, _echo) = learnt(ip);
        dies(&net, old);
        taken_over(&net, ip);
    }
}

#[test]
fn a_neighbour_that_ignores_requests() {
    if !possible() {
        return;
    }
    let (net, old, _echo) = learnt(VIP4);
    if ignores(&net, REQUESTS) {
        dies(&net, old);
        taken_over(&net, VIP4);
    }
}

#[test]
fn a_neighbour_that_ignores_replies() {
    if !possible() {
        return;
    }
    let (net, old, _echo) = learnt(VIP4);
    if ignores(&net, REPLIES) {
        dies(&net, old);
        taken_over(&net, VIP4);
    }
}

#[test]
fn a_neighbour_that_ignores_everything_shows_that_the_others_listen() {
    if !possible() {
        return;
    }
    let (net, old, _echo) = learnt(VIP4);
    if ignores(&net, REQUESTS) && ignores(&net, REPLIES) {
        dies(&net, old);
        let mut new = net.vip("b", VIP4);
        new.add(net.now(), Some(60)).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(client_sends_to(&net, VIP4), Some(net.mac("a")), "or the filters of these tests filter nothing");
    }
}

#[test]
fn a_gateway_that_ignores_unsolicited_advertisements() {
    if !possible() {
        return;
    }
    let (net, old, _echo) = learnt(VIP6);
    // The client is the new holder's default gateway, so it is asked from the address and learns who asks.
    net.ip("b", "-6 route add default via 2001:db8:77::3 dev eth0");
    if ignores(&net, ADVERTISEMENTS) {
        dies(&net, old);
        taken_over(&net, VIP6);
    }
}

#[test]
fn an_orderly_move() {
    if !possible() {
        return;
    }
    for ip in [VIP4, VIP6] {
        let (net, mut old, _echo) = learnt(ip);
        let mut new = net.vip("b", ip);
        for round in 0..3 {
            let ((from, to), name) = if round % 2 == 0 { ((&mut old, &mut new), "b") } else { ((&mut new, &mut old), "a") };
            from.remove().unwrap();
            let sent = to.announcements();
            to.add(net.now(), Some(60)).unwrap();
            // On a busy machine the kernel may take its time until it takes packets in; nothing is announced before.
            until("it is announced", || {
                to.tick(net.now());
                to.announcements() > sent
            });
            assert_eq!(net.who_answers("c", ip).as_deref(), Some(name), "the very next packet");
            assert!(!from.poll_events(net.now()).iter().any(|event| matches!(event, Event::Conflict { .. })), "who let go is silent");
        }
    }
}

fn probed(net: &Net, holder: &mut Holder) -> Probe {
    holder.probe(net.now()).unwrap();
    loop {
        holder.tick(net.now());
        match holder.conflict(net.now()) {
            Probe::Running { .. } => std::thread::sleep(Duration::from_millis(10)),
            over => return over,
        }
    }
}

#[test]
fn a_probe_finds_the_holder_and_disturbs_nobody() {
    if !possible() {
        return;
    }
    for ip in [VIP4, VIP6] {
        let (net, mut old, _echo) = learnt(ip);
        let mut new = net.vip("b", ip);
        let mac: Mac = net.mac("a").parse().unwrap();
        assert_eq!(probed(&net, &mut new), Probe::Held { mac }, "{ip}");
        assert_eq!(client_sends_to(&net, ip), Some(net.mac("a")), "no cache was changed");
        assert_eq!(net.who_answers("c", ip).as_deref(), Some("a"));
        // An announcement that nobody read before the question is no answer to it.
        old.announce(net.now()).unwrap();
        old.remove().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(probed(&net, &mut new), Probe::Free, "{ip}");
    }
}

#[test]
fn a_conflict_is_told_and_defended_but_not_by_a_storm() {
    if !possible() {
        return;
    }
    for ip in [VIP4, VIP6] {
        let (net, mut holder, _echo) = learnt(ip);
        // Somebody who has it without asking, and who does not defend.
        let intruder = Address { announce: false, ..Address::new(ip.parse().unwrap(), "eth0") };
        net.holder("b", intruder).add(net.now(), None).unwrap();
        let mut shouting = net.vip("b", ip);
        let mac: Mac = net.mac("b").parse().unwrap();
        shouting.announce(net.now()).unwrap();
        let events = net.event(&mut holder, "the conflict", |event| matches!(event, Event::Conflict { .. }));
        assert_eq!(events, [Event::Conflict { mac, defended: true }]);
        until("the client is back", || net.who_answers("c", ip).as_deref() == Some("a"));
        let mut told = 0;
        for _ in 0..5 {
            shouting.announce(net.now()).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            // One clock reading for all: within a second of the first defence whatever the machine does meanwhile.
            let events = holder.poll_events(Duration::ZERO);
            assert!(!events.contains(&Event::Conflict { mac, defended: true }), "{events:?}");
            told += events.len();
        }
        assert!(told > 0, "each is told");
    }
}
