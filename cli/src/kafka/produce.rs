//! `tarn produce`: lines of stdin become records.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};
use tarn_log::{RecordRef, partition_of_key, record_batch};
use tarn_model::PartitionId;
use tarn_model::clock::{Clock as _, SystemClock};
use tarn_model::config::Compression;
use tokio::sync::mpsc;

use super::{cluster, partitions};
use crate::args::{Codec, LineFormat, ProduceArgs, Report};
use crate::failure::Usage;
use crate::render::{number, out};
use crate::status::write_json;

/// Lines that wait to be sent.
const WAITING_LINES: usize = 8192;
/// A batch has at most so many records, and about so many bytes.
const BATCH_RECORDS: usize = 4096;
const BATCH_BYTES: usize = 512 << 10;

/// A record as its line says.
#[derive(Debug, Default)]
struct Line {
    partition: Option<PartitionId>,
    timestamp_ms: Option<i64>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}

impl Line {
    fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.key.as_ref().map_or(0, Vec::len) + self.value.as_ref().map_or(0, Vec::len) + headers
    }
}

pub(crate) async fn produce(args: ProduceArgs) -> anyhow::Result<()> {
    let mut cluster = cluster(args.brokers.bootstrap.as_deref(), || args.config.load()).await?;
    let known = partitions(&mut cluster, &args.topic).await?;
    let count = i32::try_from(known.len()).unwrap_or(i32::MAX);
    let (sender, mut lines) = mpsc::channel(WAITING_LINES);
    // A thread that waits for a person's next line must not keep the process from ending.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().split(b'\n') {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    let mut sent: BTreeMap<PartitionId, u64> = BTreeMap::new();
    let (mut number_of_line, mut turn, mut waiting) = (0_u64, 0_i32, Vec::new());
    while lines.recv_many(&mut waiting, BATCH_RECORDS).await > 0 {
        let mut batches: BTreeMap<PartitionId, Vec<Line>> = BTreeMap::new();
        for line in waiting.drain(..) {
            number_of_line += 1;
            let line = line.context("stdin cannot be read")?;
            let line =
                record_of(&line, &args).with_context(|| format!("line {number_of_line} is no record"))?;
            let partition = match (line.partition.or(args.partition), &line.key) {
                (Some(partition), _) => partition,
                (None, Some(key)) => partition_of_key(key, count),
                (None, None) => turn % count.max(1),
            };
            if !known.contains(&partition) {
                return Err(Usage::new(format!("topic `{}` has no partition {partition}", args.topic))
                    .with_hint(format!("it has {count}, counted from 0"))
                    .into());
            }
            batches.entry(partition).or_default().push(line);
        }
        turn = turn.wrapping_add(1).max(0);
        for (partition, lines) in batches {
            for run in split(&lines) {
                cluster.produce(&args.topic, partition, batch(run, args.compression)?).await?;
                *sent.entry(partition).or_default() += run.len() as u64;
            }
        }
    }
    let all: u64 = sent.values().sum();
    match args.output {
        Report::Json => write_json(&json!({ "topic": args.topic, "records": all, "partitions": sent })),
        Report::Table => {
            let s = if all == 1 { "" } else { "s" };
            Ok(writeln!(out(), "{} record{s} sent to {}", number(all), args.topic)?)
        }
    }
}

/// Lines in runs of about the bytes of a batch.
fn split(mut lines: &[Line]) -> Vec<&[Line]> {
    let mut runs = Vec::new();
    while !lines.is_empty() {
        let mut bytes = 0;
        let fits = |line: &&Line| {
            bytes += line.bytes();
            bytes <= BATCH_BYTES
        };
        let (run, rest) = lines.split_at(lines.iter().take_while(fits).count().max(1));
        runs.push(run);
        lines = rest;
    }
    runs
}

fn record_of(line: &[u8], args: &ProduceArgs) -> anyhow::Result<Line> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut record = match args.format {
        LineFormat::Json => of_json(line)?,
        LineFormat::Line => {
            let separator = args.key_separator.as_deref().filter(|separator| !separator.is_empty());
            let at = separator.and_then(|s| line.windows(s.len()).position(|part| part == s.as_bytes()));
            let length = separator.map_or(0, str::len);
            let (key, value) = match at {
                Some(at) => (Some(line[..at].to_vec()), &line[at + length..]),
                None => (None, line),
            };
            Line { key, value: Some(value.to_vec()), ..Line::default() }
        }
    };
    if args.tombstones && record.value.as_ref().is_some_and(Vec::is_empty) {
        record.value = None;
    }
    if record.key.is_none() {
        record.key = args.key.as_ref().map(|key| key.clone().into_bytes());
    }
    record.headers.extend(args.header.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())));
    Ok(record)
}

fn of_json(line: &[u8]) -> anyhow::Result<Line> {
    const KNOWN: [&str; 7] = ["key", "value", "headers", "partition", "timestamp", "offset", "topic"];
    let value: Value = serde_json::from_slice(line)?;
    let object = value.as_object().ok_or_else(|| anyhow!("it is no JSON object"))?;
    if let Some(unknown) = object.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        let near = tarn_serving::nearest(unknown, KNOWN);
        let near = near.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
        return Err(anyhow!("its field `{unknown}` is not known{near}"));
    }
    let mut record = Line { value: bytes(&value["value"])?, key: bytes(&value["key"])?, ..Line::default() };
    if let Some(partition) = value["partition"].as_i64() {
        record.partition = Some(i32::try_from(partition)?);
    }
    record.timestamp_ms = value["timestamp"].as_i64();
    for (name, value) in value["headers"].as_object().into_iter().flatten() {
        record.headers.push((name.clone(), bytes(value)?.unwrap_or_default()));
    }
    Ok(record)
}

/// A string's bytes, the bytes of `{"hex": "..."}`, the text of any other JSON; `None` for null.
fn bytes(value: &Value) -> anyhow::Result<Option<Vec<u8>>> {
    Ok(match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Object(object) if object.len() == 1 && object.contains_key("hex") => {
            let text = object["hex"].as_str().unwrap_or_default();
            let digits: Vec<u8> = text
                .chars()
                .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
                .collect::<Option<_>>()
                .filter(|digits: &Vec<u8>| digits.len().is_multiple_of(2))
                .ok_or_else(|| anyhow!("`{text}` is not hex"))?;
            Some(digits.chunks_exact(2).map(|pair| (pair[0] << 4) | pair[1]).collect())
        }
        other => Some(other.to_string().into_bytes()),
    })
}

/// One batch of these lines.
fn batch(lines: &[Line], codec: Codec) -> tarn_model::Result<bytes::Bytes> {
    let now_ms = SystemClock.now_ms();
    let headers: Vec<Vec<(&str, &[u8])>> = lines
        .iter()
        .map(|line| line.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect())
        .collect();
    let records: Vec<RecordRef<'_>> = lines
        .iter()
        .zip(&headers)
        .map(|(line, headers)| RecordRef {
            timestamp_ms: line.timestamp_ms.unwrap_or(now_ms),
            key: line.key.as_deref(),
            value: line.value.as_deref(),
            headers,
        })
        .collect();
    record_batch(&records, compression(codec))
}

fn compression(codec: Codec) -> Compression {
    match codec {
        Codec::None => Compression::None,
        Codec::Gzip => Compression::Gzip,
        Codec::Snappy => Compression::Snappy,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd,
    }
}
