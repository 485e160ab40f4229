//! The `watchdog` section: what is read of it, and whether it fits the lease.

use std::path::PathBuf;

use serde_json::Value;

use super::read::Reader;
use super::types::{WatchdogDriver, WatchdogSettings};
use super::units::{as_text, seconds_or, SecondsOr};
use super::Severity;
use crate::ha::config::{WatchdogConfig, WatchdogMode};
use crate::ha::types::Millis;

/// `safety_margin` where it is not given.
const MARGIN: Millis = Millis(5_000);

/// A key below the section, and what is wrong with it.
pub(crate) type Problem = (Severity, &'static str, String);

/// Reads the section. Wrong types were reported by the check and count as absent here.
pub(crate) fn read(section: Reader<'_>) -> (WatchdogConfig, WatchdogSettings, Vec<Problem>) {
    let mut found = Vec::new();
    let (mode, by_systemd) = match mode(section.get("mode")) {
        Some(mode) => mode,
        None => {
            let why = "is not off, automatic, required or systemd; the watchdog is not used";
            found.push((Severity::Warning, "mode", why.to_owned()));
            (WatchdogMode::Off, false)
        }
    };
    let driver = match section.text("driver").as_deref() {
        _ if by_systemd => WatchdogDriver::Systemd,
        Some("testing") => WatchdogDriver::Testing,
        Some("systemd") => WatchdogDriver::Systemd,
        _ => WatchdogDriver::Linux,
    };
    let margin = section.int("safety_margin", "");
    let config = WatchdogConfig {
        mode,
        hw_timeout: seconds(section, "hw_timeout", "automatic"),
        // Above a year nothing changes any more, and sums cannot overflow.
        safety_margin: margin
            .map_or(Some(MARGIN), |margin| u64::try_from(margin).ok().map(|margin| Millis::from_secs(margin.min(31_536_000)))),
    };
    let settings = WatchdogSettings {
        device: section.path("device").unwrap_or_else(|| PathBuf::from("/dev/watchdog")),
        driver,
        pretimeout: seconds(section, "pretimeout", "off"),
    };
    found.extend(contradictions(section, mode, driver));
    (config, settings, found)
}

/// Patroni's words for the mode, and `systemd`.
fn mode(value: Option<&Value>) -> Option<(WatchdogMode, bool)> {
    let text = match value {
        None => return Some((WatchdogMode::Automatic, false)),
        Some(Value::Bool(false)) => return Some((WatchdogMode::Off, false)),
        Some(value) => as_text(value)?.to_lowercase(),
    };
    match text.as_str() {
        "require" | "required" => Some((WatchdogMode::Required, false)),
        "auto" | "automatic" => Some((WatchdogMode::Automatic, false)),
        "systemd" => Some((WatchdogMode::Automatic, true)),
        "off" | "disable" | "disabled" | "false" => Some((WatchdogMode::Off, false)),
        _ => None,
    }
}

fn seconds(section: Reader<'_>, key: &str, word: &'static str) -> Option<Millis> {
    match seconds_or(section.get(key)?, &[word])? {
        SecondsOr::Seconds(seconds) => Some(Millis::from_secs(u64::from(seconds.get()))),
        SecondsOr::Word(_) => None,
    }
}

fn contradictions(section: Reader<'_>, mode: WatchdogMode, driver: WatchdogDriver) -> Vec<Problem> {
    let mut found = Vec::new();
    if mode == WatchdogMode::Off {
        return found;
    }
    match driver {
        WatchdogDriver::Testing => {
            let why = "testing writes to a FIFO and resets nothing: it fences no leader; remove the key to use the device";
            found.push((Severity::Warning, "driver", why.to_owned()));
        }
        WatchdogDriver::Systemd => {
            for key in ["device", "pretimeout"] {
                if section.get(key).is_some() {
                    let why =
                        "has no effect: systemd is pinged in the place of a device; remove the key, or set mode to automatic or required";
                    found.push((Severity::Warning, key, why.to_owned()));
                }
            }
        }
        WatchdogDriver::Linux => {}
    }
    found
}

/// What of the settings cannot be had with this lease: said, and corrected where [`WatchdogConfig::limit`] does not do so itself.
pub(crate) fn fit(
    config: &WatchdogConfig,
    settings: &WatchdogSettings,
    ttl: Millis,
    loop_wait: Millis,
    warnings: &mut Vec<String>,
) -> WatchdogSettings {
    let mut settings = settings.clone();
    if config.mode == WatchdogMode::Off {
        return settings;
    }
    let limit = config.limit(ttl, loop_wait);
    match (config.hw_timeout, config.safety_margin) {
        (Some(wanted), _) if wanted > limit => warnings.push(format!(
            "watchdog.hw_timeout {wanted} does not fit: with ttl {ttl} and loop_wait {loop_wait} a device may count at most {limit}, or it \
             could not be fed until the next renewal of the lease; {limit} is used. Lower hw_timeout or raise ttl"
        )),
        // The default is nobody's wish: with a short lease it gives way in silence.
        (None, Some(margin)) if margin != MARGIN && ttl.saturating_sub(margin) < Millis(1_000) => warnings.push(format!(
            "watchdog.safety_margin {margin} leaves nothing of ttl {ttl}: a timeout of {limit} is used. Lower safety_margin (5 by default)"
        )),
        _ => {}
    }
    if let Some(pretimeout) = settings.pretimeout.filter(|pretimeout| *pretimeout >= limit) {
        warnings.push(format!(
            "watchdog.pretimeout {pretimeout} is not below the device's timeout of at most {limit}: it is not used. Lower pretimeout"
        ));
        settings.pretimeout = None;
    }
    settings
}
