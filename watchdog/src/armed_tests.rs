use std::cell::RefCell;
use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;

use super::*;
use crate::sysfs::Roots;

/// A device as a driver author might have made it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script(Rc<RefCell<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    options: u32,
    /// Smallest and largest timeout, seconds.
    limits: (i32, i32),
    /// Every timeout becomes the next multiple of this.
    round_up_to: i32,
    timeout: i32,
    /// Answer to everything, when set.
    dead: Option<Errno>,
    /// Answer to DISABLECARD.
    stop: Option<Errno>,
    log: Vec<String>,
}

impl Script {
    fn new(options: Flags) -> Script {
        let script = Script::default();
        *script.0.borrow_mut() = Inner { options: options.0, limits: (1, 60), round_up_to: 1, timeout: 30, ..Inner::default() };
        script
    }

    fn with(self, change: impl FnOnce(&mut Inner)) -> Script {
        change(&mut self.0.borrow_mut());
        self
    }

    fn log(&self) -> Vec<String> {
        self.0.borrow().log.clone()
    }

    pub(crate) fn support(&self) -> Support {
        Support { options: Flags(self.0.borrow().options), firmware: 7, identity: "scripted".into() }
    }

    pub(crate) fn int(&mut self, number: Opcode, value: i32) -> Result<i32, Errno> {
        let mut it = self.0.borrow_mut();
        if let Some(errno) = it.dead {
            return Err(errno);
        }
        match number {
            ioctl::SETTIMEOUT if it.options & Flags::SETTIMEOUT.0 == 0 => Err(Errno::OPNOTSUPP),
            ioctl::SETTIMEOUT => {
                it.log.push(format!("timeout {value}"));
                if value < it.limits.0 || value > it.limits.1 {
                    return Err(Errno::INVAL);
                }
                it.timeout = (value + it.round_up_to - 1) / it.round_up_to * it.round_up_to;
                Ok(value)
            }
            ioctl::GETTIMEOUT => Ok(it.timeout),
            ioctl::KEEPALIVE => {
                it.log.push("kick".into());
                Ok(0)
            }
            ioctl::SETOPTIONS => {
                it.log.push("stop".into());
                it.stop.map_or(Ok(0), Err)
            }
            ioctl::GETBOOTSTATUS => Ok(0x20),
            _ => Err(Errno::NOTTY),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let mut it = self.0.borrow_mut();
        it.log.push(format!("write {:?}", String::from_utf8_lossy(bytes)));
        it.dead.map_or(Ok(()), Err)
    }
}

const USUAL: Flags = Flags(0x8180);

fn nowhere() -> Roots {
    Roots { sys: "/nonexistent".into(), proc: "/nonexistent".into() }
}

fn armed(script: &Script) -> Armed {
    let device = Device::linux("/dev/scripted").with_roots(nowhere());
    Armed::begin(device, Backend::Scripted(script.clone())).unwrap()
}

#[test]
fn a_driver_with_a_small_maximum_is_stepped_down_to() {
    let script = Script::new(USUAL).with(|it| it.limits = (1, 8));
    assert_eq!(armed(&script).negotiate(&[10, 9, 8, 7]).unwrap(), 8);
    assert_eq!(script.log(), ["timeout 10", "timeout 9", "timeout 8"]);
}

#[test]
fn rounding_up_above_the_limit_is_noticed() {
    let script = Script::new(USUAL).with(|it| it.round_up_to = 4);
    let mut device = armed(&script);
    assert_eq!(device.negotiate(&[10, 9, 8, 7]).unwrap(), 8);
    assert_eq!(device.timeout_s(), 8);
    let script = Script::new(USUAL).with(|it| it.round_up_to = 44);
    let error = armed(&script).negotiate(&[10, 9]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/dev/scripted: no timeout between 9 s and 10 s can be set, the driver says 44 s; raise ttl, or use another device (softdog takes any)"
    );
}

#[test]
fn a_fixed_timeout_is_taken_when_it_fits() {
    let script = Script::new(Flags::MAGICCLOSE).with(|it| it.timeout = 8);
    assert_eq!(armed(&script).negotiate(&[10, 9]).unwrap(), 8);
    script.clone().with(|it| it.timeout = 11);
    assert!(matches!(armed(&script).negotiate(&[10, 9]), Err(Error::NoTimeoutFits { got: Some(11), .. })));
    assert!(matches!(armed(&script).negotiate(&[]), Err(Error::NoTimeoutFits { .. })));
}

#[test]
fn a_kick_is_an_ioctl_or_a_byte() {
    let script = Script::new(USUAL);
    armed(&script).kick().unwrap();
    let old = Script::new(Flags::MAGICCLOSE);
    armed(&old).kick().unwrap();
    assert_eq!((script.log(), old.log()), (vec!["kick".to_owned()], vec!["write \"\\0\"".to_owned()]));
}

#[test]
fn a_device_that_vanishes_is_gone() {
    let script = Script::new(USUAL);
    let mut device = armed(&script);
    script.clone().with(|it| it.dead = Some(Errno::NODEV));
    assert!(device.kick().unwrap_err().is_gone());
    assert!(device.time_left().unwrap_err().is_gone());
    let left = device.disarm().unwrap_err();
    assert!(left.error.is_gone() && left.armed.is_some());
}

#[test]
fn optional_values_are_none() {
    let mut device = armed(&Script::new(USUAL));
    assert_eq!((device.time_left().unwrap(), device.pretimeout().unwrap()), (None, None));
    assert!(matches!(device.set_pretimeout(2), Err(Error::Unsupported { .. })));
    assert!(device.boot_status().unwrap().reset_by_watchdog());
    assert_eq!((device.support().firmware, device.can_stop(), device.alarm_only()), (7, CanStop::Unknown, false));
}

#[test]
fn an_orderly_disarm_stops_first_and_then_writes_the_magic_character() {
    let script = Script::new(USUAL);
    assert_eq!(armed(&script).disarm().unwrap(), Disarmed::Confirmed);
    assert_eq!(script.log(), ["stop", "write \"V\""]);
    let old = Script::new(USUAL).with(|it| it.stop = Some(Errno::NOTTY));
    assert_eq!(armed(&old).disarm().unwrap(), Disarmed::Assumed);
}

#[test]
fn a_device_that_cannot_be_stopped_comes_back_open() {
    let script = Script::new(USUAL).with(|it| it.stop = Some(Errno::BUSY));
    let left = armed(&script).disarm().unwrap_err();
    assert!(matches!(left.error, Error::Unstoppable { .. }));
    left.armed.unwrap().kick().unwrap();
    assert_eq!(script.log(), ["stop", "kick"], "no V: a later close must not stop it");
    // The same when the timeout does not fit.
    let error = armed(&script).give_up(Error::NoTimeoutFits { path: "x".into(), least: 1, most: 2, got: None });
    assert!(matches!(error.error, Error::NoTimeoutFits { .. }) && error.armed.is_some());
}

#[test]
fn dropping_writes_nothing() {
    let script = Script::new(USUAL);
    drop(armed(&script));
    assert_eq!(script.log(), Vec::<String>::new());
    assert!(!armed(&script).stops_on_any_close() && armed(&Script::new(Flags::SETTIMEOUT)).stops_on_any_close());
}

/// A FIFO with its reader.
fn fifo(directory: &Path) -> (Device, fs::File) {
    let path = directory.join("wd");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
    let reader = fs::OpenOptions::new().read(true).custom_flags(nonblock).open(&path).unwrap();
    (Device::testing(path), reader)
}

fn read(reader: &mut fs::File) -> String {
    let mut bytes = [0; 256];
    let count = reader.read(&mut bytes).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

#[test]
fn the_testing_driver_speaks_as_patronis_suite_expects() {
    let directory = tempfile::tempdir().unwrap();
    let (device, mut reader) = fifo(directory.path());
    let mut armed = device.arm().unwrap();
    assert_eq!((read(&mut reader).as_str(), armed.timeout_s(), armed.can_stop()), ("", 60, CanStop::Yes));
    assert_eq!(armed.set_timeout(25).unwrap(), 25);
    armed.kick().unwrap();
    armed.kick().unwrap();
    assert_eq!(read(&mut reader), "Ctimeout=25\n11");
    assert_eq!(armed.disarm().unwrap(), Disarmed::Assumed);
    assert_eq!(read(&mut reader), "V");
    let armed = device.arm_with(&[10]).unwrap();
    drop(armed);
    assert_eq!(read(&mut reader), "Ctimeout=10\n", "a drop writes no V");
}

#[test]
fn a_pipe_whose_reader_left_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let (device, reader) = fifo(directory.path());
    let mut armed = device.arm().unwrap();
    drop(reader);
    assert!(armed.kick().unwrap_err().is_gone());
    drop(armed);
    let error = device.arm().unwrap_err();
    assert!(error.armed.is_none() && error.to_string().ends_with("nobody reads this pipe; start its reader first (driver testing)"));
}

#[test]
fn what_is_no_device_is_refused_with_a_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let (pipe, _reader) = fifo(directory.path());
    let says = |device: Device| device.arm().unwrap_err().to_string();
    assert!(says(Device::linux("/dev/watchdog-none")).contains("there is no such device; load the driver"));
    assert!(says(Device::linux(pipe.path())).contains("this is no watchdog device"));
    assert!(says(Device::linux("/dev/null")).contains("this is no watchdog device"));
    assert!(says(Device::testing("/dev/null")).contains("this is no watchdog device"));
}
