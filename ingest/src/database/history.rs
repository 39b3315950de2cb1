//! The last runs of a source: when, how long, how much, and how they ended.
//!
//! *Layout*: positions of the source `history/<name>`, under the run's number modulo [`KEPT`], so there are never more. A run's
//! entry is in the commit that begins it, and in the one that makes it done: it cannot say `done` of a run that is not.
//!
//! Rows and bytes are those that the tables' positions count; an entry keeps what they said when the run began. So they are right
//! whatever happened in between.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tarn_log::{Append, Log};
use tarn_model::status::RunStatus;
use tarn_model::{Error, Kind, Result};
use tracing::warn;

use super::schedule::{Run, last_run};
use super::{appending, from_json, staging, to_json};
use crate::appender::Appender;
use crate::monitor::tell;
use crate::source::Source;

/// Runs that are remembered.
const KEPT: u64 = 100;
/// Tables of one run of which it is remembered how far they were read.
const MOST_REACHED: usize = 20;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    run: RunStatus,
    /// What the tables' positions counted when it began.
    before: Counted,
}

/// Rows and bytes that positions count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counted {
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

fn keeper(source: &str) -> String {
    format!("history/{source}")
}

fn key(number: u64) -> String {
    (number % KEPT).to_string()
}

fn entry(log: &Log, source: &str, number: u64) -> Result<Option<Entry>> {
    let entry: Option<Entry> = log.position(&keeper(source), &key(number))?.map(from_json).transpose()?;
    Ok(entry.filter(|entry| entry.run.number == number))
}

fn note(appender: &mut Appender<'_>, source: &str, entry: &Entry) -> Result<()> {
    appender.note(&keeper(source), &key(entry.run.number), Some(to_json(entry)?));
    Ok(())
}

/// A run begins, or is begun again.
pub(super) fn begin(source: &Source, run: Run, appender: &mut Appender<'_>) -> Result<()> {
    let mut entry = match entry(&source.log, &source.name, run.number)? {
        Some(entry) => entry,
        None => Entry {
            run: RunStatus { number: run.number, started_ms: run.started_ms, ..RunStatus::default() },
            before: counted(&source.log, &source.name, run.number)?.0,
        },
    };
    entry.run.attempts += 1;
    "running".clone_into(&mut entry.run.state);
    entry.run.ended_ms = None;
    note(appender, &source.name, &entry)
}

/// A run is done.
pub(super) fn done(source: &Source, run: Run, appender: &mut Appender<'_>) -> Result<()> {
    let Some(mut entry) = entry(&source.log, &source.name, run.number)? else { return Ok(()) };
    count(&source.log, &source.name, &mut entry)?;
    "done".clone_into(&mut entry.run.state);
    entry.run.ended_ms = Some(source.clock.now_ms());
    note(appender, &source.name, &entry)
}

/// An attempt failed. Its error is what counts, so nothing that goes wrong here is an error.
pub(super) fn failed(source: &Source, error: &Error) {
    let told = || -> Result<()> {
        let Some(run) = last_run(&source.log, &source.name)?.filter(|run| !run.done) else { return Ok(()) };
        let Some(mut entry) = entry(&source.log, &source.name, run.number)? else { return Ok(()) };
        count(&source.log, &source.name, &mut entry)?;
        let is_tried_again = matches!(error.kind(), Kind::Unavailable | Kind::Conflict);
        entry.run.error = Some(tell(error));
        if is_tried_again { "waiting" } else { "failed" }.clone_into(&mut entry.run.state);
        entry.run.ended_ms = (!is_tried_again).then(|| source.clock.now_ms());
        let mut appender = Appender::new(source);
        note(&mut appender, &source.name, &entry)?;
        appender.finish()
    };
    if let Err(error) = told() {
        warn!(source = source.name, error = tell(&error), "the run's history lacks its failure");
    }
}

/// The runs that are remembered, the newest first; `active` says whether the source works on what is not done.
pub fn history(log: &Log, source: &str, active: bool) -> Result<Vec<RunStatus>> {
    let mut runs = Vec::new();
    for (_, entry) in log.positions(&keeper(source))? {
        let mut entry: Entry = from_json(entry)?;
        if matches!(entry.run.state.as_str(), "running" | "waiting") {
            count(log, source, &mut entry)?;
            if !active {
                "interrupted".clone_into(&mut entry.run.state);
            }
        }
        runs.push(entry.run);
    }
    runs.sort_by_key(|run| std::cmp::Reverse(run.number));
    Ok(runs)
}

/// Forgets the runs of a source that forgets all that it has read.
pub(super) fn forget(log: &Log, source: &str, append: &mut Append) -> Result<()> {
    for (key, _) in log.positions(&keeper(source))? {
        append.position(&keeper(source), &key, None);
    }
    Ok(())
}

/// What a run has taken so far, as the positions have it.
fn count(log: &Log, source: &str, entry: &mut Entry) -> Result<()> {
    let (now, reached) = counted(log, source, entry.run.number)?;
    entry.run.rows = now.rows.saturating_sub(entry.before.rows);
    entry.run.bytes = now.bytes.saturating_sub(entry.before.bytes);
    entry.run.reached = reached;
    Ok(())
}

/// What positions count: of tables that are read on from a cursor since ever, of staged ones in this run; and how far each is.
fn counted(log: &Log, source: &str, run: u64) -> Result<(Counted, BTreeMap<String, String>)> {
    let (mut all, mut reached) = (Counted::default(), BTreeMap::new());
    for (key, position) in log.positions(source)? {
        let Some((mode, table)) = key.split_once(':') else { continue };
        let (counted, bound) = match mode {
            "append" => appending::counted(position)?,
            "full" | "new" => staging::counted(position, run)?,
            _ => continue,
        };
        all.rows += counted.rows;
        all.bytes += counted.bytes;
        if let Some(bound) = bound.filter(|_| reached.len() < MOST_REACHED) {
            reached.insert(table.to_owned(), bound);
        }
    }
    Ok((all, reached))
}
