//! Which run of a job is under way: `<data_dir>/imports/<job>.json`; and who fills a table.
//!
//! *Why*: after a kill nobody knows whether the commit has landed. The table does, if only one knows which run to ask for.
//! This file is not progress: a run that it names and the table has not is run again.
//!
//! *Failure*: written aside, synced and renamed, so it is whole or not there. When it is lost, the next run is a new one.

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tarn_model::{Error, Result, fault};

/// A run that has begun.
#[derive(Debug)]
pub(super) struct RunFile {
    path: PathBuf,
    begun: Begun,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Begun {
    run: i64,
}

impl RunFile {
    /// Begins the run `asked`; without a number, the one that broke off, or the one after `last`.
    pub(super) fn begin(data_dir: &Path, job: &str, asked: Option<i64>, last: i64) -> Result<RunFile> {
        let folder = data_dir.join("imports");
        let path = folder.join(format!("{job}.json"));
        let broken_off = read(&path)?;
        let begun = Begun {
            run: asked.or(broken_off.map(|begun| begun.run)).unwrap_or_else(|| last.saturating_add(1)),
        };
        if broken_off.is_some_and(|broken_off| broken_off == begun) {
            tracing::info!(job, run = begun.run, "this run was begun before: going on with it");
            return Ok(RunFile { path, begun });
        }
        fault::point("import.begin.before")?;
        let failed = |error| failed("write", &path, error);
        fs::create_dir_all(&folder).map_err(failed)?;
        let aside = path.with_extension("tmp");
        let text = serde_json::to_vec(&begun)
            .map_err(|error| Error::internal("a run is no JSON").with_source(error))?;
        let mut file = File::create(&aside).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&aside, &path).map_err(failed)?;
        sync(&folder).map_err(failed)?;
        fault::point("import.begin.after")?;
        Ok(RunFile { path, begun })
    }

    /// Its number.
    pub(super) fn run(&self) -> i64 {
        self.begun.run
    }

    /// The run is in the lake, and that is about to be told.
    pub(super) fn end(self) -> Result<()> {
        fault::point("import.end.before")?;
        fs::remove_file(&self.path).map_err(|error| failed("remove", &self.path, error))?;
        if let Some(folder) = self.path.parent() {
            sync(folder).map_err(|error| failed("remove", &self.path, error))?;
        }
        fault::point("import.end.after")
    }
}

/// Keeps other processes from importing into a table meanwhile; the kernel lets go of it when this one ends, however it does.
#[derive(Debug)]
pub(super) struct TableLock {
    _file: File,
}

impl TableLock {
    pub(super) fn take(data_dir: &Path, table: &str) -> Result<TableLock> {
        let folder = data_dir.join("imports");
        let path = folder.join(format!("{table}.lock"));
        fs::create_dir_all(&folder).map_err(|error| failed("write", &folder, error))?;
        let file = File::options().create(true).append(true).open(&path);
        let file = file.map_err(|error| failed("write", &path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(TableLock { _file: file }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::unavailable(format!("another process imports into the table `{table}` now"))
                    .with_hint("wait until it is done, then run it again"))
            }
            Err(TryLockError::Error(error)) => Err(failed("lock", &path, error)),
        }
    }
}

fn sync(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::unavailable(format!("cannot {what} `{}`", path.display()))
        .with_hint("look at the disk and at the folder's permissions, then run it again")
        .with_source(error)
}

fn read(path: &Path) -> Result<Option<Begun>> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| failed("read", path, error))?,
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        Error::corrupt(format!("`{}` cannot be read", path.display()))
            .with_hint("look with `tarn table describe` which run the table has, then remove the file")
            .with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_broke_off_is_begun_again_and_one_that_ended_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let begin = |asked, last| RunFile::begin(folder.path(), "j", asked, last).expect("a run");
        assert_eq!(begin(None, 4).run(), 5);
        assert_eq!(begin(None, 5).run(), 5, "whether it was committed, the table knows");
        assert_eq!(begin(Some(20_261_123), 5).run(), 20_261_123);
        begin(None, 5).end().expect("its end");
        assert_eq!(begin(None, 20_261_123).run(), 20_261_124);
    }
}
