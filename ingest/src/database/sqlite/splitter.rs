//! Where a table or query of SQLite is split, and how several readers come to see one snapshot.
//!
//! *Snapshot*: a read transaction sees the file as it was at its first read. While one connection has the only right to write (`BEGIN
//! IMMEDIATE`), nobody can commit, so all who begin to read meanwhile see the same: in WAL mode each has noted the same end of the
//! log, and without it nobody can change the file until all have ended. Nothing is written.
//!
//! *Where*: a sample of the column, taken by chance, is read in its order; cuts are at even distances. Values may be of any type,
//! whatever is declared: they have an order all the same, numbers before text before bytes.

use std::path::Path;

use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tarn_model::columns::ColumnType;
use tarn_model::{Error, Result};

use super::{BUSY_TIMEOUT, Sqlite, cursor_expression, failed, from, open};
use crate::database::splitting::{
    Parted, Readers, SAMPLED_VALUES, SPLITS_PER_READER, Sample, Splits, conditions,
};
use crate::database::{Rows, Selection};

impl Sqlite {
    pub(super) fn split(&mut self, what: &Selection, by: Option<&str>, readers: usize) -> Result<Parted> {
        let Some(column) = by else {
            return Ok(Parted::Whole(Some("its rows are not told apart without a column".to_owned())));
        };
        let all_columns = self.described(&format!("SELECT * FROM {}", from(what)), what)?;
        let cursor = cursor_expression(what, &all_columns, column).map_err(|_| {
            Error::invalid(format!("`{}` has no column `{column}` to split by", what.name()))
                .with_hint("name one of its columns with `split_by`, or `rowid`")
        })?;
        let bounds = self.bounds(what, &cursor, readers * SPLITS_PER_READER)?;
        self.release()?;
        let whole = |rows: &mut Sqlite, why: &str| {
            rows.begin_now()?;
            rows.is_still(what, &all_columns)?;
            Ok(Parted::Whole(Some(why.to_owned())))
        };
        let doing = "hold writers back for a moment";
        let writing = match only_writer(&self.path) {
            Ok(writing) => writing,
            Err(error) => match error.sqlite_error_code() {
                Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                    return whole(
                        self,
                        "several readers need the right to write to the file, to hold writers back for a moment",
                    );
                }
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                    return whole(self, "somebody else writes to the database and did not end in time");
                }
                _ => return Err(failed(doing)(error)),
            },
        };
        let mut opened: Vec<Box<dyn Rows>> = Vec::with_capacity(readers);
        for _ in 0..readers {
            let mut reader = open(&self.path)?;
            reader.begin_now()?;
            opened.push(Box::new(reader));
        }
        self.begin_now()?;
        writing.execute_batch("ROLLBACK").map_err(failed(doing))?;
        self.is_still(what, &all_columns)?;
        let (readers, conditions) = (Readers::Opened(Mutex::new(opened)), conditions(&cursor, &bounds));
        Ok(Parted::Splits(Splits { readers, conditions }))
    }

    /// An error when the columns are others now.
    fn is_still(&self, what: &Selection, before: &[(String, Option<ColumnType>)]) -> Result<()> {
        if self.described(&format!("SELECT * FROM {}", from(what)), what)? == before {
            return Ok(());
        }
        let what = what.name();
        Err(Error::unavailable(format!("`{what}` was altered meanwhile")).with_hint("it is tried again"))
    }

    /// Begins a transaction that sees what there is now.
    fn begin_now(&mut self) -> Result<()> {
        self.hold()?;
        let see = self.connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
        see.map_err(failed("see the snapshot"))
    }

    /// Values at even distances of a sample, in SQL.
    fn bounds(&self, what: &Selection, cursor: &str, count: usize) -> Result<Vec<String>> {
        let source = from(what);
        let filter = what.conditions(Some(&format!("{cursor} IS NOT NULL")));
        let look = || {
            let rows: i64 =
                self.connection
                    .query_row(&format!("SELECT count(*) FROM {source}{filter}"), [], |row| row.get(0))?;
            let every = usize::try_from(rows).unwrap_or(0) / SAMPLED_VALUES + 1;
            let sql = format!(
                "SELECT {cursor} FROM {source}{filter} AND abs(random() % {every}) = 0 ORDER BY {cursor}"
            );
            let mut statement = self.connection.prepare(&sql)?;
            let (mut sample, mut rows) = (Sample::new(), statement.raw_query());
            while let Some(row) = rows.next()? {
                if let Some(literal) = literal(row.get_ref(0)?) {
                    sample.push(literal);
                }
            }
            let mut bounds: Vec<String> = Vec::new();
            for bound in sample.bounds(count) {
                // Numbers that are read from text again, and collations, could change their order.
                let is_next = match bounds.last() {
                    Some(last) => {
                        self.connection
                            .query_row(&format!("SELECT {last} < {bound}"), [], |row| row.get(0))?
                    }
                    None => true,
                };
                if is_next {
                    bounds.push(bound);
                }
            }
            Ok(bounds)
        };
        look().map_err(failed("look where to split"))
    }
}

/// A connection that nobody can write beside.
fn only_writer(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let writing = Connection::open_with_flags(path, flags)?;
    writing.busy_timeout(BUSY_TIMEOUT)?;
    // It leaves the file as it is.
    writing.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    writing.execute_batch("BEGIN IMMEDIATE")?;
    Ok(writing)
}

/// A value in SQL; `None` of those that cannot be written in text.
fn literal(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => number.is_finite().then(|| format!("{number:e}")),
        ValueRef::Text(text) => {
            let text = std::str::from_utf8(text).ok().filter(|text| !text.contains('\0'))?;
            Some(format!("'{}'", text.replace('\'', "''")))
        }
        ValueRef::Blob(bytes) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Some(format!("x'{hex}'"))
        }
    }
}
