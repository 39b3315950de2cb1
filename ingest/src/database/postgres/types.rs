//! What PostgreSQL's types become.
//!
//! Whole numbers, floats, booleans, bytes and text come in the server's binary form. Everything else is asked for as text, which
//! is the database's own word for it: exact for every type there is, those of extensions included.

use tarn_model::columns::ColumnType;

use super::connection::{Described, Taking};
use crate::database::row::Value;

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
            oid::DATE => (as_text, Wire::Text, ColumnType::Date),
            oid::TIMESTAMP | oid::TIMESTAMPTZ => (as_text, Wire::Text, ColumnType::Timestamp),
            oid::NUMERIC => (as_text, Wire::Text, numeric(column.modifier)),
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

/// One row of binary `COPY` from the front of `rest`: `Some(None)` is the end of the rows, `None` is no row.
pub(super) fn row<'a>(fields: &[Field], rest: &mut Taking<'a>) -> Option<Option<Vec<Value<'a>>>> {
    let count = rest.int16()?;
    if count == -1 {
        return Some(None);
    }
    if usize::try_from(count).ok()? != fields.len() {
        return None;
    }
    let mut values = Vec::with_capacity(fields.len());
    for field in fields {
        let size = rest.int32()?;
        values.push(match usize::try_from(size) {
            Ok(size) => value(field.wire, rest.bytes(size)?)?,
            Err(_) => Value::Null,
        });
    }
    Some(Some(values))
}

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
    })
}

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
        let whole = row(&fields, &mut Taking(&bytes)).unwrap().unwrap();
        assert_eq!(whole, [Value::Int(-2), Value::Text(b"hi"), Value::Null]);
        for end in 0..bytes.len() {
            assert_eq!(row(&fields, &mut Taking(&bytes[..end])), None, "{end}");
        }
        bytes[1] = 2;
        assert_eq!(row(&fields, &mut Taking(&bytes)), None, "another number of columns");
        assert_eq!(row(&fields, &mut Taking(&[255, 255])), Some(None));
    }
}
