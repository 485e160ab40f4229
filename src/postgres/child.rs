//! Child programs: own process group, cleaned environment, output to the log, ended together with the future that runs them.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use rustix::process::{kill_process_group, Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::error::Error;
use super::launch::clean_environment;
use super::leftovers;

/// How many last lines of output a failure carries.
const TAIL_LINES: usize = 8;
/// A line longer than this is cut, bytes.
const LINE_MAX: usize = 4096;

/// A program to run.
#[derive(Debug)]
pub(crate) struct Spec {
    /// Program and arguments. Arguments never hold secrets: other users can see them.
    pub(crate) argv: Vec<String>,
    /// Environment on top of the cleaned one.
    pub(crate) env: Vec<(String, String)>,
    /// How loud its lines are in the log.
    pub(crate) level: log::Level,
    /// `LC_ALL=C`, so that its words can be read.
    pub(crate) plain_locale: bool,
}

impl Spec {
    /// A program of PostgreSQL, spoken to in plain English.
    pub(crate) fn tool(program: &Path, args: Vec<String>) -> Spec {
        let mut argv = vec![program.display().to_string()];
        argv.extend(args);
        Spec { argv, env: Vec::new(), level: log::Level::Info, plain_locale: true }
    }

    /// A configured command with further arguments.
    pub(crate) fn command(words: &[String], args: impl IntoIterator<Item = String>) -> Spec {
        let mut argv = words.to_vec();
        argv.extend(args);
        Spec { argv, env: Vec::new(), level: log::Level::Info, plain_locale: false }
    }

    /// Adds an environment variable.
    #[must_use]
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Spec {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// File name of the program, for logs.
    pub(crate) fn name(&self) -> &str {
        let program = self.argv.first().map_or("", String::as_str);
        program.rsplit('/').next().unwrap_or(program)
    }

    /// Runs it to its end; dropping the future kills it with all that it started. Each line of output goes to the log and to `on_line`.
    ///
    /// # Errors
    /// [`Error::Spawn`] if it cannot be started. Its exit code is part of the result.
    pub(crate) async fn run(&self, mut on_line: impl FnMut(&str)) -> Result<Finished, Error> {
        let mut group = self.spawn()?;
        let mut stdout = Lines::new(group.child.stdout.take());
        let mut stderr = Lines::new(group.child.stderr.take());
        let mut tail: Vec<String> = Vec::new();
        let mut hear = |line: &str| {
            log::log!(self.level, "{}: {line}", self.name());
            if tail.len() == TAIL_LINES {
                tail.remove(0);
            }
            tail.push(line.to_owned());
            on_line(line);
        };
        let status = loop {
            tokio::select! {
                biased;
                Some(lines) = stdout.next(), if stdout.is_open() => lines.iter().for_each(|line| hear(line)),
                Some(lines) = stderr.next(), if stderr.is_open() => lines.iter().for_each(|line| hear(line)),
                // A grandchild that was left behind may hold the pipes open: the end of the child is the end.
                status = group.child.wait() => break status,
            }
        };
        for lines in [stdout.rest().await, stderr.rest().await] {
            lines.iter().for_each(|line| hear(line));
        }
        let status = status.map_err(|source| Error::Spawn { program: self.name().to_owned(), source })?;
        group.armed = false;
        Ok(Finished { status, tail })
    }

    /// Like [`Spec::run`]; an exit code other than zero is an error.
    pub(crate) async fn succeed(&self, on_line: impl FnMut(&str)) -> Result<(), Error> {
        let finished = self.run(on_line).await?;
        if finished.status.success() {
            return Ok(());
        }
        Err(Error::Child { program: self.name().to_owned(), how: finished.how(), tail: finished.tail })
    }

    fn spawn(&self) -> Result<Group, Error> {
        let Some((program, args)) = self.argv.split_first() else {
            return Err(Error::Unusable("an empty command is configured".to_owned()));
        };
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(clean_environment());
        if self.plain_locale {
            command.env("LC_ALL", "C");
        }
        command.env(leftovers::VARIABLE, leftovers::mark());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let child = command.spawn().map_err(|source| Error::Spawn { program: program.clone(), source })?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Group { child, group, armed: true })
    }
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Exit status.
    pub(crate) status: ExitStatus,
    /// The last lines it wrote.
    pub(crate) tail: Vec<String>,
}

impl Finished {
    /// `exited with code 1` or `was ended by signal 9`.
    pub(crate) fn how(&self) -> String {
        use std::os::unix::process::ExitStatusExt;
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended".to_owned(),
        }
    }
}

/// A child with its process group. Dropped before its end, the whole group is killed.
struct Group {
    child: Child,
    group: Option<Pid>,
    armed: bool,
}

impl Drop for Group {
    fn drop(&mut self) {
        // The child is not reaped yet, so the number still is its own.
        if let (true, Some(group)) = (self.armed && self.child.id().is_some(), self.group) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Output in lines; both line feeds and carriage returns end one.
struct Lines<R> {
    reader: Option<R>,
    partial: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(reader: Option<R>) -> Lines<R> {
        Lines { reader, partial: Vec::new() }
    }

    fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    /// The next complete lines, possibly none; `None` where nothing will come any more.
    async fn next(&mut self) -> Option<Vec<String>> {
        let mut buffer = [0_u8; 4096];
        let count = self.reader.as_mut()?.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            self.reader = None;
        }
        Some(self.split(buffer.get(..count).unwrap_or_default()))
    }

    /// What is in the pipe already after the child's end, without waiting for its heirs.
    async fn rest(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        let drain = std::time::Duration::from_millis(20);
        while self.is_open() {
            match tokio::time::timeout(drain, self.next()).await {
                Ok(Some(lines)) => all.extend(lines),
                _ => break,
            }
        }
        if !self.partial.is_empty() {
            all.push(text(&std::mem::take(&mut self.partial)));
        }
        all
    }

    fn split(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' | b'\r' if self.partial.is_empty() => {}
                b'\n' | b'\r' => lines.push(text(&std::mem::take(&mut self.partial))),
                _ if self.partial.len() >= LINE_MAX => {}
                byte => self.partial.push(*byte),
            }
        }
        lines
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Spec;

    fn shell(script: &str) -> Spec {
        Spec::command(&["sh".to_owned(), "-c".to_owned(), script.to_owned()], [])
    }

    #[tokio::test(flavor = "current_thread")]
    async fn output_and_exit_code() {
        let mut lines = Vec::new();
        let finished = shell("echo one; printf 'two\\rthree' >&2; exit 3").run(|line| lines.push(line.to_owned())).await.unwrap();
        lines.sort();
        assert_eq!(lines, ["one", "three", "two"]);
        assert_eq!(finished.how(), "exited with code 3");
        let error = shell("echo bad >&2; exit 1").succeed(|_| ()).await.unwrap_err();
        assert_eq!(error.to_string(), "sh exited with code 1: bad");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_dropped_run_kills_the_whole_group() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("sleep 77 & echo $! > {}; wait", file.path().display());
        let spec = shell(&script);
        let run = tokio::time::timeout(Duration::from_millis(300), spec.run(|_| ())).await;
        assert!(run.is_err());
        let pid: i32 = std::fs::read_to_string(file.path()).unwrap().trim().parse().unwrap();
        let begin = Instant::now();
        loop {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") {
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(5), "{state}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_daemon_left_behind_does_not_hold_us() {
        let begin = Instant::now();
        shell("sleep 30 & echo started").succeed(|_| ()).await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}
