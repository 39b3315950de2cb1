//! Sorts rows by their values of the partition columns, and names the folders they go to.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::Schema;
use arrow::row::{RowConverter, SortField};
use tarn_model::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

use crate::action::percent_encode;
use crate::error::internal;
use crate::value::partition_text;

/// Rows of one batch that is made of scattered rows.
const ROWS_AT_A_TIME: usize = 64 * 1024;
/// Longest name of a folder, bytes; file systems stop at 255.
const LONGEST_FOLDER: usize = 160;

/// Values of the partition columns by name, as Delta writes them; `None` is NULL.
pub(crate) type PartitionValues = BTreeMap<String, Option<String>>;

/// Rows with the same values of the partition columns, in the order they came.
#[derive(Debug)]
pub(crate) struct Group {
    /// Values by column name; `None` is NULL.
    pub(crate) values: PartitionValues,
    /// Columns of the files only.
    rows: Vec<RecordBatch>,
    /// Which rows; `None`: all of them.
    picked: Option<Vec<(usize, usize)>>,
}

impl Group {
    /// All of `rows`, which have these values.
    pub(crate) fn whole(values: PartitionValues, rows: Vec<RecordBatch>) -> Group {
        Group { values, rows, picked: None }
    }

    /// The rows as batches.
    pub(crate) fn into_batches(self) -> Box<dyn Iterator<Item = Result<RecordBatch>> + Send> {
        let Some(picked) = self.picked else { return Box::new(self.rows.into_iter().map(Ok)) };
        let rows = self.rows;
        let mut next = 0;
        Box::new(std::iter::from_fn(move || {
            let end = picked.len().min(next + ROWS_AT_A_TIME);
            let part = picked.get(next..end).filter(|part| !part.is_empty())?;
            next = end;
            let sources: Vec<&RecordBatch> = rows.iter().collect();
            Some(interleave_record_batch(&sources, part).map_err(|e| internal("gathering rows", e)))
        }))
    }
}

/// Splits `rows`, which have exactly the table's columns, into groups.
pub(crate) fn split(rows: Vec<RecordBatch>, schema: &Schema, partition_by: &[String]) -> Result<Vec<Group>> {
    if partition_by.is_empty() {
        return Ok(vec![Group::whole(PartitionValues::new(), rows)]);
    }
    let position =
        |name: &String| schema.index_of(name).map_err(|e| internal("finding a partition column", e));
    let keys: Vec<usize> = partition_by.iter().map(position).collect::<Result<_>>()?;
    let kept: Vec<usize> = (0..schema.fields().len()).filter(|i| !keys.contains(i)).collect();
    let fields = keys.iter().map(|i| SortField::new(schema.field(*i).data_type().clone())).collect();
    let converter = RowConverter::new(fields).map_err(|e| internal("comparing partition values", e))?;

    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut groups: Vec<(PartitionValues, Vec<(usize, usize)>)> = Vec::new();
    let mut columns = Vec::with_capacity(rows.len());
    for (b, batch) in rows.iter().enumerate() {
        let arrays: Vec<ArrayRef> = keys.iter().map(|i| batch.column(*i).clone()).collect();
        let compared =
            converter.convert_columns(&arrays).map_err(|e| internal("comparing partition values", e))?;
        // Neighbours are mostly of one group: the map is asked only when the value changes.
        let mut last: Option<(usize, usize)> = None;
        for row in 0..batch.num_rows() {
            let key = compared.row(row);
            let group = match last {
                Some((previous, group)) if compared.row(previous) == key => group,
                _ => match places.get(key.data()) {
                    Some(group) => *group,
                    None => {
                        let text = |(name, array): (&String, &ArrayRef)| {
                            Ok((name.clone(), partition_text(array, row)?))
                        };
                        let values = partition_by.iter().zip(&arrays).map(text).collect::<Result<_>>()?;
                        groups.push((values, Vec::new()));
                        places.insert(key.data().to_vec(), groups.len() - 1);
                        groups.len() - 1
                    }
                },
            };
            last = Some((row, group));
            groups[group].1.push((b, row));
        }
        columns.push(batch.project(&kept).map_err(|e| internal("leaving out partition columns", e))?);
    }
    let all = columns.iter().map(RecordBatch::num_rows).sum::<usize>();
    let group = |(values, picked): (_, Vec<_>)| {
        let picked = (picked.len() < all).then_some(picked);
        Group { values, rows: columns.clone(), picked }
    };
    Ok(groups.into_iter().map(group).collect())
}

/// The folder of these values, `a=1/b=x%2Fy/`; empty without partition columns.
///
/// For people only: readers take the values from the log. So a long value is cut and made unique by a hash.
pub(crate) fn folder(partition_by: &[String], values: &PartitionValues) -> Result<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let mut path = String::new();
    for name in partition_by {
        let value = values.get(name).ok_or_else(|| {
            Error::internal(format!("a file has no value for its partition column: column=`{name}`"))
        })?;
        let text = value.as_deref().unwrap_or("__HIVE_DEFAULT_PARTITION__");
        let mut folder = format!("{}={}", percent_encode(name, plain), percent_encode(text, plain));
        if folder.len() > LONGEST_FOLDER {
            folder.truncate(LONGEST_FOLDER);
            folder = format!("{folder}~{:016x}", xxh3_64(text.as_bytes()));
        }
        path.push_str(&folder);
        path.push('/');
    }
    Ok(path)
}
