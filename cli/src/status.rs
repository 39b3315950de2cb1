//! `tarn status`, `tarn topic`: what a running pipeline says of itself; when none runs, what its log and its
//! lake say.

mod rest;
mod trim;

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use arrow::temporal_conversions::timestamp_ms_to_datetime;
use serde::Serialize;
use tarn_model::clock::SystemClock;
use tarn_model::clock::{self, Clock as _};
use tarn_model::config::Config;
use tarn_model::status::{
    GroupStatus, LastError, SourceStatus, Status, TableStatus, TopicStatus, ViewStatus,
};

use crate::args::{Report, StatusArgs, TopicArgs, TopicVerb};
use crate::door::Door;
use crate::failure::Usage;
use trim::Trim;

use crate::render::{Grid, bytes, number, out, seconds};

/// Characters of a source's position on the terminal; `--output json` has it whole.
const LONGEST_POSITION: usize = 80;
const WATCH_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn status(args: StatusArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    loop {
        let (door, status) = ask(&config).await?;
        if args.watch && args.output == Report::Table && io::stdout().is_terminal() {
            // From the first line of an empty screen.
            write!(out(), "\x1b[2J\x1b[H")?;
        }
        match args.output {
            Report::Table => show(door.as_ref(), &status)?,
            Report::Json if args.watch => writeln!(out(), "{}", serde_json::to_string(&status)?)?,
            Report::Json => write_json(&status)?,
        }
        if !args.watch {
            return Ok(());
        }
        tokio::select! {
            () = clock::pause(WATCH_EVERY) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

pub(crate) async fn topic(args: TopicArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    if let TopicVerb::Trim { name, partition, before, force } = args.verb {
        return trim::trim(&config, Trim { topic: name, partition, before, force }, args.output).await;
    }
    let (_, status) = ask(&config).await?;
    match (args.verb, args.output) {
        // Of the protocol: see `kafka`.
        (
            TopicVerb::Trim { .. }
            | TopicVerb::Create { .. }
            | TopicVerb::Alter { .. }
            | TopicVerb::Delete { .. },
            _,
        ) => Ok(()),
        (TopicVerb::List, Report::Json) => write_json(&status.topics),
        (TopicVerb::List, Report::Table) => Ok(write!(out(), "{}", topics(&status.topics))?),
        (TopicVerb::Describe { name }, output) => {
            let Some(topic) = status.topics.iter().find(|topic| topic.name == name) else {
                let known: Vec<&str> = status.topics.iter().map(|topic| topic.name.as_str()).collect();
                return Err(Usage::new(format!("there is no topic `{name}`"))
                    .with_hint(format!("topics: {}", known.join(", ")))
                    .into());
            };
            match output {
                Report::Json => write_json(topic),
                Report::Table => Ok(write!(out(), "{}", partitions(topic))?),
            }
        }
    }
}

pub(crate) async fn list_sources(config: &Config, output: Report) -> anyhow::Result<()> {
    let (_, status) = ask(config).await?;
    match output {
        Report::Json => write_json(&status.sources),
        Report::Table => Ok(write!(out(), "{}", sources(&status.sources))?),
    }
}

/// The running process and its word, or that of the log and the lake.
async fn ask(config: &Config) -> anyhow::Result<(Option<Door>, Status)> {
    if let Some(door) = Door::find(config).await? {
        let status = door.status().await?;
        return Ok((Some(door), status));
    }
    let status = rest::status(config).await?;
    eprintln!("nothing runs on this config: answering from the log and the lake at rest");
    Ok((None, status))
}

/// Pretty JSON on stdout.
pub(crate) fn write_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = out();
    serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from)?;
    writeln!(out)?;
    out.flush()?;
    Ok(())
}

fn show(door: Option<&Door>, status: &Status) -> anyhow::Result<()> {
    let mut out = out();
    match door {
        Some(door) => {
            let ready = if status.ready { "ready" } else { "catching up: SQL answers soon" };
            let (version, address) = (&status.version, door.address());
            writeln!(out, "tarn {version} at {address}, up {}, {ready}", seconds(status.uptime_s))?;
        }
        None => writeln!(out, "at rest")?,
    }
    if !status.sources.is_empty() {
        write!(out, "\n{}", sources(&status.sources))?;
    }
    if !status.topics.is_empty() {
        write!(out, "\n{}", topics(&status.topics))?;
    }
    if !status.tables.is_empty() {
        write!(out, "\n{}", tables(&status.tables))?;
    }
    if !status.views.is_empty() {
        write!(out, "\n{}", views(&status.views))?;
    }
    if !status.groups.is_empty() {
        write!(out, "\n{}", groups(&status.groups))?;
    }
    let errors = status.sources.iter().map(|s| ("source", &s.name, &s.last_error));
    let errors = errors.chain(status.tables.iter().map(|t| ("table", &t.name, &t.last_error)));
    for (what, name, error) in errors {
        if let Some(LastError { message, at_ms }) = error {
            let ago = SystemClock.now_ms().saturating_sub(*at_ms).max(0);
            writeln!(out, "\n{what} {name}, {} ago: {message}", seconds(ago as f64 / 1000.0))?;
        }
    }
    for view in &status.views {
        if let Some(trouble) = &view.trouble {
            writeln!(out, "\nview {}: {trouble}", view.name)?;
        }
    }
    out.flush()?;
    Ok(())
}

pub(crate) fn sources(sources: &[SourceStatus]) -> Grid {
    if sources.iter().any(|source| !source.positions.is_empty() || source.state.starts_with("at rest")) {
        return positions(sources);
    }
    let mut grid = Grid::new(&["source", "type", "topic", "state", "#records", "#read", "#left", "#dropped"]);
    for source in sources {
        grid.row([
            source.name.clone(),
            source.kind.clone(),
            source.topic.clone(),
            source.state.clone(),
            number(source.records),
            bytes(source.bytes),
            source.lag_bytes.map_or_else(|| "-".into(), bytes),
            number(source.dropped),
        ]);
    }
    grid
}

/// At rest: how far each source has come.
fn positions(sources: &[SourceStatus]) -> Grid {
    let mut grid = Grid::new(&["source", "type", "topic", "state", "#positions", "the last of them"]);
    for source in sources {
        let last = source.positions.last().map_or_else(
            || "-".into(),
            |position| {
                let text = format!("{} {}", position.key, position.value);
                match text.char_indices().nth(LONGEST_POSITION) {
                    Some((at, _)) => format!("{}...", &text[..at]),
                    None => text,
                }
            },
        );
        grid.row([
            source.name.clone(),
            source.kind.clone(),
            source.topic.clone(),
            source.state.clone(),
            number(source.positions.len() as u64),
            last,
        ]);
    }
    grid
}

fn topics(topics: &[TopicStatus]) -> Grid {
    let mut grid = Grid::new(&["topic", "#partitions", "#records", "#committed end", "#on disk"]);
    for topic in topics {
        let sum = |of: fn(&tarn_model::status::PartitionStatus) -> u64| {
            number(topic.partitions.iter().map(of).sum())
        };
        grid.row([
            topic.name.clone(),
            topic.partitions.len().to_string(),
            sum(|p| u64::try_from(p.end - p.start).unwrap_or(0)),
            sum(|p| u64::try_from(p.end).unwrap_or(0)),
            bytes(topic.partitions.iter().map(|p| p.size_bytes).sum()),
        ]);
    }
    grid
}

fn groups(groups: &[GroupStatus]) -> Grid {
    let mut grid = Grid::new(&["group", "topics", "#partitions", "#lag"]);
    for group in groups {
        let mut topics: Vec<&str> = group.partitions.iter().map(|p| p.topic.as_str()).collect();
        topics.dedup();
        grid.row([
            group.name.clone(),
            topics.join(", "),
            group.partitions.len().to_string(),
            number(group.partitions.iter().map(|p| p.lag).sum()),
        ]);
    }
    grid
}

fn partitions(topic: &TopicStatus) -> Grid {
    let mut grid = Grid::new(&["#partition", "#first offset", "#committed end", "#on disk"]);
    for partition in &topic.partitions {
        grid.row([
            partition.partition.to_string(),
            partition.start.to_string(),
            partition.end.to_string(),
            bytes(partition.size_bytes),
        ]);
    }
    grid
}

pub(crate) fn tables(tables: &[TableStatus]) -> Grid {
    let has_watermark = tables.iter().any(|table| table.watermark_ms.is_some());
    let mut headings = vec![
        "table",
        "topic",
        "state",
        "#rows",
        "#in the lake",
        "#in the tail",
        "#dead letters",
        "#lag",
        "#not in the lake",
        "#files",
        "#size",
    ];
    if has_watermark {
        headings.push("watermark");
    }
    let mut grid = Grid::new(&headings);
    for table in tables {
        let late = match table.uncommitted_records {
            0 => "0".into(),
            records => format!("{}, {}", number(records), seconds(table.uncommitted_s)),
        };
        let mut row = vec![
            table.name.clone(),
            if table.topic.is_empty() { "-".to_owned() } else { table.topic.clone() },
            table.state.clone(),
            number(table.lake_rows + table.tail_rows),
            number(table.lake_rows),
            number(table.tail_rows),
            number(table.dead_letters),
            number(table.lag_records),
            late,
            number(table.files),
            bytes(table.lake_bytes),
        ];
        if has_watermark {
            let at = table.watermark_ms.and_then(timestamp_ms_to_datetime);
            row.push(at.map_or_else(|| "-".into(), |at| at.to_string()));
        }
        grid.row(row);
    }
    grid
}

fn views(views: &[ViewStatus]) -> Grid {
    let mut grid = Grid::new(&[
        "view",
        "kept as",
        "#version",
        "#lag",
        "#live records",
        "#in memory",
        "#in the lake",
        "being made",
    ]);
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    for view in views {
        let lag = view.lag_records.map(|records| match records {
            0 => "0".to_owned(),
            records => format!("{}, {}", number(records), seconds(view.lag_s.unwrap_or(0.0))),
        });
        let building = view.built.map(|built| {
            let version = view.building.map_or("a build".to_owned(), |number| format!("version {number}"));
            format!("{version}, {:.0} %", built * 100.0)
        });
        grid.row([
            view.name.clone(),
            view.kept_as.clone(),
            or_none(view.version.map(|version| version.to_string())),
            or_none(lag),
            or_none(view.live_records.map(number)),
            or_none(view.live_bytes.map(bytes)),
            or_none(view.lake_bytes.map(bytes)),
            or_none(building),
        ]);
    }
    grid
}
