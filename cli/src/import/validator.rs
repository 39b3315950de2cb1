//! `--validate`: what was written is compared with the database, split by split, before it is committed.
//!
//! | | the database's side | the lake's side |
//! |---|---|---|
//! | rows | counted by the database | rows in the split's files |
//! | of each column, values and their sum | counted and summed by the database | in the split's files, read back |
//! | checksum | the split's rows read once more | the rows in the split's files, read back |
//!
//! The first two are the database's own: they find what is read wrongly. What has a sum, [`Summary`] says. The checksum of rows is
//! the sum of their hashes, every cell included, so their order does not matter; it finds what is lost or changed between
//! reading and the files. All is read from the run's one snapshot.
//!
//! *Not here*: sums of floats, and of what the database has in another form than the lake. New rows that a cursor tells are only
//! read twice.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, ArrowPrimitiveType, AsArray as _, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::row::{RowConverter, SortField};
use parking_lot::Mutex;
use serde::Serialize;
use tarn_ingest::{ColumnSummary, Import, ImportPlan, ImportedTable, RowTaker, Summary};
use tarn_lake::{BulkWriter, NewFile};
use tarn_model::columns::Columns;
use tarn_model::{Error, Result, Value};
use tarn_table::decode::RowBuilder;
use tokio::runtime::Handle;

use super::hash_of;
use crate::render::{Grid, number};

/// Both sides of one split.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Validated {
    /// Its number, from 1.
    split: usize,
    /// Its rows in the database, and those in its files.
    database_rows: u64,
    lake_rows: u64,
    database_checksum: String,
    lake_checksum: String,
    /// What the database says of its columns, and what the files have; none of new rows that a cursor tells.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    columns: Vec<ValidatedColumn>,
    agrees: bool,
}

/// Both sides of a column.
#[derive(Debug, Clone, Serialize)]
struct ValidatedColumn {
    column: String,
    database_values: u64,
    lake_values: u64,
    /// Sums, where the column has one on both sides.
    #[serde(skip_serializing_if = "Option::is_none")]
    database_sum: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lake_sum: Option<String>,
}

impl ValidatedColumn {
    fn new(column: &str, there: ColumnSummary, here: ColumnSummary) -> ValidatedColumn {
        let sums = there.sum.zip(here.sum);
        ValidatedColumn {
            column: column.to_owned(),
            database_values: there.values,
            lake_values: here.values,
            database_sum: sums.map(|(there, _)| there.to_string()),
            lake_sum: sums.map(|(_, here)| here.to_string()),
        }
    }

    fn agrees(&self) -> bool {
        self.database_values == self.lake_values && self.database_sum == self.lake_sum
    }
}

/// Compares every split; within `block_in_place`.
pub(super) fn validate(
    database: &mut Import,
    table: &ImportedTable,
    plan: &ImportPlan,
    columns: &Columns,
    timezone: Option<&str>,
    written: (&BulkWriter, &[Vec<NewFile>]),
) -> Result<Vec<Validated>> {
    let (writer, files) = written;
    let there = Arc::new(Mutex::new(vec![Sum::default(); plan.splits()]));
    database.read(table, plan, &|split| {
        let builder = RowBuilder::new(columns, timezone)?;
        Ok(Box::new(Summer { builder, sum: Sum::default(), split, all: Arc::clone(&there) })
            as Box<dyn RowTaker>)
    })?;
    let there = there.lock().clone();
    let mut validated = Vec::with_capacity(files.len());
    for (split, (files, there)) in files.iter().zip(there).enumerate() {
        let said = database.summary(table, plan, split, columns)?;
        let here = Arc::new(Mutex::new((Sum::default(), Summary::default())));
        let (sums, names) =
            (Arc::clone(&here), columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>());
        Handle::current().block_on(writer.read(files, move |batch| {
            let batch = projected(&batch, &names)?;
            let (sum, summary) = &mut *sums.lock();
            summarize(summary, &batch);
            sum.add(&batch)
        }))?;
        let (here, mut summary) = here.lock().clone();
        // Of no rows there is no batch.
        summary.columns.resize(columns.iter().count(), ColumnSummary { values: 0, sum: Some(0) });
        // What a cursor tells to be new is known once it was read.
        let database_rows = said.as_ref().map_or(there.rows, |said| said.rows);
        let pairs = columns.iter().zip(said.iter().flat_map(|said| &said.columns)).zip(&summary.columns);
        let both: Vec<ValidatedColumn> =
            pairs.map(|((column, there), here)| ValidatedColumn::new(&column.name, *there, *here)).collect();
        let agrees = database_rows == here.rows && there == here && both.iter().all(ValidatedColumn::agrees);
        validated.push(Validated {
            split: split + 1,
            database_rows,
            lake_rows: here.rows,
            database_checksum: format!("{:016x}", there.hash),
            lake_checksum: format!("{:016x}", here.hash),
            columns: both,
            agrees,
        });
    }
    Ok(validated)
}

/// Adds rows to what the lake says of them.
fn summarize(summary: &mut Summary, batch: &RecordBatch) {
    let none = ColumnSummary { values: 0, sum: Some(0) };
    summary.columns.resize(batch.num_columns(), none);
    summary.rows += batch.num_rows() as u64;
    for (found, column) in summary.columns.iter_mut().zip(batch.columns()) {
        found.values += (column.len() - column.null_count()) as u64;
        found.sum = found.sum.zip(sum_of(column)).and_then(|(sum, more)| sum.checked_add(more));
    }
}

/// The sum of a column, as [`tarn_ingest::Summary`] has it; `None` of one that has none.
fn sum_of(column: &ArrayRef) -> Option<i128> {
    fn whole<T: ArrowPrimitiveType>(column: &ArrayRef) -> i128
    where
        T::Native: Into<i128>,
    {
        column.as_primitive::<T>().iter().flatten().map(Into::into).sum()
    }
    let lengths =
        |lengths: &mut dyn Iterator<Item = Option<usize>>| lengths.flatten().map(|n| n as i128).sum();
    Some(match column.data_type() {
        DataType::Boolean => column.as_boolean().true_count() as i128,
        DataType::Int8 => whole::<Int8Type>(column),
        DataType::Int16 => whole::<Int16Type>(column),
        DataType::Int32 => whole::<Int32Type>(column),
        DataType::Int64 => whole::<Int64Type>(column),
        DataType::Date32 => whole::<Date32Type>(column),
        DataType::Timestamp(TimeUnit::Microsecond, _) => whole::<TimestampMicrosecondType>(column),
        DataType::Decimal128(..) => {
            let mut values = column.as_primitive::<Decimal128Type>().iter().flatten();
            values.try_fold(0_i128, i128::checked_add)?
        }
        DataType::Utf8 => lengths(&mut column.as_string::<i32>().iter().map(|text| text.map(str::len))),
        DataType::Binary => {
            lengths(&mut column.as_binary::<i32>().iter().map(|bytes| bytes.map(<[u8]>::len)))
        }
        _ => return None,
    })
}

/// For people.
pub(super) fn grid(validated: &[Validated]) -> Grid {
    let mut grid =
        Grid::new(&["#split", "#rows there", "#rows here", "checksum there", "checksum here", "sums", ""]);
    for split in validated {
        grid.row([
            split.split.to_string(),
            number(split.database_rows),
            number(split.lake_rows),
            split.database_checksum.clone(),
            split.lake_checksum.clone(),
            match split.columns.iter().filter(|column| column.database_sum.is_some()).count() {
                0 => "-".to_owned(),
                sums => format!("{sums} of {} columns", split.columns.len()),
            },
            if split.agrees { "agrees".to_owned() } else { "DIFFERS".to_owned() },
        ]);
    }
    grid
}

/// Refuses what does not agree.
pub(super) fn check(validated: &[Validated]) -> Result<()> {
    let wrong: Vec<String> =
        validated.iter().filter(|split| !split.agrees).map(|split| split.split.to_string()).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let mut columns: Vec<&str> = validated
        .iter()
        .flat_map(|split| &split.columns)
        .filter(|c| !c.agrees())
        .map(|c| c.column.as_str())
        .collect();
    columns.sort_unstable();
    columns.dedup();
    let columns = match columns.is_empty() {
        true => String::new(),
        false => format!(", by the values or sums of `{}`", columns.join("`, `")),
    };
    Err(Error::corrupt(format!("what was written is not what the database has, in split {}{columns}", wrong.join(", ")))
        .with_hint("nothing was imported; a query whose answer changes, such as one with `random()`, cannot be validated"))
}

/// Rows, and the sum of their hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sum {
    rows: u64,
    hash: u64,
}

impl Sum {
    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let failed = |error| Error::internal("rows cannot be hashed").with_source(error);
        let fields = batch.schema_ref().fields().iter();
        let fields = fields.map(|field| SortField::new(field.data_type().clone())).collect();
        let rows = RowConverter::new(fields)
            .and_then(|converter| converter.convert_columns(batch.columns()))
            .map_err(failed)?;
        for row in &rows {
            self.hash = self.hash.wrapping_add(hash_of(row.as_ref()));
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }
}

fn projected(batch: &RecordBatch, names: &[String]) -> Result<RecordBatch> {
    let failed = |error| Error::internal("a file lacks a column that was written").with_source(error);
    let places: std::result::Result<Vec<usize>, _> =
        names.iter().map(|name| batch.schema_ref().index_of(name)).collect();
    places.and_then(|places| batch.project(&places)).map_err(failed)
}

/// Sums the rows of a split.
struct Summer {
    builder: RowBuilder,
    sum: Sum,
    split: usize,
    all: Arc<Mutex<Vec<Sum>>>,
}

impl Summer {
    fn flush(&mut self) -> Result<()> {
        self.builder.finish()?.map_or(Ok(()), |batch| self.sum.add(&batch))
    }
}

impl RowTaker for Summer {
    fn take(&mut self, row: &[Value<'_>]) -> Result<()> {
        self.builder.push(row)?;
        if self.builder.is_full() { self.flush() } else { Ok(()) }
    }

    fn end(mut self: Box<Self>) -> Result<()> {
        self.flush()?;
        self.all.lock()[self.split] = self.sum.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(rows: &[[Value<'_>; 2]]) -> Sum {
        let mut builder = RowBuilder::new(&Columns::parse("a BIGINT, b VARCHAR").expect("columns"), None)
            .expect("a builder");
        rows.iter().for_each(|row| builder.push(row).expect("a row"));
        let mut sum = Sum::default();
        builder.finish().expect("rows").iter().for_each(|batch| sum.add(batch).expect("a sum"));
        sum
    }

    #[test]
    fn a_column_whose_sum_differs_is_named() {
        let columns =
            "a BIGINT, b VARCHAR, c DECIMAL(4,2), d DATE, e BOOLEAN, f DOUBLE, g TIMESTAMP, h BINARY";
        let mut builder =
            RowBuilder::new(&Columns::parse(columns).expect("columns"), None).expect("a builder");
        let row = [
            Value::Int(i64::MAX),
            Value::Text("ü".as_bytes()),
            Value::Decimal(-150, 2),
            Value::Date(-1),
            Value::Bool(true),
            Value::Float(0.5),
            Value::Timestamp(7, true),
            Value::Bytes(b"xyz"),
        ];
        for row in [row, row, [Value::Null; 8]] {
            builder.push(&row).expect("a row");
        }
        let mut summary = Summary::default();
        summarize(&mut summary, &builder.finish().expect("rows").expect("some"));
        let sums: Vec<Option<i128>> = summary.columns.iter().map(|column| column.sum).collect();
        let max = i128::from(i64::MAX);
        assert_eq!(sums, [Some(2 * max), Some(4), Some(-300), Some(-2), Some(2), None, Some(14), Some(6)]);
        assert!(summary.rows == 3 && summary.columns.iter().all(|column| column.values == 2));

        let side = |sum| ColumnSummary { values: 2, sum };
        let split = |there, here| Validated {
            split: 1,
            database_rows: 2,
            lake_rows: 2,
            database_checksum: String::new(),
            lake_checksum: String::new(),
            columns: vec![ValidatedColumn::new("price", there, here)],
            agrees: ValidatedColumn::new("price", there, here).agrees(),
        };
        assert!(check(&[split(side(Some(7)), side(Some(7)))]).is_ok());
        assert!(check(&[split(side(None), side(Some(7)))]).is_ok(), "the database has none");
        let error = check(&[split(side(Some(8)), side(Some(7)))]).expect_err("another sum");
        assert!(error.to_string().contains("by the values or sums of `price`"), "{error}");
        assert!(check(&[split(side(None), ColumnSummary { values: 1, sum: None })]).is_err());
    }

    #[test]
    fn a_checksum_knows_every_cell_and_no_order() {
        use Value::{Int, Null, Text};
        let (one, two) = ([Int(1), Text(b"a")], [Int(2), Null]);
        assert_eq!(sum(&[one, two]), sum(&[two, one]));
        for other in [[Int(2), Text(b"")], [Null, Null], [Int(3), Null]] {
            assert_ne!(sum(&[one, two]), sum(&[one, other]));
        }
        assert_ne!(sum(&[one, one]), sum(&[one]));
    }
}
