//! From the merged tree to [`Config`]: what must be there, what contradicts itself, and the typed sections.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::file::Sources;
use super::lines::dotted;
use super::read::{options, Reader};
use super::tags;
use super::types::{
    BootstrapConfig, Config, CtlConfig, EtcdConfig, HostPort, LogConfig, PostgresStatic, RaftConfig, RestConfig, SrvConfig, VipSettings,
    WatchdogSettings,
};
use super::units::{as_list, as_text, host_port, hosts_and_port};
use super::{docs, vip, watchdog, Diagnostic, Severity};
use crate::ha::config::WatchdogConfig;

/// Stores that Patroni knows and this agent does not.
const OTHER_STORES: [&str; 4] = ["consul", "zookeeper", "exhibitor", "kubernetes"];
/// Patroni writes it into `synchronous_standby_names`.
const RESERVED_NAME: &str = "__patroni_strict_sync_replica_placeholder__";
/// The agent sets these itself.
const INITDB_NOT_ALLOWED: [&str; 5] = ["pgdata", "nosync", "pwfile", "sync-only", "version"];

/// Builds the configuration. Errors are in the list; the configuration means nothing if there are any.
pub(crate) fn validate(sources: &Sources, env: &BTreeMap<String, String>) -> (Config, Vec<Diagnostic>) {
    let mut build = Build::new(sources);
    let name = build.name();
    let restapi = build.restapi();
    let ctl = ctl(build.root, restapi.authentication.clone(), restapi.cafile.clone());
    let scope = build.scope();
    let etcd = build.store();
    let raft = build.raft(etcd.is_some());
    let section = build.postgresql(&name, env);
    let bootstrap = build.bootstrap();
    build.tags();
    let (watchdog, watchdog_device) = build.watchdog();
    let vip = build.vip();
    let config = Config {
        scope,
        name,
        namespace: namespace(build.root),
        log: log(build.root.section("log")),
        restapi,
        ctl,
        etcd,
        raft,
        postgresql: PostgresStatic { section },
        bootstrap,
        watchdog,
        watchdog_device,
        vip,
        tags: tags::published(build.root.section("tags").0),
        raw: Value::Object(sources.value.clone()),
    };
    (config, build.found)
}

/// `namespace` with one leading slash and none at the end; slashes in a row are one.
pub(crate) fn namespace(root: Reader<'_>) -> String {
    let text = root.text("namespace").unwrap_or_else(|| "service".to_owned());
    text.split('/').filter(|part| !part.is_empty()).fold(String::new(), |path, part| path + "/" + part)
}

/// The document, and what was found in it.
pub(crate) struct Build<'a> {
    sources: &'a Sources,
    pub(crate) root: Reader<'a>,
    pub(crate) found: Vec<Diagnostic>,
}

impl<'a> Build<'a> {
    pub(crate) fn new(sources: &'a Sources) -> Build<'a> {
        Build { sources, root: Reader(Some(&sources.value)), found: Vec::new() }
    }
}

impl Build<'_> {
    pub(crate) fn scope(&mut self) -> String {
        let scope = self.required("scope").unwrap_or_default();
        if scope.contains('/') {
            self.say(Severity::Error, "scope", "must not contain a slash: it is one level of the store's keys");
        }
        scope
    }

    pub(crate) fn say(&mut self, severity: Severity, key: &str, message: impl Into<String>) {
        let found = self.sources.diagnostic(severity, &dotted(key), message);
        self.found.push(found);
    }

    /// A text that must be there, for `a.b` in section `a`.
    fn required(&mut self, key: &str) -> Option<String> {
        let value = match key.rsplit_once('.') {
            Some((sections, last)) => sections.split('.').fold(self.root, |at, section| at.section(section)).get(last),
            None => self.root.get(key),
        };
        match value {
            None => self.say(Severity::Error, key, "missing"),
            Some(Value::String(text)) if text.trim().is_empty() => self.say(Severity::Error, key, "must not be empty"),
            Some(value) => return as_text(value),
        }
        None
    }

    fn name(&mut self) -> String {
        let key = if self.root.get("name").is_none() && self.root.section("postgresql").get("name").is_some() {
            "postgresql.name"
        } else {
            "name"
        };
        let name = self.required(key).unwrap_or_default();
        if name == RESERVED_NAME {
            self.say(Severity::Error, key, "this name is reserved: Patroni writes it into synchronous_standby_names");
        } else if name.contains('/') || name.chars().any(char::is_control) {
            self.say(Severity::Error, key, "must not contain a slash or control characters: it is one level of the store's keys");
        }
        name
    }

    fn restapi(&mut self) -> RestConfig {
        let rest = self.root.section("restapi");
        let nowhere = HostPort { host: String::new(), port: 0 };
        let listen = match self.required("restapi.listen").map(|text| listen_address(&text)) {
            Some(Ok(listen)) => Some(listen),
            Some(Err(why)) => {
                self.say(Severity::Error, "restapi.listen", why);
                None
            }
            None => None,
        };
        let connect_address = self.connect_address("restapi", listen.as_ref());
        let tls = rest.identity();
        if tls.is_none() && rest.text("verify_client").is_some_and(|verify| !verify.eq_ignore_ascii_case("none")) {
            self.say(
                Severity::Warning,
                "restapi.verify_client",
                "has no effect without restapi.certfile: plain HTTP has no client certificates",
            );
        }
        if rest.section("authentication").text("username").is_some() != rest.section("authentication").text("password").is_some() {
            self.say(Severity::Error, "restapi.authentication", "needs both username and password");
        }
        let headers = [rest.map("http_extra_headers"), rest.map("https_extra_headers").filter(|_| tls.is_some())];
        RestConfig {
            listen: listen.unwrap_or_else(|| nowhere.clone()),
            connect_address: connect_address.unwrap_or(nowhere),
            authentication: rest.login("authentication"),
            tls,
            cafile: rest.path("cafile"),
            ciphers: rest.text("ciphers"),
            verify_client: rest.text("verify_client").map_or_else(|| "none".to_owned(), |verify| verify.to_ascii_lowercase()),
            allowlist: rest.list("allowlist").filter(|list| !list.is_empty()),
            allowlist_include_members: rest.flag("allowlist_include_members").unwrap_or(false),
            extra_headers: extra_headers(headers),
            request_queue_size: small(rest.int("request_queue_size", ""), 5).min(4096),
            server_tokens: rest.text("server_tokens").unwrap_or_else(|| "Original".to_owned()),
        }
    }

    /// `connect_address`, or the address listened on, which Patroni takes too.
    fn connect_address(&mut self, section: &str, listen: Option<&HostPort>) -> Option<HostPort> {
        let reader = self.root.section(section);
        let key = format!("{section}.connect_address");
        if reader.text("connect_address").is_some() {
            let default = listen.map(|listen| listen.port);
            let address = reader.address("connect_address", default);
            if address.is_none() && reader.address("connect_address", Some(1)).is_some() {
                self.say(Severity::Error, &key, "the port is missing; write host:port");
            }
            return address;
        }
        let listen = listen?;
        let host = listen.host.split(',').next().unwrap_or_default();
        let wildcard = matches!(host, "*" | "0.0.0.0" | "::");
        let host = if wildcard { "localhost" } else { host };
        let address = HostPort { host: host.to_owned(), port: listen.port };
        let reach = if wildcard { "; the other members cannot reach that" } else { "" };
        self.say(Severity::Warning, &key, format!("missing; {address} is published in its place{reach}"));
        Some(address)
    }

    fn store(&mut self) -> Option<EtcdConfig> {
        let has = |name: &&str| self.root.get(name).is_some();
        let sections: Vec<&str> = ["etcd3", "etcd"].into_iter().filter(has).collect();
        let others: Vec<&str> = OTHER_STORES.into_iter().filter(has).collect();
        let Some(section) = sections.first() else {
            if let Some(other) = others.first() {
                let message = "this store is not supported; supported are etcd v3 (section etcd3 or etcd) and the embedded store (section raft, or none)";
                self.say(Severity::Error, other, message);
            }
            self.misspelt_store();
            return None;
        };
        if sections.len() > 1 {
            self.say(Severity::Note, "etcd", "not used: the section etcd3 is");
        }
        let (config, problem) = etcd(self.root.section(section));
        if let Some((key, why)) = problem {
            self.say(Severity::Error, &format!("{section}{key}"), why);
        }
        if config.cert.is_none() && config.key.is_some() {
            self.say(Severity::Warning, &format!("{section}.key"), "has no effect without cert");
        }
        Some(config)
    }

    /// A box whose store is misspelt must not found one of its own.
    fn misspelt_store(&mut self) {
        let stores = ["etcd", "etcd3", "raft"];
        let meant = |name: &String| {
            let path = [name.clone()];
            docs::find(&path).is_none() && docs::nearest(&path).is_some_and(|near| stores.contains(&near.as_str()))
        };
        for name in self.sources.value.keys().filter(|name| meant(name)) {
            let message = "is not known, and no store is configured: a store of this box's own would be made";
            self.found.push(self.sources.diagnostic(Severity::Error, &dotted(name), message));
        }
    }

    /// The embedded store. `other`: another one is used.
    pub(crate) fn raft(&mut self, other: bool) -> RaftConfig {
        let section = self.root.section("raft");
        if other {
            if self.root.get("raft").is_some() {
                self.say(Severity::Note, "raft", "not used: etcd is");
            }
            return RaftConfig::default();
        }
        let mut partners = Vec::new();
        for partner in section.list("partner_addrs").unwrap_or_default() {
            match host_port(&partner, None) {
                Ok(address) => partners.push(address),
                Err(why) => {
                    self.say(Severity::Error, "raft.partner_addrs", format!("'{}' is not host:port: {why}", partner.escape_debug()))
                }
            }
        }
        let files = [section.path("cafile"), section.path("certfile"), section.path("keyfile")];
        let has_files = files.iter().any(Option::is_some);
        let certificates = match files {
            [Some(ca), Some(cert), Some(key)] => Some((ca, cert, key)),
            _ => None,
        };
        let config = RaftConfig {
            address: section.address("self_addr", None),
            bind: section.address("bind_addr", None),
            partners,
            data_dir: section.path("data_dir"),
            password: section.secret("password").filter(|password| !password.0.is_empty()),
            certificates,
        };
        if has_files && config.certificates.is_none() {
            self.say(Severity::Error, "raft", "certificates need all of cafile, certfile and keyfile");
        } else if config.address.is_none() && !config.partners.is_empty() {
            self.say(Severity::Error, "raft.self_addr", "missing: where do the partners reach this box?");
        } else if config.address.is_some() && config.password.is_none() && config.certificates.is_none() {
            let message =
                "missing: boxes of one store need the same secret (openssl rand -hex 16), or certificates (cafile, certfile, keyfile)";
            self.say(Severity::Error, "raft.password", message);
        }
        config
    }

    /// Checks the section and returns it with the old places of its keys moved and `pgpass` filled in.
    fn postgresql(&mut self, name: &str, env: &BTreeMap<String, String>) -> Map<String, Value> {
        let mut section = self.root.map("postgresql").cloned().unwrap_or_default();
        if self.root.get("postgresql").is_none() {
            self.say(Severity::Error, "postgresql", "missing");
            return section;
        }
        let listen = self.required("postgresql.listen").map(|text| hosts_and_port(&text, Some(5432)));
        match listen {
            Some(Ok((host, port))) => {
                self.connect_address("postgresql", Some(&HostPort { host, port }));
            }
            Some(Err(why)) => self.say(Severity::Error, "postgresql.listen", why),
            None => {}
        }
        let data_dir = self.required("postgresql.data_dir");
        self.users(&mut section);
        self.local_parameters();
        if Reader(Some(&section)).text("pgpass").is_none() {
            section.insert("pgpass".to_owned(), Value::String(default_pgpass(name, data_dir.as_deref().unwrap_or("."), env)));
        }
        section
    }

    fn users(&mut self, section: &mut Map<String, Value>) {
        if section.get("authentication").is_none_or(Value::is_null) {
            // The old form: the users beside `listen`.
            let old = |user: &str| section.get(user).filter(|value| value.is_object()).cloned();
            let found = ["superuser", "replication"].into_iter().filter_map(|user| Some((user.to_owned(), old(user)?)));
            let users: Map<String, Value> = found.collect();
            section.insert("authentication".to_owned(), Value::Object(users));
        }
        let replication = Reader(Some(section)).section("authentication").section("replication");
        if replication.text("username").is_none() {
            self.say(Severity::Error, "postgresql.authentication.replication.username", "missing");
        }
    }

    /// Parameters that only count in the dynamic configuration.
    fn local_parameters(&mut self) {
        let Some(parameters) = self.root.section("postgresql").map("parameters") else { return };
        for name in parameters.keys() {
            let Some(rule) = super::parameters::rule(name) else { continue };
            let path = ["postgresql".to_owned(), "parameters".to_owned(), name.clone()];
            let found = self.sources.diagnostic(Severity::Warning, &path, rule.why_not_local());
            self.found.push(found);
        }
    }

    fn bootstrap(&mut self) -> BootstrapConfig {
        let section = self.root.section("bootstrap");
        let mut method = section.text("method").unwrap_or_else(|| "initdb".to_owned());
        let custom = if method == "initdb" { Map::new() } else { section.map(&method).cloned().unwrap_or_default() };
        match Reader(Some(&custom)).text("command").map(|text| super::check::split_command(&text)) {
            Some(Some(_)) => {}
            Some(None) => self.say(Severity::Error, &format!("bootstrap.{method}.command"), "is not a command line: a quote is not closed"),
            None if method == "initdb" => {}
            None => {
                // Patroni does the same; such files are in the field, and matter only until the cluster exists.
                let message = format!("the section {method} has no command: initdb makes the cluster");
                self.say(Severity::Warning, "bootstrap.method", message);
                "initdb".clone_into(&mut method);
            }
        }
        let mut refused = Vec::new();
        let initdb = options(section.get("initdb"), &INITDB_NOT_ALLOWED, &mut refused);
        for name in refused {
            self.say(Severity::Error, "bootstrap.initdb", format!("the option {name} is not allowed: the agent sets it itself"));
        }
        BootstrapConfig {
            present: section.0.is_some(),
            dcs: section.get("dcs").filter(|value| value.is_object()).cloned(),
            method,
            custom,
            initdb,
            post_bootstrap: section.command("post_bootstrap").or_else(|| section.command("post_init")),
            pg_hba: section.lines("pg_hba").unwrap_or_default(),
        }
    }

    fn tags(&mut self) {
        let tags = self.root.section("tags");
        for (key, message) in tags::contradictions(tags.0) {
            self.say(Severity::Warning, &format!("tags.{key}"), message);
        }
    }

    fn watchdog(&mut self) -> (WatchdogConfig, WatchdogSettings) {
        let (config, device, found) = watchdog::read(self.root.section("watchdog"));
        for (severity, key, message) in found {
            self.say(severity, &format!("watchdog.{key}"), message);
        }
        (config, device)
    }

    fn vip(&mut self) -> Vec<VipSettings> {
        let (list, found) = vip::read(self.root);
        self.found.extend(found.into_iter().map(|(severity, path, message)| self.sources.diagnostic(severity, &path, message)));
        list
    }
}

/// `restapi.listen`; `:8008` is every address, like `*:8008`.
pub(crate) fn listen_address(text: &str) -> Result<HostPort, &'static str> {
    if text.starts_with(':') && !text.starts_with("::") {
        return host_port(&format!("*{text}"), None);
    }
    host_port(text, None)
}

/// `~/pgpass-NAME`. Patroni takes `~/pgpass`; with the name two members on one box do not overwrite each other's passwords. Without a
/// home directory the file goes beside the data directory: never into it, a clone would wipe it.
fn default_pgpass(name: &str, data_dir: &str, env: &BTreeMap<String, String>) -> String {
    let beside = || std::path::Path::new(data_dir).parent().unwrap_or(std::path::Path::new(".")).to_path_buf();
    let directory = env.get("HOME").filter(|home| home.starts_with('/')).map_or_else(beside, std::path::PathBuf::from);
    directory.join(format!("pgpass-{name}")).display().to_string()
}

fn extra_headers(maps: [Option<&Map<String, Value>>; 2]) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, value) in maps.into_iter().flatten().flatten() {
        let Some(value) = as_text(value) else { continue };
        headers.retain(|(old, _)| !old.eq_ignore_ascii_case(name));
        headers.push((name.clone(), value));
    }
    headers
}

fn small(value: Option<i64>, default: u32) -> u32 {
    value.map_or(default, |value| u32::try_from(value.max(0)).unwrap_or(u32::MAX))
}

/// `ctl`, falling back on `restapi`.
pub(crate) fn ctl(
    root: Reader<'_>,
    authentication: Option<(String, super::types::Secret)>,
    cafile: Option<std::path::PathBuf>,
) -> CtlConfig {
    let ctl = root.section("ctl");
    CtlConfig {
        authentication: ctl.login("authentication").or(authentication),
        insecure: ctl.flag("insecure").unwrap_or(false),
        cacert: ctl.path("cacert").or(cafile),
        identity: ctl.identity(),
    }
}

/// `etcd3` or `etcd`. The problem, if there is one, with the key below the section (empty or `.key`).
pub(crate) fn etcd(section: Reader<'_>) -> (EtcdConfig, Option<(&'static str, String)>) {
    let port = section.int("port", "").and_then(|port| u16::try_from(port).ok()).unwrap_or(2379);
    let protocol = section.text("protocol").unwrap_or_else(|| "http".to_owned());
    let mut user = section.text("username").map(|name| (name, section.secret("password").unwrap_or_default()));
    let mut problem = None;
    let mut endpoints = Vec::new();
    if let Some((key, url)) = [".proxy", ".url"].into_iter().find_map(|key| Some((key, section.text(&key[1..])?))) {
        match parse_url(&url) {
            Some((endpoint, login)) => {
                endpoints.push(endpoint);
                user = login.or(user);
            }
            None => problem = Some((key, "is not a URL like http://host:2379".to_owned())),
        }
    } else {
        let key = if section.get("hosts").is_some() { ".hosts" } else { ".host" };
        let hosts = section.list(&key[1..]).unwrap_or_default();
        for host in &hosts {
            match host_port(host.trim_start_matches("http://").trim_start_matches("https://").trim_end_matches('/'), Some(port)) {
                Ok(address) if host.starts_with("https://") => endpoints.push(format!("https://{address}")),
                Ok(address) if host.starts_with("http://") => endpoints.push(format!("http://{address}")),
                Ok(address) => endpoints.push(format!("{protocol}://{address}")),
                Err(why) => problem = Some((key, format!("'{}' is not host:port: {why}", host.escape_debug()))),
            }
        }
    }
    // A wrong type has been reported with its key.
    let is_given = ["host", "hosts"].iter().any(|key| section.get(key).is_some_and(|value| as_list(value).is_none()));
    let domain = ["discovery_srv", "srv_domain", "srv"].into_iter().find_map(|key| section.text(key));
    let srv = domain.map(|domain| SrvConfig { domain, suffix: section.text("srv_suffix"), servers: None });
    let srv = srv.filter(|_| section.get("proxy").is_none());
    if endpoints.is_empty() && problem.is_none() && !is_given && srv.is_none() {
        problem = Some(("", "needs host, hosts, url, srv or proxy".to_owned()));
    }
    let fixed = section.flag("use_proxies").unwrap_or(false) || section.get("proxy").is_some();
    let config =
        EtcdConfig { endpoints, fixed, user, cacert: section.path("cacert"), cert: section.path("cert"), key: section.path("key"), srv };
    (config, problem)
}

type Login = Option<(String, super::types::Secret)>;

/// `scheme://user:password@host:port/…` to the endpoint and the login.
pub(crate) fn parse_url(url: &str) -> Option<(String, Login)> {
    let (scheme, rest) = url.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (login, host) = match authority.rsplit_once('@') {
        Some((login, host)) => (Some(login), host),
        None => (None, authority),
    };
    let address = host_port(host, Some(2379)).ok()?;
    let login = login.map(|login| {
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        (percent_decoded(user), super::types::Secret(percent_decoded(password)))
    });
    Some((format!("{scheme}://{address}"), login))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let code = (*byte == b'%').then(|| text.get(at + 1..at + 3)).flatten().and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(code.unwrap_or(*byte));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(crate) fn log(section: Reader<'_>) -> LogConfig {
    let loggers = section.map("loggers").into_iter().flatten();
    LogConfig {
        json: section.text("type").as_deref() == Some("json"),
        level: section.text("level").and_then(|text| level(&text)).unwrap_or(log::LevelFilter::Info),
        format: section.get("format").cloned(),
        dateformat: section.text("dateformat"),
        static_fields: section.map("static_fields").cloned().unwrap_or_default(),
        max_queue_size: usize::try_from(section.int("max_queue_size", "").unwrap_or(1000)).unwrap_or(1000),
        dir: section.path("dir"),
        mode: section.int("mode", "").and_then(|mode| u32::try_from(mode).ok()).map(|mode| mode & 0o777),
        file_num: small(section.int("file_num", ""), 4),
        file_size: u64::try_from(section.int("file_size", "B").unwrap_or(25_000_000)).unwrap_or(25_000_000),
        loggers: loggers.filter_map(|(name, value)| Some((name.clone(), level(&as_text(value)?)?))).collect(),
        deduplicate_heartbeat_logs: section.flag("deduplicate_heartbeat_logs").unwrap_or(true),
    }
}

fn level(text: &str) -> Option<log::LevelFilter> {
    match text.to_ascii_uppercase().as_str() {
        "DEBUG" => Some(log::LevelFilter::Debug),
        "INFO" => Some(log::LevelFilter::Info),
        "WARN" | "WARNING" => Some(log::LevelFilter::Warn),
        "ERROR" | "FATAL" | "CRITICAL" => Some(log::LevelFilter::Error),
        _ => None,
    }
}
