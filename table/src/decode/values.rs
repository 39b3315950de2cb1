//! From text to exact values: numbers, booleans, dates, times, escapes.
//!
//! *Invariant.* A function returns the value that the text denotes, or a [`Misfit`]; nothing is rounded, wrapped or cut
//! off, but [`real`] and [`double`] give the nearest value that the type holds.

use std::borrow::Cow;

use chrono::{Datelike as _, LocalResult, NaiveDate, TimeZone as _};
use chrono_tz::Tz;
use tarn_model::{Error, Result};

use super::json::Raw;

/// Why a text is not a value of a type, in words that follow "column `a` takes INT, not `x`: "; empty where there is
/// nothing to add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Misfit(pub(super) &'static str);

type Fits<T> = std::result::Result<T, Misfit>;

pub(super) const NOT_A_VALUE: Misfit = Misfit("");
pub(super) const OUT_OF_RANGE: Misfit = Misfit("it is out of range");
const HAS_FRACTION: Misfit = Misfit("it has a fraction");
const MORE_FRACTION: Misfit = Misfit("it has more digits after the point than the type keeps");
const MORE_DIGITS: Misfit = Misfit("it has more digits than the type keeps");
const FINER_THAN_MICROS: Misfit = Misfit("it is finer than microseconds");
const SKIPPED_TIME: Misfit = Misfit("the table's time zone skips this time when its clocks change");
const REPEATED_TIME: Misfit = Misfit("the table's time zone has this time twice when its clocks change");
/// A number of what, and since when?
pub(super) const NUMBER_FOR_TIME: Misfit =
    Misfit("a number has no unit; send text like `2026-01-31T12:00:00Z`");
/// Bytes travel as base64 text.
pub(super) const NOT_BASE64: Misfit = Misfit("it is not base64");
/// Text is UTF-8 here.
pub(super) const NOT_UTF8: Misfit = Misfit("it is not valid UTF-8");
const LONE_SURROGATE: Misfit = Misfit("it has half of a surrogate pair");

/// A JSON value, split by what it is.
#[derive(Debug, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Boolean(bool),
    Number(&'a str),
    /// A string.
    Text(Text<'a>),
    /// An array or an object.
    Nested(&'a str),
}

impl<'a> Json<'a> {
    /// Tells values apart by their first byte: they are valid JSON.
    #[inline]
    pub(super) fn new(raw: Raw<'a>) -> Json<'a> {
        match raw.text.as_bytes().first() {
            Some(b'"') => Json::Text(Text { inner: &raw.text[1..raw.text.len() - 1], plain: raw.plain }),
            Some(b'n') | None => Json::Null,
            Some(b't') => Json::Boolean(true),
            Some(b'f') => Json::Boolean(false),
            Some(b'{' | b'[') => Json::Nested(raw.text),
            Some(_) => Json::Number(raw.text),
        }
    }
}

/// A JSON string.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Text<'a> {
    /// What stands between the quotes, escapes and all.
    inner: &'a str,
    /// Whether there are no escapes.
    plain: bool,
}

impl<'a> Text<'a> {
    /// The string, without its escapes.
    pub(super) fn value(self) -> Fits<Cow<'a, str>> {
        if self.plain { Ok(Cow::Borrowed(self.inner)) } else { unescaped(self.inner) }
    }

    /// Appends the string, without its escapes.
    pub(super) fn write(self, out: &mut Vec<u8>) -> Fits<()> {
        if self.plain {
            out.extend_from_slice(self.inner.as_bytes());
            return Ok(());
        }
        unescape(self.inner, out)
    }
}

/// A whole number within an INT's range or another; `3.0` and `1e3` are whole.
pub(super) fn integer<T: TryFrom<i128>>(text: &str) -> Fits<T> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let value = if digits.len() <= 18 && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        let magnitude = digits.bytes().fold(0_i64, |value, digit| value * 10 + i64::from(digit - b'0'));
        i128::from(if digits.len() == text.len() { magnitude } else { -magnitude })
    } else {
        match scaled(text, 0) {
            Ok(value) => value,
            Err(MORE_FRACTION) => return Err(HAS_FRACTION),
            Err(MORE_DIGITS) => return Err(OUT_OF_RANGE),
            Err(misfit) => return Err(misfit),
        }
    };
    T::try_from(value).map_err(|_| OUT_OF_RANGE)
}

/// The unscaled value of a DECIMAL(precision, scale).
pub(super) fn decimal(text: &str, precision: u8, scale: i8) -> Fits<i128> {
    digits(scaled(text, scale)?, precision)
}

/// The unscaled value of a decimal, if its digits are no more than `precision`.
#[inline]
pub(super) fn digits(unscaled: i128, precision: u8) -> Fits<i128> {
    let limit = LIMITS.get(usize::from(precision)).copied().ok_or(MORE_DIGITS)?;
    if -limit < unscaled && unscaled < limit { Ok(unscaled) } else { Err(MORE_DIGITS) }
}

/// Powers of ten.
const LIMITS: [i128; 39] = {
    let mut limits = [1; 39];
    let mut i = 1;
    while i < limits.len() {
        limits[i] = limits[i - 1] * 10;
        i += 1;
    }
    limits
};

/// `text` times 10 to the power of `scale`, if that is a whole number of at most 38 digits or so.
fn scaled(text: &str, scale: i8) -> Fits<i128> {
    let (negative, unsigned) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let exponent_at = unsigned.iter().position(|b| matches!(b, b'e' | b'E')).unwrap_or(unsigned.len());
    let (mantissa, exponent) = unsigned.split_at(exponent_at);
    let exponent = if exponent.is_empty() { 0 } else { exponent_of(&exponent[1..])? };

    // Zeros are held back until a digit follows, so that zeros at the end, however many, cost no digits.
    let (mut value, mut zeros, mut digits, mut fraction) = (0_i128, 0_u32, 0_usize, None::<i64>);
    for &byte in mantissa {
        match byte {
            b'.' if fraction.is_none() => {
                fraction = Some(0);
                continue;
            }
            b'0' => zeros = zeros.saturating_add(1),
            b'1'..=b'9' => {
                let shift = if value == 0 { 1 } else { power_of_ten(i64::from(zeros) + 1)? };
                value = value
                    .checked_mul(shift)
                    .and_then(|v| v.checked_add(i128::from(byte - b'0')))
                    .ok_or(MORE_DIGITS)?;
                zeros = 0;
            }
            _ => return Err(NOT_A_VALUE),
        }
        digits += 1;
        fraction = fraction.map(|places| places + 1);
    }
    if digits == 0 {
        return Err(NOT_A_VALUE);
    }
    if value == 0 {
        return Ok(0);
    }
    let shift = exponent - fraction.unwrap_or(0) + i64::from(scale) + i64::from(zeros);
    if shift < 0 {
        return Err(MORE_FRACTION);
    }
    let value = value.checked_mul(power_of_ten(shift)?).ok_or(MORE_DIGITS)?;
    Ok(if negative { -value } else { value })
}

fn power_of_ten(exponent: i64) -> Fits<i128> {
    let exponent = u32::try_from(exponent).map_err(|_| MORE_DIGITS)?;
    10_i128.checked_pow(exponent).ok_or(MORE_DIGITS)
}

fn exponent_of(text: &[u8]) -> Fits<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NOT_A_VALUE);
    }
    // Beyond a billion it makes no difference, and nothing overflows.
    let value =
        digits.iter().fold(0_i64, |value, digit| (value * 10 + i64::from(digit - b'0')).min(1_000_000_000));
    Ok(if negative { -value } else { value })
}

/// The nearest DOUBLE; also `NaN`, `Infinity`, `inf`, with a sign, in any case.
pub(super) fn double(text: &str) -> Fits<f64> {
    let value: f64 = text.parse().map_err(|_| NOT_A_VALUE)?;
    if value.is_infinite() && text.bytes().any(|b| b.is_ascii_digit()) {
        Err(OUT_OF_RANGE)
    } else {
        Ok(value)
    }
}

/// The nearest REAL, as [`double`].
pub(super) fn real(text: &str) -> Fits<f32> {
    let value: f32 = text.parse().map_err(|_| NOT_A_VALUE)?;
    if value.is_infinite() && text.bytes().any(|b| b.is_ascii_digit()) {
        Err(OUT_OF_RANGE)
    } else {
        Ok(value)
    }
}

/// `true`, `t`, `1` and `false`, `f`, `0`, in any case.
pub(super) fn boolean(text: &str) -> Fits<bool> {
    if text == "1" || text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("t") {
        Ok(true)
    } else if text == "0" || text.eq_ignore_ascii_case("false") || text.eq_ignore_ascii_case("f") {
        Ok(false)
    } else {
        Err(NOT_A_VALUE)
    }
}

/// Days since 1970 of `YYYY-MM-DD`, years 1 to 9999.
pub(super) fn date(text: &str) -> Fits<i32> {
    match text.as_bytes() {
        bytes @ [_, _, _, _, b'-', _, _, b'-', _, _] => day(bytes).map(days_since_1970),
        _ => Err(NOT_A_VALUE),
    }
}

fn day(bytes: &[u8]) -> Fits<NaiveDate> {
    let year = two(bytes, 0)? * 100 + two(bytes, 2)?;
    let year = i32::try_from(year).map_err(|_| NOT_A_VALUE)?;
    let date = NaiveDate::from_ymd_opt(year, two(bytes, 5)?, two(bytes, 8)?).ok_or(NOT_A_VALUE)?;
    if year == 0 { Err(OUT_OF_RANGE) } else { Ok(date) }
}

fn days_since_1970(date: NaiveDate) -> i32 {
    const FROM_YEAR_1_TO_1970: i32 = 719_163;
    date.num_days_from_ce() - FROM_YEAR_1_TO_1970
}

/// The number that two digits at `at` form.
fn two(bytes: &[u8], at: usize) -> Fits<u32> {
    match bytes.get(at..at + 2) {
        Some([tens @ b'0'..=b'9', ones @ b'0'..=b'9']) => {
            Ok(u32::from(tens - b'0') * 10 + u32::from(ones - b'0'))
        }
        _ => Err(NOT_A_VALUE),
    }
}

/// Zone of times that name none.
#[derive(Debug, Clone, Copy)]
pub(super) enum Zone {
    /// UTC.
    Utc,
    /// A zone of the IANA database.
    Named(Tz),
}

impl Zone {
    /// The zone of this name; `None` is UTC.
    pub(super) fn named(name: Option<&str>) -> Result<Zone> {
        match name {
            None | Some("UTC") => Ok(Zone::Utc),
            Some(name) => name.parse().map(Zone::Named).map_err(|_| {
                Error::invalid(format!("there is no time zone `{name}`"))
                    .with_hint("use an IANA name such as `Europe/Berlin`")
            }),
        }
    }
}

const SECOND_US: i64 = 1_000_000;

/// Microseconds since 1970 UTC of `YYYY-MM-DD`, `YYYY-MM-DD HH:MM` and longer: seconds, a fraction of up to nine digits,
/// `Z`, `UTC` or an offset; `T` or a space before the time. Without an offset it is a time of `zone`.
pub(super) fn timestamp(text: &str, zone: Zone) -> Fits<i64> {
    let bytes = text.as_bytes();
    let (date, rest) = bytes.split_at_checked(10).ok_or(NOT_A_VALUE)?;
    if date[4] != b'-' || date[7] != b'-' {
        return Err(NOT_A_VALUE);
    }
    let date = day(date)?;
    let midnight_s = i64::from(days_since_1970(date)) * 86_400;
    let (second_of_day, micros, rest) = match rest {
        [] => (0, 0, rest),
        [b'T' | b't' | b' ', time @ ..] => time_of_day(time)?,
        _ => return Err(NOT_A_VALUE),
    };
    let local_s = midnight_s + i64::from(second_of_day);
    let offset_s = match rest.trim_ascii_start() {
        [] => match zone {
            Zone::Utc => 0,
            Zone::Named(tz) => offset_in(tz, date, second_of_day)?,
        },
        b"Z" | b"z" | b"UTC" => 0,
        [sign @ (b'+' | b'-'), offset @ ..] => {
            let offset_s = offset_seconds(offset)?;
            if *sign == b'-' { -offset_s } else { offset_s }
        }
        _ => return Err(NOT_A_VALUE),
    };
    let us = (local_s - i64::from(offset_s)) * SECOND_US + micros;
    if super::TIMESTAMPS_US.contains(&us) { Ok(us) } else { Err(OUT_OF_RANGE) }
}

/// Second of the day, microseconds, and what follows.
fn time_of_day(time: &[u8]) -> Fits<(u32, i64, &[u8])> {
    let (hour, minute) = (two(time, 0)?, two(time, 3)?);
    if time[2] != b':' || hour > 23 || minute > 59 {
        return Err(NOT_A_VALUE);
    }
    let [b':', after @ ..] = &time[5..] else {
        return Ok((hour * 3600 + minute * 60, 0, &time[5..]));
    };
    let second = two(after, 0)?;
    if second > 59 {
        return Err(if second == 60 { Misfit("it is a leap second") } else { NOT_A_VALUE });
    }
    let second_of_day = hour * 3600 + minute * 60 + second;
    match &after[2..] {
        [b'.' | b',', fraction @ ..] => {
            let length = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
            let (digits, rest) = fraction.split_at(length);
            Ok((second_of_day, micros(digits)?, rest))
        }
        rest => Ok((second_of_day, 0, rest)),
    }
}

fn micros(digits: &[u8]) -> Fits<i64> {
    if digits.is_empty() || digits.len() > 9 {
        return Err(NOT_A_VALUE);
    }
    if digits.iter().skip(6).any(|digit| *digit != b'0') {
        return Err(FINER_THAN_MICROS);
    }
    let padded = digits.iter().copied().chain(std::iter::repeat(b'0'));
    Ok(padded.take(6).fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
}

/// `HH:MM`, `HHMM` or `HH`.
fn offset_seconds(text: &[u8]) -> Fits<i32> {
    let hours = two(text, 0)?;
    let minutes = match &text[2..] {
        [] => 0,
        minutes @ ([b':', _, _] | [_, _]) => two(minutes, minutes.len() - 2)?,
        _ => return Err(NOT_A_VALUE),
    };
    if hours > 23 || minutes > 59 {
        return Err(NOT_A_VALUE);
    }
    i32::try_from(hours * 3600 + minutes * 60).map_err(|_| NOT_A_VALUE)
}

fn offset_in(zone: Tz, date: NaiveDate, second_of_day: u32) -> Fits<i32> {
    use chrono::Offset as _;
    let time = chrono::NaiveTime::from_num_seconds_from_midnight_opt(second_of_day, 0).ok_or(NOT_A_VALUE)?;
    match zone.offset_from_local_datetime(&date.and_time(time)) {
        LocalResult::Single(offset) => Ok(offset.fix().local_minus_utc()),
        LocalResult::Ambiguous(..) => Err(REPEATED_TIME),
        LocalResult::None => Err(SKIPPED_TIME),
    }
}

/// What stands between the quotes of a JSON string, without its escapes.
pub(super) fn unescaped(inner: &str) -> Fits<Cow<'_, str>> {
    let mut out = Vec::with_capacity(inner.len());
    unescape(inner, &mut out)?;
    // `unescape` copies whole UTF-8 runs and encodes chars: this cannot fail.
    String::from_utf8(out).map(Cow::Owned).map_err(|_| NOT_A_VALUE)
}

/// Appends what stands between the quotes of a JSON string to `out`.
fn unescape(inner: &str, out: &mut Vec<u8>) -> Fits<()> {
    let mut rest = inner;
    while let Some(at) = rest.as_bytes().iter().position(|b| *b == b'\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = *rest.as_bytes().get(at + 1).ok_or(NOT_A_VALUE)?;
        let mut taken = at + 2;
        let c = match escape {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'"' | b'\\' | b'/' => char::from(escape),
            b'u' => {
                let (c, length) = unicode_escape(&rest.as_bytes()[taken..])?;
                taken += length;
                c
            }
            _ => return Err(NOT_A_VALUE),
        };
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        rest = &rest[taken..];
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(())
}

/// The char after `\u`, and the length of what denotes it.
fn unicode_escape(bytes: &[u8]) -> Fits<(char, usize)> {
    let high = four_hex(bytes)?;
    if let Some(c) = char::from_u32(high) {
        return Ok((c, 4));
    }
    let low = match bytes.get(4..) {
        Some([b'\\', b'u', low @ ..]) if high < 0xDC00 => four_hex(low)?,
        _ => return Err(LONE_SURROGATE),
    };
    if !(0xDC00..0xE000).contains(&low) {
        return Err(LONE_SURROGATE);
    }
    let c = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
    char::from_u32(c).map(|c| (c, 10)).ok_or(LONE_SURROGATE)
}

fn four_hex(bytes: &[u8]) -> Fits<u32> {
    let digits = bytes.get(..4).ok_or(NOT_A_VALUE)?;
    digits.iter().try_fold(0, |value, digit| {
        char::from(*digit).to_digit(16).map(|digit| value * 16 + digit).ok_or(NOT_A_VALUE)
    })
}
