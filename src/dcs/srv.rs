//! Endpoints from DNS: SRV records (RFC 2782) under the names that Patroni tries, asked of the name servers in resolv.conf(5).
//!
//! A resolver of its own, because that of the C library knows no SRV records and blocks. It is async, and every wait in it has a deadline.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::config::types::SrvConfig;

/// Services, with what makes their names. Those of the peers' port (`-server`) are not asked: nothing there speaks to clients.
const SERVICES: [&str; 4] = ["-client-ssl", "-client", "-ssl", ""];
/// How long one server may take for one answer.
const PATIENCE: Duration = Duration::from_millis(1_000);
/// Rounds through all servers.
const ROUNDS: usize = 2;
/// Servers that are asked, as in the C library.
const MOST_SERVERS: usize = 3;
/// Records that are used.
const MOST_RECORDS: usize = 16;
/// Longest answer over TCP, bytes.
const MOST_BYTES: usize = 16 * 1024;
/// Type SRV and class IN.
const SRV_IN: [u8; 4] = [0, 33, 0, 1];

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// The name does not exist or has no such record.
    Absent,
    /// No server answers properly.
    Silent,
}

/// A host that offers the service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    priority: u16,
    /// Counted down from the top, so that the heaviest comes first.
    lightness: u16,
    target: String,
    port: u16,
}

/// The endpoints of a domain, best first. Never empty.
///
/// # Errors
/// A sentence: nobody answers, or there are no records.
pub(crate) async fn endpoints(config: &SrvConfig) -> Result<Vec<String>, String> {
    let servers = match &config.servers {
        Some(servers) => servers.clone(),
        None => name_servers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
    };
    for service in SERVICES {
        let service = match &config.suffix {
            Some(suffix) => format!("{service}-{suffix}"),
            None => service.to_owned(),
        };
        // Patroni's rule, suffix included.
        let protocol = if service.contains("-ssl") { "https" } else { "http" };
        let name = format!("_etcd{service}._tcp.{}", config.domain.trim_end_matches('.'));
        match records(&name, &servers).await {
            Ok(records) => return Ok(records.iter().map(|one| format!("{protocol}://{}:{}", one.target, one.port)).collect()),
            Err(Failure::Absent) => {}
            Err(Failure::Silent) => {
                let list: Vec<String> = servers.iter().map(ToString::to_string).collect();
                return Err(format!("etcd3.srv: no name server ({}) answers for {name}", list.join(", ")));
            }
        }
    }
    Err(format!(
        "etcd3.srv: Can not resolve SRV for {}: it has no record _etcd-client._tcp, _etcd-client-ssl._tcp or the like",
        config.domain
    ))
}

/// The `nameserver` lines; the local host if there are none.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let mut servers: Vec<SocketAddr> =
        lines.filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok()).map(|address| (address, 53).into()).collect();
    servers.truncate(MOST_SERVERS);
    if servers.is_empty() {
        servers.push((Ipv4Addr::LOCALHOST, 53).into());
    }
    servers
}

async fn records(name: &str, servers: &[SocketAddr]) -> Result<Vec<Record>, Failure> {
    let id = u16::try_from(RandomState::new().build_hasher().finish() & 0xffff).unwrap_or_default();
    let question = question(id, name).ok_or(Failure::Absent)?;
    for _ in 0..ROUNDS {
        for server in servers {
            let answer = match timeout(PATIENCE, over_udp(*server, &question)).await {
                Ok(Ok(Answer::Truncated)) => timeout(PATIENCE, over_tcp(*server, &question)).await.unwrap_or(Err(Failure::Silent)),
                Ok(answer) => answer,
                Err(_) => Err(Failure::Silent),
            };
            match answer {
                Ok(Answer::Records(records)) if !records.is_empty() => return Ok(records),
                Ok(Answer::Records(_)) | Err(Failure::Absent) => return Err(Failure::Absent),
                Ok(Answer::Truncated) | Err(Failure::Silent) => {}
            }
        }
    }
    Err(Failure::Silent)
}

/// Sends and waits for the answer to this question; others' datagrams are passed over.
async fn over_udp(server: SocketAddr, question: &[u8]) -> Result<Answer, Failure> {
    let own: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(own).await.map_err(|_| Failure::Silent)?;
    socket.connect(server).await.map_err(|_| Failure::Silent)?;
    socket.send(question).await.map_err(|_| Failure::Silent)?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(|_| Failure::Silent)?;
        if let Some(answer) = read_answer(&buffer[..length], question) {
            return answer;
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> Result<Answer, Failure> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let length = u16::try_from(question.len()).unwrap_or(u16::MAX);
        stream.write_all(&[&length.to_be_bytes()[..], question].concat()).await?;
        let length = usize::from(stream.read_u16().await?);
        let mut answer = vec![0; length.min(MOST_BYTES)];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = exchange.await.map_err(|_| Failure::Silent)?;
    read_answer(&answer, question).unwrap_or(Err(Failure::Silent))
}

/// A question (RFC 1035, 4.1): recursion desired, one name. `None` for what cannot be a name.
fn question(id: u16, name: &str) -> Option<Vec<u8>> {
    let [high, low] = id.to_be_bytes();
    let mut message = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        message.push(length);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&SRV_IN);
    (name.len() < 254).then_some(message)
}

/// What a server said.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Records(Vec<Record>),
    /// Ask over TCP.
    Truncated,
}

/// Reads an answer; `None` if it is none to this question.
fn read_answer(message: &[u8], question: &[u8]) -> Option<Result<Answer, Failure>> {
    let header = message.get(..12)?;
    let asked = message.get(12..question.len())?;
    let is_answer = header[2] & 0x80 != 0 && header[..2] == question[..2] && header[4..6] == [0, 1];
    if !is_answer || !asked.eq_ignore_ascii_case(&question[12..]) {
        return None;
    }
    Some(match header[3] & 0x0f {
        0 if header[2] & 0x02 != 0 => Ok(Answer::Truncated),
        0 => Ok(Answer::Records(read_records(message, question.len(), u16::from_be_bytes([header[6], header[7]])))),
        // NXDOMAIN.
        3 => Err(Failure::Absent),
        _ => Err(Failure::Silent),
    })
}

/// The SRV records of the answer section, as far as it can be read.
fn read_records(message: &[u8], mut at: usize, count: u16) -> Vec<Record> {
    let mut records = Vec::new();
    for _ in 0..count {
        let Some((record, next)) = read_record(message, at) else { break };
        records.extend(record);
        at = next;
    }
    records.sort();
    records.dedup();
    records.truncate(MOST_RECORDS);
    records
}

/// One record, if it is of the right type and names a host, and where the next begins.
fn read_record(message: &[u8], at: usize) -> Option<(Option<Record>, usize)> {
    let (_, at) = read_name(message, at)?;
    let fixed = message.get(at..at + 10)?;
    let number = |at: usize| message.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let (data, next) = (at + 10, at + 10 + usize::from(number(at + 8)?));
    message.get(data..next)?;
    if fixed[..4] != SRV_IN {
        return Some((None, next));
    }
    let (target, end) = read_name(message, data + 6)?;
    let (priority, weight, port) = (number(data)?, number(data + 2)?, number(data + 4)?);
    let usable = end <= next && port != 0 && is_host(&target);
    Some((usable.then(|| Record { priority, lightness: u16::MAX - weight, target, port }), next))
}

/// Whether a target may become part of a URL. A lone dot means "not offered here".
fn is_host(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A name without its last dot, and where it ends. Pointers lead backwards only, so there is no loop.
fn read_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut end = None;
    let mut limit = at;
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => return Some((name, end.unwrap_or(at + 1))),
            1..=63 => {
                if !name.is_empty() {
                    name.push('.');
                }
                // What is not ASCII cannot be a host and is refused there.
                name.extend(message.get(at + 1..at + 1 + length)?.iter().map(|byte| char::from(*byte)));
                at += 1 + length;
            }
            0xc0.. => {
                let target = (length & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
                end = end.or(Some(at + 2));
                if target >= limit {
                    return None;
                }
                (at, limit) = (target, target);
            }
            _ => return None,
        }
        if name.len() > 254 {
            return None;
        }
    }
}

#[cfg(test)]
#[path = "srv_tests.rs"]
mod tests;
