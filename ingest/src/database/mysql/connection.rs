//! A connection that blocks: the protocol of MySQL and MariaDB, as far as reading needs it.
//!
//! ```text
//! packet    length (3 bytes), number (1), body; a body of 2^24 - 1 bytes goes on in the next packet
//! query     COM_QUERY ──▶ columns, end, rows as text, end
//! read      COM_STMT_PREPARE ──▶ columns;  COM_STMT_EXECUTE ──▶ columns, end, rows in binary form, end
//! ```
//!
//! *Why prepared*: preparing tells the columns without running anything, and the binary form is exact for floats, which are
//! rounded as text.
//!
//! *Invariants*: a row is a slice of the block that was received; only a row above 16 MiB, which comes in pieces, is joined. One
//! above [`MOST_MESSAGE_BYTES`] is refused before it is in memory.
//!
//! *Not here*: the socket, TLS and the block: [`Link`]. Compression, `LOAD DATA LOCAL`, several statements in one.

mod writing;

use std::ops::Range;
use std::sync::Arc;

use tarn_model::{Error, Kind, Result};

pub(crate) use writing::Writer;

use super::login::{CLEAR, NATIVE, SHA2, native_answer, sha2_answer};
use super::types::Described;
use crate::database::NO_SUCH_TABLE;
use crate::database::address::Address;
use crate::database::link::{Link, MOST_MESSAGE_BYTES, too_long};
use crate::stop::Stop;

/// What we can and want: long passwords, counts of rows that were found rather than changed, long flags, a database, protocol 4.1, transactions, hashed answers, ways of logging in.
const CAPABILITIES: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x8_0000;
const CAN_TLS: u32 = 0x800;
/// `utf8mb4_general_ci`.
const UTF8MB4: u8 = 45;
/// A body of so many bytes goes on in the next packet.
const WHOLE_PACKET: usize = 0xff_ffff;

const QUERY: u8 = 0x03;
const PREPARE: u8 = 0x16;
const EXECUTE: u8 = 0x17;
const CLOSE: u8 = 0x19;

const OK: u8 = 0x00;
const MORE: u8 = 0x01;
const NULL: u8 = 0xfb;
const END: u8 = 0xfe;
const ERROR: u8 = 0xff;

/// A connection to a server.
pub(super) struct Connection {
    link: Link,
    /// Number that the next packet has.
    number: u8,
    /// A body that came in pieces.
    joined: Vec<u8>,
    is_mariadb: bool,
}

/// A prepared statement.
#[derive(Debug)]
pub(super) struct Statement {
    id: u32,
    pub(super) columns: Vec<Described>,
}

/// Where a packet's body is until the next one is asked for.
#[derive(Debug, Clone)]
enum Body {
    Block(Range<usize>),
    Joined,
}

impl Connection {
    /// Connects and logs in.
    pub(super) fn open(address: &Address, stop: Arc<Stop>) -> Result<Connection> {
        let link = Link::open(address, stop)?;
        let mut connection = Connection { link, number: 0, joined: Vec::new(), is_mariadb: false };
        let body = connection.packet()?;
        if connection.body(&body).first() == Some(&ERROR) {
            return Err(connection.refused(&body, "log in"));
        }
        let greeting = Greeting::read(connection.body(&body))
            .ok_or_else(|| connection.broken("greets as no server that is known"))?;
        connection.is_mariadb = greeting.is_mariadb;
        let mut capabilities = CAPABILITIES;
        if let Some(tls) = &address.tls {
            if greeting.capabilities & CAN_TLS == 0 {
                return Err(Error::invalid(format!("`{address}` speaks no TLS")).with_hint(
                    "switch it on there (`ssl_cert`, `ssl_key`), or go without with `sslmode=disable`",
                ));
            }
            capabilities |= CAN_TLS;
            connection.send(&opening(capabilities))?;
            connection.link = connection.link.secure(&address.host, tls)?;
        }
        connection.log_in(address, capabilities, greeting)?;
        connection.link.logged_in();
        Ok(connection)
    }

    pub(super) fn is_mariadb(&self) -> bool {
        self.is_mariadb
    }

    fn log_in(&mut self, address: &Address, capabilities: u32, greeting: Greeting) -> Result<()> {
        let Greeting { mut way, mut nonce, .. } = greeting;
        let password = address.password.as_ref().map_or("", |password| password.reveal());
        let mut message = opening(capabilities);
        for text in [&address.user, &address.database] {
            if text.contains('\0') {
                return Err(Error::invalid("`url` holds a zero byte"));
            }
        }
        push_text(&mut message, &address.user);
        // Whoever wants another way says so.
        let answer = hashed(&way, password, &nonce).unwrap_or_else(|| native_answer(password, &nonce));
        message.push(u8::try_from(answer.len()).unwrap_or(0));
        message.extend_from_slice(&answer);
        push_text(&mut message, &address.database);
        push_text(&mut message, if way == SHA2 { SHA2 } else { NATIVE });
        self.send(&message)?;
        loop {
            let body = self.packet()?;
            let said = self.body(&body).to_vec();
            match said.first() {
                Some(&OK) => return Ok(()),
                Some(&ERROR) => {
                    let error = self.refused(&body, "log in");
                    return Err(match address.password {
                        Some(_) => error,
                        None => error.with_hint(
                            "add `password = \"${MYSQL_PASSWORD}\"` to the source: it is tried again",
                        ),
                    });
                }
                // The server wants it another way.
                Some(&END) => {
                    let mut rest = Reader(&said[1..]);
                    way =
                        rest.text().map(|way| String::from_utf8_lossy(way).into_owned()).unwrap_or_default();
                    nonce = without_zero(rest.0).to_vec();
                    let answer = match hashed(&way, password, &nonce) {
                        Some(answer) => answer,
                        None if way == CLEAR => self.clear(address, password, self.link.is_secret())?,
                        None => return Err(unknown_way(address, &way)),
                    };
                    self.send(&answer)?;
                }
                // `caching_sha2_password`: 3 is enough, 4 asks for the password.
                Some(&MORE) if way == SHA2 && said.get(1) == Some(&3) => {}
                Some(&MORE) if way == SHA2 && said.get(1) == Some(&4) => {
                    let answer = self.clear(address, password, self.link.is_seen_to_be_secret())?;
                    self.send(&answer)?;
                }
                _ => return Err(self.broken("answers what was not asked")),
            }
        }
    }

    /// The password as it is.
    fn clear(&self, address: &Address, password: &str, may: bool) -> Result<Vec<u8>> {
        if !may {
            let message = format!("`{address}` wants the password as it is, without TLS");
            return Err(Error::invalid(message).with_hint(
                "switch TLS on with `?sslmode=verify-full`, or reach the server by `?socket=PATH`",
            ));
        }
        let mut answer = Vec::with_capacity(password.len() + 1);
        push_text(&mut answer, password);
        Ok(answer)
    }

    /// Runs a statement; its rows, as text.
    pub(super) fn query(&mut self, sql: &str, doing: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.command(QUERY, sql.as_bytes())?;
        if self.columns_to_come(doing)?.is_none() {
            return Ok(Vec::new());
        }
        let mut rows = Vec::new();
        while let Some(row) = self.row(doing)? {
            let mut rest = Reader(row);
            let mut cells = Vec::new();
            while !rest.0.is_empty() {
                cells.push(match rest.0[0] {
                    NULL => rest.bytes(1).map(|_| None),
                    _ => rest.string().map(|cell| Some(String::from_utf8_lossy(cell).into_owned())),
                });
            }
            let cells = cells.into_iter().collect::<Option<Vec<_>>>();
            rows.push(cells.ok_or_else(|| self.broken("sends a row cut off"))?);
        }
        Ok(rows)
    }

    /// Prepares a statement, which tells its columns.
    pub(super) fn prepare(&mut self, sql: &str, doing: &str) -> Result<Statement> {
        self.command(PREPARE, sql.as_bytes())?;
        let body = self.packet()?;
        if self.body(&body).first() == Some(&ERROR) {
            return Err(self.refused(&body, doing));
        }
        let mut rest = Reader(self.body(&body));
        let head = (|| Some((rest.byte()?, rest.int32()?, rest.int16()?, rest.int16()?)))();
        let Some((OK, id, columns, parameters)) = head else {
            return Err(self.broken("prepares what was not asked"));
        };
        if parameters > 0 {
            self.described(parameters.into())?;
        }
        let columns = if columns > 0 { self.described(columns.into())? } else { Vec::new() };
        if parameters > 0 {
            return Err(Error::invalid(format!("cannot {doing}: there is a `?` in it"))
                .with_hint("mend `where` or `query` of the source: nothing is filled in"));
        }
        Ok(Statement { id, columns })
    }

    /// Begins to read a prepared statement, whose columns are described once more; then [`Connection::row`] gives its rows.
    pub(super) fn execute(&mut self, statement: &Statement, doing: &str) -> Result<Vec<Described>> {
        let mut body = statement.id.to_le_bytes().to_vec();
        // No cursor: the rows come as they are found. It runs once.
        body.extend_from_slice(&[0, 1, 0, 0, 0]);
        self.command(EXECUTE, &body)?;
        self.columns_to_come(doing)?
            .ok_or_else(|| Error::invalid(format!("cannot {doing}: it gives no rows")))
    }

    /// The server forgets a statement.
    pub(super) fn close(&mut self, statement: &Statement) -> Result<()> {
        self.command(CLOSE, &statement.id.to_le_bytes())
    }

    /// The next row; `None` at the end.
    #[inline]
    pub(super) fn row(&mut self, doing: &str) -> Result<Option<&[u8]>> {
        let body = self.packet()?;
        match self.body(&body) {
            [ERROR, ..] => Err(self.refused(&body, doing)),
            [END, rest @ ..] if rest.len() < 8 => Ok(None),
            _ => Ok(Some(self.body(&body))),
        }
    }

    /// What the answer to a statement begins with: its columns, or `None` when there are none.
    fn columns_to_come(&mut self, doing: &str) -> Result<Option<Vec<Described>>> {
        let body = self.packet()?;
        match self.body(&body) {
            [ERROR, ..] => Err(self.refused(&body, doing)),
            [OK, ..] => Ok(None),
            [NULL, ..] => Err(self.broken("asks for a file")),
            body => match Reader(body).number() {
                Some(count) => self.described(count).map(Some),
                None => Err(self.broken("describes what was not asked")),
            },
        }
    }

    /// `count` columns, and the packet that ends them.
    fn described(&mut self, count: u64) -> Result<Vec<Described>> {
        let mut columns = Vec::new();
        for _ in 0..count {
            let body = self.packet()?;
            let column = Described::read(Reader(self.body(&body)));
            columns.push(column.ok_or_else(|| self.broken("describes columns cut off"))?);
        }
        let body = self.packet()?;
        match self.body(&body).first() {
            Some(&END) => Ok(columns),
            _ => Err(self.broken("describes more than it said")),
        }
    }

    /// The next packet.
    #[inline]
    fn packet(&mut self) -> Result<Body> {
        if !self.joined.is_empty() {
            self.joined = Vec::new();
        }
        let piece = self.piece(0)?;
        if piece.len() < WHOLE_PACKET {
            return Ok(Body::Block(piece));
        }
        self.joined.extend_from_slice(self.link.bytes(piece));
        loop {
            let piece = self.piece(self.joined.len())?;
            let is_last = piece.len() < WHOLE_PACKET;
            self.joined.extend_from_slice(self.link.bytes(piece));
            if is_last {
                return Ok(Body::Joined);
            }
        }
    }

    #[inline]
    fn piece(&mut self, before: usize) -> Result<Range<usize>> {
        let head = self.link.have(4)?;
        let size = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
        if head[3] != self.number {
            return Err(self.broken("sends packets out of order"));
        }
        self.number = self.number.wrapping_add(1);
        if before + size > MOST_MESSAGE_BYTES {
            return Err(too_long(before + size));
        }
        self.link.have(4 + size)?;
        let taken = self.link.take(4 + size);
        Ok(taken.start + 4..taken.end)
    }

    #[inline]
    fn body(&self, body: &Body) -> &[u8] {
        match body {
            Body::Block(taken) => self.link.bytes(taken.clone()),
            Body::Joined => &self.joined,
        }
    }

    fn command(&mut self, command: u8, body: &[u8]) -> Result<()> {
        self.number = 0;
        let mut message = Vec::with_capacity(body.len() + 1);
        message.push(command);
        message.extend_from_slice(body);
        self.send(&message)
    }

    fn send(&mut self, body: &[u8]) -> Result<()> {
        let size = u32::try_from(body.len()).ok().filter(|size| *size < 0xff_ffff);
        let size = size.ok_or_else(|| Error::invalid("a statement is longer than a database takes"))?;
        let mut message = Vec::with_capacity(body.len() + 4);
        message.extend_from_slice(&size.to_le_bytes()[..3]);
        message.push(self.number);
        message.extend_from_slice(body);
        self.number = self.number.wrapping_add(1);
        self.link.send(&message)
    }

    fn broken(&self, how: &str) -> Error {
        Error::invalid(format!("`{}` {how}", self.link.name()))
            .with_hint("is it a server of MySQL or MariaDB?")
    }

    fn refused(&self, body: &Body, doing: &str) -> Error {
        refused(self.body(body), doing)
    }
}

/// What a server says first.
struct Greeting {
    capabilities: u32,
    nonce: Vec<u8>,
    /// The way of logging in that it would take.
    way: String,
    is_mariadb: bool,
}

impl Greeting {
    fn read(body: &[u8]) -> Option<Greeting> {
        let mut rest = Reader(body);
        if rest.byte()? != 10 {
            return None;
        }
        let version = rest.text()?;
        // The connection's number.
        rest.int32()?;
        let mut nonce = rest.bytes(8)?.to_vec();
        rest.byte()?;
        let low = rest.int16()?;
        // Character set and state.
        rest.bytes(3)?;
        let high = rest.int16()?;
        let nonce_bytes = usize::from(rest.byte()?);
        rest.bytes(10)?;
        nonce.extend_from_slice(without_zero(rest.bytes(nonce_bytes.saturating_sub(8).max(13))?));
        let way = rest.text().unwrap_or(rest.0);
        Some(Greeting {
            capabilities: u32::from(high) << 16 | u32::from(low),
            nonce,
            way: String::from_utf8_lossy(way).into_owned(),
            is_mariadb: memchr::memmem::find(version, b"MariaDB").is_some(),
        })
    }
}

/// What an answer to the greeting begins with; this alone asks for TLS.
fn opening(capabilities: u32) -> Vec<u8> {
    let mut message = capabilities.to_le_bytes().to_vec();
    message.extend_from_slice(&u32::try_from(MOST_MESSAGE_BYTES).unwrap_or(u32::MAX).to_le_bytes());
    message.push(UTF8MB4);
    message.extend_from_slice(&[0; 23]);
    message
}

/// The answer by a way that hashes.
fn hashed(way: &str, password: &str, nonce: &[u8]) -> Option<Vec<u8>> {
    match way {
        NATIVE => Some(native_answer(password, nonce)),
        SHA2 => Some(sha2_answer(password, nonce)),
        _ => None,
    }
}

fn unknown_way(address: &Address, way: &str) -> Error {
    let message = format!("`{address}` wants a way of logging in that is not known here: `{way}`");
    Error::invalid(message).with_hint(
        "let the user be identified by `mysql_native_password` (MariaDB) or `caching_sha2_password` (MySQL)",
    )
}

/// From an `ERR` packet: what is wrong with the statement stays wrong, what is wrong with the server passes.
fn refused(body: &[u8], doing: &str) -> Error {
    let mut rest = Reader(body.get(1..).unwrap_or_default());
    let code = rest.int16().unwrap_or_default();
    // Before the login there is no SQLSTATE.
    let told = match rest.0 {
        [b'#', state @ ..] if state.len() >= 5 => &state[5..],
        told => told,
    };
    let told = String::from_utf8_lossy(told).into_owned();
    let (kind, hint) = match code {
        1045 | 1251 | 1698 | 1820 | 1862 | 3118 | 4151 => {
            (Kind::Unavailable, "mend the user or its password, here or in the database: it is tried again")
        }
        1129 | 1130 => {
            (Kind::Unavailable, "let the server take connections from this machine: it is tried again")
        }
        1044 | 1049 => (
            Kind::Unavailable,
            "mend `url`, create the database, or let the user read it (`GRANT SELECT ON … TO …`): it is tried again",
        ),
        1142 | 1143 | 1227 | 1356 | 1370 => (Kind::Invalid, "let the user read it: `GRANT SELECT ON … TO …`"),
        // Too many connections, stopped, killed, out of memory or disk, locks, timeouts, a table changed after the snapshot.
        1021
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
        | 1412
        | 1613..=1614
        | 1637
        | 1927
        | 1969
        | 3024
        | 3169
        | 4031 => (Kind::Unavailable, "it is tried again"),
        1051 | 1052 | 1054 | 1060 | 1064 | 1066 | 1109 | 1146 | 1248 | 1295 | 1305 | 1792 => {
            (Kind::Invalid, "mend `table`, `columns`, `where` or `query` of the source")
        }
        1153 => (
            Kind::Invalid,
            "let the server's `max_allowed_packet` be larger, or leave the column out with `columns`",
        ),
        _ => (Kind::Invalid, "the database says what is wrong"),
    };
    let error =
        Error::new(kind, format!("cannot {doing}")).with_source(format!("{told} [{code}]")).with_hint(hint);
    match code {
        1146 => error.with_sqlstate(NO_SUCH_TABLE),
        1044 | 1142 | 1143 | 1227 => error.with_sqlstate(NOT_ALLOWED),
        1205 => error.with_sqlstate(LOCK_NOT_GIVEN),
        _ => error,
    }
}

/// SQLSTATE of what the user may not do, and of a lock that was not given in time, where the server's own say less.
pub(super) const NOT_ALLOWED: &str = "42501";
pub(super) const LOCK_NOT_GIVEN: &str = "55P03";

/// Takes numbers, little end first, and bytes from the front.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    #[inline]
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    #[inline]
    pub(super) fn int16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub(super) fn int32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A number of one to nine bytes.
    #[inline]
    pub(super) fn number(&mut self) -> Option<u64> {
        Some(match self.byte()? {
            0xfc => self.int16()?.into(),
            0xfd => {
                let [a, b, c] = self.array()?;
                u32::from_le_bytes([a, b, c, 0]).into()
            }
            0xfe => self.array().map(u64::from_le_bytes)?,
            0xfb | 0xff => return None,
            small => small.into(),
        })
    }

    /// Bytes after their number.
    #[inline]
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let size = usize::try_from(self.number()?).ok()?;
        self.bytes(size)
    }

    /// Up to a zero byte.
    fn text(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(0, self.0)?;
        let text = self.bytes(end)?;
        self.bytes(1)?;
        Some(text)
    }
}

fn without_zero(bytes: &[u8]) -> &[u8] {
    bytes.strip_suffix(&[0]).unwrap_or(bytes)
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

#[cfg(test)]
mod tests;
