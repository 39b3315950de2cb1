//! PostgreSQL: a repeatable-read transaction for each table of a run, so one snapshot; rows come by binary `COPY`.
//!
//! *New rows*: the largest id or time that was read is no bound, for a transaction that took a smaller one may commit later:
//! its rows would be lost for ever. The bound is a transaction instead. Every row names the one that wrote it (`xmin`), and a
//! snapshot knows the oldest one that had not ended. A run takes the rows whose writer lies in `[bound of the run before,
//! oldest that has not ended)`: those have all ended, so nothing is added to that range any more, and no row is in two of them.
//!
//! ```text
//! transactions   … 740 741 742 743 744 745 746 …
//! at run 1           ✓   ✓   …   ✓   ✓               742 has not ended: rows of 740, 741 are taken
//! at run 2           ✓   ✓   ✓   ✓   ✓   …   ✓       745 has not ended: rows of 742, 743, 744 are taken
//! ```
//!
//! A snapshot names only top transactions as unfinished, rows may name their parts (savepoints); a part's number is above its
//! top's, so it is above the bound while that has not ended.
//!
//! *Numbers*: `xmin` holds the lower 32 bits. What a row's writer was is taken to be the newest transaction with these bits: a
//! row that nobody has written for four billion transactions can look new, and then comes again.
//!
//! *Not here*: standby servers, for new rows: they are not tested.

use std::sync::Arc;

use tarn_model::columns::ColumnType;
use tarn_model::{Error, Result};

use super::address::Address;
use super::row::Value;
use super::splitting::{Parted, SPLITS_PER_READER};
use super::summing::{self, Asked, Summary};
use super::{Each, NO_SUCH_TABLE, Named, Part, Rows, Selection, Written};
use crate::stop::Stop;

mod connection;
mod login;
mod splitter;
mod types;

pub(crate) use connection::Writer as PostgresWriter;
use connection::{Connection, Taking};
use types::{Field, row};

/// What binary `COPY` begins with; flags and a length follow.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// All that a text depends on beside the value, said for one transaction: a connection may be shared by a pooler.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
     SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'iso_8601'; SET LOCAL timezone = 'UTC'; \
     SET LOCAL extra_float_digits = 3; SET LOCAL bytea_output = 'hex'; SET LOCAL client_encoding = 'UTF8'; \
     SET LOCAL xmloption = 'content'; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0";

/// Whoever wants a table for himself waits for the coordinator, and a reader would wait for him: the coordinator waits for its readers.
const READERS_LOCKS: &str = "SET LOCAL lock_timeout = '20s'";

/// Connects.
pub(super) fn open(address: &Address, stop: Arc<Stop>) -> Result<Postgres> {
    let connection = Connection::open(address, stop)?;
    Ok(Postgres { connection, snapshot: None, begun: false, given_up: false, known: None, money_scale: 2 })
}

/// Connects, and reads what the transaction sees that gave `snapshot`.
pub(super) fn open_at(address: &Address, stop: Arc<Stop>, snapshot: &str) -> Result<Postgres> {
    Ok(Postgres { snapshot: Some(snapshot.to_owned()), ..open(address, stop)? })
}

/// A database, and the transaction that reads it.
pub(super) struct Postgres {
    connection: Connection,
    /// A snapshot of another transaction, to be read instead of one of its own.
    snapshot: Option<String>,
    begun: bool,
    /// A copy was not read to its end: the connection is of no more use.
    given_up: bool,
    /// What was described in this transaction.
    known: Option<(Selection, Vec<Field>)>,
    money_scale: u8,
}

/// A table as the catalog has it.
struct Relation {
    quoted: String,
    /// Whether its rows name the transactions that wrote them.
    has_rows: bool,
}

impl Postgres {
    fn begin(&mut self) -> Result<()> {
        if self.given_up {
            return Err(Error::unavailable("the connection was given up"));
        }
        if !self.begun {
            let begin = match &self.snapshot {
                Some(snapshot) => {
                    let snapshot = tarn_model::placeholders::literal(snapshot);
                    let at = format!("; SET TRANSACTION SNAPSHOT {snapshot}; {READERS_LOCKS};");
                    BEGIN.replacen(';', &at, 1)
                }
                None => BEGIN.to_owned(),
            };
            match (&self.snapshot, self.connection.query(&begin, "begin a transaction")) {
                // Whoever gave it has lost its connection: another run gives another one.
                (Some(_), Err(error)) => {
                    return Err(Error::unavailable("the snapshot of the run is gone")
                        .with_hint("it is tried again")
                        .with_source(error));
                }
                (_, begun) => drop(begun?),
            }
            self.begun = true;
            let scale = self.connection.query("SELECT scale(0::money::numeric)", "ask what money is")?;
            self.money_scale = first(&scale).and_then(|scale| scale.parse().ok()).unwrap_or(2);
        }
        Ok(())
    }

    /// The table of this name, with or without its schema.
    fn relation(&mut self, name: &str) -> Result<Relation> {
        let literal = tarn_model::placeholders::literal(name);
        let sql = format!(
            "SELECT n.nspname, c.relname, c.relkind IN ('r', 'p') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND (c.relname = {literal} AND pg_table_is_visible(c.oid) \
             OR n.nspname || '.' || c.relname = {literal})"
        );
        let found = self.connection.query(&sql, &format!("look for the table `{name}`"))?;
        match found.as_slice() {
            [row] => match row.as_slice() {
                [Some(schema), Some(table), Some(has_rows)] => Ok(Relation {
                    quoted: format!("{}.{}", quoted(schema), quoted(table)),
                    has_rows: has_rows == "t",
                }),
                _ => Err(Error::internal("the catalog answers what was not asked")),
            },
            [] => Err(Error::invalid(format!("there is no table `{name}` that the role can see"))
                .with_hint("mend `table`: write `schema.table` for one that is not in the search path")
                .with_sqlstate(NO_SUCH_TABLE)),
            _ => Err(Error::invalid(format!("`{name}` is more than one table"))
                .with_hint("write `schema.table` in `table`")),
        }
    }

    fn from(&mut self, what: &Selection) -> Result<String> {
        Ok(match &what.named {
            Named::Table(name) => self.relation(name)?.quoted,
            Named::Query(query) => format!("(\n{}\n) AS query", query.trim().trim_end_matches(';')),
        })
    }

    fn fields(&mut self, what: &Selection) -> Result<Vec<Field>> {
        self.begin()?;
        if let Some((known, fields)) = &self.known
            && known == what
        {
            return Ok(fields.clone());
        }
        let wanted = what.columns.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        let wanted = if wanted.is_empty() { "*" } else { &wanted };
        let sql = format!("SELECT {wanted} FROM {}", self.from(what)?);
        let described = self.connection.describe(&sql, &format!("read `{}`", what.name()))?;
        let fields: Vec<Field> = described.iter().map(|column| Field::of(column, self.money_scale)).collect();
        self.known = Some((what.clone(), fields.clone()));
        Ok(fields)
    }

    /// What the rows of a part fulfil.
    fn condition(&self, part: &Part<'_>) -> Result<Option<String>> {
        match part {
            Part::All => Ok(None),
            Part::Written { until, from } => Ok(Some(self.writer(until, *from))),
            Part::Split(condition) => Ok(Some((*condition).to_owned())),
            Part::After(_) => Err(Error::internal("PostgreSQL is not read by a cursor")),
        }
    }

    /// A row's writer within the bounds.
    fn writer(&self, written: &Written, from: Option<u64>) -> String {
        let (above, low) = (written.newest >> 32 << 32, written.newest & 0xffff_ffff);
        let (above, before) = (above.cast_signed(), above.cast_signed() - (1 << 32));
        let number =
            format!("xmin::text::int8 + CASE WHEN xmin::text::int8 > {low} THEN {before} ELSE {above} END");
        let below = written.below;
        match from {
            // Numbers below 3 stand for what was there from the beginning.
            None => format!("(xmin::text::int8 < 3 OR {number} < {below})"),
            Some(from) => format!("(xmin::text::int8 >= 3 AND {number} >= {from} AND {number} < {below})"),
        }
    }
}

impl Rows for Postgres {
    fn tables(&mut self) -> Result<Vec<String>> {
        self.begin()?;
        let sql = "SELECT CASE WHEN pg_table_is_visible(c.oid) THEN c.relname ELSE n.nspname || '.' || c.relname END \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' \
             AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' ORDER BY 1";
        let rows = self.connection.query(sql, "list the tables")?;
        Ok(rows.into_iter().flatten().flatten().collect())
    }

    fn columns(&mut self, what: &Selection) -> Result<Vec<(String, Option<ColumnType>)>> {
        let fields = self.fields(what)?;
        Ok(fields.into_iter().map(|field| (field.name, Some(field.column_type))).collect())
    }

    fn written(&mut self, what: &Selection) -> Result<Option<Written>> {
        self.begin()?;
        let Named::Table(name) = &what.named else {
            return Err(Error::invalid("the new rows of a query cannot be told").with_hint(
                "name a `table`, with `columns` and `where`, or read the query with `mode = \"full\"`",
            ));
        };
        if !self.relation(name)?.has_rows {
            return Err(Error::invalid(format!("`{name}` is no table, so its new rows cannot be told"))
                .with_hint("read it with `mode = \"full\"`, or read the tables under it"));
        }
        let doing = "look which transactions have ended";
        let sql = "SELECT txid_snapshot_xmin(s), txid_snapshot_xmax(s), pg_is_in_recovery(), \
             has_function_privilege('pg_control_system()', 'execute') FROM txid_current_snapshot() AS s";
        let rows = self.connection.query(sql, doing)?;
        let row = rows.first().map(Vec::as_slice).unwrap_or_default();
        let [Some(below), Some(newest), Some(standby), Some(may_ask)] = row else {
            return Err(Error::internal("the snapshot is not told"));
        };
        if standby == "t" {
            return Err(Error::invalid("the server is a standby: it cannot tell new rows")
                .with_hint("read from its primary, or use `mode = \"full\"`"));
        }
        let number = |text: &str| {
            text.parse::<u64>().map_err(|error| Error::internal("no transaction's number").with_source(error))
        };
        let (below, newest) = (number(below)?, number(newest)?);
        let mut origin = String::new();
        if may_ask == "t" {
            let sql = "SELECT system_identifier FROM pg_control_system()";
            let rows = self.connection.query(sql, doing)?;
            origin = first(&rows).unwrap_or_default().to_owned();
        }
        Ok(Some(Written { origin, below, newest }))
    }

    fn rows(&mut self, what: &Selection, part: &Part<'_>, each: &mut Each<'_>) -> Result<bool> {
        let doing = format!("read `{}`", what.name());
        let fields = self.fields(what)?;
        let condition = self.condition(part)?;
        let wanted = fields.iter().map(|field| field.expression.as_str()).collect::<Vec<_>>().join(", ");
        let from = self.from(what)?;
        let select = format!("SELECT {wanted} FROM {from}{}", what.conditions(condition.as_deref()));
        self.connection.copy_out(&format!("COPY ({select}) TO STDOUT (FORMAT binary)"), &doing)?;
        let broken = || Error::internal(format!("cannot {doing}: its binary form is not the known one"));
        let (mut begun, mut spare) = (false, Vec::new());
        self.given_up = true;
        while let Some(piece) = self.connection.copied(&doing)? {
            let (mut rest, mut values) = (Taking(piece), emptied(spare));
            if !begun {
                begun = true;
                if rest.bytes(SIGNATURE.len()) != Some(SIGNATURE) {
                    return Err(broken());
                }
                rest.int32().ok_or_else(broken)?;
                let extension =
                    rest.int32().and_then(|size| usize::try_from(size).ok()).ok_or_else(broken)?;
                rest.bytes(extension).ok_or_else(broken)?;
            }
            while !rest.0.is_empty() {
                if !row(&fields, &mut rest, &mut values).ok_or_else(broken)? {
                    break;
                }
                if !each(&values, None)? {
                    return Ok(false);
                }
            }
            spare = emptied(values);
        }
        self.given_up = false;
        Ok(false)
    }

    fn splits(&mut self, what: &Selection, by: Option<&str>, readers: usize) -> Result<Parted> {
        let count = readers * SPLITS_PER_READER;
        match by {
            Some(column) => self.split(what, column, count).map(Parted::Splits),
            None => self.split_by_pages(what, count),
        }
    }

    fn summary(&mut self, what: &Selection, part: &Part<'_>, local_times: bool) -> Result<Option<Summary>> {
        let fields = self.fields(what)?;
        let doing = format!("sum the rows of `{}`", what.name());
        let encoding = self.connection.query("SELECT current_setting('server_encoding')", &doing)?;
        let is_utf8 = first(&encoding) == Some("UTF8");
        let asked: Vec<Asked> = fields.iter().map(|field| field.asked(local_times, is_utf8)).collect();
        let condition = self.condition(part)?;
        let source = format!("{}{}", self.from(what)?, what.conditions(condition.as_deref()));
        let ask = |sql: &str| Ok(self.connection.query(sql, &doing)?.pop().unwrap_or_default());
        summing::summary(&asked, &source, ask).map(Some)
    }

    /// What the planner thinks.
    fn estimate(&mut self, what: &Selection) -> Result<Option<u64>> {
        self.begin()?;
        let sql = format!("EXPLAIN SELECT * FROM {}{}", self.from(what)?, what.conditions(None));
        let plan = self.connection.query(&sql, "ask how many rows there are")?;
        let rows = first(&plan).and_then(|line| line.split_once("rows=")).map(|(_, rest)| rest);
        let digits = rows.map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default());
        Ok(digits.and_then(|digits| digits.parse().ok()))
    }

    fn release(&mut self) -> Result<()> {
        self.known = None;
        if std::mem::take(&mut self.begun) && !self.given_up {
            self.connection.query("ROLLBACK", "end a transaction")?;
        }
        Ok(())
    }
}

/// The room of a row, for one that borrows from elsewhere: nothing is allocated for each row.
fn emptied<'a>(mut values: Vec<Value<'_>>) -> Vec<Value<'a>> {
    values.clear();
    values.into_iter().map(|_| Value::Null).collect()
}

fn first(rows: &[Vec<Option<String>>]) -> Option<&str> {
    rows.first()?.first()?.as_deref()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
