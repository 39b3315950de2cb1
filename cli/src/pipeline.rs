//! Topics with their tables: opened, read, committed, watched and stopped together.
//!
//! A topic's tables start at once, because every partition is decoded once for all of them. A table whose columns must be
//! inferred holds its topic until the first records are there. A table that the lake and the log disagree about is refused:
//! it does not start, and neither do the sources that fill its topic, so that nothing is collected that cannot be stored.
//!
//! A `[[table]]` with `{table}` in its name is one table per topic: [`Pipeline::follow`] starts those of new topics.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tarn_batch::{OwnerOptions, TableOwner};
use tarn_log::{Log, TopicOptions};
use tarn_model::clock::Clock;
use tarn_model::columns::Columns;
use tarn_model::config::{Config, TableConfig, UnknownFields, fills};
use tarn_model::status::{
    GroupPartitionStatus, GroupStatus, LastError, PartitionStatus, TableStatus, TopicStatus,
};
use tarn_model::{Boundary, Error, Kind, Result, clock};
use tarn_speed::{TopicReader, has_reached};
use tarn_table::cut::DEAD_LETTERS_SUFFIX;
use tarn_table::decode::dead_letter_schema;
use tarn_table::open::Backoff;
use tarn_table::{Catalog, CutTable, EventTime, OpenTable, TableOpener, TailBudget, TopicHub};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

/// Time between two looks for new topics.
const FOLLOW_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// All topics that have tables.
pub(crate) struct Pipeline {
    config: Config,
    log: Log,
    catalog: Catalog,
    clock: Arc<dyn Clock>,
    opener: TableOpener,
    budget: TailBudget,
    decoders: Arc<Semaphore>,
    /// Topics whose tables were opened, or begun to; held while that is done, so whoever comes later finds them started.
    begun: tokio::sync::Mutex<BTreeSet<String>>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    running: BTreeMap<String, Arc<TopicPipeline>>,
    inferring: BTreeMap<String, Vec<TableConfig>>,
    /// Of those in `inferring`, why they could not be opened when that was last tried.
    waiting: BTreeMap<String, LastError>,
    refused: Vec<Refused>,
    failure: Option<Error>,
}

/// A table that did not start.
#[derive(Clone)]
struct Refused {
    table: String,
    topic: String,
    error: LastError,
}

struct TopicPipeline {
    hub: Arc<TopicHub>,
    reader: TopicReader,
    owners: Vec<TableOwner>,
}

impl Pipeline {
    pub(crate) fn new(config: &Config, log: Log, catalog: Catalog, clock: Arc<dyn Clock>) -> Arc<Pipeline> {
        let tail_bytes = config.serving.tail_memory.as_usize();
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Arc::new(Pipeline {
            opener: TableOpener::new(log.clone(), catalog.lake().clone()),
            budget: TailBudget::new(catalog.clone(), tail_bytes),
            decoders: Arc::new(Semaphore::new(cores)),
            config: config.clone(),
            log,
            catalog,
            clock,
            begun: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Lets SQL know the tables of many topics, which have no rows before their first topic is there.
    fn declare_wholes(&self) -> Result<()> {
        for table in self.config.tables.iter().filter(|table| table.topics.is_some()) {
            let columns = Columns::parse(table.columns.as_deref().unwrap_or_default())?;
            let columns = table.record_columns().added_to(columns)?;
            let keeps_rest = table.unknown_fields == UnknownFields::Keep;
            self.catalog.declare(&table.name, &columns.table_schema(keeps_rest));
            self.catalog.declare(&table.dead_letters_name(), &dead_letter_schema());
        }
        Ok(())
    }

    /// Creates the topics that the config names or implies.
    pub(crate) fn create_topics(&self) -> Result<()> {
        self.declare_wholes()?;
        self.hold_new_topics();
        for topic in &self.config.topics {
            let options = TopicOptions {
                partitions: topic.partitions,
                retention_time: topic.retention_time.map(|time| time.0),
                retention_bytes: topic.retention_size.map(|size| size.0),
            };
            self.log.create_topic(&topic.name, &options)?;
        }
        for table in self.config.tables.iter().filter(|table| !table.is_pattern()) {
            if self.log.topic(table.topic_name()).is_none() {
                let options = TopicOptions { partitions: 1, retention_time: None, retention_bytes: None };
                self.log.create_topic(table.topic_name(), &options)?;
            }
        }
        Ok(())
    }

    /// Nothing of a topic goes before the table that a pattern makes of it is there, however soon that is.
    fn hold_new_topics(&self) {
        if !self.config.tables.iter().any(TableConfig::is_pattern) {
            return;
        }
        let config = self.config.clone();
        self.log.hold_new(move |topic| {
            let tables = config.tables_of([topic]).into_iter();
            tables.filter(|table| table.topic_name() == topic).map(|table| table.name).collect()
        });
    }

    /// The tables of the topics that there are now.
    fn tables_now(&self) -> Vec<TableConfig> {
        let topics = self.log.topics();
        self.config.tables_of(topics.iter().map(|topic| topic.name.as_str()))
    }

    /// Opens the tables of all topics that were not begun yet, and starts every topic whose tables are all known. The others
    /// start by themselves once their first records have shown their columns.
    pub(crate) async fn start(self: &Arc<Pipeline>) -> Result<()> {
        let mut begun = self.begun.lock().await;
        let mut topics: BTreeMap<String, Vec<TableConfig>> = BTreeMap::new();
        let mut taken = HashSet::new();
        for table in self.tables_now() {
            // Two topics may leave the same name: the table is then the first one's.
            let fresh = taken.insert(table.name.clone()) && taken.insert(table.dead_letters_name());
            if begun.contains(table.topic_name()) {
                continue;
            }
            if fresh {
                topics.entry(table.topic_name().to_owned()).or_default().push(table);
            } else {
                begun.insert(table.topic_name().to_owned());
                let error = Error::invalid(format!("the name `{}` is another table's already", table.name))
                    .with_hint("give the topic a `[[table]]` of its own, with another name");
                self.refuse(&table, &error);
            }
        }
        let mut openings = JoinSet::new();
        for (topic, tables) in topics {
            begun.insert(topic.clone());
            let pipeline = Arc::clone(self);
            openings.spawn(async move { pipeline.open_topic(topic, tables).await });
        }
        while let Some(opened) = openings.join_next().await {
            opened.map_err(|error| Error::internal("opening a topic broke off").with_source(error))??;
        }
        Ok(())
    }

    /// Starts the tables of topics that appear later, where a table of the config is a pattern. Never completes by itself.
    pub(crate) async fn follow(self: &Arc<Pipeline>) -> Result<()> {
        if !self.config.tables.iter().any(TableConfig::is_pattern) {
            return std::future::pending().await;
        }
        let mut commits = self.log.commits();
        let mut known = 0;
        while commits.changed().await.is_ok() {
            let topics = self.log.topics().len();
            if topics != known {
                self.start().await?;
                known = topics;
            }
            // Commits may come by the thousand; a new topic can wait.
            clock::pause(FOLLOW_EVERY).await;
        }
        std::future::pending().await
    }

    async fn open_topic(self: Arc<Pipeline>, topic: String, configs: Vec<TableConfig>) -> Result<()> {
        let (mut open, mut unknown) = (Vec::new(), Vec::new());
        for config in configs {
            match self.opener.open(&config).await {
                Ok(Some(table)) => open.push(table),
                Ok(None) => unknown.push(config),
                Err(error) if error.kind() == Kind::Unavailable => {
                    self.waits(&config, &error);
                    unknown.push(config);
                }
                Err(error) => self.refuse(&config, &error),
            }
        }
        // Retention takes nothing that a table which does not run yet will want.
        for config in &unknown {
            self.log.hold(&topic, &config.name, Boundary::new());
        }
        if unknown.is_empty() {
            return self.start_topic(&topic, open);
        }
        self.state.lock().inferring.insert(topic.clone(), unknown.clone());
        let pipeline = Arc::clone(&self);
        tokio::spawn(async move {
            for config in unknown {
                match pipeline.open_at_last(&config).await {
                    Ok(table) => open.push(table),
                    Err(error) => pipeline.refuse(&config, &error),
                }
            }
            if let Err(error) = pipeline.start_topic(&topic, open) {
                pipeline.state.lock().failure.get_or_insert(error);
            }
            pipeline.state.lock().inferring.remove(&topic);
            pipeline.changed.notify_waiters();
        });
        Ok(())
    }

    /// Opens a table as soon as the lake lets it, and its columns are known.
    async fn open_at_last(&self, config: &TableConfig) -> Result<OpenTable> {
        let mut backoff = Backoff::default();
        loop {
            let opened = match self.opener.open(config).await {
                Ok(None) => self.opener.infer(config).await.map(Some),
                opened => opened,
            };
            match opened {
                Ok(Some(table)) => {
                    self.state.lock().waiting.remove(&config.name);
                    return Ok(table);
                }
                Ok(None) => {}
                Err(error) if error.kind() == Kind::Unavailable => self.waits(config, &error),
                Err(error) => return Err(error),
            }
            backoff.wait().await;
        }
    }

    /// The lake cannot be reached: that passes.
    fn waits(&self, config: &TableConfig, error: &Error) {
        let error = self.last_error(error);
        tracing::warn!(table = %config.name, error = error.message, "table cannot be opened yet; trying again");
        self.state.lock().waiting.insert(config.name.clone(), error);
    }

    fn last_error(&self, error: &Error) -> LastError {
        let hint = error.hint().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
        LastError { message: format!("{}{hint}", error.chain()), at_ms: self.clock.now_ms() }
    }

    fn refuse(&self, config: &TableConfig, error: &Error) {
        tracing::error!(table = %config.name, error = ?error, "table refused");
        self.log.hold(config.topic_name(), &config.name, Boundary::new());
        let error = self.last_error(error);
        let (table, topic) = (config.name.clone(), config.topic_name().to_owned());
        self.state.lock().refused.push(Refused { table, topic, error });
    }

    fn start_topic(&self, topic: &str, tables: Vec<OpenTable>) -> Result<()> {
        if tables.is_empty() {
            return Ok(());
        }
        let hub = self.catalog.hub(topic);
        for table in &tables {
            for (lake, dead_letters) in [(&table.lake, false), (&table.dead_letters, true)] {
                let snapshot = lake.snapshot();
                if let Some(whole) = &table.config.part_of {
                    let suffix = if dead_letters { DEAD_LETTERS_SUFFIX } else { "" };
                    self.catalog.join(&format!("{whole}{suffix}"), lake.name(), &snapshot.schema);
                }
                hub.add_table(CutTable {
                    name: lake.name().into(),
                    schema: Arc::clone(&snapshot.schema),
                    dead_letters,
                    boundary: table.boundary.clone(),
                    lake: Some(snapshot),
                    tail: Vec::new(),
                    tail_bytes: 0,
                })?;
            }
        }
        for table in &tables {
            let Some(time) = EventTime::of(&table.config, table.topic.partitions) else { continue };
            if let Some(cut) = hub.cut().tables.get(&table.config.name)
                && let Err(error) = time.check(cut)
            {
                tracing::warn!(table = %table.config.name, error = ?error, "the table has no watermark");
            }
            self.catalog.set_event_time(&table.config.name, time);
        }
        let owners = tables.iter().map(|table| {
            let options = OwnerOptions {
                commit_every: table.config.commit_every.0,
                commit_bytes: table.config.commit_size.as_usize().min(self.budget.limit_bytes() / 2).max(1),
            };
            let (log, hub, clock) = (self.log.clone(), Arc::clone(&hub), Arc::clone(&self.clock));
            TableOwner::start(log, hub, table.clone(), self.budget.clone(), options, clock)
        });
        let owners = owners.collect();
        let (log, decoders) = (self.log.clone(), Arc::clone(&self.decoders));
        let reader = TopicReader::start(log, Arc::clone(&hub), topic, tables, self.budget.clone(), decoders);
        self.state.lock().running.insert(topic.to_owned(), Arc::new(TopicPipeline { hub, reader, owners }));
        self.changed.notify_waiters();
        Ok(())
    }

    /// Names of the tables that were refused.
    pub(crate) fn refused(&self) -> Vec<String> {
        self.state.lock().refused.iter().map(|refused| refused.table.clone()).collect()
    }

    /// Whether a table was refused on `topic`, which may have `{table}` in it.
    pub(crate) fn is_refused(&self, topic: &str) -> bool {
        self.state.lock().refused.iter().any(|refused| fills(topic, &refused.topic))
    }

    /// The tables that run.
    pub(crate) fn tables(&self) -> Vec<OpenTable> {
        self.topics()
            .iter()
            .flat_map(|topic| topic.owners.iter().map(|owner| owner.table().clone()))
            .collect()
    }

    fn topics(&self) -> Vec<Arc<TopicPipeline>> {
        self.state.lock().running.values().cloned().collect()
    }

    /// Waits until every tail has reached `ends`: topic by topic, the committed ends found at open.
    pub(crate) async fn reach(&self, ends: &BTreeMap<String, Boundary>) -> Result<()> {
        for (topic, ends) in ends {
            if ends.iter().all(|(_, end)| end == 0) {
                continue;
            }
            let Some(running) = self.started(topic).await? else { continue };
            let mut changes = running.hub.changes();
            while !has_reached(&running.hub, ends) {
                self.catalog.set_records_to_go(ends.records_above(&running.hub.cut().decoded));
                if changes.changed().await.is_err() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The topic once it runs; `None` when it has no table that can.
    async fn started(&self, topic: &str) -> Result<Option<Arc<TopicPipeline>>> {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state.lock();
                if let Some(error) = state.failure.take() {
                    return Err(error);
                }
                if let Some(running) = state.running.get(topic) {
                    return Ok(Some(Arc::clone(running)));
                }
                if !state.inferring.contains_key(topic) {
                    return Ok(None);
                }
            }
            // A change between the look above and the wait is seen at the latest after this time.
            let _ = tokio::time::timeout(std::time::Duration::from_millis(100), changed).await;
        }
    }

    /// Committed ends of all topics that have tables.
    pub(crate) fn ends(&self) -> Result<BTreeMap<String, Boundary>> {
        let tables = self.tables_now();
        let topics = tables.iter().map(TableConfig::topic_name);
        topics.map(|topic| Ok((topic.to_owned(), self.log.ends(topic)?))).collect()
    }

    /// Waits until everything that is committed to the log now is in the lake.
    pub(crate) async fn flush(self: &Arc<Pipeline>) -> Result<()> {
        self.start().await?;
        let ends = self.ends()?;
        self.reach(&ends).await?;
        for (topic, ends) in ends {
            let running = self.state.lock().running.get(&topic).cloned();
            let Some(running) = running else { continue };
            for owner in &running.owners {
                owner.flush(ends.clone()).await?;
            }
        }
        Ok(())
    }

    /// Completes when a reader or an owner cannot go on, with the reason.
    pub(crate) async fn failed(&self) -> Error {
        loop {
            let changed = self.changed.notified();
            let topics = self.topics();
            if let Some(error) = self.state.lock().failure.take() {
                return error;
            }
            let mut watches: Vec<std::pin::Pin<Box<dyn Future<Output = Error> + Send + '_>>> = Vec::new();
            for topic in &topics {
                watches.push(Box::pin(topic.reader.failed()));
                watches.extend(topic.owners.iter().map(|owner| Box::pin(owner.failed()) as _));
            }
            let any = async {
                if watches.is_empty() {
                    std::future::pending().await
                } else {
                    futures::future::select_all(watches).await.0
                }
            };
            tokio::select! {
                error = any => return error,
                () = changed => {}
                // A change between the look above and the wait is seen at the latest after this time.
                () = clock::pause(std::time::Duration::from_secs(1)) => {}
            }
        }
    }

    /// Stops readers, then owners after the commit under way.
    pub(crate) async fn stop(&self) {
        for topic in self.topics() {
            topic.reader.stop().await;
            for owner in &topic.owners {
                owner.stop().await;
            }
        }
    }

    /// What each table does.
    pub(crate) fn table_status(&self) -> Vec<TableStatus> {
        let mut tables = Vec::new();
        for topic in self.topics() {
            for owner in &topic.owners {
                let ends = self.log.ends(&owner.table().topic.name).unwrap_or_default();
                tables.push(owner.status(&ends));
            }
        }
        let state = self.state.lock();
        for (topic, configs) in &state.inferring {
            let lag_records = self.log.ends(topic).map_or(0, |ends| ends.records_above(&Boundary::new()));
            tables.extend(configs.iter().map(|config| TableStatus {
                name: config.name.clone(),
                topic: topic.clone(),
                state:
                    if state.waiting.contains_key(&config.name) { "waiting" } else { "inferring" }.to_owned(),
                last_error: state.waiting.get(&config.name).cloned(),
                lag_records,
                ..TableStatus::default()
            }));
        }
        tables.extend(state.refused.iter().map(|refused| TableStatus {
            name: refused.table.clone(),
            topic: refused.topic.clone(),
            state: "refused".to_owned(),
            last_error: Some(refused.error.clone()),
            ..TableStatus::default()
        }));
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        tables
    }

    /// How far consumer groups are.
    pub(crate) fn group_status(&self) -> Vec<GroupStatus> {
        group_status(&self.log)
    }

    /// What the log holds.
    pub(crate) fn topic_status(&self) -> Vec<TopicStatus> {
        topic_status(&self.log)
    }
}

/// Groups that are told of at most: a status is for people, and for a scrape every few seconds.
const MOST_GROUPS: usize = 1_000;

/// What consumer groups have committed to `log`, and what is above that.
pub(crate) fn group_status(log: &Log) -> Vec<GroupStatus> {
    let mut groups = Vec::new();
    for (name, committed) in log.all_group_offsets().unwrap_or_default().into_iter().take(MOST_GROUPS) {
        let partitions = committed.into_iter().map(|(topic, partition, committed)| {
            let end = log.stable_end(&topic, partition).unwrap_or(committed);
            let lag = u64::try_from(end - committed).unwrap_or(0);
            GroupPartitionStatus { topic, partition, committed, lag }
        });
        groups.push(GroupStatus { name, partitions: partitions.collect() });
    }
    groups
}

/// What `log` holds.
pub(crate) fn topic_status(log: &Log) -> Vec<TopicStatus> {
    let mut topics: BTreeMap<String, TopicStatus> = BTreeMap::new();
    for stats in log.stats().unwrap_or_default() {
        let topic = topics.entry(stats.topic.clone()).or_default();
        topic.name = stats.topic;
        topic.partitions.push(PartitionStatus {
            partition: stats.partition,
            start: stats.start,
            end: stats.end,
            size_bytes: stats.size_bytes,
        });
    }
    topics.into_values().collect()
}
