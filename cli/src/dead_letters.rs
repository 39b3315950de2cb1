//! `tarn source dead-letters`: what no table could take, and another try for it once the reason is mended.
//!
//! A replay is the running process's work: it knows the formats and the columns as they are now, and one replay follows
//! another there. Dead letters are read out of their table, so it does not matter whether the log still has the records.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tarn_ingest::{DeadLetter, Replay, Replayed, Taken};
use tarn_log::{Log, RecordRef};
use tarn_model::config::Config;
use tarn_model::{Error, Kind, Offset, PartitionId, Result};
use tarn_serving::{Engine, from_datafusion};
use tarn_table::decode::Decoder;

use crate::args::{DeadLetterVerb, Report};
use crate::door::Door;
use crate::failure::Usage;
use crate::pipeline::Pipeline;
use crate::render::{Grid, number, out};
use crate::sql::Sql;
use crate::{rest, status::write_json};

/// Reasons that are told of those that were refused again.
const MOST_REASONS: usize = 10;
/// Characters of a value that a terminal shows.
const LONGEST_VALUE: usize = 60;

/// A table's dead letters, and which of them were replayed.
#[derive(Debug, Serialize, Deserialize)]
struct Letters {
    table: String,
    dead_letters: String,
    topic: String,
    /// `[from, to)`, by partition.
    replayed: BTreeMap<PartitionId, Vec<(Offset, Offset)>>,
}

impl Letters {
    fn is_replayed(&self, partition: PartitionId, offset: Offset) -> bool {
        let ranges = self.replayed.get(&partition);
        ranges.is_some_and(|ranges| ranges.iter().any(|(from, to)| (*from..*to).contains(&offset)))
    }
}

/// `tarn source dead-letters`.
pub(crate) async fn dead_letters(
    config: &Config,
    verb: DeadLetterVerb,
    output: Report,
) -> anyhow::Result<()> {
    match verb {
        DeadLetterVerb::List => list(config, output).await,
        DeadLetterVerb::Show { table, condition, limit } => {
            show(config, &table, condition.as_deref(), limit, output).await
        }
        DeadLetterVerb::Replay { table, source, condition, dry_run } => {
            let Some(door) = Door::find(config).await? else {
                let hint = "mend the config, then start it with `tarn run`: dead letters are read again as it says then";
                return Err(Usage::new("nothing runs on this config").with_hint(hint).into());
            };
            let mut options = vec![("dry_run", dry_run.to_string())];
            options.extend(source.map(|source| ("source", source)));
            options.extend(condition.map(|condition| ("condition", condition)));
            let done = door.replay_dead_letters(&table, &options).await?;
            match output {
                Report::Json => write_json(&done),
                Report::Table => Ok(writeln!(out(), "{}", in_words(&done))?),
            }
        }
    }
}

async fn list(config: &Config, output: Report) -> anyhow::Result<()> {
    let (sql, all) = ask(config).await?;
    let mut told = Vec::new();
    for letters in all {
        let name = quoted(&letters.dead_letters);
        let counted = first_row(&sql, &format!("SELECT count(*) FROM {name}")).await?;
        let count = counted.map_or(0, |row| row.column(0).as_primitive::<Int64Type>().value(0));
        if count == 0 {
            continue;
        }
        let newest =
            format!("SELECT reason FROM {name} ORDER BY _timestamp DESC, _partition, _offset DESC LIMIT 1");
        let newest = match first_row(&sql, &newest).await? {
            Some(row) => as_type(row.column(0), &DataType::Utf8)?.as_string::<i32>().value(0).to_owned(),
            None => String::new(),
        };
        let replayed: u64 =
            letters.replayed.values().flatten().map(|(from, to)| (to - from).unsigned_abs()).sum();
        told.push(json!({
            "table": letters.table, "topic": letters.topic, "dead_letters": count, "replayed": replayed, "newest": newest,
        }));
    }
    if output == Report::Json {
        return write_json(&told);
    }
    let mut grid = Grid::new(&["table", "topic", "#dead letters", "#replayed", "the newest one's reason"]);
    for row in &told {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let count = |name: &str| number(row[name].as_u64().unwrap_or(0));
        grid.row([text("table"), text("topic"), count("dead_letters"), count("replayed"), text("newest")]);
    }
    Ok(write!(out(), "{grid}")?)
}

async fn show(
    config: &Config,
    table: &str,
    condition: Option<&str>,
    limit: u32,
    output: Report,
) -> anyhow::Result<()> {
    let (sql, all) = ask(config).await?;
    let letters = chosen(all, table)?;
    let limit = format!(" LIMIT {limit}");
    let mut rows = sql.query(&(statement(&letters.dead_letters, condition) + &limit), None).await?;
    let mut told = Vec::new();
    while let Some(batch) = rows.batches.try_next().await? {
        for (letter, reason) in letters_of(&batch)? {
            told.push(json!({
                "partition": letter.partition,
                "offset": letter.offset,
                "reason": reason,
                "value": letter.value.map(|value| String::from_utf8_lossy(&value).into_owned()),
                "headers": letter.headers.into_iter().collect::<BTreeMap<_, _>>(),
                "replayed": letters.is_replayed(letter.partition, letter.offset),
            }));
        }
    }
    if output == Report::Json {
        return write_json(&told);
    }
    let mut grid = Grid::new(&["#partition", "#offset", "reason", "value", "replayed"]);
    for row in &told {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let value: String = text("value").chars().take(LONGEST_VALUE).collect();
        let replayed = if row["replayed"] == true { "yes" } else { "" };
        grid.row([
            row["partition"].to_string(),
            row["offset"].to_string(),
            text("reason"),
            value,
            replayed.to_owned(),
        ]);
    }
    Ok(write!(out(), "{grid}")?)
}

/// Who answers, and the dead letters there are: of the running process, or of log and lake at rest.
async fn ask(config: &Config) -> anyhow::Result<(Sql, Vec<Letters>)> {
    let sql = Sql::open(config).await?;
    let all = match &sql {
        Sql::Running(door) => serde_json::from_value(door.dead_letters().await?)?,
        Sql::AtRest(_) => {
            let log = rest::log(config).await?;
            let topics = log.topics();
            let tables = config.tables_of(topics.iter().map(|topic| topic.name.as_str()));
            let names = tables
                .iter()
                .map(|table| (table.name.clone(), table.dead_letters_name(), table.topic_name().to_owned()));
            all_letters(&log, names)?
        }
    };
    Ok((sql, all))
}

fn all_letters(log: &Log, tables: impl Iterator<Item = (String, String, String)>) -> Result<Vec<Letters>> {
    let mut all = Vec::new();
    for (table, dead_letters, topic) in tables {
        let Some(info) = log.topic(&topic) else { continue };
        let replayed = Replayed::load(log, &info)?.ranges();
        all.push(Letters { table, dead_letters, topic, replayed });
    }
    Ok(all)
}

fn chosen(all: Vec<Letters>, table: &str) -> anyhow::Result<Letters> {
    let known: Vec<String> = all.iter().map(|letters| letters.table.clone()).collect();
    let found = all.into_iter().find(|letters| letters.table == table || letters.dead_letters == table);
    found.ok_or_else(|| {
        Usage::new(format!("there is no table `{table}`"))
            .with_hint(format!("tables: {}", known.join(", ")))
            .into()
    })
}

async fn first_row(sql: &Sql, statement: &str) -> anyhow::Result<Option<RecordBatch>> {
    let mut rows = sql.query(statement, None).await?;
    while let Some(batch) = rows.batches.try_next().await? {
        if batch.num_rows() > 0 {
            return Ok(Some(batch));
        }
    }
    Ok(None)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Dead letters in the order of the log.
fn statement(dead_letters: &str, condition: Option<&str>) -> String {
    let condition = condition.map_or_else(String::new, |condition| format!(" WHERE ({condition})"));
    let name = quoted(dead_letters);
    format!(
        "SELECT _partition, _offset, _timestamp, reason, key, value, headers FROM {name}{condition} ORDER BY _partition, _offset"
    )
}

fn as_type(column: &ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    cast(column, data_type)
        .map_err(|error| Error::internal("a dead letter has another type").with_source(error))
}

/// The rows of [`statement`], with their reasons.
fn letters_of(batch: &RecordBatch) -> Result<Vec<(DeadLetter, String)>> {
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let types = [
        DataType::Int32,
        DataType::Int64,
        timestamp,
        DataType::Utf8,
        DataType::Binary,
        DataType::Binary,
        DataType::Utf8,
    ];
    let columns = batch.columns().iter().zip(&types).map(|(column, data_type)| as_type(column, data_type));
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let bytes = |column: usize, row: usize| {
        let values = columns[column].as_binary::<i32>();
        values.is_valid(row).then(|| values.value(row).to_vec())
    };
    let letter = |row: usize| {
        let headers = columns[6].as_string::<i32>();
        let letter = DeadLetter {
            partition: columns[0].as_primitive::<Int32Type>().value(row),
            offset: columns[1].as_primitive::<Int64Type>().value(row),
            timestamp_ms: columns[2].as_primitive::<TimestampMicrosecondType>().value(row).div_euclid(1000),
            key: bytes(4, row),
            value: bytes(5, row),
            headers: if headers.is_valid(row) { headers_of(headers.value(row)) } else { Vec::new() },
        };
        (letter, columns[3].as_string::<i32>().value(row).to_owned())
    };
    Ok((0..batch.num_rows()).map(letter).collect())
}

/// Headers out of the JSON object that a dead letter has of them.
fn headers_of(text: &str) -> Vec<(String, String)> {
    let Ok(Value::Object(members)) = serde_json::from_str(text) else { return Vec::new() };
    let text = |value: Value| match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let each = members.into_iter().flat_map(|(name, value)| match value {
        Value::Array(values) => values.into_iter().map(|value| (name.clone(), text(value))).collect(),
        value => vec![(name, text(value))],
    });
    each.collect()
}

fn in_words(done: &Value) -> String {
    let count = |name: &str| done[name].as_u64().unwrap_or(0);
    let would = if done["dry_run"] == true { "would be " } else { "" };
    let mut words = format!("{} {would}replayed", number(count("replayed")));
    for (name, told) in [
        ("dropped", "dropped by a filter"),
        ("before", "replayed before"),
        ("refused", "left, for they would be refused again"),
    ] {
        if count(name) > 0 {
            words += &format!(", {} {told}", number(count(name)));
        }
    }
    for reason in done["reasons"].as_array().into_iter().flatten() {
        words += &format!("\n  {}: {}", reason["count"], reason["reason"].as_str().unwrap_or_default());
    }
    words
}

/// What the routes work on.
struct Desk {
    config: Config,
    log: Log,
    pipeline: Arc<Pipeline>,
    engine: Engine,
    /// Replays come one after another: each begins with the marks of those before it.
    one: tokio::sync::Mutex<()>,
}

/// `GET /v1/dead-letters` and `POST /v1/dead-letters/{table}/replay`.
pub(crate) fn router(config: Config, log: Log, pipeline: Arc<Pipeline>, engine: Engine) -> Router {
    let desk = Arc::new(Desk { config, log, pipeline, engine, one: tokio::sync::Mutex::new(()) });
    Router::new()
        .route("/v1/dead-letters", get(all))
        .route("/v1/dead-letters/{table}/replay", post(replay))
        .with_state(desk)
}

/// An error as `{"error": …, "hint": …}`.
struct Refusal(Error);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.kind() {
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Conflict | Kind::Fenced => StatusCode::CONFLICT,
            Kind::Corrupt | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(json!({ "error": self.0.chain(), "hint": self.0.hint() }))).into_response()
    }
}

async fn all(State(desk): State<Arc<Desk>>) -> std::result::Result<Json<Vec<Letters>>, Refusal> {
    let tables = desk.pipeline.tables();
    let names = tables
        .iter()
        .map(|table| (table.config.name.clone(), table.config.dead_letters_name(), table.topic.name.clone()));
    all_letters(&desk.log, names).map(Json).map_err(Refusal)
}

/// Options of a replay, in the query.
#[derive(Debug, Default, Deserialize)]
struct Options {
    source: Option<String>,
    condition: Option<String>,
    dry_run: Option<bool>,
}

async fn replay(
    State(desk): State<Arc<Desk>>,
    Path(table): Path<String>,
    Query(options): Query<Options>,
) -> std::result::Result<Json<Done>, Refusal> {
    // Whoever asked may go away; what was begun is finished.
    let doing = tokio::spawn(async move { desk.replay(&table, &options).await });
    match doing.await {
        Ok(done) => done.map(Json).map_err(Refusal),
        Err(error) => Err(Refusal(Error::internal("the replay broke off").with_source(error))),
    }
}

/// What a replay did.
#[derive(Debug, Default, Serialize)]
struct Done {
    replayed: u64,
    dropped: u64,
    before: u64,
    refused: u64,
    reasons: Vec<Reason>,
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Reason {
    reason: String,
    count: u64,
}

impl Done {
    fn count(&mut self, taken: Taken) {
        match taken {
            Taken::Replayed => self.replayed += 1,
            Taken::Dropped => self.dropped += 1,
            Taken::Before => self.before += 1,
            Taken::Refused(reason) => {
                self.refused += 1;
                let full = self.reasons.len() >= MOST_REASONS;
                match self.reasons.iter_mut().find(|known| known.reason == reason) {
                    Some(known) => known.count += 1,
                    None if full => {}
                    None => self.reasons.push(Reason { reason, count: 1 }),
                }
            }
        }
    }
}

impl Desk {
    async fn replay(&self, name: &str, options: &Options) -> Result<Done> {
        let _one = self.one.lock().await;
        let tables = self.pipeline.tables();
        let table =
            tables.iter().find(|table| table.config.name == name || table.config.dead_letters_name() == name);
        let table = table.ok_or_else(|| {
            let known: Vec<&str> = tables.iter().map(|table| table.config.name.as_str()).collect();
            Error::invalid(format!("there is no table `{name}` that runs"))
                .with_hint(format!("tables: {}", known.join(", ")))
        })?;
        let topic = &table.topic.name;
        let mut decoders: HashMap<&str, Vec<Decoder>> = HashMap::new();
        for table in &tables {
            decoders.entry(table.topic.name.as_str()).or_default().push(Decoder::new(&table.format)?);
        }
        let alone = decoders.get(topic.as_str()).is_some_and(|decoders| decoders.len() == 1);
        let mut replay = Replay::new(&self.config, &self.log, topic, options.source.as_deref())?;
        let mut done = Done { dry_run: options.dry_run.unwrap_or(false), ..Done::default() };
        let select = statement(&table.config.dead_letters_name(), options.condition.as_deref());
        let mut rows = self.engine.query(&select, &[], None).await?.rows;
        while let Some(batch) = rows.try_next().await.map_err(from_datafusion)? {
            for (letter, _) in letters_of(&batch)? {
                let mut misfit = |topic: &str, record: &RecordRef<'_>| {
                    decoders.get_mut(topic)?.iter_mut().find_map(|decoder| decoder.misfit(record))
                };
                let taken = if alone || letter.is_of_collector() {
                    replay.take(&letter, &mut misfit)?
                } else {
                    Taken::Refused(format!(
                        "the topic `{topic}` has several tables, and others may have the record as a row"
                    ))
                };
                done.count(taken);
                if replay.is_full() {
                    self.commit(&mut replay, done.dry_run).await?;
                }
            }
        }
        self.commit(&mut replay, done.dry_run).await?;
        tracing::info!(
            table = name,
            replayed = done.replayed,
            refused = done.refused,
            dry_run = done.dry_run,
            "dead letters replayed"
        );
        Ok(done)
    }

    async fn commit(&self, replay: &mut Replay, dry_run: bool) -> Result<()> {
        match replay.append().filter(|_| !dry_run) {
            Some(append) => self.log.append(append).await.map(drop),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_out_of_their_object() {
        let headers = headers_of(r#"{"file":"a \"b\"","n":["1","2"],"none":null}"#);
        let told: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(told, [("file", "a \"b\""), ("n", "1"), ("n", "2"), ("none", "")]);
        assert!(headers_of("none").is_empty());
    }

    #[test]
    fn what_was_done_is_told_in_words() {
        let mut done = Done::default();
        for taken in
            [Taken::Replayed, Taken::Before, Taken::Refused("no".into()), Taken::Refused("no".into())]
        {
            done.count(taken);
        }
        assert_eq!(
            in_words(&serde_json::to_value(done).expect("json")),
            "1 replayed, 1 replayed before, 2 left, for they would be refused again\n  2: no"
        );
    }
}
