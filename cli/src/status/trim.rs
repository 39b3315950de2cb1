//! `tarn topic trim`: deletes old records by hand.
//!
//! At rest only, with the log's lock held: nobody reads what goes. Each table on the topic holds the log at its boundary, as it
//! does while it runs. What is given up above a boundary is written down by the log as a lost range: the table's reader
//! goes on behind it, and `verify` counts it.

use std::io::Write as _;

use serde_json::json;
use tarn_model::config::Config;
use tarn_model::{Boundary, Error};
use tarn_table::catalog::boundary_of;

use super::write_json;
use crate::args::Report;
use crate::door::Door;
use crate::failure::Usage;
use crate::render::{number, out};
use crate::rest;

/// What goes.
pub(super) struct Trim {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) before: i64,
    pub(super) force: bool,
}

pub(super) async fn trim(config: &Config, what: Trim, output: Report) -> anyhow::Result<()> {
    if let Some(door) = Door::find(config).await? {
        return Err(Error::unavailable(format!("a process runs this config, at {}", door.address()))
            .with_hint("stop it first: records are deleted by hand only at rest")
            .into());
    }
    let log = rest::log(config).await?;
    let topics = log.topics();
    let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
    if !names.contains(&what.topic.as_str()) {
        return Err(Usage::new(format!("there is no topic `{}`", what.topic))
            .with_hint(format!("topics: {}", names.join(", ")))
            .into());
    }
    let tables = config.tables_of(names.iter().copied());
    let mut on_it = tables.iter().filter(|table| table.topic_name() == what.topic).peekable();
    if on_it.peek().is_some() {
        let lake = rest::lake(config).await?;
        for table in on_it {
            let stored = lake.load(&table.name, false).await?;
            let boundary = stored.map(|stored| boundary_of(&stored.snapshot())).unwrap_or_default();
            log.hold(&what.topic, &table.name, boundary);
        }
    }
    let upto: Boundary = [(what.partition, what.before)].into_iter().collect();
    let lost = |log: &tarn_log::Log| -> anyhow::Result<u64> {
        let ranges = log.lost_ranges(&what.topic)?;
        Ok(ranges
            .iter()
            .filter(|(partition, _)| *partition == what.partition)
            .map(|(_, range)| range.len())
            .sum())
    };
    let (start, lost_before) = (log.starts(&what.topic)?.next(what.partition), lost(&log)?);
    log.trim(&what.topic, &upto, what.force).await?;
    let (now, lost_now) = (log.starts(&what.topic)?.next(what.partition), lost(&log)?);
    log.close().await?;
    let (deleted, lost) = (now.saturating_sub(start).unsigned_abs(), lost_now - lost_before);
    if output == Report::Json {
        return write_json(
            &json!({"topic": what.topic, "partition": what.partition, "start": now, "deleted": deleted, "lost": lost}),
        );
    }
    let (topic, partition) = (&what.topic, what.partition);
    writeln!(
        out(),
        "{topic}: partition {partition} begins at offset {now}: {} records are deleted, {} of them lost",
        number(deleted),
        number(lost)
    )?;
    Ok(())
}
