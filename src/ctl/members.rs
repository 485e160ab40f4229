//! The table of members: who they are, what they do, how far behind they are.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::dynamic::Dynamic;
use super::tables::{Format, Table};
use super::yaml;
use crate::ha::types::{Lsn, MemberName};
use crate::ha::view::{ClusterView, Initialize, Member};

const LAG: &str = "Lag";
const RIGHT: &[&str] = &["Receive LSN", "Replay LSN", "Lag", "TL"];

/// What the table says of one member.
#[derive(Clone, Debug, Default)]
struct Row {
    name: String,
    /// Patroni's word with underscores.
    role: &'static str,
    state: String,
    host: Option<String>,
    port: Option<u16>,
    timeline: Value,
    receive: Position,
    replay: Position,
    pending_restart: bool,
    reasons: Vec<(String, String)>,
    scheduled_restart: Option<String>,
    tags: Option<Value>,
    /// Not in Patroni: the watchdog's state, and the roles whose virtual addresses it holds.
    watchdog: String,
    vip: String,
}

impl Row {
    fn is_leader(&self) -> bool {
        self.role.ends_with("leader")
    }

    fn follows(&self) -> Option<&str> {
        self.tags.as_ref()?.get("replicatefrom")?.as_str().filter(|name| !name.is_empty())
    }
}

/// A WAL position with the bytes by which it is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Position {
    /// The leader has none.
    #[default]
    Leader,
    Unknown,
    At(Lsn, u64),
}

impl Position {
    fn cells(self) -> [Value; 2] {
        match self {
            Position::Leader => ["".into(), "".into()],
            Position::Unknown => ["unknown".into(), "".into()],
            Position::At(lsn, lag_bytes) => [lsn.to_string().into(), megabytes(lag_bytes).into()],
        }
    }
}

/// Megabytes, a half rounded to the even neighbour.
fn megabytes(bytes: u64) -> u64 {
    const MB: u64 = 1 << 20;
    let (whole, rest) = (bytes / MB, bytes % MB);
    let up = rest > MB / 2 || (rest == MB / 2 && whole % 2 == 1);
    whole + u64::from(up)
}

/// The table of a cluster with its title.
#[must_use]
pub fn table(view: &ClusterView, scope: &str, extended: bool, format: Format) -> Table {
    let mut rows = rows(view);
    let mut columns: Vec<&str> =
        vec!["Cluster", "Member", "Host", "Role", "State", "TL", "Receive LSN", "Receive Lag", "Replay LSN", "Replay Lag"];
    let reachable: Vec<&Row> = rows.iter().filter(|row| row.host.is_some()).collect();
    let wanted = [
        ("Pending restart", reachable.iter().any(|row| row.pending_restart)),
        ("Pending restart reason", reachable.iter().any(|row| !row.reasons.is_empty())),
        ("Scheduled restart", reachable.iter().any(|row| row.scheduled_restart.is_some())),
        ("Tags", reachable.iter().any(|row| row.tags.as_ref().and_then(Value::as_object).is_some_and(|tags| !tags.is_empty()))),
    ];
    columns.extend(wanted.iter().filter(|(_, used)| extended || *used).map(|(name, _)| name));
    // Columns that Patroni does not have show only where they say something, so that its own clusters look as they always did.
    let own = [("Watchdog", rows.iter().any(|row| !row.watchdog.is_empty())), ("VIP", rows.iter().any(|row| !row.vip.is_empty()))];
    columns.extend(own.iter().filter(|(_, used)| *used).map(|(name, _)| name));
    let hosts: BTreeSet<_> = reachable.iter().filter_map(|row| row.host.as_deref()).collect();
    let with_port = hosts.len() < reachable.len() || reachable.iter().any(|row| row.port.is_some_and(|port| port != 5432));
    if format == Format::Topology {
        rows = tree(rows);
    }
    let mut cells: Vec<Vec<Value>> =
        rows.iter().map(|row| columns.iter().map(|column| cell(row, column, scope, with_port, format)).collect()).collect();
    if format.is_table() {
        columns.remove(0);
        for row in &mut cells {
            row.remove(0);
        }
        for column in columns.iter_mut().filter(|column| column.ends_with(LAG)) {
            *column = LAG;
        }
    }
    let initialize = match view.initialize {
        None => "uninitialized".to_owned(),
        Some(Initialize::InProgress) => "initializing".to_owned(),
        Some(Initialize::Done(id)) => id.to_string(),
    };
    Table {
        title: Some(format!(" Cluster: {scope} ({initialize}) ")),
        columns: columns.into_iter().map(str::to_owned).collect(),
        right: RIGHT,
        rows: cells,
    }
}

fn cell(row: &Row, column: &str, scope: &str, with_port: bool, format: Format) -> Value {
    match column {
        "Cluster" => scope.into(),
        "Member" => row.name.clone().into(),
        "Host" => match (&row.host, row.port) {
            (Some(host), Some(port)) if with_port => format!("{host}:{port}").into(),
            (host, _) => host.clone().unwrap_or_default().into(),
        },
        "Role" => title_case(row.role).into(),
        "State" => row.state.clone().into(),
        "TL" => row.timeline.clone(),
        "Receive LSN" => row.receive.cells()[0].clone(),
        "Receive Lag" => row.receive.cells()[1].clone(),
        "Replay LSN" => row.replay.cells()[0].clone(),
        "Replay Lag" => row.replay.cells()[1].clone(),
        "Pending restart" => if row.pending_restart { "*" } else { "" }.into(),
        "Pending restart reason" => reasons(row, format).into(),
        "Watchdog" => row.watchdog.clone().into(),
        "VIP" => row.vip.clone().into(),
        "Scheduled restart" => row.scheduled_restart.clone().unwrap_or_default().into(),
        _ => tags(row.tags.as_ref(), format),
    }
}

fn title_case(role: &str) -> String {
    let word = |word: &str| {
        let mut chars = word.chars();
        chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
    };
    role.split('_').map(word).collect::<Vec<_>>().join(" ")
}

fn reasons(row: &Row, format: Format) -> String {
    let line = |(parameter, change): &(String, String)| {
        let full = format!("{parameter}: {change}");
        if format.is_table() && full.chars().count() > 50 {
            format!("{parameter}: [hidden - too long]")
        } else {
            full
        }
    };
    row.reasons.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn tags(tags: Option<&Value>, format: Format) -> Value {
    let Some(tags) = tags else { return "".into() };
    if tags.as_object().is_some_and(Map::is_empty) {
        return if matches!(format, Format::Json | Format::Yaml) { tags.clone() } else { "{}".into() };
    }
    match format {
        Format::Json | Format::Yaml => tags.clone(),
        Format::Pretty => yaml::block(tags).trim().into(),
        Format::Tsv | Format::Topology => yaml::flow(tags).trim().into(),
    }
}

fn rows(view: &ClusterView) -> Vec<Row> {
    let dynamic = Dynamic::of(view);
    view.members.iter().map(|(name, member)| row(view, &dynamic, name, member)).collect()
}

fn row(view: &ClusterView, dynamic: &Dynamic<'_>, name: &MemberName, member: &Member) -> Row {
    let raw = &member.raw;
    let leads = view.leader_name() == Some(name);
    let role = role(view, dynamic, name);
    let text = |key: &str| raw.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let replication = if role == "leader" { None } else { text("replication_state") };
    let address = member.conn_url.as_deref().and_then(host_and_port);
    let mut row = Row {
        name: name.to_string(),
        role,
        state: replication.or(text("state")).unwrap_or_default().to_owned(),
        host: address.as_ref().map(|(host, _)| host.clone()),
        port: address.map(|(_, port)| port),
        timeline: raw.get("timeline").filter(|value| !value.is_null()).cloned().unwrap_or_else(|| "".into()),
        pending_restart: raw.get("pending_restart").is_some_and(super::dynamic::is_truthy),
        reasons: restart_reasons(raw),
        scheduled_restart: raw.get("scheduled_restart").and_then(restart_plan),
        tags: raw.get("tags").filter(|tags| tags.is_object()).cloned(),
        watchdog: text("watchdog").unwrap_or_default().to_owned(),
        vip: held_vips(raw),
        ..Row::default()
    };
    if !leads {
        let optime = view.status.optime.unwrap_or_default();
        let read = |key: &str| position(raw.get(key), optime);
        (row.receive, row.replay) = (read("receive_lsn"), read("replay_lsn"));
        let newest = read("xlog_location");
        if (row.receive, row.replay) == (Position::Unknown, Position::Unknown) && newest != Position::Unknown {
            // A member of an older version publishes one position only.
            let target = if row.state == "streaming" { &mut row.receive } else { &mut row.replay };
            *target = newest;
        }
    }
    row
}

fn role(view: &ClusterView, dynamic: &Dynamic<'_>, name: &MemberName) -> &'static str {
    if view.leader_name() == Some(name) {
        return if dynamic.is_standby_cluster() { "standby_leader" } else { "leader" };
    }
    if dynamic.is_synchronous() && is_synchronous_standby(view, name) {
        return if dynamic.is_quorum() { "quorum_standby" } else { "sync_standby" };
    }
    "replica"
}

/// Whether `/sync` names it as a standby; letter case does not count.
#[must_use]
pub fn is_synchronous_standby(view: &ClusterView, name: &MemberName) -> bool {
    let named = |sync: &crate::ha::view::SyncState| {
        sync.leader.is_some() && sync.standbys.iter().any(|standby| standby.as_str().eq_ignore_ascii_case(name.as_str()))
    };
    view.sync.as_ref().is_some_and(|sync| named(&sync.value))
}

fn position(value: Option<&Value>, optime: Lsn) -> Position {
    let number = value.and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()));
    match number {
        None | Some(0) => Position::Unknown,
        Some(bytes) => Position::At(Lsn(bytes), Lsn(bytes).lag_bytes(optime)),
    }
}

/// Host and port of `postgres://host:port/…`.
#[must_use]
pub fn host_and_port(url: &str) -> Option<(String, u16)> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next()?;
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
    };
    let port = port.and_then(|port| port.parse().ok()).unwrap_or(5432);
    (!host.is_empty()).then(|| (host.to_lowercase(), port))
}

/// The roles of `vip`, separated by commas.
fn held_vips(raw: &Value) -> String {
    let roles = raw.get("vip").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    roles.collect::<Vec<_>>().join(", ")
}

fn restart_reasons(raw: &Value) -> Vec<(String, String)> {
    let Some(reasons) = raw.get("pending_restart_reason").and_then(Value::as_object) else { return Vec::new() };
    let text = |change: &Value, key: &str| match change.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(other) if !other.is_null() => other.to_string(),
        _ => String::new(),
    };
    reasons.iter().map(|(name, change)| (name.clone(), format!("{}->{}", text(change, "old_value"), text(change, "new_value")))).collect()
}

fn restart_plan(plan: &Value) -> Option<String> {
    let mut text = plan.get("schedule")?.as_str()?.to_owned();
    if let Some(version) = plan.get("postgres_version") {
        let version = version.as_str().map_or_else(|| version.to_string(), str::to_owned);
        text.push_str(&format!(" if version < {version}"));
    }
    Some(text)
}

/// Sorts by who follows whom and draws it into the names. Members in a circle are shown below the leader rather than left out.
fn tree(rows: Vec<Row>) -> Vec<Row> {
    let leader = rows.iter().position(Row::is_leader);
    let standbys: BTreeSet<String> = rows.iter().filter(|row| !row.is_leader()).map(|row| row.name.clone()).collect();
    let mut children: BTreeMap<Option<String>, Vec<usize>> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate().filter(|(_, row)| !row.is_leader()) {
        let parent = row.follows().filter(|parent| *parent != row.name && standbys.contains(*parent)).map(str::to_owned);
        children.entry(parent).or_default().push(at);
    }
    let mut order: Vec<(usize, usize)> = leader.map(|at| (0, at)).into_iter().collect();
    branch(None, 1, &rows, &mut children, &mut order);
    while let Some(parent) = children.keys().next().cloned().flatten() {
        let first = children.get_mut(&Some(parent.clone())).filter(|all| !all.is_empty()).map(|all| all.remove(0));
        match first {
            None => drop(children.remove(&Some(parent))),
            Some(at) => {
                order.push((1, at));
                branch(Some(rows[at].name.clone()), 2, &rows, &mut children, &mut order);
            }
        }
    }
    let drawn = |level: usize, row: &Row| {
        let name = if level == 0 { row.name.clone() } else { format!("{}+ {}", "  ".repeat(level - 1), row.name) };
        Row { name, ..row.clone() }
    };
    order.into_iter().map(|(level, at)| drawn(level, &rows[at])).collect()
}

fn branch(
    parent: Option<String>,
    level: usize,
    rows: &[Row],
    children: &mut BTreeMap<Option<String>, Vec<usize>>,
    order: &mut Vec<(usize, usize)>,
) {
    for at in children.remove(&parent).unwrap_or_default() {
        order.push((level, at));
        branch(Some(rows[at].name.clone()), level + 1, rows, children, order);
    }
}

/// The lines below the table: maintenance mode, a scheduled switchover.
#[must_use]
pub fn service_lines(view: &ClusterView) -> Vec<String> {
    let mut lines = Vec::new();
    if Dynamic::of(view).is_paused() {
        lines.push(" Maintenance mode: on".to_owned());
    }
    let request = view.failover.as_ref().map(|failover| &failover.value);
    if let Some((request, at)) = request.and_then(|request| Some((request, request.scheduled_at?))) {
        lines.push(format!(" Switchover scheduled at: {}", super::when::iso(at)));
        for (word, name) in [("from", &request.leader), ("to", &request.candidate)] {
            if let Some(name) = name {
                lines.push(format!("{word:>24}: {name}"));
            }
        }
    }
    lines
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
