//! Directories of all kinds, small files, and atomic writes.

use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::Path;

use super::{
    classify, history_name, parse_backup_label, parse_history, parse_version, read_history, refused_by_postgres, remove, write_atomic,
    Contents,
};
use crate::ha::types::{Lsn, Timeline};

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn reason(path: &Path) -> String {
    match classify(path) {
        Contents::Unreadable { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn empty_directories() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(classify(&dir.path().join("missing")), Contents::Empty);
    assert_eq!(classify(dir.path()), Contents::Empty);
    std::fs::create_dir(dir.path().join("lost+found")).unwrap();
    std::fs::write(dir.path().join(".keep"), "").unwrap();
    assert_eq!(classify(dir.path()), Contents::Empty);
}

#[test]
fn something_else_is_never_taken_for_empty() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c", "d"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let text = reason(dir.path());
    assert!(text.contains("PG_VERSION is missing") && text.contains("\"a\", \"b\", \"c\" and 1 more"), "{text}");
    assert!(reason(&dir.path().join("a")).contains("is not a directory"));
    symlink(dir.path().join("nowhere"), dir.path().join("link")).unwrap();
    assert!(reason(&dir.path().join("link")).contains("is its volume mounted?"));
}

#[test]
fn a_cluster_and_its_defects() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    chmod(data, 0o700);
    std::fs::write(data.join("PG_VERSION"), "15\n").unwrap();
    assert!(reason(data).contains("global/pg_control"));
    std::fs::create_dir(data.join("global")).unwrap();
    std::fs::write(data.join("global/pg_control"), "").unwrap();
    assert_eq!(classify(data), Contents::Cluster { major: 15 });
    chmod(data, 0o750);
    assert_eq!(classify(data), Contents::Cluster { major: 15 });
    chmod(data, 0o755);
    assert!(reason(data).contains("mode 0755"));
    chmod(data, 0o700);
    std::fs::write(data.join("PG_VERSION"), "x").unwrap();
    assert!(reason(data).contains("holds no PostgreSQL version"));
}

#[test]
fn foreign_owners_are_named() {
    let text = refused_by_postgres(Path::new("/d"), 0, 0o40700, 999).unwrap();
    assert_eq!(text, "the data directory /d belongs to uid 0, but this program runs as uid 999; chown it");
    assert_eq!(refused_by_postgres(Path::new("/d"), 999, 0o40700, 999), None);
    assert_eq!(refused_by_postgres(Path::new("/d"), 999, 0o40700, 0), None);
}

#[test]
fn versions() {
    assert_eq!(parse_version("15\n"), Some(15));
    assert_eq!(parse_version("9.6\n"), Some(9));
    for text in ["", "\n", "x", "-1", "0", "99999999999"] {
        assert_eq!(parse_version(text), None, "{text:?}");
    }
}

const HISTORY: &str = "1\t0/3000148\tno recovery target specified\n\n2\t0/60000A0\tafter transaction 7 at noon\n";

#[test]
fn histories() {
    let entries = parse_history(HISTORY);
    assert_eq!(entries.len(), 2);
    assert_eq!((entries[0].timeline, entries[0].lsn), (Timeline(1), Lsn(0x300_0148)));
    assert_eq!(entries[0].reason, "no recovery target specified");
    assert_eq!((entries[1].timeline, entries[1].lsn), (Timeline(2), Lsn(0x600_00A0)));
    assert_eq!((&entries[1].timestamp, &entries[1].new_leader), (&None, &None));
    assert_eq!(parse_history("# comment\nx\t0/1\ty\n3\tz\ty\n4 0/5\n").len(), 1);
    for end in 0..HISTORY.len() {
        assert!(parse_history(&HISTORY[..end]).len() <= 2);
    }
    assert_eq!(history_name(Timeline(26)), "0000001A.history");
}

#[test]
fn history_files() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("pg_wal")).unwrap();
    std::fs::write(dir.path().join("pg_wal/00000003.history"), HISTORY).unwrap();
    assert_eq!(read_history(dir.path(), Timeline(3)).unwrap().len(), 2);
    assert!(read_history(dir.path(), Timeline(1)).unwrap().is_empty());
    assert!(read_history(dir.path(), Timeline(2)).unwrap_err().to_string().contains("00000002.history"));
}

#[test]
fn backup_labels() {
    let captured = include_str!("../../../tests/pgdata/replica/backup_label.old");
    let label = parse_backup_label(captured).unwrap();
    assert_eq!((label.start, label.checkpoint, label.timeline), (Lsn(0x200_0028), Some(Lsn(0x200_0060)), Some(Timeline(1))));
    assert!(!label.from_standby);
    assert_eq!(label.label, "pg_basebackup base backup");
    for end in 0..captured.len() {
        let _ = parse_backup_label(&captured[..end]);
    }
    assert_eq!(parse_backup_label(""), None);
}

#[test]
fn writes_are_whole_and_only_when_needed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    assert!(write_atomic(&path, b"one", 0o600).unwrap());
    let inode = std::fs::metadata(&path).unwrap().ino();
    assert!(!write_atomic(&path, b"one", 0o600).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
    assert!(write_atomic(&path, b"two", 0o600).unwrap());
    chmod(&path, 0o644);
    assert!(write_atomic(&path, b"two", 0o600).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    // What a crash left behind does not disturb, and nothing is left behind.
    std::fs::write(dir.path().join("file.mastiff.tmp"), "half").unwrap();
    assert!(write_atomic(&path, b"three", 0o600).unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), b"three");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_link_is_replaced_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (target, link) = (dir.path().join("target"), dir.path().join("link"));
    std::fs::write(&target, "keep").unwrap();
    symlink(&target, &link).unwrap();
    assert!(write_atomic(&link, b"new", 0o600).unwrap());
    assert_eq!(std::fs::read(&target).unwrap(), b"keep");
    assert!(std::fs::symlink_metadata(&link).unwrap().is_file());
}

#[test]
fn failures_name_operation_and_path() {
    let dir = tempfile::tempdir().unwrap();
    let error = write_atomic(&dir.path().join("no/file"), b"x", 0o600).unwrap_err().to_string();
    assert!(error.starts_with("cannot create ") && error.contains("no/file.mastiff.tmp"), "{error}");
    assert!(!remove(&dir.path().join("absent")).unwrap());
    assert!(remove(dir.path()).is_err());
}

#[test]
fn a_directory_without_write_permission_still_admits_the_file() {
    if rustix::process::geteuid().is_root() {
        return; // Permissions do not stop root.
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "long old content").unwrap();
    chmod(dir.path(), 0o500);
    let written = write_atomic(&path, b"new", 0o600);
    let fresh = write_atomic(&dir.path().join("other"), b"new", 0o600);
    chmod(dir.path(), 0o700);
    assert!(written.unwrap() && fresh.is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
}
