//! `/sys/class/watchdog`: what the kernel says about a device without opening it (`Documentation/ABI/testing/sysfs-class-watchdog`).
//!
//! The files exist when the kernel has `CONFIG_WATCHDOG_SYSFS`, each only when the driver has something to say; a missing one is `None`.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::choose::Limits;
use crate::flags::Flags;

/// Where `/sys` and `/proc` are; others in tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Roots { sys: "/sys".into(), proc: "/proc".into() }
    }
}

/// Whether user space has it running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs and waits for kicks from user space.
    Active,
    /// It is stopped, or the kernel itself keeps a device quiet that cannot stop.
    Inactive,
}

/// One device as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// `watchdogN`, which is also the name under `/dev`.
    pub name: String,
    /// The driver's name of the device.
    pub identity: Option<String>,
    /// Running or not.
    pub state: Option<State>,
    /// Seconds from a kick to the reset.
    pub timeout_s: Option<u32>,
    /// Seconds left.
    pub timeleft_s: Option<u32>,
    /// Causes of the last reset.
    pub boot_status: Option<Flags>,
    /// Whether an armed device can never be stopped.
    pub nowayout: Option<bool>,
    /// Smallest timeout, seconds.
    pub min_timeout_s: Option<u32>,
    /// Largest timeout, seconds; `None` also when there is no limit, because the kernel kicks the hardware in between.
    pub max_timeout_s: Option<u32>,
    /// Seconds before the end at which there is a warning.
    pub pretimeout_s: Option<u32>,
}

impl Info {
    /// The limits of the timeout, for [`crate::choose::plan`].
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { min_s: self.min_timeout_s, max_s: self.max_timeout_s }
    }

    /// The node that the kernel makes for it.
    #[must_use]
    pub fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

fn class(roots: &Roots) -> PathBuf {
    roots.sys.join("class/watchdog")
}

fn value(directory: &Path, file: &str) -> Option<String> {
    let text = fs::read_to_string(directory.join(file)).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn number(directory: &Path, file: &str) -> Option<u32> {
    let text = value(directory, file)?;
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn read(roots: &Roots, name: &str) -> Option<Info> {
    let directory = class(roots).join(name);
    directory.is_dir().then(|| Info {
        name: name.to_owned(),
        identity: value(&directory, "identity"),
        state: value(&directory, "state").and_then(|state| match state.as_str() {
            "active" => Some(State::Active),
            "inactive" => Some(State::Inactive),
            _ => None,
        }),
        timeout_s: number(&directory, "timeout"),
        timeleft_s: number(&directory, "timeleft"),
        boot_status: number(&directory, "bootstatus").map(Flags),
        nowayout: number(&directory, "nowayout").map(|value| value != 0),
        min_timeout_s: number(&directory, "min_timeout"),
        max_timeout_s: number(&directory, "max_timeout").filter(|max| *max > 0),
        pretimeout_s: number(&directory, "pretimeout"),
    })
}

/// All watchdogs of the machine, by number. Empty also when the kernel has no sysfs files for them.
#[must_use]
pub fn list(roots: &Roots) -> Vec<Info> {
    let mut names: Vec<(u32, String)> = fs::read_dir(class(roots))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some((name.strip_prefix("watchdog")?.parse().ok()?, name)))
        .collect();
    names.sort();
    names.into_iter().filter_map(|(_, name)| read(roots, &name)).collect()
}

/// The kernel's name (`watchdogN`) of the character device with this number.
#[must_use]
pub fn name_of(rdev: u64, roots: &Roots) -> Option<String> {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    // The old node /dev/watchdog (misc, 10:130) always belongs to the first device.
    if (major, minor) == (10, 130) {
        return class(roots).join("watchdog0").is_dir().then(|| "watchdog0".to_owned());
    }
    let wanted = format!("{major}:{minor}");
    list(roots).into_iter().map(|info| info.name).find(|name| value(&class(roots).join(name), "dev").is_some_and(|dev| dev == wanted))
}

/// What the kernel says about the device of `path`; `None` when it is no watchdog or there are no sysfs files.
#[must_use]
pub fn info(path: &Path, roots: &Roots) -> Option<Info> {
    let meta = fs::metadata(path).ok().filter(|meta| meta.file_type().is_char_device())?;
    read(roots, &name_of(meta.rdev(), roots)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (tempfile::TempDir, Roots) {
        let sys = tempfile::tempdir().unwrap();
        let roots = Roots { sys: sys.path().to_owned(), ..Roots::default() };
        let files: [(&str, &[(&str, &str)]); 3] = [
            ("watchdog0", &[("dev", "248:0"), ("identity", "i6300ESB timer"), ("state", "active"), ("timeout", "30"), ("nowayout", "0")]),
            ("watchdog10", &[("dev", "248:10"), ("state", "odd")]),
            ("watchdog2", &[("dev", "248:2"), ("bootstatus", "32"), ("nowayout", "1"), ("max_timeout", "0"), ("min_timeout", "1")]),
        ];
        for (name, values) in files {
            let directory = class(&roots).join(name);
            fs::create_dir_all(&directory).unwrap();
            for (file, text) in values {
                fs::write(directory.join(file), format!("{text}\n")).unwrap();
            }
        }
        fs::write(class(&roots).join("watchdog0/max_timeout"), "2046\n").unwrap();
        fs::write(class(&roots).join("watchdog0/bootstatus"), "\n").unwrap();
        (sys, roots)
    }

    #[test]
    fn files_become_values_and_missing_ones_none() {
        let (_sys, roots) = sample();
        let all = list(&roots);
        assert_eq!(all.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["watchdog0", "watchdog2", "watchdog10"]);
        assert_eq!(all[0].identity.as_deref(), Some("i6300ESB timer"));
        assert_eq!((all[0].state, all[0].timeout_s, all[0].nowayout), (Some(State::Active), Some(30), Some(false)));
        assert_eq!((all[0].limits().max_s, all[0].boot_status, all[0].timeleft_s), (Some(2046), None, None));
        assert!(all[1].boot_status.unwrap().reset_by_watchdog());
        assert_eq!((all[1].nowayout, all[1].max_timeout_s, all[1].min_timeout_s), (Some(true), None, Some(1)));
        assert_eq!((all[2].state, all[2].node()), (None, PathBuf::from("/dev/watchdog10")));
    }

    #[test]
    fn a_node_is_found_by_its_number() {
        let (_sys, roots) = sample();
        assert_eq!(name_of(rustix::fs::makedev(248, 2), &roots).as_deref(), Some("watchdog2"));
        assert_eq!(name_of(rustix::fs::makedev(10, 130), &roots).as_deref(), Some("watchdog0"));
        assert_eq!(name_of(rustix::fs::makedev(1, 3), &roots), None);
        assert_eq!(info(Path::new("/dev/null"), &roots), None);
        let nothing = Roots { sys: "/nonexistent".into(), ..Roots::default() };
        assert_eq!((list(&nothing), name_of(rustix::fs::makedev(10, 130), &nothing)), (Vec::new(), None));
    }
}
