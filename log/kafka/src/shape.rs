//! What the bytes of a request, or of another broker's answer, look like, walked before anything is decoded.
//!
//! *Why*: the decoder of `kafka-protocol` trusts the counts that stand in a message and allocates for them. So a message is
//! first walked along its shape: every length must lie within the bytes that came, and there is a bound on the number of
//! elements of all arrays together. What passes can be decoded with memory in proportion to its bytes.
//!
//! *Layout*: a shape is a list of words: `1 2 4 8 16` (bytes of a fixed field), `s` (string), `b` (bytes), `[ … ]` (array of
//! structures), `{ … }` (one structure), `?[ … ]` (a structure that may be missing), `<s>`, `<4>` and `<8>` (array of strings or of numbers); behind a word `:3-7`, `:3+` or `:-7` are the versions that
//! have it. From a request's first flexible version on, lengths are varints and
//! every structure ends with tagged fields. The shapes follow Kafka's message definitions
//! (<https://kafka.apache.org/protocol.html>).

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use kafka_protocol::messages::ApiKey;

/// Most elements of all arrays of one request together, tagged fields included.
const MOST_ELEMENTS: usize = 200_000;
/// The same, of one answer: a cluster may have some 200,000 partitions, each with its replicas.
const MOST_TOLD_ELEMENTS: usize = 2_000_000;
/// Bytes of a topic's id; nothing else in a request is as long.
pub(crate) const ID_BYTES: usize = 16;

/// API, first flexible version, shape.
const SHAPES: &[(ApiKey, i16, &str)] = &[
    (ApiKey::Produce, 9, "s 2 4 [ s:-12 16:13+ [ 4 b ] ]"),
    (
        ApiKey::Fetch,
        12,
        "4:-14 4 4 4 1 4:7+ 4:7+ [ s:-12 16:13+ [ 4 4:9+ 8 4:12+ 8:5+ 4 ] ] [:7+ s:-12 16:13+ <4> ] s:11+",
    ),
    (ApiKey::ListOffsets, 6, "4 1:2+ [ s [ 4 4:4+ 8 ] ] 4:10+"),
    (ApiKey::Metadata, 9, "[ 16:10+ s ] 1:4+ 1:8-10 1:8+"),
    (ApiKey::ApiVersions, 3, "s:3+ s:3+"),
    (ApiKey::InitProducerId, 2, "s 4 8:3+ 2:3+"),
    (ApiKey::AddPartitionsToTxn, 3, "s 8 2 [ s <4> ]"),
    (ApiKey::AddOffsetsToTxn, 3, "s 8 2 s"),
    (ApiKey::EndTxn, 3, "s 8 2 1"),
    (ApiKey::TxnOffsetCommit, 3, "s s 8 2 4:3+ s:3+ s:3+ [ s [ 4 8 4:2+ s ] ]"),
    (ApiKey::OffsetCommit, 8, "s 4 s s:7+ 8:-4 [ s:-9 16:10+ [ 4 8 4:6+ s ] ]"),
    (ApiKey::OffsetFetch, 6, "s:-7 [:-7 s <4> ] [:8+ s s:9+ 4:9+ [ s:-9 16:10+ <4> ] ] 1:7+"),
    (ApiKey::FindCoordinator, 3, "s:-3 1:1+ <s>:4+"),
    (ApiKey::JoinGroup, 6, "s 4 4:1+ s s:5+ s [ s b ] s:8+"),
    (ApiKey::Heartbeat, 4, "s 4 s s:3+"),
    (ApiKey::LeaveGroup, 4, "s s:-2 [:3+ s s s:5+ ]"),
    (ApiKey::SyncGroup, 4, "s 4 s s:3+ s:5+ s:5+ [ s b ]"),
    (ApiKey::DescribeGroups, 5, "<s> 1:3+"),
    (ApiKey::ListGroups, 3, "<s>:4+ <s>:5+"),
    (ApiKey::DeleteGroups, 2, "<s>"),
    (ApiKey::OffsetDelete, i16::MAX, "s [ s [ 4 ] ]"),
    (ApiKey::CreateTopics, 5, "[ s 4 2 [ 4 <4> ] [ s s ] ] 4 1"),
    (ApiKey::DeleteTopics, 4, "[:6+ s 16 ] <s>:-5 4"),
    (ApiKey::DeleteRecords, 2, "[ s [ 4 8 ] ] 4"),
    (ApiKey::CreatePartitions, 2, "[ s 4 [ <4> ] ] 4 1"),
    (ApiKey::DescribeConfigs, 4, "[ 1 s <s> ] 1 1:3+"),
    (ApiKey::AlterConfigs, 2, "[ 1 s [ s s ] ] 1"),
    (ApiKey::IncrementalAlterConfigs, 1, "[ 1 s [ s 1 s ] ] 1"),
    (ApiKey::DescribeTopicPartitions, 0, "[ s ] 4 ?[ s 4 ]"),
    (ApiKey::DescribeLogDirs, 2, "[ s <4> ]"),
    (ApiKey::ListPartitionReassignments, 0, "4 [ s <4> ]"),
    (ApiKey::DescribeAcls, 2, "1 s 1 s s 1 1"),
    (ApiKey::CreateAcls, 2, "[ 1 s 1 s s 1 1 ]"),
    (ApiKey::DeleteAcls, 2, "[ 1 s 1 s s 1 1 ]"),
    (ApiKey::OffsetForLeaderEpoch, 4, "4:3+ [ s [ 4 4 4 ] ]"),
    (ApiKey::ConsumerGroupHeartbeat, 0, "s s 4 s s 4 <s> s:1+ s [ 16 <4> ]"),
    (ApiKey::ConsumerGroupDescribe, 0, "<s> 1"),
    (ApiKey::DescribeCluster, 0, "1 1:1+ 1:2+"),
    (ApiKey::DescribeProducers, 0, "[ s <4> ]"),
    (ApiKey::DescribeTransactions, 0, "<s>"),
    (ApiKey::ListTransactions, 0, "<s> <8> 8:1+ s:2+"),
];

/// The same of answers, in the versions that [`crate::client`] asks for.
const ANSWERS: &[(ApiKey, i16, &str)] = &[
    (ApiKey::Produce, 9, "[ s [ 4 2 8 8:2+ 8:5+ [:8+ 4 s ] s:8+ ] ] 4:1+"),
    (ApiKey::Fetch, 12, "4:1+ 2:7+ 4:7+ [ s [ 4 2 8 8:4+ 8:5+ [:4+ 8 8 ] 4:11+ b ] ]"),
    (ApiKey::ListOffsets, 6, "4:2+ [ s [ 4 2 8 8 4:4+ ] ]"),
    (
        ApiKey::Metadata,
        9,
        "4:3+ [ 4 s 4 s:1+ ] s:2+ 4:1+ [ 2 s 16:10+ 1:1+ [ 2 4 4 4:7+ <4> <4> <4>:5+ ] 4:8+ ] 4:8-10",
    ),
    (ApiKey::ApiVersions, 3, "2 [ 2 2 2 ] 4:1+"),
    (ApiKey::SaslHandshake, i16::MAX, "2 <s>"),
    (ApiKey::SaslAuthenticate, 2, "2 s b 8:1+"),
    (ApiKey::OffsetCommit, 8, "4:3+ [ s [ 4 2 ] ]"),
    (ApiKey::OffsetFetch, 6, "4:3+ [ s [ 4 8 4:5+ s 2 ] ] 2:2+"),
    (ApiKey::FindCoordinator, 3, "4:1+ 2 s:1+ 4 s 4"),
    (ApiKey::DescribeGroups, 5, "4:1+ [ 2 s s s s [ s s:4+ s s b b ] 4:3+ ]"),
    (ApiKey::ListGroups, 3, "4:1+ 2 [ s s s:4+ ]"),
    (ApiKey::DeleteGroups, 2, "4 [ s 2 ]"),
    (
        ApiKey::ConsumerGroupDescribe,
        0,
        "4 [ 2 s s s 4 4 s [ s s s 4 s s <s> s { [ 16 s <4> ] } { [ 16 s <4> ] } ] 4 ]",
    ),
    (ApiKey::ConsumerGroupHeartbeat, 0, "4 2 s s 4 4 ?[ [ 16 <4> ] ]"),
    (ApiKey::CreateTopics, 5, "4 [ s 2 s 4:5+ 2:5+ [:5+ s s 1 1 1 ] ]"),
    (ApiKey::DeleteTopics, 4, "4 [ s 2 s:5+ ]"),
    (ApiKey::CreatePartitions, 2, "4 [ s 2 s ]"),
    (ApiKey::DescribeConfigs, 4, "4 [ 2 s 1 s [ s s 1 1 1 [ s s 1 ] 1:3+ s:3+ ] ]"),
    (ApiKey::IncrementalAlterConfigs, 1, "4 [ 2 s 1 s ]"),
];

static PARSED: LazyLock<HashMap<i16, Shape>> = LazyLock::new(|| parsed(SHAPES));
static PARSED_ANSWERS: LazyLock<HashMap<i16, Shape>> = LazyLock::new(|| parsed(ANSWERS));

fn parsed(shapes: &[(ApiKey, i16, &str)]) -> HashMap<i16, Shape> {
    let parse = |(key, flexible, text): &(ApiKey, i16, &str)| {
        let mut words = text.split(' ');
        (*key as i16, Shape { flexible_from: *flexible, fields: parse_fields(&mut words) })
    };
    shapes.iter().map(parse).collect()
}

/// The shape of one request, or of its answer.
#[derive(Debug)]
struct Shape {
    flexible_from: i16,
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    versions: RangeInclusive<i16>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Fixed(usize),
    Text,
    Bytes,
    Structures(Vec<Field>),
    Structure(Vec<Field>),
    /// One, or none.
    Maybe(Vec<Field>),
    Texts,
    /// Of so many bytes each.
    Numbers(usize),
}

fn parse_fields<'a>(words: &mut impl Iterator<Item = &'a str>) -> Vec<Field> {
    let mut fields = Vec::new();
    while let Some(word) = words.next().filter(|word| !matches!(*word, "]" | "}")) {
        let (kind, versions) = word.split_once(':').unwrap_or((word, "0+"));
        let kind = match kind {
            "s" => Kind::Text,
            "b" => Kind::Bytes,
            "[" => Kind::Structures(parse_fields(words)),
            "{" => Kind::Structure(parse_fields(words)),
            "?[" => Kind::Maybe(parse_fields(words)),
            "<s>" => Kind::Texts,
            "<4>" => Kind::Numbers(4),
            "<8>" => Kind::Numbers(8),
            bytes => Kind::Fixed(bytes.parse().expect("shapes are constants that a test walks")),
        };
        let (first, last) = match versions.split_once('-') {
            Some((first, last)) => (first, last),
            None => (versions.trim_end_matches('+'), ""),
        };
        fields.push(Field { versions: first.parse().unwrap_or(0)..=last.parse().unwrap_or(i16::MAX), kind });
    }
    fields
}

/// Whether `body`, a request of `key` in `version`, has the shape that it should, within bounds. The error says what is wrong.
pub(crate) fn check(key: ApiKey, version: i16, body: &[u8]) -> Result<(), &'static str> {
    ids(key, version, body).map(|_| ())
}

/// As [`check`]: where in `body` the ids stand, each of [`ID_BYTES`].
pub(crate) fn ids(key: ApiKey, version: i16, body: &[u8]) -> Result<Vec<usize>, &'static str> {
    let shape = PARSED.get(&(key as i16)).ok_or("a request without a shape")?;
    let mut walk = Walk::new(body, shape, version, MOST_ELEMENTS);
    // librdkafka leaves bytes behind the end of some requests; nobody reads them.
    walk.structure(&shape.fields)?;
    Ok(walk.left_at_ids.iter().map(|left| body.len() - left).collect())
}

/// Whether `body`, the answer to a request of `key` in `version`, has the shape that it should, within bounds.
pub(crate) fn check_answer(key: i16, version: i16, body: &[u8]) -> Result<(), &'static str> {
    let shape = PARSED_ANSWERS.get(&key).ok_or("an answer without a shape")?;
    Walk::new(body, shape, version, MOST_TOLD_ELEMENTS).structure(&shape.fields)
}

struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
    elements: usize,
    most_elements: usize,
    /// How many bytes were left where each id began.
    left_at_ids: Vec<usize>,
}

impl<'a> Walk<'a> {
    fn new(rest: &'a [u8], shape: &Shape, version: i16, most_elements: usize) -> Walk<'a> {
        let flexible = version >= shape.flexible_from;
        Walk { rest, version, flexible, elements: 0, most_elements, left_at_ids: Vec::new() }
    }

    fn structure(&mut self, fields: &[Field]) -> Result<(), &'static str> {
        let version = self.version;
        for field in fields.iter().filter(|field| field.versions.contains(&version)) {
            match &field.kind {
                Kind::Fixed(bytes) => {
                    if *bytes == ID_BYTES {
                        self.left_at_ids.push(self.rest.len());
                    }
                    self.skip(*bytes)?;
                }
                Kind::Text => {
                    let length = self.text_length()?;
                    self.skip(length)?;
                }
                Kind::Bytes => {
                    let length = self.length()?;
                    self.skip(length)?;
                }
                Kind::Structures(fields) => {
                    for _ in 0..self.count()? {
                        self.structure(fields)?;
                    }
                }
                Kind::Structure(fields) => self.structure(fields)?,
                Kind::Maybe(fields) => {
                    if self.take(1)?[0] < 0x80 {
                        self.structure(fields)?;
                    }
                }
                Kind::Texts => {
                    for _ in 0..self.count()? {
                        let length = self.text_length()?;
                        self.skip(length)?;
                    }
                }
                Kind::Numbers(bytes) => {
                    let count = self.count()?;
                    self.skip(count * bytes)?;
                }
            }
        }
        if self.flexible { self.tagged_fields() } else { Ok(()) }
    }

    fn tagged_fields(&mut self) -> Result<(), &'static str> {
        let count = self.varint()?;
        self.bound(count)?;
        for _ in 0..count {
            self.varint()?;
            let length = self.varint()?;
            self.skip(length)?;
        }
        Ok(())
    }

    /// Elements of an array; none when it is null.
    fn count(&mut self) -> Result<usize, &'static str> {
        let count = self.length()?;
        self.bound(count)?;
        Ok(count)
    }

    fn bound(&mut self, count: usize) -> Result<(), &'static str> {
        self.elements = self.elements.saturating_add(count);
        // Every element has a byte at least.
        if count > self.rest.len() {
            return Err("an array that passes its end");
        }
        if self.elements > self.most_elements {
            return Err("more elements than are allowed");
        }
        Ok(())
    }

    /// Length of bytes or an array; 0 when null.
    fn length(&mut self) -> Result<usize, &'static str> {
        if self.flexible {
            return Ok(self.varint()?.saturating_sub(1));
        }
        let length = i32::from_be_bytes(*self.take(4)?.first_chunk().ok_or("torn")?);
        length_of(length)
    }

    fn text_length(&mut self) -> Result<usize, &'static str> {
        if self.flexible {
            return Ok(self.varint()?.saturating_sub(1));
        }
        let length = i16::from_be_bytes(*self.take(2)?.first_chunk().ok_or("torn")?);
        length_of(i32::from(length))
    }

    fn varint(&mut self) -> Result<usize, &'static str> {
        let mut value = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.take(1)?[0];
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(value).map_err(|_| "a number out of bounds");
            }
        }
        Err("a number out of bounds")
    }

    fn skip(&mut self, bytes: usize) -> Result<(), &'static str> {
        self.take(bytes).map(|_| ())
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or("a field that passes its end")?;
        self.rest = rest;
        Ok(taken)
    }
}

fn length_of(length: i32) -> Result<usize, &'static str> {
    match length {
        -1 => Ok(0),
        length => usize::try_from(length).map_err(|_| "a negative length"),
    }
}

#[cfg(test)]
mod tests;
