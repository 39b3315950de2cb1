//! Turns DataFusion's errors into errors that people can act on; the one place where that happens.

use std::error::Error as StdError;

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::object_store;
use datafusion::sql::sqlparser::parser::ParserError;
use tarn_model::{Error, Kind};

/// What went wrong, without DataFusion's wrapping, and what to do about it.
pub fn from_datafusion(error: DataFusionError) -> Error {
    if let Some(inner) = find::<Error>(&error) {
        let copy = Error::new(inner.kind(), inner.to_string());
        return match inner.hint() {
            Some(hint) => copy.with_hint(hint),
            None => copy,
        };
    }
    if is_gone(&error) {
        return Error::conflict("a file of the lake is gone: it was vacuumed while the statement ran").with_source(error).with_hint(
            "run the statement again; if that happens often, raise `lake.vacuum_retention` above the longest statement",
        );
    }
    let root = error.find_root();
    let message = lower_first(&root.message());
    match root {
        DataFusionError::SQL(parser, _) => {
            Error::invalid(format!("the statement cannot be parsed: {}", what_was_expected(parser)))
        }
        DataFusionError::SchemaError(schema, _) => unknown_field(schema, message),
        DataFusionError::Plan(_)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Configuration(_)
        | DataFusionError::ArrowError(..)
        | DataFusionError::Execution(_)
        | DataFusionError::Diagnostic(..)
        | DataFusionError::Collection(_) => in_words_of_sql(message),
        DataFusionError::ResourcesExhausted(_) => {
            Error::invalid("the statement needs more memory than it may have")
                .with_hint("ask for fewer rows or groups at once, or raise `serving.statement_memory`")
                .with_source(what_was_too_much(&message))
        }
        DataFusionError::ParquetError(_) => {
            Error::corrupt("a file of the lake cannot be read").with_source(error)
        }
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => {
            Error::unavailable("the lake cannot be read").with_source(error)
        }
        _ => Error::new(Kind::Internal, format!("the statement failed: {message}")),
    }
}

/// An error that passes through DataFusion and comes out of [`from_datafusion`] as it was.
pub(crate) fn into_datafusion(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The name among `known` that `name` was probably meant to be.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let distances =
        known.into_iter().map(|other| (strsim::damerau_levenshtein(&name, &other.to_lowercase()), other));
    let (distance, other) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + name.chars().count() / 3).then_some(other)
}

fn unknown_field(schema: &SchemaError, message: String) -> Error {
    let SchemaError::FieldNotFound { field, valid_fields } = schema else { return Error::invalid(message) };
    let known: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
    let error = Error::invalid(format!("there is no column `{}`", field.flat_name()));
    match nearest(&field.name, known.iter().copied()) {
        Some(near) if near.to_lowercase() != near => {
            error.with_hint(format!("there is `{near}`: write it in double quotes, \"{near}\""))
        }
        Some(near) => error.with_hint(format!("did you mean `{near}`?")),
        None if known.is_empty() => error,
        None => {
            let some: Vec<String> = known.iter().take(20).map(|name| format!("`{name}`")).collect();
            let more = if known.len() > some.len() { ", ..." } else { "" };
            error.with_hint(format!("columns here: {}{more}", some.join(", ")))
        }
    }
}

/// What DataFusion's planner says, without its own types and its own troubles.
fn in_words_of_sql(message: String) -> Error {
    if let Some((call, rest)) = message
        .split_once("No function matches the given name and argument types '")
        .and_then(|(_, rest)| rest.split_once("'."))
    {
        let error = Error::invalid(format!("no function fits `{}`", sql_types(call)));
        let candidates = rest.lines().skip_while(|line| !line.contains("Candidate functions")).skip(1);
        let candidates: Vec<String> =
            candidates.take(6).map(|line| format!("`{}`", sql_types(line.trim()))).collect();
        return match candidates.as_slice() {
            [] => error,
            some => {
                error.with_hint(format!("there are {}; `CAST(x AS DOUBLE)` changes a type", some.join(", ")))
            }
        };
    }
    if let Some(column) = between(&message, "column \"", "\" must appear in the GROUP BY clause") {
        return Error::invalid(format!(
            "column `{column}` is neither in GROUP BY nor in an aggregate function"
        ))
        .with_hint(format!("group by it too, or say which of its values is wanted: `max({column})`"));
    }
    Error::invalid(message)
}

/// Arrow's type names as SQL has them.
pub(crate) fn sql_types(text: &str) -> String {
    const NAMES: [(&str, &str); 15] = [
        ("Utf8View", "VARCHAR"),
        ("LargeUtf8", "VARCHAR"),
        ("Utf8", "VARCHAR"),
        ("UInt64", "BIGINT UNSIGNED"),
        ("Int64", "BIGINT"),
        ("Int32", "INT"),
        ("Int16", "SMALLINT"),
        ("Int8", "TINYINT"),
        ("Float64", "DOUBLE"),
        ("Float32", "REAL"),
        ("Boolean", "BOOLEAN"),
        ("Date32", "DATE"),
        ("BinaryView", "BINARY"),
        ("Decimal128", "DECIMAL"),
        ("Timestamp(µs, \"UTC\")", "TIMESTAMP"),
    ];
    NAMES.iter().fold(text.to_owned(), |text, (arrow, sql)| text.replace(arrow, sql))
}

/// What stands between two texts, the first time.
pub(crate) fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

fn what_was_expected(error: &ParserError) -> String {
    match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => lower_first(message),
        ParserError::RecursionLimitExceeded => "it is nested too deeply".to_owned(),
    }
}

/// Of DataFusion's account of all memory, the part that says who asked for how much.
fn what_was_too_much(message: &str) -> String {
    let asked = message.find("Failed to allocate").map_or(message, |at| &message[at..]);
    let asked = asked.split_once(" with ").map_or(asked, |(asked, _)| asked);
    lower_first(asked.lines().next().unwrap_or_default())
}

/// Whether a file was not found. The Parquet reader keeps only the text of what its object store said.
fn is_gone(error: &DataFusionError) -> bool {
    if find::<object_store::Error>(error)
        .is_some_and(|error| matches!(error, object_store::Error::NotFound { .. }))
    {
        return true;
    }
    let text = error.to_string();
    text.contains("Object at location") && text.contains("not found")
}

fn find<T: StdError + 'static>(error: &DataFusionError) -> Option<&T> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        // Errors in boxes and behind `Arc` answer for what they hold only through `source`.
        if let Some(DataFusionError::External(inner)) = error.downcast_ref::<DataFusionError>()
            && let Some(found) = inner.downcast_ref::<T>()
        {
            return Some(found);
        }
        if let Some(DataFusionError::ObjectStore(inner)) = error.downcast_ref::<DataFusionError>()
            && let Some(found) = (inner.as_ref() as &(dyn StdError + 'static)).downcast_ref::<T>()
        {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

fn lower_first(text: &str) -> String {
    let text = text.trim().trim_end_matches('.');
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if chars.as_str().starts_with(|c: char| c.is_lowercase() || c == ' ') => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}
