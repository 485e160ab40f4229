//! Points in time as operators write and read them. The static binary carries no time zones: what has no offset is UTC.

use time::format_description::well_known::Rfc3339;
use time::{Date, Duration, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

use crate::ha::types::WallTime;

/// A time that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// For the store.
    pub at: WallTime,
    /// ISO 8601 with its offset, for REST and for questions.
    pub iso: String,
    /// No offset was written, UTC was taken.
    pub assumed_utc: bool,
}

fn moment(at: WallTime) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// `2026-11-20T23:24:28.998562+00:00`; the fraction only if there is one, always six digits.
fn iso_of(at: OffsetDateTime) -> String {
    let (hours, minutes, _) = at.offset().as_hms();
    let sign = if at.offset().is_negative() { '-' } else { '+' };
    let fraction = if at.microsecond() == 0 { String::new() } else { format!(".{:06}", at.microsecond()) };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{fraction}{sign}{:02}:{:02}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        hours.unsigned_abs(),
        minutes.unsigned_abs()
    )
}

/// ISO 8601 in UTC.
#[must_use]
pub fn iso(at: WallTime) -> String {
    iso_of(moment(at))
}

/// `2026-11-20 21:22:48`, with `precision` digits of a fraction (at most three are known).
#[must_use]
pub fn stamp(at: WallTime, precision: usize) -> String {
    let at = moment(at);
    let text =
        format!("{:04}-{:02}-{:02} {:02}:{:02}:{:02}", at.year(), u8::from(at.month()), at.day(), at.hour(), at.minute(), at.second());
    if precision == 0 {
        return text;
    }
    let fraction = format!("{:06}", at.microsecond());
    format!("{text}.{}", &fraction[..precision.min(6)])
}

/// An hour from now to the minute, the example in questions.
#[must_use]
pub fn next_hour(now: WallTime) -> String {
    let at = moment(now) + Duration::HOUR;
    format!("{:04}-{:02}-{:02}T{:02}:{:02}", at.year(), u8::from(at.month()), at.day(), at.hour(), at.minute())
}

/// Reads a time that an operator wrote: ISO 8601 with or without seconds and offset (`+01:00`, `+0100`, `+1`, `Z`), or only `HH:MM` for today.
/// `None` where it is not understood.
#[must_use]
pub fn parse(text: &str, now: WallTime) -> Option<Scheduled> {
    let text = text.trim();
    let at = match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(at) => (at, false),
        Err(_) => lenient(text, now)?,
    };
    let millis = i64::try_from(at.0.unix_timestamp_nanos() / 1_000_000).ok()?;
    Some(Scheduled { at: WallTime(millis), iso: iso_of(at.0), assumed_utc: at.1 })
}

fn lenient(text: &str, now: WallTime) -> Option<(OffsetDateTime, bool)> {
    let (date, rest) = match text.split_once(['T', 't', ' ']) {
        Some((date, rest)) => (date_of(date)?, rest.trim()),
        None if text.contains(':') => (moment(now).date(), text),
        None => (date_of(text)?, "00:00"),
    };
    let (clock, offset) = split_offset(rest);
    let time = time_of(clock.trim())?;
    let zone = match offset {
        Some(text) => offset_of(text)?,
        None => UtcOffset::UTC,
    };
    Some((PrimitiveDateTime::new(date, time).assume_offset(zone), offset.is_none()))
}

fn date_of(text: &str) -> Option<Date> {
    let mut parts = text.split(['-', '/']);
    let year: i32 = parts.next().filter(|year| year.len() == 4)?.parse().ok()?;
    let month: u8 = parts.next()?.parse().ok()?;
    let day: u8 = parts.next()?.parse().ok()?;
    if parts.next().is_some() {
        return None;
    }
    Date::from_calendar_date(year, Month::try_from(month).ok()?, day).ok()
}

fn split_offset(text: &str) -> (&str, Option<&str>) {
    match text.find(['+', '-', 'Z', 'z']) {
        Some(at) => (&text[..at], Some(&text[at..])),
        None => match text.strip_suffix("UTC") {
            Some(clock) => (clock, Some("Z")),
            None => (text, None),
        },
    }
}

fn time_of(text: &str) -> Option<Time> {
    let (clock, fraction) = text.split_once(['.', ',']).unwrap_or((text, ""));
    let parts: Vec<u8> = clock.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let (hour, minute, second) = match parts[..] {
        [hour, minute] if fraction.is_empty() => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let micros: u32 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    Time::from_hms_micro(hour, minute, second, micros).ok()
}

fn offset_of(text: &str) -> Option<UtcOffset> {
    if matches!(text, "Z" | "z") {
        return Some(UtcOffset::UTC);
    }
    let (sign, digits) = if let Some(rest) = text.strip_prefix('-') { (-1, rest) } else { (1, text.strip_prefix('+')?) };
    let (hours, minutes) = match digits.split_once(':') {
        Some((hours, minutes)) => (hours, minutes),
        None if digits.len() == 4 && digits.is_ascii() => digits.split_at(2),
        None => (digits, "0"),
    };
    let hours: i8 = hours.parse().ok().filter(|hours| (0..=18).contains(hours))?;
    let minutes: i8 = minutes.parse().ok().filter(|minutes| (0..60).contains(minutes))?;
    UtcOffset::from_hms(sign * hours, sign * minutes, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::{iso, next_hour, parse, stamp};
    use crate::ha::types::WallTime;

    const NOW: WallTime = WallTime(1_795_248_747_123);

    #[test]
    fn times_are_understood() {
        let iso_of = |text: &str| parse(text, NOW).map(|at| (at.iso, at.assumed_utc));
        let with = |text: &str, assumed| Some((text.to_owned(), assumed));
        assert_eq!(iso_of("2027-01-31T03:00+01:00"), with("2027-01-31T03:00:00+01:00", false));
        assert_eq!(iso_of("2027-01-31 03:00:15.5-3"), with("2027-01-31T03:00:15.500000-03:00", false));
        assert_eq!(iso_of("2027-01-31T03:00:00Z"), with("2027-01-31T03:00:00+00:00", false));
        assert_eq!(iso_of("2027-01-31T03:00"), with("2027-01-31T03:00:00+00:00", true));
        assert_eq!(iso_of("2027-01-31"), with("2027-01-31T00:00:00+00:00", true));
        assert_eq!(iso_of("08:30"), with("2026-11-21T08:30:00+00:00", true));
        assert_eq!(iso_of("2027-01-31T03:00 +0530"), with("2027-01-31T03:00:00+05:30", false));
        for bad in ["soon", "", "2027-13-01T00:00", "25:00", "2027-01-31T03:00+99", "é", "-1", "2027-01-31T"] {
            assert_eq!(iso_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_are_printed() {
        assert_eq!(stamp(NOW, 0), "2026-11-21 08:12:27");
        assert_eq!(stamp(NOW, 6), "2026-11-21 08:12:27.123000");
        assert_eq!(iso(NOW), "2026-11-21T08:12:27.123000+00:00");
        assert_eq!(next_hour(NOW), "2026-11-21T09:12");
    }
}
