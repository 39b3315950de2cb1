//! From a statement's threads to its reader: the pump on one side, the rows on the other.
//!
//! *Why some rows come with the beginning*: on a machine of few cores each word from thread to thread is a wait, and most answers are
//! whole before the first one would be heard.
//!
//! *Invariants*
//! - A statement that waits for its reader holds no place to work.
//! - Rows end with an error at the deadline, whichever side looks at the clock first.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use futures::{Stream, StreamExt};
use tarn_model::{Error, OffsetVector};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, timeout_at};

use super::QUEUE_BATCHES;
use super::counts::Running;
use crate::error::into_datafusion;

/// Moves rows from the statement to its reader, until the deadline.
pub(super) struct Pump {
    pub(super) rows: SendableRecordBatchStream,
    pub(super) sender: mpsc::Sender<RecordBatch>,
    pub(super) deadline: Instant,
    pub(super) timeout: Duration,
    pub(super) rows_to_go: u64,
    pub(super) places: Arc<Semaphore>,
    /// Given up while the reader is awaited.
    pub(super) working: Option<OwnedSemaphorePermit>,
    /// Given back when the statement ends.
    pub(super) _held: (OwnedSemaphorePermit, MemoryReservation),
}

/// What is known of an answer when it begins.
pub(super) struct Begun {
    pub(super) schema: SchemaRef,
    pub(super) vector: OffsetVector,
    pub(super) early: Early,
}

/// Rows that were there without waiting, and how the statement ended, if it has.
#[derive(Default)]
pub(super) struct Early {
    rows: VecDeque<RecordBatch>,
    end: Option<DfResult<()>>,
}

impl Early {
    /// Whether these are all rows.
    pub(super) fn is_all(&self) -> bool {
        self.end.is_some()
    }
}

impl Pump {
    /// As many rows as are there without waiting and the queue would hold.
    pub(super) async fn early(&mut self) -> Early {
        let mut early = Early::default();
        while early.rows.len() < QUEUE_BATCHES && early.end.is_none() {
            match futures::poll!(self.rows.next()) {
                Poll::Pending => break,
                Poll::Ready(None) => early.end = Some(Ok(())),
                Poll::Ready(Some(rows)) => match rows.and_then(|rows| self.counted(rows)) {
                    Ok(rows) => early.rows.push_back(rows),
                    Err(error) => early.end = Some(Err(error)),
                },
            }
        }
        early
    }

    /// `rows`, if the answer may have them.
    fn counted(&mut self, rows: RecordBatch) -> DfResult<RecordBatch> {
        let count = rows.num_rows() as u64;
        let Some(left) = self.rows_to_go.checked_sub(count) else {
            return Err(into_datafusion(
                Error::invalid("the answer has more rows than it may have")
                    .with_sqlstate("54000")
                    .with_hint("ask for fewer with LIMIT, or raise `serving.statement_rows`"),
            ));
        };
        self.rows_to_go = left;
        Ok(rows)
    }

    pub(super) async fn run(mut self) -> DfResult<()> {
        loop {
            let Ok(next) = timeout_at(self.deadline, self.rows.next()).await else {
                return Err(into_datafusion(late(self.timeout)));
            };
            let Some(rows) = next.transpose()? else { return Ok(()) };
            let rows = self.counted(rows)?;
            match self.sender.try_send(rows) {
                Ok(()) => {}
                Err(TrySendError::Closed(_)) => return Ok(()),
                Err(TrySendError::Full(rows)) => {
                    self.working = None;
                    match timeout_at(self.deadline, self.sender.send(rows)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return Ok(()),
                        Err(_) => return Err(into_datafusion(late(self.timeout))),
                    }
                    match timeout_at(self.deadline, self.places.clone().acquire_owned()).await {
                        Ok(place) => self.working = place.ok(),
                        Err(_) => return Err(into_datafusion(late(self.timeout))),
                    }
                }
            }
        }
    }
}

/// The reader's end of a statement.
pub(super) struct Rows {
    pub(super) schema: SchemaRef,
    pub(super) early: Early,
    pub(super) receiver: mpsc::Receiver<RecordBatch>,
    /// `None` once it has ended.
    pub(super) pump: Option<OnDrop<DfResult<()>>>,
    pub(super) running: Option<Running>,
    /// On the reader's own threads: the statement's may be too busy to look at a clock.
    pub(super) watch: Pin<Box<Sleep>>,
    pub(super) timeout: Duration,
}

impl Stream for Rows {
    type Item = DfResult<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(rows) = self.early.rows.pop_front() {
            return Poll::Ready(Some(Ok(rows)));
        }
        if let Some(end) = self.early.end.take() {
            if let Some(running) = self.running.take() {
                running.ended(end.is_ok());
            }
            return Poll::Ready(end.err().map(Err));
        }
        match self.receiver.poll_recv(context) {
            Poll::Ready(Some(rows)) => return Poll::Ready(Some(Ok(rows))),
            Poll::Ready(None) => {}
            Poll::Pending => {
                std::task::ready!(self.watch.as_mut().poll(context));
                self.pump = None;
                self.receiver.close();
                if let Some(running) = self.running.take() {
                    running.ended(false);
                    return Poll::Ready(Some(Err(into_datafusion(late(self.timeout)))));
                }
                return Poll::Ready(None);
            }
        }
        // The queue is closed: how the statement ended decides whether these were all rows.
        let Some(pump) = self.pump.as_mut() else { return Poll::Ready(None) };
        let ended = std::task::ready!(Pin::new(pump).poll(context));
        self.pump = None;
        let running = self.running.take();
        let ended = ended.unwrap_or_else(|error| Err(DataFusionError::ExecutionJoin(Box::new(error))));
        if let Some(running) = running {
            running.ended(ended.is_ok());
        }
        Poll::Ready(ended.err().map(Err))
    }
}

impl RecordBatchStream for Rows {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

/// A task that ends when nobody waits for it any more.
pub(super) struct OnDrop<T>(pub(super) JoinHandle<T>);

impl<T> Future for OnDrop<T> {
    type Output = std::result::Result<T, tokio::task::JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for OnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The error of a statement that took too long.
pub(super) fn late(timeout: Duration) -> Error {
    Error::unavailable(format!("the statement took longer than {timeout:?} and was cancelled"))
        .with_sqlstate("57014")
        .with_hint("ask for less, read the answer faster, or raise `serving.statement_timeout`")
}
