//! `spooldir`: files that are complete when they appear in a folder.
//!
//! *Identity*: a file is its content (xxh3-128 of all of it, packed as it lies there). The position of a source is kept
//! under it, so a file that comes back under any name, or twice at once, is read once.
//!
//! *Layout* of a position: `{"name", "state", "records", "offset", "lines", "error"}`, where offset and lines count what
//! is unpacked. The states:
//!
//! ```text
//! reading ──(committed with the last records)──> done ──(log durable, file renamed, folder synced)──> retired
//! ```
//!
//! *Failure*: a crash leaves `reading`, from whose offset the same content is read on, or `done`, after which only the
//! rename is missing: it is made up for when the file is met again. A rename never overwrites. A file that ends in damage
//! gives all that can be read and one more record that says where it ended. A file that changes while it is read gives
//! what was read before, one record that says so, and gets the suffix `.failed`: it was not complete when it appeared.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tarn_model::config::{DoneAction, SpooldirConfig};
use tarn_model::{Error, Result};
use tracing::{info, warn};
use xxhash_rust::xxh3::Xxh3;

use crate::monitor::{State, tell};
use crate::shaper::Shaper;
use crate::source::{Collector, Source};

mod reading;
mod retiring;
#[cfg(test)]
mod tests;

/// Suffix of files that were not complete when they appeared.
const FAILED_SUFFIX: &str = ".failed";

/// Reads the files of one folder.
pub(crate) struct Spooldir {
    config: SpooldirConfig,
    pattern: glob::Pattern,
    shaper: Option<Shaper>,
    /// In a drain: the files of the first look that are still to be read.
    to_drain: Option<BTreeSet<OsString>>,
    /// Files that were begun and not ended, by name: a file of that name with another content was changed meanwhile.
    begun: HashMap<String, Begun>,
    /// Sizes of the files that were read since the start, for the progress bar.
    finished_bytes: u64,
}

/// A file that was begun: its identity and how far it was read.
struct Begun {
    identity: String,
    position: Position,
}

/// What is kept of a file, under its identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    name: String,
    state: Progress,
    records: u64,
    offset: u64,
    lines: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Progress {
    Reading,
    Done,
    Failed,
    Retired,
}

/// A file of the folder, opened and identified.
pub(super) struct SpoolFile {
    path: PathBuf,
    name: String,
    file: File,
    identity: String,
    stamp: Stamp,
}

/// What changes when somebody writes to a file.
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

impl SpoolFile {
    fn is_unchanged(&self) -> Result<bool> {
        let now = self.file.metadata().map_err(|error| at_path("cannot look at", &self.path, error))?;
        Ok(Stamp::of(&now) == self.stamp)
    }
}

impl Spooldir {
    pub(crate) fn new(config: SpooldirConfig) -> Result<Spooldir> {
        let pattern = glob::Pattern::new(&config.pattern).map_err(|error| {
            Error::invalid(format!("`pattern` is no glob pattern: `{}`", config.pattern)).with_source(error)
        })?;
        if config.csv.delimiter.len() != 1 {
            return Err(Error::invalid(format!(
                "`delimiter` is one ASCII character, not `{}`",
                config.csv.delimiter
            )));
        }
        if config.done == DoneAction::Move && config.done_path.is_none() {
            return Err(Error::invalid("`done = \"move\"` needs `done_path`"));
        }
        if config.done == DoneAction::Rename && config.done_suffix.is_empty() {
            return Err(Error::invalid("`done_suffix` is empty: a finished file would look like a new one"));
        }
        Ok(Spooldir {
            config,
            pattern,
            shaper: None,
            to_drain: None,
            begun: HashMap::new(),
            finished_bytes: 0,
        })
    }

    /// Names and sizes of the files that are to be read, in the order of their names.
    fn look(&self) -> Result<Vec<(OsString, u64)>> {
        let folder = &self.config.path;
        let entries =
            fs::read_dir(folder).map_err(|error| at_path("cannot list the folder", folder, error))?;
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| at_path("cannot list the folder", folder, error))?;
            let name = entry.file_name();
            if !self.is_wanted(&name.to_string_lossy()) {
                continue;
            }
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_file() => files.push((name, metadata.len())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at_path("cannot look at", &entry.path(), error)),
            }
        }
        files.sort();
        Ok(files)
    }

    fn is_wanted(&self, name: &str) -> bool {
        !name.starts_with('.')
            && !has_suffix(name, &self.config.done_suffix)
            && !has_suffix(name, FAILED_SUFFIX)
            && self.pattern.matches(name)
    }

    /// Brings one file to its end. `false`: it is not complete yet.
    fn take(&mut self, source: &Source, name: &OsString) -> Result<bool> {
        let path = self.config.path.join(name);
        let Some(mut spool) = identify(&path, source)? else { return Ok(false) };
        let shaper = match &mut self.shaper {
            Some(shaper) => shaper,
            none => none.insert(Shaper::of_lines(&source.config, self.config.format, &self.config.lines)?),
        };
        let position = match position_of(source, &spool.identity)? {
            Some(position) if position.state != Progress::Reading => {
                if position.state == Progress::Retired {
                    warn!(
                        source = source.name,
                        file = spool.name,
                        first_name = position.name,
                        "the content of this file is in the log already: it is not read again"
                    );
                }
                position
            }
            None if self.begun.contains_key(&spool.name) => {
                let Some(begun) = self.begun.remove(&spool.name) else { return Ok(false) };
                spool.identity = begun.identity;
                reading::give_up(source, &spool, shaper, begun.position)?
            }
            resumed => match reading::read(source, &self.config, &mut spool, shaper, resumed)? {
                Some(position) => position,
                None => return Ok(false),
            },
        };
        self.begun.remove(&spool.name);
        if let Some(error) = &position.error {
            source.monitor.error(&Error::invalid(error.clone()));
        }
        retiring::retire(source, &self.config, &spool, position)?;
        self.finished_bytes += spool.stamp.size;
        Ok(true)
    }

    /// One pass over the folder; the number of files that are left.
    fn pass(&mut self, source: &Source) -> Result<usize> {
        let mut files = self.look()?;
        if source.draining() {
            let wanted =
                self.to_drain.get_or_insert_with(|| files.iter().map(|(name, _)| name.clone()).collect());
            files.retain(|(name, _)| wanted.contains(name));
        }
        let mut left_bytes: u64 = files.iter().map(|(_, size)| size).sum();
        let mut left = files.len();
        source.monitor.total(self.finished_bytes + left_bytes);
        source.monitor.lag(left_bytes);
        let mut failed = None;
        for (name, size) in &files {
            if source.stopping() {
                return Ok(left);
            }
            source.monitor.state(State::Running);
            match self.take(source, name) {
                Ok(true) => {
                    left -= 1;
                    left_bytes -= size;
                    source.monitor.lag(left_bytes);
                }
                Ok(false) => {}
                // What is wrong with one file does not hold up the others; what is wrong with the log does.
                Err(error) if is_about_a_file(&error) => {
                    warn!(source = source.name, file = %name.to_string_lossy(), %error, "the file waits");
                    failed = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => {
                source.monitor.recovered();
                Ok(left)
            }
        }
    }
}

impl Collector for Spooldir {
    fn collect(&mut self, source: &Source) -> Result<()> {
        self.begun = begun(source)?;
        loop {
            let left = match self.pass(source) {
                // A drain ends: what is wrong with a file is not waited for.
                Err(error) if source.draining() && is_about_a_file(&error) => {
                    return Err(Error::invalid(tell(&error)));
                }
                left => left?,
            };
            if source.stopping() || (source.draining() && left == 0) {
                return Ok(());
            }
            source.monitor.state(State::Idle);
            source.pause(self.config.every.0);
            if source.stopping() {
                return Ok(());
            }
        }
    }
}

fn position_of(source: &Source, identity: &str) -> Result<Option<Position>> {
    source.log.position(&source.name, identity)?.map(|value| from_json(identity, value)).transpose()
}

/// The files that were begun and not ended.
fn begun(source: &Source) -> Result<HashMap<String, Begun>> {
    let mut begun = HashMap::new();
    for (identity, value) in source.log.positions(&source.name)? {
        let position = from_json(&identity, value)?;
        if position.state == Progress::Reading {
            begun.insert(position.name.clone(), Begun { identity, position });
        }
    }
    Ok(begun)
}

fn from_json(identity: &str, value: serde_json::Value) -> Result<Position> {
    serde_json::from_value(value).map_err(|error| {
        Error::internal(format!("the position of the file `{identity}` cannot be read")).with_source(error)
    })
}

/// Opens `path` and hashes it; `None` when it is gone, or still being written.
fn identify(path: &Path, source: &Source) -> Result<Option<SpoolFile>> {
    const HASH_BLOCK_BYTES: usize = 1 << 20;
    let failed = |error| at_path("cannot read", path, error);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let stamp = Stamp::of(&file.metadata().map_err(failed)?);
    let (mut hash, mut size, mut block) = (Xxh3::new(), 0_u64, vec![0; HASH_BLOCK_BYTES]);
    loop {
        let count = match file.read(&mut block) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        hash.update(&block[..count]);
        size += count as u64;
        if source.stopping() {
            return Ok(None);
        }
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let spool = SpoolFile {
        path: path.to_owned(),
        name,
        file,
        identity: format!("{:032x}", hash.digest128()),
        stamp,
    };
    if size != stamp.size || !spool.is_unchanged()? {
        info!(source = source.name, file = spool.name, "the file is still being written: it waits");
        return Ok(None);
    }
    Ok(Some(spool))
}

/// Whether `name` ends in `suffix`, or in `suffix` and a number.
fn has_suffix(name: &str, suffix: &str) -> bool {
    if suffix.is_empty() {
        return false;
    }
    let unnumbered = match name.rsplit_once('.') {
        Some((before, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => before,
        _ => name,
    };
    name.ends_with(suffix) || unnumbered.ends_with(suffix)
}

/// An error about one path: the source goes on with others, and tries this one again.
fn at_path(what: &str, path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "create it, or mend `path` of the source: it is tried again",
        io::ErrorKind::PermissionDenied => {
            "give the process the right to read and rename it: it is tried again"
        }
        _ => "it is tried again",
    };
    Error::unavailable(format!("{what} `{}`", path.display())).with_hint(hint).with_source(FileTrouble(error))
}

/// The operating system refuses something about one file: the others can go on.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct FileTrouble(#[from] io::Error);

fn is_about_a_file(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<FileTrouble>())
}
