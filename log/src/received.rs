//! A batch as a client sent it: what is checked before the log takes it.
//!
//! *Invariants*: the log stores nothing that a reader could not unpack, and believes nothing of a header that its records can say
//! better.

use bytes::Bytes;
use tarn_model::config::Compression;
use tarn_model::{Error, PartitionId, Result};

use crate::batch::{self, HEADER_BYTES, Header};
use crate::codec;
use crate::fetch::Records;
use crate::options::TopicInfo;
use crate::refused::Refused;

/// Checks all of a batch that a client sent; the log stores nothing that a reader could not unpack. Also the newest timestamp in
/// it, which is looked up in its records: the header's is only what the client says.
pub(crate) fn check_batch(topic: &TopicInfo, partition: PartitionId, batch: &Bytes) -> Result<(Header, i64)> {
    let refuse = |cause: Refused, what: &str| {
        let place = format!("topic=`{}` partition=`{partition}`", topic.name);
        cause.because(format!("the record batch cannot be appended: {what} {place}"))
    };
    if batch.len() > topic.max_batch_bytes() {
        return Err(refuse(
            Refused::TooLarge,
            &format!("it is larger than {} bytes", topic.max_batch_bytes()),
        )
        .with_hint("raise `log.max_record_size`, or send smaller batches"));
    }
    let header = Header::parse_sent(batch).map_err(|what| refuse(Refused::Corrupt, what))?;
    if header.bytes != batch.len() {
        return Err(refuse(Refused::Malformed, "its length differs from the bytes sent"));
    }
    if batch::checksum(batch) != header.crc {
        return Err(refuse(Refused::Corrupt, "its CRC is wrong"));
    }
    let rule = if header.is_control() {
        Some("only the log writes control batches")
    } else if header.has_marks_of_the_log() {
        Some("it has attributes that a producer does not set")
    } else if header.is_transactional() && header.producer_id < 0 {
        Some("it belongs to a transaction and has no producer")
    } else if header.records == 0 || header.last_offset_delta != header.records - 1 {
        Some("its offsets do not run from 0 to the record count")
    } else if header.producer_id >= 0 && (header.producer_epoch < 0 || header.base_sequence < 0) {
        Some("it has a producer without epoch or sequence")
    } else {
        None
    };
    if let Some(rule) = rule {
        return Err(refuse(Refused::Malformed, rule));
    }
    if header.has_append_time() {
        return Err(refuse(Refused::Timestamps, "only the log gives records the time of their append"));
    }
    if codec::from_code(header.compression_code()).is_none() {
        return Err(refuse(Refused::UnknownCompression, "an unknown compression"));
    }
    let records = Records::of_sent(&header, batch).map_err(|what| refuse(Refused::Malformed, &what))?;
    let mut newest = i64::MIN;
    for record in records.iter() {
        newest = newest.max(record.timestamp_ms);
        if !record.headers_are_whole() {
            return Err(refuse(Refused::Malformed, "a record's headers are malformed"));
        }
        if record.key.is_none() && topic.configs.cleanup.compacts() {
            return Err(refuse(Refused::Malformed, "a record of a compacted topic has no key"));
        }
        let size = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        if size > topic.max_record_bytes {
            let what = format!("a record is larger than {} bytes", topic.max_record_bytes);
            return Err(refuse(Refused::TooLarge, &what)
                .with_hint("raise `log.max_record_size`, or send smaller records"));
        }
    }
    Ok((header, newest))
}

/// Whether a batch that a client sent must be unpacked to be checked, which takes longer and more memory than its size tells.
pub fn is_packed(batch: &[u8]) -> bool {
    Header::parse_sent(batch).is_ok_and(|header| header.compression_code() != 0)
}

/// Which records of a batch have no key, where the topic wants one: their places in the batch.
pub fn keyless(topic: &TopicInfo, batch: &Bytes) -> Vec<i32> {
    if !topic.configs.cleanup.compacts() {
        return Vec::new();
    }
    // A batch that cannot be read is refused as a whole.
    let Ok(header) = Header::parse_sent(batch) else { return Vec::new() };
    let Ok(records) = Records::of_sent(&header, batch) else { return Vec::new() };
    (0..).zip(records.iter()).filter(|(_, record)| record.key.is_none()).map(|(place, _)| place).collect()
}

/// A batch that was checked, in another compression.
pub(crate) fn recompressed(batch: &Bytes, header: &Header, wanted: Compression) -> Result<Vec<u8>> {
    let unpacked = |error| Error::internal("a batch cannot be compressed anew").with_source(error);
    let packed = &batch[HEADER_BYTES..];
    let limit = batch::MAX_UNPACKED_BYTES;
    let sent = codec::from_code(header.compression_code()).unwrap_or(Compression::None);
    let records = codec::decompress(sent, packed, limit).map_err(unpacked)?;
    let mut bytes = vec![0; HEADER_BYTES];
    if wanted == Compression::None {
        bytes.extend_from_slice(&records);
    } else {
        codec::compress(wanted, &records, &mut bytes).map_err(unpacked)?;
    }
    batch::recompress(&mut bytes, batch, codec::code(wanted));
    Ok(bytes)
}
