//! `taildir`: files that grow, are rotated, truncated, deleted and made anew.
//!
//! *Why*: a path names another file after a rotation, and an inode another file after a deletion. So a file is its device
//! and inode *and* what was read of it: the first and the last KiB below the position (see [`prints`]).
//!
//! *Layout*: a position under `<device>-<inode>`: `{"path", "offset", "lines", "head", "tail"}`. Key `started` says that
//! the source has run before, so that `from = "end"` concerns only the files of its first look.
//!
//! | what happens | what is read |
//! |---|---|
//! | renamed (still in the pattern, out of it, or while Tarn was down) | the rest of it, nothing again |
//! | truncated, or truncated and written again | the new content from its start |
//! | copied, then truncated (`copytruncate`) | of the copy, only what had not been read before the cut |
//! | deleted | what is left, through the open file; then it is forgotten |
//! | made anew under the same inode | from its start, unless it begins with all that had been read |
//! | packed after a rotation | nothing again; what had not been read, when the plain file is gone (see [`packed`]) |
//! | the last line has no newline yet | held back until it has |
//! | the last record may go on (`multiline`) | held back until the next one begins, or its time is over |
//!
//! *Invariants*: files take turns of about 1 MiB, so none starves, the one written to longest ago first, so that the rest of
//! a rotated file (when it fits into a turn) comes before its successor. The position of a file is after a newline, and in the
//! same commit as the lines before it. A record of several lines that may go on is read again with each look, so nothing of
//! it is in memory only. However many files there are, a few hundred of them are open.
//!
//! *Failure*: an error has everything read again from the committed positions, through the files that are open still.
//!
//! *Not here*: packed files of which nothing was read while they were plain (`spooldir` unpacks).

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use tarn_model::config::TaildirConfig;
use tarn_model::{Error, Kind, Result};
use tracing::info;

use crate::appender::Appender;
use crate::joiner::Joining;
use crate::monitor::{State, tell};
use crate::shaper::Shaper;
use crate::source::{Collector, Source};

mod finder;
mod packed;
mod prints;
mod tailed;
#[cfg(test)]
mod tests;

use prints::StoredPrints;
use tailed::{Stamp, Stored, StoredPacked, Tailed, Turn};

/// Position key that says that the source has run before.
const STARTED: &str = "started";
/// How long a new file that begins like a known one is watched: is it a copy whose original is about to be truncated?
const COPY_WATCH: Duration = Duration::from_secs(5);
/// The same, for a copy that is still growing.
const LONGEST_COPY_WATCH: Duration = Duration::from_secs(60);
/// A file in the pattern that has given nothing for so long is closed, and opened again when it changes.
const IDLE_CLOSE: Duration = Duration::from_secs(60);
/// A file that was renamed out of the pattern, or deleted, and has given nothing for so long is let go.
const GONE_CLOSE: Duration = Duration::from_secs(600);
/// Files that are kept open while there is nothing to read.
const MOST_OPEN: usize = 512;

/// A file by the numbers that survive a rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(metadata: &Metadata) -> FileId {
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }

    fn key(self) -> String {
        format!("{:x}-{:x}", self.device, self.inode)
    }

    fn parse(key: &str) -> Option<FileId> {
        let (device, inode) = key.split_once('-')?;
        Some(FileId {
            device: u64::from_str_radix(device, 16).ok()?,
            inode: u64::from_str_radix(inode, 16).ok()?,
        })
    }
}

/// Follows the files of one pattern.
pub(crate) struct Taildir {
    config: TaildirConfig,
    /// Where the rests of packed files are unpacked.
    staging: PathBuf,
    shaper: Option<Shaper>,
    /// Which lines are one record.
    joining: Option<Joining>,
    copy_watch: Duration,
    gone_close: Duration,
    files: BTreeMap<FileId, Tailed>,
    /// Positions of files that are not there (any more, or yet).
    absent: HashMap<FileId, Stored>,
    /// What had been read of files that were truncated: a copy of one goes on there.
    truncated: Vec<Stored>,
    watched: HashMap<FileId, Watched>,
    /// Packed files that are not read (any more).
    packed: HashMap<FileId, Left>,
    /// In a drain: the files of the first look with their ends.
    drain_ends: Option<HashMap<FileId, u64>>,
    /// What is wrong with a file that the last look met.
    trouble: Option<Error>,
}

/// A new file that begins like a known one.
struct Watched {
    since: Instant,
    grown: Instant,
    size: u64,
}

/// Why a packed file is left alone; it is looked at again when that changes.
struct Left {
    size: u64,
    /// The file, truncated so many times, that holds the same and is read itself.
    plain: Option<(FileId, u64)>,
}

/// A file that a look found.
#[derive(Debug, Clone)]
struct Seen {
    id: FileId,
    path: PathBuf,
    stamp: Stamp,
}

impl Seen {
    fn of(path: PathBuf, metadata: &Metadata) -> Seen {
        Seen { id: FileId::of(metadata), path, stamp: Stamp::of(metadata) }
    }
}

impl Taildir {
    /// Rests of packed files are unpacked below `staging`.
    pub(crate) fn new(config: TaildirConfig, staging: PathBuf) -> Result<Taildir> {
        glob::Pattern::new(&config.path.to_string_lossy()).map_err(|error| {
            Error::invalid(format!("`path` is no glob pattern: `{}`", config.path.display()))
                .with_source(error)
        })?;
        if config.format.is_whole_file() {
            return Err(Error::invalid("a growing file is not read as `csv`, `avro` or `parquet`"));
        }
        let joining = config.lines.multiline.as_ref().map(Joining::new).transpose()?;
        Ok(Taildir {
            config,
            staging,
            shaper: None,
            joining,
            copy_watch: COPY_WATCH,
            gone_close: GONE_CLOSE,
            files: BTreeMap::new(),
            absent: HashMap::new(),
            truncated: Vec::new(),
            watched: HashMap::new(),
            packed: HashMap::new(),
            drain_ends: None,
            trouble: None,
        })
    }

    /// Goes back to the committed positions; files that are open stay so, whatever became of their names.
    fn reload(&mut self, source: &Source) -> Result<bool> {
        let mut started = false;
        self.absent.clear();
        self.truncated.clear();
        self.watched.clear();
        self.packed.clear();
        for (key, value) in source.log.positions(&source.name)? {
            match FileId::parse(&key) {
                Some(id) => {
                    let stored: Stored = serde_json::from_value(value).map_err(|error| {
                        Error::internal(format!("the position of the file `{key}` cannot be read"))
                            .with_source(error)
                    })?;
                    self.truncated.extend(stored.cut.as_deref().cloned());
                    self.absent.insert(id, stored);
                }
                None => started |= key == STARTED,
            }
        }
        for (id, file) in std::mem::take(&mut self.files) {
            // What was unpacked is so again, from what is committed.
            if file.is_packed() {
                continue;
            }
            let path = file.path().to_owned();
            if let Some(file) = file.into_open() {
                match self.absent.remove(&id) {
                    Some(stored) => self.resume(id, &path, file, stored)?,
                    None => drop(self.files.insert(id, Tailed::at_start(id.key(), path, file))),
                }
            }
        }
        Ok(started)
    }

    /// A file with a position: read on when it is the same content, from the start otherwise.
    fn resume(&mut self, id: FileId, path: &Path, file: File, stored: Stored) -> Result<()> {
        let tailed = match stored.prints.load(&file, stored.offset) {
            Ok(Some(prints)) => Tailed::resumed(id.key(), path.to_owned(), file, &stored, prints),
            Ok(None) => {
                info!(file = %path.display(), "the file has a new content: it is read from its start");
                self.truncated.push(stored.clone());
                Tailed::after_cut(id.key(), path.to_owned(), file, stored)
            }
            Err(error) => return Err(at_path(path, error)),
        };
        self.files.insert(id, tailed);
        Ok(())
    }

    /// Every file has turns until none has more, the one that was written to longest ago first: the rest of a rotated file
    /// comes before its successor. Whether any gave lines.
    fn read(&mut self, source: &Source, appender: &mut Appender<'_>) -> Result<bool> {
        let mut shaper = self.shaper(source)?;
        let mut turn = Turn::new(source, &mut shaper, self.joining.as_ref(), &self.config)?;
        let looked = Instant::now();
        let mut any = false;
        let mut order: Vec<_> = self.files.iter().map(|(id, file)| (file.modified(), *id)).collect();
        order.sort_unstable();
        let mut open_files = self.files.values().filter(|file| file.is_open()).count();
        loop {
            let mut more = false;
            for (_, id) in &order {
                let Some(file) = self.files.get_mut(id) else { continue };
                if source.stopping() {
                    return Ok(any);
                }
                let was_open = file.is_open();
                let end = self.drain_ends.as_ref().map(|ends| ends.get(id).copied().unwrap_or(0));
                let outcome = match file.take_turn(&mut turn, appender, end) {
                    Ok(outcome) => outcome,
                    // Nothing was taken of it: the others can go on.
                    Err(error) if error.kind() == Kind::Unavailable && !appender.is_behind() => {
                        self.trouble = Some(error);
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                source.monitor.read(outcome.bytes);
                more |= outcome.more;
                any |= outcome.bytes > 0 || outcome.more;
                open_files += usize::from(!was_open && file.is_open());
                if file.is_packed() && !outcome.more {
                    file.finish_packed(&mut turn, appender)?;
                    let left =
                        Left { size: file.to_stored().packed.map_or(0, |packed| packed.bytes), plain: None };
                    self.packed.insert(*id, left);
                    self.files.remove(id);
                    open_files -= 1;
                } else if !outcome.more && open_files > MOST_OPEN && file.close() {
                    open_files -= 1;
                }
                if let Some(cut) = outcome.cut {
                    self.truncated.push(cut);
                }
                if appender.is_full() {
                    appender.submit()?;
                }
            }
            // A file that never ends must not keep others from being found.
            if !more || looked.elapsed() > self.config.every.0 {
                break;
            }
        }
        self.shaper = Some(shaper);
        Ok(any)
    }

    /// The shaper, which is compiled once; whoever takes it puts it back.
    fn shaper(&mut self, source: &Source) -> Result<Shaper> {
        match self.shaper.take() {
            Some(shaper) => Ok(shaper),
            None => Shaper::of_lines(&source.config, self.config.format, &self.config.lines),
        }
    }

    /// A file that cannot be found any more; should it come back, it is read on.
    fn let_go(&mut self, id: FileId) -> Result<()> {
        if let Some(tailed) = self.files.remove(&id) {
            self.absent.insert(id, Stored { looked_for: true, ..tailed.to_stored() });
        }
        Ok(())
    }

    /// Closes files that are idle, lets those go that are out of the pattern, and forgets those that are deleted.
    fn tidy(&mut self, source: &Source, appender: &mut Appender<'_>) -> Result<()> {
        if self.drain_ends.is_some() {
            return Ok(());
        }
        let mut shaper = self.shaper(source)?;
        let mut turn = Turn::new(source, &mut shaper, self.joining.as_ref(), &self.config)?;
        let mut open = self.files.values().filter(|file| file.is_open()).count();
        let (mut deleted, mut gone) = (Vec::new(), Vec::new());
        for (id, file) in &mut self.files {
            if !file.is_in_pattern() {
                if file.idle() > self.gone_close {
                    gone.push(*id);
                    if file.is_deleted() {
                        file.take_rest(&mut turn, appender)?;
                        appender.position(&id.key(), None);
                        deleted.push(*id);
                    }
                }
            } else if (file.idle() > IDLE_CLOSE || open > MOST_OPEN) && file.close() {
                open -= 1;
            }
        }
        self.shaper = Some(shaper);
        for id in &deleted {
            self.forget_plain(*id, appender)?;
        }
        for id in gone {
            self.let_go(id)?;
        }
        for id in deleted {
            self.absent.remove(&id);
        }
        const MOST_TRUNCATED: usize = 64;
        let excess = self.truncated.len().saturating_sub(MOST_TRUNCATED);
        self.truncated.drain(..excess);
        Ok(())
    }

    /// A deleted file was read to its end: so were the packed ones that hold the same.
    fn forget_plain(&mut self, id: FileId, appender: &mut Appender<'_>) -> Result<()> {
        let Some(plain) = self.files.get(&id) else { return Ok(()) };
        for (packed, left) in &mut self.packed {
            if left.plain.is_some_and(|(plain, _)| plain == id) {
                let packed_state = Some(StoredPacked { bytes: left.size, done: true });
                let stored = Stored { packed: packed_state, cut: None, ..plain.to_stored() };
                let value = serde_json::to_value(stored);
                let value = value.map_err(|e| Error::internal("a position is no JSON").with_source(e))?;
                appender.position(&packed.key(), Some(value));
                left.plain = None;
            }
        }
        Ok(())
    }

    fn lag_bytes(&self) -> u64 {
        self.files.values().map(Tailed::lag).sum()
    }
}

impl Collector for Taildir {
    fn collect(&mut self, source: &Source) -> Result<()> {
        let started = self.reload(source)?;
        let mut first_run = !started;
        let mut appender = Appender::new(source);
        let mut total = None;
        loop {
            self.look(source, &mut appender, first_run)?;
            if first_run {
                // The ends where `from = "end"` begins must be as durable as the fact that the source has begun.
                appender.position(STARTED, Some(json!({"at_ms": source.clock.now_ms()})));
                for (id, file) in &self.files {
                    appender.position(&id.key(), Some(file.to_json()?));
                }
                appender.finish()?;
                first_run = false;
            }
            source.monitor.lag(self.lag_bytes());
            if source.draining() && total.is_none() {
                source.monitor.total(*total.insert(self.lag_bytes()));
            }
            let any = self.read(source, &mut appender)?;
            self.tidy(source, &mut appender)?;
            appender.finish()?;
            if let Some(error) = self.trouble.take_if(|_| source.draining() && !any) {
                return Err(Error::invalid(tell(&error)));
            }
            match &self.trouble {
                Some(error) => source.monitor.waiting(error),
                None => source.monitor.recovered(),
            }
            source.monitor.lag(self.lag_bytes());
            if source.stopping() || (source.draining() && !any) {
                return Ok(());
            }
            if !any {
                source.monitor.state(State::Idle);
                source.pause(self.config.every.0);
                source.monitor.state(State::Running);
            }
        }
    }
}

/// `None` when it is gone, or another file has its name by now.
fn open(seen: &Seen) -> Result<Option<File>> {
    let file = match File::open(&seen.path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at_path(&seen.path, error)),
    };
    let metadata = file.metadata().map_err(|error| at_path(&seen.path, error))?;
    Ok((FileId::of(&metadata) == seen.id).then_some(file))
}

fn at_path(path: &Path, error: io::Error) -> Error {
    Error::unavailable(format!("cannot read `{}`", path.display()))
        .with_hint("give the process the right to read it, or narrow `path`: it is tried again")
        .with_source(error)
}
