//! All requests on a healthy store.

use std::collections::BTreeMap;
use std::time::Duration;

use mastiff::ha::action::StoreRequest;
use mastiff::ha::input::StoreOutcome;
use mastiff::ha::types::{LeaseId, Lsn, MemberName, Millis, Revision, SystemId, Timeline};
use mastiff::ha::view::{ClusterView, FailoverRequest, HistoryEntry, Initialize};
use serde_json::json;

use crate::support::{conflict, done, grant, lead, proof, read, renew, store, Cluster, LONG};

#[tokio::test]
async fn initialize_and_config() {
    let cluster = Cluster::start(1).await;
    let (a, b) = (store(&cluster.urls(), "a"), store(&cluster.urls(), "b"));
    let empty = read(&a).await;
    assert_eq!(
        ClusterView { revision: Revision(0), read_at: empty.read_at, ..ClusterView::default() },
        ClusterView { revision: Revision(0), ..empty }
    );

    let (ours, theirs) = (grant(&a, 30).await, grant(&b, 30).await);
    done(&a, StoreRequest::ClaimInitialize { lease: ours }).await;
    conflict(&b, StoreRequest::ClaimInitialize { lease: theirs }).await;
    // Asked again because the answer was lost: it is ours.
    done(&a, StoreRequest::ClaimInitialize { lease: ours }).await;
    assert_eq!(read(&b).await.initialize, Some(Initialize::InProgress));
    conflict(&b, StoreRequest::CancelInitialize { lease: theirs }).await;
    done(&a, StoreRequest::CancelInitialize { lease: ours }).await;
    done(&a, StoreRequest::CancelInitialize { lease: ours }).await;
    assert_eq!(read(&b).await.initialize, None);
    done(&a, StoreRequest::ClaimInitialize { lease: ours }).await;
    done(&a, StoreRequest::SetInitialize { id: SystemId(7) }).await;
    conflict(&a, StoreRequest::CancelInitialize { lease: ours }).await;
    conflict(&b, StoreRequest::SetInitialize { id: SystemId(8) }).await;
    assert_eq!(read(&b).await.system_id(), Some(SystemId(7)));

    done(&a, StoreRequest::PutConfig { value: json!({"ttl": 30, "loop_wait": 10}), expect: None }).await;
    conflict(&b, StoreRequest::PutConfig { value: json!({"ttl": 20}), expect: None }).await;
    let seen = read(&b).await.config.unwrap();
    let second = done(&b, StoreRequest::PutConfig { value: json!({"ttl": 20}), expect: Some(seen.revision) }).await;
    conflict(&a, StoreRequest::PutConfig { value: json!({"ttl": 20}), expect: Some(seen.revision) }).await;
    let config = read(&a).await.config.unwrap();
    assert_eq!((config.revision, config.value), (second, json!({"ttl": 20})));
}

#[tokio::test]
async fn leader_and_members() {
    let cluster = Cluster::start(1).await;
    let (a, b) = (store(&cluster.urls(), "a"), store(&cluster.urls(), "b"));
    let (lease_a, lease_b) = (grant(&a, 30).await, grant(&b, 30).await);
    done(&a, StoreRequest::Acquire { lease: lease_a }).await;
    // As if the answer had been lost.
    done(&a, StoreRequest::Acquire { lease: lease_a }).await;
    conflict(&b, StoreRequest::Acquire { lease: lease_b }).await;
    conflict(&b, StoreRequest::Release { optime: None, proof: proof() }).await;
    let leader = read(&b).await.leader.unwrap();
    assert_eq!((leader.name.as_str(), leader.lease), ("a", lease_a));

    // The agent of `a` began a new life with a new lease.
    let again = store(&cluster.urls(), "a");
    let lease_again = grant(&again, 30).await;
    conflict(&again, StoreRequest::Acquire { lease: lease_again }).await;
    conflict(&again, StoreRequest::Repair { lease: lease_again, expect: Revision(leader.revision.0 + 100) }).await;
    conflict(&b, StoreRequest::Repair { lease: lease_b, expect: leader.revision }).await;
    done(&again, StoreRequest::Repair { lease: lease_again, expect: leader.revision }).await;
    done(&again, StoreRequest::Repair { lease: lease_again, expect: leader.revision }).await;
    assert_eq!(read(&b).await.leader.unwrap().lease, lease_again);
    // The old life has lost the key.
    conflict(&a, StoreRequest::Release { optime: None, proof: proof() }).await;

    let value = json!({"conn_url": "postgres://10.0.0.1:5432/postgres", "state": "running", "role": "primary", "xlog_location": 5});
    done(&again, StoreRequest::PutMember { value: value.clone(), lease: lease_again }).await;
    done(&again, StoreRequest::PutMember { value: value.clone(), lease: lease_again }).await;
    let member = read(&b).await.leader_member().cloned().unwrap();
    assert_eq!((member.raw, member.lease), (value, lease_again));

    let slots = BTreeMap::from([("b".to_owned(), Lsn(50))]);
    done(&again, StoreRequest::PutStatus { optime: Lsn(60), slots: slots.clone(), retain_slots: vec!["b".to_owned()] }).await;
    done(&again, StoreRequest::Release { optime: Some(Lsn(70)), proof: proof() }).await;
    done(&again, StoreRequest::Release { optime: Some(Lsn(70)), proof: proof() }).await;
    let view = read(&b).await;
    assert_eq!(view.leader, None);
    assert_eq!((view.status.optime, &view.status.slots), (Some(Lsn(70)), &slots));
    assert_eq!(view.status.retain_slots.len(), 1);
    done(&b, StoreRequest::Acquire { lease: lease_b }).await;
    done(&b, StoreRequest::ReleaseUnused { proof: proof() }).await;
    assert_eq!(read(&b).await.status.optime, Some(Lsn(70)));
}

#[tokio::test]
async fn other_documents() {
    let cluster = Cluster::start(1).await;
    let (a, b) = (store(&cluster.urls(), "a"), store(&cluster.urls(), "b"));
    let request = FailoverRequest { leader: Some(MemberName::from("a")), candidate: None, scheduled_at: None };
    done(&a, StoreRequest::PutFailover { value: Some(request.clone()), expect: None }).await;
    let seen = read(&b).await.failover.unwrap();
    assert_eq!(seen.value, request);
    done(&b, StoreRequest::PutFailover { value: None, expect: Some(seen.revision) }).await;
    conflict(&a, StoreRequest::PutFailover { value: None, expect: Some(seen.revision) }).await;
    assert_eq!(read(&a).await.failover, None);
    let mut client = cluster.client().await;
    let raw = client.get("/service/demo/failover", None).await.unwrap();
    assert_eq!(raw.kvs()[0].value(), b"{}");

    let line = HistoryEntry {
        timeline: Timeline(1),
        lsn: Lsn(5),
        reason: "no recovery target specified".to_owned(),
        timestamp: Some("2026-11-20T21:23:38.588275+00:00".to_owned()),
        new_leader: Some(MemberName::from("a")),
    };
    // The leader's documents: one who leads no more, or not yet, changes nothing.
    let status = || StoreRequest::PutStatus { optime: Lsn(7), slots: BTreeMap::new(), retain_slots: Vec::new() };
    conflict(&a, StoreRequest::PutHistory(vec![line.clone()])).await;
    conflict(&a, status()).await;
    lead(&a).await;
    done(&a, StoreRequest::PutHistory(vec![line.clone()])).await;
    done(&a, status()).await;
    done(&a, StoreRequest::Release { optime: Some(Lsn(8)), proof: proof() }).await;
    conflict(&a, status()).await;
    lead(&b).await;
    done(&b, StoreRequest::PutHistory(vec![line.clone(), line.clone()])).await;
    conflict(&a, StoreRequest::PutHistory(vec![line.clone()])).await;
    let view = read(&a).await;
    assert_eq!((view.status.optime, view.history.unwrap().value), (Some(Lsn(8)), vec![line.clone(), line]));
    done(&b, StoreRequest::Release { optime: None, proof: proof() }).await;
    // Foreign keys beside ours are not ours.
    client.put("/service/demo2/leader", "x", None).await.unwrap();
    client.put("/service/demo/config", "{broken", None).await.unwrap();
    let view = read(&a).await;
    assert_eq!((view.leader, view.config), (None, None));
}

#[tokio::test]
async fn leases_end() {
    let cluster = Cluster::start(1).await;
    let a = store(&cluster.urls(), "a");
    let lease = grant(&a, 30).await;
    for _ in 0..3 {
        let outcome = renew(&a, lease, LONG).await;
        assert!(
            matches!(outcome, StoreOutcome::Lease { lease: same, ttl } if same == lease && ttl == Millis::from_secs(30)),
            "{outcome:?}"
        );
    }
    done(&a, StoreRequest::PutMember { value: json!({}), lease }).await;
    done(&a, StoreRequest::Acquire { lease }).await;
    cluster.client().await.lease_revoke(lease.0).await.unwrap();
    assert!(matches!(renew(&a, lease, LONG).await, StoreOutcome::LeaseGone));
    assert!(matches!(renew(&a, lease, LONG).await, StoreOutcome::LeaseGone));
    assert!(matches!(a.call(StoreRequest::PutMember { value: json!({"a": 1}), lease }, LONG).await, StoreOutcome::LeaseGone));
    assert!(matches!(a.call(StoreRequest::Acquire { lease }, LONG).await, StoreOutcome::LeaseGone));
    assert!(matches!(renew(&a, LeaseId(12345), LONG).await, StoreOutcome::LeaseGone));
    let view = read(&a).await;
    assert_eq!((view.leader, view.members.len()), (None, 0));

    let short = grant(&a, 2).await;
    done(&a, StoreRequest::Acquire { lease: short }).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(read(&a).await.leader, None);
    assert!(matches!(renew(&a, short, LONG).await, StoreOutcome::LeaseGone));
}

#[tokio::test]
async fn futures_are_small() {
    let a = store(&["http://127.0.0.1:1"], "a");
    assert!(std::mem::size_of_val(&a.call(StoreRequest::Read, LONG)) < 1024);
    let (alarm, _) = tokio::sync::mpsc::channel(1);
    assert!(std::mem::size_of_val(&a.watch(alarm)) < 1024);
}
