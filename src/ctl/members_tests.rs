use serde_json::{json, Value};

use super::{host_and_port, megabytes, table};
use crate::ctl::show;
use crate::ctl::tables::Format;
use crate::ha::types::{LeaseId, Lsn, MemberName, Revision};
use crate::ha::view::{ClusterView, LeaderEntry, Member, Versioned};

fn member(raw: Value) -> Member {
    Member { conn_url: raw.get("conn_url").and_then(Value::as_str).map(str::to_owned), raw, ..Member::default() }
}

fn view(leader: Option<&str>, members: &[(&str, Value)]) -> ClusterView {
    let mut view = ClusterView {
        leader: leader.map(|name| LeaderEntry { name: name.into(), lease: LeaseId(1), revision: Revision(1) }),
        members: members.iter().map(|(name, raw)| (MemberName::from(*name), member(raw.clone()))).collect(),
        ..ClusterView::default()
    };
    view.status.optime = Some(Lsn(0x400_0000));
    view
}

fn names(view: &ClusterView) -> Vec<String> {
    let table = table(view, "c", false, Format::Topology);
    table.rows.iter().map(|row| row[0].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn topology_draws_cascades() {
    let follows = |name: &str| json!({"tags": {"replicatefrom": name}});
    let cascade =
        view(Some("n1"), &[("n1", json!({})), ("n2", follows("n3")), ("n3", json!({})), ("n4", follows("n2")), ("n5", follows("n1"))]);
    assert_eq!(names(&cascade), ["n1", "+ n3", "  + n2", "    + n4", "+ n5"]);
    let unled = view(None, &[("n1", json!({})), ("n2", follows("n1"))]);
    assert_eq!(names(&unled), ["+ n1", "  + n2"]);
    let circle = view(Some("n1"), &[("n1", json!({})), ("n2", follows("n3")), ("n3", follows("n2")), ("n4", follows("n4"))]);
    assert_eq!(names(&circle), ["n1", "+ n4", "+ n3", "  + n2"]);
}

#[test]
fn ports_are_shown_where_they_matter() {
    let at = |url: &str| json!({"conn_url": url, "state": "running"});
    let hosts = |members: &[(&str, Value)]| {
        let table = table(&view(None, members), "c", false, Format::Json);
        table.rows.iter().map(|row| row[2].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(hosts(&[("a", at("postgres://h1:5432/postgres")), ("b", at("postgres://h2/postgres"))]), ["h1", "h2"]);
    assert_eq!(hosts(&[("a", at("postgres://h1:5432/postgres")), ("b", at("postgres://h2:5433/postgres"))]), ["h1:5432", "h2:5433"]);
    assert_eq!(hosts(&[("a", at("postgres://h1:5432/x")), ("b", at("postgres://h1:5432/x"))]), ["h1:5432", "h1:5432"]);
    assert_eq!(hosts(&[("a", json!({})), ("b", at("postgres://h1/x"))]), ["", "h1"]);
    assert_eq!(host_and_port("postgres://u:p@[2001:DB8::1]:6000/postgres"), Some(("2001:db8::1".to_owned(), 6000)));
}

#[test]
fn lag_is_rounded_megabytes() {
    const MB: u64 = 1 << 20;
    assert_eq!([0, MB / 2, MB / 2 + 1, MB, MB + MB / 2, 100 * MB].map(megabytes), [0, 0, 1, 1, 2, 100]);
    let lagging = view(Some("n1"), &[("n1", json!({})), ("n2", json!({"replication_state": "streaming", "xlog_location": 0x100_0000}))]);
    let text = show::cluster(&lagging, "c", false, Format::Tsv);
    assert!(text.ends_with("c\tn2\t\tReplica\tstreaming\t\t0/1000000\t48\tunknown\t\n"), "{text}");
}

#[test]
fn odd_documents_are_shown_too() {
    let mut odd =
        view(Some("n1"), &[("n1", json!("x")), ("n2", json!({"timeline": null, "tags": [], "pending_restart_reason": 5, "state": 7}))]);
    odd.config = Some(Versioned { revision: Revision(1), value: json!("text") });
    for format in [Format::Pretty, Format::Topology, Format::Tsv, Format::Json, Format::Yaml] {
        assert!(show::cluster(&odd, "c", true, format).contains("n2"));
    }
    assert_eq!(show::config(&odd), "{}\n\n");
    let long = json!({"conn_url": "postgres://h/x", "pending_restart": true, "pending_restart_reason":
        {"archive_command": {"old_value": "x".repeat(60), "new_value": ""}, "a": {"old_value": "1", "new_value": "2"}},
        "scheduled_restart": {"schedule": "2026-11-21T00:00:00+00:00", "postgres_version": "16.1"}});
    let pretty = show::cluster(&view(None, &[("n1", long)]), "c", false, Format::Pretty);
    assert!(pretty.contains("| archive_command: [hidden - too long] | 2026-11-21T00:00:00+00:00 if version < 16.1 |"), "{pretty}");
    assert!(pretty.contains("| a: 1->2                              |"), "{pretty}");
}

#[test]
fn watchdog_and_vip_have_columns_where_they_say_something() {
    let plain = json!({"conn_url": "postgres://h1/x", "state": "running"});
    let mut armed = plain.clone();
    (armed["watchdog"], armed["vip"]) = (json!("armed"), json!(["primary", "standby"]));
    let shown = |members: &[(&str, Value)], format| show::cluster(&view(Some("n1"), members), "c", false, format);
    let both = [("n1", armed), ("n2", plain.clone())];
    let text = shown(&both, Format::Tsv);
    let cells: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').rev().take(2).collect()).collect();
    assert_eq!(cells, [["VIP", "Watchdog"], ["primary, standby", "armed"], ["", ""]], "{text}");
    assert!(shown(&both, Format::Json).contains(r#""Watchdog": "armed", "VIP": "primary, standby"}"#));
    for nothing in [plain.clone(), json!({"watchdog": "", "vip": []}), json!({"watchdog": 5, "vip": {"a": 1}}), json!({"vip": [7, null]})] {
        let text = shown(&[("n1", nothing)], Format::Tsv);
        assert!(!text.contains("Watchdog") && !text.contains("VIP"), "{text}");
        let extended = show::cluster(&view(None, &[("n1", plain.clone())]), "c", true, Format::Tsv);
        assert!(extended.contains("Tags") && !extended.contains("VIP"), "{extended}");
    }
}
