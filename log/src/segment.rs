//! One file of record batches, one after the other.
//!
//! *Layout*: `%020d.log`, named by its first offset (`%020d-N.log` once compaction has written it anew N times), beside its `.index` and `.timeindex`. How much of it is committed does
//! not stand in the file but in the ledger: an [`Extent`].
//!
//! *Invariants*: below the committed end, batches follow each other without a gap in bytes or offsets. Nobody reads or
//! trusts a byte above it. Only the committer writes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tarn_model::Offset;

use crate::batch::{self, HEADER_BYTES, Header};
use crate::buffers::Buffer;
use crate::error::LogError;
use crate::index::{self, Index};

/// Bytes read at once when a segment is walked batch by batch.
const WALK_BYTES: usize = 256 << 10;
/// The same, on the way from an index entry to a batch.
const LOCATE_BYTES: usize = 16 << 10;

/// How much of a segment is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// First offset, by which the file is named.
    pub(crate) base: Offset,
    /// The offset after its last record.
    pub(crate) end: Offset,
    pub(crate) bytes: u64,
    pub(crate) created_ms: i64,
    /// When the newest batch of the partition was appended.
    pub(crate) last_append_ms: Option<i64>,
    /// Newest timestamp of a record in it.
    pub(crate) max_timestamp_ms: Option<i64>,
    /// Control batches in it.
    pub(crate) markers: u64,
    /// How often it was written anew; its file is named by it, too.
    pub(crate) generation: u32,
}

impl Extent {
    pub(crate) fn empty(base: Offset, created_ms: i64, last_append_ms: Option<i64>) -> Extent {
        let (max_timestamp_ms, markers, generation) = (None, 0, 0);
        Extent {
            base,
            end: base,
            bytes: 0,
            created_ms,
            last_append_ms,
            max_timestamp_ms,
            markers,
            generation,
        }
    }
}

/// The file of a segment; how much of it counts, its [`Extent`] says.
#[derive(Debug)]
pub(crate) struct Segment {
    base: Offset,
    path: PathBuf,
    /// Open while the segment is written.
    writer: Mutex<Option<Arc<File>>>,
    /// Loaded when first needed.
    index: RwLock<Option<Index>>,
}

impl Segment {
    /// The segment of `extent` in `dir`; its file is opened when first needed.
    pub(crate) fn of(dir: &Path, extent: &Extent) -> Segment {
        let name = match extent.generation {
            0 => format!("{:020}.log", extent.base),
            generation => format!("{:020}-{generation}.log", extent.base),
        };
        let (base, path) = (extent.base, dir.join(name));
        Segment { base, path, writer: Mutex::new(None), index: RwLock::new(None) }
    }

    /// Creates an empty segment; what a crash left of one is overwritten.
    pub(crate) fn create(dir: &Path, base: Offset) -> Result<Segment, LogError> {
        let segment = Segment::of(dir, &Extent::empty(base, 0, None));
        index::remove(&segment.path);
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&segment.path);
        *segment.writer.lock() = Some(Arc::new(file.map_err(LogError::io("create", &segment.path))?));
        *segment.index.write() = Some(Index::new());
        Ok(segment)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, open for writing.
    pub(crate) fn writer(&self) -> Result<Arc<File>, LogError> {
        let mut writer = self.writer.lock();
        if let Some(file) = &*writer {
            return Ok(file.clone());
        }
        let file = OpenOptions::new().read(true).write(true).open(&self.path);
        let file = Arc::new(file.map_err(LogError::io("open", &self.path))?);
        *writer = Some(file.clone());
        Ok(file)
    }

    /// Nothing more will be written: gives the file descriptor back and completes the index files.
    pub(crate) fn retire(&self) {
        self.save_index();
        *self.writer.lock() = None;
    }

    /// Nothing is written for now: gives the file descriptor back.
    pub(crate) fn close(&self) {
        *self.writer.lock() = None;
    }

    /// The file, if it is open for writing.
    pub(crate) fn open_writer(&self) -> Option<Arc<File>> {
        self.writer.lock().clone()
    }

    fn reader(&self) -> Result<Arc<File>, LogError> {
        if let Some(file) = &*self.writer.lock() {
            return Ok(file.clone());
        }
        Ok(Arc::new(File::open(&self.path).map_err(LogError::io("open", &self.path))?))
    }

    /// Removes the file and its indexes.
    pub(crate) fn remove(&self) -> Result<(), LogError> {
        index::remove(&self.path);
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(LogError::io("remove", &self.path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Cuts the file to its committed bytes; a file that is shorter is corrupt.
    pub(crate) fn cut(&self, extent: &Extent) -> Result<(), LogError> {
        let length = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.corrupt(extent.base, 0, "the file is missing"));
            }
            Err(error) => return Err(LogError::io("open", &self.path)(error)),
        };
        if length < extent.bytes {
            let (offset, position) = self.first_missing(extent, length)?;
            return Err(self.corrupt(
                offset,
                position,
                &format!("the file ends at byte {length} of {}", extent.bytes),
            ));
        }
        if length > extent.bytes {
            tracing::info!(segment = %self.path.display(), from = length, to = extent.bytes, "cut what was not committed");
            let file = self.writer()?;
            file.set_len(extent.bytes)
                .and_then(|()| file.sync_all())
                .map_err(LogError::io("truncate", &self.path))?;
        }
        Ok(())
    }

    fn first_missing(&self, extent: &Extent, length: u64) -> Result<(Offset, u64), LogError> {
        let mut found = (extent.base, 0);
        let shorter = Extent { bytes: length, ..*extent };
        match self.walk(&shorter, (extent.base, 0), WALK_BYTES, false, |header, position| {
            found = (header.next_offset(), position + header.bytes as u64);
            true
        }) {
            Ok(_) | Err(LogError::Segment { .. }) => Ok(found),
            Err(error) => Err(error),
        }
    }

    /// Loads the index and checks the batches behind its last entry: a chain of whole batches up to the committed end.
    pub(crate) fn check_tail(&self, extent: &Extent) -> Result<(), LogError> {
        if let Some(mut index) = Index::load(&self.path, extent.bytes)
            && self.complete(extent, true, &mut index).is_ok()
        {
            *self.index.write() = Some(index);
            return Ok(());
        }
        // The index may be wrong rather than the segment: judge without it.
        let mut index = Index::new();
        self.complete(extent, true, &mut index)?;
        *self.index.write() = Some(index);
        self.save_index();
        Ok(())
    }

    /// Takes note of a batch that was committed.
    pub(crate) fn note(&self, offset: Offset, position: u64, max_timestamp_before: Option<i64>) {
        if let Some(index) = &mut *self.index.write() {
            index.note(self.base, offset, position, max_timestamp_before);
        }
    }

    /// Writes new index entries to the index files. They are a hint: an error is only told.
    pub(crate) fn save_index(&self) {
        if let Some(index) = &mut *self.index.write()
            && let Err(error) = index.save(&self.path)
        {
            tracing::warn!(segment = %self.path.display(), %error, "the index was not written; it will be built anew");
        }
    }

    /// Reads whole batches from the one that holds `from` on: at least one, about `max_bytes`, none beyond `extent`.
    pub(crate) fn read(
        &self,
        extent: &Extent,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, LogError> {
        let file = self.reader()?;
        self.ensure_index(extent)?;
        let start = self.floor(from);
        match self.read_from(&file, extent, start, from, max_bytes) {
            Err(LogError::Segment { .. }) if start != (self.base, 0) => {
                // The index may be wrong rather than the segment: look again without it.
                self.rebuild_index(extent)?;
                self.read_from(&file, extent, self.floor(from), from, max_bytes)
            }
            read => read,
        }
    }

    /// The offset of the first batch that may hold a record at or after `timestamp_ms`.
    pub(crate) fn seek_time(&self, extent: &Extent, timestamp_ms: i64) -> Result<Offset, LogError> {
        self.ensure_index(extent)?;
        Ok(self.index.read().as_ref().map_or(self.base, |index| index.floor_by_time(self.base, timestamp_ms)))
    }

    /// Visits the headers of the batches from the one that holds `from` on, while `visit` says so.
    pub(crate) fn visit(
        &self,
        extent: &Extent,
        from: Offset,
        mut visit: impl FnMut(&Header) -> bool,
    ) -> Result<(), LogError> {
        self.ensure_index(extent)?;
        self.walk(extent, self.floor(from), WALK_BYTES, false, |header, _| {
            header.next_offset() <= from || visit(header)
        })?;
        Ok(())
    }

    fn floor(&self, offset: Offset) -> (Offset, u64) {
        self.index.read().as_ref().map_or((self.base, 0), |index| index.floor(self.base, offset))
    }

    fn ensure_index(&self, extent: &Extent) -> Result<(), LogError> {
        if self.index.read().is_some() {
            return Ok(());
        }
        match Index::load(&self.path, extent.bytes) {
            Some(index) => *self.index.write() = Some(index),
            None => self.rebuild_index(extent)?,
        }
        Ok(())
    }

    fn rebuild_index(&self, extent: &Extent) -> Result<(), LogError> {
        tracing::info!(segment = %self.path.display(), "build the index anew");
        let mut index = Index::new();
        self.complete(extent, false, &mut index)?;
        let mut current = self.index.write();
        // A writer may have noted batches above `extent` meanwhile.
        if let Some(newer) = current.as_ref() {
            index.extend_from(newer);
        }
        *current = Some(index);
        drop(current);
        self.save_index();
        Ok(())
    }

    fn read_from(
        &self,
        file: &File,
        extent: &Extent,
        start: (Offset, u64),
        from: Offset,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, LogError> {
        let (mut next, mut position) =
            self.walk(extent, start, LOCATE_BYTES, false, |header, _| header.next_offset() <= from)?;
        let left = extent.bytes - position;
        let mut buffer = self.read_at(file, position, left.min(max_bytes.max(HEADER_BYTES) as u64), next)?;
        let first = self.parse(&buffer, next, position, extent)?;
        if first.bytes > buffer.len() {
            buffer = self.read_at(file, position, first.bytes as u64, next)?;
        }
        let mut batches = Vec::new();
        while buffer.len() >= HEADER_BYTES {
            let header = self.parse(&buffer, next, position, extent)?;
            if header.bytes > buffer.len() {
                break;
            }
            let batch = buffer.split_to(header.bytes);
            self.verify(&batch, &header, position)?;
            batches.push(batch);
            next = header.next_offset();
            position += header.bytes as u64;
        }
        Ok(batches)
    }

    fn read_at(&self, file: &File, position: u64, bytes: u64, offset: Offset) -> Result<Bytes, LogError> {
        let length = usize::try_from(bytes).expect("reads are bounded by the size of a segment");
        let mut buffer = Buffer::of(length);
        match buffer.fill_with(|rest| file.read_exact_at(rest, position)) {
            Ok(()) => Ok(buffer.freeze()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.corrupt(offset, position, "the file is shorter than what was committed"))
            }
            Err(error) => Err(LogError::io("read", &self.path)(error)),
        }
    }

    /// Parses the header at `position` and checks that it continues the chain at `offset`.
    fn parse(
        &self,
        bytes: &[u8],
        offset: Offset,
        position: u64,
        extent: &Extent,
    ) -> Result<Header, LogError> {
        let header = Header::parse(bytes).map_err(|what| self.corrupt(offset, position, what))?;
        if header.base_offset != offset {
            let what = format!("a batch with the base offset {}", header.base_offset);
            return Err(self.corrupt(offset, position, &what));
        }
        if position + header.bytes as u64 > extent.bytes || header.next_offset() > extent.end {
            return Err(self.corrupt(offset, position, "a batch that passes the committed end"));
        }
        Ok(header)
    }

    fn verify(&self, batch: &[u8], header: &Header, position: u64) -> Result<(), LogError> {
        if batch::checksum(batch) == header.crc {
            return Ok(());
        }
        Err(self.corrupt(header.base_offset, position, "the batch's CRC does not match its bytes"))
    }

    fn corrupt(&self, offset: Offset, position: u64, what: &str) -> LogError {
        LogError::Segment { segment: self.path.clone(), offset, position, what: what.to_owned() }
    }

    /// Walks from the last entry of `index` to the extent's end, which must be the end of a batch, and adds the entries
    /// that are missing.
    fn complete(&self, extent: &Extent, with_crc: bool, index: &mut Index) -> Result<(), LogError> {
        let from = index.floor(self.base, extent.end);
        let mut newest = index.max_timestamp_before_last();
        let ended = self.walk(extent, from, WALK_BYTES, with_crc, |header, position| {
            index.note(self.base, header.base_offset, position, newest);
            newest = newest.max(Some(header.max_timestamp));
            true
        })?;
        if ended != (extent.end, extent.bytes) {
            let what = format!("the batches end there, not at offset {}", extent.end);
            return Err(self.corrupt(ended.0, ended.1, &what));
        }
        Ok(())
    }

    /// Visits the batches from `from` on, while `visit` says so, up to the extent's end; returns offset and position of
    /// the first batch that it did not pass.
    fn walk(
        &self,
        extent: &Extent,
        (mut next, mut position): (Offset, u64),
        window_bytes: usize,
        with_crc: bool,
        mut visit: impl FnMut(&Header, u64) -> bool,
    ) -> Result<(Offset, u64), LogError> {
        let file = self.reader()?;
        let (mut window, mut window_at) = (Bytes::new(), position);
        let mut ensure = |position: u64, bytes: usize, offset: Offset| {
            if position - window_at + bytes as u64 > window.len() as u64 {
                let left = extent.bytes - position;
                if left < bytes as u64 {
                    return Err(self.corrupt(offset, position, "a torn batch"));
                }
                window = self.read_at(&file, position, left.min(bytes.max(window_bytes) as u64), offset)?;
                window_at = position;
            }
            let start = usize::try_from(position - window_at).expect("within the window");
            Ok(window.slice(start..start + bytes))
        };
        while position < extent.bytes {
            let header = self.parse(&ensure(position, HEADER_BYTES, next)?, next, position, extent)?;
            if with_crc {
                self.verify(&ensure(position, header.bytes, next)?, &header, position)?;
            }
            if !visit(&header, position) {
                break;
            }
            next = header.next_offset();
            position += header.bytes as u64;
        }
        Ok((next, position))
    }
}
