//! A connection that blocks: PostgreSQL's protocol 3.0, as far as reading needs it.
//!
//! *Not here*: the socket, TLS and the block that messages are slices of: [`Link`].

mod writing;

use std::ops::Range;
use std::sync::Arc;

use tarn_model::{Error, Kind, Result, clock};

pub(crate) use writing::Writer;

use super::login::md5_answer;
use crate::database::NO_SUCH_TABLE;
use crate::database::address::Address;
use crate::database::link::{Link, MOST_MESSAGE_BYTES, too_long};
use crate::scram::{Hash, Scram};
use crate::stop::Stop;

const SCRAM: Hash = Hash::Sha256;
/// What asks for TLS, in place of a protocol's version.
const ASK_FOR_TLS: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) name: String,
    pub(super) type_id: u32,
    pub(super) modifier: i32,
}

/// A connection to a server.
pub(super) struct Connection {
    link: Link,
}

impl Connection {
    /// Connects and logs in.
    pub(super) fn open(address: &Address, stop: Arc<Stop>) -> Result<Connection> {
        let mut link = Link::open(address, stop)?;
        if let Some(tls) = &address.tls {
            link.send(&ASK_FOR_TLS)?;
            if link.have(1)? != b"S" {
                return Err(Error::invalid(format!("`{address}` speaks no TLS"))
                    .with_hint("switch it on there (`ssl = on`), or go without with `sslmode=disable`"));
            }
            link.take(1);
            link = link.secure(&address.host, tls)?;
        }
        let mut connection = Connection { link };
        connection.log_in(address)?;
        connection.link.logged_in();
        Ok(connection)
    }

    fn log_in(&mut self, address: &Address) -> Result<()> {
        let mut startup = Vec::new();
        startup.extend_from_slice(&(3_i32 << 16).to_be_bytes());
        let parameters = [
            ("user", address.user.as_str()),
            ("database", &address.database),
            ("application_name", "tarn"),
            ("client_encoding", "UTF8"),
        ];
        for (name, value) in parameters {
            push_text(&mut startup, name);
            push_text(&mut startup, value);
        }
        startup.push(0);
        self.send(None, &startup)?;
        let mut scram = None;
        loop {
            let (kind, body) = self.message()?;
            match kind {
                b'R' => {
                    let body = self.link.bytes(body).to_vec();
                    self.authenticate(address, &body, &mut scram)?;
                }
                b'E' => return Err(self.refused(body, "log in")),
                b'Z' => return Ok(()),
                // Parameters, the key to cancel with, notices.
                b'S' | b'K' | b'N' => {}
                b'v' => return Err(self.broken("speaks another protocol")),
                _ => return Err(self.broken("answers what was not asked")),
            }
        }
    }

    fn authenticate(&mut self, address: &Address, body: &[u8], scram: &mut Option<Scram>) -> Result<()> {
        let password = || {
            address.password.as_ref().map(|password| password.reveal()).ok_or_else(|| {
                Error::unavailable(format!("`{address}` wants a password for `{}`", address.user))
                    .with_hint("add `password = \"${PG_PASSWORD}\"` to the source: it is tried again")
            })
        };
        let not_who_it_says =
            |what: &str| Error::unavailable(format!("cannot log in at `{address}`: {what}"));
        let text = |from: usize| String::from_utf8_lossy(body.get(from..).unwrap_or_default()).into_owned();
        match body.get(..4).map(|code| i32::from_be_bytes([code[0], code[1], code[2], code[3]])) {
            Some(0) => Ok(()),
            Some(3) => {
                if !self.link.is_secret() {
                    let message = format!("`{address}` wants the password as it is, without TLS");
                    return Err(Error::invalid(message).with_hint(
                        "switch TLS on with `?sslmode=verify-full`, or let the server use scram-sha-256",
                    ));
                }
                self.send_text(b'p', password()?)
            }
            Some(5) => self.send_text(b'p', &md5_answer(&address.user, password()?, &body[4..])),
            Some(10) => {
                if !text(4).split('\0').any(|mechanism| mechanism == SCRAM.mechanism()) {
                    return Err(not_who_it_says("it does not offer SCRAM-SHA-256"));
                }
                let begun = Scram::new(SCRAM, "", password()?, clock::new_id().simple().to_string());
                let first = begun.first();
                let mut message = Vec::new();
                push_text(&mut message, SCRAM.mechanism());
                message.extend_from_slice(&length(first.len()).to_be_bytes());
                message.extend_from_slice(first.as_bytes());
                *scram = Some(begun);
                self.send(Some(b'p'), &message)
            }
            Some(11) => {
                let scram =
                    scram.as_mut().ok_or_else(|| not_who_it_says("it goes on with what was not begun"))?;
                let answer = scram.answer(&text(4)).map_err(not_who_it_says)?;
                self.send(Some(b'p'), answer.as_bytes())
            }
            Some(12) => {
                let scram = scram.as_ref().ok_or_else(|| not_who_it_says("it ends what was not begun"))?;
                scram.verify(&text(4)).map_err(not_who_it_says)
            }
            _ => Err(Error::invalid(format!("`{address}` wants a way of logging in that is not known here"))
                .with_hint("let `pg_hba.conf` have `scram-sha-256` for this role")),
        }
    }

    /// Runs one or more statements; the rows of them all, as text.
    pub(super) fn query(&mut self, sql: &str, doing: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.send_text(b'Q', sql)?;
        let (mut rows, mut failed) = (Vec::new(), None);
        loop {
            let (kind, body) = self.message()?;
            match kind {
                b'D' => {
                    rows.push(texts(self.link.bytes(body)).ok_or_else(|| self.broken("sends a row cut off"))?)
                }
                b'E' => failed = Some(self.refused(body, doing)),
                b'Z' => return failed.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    /// The columns that a query would give.
    pub(super) fn describe(&mut self, sql: &str, doing: &str) -> Result<Vec<Described>> {
        let mut parse = vec![0];
        push_text(&mut parse, sql);
        parse.extend_from_slice(&[0, 0]);
        self.send(Some(b'P'), &parse)?;
        self.send(Some(b'D'), b"S\0")?;
        self.send(Some(b'S'), b"")?;
        let (mut columns, mut failed) = (Vec::new(), None);
        loop {
            let (kind, body) = self.message()?;
            match kind {
                b'T' => {
                    columns = described(self.link.bytes(body))
                        .ok_or_else(|| self.broken("describes columns cut off"))?
                }
                b'E' => failed = Some(self.refused(body, doing)),
                b'Z' => return failed.map_or(Ok(columns), Err),
                _ => {}
            }
        }
    }

    /// Begins `COPY … TO STDOUT`; then [`Connection::copied`] gives what comes.
    pub(super) fn copy_out(&mut self, sql: &str, doing: &str) -> Result<()> {
        self.send_text(b'Q', sql)?;
        let mut failed = None;
        loop {
            let (kind, body) = self.message()?;
            match kind {
                b'H' => return Ok(()),
                b'E' => failed = Some(self.refused(body, doing)),
                b'Z' => return Err(failed.unwrap_or_else(|| self.broken("copies nothing"))),
                _ => {}
            }
        }
    }

    /// The next piece of what is copied; `None` at its end.
    #[inline]
    pub(super) fn copied(&mut self, doing: &str) -> Result<Option<&[u8]>> {
        let mut failed = None;
        loop {
            let (kind, body) = self.message()?;
            match kind {
                b'd' => return Ok(Some(self.link.bytes(body))),
                b'E' => failed = Some(self.refused(body, doing)),
                b'Z' => return failed.map_or(Ok(None), Err),
                _ => {}
            }
        }
    }

    /// The next message's kind, and where in the block its body is until the next one is asked for.
    #[inline]
    fn message(&mut self) -> Result<(u8, Range<usize>)> {
        let head = self.link.have(5)?;
        let (kind, size) = (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize);
        if size < 4 {
            return Err(self.broken("sends a message shorter than itself"));
        }
        if size > MOST_MESSAGE_BYTES {
            return Err(too_long(size));
        }
        self.link.have(1 + size)?;
        let message = self.link.take(1 + size);
        Ok((kind, message.start + 5..message.end))
    }

    fn send_text(&mut self, kind: u8, text: &str) -> Result<()> {
        if text.contains('\0') {
            return Err(Error::invalid("what is sent to the database holds a zero byte"));
        }
        let mut body = Vec::with_capacity(text.len() + 1);
        push_text(&mut body, text);
        self.send(Some(kind), &body)
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<()> {
        let mut message = Vec::with_capacity(body.len() + 5);
        message.extend(kind);
        message.extend_from_slice(&length(body.len() + 4).to_be_bytes());
        message.extend_from_slice(body);
        self.link.send(&message)
    }

    fn broken(&self, how: &str) -> Error {
        Error::invalid(format!("`{}` {how}", self.link.name())).with_hint("is it a PostgreSQL server?")
    }

    /// What the server's error means.
    fn refused(&self, body: Range<usize>, doing: &str) -> Error {
        refused(self.link.bytes(body), doing)
    }
}

/// From an `ErrorResponse`: what is wrong with the statement stays wrong, what is wrong with the server passes.
fn refused(body: &[u8], doing: &str) -> Error {
    let field = |kind: u8| {
        body.split(|byte| *byte == 0).find_map(|field| match field {
            [first, rest @ ..] if *first == kind => Some(String::from_utf8_lossy(rest).into_owned()),
            _ => None,
        })
    };
    let code = field(b'C').unwrap_or_default();
    let (kind, hint) = match code.get(..2).unwrap_or_default() {
        "28" => {
            (Kind::Unavailable, "mend the role or its password, here or in the database: it is tried again")
        }
        "3D" => (Kind::Unavailable, "mend `url`, or create the database: it is tried again"),
        "08" | "53" | "57" | "58" | "40" | "55" | "25" => (Kind::Unavailable, "it is tried again"),
        "42" if code == "42501" => (Kind::Invalid, "let the role read it: `GRANT SELECT ON … TO …`"),
        "42" => (Kind::Invalid, "mend `table`, `columns`, `where` or `query` of the source"),
        _ => (Kind::Invalid, "the database says what is wrong"),
    };
    let mut told = field(b'M').unwrap_or_default();
    for more in [b'D', b'W'].into_iter().filter_map(field) {
        told = format!("{told} ({})", more.replace('\n', "; "));
    }
    let error = Error::new(kind, format!("cannot {doing}")).with_source(format!("{told} [{code}]"));
    let error = error.with_hint(field(b'H').unwrap_or_else(|| hint.to_owned()));
    if code == NO_SUCH_TABLE { error.with_sqlstate(NO_SUCH_TABLE) } else { error }
}

/// The cells of a `DataRow` in text form.
fn texts(body: &[u8]) -> Option<Vec<Option<String>>> {
    let mut rest = Taking(body);
    let count = rest.int16()?;
    let mut cells = Vec::new();
    for _ in 0..count {
        let size = rest.int32()?;
        cells.push(match usize::try_from(size) {
            Ok(size) => Some(String::from_utf8_lossy(rest.bytes(size)?).into_owned()),
            Err(_) => None,
        });
    }
    Some(cells)
}

/// The columns of a `RowDescription`.
fn described(body: &[u8]) -> Option<Vec<Described>> {
    let mut rest = Taking(body);
    let count = rest.int16()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let name = String::from_utf8_lossy(rest.text()?).into_owned();
        // The table and its column's number come first, the type's size between.
        rest.bytes(6)?;
        let type_id = rest.int32()?.cast_unsigned();
        rest.bytes(2)?;
        let modifier = rest.int32()?;
        rest.bytes(2)?;
        columns.push(Described { name, type_id, modifier });
    }
    Some(columns)
}

/// Takes numbers and bytes from the front.
pub(super) struct Taking<'a>(pub(super) &'a [u8]);

impl<'a> Taking<'a> {
    #[inline]
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    #[inline]
    pub(super) fn int16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    #[inline]
    pub(super) fn int32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    /// Up to a zero byte.
    fn text(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(0, self.0)?;
        let text = self.bytes(end)?;
        self.bytes(1)?;
        Some(text)
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// A length as the protocol has it; what we send is far below its limit.
fn length(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}
