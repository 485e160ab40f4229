//! A virtual IP address by hand: try the crate on real hardware, or script it.
//!
//! ```text
//! vip add      ADDRESS[/PREFIX] INTERFACE [SECONDS]   add it (for so long, else for ever) and announce it once
//! vip hold     ADDRESS[/PREFIX] INTERFACE [SECONDS]   probe, add, renew, announce, defend, until interrupted or told to end by
//!                                                     the end of the standard input; without renewals it lasts SECONDS (3)
//! vip announce ADDRESS[/PREFIX] INTERFACE             announce it once
//! vip probe    ADDRESS[/PREFIX] INTERFACE             who has it? Exit code 0: nobody, 1: somebody
//! vip remove   ADDRESS                                remove it from this host and end its sessions
//! ```
#![allow(clippy::print_stderr)]

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mastiff_vip::{Address, Dropper, Error, Event, Holder, Probe};
use rustix::event::{poll, PollFd, PollFlags, Timespec};

const USAGE: &str = "usage: vip add|hold|announce|probe ADDRESS[/PREFIX] INTERFACE [SECONDS], vip remove ADDRESS";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(text) => {
            eprintln!("vip: {text}");
            ExitCode::from(2)
        }
    }
}

/// The command, with its errors as sentences.
fn run(arguments: &[String]) -> Result<ExitCode, String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["remove", ip] => remove(parse(ip)?.0),
        [command, ip, interface] => held(command, parse(ip)?, interface, None),
        [command, ip, interface, seconds] => {
            let seconds = seconds.parse().map_err(|_| format!("{seconds} is no number of seconds"))?;
            held(command, parse(ip)?, interface, Some(seconds))
        }
        _ => Err(USAGE.into()),
    }
}

/// `ADDRESS` or `ADDRESS/PREFIX`.
fn parse(text: &str) -> Result<(IpAddr, Option<u8>), String> {
    let (ip, prefix) = text.split_once('/').map_or((text, None), |(ip, prefix)| (ip, Some(prefix)));
    let ip = ip.parse().map_err(|_| format!("{ip} is no address"))?;
    let prefix = prefix.map(|prefix| prefix.parse().map_err(|_| format!("/{prefix} is no prefix length"))).transpose()?;
    Ok((ip, prefix))
}

fn remove(ip: IpAddr) -> Result<ExitCode, String> {
    let (places, sessions) = Dropper::open().and_then(|mut dropper| dropper.remove_all_on(ip)).map_err(|error| error.to_string())?;
    println!("removed {ip} from {places} places, sessions: {sessions:?}");
    Ok(ExitCode::SUCCESS)
}

fn held(command: &str, (ip, prefix): (IpAddr, Option<u8>), interface: &str, seconds: Option<u32>) -> Result<ExitCode, String> {
    let mut address = Address::new(ip, interface);
    address.prefix = prefix.unwrap_or(address.prefix);
    let work = || -> Result<ExitCode, Error> {
        let mut holder = Holder::open(address, u64::from(std::process::id()))?;
        for warning in holder.check()? {
            eprintln!("vip: {warning}");
        }
        let clock = Instant::now();
        match command {
            "add" => holder.add(clock.elapsed(), seconds)?,
            "announce" => holder.announce(clock.elapsed())?,
            "probe" => return probe(&mut holder, clock),
            _ => return hold(&mut holder, clock, seconds.unwrap_or(3)),
        }
        Ok(ExitCode::SUCCESS)
    };
    if !["add", "hold", "announce", "probe"].contains(&command) {
        return Err(USAGE.into());
    }
    work().map_err(|error| error.to_string())
}

fn probe(holder: &mut Holder, clock: Instant) -> Result<ExitCode, Error> {
    holder.probe(clock.elapsed())?;
    loop {
        holder.tick(clock.elapsed());
        match holder.conflict(clock.elapsed()) {
            Probe::Running { .. } => wait(holder, clock, false),
            Probe::Held { mac } => {
                println!("held by {mac}");
                return Ok(ExitCode::FAILURE);
            }
            Probe::Free | Probe::Idle => {
                println!("free");
                return Ok(ExitCode::SUCCESS);
            }
        };
    }
}

fn hold(holder: &mut Holder, clock: Instant, seconds: u32) -> Result<ExitCode, Error> {
    let code = probe(holder, clock)?;
    if code == ExitCode::FAILURE {
        println!("taking it all the same");
    }
    holder.add(clock.elapsed(), Some(seconds))?;
    println!("held");
    // A third of the lifetime, so that two renewals may come late.
    let every = Duration::from_millis(u64::from(seconds) * 1000 / 3);
    let mut renewed = clock.elapsed();
    let mut open = true;
    while open {
        open = wait(holder, clock, true);
        let now = clock.elapsed();
        for event in holder.poll_events(now) {
            println!("{event:?}");
            if event == Event::AddressRemoved {
                // The interface may have gone, too; the next renewal tries again.
                let _ = holder.add(now, Some(seconds));
            }
        }
        if now.saturating_sub(renewed) >= every {
            renewed = now;
            if let Err(error) = holder.renew(Some(seconds)) {
                eprintln!("vip: {error}");
            }
        }
        holder.tick(now);
    }
    println!("{:?}", holder.remove()?);
    Ok(ExitCode::SUCCESS)
}

/// Waits until something happens, at most 200 ms. `false` when the standard input has ended and `input` is watched.
fn wait(holder: &Holder, clock: Instant, input: bool) -> bool {
    let longest = Duration::from_millis(200);
    let time = holder.next_deadline().map_or(longest, |deadline| deadline.saturating_sub(clock.elapsed()).min(longest));
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) + 1 };
    let stdin = std::io::stdin();
    let mut fds = vec![PollFd::from_borrowed_fd(holder.event_fd(), PollFlags::IN)];
    fds.extend(holder.frame_fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    if input {
        fds.push(PollFd::new(&stdin, PollFlags::IN));
    }
    let _ = poll(&mut fds, Some(&timeout));
    let ended = input && fds.last().is_some_and(|fd| fd.revents().intersects(PollFlags::IN | PollFlags::HUP));
    !ended || std::io::stdin().read_line(&mut String::new()).is_ok_and(|read| read > 0)
}
