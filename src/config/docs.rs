//! What is known about keys: lookup in the one table ([`super::keys`]), nearest names for typos, and the printed reference.

use super::keys::KEYS;

/// One key of the file, or of the dynamic configuration (paths below `dcs`).
#[derive(Debug)]
pub struct Key {
    /// Path. A segment may be `*` (any name) or `{a,b}` (one of these).
    pub path: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// The default as a user would write it; empty: none.
    pub default: &'static str,
    /// Whether it does something here.
    pub used: Used,
    /// One sentence.
    pub doc: &'static str,
}

/// Type and range of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A map with known keys.
    Section,
    /// A list of maps with known keys, or one such map.
    Entries,
    /// A map with free keys.
    Map,
    /// Text.
    Text,
    /// Text that is never printed.
    Secret,
    /// A path.
    Path,
    /// A command line, split like a shell would.
    Command,
    /// Boolean, in all of Patroni's spellings.
    Bool,
    /// Integer with limits; `unit` is the base unit of a value with a unit, or empty.
    Int {
        /// Smallest value.
        min: i64,
        /// Largest value.
        max: i64,
        /// Base unit.
        unit: &'static str,
    },
    /// Whole seconds from 1 on, or one of these words. `off` may be written as a boolean, which it is in YAML.
    SecondsOr {
        /// The words.
        words: &'static [&'static str],
    },
    /// `host:port`.
    HostPort,
    /// One of these words. `fold`: upper and lower case are the same.
    Words {
        /// The words.
        words: &'static [&'static str],
        /// Case does not matter.
        fold: bool,
    },
    /// A list of texts, or one text separated by commas.
    List,
    /// A list of whole lines.
    Lines,
    /// Options of a program: a list of names and one-key maps, or one map.
    Options,
    /// Anything.
    Any,
}

/// Whether a key does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Used {
    /// Yes.
    Yes,
    /// No, and why. Said once.
    No(&'static str),
}

/// The key for a path as it stands in a file. `etcd` is read like `etcd3`, `bootstrap.dcs` like the dynamic
/// configuration, an entry of `vip` like its only one.
#[must_use]
pub fn find(path: &[String]) -> Option<&'static Key> {
    let path = canonical(path);
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    find_exact(&parts).or_else(|| {
        // The dynamic configuration takes what the local section takes.
        (parts.len() > 1 && parts[0] == "dcs" && parts[1] == "postgresql").then(|| find_exact(&parts[1..])).flatten()
    })
}

fn find_exact(parts: &[&str]) -> Option<&'static Key> {
    KEYS.iter().find(|key| {
        let mut pattern = key.path.split('.');
        parts.iter().all(|part| pattern.next().is_some_and(|segment| segment_matches(segment, part))) && pattern.next().is_none()
    })
}

fn segment_matches(segment: &str, part: &str) -> bool {
    match segment.strip_prefix('{').and_then(|words| words.strip_suffix('}')) {
        Some(words) => words.split(',').any(|word| word == part),
        None => segment == "*" || segment == part,
    }
}

fn canonical(path: &[String]) -> Vec<String> {
    let mut path = path.to_vec();
    if path.first().is_some_and(|first| first == "etcd") {
        "etcd3".clone_into(&mut path[0]);
    }
    if path.len() >= 2 && path[0] == "bootstrap" && path[1] == "dcs" {
        path.remove(0);
    }
    // An entry of a list has the keys of the one map that may stand in its place.
    if path.len() >= 2 && path[0] == "vip" && path[1].bytes().all(|byte| byte.is_ascii_digit()) {
        path.remove(1);
    }
    path
}

/// The known key beside `path` whose name is nearest to its last segment, if it is near enough to be meant.
#[must_use]
pub fn nearest(path: &[String]) -> Option<String> {
    let (name, parent) = path.split_last()?;
    let mut parent = canonical(parent);
    let mut candidates = siblings(&parent);
    if parent.first().is_some_and(|first| first == "dcs") && parent.len() > 1 {
        parent.remove(0);
        candidates.extend(siblings(&parent));
    }
    // A setting of the whole cluster that somebody wrote into the member's own file.
    let misplaced = || closest(name, siblings(&["dcs".to_owned()])).filter(|_| parent.is_empty());
    closest(name, candidates).or_else(|| misplaced().map(|key| format!("bootstrap.dcs.{key}")))
}

fn closest(name: &str, candidates: Vec<String>) -> Option<String> {
    let limit = (name.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(name, &candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

fn siblings(parent: &[String]) -> Vec<String> {
    let mut names = Vec::new();
    for key in KEYS {
        let segments: Vec<&str> = key.path.split('.').collect();
        let Some((last, head)) = segments.split_last() else { continue };
        if head.len() != parent.len() || !head.iter().zip(parent).all(|(segment, part)| segment_matches(segment, part)) {
            continue;
        }
        match last.strip_prefix('{').and_then(|words| words.strip_suffix('}')) {
            Some(words) => names.extend(words.split(',').map(str::to_owned)),
            None if *last != "*" => names.push((*last).to_owned()),
            None => {}
        }
    }
    names
}

/// Edit distance: insertions, deletions, replacements and swaps of neighbours.
#[must_use]
pub fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.to_lowercase().chars().take(64).collect();
    let right: Vec<char> = right.to_lowercase().chars().take(64).collect();
    let width = right.len() + 1;
    let mut rows: Vec<Vec<usize>> = vec![(0..width).collect()];
    for (i, a) in left.iter().enumerate() {
        let mut row = vec![i + 1; width];
        for (j, b) in right.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(a != b);
            row[j + 1] = replaced.min(row[j] + 1).min(rows[i][j + 1] + 1);
            if i > 0 && j > 0 && left[i - 1] == *b && right[j - 1] == *a {
                row[j + 1] = row[j + 1].min(rows[i - 1][j - 1] + 1);
            }
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or(0)
}

impl Kind {
    /// The type as the reference prints it.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Kind::Section => "section".to_owned(),
            Kind::Entries => "list of sections, or one".to_owned(),
            Kind::Map => "map".to_owned(),
            Kind::Text => "text".to_owned(),
            Kind::Secret => "text (secret)".to_owned(),
            Kind::Path => "path".to_owned(),
            Kind::Command => "command".to_owned(),
            Kind::Bool => "boolean".to_owned(),
            Kind::Int { min, max, unit } => {
                let unit = if unit.is_empty() { String::new() } else { format!(" ({unit}, or with a unit)") };
                match (*min, *max) {
                    (i64::MIN, i64::MAX) => format!("integer{unit}"),
                    (min, i64::MAX) => format!("integer ≥ {min}{unit}"),
                    (min, max) => format!("integer {min}..{max}{unit}"),
                }
            }
            Kind::SecondsOr { words } => format!("seconds ≥ 1 / {}", words.join(" / ")),
            Kind::HostPort => "host:port".to_owned(),
            Kind::Words { words, .. } => words.join(" / "),
            Kind::List => "list".to_owned(),
            Kind::Lines => "list of lines".to_owned(),
            Kind::Options => "options (list or map)".to_owned(),
            Kind::Any => "any".to_owned(),
        }
    }
}

/// The configuration reference as Markdown, generated from the table.
#[must_use]
pub fn reference_markdown() -> String {
    let mut text = String::from("# Configuration reference\n\nGenerated from the table in `src/config/keys.rs`.\n");
    let mut section = "";
    for key in KEYS {
        let first = key.path.split('.').next().unwrap_or("");
        let group = if key.path.contains('.') || matches!(key.kind, Kind::Section | Kind::Entries) { first } else { "top level" };
        if group != section {
            section = group;
            let title = match group {
                "dcs" => "dynamic configuration (`bootstrap.dcs` and the store)",
                "vip" => "vip (a list of these, or one)",
                group => group,
            };
            text.push_str(&format!("\n## {title}\n\n| Key | Type | Default | Meaning |\n|---|---|---|---|\n"));
        }
        if matches!(key.kind, Kind::Section | Kind::Entries) && !key.path.contains('.') {
            continue;
        }
        let path = key.path.strip_prefix("dcs.").unwrap_or(key.path).replace('|', "\\|");
        let unused = match key.used {
            Used::Yes => String::new(),
            Used::No(why) => format!(" Known, not used: {why}."),
        };
        text.push_str(&format!("| `{path}` | {} | {} | {}{unused} |\n", key.kind.describe(), key.default, key.doc));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{distance, find, nearest, reference_markdown};
    use crate::config::keys::KEYS;
    use crate::config::lines::dotted;

    #[test]
    fn paths_are_found_through_aliases_and_patterns() {
        for path in [
            "scope",
            "etcd.hosts",
            "etcd3.hosts",
            "bootstrap.dcs.ttl",
            "postgresql.authentication.rewind.sslmode",
            "bootstrap.dcs.postgresql.use_pg_rewind",
            "vip.role",
            "vip.12.announce.interval",
        ] {
            assert!(find(&dotted(path)).is_some(), "{path}");
        }
        for path in ["skope", "etcd.hots", "bootstrap.dcs.scope", "postgresql.authentication.other", "vip.0.rolle", "vip.x.role"] {
            assert!(find(&dotted(path)).is_none(), "{path}");
        }
    }

    #[test]
    fn typos_find_their_neighbours() {
        assert_eq!(nearest(&dotted("restapi.lissten")).as_deref(), Some("listen"));
        assert_eq!(nearest(&dotted("etcd.hsots")).as_deref(), Some("hosts"));
        assert_eq!(nearest(&dotted("bootstrap.dcs.lop_wait")).as_deref(), Some("loop_wait"));
        assert_eq!(nearest(&dotted("tags.nofallover")).as_deref(), Some("nofailover"));
        assert_eq!(nearest(&dotted("loop_wiat")).as_deref(), Some("bootstrap.dcs.loop_wait"));
        assert_eq!(nearest(&dotted("completely_else")), None);
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn every_key_is_documented_once() {
        let reference = reference_markdown();
        for (index, key) in KEYS.iter().enumerate() {
            assert!(!key.doc.is_empty() && key.doc.ends_with('.'), "{}", key.path);
            assert!(KEYS[index + 1..].iter().all(|other| other.path != key.path), "{} twice", key.path);
        }
        assert!(reference.contains("| `maximum_lag_on_failover` |"));
    }
}
