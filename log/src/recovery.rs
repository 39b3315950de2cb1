//! Opening a log: the lock, the format version, and every partition cut to its committed end.
//!
//! *Layout*:
//!
//! ```text
//! <dir>/lock                                   locked while a process has the log open
//! <dir>/version                                "tarn 4"
//! <dir>/log/ledger.sqlite                      what is committed
//! <dir>/log/<topic uuid>/<partition>/%020d.log segments
//! ```
//!
//! *Failure*: a crash leaves bytes and segments above the committed end, or segments below a start that was moved: both go
//! here. What is missing below the committed end is corrupt, and nothing is touched.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tarn_model::columns::Columns;
use tarn_model::{PartitionId, Result};

use crate::draft::{Unsynced, open_dir, sync};
use crate::error::LogError;
use crate::index;
use crate::ledger::{Ledger, PartitionRow, TopicRow};
use crate::options::{LogOptions, TopicInfo};
use crate::segment::{Extent, Segment};
use crate::transactions::Transactions;
use crate::visible::{Partition, Placed, Topic, Visible};

/// Since 2 the ledger knows producers and groups, since 3 transactions, since 4 segments that were compacted: an older Tarn would
/// not find their files.
const VERSION: &str = "tarn 4";
/// What this version reads, and makes its own: the ledger gets the tables that it lacks.
const OLDER: [&str; 3] = ["tarn 1", "tarn 2", "tarn 3"];

/// Takes the folder for this process; dropped, it is free again.
pub(crate) fn lock(dir: &Path) -> std::result::Result<File, LogError> {
    let path = dir.join("lock");
    let options = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
    let mut file = options.map_err(LogError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = Some(holder.trim().to_owned()).filter(|pid| !pid.is_empty());
            return Err(LogError::Locked { path: dir.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(LogError::io("lock", &path)(error)),
    }
    // The number is for people who wonder who has the lock; it is not needed.
    let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
    Ok(file)
}

/// Writes the format version into a new folder, and refuses another one.
pub(crate) fn check_version(dir: &Path) -> std::result::Result<(), LogError> {
    let path = dir.join("version");
    match std::fs::read_to_string(&path) {
        Ok(found) if found.trim() == VERSION => Ok(()),
        Ok(found) if OLDER.contains(&found.trim()) => write_version(dir, &path),
        Ok(found) => {
            Err(LogError::Format { path: dir.to_owned(), found: found.trim().chars().take(40).collect() })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => write_version(dir, &path),
        Err(error) => Err(LogError::io("read", &path)(error)),
    }
}

fn write_version(dir: &Path, path: &Path) -> std::result::Result<(), LogError> {
    let new = dir.join("version.new");
    let write = || {
        let mut file = File::create(&new)?;
        writeln!(file, "{VERSION}")?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        File::open(dir)?.sync_all()?;
        // The folder may be new itself.
        dir.canonicalize()?.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    write().map_err(LogError::io("write", path))
}

/// The identity of this run of the machine: it changes with the power.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(
        // Where it cannot be known, every start counts as one after a power failure.
        |_| tarn_model::clock::new_id().to_string(),
        |id| id.trim().to_owned(),
    )
}

/// Makes the ledger's truth true on disk, and visible.
pub(crate) fn recover(
    dir: &Path,
    topics: &[TopicRow],
    transactions: Transactions,
    options: &LogOptions,
) -> Result<Visible> {
    let mut visible = Visible { transactions, ..Visible::default() };
    for row in topics {
        let mut partitions = Vec::with_capacity(row.partitions.len());
        for (partition, partition_row) in (0..).zip(&row.partitions) {
            partitions.push(recover_partition(dir, row, partition, partition_row)?);
        }
        let topic = Topic {
            id: row.id,
            info: Arc::new(info(row, options)?),
            retention_time: row.retention_time_ms.map(|ms| Duration::from_millis(ms.unsigned_abs())),
            retention_bytes: row.retention_bytes,
            holds: Default::default(),
            partitions,
        };
        visible.topics.insert(row.name.clone(), topic);
    }
    let Visible { topics, transactions, .. } = &mut visible;
    for (_, transaction) in transactions.iter() {
        for (enlisted, first) in transaction.open_partitions() {
            // The topic may have been deleted since.
            let topic = topics.get_mut(&enlisted.topic).filter(|topic| topic.info.id == enlisted.id);
            let index = usize::try_from(enlisted.partition).unwrap_or(usize::MAX);
            if let Some(partition) = topic.and_then(|topic| topic.partitions.get_mut(index)) {
                partition.open.insert(transaction.by.producer, first);
            }
        }
    }
    Ok(visible)
}

/// A topic as others see it.
pub(crate) fn info(row: &TopicRow, options: &LogOptions) -> Result<TopicInfo> {
    Ok(TopicInfo {
        name: row.name.clone(),
        id: row.uuid,
        partitions: PartitionId::try_from(row.partitions.len()).unwrap_or(PartitionId::MAX),
        columns: row.columns.as_deref().map(Columns::parse).transpose()?,
        max_record_bytes: options.max_record_bytes,
        retention_time: row.retention_time_ms.map(|ms| Duration::from_millis(ms.unsigned_abs())),
        retention_bytes: row.retention_bytes,
        configs: row.configs.clone(),
    })
}

fn recover_partition(
    dir: &Path,
    topic: &TopicRow,
    partition: PartitionId,
    row: &PartitionRow,
) -> Result<Partition> {
    let dir = dir.join(topic.uuid.to_string()).join(partition.to_string());
    let Some(last) = row.segments.last() else {
        let place = format!("topic=`{}` partition=`{partition}`", topic.name);
        return Err(tarn_model::Error::corrupt(format!("the ledger has no segment {place}")));
    };
    let mut segments = Vec::with_capacity(row.segments.len());
    for extent in &row.segments {
        let segment = Segment::of(&dir, extent);
        if extent.bytes == 0 && extent.base == last.base && !segment.path().exists() {
            // Committed as begun, and its name was lost with the power: it held nothing.
            std::fs::create_dir_all(&dir).map_err(LogError::io("create", &dir))?;
            Segment::create(&dir, extent.base)?;
        }
        segment.cut(extent)?;
        if extent.base == last.base {
            segment.check_tail(extent)?;
        }
        segments.push(Placed { segment: Arc::new(segment), extent: *extent });
    }
    check_chain(&segments)?;
    remove_strangers(&dir, &row.segments)?;
    let mut partition = Partition::new(dir, row.start, segments);
    partition.compacted = row.compacted;
    partition.aborted = Arc::new(row.aborted.clone());
    Ok(partition)
}

fn check_chain(segments: &[Placed]) -> std::result::Result<(), LogError> {
    for pair in segments.windows(2) {
        if pair[0].extent.end != pair[1].extent.base {
            return Err(LogError::Segment {
                segment: pair[0].segment.path().to_owned(),
                offset: pair[0].extent.end,
                position: pair[0].extent.bytes,
                what: format!("the next segment begins at offset {}", pair[1].extent.base),
            });
        }
    }
    Ok(())
}

/// Removes the segments that the ledger does not know: begun by a commit that was not made, or trimmed.
fn remove_strangers(dir: &Path, known: &[Extent]) -> std::result::Result<(), LogError> {
    for entry in std::fs::read_dir(dir).map_err(LogError::io("list", dir))? {
        let path = entry.map_err(LogError::io("list", dir))?.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let is_segment = is_log && stem.chars().all(|c| c.is_ascii_digit() || c == '-');
        if is_segment && !known.iter().any(|extent| Segment::of(dir, extent).path() == path) {
            tracing::info!(segment = %path.display(), "remove a segment that is not committed");
            index::remove(&path);
            std::fs::remove_file(&path).map_err(LogError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Removes the folders of topics that were deleted before a process died.
pub(crate) fn remove_gone(dir: &Path, ledger: &mut Ledger) -> std::result::Result<(), LogError> {
    let gone = ledger.gone()?;
    for uuid in &gone {
        let topic = dir.join(uuid);
        if topic.exists() {
            tracing::info!(uuid, "remove what a deleted topic left");
            std::fs::remove_dir_all(&topic).map_err(LogError::io("delete", &topic))?;
        }
    }
    if gone.is_empty() { Ok(()) } else { ledger.forget_gone() }
}

/// Syncs every segment: after a process under another sync mode has ended without doing so.
pub(crate) fn sync_all(visible: &Visible, ledger: &mut Ledger) -> std::result::Result<(), LogError> {
    for partition in visible.topics.values().flat_map(|topic| &topic.partitions) {
        let mut files = Unsynced::new();
        for placed in &partition.segments {
            let file =
                File::open(placed.segment.path()).map_err(LogError::io("open", placed.segment.path()))?;
            files.insert(placed.segment.path().to_owned(), Arc::new(file));
        }
        files.insert(partition.dir.clone(), Arc::new(open_dir(&partition.dir)?));
        sync(&files)?;
    }
    ledger.synced_through(ledger.seq())
}
