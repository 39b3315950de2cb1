//! One file that is followed, and its turns.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use memchr::{memchr, memrchr};
use serde::{Deserialize, Serialize};
use tarn_model::config::TaildirConfig;
use tarn_model::{Error, Result};
use tracing::info;
use xxhash_rust::xxh3::Xxh3;

use super::packed::Rest;
use super::prints::Prints;
use super::{FileId, StoredPrints, at_path};
use crate::appender::Appender;
use crate::joiner::{Joiner, Joining};
use crate::lines::{Limits, Oversize};
use crate::shaper::{Found, Place, Shaper};
use crate::source::Source;

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
    /// How often it was truncated.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) cuts: u64,
    /// Of a packed file, whose offset and prints are of what it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) packed: Option<StoredPacked>,
    /// Of a content that was truncated: its rest was found in a copy.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) taken: bool,
    #[serde(skip)]
    pub(super) looked_for: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// What is kept of a packed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredPacked {
    /// Its own size.
    pub(super) bytes: u64,
    /// Whether nothing is left in it.
    pub(super) done: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
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
    /// Since when a record that may go on has been waiting for its next line.
    held_since: Option<Instant>,
    /// How often it was truncated, and when it was made: with offset and content they tell its lines from all others.
    cuts: u64,
    born: u128,
    active: Instant,
    in_pattern: bool,
    /// What it was like when the pattern last found it.
    seen: Option<Stamp>,
    /// Set when this is what a packed file holds.
    packed: Option<StoredPacked>,
}

/// By what a change of a file is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Stamp {
        Stamp { size: metadata.size(), modified: (metadata.mtime(), metadata.mtime_nsec()) }
    }
}

struct LongLine {
    size: u64,
    hash: Xxh3,
    head: Vec<u8>,
}

/// What a round of turns shares.
pub(super) struct Turn<'a> {
    shaper: &'a mut Shaper,
    joiner: Option<Joiner>,
    /// How long a record waits for its next line.
    timeout: Duration,
    timestamp_ms: i64,
    source: &'a Source,
    block: Vec<u8>,
    block_bytes: usize,
    limits: Limits,
}

impl<'a> Turn<'a> {
    pub(super) fn new(
        source: &'a Source,
        shaper: &'a mut Shaper,
        joining: Option<&Joining>,
        config: &TaildirConfig,
    ) -> Result<Turn<'a>> {
        let topic = source.topic_info()?;
        let limits = Limits::of_topic(topic.max_record_bytes);
        // Room for a record that is joined (an empty line takes two bytes here and one there), and for the line that ends it.
        let joined = joining.map_or(0, Joining::max_bytes).min(limits.whole);
        shaper.begin(source, topic)?;
        Ok(Turn {
            shaper,
            joiner: joining.cloned().map(Joiner::new),
            timeout: config.lines.multiline.as_ref().map_or(Duration::ZERO, |multiline| multiline.timeout.0),
            timestamp_ms: source.clock.now_ms(),
            source,
            block: Vec::new(),
            block_bytes: TURN_BYTES.max(limits.whole + 2 * joined + 4),
            limits,
        })
    }
}

/// What a block gave.
#[derive(Debug, Default)]
struct Taken {
    bytes: u64,
    /// Whether its last record may go on, and is held back.
    is_held: bool,
    /// Whether the rate limit ended it.
    broke_off: bool,
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
        let born = file.metadata().and_then(|metadata| metadata.created()).ok();
        let born = born.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Tailed {
            held_since: None,
            cuts: 0,
            born: born.map_or(0, |since| since.as_nanos()),
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
            seen: None,
            packed: None,
        }
    }

    pub(super) fn resumed(key: String, path: PathBuf, file: File, stored: &Stored, prints: Prints) -> Tailed {
        let cut = stored.cut.as_deref().cloned();
        Tailed {
            offset: stored.offset,
            lines: stored.lines,
            prints,
            cut,
            cuts: stored.cuts,
            ..Tailed::at_start(key, path, file)
        }
    }

    /// The rest of another file in a packed one of so many `bytes`.
    pub(super) fn in_packed(key: String, path: PathBuf, bytes: u64, rest: Rest, stored: &Stored) -> Tailed {
        let packed = Some(StoredPacked { bytes, done: false });
        Tailed { packed, cut: None, ..Tailed::resumed(key, path, rest.file, stored, rest.prints) }
    }

    /// From the start of a content that came after `cut`.
    pub(super) fn after_cut(key: String, path: PathBuf, file: File, cut: Stored) -> Tailed {
        let cuts = cut.cuts + 1;
        Tailed { cut: Some(Stored { cut: None, ..cut }), cuts, ..Tailed::at_start(key, path, file) }
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

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// How often it was truncated.
    pub(super) fn cuts(&self) -> u64 {
        self.cuts
    }

    pub(super) fn is_packed(&self) -> bool {
        self.packed.is_some()
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

    /// Closes it, if its name leads to it again.
    pub(super) fn close(&mut self) -> bool {
        let closes = self.in_pattern && self.packed.is_none() && self.file.is_some();
        if closes {
            self.file = None;
        }
        closes
    }

    /// The pattern (or a search) found it under `path`.
    pub(super) fn seen_at(&mut self, path: &Path, stamp: Stamp) {
        self.in_pattern = true;
        self.seen = Some(stamp);
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
        self.seen = None;
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
        let seen = self.seen.map_or(0, |stamp| stamp.size);
        metadata.map_or(self.offset.max(seen), |metadata| metadata.len())
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
            cuts: self.cuts,
            packed: self.packed,
            taken: false,
            looked_for: false,
        }
    }

    pub(super) fn to_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self.to_stored())
            .map_err(|error| Error::internal("a position is no JSON").with_source(error))
    }

    /// When it was written to last, as far as that can be seen.
    pub(super) fn modified(&self) -> (i64, i64) {
        if let Some(stamp) = self.seen {
            return stamp.modified;
        }
        let metadata = match &self.file {
            Some(file) => file.metadata(),
            None => std::fs::metadata(&self.path),
        };
        metadata.map(|metadata| Stamp::of(&metadata).modified).unwrap_or_default()
    }

    /// Reads on for about 1 MiB, not beyond `end`.
    pub(super) fn take_turn(
        &mut self,
        turn: &mut Turn<'_>,
        appender: &mut Appender<'_>,
        end: Option<u64>,
    ) -> Result<Outcome> {
        // What is unpacked grows no more.
        let end = if self.is_packed() { Some(u64::MAX) } else { end };
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| at_path(&path, error)
        };
        // A record that may go on is complete when its time is over and nothing came; in a drain nothing will.
        let overdue = self.held_since.is_some_and(|since| end.is_some() || since.elapsed() >= turn.timeout);
        let held = self.stamp.filter(|_| overdue);
        if overdue {
            self.stamp = None;
        }
        let Some(stamp) = self.look().map_err(failed(&self.path))? else { return Ok(Outcome::default()) };
        let Some(file) = &self.file else { return Ok(Outcome::default()) };
        let from = self.offset + self.long_line.as_ref().map_or(0, |line| line.size);
        let wanted = end.unwrap_or(u64::MAX).min(stamp.size).saturating_sub(from);
        turn.block.resize(turn.block_bytes, 0);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).min(turn.block.len());
        let count = read_up_to(file, &mut turn.block[..wanted], from).map_err(failed(&self.path))?;
        // After the read: what was read belongs to the content that the prints are of.
        if stamp.size < from || !self.prints.are_in(file, self.offset).map_err(failed(&self.path))? {
            return self.cut(appender).map(|cut| Outcome { bytes: 0, more: true, cut: Some(cut) });
        }
        let at_end = count < turn.block.len();
        let completes = at_end && (held == Some(stamp) || end.is_some());
        let block = std::mem::take(&mut turn.block);
        let taken = self.take_lines(turn, appender, &block[..count], completes);
        turn.block = block;
        let Taken { bytes: taken, is_held, broke_off } = taken?;
        let at_end = at_end && !broke_off;
        self.held_since = match self.held_since.filter(|_| taken == 0 && held == Some(stamp)) {
            _ if !is_held => None,
            Some(since) => Some(since),
            None => Some(Instant::now()),
        };
        if taken > 0 {
            self.active = Instant::now();
            appender.position(&self.key, Some(self.to_json()?));
        }
        self.stamp = at_end.then_some(stamp);
        Ok(Outcome { bytes: taken, more: !at_end, cut: None })
    }

    /// The rest of what was truncated last was found in a copy; whether that was this file's.
    pub(super) fn rest_is_taken(&mut self, of: &Stored) -> bool {
        let cut = self.cut.as_mut().filter(|cut| cut.offset == of.offset && cut.prints == of.prints);
        cut.map(|cut| cut.taken = true).is_some()
    }

    /// Looks whether the file was truncated: then its new content begins, and this is what was read of the old.
    pub(super) fn check(&mut self, appender: &mut Appender<'_>) -> Result<Option<Stored>> {
        if self.offset == 0 || self.is_packed() {
            return Ok(None);
        }
        let was_open = self.is_open();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| at_path(&path, error)
        };
        // A closed one is opened for it when it is not what it was.
        if !was_open && self.look().map_err(failed(&self.path))?.is_none() {
            return Ok(None);
        }
        let Some(file) = &self.file else { return Ok(None) };
        let same = self.prints.are_in(file, self.offset).map_err(failed(&self.path))?;
        let cut = if same { None } else { Some(self.cut(appender)?) };
        if !was_open {
            self.close();
        }
        Ok(cut)
    }

    /// What the file is like when there may be something new; opens it when it was closed.
    fn look(&mut self) -> io::Result<Option<Stamp>> {
        let metadata = match &self.file {
            Some(file) => file.metadata()?,
            None if self.stamp.is_some() && self.stamp == self.seen => return Ok(None),
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
        self.cuts += 1;
        self.long_line = None;
        self.held_since = None;
        self.stamp = None;
        self.active = Instant::now();
        appender.position(&self.key, Some(self.to_json()?));
        Ok(cut)
    }

    /// Pushes the whole lines of `block`, which follows what is known of the file; `completes` says that its last record does not
    /// go on. The rate limit may end it earlier, after a record at least.
    fn take_lines(
        &mut self,
        turn: &mut Turn<'_>,
        appender: &mut Appender<'_>,
        block: &[u8],
        completes: bool,
    ) -> Result<Taken> {
        turn.timestamp_ms = turn.source.clock.now_ms();
        let mut rest = block;
        if let Some(mut line) = self.long_line.take() {
            let newline = memchr(b'\n', rest);
            let part = newline.unwrap_or(rest.len());
            line.hash.update(&rest[..part]);
            line.size += part as u64;
            if newline.is_none() {
                self.long_line = Some(line);
                return Ok(Taken::default());
            }
            let oversize = Some(Oversize { size: line.size, hash: line.hash.digest128() });
            self.push(turn, appender, &line.head, self.offset, 1, oversize)?;
            self.offset += line.size + 1;
            let file = self.file.as_ref().ok_or_else(|| Error::internal("a file that is read is open"))?;
            self.prints = Prints::read(file, self.offset)
                .map_err(|error| at_path(&self.path, error))?
                .unwrap_or_default();
            rest = &rest[part + 1..];
        }
        let (from, base) = (rest, self.offset);
        let at_line = |rest: &[u8]| base + (from.len() - rest.len()) as u64;
        let mut joiner = turn.joiner.take();
        // Where the record begins that is pending.
        let mut begun = rest;
        let mut broke_off = false;
        while let Some(at) = memchr(b'\n', rest) {
            if appender.owes() {
                broke_off = true;
                break;
            }
            let line = rest[..at].strip_suffix(b"\r").unwrap_or(&rest[..at]);
            match &mut joiner {
                None => self.push(turn, appender, line, at_line(rest), 1, None)?,
                Some(joiner) => {
                    if joiner.ends_before(line) {
                        self.push(turn, appender, joiner.pending(), at_line(begun), joiner.lines(), None)?;
                        joiner.clear();
                    }
                    if !joiner.is_pending() {
                        begun = rest;
                    }
                    joiner.add(line);
                }
            }
            rest = &rest[at + 1..];
        }
        let is_long = rest.len() > turn.limits.whole && !broke_off;
        let mut is_held = false;
        if let Some(joiner) = &mut joiner {
            if joiner.is_pending() && (completes && !broke_off || is_long) {
                self.push(turn, appender, joiner.pending(), at_line(begun), joiner.lines(), None)?;
            } else if joiner.is_pending() {
                rest = begun;
                is_held = !broke_off;
            }
            joiner.clear();
        }
        turn.joiner = joiner;
        let taken = from.len() - rest.len();
        self.prints.advance(&from[..taken]);
        self.offset += taken as u64;
        if is_long {
            let mut hash = Xxh3::new();
            hash.update(rest);
            let head = rest[..turn.limits.head.min(rest.len())].to_vec();
            self.long_line = Some(LongLine { size: rest.len() as u64, hash, head });
        }
        Ok(Taken { bytes: (block.len() - rest.len()) as u64, is_held, broke_off })
    }

    /// All of a packed file is taken, but for a last line without a newline: takes that, and says that nothing is left.
    pub(super) fn finish_packed(&mut self, turn: &mut Turn<'_>, appender: &mut Appender<'_>) -> Result<()> {
        self.take_rest(turn, appender)?;
        if let Some(packed) = &mut self.packed {
            packed.done = true;
        }
        appender.position(&self.key, Some(self.to_json()?));
        Ok(())
    }

    /// The last line of a deleted file, to which no newline will come.
    pub(super) fn take_rest(&mut self, turn: &mut Turn<'_>, appender: &mut Appender<'_>) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        if let Some(line) = self.long_line.take() {
            turn.timestamp_ms = turn.source.clock.now_ms();
            let oversize = Some(Oversize { size: line.size, hash: line.hash.digest128() });
            return self.push(turn, appender, &line.head, self.offset, 1, oversize);
        }
        turn.block.resize(turn.limits.whole, 0);
        let mut block = std::mem::take(&mut turn.block);
        let count = read_up_to(file, &mut block, self.offset).map_err(|error| at_path(&self.path, error))?;
        if count > 0 {
            turn.timestamp_ms = turn.source.clock.now_ms();
            self.push(turn, appender, &block[..count], self.offset, 1, None)?;
        }
        turn.block = block;
        Ok(())
    }

    /// Pushes a record that begins at `offset` and has so many lines.
    fn push(
        &mut self,
        turn: &mut Turn<'_>,
        appender: &mut Appender<'_>,
        value: &[u8],
        offset: u64,
        count: u64,
        oversize: Option<Oversize>,
    ) -> Result<()> {
        let first = self.lines.map(|lines| lines + 1);
        if let Some(lines) = &mut self.lines {
            *lines += count;
        }
        let value =
            if first == Some(1) { value.strip_prefix(b"\xef\xbb\xbf").unwrap_or(value) } else { value };
        let seed = self.born ^ (u128::from(self.cuts) << 96);
        let place = Place::of_file(&self.name, first, (seed, offset));
        let found = Found { oversize, ..Found::value(value) };
        turn.shaper.push(appender, turn.timestamp_ms, &place, &found).map(drop)
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
