//! Users, passwords and certificates.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use etcd_client::{Permission, PermissionType};
use mastiff::config::types::{EtcdConfig, Secret};
use mastiff::dcs::EtcdStore;
use mastiff::ha::action::StoreRequest;
use mastiff::ha::input::{DcsFailure, StoreOutcome};
use mastiff::ha::types::MemberName;
use serde_json::json;

use crate::support::{config, done, eventually, grant, read, renew, store, store_with, Cluster, LONG};

fn with_user(cluster: &Cluster, user: &str, password: &str) -> EtcdConfig {
    EtcdConfig { user: Some((user.to_owned(), Secret(password.to_owned()))), ..config(&cluster.urls()) }
}

async fn denied(store: &EtcdStore) -> String {
    match store.call(StoreRequest::Read, LONG).await {
        StoreOutcome::Failed(DcsFailure::Denied(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn users_and_passwords() {
    // Tokens that expire after 2 s, to see that they are renewed.
    let mut cluster = Cluster::with(1, "http", &["--auth-token-ttl=2".to_owned()]).await;
    let early = store_with(&with_user(&cluster, "patroni", "geheim"), "a");
    // Authentication is not switched on yet.
    read(&early).await;

    let mut root = cluster.client().await;
    root.user_add("root", "r00t", None).await.unwrap();
    root.user_grant_role("root", "root").await.unwrap_or_else(|error| panic!("{error}"));
    root.role_add("service").await.unwrap();
    let all = Permission::new(PermissionType::Readwrite, "/service/demo/").with_prefix();
    root.role_grant_permission("service", all).await.unwrap();
    root.user_add("patroni", "geheim", None).await.unwrap();
    root.user_grant_role("patroni", "service").await.unwrap();
    root.auth_enable().await.unwrap();

    let lease = grant(&early, 30).await;
    done(&early, StoreRequest::PutMember { value: json!({}), lease }).await;
    assert_eq!(read(&early).await.members.len(), 1);

    let wrong = denied(&store_with(&with_user(&cluster, "patroni", "falsch"), "a")).await;
    assert!(wrong.contains("authentication failed") && !wrong.contains("falsch"), "{wrong}");
    let anonymous = denied(&store(&cluster.urls(), "a")).await;
    assert!(anonymous.contains("user name is empty"), "{anonymous}");
    let elsewhere = EtcdStore::new(&with_user(&cluster, "patroni", "geheim"), "/service", "other", &MemberName::from("a")).unwrap();
    assert!(denied(&elsewhere).await.contains("permission denied"));

    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(matches!(renew(&early, lease, LONG).await, StoreOutcome::Lease { .. }));
    done(&early, StoreRequest::PutMember { value: json!({"a": 1}), lease }).await;
    // The server forgets all tokens.
    cluster.members[0].kill();
    cluster.members[0].start();
    eventually(|| async { matches!(early.call(StoreRequest::Read, Duration::from_secs(1)).await, StoreOutcome::View(_)) }).await;
    assert!(matches!(renew(&early, lease, LONG).await, StoreOutcome::Lease { .. }));
}

fn openssl(dir: &Path, arguments: &str) {
    let status = Command::new("openssl").current_dir(dir).args(arguments.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.unwrap().success(), "openssl {arguments}");
}

/// A CA `NAME-ca.crt`, and a certificate `NAME.crt` of it for 127.0.0.1.
fn authority(dir: &Path, name: &str) {
    std::fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n").unwrap();
    let curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(dir, &format!("req -x509 {curve} -keyout {name}-ca.key -out {name}-ca.crt -subj /CN={name}-ca -days 2"));
    openssl(dir, &format!("req {curve} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
    let signing = format!("-CA {name}-ca.crt -CAkey {name}-ca.key -CAcreateserial");
    openssl(dir, &format!("x509 -req -in {name}.csr {signing} -out {name}.crt -days 2 -extfile san"));
}

#[tokio::test]
async fn certificates() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    authority(dir.path(), "ours");
    authority(dir.path(), "theirs");
    let path = |name: &str| dir.path().join(name);
    let files = [("cert-file", "ours.crt"), ("key-file", "ours.key"), ("trusted-ca-file", "ours-ca.crt")];
    let mut more: Vec<String> = files.iter().map(|(key, name)| format!("--{key}={}", path(name).display())).collect();
    more.push("--client-cert-auth".to_owned());
    let cluster = Cluster::with(1, "https", &more).await;
    let tls = |ca: &str, cert: Option<&str>| EtcdConfig {
        cacert: Some(path(ca)),
        cert: cert.map(|name| path(&format!("{name}.crt"))),
        key: cert.map(|name| path(&format!("{name}.key"))),
        ..config(&cluster.urls())
    };
    let a = store_with(&tls("ours-ca.crt", Some("ours")), "a");
    eventually(|| async { matches!(a.call(StoreRequest::Read, Duration::from_secs(1)).await, StoreOutcome::View(_)) }).await;
    done(&a, StoreRequest::ClaimInitialize { lease: mastiff::ha::types::LeaseId(0) }).await;

    for (config, word) in [
        (tls("theirs-ca.crt", Some("ours")), "etcd3.cacert is not the CA of this server"),
        (tls("ours-ca.crt", None), "ertificate"),
        (tls("ours-ca.crt", Some("theirs")), "ertificate"),
        (EtcdConfig { cacert: None, ..tls("ours-ca.crt", Some("ours")) }, "CA"),
    ] {
        let Ok(store) = EtcdStore::new(&config, "/service", "demo", &MemberName::from("a")) else { continue };
        match store.call(StoreRequest::Read, LONG).await {
            StoreOutcome::Failed(DcsFailure::Unavailable(text)) => assert!(text.contains(word) && text.contains("https://"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    let missing = EtcdStore::new(&tls("nowhere.crt", None), "/service", "demo", &MemberName::from("a")).err().unwrap().to_string();
    assert!(missing.contains("etcd3.cacert") && missing.contains("nowhere.crt"), "{missing}");
    let empty = EtcdStore::new(&tls("san", None), "/service", "demo", &MemberName::from("a")).err().unwrap().to_string();
    assert!(empty.contains("holds no PEM certificate"), "{empty}");
}
