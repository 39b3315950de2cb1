//! The log and the lake at rest: what a command works on when no process runs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use tarn_lake::{Lake, LakeOptions, LakeSnapshot, LakeTable};
use tarn_log::{Log, LogOptions};
use tarn_model::clock;
use tarn_model::config::{Config, LakeConfig, TableConfig};
use tarn_model::{Error, OffsetVector};
use tarn_serving::{Engine, EngineOptions, from_datafusion};
use tarn_table::catalog::boundary_of;
use tarn_table::{Catalog, EventTime};

use crate::failure::Usage;
use crate::rows::Rows;
use crate::views;

/// The lake of a config, which must be there already.
pub(crate) async fn lake(config: &Config) -> anyhow::Result<Lake> {
    if let Some(folder) = config.lake.url.strip_prefix("file:")
        && !Path::new(folder).is_dir()
    {
        return Err(Error::invalid(format!("there is no lake at {folder} yet"))
            .with_hint("`tarn run CONFIG` makes it, with its first table")
            .into());
    }
    Ok(Lake::open(
        &config.lake.url,
        &store_options(&config.lake),
        lake_options(&config.lake),
        clock::system(),
    )
    .await?)
}

/// Options of the object store, secrets revealed.
pub(crate) fn store_options(config: &LakeConfig) -> BTreeMap<String, String> {
    config.options.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect()
}

/// Sizes and ages of upkeep, as the config has them.
pub(crate) fn lake_options(config: &LakeConfig) -> LakeOptions {
    LakeOptions {
        target_file_bytes: config.target_file_size.0,
        optimize_after_files: config.optimize_after_files,
        checkpoint_after_commits: config.checkpoint_after_commits,
        vacuum_retention: config.vacuum_retention.0,
        log_retention: config.log_retention.0,
    }
}

/// A table of the lake, with the nearest name when there is none.
pub(crate) async fn lake_table(lake: &Lake, name: &str, writer: bool) -> anyhow::Result<LakeTable> {
    if let Some(table) = lake.load(name, writer).await? {
        return Ok(table);
    }
    let known = lake.table_names().await?;
    let hint = if known.is_empty() {
        "the lake has no table".into()
    } else {
        format!("tables: {}", known.join(", "))
    };
    Err(Usage::new(format!("there is no table `{name}` in the lake")).with_hint(hint).into())
}

/// The log of a config, which must be there already. It is locked until it is dropped: nothing else works on the folder.
pub(crate) async fn log(config: &Config) -> anyhow::Result<Log> {
    let folder = &config.data_dir;
    if !folder.is_dir() {
        return Err(Error::invalid(format!("there is no log at {} yet", folder.display()))
            .with_hint("`tarn run CONFIG` makes it")
            .into());
    }
    log_or_new(config).await
}

/// The log of a config, made when it is not there.
pub(crate) async fn log_or_new(config: &Config) -> anyhow::Result<Log> {
    let (folder, options) = (config.data_dir.clone(), LogOptions::from(&config.log));
    let log = tokio::task::spawn_blocking(move || Log::open(&folder, options, clock::system()));
    Ok(log.await.context("opening the log failed")??)
}

/// SQL over the committed rows of the lake.
pub(crate) async fn engine(config: &Config) -> anyhow::Result<Engine> {
    let catalog = Catalog::at_rest(lake(config).await?).await?;
    let options = EngineOptions::of(&config.serving);
    let topics: Vec<String> = catalog.hubs().iter().map(|hub| hub.topic().to_owned()).collect();
    for table in config.tables_of(topics.iter().map(String::as_str)) {
        if let Some((_, stored)) = catalog.table(&table.name)
            && let Some(lake) = &stored.lake
            && let Some(time) = event_time_at_rest(&table, lake, declared_partitions(config, &table))
        {
            catalog.set_event_time(&table.name, time);
        }
    }
    let views = views::of(config, &catalog)?;
    views::show_states(&views, &catalog).await?;
    Ok(Engine::with_views(catalog, views, options)?)
}

fn declared_partitions(config: &Config, table: &TableConfig) -> i32 {
    let topic = config.topics.iter().find(|topic| topic.name == table.topic_name());
    topic.map_or(0, |topic| topic.partitions)
}

/// The event time of `table`, whose topic has at least `partitions`; the lake may know of more.
pub(crate) fn event_time_at_rest(
    table: &TableConfig,
    lake: &LakeSnapshot,
    partitions: i32,
) -> Option<EventTime> {
    let mut time = EventTime::of(table, partitions)?;
    let known =
        boundary_of(lake).iter().map(|(partition, _)| partition).chain(time.partitions_in(lake)).max();
    time.partitions = time.partitions.max(known.map_or(0, |last| last + 1));
    Some(time)
}

/// Runs a statement; the rows stream.
pub(crate) async fn sql(engine: &Engine, sql: &str, as_of: Option<&OffsetVector>) -> anyhow::Result<Rows> {
    use futures::StreamExt as _;
    let answer = engine.query(sql, &[], as_of).await?;
    let batches = answer.rows.map(|batch| batch.map_err(|error| from_datafusion(error).into())).boxed();
    Ok(Rows { schema: answer.schema, vector: answer.vector.to_string(), batches })
}
