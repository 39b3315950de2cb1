//! A connection to one broker: its bytes, plain or through TLS, who asks, requests and their answers.
//!
//! ```text
//! TCP ── TLS ── versions of the APIs ── login (SASL) ── requests, one at a time
//!        if wanted                       if wanted
//! ```
//!
//! *Invariants*: memory for an answer grows with the bytes that come, not with the length it claims, up to a bound; and no count in it
//! is believed before the bytes were walked along the answer's shape. So a broker that is broken, or wicked, costs an error that
//! names it.
//!
//! *Not here*: what TLS trusts, and how a login is worded: whoever connects gives them, as [`Access`]. No connection logs in again
//! before its session ends: a broker that then hangs up is reached anew.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tarn_model::{Error, Kind, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{check, owned};
use crate::shape;

/// What TLS trusts.
pub use tokio_rustls::rustls::ClientConfig as TlsConfig;

/// An answer comes within this time, and the wait that its request asked for.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// No answer to a fetch is larger: it asks for less, and takes one batch of any size. No other answer is larger than the second.
const LARGEST_FETCHED_BYTES: usize = 128 << 20;
const LARGEST_ANSWER_BYTES: usize = 64 << 20;
/// Bytes by which the buffer of an answer grows.
const STEP_BYTES: usize = 1 << 20;
/// Messages of one login, at most; SCRAM has two.
const MOST_WORDS: usize = 8;
const CLIENT_ID: &str = "tarn";

/// How the brokers of a cluster are reached: all in the same way.
#[derive(Clone, Default)]
pub struct Access {
    /// TLS, and what it trusts; plain without.
    pub tls: Option<Arc<TlsConfig>>,
    /// Who asks; nobody in particular without.
    pub login: Option<Arc<dyn Login>>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = self.login.as_ref().map(|login| login.mechanism());
        f.debug_struct("Access").field("tls", &self.tls.is_some()).field("login", &login).finish()
    }
}

/// Makes brokers believe who asks, by a mechanism of SASL.
pub trait Login: Send + Sync {
    /// The mechanism's name, e.g. `SCRAM-SHA-512`.
    fn mechanism(&self) -> &'static str;
    /// Whether what is said must not be heard by others, so that it goes over TLS only, or over a connection of this machine.
    fn is_secret(&self) -> bool;
    /// Begins anew: each connection has a conversation of its own.
    fn begin(&self) -> Box<dyn Conversation>;
}

/// One conversation of a login.
pub trait Conversation: Send {
    /// What to say first, and to each message of the broker; `None` at the end, when the broker is believed, too.
    fn answer(&mut self, said: Option<&[u8]>) -> Result<Option<Vec<u8>>>;
}

/// Bytes both ways.
trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// A connection to one broker.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    address: String,
    correlation: i32,
    /// By API key, the versions that the broker serves.
    served: HashMap<i16, (i16, i16)>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) async fn open(address: &str, access: &Access) -> Result<Connection> {
        let unreachable = || Error::unavailable(format!("cannot reach a Kafka broker at {address}"));
        let stream = match timeout(CONNECT_WITHIN, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable().with_source(error)),
            Err(_) => return Err(unreachable()),
        };
        stream.set_nodelay(true).map_err(|error| unreachable().with_source(error))?;
        let is_near = stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback());
        let stream: Box<dyn Stream> = match &access.tls {
            Some(tls) => Box::new(secured(stream, address, tls).await?),
            None => Box::new(stream),
        };
        let (correlation, served) = (0, HashMap::new());
        let mut connection = Connection { stream, address: address.to_owned(), correlation, served };
        let first = connection.send(&ApiVersionsRequest::default(), 0, Duration::ZERO).await;
        let answer = first.map_err(|error| match (error.kind(), &access.tls) {
            (Kind::Unavailable | Kind::Corrupt, None) => error.with_hint("if it wants TLS: `tls = true`"),
            _ => error,
        })?;
        check(answer.error_code, None, || format!("the versions of the APIs of {address}"))?;
        let served = answer.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version)));
        connection.served = served.collect();
        if let Some(login) = &access.login {
            if login.is_secret() && access.tls.is_none() && !is_near {
                let message = format!("the password itself would go to {address} without TLS");
                let hint = "set `tls = true`, or let the brokers use `sasl = \"scram-sha-512\"`";
                return Err(Error::invalid(message).with_hint(hint));
            }
            connection.log_in(login.as_ref()).await?;
        }
        Ok(connection)
    }

    async fn log_in(&mut self, login: &dyn Login) -> Result<()> {
        let (address, mechanism) = (self.address.clone(), login.mechanism());
        if !self.serves(ApiKey::SaslHandshake as i16) {
            return Err(Error::invalid(format!("the broker at {address} knows of no logins"))
                .with_hint("leave `user` out, or name a listener of it that has them"));
        }
        let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
        let answer = self.ask(&request, 1).await?;
        if answer.error_code != 0 {
            let others: Vec<&str> = answer.mechanisms.iter().map(StrBytes::as_str).collect();
            let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
            return Err(Error::unavailable(format!(
                "the broker at {address} does not let anybody log in by {mechanism}"
            ))
            .with_hint(format!("set `sasl` to what it knows: {others}")));
        }
        let refused = |why: &dyn fmt::Display| {
            Error::unavailable(format!("cannot log in at the broker {address}: {why}"))
                .with_hint("look at `user`, `password` and `sasl`: it is tried again")
        };
        let mut conversation = login.begin();
        let mut said: Option<Bytes> = None;
        for _ in 0..MOST_WORDS {
            let words = conversation.answer(said.as_deref()).map_err(|error| refused(&error))?;
            let Some(words) = words else { return Ok(()) };
            let request = SaslAuthenticateRequest::default().with_auth_bytes(words.into());
            let answer = self.ask(&request, 2).await?;
            if answer.error_code != 0 {
                let told = answer.error_message.as_ref().map(StrBytes::as_str).unwrap_or_default();
                let told = if told.is_empty() { "it refuses" } else { told };
                return Err(refused(&told));
            }
            said = Some(answer.auth_bytes);
        }
        Err(refused(&"it asks without end"))
    }

    pub(super) fn serves(&self, key: i16) -> bool {
        self.served.contains_key(&key)
    }

    /// Asks in the newest version that both sides know, at most `most`.
    pub(super) async fn ask<R: Request>(&mut self, request: &R, most: i16) -> Result<R::Response> {
        self.ask_and_wait(request, most, Duration::ZERO).await
    }

    /// The same, for a request that the broker may hold for `wait`.
    pub(super) async fn ask_and_wait<R: Request>(
        &mut self,
        request: &R,
        most: i16,
        wait: Duration,
    ) -> Result<R::Response> {
        let (first, last) = self.served.get(&R::KEY).copied().unwrap_or((0, -1));
        let version = most.min(last).min(R::VERSIONS.max);
        if version < first.max(R::VERSIONS.min) {
            return Err(Error::invalid(format!(
                "the broker at {} does not serve API {} in a version that this tool knows",
                self.address,
                R::KEY
            )));
        }
        self.send(request, version, wait).await
    }

    async fn send<R: Request>(&mut self, request: &R, version: i16, wait: Duration) -> Result<R::Response> {
        match timeout(ANSWER_WITHIN + wait, self.exchange(request, version)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::unavailable(format!("the broker at {} does not answer", self.address))),
        }
    }

    async fn exchange<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response> {
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(owned(CLIENT_ID)));
        let mut frame = BytesMut::from(&[0; 4][..]);
        let told =
            |error: &dyn fmt::Display| Error::internal(format!("a request cannot be written: {error}"));
        header.encode(&mut frame, R::header_version(version)).map_err(|error| told(&error))?;
        request.encode(&mut frame, version).map_err(|error| told(&error))?;
        let length = i32::try_from(frame.len() - 4).map_err(|error| told(&error))?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        let fetches = R::KEY == ApiKey::Fetch as i16;
        let most = if fetches { LARGEST_FETCHED_BYTES } else { LARGEST_ANSWER_BYTES };
        let mut answer = self.say(&frame, most).await?;
        let unreadable = |what: &dyn fmt::Display| unreadable(&self.address, what);
        let header_version = R::Response::header_version(version);
        let header =
            ResponseHeader::decode(&mut answer, header_version).map_err(|error| unreadable(&error))?;
        if header.correlation_id != self.correlation {
            return Err(unreadable(&"it answers another request"));
        }
        shape::check_answer(R::KEY, version, &answer).map_err(|what| unreadable(&what))?;
        R::Response::decode(&mut answer, version).map_err(|error| unreadable(&error))
    }

    /// Sends a frame; the one that comes back.
    async fn say(&mut self, frame: &[u8], most: usize) -> Result<Bytes> {
        let address = &self.address;
        let broken = |error: std::io::Error| {
            Error::unavailable(format!("the connection to {address} broke")).with_source(error)
        };
        self.stream.write_all(frame).await.map_err(broken)?;
        self.stream.flush().await.map_err(broken)?;
        let length = self.stream.read_i32().await.map_err(broken)?;
        let length = usize::try_from(length).map_err(|_| unreadable(address, &"a negative length"))?;
        if length > most {
            return Err(unreadable(address, &format!("{length} bytes are more than {most}")));
        }
        let mut answer = BytesMut::with_capacity(length.min(STEP_BYTES));
        while answer.len() < length {
            let left = length - answer.len();
            answer.reserve(left.min(STEP_BYTES));
            let mut part = (&mut self.stream).take(left as u64);
            if part.read_buf(&mut answer).await.map_err(broken)? == 0 {
                return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(answer.freeze())
    }
}

fn unreadable(address: &str, what: &dyn fmt::Display) -> Error {
    Error::new(Kind::Corrupt, format!("the answer of {address} cannot be read: {what}"))
}

/// Speaks TLS from here on, once the broker's certificate is found to be this host's.
async fn secured(
    stream: TcpStream,
    address: &str,
    tls: &Arc<TlsConfig>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| Error::invalid(format!("`{host}` is no name of a host")).with_source(error))?;
    let failed = || Error::unavailable(format!("no TLS with the broker at {address}"));
    match timeout(ANSWER_WITHIN, TlsConnector::from(Arc::clone(tls)).connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed().with_source(error).with_hint(
            "look whether it speaks TLS there; name its authority's certificates with `tls_ca`: it is tried again",
        )),
        Err(_) => Err(failed().with_source("it does not answer")),
    }
}

#[cfg(test)]
mod tests;
