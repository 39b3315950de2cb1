//! Reads the rows of one data file, with the columns that a table has.

#![expect(deprecated, reason = "parquet has no other reader of an object store yet")]

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{cast, take};
use arrow::datatypes::{Field, SchemaRef};
use futures::TryStreamExt as _;
use object_store::ObjectStore;
use parquet::arrow::ProjectionMask;
use parquet::arrow::async_reader::{ParquetObjectReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use tarn_lake::LakeSnapshot;
use tarn_model::{Error, Result};

/// Calls `each` with the rows of file `at` of `snapshot`, in `schema`: a column that the file lacks has the file's
/// partition value, or is NULL. What is wrong with the file itself is returned in words; an error is everything else.
pub(super) async fn each_batch(
    store: &Arc<dyn ObjectStore>,
    snapshot: &LakeSnapshot,
    at: usize,
    schema: &SchemaRef,
    mut each: impl FnMut(RecordBatch) -> Result<()>,
) -> Result<Option<String>> {
    let file = &snapshot.files[at];
    let damaged = |error| damage(&file.path, error).map(Some);
    let reader = ParquetObjectReader::new(Arc::clone(store), file.path.clone()).with_file_size(file.size);
    let builder = match ParquetRecordBatchStreamBuilder::new(reader).await {
        Ok(builder) => builder,
        Err(error) => return damaged(error),
    };
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let mask = ProjectionMask::columns(builder.parquet_schema(), names);
    let mut batches = match builder.with_projection(mask).build() {
        Ok(batches) => batches,
        Err(error) => return damaged(error),
    };
    loop {
        match batches.try_next().await {
            Ok(Some(batch)) => each(complete(&batch, snapshot, at, schema)?)?,
            Ok(None) => return Ok(None),
            Err(error) => return damaged(error),
        }
    }
}

/// A file that is not there, or is not what was written, is a finding; a store that does not answer is an error.
fn damage(path: &object_store::path::Path, error: ParquetError) -> Result<String> {
    match error {
        ParquetError::External(source) => match source.downcast_ref::<object_store::Error>() {
            Some(object_store::Error::NotFound { .. }) => Ok(format!("the data file `{path}` is not there")),
            _ => Err(Error::unavailable(format!("cannot read `{path}`")).with_source(source)),
        },
        error => Ok(format!("the data file `{path}` is damaged: {error}")),
    }
}

fn complete(
    batch: &RecordBatch,
    snapshot: &LakeSnapshot,
    at: usize,
    schema: &SchemaRef,
) -> Result<RecordBatch> {
    let columns =
        schema.fields().iter().map(|field| column(batch, snapshot, at, field)).collect::<Result<_>>()?;
    // Nullability is left out: a NULL where none may be is a difference in content, not an error.
    let fields: Vec<Field> =
        schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(arrow::datatypes::Schema::new(fields)), columns, &options)
        .map_err(|e| Error::internal("the columns of a data file do not form a batch").with_source(e))
}

fn column(batch: &RecordBatch, snapshot: &LakeSnapshot, at: usize, field: &Field) -> Result<ArrayRef> {
    let unreadable = |e| {
        Error::internal(format!("column `{}` cannot be brought to its type", field.name())).with_source(e)
    };
    if let Some(column) = batch.column_by_name(field.name()) {
        if column.data_type() == field.data_type() {
            return Ok(Arc::clone(column));
        }
        return cast(column, field.data_type()).map_err(unreadable);
    }
    let value = match snapshot.partition_by.iter().any(|name| name == field.name()) {
        // The bounds of a partition column are its value.
        true => snapshot.statistics.min.get(field.name()),
        false => None,
    };
    let Some(values) = value else { return Ok(new_null_array(field.data_type(), batch.num_rows())) };
    let row = u64::try_from(at).map_err(|e| Error::internal("too many files").with_source(e))?;
    let rows = arrow::array::UInt64Array::from(vec![row; batch.num_rows()]);
    let repeated = take(values, &rows, None).map_err(unreadable)?;
    cast(&repeated, field.data_type()).map_err(unreadable)
}
