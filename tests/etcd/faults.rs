//! Servers that die, stop, are silent, forget everything or whose answers are lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mastiff::ha::action::StoreRequest;
use mastiff::ha::input::{DcsFailure, StoreOutcome};
use mastiff::ha::types::{Lsn, SystemId};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{config, done, eventually, grant, lead, proof, read, renew, store, store_with, Cluster, Proxy, LONG};

/// A call that must answer in time, and how long it took.
async fn timed(store: &mastiff::dcs::EtcdStore, request: StoreRequest, deadline: Duration) -> (StoreOutcome, Duration) {
    let begin = Instant::now();
    let outcome = store.call(request, deadline).await;
    let took = begin.elapsed();
    assert!(took < deadline + Duration::from_millis(250), "{outcome:?} took {took:?}");
    (outcome, took)
}

fn status(position: u64) -> StoreRequest {
    StoreRequest::PutStatus { optime: Lsn(position), slots: BTreeMap::new(), retain_slots: Vec::new() }
}

#[tokio::test]
async fn the_connected_member_dies() {
    let mut cluster = Cluster::start(3).await;
    let a = store(&cluster.urls(), "a");
    let lease = grant(&a, 30).await;
    done(&a, StoreRequest::Acquire { lease }).await;
    assert!(matches!(renew(&a, lease, LONG).await, StoreOutcome::Lease { .. }));
    cluster.members[0].kill();
    // Also when it was etcd's leader: the next one is elected within about a second.
    let (outcome, _) = timed(&a, StoreRequest::RenewLease { lease: Some(lease), ttl: mastiff::ha::types::Millis(30_000) }, LONG).await;
    assert!(matches!(outcome, StoreOutcome::Lease { .. }), "{outcome:?}");
    done(&a, status(5)).await;
    assert_eq!(read(&a).await.leader.unwrap().lease, lease);
    cluster.members[0].start();
    cluster.members[1].kill();
    eventually(|| async { matches!(a.call(StoreRequest::Read, Duration::from_secs(2)).await, StoreOutcome::View(_)) }).await;
    assert!(matches!(renew(&a, lease, LONG).await, StoreOutcome::Lease { .. }));
    // Without a majority nothing is said to be read or written.
    cluster.members[0].kill();
    for request in [StoreRequest::Read, status(6), StoreRequest::RenewLease { lease: Some(lease), ttl: mastiff::ha::types::Millis(30_000) }]
    {
        let (outcome, _) = timed(&a, request, Duration::from_secs(2)).await;
        assert!(matches!(outcome, StoreOutcome::Failed(_)), "{outcome:?}");
    }
}

#[tokio::test]
async fn the_connected_member_stops() {
    let cluster = Cluster::start(3).await;
    let a = store(&cluster.urls(), "a");
    lead(&a).await;
    done(&a, status(1)).await;
    cluster.members[0].signal(Signal::STOP);
    let (outcome, took) = timed(&a, StoreRequest::Read, Duration::from_secs(6)).await;
    assert!(matches!(outcome, StoreOutcome::View(_)), "{outcome:?}");
    assert!(took < Duration::from_millis(5500), "{took:?}");
    // The good one is remembered.
    let (outcome, took) = timed(&a, StoreRequest::Read, Duration::from_secs(6)).await;
    assert!(matches!(outcome, StoreOutcome::View(_)) && took < Duration::from_secs(1), "{outcome:?} {took:?}");
    cluster.members[0].signal(Signal::CONT);
}

#[tokio::test]
async fn a_single_server_stops_and_continues() {
    let cluster = Cluster::start(1).await;
    let a = store(&cluster.urls(), "a");
    let lease = lead(&a).await;
    done(&a, status(1)).await;
    assert!(matches!(renew(&a, lease, LONG).await, StoreOutcome::Lease { .. }));
    cluster.members[0].signal(Signal::STOP);
    let requests =
        [StoreRequest::Read, status(2), StoreRequest::RenewLease { lease: Some(lease), ttl: mastiff::ha::types::Millis(30_000) }];
    for request in requests {
        let (outcome, took) = timed(&a, request, Duration::from_secs(1)).await;
        assert!(matches!(outcome, StoreOutcome::Failed(DcsFailure::Timeout)), "{outcome:?}");
        assert!(took > Duration::from_millis(800), "{took:?}");
    }
    cluster.members[0].signal(Signal::CONT);
    // What the server finds in its sockets when it continues does not undo what is written after that.
    done(&a, status(3)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(read(&a).await.status.optime, Some(Lsn(3)));
    assert!(matches!(renew(&a, lease, LONG).await, StoreOutcome::Lease { .. }));
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let mut cluster = Cluster::start(1).await;
    let a = store(&cluster.urls(), "a");
    let lease = grant(&a, 30).await;
    assert!(matches!(renew(&a, lease, LONG).await, StoreOutcome::Lease { .. }));
    cluster.members[0].kill();
    let (outcome, took) = timed(&a, StoreRequest::Read, Duration::from_secs(3)).await;
    let StoreOutcome::Failed(DcsFailure::Unavailable(text)) = outcome else { panic!("{outcome:?}") };
    assert!(text.contains(&cluster.members[0].url) && text.contains("refused"), "{text}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    cluster.members[0].start();
    cluster.ready().await;
    assert!(matches!(renew(&a, lease, LONG).await, StoreOutcome::Lease { .. }));
}

#[tokio::test]
async fn an_endpoint_accepts_and_never_answers() {
    let cluster = Cluster::start(1).await;
    // The kernel accepts; nobody ever reads.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let a = store(&[&silent_url, cluster.urls()[0]], "a");
    let (outcome, took) = timed(&a, StoreRequest::Read, Duration::from_secs(2)).await;
    assert!(matches!(outcome, StoreOutcome::View(_)), "{outcome:?}");
    assert!(took < Duration::from_millis(1500), "{took:?}");
    let (_, took) = timed(&a, StoreRequest::Read, Duration::from_secs(2)).await;
    assert!(took < Duration::from_millis(500), "{took:?}");
    let alone = store(&[&silent_url], "a");
    let (outcome, _) =
        timed(&alone, StoreRequest::ClaimInitialize { lease: mastiff::ha::types::LeaseId(0) }, Duration::from_millis(700)).await;
    assert!(matches!(outcome, StoreOutcome::Failed(DcsFailure::Timeout)), "{outcome:?}");
}

#[tokio::test]
async fn a_wiped_store() {
    let mut cluster = Cluster::start(1).await;
    let a = store(&cluster.urls(), "a");
    let lease = grant(&a, 30).await;
    done(&a, StoreRequest::Acquire { lease }).await;
    done(&a, StoreRequest::SetInitialize { id: SystemId(7) }).await;
    for position in 1..20 {
        done(&a, status(position)).await;
    }
    cluster.members[0].wipe();
    cluster.members[0].start();
    cluster.ready().await;
    assert!(matches!(renew(&a, lease, LONG).await, StoreOutcome::LeaseGone));
    let view = read(&a).await;
    assert_eq!((view.leader, view.initialize), (None, None));
    assert!(view.revision.0 < 10, "{:?}", view.revision);
    let lease = grant(&a, 30).await;
    done(&a, StoreRequest::Acquire { lease }).await;
    done(&a, status(30)).await;
    done(&a, StoreRequest::PutMember { value: json!({}), lease }).await;
    done(&a, StoreRequest::Release { optime: Some(Lsn(31)), proof: proof() }).await;
    assert_eq!(read(&a).await.status.optime, Some(Lsn(31)));
}

/// A store whose connection loses the answers from now on; its second endpoint is sound.
async fn lossy(cluster: &Cluster) -> (mastiff::dcs::EtcdStore, mastiff::ha::types::LeaseId) {
    let proxy = Proxy::start(cluster.urls()[0]).await;
    let store = store(&[&proxy.url, cluster.urls()[0]], "a");
    let lease = grant(&store, 30).await;
    read(&store).await;
    proxy.lose_answers();
    (store, lease)
}

#[tokio::test]
async fn lost_answers_of_applied_writes() {
    let cluster = Cluster::start(1).await;
    let sound = store(&cluster.urls(), "b");
    let limit = Duration::from_secs(2);

    let (a, lease) = lossy(&cluster).await;
    let (outcome, _) = timed(&a, StoreRequest::Acquire { lease }, limit).await;
    assert!(matches!(outcome, StoreOutcome::Done { .. }), "{outcome:?}");

    let (again, lease_again) = lossy(&cluster).await;
    let held = read(&sound).await.leader.unwrap();
    let (outcome, _) = timed(&again, StoreRequest::Repair { lease: lease_again, expect: held.revision }, limit).await;
    assert!(matches!(outcome, StoreOutcome::Done { .. }), "{outcome:?}");
    assert_eq!(read(&sound).await.leader.unwrap().lease, lease_again);

    let (b, _) = lossy(&cluster).await;
    let (outcome, _) = timed(&b, StoreRequest::PutConfig { value: json!({"ttl": 30}), expect: None }, limit).await;
    assert!(matches!(outcome, StoreOutcome::Done { .. }), "{outcome:?}");

    // The claim hangs on our lease, so the repetition finds it ours. Nobody may lead, so this is another cluster.
    let cluster = Cluster::start(1).await;
    let sound = store(&cluster.urls(), "b");
    let (c, _) = lossy(&cluster).await;
    let lease = grant(&sound, 30).await;
    let (outcome, _) = timed(&c, StoreRequest::ClaimInitialize { lease }, limit).await;
    assert!(matches!(outcome, StoreOutcome::Done { .. }), "{outcome:?}");
    assert!(read(&sound).await.initialize.is_some());
}

#[tokio::test]
async fn a_lost_release() {
    let cluster = Cluster::start(1).await;
    let proxy = Proxy::start(cluster.urls()[0]).await;
    let a = store_with(&config(&[&proxy.url, cluster.urls()[0]]), "a");
    let lease = grant(&a, 30).await;
    done(&a, StoreRequest::Acquire { lease }).await;
    proxy.lose_answers();
    let (outcome, _) = timed(&a, StoreRequest::Release { optime: Some(Lsn(9)), proof: proof() }, Duration::from_secs(2)).await;
    assert!(matches!(outcome, StoreOutcome::Done { .. }), "{outcome:?}");
    let view = read(&a).await;
    assert_eq!((view.leader, view.status.optime), (None, Some(Lsn(9))));
}

#[tokio::test]
async fn dropped_calls_leave_no_trace() {
    let cluster = Cluster::start(1).await;
    let a = store(&cluster.urls(), "a");
    let lease = lead(&a).await;
    assert!(matches!(renew(&a, lease, LONG).await, StoreOutcome::Lease { .. }));
    cluster.members[0].signal(Signal::STOP);
    let dropped = tokio::time::timeout(Duration::from_millis(200), renew(&a, lease, LONG)).await;
    assert!(dropped.is_err());
    cluster.members[0].signal(Signal::CONT);
    assert!(matches!(renew(&a, lease, LONG).await, StoreOutcome::Lease { .. }));
    // Many at once share one connection and keep their order.
    let calls: Vec<_> = (1..=50)
        .map(|position| {
            let a = a.clone();
            tokio::spawn(async move { a.call(status(position), LONG).await })
        })
        .collect();
    for call in calls {
        assert!(matches!(call.await.unwrap(), StoreOutcome::Done { .. }));
    }
    assert_eq!(read(&a).await.status.optime, Some(Lsn(50)));
}

/// An etcd leader that was stopped while the lease was revoked under its successor: for a moment it would still renew it.
#[tokio::test]
async fn a_former_etcd_leader_renews_nothing() {
    let cluster = Cluster::start(3).await;
    let mut leader = 0;
    for (at, member) in cluster.members.iter().enumerate() {
        let mut client = etcd_client::Client::connect([&member.url], None).await.unwrap();
        let status = client.status().await.unwrap();
        if status.leader() == status.header().unwrap().member_id() {
            leader = at;
        }
    }
    let a = store(&[cluster.urls()[leader]], "a");
    let lease = grant(&a, 30).await;
    assert!(matches!(renew(&a, lease, LONG).await, StoreOutcome::Lease { .. }));
    let mut plain = etcd_client::Client::connect([cluster.urls()[leader]], None).await.unwrap();
    let (mut keeper, mut answers) = plain.lease_keep_alive(lease.0).await.unwrap();

    cluster.members[leader].signal(Signal::STOP);
    let mut other = etcd_client::Client::connect([cluster.urls()[(leader + 1) % 3]], None).await.unwrap();
    let begin = Instant::now();
    while other.lease_revoke(lease.0).await.is_err() {
        assert!(begin.elapsed() < LONG, "no new etcd leader");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The requests wait in the stopped server's sockets.
    keeper.keep_alive().await.unwrap();
    let waiting = tokio::spawn({
        let a = a.clone();
        async move { renew(&a, lease, LONG).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.members[leader].signal(Signal::CONT);
    let naive = tokio::time::timeout(Duration::from_secs(5), answers.message()).await;
    println!("a renewal without confirmation: {naive:?}");
    let outcome = waiting.await.unwrap();
    assert!(matches!(outcome, StoreOutcome::LeaseGone | StoreOutcome::Failed(_)), "{outcome:?}");
    assert!(matches!(renew(&a, lease, LONG).await, StoreOutcome::LeaseGone));
}
