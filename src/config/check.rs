//! The pass over the whole tree: unknown keys, keys that do nothing, wrong types and ranges. What is missing is `validate`'s business.

use serde_json::{Map, Value};

use super::docs::{self, Key, Kind, Used};
use super::file::Sources;
use super::lines::Path;
use super::units::{as_list, as_text, host_port, parse_bool, parse_int, seconds_or, type_name};
use super::{Diagnostic, Severity};

/// What is acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What Patroni starts with.
    Start,
    /// What `patroni --validate-config` accepts: quoted booleans and values out of range are errors.
    Validate,
}

/// Checks every key of the tree against the table.
pub(crate) fn check(sources: &Sources, mode: Mode) -> Vec<Diagnostic> {
    let mut walk = Walk { sources, mode, methods: methods(&sources.value), found: Vec::new() };
    walk.map(&sources.value, &mut Vec::new());
    walk.found
}

/// Custom sections that the file itself names: `bootstrap.METHOD` and `postgresql.METHOD`.
fn methods(tree: &Map<String, Value>) -> Vec<Path> {
    let mut paths = Vec::new();
    let text = |section: &str, key: &str| tree.get(section).and_then(|section| section.get(key));
    if let Some(method) = text("bootstrap", "method").and_then(as_text) {
        paths.push(vec!["bootstrap".to_owned(), method]);
    }
    let dynamic = tree.get("bootstrap").and_then(|section| section.get("dcs")).and_then(|dcs| dcs.get("postgresql"));
    for section in [tree.get("postgresql"), dynamic].into_iter().flatten() {
        let lists = [section.get("create_replica_methods"), section.get("create_replica_method")];
        for name in lists.into_iter().flatten().filter_map(as_list).flatten() {
            paths.push(vec!["postgresql".to_owned(), name.clone()]);
            paths.push(vec!["bootstrap".to_owned(), "dcs".to_owned(), "postgresql".to_owned(), name]);
        }
    }
    paths
}

struct Walk<'a> {
    sources: &'a Sources,
    mode: Mode,
    methods: Vec<Path>,
    found: Vec<Diagnostic>,
}

impl Walk<'_> {
    fn say(&mut self, severity: Severity, path: &Path, message: impl Into<String>) {
        self.found.push(self.sources.diagnostic(severity, path, message));
    }

    fn map(&mut self, map: &Map<String, Value>, path: &mut Path) {
        for (name, value) in map {
            path.push(name.clone());
            match docs::find(path) {
                Some(key) => self.known(key, value, path),
                None => self.unknown(value, path),
            }
            path.pop();
        }
    }

    fn known(&mut self, key: &'static Key, value: &Value, path: &mut Path) {
        if value.is_null() {
            return;
        }
        if let Used::No(why) = key.used {
            self.say(Severity::Note, path, format!("known, but not used: {why}"));
            return;
        }
        match (key.kind, value) {
            (Kind::Section | Kind::Entries, Value::Object(map)) => self.map(map, path),
            (Kind::Entries, Value::Array(items)) => self.entries(items, path),
            (Kind::Entries, other) => {
                self.say(Severity::Error, path, format!("must be a list of maps, or one map, not {}", type_name(other)));
            }
            (Kind::Map, Value::Object(_)) => {}
            (Kind::Section | Kind::Map, other) => {
                self.say(Severity::Error, path, format!("must be a map of keys, not {}", type_name(other)));
            }
            (kind, value) => {
                for (severity, message) in problems(kind, value, self.mode) {
                    self.say(severity, path, message);
                }
            }
        }
    }

    fn entries(&mut self, items: &[Value], path: &mut Path) {
        for (index, item) in items.iter().enumerate() {
            path.push(index.to_string());
            match item {
                Value::Object(map) => self.map(map, path),
                other => self.say(Severity::Error, path, format!("must be a map of keys, not {}", type_name(other))),
            }
            path.pop();
        }
    }

    fn unknown(&mut self, value: &Value, path: &Path) {
        let is_helper = path.len() == 1 && (self.sources.is_anchored(path) || path[0].starts_with("x-") || path[0].starts_with('.'));
        // A method that is not in use at the moment still has its command.
        let is_spare_method =
            value.get("command").is_some() && path.len() >= 2 && matches!(path[path.len() - 2].as_str(), "postgresql" | "bootstrap");
        if is_helper || is_spare_method || self.methods.contains(path) {
            return;
        }
        let hint = docs::nearest(path).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        self.say(Severity::Warning, path, format!("unknown key, ignored{hint}"));
    }
}

type Problem = (Severity, String);

/// What is wrong with a value. Values are quoted only where they cannot be secrets.
fn problems(kind: Kind, value: &Value, mode: Mode) -> Vec<Problem> {
    let error = |message: String| vec![(Severity::Error, message)];
    match kind {
        Kind::Any | Kind::Section | Kind::Entries | Kind::Map => Vec::new(),
        Kind::Text | Kind::Secret | Kind::Path => match value {
            Value::Bool(_) => error("must be text, not a boolean; quote it".to_owned()),
            value if as_text(value).is_none() => error(format!("must be text, not {}", type_name(value))),
            _ => Vec::new(),
        },
        Kind::Command => command_problem(value).map(error).unwrap_or_default(),
        Kind::Bool => match (parse_bool(value), value) {
            (Some(_), Value::String(_)) if mode == Mode::Validate => error("must be a boolean without quotes: true or false".to_owned()),
            (Some(_), _) => Vec::new(),
            (None, value) => error(format!("must be a boolean (on, off, true, false, yes, no), not {}", shown(value))),
        },
        Kind::Int { min, max, unit } => int_problem(value, min, max, unit, mode).into_iter().collect(),
        Kind::SecondsOr { words } => seconds_problem(value, words).into_iter().collect(),
        Kind::HostPort => match as_text(value).map(|text| host_port(&text, Some(1))) {
            Some(Ok(_)) => Vec::new(),
            Some(Err(why)) => error(format!("{} is not host:port: {why}", shown(value))),
            None => error(format!("must be host:port, not {}", type_name(value))),
        },
        Kind::Words { words, fold } => {
            let text = as_text(value);
            let fits = text.is_some_and(|text| words.iter().any(|word| *word == text || fold && word.eq_ignore_ascii_case(&text)));
            if fits {
                Vec::new()
            } else {
                error(format!("must be one of {}, not {}", words.join(", "), shown(value)))
            }
        }
        Kind::List => match as_list(value) {
            Some(_) => Vec::new(),
            None if value.is_array() => error("must be a list of texts; one of them is something else".to_owned()),
            None => error(format!("must be a list of texts, not {}", type_name(value))),
        },
        Kind::Lines => line_problems(value),
        Kind::Options => option_problem(value).map(error).unwrap_or_default(),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", text.chars().take(60).collect::<String>().escape_debug()),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        other => type_name(other).to_owned(),
    }
}

fn int_problem(value: &Value, min: i64, max: i64, unit: &str, mode: Mode) -> Option<Problem> {
    let Some(number) = parse_int(value, unit) else {
        let with_unit = if unit.is_empty() { String::new() } else { format!(", with or without a unit (base unit {unit})") };
        return Some((Severity::Error, format!("must be a whole number{with_unit}, not {}", shown(value))));
    };
    let severity = if mode == Mode::Validate { Severity::Error } else { Severity::Warning };
    if number < min {
        return Some((severity, format!("{number} is below the minimum {min}")));
    }
    (number > max).then(|| (severity, format!("{number} is above the maximum {max}")))
}

fn seconds_problem(value: &Value, words: &[&'static str]) -> Option<Problem> {
    let wrong = seconds_or(value, words).is_none();
    wrong.then(|| (Severity::Error, format!("must be {} or a number of seconds from 1 on, not {}", words.join(", "), shown(value))))
}

fn command_problem(value: &Value) -> Option<String> {
    let Value::String(text) = value else { return Some(format!("must be a command line, not {}", type_name(value))) };
    match split_command(text) {
        None => Some("is not a command line: a quote is not closed".to_owned()),
        Some(_) => None,
    }
}

/// Words of a command line as a POSIX shell splits them. `None`: a quote or escape is not closed. Empty for an empty text.
#[must_use]
pub(crate) fn split_command(text: &str) -> Option<Vec<String>> {
    shlex::split(text)
}

fn line_problems(value: &Value) -> Vec<Problem> {
    match value {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .filter(|(_, item)| !item.is_string())
            .map(|(index, item)| {
                (Severity::Warning, format!("line {} is {}, not text, and is left out; quote it", index + 1, type_name(item)))
            })
            .collect(),
        Value::String(_) => vec![(Severity::Warning, "should be a list of lines; the text is taken line by line".to_owned())],
        other => vec![(Severity::Error, format!("must be a list of lines, not {}", type_name(other)))],
    }
}

fn option_problem(value: &Value) -> Option<String> {
    match value {
        Value::Object(_) => None,
        Value::Array(items) => items.iter().find_map(|item| match item {
            Value::String(_) => None,
            Value::Object(map) if map.len() == 1 => None,
            Value::Object(_) => Some("each option must be a name or a map with one key".to_owned()),
            other => Some(format!("each option must be a name or a map with one key, not {}", type_name(other))),
        }),
        other => Some(format!("must be a list or a map of options, not {}", type_name(other))),
    }
}
