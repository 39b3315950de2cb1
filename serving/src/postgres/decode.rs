//! Values of parameters, from text or binary.

use arrow::array::{ArrayRef, new_empty_array};
use arrow::datatypes::{DataType, IntervalMonthDayNano, IntervalUnit, TimeUnit};
use bytes::Buf;
use datafusion::common::ScalarValue;
use tarn_model::{Error, Result};

use super::encode::{EPOCH_DAYS, EPOCH_US};

const UUID: u32 = 2950;
const JSONB: u32 = 3802;

/// The value of parameter `at` (from 1), of the PostgreSQL type `oid` and the type `data_type` here.
pub(super) fn value(
    at: usize,
    oid: u32,
    data_type: &DataType,
    format: i16,
    bytes: Option<&[u8]>,
) -> Result<ScalarValue> {
    let Some(bytes) = bytes else {
        return ScalarValue::try_new_null(data_type)
            .map_err(|error| wrong(at, "of no type", &error.to_string()));
    };
    match format {
        0 => {
            let text = std::str::from_utf8(bytes).map_err(|_| {
                Error::invalid(format!("parameter ${at} is not UTF-8")).with_sqlstate("22021")
            })?;
            from_text(text, data_type).map_err(|why| wrong(at, text, &why))
        }
        _ => from_binary(oid, data_type, bytes).ok_or_else(|| {
            Error::invalid(format!("parameter ${at} is not in the binary format of its type"))
                .with_sqlstate("22P03")
                .with_hint("send it as text, or name its type when the statement is prepared")
        }),
    }
}

fn wrong(at: usize, value: &str, why: &str) -> Error {
    Error::invalid(format!("parameter ${at} cannot be `{value}`: {why}")).with_sqlstate("22P02")
}

fn from_text(text: &str, data_type: &DataType) -> std::result::Result<ScalarValue, String> {
    let trimmed = text.trim();
    match data_type {
        DataType::Utf8 => Ok(ScalarValue::Utf8(Some(text.to_owned()))),
        DataType::Boolean => {
            let lower = trimmed.to_ascii_lowercase();
            match lower.as_str() {
                "t" | "true" | "y" | "yes" | "on" | "1" => Ok(ScalarValue::Boolean(Some(true))),
                "f" | "false" | "n" | "no" | "off" | "0" => Ok(ScalarValue::Boolean(Some(false))),
                _ => Err("it is no boolean".to_owned()),
            }
        }
        DataType::Binary => bytea(text).map(|bytes| ScalarValue::Binary(Some(bytes))),
        DataType::Decimal128(..) => {
            decimal(trimmed).ok_or_else(|| "it is no number of up to 38 digits".to_owned())
        }
        DataType::List(item) => {
            let items = array_items(trimmed)?;
            let values = items.into_iter().map(|item_text| match item_text {
                Some(text) => from_text(&text, item.data_type()),
                None => ScalarValue::try_new_null(item.data_type()).map_err(|error| error.to_string()),
            });
            list(&values.collect::<std::result::Result<Vec<_>, _>>()?, item.data_type())
        }
        // JDBC writes a day and a zone behind it.
        DataType::Date32 => {
            let day = trimmed.split([' ', 'T']).next().unwrap_or(trimmed);
            ScalarValue::try_from_string(day.to_owned(), data_type).map_err(|error| error.strip_backtrace())
        }
        DataType::Time64(_) => {
            let clock = trimmed.split(['+', '-', 'Z']).next().unwrap_or(trimmed).trim_end();
            ScalarValue::try_from_string(clock.to_owned(), data_type).map_err(|error| error.strip_backtrace())
        }
        DataType::Interval(_) => ScalarValue::try_from_string(without_clock(trimmed), data_type)
            .map_err(|error| error.strip_backtrace()),
        other => {
            ScalarValue::try_from_string(trimmed.to_owned(), other).map_err(|error| error.strip_backtrace())
        }
    }
}

/// `1 day -2:30:00.5` as `1 day -2 hours -30 mins -00.5 secs`: an interval whose clock has its units in words.
fn without_clock(text: &str) -> String {
    let word = |word: &str| {
        let (sign, clock) = match word.strip_prefix('-') {
            Some(clock) => ("-", clock),
            None => ("", word.strip_prefix('+').unwrap_or(word)),
        };
        let mut parts = clock.split(':');
        match (parts.next(), parts.next(), parts.next().unwrap_or("0"), parts.next()) {
            (Some(hours), Some(minutes), seconds, None) => {
                format!("{sign}{hours} hours {sign}{minutes} mins {sign}{seconds} secs")
            }
            _ => word.to_owned(),
        }
    };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

fn list(values: &[ScalarValue], item: &DataType) -> std::result::Result<ScalarValue, String> {
    // Decimals have each their own scale; a list has one.
    let values: Vec<ScalarValue> = values
        .iter()
        .map(|value| value.cast_to(item))
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let items: ArrayRef = if values.is_empty() {
        new_empty_array(item)
    } else {
        ScalarValue::iter_to_array(values).map_err(|error| error.to_string())?
    };
    Ok(ScalarValue::List(std::sync::Arc::new(
        datafusion::common::utils::SingleRowListArrayBuilder::new(items).build_list_array(),
    )))
}

/// `12.30` as a decimal of just its digits.
fn decimal(text: &str) -> Option<ScalarValue> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty()
        || !(whole.bytes().chain(fraction.bytes())).all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let mut value: i128 = if whole.len() + fraction.len() > 38 {
        return None;
    } else {
        format!("0{whole}{fraction}").parse().ok()?
    };
    let mut scale = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
    while scale < 0 {
        value = value.checked_mul(10)?;
        scale += 1;
    }
    let scale = i8::try_from(scale).ok().filter(|scale| *scale <= 38)?;
    let precision = u8::try_from(value.to_string().len()).ok()?.max(u8::try_from(scale).ok()?);
    (precision <= 38).then_some(ScalarValue::Decimal128(Some(sign * value), precision, scale))
}

fn bytea(text: &str) -> std::result::Result<Vec<u8>, String> {
    if let Some(hex) = text.strip_prefix("\\x") {
        let digits: Vec<u8> = hex
            .chars()
            .filter(|c| !c.is_whitespace())
            .map(|c| {
                c.to_digit(16)
                    .and_then(|digit| u8::try_from(digit).ok())
                    .ok_or_else(|| "it is not hexadecimal".to_owned())
            })
            .collect::<std::result::Result<_, _>>()?;
        if !digits.len().is_multiple_of(2) {
            return Err("it has half a byte".to_owned());
        }
        return Ok(digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect());
    }
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let escaped = (*first == b'\\').then_some(after);
        match escaped {
            Some([b'\\', after @ ..]) => {
                bytes.push(b'\\');
                rest = after;
            }
            Some([a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            Some(_) => {
                return Err("a backslash stands before neither three octal digits nor another".to_owned());
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    Ok(bytes)
}

/// The items of `{1,"a b",NULL}`.
fn array_items(text: &str) -> std::result::Result<Vec<Option<String>>, String> {
    let inside = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    let inside = inside.ok_or_else(|| "an array stands in braces".to_owned())?;
    let mut items = Vec::new();
    let mut chars = inside.chars().peekable();
    if inside.trim().is_empty() {
        return Ok(items);
    }
    loop {
        let (mut item, mut is_quoted) = (String::new(), false);
        while let Some(c) = chars.peek().copied().filter(|c| *c != ',') {
            chars.next();
            match c {
                '"' => {
                    if !is_quoted && item.trim().is_empty() {
                        item.clear();
                    }
                    is_quoted = true;
                    loop {
                        match chars.next().ok_or_else(|| "a quote is not closed".to_owned())? {
                            '"' => break,
                            '\\' => item.extend(chars.next()),
                            c => item.push(c),
                        }
                    }
                }
                '\\' => item.extend(chars.next()),
                '{' | '}' => return Err("arrays of arrays are not taken".to_owned()),
                c => item.push(c),
            }
        }
        let plain = item.trim();
        items.push(match (is_quoted, plain) {
            (false, plain) if plain.eq_ignore_ascii_case("null") => None,
            (false, plain) => Some(plain.to_owned()),
            (true, _) => Some(item),
        });
        if chars.next().is_none() {
            return Ok(items);
        }
    }
}

fn from_binary(oid: u32, data_type: &DataType, bytes: &[u8]) -> Option<ScalarValue> {
    let two = || bytes.try_into().ok().map(i16::from_be_bytes);
    let four = || bytes.try_into().ok().map(i32::from_be_bytes);
    let eight = || bytes.try_into().ok().map(i64::from_be_bytes);
    Some(match data_type {
        DataType::Boolean => ScalarValue::Boolean(Some(*bytes.first().filter(|_| bytes.len() == 1)? != 0)),
        DataType::Int16 => ScalarValue::Int16(Some(two()?)),
        DataType::Int32 => ScalarValue::Int32(Some(four()?)),
        // An oid has four bytes.
        DataType::Int64 => ScalarValue::Int64(Some(match bytes.len() {
            4 => i64::from(four()?),
            2 => i64::from(two()?),
            _ => eight()?,
        })),
        DataType::Float32 => ScalarValue::Float32(Some(f32::from_bits(four()?.cast_unsigned()))),
        DataType::Float64 => ScalarValue::Float64(Some(f64::from_bits(eight()?.cast_unsigned()))),
        DataType::Utf8 if oid == UUID => {
            let bytes: [u8; 16] = bytes.try_into().ok()?;
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
            ScalarValue::Utf8(Some(parts.join("-")))
        }
        DataType::Utf8 => {
            let text = if oid == JSONB { bytes.strip_prefix(&[1])? } else { bytes };
            ScalarValue::Utf8(Some(std::str::from_utf8(text).ok()?.to_owned()))
        }
        DataType::Binary => ScalarValue::Binary(Some(bytes.to_vec())),
        DataType::Date32 => ScalarValue::Date32(Some(four()?.checked_add(EPOCH_DAYS)?)),
        DataType::Time64(TimeUnit::Microsecond) => ScalarValue::Time64Microsecond(Some(eight()?)),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            ScalarValue::TimestampMicrosecond(Some(eight()?.checked_add(EPOCH_US)?), zone.clone())
        }
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            let us = eight()?.checked_add(EPOCH_US)?;
            ScalarValue::TimestampNanosecond(Some(us.checked_mul(1000)?), zone.clone())
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let mut rest = (bytes.len() == 16).then_some(bytes)?;
            let nanoseconds = rest.get_i64().checked_mul(1000)?;
            let (days, months) = (rest.get_i32(), rest.get_i32());
            ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months, days, nanoseconds }))
        }
        DataType::Decimal128(..) => numeric(bytes)?,
        DataType::List(item) => {
            let mut rest = bytes;
            let dimensions = rest.try_get_i32().ok()?;
            let (_has_null, item_oid) = (rest.try_get_i32().ok()?, rest.try_get_u32().ok()?);
            let count = match dimensions {
                0 => 0,
                1 => {
                    let count = rest.try_get_i32().ok()?;
                    rest.try_get_i32().ok()?;
                    count
                }
                _ => return None,
            };
            let mut values = Vec::new();
            for _ in 0..count {
                let value = match usize::try_from(rest.try_get_i32().ok()?) {
                    Ok(length) => {
                        let (value, after) = rest.split_at_checked(length)?;
                        rest = after;
                        from_binary(item_oid, item.data_type(), value)?
                    }
                    Err(_) => ScalarValue::try_new_null(item.data_type()).ok()?,
                };
                values.push(value);
            }
            list(&values, item.data_type()).ok()?
        }
        _ => return None,
    })
}

/// Groups of four digits as a decimal; `None` for NaN, infinity and what has more than 38 digits.
fn numeric(mut bytes: &[u8]) -> Option<ScalarValue> {
    let (count, weight) = (bytes.try_get_u16().ok()?, bytes.try_get_i16().ok()?);
    let (sign, scale) = (bytes.try_get_u16().ok()?, bytes.try_get_u16().ok()?);
    let sign = match sign {
        0 => "",
        0x4000 => "-",
        _ => return None,
    };
    let groups: Vec<u16> = (0..count).map(|_| bytes.try_get_u16().ok()).collect::<Option<_>>()?;
    let group = |at: i32| {
        let at = usize::try_from(i32::from(weight) - at).ok();
        at.and_then(|at| groups.get(at)).copied().unwrap_or(0)
    };
    let digits = |positions: &mut dyn Iterator<Item = i32>| {
        positions.map(|at| format!("{:04}", group(at))).collect::<String>()
    };
    if !(-10..=10).contains(&weight) || scale > 38 {
        return None;
    }
    let whole = digits(&mut (0..=i32::from(weight)).rev());
    let fraction = digits(&mut (1..=(i32::from(scale) + 3) / 4).map(|at| -at));
    let fraction = &fraction[..usize::from(scale).min(fraction.len())];
    let whole = whole.trim_start_matches('0');
    decimal(&format!("{sign}0{whole}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_times_of_day_may_have_a_zone_behind_them() {
        let day = from_text("2026-05-01", &DataType::Date32).expect("a day");
        for text in ["2026-05-01 +00", "2026-05-01 00:00:00+00", "2026-05-01T00:00:00Z", " 2026-05-01 "] {
            assert_eq!(from_text(text, &DataType::Date32).expect(text), day);
        }
        assert!(from_text("tomorrow", &DataType::Date32).is_err());
        let clock = from_text("08:30:00.5", &DataType::Time64(TimeUnit::Microsecond)).expect("a time");
        assert_eq!(
            from_text("08:30:00.5+00", &DataType::Time64(TimeUnit::Microsecond)).expect("a time"),
            clock
        );
    }

    #[test]
    fn arrays_numbers_and_bytes_are_read_as_postgres_writes_them() {
        let items = array_items(r#"{1, "a \"b\"",NULL,"null",}"#).expect("items");
        let expected = [Some("1"), Some("a \"b\""), None, Some("null"), Some("")];
        assert_eq!(items, expected.map(|item| item.map(str::to_owned)));
        assert!(array_items("{{1}}").is_err());
        assert_eq!(decimal("-12.30"), Some(ScalarValue::Decimal128(Some(-1230), 4, 2)));
        assert_eq!(decimal("1e3"), Some(ScalarValue::Decimal128(Some(1000), 4, 0)));
        assert_eq!(decimal("x"), None);
        assert_eq!(bytea("\\x00ff").expect("bytes"), [0, 255]);
        assert_eq!(bytea("a\\\\\\001").expect("bytes"), [b'a', b'\\', 1]);
        // 12345.6789 as PostgreSQL sends it.
        let binary = [0, 3, 0, 1, 0, 0, 0, 4, 0, 1, 0x09, 0x29, 0x1a, 0x85];
        assert_eq!(numeric(&binary), Some(ScalarValue::Decimal128(Some(123_456_789), 9, 4)));
    }
}
