//! The end of a cluster: all of its keys at once, on an operator's order.

use std::time::Duration;

use etcd_client::DeleteOptions;
use tokio::time::{timeout, Instant};

use super::fault::Fault;
use super::EtcdStore;
use crate::ha::input::DcsFailure;

impl EtcdStore {
    /// Deletes every key of the scope. Answers within `deadline` with the number of keys that are gone. Safe to repeat.
    ///
    /// # Errors
    /// Why the store did not confirm it; the keys may be gone all the same.
    pub async fn delete_scope(&self, deadline: Duration) -> Result<u64, DcsFailure> {
        let inner = &self.inner;
        let work = inner.attempts("delete cluster", Instant::now() + deadline, |mut link| async move {
            let options = DeleteOptions::new().with_prefix();
            link.client.delete(inner.keys.prefix(), Some(options)).await
        });
        match timeout(deadline, work).await {
            Ok(Ok(answer)) => Ok(u64::try_from(answer.value.deleted()).unwrap_or(0)),
            Ok(Err(Fault::LeaseGone)) | Err(_) => Err(DcsFailure::Timeout),
            Ok(Err(fault)) => Err(fault.into_failure()),
        }
    }
}
