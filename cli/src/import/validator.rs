//! `--validate`: what was written is compared with the database, split by split, before it is committed.
//!
//! | | the database's side | the lake's side |
//! |---|---|---|
//! | rows | `count(*)` of the split, by the database | rows in the split's files |
//! | checksum | the split's rows read once more | the rows in the split's files, read back |
//!
//! The checksum of rows is the sum of their hashes, every cell included, so their order does not matter. All is read from the
//! run's one snapshot.
//!
//! *Not here*: a checksum that the database computes. What is read twice goes twice through the same reading of the database's
//! protocol: a mistake of that would not be found.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::row::{RowConverter, SortField};
use parking_lot::Mutex;
use serde::Serialize;
use tarn_ingest::{Import, ImportPlan, ImportedTable, RowTaker};
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
    agrees: bool,
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
        // What a cursor tells to be new is known once it was read.
        let database_rows = database.count(table, plan, split)?.unwrap_or(there.rows);
        let here = Arc::new(Mutex::new(Sum::default()));
        let (sum, names) =
            (Arc::clone(&here), columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>());
        Handle::current()
            .block_on(writer.read(files, move |batch| sum.lock().add(&projected(&batch, &names)?)))?;
        let here = here.lock().clone();
        validated.push(Validated {
            split: split + 1,
            database_rows,
            lake_rows: here.rows,
            database_checksum: format!("{:016x}", there.hash),
            lake_checksum: format!("{:016x}", here.hash),
            agrees: database_rows == here.rows && there == here,
        });
    }
    Ok(validated)
}

/// For people.
pub(super) fn grid(validated: &[Validated]) -> Grid {
    let mut grid = Grid::new(&["#split", "#rows there", "#rows here", "checksum there", "checksum here", ""]);
    for split in validated {
        grid.row([
            split.split.to_string(),
            number(split.database_rows),
            number(split.lake_rows),
            split.database_checksum.clone(),
            split.lake_checksum.clone(),
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
    Err(Error::corrupt(format!("what was written is not what the database has, in split {}", wrong.join(", ")))
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
