//! Memory of statements: each has its own limit, and all together have one.
//!
//! *Why two*: one statement must not take what the others need, and many must not take what the process needs.

use std::fmt;
use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryLimit, MemoryPool, MemoryReservation};

/// What a statement holds of tails. They are counted once already, in `serving.tail_memory`; several statements hold the same
/// ones. So they count against the statement alone.
pub(super) const TAIL: &str = "tail";

/// The memory of one statement.
#[derive(Debug)]
pub(super) struct StatementPool {
    own: GreedyMemoryPool,
    all: Arc<GreedyMemoryPool>,
}

impl StatementPool {
    pub(super) fn new(own_bytes: usize, all: Arc<GreedyMemoryPool>) -> StatementPool {
        StatementPool { own: GreedyMemoryPool::new(own_bytes), all }
    }
}

impl fmt::Display for StatementPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.own, self.all)
    }
}

fn is_tail(reservation: &MemoryReservation) -> bool {
    reservation.consumer().name() == TAIL
}

impl MemoryPool for StatementPool {
    fn name(&self) -> &str {
        "statement"
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.own.grow(reservation, additional);
        if !is_tail(reservation) {
            self.all.grow(reservation, additional);
        }
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        if !is_tail(reservation) {
            self.all.shrink(reservation, shrink);
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.own.try_grow(reservation, additional)?;
        if is_tail(reservation) {
            return Ok(());
        }
        self.all.try_grow(reservation, additional).map_err(|_| {
            self.own.shrink(reservation, additional);
            all_is_taken()
        })
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.own.memory_limit()
    }
}

fn all_is_taken() -> datafusion::error::DataFusionError {
    crate::error::into_datafusion(
        tarn_model::Error::unavailable(
            "the statements that run now have taken all memory that they may have",
        )
        .with_sqlstate("53200")
        .with_hint("try again when others have ended, or raise `serving.sql_memory`"),
    )
}
