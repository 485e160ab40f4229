//! SRV look-ups against servers of the test's own, and answers that are broken in every way.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use super::{endpoints, name_servers, question, read_answer, Answer, Failure};
use crate::config::types::SrvConfig;

/// A record: owner by pointer to the question, time to live, data.
fn record(priority: u16, weight: u16, port: u16, target: &[u8]) -> Vec<u8> {
    let mut data = [priority, weight, port].iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>();
    data.extend_from_slice(target);
    let length = u16::try_from(data.len()).unwrap().to_be_bytes();
    [&[0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60][..], &length[..], &data[..]].concat()
}

fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

fn answer(question: &[u8], flags: [u8; 2], records: &[Vec<u8>]) -> Vec<u8> {
    let mut message = question.to_vec();
    (message[2], message[3]) = (flags[0] | 0x80, flags[1]);
    message[7] = records.len() as u8;
    message.extend(records.iter().flatten());
    message
}

/// The name that a question is about, as text.
fn asked(question: &[u8]) -> String {
    let (mut at, mut labels) = (12, Vec::new());
    while question[at] != 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8(question[at + 1..end].to_vec()).unwrap());
        at = end;
    }
    labels.join(".")
}

/// Answers datagrams with what `reply` makes of a question, until the test ends.
fn serve(reply: impl Fn(&str, &[u8]) -> Option<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            if let Some(reply) = reply(&asked(&buffer[..length]), &buffer[..length]) {
                let _ = socket.send_to(&reply, peer);
            }
        }
    });
    address
}

fn look_up(suffix: Option<&str>, servers: &[SocketAddr]) -> Result<Vec<String>, String> {
    let config = SrvConfig { domain: "example.org.".into(), suffix: suffix.map(str::to_owned), servers: Some(servers.to_vec()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), endpoints(&config)).await.unwrap() })
}

fn absent(question: &[u8]) -> Option<Vec<u8>> {
    Some(answer(question, [0, 3], &[]))
}

#[test]
fn names_in_their_order() {
    let server = |wanted: &'static str| {
        serve(move |name, question| {
            let hosts = [record(20, 0, 2379, &self::name("late.example.org")), record(10, 5, 2379, &self::name("b.example.org"))];
            match name == wanted {
                true => Some(answer(question, [1, 0], &[&hosts[..], &[record(10, 9, 2380, &self::name("a.example.org"))]].concat())),
                false => absent(question),
            }
        })
    };
    let all = |protocol: &str| {
        Ok(["a.example.org:2380", "b.example.org:2379", "late.example.org:2379"].map(|host| format!("{protocol}://{host}")).to_vec())
    };
    assert_eq!(look_up(None, &[server("_etcd-client._tcp.example.org")]), all("http"));
    assert_eq!(look_up(None, &[server("_etcd-client-ssl._tcp.example.org")]), all("https"));
    assert_eq!(look_up(None, &[server("_etcd._tcp.example.org")]), all("http"));
    assert_eq!(look_up(Some("dev"), &[server("_etcd-ssl-dev._tcp.example.org")]), all("https"));
    let nothing = look_up(Some("dev"), &[server("_etcd-client._tcp.example.org")]).unwrap_err();
    assert!(nothing.contains("Can not resolve SRV for example.org"), "{nothing}");
}

#[test]
fn servers_that_fail_are_passed_over() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let refusing = serve(|_, question| Some(answer(question, [0, 5], &[])));
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let forging = serve(|_, question| {
        let mut wrong = answer(question, [0, 0], &[record(1, 1, 1, &name("evil"))]);
        wrong[0] ^= 1;
        Some(wrong)
    });
    let good = serve(|_, question| Some(answer(question, [0, 0], &[record(1, 1, 7, &name("good"))])));
    let servers = [silent.local_addr().unwrap(), refusing, closed, forging, good];
    assert_eq!(look_up(None, &servers), Ok(vec!["https://good:7".to_owned()]));
    let nobody = look_up(None, &[closed]).unwrap_err();
    assert!(nobody.contains("no name server (127.0.0.1:"), "{nobody}");
}

#[test]
fn long_answers_come_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        let (length, peer) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&answer(&buffer[..length], [2, 0], &[]), peer).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let length = stream.read(&mut buffer).unwrap();
        let hosts: Vec<_> = (0..200).map(|number| record(1, 1, 2379, &name(&format!("host-{number:03}.example.org")))).collect();
        let mut reply = answer(&buffer[2..length], [0, 0], &hosts);
        reply[7] = 200;
        stream.write_all(&u16::try_from(reply.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&reply).unwrap();
    });
    let hosts = look_up(None, &[address]).unwrap();
    assert_eq!((hosts.len(), hosts[0].as_str()), (16, "https://host-000.example.org:2379"));
}

#[test]
fn targets_that_are_no_hosts() {
    let question = question(7, "_etcd-client._tcp.example.org").unwrap();
    let read = |records: &[Vec<u8>]| read_answer(&answer(&question, [0, 0], records), &question).unwrap().unwrap();
    for bad in [&[0][..], b"\x03a/b\0", b"\x05u@x:1\0", b"\x02\xc3\xa4\0", b"\x01 \0"] {
        assert_eq!(read(&[record(1, 1, 2379, bad)]), Answer::Records(vec![]), "{bad:?}");
    }
    assert_eq!(read(&[record(1, 1, 0, &name("a"))]), Answer::Records(vec![]));
    // A pointer into the question, and two that lead in a circle.
    let Answer::Records(compressed) = read(&[record(1, 1, 1, &[1, b'x', 0xc0, 30])]) else { panic!() };
    assert_eq!(compressed[0].target, "x.example.org");
    let at = u8::try_from(question.len() + 12 + 6).unwrap();
    assert_eq!(read(&[record(1, 1, 1, &[0xc0, at])]), Answer::Records(vec![]));
    assert_eq!(read(&[record(1, 1, 1, &[0xc0, at + 2, 0xc0, at])]), Answer::Records(vec![]));
    assert!(read_answer(&question, &question).is_none(), "a question is no answer");
    assert_eq!(read_answer(&answer(&question, [0, 2], &[]), &question), Some(Err(Failure::Silent)));
    for name in ["", "a..b", &"x".repeat(64), &"x.".repeat(130)] {
        assert!(super::question(1, name).is_none(), "{name}");
    }
}

/// A step of xorshift: the same mutations in every run.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 8) as usize
}

#[test]
fn broken_answers_never_panic() {
    let question = question(7, "_etcd-client._tcp.example.org").unwrap();
    let hosts = [record(1, 1, 2379, &name("a.example.org")), record(1, 1, 2379, &[1, b'x', 0xc0, 30])];
    let good = answer(&question, [0, 0], &hosts);
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let mut read = 0;
    for _ in 0..200_000 {
        let mut message = good.clone();
        for _ in 0..1 + next(&mut state) % 4 {
            let at = next(&mut state) % message.len();
            message[at] = match next(&mut state) % 3 {
                0 => next(&mut state) as u8,
                1 => 0xc0 | (next(&mut state) as u8 & 3),
                _ => message[at] ^ 1 << (next(&mut state) % 8),
            };
        }
        message.truncate(if next(&mut state).is_multiple_of(4) { next(&mut state) % (message.len() + 1) } else { message.len() });
        if let Some(Ok(Answer::Records(records))) = read_answer(&message, &question) {
            assert!(records.iter().all(|record| super::is_host(&record.target) && record.target.len() < 256));
            read += 1;
        }
    }
    assert!(read > 1_000, "the mutations must reach the records");
}

#[test]
fn servers_of_resolv_conf() {
    let text = "# x\nsearch example.org\nnameserver 192.0.2.1 # first\n nameserver 2001:db8::1\nnameserver fe80::1%eth0\nnameserver x\n\
                nameserver 192.0.2.2\nnameserver 192.0.2.3\noptions edns0\n";
    let found: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"]);
    assert_eq!(name_servers("")[0].to_string(), "127.0.0.1:53");
}
