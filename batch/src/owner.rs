//! One table's owner: the only one that commits to it.
//!
//! A commit is due when the tail's oldest row has waited `commit_every`, when the tail holds `commit_size`, or when all tails
//! together pass half of their memory. Its steps: log durable → dead letters written and committed → rows written and
//! committed → tail dropped. What has been prepared is kept over an error, so that a full disk does not fill with copies.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tarn_lake::{Commit, LakeSnapshot, LakeTable, NewFile};
use tarn_log::Log;
use tarn_model::clock::Clock;
use tarn_model::status::{LastError, TableStatus};
use tarn_model::{Boundary, Error, Kind, Result, fault};
use tarn_table::catalog::boundary_of;
use tarn_table::open::{Backoff, advances};
use tarn_table::watermark::{Times, read_newest};
use tarn_table::{CutTable, EventTime, OpenTable, TailBudget, TopicHub};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::prepare::{Taken, take};

/// How an owner works.
#[derive(Debug, Clone)]
pub struct OwnerOptions {
    /// Longest time that a row stays out of the lake.
    pub commit_every: Duration,
    /// Decoded bytes at which a commit comes early.
    pub commit_bytes: usize,
}

/// The handle of an owner's task.
#[derive(Debug)]
pub struct TableOwner {
    orders: mpsc::Sender<Order>,
    state: Arc<Mutex<State>>,
    failed: watch::Receiver<bool>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    table: OpenTable,
    hub: Arc<TopicHub>,
}

enum Order {
    /// Commit until the boundary is at least this, then answer.
    Flush(Boundary, oneshot::Sender<()>),
    Stop,
}

#[derive(Debug, Default)]
struct State {
    waiting: bool,
    last_error: Option<LastError>,
    oldest: Option<Instant>,
    failure: Option<Error>,
}

impl TableOwner {
    /// Starts the owner of `table`, which must be in the hub.
    pub fn start(
        log: Log,
        hub: Arc<TopicHub>,
        table: OpenTable,
        budget: TailBudget,
        options: OwnerOptions,
        clock: Arc<dyn Clock>,
    ) -> TableOwner {
        let (orders, inbox) = mpsc::channel(8);
        let (fail, failed) = watch::channel(false);
        let state = Arc::new(Mutex::new(State::default()));
        log.hold(&table.topic.name, &table.config.name, table.boundary.clone());
        let owner = Owner {
            log,
            hub: Arc::clone(&hub),
            table: table.clone(),
            budget,
            options,
            clock,
            state: Arc::clone(&state),
            prepared: None,
            flushes: Vec::new(),
            upkeep: None,
            event_time: EventTime::of(&table.config, table.topic.partitions),
        };
        let task = tokio::spawn(async move {
            let state = Arc::clone(&owner.state);
            let name = owner.table.config.name.clone();
            if let Err(error) = owner.run(inbox).await {
                tracing::error!(table = %name, error = ?error, "owner ended");
                state.lock().failure = Some(error);
                fail.send_replace(true);
            }
        });
        TableOwner { orders, state, failed, task: tokio::sync::Mutex::new(Some(task)), table, hub }
    }

    /// The table.
    pub fn table(&self) -> &OpenTable {
        &self.table
    }

    /// Waits until everything below `upto` is in the lake.
    pub async fn flush(&self, upto: Boundary) -> Result<()> {
        let (done, wait) = oneshot::channel();
        let gone =
            || Error::unavailable(format!("the owner of table `{}` has ended", self.table.config.name));
        self.orders.send(Order::Flush(upto, done)).await.map_err(|_| gone())?;
        wait.await.map_err(|_| gone())
    }

    /// Completes when the table cannot be committed to any more, with the reason.
    pub async fn failed(&self) -> Error {
        let mut failed = self.failed.clone();
        if failed.wait_for(|failed| *failed).await.is_err() {
            std::future::pending::<()>().await;
        }
        let failure = self.state.lock().failure.take();
        failure
            .unwrap_or_else(|| Error::unavailable(format!("table `{}` was stopped", self.table.config.name)))
    }

    /// Ends after the commit under way.
    pub async fn stop(&self) {
        // A task that has ended already needs no order.
        let _ = self.orders.send(Order::Stop).await;
        if let Some(task) = self.task.lock().await.take() {
            let _ = task.await;
        }
    }

    /// What the table is doing; `ends` are the log's committed ends.
    pub fn status(&self, ends: &Boundary) -> TableStatus {
        let cut = self.hub.cut();
        let name = &self.table.config.name;
        let rows = |snapshot: &tarn_lake::LakeSnapshot| {
            let rows = snapshot.statistics.rows.iter().flatten().sum::<i64>();
            u64::try_from(rows).unwrap_or(0)
        };
        let mut status = TableStatus {
            name: name.clone(),
            topic: self.table.topic.name.clone(),
            lag_records: ends.records_above(&cut.decoded),
            ..TableStatus::default()
        };
        if let Some(table) = cut.tables.get(name) {
            status.tail_rows = table.tail_rows();
            status.tail_bytes = table.tail_bytes as u64;
            status.uncommitted_records = ends.records_above(&table.boundary);
            if let Some(time) = EventTime::of(&self.table.config, self.table.topic.partitions) {
                let newest = time.newest(table, &table.decoded()).unwrap_or_default();
                status.watermark_ms = time.watermark(&newest).map(|at| at.div_euclid(1000));
                let in_lake = table.lake.as_ref().map_or(0, |lake| time.late_in_lake(lake));
                status.late_records = time.late_in_tail(table, &table.decoded()).map(|late| late + in_lake);
            }
            if let Some(lake) = &table.lake {
                status.lake_rows = rows(lake);
                status.files = lake.files.len() as u64;
                status.lake_bytes = lake.files.iter().map(|file| file.size).sum();
                status.version = Some(lake.version);
            }
        }
        if let Some(dead) = cut.tables.get(&self.table.config.dead_letters_name()) {
            let tail = dead
                .tail
                .iter()
                .filter_map(|f| f.dead.as_ref())
                .map(|dead| dead.num_rows() as u64)
                .sum::<u64>();
            status.dead_letters = tail + dead.lake.as_ref().map_or(0, |lake| rows(lake));
        }
        let state = self.state.lock();
        status.state = match (&state.failure, state.waiting) {
            (Some(_), _) => "stopped",
            (None, true) => "waiting",
            (None, false) => "running",
        }
        .to_owned();
        status.last_error = state.last_error.clone();
        if status.uncommitted_records > 0 {
            status.uncommitted_s = state.oldest.map_or(0.0, |oldest| oldest.elapsed().as_secs_f64());
        }
        status
    }
}

/// After event times of older rows could not be read, they are tried again in so long, and then in twice as long each time: it is a
/// look at all of them.
const LEARN_AGAIN: Duration = Duration::from_secs(1);
/// But at least so often.
const LEARN_AT_LEAST: Duration = Duration::from_secs(15 * 60);

/// When event times of older rows are looked for.
#[derive(Debug)]
struct Learning {
    /// `None` once they are known.
    at: Option<Instant>,
    wait: Duration,
}

impl Learning {
    /// From `now` on.
    fn new(now: Instant) -> Learning {
        Learning { at: Some(now), wait: LEARN_AGAIN }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| at <= now)
    }

    fn until_due(&self, now: Instant) -> Duration {
        self.at.map_or(Duration::MAX, |at| at.saturating_duration_since(now))
    }

    fn succeeded(&mut self) {
        self.at = None;
    }

    fn failed(&mut self, now: Instant) {
        self.at = Some(now + self.wait);
        self.wait = (self.wait * 2).min(LEARN_AT_LEAST);
    }
}

/// What a commit needs, written and kept until it has landed.
struct Prepared {
    taken: Taken,
    /// What its rows say of event time.
    times: Option<Times>,
    dead_files: Option<Vec<NewFile>>,
    dead_done: bool,
    files: Option<Vec<NewFile>>,
}

struct Owner {
    log: Log,
    hub: Arc<TopicHub>,
    table: OpenTable,
    budget: TailBudget,
    options: OwnerOptions,
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
    prepared: Option<Prepared>,
    flushes: Vec<(Boundary, oneshot::Sender<()>)>,
    upkeep: Option<JoinHandle<()>>,
    event_time: Option<EventTime>,
}

impl Owner {
    async fn run(mut self, mut inbox: mpsc::Receiver<Order>) -> Result<()> {
        let mut changes = self.hub.changes();
        let mut backoff = Backoff::default();
        let mut learning = Learning::new(Instant::now());
        loop {
            changes.borrow_and_update();
            if learning.is_due(Instant::now()) {
                match self.learn_event_times().await {
                    Ok(()) => learning.succeeded(),
                    Err(error) => {
                        learning.failed(Instant::now());
                        let again_s = learning.until_due(Instant::now()).as_secs_f64();
                        tracing::warn!(table = %self.table.config.name, again_s, error = ?error, "watermarks are read from the rows");
                    }
                }
            }
            self.answer_flushes();
            if self.is_due() {
                match self.commit().await {
                    Ok(()) => {
                        backoff.reset();
                        self.succeeded();
                        self.start_upkeep();
                    }
                    Err(error) if error.kind() == Kind::Unavailable => {
                        self.failed(&error);
                        tokio::select! {
                            () = backoff.wait() => {}
                            order = inbox.recv() => if self.obey(order) { break },
                        }
                    }
                    Err(error) => return Err(error),
                }
                continue;
            }
            let wait = self.until_due().min(learning.until_due(Instant::now()));
            tokio::select! {
                order = inbox.recv() => if self.obey(order) { break },
                changed = changes.changed() => if changed.is_err() { break },
                () = tokio::time::sleep_until(Instant::now() + wait) => {}
            }
        }
        if let Some(upkeep) = self.upkeep.take() {
            // Upkeep that is cut off leaves files without a commit, as a kill would: vacuum takes them.
            upkeep.abort();
            let _ = upkeep.await;
        }
        Ok(())
    }

    /// Commits what rows that were written before the table had an event time say of it.
    async fn learn_event_times(&self) -> Result<()> {
        let (Some(time), lake) = (&self.event_time, self.table.lake.snapshot()) else { return Ok(()) };
        let cut = self.hub.cut();
        let Some(table) = cut.tables.get(&self.table.config.name) else { return Ok(()) };
        if time.in_lake(&lake).is_some() || time.check(table).is_err() {
            return Ok(());
        }
        let newest = read_newest(time, table, Arc::clone(self.table.lake.store())).await?;
        let marks = time.marks(&lake, &boundary_of(&lake), &newest);
        let commit = Commit { marks, operation: "EVENT TIME".to_owned(), ..Commit::default() };
        fault::point("lake.event_time.before")?;
        let snapshot = self.table.lake.commit(commit).await?;
        fault::point("lake.event_time.after")?;
        tracing::info!(table = %self.table.config.name, column = time.column, "event times of older rows are known");
        show_snapshot(&self.hub, &self.table.config.name, snapshot);
        Ok(())
    }

    /// Whether the order was to stop.
    fn obey(&mut self, order: Option<Order>) -> bool {
        match order {
            Some(Order::Flush(upto, done)) => {
                self.flushes.push((upto, done));
                false
            }
            Some(Order::Stop) | None => true,
        }
    }

    fn boundary(&self) -> Boundary {
        let cut = self.hub.cut();
        cut.tables.get(&self.table.config.name).map(|table| table.boundary.clone()).unwrap_or_default()
    }

    fn answer_flushes(&mut self) {
        if self.flushes.is_empty() {
            return;
        }
        let boundary = self.boundary();
        let waiting = std::mem::take(&mut self.flushes);
        for (upto, done) in waiting {
            if boundary.is_at_least(&upto) {
                // Whoever asked may have gone.
                let _ = done.send(());
            } else {
                self.flushes.push((upto, done));
            }
        }
    }

    /// Notes since when the tail holds anything, and says whether to commit now.
    fn is_due(&mut self) -> bool {
        let cut = self.hub.cut();
        let Some(table) = cut.tables.get(&self.table.config.name) else { return false };
        let committable = !table.boundary.is_at_least(&cut.decoded.meet(&tail_end(table)));
        let mut state = self.state.lock();
        if !committable && self.prepared.is_none() {
            state.oldest = None;
            return false;
        }
        let oldest = *state.oldest.get_or_insert_with(Instant::now);
        drop(state);
        let share = self.budget.limit_bytes() / 8;
        self.prepared.is_some()
            || !self.flushes.is_empty()
            || oldest.elapsed() >= self.options.commit_every
            || table.tail_bytes >= self.options.commit_bytes
            || (self.budget.is_tight() && table.tail_bytes >= share)
    }

    fn until_due(&self) -> Duration {
        match self.state.lock().oldest {
            Some(oldest) => {
                self.options.commit_every.saturating_sub(oldest.elapsed()).max(Duration::from_millis(1))
            }
            None => Duration::from_secs(3600),
        }
    }

    async fn commit(&mut self) -> Result<()> {
        let mut prepared = match self.prepared.take() {
            Some(prepared) => prepared,
            None => {
                let cut = self.hub.cut();
                let Some(table) = cut.tables.get(&self.table.config.name) else { return Ok(()) };
                let taken = take(&cut, table, self.options.commit_bytes.saturating_mul(2));
                self.hub.begins_commit(&self.table.config.name, taken.to.clone());
                let times = self.event_time.as_ref();
                let times = times.map(|time| Times::of(time, table.lake.as_deref(), &taken.rows));
                Prepared { taken, times, dead_files: None, dead_done: false, files: None }
            }
        };
        let outcome = self.land(&mut prepared).await;
        if outcome.as_ref().is_err_and(|error| error.kind() == Kind::Unavailable) {
            self.prepared = Some(prepared);
        }
        outcome
    }

    async fn land(&mut self, prepared: &mut Prepared) -> Result<()> {
        let to = prepared.taken.to.clone();
        self.log.sync_to(&self.table.topic.name, &to).await?;
        if !prepared.dead_done && !prepared.taken.dead.is_empty() {
            let files = match prepared.dead_files.clone() {
                Some(files) => files,
                None => self.table.dead_letters.write(prepared.taken.dead.clone()).await?,
            };
            prepared.dead_files = Some(files.clone());
            fault::point("lake.dead_letters.before")?;
            self.commit_to(&self.table.dead_letters, files, &to, None, "DEAD LETTERS").await?;
            prepared.dead_done = true;
            fault::point("lake.dead_letters.after")?;
        }
        let files = match prepared.files.clone() {
            Some(files) => files,
            None => self.table.lake.write(prepared.taken.rows.clone()).await?,
        };
        prepared.files = Some(files.clone());
        // Written rows need not be held a second time.
        prepared.taken.rows = Vec::new();
        self.commit_to(&self.table.lake, files, &to, prepared.times.as_ref(), "APPEND").await?;
        fault::point("table.release.before")?;
        let dead_letters = self.table.config.dead_letters_name();
        self.hub.committed(&dead_letters, self.table.dead_letters.snapshot(), to.clone())?;
        self.hub.committed(&self.table.config.name, self.table.lake.snapshot(), to.clone())?;
        self.state.lock().oldest = None;
        self.budget.freed();
        self.log.hold(&self.table.topic.name, &self.table.config.name, to.clone());
        fault::point("table.release.after")?;
        tracing::info!(table = %self.table.config.name, version = self.table.lake.snapshot().version, boundary = %to, "committed");
        Ok(())
    }

    /// Commits `files` with the progress to `to`; a commit that has landed before, without our hearing of it, is not
    /// repeated.
    async fn commit_to(
        &self,
        lake: &LakeTable,
        files: Vec<NewFile>,
        to: &Boundary,
        times: Option<&Times>,
        operation: &str,
    ) -> Result<()> {
        let snapshot = lake.snapshot();
        let advances = advances(&self.table.topic, &snapshot, to);
        if advances.is_empty() {
            return Ok(());
        }
        let told = self.event_time.as_ref().zip(times);
        let marks = told.map(|(time, times)| times.marks(time, &snapshot, to)).unwrap_or_default();
        let commit = Commit { files, advances, marks, operation: operation.to_owned(), ..Commit::default() };
        match lake.commit(commit).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == Kind::Conflict => {
                let snapshot = lake.reload().await?;
                if boundary_of(&snapshot).is_at_least(to) {
                    return Err(Error::fenced(format!(
                        "another process has committed to table `{}`",
                        lake.name()
                    ))
                    .with_source(error));
                }
                Err(Error::unavailable(format!("table `{}` was changed by another writer", lake.name()))
                    .with_source(error))
            }
            Err(error) => Err(error),
        }
    }

    fn succeeded(&self) {
        let mut state = self.state.lock();
        if state.waiting {
            tracing::info!(table = %self.table.config.name, "the lake takes commits again");
        }
        state.waiting = false;
        state.last_error = None;
    }

    fn failed(&self, error: &Error) {
        let mut state = self.state.lock();
        let hint = error.hint().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
        let message = format!("{}{hint}", error.chain());
        if !state.waiting {
            tracing::warn!(table = %self.table.config.name, error = %message, "the lake refuses; trying again until it takes the commit");
        }
        state.waiting = true;
        state.last_error = Some(LastError { message, at_ms: self.clock.now_ms() });
    }

    /// Merges, checkpoints and cleans beside the commits; the lake serialises what must be.
    fn start_upkeep(&mut self) {
        if self.upkeep.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        let (table, hub) = (self.table.clone(), Arc::clone(&self.hub));
        self.upkeep = Some(tokio::spawn(async move {
            for lake in [&table.lake, &table.dead_letters] {
                let before = lake.snapshot().version;
                if let Err(error) = lake.upkeep().await {
                    tracing::warn!(table = lake.name(), error = ?error, "upkeep did not finish; it is tried again");
                }
                let snapshot = lake.snapshot();
                if snapshot.version > before {
                    show_snapshot(&hub, lake.name(), snapshot);
                }
            }
        }));
    }
}

/// Lets readers see a rewritten lake part. The boundary is the snapshot's own, for a commit may have come between; a commit
/// that was shown meanwhile is newer and stays.
pub fn show_snapshot(hub: &TopicHub, table: &str, snapshot: Arc<LakeSnapshot>) {
    let cut = hub.cut();
    let Some(known) = cut.tables.get(table) else { return };
    let boundary = known.boundary.join(&boundary_of(&snapshot));
    if let Err(error) = hub.committed(table, snapshot, boundary) {
        tracing::debug!(table, error = ?error, "a rewritten lake part is shown with the next commit");
    }
}

fn tail_end(table: &CutTable) -> Boundary {
    let mut end = table.boundary.clone();
    for fragment in &table.tail {
        if fragment.range.to > end.next(fragment.partition) {
            end.set(fragment.partition, fragment.range.to);
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_look_at_all_rows_that_goes_on_failing_is_taken_rarely() {
        let start = Instant::now();
        let (mut learning, mut now, mut looks) = (Learning::new(start), start, 0);
        while now < start + Duration::from_secs(24 * 3600) {
            assert!(learning.is_due(now));
            looks += 1;
            learning.failed(now);
            assert!(!learning.is_due(now) && learning.until_due(now) >= LEARN_AGAIN);
            assert!(learning.until_due(now) <= LEARN_AT_LEAST, "it is not given up either");
            now += learning.until_due(now);
        }
        assert!((90..=110).contains(&looks), "{looks} a day");
        learning.succeeded();
        assert!(!learning.is_due(now + Duration::from_secs(24 * 3600)));
    }
}
