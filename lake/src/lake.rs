//! The lake: a folder of tables on one store.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions};
use tarn_model::clock::{self, Clock};
use tarn_model::{Error, Result};

use crate::action::{CommitInfo, ENGINE, Format, Line, Metadata, Protocol, Signature};
use crate::durable::DurableLocal;
use crate::log_reader::LogReader;
use crate::snapshot::check_properties;
use crate::store;
use crate::uncommitted::Uncommitted;
use crate::{LakeOptions, LakeTable, NewTable, error, schema};

/// How long removed files are remembered in checkpoints: at least as long as vacuum keeps them.
const TOMBSTONE_RETENTION: &str = "delta.deletedFileRetentionDuration";

/// A folder of Delta tables; clones share it.
#[derive(Clone, Debug)]
pub struct Lake {
    pub(crate) inner: Arc<LakeInner>,
}

#[derive(Debug)]
pub(crate) struct LakeInner {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) durable: Option<DurableLocal>,
    pub(crate) url: Arc<str>,
    pub(crate) options: LakeOptions,
    pub(crate) clock: Arc<dyn Clock>,
    /// Random: tells this writer's commits from another's.
    pub(crate) writer: String,
    pub(crate) uncommitted: Arc<Uncommitted>,
}

impl Lake {
    /// Opens the lake at `file:PATH` (created when absent) or `s3://bucket/prefix`, with the object store's `options`.
    /// On S3 it is probed whether a conditional put is honoured. `memory:` is a new, empty lake.
    pub async fn open(
        url: &str,
        store_options: &BTreeMap<String, String>,
        options: LakeOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Lake> {
        let opened = store::open(url, store_options).await?;
        Ok(Lake::of(opened.store, opened.durable, &opened.url, options, clock))
    }

    /// A lake on a store that is open already, rooted where the lake is; `url` is what messages call it.
    pub fn on_store(
        store: Arc<dyn ObjectStore>,
        url: &str,
        options: LakeOptions,
        clock: Arc<dyn Clock>,
    ) -> Lake {
        Lake::of(store, None, url, options, clock)
    }

    fn of(
        store: Arc<dyn ObjectStore>,
        durable: Option<DurableLocal>,
        url: &str,
        options: LakeOptions,
        clock: Arc<dyn Clock>,
    ) -> Lake {
        let inner = LakeInner {
            store,
            durable,
            url: url.into(),
            options,
            clock,
            writer: clock::new_id().to_string(),
            uncommitted: Arc::default(),
        };
        Lake { inner: Arc::new(inner) }
    }

    /// The durable store, rooted at the lake's URL: for reading data files.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        self.inner.store.clone()
    }

    /// Names of the tables that are there.
    pub async fn table_names(&self) -> Result<Vec<String>> {
        let listed = self.inner.store.list_with_delimiter(None).await;
        let listed = listed.map_err(|e| error::store("listing the lake", &Path::default(), e))?;
        let mut names = Vec::new();
        for folder in listed.common_prefixes {
            let Some(name) = folder.filename().map(str::to_owned) else { continue };
            if self.log(&name)?.exists().await? {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Opens a table: refuses a torn or zero-byte commit at the log's end, and sweeps staging files of a killed writer
    /// when `writer`. `None` when there is no such table.
    pub async fn load(&self, name: &str, writer: bool) -> Result<Option<LakeTable>> {
        let log = self.log(name)?;
        if writer && let Some(durable) = &self.inner.durable {
            let swept = durable.sweep(&log.folder).await;
            let swept = swept.map_err(|e| error::store("sweeping staging files", &log.folder, e))?;
            if swept > 0 {
                tracing::info!(table = name, files = swept, "swept files of a writer that was killed");
            }
        }
        let Some(state) = log.load().await? else { return Ok(None) };
        tracing::debug!(
            table = name,
            version = state.snapshot.version,
            files = state.snapshot.files.len(),
            "loaded"
        );
        Ok(Some(LakeTable::new(self.inner.clone(), name, log, state)))
    }

    /// Creates a table as version 0. Idempotent over a crash: an existing table with the same schema is returned.
    pub async fn create(&self, name: &str, table: &NewTable) -> Result<LakeTable> {
        schema::check(&table.schema, &table.partition_by)?;
        if let Some(existing) = self.load(name, true).await? {
            return same_table(existing, table);
        }
        let log = self.log(name)?;
        let path = log.commit_path(0);
        let body = self.first_commit(table)?;
        let put = self.inner.store.put_opts(&path, body.into(), PutOptions::from(PutMode::Create)).await;
        // Whatever the put said, the log says what is there.
        match (self.load(name, true).await?, put) {
            (Some(created), put) => {
                if let Err(error) = put {
                    tracing::warn!(table = name, %error, "creating the table failed, but it is there");
                    created.make_visible_durable(0).await?;
                }
                same_table(created, table)
            }
            (None, Err(e)) => Err(error::store("creating a table", &path, e)),
            (None, Ok(_)) => {
                Err(Error::internal(format!("a table that was just created is not there: table=`{name}`")))
            }
        }
    }

    fn first_commit(&self, table: &NewTable) -> Result<String> {
        let now_ms = self.inner.clock.now_ms();
        let metadata = self.first_metadata(table)?;
        check_properties(&metadata)?;
        let info = CommitInfo {
            timestamp: Some(now_ms),
            operation: Some("CREATE TABLE".into()),
            operation_parameters: Some(BTreeMap::new()),
            engine_info: Some(format!("{ENGINE}{}", env!("CARGO_PKG_VERSION"))),
            is_blind_append: Some(true),
            tarn: Some(Signature {
                commit: clock::new_id().to_string(),
                writer: self.inner.writer.clone(),
                lines: 3,
                marks: BTreeMap::new(),
            }),
        };
        let lines = [
            Line::of_commit_info(&info)?,
            Line { protocol: Some(Protocol::OURS), ..Line::default() },
            Line { meta_data: Some(metadata), ..Line::default() },
        ];
        let text =
            |line: &Line| serde_json::to_string(line).map_err(|e| error::internal("writing a commit", e));
        Ok(lines.iter().map(text).collect::<Result<Vec<_>>>()?.join("\n") + "\n")
    }

    /// What version 0 says a table is.
    pub(crate) fn first_metadata(&self, table: &NewTable) -> Result<Metadata> {
        let mut configuration = table.properties.clone();
        let retention = self.inner.options.vacuum_retention.as_secs();
        configuration
            .entry(TOMBSTONE_RETENTION.into())
            .or_insert_with(|| format!("interval {retention} seconds"));
        Ok(Metadata {
            id: clock::new_id().to_string(),
            name: None,
            description: None,
            format: Format::default(),
            schema_string: schema::write(&table.schema)?,
            partition_columns: table.partition_by.clone(),
            configuration,
            created_time: Some(self.inner.clock.now_ms()),
        })
    }

    /// A table's folder.
    pub(crate) fn folder(&self, name: &str) -> Result<Path> {
        Ok(self.log(name)?.folder)
    }

    pub(crate) fn log(&self, name: &str) -> Result<LogReader> {
        let folder =
            Path::parse(name).ok().filter(|folder| folder.parts().count() == 1 && !name.contains('#'));
        let folder = folder.ok_or_else(|| {
            Error::invalid(format!("not a table's name: table=`{name}`"))
                .with_hint("a table's name is the name of its folder: no `/`, no `#`")
        })?;
        Ok(LogReader { store: self.inner.store.clone(), folder, url: self.inner.url.clone() })
    }
}

fn same_table(existing: LakeTable, wanted: &NewTable) -> Result<LakeTable> {
    let snapshot = existing.snapshot();
    if snapshot.schema.fields() == wanted.schema.fields() && snapshot.partition_by == wanted.partition_by {
        return Ok(existing);
    }
    Err(Error::conflict(format!(
        "a table of that name is there, with other columns: table=`{}`",
        existing.name()
    ))
    .with_hint("name the new table differently, or give it the columns that the table has"))
}
