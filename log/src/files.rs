//! How many files the process may have open.
//!
//! *Why*: a partition that is written to has one open, and so has each connection; many systems allow 1,024 of them at first and
//! many more to who asks.

use rustix::process::{Resource, getrlimit, setrlimit};

/// More are not asked for: programs that we start may go through all that there could be.
const MOST_FILES: u64 = 1 << 20;

/// Asks for as many open files as the process may have, and returns how many that is (`None`: no bound is known). For the beginning of a process.
pub fn raise_file_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(MOST_FILES, |maximum| maximum.min(MOST_FILES));
    if limit.current.is_some_and(|current| current < wanted) {
        let before = limit.current.replace(wanted);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, limit = before, "the limit of open files could not be raised");
        }
    }
    file_limit()
}

/// How many files the process may have open now; `None` when there is no bound.
pub fn file_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}
