//! A watchdog at the command line, and what the emulated machines of the tests run.
//!
//! ```text
//! watchdog list                                  what the kernel has
//! watchdog info DEVICE                           one device, without opening it
//! watchdog feed DEVICE TIMEOUT SECONDS           arm, kick every TIMEOUT / 3 (at most 3 s) for SECONDS (0: for ever), disarm; kick on when that fails
//! watchdog arm-and-hang DEVICE TIMEOUT           arm, then do nothing: the machine resets
//! ```
//!
//! Every line is `word key=value ...`, with `up`, the seconds since boot.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use mastiff_watchdog::{sysfs, Armed, Device, Error, Info, Roots};

fn uptime() -> String {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

fn describe(info: &Info) -> String {
    format!(
        "device name={} identity={:?} state={:?} timeout={:?} min={:?} max={:?} nowayout={:?} bootstatus={}",
        info.name,
        info.identity.as_deref().unwrap_or("?"),
        info.state,
        info.timeout_s,
        info.min_timeout_s,
        info.max_timeout_s,
        info.nowayout,
        info.boot_status.map_or("unknown".to_owned(), |flags| flags.to_string()),
    )
}

fn arm(path: &str, timeout: u32) -> Result<Armed, String> {
    let device = Device::linux(path);
    let mut armed = match device.arm_with(&(1..=timeout).rev().collect::<Vec<_>>()) {
        Ok(armed) => armed,
        Err(failed) => {
            println!("refused up={} armed={}", uptime(), failed.armed.is_some());
            return Err(failed.to_string());
        }
    };
    let left = armed.time_left().map_err(|error| error.to_string())?;
    let boot = armed.boot_status().map_err(|error| error.to_string())?.0;
    println!(
        "armed up={} identity={:?} options={:#x} timeout={} left={left:?} boot={boot:#x} nowayout={:?} any_close={}",
        uptime(),
        armed.support().identity,
        armed.support().options.0,
        armed.timeout_s(),
        armed.nowayout(),
        armed.stops_on_any_close(),
    );
    Ok(armed)
}

/// Kicks for `seconds`, 0 for ever.
fn kick_for(armed: &mut Armed, seconds: u64) -> Result<(), Error> {
    let began = Instant::now();
    let pause = Duration::from_millis((u64::from(armed.timeout_s()) * 1000 / 3).min(3000));
    while seconds == 0 || began.elapsed() < Duration::from_secs(seconds) {
        let left = armed.time_left()?;
        armed.kick()?;
        println!("kick up={} left_before={left:?}", uptime());
        std::thread::sleep(pause);
    }
    Ok(())
}

fn feed(path: &str, timeout: u32, seconds: u64) -> Result<(), String> {
    let mut armed = arm(path, timeout)?;
    kick_for(&mut armed, seconds).map_err(|error| error.to_string())?;
    match armed.disarm() {
        Ok(how) => println!("disarmed up={} how={how:?}", uptime()),
        Err(failed) => {
            println!("unstoppable up={} why={:?}", uptime(), failed.to_string());
            let mut armed = failed.armed.ok_or("the device runs, and somebody else has it")?;
            kick_for(&mut armed, 0).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

fn run(arguments: &[&str]) -> Result<(), String> {
    let number = |text: &str| text.parse::<u32>().map_err(|_| format!("{text} is no number of seconds"));
    match arguments {
        ["list"] => {
            sysfs::list(&Roots::default()).iter().for_each(|info| println!("{}", describe(info)));
            Ok(())
        }
        ["info", path] => {
            println!("{}", describe(&Device::linux(*path).info().ok_or_else(|| format!("{path}: the kernel says nothing about it"))?));
            Ok(())
        }
        ["feed", path, timeout, seconds] => feed(path, number(timeout)?, number(seconds)?.into()),
        ["arm-and-hang", path, timeout] => {
            let _armed = arm(path, number(timeout)?)?;
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
        _ => Err("usage: watchdog list | info DEVICE | feed DEVICE TIMEOUT SECONDS | arm-and-hang DEVICE TIMEOUT".to_owned()),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error up={} {error}", uptime());
            ExitCode::from(1)
        }
    }
}
