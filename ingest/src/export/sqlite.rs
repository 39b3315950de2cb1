//! SQLite as a target: rows come by a prepared statement into a temporary table, which goes with the connection.
//!
//! *Lock*: none. Two exports of one job stage beside each other, and whoever moves second finds the token of the first.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tarn_model::{Error, Kind, Result};

use super::fitting::{Affinity, Takes};
use super::gives::{Cell, Gives, date, decimal, timestamp};
use super::session::{Plan, Refused, Session, Target, TargetColumn, Words};
use super::staging::Staged;
use super::{LONGEST_WAIT, grouped};

const WORDS: Words = Words {
    begin: "BEGIN IMMEDIATE",
    for_update: "",
    as_updated: "",
    joins_updates: false,
    insert: "INSERT OR ABORT INTO",
    update: "UPDATE OR ABORT",
    analyzes: false,
    transactional_tables: true,
    name: "TEXT",
    long: "TEXT",
    number: "INTEGER",
    quote: '"',
    backslashes: false,
    zero_bytes: true,
    create_staging: "CREATE TEMP TABLE",
};

/// An open database.
pub(super) struct Sqlite {
    connection: Connection,
}

impl Sqlite {
    pub(super) fn open(path: &Path) -> Result<Sqlite> {
        if !path.exists() {
            return Err(Error::invalid(format!("there is no database `{}`", path.display()))
                .with_hint("mend `--to`, or create the database with its table"));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || {
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(LONGEST_WAIT)?;
            connection.execute_batch("PRAGMA foreign_keys = ON")?;
            Ok(connection)
        };
        Ok(Sqlite { connection: open().map_err(|error| failed("open the database", error))? })
    }
}

impl Session for Sqlite {
    fn words(&self) -> &'static Words {
        &WORDS
    }

    fn describe(&mut self, table: &str) -> Result<Target> {
        let doing = format!("look at the columns of `{table}`");
        let literal = WORDS.literal(table);
        let found = self.query(
            &format!(
                "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name = {literal} COLLATE NOCASE"
            ),
            &doing,
        )?;
        let Some(name) = super::first(&found).map(str::to_owned) else {
            return Err(Error::invalid(format!("there is no table `{table}`"))
                .with_hint("create it, or mend `--into`"));
        };
        let sql = format!(
            "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo({literal}) WHERE hidden <> 1"
        );
        let rows = self.query(&sql, &doing)?;
        let keys = rows.iter().filter(|row| row.get(4).and_then(Option::as_deref) != Some("0"));
        let keys: Vec<String> = keys.filter_map(|row| row.first().cloned().flatten()).collect();
        let collated = format!(
            "SELECT DISTINCT x.name, x.coll FROM pragma_index_list({literal}) i, pragma_index_xinfo(i.name) x WHERE x.key = 1 AND x.coll <> 'BINARY'"
        );
        let collated = self.query(&collated, &doing)?;
        let mut columns = Vec::new();
        for row in rows {
            let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
            let (name, declared) = (text(0), text(1));
            // An INTEGER PRIMARY KEY gets a number by itself.
            let numbers_itself =
                keys.len() == 1 && keys[0] == name && declared.eq_ignore_ascii_case("integer");
            columns.push(TargetColumn {
                takes: Takes::Loose(affinity(&declared)),
                nullable: text(2) == "0",
                has_default: row.get(3).is_some_and(Option::is_some) || numbers_itself,
                generated: matches!(text(5).as_str(), "2" | "3"),
                from_staged: "{}".to_owned(),
                staged_as: String::new(),
                no_key: collated
                    .iter()
                    .find(|row| row.first().and_then(Option::as_deref) == Some(name.as_str()))
                    .map(|row| {
                        let collation = row.get(1).and_then(Option::as_deref).unwrap_or_default();
                        format!("rows are told apart by the collation {collation}")
                    }),
                name,
                declared,
            });
        }
        let sql = format!(
            "SELECT i.name, c.name FROM pragma_index_list({literal}) i, pragma_index_info(i.name) c WHERE i.\"unique\" = 1 AND i.partial = 0 \
             AND NOT EXISTS (SELECT 1 FROM pragma_index_info(i.name) e WHERE e.name IS NULL) ORDER BY i.seq, c.seqno"
        );
        let mut unique = grouped(self.query(&sql, &doing)?);
        if !keys.is_empty() {
            unique.push(keys);
        }
        Ok(Target {
            table: format!("main.{}", WORDS.quoted(&name)),
            place: "main.".to_owned(),
            staging_place: "temp.".to_owned(),
            columns,
            unique,
        })
    }

    fn lock(&mut self, _job: &str) -> Result<bool> {
        Ok(true)
    }

    fn query(&mut self, sql: &str, doing: &str) -> Result<Vec<Vec<Option<String>>>> {
        let read = || {
            let mut statement = self.connection.prepare(sql)?;
            let columns = statement.column_count();
            let mut rows = statement.raw_query();
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let cells = (0..columns).map(|at| Ok(text_of(row.get_ref(at)?)));
                found.push(cells.collect::<rusqlite::Result<Vec<_>>>()?);
            }
            Ok(found)
        };
        read().map_err(|error| failed(doing, error))
    }

    fn change(&mut self, sql: &str, doing: &str) -> Result<std::result::Result<u64, Refused>> {
        match self.connection.execute(sql, []) {
            Ok(count) => Ok(Ok(count as u64)),
            Err(error) => match error.sqlite_error_code() {
                Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {
                    Ok(Err(Refused { reason: error.to_string() }))
                }
                _ => Err(failed(doing, error)),
            },
        }
    }

    /// None: what is staged stays what it is.
    fn staged_type(&self, _gives: Gives) -> String {
        String::new()
    }

    fn stage(&mut self, plan: &Plan, rows: &Staged<'_>) -> Result<()> {
        let places = ", ?".repeat(rows.values.len());
        let sql = format!("INSERT INTO {} VALUES (?{places})", plan.staging);
        let mut stage = || {
            let transaction = self.connection.transaction()?;
            {
                let mut statement = transaction.prepare_cached(&sql)?;
                for (number, row) in (rows.first..).zip(rows.rows) {
                    statement.raw_bind_parameter(1, number.cast_signed())?;
                    for (at, (values, column)) in rows.values.iter().zip(&plan.columns).enumerate() {
                        bind(&mut statement, at + 2, values.cell(*row), column.takes)?;
                    }
                    statement.raw_execute()?;
                }
            }
            transaction.commit()
        };
        stage().map_err(|error| failed("bring rows into the staging table", error))
    }
}

fn bind(
    statement: &mut rusqlite::CachedStatement<'_>,
    at: usize,
    cell: Cell<'_>,
    takes: Takes,
) -> rusqlite::Result<()> {
    match cell {
        Cell::Text(text) => statement.raw_bind_parameter(at, text),
        Cell::Bytes(bytes) => statement.raw_bind_parameter(at, bytes),
        cell => statement.raw_bind_parameter(at, value(cell, takes)),
    }
}

fn value(cell: Cell<'_>, takes: Takes) -> Value {
    match cell {
        Cell::Bool(is) => Value::Integer(is.into()),
        Cell::Int(number) => Value::Integer(number),
        Cell::Float(number) => Value::Real(number),
        Cell::Decimal(value, scale) => {
            let digits = decimal(value, scale);
            let whole = digits.split_once('.').map_or(digits.as_str(), |(whole, _)| whole);
            match (takes, whole.parse()) {
                (Takes::Loose(Affinity::Integer), Ok(number)) => Value::Integer(number),
                _ => Value::Text(digits),
            }
        }
        Cell::Date(days) => date(days).map_or(Value::Null, Value::Text),
        Cell::Timestamp(micros) => timestamp(micros).map_or(Value::Null, Value::Text),
        Cell::Null | Cell::TooFine | Cell::Text(_) | Cell::Bytes(_) => Value::Null,
    }
}

fn text_of(value: ValueRef<'_>) -> Option<String> {
    Some(match value {
        ValueRef::Null => return None,
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => BASE64.encode(bytes),
    })
}

/// What SQLite makes of a declared type: the rules of its documentation, "Determination Of Column Affinity".
fn affinity(declared: &str) -> Affinity {
    let upper = declared.to_ascii_uppercase();
    let has = |parts: &[&str]| parts.iter().any(|part| upper.contains(part));
    if has(&["INT"]) {
        Affinity::Integer
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        Affinity::Text
    } else if upper.is_empty() || has(&["BLOB"]) {
        Affinity::Blob
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        Affinity::Real
    } else {
        Affinity::Numeric
    }
}

fn failed(doing: &str, error: rusqlite::Error) -> Error {
    let (kind, hint) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (Kind::Unavailable, "somebody else writes to the database: run the export again")
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => (
            Kind::Invalid,
            "the file is no SQLite database, or it is damaged: `PRAGMA integrity_check` says more",
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            (Kind::Invalid, "let the file and its folder be written to")
        }
        Some(ErrorCode::DiskFull) => (Kind::Unavailable, "make room, and run the export again"),
        _ => (Kind::Invalid, "the database says what is wrong"),
    };
    Error::new(kind, format!("cannot {doing}")).with_hint(hint).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types_have_the_affinity_that_sqlite_gives_them() {
        for (declared, wanted) in [
            ("INTEGER", Affinity::Integer),
            ("NVARCHAR(160)", Affinity::Text),
            ("NUMERIC(10,2)", Affinity::Numeric),
            ("DATETIME", Affinity::Numeric),
            ("STRING", Affinity::Numeric),
            ("FLOATING POINT", Affinity::Integer),
            ("DOUBLE", Affinity::Real),
            ("BLOB", Affinity::Blob),
            ("", Affinity::Blob),
        ] {
            assert_eq!(affinity(declared), wanted, "{declared}");
        }
    }
}
