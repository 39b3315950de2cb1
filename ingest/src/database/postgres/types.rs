//! What PostgreSQL's types become.
//!
//! Numbers, decimals of up to 38 digits, dates, timestamps, booleans, bytes and text come in the server's binary form. Everything
//! else is asked for as text, which is the database's own word for it: exact for every type there is, those of extensions
//! included. A cast to text costs the server more than all the rest of a row, so what is common does without.
//!
//! ```text
//! numeric       digits: i16, weight: i16, sign: u16, scale: u16, then as many i16: the value in base 10000, the first
//!               of them times 10000 to the power of the weight
//! date          i32: days since 2000; the least and the largest are -infinity and infinity
//! timestamp     i64: microseconds since 2000, likewise
//! ```
//!
//! Layout of these: `numeric_send`, `date_send` and `timestamp_send` of PostgreSQL, which has written times as whole numbers since version 10.

use tarn_model::columns::ColumnType;

use super::connection::{Described, Taking};
use crate::database::row::Value;
use crate::database::summing::{Asked, MOST_DIGITS};

/// `pg_type.oid` of the types that are not just text.
mod oid {
    pub(super) const BOOL: u32 = 16;
    pub(super) const BYTEA: u32 = 17;
    pub(super) const NAME: u32 = 19;
    pub(super) const INT8: u32 = 20;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const TEXT: u32 = 25;
    pub(super) const OID: u32 = 26;
    pub(super) const JSON: u32 = 114;
    pub(super) const FLOAT4: u32 = 700;
    pub(super) const FLOAT8: u32 = 701;
    pub(super) const MONEY: u32 = 790;
    pub(super) const INET: u32 = 869;
    pub(super) const BPCHAR: u32 = 1042;
    pub(super) const VARCHAR: u32 = 1043;
    pub(super) const DATE: u32 = 1082;
    pub(super) const TIMESTAMP: u32 = 1114;
    pub(super) const TIMESTAMPTZ: u32 = 1184;
    pub(super) const NUMERIC: u32 = 1700;
    pub(super) const UUID: u32 = 2950;
}

/// Whether values of a type are in an order that ranges can be made of.
pub(super) fn is_splittable(type_id: u32) -> bool {
    use oid::{
        BPCHAR, DATE, FLOAT4, FLOAT8, INT2, INT4, INT8, NUMERIC, OID, TEXT, TIMESTAMP, TIMESTAMPTZ, UUID,
        VARCHAR,
    };
    let known = [
        INT2,
        INT4,
        INT8,
        OID,
        NUMERIC,
        FLOAT4,
        FLOAT8,
        DATE,
        TIMESTAMP,
        TIMESTAMPTZ,
        TEXT,
        VARCHAR,
        BPCHAR,
        UUID,
    ];
    known.contains(&type_id)
}

/// How a value comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Text,
    Bytes,
    Numeric,
    Date,
    /// Whether it is UTC.
    Timestamp(bool),
}

/// A column that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    /// What is selected for it.
    pub(super) expression: String,
    pub(super) wire: Wire,
    pub(super) column_type: ColumnType,
}

impl Field {
    /// `money_scale` is the number of digits that this database's money has after the point.
    pub(super) fn of(column: &Described, money_scale: u8) -> Field {
        let quoted = super::quoted(&column.name);
        let as_text = format!("{quoted}::text");
        let (expression, wire, column_type) = match column.type_id {
            oid::BOOL => (quoted, Wire::Bool, ColumnType::Boolean),
            oid::INT2 => (quoted, Wire::Int2, ColumnType::SmallInt),
            oid::INT4 => (quoted, Wire::Int4, ColumnType::Int),
            oid::INT8 => (quoted, Wire::Int8, ColumnType::BigInt),
            oid::OID => (quoted, Wire::Oid, ColumnType::BigInt),
            oid::FLOAT4 => (quoted, Wire::Float4, ColumnType::Real),
            oid::FLOAT8 => (quoted, Wire::Float8, ColumnType::Double),
            oid::BYTEA => (quoted, Wire::Bytes, ColumnType::Binary),
            // A cast would take the blanks from the end of CHAR(n).
            oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::JSON => {
                (quoted, Wire::Text, ColumnType::Varchar)
            }
            oid::DATE => (quoted, Wire::Date, ColumnType::Date),
            oid::TIMESTAMP => (quoted, Wire::Timestamp(false), ColumnType::Timestamp),
            oid::TIMESTAMPTZ => (quoted, Wire::Timestamp(true), ColumnType::Timestamp),
            oid::NUMERIC => match numeric(column.modifier) {
                ColumnType::Varchar => (as_text, Wire::Text, ColumnType::Varchar),
                decimal => (quoted, Wire::Numeric, decimal),
            },
            oid::MONEY => {
                let digits = i8::try_from(money_scale).unwrap_or(2);
                (format!("{quoted}::numeric::text"), Wire::Text, ColumnType::Decimal(19, digits))
            }
            // A cast would add a mask that was not written.
            oid::INET => {
                let expression = format!("CASE WHEN {quoted} IS NOT NULL THEN concat({quoted}) END");
                (expression, Wire::Text, ColumnType::Varchar)
            }
            _ => (as_text, Wire::Text, ColumnType::Varchar),
        };
        Field { name: column.name.clone(), expression, wire, column_type }
    }
}

impl Field {
    /// What the server is asked for to compare it; `local_times` have no zone and are UTC.
    pub(super) fn asked(&self, local_times: bool, is_utf8: bool) -> Asked {
        let column = super::quoted(&self.name);
        let sum = match (self.wire, self.column_type) {
            (Wire::Int2 | Wire::Int4 | Wire::Int8 | Wire::Oid, _) => Some(format!("sum({column}::int8)")),
            (Wire::Numeric, ColumnType::Decimal(..=MOST_DIGITS, _)) => Some(format!("sum({column})")),
            (Wire::Bool, _) => Some(format!("count(*) FILTER (WHERE {column})")),
            (Wire::Date, _) => {
                Some(format!("sum(CASE WHEN isfinite({column}) THEN {column} - date '1970-01-01' END)"))
            }
            // Exact also where `extract` gives a float: whole seconds, and the microseconds of one.
            (Wire::Timestamp(is_utc), _) if is_utc || local_times => Some(format!(
                "sum(CASE WHEN isfinite({column}) THEN extract(epoch FROM date_trunc('second', {column}))::int8::numeric * 1000000 \
                 + extract(microseconds FROM {column})::int8 % 1000000 END)"
            )),
            // `concat` takes any type, and keeps the blanks of CHAR(n).
            (Wire::Text, ColumnType::Varchar) if is_utf8 => {
                Some(format!("sum(octet_length(concat({})))", self.expression))
            }
            (Wire::Bytes, _) => Some(format!("sum(octet_length({column}))")),
            _ => None,
        };
        Asked { column, column_type: self.column_type, sum: sum.map(|sum| format!("({sum})::text")) }
    }
}

/// `NUMERIC(p,s)` with up to 38 digits is a decimal; any other keeps its digits as text. The scale may be below zero, or above the
/// precision.
fn numeric(modifier: i32) -> ColumnType {
    if modifier < 4 {
        return ColumnType::Varchar;
    }
    let (precision, scale) = ((modifier - 4) >> 16 & 0xffff, (((modifier - 4) & 0x7ff) ^ 1024) - 1024);
    let (precision, scale) = match scale {
        ..0 => (precision - scale, 0),
        _ => (precision.max(scale), scale),
    };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale)) => ColumnType::Decimal(precision, scale),
        _ => ColumnType::Varchar,
    }
}

/// One row of binary `COPY` from the front of `rest`, put into `values`: `Some(false)` is the end of the rows, `None` is no row.
pub(super) fn row<'a>(fields: &[Field], rest: &mut Taking<'a>, values: &mut Vec<Value<'a>>) -> Option<bool> {
    values.clear();
    let count = rest.int16()?;
    if count == -1 {
        return Some(false);
    }
    if usize::try_from(count).ok()? != fields.len() {
        return None;
    }
    values.reserve(fields.len());
    for field in fields {
        let size = rest.int32()?;
        values.push(match usize::try_from(size) {
            Ok(size) => value(field.wire, rest.bytes(size)?)?,
            Err(_) => Value::Null,
        });
    }
    Some(true)
}

#[inline]
fn value(wire: Wire, bytes: &[u8]) -> Option<Value<'_>> {
    Some(match wire {
        Wire::Text => Value::Text(bytes),
        Wire::Bytes => Value::Bytes(bytes),
        Wire::Bool => Value::Bool(*bytes.first()? != 0),
        Wire::Int2 => Value::Int(i16::from_be_bytes(bytes.try_into().ok()?).into()),
        Wire::Int4 => Value::Int(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        Wire::Int8 => Value::Int(i64::from_be_bytes(bytes.try_into().ok()?)),
        Wire::Oid => Value::Int(u32::from_be_bytes(bytes.try_into().ok()?).into()),
        Wire::Float4 => Value::Real(f32::from_be_bytes(bytes.try_into().ok()?)),
        Wire::Float8 => Value::Float(f64::from_be_bytes(bytes.try_into().ok()?)),
        Wire::Numeric => decimal(bytes)?,
        Wire::Date => match i32::from_be_bytes(bytes.try_into().ok()?) {
            i32::MAX => Value::Text(INFINITY),
            i32::MIN => Value::Text(MINUS_INFINITY),
            days => Value::Date(days.checked_add(DAYS_TO_2000)?),
        },
        Wire::Timestamp(is_utc) => match i64::from_be_bytes(bytes.try_into().ok()?) {
            i64::MAX => Value::Text(INFINITY),
            i64::MIN => Value::Text(MINUS_INFINITY),
            us => Value::Timestamp(i128::from(us) + US_TO_2000, is_utc),
        },
    })
}

/// Days, and microseconds, from 1970 to 2000.
const DAYS_TO_2000: i32 = 10_957;
const US_TO_2000: i128 = 946_684_800_000_000;
const INFINITY: &[u8] = b"infinity";
const MINUS_INFINITY: &[u8] = b"-infinity";

/// A `numeric` in binary form; `None` also for one of more than 38 digits, which the column's type does not have.
#[inline]
fn decimal(bytes: &[u8]) -> Option<Value<'_>> {
    const NEGATIVE: i16 = 0x4000;
    let (head, digits) = bytes.split_first_chunk::<8>()?;
    let part = |at: usize| i16::from_be_bytes([head[at], head[at + 1]]);
    let (count, weight, sign, places) = (part(0), part(2), part(4), part(6));
    match sign.cast_unsigned() {
        0xc000 => return Some(Value::Text(b"NaN")),
        0xd000 => return Some(Value::Text(b"Infinity")),
        0xf000 => return Some(Value::Text(b"-Infinity")),
        _ if sign != 0 && sign != NEGATIVE => return None,
        _ => {}
    }
    if digits.len() != 2 * usize::try_from(count).ok()? {
        return None;
    }
    let mut digits = digits.chunks_exact(2).map(|digit| i16::from_be_bytes([digit[0], digit[1]]));
    let last = digits.next_back().unwrap_or(0);
    // By how many tens the last digit is above the last place; below zero where zeros stand behind that.
    let shift = (i32::from(weight) - i32::from(count) + 1) * 4 + i32::from(places);
    let mut unscaled = 0_i128;
    if (-3..=0).contains(&shift) && count <= 4 {
        // What nearly all are: no more than 16 digits.
        let first = digits.fold(0, |all, digit| all * 10_000 + i64::from(digit));
        let (above, below) = TENS[shift.unsigned_abs() as usize];
        if i64::from(last) % below != 0 {
            return None;
        }
        unscaled = (first * above + i64::from(last) / below).into();
    } else if count > 0 {
        for digit in digits {
            unscaled = unscaled.checked_mul(10_000)?.checked_add(digit.into())?;
        }
        let last = i128::from(last);
        unscaled = match u32::try_from(shift) {
            Ok(shift) => {
                unscaled.checked_mul(10_000)?.checked_add(last)?.checked_mul(10_i128.checked_pow(shift)?)?
            }
            Err(_) => {
                // The last digit must end where the places do.
                let (above, below) = *TENS.get(shift.unsigned_abs() as usize)?;
                if last % i128::from(below) != 0 {
                    return None;
                }
                unscaled.checked_mul(above.into())?.checked_add(last / i128::from(below))?
            }
        };
    }
    Some(Value::Decimal(if sign == NEGATIVE { -unscaled } else { unscaled }, u8::try_from(places).ok()?))
}

/// Where so many of the four places of the last digit are beyond the end: what those before it are multiplied by, and it is divided by.
const TENS: [(i64, i64); 4] = [(10_000, 1), (1_000, 10), (100, 100), (10, 1_000)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numerics_keep_every_digit_whatever_their_scale() {
        let modifier = |precision: i32, scale: i32| (precision << 16 | scale & 0x7ff) + 4;
        for (modifier, column_type) in [
            (-1, ColumnType::Varchar),
            (modifier(10, 2), ColumnType::Decimal(10, 2)),
            (modifier(38, 0), ColumnType::Decimal(38, 0)),
            (modifier(39, 0), ColumnType::Varchar),
            (modifier(3, -2), ColumnType::Decimal(5, 0)),
            (modifier(2, 5), ColumnType::Decimal(5, 5)),
            (modifier(1000, -1000), ColumnType::Varchar),
        ] {
            assert_eq!(numeric(modifier), column_type, "{modifier}");
        }
    }

    #[test]
    fn a_row_that_is_cut_off_is_none() {
        let column =
            |name: &str, type_id| Field::of(&Described { name: name.into(), type_id, modifier: -1 }, 2);
        let fields = [column("a", oid::INT4), column("b", oid::TEXT), column("c", oid::BOOL)];
        let mut bytes =
            vec![0, 3, 0, 0, 0, 4, 255, 255, 255, 254, 0, 0, 0, 2, b'h', b'i', 255, 255, 255, 255];
        let mut values = Vec::new();
        assert_eq!(row(&fields, &mut Taking(&bytes), &mut values), Some(true));
        assert_eq!(values, [Value::Int(-2), Value::Text(b"hi"), Value::Null]);
        for end in 0..bytes.len() {
            assert_eq!(row(&fields, &mut Taking(&bytes[..end]), &mut Vec::new()), None, "{end}");
        }
        bytes[1] = 2;
        assert_eq!(row(&fields, &mut Taking(&bytes), &mut Vec::new()), None, "another number of columns");
        assert_eq!(row(&fields, &mut Taking(&[255, 255]), &mut Vec::new()), Some(false));
    }

    /// A numeric as the server sends it: weight, sign, scale, digits.
    fn sent(weight: i16, sign: u16, places: i16, digits: &[i16]) -> Vec<u8> {
        let count = i16::try_from(digits.len()).unwrap();
        let head = [count, weight, sign.cast_signed(), places];
        head.iter().chain(digits).flat_map(|part| part.to_be_bytes()).collect()
    }

    #[test]
    fn numerics_of_the_wire_are_the_numbers_that_they_stand_for() {
        let nines = |count: usize| vec![9999; count];
        for (wire, number, places) in [
            (sent(0, 0, 0, &[]), 0, 0),
            (sent(0, 0, 2, &[]), 0, 2),
            (sent(0, 0, 2, &[17]), 1_700, 2),
            (sent(0, 0x4000, 2, &[17, 500]), -1_705, 2),
            (sent(-1, 0, 2, &[400]), 4, 2),
            (sent(0, 0, 4, &[1, 1]), 10_001, 4),
            (sent(0, 0, 1, &[1, 1000]), 11, 1),
            (sent(0, 0, 3, &[1, 10]), 1_001, 3),
            (sent(1, 0, 0, &[100]), 1_000_000, 0),
            (sent(2, 0, 2, &[1, 0, 3, 400]), 10_000_000_304, 2),
            (sent(3, 0, 0, &[9999, 9999, 9999, 9999]), 9_999_999_999_999_999, 0),
            (sent(-10, 0, 38, &[1200]), 12, 38),
            (
                sent(9, 0, 0, &[99, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999]),
                10_i128.pow(38) - 1,
                0,
            ),
            (sent(-1, 0x4000, 38, &[nines(9), vec![9900]].concat()), 1 - 10_i128.pow(38), 38),
        ] {
            assert_eq!(decimal(&wire), Some(Value::Decimal(number, places)), "{number} {places}");
        }
        assert_eq!(decimal(&sent(0, 0xc000, 0, &[])), Some(Value::Text(b"NaN")));
        // Not what the server sends: digits behind the scale, too many of them, cut off, a sign that there is none of.
        for wire in [
            sent(0, 0, 1, &[1, 1]),
            sent(0, 0, 1, &[1, 1, 1, 1, 1]),
            sent(20, 0, 0, &[1]),
            sent(9, 0, 0, &nines(10)),
            sent(0, 0, 0, &[1])[..9].to_vec(),
            sent(0, 1, 0, &[1]),
            vec![0; 7],
        ] {
            assert_eq!(decimal(&wire), None, "{wire:?}");
        }
    }

    #[test]
    fn times_of_the_wire_are_days_and_microseconds_since_1970() {
        for (days, want) in [
            (0, Value::Date(10_957)),
            (-10_957, Value::Date(0)),
            (i32::MAX, Value::Text(b"infinity")),
            (i32::MIN, Value::Text(b"-infinity")),
        ] {
            assert_eq!(value(Wire::Date, &days.to_be_bytes()), Some(want));
        }
        for (us, want) in [
            (0, Value::Timestamp(946_684_800_000_000, true)),
            (i64::MAX - 1, Value::Timestamp(i128::from(i64::MAX) - 1 + 946_684_800_000_000, true)),
            (i64::MAX, Value::Text(b"infinity")),
            (i64::MIN, Value::Text(b"-infinity")),
        ] {
            assert_eq!(value(Wire::Timestamp(true), &us.to_be_bytes()), Some(want));
        }
    }
}
