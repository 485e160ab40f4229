//! The data directory as a thing on disk: what is in it, its small files, and writes that are whole or not there at all.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::ha::types::{Lsn, Timeline};
use crate::ha::view::HistoryEntry;

/// A failed operation on a file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}: {source}")]
pub struct Error {
    /// What was tried: `write`, `rename`, …
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    pub source: std::io::Error,
}

/// Adds operation and path to an input/output error.
pub(super) trait Context<T> {
    /// Converts the error.
    fn on(self, operation: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn on(self, operation: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error { operation, path: path.to_owned(), source })
    }
}

/// What a data directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// It does not exist, or holds nothing but dot files and `lost+found`.
    Empty,
    /// A PostgreSQL cluster.
    Cluster {
        /// Major version from `PG_VERSION`, for example 15.
        major: u32,
    },
    /// Something else, or something that we may not read. Never touched.
    Unreadable {
        /// One sentence for the operator, with a way out.
        reason: String,
    },
}

/// Looks at a data directory.
#[must_use]
pub fn classify(data_dir: &Path) -> Contents {
    let shown = data_dir.display();
    let metadata = match std::fs::metadata(data_dir) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return dangling_or_empty(data_dir),
        Err(error) => return unreadable(format!("cannot look at the data directory {shown}: {error}{}", who_are_we())),
    };
    if !metadata.is_dir() {
        return unreadable(format!("{shown} is not a directory; correct postgresql.data_dir"));
    }
    let names = match list(data_dir) {
        Ok(names) => names,
        Err(error) => {
            let owner = metadata.uid();
            let mode = metadata.mode() & 0o7777;
            return unreadable(format!(
                "cannot read the data directory {shown} (owner uid {owner}, mode {mode:04o}): {error}{}",
                who_are_we()
            ));
        }
    };
    if names.iter().all(|name| name.starts_with('.') || name == "lost+found") {
        return Contents::Empty;
    }
    match version(data_dir) {
        Ok(Some(major)) => cluster(data_dir, &metadata, major),
        Ok(None) => unreadable(format!(
            "the data directory {shown} is not empty and holds no PostgreSQL cluster: PG_VERSION is missing, but there is {}; \
             move it away or correct postgresql.data_dir",
            some_of(&names)
        )),
        Err(reason) => unreadable(reason),
    }
}

fn unreadable(reason: String) -> Contents {
    Contents::Unreadable { reason }
}

/// A symbolic link into nowhere looks like a missing directory, but usually means a volume that is not mounted.
fn dangling_or_empty(data_dir: &Path) -> Contents {
    if std::fs::symlink_metadata(data_dir).is_ok() {
        return unreadable(format!(
            "the data directory {} is a symbolic link whose target does not exist; is its volume mounted?",
            data_dir.display()
        ));
    }
    Contents::Empty
}

fn cluster(data_dir: &Path, metadata: &std::fs::Metadata, major: u32) -> Contents {
    let shown = data_dir.display();
    let control = super::controldata::path(data_dir);
    if let Err(error) = File::open(&control) {
        return unreadable(format!("cannot read {}: {error}; the PostgreSQL cluster in {shown} is not complete", control.display()));
    }
    match refused_by_postgres(data_dir, metadata.uid(), metadata.mode(), rustix::process::geteuid().as_raw()) {
        Some(reason) => unreadable(reason),
        None => Contents::Cluster { major },
    }
}

/// The server's own conditions: owned by its user, and nothing for others.
fn refused_by_postgres(data_dir: &Path, owner: u32, mode: u32, me: u32) -> Option<String> {
    let shown = data_dir.display();
    // Root may look at everything (tests, commands); the server itself never runs as root.
    if owner != me && me != 0 {
        return Some(format!("the data directory {shown} belongs to uid {owner}, but this program runs as uid {me}; chown it"));
    }
    if mode & 0o027 != 0 {
        return Some(format!(
            "the data directory {shown} has mode {:04o}, PostgreSQL accepts only 0700 or 0750; use chmod 0700 {shown}",
            mode & 0o7777
        ));
    }
    None
}

fn who_are_we() -> String {
    format!(" (this program runs as uid {})", rustix::process::geteuid().as_raw())
}

fn list(directory: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn some_of(names: &[String]) -> String {
    let mut text = names.iter().take(3).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if names.len() > 3 {
        text.push_str(&format!(" and {} more", names.len() - 3));
    }
    text
}

/// The major version of a data directory from `PG_VERSION`; `None`: there is no such file.
///
/// # Errors
/// A sentence: the file cannot be read or holds no version.
pub fn version(data_dir: &Path) -> Result<Option<u32>, String> {
    let path = data_dir.join("PG_VERSION");
    match std::fs::read(&path) {
        Ok(bytes) => match parse_version(&String::from_utf8_lossy(&bytes)) {
            Some(major) => Ok(Some(major)),
            None => Err(format!("{} holds no PostgreSQL version", path.display())),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {}: {error}{}", path.display(), who_are_we())),
    }
}

/// `15` from the content of `PG_VERSION` (and 9 from `9.6`).
#[must_use]
pub fn parse_version(text: &str) -> Option<u32> {
    let line = text.lines().next()?.trim();
    let major = line.split('.').next()?.parse().ok()?;
    (major > 0).then_some(major)
}

/// The name of a timeline's history file in `pg_wal`.
#[must_use]
pub fn history_name(timeline: Timeline) -> String {
    format!("{:08X}.history", timeline.0)
}

/// Parses a timeline history file: one entry for each timeline that ended before this one. Lines that make no sense are skipped,
/// as Patroni does; the server itself checks its files.
#[must_use]
pub fn parse_history(text: &str) -> Vec<HistoryEntry> {
    text.lines().filter_map(history_line).collect()
}

fn history_line(line: &str) -> Option<HistoryEntry> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let (timeline, rest) = line.split_once(|c: char| c.is_ascii_whitespace())?;
    let rest = rest.trim_start();
    let (lsn, reason) = rest.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((rest, ""));
    Some(HistoryEntry {
        timeline: Timeline(timeline.parse().ok()?),
        lsn: Lsn::parse(lsn)?,
        reason: reason.trim().to_owned(),
        timestamp: None,
        new_leader: None,
    })
}

/// Reads the history of a timeline from `pg_wal`. Timeline 1 has none.
///
/// # Errors
/// The file is missing or cannot be read.
pub fn read_history(data_dir: &Path, timeline: Timeline) -> Result<Vec<HistoryEntry>, Error> {
    if timeline.0 <= 1 {
        return Ok(Vec::new());
    }
    let path = data_dir.join("pg_wal").join(history_name(timeline));
    let bytes = std::fs::read(&path).on("read", &path)?;
    Ok(parse_history(&String::from_utf8_lossy(&bytes)))
}

/// `backup_label`: the data directory is a base backup that was not yet recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where replay must begin.
    pub start: Lsn,
    /// The checkpoint it begins from.
    pub checkpoint: Option<Lsn>,
    /// Timeline of the start.
    pub timeline: Option<Timeline>,
    /// Taken from a standby.
    pub from_standby: bool,
    /// `LABEL`.
    pub label: String,
}

/// Parses `backup_label`. `None`: no start position in it.
#[must_use]
pub fn parse_backup_label(text: &str) -> Option<BackupLabel> {
    let get = |label: &str| text.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(": ").map(str::trim));
    let position = |label: &str| Lsn::parse(get(label)?.split_ascii_whitespace().next()?);
    Some(BackupLabel {
        start: position("START WAL LOCATION")?,
        checkpoint: position("CHECKPOINT LOCATION"),
        timeline: get("START TIMELINE").and_then(|text| text.parse().ok()).map(Timeline),
        from_standby: get("BACKUP FROM") == Some("standby"),
        label: get("LABEL").unwrap_or_default().to_owned(),
    })
}

/// Mode of new files: 0600, or 0640 in a data directory with group access (`initdb --allow-group-access`).
#[must_use]
pub fn file_mode(data_dir: &Path) -> u32 {
    match std::fs::metadata(data_dir) {
        Ok(metadata) if metadata.mode() & 0o077 == 0o050 => 0o640,
        _ => 0o600,
    }
}

/// Writes a file so that after a crash it is the old or the new one as a whole: a temporary file beside it, fsync, rename, fsync
/// of the directory. A file with the same content is left alone. Returns whether it was written.
///
/// Where the directory admits no new file, or the path is a mount point of its own (both are seen in containers), the file is
/// written in place.
///
/// # Errors
/// Operation and path are in the error.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<bool, Error> {
    if same(path, content, mode) {
        return Ok(false);
    }
    let temporary = temporary_name(path);
    let result = write_new(&temporary, content, mode).and_then(|()| std::fs::rename(&temporary, path).on("rename", path));
    if let Err(error) = result {
        // Best effort: the error that counts is the first one.
        let _ = std::fs::remove_file(&temporary);
        let denied = matches!(
            error.source.kind(),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::ResourceBusy | ErrorKind::CrossesDevices
        );
        if !denied || !path.is_file() {
            return Err(error);
        }
        write_in_place(path, content, mode)?;
        return Ok(true);
    }
    sync_directory_of(path)?;
    Ok(true)
}

fn write_in_place(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(path).on("open", path)?;
    // The mode is a matter of the owner, who may be somebody else here.
    let _ = file.set_permissions(std::fs::Permissions::from_mode(mode));
    file.write_all(content).on("write", path)?;
    file.sync_all().on("sync", path)
}

fn same(path: &Path, content: &[u8], mode: u32) -> bool {
    let regular = std::fs::symlink_metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o777 == mode && metadata.len() == content.len() as u64);
    regular && std::fs::read(path).is_ok_and(|old| old == content)
}

/// One name for each path, so that a crash never leaves more than one behind. It ends in `.tmp`: `pg_basebackup` and `pg_rewind`
/// skip what begins with `pgsql_tmp`, but a stray copy of a configuration file harms nobody.
fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".mastiff.tmp");
    PathBuf::from(name)
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(source) => return Err(Error { operation: "remove", path: path.to_owned(), source }),
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).on("create", path)?;
    // The umask may have taken bits away.
    file.set_permissions(std::fs::Permissions::from_mode(mode)).on("set the mode of", path)?;
    file.write_all(content).on("write", path)?;
    file.sync_all().on("sync", path)
}

/// Makes creations, renames and removals in the directory of `path` durable.
///
/// # Errors
/// The directory cannot be opened or synced.
pub fn sync_directory_of(path: &Path) -> Result<(), Error> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory).and_then(|directory| directory.sync_all()).on("sync", directory)
}

/// Removes a file or link. Returns whether there was one.
///
/// # Errors
/// It is there and cannot be removed.
pub fn remove(path: &Path) -> Result<bool, Error> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_directory_of(path).map(|()| true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error { operation: "remove", path: path.to_owned(), source }),
    }
}

/// Reads a text file; `None`: it does not exist. Bytes that are not UTF-8 are replaced.
///
/// # Errors
/// It is there and cannot be read.
pub fn read_text(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error { operation: "read", path: path.to_owned(), source }),
    }
}

/// Makes sure that a directory exists, with its parents.
///
/// # Errors
/// It cannot be created, or something else has its name.
pub fn ensure_directory(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).on("create the directory", path)
}

#[cfg(test)]
mod tests;
