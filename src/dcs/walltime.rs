//! ISO 8601 times with a zone, as Python's `isoformat` writes them.

use time::{Date, Month, OffsetDateTime, Time, UtcOffset};

use crate::ha::types::WallTime;

/// Why a text is no point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTime {
    /// Not `YYYY-MM-DD HH:MM[:SS[.f]]` with a zone.
    #[error("not a time (expected for example 2026-11-20T23:30:00+00:00)")]
    Malformed,
    /// A time, but without a zone: it could be any of 24.
    #[error("the time has no zone (add for example +00:00)")]
    NoZone,
}

/// `2026-11-20T23:24:28.998000+00:00`; without fraction if it is zero.
#[must_use]
pub fn format_wall(at: WallTime) -> String {
    let nanos = i128::from(at.0) * 1_000_000;
    let Ok(t) = OffsetDateTime::from_unix_timestamp_nanos(nanos) else {
        return String::from("1970-01-01T00:00:00+00:00");
    };
    let (year, month, day) = (t.year(), u8::from(t.month()), t.day());
    let (hour, minute, second) = t.to_hms();
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if t.microsecond() != 0 {
        text.push_str(&format!(".{:06}", t.microsecond()));
    }
    text.push_str("+00:00");
    text
}

/// Parses an ISO 8601 time; `T` or a space between date and time, seconds and fraction may be missing.
///
/// # Errors
/// [`BadTime`].
pub fn parse_wall(text: &str) -> Result<WallTime, BadTime> {
    let text = text.trim();
    let (date, rest) = text.split_once(['T', 't', ' ']).ok_or(BadTime::Malformed)?;
    let date = parse_date(date).ok_or(BadTime::Malformed)?;
    let rest = rest.trim_start();
    let (clock, zone) = match rest.find(['Z', 'z', '+', '-', 'U']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let clock = parse_clock(clock.trim_end()).ok_or(BadTime::Malformed)?;
    if zone.is_empty() {
        return Err(BadTime::NoZone);
    }
    let offset = parse_zone(zone).ok_or(BadTime::Malformed)?;
    let nanos = date.with_time(clock).assume_offset(offset).unix_timestamp_nanos();
    i64::try_from(nanos.div_euclid(1_000_000)).map(WallTime).map_err(|_| BadTime::Malformed)
}

/// A number of exactly `width` digits.
fn digits(text: &str, width: usize) -> Option<u32> {
    (text.len() == width && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

fn parse_date(text: &str) -> Option<Date> {
    let mut parts = text.split('-');
    let (year, month, day) = (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    if parts.next().is_some() {
        return None;
    }
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()
}

fn parse_clock(text: &str) -> Option<Time> {
    let (hms, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = hms.split(':');
    let (hour, minute) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let second = match parts.next() {
        Some(second) => digits(second, 2)?,
        None => 0,
    };
    if parts.next().is_some() || fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Time::from_hms_nano(u8::try_from(hour).ok()?, u8::try_from(minute).ok()?, u8::try_from(second).ok()?, nanos).ok()
}

fn parse_zone(text: &str) -> Option<UtcOffset> {
    if matches!(text, "Z" | "z" | "UTC") {
        return Some(UtcOffset::UTC);
    }
    let sign = match text.chars().next()? {
        '+' => 1,
        '-' => -1,
        _ => return None,
    };
    let text = text.get(1..)?;
    let (hours, minutes) = match (text.len(), text.split_once(':')) {
        (_, Some((hours, minutes))) => (digits(hours, 2)?, digits(minutes, 2)?),
        (4, None) => (digits(text.get(..2)?, 2)?, digits(text.get(2..)?, 2)?),
        (_, None) => (digits(text, 2)?, 0),
    };
    if minutes > 59 {
        return None;
    }
    UtcOffset::from_whole_seconds(sign * i32::try_from(hours * 3600 + minutes * 60).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::{format_wall, parse_wall, BadTime};
    use crate::ha::types::WallTime;

    #[test]
    fn there_and_back() {
        let at = parse_wall("2026-11-20T23:24:28.998562+00:00").unwrap();
        assert_eq!(at, WallTime(1_795_217_068_998));
        assert_eq!(format_wall(at), "2026-11-20T23:24:28.998000+00:00");
        assert_eq!(format_wall(WallTime(1_795_217_068_000)), "2026-11-20T23:24:28+00:00");
        assert_eq!(format_wall(WallTime(i64::MAX)), "1970-01-01T00:00:00+00:00");
    }

    #[test]
    fn forms() {
        let same = WallTime(1_795_217_068_000);
        for text in [
            "2026-11-20T23:24:28Z",
            "2026-11-20 23:24:28 UTC",
            "2026-11-20 23:24:28+00",
            "2026-11-21T01:24:28+0200",
            "2026-11-20T17:54:28.000-05:30",
        ] {
            assert_eq!(parse_wall(text), Ok(same), "{text}");
        }
        assert_eq!(parse_wall("2026-11-20T23:24Z"), Ok(WallTime(1_795_217_040_000)));
        assert_eq!(parse_wall("2026-11-20T23:24:28"), Err(BadTime::NoZone));
        for text in ["", "now", "2026-13-20T23:24:28Z", "2026-11-20", "2026-11-20T23:24:28+25:99", "2026-11-20T23:24:28.Z", "é-11-20Té"] {
            assert_eq!(parse_wall(text), Err(BadTime::Malformed), "{text}");
        }
    }
}
