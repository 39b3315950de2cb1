//! Frames: a length, then that many bytes. A request's header, and an answer's.
//!
//! *Invariants*: a frame has at most [`LARGEST_FRAME_BYTES`]; memory for it grows with the bytes that come, not with the
//! length it claims; the frames of all connections share one budget.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Encodable, HeaderVersion};
use tarn_log::Buffer;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most bytes of one request.
pub(crate) const LARGEST_FRAME_BYTES: usize = 64 << 20;
/// KiB of requests of all connections together.
pub(crate) const FRAMES_KIB: u32 = 128 << 10;
/// Bytes by which the buffer of a frame grows; a frame that is no larger has one buffer from the beginning.
const STEP_BYTES: usize = 1 << 20;
/// A frame that was begun must go on within this time.
const STALLED: Duration = Duration::from_secs(30);

/// The bytes of a request, and their share of the budget.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Bytes,
    pub(crate) room: OwnedSemaphorePermit,
}

/// Reads the next frame; `None` when the client has hung up.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    budget: &Arc<Semaphore>,
) -> io::Result<Option<Frame>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "a request whose length is out of bounds");
    let length = usize::try_from(i32::from_be_bytes(length)).map_err(|_| wrong())?;
    if !(8..=LARGEST_FRAME_BYTES).contains(&length) {
        return Err(wrong());
    }
    let kib = u32::try_from(length >> 10).map_err(|_| wrong())?.max(1);
    let room = Arc::clone(budget).acquire_many_owned(kib).await.map_err(io::Error::other)?;
    if length <= STEP_BYTES {
        let mut buffer = Buffer::of(length);
        while !buffer.rest().is_empty() {
            let read = tokio::time::timeout(STALLED, stream.read(buffer.rest())).await??;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer.fill(read);
        }
        return Ok(Some(Frame { bytes: buffer.freeze(), room }));
    }
    let mut bytes = BytesMut::with_capacity(STEP_BYTES);
    while bytes.len() < length {
        let left = length - bytes.len();
        bytes.reserve(left.min(STEP_BYTES));
        let mut part = (&mut *stream).take(left as u64);
        let read = tokio::time::timeout(STALLED, part.read_buf(&mut bytes)).await??;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some(Frame { bytes: bytes.freeze(), room }))
}

/// A request's header.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) key: i16,
    pub(crate) version: i16,
    pub(crate) correlation: i32,
    pub(crate) client_id: Option<String>,
}

impl Header {
    /// Takes the header off the front of a request. The client id stays in its old form in every version; tagged fields
    /// follow it in flexible ones, which only known APIs have. `None` when it is torn.
    pub(crate) fn take(bytes: &mut Bytes) -> Option<Header> {
        if bytes.len() < 8 {
            return None;
        }
        let (key, version, correlation) = (bytes.get_i16(), bytes.get_i16(), bytes.get_i32());
        let mut header = Header { key, version, correlation, client_id: None };
        let Ok(api) = ApiKey::try_from(key) else { return Some(header) };
        let length = bytes.try_get_i16().ok()?;
        if let Ok(length) = usize::try_from(length) {
            if length > bytes.len() {
                return None;
            }
            header.client_id = Some(String::from_utf8_lossy(&bytes.split_to(length)).into_owned());
        }
        if api.request_header_version(version) >= 2 {
            for _ in 0..take_varint(bytes)? {
                take_varint(bytes)?;
                let length = usize::try_from(take_varint(bytes)?).ok()?;
                if length > bytes.len() {
                    return None;
                }
                bytes.advance(length);
            }
        }
        Some(header)
    }
}

fn take_varint(bytes: &mut Bytes) -> Option<u32> {
    let mut value = 0_u32;
    for shift in [0, 7, 14, 21, 28] {
        let byte = bytes.try_get_u8().ok()?;
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// An answer on its way out: its frame in parts, so that record batches are not copied into one.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) parts: Vec<Bytes>,
}

impl Answer {
    /// An answer in `version` of its API.
    pub(crate) fn of<T: Encodable + HeaderVersion>(
        header: &Header,
        version: i16,
        body: &T,
    ) -> Result<Answer, String> {
        let told = |error: &dyn std::fmt::Display| format!("an answer cannot be written: {error}");
        let size = body.compute_size(version).map_err(|error| told(&error))?;
        let mut bytes = Answer::begin(header, T::header_version(version) >= 1, size);
        body.encode(&mut bytes, version).map_err(|error| told(&error))?;
        Ok(Answer::end(vec![bytes.freeze()]))
    }

    /// Room for the length, then the header.
    pub(crate) fn begin(header: &Header, flexible: bool, room: usize) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(room + 16);
        bytes.put_i32(header.correlation);
        if flexible {
            bytes.put_u8(0);
        }
        bytes
    }

    /// Puts the length in front of what [`Answer::begin`] began.
    pub(crate) fn end(mut parts: Vec<Bytes>) -> Answer {
        let length: usize = parts.iter().map(Bytes::len).sum();
        let length = i32::try_from(length).expect("answers are bounded far below 2 GiB");
        parts.insert(0, Bytes::copy_from_slice(&length.to_be_bytes()));
        Answer { parts }
    }

    /// What an unknown API, or an unknown version of a known one, is answered with: there is no form that every client
    /// would understand, so it is the code alone.
    pub(crate) fn unsupported(header: &Header, code: i16) -> Answer {
        let mut bytes = Answer::begin(header, false, 2);
        bytes.put_i16(code);
        Answer::end(vec![bytes.freeze()])
    }
}
