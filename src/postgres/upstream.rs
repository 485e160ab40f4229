//! A look at another member's PostgreSQL: is it the primary, on which timeline, and where did the earlier ones end?
//!
//! It is done as the user of `pg_rewind`, who may execute little more than `pg_ls_dir` and `pg_read_binary_file`.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{Client, Row};

use super::conninfo::{self, Conninfo};
use super::worker::{self, describe, Access};
use super::{conf, files};
use crate::config::types::PostgresConfig;
use crate::ha::action::Upstream;
use crate::ha::types::{Lsn, SystemId, Timeline};
use crate::ha::view::UpstreamHistory;
use crate::tls::postgres as tls;

/// Role, identity and position.
const WHO: &str = "\
SELECT r.rec AS in_recovery, s.system_identifier AS system_id,
 CASE WHEN r.rec THEN NULL ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::pg_catalog.int8 END AS written_tli,
 GREATEST(c.timeline_id, y.min_recovery_end_timeline)::pg_catalog.int8 AS control_tli,
 (CASE WHEN r.rec THEN GREATEST(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()) ELSE pg_catalog.pg_current_wal_lsn() END)::pg_catalog.text AS lsn
FROM (SELECT pg_catalog.pg_is_in_recovery() AS rec) r, pg_catalog.pg_control_system() s,
 pg_catalog.pg_control_checkpoint() c, pg_catalog.pg_control_recovery() y";

/// Name of the oldest WAL file without its timeline, and the size of one.
const OLDEST: &str = "\
SELECT pg_catalog.min(pg_catalog.substr(f, 9)) AS name, pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')) AS size
FROM pg_catalog.pg_ls_dir('pg_wal', true, false) f WHERE f ~ '^[0-9A-F]{24}$'";

/// See [`super::Postgres::read_upstream`].
pub(crate) async fn read(config: &PostgresConfig, upstream: &Upstream, deadline: Duration) -> Result<UpstreamHistory, String> {
    match timeout(deadline, ask(config, upstream, deadline)).await {
        Ok(result) => result.map_err(|reason| format!("cannot read the timeline history of {}: {reason}", upstream.name)),
        Err(_) => Err(format!("{} gave no answer within {} ms", upstream.name, deadline.as_millis())),
    }
}

/// Connection settings for another member, as the given user's [`Conninfo`] says.
pub(crate) fn settings(conninfo: &Conninfo) -> Result<Access, conf::Error> {
    let mut settings = tokio_postgres::Config::new();
    if let Some(endpoint) = conninfo.endpoint() {
        settings.host(&endpoint.host).port(endpoint.port);
    }
    if let Some(user) = conninfo.get("user") {
        settings.user(user);
    }
    if let Some(password) = conninfo.get("password") {
        settings.password(password);
    }
    settings.dbname("postgres").application_name("Patroni rewind check").options("-c statement_timeout=5000");
    Ok(Access { settings, tls: tls::Options::new(|name| conninfo.get(name).map(str::to_owned)) })
}

async fn ask(config: &PostgresConfig, upstream: &Upstream, deadline: Duration) -> Result<UpstreamHistory, String> {
    let conninfo = conninfo::connect_as(conninfo::rewind_user(config), &upstream.conn_url).map_err(|error| error.to_string())?;
    let settings = settings(&conninfo).map_err(|error| error.to_string())?;
    let link = worker::connect(&settings, deadline).await.map_err(|refused| refused.reason())?;
    let row = link.client.query_one(WHO, &[]).await.map_err(|error| describe(&error))?;
    let mut history = identity(&row, upstream)?;
    if history.timeline.0 > 1 {
        history.history = ends(&link.client, history.timeline).await?;
    }
    // Not knowing what WAL is left only means that a missing piece is found out later.
    history.oldest_wal = oldest(&link.client).await;
    Ok(history)
}

fn identity(row: &Row, upstream: &Upstream) -> Result<UpstreamHistory, String> {
    let wrong = |error: tokio_postgres::Error| error.to_string();
    let in_recovery: bool = row.try_get("in_recovery").map_err(wrong)?;
    let system_id: i64 = row.try_get("system_id").map_err(wrong)?;
    let written: Option<i64> = row.try_get("written_tli").map_err(wrong)?;
    let control: Option<i64> = row.try_get("control_tli").map_err(wrong)?;
    let position: Option<String> = row.try_get("lsn").map_err(wrong)?;
    let timeline = written.or(control).and_then(|number| u32::try_from(number).ok()).ok_or("it names no timeline")?;
    Ok(UpstreamHistory {
        member: upstream.name.clone(),
        is_primary: !in_recovery,
        system_id: SystemId(u64::from_ne_bytes(system_id.to_ne_bytes())),
        timeline: Timeline(timeline),
        position: position.as_deref().and_then(Lsn::parse).unwrap_or_default(),
        history: Vec::new(),
        oldest_wal: None,
    })
}

async fn ends(client: &Client, timeline: Timeline) -> Result<Vec<(Timeline, Lsn)>, String> {
    let path = format!("pg_wal/{}", files::history_name(timeline));
    let row = client.query_one("SELECT pg_catalog.pg_read_binary_file($1)", &[&path]).await.map_err(|error| describe(&error))?;
    let content: &[u8] = row.try_get(0).map_err(|error| error.to_string())?;
    let entries = files::parse_history(&String::from_utf8_lossy(content));
    if entries.is_empty() {
        return Err(format!("{path} holds no entry"));
    }
    Ok(entries.into_iter().map(|entry| (entry.timeline, entry.lsn)).collect())
}

async fn oldest(client: &Client) -> Option<Lsn> {
    let row = client.query_one(OLDEST, &[]).await.ok()?;
    let name: String = row.try_get::<_, Option<String>>("name").ok()??;
    let size: i64 = row.try_get("size").ok()?;
    segment_start(&name, u64::try_from(size).ok()?)
}

/// Where a WAL file begins, from its name without the timeline.
fn segment_start(name: &str, segment_size: u64) -> Option<Lsn> {
    let (high, low) = name.split_at_checked(8)?;
    let high = u64::from(u32::from_str_radix(high, 16).ok()?);
    let low = u64::from(u32::from_str_radix(low, 16).ok()?);
    Some(Lsn((high << 32).checked_add(low.checked_mul(segment_size)?)?))
}

#[cfg(test)]
mod tests {
    use super::segment_start;
    use crate::ha::types::Lsn;

    #[test]
    fn start_of_a_segment() {
        assert_eq!(segment_start("0000000100000003", 16 << 20), Some(Lsn(0x1_0300_0000)));
        assert_eq!(segment_start("00000001", 16 << 20), None);
    }
}
