//! How many statements there were, and how long they took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tarn_view::RunningStatement;
use tokio::time::Instant;

use super::Shared;

/// Upper ends of the latency histogram, milliseconds.
pub(crate) const LATENCY_MS: [u64; 12] =
    [1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000];

#[derive(Debug, Default)]
pub(super) struct Counts {
    done: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) planned_before: AtomicU64,
    running: AtomicU64,
    total_us: AtomicU64,
    latency: [AtomicU64; LATENCY_MS.len()],
}

impl Counts {
    pub(super) fn read(&self) -> StatementCounts {
        StatementCounts {
            done: self.done.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            planned_before: self.planned_before.load(Ordering::Relaxed),
            running: self.running.load(Ordering::Relaxed),
            total: Duration::from_micros(self.total_us.load(Ordering::Relaxed)),
            latency: std::array::from_fn(|at| self.latency[at].load(Ordering::Relaxed)),
        }
    }
}

/// Statements since the start.
#[derive(Debug, Clone)]
pub struct StatementCounts {
    /// Answered to the end.
    pub done: u64,
    /// Refused or ended with an error.
    pub failed: u64,
    /// Begun with a plan that was made before.
    pub planned_before: u64,
    /// Running now.
    pub running: u64,
    /// Time of all that were answered to the end.
    pub total: Duration,
    /// How many of those took at most 1, 3, 10, ... ms.
    pub latency: [u64; LATENCY_MS.len()],
}

/// Counts one statement, from its start to its end or its being dropped.
#[derive(Debug)]
pub(super) struct Running {
    shared: Arc<Shared>,
    since: Instant,
    /// Builds of views give way to it.
    _statement: RunningStatement,
}

impl Running {
    pub(super) fn new(shared: Arc<Shared>) -> Running {
        shared.counts.running.fetch_add(1, Ordering::Relaxed);
        let statement = shared.views.statements().begin();
        Running { shared, since: Instant::now(), _statement: statement }
    }

    pub(super) fn ended(&self, well: bool) {
        let counts = &self.shared.counts;
        if !well {
            counts.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let took = self.since.elapsed();
        counts.done.fetch_add(1, Ordering::Relaxed);
        counts.total_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        for (at, upto) in LATENCY_MS.iter().enumerate() {
            if took <= Duration::from_millis(*upto) {
                counts.latency[at].fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.counts.running.fetch_sub(1, Ordering::Relaxed);
    }
}
