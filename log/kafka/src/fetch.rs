//! Fetch: whole record batches out of the segments, as they lie there.
//!
//! A fetch that finds less than it wants waits for its partitions to change, until its time is up; while it waits it costs a task and
//! no thread, and commits elsewhere cost it nothing. It reads again when there may be as much as it wants, not before. Batches go from the segments' read buffers to the socket without another copy.
//!
//! *Memory*: the records of all answers share one budget ([`Answers`]), from before they are read until they have left. A fetch
//! waits some seconds for its part, first come, first served, and then is answered without records, so that its client asks
//! again. Nobody who waits holds any of it; whoever takes its answer too slowly is hung up on (`connection.rs`).
//!
//! *Sessions*: none are kept; every answer says so (session id 0), and a request that names one is told that it is not there.
//! Clients then send whole requests, which is right and costs some bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::{ApiKey, FetchRequest};
use tarn_log::{Log, News, Standing, TopicInfo};
use tarn_model::{Error, Offset, PartitionId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::broker::{Answered, Broker, Incoming, blocking};
use crate::epochs::check_current;
use crate::frame::{Answer, Header};
use crate::offsets::READ_COMMITTED;

/// Most bytes of records in one answer; at least one batch is in it whatever its size.
const LARGEST_ANSWER_BYTES: usize = 16 << 20;
/// KiB of records in the answers of all connections together.
const ANSWERS_KIB: usize = 128 << 10;
/// What a fetch may ask for however little is free.
const AT_LEAST: usize = 1 << 20;
/// How long a fetch waits for its part of that.
const ROOM_WAIT: Duration = Duration::from_secs(5);
/// Longest time that a fetch waits.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The memory for the records in all answers.
#[derive(Debug)]
pub(crate) struct Answers {
    room: Arc<Semaphore>,
    kib: usize,
    wait: Duration,
}

impl Answers {
    pub(crate) fn new() -> Answers {
        Answers::of(ANSWERS_KIB, ROOM_WAIT)
    }

    fn of(kib: usize, wait: Duration) -> Answers {
        Answers { room: Arc::new(Semaphore::new(kib)), kib, wait }
    }

    /// Bytes that nobody has.
    fn free(&self) -> usize {
        self.room.available_permits() << 10
    }

    /// Room for so many bytes, or for as many as there can be; `None` when there was none for too long.
    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let room = Arc::clone(&self.room).acquire_many_owned(self.in_kib(bytes));
        tokio::time::timeout(self.wait, room).await.ok()?.ok()
    }

    fn in_kib(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(1 << 10).clamp(1, self.kib)).unwrap_or(u32::MAX)
    }
}

/// What was read, and the room that it takes.
#[derive(Debug)]
struct Read {
    found: Vec<Found>,
    room: Option<OwnedSemaphorePermit>,
    /// There was no room for what there is.
    is_full: bool,
}

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
    /// Bytes in the log from there on, and some before.
    held: u64,
    /// Bytes that were read of it.
    read: usize,
    /// Producer and first offset of aborted transactions among `batches`; `None` for who sees everything.
    aborted: Option<Vec<(i64, Offset)>>,
    batches: Vec<Bytes>,
}

impl Found {
    fn refused(code: Code) -> Found {
        Found {
            error: code.code(),
            start: -1,
            end: -1,
            stable: -1,
            held: 0,
            read: 0,
            aborted: None,
            batches: Vec::new(),
        }
    }

    /// What is to be remembered of it while it waits for more.
    fn without_records(&self) -> Found {
        Found { batches: Vec::new(), aborted: None, ..*self }
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
        let mut news: Option<News> = None;
        loop {
            let read = self.read(&asked, max_bytes).await.map_err(|error| error.chain())?;
            let found = &read.found;
            let bytes: usize = found.iter().map(Found::bytes).sum();
            if bytes >= min_bytes && (bytes > 0 || min_bytes == 0)
                || found.iter().any(|found| found.error != 0)
                || read.is_full
                || asked.is_empty()
            {
                return Ok(Some(answer(&header, &topics, &asked, read)));
            }
            let news = news.get_or_insert_with(|| {
                let of = |asked: &Asked| Some((asked.info.as_ref().ok()?.id, asked.partition));
                self.log.news(asked.iter().filter_map(of))
            });
            // What came before it was known that we wait is told to nobody: so first a look.
            let found: Vec<Found> = read.found.iter().map(Found::without_records).collect();
            drop(read);
            let mut is_late = false;
            while !is_late && !may_suffice(&self.log, &asked, &found, min_bytes) {
                is_late = tokio::time::timeout_at(until, news.changed()).await.is_err();
            }
            if is_late || tokio::time::Instant::now() >= until {
                let read = self.read(&asked, max_bytes).await.map_err(|error| error.chain())?;
                return Ok(Some(answer(&header, &topics, &asked, read)));
            }
        }
    }

    async fn read(&self, asked: &Arc<Vec<Asked>>, max_bytes: usize) -> Result<Read, Error> {
        let looked = || asked.iter().map(|asked| look(&self.log, asked).unwrap_or_else(Found::refused));
        if !has_news(&self.log, asked) {
            return Ok(Read { found: looked().collect(), room: None, is_full: false });
        }
        let held = |(asked, found): (&Asked, Found)| {
            let has_records = found.limit(asked) > asked.from;
            let held = usize::try_from(found.held).unwrap_or(usize::MAX);
            if has_records { held.min(asked.max_bytes) } else { 0 }
        };
        let there = asked.iter().zip(looked()).map(held).fold(0, usize::saturating_add);
        // Whoever asks for much while others take their time gets a part of what is free: waiting for all of it would hold up who asks for little.
        let mut wanted = there.min(max_bytes).min((self.answers.free() / 4).max(AT_LEAST));
        loop {
            let Some(mut room) = self.answers.take(wanted).await else {
                return Ok(Read { found: looked().collect(), room: None, is_full: true });
            };
            let found = self.read_now(asked, max_bytes.min(wanted)).await?;
            let bytes = found.iter().map(Found::bytes).sum();
            let (needed, has) =
                (self.answers.in_kib(bytes), u32::try_from(room.num_permits()).unwrap_or(u32::MAX));
            if needed <= has {
                drop(room.split((has - needed) as usize));
                return Ok(Read { found, room: Some(room), is_full: false });
            }
            // The first batch is larger than what was asked for: it is read again when there is room for it.
            wanted = bytes;
        }
    }

    async fn read_now(&self, asked: &Arc<Vec<Asked>>, max_bytes: usize) -> Result<Vec<Found>, Error> {
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

/// Whether another read may bring what `found` lacks: something else than bytes, or `min_bytes` of them. What has come since is known
/// from the sizes of the segments.
fn may_suffice(log: &Log, asked: &[Asked], found: &[Found], min_bytes: usize) -> bool {
    let (mut bytes, mut has_more) = (0, false);
    for (asked, found) in asked.iter().zip(found) {
        let Ok(now) = look(log, asked) else { return true };
        if now.error != found.error {
            return true;
        }
        // What was undecided is there already, and none of it was given.
        let counted = if asked.decided && found.stable < found.end { 0 } else { found.held };
        let came = usize::try_from(now.held.saturating_sub(counted)).unwrap_or(usize::MAX);
        let is_more = now.limit(asked) > found.limit(asked);
        has_more |= is_more;
        let there = if is_more { found.read.saturating_add(came).min(asked.max_bytes) } else { 0 };
        bytes += there.max(found.read);
    }
    has_more && bytes >= min_bytes
}

/// What there is to say of a partition without reading it.
fn look(log: &Log, asked: &Asked) -> Result<Found, Code> {
    let info = asked.info.as_ref().map_err(|code| *code)?;
    // A topic that has the name since is another one.
    let standing = log.standing(info, asked.partition, asked.from);
    let Standing { start, end, stable, bytes } = standing.map_err(|_| Code::UnknownTopicOrPartition)?;
    check_current(log, asked.epoch)?;
    if !(start..=end).contains(&asked.from) {
        return Ok(Found { start, end, ..Found::refused(Code::OffsetOutOfRange) });
    }
    let aborted = asked.decided.then(Vec::new);
    Ok(Found { error: 0, start, end, stable, held: bytes, read: 0, aborted, batches: Vec::new() })
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
    // The log reads by name: what it read is of this topic if it is still there.
    if log.topic(&info.name).is_none_or(|now| now.id != info.id) {
        return Found::refused(Code::UnknownTopicOrPartition);
    }
    match fetched {
        Ok(fetch) => {
            // The log gives one batch whatever the room.
            let bytes: usize = fetch.batches.iter().map(Bytes::len).sum();
            if none_yet || bytes <= room {
                found.batches = fetch.batches;
                found.read = bytes;
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
fn answer(header: &Header, topics: &[(String, Uuid)], asked: &[Asked], read: Read) -> Answer {
    let mut by_topic: Vec<Vec<(PartitionId, Found)>> = topics.iter().map(|_| Vec::new()).collect();
    for (asked, found) in asked.iter().zip(read.found) {
        by_topic[asked.topic].push((asked.partition, found));
    }
    Answer { room: read.room, ..write(header, 0, topics, &by_topic) }
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
    use bytes::Buf;
    use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
    use kafka_protocol::messages::{FetchResponse, ResponseHeader, TopicName};
    use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};
    use tarn_log::{Append, LogOptions, RecordRef, TopicOptions};
    use tarn_model::clock;
    use tarn_model::config::{Compression, LogConfig};

    use super::*;
    use crate::KafkaOptions;
    use crate::coordinator::Coordinator;

    /// A broker with this memory for answers, and a topic with records of 100 KiB.
    async fn broker(dir: &tempfile::TempDir, answers: Answers) -> Broker {
        let options =
            LogOptions { compression: Compression::None, ..LogOptions::from(&LogConfig::default()) };
        let log = Log::open(dir.path(), options, clock::system()).expect("open");
        let one = TopicOptions { partitions: 1, retention_time: None, retention_bytes: None };
        let topic = log.create_topic("t", &one).expect("a topic");
        for _ in 0..3 {
            let value = vec![7; 100 << 10];
            let record = RecordRef { timestamp_ms: 1, key: None, value: Some(&value), headers: &[] };
            let mut append = Append::new();
            append.push(&topic, &record).expect("pushed");
            log.append(append).await.expect("appended");
        }
        let hour = Duration::from_secs(3600);
        Broker {
            log,
            options: KafkaOptions {
                auto_create_topics: false,
                default_partitions: 1,
                offsets_retention: hour,
            },
            coordinator: Arc::new(Coordinator::new(clock::system())),
            clock: clock::system(),
            answers,
            unpacking: Arc::new(Semaphore::new(1)),
            seeking: Arc::new(Semaphore::new(1)),
            admin: tokio::sync::Mutex::new(()),
        }
    }

    /// Fetches at most so many bytes: the answer, and the bytes of records in it.
    async fn fetch(broker: &Broker, max_bytes: i32) -> (Answer, usize) {
        let partition =
            FetchPartition::default().with_partition_max_bytes(max_bytes).with_current_leader_epoch(-1);
        let topic = FetchTopic::default()
            .with_topic(TopicName(crate::broker::text("t")))
            .with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_max_bytes(max_bytes)
            .with_min_bytes(1)
            .with_max_wait_ms(60_000)
            .with_topics(vec![topic]);
        let mut body = BytesMut::new();
        request.encode(&mut body, 12).expect("encoded");
        let header = Header { key: 1, version: 12, correlation: 1, client_id: None };
        let answer = broker.fetch(Incoming { header, body: body.freeze() }).await.expect("answered");
        let answer = answer.expect("an answer");
        let mut bytes = Bytes::from(answer.parts.concat());
        bytes.advance(4);
        ResponseHeader::decode(&mut bytes, FetchResponse::header_version(12)).expect("a header");
        let body = FetchResponse::decode(&mut bytes, 12).expect("a body");
        let partition = &body.responses[0].partitions[0];
        assert_eq!((partition.error_code, partition.high_watermark), (0, 3));
        (answer, partition.records.as_ref().map_or(0, Bytes::len))
    }

    #[tokio::test]
    async fn answers_that_nobody_takes_leave_the_others_waiting_and_not_the_memory_growing() {
        let dir = tempfile::tempdir().expect("a folder");
        let broker = broker(&dir, Answers::of(250, Duration::from_millis(10))).await;
        let (first, bytes) = fetch(&broker, 1 << 20).await;
        assert!(bytes > 300 << 10, "one answer may have all there is: {bytes}");
        let (second, none) = fetch(&broker, 1).await;
        assert_eq!((none, second.room.is_none()), (0, true), "it is to ask again");
        drop(first);
        // One batch, though it is larger than what was asked for; its whole size counts.
        let (third, one) = fetch(&broker, 1).await;
        assert!((100 << 10..200 << 10).contains(&one), "{one}");
        assert_eq!(broker.answers.room.available_permits(), 250 - one.div_ceil(1 << 10));
        drop((second, third));
        assert_eq!(broker.answers.room.available_permits(), 250);
    }

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
                        Found {
                            error: 0,
                            start: 3,
                            end: 9,
                            stable: 8,
                            held: 0,
                            read: 0,
                            aborted: Some(vec![(5, 4)]),
                            batches,
                        },
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
