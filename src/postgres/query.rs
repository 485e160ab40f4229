//! The SQL of an observation and its answer. One statement gathers everything, so that the facts belong together and an idle
//! agent costs PostgreSQL one round trip.
//!
//! The catalog is the same from PostgreSQL 13 to 18 as far as it is read here; what differs is marked by version.

use std::collections::BTreeMap;

use serde::Deserialize;
use tokio_postgres::Row;

use crate::ha::types::{Lsn, Timeline};
use crate::ha::view::{ReplicationRow, Role, SlotRow};

/// The observation. Every name is qualified: a `search_path` cannot lead it astray.
pub(crate) const OBSERVE: &str = "\
SELECT r.rec AS in_recovery,
 pg_catalog.current_setting('server_version_num')::pg_catalog.int4 AS version,
 pg_catalog.to_char(pg_catalog.pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00:00' AS started_at,
 CASE WHEN r.rec THEN NULL ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::pg_catalog.int8 END AS timeline,
 CASE WHEN r.rec THEN NULL ELSE pg_catalog.pg_current_wal_lsn()::pg_catalog.text END AS written,
 pg_catalog.pg_last_wal_receive_lsn()::pg_catalog.text AS received,
 pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text AS replayed,
 CASE WHEN r.rec THEN pg_catalog.pg_is_wal_replay_paused() ELSE false END AS paused,
 pg_catalog.to_char(pg_catalog.pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00:00' AS replayed_at,
 w.status AS receiver_status,
 w.received_tli::pg_catalog.int8 AS received_tli,
 pg_catalog.current_setting('primary_conninfo') AS primary_conninfo,
 pg_catalog.current_setting('synchronous_standby_names') AS sync_names,
 pg_catalog.extract('epoch', pg_catalog.pg_conf_load_time())::pg_catalog.text AS loaded_at,
 (SELECT pg_catalog.json_agg(s)::pg_catalog.text FROM (SELECT usename, application_name, pg_catalog.host(client_addr) AS client_addr, state, sync_state, sync_priority, flush_lsn::pg_catalog.text AS flush, replay_lsn::pg_catalog.text AS replay FROM pg_catalog.pg_stat_replication) s) AS replication,
 (SELECT pg_catalog.json_agg(s)::pg_catalog.text FROM (SELECT slot_name AS name, slot_type = 'physical' AS physical, active, restart_lsn::pg_catalog.text AS restart, confirmed_flush_lsn::pg_catalog.text AS confirmed FROM pg_catalog.pg_replication_slots WHERE NOT temporary) s) AS slots
FROM (SELECT pg_catalog.pg_is_in_recovery() AS rec) r LEFT JOIN pg_catalog.pg_stat_get_wal_receiver() w ON true";

/// `extract` is a function of its own from PostgreSQL 14 on; before that it is `date_part`.
pub(crate) fn observe_sql(major: u32) -> String {
    if major >= 14 {
        OBSERVE.to_owned()
    } else {
        OBSERVE.replace("pg_catalog.extract(", "pg_catalog.date_part(")
    }
}

/// Settings that only a restart changes, as they are in effect; and others that wait for one.
pub(crate) const RESTART_SETTINGS: &str = "\
SELECT name, setting, unit, vartype, pending_restart, pg_catalog.current_setting(name, true) AS shown,
 (SELECT f.setting FROM pg_catalog.pg_file_settings f WHERE f.name = s.name AND f.setting IS NOT NULL ORDER BY f.seqno DESC LIMIT 1) AS wanted
FROM pg_catalog.pg_settings s WHERE context = 'postmaster' AND (pending_restart OR name = ANY($1))";

/// The answer to [`OBSERVE`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) role: Role,
    pub(crate) version: u32,
    pub(crate) started_at: String,
    /// Of a primary.
    pub(crate) timeline: Option<Timeline>,
    pub(crate) written: Option<Lsn>,
    pub(crate) received: Option<Lsn>,
    pub(crate) replayed: Option<Lsn>,
    pub(crate) paused: bool,
    pub(crate) replayed_at: Option<String>,
    pub(crate) streaming: bool,
    pub(crate) received_tli: Option<Timeline>,
    pub(crate) primary_conninfo: String,
    pub(crate) sync_names: String,
    /// When the configuration was last loaded; changes with each reload.
    pub(crate) loaded_at: String,
    pub(crate) replication: Vec<ReplicationRow>,
    pub(crate) slots: BTreeMap<String, SlotRow>,
}

impl Answer {
    /// Reads the row of [`OBSERVE`].
    pub(crate) fn read(row: &Row) -> Result<Answer, String> {
        let wrong = |error: tokio_postgres::Error| error.to_string();
        let text = |name: &str| row.try_get::<_, Option<String>>(name).map_err(wrong);
        let lsn = |name: &str| text(name).map(|value| value.as_deref().and_then(Lsn::parse));
        let timeline = |name: &str| {
            row.try_get::<_, Option<i64>>(name)
                .map_err(wrong)
                .map(|value| value.and_then(|number| u32::try_from(number).ok()).map(Timeline))
        };
        let in_recovery: bool = row.try_get("in_recovery").map_err(wrong)?;
        let version: i32 = row.try_get("version").map_err(wrong)?;
        Ok(Answer {
            role: if in_recovery { Role::Standby } else { Role::Primary },
            version: u32::try_from(version).unwrap_or(0),
            started_at: text("started_at")?.unwrap_or_default(),
            timeline: timeline("timeline")?,
            written: lsn("written")?,
            // A former standby still knows where it stood; that is no longer of interest.
            received: lsn("received")?.filter(|_| in_recovery),
            replayed: lsn("replayed")?.filter(|_| in_recovery),
            paused: row.try_get("paused").map_err(wrong)?,
            replayed_at: text("replayed_at")?.filter(|_| in_recovery),
            streaming: text("receiver_status")?.as_deref() == Some("streaming"),
            received_tli: timeline("received_tli")?.filter(|timeline| timeline.0 > 0),
            primary_conninfo: text("primary_conninfo")?.unwrap_or_default(),
            sync_names: text("sync_names")?.unwrap_or_default(),
            loaded_at: text("loaded_at")?.unwrap_or_default(),
            replication: replication(text("replication")?.as_deref())?,
            slots: slots(text("slots")?.as_deref())?,
        })
    }
}

#[derive(Deserialize)]
struct RawSender {
    usename: Option<String>,
    application_name: Option<String>,
    client_addr: Option<String>,
    state: Option<String>,
    sync_state: Option<String>,
    sync_priority: Option<i32>,
    flush: Option<String>,
    replay: Option<String>,
}

fn replication(json: Option<&str>) -> Result<Vec<ReplicationRow>, String> {
    let Some(json) = json else { return Ok(Vec::new()) };
    let rows: Vec<RawSender> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let parse = |text: Option<String>| text.as_deref().and_then(Lsn::parse);
    Ok(rows
        .into_iter()
        .map(|raw| ReplicationRow {
            usename: raw.usename.unwrap_or_default(),
            application_name: raw.application_name.unwrap_or_default(),
            client_addr: raw.client_addr,
            state: raw.state.unwrap_or_default(),
            sync_state: raw.sync_state.unwrap_or_default(),
            sync_priority: raw.sync_priority.unwrap_or(0),
            flush: parse(raw.flush),
            replay: parse(raw.replay),
        })
        .collect())
}

#[derive(Deserialize)]
struct RawSlot {
    name: String,
    physical: bool,
    active: bool,
    restart: Option<String>,
    confirmed: Option<String>,
}

fn slots(json: Option<&str>) -> Result<BTreeMap<String, SlotRow>, String> {
    let Some(json) = json else { return Ok(BTreeMap::new()) };
    let rows: Vec<RawSlot> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let parse = |text: Option<String>| text.as_deref().and_then(Lsn::parse);
    Ok(rows
        .into_iter()
        .map(|raw| {
            let row = SlotRow {
                physical: raw.physical,
                active: raw.active,
                restart_lsn: parse(raw.restart),
                confirmed_flush: parse(raw.confirmed),
            };
            (raw.name, row)
        })
        .collect())
}

/// A value as an SQL literal, whatever `standard_conforming_strings` says.
pub(crate) fn literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// A name as an SQL identifier.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A statement that creates or alters a role. `options` in SQL words, for example `SUPERUSER`. Wants [`QUIET`] before it.
pub(crate) fn role(name: &str, password: Option<&str>, options: &str) -> String {
    let password = password.map(|password| format!(" PASSWORD {}", literal(password))).unwrap_or_default();
    let (text, ident) = (literal(name), identifier(name));
    // Dollar quotes must not occur in the text that they quote.
    let mut tag = "$mastiff$".to_owned();
    while text.contains(&tag) || ident.contains(&tag) || password.contains(&tag) {
        tag.insert(1, 'x');
    }
    format!(
        "DO {tag} BEGIN SET LOCAL synchronous_commit = 'local'; \
         PERFORM * FROM pg_catalog.pg_authid WHERE rolname = {text}; \
         IF FOUND THEN ALTER ROLE {ident} WITH {options} LOGIN{password}; \
         ELSE CREATE ROLE {ident} WITH {options} LOGIN{password}; END IF; END; {tag};\n"
    )
}

/// Keeps passwords out of the server's log, and statements from waiting for standbys that do not exist yet.
pub(crate) const QUIET: &str =
    "SET log_statement TO none;\nSET log_min_duration_statement TO -1;\nSET log_min_error_statement TO 'panic';\n\
SET pg_stat_statements.track_utility TO 'off';\nSET pgaudit.log TO none;\nSET synchronous_commit TO local;\n";

/// What `pg_rewind` needs of a role that is no superuser.
pub(crate) fn rewind_grants(name: &str) -> String {
    [
        "pg_ls_dir(text, boolean, boolean)",
        "pg_stat_file(text, boolean)",
        "pg_read_binary_file(text)",
        "pg_read_binary_file(text, bigint, bigint, boolean)",
    ]
    .iter()
    .map(|function| format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {};\n", identifier(name)))
    .collect()
}

/// Whether a value in effect (`pg_settings`, in its base unit) is the configured one.
pub(crate) fn same_setting(setting: &str, unit: Option<&str>, kind: &str, wanted: &str) -> bool {
    if setting == wanted {
        return true;
    }
    match kind {
        "bool" => match (boolean(setting), boolean(wanted)) {
            (Some(setting), Some(wanted)) => setting == wanted,
            _ => false,
        },
        "integer" | "real" => match (setting.trim().parse::<f64>().ok(), in_unit(wanted, unit)) {
            (Some(setting), Some(wanted)) => (setting - wanted).abs() < if kind == "integer" { 1.0 } else { 1e-9 },
            _ => false,
        },
        "enum" => setting.eq_ignore_ascii_case(wanted),
        _ => false,
    }
}

/// PostgreSQL accepts any unambiguous beginning of these words.
fn boolean(text: &str) -> Option<bool> {
    let text = text.trim().to_ascii_lowercase();
    let begins = |word: &str| !text.is_empty() && word.starts_with(&text);
    match text.as_str() {
        "1" | "on" => Some(true),
        "0" | "of" | "off" => Some(false),
        _ if begins("true") || begins("yes") => Some(true),
        _ if begins("false") || begins("no") => Some(false),
        _ => None,
    }
}

/// A number with or without a unit, in the base unit of its setting (`8kB`, `min`, …).
fn in_unit(text: &str, unit: Option<&str>) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'x')).unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let number: f64 = number.trim().parse().ok()?;
    if suffix.is_empty() {
        return Some(number);
    }
    let base = unit?;
    let count_at = base.find(|c: char| !c.is_ascii_digit())?;
    let (count, base) = base.split_at_checked(count_at)?;
    let count: f64 = if count.is_empty() { 1.0 } else { count.parse().ok()? };
    Some(number * scale(suffix)? / (scale(base)? * count))
}

/// Bytes or microseconds of a unit.
fn scale(unit: &str) -> Option<f64> {
    Some(match unit {
        "B" | "us" => 1.0,
        "kB" => 1024.0,
        "MB" => 1024.0 * 1024.0,
        "GB" => 1024.0 * 1024.0 * 1024.0,
        "TB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "ms" => 1e3,
        "s" => 1e6,
        "min" => 60e6,
        "h" => 3600e6,
        "d" => 86_400e6,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{identifier, literal, replication, role, same_setting, slots};
    use crate::ha::types::Lsn;

    #[test]
    fn quoting() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r" E'a\\''b'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        let sql = role("x", Some("$mastiff$"), "");
        assert!(sql.starts_with("DO $xmastiff$"), "{sql}");
    }

    #[test]
    fn settings_compare_by_value() {
        assert!(same_setting("4096", Some("8kB"), "integer", "32MB"));
        assert!(!same_setting("4096", Some("8kB"), "integer", "33MB"));
        assert!(same_setting("4096", Some("8kB"), "integer", "4096"));
        assert!(same_setting("on", None, "bool", "true") && same_setting("off", None, "bool", "0"));
        assert!(same_setting("replica", None, "enum", "REPLICA"));
        assert!(same_setting("300", Some("s"), "integer", "5min"));
        assert!(!same_setting("a", None, "string", "b"));
    }

    #[test]
    fn rows_of_json() {
        let rows = replication(Some(
            r#"[{"usename":"replicator","application_name":"n2","client_addr":"10.77.0.2","state":"streaming",
                "sync_state":"async","sync_priority":0,"flush":"0/3000148","replay":null}]"#,
        ))
        .unwrap();
        assert_eq!(rows[0].flush, Some(Lsn(0x300_0148)));
        assert_eq!(rows[0].replay, None);
        let found = slots(Some(r#"[{"name":"n2","physical":true,"active":false,"restart":"0/1","confirmed":null}]"#)).unwrap();
        assert!(found["n2"].physical && !found["n2"].active);
        assert!(slots(Some("{}")).is_err());
        assert!(replication(None).unwrap().is_empty());
    }
}
