//! Opening a table: what the log and the lake say of it must agree before its first row is visible.
//!
//! *Invariants* checked here:
//! - the lake table's `tarn.topic_uuid` is the topic's id, and the log does not end below the table's boundary; else the
//!   table is refused, with a hint;
//! - the schema is committed as version 0 before any row is visible;
//! - verdicts are final: what the dead-letter table holds above the table's boundary (its commit comes first, and the process
//!   may die between the two) is settled here, with the format it was decided with, before a reader starts. So a reader
//!   never needs to know an older format or an older verdict.
//!
//! *Failure*: every step can be repeated; a kill between any two of them leaves a state from which opening goes on.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, Int32Array, Int64Array, RecordBatch, new_null_array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use object_store::ObjectStoreExt;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};
use tarn_lake::{Advance, Commit, Lake, LakeSnapshot, LakeTable, NewTable};
use tarn_log::{Log, TopicInfo};
use tarn_model::columns::{Columns, OFFSET, PARTITION};
use tarn_model::config::{TableConfig, UnknownFields};
use tarn_model::{Boundary, Error, Offset, PartitionId, RecordColumns, Result, clock, fault};

use crate::catalog::boundary_of;
use crate::decode::{Decoder, TableFormat, dead_letter_schema, infer};
use crate::fragment::slice_rows;
use crate::watermark::{EventTime, Times};

/// Property: id of the topic that feeds the table.
pub const TOPIC_UUID: &str = "tarn.topic_uuid";
/// Property: name of that topic.
pub const TOPIC: &str = "tarn.topic";
/// Property: `table`, `dead_letters`, [`VIEW`] or [`IMPORT`].
pub const KIND: &str = "tarn.kind";
/// The [`KIND`] of a table of a view's states.
pub const VIEW: &str = "view";
/// The [`KIND`] of a table that was read straight from a database.
pub const IMPORT: &str = "import";
/// Property: the table of many topics that this one is a part of.
pub const PART_OF: &str = "tarn.part_of";
/// Property: the format that rows were decoded with, as JSON.
pub const FORMAT: &str = "tarn.format";
/// Property: the boundary below which rows were decoded with an older format, as JSON; absent when there was none.
pub const FORMAT_SINCE: &str = "tarn.format_since";
/// Property: where the topic's partitions began when the table was made, as JSON; absent means at 0.
pub const START: &str = "tarn.start";

const SAMPLE_RECORDS: u64 = 10_000;
/// With so many bytes of records, fewer are enough: a batch of a few KiB may unpack to 64 MiB.
const SAMPLE_BYTES: usize = 32 << 20;
const SAMPLE_TIME: Duration = Duration::from_secs(1);
const FETCH_BYTES: usize = 1 << 20;

/// A table that may be read and written.
#[derive(Debug, Clone)]
pub struct OpenTable {
    /// What the config says.
    pub config: TableConfig,
    /// The topic that feeds it.
    pub topic: Arc<TopicInfo>,
    /// How records become rows.
    pub format: TableFormat,
    /// All columns, in the lake's order.
    pub schema: SchemaRef,
    /// The lake table of its rows.
    pub lake: LakeTable,
    /// The lake table of its dead letters.
    pub dead_letters: LakeTable,
    /// What both cover.
    pub boundary: Boundary,
}

/// Opens the tables of one process.
#[derive(Debug, Clone)]
pub struct TableOpener {
    log: Log,
    lake: Lake,
}

/// App id of a topic's partition in Delta `txn` actions.
pub fn app_id(topic: &TopicInfo, partition: PartitionId) -> String {
    format!("tarn/{}/{partition}", topic.id)
}

/// The advances that move `snapshot` to `to`, for the partitions that `to` is ahead in.
pub fn advances(topic: &TopicInfo, snapshot: &LakeSnapshot, to: &Boundary) -> Vec<Advance> {
    let moved = to.iter().filter_map(|(partition, next)| {
        let app_id = app_id(topic, partition);
        let expected = snapshot.txns.get(&app_id).copied();
        (next > expected.unwrap_or(0)).then_some(Advance { app_id, expected, to: next })
    });
    moved.collect()
}

/// `rows` in the order and with the columns of `schema`: absent columns are NULL.
pub fn align(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if rows.schema_ref().fields() == schema.fields() {
        return Ok(rows.clone());
    }
    let columns = schema.fields().iter().map(|field| match rows.column_by_name(field.name()) {
        Some(column) => Arc::clone(column),
        None => new_null_array(field.data_type(), rows.num_rows()),
    });
    RecordBatch::try_new(Arc::clone(schema), columns.collect())
        .map_err(|error| Error::internal("rows do not fit their table's schema").with_source(error))
}

#[derive(Serialize, Deserialize)]
struct StoredFormat {
    columns: String,
    unknown_fields: UnknownFields,
    timezone: Option<String>,
    #[serde(default, skip_serializing_if = "RecordColumns::is_empty")]
    record: RecordColumns,
}

impl StoredFormat {
    fn of(format: &TableFormat) -> StoredFormat {
        StoredFormat {
            columns: format.columns.to_string(),
            unknown_fields: format.unknown_fields,
            timezone: format.timezone.clone(),
            record: format.record.clone(),
        }
    }

    fn into_format(self) -> Result<TableFormat> {
        let columns = Columns::parse(&self.columns)?;
        let StoredFormat { unknown_fields, timezone, record, .. } = self;
        Ok(TableFormat { columns, unknown_fields, timezone, record })
    }
}

fn format_property(format: &TableFormat) -> String {
    serde_json::to_string(&StoredFormat::of(format)).expect("a format is plain data")
}

fn boundary_property(boundary: &Boundary) -> String {
    serde_json::to_string(boundary).expect("a boundary is plain data")
}

impl TableOpener {
    /// Opens tables that join `log` and `lake`.
    pub fn new(log: Log, lake: Lake) -> TableOpener {
        TableOpener { log, lake }
    }

    /// Opens the table, or creates it when its columns are known. `None`: they are not, see [`TableOpener::infer`].
    pub async fn open(&self, config: &TableConfig) -> Result<Option<OpenTable>> {
        let topic = self.topic(config)?;
        let Some(lake) = self.lake.load(&config.name, true).await? else {
            return match self.declared_columns(config, &topic)? {
                Some(columns) => self.create(config, topic, columns).await.map(Some),
                None => Ok(None),
            };
        };
        self.check_identity(config, &topic, &lake)?;
        let old = stored_format(&lake)?;
        let dead_letters = self.create_dead_letters(config, &topic, &old).await?;
        self.check_ends(config, &topic, &lake)?;
        self.settle(config, &topic, &old, &lake, &dead_letters).await?;
        let format = match &config.columns {
            Some(text) => self.format(config, Columns::parse(text)?)?,
            None => self.format(config, old.columns.clone())?,
        };
        evolve(config, &old, &format, &lake).await?;
        Ok(Some(open(config, topic, format, lake, dead_letters)))
    }

    /// Waits for the table's first records, infers its columns from them, and creates it.
    pub async fn infer(&self, config: &TableConfig) -> Result<OpenTable> {
        let topic = self.topic(config)?;
        let columns = self.columns_of_first_records(&topic).await?;
        // A field that has the name of such a column is not what it holds.
        let parts = config.record_columns();
        let fields = columns.iter().filter(|column| parts.part_of(&column.name).is_none());
        let columns = Columns::new(fields.cloned().collect())?;
        self.create(config, topic, columns).await
    }

    fn topic(&self, config: &TableConfig) -> Result<Arc<TopicInfo>> {
        let name = config.topic_name();
        self.log.topic(name).ok_or_else(|| Error::invalid(format!("there is no topic `{name}`")))
    }

    fn format(&self, config: &TableConfig, columns: Columns) -> Result<TableFormat> {
        let record = config.record_columns();
        Ok(TableFormat {
            columns: record.added_to(columns)?,
            unknown_fields: config.unknown_fields,
            timezone: config.timezone.clone(),
            record,
        })
    }

    fn declared_columns(&self, config: &TableConfig, topic: &TopicInfo) -> Result<Option<Columns>> {
        match &config.columns {
            Some(text) => Columns::parse(text).map(Some),
            None => Ok(self.log.topic(&topic.name).and_then(|topic| topic.columns.clone())),
        }
    }

    /// Columns from the first records of all partitions: 10,000 of them, or what has come a second after the first.
    async fn columns_of_first_records(&self, topic: &TopicInfo) -> Result<Columns> {
        let mut commits = self.log.commits();
        let mut first_seen = None;
        loop {
            commits.borrow_and_update();
            // A source that knows its columns tells them with or before its first record.
            if let Some(columns) = self.log.topic(&topic.name).and_then(|topic| topic.columns.clone()) {
                return Ok(columns);
            }
            let (starts, ends) = (self.log.starts(&topic.name)?, self.log.ends(&topic.name)?);
            let records = ends.records_above(&starts);
            let since = *first_seen.get_or_insert_with(tokio::time::Instant::now);
            if records == 0 {
                first_seen = None;
            } else if records >= SAMPLE_RECORDS || since.elapsed() >= SAMPLE_TIME {
                if let Some(columns) = self.infer_from(topic, &starts).await? {
                    return Ok(columns);
                }
                // Nothing but markers and what was aborted.
                first_seen = None;
                if commits.changed().await.is_err() {
                    return Err(Error::unavailable("the log was closed"));
                }
                continue;
            }
            let wait = if records == 0 {
                Duration::from_secs(3600)
            } else {
                SAMPLE_TIME.saturating_sub(since.elapsed())
            };
            if let Ok(Err(_)) = tokio::time::timeout(wait, commits.changed()).await {
                return Err(Error::unavailable("the log was closed"));
            }
        }
    }

    /// Columns of the first records, if there are any.
    async fn infer_from(&self, topic: &TopicInfo, starts: &Boundary) -> Result<Option<Columns>> {
        let (log, topic, starts) = (self.log.clone(), topic.clone(), starts.clone());
        blocking(move || {
            let mut samples = Vec::new();
            let share = SAMPLE_RECORDS / u64::try_from(topic.partitions).unwrap_or(1) + 1;
            let most = SAMPLE_BYTES / usize::try_from(topic.partitions).unwrap_or(1) + 1;
            for partition in 0..topic.partitions {
                let (mut next, mut taken, mut bytes) = (starts.next(partition), 0, 0);
                while taken < share && bytes < most {
                    let mut fetch = log.fetch(&topic.name, partition, next, FETCH_BYTES)?;
                    if fetch.next == next {
                        break;
                    }
                    let records = fetch.records()?;
                    next = fetch.next;
                    taken += u64::try_from(records.len()).unwrap_or(u64::MAX);
                    bytes += records.bytes();
                    samples.push(records);
                }
            }
            Ok(samples.iter().any(|records| !records.is_empty()).then(|| infer(samples.iter())))
        })
        .await
    }

    async fn create(
        &self,
        config: &TableConfig,
        topic: Arc<TopicInfo>,
        columns: Columns,
    ) -> Result<OpenTable> {
        let format = self.format(config, columns)?;
        let dead_letters = self.create_dead_letters(config, &topic, &format).await?;
        let mut properties = properties(config, &topic, "table", &format);
        properties.insert(START.to_owned(), boundary_property(&self.log.starts(&topic.name)?));
        let table =
            NewTable { schema: format.schema(), partition_by: config.partition_by.clone(), properties };
        let lake = self.lake.create(&config.name, &table).await?;
        tracing::info!(table = %config.name, columns = %format.columns, "table created");
        Ok(open(config, topic, format, lake, dead_letters))
    }

    async fn create_dead_letters(
        &self,
        config: &TableConfig,
        topic: &TopicInfo,
        format: &TableFormat,
    ) -> Result<LakeTable> {
        let name = config.dead_letters_name();
        if let Some(table) = self.lake.load(&name, true).await? {
            self.check_identity(config, topic, &table)?;
            return Ok(table);
        }
        let properties = properties(config, topic, "dead_letters", format);
        let table = NewTable { schema: dead_letter_schema(), partition_by: Vec::new(), properties };
        self.lake.create(&name, &table).await
    }

    fn check_identity(&self, config: &TableConfig, topic: &TopicInfo, table: &LakeTable) -> Result<()> {
        let known = table.snapshot().properties.get(TOPIC_UUID).cloned();
        if known.as_deref() == Some(topic.id.to_string().as_str()) {
            return Ok(());
        }
        let what = match known {
            Some(id) => format!(
                "was filled from another log (topic id {id}, this log's topic `{}` has {})",
                topic.name, topic.id
            ),
            None => "was not made from a topic, or was detached from it".to_owned(),
        };
        Err(Error::invalid(format!("table `{}` in the lake {what}", table.name())).with_hint(format!(
            "was the data folder deleted or exchanged? `tarn table adopt {0}` lets the log go on where the table ends; \
             `tarn table detach {0}` leaves the table as it is, for another name in the config",
            config.name
        )))
    }

    fn check_ends(&self, config: &TableConfig, topic: &TopicInfo, lake: &LakeTable) -> Result<()> {
        let ends = self.log.ends(&topic.name)?;
        for (partition, boundary) in boundary_of(&lake.snapshot()).iter() {
            let end = ends.next(partition);
            if end < boundary {
                return Err(Error::invalid(format!(
                    "table `{}` holds partition {partition} of topic `{}` up to offset {boundary}, but the log ends at {end}",
                    config.name, topic.name
                ))
                .with_hint(format!(
                    "was an older copy of the data folder put back? `tarn table adopt {}` lets the log go on where the table ends",
                    config.name
                )));
            }
        }
        Ok(())
    }

    /// Commits the rows that belong to dead letters whose commit came before the process died.
    async fn settle(
        &self,
        config: &TableConfig,
        topic: &TopicInfo,
        format: &TableFormat,
        lake: &LakeTable,
        dead: &LakeTable,
    ) -> Result<()> {
        let boundary = boundary_of(&lake.snapshot());
        let dead_boundary = boundary_of(&dead.snapshot());
        let ahead: Vec<(PartitionId, Offset)> =
            dead_boundary.iter().filter(|(partition, next)| *next > boundary.next(*partition)).collect();
        if ahead.is_empty() {
            return Ok(());
        }
        let settled = dead_offsets(&self.lake, &dead.snapshot(), &boundary).await?;
        let (mut rows, mut late_verdicts) = (Vec::new(), Vec::new());
        for (partition, to) in &ahead {
            let (partition, to, from) = (*partition, *to, boundary.next(*partition));
            let (log, name, format) = (self.log.clone(), topic.name.clone(), format.clone());
            let settled: HashSet<Offset> =
                settled.iter().filter(|(p, _)| *p == partition).map(|(_, o)| *o).collect();
            let decoded =
                blocking(move || decode_range(&log, &name, partition, from, to, &format, &settled)).await?;
            rows.extend(decoded.rows);
            late_verdicts.extend(decoded.dead);
        }
        let schema = lake.snapshot().schema.clone();
        let rows: Vec<RecordBatch> = rows.iter().map(|rows| align(rows, &schema)).collect::<Result<_>>()?;
        if !late_verdicts.is_empty() {
            let files = dead.write(late_verdicts).await?;
            fault::point("lake.dead_letters.before")?;
            dead.commit(Commit { files, operation: "DEAD LETTERS".to_owned(), ..Commit::default() }).await?;
            fault::point("lake.dead_letters.after")?;
        }
        let (snapshot, to) = (lake.snapshot(), ahead.into_iter().collect::<Boundary>());
        // Without them all rows would have to be read for their event times.
        let marks = EventTime::of(config, topic.partitions)
            .map(|time| Times::of(&time, Some(snapshot.as_ref()), &rows).marks(&time, &snapshot, &to))
            .unwrap_or_default();
        let files = lake.write(rows).await?;
        let advances = advances(topic, &snapshot, &to);
        let operation = "SETTLE".to_owned();
        lake.commit(Commit { files, advances, marks, operation, ..Commit::default() }).await?;
        tracing::info!(table = lake.name(), boundary = %to, "settled the rows of dead letters that were committed before a crash");
        Ok(())
    }
}

fn open(
    config: &TableConfig,
    topic: Arc<TopicInfo>,
    format: TableFormat,
    lake: LakeTable,
    dead_letters: LakeTable,
) -> OpenTable {
    let snapshot = lake.snapshot();
    OpenTable {
        config: config.clone(),
        boundary: boundary_of(&snapshot),
        schema: Arc::clone(&snapshot.schema),
        topic,
        format,
        lake,
        dead_letters,
    }
}

struct DecodedRange {
    rows: Vec<RecordBatch>,
    dead: Vec<RecordBatch>,
}

fn decode_range(
    log: &Log,
    topic: &str,
    partition: PartitionId,
    from: Offset,
    to: Offset,
    format: &TableFormat,
    settled: &HashSet<Offset>,
) -> Result<DecodedRange> {
    let mut decoder = Decoder::new(format)?;
    let mut decoded = DecodedRange { rows: Vec::new(), dead: Vec::new() };
    let mut next = from.max(log.starts(topic)?.next(partition));
    while next < to {
        let mut fetch = log.fetch(topic, partition, next, FETCH_BYTES)?;
        if fetch.next == next {
            return Err(Error::corrupt(format!(
                "the log ends at offset {next} of partition {partition}, the dead letters of topic `{topic}` at {to}"
            )));
        }
        let batch = decoder.decode(partition, &fetch.records()?, &|offset| settled.contains(&offset))?;
        decoded.rows.push(slice_rows(&batch.rows, from, to));
        decoded
            .dead
            .extend(batch.dead.map(|dead| slice_rows(&dead, from, to)).filter(|dead| dead.num_rows() > 0));
        next = fetch.next;
    }
    decoded.rows.retain(|rows| rows.num_rows() > 0);
    Ok(decoded)
}

/// The `_offset` column of rows that have the system columns.
pub fn offsets(rows: &RecordBatch) -> &Int64Array {
    let column = rows.column_by_name(OFFSET).expect("rows carry the system columns");
    column.as_any().downcast_ref().expect("`_offset` is BIGINT")
}

/// (partition, offset) of the dead letters at or above `boundary`.
async fn dead_offsets(
    lake: &Lake,
    dead: &LakeSnapshot,
    boundary: &Boundary,
) -> Result<Vec<(PartitionId, Offset)>> {
    let lowest = boundary_of(dead).iter().map(|(partition, _)| boundary.next(partition)).min().unwrap_or(0);
    let mut found = Vec::new();
    for (i, file) in dead.files.iter().enumerate() {
        let max = dead.statistics.max.get(OFFSET).and_then(|max| {
            let max = max.as_any().downcast_ref::<Int64Array>()?;
            max.is_valid(i).then(|| max.value(i))
        });
        if max.is_some_and(|max| max < lowest) {
            continue;
        }
        let unreadable = || Error::unavailable(format!("cannot read `{}`", file.path));
        let got = lake.store().get(&file.path).await.map_err(|error| unreadable().with_source(error))?;
        let bytes = got.bytes().await.map_err(|error| unreadable().with_source(error))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)
            .map_err(|error| unreadable().with_source(error))?;
        let mask = ProjectionMask::columns(builder.parquet_schema(), [PARTITION, OFFSET]);
        let reader =
            builder.with_projection(mask).build().map_err(|error| unreadable().with_source(error))?;
        for rows in reader {
            let rows = rows.map_err(|error| unreadable().with_source(error))?;
            let partitions =
                rows.column_by_name(PARTITION).and_then(|p| p.as_any().downcast_ref::<Int32Array>());
            let partitions =
                partitions.ok_or_else(|| Error::corrupt(format!("`{}` has no `_partition`", file.path)))?;
            let pairs = partitions.values().iter().zip(offsets(&rows).values());
            found.extend(pairs.filter(|(p, o)| !boundary.covers(**p, **o)).map(|(p, o)| (*p, *o)));
        }
    }
    Ok(found)
}

fn properties(
    config: &TableConfig,
    topic: &TopicInfo,
    kind: &str,
    format: &TableFormat,
) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::from([
        (TOPIC_UUID.to_owned(), topic.id.to_string()),
        (TOPIC.to_owned(), topic.name.clone()),
        (KIND.to_owned(), kind.to_owned()),
        (FORMAT.to_owned(), format_property(format)),
    ]);
    if let Some(whole) = &config.part_of {
        properties.insert(PART_OF.to_owned(), whole.clone());
    }
    properties
}

/// The format that the rows of a table were decoded with.
pub fn stored_format(lake: &LakeTable) -> Result<TableFormat> {
    let snapshot = lake.snapshot();
    match snapshot.properties.get(FORMAT) {
        Some(json) => serde_json::from_str::<StoredFormat>(json)
            .map_err(|error| {
                Error::corrupt(format!("property `{FORMAT}` of table `{}` cannot be read", lake.name()))
                    .with_source(error)
            })?
            .into_format(),
        None => Err(Error::invalid(format!(
            "table `{}` was not written by Tarn: it has no property `{FORMAT}`",
            lake.name()
        ))
        .with_hint("choose another name for the table, or another lake")),
    }
}

/// Takes over a changed format: nullable columns may be added; nothing else about columns may change.
async fn evolve(config: &TableConfig, old: &TableFormat, new: &TableFormat, lake: &LakeTable) -> Result<()> {
    if format_property(old) == format_property(new) {
        return Ok(());
    }
    let refuse = |what: String| {
        Err(Error::invalid(format!("table `{}`: {what}", config.name)).with_hint(
            "a table may gain columns that take NULL; for anything else give the new table another name",
        ))
    };
    for column in old.columns.iter() {
        match new.columns.get(&column.name) {
            None => return refuse(format!("column `{}` is gone", column.name)),
            Some(now) if now != column => {
                let of = |c: &tarn_model::columns::Column| {
                    format!("{}{}", c.column_type, if c.nullable { "" } else { " NOT NULL" })
                };
                return refuse(format!("column `{}` was {}, not {}", column.name, of(column), of(now)));
            }
            Some(_) => {}
        }
    }
    let snapshot = lake.snapshot();
    let mut fields: Vec<Arc<Field>> = snapshot.schema.fields().iter().cloned().collect();
    for field in new.schema().fields() {
        if snapshot.schema.field_with_name(field.name()).is_err() {
            if !field.is_nullable() {
                return refuse(format!(
                    "the new column `{}` is NOT NULL, but older rows have no value for it",
                    field.name()
                ));
            }
            fields.push(Arc::clone(field));
        }
    }
    let grown = fields.len() > snapshot.schema.fields().len();
    let schema = grown.then(|| Arc::new(Schema::new(fields)));
    let since = boundary_property(&boundary_of(&snapshot));
    let properties = BTreeMap::from([
        (FORMAT.to_owned(), Some(format_property(new))),
        (FORMAT_SINCE.to_owned(), Some(since)),
    ]);
    lake.commit(Commit { schema, properties, operation: "CHANGE FORMAT".to_owned(), ..Commit::default() })
        .await?;
    tracing::info!(table = %config.name, columns = %new.columns, "format changed");
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::internal("a worker ended before its work").with_source(error)),
    }
}

/// Waits before another try: 100 ms, doubling up to 5 s.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    /// Waits, longer each time.
    pub async fn wait(&mut self) {
        let millis = 100_u64.saturating_mul(1 << self.tries.min(6)).min(5_000);
        self.tries += 1;
        clock::pause(Duration::from_millis(millis)).await;
    }

    /// Starts anew after a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}
