//! Where keys stand in a text: key path to line number.

use std::collections::BTreeMap;

/// A key path: mapping keys, and list positions as decimal text.
pub(crate) type Path = Vec<String>;

/// The lines (from 1) of the keys of one text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    by_path: BTreeMap<Path, usize>,
}

impl Lines {
    /// Notes the line of a key; a later call for the same path wins.
    pub(crate) fn record(&mut self, path: &Path, line: Option<usize>) {
        if let Some(line) = line {
            self.by_path.insert(path.clone(), line);
        }
    }

    /// The line of exactly this key.
    pub(crate) fn get(&self, path: &[String]) -> Option<usize> {
        self.by_path.get(path).copied()
    }

    /// The line of this key or of its nearest ancestor.
    pub(crate) fn nearest(&self, path: &[String]) -> Option<usize> {
        (1..=path.len()).rev().find_map(|length| self.get(path.get(..length)?))
    }
}

/// `a.b.c` as a path. Only for names of the program's own: keys of a file may contain dots.
pub(crate) fn dotted(path: &str) -> Path {
    path.split('.').map(str::to_owned).collect()
}
