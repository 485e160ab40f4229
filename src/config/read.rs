//! Lenient reading of values that the check has already judged: what is absent or of a wrong type is `None`.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::types::{HostPort, Secret, TlsIdentity};
use super::units::{as_list, as_text, host_port, parse_bool, parse_int};

/// One map of the tree.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) Option<&'a Map<String, Value>>);

impl<'a> Reader<'a> {
    /// The value, if it is there and not null.
    pub(crate) fn get(self, key: &str) -> Option<&'a Value> {
        self.0?.get(key).filter(|value| !value.is_null())
    }

    /// A section below; absent ones read as empty.
    pub(crate) fn section(self, key: &str) -> Reader<'a> {
        Reader(self.map(key))
    }

    pub(crate) fn map(self, key: &str) -> Option<&'a Map<String, Value>> {
        self.get(key).and_then(Value::as_object)
    }

    /// Text that is not empty.
    pub(crate) fn text(self, key: &str) -> Option<String> {
        self.get(key).and_then(as_text).filter(|text| !text.is_empty())
    }

    pub(crate) fn path(self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    pub(crate) fn secret(self, key: &str) -> Option<Secret> {
        self.text(key).map(Secret)
    }

    pub(crate) fn flag(self, key: &str) -> Option<bool> {
        self.get(key).and_then(parse_bool)
    }

    pub(crate) fn int(self, key: &str, unit: &str) -> Option<i64> {
        self.get(key).and_then(|value| parse_int(value, unit))
    }

    pub(crate) fn list(self, key: &str) -> Option<Vec<String>> {
        self.get(key).and_then(as_list)
    }

    pub(crate) fn address(self, key: &str, default_port: Option<u16>) -> Option<HostPort> {
        host_port(&self.text(key)?, default_port).ok()
    }

    /// A list of whole lines; an empty one counts as absent, as with Patroni.
    pub(crate) fn lines(self, key: &str) -> Option<Vec<String>> {
        let lines: Vec<String> = match self.get(key)? {
            Value::Array(items) => items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect(),
            Value::String(text) => text.lines().map(str::to_owned).collect(),
            _ => return None,
        };
        (!lines.is_empty()).then_some(lines)
    }

    /// A command line, split into words.
    pub(crate) fn command(self, key: &str) -> Option<Vec<String>> {
        super::check::split_command(&self.text(key)?).filter(|words| !words.is_empty())
    }

    /// `authentication`: user and password.
    pub(crate) fn login(self, key: &str) -> Option<(String, Secret)> {
        let section = self.section(key);
        Some((section.text("username")?, section.secret("password").unwrap_or_default()))
    }

    /// `certfile`, `keyfile` and `keyfile_password`.
    pub(crate) fn identity(self) -> Option<TlsIdentity> {
        let certfile = self.path("certfile")?;
        let keyfile = self.path("keyfile").unwrap_or_else(|| certfile.clone());
        Some(TlsIdentity { certfile, keyfile, keyfile_password: self.secret("keyfile_password") })
    }
}

/// Options of a program as command-line arguments. What is not allowed goes to `refused`, as its name.
pub(crate) fn options(value: Option<&Value>, not_allowed: &[&str], refused: &mut Vec<String>) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut add = |name: &str, value: Option<&Value>| {
        let name = name.trim_start_matches('-');
        let bare = name.split('=').next().unwrap_or(name);
        if not_allowed.contains(&bare) {
            refused.push(bare.to_owned());
            return;
        }
        match value {
            None | Some(Value::Bool(true)) => arguments.push(format!("--{name}")),
            Some(Value::String(text)) => arguments.push(format!("--{name}={}", unquote(text))),
            Some(Value::Number(number)) => arguments.push(format!("--{name}={number}")),
            Some(Value::Bool(false) | Value::Null | Value::Array(_) | Value::Object(_)) => {}
        }
    };
    match value {
        Some(Value::Object(map)) => map.iter().for_each(|(name, value)| add(name, Some(value))),
        Some(Value::Array(items)) => items.iter().for_each(|item| match item {
            Value::String(name) => add(name, None),
            Value::Object(map) => map.iter().for_each(|(name, value)| add(name, Some(value))),
            _ => {}
        }),
        _ => {}
    }
    arguments
}

/// Without quotes around the whole, if it is one quoted word.
fn unquote(text: &str) -> String {
    match shlex::split(text) {
        Some(words) if words.len() == 1 => words.into_iter().next().unwrap_or_default(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::options;
    use serde_json::json;

    #[test]
    fn options_mix_names_and_maps() {
        let mut refused = Vec::new();
        let list = json!(["data-checksums", {"encoding": "UTF8"}, {"locale": "'de DE'"}, "pgdata=/x", {"wal-segsize": 1}]);
        assert_eq!(
            options(Some(&list), &["pgdata"], &mut refused),
            ["--data-checksums", "--encoding=UTF8", "--locale=de DE", "--wal-segsize=1"]
        );
        assert_eq!(refused, ["pgdata"]);
        assert_eq!(options(Some(&json!({"max-rate": "100M", "verbose": true})), &[], &mut refused), ["--max-rate=100M", "--verbose"]);
        assert!(options(Some(&json!(5)), &[], &mut refused).is_empty());
    }
}
