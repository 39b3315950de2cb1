//! One file that is followed, and its turns.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use memchr::{memchr, memrchr};
use serde::{Deserialize, Serialize};
use tarn_log::TopicInfo;
use tarn_model::clock::Clock;
use tarn_model::config::FileFormat;
use tarn_model::{Error, Result};
use tracing::info;
use xxhash_rust::xxh3::Xxh3;

use super::prints::Prints;
use super::{FileId, StoredPrints, at_path};
use crate::appender::{Appender, Found, Place};
use crate::json;
use crate::lines::{Limits, Oversize};

/// What one file may give before the next one has its turn.
const TURN_BYTES: usize = 1 << 20;

/// A position, as it is kept in the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    /// Lines below the offset; unknown in a file that was begun at its end.
    pub(super) lines: Option<u64>,
    #[serde(flatten)]
    pub(super) prints: StoredPrints,
    /// What had been read of the content that was truncated last: a copy of it goes on there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cut: Option<Box<Stored>>,
    #[serde(skip)]
    pub(super) looked_for: bool,
}

/// A file that is followed.
pub(super) struct Tailed {
    key: String,
    path: PathBuf,
    name: String,
    file: Option<File>,
    /// After the last line that was taken.
    offset: u64,
    lines: Option<u64>,
    prints: Prints,
    /// What had been read of the content that was truncated last.
    cut: Option<Stored>,
    /// What the file was like when it was last read to its end.
    stamp: Option<Stamp>,
    /// A line that is longer than a turn, as far as it was seen.
    long_line: Option<LongLine>,
    active: Instant,
    in_pattern: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp { size: metadata.size(), modified: (metadata.mtime(), metadata.mtime_nsec()) }
    }
}

struct LongLine {
    size: u64,
    hash: Xxh3,
    head: Vec<u8>,
}

/// What a round of turns shares.
pub(super) struct Turn {
    topic: Arc<TopicInfo>,
    key: Option<String>,
    is_ndjson: bool,
    clock: Arc<dyn Clock>,
    block: Vec<u8>,
    limits: Limits,
}

impl Turn {
    pub(super) fn new(
        topic: Arc<TopicInfo>,
        key: Option<String>,
        format: FileFormat,
        clock: Arc<dyn Clock>,
    ) -> Turn {
        let limits = Limits::of_topic(topic.max_record_bytes);
        Turn { topic, key, is_ndjson: format == FileFormat::Ndjson, clock, block: Vec::new(), limits }
    }
}

/// What a turn gave.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) bytes: u64,
    /// Whether the file has more to read at once.
    pub(super) more: bool,
    /// The position that was given up because the file was truncated.
    pub(super) cut: Option<Stored>,
}

impl Tailed {
    pub(super) fn at_start(key: String, path: PathBuf, file: File) -> Tailed {
        Tailed {
            key,
            name: path.to_string_lossy().into_owned(),
            path,
            file: Some(file),
            offset: 0,
            lines: Some(0),
            prints: Prints::default(),
            cut: None,
            stamp: None,
            long_line: None,
            active: Instant::now(),
            in_pattern: true,
        }
    }

    pub(super) fn resumed(key: String, path: PathBuf, file: File, stored: &Stored, prints: Prints) -> Tailed {
        let cut = stored.cut.as_deref().cloned();
        Tailed {
            offset: stored.offset,
            lines: stored.lines,
            prints,
            cut,
            ..Tailed::at_start(key, path, file)
        }
    }

    /// From the start of a content that came after `cut`.
    pub(super) fn after_cut(key: String, path: PathBuf, file: File, cut: Stored) -> Tailed {
        Tailed { cut: Some(Stored { cut: None, ..cut }), ..Tailed::at_start(key, path, file) }
    }

    /// After the last newline there is: a line is not begun in its middle.
    pub(super) fn at_end(key: String, path: PathBuf, file: File) -> io::Result<Tailed> {
        const STEP_BYTES: u64 = 64 << 10;
        let mut end = file.metadata()?.len();
        let mut block = Vec::new();
        while end > 0 {
            let from = end.saturating_sub(STEP_BYTES);
            block.resize(usize::try_from(end - from).unwrap_or_default(), 0);
            file.read_exact_at(&mut block, from)?;
            if let Some(at) = memrchr(b'\n', &block) {
                end = from + at as u64 + 1;
                break;
            }
            end = from;
        }
        let prints = Prints::read(&file, end)?.unwrap_or_default();
        let lines = (end == 0).then_some(0);
        Ok(Tailed { offset: end, lines, prints, ..Tailed::at_start(key, path, file) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn prints(&self) -> &Prints {
        &self.prints
    }

    pub(super) fn into_open(self) -> Option<File> {
        self.file
    }

    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Whether it has to be looked for: closed, and its name is no longer its own.
    pub(super) fn is_lost(&self) -> bool {
        self.file.is_none()
    }

    pub(super) fn close(&mut self) {
        self.file = None;
    }

    /// The pattern (or a search) found it under `path`.
    pub(super) fn seen_at(&mut self, path: &Path) {
        self.in_pattern = true;
        if self.path != path {
            info!(file = %self.path.display(), now = %path.display(), "the file was renamed");
            self.path = path.to_owned();
            self.name = path.to_string_lossy().into_owned();
        }
    }

    pub(super) fn is_in_pattern(&self) -> bool {
        self.in_pattern
    }

    pub(super) fn out_of_pattern(&mut self) {
        self.in_pattern = false;
    }

    /// How long it has given nothing.
    pub(super) fn idle(&self) -> Duration {
        self.active.elapsed()
    }

    pub(super) fn is_deleted(&self) -> bool {
        let metadata = self.file.as_ref().and_then(|file| file.metadata().ok());
        !self.in_pattern && metadata.is_some_and(|metadata| metadata.nlink() == 0)
    }

    pub(super) fn size(&self) -> u64 {
        let metadata = self.file.as_ref().and_then(|file| file.metadata().ok());
        metadata.map_or(self.offset, |metadata| metadata.len())
    }

    pub(super) fn lag(&self) -> u64 {
        self.size().saturating_sub(self.offset)
    }

    pub(super) fn to_stored(&self) -> Stored {
        Stored {
            path: self.path.clone(),
            offset: self.offset,
            lines: self.lines,
            prints: self.prints.to_stored(),
            cut: self.cut.clone().map(Box::new),
            looked_for: false,
        }
    }

    pub(super) fn to_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self.to_stored())
            .map_err(|error| Error::internal("a position is no JSON").with_source(error))
    }

    /// When it was written to last, as far as that can be seen.
    pub(super) fn modified(&self) -> (i64, i64) {
        let metadata = match &self.file {
            Some(file) => file.metadata(),
            None => std::fs::metadata(&self.path),
        };
        metadata.map(|metadata| Stamp::of(&metadata).modified).unwrap_or_default()
    }

    /// Reads on for about 1 MiB, not beyond `end`.
    pub(super) fn take_turn(
        &mut self,
        turn: &mut Turn,
        appender: &mut Appender<'_>,
        end: Option<u64>,
    ) -> Result<Outcome> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| at_path(&path, error)
        };
        let Some(stamp) = self.look().map_err(failed(&self.path))? else { return Ok(Outcome::default()) };
        let Some(file) = &self.file else { return Ok(Outcome::default()) };
        let from = self.offset + self.long_line.as_ref().map_or(0, |line| line.size);
        let wanted = end.unwrap_or(u64::MAX).min(stamp.size).saturating_sub(from);
        turn.block.resize(TURN_BYTES.max(turn.limits.whole + 2), 0);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).min(turn.block.len());
        let count = read_up_to(file, &mut turn.block[..wanted], from).map_err(failed(&self.path))?;
        // After the read: what was read belongs to the content that the prints are of.
        if stamp.size < from || !self.prints.are_in(file, self.offset).map_err(failed(&self.path))? {
            return self.cut(appender).map(|cut| Outcome { bytes: 0, more: true, cut: Some(cut) });
        }
        let block = std::mem::take(&mut turn.block);
        let taken = self.take_lines(turn, appender, &block[..count]);
        turn.block = block;
        let taken = taken?;
        if taken > 0 {
            self.active = Instant::now();
            appender.position(&self.key, Some(self.to_json()?));
        }
        let at_end = count < turn.block.len();
        self.stamp = at_end.then_some(stamp);
        Ok(Outcome { bytes: taken, more: !at_end, cut: None })
    }

    /// Looks whether an open file was truncated: then its new content begins, and this is what was read of the old.
    pub(super) fn check(&mut self, appender: &mut Appender<'_>) -> Result<Option<Stored>> {
        let Some(file) = &self.file else { return Ok(None) };
        if self.prints.are_in(file, self.offset).map_err(|error| at_path(&self.path, error))? {
            return Ok(None);
        }
        self.cut(appender).map(Some)
    }

    /// What the file is like when there may be something new; opens it when it was closed.
    fn look(&mut self) -> io::Result<Option<Stamp>> {
        let metadata = match &self.file {
            Some(file) => file.metadata()?,
            None => match std::fs::metadata(&self.path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        let stamp = Stamp::of(&metadata);
        if self.stamp == Some(stamp) {
            return Ok(None);
        }
        if self.file.is_none() {
            let file = match File::open(&self.path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            // Another file may have its name by now: that one is met under its own identity.
            if FileId::of(&file.metadata()?).key() != self.key {
                return Ok(None);
            }
            self.file = Some(file);
            self.active = Instant::now();
        }
        Ok(Some(stamp))
    }

    /// Begins the new content of a file that was truncated.
    fn cut(&mut self, appender: &mut Appender<'_>) -> Result<Stored> {
        info!(file = %self.path.display(), offset = self.offset, "the file was truncated: it is read from its start");
        let cut = Stored { cut: None, ..self.to_stored() };
        self.offset = 0;
        self.lines = Some(0);
        self.prints = Prints::default();
        self.cut = Some(cut.clone());
        self.long_line = None;
        self.stamp = None;
        self.active = Instant::now();
        appender.position(&self.key, Some(self.to_json()?));
        Ok(cut)
    }

    /// Pushes the whole lines of `block`, which follows what is known of the file; the number of bytes it took.
    fn take_lines(&mut self, turn: &Turn, appender: &mut Appender<'_>, block: &[u8]) -> Result<u64> {
        let timestamp_ms = turn.clock.now_ms();
        let mut rest = block;
        if let Some(mut line) = self.long_line.take() {
            let newline = memchr(b'\n', rest);
            let part = newline.unwrap_or(rest.len());
            line.hash.update(&rest[..part]);
            line.size += part as u64;
            if newline.is_none() {
                self.long_line = Some(line);
                return Ok(0);
            }
            let oversize = Some(Oversize { size: line.size, hash: line.hash.digest128() });
            self.push(turn, appender, timestamp_ms, &line.head, oversize)?;
            self.offset += line.size + 1;
            let file = self.file.as_ref().ok_or_else(|| Error::internal("a file that is read is open"))?;
            self.prints = Prints::read(file, self.offset)
                .map_err(|error| at_path(&self.path, error))?
                .unwrap_or_default();
            rest = &rest[part + 1..];
        }
        let from = rest;
        while let Some(at) = memchr(b'\n', rest) {
            let line = rest[..at].strip_suffix(b"\r").unwrap_or(&rest[..at]);
            rest = &rest[at + 1..];
            self.push(turn, appender, timestamp_ms, line, None)?;
        }
        let taken = from.len() - rest.len();
        self.prints.advance(&from[..taken]);
        self.offset += taken as u64;
        if rest.len() > turn.limits.whole {
            let mut hash = Xxh3::new();
            hash.update(rest);
            let head = rest[..turn.limits.head.min(rest.len())].to_vec();
            self.long_line = Some(LongLine { size: rest.len() as u64, hash, head });
        }
        Ok((block.len() - rest.len()) as u64)
    }

    /// The last line of a deleted file, to which no newline will come.
    pub(super) fn take_rest(&mut self, turn: &mut Turn, appender: &mut Appender<'_>) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        if self.long_line.is_some() {
            return Ok(());
        }
        turn.block.resize(turn.limits.whole, 0);
        let mut block = std::mem::take(&mut turn.block);
        let count = read_up_to(file, &mut block, self.offset).map_err(|error| at_path(&self.path, error))?;
        if count > 0 {
            self.push(turn, appender, turn.clock.now_ms(), &block[..count], None)?;
        }
        turn.block = block;
        Ok(())
    }

    fn push(
        &mut self,
        turn: &Turn,
        appender: &mut Appender<'_>,
        timestamp_ms: i64,
        line: &[u8],
        oversize: Option<Oversize>,
    ) -> Result<()> {
        let at_start = self.lines == Some(0);
        if let Some(lines) = &mut self.lines {
            *lines += 1;
        }
        let line = if at_start { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        if turn.is_ndjson && line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let key = turn.key.as_deref().filter(|_| oversize.is_none());
        let key = key.and_then(|name| json::field(line, name).ok().flatten());
        let place = Place { file: &self.name, line: self.lines };
        let found = Found { value: line, key: key.as_deref(), oversize, error: None };
        appender.push_found(&turn.topic, timestamp_ms, &place, &found)
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
