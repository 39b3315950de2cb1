//! Reads a table's log: from the newest checkpoint to its end, or on from a version that is known.
//!
//! *Invariants*: versions follow one another without a gap. A commit is whole: at least one action, each line an object, and
//! as many lines as its signature says when it has one.
//!
//! *Failure*: a torn or empty commit is refused with its path; a checkpoint that cannot be read is passed over for an older
//! one, as long as the commits above that one are there.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tarn_model::{Error, Result};

use crate::action::{LastCheckpoint, Line, Signature};
use crate::checkpoint_reader;
use crate::error;
use crate::snapshot::{Actions, Replay, TableState};

/// Commits that are fetched at a time.
const FETCHES: usize = 32;

/// The log of one table.
#[derive(Debug, Clone)]
pub(crate) struct LogReader {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The table's folder.
    pub(crate) folder: Path,
    /// The lake's place as people know it, for hints.
    pub(crate) url: Arc<str>,
}

/// What is known of a commit that was read.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) signature: Option<Signature>,
    /// App ids that it moved.
    pub(crate) moved: Vec<String>,
}

/// What a listing of `_delta_log` holds.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Version → when it was written, ms.
    pub(crate) commits: BTreeMap<u64, i64>,
    /// Version → its parts, all of them there.
    pub(crate) checkpoints: BTreeMap<u64, Vec<Path>>,
}

impl LogReader {
    fn log(&self) -> Path {
        self.folder.clone().join("_delta_log")
    }

    /// Where the commit `version` lies.
    pub(crate) fn commit_path(&self, version: u64) -> Path {
        self.log().join(format!("{version:020}.json"))
    }

    /// A path as people find it.
    fn shown(&self, path: &Path) -> String {
        format!("{}/{path}", self.url)
    }

    /// Whether there is anything in the log.
    pub(crate) async fn exists(&self) -> Result<bool> {
        let log = self.log();
        let mut entries = self.store.list(Some(&log));
        while let Some(entry) = entries.next().await {
            let entry = entry.map_err(|e| error::store("listing the table's log", &log, e))?;
            if LogFile::parse(entry.location.filename().unwrap_or_default()).is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The newest state, or `None` when there is no table.
    pub(crate) async fn load(&self) -> Result<Option<TableState>> {
        let hint = self.last_checkpoint().await?;
        let mut listing = self.list(hint).await?;
        if hint.is_some_and(|version| !listing.checkpoints.contains_key(&version)) {
            listing = self.list(None).await?;
        }
        let mut newest_to_try = u64::MAX;
        loop {
            let checkpoint = listing.checkpoints.range(..newest_to_try).next_back();
            let (base, parts) = match checkpoint {
                Some((version, parts)) => (Some(*version), parts.clone()),
                None if listing.commits.is_empty() && listing.checkpoints.is_empty() => return Ok(None),
                None => (None, Vec::new()),
            };
            match self.load_from(base, &parts, &listing).await {
                Err(LoadError::Checkpoint(error)) => {
                    let version = base.unwrap_or_default();
                    tracing::warn!(table = %self.folder, version, %error, "a checkpoint cannot be read: an older one is tried");
                    listing = self.list(None).await?;
                    newest_to_try = version;
                }
                Err(LoadError::Log(error)) => return Err(error),
                Ok(state) => return Ok(Some(state)),
            }
        }
    }

    async fn load_from(
        &self,
        base: Option<u64>,
        parts: &[Path],
        listing: &Listing,
    ) -> std::result::Result<TableState, LoadError> {
        let first = base.map_or(0, |version| version + 1);
        let end = listing.commits.last_key_value().map_or(first, |(version, _)| version + 1);
        let found = self.find(base, parts, listing, end).await?;
        let this = self.clone();
        let replayed = tokio::task::spawn_blocking(move || {
            let replay = this.replay(found, true)?;
            let mut state =
                TableState::new(&this.folder, end.saturating_sub(1), replay).map_err(LoadError::Log)?;
            state.checkpoint = base;
            Ok(state)
        });
        replayed.await.map_err(|e| LoadError::Log(error::task(e)))?
    }

    /// Everything that the table consists of at `version`, from the newest checkpoint below it.
    pub(crate) async fn replay_to(&self, version: u64) -> Result<Replay> {
        let listing = self.list(None).await?;
        let mut newest_to_try = version;
        loop {
            let checkpoint = listing.checkpoints.range(..newest_to_try).next_back();
            let (base, parts) =
                checkpoint.map_or((None, &[][..]), |(version, parts)| (Some(*version), parts.as_slice()));
            let found = match self.find(base, parts, &listing, version + 1).await {
                Ok(found) => found,
                Err(LoadError::Log(error) | LoadError::Checkpoint(error)) => return Err(error),
            };
            let this = self.clone();
            let replayed = tokio::task::spawn_blocking(move || this.replay(found, false));
            match (replayed.await.map_err(error::task)?, base) {
                (Ok(replay), _) => return Ok(replay),
                (Err(LoadError::Checkpoint(_)), Some(unreadable)) => newest_to_try = unreadable,
                (Err(LoadError::Log(error) | LoadError::Checkpoint(error)), _) => return Err(error),
            }
        }
    }

    /// Fetches the checkpoint `base` and the commits above it, below `end`.
    async fn find(
        &self,
        base: Option<u64>,
        parts: &[Path],
        listing: &Listing,
        end: u64,
    ) -> std::result::Result<Found, LoadError> {
        let first = base.map_or(0, |version| version + 1);
        for version in first..end {
            if !listing.commits.contains_key(&version) {
                return Err(LoadError::Log(self.missing(version)));
            }
        }
        let mut checkpoint = Vec::with_capacity(parts.len());
        for part in parts {
            let bytes = self.fetch(part).await.map_err(LoadError::Log)?;
            checkpoint
                .push(bytes.ok_or_else(|| LoadError::Checkpoint(Error::corrupt("the checkpoint is gone")))?);
        }
        let commits = futures::stream::iter(first..end)
            .map(|version| async move {
                let bytes = self.fetch(&self.commit_path(version)).await?;
                Ok((version, bytes.ok_or_else(|| self.missing(version))?))
            })
            .buffered(FETCHES)
            .try_collect()
            .await
            .map_err(LoadError::Log)?;
        Ok(Found { base, checkpoint, commits })
    }

    /// Parses and replays what was found; `to_end`: its last commit is the log's.
    fn replay(&self, found: Found, to_end: bool) -> std::result::Result<Replay, LoadError> {
        let Found { base, checkpoint, commits } = found;
        let mut history = Vec::with_capacity(commits.len() + 1);
        if let Some(version) = base {
            let mut actions = Actions::default();
            for bytes in checkpoint {
                checkpoint_reader::read(bytes, &mut actions).map_err(LoadError::Checkpoint)?;
            }
            history.push((version, actions));
        }
        let newest = commits.last().map(|(version, _)| *version).filter(|_| to_end);
        for (version, bytes) in commits {
            let actions = self.parse(version, &bytes, newest == Some(version)).map_err(LoadError::Log)?;
            history.push((version, actions));
        }
        Replay::of(history).map_err(LoadError::Log)
    }

    /// Takes over the commits after `state`, and says what they are.
    pub(crate) async fn follow(&self, state: &mut TableState) -> Result<Vec<Seen>> {
        let mut seen = Vec::new();
        loop {
            let version = state.snapshot.version + 1;
            let Some(bytes) = self.fetch(&self.commit_path(version)).await? else { break };
            // Torn at the end or further up: the next commit tells.
            let actions = match self.parse(version, &bytes, true) {
                Ok(actions) => actions,
                Err(torn) => {
                    let is_last = self.fetch(&self.commit_path(version + 1)).await?.is_none();
                    return Err(if is_last {
                        torn
                    } else {
                        self.parse(version, &bytes, false).err().unwrap_or(torn)
                    });
                }
            };
            seen.push(Seen {
                signature: actions.info.as_ref().and_then(|info| info.tarn.clone()),
                moved: actions.txns.iter().map(|txn| txn.app_id.clone()).collect(),
            });
            state.apply(&self.folder, version, actions)?;
        }
        // Another engine may have cleaned the log beyond where we stand.
        if let Some(version) = self.last_checkpoint().await?
            && version > state.snapshot.version
            && let Some(newer) = self.load().await?
            && newer.snapshot.version > state.snapshot.version
        {
            *state = newer;
        }
        Ok(seen)
    }

    /// Where the hint lies that names the newest checkpoint.
    pub(crate) fn last_checkpoint_path(&self) -> Path {
        self.log().join("_last_checkpoint")
    }

    /// The version that `_last_checkpoint` points to. It is a hint: unreadable is the same as absent.
    async fn last_checkpoint(&self) -> Result<Option<u64>> {
        let bytes = self.fetch(&self.last_checkpoint_path()).await?;
        Ok(bytes
            .and_then(|bytes| serde_json::from_slice::<LastCheckpoint>(&bytes).ok())
            .map(|hint| hint.version))
    }

    /// What is in the log, from version `from` on.
    pub(crate) async fn list(&self, from: Option<u64>) -> Result<Listing> {
        let log = self.log();
        let entries = match from {
            Some(version) => {
                self.store.list_with_offset(Some(&log), &log.clone().join(format!("{version:020}")))
            }
            None => self.store.list(Some(&log)),
        };
        let mut listing = Listing::default();
        let mut parts: BTreeMap<(u64, u64), Vec<(u64, Path)>> = BTreeMap::new();
        let mut entries = entries.map_err(|e| error::store("listing the table's log", &log, e));
        while let Some(entry) = entries.try_next().await? {
            match LogFile::parse(entry.location.filename().unwrap_or_default()) {
                Some(LogFile::Commit(version)) => {
                    listing.commits.insert(version, entry.last_modified.timestamp_millis());
                }
                Some(LogFile::Checkpoint { version, part, of }) => {
                    parts.entry((version, of)).or_default().push((part, entry.location));
                }
                None => {}
            }
        }
        for ((version, of), mut found) in parts {
            found.sort_unstable();
            if u64::try_from(found.len()).is_ok_and(|n| n == of) {
                listing.checkpoints.insert(version, found.into_iter().map(|(_, path)| path).collect());
            }
        }
        Ok(listing)
    }

    async fn fetch(&self, path: &Path) -> Result<Option<Bytes>> {
        let read = async { self.store.get(path).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(error::store("reading the table's log", path, e)),
        }
    }

    /// The actions of a commit, which must be whole.
    fn parse(&self, version: u64, bytes: &[u8], is_last: bool) -> Result<Actions> {
        let mut actions = Actions::default();
        let mut lines = 0;
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            let parsed: Line = serde_json::from_slice(line).map_err(|e| {
                self.torn(version, &format!("line {} cannot be read", lines + 1), is_last).with_source(e)
            })?;
            actions.push(parsed);
            lines += 1;
        }
        if lines == 0 {
            return Err(self.torn(version, &format!("{} bytes and no action", bytes.len()), is_last));
        }
        match actions.info.as_ref().and_then(|info| info.tarn.as_ref()) {
            Some(signature) if signature.lines != lines => {
                let what = format!("{lines} of its {} lines", signature.lines);
                Err(self.torn(version, &what, is_last))
            }
            _ => Ok(actions),
        }
    }

    fn torn(&self, version: u64, what: &str, is_last: bool) -> Error {
        let path = self.shown(&self.commit_path(version));
        if is_last {
            Error::corrupt(format!("the last commit of the table's log is torn ({what}): path=`{path}`")).with_hint(format!(
                "a power cut left it; make sure that nothing else writes to the table, then move `{path}` out of \
                 `_delta_log`: the rows that it was about are committed again from the topic's log"
            ))
        } else {
            Error::corrupt(format!("a commit of the table's log is damaged ({what}): path=`{path}`"))
                .with_hint(format!("later commits build on it: restore `{path}` from a backup"))
        }
    }

    fn missing(&self, version: u64) -> Error {
        let path = self.shown(&self.commit_path(version));
        Error::corrupt(format!("a commit of the table's log is missing: path=`{path}`"))
            .with_hint("later commits build on it: restore it from a backup")
    }
}

/// The bytes of a checkpoint and of the commits above it.
struct Found {
    base: Option<u64>,
    /// By part.
    checkpoint: Vec<Bytes>,
    commits: Vec<(u64, Bytes)>,
}

enum LoadError {
    Checkpoint(Error),
    Log(Error),
}

/// What a name in `_delta_log` says.
#[derive(Debug, PartialEq, Eq)]
enum LogFile {
    Commit(u64),
    Checkpoint { version: u64, part: u64, of: u64 },
}

impl LogFile {
    fn parse(name: &str) -> Option<LogFile> {
        let (version, rest) = name.split_at_checked(20)?;
        let version = number(version)?;
        match rest.split('.').collect::<Vec<_>>().as_slice() {
            ["", "json"] => Some(LogFile::Commit(version)),
            ["", "checkpoint", "parquet"] => Some(LogFile::Checkpoint { version, part: 1, of: 1 }),
            ["", "checkpoint", part, of, "parquet"] => {
                Some(LogFile::Checkpoint { version, part: number(part)?, of: number(of)? })
            }
            _ => None,
        }
    }
}

fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_log_are_told_apart() {
        assert_eq!(LogFile::parse("00000000000000000007.json"), Some(LogFile::Commit(7)));
        assert_eq!(
            LogFile::parse("00000000000000000010.checkpoint.parquet"),
            Some(LogFile::Checkpoint { version: 10, part: 1, of: 1 })
        );
        assert_eq!(
            LogFile::parse("00000000000000000010.checkpoint.0000000002.0000000003.parquet"),
            Some(LogFile::Checkpoint { version: 10, part: 2, of: 3 })
        );
        for other in [
            "_last_checkpoint",
            "00000000000000000007.json#12",
            "00000000000000000001.00000000000000000004.compacted.json",
            "00000000000000000007.crc",
            "short",
        ] {
            assert_eq!(LogFile::parse(other), None, "{other}");
        }
    }
}
