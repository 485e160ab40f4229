//! Logging: a bounded queue and one writer thread. Whoever logs never waits; what does not fit is counted and said later.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::clock;
use crate::config::types::LogConfig;
use crate::ha::types::WallTime;
use crate::ha::wall;

/// Target of the unchanged verdict of a cycle.
pub const HEARTBEAT: &str = "heartbeat";
/// Target of the last words of an agent that cannot go on; printed as CRITICAL.
pub const CRITICAL: &str = "critical";

static LOST: AtomicU64 = AtomicU64::new(0);
static QUEUED: AtomicU64 = AtomicU64::new(0);
static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Records that did not fit into the queue since the start.
#[must_use]
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Records in the queue.
#[must_use]
pub fn queued() -> u64 {
    QUEUED.load(Ordering::Relaxed)
}

enum Message {
    Line(String),
    Flush(SyncSender<()>),
    Reopen(Sink),
}

struct Logger {
    queue: SyncSender<Message>,
    settings: Mutex<Arc<Settings>>,
    heartbeats: AtomicBool,
}

/// How lines look and which are written.
#[derive(Debug)]
struct Settings {
    json: bool,
    level: LevelFilter,
    loggers: BTreeMap<String, LevelFilter>,
    static_fields: serde_json::Map<String, serde_json::Value>,
    /// systemd's journal reads a priority in front of the line (`sd-daemon(3)`).
    priorities: bool,
}

impl Settings {
    fn of(config: &LogConfig) -> Settings {
        Settings {
            json: config.json,
            level: config.level,
            loggers: config.loggers.clone(),
            static_fields: config.static_fields.clone(),
            priorities: config.dir.is_none() && std::env::var_os("JOURNAL_STREAM").is_some(),
        }
    }

    fn wants(&self, level: Level, target: &str) -> bool {
        let own = self.loggers.iter().filter(|(prefix, _)| target.starts_with(prefix.as_str())).max_by_key(|(prefix, _)| prefix.len());
        level <= own.map_or(self.level, |(_, level)| *level)
    }

    fn highest(&self) -> LevelFilter {
        self.loggers.values().copied().chain([self.level]).max().unwrap_or(self.level)
    }

    fn format(&self, record: &Record<'_>, at: WallTime) -> String {
        let name = level_name(record);
        let text = record.args().to_string();
        let prefix = if self.priorities { format!("<{}>", priority(record.level())) } else { String::new() };
        if !self.json {
            return format!("{prefix}{} {name}: {text}\n", plain_time(at));
        }
        let mut line = serde_json::Map::new();
        line.insert("asctime".to_owned(), plain_time(at).into());
        line.insert("levelname".to_owned(), name.into());
        line.insert("message".to_owned(), text.into());
        line.extend(self.static_fields.clone());
        format!("{prefix}{}\n", serde_json::Value::Object(line))
    }
}

/// `2026-11-20 21:22:36,973`, UTC: what log scrapers of this field look for.
pub(crate) fn plain_time(at: WallTime) -> String {
    let iso = wall::iso(at);
    let (date, rest) = iso.split_at(10);
    format!("{date} {},{}", &rest[1..9], &rest[10..13])
}

fn level_name(record: &Record<'_>) -> &'static str {
    match record.level() {
        Level::Error if record.target() == CRITICAL => "CRITICAL",
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info => "INFO",
        Level::Debug | Level::Trace => "DEBUG",
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let settings = Arc::clone(&self.settings.lock().unwrap_or_else(PoisonError::into_inner));
        settings.wants(metadata.level(), metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if record.target() == HEARTBEAT && !self.heartbeats.load(Ordering::Relaxed) {
            return;
        }
        let settings = Arc::clone(&self.settings.lock().unwrap_or_else(PoisonError::into_inner));
        if !settings.wants(record.level(), record.target()) {
            return;
        }
        QUEUED.fetch_add(1, Ordering::Relaxed);
        match self.queue.try_send(Message::Line(settings.format(record, clock::wall()))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                QUEUED.fetch_sub(1, Ordering::Relaxed);
                LOST.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(std::time::Duration::from_secs(1));
        }
    }
}

/// Where lines go.
enum Sink {
    Stderr,
    Files(Rotation),
}

/// `DIR/patroni.log` with numbered predecessors.
struct Rotation {
    path: PathBuf,
    keep: u32,
    limit: u64,
    mode: Option<u32>,
    open: Option<(File, u64)>,
}

impl Rotation {
    fn write(&mut self, line: &str) -> std::io::Result<()> {
        if self.open.as_ref().is_some_and(|(_, size)| self.limit > 0 && size + line.len() as u64 > self.limit) {
            self.open = None;
            self.rotate();
        }
        if self.open.is_none() {
            self.open = Some(self.open_file()?);
        }
        if let Some((file, size)) = &mut self.open {
            file.write_all(line.as_bytes())?;
            *size += line.len() as u64;
        }
        Ok(())
    }

    fn open_file(&self) -> std::io::Result<(File, u64)> {
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        if let Some(mode) = self.mode {
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        }
        let file = options.open(&self.path)?;
        let size = file.metadata()?.len();
        Ok((file, size))
    }

    fn rotate(&self) {
        for number in (1..self.keep).rev() {
            let _ = std::fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1));
        }
        if self.keep > 0 {
            let _ = std::fs::rename(&self.path, numbered(&self.path, 1));
        }
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn sink(config: &LogConfig) -> Sink {
    match &config.dir {
        None => Sink::Stderr,
        Some(dir) => Sink::Files(Rotation {
            path: dir.join("patroni.log"),
            keep: config.file_num,
            limit: config.file_size,
            mode: config.mode,
            open: None,
        }),
    }
}

fn write_lines(queue: &Receiver<Message>, mut sink: Sink) {
    let mut said = 0;
    for message in queue {
        match message {
            Message::Line(line) => {
                QUEUED.fetch_sub(1, Ordering::Relaxed);
                write_line(&mut sink, &line);
            }
            Message::Flush(done) => {
                let _ = done.try_send(());
            }
            Message::Reopen(other) => sink = other,
        }
        let lost = lost();
        if lost > said {
            write_line(&mut sink, &format!("{} WARNING: {} log records were lost\n", plain_time(clock::wall()), lost - said));
            said = lost;
        }
    }
}

fn write_line(sink: &mut Sink, line: &str) {
    let written = match sink {
        Sink::Stderr => std::io::stderr().write_all(line.as_bytes()),
        Sink::Files(files) => files.write(line),
    };
    if written.is_err() {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts the writer thread. A second call changes the settings of the first.
pub fn init(config: &LogConfig) -> std::io::Result<()> {
    if LOGGER.get().is_some() {
        reconfigure(config);
        return Ok(());
    }
    let (queue, lines) = sync_channel(config.max_queue_size.clamp(16, 100_000));
    let sink = sink(config);
    std::thread::Builder::new().name("log".to_owned()).stack_size(128 * 1024).spawn(move || write_lines(&lines, sink))?;
    let settings = Settings::of(config);
    log::set_max_level(settings.highest());
    let heartbeats = AtomicBool::new(!config.deduplicate_heartbeat_logs);
    let logger = LOGGER.get_or_init(|| Logger { queue, settings: Mutex::new(Arc::new(settings)), heartbeats });
    let _ = log::set_logger(logger);
    Ok(())
}

/// Applies changed settings.
pub fn reconfigure(config: &LogConfig) {
    let Some(logger) = LOGGER.get() else { return };
    let settings = Settings::of(config);
    log::set_max_level(settings.highest());
    logger.heartbeats.store(!config.deduplicate_heartbeat_logs, Ordering::Relaxed);
    *logger.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    let _ = logger.queue.try_send(Message::Reopen(sink(config)));
}

/// Waits until everything that was logged is written, at most a second.
pub fn flush() {
    if let Some(logger) = LOGGER.get() {
        logger.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::{plain_time, Settings};
    use crate::ha::types::WallTime;
    use log::{Level, LevelFilter};

    #[test]
    fn patroni_time() {
        assert_eq!(plain_time(WallTime(1_795_209_756_973)), "2026-11-20 21:22:36,973");
    }

    #[test]
    fn modules_have_their_own_level() {
        let settings = Settings {
            json: false,
            level: LevelFilter::Info,
            loggers: [("mastiff::dcs".to_owned(), LevelFilter::Debug)].into(),
            static_fields: serde_json::Map::new(),
            priorities: false,
        };
        assert!(settings.wants(Level::Debug, "mastiff::dcs::etcd"));
        assert!(!settings.wants(Level::Debug, "mastiff::http"));
        assert!(settings.wants(Level::Info, "mastiff::http"));
    }
}
