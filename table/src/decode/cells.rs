//! One column under construction: takes raw JSON values, gives an Arrow array.
//!
//! *Why not Arrow's builders.* They cannot take back a value. Here a column that is ahead of the others is cut back to the
//! rows that are complete, so values go to their place as they are read.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, BooleanBufferBuilder, Decimal128Array,
    NullBufferBuilder, PrimitiveArray, StringArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use tarn_model::columns::ColumnType;
use tarn_model::{Error, Result, Value};

use super::json::Raw;
use super::values::{self, Json, Misfit, Zone};

/// RFC 4648 base64; padding may be left out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Values of one column, row by row.
pub(super) struct Cells {
    values: Values,
    nulls: NullBufferBuilder,
    rows: usize,
}

enum Values {
    Boolean(BooleanBufferBuilder),
    TinyInt(Vec<i8>),
    SmallInt(Vec<i16>),
    Int(Vec<i32>),
    BigInt(Vec<i64>),
    Real(Vec<f32>),
    Double(Vec<f64>),
    Decimal(Vec<i128>, u8, i8),
    Date(Vec<i32>),
    Timestamp(Vec<i64>),
    Varchar(Bytes),
    Binary(Bytes),
}

/// Byte strings end to end; `ends[i]` is where value `i` ends.
#[derive(Default)]
struct Bytes {
    data: Vec<u8>,
    ends: Vec<usize>,
}

impl Bytes {
    fn end(&mut self) {
        self.ends.push(self.data.len());
    }

    fn last_end(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    fn truncate(&mut self, rows: usize) {
        self.ends.truncate(rows);
        self.data.truncate(self.last_end());
    }

    /// Offsets and data. A column of one decode holds less than 2 GiB.
    fn finish(&mut self) -> Result<(OffsetBuffer<i32>, arrow::buffer::Buffer)> {
        // The next decode tends to be like this one: a little more room than this one took saves growing.
        let room = self.data.len() + self.data.len() / 16;
        let mut data = std::mem::replace(&mut self.data, Vec::with_capacity(room));
        // Tails are counted by what they hold in memory.
        if data.capacity() - data.len() > data.len() / 8 {
            data.shrink_to_fit();
        }
        if i32::try_from(data.len()).is_err() {
            return Err(Error::internal(format!(
                "a column of one decode has {} bytes, more than 2 GiB",
                data.len()
            )));
        }
        let mut offsets = Vec::with_capacity(self.ends.len() + 1);
        offsets.push(0);
        offsets.extend(self.ends.drain(..).map(|end| i32::try_from(end).unwrap_or(i32::MAX)));
        Ok((OffsetBuffer::new(ScalarBuffer::from(offsets)), data.into()))
    }
}

impl Cells {
    /// An empty column.
    pub(super) fn new(column_type: ColumnType) -> Cells {
        let values = match column_type {
            ColumnType::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            ColumnType::TinyInt => Values::TinyInt(Vec::new()),
            ColumnType::SmallInt => Values::SmallInt(Vec::new()),
            ColumnType::Int => Values::Int(Vec::new()),
            ColumnType::BigInt => Values::BigInt(Vec::new()),
            ColumnType::Real => Values::Real(Vec::new()),
            ColumnType::Double => Values::Double(Vec::new()),
            ColumnType::Decimal(precision, scale) => Values::Decimal(Vec::new(), precision, scale),
            ColumnType::Date => Values::Date(Vec::new()),
            ColumnType::Timestamp => Values::Timestamp(Vec::new()),
            ColumnType::Varchar => Values::Varchar(Bytes::default()),
            ColumnType::Binary => Values::Binary(Bytes::default()),
        };
        Cells { values, nulls: NullBufferBuilder::new(0), rows: 0 }
    }

    /// Makes room for `rows` more.
    pub(super) fn reserve(&mut self, rows: usize) {
        match &mut self.values {
            Values::Boolean(values) => values.reserve(rows),
            Values::TinyInt(values) => values.reserve(rows),
            Values::SmallInt(values) => values.reserve(rows),
            Values::Int(values) | Values::Date(values) => values.reserve(rows),
            Values::BigInt(values) | Values::Timestamp(values) => values.reserve(rows),
            Values::Real(values) => values.reserve(rows),
            Values::Double(values) => values.reserve(rows),
            Values::Decimal(values, ..) => values.reserve(rows),
            Values::Varchar(bytes) | Values::Binary(bytes) => bytes.ends.reserve(rows),
        }
    }

    /// Number of rows that have a value or NULL.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Whether the newest row is NULL.
    pub(super) fn last_is_null(&self) -> bool {
        self.rows.checked_sub(1).is_some_and(|last| !self.nulls.is_valid(last))
    }

    /// Appends a JSON value. After an error the column may hold a part of it: [`Cells::truncate`] takes that back.
    pub(super) fn push(&mut self, raw: Raw<'_>, zone: &Zone) -> std::result::Result<(), Misfit> {
        let json = Json::new(raw);
        if json == Json::Null {
            self.push_null();
            return Ok(());
        }
        match &mut self.values {
            Values::Varchar(bytes) => {
                match json {
                    Json::Text(text) => text.write(&mut bytes.data)?,
                    _ => bytes.data.extend_from_slice(raw.text.as_bytes()),
                }
                bytes.end();
            }
            Values::BigInt(into) => into.push(number(&json, values::integer)?),
            Values::Double(into) => into.push(number(&json, values::double)?),
            Values::Int(into) => into.push(number(&json, values::integer)?),
            Values::Timestamp(into) => into.push(time(&json, |text| values::timestamp(text, *zone))?),
            Values::Boolean(into) => into.append(boolean(&json)?),
            Values::Decimal(into, precision, scale) => {
                into.push(number(&json, |text| values::decimal(text, *precision, *scale))?);
            }
            Values::Date(into) => into.push(time(&json, values::date)?),
            Values::Real(into) => into.push(number(&json, values::real)?),
            Values::SmallInt(into) => into.push(number(&json, values::integer)?),
            Values::TinyInt(into) => into.push(number(&json, values::integer)?),
            Values::Binary(bytes) => {
                let Json::Text(text) = json else { return Err(values::NOT_BASE64) };
                let text = text.value()?;
                BASE64.decode_vec(text.as_ref(), &mut bytes.data).map_err(|_| values::NOT_BASE64)?;
                bytes.end();
            }
        }
        self.nulls.append_non_null();
        self.rows += 1;
        Ok(())
    }

    /// Appends a database's value. After an error the column may hold a part of it.
    pub(super) fn push_value(&mut self, value: Value<'_>, zone: &Zone) -> std::result::Result<(), Misfit> {
        match (&mut self.values, value) {
            (_, Value::Null) => {
                self.push_null();
                return Ok(());
            }
            (Values::Varchar(bytes), Value::Text(text)) => {
                std::str::from_utf8(text).map_err(|_| values::NOT_UTF8)?;
                bytes.data.extend_from_slice(text);
                bytes.end();
            }
            (Values::BigInt(into), Value::Int(number)) => into.push(number),
            (Values::Int(into), Value::Int(number)) => into.push(within(number)?),
            (Values::Double(into), Value::Float(number)) => into.push(number),
            (Values::Decimal(into, precision, scale), Value::Decimal(unscaled, places))
                if i16::from(*scale) == i16::from(places) =>
            {
                into.push(values::digits(unscaled, *precision)?);
            }
            (Values::Date(into), Value::Date(days)) if super::DATES.contains(&days) => into.push(days),
            (Values::Timestamp(into), Value::Timestamp(us, is_utc))
                if is_utc || matches!(zone, Zone::Utc) =>
            {
                let us = i64::try_from(us).ok().filter(|us| super::TIMESTAMPS_US.contains(us));
                into.push(us.ok_or(values::OUT_OF_RANGE)?);
            }
            (Values::Decimal(into, precision, scale), Value::Text(text)) => {
                into.push(values::decimal(utf8(text)?.trim_ascii(), *precision, *scale)?);
            }
            (Values::Timestamp(into), Value::Text(text)) => {
                into.push(values::timestamp(utf8(text)?.trim_ascii(), *zone)?);
            }
            (Values::Date(into), Value::Text(text)) => into.push(values::date(utf8(text)?.trim_ascii())?),
            (Values::Boolean(into), Value::Bool(is)) => into.append(is),
            (Values::SmallInt(into), Value::Int(number)) => into.push(within(number)?),
            (Values::TinyInt(into), Value::Int(number)) => into.push(within(number)?),
            (Values::Real(into), Value::Real(number)) => into.push(number),
            (Values::Binary(bytes), Value::Bytes(found)) => {
                bytes.data.extend_from_slice(found);
                bytes.end();
            }
            (_, other) => return self.push_other(other, zone),
        }
        self.nulls.append_non_null();
        self.rows += 1;
        Ok(())
    }

    /// Appends a value whose type is not the column's, as the JSON that it would be in a record.
    #[cold]
    fn push_other(&mut self, value: Value<'_>, zone: &Zone) -> std::result::Result<(), Misfit> {
        let mut json = Vec::new();
        match value {
            Value::Null => json.extend_from_slice(b"null"),
            Value::Bool(is) => json.extend_from_slice(if is { b"true" } else { b"false" }),
            Value::Int(number) => json.extend_from_slice(number.to_string().as_bytes()),
            Value::Unsigned(number) => json.extend_from_slice(number.to_string().as_bytes()),
            Value::Real(number) if number.is_finite() => {
                json.extend_from_slice(format!("{number:?}").as_bytes());
            }
            Value::Real(number) => push_json_text(not_finite(number.into()), &mut json),
            Value::Float(number) => match serde_json::Number::from_f64(number) {
                Some(number) => json.extend_from_slice(number.to_string().as_bytes()),
                None => push_json_text(not_finite(number), &mut json),
            },
            Value::Decimal(..) => value.write_text(&mut json),
            Value::Date(_) | Value::Timestamp(..) => {
                let mut text = Vec::new();
                value.write_text(&mut text);
                push_json_text(utf8(&text)?, &mut json);
            }
            Value::Text(text) => push_json_text(utf8(text)?, &mut json),
            Value::Bytes(bytes) => push_json_text(&BASE64.encode(bytes), &mut json),
        }
        let text = std::str::from_utf8(&json).map_err(|_| values::NOT_UTF8)?;
        self.push(Raw { text, plain: false }, zone)
    }

    /// Appends text as it is, to a VARCHAR column.
    pub(super) fn push_text(&mut self, text: &str) {
        if let Values::Varchar(bytes) = &mut self.values {
            bytes.data.extend_from_slice(text.as_bytes());
            bytes.end();
            self.nulls.append_non_null();
            self.rows += 1;
        }
    }

    /// Appends bytes as they are, to a BINARY column, or to a VARCHAR column when they are text; whether they are.
    pub(super) fn push_bytes(&mut self, value: &[u8]) -> bool {
        if matches!(&self.values, Values::Varchar(_)) && std::str::from_utf8(value).is_err() {
            return false;
        }
        let (Values::Varchar(bytes) | Values::Binary(bytes)) = &mut self.values else { return false };
        bytes.data.extend_from_slice(value);
        bytes.end();
        self.nulls.append_non_null();
        self.rows += 1;
        true
    }

    /// Appends a time, µs since 1970 UTC, to a TIMESTAMP column.
    pub(super) fn push_timestamp(&mut self, timestamp_us: i64) {
        if let Values::Timestamp(values) = &mut self.values {
            values.push(timestamp_us);
            self.nulls.append_non_null();
            self.rows += 1;
        }
    }

    /// Appends a member to the JSON object that the next [`Cells::close_object`] ends, in a VARCHAR column.
    pub(super) fn push_member(&mut self, name: &str, raw: &str) {
        if let Values::Varchar(bytes) = &mut self.values {
            let first = bytes.data.len() == bytes.last_end();
            bytes.data.push(if first { b'{' } else { b',' });
            push_json_text(name, &mut bytes.data);
            bytes.data.push(b':');
            bytes.data.extend_from_slice(raw.as_bytes());
        }
    }

    /// Ends the row's JSON object; NULL when it has no member.
    pub(super) fn close_object(&mut self) {
        if let Values::Varchar(bytes) = &mut self.values {
            let empty = bytes.data.len() == bytes.last_end();
            if !empty {
                bytes.data.push(b'}');
            }
            bytes.end();
            self.nulls.append(!empty);
            self.rows += 1;
        }
    }

    /// Appends NULL.
    pub(super) fn push_null(&mut self) {
        match &mut self.values {
            Values::Boolean(values) => values.append(false),
            Values::TinyInt(values) => values.push(0),
            Values::SmallInt(values) => values.push(0),
            Values::Int(values) | Values::Date(values) => values.push(0),
            Values::BigInt(values) | Values::Timestamp(values) => values.push(0),
            Values::Real(values) => values.push(0.0),
            Values::Double(values) => values.push(0.0),
            Values::Decimal(values, ..) => values.push(0),
            Values::Varchar(bytes) | Values::Binary(bytes) => bytes.end(),
        }
        self.nulls.append_null();
        self.rows += 1;
    }

    /// Takes back everything beyond the first `rows` rows, half values included.
    pub(super) fn truncate(&mut self, rows: usize) {
        match &mut self.values {
            Values::Boolean(values) => values.truncate(rows),
            Values::TinyInt(values) => values.truncate(rows),
            Values::SmallInt(values) => values.truncate(rows),
            Values::Int(values) | Values::Date(values) => values.truncate(rows),
            Values::BigInt(values) | Values::Timestamp(values) => values.truncate(rows),
            Values::Real(values) => values.truncate(rows),
            Values::Double(values) => values.truncate(rows),
            Values::Decimal(values, ..) => values.truncate(rows),
            Values::Varchar(bytes) | Values::Binary(bytes) => bytes.truncate(rows),
        }
        self.nulls.truncate(rows);
        self.rows = self.rows.min(rows);
    }

    /// The column so far; the next one starts empty.
    pub(super) fn finish(&mut self) -> Result<ArrayRef> {
        let nulls = self.nulls.finish();
        self.rows = 0;
        let array: std::result::Result<ArrayRef, ArrowError> = match &mut self.values {
            Values::Boolean(values) => Ok(Arc::new(BooleanArray::new(values.finish(), nulls))),
            Values::TinyInt(values) => primitive::<Int8Type>(values, nulls),
            Values::SmallInt(values) => primitive::<Int16Type>(values, nulls),
            Values::Int(values) => primitive::<Int32Type>(values, nulls),
            Values::BigInt(values) => primitive::<Int64Type>(values, nulls),
            Values::Real(values) => primitive::<Float32Type>(values, nulls),
            Values::Double(values) => primitive::<Float64Type>(values, nulls),
            Values::Date(values) => primitive::<Date32Type>(values, nulls),
            Values::Timestamp(values) => {
                PrimitiveArray::<TimestampMicrosecondType>::try_new(std::mem::take(values).into(), nulls)
                    .map(|array| Arc::new(array.with_timezone("UTC")) as ArrayRef)
            }
            Values::Decimal(values, precision, scale) => {
                Decimal128Array::try_new(std::mem::take(values).into(), nulls)
                    .and_then(|array| array.with_precision_and_scale(*precision, *scale))
                    .map(|array| Arc::new(array) as ArrayRef)
            }
            Values::Varchar(bytes) => {
                let (offsets, data) = bytes.finish()?;
                StringArray::try_new(offsets, data, nulls).map(|array| Arc::new(array) as ArrayRef)
            }
            Values::Binary(bytes) => {
                let (offsets, data) = bytes.finish()?;
                BinaryArray::try_new(offsets, data, nulls).map(|array| Arc::new(array) as ArrayRef)
            }
        };
        array.map_err(|e| Error::internal("a decoded column is not an array").with_source(e))
    }
}

fn utf8(text: &[u8]) -> Fits<&str> {
    std::str::from_utf8(text).map_err(|_| values::NOT_UTF8)
}

fn within<T: TryFrom<i64>>(number: i64) -> Fits<T> {
    T::try_from(number).map_err(|_| values::OUT_OF_RANGE)
}

/// What JSON has no numbers for.
fn not_finite(number: f64) -> &'static str {
    match number {
        _ if number.is_nan() => "NaN",
        _ if number < 0.0 => "-Infinity",
        _ => "Infinity",
    }
}

fn primitive<T: ArrowPrimitiveType>(
    values: &mut Vec<T::Native>,
    nulls: Option<NullBuffer>,
) -> std::result::Result<ArrayRef, ArrowError> {
    let array = PrimitiveArray::<T>::try_new(std::mem::take(values).into(), nulls)?;
    Ok(Arc::new(array))
}

type Fits<T> = std::result::Result<T, Misfit>;

/// A number, or text that denotes one: cells of CSV files and decimals of databases come as text.
#[inline]
fn number<T>(json: &Json<'_>, parse: impl Fn(&str) -> Fits<T>) -> Fits<T> {
    match json {
        Json::Number(text) => parse(text),
        Json::Text(text) => parse(text.value()?.trim_ascii()),
        _ => Err(Misfit("")),
    }
}

fn boolean(json: &Json<'_>) -> Fits<bool> {
    match json {
        Json::Boolean(value) => Ok(*value),
        Json::Number(text) => values::boolean(text),
        Json::Text(text) => values::boolean(text.value()?.trim_ascii()),
        _ => Err(Misfit("")),
    }
}

fn time<T>(json: &Json<'_>, parse: impl Fn(&str) -> Fits<T>) -> Fits<T> {
    match json {
        Json::Text(text) => parse(text.value()?.trim_ascii()),
        Json::Number(_) => Err(values::NUMBER_FOR_TIME),
        _ => Err(Misfit("")),
    }
}

/// Appends `text` as a JSON string.
pub(super) fn push_json_text(text: &str, out: &mut Vec<u8>) {
    if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing a str into a Vec has no way to fail.
        let _ = serde_json::to_writer(out, text);
    }
}
