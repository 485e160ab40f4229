//! Calls to other members' REST API: every call under a deadline, every answer cut at a limit.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::config::types::CtlConfig;
use crate::ha::types::{Instant, Lsn, MemberName, Timeline};
use crate::ha::view::{PeerStatus, PeersView, Tags};

use super::access::basic;
use super::{json, parse, Error};
use crate::tls::{self, Stream};

/// Longest answer that is read, bytes.
const ANSWER_BYTES: usize = 1024 * 1024;

/// Calls members, over TLS where their address is https. Clones share certificates.
#[derive(Clone, Debug, Default)]
pub struct Client {
    tls: Arc<tls::Client>,
}

impl Client {
    /// As `ctl` says it. Certificates are read for the first https call, and again when they have changed.
    #[must_use]
    pub fn new(config: &CtlConfig) -> Client {
        Client { tls: Arc::new(tls::Client::new(config)) }
    }

    /// One request. `auth` is user and password. The answer's code and body, whatever the code is.
    ///
    /// # Errors
    /// No answer within `deadline`, or none that can be understood.
    pub async fn call(
        &self,
        method: &str,
        url: &str,
        body: Option<Value>,
        auth: Option<(&str, &str)>,
        deadline: Duration,
    ) -> Result<(u16, Vec<u8>), Error> {
        let target = Target::parse(url)?;
        let request = request(method, &target, url, body.as_ref(), auth)?;
        match tokio::time::timeout(deadline, exchange(&self.tls, &target, url, request)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { url: url.to_owned(), waited: deadline }),
        }
    }

    /// Asks every member for its status at the same time. Returns within `deadline`; who has not answered by then is `None`.
    pub async fn ask_peers(&self, peers: Vec<(MemberName, String)>, deadline: Duration, now: Instant) -> PeersView {
        let mut view = PeersView { asked_at: now, ..PeersView::default() };
        let mut questions = JoinSet::new();
        for (name, url) in peers {
            view.peers.insert(name.clone(), None);
            let client = self.clone();
            questions.spawn(async move {
                let answer = client.call("GET", &url, None, None, deadline).await;
                match answer {
                    Ok((200, body)) => {
                        let answer: Option<Value> = serde_json::from_slice(&body).ok();
                        let state = answer.as_ref().and_then(|answer| answer.get("state")).and_then(Value::as_str);
                        (name, state == Some("starting"), answer.as_ref().and_then(peer_status))
                    }
                    Ok((code, _)) => {
                        log::debug!("{url} answered {code}");
                        (name, false, None)
                    }
                    Err(error) => {
                        log::debug!("{error}");
                        (name, false, None)
                    }
                }
            });
        }
        while let Some(answered) = questions.join_next().await {
            if let Ok((name, starting, status)) = answered {
                if starting && status.is_none() {
                    view.starting.insert(name.clone());
                }
                view.peers.insert(name, status);
            }
        }
        view
    }

    /// Whether an agent answers at `api_url`, whatever it says.
    pub async fn is_running(&self, api_url: &str, deadline: Duration) -> bool {
        let base = api_url.strip_suffix("/patroni").unwrap_or(api_url.trim_end_matches('/'));
        self.call("GET", &format!("{base}/liveness"), None, None, deadline).await.is_ok()
    }
}

/// Where a URL leads.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    authority: &'a str,
    host: &'a str,
    port: u16,
    path: &'a str,
    secure: bool,
}

impl Target<'_> {
    fn parse(url: &str) -> Result<Target<'_>, Error> {
        let bad = |reason| Error::Url { url: url.to_owned(), reason };
        let (secure, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(bad("it does not begin with http:// or https://")),
        };
        let usual = if secure { "443" } else { "80" };
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let authority = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':').unwrap_or(usual)),
            None => authority.rsplit_once(':').unwrap_or((authority, usual)),
        };
        let port = port.parse().map_err(|_| bad("its port is no number"))?;
        if host.is_empty() {
            return Err(bad("it has no host"));
        }
        Ok(Target { authority, host, port, path: if path.is_empty() { "/" } else { path }, secure })
    }
}

fn request(
    method: &str,
    target: &Target<'_>,
    url: &str,
    body: Option<&Value>,
    auth: Option<(&str, &str)>,
) -> Result<hyper::Request<Full<Bytes>>, Error> {
    let mut builder = hyper::Request::builder().method(method).uri(target.path).header(HOST, target.authority).header(CONNECTION, "close");
    if let Some((user, password)) = auth {
        builder = builder.header(AUTHORIZATION, basic(user, password));
    }
    if body.is_some() {
        builder = builder.header(CONTENT_TYPE, "application/json");
    }
    let bytes = body.map(|body| Bytes::from(json::render(body))).unwrap_or_default();
    builder.body(Full::new(bytes)).map_err(|_| Error::Url { url: url.to_owned(), reason: "it cannot be sent as a request" })
}

async fn exchange(
    tls: &tls::Client,
    target: &Target<'_>,
    url: &str,
    request: hyper::Request<Full<Bytes>>,
) -> Result<(u16, Vec<u8>), Error> {
    let connect = |source| Error::Connect { url: url.to_owned(), source };
    let broken = |source| Error::Exchange { url: url.to_owned(), source };
    let stream = TcpStream::connect((target.host, target.port)).await.map_err(connect)?;
    let _ = stream.set_nodelay(true);
    let stream = match target.secure {
        false => Stream::Plain(stream),
        true => tls.connect(target.host, stream).await.map_err(|reason| Error::Handshake { url: url.to_owned(), reason })?,
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let talk = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let code = answer.status().as_u16();
        match Limited::new(answer.into_body(), ANSWER_BYTES).collect().await {
            Ok(collected) => Ok((code, collected.to_bytes().to_vec())),
            Err(error) if error.is::<LengthLimitError>() => Err(Error::TooLong { url: url.to_owned(), limit: ANSWER_BYTES }),
            Err(error) => match error.downcast::<hyper::Error>() {
                Ok(source) => Err(broken(*source)),
                Err(_) => Err(Error::TooLong { url: url.to_owned(), limit: ANSWER_BYTES }),
            },
        }
    };
    let (mut talk, mut connection) = (pin!(talk), pin!(connection));
    let mut ended = None;
    loop {
        // The connection may end first; what it has read is still to be collected, and if that is nothing, its error says why.
        tokio::select! {
            biased;
            result = &mut talk => return match (result, ended) {
                (Err(Error::Exchange { source, .. }), Some(Err(cause))) if source.is_canceled() => Err(broken(cause)),
                (result, _) => result,
            },
            end = &mut connection, if ended.is_none() => ended = Some(end),
        }
    }
}

/// A member's status as Patroni's election reads it. An answer without positions comes from a member that cannot be reckoned with.
#[must_use]
pub fn peer_status(answer: &Value) -> Option<PeerStatus> {
    let positions = answer.get("wal").filter(|wal| parse::truthy(wal)).or_else(|| answer.get("xlog"))?.as_object()?;
    let position = |name: &str| positions.get(name).and_then(Value::as_u64).unwrap_or(0);
    let role = answer.get("role").and_then(Value::as_str).unwrap_or_default();
    let in_recovery = position("location") == 0 && !matches!(role, "primary" | "master");
    let newest = if in_recovery { position("received_location").max(position("replayed_location")) } else { position("location") };
    let timeline = answer.get("timeline").and_then(Value::as_u64).and_then(|timeline| u32::try_from(timeline).ok());
    Some(PeerStatus {
        in_recovery,
        position: Lsn(newest),
        timeline: timeline.filter(|timeline| *timeline != 0).map(Timeline),
        dcs_last_seen: answer.get("dcs_last_seen").and_then(Value::as_u64).unwrap_or(0),
        watchdog_failed: answer.get("watchdog_failed").is_some_and(parse::truthy),
        tags: tags(answer.get("tags")),
    })
}

/// Tags as published: any non-empty text is true for a switch, priorities are numbers or texts.
fn tags(published: Option<&Value>) -> Tags {
    let get = |name: &str| published.and_then(|tags| tags.get(name)).filter(|value| !value.is_null());
    let switch = |name: &str| get(name).is_some_and(parse::truthy);
    let priority = |name: &str| {
        let text = get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        text.and_then(|text| parse::with_unit(&text, "")).unwrap_or(1)
    };
    let failover_priority = if switch("nofailover") { 0 } else { priority("failover_priority") };
    let sync_priority = if switch("nosync") { 0 } else { priority("sync_priority") };
    Tags {
        nofailover: get("nofailover").map_or(failover_priority <= 0, parse::truthy),
        failover_priority,
        clonefrom: switch("clonefrom"),
        nosync: get("nosync").map_or(sync_priority <= 0, parse::truthy),
        sync_priority,
        noloadbalance: switch("noloadbalance"),
        replicatefrom: get("replicatefrom").and_then(Value::as_str).map(MemberName::from),
        nostream: switch("nostream"),
    }
}

#[cfg(test)]
mod tests {
    use super::{peer_status, Target};
    use crate::ha::types::{Lsn, Timeline};
    use serde_json::json;

    #[test]
    fn urls() {
        let target = Target::parse("http://[fe80::1]:8008/patroni").unwrap();
        assert_eq!((target.host, target.port, target.path, target.authority), ("fe80::1", 8008, "/patroni", "[fe80::1]:8008"));
        assert_eq!(Target::parse("http://h").unwrap().path, "/");
        let target = Target::parse("https://h/x").unwrap();
        assert_eq!((target.host, target.port, target.secure), ("h", 443, true));
        for bad in ["ftp://h/", "h:1/", "http://:80/", "http://h:x/", "http://h:99999/", "", "http://"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_standby() {
        let answer = json!({"role": "replica", "timeline": 5, "dcs_last_seen": 7, "tags": {"nofailover": "x", "failover_priority": "2"},
            "xlog": {"received_location": 10, "replayed_location": 12, "paused": false}});
        let status = peer_status(&answer).unwrap();
        assert!(status.in_recovery && status.tags.nofailover && !status.watchdog_failed);
        assert_eq!((status.position, status.timeline, status.dcs_last_seen), (Lsn(12), Some(Timeline(5)), 7));
    }

    #[test]
    fn a_primary_and_others() {
        let status = peer_status(&json!({"role": "primary", "xlog": {"location": 9}, "watchdog_failed": true})).unwrap();
        assert!(!status.in_recovery && status.watchdog_failed);
        assert_eq!(status.position, Lsn(9));
        assert_eq!(peer_status(&json!({"role": "primary", "state": "stopped"})), None);
        assert_eq!(peer_status(&json!([1])), None);
        assert_eq!(peer_status(&json!({"xlog": null})), None);
        let tags = peer_status(&json!({"xlog": {}, "tags": {"failover_priority": 0, "sync_priority": "3"}})).unwrap().tags;
        assert!(tags.nofailover && !tags.nosync);
        assert_eq!(tags.sync_priority, 3);
    }
}
