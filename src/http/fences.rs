//! Watchdog, guard and virtual addresses, as `/patroni` and `/vip` show them. Patroni has no words for these but `watchdog_failed`.

use serde_json::{json, Map, Value};

use crate::ha::action::Snapshot;
use crate::ha::config::WatchdogMode;
use crate::ha::fence::{Guard, Watchdog};
use crate::ha::types::{Instant, Millis};

use super::parse;
use super::view::{Current, VipStatus};

/// Patroni's `watchdog_failed`: the configuration demands a watchdog, and there is none that works. Such a member does not lead, and
/// the others do not reckon with it in an election.
#[must_use]
pub fn watchdog_failed(snapshot: &Snapshot) -> bool {
    snapshot.config.watchdog.mode == WatchdogMode::Required && matches!(snapshot.watchdog, Watchdog::Unusable(_))
}

/// Puts `watchdog`, `guard` and `vip` at the end of the status document, each only where there is something to say. Times are those of
/// the moment of publication, as the whole document's. A stale snapshot knows nothing of the first two: they change by themselves.
pub fn put(doc: &mut Map<String, Value>, current: &Current, stale: bool) {
    let at = current.published_at;
    if let Some(snapshot) = current.snapshot.as_ref().filter(|_| !stale) {
        if let Some(shown) = watchdog(snapshot) {
            doc.insert("watchdog".into(), shown);
        }
        if let Some(shown) = guard(snapshot, at) {
            doc.insert("guard".into(), shown);
        }
    }
    if !stale && !current.vips.is_empty() {
        doc.insert("vip".into(), vips(current, at, stale));
    }
}

fn watchdog(snapshot: &Snapshot) -> Option<Value> {
    let mode = match snapshot.config.watchdog.mode {
        WatchdogMode::Off => "off",
        WatchdogMode::Automatic => "automatic",
        WatchdogMode::Required => "required",
    };
    let mut shown = Map::new();
    shown.insert("mode".into(), json!(mode));
    shown.insert("state".into(), json!(snapshot.watchdog.word()));
    match &snapshot.watchdog {
        Watchdog::Unknown => return None,
        Watchdog::Unusable(reason) => {
            shown.insert("reason".into(), json!(reason));
        }
        Watchdog::Armed { timeout, stoppable } => {
            shown.insert("timeout".into(), seconds(*timeout));
            shown.insert("stoppable".into(), json!(stoppable));
        }
        Watchdog::Ready | Watchdog::Arming => {}
    }
    Some(Value::Object(shown))
}

fn guard(snapshot: &Snapshot, at: Instant) -> Option<Value> {
    match snapshot.guard {
        Guard::Absent => snapshot.config.guard.then(|| json!({"state": "absent"})),
        Guard::Idle => Some(json!({"state": "idle"})),
        Guard::Armed { until } => Some(json!({"state": "armed", "seconds_left": seconds(at.until(until))})),
    }
}

/// The list of `/vip`: every configured address, in the order of the configuration.
#[must_use]
pub fn vips(current: &Current, now: Instant, stale: bool) -> Value {
    current.vips.iter().map(|vip| row(vip, now, stale)).collect()
}

fn row(vip: &VipStatus, now: Instant, stale: bool) -> Value {
    let held = vip.is_held(now, stale);
    let mut row = Map::new();
    row.insert("address".into(), json!(vip.address.to_string()));
    row.insert("prefix".into(), json!(vip.prefix));
    row.insert("interface".into(), json!(vip.interface));
    row.insert("role".into(), json!(vip.role.word()));
    row.insert("held".into(), json!(held));
    if let Some(since) = vip.since.filter(|_| held) {
        row.insert("since".into(), json!(parse::isoformat(since)));
    }
    if let Some(at) = vip.expires_at.filter(|_| held) {
        row.insert("seconds_left".into(), seconds(now.until(at)));
    }
    for (key, text) in [("conflict", &vip.conflict), ("error", &vip.error)] {
        if let Some(text) = text {
            row.insert(key.into(), json!(text));
        }
    }
    Value::Object(row)
}

/// Whole seconds as an integer, as Patroni's documents have them; others with their milliseconds.
fn seconds(time: Millis) -> Value {
    if time.0.is_multiple_of(1000) {
        json!(time.0 / 1000)
    } else {
        json!(time.0 as f64 / 1000.0)
    }
}
