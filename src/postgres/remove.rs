//! Removing a data directory: the one irreversible thing that the agent does.
//!
//! What is removed: the content of the directory, and the content of what `pg_wal` and the tablespace links in `pg_tblspc` point to.
//! What is never done: following any other link, or removing anything while a process of PostgreSQL is there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::process::{self, Found};
use super::stop::still_running;
use super::tasks::off_loop;
use super::{postmaster, Shared};
use crate::ha::action::WipeReason;

/// Removes the content of the data directory.
pub(crate) async fn remove(shared: &Shared, reason: WipeReason) -> Result<(), Error> {
    let config = shared.config();
    let data_dir = config.data_dir.clone();
    nobody_there(&data_dir)?;
    if reason == WipeReason::Reinitialize && !is_of_postgres(&data_dir) {
        let text = format!("{} holds nothing of PostgreSQL and is not removed; correct postgresql.data_dir", data_dir.display());
        return Err(Error::Unusable(text));
    }
    log::warn!("removing the data directory {} ({reason:?})", data_dir.display());
    off_loop(move || wipe(&data_dir)).await
}

/// Whether anything in the directory is a cluster's, or what is left of one: an order to remove data must not hit somebody's home.
fn is_of_postgres(data_dir: &Path) -> bool {
    ["PG_VERSION", "global", "pg_wal", "pg_tblspc", "backup_label", "backup_manifest"].iter().any(|name| data_dir.join(name).exists())
}

/// Refuses while any PostgreSQL process is in the directory.
fn nobody_there(data_dir: &Path) -> Result<(), Error> {
    let what = "removing the data directory";
    if let Found::Alive(postmaster) = process::find(data_dir).map_err(Error::file("read postmaster.pid in", data_dir))? {
        return Err(still_running(what, postmaster.pid(), data_dir));
    }
    match postmaster::processes_in(data_dir).first() {
        Some(pid) => Err(still_running(what, *pid, data_dir)),
        None => Ok(()),
    }
}

/// Removes the content; the directory itself stays (it may be a mount point).
pub(crate) fn wipe(data_dir: &Path) -> Result<(), Error> {
    nobody_there(data_dir)?;
    // First what a start needs most: a directory that was removed half-way (power cut) must never be started.
    super::files::remove(&super::controldata::path(data_dir)).map_err(|error| Error::Unusable(error.to_string()))?;
    for target in link_targets(data_dir) {
        log::warn!("removing {} too: the data directory links to it", target.display());
        empty(&target)?;
    }
    empty(data_dir)
}

/// Directories outside that belong to the cluster: of the WAL, and of tablespaces only their own version folders.
fn link_targets(data_dir: &Path) -> Vec<PathBuf> {
    let resolve = |path: PathBuf| {
        let link = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink());
        link.then(|| fs::canonicalize(&path).ok()).flatten().filter(|target| target.is_dir())
    };
    let mut targets: Vec<PathBuf> = ["pg_wal", "pg_xlog"].iter().filter_map(|name| resolve(data_dir.join(name))).collect();
    let spaces = fs::read_dir(data_dir.join("pg_tblspc")).into_iter().flatten().flatten();
    for space in spaces.filter_map(|entry| resolve(entry.path())) {
        let versions = fs::read_dir(&space).into_iter().flatten().flatten();
        targets.extend(versions.filter(|entry| entry.file_name().to_string_lossy().starts_with("PG_")).map(|entry| entry.path()));
    }
    // A link back into the data directory, or to a place that contains it, is not followed.
    let home = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    targets.retain(|target| !home.starts_with(target) && !target.starts_with(&home));
    targets
}

fn empty(dir: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::File { action: "read", path: dir.to_owned(), source }),
    };
    for entry in entries {
        let path = entry.map_err(Error::file("read", dir))?.path();
        let metadata = fs::symlink_metadata(&path).map_err(Error::file("look at", &path))?;
        // `remove_dir_all` does not follow links.
        let removed = if metadata.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // `lost+found` of a mount point, which belongs to root, does no harm.
            Err(_) if path.file_name().is_some_and(|name| name == "lost+found") => {}
            Err(source) => return Err(Error::File { action: "remove", path, source }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::{is_of_postgres, wipe};

    #[test]
    fn a_home_is_no_cluster() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("diary.txt"), "x").unwrap();
        assert!(!is_of_postgres(root.path()));
        fs::create_dir(root.path().join("pg_wal")).unwrap();
        assert!(is_of_postgres(root.path()));
    }

    #[test]
    fn links_are_followed_only_where_they_belong() {
        let root = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let (data, wal, other) = (dir("data"), dir("wal"), dir("other"));
        dir("space/PG_15_202209061/5");
        dir("space/elsewhere");
        dir("data/pg_tblspc");
        fs::write(wal.join("000000010000000000000001"), "x").unwrap();
        fs::write(other.join("keep"), "x").unwrap();
        fs::write(data.join("PG_VERSION"), "15\n").unwrap();
        symlink(&wal, data.join("pg_wal")).unwrap();
        symlink(&other, data.join("base")).unwrap();
        symlink(root.path().join("space"), data.join("pg_tblspc/16400")).unwrap();
        symlink(root.path(), data.join("pg_tblspc/16401")).unwrap();
        wipe(&data).unwrap();
        assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&wal).unwrap().count(), 0);
        assert!(other.join("keep").exists());
        assert!(root.path().join("space/elsewhere").exists());
        assert!(!root.path().join("space/PG_15_202209061/5").exists());
        wipe(&root.path().join("missing")).unwrap();
    }
}
