//! A connection that changes a database: statements, and `COPY … FROM STDIN`.
//!
//! *Invariants*: what the database has against the rows themselves is told apart ([`Refused`]) from what goes wrong with the statement
//! or the server; after the latter, whoever asked gives the transaction up.

use std::sync::Arc;

use tarn_model::{Error, Kind, Result};

use super::Connection;
use crate::database::address::Address;
use crate::export::Refused;
use crate::stop::Stop;

/// Classes of SQLSTATE that blame rows: cardinality, data, constraints, triggered changes, check options, limits, `RAISE` in a trigger.
const OF_ROWS: &[&str] = &["21", "22", "23", "27", "44", "54", "P0"];
/// Bytes of one message of a copy.
const PIECE_BYTES: usize = 64 << 10;

/// All that the meaning of what is written depends on. Functions of triggers find what they would find for anybody.
const SETTINGS: &str = "SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; SET client_encoding = 'UTF8'; \
     SET extra_float_digits = 3; SET bytea_output = 'hex'; SET statement_timeout = 0; SET lock_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0; SET standard_conforming_strings = on; SET client_min_messages = warning";

/// A connection that may change what is there.
pub(crate) struct Writer {
    connection: Connection,
}

impl Writer {
    /// Connects and logs in.
    pub(crate) fn open(address: &Address) -> Result<Writer> {
        let mut connection = Connection::open(address, Arc::new(Stop::default()))?;
        connection.query(SETTINGS, "prepare the session")?;
        Ok(Writer { connection })
    }

    /// The rows of a query, as text.
    pub(crate) fn query(&mut self, sql: &str, doing: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.connection.query(sql, doing)
    }

    /// Runs statements; how many rows the last of them has changed.
    pub(crate) fn change(&mut self, sql: &str, doing: &str) -> Result<std::result::Result<u64, Refused>> {
        self.connection.send_text(b'Q', sql)?;
        self.end(doing)
    }

    /// Copies `bytes` in: all of them or, where that is refused, none.
    pub(crate) fn copy_in(
        &mut self,
        sql: &str,
        bytes: &[u8],
        doing: &str,
    ) -> Result<std::result::Result<u64, Refused>> {
        self.connection.send_text(b'Q', sql)?;
        let mut failed = None;
        loop {
            let (kind, body) = self.connection.message()?;
            match kind {
                b'G' => break,
                b'E' => failed = Some(Told::read(self.connection.link.bytes(body))),
                b'Z' => {
                    return failed.map_or_else(
                        || Err(self.connection.broken("copies nothing")),
                        |told| told.judged(doing).map(Err),
                    );
                }
                _ => {}
            }
        }
        for piece in bytes.chunks(PIECE_BYTES) {
            self.connection.send(Some(b'd'), piece)?;
        }
        self.connection.send(Some(b'c'), b"")?;
        self.end(doing)
    }

    /// Reads to the end of an answer.
    fn end(&mut self, doing: &str) -> Result<std::result::Result<u64, Refused>> {
        let (mut count, mut failed) = (0, None);
        loop {
            let (kind, body) = self.connection.message()?;
            match kind {
                b'C' => count = count_of(self.connection.link.bytes(body)),
                b'E' => failed = Some(Told::read(self.connection.link.bytes(body))),
                b'Z' => return failed.map_or(Ok(Ok(count)), |told| told.judged(doing).map(Err)),
                _ => {}
            }
        }
    }
}

/// The last word of `INSERT 0 5`, `UPDATE 5`, `COPY 5`.
fn count_of(tag: &[u8]) -> u64 {
    let tag = String::from_utf8_lossy(tag.strip_suffix(&[0]).unwrap_or(tag)).into_owned();
    tag.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// What an `ErrorResponse` says.
struct Told {
    code: String,
    message: String,
    hint: Option<String>,
}

impl Told {
    fn read(body: &[u8]) -> Told {
        let field = |kind: u8| {
            body.split(|byte| *byte == 0).find_map(|field| match field {
                [first, rest @ ..] if *first == kind => Some(String::from_utf8_lossy(rest).into_owned()),
                _ => None,
            })
        };
        let mut message = field(b'M').unwrap_or_default();
        if let Some(detail) = field(b'D') {
            message = format!("{message} ({})", detail.replace('\n', "; "));
        }
        Told { code: field(b'C').unwrap_or_default(), message, hint: field(b'H') }
    }

    /// Whether rows are to blame, or what else.
    fn judged(self, doing: &str) -> Result<Refused> {
        let class = self.code.get(..2).unwrap_or_default();
        if OF_ROWS.contains(&class) {
            return Ok(Refused { reason: format!("{} [{}]", self.message, self.code) });
        }
        let (kind, hint) = match class {
            "08" | "53" | "57" | "58" | "40" | "55" | "25" => {
                (Kind::Unavailable, "run the export again: it goes on as if it had not been begun")
            }
            "42" if self.code == "42501" => (
                Kind::Invalid,
                "let the role write: `GRANT SELECT, INSERT, UPDATE ON … TO …`, and `GRANT CREATE ON SCHEMA … TO …` for the staging table",
            ),
            _ => (Kind::Invalid, "the database says what is wrong"),
        };
        Err(Error::new(kind, format!("cannot {doing}"))
            .with_source(format!("{} [{}]", self.message, self.code))
            .with_hint(self.hint.unwrap_or_else(|| hint.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_rows_is_told_from_what_is_wrong_with_the_server() {
        let refused = Told::read(b"SERROR\0C23505\0Mduplicate key\0DKey (id)=(1) exists.\0\0");
        assert_eq!(refused.judged("write").unwrap().reason, "duplicate key (Key (id)=(1) exists.) [23505]");
        let stopped = Told::read(b"SFATAL\0C57P01\0Mterminating connection\0\0").judged("write");
        assert_eq!(stopped.unwrap_err().kind(), Kind::Unavailable);
        let forbidden = Told::read(b"SERROR\0C42501\0Mpermission denied\0\0").judged("write");
        assert!(forbidden.unwrap_err().hint().unwrap().contains("GRANT"));
        assert_eq!(count_of(b"INSERT 0 12\0"), 12);
        assert_eq!(count_of(b"BEGIN\0"), 0);
    }
}
