//! The config file: its types, in the shape of the TOML.
//!
//! These types are the reference: docs/config.md is generated from their docs, and an unknown key is compared with their
//! fields. `load` (in `load.rs`) reads a file, replaces `${NAME}` and `${file:PATH}`, and reports every problem at once;
//! what comes out has been validated and its paths are absolute.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record_columns::RecordColumns;

mod check;
mod check_dashboards;
mod check_imports;
mod check_schedule;
mod check_streams;
mod check_topics;
mod dashboards;
mod imports;
mod load;
mod patterns;
mod problem;
mod reference;
mod replace;
mod shape;
mod streams;
#[cfg(test)]
mod tests;
mod units;
mod walk;

pub use dashboards::{
    ChartKind, DashboardConfig, GRID_COLUMNS, Legend, Level, PanelConfig, Reduce, TIME_PLACEHOLDERS,
    ThresholdConfig, VariableConfig,
};
pub use imports::{ImportConfig, ImportMode};
pub use load::Loader;
pub use patterns::{fills, has_place, is_like};
pub use problem::{Problem, Problems};
pub use reference::reference;
pub use streams::{
    CompiledQuery, ExecConfig, ExtractConfig, FieldsConfig, FilterConfig, HashConfig, HeaderConfig,
    HostConfig, InterceptorConfig, KafkaConfig, KafkaStart, KafkaTopics, LineConfig, MaskConfig, MqttConfig,
    MultilineConfig, NetcatConfig, OutOfRange, Partitioning, RateLimitConfig, RecordQuery, RenameConfig,
    ReplaceConfig, RestartPolicy, RouteConfig, SampleConfig, Sasl, SqlConfig, StaticConfig, SyslogConfig,
    TimestampConfig, UuidConfig,
};
pub use units::{ByteSize, Span};

/// A whole config file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder of the log and of everything else that Tarn keeps for itself. One process at a time. Default: `data`.
    #[serde(default = "defaults::data_dir")]
    pub data_dir: PathBuf,
    /// The partitioned log.
    #[serde(default)]
    pub log: LogConfig,
    /// Where tables are written.
    #[serde(default)]
    pub lake: LakeConfig,
    /// The doors to SQL, status and ingestion.
    #[serde(default)]
    pub serving: ServingConfig,
    /// Topics of the log.
    #[serde(default, rename = "topic")]
    pub topics: Vec<TopicConfig>,
    /// Collectors that fill topics.
    #[serde(default, rename = "source")]
    pub sources: Vec<SourceConfig>,
    /// Tables made from topics.
    #[serde(default, rename = "table")]
    pub tables: Vec<TableConfig>,
    /// Tables of databases that `tarn import` brings straight into the lake.
    #[serde(default, rename = "import")]
    pub imports: Vec<ImportConfig>,
    /// Queries with aggregates that are kept up to date.
    #[serde(default, rename = "view")]
    pub views: Vec<ViewConfig>,
    /// Pages of panels that move by themselves.
    #[serde(default, rename = "dashboard")]
    pub dashboards: Vec<DashboardConfig>,
}

/// `[log]`: the partitioned log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// When a record counts as committed. `group`: once it is on disk (one fdatasync serves all appends that wait);
    /// `interval`: at once, synced every `sync_interval`; `none`: at once, synced beside every
    /// 10,000th commit only (survives the process, not the power). Default: `group`.
    pub sync: SyncMode,
    /// Time between two syncs under `sync = "interval"`. Default: `1s`.
    pub sync_interval: Span,
    /// Size at which a segment is closed and the next begun. Default: `128MiB`.
    pub segment_size: ByteSize,
    /// How long records are kept, at least until every table on the topic has them in the lake. Default: `7d`.
    pub retention_time: Span,
    /// Size per partition above which old segments go, once every table on the topic has them. Default: no limit.
    pub retention_size: Option<ByteSize>,
    /// Time between two looks for segments that retention lets go. Default: `30s`.
    pub retention_every: Span,
    /// How record batches of collectors are compressed. Default: `lz4`.
    pub compression: Compression,
    /// Largest record; of a larger one its head and hash are kept and it becomes a dead letter. Default: `1MiB`.
    pub max_record_size: ByteSize,
    /// How long an idempotency key is remembered. Default: `7d`.
    pub idempotency_window: Span,
    /// Address at which the log speaks Kafka's wire protocol, e.g. `127.0.0.1:9092`; port 0 takes a free one. Default: it
    /// does not.
    pub kafka: Option<String>,
    /// Whether a topic that a Kafka client asks for and that is not there is created. Default: `true`.
    pub auto_create_topics: bool,
    /// Partitions of a topic that a Kafka client creates without saying how many. Default: `1`.
    pub default_partitions: i32,
    /// How long an offset is kept after a consumer group has committed it, and after its last member has left. Default: `7d`.
    pub offsets_retention: Span,
}

/// When a record counts as committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SyncMode {
    /// Visible only once synced; one sync serves all that wait.
    #[default]
    Group,
    /// Visible at once, synced on a timer.
    Interval,
    /// Visible at once, synced by the kernel.
    None,
}

/// How record batches are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// DEFLATE.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4 frames.
    #[default]
    Lz4,
    /// Zstandard.
    Zstd,
}

/// `[lake]`: where tables are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LakeConfig {
    /// `file:PATH` or `s3://bucket/prefix`. A table's Delta folder is `<url>/<table>`. Default: `file:data/lake`.
    pub url: String,
    /// Options of the object store, e.g. `endpoint`, `region`, `access_key_id`, `secret_access_key`, `allow_http`.
    pub options: std::collections::BTreeMap<String, Secret>,
    /// Size that small files are merged towards. Default: `128MiB`.
    pub target_file_size: ByteSize,
    /// Number of small files of about one size in a lake partition at which they are merged: a row is rewritten once for each
    /// factor of this many between the size of a commit and the target. Default: `8`.
    pub optimize_after_files: usize,
    /// Number of commits between two Delta checkpoints. Default: `100`.
    pub checkpoint_after_commits: usize,
    /// How long files that no longer belong to a table are kept for readers of older versions. Default: `7d`.
    pub vacuum_retention: Span,
    /// How long Delta commits below a checkpoint are kept. Default: `7d`.
    pub log_retention: Span,
}

/// `[serving]`: the doors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServingConfig {
    /// Address of the HTTP server; port 0 takes a free one. Default: `127.0.0.1:8080`.
    pub http: String,
    /// Address at which SQL is answered over PostgreSQL's wire protocol, e.g. `127.0.0.1:5433`; port 0 takes a free one.
    /// Default: it is not.
    pub postgres: Option<String>,
    /// Memory of one statement. Default: `512MiB`.
    pub statement_memory: ByteSize,
    /// Time after which a statement is cancelled, streaming included. Default: `5m`.
    pub statement_timeout: Span,
    /// Most rows of one answer; a longer one ends with an error. Default: no limit.
    pub statement_rows: Option<u64>,
    /// Memory of all statements together, the tails that they hold on to not counted. Default: `2GiB`.
    pub sql_memory: ByteSize,
    /// Largest body of an ingest request. Default: `16MiB`.
    pub max_request_size: ByteSize,
    /// Memory of all tails together; above it tables commit early and readers wait. Default: `128MiB`.
    pub tail_memory: ByteSize,
    /// Memory of all views' states together, and of one making of states. Beyond it a view is still right, but reads more
    /// from the lake. Default: `128MiB`.
    pub view_memory: ByteSize,
}

/// `[[topic]]`: a topic of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TopicConfig {
    /// Letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Number of partitions. Default: `1`.
    #[serde(default = "defaults::partitions")]
    pub partitions: i32,
    /// Overrides `log.retention_time`.
    #[serde(default)]
    pub retention_time: Option<Span>,
    /// Overrides `log.retention_size`.
    #[serde(default)]
    pub retention_size: Option<ByteSize>,
}

/// `[[source]]`: a collector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SourceConfig {
    /// Name under which its positions are kept: renaming a source makes it read everything again.
    pub name: String,
    /// Topic that it fills. A `database` source that reads several tables may use `{table}` in it, a `kafka` source `{topic}`.
    pub topic: String,
    /// Field of the record that becomes its key, and by its hash chooses the partition. Default: no key, and partitions
    /// take turns.
    #[serde(default)]
    pub key: Option<String>,
    /// What is done to its records, in this order. Default: nothing.
    #[serde(default, rename = "interceptor")]
    pub interceptors: Vec<InterceptorConfig>,
    /// How fast it may be. Default: as fast as the log takes it.
    #[serde(default)]
    pub rate_limit: Option<RateLimitConfig>,
    /// Other topics that records go to. Default: none.
    #[serde(default, rename = "route")]
    pub routes: Vec<RouteConfig>,
    /// What it is; each type has its own keys.
    #[serde(flatten)]
    pub kind: SourceKind,
}

impl SourceConfig {
    /// Every topic that it fills.
    pub fn topics(&self) -> impl Iterator<Item = &str> + Clone {
        std::iter::once(self.topic.as_str()).chain(self.routes.iter().map(|route| route.topic.as_str()))
    }

    /// The source after whose runs it runs.
    pub fn after(&self) -> Option<&str> {
        match &self.kind {
            SourceKind::Database(database) => database.after.as_deref(),
            _ => None,
        }
    }
}

/// What a source is, by its `type`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SourceKind {
    /// Files that are complete when they appear in a folder.
    Spooldir(SpooldirConfig),
    /// Files that grow.
    Taildir(TaildirConfig),
    /// `POST /v1/ingest/{topic}`.
    Http(HttpConfig),
    /// Tables of a database.
    Database(DatabaseConfig),
    /// Messages of RFC 3164 and RFC 5424.
    Syslog(SyslogConfig),
    /// Lines over TCP, datagrams over UDP.
    Netcat(NetcatConfig),
    /// The lines that a command writes.
    Exec(ExecConfig),
    /// Messages of an MQTT broker.
    Mqtt(MqttConfig),
    /// Topics of another Kafka cluster.
    Kafka(KafkaConfig),
    /// Made-up shop orders and clicks.
    Generator(GeneratorConfig),
}

impl SourceKind {
    /// Its `type`.
    pub fn name(&self) -> &'static str {
        match self {
            SourceKind::Spooldir(_) => "spooldir",
            SourceKind::Taildir(_) => "taildir",
            SourceKind::Http(_) => "http",
            SourceKind::Database(_) => "database",
            SourceKind::Syslog(_) => "syslog",
            SourceKind::Netcat(_) => "netcat",
            SourceKind::Exec(_) => "exec",
            SourceKind::Mqtt(_) => "mqtt",
            SourceKind::Kafka(_) => "kafka",
            SourceKind::Generator(_) => "generator",
        }
    }
}

/// `type = "spooldir"`: files that are complete when they appear in a folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SpooldirConfig {
    /// The folder; made at start when it is not there.
    pub path: PathBuf,
    /// Only files whose name matches, e.g. `*.csv.gz`. Default: `*`. Names that start with a dot are never read.
    #[serde(default = "defaults::any")]
    pub pattern: String,
    /// How the files are written; `.gz` and `.zst` are unpacked by their first bytes.
    pub format: FileFormat,
    /// How the CSV is written.
    #[serde(flatten)]
    pub csv: CsvConfig,
    /// How lines become records.
    #[serde(flatten)]
    pub lines: LineConfig,
    /// What happens to a file that is in the log. Default: `rename`.
    #[serde(default)]
    pub done: DoneAction,
    /// Suffix for `done = "rename"`. Default: `.done`.
    #[serde(default = "defaults::done_suffix")]
    pub done_suffix: String,
    /// Folder for `done = "move"`, on the same file system.
    #[serde(default)]
    pub done_path: Option<PathBuf>,
    /// Time between two looks into the folder. Default: `1s`.
    #[serde(default = "defaults::one_second")]
    pub every: Span,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// Comma-separated values; each record is a JSON object of strings, keyed by the header.
    Csv,
    /// One JSON object a line.
    Ndjson,
    /// Plain lines; the table's column `line` holds them.
    Lines,
    /// Lines that fit `regex`; its named groups are the fields.
    Regex,
    /// Lines that fit the pattern `grok`; its named parts are the fields.
    Grok,
    /// NCSA's common log format: `host`, `ident`, `user`, `time`, `request`, `method`, `path`, `protocol`, `status`, `size`.
    Common,
    /// The combined format of Apache and nginx: the same, `referer` and `agent`.
    Combined,
    /// `key=value` pairs.
    Logfmt,
    /// Messages of RFC 3164 and RFC 5424: `priority`, `facility`, `severity`, `time`, `host`, `app`, `pid`, `msgid`, `data`,
    /// `message`.
    Syslog,
    /// Avro's object container files; each row is a JSON object.
    Avro,
    /// Parquet files; each row is a JSON object.
    Parquet,
}

/// How a CSV file is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CsvConfig {
    /// Cells that mean NULL. Default: `[""]`.
    #[serde(default = "defaults::null_values")]
    pub null_values: Vec<String>,
    /// What stands between cells, one ASCII character. Default: `,`.
    #[serde(default = "defaults::comma")]
    pub delimiter: String,
    /// `true`: the first line holds the names; a list: these are the names and the first line is data. Default: `true`.
    #[serde(default)]
    pub header: CsvHeader,
}

/// Where a CSV file's column names come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum CsvHeader {
    /// `true`: the first line; `false`: `c1`, `c2`, ...
    FirstLine(bool),
    /// These names.
    Names(Vec<String>),
}

/// What happens to a spool file that is in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DoneAction {
    /// It gets `done_suffix`.
    #[default]
    Rename,
    /// It goes to `done_path`.
    Move,
}

/// `type = "taildir"`: files that grow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaildirConfig {
    /// Files to follow, with `*`, `?`, `[...]` and `**`.
    pub path: PathBuf,
    /// How a line is written; not `csv`. Default: `lines`.
    #[serde(default = "defaults::lines")]
    pub format: FileFormat,
    /// How lines become records.
    #[serde(flatten)]
    pub lines: LineConfig,
    /// Where a file that was not seen before is begun: `start` or `end`. Default: `start`.
    #[serde(default)]
    pub from: TailFrom,
    /// Time between two looks for new lines. Default: `250ms`.
    #[serde(default = "defaults::quarter_second")]
    pub every: Span,
}

/// Where a new file is begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TailFrom {
    /// At its first byte.
    #[default]
    Start,
    /// At its end, for the files that are there when the source first runs.
    End,
}

/// `type = "http"`: `POST /v1/ingest/{topic}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HttpConfig {
    /// What a body is. Default: `records`.
    #[serde(default)]
    pub body: BodyKind,
    /// How a record is written; not `csv`. `ndjson` takes a JSON array, too. Default: `ndjson`.
    #[serde(default = "defaults::ndjson")]
    pub format: FileFormat,
    /// How lines become records; without `multiline`.
    #[serde(flatten)]
    pub lines: LineConfig,
}

impl Default for HttpConfig {
    fn default() -> HttpConfig {
        HttpConfig { body: BodyKind::Records, format: FileFormat::Ndjson, lines: LineConfig::default() }
    }
}

/// What the body of a push is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BodyKind {
    /// Records, one a line.
    #[default]
    Records,
    /// One record, as it is.
    Whole,
    /// One record: the fields of an HTML form, `a=1&b=2`, as an object of strings; a name that is there more than once has an
    /// array of them.
    Form,
}

/// `type = "database"`: tables of a database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DatabaseConfig {
    /// `sqlite:PATH`, `postgres://USER@HOST:PORT/DATABASE` or `mysql://USER@HOST:PORT/DATABASE` (MySQL and MariaDB); the latter two
    /// with `?sslmode=verify-full` (the default, but for this machine) or `?sslmode=disable`, and `sslrootcert=FILE`.
    pub url: Secret,
    /// Password for PostgreSQL or MySQL, instead of one in `url`: `"${PG_PASSWORD}"`, `"${file:/run/secrets/pg}"`. Default: none.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Table to read, `*` for every table (then `topic` needs `{table}`). PostgreSQL's are found by the search path, or as
    /// `schema.table`, MySQL's in the database of `url`, or as `database.table`. Either this or `query`.
    #[serde(default)]
    pub table: Option<String>,
    /// With `table = "*"`: only tables whose name fits one of these, with `*` for anything, e.g. `["sales.*"]`. Default: all.
    #[serde(default)]
    pub include: Vec<String>,
    /// With `table = "*"`: no table whose name fits one of these. Default: none.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Columns of `table` to read. Default: all.
    #[serde(default)]
    pub columns: Vec<String>,
    /// Condition of the rows of `table` to read, in the database's SQL: `"amount > 0"`. Default: all rows.
    #[serde(default, rename = "where")]
    pub filter: Option<String>,
    /// Query to read.
    #[serde(default)]
    pub query: Option<String>,
    /// `full`: everything, again at each run of a schedule, once and for all without one; `append`: only new rows;
    /// `last_modified`: new and changed rows. Default: `full`.
    #[serde(default)]
    pub mode: DatabaseMode,
    /// Column of SQLite (or its `rowid`) or of MySQL that grows with new rows, or with changes. Rows where it is NULL are not read;
    /// the source's last error tells of them. PostgreSQL tells new rows by itself and takes no cursor.
    #[serde(default)]
    pub cursor: Option<String>,
    /// With a `cursor` of MySQL: how long a row may take from getting its cursor to being committed, where the server does not show
    /// its transactions; a run takes at least so long. Default: `5s`.
    #[serde(default)]
    pub lag: Option<Span>,
    /// Column of `table` by whose values several readers share the rows of a `full` run, all on one snapshot: a number, a date, a
    /// timestamp, text or a uuid. MySQL's need the privilege `LOCK TABLES`. Default: one reader.
    #[serde(default)]
    pub split_by: Option<String>,
    /// With `split_by`: connections that read side by side, 2 to 64. Default: `4`.
    #[serde(default)]
    pub readers: Option<u8>,
    /// Time between two runs. Default: one run.
    #[serde(default)]
    pub every: Option<Span>,
    /// Cron expression of the runs (minute, hour, day, month, weekday; UTC), instead of `every`.
    #[serde(default)]
    pub cron: Option<String>,
    /// Another `database` source: a run follows each of its runs that is done, instead of `every` and `cron`. Runs that were done while
    /// this source was busy or away are followed by one.
    #[serde(default)]
    pub after: Option<String>,
}

/// What a run of a database source reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DatabaseMode {
    /// Everything, each time.
    #[default]
    Full,
    /// Only new rows: above the last cursor, or written since.
    Append,
    /// New and changed rows.
    LastModified,
}

impl DatabaseConfig {
    /// Whether it is a PostgreSQL server.
    pub fn is_postgres(&self) -> bool {
        let url = self.url.reveal();
        url.starts_with("postgres://") || url.starts_with("postgresql://")
    }

    /// Whether it is a server of MySQL or MariaDB.
    pub fn is_mysql(&self) -> bool {
        let url = self.url.reveal();
        url.starts_with("mysql://") || url.starts_with("mariadb://")
    }

    /// How many connections read a table that is split.
    pub fn readers(&self) -> usize {
        self.readers.unwrap_or(4).into()
    }

    /// How long a row of MySQL may take to be committed.
    pub fn lag(&self) -> Span {
        self.lag.unwrap_or(Span::from_millis(5_000))
    }
}

/// `type = "generator"`: made-up shop orders and clicks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GeneratorConfig {
    /// `orders` or `clicks`. Default: `orders`.
    #[serde(default)]
    pub stream: GeneratorStream,
    /// Records per second; 0 is as fast as they can be made. Default: `100`.
    #[serde(default = "defaults::rate")]
    pub rate: u64,
    /// Number of records after which it ends. Default: it does not end.
    #[serde(default)]
    pub count: Option<u64>,
    /// The same seed makes the same records. Default: `42`.
    #[serde(default = "defaults::seed")]
    pub seed: u64,
}

/// What a generator makes up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GeneratorStream {
    /// Orders of a shop.
    #[default]
    Orders,
    /// Clicks on its pages.
    Clicks,
}

/// `[[table]]`: a table made from a topic, or one for each of many topics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableConfig {
    /// Its name in SQL and its folder in the lake; `<name>_dead_letters` is taken too. With `{table}` in it, this is one
    /// table for each topic that fits `topic`, whenever it appears, but for topics that another `[[table]]` names; what
    /// stands for `{table}` is then in lower case, and `_` for what a table's name cannot hold.
    pub name: String,
    /// The topic; with `{table}` in it where `name` has it. Default: the table's name.
    #[serde(default)]
    pub topic: Option<String>,
    /// Many topics instead of one: a name with `*` once, e.g. `shop.*`. In SQL this is one table with the column `_topic`
    /// first; in the lake each topic that fits, whenever it appears, is a table of its own, `<name>_<what stands for *>`, so
    /// each topic's rows are committed with that topic's offsets. Needs `columns`, which they all share.
    #[serde(default)]
    pub topics: Option<String>,
    /// Columns with their SQL types, e.g. `"id BIGINT NOT NULL, price DECIMAL(10,2)"`. Default: inferred from the first
    /// 10,000 records.
    #[serde(default)]
    pub columns: Option<String>,
    /// Column that holds the record's key, as text, or as bytes where `columns` has it as `BINARY`. Default: none.
    #[serde(default)]
    pub key_column: Option<String>,
    /// Column that holds the record's headers, as a JSON object of strings; of headers of one name it shows all, in order.
    /// Default: none.
    #[serde(default)]
    pub headers_column: Option<String>,
    /// Column that holds the record's timestamp, beside `_timestamp`, which every table has. Default: none.
    #[serde(default)]
    pub timestamp_column: Option<String>,
    /// Columns by whose values the lake's files are kept apart. Default: none.
    #[serde(default)]
    pub partition_by: Vec<String>,
    /// Longest time that a row stays out of the lake. Default: `10s`.
    #[serde(default = "defaults::commit_every")]
    pub commit_every: Span,
    /// Decoded size of rows at which a commit comes early. Default: `64MiB`.
    #[serde(default = "defaults::commit_size")]
    pub commit_size: ByteSize,
    /// What happens to fields that the columns lack. Default: `keep`.
    #[serde(default)]
    pub unknown_fields: UnknownFields,
    /// Zone of timestamps that name none, e.g. `Europe/Berlin`. Default: `UTC`.
    #[serde(default)]
    pub timezone: Option<String>,
    /// The `TIMESTAMP` column that says when what a row tells of happened, for the table's watermark. Default: none, and the
    /// table has no watermark.
    #[serde(default)]
    pub event_time: Option<String>,
    /// How far the watermark stays behind the newest event. Default: `0ms`.
    #[serde(default = "defaults::no_time")]
    pub allowed_lateness: Span,
    /// A partition whose newest event is older than the table's newest by more than this is idle: it does not hold the
    /// watermark back any further. Default: `1m`.
    #[serde(default = "defaults::idle_after")]
    pub idle_after: Span,
    /// The table of many topics that this one, made of one of them, is a part of.
    #[serde(skip)]
    pub part_of: Option<String>,
}

impl TableConfig {
    /// The topic that the table is made from.
    pub fn topic_name(&self) -> &str {
        self.topic.as_deref().unwrap_or(&self.name)
    }

    /// The columns that hold parts of its records.
    pub fn record_columns(&self) -> RecordColumns {
        RecordColumns {
            key: self.key_column.clone(),
            headers: self.headers_column.clone(),
            timestamp: self.timestamp_column.clone(),
        }
    }

    /// The name of its dead-letter table.
    pub fn dead_letters_name(&self) -> String {
        format!("{}_dead_letters", self.name)
    }
}

/// What happens to fields that a table's columns lack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownFields {
    /// They go to the JSON column `_rest`.
    #[default]
    Keep,
    /// They are dropped.
    Drop,
    /// The record is a dead letter.
    DeadLetter,
}

/// `[[view]]`: a query that is kept up to date.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ViewConfig {
    /// Its name in SQL; no table has it.
    pub name: String,
    /// A `SELECT` over tables, whose functions depend on nothing but their arguments. One with aggregates over one table is
    /// kept as states, anything else is run over the rows each time; `EXPLAIN VIEW name` says which, and why.
    pub query: String,
    /// Time that a window stays open after its end: a row that comes for it later is counted as late (and is in the answer all
    /// the same). Default: `0ms`.
    #[serde(default = "defaults::no_time")]
    pub grace: Span,
}

/// A text that may hold a secret: never printed.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself; for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[secret]")
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

mod defaults {
    use super::{ByteSize, FileFormat, Span};

    pub(super) fn data_dir() -> std::path::PathBuf {
        "data".into()
    }
    pub(super) fn partitions() -> i32 {
        1
    }
    pub(super) fn any() -> String {
        "*".into()
    }
    pub(super) fn done_suffix() -> String {
        ".done".into()
    }
    pub(super) fn one_second() -> Span {
        Span::from_millis(1000)
    }
    pub(super) fn quarter_second() -> Span {
        Span::from_millis(250)
    }
    pub(super) fn null_values() -> Vec<String> {
        vec![String::new()]
    }
    pub(super) fn comma() -> String {
        ",".into()
    }
    pub(super) fn lines() -> FileFormat {
        FileFormat::Lines
    }
    pub(super) fn ndjson() -> FileFormat {
        FileFormat::Ndjson
    }
    pub(super) fn rate() -> u64 {
        100
    }
    pub(super) fn seed() -> u64 {
        42
    }
    pub(super) fn no_time() -> Span {
        Span::from_millis(0)
    }
    pub(super) fn idle_after() -> Span {
        Span::from_millis(60_000)
    }
    pub(super) fn commit_every() -> Span {
        Span::from_millis(10_000)
    }
    pub(super) fn commit_size() -> ByteSize {
        ByteSize::mib(64)
    }
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            sync: SyncMode::Group,
            sync_interval: Span::from_millis(1000),
            segment_size: ByteSize::mib(128),
            retention_time: Span::from_days(7),
            retention_size: None,
            retention_every: Span::from_millis(30_000),
            compression: Compression::Lz4,
            max_record_size: ByteSize::mib(1),
            idempotency_window: Span::from_days(7),
            kafka: None,
            auto_create_topics: true,
            default_partitions: 1,
            offsets_retention: Span::from_days(7),
        }
    }
}

impl Default for LakeConfig {
    fn default() -> LakeConfig {
        LakeConfig {
            url: "file:data/lake".into(),
            options: std::collections::BTreeMap::new(),
            target_file_size: ByteSize::mib(128),
            optimize_after_files: 8,
            checkpoint_after_commits: 100,
            vacuum_retention: Span::from_days(7),
            log_retention: Span::from_days(7),
        }
    }
}

impl Default for ServingConfig {
    fn default() -> ServingConfig {
        ServingConfig {
            http: "127.0.0.1:8080".into(),
            postgres: None,
            statement_memory: ByteSize::mib(512),
            statement_timeout: Span::from_millis(300_000),
            statement_rows: None,
            sql_memory: ByteSize::mib(2048),
            max_request_size: ByteSize::mib(16),
            tail_memory: ByteSize::mib(128),
            view_memory: ByteSize::mib(128),
        }
    }
}

impl Default for CsvHeader {
    fn default() -> CsvHeader {
        CsvHeader::FirstLine(true)
    }
}

impl Default for CsvConfig {
    fn default() -> CsvConfig {
        CsvConfig {
            null_values: defaults::null_values(),
            delimiter: defaults::comma(),
            header: CsvHeader::default(),
        }
    }
}
