//! A connection that changes a database.
//!
//! *Invariants*: what the database has against the rows themselves is told apart ([`Refused`]) from what goes wrong with the statement
//! or the server; after the latter, whoever asked gives the transaction up. Counts are of rows that were found: also of those that an
//! `UPDATE` left as they were.

use std::sync::Arc;

use tarn_model::{Error, Kind, Result};

use super::{Connection, ERROR, OK, QUERY, Reader};
use crate::database::address::Address;
use crate::export::Refused;
use crate::stop::Stop;

/// Strict, so that nothing is cut or replaced in silence; a zero is a zero also where numbers are given out.
const SETTINGS: &str = "SET time_zone = '+00:00', autocommit = 1, default_storage_engine = InnoDB, completion_type = 'NO_CHAIN', \
     sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO', \
     wait_timeout = 86400, net_read_timeout = 600, sql_big_selects = 1, foreign_key_checks = 1, unique_checks = 1";

/// Errors that blame rows and whose SQLSTATE does not say so: cut, wrong for the type, a check, no partition, a check option.
const OF_ROWS: &[u16] = &[1265, 1366, 1369, 1411, 1526, 3819, 4025];

/// A connection that may change what is there.
pub(crate) struct Writer {
    connection: Connection,
}

impl Writer {
    /// Connects and logs in.
    pub(crate) fn open(address: &Address) -> Result<Writer> {
        let mut connection = Connection::open(address, Arc::new(Stop::default()))?;
        let doing = "prepare the session";
        connection.query("SET NAMES utf8mb4", doing)?;
        connection.query("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ", doing)?;
        connection.query(SETTINGS, doing)?;
        Ok(Writer { connection })
    }

    /// The rows of a query, as text.
    pub(crate) fn query(&mut self, sql: &str, doing: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.connection.query(sql, doing)
    }

    /// Runs a statement; how many rows it has found or made.
    pub(crate) fn change(&mut self, sql: &[u8], doing: &str) -> Result<std::result::Result<u64, Refused>> {
        self.connection.command(QUERY, sql)?;
        let body = self.connection.packet()?;
        match self.connection.body(&body) {
            [OK, rest @ ..] => Ok(Ok(Reader(rest).number().unwrap_or(0))),
            [ERROR, rest @ ..] => judged(rest, doing).map(Err),
            _ => Err(self.connection.broken("answers what was not asked")),
        }
    }
}

/// Whether rows are to blame, or what else; from an `ERR` packet.
fn judged(body: &[u8], doing: &str) -> Result<Refused> {
    let mut rest = Reader(body);
    let code = rest.int16().unwrap_or_default();
    let (state, told) = match rest.0 {
        [b'#', more @ ..] if more.len() >= 5 => more.split_at(5),
        told => (&b""[..], told),
    };
    let told = format!("{} [{code}]", String::from_utf8_lossy(told));
    let class = state.get(..2).unwrap_or_default();
    if [b"21", b"22", b"23", b"44", b"45"].iter().any(|of_rows| class == *of_rows) || OF_ROWS.contains(&code)
    {
        return Ok(Refused { reason: told });
    }
    let (kind, hint) = match code {
        1020
        | 1021
        | 1028
        | 1030
        | 1037..=1041
        | 1053
        | 1077..=1080
        | 1114
        | 1135
        | 1152
        | 1158..=1161
        | 1203
        | 1205
        | 1213
        | 1226
        | 1317
        | 1637
        | 1927
        | 1969
        | 3024
        | 3169
        | 4031 => (Kind::Unavailable, "run the export again: it goes on as if it had not been begun"),
        1044 | 1142 | 1143 | 1227 | 1370 => (
            Kind::Invalid,
            "let the user write: `GRANT SELECT, INSERT, UPDATE, CREATE, DROP ON database.* TO …` (CREATE and DROP for the staging table)",
        ),
        _ => (Kind::Invalid, "the database says what is wrong"),
    };
    Err(Error::new(kind, format!("cannot {doing}")).with_source(told).with_hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_rows_is_told_from_what_is_wrong_with_the_server() {
        let refused = judged(b"\x26\x04#23000Duplicate entry '1' for key 'PRIMARY'", "write");
        assert_eq!(refused.unwrap().reason, "Duplicate entry '1' for key 'PRIMARY' [1062]");
        let cut = judged(b"\xf1\x04#01000Data truncated for column 'c' at row 1", "write");
        assert_eq!(cut.unwrap().reason, "Data truncated for column 'c' at row 1 [1265]");
        let deadlock = judged(b"\xbd\x04#40001Deadlock found", "write");
        assert_eq!(deadlock.unwrap_err().kind(), Kind::Unavailable);
        let forbidden = judged(b"\x76\x04#42000INSERT command denied", "write");
        assert!(forbidden.unwrap_err().hint().unwrap().contains("GRANT"));
    }
}
