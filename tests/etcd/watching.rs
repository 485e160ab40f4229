//! The alarm clock.

use std::time::{Duration, Instant};

use mastiff::config::types::EtcdConfig;
use mastiff::dcs::EtcdStore;
use mastiff::ha::action::StoreRequest;
use mastiff::ha::input::StoreOutcome;
use mastiff::ha::types::SystemId;
use rustix::process::Signal;
use serde_json::json;
use tokio::sync::mpsc::{channel, Receiver};

use crate::support::{config, done, eventually, grant, proof, read, store, store_with, Cluster};

/// Runs the watch; the first alarm (it is open) is taken.
async fn watching(store: &EtcdStore) -> Receiver<()> {
    let (alarm, mut alarms) = channel(1);
    let store = store.clone();
    tokio::spawn(async move { store.watch(alarm).await });
    rings(&mut alarms, 5_000).await;
    alarms
}

async fn rings(alarms: &mut Receiver<()>, within_ms: u64) {
    let rang = tokio::time::timeout(Duration::from_millis(within_ms), alarms.recv()).await;
    assert_eq!(rang, Ok(Some(())), "no alarm within {within_ms} ms");
}

async fn silent(alarms: &mut Receiver<()>) {
    let rang = tokio::time::timeout(Duration::from_millis(300), alarms.recv()).await;
    assert!(rang.is_err(), "{rang:?}");
}

#[tokio::test]
async fn what_wakes_the_loop() {
    let cluster = Cluster::start(1).await;
    let (a, b) = (store(&cluster.urls(), "a"), store(&cluster.urls(), "b"));
    let (lease_a, lease_b) = (grant(&a, 30).await, grant(&b, 30).await);
    let mut alarms = watching(&a).await;
    silent(&mut alarms).await;

    // Our own member key and everybody's positions do not.
    done(&a, StoreRequest::PutMember { value: json!({"state": "starting"}), lease: lease_a }).await;
    cluster.client().await.put("/service/demo/status", r#"{"optime":1}"#, None).await.unwrap();
    silent(&mut alarms).await;
    done(&b, StoreRequest::PutMember { value: json!({"state": "running", "xlog_location": 1}), lease: lease_b }).await;
    rings(&mut alarms, 1_000).await;
    done(&b, StoreRequest::PutMember { value: json!({"state": "running", "xlog_location": 2}), lease: lease_b }).await;
    silent(&mut alarms).await;
    done(&b, StoreRequest::PutMember { value: json!({"state": "stopped"}), lease: lease_b }).await;
    rings(&mut alarms, 1_000).await;

    for request in [
        StoreRequest::Acquire { lease: lease_b },
        StoreRequest::PutConfig { value: json!({}), expect: None },
        StoreRequest::PutFailover { value: None, expect: None },
        StoreRequest::SetInitialize { id: SystemId(1) },
        StoreRequest::Release { optime: None, proof: proof() },
    ] {
        done(&b, request).await;
        rings(&mut alarms, 1_000).await;
    }
    cluster.client().await.put("/service/demo/sync", "{}", None).await.unwrap();
    rings(&mut alarms, 1_000).await;
    cluster.client().await.lease_revoke(lease_b.0).await.unwrap();
    rings(&mut alarms, 1_000).await;
    silent(&mut alarms).await;
}

#[tokio::test]
async fn compaction_and_restart() {
    let mut cluster = Cluster::start(1).await;
    let a = store(&cluster.urls(), "a");
    let mut alarms = watching(&a).await;
    let mut client = cluster.client().await;
    let mut revision = 0;
    for number in 0..100 {
        let answer = client.put("/service/demo/history", number.to_string(), None).await.unwrap();
        revision = answer.header().unwrap().revision();
    }
    client.compact(revision, None).await.unwrap();
    rings(&mut alarms, 1_000).await;
    while tokio::time::timeout(Duration::from_millis(300), alarms.recv()).await.is_ok() {}
    client.put("/service/demo/sync", "{}", None).await.unwrap();
    rings(&mut alarms, 1_000).await;

    cluster.members[0].kill();
    rings(&mut alarms, 2_000).await;
    cluster.members[0].start();
    rings(&mut alarms, 10_000).await;
    eventually(|| async { matches!(a.call(StoreRequest::Read, Duration::from_secs(1)).await, StoreOutcome::View(_)) }).await;
    cluster.client().await.put("/service/demo/sync", "{\"leader\":null}", None).await.unwrap();
    rings(&mut alarms, 5_000).await;
}

#[tokio::test]
async fn a_black_hole_is_noticed() {
    let cluster = Cluster::start(3).await;
    let a = store(&cluster.urls(), "a");
    let mut alarms = watching(&a).await;
    cluster.members[0].signal(Signal::STOP);
    let begin = Instant::now();
    // The watch ended; then it is open elsewhere.
    rings(&mut alarms, 12_000).await;
    rings(&mut alarms, 8_000).await;
    println!("black hole noticed and left after {:?}", begin.elapsed());
    let b = store(&cluster.urls()[1..], "b");
    done(&b, StoreRequest::PutConfig { value: json!({}), expect: None }).await;
    rings(&mut alarms, 1_000).await;
    cluster.members[0].signal(Signal::CONT);
}

#[tokio::test]
async fn members_are_discovered() {
    let mut cluster = Cluster::start(3).await;
    let a = store_with(&EtcdConfig { fixed: false, ..config(&cluster.urls()[..1]) }, "a");
    let fixed = store(&cluster.urls()[..1], "a");
    let _alarms = watching(&a).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    read(&a).await;
    read(&fixed).await;
    cluster.members[0].kill();
    eventually(|| async { matches!(a.call(StoreRequest::Read, Duration::from_secs(3)).await, StoreOutcome::View(_)) }).await;
    let outcome = fixed.call(StoreRequest::Read, Duration::from_secs(1)).await;
    assert!(matches!(outcome, StoreOutcome::Failed(_)), "{outcome:?}");
}
