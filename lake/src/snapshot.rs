//! What a table is at one version, and how actions turn one version into the next.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::BooleanArray;
use object_store::path::Path;
use tarn_model::{Error, Kind, Result};

use crate::action::{Add, CommitInfo, ENGINE, Line, Metadata, Protocol, Remove, Txn, decode_path};
use crate::schema;
use crate::{FileStatistics, LakeFile, LakeSnapshot};

/// Never expires progress; a table that does may forget what it has.
const TXN_RETENTION: &str = "delta.setTransactionRetentionDuration";

/// Property: newest version, below the checkpoints, in which another engine changed rows.
pub(crate) const FOREIGN_VERSION: &str = "tarn.foreign_version";

/// The actions of one commit, or of a checkpoint, sorted by what they are about.
#[derive(Debug, Default)]
pub(crate) struct Actions {
    pub(crate) info: Option<CommitInfo>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) metadata: Option<Metadata>,
    pub(crate) txns: Vec<Txn>,
    pub(crate) adds: Vec<Add>,
    pub(crate) removes: Vec<Remove>,
}

impl Actions {
    /// Takes in one line.
    pub(crate) fn push(&mut self, line: Line) {
        if let Some(info) = line.info() {
            self.info = Some(info);
        }
        self.protocol = line.protocol.or(self.protocol.take());
        self.metadata = line.meta_data.or(self.metadata.take());
        self.txns.extend(line.txn);
        self.adds.extend(line.add);
        self.removes.extend(line.remove);
    }

    /// Whether another engine changed the table's rows.
    pub(crate) fn is_foreign_change(&self) -> bool {
        let ours = |info: &CommitInfo| {
            info.tarn.is_some() || info.engine_info.as_ref().is_some_and(|e| e.starts_with(ENGINE))
        };
        !self.info.as_ref().is_some_and(ours)
            && (self.adds.iter().any(|add| add.data_change)
                || self.removes.iter().any(|remove| remove.data_change))
    }
}

/// A snapshot, and what only writers need to know beside it.
#[derive(Debug, Clone)]
pub(crate) struct TableState {
    pub(crate) snapshot: Arc<LakeSnapshot>,
    pub(crate) metadata: Metadata,
    pub(crate) protocol: Protocol,
    /// Removed files that vacuum may still have to keep: path relative to the table's folder → when they were removed, ms.
    pub(crate) tombstones: HashMap<String, i64>,
    /// Version of the newest checkpoint that is known.
    pub(crate) checkpoint: Option<u64>,
}

/// What a list of actions, oldest first, leads to.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub(crate) protocol: Option<Protocol>,
    pub(crate) metadata: Option<Metadata>,
    pub(crate) txns: HashMap<String, i64>,
    /// Live files by path, in the order in which they came; `None` where one went.
    pub(crate) live: Vec<Option<(String, Add)>>,
    /// Removed files: path → when, ms.
    pub(crate) tombstones: HashMap<String, i64>,
    foreign_version: Option<u64>,
}

impl Replay {
    pub(crate) fn of(history: impl IntoIterator<Item = (u64, Actions)>) -> Result<Replay> {
        let mut replay = Replay::default();
        let mut place: HashMap<String, usize> = HashMap::new();
        for (version, actions) in history {
            if actions.is_foreign_change() {
                replay.foreign_version = Some(version);
            }
            replay.protocol = actions.protocol.or(replay.protocol);
            replay.metadata = actions.metadata.or(replay.metadata);
            replay.txns.extend(actions.txns.into_iter().map(|txn| (txn.app_id, txn.version)));
            for remove in actions.removes {
                let path = decode_path(&remove.path)?;
                if let Some(i) = place.remove(&path) {
                    replay.live[i] = None;
                }
                replay.tombstones.insert(path, remove.deletion_timestamp.unwrap_or(0));
            }
            for add in actions.adds {
                let path = decode_path(&add.path)?;
                replay.tombstones.remove(&path);
                if let Some(i) = place.insert(path.clone(), replay.live.len()) {
                    replay.live[i] = None;
                }
                replay.live.push(Some((path, add)));
            }
        }
        Ok(replay)
    }
}

impl LakeSnapshot {
    /// The same version with only the files that `keep` says: a part of the table, to be read by itself.
    pub fn part(&self, keep: impl Fn(&LakeFile) -> bool) -> Result<LakeSnapshot> {
        let kept: BooleanArray = self.files.iter().map(|file| Some(keep(file))).collect();
        Ok(LakeSnapshot {
            version: self.version,
            schema: Arc::clone(&self.schema),
            partition_by: self.partition_by.clone(),
            properties: self.properties.clone(),
            txns: self.txns.clone(),
            files: self.files.iter().filter(|file| keep(file)).cloned().collect(),
            statistics: self.statistics.filtered(&kept)?,
            foreign_version: self.foreign_version,
        })
    }
}

impl TableState {
    /// The state that `replay` leads to; `version` is that of its last actions.
    pub(crate) fn new(folder: &Path, version: u64, replay: Replay) -> Result<TableState> {
        let Replay { protocol, metadata, txns, live, tombstones, foreign_version } = replay;
        let missing = |what: &str| {
            Error::corrupt(format!("the table's log has no {what} action: table=`{folder}`"))
                .with_hint("its first commits are missing and no checkpoint holds them: restore `_delta_log` from a backup")
        };
        let protocol: Protocol = protocol.ok_or_else(|| missing("protocol"))?;
        let metadata: Metadata = metadata.ok_or_else(|| missing("metaData"))?;
        protocol.check()?;
        check_properties(&metadata)?;
        let remembered = metadata.configuration.get(FOREIGN_VERSION).and_then(|version| version.parse().ok());
        let foreign_version = foreign_version.max(remembered);
        let schema = schema::parse(&metadata.schema_string)?;
        let partition_by = metadata.partition_columns.clone();
        let (paths, adds): (Vec<String>, Vec<Add>) = live.into_iter().flatten().unzip();
        let files = paths.iter().zip(&adds).map(|(path, add)| lake_file(folder, path, add, &partition_by));
        let snapshot = LakeSnapshot {
            version,
            files: files.collect::<Result<_>>()?,
            statistics: FileStatistics::of_adds(&schema, &partition_by, &adds),
            schema,
            partition_by,
            properties: metadata.configuration.clone(),
            txns,
            foreign_version,
        };
        Ok(TableState { snapshot: Arc::new(snapshot), metadata, protocol, tombstones, checkpoint: None })
    }

    /// The state one version later. The cost of parsing is that of the commit; the rest is copied as columns.
    pub(crate) fn apply(&mut self, folder: &Path, version: u64, actions: Actions) -> Result<()> {
        let old = &self.snapshot;
        debug_assert_eq!(version, old.version + 1, "versions follow one another");
        let foreign_version = if actions.is_foreign_change() { Some(version) } else { old.foreign_version };
        if let Some(protocol) = actions.protocol {
            protocol.check()?;
            self.protocol = protocol;
        }
        let (mut schema, mut statistics) = (old.schema.clone(), None);
        if let Some(metadata) = actions.metadata {
            check_properties(&metadata)?;
            if metadata.schema_string != self.metadata.schema_string {
                schema = schema::parse(&metadata.schema_string)?;
            }
            self.metadata = metadata;
        }
        let partition_by = self.metadata.partition_columns.clone();
        let mut txns = old.txns.clone();
        txns.extend(actions.txns.into_iter().map(|txn| (txn.app_id, txn.version)));

        let mut gone: HashSet<Path> = HashSet::new();
        for remove in &actions.removes {
            let path = decode_path(&remove.path)?;
            gone.insert(file_path(folder, &path)?);
            self.tombstones.insert(path, remove.deletion_timestamp.unwrap_or(0));
        }
        let mut came = Vec::with_capacity(actions.adds.len());
        for add in &actions.adds {
            let path = decode_path(&add.path)?;
            self.tombstones.remove(&path);
            let file = lake_file(folder, &path, add, &partition_by)?;
            // An add of a live file replaces what the log said of it.
            gone.insert(file.path.clone());
            came.push(file);
        }
        let keep: BooleanArray = old.files.iter().map(|file| Some(!gone.contains(&file.path))).collect();
        let all_stay = keep.false_count() == 0;
        let mut files = Vec::with_capacity(old.files.len() + came.len());
        files.extend(
            old.files.iter().zip(keep.values()).filter(|(_, keep)| *keep).map(|(file, _)| file.clone()),
        );
        files.extend(came);
        if !all_stay {
            statistics = Some(old.statistics.filtered(&keep)?);
        }
        // Joined also when nothing came, so that columns added to the schema get their (unknown) statistics.
        let added = FileStatistics::of_adds(&schema, &partition_by, &actions.adds);
        let statistics = statistics.as_ref().unwrap_or(&old.statistics).followed_by(&added)?;
        self.snapshot = Arc::new(LakeSnapshot {
            version,
            schema,
            partition_by,
            properties: self.metadata.configuration.clone(),
            txns,
            files,
            statistics,
            foreign_version,
        });
        Ok(())
    }
}

/// Refuses properties that would make the table forget its progress.
pub(crate) fn check_properties(metadata: &Metadata) -> Result<()> {
    if metadata.configuration.contains_key(TXN_RETENTION) {
        return Err(Error::new(
            Kind::Invalid,
            format!("the table lets its progress expire: property=`{TXN_RETENTION}`"),
        )
        .with_hint(
            "remove the property: without `txn` actions that last, nothing can be written exactly once",
        ));
    }
    Ok(())
}

fn lake_file(folder: &Path, path: &str, add: &Add, partition_by: &[String]) -> Result<LakeFile> {
    if add.deletion_vector.is_some() {
        return Err(Error::invalid(format!("a file has a deletion vector: path=`{path}`"))
            .with_hint("purge deletion vectors with the engine that wrote them, and switch them off"));
    }
    Ok(LakeFile {
        path: file_path(folder, path)?,
        size: u64::try_from(add.size).unwrap_or(0),
        modified_ms: add.modification_time,
        partition_values: partition_by
            .iter()
            .map(|name| add.partition_values.get(name).cloned().flatten())
            .collect(),
    })
}

/// The place of a table's file in the lake.
pub(crate) fn file_path(folder: &Path, path: &str) -> Result<Path> {
    Path::parse(format!("{folder}/{path}")).map_err(|e| {
        Error::corrupt(format!("a path in the table's log is not valid: path=`{path}`")).with_source(e)
    })
}
