//! `sd_notify(3)`: what systemd is told. A socket that is not there or does not take it is no trouble.

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
