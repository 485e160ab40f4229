//! Reading the dynamic configuration as it stands in the store: an operator's command must show a cluster whatever is in there.

use serde_json::Value;

use crate::ha::view::ClusterView;

/// The `/config` document of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Dynamic<'a>(Option<&'a Value>);

/// Whether a value that was written by hand means true; text is read as YAML 1.1 reads it.
#[must_use]
pub fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => matches!(text.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1"),
        _ => false,
    }
}

impl<'a> Dynamic<'a> {
    /// Of this cluster.
    #[must_use]
    pub fn of(view: &'a ClusterView) -> Dynamic<'a> {
        Dynamic(view.config.as_ref().map(|config| &config.value))
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0?.get(key)
    }

    /// Maintenance mode.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.get("pause").is_some_and(is_truthy)
    }

    /// `synchronous_mode: quorum`.
    #[must_use]
    pub fn is_quorum(&self) -> bool {
        self.get("synchronous_mode").and_then(Value::as_str).is_some_and(|mode| mode.eq_ignore_ascii_case("quorum"))
    }

    /// Synchronous replication, of either kind; never in a standby cluster.
    #[must_use]
    pub fn is_synchronous(&self) -> bool {
        !self.is_standby_cluster() && (self.is_quorum() || self.get("synchronous_mode").is_some_and(is_truthy))
    }

    /// The cluster follows another one.
    #[must_use]
    pub fn is_standby_cluster(&self) -> bool {
        let set = |value: &Value| !value.is_null() && value != "";
        let source = self.get("standby_cluster");
        source.is_some_and(|source| ["host", "port", "restore_command"].iter().any(|key| source.get(*key).is_some_and(set)))
    }

    /// `loop_wait` in seconds.
    #[must_use]
    pub fn loop_wait_s(&self) -> u64 {
        let value = self.get("loop_wait");
        value.and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok())).filter(|wait| *wait > 0).unwrap_or(10)
    }
}
