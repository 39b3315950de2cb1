//! From what a source found to records of topics: format, interceptors, routes.
//!
//! ```text
//! line ──format──▶ fields ──interceptors──▶ fields ──routes──▶ one record for each topic that it goes to
//!   │                │                        └──▶ counted as dropped
//!   └────────────────┴──▶ what does not fit: a record with the bytes that came and `tarn.error`
//! ```
//!
//! *Invariant*: what was found becomes at least one record, or is counted as dropped, or is a blank line of a format that
//! has none. Whatever goes wrong on the way, the bytes that came go to the source's own topic.
//!
//! A source without format, interceptors and routes has its values passed as they came, untouched.

use std::borrow::Cow;
use std::sync::Arc;

use tarn_log::{OVERSIZE_HEADER, RecordRef, TopicInfo, XXH3_HEADER};
use tarn_model::config::{FileFormat, LineConfig, SourceConfig};
use tarn_model::{Error, Result};
use xxhash_rust::xxh3::Xxh3;

use crate::fields::Fields;
use crate::format::Format;
use crate::json;
use crate::lines::Oversize;
use crate::source::Source;

mod interceptors;
mod router;
#[cfg(test)]
mod tests;

use interceptors::Chain;
use router::Router;

/// Header of a record that could not be what its source's format says: it becomes a dead letter.
pub(crate) const ERROR_HEADER: &str = "tarn.error";
/// The field of a plain line.
const LINE: &str = "line";
/// Header of a dead letter that is a row of a CSV file: the names of its cells, as a JSON list.
pub(crate) const CSV_NAMES_HEADER: &str = "tarn.csv_names";

/// Takes records, and the count of those that were dropped.
pub(crate) trait Sink {
    fn push(&mut self, topic: &Arc<TopicInfo>, record: &RecordRef<'_>) -> Result<()>;
    fn dropped(&mut self);
}

/// Where a record comes from.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place<'a> {
    /// Header that says it: `file`, `peer`.
    pub(crate) header: Option<(&'static str, &'a str)>,
    /// From 1; unknown in a file that was begun at its end.
    pub(crate) line: Option<u64>,
    /// The names of a CSV row's cells, as a JSON list: without them nobody could read it again.
    pub(crate) csv_names: Option<&'a str>,
    /// With the source's name and the value, what tells the record from all others.
    pub(crate) origin: (u128, u64),
}

impl<'a> Place<'a> {
    pub(crate) fn of_file(file: &'a str, line: Option<u64>, origin: (u128, u64)) -> Place<'a> {
        Place { header: Some(("file", file)), line, csv_names: None, origin }
    }

    /// What a header says.
    fn says(&self, name: &str) -> Option<Cow<'a, str>> {
        match self.header {
            Some((header, value)) if header == name => Some(value.into()),
            _ if name == "line" => self.line.map(|line| line.to_string().into()),
            _ => None,
        }
    }
}

/// What was found there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) value: &'a [u8],
    /// The key, where the source knows it already.
    pub(crate) key: Option<&'a str>,
    /// When `value` is only the head of it.
    pub(crate) oversize: Option<Oversize>,
    /// Why `value` is not what the source's format says.
    pub(crate) error: Option<&'a str>,
}

impl<'a> Found<'a> {
    pub(crate) fn value(value: &'a [u8]) -> Found<'a> {
        Found { value, key: None, oversize: None, error: None }
    }
}

/// What the values of a source are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Lines, taken apart by a format or not at all.
    Text,
    /// JSON objects.
    Object,
}

/// Shapes the records of one source.
#[derive(Debug)]
pub(crate) struct Shaper {
    name: String,
    key: Option<String>,
    kind: Kind,
    format: Option<Format>,
    skips_blank: bool,
    /// Whether a line stays a line, and does not become an object.
    stays_text: bool,
    chain: Chain,
    router: Router,
    /// The source's topic, then those of the routes.
    topics: Vec<Arc<TopicInfo>>,
    fields: Fields,
    value: Vec<u8>,
}

impl Shaper {
    /// For values that are JSON objects.
    pub(crate) fn of_objects(config: &SourceConfig) -> Result<Shaper> {
        Shaper::new(config, Kind::Object, None, false)
    }

    /// For lines of a format.
    pub(crate) fn of_lines(config: &SourceConfig, format: FileFormat, lines: &LineConfig) -> Result<Shaper> {
        match format {
            FileFormat::Csv | FileFormat::Avro | FileFormat::Parquet => Shaper::of_objects(config),
            FileFormat::Ndjson => Shaper::new(config, Kind::Object, None, true),
            FileFormat::Lines => Shaper::new(config, Kind::Text, None, false),
            parsed => Shaper::new(config, Kind::Text, Format::new(parsed, lines)?, true),
        }
    }

    fn new(config: &SourceConfig, kind: Kind, format: Option<Format>, skips_blank: bool) -> Result<Shaper> {
        let makes_fields = config.interceptors.iter().any(|interceptor| interceptor.makes_fields());
        Ok(Shaper {
            name: config.name.clone(),
            key: config.key.clone(),
            kind,
            stays_text: kind == Kind::Text && format.is_none() && !makes_fields,
            format,
            skips_blank,
            chain: Chain::new(&config.interceptors)?,
            router: Router::new(&config.routes)?,
            topics: Vec::new(),
            fields: Fields::default(),
            value: Vec::new(),
        })
    }

    /// Looks up the topics as they are now; `topic` is the source's own.
    pub(crate) fn begin(&mut self, source: &Source, topic: Arc<TopicInfo>) -> Result<()> {
        self.begin_with(topic, |name| source.topic_named(name))
    }

    /// The same, with the door to topics that the caller has.
    pub(crate) fn begin_with(
        &mut self,
        topic: Arc<TopicInfo>,
        named: impl Fn(&str) -> Result<Arc<TopicInfo>>,
    ) -> Result<()> {
        self.topics.clear();
        self.topics.push(topic);
        for name in self.router.topics() {
            self.topics.push(named(name)?);
        }
        Ok(())
    }

    /// Pushes what was found; the number of records that it became.
    pub(crate) fn push(
        &mut self,
        sink: &mut impl Sink,
        timestamp_ms: i64,
        place: &Place<'_>,
        found: &Found<'_>,
    ) -> Result<u64> {
        if found.oversize.is_some() || found.error.is_some() {
            return self.push_raw(sink, timestamp_ms, place, found);
        }
        if self.skips_blank && found.value.iter().all(u8::is_ascii_whitespace) {
            return Ok(0);
        }
        let needs_fields = self.format.is_some() || self.chain.needs_fields() || self.router.needs_fields();
        if !needs_fields {
            // A line that is not JSON keeps no key; the tables say what is wrong with it.
            let field = self.key.as_deref().filter(|_| found.key.is_none() && self.kind == Kind::Object);
            let key = field.and_then(|name| json::field(found.value, name).ok().flatten());
            let key = found.key.or(key.as_deref());
            if self.chain.is_empty() && self.router.is_empty() {
                return emit(sink, &self.topics, 1, timestamp_ms, place, key, found.value);
            }
            let identity = Identity::new(&self.name, place, found.value);
            if !self.chain.samples(&identity) {
                sink.dropped();
                return Ok(0);
            }
            let chosen = self.router.choose(&self.fields, place, &identity);
            return emit(sink, &self.topics, chosen, timestamp_ms, place, key, found.value);
        }
        match self.shape(timestamp_ms, place, found.value) {
            Ok(Some((timestamp_ms, chosen))) => {
                let key = self.key.as_deref().and_then(|name| self.fields.get(name));
                let value: &[u8] = if self.stays_text {
                    self.fields.get(LINE).unwrap_or_default().as_bytes()
                } else {
                    self.value.clear();
                    self.fields.write(&mut self.value);
                    &self.value
                };
                emit(sink, &self.topics, chosen, timestamp_ms, place, key, value)
            }
            Ok(None) => {
                sink.dropped();
                Ok(0)
            }
            Err(reason) => {
                let found = Found { error: Some(&reason), ..*found };
                self.push_raw(sink, timestamp_ms, place, &found)
            }
        }
    }

    /// Makes fields of `value`, works on them, and chooses topics; `None`: it is dropped.
    fn shape(
        &mut self,
        timestamp_ms: i64,
        place: &Place<'_>,
        value: &[u8],
    ) -> std::result::Result<Option<(i64, u64)>, String> {
        match self.kind {
            Kind::Object => self
                .fields
                .read(value)
                .map_err(|error| format!("the record is not a JSON object: {error}"))?,
            Kind::Text => {
                let line = std::str::from_utf8(value).map_err(|error| {
                    format!("the line is not UTF-8: byte {} is wrong", error.valid_up_to() + 1)
                })?;
                match &mut self.format {
                    Some(format) => format
                        .parse(line, timestamp_ms, &mut self.fields)
                        .map_err(|reason| format!("the line {reason}"))?,
                    None => {
                        self.fields.clear();
                        self.fields.push(LINE, line);
                    }
                }
            }
        }
        let identity = Identity::new(&self.name, place, value);
        let Some(timestamp_ms) = self.chain.apply(&mut self.fields, timestamp_ms, place, &identity)? else {
            return Ok(None);
        };
        Ok(Some((timestamp_ms, self.router.choose(&self.fields, place, &identity))))
    }

    /// The bytes that came, with what is wrong with them, for the source's own topic.
    fn push_raw(
        &self,
        sink: &mut impl Sink,
        timestamp_ms: i64,
        place: &Place<'_>,
        found: &Found<'_>,
    ) -> Result<u64> {
        let topic = self.topics.first().ok_or_else(no_topics)?;
        let (mut line, mut size) = (itoa::Buffer::new(), itoa::Buffer::new());
        let mut headers = Headers::default();
        headers.of_place(place, &mut line);
        let hash;
        if let Some(oversize) = found.oversize {
            hash = format!("{:032x}", oversize.hash);
            headers.add(OVERSIZE_HEADER, size.format(oversize.size).as_bytes());
            headers.add(XXH3_HEADER, hash.as_bytes());
        }
        if let Some(error) = found.error {
            headers.add(ERROR_HEADER, error.as_bytes());
            if let Some(names) = place.csv_names {
                headers.add(CSV_NAMES_HEADER, names.as_bytes());
            }
        }
        let key = found.key.map(str::as_bytes);
        sink.push(
            topic,
            &RecordRef { timestamp_ms, key, value: Some(found.value), headers: headers.as_slice() },
        )?;
        Ok(1)
    }
}

/// One record for each topic whose bit is set.
fn emit(
    sink: &mut impl Sink,
    topics: &[Arc<TopicInfo>],
    chosen: u64,
    timestamp_ms: i64,
    place: &Place<'_>,
    key: Option<&str>,
    value: &[u8],
) -> Result<u64> {
    if topics.is_empty() {
        return Err(no_topics());
    }
    let mut line = itoa::Buffer::new();
    let mut headers = Headers::default();
    headers.of_place(place, &mut line);
    let key = key.map(str::as_bytes);
    let record = RecordRef { timestamp_ms, key, value: Some(value), headers: headers.as_slice() };
    let mut count = 0;
    for (i, topic) in topics.iter().enumerate() {
        if (chosen >> i) & 1 == 1 {
            sink.push(topic, &record)?;
            count += 1;
        }
    }
    Ok(count)
}

fn no_topics() -> Error {
    Error::internal("records are shaped before their topics are known")
}

/// Up to six headers, without an allocation.
struct Headers<'a> {
    headers: [(&'a str, &'a [u8]); 6],
    count: usize,
}

impl Default for Headers<'_> {
    fn default() -> Self {
        Headers { headers: [("", b""); 6], count: 0 }
    }
}

impl<'a> Headers<'a> {
    fn add(&mut self, name: &'a str, value: &'a [u8]) {
        self.headers[self.count] = (name, value);
        self.count += 1;
    }

    fn of_place(&mut self, place: &Place<'a>, line: &'a mut itoa::Buffer) {
        if let Some((name, value)) = place.header {
            self.add(name, value.as_bytes());
        }
        if let Some(number) = place.line {
            self.add("line", line.format(number).as_bytes());
        }
    }

    fn as_slice(&self) -> &[(&'a str, &'a [u8])] {
        &self.headers[..self.count]
    }
}

/// What tells a record from all others, made when it is asked for.
struct Identity<'a> {
    source: &'a str,
    place: &'a Place<'a>,
    value: &'a [u8],
}

impl<'a> Identity<'a> {
    fn new(source: &'a str, place: &'a Place<'a>, value: &'a [u8]) -> Identity<'a> {
        Identity { source, place, value }
    }

    /// 128 bits of it; `salt` keeps its uses apart.
    fn hash(&self, salt: u64) -> u128 {
        let mut hash = Xxh3::with_seed(salt);
        hash.update(self.source.as_bytes());
        hash.update(&self.place.origin.0.to_le_bytes());
        hash.update(&self.place.origin.1.to_le_bytes());
        hash.update(self.value);
        hash.digest128()
    }

    /// Whether the record is among this share of all.
    fn is_in(&self, share: f64, salt: u64) -> bool {
        const BITS: u32 = 53;
        let Ok(part) = u64::try_from(self.hash(salt) & ((1 << BITS) - 1)) else { return true };
        #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
        let part = part as f64 / (1_u64 << BITS) as f64;
        part < share
    }
}
