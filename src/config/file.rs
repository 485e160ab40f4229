//! Reading a file or a directory of files into one tree, and saying where in them a key stands.

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};

use serde_json::{Map, Value};

use super::lines::{Lines, Path};
use super::yaml::{self, Parsed};
use super::{Diagnostic, Severity};

/// A configuration is small; more is a mistake (a device, a dump) and not worth reading.
const SIZE_MAX: u64 = 4 * 1024 * 1024;
/// From the environment: `PATRONI_CONFIGURATION` has lines but no file.
const NO_FILE: Option<PathBuf> = None;

/// Everything that was read, merged, with the places of its keys.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// The merged tree: files in order, then variables.
    pub(crate) value: Map<String, Value>,
    texts: Vec<Text>,
    /// Keys that a variable set.
    pub(crate) variables: BTreeMap<Path, String>,
    /// What was noticed while reading.
    pub(crate) found: Vec<Diagnostic>,
}

#[derive(Debug)]
struct Text {
    file: Option<PathBuf>,
    lines: Lines,
    anchored: std::collections::BTreeSet<Path>,
}

impl Sources {
    /// Reads a file, or all `*.yml` and `*.yaml` of a directory in the order of their names.
    pub(crate) fn read(&mut self, path: &FilePath) {
        if !path.is_dir() {
            self.read_file(path);
            return;
        }
        match files_in(path) {
            Ok(files) if files.is_empty() => self.fail(path, None, "the directory has no *.yml file"),
            Ok(files) => files.iter().for_each(|file| self.read_file(file)),
            Err(error) => self.fail(path, None, &format!("cannot be read: {error}")),
        }
    }

    fn read_file(&mut self, path: &FilePath) {
        match read_limited(path) {
            Ok(text) => self.add_text(Some(path.to_owned()), &text),
            Err(message) => self.fail(path, None, &message),
        }
    }

    /// Adds one document: a file's text, or that of `PATRONI_CONFIGURATION`.
    pub(crate) fn add_text(&mut self, file: Option<PathBuf>, text: &str) {
        let parsed = match yaml::parse(text) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.found.push(Diagnostic {
                    severity: Severity::Error,
                    file,
                    line: error.line,
                    key: String::new(),
                    message: error.message,
                });
                return;
            }
        };
        let Parsed { value, lines, repeated, anchored } = parsed;
        for (path, line) in repeated {
            let message = "given more than once in the same place; the last one counts".to_owned();
            self.found.push(Diagnostic { severity: Severity::Warning, file: file.clone(), line, key: path.join("."), message });
        }
        let Value::Object(map) = value else {
            let message = if value.is_null() { "the file is empty" } else { "the file must be a mapping of keys" }.to_owned();
            self.found.push(Diagnostic { severity: Severity::Error, file, line: None, key: String::new(), message });
            return;
        };
        patch(&mut self.value, map);
        self.texts.push(Text { file, lines, anchored });
    }

    fn fail(&mut self, path: &FilePath, line: Option<usize>, message: &str) {
        let (file, message) = (Some(path.to_owned()), message.to_owned());
        self.found.push(Diagnostic { severity: Severity::Error, file, line, key: String::new(), message });
    }

    /// A diagnostic with the place of `path`, or of what surrounds it.
    pub(crate) fn diagnostic(&self, severity: Severity, path: &[String], message: impl Into<String>) -> Diagnostic {
        let key = path.join(".");
        let message = message.into();
        if let Some(variable) = self.variable(path) {
            return Diagnostic { severity, file: NO_FILE, line: None, key, message: format!("{message} (set by {variable})") };
        }
        let exact = self.texts.iter().rev().find_map(|text| Some((text, text.lines.get(path)?)));
        let nearest = || {
            // The text that knows the longest part of the path.
            (1..path.len()).rev().find_map(|length| {
                let part = path.get(..length)?;
                self.texts.iter().rev().find_map(|text| Some((text, text.lines.nearest(part).filter(|_| text.lines.get(part).is_some())?)))
            })
        };
        match exact.or_else(nearest) {
            Some((text, line)) => Diagnostic { severity, file: text.file.clone(), line: Some(line), key, message },
            None => Diagnostic { severity, file: self.texts.last().and_then(|text| text.file.clone()), line: None, key, message },
        }
    }

    fn variable(&self, path: &[String]) -> Option<&String> {
        (1..=path.len()).rev().find_map(|length| self.variables.get(path.get(..length)?))
    }

    /// The section exists for its anchor only (`x: &x …`).
    pub(crate) fn is_anchored(&self, path: &Path) -> bool {
        self.texts.iter().any(|text| text.anchored.contains(path))
    }
}

fn files_in(directory: &FilePath) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let is_yaml = path.extension().is_some_and(|extension| extension == "yml" || extension == "yaml");
        if is_yaml && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_limited(path: &FilePath) -> Result<String, String> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    if metadata.len() > SIZE_MAX {
        return Err(format!("larger than {SIZE_MAX} bytes: this is no configuration file"));
    }
    let bytes = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    String::from_utf8(bytes).map_err(|_| "not valid YAML: the file is not UTF-8 text".to_owned())
}

/// Puts `over` on `base` as Patroni does with several files and with `PATCH /config`: null removes, maps are merged, scalars with
/// the same text keep their type, everything else is replaced.
pub fn patch(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (name, value) in over {
        match (base.get_mut(&name), value) {
            (_, Value::Null) => {
                base.shift_remove(&name);
            }
            (Some(Value::Object(old)), Value::Object(new)) => patch(old, new),
            (Some(old), new) => {
                if scalar_text(old).is_none() || scalar_text(old) != scalar_text(&new) {
                    *old = new;
                }
            }
            (None, new) => {
                base.insert(name, new);
            }
        }
    }
}

/// Python's `str()` of a scalar.
fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::Bool(true) => Some("True".to_owned()),
        Value::Bool(false) => Some("False".to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{patch, Sources};
    use crate::config::lines::dotted;
    use crate::config::Severity;
    use serde_json::{json, Value};

    #[test]
    fn patches_like_patroni() {
        let Value::Object(mut base) = json!({"a": {"b": 1, "c": 2}, "d": [1], "e": 101, "f": 1}) else { return };
        let Value::Object(over) = json!({"a": {"b": null, "x": 3}, "d": [2], "e": "101", "f": null, "g": {"h": null}}) else { return };
        patch(&mut base, over);
        assert_eq!(Value::Object(base), json!({"a": {"c": 2, "x": 3}, "d": [2], "e": 101, "g": {"h": null}}));
    }

    #[test]
    fn places_name_the_file_that_counts() {
        let mut sources = Sources::default();
        sources.add_text(Some("a.yml".into()), "scope: x\nlog:\n  level: INFO\n");
        sources.add_text(Some("b.yml".into()), "log:\n  level: DEBUG\n");
        let place = |sources: &Sources, path: &str| {
            let found = sources.diagnostic(Severity::Error, &dotted(path), "m");
            (found.file.map(|file| file.display().to_string()).unwrap_or_default(), found.line)
        };
        assert_eq!(place(&sources, "log.level"), ("b.yml".to_owned(), Some(2)));
        assert_eq!(place(&sources, "scope"), ("a.yml".to_owned(), Some(1)));
        assert_eq!(place(&sources, "log.dir"), ("b.yml".to_owned(), Some(1)));
        assert_eq!(place(&sources, "name"), ("b.yml".to_owned(), None));
        sources.variables.insert(dotted("log.level"), "PATRONI_LOG_LEVEL".to_owned());
        assert_eq!(place(&sources, "log.level"), (String::new(), None));
    }
}
