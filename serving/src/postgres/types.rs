//! Which of PostgreSQL's types a column is.
//!
//! | here | there |
//! |---|---|
//! | `BIGINT`, `INT`, `SMALLINT` (and smaller or unsigned ones that fit) | `int8`, `int4`, `int2` |
//! | unsigned 64 bits, `DECIMAL` | `numeric` |
//! | `VARCHAR` | `text` |
//! | `TIMESTAMP` with, without zone | `timestamptz`, `timestamp` |
//! | a list of such | an array of them |
//! | structs, maps, lists of lists | `json` |

use arrow::datatypes::{DataType, Field, IntervalUnit, Schema};

use crate::pg_catalog;

/// A type that PostgreSQL knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PgType {
    Bool,
    Bytea,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    Text,
    Json,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    Interval,
}

impl PgType {
    pub(crate) const ALL: [PgType; 15] = [
        PgType::Bool,
        PgType::Bytea,
        PgType::Int2,
        PgType::Int4,
        PgType::Int8,
        PgType::Float4,
        PgType::Float8,
        PgType::Numeric,
        PgType::Text,
        PgType::Json,
        PgType::Date,
        PgType::Time,
        PgType::Timestamp,
        PgType::Timestamptz,
        PgType::Interval,
    ];

    /// Its number, that of its array, its size and its names: short, and as `\d` shows it.
    const fn facts(self) -> (u32, u32, i16, &'static str, &'static str) {
        match self {
            PgType::Bool => (16, 1000, 1, "bool", "boolean"),
            PgType::Bytea => (17, 1001, -1, "bytea", "bytea"),
            PgType::Int8 => (20, 1016, 8, "int8", "bigint"),
            PgType::Int2 => (21, 1005, 2, "int2", "smallint"),
            PgType::Int4 => (23, 1007, 4, "int4", "integer"),
            PgType::Text => (25, 1009, -1, "text", "text"),
            PgType::Json => (114, 199, -1, "json", "json"),
            PgType::Float4 => (700, 1021, 4, "float4", "real"),
            PgType::Float8 => (701, 1022, 8, "float8", "double precision"),
            PgType::Date => (1082, 1182, 4, "date", "date"),
            PgType::Time => (1083, 1183, 8, "time", "time without time zone"),
            PgType::Timestamp => (1114, 1115, 8, "timestamp", "timestamp without time zone"),
            PgType::Timestamptz => (1184, 1185, 8, "timestamptz", "timestamp with time zone"),
            PgType::Interval => (1186, 1187, 16, "interval", "interval"),
            PgType::Numeric => (1700, 1231, -1, "numeric", "numeric"),
        }
    }

    pub(crate) fn oid(self) -> u32 {
        self.facts().0
    }

    pub(crate) fn array_oid(self) -> u32 {
        self.facts().1
    }

    pub(crate) fn size(self) -> i16 {
        self.facts().2
    }

    /// As `pg_type` has it.
    pub(crate) fn name(self) -> &'static str {
        self.facts().3
    }

    /// As `format_type` shows it.
    pub(crate) fn shown(self) -> &'static str {
        self.facts().4
    }

    fn of(data_type: &DataType) -> PgType {
        match data_type {
            DataType::Boolean => PgType::Bool,
            DataType::Int8 | DataType::UInt8 | DataType::Int16 => PgType::Int2,
            DataType::UInt16 | DataType::Int32 => PgType::Int4,
            DataType::UInt32 | DataType::Int64 => PgType::Int8,
            DataType::UInt64
            | DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..) => PgType::Numeric,
            DataType::Float16 | DataType::Float32 => PgType::Float4,
            DataType::Float64 => PgType::Float8,
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => PgType::Bytea,
            DataType::Date32 | DataType::Date64 => PgType::Date,
            DataType::Time32(_) | DataType::Time64(_) => PgType::Time,
            DataType::Timestamp(_, Some(_)) => PgType::Timestamptz,
            DataType::Timestamp(_, None) => PgType::Timestamp,
            DataType::Interval(_) | DataType::Duration(_) => PgType::Interval,
            DataType::Dictionary(_, value) => PgType::of(value),
            DataType::RunEndEncoded(_, value) => PgType::of(value.data_type()),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => PgType::Text,
            _ => PgType::Json,
        }
    }
}

/// What a column is: one value a row, or an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ColumnKind {
    One(PgType),
    Array(PgType),
}

impl ColumnKind {
    /// What a column of this Arrow type is.
    pub(crate) fn of(data_type: &DataType) -> ColumnKind {
        match data_type {
            DataType::List(item)
            | DataType::LargeList(item)
            | DataType::FixedSizeList(item, _)
            | DataType::ListView(item)
            | DataType::LargeListView(item) => match PgType::of(item.data_type()) {
                PgType::Json => ColumnKind::One(PgType::Json),
                item => ColumnKind::Array(item),
            },
            other => ColumnKind::One(PgType::of(other)),
        }
    }

    /// Its number.
    pub(crate) fn oid(self) -> u32 {
        match self {
            ColumnKind::One(kind) => kind.oid(),
            ColumnKind::Array(item) => item.array_oid(),
        }
    }

    /// Bytes of a value; -1 when they differ.
    pub(crate) fn size(self) -> i16 {
        match self {
            ColumnKind::One(kind) => kind.size(),
            ColumnKind::Array(_) => -1,
        }
    }

    /// The type of this number.
    pub(crate) fn from_oid(oid: u32) -> Option<ColumnKind> {
        let one = PgType::ALL.into_iter().find(|kind| kind.oid() == oid).map(ColumnKind::One);
        one.or_else(|| PgType::ALL.into_iter().find(|kind| kind.array_oid() == oid).map(ColumnKind::Array))
    }
}

/// A column of an answer.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: ColumnKind,
    pub(super) modifier: i32,
}

/// The columns of an answer.
pub(super) fn columns(schema: &Schema) -> Vec<Column> {
    schema
        .fields()
        .iter()
        .map(|field| Column {
            name: pg_catalog::without_marks(field.name()).to_owned(),
            kind: kind_of(field),
            modifier: modifier(field.data_type()),
        })
        .collect()
}

fn kind_of(field: &Field) -> ColumnKind {
    ColumnKind::of(field.data_type())
}

/// `numeric(p, s)` as one number; -1 where there is nothing to say.
pub(crate) fn modifier(data_type: &DataType) -> i32 {
    match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale)
            if *scale >= 0 =>
        {
            ((i32::from(*precision) << 16) | i32::from(*scale)) + 4
        }
        _ => -1,
    }
}

/// What a parameter of this number is here; `None` for a number that says nothing (0) or is not known.
pub(super) fn parameter_type(oid: u32) -> Option<DataType> {
    use arrow::datatypes::TimeUnit::Microsecond;
    // Names, characters and the like are texts, and so are a uuid and a JSON; an oid is a number.
    const TEXTS: [u32; 7] = [18, 19, 705, 1042, 1043, 2950, 3802];
    const NUMBERS: [u32; 8] = [26, 28, 24, 2202, 2205, 2206, 4089, 4096];
    if TEXTS.contains(&oid) {
        return Some(DataType::Utf8);
    }
    if NUMBERS.contains(&oid) {
        return Some(DataType::Int64);
    }
    let text_array = matches!(oid, 1002 | 1003 | 1014 | 1015 | 2951 | 3807);
    let kind = if text_array { Some(ColumnKind::Array(PgType::Text)) } else { ColumnKind::from_oid(oid) };
    let one = |kind: PgType| match kind {
        PgType::Bool => DataType::Boolean,
        PgType::Bytea => DataType::Binary,
        PgType::Int2 => DataType::Int16,
        PgType::Int4 => DataType::Int32,
        PgType::Int8 => DataType::Int64,
        PgType::Float4 => DataType::Float32,
        PgType::Float8 => DataType::Float64,
        PgType::Numeric => DataType::Decimal128(38, 10),
        PgType::Text | PgType::Json => DataType::Utf8,
        PgType::Date => DataType::Date32,
        PgType::Time => DataType::Time64(Microsecond),
        PgType::Timestamp => DataType::Timestamp(Microsecond, None),
        PgType::Timestamptz => DataType::Timestamp(Microsecond, Some("UTC".into())),
        PgType::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
    };
    Some(match kind? {
        ColumnKind::One(kind) => one(kind),
        ColumnKind::Array(item) => DataType::new_list(one(item), true),
    })
}
