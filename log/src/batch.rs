//! Kafka's RecordBatch v2: its header, and the records in it.
//!
//! *Layout* (big-endian; <https://kafka.apache.org/documentation/#recordbatch>):
//!
//! ```text
//!  0 base offset      i64 ┐ not under the CRC, so that the log sets them
//!  8 length           i32 │ without touching what it received; the length
//! 12 leader epoch     i32 │ counts the bytes after itself
//! 16 magic = 2        i8  ┘
//! 17 CRC-32C          u32   of everything from byte 21 on
//! 21 attributes       i16   bits 0-2 compression, 3 log append time, 4 transactional, 5 control, 6 delete horizon
//! 23 last offset delta i32
//! 27 base timestamp   i64
//! 35 max timestamp    i64
//! 43 producer id i64, 51 producer epoch i16, 53 base sequence i32   (-1: none)
//! 57 record count     i32
//! 61 records, compressed as one block
//! ```
//!
//! A record: `length, attributes i8, timestamp delta, offset delta, key, value, header count, headers`, where lengths and
//! deltas are varints and a length of -1 is null.

use tarn_model::Offset;

use crate::varint;
use crate::visible::Aborted;

/// Bytes before the records.
pub(crate) const HEADER_BYTES: usize = 61;
/// Bytes of base offset and length, which the length does not count.
pub(crate) const PREFIX_BYTES: usize = 12;
/// Most bytes that the records of one batch may unpack to.
pub(crate) const MAX_UNPACKED_BYTES: usize = 64 << 20;
/// Most bytes of one batch on disk: what cannot be compressed is stored as it is.
pub(crate) const MAX_BATCH_BYTES: usize = MAX_UNPACKED_BYTES + (1 << 20);

const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
/// Of a batch that compaction has seen a tombstone in: the base timestamp is when those may go.
const DELETE_HORIZON: i16 = 1 << 6;
const COMPRESSION: i16 = 0x07;

/// What a client may say of a batch: its compression, and that it is of a transaction.
const OF_CLIENTS: i16 = COMPRESSION | TRANSACTIONAL;
/// No batch begins above it: offsets within one are 32 bits.
const LAST_BASE_OFFSET: Offset = Offset::MAX - (1 << 32);

/// The fields of a header that the log looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) base_offset: Offset,
    /// Bytes of the whole batch.
    pub(crate) bytes: usize,
    pub(crate) crc: u32,
    pub(crate) attributes: i16,
    pub(crate) last_offset_delta: i32,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) records: i32,
}

impl Header {
    /// Reads the header at the front of `bytes`; the error says what cannot be.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Header, &'static str> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or("a torn batch header")?;
        let header = Header {
            base_offset: i64::from_be_bytes(field(bytes, 0)),
            bytes: usize::try_from(i32::from_be_bytes(field(bytes, 8)))
                .map_err(|_| "a negative batch length")?
                + PREFIX_BYTES,
            crc: u32::from_be_bytes(field(bytes, 17)),
            attributes: i16::from_be_bytes(field(bytes, 21)),
            last_offset_delta: i32::from_be_bytes(field(bytes, 23)),
            base_timestamp: i64::from_be_bytes(field(bytes, 27)),
            max_timestamp: i64::from_be_bytes(field(bytes, 35)),
            producer_id: i64::from_be_bytes(field(bytes, 43)),
            producer_epoch: i16::from_be_bytes(field(bytes, 51)),
            base_sequence: i32::from_be_bytes(field(bytes, 53)),
            records: i32::from_be_bytes(field(bytes, 57)),
        };
        if bytes[16] != 2 {
            return Err("a batch whose magic is not 2");
        }
        if !(HEADER_BYTES..=MAX_BATCH_BYTES).contains(&header.bytes) {
            return Err("a batch length out of bounds");
        }
        if header.base_offset < 0 || header.last_offset_delta < 0 || header.records < 0 {
            return Err("a negative offset or count");
        }
        if header.base_offset > LAST_BASE_OFFSET {
            return Err("an offset out of bounds");
        }
        Ok(header)
    }

    /// [`Header::parse`] of a batch that a client sent, whose offsets the log has yet to give: they begin at 0, whatever it says.
    pub(crate) fn parse_sent(bytes: &[u8]) -> Result<Header, &'static str> {
        let mut head: [u8; HEADER_BYTES] = *bytes.first_chunk().ok_or("a torn batch header")?;
        head[..8].fill(0);
        Header::parse(&head)
    }

    /// The offset after the batch's last.
    pub(crate) fn next_offset(&self) -> Offset {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta) + 1)
    }

    pub(crate) fn compression_code(&self) -> i16 {
        self.attributes & 0x07
    }

    /// Whether it says anything that only the log may say.
    pub(crate) fn has_marks_of_the_log(&self) -> bool {
        self.attributes & !(OF_CLIENTS | LOG_APPEND_TIME) != 0
    }

    /// Whether its records have the time of an append instead of their own.
    pub(crate) fn has_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    pub(crate) fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// When tombstones in it may go, if compaction has seen one: ms since 1970 UTC.
    pub(crate) fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    pub(crate) fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether it holds records, and none of those transactions that were aborted.
    pub(crate) fn counts(&self, aborted: &[Aborted]) -> bool {
        let is_of = |of: &Aborted| {
            of.producer == self.producer_id && of.first <= self.base_offset && self.base_offset < of.last
        };
        !(self.is_control() || self.is_transactional() && aborted.iter().any(is_of))
    }

    /// The timestamp of a record: its own, or the time of the append.
    #[inline]
    pub(crate) fn timestamp(&self, delta: i64) -> i64 {
        if self.has_append_time() { self.max_timestamp } else { self.base_timestamp.wrapping_add(delta) }
    }
}

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[at..at + N]);
    value
}

/// The CRC that belongs into the header of `batch`.
pub(crate) fn checksum(batch: &[u8]) -> u32 {
    crc32c::crc32c(&batch[21..])
}

/// Writes the header over the first bytes of `batch`, whose records already stand behind it. Offset and leader epoch are
/// set by [`place`], when the log knows them.
pub(crate) fn seal(batch: &mut [u8], attributes: i16, records: i32, base_timestamp: i64, max_timestamp: i64) {
    seal_of(batch, attributes, records, (base_timestamp, max_timestamp), (-1, -1));
}

/// [`seal`], with a producer and its epoch.
fn seal_of(
    batch: &mut [u8],
    attributes: i16,
    records: i32,
    (base_timestamp, max_timestamp): (i64, i64),
    (producer, epoch): (i64, i16),
) {
    let length = i32::try_from(batch.len() - PREFIX_BYTES).expect("batches are bounded far below 2 GiB");
    batch[0..8].copy_from_slice(&0_i64.to_be_bytes());
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[12..16].copy_from_slice(&0_i32.to_be_bytes());
    batch[16] = 2;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[23..27].copy_from_slice(&(records - 1).to_be_bytes());
    batch[27..35].copy_from_slice(&base_timestamp.to_be_bytes());
    batch[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    batch[43..51].copy_from_slice(&producer.to_be_bytes());
    batch[51..53].copy_from_slice(&epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&(-1_i32).to_be_bytes());
    batch[57..61].copy_from_slice(&records.to_be_bytes());
    let crc = checksum(batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// The control batch that ends a transaction in a partition.
///
/// Its only record has no offset delta; its key is `version i16 = 0, type i16` (0 aborted, 1 committed), its value `version i16
/// = 0, coordinator epoch i32 = 0`.
pub(crate) fn marker(producer: i64, epoch: i16, committed: bool, timestamp_ms: i64) -> Vec<u8> {
    let mut batch = vec![0; HEADER_BYTES];
    let key = [0, 0, 0, u8::from(committed)];
    put_record(&mut batch, 0, 0, Some(&key), Some(&[0; 6]), &[]);
    seal_of(&mut batch, TRANSACTIONAL | CONTROL, 1, (timestamp_ms, timestamp_ms), (producer, epoch));
    batch
}

/// Gives all records of a sealed batch, `records` behind `head`, the time of their append; its CRC changes.
pub(crate) fn set_append_time(head: &mut [u8; HEADER_BYTES], records: &[u8], now_ms: i64) {
    let attributes = i16::from_be_bytes([head[21], head[22]]) | LOG_APPEND_TIME;
    head[21..23].copy_from_slice(&attributes.to_be_bytes());
    set_max_timestamp(head, records, now_ms);
}

/// Puts right what the head of a sealed batch, with `records` behind it, says of its newest record; its CRC changes.
pub(crate) fn set_max_timestamp(head: &mut [u8; HEADER_BYTES], records: &[u8], max_ms: i64) {
    head[35..43].copy_from_slice(&max_ms.to_be_bytes());
    let crc = crc32c::crc32c_append(checksum(head), records);
    head[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Gives a sealed batch its place in the log; the CRC stays right.
pub(crate) fn place(batch: &mut [u8], base_offset: Offset, leader_epoch: i32) {
    batch[0..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// Writes over the first bytes of `batch` the header of `old`, of which `records` records stay behind it: offsets, producer
/// and leader epoch are those of `old`. With a horizon the base timestamp is when tombstones may go.
pub(crate) fn reseal(
    batch: &mut [u8],
    old: &[u8],
    records: i32,
    (base_timestamp, max_timestamp): (i64, i64),
    has_horizon: bool,
) {
    batch[..HEADER_BYTES].copy_from_slice(&old[..HEADER_BYTES]);
    let length = i32::try_from(batch.len() - PREFIX_BYTES).expect("batches are bounded far below 2 GiB");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let attributes = i16::from_be_bytes([old[21], old[22]]) | if has_horizon { DELETE_HORIZON } else { 0 };
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[27..35].copy_from_slice(&base_timestamp.to_be_bytes());
    batch[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    batch[57..61].copy_from_slice(&records.to_be_bytes());
    let crc = checksum(batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Writes over the first bytes of `batch` the header of `old`, whose records stand behind it in another compression.
pub(crate) fn recompress(batch: &mut [u8], old: &[u8], code: i16) {
    let mut old = old[..HEADER_BYTES].to_vec();
    let attributes = (i16::from_be_bytes([old[21], old[22]]) & !COMPRESSION) | code;
    old[21..23].copy_from_slice(&attributes.to_be_bytes());
    let field = |at: usize| i64::from_be_bytes(old[at..at + 8].try_into().expect("eight bytes"));
    let times = (field(27), field(35));
    let records = i32::from_be_bytes(old[57..61].try_into().expect("four bytes"));
    reseal(batch, &old, records, times, false);
}

/// The header of a batch whose records are gone: offsets and producer stay.
pub(crate) fn without_records(old: &[u8]) -> Vec<u8> {
    let mut batch = vec![0; HEADER_BYTES];
    let field = |at: usize| i64::from_be_bytes(old[at..at + 8].try_into().expect("eight bytes"));
    let times = (field(27), field(35));
    let mut old = old[..HEADER_BYTES].to_vec();
    let attributes = i16::from_be_bytes([old[21], old[22]]) & !COMPRESSION;
    old[21..23].copy_from_slice(&attributes.to_be_bytes());
    reseal(&mut batch, &old, 0, times, false);
    batch
}

/// A header without records that covers the offsets `[from, to)`.
pub(crate) fn empty(from: Offset, to: Offset) -> Vec<u8> {
    let mut batch = vec![0; HEADER_BYTES];
    seal(&mut batch, 0, 0, -1, -1);
    let last = i32::try_from(to - from - 1).unwrap_or(i32::MAX);
    batch[23..27].copy_from_slice(&last.to_be_bytes());
    let crc = checksum(&batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    place(&mut batch, from, 0);
    batch
}

/// A record as it lies in an unpacked batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawRecord<'a> {
    pub(crate) timestamp_delta: i64,
    pub(crate) offset_delta: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    /// Header count and headers.
    pub(crate) headers: &'a [u8],
}

/// Appends a record.
pub(crate) fn put_record(
    buffer: &mut Vec<u8>,
    offset_delta: i64,
    timestamp_delta: i64,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[(&str, &[u8])],
) {
    let header_bytes: usize =
        headers.iter().map(|(name, value)| sized(Some(name.as_bytes())) + sized(Some(value))).sum();
    let body = 1
        + varint::size(timestamp_delta)
        + varint::size(offset_delta)
        + sized(key)
        + sized(value)
        + varint::size(length(headers.len()))
        + header_bytes;
    buffer.reserve(body + 5);
    varint::put(buffer, length(body));
    buffer.push(0);
    varint::put(buffer, timestamp_delta);
    varint::put(buffer, offset_delta);
    put_bytes(buffer, key);
    put_bytes(buffer, value);
    varint::put(buffer, length(headers.len()));
    for (name, value) in headers {
        put_bytes(buffer, Some(name.as_bytes()));
        put_bytes(buffer, Some(value));
    }
}

/// Appends a record that was taken from another batch.
pub(crate) fn put_raw(buffer: &mut Vec<u8>, record: &RawRecord<'_>) {
    let body = 1
        + varint::size(record.timestamp_delta)
        + varint::size(record.offset_delta)
        + sized(record.key)
        + sized(record.value)
        + record.headers.len();
    varint::put(buffer, length(body));
    buffer.push(0);
    varint::put(buffer, record.timestamp_delta);
    varint::put(buffer, record.offset_delta);
    put_bytes(buffer, record.key);
    put_bytes(buffer, record.value);
    buffer.extend_from_slice(record.headers);
}

/// Takes a record off the front of `bytes`; its headers are checked, not kept.
#[inline]
pub(crate) fn take_record<'a>(bytes: &mut &'a [u8]) -> Option<RawRecord<'a>> {
    let length = usize::try_from(varint::take(bytes)?).ok()?;
    let (mut body, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    body = body.get(1..)?;
    let timestamp_delta = varint::take(&mut body)?;
    let offset_delta = varint::take(&mut body)?;
    let key = take_bytes(&mut body)?;
    let value = take_bytes(&mut body)?;
    Some(RawRecord { timestamp_delta, offset_delta, key, value, headers: body })
}

/// Whether `headers` hold exactly the headers that they count.
pub(crate) fn headers_are_whole(mut headers: &[u8]) -> bool {
    let Some(count) = varint::take(&mut headers).and_then(|count| usize::try_from(count).ok()) else {
        return false;
    };
    (0..count).all(|_| take_header(&mut headers).is_some()) && headers.is_empty()
}

/// Takes a header off the front of `bytes`.
pub(crate) fn take_header<'a>(bytes: &mut &'a [u8]) -> Option<(&'a str, Option<&'a [u8]>)> {
    let name = std::str::from_utf8(take_bytes(bytes)??).ok()?;
    Some((name, take_bytes(bytes)?))
}

#[inline]
fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = varint::take(bytes)?;
    if length == -1 {
        return Some(None);
    }
    let (value, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(Some(value))
}

#[inline]
fn put_bytes(buffer: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => varint::put(buffer, -1),
        Some(value) => {
            varint::put(buffer, length(value.len()));
            buffer.extend_from_slice(value);
        }
    }
}

#[inline]
fn sized(value: Option<&[u8]>) -> usize {
    value.map_or(1, |value| varint::size(length(value.len())) + value.len())
}

#[inline]
fn length(length: usize) -> i64 {
    i64::try_from(length).expect("no buffer is longer than i64::MAX")
}

#[cfg(test)]
mod tests;
