//! The connection to a broker: bytes in, packets out, and the word that both sides are there.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};
use tarn_model::config::MqttConfig;
use tarn_model::{Error, Result};

use super::packet::{self, Packet, Unpacker};
use crate::lines::Limits;
use crate::trust::{distrust, distrusted, shake_hands, trusting};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A broker that takes nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time without a look at the stop signal.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const BLOCK_BYTES: usize = 64 << 10;

/// One connection.
pub(super) struct Link {
    broker: String,
    stream: Wire,
    unpacker: Unpacker,
    block: Vec<u8>,
    keep_alive: Duration,
    /// When something was sent last.
    sent: Instant,
    /// When the broker was asked for a sign of life, of which none came since.
    asked: Option<Instant>,
    blocking: bool,
}

/// Its bytes, plain or through TLS.
enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    fn socket(&self) -> &TcpStream {
        match self {
            Wire::Plain(stream) => stream,
            Wire::Tls(stream) => stream.get_ref(),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read(bytes),
            Wire::Tls(stream) => stream.read(bytes),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.write(bytes),
            Wire::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(stream) => stream.flush(),
            Wire::Tls(stream) => stream.flush(),
        }
    }
}

impl Link {
    /// Connects, with the session `name`; whether the broker knows that already.
    pub(super) fn open(config: &MqttConfig, name: &str, limits: Limits) -> Result<(Link, bool)> {
        let failed = unreachable(&config.broker);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut found = None;
        for address in config.broker.to_socket_addrs().map_err(&failed)? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    found = Some(stream);
                    break;
                }
                Err(error) => last = error,
            }
        }
        let Some(stream) = found else { return Err(failed(last)) };
        stream.set_nodelay(true).map_err(&failed)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT)).map_err(&failed)?;
        stream.set_read_timeout(Some(LOOK_EVERY)).map_err(&failed)?;
        let stream = if config.tls { secured(config, stream)? } else { Wire::Plain(stream) };
        let mut link = Link {
            broker: config.broker.clone(),
            stream,
            unpacker: Unpacker::new(limits),
            block: vec![0; BLOCK_BYTES],
            keep_alive: config.keep_alive.0,
            sent: Instant::now(),
            asked: None,
            blocking: true,
        };
        let keep_alive_s = u16::try_from(config.keep_alive.0.as_secs()).unwrap_or(u16::MAX);
        let password = config.password.as_ref().map(|password| password.reveal());
        let login = config.user.as_deref().map(|user| (user, password));
        link.send(&packet::connect(name, keep_alive_s, login))?;
        match link.answer(|packet| matches!(packet, Packet::Connected { .. }), &mut Vec::new())? {
            Packet::Connected { session_present, code: 0 } => Ok((link, session_present)),
            Packet::Connected { code, .. } => Err(refused(&config.broker, code)),
            _ => Err(Error::internal("another packet was waited for")),
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.block_on_reads(true)?;
        let sent = self.stream.write_all(bytes).and_then(|()| self.stream.flush());
        sent.map_err(unreachable(&self.broker))?;
        self.sent = Instant::now();
        Ok(())
    }

    /// The next packet; `None` when none is there: after a moment if it `waits`, or else at once.
    pub(super) fn next(&mut self, waits: bool) -> Result<Option<Packet>> {
        loop {
            if let Some(packet) = self.unpacker.next()? {
                return Ok(Some(packet));
            }
            self.block_on_reads(waits)?;
            match self.stream.read(&mut self.block) {
                Ok(0) => {
                    let ended =
                        io::Error::new(io::ErrorKind::ConnectionReset, "the broker ended the connection");
                    return Err(unreachable(&self.broker)(ended));
                }
                Ok(count) => {
                    self.asked = None;
                    self.unpacker.feed(&self.block[..count]);
                    self.stay_alive()?;
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    self.stay_alive()?;
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreachable(&self.broker)(error)),
            }
        }
    }

    /// The packet that is `wanted`; what comes before it goes to `others`.
    pub(super) fn answer(
        &mut self,
        wanted: impl Fn(&Packet) -> bool,
        others: &mut Vec<Packet>,
    ) -> Result<Packet> {
        let since = Instant::now();
        loop {
            match self.next(true)? {
                Some(packet) if wanted(&packet) => return Ok(packet),
                Some(packet) => others.push(packet),
                None => {}
            }
            if since.elapsed() > CONNECT_TIMEOUT {
                let late = io::Error::new(io::ErrorKind::TimedOut, "the broker does not answer");
                return Err(unreachable(&self.broker)(late));
            }
        }
    }

    /// Says that we are there, while nothing is read from the broker.
    pub(super) fn say_alive(&mut self) -> Result<()> {
        match self.sent.elapsed() > self.keep_alive / 2 {
            true => self.send(&packet::PING),
            false => Ok(()),
        }
    }

    /// Says that we are there, and makes sure that the broker is.
    fn stay_alive(&mut self) -> Result<()> {
        match self.asked {
            Some(asked) if asked.elapsed() > self.keep_alive => {
                let silent = io::Error::new(io::ErrorKind::TimedOut, "the broker does not answer");
                return Err(unreachable(&self.broker)(silent));
            }
            None if self.sent.elapsed() > self.keep_alive / 2 => {
                self.send(&packet::PING)?;
                self.asked = Some(Instant::now());
            }
            _ => {}
        }
        Ok(())
    }

    fn block_on_reads(&mut self, blocking: bool) -> Result<()> {
        if self.blocking != blocking {
            self.stream.socket().set_nonblocking(!blocking).map_err(unreachable(&self.broker))?;
            self.blocking = blocking;
        }
        Ok(())
    }
}

/// Speaks TLS from here on, once the broker's certificate is found to be this host's.
fn secured(config: &MqttConfig, mut stream: TcpStream) -> Result<Wire> {
    const HINT: &str = "look whether it speaks TLS there; name its authority's certificates with `tls_ca`";
    let host = config.broker.rsplit_once(':').map_or(config.broker.as_str(), |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let trusted = trusting(config.tls_ca.as_deref(), &config.broker, HINT)?;
    let shaken = shake_hands(trusted, host, &mut stream, Instant::now() + CONNECT_TIMEOUT);
    let connection = shaken.map_err(|error| match distrust(&error) {
        Some(cause) => distrusted(&config.broker, HINT, cause),
        None => unreachable(&config.broker)(error),
    })?;
    Ok(Wire::Tls(Box::new(StreamOwned::new(connection, stream))))
}

fn unreachable(broker: &str) -> impl Fn(io::Error) -> Error {
    let broker = broker.to_owned();
    move |error| Error::unavailable(format!("the broker at `{broker}` cannot be reached")).with_source(error)
}

fn refused(broker: &str, code: u8) -> Error {
    let (why, hint) = match code {
        1 => ("it does not speak MQTT 3.1.1", "3.1.1 is what this source speaks"),
        2 => ("it does not like the name of the session", "set `client_id` to another one"),
        3 => ("it is not available", "it is tried again"),
        4 => ("user or password are wrong", "set `user` and `password` to what the broker knows"),
        _ => ("the user may not connect", "give the user the right to connect, in the broker"),
    };
    Error::unavailable(format!("the broker at `{broker}` refuses the connection: {why}")).with_hint(hint)
}
