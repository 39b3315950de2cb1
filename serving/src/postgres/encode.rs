//! Rows as PostgreSQL writes them, in text and in binary.
//!
//! *Layout*: a batch's columns are brought to one Arrow type per PostgreSQL type once; then each value is written straight into
//! the bytes that are sent. Binary formats are those of PostgreSQL's `*send` functions: numbers big endian, times as
//! microseconds and days since 2000-01-01, `numeric` in groups of four digits.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, Decimal256Array, ListArray,
    RecordBatch, StringArray, StringViewArray,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, DecimalType, Field, Float32Type, Float64Type,
    Int16Type, Int32Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};
use bytes::{BufMut, BytesMut};
use tarn_model::{Error, Result};

use super::reply::set_length;
use super::types::{ColumnKind, PgType};

/// 1970-01-01 to 2000-01-01.
pub(super) const EPOCH_DAYS: i32 = 10_957;
pub(super) const EPOCH_US: i64 = 946_684_800_000_000;
const DAY_US: i64 = 86_400_000_000;

/// A batch whose rows are written one by one.
pub(super) struct Rows {
    columns: Vec<Values>,
    count: usize,
}

/// The values of a column.
enum Values {
    Bool(BooleanArray),
    Int2(arrow::array::Int16Array),
    Int4(arrow::array::Int32Array),
    Int8(arrow::array::Int64Array),
    Float4(arrow::array::Float32Array),
    Float8(arrow::array::Float64Array),
    Numeric(Decimal128Array),
    LongNumeric(Decimal256Array),
    Text(StringArray),
    TextView(StringViewArray),
    Bytea(BinaryArray),
    Date(arrow::array::Date32Array),
    Time(arrow::array::Time64MicrosecondArray),
    Timestamp(arrow::array::TimestampMicrosecondArray, bool),
    Interval(arrow::array::IntervalMonthDayNanoArray),
    Array(ListArray, Box<Values>, PgType),
    Json(Box<Json>),
    Null,
}

/// JSON is written by a writer that keeps its place.
struct Json {
    values: ArrayRef,
    field: Arc<Field>,
    options: EncoderOptions,
}

impl Json {
    fn encoder(&self) -> std::result::Result<NullableEncoder<'_>, ArrowError> {
        make_encoder(&self.field, self.values.as_ref(), &self.options)
    }
}

impl Rows {
    /// The rows of `batch`.
    pub(super) fn new(batch: &RecordBatch) -> Result<Rows> {
        let fields = batch.schema_ref().fields().iter();
        let columns = fields
            .zip(batch.columns())
            .map(|(field, values)| Values::new(field, values))
            .collect::<std::result::Result<Vec<_>, ArrowError>>()
            .map_err(|error| {
                Error::invalid("the answer cannot be written").with_sqlstate("22000").with_source(error)
            })?;
        Ok(Rows { columns, count: batch.num_rows() })
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Row `row` as a message; column `i` in format `formats(i)`.
    pub(super) fn write(&self, row: usize, formats: &[i16], out: &mut BytesMut) -> Result<()> {
        out.put_u8(b'D');
        let at = out.len();
        out.put_i32(0);
        self.fields(row, formats, out)?;
        set_length(out, at, at);
        Ok(())
    }

    /// Row `row` as the number of its values, and each with its length before it.
    pub(super) fn fields(&self, row: usize, formats: &[i16], out: &mut BytesMut) -> Result<()> {
        out.put_u16(u16::try_from(self.columns.len()).unwrap_or(u16::MAX));
        for (column, values) in self.columns.iter().enumerate() {
            if values.is_null(row) {
                out.put_i32(-1);
                continue;
            }
            let begin = out.len();
            out.put_i32(0);
            match format_of(formats, column) {
                0 => values.write_text(row, out)?,
                _ => values.write_binary(row, out)?,
            }
            set_length(out, begin, begin + 4);
        }
        Ok(())
    }

    /// A value as text; `None` is NULL.
    pub(super) fn text<'o>(
        &self,
        column: usize,
        row: usize,
        out: &'o mut BytesMut,
    ) -> Result<Option<&'o [u8]>> {
        out.clear();
        if self.columns[column].is_null(row) {
            return Ok(None);
        }
        self.columns[column].write_text(row, out)?;
        Ok(Some(out))
    }
}

/// The format of a column: none named means text, one means all.
pub(super) fn format_of(formats: &[i16], column: usize) -> i16 {
    match formats {
        [] => 0,
        [all] => *all,
        some => some.get(column).copied().unwrap_or(0),
    }
}

impl Values {
    fn new(field: &Field, values: &ArrayRef) -> std::result::Result<Values, ArrowError> {
        let kind = ColumnKind::of(values.data_type());
        let ColumnKind::One(one) = kind else {
            let ColumnKind::Array(item) = kind else { return Ok(Values::Null) };
            let Some(stored) = item_type(values.data_type()) else { return Ok(Values::Null) };
            let list = cast(values, &DataType::new_list(stored.clone(), true))?;
            let list = list.as_list::<i32>().clone();
            let items = Values::new(&Field::new("item", stored, true), list.values())?;
            return Ok(Values::Array(list, Box::new(items), item));
        };
        let to = |data_type: DataType| cast(values, &data_type);
        Ok(match (one, values.data_type()) {
            (_, DataType::Null) => Values::Null,
            (PgType::Bool, _) => Values::Bool(to(DataType::Boolean)?.as_boolean().clone()),
            (PgType::Int2, _) => Values::Int2(to(DataType::Int16)?.as_primitive::<Int16Type>().clone()),
            (PgType::Int4, _) => Values::Int4(to(DataType::Int32)?.as_primitive::<Int32Type>().clone()),
            (PgType::Int8, _) => Values::Int8(to(DataType::Int64)?.as_primitive::<Int64Type>().clone()),
            (PgType::Float4, _) => {
                Values::Float4(to(DataType::Float32)?.as_primitive::<Float32Type>().clone())
            }
            (PgType::Float8, _) => {
                Values::Float8(to(DataType::Float64)?.as_primitive::<Float64Type>().clone())
            }
            (PgType::Numeric, DataType::Decimal256(..)) => {
                Values::LongNumeric(values.as_primitive::<Decimal256Type>().clone())
            }
            (PgType::Numeric, DataType::UInt64) => {
                Values::Numeric(to(DataType::Decimal128(20, 0))?.as_primitive::<Decimal128Type>().clone())
            }
            (
                PgType::Numeric,
                DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s),
            ) => Values::Numeric(to(DataType::Decimal128(*p, *s))?.as_primitive::<Decimal128Type>().clone()),
            (PgType::Text, DataType::Utf8View) => Values::TextView(values.as_string_view().clone()),
            (PgType::Bytea, _) => Values::Bytea(to(DataType::Binary)?.as_binary::<i32>().clone()),
            (PgType::Date, _) => Values::Date(to(DataType::Date32)?.as_primitive::<Date32Type>().clone()),
            (PgType::Time, _) => {
                let times = to(DataType::Time64(TimeUnit::Microsecond))?;
                Values::Time(times.as_primitive::<Time64MicrosecondType>().clone())
            }
            (PgType::Timestamp | PgType::Timestamptz, from) => {
                let zone = if let DataType::Timestamp(_, zone) = from { zone.clone() } else { None };
                let has_zone = zone.is_some();
                let times = to(DataType::Timestamp(TimeUnit::Microsecond, zone))?;
                Values::Timestamp(times.as_primitive::<TimestampMicrosecondType>().clone(), has_zone)
            }
            (PgType::Interval, from) => {
                // A duration is counted in units that an interval of one kind has.
                let values = match from {
                    DataType::Duration(_) => cast(values, &DataType::Duration(TimeUnit::Nanosecond))?,
                    _ => Arc::clone(values),
                };
                let values = cast(&values, &DataType::Interval(IntervalUnit::MonthDayNano))?;
                Values::Interval(values.as_primitive::<IntervalMonthDayNanoType>().clone())
            }
            (PgType::Json, _) => Values::Json(Box::new(Json {
                values: Arc::clone(values),
                field: Arc::new(field.clone().with_data_type(values.data_type().clone())),
                options: EncoderOptions::default(),
            })),
            _ => Values::Text(to(DataType::Utf8)?.as_string::<i32>().clone()),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Values::Bool(values) => values.is_null(row),
            Values::Int2(values) => values.is_null(row),
            Values::Int4(values) => values.is_null(row),
            Values::Int8(values) => values.is_null(row),
            Values::Float4(values) => values.is_null(row),
            Values::Float8(values) => values.is_null(row),
            Values::Numeric(values) => values.is_null(row),
            Values::LongNumeric(values) => values.is_null(row),
            Values::Text(values) => values.is_null(row),
            Values::TextView(values) => values.is_null(row),
            Values::Bytea(values) => values.is_null(row),
            Values::Date(values) => values.is_null(row),
            Values::Time(values) => values.is_null(row),
            Values::Timestamp(values, _) => values.is_null(row),
            Values::Interval(values) => values.is_null(row),
            Values::Array(values, ..) => values.is_null(row),
            Values::Json(json) => json.values.is_null(row),
            Values::Null => true,
        }
    }

    fn write_text(&self, row: usize, out: &mut BytesMut) -> Result<()> {
        let mut digits = itoa::Buffer::new();
        match self {
            Values::Bool(values) => out.put_u8(if values.value(row) { b't' } else { b'f' }),
            Values::Int2(values) => out.put_slice(digits.format(values.value(row)).as_bytes()),
            Values::Int4(values) => out.put_slice(digits.format(values.value(row)).as_bytes()),
            Values::Int8(values) => out.put_slice(digits.format(values.value(row)).as_bytes()),
            Values::Float4(values) => {
                let value = values.value(row);
                float(&format!("{value:e}"), &format!("{value}"), 6, out);
            }
            Values::Float8(values) => {
                let value = values.value(row);
                float(&format!("{value:e}"), &format!("{value}"), 15, out);
            }
            Values::Numeric(values) => out.put_slice(numeric(values, row).as_bytes()),
            Values::LongNumeric(values) => out.put_slice(long_numeric(values, row).as_bytes()),
            Values::Text(values) => out.put_slice(values.value(row).as_bytes()),
            Values::TextView(values) => out.put_slice(values.value(row).as_bytes()),
            Values::Bytea(values) => {
                out.put_slice(b"\\x");
                for byte in values.value(row) {
                    out.put_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
                }
            }
            Values::Date(values) => {
                let is_past = date(i64::from(values.value(row)), out);
                out.put_slice(if is_past { b" BC" } else { b"" });
            }
            Values::Time(values) => time(values.value(row), out),
            Values::Timestamp(values, has_zone) => {
                let us = values.value(row);
                let is_past = date(us.div_euclid(DAY_US), out);
                out.put_u8(b' ');
                time(us.rem_euclid(DAY_US), out);
                out.put_slice(if *has_zone { b"+00" } else { b"" });
                out.put_slice(if is_past { b" BC" } else { b"" });
            }
            Values::Interval(values) => interval(values.value(row), out),
            Values::Array(list, items, _) => {
                let (from, to) = bounds(list, row);
                let mut item = BytesMut::new();
                out.put_u8(b'{');
                for at in from..to {
                    if at > from {
                        out.put_u8(b',');
                    }
                    if items.is_null(at) {
                        out.put_slice(b"NULL");
                        continue;
                    }
                    item.clear();
                    items.write_text(at, &mut item)?;
                    quote_item(&item, out);
                }
                out.put_u8(b'}');
            }
            Values::Json(json) => {
                let mut text = Vec::new();
                let mut encoder = json.encoder().map_err(|error| {
                    Error::invalid("a value cannot be written as JSON")
                        .with_sqlstate("22000")
                        .with_source(error)
                })?;
                encoder.encode(row, &mut text);
                out.put_slice(&text);
            }
            Values::Null => {}
        }
        Ok(())
    }

    fn write_binary(&self, row: usize, out: &mut BytesMut) -> Result<()> {
        match self {
            Values::Bool(values) => out.put_u8(u8::from(values.value(row))),
            Values::Int2(values) => out.put_i16(values.value(row)),
            Values::Int4(values) => out.put_i32(values.value(row)),
            Values::Int8(values) => out.put_i64(values.value(row)),
            Values::Float4(values) => out.put_f32(values.value(row)),
            Values::Float8(values) => out.put_f64(values.value(row)),
            Values::Numeric(values) => binary_numeric(&numeric(values, row), out),
            Values::LongNumeric(values) => binary_numeric(&long_numeric(values, row), out),
            Values::Bytea(values) => out.put_slice(values.value(row)),
            Values::Date(values) => out.put_i32(values.value(row).saturating_sub(EPOCH_DAYS)),
            Values::Time(values) => out.put_i64(values.value(row)),
            Values::Timestamp(values, _) => out.put_i64(values.value(row).saturating_sub(EPOCH_US)),
            Values::Interval(values) => {
                let value = values.value(row);
                out.put_i64(value.nanoseconds / 1000);
                out.put_i32(value.days);
                out.put_i32(value.months);
            }
            Values::Array(list, items, item) => {
                let (from, to) = bounds(list, row);
                let has_null = (from..to).any(|at| items.is_null(at));
                out.put_i32(i32::from(to > from));
                out.put_i32(i32::from(has_null));
                out.put_u32(item.oid());
                if to > from {
                    out.put_i32(i32::try_from(to - from).unwrap_or(i32::MAX));
                    out.put_i32(1);
                }
                for at in from..to {
                    if items.is_null(at) {
                        out.put_i32(-1);
                        continue;
                    }
                    let begin = out.len();
                    out.put_i32(0);
                    items.write_binary(at, out)?;
                    set_length(out, begin, begin + 4);
                }
            }
            Values::Text(_) | Values::TextView(_) | Values::Json(_) | Values::Null => {
                self.write_text(row, out)?
            }
        }
        Ok(())
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn item_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => Some(item.data_type().clone()),
        _ => None,
    }
}

fn bounds(list: &ListArray, row: usize) -> (usize, usize) {
    let offset = |at: usize| usize::try_from(list.value_offsets()[at]).unwrap_or(0);
    (offset(row), offset(row + 1))
}

fn numeric(values: &Decimal128Array, row: usize) -> String {
    Decimal128Type::format_decimal(values.value(row), values.precision(), values.scale())
}

fn long_numeric(values: &Decimal256Array, row: usize) -> String {
    Decimal256Type::format_decimal(values.value(row), values.precision(), values.scale())
}

/// The shortest text that is this number, with an exponent where PostgreSQL has one.
fn float(scientific: &str, plain: &str, most_digits: i32, out: &mut BytesMut) {
    let named = match plain {
        "inf" => Some("Infinity"),
        "-inf" => Some("-Infinity"),
        "NaN" => Some("NaN"),
        _ => None,
    };
    if let Some(named) = named {
        return out.put_slice(named.as_bytes());
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..most_digits).contains(&exponent) {
        return out.put_slice(plain.as_bytes());
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    out.put_slice(format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs()).as_bytes());
}

/// `YYYY-MM-DD` of a day since 1970; whether that is before the year 1. By Howard Hinnant's `civil_from_days`.
fn date(days: i64, out: &mut BytesMut) -> bool {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let is_past = year <= 0;
    number(if is_past { 1 - year } else { year }, 4, out);
    out.put_u8(b'-');
    number(month, 2, out);
    out.put_u8(b'-');
    number(day, 2, out);
    is_past
}

/// `HH:MM:SS` and a fraction, if there is one.
fn time(us: i64, out: &mut BytesMut) {
    number(us / 3_600_000_000, 2, out);
    out.put_u8(b':');
    number(us / 60_000_000 % 60, 2, out);
    out.put_u8(b':');
    number(us / 1_000_000 % 60, 2, out);
    let mut fraction = us % 1_000_000;
    if fraction > 0 {
        let mut width = 6;
        while fraction % 10 == 0 {
            fraction /= 10;
            width -= 1;
        }
        out.put_u8(b'.');
        number(fraction, width, out);
    }
}

/// Digits, with zeros before them up to `width`.
fn number(value: i64, width: usize, out: &mut BytesMut) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(value);
    (digits.len()..width).for_each(|_| out.put_u8(b'0'));
    out.put_slice(digits.as_bytes());
}

/// As in `1 year 2 mons -3 days 04:05:06.7`.
fn interval(value: IntervalMonthDayNano, out: &mut BytesMut) {
    let us = value.nanoseconds / 1000;
    let mut parts: Vec<String> = Vec::new();
    for (count, unit) in [(value.months / 12, "year"), (value.months % 12, "mon"), (value.days, "day")] {
        if count != 0 {
            parts.push(format!("{count} {unit}{}", if count == 1 { "" } else { "s" }));
        }
    }
    out.put_slice(parts.join(" ").as_bytes());
    if us == 0 && !parts.is_empty() {
        return;
    }
    if !parts.is_empty() {
        out.put_u8(b' ');
    }
    if us < 0 {
        out.put_u8(b'-');
    }
    time(i64::try_from(us.unsigned_abs()).unwrap_or(i64::MAX), out);
}

/// A decimal number in groups of four digits.
fn binary_numeric(text: &str, out: &mut BytesMut) {
    let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = whole.trim_start_matches('0');
    let before = (4 - whole.len() % 4) % 4;
    let after = (4 - fraction.len() % 4) % 4;
    let digits: Vec<u8> = std::iter::repeat_n(b'0', before)
        .chain(whole.bytes())
        .chain(fraction.bytes())
        .chain(std::iter::repeat_n(b'0', after))
        .collect();
    let mut groups: Vec<i16> = digits
        .chunks(4)
        .map(|four| four.iter().fold(0_i16, |sum, digit| sum * 10 + i16::from(digit - b'0')))
        .collect();
    let mut weight = i16::try_from(whole.len().div_ceil(4)).unwrap_or(i16::MAX) - 1;
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let leading = groups.iter().take_while(|group| **group == 0).count();
    groups.drain(..leading);
    weight -= i16::try_from(leading).unwrap_or(0);
    out.put_i16(i16::try_from(groups.len()).unwrap_or(i16::MAX));
    out.put_i16(if groups.is_empty() { 0 } else { weight });
    out.put_u16(if is_negative && !groups.is_empty() { 0x4000 } else { 0 });
    out.put_u16(u16::try_from(fraction.len()).unwrap_or(u16::MAX));
    groups.iter().for_each(|group| out.put_i16(*group));
}

/// An item of an array's text, in quotes where it needs them.
fn quote_item(item: &[u8], out: &mut BytesMut) {
    let is_plain = !item.is_empty()
        && !item.eq_ignore_ascii_case(b"null")
        && !item
            .iter()
            .any(|byte| matches!(byte, b'"' | b'\\' | b'{' | b'}' | b',') || byte.is_ascii_whitespace());
    if is_plain {
        return out.put_slice(item);
    }
    out.put_u8(b'"');
    for byte in item {
        if matches!(byte, b'"' | b'\\') {
            out.put_u8(b'\\');
        }
        out.put_u8(*byte);
    }
    out.put_u8(b'"');
}

#[cfg(test)]
mod tests;
