//! MySQL and MariaDB as targets: rows come by `INSERT` statements of many rows into a staging table beside the target.
//!
//! *Tables*: making and dropping one ends a transaction there, so a staging table is made before it and dropped after it; what a kill
//! leaves is dropped by the job's next run. A target whose engine has no transactions is refused.
//!
//! *Lock*: `GET_LOCK`, which goes with the session.

use std::io::Write;

use tarn_model::{Error, Result};

use super::fitting::Takes;
use super::gives::{Cell, Gives, date, decimal, timestamp};
use super::session::{Plan, Refused, Session, Target, TargetColumn, Words};
use super::staging::Staged;
use super::{LONGEST_WAIT, first};
use crate::database::{Address, MysqlWriter};

const WORDS: Words = Words {
    begin: "START TRANSACTION",
    for_update: " FOR UPDATE",
    as_updated: " LOCK IN SHARE MODE",
    joins_updates: true,
    insert: "INSERT INTO",
    update: "UPDATE",
    analyzes: false,
    transactional_tables: false,
    name: "VARCHAR(190) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    long: "LONGTEXT CHARACTER SET utf8mb4",
    number: "BIGINT",
    quote: '`',
    backslashes: true,
    zero_bytes: true,
    create_staging: "CREATE TABLE",
};
/// Bytes from which on a statement gets no more rows.
const STATEMENT_BYTES: usize = 512 << 10;
/// Most digits behind the point of a `DECIMAL`.
const MOST_SCALE: i8 = 30;

/// A connection to a server.
pub(super) struct Mysql {
    writer: MysqlWriter,
}

impl Mysql {
    pub(super) fn open(address: &Address) -> Result<Mysql> {
        Ok(Mysql { writer: MysqlWriter::open(address)? })
    }

    /// Database and name of the table.
    fn relation(&mut self, table: &str) -> Result<[String; 2]> {
        let doing = format!("look for the table `{table}`");
        let mut places = vec![("DATABASE()".to_owned(), table)];
        places
            .extend(table.match_indices('.').map(|(at, _)| (WORDS.literal(&table[..at]), &table[at + 1..])));
        for (schema, name) in places {
            let sql = format!(
                "SELECT t.table_schema, t.table_name, t.table_type, COALESCE(e.transactions, 'NO') FROM information_schema.tables t \
                 LEFT JOIN information_schema.engines e ON e.engine = t.engine WHERE t.table_schema = {schema} AND t.table_name = {}",
                WORDS.literal(name)
            );
            let found = self.writer.query(&sql, &doing)?;
            let exact = found.iter().find(|row| row.get(1).and_then(Option::as_deref) == Some(name));
            let Some([Some(schema), Some(name), Some(kind), Some(transactions)]) =
                exact.or(found.first()).map(Vec::as_slice)
            else {
                continue;
            };
            if kind != "BASE TABLE" && kind != "SYSTEM VERSIONED" {
                return Err(Error::invalid(format!("`{table}` is no table")).with_hint("export into a table"));
            }
            if transactions != "YES" {
                return Err(Error::invalid(format!("the engine of `{table}` has no transactions"))
                    .with_hint("let the table be of InnoDB: `ALTER TABLE … ENGINE = InnoDB`"));
            }
            return Ok([schema.clone(), name.clone()]);
        }
        Err(Error::invalid(format!("there is no table `{table}` that the user can see"))
            .with_hint("create it, or mend `--into`: write `database.table` for one of another database than that of the address"))
    }
}

impl Session for Mysql {
    fn words(&self) -> &'static Words {
        &WORDS
    }

    fn describe(&mut self, table: &str) -> Result<Target> {
        let [schema, name] = self.relation(table)?;
        let doing = format!("look at the columns of `{table}`");
        let there =
            format!("table_schema = {} AND table_name = {}", WORDS.literal(&schema), WORDS.literal(&name));
        let sql = format!(
            "SELECT column_name, column_type, data_type, character_maximum_length, character_octet_length, numeric_precision, numeric_scale, \
             datetime_precision, is_nullable, column_default, extra, character_set_name, collation_name \
             FROM information_schema.columns WHERE {there} ORDER BY ordinal_position"
        );
        let mut columns = Vec::new();
        for row in self.writer.query(&sql, &doing)? {
            let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
            let number = |at: usize| text(at).parse::<u64>().ok();
            let (declared, kind, extra) =
                (text(1), text(2).to_ascii_lowercase(), text(10).to_ascii_uppercase());
            let nullable = text(8) == "YES";
            let has_default =
                nullable || row.get(9).is_some_and(Option::is_some) || extra.contains("AUTO_INCREMENT");
            columns.push(TargetColumn {
                name: text(0),
                takes: takes(&kind, &declared, [number(3), number(4), number(5), number(6), number(7)]),
                nullable,
                has_default,
                generated: extra.contains("VIRTUAL GENERATED") || extra.contains("STORED GENERATED"),
                from_staged: if kind == "bit" { "CAST({} AS UNSIGNED)".into() } else { "{}".into() },
                // Keys are compared as the target does it.
                staged_as: if text(11) == "utf8mb4" {
                    format!(" COLLATE {}", text(12))
                } else {
                    String::new()
                },
                no_key: match text(11).as_str() {
                    "" | "utf8mb4" if kind == "decimal" && number(5) > Some(38) => {
                        Some("numbers of more than 38 digits are not compared exactly".to_owned())
                    }
                    "" | "utf8mb4" => None,
                    other => {
                        Some(format!("its characters are {other}, which are not compared with UTF-8 exactly"))
                    }
                },
                declared,
            });
        }
        let sql = format!(
            "SELECT index_name, column_name FROM information_schema.statistics WHERE {there} AND non_unique = 0 AND index_name NOT IN \
             (SELECT index_name FROM information_schema.statistics WHERE {there} AND (sub_part IS NOT NULL OR column_name IS NULL)) \
             ORDER BY index_name, seq_in_index"
        );
        let unique = super::grouped(self.writer.query(&sql, &doing)?);
        let place = format!("{}.", WORDS.quoted(&schema));
        Ok(Target {
            table: format!("{place}{}", WORDS.quoted(&name)),
            staging_place: place.clone(),
            place,
            columns,
            unique,
        })
    }

    fn lock(&mut self, job: &str) -> Result<bool> {
        // A lock's name has at most 64 characters.
        let key = format!("tarn export {:016x}", xxhash_rust::xxh3::xxh3_64(job.as_bytes()));
        let sql = format!("SELECT GET_LOCK('{key}', {})", LONGEST_WAIT.as_secs());
        Ok(first(&self.writer.query(&sql, "lock the job")?) == Some("1"))
    }

    fn query(&mut self, sql: &str, doing: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.writer.query(sql, doing)
    }

    fn change(&mut self, sql: &str, doing: &str) -> Result<std::result::Result<u64, Refused>> {
        self.writer.change(sql.as_bytes(), doing)
    }

    fn staged_type(&self, gives: Gives) -> String {
        match gives {
            Gives::Bool => "TINYINT".to_owned(),
            Gives::Int => "BIGINT".to_owned(),
            Gives::Real | Gives::Double => "DOUBLE".to_owned(),
            Gives::Decimal(precision, scale) if scale <= MOST_SCALE => {
                format!("DECIMAL({precision},{scale})")
            }
            Gives::Decimal(..) | Gives::Text | Gives::Nothing => "LONGTEXT CHARACTER SET utf8mb4".to_owned(),
            Gives::Bytes => "LONGBLOB".to_owned(),
            Gives::Date => "DATE".to_owned(),
            Gives::Timestamp => "DATETIME(6)".to_owned(),
        }
    }

    fn stage(&mut self, plan: &Plan, rows: &Staged<'_>) -> Result<()> {
        let head = format!("INSERT INTO {} VALUES ", plan.staging).into_bytes();
        let mut sql = head.clone();
        for (number, row) in (rows.first..).zip(rows.rows) {
            sql.extend_from_slice(if sql.len() == head.len() { b"(" } else { b",(" });
            sql.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            for values in rows.values {
                sql.push(b',');
                push_cell(&mut sql, values.cell(*row));
            }
            sql.push(b')');
            if sql.len() >= STATEMENT_BYTES {
                self.insert(&sql)?;
                sql.truncate(head.len());
            }
        }
        if sql.len() == head.len() { Ok(()) } else { self.insert(&sql) }
    }
}

impl Mysql {
    fn insert(&mut self, sql: &[u8]) -> Result<()> {
        let doing = "bring rows into the staging table";
        let inserted = self.writer.change(sql, doing)?;
        inserted
            .map(drop)
            .map_err(|refused| Error::internal(format!("cannot {doing}")).with_source(refused.reason))
    }
}

/// A value as a literal; `\` is one in the session's mode.
fn push_cell(out: &mut Vec<u8>, cell: Cell<'_>) {
    match cell {
        Cell::Null | Cell::TooFine => out.extend_from_slice(b"NULL"),
        Cell::Bool(is) => out.push(if is { b'1' } else { b'0' }),
        Cell::Int(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
        Cell::Float(number) => {
            let _ = write!(out, "{number:e}");
        }
        Cell::Decimal(value, scale) => out.extend_from_slice(decimal(value, scale).as_bytes()),
        Cell::Text(text) => {
            out.push(b'\'');
            for byte in text.bytes() {
                match byte {
                    b'\'' => out.extend_from_slice(b"''"),
                    b'\\' => out.extend_from_slice(b"\\\\"),
                    0 => out.extend_from_slice(b"\\0"),
                    byte => out.push(byte),
                }
            }
            out.push(b'\'');
        }
        Cell::Bytes(bytes) => {
            out.extend_from_slice(b"X'");
            for byte in bytes {
                let _ = write!(out, "{byte:02x}");
            }
            out.push(b'\'');
        }
        // What has no form here was rejected before.
        Cell::Date(days) => {
            let _ = write!(out, "'{}'", date(days).unwrap_or_default());
        }
        Cell::Timestamp(micros) => {
            let _ = write!(out, "'{}'", timestamp(micros).unwrap_or_default());
        }
    }
}

/// What a type takes; `sizes` are its characters, bytes, precision, scale and digits of a second.
fn takes(kind: &str, declared: &str, sizes: [Option<u64>; 5]) -> Takes {
    let [characters, bytes, precision, scale, digits] = sizes;
    let digits = digits.and_then(|digits| u8::try_from(digits).ok()).unwrap_or(0);
    let unsigned = declared.to_ascii_lowercase().contains("unsigned");
    let whole = |bits: u32| match unsigned {
        true => Takes::Int(0, (1 << bits) - 1),
        false => Takes::Int(-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
    };
    match kind {
        "tinyint" => whole(8),
        "smallint" => whole(16),
        "mediumint" => whole(24),
        "int" => whole(32),
        "bigint" => whole(64),
        "bit" => Takes::Int(0, (1 << precision.unwrap_or(1).min(64)) - 1),
        "year" => Takes::Year,
        "decimal" => Takes::Decimal {
            scale: scale.and_then(|scale| i16::try_from(scale).ok()),
            from_text: precision.is_some_and(|precision| precision > 38),
        },
        // `FLOAT(7,3)` rounds.
        "float" | "double" if declared.contains('(') => Takes::Parsed(None),
        "float" => Takes::Real { infinite: false },
        "double" => Takes::Double { infinite: false },
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => {
            Takes::Text { characters, bytes: None }
        }
        "binary" => Takes::Exactly(bytes.unwrap_or(1)),
        "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Takes::Bytes(bytes),
        "date" => Takes::Date,
        "datetime" | "timestamp" => Takes::Timestamp(digits),
        "time" => Takes::Parsed(Some(digits)),
        "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
        | "multipolygon" | "geometrycollection" | "geomcollection" => Takes::Bytes(None),
        _ => Takes::Parsed(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types_say_how_much_fits() {
        let none = [None; 5];
        assert_eq!(takes("tinyint", "tinyint(1)", none), Takes::Int(-128, 127));
        assert_eq!(takes("bigint", "bigint(20) unsigned", none), Takes::Int(0, u64::MAX.into()));
        assert_eq!(
            takes("bit", "bit(64)", [None, None, Some(64), None, None]),
            Takes::Int(0, u64::MAX.into())
        );
        assert_eq!(takes("float", "float(7,3)", none), Takes::Parsed(None));
        assert_eq!(takes("datetime", "datetime(3)", [None, None, None, None, Some(3)]), Takes::Timestamp(3));
        let decimal = takes("decimal", "decimal(65,30)", [None, None, Some(65), Some(30), None]);
        assert_eq!(decimal, Takes::Decimal { scale: Some(30), from_text: true });
    }

    #[test]
    fn cells_are_literals_that_cannot_end_early() {
        let text = |cell| {
            let mut out = Vec::new();
            push_cell(&mut out, cell);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(Cell::Text("it's \\ \0")), "'it''s \\\\ \\0'");
        assert_eq!(text(Cell::Bytes(b"\x00'")), "X'0027'");
        assert_eq!(text(Cell::Float(-0.25)), "-2.5e-1");
        assert_eq!(text(Cell::Timestamp(0)), "'1970-01-01 00:00:00'");
    }
}
