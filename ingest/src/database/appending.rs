//! `mode = "append"`: rows at or above the last cursor, without those that were taken before.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tarn_log::TopicInfo;
use tarn_model::columns::ColumnType;
use tarn_model::{Error, Result};
use tracing::warn;
use xxhash_rust::xxh3::xxh3_128;

use super::history::Counted;
use super::row::{Cursor, RowWriter, Value};
use super::{After, Part, Rows, Selection, Until, from_json, to_json};
use crate::appender::Appender;
use crate::json;
use crate::shaper::{Found, Place, Shaper};
use crate::source::Source;

/// Rows with one cursor that are remembered; more than that is no cursor.
const MOST_TIES: usize = 100_000;

/// How far a table was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reached {
    pub(super) cursor: Option<Cursor>,
    /// Hashes of the rows that have this cursor and were taken.
    ties: Vec<String>,
    /// The columns that they are hashes of; none are all those that there are.
    #[serde(default)]
    columns: Vec<String>,
    pub(super) rows: u64,
    #[serde(default)]
    bytes: u64,
}

/// What a table's position counts, and the cursor that it has.
pub(super) fn counted(position: serde_json::Value) -> Result<(Counted, Option<String>)> {
    let reached: Reached = from_json(position)?;
    let cursor = reached.cursor.as_ref().map(Cursor::shown);
    Ok((Counted { rows: reached.rows, bytes: reached.bytes }, cursor))
}

/// Takes what is new in `what`.
pub(super) fn run(
    source: &Source,
    topic: &Arc<TopicInfo>,
    database: &mut dyn Rows,
    what: &Selection,
    column: &str,
    until: &Until,
) -> Result<()> {
    let key = format!("append:{}", what.name());
    let reached: Reached =
        source.log.position(&source.name, &key)?.map(from_json).transpose()?.unwrap_or_default();
    let bound = reached.cursor.clone();
    let columns = database.columns(what)?;
    let writer = RowWriter::new(&columns);
    let mut follower = Follower::new(reached, &columns, (what.name(), column), MOST_TIES);
    let mut appender = Appender::new(source);
    let (mut shaper, seed) = (shaper(source, topic)?, xxh3_128(key.as_bytes()));
    let mut value = Vec::new();
    let mut stopped = false;
    let part = Part::After(After { column, from: bound.as_ref(), until });
    let without_cursor = database.rows(what, &part, &mut |row, cursor| {
        let wrong = writer.write(row, &mut value).err();
        if !follower.is_new(row, cursor, &value)? {
            return Ok(true);
        }
        push(source, &mut shaper, &mut appender, (seed, follower.reached.rows), &value, wrong.as_deref())?;
        if appender.is_full() {
            stopped = source.stopping();
            if stopped {
                return Ok(false);
            }
            appender.position(&key, Some(to_json(&follower.reached)?));
            appender.submit()?;
        }
        Ok(true)
    })?;
    if stopped {
        return Ok(());
    }
    if !appender.is_empty() {
        appender.position(&key, Some(to_json(&follower.reached)?));
    }
    appender.finish()?;
    if without_cursor {
        let error =
            Error::invalid(format!("rows of `{}` have no `{column}`: they are not read", what.name()))
                .with_hint("choose a `cursor` that is never NULL, such as `rowid`");
        warn!(
            source = source.name,
            table = what.name(),
            cursor = column,
            "rows without a cursor are not read"
        );
        source.monitor.error(&error);
    }
    Ok(())
}

/// Tells rows that were taken from those that were not, as they come in the order of their cursors.
pub(super) struct Follower {
    /// How far it has come.
    pub(super) reached: Reached,
    bound: Option<Cursor>,
    /// Hashes of rows at the bound that were taken, and how many are of each.
    taken: HashMap<String, u32>,
    before: Option<Before>,
    names: Vec<String>,
    table: String,
    column: String,
    most_ties: usize,
}

impl Follower {
    /// Of a table and the column of its cursor; it goes on from `reached`.
    pub(super) fn new(
        reached: Reached,
        columns: &[(String, Option<ColumnType>)],
        (table, column): (&str, &str),
        most_ties: usize,
    ) -> Follower {
        let mut taken: HashMap<String, u32> = HashMap::new();
        for tie in &reached.ties {
            *taken.entry(tie.clone()).or_default() += 1;
        }
        Follower {
            bound: reached.cursor.clone(),
            before: Before::of(&reached.columns, columns),
            names: columns.iter().map(|(name, _)| name.clone()).collect(),
            taken,
            reached,
            table: table.to_owned(),
            column: column.to_owned(),
            most_ties,
        }
    }

    /// Whether a row, `value` as JSON, was not taken before; then it is from now on.
    pub(super) fn is_new(&mut self, row: &[Value<'_>], cursor: Option<Cursor>, value: &[u8]) -> Result<bool> {
        if cursor != self.reached.cursor {
            self.reached.ties.clear();
            self.reached.cursor = cursor;
            self.reached.columns.clone_from(&self.names);
        }
        let at_bound = self.reached.cursor == self.bound;
        let hash = match &self.before {
            Some(before) if at_bound => before.hash(row),
            _ => format!("{:032x}", xxh3_128(value)),
        };
        if at_bound && let Some(count) = self.taken.get_mut(&hash).filter(|count| **count > 0) {
            *count -= 1;
            return Ok(false);
        }
        if self.reached.ties.len() >= self.most_ties {
            let (most, table, column) = (self.most_ties, &self.table, &self.column);
            return Err(Error::invalid(format!("more than {most} rows of `{table}` have one `{column}`"))
                .with_hint("choose a `cursor` that grows with every row, such as `rowid`"));
        }
        self.reached.ties.push(hash);
        self.reached.rows += 1;
        self.reached.bytes += value.len() as u64;
        Ok(true)
    }
}

/// A row as it was before columns were added, so that it is known for the one that was taken then.
struct Before {
    columns: Vec<usize>,
    writer: RowWriter,
}

impl Before {
    /// `None` when the columns are the same, or when some are gone.
    fn of(before: &[String], now: &[(String, Option<ColumnType>)]) -> Option<Before> {
        if before.is_empty() || before.iter().eq(now.iter().map(|(name, _)| name)) {
            return None;
        }
        let at = |name: &String| now.iter().position(|(now, _)| now == name);
        let columns: Vec<usize> = before.iter().map(at).collect::<Option<_>>()?;
        let described: Vec<_> = columns.iter().map(|column| now[*column].clone()).collect();
        Some(Before { columns, writer: RowWriter::new(&described) })
    }

    fn hash(&self, row: &[Value<'_>]) -> String {
        let (values, mut text): (Vec<_>, _) =
            (self.columns.iter().map(|column| row[*column]).collect(), Vec::new());
        // What is no text was none before, too.
        let _ = self.writer.write(&values, &mut text);
        format!("{:032x}", xxh3_128(&text))
    }
}

/// The shaper of a table's rows.
pub(super) fn shaper(source: &Source, topic: &Arc<TopicInfo>) -> Result<Shaper> {
    let mut shaper = Shaper::of_objects(&source.config)?;
    shaper.begin(source, topic.clone())?;
    Ok(shaper)
}

/// Pushes a row, with what is wrong with it; `origin` is the run and the row's number in it.
pub(super) fn push(
    source: &Source,
    shaper: &mut Shaper,
    appender: &mut Appender<'_>,
    origin: (u128, u64),
    value: &[u8],
    wrong: Option<&str>,
) -> Result<()> {
    source.monitor.read(value.len() as u64);
    let key = source.config.key.as_deref().filter(|_| wrong.is_some());
    let key = key.and_then(|name| json::field(value, name).ok().flatten());
    let found = Found { value, key: key.as_deref(), oversize: None, error: wrong };
    let place = Place { origin, ..Place::default() };
    shaper.push(appender, source.clock.now_ms(), &place, &found).map(drop)
}
