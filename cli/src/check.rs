//! `tarn check`: what a config means, or everything that is wrong with it.

use std::io::Write as _;
use std::path::Path;

use serde_json::json;
use tarn_model::config::{Config, SourceConfig, SourceKind, TableConfig};

use crate::args::{CheckArgs, Report, loader};
use crate::failure::Silent;
use crate::render::{Grid, out};

pub(crate) fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let path = args.file.path();
    let loaded = loader(args.insecure).load(path);
    if args.output == Report::Json {
        let answer = match &loaded {
            Ok(config) => json!({"ok": true, "problems": [], "config": config}),
            Err(problems) => json!({"ok": false, "problems": problems}),
        };
        writeln!(out(), "{answer:#}")?;
        return loaded.map(drop).map_err(|_| Silent(2).into());
    }
    let config = loaded?;
    let mut out = out();
    writeln!(out, "{} is right: {}", path.display(), in_short(&config))?;
    let kafka = config.log.kafka.as_ref().map(|kafka| format!(", kafka {kafka}")).unwrap_or_default();
    let postgres =
        config.serving.postgres.as_ref().map(|postgres| format!(", postgres {postgres}")).unwrap_or_default();
    writeln!(
        out,
        "data_dir {}, lake {}, http {}{kafka}{postgres}",
        config.data_dir.display(),
        config.lake.url,
        config.serving.http
    )?;
    let folder = std::path::absolute(path)?.parent().map(Path::to_owned).unwrap_or_default();
    if !config.sources.is_empty() {
        let mut grid = Grid::new(&["source", "type", "reads", "topic", "key"]);
        for source in &config.sources {
            let key = source.key.as_deref().unwrap_or("-");
            let topics: Vec<&str> = source.topics().collect();
            let row =
                [source.name.as_str(), source.kind.name(), &reads(source, &folder), &topics.join(", "), key];
            grid.row(row);
        }
        write!(out, "\n{grid}")?;
    }
    if !config.tables.is_empty() {
        let mut grid = Grid::new(&["table", "topic", "columns", "partition by", "commit every"]);
        for table in &config.tables {
            let by = if table.partition_by.is_empty() { "-".into() } else { table.partition_by.join(", ") };
            grid.row([
                table.name.as_str(),
                table.topics.as_deref().unwrap_or(table.topic_name()),
                &columns(table),
                &by,
                &table.commit_every.to_string(),
            ]);
        }
        write!(out, "\n{grid}")?;
    }
    if !config.imports.is_empty() {
        let mut grid = Grid::new(&["import", "reads", "into", "mode"]);
        for import in &config.imports {
            let what =
                import.table.as_deref().map_or_else(|| "a query".into(), |table| format!("table {table}"));
            grid.row([import.name.as_str(), &what, import.into_name(), import.mode.as_str()]);
        }
        write!(out, "\n{grid}")?;
    }
    Ok(())
}

fn in_short(config: &Config) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let (topics, sources) =
        (count(config.topics.len(), "declared topic"), count(config.sources.len(), "source"));
    let tables = count(config.tables.len(), "table");
    let views = match config.views.len() {
        0 => String::new(),
        views => format!(", {}", count(views, "view")),
    };
    let imports = match config.imports.len() {
        0 => String::new(),
        imports => format!(", {}", count(imports, "import")),
    };
    let dashboards = match config.dashboards.len() {
        0 => String::new(),
        dashboards => format!(", {}", count(dashboards, "dashboard")),
    };
    format!("{topics}, {sources}, {tables}{imports}{views}{dashboards}")
}

/// What a source reads, without its secrets; paths as they are seen from the config's `folder`.
fn reads(source: &SourceConfig, folder: &Path) -> String {
    let shown = |path: &Path| path.strip_prefix(folder).unwrap_or(path).display().to_string();
    match &source.kind {
        SourceKind::Spooldir(spool) => shown(&spool.path.join(&spool.pattern)),
        SourceKind::Taildir(tail) => shown(&tail.path),
        SourceKind::Mqtt(mqtt) => {
            let scheme = if mqtt.tls { "mqtts" } else { "mqtt" };
            format!("{scheme}://{}, {}", mqtt.broker, mqtt.subscribe.join(", "))
        }
        SourceKind::Kafka(kafka) => {
            format!("{} of {}", kafka.topics.patterns().join(", "), kafka.brokers)
        }
        SourceKind::Http(_) => format!("POST /v1/ingest/{}", source.topic),
        SourceKind::Database(database) => {
            let what =
                database.table.as_deref().map_or_else(|| "a query".into(), |table| format!("table {table}"));
            let when = match (&database.every, &database.cron, &database.after) {
                (Some(every), ..) => format!("every {every}"),
                (None, Some(cron), _) => format!("at `{cron}`"),
                (None, None, Some(leader)) => format!("after `{leader}`"),
                (None, None, None) => "once".into(),
            };
            format!("{what}, {when}")
        }
        SourceKind::Syslog(syslog) => listens(syslog.tcp.as_deref(), syslog.udp.as_deref()),
        SourceKind::Netcat(netcat) => listens(netcat.tcp.as_deref(), netcat.udp.as_deref()),
        SourceKind::Exec(exec) => {
            format!("what `{}` writes", exec.command.first().map_or("", String::as_str))
        }
        SourceKind::Generator(generator) => {
            let count = generator.count.map(|count| format!(", {count} in all")).unwrap_or_default();
            let rate = if generator.rate == 0 {
                "as fast as it goes".into()
            } else {
                format!("{} per second", generator.rate)
            };
            format!("{rate}{count}")
        }
    }
}

fn listens(tcp: Option<&str>, udp: Option<&str>) -> String {
    let doors = [("tcp", tcp), ("udp", udp)];
    let doors: Vec<_> =
        doors.iter().filter_map(|(name, address)| Some(format!("{name} {}", (*address)?))).collect();
    doors.join(", ")
}

fn columns(table: &TableConfig) -> String {
    let parsed = table.columns.as_deref().map(tarn_model::columns::Columns::parse);
    match parsed {
        Some(Ok(columns)) => columns.len().to_string(),
        _ => "inferred".into(),
    }
}
