//! What the log's handles, its readers and its committer share.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tarn_model::Result;
use tarn_model::clock::Clock;
use tokio::sync::{Semaphore, watch};

use crate::error::LogError;
use crate::ledger::Reader;
use crate::news::Waiters;
use crate::options::LogOptions;
use crate::queue::Queue;
use crate::visible::Visible;

/// Most bytes of appends that wait, in KiB.
pub(crate) const WAITING_KIB: u32 = 64 << 10;
/// Most appends that wait.
pub(crate) const WAITING_APPENDS: usize = 16 << 10;

/// One open log.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Where the topics' folders are.
    pub(crate) dir: PathBuf,
    pub(crate) options: LogOptions,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) visible: RwLock<Visible>,
    pub(crate) reader: Arc<Reader>,
    /// Batches that are written now bear it.
    pub(crate) leader_epoch: i32,
    pub(crate) queue: Queue,
    /// Bounds the bytes that wait, in KiB.
    pub(crate) room: Arc<Semaphore>,
    /// Bounds the appends that wait.
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) commits: watch::Sender<u64>,
    pub(crate) waiters: Waiters,
    /// Why nothing more can be done.
    pub(crate) stopped: Mutex<Option<LogError>>,
}

impl Shared {
    pub(crate) fn stopped(&self) -> Option<LogError> {
        self.stopped.lock().clone()
    }

    pub(crate) fn check_running(&self) -> Result<()> {
        self.stopped().map_or(Ok(()), |cause| Err(cause.into()))
    }

    /// The log does nothing more; the first cause stays.
    pub(crate) fn stop(&self, cause: &LogError) -> LogError {
        let stopped = match cause {
            LogError::Closed | LogError::Stopped { .. } => cause.clone(),
            cause => {
                let error = tarn_model::Error::from(cause.clone());
                LogError::Stopped { cause: format!("{}", Chain(&error)) }
            }
        };
        let mut current = self.stopped.lock();
        if let Some(first) = &*current {
            return first.clone();
        }
        *current = Some(stopped.clone());
        drop(current);
        if !matches!(stopped, LogError::Closed) {
            tracing::error!(error = %stopped, "the log stops until it is opened again");
        }
        self.room.close();
        self.slots.close();
        // Whoever waits for commits looks, and finds the log stopped.
        self.commits.send_modify(|_| {});
        self.waiters.tell_all();
        stopped
    }

    /// Idempotency keys from before are forgotten.
    pub(crate) fn expire_before_ms(&self) -> i64 {
        let window = i64::try_from(self.options.idempotency_window.as_millis()).unwrap_or(i64::MAX);
        self.clock.now_ms().saturating_sub(window)
    }
}

/// An error with its causes, in one line.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
