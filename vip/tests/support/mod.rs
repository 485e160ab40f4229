//! Networks for tests: hosts as network namespaces on a bridge in a namespace of its own, removed also when a test fails.
//!
//! Sockets belong to the namespace of the thread that opens them, for ever. So a test opens its holders on short-lived threads
//! inside (see [`Net::inside`]) and uses them outside.
#![allow(dead_code)]

use std::fs::File;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mastiff_vip::{Address, Event, Holder};
use rustix::thread::{move_into_link_name_space, LinkNameSpaceType};

/// The virtual address of the tests.
pub(crate) const VIP4: &str = "10.77.0.50";
/// The same for IPv6.
pub(crate) const VIP6: &str = "2001:db8:77::50";
/// Port of the echo servers.
const ECHO: u16 = 7777;

static NETS: AtomicU32 = AtomicU32::new(0);

/// Namespaces and what connects them.
pub(crate) struct Net {
    prefix: String,
    started: Instant,
}

/// Whether these tests can run; says why not.
pub(crate) fn possible() -> bool {
    let root = rustix::process::geteuid().is_root();
    let ip = Command::new("ip").arg("netns").output().is_ok_and(|output| output.status.success());
    if !root || !ip {
        eprintln!("skipped: network namespaces need root and iproute2");
    }
    root && ip
}

/// Runs a command; its output. Panics when it fails.
pub(crate) fn run(line: &str) -> String {
    let output = attempt(line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that may fail.
pub(crate) fn attempt(line: &str) -> Output {
    let mut words = line.split_whitespace();
    Command::new(words.next().unwrap()).args(words).output().unwrap()
}

/// Waits until a condition holds. Panics with `what` after ten seconds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Net {
    /// A switch with these hosts, each with `eth0`, 10.77.0.N/24 and 2001:db8:77::N/64, N from 1 on.
    pub(crate) fn new(hosts: &[&str]) -> Net {
        sweep();
        let prefix = format!("mvip-{}-{}", std::process::id(), NETS.fetch_add(1, Ordering::Relaxed));
        let net = Net { prefix, started: Instant::now() };
        net.add_host("sw");
        net.ip("sw", "link add br0 type bridge");
        net.ip("sw", "link set br0 up");
        for (number, host) in hosts.iter().enumerate() {
            net.add_host(host);
            net.ip("sw", &format!("link add name port-{host} type veth peer name eth0 netns {}", net.name(host)));
            net.ip("sw", &format!("link set port-{host} master br0 up"));
            net.ip(host, "link set eth0 up");
            net.ip(host, &format!("addr add 10.77.0.{}/24 dev eth0", number + 1));
            net.ip(host, &format!("addr add 2001:db8:77::{}/64 dev eth0 nodad", number + 1));
        }
        // A port's link-local address and carrier settle within this.
        for host in hosts {
            until("the links run", || net.ip(host, "link show eth0").contains("state UP"));
        }
        net
    }

    fn add_host(&self, host: &str) {
        run(&format!("ip netns add {}", self.name(host)));
        self.ip(host, "link set lo up");
        self.sysctl(host, "net/ipv6/conf/default/accept_dad", "0");
    }

    /// The namespace of a host.
    pub(crate) fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// `ip` inside a host.
    pub(crate) fn ip(&self, host: &str, arguments: &str) -> String {
        run(&format!("ip -n {} {arguments}", self.name(host)))
    }

    /// A command inside a host.
    pub(crate) fn exec(&self, host: &str, line: &str) -> String {
        run(&format!("ip netns exec {} {line}", self.name(host)))
    }

    /// Sets a kernel variable inside a host.
    pub(crate) fn sysctl(&self, host: &str, name: &str, value: &str) {
        let (path, value) = (format!("/proc/sys/{name}"), value.to_owned());
        self.inside(host, move || std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}")));
    }

    /// Does something on a thread inside a host.
    pub(crate) fn inside<T: Send + 'static>(&self, host: &str, what: impl FnOnce() -> T + Send + 'static) -> T {
        self.thread(host, what).join().unwrap()
    }

    /// Starts a thread inside a host.
    pub(crate) fn thread<T: Send + 'static>(&self, host: &str, what: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let path = format!("/run/netns/{}", self.name(host));
        std::thread::spawn(move || {
            let namespace = File::open(path).unwrap();
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network)).unwrap();
            what()
        })
    }

    /// A holder inside a host, ready.
    pub(crate) fn holder(&self, host: &str, address: Address) -> Holder {
        let mut holder = self.inside(host, || Holder::open(address, 1).unwrap());
        holder.check().unwrap();
        holder
    }

    /// A holder of a single address on `eth0`.
    pub(crate) fn vip(&self, host: &str, ip: &str) -> Holder {
        self.holder(host, Address::new(ip.parse().unwrap(), "eth0"))
    }

    /// The clock for holders.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Polls a holder until an event comes; the events up to then.
    pub(crate) fn event(&self, holder: &mut Holder, what: &str, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut seen = Vec::new();
        until(what, || {
            seen.extend(holder.poll_events(self.now()));
            seen.iter().any(&wanted)
        });
        seen
    }

    /// The hardware address of a host.
    pub(crate) fn mac(&self, host: &str) -> String {
        let text = self.ip(host, "-br link show eth0");
        text.split_whitespace().nth(2).unwrap().to_owned()
    }

    /// A server in a host that answers each datagram with the host's name.
    pub(crate) fn echo(&self, host: &str) -> Echo {
        let name = host.to_owned();
        let socket = self.inside(host, || UdpSocket::bind(("::", ECHO)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(name.as_bytes(), from);
                }
            }
        });
        Echo { stop, thread: Some(thread) }
    }

    /// Sends one datagram from a host to the address; who answered within 300 ms.
    pub(crate) fn who_answers(&self, host: &str, ip: &str) -> Option<String> {
        let to = SocketAddr::new(ip.parse().unwrap(), ECHO);
        self.inside(host, move || {
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            socket.send_to(b"?", to).ok()?;
            let mut buffer = [0; 16];
            let (length, _) = socket.recv_from(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in namespaces().iter().filter(|name| name.starts_with(&format!("{}-", self.prefix))) {
            attempt(&format!("ip netns del {name}"));
        }
    }
}

/// An echo server; ends with its owner.
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn namespaces() -> Vec<String> {
    let text = String::from_utf8_lossy(&attempt("ip netns list").stdout).into_owned();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Removes what a killed run left behind.
fn sweep() {
    for name in namespaces() {
        let process = name.strip_prefix("mvip-").and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !std::path::Path::new("/proc").join(process).exists()) {
            attempt(&format!("ip netns del {name}"));
        }
    }
}
