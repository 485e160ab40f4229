//! The store that the configuration names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;

use super::embedded::request::Place;
use super::embedded::store::{Config as EmbeddedConfig, EmbeddedStore};
use super::etcd::EtcdStore;
use super::Error;
use crate::config::types::Config;
use crate::ha::action::StoreRequest;
use crate::ha::input::StoreOutcome;
use crate::ha::types::{MemberName, Millis};

/// etcd, or the store inside the agents. Cheap to clone.
#[derive(Clone)]
pub enum Store {
    /// etcd v3.
    Etcd(EtcdStore),
    /// Our own.
    Embedded(EmbeddedStore),
}

impl Store {
    /// The store of this configuration, with its file beside `data_dir` where nothing else is said. `ttl` counts until the store has a configuration. Must be called inside a `LocalSet`.
    ///
    /// # Errors
    /// Its part of the configuration cannot be used, or its file.
    pub fn open(config: &Config, data_dir: &Path, ttl: Millis) -> Result<Store, Error> {
        let me = MemberName(config.name.clone());
        if let Some(etcd) = &config.etcd {
            return EtcdStore::new(etcd, &config.namespace, &config.scope, &me).map(Store::Etcd);
        }
        let address = config.raft.address.as_ref().map(ToString::to_string).unwrap_or_default();
        let config = EmbeddedConfig {
            scope: config.scope.clone(),
            namespace: config.namespace.clone(),
            directory: config.raft.data_dir.clone().unwrap_or_else(|| beside(data_dir)),
            own: Place { name: config.name.clone(), address },
            partners: config.raft.partners.iter().map(ToString::to_string).collect(),
            me,
            ttl,
        };
        Ok(Store::Embedded(EmbeddedStore::open(&config)?))
    }

    /// Carries out a request. Answers within `deadline`, whatever happens; dropping the future is safe.
    pub async fn call(&self, request: StoreRequest, deadline: Duration) -> StoreOutcome {
        match self {
            Store::Etcd(store) => store.call(request, deadline).await,
            Store::Embedded(store) => store.call(request, deadline).await,
        }
    }

    /// Wakes the loop: sends `()` whenever a key changed that it should look at. Runs for ever.
    pub async fn watch(&self, alarm: mpsc::Sender<()>) {
        match self {
            Store::Etcd(store) => store.watch(alarm).await,
            Store::Embedded(store) => store.watch(alarm).await,
        }
    }

    /// Whether PostgreSQL's primary runs on this box.
    pub fn set_burden(&self, burdened: bool) {
        if let Store::Embedded(store) = self {
            store.set_burden(burdened);
        }
    }
}

/// `/var/lib/postgresql/15/main` to `/var/lib/postgresql/15/main.store`: on the same disk, and not inside, where a copy or a removal would take it along.
fn beside(data_dir: &Path) -> PathBuf {
    let mut path = data_dir.as_os_str().to_owned();
    path.push(".store");
    PathBuf::from(path)
}
