//! Reads one topic, live.

use std::sync::Arc;

use parking_lot::Mutex;
use tarn_log::Log;
use tarn_model::{Boundary, Error, Kind, Offset, OffsetRange, PartitionId, Result};
use tarn_table::open::{Backoff, align};
use tarn_table::{Decoder, Fragment, OpenTable, TailBudget, TopicHub};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Compressed bytes of one fetch: a few MiB once unpacked and decoded.
const FETCH_BYTES: usize = 1 << 20;

type ReaderFailure = Arc<Mutex<Option<Error>>>;

/// One task per partition of a topic; all of them publish into the topic's hub.
#[derive(Debug)]
pub struct TopicReader {
    stop: watch::Sender<bool>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
    failure: ReaderFailure,
    failed: watch::Receiver<bool>,
}

/// What all partitions of a topic share.
struct Shared {
    log: Log,
    hub: Arc<TopicHub>,
    topic: Arc<str>,
    tables: Vec<OpenTable>,
    budget: TailBudget,
    decoders: Arc<Semaphore>,
}

impl TopicReader {
    /// Starts reading `topic` for `tables`, each from its own boundary. The tables must be in the hub already. At most as
    /// many decodes run at once as `decoders` has permits.
    pub fn start(
        log: Log,
        hub: Arc<TopicHub>,
        topic: &str,
        tables: Vec<OpenTable>,
        budget: TailBudget,
        decoders: Arc<Semaphore>,
    ) -> TopicReader {
        let partitions = tables.first().map_or(0, |table| table.topic.partitions);
        let shared = Arc::new(Shared { log, hub, topic: topic.into(), tables, budget, decoders });
        let (stop, stopped) = watch::channel(false);
        let (fail, failed) = watch::channel(false);
        let failure = ReaderFailure::default();
        let mut tasks = JoinSet::new();
        for partition in 0..partitions {
            let (shared, mut stopped) = (Arc::clone(&shared), stopped.clone());
            let (failure, fail) = (Arc::clone(&failure), fail.clone());
            tasks.spawn(async move {
                let reading = PartitionReader::new(shared, partition).run();
                let ended = tokio::select! {
                    ended = reading => ended,
                    _ = stopped.wait_for(|stop| *stop) => return,
                };
                if let Err(error) = ended {
                    tracing::error!(partition, error = ?error, "reader ended");
                    failure.lock().get_or_insert(error);
                    fail.send_replace(true);
                }
            });
        }
        TopicReader { stop, tasks: tokio::sync::Mutex::new(tasks), failure, failed }
    }

    /// Completes when a partition cannot be read any further, with the reason.
    pub async fn failed(&self) -> Error {
        let mut failed = self.failed.clone();
        if failed.wait_for(|failed| *failed).await.is_err() {
            std::future::pending::<()>().await;
        }
        let message = self.failure.lock().as_ref().map(|error| format!("{error}"));
        self.failure.lock().take().unwrap_or_else(|| Error::internal(message.unwrap_or_default()))
    }

    /// Stops all partitions; what is being decoded is thrown away.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let mut tasks = self.tasks.lock().await;
        while tasks.join_next().await.is_some() {}
    }
}

/// A table, and how far this partition is decoded for it.
struct Cursor {
    table: usize,
    decoder: Option<Decoder>,
    next: Offset,
}

struct PartitionReader {
    shared: Arc<Shared>,
    partition: PartitionId,
    cursors: Vec<Cursor>,
}

/// What one fetch became for the tables whose cursors stood at its start.
struct Step {
    decoders: Vec<(usize, Decoder)>,
    fragments: Vec<(usize, Arc<Fragment>)>,
    next: Offset,
}

impl PartitionReader {
    fn new(shared: Arc<Shared>, partition: PartitionId) -> PartitionReader {
        let cursors = shared.tables.iter().enumerate();
        let cursors =
            cursors.map(|(table, open)| Cursor { table, decoder: None, next: open.boundary.next(partition) });
        PartitionReader { cursors: cursors.collect(), partition, shared }
    }

    async fn run(mut self) -> Result<()> {
        for cursor in &mut self.cursors {
            cursor.decoder = Some(Decoder::new(&self.shared.tables[cursor.table].format)?);
        }
        let mut commits = self.shared.log.commits();
        let mut backoff = Backoff::default();
        while let Some(from) = self.cursors.iter().map(|cursor| cursor.next).min() {
            commits.borrow_and_update();
            let end = self.shared.log.ends(&self.shared.topic)?.next(self.partition);
            if from >= end {
                if commits.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            }
            self.shared.budget.wait_for_room().await;
            let start = self.shared.log.starts(&self.shared.topic)?.next(self.partition);
            if from < start {
                self.skip_lost(from, start)?;
                continue;
            }
            match self.step(from).await {
                Ok(()) => backoff.reset(),
                Err(error) if error.kind() == Kind::Unavailable => {
                    tracing::warn!(topic = %self.shared.topic, partition = self.partition, %error, "reading again");
                    backoff.wait().await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A forced trim took `[from, start)`: the tail stays gapless, with no rows there.
    fn skip_lost(&mut self, from: Offset, start: Offset) -> Result<()> {
        let shared = &self.shared;
        tracing::error!(topic = %shared.topic, partition = self.partition, from, to = start, "records were trimmed before they were read");
        let mut published = Vec::new();
        for cursor in self.cursors.iter_mut().filter(|cursor| cursor.next < start) {
            let table = &shared.tables[cursor.table];
            let rows = arrow::array::RecordBatch::new_empty(Arc::clone(&table.schema));
            let range = OffsetRange::new(cursor.next, start);
            let fragment =
                Arc::new(Fragment { partition: self.partition, range, rows, dead: None, bytes: 0 });
            published.push((cursor.table, fragment));
            cursor.next = start;
        }
        publish(shared, self.partition, published)
    }

    /// Fetches once at the lowest cursor, and decodes for every table that stands there.
    async fn step(&mut self, from: Offset) -> Result<()> {
        let here: Vec<usize> = self
            .cursors
            .iter()
            .enumerate()
            .filter(|(_, cursor)| cursor.next == from)
            .map(|(i, _)| i)
            .collect();
        let mut decoders = Vec::new();
        for i in &here {
            let cursor = &mut self.cursors[*i];
            let decoder = match cursor.decoder.take() {
                Some(decoder) => decoder,
                None => Decoder::new(&self.shared.tables[cursor.table].format)?,
            };
            decoders.push((cursor.table, decoder));
        }
        let permit = self
            .shared
            .decoders
            .acquire()
            .await
            .map_err(|_| Error::unavailable("the readers were stopped"))?;
        let (shared, partition) = (Arc::clone(&self.shared), self.partition);
        let step = tokio::task::spawn_blocking(move || decode(&shared, partition, from, decoders)).await;
        drop(permit);
        let step =
            step.map_err(|error| Error::internal("a decoder ended before its work").with_source(error))??;
        let mut decoders = step.decoders.into_iter();
        for i in here {
            let cursor = &mut self.cursors[i];
            cursor.decoder = decoders.next().map(|(_, decoder)| decoder);
            cursor.next = step.next;
        }
        if step.fragments.is_empty() { Ok(()) } else { publish(&self.shared, self.partition, step.fragments) }
    }
}

fn decode(
    shared: &Shared,
    partition: PartitionId,
    from: Offset,
    mut decoders: Vec<(usize, Decoder)>,
) -> Result<Step> {
    let mut fetch = shared.log.fetch(&shared.topic, partition, from, FETCH_BYTES)?;
    if fetch.next == from {
        return Ok(Step { decoders, fragments: Vec::new(), next: from });
    }
    let records = fetch.records()?;
    let range = OffsetRange::new(from, fetch.next);
    let mut fragments = Vec::new();
    for (table, decoder) in &mut decoders {
        let decoded = decoder.decode(partition, &records, &|_| false)?;
        let rows = align(&decoded.rows, &shared.tables[*table].schema)?;
        let dead_bytes = decoded.dead.as_ref().map_or(0, arrow::array::RecordBatch::get_array_memory_size);
        let bytes = rows.get_array_memory_size() + dead_bytes;
        fragments.push((*table, Arc::new(Fragment { partition, range, rows, dead: decoded.dead, bytes })));
    }
    Ok(Step { decoders, fragments, next: fetch.next })
}

/// Every table and its dead-letter table move at once.
fn publish(shared: &Shared, partition: PartitionId, fragments: Vec<(usize, Arc<Fragment>)>) -> Result<()> {
    let mut published = Vec::with_capacity(2 * fragments.len());
    for (table, fragment) in fragments {
        let config = &shared.tables[table].config;
        published.push((config.dead_letters_name(), Arc::clone(&fragment)));
        published.push((config.name.clone(), fragment));
    }
    shared.hub.publish(partition, published)
}

/// Whether every partition of `hub`'s topic is decoded up to `ends`.
pub fn has_reached(hub: &TopicHub, ends: &Boundary) -> bool {
    hub.cut().decoded.is_at_least(ends)
}
