//! (method, path, view) to answer: pure, and tested against recordings of a real Patroni.
//!
//! The first path segment and the method pick a handler. What no handler takes is a health check for GET, HEAD and OPTIONS,
//! and an unsupported method for the others.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::ha::action::{Reply, ReplyBody};
use crate::ha::input::Command;
use crate::metrics;

use super::cluster::{self, Wording};
use super::view::View;
use super::{fences, health, json, operator, parse};

/// How the body is labelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `application/json`.
    Json,
    /// `text/html`: Patroni's label for its sentences.
    Sentence,
    /// `text/plain`.
    Plain,
    /// The error page of Python's HTTP server; the connection ends.
    ErrorPage,
    /// No body, no label.
    StatusOnly,
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub code: u16,
    /// Reason phrase, where it is not the usual one.
    pub reason: Option<String>,
    /// Label.
    pub kind: Kind,
    /// Body.
    pub body: Bytes,
}

impl Response {
    /// A status without anything else.
    #[must_use]
    pub fn status_only(good: bool) -> Response {
        Response { code: if good { 200 } else { 503 }, reason: None, kind: Kind::StatusOnly, body: Bytes::new() }
    }

    /// A sentence.
    #[must_use]
    pub fn sentence(code: u16, text: impl Into<String>) -> Response {
        Response { code, reason: None, kind: Kind::Sentence, body: text.into().into() }
    }

    /// A document.
    #[must_use]
    pub fn json(code: u16, value: &Value) -> Response {
        Response { code, reason: None, kind: Kind::Json, body: json::render(value).into() }
    }

    /// The error page for `code`.
    #[must_use]
    pub fn error_page(code: u16) -> Response {
        let (message, explanation) = page_words(code);
        Response { code, reason: None, kind: Kind::ErrorPage, body: page(code, message, explanation) }
    }

    /// The error page for a method that nothing handles.
    #[must_use]
    pub fn unsupported(method: &str) -> Response {
        let message = format!("Unsupported method ('{method}')");
        let body = page(501, &escape(&message), "Server does not support this operation");
        Response { code: 501, reason: Some(message), kind: Kind::ErrorPage, body }
    }

    /// An answer of the core. An error without a text is an error page.
    #[must_use]
    pub fn from_reply(reply: Reply) -> Response {
        match reply.body {
            ReplyBody::Text(text) if text.is_empty() && reply.code >= 400 => Response::error_page(reply.code),
            ReplyBody::Text(text) => Response::sentence(reply.code, text),
            ReplyBody::Json(value) => Response::json(reply.code, &value),
        }
    }
}

fn page_words(code: u16) -> (&'static str, &'static str) {
    match code {
        400 => ("Bad Request", "Bad request syntax or unsupported method"),
        409 => ("Conflict", "Request conflict"),
        411 => ("Length Required", "Client must specify Content-Length"),
        413 => ("Request Entity Too Large", "Entity is too large"),
        502 => ("Bad Gateway", "Invalid responses from another server/proxy"),
        503 => ("Service Unavailable", "The server cannot process the request due to a high load"),
        _ => ("Internal Server Error", "Server got itself in trouble"),
    }
}

fn page(code: u16, message: &str, explanation: &str) -> Bytes {
    format!(
        "<!DOCTYPE HTML>\n<html lang=\"en\">\n    <head>\n        <meta charset=\"utf-8\">\n        <title>Error response</title>\n    </head>\n    \
         <body>\n        <h1>Error response</h1>\n        <p>Error code: {code}</p>\n        <p>Message: {message}.</p>\n        \
         <p>Error code explanation: {code} - {explanation}.</p>\n    </body>\n</html>\n"
    )
    .into()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Where a request goes, before its body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Answered from the view, without a body.
    Read(Page),
    /// A health check of which only the code is sent (HEAD, OPTIONS).
    CodeOnly,
    /// Needs access rights, then the body.
    Unsafe(Verb),
    /// Nothing handles this method here.
    Unsupported,
}

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the paths.
pub enum Page {
    Health,
    Liveness,
    Readiness,
    Patroni,
    Cluster,
    History,
    Config,
    Metrics,
    Failsafe,
    Vip,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are methods and paths.
pub enum Verb {
    Switchover,
    CancelSwitchover,
    Failover,
    Restart,
    CancelRestart,
    Reload,
    Reinitialize,
    PatchConfig,
    PutConfig,
    Failsafe,
    Sigterm,
    Mpp,
}

/// Finds the handler.
#[must_use]
pub fn route(method: &str, path: &str) -> Route {
    let verb = match (method, first_segment(path)) {
        ("GET", segment) => return Route::Read(page_of(segment)),
        ("HEAD" | "OPTIONS", _) => return Route::CodeOnly,
        ("POST", "switchover") => Verb::Switchover,
        ("DELETE", "switchover") => Verb::CancelSwitchover,
        ("POST", "failover") => Verb::Failover,
        ("POST", "restart") => Verb::Restart,
        ("DELETE", "restart") => Verb::CancelRestart,
        ("POST", "reload") => Verb::Reload,
        ("POST", "reinitialize") => Verb::Reinitialize,
        ("PATCH", "config") => Verb::PatchConfig,
        ("PUT", "config") => Verb::PutConfig,
        ("POST", "failsafe") => Verb::Failsafe,
        ("POST", "sigterm") => Verb::Sigterm,
        ("POST", "citus" | "mpp") => Verb::Mpp,
        _ => return Route::Unsupported,
    };
    Route::Unsafe(verb)
}

fn first_segment(path: &str) -> &str {
    path.trim_start_matches('/').split('/').next().unwrap_or_default()
}

fn page_of(segment: &str) -> Page {
    match segment {
        "liveness" => Page::Liveness,
        "readiness" => Page::Readiness,
        "patroni" => Page::Patroni,
        "cluster" => Page::Cluster,
        "history" => Page::History,
        "config" => Page::Config,
        "metrics" => Page::Metrics,
        "failsafe" => Page::Failsafe,
        "vip" => Page::Vip,
        _ => Page::Health,
    }
}

/// What comes of a request.
#[derive(Debug, PartialEq)]
pub enum Routed {
    /// A finished answer.
    Done(Response),
    /// A command for the main loop; its reply is the answer.
    Ask(Command),
    /// Answer 202, then reload.
    Reload,
}

/// A request with everything that counts.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Method.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// A `Content-Length` was sent.
    pub has_length: bool,
    /// Body; empty for methods that read.
    pub body: &'a [u8],
}

/// The whole way of a request that has the right to be made.
#[must_use]
pub fn answer(question: &Question<'_>, view: &View<'_>) -> Routed {
    let (path, query) = split(question.target);
    match route(question.method, path) {
        Route::Read(page) => Routed::Done(read(page, path, &parse::query(query), view)),
        Route::CodeOnly => Routed::Done(Response::status_only(code_only(path, &parse::query(query), view))),
        Route::Unsafe(verb) => ask(verb, question, view).unwrap_or_else(Routed::Done),
        Route::Unsupported => Routed::Done(Response::unsupported(question.method)),
    }
}

/// Path and query of a target; an absolute URL is cut to them.
#[must_use]
pub fn split(target: &str) -> (&str, &str) {
    let target = target.split('#').next().unwrap_or_default();
    let local = match target.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    local.split_once('?').unwrap_or((local, ""))
}

fn code_only(path: &str, query: &[(String, String)], view: &View<'_>) -> bool {
    match page_of(first_segment(path)) {
        // Patroni answers 503 here whatever the state; that would make a probe restart a healthy agent.
        Page::Liveness => health::liveness(view),
        Page::Readiness => health::readiness(query, view),
        // No health check: as GET.
        Page::Vip => true,
        _ => health::check(path, query, view),
    }
}

fn read(page: Page, path: &str, query: &[(String, String)], view: &View<'_>) -> Response {
    match page {
        Page::Health => status(health::check(path, query, view), view),
        Page::Patroni => status(true, view),
        Page::Liveness => Response::status_only(health::liveness(view)),
        Page::Readiness => Response::status_only(health::readiness(query, view)),
        Page::Cluster => cluster_page(view),
        Page::History => match view.last_cluster() {
            Some(cluster) => Response::json(200, &cluster::history(cluster)),
            None => never_read(),
        },
        Page::Config => match view.last_cluster().and_then(|cluster| cluster.config.as_ref()) {
            Some(config) => Response::json(200, &config.value),
            None => Response::error_page(502),
        },
        Page::Vip => Response::json(200, &fences::vips(view.current, view.now, view.is_stale())),
        Page::Metrics => Response { code: 200, reason: None, kind: Kind::Plain, body: metrics::render(view).into() },
        Page::Failsafe => match view.last_cluster().and_then(|cluster| cluster.failsafe.as_ref()) {
            Some(map) => {
                let map: Map<String, Value> = map.iter().map(|(name, url)| (name.0.clone(), Value::from(url.as_str()))).collect();
                Response::json(200, &Value::Object(map))
            }
            None => Response::error_page(502),
        },
    }
}

fn status(good: bool, view: &View<'_>) -> Response {
    let body = view.current.status_body(view.identity, view.is_stale());
    Response { code: if good { 200 } else { 503 }, reason: None, kind: Kind::Json, body }
}

fn never_read() -> Response {
    Response::sentence(503, "The store was not read yet")
}

/// The members as last read, for as long as their leases can last; after that nobody knows.
fn cluster_page(view: &View<'_>) -> Response {
    let (Some(snapshot), Some(cluster)) = (view.snapshot(), view.last_cluster()) else { return never_read() };
    if snapshot.dcs_seen_at.is_none_or(|seen| view.now.since(seen).0 > snapshot.config.ttl.0 + snapshot.config.loop_wait.0) {
        return Response::sentence(503, "DCS is not accessible");
    }
    let wording = Wording { sync: snapshot.config.synchronous_mode, standby_cluster: snapshot.config.standby_cluster };
    Response::json(200, &cluster::document(cluster, wording, &view.identity.scope))
}

fn ask(verb: Verb, question: &Question<'_>, view: &View<'_>) -> Result<Routed, Response> {
    let body = |optional| operator::read_body(question.body, question.has_length, optional).map_err(Response::error_page);
    let command = match verb {
        Verb::Switchover => operator::switchover(false, &body(false)?, view).map_err(Response::from_reply)?,
        Verb::Failover => operator::switchover(true, &body(false)?, view).map_err(Response::from_reply)?,
        Verb::CancelSwitchover => Command::CancelSwitchover,
        Verb::Restart => operator::restart(&body(true)?, view).map_err(Response::from_reply)?,
        Verb::CancelRestart => Command::CancelRestart,
        Verb::Reload => return Ok(Routed::Reload),
        Verb::Reinitialize => operator::reinitialize(&body(true)?),
        Verb::PatchConfig => Command::PatchConfig(Value::Object(body(false)?)),
        Verb::PutConfig => Command::PutConfig(Value::Object(body(false)?)),
        // A leader that asks and is told 502 counts this member as silent and demotes: the safe answer as long as failsafe is not decided here.
        Verb::Failsafe => return Err(Response::error_page(502)),
        // Patroni's test hook; it does nothing outside Windows tests.
        Verb::Sigterm => return Err(Response::sentence(202, "shutdown scheduled")),
        Verb::Mpp => {
            body(false)?;
            return Err(Response::sentence(200, "OK"));
        }
    };
    Ok(Routed::Ask(command))
}
