//! What the types of MySQL and MariaDB become.
//!
//! Numbers, bytes and text are what the server's binary form has. Times come in parts and are written as the server would write
//! them: zero dates and days that no month has stay what they are, for the table to say so.

use std::io::Write;
use std::ops::Range;

use tarn_model::columns::ColumnType;

use super::connection::Reader;
use crate::database::row::{Cursor, Value};
use crate::database::summing::{Asked, MOST_DIGITS};

/// Types of the protocol that are not just text.
mod code {
    pub(super) const DECIMAL: u8 = 0;
    pub(super) const TINY: u8 = 1;
    pub(super) const SHORT: u8 = 2;
    pub(super) const LONG: u8 = 3;
    pub(super) const FLOAT: u8 = 4;
    pub(super) const DOUBLE: u8 = 5;
    pub(super) const NULL: u8 = 6;
    pub(super) const TIMESTAMP: u8 = 7;
    pub(super) const LONG_LONG: u8 = 8;
    pub(super) const INT24: u8 = 9;
    pub(super) const DATE: u8 = 10;
    pub(super) const TIME: u8 = 11;
    pub(super) const DATETIME: u8 = 12;
    pub(super) const YEAR: u8 = 13;
    pub(super) const BIT: u8 = 16;
    pub(super) const VECTOR: u8 = 242;
    pub(super) const JSON: u8 = 245;
    pub(super) const NEW_DECIMAL: u8 = 246;
    pub(super) const GEOMETRY: u8 = 255;
}

/// The character set of bytes.
const BINARY: u16 = 63;
const NOT_NULL: u16 = 0x1;
const UNSIGNED: u16 = 0x20;
const ENUM_OR_SET: u16 = 0x100 | 0x800;

/// A column as the server describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) name: String,
    charset: u16,
    length: u32,
    code: u8,
    flags: u16,
    decimals: u8,
}

impl Described {
    pub(super) fn read(mut rest: Reader<'_>) -> Option<Described> {
        // Catalog, schema, table and the table's own name.
        for _ in 0..4 {
            rest.string()?;
        }
        let name = String::from_utf8_lossy(rest.string()?).into_owned();
        rest.string()?;
        // The length of what follows.
        rest.number()?;
        Some(Described {
            name,
            charset: rest.int16()?,
            length: rest.int32()?,
            code: rest.byte()?,
            flags: rest.int16()?,
            decimals: rest.byte()?,
        })
    }
}

/// How a value comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float4,
    Float8,
    Date,
    DateTime,
    Timestamp,
    Time,
    Bit,
    Bool,
    Text,
    Bytes,
}

/// How a column's values compare with a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Number,
    Time,
    /// By their bytes, whatever the column's collation, as hashes of ties are.
    Bytes,
}

/// A column that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) column_type: ColumnType,
    pub(super) nullable: bool,
    /// `None` of what cannot be a cursor.
    pub(super) order: Option<Order>,
    wire: Wire,
    /// Digits of a second.
    digits: usize,
}

impl Field {
    pub(super) fn of(column: &Described) -> Field {
        let is_unsigned = column.flags & UNSIGNED != 0;
        let sized = |signed: (Wire, ColumnType), unsigned: (Wire, ColumnType)| {
            let (wire, column_type) = if is_unsigned { unsigned } else { signed };
            (wire, column_type, Some(Order::Number))
        };
        let (wire, column_type, order) = match column.code {
            code::TINY => sized((Wire::Int8, ColumnType::SmallInt), (Wire::UInt8, ColumnType::SmallInt)),
            code::SHORT => sized((Wire::Int16, ColumnType::SmallInt), (Wire::UInt16, ColumnType::Int)),
            code::INT24 => sized((Wire::Int32, ColumnType::Int), (Wire::UInt32, ColumnType::Int)),
            code::LONG => sized((Wire::Int32, ColumnType::Int), (Wire::UInt32, ColumnType::BigInt)),
            code::LONG_LONG => {
                sized((Wire::Int64, ColumnType::BigInt), (Wire::UInt64, ColumnType::Decimal(20, 0)))
            }
            code::YEAR => (Wire::UInt16, ColumnType::SmallInt, Some(Order::Number)),
            code::FLOAT => (Wire::Float4, ColumnType::Real, Some(Order::Number)),
            code::DOUBLE => (Wire::Float8, ColumnType::Double, Some(Order::Number)),
            code::DECIMAL | code::NEW_DECIMAL => {
                (Wire::Text, decimal(column, is_unsigned), Some(Order::Number))
            }
            code::DATE => (Wire::Date, ColumnType::Date, Some(Order::Time)),
            code::DATETIME => (Wire::DateTime, ColumnType::Timestamp, Some(Order::Time)),
            code::TIMESTAMP => (Wire::Timestamp, ColumnType::Timestamp, Some(Order::Time)),
            code::TIME => (Wire::Time, ColumnType::Varchar, None),
            code::BIT => match column.length {
                1 => (Wire::Bool, ColumnType::Boolean, None),
                64.. => (Wire::Bit, ColumnType::Decimal(20, 0), None),
                _ => (Wire::Bit, ColumnType::BigInt, None),
            },
            code::JSON | code::NULL => (Wire::Text, ColumnType::Varchar, None),
            code::GEOMETRY | code::VECTOR => (Wire::Bytes, ColumnType::Binary, None),
            _ if column.flags & ENUM_OR_SET != 0 => (Wire::Text, ColumnType::Varchar, None),
            _ if column.charset == BINARY => (Wire::Bytes, ColumnType::Binary, Some(Order::Bytes)),
            _ => (Wire::Text, ColumnType::Varchar, Some(Order::Bytes)),
        };
        // Expressions may have more digits than there are.
        let digits = usize::from(if column.decimals <= 6 { column.decimals } else { 6 });
        let nullable = column.flags & NOT_NULL == 0;
        Field { name: column.name.clone(), column_type, nullable, order, wire, digits }
    }
}

impl Field {
    /// What the server is asked for to compare it; `local_times` have no zone and are UTC.
    pub(super) fn asked(&self, local_times: bool) -> Asked {
        let column = super::quoted(&self.name);
        let summed = match (self.wire, self.column_type) {
            (Wire::Int8 | Wire::Int16 | Wire::Int32 | Wire::Int64, _)
            | (Wire::UInt8 | Wire::UInt16 | Wire::UInt32 | Wire::UInt64, _)
            | (Wire::Text, ColumnType::Decimal(..=MOST_DIGITS, _)) => Some(column.clone()),
            (Wire::Date, _) => Some(format!("DATEDIFF({column}, '1970-01-01')")),
            (Wire::DateTime, _) if !local_times => None,
            (Wire::DateTime | Wire::Timestamp, _) => {
                Some(format!("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {column})"))
            }
            (Wire::Text, ColumnType::Varchar) if self.order == Some(Order::Bytes) => {
                Some(format!("LENGTH(CONVERT({column} USING utf8mb4))"))
            }
            (Wire::Bytes, _) if self.order == Some(Order::Bytes) => Some(format!("LENGTH({column})")),
            _ => None,
        };
        let sum = summed.map(|summed| format!("CAST(SUM({summed}) AS CHAR)"));
        Asked { column, column_type: self.column_type, sum }
    }
}

/// `DECIMAL(p,s)` with up to 38 digits is a decimal; a longer one keeps its digits as text. Its length counts point and sign.
fn decimal(column: &Described, is_unsigned: bool) -> ColumnType {
    let (point, sign) = (u32::from(column.decimals > 0), u32::from(!is_unsigned));
    let precision = u8::try_from(column.length.saturating_sub(point + sign));
    match (precision, i8::try_from(column.decimals)) {
        (Ok(precision @ 1..=38), Ok(scale)) if scale.unsigned_abs() <= precision => {
            ColumnType::Decimal(precision, scale)
        }
        _ => ColumnType::Varchar,
    }
}

/// A row in binary form; times are written to `written`. `None` is no row.
pub(super) fn row<'a>(fields: &[Field], row: &'a [u8], written: &'a mut Vec<u8>) -> Option<Vec<Value<'a>>> {
    written.clear();
    let mut rest = Reader(row);
    if rest.byte()? != 0 {
        return None;
    }
    // The first two bits stand for nothing.
    let nulls = rest.bytes((fields.len() + 2).div_ceil(8))?;
    let mut values = Vec::with_capacity(fields.len());
    let mut times: Vec<(usize, Range<usize>)> = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        if nulls[(i + 2) / 8] & 1 << ((i + 2) % 8) != 0 {
            values.push(Value::Null);
            continue;
        }
        values.push(match field.wire {
            Wire::Int8 => Value::Int(i8::from_le_bytes(rest.array()?).into()),
            Wire::Int16 => Value::Int(i16::from_le_bytes(rest.array()?).into()),
            Wire::Int32 => Value::Int(i32::from_le_bytes(rest.array()?).into()),
            Wire::Int64 => Value::Int(i64::from_le_bytes(rest.array()?)),
            Wire::UInt8 => Value::Int(rest.byte()?.into()),
            Wire::UInt16 => Value::Int(rest.int16()?.into()),
            Wire::UInt32 => Value::Int(rest.int32()?.into()),
            Wire::UInt64 => Value::Unsigned(u64::from_le_bytes(rest.array()?)),
            Wire::Float4 => Value::Real(f32::from_le_bytes(rest.array()?)),
            Wire::Float8 => Value::Float(f64::from_le_bytes(rest.array()?)),
            Wire::Text => Value::Text(rest.string()?),
            Wire::Bytes => Value::Bytes(rest.string()?),
            Wire::Bit => Value::Unsigned(bits(rest.string()?)?),
            Wire::Bool => Value::Bool(bits(rest.string()?)? != 0),
            Wire::Date | Wire::DateTime | Wire::Timestamp | Wire::Time => {
                let size = usize::from(rest.byte()?);
                let start = written.len();
                match field.wire {
                    Wire::Time => write_time(written, rest.bytes(size)?, field.digits)?,
                    wire => write_moment(written, rest.bytes(size)?, wire, field.digits)?,
                }
                times.push((i, start..written.len()));
                Value::Null
            }
        });
    }
    let written: &'a [u8] = written;
    for (i, at) in times {
        values[i] = Value::Text(&written[at]);
    }
    Some(values)
}

fn bits(bytes: &[u8]) -> Option<u64> {
    (bytes.len() <= 8).then(|| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// A date, or a date and a time, of which the end is left out where it is zero.
fn write_moment(out: &mut Vec<u8>, parts: &[u8], wire: Wire, digits: usize) -> Option<()> {
    if !matches!(parts.len(), 0 | 4 | 7 | 11) {
        return None;
    }
    let mut all = [0; 11];
    all[..parts.len()].copy_from_slice(parts);
    let mut rest = Reader(&all);
    let _ = write!(out, "{:04}-{:02}-{:02}", rest.int16()?, rest.byte()?, rest.byte()?);
    if wire == Wire::Date {
        return Some(());
    }
    let _ = write!(out, " {:02}:{:02}:{:02}", rest.byte()?, rest.byte()?, rest.byte()?);
    write_fraction(out, rest.int32()?, digits);
    if wire == Wire::Timestamp {
        out.extend_from_slice(b"+00");
    }
    Some(())
}

/// A length of time, of which all is left out where it is zero.
fn write_time(out: &mut Vec<u8>, parts: &[u8], digits: usize) -> Option<()> {
    if !matches!(parts.len(), 0 | 8 | 12) {
        return None;
    }
    let mut all = [0; 12];
    all[..parts.len()].copy_from_slice(parts);
    let mut rest = Reader(&all);
    let sign = if rest.byte()? == 0 { "" } else { "-" };
    let (days, hours) = (rest.int32()?, rest.byte()?);
    let hours = u64::from(days) * 24 + u64::from(hours);
    let _ = write!(out, "{sign}{hours:02}:{:02}:{:02}", rest.byte()?, rest.byte()?);
    write_fraction(out, rest.int32()?, digits);
    Some(())
}

fn write_fraction(out: &mut Vec<u8>, micros: u32, digits: usize) {
    if digits > 0 {
        let fraction = format!("{micros:06}");
        out.push(b'.');
        out.extend_from_slice(&fraction.as_bytes()[..digits]);
    }
}

/// A cursor in SQL; `None` for one of another kind of column.
pub(super) fn literal(cursor: &Cursor, order: Order) -> Option<String> {
    let fits = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || more.contains(c))
    };
    match (order, cursor) {
        (Order::Number, Cursor::Int(number)) => Some(number.to_string()),
        (Order::Number, Cursor::Float(bits)) => {
            let number = f64::from_bits(u64::from_str_radix(bits, 16).ok()?);
            number.is_finite().then(|| format!("{number:e}"))
        }
        (Order::Number, Cursor::Text(text)) => fits(text, "-.").then(|| text.clone()),
        (Order::Time, Cursor::Text(text)) => {
            let text = text.strip_suffix("+00").unwrap_or(text);
            fits(text, "-: .").then(|| format!("'{text}'"))
        }
        (Order::Bytes, Cursor::Bytes(_)) => {
            let hex: String = cursor.bytes()?.iter().map(|byte| format!("{byte:02x}")).collect();
            Some(format!("x'{hex}'"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(code: u8, length: u32, decimals: u8, flags: u16, charset: u16) -> Described {
        Described { name: "c".into(), charset, length, code, flags, decimals }
    }

    #[test]
    fn decimals_keep_every_digit() {
        for (length, decimals, flags, column_type) in [
            (22, 4, 0, ColumnType::Decimal(20, 4)),
            (11, 2, UNSIGNED, ColumnType::Decimal(10, 2)),
            (39, 0, 0, ColumnType::Decimal(38, 0)),
            (40, 38, 0, ColumnType::Decimal(38, 38)),
            (40, 0, 0, ColumnType::Varchar),
            (67, 30, 0, ColumnType::Varchar),
        ] {
            let field = Field::of(&described(code::NEW_DECIMAL, length, decimals, flags, BINARY));
            assert_eq!(field.column_type, column_type, "{length} {decimals}");
        }
    }

    #[test]
    fn text_and_bytes_are_told_apart() {
        for (code, flags, charset, column_type) in [
            (253, 0, 45, ColumnType::Varchar),
            (253, 0, BINARY, ColumnType::Binary),
            (252, 0, 45, ColumnType::Varchar),
            (252, 0, BINARY, ColumnType::Binary),
            (254, 0x100, BINARY, ColumnType::Varchar),
            (code::JSON, 0, BINARY, ColumnType::Varchar),
            (code::GEOMETRY, 0, BINARY, ColumnType::Binary),
        ] {
            assert_eq!(Field::of(&described(code, 10, 0, flags, charset)).column_type, column_type, "{code}");
        }
    }

    fn moment(parts: &[u8], wire: Wire, digits: usize) -> Option<String> {
        let mut out = Vec::new();
        match wire {
            Wire::Time => write_time(&mut out, parts, digits)?,
            wire => write_moment(&mut out, parts, wire, digits)?,
        }
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn times_are_written_as_the_server_writes_them() {
        let year = 2026_u16.to_le_bytes();
        let day = [year[0], year[1], 3, 29];
        let second = [year[0], year[1], 3, 29, 2, 30, 5];
        let micro = [year[0], year[1], 3, 29, 2, 30, 5, 0x40, 0xe2, 0x01, 0x00];
        for (parts, wire, digits, text) in [
            (&[][..], Wire::Date, 0, "0000-00-00"),
            (&[], Wire::DateTime, 3, "0000-00-00 00:00:00.000"),
            (&[], Wire::Timestamp, 0, "0000-00-00 00:00:00+00"),
            (&[], Wire::Time, 0, "00:00:00"),
            (&day, Wire::Date, 0, "2026-03-29"),
            (&[year[0], year[1], 0, 15], Wire::Date, 0, "2026-00-15"),
            (&day, Wire::DateTime, 0, "2026-03-29 00:00:00"),
            (&second, Wire::Timestamp, 1, "2026-03-29 02:30:05.0+00"),
            (&micro, Wire::DateTime, 6, "2026-03-29 02:30:05.123456"),
            (&micro, Wire::DateTime, 3, "2026-03-29 02:30:05.123"),
            (&[1, 34, 0, 0, 0, 22, 59, 59], Wire::Time, 0, "-838:59:59"),
            (&[0, 0, 0, 0, 0, 1, 2, 3, 0x40, 0xe2, 0x01, 0x00], Wire::Time, 6, "01:02:03.123456"),
        ] {
            assert_eq!(moment(parts, wire, digits).as_deref(), Some(text));
        }
        assert_eq!(moment(&second[..5], Wire::DateTime, 0), None, "a length that there is not");
    }

    #[test]
    fn a_row_that_is_cut_off_is_none() {
        let fields = [
            Field::of(&described(code::LONG, 11, 0, 0, BINARY)),
            Field::of(&described(253, 40, 0, 0, 45)),
            Field::of(&described(code::DATE, 10, 0, 0, BINARY)),
            Field::of(&described(code::BIT, 12, 0, UNSIGNED, BINARY)),
            Field::of(&described(code::LONG_LONG, 20, 0, UNSIGNED, BINARY)),
            Field::of(&described(code::DOUBLE, 22, 31, 0, BINARY)),
        ];
        let mut bytes =
            vec![0, 0b1000_0000, 254, 255, 255, 255, 2, b'h', b'i', 4, 0xea, 7, 1, 2, 2, 0x0f, 0xff];
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        let mut written = Vec::new();
        let whole = row(&fields, &bytes, &mut written).unwrap();
        let expected = [
            Value::Int(-2),
            Value::Text(b"hi"),
            Value::Text(b"2026-01-02"),
            Value::Unsigned(0xfff),
            Value::Unsigned(u64::MAX),
            Value::Null,
        ];
        assert_eq!(whole, expected);
        for end in 0..bytes.len() {
            assert_eq!(row(&fields, &bytes[..end], &mut Vec::new()), None, "{end}");
        }
    }

    #[test]
    fn cursors_are_written_so_that_the_server_compares_them_exactly() {
        for (value, order, sql) in [
            (Value::Int(-3), Order::Number, Some("-3")),
            (Value::Unsigned(u64::MAX), Order::Number, Some("18446744073709551615")),
            (Value::Text(b"-1234567890123456.7891"), Order::Number, Some("-1234567890123456.7891")),
            (Value::Float(0.1 + 0.2), Order::Number, Some("3.0000000000000004e-1")),
            (Value::Text(b"2026-01-02 03:04:05.678+00"), Order::Time, Some("'2026-01-02 03:04:05.678'")),
            (Value::Bytes(b"a'\xff"), Order::Bytes, Some("x'6127ff'")),
            (Value::Text(b"1 OR 1"), Order::Number, None),
            (Value::Text(b"'"), Order::Time, None),
            (Value::Int(3), Order::Time, None),
        ] {
            assert_eq!(literal(&Cursor::of(value).unwrap(), order).as_deref(), sql, "{value:?}");
        }
    }
}
