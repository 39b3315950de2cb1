//! Where a table of MySQL is split, and how several readers come to see one snapshot of it.
//!
//! *Snapshot*: no session can take over another one's. So all readers are connected first; then `LOCK TABLES … READ` in a session of
//! its own keeps everybody from writing to the table, all of them and the coordinator begin a transaction, and the lock is let go.
//! The lock is given once the transactions have ended that wrote to the table, and nobody begins to write while it is there, so
//! whatever the transactions see of *this* table is the same. Each reads a row at once: that keeps `ALTER TABLE` out until it ends.
//!
//! *Where*: a sample of the column, taken by chance, is read in its order; cuts are at even distances.
//!
//! *Not here*: queries and views, whose tables could not all be named, and tables of other engines than InnoDB, which has the
//! snapshots. A prepared transaction (XA) whose session is lost may hold no lock.

use std::sync::Arc;

use chrono::NaiveDate;
use parking_lot::Mutex;
use tarn_model::{Error, Result};

use super::connection::{Connection, LOCK_NOT_GIVEN, NOT_ALLOWED};
use super::types::{Order, literal};
use super::{Mysql, open, text};
use crate::database::row::Cursor;
use crate::database::splitting::{
    Parted, Readers, SAMPLED_VALUES, SPLITS_PER_READER, Sample, Splits, conditions, ranges,
};
use crate::database::{Named, Rows, Selection};

/// How long the lock is waited for, in seconds: others who want to write wait behind us.
const LOCK_SECONDS: u32 = 5;
/// How long a reader waits for whoever alters the table.
const READER_SECONDS: u32 = 20;

impl Mysql {
    pub(super) fn split(&mut self, what: &Selection, by: Option<&str>, readers: usize) -> Result<Parted> {
        let whole = |why: &str| Ok(Parted::Whole(Some(why.to_owned())));
        let (Named::Table(name), Some(column)) = (&what.named, by) else {
            return whole("only a table has one snapshot for several readers");
        };
        let table = self.relation(name)?;
        if !self.is_innodb(&table)? {
            return whole("only a table of InnoDB has one snapshot for several readers");
        }
        let (cursor, order, nullable) = self.cursor(what, column).map_err(|error| {
            error.with_hint("name a column of numbers, dates, time stamps, text or bytes with `split_by`")
        })?;
        let bounds = self.bounds(what, &table, (&cursor, order), readers * SPLITS_PER_READER)?;
        let before = self.columns(what)?;
        let is_still = |rows: &mut Mysql| {
            if rows.columns(what)? == before {
                return Ok(());
            }
            Err(Error::unavailable(format!("`{name}` was altered meanwhile")).with_hint("it is tried again"))
        };
        let opened = (0..readers).map(|_| open(&self.address, Arc::clone(&self.stop)));
        let mut opened = opened.collect::<Result<Vec<Mysql>>>()?;
        let mut locking = Connection::open(&self.address, Arc::clone(&self.stop))?;
        self.release()?;
        let doing = "hold writers back for a moment";
        locking.query(&format!("SET SESSION lock_wait_timeout = {LOCK_SECONDS}"), doing)?;
        match locking.query(&format!("LOCK TABLES {table} READ"), doing) {
            Ok(_) => {}
            Err(error) if error.sqlstate() == Some(NOT_ALLOWED) => {
                is_still(self)?;
                return whole("the user may not lock tables: `GRANT LOCK TABLES ON … TO …`");
            }
            Err(error) if error.sqlstate() == Some(LOCK_NOT_GIVEN) => {
                is_still(self)?;
                return whole("a transaction that writes to the table did not end in time");
            }
            Err(error) => return Err(error),
        }
        for reader in opened.iter_mut().chain([&mut *self]) {
            reader.begin()?;
            let doing = "see the snapshot";
            reader.connection.query(&format!("SET SESSION lock_wait_timeout = {READER_SECONDS}"), doing)?;
            reader.connection.query(&format!("SELECT 1 FROM {table} LIMIT 1"), doing)?;
        }
        locking.query("UNLOCK TABLES", doing)?;
        is_still(self)?;
        let opened = opened.into_iter().map(|reader| Box::new(reader) as Box<dyn Rows>).collect();
        // Of a column that is never NULL, `IS NULL` finds zero dates.
        let conditions = if nullable { conditions(&cursor, &bounds) } else { ranges(&cursor, &bounds) };
        Ok(Parted::Splits(Splits { readers: Readers::Opened(Mutex::new(opened)), conditions }))
    }

    fn is_innodb(&mut self, table: &str) -> Result<bool> {
        let names: Vec<String> =
            table.trim_matches('`').splitn(2, "`.`").map(|name| text(&name.replace("``", "`"))).collect();
        let [schema, table] = names.as_slice() else { return Ok(false) };
        let sql = format!(
            "SELECT engine FROM information_schema.tables WHERE table_schema = {schema} AND table_name = {table} \
             AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')"
        );
        let found = self.connection.query(&sql, "look what the table is")?;
        Ok(found.iter().flatten().flatten().any(|engine| engine.eq_ignore_ascii_case("InnoDB")))
    }

    /// Values at even distances of a sample, in SQL.
    fn bounds(
        &mut self,
        what: &Selection,
        table: &str,
        (cursor, order): (&str, Order),
        count: usize,
    ) -> Result<Vec<String>> {
        // More than that share comes where the estimate is too low, and is thinned out.
        let rows = self.estimate(&Selection { filter: None, ..what.clone() })?.unwrap_or(0);
        #[allow(clippy::cast_precision_loss, reason = "a share of what is estimated")]
        let share = (SAMPLED_VALUES as f64 / rows.max(1) as f64).min(1.0);
        let also = if share < 1.0 { format!(" AND RAND() < {share:.9}") } else { String::new() };
        let filter = what.conditions(Some(&format!("{cursor} IS NOT NULL{also}")));
        let sql = format!("SELECT {cursor} FROM {table}{filter} ORDER BY 1");
        let mut sample = Sample::new();
        self.read(&sql, what, true, &mut |_, value| {
            if let Some(literal) =
                value.filter(|value| can_stand(value, order)).and_then(|v| literal(&v, order))
            {
                sample.push(literal);
            }
            Ok(true)
        })?;
        Ok(sample.bounds(count))
    }
}

/// Whether a value can be written in a condition: days that no calendar has cannot.
fn can_stand(value: &Cursor, order: Order) -> bool {
    match (value, order) {
        (Cursor::Text(text), Order::Time) => {
            !text.starts_with("0000")
                && text.get(..10).is_some_and(|day| NaiveDate::parse_from_str(day, "%Y-%m-%d").is_ok())
        }
        _ => true,
    }
}
