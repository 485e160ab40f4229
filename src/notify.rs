//! `sd_notify(3)`: what systemd is told. A socket that is not there or does not take it is no trouble.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::clock;

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("sd_notify: {error}");
    }
}

/// The agent runs.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] ends it.
pub fn reloading() {
    let micros = i128::from(clock::monotonic().0) * 1000;
    send(&[NotifyState::Reloading, NotifyState::MonotonicUsec(micros)]);
}

/// The agent stops.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

/// What the unit's `WatchdogSec=` gives this process between two signs of life, if it is set (`WATCHDOG_USEC`).
#[must_use]
pub fn watchdog_time() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// The main loop lives: restarts `WatchdogSec=`.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// Says so for ever, three times within `time`. To be run on the main loop, whose life it proves.
pub async fn stay_alive(time: Duration) {
    loop {
        alive();
        tokio::time::sleep(time / 3).await;
    }
}
