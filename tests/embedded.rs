//! The embedded store with its real file: one box alone, through its restarts.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use mastiff::dcs::embedded::request::Place;
use mastiff::dcs::embedded::store::{Config, EmbeddedStore, Error};
use mastiff::ha::action::StoreRequest;
use mastiff::ha::input::{DcsFailure, StoreOutcome};
use mastiff::ha::types::{LeaseId, MemberName, Millis, SystemId};
use mastiff::ha::view::{ClusterView, Initialize};
use tokio::task::LocalSet;

const PATIENCE: Duration = Duration::from_secs(10);

fn config(dir: &Path) -> Config {
    Config {
        scope: "demo".to_owned(),
        namespace: "service".to_owned(),
        me: MemberName::from("n1"),
        directory: dir.join("store"),
        own: Place { name: "n1".to_owned(), address: String::new() },
        partners: Vec::new(),
        network: None,
        ttl: Millis(3_000),
    }
}

/// One life of the program: a runtime of its own, which takes everything along when it ends.
fn life<T>(work: impl std::future::Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, work)
}

async fn lease(store: &EmbeddedStore, ttl: u64) -> LeaseId {
    match store.call(StoreRequest::RenewLease { lease: None, ttl: Millis(ttl) }, PATIENCE).await {
        StoreOutcome::Lease { lease, ttl: granted } if granted == Millis(ttl) => lease,
        other => panic!("{other:?}"),
    }
}

async fn view(store: &EmbeddedStore) -> ClusterView {
    match store.call(StoreRequest::Read, PATIENCE).await {
        StoreOutcome::View(view) => *view,
        other => panic!("{other:?}"),
    }
}

fn is_done(outcome: &StoreOutcome) -> bool {
    matches!(outcome, StoreOutcome::Done { .. })
}

/// Opens it again while the thread of the last life may still be letting go of the lock.
async fn open(config: &Config) -> EmbeddedStore {
    for _ in 0..200 {
        match EmbeddedStore::open(config.clone()).await {
            Ok(store) => return store,
            Err(Error::Disk(mastiff::dcs::embedded::disk::Error::Locked { .. })) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the directory stays locked");
}

#[test]
fn what_was_written_outlives_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let mine = life(async {
        let store = open(&config).await;
        let mine = lease(&store, 30_000).await;
        assert!(is_done(&store.call(StoreRequest::Acquire { lease: mine }, PATIENCE).await));
        assert!(is_done(&store.call(StoreRequest::SetInitialize { id: SystemId(77) }, PATIENCE).await));
        let member = serde_json::json!({"state": "running", "role": "primary", "conn_url": "postgres://h:5432/postgres"});
        assert!(is_done(&store.call(StoreRequest::PutMember { value: member, lease: mine }, PATIENCE).await));
        let seen = view(&store).await;
        assert_eq!(seen.leader_name(), Some(&MemberName::from("n1")));
        assert!(seen.members.contains_key(&MemberName::from("n1")));
        mine
    });
    life(async {
        let store = open(&config).await;
        let seen = view(&store).await;
        assert_eq!(seen.initialize, Some(Initialize::Done(SystemId(77))));
        assert_eq!(seen.leader.as_ref().map(|leader| leader.lease), Some(mine));
        // Member documents are not on the disk: they are written again within a loop.
        assert!(seen.members.is_empty());
        match store.call(StoreRequest::RenewLease { lease: Some(mine), ttl: Millis(30_000) }, PATIENCE).await {
            StoreOutcome::Lease { lease, .. } => assert_eq!(lease, mine),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_lease_ends_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    life(async {
        let store = open(&config).await;
        let (alarm, mut alarms) = tokio::sync::mpsc::channel(1);
        let watched = store.clone();
        tokio::task::spawn_local(async move { watched.watch(alarm).await });
        let mine = lease(&store, 1_000).await;
        assert!(is_done(&store.call(StoreRequest::Acquire { lease: mine }, PATIENCE).await));
        let acquired = tokio::time::timeout(PATIENCE, alarms.recv()).await;
        let ended = tokio::time::timeout(PATIENCE, alarms.recv()).await;
        assert_eq!((acquired, ended), (Ok(Some(())), Ok(Some(()))));
        assert_eq!(view(&store).await.leader_name(), None);
        let late = store.call(StoreRequest::RenewLease { lease: Some(mine), ttl: Millis(1_000) }, PATIENCE).await;
        assert!(matches!(late, StoreOutcome::LeaseGone), "{late:?}");
        let late = store.call(StoreRequest::Acquire { lease: mine }, PATIENCE).await;
        assert!(matches!(late, StoreOutcome::LeaseGone), "{late:?}");
    });
}

#[test]
fn a_file_that_is_in_use_or_damaged_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    life(async {
        let store = open(&config).await;
        lease(&store, 30_000).await;
        assert!(matches!(EmbeddedStore::open(config.clone()).await, Err(Error::Disk(_))));
        drop(store);
    });
    let path = config.directory.join("store");
    let whole = std::fs::read(&path).unwrap();
    for size in [0, 5, 100, whole.len() - 1] {
        std::fs::write(&path, &whole[..size]).unwrap();
        let found = life(async { EmbeddedStore::open(config.clone()).await.err().map(|error| error.to_string()) }).unwrap();
        assert!(found.contains("store's file") && found.contains("Nothing was changed"), "{size}: {found}");
        assert_eq!(std::fs::read(&path).unwrap().len(), size);
    }
    std::fs::write(&path, &whole).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"#", 60).unwrap();
    let found = life(async { EmbeddedStore::open(config.clone()).await.err().map(|error| error.to_string()) }).unwrap();
    assert!(found.contains("damaged at byte 16"), "{found}");
}

#[test]
fn a_disk_that_fails_ends_this_box_and_not_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    life(async {
        let store = open(&config).await;
        let mine = lease(&store, 30_000).await;
        std::fs::remove_file(config.directory.join("store")).unwrap();
        let outcome = store.call(StoreRequest::Acquire { lease: mine }, Duration::from_secs(2)).await;
        assert!(matches!(outcome, StoreOutcome::Failed(_)), "{outcome:?}");
        match store.call(StoreRequest::Read, PATIENCE).await {
            StoreOutcome::Failed(DcsFailure::Error(why)) => assert!(why.contains("cannot be written"), "{why}"),
            other => panic!("{other:?}"),
        }
    });
}
