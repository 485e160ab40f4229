//! Endpoints, which of them is good, and how a connection to one is opened.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error as ClientError};
use hyper::Uri;

use super::fault::{judge, Fault, CONNECT};
use super::tls::Tls;
use crate::config::types::{EtcdConfig, Secret, SrvConfig};
use crate::dcs::{srv, Error};
use crate::ha::input::DcsFailure;

/// How long TCP and TLS may take; each call has its own, usually shorter, limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// More endpoints than this are not learned.
const MOST_ENDPOINTS: usize = 16;

/// What a connection is for: a stalled watch must not delay a renewal, so each has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Requests with an answer.
    Calls,
    /// The watch.
    Watch,
}

impl Purpose {
    /// HTTP/2 ping interval and how long its answer may take. etcd closes connections that ping more often than every 5 s. Calls notice a dead
    /// connection by their own deadline; the watch waits for ever, so its pings are what finds a black hole (within 9 s).
    fn keep_alive(self) -> (Duration, Duration) {
        match self {
            Purpose::Calls => (Duration::from_secs(10), Duration::from_secs(5)),
            Purpose::Watch => (Duration::from_secs(6), Duration::from_secs(3)),
        }
    }
}

/// Opens connections.
pub(super) struct Connector {
    /// Where the configured endpoints come from, if not from the file.
    srv: Option<SrvConfig>,
    /// That was asked: calls go on with what there is, and never wait for it again.
    asked: AtomicBool,
    /// Held during a look-up, so that there is one at a time.
    asking: tokio::sync::Mutex<()>,
    fixed: bool,
    user: Option<(String, Secret)>,
    tls: Tls,
    endpoints: Mutex<Endpoints>,
}

/// Configured endpoints first, then the learned ones.
struct Endpoints {
    configured: Vec<String>,
    urls: Vec<String>,
    current: usize,
}

impl Connector {
    /// Checks the configuration; files are read once to say early what is wrong with them.
    pub(super) fn new(config: &EtcdConfig) -> Result<Connector, Error> {
        let configured = config.endpoints.iter().map(|url| endpoint(url)).collect::<Result<Vec<_>, _>>()?;
        if configured.is_empty() && config.srv.is_none() {
            return Err(Error::NoEndpoint);
        }
        let tls = Tls::new(config);
        if let Some(url) = configured.iter().find(|url| is_https(url)) {
            tls.check(url)?;
        }
        let endpoints = Mutex::new(Endpoints { urls: configured.clone(), configured, current: 0 });
        let (srv, asked, asking) = (config.srv.clone(), AtomicBool::new(false), tokio::sync::Mutex::default());
        Ok(Connector { srv, asked, asking, fixed: config.fixed, user: config.user.clone(), tls, endpoints })
    }

    /// Looks the endpoints up in DNS if that was never done. The caller bounds it in time; the error says why there are still none.
    pub(super) async fn prepare(&self) -> Result<(), String> {
        let Some(srv) = &self.srv else { return Ok(()) };
        let done = || self.asked.load(Ordering::Relaxed) && self.count() > 0;
        if done() {
            return Ok(());
        }
        let _turn = self.asking.lock().await;
        if done() {
            return Ok(());
        }
        self.look_up(srv).await.or_else(|reason| if self.count() > 0 { Ok(()) } else { Err(reason) })
    }

    /// Whether the endpoints come from DNS.
    pub(super) fn has_srv(&self) -> bool {
        self.srv.is_some()
    }

    /// Looks the endpoints up again. What was found last stays where nothing is found now.
    pub(super) async fn refresh(&self) {
        let Some(srv) = &self.srv else { return };
        let _turn = self.asking.lock().await;
        if let Err(reason) = self.look_up(srv).await {
            log::warn!("{reason}");
        }
    }

    async fn look_up(&self, srv: &SrvConfig) -> Result<(), String> {
        let answer = srv::endpoints(srv).await;
        self.asked.store(true, Ordering::Relaxed);
        let found: Vec<String> = answer?.iter().filter_map(|url| endpoint(url).ok()).collect();
        let mut endpoints = self.endpoints();
        if !found.is_empty() && endpoints.configured != found {
            log::info!("etcd endpoints of {}: {}", srv.domain, found.join(", "));
            *endpoints = Endpoints { configured: found.clone(), urls: found, current: 0 };
        }
        Ok(())
    }

    fn endpoints(&self) -> MutexGuard<'_, Endpoints> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many endpoints there are.
    pub(super) fn count(&self) -> usize {
        self.endpoints().urls.len()
    }

    /// The endpoint to use, `ahead` steps after the current one.
    pub(super) fn url(&self, ahead: usize) -> String {
        let endpoints = self.endpoints();
        let at = (endpoints.current + ahead) % endpoints.urls.len().max(1);
        endpoints.urls.get(at).cloned().unwrap_or_default()
    }

    /// `url` failed: the next one is current from now on.
    pub(super) fn failed(&self, url: &str) {
        let mut endpoints = self.endpoints();
        if endpoints.urls.get(endpoints.current).is_some_and(|current| current == url) {
            endpoints.current = (endpoints.current + 1) % endpoints.urls.len().max(1);
        }
    }

    /// Whether the members' own addresses may be used beside the configured ones.
    pub(super) fn learns(&self) -> bool {
        !self.fixed
    }

    /// Uses the members' client URLs beside the configured endpoints, which stay.
    pub(super) fn learn<'a>(&self, advertised: impl Iterator<Item = &'a str>) {
        let configured = self.endpoints().configured.clone();
        let mut urls = configured.clone();
        for url in advertised.filter_map(|url| endpoint(url).ok()) {
            if !urls.contains(&url) && may_learn(&configured, &url) && urls.len() < MOST_ENDPOINTS {
                urls.push(url);
            }
        }
        let mut endpoints = self.endpoints();
        if endpoints.urls != urls {
            let current = endpoints.urls.get(endpoints.current).and_then(|current| urls.iter().position(|url| url == current));
            *endpoints = Endpoints { configured, urls, current: current.unwrap_or(0) };
            log::info!("etcd endpoints: {}", endpoints.urls.join(", "));
        }
    }

    /// Opens a connection to `url`. With a user it logs in; otherwise nothing is sent yet.
    pub(super) async fn open(&self, url: &str, purpose: Purpose) -> Result<Client, Fault> {
        let (interval, patience) = purpose.keep_alive();
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(interval, patience)
            // etcd forbids pings on connections without a stream.
            .with_keep_alive_while_idle(false)
            // A member without a leader answers so at once instead of being silent.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        let options = if is_https(url) {
            self.tls.apply(options, url).map_err(|error| Fault::Unsent(DcsFailure::Error(error.to_string())))?
        } else {
            options
        };
        let Some((user, password)) = &self.user else {
            return Client::connect([url], Some(options)).await.map_err(|error| judge(url, CONNECT, &error));
        };
        match Client::connect([url], Some(options.clone().with_user(user, &password.0))).await {
            // A user is configured, but the store does not ask for one (yet).
            Err(ClientError::GRpcStatus(status)) if status.message().contains("authentication is not enabled") => {
                Client::connect([url], Some(options)).await.map_err(|error| judge(url, CONNECT, &error))
            }
            result => result.map_err(|error| judge(url, "log in", &error)),
        }
    }
}

/// Never from TLS to plain text, and never another box's idea of "localhost".
fn may_learn(configured: &[String], url: &str) -> bool {
    let downgrade = !is_https(url) && configured.iter().any(|url| is_https(url));
    let local = is_local(url) && !configured.iter().any(|url| is_local(url));
    !downgrade && !local
}

/// Checks and normalises an endpoint: scheme, host and port, nothing else. User and password are cut off, since URLs appear in logs.
fn endpoint(text: &str) -> Result<String, Error> {
    let bad = || Error::BadEndpoint { url: without_user(text) };
    let uri: Uri = text.trim().parse().map_err(|_| bad())?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(bad());
    };
    let host = authority.as_str().rsplit('@').next().unwrap_or_default();
    if authority.host().is_empty() || host.is_empty() {
        return Err(bad());
    }
    Ok(format!("{scheme}://{host}"))
}

fn without_user(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => text.to_owned(),
    }
}

fn is_https(url: &str) -> bool {
    url.starts_with("https://")
}

/// Loopback or unspecified: means another box on each box.
fn is_local(url: &str) -> bool {
    let uri: Option<Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default().trim_matches(['[', ']']);
    match host.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => host == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::{endpoint, Connector};
    use crate::config::types::{EtcdConfig, SrvConfig};

    fn config(endpoints: &[&str]) -> EtcdConfig {
        let endpoints = endpoints.iter().map(|url| (*url).to_owned()).collect();
        EtcdConfig { endpoints, fixed: false, user: None, cacert: None, cert: None, key: None, srv: None }
    }

    fn urls(connector: &Connector) -> Vec<String> {
        (0..connector.count()).map(|ahead| connector.url(ahead)).collect()
    }

    #[test]
    fn endpoints_are_checked() {
        assert_eq!(endpoint("http://10.0.0.1:2379/").unwrap(), "http://10.0.0.1:2379");
        assert_eq!(endpoint("https://u:secret@[fd00::1]:2379").unwrap(), "https://[fd00::1]:2379");
        for bad in ["", "10.0.0.1:2379", "ftp://x:1", "http://", "http://u:secret@", "http://u:secret@a b"] {
            let error = endpoint(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(Connector::new(&config(&[])).is_err());
    }

    /// Answers each SRV question with `hosts` of the moment.
    fn name_server(hosts: Arc<Mutex<Vec<&'static str>>>) -> std::net::SocketAddr {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let mut reply = buffer[..length].to_vec();
                let hosts = hosts.lock().unwrap();
                (reply[2], reply[3], reply[7]) = (0x81, if hosts.is_empty() { 3 } else { 0 }, hosts.len() as u8);
                for host in hosts.iter() {
                    reply.extend_from_slice(&[
                        0xc0,
                        12,
                        0,
                        33,
                        0,
                        1,
                        0,
                        0,
                        0,
                        0,
                        0,
                        8 + host.len() as u8,
                        0,
                        0,
                        0,
                        0,
                        0,
                        9,
                        host.len() as u8,
                    ]);
                    reply.extend_from_slice(host.as_bytes());
                    reply.push(0);
                }
                let _ = socket.send_to(&reply, peer);
            }
        });
        address
    }

    #[test]
    fn endpoints_from_dns() {
        let hosts = Arc::new(Mutex::new(vec![]));
        let servers = Some(vec![name_server(Arc::clone(&hosts))]);
        let srv = Some(SrvConfig { domain: "example.org".into(), suffix: None, servers });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connector = Connector::new(&EtcdConfig { srv: srv.clone(), ..config(&[]) }).unwrap();
        let prepare = |connector: &Connector| runtime.block_on(connector.prepare());
        assert!(prepare(&connector).unwrap_err().contains("Can not resolve SRV"));
        *hosts.lock().unwrap() = vec!["a", "b"];
        prepare(&connector).unwrap();
        assert_eq!(urls(&connector), ["https://a:9", "https://b:9"]);
        // Later changes are seen by a refresh, calls do not ask again; no answer changes nothing.
        *hosts.lock().unwrap() = vec!["c"];
        prepare(&connector).unwrap();
        assert_eq!(urls(&connector), ["https://a:9", "https://b:9"]);
        let again = |connector: &Connector| runtime.block_on(connector.refresh());
        again(&connector);
        assert_eq!(urls(&connector), ["https://c:9"]);
        connector.learn(["https://d:9", "http://e:9"].into_iter());
        hosts.lock().unwrap().clear();
        again(&connector);
        assert_eq!(urls(&connector), ["https://c:9", "https://d:9"]);
        // Configured hosts count where DNS has nothing.
        let both = Connector::new(&EtcdConfig { srv, ..config(&["http://h:1"]) }).unwrap();
        prepare(&both).unwrap();
        assert_eq!(urls(&both), ["http://h:1"]);
    }

    #[test]
    fn failed_endpoints_make_room() {
        let connector = Connector::new(&config(&["http://a:1", "http://b:1"])).unwrap();
        connector.failed("http://b:1");
        assert_eq!(connector.url(0), "http://a:1");
        connector.failed("http://a:1");
        assert_eq!(connector.url(0), "http://b:1");
        assert_eq!(connector.url(1), "http://a:1");
    }

    #[test]
    fn learned_endpoints_add_to_the_configured() {
        let connector = Connector::new(&config(&["http://a:1", "http://b:1"])).unwrap();
        connector.failed("http://a:1");
        connector.learn(["http://b:1", "http://c:1", "http://localhost:1", "http://127.0.0.1:1", "unix://x"].into_iter());
        assert_eq!(urls(&connector), ["http://b:1", "http://c:1", "http://a:1"]);
        connector.failed("http://b:1");
        connector.learn(std::iter::empty());
        assert_eq!(urls(&connector), ["http://a:1", "http://b:1"]);
    }
}
