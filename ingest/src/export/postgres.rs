//! PostgreSQL as a target: rows come by `COPY` into an unlogged staging table beside the target.
//!
//! *Lock*: an advisory one of the session, so that it goes with it, also when Tarn is killed: the server ends what it does for a
//! connection that is gone, and whoever exports the job next waits for that.

use std::io::Write;

use tarn_model::{Error, Kind, Result};

use super::LONGEST_WAIT;
use super::fitting::Takes;
use super::gives::{Cell, Gives, date, decimal, timestamp};
use super::session::{Plan, Refused, Session, Target, TargetColumn, Words};
use super::staging::Staged;
use crate::database::{Address, PostgresWriter};

const WORDS: Words = Words {
    begin: "BEGIN ISOLATION LEVEL REPEATABLE READ; SET CONSTRAINTS ALL IMMEDIATE",
    for_update: " FOR UPDATE",
    as_updated: "",
    joins_updates: false,
    insert: "INSERT INTO",
    update: "UPDATE",
    analyzes: true,
    transactional_tables: true,
    name: "text",
    long: "text",
    number: "bigint",
    quote: '"',
    backslashes: false,
    zero_bytes: false,
    create_staging: "CREATE UNLOGGED TABLE",
};
/// Bytes of rows that are copied at once.
const COPY_BYTES: usize = 4 << 20;

/// A connection to a server.
pub(super) struct Postgres {
    writer: PostgresWriter,
}

impl Postgres {
    pub(super) fn open(address: &Address) -> Result<Postgres> {
        Ok(Postgres { writer: PostgresWriter::open(address)? })
    }

    /// Schema and name of the table, and its number.
    fn relation(&mut self, table: &str) -> Result<[String; 3]> {
        let literal = WORDS.literal(table);
        let sql = format!(
            "SELECT n.nspname, c.relname, c.oid, c.relkind IN ('r', 'p') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND (c.relname = {literal} AND pg_table_is_visible(c.oid) \
             OR n.nspname || '.' || c.relname = {literal})"
        );
        let found = self.writer.query(&sql, &format!("look for the table `{table}`"))?;
        match found.as_slice() {
            [row] => match row.as_slice() {
                [Some(schema), Some(name), Some(oid), Some(is_table)] if is_table == "t" => {
                    Ok([schema.clone(), name.clone(), oid.clone()])
                }
                _ => Err(Error::invalid(format!("`{table}` is no table")).with_hint("export into a table")),
            },
            [] => Err(Error::invalid(format!("there is no table `{table}` that the role can see")).with_hint(
                "create it, or mend `--into`: write `schema.table` for one that is not in the search path",
            )),
            _ => Err(Error::invalid(format!("`{table}` is more than one table"))
                .with_hint("write `schema.table` in `--into`")),
        }
    }
}

impl Session for Postgres {
    fn words(&self) -> &'static Words {
        &WORDS
    }

    fn describe(&mut self, table: &str) -> Result<Target> {
        let [schema, name, oid] = self.relation(table)?;
        let doing = format!("look at the columns of `{table}`");
        let sql = format!(
            "SELECT a.attname, format_type(a.atttypid, a.atttypmod), format_type(a.atttypid, -1), \
             CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END::bigint, CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END, \
             a.attnotnull OR t.typnotnull, a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL, \
             a.attgenerated <> '' OR a.attidentity = 'a' \
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = {oid} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
        );
        let mut columns = Vec::new();
        for row in self.writer.query(&sql, &doing)? {
            let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
            let (type_id, modifier) = (text(3).parse().unwrap_or(0), text(4).parse().unwrap_or(-1));
            columns.push(TargetColumn {
                name: text(0),
                declared: text(1),
                takes: takes(type_id, modifier),
                nullable: text(5) != "t",
                has_default: text(6) == "t",
                generated: text(7) == "t",
                from_staged: format!("CAST({{}} AS {})", text(2)),
                staged_as: String::new(),
                no_key: None,
            });
        }
        let sql = format!(
            "SELECT i.indexrelid, a.attname FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n) \
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE i.indrelid = {oid} AND i.indisunique AND i.indisvalid \
             AND i.indpred IS NULL AND i.indexprs IS NULL AND k.n <= i.indnkeyatts ORDER BY i.indexrelid, k.n"
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
        let key = xxhash_rust::xxh3::xxh3_64(format!("tarn export {job}").as_bytes()).cast_signed();
        let wait = format!("SET lock_timeout = '{}s'", LONGEST_WAIT.as_secs());
        self.writer.query(&wait, "prepare the session")?;
        let locked = self.writer.query(&format!("SELECT pg_advisory_lock({key})"), "lock the job");
        // A connection that goes on has waited in vain.
        self.writer.query("SET lock_timeout = 0", "prepare the session")?;
        match locked {
            Err(error) if error.kind() == Kind::Unavailable => Ok(false),
            locked => locked.map(|_| true),
        }
    }

    fn query(&mut self, sql: &str, doing: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.writer.query(sql, doing)
    }

    fn change(&mut self, sql: &str, doing: &str) -> Result<std::result::Result<u64, Refused>> {
        self.writer.change(sql, doing)
    }

    fn staged_type(&self, gives: Gives) -> String {
        match gives {
            Gives::Bool => "boolean",
            Gives::Int => "bigint",
            Gives::Real | Gives::Double => "double precision",
            Gives::Decimal(..) => "numeric",
            Gives::Text | Gives::Nothing => "text",
            Gives::Bytes => "bytea",
            Gives::Date => "date",
            Gives::Timestamp => "timestamp with time zone",
        }
        .to_owned()
    }

    fn stage(&mut self, plan: &Plan, rows: &Staged<'_>) -> Result<()> {
        let sql = format!("COPY {} FROM STDIN", plan.staging);
        let mut text = Vec::new();
        for (number, row) in (rows.first..).zip(rows.rows) {
            text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            for values in rows.values {
                text.push(b'\t');
                push_cell(&mut text, values.cell(*row));
            }
            text.push(b'\n');
            if text.len() >= COPY_BYTES {
                self.copy(&sql, &text)?;
                text.clear();
            }
        }
        if text.is_empty() { Ok(()) } else { self.copy(&sql, &text) }
    }
}

impl Postgres {
    fn copy(&mut self, sql: &str, text: &[u8]) -> Result<()> {
        let doing = "copy rows into the staging table";
        let copied = self.writer.copy_in(sql, text, doing)?;
        copied
            .map(drop)
            .map_err(|refused| Error::internal(format!("cannot {doing}")).with_source(refused.reason))
    }
}

/// A value as `COPY` reads it in its text form.
fn push_cell(out: &mut Vec<u8>, cell: Cell<'_>) {
    match cell {
        Cell::Null | Cell::TooFine => out.extend_from_slice(b"\\N"),
        Cell::Bool(is) => out.push(if is { b't' } else { b'f' }),
        Cell::Int(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
        Cell::Float(number) if number.is_nan() => out.extend_from_slice(b"NaN"),
        Cell::Float(number) if number.is_infinite() => {
            out.extend_from_slice(if number > 0.0 { b"Infinity" } else { b"-Infinity" });
        }
        Cell::Float(number) => {
            let _ = write!(out, "{number:e}");
        }
        Cell::Decimal(value, scale) => out.extend_from_slice(decimal(value, scale).as_bytes()),
        Cell::Text(text) => {
            for byte in text.bytes() {
                match byte {
                    b'\\' => out.extend_from_slice(b"\\\\"),
                    b'\n' => out.extend_from_slice(b"\\n"),
                    b'\r' => out.extend_from_slice(b"\\r"),
                    b'\t' => out.extend_from_slice(b"\\t"),
                    byte => out.push(byte),
                }
            }
        }
        Cell::Bytes(bytes) => {
            out.extend_from_slice(b"\\\\x");
            for byte in bytes {
                let _ = write!(out, "{byte:02x}");
            }
        }
        // What has no form here was rejected before.
        Cell::Date(days) => out.extend_from_slice(date(days).unwrap_or_default().as_bytes()),
        Cell::Timestamp(micros) => {
            out.extend_from_slice(timestamp(micros).unwrap_or_default().as_bytes());
            out.extend_from_slice(b"+00");
        }
    }
}

/// What a type takes, by its number in `pg_type`, which is the same everywhere.
fn takes(type_id: i64, modifier: i32) -> Takes {
    let digits = |modifier: i32| u8::try_from(modifier).ok();
    match type_id {
        16 => Takes::Bool,
        21 => Takes::Int(i16::MIN.into(), i16::MAX.into()),
        23 => Takes::Int(i32::MIN.into(), i32::MAX.into()),
        20 => Takes::Int(i64::MIN.into(), i64::MAX.into()),
        26 => Takes::Int(0, u32::MAX.into()),
        700 => Takes::Real { infinite: true },
        701 => Takes::Double { infinite: true },
        790 => Takes::Decimal { scale: Some(2), from_text: true },
        // The scale is in the lower 11 bits, with a sign since version 15.
        1700 if modifier >= 4 => {
            let scale = (((modifier - 4) & 0x7ff) ^ 1024) - 1024;
            Takes::Decimal { scale: i16::try_from(scale).ok(), from_text: true }
        }
        1700 => Takes::Decimal { scale: None, from_text: true },
        25 => Takes::Text { characters: None, bytes: None },
        19 => Takes::Text { characters: None, bytes: Some(63) },
        18 => Takes::Text { characters: None, bytes: Some(1) },
        1042 | 1043 => Takes::Text { characters: u64::try_from(modifier - 4).ok(), bytes: None },
        17 => Takes::Bytes(None),
        1082 => Takes::Date,
        1114 | 1184 => Takes::Timestamp(digits(modifier).unwrap_or(6)),
        1083 | 1266 => Takes::Parsed(Some(digits(modifier).unwrap_or(6))),
        1186 => Takes::Parsed(Some(
            u8::try_from(modifier & 0xffff).ok().filter(|digits| *digits <= 6).unwrap_or(6),
        )),
        _ => Takes::Parsed(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifiers_of_types_say_how_much_fits() {
        // numeric(10,2), numeric(3,-2), varchar(5), timestamp(3), varchar.
        assert_eq!(takes(1700, (10 << 16 | 2) + 4), Takes::Decimal { scale: Some(2), from_text: true });
        assert_eq!(
            takes(1700, (3 << 16 | (-2 & 0x7ff)) + 4),
            Takes::Decimal { scale: Some(-2), from_text: true }
        );
        assert_eq!(takes(1043, 9), Takes::Text { characters: Some(5), bytes: None });
        assert_eq!(takes(1114, 3), Takes::Timestamp(3));
        assert_eq!(takes(1043, -1), Takes::Text { characters: None, bytes: None });
    }

    #[test]
    fn cells_are_written_as_copy_reads_them() {
        let text = |cell| {
            let mut out = Vec::new();
            push_cell(&mut out, cell);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(Cell::Text("a\tb\\\n")), "a\\tb\\\\\\n");
        assert_eq!(text(Cell::Bytes(&[0, 255])), "\\\\x00ff");
        assert_eq!(text(Cell::Float(0.1)), "1e-1");
        assert_eq!(text(Cell::Timestamp(1_500_000)), "1970-01-01 00:00:01.500+00");
        assert_eq!(text(Cell::Null), "\\N");
    }
}
