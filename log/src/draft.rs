//! The bytes of one commit on their way into one partition, before anybody may see them.
//!
//! *Failure*: whatever fails, [`Draft::undo`] cuts the file back to its committed end and removes the segments that were
//! begun; if the process dies first, the next open does the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tarn_model::{Offset, OffsetRange, PartitionId, fault};

use crate::error::LogError;
use crate::ledger::PartitionChange;
use crate::sealed::SealedBatch;
use crate::segment::{Extent, Segment};
use crate::visible::{Partition, Placed};

/// Smaller batches are gathered and written together.
const GATHER_BYTES: usize = 64 << 10;

/// Files that are to be synced, by path; folders among them.
pub(crate) type Unsynced = BTreeMap<PathBuf, Arc<File>>;

/// What a commit adds to a partition.
#[derive(Debug)]
pub(crate) struct Draft {
    topic: i64,
    partition: PartitionId,
    dir: PathBuf,
    before: Extent,
    /// The last segment as it becomes, and those begun behind it.
    segments: Vec<Placed>,
    /// Bytes of the last segment that are in its file.
    written: u64,
    /// Those that are not yet.
    gathered: Vec<u8>,
    notes: Vec<Note>,
}

/// A batch, for its segment's index.
#[derive(Debug)]
struct Note {
    segment: usize,
    offset: Offset,
    position: u64,
    max_timestamp_before: Option<i64>,
}

impl Draft {
    /// Nothing yet, on top of what is committed.
    pub(crate) fn new(topic: i64, partition: PartitionId, committed: &Partition) -> Draft {
        let last = committed.last().clone();
        Draft {
            topic,
            partition,
            dir: committed.dir.clone(),
            before: last.extent,
            written: last.extent.bytes,
            segments: vec![last],
            gathered: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Gives the batches their offsets and writes them, but for a small rest: see [`Draft::flush`].
    pub(crate) fn write(
        &mut self,
        batches: &mut [SealedBatch],
        leader_epoch: i32,
        segment_bytes: u64,
        now_ms: i64,
    ) -> Result<OffsetRange, LogError> {
        let from = self.last().extent.end;
        for sealed in batches {
            let length = sealed.len() as u64;
            if self.last().extent.bytes > 0 && self.last().extent.bytes + length > segment_bytes {
                self.roll(now_ms)?;
            }
            sealed.place(self.last().extent.end, leader_epoch);
            self.note();
            self.gathered.extend_from_slice(sealed.head());
            if sealed.body().len() < GATHER_BYTES {
                self.gathered.extend_from_slice(sealed.body());
            } else {
                self.flush()?;
                self.write_at_end(sealed.body())?;
            }
            let extent = &mut self.last_mut().extent;
            extent.bytes += length;
            extent.end += i64::from(sealed.records);
            extent.last_append_ms = Some(now_ms);
            extent.max_timestamp_ms = extent.max_timestamp_ms.max(sealed.max_timestamp);
            extent.markers += u64::from(sealed.is_marker);
            if self.gathered.len() >= GATHER_BYTES {
                self.flush()?;
            }
        }
        Ok(OffsetRange::new(from, self.last().extent.end))
    }

    /// Writes what was gathered.
    pub(crate) fn flush(&mut self) -> Result<(), LogError> {
        if !self.gathered.is_empty() {
            let mut gathered = std::mem::take(&mut self.gathered);
            self.write_at_end(&gathered)?;
            gathered.clear();
            self.gathered = gathered;
        }
        Ok(())
    }

    fn write_at_end(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        let segment = &self.last().segment;
        segment.writer()?.write_all_at(bytes, self.written).map_err(LogError::io("write", segment.path()))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Begins a new segment behind the last.
    fn roll(&mut self, now_ms: i64) -> Result<(), LogError> {
        self.flush()?;
        let last = self.last().extent;
        fault::point("log.roll.before").map_err(injected)?;
        let segment = Segment::create(&self.dir, last.end)?;
        let extent = Extent::empty(last.end, now_ms, last.last_append_ms);
        self.segments.push(Placed { segment: Arc::new(segment), extent });
        self.written = 0;
        fault::point("log.roll.after").map_err(injected)
    }

    fn note(&mut self) {
        let extent = self.last().extent;
        let (segment, offset, position) = (self.segments.len() - 1, extent.end, extent.bytes);
        self.notes.push(Note { segment, offset, position, max_timestamp_before: extent.max_timestamp_ms });
    }

    /// The files that have to be synced before the commit is durable.
    pub(crate) fn unsynced(&self, files: &mut Unsynced) -> Result<(), LogError> {
        for Placed { segment, extent } in &self.segments {
            if *extent != self.before {
                files.insert(segment.path().to_owned(), segment.writer()?);
            }
        }
        if self.segments.len() > 1 {
            files.insert(self.dir.clone(), Arc::new(open_dir(&self.dir)?));
        }
        Ok(())
    }

    /// What the ledger has to write.
    pub(crate) fn change(&self) -> PartitionChange {
        PartitionChange {
            topic: self.topic,
            partition: self.partition,
            before: self.before,
            after: self.segments.iter().map(|placed| placed.extent).collect(),
        }
    }

    /// The commit was made: notes the batches in their indexes.
    pub(crate) fn index(&self) {
        for note in &self.notes {
            self.segments[note.segment].segment.note(note.offset, note.position, note.max_timestamp_before);
        }
        let (last, full) = self.segments.split_last().expect("a draft always has a segment");
        full.iter().for_each(|placed| placed.segment.retire());
        last.segment.save_index();
    }

    /// Makes it visible.
    pub(crate) fn publish(self, partition: &mut Partition) {
        partition.segments.pop();
        partition.segments.extend(self.segments);
    }

    /// The commit was not made: cuts off what was written.
    pub(crate) fn undo(&self) -> Result<(), LogError> {
        let (first, begun) = self.segments.split_first().expect("a draft always has a segment");
        // What was never opened has no more than was committed.
        if let Some(file) = first.segment.open_writer() {
            file.set_len(self.before.bytes).map_err(LogError::io("truncate", first.segment.path()))?;
        }
        begun.iter().try_for_each(|placed| placed.segment.remove())
    }

    fn last(&self) -> &Placed {
        self.segments.last().expect("a draft always has a segment")
    }

    fn last_mut(&mut self) -> &mut Placed {
        self.segments.last_mut().expect("a draft always has a segment")
    }
}

/// Opens a folder, to sync it.
pub(crate) fn open_dir(dir: &Path) -> Result<File, LogError> {
    File::open(dir).map_err(LogError::io("open", dir))
}

/// Syncs a folder: the names in it.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), LogError> {
    open_dir(dir)?.sync_all().map_err(LogError::io("sync", dir))
}

/// Syncs all files, several at once.
pub(crate) fn sync(files: &Unsynced) -> Result<(), LogError> {
    const AT_ONCE: usize = 8;
    fault::point("log.sync.before").map_err(injected)?;
    let sync_one = |(path, file): (&PathBuf, &Arc<File>)| {
        // A folder's entries are data and metadata in one.
        file.sync_data().map_err(LogError::io("sync", path))
    };
    if files.len() <= 1 {
        files.iter().try_for_each(sync_one)?;
    } else {
        let files: Vec<_> = files.iter().collect();
        std::thread::scope(|scope| {
            let threads: Vec<_> = files
                .chunks(files.len().div_ceil(AT_ONCE))
                .map(|chunk| scope.spawn(move || chunk.iter().copied().try_for_each(sync_one)))
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("syncing does not panic"))
        })?;
    }
    fault::point("log.sync.after").map_err(injected)
}

/// A fault point's error as a cause.
pub(crate) fn injected(error: tarn_model::Error) -> LogError {
    LogError::Injected(Arc::new(error))
}
