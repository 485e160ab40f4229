//! `--validate-config`: everything that [`super::load`] says, what Patroni's validator refuses beyond it, and a look at the machine
//! (ports, data directory, programs, store).

use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::check::{check, Mode};
use super::dump::to_yaml;
use super::file::Sources;
use super::lines::dotted;
use super::read::Reader;
use super::types::WatchdogDriver;
use super::units::{hosts_and_port, parse_int};
use super::validate::{etcd, validate};
use super::{gather, redacted, sort, vip, watchdog, Diagnostic, Severity};
use crate::ha::config::WatchdogMode;

/// Addresses that nobody else can connect to.
const UNREACHABLE: [&str; 6] = ["127.0.0.1", "0.0.0.0", "*", "::1", "::", "localhost"];
const PROGRAMS: [&str; 6] = ["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready"];
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// How to validate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// `-i`: a listen port that is in use is fine.
    pub ignore_listen_port: bool,
    /// `--strict`: warnings fail too.
    pub strict: bool,
    /// Look at the machine too: ports, directories, programs, store. Off where a file is judged that is meant for another box.
    pub look_at_machine: bool,
}

/// The result.
#[derive(Debug)]
pub struct Report {
    /// All that was found, in the order of the file.
    pub found: Vec<Diagnostic>,
    /// The configuration is not acceptable: exit with 64.
    pub failed: bool,
    /// The merged document with stars for secrets, as YAML, for `--print`.
    pub document: String,
}

impl Report {
    /// The lines to print.
    #[must_use]
    pub fn text(&self) -> String {
        let count = |severity: Severity| self.found.iter().filter(|one| one.severity == severity).count();
        let mut text: String = self.found.iter().map(|one| format!("{one}\n")).collect();
        let verdict = if self.failed { "not valid" } else { "valid" };
        let (errors, warnings, notes) = (count(Severity::Error), count(Severity::Warning), count(Severity::Note));
        text.push_str(&format!("configuration is {verdict}: errors {errors}, warnings {warnings}, notes {notes}\n"));
        text
    }
}

/// Validates a file, a directory, or the environment.
#[must_use]
pub fn validate_config(path: Option<&Path>, env: &BTreeMap<String, String>, options: Options) -> Report {
    let sources = gather(path, env);
    let mut found = sources.found.clone();
    if !found.iter().any(|one| one.severity == Severity::Error) {
        found.extend(check(&sources, Mode::Validate));
        found.extend(validate(&sources, env).1);
        let mut more = More { sources: &sources, root: Reader(Some(&sources.value)), found: Vec::new() };
        more.addresses();
        more.tags();
        if options.look_at_machine {
            more.machine(options.ignore_listen_port, env);
        }
        found.extend(more.found);
    }
    sort(&mut found);
    let failed = found.iter().any(|one| one.severity == Severity::Error || options.strict && one.severity == Severity::Warning);
    let document = to_yaml(&redacted(&Value::Object(sources.value.clone())));
    Report { found, failed, document }
}

struct More<'a> {
    sources: &'a Sources,
    root: Reader<'a>,
    found: Vec<Diagnostic>,
}

impl More<'_> {
    fn say(&mut self, severity: Severity, key: &str, message: impl Into<String>) {
        self.found.push(self.sources.diagnostic(severity, &dotted(key), message));
    }

    fn addresses(&mut self) {
        for (section, key) in [("restapi", "connect_address"), ("postgresql", "connect_address"), ("postgresql", "proxy_address")] {
            let reader = self.root.section(section);
            match reader.address(key, Some(1)) {
                Some(address) if UNREACHABLE.contains(&address.host.as_str()) => {
                    let message = r#"must not contain "127.0.0.1", "0.0.0.0", "*", "::1", "localhost""#;
                    self.say(Severity::Error, &format!("{section}.{key}"), message);
                }
                None if reader.0.is_some() && reader.get(key).is_none() && key == "connect_address" => {
                    self.say(Severity::Error, &format!("{section}.{key}"), "is not defined");
                }
                _ => {}
            }
        }
    }

    fn tags(&mut self) {
        let tags = self.root.section("tags");
        for name in ["nofailover", "nosync", "clonefrom", "noloadbalance", "nostream"] {
            if tags.get(name).is_some_and(|value| !value.is_boolean()) {
                self.say(Severity::Error, &format!("tags.{name}"), "must be a boolean without quotes: true or false");
            }
        }
        for (name, priority) in [("nofailover", "failover_priority"), ("nosync", "sync_priority")] {
            if tags.get(name).is_some() && tags.get(priority).is_some() {
                self.say(Severity::Error, &format!("tags.{name}"), format!("only one of {name} and {priority} may be given"));
            }
            if tags.get(priority).and_then(|value| parse_int(value, "")).is_some_and(|value| value < 0) {
                self.say(Severity::Error, &format!("tags.{priority}"), "must not be below 0");
            }
        }
        let mode = self.root.section("watchdog").get("mode").cloned();
        let good = [Value::Bool(false), Value::from("off"), Value::from("automatic"), Value::from("required")];
        if mode.is_some_and(|mode| !good.contains(&mode)) {
            self.say(Severity::Error, "watchdog.mode", "must be off, automatic or required");
        }
    }

    fn machine(&mut self, ignore_listen_port: bool, env: &BTreeMap<String, String>) {
        if !ignore_listen_port {
            for section in ["restapi", "postgresql"] {
                let listen = self.root.section(section).text("listen").and_then(|text| hosts_and_port(&text, Some(5432)).ok());
                if let Some((_, port)) = listen.filter(|(hosts, port)| hosts.split(',').any(|host| answers(host, *port))) {
                    self.say(Severity::Error, &format!("{section}.listen"), format!("Port {port} is already in use."));
                }
            }
        }
        if let Some(why) = self.root.section("postgresql").path("data_dir").and_then(|path| bad_data_dir(&path)) {
            self.say(Severity::Error, "postgresql.data_dir", why);
        }
        self.programs(env);
        self.fences();
        let store = ["etcd3", "etcd"].into_iter().find_map(|name| Some((name, self.root.map(name)?)));
        if let Some((name, section)) = store {
            for endpoint in etcd(Reader(Some(section))).0.endpoints {
                let address = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, address)| address);
                let reached = hosts_and_port(address, Some(2379)).is_ok_and(|(host, port)| answers(&host, port));
                if !reached {
                    self.say(Severity::Warning, name, format!("{address} is not reachable"));
                }
            }
        }
    }

    /// The watchdog's device, where the file speaks of it, and what virtual addresses need. Nothing is opened: that would arm a watchdog.
    fn fences(&mut self) {
        let section = self.root.section("watchdog");
        let (config, settings, _) = watchdog::read(section);
        if section.0.is_some() && config.mode != WatchdogMode::Off && settings.driver != WatchdogDriver::Systemd {
            let severity = if config.mode == WatchdogMode::Required { Severity::Error } else { Severity::Warning };
            let device = settings.device.display();
            match rustix::fs::access(&settings.device, rustix::fs::Access::WRITE_OK) {
                Ok(()) => {}
                Err(rustix::io::Errno::NOENT) => {
                    let why = format!("there is no {device}: load the driver of the box's watchdog, or softdog, or set mode to off");
                    self.say(severity, "watchdog.device", why);
                }
                Err(error) => {
                    let why = format!("{device} cannot be written to by this user ({error}): give it the right by a udev rule");
                    self.say(severity, "watchdog.device", why);
                }
            }
        }
        let entries = vip::entries(self.root.get("vip"));
        for (path, map) in &entries {
            let Some(name) = Reader(Some(map)).text("interface").filter(|name| vip::is_interface_name(name)) else { continue };
            if !Path::new("/sys/class/net").join(&name).exists() {
                let why = format!("there is no interface '{name}' on this box; it has {}", interfaces());
                let path = [path.clone(), dotted("interface")].concat();
                self.found.push(self.sources.diagnostic(Severity::Error, &path, why));
            }
        }
        let missing = missing_capabilities();
        if !entries.is_empty() && !missing.is_empty() {
            let why = format!(
                "this process has no {}; the agent needs it: run it with AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW in its unit",
                missing.join(" and no ")
            );
            self.say(Severity::Warning, "vip", why);
        }
    }

    fn programs(&mut self, env: &BTreeMap<String, String>) {
        let pg = self.root.section("postgresql");
        let bin_dir = pg.path("bin_dir");
        if let Some(directory) = bin_dir.as_ref().filter(|directory| !directory.is_dir()) {
            let what = if directory.exists() { "is not a directory" } else { "does not exist" };
            self.say(Severity::Error, "postgresql.bin_dir", format!("'{}' {what}", directory.display()));
            return;
        }
        let directories: Vec<PathBuf> = match &bin_dir {
            Some(directory) => vec![directory.clone()],
            None => env.get("PATH").map(|path| std::env::split_paths(path).collect()).unwrap_or_default(),
        };
        let place = bin_dir.map_or_else(|| "$PATH".to_owned(), |directory| directory.display().to_string());
        for program in PROGRAMS {
            let name = pg.section("bin_name").text(program).unwrap_or_else(|| program.to_owned());
            if !directories.iter().any(|directory| is_executable(&directory.join(&name))) {
                self.say(Severity::Error, "postgresql.bin_dir", format!("does not contain '{name}' in '{place}'"));
            }
        }
    }
}

fn interfaces() -> String {
    let Ok(entries) = std::fs::read_dir("/sys/class/net") else { return "none that can be seen".to_owned() };
    let mut names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.join(", ")
}

/// Of those for addresses and raw sockets (capabilities(7)), what this process does not have.
fn missing_capabilities() -> Vec<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    let has = |bit: u32| mask.is_none_or(|mask| mask >> bit & 1 == 1);
    [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW")].into_iter().filter(|(bit, _)| !has(*bit)).map(|(_, name)| name).collect()
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Somebody accepts connections there.
fn answers(host: &str, port: u16) -> bool {
    let host = match host {
        "*" | "0.0.0.0" | "" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    let Ok(addresses) = (host, port).to_socket_addrs() else { return false };
    addresses.take(2).any(|address| TcpStream::connect_timeout(&address, CONNECT_MAX).is_ok())
}

/// Absent, empty, or a data directory of PostgreSQL: all else is refused.
fn bad_data_dir(path: &Path) -> Option<&'static str> {
    if !path.exists() {
        return None;
    }
    let Ok(mut entries) = std::fs::read_dir(path) else {
        return Some(if path.is_dir() { "cannot be read" } else { "is not a directory" });
    };
    let _first = entries.next()?;
    if !path.join("PG_VERSION").exists() {
        return Some("doesn't look like a valid data directory: it is not empty and has no PG_VERSION");
    }
    (!path.join("pg_wal").is_dir()).then_some("is not empty, but has no pg_wal directory")
}
