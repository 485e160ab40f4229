//! `postmaster.pid`, and whether the process it names is the postmaster of this data directory.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `postmaster.pid`. The server writes it line by line while it starts, so that everything behind the third line may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostmasterPid {
    /// Process id, always positive.
    pub pid: i32,
    /// The process is a single-user server, not a postmaster.
    pub standalone: bool,
    /// Data directory as the server knows it.
    pub data_dir: PathBuf,
    /// Start time by the wall clock, seconds since the epoch.
    pub started_at: i64,
    /// TCP port, also part of the socket's name.
    pub port: Option<u16>,
    /// First directory of `unix_socket_directories`.
    pub socket_dir: Option<PathBuf>,
    /// First of `listen_addresses`.
    pub listen_address: Option<String>,
    /// What the server says of itself.
    pub status: Option<Status>,
}

/// The last line of `postmaster.pid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `starting`.
    Starting,
    /// `stopping`.
    Stopping,
    /// `ready`.
    Ready,
    /// `standby`: up, but not accepting connections (`hot_standby` off, or not yet consistent).
    Standby,
}

/// Parses `postmaster.pid`. `None` where the first three lines (process, directory, start time) are not complete.
#[must_use]
pub fn parse(text: &str) -> Option<PostmasterPid> {
    // A line without its line feed may still be in the making: half a number is a wrong number.
    let complete = text.get(..text.rfind('\n')?)?;
    let mut lines = complete.split('\n');
    let number: i32 = lines.next()?.trim().parse().ok()?;
    let data_dir = PathBuf::from(lines.next()?);
    let started_at = lines.next()?.trim().parse().ok()?;
    let port = lines.next().and_then(|line| line.trim().parse().ok());
    let socket_dir = lines.next().filter(|line| !line.is_empty()).map(PathBuf::from);
    let listen_address = lines.next().filter(|line| !line.is_empty()).map(str::to_owned);
    let _shared_memory = lines.next();
    let status = lines.next().and_then(|line| match line.trim() {
        "starting" => Some(Status::Starting),
        "stopping" => Some(Status::Stopping),
        "ready" => Some(Status::Ready),
        "standby" => Some(Status::Standby),
        _ => None,
    });
    let pid = number.checked_abs().filter(|pid| *pid > 1)?;
    Some(PostmasterPid { pid, standalone: number < 0, data_dir, started_at, port, socket_dir, listen_address, status })
}

/// Reads `postmaster.pid` of a data directory; `None` if there is none or it is not complete.
///
/// # Errors
/// The file is there and cannot be read.
pub fn read(data_dir: &Path) -> std::io::Result<Option<PostmasterPid>> {
    match std::fs::read(data_dir.join("postmaster.pid")) {
        Ok(bytes) => Ok(parse(&String::from_utf8_lossy(&bytes))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What lives in a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// No `postmaster.pid`, or the process it names is gone.
    Nobody,
    /// `postmaster.pid` names a living process that is something else (process numbers repeat). A postmaster that is started here
    /// needs `PG_GRANDPARENT_PID` set to this number to see that; the file is never removed.
    Stranger(i32),
    /// A postmaster (or a single-user server) runs.
    Postmaster(PostmasterPid),
}

/// Finds out who lives in a data directory.
///
/// # Errors
/// `postmaster.pid` is there and cannot be read.
pub fn occupant(data_dir: &Path) -> std::io::Result<Occupant> {
    let Some(file) = read(data_dir)? else { return Ok(Occupant::Nobody) };
    Ok(match judge(&file, data_dir) {
        None => Occupant::Nobody,
        Some(true) => Occupant::Postmaster(file),
        Some(false) => Occupant::Stranger(file.pid),
    })
}

/// `None`: no such process. `Some(true)`: it is the postmaster of this directory.
fn judge(file: &PostmasterPid, data_dir: &Path) -> Option<bool> {
    let stat = process_stat(file.pid)?;
    if stat.zombie {
        return None;
    }
    // Only we ourselves could be meant by a number that a former life left behind.
    if u32::try_from(file.pid).is_ok_and(|pid| pid == std::process::id()) {
        return Some(false);
    }
    let proc_dir = PathBuf::from(format!("/proc/{}", file.pid));
    let title = std::fs::read(proc_dir.join("cmdline")).unwrap_or_default();
    if is_child_title(&title) {
        return Some(false);
    }
    // A postmaster's working directory is its data directory; that is safer than times, because the wall clock may have been set.
    match (std::fs::metadata(proc_dir.join("cwd")), std::fs::metadata(data_dir)) {
        (Ok(cwd), Ok(data)) => Some(cwd.dev() == data.dev() && cwd.ino() == data.ino()),
        _ => Some(started_at(&stat).is_some_and(|started| started.abs_diff(file.started_at) <= 3)),
    }
}

/// Children of a postmaster set their title to `postgres: …`.
fn is_child_title(cmdline: &[u8]) -> bool {
    cmdline.starts_with(b"postgres: ")
}

/// The part of `/proc/PID/stat` that is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessStat {
    zombie: bool,
    /// Start, in clock ticks since boot.
    start_ticks: u64,
}

fn process_stat(pid: i32) -> Option<ProcessStat> {
    let bytes = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&bytes))
}

/// The command name in the second field may contain spaces and parentheses: count from the last one.
fn parse_stat(text: &str) -> Option<ProcessStat> {
    let rest = text.get(text.rfind(')')?.checked_add(1)?..)?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let state = *fields.first()?;
    let start_ticks = fields.get(19)?.parse().ok()?;
    Some(ProcessStat { zombie: matches!(state, "Z" | "X"), start_ticks })
}

/// Clock ticks per second in `/proc`: 100 on every Linux platform that PostgreSQL runs on.
const TICKS_PER_SECOND: u64 = 100;

fn started_at(stat: &ProcessStat) -> Option<i64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: i64 = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    boot.checked_add(i64::try_from(stat.start_ticks / TICKS_PER_SECOND).ok()?)
}

/// A process's start in clock ticks since boot: with the number it identifies the process for ever. `None`: it is gone (or a zombie).
#[must_use]
pub fn start_ticks(pid: i32) -> Option<u64> {
    process_stat(pid).filter(|stat| !stat.zombie).map(|stat| stat.start_ticks)
}

/// All living processes whose working directory is the data directory: the postmaster and its children, also orphaned ones
/// (`postgres: …`) after the postmaster was killed. Processes of other users are not seen.
#[must_use]
pub fn processes_in(data_dir: &Path) -> Vec<i32> {
    let Ok(data) = std::fs::metadata(data_dir) else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut found: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| std::fs::metadata(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.dev() == data.dev() && cwd.ino() == data.ino()))
        .filter(|pid| start_ticks(*pid).is_some())
        .filter(|pid| is_postgres(*pid))
        .collect();
    found.sort_unstable();
    found
}

/// Not every shell that stands in the data directory is a server process.
fn is_postgres(pid: i32) -> bool {
    let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    is_child_title(&title) || matches!(name.trim_end(), "postgres" | "postmaster")
}

#[cfg(test)]
mod tests {
    use super::{occupant, parse, parse_stat, processes_in, start_ticks, Occupant, Status};
    use std::path::{Path, PathBuf};

    const READY: &str = "27952\n/data/d\n1795248489\n55999\n/run/pg\n10.0.0.1\n 10608683        54\nready   \n";

    #[test]
    fn a_ready_server() {
        let file = parse(READY).unwrap();
        assert_eq!((file.pid, file.standalone, file.started_at), (27952, false, 1_795_248_489));
        assert_eq!(file.data_dir, PathBuf::from("/data/d"));
        assert_eq!((file.port, file.socket_dir.as_deref()), (Some(55999), Some(Path::new("/run/pg"))));
        assert_eq!((file.listen_address.as_deref(), file.status), (Some("10.0.0.1"), Some(Status::Ready)));
    }

    #[test]
    fn other_states_and_missing_parts() {
        for (word, status) in [("starting", Status::Starting), ("stopping", Status::Stopping), ("standby ", Status::Standby)] {
            assert_eq!(parse(&READY.replace("ready   ", word)).unwrap().status, Some(status));
        }
        let file = parse("12\n/d\n99\n5432\n\n\n").unwrap();
        assert_eq!((file.port, file.socket_dir, file.listen_address, file.status), (Some(5432), None, None, None));
    }

    #[test]
    fn a_single_user_server_has_a_negative_number() {
        let file = parse("-77\n/d\n99\n").unwrap();
        assert_eq!((file.pid, file.standalone), (77, true));
    }

    #[test]
    fn nonsense_is_nothing() {
        for text in ["", "\n", "x\n/d\n1\n", "0\n/d\n1\n", "1\n/d\n1\n", "-2147483648\n/d\n1\n", "12\n/d\n", "12\n/d\nx\n"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_line_in_the_making_does_not_count() {
        for end in 0..READY.len() {
            if let Some(file) = parse(&READY[..end]) {
                assert_eq!((file.pid, file.started_at), (27952, 1_795_248_489), "{end} bytes");
                assert!(file.port.is_none() || file.port == Some(55999), "{end} bytes");
            }
        }
    }

    #[test]
    fn stat_with_an_odd_name() {
        let stat = parse_stat("42 (a b) c) S 1 42 42 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 1 0 123456 1000 10\n").unwrap();
        assert_eq!((stat.zombie, stat.start_ticks), (false, 123_456));
        assert!(parse_stat("42 (x) Z 1 42 42 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 1 0 1 0 0").unwrap().zombie);
        for text in ["", ")", "1 (a) S", "1 (a) S 1 2 3"] {
            assert_eq!(parse_stat(text), None);
        }
    }

    #[test]
    fn occupants() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(occupant(dir.path()).unwrap(), Occupant::Nobody);
        let pid_file = dir.path().join("postmaster.pid");
        // A number that no process has.
        std::fs::write(&pid_file, "999999999\n/d\n1\n").unwrap();
        assert_eq!(occupant(dir.path()).unwrap(), Occupant::Nobody);
        // A process that is not a postmaster of this directory: this test, and a child elsewhere.
        std::fs::write(&pid_file, format!("{}\n/d\n1\n", std::process::id())).unwrap();
        assert!(matches!(occupant(dir.path()).unwrap(), Occupant::Stranger(_)));
        let mut child = std::process::Command::new("sleep").arg("60").current_dir("/").spawn().unwrap();
        std::fs::write(&pid_file, format!("{}\n/d\n1\n", child.id())).unwrap();
        let found = occupant(dir.path()).unwrap();
        let ticks = start_ticks(i32::try_from(child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(found, Occupant::Stranger(_)));
        assert!(ticks.is_some());
        assert_eq!(occupant(dir.path()).unwrap(), Occupant::Nobody);
    }

    #[test]
    fn a_process_in_the_directory_is_its_postmaster() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").current_dir(dir.path()).spawn().unwrap();
        std::fs::write(dir.path().join("postmaster.pid"), format!("{}\n/d\n1\n", child.id())).unwrap();
        let found = occupant(dir.path()).unwrap();
        let processes = processes_in(dir.path());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(found, Occupant::Postmaster(_)));
        // But it is no server process.
        assert!(processes.is_empty());
    }
}
