//! One value as Delta writes it: in statistics (JSON) and as the value of a partition column (text).
//!
//! | type | statistics | partition value |
//! |---|---|---|
//! | integers | `17` | `17` |
//! | floats | `1.5`; none for NaN and infinities | not allowed |
//! | decimals | `12.30` | `12.30` |
//! | strings | `"a"`, cut to 32 characters | as they are |
//! | booleans | none | `true`, `false` |
//! | dates | `"2024-02-29"` | `2024-02-29` |
//! | timestamps | `"2024-02-29T12:00:00.000001Z"` | `2024-02-29 12:00:00.000001` |

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int8Array, Int16Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Utc};
use tarn_model::{Error, Result};

/// How far a text may be from the value it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// The value itself.
    Exact,
    /// An upper bound: a timestamp that was cut to milliseconds is moved up to the end of its millisecond.
    Upper,
}

/// Years that every engine's parser takes.
fn plain_year(year: i32) -> bool {
    (1..=9999).contains(&year)
}

fn date(days: i32) -> Option<NaiveDate> {
    NaiveDate::from_num_days_from_ce_opt(days.checked_add(719_163)?)
}

/// Days since 1970 → `2024-02-29`.
pub(crate) fn date_text(days: i32) -> Option<String> {
    let date = date(days)?;
    plain_year(date.year()).then(|| date.format("%Y-%m-%d").to_string())
}

/// Microseconds since 1970 → `2024-02-29T12:00:00.000001Z`.
pub(crate) fn timestamp_text(us: i64) -> Option<String> {
    let time = DateTime::<Utc>::from_timestamp_micros(us)?;
    plain_year(time.year()).then(|| time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}

/// An unscaled decimal → `12.30`.
pub(crate) fn decimal_text(unscaled: i128, scale: i8) -> String {
    let Ok(scale) = usize::try_from(scale) else { return unscaled.to_string() };
    if scale == 0 {
        return unscaled.to_string();
    }
    let sign = if unscaled < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    format!("{sign}{whole}.{fraction}")
}

fn parse_date(text: &str) -> Option<i32> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    date.num_days_from_ce().checked_sub(719_163)
}

fn parse_timestamp(text: &str, bound: Bound) -> Option<i64> {
    let us = match DateTime::parse_from_rfc3339(text) {
        Ok(time) => time.timestamp_micros(),
        Err(_) => {
            let plain = text.trim_end_matches('Z').replace('T', " ");
            NaiveDateTime::parse_from_str(&plain, "%Y-%m-%d %H:%M:%S%.f").ok()?.and_utc().timestamp_micros()
        }
    };
    let fraction_digits =
        text.split_once('.').map_or(0, |(_, f)| f.bytes().take_while(u8::is_ascii_digit).count());
    match bound {
        // Other engines cut the statistics of timestamps down to milliseconds.
        Bound::Upper if fraction_digits <= 3 => us.checked_add(999),
        _ => Some(us),
    }
}

fn parse_decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let scale = usize::try_from(scale).ok()?;
    // A float form (`1e3`) of another engine's making is not worth a loss of digits.
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty()
        || fraction.len() > scale
        || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let unscaled: i128 = format!("{whole}{fraction:0<scale$}").parse().ok()?;
    let fits = unscaled.unsigned_abs().checked_ilog10().unwrap_or(0) < u32::from(precision);
    fits.then_some(if negative { -unscaled } else { unscaled })
}

/// Texts → an array of `data_type`; what cannot be read is NULL, which means "not known".
///
/// Strings are taken as they are; of JSON, the caller has taken the quotes off.
pub(crate) fn parse_column<'a>(
    data_type: &DataType,
    bound: Bound,
    texts: impl ExactSizeIterator<Item = Option<&'a str>>,
) -> ArrayRef {
    macro_rules! numbers {
        ($array:ty) => {
            Arc::new(texts.map(|text| text.and_then(|t| t.parse().ok())).collect::<$array>())
        };
    }
    match data_type {
        DataType::Int8 => numbers!(Int8Array),
        DataType::Int16 => numbers!(Int16Array),
        DataType::Int32 => numbers!(Int32Array),
        DataType::Int64 => numbers!(Int64Array),
        DataType::Float32 => numbers!(Float32Array),
        DataType::Float64 => numbers!(Float64Array),
        DataType::Boolean => Arc::new(
            texts
                .map(|text| match text? {
                    "true" => Some(true),
                    "false" => Some(false),
                    _ => None,
                })
                .collect::<BooleanArray>(),
        ),
        DataType::Utf8 => Arc::new(texts.collect::<StringArray>()),
        DataType::Date32 => Arc::new(texts.map(|text| text.and_then(parse_date)).collect::<Date32Array>()),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => Arc::new(
            texts
                .map(|text| text.and_then(|t| parse_timestamp(t, bound)))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone_opt(zone.clone()),
        ),
        DataType::Decimal128(precision, scale) => {
            let values = texts.map(|text| text.and_then(|t| parse_decimal(t, *precision, *scale)));
            let values: Decimal128Array = values.collect();
            let rows = values.len();
            match values.with_precision_and_scale(*precision, *scale) {
                Ok(values) => Arc::new(values),
                Err(_) => new_null_array(data_type, rows),
            }
        }
        other => new_null_array(other, texts.len()),
    }
}

/// The value of a partition column in row `row`, as Delta writes it; `None` is NULL.
///
/// An empty string is written as it is; engines that follow Delta to the letter read it as NULL.
pub(crate) fn partition_text(column: &dyn Array, row: usize) -> Result<Option<String>> {
    if column.is_null(row) {
        return Ok(None);
    }
    Ok(Some(match column.data_type() {
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        DataType::Int8 => column.as_primitive::<Int8Type>().value(row).to_string(),
        DataType::Int16 => column.as_primitive::<Int16Type>().value(row).to_string(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>().value(row);
            date(days).ok_or_else(|| beyond("date", days.into()))?.format("%Y-%m-%d").to_string()
        }
        DataType::Timestamp(..) => {
            let us = column.as_primitive::<TimestampMicrosecondType>().value(row);
            let time = DateTime::<Utc>::from_timestamp_micros(us).ok_or_else(|| beyond("timestamp", us))?;
            time.format("%Y-%m-%d %H:%M:%S%.6f").to_string()
        }
        DataType::Decimal128(_, scale) => {
            decimal_text(column.as_primitive::<Decimal128Type>().value(row), *scale)
        }
        other => return Err(Error::internal(format!("type `{other}` cannot be a partition value"))),
    }))
}

fn beyond(what: &str, value: i64) -> Error {
    Error::invalid(format!("a {what} is beyond what a partition value can be: value=`{value}`"))
        .with_hint("partition by another column, or correct the value at its source")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(data_type: &DataType, bound: Bound, text: &str) -> ArrayRef {
        parse_column(data_type, bound, [Some(text)].into_iter())
    }

    fn utc() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    }

    #[test]
    fn a_cut_timestamp_bounds_its_whole_millisecond() {
        let us = |bound, text| one(&utc(), bound, text).as_primitive::<TimestampMicrosecondType>().value(0);
        assert_eq!(us(Bound::Exact, "1970-01-01T00:00:00.001Z"), 1000);
        assert_eq!(us(Bound::Upper, "1970-01-01T00:00:00.001Z"), 1999);
        assert_eq!(us(Bound::Upper, "1970-01-01T00:00:00.001000Z"), 1000, "all digits: exact");
        assert_eq!(us(Bound::Upper, "1970-01-01T01:00:00.000000+01:00"), 0);
        assert_eq!(us(Bound::Exact, "1970-01-01 00:00:00"), 0);
    }

    #[test]
    fn what_does_not_fit_is_not_known() {
        assert!(one(&DataType::Int8, Bound::Exact, "300").is_null(0));
        assert!(one(&DataType::Date32, Bound::Exact, "yesterday").is_null(0));
        assert!(one(&DataType::Decimal128(4, 2), Bound::Exact, "123.45").is_null(0));
        assert!(one(&DataType::Decimal128(4, 2), Bound::Exact, "1.234").is_null(0));
        assert!(timestamp_text(i64::MAX).is_none());
        assert!(date_text(i32::MAX).is_none());
    }

    proptest! {
        #[test]
        fn values_survive_their_texts(us in 0..253_370_764_800_000_000_i64, days in -700_000..2_900_000_i32, unscaled in -9_999_999_i128..10_000_000, scale in 0..7_i8) {
            let text = timestamp_text(us).unwrap();
            for text in [text.clone(), text.trim_end_matches('Z').replace('T', " ")] {
                let back = one(&utc(), Bound::Upper, &text);
                prop_assert_eq!(back.as_primitive::<TimestampMicrosecondType>().value(0), us);
            }
            let back = one(&DataType::Date32, Bound::Exact, &date_text(days).unwrap());
            prop_assert_eq!(back.as_primitive::<Date32Type>().value(0), days);
            let back = one(&DataType::Decimal128(7, scale), Bound::Exact, &decimal_text(unscaled, scale));
            prop_assert_eq!(back.as_primitive::<Decimal128Type>().value(0), unscaled);
        }
    }
}
