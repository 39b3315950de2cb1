//! What no cursor can read on: a run's rows are written to a file, and that file is read into the log.
//!
//! *Layout*: `<data_dir>/staging/<hash of source and table>-<run>.rows`, a row a line: its JSON object, or
//! `!<what is wrong>\t` and the object. It is written as `.tmp`, synced and renamed, so one without `.tmp` is whole. Of a table that
//! is split there are several, `-<run>-1.rows` and so on beside the first; none is read before all are whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tarn_log::TopicInfo;
use tarn_model::config::Config;
use tarn_model::{Error, Result};
use tracing::{info, warn};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::appending::{push, shaper};
use super::history::Counted;
use super::row::RowWriter;
use super::splitting::{self, OpenAt, Parted};
use super::{Part, Rows, Selection, Written, from_json, to_json};
use crate::appender::Appender;
use crate::lines::{Limits, LineCutter};
use crate::source::Source;

/// Position keys of tables that are read whole, and of those whose new rows are read.
const WHOLE: &str = "full:";
const NEW: &str = "new:";

/// How far a run's staged rows were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Staged {
    run: u64,
    offset: u64,
    rows: u64,
    #[serde(default)]
    bytes: u64,
    done: bool,
    /// The file that is read, and how many there are beside the first.
    #[serde(default, skip_serializing_if = "is_zero")]
    file: usize,
    #[serde(default, skip_serializing_if = "is_zero")]
    more_files: usize,
    /// Before what the rows were written, where only new ones are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Written>,
}

/// What a table's position counts of a run, and the first transaction whose rows were left to the next.
pub(super) fn counted(position: Json, run: u64) -> Result<(Counted, Option<String>)> {
    let staged: Staged = from_json(position)?;
    if staged.run != run {
        return Ok((Counted::default(), None));
    }
    let bound = staged.until.map(|until| until.below.to_string());
    Ok((Counted { rows: staged.rows, bytes: staged.bytes }, bound))
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it asks by reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// What a file of rows holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// Several readers of one table.
pub(super) struct Split<'a> {
    pub(super) column: &'a str,
    pub(super) readers: usize,
    pub(super) open: &'a OpenAt<'a>,
}

/// What is to be done.
pub(super) struct Job<'a> {
    pub(super) run: u64,
    /// Only what was written since the run before, where the database can tell.
    pub(super) only_new: bool,
    pub(super) folder: &'a Path,
    pub(super) split: Option<Split<'a>>,
}

/// Brings the rows of `what` into the log, once for each run.
pub(super) fn run(
    source: &Source,
    topic: &Arc<TopicInfo>,
    database: &mut dyn Rows,
    what: &Selection,
    job: &Job<'_>,
) -> Result<()> {
    let key = format!("{}{}", if job.only_new { NEW } else { WHOLE }, what.name());
    let stored: Option<Staged> = source.log.position(&source.name, &key)?.map(from_json).transpose()?;
    if stored.as_ref().is_some_and(|staged| staged.run == job.run) {
        // What of this run was staged is read by `resume`.
        return database.release();
    }
    let (mut until, mut part) = (None, Part::All);
    if job.only_new {
        until = database.written(what)?;
        let before = stored.and_then(|staged| staged.until);
        if let (Some(until), Some(before)) = (&until, &before) {
            until.check_follows(before).map_err(|error| {
                error.with_hint(format!(
                    "let `url` lead to that one, or read this one from its beginning: `tarn source forget {}`",
                    source.name
                ))
            })?;
        }
        if let Some(until) = &until {
            part = Part::Written { until, from: before.map(|before| before.below) };
        }
    }
    let files = Files::of(&source.name, what.name(), job.run, job.folder);
    let going_on = || !source.stopping();
    // A run that was killed may have left files, in another number.
    files.remove()?;
    fs::create_dir_all(job.folder).map_err(|error| at_path("cannot write", job.folder, error))?;
    let parted = match &job.split {
        Some(split) => Some((split, database.splits(what, Some(split.column), split.readers)?)),
        None => None,
    };
    let written = match parted {
        Some((split, Parted::Splits(splits))) => {
            splitting::stage(source, what, &splits, split.readers, split.open, |file| files.path(file))?
        }
        whole => {
            if let Some((_, Parted::Whole(Some(why)))) = whole {
                warn!(source = source.name, table = what.name(), why, "one reader reads it");
            }
            write_rows(source, database, what, &part, &files.path(0), &going_on)?.map(|written| vec![written])
        }
    };
    // The snapshot is not held while the rows are read into the log.
    database.release()?;
    let Some(written) = written else { return Ok(()) };
    sync_folder(&files.path(0)).map_err(|error| at_path("cannot write", job.folder, error))?;
    let (rows, bytes) =
        written.iter().fold((0, 0), |(rows, bytes), file| (rows + file.rows, bytes + file.bytes));
    source.monitor.total(bytes);
    info!(source = source.name, table = what.name(), rows, bytes, "rows are staged");
    let more_files = written.len().saturating_sub(1);
    let mut staged =
        Staged { run: job.run, offset: 0, rows: 0, bytes: 0, done: false, file: 0, more_files, until };
    if rows == 0 {
        staged.done = true;
        let mut appender = Appender::new(source);
        appender.position(&key, Some(to_json(&staged)?));
        appender.finish()?;
        return files.remove();
    }
    if ingest(source, topic, &key, staged, &files)? {
        remove(source, topic, &files)?;
    }
    Ok(())
}

/// Reads on what was staged and not read to its end, for which no database is needed.
pub(super) fn resume(
    source: &Source,
    folder: &Path,
    topic_of: impl Fn(&str) -> Result<Arc<TopicInfo>>,
) -> Result<()> {
    for (key, position) in source.log.positions(&source.name)? {
        let Some(name) = key.strip_prefix(WHOLE).or_else(|| key.strip_prefix(NEW)) else {
            continue;
        };
        let staged: Staged = from_json(position)?;
        let files = Files::of(&source.name, name, staged.run, folder);
        if staged.done && files.found()?.is_empty() {
            continue;
        }
        let topic = topic_of(name)?;
        if !staged.done {
            info!(source = source.name, table = name, rows = staged.rows, "going on where it stopped");
            if !ingest(source, &topic, &key, staged, &files)? {
                return Ok(());
            }
        }
        remove(source, &topic, &files)?;
    }
    Ok(())
}

/// Where staged rows lie.
pub(super) fn folder_of(config: &Config) -> PathBuf {
    config.data_dir.join("staging")
}

/// Removes the staged rows that `positions` of a source tell of.
pub(super) fn remove_all(source: &str, positions: &[(String, Json)], folder: &Path) -> Result<()> {
    for (key, position) in positions {
        let Some(name) = key.strip_prefix(WHOLE).or_else(|| key.strip_prefix(NEW)) else {
            continue;
        };
        let staged: Staged = from_json(position.clone())?;
        Files::of(source, name, staged.run, folder).remove()?;
    }
    Ok(())
}

/// The files of one table's rows in a run.
struct Files<'a> {
    folder: &'a Path,
    name: String,
}

impl Files<'_> {
    fn of<'a>(source: &str, table: &str, run: u64, folder: &'a Path) -> Files<'a> {
        let id = xxh3_64(format!("{source}\0{table}").as_bytes());
        Files { folder, name: format!("{id:016x}-{run}") }
    }

    fn path(&self, file: usize) -> PathBuf {
        self.folder.join(match file {
            0 => format!("{}.rows", self.name),
            _ => format!("{}-{file}.rows", self.name),
        })
    }

    /// Those that are there, unfinished ones among them.
    fn found(&self) -> Result<Vec<PathBuf>> {
        let unreadable = |error| at_path("cannot read", self.folder, error);
        let entries = match fs::read_dir(self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(unreadable)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(unreadable)?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let of_this =
                stem.strip_prefix(&self.name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
            if of_this {
                found.push(path);
            }
        }
        Ok(found)
    }

    fn remove(&self) -> Result<()> {
        for path in self.found()? {
            fs::remove_file(&path).map_err(|error| at_path("cannot remove", &path, error))?;
        }
        Ok(())
    }
}

/// A bound means something only in the database that gave it.
/// Writes the rows of a part to a file, whole; `None` when that was not to go on.
pub(super) fn write_rows(
    source: &Source,
    database: &mut dyn Rows,
    what: &Selection,
    part: &Part<'_>,
    path: &Path,
    going_on: &dyn Fn() -> bool,
) -> Result<Option<Volume>> {
    let failed = |error| at_path("cannot write", path, error);
    let writing = path.with_extension("tmp");
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&writing).map_err(failed)?);
    let writer = RowWriter::new(&database.columns(what)?);
    let (mut value, mut rows, mut bytes) = (Vec::new(), 0_u64, 0_u64);
    let mut broken_off = false;
    database.rows(what, part, &mut |row, _| {
        let wrong = writer.write(row, &mut value).err();
        if let Some(wrong) = wrong {
            write!(file, "!{}\t", wrong.replace(['\n', '\t'], " ")).map_err(failed)?;
        }
        file.write_all(&value).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
        rows += 1;
        bytes += value.len() as u64 + 1;
        if rows.is_multiple_of(1024) && matches!(part, Part::All | Part::Written { .. }) {
            source.monitor.total(bytes);
        }
        broken_off = !going_on();
        Ok(!broken_off)
    })?;
    if broken_off || !going_on() {
        return Ok(None);
    }
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    fs::rename(&writing, path).map_err(failed)?;
    Ok(Some(Volume { rows, bytes }))
}

/// Reads the staged rows into the log; `false` when the source is to stop.
fn ingest(
    source: &Source,
    topic: &Arc<TopicInfo>,
    key: &str,
    mut staged: Staged,
    files: &Files<'_>,
) -> Result<bool> {
    let mut left = 0;
    for file in staged.file..=staged.more_files {
        left += open(&files.path(file), staged.run)?.metadata().map_or(0, |metadata| metadata.len());
    }
    let mut appender = Appender::new(source);
    let (mut shaper, seed) = (shaper(source, topic)?, xxh3_128(format!("{key}/{}", staged.run).as_bytes()));
    loop {
        let path = files.path(staged.file);
        let failed = |error| at_path("cannot read", &path, error);
        let mut file = open(&path, staged.run)?;
        let size = file.metadata().map_err(failed)?.len();
        file.seek(SeekFrom::Start(staged.offset)).map_err(failed)?;
        // A row is passed whole, however long: the log cuts what is beyond its limit.
        let limits = Limits { whole: usize::MAX, head: 0 };
        let mut cutter = LineCutter::new(file, staged.offset, staged.rows + 1, limits);
        while let Some(line) = cutter.next().map_err(failed)? {
            let (wrong, value) = split(line.bytes);
            push(source, &mut shaper, &mut appender, (seed, staged.rows), value, wrong.as_deref())?;
            staged.rows += 1;
            staged.bytes += value.len() as u64;
            if appender.is_full() {
                if source.stopping() {
                    return Ok(false);
                }
                staged.offset = cutter.offset();
                source.monitor.lag(left.saturating_sub(staged.offset));
                appender.position(key, Some(to_json(&staged)?));
                appender.submit()?;
            }
        }
        if staged.file == staged.more_files {
            staged.offset = cutter.offset();
            break;
        }
        left = left.saturating_sub(size);
        staged.file += 1;
        staged.offset = 0;
    }
    staged.done = true;
    appender.position(key, Some(to_json(&staged)?));
    appender.finish()?;
    source.monitor.lag(0);
    Ok(true)
}

fn open(path: &Path, run: u64) -> Result<File> {
    match File::open(path) {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::corrupt(format!(
            "the staged rows of run {run} are gone: `{}`",
            path.display()
        ))
        .with_hint(
            "restore the file; without it nobody can tell which rows of that run are missing in the log",
        )),
        Err(error) => Err(at_path("cannot read", path, error)),
    }
}

/// What is wrong with a staged row, and the row.
fn split(line: &[u8]) -> (Option<String>, &[u8]) {
    let marked = line.strip_prefix(b"!").and_then(|rest| {
        let tab = memchr::memchr(b'\t', rest)?;
        Some((String::from_utf8_lossy(&rest[..tab]).into_owned(), &rest[tab + 1..]))
    });
    match marked {
        Some((wrong, value)) => (Some(wrong), value),
        None => (None, line),
    }
}

/// Removes the staged rows, once nothing can make the log forget that it has them.
fn remove(source: &Source, topic: &Arc<TopicInfo>, files: &Files<'_>) -> Result<()> {
    if files.found()?.is_empty() {
        return Ok(());
    }
    let ends = source.log.ends(&topic.name)?;
    source.runtime.block_on(source.log.sync_to(&topic.name, &ends))?;
    files.remove()?;
    sync_folder(&files.path(0)).map_err(|error| at_path("cannot remove", files.folder, error))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn at_path(what: &str, path: &Path, error: io::Error) -> Error {
    Error::unavailable(format!("{what} `{}`", path.display()))
        .with_hint("look at the disk and at the folder's permissions: it is tried again")
        .with_source(error)
}
