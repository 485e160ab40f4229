//! Who may call the unsafe endpoints: allowlist, then basic authentication. And the headers that every answer carries.

use std::net::IpAddr;
use std::time::Duration;

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use hyper::header::{HeaderName, HeaderValue};

use crate::config::types::RestConfig;

use super::routes::Response;
use super::view::Identity;

/// All name look-ups for one request together.
const RESOLVE: Duration = Duration::from_secs(2);

/// What the client's certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Plain HTTP, or nobody asked for one.
    NotAsked,
    /// None was shown, although unsafe requests need one.
    Missing,
    /// One that is trusted.
    Certificate,
}

/// The part of `restapi` that a reload can change without a new listener.
pub struct Settings {
    /// `Basic …` as it must arrive.
    expected: Option<String>,
    networks: Vec<Network>,
    hosts: Vec<String>,
    include_members: bool,
    restricted: bool,
    /// `Server` header.
    pub server: HeaderValue,
    /// `http_extra_headers`.
    pub extra: Vec<(HeaderName, HeaderValue)>,
}

impl Settings {
    /// Settings from the configuration. Entries that cannot be used are named in the log.
    #[must_use]
    pub fn new(config: &RestConfig, identity: &Identity) -> Settings {
        let entries = config.allowlist.as_deref().unwrap_or_default();
        let mut networks = Vec::new();
        let mut hosts = Vec::new();
        for entry in entries {
            match Network::parse(entry) {
                Some(network) => networks.push(network),
                None if entry.contains('/') => log::error!("restapi.allowlist: \"{entry}\" is not a network: write ADDRESS/BITS"),
                None => hosts.push(entry.clone()),
            }
        }
        let expected = config.authentication.as_ref().map(|(user, password)| basic(user, &password.0));
        Settings {
            expected,
            networks,
            hosts,
            include_members: config.allowlist_include_members,
            restricted: !entries.is_empty() || config.allowlist_include_members,
            server: server_header(&config.server_tokens, identity),
            extra: config.extra_headers.iter().filter_map(header).collect(),
        }
    }

    /// 403 without a certificate where one is needed. Who has one needs no password, as with Patroni.
    #[must_use]
    pub fn check_proof(&self, proof: Proof, header: Option<&[u8]>) -> Option<Response> {
        match proof {
            Proof::Certificate => None,
            Proof::Missing => Some(Response::sentence(403, "client certificate required")),
            Proof::NotAsked => self.check_password(header),
        }
    }

    /// 401 unless the right user and password came with the request.
    #[must_use]
    pub fn check_password(&self, header: Option<&[u8]>) -> Option<Response> {
        let expected = self.expected.as_ref()?;
        match header {
            None => Some(Response::sentence(401, "no auth header received")),
            Some(given) if same(expected.as_bytes(), given) => None,
            Some(_) => Some(Response::sentence(401, "not authenticated")),
        }
    }

    /// 403 unless `peer` is on the allowlist, or a member (`api_urls`) where members count.
    pub async fn check_address(&self, peer: IpAddr, api_urls: Vec<String>) -> Option<Response> {
        let peer = peer.to_canonical();
        if !self.restricted || self.networks.iter().any(|network| network.contains(peer)) {
            return None;
        }
        let members = api_urls.iter().filter(|_| self.include_members).filter_map(|url| host_of(url));
        let hosts: Vec<&str> = self.hosts.iter().map(String::as_str).chain(members).collect();
        let known = tokio::time::timeout(RESOLVE, any_is(&hosts, peer)).await.unwrap_or(false);
        (!known).then(|| Response::sentence(403, "Access is denied"))
    }
}

async fn any_is(hosts: &[&str], peer: IpAddr) -> bool {
    for host in hosts {
        if let Ok(address) = host.parse::<IpAddr>() {
            if address.to_canonical() == peer {
                return true;
            }
        } else if let Ok(mut addresses) = tokio::net::lookup_host((*host, 0)).await {
            if addresses.any(|address| address.ip().to_canonical() == peer) {
                return true;
            }
        }
    }
    false
}

/// The host of a URL, without brackets.
fn host_of(url: &str) -> Option<&str> {
    let authority = url.split_once("://")?.1.split(['/', '?']).next()?;
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    match address.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(host, _)| host),
        None => Some(address.rsplit_once(':').map_or(address, |(host, _)| host)),
    }
}

/// The value of an `Authorization` header.
#[must_use]
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Compares without telling by its time where the difference is.
fn same(expected: &[u8], given: &[u8]) -> bool {
    let mut difference = u8::from(expected.len() != given.len());
    for (index, byte) in given.iter().enumerate() {
        let other = expected.get(index % expected.len().max(1)).copied().unwrap_or(0);
        difference |= std::hint::black_box(byte ^ other);
    }
    difference == 0
}

fn server_header(tokens: &str, identity: &Identity) -> HeaderValue {
    let text = match tokens.to_ascii_lowercase().as_str() {
        "productonly" => "Patroni".to_owned(),
        "minimal" => format!("Patroni/{}", identity.version),
        _ => format!("Patroni/{} ({})", identity.version, identity.agent),
    };
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("Patroni"))
}

fn header((name, value): &(String, String)) -> Option<(HeaderName, HeaderValue)> {
    match (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str())) {
        (Ok(name), Ok(value)) => Some((name, value)),
        _ => {
            log::error!("restapi.http_extra_headers: \"{name}\" cannot be sent as a header and is left out");
            None
        }
    }
}

/// An address with a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// `ADDRESS`, `ADDRESS/BITS` or `ADDRESS/MASK`.
    fn parse(text: &str) -> Option<Network> {
        let (address, bits) = text.trim().split_once('/').map_or((text.trim(), None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(mask) if mask.contains('.') => {
                let mask = u32::from(mask.parse::<std::net::Ipv4Addr>().ok()?);
                (mask.leading_ones() == mask.count_ones()).then_some(mask.count_ones() as u8)?
            }
            Some(bits) => bits.parse().ok()?,
        };
        (bits <= most).then_some(Network { address, bits })
    }

    fn contains(self, peer: IpAddr) -> bool {
        match (self.address, peer) {
            (IpAddr::V4(net), IpAddr::V4(peer)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                u32::from(net) & mask == u32::from(peer) & mask
            }
            (IpAddr::V6(net), IpAddr::V6(peer)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                u128::from(net) & mask == u128::from(peer) & mask
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{basic, host_of, same, Network};

    #[test]
    fn networks() {
        let inside = |network: &str, peer: &str| Network::parse(network).unwrap().contains(peer.parse().unwrap());
        assert!(inside("10.0.0.0/8", "10.1.2.3"));
        assert!(inside("10.0.0.0/255.0.0.0", "10.1.2.3"));
        assert!(!inside("10.0.0.0/8", "11.1.2.3"));
        assert!(inside("0.0.0.0/0", "1.2.3.4"));
        assert!(!inside("0.0.0.0/0", "::1"));
        assert!(inside("::/0", "::1"));
        assert!(inside("fe80::/10", "fe80::1"));
        assert!(inside("192.0.2.1", "192.0.2.1"));
        for bad in ["10.0.0.0/33", "host", "10.0.0.0/x", "::/129", "10.0.0.0/255.0.255.0", "/"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn comparison() {
        assert!(same(b"abc", b"abc"));
        for other in [&b"abd"[..], b"ab", b"abcabc", b"", b"abcd"] {
            assert!(!same(b"abc", other));
        }
        assert!(!same(b"", b"x"));
        assert_eq!(basic("u", "p"), "Basic dTpw");
    }

    #[test]
    fn hosts() {
        assert_eq!(host_of("http://[::1]:8008/patroni"), Some("::1"));
        assert_eq!(host_of("http://a:8008/patroni"), Some("a"));
        assert_eq!(host_of("x"), None);
    }
}
