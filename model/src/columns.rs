//! A table's columns: their SQL names in the config, their Arrow types in memory, the system columns before them.
//!
//! Delta's protocol reader 1 / writer 2 knows no unsigned integers, no nanoseconds and no timestamps without zone, so
//! neither does [`ColumnType`].

use std::fmt;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The partition a row came from: `INT NOT NULL`.
pub const PARTITION: &str = "_partition";
/// Its offset in the partition: `BIGINT NOT NULL`.
pub const OFFSET: &str = "_offset";
/// Its record's timestamp: `TIMESTAMP NOT NULL`, µs UTC.
pub const TIMESTAMP: &str = "_timestamp";
/// The topic a row came from, first column of a table of many topics: `VARCHAR NOT NULL`.
pub const TOPIC: &str = "_topic";
/// Fields that the schema lacks, as a JSON object: `VARCHAR`, NULL when there are none.
pub const REST: &str = "_rest";

/// Names that no column of a config may have.
const SYSTEM: [&str; 5] = [TOPIC, PARTITION, OFFSET, TIMESTAMP, REST];

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ColumnType {
    /// `BOOLEAN`
    Boolean,
    /// `TINYINT`, 8 bits
    TinyInt,
    /// `SMALLINT`, 16 bits
    SmallInt,
    /// `INT`, 32 bits
    Int,
    /// `BIGINT`, 64 bits
    BigInt,
    /// `REAL`, 32 bits
    Real,
    /// `DOUBLE`, 64 bits
    Double,
    /// `DECIMAL(precision, scale)`, up to 38 digits
    Decimal(u8, i8),
    /// `VARCHAR`, UTF-8
    Varchar,
    /// `BINARY`
    Binary,
    /// `DATE`, days
    Date,
    /// `TIMESTAMP`, microseconds UTC
    Timestamp,
}

impl ColumnType {
    /// The type in memory.
    pub fn to_arrow(self) -> DataType {
        match self {
            ColumnType::Boolean => DataType::Boolean,
            ColumnType::TinyInt => DataType::Int8,
            ColumnType::SmallInt => DataType::Int16,
            ColumnType::Int => DataType::Int32,
            ColumnType::BigInt => DataType::Int64,
            ColumnType::Real => DataType::Float32,
            ColumnType::Double => DataType::Float64,
            ColumnType::Decimal(precision, scale) => DataType::Decimal128(precision, scale),
            ColumnType::Varchar => DataType::Utf8,
            ColumnType::Binary => DataType::Binary,
            ColumnType::Date => DataType::Date32,
            ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        }
    }

    /// The column type whose memory form is `arrow`, if there is one.
    pub fn from_arrow(arrow: &DataType) -> Option<ColumnType> {
        Some(match arrow {
            DataType::Boolean => ColumnType::Boolean,
            DataType::Int8 => ColumnType::TinyInt,
            DataType::Int16 => ColumnType::SmallInt,
            DataType::Int32 => ColumnType::Int,
            DataType::Int64 => ColumnType::BigInt,
            DataType::Float32 => ColumnType::Real,
            DataType::Float64 => ColumnType::Double,
            DataType::Decimal128(precision, scale) => ColumnType::Decimal(*precision, *scale),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ColumnType::Varchar,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => ColumnType::Binary,
            DataType::Date32 => ColumnType::Date,
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => ColumnType::Timestamp,
            _ => return None,
        })
    }

    /// Whether every value of this type is exactly a value of `wider`: the only type changes a table may make.
    pub fn widens_to(self, wider: ColumnType) -> bool {
        use ColumnType::{BigInt, Decimal, Double, Int, Real, SmallInt, TinyInt};
        match (self, wider) {
            (TinyInt, SmallInt | Int | BigInt)
            | (SmallInt, Int | BigInt)
            | (Int, BigInt | Double)
            | (Real, Double) => true,
            (Decimal(p, s), Decimal(wp, ws)) => s == ws && wp >= p,
            (narrow, wide) => narrow == wide,
        }
    }

    fn parse(text: &str) -> Option<ColumnType> {
        let upper = text.trim().to_ascii_uppercase();
        let (name, arguments) = match upper.split_once('(') {
            Some((name, rest)) => (name.trim(), Some(rest.trim().strip_suffix(')')?)),
            None => (upper.as_str(), None),
        };
        if let Some(arguments) = arguments {
            let numbers: Vec<u8> =
                arguments.split(',').map(|n| n.trim().parse().ok()).collect::<Option<_>>()?;
            return match (name, numbers.as_slice()) {
                ("DECIMAL" | "NUMERIC", [p]) if (1..=38).contains(p) => Some(ColumnType::Decimal(*p, 0)),
                ("DECIMAL" | "NUMERIC", [p, s]) if (1..=38).contains(p) && s <= p => {
                    Some(ColumnType::Decimal(*p, i8::try_from(*s).ok()?))
                }
                ("VARCHAR" | "CHAR", [_]) => Some(ColumnType::Varchar),
                _ => None,
            };
        }
        let words: Vec<&str> = name.split_whitespace().collect();
        Some(match words.join(" ").as_str() {
            "BOOLEAN" | "BOOL" => ColumnType::Boolean,
            "TINYINT" => ColumnType::TinyInt,
            "SMALLINT" | "INT2" => ColumnType::SmallInt,
            "INT" | "INTEGER" | "INT4" => ColumnType::Int,
            "BIGINT" | "INT8" => ColumnType::BigInt,
            "REAL" | "FLOAT4" => ColumnType::Real,
            "DOUBLE" | "DOUBLE PRECISION" | "FLOAT" | "FLOAT8" => ColumnType::Double,
            "DECIMAL" | "NUMERIC" => ColumnType::Decimal(38, 10),
            "VARCHAR" | "TEXT" | "STRING" | "CHAR" | "JSON" => ColumnType::Varchar,
            "BINARY" | "BYTEA" | "BLOB" | "VARBINARY" => ColumnType::Binary,
            "DATE" => ColumnType::Date,
            "TIMESTAMP" | "TIMESTAMPTZ" | "TIMESTAMP WITH TIME ZONE" => ColumnType::Timestamp,
            _ => return None,
        })
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ColumnType::Boolean => "BOOLEAN",
            ColumnType::TinyInt => "TINYINT",
            ColumnType::SmallInt => "SMALLINT",
            ColumnType::Int => "INT",
            ColumnType::BigInt => "BIGINT",
            ColumnType::Real => "REAL",
            ColumnType::Double => "DOUBLE",
            ColumnType::Decimal(precision, scale) => return write!(f, "DECIMAL({precision},{scale})"),
            ColumnType::Varchar => "VARCHAR",
            ColumnType::Binary => "BINARY",
            ColumnType::Date => "DATE",
            ColumnType::Timestamp => "TIMESTAMP",
        })
    }
}

/// One column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name, as in the records.
    pub name: String,
    /// Its type.
    pub column_type: ColumnType,
    /// Whether it takes NULL; a record without a value for a column that does not is a dead letter.
    pub nullable: bool,
}

/// The columns of a table, without the system columns.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Columns {
    columns: Vec<Column>,
}

impl Columns {
    /// Columns in their order; names must differ and not start with the system columns' names.
    pub fn new(columns: Vec<Column>) -> Result<Columns> {
        let mut seen = std::collections::HashSet::new();
        for column in &columns {
            if SYSTEM.contains(&column.name.as_str()) {
                return Err(Error::invalid(format!("column `{}` is one of the system columns", column.name)));
            }
            if !seen.insert(column.name.to_lowercase()) {
                return Err(Error::invalid(format!("column `{}` stands twice", column.name)));
            }
        }
        Ok(Columns { columns })
    }

    /// Parses `"year INT, origin VARCHAR NOT NULL, \"odd name\" DECIMAL(10,2)"`.
    pub fn parse(text: &str) -> Result<Columns> {
        let mut columns = Vec::new();
        for part in split_outside_parentheses(text) {
            columns.push(parse_column(part.trim())?);
        }
        if columns.is_empty() {
            return Err(Error::invalid("there is no column")
                .with_hint("write `columns = \"id BIGINT, name VARCHAR\"`"));
        }
        Columns::new(columns)
    }

    /// The columns in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// The column of this name.
    pub fn get(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The table's schema: `_partition`, `_offset`, `_timestamp`, the columns, and `_rest` when `with_rest`.
    pub fn table_schema(&self, with_rest: bool) -> SchemaRef {
        let mut fields = system_fields();
        fields.extend(self.columns.iter().map(|c| Field::new(&c.name, c.column_type.to_arrow(), c.nullable)));
        if with_rest {
            fields.push(Field::new(REST, DataType::Utf8, true));
        }
        Arc::new(Schema::new(fields))
    }

    /// The columns of a table's schema: the reverse of [`Columns::table_schema`].
    pub fn from_table_schema(schema: &Schema) -> Result<Columns> {
        let mut columns = Vec::new();
        for field in schema.fields() {
            if SYSTEM.contains(&field.name().as_str()) {
                continue;
            }
            let column_type = ColumnType::from_arrow(field.data_type()).ok_or_else(|| {
                Error::invalid(format!(
                    "column `{}` has the type {}, which Tarn does not write",
                    field.name(),
                    field.data_type()
                ))
            })?;
            columns.push(Column { name: field.name().clone(), column_type, nullable: field.is_nullable() });
        }
        Columns::new(columns)
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, column) in self.columns.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let not_null = if column.nullable { "" } else { " NOT NULL" };
            let plain = column.name.chars().all(|c| c.is_alphanumeric() || c == '_');
            let quote = if plain { "" } else { "\"" };
            write!(f, "{comma}{quote}{}{quote} {}{not_null}", column.name, column.column_type)?;
        }
        Ok(())
    }
}

/// `_partition INT`, `_offset BIGINT`, `_timestamp TIMESTAMP`, none of them nullable: the first columns of every table,
/// because Delta keeps statistics of the first 32.
pub fn system_fields() -> Vec<Field> {
    vec![
        Field::new(PARTITION, ColumnType::Int.to_arrow(), false),
        Field::new(OFFSET, ColumnType::BigInt.to_arrow(), false),
        Field::new(TIMESTAMP, ColumnType::Timestamp.to_arrow(), false),
    ]
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut quoted, mut start) = (Vec::new(), 0_i32, false, 0);
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn parse_column(text: &str) -> Result<Column> {
    let (name, rest) = if let Some(quoted) = text.strip_prefix('"') {
        quoted
            .split_once('"')
            .ok_or_else(|| Error::invalid(format!("`{text}` has a quote that does not end")))?
    } else {
        text.split_once(char::is_whitespace).ok_or_else(|| {
            Error::invalid(format!("column `{text}` has no type")).with_hint("write `name TYPE`")
        })?
    };
    let upper = rest.trim().to_ascii_uppercase();
    let (type_text, nullable) = match upper.strip_suffix("NOT NULL") {
        Some(before) => (before.trim(), false),
        None => (upper.strip_suffix(" NULL").unwrap_or(&upper).trim(), true),
    };
    let column_type = ColumnType::parse(type_text).ok_or_else(|| {
        Error::invalid(format!("column `{name}` has the unknown type `{}`", rest.trim())).with_hint(
            "types: BOOLEAN, TINYINT, SMALLINT, INT, BIGINT, REAL, DOUBLE, DECIMAL(p,s), VARCHAR, BINARY, DATE, TIMESTAMP",
        )
    })?;
    Ok(Column { name: name.to_owned(), column_type, nullable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_round_trip_through_text_and_schema() {
        let text = "id BIGINT NOT NULL, \"odd name\" DECIMAL(10,2), at TIMESTAMP, ok BOOLEAN";
        let columns = Columns::parse(text).expect("columns");
        assert_eq!(columns.to_string(), text);
        let schema = columns.table_schema(true);
        assert_eq!(schema.field(1).name(), OFFSET);
        assert_eq!(schema.fields().len(), 8);
        assert_eq!(Columns::from_table_schema(&schema).expect("columns"), columns);
    }

    #[test]
    fn wrong_columns_say_what_is_wrong() {
        for (text, says) in [
            ("a", "no type"),
            ("a WORD", "unknown type `WORD`"),
            ("a INT, A INT", "stands twice"),
            ("_offset INT", "system columns"),
            ("", "no column"),
        ] {
            let error = Columns::parse(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn only_exact_changes_widen() {
        assert!(ColumnType::Int.widens_to(ColumnType::BigInt));
        assert!(!ColumnType::BigInt.widens_to(ColumnType::Double), "a double holds 53 bits");
        assert!(!ColumnType::BigInt.widens_to(ColumnType::Int));
    }
}
