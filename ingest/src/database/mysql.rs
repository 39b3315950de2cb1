//! MySQL and MariaDB: one consistent snapshot for each table of a run; rows come in the protocol's binary form.
//!
//! *New rows*: no row names the transaction that wrote it, so they are told by a cursor, up to a bound below which nothing comes
//! any more: [`super::settling`] finds it, by the lag that the config states and by the transactions that the server shows.
//!
//! *Snapshot*: `START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY` at repeatable read. It holds for InnoDB; a table of another
//! engine is read as it is when its turn comes. MariaDB lets statements that end a transaction by themselves (`DROP TABLE`)
//! through all the same, so a query is prepared before it runs, and one that is no query is refused.
//!
//! *Not here*: a bound for servers that several others write to (Galera): their transactions are not to be seen.

use std::collections::BTreeSet;
use std::sync::Arc;

use tarn_model::columns::ColumnType;
use tarn_model::{Error, Kind, Result};

use super::address::Address;
use super::row::{Cursor, Value};
use super::settling::{Seen, Unsettled, Writer};
use super::splitting::Parted;
use super::summing::{self, Asked, Summary};
use super::{After, Each, NO_SUCH_TABLE, Named, Part, Rows, Selection, Until, Written};
use crate::stop::Stop;

mod connection;
mod login;
mod splitter;
mod types;

pub(crate) use connection::Writer as MysqlWriter;
use connection::{Connection, Statement};
use types::{Field, Order, literal, row};

const BEGIN: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
/// A server that waits for us to read waits for a day: what holds us up is our own disk.
const SETTINGS: &str = "SET time_zone = '+00:00', autocommit = 1, sql_big_selects = 1, sql_select_limit = 18446744073709551615, \
     net_write_timeout = 86400, wait_timeout = 86400";
/// What a query begins with.
const QUERIES: &[&str] = &["SELECT", "WITH", "VALUES", "TABLE", "SHOW", "DESCRIBE", "DESC", "EXPLAIN"];
/// Transactions that may have written, and our own one: a list without it is older than the look.
const WRITERS: &str = "SELECT trx_mysql_thread_id = CONNECTION_ID(), trx_rows_modified > 0 OR trx_state <> 'RUNNING' \
     OR trx_query IS NOT NULL AND trx_is_read_only = 0 AND trx_autocommit_non_locking = 0 AND trx_query NOT REGEXP '^[[:space:](]*SELECT', \
     CONCAT(trx_mysql_thread_id, ' ', trx_started), IF(trx_id + 0 BETWEEN 1 AND 281474976710655, trx_id, NULL) \
     FROM information_schema.innodb_trx";

/// Connects.
pub(super) fn open(address: &Address, stop: Arc<Stop>) -> Result<Mysql> {
    let mut connection = Connection::open(address, Arc::clone(&stop))?;
    let doing = "prepare the session";
    connection.query("SET NAMES utf8mb4", doing)?;
    connection.query("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ", doing)?;
    connection.query(SETTINGS, doing)?;
    let limit = if connection.is_mariadb() { "max_statement_time" } else { "max_execution_time" };
    match connection.query(&format!("SET {limit} = 0"), doing) {
        // Old servers have no such limit.
        Err(error) if error.kind() == Kind::Invalid => {}
        set => drop(set?),
    }
    let address = address.clone();
    Ok(Mysql { connection, address, stop, begun: false, given_up: false, known: None })
}

/// A database, and the transaction that reads it.
pub(super) struct Mysql {
    connection: Connection,
    /// For more readers.
    address: Address,
    stop: Arc<Stop>,
    begun: bool,
    /// Rows were not read to their end: the connection is of no more use.
    given_up: bool,
    /// What was described in this transaction.
    known: Option<(Selection, Vec<Field>)>,
}

impl Mysql {
    fn begin(&mut self) -> Result<()> {
        if self.given_up {
            return Err(Error::unavailable("the connection was given up"));
        }
        if !self.begun {
            self.connection.query(BEGIN, "begin a transaction")?;
            self.begun = true;
        }
        Ok(())
    }

    /// The table of this name in the database of `url`, or of one that stands before it.
    fn relation(&mut self, name: &str) -> Result<String> {
        let doing = format!("look for the table `{name}`");
        let mut places = vec![("DATABASE()".to_owned(), name)];
        places.extend(name.match_indices('.').map(|(at, _)| (text(&name[..at]), &name[at + 1..])));
        for (schema, table) in places {
            let sql = format!(
                "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema = {schema} \
                 AND table_name = {} AND table_type <> 'SEQUENCE'",
                text(table)
            );
            let found = self.connection.query(&sql, &doing)?;
            let exact = found.iter().find(|row| row.get(1).and_then(Option::as_deref) == Some(table));
            if let Some([Some(schema), Some(table)]) = exact.or(found.first()).map(Vec::as_slice) {
                return Ok(format!("{}.{}", quoted(schema), quoted(table)));
            }
        }
        Err(Error::invalid(format!("there is no table `{name}` that the user can see"))
            .with_hint("mend `table`: write `database.table` for one of another database than that of `url`")
            .with_sqlstate(NO_SUCH_TABLE))
    }

    fn from(&mut self, what: &Selection) -> Result<String> {
        Ok(match &what.named {
            Named::Table(name) => self.relation(name)?,
            Named::Query(query) => format!("(\n{}\n) AS `query`", bare(query)),
        })
    }

    /// Selects what is read, without conditions.
    fn select(&mut self, what: &Selection) -> Result<String> {
        if let Named::Query(query) = &what.named {
            check_query(query)?;
            return Ok(bare(query).to_owned());
        }
        Ok(format!("SELECT {} FROM {}", wanted(what), self.from(what)?))
    }

    fn prepare(&mut self, sql: &str, what: &Selection) -> Result<(Statement, Vec<Field>)> {
        let doing = format!("read `{}`", what.name());
        let statement = self.connection.prepare(sql, &doing)?;
        let fields: Vec<Field> = statement.columns.iter().map(Field::of).collect();
        if fields.is_empty() {
            return Err(Error::invalid(format!("cannot {doing}: it gives no rows"))
                .with_hint("mend `query`: it is one SELECT"));
        }
        Ok((statement, fields))
    }

    /// The columns that `sql` would give.
    fn describe(&mut self, sql: &str, what: &Selection) -> Result<Vec<Field>> {
        let (statement, fields) = self.prepare(sql, what)?;
        self.connection.close(&statement)?;
        Ok(fields)
    }

    fn fields(&mut self, what: &Selection) -> Result<Vec<Field>> {
        self.begin()?;
        if let Some((known, fields)) = &self.known
            && known == what
        {
            return Ok(fields.clone());
        }
        let sql = self.select(what)?;
        let fields = self.describe(&sql, what)?;
        let mut names = BTreeSet::new();
        if let Some(twice) = fields.iter().find(|field| !names.insert(field.name.as_str())) {
            return Err(Error::invalid(format!("`{}` has two columns `{}`", what.name(), twice.name))
                .with_hint("give each a name of its own: `… AS name`"));
        }
        self.known = Some((what.clone(), fields.clone()));
        Ok(fields)
    }

    /// How the cursor's column is called in SQL, and what it is.
    fn cursor(&mut self, what: &Selection, column: &str) -> Result<(String, Order, bool)> {
        let mut fields = self.fields(what)?;
        let find = |fields: &[Field]| {
            let exact = fields.iter().find(|field| field.name == column);
            exact.or(fields.iter().find(|field| field.name.eq_ignore_ascii_case(column))).cloned()
        };
        if find(&fields).is_none() && !what.columns.is_empty() {
            let all = Selection { columns: Vec::new(), ..what.clone() };
            let sql = self.select(&all)?;
            fields = self.describe(&sql, what)?;
        }
        let Some(field) = find(&fields) else {
            return Err(Error::invalid(format!(
                "`{}` has no column `{column}` to be its cursor",
                what.name()
            ))
            .with_hint("name a column that grows with every new row, such as an AUTO_INCREMENT one"));
        };
        let name = quoted(&field.name);
        match field.order {
            Some(Order::Bytes) => Ok((format!("CAST({name} AS BINARY)"), Order::Bytes, field.nullable)),
            Some(order) => Ok((name, order, field.nullable)),
            None => Err(Error::invalid(format!(
                "`{column}` of `{}` is of a type that has no order here",
                what.name()
            ))
            .with_hint("choose a `cursor` that is a number, a date, a time stamp or text")),
        }
    }

    /// Reads what `sql` gives, and hands every row on with the cursor that stands behind its values.
    fn read(&mut self, sql: &str, what: &Selection, with_cursor: bool, each: &mut Each<'_>) -> Result<()> {
        let doing = format!("read `{}`", what.name());
        let (statement, _) = self.prepare(sql, what)?;
        let described = self.connection.execute(&statement, &doing)?;
        let fields: Vec<Field> = described.iter().map(Field::of).collect();
        let broken = || Error::internal(format!("cannot {doing}: its binary form is not the known one"));
        let mut written = Vec::new();
        self.given_up = true;
        while let Some(body) = self.connection.row(&doing)? {
            let mut values = row(&fields, body, &mut written).ok_or_else(broken)?;
            let cursor = match with_cursor {
                true => Cursor::of(values.pop().unwrap_or(Value::Null)),
                false => None,
            };
            if !each(&values, cursor)? {
                return Ok(());
            }
        }
        self.given_up = false;
        self.connection.close(&statement)
    }

    /// The one value that `sql` gives.
    fn value(&mut self, sql: &str, what: &Selection) -> Result<Option<Cursor>> {
        let mut found = None;
        self.read(sql, what, true, &mut |_, value| {
            found = value;
            Ok(true)
        })?;
        Ok(found)
    }
}

impl Rows for Mysql {
    fn tables(&mut self) -> Result<Vec<String>> {
        self.begin()?;
        let sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() \
             AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY 1";
        let rows = self.connection.query(sql, "list the tables")?;
        Ok(rows.into_iter().flatten().flatten().collect())
    }

    fn columns(&mut self, what: &Selection) -> Result<Vec<(String, Option<ColumnType>)>> {
        let fields = self.fields(what)?;
        Ok(fields.into_iter().map(|field| (field.name, Some(field.column_type))).collect())
    }

    fn written(&mut self, _what: &Selection) -> Result<Option<Written>> {
        Ok(None)
    }

    fn rows(&mut self, what: &Selection, part: &Part<'_>, each: &mut Each<'_>) -> Result<bool> {
        self.fields(what)?;
        let filter = what.filter.as_ref().map(|filter| format!("(\n{filter}\n)"));
        let After { column, from, until } = match part {
            Part::All => {
                let mut sql = self.select(what)?;
                if let Some(filter) = &filter {
                    sql = format!("{sql} WHERE {filter}");
                }
                self.read(&sql, what, false, each)?;
                return Ok(false);
            }
            Part::Split(condition) => {
                let sql = format!("{}{}", self.select(what)?, what.conditions(Some(*condition)));
                self.read(&sql, what, false, each)?;
                return Ok(false);
            }
            Part::After(after) => after,
            Part::Written { .. } => return Err(Error::internal("MySQL does not tell who wrote a row")),
        };
        let (cursor, order, nullable) = self.cursor(what, column)?;
        let in_sql = |value: &Cursor| {
            literal(value, order).ok_or_else(|| {
                Error::invalid(format!("`{}` was read by another cursor than `{column}`", what.name()))
                    .with_hint(
                        "let `cursor` be as it was, or read from the beginning: `tarn source forget NAME`",
                    )
            })
        };
        let source = self.from(what)?;
        let mut without_cursor = false;
        let also = filter.map_or(String::new(), |filter| format!(" AND {filter}"));
        // Of a column that is never NULL, `IS NULL` finds zero dates.
        if nullable {
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {source} WHERE {cursor} IS NULL{also})");
            without_cursor = self.value(&sql, what)? == Some(Cursor::Int(1));
        }
        let mut conditions = String::new();
        // Zero dates compare with no time; they come first of all.
        if let Some(from) = from.map(in_sql).transpose()?.filter(|from| !from.starts_with("'0000")) {
            conditions = format!("{cursor} >= {from} AND ");
        }
        match until {
            Until::Nothing => return Ok(without_cursor),
            Until::Cursor(until) => conditions += &format!("{cursor} <= {}", in_sql(until)?),
            Until::End => conditions += &format!("{cursor} IS NOT NULL"),
        }
        let wanted = match (&what.named, what.columns.is_empty()) {
            (Named::Table(_), true) => format!("{source}.*"),
            (Named::Query(_), true) => "`query`.*".to_owned(),
            (_, false) => wanted(what),
        };
        let sql =
            format!("SELECT {wanted}, {cursor} FROM {source} WHERE {conditions}{also} ORDER BY {cursor}");
        self.read(&sql, what, true, each)?;
        Ok(without_cursor)
    }

    fn splits(&mut self, what: &Selection, by: Option<&str>, readers: usize) -> Result<Parted> {
        self.split(what, by, readers)
    }

    fn summary(&mut self, what: &Selection, part: &Part<'_>, local_times: bool) -> Result<Option<Summary>> {
        let condition = match part {
            Part::All => None,
            Part::Split(condition) => Some(*condition),
            Part::After(_) | Part::Written { .. } => return Ok(None),
        };
        let fields = self.fields(what)?;
        let asked: Vec<Asked> = fields.iter().map(|field| field.asked(local_times)).collect();
        let source = format!("{}{}", self.from(what)?, what.conditions(condition));
        let doing = format!("sum the rows of `{}`", what.name());
        let ask = |sql: &str| Ok(self.connection.query(sql, &doing)?.pop().unwrap_or_default());
        summing::summary(&asked, &source, ask).map(Some)
    }

    /// What the storage engine thinks a table has.
    fn estimate(&mut self, what: &Selection) -> Result<Option<u64>> {
        let (Named::Table(name), None) = (&what.named, &what.filter) else { return Ok(None) };
        self.begin()?;
        let quoted = self.relation(name)?;
        let sql = format!("EXPLAIN SELECT * FROM {quoted}");
        let plan = self.connection.query(&sql, "ask how many rows there are")?;
        // The columns differ from server to server; the number of rows is the last one that is a number and no more.
        let numbers = plan.first().into_iter().flatten().flatten().rev();
        Ok(numbers.filter_map(|cell| cell.parse().ok()).next())
    }

    fn release(&mut self) -> Result<()> {
        self.known = None;
        if std::mem::take(&mut self.begun) && !self.given_up {
            self.connection.query("ROLLBACK", "end a transaction")?;
        }
        Ok(())
    }

    fn unsettled(&mut self) -> Option<&mut dyn Unsettled> {
        Some(self)
    }
}

impl Unsettled for Mysql {
    fn largest(&mut self, what: &Selection, column: &str) -> Result<Option<Cursor>> {
        let (cursor, _, _) = self.cursor(what, column)?;
        let sql = format!("SELECT MAX({cursor}) FROM {}", self.from(what)?);
        let largest = self.value(&sql, what);
        self.release()?;
        largest
    }

    fn writers(&mut self) -> Result<Seen> {
        self.release()?;
        self.begin()?;
        let doing = "look which transactions are under way";
        // A replica commits what its source has committed: whoever is late there is not to be seen here.
        let replica = self.connection.query("SELECT @@global.read_only", doing)?;
        let is_replica =
            !matches!(replica.first().and_then(|row| row.first()?.as_deref()), Some("0" | "OFF"));
        let found = match self.connection.query(WRITERS, doing) {
            // Whoever may not look is told so; the connection goes on.
            Err(error) if error.kind() == Kind::Invalid => None,
            found => Some(found?),
        };
        self.release()?;
        let Some(found) = found.filter(|_| !is_replica) else { return Ok(Seen::Hidden) };
        let mut is_new = false;
        let mut writers = Vec::new();
        for row in found {
            match row.as_slice() {
                [Some(is_ours), ..] if is_ours == "1" => is_new = true,
                [_, Some(has_written), Some(session), number] if has_written == "1" => {
                    writers.push(Writer { session: session.clone(), number: number.clone() });
                }
                _ => {}
            }
        }
        Ok(if is_new { Seen::Writers(writers) } else { Seen::Old })
    }
}

/// Refuses what is no query, which a read-only transaction need not stop.
fn check_query(query: &str) -> Result<()> {
    let mut rest = query.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
    loop {
        let (begins, ends) = match rest {
            _ if rest.starts_with("/*!") || rest.starts_with("/*M!") => break,
            _ if rest.starts_with("/*") => ("/*", "*/"),
            _ if rest.starts_with("-- ") => ("-- ", "\n"),
            _ if rest.starts_with('#') => ("#", "\n"),
            _ => break,
        };
        let after = rest[begins.len()..].split_once(ends).map_or("", |(_, after)| after);
        rest = after.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
    }
    let word: String = rest.chars().take_while(char::is_ascii_alphabetic).collect();
    match QUERIES.contains(&word.to_ascii_uppercase().as_str()) {
        true => Ok(()),
        false => Err(Error::invalid("this is no query: nothing is changed in a source's database")
            .with_hint("write one that begins with SELECT, WITH, VALUES, SHOW, DESCRIBE or EXPLAIN")),
    }
}

fn wanted(what: &Selection) -> String {
    let columns = what.columns.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    if columns.is_empty() { "*".to_owned() } else { columns }
}

/// A query without what ends it.
fn bare(query: &str) -> &str {
    query.trim().trim_end_matches(';')
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Text as a literal that is the same in every mode of the server.
fn text(text: &str) -> String {
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("_utf8mb4 x'{hex}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_queries_are_run() {
        for query in [
            "SELECT 1",
            " ( select 1 )",
            "-- why\n/* how */ # and\nWITH a AS (SELECT 1) SELECT * FROM a",
            "SHOW TABLES",
            "VALUES (1)",
        ] {
            assert!(check_query(query).is_ok(), "{query}");
        }
        for query in [
            "",
            "DROP TABLE a",
            "/*! DROP TABLE a */",
            "/* */ INSERT INTO a SELECT 1",
            "-- SELECT",
            "COMMIT",
            "selected",
        ] {
            assert!(check_query(query).is_err(), "{query}");
        }
    }

    #[test]
    fn names_and_texts_are_quoted_whatever_they_hold() {
        assert_eq!(quoted("a`b"), "`a``b`");
        assert_eq!(text("ä'\\"), "_utf8mb4 x'c3a4275c'");
    }
}
