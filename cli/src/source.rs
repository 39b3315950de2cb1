//! `tarn source` and `tarn eval`: sources, and what their databases have.

pub(crate) mod control;

use std::io::Write as _;

use serde_json::{Value, json};
use tarn_ingest::Explorer;
use tarn_model::config::Config;
use tarn_model::{Error, Result};

use crate::args::{EvalArgs, EvalOutput, Report, SourceArgs, SourceVerb};
use crate::dead_letters::dead_letters;
use crate::door::Door;
use crate::render::{Grid, out};
use crate::rest;
use crate::status::{list_sources, write_json};

/// Rows that a framed table shows.
const FRAMED_ROWS: usize = 1_000;

pub(crate) async fn source(args: SourceArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    match args.verb {
        SourceVerb::List => list_sources(&config, args.output).await,
        SourceVerb::DeadLetters { verb } => dead_letters(&config, verb, args.output).await,
        SourceVerb::Run { name, no_wait } => control::run(&config, &name, !no_wait, args.output).await,
        SourceVerb::Pause { name } => control::set(&config, &name, true, args.output).await,
        SourceVerb::Resume { name } => control::set(&config, &name, false, args.output).await,
        SourceVerb::History { name, last } => {
            let last = usize::try_from(last).unwrap_or(usize::MAX);
            control::history(&config, &name, last, args.output).await
        }
        SourceVerb::Forget { name } => forget(&config, &name).await,
        SourceVerb::Tables { name } => tokio::task::block_in_place(|| tables(&config, &name, args.output)),
        SourceVerb::Schema { name, table } => {
            tokio::task::block_in_place(|| schema(&config, &name, table.as_deref(), args.output))
        }
    }
}

fn tables(config: &Config, name: &str, output: Report) -> anyhow::Result<()> {
    let tables = Explorer::open(config, name)?.tables()?;
    if output == Report::Json {
        let tables: Vec<Value> =
            tables.iter().map(|(table, topic)| json!({"table": table, "topic": topic})).collect();
        return write_json(&tables);
    }
    let mut grid = Grid::new(&["table", "topic"]);
    for (table, topic) in &tables {
        grid.row([table, topic]);
    }
    Ok(write!(out(), "{grid}")?)
}

fn schema(config: &Config, name: &str, table: Option<&str>, output: Report) -> anyhow::Result<()> {
    let columns = Explorer::open(config, name)?.columns(table)?;
    let columns = columns.into_iter().map(|(column, known)| (column, known.map(|known| known.to_string())));
    let columns: Vec<(String, Option<String>)> = columns.collect();
    if output == Report::Json {
        let columns: Vec<Value> =
            columns.iter().map(|(column, known)| json!({"column": column, "type": known})).collect();
        return write_json(&columns);
    }
    let mut grid = Grid::new(&["column", "type in the lake"]);
    for (column, known) in &columns {
        grid.row([column.as_str(), known.as_deref().unwrap_or("inferred")]);
    }
    Ok(write!(out(), "{grid}")?)
}

/// An error that names the sources there are, when this is none of them.
fn known(config: &Config, name: &str) -> Result<()> {
    if config.sources.iter().any(|source| source.name == name) {
        return Ok(());
    }
    let known: Vec<&str> = config.sources.iter().map(|source| source.name.as_str()).collect();
    Err(Error::invalid(format!("there is no source `{name}`"))
        .with_hint(format!("sources: {}", known.join(", "))))
}

async fn forget(config: &Config, name: &str) -> anyhow::Result<()> {
    known(config, name)?;
    if Door::find(config).await?.is_some() {
        return Err(Error::unavailable("a source forgets only at rest")
            .with_hint("stop the process first")
            .into());
    }
    let log = rest::log(config).await?;
    let forgotten = tarn_ingest::forget(config, &log, name).await;
    log.close().await?;
    let forgotten = forgotten?;
    writeln!(out(), "{name} has forgotten {forgotten} positions: it reads everything again")?;
    Ok(())
}

pub(crate) async fn eval(args: EvalArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    tokio::task::block_in_place(|| match args.output {
        EvalOutput::Ndjson => ndjson(&config, &args.name, &args.query),
        EvalOutput::Table => framed(&config, &args.name, &args.query),
    })
}

fn ndjson(config: &Config, name: &str, query: &str) -> anyhow::Result<()> {
    let (mut out, mut failed) = (out(), None);
    Explorer::open(config, name)?.eval(query, |row| {
        failed = out.write_all(row).and_then(|()| out.write_all(b"\n")).err();
        Ok(failed.is_none())
    })?;
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn framed(config: &Config, name: &str, query: &str) -> anyhow::Result<()> {
    let (mut rows, mut more) = (Vec::new(), false);
    let columns = Explorer::open(config, name)?.eval(query, |row| {
        more = rows.len() == FRAMED_ROWS;
        if !more {
            rows.push(parsed(row)?);
        }
        Ok(!more)
    })?;
    let headings: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut grid = Grid::new(&headings);
    for row in &rows {
        grid.row(columns.iter().map(|column| cell(&row[column.as_str()])));
    }
    write!(out(), "{grid}")?;
    if more {
        eprintln!("there are more than {FRAMED_ROWS} rows: `--output ndjson` writes all of them");
    }
    Ok(())
}

fn parsed(row: &[u8]) -> Result<Value> {
    serde_json::from_slice(row).map_err(|error| Error::internal("a row is no JSON").with_source(error))
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
