//! Server parameters: the ones that the agent controls, their place on the postmaster's command line, version rules, values that a
//! standby needs to be able to start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::config::types::PostgresConfig;

use super::controldata::ControlSettings;

/// Parameters for the server. Controlled names are in lower case, others as configured.
pub type Parameters = BTreeMap<String, String>;

/// Controlled parameters that go on the postmaster's command line, in Patroni's order, with their defaults. An empty default means
/// that the value comes from the configuration's own fields.
const COMMAND_LINE: [(&str, &str); 13] = [
    ("listen_addresses", ""),
    ("port", ""),
    ("cluster_name", ""),
    ("wal_level", "replica"),
    ("hot_standby", "on"),
    ("max_connections", "100"),
    ("max_wal_senders", "10"),
    ("max_prepared_transactions", "0"),
    ("max_locks_per_transaction", "64"),
    ("track_commit_timestamp", "off"),
    ("max_replication_slots", "10"),
    ("max_worker_processes", "8"),
    ("wal_log_hints", "on"),
];

/// Recovery settings, which were in `recovery.conf` before PostgreSQL 12. Only the agent writes them, in their own section.
pub const RECOVERY: [&str; 17] = [
    "archive_cleanup_command",
    "pause_at_recovery_target",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restore_command",
    "trigger_file",
];

/// Whether a parameter is a recovery setting.
#[must_use]
pub fn is_recovery(name: &str) -> bool {
    name.eq_ignore_ascii_case("standby_mode") || RECOVERY.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Parameters that came with a major version. An unknown name in `postgresql.conf` keeps the server from starting, and one
/// configuration serves members of several versions.
const SINCE: [(u32, &[&str]); 5] = [
    (
        14,
        &[
            "client_connection_check_interval",
            "compute_query_id",
            "debug_discard_caches",
            "default_toast_compression",
            "enable_async_append",
            "enable_memoize",
            "huge_page_size",
            "idle_session_timeout",
            "log_recovery_conflict_waits",
            "min_dynamic_shared_memory",
            "recovery_init_sync_method",
            "remove_temp_files_after_crash",
            "ssl_crl_dir",
            "track_wal_io_timing",
            "vacuum_failsafe_age",
            "vacuum_multixact_failsafe_age",
        ],
    ),
    (
        15,
        &[
            "archive_library",
            "log_startup_progress_interval",
            "recovery_prefetch",
            "recursive_worktable_factor",
            "stats_fetch_consistency",
            "wal_decode_buffer_size",
        ],
    ),
    (
        16,
        &[
            "createrole_self_grant",
            "debug_io_direct",
            "debug_logical_replication_streaming",
            "debug_parallel_query",
            "enable_presorted_aggregate",
            "gss_accept_delegation",
            "icu_validation_level",
            "max_parallel_apply_workers_per_subscription",
            "reserved_connections",
            "scram_iterations",
            "send_abort_for_crash",
            "send_abort_for_kill",
            "vacuum_buffer_usage_limit",
        ],
    ),
    (
        17,
        &[
            "allow_alter_system",
            "commit_timestamp_buffers",
            "enable_group_by_reordering",
            "event_triggers",
            "io_combine_limit",
            "max_notify_queue_pages",
            "multixact_member_buffers",
            "multixact_offset_buffers",
            "notify_buffers",
            "serializable_buffers",
            "subtransaction_buffers",
            "summarize_wal",
            "sync_replication_slots",
            "synchronized_standby_slots",
            "transaction_buffers",
            "transaction_timeout",
            "wal_summary_keep_time",
        ],
    ),
    (
        18,
        &[
            "autovacuum_vacuum_max_threshold",
            "autovacuum_worker_slots",
            "enable_distinct_reordering",
            "enable_self_join_elimination",
            "extension_control_path",
            "file_copy_method",
            "idle_replication_slot_timeout",
            "io_max_combine_limit",
            "io_max_concurrency",
            "io_method",
            "io_workers",
            "log_lock_failures",
            "max_active_replication_origins",
            "md5_password_warnings",
            "oauth_validator_libraries",
            "ssl_groups",
            "ssl_tls13_ciphers",
            "track_cost_delay_timing",
            "vacuum_max_eager_freeze_failure_rate",
            "vacuum_truncate",
        ],
    ),
];

/// Parameters that a major version no longer has.
const GONE_IN: [(u32, &[&str]); 4] = [
    (14, &["operator_precedence_warning", "vacuum_cleanup_index_scale_factor"]),
    (15, &["stats_temp_directory"]),
    (16, &["force_parallel_mode", "vacuum_defer_cleanup_age"]),
    (17, &["db_user_namespace", "old_snapshot_threshold", "trace_recovery_messages"]),
];

fn exists_in(name: &str, major: u32) -> bool {
    let listed = |names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    SINCE.iter().all(|(since, names)| major >= *since || !listed(names))
        && GONE_IN.iter().all(|(gone, names)| major < *gone || !listed(names))
}

/// The parameters for a server of the given major version: controlled ones complete with defaults, names that this version does not
/// have left out, `wal_keep_segments` and `wal_keep_size` translated, recovery settings removed. The second value names what was
/// left out because of the version, for one warning.
#[must_use]
pub fn for_server(config: &PostgresConfig, major: u32) -> (Parameters, Vec<String>) {
    let mut parameters = Parameters::new();
    let mut dropped = Vec::new();
    for (name, value) in &config.parameters {
        let lower = name.to_ascii_lowercase();
        if is_recovery(name) {
            continue;
        }
        if !exists_in(name, major) {
            dropped.push(name.clone());
            continue;
        }
        let name = if is_controlled(&lower) || is_file(&lower) { lower } else { name.clone() };
        parameters.insert(name, value.clone());
    }
    for (name, default) in COMMAND_LINE {
        if !default.is_empty() {
            parameters.entry(name.to_owned()).or_insert_with(|| default.to_owned());
        }
    }
    parameters.insert("listen_addresses".to_owned(), config.listen_addresses.clone());
    parameters.insert("port".to_owned(), config.port.to_string());
    parameters.insert("cluster_name".to_owned(), config.scope.clone());
    // The old name of the level; all versions that we know call it replica.
    if parameters.get("wal_level").is_some_and(|level| level.eq_ignore_ascii_case("hot_standby")) {
        parameters.insert("wal_level".to_owned(), "replica".to_owned());
    }
    wal_keep(&mut parameters, major);
    for name in ["hba_file", "ident_file"] {
        if let Some(value) = parameters.get_mut(name) {
            *value = config.config_dir.join(&*value).to_string_lossy().into_owned();
        }
    }
    (parameters, dropped)
}

fn is_controlled(lower: &str) -> bool {
    COMMAND_LINE.iter().any(|(name, _)| *name == lower) || matches!(lower, "wal_keep_segments" | "wal_keep_size")
}

fn is_file(lower: &str) -> bool {
    matches!(lower, "hba_file" | "ident_file")
}

/// PostgreSQL 13 renamed `wal_keep_segments` to `wal_keep_size`; segments of 16 MB are assumed, as Patroni does.
fn wal_keep(parameters: &mut Parameters, major: u32) {
    let segments = parameters.remove("wal_keep_segments");
    if major >= 13 {
        let megabytes = segments.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(8).saturating_mul(16);
        parameters.entry("wal_keep_size".to_owned()).or_insert_with(|| format!("{megabytes}MB"));
    } else {
        let size = parameters.remove("wal_keep_size").and_then(|text| megabytes(&text)).unwrap_or(128);
        let segments = segments.unwrap_or_else(|| (size.saturating_add(8) / 16).to_string());
        parameters.insert("wal_keep_segments".to_owned(), segments);
    }
}

/// A size with PostgreSQL's memory units, in megabytes (rounded down); a bare number is megabytes.
fn megabytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text.get(..digits)?.parse().ok()?;
    match text.get(digits..)?.trim() {
        "" | "MB" => Some(number),
        "kB" => Some(number / 1024),
        "GB" => number.checked_mul(1024),
        "TB" => number.checked_mul(1024 * 1024),
        _ => None,
    }
}

/// The postmaster's arguments (without the program itself), in the order of Patroni's captures.
#[must_use]
pub fn command_line(data_dir: &Path, config_file: &Path, parameters: &Parameters) -> Vec<String> {
    let mut arguments = vec!["-D".to_owned(), data_dir.to_string_lossy().into_owned(), format!("--config-file={}", config_file.display())];
    for (name, _) in COMMAND_LINE {
        if let Some(value) = parameters.get(name) {
            arguments.push(format!("--{name}={value}"));
        }
    }
    arguments
}

/// One value that had to be raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raised {
    /// The value that is configured.
    pub configured: String,
    /// The value that `pg_control` asks for, now in effect; a restart is pending until the configuration agrees with it.
    pub needed: i32,
}

/// Raises controlled values to what a standby needs to be able to replay: PostgreSQL refuses to start hot standby with less than the
/// primary had when it wrote the WAL. Returns what was raised.
pub fn raise_for_standby(parameters: &mut Parameters, settings: &ControlSettings) -> BTreeMap<String, Raised> {
    let needs = [
        ("max_connections", settings.max_connections),
        ("max_prepared_transactions", settings.max_prepared_transactions),
        ("max_locks_per_transaction", settings.max_locks_per_transaction),
        ("max_worker_processes", settings.max_worker_processes),
        ("max_wal_senders", settings.max_wal_senders),
    ];
    let mut raised = BTreeMap::new();
    for (name, needed) in needs {
        let Some(value) = parameters.get_mut(name) else { continue };
        if value.trim().parse::<i32>().is_ok_and(|configured| configured < needed) {
            let configured = std::mem::replace(value, needed.to_string());
            raised.insert(name.to_owned(), Raised { configured, needed });
        }
    }
    raised
}

/// The names of the parameters in `postgres --describe-config` output.
#[must_use]
pub fn parse_describe_config(text: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| line.split('\t').next()).filter(|name| !name.is_empty()).map(str::to_ascii_lowercase).collect()
}

/// Whether `postgresql.conf` accepts a parameter although `--describe-config` does not list it (developer options, old names).
fn is_unlisted(lower: &str) -> bool {
    const PREFIXES: [&str; 5] = ["debug_", "ignore_", "jit_", "send_abort_", "trace_"];
    const NAMES: [&str; 12] = [
        "allow_in_place_tablespaces",
        "allow_system_table_mods",
        "application_name",
        "backtrace_functions",
        "force_parallel_mode",
        "post_auth_delay",
        "pre_auth_delay",
        "remove_temp_files_after_crash",
        "restrict_nonsystem_relation_kind",
        "ssl_ecdh_curve",
        "wal_consistency_checking",
        "zero_damaged_pages",
    ];
    PREFIXES.iter().any(|prefix| lower.starts_with(prefix)) || NAMES.contains(&lower)
}

/// Removes parameters that the server does not have (typing errors, other versions): one of them in `postgresql.conf` would keep it
/// from starting. Names with a dot belong to extensions and stay. Returns what was removed, for one warning each.
pub fn drop_unknown(parameters: &mut Parameters, known: &BTreeSet<String>) -> Vec<String> {
    if known.is_empty() {
        return Vec::new();
    }
    let unknown: Vec<String> = parameters
        .keys()
        .filter(|name| {
            let lower = name.to_ascii_lowercase();
            !lower.contains('.') && !is_controlled(&lower) && !known.contains(&lower) && !is_unlisted(&lower)
        })
        .cloned()
        .collect();
    for name in &unknown {
        parameters.remove(name);
    }
    unknown
}

#[cfg(test)]
mod tests;
