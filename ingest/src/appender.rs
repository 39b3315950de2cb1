//! Appends of a few MiB: one is built, the next is compressed, the next commits.
//!
//! *Invariant*: an append is committed only when the one before it is. Otherwise the first could fail and the second commit
//! a position beyond it: the first one's records would be lost. No record is handed over without a position behind it.
//! Whoever reads positions after an error must know how the last appends ended, so dropping an [`Appender`] waits for them.
//!
//! *A rate limit* is kept here: once a tenth of a second is owed an append is full, however small it is, and the first record of
//! the next one waits until nothing is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tarn_log::{Append, Appended, RecordRef, RecordView, TopicInfo};
use tarn_model::{Error, PartitionId, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::monitor::State;
use crate::shaper::Sink;
use crate::source::Source;
use crate::throttle::Throttle;

/// Size at which an append is handed to an idle log.
pub(crate) const ENOUGH_BYTES: usize = 1 << 20;
/// At so many times that size, building waits for the append under way.
const MOST: usize = 4;
/// Appends that were handed over and are not committed.
const UNDER_WAY: usize = 2;
/// An append is full when so much time is owed to the source's rate limit.
const MOST_OWED: Duration = Duration::from_millis(100);
/// Longest wait for the rate limit in one piece.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Builds and submits the appends of one source.
pub(crate) struct Appender<'a> {
    source: &'a Source,
    building: Append,
    under_way: VecDeque<UnderWay>,
    /// Whether records were pushed since the last position.
    behind: bool,
    /// Whether enough is owed to the rate limit to end the append.
    owes: bool,
    /// Records that were dropped since the last append was handed over.
    dropped: u64,
    /// Appends that were handed over, and those of them that are committed.
    submitted: u64,
    committed: u64,
}

impl Sink for Appender<'_> {
    #[inline]
    fn push(&mut self, topic: &Arc<TopicInfo>, record: &RecordRef<'_>) -> Result<()> {
        self.behind = true;
        match &self.source.throttle {
            None => self.building.push(topic, record),
            Some(_) => self.push_limited(|append| append.push(topic, record)),
        }
    }

    fn dropped(&mut self) {
        self.behind = true;
        self.dropped += 1;
        self.building.dropped(&self.source.name, 1);
    }
}

/// An append that was handed over.
struct UnderWay {
    stage: watch::Receiver<Stage>,
    task: JoinHandle<Result<Appended>>,
    dropped: u64,
}

/// How far an append is; one whose sender is gone before `Committed` has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Stage {
    Packing,
    Packed,
    Committed,
}

impl<'a> Appender<'a> {
    pub(crate) fn new(source: &'a Source) -> Appender<'a> {
        let (building, under_way) = (Append::new(), VecDeque::new());
        let (submitted, committed) = (0, 0);
        Appender { source, building, under_way, behind: false, owes: false, dropped: 0, submitted, committed }
    }

    /// Pushes a record of another log as it is there, to a given partition or to that of its key.
    pub(crate) fn push_copy(
        &mut self,
        topic: &Arc<TopicInfo>,
        partition: Option<PartitionId>,
        record: &RecordView<'_>,
    ) -> Result<()> {
        self.behind = true;
        match &self.source.throttle {
            None => self.building.push_copy(topic, partition, record),
            Some(_) => self.push_limited(|append| append.push_copy(topic, partition, record)),
        }
    }

    /// Pushes a record to a given partition, or to that of its key.
    pub(crate) fn push_to(
        &mut self,
        topic: &Arc<TopicInfo>,
        partition: Option<PartitionId>,
        record: &RecordRef<'_>,
    ) -> Result<()> {
        self.behind = true;
        let push = |append: &mut Append| match partition {
            Some(partition) => append.push_to(topic, partition, record),
            None => append.push(topic, record),
        };
        match &self.source.throttle {
            None => push(&mut self.building),
            Some(_) => self.push_limited(push),
        }
    }

    /// Pushes a record, and charges it; the first of an append waits until nothing is owed.
    fn push_limited(&mut self, push: impl FnOnce(&mut Append) -> Result<()>) -> Result<()> {
        if self.building.records() == 0 {
            while !self.keep_pace(LONGEST_WAIT)? {}
        }
        let before = self.building.bytes();
        push(&mut self.building)?;
        let grown = self.building.bytes() - before;
        let owed = self.source.throttle.as_ref().map(|throttle| throttle.take(1, grown as u64));
        self.owes = owed.is_some_and(|owed| owed >= MOST_OWED);
        Ok(())
    }

    /// Waits for the rate limit, at most so long; what is under way is committed meanwhile. Whether nothing more is owed, or
    /// nobody waits for it any more because the source is to stop.
    pub(crate) fn keep_pace(&mut self, at_most: Duration) -> Result<bool> {
        let source = self.source;
        let debt = source.throttle.as_ref().map(Throttle::debt).unwrap_or_default();
        if debt.is_zero() || source.stopping() {
            return Ok(true);
        }
        self.settle()?;
        source.monitor.state(State::Limited);
        source.pause(debt.min(at_most));
        source.monitor.state(State::Running);
        Ok(debt <= at_most || source.stopping())
    }

    /// Whether enough is owed to the rate limit to end the append here.
    #[inline]
    pub(crate) fn owes(&self) -> bool {
        self.owes
    }

    /// Whether it is time to set positions and [`Appender::submit`].
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        let (bytes, enough) = (self.building.bytes(), self.source.append_bytes);
        self.owes
            || bytes >= enough
                && (bytes >= MOST * enough || self.under_way.iter().all(|append| append.task.is_finished()))
    }

    /// Whether there is nothing to submit.
    pub(crate) fn is_empty(&self) -> bool {
        self.building.is_empty()
    }

    /// Appends that were handed over so far.
    pub(crate) fn submitted(&self) -> u64 {
        self.submitted
    }

    /// Those of them that are known to be committed: the first so many.
    pub(crate) fn committed(&self) -> u64 {
        self.committed
    }

    /// Whether records were pushed whose position is not set yet.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind
    }

    pub(crate) fn position(&mut self, key: &str, value: Option<serde_json::Value>) {
        self.behind = false;
        self.building.position(&self.source.name, key, value);
    }

    /// Keeps a word for `keeper`, which is no source's position: committed with what is.
    pub(crate) fn note(&mut self, keeper: &str, key: &str, value: Option<serde_json::Value>) {
        self.building.position(keeper, key, value);
    }

    /// Forgets what was not handed over.
    pub(crate) fn discard(&mut self) {
        self.building = Append::new();
        (self.behind, self.owes) = (false, false);
        self.dropped = 0;
    }

    /// Hands the append over; waits while there are too many under way.
    pub(crate) fn submit(&mut self) -> Result<()> {
        if self.behind {
            return Err(Error::internal("records would be appended without the position they reach"));
        }
        if self.building.is_empty() {
            return Ok(());
        }
        while self.under_way.len() >= UNDER_WAY
            || self.under_way.front().is_some_and(|a| a.task.is_finished())
        {
            self.settle_first()?;
        }
        let append = std::mem::replace(&mut self.building, Append::new());
        self.owes = false;
        let before = self.under_way.back().map(|append| append.stage.clone());
        let (reached, stage) = watch::channel(Stage::Packing);
        let log = self.source.log.clone();
        let task = self.source.runtime.spawn(async move {
            let gone = |_| Error::unavailable("the append before this one was not made");
            let mut before = before;
            // Packed in order too, for what is packed takes room that the one before may wait for.
            if let Some(before) = &mut before {
                before.wait_for(|stage| *stage >= Stage::Packed).await.map_err(gone)?;
            }
            let packed = log.pack(append).await?;
            reached.send_replace(Stage::Packed);
            if let Some(before) = &mut before {
                before.wait_for(|stage| *stage >= Stage::Committed).await.map_err(gone)?;
            }
            let appended = log.commit(packed).await?;
            reached.send_replace(Stage::Committed);
            Ok(appended)
        });
        self.under_way.push_back(UnderWay { stage, task, dropped: std::mem::take(&mut self.dropped) });
        self.submitted += 1;
        Ok(())
    }

    /// Hands the append over and waits until it is committed.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.submit()?;
        self.settle()
    }

    fn settle(&mut self) -> Result<()> {
        while !self.under_way.is_empty() {
            self.settle_first()?;
        }
        Ok(())
    }

    fn settle_first(&mut self) -> Result<()> {
        let Some(first) = self.under_way.pop_front() else { return Ok(()) };
        let appended = self
            .source
            .runtime
            .block_on(first.task)
            .map_err(|error| Error::unavailable("the append was cancelled").with_source(error))??;
        self.committed += 1;
        self.source.monitor.committed(appended.records);
        self.source.monitor.dropped(first.dropped);
        Ok(())
    }
}

impl Drop for Appender<'_> {
    fn drop(&mut self) {
        while !self.under_way.is_empty() {
            let _ = self.settle_first();
        }
    }
}
