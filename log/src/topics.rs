//! Creating and changing topics: jobs of the committer, but for the files of a new topic.
//!
//! *Why*: a topic may have 10,000 partitions, and each of them is a folder that is synced. What nobody has seen yet ([`Prepared`]) can
//! be made beside the commits; the job then only writes the topic's row. The partitions that an existing topic gets are made by
//! the job itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tarn_model::clock::new_id;
use tarn_model::columns::Columns;
use tarn_model::{Boundary, Error, PartitionId, Result, fault};
use uuid::Uuid;

use crate::committer::Committer;
use crate::draft::sync_dir;
use crate::error::LogError;
use crate::ledger::{PartitionRow, TopicRow};
use crate::options::{TopicConfigs, TopicInfo, TopicOptions};
use crate::recovery;
use crate::segment::{Extent, Segment};
use crate::shared::Shared;
use crate::visible::{Partition, Placed, Topic};

/// Kafka's longest name.
const LONGEST_NAME: usize = 249;
/// Bound of partitions per topic: each has a folder, and an open file once it is written to.
const MOST_PARTITIONS: i32 = 10_000;

/// The folders and files of a topic that is not there yet, under an identity that nobody knows.
#[derive(Debug)]
pub(crate) struct Prepared {
    uuid: Uuid,
    dir: PathBuf,
    rows: Vec<PartitionRow>,
    partitions: Vec<Partition>,
    /// Whether the ledger may name it.
    is_topic: bool,
}

impl Drop for Prepared {
    /// Another made the topic first, or it cannot be made.
    fn drop(&mut self) {
        if self.is_topic || !self.dir.exists() {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "the files of a topic that was not created stay behind");
        }
    }
}

/// Makes the files of a new topic.
pub(crate) fn prepare(shared: &Shared, name: &str, options: &TopicOptions) -> Result<Prepared> {
    shared.check_running()?;
    let count = check(name, options)?;
    let uuid = new_id();
    let mut prepared = Prepared {
        uuid,
        dir: shared.dir.join(uuid.to_string()),
        rows: Vec::new(),
        partitions: Vec::new(),
        is_topic: false,
    };
    let (dir, rows) = (&prepared.dir, &mut prepared.rows);
    prepared.partitions = create_partitions(shared, dir, rows, count, &Boundary::new())?;
    Ok(prepared)
}

impl Committer {
    /// Creates a topic, or makes an existing one as `options` say.
    /// Its configs stay what they are unless some are given.
    pub(crate) fn create_topic(
        &mut self,
        name: &str,
        options: &TopicOptions,
        configs: Option<&TopicConfigs>,
        prepared: Option<Prepared>,
    ) -> Result<Arc<TopicInfo>> {
        self.shared.check_running()?;
        let count = check(name, options)?;
        match self.row(name) {
            None => {
                let prepared = prepared.map_or_else(|| prepare(&self.shared, name, options), Ok)?;
                self.create(name, options, configs, prepared)
            }
            Some(row) if count < row.partitions.len() => {
                let has = row.partitions.len();
                Err(Error::invalid(format!(
                    "topic `{name}` has {has} partitions, which cannot become {count}"
                ))
                .with_hint(format!("set `partitions = {has}` or more")))
            }
            Some(row) => self.change(row, options, configs, count),
        }
    }

    /// Remembers the columns that a source knows.
    pub(crate) fn set_topic_columns(&mut self, name: &str, columns: &Columns) -> Result<()> {
        self.shared.check_running()?;
        let text = columns.to_string();
        let mut row = self.row(name).ok_or_else(|| Error::invalid(format!("there is no topic `{name}`")))?;
        if row.columns.as_ref() != Some(&text) {
            row.columns = Some(text);
            let partitions = row.partitions.len();
            self.ledger.update_topic(&row, partitions).map_err(|cause| self.ledger_failed(&cause))?;
            self.show(&row, Vec::new())?;
        }
        Ok(())
    }

    /// Creates a topic anew with an identity and starts that are given; one that holds nothing else gives way.
    pub(crate) fn adopt_topic(&mut self, name: &str, uuid: Uuid, starts: &Boundary) -> Result<()> {
        self.shared.check_running()?;
        check_name(name)?;
        let mut count =
            starts.iter().filter_map(|(p, _)| usize::try_from(p).ok()).max().map_or(1, |last| last + 1);
        let mut options = TopicOptions { partitions: 1, retention_time: None, retention_bytes: None };
        let known = self.shared.visible.read().topics.get(name).map(|topic| {
            options.retention_time = topic.retention_time;
            options.retention_bytes = topic.retention_bytes;
            let ends: Boundary = (0..).zip(topic.partitions.iter().map(Partition::end)).collect();
            let first: Boundary = (0..).zip(topic.partitions.iter().map(|p| p.start)).collect();
            (topic.id, topic.info.id, first, ends, topic.partitions.len())
        });
        if let Some((id, known, first, ends, partitions)) = known {
            if known == uuid && ends.is_at_least(starts) {
                return Ok(());
            }
            let beyond = if known == uuid { ends.records_above(starts) } else { ends.records_above(&first) };
            if beyond > 0 {
                return Err(Error::conflict(format!(
                    "topic `{name}` of this log holds {beyond} records that the table does not have"
                ))
                .with_hint(
                    "detach the table and give the new one another name, or begin with an empty data folder",
                ));
            }
            count = count.max(partitions);
            self.forget_topic(name, id, known)?;
        }
        let mut row = empty_row(name, uuid, &options);
        let dir = self.topic_dir(&row);
        let added = create_partitions(&self.shared, &dir, &mut row.partitions, count, starts)?;
        row.id = self.ledger.create_topic(&row).map_err(|cause| self.ledger_failed(&cause))?;
        tracing::info!(topic = name, uuid = %row.uuid, starts = %starts, "adopted a topic");
        self.show(&row, added).map(|_| ())
    }

    /// Deletes a topic that nobody holds.
    pub(crate) fn delete_topic(&mut self, name: &str) -> Result<()> {
        self.shared.check_running()?;
        let (id, uuid) = {
            let visible = self.shared.visible.read();
            let topic = visible.topic(name)?;
            if let Some(owner) = topic.holds.keys().next() {
                return Err(Error::conflict(format!("`{owner}` is made from the topic `{name}`"))
                    .with_hint("take the table out of the config first"));
            }
            (topic.id, topic.info.id)
        };
        self.forget_topic(name, id, uuid)?;
        tracing::info!(topic = name, %uuid, "deleted a topic");
        Ok(())
    }

    /// Removes a topic from the ledger, from sight and from the disk.
    fn forget_topic(&mut self, name: &str, id: i64, uuid: Uuid) -> Result<()> {
        fault::point("log.delete_topic.before")?;
        self.ledger.delete_topic(id, uuid).map_err(|cause| self.ledger_failed(&cause))?;
        self.producers.forget_topic(id);
        self.shared.visible.write().topics.remove(name);
        // Whoever waits for the topic looks, and finds it gone.
        self.shared.commits.send_modify(|_| {});
        self.shared.waiters.tell_topic(uuid);
        fault::point("log.delete_topic.after")?;
        let dir = self.shared.dir.join(uuid.to_string());
        if let Err(error) = std::fs::remove_dir_all(&dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %dir.display(), %error, "the files of a deleted topic stay until the log is opened again");
        }
        Ok(())
    }

    fn create(
        &mut self,
        name: &str,
        options: &TopicOptions,
        configs: Option<&TopicConfigs>,
        mut prepared: Prepared,
    ) -> Result<Arc<TopicInfo>> {
        let mut row = empty_row(name, prepared.uuid, options);
        row.configs = configs.cloned().unwrap_or_default();
        row.partitions = std::mem::take(&mut prepared.rows);
        prepared.is_topic = true;
        row.id = self.ledger.create_topic(&row).map_err(|cause| self.ledger_failed(&cause))?;
        tracing::info!(topic = name, uuid = %row.uuid, partitions = row.partitions.len(), "created a topic");
        self.show(&row, std::mem::take(&mut prepared.partitions))
    }

    fn change(
        &mut self,
        mut row: TopicRow,
        options: &TopicOptions,
        configs: Option<&TopicConfigs>,
        count: usize,
    ) -> Result<Arc<TopicInfo>> {
        let kept = |row: &TopicRow| (row.retention_time_ms, row.retention_bytes, row.configs.clone());
        let (first, before) = (row.partitions.len(), kept(&row));
        set_retention(&mut row, options);
        if let Some(configs) = configs {
            row.configs = configs.clone();
        }
        if count > first || before != kept(&row) {
            let dir = self.topic_dir(&row);
            let added = create_partitions(&self.shared, &dir, &mut row.partitions, count, &Boundary::new())?;
            self.ledger.update_topic(&row, first).map_err(|cause| self.ledger_failed(&cause))?;
            tracing::info!(topic = row.name, partitions = count, "changed a topic");
            return self.show(&row, added);
        }
        let visible = self.shared.visible.read();
        Ok(visible.topic(&row.name)?.info.clone())
    }

    /// Shows a topic as `row` has it, with the partitions that were added.
    fn show(&self, row: &TopicRow, added: Vec<Partition>) -> Result<Arc<TopicInfo>> {
        let info = Arc::new(recovery::info(row, &self.shared.options)?);
        let mut visible = self.shared.visible.write();
        let is_new = !visible.topics.contains_key(&row.name);
        let holds = if is_new { visible.holds_of_new(&row.name) } else { Default::default() };
        let topic = visible.topics.entry(row.name.clone()).or_insert_with(|| Topic {
            id: row.id,
            info: info.clone(),
            retention_time: None,
            retention_bytes: None,
            holds,
            partitions: Vec::new(),
        });
        topic.info = info.clone();
        topic.retention_time =
            row.retention_time_ms.map(|ms| std::time::Duration::from_millis(ms.unsigned_abs()));
        topic.retention_bytes = row.retention_bytes;
        topic.partitions.extend(added);
        Ok(info)
    }

    /// The topic as the ledger has it, but for its extents.
    fn row(&self, name: &str) -> Option<TopicRow> {
        let visible = self.shared.visible.read();
        let topic = visible.topics.get(name)?;
        let partition = |p: &Partition| PartitionRow {
            start: p.start,
            compacted: p.compacted,
            segments: Vec::new(),
            aborted: Vec::new(),
        };
        Some(TopicRow {
            id: topic.id,
            uuid: topic.info.id,
            name: name.to_owned(),
            columns: topic.info.columns.as_ref().map(Columns::to_string),
            retention_time_ms: topic.retention_time.map(millis),
            retention_bytes: topic.retention_bytes,
            configs: topic.info.configs.clone(),
            partitions: topic.partitions.iter().map(partition).collect(),
        })
    }

    fn topic_dir(&self, row: &TopicRow) -> PathBuf {
        self.shared.dir.join(row.uuid.to_string())
    }

    /// A failed transaction that is no commit: when the disk was only full it may be tried again.
    pub(crate) fn ledger_failed(&self, cause: &LogError) -> Error {
        if cause.passes() { cause.clone().into() } else { self.stop(cause).into() }
    }
}

/// Creates the folders and first segments of partitions up to `count`, durable before the ledger names them. Their files are closed
/// until they are written to.
fn create_partitions(
    shared: &Shared,
    topic_dir: &Path,
    rows: &mut Vec<PartitionRow>,
    count: usize,
    starts: &Boundary,
) -> Result<Vec<Partition>> {
    let mut added = Vec::new();
    for partition in rows.len()..count {
        let dir = topic_dir.join(partition.to_string());
        std::fs::create_dir_all(&dir).map_err(LogError::io("create", &dir))?;
        let start = starts.next(number(partition));
        let segment = Segment::create(&dir, start)?;
        segment.close();
        sync_dir(&dir)?;
        let extent = Extent::empty(start, shared.clock.now_ms(), None);
        rows.push(PartitionRow { start, compacted: 0, segments: vec![extent], aborted: Vec::new() });
        added.push(Partition::new(dir, start, vec![Placed { segment: Arc::new(segment), extent }]));
    }
    if !added.is_empty() {
        sync_dir(topic_dir)?;
        sync_dir(&shared.dir)?;
    }
    Ok(added)
}

/// The number of partitions, if a topic may be so.
fn check(name: &str, options: &TopicOptions) -> Result<usize> {
    check_name(name)?;
    usize::try_from(options.partitions)
        .ok()
        .filter(|_| (1..=MOST_PARTITIONS).contains(&options.partitions))
        .ok_or_else(|| {
            Error::invalid(format!("a topic has 1 to {MOST_PARTITIONS} partitions: topic=`{name}`"))
        })
}

fn empty_row(name: &str, uuid: Uuid, options: &TopicOptions) -> TopicRow {
    let mut row = TopicRow {
        id: 0,
        uuid,
        name: name.to_owned(),
        columns: None,
        retention_time_ms: None,
        retention_bytes: None,
        configs: TopicConfigs::default(),
        partitions: Vec::new(),
    };
    set_retention(&mut row, options);
    row
}

fn set_retention(row: &mut TopicRow, options: &TopicOptions) {
    row.retention_time_ms = options.retention_time.map(millis);
    row.retention_bytes = options.retention_bytes;
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn check_name(name: &str) -> Result<()> {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if plain && !name.is_empty() && name.len() <= LONGEST_NAME && name != "." && name != ".." {
        return Ok(());
    }
    Err(Error::invalid(format!("`{name}` cannot be the name of a topic"))
        .with_hint("use letters, digits, `.`, `_` and `-`, at most 249 of them"))
}

/// The number of a partition from its place.
pub(crate) fn number(index: usize) -> PartitionId {
    PartitionId::try_from(index).expect("topics have at most 10,000 partitions")
}
