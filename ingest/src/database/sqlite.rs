//! SQLite: opened to read only, one read transaction (so one snapshot) for each table of a run.
//!
//! SQLite's types are a habit, not a rule: a declared type says what is meant, and a value that is something else comes
//! all the same, to become a dead letter of the table.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tarn_model::columns::ColumnType;
use tarn_model::config::DatabaseConfig;
use tarn_model::{Error, Kind, Result};

use super::row::{Cursor, Value};
use super::splitting::Parted;
use super::summing::{self, Asked, Summary};
use super::{After, Each, Named, Part, Rows, Selection, Written};

mod splitter;

const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Names that every table of SQLite answers to, unless it was made without.
const ROW_IDS: &[&str] = &["rowid", "_rowid_", "oid"];

/// The file of `sqlite:PATH`.
pub(super) fn path_of(config: &DatabaseConfig) -> Result<PathBuf> {
    match config.url.reveal().strip_prefix("sqlite:") {
        Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
        _ => Err(Error::invalid("`url` names no database that can be read").with_hint("write `sqlite:PATH`")),
    }
}

/// Opens the database.
pub(super) fn open(path: &Path) -> Result<Sqlite> {
    if !path.exists() {
        return Err(Error::unavailable(format!("there is no database `{}`", path.display()))
            .with_hint("mend `url`, or put the file there: it is tried again"));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed("open the database"))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed("open the database"))?;
    Ok(Sqlite { connection, path: path.to_owned(), held: false })
}

/// An open database.
pub(super) struct Sqlite {
    connection: Connection,
    path: PathBuf,
    /// A transaction is open over several readings.
    held: bool,
}

impl Sqlite {
    fn select(what: &Selection) -> String {
        format!("SELECT {} FROM {}", wanted(what), from(what))
    }

    fn described(&self, sql: &str, what: &Selection) -> Result<Vec<(String, Option<ColumnType>)>> {
        let read = || {
            let statement = self.connection.prepare(sql)?;
            let columns = statement.columns();
            Ok::<_, rusqlite::Error>(
                columns.map(|c| (c.name().to_owned(), c.decl_type().and_then(column_type))).collect(),
            )
        };
        read().map_err(failed(&format!("read `{}`", what.name())))
    }
}

impl Rows for Sqlite {
    fn tables(&mut self) -> Result<Vec<String>> {
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY 1";
        let list = || {
            let mut statement = self.connection.prepare(sql)?;
            statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
        };
        list().map_err(failed("list the tables"))
    }

    fn columns(&mut self, what: &Selection) -> Result<Vec<(String, Option<ColumnType>)>> {
        self.described(&Sqlite::select(what), what)
    }

    fn written(&mut self, _what: &Selection) -> Result<Option<Written>> {
        Ok(None)
    }

    fn splits(&mut self, what: &Selection, by: Option<&str>, readers: usize) -> Result<Parted> {
        self.split(what, by, readers)
    }

    fn hold(&mut self) -> Result<()> {
        self.connection.execute_batch("BEGIN").map_err(failed("begin a transaction"))?;
        self.held = true;
        Ok(())
    }

    fn estimate(&mut self, what: &Selection) -> Result<Option<u64>> {
        let sql = format!("SELECT count(*) FROM {}{}", from(what), what.conditions(None));
        let rows: i64 =
            self.connection.query_row(&sql, [], |row| row.get(0)).map_err(failed("count the rows"))?;
        Ok(Some(u64::try_from(rows).unwrap_or(0)))
    }

    fn summary(&mut self, what: &Selection, part: &Part<'_>, _local_times: bool) -> Result<Option<Summary>> {
        let condition = match part {
            Part::All => None,
            Part::Split(condition) => Some(*condition),
            Part::After(_) | Part::Written { .. } => return Ok(None),
        };
        let doing = format!("sum the rows of `{}`", what.name());
        let failed = |error| failed(&doing)(error);
        let columns = self.columns(what)?;
        let encoding: String =
            self.connection.query_row("PRAGMA encoding", [], |row| row.get(0)).map_err(failed)?;
        let asked: Vec<Asked> = columns
            .into_iter()
            .map(|(name, column_type)| {
                let sum = column_type.and_then(|of| sum(&quoted(&name), of, encoding == "UTF-8"));
                Asked { column: quoted(&name), column_type: column_type.unwrap_or(ColumnType::Varchar), sum }
            })
            .collect();
        let source = format!("{}{}", from(what), what.conditions(condition));
        let ask = |sql: &str| {
            let cells = |row: &rusqlite::Row<'_>| {
                let count = row.as_ref().column_count();
                (0..count).map(|i| Ok(text_of(row.get_ref(i)?))).collect::<rusqlite::Result<Vec<_>>>()
            };
            self.connection.query_row(sql, [], cells).map_err(failed)
        };
        summing::summary(&asked, &source, ask).map(Some)
    }

    fn release(&mut self) -> Result<()> {
        if std::mem::take(&mut self.held) {
            self.connection.execute_batch("ROLLBACK").map_err(failed("end a transaction"))?;
        }
        Ok(())
    }

    fn rows(&mut self, what: &Selection, part: &Part<'_>, each: &mut Each<'_>) -> Result<bool> {
        let (after, split) = match part {
            Part::All => (None, None),
            Part::After(after) => (Some(after), None),
            Part::Split(condition) => (None, Some(*condition)),
            Part::Written { .. } => return Err(Error::internal("SQLite does not tell who wrote a row")),
        };
        let doing = format!("read `{}`", what.name());
        let failed = |error| failed(&doing)(error);
        let columns = self.columns(what)?;
        let all_columns = self.described(&format!("SELECT * FROM {}", from(what)), what)?;
        // Within the transaction that is held, or one of its own.
        let transaction = self.connection.savepoint().map_err(failed)?;
        let mut without_cursor = false;
        let (wanted, from_what) = (wanted(what), from(what));
        let filter = what.filter.as_ref().map_or("TRUE".to_owned(), |filter| format!("(\n{filter}\n)"));
        let sql = match after {
            None => format!("SELECT {wanted} FROM {from_what}{}", what.conditions(split)),
            Some(After { column, from, .. }) => {
                let cursor = cursor_expression(what, &all_columns, column)?;
                let sql =
                    format!("SELECT EXISTS (SELECT 1 FROM {from_what} WHERE {cursor} IS NULL AND {filter})");
                without_cursor = transaction.query_row(&sql, [], |row| row.get(0)).map_err(failed)?;
                let bound =
                    if from.is_some() { format!("{cursor} >= ?1") } else { format!("{cursor} IS NOT NULL") };
                format!(
                    "SELECT {wanted}, {cursor} FROM {from_what} WHERE {bound} AND {filter} ORDER BY {cursor}"
                )
            }
        };
        let mut statement = transaction.prepare(&sql).map_err(failed)?;
        if let Some(from) = after.and_then(|after| after.from) {
            statement.raw_bind_parameter(1, to_sql(from)?).map_err(failed)?;
        }
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(failed)? {
            let mut values = Vec::with_capacity(columns.len());
            for i in 0..columns.len() {
                values.push(value_of(row.get_ref(i).map_err(failed)?));
            }
            let cursor = match after {
                Some(_) => Cursor::of(value_of(row.get_ref(columns.len()).map_err(failed)?)),
                None => None,
            };
            if !each(&values, cursor)? {
                break;
            }
        }
        Ok(without_cursor)
    }
}

/// The cursor in SQL. Text is compared by its bytes whatever the column's collation, as hashes of ties are.
fn cursor_expression(
    what: &Selection,
    columns: &[(String, Option<ColumnType>)],
    column: &str,
) -> Result<String> {
    if let Some((name, column_type)) = columns.iter().find(|(name, _)| name.eq_ignore_ascii_case(column)) {
        let collate = if *column_type == Some(ColumnType::BigInt) { "" } else { " COLLATE BINARY" };
        return Ok(format!("{}{collate}", quoted(name)));
    }
    if matches!(what.named, Named::Table(_)) && ROW_IDS.contains(&column.to_ascii_lowercase().as_str()) {
        return Ok(column.to_ascii_lowercase());
    }
    Err(Error::invalid(format!("`{}` has no column `{column}` to be its cursor", what.name()))
        .with_hint("name a column that grows with every new row, or `rowid`"))
}

fn wanted(what: &Selection) -> String {
    let columns = what.columns.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    if columns.is_empty() { "*".to_owned() } else { columns }
}

fn from(what: &Selection) -> String {
    match &what.named {
        Named::Table(name) => quoted(name),
        Named::Query(query) => format!("(\n{}\n)", query.trim().trim_end_matches(';')),
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn value_of(value: ValueRef<'_>) -> Value<'_> {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        ValueRef::Real(number) => Value::Float(number),
        ValueRef::Text(text) => Value::Text(text),
        ValueRef::Blob(bytes) => Value::Bytes(bytes),
    }
}

/// A number or text that an aggregate gives.
fn text_of(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    }
}

/// What sums the values of a column, if all of them are what is declared; times and decimals are not, here.
fn sum(column: &str, column_type: ColumnType, is_utf8: bool) -> Option<String> {
    // By halves: a sum that is too large for 64 bits would be an error.
    let low = format!("sum({column} & 4294967295)");
    let high = format!("(sum({column} >> 32) + ({low} >> 32))");
    let (of, sum) = match column_type {
        ColumnType::BigInt => (
            "integer",
            format!(
                "CASE WHEN {high} BETWEEN -2000000000 AND 2000000000 THEN {high} * 4294967296 + ({low} & 4294967295) END"
            ),
        ),
        ColumnType::Boolean => ("integer", format!("sum({column} = 1)")),
        ColumnType::Varchar if is_utf8 => ("text", format!("sum(length(CAST({column} AS BLOB)))")),
        ColumnType::Binary => ("blob", format!("sum(length({column}))")),
        _ => return None,
    };
    Some(format!("CASE WHEN count({column}) = total(typeof({column}) = '{of}') THEN {sum} END"))
}

fn to_sql(cursor: &Cursor) -> Result<rusqlite::types::Value> {
    use rusqlite::types::Value as Sql;
    let broken = || Error::internal("a cursor in a position cannot be read");
    Ok(match cursor {
        Cursor::Int(number) => Sql::Integer(*number),
        Cursor::Float(bits) => {
            Sql::Real(f64::from_bits(u64::from_str_radix(bits, 16).map_err(|_| broken())?))
        }
        Cursor::Text(text) => Sql::Text(text.clone()),
        Cursor::Bytes(bytes) => Sql::Blob(BASE64.decode(bytes).map_err(|_| broken())?),
    })
}

/// What a declared type means; SQLite's whole numbers have 64 bits whatever they are called.
fn column_type(declared: &str) -> Option<ColumnType> {
    let upper = declared.trim().to_ascii_uppercase();
    let (name, arguments) = match upper.split_once('(') {
        Some((name, rest)) => (name.trim(), rest.split(')').next()),
        None => (upper.as_str(), None),
    };
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    Some(match name {
        "DATE" => ColumnType::Date,
        "DATETIME" | "TIMESTAMP" | "TIMESTAMPTZ" => ColumnType::Timestamp,
        _ if has(&["BOOL"]) => ColumnType::Boolean,
        _ if has(&["DECIMAL", "NUMERIC"]) => decimal(arguments)?,
        _ if has(&["CHAR", "CLOB", "TEXT", "STRING", "JSON", "UUID", "GUID"]) => ColumnType::Varchar,
        _ if has(&["BLOB", "BINARY"]) => ColumnType::Binary,
        _ if has(&["REAL", "FLOA", "DOUB"]) => ColumnType::Double,
        _ if has(&["INT"]) => ColumnType::BigInt,
        _ => return None,
    })
}

fn decimal(arguments: Option<&str>) -> Option<ColumnType> {
    let Some(arguments) = arguments else {
        return Some(ColumnType::Decimal(38, 10));
    };
    let mut numbers = arguments.split(',').map(|number| number.trim().parse::<u8>());
    let precision = numbers.next()?.ok()?;
    let scale = i8::try_from(numbers.next().unwrap_or(Ok(0)).ok()?).ok()?;
    let fits = (1..=38).contains(&precision) && scale.unsigned_abs() <= precision;
    fits.then_some(ColumnType::Decimal(precision, scale))
}

/// What an error of SQLite means: what is wrong with the statement or the file stays wrong, the rest passes.
fn failed(doing: &str) -> impl FnOnce(rusqlite::Error) -> Error {
    let message = format!("cannot {doing}");
    move |error| {
        let (kind, hint) = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                (Kind::Unavailable, "another process has locked the database: it is tried again")
            }
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => (
                Kind::Invalid,
                "the file is no SQLite database, or it is damaged: `PRAGMA integrity_check` says more",
            ),
            Some(ErrorCode::Unknown) | None => {
                (Kind::Invalid, "mend `table`, `query` or `cursor` of the source")
            }
            Some(_) => (Kind::Unavailable, "look at the file and its permissions: it is tried again"),
        };
        Error::new(kind, message).with_hint(hint).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types_mean_what_people_mean_by_them() {
        for (declared, meant) in [
            ("INTEGER", Some(ColumnType::BigInt)),
            ("tinyint(1)", Some(ColumnType::BigInt)),
            ("NUMERIC(10,2)", Some(ColumnType::Decimal(10, 2))),
            ("decimal(5)", Some(ColumnType::Decimal(5, 0))),
            ("NUMERIC", Some(ColumnType::Decimal(38, 10))),
            ("NUMERIC(99,2)", None),
            ("NVARCHAR(160)", Some(ColumnType::Varchar)),
            ("DATETIME", Some(ColumnType::Timestamp)),
            ("BLOB", Some(ColumnType::Binary)),
            ("double precision", Some(ColumnType::Double)),
            ("BOOLEAN", Some(ColumnType::Boolean)),
            ("POINT", Some(ColumnType::BigInt)),
            ("", None),
            ("ANY", None),
        ] {
            assert_eq!(column_type(declared), meant, "{declared}");
        }
    }
}
