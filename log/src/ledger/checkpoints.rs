//! The way of the ledger's pages from its WAL into the database, beside the commits.
//!
//! *Why*: left to itself, SQLite copies the WAL into the database within the commit that makes it long, and syncs both. All that
//! waits for that commit, and for those behind it, waits for this as well: ten milliseconds and more, every second or two.
//!
//! A commit still copies what is left when the WAL has become [`LONGEST_WAL_PAGES`] long, for only when all of it is copied does it begin
//! anew, and while commits follow each other without a pause a copy made beside them never has the last. Little is left then.
//!
//! *Invariants*: who gives the connections up waits for the copy first ([`Checkpoints::wait`]): it has one of its own.
//!
//! *Failure*: what could not be copied is in the WAL, and is tried again. But a copy begins and ends with a sync, and when one
//! fails the kernel may have dropped pages that a later sync would not miss: the log stops, as it does after any sync that failed.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use rusqlite::ffi;

use super::{Sql, connect};
use crate::error::LogError;

/// Commits between two copies; each writes some five pages.
const COMMITS: u32 = 200;
/// Pages of the WAL at which a commit does it: 32 MiB.
pub(super) const LONGEST_WAL_PAGES: u32 = 8192;

/// Copies what commits leave in the WAL.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    /// Since the last copy was begun.
    commits: u32,
    under_way: Option<JoinHandle<Sql<()>>>,
    /// The sync that failed.
    failed: Option<Arc<rusqlite::Error>>,
}

impl Checkpoints {
    /// A commit was made.
    pub(super) fn committed(&mut self, ledger: &Path) {
        self.commits += 1;
        if self.commits < COMMITS || self.under_way.as_ref().is_some_and(|copy| !copy.is_finished()) {
            return;
        }
        self.wait();
        self.commits = 0;
        let path = ledger.to_owned();
        // Without a thread a later commit does it.
        let thread = std::thread::Builder::new().name("tarn-log-ledger".to_owned());
        self.under_way = thread.spawn(move || copy(&path)).ok();
    }

    /// Waits for the copy that is under way.
    pub(super) fn wait(&mut self) {
        match self.under_way.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) if is_of_sync(&error) => self.failed = Some(Arc::new(error)),
            Some(Ok(Err(error))) => {
                tracing::warn!(%error, "the ledger's WAL could not be copied; it is tried again");
            }
            _ => {}
        }
    }

    /// An error once a sync has failed: of what is in the ledger, nobody knows any more what is on the disk.
    pub(super) fn check(&mut self) -> Result<(), LogError> {
        if self.under_way.as_ref().is_some_and(JoinHandle::is_finished) {
            self.wait();
        }
        match &self.failed {
            Some(error) => Err(LogError::Ledger { doing: "sync", source: error.clone() }),
            None => Ok(()),
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.wait();
    }
}

/// Copies as far as readers let it; waits for nobody.
fn copy(ledger: &Path) -> Sql<()> {
    connect(ledger, false)?.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

fn is_of_sync(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    matches!(code, Some(ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(code: i32) -> Checkpoints {
        let failed = move || Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        Checkpoints { commits: 0, under_way: Some(std::thread::spawn(failed)), failed: None }
    }

    #[test]
    fn a_copy_whose_sync_failed_is_never_taken_for_durable_and_one_that_wrote_too_little_is_tried_again() {
        let mut checkpoints = failing(ffi::SQLITE_IOERR_FSYNC);
        checkpoints.wait();
        for _ in 0..2 {
            let error = checkpoints.check().expect_err("the sync failed");
            assert!(!error.passes() && error.to_string() == "cannot sync the log's ledger", "{error}");
        }
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_BUSY, ffi::SQLITE_IOERR_WRITE] {
            let mut checkpoints = failing(code);
            checkpoints.wait();
            checkpoints.check().expect("the WAL has it still");
        }
    }

    #[test]
    fn what_commits_wrote_is_in_the_database_while_its_connection_is_open() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("ledger.sqlite");
        let connection = connect(&path, false).expect("a database");
        connection.execute_batch("CREATE TABLE t (n INTEGER)").expect("a table");
        let size = || std::fs::metadata(&path).expect("the database").len();
        let before = size();
        let mut checkpoints = Checkpoints::default();
        for n in 0..COMMITS {
            connection.execute("INSERT INTO t VALUES (?1)", [n]).expect("a commit");
            assert_eq!(size(), before, "no commit copies");
            checkpoints.committed(&path);
        }
        checkpoints.wait();
        assert!(size() > before);
        connection.execute("INSERT INTO t VALUES (0)", []).expect("commits go on");
        drop(connection);
        let rows: u32 = connect(&path, false)
            .and_then(|again| again.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
            .expect("a count");
        assert_eq!(rows, COMMITS + 1);
    }
}
