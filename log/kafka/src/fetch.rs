//! Fetch: whole record batches out of the segments, as they lie there.
//!
//! A fetch that finds nothing waits for the log's next commit, until its time is up; while it waits it costs a task and no
//! thread. Batches go from the segments' read buffers to the socket without another copy.
//!
//! *Sessions*: none are kept; every answer says so (session id 0), and a request that names one is told that it is not there.
//! Clients then send whole requests, which is right and costs some bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::{ApiKey, FetchRequest};
use tarn_log::{Log, TopicInfo};
use tarn_model::{Error, Offset, PartitionId};
use uuid::Uuid;

use crate::broker::{Answered, Broker, Incoming, blocking};
use crate::epochs::check_current;
use crate::frame::{Answer, Header};
use crate::offsets::READ_COMMITTED;

/// Most bytes of records in one answer; at least one batch is in it whatever its size.
const LARGEST_ANSWER_BYTES: usize = 16 << 20;
/// Longest time that a fetch waits.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A partition that is asked for.
#[derive(Debug, Clone)]
struct Asked {
    /// Place of its topic in the request.
    topic: usize,
    partition: PartitionId,
    from: Offset,
    max_bytes: usize,
    /// Whether only what is decided may be seen.
    decided: bool,
    /// The epoch that the client takes to be ours.
    epoch: i32,
    info: Result<Arc<TopicInfo>, Code>,
}

/// What a partition is answered with.
#[derive(Debug)]
struct Found {
    error: i16,
    start: Offset,
    end: Offset,
    /// Below it everything is decided.
    stable: Offset,
    /// Producer and first offset of aborted transactions among `batches`; `None` for who sees everything.
    aborted: Option<Vec<(i64, Offset)>>,
    batches: Vec<Bytes>,
}

impl Found {
    fn refused(code: Code) -> Found {
        Found { error: code.code(), start: -1, end: -1, stable: -1, aborted: None, batches: Vec::new() }
    }

    /// Where a reader that sees as much as `asked` stops.
    fn limit(&self, asked: &Asked) -> Offset {
        if asked.decided { self.stable } else { self.end }
    }

    fn bytes(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }
}

impl Broker {
    pub(crate) async fn fetch(&self, incoming: Incoming) -> Answered {
        let request: FetchRequest = incoming.decode(ApiKey::Fetch)?;
        let header = incoming.header;
        if request.session_id != 0 {
            return Ok(Some(write(&header, Code::FetchSessionIdNotFound.code(), &[], &[])));
        }
        let max_bytes = usize::try_from(request.max_bytes).unwrap_or(0).min(LARGEST_ANSWER_BYTES);
        let min_bytes = usize::try_from(request.min_bytes).unwrap_or(0).min(max_bytes);
        let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(LONGEST_WAIT);
        let until = tokio::time::Instant::now() + wait;
        // Names and ids, in the order of the request.
        let mut topics = Vec::with_capacity(request.topics.len());
        let mut asked = Vec::new();
        for (place, topic) in request.topics.into_iter().enumerate() {
            let info = self.find_topic(&topic.topic, topic.topic_id);
            for partition in &topic.partitions {
                asked.push(Asked {
                    topic: place,
                    partition: partition.partition,
                    from: partition.fetch_offset,
                    max_bytes: usize::try_from(partition.partition_max_bytes).unwrap_or(0),
                    decided: request.isolation_level == READ_COMMITTED,
                    epoch: partition.current_leader_epoch,
                    info: info.clone(),
                });
            }
            topics.push((topic.topic.to_string(), topic.topic_id));
        }
        let asked = Arc::new(asked);
        let mut commits = self.log.commits();
        loop {
            commits.borrow_and_update();
            let found = self.read(&asked, max_bytes).await.map_err(|error| error.chain())?;
            let bytes: usize = found.iter().map(Found::bytes).sum();
            if bytes >= min_bytes && (bytes > 0 || min_bytes == 0)
                || found.iter().any(|found| found.error != 0)
                || asked.is_empty()
            {
                return Ok(Some(answer(&header, &topics, &asked, found)));
            }
            loop {
                match tokio::time::timeout_at(until, commits.changed()).await {
                    // Commits elsewhere are none of our business.
                    Ok(Ok(())) if bytes == 0 && !has_news(&self.log, &asked) => {}
                    Ok(Ok(())) => break,
                    Ok(Err(_)) | Err(_) => return Ok(Some(answer(&header, &topics, &asked, found))),
                }
            }
        }
    }

    async fn read(&self, asked: &Arc<Vec<Asked>>, max_bytes: usize) -> Result<Vec<Found>, Error> {
        if !has_news(&self.log, asked) {
            return Ok(asked
                .iter()
                .map(|asked| look(&self.log, asked).unwrap_or_else(Found::refused))
                .collect());
        }
        let (log, asked) = (self.log.clone(), Arc::clone(asked));
        blocking(move || {
            let mut left = max_bytes;
            let mut none_yet = true;
            let mut found = Vec::with_capacity(asked.len());
            for asked in asked.iter() {
                let read = read_one(&log, asked, left, none_yet);
                left = left.saturating_sub(read.bytes());
                none_yet &= read.batches.is_empty();
                found.push(read);
            }
            Ok(found)
        })
        .await
    }
}

/// Whether some partition has records, or an error to tell.
fn has_news(log: &Log, asked: &[Asked]) -> bool {
    asked.iter().any(|asked| {
        look(log, asked).map_or(true, |found| found.error != 0 || found.limit(asked) > asked.from)
    })
}

/// What there is to say of a partition without reading it.
fn look(log: &Log, asked: &Asked) -> Result<Found, Code> {
    let info = asked.info.as_ref().map_err(|code| *code)?;
    let span = log.span(&info.name, asked.partition).map_err(|_| Code::UnknownTopicOrPartition)?;
    check_current(log, asked.epoch)?;
    if !(span.from..=span.to).contains(&asked.from) {
        return Ok(Found { start: span.from, end: span.to, ..Found::refused(Code::OffsetOutOfRange) });
    }
    let stable = log.stable_end(&info.name, asked.partition).map_err(|_| Code::UnknownTopicOrPartition)?;
    let aborted = asked.decided.then(Vec::new);
    Ok(Found { error: 0, start: span.from, end: span.to, stable, aborted, batches: Vec::new() })
}

/// Reads a partition: at least one batch while the answer has `none_yet`, else what there is room for.
fn read_one(log: &Log, asked: &Asked, left: usize, none_yet: bool) -> Found {
    let mut found = match look(log, asked) {
        Ok(found) => found,
        Err(code) => return Found::refused(code),
    };
    let room = left.min(asked.max_bytes);
    let (Ok(info), true) = (&asked.info, found.error == 0 && found.limit(asked) > asked.from) else {
        return found;
    };
    if room == 0 && !none_yet {
        return found;
    }
    let fetched = if asked.decided {
        log.fetch(&info.name, asked.partition, asked.from, room)
    } else {
        log.fetch_undecided(&info.name, asked.partition, asked.from, room)
    };
    match fetched {
        Ok(fetch) => {
            // The log gives one batch whatever the room.
            let bytes: usize = fetch.batches.iter().map(Bytes::len).sum();
            if none_yet || bytes <= room {
                found.batches = fetch.batches;
                let of_client = fetch.aborted.iter().map(|aborted| (aborted.producer, aborted.first));
                found.aborted = asked.decided.then(|| of_client.collect());
            }
            (found.end, found.stable) = (fetch.end, fetch.stable);
            found
        }
        Err(error) => {
            tracing::warn!(topic = info.name, partition = asked.partition, error = ?error, "a fetch failed");
            match look(log, asked) {
                Ok(again) if again.error != 0 => again,
                _ => Found::refused(Code::KafkaStorageError),
            }
        }
    }
}

/// Puts what was found under its topics.
fn answer(header: &Header, topics: &[(String, Uuid)], asked: &[Asked], found: Vec<Found>) -> Answer {
    let mut by_topic: Vec<Vec<(PartitionId, Found)>> = topics.iter().map(|_| Vec::new()).collect();
    for (asked, found) in asked.iter().zip(found) {
        by_topic[asked.topic].push((asked.partition, found));
    }
    write(header, 0, topics, &by_topic)
}

/// Writes an answer: `kafka-protocol` would copy the records once more.
fn write(
    header: &Header,
    error: i16,
    topics: &[(String, Uuid)],
    found: &[Vec<(PartitionId, Found)>],
) -> Answer {
    let version = header.version;
    let flexible = version >= 12;
    let mut parts = Vec::new();
    let mut out = Answer::begin(header, flexible, 64);
    out.put_i32(0);
    if version >= 7 {
        out.put_i16(error);
        out.put_i32(0);
    }
    put_count(&mut out, flexible, topics.len());
    for ((name, id), partitions) in topics.iter().zip(found) {
        if version >= 13 {
            out.put_slice(id.as_bytes());
        } else {
            put_text(&mut out, flexible, name);
        }
        put_count(&mut out, flexible, partitions.len());
        for (partition, found) in partitions {
            out.put_i32(*partition);
            out.put_i16(found.error);
            out.put_i64(found.end);
            out.put_i64(found.stable);
            if version >= 5 {
                out.put_i64(found.start);
            }
            put_aborted(&mut out, flexible, found.aborted.as_deref());
            if version >= 11 {
                out.put_i32(-1);
            }
            put_length(&mut out, flexible, found.bytes());
            if !found.batches.is_empty() {
                parts.push(out.split().freeze());
                parts.extend(found.batches.iter().cloned());
            }
            put_no_tags(&mut out, flexible);
        }
        put_no_tags(&mut out, flexible);
    }
    put_no_tags(&mut out, flexible);
    parts.push(out.freeze());
    Answer::end(parts)
}

/// Producers and first offsets of aborted transactions, or null.
fn put_aborted(out: &mut BytesMut, flexible: bool, aborted: Option<&[(i64, Offset)]>) {
    match aborted {
        None if flexible => out.put_u8(0),
        None => out.put_i32(-1),
        Some(aborted) => {
            put_count(out, flexible, aborted.len());
            for (producer, first) in aborted {
                out.put_i64(*producer);
                out.put_i64(*first);
                put_no_tags(out, flexible);
            }
        }
    }
}

fn put_no_tags(out: &mut BytesMut, flexible: bool) {
    if flexible {
        out.put_u8(0);
    }
}

fn put_count(out: &mut BytesMut, flexible: bool, count: usize) {
    put_length(out, flexible, count);
}

/// A length of bytes or an array.
fn put_length(out: &mut BytesMut, flexible: bool, length: usize) {
    let length = u32::try_from(length).expect("answers are bounded far below 2 GiB");
    if flexible {
        put_varint(out, length + 1);
    } else {
        out.put_u32(length);
    }
}

fn put_text(out: &mut BytesMut, flexible: bool, text: &str) {
    if flexible {
        put_length(out, true, text.len());
    } else {
        out.put_u16(u16::try_from(text.len()).expect("names that came in a request fit into an answer"));
    }
    out.put_slice(text.as_bytes());
}

fn put_varint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8((value & 0x7f) as u8);
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{FetchResponse, ResponseHeader};
    use kafka_protocol::protocol::{Decodable, HeaderVersion};

    use super::*;

    #[test]
    fn every_version_of_an_answer_is_read_by_another_implementation() {
        let id = Uuid::from_u128(7);
        for version in 4..=18 {
            let header = Header { key: 1, version, correlation: 99, client_id: None };
            let batches = vec![Bytes::from_static(b"first"), Bytes::from_static(b"second")];
            let topics = vec![("t".to_owned(), id), ("u".to_owned(), Uuid::nil())];
            let found = vec![
                vec![
                    (
                        0,
                        Found { error: 0, start: 3, end: 9, stable: 8, aborted: Some(vec![(5, 4)]), batches },
                    ),
                    (1, Found::refused(Code::OffsetOutOfRange)),
                ],
                vec![(4, Found { error: 0, ..Found::refused(Code::UnknownServerError) })],
            ];
            let answer = write(&header, 0, &topics, &found);
            let mut bytes = Bytes::from(answer.parts.concat());
            let length = i32::from_be_bytes(*bytes.split_to(4).first_chunk().expect("four bytes"));
            assert_eq!(usize::try_from(length), Ok(bytes.len()), "version {version}");
            let head =
                ResponseHeader::decode(&mut bytes, FetchResponse::header_version(version)).expect("a header");
            assert_eq!(head.correlation_id, 99);
            let body = FetchResponse::decode(&mut bytes, version).expect("a body");
            assert!(bytes.is_empty(), "version {version}");
            let first = &body.responses[0];
            if version >= 13 {
                assert_eq!(first.topic_id, id);
            } else {
                assert_eq!(first.topic.as_str(), "t");
            }
            assert_eq!(first.partitions[0].high_watermark, 9);
            assert_eq!(first.partitions[0].last_stable_offset, 8);
            let aborted = first.partitions[0].aborted_transactions.as_ref().expect("a list");
            assert_eq!((aborted[0].producer_id.0, aborted[0].first_offset), (5, 4));
            assert!(first.partitions[1].aborted_transactions.is_none());
            assert_eq!(first.partitions[0].records.as_deref(), Some(&b"firstsecond"[..]));
            assert_eq!(first.partitions[1].error_code, 1);
            assert_eq!(body.responses[1].partitions[0].partition_index, 4);
        }
    }
}
