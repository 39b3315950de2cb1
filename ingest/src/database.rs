//! `database`: tables of a database, whole or only what is new, once or on a schedule.
//!
//! *Layout* of positions: `run` is the run under way or done last; each table (or `query`) has its own:
//!
//! | mode | what a table's position says | after a crash |
//! |---|---|---|
//! | `full`, a query | which run was staged, how far the staged file was read | the staged file is read on |
//! | `append` | the last cursor, and hashes of the rows that have it | the table is read on from there |
//!
//! *Why staged*: two reads of a table need not give the same rows in the same order, so a run that broke off could not be
//! read on from the database. Its rows are written to a file under `data_dir` first, which is synced; what reaches the log
//! comes from that file.
//!
//! *Ties*: rows that come later with the cursor of the last one would be lost by "above the last" and doubled by "at or
//! above": they are read again, and those that were taken before are known by their hashes.
//!
//! *Failure*: a database that is missing, locked or lost is waited for.
//!
//! *Not here*: one kind of database. [`Rows`] is all that a run asks of it; [`sqlite`] gives it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use croner::Cron;
use serde::{Deserialize, Serialize};
use tarn_log::TopicInfo;
use tarn_model::columns::{Column, ColumnType, Columns};
use tarn_model::config::{Config, DatabaseConfig, DatabaseMode};
use tarn_model::{Error, Result};
use tracing::{info, warn};

use crate::appender::Appender;
use crate::collectors::create_topic;
use crate::monitor::State;
use crate::source::{Collector, Source};

mod appending;
mod row;
mod sqlite;
mod staging;
#[cfg(test)]
mod tests;

use row::{Cursor, Value};

/// Position key of the run.
const RUN: &str = "run";
/// What a query is called where tables have names.
const QUERY: &str = "query";

/// A database, as far as a run needs one.
trait Rows {
    /// Its tables, without views and the database's own.
    fn tables(&mut self) -> Result<Vec<String>>;

    /// The columns of what is read, with their types where they are known.
    fn columns(&mut self, what: &Selection) -> Result<Vec<(String, Option<ColumnType>)>>;

    /// Calls `each` with every row of one snapshot: all of them, or for a cursor those at or above `from` in the order of
    /// the cursor, whose value comes with each. Rows without a cursor are left out; whether there were any is returned.
    fn rows(&mut self, what: &Selection, after: Option<&After<'_>>, each: &mut Each<'_>) -> Result<bool>;
}

/// What a row is given to: its values and, where asked for, its cursor. `false` ends the reading.
type Each<'e> = dyn FnMut(&[Value<'_>], Option<Cursor>) -> Result<bool> + 'e;

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Selection {
    Table(String),
    Query(String),
}

impl Selection {
    fn name(&self) -> &str {
        match self {
            Selection::Table(name) => name,
            Selection::Query(_) => QUERY,
        }
    }
}

/// Rows in the order of a column, from a value on.
struct After<'a> {
    column: &'a str,
    from: Option<&'a Cursor>,
}

/// The run under way, or the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    number: u64,
    started_ms: i64,
    done: bool,
}

/// Reads tables of one database.
pub(crate) struct Database {
    config: DatabaseConfig,
    cron: Option<Cron>,
    /// For topics that are named after tables.
    whole_config: Config,
    staging: PathBuf,
    /// In a drain there is one run.
    drained: bool,
}

impl Database {
    pub(crate) fn new(config: DatabaseConfig, whole_config: &Config) -> Result<Database> {
        if config.table.is_some() == config.query.is_some() {
            return Err(Error::invalid("a `database` source has either `table` or `query`"));
        }
        if config.mode == DatabaseMode::Append && config.cursor.is_none() {
            return Err(Error::invalid("`mode = \"append\"` needs a `cursor`: the column that grows"));
        }
        let cron = config
            .cron
            .as_deref()
            .map(str::parse::<Cron>)
            .transpose()
            .map_err(|error| Error::invalid("`cron` is no cron expression").with_source(error))?;
        sqlite::path_of(&config)?;
        let staging = whole_config.data_dir.join("staging");
        Ok(Database { config, cron, whole_config: whole_config.clone(), staging, drained: false })
    }

    fn is_scheduled(&self) -> bool {
        self.cron.is_some() || self.config.every.is_some()
    }

    /// When the next run is due, ms since 1970; `None` when there is none any more.
    fn due_ms(&self, source: &Source, last: Option<Run>) -> Result<Option<i64>> {
        let now_ms = source.clock.now_ms();
        let Some(last) = last else {
            return match &self.cron {
                Some(cron) if !source.draining() => next_of(cron, now_ms).map(Some),
                _ => Ok(Some(now_ms)),
            };
        };
        if !last.done {
            return Ok(Some(now_ms));
        }
        if source.draining() {
            let again = !self.drained && (self.is_scheduled() || self.config.mode == DatabaseMode::Append);
            return Ok(again.then_some(now_ms));
        }
        if let Some(cron) = &self.cron {
            return next_of(cron, last.started_ms).map(Some);
        }
        if let Some(every) = self.config.every {
            return Ok(Some(last.started_ms.saturating_add(every.as_millis())));
        }
        // Without a schedule, rows that were read whole are not read again by a restart; new ones are.
        let again = self.config.mode == DatabaseMode::Append && !self.drained;
        Ok(again.then_some(now_ms))
    }

    /// One run over every selected table.
    fn run(&mut self, source: &Source, last: Option<Run>) -> Result<()> {
        let run = match last {
            Some(run) if !run.done => run,
            last => Run {
                number: last.map_or(1, |run| run.number + 1),
                started_ms: source.clock.now_ms(),
                done: false,
            },
        };
        let mut database = sqlite::open(&self.config)?;
        let selections = match (&self.config.table, &self.config.query) {
            (_, Some(query)) => vec![Selection::Query(query.clone())],
            (Some(table), _) if table != "*" => vec![Selection::Table(table.clone())],
            _ => database.tables()?.into_iter().map(Selection::Table).collect(),
        };
        self.mark(source, run)?;
        info!(source = source.name, run = run.number, tables = selections.len(), "run begins");
        for what in selections {
            let topic = self.topic_of(source, &what, &mut database)?;
            match &self.config.cursor {
                Some(cursor) if self.config.mode == DatabaseMode::Append => {
                    appending::run(source, &topic, &mut database, &what, cursor)?;
                }
                _ => staging::run(source, &topic, &mut database, &what, run.number, &self.staging)?,
            }
            if source.stopping() {
                return Ok(());
            }
        }
        self.mark(source, Run { done: true, ..run })?;
        info!(source = source.name, run = run.number, "run is done");
        source.monitor.recovered();
        Ok(())
    }

    fn mark(&self, source: &Source, run: Run) -> Result<()> {
        let mut appender = Appender::new(source);
        appender.position(RUN, Some(to_json(&run)?));
        appender.finish()
    }

    /// The topic of a table, made if need be, with the column types that the database knows.
    fn topic_of(&self, source: &Source, what: &Selection, database: &mut dyn Rows) -> Result<Arc<TopicInfo>> {
        let name = source.topic.replace("{table}", &topic_part(what.name()));
        create_topic(&source.log, &self.whole_config, &name)?;
        let known: Option<Vec<Column>> = database
            .columns(what)?
            .into_iter()
            .map(|(name, column_type)| Some(Column { name, column_type: column_type?, nullable: true }))
            .collect();
        let topic = source.topic_named(&name)?;
        // A column without a type leaves the types to be inferred from the rows.
        match known.map(Columns::new) {
            Some(Ok(columns)) if topic.columns.as_ref() != Some(&columns) => {
                source.log.set_topic_columns(&name, &columns)?;
            }
            Some(Err(error)) => {
                warn!(source = source.name, table = what.name(), %error, "the column types are left to be inferred");
            }
            _ => {}
        }
        source.topic_named(&name)
    }
}

impl Collector for Database {
    fn collect(&mut self, source: &Source) -> Result<()> {
        const LONGEST_PAUSE: Duration = Duration::from_secs(60);
        loop {
            let last: Option<Run> = source.log.position(&source.name, RUN)?.map(from_json).transpose()?;
            let Some(due_ms) = self.due_ms(source, last)? else { return Ok(()) };
            let wait_ms = due_ms.saturating_sub(source.clock.now_ms());
            if wait_ms > 0 {
                source.monitor.state(State::Idle);
                source.pause(Duration::from_millis(wait_ms.unsigned_abs()).min(LONGEST_PAUSE));
            } else {
                source.monitor.state(State::Running);
                self.run(source, last)?;
                self.drained = true;
            }
            if source.stopping() {
                return Ok(());
            }
        }
    }
}

fn next_of(cron: &Cron, after_ms: i64) -> Result<i64> {
    let after = DateTime::from_timestamp_millis(after_ms).unwrap_or(DateTime::UNIX_EPOCH);
    let next = cron.find_next_occurrence(&after, false);
    next.map(|next| next.timestamp_millis())
        .map_err(|error| Error::invalid("`cron` never comes to pass").with_source(error))
}

/// A table's name as a part of a topic's name: what may not stand there becomes `_`.
fn topic_part(table: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    table.chars().map(|c| if fits(c) { c } else { '_' }).collect()
}

fn to_json(position: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(position)
        .map_err(|error| Error::internal("a position is no JSON").with_source(error))
}

fn from_json<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| {
        Error::internal("the position of a database source cannot be read").with_source(error)
    })
}
