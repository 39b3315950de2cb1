//! A segment's sparse indexes: offset → position (`.index`) and timestamp → offset (`.timeindex`).
//!
//! *Layout* (big-endian, as Kafka's):
//!
//! ```text
//! .index      offset - base u32, position u32                 of the first batch in each 16 KiB
//! .timeindex  newest timestamp before it i64, offset - base u32   of the same batch
//! ```
//!
//! *Invariants*: entries rise in offset and position. A file is written after what it points at is committed, and never
//! synced: it is a hint. Whoever follows an entry checks that a batch of that offset begins there; whoever finds it wrong
//! builds the index anew from the segment.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tarn_model::Offset;

/// Bytes of log between two entries.
pub(crate) const INTERVAL_BYTES: u64 = 16 << 10;
const ENTRY_BYTES: usize = 8;
const TIME_ENTRY_BYTES: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    offset: u32,
    position: u32,
    max_timestamp_before: i64,
}

/// The index of one segment, in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    entries: Vec<Entry>,
    /// Entries that the files have; `None` when the files are to be written anew.
    saved: Option<usize>,
}

impl Index {
    /// An index without entries and without files.
    pub(crate) fn new() -> Index {
        Index::default()
    }

    /// Reads the index of `segment`; `None` when it is missing, torn, out of order, or points beyond `bytes`.
    pub(crate) fn load(segment: &Path, bytes: u64) -> Option<Index> {
        let offsets = std::fs::read(segment.with_extension("index")).ok()?;
        let times = std::fs::read(segment.with_extension("timeindex")).ok()?;
        if offsets.len() % ENTRY_BYTES != 0 || times.len() / TIME_ENTRY_BYTES != offsets.len() / ENTRY_BYTES {
            return None;
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(offsets.len() / ENTRY_BYTES);
        for (place, time) in offsets.chunks_exact(ENTRY_BYTES).zip(times.chunks_exact(TIME_ENTRY_BYTES)) {
            let entry = Entry {
                offset: u32::from_be_bytes(*place.first_chunk()?),
                position: u32::from_be_bytes(*place.last_chunk()?),
                max_timestamp_before: i64::from_be_bytes(*time.first_chunk()?),
            };
            let after = entries.last().map_or((0, 0), |last| (last.offset, u64::from(last.position)));
            let gap = u64::from(entry.position).checked_sub(after.1)?;
            if entry.offset <= after.0 || gap < INTERVAL_BYTES || u64::from(entry.position) >= bytes {
                return None;
            }
            if time.last_chunk() != place.first_chunk::<4>() {
                return None;
            }
            entries.push(entry);
        }
        let saved = Some(entries.len());
        Some(Index { entries, saved })
    }

    /// Takes note of a batch: of every 16 KiB the first gets an entry.
    pub(crate) fn note(
        &mut self,
        base: Offset,
        offset: Offset,
        position: u64,
        max_timestamp_before: Option<i64>,
    ) {
        let last = self.entries.last().map_or(0, |entry| u64::from(entry.position));
        if position < last + INTERVAL_BYTES {
            return;
        }
        let (Ok(offset), Ok(position)) = (u32::try_from(offset - base), u32::try_from(position)) else {
            return;
        };
        let max_timestamp_before = max_timestamp_before.unwrap_or(i64::MIN);
        self.entries.push(Entry { offset, position, max_timestamp_before });
    }

    /// Takes over the entries of `newer` that lie above the last entry here.
    pub(crate) fn extend_from(&mut self, newer: &Index) {
        let last = self.entries.last().map_or(0, |entry| u64::from(entry.position));
        let above = newer.entries.iter().filter(|entry| u64::from(entry.position) >= last + INTERVAL_BYTES);
        self.entries.extend(above);
    }

    /// Where to begin to look for `offset`: offset and position of a batch at or below it.
    pub(crate) fn floor(&self, base: Offset, offset: Offset) -> (Offset, u64) {
        let above = self.entries.partition_point(|entry| base + i64::from(entry.offset) <= offset);
        match above.checked_sub(1).map(|at| self.entries[at]) {
            Some(entry) => (base + i64::from(entry.offset), u64::from(entry.position)),
            None => (base, 0),
        }
    }

    /// Newest timestamp before the batch of the last entry.
    pub(crate) fn max_timestamp_before_last(&self) -> Option<i64> {
        self.entries.last().map(|entry| entry.max_timestamp_before)
    }

    /// Where to begin to look for the first record at or after `timestamp_ms`.
    pub(crate) fn floor_by_time(&self, base: Offset, timestamp_ms: i64) -> Offset {
        let at = self.entries.partition_point(|entry| entry.max_timestamp_before < timestamp_ms);
        at.checked_sub(1).map_or(base, |at| base + i64::from(self.entries[at].offset))
    }

    /// Writes the entries that the files do not have yet. An error leaves no files, so that they are built anew.
    pub(crate) fn save(&mut self, segment: &Path) -> io::Result<()> {
        let from = self.saved.unwrap_or(0);
        if self.saved == Some(self.entries.len()) {
            return Ok(());
        }
        let new = &self.entries[from..];
        let mut offsets = Vec::with_capacity(new.len() * ENTRY_BYTES);
        let mut times = Vec::with_capacity(new.len() * TIME_ENTRY_BYTES);
        for entry in new {
            offsets.extend(entry.offset.to_be_bytes());
            offsets.extend(entry.position.to_be_bytes());
            times.extend(entry.max_timestamp_before.to_be_bytes());
            times.extend(entry.offset.to_be_bytes());
        }
        let write = |extension: &str, bytes: &[u8]| {
            let mut options = OpenOptions::new();
            options.create(true).write(true);
            if self.saved.is_some() {
                options.append(true)
            } else {
                options.truncate(true)
            };
            options.open(segment.with_extension(extension))?.write_all(bytes)
        };
        let written = write("index", &offsets).and_then(|()| write("timeindex", &times));
        if written.is_ok() {
            self.saved = Some(self.entries.len());
        } else {
            self.saved = None;
            remove(segment);
        }
        written
    }
}

/// Removes the index files of `segment`, if there are any.
pub(crate) fn remove(segment: &Path) {
    for file in files(segment) {
        if let Err(error) = std::fs::remove_file(&file)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %file.display(), %error, "an index file stays behind");
        }
    }
}

fn files(segment: &Path) -> [PathBuf; 2] {
    ["index", "timeindex"].map(|extension| segment.with_extension(extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> Index {
        let mut index = Index::new();
        for n in 0..100_u32 {
            index.note(1000, 1000 + i64::from(n), u64::from(n) * 5000, Some(i64::from(n) * 10));
        }
        index
    }

    #[test]
    fn floor_is_the_nearest_batch_at_or_below() {
        let index = filled();
        assert_eq!(index.floor(1000, 1000), (1000, 0), "below the first entry the segment's start serves");
        assert_eq!(index.floor(1000, 1003), (1000, 0));
        assert_eq!(index.floor(1000, 1004), (1004, 20_000));
        assert_eq!(index.floor(1000, 1007), (1004, 20_000));
        assert_eq!(index.floor(1000, i64::MAX), (1096, 480_000));
        assert_eq!(index.floor_by_time(1000, 41), 1004);
        assert_eq!(index.floor_by_time(1000, 40), 1000, "offset 1003 may be the first with 40");
    }

    #[test]
    fn what_is_saved_in_pieces_is_loaded_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let segment = dir.path().join("00000000000000001000.log");
        let whole = filled();
        let mut pieces = Index::new();
        for n in 0..100_u32 {
            pieces.note(1000, 1000 + i64::from(n), u64::from(n) * 5000, Some(i64::from(n) * 10));
            pieces.save(&segment).expect("save");
        }
        assert_eq!(Index::load(&segment, 500_000).expect("load").entries, whole.entries);
        assert!(Index::load(&segment, 480_000).is_none(), "an entry beyond the segment's end");
        let mut bytes = std::fs::read(segment.with_extension("index")).expect("read");
        bytes[9] ^= 0xff;
        std::fs::write(segment.with_extension("index"), &bytes).expect("write");
        assert!(Index::load(&segment, 500_000).is_none(), "out of order");
    }
}
