//! Values as Patroni reads them: booleans, integers with units, host and port.

use std::num::NonZeroU32;

use serde_json::Value;

use super::types::HostPort;

/// `on/true/yes/1`, `off/false/no/0` in any case, as text, boolean or number.
#[must_use]
pub fn parse_bool(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(1) => Some(true),
            Some(0) => Some(false),
            _ => None,
        },
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "1" => Some(true),
            "off" | "false" | "no" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Python's idea of truth: false for nothing, `false`, 0, empty text, empty list, empty map.
#[must_use]
pub fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// An integer, rounded; a unit is converted to `base` (`B`, `kB`, `MB`, `ms`, `s`, `min`). `None` if it is none, or if it has a unit
/// and `base` is empty or of the other kind. Decimal, `0x` and octal numbers as PostgreSQL takes them.
#[must_use]
pub fn parse_int(value: &Value, base: &str) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().and_then(round)),
        Value::String(text) => parse_int_text(text, base),
        _ => None,
    }
}

/// [`parse_int`] of a text.
#[must_use]
pub fn parse_int_text(text: &str, base: &str) -> Option<i64> {
    let (number, unit) = split_number(text.trim())?;
    if unit.is_empty() {
        return round(number);
    }
    let (scale, kind) = unit_scale(unit)?;
    let (base_scale, base_kind) = unit_scale(base)?;
    if kind != base_kind {
        return None;
    }
    round(number * scale / base_scale)
}

fn round(number: f64) -> Option<i64> {
    // Beyond 2^53 a float is no integer any more.
    (number.is_finite() && number.abs() <= 9_007_199_254_740_992.0).then(|| number.round_ties_even() as i64)
}

/// The number at the beginning and what follows it, trimmed.
fn split_number(text: &str) -> Option<(f64, &str)> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let sign = if negative { -1.0 } else { 1.0 };
    if let Some(hex) = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
        let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
        let number = u32::from_str_radix(&hex[..end], 16).ok()?;
        return Some((sign * f64::from(number), hex[end..].trim()));
    }
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let digits = &rest[..end];
    let unit = rest[end..].trim();
    let octal = digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let number = if octal { i64::from_str_radix(digits, 8).ok()? as f64 } else { digits.parse::<f64>().ok()? };
    Some((sign * number, unit))
}

#[derive(PartialEq)]
enum UnitKind {
    Space,
    Time,
}

fn unit_scale(unit: &str) -> Option<(f64, UnitKind)> {
    let space = |power: i32| Some((1024_f64.powi(power), UnitKind::Space));
    let time = |ms: f64| Some((ms, UnitKind::Time));
    match unit {
        "B" => space(0),
        "kB" => space(1),
        "MB" => space(2),
        "GB" => space(3),
        "TB" => space(4),
        "us" => time(0.001),
        "ms" => time(1.0),
        "s" => time(1000.0),
        "min" => time(60_000.0),
        "h" => time(3_600_000.0),
        "d" => time(86_400_000.0),
        _ => None,
    }
}

/// Seconds from 1 on, or one of `words` (in any case; `false` is `off`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondsOr {
    /// Seconds.
    Seconds(NonZeroU32),
    /// The word, as it stands in the list.
    Word(&'static str),
}

/// Reads a value that is a number of seconds (a unit is allowed) or one of `words`. `None`: neither.
#[must_use]
pub fn seconds_or(value: &Value, words: &[&'static str]) -> Option<SecondsOr> {
    let text = match value {
        Value::Bool(false) => Some("off"),
        value => value.as_str(),
    };
    if let Some(word) = text.and_then(|text| words.iter().find(|word| word.eq_ignore_ascii_case(text.trim()))) {
        return Some(SecondsOr::Word(word));
    }
    let seconds = parse_int(value, "s").and_then(|seconds| u32::try_from(seconds).ok())?;
    NonZeroU32::new(seconds).map(SecondsOr::Seconds)
}

/// Text of a scalar; numbers are accepted where text is expected, booleans are not.
#[must_use]
pub fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A list of texts: a list, or one text separated by commas.
#[must_use]
pub fn as_list(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(items) => items.iter().map(as_text).collect(),
        Value::String(text) => Some(text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()),
        _ => None,
    }
}

/// `host:port`, `[v6]:port`, `host` (with `default_port`). IPv6 brackets are removed.
pub fn host_port(text: &str, default_port: Option<u16>) -> Result<HostPort, &'static str> {
    let (host, port) = hosts_and_port(text, default_port)?;
    if host.contains(',') {
        return Err("one host only");
    }
    Ok(HostPort { host, port })
}

/// `a,b,c:port`: the hosts as one comma-separated text, and the port.
pub fn hosts_and_port(text: &str, default_port: Option<u16>) -> Result<(String, u16), &'static str> {
    let text = text.trim();
    let (hosts, port) = match text.rsplit_once(':') {
        Some((_, after)) if after.ends_with(']') => (text, None),
        Some((hosts, port)) => (hosts, Some(port)),
        None => (text, None),
    };
    let port = match port {
        Some(port) => port.trim().parse::<u16>().ok().filter(|port| *port > 0).ok_or("the port must be a number from 1 to 65535")?,
        None => default_port.ok_or("the port is missing; write host:port")?,
    };
    let hosts: Vec<&str> = hosts.split(',').map(|host| host.trim().trim_start_matches('[').trim_end_matches(']')).collect();
    if hosts.iter().any(|host| host.is_empty()) {
        return Err("the host is missing; write host:port");
    }
    if hosts.iter().any(|host| host.contains(char::is_whitespace) || host.contains('/')) {
        return Err("not a host name or address; write host:port");
    }
    Ok((hosts.join(","), port))
}

/// What a value is, for messages.
#[must_use]
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

#[cfg(test)]
mod tests {
    use super::{host_port, hosts_and_port, parse_bool, parse_int};
    use serde_json::json;

    #[test]
    fn integers_with_units() {
        assert_eq!(parse_int(&json!("1MB"), "kB"), Some(1024));
        assert_eq!(parse_int(&json!(" 0x400 MB "), "MB"), Some(1024));
        assert_eq!(parse_int(&json!("30min"), "s"), Some(1800));
        assert_eq!(parse_int(&json!("1000 ms"), "s"), Some(1));
        assert_eq!(parse_int(&json!("51"), ""), Some(51));
        assert_eq!(parse_int(&json!("0640"), ""), Some(416));
        assert_eq!(parse_int(&json!(10.6), ""), Some(11));
        assert_eq!(parse_int(&json!("-1"), ""), Some(-1));
        for bad in [json!("nonsense"), json!("1MB"), json!(""), json!(true), json!(null), json!("-"), json!("é")] {
            assert_eq!(parse_int(&bad, ""), None, "{bad}");
        }
        assert_eq!(parse_int(&json!("1GB"), "s"), None);
    }

    #[test]
    fn booleans() {
        assert_eq!(parse_bool(&json!("On")), Some(true));
        assert_eq!(parse_bool(&json!(0)), Some(false));
        assert_eq!(parse_bool(&json!("foo")), None);
    }

    #[test]
    fn addresses() {
        assert_eq!(host_port("[::1]:5432", None).unwrap().to_string(), "[::1]:5432");
        assert_eq!(host_port("[fe80::1]", Some(7)).unwrap().to_string(), "[fe80::1]:7");
        assert_eq!(host_port("a", Some(7)).unwrap().port, 7);
        assert_eq!(hosts_and_port("127.0.0.1,[fe80::1]:54", None).unwrap(), ("127.0.0.1,fe80::1".to_owned(), 54));
        for bad in ["", ":1", "a:b", "a:0", "a:70000", "a b:1", "a,:1"] {
            assert!(hosts_and_port(bad, None).is_err(), "{bad}");
        }
    }
}
