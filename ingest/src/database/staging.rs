//! `mode = "full"` and queries: a run's rows are written to a file, and that file is read into the log.
//!
//! *Layout*: `<data_dir>/staging/<hash of source and table>-<run>.rows`, a row a line: its JSON object, or
//! `!<what is wrong>\t` and the object. It is written as `.tmp`, synced and renamed, so one without `.tmp` is whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tarn_log::TopicInfo;
use tarn_model::{Error, Result};
use tracing::info;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::appending::{push, shaper};
use super::row::RowWriter;
use super::{Rows, Selection, from_json, to_json};
use crate::appender::Appender;
use crate::lines::{Limits, LineCutter};
use crate::source::Source;

/// How far a run's staged rows were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Staged {
    run: u64,
    offset: u64,
    rows: u64,
    done: bool,
}

/// Brings all rows of `what` into the log, once for each run.
pub(super) fn run(
    source: &Source,
    topic: &Arc<TopicInfo>,
    database: &mut dyn Rows,
    what: &Selection,
    run: u64,
    folder: &Path,
) -> Result<()> {
    let key = format!("full:{}", what.name());
    let id = xxh3_64(format!("{}\0{}", source.name, what.name()).as_bytes());
    let path = folder.join(format!("{id:016x}-{run}.rows"));
    let stored: Option<Staged> = source.log.position(&source.name, &key)?.map(from_json).transpose()?;
    let staged = match stored {
        Some(staged) if staged.run == run && staged.done => return remove(source, topic, &path),
        Some(staged) if staged.run == run => {
            info!(source = source.name, table = what.name(), rows = staged.rows, "going on where it stopped");
            staged
        }
        _ => {
            if !stage(source, database, what, &path)? {
                return Ok(());
            }
            Staged { run, offset: 0, rows: 0, done: false }
        }
    };
    if ingest(source, topic, &key, staged, &path)? {
        remove(source, topic, &path)?;
    }
    Ok(())
}

/// Writes the rows to `path`; `false` when the source is to stop.
fn stage(source: &Source, database: &mut dyn Rows, what: &Selection, path: &Path) -> Result<bool> {
    let failed = |error| at_path("cannot write", path, error);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let writing = path.with_extension("tmp");
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&writing).map_err(failed)?);
    let writer = RowWriter::new(&database.columns(what)?);
    let (mut value, mut rows, mut bytes) = (Vec::new(), 0_u64, 0_u64);
    database.rows(what, None, &mut |row, _| {
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
        return Ok(false);
    }
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    fs::rename(&writing, path).map_err(failed)?;
    sync_folder(path).map_err(failed)?;
    source.monitor.total(bytes);
    info!(source = source.name, table = what.name(), rows, bytes, "rows are staged");
    Ok(true)
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
