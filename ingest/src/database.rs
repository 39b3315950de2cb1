//! `database`: tables of a database, whole or only what is new, once or on a schedule.
//!
//! *Layout* of positions: `run` is the run under way or done last; each table (or `query`) has its own:
//!
//! | mode | what a table's position says | after a crash |
//! |---|---|---|
//! | `full`, a query | which run was staged, how far the staged file was read | the staged file is read on |
//! | `append` of SQLite, MySQL | the last cursor, and hashes of the rows that have it | the table is read on from there |
//! | `append` of PostgreSQL | the same as `full`, and below which transaction the rows are taken | the staged file is read on |
//!
//! *Why staged*: two reads of a table need not give the same rows in the same order, so a run that broke off could not be
//! read on from the database. Its rows are written to a file under `data_dir` first, which is synced; what reaches the log
//! comes from that file.
//!
//! *Ties*: rows that come later with the cursor of the last one would be lost by "above the last" and doubled by "at or
//! above": they are read again, and those that were taken before are known by their hashes.
//!
//! *Late commits*: a cursor is no bound where a transaction can commit rows below it later; `settling` finds one for MySQL, and
//! PostgreSQL needs none.
//!
//! *Failure*: a database that is missing, locked or lost is waited for. Of a whole database, a table that is dropped meanwhile
//! is left out.
//!
//! When a run is due is `schedule`'s, what was of the last runs `history`'s.
//!
//! *Not here*: one kind of database. [`Rows`] is all that a run asks of it; [`sqlite`], [`postgres`] and
//! [`mysql`] give it; [`link`] is the connection that the latter two stand on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tarn_log::TopicInfo;
use tarn_model::columns::{Column, ColumnType, Columns};
use tarn_model::config::{Config, DatabaseConfig, DatabaseMode, is_like};
use tarn_model::{Error, Result};
use tracing::{info, warn};

use crate::appender::Appender;
use crate::collectors::create_topic;
use crate::monitor::State;
use crate::source::{Collector, Source};
use crate::stop::Stop;

mod address;
mod appending;
mod explorer;
mod history;
mod importing;
mod link;
mod mysql;
mod postgres;
mod row;
mod schedule;
mod settling;
mod splitting;
mod sqlite;
mod staging;
mod summing;
#[cfg(test)]
mod tests;

pub(crate) use address::Address;
use address::Speaks;
pub use explorer::{ExploredColumn, Explorer, forget};
pub use history::history;
pub use importing::{Import, ImportBound, ImportPlan, ImportedTable, RowTaker, TakerOf};
pub(crate) use mysql::MysqlWriter;
pub(crate) use postgres::PostgresWriter;
use row::{Cursor, Value};
pub(crate) use schedule::last_run;
use schedule::{Due, Run, Schedule};
use settling::Unsettled;
use splitting::Parted;
pub use summing::{ColumnSummary, Summary};

/// Position key of the run.
const RUN: &str = "run";
/// What a query is called where tables have names.
const QUERY: &str = "query";
/// SQLSTATE of a table that is not there.
const NO_SUCH_TABLE: &str = "42P01";

/// A database, as far as a run needs one.
trait Rows: Send {
    /// Its tables, without views and the database's own.
    fn tables(&mut self) -> Result<Vec<String>>;

    /// The columns of what is read, with their types where they are known.
    fn columns(&mut self, what: &Selection) -> Result<Vec<(String, Option<ColumnType>)>>;

    /// Up to where the rows of the snapshot are all that there will ever be, of a database that can tell; `None` of one that
    /// needs a cursor.
    fn written(&mut self, what: &Selection) -> Result<Option<Written>>;

    /// Calls `each` with every row of a part of one snapshot. Rows without a cursor, where one is asked for, are left out;
    /// whether there were any is returned.
    fn rows(&mut self, what: &Selection, part: &Part<'_>, each: &mut Each<'_>) -> Result<bool>;

    /// A table or query in parts for so many readers, which hold like numbers of rows: by the values of a column, or by where the
    /// rows lie.
    fn splits(&mut self, _what: &Selection, _by: Option<&str>, _readers: usize) -> Result<Parted> {
        Ok(Parted::Whole(Some("this database is read so by one reader only".to_owned())))
    }

    /// Keeps one snapshot until [`Rows::release`], over all that is read.
    fn hold(&mut self) -> Result<()> {
        Ok(())
    }

    /// What the database says of a part of the snapshot; `local_times` have no zone and are UTC. `None` of one that goes by a cursor.
    fn summary(&mut self, what: &Selection, part: &Part<'_>, local_times: bool) -> Result<Option<Summary>>;

    /// About how many rows there are, where that is known without reading them.
    fn estimate(&mut self, _what: &Selection) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Ends the snapshot, which begins with whatever is asked first.
    fn release(&mut self) -> Result<()>;

    /// What is known of transactions, where a row can come with a smaller cursor than those that are there.
    fn unsettled(&mut self) -> Option<&mut dyn Unsettled> {
        None
    }
}

/// Which rows are read.
enum Part<'a> {
    All,
    /// Those at or above a cursor, in its order; its value comes with each.
    After(After<'a>),
    /// Those written before a bound, and not before an earlier one.
    Written {
        until: &'a Written,
        from: Option<u64>,
    },
    /// Those that fulfil a condition.
    Split(&'a str),
}

/// A bound of what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    /// What the numbers count in, where that is known.
    origin: String,
    /// The first transaction whose rows are not taken yet.
    below: u64,
    /// The next transaction there would have been.
    newest: u64,
}

impl Written {
    /// Refuses to go on from `before` where the two cannot be compared.
    fn check_follows(&self, before: &Written) -> Result<()> {
        if self.origin == before.origin && self.below >= before.below {
            return Ok(());
        }
        Err(Error::invalid(
            "this is another database than the one whose new rows were read: nobody can tell which are new",
        ))
    }
}

/// What a row is given to: its values and, where asked for, its cursor. `false` ends the reading.
type Each<'e> = dyn FnMut(&[Value<'_>], Option<Cursor>) -> Result<bool> + 'e;

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Selection {
    named: Named,
    /// Columns to read; none is all of them.
    columns: Vec<String>,
    /// Condition of the rows to read.
    filter: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    Table(String),
    Query(String),
}

impl Selection {
    fn name(&self) -> &str {
        match &self.named {
            Named::Table(name) => name,
            Named::Query(_) => QUERY,
        }
    }

    /// A `WHERE` of the filter and another condition, in brackets each.
    fn conditions(&self, other: Option<&str>) -> String {
        let all = self.filter.as_deref().into_iter().chain(other);
        let all: Vec<String> = all.map(|condition| format!("(\n{condition}\n)")).collect();
        if all.is_empty() { String::new() } else { format!(" WHERE {}", all.join(" AND ")) }
    }
}

/// Where a database is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Sqlite(PathBuf),
    Postgres(Address),
    Mysql(Address),
}

impl Kind {
    pub(crate) fn of(config: &DatabaseConfig) -> Result<Kind> {
        Ok(match config {
            config if config.is_postgres() => Kind::Postgres(Address::of(config, Speaks::Postgres)?),
            config if config.is_mysql() => Kind::Mysql(Address::of(config, Speaks::Mysql)?),
            config => Kind::Sqlite(sqlite::path_of(config)?),
        })
    }
}

/// Rows in the order of a column, from a value on.
struct After<'a> {
    column: &'a str,
    from: Option<&'a Cursor>,
    until: &'a Until,
}

/// Up to where rows are read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Until {
    End,
    /// This one's rows are read, too.
    Cursor(Cursor),
    /// There were no rows.
    Nothing,
}

/// Reads tables of one database.
pub(crate) struct Database {
    config: DatabaseConfig,
    kind: Kind,
    schedule: Schedule,
    /// For topics that are named after tables.
    whole_config: Config,
    staging: PathBuf,
    /// It was said that transactions cannot be seen.
    warned: bool,
}

impl Database {
    pub(crate) fn new(config: DatabaseConfig, whole_config: &Config) -> Result<Database> {
        if config.table.is_some() == config.query.is_some() {
            return Err(Error::invalid("a `database` source has either `table` or `query`"));
        }
        let kind = Kind::of(&config)?;
        if config.mode != DatabaseMode::Full && config.cursor.is_none() && !config.is_postgres() {
            return Err(Error::invalid("this `mode` needs a `cursor`: the column that grows"));
        }
        let schedule = Schedule::new(&config)?;
        let staging = staging::folder_of(whole_config);
        Ok(Database { config, kind, schedule, whole_config: whole_config.clone(), staging, warned: false })
    }

    /// One run over every selected table.
    fn run(&mut self, source: &Source, last: Option<Run>) -> Result<()> {
        let run = match last {
            Some(run) if !run.done => run,
            last => Run {
                number: last.map_or(1, |run| run.number + 1),
                started_ms: source.clock.now_ms(),
                done: false,
                after: self.schedule.leaders_run(source)?,
            },
        };
        source.stop.begin_run(run.number);
        let mut appender = Appender::new(source);
        history::begin(source, run, &mut appender)?;
        self.mark(run, appender)?;
        staging::resume(source, &self.staging, |table| {
            source.topic_named(&topic_name(&source.topic, table))
        })?;
        if source.stopping() {
            return Ok(());
        }
        let mut database = self.connect(source.stop.clone())?;
        let selections = self.selections(&mut *database)?;
        database.release()?;
        info!(source = source.name, run = run.number, tables = selections.len(), "run begins");
        let Some(bounds) = self.bounds(source, &selections, &mut *database)? else {
            return Ok(());
        };
        for (what, until) in selections.iter().zip(&bounds) {
            match self.read(source, run, what, until, &mut *database) {
                Err(error) if self.is_whole() && error.sqlstate() == Some(NO_SUCH_TABLE) => {
                    warn!(source = source.name, table = what.name(), "the table was dropped meanwhile");
                    database.release()?;
                }
                read => read?,
            }
            if source.stopping() {
                return Ok(());
            }
        }
        let mut appender = Appender::new(source);
        history::done(source, run, &mut appender)?;
        self.mark(Run { done: true, ..run }, appender)?;
        source.followers.iter().for_each(|follower| follower.nudge());
        info!(source = source.name, run = run.number, "run is done");
        source.monitor.recovered();
        Ok(())
    }

    fn connect(&self, stop: Arc<Stop>) -> Result<Box<dyn Rows>> {
        Ok(match &self.kind {
            Kind::Sqlite(path) => Box::new(sqlite::open(path)?),
            Kind::Postgres(address) => Box::new(postgres::open(address, stop)?),
            Kind::Mysql(address) => Box::new(mysql::open(address, stop)?),
        })
    }

    /// Connects to read what another connection sees.
    fn connect_at(&self, stop: Arc<Stop>, snapshot: &str) -> Result<Box<dyn Rows>> {
        match &self.kind {
            Kind::Postgres(address) => Ok(Box::new(postgres::open_at(address, stop, snapshot)?)),
            Kind::Sqlite(_) | Kind::Mysql(_) => Err(Error::internal("only PostgreSQL exports snapshots")),
        }
    }

    /// Whether every table of the database is read.
    fn is_whole(&self) -> bool {
        self.config.table.as_deref() == Some("*")
    }

    fn selections(&self, database: &mut dyn Rows) -> Result<Vec<Selection>> {
        let config = &self.config;
        let select =
            |named| Selection { named, columns: config.columns.clone(), filter: config.filter.clone() };
        if let Some(query) = &config.query {
            return Ok(vec![select(Named::Query(query.clone()))]);
        }
        if let Some(table) = &config.table
            && table != "*"
        {
            return Ok(vec![select(Named::Table(table.clone()))]);
        }
        let mut tables = database.tables()?;
        let fits =
            |patterns: &[String], table: &String| patterns.iter().any(|pattern| is_like(pattern, table));
        tables.retain(|table| {
            (config.include.is_empty() || fits(&config.include, table)) && !fits(&config.exclude, table)
        });
        Ok(tables.into_iter().map(|table| select(Named::Table(table))).collect())
    }

    /// Up to where a run reads each of `selections`; `None` when the source is to stop.
    fn bounds(
        &mut self,
        source: &Source,
        selections: &[Selection],
        database: &mut dyn Rows,
    ) -> Result<Option<Vec<Until>>> {
        match &self.config.cursor {
            Some(cursor) if self.config.mode != DatabaseMode::Full => {
                let lag = self.config.lag().0;
                let who = (source.name.as_str(), &*source.stop);
                settling::settle(who, database, selections, cursor, lag, &mut self.warned)
            }
            _ => Ok(Some(vec![Until::End; selections.len()])),
        }
    }

    /// Brings what a run takes of `what` into the log.
    fn read(
        &self,
        source: &Source,
        run: Run,
        what: &Selection,
        until: &Until,
        database: &mut dyn Rows,
    ) -> Result<()> {
        let topic = self.topic_of(source, what, database)?;
        let only_new = self.config.mode != DatabaseMode::Full;
        match &self.config.cursor {
            Some(cursor) if only_new => appending::run(source, &topic, database, what, cursor, until),
            _ => {
                let open = |snapshot: &str| self.connect_at(source.stop.clone(), snapshot);
                let split = self.config.split_by.as_deref().map(|column| staging::Split {
                    column,
                    readers: self.config.readers(),
                    open: &open,
                });
                let job = staging::Job { run: run.number, only_new, folder: &self.staging, split };
                staging::run(source, &topic, database, what, &job)
            }
        }
    }

    fn mark(&self, run: Run, mut appender: Appender<'_>) -> Result<()> {
        appender.position(RUN, Some(to_json(&run)?));
        appender.finish()
    }

    /// The topic of a table, made if need be, with the column types that the database knows.
    fn topic_of(&self, source: &Source, what: &Selection, database: &mut dyn Rows) -> Result<Arc<TopicInfo>> {
        let name = topic_name(&source.topic, what.name());
        create_topic(&source.log, &self.whole_config, &name)?;
        let known: Option<Vec<Column>> = database
            .columns(what)?
            .into_iter()
            .map(|(name, column_type)| Some(Column { name, column_type: column_type?, nullable: true }))
            .collect();
        let topic = source.topic_named(&name)?;
        // A column without a type leaves the types to be inferred from the rows; so does a name that no config could write.
        let named = |columns: Columns| match Columns::parse(&columns.to_string()) {
            Ok(read) if read == columns => Ok(columns),
            _ => Err(Error::invalid("a column has a name that cannot be written down")),
        };
        match known.map(|known| Columns::new(known).and_then(named)) {
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
            let last = last_run(&source.log, &source.name)?;
            let due = self.schedule.due(source, last)?;
            match due {
                Due::Now => {
                    source.monitor.state(State::Running);
                    if let Err(error) = self.run(source, last) {
                        if !source.stopping() {
                            history::failed(source, &error);
                        }
                        return Err(error);
                    }
                    self.schedule.ran = true;
                }
                Due::At(due_ms) => {
                    let wait_ms = due_ms.saturating_sub(source.clock.now_ms()).max(0);
                    source.monitor.state(State::Idle);
                    source.pause(Duration::from_millis(wait_ms.unsigned_abs()).min(LONGEST_PAUSE));
                }
                Due::Later => {
                    source.monitor.state(State::Idle);
                    source.pause(LONGEST_PAUSE);
                }
                Due::Never if source.draining() => return Ok(()),
                Due::Never => {
                    // Somebody may ask for another run.
                    source.monitor.state(State::Done);
                    source.pause(LONGEST_PAUSE);
                }
            }
            if source.stopping() {
                return Ok(());
            }
        }
    }
}

/// The topic of a table; what may not stand in a topic's name becomes `_`.
fn topic_name(topic: &str, table: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let part: String = table.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    topic.replace("{table}", &part)
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
