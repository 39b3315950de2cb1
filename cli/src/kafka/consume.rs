//! `tarn consume`: records become lines of stdout, by itself or as a member of a group (`grouped`).

mod grouped;

use std::io::Write;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tarn_kafka::client::At;
use tarn_log::RecordView;
use tarn_model::clock;
use tarn_model::{Offset, PartitionId};

use super::{cluster, offset_of, partitions};
use crate::args::{ConsumeArgs, RecordFormat};
use crate::failure::Usage;
use crate::render::out;

/// Time between two looks at partitions that had nothing new.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A partition that is read.
struct Reading {
    partition: PartitionId,
    next: Offset,
    /// Where it ended at the start: without `--follow` it is read so far.
    end: Offset,
}

pub(crate) async fn consume(args: ConsumeArgs) -> anyhow::Result<()> {
    if let Some(group) = args.group.clone() {
        return grouped::read(&args, &group).await;
    }
    tokio::select! {
        done = read(&args) => done,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn read(args: &ConsumeArgs) -> anyhow::Result<()> {
    let mut cluster = cluster(args.brokers.bootstrap.as_deref(), || args.config.load()).await?;
    let known = partitions(&mut cluster, &args.topic).await?;
    if let Some(unknown) = args.partition.iter().find(|wanted| !known.contains(wanted)) {
        return Err(Usage::new(format!("topic `{}` has no partition {unknown}", args.topic))
            .with_hint(format!("it has {}, counted from 0", known.len()))
            .into());
    }
    let wanted = known.into_iter().filter(|p| args.partition.is_empty() || args.partition.contains(p));
    let mut readings = Vec::new();
    for partition in wanted {
        let end = cluster.offset_at(&args.topic, partition, At::Latest).await?;
        let next = offset_of(&mut cluster, &args.topic, partition, args.from).await?;
        readings.push(Reading { partition, next, end });
    }
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let mut moved = false;
        for reading in &mut readings {
            if !args.follow && reading.next >= reading.end {
                continue;
            }
            let fetched = cluster.fetch(&args.topic, reading.partition, reading.next, Duration::ZERO).await?;
            // Whoever reads the other end of a pipe sees records as they come.
            let mut out = out();
            for record in fetched.records.iter() {
                if left == 0 || (!args.follow && record.offset >= reading.end) {
                    break;
                }
                write_record(&mut out, args, reading.partition, &record)?;
                left -= 1;
            }
            out.flush()?;
            moved |= fetched.next > reading.next;
            reading.next = fetched.next;
        }
        if !args.follow && readings.iter().all(|reading| reading.next >= reading.end) {
            break;
        }
        if !moved {
            clock::pause(LOOK_EVERY).await;
        }
    }
    Ok(())
}

fn write_record(
    out: &mut impl Write,
    args: &ConsumeArgs,
    partition: PartitionId,
    record: &RecordView<'_>,
) -> anyhow::Result<()> {
    if args.output == RecordFormat::Value {
        if let Some(separator) = &args.key_separator {
            out.write_all(record.key.unwrap_or_default())?;
            out.write_all(separator.as_bytes())?;
        }
        out.write_all(record.value.unwrap_or_default())?;
        return Ok(out.write_all(b"\n")?);
    }
    let headers: Map<String, Value> =
        record.headers().map(|(name, value)| (name.to_owned(), shown(value))).collect();
    let object = json!({
        "topic": args.topic,
        "partition": partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        "key": shown(record.key),
        "value": shown(record.value),
        "headers": headers,
    });
    Ok(writeln!(out, "{object}")?)
}

/// Text as a string, other bytes as `{"hex": "..."}`.
fn shown(bytes: Option<&[u8]>) -> Value {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => text.into(),
        Some((bytes, Err(_))) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "hex": hex })
        }
    }
}
