//! The store that the configuration names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;

use super::embedded::peers::Security;
use super::embedded::request::Place;
use super::embedded::store::{Config as EmbeddedConfig, EmbeddedStore, Network};
use super::etcd::EtcdStore;
use super::Error;
use crate::config::types::{Config, RaftConfig};
use crate::config::witness::WitnessConfig;
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
    /// The store of this configuration, with its file beside `data_dir` where nothing else is said. `ttl` counts until the store has a configuration.
    /// Must be called inside a `LocalSet`.
    ///
    /// # Errors
    /// Its part of the configuration cannot be used, or its file.
    pub async fn open(config: &Config, data_dir: &Path, ttl: Millis) -> Result<Store, Error> {
        if let Some(etcd) = &config.etcd {
            let me = MemberName(config.name.clone());
            return EtcdStore::new(etcd, &config.namespace, &config.scope, &me).map(Store::Etcd);
        }
        Ok(Store::Embedded(EmbeddedStore::open(embedded(config, data_dir, ttl)).await?))
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

/// The embedded store's part of the configuration.
fn embedded(config: &Config, data_dir: &Path, ttl: Millis) -> EmbeddedConfig {
    let directory = config.raft.data_dir.clone().unwrap_or_else(|| beside(data_dir));
    of(&config.raft, &config.scope, &config.namespace, &config.name, directory, ttl)
}

/// The same for a witness.
#[must_use]
pub fn witness_store(config: &WitnessConfig, ttl: Millis) -> EmbeddedConfig {
    let directory = config.raft.data_dir.clone().unwrap_or_default();
    of(&config.raft, &config.scope, &config.namespace, &config.name, directory, ttl)
}

fn of(raft: &RaftConfig, scope: &str, namespace: &str, name: &str, directory: PathBuf, ttl: Millis) -> EmbeddedConfig {
    let address = raft.address.as_ref().map(ToString::to_string).unwrap_or_default();
    let security = match (&raft.certificates, &raft.password) {
        (Some((ca, cert, key)), _) => Some(Security::Certificates { ca: ca.clone(), cert: cert.clone(), key: key.clone() }),
        (None, Some(password)) => Some(Security::Key(password.clone())),
        (None, None) => None,
    };
    let bind = raft.bind.as_ref().map_or_else(|| address.clone(), ToString::to_string);
    EmbeddedConfig {
        scope: scope.to_owned(),
        namespace: namespace.to_owned(),
        me: MemberName(name.to_owned()),
        directory,
        network: security.filter(|_| !address.is_empty()).map(|security| Network { bind, security }),
        own: Place { name: name.to_owned(), address },
        partners: raft.partners.iter().map(ToString::to_string).collect(),
        ttl,
    }
}

/// `/var/lib/postgresql/15/main` to `/var/lib/postgresql/15/main.store`: on the same disk, and not inside, where a copy or a removal would take it along.
fn beside(data_dir: &Path) -> PathBuf {
    let mut path = data_dir.as_os_str().to_owned();
    path.push(".store");
    PathBuf::from(path)
}
