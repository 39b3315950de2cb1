//! What no cursor can read on: a run's rows are written to a file, and that file is read into the log.
//!
//! *Layout*: `<data_dir>/staging/<hash of source and table>-<run>.rows`, a row a line: its JSON object, or
//! `!<what is wrong>\t` and the object. It is written as `.tmp`, synced and renamed, so one without `.tmp` is whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tarn_log::TopicInfo;
use tarn_model::config::Config;
use tarn_model::{Error, Result};
use tracing::info;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::appending::{push, shaper};
use super::row::RowWriter;
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
    done: bool,
    /// Before what the rows were written, where only new ones are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Written>,
}

/// What is to be done.
pub(super) struct Job<'a> {
    pub(super) run: u64,
    /// Only what was written since the run before, where the database can tell.
    pub(super) only_new: bool,
    pub(super) folder: &'a Path,
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
            check_follows(source, until, before)?;
        }
        if let Some(until) = &until {
            part = Part::Written { until, from: before.map(|before| before.below) };
        }
    }
    let path = path_of(&source.name, what.name(), job.run, job.folder);
    let rows = stage(source, database, what, &part, &path)?;
    // The snapshot is not held while the rows are read into the log.
    database.release()?;
    let Some(rows) = rows else { return Ok(()) };
    let mut staged = Staged { run: job.run, offset: 0, rows: 0, done: false, until };
    if rows == 0 {
        staged.done = true;
        let mut appender = Appender::new(source);
        appender.position(&key, Some(to_json(&staged)?));
        return appender.finish();
    }
    if ingest(source, topic, &key, staged, &path)? {
        remove(source, topic, &path)?;
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
        let Some(name) = key.strip_prefix(WHOLE).or_else(|| key.strip_prefix(NEW)) else { continue };
        let staged: Staged = from_json(position)?;
        let path = path_of(&source.name, name, staged.run, folder);
        if staged.done && !path.exists() {
            continue;
        }
        let topic = topic_of(name)?;
        if !staged.done {
            info!(source = source.name, table = name, rows = staged.rows, "going on where it stopped");
            if !ingest(source, &topic, &key, staged, &path)? {
                return Ok(());
            }
        }
        remove(source, &topic, &path)?;
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
        let Some(name) = key.strip_prefix(WHOLE).or_else(|| key.strip_prefix(NEW)) else { continue };
        let staged: Staged = from_json(position.clone())?;
        let path = path_of(source, name, staged.run, folder);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(at_path("cannot remove", &path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn path_of(source: &str, name: &str, run: u64, folder: &Path) -> PathBuf {
    let id = xxh3_64(format!("{source}\0{name}").as_bytes());
    folder.join(format!("{id:016x}-{run}.rows"))
}

/// A bound means something only in the database that gave it.
fn check_follows(source: &Source, until: &Written, before: &Written) -> Result<()> {
    if until.origin == before.origin && until.below >= before.below {
        return Ok(());
    }
    Err(Error::invalid(
        "this is another database than the one whose new rows were read: nobody can tell which are new",
    )
    .with_hint(format!(
        "let `url` lead to that one, or read this one from its beginning: `tarn source forget {}`",
        source.name
    )))
}

/// Writes the rows to `path` and says how many there are, no file being made of none; `None` when the source is to stop.
fn stage(
    source: &Source,
    database: &mut dyn Rows,
    what: &Selection,
    part: &Part<'_>,
    path: &Path,
) -> Result<Option<u64>> {
    let failed = |error| at_path("cannot write", path, error);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let writing = path.with_extension("tmp");
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&writing).map_err(failed)?);
    let writer = RowWriter::new(&database.columns(what)?);
    let (mut value, mut rows, mut bytes) = (Vec::new(), 0_u64, 0_u64);
    database.rows(what, part, &mut |row, _| {
        let wrong = writer.write(row, &mut value).err();
        if let Some(wrong) = wrong {
            write!(file, "!{}\t", wrong.replace(['\n', '\t'], " ")).map_err(failed)?;
        }
        file.write_all(&value).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
        rows += 1;
        bytes += value.len() as u64 + 1;
        if rows.is_multiple_of(1024) {
            source.monitor.total(bytes);
        }
        Ok(!source.stopping())
    })?;
    if source.stopping() {
        return Ok(None);
    }
    if rows == 0 {
        return fs::remove_file(&writing).map(|()| Some(0)).map_err(failed);
    }
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    fs::rename(&writing, path).map_err(failed)?;
    sync_folder(path).map_err(failed)?;
    source.monitor.total(bytes);
    info!(source = source.name, table = what.name(), rows, bytes, "rows are staged");
    Ok(Some(rows))
}

/// Reads the staged rows into the log; `false` when the source is to stop.
fn ingest(
    source: &Source,
    topic: &Arc<TopicInfo>,
    key: &str,
    mut staged: Staged,
    path: &Path,
) -> Result<bool> {
    let failed = |error| at_path("cannot read", path, error);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::corrupt(format!(
                "the staged rows of run {} are gone: `{}`",
                staged.run,
                path.display()
            ))
            .with_hint(
                "restore the file; without it nobody can tell which rows of that run are missing in the log",
            ));
        }
        Err(error) => return Err(failed(error)),
    };
    let size = file.metadata().map_err(failed)?.len();
    file.seek(SeekFrom::Start(staged.offset)).map_err(failed)?;
    // A row is passed whole, however long: the log cuts what is beyond its limit.
    let limits = Limits { whole: usize::MAX, head: 0 };
    let mut cutter = LineCutter::new(file, staged.offset, staged.rows + 1, limits);
    let mut appender = Appender::new(source);
    let (mut shaper, seed) = (shaper(source, topic)?, xxh3_128(format!("{key}/{}", staged.run).as_bytes()));
    while let Some(line) = cutter.next().map_err(failed)? {
        let (wrong, value) = split(line.bytes);
        push(source, &mut shaper, &mut appender, (seed, staged.rows), value, wrong.as_deref())?;
        staged.rows += 1;
        if appender.is_full() {
            if source.stopping() {
                return Ok(false);
            }
            staged.offset = cutter.offset();
            source.monitor.lag(size.saturating_sub(staged.offset));
            appender.position(key, Some(to_json(&staged)?));
            appender.submit()?;
        }
    }
    staged.offset = cutter.offset();
    staged.done = true;
    appender.position(key, Some(to_json(&staged)?));
    appender.finish()?;
    source.monitor.lag(0);
    Ok(true)
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
fn remove(source: &Source, topic: &Arc<TopicInfo>, path: &PathBuf) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let ends = source.log.ends(&topic.name)?;
    source.runtime.block_on(source.log.sync_to(&topic.name, &ends))?;
    fs::remove_file(path)
        .and_then(|()| sync_folder(path))
        .map_err(|error| at_path("cannot remove", path, error))
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
