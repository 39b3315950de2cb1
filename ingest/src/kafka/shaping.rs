//! Records whose values are looked at: the format, interceptors and routes of a `kafka` source.
//!
//! A record keeps its timestamp, its headers, its partition where the topic that it goes to has it, and its key unless the source has a
//! `key` of its own. Its header `topic` says where it was read. One without a value (a tombstone), or above the topic's limit, has nothing
//! to be looked at, and passes as it is.

use std::sync::Arc;

use tarn_log::{RecordRef, RecordView, TopicInfo};
use tarn_model::config::KafkaConfig;
use tarn_model::{PartitionId, Result};
use xxhash_rust::xxh3::xxh3_128;

use super::Followed;
use crate::appender::Appender;
use crate::shaper::{Found, Place, Shaper, Sink};
use crate::source::Source;

/// Shapes the records of one source.
pub(super) struct Shaping {
    shaper: Shaper,
    /// Whether the key is a field of the value.
    makes_key: bool,
    /// Of the partition that is read.
    origin: u128,
}

impl Shaping {
    /// `None` where records pass as they are.
    pub(super) fn of(source: &Source, config: &KafkaConfig) -> Result<Option<Shaping>> {
        let Some(format) = config.format_of(&source.config) else { return Ok(None) };
        let shaper = Shaper::of_lines(&source.config, format, &config.lines)?;
        Ok(Some(Shaping { shaper, makes_key: source.config.key.is_some(), origin: 0 }))
    }

    /// Records of `one` come next.
    pub(super) fn begin(&mut self, source: &Source, one: &Followed) -> Result<()> {
        // Of a topic that was made anew the same offsets are others.
        self.origin = xxh3_128(format!("{} {}", one.key(), one.reached.id).as_bytes());
        self.shaper.begin(source, one.local.clone())
    }

    pub(super) fn push(
        &mut self,
        appender: &mut Appender<'_>,
        one: &Followed,
        partition: Option<PartitionId>,
        record: &RecordView<'_>,
    ) -> Result<()> {
        let whole = |value: &&[u8]| value.len() <= one.local.max_record_bytes;
        let Some(value) = record.value.filter(whole) else {
            return appender.push_copy(&one.local, partition, record);
        };
        let offset = u64::try_from(record.offset).unwrap_or(0);
        let header = Some(("topic", one.topic.as_str()));
        let place = Place { header, origin: (self.origin, offset), ..Place::default() };
        let headers = record.headers().map(|(name, value)| (name, value.unwrap_or_default())).collect();
        let key = record.key.filter(|_| !self.makes_key);
        let mut onward = Onward { appender, partition, headers, key };
        self.shaper.push(&mut onward, record.timestamp_ms, &place, &Found::value(value)).map(drop)
    }
}

/// Hands a record over with what it had.
struct Onward<'a, 'b> {
    appender: &'a mut Appender<'b>,
    partition: Option<PartitionId>,
    headers: Vec<(&'a str, &'a [u8])>,
    /// The key, which need not be text.
    key: Option<&'a [u8]>,
}

impl Sink for Onward<'_, '_> {
    fn push(&mut self, topic: &Arc<TopicInfo>, record: &RecordRef<'_>) -> Result<()> {
        let mut headers = self.headers.clone();
        headers.extend(record.headers);
        let record = RecordRef { headers: &headers, key: record.key.or(self.key), ..*record };
        let partition = self.partition.filter(|partition| *partition < topic.partitions);
        self.appender.push_to(topic, partition, &record)
    }

    fn dropped(&mut self) {
        self.appender.dropped();
    }
}
