//! The few things that operators' commands do in the store.

use std::time::Duration;

use serde_json::Value;

use super::error::Error;
use crate::config::types::EtcdConfig;
#[cfg(feature = "etcd")]
use crate::dcs::etcd::EtcdStore;
use crate::ha::action::StoreRequest;
use crate::ha::input::{DcsFailure, StoreOutcome};
use crate::ha::types::Revision;
use crate::ha::view::{ClusterView, FailoverRequest};

/// How long the store may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// One cluster in the store.
#[derive(Clone)]
pub struct Store {
    #[cfg(feature = "etcd")]
    etcd: EtcdStore,
}

impl Store {
    /// A client for the cluster's scope. Nothing is sent yet.
    ///
    /// # Errors
    /// The store's configuration is not usable.
    #[cfg(feature = "etcd")]
    pub fn new(config: &EtcdConfig, namespace: &str, scope: &str) -> Result<Store, Error> {
        let nobody = crate::ha::types::MemberName::from("ctl");
        Ok(Store { etcd: EtcdStore::new(config, namespace, scope, &nobody)? })
    }

    /// A client for the cluster's scope: not in this build.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "etcd"))]
    pub fn new(_config: &EtcdConfig, _namespace: &str, _scope: &str) -> Result<Store, Error> {
        Err(Error::refused("This build leaves etcd out (feature \"etcd\")"))
    }

    #[cfg(feature = "etcd")]
    async fn call(&self, request: StoreRequest) -> StoreOutcome {
        Box::pin(self.etcd.call(request, PATIENCE)).await
    }

    #[cfg(not(feature = "etcd"))]
    async fn call(&self, _request: StoreRequest) -> StoreOutcome {
        StoreOutcome::Failed(DcsFailure::Timeout)
    }

    #[cfg(feature = "etcd")]
    async fn delete_scope(&self) -> Result<u64, DcsFailure> {
        Box::pin(self.etcd.delete_scope(PATIENCE)).await
    }

    #[cfg(not(feature = "etcd"))]
    async fn delete_scope(&self) -> Result<u64, DcsFailure> {
        let _ = PATIENCE;
        Err(DcsFailure::Timeout)
    }

    /// All keys.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn cluster(&self) -> Result<ClusterView, Error> {
        const WHAT: &str = "Cannot read the cluster from the store";
        match self.call(StoreRequest::Read).await {
            StoreOutcome::View(view) => Ok(*view),
            StoreOutcome::Failed(failure) => Err(Error::Store { what: WHAT, failure }),
            _ => Err(Error::StoreAnswer { what: WHAT }),
        }
    }

    /// Writes the dynamic configuration if it is still the one that was read; `false` if it is not.
    ///
    /// # Errors
    /// [`Error::Store`]: it may or may not have been written.
    pub async fn put_config(&self, value: Value, expect: Revision) -> Result<bool, Error> {
        self.write(StoreRequest::PutConfig { value, expect: Some(expect) }, "Cannot write the configuration to the store").await
    }

    /// Writes or clears the request for a failover; `false` if `expect` is given and somebody was faster.
    ///
    /// # Errors
    /// As [`Store::put_config`].
    pub async fn put_failover(&self, value: Option<FailoverRequest>, expect: Option<Revision>) -> Result<bool, Error> {
        self.write(StoreRequest::PutFailover { value, expect }, "Cannot write the failover key to the store").await
    }

    /// Deletes all keys of the cluster.
    ///
    /// # Errors
    /// As [`Store::put_config`].
    pub async fn remove(&self) -> Result<u64, Error> {
        self.delete_scope().await.map_err(|failure| Error::Store { what: "Cannot delete the cluster's keys", failure })
    }

    async fn write(&self, request: StoreRequest, what: &'static str) -> Result<bool, Error> {
        match self.call(request).await {
            StoreOutcome::Done { .. } => Ok(true),
            StoreOutcome::Conflict => Ok(false),
            StoreOutcome::Failed(failure) => Err(Error::Store { what, failure }),
            _ => Err(Error::StoreAnswer { what }),
        }
    }
}
