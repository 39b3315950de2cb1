//! A value as a database gives it: what collectors hand on, and what tables take.
//!
//! Decimals and times that come as numbers keep the text that the database has for them: [`Value::write_text`] writes it.

use std::io::Write as _;

/// A value of one cell; text and bytes are borrowed from what was received.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// No value.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number that has no sign.
    Unsigned(u64),
    /// A number of 32 bits.
    Real(f32),
    /// A number of 64 bits.
    Float(f64),
    /// A decimal: its digits as a whole number, and how many of them stand after the point.
    Decimal(i128, u8),
    /// Days since 1970, of whatever year.
    Date(i32),
    /// Microseconds since 1970, of whatever year; whether that is UTC, or a time that names no zone.
    Timestamp(i128, bool),
    /// Text that may not be UTF-8.
    Text(&'a [u8]),
    /// Bytes.
    Bytes(&'a [u8]),
}

const DAY_US: i128 = 86_400_000_000;

impl Value<'_> {
    /// The text of a decimal, a date or a timestamp, as PostgreSQL writes it (ISO, in UTC), such as `-0.10`, `0044-03-15 BC` and
    /// `2026-01-02 03:04:05.678+00`; nothing of other values.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        match *self {
            Value::Decimal(unscaled, places) => write_decimal(out, unscaled, places),
            Value::Date(days) => {
                let before_christ = write_day(out, days.into());
                out.extend_from_slice(before_christ);
            }
            Value::Timestamp(us, is_utc) => {
                let before_christ = write_day(out, i64::try_from(us.div_euclid(DAY_US)).unwrap_or(0));
                let us = u64::try_from(us.rem_euclid(DAY_US)).unwrap_or(0);
                let (seconds, fraction) = (us / 1_000_000, us % 1_000_000);
                // Writing into a Vec has no way to fail.
                let _ = write!(out, " {:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
                if fraction > 0 {
                    let _ = write!(out, ".{fraction:06}");
                    while out.last() == Some(&b'0') {
                        out.pop();
                    }
                }
                if is_utc {
                    out.extend_from_slice(b"+00");
                }
                out.extend_from_slice(before_christ);
            }
            _ => {}
        }
    }
}

fn write_decimal(out: &mut Vec<u8>, unscaled: i128, places: u8) {
    const HALF: u128 = 10_000_000_000_000_000_000;
    const HALF_DIGITS: u32 = 19;
    if unscaled < 0 {
        out.push(b'-');
    }
    // Its digits from the last on, in halves that one division of 64 bits each takes a digit from.
    let all = unscaled.unsigned_abs();
    let mut rest = u64::try_from(all % HALF).unwrap_or(0);
    let mut high = u64::try_from(all / HALF).unwrap_or(0);
    let (start, places, mut digits) = (out.len(), u32::from(places), 0);
    while rest > 0 || high > 0 || digits <= places {
        if digits == HALF_DIGITS {
            rest = std::mem::take(&mut high);
        }
        if digits == places && places > 0 {
            out.push(b'.');
        }
        out.push(b'0' + u8::try_from(rest % 10).unwrap_or(0));
        rest /= 10;
        digits += 1;
    }
    out[start..].reverse();
}

/// The day that is so many days after 1970 began, in the calendar of today; what belongs behind all of a time before Christ.
fn write_day(out: &mut Vec<u8>, days: i64) -> &'static [u8] {
    // Counted from March of the year 0, so that a leap day is the last one of its year; 400 years have always the same days.
    const DAYS_OF_400_YEARS: i64 = 146_097;
    let days = days + 719_468;
    let (period, day) = (days.div_euclid(DAYS_OF_400_YEARS), days.rem_euclid(DAYS_OF_400_YEARS));
    let year = (day - day / 1460 + day / 36_524 - day / (DAYS_OF_400_YEARS - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months of 31, 30, 31, 30, 31 days, again and again.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (year + 400 * period, month + 3),
        _ => (year + 400 * period + 1, month - 9),
    };
    let (year, before_christ): (i64, &[u8]) = if year > 0 { (year, b"") } else { (1 - year, b" BC") };
    let _ = write!(out, "{year:04}-{month:02}-{day:02}");
    before_christ
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_and_times_are_written_as_postgresql_does() {
        for (value, text) in [
            (Value::Decimal(0, 0), "0"),
            (Value::Decimal(0, 2), "0.00"),
            (Value::Decimal(-10, 2), "-0.10"),
            (Value::Decimal(7, 38), "0.00000000000000000000000000000000000007"),
            (Value::Decimal(10_i128.pow(38) - 1, 0), "99999999999999999999999999999999999999"),
            (Value::Decimal(1 - 10_i128.pow(38), 19), "-9999999999999999999.9999999999999999999"),
            (Value::Decimal(10_i128.pow(19), 0), "10000000000000000000"),
            (Value::Decimal(10_i128.pow(20), 1), "10000000000000000000.0"),
            (Value::Date(0), "1970-01-01"),
            (Value::Date(11_016), "2000-02-29"),
            (Value::Date(20_515), "2026-03-03"),
            (Value::Date(-719_162), "0001-01-01"),
            (Value::Date(-719_163), "0001-12-31 BC"),
            (Value::Date(2_932_896), "9999-12-31"),
            (Value::Date(2_932_897), "10000-01-01"),
            (Value::Timestamp(0, false), "1970-01-01 00:00:00"),
            (Value::Timestamp(-1, true), "1969-12-31 23:59:59.999999+00"),
            (Value::Timestamp(1_767_322_984_678_000, true), "2026-01-02 03:03:04.678+00"),
            (Value::Timestamp(-719_163 * DAY_US, true), "0001-12-31 00:00:00+00 BC"),
            (Value::Timestamp(9_224_318_015_999_999_999, false), "294276-12-31 23:59:59.999999"),
        ] {
            let mut out = b"x".to_vec();
            value.write_text(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), format!("x{text}"), "{value:?}");
        }
    }

    #[test]
    fn every_day_of_ten_thousand_years_is_the_calendars() {
        let mut day = chrono::NaiveDate::from_ymd_opt(1, 1, 1).unwrap();
        for days in -719_162..=2_932_896 {
            // The whole calendar by every seventh day, and all days of leap years and of others.
            if days % 7 == 0 || (10_000..12_000).contains(&days) {
                let mut out = Vec::new();
                Value::Date(days).write_text(&mut out);
                assert_eq!(String::from_utf8_lossy(&out), day.format("%Y-%m-%d").to_string(), "{days}");
            }
            day = day.succ_opt().unwrap_or(day);
        }
    }
}
