//! The values of Arrow columns as JSON, exactly: the tables take each of them back as what it was.
//!
//! | Arrow | JSON | example |
//! |---|---|---|
//! | whole numbers | a number | `-7` |
//! | floats | the shortest number that is this one; `"NaN"`, `"Infinity"`, `"-Infinity"` | `0.1` |
//! | decimals | a string with all digits of the scale | `"12.30"` |
//! | strings | a string | |
//! | bytes | a string in base64 | `"AP8="` |
//! | UUIDs | a string | `"6f…-…"` |
//! | dates | a string | `"2024-02-29"` |
//! | times of day | a string with the digits of its unit | `"12:00:00.250"` |
//! | timestamps | a string with the digits of its unit; with `Z` where it counts from an instant in UTC | `"2024-02-29T12:00:00.000250Z"` |
//! | durations, intervals | a string of ISO 8601 | `"PT1.5S"`, `"P1M2DT0.5S"` |
//! | lists | a list | |
//! | structs, maps with text keys | an object | |
//! | other maps | a list of `{"key", "value"}` | |
//! | unions, dictionaries, runs | the value that stands there | |
//!
//! A date or time beyond what a calendar has (262,000 years) is its plain number, and makes the row a dead letter.

use arrow::array::{Array, AsArray, PrimitiveArray, RecordBatch};
use arrow::datatypes::*;
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime};

use crate::json;

/// Key of a field's metadata by which Avro says what its bytes are.
const LOGICAL_TYPE: &str = "logicalType";
const UUID: &str = "uuid";
const NANOS: i64 = 1_000_000_000;

/// The bytes of this field are a UUID.
pub(super) fn as_uuid(field: Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(LOGICAL_TYPE.to_owned(), UUID.to_owned());
    field.with_metadata(metadata)
}

/// Whether the bytes of this field are a UUID.
pub(super) fn is_uuid(field: &Field) -> bool {
    matches!(field.data_type(), DataType::FixedSizeBinary(16))
        && field.metadata().get(LOGICAL_TYPE).is_some_and(|logical| logical == UUID)
}

/// Appends the value of one row; `Err` says why it is only nearly that.
type Put<'a> = Box<dyn Fn(usize, &mut Vec<u8>) -> Result<(), String> + 'a>;

fn boxed<'a>(put: impl Fn(usize, &mut Vec<u8>) -> Result<(), String> + 'a) -> Put<'a> {
    Box::new(put)
}

/// Writes the rows of one batch.
pub(crate) struct Cells<'a> {
    /// `{"name":` and `,"name":`, the name, and how its values are written.
    columns: Vec<(Vec<u8>, &'a str, Put<'a>)>,
}

impl<'a> Cells<'a> {
    /// The columns of `batch`, as `schema` names them; an error names a type that JSON has no words for.
    pub(crate) fn new(batch: &'a RecordBatch, schema: &'a Schema) -> Result<Cells<'a>, String> {
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (i, (array, field)) in batch.columns().iter().zip(schema.fields()).enumerate() {
            let put = put(array.as_ref(), field)
                .map_err(|what| format!("the column `{}` has {what}", field.name()))?;
            columns.push((before(i == 0, field.name()), field.name().as_str(), put));
        }
        Ok(Cells { columns })
    }

    /// Writes a row as a JSON object in place of what is in `out`; the error says which column could not be said exactly.
    pub(crate) fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        out.clear();
        let mut wrong = Ok(());
        for (before, name, put) in &self.columns {
            out.extend_from_slice(before);
            if let Err(what) = put(row, out)
                && wrong.is_ok()
            {
                wrong = Err(format!("the column `{name}` has {what}"));
            }
        }
        out.extend_from_slice(if self.columns.is_empty() { b"{}" } else { b"}" });
        wrong
    }
}

/// What stands before a field's value in an object.
fn before(first: bool, name: &str) -> Vec<u8> {
    let mut text = vec![if first { b'{' } else { b',' }];
    json::write_string(&mut text, name);
    text.push(b':');
    text
}

/// How the values of `array` are written.
fn put<'a>(array: &'a dyn Array, field: &'a Field) -> Result<Put<'a>, String> {
    let value = put_value(array, field)?;
    let Some(nulls) = array.logical_nulls().filter(|nulls| nulls.null_count() > 0) else { return Ok(value) };
    Ok(boxed(move |row, out| match nulls.is_null(row) {
        true => {
            out.extend_from_slice(b"null");
            Ok(())
        }
        false => value(row, out),
    }))
}

fn put_value<'a>(array: &'a dyn Array, field: &'a Field) -> Result<Put<'a>, String> {
    use DataType as T;
    Ok(match array.data_type() {
        T::Null => boxed(move |_, out| {
            out.extend_from_slice(b"null");
            Ok(())
        }),
        T::Boolean => {
            let array = array.as_boolean();
            boxed(move |row, out| {
                out.extend_from_slice(if array.value(row) { b"true" } else { b"false" });
                Ok(())
            })
        }
        T::Int8 => whole::<Int8Type>(array),
        T::Int16 => whole::<Int16Type>(array),
        T::Int32 => whole::<Int32Type>(array),
        T::Int64 => whole::<Int64Type>(array),
        T::UInt8 => whole::<UInt8Type>(array),
        T::UInt16 => whole::<UInt16Type>(array),
        T::UInt32 => whole::<UInt32Type>(array),
        T::UInt64 => whole::<UInt64Type>(array),
        T::Float16 => float::<Float16Type>(
            array,
            |number| f64::from(f32::from(number)),
            |number| f32::from(number).to_string(),
        ),
        T::Float32 => float::<Float32Type>(array, f64::from, |number| format!("{number:?}")),
        T::Float64 => float::<Float64Type>(array, |number| number, |number| format!("{number:?}")),
        T::Decimal32(..) => decimal::<Decimal32Type>(array),
        T::Decimal64(..) => decimal::<Decimal64Type>(array),
        T::Decimal128(..) => decimal::<Decimal128Type>(array),
        T::Decimal256(..) => decimal::<Decimal256Type>(array),
        T::Utf8 => text(array.as_string::<i32>(), |array, row| array.value(row)),
        T::LargeUtf8 => text(array.as_string::<i64>(), |array, row| array.value(row)),
        T::Utf8View => text(array.as_string_view(), |array, row| array.value(row)),
        T::Binary => bytes(array.as_binary::<i32>(), |array, row| array.value(row)),
        T::LargeBinary => bytes(array.as_binary::<i64>(), |array, row| array.value(row)),
        T::BinaryView => bytes(array.as_binary_view(), |array, row| array.value(row)),
        T::FixedSizeBinary(_) if is_uuid(field) => {
            let array = array.as_fixed_size_binary();
            boxed(move |row, out| {
                let uuid = uuid::Uuid::from_slice(array.value(row)).map_err(|error| error.to_string())?;
                quoted(out, &uuid.to_string());
                Ok(())
            })
        }
        T::FixedSizeBinary(_) => bytes(array.as_fixed_size_binary(), |array, row| array.value(row)),
        T::Date32 => counted::<Date32Type>(array, |days| {
            NaiveDate::from_epoch_days(days.try_into().ok()?).map(|date| date.to_string())
        }),
        T::Date64 => counted::<Date64Type>(array, |ms| {
            let time = DateTime::from_timestamp_millis(ms)?;
            // What is not a whole day is no date.
            (ms.rem_euclid(86_400_000) == 0).then(|| time.date_naive().to_string())
        }),
        T::Time32(TimeUnit::Second) => counted::<Time32SecondType>(array, |n| day_time(n, 1, 0)),
        T::Time32(_) => counted::<Time32MillisecondType>(array, |n| day_time(n, 1000, 3)),
        T::Time64(TimeUnit::Microsecond) => {
            counted::<Time64MicrosecondType>(array, |n| day_time(n, 1_000_000, 6))
        }
        T::Time64(_) => counted::<Time64NanosecondType>(array, |n| day_time(n, NANOS, 9)),
        T::Timestamp(unit, zone) => {
            let zone = if zone.is_some() { "Z" } else { "" };
            match unit {
                TimeUnit::Second => counted::<TimestampSecondType>(array, move |n| instant(n, 1, 0, zone)),
                TimeUnit::Millisecond => {
                    counted::<TimestampMillisecondType>(array, move |n| instant(n, 1000, 3, zone))
                }
                TimeUnit::Microsecond => {
                    counted::<TimestampMicrosecondType>(array, move |n| instant(n, 1_000_000, 6, zone))
                }
                TimeUnit::Nanosecond => {
                    counted::<TimestampNanosecondType>(array, move |n| instant(n, NANOS, 9, zone))
                }
            }
        }
        T::Duration(unit) => match unit {
            TimeUnit::Second => counted::<DurationSecondType>(array, |n| Some(duration(n, 1))),
            TimeUnit::Millisecond => counted::<DurationMillisecondType>(array, |n| Some(duration(n, 1000))),
            TimeUnit::Microsecond => {
                counted::<DurationMicrosecondType>(array, |n| Some(duration(n, 1_000_000)))
            }
            TimeUnit::Nanosecond => counted::<DurationNanosecondType>(array, |n| Some(duration(n, NANOS))),
        },
        T::Interval(unit) => interval(array, *unit),
        T::List(item) => {
            let array = array.as_list::<i32>();
            let offsets = array.value_offsets();
            list(put(array.values().as_ref(), item)?, move |row| {
                (offsets[row].as_usize(), offsets[row + 1].as_usize())
            })
        }
        T::LargeList(item) => {
            let array = array.as_list::<i64>();
            let offsets = array.value_offsets();
            list(put(array.values().as_ref(), item)?, move |row| {
                (offsets[row].as_usize(), offsets[row + 1].as_usize())
            })
        }
        T::FixedSizeList(item, size) => {
            let array = array.as_fixed_size_list();
            let size = usize::try_from(*size).unwrap_or_default();
            let put = put(array.values().as_ref(), item)?;
            list(put, move |row| (row * size, (row + 1) * size))
        }
        T::Struct(fields) => {
            let array = array.as_struct();
            let mut puts = Vec::with_capacity(fields.len());
            for (i, (column, field)) in array.columns().iter().zip(fields).enumerate() {
                puts.push((before(i == 0, field.name()), put(column.as_ref(), field)?));
            }
            boxed(move |row, out| {
                let mut wrong = Ok(());
                for (before, put) in &puts {
                    out.extend_from_slice(before);
                    wrong = wrong.and(put(row, out));
                }
                out.extend_from_slice(if puts.is_empty() { b"{}" } else { b"}" });
                wrong
            })
        }
        T::Map(..) => map(array)?,
        T::Dictionary(..) => {
            let array = array.as_any_dictionary();
            if array.values().is_empty() {
                // All are null.
                return Ok(boxed(|_, _| Ok(())));
            }
            let (keys, values) = (array.normalized_keys(), put(array.values().as_ref(), field)?);
            boxed(move |row, out| values(keys[row], out))
        }
        T::Union(fields, _) => {
            let array = array.as_union();
            let mut puts = Vec::new();
            for (id, field) in fields.iter() {
                puts.push((id, put(array.child(id).as_ref(), field)?));
            }
            boxed(move |row, out| {
                let id = array.type_id(row);
                match puts.iter().find(|(known, _)| *known == id) {
                    Some((_, put)) => put(array.value_offset(row), out),
                    None => Err(format!("a union without a branch `{id}`")),
                }
            })
        }
        other => return Err(format!("the type {other}, which is not read")),
    })
}

fn quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn whole<T: ArrowPrimitiveType<Native: itoa::Integer>>(array: &dyn Array) -> Put<'_> {
    let array: &PrimitiveArray<T> = array.as_primitive();
    boxed(move |row, out| {
        out.extend_from_slice(itoa::Buffer::new().format(array.value(row)).as_bytes());
        Ok(())
    })
}

fn float<T: ArrowPrimitiveType>(
    array: &dyn Array,
    wide: fn(T::Native) -> f64,
    shortest: fn(T::Native) -> String,
) -> Put<'_> {
    let array: &PrimitiveArray<T> = array.as_primitive();
    boxed(move |row, out| {
        let number = wide(array.value(row));
        match number.is_finite() {
            true => out.extend_from_slice(shortest(array.value(row)).as_bytes()),
            false if number.is_nan() => out.extend_from_slice(b"\"NaN\""),
            false if number < 0.0 => out.extend_from_slice(b"\"-Infinity\""),
            false => out.extend_from_slice(b"\"Infinity\""),
        }
        Ok(())
    })
}

fn decimal<T: DecimalType>(array: &dyn Array) -> Put<'_> {
    let array: &PrimitiveArray<T> = array.as_primitive();
    boxed(move |row, out| {
        quoted(out, &array.value_as_string(row));
        Ok(())
    })
}

fn text<'a, A: 'a + ?Sized>(array: &'a A, value: fn(&A, usize) -> &str) -> Put<'a> {
    boxed(move |row, out| {
        json::write_string(out, value(array, row));
        Ok(())
    })
}

fn bytes<'a, A: 'a + ?Sized>(array: &'a A, value: fn(&A, usize) -> &[u8]) -> Put<'a> {
    boxed(move |row, out| {
        quoted(out, &BASE64.encode(value(array, row)));
        Ok(())
    })
}

/// Numbers that count something from somewhere: a text, or the number where no calendar has it.
fn counted<'a, T: ArrowPrimitiveType<Native: Into<i64>>>(
    array: &'a dyn Array,
    text: impl Fn(i64) -> Option<String> + 'a,
) -> Put<'a> {
    let array: &PrimitiveArray<T> = array.as_primitive();
    boxed(move |row, out| {
        let number: i64 = array.value(row).into();
        match text(number) {
            Some(text) => {
                quoted(out, &text);
                Ok(())
            }
            None => {
                json::write_int(out, number);
                Err(format!("a time that no calendar has: `{number}`"))
            }
        }
    })
}

/// Whole seconds, and nanoseconds beyond them.
fn split(count: i64, per_second: i64) -> (i64, u32) {
    let rest = count.rem_euclid(per_second) * (NANOS / per_second);
    (count.div_euclid(per_second), u32::try_from(rest).unwrap_or_default())
}

/// A fraction of so many digits, with its point.
fn fraction(nanos: u32, digits: usize) -> String {
    match digits {
        0 => String::new(),
        _ => format!(".{nanos:09}")[..=digits].to_owned(),
    }
}

fn day_time(count: i64, per_second: i64, digits: usize) -> Option<String> {
    let (seconds, nanos) = split(count, per_second);
    let time = NaiveTime::from_num_seconds_from_midnight_opt(seconds.try_into().ok()?, 0)?;
    Some(format!("{time}{}", fraction(nanos, digits)))
}

fn instant(count: i64, per_second: i64, digits: usize, zone: &str) -> Option<String> {
    let (seconds, nanos) = split(count, per_second);
    let time: NaiveDateTime = DateTime::from_timestamp(seconds, 0)?.naive_utc();
    Some(format!("{}{}{zone}", time.format("%Y-%m-%dT%H:%M:%S"), fraction(nanos, digits)))
}

/// A length of time in seconds, as ISO 8601 writes it.
fn duration(count: i64, per_second: i64) -> String {
    format!("{}T{}S", if count < 0 { "-P" } else { "P" }, seconds(i128::from(count).abs(), per_second.into()))
}

/// A number of seconds without needless digits.
fn seconds(count: i128, per_second: i128) -> String {
    let nanos = count % per_second * (i128::from(NANOS) / per_second);
    let text = format!("{}.{nanos:09}", count / per_second);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Months, days and a time, each with its own sign.
fn interval(array: &dyn Array, unit: IntervalUnit) -> Put<'_> {
    let written = |months: i64, days: i64, nanos: i64| {
        let sign = if nanos < 0 { "-" } else { "" };
        let time = seconds(i128::from(nanos).abs(), NANOS.into());
        format!("P{months}M{days}DT{sign}{time}S")
    };
    match unit {
        IntervalUnit::YearMonth => {
            let array: &PrimitiveArray<IntervalYearMonthType> = array.as_primitive();
            boxed(move |row, out| {
                quoted(out, &written(array.value(row).into(), 0, 0));
                Ok(())
            })
        }
        IntervalUnit::DayTime => {
            let array: &PrimitiveArray<IntervalDayTimeType> = array.as_primitive();
            boxed(move |row, out| {
                let value = array.value(row);
                quoted(out, &written(0, value.days.into(), i64::from(value.milliseconds) * 1_000_000));
                Ok(())
            })
        }
        IntervalUnit::MonthDayNano => {
            let array: &PrimitiveArray<IntervalMonthDayNanoType> = array.as_primitive();
            boxed(move |row, out| {
                let value = array.value(row);
                quoted(out, &written(value.months.into(), value.days.into(), value.nanoseconds));
                Ok(())
            })
        }
    }
}

fn list<'a>(item: Put<'a>, range: impl Fn(usize) -> (usize, usize) + 'a) -> Put<'a> {
    boxed(move |row, out| {
        let (from, to) = range(row);
        let mut wrong = Ok(());
        out.push(b'[');
        for at in from..to {
            if at > from {
                out.push(b',');
            }
            wrong = wrong.and(item(at, out));
        }
        out.push(b']');
        wrong
    })
}

fn map(array: &dyn Array) -> Result<Put<'_>, String> {
    let array = array.as_map();
    let offsets = array.value_offsets();
    let fields = array.entries().fields();
    let (Some(key), Some(value)) = (fields.first(), fields.get(1)) else {
        return Err("a map without keys and values".to_owned());
    };
    let is_object = matches!(key.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let (keys, values) = (put(array.keys().as_ref(), key)?, put(array.values().as_ref(), value)?);
    Ok(boxed(move |row, out| {
        let (from, to) = (offsets[row].as_usize(), offsets[row + 1].as_usize());
        let mut wrong = Ok(());
        out.push(if is_object { b'{' } else { b'[' });
        for at in from..to {
            if at > from {
                out.push(b',');
            }
            if !is_object {
                out.extend_from_slice(b"{\"key\":");
            }
            wrong = wrong.and(keys(at, out));
            out.extend_from_slice(if is_object { b":" } else { b",\"value\":" });
            wrong = wrong.and(values(at, out));
            if !is_object {
                out.push(b'}');
            }
        }
        out.push(if is_object { b'}' } else { b']' });
        wrong
    }))
}
