//! Boxes that belong together.

use std::time::Duration;

use mastiff::dcs::embedded::peers::{frame, Error, Event};

use crate::certs::Certs;
use crate::raw::Raw;
use crate::support::{ask, big, config, files, hello, key, run, shared, Peer};

#[test]
fn notes_go_both_ways() {
    run(async {
        let (mut one, mut two) = (Peer::of(1).await, Peer::of(2).await);
        assert!(!one.peers.send(2, &ask(0)));
        one.dial(&two);
        one.connected(2).await;
        two.connected(1).await;
        assert_eq!((one.nodes(), two.nodes()), (vec![2], vec![1]));
        assert_eq!(two.peers.connected()[0].1.address, one.address());
        for number in 0..100 {
            assert!(one.peers.send(2, &ask(number)) && two.peers.send(1, &ask(number + 1000)));
            assert_eq!(two.note().await, (1, ask(number)));
            assert_eq!(one.note().await, (2, ask(number + 1000)));
        }
        let large = big(2 * 1024 * 1024);
        assert!(one.peers.send(2, &large) && !one.peers.send(2, &big(3 * 1024 * 1024)));
        assert_eq!(two.note().await, (1, large));
        // Longer than silence is allowed to be: the pings keep it.
        one.never(Duration::from_secs(7), |event| matches!(event, Event::Lost { .. })).await;
        assert_eq!((one.nodes(), two.nodes()), (vec![2], vec![1]));
        two.peers.close(1);
        one.lost(2).await;
        one.connected(2).await;
        drop(one);
        two.lost(1).await;
        two.connected(1).await;
        two.lost(1).await;
    });
}

#[test]
fn certificates_of_one_ca() {
    run(async {
        let certs = Certs::new();
        certs.signed("box1", "ca", Some("extendedKeyUsage=serverAuth,clientAuth"), 30);
        certs.signed("box2", "ca", Some("keyUsage=digitalSignature"), 30);
        let mut one = Peer::start(config(1, files(&certs, "ca", "box1"))).await;
        let mut two = Peer::start(config(2, files(&certs, "ca", "box2"))).await;
        two.dial(&one);
        one.connected(2).await;
        two.connected(1).await;
        assert!(one.peers.send(2, &ask(1)));
        assert_eq!(two.note().await, (1, ask(1)));
        // Of another CA, in both directions; and a box with a key.
        let mut stranger = Peer::start(config(3, files(&certs, "ca", "stranger"))).await;
        stranger.dial(&one);
        let why = one.refused().await;
        assert!(why.contains("not signed by the store's CA"), "{why}");
        let why = stranger.refused().await;
        assert!(why.contains("refuses this box's TLS"), "{why}");
        one.peers.set_addresses(&[stranger.address()]);
        let why = one.refused().await;
        assert!(why.contains("not signed by the store's CA"), "{why}");
        let mut keyed = Peer::of(4).await;
        keyed.dial(&one);
        for why in [keyed.refused().await, one.refused().await] {
            assert!(why.contains("one has a key in its configuration, the other one certificates"), "{why}");
        }
        // What cannot be used says so at once.
        let error = Peer::try_start(config(5, files(&certs, "ca", "missing"))).await.err().unwrap().to_string();
        assert!(error.contains("missing.crt"), "{error}");
    });
}

#[test]
fn one_connection_for_two_boxes() {
    run(async {
        let certs = Certs::new();
        for _ in 0..20 {
            // Certificates are read faster than a key is derived without optimisation.
            let mut one = Peer::start(config(1, files(&certs, "ca", "server"))).await;
            let mut two = Peer::start(config(2, files(&certs, "ca", "server"))).await;
            one.dial(&two);
            two.dial(&one);
            one.connected(2).await;
            two.connected(1).await;
            // Until both have given up the second one, if there was one.
            one.never(Duration::from_millis(200), |_| false).await;
            two.never(Duration::from_millis(200), |_| false).await;
            while one.nodes().is_empty() || two.nodes().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!((one.nodes(), two.nodes()), (vec![2], vec![1]));
            assert!(one.peers.send(2, &ask(1)) && two.peers.send(1, &ask(2)));
            assert_eq!((two.note().await, one.note().await), ((1, ask(1)), (2, ask(2))));
            one.never(Duration::from_millis(200), |_| true).await;
            assert_eq!(connections(&one, &two), 1);
        }
    });
}

/// The order in which two connections come is chosen here; a race would choose it anyway.
#[test]
fn which_of_two_connections_stays() {
    run(async {
        let certs = Certs::new();
        for number in [1, 9] {
            let other = hello(5);
            let mut config = config(number, files(&certs, "ca", "server"));
            // Neither of them is taken for dead here.
            config.timeouts.ping = Duration::from_secs(30);
            config.timeouts.silence = Duration::from_secs(60);
            let mut peer = Peer::start(config).await;
            let mut first = Raw::greeted(&certs, &peer.address(), &other).await;
            first.send(&frame::ping()).await;
            peer.connected(5).await;
            // A second one of the same caller.
            let mut second = Raw::greeted(&certs, &peer.address(), &other).await;
            assert!(second.farewell().await.unwrap().contains("another connection"));
            // One that this box dials: it stays only if this box has the smaller number.
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            peer.peers.set_addresses(&[listener.local_addr().unwrap().to_string()]);
            let mut dialled = Raw::answered(&certs, &listener, &other).await;
            dialled.send(&frame::ping()).await;
            let (mut kept, mut dropped) = if number < 5 { (dialled, first) } else { (first, dialled) };
            assert!(dropped.farewell().await.unwrap().contains("another connection"), "{number}");
            if number < 5 {
                assert_eq!(peer.event().await, Event::Lost { node: 5 });
                peer.connected(5).await;
            }
            kept.send(&frame::note(&ask(6)).unwrap()).await;
            assert_eq!(peer.event().await, Event::Note { from: 5, note: ask(6) });
            assert_eq!(peer.nodes(), [5]);
        }
    });
}

/// Its cable was pulled: the other side knows before this one.
#[test]
fn a_silent_connection_makes_room() {
    run(async {
        let certs = Certs::new();
        let mut peer = Peer::start(config(1, files(&certs, "ca", "server"))).await;
        let mut first = Raw::greeted(&certs, &peer.address(), &hello(5)).await;
        first.send(&frame::ping()).await;
        peer.connected(5).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut second = Raw::greeted(&certs, &peer.address(), &hello(5)).await;
        second.send(&frame::note(&ask(6)).unwrap()).await;
        assert_eq!(peer.event().await, Event::Lost { node: 5 });
        peer.connected(5).await;
        assert_eq!(peer.event().await, Event::Note { from: 5, note: ask(6) });
    });
}

/// TCP connections with one of the two ports, counted on the side that accepted them.
fn connections(one: &Peer, two: &Peer) -> usize {
    let ports = [one, two].map(|peer| format!("{:04X}", peer.peers.local_address().port()));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let established = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        ports.iter().any(|port| local.ends_with(&format!(":{port}"))) && fields.nth(1) == Some("01")
    };
    table.lines().filter(established).count()
}

#[test]
fn a_box_that_comes_back_is_connected_again() {
    run(async {
        let (mut one, mut two) = (Peer::of(1).await, Peer::of(2).await);
        let address = two.address();
        one.dial(&two);
        for _ in 0..3 {
            one.connected(2).await;
            two.connected(1).await;
            drop(two);
            one.lost(2).await;
            assert!(one.nodes().is_empty() && !one.peers.send(2, &ask(1)));
            let mut again = config(2, shared());
            again.bind.clone_from(&address);
            again.hello.address.clone_from(&address);
            two = Peer::start(again).await;
        }
        one.connected(2).await;
    });
}

#[test]
fn the_cluster_becomes_known() {
    run(async {
        let unborn = |node| {
            let mut config = config(node, shared());
            config.hello.cluster = 0;
            config
        };
        let (mut one, mut two) = (Peer::start(unborn(1)).await, Peer::start(unborn(2)).await);
        one.dial(&two);
        one.connected(2).await;
        two.connected(1).await;
        one.peers.set_cluster(9);
        while two.peers.connected()[0].1.cluster != 9 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        two.peers.set_cluster(9);
        one.never(Duration::from_secs(1), |event| matches!(event, Event::Lost { .. })).await;
        two.peers.set_cluster(10);
        one.lost(2).await;
        two.lost(1).await;
        let why = one.refused().await;
        assert!(why.contains("another cluster"), "{why}");
    });
}

#[test]
fn names_and_ipv6() {
    run(async {
        let mut two = Peer::start(mastiff::dcs::embedded::peers::Config { bind: "[::1]:0".to_owned(), ..config(2, shared()) }).await;
        let mut one = Peer::of(1).await;
        // A name that does not exist, a port without a listener, itself, and the right one.
        let port = two.peers.local_address().port();
        let addresses = ["nobody.invalid:1".to_owned(), "127.0.0.1:1".to_owned(), one.address(), format!("[::1]:{port}")];
        one.peers.set_addresses(&addresses);
        let mut missing = 2;
        let mut connected = false;
        while missing > 0 || !connected {
            match one.event().await {
                Event::Refused { address, why } if address.starts_with("nobody") || why.contains("refused") => missing -= 1,
                Event::Connected { hello } if hello.node == 2 => connected = true,
                other => panic!("{other:?}"),
            }
        }
        two.connected(1).await;
        // Said once, and not dialled any more: nothing else is said.
        one.never(Duration::from_secs(2), |_| true).await;
        one.peers.set_addresses(&[]);
        assert!(one.peers.send(2, &ask(1)));
        assert_eq!(two.note().await, (1, ask(1)));
    });
}

#[test]
fn a_slow_main_loop_stops_the_sender() {
    run(async {
        let (mut one, mut two) = (Peer::of(1).await, Peer::of(2).await);
        one.dial(&two);
        one.connected(2).await;
        two.connected(1).await;
        // The other side reads nothing: its queue of events, the sockets and our queue fill up, and no more.
        let (mut sent, note) = (0, big(100_000));
        for _ in 0..50 {
            while one.peers.send(2, &note) {
                sent += 1;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!((40..400).contains(&sent), "{sent}");
        for _ in 0..sent {
            assert_eq!(two.note().await.1, note);
        }
        assert!(one.peers.send(2, &ask(1)));
        assert_eq!(two.note().await, (1, ask(1)));
    });
}

#[test]
fn what_cannot_start() {
    run(async {
        assert!(matches!(Peer::try_start(config(1, key(""))).await, Err(Error::EmptyKey)));
        assert!(matches!(Peer::try_start(config(0, shared())).await, Err(Error::Hello(_))));
        let mut hasty = config(1, shared());
        hasty.timeouts.silence = hasty.timeouts.ping;
        assert!(matches!(Peer::try_start(hasty).await, Err(Error::Timeouts { .. })));
        let taken = Peer::of(1).await;
        let mut second = config(2, shared());
        second.bind = taken.address();
        let error = Peer::try_start(second).await.err().unwrap().to_string();
        assert!(error.contains(&taken.address()) && error.contains("cannot listen"), "{error}");
        let mut nowhere = config(2, shared());
        nowhere.bind = "here".to_owned();
        assert!(Peer::try_start(nowhere).await.err().unwrap().to_string().contains("cannot listen on here"));
    });
}
