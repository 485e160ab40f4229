//! The agent's side of the hardware watchdog: carries the core's orders to the device, or to systemd where that owns it.
//!
//! When to kick is not decided here. What is: no device stays armed and forgotten, and a kick that fails is said.

use std::time::Duration;

use mastiff_watchdog::{Armed, CanStop, Device, Driver, Error, Flags, Info, State};

use crate::config::types::{WatchdogDriver, WatchdogSettings};
use crate::ha::action::WatchdogAction;
use crate::ha::config::WatchdogMode;
use crate::ha::fence::WatchdogReport;
use crate::ha::types::Millis;
use crate::metrics::METRICS;

/// The watchdog of this box.
#[derive(Debug)]
pub enum Watchdog {
    /// A device, or a FIFO that stands for one.
    Device(Box<Hardware>),
    /// PID 1, which ends the box when the unit's `WatchdogSec=` passes without a ping (with `FailureAction=reboot-force`).
    Systemd(Option<Duration>),
}

/// A device and what it is doing.
#[derive(Debug)]
pub struct Hardware {
    device: Device,
    required: bool,
    pretimeout_s: Option<u32>,
    armed: Option<Armed>,
    told_of_boot: bool,
}

impl Watchdog {
    /// Nothing is opened yet. `systemd` is the time that PID 1 gives this process (`WATCHDOG_USEC`).
    #[must_use]
    pub fn new(settings: &WatchdogSettings, mode: WatchdogMode, systemd: Option<Duration>) -> Watchdog {
        let driver = match settings.driver {
            WatchdogDriver::Linux => Driver::Linux,
            WatchdogDriver::Testing => Driver::Testing,
            WatchdogDriver::Systemd => return Watchdog::Systemd(systemd),
        };
        Watchdog::Device(Box::new(Hardware {
            device: Device::new(&settings.device, driver),
            required: mode == WatchdogMode::Required,
            pretimeout_s: settings.pretimeout.and_then(|time| u32::try_from(time.as_secs()).ok()),
            armed: None,
            told_of_boot: false,
        }))
    }

    /// After a reload.
    pub fn set_mode(&mut self, mode: WatchdogMode) {
        if let Watchdog::Device(hardware) = self {
            hardware.required = mode == WatchdogMode::Required;
        }
    }

    /// Carries an order out. What the core must hear of it, if anything.
    pub fn act(&mut self, action: WatchdogAction) -> Option<WatchdogReport> {
        match self {
            Watchdog::Device(hardware) => hardware.act(action),
            Watchdog::Systemd(time) => ping(*time, &action),
        }
    }
}

/// PID 1 counts from the start of the service, and nobody can stop it.
fn ping(time: Option<Duration>, action: &WatchdogAction) -> Option<WatchdogReport> {
    let Some(time) = time.and_then(|time| u64::try_from(time.as_millis()).ok()) else {
        return Some(WatchdogReport::Unusable("systemd gives no time: the unit needs WatchdogSec= and Type=notify".to_owned()));
    };
    match action {
        WatchdogAction::Kick(_) => {
            crate::notify::alive();
            None
        }
        WatchdogAction::Look { .. } | WatchdogAction::Arm { .. } | WatchdogAction::Disarm(_) => {
            Some(WatchdogReport::Armed { timeout: Millis(time), stoppable: false })
        }
    }
}

impl Hardware {
    fn act(&mut self, action: WatchdogAction) -> Option<WatchdogReport> {
        match action {
            WatchdogAction::Look { limit } => Some(self.look(limit)),
            WatchdogAction::Arm { limit } => Some(self.arm(limit)),
            WatchdogAction::Kick(_) => self.kick(),
            WatchdogAction::Disarm(_) => Some(self.disarm()),
        }
    }

    fn look(&mut self, limit: Millis) -> WatchdogReport {
        if let Some(armed) = &self.armed {
            return report(armed);
        }
        let info = self.device.info();
        self.tell_of_boot(info.as_ref());
        if let Err(error) = self.device.check() {
            return WatchdogReport::Unusable(error.to_string());
        }
        let counts = info.as_ref().is_some_and(|info| info.state == Some(State::Active));
        if counts {
            // An earlier life of this agent left it armed: taken over, or it resets the box. Of somebody else's the open says "busy".
            return self.arm(limit);
        }
        WatchdogReport::Ready
    }

    /// Says once what the driver knows of the last reset.
    fn tell_of_boot(&mut self, info: Option<&Info>) {
        let Some(status) = info.and_then(|info| info.boot_status).filter(|_| !self.told_of_boot) else { return };
        self.told_of_boot = true;
        if status.has(Flags::CARDRESET) {
            METRICS.watchdog_resets.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            log::warn!("the last start of this box was a reset by the watchdog ({status})");
        }
    }

    fn arm(&mut self, limit: Millis) -> WatchdogReport {
        let longest = u32::try_from(limit.as_secs()).unwrap_or(u32::MAX).clamp(1, 3_600);
        let candidates: Vec<u32> = (1..=longest).rev().collect();
        if let Some(armed) = &mut self.armed {
            if let Err(error) = armed.negotiate(&candidates) {
                log::warn!("the watchdog keeps its timeout of {} s: {error}", armed.timeout_s());
            }
            return report(armed);
        }
        match self.device.arm_with(&candidates) {
            Ok(armed) => self.take(armed),
            Err(failed) => {
                // One that runs and cannot be stopped is kept and fed, or the box resets for nothing.
                self.armed = failed.armed.map(|armed| *armed);
                match &self.armed {
                    Some(armed) => {
                        log::warn!("the watchdog is armed although {}", failed.error);
                        report(armed)
                    }
                    None => WatchdogReport::Unusable(failed.error.to_string()),
                }
            }
        }
    }

    fn take(&mut self, mut armed: Armed) -> WatchdogReport {
        if self.required && armed.stops_on_any_close() {
            let why = "its driver has no magic close: it stops when this process dies, and would not fence then".to_owned();
            self.armed = armed.disarm().err().and_then(|failed| failed.armed).map(|armed| *armed);
            return WatchdogReport::Unusable(why);
        }
        if armed.stops_on_any_close() {
            log::warn!("the watchdog stops when this process dies: it does not fence then");
        }
        if let Some(seconds) = self.pretimeout_s {
            if let Err(error) = armed.set_pretimeout(seconds) {
                log::warn!("watchdog.pretimeout: {error}");
            }
        }
        let told = report(&armed);
        self.armed = Some(armed);
        told
    }

    fn kick(&mut self) -> Option<WatchdogReport> {
        let failed = self.armed.as_mut()?.kick().err()?;
        if matches!(failed, Error::Gone { .. }) {
            self.armed = None;
            return Some(WatchdogReport::Unusable(failed.to_string()));
        }
        // It may have worked, and the next one may: as long as it is open it is tried.
        log::error!("{failed}");
        None
    }

    fn disarm(&mut self) -> WatchdogReport {
        let Some(armed) = self.armed.take() else { return WatchdogReport::Ready };
        if armed.can_stop() == CanStop::No {
            let told = report(&armed);
            self.armed = Some(armed);
            return told;
        }
        match armed.disarm() {
            Ok(_) => {
                // Said here: at the end of the process nobody reads the report any more.
                log::info!("the watchdog is disarmed");
                WatchdogReport::Ready
            }
            Err(failed) => {
                log::warn!("the watchdog cannot be disarmed: {}", failed.error);
                self.armed = failed.armed.map(|armed| *armed);
                match &self.armed {
                    Some(armed) => WatchdogReport::Armed { timeout: Millis::from_secs(u64::from(armed.timeout_s())), stoppable: false },
                    None => WatchdogReport::Unusable(failed.error.to_string()),
                }
            }
        }
    }
}

fn report(armed: &Armed) -> WatchdogReport {
    let timeout = Millis::from_secs(u64::from(armed.timeout_s()));
    WatchdogReport::Armed { timeout, stoppable: armed.can_stop() != CanStop::No }
}
