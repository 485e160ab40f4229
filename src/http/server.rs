//! The server: one thread with its own runtime, hyper's HTTP/1, and a limit for everything that a client can make it hold.
//!
//! Nothing here ends the server: what cannot be accepted, read or answered costs the one connection, and a lack of file descriptors is waited out.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener, ToSocketAddrs};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{HeaderValue, AGE, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, SERVER, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, Notify};
use tokio::task::LocalSet;

use crate::clock;
use crate::config::types::RestConfig;
use crate::ha::input::Command;
use crate::ha::types::Millis;
use crate::metrics::{count, METRICS};
use crate::tls::{self, Stream};

use super::access::{Proof, Settings};
use super::operator;
use super::routes::{self, Kind, Question, Response, Route, Routed};
use super::slots::{Connection, Pool, READING};
use super::view::{Current, Identity, Published, View};
use super::{Error, Operator, Request};

/// Longest head and longest body of a request, bytes each.
const REQUEST_BYTES: usize = 64 * 1024;
/// Longest body that is read to its end only to be refused.
const DISCARDED_BYTES: u64 = 1024 * 1024;
/// How long more of it is waited for.
const LINGER: Duration = Duration::from_millis(300);
/// Commands that may wait for the main loop at a time: their slots are missing for health checks.
const COMMANDS: usize = 4;
/// Questions for a fresh position in flight.
const REFRESHES: usize = 6;
/// How long a fresh position is waited for.
const REFRESH_PATIENCE: Duration = Duration::from_millis(400);
/// Between the answer to `POST /reload` and the reload: tools read the server's load time after the answer and wait for it to change.
const RELOAD_DELAY: Duration = Duration::from_secs(1);
/// How often the files of certificates are looked at.
const RENEWAL: Duration = Duration::from_secs(60);
/// Pause after an accept error that only time can heal.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A running server. Dropping it ends the thread.
pub struct Server {
    address: SocketAddr,
    identity: Identity,
    settings: Arc<Mutex<Arc<Settings>>>,
    tls: Arc<Mutex<Option<Arc<tls::Server>>>>,
    renew: Arc<Notify>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes over certificates, passwords, allowlist and headers. Another `listen` needs a new server.
    ///
    /// # Errors
    /// Certificates that cannot be used; then nothing has changed.
    pub fn reconfigure(&self, config: &RestConfig) -> Result<(), Error> {
        let tls = tls::Server::load(config)?;
        let next = Arc::new(Settings::new(config, &self.identity));
        set(&self.tls, tls);
        set(&self.settings, next);
        Ok(())
    }

    /// Looks at the files of the certificates now, instead of within a minute.
    pub fn renew_certificates(&self) {
        self.renew.notify_one();
    }

    /// Whether the thread is alive; if not, spawn another.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends the thread and frees the port. Returns within milliseconds: open connections are dropped.
    pub fn stop(mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

fn get<T: Clone>(shared: &Mutex<T>) -> T {
    shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn set<T>(shared: &Mutex<T>, value: T) {
    *shared.lock().unwrap_or_else(PoisonError::into_inner) = value;
}

/// Starts the server. Fails at once if it cannot listen or has no usable certificate; everything later is its own affair.
pub fn spawn(config: &RestConfig, identity: Identity, published: Arc<Published>, commands: mpsc::Sender<Request>) -> Result<Server, Error> {
    let tls = Arc::new(Mutex::new(tls::Server::load(config)?));
    let listener = listen(config)?;
    let address = listener.local_addr().map_err(Error::Thread)?;
    let settings = Arc::new(Mutex::new(Arc::new(Settings::new(config, &identity))));
    let (stop, renew) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(1).build().map_err(Error::Thread)?;
    let shared = Shared { identity: identity.clone(), published, commands, settings: Arc::clone(&settings), tls: Arc::clone(&tls) };
    let (stopped, asked) = (Arc::clone(&stop), Arc::clone(&renew));
    let thread = std::thread::Builder::new()
        .name("http".to_owned())
        .spawn(move || LocalSet::new().block_on(&runtime, run(listener, shared, stopped, asked)))
        .map_err(Error::Thread)?;
    Ok(Server { address, identity, settings, tls, renew, stop, thread: Some(thread) })
}

fn listen(config: &RestConfig) -> Result<StdListener, Error> {
    let port = config.listen.port;
    let addresses: Vec<SocketAddr> = match config.listen.host.as_str() {
        // Dual stack where there is IPv6.
        "" | "*" => vec![SocketAddr::from(([0u16; 8], port)), SocketAddr::from(([0u8; 4], port))],
        host => {
            let resolve = |reason: String| Error::Resolve { listen: config.listen.to_string(), reason };
            let found: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(|error| resolve(error.to_string()))?.collect();
            if found.is_empty() {
                return Err(resolve("the name has no address".to_owned()));
            }
            found
        }
    };
    let mut failure = None;
    for address in addresses {
        match StdListener::bind(address).and_then(|listener| prepare(listener, config)) {
            Ok(listener) => return Ok(listener),
            // A taken port is the interesting error, not the missing IPv6 after it.
            Err(source) if source.kind() == std::io::ErrorKind::AddrInUse => return Err(Error::Bind { address, source }),
            Err(source) => failure = Some(Error::Bind { address, source }),
        }
    }
    Err(failure.unwrap_or_else(|| Error::Resolve { listen: config.listen.to_string(), reason: "no address".to_owned() }))
}

fn prepare(listener: StdListener, config: &RestConfig) -> std::io::Result<StdListener> {
    listener.set_nonblocking(true)?;
    // Five, Patroni's default, would lose connection requests in any burst.
    rustix::net::listen(&listener, i32::try_from(config.request_queue_size).unwrap_or(128).max(128))?;
    Ok(listener)
}

/// What the thread gets.
struct Shared {
    identity: Identity,
    published: Arc<Published>,
    commands: mpsc::Sender<Request>,
    settings: Arc<Mutex<Arc<Settings>>>,
    tls: Arc<Mutex<Option<Arc<tls::Server>>>>,
}

/// The thread's own state.
struct Context {
    shared: Shared,
    network: Rc<Pool>,
    local: Rc<Pool>,
    asking: Cell<usize>,
    refreshing: Cell<usize>,
    reload_due: Cell<bool>,
}

/// Uses renewed certificates, whoever has put them there. What cannot be used is said once and tried again: the other half of a pair may come.
async fn renew(tls: Arc<Mutex<Option<Arc<tls::Server>>>>, asked: Arc<Notify>) {
    let mut said = None;
    loop {
        let _ = tokio::time::timeout(RENEWAL, asked.notified()).await;
        let Some(old) = get(&tls) else { continue };
        match old.renewed() {
            None => said = None,
            Some(Ok(new)) => {
                log::info!("the REST API uses the certificates that have changed");
                set(&tls, Some(new));
                said = None;
            }
            Some(Err(error)) => {
                let text = error.to_string();
                if said.as_ref() != Some(&text) {
                    log::error!("the REST API goes on with the certificates that it has: {text}");
                    said = Some(text);
                }
            }
        }
    }
}

async fn run(listener: StdListener, shared: Shared, stop: Arc<Notify>, asked: Arc<Notify>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            log::error!("the REST API cannot use its listener: {error}");
            return;
        }
    };
    tokio::task::spawn_local(renew(Arc::clone(&shared.tls), asked));
    let (asking, reload_due) = (Cell::new(0), Cell::new(false));
    let (network, local, refreshing) = (Pool::network(), Pool::local(), Cell::new(0));
    let context = Rc::new(Context { shared, network, local, asking, refreshing, reload_due });
    let mut complained: Option<tokio::time::Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.notified() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                tokio::task::spawn_local(admit(stream, peer.ip().to_canonical(), Rc::clone(&context)));
            }
            Err(error) => {
                count(&METRICS.http_accept_errors);
                if complained.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) {
                    log::warn!("the REST API cannot accept connections: {error}; it goes on trying");
                    complained = Some(tokio::time::Instant::now());
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// From connection to its end.
async fn admit(stream: TcpStream, peer: IpAddr, context: Rc<Context>) {
    let local = peer.is_loopback() || stream.local_addr().is_ok_and(|own| own.ip().to_canonical() == peer);
    let pool = if local { &context.local } else { &context.network };
    let Some(slot) = pool.enter(peer).await else { return };
    // Only a matter of speed.
    let _ = stream.set_nodelay(true);
    let connection = Rc::clone(&slot.0);
    let serving = async {
        // Without a client's certificate where one is needed, the handshake has failed or this says so.
        let (stream, proof) = match get(&context.shared.tls) {
            None => (Stream::Plain(stream), Proof::NotAsked),
            Some(tls) => match tls.accept(stream).await {
                Ok((stream, true)) if tls.asks() => (stream, Proof::Certificate),
                Ok((stream, _)) => (stream, if tls.asks() { Proof::Missing } else { Proof::NotAsked }),
                Err(error) => return log::debug!("{peer}: no TLS connection: {error}"),
            },
        };
        let service = service_fn(|request| handle(request, proof, Rc::clone(&context), Rc::clone(&connection)));
        // Broken requests and lost clients are theirs.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_buf_size(REQUEST_BYTES)
            // As Patroni writes them: scripts search the text.
            .title_case_headers(true)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    };
    tokio::select! {
        biased;
        () = serving => {}
        () = connection.expires() => {}
    }
}

type Answer = hyper::Response<Full<Bytes>>;

async fn handle(
    request: hyper::Request<Incoming>,
    proof: Proof,
    context: Rc<Context>,
    connection: Rc<Connection>,
) -> Result<Answer, Infallible> {
    connection.begin(READING);
    count(&METRICS.http_requests);
    let settings = get(&context.shared.settings);
    if request.method() == hyper::Method::GET && request.uri().path() == "/patroni" {
        context.refresh().await;
    }
    let current = context.shared.published.load();
    let response = respond(request, proof, &current, &settings, &context, &connection).await;
    connection.end();
    Ok(finish(response, &settings, &current, connection.should_close()))
}

impl Context {
    /// Members compare WAL positions by `/patroni` before an election: a position of the last cycle could be seconds old. If the main loop
    /// or PostgreSQL hangs, or too many ask, the answer is what was published last.
    async fn refresh(&self) {
        if self.refreshing.get() >= REFRESHES {
            return;
        }
        let (reply, fresh) = oneshot::channel();
        if self.shared.commands.try_send(Request { command: Operator::Refresh, reply }).is_err() {
            return;
        }
        self.refreshing.set(self.refreshing.get() + 1);
        let _asking = Asking(&self.refreshing);
        let _ = tokio::time::timeout(REFRESH_PATIENCE, fresh).await;
    }

    fn view<'a>(&'a self, current: &'a Current) -> View<'a> {
        View { current, identity: &self.shared.identity, now: clock::now(), wall: clock::wall() }
    }
}

async fn respond(
    request: hyper::Request<Incoming>,
    proof: Proof,
    current: &Current,
    settings: &Settings,
    context: &Rc<Context>,
    connection: &Connection,
) -> Response {
    let (head, body) = request.into_parts();
    let method = head.method.as_str();
    let target = head.uri.path_and_query().map_or(head.uri.path(), |target| target.as_str());
    let has_length = head.headers.contains_key(CONTENT_LENGTH);
    let mut bytes = Bytes::new();
    if let Route::Unsafe(_) = routes::route(method, routes::split(target).0) {
        let members = members(current);
        let given = head.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let refusal = match settings.check_address(connection.peer, members).await {
            None => settings.check_proof(proof, given),
            refusal => refusal,
        };
        let body = read_body(body, if refusal.is_some() { 0 } else { REQUEST_BYTES }).await;
        bytes = match (refusal, body) {
            (Some(refusal), _) => return refusal,
            (None, Ok(body)) => body.into(),
            (None, Err(code)) => return Response::error_page(code),
        };
    }
    let question = Question { method, target, has_length, body: &bytes };
    match routes::answer(&question, &context.view(current)) {
        Routed::Done(response) => response,
        Routed::Ask(command) => ask(command, current, context, connection).await,
        Routed::Reload => reload(context),
    }
}

/// The body, if it is not longer than `limit`; else the code of the error page.
///
/// A longer one is still read for a while: closing with unread bytes would reset the connection and the client would never see the answer.
async fn read_body(mut body: Incoming, limit: usize) -> Result<Vec<u8>, u16> {
    if body.size_hint().lower() > DISCARDED_BYTES {
        return Err(413);
    }
    let mut kept = Vec::new();
    let mut read = 0;
    loop {
        let patience = if read > limit { LINGER } else { READING };
        let code = if read > limit { 413 } else { 400 };
        let Ok(frame) = tokio::time::timeout(patience, body.frame()).await else { return Err(code) };
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| code)?.into_data() else { continue };
        read += data.len();
        if read as u64 > DISCARDED_BYTES {
            return Err(413);
        }
        if read <= limit {
            kept.extend_from_slice(&data);
        }
    }
    if read > limit {
        Err(413)
    } else {
        Ok(kept)
    }
}

fn members(current: &Current) -> Vec<String> {
    let cluster = current.snapshot.as_ref().and_then(|snapshot| snapshot.cluster.as_deref());
    cluster.map(|cluster| cluster.members.values().filter_map(|member| member.api_url.clone()).collect()).unwrap_or_default()
}

/// Counts a command in flight for as long as it lives.
struct Asking<'a>(&'a Cell<usize>);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

async fn ask(command: Command, current: &Current, context: &Rc<Context>, connection: &Connection) -> Response {
    if context.asking.get() >= COMMANDS {
        return Response::sentence(503, "too many commands at a time; try again");
    }
    context.asking.set(context.asking.get() + 1);
    let _asking = Asking(&context.asking);
    let patience: Millis = operator::patience(&command, &context.view(current));
    connection.begin(patience.to_std() + READING);
    let unanswered = operator::unanswered(&command);
    let (reply, answer) = oneshot::channel();
    log::info!("REST: {}", describe(&command));
    if context.shared.commands.try_send(Request { command: Operator::Ha(command), reply }).is_err() {
        return Response::sentence(503, "the agent's main loop takes no commands at the moment; try again");
    }
    match tokio::time::timeout(patience.to_std(), answer).await {
        Ok(Ok(reply)) => Response::from_reply(reply),
        Ok(Err(_)) => Response::sentence(503, "the agent is stopping"),
        Err(_) => Response::from_reply(unanswered),
    }
}

/// A command for the log, without its configuration document, which may hold passwords.
fn describe(command: &Command) -> String {
    match command {
        Command::PatchConfig(_) => "change of the dynamic configuration".to_owned(),
        Command::PutConfig(_) => "replacement of the dynamic configuration".to_owned(),
        Command::Switchover { leader, candidate, .. } => {
            format!("switchover from {leader} to {}", candidate.as_ref().map_or("anybody", |name| name.as_str()))
        }
        Command::Failover { candidate } => format!("failover to {candidate}"),
        Command::CancelSwitchover => "no scheduled switchover any more".to_owned(),
        Command::Restart(_) => "restart of PostgreSQL".to_owned(),
        Command::CancelRestart => "no scheduled restart any more".to_owned(),
        Command::Reinitialize { .. } => "reinitialisation".to_owned(),
    }
}

fn reload(context: &Rc<Context>) -> Response {
    if !context.reload_due.replace(true) {
        let context = Rc::clone(context);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(RELOAD_DELAY).await;
            context.reload_due.set(false);
            let (reply, _) = oneshot::channel();
            let sent = context.shared.commands.send(Request { command: Operator::Reload, reply });
            if tokio::time::timeout(Duration::from_secs(60), sent).await.is_err() {
                log::error!("the reload asked for by REST could not be handed to the main loop");
            }
        });
    }
    Response::sentence(202, "reload scheduled")
}

fn finish(response: Response, settings: &Settings, current: &Current, close: bool) -> Answer {
    let mut answer = hyper::Response::new(Full::new(response.body));
    *answer.status_mut() = hyper::StatusCode::from_u16(response.code).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(reason) = response.reason.and_then(|reason| hyper::ext::ReasonPhrase::try_from(reason.into_bytes()).ok()) {
        answer.extensions_mut().insert(reason);
    }
    let headers = answer.headers_mut();
    let label = match response.kind {
        Kind::Json => Some("application/json"),
        Kind::Sentence => Some("text/html"),
        Kind::Plain => Some("text/plain"),
        Kind::ErrorPage => Some("text/html;charset=utf-8"),
        Kind::StatusOnly => None,
    };
    if let Some(label) = label {
        headers.insert(SERVER, settings.server.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(label));
        if let Some(snapshot) = &current.snapshot {
            headers.insert(AGE, HeaderValue::from(clock::now().since(snapshot.at).as_secs()));
        }
        for (name, value) in &settings.extra {
            headers.insert(name.clone(), value.clone());
        }
    }
    if response.code == 401 {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Patroni\""));
    }
    if close || response.kind == Kind::ErrorPage {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}
