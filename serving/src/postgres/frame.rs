//! From bytes to what a client says: frames, and the fields in them.
//!
//! *Invariants*
//! - Nothing that a client claims is allocated before it has come; a message beyond [`MAX_MESSAGE_BYTES`] is read past, not kept.
//! - A field ends where its message ends: a message that is too short, or too long for its fields, is an error, not a panic.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Largest message that is kept, bytes: a statement or the values of its parameters.
pub(super) const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Largest message that is read past; a client that sends more is hung up on.
const MAX_SKIPPED_BYTES: usize = 1 << 30;
/// Largest first message.
const MAX_STARTUP_BYTES: usize = 10_000;
/// Read at once.
const READ_BYTES: usize = 16 << 10;
/// Read while a statement runs, so that a client's pipeline goes on and its going away is seen.
const READ_AHEAD_BYTES: usize = 64 << 10;
/// A client has this long to say who it is.
pub(super) const STARTUP_TIME: Duration = Duration::from_secs(30);

const SSL_REQUEST: i32 = 80_877_103;
const GSS_REQUEST: i32 = 80_877_104;
const CANCEL_REQUEST: i32 = 80_877_102;

/// What a client begins with.
#[derive(Debug, PartialEq)]
pub(super) enum Opening {
    /// It asks for encryption, of either kind.
    Encrypt,
    /// It wants a statement of another connection cancelled.
    Cancel { process: i32, secret: i32 },
    /// It wants a session.
    Startup { minor: u16, parameters: Vec<(String, String)> },
}

/// What a client says in a session.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    Query(String),
    Parse {
        name: String,
        sql: String,
        types: Vec<u32>,
    },
    Bind {
        portal: String,
        statement: String,
        formats: Vec<i16>,
        values: Vec<Option<Bytes>>,
        results: Vec<i16>,
    },
    Describe(Target),
    Execute {
        portal: String,
        most_rows: i32,
    },
    Close(Target),
    Flush,
    Sync,
    Terminate,
    /// Something of a copy or of a log-in that is not under way.
    Unexpected(u8),
    /// A message that was too large to keep.
    TooLarge {
        tag: u8,
        bytes: usize,
    },
}

impl Message {
    /// Whether an error in it is followed by silence until the client says `Sync`.
    pub(super) fn is_extended(&self) -> bool {
        match self {
            Message::Parse { .. }
            | Message::Bind { .. }
            | Message::Describe(_)
            | Message::Execute { .. }
            | Message::Close(_)
            | Message::Flush => true,
            Message::TooLarge { tag, .. } => *tag != b'Q',
            _ => false,
        }
    }
}

/// A prepared statement, or a portal.
#[derive(Debug, PartialEq)]
pub(super) enum Target {
    Statement(String),
    Portal(String),
}

/// The client's half of a connection.
#[derive(Debug)]
pub(super) struct Frames<R> {
    input: R,
    buffer: BytesMut,
    is_at_end: bool,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) fn new(input: R) -> Frames<R> {
        Frames { input, buffer: BytesMut::new(), is_at_end: false }
    }

    /// Whether a part of what follows is here already.
    pub(super) fn has_more(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The first message; `None` when the client has gone.
    pub(super) async fn opening(&mut self) -> io::Result<Option<Opening>> {
        if !self.fill(4).await? {
            return Ok(None);
        }
        let length = (&self.buffer[..4]).get_i32();
        let length = usize::try_from(length).ok().filter(|length| (8..=MAX_STARTUP_BYTES).contains(length));
        let Some(length) = length else {
            return Err(malformed("the first message has no length that can be"));
        };
        if !self.fill(length).await? {
            return Ok(None);
        }
        let mut fields = Fields(self.buffer.split_to(length).freeze().slice(4..));
        let code = fields.i32()?;
        match code {
            SSL_REQUEST | GSS_REQUEST => Ok(Some(Opening::Encrypt)),
            CANCEL_REQUEST => Ok(Some(Opening::Cancel { process: fields.i32()?, secret: fields.i32()? })),
            _ if code >> 16 == 3 => {
                let mut parameters = Vec::new();
                loop {
                    let name = fields.text()?;
                    if name.is_empty() {
                        break;
                    }
                    parameters.push((name, fields.text()?));
                }
                let minor = u16::try_from(code & 0xffff).unwrap_or(u16::MAX);
                Ok(Some(Opening::Startup { minor, parameters }))
            }
            _ => Err(malformed("the client speaks another version of the protocol than 3")),
        }
    }

    /// The next message; `None` when the client has gone.
    pub(super) async fn message(&mut self) -> io::Result<Option<Message>> {
        if !self.fill(5).await? {
            return Ok(None);
        }
        let tag = self.buffer[0];
        let length = usize::try_from((&self.buffer[1..5]).get_i32()).ok().filter(|length| *length >= 4);
        let Some(length) = length else { return Err(malformed("a message has no length that can be")) };
        if length > MAX_SKIPPED_BYTES {
            return Err(malformed("a message is longer than a gigabyte"));
        }
        if length > MAX_MESSAGE_BYTES {
            self.buffer.advance(5);
            return Ok(self.skip(length - 4).await?.then_some(Message::TooLarge { tag, bytes: length }));
        }
        if !self.fill(length + 1).await? {
            return Ok(None);
        }
        let mut fields = Fields(self.buffer.split_to(length + 1).freeze().slice(5..));
        let message = fields.message(tag)?;
        if !fields.0.is_empty() && !matches!(message, Message::Unexpected(_)) {
            return Err(malformed("a message is longer than its fields"));
        }
        Ok(Some(message))
    }

    /// Reads on while something else is awaited. Completes with an error when the client has gone, otherwise never.
    pub(super) async fn watch(&mut self) -> io::Error {
        loop {
            if self.buffer.len() >= READ_AHEAD_BYTES {
                return std::future::pending().await;
            }
            match self.read().await {
                Ok(true) => {}
                Ok(false) => return io::ErrorKind::UnexpectedEof.into(),
                Err(error) => return error,
            }
        }
    }

    /// Reads until `bytes` are here; false when the client has gone before.
    async fn fill(&mut self, bytes: usize) -> io::Result<bool> {
        while self.buffer.len() < bytes {
            if !self.read().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn skip(&mut self, mut bytes: usize) -> io::Result<bool> {
        while bytes > 0 {
            if self.buffer.is_empty() && !self.read().await? {
                return Ok(false);
            }
            let here = self.buffer.len().min(bytes);
            self.buffer.advance(here);
            bytes -= here;
        }
        Ok(true)
    }

    async fn read(&mut self) -> io::Result<bool> {
        if !self.is_at_end {
            self.buffer.reserve(READ_BYTES);
            self.is_at_end = self.input.read_buf(&mut self.buffer).await? == 0;
        }
        Ok(!self.is_at_end)
    }
}

/// The fields of one message, from the first to the last.
struct Fields(Bytes);

impl Fields {
    fn message(&mut self, tag: u8) -> io::Result<Message> {
        Ok(match tag {
            b'Q' => Message::Query(self.text()?),
            b'P' => Message::Parse { name: self.text()?, sql: self.text()?, types: self.list(Fields::u32)? },
            b'B' => Message::Bind {
                portal: self.text()?,
                statement: self.text()?,
                formats: self.list(Fields::i16)?,
                values: self.list(Fields::value)?,
                results: self.list(Fields::i16)?,
            },
            b'D' => Message::Describe(self.target()?),
            b'E' => Message::Execute { portal: self.text()?, most_rows: self.i32()? },
            b'C' => Message::Close(self.target()?),
            b'H' => Message::Flush,
            b'S' => Message::Sync,
            b'X' => Message::Terminate,
            b'd' | b'c' | b'f' | b'p' | b'F' => Message::Unexpected(tag),
            _ => return Err(malformed("a message is of a kind that is not known")),
        })
    }

    fn target(&mut self) -> io::Result<Target> {
        let kind = self.take(1)?[0];
        let name = self.text()?;
        match kind {
            b'S' => Ok(Target::Statement(name)),
            b'P' => Ok(Target::Portal(name)),
            _ => Err(malformed("a message names neither a statement nor a portal")),
        }
    }

    fn value(&mut self) -> io::Result<Option<Bytes>> {
        match usize::try_from(self.i32()?) {
            Ok(length) => self.take(length).map(Some),
            Err(_) => Ok(None),
        }
    }

    fn list<T>(&mut self, one: fn(&mut Fields) -> io::Result<T>) -> io::Result<Vec<T>> {
        let count = u16::from_be_bytes([self.take(1)?[0], self.take(1)?[0]]);
        (0..count).map(|_| one(self)).collect()
    }

    fn i16(&mut self) -> io::Result<i16> {
        Ok(self.take(2)?.get_i16())
    }

    fn i32(&mut self) -> io::Result<i32> {
        Ok(self.take(4)?.get_i32())
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(self.take(4)?.get_u32())
    }

    /// A text that ends with a zero.
    fn text(&mut self) -> io::Result<String> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or_else(|| malformed("a text has no end"))?;
        let text = self.0.split_to(end);
        self.0.advance(1);
        String::from_utf8(text.into()).map_err(|_| malformed("a text is not UTF-8"))
    }

    fn take(&mut self, bytes: usize) -> io::Result<Bytes> {
        if bytes > self.0.len() {
            return Err(malformed("a message is shorter than its fields"));
        }
        Ok(self.0.split_to(bytes))
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Option<Message>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(Frames::new(bytes).message())
    }

    fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = i32::try_from(body.len() + 4).expect("short");
        [&[tag][..], &length.to_be_bytes(), body].concat()
    }

    #[test]
    fn a_message_is_read_with_its_fields() {
        let parse = framed(b'P', b"s\0SELECT $1\0\0\x01\0\0\0\x17");
        let expected = Message::Parse { name: "s".into(), sql: "SELECT $1".into(), types: vec![23] };
        assert_eq!(read(&parse).expect("a message"), Some(expected));
        assert_eq!(read(&parse[..parse.len() - 1]).expect("the client has gone"), None);
        let bind = framed(b'B', b"\0s\0\0\0\0\x02\0\0\0\x011\xff\xff\xff\xff\0\x01\0\x01");
        let Some(Message::Bind { values, results, .. }) = read(&bind).expect("a message") else {
            panic!("a bind")
        };
        assert_eq!((values, results), (vec![Some(Bytes::from_static(b"1")), None], vec![1]));
    }

    #[test]
    fn a_message_that_is_too_large_is_read_past() {
        let mut bytes = framed(b'Q', &vec![b'('; MAX_MESSAGE_BYTES]);
        bytes.extend(framed(b'S', b""));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut frames = Frames::new(&bytes[..]);
        let first = runtime.block_on(frames.message()).expect("a message");
        assert_eq!(first, Some(Message::TooLarge { tag: b'Q', bytes: MAX_MESSAGE_BYTES + 4 }));
        assert_eq!(runtime.block_on(frames.message()).expect("a message"), Some(Message::Sync));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_a_message_or_an_error(tag in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = read(&framed(tag, &body));
            let _ = read(&body);
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let _ = runtime.block_on(Frames::new(&body[..]).opening());
        }
    }
}
