//! Statistics of data files: made from a file's Parquet footer when it is written, read back from the log as columns.
//!
//! *Invariants*: what is known is a bound: no value of the file lies outside of `[min, max]`. What cannot be bounded (a
//! float column with a NaN, a year that parsers refuse) is left out, and a file whose statistics cannot be read has NULLs.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tarn_model::Result;

use crate::FileStatistics;
use crate::action::Add;
use crate::error::internal;
use crate::value::{Bound, date_text, decimal_text, parse_column, timestamp_text};

/// Delta keeps statistics of the first 32 columns of a table.
const INDEXED_COLUMNS: usize = 32;
/// Strings are cut to this many characters.
const TEXT_CHARS: usize = 32;

/// The JSON form; values are kept as text until their type is known.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json<V> {
    num_records: Option<i64>,
    #[serde(default = "HashMap::new")]
    min_values: HashMap<String, V>,
    #[serde(default = "HashMap::new")]
    max_values: HashMap<String, V>,
    #[serde(default = "HashMap::new")]
    null_count: HashMap<String, V>,
}

impl<V> Default for Json<V> {
    fn default() -> Json<V> {
        let none = HashMap::new;
        Json { num_records: None, min_values: none(), max_values: none(), null_count: none() }
    }
}

/// The statistics of a written file, as `add.stats`. `unbounded` says of which columns (by position in `schema`, the
/// file's) no bounds may be given.
pub(crate) fn of_file(schema: &Schema, metadata: &ParquetMetaData, unbounded: &[bool]) -> Result<String> {
    let mut json = Json { num_records: Some(metadata.file_metadata().num_rows()), ..Json::default() };
    let raw = |text: String| RawValue::from_string(text).map_err(|e| internal("writing statistics", e));
    for (i, field) in schema.fields().iter().enumerate().take(INDEXED_COLUMNS) {
        if field.data_type().is_nested() {
            break;
        }
        let mut nulls = Some(0);
        let mut bounds: Option<(Scalar, Scalar)> = None;
        let mut known = !unbounded.get(i).copied().unwrap_or(false);
        for row_group in metadata.row_groups() {
            let Some(statistics) = row_group.column(i).statistics() else {
                (nulls, known) = (None, false);
                break;
            };
            let null_count = statistics.null_count_opt();
            nulls = nulls.zip(null_count).map(|(sum, n)| sum + n);
            if null_count == u64::try_from(row_group.num_rows()).ok() {
                continue;
            }
            match Scalar::of_chunk(statistics, field.data_type()) {
                Some((low, high)) => {
                    bounds = Some(match bounds {
                        None => (low, high),
                        Some((min, max)) => (min.lower(low), max.higher(high)),
                    });
                }
                None => known = false,
            }
        }
        let name = || field.name().clone();
        if let Some(nulls) = nulls {
            json.null_count.insert(name(), raw(nulls.to_string())?);
        }
        if let Some((min, max)) = bounds.filter(|_| known) {
            if let Some(min) = min.json(field.data_type(), false) {
                json.min_values.insert(name(), raw(min)?);
            }
            if let Some(max) = max.json(field.data_type(), true) {
                json.max_values.insert(name(), raw(max)?);
            }
        }
    }
    serde_json::to_string(&json).map_err(|e| internal("writing statistics", e))
}

/// A bound of a column, in the order of its physical type.
#[derive(Debug, Clone, PartialEq)]
enum Scalar {
    Integer(i128),
    Float(f64),
    Text(String),
}

impl Scalar {
    fn of_chunk(statistics: &Statistics, data_type: &DataType) -> Option<(Scalar, Scalar)> {
        Some(match statistics {
            Statistics::Int32(s) => {
                (Scalar::Integer((*s.min_opt()?).into()), Scalar::Integer((*s.max_opt()?).into()))
            }
            Statistics::Int64(s) => {
                (Scalar::Integer((*s.min_opt()?).into()), Scalar::Integer((*s.max_opt()?).into()))
            }
            Statistics::Float(s) => {
                (Scalar::Float((*s.min_opt()?).into()), Scalar::Float((*s.max_opt()?).into()))
            }
            Statistics::Double(s) => (Scalar::Float(*s.min_opt()?), Scalar::Float(*s.max_opt()?)),
            Statistics::ByteArray(s) if *data_type == DataType::Utf8 => (
                Scalar::Text(s.min_opt()?.as_utf8().ok()?.to_owned()),
                Scalar::Text(s.max_opt()?.as_utf8().ok()?.to_owned()),
            ),
            Statistics::FixedLenByteArray(s) if matches!(data_type, DataType::Decimal128(..)) => (
                Scalar::Integer(big_endian(s.min_opt()?.data())?),
                Scalar::Integer(big_endian(s.max_opt()?.data())?),
            ),
            // Booleans prune nothing, and binary has no form in JSON.
            _ => return None,
        })
    }

    fn lower(self, other: Scalar) -> Scalar {
        if other.is_below(&self) { other } else { self }
    }

    fn higher(self, other: Scalar) -> Scalar {
        if self.is_below(&other) { other } else { self }
    }

    fn is_below(&self, other: &Scalar) -> bool {
        match (self, other) {
            (Scalar::Integer(a), Scalar::Integer(b)) => a < b,
            (Scalar::Float(a), Scalar::Float(b)) => a < b,
            (Scalar::Text(a), Scalar::Text(b)) => a < b,
            _ => false,
        }
    }

    fn json(&self, data_type: &DataType, is_max: bool) -> Option<String> {
        match (self, data_type) {
            (Scalar::Integer(n), DataType::Date32) => quoted(&date_text(i32::try_from(*n).ok()?)?),
            (Scalar::Integer(n), DataType::Timestamp(TimeUnit::Microsecond, _)) => {
                quoted(&timestamp_text(i64::try_from(*n).ok()?)?)
            }
            (Scalar::Integer(n), DataType::Decimal128(_, scale)) => Some(decimal_text(*n, *scale)),
            (Scalar::Integer(n), _) => Some(n.to_string()),
            (Scalar::Float(f), _) => f.is_finite().then(|| serde_json::to_string(f).ok()).flatten(),
            (Scalar::Text(text), _) if is_max => quoted(&cut_up(text)?),
            (Scalar::Text(text), _) => quoted(&text.chars().take(TEXT_CHARS).collect::<String>()),
        }
    }
}

fn quoted(text: &str) -> Option<String> {
    serde_json::to_string(text).ok()
}

fn big_endian(bytes: &[u8]) -> Option<i128> {
    let mut wide = [if bytes.first()? & 0x80 == 0 { 0 } else { 0xff }; 16];
    wide.get_mut(16_usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    Some(i128::from_be_bytes(wide))
}

/// The shortest text of at most 32 characters made of `text`'s that is not below `text`; `None` when there is none.
fn cut_up(text: &str) -> Option<String> {
    let mut kept: Vec<char> = text.chars().take(TEXT_CHARS + 1).collect();
    if kept.len() <= TEXT_CHARS {
        return Some(text.to_owned());
    }
    kept.truncate(TEXT_CHARS);
    while let Some(last) = kept.pop() {
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            c => char::from_u32(u32::from(c) + 1),
        };
        if let Some(next) = next {
            kept.push(next);
            return Some(kept.into_iter().collect());
        }
    }
    None
}

impl FileStatistics {
    /// Statistics of no file, for a table with these columns.
    pub(crate) fn empty(schema: &Schema) -> FileStatistics {
        let columns = || schema.fields().iter().filter(|field| is_indexed(field));
        let none = |field: &Arc<Field>| (field.name().clone(), new_null_array(field.data_type(), 0));
        FileStatistics {
            rows: Int64Array::new_null(0),
            min: columns().map(none).collect(),
            max: columns().map(none).collect(),
            nulls: columns().map(|field| (field.name().clone(), Int64Array::new_null(0))).collect(),
        }
    }

    /// Statistics of the files of `adds`; a partition column's bounds are its value.
    pub(crate) fn of_adds(schema: &Schema, partition_by: &[String], adds: &[Add]) -> FileStatistics {
        let parsed: Vec<Json<&RawValue>> = adds
            .iter()
            .map(|add| {
                add.stats.as_deref().and_then(|stats| serde_json::from_str(stats).ok()).unwrap_or_default()
            })
            .collect();
        let rows: Int64Array = parsed.iter().map(|json| json.num_records).collect();
        let mut statistics = FileStatistics { rows, ..FileStatistics::empty(&Schema::empty()) };
        for field in schema.fields().iter().filter(|field| is_indexed(field)) {
            let name = field.name();
            let (min, max, nulls) = if partition_by.contains(name) {
                let text = |add: &Add| add.partition_values.get(name).cloned().flatten();
                let texts: Vec<Option<String>> = adds.iter().map(text).collect();
                let value = parse_column(field.data_type(), Bound::Exact, texts.iter().map(Option::as_deref));
                let nulls = texts
                    .iter()
                    .zip(&statistics.rows)
                    .map(|(text, rows)| text.as_ref().map_or(rows, |_| Some(0)));
                (value.clone(), value, nulls.collect())
            } else {
                let column = |bound, values: fn(&Json<&RawValue>, &str) -> Option<String>| {
                    let texts: Vec<Option<String>> = parsed.iter().map(|json| values(json, name)).collect();
                    parse_column(field.data_type(), bound, texts.iter().map(Option::as_deref))
                };
                let nulls = parsed.iter().map(|json| json.null_count.get(name)?.get().parse().ok());
                (
                    column(Bound::Exact, |json, name| json.min_values.get(name).and_then(|raw| plain(raw))),
                    column(Bound::Upper, |json, name| json.max_values.get(name).and_then(|raw| plain(raw))),
                    nulls.collect(),
                )
            };
            statistics.min.insert(name.clone(), min);
            statistics.max.insert(name.clone(), max);
            statistics.nulls.insert(name.clone(), nulls);
        }
        statistics
    }

    /// These files, then those.
    pub(crate) fn followed_by(&self, next: &FileStatistics) -> Result<FileStatistics> {
        self.combine(next, |a, b| concat(&[a, b]))
    }

    /// Only the files at the positions that `keep` says.
    pub(crate) fn filtered(&self, keep: &arrow::array::BooleanArray) -> Result<FileStatistics> {
        self.combine(self, |a, _| arrow::compute::filter(a, keep))
    }

    /// A column that a side lacks (the schema grew) is NULL for its files.
    fn combine(
        &self,
        next: &FileStatistics,
        join: impl Fn(&dyn Array, &dyn Array) -> std::result::Result<ArrayRef, arrow::error::ArrowError>,
    ) -> Result<FileStatistics> {
        let numbers = |a: &Int64Array, b: &Int64Array| -> Result<Int64Array> {
            let joined = join(a, b).map_err(|e| internal("joining statistics", e))?;
            Ok(arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&joined).clone())
        };
        let values = |a: &HashMap<String, ArrayRef>,
                      b: &HashMap<String, ArrayRef>|
         -> Result<HashMap<String, ArrayRef>> {
            b.iter()
                .map(|(name, b)| {
                    let a = a
                        .get(name)
                        .cloned()
                        .unwrap_or_else(|| new_null_array(b.data_type(), self.rows.len()));
                    Ok((name.clone(), join(&a, b).map_err(|e| internal("joining statistics", e))?))
                })
                .collect()
        };
        let nulls = next.nulls.iter().map(|(name, b)| {
            let a = self.nulls.get(name).cloned().unwrap_or_else(|| Int64Array::new_null(self.rows.len()));
            Ok((name.clone(), numbers(&a, b)?))
        });
        Ok(FileStatistics {
            rows: numbers(&self.rows, &next.rows)?,
            min: values(&self.min, &next.min)?,
            max: values(&self.max, &next.max)?,
            nulls: nulls.collect::<Result<_>>()?,
        })
    }
}

fn is_indexed(field: &Field) -> bool {
    !field.data_type().is_nested()
}

/// A JSON scalar as text, without quotes; `None` for null and for anything nested.
fn plain(raw: &RawValue) -> Option<String> {
    match raw.get().as_bytes().first()? {
        b'"' => serde_json::from_str(raw.get()).ok(),
        b'n' | b'{' | b'[' => None,
        _ => Some(raw.get().to_owned()),
    }
}

#[cfg(test)]
mod tests;
