//! Turns DataFusion's errors into errors that people can act on; the one place where that happens.

use std::error::Error as StdError;

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::object_store;
use datafusion::sql::sqlparser::parser::ParserError;
use tarn_model::{Error, Kind};

use crate::places::told_place;

/// What went wrong, without DataFusion's wrapping, and what to do about it.
pub fn from_datafusion(error: DataFusionError) -> Error {
    if let Some(inner) = find::<Error>(&error) {
        let mut copy = Error::new(inner.kind(), inner.to_string());
        if let Some(hint) = inner.hint() {
            copy = copy.with_hint(hint);
        }
        if let Some(code) = inner.sqlstate() {
            copy = copy.with_sqlstate(code);
        }
        return match inner.place() {
            Some(place) => copy.with_place(place),
            None => copy,
        };
    }
    if is_gone(&error) {
        return Error::conflict("a file of the lake is gone: it was vacuumed while the statement ran").with_sqlstate("40001").with_source(error).with_hint(
            "run the statement again; if that happens often, raise `lake.vacuum_retention` above the longest statement",
        );
    }
    let root = error.find_root();
    let message = lower_first(&root.message());
    match root {
        DataFusionError::SQL(parser, _) => unparsed(&what_was_expected(parser)),
        DataFusionError::SchemaError(schema, _) => unknown_field(schema, message),
        DataFusionError::NotImplemented(_) => Error::invalid(message).with_sqlstate("0A000"),
        DataFusionError::ArrowError(..) | DataFusionError::Execution(_) => {
            let code = code_of_data(&message);
            in_words_of_sql(message, code)
        }
        DataFusionError::Plan(_)
        | DataFusionError::Configuration(_)
        | DataFusionError::Diagnostic(..)
        | DataFusionError::Collection(_) => {
            let code = code_of_plan(&message);
            in_words_of_sql(message, code)
        }
        DataFusionError::ResourcesExhausted(_) => {
            Error::invalid("the statement needs more memory than it may have")
                .with_sqlstate("53200")
                .with_hint("ask for fewer rows or groups at once, or raise `serving.statement_memory`")
                .with_source(what_was_too_much(&message))
        }
        DataFusionError::ParquetError(_) => {
            Error::corrupt("a file of the lake cannot be read").with_sqlstate("XX001").with_source(error)
        }
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => {
            Error::unavailable("the lake cannot be read").with_sqlstate("58030").with_source(error)
        }
        _ => Error::new(Kind::Internal, format!("the statement failed: {message}")),
    }
}

/// An error that passes through DataFusion and comes out of [`from_datafusion`] as it was.
pub(crate) fn into_datafusion(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The name among `known` that `name` was probably meant to be; of several that are as near, the one that begins like it.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let shared = |other: &str| name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let distances = known.into_iter().map(|other| {
        let lower = other.to_lowercase();
        let away = name.len().saturating_sub(shared(&lower));
        ((strsim::damerau_levenshtein(&name, &lower), away, other), other)
    });
    let ((distance, ..), other) = distances.min_by_key(|(rank, _)| *rank)?;
    (distance <= 1 + name.chars().count() / 3).then_some(other)
}

fn unknown_field(schema: &SchemaError, message: String) -> Error {
    let SchemaError::FieldNotFound { field, valid_fields } = schema else {
        let is_ambiguous = matches!(schema, SchemaError::AmbiguousReference { .. });
        return Error::invalid(message).with_sqlstate(if is_ambiguous { "42702" } else { "42701" });
    };
    let known: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
    let error = Error::invalid(format!("there is no column `{}`", field.flat_name())).with_sqlstate("42703");
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
fn in_words_of_sql(message: String, code: &'static str) -> Error {
    if let Some((call, rest)) = message
        .split_once("No function matches the given name and argument types '")
        .and_then(|(_, rest)| rest.split_once("'."))
    {
        let error = Error::invalid(format!("no function fits `{}`", sql_types(call))).with_sqlstate("42883");
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
        .with_sqlstate("42803")
        .with_hint(format!("group by it too, or say which of its values is wanted: `max({column})`"));
    }
    Error::invalid(sql_types(&message)).with_sqlstate(code)
}

/// SQLSTATE of what a planner refuses.
fn code_of_plan(message: &str) -> &'static str {
    let lower = message.to_lowercase();
    if lower.contains("coerce") || lower.contains("common argument type") || lower.contains("type mismatch") {
        "42804"
    } else if lower.contains("table") && lower.contains("not found") {
        "42P01"
    } else if lower.contains("placeholder") {
        "42P02"
    } else if lower.contains("not supported") || lower.contains("unsupported") {
        "0A000"
    } else {
        "42000"
    }
}

/// SQLSTATE of what went wrong with values.
fn code_of_data(message: &str) -> &'static str {
    let lower = message.to_lowercase();
    if lower.contains("divide by zero") {
        "22012"
    } else if lower.contains("cannot cast string")
        || lower.contains("parser error")
        || lower.contains("parsing")
    {
        "22P02"
    } else if lower.contains("overflow") || lower.contains("out of range") || lower.contains("too large") {
        "22003"
    } else {
        "22000"
    }
}

/// A statement that cannot be parsed, with the place that the parser tells.
pub(crate) fn unparsed(told: &str) -> Error {
    let (text, place) = told_place(told);
    let error = Error::invalid(format!("the statement cannot be parsed: {text}")).with_sqlstate("42601");
    match place {
        Some(place) => error.with_place(place),
        None => error,
    }
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
