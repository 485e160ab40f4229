//! Wall-clock time as text: ISO 8601 in UTC. Pure arithmetic (days to civil date), no clock is read.

use super::types::WallTime;

/// Year, month, day of a day number counted from 1970-01-01 (proleptic Gregorian calendar).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// `2026-11-20T21:23:38.588000+00:00`.
#[must_use]
pub fn iso(at: WallTime) -> String {
    let (days, millis) = (at.0.div_euclid(86_400_000), at.0.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (hours, minutes, seconds) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{:06}+00:00", millis % 1_000 * 1_000)
}

#[cfg(test)]
mod tests {
    use super::iso;
    use crate::ha::types::WallTime;

    #[test]
    fn known_dates() {
        assert_eq!(iso(WallTime(0)), "1970-01-01T00:00:00.000000+00:00");
        assert_eq!(iso(WallTime(951_782_400_123)), "2000-02-29T00:00:00.123000+00:00");
        assert_eq!(iso(WallTime(1_795_209_818_588)), "2026-11-20T21:23:38.588000+00:00");
        assert_eq!(iso(WallTime(-1)), "1969-12-31T23:59:59.999000+00:00");
    }
}
