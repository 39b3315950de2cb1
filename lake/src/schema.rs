//! A table's columns between Arrow and Delta's schema string, and what a table of reader 1 / writer 2 may hold.
//!
//! Source of the format: the Delta transaction log protocol, "Schema Serialization Format".

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};
use tarn_model::{Error, Result};

use crate::error::internal;

/// Delta's schema string → columns.
pub(crate) fn parse(schema_string: &str) -> Result<SchemaRef> {
    let corrupt = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::corrupt("the table's schema string cannot be read")
            .with_source(e)
            .with_hint("the log's metaData action is damaged, or uses types that tarn does not know")
    };
    let delta: Nested = serde_json::from_str(schema_string).map_err(|e| corrupt(e.into()))?;
    let Nested::Struct { fields } = delta else { return Err(corrupt("it is not a struct".into())) };
    let schema = Schema::new(to_fields(fields).map_err(|e| corrupt(e.into()))?);
    // Types that need a newer protocol cannot be here legally; reading them as something else would be wrong silently.
    check_types(&schema)?;
    Ok(Arc::new(schema))
}

/// Columns → Delta's schema string.
pub(crate) fn write(schema: &Schema) -> Result<String> {
    check_types(schema)?;
    let delta = Nested::Struct { fields: from_fields(schema.fields()) };
    serde_json::to_string(&delta).map_err(|e| internal("writing a schema", e))
}

/// A type in the schema string.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum DeltaType {
    Primitive(String),
    Nested(Box<Nested>),
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", rename_all_fields = "camelCase")]
enum Nested {
    Struct { fields: Vec<DeltaField> },
    Array { element_type: DeltaType, contains_null: bool },
    Map { key_type: DeltaType, value_type: DeltaType, value_contains_null: bool },
}

#[derive(Serialize, Deserialize)]
struct DeltaField {
    name: String,
    #[serde(rename = "type")]
    data_type: DeltaType,
    nullable: bool,
    #[serde(default)]
    metadata: serde_json::Map<String, serde_json::Value>,
}

fn to_fields(fields: Vec<DeltaField>) -> std::result::Result<Fields, String> {
    let to_field = |DeltaField { name, data_type, nullable, metadata }| {
        let metadata = metadata.into_iter().map(|(key, value)| match value {
            serde_json::Value::String(text) => (key, text),
            other => (key, other.to_string()),
        });
        Ok(Field::new(name, to_arrow(data_type)?, nullable).with_metadata(metadata.collect()))
    };
    fields.into_iter().map(to_field).collect()
}

fn to_arrow(delta: DeltaType) -> std::result::Result<DataType, String> {
    let name = match delta {
        DeltaType::Primitive(name) => name,
        DeltaType::Nested(nested) => return to_arrow_nested(*nested),
    };
    Ok(match name.as_str() {
        "string" => DataType::Utf8,
        "long" => DataType::Int64,
        "integer" => DataType::Int32,
        "short" => DataType::Int16,
        "byte" => DataType::Int8,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "boolean" => DataType::Boolean,
        "binary" => DataType::Binary,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        other => {
            let decimal = other.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')'));
            let digits = decimal.and_then(|digits| digits.split_once(','));
            let parsed = digits.and_then(|(precision, scale)| {
                Some(DataType::Decimal128(precision.trim().parse().ok()?, scale.trim().parse().ok()?))
            });
            parsed.ok_or_else(|| format!("there is no type `{other}` in reader 1 / writer 2"))?
        }
    })
}

fn to_arrow_nested(nested: Nested) -> std::result::Result<DataType, String> {
    Ok(match nested {
        Nested::Struct { fields } => DataType::Struct(to_fields(fields)?),
        Nested::Array { element_type, contains_null } => {
            DataType::List(Arc::new(Field::new("element", to_arrow(element_type)?, contains_null)))
        }
        Nested::Map { key_type, value_type, value_contains_null } => {
            let entry = vec![
                Field::new("key", to_arrow(key_type)?, false),
                Field::new("value", to_arrow(value_type)?, value_contains_null),
            ];
            let entries = Field::new("key_value", DataType::Struct(entry.into()), false);
            DataType::Map(Arc::new(entries), false)
        }
    })
}

fn from_fields(fields: &Fields) -> Vec<DeltaField> {
    let from_field = |field: &Arc<Field>| DeltaField {
        name: field.name().clone(),
        data_type: from_arrow(field.data_type()),
        nullable: field.is_nullable(),
        metadata: field.metadata().iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect(),
    };
    fields.iter().map(from_field).collect()
}

/// The types that [`check_type`] lets through.
fn from_arrow(data_type: &DataType) -> DeltaType {
    let nested = |nested| DeltaType::Nested(Box::new(nested));
    let name = match data_type {
        DataType::Int64 => "long",
        DataType::Int32 => "integer",
        DataType::Int16 => "short",
        DataType::Int8 => "byte",
        DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Boolean => "boolean",
        DataType::Binary => "binary",
        DataType::Date32 => "date",
        DataType::Timestamp(..) => "timestamp",
        DataType::Decimal128(precision, scale) => {
            return DeltaType::Primitive(format!("decimal({precision},{scale})"));
        }
        DataType::Struct(fields) => return nested(Nested::Struct { fields: from_fields(fields) }),
        DataType::List(element) => {
            return nested(Nested::Array {
                element_type: from_arrow(element.data_type()),
                contains_null: element.is_nullable(),
            });
        }
        DataType::Map(entries, _) => {
            if let DataType::Struct(entry) = entries.data_type()
                && let [key, value] = &entry[..]
            {
                return nested(Nested::Map {
                    key_type: from_arrow(key.data_type()),
                    value_type: from_arrow(value.data_type()),
                    value_contains_null: value.is_nullable(),
                });
            }
            "string"
        }
        _ => "string",
    };
    DeltaType::Primitive(name.to_owned())
}

/// Refuses what protocol reader 1 / writer 2 has no type for, and columns that differ in case only.
pub(crate) fn check(schema: &Schema, partition_by: &[String]) -> Result<()> {
    check_types(schema)?;
    let mut names = HashSet::new();
    for field in schema.fields() {
        if !names.insert(field.name().to_lowercase()) {
            return Err(Error::invalid(format!(
                "two columns have the same name, but for case: column=`{}`",
                field.name()
            ))
            .with_hint("Delta tells columns apart without regard to case: rename one of them"));
        }
    }
    for name in partition_by {
        let field = schema.field_with_name(name).map_err(|_| {
            Error::invalid(format!("the table has no such column to partition by: column=`{name}`"))
                .with_hint("name one of the table's columns in `partition_by`")
        })?;
        if matches!(field.data_type(), DataType::Binary | DataType::Float32 | DataType::Float64)
            || field.data_type().is_nested()
        {
            return Err(Error::invalid(format!("files cannot be kept apart by this type: column=`{name}`"))
                .with_hint(
                    "partition by an integer, a string, a boolean, a date, a decimal or a timestamp",
                ));
        }
    }
    if partition_by.len() >= schema.fields().len() {
        return Err(Error::invalid("every column is a partition column").with_hint(
            "leave at least one column out of `partition_by`: partition columns are not in the files",
        ));
    }
    Ok(())
}

fn check_types(schema: &Schema) -> Result<()> {
    for field in schema.fields() {
        check_type(field.data_type()).map_err(|what| {
            Error::invalid(format!(
                "{what} has no place in a table that every engine can read: column=`{}`",
                field.name()
            ))
            .with_hint("use signed integers, and timestamps in microseconds UTC")
        })?;
    }
    Ok(())
}

fn check_type(data_type: &DataType) -> std::result::Result<(), String> {
    match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32 => Ok(()),
        DataType::Decimal128(1..=38, scale) if *scale >= 0 => Ok(()),
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone))
            if matches!(zone.as_ref(), "UTC" | "+00:00" | "Z") =>
        {
            Ok(())
        }
        DataType::Struct(fields) => fields.iter().try_for_each(|field| check_type(field.data_type())),
        DataType::List(field) | DataType::Map(field, _) => check_type(field.data_type()),
        other => Err(format!("type `{other}`")),
    }
}

/// Whether `next` may follow `current`: the same columns with the same types, and nullable ones after them.
pub(crate) fn check_change(current: &Schema, next: &Schema) -> Result<()> {
    for (i, field) in current.fields().iter().enumerate() {
        let same_place = next.fields().get(i).filter(|n| n.name() == field.name());
        let Some(kept) = same_place else {
            return Err(Error::invalid(format!(
                "a column cannot be dropped, renamed or moved: column=`{}`",
                field.name()
            ))
            .with_hint("keep the columns as they are and add new ones at the end, or make a new table"));
        };
        if kept.data_type() != field.data_type() {
            return Err(Error::invalid(format!(
                "the type of a column cannot change from `{}` to `{}`: column=`{}`",
                field.data_type(),
                kept.data_type(),
                field.name()
            ))
            .with_hint("a wider type needs a Delta feature that few engines can read: add a new column, or make a new table"));
        }
        if kept.is_nullable() != field.is_nullable() {
            return Err(Error::invalid(format!(
                "a column cannot change whether it takes NULL: column=`{}`",
                field.name()
            )));
        }
    }
    for field in next.fields().iter().skip(current.fields().len()) {
        if !field.is_nullable() {
            return Err(Error::invalid(format!("a new column must take NULL: column=`{}`", field.name()))
                .with_hint("rows that are there already have no value for it"));
        }
    }
    check(next, &[])
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    fn utc() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    }

    #[test]
    fn schemas_survive_the_schema_string() {
        let entry =
            vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Float64, true)];
        let map =
            DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entry.into()), false)), false);
        let schema = Schema::new(vec![
            Field::new("_partition", DataType::Int32, false),
            Field::new("_offset", DataType::Int64, false),
            Field::new("_timestamp", utc(), false),
            Field::new("b", DataType::Boolean, true),
            Field::new("i8", DataType::Int8, true),
            Field::new("i16", DataType::Int16, true),
            Field::new("f", DataType::Float32, true),
            Field::new("d", DataType::Float64, true),
            Field::new("s", DataType::Utf8, true),
            Field::new("x", DataType::Binary, true),
            Field::new("day", DataType::Date32, true),
            Field::new("dec", DataType::Decimal128(18, 4), true),
            Field::new("list", DataType::List(Arc::new(Field::new("element", DataType::Utf8, true))), true),
            Field::new("row", DataType::Struct(vec![Field::new("a", DataType::Int64, false)].into()), true)
                .with_metadata([("comment".to_owned(), "what it is".to_owned())].into()),
            Field::new("map", map, true),
        ]);
        assert_eq!(*parse(&write(&schema).unwrap()).unwrap(), schema);
    }

    #[test]
    fn the_schema_string_is_what_the_protocol_says() {
        let schema = Schema::new(vec![
            Field::new("a", DataType::Int64, false),
            Field::new("b", DataType::Decimal128(9, 2), true),
            Field::new("c", DataType::List(Arc::new(Field::new("element", utc(), true))), true),
        ]);
        let expected = concat!(
            r#"{"type":"struct","fields":[{"name":"a","type":"long","nullable":false,"metadata":{}},"#,
            r#"{"name":"b","type":"decimal(9,2)","nullable":true,"metadata":{}},"#,
            r#"{"name":"c","type":{"type":"array","elementType":"timestamp","containsNull":true},"nullable":true,"#,
            r#""metadata":{}}]}"#
        );
        assert_eq!(write(&schema).unwrap(), expected);
    }

    #[test]
    fn types_beyond_reader_1_writer_2_are_refused() {
        for data_type in [
            DataType::UInt64,
            DataType::Timestamp(TimeUnit::Microsecond, None),
            DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
            DataType::Timestamp(TimeUnit::Microsecond, Some("Europe/Berlin".into())),
            DataType::Time64(TimeUnit::Microsecond),
        ] {
            let schema = Schema::new(vec![Field::new("c", data_type.clone(), true)]);
            let error = check(&schema, &[]).unwrap_err();
            assert!(error.to_string().contains("column=`c`"), "{data_type}: {error}");
        }
        let ntz = r#"{"type":"struct","fields":[{"name":"t","type":"timestamp_ntz","nullable":true,"metadata":{}}]}"#;
        assert!(parse(ntz).is_err());
    }

    #[test]
    fn a_schema_changes_by_nullable_columns_at_its_end_only() {
        let field = |name: &str, data_type: DataType, nullable| Field::new(name, data_type, nullable);
        let old = Schema::new(vec![field("a", DataType::Int32, false), field("b", DataType::Utf8, true)]);
        let next = |fields: Vec<Field>| check_change(&old, &Schema::new(fields));
        let (a, b) = (old.field(0).clone(), old.field(1).clone());
        assert!(next(vec![a.clone(), b.clone()]).is_ok());
        assert!(next(vec![a.clone(), b.clone(), field("c", DataType::Int64, true)]).is_ok());
        assert!(
            next(vec![a.clone(), b.clone(), field("c", DataType::Int64, false)]).is_err(),
            "not nullable"
        );
        assert!(next(vec![a.clone()]).is_err(), "dropped");
        assert!(next(vec![b.clone(), a.clone()]).is_err(), "moved");
        assert!(next(vec![field("a", DataType::Int64, false), b.clone()]).is_err(), "widened");
        assert!(next(vec![field("a", DataType::Int32, true), b.clone()]).is_err(), "nullability");
        assert!(next(vec![a, b, field("B", DataType::Int64, true)]).is_err(), "differs in case only");
    }
}
