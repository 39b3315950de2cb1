//! Imports: tables of a database, read as values by one or several readers, for somebody who writes them elsewhere than to the log.
//!
//! ```text
//! coordinator   what is there, its columns, its splits ── one snapshot ──┬──────────────┐
//! readers                                                               split ▶ taker   split ▶ taker
//! ```
//!
//! *Invariants*: every row is in one split. All tables of one [`Import`] are read in the coordinator's one transaction, so from one
//! snapshot where the database has such (of MySQL, tables of InnoDB).
//!
//! *New rows*: an incremental import goes on from the [`ImportBound`] of the run before and gives the one of this run, which its taker
//! commits with the rows. The bounds are those of `database` sources: transactions of PostgreSQL, else a cursor with the hashes of the
//! rows at it, after those who might still commit below it have ended ([`settling`]).
//!
//! *Failure*: an error of one reader, or of one taker, ends all; nothing is tried again, for nothing was committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tarn_model::columns::{Column, ColumnType, Columns};
use tarn_model::config::{Config, ImportConfig};
use tarn_model::{Error, Result, Value};
use tracing::warn;

use super::appending::{Follower, Reached};
use super::row::RowWriter;
use super::splitting::{Parted, Splits};
use super::summing::Summary;
use super::{After, Database, Part, Rows, Selection, Until, Written, settling};
use crate::stop::Stop;

/// Rows by whose values the types of columns are told that the database does not tell.
const SAMPLE_ROWS: usize = 10_000;
/// Rows with one cursor that are remembered: the table has their hashes in its properties.
const MOST_TIES: usize = 1_000;

/// The database of one import, opened. It blocks.
pub struct Import {
    database: Database,
    rows: Box<dyn Rows>,
    config: ImportConfig,
    stop: Arc<Stop>,
}

/// A table, or a query, that is read.
#[derive(Debug, Clone)]
pub struct ImportedTable {
    /// The table of the lake that it goes to.
    pub into: String,
    what: Selection,
    /// Up to where a cursor may go.
    until: Until,
}

/// Up to where a job has read a table; the next run goes on from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImportBound(Bound);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Bound {
    /// Before what the rows were written.
    Written(Written),
    Cursor {
        column: String,
        reached: Reached,
    },
}

/// How the new rows of a table are told.
#[derive(Debug)]
enum New {
    Written {
        until: Written,
        from: Option<u64>,
    },
    Cursor {
        column: String,
        from: Reached,
        until: Until,
        /// Once they are read.
        reached: Mutex<Option<Reached>>,
    },
}

impl ImportedTable {
    /// The table's name, or `query`.
    pub fn name(&self) -> &str {
        self.what.name()
    }
}

/// How a table is read.
#[derive(Debug)]
pub struct ImportPlan {
    splits: Option<Splits>,
    readers: usize,
    new: Option<New>,
}

impl ImportPlan {
    /// How many parts it has.
    pub fn splits(&self) -> usize {
        self.splits.as_ref().map_or(1, |splits| splits.conditions.len())
    }

    /// What the next incremental run goes on from, once all was read.
    pub fn bound(&self) -> Option<ImportBound> {
        Some(ImportBound(match self.new.as_ref()? {
            New::Written { until, .. } => Bound::Written(until.clone()),
            New::Cursor { column, reached, .. } => {
                Bound::Cursor { column: column.clone(), reached: reached.lock().clone()? }
            }
        }))
    }

    fn whole() -> ImportPlan {
        ImportPlan { splits: None, readers: 1, new: None }
    }

    fn part(&self, split: usize) -> Part<'_> {
        match (&self.new, &self.splits) {
            (Some(New::Written { until, from }), _) => Part::Written { until, from: *from },
            (Some(New::Cursor { column, from, until, .. }), _) => {
                Part::After(After { column, from: from.cursor.as_ref(), until })
            }
            (None, Some(splits)) => {
                splits.conditions.get(split).map_or(Part::All, |condition| Part::Split(condition))
            }
            (None, None) => Part::All,
        }
    }

    /// How many readers there are.
    pub fn readers(&self) -> usize {
        self.readers.min(self.splits())
    }
}

/// Takes the rows of one split, on its reader's thread. One that is dropped before its end has not got all of them.
pub trait RowTaker {
    /// The next row.
    fn take(&mut self, row: &[Value<'_>]) -> Result<()>;

    /// There are no more.
    fn end(self: Box<Self>) -> Result<()>;
}

/// Gives a taker for the rows of a split.
pub type TakerOf<'a> = dyn Fn(usize) -> Result<Box<dyn RowTaker>> + Sync + 'a;

impl Import {
    /// Opens the database of `import`.
    pub fn open(import: &ImportConfig, config: &Config) -> Result<Import> {
        let database = Database::new(import.database(), config)?;
        let stop = Arc::new(Stop::default());
        let mut rows = database.connect(stop.clone()).map_err(not_again)?;
        rows.hold().map_err(not_again)?;
        Ok(Import { database, rows, config: import.clone(), stop })
    }

    /// What it reads. Two tables that would go to the same one are refused.
    pub fn tables(&mut self) -> Result<Vec<ImportedTable>> {
        let selections = self.database.selections(&mut *self.rows).map_err(not_again)?;
        let mut tables: Vec<ImportedTable> = Vec::with_capacity(selections.len());
        for what in selections {
            let into = self.config.table_for(what.name());
            if let Some(other) = tables.iter().find(|other| other.into.eq_ignore_ascii_case(&into)) {
                return Err(Error::invalid(format!(
                    "`{}` and `{}` would both go to the table `{into}`",
                    other.name(),
                    what.name()
                ))
                .with_hint("leave one of them out with `exclude`, and import it by a job of its own"));
            }
            tables.push(ImportedTable { into, what, until: Until::End });
        }
        if tables.is_empty() {
            return Err(Error::invalid("there is no table to import")
                .with_hint("look at `include`, `exclude`, and what the role may see"));
        }
        if let (true, Some(column)) = (self.config.incremental, self.config.cursor.clone()) {
            let selections: Vec<Selection> = tables.iter().map(|table| table.what.clone()).collect();
            let (who, lag) = ((self.config.name.as_str(), &*self.stop), self.database.config.lag().0);
            let bounds = settling::settle(who, &mut *self.rows, &selections, &column, lag, &mut false);
            let bounds = bounds.map_err(not_again)?.ok_or_else(|| Error::unavailable("it is to stop"))?;
            tables.iter_mut().zip(bounds).for_each(|(table, until)| table.until = until);
        }
        Ok(tables)
    }

    /// The columns of a table, as the lake has them.
    pub fn columns(&mut self, table: &ImportedTable) -> Result<Columns> {
        let given = match &self.config.types {
            Some(types) => Columns::parse(types)?,
            None => Columns::default(),
        };
        let mut found = self.rows.columns(&table.what).map_err(not_again)?;
        if let Some(unknown) = given.iter().find(|given| !found.iter().any(|(name, _)| *name == given.name)) {
            let known: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
            // Of a whole database, `types` names columns of some tables.
            if !self.database.is_whole() {
                return Err(Error::invalid(format!(
                    "`types` names a column that is not there: `{}`",
                    unknown.name
                ))
                .with_hint(format!("columns: {}", known.join(", "))));
            }
        }
        for (name, column_type) in &mut found {
            if let Some(given) = given.get(name) {
                *column_type = Some(given.column_type);
            }
        }
        if found.iter().any(|(_, column_type)| column_type.is_none()) {
            self.infer(table, &mut found)?;
        }
        let columns = found.into_iter().map(|(name, column_type)| Column {
            name,
            column_type: column_type.unwrap_or(ColumnType::Varchar),
            nullable: true,
        });
        Columns::new(columns.collect()).map_err(|error| {
            Error::invalid(format!("`{}` cannot be a table of the lake", table.name()))
                .with_source(error)
                .with_hint("name the columns differently in a `query`: `… AS name`")
        })
    }

    /// Types of columns that have none, by the first rows.
    fn infer(&mut self, table: &ImportedTable, columns: &mut [(String, Option<ColumnType>)]) -> Result<()> {
        let (mut seen, mut rows) = (vec![None; columns.len()], 0);
        self.rows
            .rows(&table.what, &Part::All, &mut |row, _| {
                for (seen, value) in seen.iter_mut().zip(row) {
                    *seen = wider(*seen, *value);
                }
                rows += 1;
                Ok(rows < SAMPLE_ROWS)
            })
            .map_err(not_again)?;
        for ((_, column_type), seen) in columns.iter_mut().zip(seen) {
            *column_type = column_type.or(seen);
        }
        Ok(())
    }

    /// How the rows of a table are read that came after `since`; all rows, if nothing was read before.
    pub fn plan_new(&mut self, table: &ImportedTable, since: Option<ImportBound>) -> Result<ImportPlan> {
        let elsewhere = "let it be as it was, or import from the beginning, into another table";
        let since = since.map(|since| since.0);
        let new = match (self.config.cursor.clone(), since) {
            (None, since @ (None | Some(Bound::Written(_)))) => {
                let until = self
                    .rows
                    .written(&table.what)
                    .map_err(not_again)?
                    .ok_or_else(|| Error::invalid("this database needs a `cursor` to tell new rows"))?;
                let from = match since {
                    Some(Bound::Written(before)) => {
                        until.check_follows(&before).map_err(|error| error.with_hint(elsewhere))?;
                        Some(before.below)
                    }
                    _ => None,
                };
                New::Written { until, from }
            }
            (Some(column), None) => {
                let until = table.until.clone();
                New::Cursor { column, from: Reached::default(), until, reached: Mutex::new(None) }
            }
            (Some(column), Some(Bound::Cursor { column: before, reached })) if before == column => {
                let until = table.until.clone();
                New::Cursor { column, from: reached, until, reached: Mutex::new(None) }
            }
            _ => {
                let message =
                    format!("the new rows of `{}` were told by something else than now", table.name());
                return Err(Error::invalid(message).with_hint(elsewhere));
            }
        };
        Ok(ImportPlan { new: Some(new), ..ImportPlan::whole() })
    }

    /// How all of a table is read, and by how many.
    pub fn plan(&mut self, table: &ImportedTable) -> Result<ImportPlan> {
        let (by, readers) = (self.config.split_by.as_deref(), self.config.readers());
        if by.is_none() && self.config.readers.is_none() {
            return Ok(ImportPlan::whole());
        }
        match self.rows.splits(&table.what, by, readers).map_err(not_again)? {
            Parted::Splits(splits) => Ok(ImportPlan { splits: Some(splits), readers, new: None }),
            Parted::Whole(why) => {
                if let Some(why) = why {
                    warn!(job = self.config.name, table = table.name(), why, "one reader reads it");
                }
                Ok(ImportPlan::whole())
            }
        }
    }

    /// What the database itself says of a split, of which `columns` were read; `None` of rows that are told by a cursor. A column that has
    /// another type there than here has no sum.
    pub fn summary(
        &mut self,
        table: &ImportedTable,
        plan: &ImportPlan,
        split: usize,
        columns: &Columns,
    ) -> Result<Option<Summary>> {
        let local_times = self.config.timezone.as_deref().is_none_or(|zone| zone == "UTC");
        let summary = self.rows.summary(&table.what, &plan.part(split), local_times).map_err(not_again)?;
        let Some(mut summary) = summary else { return Ok(None) };
        let there = self.rows.columns(&table.what).map_err(not_again)?;
        for ((found, here), (_, there)) in summary.columns.iter_mut().zip(columns.iter()).zip(there) {
            let is_whole = |of: ColumnType| {
                use ColumnType::{BigInt, Int, SmallInt, TinyInt};
                matches!(of, TinyInt | SmallInt | Int | BigInt)
            };
            let (here, there) = (here.column_type, there.unwrap_or(ColumnType::Varchar));
            if here != there && !(is_whole(here) && is_whole(there)) {
                found.sum = None;
            }
        }
        Ok(Some(summary))
    }

    /// About how many rows there are, where the database has an idea of it.
    pub fn estimate(&mut self, table: &ImportedTable) -> Option<u64> {
        self.rows.estimate(&table.what).ok().flatten()
    }

    /// Reads all rows of a table into takers, one for each split.
    pub fn read(&mut self, table: &ImportedTable, plan: &ImportPlan, taker: &TakerOf<'_>) -> Result<()> {
        if let Some(New::Cursor { column, from, reached, .. }) = &plan.new {
            let followed = self.follow(table, plan, (column, from), taker(0)?).map_err(not_again)?;
            *reached.lock() = Some(followed);
            return Ok(());
        }
        let Some(splits) = &plan.splits else {
            let goes_on = AtomicBool::new(true);
            return read_part(&mut *self.rows, &table.what, &plan.part(0), taker(0)?, &goes_on)
                .map_err(not_again);
        };
        let (next, goes_on) = (AtomicUsize::new(0), AtomicBool::new(true));
        let (database, stop) = (&self.database, &self.stop);
        let reader = || -> Result<()> {
            let mut rows = splits.readers.take(&|snapshot| database.connect_at(stop.clone(), snapshot))?;
            loop {
                let split = next.fetch_add(1, Ordering::Relaxed);
                let Some(condition) =
                    splits.conditions.get(split).filter(|_| goes_on.load(Ordering::Relaxed))
                else {
                    return splits.readers.give_back(rows);
                };
                read_part(&mut *rows, &table.what, &Part::Split(condition), taker(split)?, &goes_on)?;
            }
        };
        let read = || {
            let ended = reader();
            if ended.is_err() {
                goes_on.store(false, Ordering::Relaxed);
            }
            ended
        };
        let ended: Vec<Result<()>> = std::thread::scope(|scope| {
            let reading: Vec<_> = (0..plan.readers()).map(|_| scope.spawn(read)).collect();
            let panicked = || Err(Error::internal("a reader of a split panicked"));
            reading.into_iter().map(|reader| reader.join().unwrap_or_else(|_| panicked())).collect()
        });
        // What another reader's error made a reader leave off is no error of its own.
        ended.into_iter().collect::<Result<Vec<()>>>().map(drop).map_err(not_again)
    }

    /// Reads the rows that a cursor tells to be new; how far it has come.
    fn follow(
        &mut self,
        table: &ImportedTable,
        plan: &ImportPlan,
        (column, from): (&str, &Reached),
        mut taker: Box<dyn RowTaker>,
    ) -> Result<Reached> {
        let columns = self.rows.columns(&table.what)?;
        let writer = RowWriter::new(&columns);
        let mut follower = Follower::new(from.clone(), &columns, (table.name(), column), MOST_TIES);
        let mut value = Vec::new();
        let without_cursor = self.rows.rows(&table.what, &plan.part(0), &mut |row, cursor| {
            // What is no text has its odd bytes replaced: it is known all the same.
            let _ = writer.write(row, &mut value);
            if follower.is_new(row, cursor, &value)? {
                taker.take(row)?;
            }
            Ok(true)
        })?;
        if without_cursor {
            let (job, table) = (&self.config.name, table.name());
            warn!(job, table, cursor = column, "rows without a cursor are not read");
        }
        taker.end()?;
        Ok(follower.reached)
    }

    /// Ends the snapshot.
    pub fn release(&mut self) -> Result<()> {
        self.rows.release().map_err(not_again)
    }
}

fn read_part(
    rows: &mut dyn Rows,
    what: &Selection,
    part: &Part<'_>,
    mut taker: Box<dyn RowTaker>,
    goes_on: &AtomicBool,
) -> Result<()> {
    rows.rows(what, part, &mut |row, _| {
        taker.take(row)?;
        Ok(goes_on.load(Ordering::Relaxed))
    })?;
    if goes_on.load(Ordering::Relaxed) {
        return taker.end();
    }
    Ok(())
}

/// The narrowest type that takes what was seen and `value`.
fn wider(seen: Option<ColumnType>, value: Value<'_>) -> Option<ColumnType> {
    let of_value = match value {
        Value::Null => return seen,
        Value::Bool(_) => ColumnType::Boolean,
        Value::Int(_) | Value::Unsigned(_) => ColumnType::BigInt,
        Value::Real(_) | Value::Float(_) => ColumnType::Double,
        Value::Date(_) => ColumnType::Date,
        Value::Timestamp(..) => ColumnType::Timestamp,
        Value::Decimal(..) | Value::Text(_) => ColumnType::Varchar,
        Value::Bytes(_) => ColumnType::Binary,
    };
    Some(match (seen, of_value) {
        (None, new) => new,
        (Some(known), new) if known == new => known,
        (Some(ColumnType::BigInt | ColumnType::Double), ColumnType::BigInt | ColumnType::Double) => {
            ColumnType::Double
        }
        _ => ColumnType::Varchar,
    })
}

/// What a source tries again ends an import.
fn not_again(error: Error) -> Error {
    const AGAIN: &str = "it is tried again";
    let Some(hint) = error.hint().filter(|hint| hint.ends_with(AGAIN)) else { return error };
    let hint = hint.trim_end_matches(AGAIN).trim_end_matches([' ', ':', ',']).to_owned();
    let nothing = "nothing was imported: run it again";
    let hint = if hint.is_empty() { nothing.to_owned() } else { format!("{hint}; {nothing}") };
    error.with_hint(hint)
}

impl std::fmt::Debug for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Import").field("name", &self.config.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_does_not_promise_what_an_import_does_not_do() {
        let error = Error::unavailable("lost").with_hint("look whether the server runs: it is tried again");
        assert_eq!(
            not_again(error).hint(),
            Some("look whether the server runs; nothing was imported: run it again")
        );
        assert_eq!(
            not_again(Error::unavailable("gone").with_hint("it is tried again")).hint(),
            Some("nothing was imported: run it again")
        );
        assert_eq!(not_again(Error::invalid("x").with_hint("mend `table`")).hint(), Some("mend `table`"));
    }

    #[test]
    fn the_type_of_what_has_none_takes_every_value_that_was_seen() {
        use Value::{Float, Int, Null, Text};
        let of = |values: &[Value<'_>]| values.iter().fold(None, |seen, value| wider(seen, *value));
        assert_eq!(of(&[Null, Null]), None);
        assert_eq!(of(&[Null, Int(1)]), Some(ColumnType::BigInt));
        assert_eq!(of(&[Int(1), Float(0.5), Int(2)]), Some(ColumnType::Double));
        assert_eq!(of(&[Int(1), Text(b"a")]), Some(ColumnType::Varchar));
    }
}
