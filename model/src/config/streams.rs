//! What sources of lines have in common, and what is done to records on their way into the log: formats, multi-line
//! records, interceptors, routes; and the sources that listen or run a command.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ByteSize, FileFormat, Secret, SourceConfig, Span};

/// How lines become records.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LineConfig {
    /// `format = "regex"`: the regular expression that a line fits; its named groups are the fields, e.g.
    /// `'^(?<host>\S+) (?<message>.*)$'`.
    #[serde(default)]
    pub regex: Option<String>,
    /// `format = "grok"`: the pattern that a line fits, made of named parts, e.g.
    /// `'%{TIMESTAMP_ISO8601:time} %{LOGLEVEL:level} %{NUMBER:ms:float} %{GREEDYDATA:message}'`.
    #[serde(default)]
    pub grok: Option<String>,
    /// Patterns of one's own for `grok`, by name, e.g. `{ ORDER = 'A-%{INT}' }`; they come before the known ones.
    #[serde(default)]
    pub patterns: BTreeMap<String, String>,
    /// Field that keeps the line as it came, beside the fields that its format gives. Default: none.
    #[serde(default)]
    pub raw_field: Option<String>,
    /// Several lines that are one record. Default: each line is one.
    #[serde(default)]
    pub multiline: Option<MultilineConfig>,
}

/// `[source.multiline]`: several lines that are one record, joined before their format is applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MultilineConfig {
    /// Regular expression: a line that fits begins a record, the others continue the one before. Either this or
    /// `continuation`.
    #[serde(default)]
    pub start: Option<String>,
    /// Regular expression: a line that fits continues the record before it, the others begin one.
    #[serde(default)]
    pub continuation: Option<String>,
    /// Time without another line after which a record is complete. Default: `2s`.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// Size beyond which a record is not continued: the next line begins another one. Default: `256KiB`.
    #[serde(default = "max_size")]
    pub max_size: ByteSize,
}

fn timeout() -> Span {
    Span::from_millis(2000)
}

fn max_size() -> ByteSize {
    ByteSize(256 << 10)
}

/// `[source.rate_limit]`: how fast a source may be, at least one of these. What counts goes into the log: records after interceptors
/// and routes, and their bytes before compression. A second's worth may come at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitConfig {
    /// Records a second. Default: no limit.
    #[serde(default)]
    pub records_per_second: Option<u64>,
    /// Bytes a second, e.g. `1MiB`. Default: no limit.
    #[serde(default)]
    pub bytes_per_second: Option<ByteSize>,
}

/// `[[source.interceptor]]`: what is done to each record before it goes into the log, in the order of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum InterceptorConfig {
    /// The record's time is what a field says.
    Timestamp(TimestampConfig),
    /// A field with this machine's name.
    Host(HostConfig),
    /// Fields that are always the same.
    Static(StaticConfig),
    /// A field with what a header says: `file` and `line`, or `peer`.
    Header(HeaderConfig),
    /// A field with an identity.
    Uuid(UuidConfig),
    /// No fields but these.
    Keep(FieldsConfig),
    /// No such fields.
    Remove(FieldsConfig),
    /// Fields with other names.
    Rename(RenameConfig),
    /// Only records whose field fits, or does not; the others are counted as dropped.
    Filter(FilterConfig),
    /// Fields from the named groups of a regular expression.
    Extract(ExtractConfig),
    /// Search and replace in a field.
    Replace(ReplaceConfig),
    /// Stars in place of what a field says.
    Mask(MaskConfig),
    /// A keyed hash in place of what a field says: equal values stay equal, and nobody can tell what they were.
    Hash(HashConfig),
    /// A share of the records; the others are counted as dropped.
    Sample(SampleConfig),
    /// What a SQL query makes of the record; those that its `WHERE` does not let pass are counted as dropped.
    Sql(SqlConfig),
}

/// `type = "timestamp"`: the record's time is what a field says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TimestampConfig {
    /// The field; it stays.
    pub field: String,
    /// How the field is written: `rfc3339` (a time without an offset is one of `timezone`), `unix`, `unix_ms`, or strftime's
    /// letters, e.g. `%d/%m/%Y %H:%M:%S`. Default: `rfc3339`.
    #[serde(default = "rfc3339")]
    pub format: String,
    /// Zone of a time that names none. Default: `UTC`.
    #[serde(default)]
    pub timezone: Option<String>,
}

fn rfc3339() -> String {
    "rfc3339".into()
}

/// `type = "host"`: a field with this machine's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostConfig {
    /// The field. Default: `host`.
    #[serde(default = "host")]
    pub field: String,
    /// Whether a field that is there already gets another value. Default: `false`.
    #[serde(default)]
    pub overwrite: bool,
}

fn host() -> String {
    "host".into()
}

/// `type = "static"`: fields that are always the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StaticConfig {
    /// Their names and values.
    pub fields: BTreeMap<String, String>,
    /// Whether a field that is there already gets another value. Default: `false`.
    #[serde(default)]
    pub overwrite: bool,
}

/// `type = "header"`: a field with what a header says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HeaderConfig {
    /// The header: `file` and `line` of sources that read files, `peer` of those that listen, `topic` of `mqtt` and `kafka`.
    pub header: String,
    /// The field. Default: the header's name.
    #[serde(default)]
    pub field: Option<String>,
}

/// `type = "uuid"`: a field with an identity. Where a source can be read again, it depends on source, place and content only,
/// so a record that is made twice has the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UuidConfig {
    /// The field. Default: `id`.
    #[serde(default = "id")]
    pub field: String,
    /// Whether a field that is there already gets another value. Default: `false`.
    #[serde(default)]
    pub overwrite: bool,
}

fn id() -> String {
    "id".into()
}

/// Names of fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FieldsConfig {
    /// Their names.
    pub fields: Vec<String>,
}

/// `type = "rename"`: fields with other names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RenameConfig {
    /// From the old name to the new one, e.g. `{ msg = "message" }`. A field that has the new name already is replaced.
    pub fields: BTreeMap<String, String>,
}

/// `type = "filter"`: only records whose field fits, or does not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FilterConfig {
    /// The field; one that is missing or null does not fit.
    pub field: String,
    /// The regular expression.
    pub regex: String,
    /// Whether records that fit are dropped, instead of those that do not. Default: `false`.
    #[serde(default)]
    pub drop: bool,
}

/// `type = "extract"`: fields from the named groups of a regular expression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExtractConfig {
    /// The field that is searched; it stays.
    pub field: String,
    /// The regular expression, e.g. `'rhost=(?<rhost>\S+)'`.
    pub regex: String,
    /// Whether a record that does not fit is a dead letter; otherwise it passes as it is. Default: `false`.
    #[serde(default)]
    pub required: bool,
}

/// `type = "replace"`: search and replace in a field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReplaceConfig {
    /// The field.
    pub field: String,
    /// What is searched, everywhere in the field.
    pub regex: String,
    /// What stands there instead; `$1` and `${name}` are groups.
    pub with: String,
}

/// `type = "mask"`: stars in place of what fields say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MaskConfig {
    /// The fields.
    pub fields: Vec<String>,
    /// How many characters at the end stay, if at least as many are masked. Default: `0`.
    #[serde(default)]
    pub keep_last: u32,
}

/// `type = "hash"`: a keyed hash (HMAC-SHA-256, 32 hexadecimal digits of it) in place of what fields say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HashConfig {
    /// The fields.
    pub fields: Vec<String>,
    /// The key of the hash: without it a value that can be guessed (a telephone number, an address) could be found.
    pub secret: Secret,
}

/// `type = "sample"`: a share of the records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SampleConfig {
    /// Share that stays, 0 to 1.
    pub share: f64,
}

/// `type = "sql"`: what a SQL query makes of the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SqlConfig {
    /// `SELECT ... FROM batch`, with or without a `WHERE`, over one record at a time: its fields are columns, all of them text. `*` keeps the
    /// fields that the query does not make itself. E.g. `SELECT *, CAST(ms AS DOUBLE) / 1000 AS seconds FROM batch WHERE level <> 'DEBUG'`.
    pub query: String,
    /// The query, once who has an engine has compiled it.
    #[serde(skip)]
    pub compiled: CompiledQuery,
}

/// A query over one record. Whoever has a SQL engine makes them, collectors run them.
pub trait RecordQuery: Send + Sync + std::fmt::Debug {
    /// The fields that it looks at.
    fn inputs(&self) -> &[String];

    /// Whether the record's fields stay, but for those that the query makes.
    fn keeps_fields(&self) -> bool;

    /// Writes what it makes of a record, whose [`RecordQuery::inputs`] say `texts`, as a JSON object in place of what is in `out`; `false`
    /// when the record does not pass. The error says why it is a dead letter.
    fn run(&self, texts: &[Option<&str>], out: &mut Vec<u8>) -> Result<bool, String>;
}

/// A query that was compiled, or not yet: what its text says is what it is.
#[derive(Debug, Clone, Default)]
pub struct CompiledQuery(Option<Arc<dyn RecordQuery>>);

impl CompiledQuery {
    /// Keeps it.
    pub fn set(&mut self, query: Arc<dyn RecordQuery>) {
        self.0 = Some(query);
    }

    /// It, if it was compiled.
    pub fn get(&self) -> Option<&Arc<dyn RecordQuery>> {
        self.0.as_ref()
    }
}

impl PartialEq for CompiledQuery {
    fn eq(&self, _: &CompiledQuery) -> bool {
        true
    }
}

/// `[[source.route]]`: records that go to another topic than the source's. Routes are tried in the order of the file; a
/// record that none takes goes to the source's `topic`, and so does whatever becomes a dead letter on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// The topic.
    pub topic: String,
    /// Field that decides, with `values` or `regex`. Default: every record is taken.
    #[serde(default)]
    pub field: Option<String>,
    /// Header that decides, instead of a field.
    #[serde(default)]
    pub header: Option<String>,
    /// What it says: one of these.
    #[serde(default)]
    pub values: Vec<String>,
    /// What it says: something that fits this regular expression.
    #[serde(default)]
    pub regex: Option<String>,
    /// Share of these records that is taken, 0 to 1. Default: `1.0`.
    #[serde(default = "all")]
    pub sample: f64,
    /// Whether the record goes on to the next route as well, and at last to the source's topic. Default: `false`.
    #[serde(default)]
    pub copy: bool,
}

fn all() -> f64 {
    1.0
}

/// `type = "syslog"`: messages of RFC 3164 and RFC 5424.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SyslogConfig {
    /// Address to listen at for TCP, e.g. `127.0.0.1:5514`; port 0 takes a free one. Messages end at a line break, or begin
    /// with their length (RFC 6587).
    #[serde(default)]
    pub tcp: Option<String>,
    /// Address to listen at for UDP; each datagram is a message.
    #[serde(default)]
    pub udp: Option<String>,
    /// Field that keeps the message as it came, beside what is in it. Default: none.
    #[serde(default)]
    pub raw_field: Option<String>,
    /// Connections at once; more wait. Default: `256`.
    #[serde(default = "connections")]
    pub max_connections: u32,
    /// Memory that the kernel is asked for, for datagrams that wait. Default: `4MiB`.
    #[serde(default = "receive_buffer")]
    pub receive_buffer: ByteSize,
}

/// `type = "netcat"`: lines over TCP, datagrams over UDP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NetcatConfig {
    /// Address to listen at for TCP, e.g. `127.0.0.1:6666`; port 0 takes a free one.
    #[serde(default)]
    pub tcp: Option<String>,
    /// Address to listen at for UDP; the lines of a datagram are records.
    #[serde(default)]
    pub udp: Option<String>,
    /// How a line is written; not `csv`. Default: `lines`.
    #[serde(default = "super::defaults::lines")]
    pub format: FileFormat,
    /// How lines become records.
    #[serde(flatten)]
    pub lines: LineConfig,
    /// Whether each connection is told `OK` for a line that is in the log. Default: `false`.
    #[serde(default)]
    pub acknowledge: bool,
    /// Connections at once; more wait. Default: `256`.
    #[serde(default = "connections")]
    pub max_connections: u32,
    /// Memory that the kernel is asked for, for datagrams that wait. Default: `4MiB`.
    #[serde(default = "receive_buffer")]
    pub receive_buffer: ByteSize,
}

fn connections() -> u32 {
    256
}

fn receive_buffer() -> ByteSize {
    ByteSize::mib(4)
}

/// `type = "exec"`: the lines that a command writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExecConfig {
    /// The program and its arguments, e.g. `["journalctl", "-f", "-o", "json"]`; no shell reads them.
    pub command: Vec<String>,
    /// How a line is written; not `csv`. Default: `lines`.
    #[serde(default = "super::defaults::lines")]
    pub format: FileFormat,
    /// How lines become records.
    #[serde(flatten)]
    pub lines: LineConfig,
    /// When the command is started again after it has ended. Default: `always`.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Time before it is started again; after failures twice as long each time, up to a minute. Default: `1s`.
    #[serde(default = "super::defaults::one_second")]
    pub restart_after: Span,
}

/// When a command is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// However it ended.
    #[default]
    Always,
    /// When it ended with another code than 0, or by a signal.
    OnFailure,
    /// Not at all: a failure ends the source.
    Never,
}

/// `type = "mqtt"`: messages of an MQTT broker (protocol 3.1.1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MqttConfig {
    /// Where the broker listens, e.g. `127.0.0.1:1883`.
    pub broker: String,
    /// Filters of the MQTT topics, e.g. `["sensors/+/celsius", "alarms/#"]`.
    pub subscribe: Vec<String>,
    /// Highest quality of service that is asked for: 0 (at most once), 1 (at least once), 2 (exactly once). A message has that
    /// of its sender, if it is lower. Default: `1`.
    #[serde(default = "at_least_once")]
    pub qos: u8,
    /// Name of the session that the broker keeps; no two clients may have one. Default: `tarn-` and the source's name.
    #[serde(default)]
    pub client_id: Option<String>,
    /// Who asks.
    #[serde(default)]
    pub user: Option<String>,
    /// The user's password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Whether to speak TLS with the broker, whose certificate must be trusted and be of the host of `broker`. Default: `false`.
    #[serde(default)]
    pub tls: bool,
    /// A file with the certificates (PEM) that are trusted instead of the system's; with `tls`.
    #[serde(default)]
    pub tls_ca: Option<PathBuf>,
    /// Time without a message after which both sides make sure that the other is there. Default: `30s`.
    #[serde(default = "keep_alive")]
    pub keep_alive: Span,
    /// How a message is written; not `csv`. Default: `ndjson`.
    #[serde(default = "super::defaults::ndjson")]
    pub format: FileFormat,
    /// How messages become records; without `multiline`.
    #[serde(flatten)]
    pub lines: LineConfig,
}

fn at_least_once() -> u8 {
    1
}

fn keep_alive() -> Span {
    Span::from_millis(30_000)
}

impl MqttConfig {
    /// The session's name, for the source of this name.
    pub fn session_name(&self, source: &str) -> String {
        self.client_id.clone().unwrap_or_else(|| format!("tarn-{source}"))
    }
}

/// `type = "kafka"`: topics of another Kafka cluster, record by record: as they are there (key, value, headers, timestamp), or with
/// their values taken apart by a format, interceptors and routes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KafkaConfig {
    /// Brokers to ask first, e.g. `10.0.0.1:9092,10.0.0.2:9092`; they name the others.
    pub brokers: String,
    /// Topics to read: a name, or a list of them, with `*` for anything, e.g. `"shop.*"`. Topics and partitions that appear later are
    /// read as well. With several topics, `topic` needs `{topic}`, which stands for the name.
    pub topics: KafkaTopics,
    /// Where the partitions that are there when the source first runs are begun: `earliest` or `latest`. Later ones are read from
    /// their first record. Default: `earliest`.
    #[serde(default)]
    pub start: KafkaStart,
    /// What happens when the next record is not there any more, because the other cluster let it go or made the topic anew: `fail`,
    /// or `earliest`, go on with the first that is there, and say which are missing. Default: `fail`.
    #[serde(default)]
    pub out_of_range: OutOfRange,
    /// Which partition a record goes to: that of the same number (`kept`), or that of its key (`by_key`). Default: `kept`.
    #[serde(default)]
    pub partitioning: Partitioning,
    /// Time between two looks for new topics and partitions. Default: `30s`.
    #[serde(default = "keep_alive")]
    pub look_every: Span,
    /// Whether to speak TLS with the brokers, whose certificates must be trusted and be of the hosts that they say they are.
    /// Default: `false`.
    #[serde(default)]
    pub tls: bool,
    /// A file with the certificates (PEM) that are trusted instead of the system's; with `tls`.
    #[serde(default)]
    pub tls_ca: Option<PathBuf>,
    /// Who logs in.
    #[serde(default)]
    pub user: Option<String>,
    /// The user's password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// How the user logs in: `scram-sha-512`, `scram-sha-256`, or `plain`, which says the password itself and so goes over TLS, or
    /// to this machine, only. Default: `scram-sha-512`.
    #[serde(default)]
    pub sasl: Sasl,
    /// How a record's value is written; not `csv`. Without it, and without `key`, interceptors and routes, records pass as they are.
    /// Default: none; `ndjson` where one of the others is set.
    #[serde(default)]
    pub format: Option<FileFormat>,
    /// How values become records; without `multiline`.
    #[serde(flatten)]
    pub lines: LineConfig,
}

impl KafkaConfig {
    /// How values are written, if they are looked at: `source` has this config.
    pub fn format_of(&self, source: &SourceConfig) -> Option<FileFormat> {
        let are_looked_at =
            source.key.is_some() || !source.interceptors.is_empty() || !source.routes.is_empty();
        self.format.or(are_looked_at.then_some(FileFormat::Ndjson))
    }
}

/// How a user of Kafka logs in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Sasl {
    /// `SCRAM-SHA-512`.
    #[default]
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
    /// `SCRAM-SHA-256`.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// `PLAIN`: the password itself.
    #[serde(rename = "plain")]
    Plain,
}

/// One name or pattern, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum KafkaTopics {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl KafkaTopics {
    /// All of them.
    pub fn patterns(&self) -> &[String] {
        match self {
            KafkaTopics::One(pattern) => std::slice::from_ref(pattern),
            KafkaTopics::Many(patterns) => patterns,
        }
    }

    /// Whether more than one topic may fit.
    pub fn are_several(&self) -> bool {
        self.patterns().len() > 1 || self.patterns().iter().any(|pattern| pattern.contains('*'))
    }
}

/// Where a partition is begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KafkaStart {
    /// At its first record.
    #[default]
    Earliest,
    /// Behind its last record.
    Latest,
}

/// What happens when records are missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutOfRange {
    /// The source fails.
    #[default]
    Fail,
    /// It goes on with the first record that is there.
    Earliest,
}

/// Which partition a record goes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Partitioning {
    /// That of the same number.
    #[default]
    Kept,
    /// That of its key.
    ByKey,
}
