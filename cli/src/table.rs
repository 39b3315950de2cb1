//! `tarn table`: what lies in the lake, and its upkeep by hand.
//!
//! A running process owns its tables: it does the work, asked over HTTP. When none runs the command does it itself, and
//! holds the log's lock meanwhile, so that no process can start under its hands.

mod upkeep;

use std::io::Write as _;

use serde_json::{Value, json};
use tarn_lake::{Lake, LakeSnapshot, LakeTable};
use tarn_model::config::Config;
use tarn_table::open::{KIND, TOPIC};

use crate::args::{Report, TableArgs, TableVerb};
use crate::render::{Grid, bytes, number, out, sql_type};
use crate::rest;
use crate::status::write_json;

pub(crate) async fn table(args: TableArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    match args.verb {
        TableVerb::List => list(&config, args.output).await,
        TableVerb::Describe { name } => describe(&config, &name, args.output).await,
        verb => {
            let done = upkeep::run(&config, &verb).await?;
            match args.output {
                Report::Json => write_json(&done),
                Report::Table => Ok(writeln!(out(), "{}", in_words(&verb, &done))?),
            }
        }
    }
}

async fn list(config: &Config, output: Report) -> anyhow::Result<()> {
    let lake = rest::lake(config).await?;
    let mut tables = Vec::new();
    for name in lake.table_names().await? {
        if let Some(table) = lake.load(&name, false).await? {
            tables.push(summary(&table));
        }
    }
    if output == Report::Json {
        return write_json(&tables);
    }
    let mut grid = Grid::new(&["table", "kind", "topic", "#rows", "#files", "#size", "#version"]);
    for table in &tables {
        let text = |name: &str| table[name].as_str().unwrap_or("-").to_owned();
        let count = |name: &str| table[name].as_u64().unwrap_or(0);
        grid.row([
            text("name"),
            text("kind"),
            text("topic"),
            number(count("rows")),
            number(count("files")),
            bytes(count("bytes")),
            count("version").to_string(),
        ]);
    }
    write!(out(), "{grid}")?;
    Ok(())
}

async fn describe(config: &Config, name: &str, output: Report) -> anyhow::Result<()> {
    let lake: Lake = rest::lake(config).await?;
    let table = rest::lake_table(&lake, name, false).await?;
    let snapshot = table.snapshot();
    let mut told = summary(&table);
    told["columns"] = snapshot
        .schema
        .fields()
        .iter()
        .map(|field| json!({"name": field.name(), "type": sql_type(field.data_type()), "nullable": field.is_nullable()}))
        .collect();
    told["partition_by"] = json!(snapshot.partition_by);
    told["properties"] = json!(snapshot.properties);
    told["boundary"] = boundary(&snapshot);
    if output == Report::Json {
        return write_json(&told);
    }
    let mut out = out();
    writeln!(
        out,
        "{name}: {} rows in {} files, {}, version {}",
        number(rows(&snapshot)),
        number(snapshot.files.len() as u64),
        bytes(size(&snapshot)),
        snapshot.version
    )?;
    writeln!(out, "{}/{name}", config.lake.url)?;
    if !snapshot.partition_by.is_empty() {
        writeln!(out, "kept apart by {}", snapshot.partition_by.join(", "))?;
    }
    let mut grid = Grid::new(&["column", "type", "nullable"]);
    for field in snapshot.schema.fields() {
        let nullable = if field.is_nullable() { "" } else { "not null" };
        grid.row([field.name().as_str(), &sql_type(field.data_type()), nullable]);
    }
    write!(out, "\n{grid}")?;
    let mut grid = Grid::new(&["property", "value"]);
    for (name, value) in &snapshot.properties {
        grid.row([name, value]);
    }
    write!(out, "\n{grid}")?;
    let mut grid = Grid::new(&["progress of", "#next offset"]);
    let mut txns: Vec<_> = snapshot.txns.iter().collect();
    txns.sort();
    for (app_id, next) in txns {
        grid.row([app_id.clone(), next.to_string()]);
    }
    write!(out, "\n{grid}")?;
    Ok(())
}

fn summary(table: &LakeTable) -> Value {
    let snapshot = table.snapshot();
    json!({
        "name": table.name(),
        "kind": snapshot.properties.get(KIND),
        "topic": snapshot.properties.get(TOPIC),
        "rows": rows(&snapshot),
        "files": snapshot.files.len(),
        "bytes": size(&snapshot),
        "version": snapshot.version,
    })
}

fn rows(snapshot: &LakeSnapshot) -> u64 {
    snapshot.statistics.rows.iter().flatten().map(|rows| u64::try_from(rows).unwrap_or(0)).sum()
}

fn size(snapshot: &LakeSnapshot) -> u64 {
    snapshot.files.iter().map(|file| file.size).sum()
}

/// App id → next offset.
fn boundary(snapshot: &LakeSnapshot) -> Value {
    let mut txns: Vec<_> = snapshot.txns.iter().collect();
    txns.sort();
    Value::Object(txns.into_iter().map(|(app_id, next)| (app_id.clone(), json!(next))).collect())
}

fn in_words(verb: &TableVerb, done: &Value) -> String {
    let count = |name: &str| done[name].as_u64().unwrap_or(0);
    match verb {
        TableVerb::Optimize { name } if count("removed_files") == 0 => {
            format!("{name}: there is nothing to merge")
        }
        TableVerb::Optimize { name } => format!(
            "{name}: merged {} files ({}) into {} ({})",
            number(count("removed_files")),
            bytes(count("removed_bytes")),
            number(count("added_files")),
            bytes(count("added_bytes"))
        ),
        TableVerb::Vacuum { name, dry_run, .. } => {
            let files = done["files"].as_array().map_or(0, Vec::len) as u64;
            let verb = if *dry_run { "would delete" } else { "deleted" };
            format!("{name}: {verb} {} files ({})", number(files), bytes(count("bytes")))
        }
        TableVerb::Detach { name } => {
            format!("{name} is detached: its rows stay, no topic feeds it any more")
        }
        TableVerb::Adopt { name } => {
            format!("{name} is adopted: the log goes on where the table ends")
        }
        TableVerb::List | TableVerb::Describe { .. } => String::new(),
    }
}
