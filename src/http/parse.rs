//! Small texts with Patroni's rules: sizes and times with units, timestamps, query strings, server versions.

use serde_json::Value;
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

use crate::ha::types::WallTime;

/// Why a schedule was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleError {
    /// Not a timestamp.
    Unreadable,
    /// A timestamp without a zone.
    NoZone,
}

/// A number with an optional unit, in `base` units (`B` for sizes, `s` for times), rounded. `None`: not readable.
#[must_use]
pub fn with_unit(text: &str, base: &str) -> Option<i64> {
    let text = text.trim();
    let end = text.char_indices().find(|(index, c)| !number_char(text, *index, *c)).map_or(text.len(), |(index, _)| index);
    let (digits, unit) = text.split_at(end);
    let number: f64 = digits.parse().ok()?;
    let scaled = number * factor(unit.trim(), base)?;
    // Python rounds halves to even; beyond 2^53 nobody cares.
    let rounded = scaled.round_ties_even();
    (rounded.abs() < 9.0e18).then_some(rounded as i64)
}

fn number_char(text: &str, index: usize, c: char) -> bool {
    match c {
        '0'..='9' | '.' => true,
        '+' | '-' => index == 0 || text[..index].ends_with(['e', 'E']),
        'e' | 'E' => text[index + 1..].starts_with(|next: char| next.is_ascii_digit() || next == '-' || next == '+'),
        _ => false,
    }
}

fn factor(unit: &str, base: &str) -> Option<f64> {
    let factor = match (base, unit) {
        (_, "") | ("B", "B") | ("s", "s") => 1.0,
        ("B", "kB") => 1024.0,
        ("B", "MB") => 1_048_576.0,
        ("B", "GB") => 1_073_741_824.0,
        ("B", "TB") => 1_099_511_627_776.0,
        ("s", "us") => 1e-6,
        ("s", "ms") => 1e-3,
        ("s", "min") => 60.0,
        ("s", "h") => 3600.0,
        ("s", "d") => 86400.0,
        _ => return None,
    };
    Some(factor)
}

/// The parameters of a query string, percent-decoded; empty values are dropped, as Python's `parse_qs` does.
#[must_use]
pub fn query(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, value)| !key.is_empty() && !value.is_empty())
        .map(|(key, value)| (unescape(key), unescape(value)))
        .collect()
}

/// The first value of `key`.
#[must_use]
pub fn param<'a>(query: &'a [(String, String)], key: &str) -> Option<&'a str> {
    query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let hex = text.get(index + 1..index + 3).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match (byte, hex.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(decoded)) => {
                out.push(decoded);
                index += 2;
            }
            (b'+', _) => out.push(b' '),
            (other, _) => out.push(other),
        }
        index += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `X.Y` or `X.Y.Z` as PostgreSQL's version number. The error is Patroni's sentence.
pub fn server_version(text: &str) -> Result<u32, String> {
    let parts: Result<Vec<u32>, _> = text.split('.').map(|part| part.trim().parse::<u32>()).collect();
    let parts = parts.map_err(|_| format!("Invalid PostgreSQL version: {text}"))?;
    match parts[..] {
        [major @ 10..=999, minor @ 0..=99] => Ok(major * 10_000 + minor),
        [major @ 0..=999, middle @ 0..=99, minor @ 0..=99] => Ok(major * 10_000 + middle * 100 + minor),
        _ => Err(format!("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {text}")),
    }
}

/// Patroni's `parse_bool`, false for what it does not know.
#[must_use]
pub fn boolean(value: &Value) -> bool {
    let text = match value {
        Value::Bool(value) => return *value,
        Value::String(text) => text.to_lowercase(),
        other => other.to_string(),
    };
    matches!(text.as_str(), "on" | "true" | "yes" | "1")
}

/// Python's truth of a JSON value.
#[must_use]
pub fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// An ISO 8601 timestamp with date, time and zone. A blank or `T` between them; `Z`, `UTC`, `GMT`, `±HH`, `±HHMM` or `±HH:MM` as zone.
pub fn schedule(text: &str) -> Result<WallTime, ScheduleError> {
    let (clock, zone) = timestamp(text).ok_or(ScheduleError::Unreadable)?;
    let zone = zone.ok_or(ScheduleError::NoZone)?;
    let nanos = clock.assume_offset(zone).unix_timestamp_nanos();
    i64::try_from(nanos / 1_000_000).map(WallTime).map_err(|_| ScheduleError::Unreadable)
}

/// The parts of a timestamp: date with time of day, and the zone if one is given.
fn timestamp(text: &str) -> Option<(PrimitiveDateTime, Option<UtcOffset>)> {
    let text = text.trim();
    let (day, rest) = text.split_at_checked(10)?;
    let day = date(day)?;
    let rest = rest.trim_start_matches(['T', 't', ' ']);
    let end = rest.find(|c: char| !(c.is_ascii_digit() || matches!(c, ':' | '.' | ','))).unwrap_or(rest.len());
    let (time_of_day, zone) = rest.split_at(end);
    let time_of_day = if time_of_day.is_empty() { Time::MIDNIGHT } else { clock_time(time_of_day)? };
    let zone = match zone.trim() {
        "" => None,
        zone => Some(offset(zone)?),
    };
    Some((PrimitiveDateTime::new(day, time_of_day), zone))
}

fn date(text: &str) -> Option<Date> {
    let mut parts = text.split(['-', '/']);
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let month = Month::try_from(digits(month, 2)? as u8).ok()?;
    Date::from_calendar_date(digits(year, 4)? as i32, month, digits(day, 2)? as u8).ok()
}

fn clock_time(text: &str) -> Option<Time> {
    let (seconds, fraction) = text.split_once(['.', ',']).unwrap_or((text, "0"));
    let parts: Vec<&str> = seconds.split(':').collect();
    let (hour, minute, second) = match parts[..] {
        [hour, minute] => (hour, minute, "00"),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    let micros = format!("{:0<6.6}", fraction);
    Time::from_hms_micro(digits(hour, 2)? as u8, digits(minute, 2)? as u8, digits(second, 2)? as u8, digits(&micros, 6)?).ok()
}

fn offset(text: &str) -> Option<UtcOffset> {
    if matches!(text, "Z" | "z" | "UTC" | "GMT") {
        return Some(UtcOffset::UTC);
    }
    let sign = match text.chars().next()? {
        '+' => 1,
        '-' => -1,
        _ => return None,
    };
    let plain: String = text[1..].chars().filter(|c| *c != ':').collect();
    let (hours, minutes) = match plain.len() {
        2 => (digits(&plain, 2)?, 0),
        4 => (digits(plain.get(..2)?, 2)?, digits(plain.get(2..)?, 2)?),
        _ => return None,
    };
    UtcOffset::from_hms(sign * i8::try_from(hours).ok()?, sign * i8::try_from(minutes).ok()?, 0).ok()
}

fn digits(text: &str, most: usize) -> Option<u32> {
    (!text.is_empty() && text.len() <= most && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// A timestamp as Python's `isoformat` prints it, in UTC.
#[must_use]
pub fn isoformat(at: WallTime) -> String {
    python_text(OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH), 'T')
}

/// PostgreSQL's text of a `timestamptz` in Python's form: six digits or none behind the point, `±HH:MM`. Anything else stays as it is.
#[must_use]
pub fn python_timestamp(text: &str) -> String {
    match timestamp(text) {
        Some((clock, Some(zone))) => python_text(clock.assume_offset(zone), ' '),
        _ => text.to_owned(),
    }
}

/// Seconds since the epoch with microseconds, as Python's `total_seconds()` prints them. `0` if unreadable.
#[must_use]
pub fn epoch_seconds(text: &str) -> String {
    let Some((clock, Some(zone))) = timestamp(text) else { return "0".to_owned() };
    let micros = clock.assume_offset(zone).unix_timestamp_nanos() / 1000;
    let (seconds, rest) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let fraction = format!("{rest:06}");
    let fraction = fraction.trim_end_matches('0');
    format!("{seconds}.{}", if fraction.is_empty() { "0" } else { fraction })
}

fn python_text(at: OffsetDateTime, separator: char) -> String {
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.to_hms();
    let mut text = format!("{year:04}-{month:02}-{day:02}{separator}{hour:02}:{minute:02}:{second:02}");
    if at.microsecond() != 0 {
        text.push_str(&format!(".{:06}", at.microsecond()));
    }
    let (hours, minutes, _) = at.offset().as_hms();
    let sign = if hours < 0 || minutes < 0 { '-' } else { '+' };
    text.push_str(&format!("{sign}{:02}:{:02}", hours.unsigned_abs(), minutes.unsigned_abs()));
    text
}

#[cfg(test)]
mod tests {
    use super::{epoch_seconds, isoformat, param, python_timestamp, query, schedule, server_version, with_unit, ScheduleError};
    use crate::ha::types::WallTime;

    #[test]
    fn units() {
        for (text, value) in [("16kB", 16384), ("1MB", 1_048_576), ("0", 0), ("-1", -1), (" 1.5 kB", 1536), ("1e3", 1000), ("+7B", 7)] {
            assert_eq!(with_unit(text, "B"), Some(value), "{text}");
        }
        for (text, value) in [("10", 10), ("2min", 120), ("1500ms", 2), ("0.4", 0)] {
            assert_eq!(with_unit(text, "s"), Some(value), "{text}");
        }
        for text in ["bogus", "", "MB", "1XB", "1.2.3", "é", "1e999", "--1"] {
            assert_eq!(with_unit(text, "B"), None, "{text}");
        }
    }

    #[test]
    fn timestamps() {
        assert_eq!(schedule("2026-11-20T21:23:00+00:00"), Ok(WallTime(1_795_209_780_000)));
        assert_eq!(schedule("2026-11-20 23:23:00.5 +0200"), Ok(WallTime(1_795_209_780_500)));
        assert_eq!(schedule("2026-11-20T21:23Z"), Ok(WallTime(1_795_209_780_000)));
        assert_eq!(schedule("2099-01-01T00:00:00"), Err(ScheduleError::NoZone));
        for text in
            ["soon", "", "2026-13-01T00:00:00Z", "2026-11-20T25:00:00Z", "éééééééééééé", "2026-11-20T21:23:00+99:99", "2026-11-20T::Z"]
        {
            assert_eq!(schedule(text), Err(ScheduleError::Unreadable), "{text}");
        }
        assert_eq!(isoformat(WallTime(1_795_209_780_500)), "2026-11-20T21:23:00.500000+00:00");
        assert_eq!(isoformat(WallTime(1_795_209_780_000)), "2026-11-20T21:23:00+00:00");
    }

    #[test]
    fn postgres_timestamps_become_pythons() {
        assert_eq!(python_timestamp("2026-11-20 21:22:38.7236+00"), "2026-11-20 21:22:38.723600+00:00");
        assert_eq!(python_timestamp("2026-11-20 21:22:38+05:30"), "2026-11-20 21:22:38+05:30");
        assert_eq!(python_timestamp("infinity"), "infinity");
        assert_eq!(epoch_seconds("2026-11-20 21:22:38.723601+00:00"), "1795209758.723601");
        assert_eq!(epoch_seconds("2026-11-20 21:22:38+00"), "1795209758.0");
        assert_eq!(epoch_seconds(""), "0");
    }

    #[test]
    fn queries() {
        let parsed = query("lag=1%4DB&tag_a=x+y&empty=&broken=%zz%4&lag=2");
        assert_eq!(param(&parsed, "lag"), Some("1MB"));
        assert_eq!(param(&parsed, "tag_a"), Some("x y"));
        assert_eq!(param(&parsed, "broken"), Some("%zz%4"));
        assert_eq!(param(&parsed, "empty"), None);
    }

    #[test]
    fn versions() {
        assert_eq!(server_version("14.0"), Ok(140_000));
        assert_eq!(server_version("9.6.24"), Ok(90_624));
        assert_eq!(server_version("abc"), Err("Invalid PostgreSQL version: abc".to_owned()));
        assert!(server_version("10").is_err());
        assert!(server_version("99999.99999").is_err());
    }
}
