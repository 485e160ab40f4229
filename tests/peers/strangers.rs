//! Everybody who finds the port and does not belong there.

use std::time::Duration;

use mastiff::dcs::embedded::peers::{frame, Event, Hello};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::certs::Certs;
use crate::raw::Raw;
use crate::support::{ask, config, files, hello, key, run, shared, Peer};

/// A box with certificates, whose protocol a test can speak by hand.
async fn certified() -> (Certs, Peer) {
    let certs = Certs::new();
    let peer = Peer::start(config(1, files(&certs, "ca", "server"))).await;
    (certs, peer)
}

/// The box still takes who belongs to it.
async fn still_works(peer: &mut Peer) {
    let mut other = Peer::of(77).await;
    other.dial(peer);
    peer.connected(77).await;
    other.connected(1).await;
    assert!(other.peers.send(1, &ask(3)));
    assert_eq!(peer.note().await, (77, ask(3)));
}

#[test]
fn wrong_key_and_other_scope() {
    run(async {
        let mut one = Peer::of(1).await;
        let mut wrong = Peer::start(config(2, key("another key, as long"))).await;
        wrong.dial(&one);
        for why in [wrong.refused().await, one.refused().await] {
            assert!(why.contains("its key or its scope is another one"), "{why}");
        }
        one.never(Duration::from_secs(2), |_| true).await;
        wrong.never(Duration::from_secs(1), |_| true).await;
        let mut scope = config(3, shared());
        scope.hello.scope = "other".to_owned();
        let mut scope = Peer::start(scope).await;
        one.dial(&scope);
        for why in [scope.refused().await, one.refused().await] {
            assert!(why.contains("its key or its scope is another one"), "{why}");
        }
        assert!(one.nodes().is_empty() && wrong.nodes().is_empty() && scope.nodes().is_empty());
        one.peers.set_addresses(&[]);
        still_works(&mut one).await;
    });
}

#[test]
fn other_scope_with_certificates() {
    run(async {
        let (certs, mut one) = certified().await;
        let mut other = config(2, files(&certs, "ca", "server"));
        other.hello.scope = "prod".to_owned();
        let mut other = Peer::start(other).await;
        other.dial(&one);
        for why in [one.refused().await, other.refused().await] {
            assert!(why.contains("\"prod\"") && why.contains("\"demo\""), "{why}");
        }
        one.never(Duration::from_secs(2), |_| true).await;
    });
}

#[test]
fn other_cluster() {
    run(async {
        let mut one = Peer::of(1).await;
        let mut other = config(2, shared());
        other.hello.cluster = 8;
        let mut other = Peer::start(other).await;
        one.dial(&other);
        for why in [one.refused().await, other.refused().await] {
            assert!(why.contains("another cluster") && why.contains("0000000000000008"), "{why}");
        }
        one.never(Duration::from_secs(1), |event| matches!(event, Event::Connected { .. })).await;
        other.peers.set_cluster(0);
        one.connected(2).await;
    });
}

#[test]
fn copies_of_a_box() {
    run(async {
        let (mut one, mut two, mut copy) = (Peer::of(1).await, Peer::of(2).await, Peer::of(2).await);
        one.dial(&two);
        one.connected(2).await;
        two.connected(1).await;
        copy.dial(&one);
        for why in [one.refused().await, copy.refused().await] {
            assert!(why.contains("says that it is box 2") && why.contains(&two.address()), "{why}");
        }
        copy.dial(&two);
        for why in [two.refused().await, copy.refused().await] {
            assert!(why.contains("have the same number 2"), "{why}");
        }
        one.never(Duration::from_secs(1), |_| true).await;
        assert!(one.peers.send(2, &ask(1)));
        assert_eq!(two.note().await, (1, ask(1)));
    });
}

#[test]
fn other_version() {
    run(async {
        let (certs, mut one) = certified().await;
        let mut raw = Raw::greeted(&certs, &one.address(), &Hello { version: 2, ..hello(2) }).await;
        let told = raw.farewell().await.unwrap();
        let said = one.refused().await;
        assert!(told.contains("version 2") && told.contains("version 1") && said == told, "{told}");
    });
}

#[test]
fn plain_text() {
    run(async {
        let mut one = Peer::of(1).await;
        let garbage = [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0; 100], &[0xff; 5000], &[0x16, 3, 1, 0xff, 0xff]];
        for bytes in garbage {
            let mut stream = TcpStream::connect(one.address()).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            // Closed, with or without TLS's word for it.
            let _ = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await.unwrap();
            assert!(answer.len() < 100, "{answer:?}");
        }
        let why = one.refused().await;
        assert!(why.contains("no TLS"), "{why}");
        still_works(&mut one).await;
    });
}

#[test]
fn without_a_certificate() {
    run(async {
        let (certs, mut one) = certified().await;
        // TLS 1.3: the caller's handshake is through before it is judged.
        if let Ok(mut raw) = Raw::connect(&certs, None, &one.address()).await {
            raw.send(&frame::hello(&hello(2))).await;
            assert_eq!(raw.frame().await, None);
        }
        let why = one.refused().await;
        assert!(why.contains("it shows no certificate"), "{why}");
        let (mut keyed, address) = (Peer::of(1).await, one.address());
        drop(one);
        assert!(!address.is_empty());
        let address = keyed.address();
        let output = tokio::process::Command::new("openssl")
            .args(["s_client", "-connect", &address, "-tls1_2"])
            .stdin(std::process::Stdio::null())
            .output()
            .await
            .unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("no peer certificate available"));
        let why = keyed.refused().await;
        assert!(why.contains("TLS 1.3"), "{why}");
        still_works(&mut keyed).await;
    });
}

#[test]
fn lengths_and_kinds_that_no_frame_has() {
    run(async {
        let (certs, mut one) = certified().await;
        let over = u32::try_from(frame::MAX_FRAME + 1).unwrap().to_le_bytes();
        let wrong: [&[u8]; 7] =
            [&[0xff; 4], &over, &[0; 4], &[1, 0, 0, 0, 9], &[2, 0, 0, 0, 2, 99], &[2, 0, 0, 0, 3, 0], &[5, 0, 0, 0, 2, 0, 0, 0, 0]];
        for (at, bytes) in wrong.iter().enumerate() {
            // Before the greeting, in its place; then after it.
            let mut raw = Raw::connect(&certs, Some("server"), &one.address()).await.unwrap();
            raw.send(bytes).await;
            let told = raw.farewell().await;
            assert!(told.is_some(), "{at}");
            let mut raw = Raw::greeted(&certs, &one.address(), &hello(2)).await;
            raw.send(&frame::ping()).await;
            one.connected(2).await;
            raw.send(bytes).await;
            let told = raw.farewell().await.unwrap();
            assert!(told.contains("frame"), "{at}: {told}");
            one.lost(2).await;
        }
        // A length that is announced and does not come takes no memory, and no more than its time.
        let mut raw = Raw::greeted(&certs, &one.address(), &hello(3)).await;
        raw.send(&frame::ping()).await;
        one.connected(3).await;
        raw.send(&u32::try_from(frame::MAX_FRAME).unwrap().to_le_bytes()).await;
        one.lost(3).await;
    });
}

#[test]
fn silence() {
    run(async {
        let (certs, mut one) = certified().await;
        // Greets and says nothing more: never connected for the main loop.
        let mut mute = Raw::greeted(&certs, &one.address(), &hello(2)).await;
        assert!(matches!(mute.frame().await, Some(frame::Frame::Hello(_))));
        let why = one.refused().await;
        assert!(why.contains("nothing was heard"), "{why}");
        let mut raw = Raw::greeted(&certs, &one.address(), &hello(3)).await;
        raw.send(&frame::ping()).await;
        one.connected(3).await;
        one.lost(3).await;
        assert_eq!(raw.farewell().await, None);
        // It does not read either: what it is sent has a limit.
        let mut raw = Raw::greeted(&certs, &one.address(), &hello(4)).await;
        raw.send(&frame::ping()).await;
        one.connected(4).await;
        let lost = loop {
            raw.send(&frame::ping()).await;
            while one.peers.send(4, &crate::support::big(500_000)) {}
            tokio::time::sleep(Duration::from_millis(200)).await;
            if one.nodes().is_empty() {
                break true;
            }
        };
        assert!(lost);
        one.lost(4).await;
    });
}

#[test]
fn a_flood_of_half_open_connections() {
    run(async {
        let mut one = Peer::of(1).await;
        let mut flood = Vec::new();
        for number in 0..200 {
            let mut stream = TcpStream::connect(one.address()).await.unwrap();
            if number % 2 == 0 {
                // The beginning of a handshake.
                let _ = stream.write_all(&[0x16, 3, 1]).await;
            }
            flood.push(stream);
        }
        still_works(&mut one).await;
        // Those beyond the limit were closed, not kept.
        let mut open = 0;
        for stream in &flood {
            open += usize::from(matches!(stream.try_read(&mut [0; 1]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock));
        }
        assert!(open <= 32, "{open}");
    });
}
