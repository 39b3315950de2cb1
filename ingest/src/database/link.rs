//! A connection to a server that blocks: its socket, plain or through TLS, and the block of bytes that was read from it.
//!
//! *Why our own*: what is read must have a bound before it is in memory, and rows must reach their reader without being
//! copied or passed between threads. The clients there are take a message of any size whole, and read on a runtime's threads.
//!
//! ```text
//! server ──▶ one block of bytes ──▶ messages, each a slice of it ──▶ rows, each a slice of its message
//! ```
//!
//! *Invariants*: the block holds one message and what was read with it; a protocol bounds its messages by
//! [`MOST_MESSAGE_BYTES`]. Whoever waits for the server looks at the stop signal each half second.
//!
//! *Failure*: a connection that failed is dropped, never used again: the server ends what it did for it.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};
use socket2::{SockRef, TcpKeepalive};
use tarn_model::{Error, Result};

use super::address::{Address, Host, Tls};
use crate::stop::Stop;
use crate::trust::{distrust, distrusted, is_waiting, shake_hands, trusting};

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

/// A connection to a server.
pub(super) struct Link {
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

impl Link {
    /// Connects, without TLS.
    pub(super) fn open(address: &Address, stop: Arc<Stop>) -> Result<Link> {
        let until = Instant::now() + LONGEST_LOGIN;
        let reached = match &address.host {
            Host::Unix(path) => UnixStream::connect(path).and_then(|stream| {
                stream.set_read_timeout(Some(LOOK_EVERY))?;
                stream.set_write_timeout(Some(LONGEST_SILENCE))?;
                Ok(Stream::Unix(stream))
            }),
            Host::Tcp(host, port) => reach(host, *port, until).map(Stream::Tcp),
        };
        let name = address.to_string();
        let stream = reached.map_err(|error| unreachable(&name, error))?;
        let block = vec![0; BLOCK_BYTES];
        Ok(Link { stream, block, start: 0, end: 0, stop, until: Some(until), name })
    }

    /// Speaks TLS from now on, once the server's certificate is found to be this host's.
    pub(super) fn secure(self, host: &Host, tls: &Tls) -> Result<Link> {
        let (Stream::Tcp(mut stream), Host::Tcp(host, _)) = (self.stream, host) else {
            return Err(Error::internal("TLS goes over TCP"));
        };
        let (name, until) = (self.name, self.until.unwrap_or_else(|| Instant::now() + LONGEST_LOGIN));
        if self.start != self.end {
            let message = format!("`{name}` says something before TLS has begun");
            return Err(Error::unavailable(message).with_hint("somebody may stand in between"));
        }
        const HINT: &str = "name its authority's certificate with `sslrootcert=FILE`, or go without TLS with `sslmode=disable`";
        let config = trusting(tls.root.as_deref(), &name, HINT)?;
        let connection = shake_hands(config, host, &mut stream, until);
        let connection = connection.map_err(|error| match distrust(&error) {
            Some(cause) => distrusted(&name, HINT, cause),
            None => unreachable(&name, error),
        })?;
        let stream = Stream::Tls(Box::new(StreamOwned::new(connection, stream)));
        Ok(Link { stream, name, ..self })
    }

    /// The login is over.
    pub(super) fn logged_in(&mut self) {
        self.until = None;
    }

    /// What the server is called in messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether nobody can listen: through TLS, or without leaving this machine.
    pub(super) fn is_secret(&self) -> bool {
        match &self.stream {
            Stream::Tcp(stream) => stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback()),
            Stream::Unix(_) | Stream::Tls(_) => true,
        }
    }

    /// Whether a server sees that nobody can listen.
    pub(super) fn is_seen_to_be_secret(&self) -> bool {
        !matches!(self.stream, Stream::Tcp(_))
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let writer = self.stream.as_writer();
        writer.write_all(bytes).and_then(|()| writer.flush()).map_err(|error| self.lost(error))
    }

    /// Waits until `count` bytes are there.
    #[inline]
    pub(super) fn have(&mut self, count: usize) -> Result<&[u8]> {
        while self.end - self.start < count {
            self.fill(count)?;
        }
        Ok(&self.block[self.start..self.start + count])
    }

    /// Takes bytes that are there; where in the block they are until more is asked for.
    #[inline]
    pub(super) fn take(&mut self, count: usize) -> Range<usize> {
        let taken = self.start..self.start + count;
        self.start += count;
        taken
    }

    #[inline]
    pub(super) fn bytes(&self, taken: Range<usize>) -> &[u8] {
        &self.block[taken]
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

    fn lost(&self, error: io::Error) -> Error {
        Error::unavailable(format!("the connection to `{}` is lost", self.name))
            .with_hint("look whether the server runs: it is tried again")
            .with_source(error)
    }
}

/// A message of `bytes` bytes is longer than what is read.
pub(super) fn too_long(bytes: usize) -> Error {
    let message = format!("a row has {bytes} bytes: more than {MOST_MESSAGE_BYTES} are not read");
    Error::invalid(message).with_hint(
        "leave the column out with `columns`, leave the row out with `where`, or read a part of it with a `query`",
    )
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

fn unreachable(name: &str, error: io::Error) -> Error {
    Error::unavailable(format!("cannot reach `{name}`"))
        .with_hint("look whether the server runs and listens there: it is tried again")
        .with_source(error)
}
