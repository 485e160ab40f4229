//! The main loop: facts in, one step of the core, effects out. No decision about high availability is made here.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::clock;
use crate::config;
use crate::config::types::{Config, Effective, PostgresConfig};
use crate::dcs::Store;
use crate::guard::link::GuardLink;
use crate::ha::action::{Action, Reply, Task};
use crate::ha::input::{Command, Input, Signal, StoreOutcome};
use crate::ha::types::{Instant, JobId, Millis, ReplyId};
use crate::ha::view::{ClusterView, PgState};
use crate::ha::Machine;
use crate::http::{self, Identity, Operator, Published, Server};
use crate::log::{CRITICAL, HEARTBEAT};
use crate::marker::Marker;
use crate::notify;
use crate::postgres::Postgres;
use crate::signals::{Event, Signals};
use crate::vips::Vips;
use crate::wake::{Jump, Timer};
use crate::watchdog::Watchdog;

/// Cannot reach or bind what is needed at the start.
pub const EXIT_UNAVAILABLE: i32 = 69;
/// The configuration cannot be used.
pub const EXIT_CONFIG: i32 = 64;
/// A node of this name runs already (Patroni's code).
pub const EXIT_NAME_IN_USE: i32 = 1;

/// A dispatch that takes longer is logged: the main loop must never block.
const SLOW_DISPATCH: Millis = Millis(100);

/// How the configuration is read again: the same path and environment as at the start.
pub type Reload = Box<dyn Fn() -> Result<Config, String>>;

/// What can go wrong before the loop runs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store's part of the configuration cannot be used.
    #[error(transparent)]
    Store(#[from] crate::dcs::Error),
    /// The REST API cannot listen.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// A virtual IP cannot be managed.
    #[error("vip: {0}")]
    Vip(#[from] mastiff_vip::Error),
    /// PostgreSQL's programs are not where the configuration says.
    #[error("postgresql.bin_dir: {0} is not there or cannot be executed")]
    NoProgram(String),
    /// A system call of the loop itself failed.
    #[error("cannot set up the main loop: {0}")]
    Setup(#[from] std::io::Error),
    /// Another agent answers under our name and address.
    #[error("Can't start; there is already a node named '{0}' running")]
    NameInUse(String),
}

impl Error {
    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::NameInUse(_) => EXIT_NAME_IN_USE,
            Error::Vip(_) | Error::NoProgram(_) | Error::Store(_) | Error::Http(_) | Error::Setup(_) => EXIT_UNAVAILABLE,
        }
    }
}

/// Everything that the loop holds.
struct Shell {
    config: Config,
    reload: Reload,
    machine: Machine,
    store: Store,
    postgres: Postgres,
    guard: GuardLink,
    postgres_config: PostgresConfig,
    published: Arc<Published>,
    server: Server,
    members: http::client::Client,
    inputs: mpsc::UnboundedSender<Input>,
    replies: BTreeMap<ReplyId, oneshot::Sender<Reply>>,
    next_reply: u64,
    /// Who waits for a fresh observation, and since when.
    refreshers: Vec<(Instant, oneshot::Sender<Reply>)>,
    job: Option<(JobId, watch::Sender<bool>)>,
    /// The dynamic configuration that is in effect, as read from the store or the cache file.
    dynamic: Option<serde_json::Value>,
    /// The dynamic configuration as the cache file has it.
    cached: Option<serde_json::Value>,
    /// Store calls on their way, for the end of the process.
    calls: Rc<Cell<usize>>,
    /// PostgreSQL answered when it was last looked at: only then is the data directory written to.
    running: bool,
    unfinished: Marker,
    watchdog: Watchdog,
    vips: Vips,
    /// Files or configuration changed and PostgreSQL does not know yet.
    reload_due: Rc<Cell<bool>>,
    name_checked: bool,
    jump: Jump,
    ready: bool,
    exit: Option<i32>,
}

/// Runs the agent until it is told to stop; the exit code.
///
/// # Errors
/// When something that is needed from the start is missing.
pub async fn run(config: Config, reload: Reload) -> Result<i32, Error> {
    let mut signals = Signals::new()?;
    let timer = Timer::new()?;
    let (inputs, mut arrivals) = mpsc::unbounded_channel();
    let (commands, mut requests) = mpsc::channel(16);
    let mut shell = Shell::new(config, reload, inputs, commands).await?;
    shell.start_watchers();
    let mut out = Vec::new();
    if let Some(left) = shell.unfinished.found() {
        log::warn!("an earlier life of this agent ended in the middle of work on the data directory: {left:?}");
        crate::postgres::leftovers::kill();
        shell.step(Input::Unfinished(left), &mut out);
    }
    loop {
        timer.set(shell.machine.next_deadline())?;
        let input = tokio::select! {
            biased;
            event = signals.next() => shell.take_signal(event),
            Some(input) = arrivals.recv() => Some(input),
            Some(request) = requests.recv() => shell.take_request(request),
            () = timer.expired() => Some(Input::Tick),
        };
        let Some(input) = input else { continue };
        shell.feed(input, &mut out).await;
        if let Some(code) = shell.exit {
            shell.finish().await;
            return Ok(code);
        }
    }
}

impl Shell {
    async fn new(
        config: Config,
        reload: Reload,
        inputs: mpsc::UnboundedSender<Input>,
        commands: mpsc::Sender<http::Request>,
    ) -> Result<Shell, Error> {
        let cached = data_dir(&config).and_then(|dir| config::read_cache(&dir)).map(serde_json::Value::Object);
        let mut effective = config.effective(cached.as_ref());
        say_warnings(&effective);
        if cached.is_some() {
            effective.ha.initial_dynamic.clone_from(&cached);
        }
        if let Some(program) = crate::postgres::missing_program(&effective.postgres) {
            return Err(Error::NoProgram(program));
        }
        let published = Arc::new(Published::new());
        let identity = identity(&config, &effective);
        let members = http::client::Client::new(&config.ctl);
        let server = match http::spawn(&config.restapi, identity, Arc::clone(&published), commands) {
            Ok(server) => server,
            Err(error) => return Err(explain_busy_port(&config, &effective, &members, error).await),
        };
        let store = Store::open(&config, &effective.postgres.data_dir, effective.ha.ttl).await?;
        let watchdog = Watchdog::new(&effective.watchdog, effective.ha.watchdog.mode, notify::watchdog_time());
        let guard = GuardLink::new(&effective.postgres.data_dir, &config.scope, &config.name, inputs.clone());
        // A seed that differs between boxes: their announcements shall not beat in time.
        let seed = clock::now().0 ^ u64::from(std::process::id());
        let vips = Vips::open(&effective.vip, seed, &inputs)?;
        guard.set_addresses(vips.addresses());
        crate::privileges::keep_from_children();
        if effective.ha.guard {
            guard.start();
        }
        Ok(Shell {
            guard,
            machine: Machine::new(effective.ha, clock::now()),
            store,
            postgres: Postgres::new(effective.postgres.clone()),
            postgres_config: effective.postgres,
            published,
            server,
            members,
            inputs,
            replies: BTreeMap::new(),
            next_reply: 1,
            refreshers: Vec::new(),
            job: None,
            dynamic: cached.clone(),
            cached,
            calls: Rc::new(Cell::new(0)),
            running: false,
            unfinished: Marker::beside(data_dir(&config)),
            watchdog,
            vips,
            reload_due: Rc::new(Cell::new(false)),
            name_checked: false,
            jump: Jump::now(),
            ready: false,
            exit: None,
            config,
            reload,
        })
    }

    fn start_watchers(&self) {
        self.vips.start(&self.published);
        if let (Some(time), Watchdog::Device(_)) = (notify::watchdog_time(), &self.watchdog) {
            // PID 1 supervises this loop, and the device is ours.
            tokio::task::spawn_local(notify::stay_alive(time));
        }
        let (alarm, mut alarms) = mpsc::channel(1);
        let store = self.store.clone();
        tokio::task::spawn_local(async move { store.watch(alarm).await });
        let inputs = self.inputs.clone();
        tokio::task::spawn_local(async move {
            while alarms.recv().await.is_some() {
                let _ = inputs.send(Input::StoreChanged);
            }
        });
        let (exit, mut exits) = mpsc::channel(1);
        let postgres = self.postgres.clone();
        tokio::task::spawn_local(async move { postgres.postmaster_exits(exit).await });
        let inputs = self.inputs.clone();
        tokio::task::spawn_local(async move {
            while exits.recv().await.is_some() {
                let _ = inputs.send(Input::PostmasterExited);
            }
        });
    }

    /// One fact and everything that follows from it.
    async fn feed(&mut self, input: Input, out: &mut Vec<Action>) {
        if let Input::Store { outcome: StoreOutcome::View(view), .. } = &input {
            if !self.name_is_free(view).await {
                log::error!(target: CRITICAL, "Can't start; there is already a node named '{}' running", self.config.name);
                self.exit = Some(EXIT_NAME_IN_USE);
                return;
            }
            self.take_dynamic(view.config.as_ref().map(|config| config.value.clone()));
        }
        self.notice(&input);
        if let Some(by) = self.jump.check() {
            log::warn!("the clock jumped by {by}: the machine was suspended");
            self.step(Input::ClockJumped { by }, out);
        }
        self.step(Input::WallClock(clock::wall()), out);
        self.step(input, out);
    }

    /// What the shell itself needs to know of the facts that pass through.
    fn notice(&mut self, input: &Input) {
        match input {
            Input::Observed { node, .. } => {
                self.running = node.pg.running().is_some();
                if node.pg == PgState::Empty {
                    self.unfinished.emptied();
                }
                if self.running && self.reload_due.replace(false) {
                    self.run_task(Task::ReloadPostgres);
                }
            }
            Input::JobExited { outcome, .. } => {
                self.job = None;
                self.unfinished.end(outcome);
            }
            _ => {}
        }
    }

    fn step(&mut self, input: Input, out: &mut Vec<Action>) {
        let started = clock::now();
        self.machine.step(started, input, out);
        for action in out.drain(..) {
            self.dispatch(action);
        }
        let took = clock::now().since(started);
        if took > SLOW_DISPATCH {
            log::warn!("Loop time exceeded: one step took {took}");
        }
    }

    fn dispatch(&mut self, action: Action) {
        match action {
            Action::Store { id, request, deadline } => self.call_store(id, request, deadline),
            Action::Observe { id, deadline } => {
                let postgres = self.postgres.clone();
                self.answer(async move { Input::Observed { id, node: Box::new(postgres.observe(deadline.to_std()).await) } });
            }
            Action::AskPeers { id, peers, deadline } => {
                let (now, members) = (clock::now(), self.members.clone());
                self.answer(async move { Input::Peers { id, view: members.ask_peers(peers, deadline.to_std(), now).await } });
            }
            Action::ReadUpstream { id, upstream, deadline } => {
                let postgres = self.postgres.clone();
                self.answer(async move { Input::Upstream { id, result: postgres.read_upstream(&upstream, deadline.to_std()).await } });
            }
            Action::RunJob { id, job } => self.run_job(id, job),
            Action::CancelJob { id } => {
                if let Some((_, cancel)) = self.job.as_ref().filter(|(running, _)| *running == id) {
                    let _ = cancel.send(true);
                }
            }
            Action::Background(task) => self.run_task(task),
            Action::Fence { kill_after } => self.postgres.fence(kill_after.to_std()),
            Action::Callback { event, role } => self.postgres.run_callback(event, role),
            Action::Reply { to, reply } => {
                if let Some(waiting) = self.replies.remove(&to) {
                    let _ = waiting.send(reply);
                }
            }
            Action::Publish(snapshot) => self.publish(*snapshot),
            Action::Heartbeat(text) => log::info!(target: HEARTBEAT, "{text}"),
            Action::Log { level, text } => {
                notify::status(&text);
                log::log!(level, "{text}");
            }
            Action::Exit { code } => self.exit = Some(code),
            Action::Watchdog(action) => {
                if let Some(report) = self.watchdog.act(action) {
                    let _ = self.inputs.send(Input::Watchdog(report));
                }
            }
            Action::Guard(action) => self.guard.order(action),
            Action::Vip(action) => self.vips.act(&action),
        }
    }

    fn answer(&self, work: impl std::future::Future<Output = Input> + 'static) {
        let inputs = self.inputs.clone();
        tokio::task::spawn_local(async move {
            let _ = inputs.send(work.await);
        });
    }

    fn call_store(&self, id: crate::ha::types::RequestId, request: crate::ha::action::StoreRequest, deadline: Millis) {
        let store = self.store.clone();
        let calls = Rc::clone(&self.calls);
        calls.set(calls.get() + 1);
        self.answer(async move {
            let outcome = store.call(request, deadline.to_std()).await;
            calls.set(calls.get().saturating_sub(1));
            Input::Store { id, outcome }
        });
    }

    fn run_job(&mut self, id: JobId, job: crate::ha::action::Job) {
        self.unfinished.begin(&job);
        let (cancel, cancelled) = watch::channel(false);
        self.job = Some((id, cancel));
        let (progress, mut steps) = mpsc::channel(4);
        let inputs = self.inputs.clone();
        tokio::task::spawn_local(async move {
            while let Some((done, total)) = steps.recv().await {
                let _ = inputs.send(Input::JobProgress { id, done, total });
            }
        });
        let postgres = self.postgres.clone();
        self.answer(async move { Input::JobExited { id, outcome: postgres.run_job(job, progress, cancelled).await } });
    }

    fn run_task(&self, task: Task) {
        let postgres = self.postgres.clone();
        let reload_due = Rc::clone(&self.reload_due);
        self.answer(async move {
            if let Err(error) = postgres.background(task.clone()).await {
                log::debug!("{error}");
                // PostgreSQL is down or was not seen yet: a reload is made up for after the next look at it.
                reload_due.set(reload_due.get() || task == Task::ReloadPostgres);
            }
            Input::TaskDone(task)
        });
    }

    fn publish(&mut self, snapshot: crate::ha::action::Snapshot) {
        if !self.ready {
            self.ready = true;
            notify::ready();
        }
        self.store.set_burden(snapshot.is_leader);
        let seen_at = snapshot.node.as_ref().map_or(Instant(0), |node| node.observed_at);
        self.published.store(snapshot);
        let waiting = std::mem::take(&mut self.refreshers);
        for (asked_at, reply) in waiting {
            if asked_at <= seen_at {
                let _ = reply.send(Reply::text(200, ""));
            } else if !reply.is_closed() {
                self.refreshers.push((asked_at, reply));
            }
        }
    }

    fn take_signal(&mut self, event: Event) -> Option<Input> {
        match event {
            Event::Terminate => {
                notify::stopping();
                Some(Input::Signal(Signal::Terminate))
            }
            Event::Reload => {
                self.reload_file();
                None
            }
        }
    }

    fn take_request(&mut self, request: http::Request) -> Option<Input> {
        match request.command {
            Operator::Reload => {
                let _ = request.reply.send(Reply::text(202, "reload scheduled"));
                self.reload_file();
                None
            }
            Operator::Refresh => {
                self.refreshers.push((clock::now(), request.reply));
                Some(Input::Refresh)
            }
            Operator::Ha(command) => Some(self.register(command, request.reply)),
        }
    }

    fn register(&mut self, command: Command, waiting: oneshot::Sender<Reply>) -> Input {
        let reply = ReplyId(self.next_reply);
        self.next_reply += 1;
        self.replies.retain(|_, waiting| !waiting.is_closed());
        self.replies.insert(reply, waiting);
        Input::Command { reply, command }
    }

    /// SIGHUP and `POST /reload`: a bad file changes nothing.
    fn reload_file(&mut self) {
        notify::reloading();
        let loaded = (self.reload)().and_then(|config| {
            self.server.reconfigure(&config.restapi).map_err(|error| error.to_string())?;
            Ok(config)
        });
        match loaded {
            Ok(config) => {
                self.say_unchangeable(&config);
                crate::log::reconfigure(&config.log);
                if self.config.ctl != config.ctl {
                    self.members = http::client::Client::new(&config.ctl);
                }
                self.config = config;
                self.apply_config(true);
            }
            Err(problems) => log::error!("the configuration was not reloaded, the old one stays in effect:\n{problems}"),
        }
        notify::ready();
    }

    fn say_unchangeable(&self, next: &Config) {
        let mut keys = self.config.needs_restart(next);
        if self.config.restapi.listen != next.restapi.listen {
            keys.push("restapi.listen");
        }
        for key in keys {
            log::warn!("a changed {key} takes effect when the agent is restarted");
        }
    }

    /// The store's `/config` as it was just read.
    fn take_dynamic(&mut self, dynamic: Option<serde_json::Value>) {
        let Some(dynamic) = dynamic.filter(serde_json::Value::is_object) else { return };
        if self.dynamic.as_ref() != Some(&dynamic) {
            self.dynamic = Some(dynamic);
            self.apply_config(false);
        }
        if self.job.is_none() && self.running {
            self.write_cache();
        }
    }

    fn apply_config(&mut self, force_reload: bool) {
        let mut effective = self.config.effective(self.dynamic.as_ref());
        say_warnings(&effective);
        if self.dynamic.is_some() {
            effective.ha.initial_dynamic.clone_from(&self.dynamic);
        }
        if force_reload || effective.postgres != self.postgres_config {
            self.postgres_config = effective.postgres.clone();
            self.postgres.reconfigure(effective.postgres);
            self.run_task(Task::ReloadPostgres);
        }
        self.watchdog.set_mode(effective.ha.watchdog.mode);
        if let Err(error) = self.vips.reconfigure(&effective.vip) {
            log::error!("vip: {error}; the addresses stay as they were");
            effective.ha.vip_roles.clone_from(&self.machine.config().vip_roles);
        }
        self.guard.set_addresses(self.vips.addresses());
        let _ = self.inputs.send(Input::Config(Box::new(effective.ha)));
    }

    /// Keeps `patroni.dynamic.json` beside the data, where a data directory is.
    fn write_cache(&mut self) {
        let (Some(dynamic), Some(path)) = (&self.dynamic, cache_path(&self.config)) else { return };
        // One look at a file name a cycle; the content is compared only when there may be something to write.
        let missing = !path.exists();
        if !missing && self.cached.as_ref() == Some(dynamic) {
            return;
        }
        if !path.parent().is_some_and(|dir| dir.join("PG_VERSION").exists()) {
            return;
        }
        let text = config::render_cache(dynamic);
        let same = std::fs::read_to_string(&path).is_ok_and(|old| old == text);
        if !same {
            if let Err(error) = crate::postgres::files::write_atomic(&path, text.as_bytes(), 0o600) {
                log::warn!("the cache file of the dynamic configuration was not written: {error}");
                return;
            }
        }
        self.cached = Some(dynamic.clone());
    }

    /// Whether nobody else runs under our name. Asked once, before the core sees the store for the first time.
    async fn name_is_free(&mut self, view: &ClusterView) -> bool {
        if self.name_checked {
            return true;
        }
        self.name_checked = true;
        let me = crate::ha::types::MemberName(self.config.name.clone());
        let other = view.members.get(&me).and_then(|member| member.api_url.clone());
        // Our own address is ours: we listen there. Another one may be an agent that lives.
        match other.filter(|url| *url != self.machine.config().api_url) {
            Some(url) => !self.members.is_running(&url, Duration::from_secs(2)).await,
            None => true,
        }
    }

    /// Lets writes on their way arrive, for a moment.
    async fn finish(self) {
        let until = clock::now() + Millis(1_000);
        while self.calls.get() > 0 && clock::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.server.stop();
    }
}

fn say_warnings(effective: &Effective) {
    for warning in &effective.warnings {
        log::warn!("{warning}");
    }
}

fn identity(config: &Config, effective: &Effective) -> Identity {
    Identity {
        scope: config.scope.clone(),
        name: config.name.clone(),
        version: effective.ha.version.clone(),
        agent: effective.ha.agent.clone(),
    }
}

/// A busy port is often ourselves, started twice: say that then.
async fn explain_busy_port(config: &Config, effective: &Effective, members: &http::client::Client, error: http::Error) -> Error {
    let answer = members.call("GET", &effective.ha.api_url, None, None, Duration::from_secs(2)).await;
    let twin = answer.ok().and_then(|(_, body)| serde_json::from_slice::<serde_json::Value>(&body).ok());
    let named = |field: &str| twin.as_ref().and_then(|doc| doc.get("patroni")?.get(field)?.as_str().map(str::to_owned));
    if named("name").as_deref() == Some(&config.name) && named("scope").as_deref() == Some(&config.scope) {
        return Error::NameInUse(config.name.clone());
    }
    Error::Http(error)
}

fn data_dir(config: &Config) -> Option<PathBuf> {
    Some(PathBuf::from(config.postgresql.section.get("data_dir")?.as_str()?))
}

fn cache_path(config: &Config) -> Option<PathBuf> {
    Some(data_dir(config)?.join(config::CACHE_FILE))
}
