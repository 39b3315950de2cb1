//! `tarn verify`: log = table + dead letters, partition by partition; and of import tables, that they have the rows that were read.

use std::io::Write as _;

use anyhow::Context as _;
use tarn_lake::Lake;
use tarn_log::Log;
use tarn_model::config::{Config, TableConfig};
use tarn_table::verify::{PartitionReport, TableReport};

use crate::args::{Report, VerifyArgs};
use crate::door::Door;
use crate::failure::Silent;
use crate::render::{Grid, number, out};
use crate::{imports, rest, status};

pub(crate) async fn verify(args: VerifyArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    let reports = match Door::find(&config).await? {
        Some(door) => door.verify().await?,
        None => at_rest(&config).await?,
    };
    match args.output {
        Report::Json => status::write_json(&reports)?,
        Report::Table => show(&reports)?,
    }
    let wrong: Vec<&str> =
        reports.iter().filter(|report| !report.ok).map(|report| report.table.as_str()).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    if args.output == Report::Json {
        return Err(Silent(1).into());
    }
    anyhow::bail!("log and lake do not agree: {}", wrong.join(", "))
}

/// Verifies every table of the config that is in the lake; log and lake are nobody else's meanwhile.
async fn at_rest(config: &Config) -> anyhow::Result<Vec<TableReport>> {
    let lake = rest::lake(config).await?;
    let log = rest::log(config).await?;
    let mut reports = Vec::new();
    let topics = log.topics();
    for table in &config.tables_of(topics.iter().map(|topic| topic.name.as_str())) {
        match one(&log, &lake, table)
            .await
            .with_context(|| format!("cannot verify table `{}`", table.name))?
        {
            Some(report) => reports.push(report),
            None => eprintln!("table {} is not in the lake yet", table.name),
        }
    }
    for (_, table) in imports::find(&lake, &config.imports, |_| false).await? {
        reports.push(tarn_table::import::verify(&table).await?);
    }
    log.close().await?;
    Ok(reports)
}

async fn one(log: &Log, lake: &Lake, table: &TableConfig) -> anyhow::Result<Option<TableReport>> {
    let Some(stored) = lake.load(&table.name, false).await? else { return Ok(None) };
    let format = tarn_table::open::stored_format(&stored)?;
    Ok(Some(tarn_table::verify::verify(log, lake, table.topic_name(), &table.name, &format).await?))
}

fn show(reports: &[TableReport]) -> anyhow::Result<()> {
    let mut out = out();
    let mut grid = Grid::new(&[
        "table",
        "#partition",
        "#boundary",
        "#rows",
        "#dead letters",
        "#missing",
        "#repeated",
        "#lost",
        "#no record",
        "#compared",
        "content",
    ]);
    for report in reports {
        for partition in &report.partitions {
            grid.row(cells(report, partition));
        }
    }
    if reports.iter().any(|report| report.import.is_none()) {
        write!(out, "{grid}")?;
    }
    for report in reports {
        let sum = |of: fn(&PartitionReport) -> u64| report.partitions.iter().map(of).sum::<u64>();
        let (rows, dead) = (sum(|p| p.rows), sum(|p| p.dead_letters));
        if let Some(import) = &report.import {
            let verdict = if report.ok { "as many as were read" } else { "NOT what was read" };
            let (rows, files) = (number(import.rows), number(import.files as u64));
            writeln!(out, "{}: {rows} rows in {files} files of an import table: {verdict}", report.table)?;
            for problem in &report.problems {
                writeln!(out, "  {problem}")?;
            }
            continue;
        }
        let verdict = if report.ok { "agrees with the log" } else { "DOES NOT AGREE with the log" };
        writeln!(
            out,
            "{}: {} rows + {} dead letters = {} records of topic {}: {verdict}",
            report.table,
            number(rows),
            number(dead),
            number(rows + dead),
            report.topic
        )?;
        for problem in &report.problems {
            writeln!(out, "  {problem}")?;
        }
        for partition in &report.partitions {
            for problem in &partition.problems {
                writeln!(out, "  partition {}: {problem}", partition.partition)?;
            }
        }
    }
    out.flush()?;
    Ok(())
}

fn cells(report: &TableReport, partition: &PartitionReport) -> [String; 11] {
    let content = match partition.content_agrees {
        Some(true) => "agrees",
        Some(false) => "DIFFERS",
        None => "-",
    };
    [
        report.table.clone(),
        partition.partition.to_string(),
        partition.boundary.to_string(),
        number(partition.rows),
        number(partition.dead_letters),
        number(partition.missing),
        number(partition.repeated),
        number(partition.lost),
        number(partition.passed),
        number(partition.compared),
        content.into(),
    ]
}
