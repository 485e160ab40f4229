//! Callbacks: the operator's scripts that are told of role changes.

use super::child::Spec;
use super::{lock, Shared};

/// See [`super::Postgres::run_callback`].
pub(crate) fn run(shared: &Shared, event: &str, role: &str) {
    let config = shared.config();
    let Some(command) = config.callbacks.get(event).filter(|command| !command.is_empty()) else { return };
    let spec = Spec::command(command, [event.to_owned(), role.to_owned(), config.scope.clone()]);
    let event = event.to_owned();
    let task = tokio::spawn(async move {
        match spec.run(|_| ()).await {
            Ok(finished) if finished.status.success() => log::debug!("callback {event} has ended"),
            Ok(finished) => log::warn!("callback {event} {}", finished.how()),
            Err(error) => log::error!("callback {event}: {error}"),
        }
    });
    // Dropping the future of the one before kills its process group.
    if let Some(running) = lock(&shared.callback).replace(task.abort_handle()) {
        running.abort();
    }
}
