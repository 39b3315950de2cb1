//! A connection that blocks: PostgreSQL's protocol 3.0, as far as reading needs it.
//!
//! *Why our own*: what is read must have a bound before it is in memory, and rows must reach their reader without being
//! copied or passed between threads. The clients there are take a message of any size whole, and read on a runtime's threads.
//!
//! ```text
//! server ──▶ one block of bytes ──▶ messages, each a slice of it ──▶ rows, each a slice of its message
//! ```
//!
//! *Invariants*: no message is longer than [`MOST_MESSAGE_BYTES`]. Whoever waits for the server looks at the stop signal
//! each half second.
//!
//! *Failure*: a connection that failed is dropped, never used again: the server ends what it did for it.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use socket2::{SockRef, TcpKeepalive};
use tarn_model::{Error, Kind, Result, clock};

use super::address::{Address, Host, Tls};
use super::login::{SCRAM, Scram, md5_answer};
use crate::source::Stop;

/// Longest message, and so the longest row.
pub(super) const MOST_MESSAGE_BYTES: usize = 64 << 20;
/// First size of the block, and the size that it has again after a long message.
const BLOCK_BYTES: usize = 256 << 10;
/// How long a server may take to be there and to know who asks.
const LONGEST_LOGIN: Duration = Duration::from_secs(15);
/// Time between two looks at the stop signal.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After so long without an answer of its machine the server is gone.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) name: String,
    pub(super) type_id: u32,
    pub(super) modifier: i32,
}

/// A connection to a server.
pub(super) struct Connection {
    stream: Stream,
    block: Vec<u8>,
    start: usize,
    end: usize,
    stop: Arc<Stop>,
    /// The login must be over by then.
    until: Option<Instant>,
    name: String,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn as_reader(&mut self) -> &mut dyn Read {
        match self {
            Stream::Tcp(stream) => stream,
            Stream::Unix(stream) => stream,
            Stream::Tls(stream) => stream,
        }
    }

    fn as_writer(&mut self) -> &mut dyn Write {
        match self {
            Stream::Tcp(stream) => stream,
            Stream::Unix(stream) => stream,
            Stream::Tls(stream) => stream,
        }
    }
}

impl Connection {
    /// Connects and logs in.
    pub(super) fn open(address: &Address, stop: Arc<Stop>) -> Result<Connection> {
        let until = Instant::now() + LONGEST_LOGIN;
        let stream = match &address.host {
            Host::Unix(path) => UnixStream::connect(path)
                .and_then(|stream| {
                    stream.set_read_timeout(Some(LOOK_EVERY))?;
                    Ok(Stream::Unix(stream))
                })
                .map_err(|error| unreachable(address, error))?,
            Host::Tcp(host, port) => {
                let stream = reach(host, *port, until).map_err(|error| unreachable(address, error))?;
                match &address.tls {
                    None => Stream::Tcp(stream),
                    Some(tls) => secured(stream, host, tls, until, address)?,
                }
            }
        };
        let mut connection = Connection {
            stream,
            block: vec![0; BLOCK_BYTES],
            start: 0,
            end: 0,
            stop,
            until: Some(until),
            name: address.to_string(),
        };
        connection.log_in(address)?;
        connection.until = None;
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
                    let body = self.block[body].to_vec();
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
                if matches!(self.stream, Stream::Tcp(_)) && !is_near(&self.stream) {
                    let message = format!("`{address}` wants the password as it is, without TLS");
                    return Err(Error::invalid(message).with_hint(
                        "switch TLS on with `?sslmode=verify-full`, or let the server use scram-sha-256",
                    ));
                }
                self.send_text(b'p', password()?)
            }
            Some(5) => self.send_text(b'p', &md5_answer(&address.user, password()?, &body[4..])),
            Some(10) => {
                if !text(4).split('\0').any(|mechanism| mechanism == SCRAM) {
                    return Err(not_who_it_says("it does not offer SCRAM-SHA-256"));
                }
                let begun = Scram::new(password()?, clock::new_id().simple().to_string());
                let first = begun.first();
                let mut message = Vec::new();
                push_text(&mut message, SCRAM);
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
                    rows.push(texts(&self.block[body]).ok_or_else(|| self.broken("sends a row cut off"))?)
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
                    columns = described(&self.block[body])
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
                b'd' => return Ok(Some(&self.block[body])),
                b'E' => failed = Some(self.refused(body, doing)),
                b'Z' => return failed.map_or(Ok(None), Err),
                _ => {}
            }
        }
    }

    /// The next message's kind, and where in the block its body is until the next one is asked for.
    #[inline]
    fn message(&mut self) -> Result<(u8, Range<usize>)> {
        while self.end - self.start < 5 {
            self.fill(5)?;
        }
        let head = &self.block[self.start..self.start + 5];
        let (kind, size) = (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize);
        if size < 4 {
            return Err(self.broken("sends a message shorter than itself"));
        }
        if size > MOST_MESSAGE_BYTES {
            let message = format!("a row has {size} bytes: more than {MOST_MESSAGE_BYTES} are not read");
            return Err(Error::invalid(message).with_hint(
                "leave the column out with `columns`, leave the row out with `where`, or read a part of it with a `query`",
            ));
        }
        while self.end - self.start < 1 + size {
            self.fill(1 + size)?;
        }
        let body = self.start + 5..self.start + 1 + size;
        self.start += 1 + size;
        Ok((kind, body))
    }

    /// Reads more, so that the block has room for `whole` bytes from its start on.
    #[cold]
    fn fill(&mut self, whole: usize) -> Result<()> {
        if self.start > 0 {
            self.block.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.block.len() < whole {
            self.block.resize(whole.next_power_of_two(), 0);
        } else if self.block.len() > BLOCK_BYTES && whole <= BLOCK_BYTES && self.end <= BLOCK_BYTES {
            self.block.truncate(BLOCK_BYTES);
            self.block.shrink_to_fit();
        }
        loop {
            match self.stream.as_reader().read(&mut self.block[self.end..]) {
                Ok(0) => return Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                Err(error) if is_waiting(&error) => {
                    if self.stop.is_set() {
                        return Err(Error::unavailable("the source is to stop"));
                    }
                    if self.until.is_some_and(|until| Instant::now() > until) {
                        return Err(self.lost(io::ErrorKind::TimedOut.into()));
                    }
                }
                Err(error) => return Err(self.lost(error)),
            }
        }
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
        let writer = self.stream.as_writer();
        writer.write_all(&message).and_then(|()| writer.flush()).map_err(|error| self.lost(error))
    }

    fn lost(&self, error: io::Error) -> Error {
        Error::unavailable(format!("the connection to `{}` is lost", self.name))
            .with_hint("look whether the server runs: it is tried again")
            .with_source(error)
    }

    fn broken(&self, how: &str) -> Error {
        Error::invalid(format!("`{}` {how}", self.name)).with_hint("is it a PostgreSQL server?")
    }

    /// What the server's error means.
    fn refused(&self, body: Range<usize>, doing: &str) -> Error {
        refused(&self.block[body], doing)
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
    if code == super::NO_SUCH_TABLE { error.with_sqlstate(super::NO_SUCH_TABLE) } else { error }
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

fn is_waiting(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn is_near(stream: &Stream) -> bool {
    match stream {
        Stream::Tcp(stream) => stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback()),
        Stream::Unix(_) => true,
        Stream::Tls(_) => false,
    }
}

fn reach(host: &str, port: u16, until: Instant) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        let left = until.saturating_duration_since(Instant::now()).max(LOOK_EVERY);
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(LOOK_EVERY))?;
                stream.set_write_timeout(Some(LONGEST_SILENCE))?;
                let pace = LONGEST_SILENCE / 4;
                let alive = TcpKeepalive::new().with_time(pace).with_interval(pace).with_retries(3);
                SockRef::from(&stream).set_tcp_keepalive(&alive)?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Asks for TLS and speaks it from then on.
fn secured(
    mut stream: TcpStream,
    host: &str,
    tls: &Tls,
    until: Instant,
    address: &Address,
) -> Result<Stream> {
    /// What asks for TLS, in place of a protocol's version.
    const REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    let failed = |error: io::Error| unreachable(address, error);
    let distrusted = |error: rustls::Error| {
        Error::unavailable(format!("`{address}` cannot be trusted"))
            .with_hint("name its authority's certificate with `sslrootcert=FILE`, or go without TLS with `sslmode=disable`")
            .with_source(error)
    };
    stream.write_all(&REQUEST).map_err(failed)?;
    let mut answer = [0];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => break,
            Err(error) if is_waiting(&error) && Instant::now() < until => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if answer != *b"S" {
        return Err(Error::invalid(format!("`{address}` speaks no TLS"))
            .with_hint("switch it on there (`ssl = on`), or go without with `sslmode=disable`"));
    }
    let mut roots = RootCertStore::empty();
    match &tls.root {
        Some(path) => {
            let unreadable = |error| {
                Error::invalid(format!("cannot read the certificates of `{}`", path.display()))
                    .with_source(error)
            };
            for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
                roots.add(certificate.map_err(unreadable)?).map_err(distrusted)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(distrusted)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| Error::invalid(format!("`{host}` is no name of a host")).with_source(error))?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(distrusted)?;
    while connection.is_handshaking() {
        match connection.complete_io(&mut stream) {
            Ok(_) => {}
            Err(error) if is_waiting(&error) && Instant::now() < until => {}
            Err(error) => match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
                Some(cause) => return Err(distrusted(cause.clone())),
                None => return Err(failed(error)),
            },
        }
    }
    Ok(Stream::Tls(Box::new(StreamOwned::new(connection, stream))))
}

fn unreachable(address: &Address, error: io::Error) -> Error {
    Error::unavailable(format!("cannot reach `{address}`"))
        .with_hint("look whether the server runs and listens there: it is tried again")
        .with_source(error)
}
