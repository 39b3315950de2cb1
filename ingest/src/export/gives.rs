//! What a statement's columns give: a few kinds of values, whatever Arrow type they come as.
//!
//! *Invariants*: nothing is rounded on the way: what has no exact form in one of the kinds has no kind, or its row is rejected
//! (nanoseconds).

use std::fmt;
use std::ops::RangeInclusive;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array,
    StringArray, TimestampMicrosecondArray, TimestampNanosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use chrono::{DateTime, NaiveDate};
use tarn_model::{Error, Result};

/// A kind of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gives {
    Bool,
    Int,
    /// A float of 32 bits, given as one of 64.
    Real,
    Double,
    Decimal(u8, i8),
    Text,
    Bytes,
    Date,
    /// Microseconds since 1970, UTC.
    Timestamp,
    /// NULL in every row.
    Nothing,
}

impl fmt::Display for Gives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gives::Bool => f.write_str("BOOLEAN"),
            Gives::Int => f.write_str("a whole number"),
            Gives::Real => f.write_str("REAL"),
            Gives::Double => f.write_str("DOUBLE"),
            Gives::Decimal(precision, scale) => write!(f, "DECIMAL({precision},{scale})"),
            Gives::Text => f.write_str("VARCHAR"),
            Gives::Bytes => f.write_str("BINARY"),
            Gives::Date => f.write_str("DATE"),
            Gives::Timestamp => f.write_str("TIMESTAMP"),
            Gives::Nothing => f.write_str("NULL"),
        }
    }
}

impl Gives {
    /// The kind of an Arrow type; `None` for what has to be cast in the statement.
    pub(super) fn of(arrow: &DataType) -> Option<Gives> {
        Some(match arrow {
            DataType::Null => Gives::Nothing,
            DataType::Boolean => Gives::Bool,
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32 => Gives::Int,
            DataType::UInt64 => Gives::Decimal(20, 0),
            DataType::Float16 | DataType::Float32 => Gives::Real,
            DataType::Float64 => Gives::Double,
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale)
                if *scale >= 0 =>
            {
                Gives::Decimal(*precision, *scale)
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Gives::Text,
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => Gives::Bytes,
            DataType::Date32 => Gives::Date,
            DataType::Timestamp(..) => Gives::Timestamp,
            DataType::Time32(_) | DataType::Time64(_) => Gives::Text,
            DataType::Dictionary(_, values) => return Gives::of(values),
            _ => return None,
        })
    }
}

/// A value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cell<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Digits, and how many of them are behind the point.
    Decimal(i128, u8),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Days since 1970.
    Date(i32),
    /// Microseconds since 1970, UTC.
    Timestamp(i64),
    /// A time with nanoseconds, which no database here has.
    TooFine,
}

/// The values of a column.
#[derive(Debug, Clone)]
pub(super) enum Values {
    Nothing,
    Bool(BooleanArray),
    Int(Int64Array),
    Float(Float64Array),
    Decimal(Decimal128Array, u8),
    Text(StringArray),
    Bytes(BinaryArray),
    Date(Date32Array),
    Timestamp(TimestampMicrosecondArray),
    Nanoseconds(TimestampNanosecondArray),
}

impl Values {
    pub(super) fn of(array: &ArrayRef) -> Result<Values> {
        let unknown = || Error::internal(format!("an export has no `{}`", array.data_type()));
        let kind = Gives::of(array.data_type()).ok_or_else(unknown)?;
        let to = |wanted: &DataType| {
            cast(array, wanted)
                .map_err(|error| Error::invalid("a column cannot be exported").with_source(error))
        };
        Ok(match (kind, array.data_type()) {
            (Gives::Nothing, _) => Values::Nothing,
            (Gives::Bool, _) => Values::Bool(taken(&to(&DataType::Boolean)?)?),
            (Gives::Int, _) => Values::Int(taken(&to(&DataType::Int64)?)?),
            (Gives::Real | Gives::Double, _) => Values::Float(taken(&to(&DataType::Float64)?)?),
            (Gives::Decimal(precision, scale), _) => {
                Values::Decimal(taken(&to(&DataType::Decimal128(precision, scale))?)?, scale.unsigned_abs())
            }
            (Gives::Text, _) => Values::Text(taken(&to(&DataType::Utf8)?)?),
            (Gives::Bytes, _) => Values::Bytes(taken(&to(&DataType::Binary)?)?),
            (Gives::Date, _) => Values::Date(taken(&to(&DataType::Date32)?)?),
            (Gives::Timestamp, DataType::Timestamp(TimeUnit::Nanosecond, _)) => {
                Values::Nanoseconds(taken(&to(&DataType::Timestamp(TimeUnit::Nanosecond, None))?)?)
            }
            (Gives::Timestamp, _) => {
                Values::Timestamp(taken(&to(&DataType::Timestamp(TimeUnit::Microsecond, None))?)?)
            }
        })
    }

    pub(super) fn cell(&self, row: usize) -> Cell<'_> {
        match self {
            Values::Nothing => Cell::Null,
            Values::Bool(values) if values.is_valid(row) => Cell::Bool(values.value(row)),
            Values::Int(values) if values.is_valid(row) => Cell::Int(values.value(row)),
            Values::Float(values) if values.is_valid(row) => Cell::Float(values.value(row)),
            Values::Decimal(values, scale) if values.is_valid(row) => {
                Cell::Decimal(values.value(row), *scale)
            }
            Values::Text(values) if values.is_valid(row) => Cell::Text(values.value(row)),
            Values::Bytes(values) if values.is_valid(row) => Cell::Bytes(values.value(row)),
            Values::Date(values) if values.is_valid(row) => Cell::Date(values.value(row)),
            Values::Timestamp(values) if values.is_valid(row) => Cell::Timestamp(values.value(row)),
            Values::Nanoseconds(values) if values.is_valid(row) => match values.value(row) {
                value if value % 1_000 == 0 => Cell::Timestamp(value / 1_000),
                _ => Cell::TooFine,
            },
            _ => Cell::Null,
        }
    }
}

fn taken<T: Array + Clone + 'static>(array: &ArrayRef) -> Result<T> {
    let array = array.as_any().downcast_ref::<T>().cloned();
    array.ok_or_else(|| Error::internal("a column is not what it was cast to"))
}

/// The digits of a decimal, as every database reads them.
pub(super) fn decimal(value: i128, scale: u8) -> String {
    let (sign, digits) = (if value < 0 { "-" } else { "" }, value.unsigned_abs().to_string());
    let scale = usize::from(scale);
    if scale == 0 {
        return format!("{sign}{digits}");
    }
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    format!("{sign}{whole}.{fraction}")
}

/// Days since 1970 that lie in the years 1 to 9999.
pub(super) const YEARS: RangeInclusive<i32> = -719_162..=2_932_896;

/// Whether a time lies in the years 1 to 9999.
pub(super) fn is_in_years(micros: i64) -> bool {
    const DAY: i64 = 86_400_000_000;
    (i64::from(*YEARS.start())..=i64::from(*YEARS.end())).contains(&micros.div_euclid(DAY))
}

/// `2026-01-02`; `None` outside of the years 1 to 9999.
pub(super) fn date(days: i32) -> Option<String> {
    let date = YEARS.contains(&days).then(|| NaiveDate::from_epoch_days(days)).flatten()?;
    Some(date.format("%Y-%m-%d").to_string())
}

/// `2026-01-02 03:04:05`, with `.678` or `.678901` where there is a fraction; `None` outside of the years 1 to 9999.
pub(super) fn timestamp(micros: i64) -> Option<String> {
    let time = is_in_years(micros).then(|| DateTime::from_timestamp_micros(micros)).flatten()?;
    Some(time.format("%Y-%m-%d %H:%M:%S%.f").to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float32Array, UInt64Array};

    use super::*;

    #[test]
    fn values_keep_every_digit() {
        assert_eq!(decimal(0, 2), "0.00");
        assert_eq!(decimal(-5, 3), "-0.005");
        assert_eq!(decimal(12_345, 2), "123.45");
        assert_eq!(decimal(i128::MIN, 0), "-170141183460469231731687303715884105728");
        assert_eq!(date(0).as_deref(), Some("1970-01-01"));
        assert_eq!(date(-719_162).as_deref(), Some("0001-01-01"));
        assert_eq!(date(-719_163), None);
        assert_eq!(date(2_932_896).as_deref(), Some("9999-12-31"));
        assert_eq!((date(2_932_897), timestamp(i64::MAX), timestamp(i64::MIN)), (None, None, None));
        assert_eq!(timestamp(-62_135_596_800_000_000).as_deref(), Some("0001-01-01 00:00:00"));
        assert_eq!(timestamp(1_000_001).as_deref(), Some("1970-01-01 00:00:01.000001"));
        assert_eq!(timestamp(-1).as_deref(), Some("1969-12-31 23:59:59.999999"));
        assert_eq!(timestamp(0).as_deref(), Some("1970-01-01 00:00:00"));
        let big: ArrayRef = Arc::new(UInt64Array::from(vec![Some(u64::MAX), None]));
        let big = Values::of(&big).unwrap();
        assert_eq!((big.cell(0), big.cell(1)), (Cell::Decimal(u64::MAX.into(), 0), Cell::Null));
        let real: ArrayRef = Arc::new(Float32Array::from(vec![0.1]));
        assert_eq!(Values::of(&real).unwrap().cell(0), Cell::Float(f64::from(0.1_f32)));
        let fine: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1_001, 2_000]));
        let fine = Values::of(&fine).unwrap();
        assert_eq!((fine.cell(0), fine.cell(1)), (Cell::TooFine, Cell::Timestamp(2)));
    }
}
