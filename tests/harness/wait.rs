//! Waiting for conditions, never for time to pass.
//!
//! *Why* every deadline is patient: a machine may stand still for a minute, be it that its disk writes out what something else
//! has left, and how soon something happens is for benchmarks to say.

use std::time::{Duration, Instant};

/// So many seconds.
pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Every deadline is this long at the least: a shorter one tells a reader what is usual, and asserts nothing.
const PATIENCE: Duration = Duration::from_secs(150);

/// Asks `condition` until it answers; panics with `what` at the deadline.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let (start, deadline) = (Instant::now(), deadline.max(PATIENCE));
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
