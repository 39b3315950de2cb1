//! Rows of one batch on their way into the staging table.
//!
//! *Invariants*: staged rows are numbered from 1 without a gap, whoever stages them; a row that does not fit has no number.

use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tarn_model::{Error, Result};

use super::fitting::fit;
use super::gives::{Cell, Values, date, decimal, timestamp};
use super::session::Plan;

/// Bytes of a file's first line that are looked at to know whose rejects it holds.
const LONGEST_HEAD: u64 = 64 << 20;

/// What all who stage rows of an export share.
pub(super) struct Shared {
    pub(super) staged: AtomicU64,
    pub(super) rejects: Mutex<Rejects>,
}

/// Rows of a batch that fit.
pub(super) struct Staged<'a> {
    pub(super) values: &'a [Values],
    /// Which rows.
    pub(super) rows: &'a [usize],
    /// Number of the first of them.
    pub(super) first: u64,
}

/// Takes the rows of a batch that fit, rejects the others, and gives the former to `stage`.
pub(super) fn stage(
    plan: &Plan,
    shared: &Shared,
    batch: &RecordBatch,
    stage: impl FnOnce(&Staged<'_>) -> Result<()>,
) -> Result<()> {
    let values = plan.columns.iter().map(|column| Values::of(batch.column(column.at)));
    let values: Vec<Values> = values.collect::<Result<_>>()?;
    let mut rows = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        match reason(plan, &values, row) {
            None => rows.push(row),
            Some(reason) => {
                let cells = plan.columns.iter().zip(&values);
                let cells = cells.map(|(column, values)| (column.name.clone(), as_json(values.cell(row))));
                shared.rejects.lock().add(&reason, cells.collect())?;
            }
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let first = shared.staged.fetch_add(rows.len() as u64, Ordering::SeqCst) + 1;
    stage(&Staged { values: &values, rows: &rows, first })
}

/// Why a row does not fit.
fn reason(plan: &Plan, values: &[Values], row: usize) -> Option<String> {
    plan.columns.iter().zip(values).find_map(|(column, values)| {
        let cell = values.cell(row);
        if cell == Cell::Null && (column.is_key || !column.nullable) {
            let what = if column.is_key { "it is a key" } else { "the column takes none" };
            return Some(format!("column `{}` is NULL, and {what}", column.name));
        }
        if let Cell::Text(text) = cell
            && !plan.zero_bytes
            && text.contains('\0')
        {
            return Some(format!(
                "column `{}`: it holds a zero byte, which the database has not",
                column.name
            ));
        }
        fit(cell, column.takes).err().map(|why| format!("column `{}`: {why}", column.name))
    })
}

fn as_json(cell: Cell<'_>) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Bool(is) => is.into(),
        Cell::Int(number) => number.into(),
        Cell::Float(number) if number.is_finite() => json!(number),
        Cell::Float(number) => number.to_string().into(),
        Cell::Decimal(value, scale) => decimal(value, scale).into(),
        Cell::Text(text) => text.into(),
        Cell::Bytes(bytes) => BASE64.encode(bytes).into(),
        Cell::Date(days) => date(days).map_or(json!({"days since 1970": days}), Value::from),
        Cell::Timestamp(micros) => timestamp(micros).map_or(json!({"µs since 1970": micros}), Value::from),
        Cell::TooFine => "a time with nanoseconds".into(),
    }
}

/// Rows that the target does not get, with their reasons.
pub(super) struct Rejects {
    file: Option<RejectsFile>,
    count: u64,
    notes: u64,
    most: u64,
    /// The first few, to be told.
    told: Vec<String>,
    head: (String, String),
}

struct RejectsFile {
    path: PathBuf,
    part: PathBuf,
    out: BufWriter<File>,
}

/// So many reasons are told where there is no file for them.
const TOLD: usize = 5;
/// Longest row that is told; the file has it whole.
const TOLD_CHARACTERS: usize = 200;

impl Rejects {
    /// Rejects of a run of a job; at most `most` are borne, which go to `path`.
    pub(super) fn new(job: &str, run: &str, path: Option<&Path>, most: u64) -> Result<Rejects> {
        let mut rejects = Rejects {
            file: None,
            count: 0,
            notes: 0,
            most,
            told: Vec::new(),
            head: (job.to_owned(), run.to_owned()),
        };
        if let Some(path) = path {
            let failed = |error| {
                Error::invalid(format!("cannot write `{}`", path.display()))
                    .with_source(error)
                    .with_hint("name another file with `--rejects`")
            };
            rejects.check_free(path)?;
            let mut part = path.as_os_str().to_owned();
            part.push(".part");
            let part = PathBuf::from(part);
            let Some(file) = taken(&part).map_err(failed)? else {
                let message = format!("another export writes its rejects to `{}`", path.display());
                return Err(Error::invalid(message).with_hint("name another file with `--rejects`"));
            };
            rejects.file = Some(RejectsFile { path: path.to_owned(), part, out: BufWriter::new(file) });
        }
        Ok(rejects)
    }

    /// A file with the rejects of another run is not written over.
    fn check_free(&self, path: &Path) -> Result<()> {
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            file => file.map_err(|error| full(path, error))?,
        };
        let mut line = Vec::new();
        let read = BufReader::new(file.take(LONGEST_HEAD)).read_until(b'\n', &mut line);
        if read.map_err(|error| full(path, error))? == 0 {
            return Ok(());
        }
        let head: Value = serde_json::from_slice(&line).unwrap_or_default();
        if head["job"] == self.head.0.as_str() && head["run"] == self.head.1.as_str() {
            return Ok(());
        }
        Err(Error::invalid(format!("`{}` is not of this run, and is left as it is", path.display()))
            .with_hint("move it away, or name another file with `--rejects`"))
    }

    /// How many more rows may be rejected before the export ends.
    pub(super) fn bearable(&self) -> u64 {
        let most = if self.file.is_some() { self.most } else { TOLD as u64 - 1 };
        most.saturating_sub(self.count)
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// A row that is rejected.
    pub(super) fn add(&mut self, reason: &str, row: Map<String, Value>) -> Result<()> {
        self.count += 1;
        let row = Value::Object(row);
        if self.told.len() < TOLD {
            let shown: String = row.to_string().chars().take(TOLD_CHARACTERS).collect();
            self.told.push(format!("{reason}: {shown}"));
        }
        if let Some(file) = &mut self.file {
            let line = json!({"job": self.head.0, "run": self.head.1, "reason": reason, "row": row});
            writeln!(file.out, "{line}").map_err(|error| full(&file.part, error))?;
        }
        let enough = if self.file.is_some() { self.count > self.most } else { self.count >= TOLD as u64 };
        if enough { Err(self.refusal(" or more")) } else { Ok(()) }
    }

    /// A row that is not rejected, and that somebody should look at all the same.
    pub(super) fn note(&mut self, reason: &str, row: Map<String, Value>) -> Result<()> {
        let row = Value::Object(row);
        match &mut self.file {
            Some(file) => {
                self.notes += 1;
                let line = json!({"job": self.head.0, "run": self.head.1, "reason": reason, "row": row});
                writeln!(file.out, "{line}").map_err(|error| full(&file.part, error))
            }
            None => Ok(()),
        }
    }

    /// An error where rows were rejected that nobody said were to be borne.
    pub(super) fn check(&self) -> Result<()> {
        if self.file.is_none() && self.count > 0 { Err(self.refusal("")) } else { Ok(()) }
    }

    fn refusal(&self, or_more: &str) -> Error {
        let s = if self.count == 1 { "row does" } else { "rows do" };
        let message = format!("{}{or_more} {s} not fit the target, so nothing was exported", self.count);
        let hint = if self.file.is_some() {
            "look at the reasons; `--max-rejects N` bears more of them"
        } else {
            "mend the rows, or leave them out: `--rejects FILE` exports the others and writes these to a file, with their reasons"
        };
        Error::invalid(message).with_source(self.told.join("\n  and: ")).with_hint(hint)
    }

    /// Makes the file durable, in place of the one of an earlier try. Without rejects there is no file.
    pub(super) fn settle(&mut self) -> Result<Option<PathBuf>> {
        let Some(mut file) = self.file.take() else { return Ok(None) };
        if self.count + self.notes == 0 {
            let _ = std::fs::remove_file(&file.part);
            let _ = std::fs::remove_file(&file.path);
            return Ok(None);
        }
        let settled = file.out.flush().and_then(|()| file.out.get_ref().sync_all());
        let settled = settled.and_then(|()| std::fs::rename(&file.part, &file.path)).and_then(|()| {
            let folder = std::path::absolute(&file.path)?.parent().map(Path::to_owned);
            folder.map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        });
        settled.map_err(|error| full(&file.path, error))?;
        Ok(Some(file.path))
    }
}

/// The file of this name, empty, held as long as it is open; `None` while somebody else holds it.
fn taken(path: &Path) -> std::io::Result<Option<File>> {
    loop {
        let file = File::options().create(true).write(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever held it may have given it its last name meanwhile.
        let held = file.metadata()?;
        if std::fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino())) {
            file.set_len(0)?;
            return Ok(Some(file));
        }
    }
}

fn full(path: &Path, error: std::io::Error) -> Error {
    Error::unavailable(format!("cannot write `{}`", path.display())).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u64) -> Map<String, Value> {
        Map::from_iter([("n".to_owned(), n.into())])
    }

    #[test]
    fn two_exports_at_once_never_share_a_file_of_rejects() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rejects");
        let new = |run: &str| Rejects::new("job", run, Some(&path), 10);
        let mut first = new("a").unwrap();
        first.add("too long", row(1)).unwrap();
        let error = new("b").err().expect("somebody writes it").to_string();
        assert!(error.contains("another export writes its rejects to"), "{error}");
        first.add("too long", row(2)).unwrap();
        assert_eq!(first.settle().unwrap(), Some(path.clone()));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        // What a run that died has left is no hindrance, and is written over.
        let mut died = new("a").unwrap();
        died.add("too long", row(3)).unwrap();
        drop(died);
        let mut again = new("a").unwrap();
        again.add("too long", row(4)).unwrap();
        again.settle().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() == 1 && text.contains(":4}"), "{text}");
    }
}
