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
//! *Failure*: none that matters. What could not be copied is in the WAL, and is tried again.

use std::path::Path;
use std::thread::JoinHandle;

use super::{Sql, connect};

/// Commits between two copies; each writes some five pages.
const COMMITS: u32 = 200;
/// Pages of the WAL at which a commit does it: 32 MiB.
pub(super) const LONGEST_WAL_PAGES: u32 = 8192;

/// Copies what commits leave in the WAL.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    /// Since the last copy was begun.
    commits: u32,
    under_way: Option<JoinHandle<()>>,
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
        let copy = move || {
            if let Err(error) = copy(&path) {
                tracing::warn!(%error, "the ledger's WAL could not be copied; it is tried again");
            }
        };
        // Without a thread a later commit does it.
        self.under_way = std::thread::Builder::new().name("tarn-log-ledger".to_owned()).spawn(copy).ok();
    }

    /// Waits for the copy that is under way.
    pub(super) fn wait(&mut self) {
        if let Some(copy) = self.under_way.take() {
            let _ = copy.join();
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

#[cfg(test)]
mod tests {
    use super::*;

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
