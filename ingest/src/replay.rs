//! Dead letters that are taken in once more, after what was wrong with them is mended.
//!
//! *Why*: a dead letter is final, for the lake has it with its offset. What it holds comes back as a record of its own, through
//! the format, interceptors and routes that its source has *now*, or as it was when only a table refused it.
//!
//! *Layout* of what was replayed: positions of the source `replayed/<the topic's id>`, under `<partition>/<block>` (a block is
//! 4,096 offsets): `[[from, to], …]`, offsets within the block. They are in the same commit as the records.
//!
//! *Invariants*: a dead letter is replayed once: its mark is in the commit of its records, and whoever replays has read the
//! marks and is alone (a [`Replay`] at a time, which its caller sees to). One that would be refused again is left as it is,
//! so replaying too early makes no second dead letter of it.
//!
//! *Failure*: an append that failed, or whose outcome nobody knows, ends the replay; the next one begins with the marks that
//! are committed.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;
use tarn_log::{Append, Log, OVERSIZE_HEADER, RecordRef, TopicInfo};
use tarn_model::config::{Config, CsvConfig, FileFormat, LineConfig, SourceConfig, SourceKind};
use tarn_model::{Error, Offset, PartitionId, Result};
use xxhash_rust::xxh3::xxh3_128;

use crate::appender::ENOUGH_BYTES;
use crate::json;
use crate::lines::Limits;
use crate::rows::{RowCutter, Shape};
use crate::shaper::{CSV_NAMES_HEADER, ERROR_HEADER, Found, Place, Shaper, Sink};

/// Header of a record that was made of a dead letter: `<topic>/<partition>/<offset>` of that.
pub const REPLAY_HEADER: &str = "tarn.replay_of";
/// Headers of ours begin so; what they say is of the dead letter, not of the new record.
const OWN_HEADERS: &str = "tarn.";
/// Offsets whose marks are one position.
const BLOCK_OFFSETS: Offset = 4096;

/// A dead letter, as its table has it.
#[derive(Debug, Clone, Default)]
pub struct DeadLetter {
    /// Partition of the record.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// Its time, milliseconds since 1970 UTC.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// The bytes that came.
    pub value: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(String, String)>,
}

impl DeadLetter {
    /// Whether its collector could not read it; otherwise a table refused what its collector had read.
    pub fn is_of_collector(&self) -> bool {
        self.header(ERROR_HEADER).is_some()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// What became of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is in the append, with its mark.
    Replayed,
    /// An interceptor drops it now; its mark is in the append.
    Dropped,
    /// It was replayed before.
    Before,
    /// It would be refused again, for this reason.
    Refused(String),
}

/// Which dead letters of a topic were replayed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Sorted, disjoint and not adjacent, `[from, to)`, within blocks.
    blocks: BTreeMap<(PartitionId, Offset), Vec<(Offset, Offset)>>,
}

impl Replayed {
    /// As the log has it.
    pub fn load(log: &Log, topic: &TopicInfo) -> Result<Replayed> {
        let mut blocks = BTreeMap::new();
        for (key, value) in log.positions(&source_of(topic))? {
            let wrong = || Error::internal(format!("what was replayed cannot be read: `{key}`"));
            let (partition, block) = key.split_once('/').ok_or_else(wrong)?;
            let key = (partition.parse().map_err(|_| wrong())?, block.parse().map_err(|_| wrong())?);
            let ranges = serde_json::from_value(value).map_err(|error| wrong().with_source(error))?;
            blocks.insert(key, ranges);
        }
        Ok(Replayed { blocks })
    }

    /// Whether the record at this offset was replayed.
    pub fn contains(&self, partition: PartitionId, offset: Offset) -> bool {
        let (block, at) = (offset / BLOCK_OFFSETS, offset % BLOCK_OFFSETS);
        let ranges = self.blocks.get(&(partition, block)).map_or(&[][..], Vec::as_slice);
        let after = ranges.partition_point(|(from, _)| *from <= at);
        after > 0 && at < ranges[after - 1].1
    }

    /// How many were replayed.
    pub fn count(&self) -> u64 {
        self.blocks.values().flatten().map(|(from, to)| (to - from).unsigned_abs()).sum()
    }

    /// `[from, to)`, by partition.
    pub fn ranges(&self) -> BTreeMap<PartitionId, Vec<(Offset, Offset)>> {
        let mut all: BTreeMap<PartitionId, Vec<(Offset, Offset)>> = BTreeMap::new();
        for ((partition, block), ranges) in &self.blocks {
            let first = block * BLOCK_OFFSETS;
            let ranges = ranges.iter().map(|(from, to)| (first + from, first + to));
            all.entry(*partition).or_default().extend(ranges);
        }
        all
    }

    /// The block that changed.
    fn insert(&mut self, partition: PartitionId, offset: Offset) -> (PartitionId, Offset) {
        let (block, at) = (offset / BLOCK_OFFSETS, offset % BLOCK_OFFSETS);
        let ranges = self.blocks.entry((partition, block)).or_default();
        let after = ranges.partition_point(|(from, _)| *from <= at);
        if after == 0 || at >= ranges[after - 1].1 {
            ranges.insert(after, (at, at + 1));
            if ranges.get(after + 1).is_some_and(|next| next.0 == at + 1) {
                ranges[after].1 = ranges.remove(after + 1).1;
            }
            if after > 0 && ranges[after - 1].1 == at {
                ranges[after - 1].1 = ranges.remove(after).1;
            }
        }
        (partition, block)
    }
}

fn source_of(topic: &TopicInfo) -> String {
    format!("replayed/{}", topic.id)
}

/// Takes the dead letters of one topic.
#[derive(Debug)]
pub struct Replay {
    topic: Arc<TopicInfo>,
    /// What would read the bytes that came, or why nothing can.
    reader: std::result::Result<Reader, String>,
    replayed: Replayed,
    append: Append,
    /// Blocks with marks that are in `append`.
    touched: BTreeSet<(PartitionId, Offset)>,
    records: Vec<Owned>,
}

#[derive(Debug)]
struct Reader {
    source: String,
    shaper: Shaper,
    /// Of a source whose files are not lines.
    rows: Option<RowReader>,
}

/// Reads the rows of files that are no lines: CSV, Avro, Parquet.
#[derive(Debug)]
struct RowReader {
    csv: Option<CsvConfig>,
    key: Option<String>,
}

/// A row as its source would find it.
struct Row {
    key: Option<String>,
    value: Vec<u8>,
}

impl RowReader {
    fn of(source: &SourceConfig) -> Option<RowReader> {
        let SourceKind::Spooldir(kind) = &source.kind else { return None };
        let csv = Some(kind.csv.clone()).filter(|_| kind.format == FileFormat::Csv);
        kind.format.is_whole_file().then(|| RowReader { csv, key: source.key.clone() })
    }

    /// What `value` is: the object that an interceptor refused, or a row of CSV that fits its header now. The error says why
    /// it is none.
    fn read(
        &self,
        value: &[u8],
        names: Option<&str>,
        line: u64,
        limits: Limits,
    ) -> std::result::Result<Row, String> {
        match (&self.csv, names) {
            (Some(csv), Some(names)) => self.read_csv(csv, value, names, line, limits),
            _ => match json::field(value, self.key.as_deref().unwrap_or_default()) {
                Ok(key) => {
                    let key = key.filter(|_| self.key.is_some()).map(Cow::into_owned);
                    Ok(Row { key, value: value.to_vec() })
                }
                Err(_) => Err("it is what could be read of a file that is damaged or was changed".to_owned()),
            },
        }
    }

    fn read_csv(
        &self,
        csv: &CsvConfig,
        value: &[u8],
        names: &str,
        line: u64,
        limits: Limits,
    ) -> std::result::Result<Row, String> {
        let shape = Shape::of_names(csv, names, self.key.as_deref());
        let shape = shape.map_err(|error| format!("its header cannot be read: {error}"))?;
        let delimiter = csv.delimiter.as_bytes().first().copied().unwrap_or(b',');
        // Not at a file's start, where a byte order mark would be none of its cells'.
        let mut cutter = RowCutter::new(value, 1, line.saturating_sub(1), delimiter, limits);
        let mut encoded = Vec::new();
        let key = match cutter.next() {
            Ok(Some(row)) if row.oversize.is_none() => shape.encode(&row, &mut encoded)?.map(str::to_owned),
            _ => return Err("it is no row".to_owned()),
        };
        match cutter.next() {
            Ok(None) => Ok(Row { key, value: encoded }),
            _ => Err("it is more than one row now".to_owned()),
        }
    }
}

impl Replay {
    /// For the dead letters of `topic`; what a collector could not read is read as `source` would now, which may be left
    /// out when only one source of `config` fills the topic.
    pub fn new(config: &Config, log: &Log, topic: &str, source: Option<&str>) -> Result<Replay> {
        let info = log.topic(topic).ok_or_else(|| Error::invalid(format!("there is no topic `{topic}`")))?;
        let filling: Vec<&SourceConfig> = config.sources.iter().filter(|s| s.topic == topic).collect();
        let names = || filling.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ");
        let chosen = match source {
            Some(name) => Some(*filling.iter().find(|source| source.name == name).ok_or_else(|| {
                Error::invalid(format!("no source `{name}` fills the topic `{topic}`"))
                    .with_hint(format!("sources of the topic: {}", names()))
            })?),
            None if filling.len() > 1 => {
                return Err(Error::invalid(format!("several sources fill the topic `{topic}`"))
                    .with_hint(format!("name the one that is to read its dead letters again: {}", names())));
            }
            None => filling.first().copied(),
        };
        let reader = match chosen {
            Some(source) => {
                let mut shaper = shaper_of(source)?;
                let named = |name: &str| {
                    log.topic(name).ok_or_else(|| Error::invalid(format!("there is no topic `{name}`")))
                };
                shaper.begin_with(info.clone(), named)?;
                Ok(Reader { source: source.name.clone(), shaper, rows: RowReader::of(source) })
            }
            None => Err(format!("no source fills the topic `{topic}`, so nothing can read it again")),
        };
        let replayed = Replayed::load(log, &info)?;
        Ok(Replay {
            topic: info,
            reader,
            replayed,
            append: Append::new(),
            touched: BTreeSet::new(),
            records: Vec::new(),
        })
    }

    /// Takes one dead letter, unless it was replayed before or would be refused again: by its source, or because of what
    /// `misfit` says of a record for a topic.
    pub fn take(
        &mut self,
        letter: &DeadLetter,
        misfit: &mut dyn FnMut(&str, &RecordRef<'_>) -> Option<String>,
    ) -> Result<Taken> {
        if self.replayed.contains(letter.partition, letter.offset) {
            return Ok(Taken::Before);
        }
        if letter.header(OVERSIZE_HEADER).is_some() {
            return Ok(Taken::Refused("the record was too large, and only its head was kept".to_owned()));
        }
        let mut made = Made { records: std::mem::take(&mut self.records), dropped: 0 };
        made.records.clear();
        let of_source = match self.shape(letter, &mut made)? {
            Ok(of_source) => of_source,
            Err(reason) => return Ok(Taken::Refused(reason)),
        };
        for made in &made.records {
            let error = made.headers.iter().find(|(name, _)| name == ERROR_HEADER);
            let reason = error.map(|(_, reason)| String::from_utf8_lossy(reason).into_owned());
            if let Some(reason) = reason.or_else(|| made.with(&[], |record| misfit(&made.topic.name, record)))
            {
                return Ok(Taken::Refused(reason));
            }
        }
        let of = format!("{}/{}/{}", self.topic.name, letter.partition, letter.offset);
        for made in &made.records {
            made.with(&[(REPLAY_HEADER, of.as_bytes())], |record| self.append.push(&made.topic, record))?;
        }
        if let Some(source) = of_source {
            self.append.dropped(&source, made.dropped);
        }
        self.touched.insert(self.replayed.insert(letter.partition, letter.offset));
        let taken = if made.records.is_empty() { Taken::Dropped } else { Taken::Replayed };
        self.records = made.records;
        Ok(taken)
    }

    /// The records that it becomes, with the source that reads it, if it was a collector that could not; or why it becomes
    /// none.
    fn shape(
        &mut self,
        letter: &DeadLetter,
        made: &mut Made,
    ) -> Result<std::result::Result<Option<String>, String>> {
        let value = letter.value.as_deref();
        let (true, Some(value)) = (letter.is_of_collector(), value) else {
            let own = letter.headers.iter().filter(|(name, _)| !name.starts_with(OWN_HEADERS));
            made.records.push(Owned {
                topic: self.topic.clone(),
                timestamp_ms: letter.timestamp_ms,
                key: letter.key.clone(),
                value: letter.value.clone(),
                headers: own.map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect(),
            });
            return Ok(Ok(None));
        };
        let reader = match &mut self.reader {
            Ok(reader) => reader,
            Err(reason) => return Ok(Err(reason.clone())),
        };
        let header = ["file", "peer", "topic"].iter().find_map(|name| Some((*name, letter.header(name)?)));
        let place = Place {
            header,
            line: letter.header("line").and_then(|line| line.parse().ok()),
            csv_names: None,
            origin: (
                xxh3_128(format!("{}/{}", self.topic.id, letter.partition).as_bytes()),
                letter.offset.unsigned_abs(),
            ),
        };
        if let Some(rows) = &reader.rows {
            let names = letter.header(CSV_NAMES_HEADER);
            let limits = Limits::of_topic(self.topic.max_record_bytes);
            let row = match rows.read(value, names, place.line.unwrap_or(1), limits) {
                Ok(row) => row,
                Err(reason) => return Ok(Err(reason)),
            };
            let found = Found { key: row.key.as_deref(), ..Found::value(&row.value) };
            reader.shaper.push(made, letter.timestamp_ms, &place, &found)?;
            return Ok(Ok(Some(reader.source.clone())));
        }
        let key = letter.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
        let found = Found { key, ..Found::value(value) };
        reader.shaper.push(made, letter.timestamp_ms, &place, &found)?;
        Ok(Ok(Some(reader.source.clone())))
    }

    /// Whether it is time for [`Replay::append`].
    pub fn is_full(&self) -> bool {
        self.append.bytes() >= ENOUGH_BYTES
    }

    /// What was taken since the last call, with its marks; `None` when there is nothing. It must be committed before more is
    /// taken, or else this replay ends here.
    pub fn append(&mut self) -> Option<Append> {
        if self.touched.is_empty() {
            return None;
        }
        let mut append = std::mem::take(&mut self.append);
        for (partition, block) in std::mem::take(&mut self.touched) {
            let ranges = self.replayed.blocks.get(&(partition, block));
            append.position(&source_of(&self.topic), &format!("{partition}/{block}"), Some(json!(ranges)));
        }
        Some(append)
    }
}

/// The shaper of a source, for what it found.
fn shaper_of(source: &SourceConfig) -> Result<Shaper> {
    let of_lines = |format: FileFormat, lines: &LineConfig| Shaper::of_lines(source, format, lines);
    match &source.kind {
        SourceKind::Spooldir(kind) => of_lines(kind.format, &kind.lines),
        SourceKind::Taildir(kind) => of_lines(kind.format, &kind.lines),
        SourceKind::Netcat(kind) => of_lines(kind.format, &kind.lines),
        SourceKind::Exec(kind) => of_lines(kind.format, &kind.lines),
        SourceKind::Syslog(kind) => of_lines(
            FileFormat::Syslog,
            &LineConfig { raw_field: kind.raw_field.clone(), ..LineConfig::default() },
        ),
        SourceKind::Mqtt(kind) => of_lines(kind.format, &kind.lines),
        SourceKind::Http(kind) if kind.format != FileFormat::Ndjson => of_lines(kind.format, &kind.lines),
        SourceKind::Kafka(kind) => {
            of_lines(kind.format_of(source).unwrap_or(FileFormat::Ndjson), &kind.lines)
        }
        SourceKind::Http(_) | SourceKind::Database(_) | SourceKind::Generator(_) => {
            Shaper::of_objects(source)
        }
    }
}

/// Records that a dead letter becomes.
struct Made {
    records: Vec<Owned>,
    dropped: u64,
}

#[derive(Debug)]
struct Owned {
    topic: Arc<TopicInfo>,
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}

impl Owned {
    /// The record, with `more` headers.
    fn with<T>(&self, more: &[(&str, &[u8])], work: impl FnOnce(&RecordRef<'_>) -> T) -> T {
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let headers: Vec<(&str, &[u8])> = own.chain(more.iter().copied()).collect();
        work(&RecordRef {
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &headers,
        })
    }
}

impl Sink for Made {
    fn push(&mut self, topic: &Arc<TopicInfo>, record: &RecordRef<'_>) -> Result<()> {
        self.records.push(Owned {
            topic: topic.clone(),
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.to_vec()))
                .collect(),
        });
        Ok(())
    }

    fn dropped(&mut self) {
        self.dropped += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::fixture::Fixture;

    const LINES: &str = r#"
[[source]]
name = "tail"
type = "taildir"
path = "DIR/in/app.log"
format = "regex"
regex = 'REGEX'
topic = "lines"
key = "level"
[[source.interceptor]]
type = "filter"
field = "level"
regex = "DEBUG"
drop = true
[[source.route]]
topic = "errors"
field = "level"
values = ["ERROR"]
copy = true
"#;

    const NAIVE: &str = r"^(?<level>[A-Z]+) (?<text>.*)$";
    const MENDED: &str = r"^(?<level>[A-Z]+)[: ]+(?<text>.*)$";

    fn letters(fixture: &Fixture) -> Vec<DeadLetter> {
        let dead =
            fixture.records("lines").into_iter().filter(|record| record.headers.contains_key(ERROR_HEADER));
        dead.map(|record| DeadLetter {
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: 7,
            key: None,
            value: Some(record.value),
            headers: record.headers.into_iter().collect(),
        })
        .collect()
    }

    /// What became of each, and whether the appends are made or lost.
    fn replay(fixture: &Fixture, regex: &str, commits: bool) -> Vec<Taken> {
        let config = fixture.config(&LINES.replace("REGEX", regex));
        let mut replay = Replay::new(&config, fixture.log(), "lines", None).unwrap();
        let mut taken = Vec::new();
        for letter in letters(fixture) {
            taken.push(replay.take(&letter, &mut |_, _| None).unwrap());
            if let Some(append) = replay.append().filter(|_| commits) {
                fixture.runtime.block_on(fixture.log().append(append)).unwrap();
            }
        }
        taken
    }

    #[test]
    fn a_dead_letter_is_taken_once_and_only_when_it_is_mended() {
        let mut fixture = Fixture::new();
        fixture.append_to("in/app.log", "INFO one\nERROR: two\nno level\nDEBUG: three\nWARN: four\n");
        fixture.drain(&LINES.replace("REGEX", NAIVE)).unwrap();
        let count = |fixture: &Fixture| (fixture.count("lines"), fixture.count("errors"));
        assert_eq!((count(&fixture), letters(&fixture).len()), ((5, 0), 4));
        // Nothing is mended: nothing is made, not even another dead letter.
        assert!(replay(&fixture, NAIVE, true).iter().all(|taken| matches!(taken, Taken::Refused(_))));
        assert_eq!(count(&fixture), (5, 0));
        // What was not committed was not replayed.
        let replayed = replay(&fixture, MENDED, false);
        assert!(
            matches!(&replayed[1], Taken::Refused(reason) if reason.contains("does not fit")),
            "{replayed:?}"
        );
        for _ in 0..2 {
            let taken = replay(&fixture, MENDED, true);
            let again = taken.iter().filter(|taken| **taken == Taken::Before).count();
            match again {
                0 => assert_eq!(
                    [&taken[0], &taken[2], &taken[3]],
                    [&Taken::Replayed, &Taken::Dropped, &Taken::Replayed]
                ),
                _ => assert_eq!(again, 3, "{taken:?}"),
            }
            assert_eq!(count(&fixture), (7, 1));
            fixture.reopen();
        }
        let two = &fixture.records("errors")[0];
        assert_eq!(two.text(), r#"{"level":"ERROR","text":"two"}"#);
        assert_eq!(
            (two.header("tarn.replay_of"), two.header("line"), two.header("tarn.error")),
            ("lines/0/1", "2", "")
        );
        assert!(two.header("file").ends_with("app.log"));
        let topic = fixture.log().topic("lines").unwrap();
        assert_eq!(Replayed::load(fixture.log(), &topic).unwrap().count(), 3);
    }

    #[test]
    fn a_csv_row_comes_back_with_its_files_header_once_the_config_reads_it() {
        const ROWS: &str = r#"
[[source]]
name = "spool"
type = "spooldir"
path = "DIR/in"
format = "csv"
delimiter = ";"
topic = "lines"
key = "b"
[[source.interceptor]]
type = "timestamp"
field = "c"
format = "FORMAT"
"#;
        let config = |format: &str| ROWS.replace("FORMAT", format);
        let fixture = Fixture::new();
        fixture.put("in/x.csv", "a;b;c\n1;k;1700000000\n\"2;2\";l;1700000001\n3;m\n");
        fixture.drain(&config("%Y-%m-%d")).unwrap();
        let dead = letters(&fixture);
        let names: Vec<_> = dead.iter().map(|letter| letter.header(CSV_NAMES_HEADER)).collect();
        let abc = Some(r#"["a","b","c"]"#);
        assert_eq!(dead.len(), 3, "{dead:?}");
        assert_eq!(names, [None, None, abc], "an object needs no names");
        let replay = |config: &str| {
            let config = fixture.config(config);
            let mut replay = Replay::new(&config, fixture.log(), "lines", None).unwrap();
            let taken: Vec<_> =
                dead.iter().map(|letter| replay.take(letter, &mut |_, _| None).unwrap()).collect();
            let append = replay.append();
            (taken, append)
        };
        let refused = |taken: &Taken| matches!(taken, Taken::Refused(_));
        let (taken, _) = replay(&config("%Y-%m-%d"));
        assert!(taken.iter().all(refused), "{taken:?}");
        let (taken, append) = replay(&config("unix"));
        assert_eq!(taken[..2], [Taken::Replayed, Taken::Replayed]);
        assert!(
            matches!(&taken[2], Taken::Refused(why) if why == "line 4 has 2 fields, the header has 3"),
            "{taken:?}"
        );
        fixture.runtime.block_on(fixture.log().append(append.unwrap())).unwrap();
        // Names of the config come before those of the file.
        let named = config("unix").replace("topic =", "header = [\"a\", \"b\"]\ntopic =");
        let (taken, append) = replay(&named);
        assert_eq!(taken, [Taken::Before, Taken::Before, Taken::Replayed]);
        fixture.runtime.block_on(fixture.log().append(append.unwrap())).unwrap();
        let records = fixture.records("lines");
        let back: Vec<_> = records.iter().filter(|record| !record.header(REPLAY_HEADER).is_empty()).collect();
        let texts: Vec<_> = back.iter().map(|record| record.text()).collect();
        assert_eq!(
            texts,
            [
                r#"{"a":"1","b":"k","c":"1700000000"}"#,
                r#"{"a":"2;2","b":"l","c":"1700000001"}"#,
                r#"{"a":"3","b":"m"}"#
            ]
        );
        let keys: Vec<_> = back.iter().filter_map(|record| record.key.as_deref()).collect();
        assert_eq!(keys, ["k", "l", "m"]);
        assert!(back.iter().all(|record| record.header(CSV_NAMES_HEADER).is_empty()));
    }

    #[test]
    fn what_a_table_refused_comes_back_as_it_was_once_it_fits() {
        let mut fixture = Fixture::new();
        fixture.drain(&LINES.replace("REGEX", NAIVE)).unwrap();
        let config = fixture.config(&LINES.replace("REGEX", NAIVE));
        let letter = DeadLetter {
            timestamp_ms: 5,
            key: Some(b"k".to_vec()),
            value: Some(br#"{"n":3000000000}"#.to_vec()),
            headers: vec![("file".into(), "x".into()), ("tarn.replay_of".into(), "lines/0/9".into())],
            ..DeadLetter::default()
        };
        let mut replay = Replay::new(&config, fixture.log(), "lines", Some("tail")).unwrap();
        let refused = replay.take(&letter, &mut |topic, record| {
            Some(format!("{topic}: {} bytes", record.value.unwrap_or_default().len()))
        });
        assert_eq!(refused.unwrap(), Taken::Refused("lines: 16 bytes".into()));
        assert!(replay.append().is_none());
        assert_eq!(replay.take(&letter, &mut |_, _| None).unwrap(), Taken::Replayed);
        assert_eq!(
            replay.take(&letter, &mut |_, _| None).unwrap(),
            Taken::Before,
            "not twice in one append either"
        );
        fixture.runtime.block_on(fixture.log().append(replay.append().unwrap())).unwrap();
        fixture.reopen();
        let record = fixture.records("lines").remove(0);
        assert_eq!((record.text().as_str(), record.key.as_deref()), (r#"{"n":3000000000}"#, Some("k")));
        assert_eq!((record.header("file"), record.header("tarn.replay_of")), ("x", "lines/0/0"));
        let wrong = Replay::new(&config, fixture.log(), "lines", Some("tial")).unwrap_err();
        assert!(wrong.to_string().contains("`tial`"));
    }

    proptest! {
        #[test]
        fn marks_are_a_set_of_offsets(offsets in prop::collection::vec((0_i32..2, 0_i64..9000), 0..300)) {
            let (mut marks, mut plain) = (Replayed::default(), BTreeSet::new());
            for (partition, offset) in offsets {
                marks.insert(partition, offset % 70 + offset / 70 % 2 * 4090);
                plain.insert((partition, offset % 70 + offset / 70 % 2 * 4090));
            }
            prop_assert_eq!(marks.count(), plain.len() as u64);
            for partition in 0..2 {
                for offset in 0..4300 {
                    prop_assert_eq!(marks.contains(partition, offset), plain.contains(&(partition, offset)));
                }
            }
            for ranges in marks.blocks.values() {
                prop_assert!(ranges.windows(2).all(|two| two[0].1 < two[1].0));
            }
        }
    }
}
