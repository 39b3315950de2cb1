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
//! | the last line has no newline yet | held back until it has |
//! | the last record may go on (`multiline`) | held back until the next one begins, or its time is over |
//!
//! *Invariants*: files take turns of about 1 MiB, so none starves, the one written to longest ago first, so that the rest of
//! a rotated file (when it fits into a turn) comes before its successor. The position of a file is after a newline, and in the
//! same commit as the lines before it. A record of several lines that may go on is read again with each look, so nothing of
//! it is in memory only.
//!
//! *Failure*: an error has everything read again from the committed positions, through the files that are open still.
//!
//! *Not here*: packed files (an `app.log.1.gz` is the rest of a file that was read; `spooldir` unpacks).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use tarn_model::config::{FileFormat, TailFrom, TaildirConfig};
use tarn_model::{Error, Kind, Result};
use tracing::{info, warn};

use crate::appender::Appender;
use crate::joiner::Joining;
use crate::monitor::{State, tell};
use crate::shaper::Shaper;
use crate::source::{Collector, Source};
use crate::unpack::Packing;

mod prints;
mod tailed;
#[cfg(test)]
mod tests;

use prints::StoredPrints;
use tailed::{Stored, Tailed, Turn};

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
    /// Packed files, of which was told once.
    packed: HashSet<FileId>,
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

/// A file that a look found.
struct Seen {
    id: FileId,
    path: PathBuf,
    size: u64,
}

impl Taildir {
    pub(crate) fn new(config: TaildirConfig) -> Result<Taildir> {
        glob::Pattern::new(&config.path.to_string_lossy()).map_err(|error| {
            Error::invalid(format!("`path` is no glob pattern: `{}`", config.path.display()))
                .with_source(error)
        })?;
        if config.format == FileFormat::Csv {
            return Err(Error::invalid("a growing file is not read as `csv`"));
        }
        let joining = config.lines.multiline.as_ref().map(Joining::new).transpose()?;
        Ok(Taildir {
            config,
            shaper: None,
            joining,
            copy_watch: COPY_WATCH,
            gone_close: GONE_CLOSE,
            files: BTreeMap::new(),
            absent: HashMap::new(),
            truncated: Vec::new(),
            watched: HashMap::new(),
            packed: HashSet::new(),
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

    /// Finds files that are new, renamed or gone.
    fn look(&mut self, source: &Source, appender: &mut Appender<'_>, first_run: bool) -> Result<()> {
        let told = self.trouble.take().map(|error| error.to_string());
        let seen = self.list()?;
        let here: HashSet<FileId> = seen.iter().map(|file| file.id).collect();
        let mut new = Vec::new();
        for file in seen {
            if let Some(tailed) = self.files.get_mut(&file.id) {
                tailed.seen_at(&file.path);
            } else if self.absent.contains_key(&file.id) {
                let Some(open) = self.or_trouble(open(&file))?.flatten() else { continue };
                if let Some(stored) = self.absent.remove(&file.id) {
                    self.resume(file.id, &file.path, open, stored)?;
                }
            } else {
                new.push(file);
            }
        }
        self.find_renamed(&here)?;
        if self.drain_ends.is_none() && source.draining() {
            let known = self.files.iter().map(|(id, file)| (*id, file.size()));
            self.drain_ends = Some(known.chain(new.iter().map(|file| (file.id, file.size))).collect());
        }
        if !new.is_empty() {
            // A new file may be the copy of one that was truncated since: that has to be known first.
            for tailed in self.files.values_mut() {
                self.truncated.extend(tailed.check(appender)?);
            }
        }
        for file in new {
            let admitted = self.admit(source, appender, &file, first_run);
            self.or_trouble(admitted)?;
        }
        for (id, tailed) in &mut self.files {
            if !here.contains(id) {
                tailed.out_of_pattern();
            }
        }
        self.watched.retain(|id, _| here.contains(id));
        self.packed.retain(|id| here.contains(id));
        if let Some(error) = self.trouble.as_ref().filter(|error| told != Some(error.to_string())) {
            warn!(source = source.name, error = tell(error), "a file cannot be read");
        }
        Ok(())
    }

    /// What is wrong with one file does not hold up the others.
    fn or_trouble<T>(&mut self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == Kind::Unavailable => {
                self.trouble = Some(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn list(&self) -> Result<Vec<Seen>> {
        let pattern = self.config.path.to_string_lossy();
        let paths = glob::glob(&pattern).map_err(|error| {
            Error::invalid(format!("`path` is no glob pattern: `{pattern}`")).with_source(error)
        })?;
        let mut seen: Vec<Seen> = Vec::new();
        let mut ids = HashSet::new();
        for path in paths {
            let path = path.map_err(|error| {
                let path = error.path().to_owned();
                at_path(&path, error.into())
            })?;
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => {
                    let id = FileId::of(&metadata);
                    // A second name of one file (a link) is not another file.
                    if ids.insert(id) {
                        seen.push(Seen { id, path, size: metadata.len() });
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at_path(&path, error)),
            }
        }
        Ok(seen)
    }

    /// Looks for files that have a position and no name in the pattern any more, beside where they were.
    fn find_renamed(&mut self, here: &HashSet<FileId>) -> Result<()> {
        let closed = self.files.iter().filter(|(id, file)| !here.contains(id) && file.is_lost());
        let lost: Vec<(FileId, PathBuf)> = closed.map(|(id, file)| (*id, file.path().to_owned())).collect();
        let absent = self.absent.iter().filter(|(_, stored)| !stored.looked_for);
        let absent: Vec<(FileId, PathBuf)> = absent.map(|(id, stored)| (*id, stored.path.clone())).collect();
        let mut folders: HashMap<PathBuf, HashMap<u64, PathBuf>> = HashMap::new();
        for (id, path) in lost.iter().chain(&absent) {
            let Some(folder) = path.parent() else { continue };
            let names = folders.entry(folder.to_owned()).or_insert_with(|| names_by_inode(folder));
            let found = names.get(&id.inode).and_then(|path| {
                let metadata = fs::metadata(path).ok()?;
                (FileId::of(&metadata) == *id).then(|| Seen {
                    id: *id,
                    path: path.clone(),
                    size: metadata.len(),
                })
            });
            let opened = match &found {
                Some(seen) => open(seen)?,
                None => None,
            };
            match (found, opened) {
                (Some(seen), Some(file)) => match self.absent.remove(id) {
                    // Only a file that is what it was is one that was renamed.
                    Some(stored) => {
                        match stored.prints.load(&file, stored.offset).map_err(|e| at_path(&seen.path, e))? {
                            Some(prints) => {
                                info!(file = %path.display(), now = %seen.path.display(), "the file was renamed");
                                let tailed = Tailed::resumed(id.key(), seen.path, file, &stored, prints);
                                self.files.insert(*id, tailed);
                            }
                            None => self.truncated.push(stored),
                        }
                    }
                    None => {
                        if let Some(tailed) = self.files.get_mut(id) {
                            tailed.seen_at(&seen.path);
                        }
                    }
                },
                _ => match self.absent.get_mut(id) {
                    Some(stored) => stored.looked_for = true,
                    None => self.let_go(*id)?,
                },
            }
        }
        Ok(())
    }

    /// Takes in a file that has no position, once it has a byte and is known not to be a copy.
    fn admit(
        &mut self,
        source: &Source,
        appender: &mut Appender<'_>,
        seen: &Seen,
        first_run: bool,
    ) -> Result<()> {
        if self.packed.contains(&seen.id) || (self.not_in_drain(seen.id)) {
            return Ok(());
        }
        let Some(mut file) = open(seen)? else { return Ok(()) };
        if Packing::detect(&mut file).map_err(|error| at_path(&seen.path, error))? != Packing::Plain {
            warn!(source = source.name, file = %seen.path.display(), "packed files are not followed: `spooldir` reads them");
            self.packed.insert(seen.id);
            return Ok(());
        }
        let key = seen.id.key();
        if first_run && self.config.from == TailFrom::End {
            let tailed =
                Tailed::at_end(key, seen.path.clone(), file).map_err(|error| at_path(&seen.path, error))?;
            self.files.insert(seen.id, tailed);
            return Ok(());
        }
        if seen.size == 0 && !source.draining() {
            return Ok(());
        }
        if let Some(tailed) = self.as_copy(seen, &file)? {
            // Known from now on, whether it has a rest to be read or not.
            appender.position(&key, Some(tailed.to_json()?));
            self.watched.remove(&seen.id);
            self.files.insert(seen.id, tailed);
            return Ok(());
        }
        if !source.draining() && self.begins_like_another(seen, &file)? {
            let now = Instant::now();
            let size = seen.size;
            let watched = self.watched.entry(seen.id).or_insert(Watched { since: now, grown: now, size });
            if watched.size != size {
                (watched.size, watched.grown) = (size, now);
            }
            if watched.grown.elapsed() < self.copy_watch && watched.since.elapsed() < LONGEST_COPY_WATCH {
                return Ok(());
            }
        }
        self.watched.remove(&seen.id);
        self.files.insert(seen.id, Tailed::at_start(key, seen.path.clone(), file));
        Ok(())
    }

    fn not_in_drain(&self, id: FileId) -> bool {
        self.drain_ends.as_ref().is_some_and(|ends| !ends.contains_key(&id))
    }

    /// When `seen` holds what had been read of a file that was truncated: where to go on in it.
    fn as_copy(&self, seen: &Seen, file: &File) -> Result<Option<Tailed>> {
        for original in &self.truncated {
            let prints =
                original.prints.load(file, original.offset).map_err(|error| at_path(&seen.path, error))?;
            if let Some(prints) = prints.filter(|_| original.offset > 0) {
                info!(
                    file = %seen.path.display(), of = %original.path.display(), from = original.offset,
                    "the file is a copy of one that was truncated: its rest is read"
                );
                return Ok(Some(Tailed::resumed(
                    seen.id.key(),
                    seen.path.clone(),
                    copy_of(file, seen)?,
                    original,
                    prints,
                )));
            }
        }
        Ok(None)
    }

    fn begins_like_another(&self, seen: &Seen, file: &File) -> Result<bool> {
        for other in self.files.values().filter(|other| other.size() >= seen.size) {
            if other.prints().begin_like(file, seen.size).map_err(|error| at_path(&seen.path, error))? {
                return Ok(true);
            }
        }
        Ok(false)
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
        loop {
            let mut more = false;
            for (_, id) in &order {
                let Some(file) = self.files.get_mut(id) else { continue };
                if source.stopping() {
                    return Ok(any);
                }
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
            } else if file.is_open() && (file.idle() > IDLE_CLOSE || open > MOST_OPEN) {
                file.close();
                open -= 1;
            }
        }
        self.shaper = Some(shaper);
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

fn names_by_inode(folder: &Path) -> HashMap<u64, PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return HashMap::new() };
    entries.flatten().map(|entry| (entry.ino(), entry.path())).collect()
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

fn copy_of(file: &File, seen: &Seen) -> Result<File> {
    file.try_clone().map_err(|error| at_path(&seen.path, error))
}

fn at_path(path: &Path, error: io::Error) -> Error {
    Error::unavailable(format!("cannot read `{}`", path.display()))
        .with_hint("give the process the right to read it, or narrow `path`: it is tried again")
        .with_source(error)
}
