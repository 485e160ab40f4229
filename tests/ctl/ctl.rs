//! The operator's commands against recordings of the original: from the keys of a cluster (`keys/`) to its output (`output/`).

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod live;

use std::fs;
use std::path::Path;

use mastiff::ctl::args::{self, Outcome, Parsed};
use mastiff::ctl::tables::Format;
use mastiff::ctl::{help, select, show};
use mastiff::dcs::documents::{self, Entry};
use mastiff::dcs::keys::Keys;
use mastiff::ha::types::{Instant, LeaseId, MemberName, Revision};
use mastiff::ha::view::ClusterView;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ctl").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `### name`, lines, an empty line.
fn sections(text: &str) -> Vec<(String, String)> {
    let parts = text.split("### ").skip(1);
    parts
        .map(|part| part.split_once('\n').unwrap())
        .map(|(name, body)| (name.to_owned(), body.strip_suffix('\n').unwrap().to_owned()))
        .collect()
}

fn view(name: &str) -> ClusterView {
    let sections = sections(&read(&format!("keys/{name}.txt")));
    let entries = sections.iter().map(|(key, body)| {
        let value = body.lines().find(|line| !line.starts_with('#')).unwrap_or("");
        Entry { key: key.as_str().into(), value: value.to_owned().into(), lease: LeaseId(0), revision: Revision(1) }
    });
    documents::parse(&Keys::new("/service", "bench"), entries, Revision(1), Instant(0)).view
}

fn parse(line: &str) -> Option<Parsed> {
    let words: Vec<String> = line.split_whitespace().skip(1).map(str::to_owned).collect();
    match args::parse(&words) {
        Outcome::Run(parsed) => Some(*parsed),
        Outcome::Help(None) => None,
        other => panic!("{line}: {other:?}"),
    }
}

/// What the command prints for these keys.
fn output(view: &ClusterView, parsed: &Parsed) -> String {
    let format = Format::of(parsed.values.get("format"));
    match parsed.command.name {
        "list" => show::cluster(view, "bench", parsed.values.has("extended"), format),
        "topology" => show::cluster(view, "bench", false, Format::Topology),
        "history" => show::history(view, format),
        "show-config" => show::config(view),
        "dsn" => {
            let name = parsed.values.get("member").map(MemberName::from);
            let role = if name.is_some() { "any" } else { parsed.values.get("role").unwrap_or("leader") };
            let found = select::in_role(view, role).into_iter().find(|(member, _)| name.as_ref().is_none_or(|name| name == *member));
            show::dsn(found.unwrap().1).unwrap()
        }
        other => panic!("no golden way for {other}"),
    }
}

/// Lines that a recording has and that cannot come from the keys.
fn expected(name: &str, line: &str, body: &str) -> String {
    match name {
        // The clock of the recording.
        "async" if line.contains(" -t") => body.split_once('\n').unwrap().1.to_owned(),
        // Times are kept in milliseconds.
        "scheduled-switchover" => body.replace("28.998562", "28.998000"),
        _ => body.to_owned(),
    }
}

fn check(name: &str) {
    let mut view = view(name);
    if name == "sync" {
        // The keys were recorded a moment before the table: the positions had moved.
        view.status.optime = Some(mastiff::ha::types::Lsn(0x600_08A8));
        for member in view.members.values_mut().filter(|member| member.role == "replica") {
            for key in ["receive_lsn", "replay_lsn"] {
                member.raw[key] = 0x600_08A8.into();
            }
        }
    }
    let mut compared = 0;
    for (title, body) in sections(&read(&format!("output/{name}.txt"))) {
        let line = title.split("   [").next().unwrap();
        if ["version", "query", "no-such-cluster"].iter().any(|word| line.contains(word)) {
            continue;
        }
        let got = match parse(line) {
            Some(parsed) => output(&view, &parsed),
            None => help::overview("patronictl", false),
        };
        let wanted = expected(name, line, &body);
        assert!(got == wanted, "{name}: {line}\n--- expected\n{wanted}\n--- got\n{got}");
        compared += 1;
    }
    assert!(compared > 0, "{name}");
}

#[test]
fn golden_asynchronous_cluster() {
    check("async");
}

#[test]
fn golden_after_failovers() {
    check("after-failover");
}

#[test]
fn golden_leader_agent_stopped() {
    check("leader-agent-stopped");
}

#[test]
fn golden_pause() {
    check("pause");
}

#[test]
fn golden_pending_restart() {
    check("pending-restart");
}

#[test]
fn golden_quorum() {
    check("quorum");
}

#[test]
fn golden_scheduled_switchover() {
    check("scheduled-switchover");
}

#[test]
fn golden_sync() {
    check("sync");
}

#[test]
fn golden_unknown_cluster() {
    let recorded = sections(&read("output/async.txt")).into_iter().find(|(title, _)| title.contains("no-such-cluster")).unwrap().1;
    assert_eq!(show::cluster(&ClusterView::default(), "no-such-cluster", false, Format::Pretty), recorded);
}
