//! What can be said of a cluster from its keys alone, as text. Pure: golden tests compare it with recordings.

use serde_json::{Map, Value};

use super::members::{host_and_port, service_lines};
use super::tables::{Format, Table};
use super::{members, yaml};
use crate::ha::types::MemberName;
use crate::ha::view::{ClusterView, Member};

/// The table of members and, for people, the lines below it. Ends with a line break.
#[must_use]
pub fn cluster(view: &ClusterView, scope: &str, extended: bool, format: Format) -> String {
    let mut text = members::table(view, scope, extended, format).render(format) + "\n";
    if format.is_table() {
        for line in service_lines(view) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

/// The timelines that ended. Ends with a line break.
#[must_use]
pub fn history(view: &ClusterView, format: Format) -> String {
    let lines = view.history.as_ref().map_or(&[][..], |history| &history.value);
    let rows = lines.iter().map(|line| {
        let leader = line.new_leader.as_ref().map_or("", MemberName::as_str);
        vec![
            line.timeline.0.into(),
            line.lsn.0.into(),
            line.reason.clone().into(),
            line.timestamp.clone().unwrap_or_default().into(),
            leader.into(),
        ]
    });
    let columns = ["TL", "LSN", "Reason", "Timestamp", "New Leader"];
    let table = Table { title: None, columns: columns.map(str::to_owned).to_vec(), right: &["TL", "LSN"], rows: rows.collect() };
    table.render(format) + "\n"
}

/// The dynamic configuration; nothing where there is none. Ends with an empty line, as the original's output does.
#[must_use]
pub fn config(view: &ClusterView) -> String {
    view.config.as_ref().map(|config| config_text(&config.value) + "\n").unwrap_or_default()
}

/// A configuration document for people. What is no mapping counts as empty.
#[must_use]
pub fn config_text(document: &Value) -> String {
    if document.is_object() {
        yaml::block(document)
    } else {
        yaml::block(&Value::Object(Map::new()))
    }
}

/// Host and port of a member.
#[must_use]
pub fn dsn(member: &Member) -> Option<String> {
    let (host, port) = host_and_port(member.conn_url.as_deref()?)?;
    Some(format!("host={host} port={port}\n"))
}

/// `140008` as `14.8`, `90624` as `9.6.24`.
#[must_use]
pub fn postgres_version(number: u64) -> String {
    if number < 100_000 {
        format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
    } else {
        format!("{}.{}", number / 10_000, number % 100)
    }
}
