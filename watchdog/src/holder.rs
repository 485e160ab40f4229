//! Who has a watchdog open: `EBUSY` alone helps nobody.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::sysfs::{self, Roots};

/// A process that has the device open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`).
    pub name: String,
}

/// The processes that have the device of `path` open, as far as `/proc` shows them to us (all of them only to root), by process id.
///
/// `/dev/watchdog` and `/dev/watchdog0` are two nodes of one device; both count.
#[must_use]
pub fn holders(path: &Path, roots: &Roots) -> Vec<Holder> {
    let Ok(wanted) = fs::metadata(path) else { return Vec::new() };
    let mut found: Vec<Holder> = children(&roots.proc)
        .filter_map(|name| name.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| has_open(*pid, &wanted, roots))
        .map(|pid| Holder { pid, name: name_of(pid, roots) })
        .collect();
    found.sort_by_key(|holder| holder.pid);
    found
}

fn children(directory: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(directory).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}

fn has_open(pid: u32, wanted: &fs::Metadata, roots: &Roots) -> bool {
    let directory = roots.proc.join(pid.to_string()).join("fd");
    // Following the link asks the kernel about the open file itself; nothing is opened.
    children(&directory).filter_map(|fd| fs::metadata(directory.join(fd)).ok()).any(|open| same_device(&open, wanted, roots))
}

fn same_device(one: &fs::Metadata, other: &fs::Metadata, roots: &Roots) -> bool {
    if !one.file_type().is_char_device() || !other.file_type().is_char_device() {
        return one.dev() == other.dev() && one.ino() == other.ino();
    }
    one.rdev() == other.rdev() || sysfs::name_of(one.rdev(), roots).is_some_and(|name| Some(name) == sysfs::name_of(other.rdev(), roots))
}

fn name_of(pid: u32, roots: &Roots) -> String {
    fs::read_to_string(roots.proc.join(pid.to_string()).join("comm")).map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

/// The holders as part of a sentence.
pub(crate) fn sentence(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "another program (which one is not visible; root sees it with: fuser /dev/watchdog*)".to_owned();
    }
    let names: Vec<String> = holders
        .iter()
        .map(|holder| match (holder.pid, holder.name.as_str()) {
            (1, "systemd") => {
                "systemd (pid 1: RuntimeWatchdogSec= in system.conf; set it to off, or give systemd another device with WatchdogDevice=)"
                    .to_owned()
            }
            (pid, name) => format!("{name} (pid {pid})"),
        })
        .collect();
    names.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_holder_is_found_by_its_descriptors() {
        let proc = tempfile::tempdir().unwrap();
        let roots = Roots { proc: proc.path().to_owned(), ..Roots::default() };
        for (pid, name, target) in [("17", "cat", "/dev/null"), ("1", "systemd", "/dev/zero"), ("9", "idle", "/dev/null")] {
            let fds = proc.path().join(pid).join("fd");
            fs::create_dir_all(&fds).unwrap();
            symlink(target, fds.join("4")).unwrap();
            fs::write(proc.path().join(pid).join("comm"), format!("{name}\n")).unwrap();
        }
        fs::create_dir(proc.path().join("sys")).unwrap();
        let found = holders(Path::new("/dev/null"), &roots);
        assert_eq!(found, [Holder { pid: 9, name: "idle".into() }, Holder { pid: 17, name: "cat".into() }]);
        assert_eq!(sentence(&found), "idle (pid 9) and cat (pid 17)");
        assert!(sentence(&holders(Path::new("/dev/zero"), &roots)).starts_with("systemd (pid 1: RuntimeWatchdogSec="));
        assert!(sentence(&holders(Path::new("/dev/full"), &roots)).contains("not visible"));
    }
}
