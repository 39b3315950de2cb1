//! Frames: a length, then that many bytes. A request's header, and an answer's.
//!
//! *Invariants*: a frame has at most [`LARGEST_FRAME_BYTES`]; memory for it grows with the bytes that come, not with the
//! length it claims. What a connection has under way costs nobody else anything up to [`FREE_BYTES`]; beyond, all connections share
//! one budget ([`Budget`]), of which a frame has what it has come to, and never what it claims.
//!
//! *No deadlock*: frames that are half read may hold the whole budget. One frame at a time then goes on outside of it, up to its end,
//! and gives back what it had when it is answered.
//!
//! *Failure*: a frame that comes too slowly closes its connection ([`Pace`]); the time that it waits for us does not count.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Encodable, HeaderVersion};
use tarn_log::Buffer;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most bytes of one request.
pub(crate) const LARGEST_FRAME_BYTES: usize = 64 << 20;
/// KiB of requests of all connections together, beside one request that may go on when they are used up.
const SHARED_KIB: usize = 64 << 10;
/// Bytes of its requests under way that a connection need not share with others.
const FREE_BYTES: usize = 64 << 10;
/// Bytes by which the buffer of a frame grows; a frame that is no larger has one buffer from the beginning.
const STEP_BYTES: usize = 1 << 20;
/// A frame that was begun must go on within this time; a larger one has longer, if it comes at [`LEAST_RATE`].
const STALLED: Duration = Duration::from_secs(30);
/// Bytes in a second.
const LEAST_RATE: f64 = (64 << 10) as f64;

/// The memory for the requests of all connections.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    shared: Arc<Semaphore>,
    /// For one frame at a time that goes on while the shared part is used up.
    last: Arc<Semaphore>,
}

impl Budget {
    /// One for all connections.
    pub(crate) fn new() -> Budget {
        Budget::of(SHARED_KIB)
    }

    fn of(kib: usize) -> Budget {
        Budget { shared: Arc::new(Semaphore::new(kib)), last: Arc::new(Semaphore::new(1)) }
    }

    /// The part of one connection.
    pub(crate) fn connection(&self) -> Share {
        Share { budget: self.clone(), free: Arc::new(Semaphore::new(FREE_BYTES >> 10)) }
    }
}

/// What a connection may use.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    budget: Budget,
    /// KiB that need not be shared with others.
    free: Arc<Semaphore>,
}

/// The room that a frame takes, until it is answered.
#[derive(Debug)]
pub(crate) struct Room {
    /// Of its first bytes, and of the others.
    parts: Vec<OwnedSemaphorePermit>,
    /// Whether it needs no more.
    is_last: bool,
}

impl Share {
    /// Room for the first bytes of a frame, [`FREE_BYTES`] at most.
    async fn begin(&self, bytes: usize) -> io::Result<Room> {
        let kib = in_kib(bytes);
        let first = tokio::select! {
            biased;
            free = Arc::clone(&self.free).acquire_many_owned(kib) => free,
            shared = Arc::clone(&self.budget.shared).acquire_many_owned(kib) => shared,
        };
        Ok(Room { parts: vec![first.map_err(io::Error::other)?], is_last: false })
    }

    /// Room for more bytes of it.
    async fn grow(&self, room: &mut Room, bytes: usize) -> io::Result<()> {
        if room.is_last {
            return Ok(());
        }
        let (more, is_last) = tokio::select! {
            biased;
            more = Arc::clone(&self.budget.shared).acquire_many_owned(in_kib(bytes)) => (more, false),
            last = Arc::clone(&self.budget.last).acquire_owned() => (last, true),
        };
        room.parts.push(more.map_err(io::Error::other)?);
        room.is_last = is_last;
        Ok(())
    }
}

fn in_kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX)
}

/// How fast a frame comes, or an answer goes.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes: usize,
    waited: Duration,
    /// How long a client may take for a byte, and for all of them beyond those that come at [`LEAST_RATE`].
    stalled: Duration,
}

impl Pace {
    /// Nothing has moved yet.
    pub(crate) fn new(stalled: Duration) -> Pace {
        Pace { bytes: 0, waited: Duration::ZERO, stalled }
    }

    /// How long we may wait for the next byte; nothing when it has had its time.
    fn left(&self) -> Option<Duration> {
        let earned = Duration::from_secs_f64(self.bytes as f64 / LEAST_RATE);
        (self.stalled + earned).checked_sub(self.waited).filter(|left| !left.is_zero())
    }

    /// Waits until bytes have moved; none are an error, as is a client that has had its time.
    pub(crate) async fn of(&mut self, moved: impl Future<Output = io::Result<usize>>) -> io::Result<usize> {
        let left = self.left().ok_or(io::ErrorKind::TimedOut)?;
        let since = Instant::now();
        let moved = tokio::time::timeout(left.min(self.stalled), moved).await??;
        self.waited += since.elapsed();
        self.bytes += moved;
        if moved == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(moved) }
    }
}

/// The bytes of a request, and the room they take.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Bytes,
    pub(crate) room: Room,
}

/// Reads the next frame; `None` when the client has hung up.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin), share: &Share) -> io::Result<Option<Frame>> {
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
    let (mut pace, first) = (Pace::new(STALLED), length.min(FREE_BYTES));
    let mut room = share.begin(first).await?;
    let mut buffer = Buffer::of(first);
    fill(stream, &mut buffer, &mut pace).await?;
    if length == first {
        return Ok(Some(Frame { bytes: buffer.freeze(), room }));
    }
    if length <= STEP_BYTES {
        share.grow(&mut room, length - first).await?;
        let mut whole = Buffer::of(length);
        whole.rest()[..first].copy_from_slice(buffer.as_ref());
        whole.fill(first);
        fill(stream, &mut whole, &mut pace).await?;
        return Ok(Some(Frame { bytes: whole.freeze(), room }));
    }
    let mut bytes = BytesMut::with_capacity(STEP_BYTES);
    bytes.extend_from_slice(buffer.as_ref());
    drop(buffer);
    while bytes.len() < length {
        let step = (length - bytes.len()).min(STEP_BYTES);
        share.grow(&mut room, step).await?;
        bytes.reserve(step);
        let until = bytes.len() + step;
        while bytes.len() < until {
            let mut part = (&mut *stream).take((until - bytes.len()) as u64);
            pace.of(part.read_buf(&mut bytes)).await?;
        }
    }
    Ok(Some(Frame { bytes: bytes.freeze(), room }))
}

async fn fill(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Buffer, pace: &mut Pace) -> io::Result<()> {
    while !buffer.rest().is_empty() {
        let read = pace.of(stream.read(buffer.rest())).await?;
        buffer.fill(read);
    }
    Ok(())
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
    /// What its records take of the memory for all answers, until it has left.
    pub(crate) room: Option<OwnedSemaphorePermit>,
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
        Answer { parts, room: None }
    }

    /// What an unknown API, or an unknown version of a known one, is answered with: there is no form that every client
    /// would understand, so it is the code alone.
    pub(crate) fn unsupported(header: &Header, code: i16) -> Answer {
        let mut bytes = Answer::begin(header, false, 2);
        bytes.put_i16(code);
        Answer::end(vec![bytes.freeze()])
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    fn frame(length: usize) -> Vec<u8> {
        let mut bytes = u32::try_from(length).expect("small").to_be_bytes().to_vec();
        bytes.resize(4 + length, 7);
        bytes
    }

    #[tokio::test]
    async fn a_length_that_is_claimed_takes_nothing_from_others() {
        let budget = Budget::new();
        let claim = u32::try_from(LARGEST_FRAME_BYTES).expect("small").to_be_bytes();
        let mut half_read = Vec::new();
        for _ in 0..4 {
            let (mut client, mut server) = duplex(1 << 10);
            client.write_all(&claim).await.expect("sent");
            client.write_all(&[0; 8]).await.expect("sent");
            let share = budget.connection();
            let mut reading = Box::pin(async move { read(&mut server, &share).await });
            assert!((&mut reading).now_or_never().is_none(), "it waits for the rest");
            half_read.push((client, reading));
        }
        assert_eq!(budget.shared.available_permits(), SHARED_KIB);
    }

    #[tokio::test]
    async fn a_small_request_passes_while_large_ones_have_used_up_the_budget() {
        let budget = Budget::new();
        let all = u32::try_from(SHARED_KIB).expect("small");
        let _shared = Arc::clone(&budget.shared).acquire_many_owned(all).await.expect("free");
        let _last = Arc::clone(&budget.last).acquire_owned().await.expect("free");
        let share = budget.connection();
        let two = [frame(FREE_BYTES), frame(20)].concat();
        let mut input = &two[..];
        let first =
            read(&mut input, &share).now_or_never().expect("at once").expect("read").expect("a frame");
        assert_eq!(first.bytes.len(), FREE_BYTES);
        let mut waits = Box::pin(read(&mut input, &share));
        assert!((&mut waits).now_or_never().is_none(), "the connection has used its own part");
        drop(first);
        let second = waits.now_or_never().expect("once the first is answered").expect("read");
        assert_eq!(second.expect("a frame").bytes.len(), 20);
    }

    #[tokio::test]
    async fn half_read_frames_that_hold_the_whole_budget_are_read_one_after_the_other() {
        let (length, count) = (3 << 20, 6);
        let budget = Budget::of(4 << 10);
        let mut reading = tokio::task::JoinSet::new();
        for _ in 0..count {
            let share = budget.connection();
            reading.spawn(async move {
                let (mut client, mut server) = duplex(64 << 10);
                let bytes = frame(length);
                let (sent, frame) = tokio::join!(client.write_all(&bytes), read(&mut server, &share));
                sent.expect("sent");
                let frame = frame.expect("read").expect("a frame");
                // Answered: its room is free again.
                frame.bytes.len()
            });
        }
        let read = tokio::time::timeout(Duration::from_secs(25), reading.join_all()).await;
        assert_eq!(read.expect("all of them"), vec![length; count]);
        assert_eq!((budget.shared.available_permits(), budget.last.available_permits()), (4 << 10, 1));
    }

    #[test]
    fn a_frame_has_half_a_minute_and_a_second_for_each_64_kib() {
        let left =
            |bytes, waited| Pace { bytes, waited: Duration::from_secs(waited), stalled: STALLED }.left();
        assert_eq!(left(0, 0), Some(STALLED));
        assert_eq!(left(100, 31), None, "a byte every while does not keep it");
        assert_eq!(left(10 << 20, 31), Some(Duration::from_secs(159)));
        assert_eq!(left(10 << 20, 190), None);
    }
}
