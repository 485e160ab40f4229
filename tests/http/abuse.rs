//! Clients that mean no good. After each of them an ordinary request is served.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::live::{assert_serves, config, connect, exchange, read_all, Live};

const SOON: Duration = Duration::from_secs(3);

#[test]
fn three_hundred_half_open_connections() {
    let live = Live::start(&config());
    let silent: Vec<TcpStream> = (0..300).map(|_| connect(live.address())).collect();
    // While they are there, and when they are gone.
    live.assert_serves(SOON);
    std::thread::sleep(Duration::from_secs(1));
    live.assert_serves(SOON);
    drop(silent);
    live.assert_serves(SOON);
}

#[test]
fn slow_requests() {
    let live = Live::start(&config());
    let address = live.address();
    let mut slow: Vec<TcpStream> = (0..40).map(|_| connect(address)).collect();
    let begun = Instant::now();
    let mut served = 0;
    while begun.elapsed() < Duration::from_secs(7) {
        for stream in &mut slow {
            let _ = stream.write_all(b"G");
        }
        std::thread::sleep(Duration::from_millis(200));
        assert_serves(address, SOON);
        served += 1;
    }
    assert!(served > 3);
    // By now all of them were told to go.
    for stream in &mut slow {
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let begun = Instant::now();
        read_all(stream);
        assert!(begun.elapsed() < Duration::from_millis(900), "a slow connection is still open");
    }
}

#[test]
fn slow_bodies() {
    let live = Live::start(&config());
    let mut stream = connect(live.address());
    stream.write_all(b"POST /switchover HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{").unwrap();
    let begun = Instant::now();
    read_all(&mut stream);
    assert!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    live.assert_serves(SOON);
}

#[test]
fn huge_heads_and_bodies() {
    let live = Live::start(&config());
    let address = live.address();
    let head = format!("GET /primary HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(1_000_000));
    assert!(!exchange(address, head.as_bytes()).contains("200 OK"));
    let many: String = (0..5000).map(|index| format!("X-{index}: y\r\n")).collect();
    assert!(!exchange(address, format!("GET /primary HTTP/1.1\r\n{many}\r\n").as_bytes()).contains("200 OK"));
    let target = format!("GET /{} HTTP/1.1\r\n\r\n", "z".repeat(100_000));
    assert!(!exchange(address, target.as_bytes()).contains("200 OK"));
    let body = format!("PATCH /config HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n{}", "{".repeat(70_000));
    assert!(exchange(address, body.as_bytes()).starts_with("HTTP/1.1 413"));
    let claimed = exchange(address, b"PATCH /config HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{");
    assert!(claimed.starts_with("HTTP/1.1 413"), "{claimed}");
    let mut chunked = b"PUT /config HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..100 {
        chunked.extend_from_slice(format!("1000\r\n{}\r\n", "x".repeat(4096)).as_bytes());
    }
    assert!(exchange(address, &chunked).starts_with("HTTP/1.1 413"));
    live.assert_serves(SOON);
}

#[test]
fn deeply_nested_json() {
    let live = Live::start(&config());
    let body = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    let text = format!("PATCH /config HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert!(exchange(live.address(), text.as_bytes()).starts_with("HTTP/1.1 400"));
    live.assert_serves(SOON);
}

#[test]
fn garbage() {
    let live = Live::start(&config());
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    for round in 0..60 {
        let noise: Vec<u8> = (0..round * 37 + 1)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        let mut stream = connect(live.address());
        let _ = stream.write_all(&noise);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert!(!read_all(&mut stream).contains("200 OK"));
    }
    for text in [
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET /\u{0} HTTP/1.1\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET http://[::1 HTTP/1.1\r\n\r\n",
        "POST /switchover HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "POST /switchover HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}",
    ] {
        let mut stream = connect(live.address());
        let _ = stream.write_all(text.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        read_all(&mut stream);
    }
    let odd = "GET /primary?lag=%&lag=%zz&tag_=&=x&&?#é HTTP/1.1\r\nConnection: close\r\n\r\n";
    let _ = exchange(live.address(), odd.as_bytes());
    let star = exchange(live.address(), b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(star.starts_with("HTTP/1.1 503"), "{star}");
    live.assert_serves(SOON);
}

#[test]
fn a_client_that_never_reads() {
    let live = Live::start(&config());
    let streams: Vec<TcpStream> = (0..16)
        .map(|_| {
            let mut stream = connect(live.address());
            stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            let many = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20_000);
            let _ = stream.write_all(many.as_bytes());
            stream
        })
        .collect();
    live.assert_serves(SOON);
    drop(streams);
}

#[test]
fn idle_connections_give_way() {
    let live = Live::start(&config());
    let idle: Vec<TcpStream> = (0..16)
        .map(|_| {
            let mut stream = connect(live.address());
            stream.write_all(b"GET /liveness HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    live.assert_serves(Duration::from_secs(1));
    drop(idle);
}

#[test]
fn many_ordinary_clients() {
    let live = Live::start(&config());
    let address = live.address();
    let clients: Vec<_> =
        (0..40).map(|_| std::thread::spawn(move || (0..20).for_each(|_| assert_serves(address, Duration::from_secs(10))))).collect();
    for client in clients {
        client.join().unwrap();
    }
}

/// The server of [`no_file_descriptors_left`], in a process of its own: few descriptors, and it lives until its input ends.
#[test]
#[ignore = "a part of no_file_descriptors_left"]
fn server_with_few_descriptors() {
    use rustix::process::{setrlimit, Resource, Rlimit};
    setrlimit(Resource::Nofile, Rlimit { current: Some(40), maximum: Some(40) }).unwrap();
    let live = Live::start(&config());
    println!("\nADDRESS {}", live.address());
    let _ = std::io::stdin().lock().read_line(&mut String::new());
    drop(live);
}

#[test]
fn no_file_descriptors_left() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "abuse::server_with_few_descriptors", "--nocapture", "--test-threads=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| line.unwrap().strip_prefix("ADDRESS ").map(|text| text.parse().unwrap())).unwrap();
    let half_open: Vec<TcpStream> = (0..200).map(|_| connect(address)).collect();
    std::thread::sleep(Duration::from_secs(1));
    drop(half_open);
    assert_serves(address, Duration::from_secs(5));
    let mut held: Vec<TcpStream> = (0..100).map(|_| connect(address)).collect();
    for stream in &mut held {
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n");
    }
    assert_serves(address, Duration::from_secs(15));
    let metrics = exchange(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let errors = metrics.lines().find_map(|line| line.strip_prefix("mastiff_http_accept_errors_total{scope=\"bench\",name=\"n1\"} "));
    assert!(errors.unwrap().parse::<u64>().unwrap() > 0, "the limit was never reached");
    drop(held);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}
