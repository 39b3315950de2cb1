//! Runs a pipeline until it is told to stop, or until it is drained.
//!
//! Order of a start: address taken, log opened (which locks the data folder), `process.json` written, lake opened, tables
//! opened, collectors started. Ingestion answers from then on; SQL answers once every tail has reached the committed end
//! found at open. A stop goes the other way round. SIGTERM and Ctrl-C are caught before any door is open, so that whoever got an
//! answer can also stop the process; one that comes while it starts stops it when it has started, or ends it where it waits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::serve::ListenerExt as _;
use tarn_ingest::{Collectors, RunMode};
use tarn_kafka::{KafkaOptions, KafkaServer};
use tarn_lake::Lake;
use tarn_log::{Compacted, Log, LogOptions};
use tarn_model::config::Config;
use tarn_model::status::{LastError, Status, TableStatus};
use tarn_model::{Error, clock};
use tarn_serving::{Engine, EngineOptions, Hosts, PostgresServer, StatusSource};
use tarn_table::Catalog;
use tokio::net::TcpListener;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::{oneshot, watch};

use crate::admin;
use crate::dead_letters;
use crate::door::process_file;
use crate::imports::ImportTables;
use crate::pipeline::Pipeline;
use crate::progress::Progress;
use crate::rest;
use crate::source;
use crate::views::{self, RunningViews};

/// Requests under way get this long when the process stops.
const LAST_REQUESTS: Duration = Duration::from_secs(2);
/// A start that was under way when the process was told to stop gets this long: what waits for a lake or a database is left there.
const LAST_START: Duration = Duration::from_secs(5);
/// What runs only once has run so long after the start.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// Time between two words on what a drain waits for.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How a pipeline runs.
#[derive(Debug, Default)]
pub(crate) struct RunOptions {
    /// Ends by itself when every bounded source is read to the end it had at start and all of it is in the lake.
    pub(crate) drain: bool,
    /// Neither progress bars nor words on the terminal; the caller speaks.
    pub(crate) quiet: bool,
    /// Stops like SIGTERM does, once this is sent or its sender is dropped.
    pub(crate) stop: Option<oneshot::Receiver<()>>,
}

/// Runs `config`. SIGTERM and Ctrl-C stop it cleanly.
pub(crate) async fn run(config: Config, options: RunOptions) -> anyhow::Result<()> {
    let signals = Signals::catch()?;
    let started = tokio::select! {
        started = start(&config, options.drain) => started?,
        () = async { signals.told().await; clock::pause(LAST_START).await } => {
            tracing::info!("told to stop before it ran");
            return if options.drain { Err(stopped_early()) } else { Ok(()) };
        }
    };
    let Started { log, running, .. } = &started;
    let ended = {
        let progress = Progress::start(Arc::clone(running) as _, options.drain && !options.quiet);
        let ended = work(&config, &options_of(options), running, log, &started.ends_at_open, &signals).await;
        progress.finish();
        ended
    };
    started.stop().await?;
    tracing::info!("stopped");
    ended
}

/// A pipeline whose doors are open.
struct Started {
    log: Log,
    running: Arc<Running>,
    /// Where each topic ended when the log was opened.
    ends_at_open: std::collections::BTreeMap<String, tarn_model::Boundary>,
    kafka: Option<KafkaServer>,
    postgres: Option<PostgresServer>,
    server: tokio::task::JoinHandle<()>,
    stop_serving: watch::Sender<bool>,
    _process: ProcessFile,
}

async fn start(config: &Config, drain: bool) -> anyhow::Result<Started> {
    tarn_log::raise_file_limit();
    let listener = bind("serving.http", &config.serving.http).await?;
    let address = listener.local_addr()?;
    let kafka_listener = match &config.log.kafka {
        Some(kafka) => Some(bind("log.kafka", kafka).await?),
        None => None,
    };
    let postgres_listener = match &config.serving.postgres {
        Some(postgres) => Some(bind("serving.postgres", postgres).await?),
        None => None,
    };
    let kafka_address = kafka_listener.as_ref().map(TcpListener::local_addr).transpose()?;
    let postgres_address = postgres_listener.as_ref().map(TcpListener::local_addr).transpose()?;
    let log = open_log(config).await?;
    let process =
        ProcessFile::write(config, address, &[("kafka", kafka_address), ("postgres", postgres_address)])?;
    let clock = clock::system();
    let lake_url = &config.lake.url;
    let store_options = rest::store_options(&config.lake);
    let lake = Lake::open(lake_url, &store_options, rest::lake_options(&config.lake), Arc::clone(&clock))
        .await
        .with_context(|| format!("cannot open the lake at {lake_url}"))?;
    let catalog = Catalog::new(lake);
    let pipeline = Pipeline::new(config, log.clone(), catalog.clone(), Arc::clone(&clock));
    pipeline.create_topics()?;
    let ends_at_open = pipeline.ends()?;
    pipeline.start().await?;

    let mode = if drain { RunMode::Drain } else { RunMode::Continuous };
    let collectors = Arc::new(Collectors::start(
        &without_refused(config, &pipeline),
        log.clone(),
        Arc::clone(&clock),
        mode,
    )?);
    let kafka_options = KafkaOptions {
        auto_create_topics: config.log.auto_create_topics,
        default_partitions: config.log.default_partitions,
        offsets_retention: config.log.offsets_retention.0,
    };
    let kafka = kafka_listener
        .map(|listener| KafkaServer::start(listener, log.clone(), kafka_options, clock))
        .transpose()?;
    let imports = Arc::new(ImportTables::new(config, &catalog));
    if let Err(error) = imports.look().await {
        tracing::warn!(error = ?error, "import tables cannot be looked at yet; trying again");
    }
    let views = views::of(config, &catalog)?;
    let running = Arc::new(Running {
        started: Instant::now(),
        catalog: catalog.clone(),
        pipeline: Arc::clone(&pipeline),
        collectors: Arc::clone(&collectors),
        imports: Arc::clone(&imports),
        views: Arc::new(RunningViews::start(&views, &catalog).await),
    });
    let engine = Engine::with_views(catalog.clone(), views, EngineOptions::of(&config.serving))?;
    let postgres =
        postgres_listener.map(|listener| PostgresServer::start(listener, engine.clone())).transpose()?;
    let routes = collectors.router().merge(admin::router(
        log.clone(),
        catalog.clone(),
        Arc::clone(&pipeline),
        Arc::clone(&running.views),
        imports,
        config.lake.vacuum_retention.0,
    ));
    let letters = dead_letters::router(config.clone(), log.clone(), Arc::clone(&pipeline), engine.clone());
    let routes =
        routes.merge(letters).merge(source::control::router(config.clone(), Arc::clone(&collectors)));
    let hosts = Hosts::bound_to(address);
    let status: Arc<dyn StatusSource> = Arc::clone(&running) as _;
    let doors = tarn_serving::router(engine, status, config.dashboards.clone(), hosts, routes);
    let (stop_serving, serving_stopped) = watch::channel(false);
    let server = tokio::spawn(serve(listener, doors, serving_stopped));
    let kafka_at = kafka.as_ref().map(|kafka| tracing::field::display(kafka.address()));
    let postgres_at = postgres.as_ref().map(|postgres| tracing::field::display(postgres.address()));
    tracing::info!(http = %address, kafka = kafka_at, postgres = postgres_at, data_dir = %config.data_dir.display(), "running");

    Ok(Started { log, running, ends_at_open, kafka, postgres, server, stop_serving, _process: process })
}

impl Started {
    async fn stop(self) -> anyhow::Result<()> {
        if let Some(kafka) = self.kafka {
            kafka.stop().await;
        }
        if let Some(postgres) = self.postgres {
            postgres.stop().await;
        }
        self.running.collectors.stop().await;
        self.stop_serving.send_replace(true);
        let _ = tokio::time::timeout(LAST_REQUESTS, self.server).await;
        self.running.views.stop().await;
        self.running.pipeline.stop().await;
        self.log.close().await?;
        Ok(())
    }
}

/// What [`work`] needs of the options.
struct Until {
    drain: bool,
    stop: parking_lot::Mutex<Option<oneshot::Receiver<()>>>,
}

fn options_of(options: RunOptions) -> Until {
    Until { drain: options.drain, stop: parking_lot::Mutex::new(options.stop) }
}

/// Everything between start and stop: returns when told to stop, when drained, or when something cannot go on.
async fn work(
    config: &Config,
    until: &Until,
    running: &Running,
    log: &Log,
    ends_at_open: &std::collections::BTreeMap<String, tarn_model::Boundary>,
    signals: &Signals,
) -> anyhow::Result<()> {
    let pipeline = &running.pipeline;
    let ready = async {
        pipeline.reach(ends_at_open).await?;
        running.catalog.set_ready();
        tracing::info!(after_ms = running.started.elapsed().as_millis(), "ready for SQL");
        clock::pause(SETTLED_AFTER).await;
        let_go_of_start();
        std::future::pending::<Result<(), Error>>().await
    };
    let drained = async {
        running.collectors.drained().await?;
        if !until.drain {
            return std::future::pending::<Result<(), Error>>().await;
        }
        pipeline.flush().await?;
        running.views.caught_up().await;
        Ok(())
    };
    let told = until.stop.lock().take();
    tokio::select! {
        ended = ready => ended?,
        ended = pipeline.follow() => ended?,
        ended = drained => {
            ended?;
            let refused = pipeline.refused();
            if !refused.is_empty() {
                let tables = if refused.len() == 1 { "table was" } else { "tables were" };
                let told = format!("{} {tables} refused: {}", refused.len(), refused.join(", "));
                return Err(Error::invalid(told).with_hint("the reasons stand above; `tarn check` cannot know them").into());
            }
        }
        error = pipeline.failed() => return Err(error.into()),
        error = log_failed(log) => return Err(error.into()),
        () = retention(log, config.log.retention_every.0) => {}
        () = running.imports.follow() => {}
        () = tell_what_is_left(running, until.drain) => {}
        () = signals.told() => {
            tracing::info!("told to stop");
            if until.drain {
                return Err(stopped_early());
            }
        }
        () = async { match told { Some(told) => { let _ = told.await; } None => std::future::pending().await } } => {}
    }
    Ok(())
}

/// Lets go of the pages of the program that only its start needed.
fn let_go_of_start() {
    #[cfg(target_os = "linux")]
    match tarn_malloc::let_go_of_program() {
        Ok(bytes) => tracing::debug!(bytes, "pages of the program are let go"),
        Err(error) => tracing::debug!(%error, "pages of the program stay"),
    }
}

/// Says every so often what a drain still waits for, so that nobody has to guess why it does not end. Never completes.
async fn tell_what_is_left(running: &Running, drain: bool) {
    if !drain {
        return std::future::pending().await;
    }
    loop {
        clock::pause(TELL_EVERY).await;
        let status = running.status();
        let why =
            |error: &Option<LastError>| error.as_ref().map(|error| error.message.clone()).unwrap_or_default();
        for source in status.sources.iter().filter(|source| source.state == "waiting") {
            tracing::warn!(source = %source.name, error = why(&source.last_error), "the drain waits for a source; Ctrl-C ends it, and what came stays");
        }
        let is_late = |table: &&TableStatus| {
            table.state == "waiting" || table.state == "inferring" && table.lag_records > 0
        };
        for table in status.tables.iter().filter(is_late) {
            let (records, state) = (table.uncommitted_records.max(table.lag_records), &table.state);
            tracing::warn!(table = %table.name, %state, records, error = why(&table.last_error), "the drain waits for the lake to take a table's records");
        }
        let records: u64 = status.sources.iter().map(|source| source.records).sum();
        let rows: u64 = status.tables.iter().map(|table| table.lake_rows).sum();
        tracing::info!(records, rows_in_the_lake = rows, "the drain goes on");
    }
}

/// Completes when the log has stopped for good: after a failed sync nothing may be written on pages whose state nobody knows.
/// A new process reads what is on disk.
async fn log_failed(log: &Log) -> Error {
    let mut commits = log.commits();
    loop {
        commits.borrow_and_update();
        if let Some(error) = log.failure() {
            return error;
        }
        if commits.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn retention(log: &Log, every: Duration) {
    loop {
        clock::pause(every).await;
        match log.apply_retention().await {
            Ok(gone) => {
                for (topic, partition, range) in gone {
                    tracing::info!(topic, partition, %range, "segments dropped");
                }
            }
            Err(error) => tracing::warn!(error = ?error, "retention did not finish; it is tried again"),
        }
        match log.compact().await {
            Ok(compacted) => {
                for Compacted { topic, partition, upto, bytes_before, bytes_after } in compacted {
                    tracing::info!(topic, partition, upto, bytes_before, bytes_after, "compacted");
                }
            }
            Err(error) => tracing::warn!(error = ?error, "compaction did not finish; it is tried again"),
        }
    }
}

fn stopped_early() -> anyhow::Error {
    Error::unavailable("stopped before everything was in the lake")
        .with_hint("start it again: it goes on where it stopped")
        .into()
}

/// Ctrl-C and SIGTERM, caught from the moment this is there.
struct Signals(watch::Receiver<bool>);

impl Signals {
    fn catch() -> anyhow::Result<Self> {
        let caught = |kind| unix::signal(kind).context("cannot catch signals");
        let (mut terminate, mut interrupt) =
            (caught(SignalKind::terminate())?, caught(SignalKind::interrupt())?);
        let (tell, told) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tell.send_replace(true);
        });
        Ok(Self(told))
    }

    /// Completes once one of them has come, however long ago.
    async fn told(&self) {
        // Its sender goes after it has told, or with the runtime.
        let _ = self.0.clone().wait_for(|told| *told).await;
    }
}

async fn serve(listener: TcpListener, router: axum::Router, mut stopped: watch::Receiver<bool>) {
    let stopping = async move {
        // A sender that is gone means stop, too.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    // Answers are small and come in pieces: the kernel must not wait for more, or a client sees 40 ms that nobody used.
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
    });
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopping).await {
        tracing::error!(%error, "the HTTP server ended");
    }
}

async fn bind(field: &str, address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let taken = error.kind() == std::io::ErrorKind::AddrInUse;
        let told = Error::unavailable(format!("cannot listen on {address}")).with_source(error);
        let hint = format!(
            "another program listens there; set `{field}` to another port, or to port 0 for a free one"
        );
        if taken { told.with_hint(hint).into() } else { told.into() }
    })
}

async fn open_log(config: &Config) -> anyhow::Result<Log> {
    let (dir, options) = (config.data_dir.clone(), LogOptions::from(&config.log));
    let opened = tokio::task::spawn_blocking(move || Log::open(&dir, options, clock::system())).await?;
    Ok(opened?)
}

/// The config without the sources that fill a refused table's topic.
fn without_refused(config: &Config, pipeline: &Pipeline) -> Config {
    let mut config = config.clone();
    config.sources.retain(|source| {
        let held = source.topics().find(|topic| pipeline.is_refused(topic));
        if let Some(topic) = held {
            tracing::error!(source = %source.name, topic, "source does not start: a table on its topic was refused");
        }
        held.is_none()
    });
    config
}

/// `<data_dir>/process.json` while the process runs: how `tarn sql` and the others find it.
struct ProcessFile {
    path: PathBuf,
}

impl ProcessFile {
    fn write(
        config: &Config,
        http: SocketAddr,
        others: &[(&str, Option<SocketAddr>)],
    ) -> anyhow::Result<ProcessFile> {
        let path = process_file(config);
        let mut process = serde_json::json!({ "pid": std::process::id(), "http": http.to_string() });
        for (name, address) in others {
            if let Some(address) = address {
                process[*name] = address.to_string().into();
            }
        }
        let text = process.to_string();
        let aside = path.with_extension("json.new");
        std::fs::write(&aside, text)
            .and_then(|()| std::fs::rename(&aside, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(ProcessFile { path })
    }
}

impl Drop for ProcessFile {
    fn drop(&mut self) {
        // A file that stays behind names a process that is gone, which its readers check.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What runs, for its status.
struct Running {
    started: Instant,
    catalog: Catalog,
    pipeline: Arc<Pipeline>,
    collectors: Arc<Collectors>,
    imports: Arc<ImportTables>,
    views: Arc<RunningViews>,
}

impl StatusSource for Running {
    fn status(&self) -> Status {
        Status {
            at_rest: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: self.catalog.is_ready(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            sources: self.collectors.status(),
            topics: self.pipeline.topic_status(),
            tables: self.pipeline.table_status().into_iter().chain(self.imports.status()).collect(),
            views: self.views.status(),
            groups: self.pipeline.group_status(),
        }
    }
}
