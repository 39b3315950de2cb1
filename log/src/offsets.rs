//! What consumer groups have reached, and who is in them: stored with an append, read from the ledger.
//!
//! Of who is in a group the log knows nothing: it keeps a text.

use std::collections::{BTreeMap, HashMap};

use tarn_model::{Error, Offset, PartitionId, Result};
use uuid::Uuid;

use crate::Log;
use crate::append::Append;

/// Longest name of a group, and longest metadata of an offset, in bytes.
pub(crate) const LONGEST_GROUP_TEXT: usize = 4 << 10;

/// What a group has reached in one partition.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GroupOffset {
    /// The group.
    pub group: String,
    /// The topic; with it, its offsets are forgotten.
    pub topic: String,
    /// Its identity, where it is known: then a topic that has the name since does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<Uuid>,
    /// The partition.
    pub partition: PartitionId,
    /// The offset; `None` forgets it.
    pub committed: Option<CommittedOffset>,
}

/// An offset that a group committed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: Offset,
    /// Leader epoch of the last record read; -1 when the client does not say.
    pub leader_epoch: i32,
    /// Whatever the client stored with it.
    pub metadata: Option<String>,
    /// When it was committed, ms since 1970 UTC.
    pub at_ms: i64,
}

/// Group → topic, partition and offset of what it has committed.
pub type OffsetsByGroup = BTreeMap<String, Vec<(String, PartitionId, Offset)>>;

/// What an append changes of consumer groups.
#[derive(Debug, Default)]
pub(crate) struct GroupChanges {
    pub(crate) offsets: Vec<GroupOffset>,
    /// Offsets that go if they still are what was seen.
    pub(crate) expired: Vec<GroupOffset>,
    /// Groups, and who is in them.
    pub(crate) members: Vec<(String, Option<String>)>,
}

impl GroupChanges {
    pub(crate) fn is_empty(&self) -> bool {
        self.offsets.is_empty() && self.expired.is_empty() && self.members.is_empty()
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.offsets.iter().try_for_each(GroupOffset::check)?;
        self.members.iter().try_for_each(|(group, _)| check_name(group))
    }
}

fn check_name(group: &str) -> Result<()> {
    if (1..=LONGEST_GROUP_TEXT).contains(&group.len()) {
        return Ok(());
    }
    Err(Error::invalid(format!("a group's name has 1 to {LONGEST_GROUP_TEXT} bytes")))
}

impl GroupOffset {
    pub(crate) fn bytes(&self) -> usize {
        let metadata = self.committed.as_ref().and_then(|c| c.metadata.as_ref()).map_or(0, String::len);
        self.group.len() + self.topic.len() + metadata + 32
    }

    /// Whether the topic of this identity is meant, which has the name now.
    pub(crate) fn is_of(&self, topic: Uuid) -> bool {
        self.topic_id.is_none_or(|meant| meant == topic)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let metadata = self.committed.as_ref().and_then(|c| c.metadata.as_ref()).map_or(0, String::len);
        if metadata > LONGEST_GROUP_TEXT {
            let told = format!("the metadata of an offset have at most {LONGEST_GROUP_TEXT} bytes");
            return Err(Error::invalid(told));
        }
        check_name(&self.group)
    }
}

impl Log {
    /// What `group` has committed: topic, partition, offset. Blocking.
    pub fn group_offsets(&self, group: &str) -> Result<Vec<(String, PartitionId, CommittedOffset)>> {
        let rows = self.shared().reader.group_offsets(group)?;
        let visible = self.shared().visible.read();
        let names: HashMap<i64, &String> =
            visible.topics.iter().map(|(name, topic)| (topic.id, name)).collect();
        let named = |(topic, partition, committed)| {
            Some((names.get(&topic).map(|name| (*name).clone())?, partition, committed))
        };
        Ok(rows.into_iter().filter_map(named).collect())
    }

    /// What all groups have committed, by group: topic, partition, offset. One look into the ledger, however many groups there
    /// are. Blocking.
    pub fn all_group_offsets(&self) -> Result<OffsetsByGroup> {
        let rows = self.shared().reader.all_group_offsets()?;
        let visible = self.shared().visible.read();
        let names: HashMap<i64, &String> =
            visible.topics.iter().map(|(name, topic)| (topic.id, name)).collect();
        let mut groups = OffsetsByGroup::new();
        for (group, topic, partition, offset) in rows {
            if let Some(name) = names.get(&topic) {
                groups.entry(group).or_default().push(((*name).clone(), partition, offset));
            }
        }
        Ok(groups)
    }

    /// All groups that have committed an offset. Blocking.
    pub fn groups(&self) -> Result<Vec<String>> {
        Ok(self.shared().reader.groups()?)
    }

    /// Who is in the groups, as [`Append::group_members`] stored it. Blocking.
    pub fn group_members(&self) -> Result<Vec<(String, String)>> {
        Ok(self.shared().reader.group_members()?)
    }

    /// Forgets a group, and all that it has committed; what it commits meanwhile stays.
    pub async fn forget_group(&self, group: &str) -> Result<()> {
        let log = self.clone();
        let owned = group.to_owned();
        let offsets = tokio::task::spawn_blocking(move || log.group_offsets(&owned))
            .await
            .map_err(|error| Error::internal("reading a group failed").with_source(error))??;
        self.append(forgetting(group, offsets)).await.map(|_| ())
    }

    /// An id for a new idempotent producer: never given before.
    pub async fn new_producer_id(&self) -> Result<i64> {
        self.ask(|committer| committer.new_producer_id()).await
    }
}

/// Forgets a group and what it had committed when that was `seen`.
fn forgetting(group: &str, seen: Vec<(String, PartitionId, CommittedOffset)>) -> Append {
    let mut append = Append::new();
    for (topic, partition, committed) in seen {
        append.expire_group_offset(group, &topic, partition, committed);
    }
    append.group_members(group, None);
    append
}

#[cfg(test)]
mod tests {
    use tarn_model::clock::ManualClock;
    use tarn_model::config::LogConfig;

    use super::*;
    use crate::{LogOptions, TopicOptions};

    #[test]
    fn an_offset_that_an_older_process_stored_is_read() {
        let stored = r#"{"group":"g","topic":"t","partition":3,"committed":null}"#;
        let offset: GroupOffset = serde_json::from_str(stored).expect("read");
        assert!(offset.is_of(Uuid::from_u128(1)) && offset.is_of(Uuid::from_u128(2)));
        assert_eq!(serde_json::to_string(&offset).expect("written"), stored);
    }

    #[tokio::test]
    async fn what_a_group_commits_while_it_is_forgotten_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let options = LogOptions::from(&LogConfig::default());
        let log = Log::open(dir.path(), options, ManualClock::at(1)).expect("open");
        let partitions = TopicOptions { partitions: 2, retention_time: None, retention_bytes: None };
        log.create_topic("t", &partitions).expect("a topic");
        let commit = async |partition, offset| {
            let committed = CommittedOffset { offset, leader_epoch: -1, metadata: None, at_ms: 5 };
            let (group, topic, topic_id) = ("g".to_owned(), "t".to_owned(), None);
            let mut append = Append::new();
            append.group_offset(GroupOffset {
                group,
                topic,
                topic_id,
                partition,
                committed: Some(committed),
            });
            log.append(append).await.expect("committed");
        };
        commit(0, 3).await;
        commit(1, 3).await;
        let seen = log.group_offsets("g").expect("read");
        commit(1, 4).await;
        log.append(forgetting("g", seen)).await.expect("forgotten");
        let left = log.group_offsets("g").expect("read");
        assert_eq!(left.iter().map(|(_, p, c)| (*p, c.offset)).collect::<Vec<_>>(), [(1, 4)]);
    }
}
