//! Starting a postmaster that is nobody's child: the agent's binary re-executes itself, leaves the agent's session, starts
//! `postgres`, reports its process id and ends. PostgreSQL then belongs to init and survives the agent.
//!
//! The process id is reported on standard *input*, which is a pipe opened for writing: standard output and error stay the agent's own,
//! and PostgreSQL inherits them.
//!
//! An agent that is stopped (SIGSTOP) and continued long after its lease has ended must not bring up a primary. So a launch that needs the lease
//! carries the lease's last moment, and the launching process first goes to the data directory and then looks at the clock: from the
//! one on the guard finds and kills it there like a server process, and after the other nothing is started any more.

use std::ffi::OsString;
use std::io::{Read, Stderr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::Error;
use crate::clock;
use crate::ha::types::Instant;

/// The hidden first argument that selects this role of the binary.
pub const ROLE: &str = "--launch-postmaster";

/// Names of environment variables that children must not inherit: they would talk to systemd in our name, or hold passwords.
const DROPPED: [&str; 8] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "PG_GRANDPARENT_PID", "PGPASSWORD"];

/// The agent's environment without what is not for children.
#[must_use]
pub fn clean_environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| !is_dropped(&name.to_string_lossy())).collect()
}

fn is_dropped(name: &str) -> bool {
    name.starts_with("PATRONI_") || name.starts_with("MASTIFF_") || DROPPED.contains(&name)
}

/// Exit code of a launch that came too late.
const EXIT_LATE: i32 = 75;

/// The re-executed role: `--launch-postmaster [--in DIRECTORY] [--until MILLISECONDS] [--ignore-pid PID] PROGRAM ARGUMENT…`; the time is of
/// the boot clock. Returns the exit code.
#[must_use]
pub fn launch_main(args: &[String]) -> i32 {
    match launch(args) {
        Ok(true) => 0,
        Ok(false) => EXIT_LATE,
        Err(reason) => {
            complain(&std::io::stderr(), &reason);
            1
        }
    }
}

fn complain(sink: &Stderr, reason: &str) {
    use std::io::Write;
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(sink.lock(), "cannot launch PostgreSQL: {reason}");
}

/// The value of an option, if it is the next one.
fn option<'a>(args: &mut &'a [String], name: &str) -> Option<&'a String> {
    let [flag, value, rest @ ..] = *args else { return None };
    (flag == name).then(|| {
        *args = rest;
        value
    })
}

/// `false`: it was too late.
fn launch(args: &[String]) -> Result<bool, String> {
    let mut rest = args;
    let inside = option(&mut rest, "--in");
    let until = option(&mut rest, "--until").map(|text| text.parse().map(Instant).map_err(|_| format!("--until {text} is no time")));
    let ignored = option(&mut rest, "--ignore-pid");
    let (program, arguments) = rest.split_first().ok_or("no program given")?;
    // Fails only for the leader of a process group, which is as good.
    let _ = rustix::process::setsid();
    if let Some(directory) = inside {
        std::env::set_current_dir(directory).map_err(|error| format!("{directory}: {error}"))?;
    }
    if until.transpose()?.is_some_and(|until| clock::now() >= until) {
        return Ok(false);
    }
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(clean_environment()).stdin(Stdio::null());
    if let Some(pid) = ignored {
        command.env("PG_GRANDPARENT_PID", pid);
    }
    let child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    let report = format!("{}\n", child.id());
    rustix::io::write(std::io::stdin().as_fd(), report.as_bytes()).map_err(|error| format!("report: {error}"))?;
    Ok(true)
}

/// How the agent asks for a postmaster.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// The agent's binary.
    pub(crate) launcher: &'a Path,
    /// `postgres`.
    pub(crate) program: &'a Path,
    /// Its arguments.
    pub(crate) args: &'a [String],
    /// A process id in `postmaster.pid` that is known to be no postmaster: PostgreSQL shall not be put off by it.
    pub(crate) ignore_pid: Option<u32>,
    /// Where it starts: the data directory, unless a path in the arguments is a relative one.
    pub(crate) inside: Option<&'a Path>,
    /// From then on (boot clock) nothing is started.
    pub(crate) until: Option<Instant>,
}

impl Launch<'_> {
    /// Runs the launcher and returns the process id of the new postmaster. Takes a few milliseconds; call it off the main loop.
    pub(crate) fn run(&self) -> Result<u32, Error> {
        let spawn_error = |source| Error::Spawn { program: self.program.display().to_string(), source };
        let (mut reader, writer) = std::io::pipe().map_err(spawn_error)?;
        let mut command = Command::new(self.launcher);
        command.arg(ROLE);
        if let Some(directory) = self.inside {
            command.arg("--in").arg(directory);
        }
        if let Some(until) = self.until {
            command.arg("--until").arg(until.0.to_string());
        }
        if let Some(pid) = self.ignore_pid {
            command.arg("--ignore-pid").arg(pid.to_string());
        }
        command.arg(self.program).args(self.args).env_clear().envs(clean_environment()).stdin(Stdio::from(OwnedFd::from(writer)));
        let mut child = command.spawn().map_err(spawn_error)?;
        drop(command); // holds the writing end; without this the read would wait for ever
        let mut report = String::new();
        reader.read_to_string(&mut report).map_err(spawn_error)?;
        let status = child.wait().map_err(spawn_error)?;
        if status.code() == Some(EXIT_LATE) {
            return Err(Error::NoPermit);
        }
        report.trim().parse().map_err(|_| Error::Child {
            program: self.program.display().to_string(),
            how: format!("was not started by the launcher ({status}); the reason is in the log above"),
            tail: Vec::new(),
        })
    }
}

/// The agent's own binary, also if it was replaced on disk meanwhile.
pub(crate) fn own_binary() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

#[cfg(test)]
mod tests {
    use super::is_dropped;

    #[test]
    fn the_environment_is_cleaned() {
        for name in ["NOTIFY_SOCKET", "PATRONI_SUPERUSER_PASSWORD", "MASTIFF_NAME", "LISTEN_FDS", "WATCHDOG_USEC"] {
            assert!(is_dropped(name), "{name}");
        }
        assert!(!is_dropped("PATH") && !is_dropped("LANG") && !is_dropped("PGTZ"));
    }
}
