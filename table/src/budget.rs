//! The memory that all tails together may take.
//!
//! *Why*: the log is the buffer. When the tails pass half of the budget their owners commit early; when they reach it the
//! readers wait, and the log keeps what is not decoded yet.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::catalog::Catalog;

/// Shared by all readers and owners of a process.
#[derive(Debug, Clone)]
pub struct TailBudget {
    catalog: Catalog,
    limit_bytes: usize,
    freed: Arc<Notify>,
}

/// A reader looks again after this long even when nobody said that memory came free.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl TailBudget {
    /// `limit_bytes` for all tails of `catalog`.
    pub fn new(catalog: Catalog, limit_bytes: usize) -> TailBudget {
        TailBudget { catalog, limit_bytes, freed: Arc::new(Notify::new()) }
    }

    /// Memory of all tails now, bytes.
    pub fn used_bytes(&self) -> usize {
        self.catalog.hubs().iter().map(|hub| hub.tail_bytes()).sum()
    }

    /// The limit, bytes.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Whether owners should commit early.
    pub fn is_tight(&self) -> bool {
        self.used_bytes() >= self.limit_bytes / 2
    }

    /// Waits until there is room for another fragment.
    pub async fn wait_for_room(&self) {
        while self.used_bytes() >= self.limit_bytes {
            let freed = self.freed.notified();
            let _ = tokio::time::timeout(LOOK_AGAIN, freed).await;
        }
    }

    /// Says that a tail was dropped.
    pub fn freed(&self) {
        self.freed.notify_waiters();
    }
}
