//! Children of an earlier life of the agent: a copy or a rewind that goes on although the agent that started it was killed.
//!
//! Each child carries `MASTIFF_JOB`, naming the agent that started it. What left the agent's session (a daemon that a script started) is
//! not ours to kill.

use rustix::process::{getpid, getuid, kill_process, Pid, Signal};

use super::postmaster::start_ticks;

/// Name of the variable.
pub(crate) const VARIABLE: &str = "MASTIFF_JOB";

/// Its value for children of this agent: process, start time (clock ticks since boot), session.
pub(crate) fn mark() -> String {
    let pid: i32 = getpid().as_raw_nonzero().get();
    format!("{pid}:{}:{}", start_ticks(pid).unwrap_or(0), session(pid).unwrap_or(0))
}

/// Session of a process (proc_pid_stat(5), field 6). 0: its leader lives outside of our PID namespace, which is usual in a container;
/// `rustix::process::getsid` cannot say that.
fn session(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(3)?.parse().ok()
}

/// Kills what agents that are gone left behind. Returns how many processes that were.
pub fn kill() -> usize {
    let Ok(entries) = std::fs::read_dir("/proc") else { return 0 };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is_leftover(*pid) && end(*pid)).count()
}

fn end(pid: i32) -> bool {
    log::warn!("killing process {pid}, which an earlier life of this agent left behind");
    Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

fn is_leftover(pid: i32) -> bool {
    let owner = std::fs::metadata(format!("/proc/{pid}")).map(|data| std::os::unix::fs::MetadataExt::uid(&data));
    if owner.ok() != Some(getuid().as_raw()) {
        return false;
    }
    let Some((agent, ticks, its_session)) = read_mark(pid) else { return false };
    let alive = start_ticks(agent) == Some(ticks);
    !alive && session(pid) == Some(its_session)
}

fn read_mark(pid: i32) -> Option<(i32, u64, i32)> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = format!("{VARIABLE}=");
    let entry = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(prefix.as_bytes()))?;
    let mut parts = std::str::from_utf8(entry).ok()?.split(':');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{is_leftover, mark, session, VARIABLE};
    use std::process::Command;

    #[test]
    fn only_children_of_dead_agents_in_their_session() {
        let ours = session(i32::try_from(std::process::id()).unwrap()).unwrap();
        for (mark, expected) in [(mark(), false), (format!("1999999999:5:{ours}"), true), (format!("1999999999:5:{}", ours + 1), false)] {
            let mut child = Command::new("sleep").arg("60").env(VARIABLE, &mark).spawn().unwrap();
            let pid = i32::try_from(child.id()).unwrap();
            // The child has our environment until it has called exec.
            let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
            while is_leftover(pid) != expected && std::time::Instant::now() < until {
                std::thread::yield_now();
            }
            let found = is_leftover(pid);
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(found, expected, "{mark}");
        }
    }
}
