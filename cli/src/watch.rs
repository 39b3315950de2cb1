//! `tarn sql --watch`: a query's answer, again whenever it changes.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use futures::StreamExt as _;
use serde_json::Value;
use tarn_model::config::Config;

use crate::args::Output;
use crate::door::Door;
use crate::failure::Usage;
use crate::render::{Grid, out};

/// Shows `query` until Ctrl-C, or until the process that runs `config` ends. On a terminal each answer takes the place of
/// the one before it; elsewhere they follow one another, as NDJSON with a blank line behind each.
pub(crate) async fn watch(config: &Config, query: &str, output: Output) -> anyhow::Result<()> {
    if matches!(output, Output::Csv | Output::Json) {
        return Err(Usage::new("`--watch` writes tables or NDJSON")
            .with_hint("add `--output ndjson`")
            .into());
    }
    let Some(door) = Door::find(config).await? else {
        return Err(Usage::new("nothing runs on this config, so nothing changes")
            .with_hint("start it with `tarn run`, or leave `--watch` out")
            .into());
    };
    let mut bytes = door.subscribe(query).await?.bytes_stream();
    let mut unread: Vec<u8> = Vec::new();
    let mut answer = Value::Null;
    // One for all turns: a signal between two of them is one, too.
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let next = tokio::select! {
            next = bytes.next() => next,
            _ = &mut interrupted => return Ok(()),
        };
        let Some(chunk) = next else { return Ok(()) };
        unread.extend_from_slice(&chunk.context("the running process went away")?);
        while let Some(end) = unread.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = unread.drain(..end + 2).collect();
            let event = std::str::from_utf8(&event)?;
            let fields: BTreeMap<&str, &str> =
                event.lines().filter_map(|line| line.split_once(": ")).collect();
            match (fields.get("event").copied(), fields.get("data")) {
                (Some("snapshot"), Some(data)) => answer = serde_json::from_str(data)?,
                (Some("progress"), Some(data)) => {
                    let progress: Value = serde_json::from_str(data)?;
                    show(&answer, progress["vector"].as_str().unwrap_or_default(), output)?;
                }
                (Some("trouble"), Some(data)) => {
                    let trouble: Value = serde_json::from_str(data)?;
                    eprintln!("no newer answer: {}", trouble["message"].as_str().unwrap_or_default());
                }
                _ => {}
            }
        }
    }
}

fn show(answer: &Value, vector: &str, output: Output) -> anyhow::Result<()> {
    let empty = Vec::new();
    let rows = || answer["rows"].as_array().unwrap_or(&empty).iter().map(|row| &row["row"]);
    let mut out = out();
    if output == Output::Ndjson {
        for row in rows() {
            writeln!(out, "{row}")?;
        }
        writeln!(out)?;
        return Ok(out.flush()?);
    }
    let columns: Vec<&str> =
        answer["columns"].as_array().unwrap_or(&empty).iter().filter_map(Value::as_str).collect();
    let is_number = |name: &&str| rows().next().is_some_and(|row| row[*name].is_number());
    let headings: Vec<String> = columns
        .iter()
        .map(|name| if is_number(name) { format!("#{name}") } else { (*name).to_owned() })
        .collect();
    let mut grid = Grid::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    for row in rows() {
        grid.row(columns.iter().map(|name| match &row[*name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }));
    }
    if io::stdout().is_terminal() {
        // From the first line of an empty screen.
        write!(out, "\x1b[2J\x1b[H")?;
    }
    writeln!(out, "{grid}{vector}")?;
    Ok(out.flush()?)
}
