//! Configuration: Patroni's YAML files and `PATRONI_*` variables, read the way Patroni reads them.
//!
//! The way of a value: text → [`yaml`] (tree and lines) → [`file`] and [`env`] (merged tree) → [`check`] (types, unknown keys, against the
//! table in [`keys`]) → [`validate`] (what is missing or contradicts itself; the typed [`Config`]) → [`effective`] (with the dynamic
//! configuration of the store). Everything up to [`Config`] reports all problems together, with their lines; everything after it corrects
//! and warns, because a running agent has no use for an error.

pub mod check;
pub mod ctl;
pub mod docs;
pub mod dump;
pub mod effective;
pub mod env;
pub mod file;
pub mod generate;
pub mod keys;
mod lines;
pub mod parameters;
mod read;
pub mod report;
mod scalar;
pub mod tags;
pub mod types;
pub mod units;
mod validate;
mod vip;
mod watchdog;
pub mod witness;
pub(crate) mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub use ctl::{load_ctl, CtlSettings};
pub use docs::reference_markdown;
pub use types::{Config, Effective, EtcdConfig};

use check::Mode;
use file::Sources;

/// A loaded configuration.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What should be said about it: warnings and notes.
    pub warnings: Vec<Diagnostic>,
}

/// How bad a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// Probably not what was meant.
    Warning,
    /// Known, but without effect.
    Note,
}

/// One thing to say about the configuration. Never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// The file; `None`: environment.
    pub file: Option<PathBuf>,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The key path, or the variable; empty where the whole file is meant.
    pub key: String,
    /// A sentence.
    pub message: String,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        write!(f, "{}: ", self.severity)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key.escape_debug())?;
        }
        f.write_str(&self.message)
    }
}

/// Loads a file, a directory, or without one the environment. Pure but for reading the files: a reload that fails changes nothing.
///
/// # Errors
/// All problems together (warnings and notes among them) if at least one of them is an error.
pub fn load(path: Option<&Path>, env: &BTreeMap<String, String>) -> Result<Loaded, Vec<Diagnostic>> {
    let sources = gather(path, env);
    let mut found = sources.found.clone();
    if found.iter().any(|one| one.severity == Severity::Error) {
        return Err(found);
    }
    found.extend(check::check(&sources, Mode::Start));
    let (config, problems) = validate::validate(&sources, env);
    found.extend(problems);
    sort(&mut found);
    if found.iter().any(|one| one.severity == Severity::Error) {
        return Err(found);
    }
    Ok(Loaded { config, warnings: found })
}

/// In the order of the file; what has no line comes last.
pub(crate) fn sort(found: &mut [Diagnostic]) {
    found.sort_by(|a, b| (&a.file, a.line.unwrap_or(usize::MAX), a.severity).cmp(&(&b.file, b.line.unwrap_or(usize::MAX), b.severity)));
}

/// Reads files and variables. Precedence: variables over files; `PATRONI_CONFIGURATION` where there is no file, and then alone.
pub(crate) fn gather(path: Option<&Path>, env: &BTreeMap<String, String>) -> Sources {
    let mut sources = Sources::default();
    let existing = path.filter(|path| path.exists());
    match (existing, env::whole_document(env)) {
        (Some(path), _) => sources.read(path),
        (None, Some(document)) => {
            sources.add_text(None, document);
            return sources;
        }
        (None, None) => {}
    }
    let from_env = env::collect(env);
    if existing.is_none() && from_env.value.is_empty() {
        let message = match path {
            Some(_) => "no such file or directory",
            None => "no configuration: name a file, or set PATRONI_CONFIGURATION or PATRONI_* variables",
        };
        let (file, message) = (path.map(Path::to_owned), message.to_owned());
        sources.found.push(Diagnostic { severity: Severity::Error, file, line: None, key: String::new(), message });
    } else if existing.is_none() && path.is_some() {
        // Patroni does the same without a word.
        let (file, message) = (path.map(Path::to_owned), "no such file or directory; the environment alone is used".to_owned());
        sources.found.push(Diagnostic { severity: Severity::Warning, file, line: None, key: String::new(), message });
    }
    if from_env.value.contains_key("vip") {
        only_vip_as_map(&mut sources.value);
    }
    file::patch(&mut sources.value, from_env.value);
    sources.variables = from_env.variables;
    for (key, message) in from_env.problems {
        sources.found.push(Diagnostic { severity: Severity::Warning, file: None, line: None, key, message });
    }
    sources
}

/// `MASTIFF_VIP_*` are about one address: over a list of one they count for that one. A longer list is replaced.
fn only_vip_as_map(tree: &mut Map<String, Value>) {
    if let Some(Value::Array(items)) = tree.get("vip") {
        if let [only @ Value::Object(_)] = items.as_slice() {
            let only = only.clone();
            tree.insert("vip".to_owned(), only);
        }
    }
}

impl Config {
    /// The merged document with stars for secrets, for `--print`.
    #[must_use]
    pub fn redacted(&self) -> Value {
        redacted(&self.raw)
    }

    /// Keys whose change only a restart of the agent can bring about, as far as they differ in `new`.
    #[must_use]
    pub fn needs_restart(&self, new: &Config) -> Vec<&'static str> {
        let data_dir = |config: &Config| config.postgresql.section.get("data_dir").cloned();
        let pairs = [
            ("scope", self.scope != new.scope),
            ("name", self.name != new.name),
            ("namespace", self.namespace != new.namespace),
            ("postgresql.data_dir", data_dir(self) != data_dir(new)),
            // An armed device must not be let go of by a reload.
            ("watchdog.device", self.watchdog_device.device != new.watchdog_device.device),
            ("watchdog.driver", self.watchdog_device.driver != new.watchdog_device.driver),
            ("watchdog.pretimeout", self.watchdog_device.pretimeout != new.watchdog_device.pretimeout),
            // Their sockets are opened while the privileges are there.
        ];
        pairs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}

/// A copy with `***` in the place of secrets: passwords, tokens, authentication data, and the login in URLs.
#[must_use]
pub fn redacted(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.iter().map(|(name, value)| (name.clone(), redacted_entry(name, value))).collect()),
        Value::Array(items) => items.iter().map(redacted).collect(),
        Value::String(text) => Value::String(without_login(text)),
        other => other.clone(),
    }
}

fn redacted_entry(name: &str, value: &Value) -> Value {
    let name = name.to_ascii_lowercase();
    let is_secret = name.ends_with("password") || matches!(name.as_str(), "token" | "auth_data" | "authorization");
    // `password_encryption` and the like do not end so; a map below such a name is looked into.
    if is_secret && !value.is_null() && !(value.is_object() && name != "auth_data") {
        return Value::String("***".to_owned());
    }
    redacted(value)
}

/// `scheme://user:password@host` without the password; `password=…` of connection strings too.
fn without_login(text: &str) -> String {
    let mut text = text.to_owned();
    if let Some((scheme, rest)) = text.split_once("://") {
        if let Some((login, host)) = rest.split_once('@').filter(|(login, _)| !login.contains('/')) {
            let user = login.split(':').next().unwrap_or_default();
            text = format!("{scheme}://{user}:***@{host}");
        }
    }
    if let Some((before, after)) = text.split_once("password=") {
        let end = after.find([' ', '&']).map_or("", |end| &after[end..]);
        text = format!("{before}password=***{end}");
    }
    text
}

/// The cache of the dynamic configuration in the data directory.
pub const CACHE_FILE: &str = "patroni.dynamic.json";

/// The content of [`CACHE_FILE`] as Patroni writes it.
#[must_use]
pub fn render_cache(dynamic: &Value) -> String {
    match dynamic {
        Value::Object(map) => {
            let entries: Vec<String> =
                map.iter().map(|(name, value)| format!("{}: {}", Value::from(name.as_str()), render_cache(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(render_cache).collect::<Vec<_>>().join(", ")),
        scalar => scalar.to_string(),
    }
}

/// Reads the cache. `None` if there is none, or if it is no JSON object (then the store or `bootstrap.dcs` counts).
#[must_use]
pub fn read_cache(data_dir: &Path) -> Option<Map<String, Value>> {
    let text = std::fs::read_to_string(data_dir.join(CACHE_FILE)).ok()?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Some(map),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{redacted, render_cache};
    use serde_json::json;

    #[test]
    fn secrets_become_stars() {
        let tree = json!({
            "restapi": {"authentication": {"username": "a", "password": "s3cret"}, "keyfile_password": 5},
            "etcd3": {"url": "http://root:s3cret@h:2379", "hosts": ["http://h:2379"]},
            "postgresql": {"parameters": {"password_encryption": "md5"}, "recovery_conf": {"x": "host=a password=s3cret user=b"}},
        });
        let text = redacted(&tree).to_string();
        assert!(!text.contains("s3cret"), "{text}");
        assert!(text.contains("md5") && text.contains("http://root:***@h:2379") && text.contains("host=a password=*** user=b"), "{text}");
    }

    #[test]
    fn the_cache_looks_like_patronis() {
        let dynamic = json!({"ttl": 20, "postgresql": {"parameters": {"a": "b"}, "pg_hba": ["x", 1]}, "pause": false});
        assert_eq!(render_cache(&dynamic), r#"{"ttl": 20, "postgresql": {"parameters": {"a": "b"}, "pg_hba": ["x", 1]}, "pause": false}"#);
    }
}
