//! The import tables of a config, as a process that runs shows and keeps them.
//!
//! `tarn import` is another process: it commits to the lake and says so. Whoever imports from another machine says nothing, so this
//! looks by itself, too.

use std::collections::BTreeMap;
use std::time::Duration;

use tarn_lake::{Lake, LakeSnapshot, LakeTable};
use tarn_model::config::{Config, ImportConfig};
use tarn_model::status::TableStatus;
use tarn_model::{Error, Result, clock};
use tarn_table::import::is_import;
use tarn_table::{Catalog, verify::TableReport};

use crate::rest;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Import tables that are there.
pub(crate) struct ImportTables {
    imports: Vec<ImportConfig>,
    catalog: Catalog,
    known: tokio::sync::Mutex<BTreeMap<String, LakeTable>>,
}

impl ImportTables {
    pub(crate) fn new(config: &Config, catalog: &Catalog) -> ImportTables {
        let known = tokio::sync::Mutex::default();
        ImportTables { imports: config.imports.clone(), catalog: catalog.clone(), known }
    }

    /// Shows what has been imported since the last look. One table that cannot be looked at does not keep the others from it: the
    /// first error is told in the end.
    pub(crate) async fn look(&self) -> Result<()> {
        if self.imports.is_empty() {
            return Ok(());
        }
        let mut known = self.known.lock().await;
        let mut outcome = Ok(());
        for table in known.values() {
            outcome = outcome.and(self.show_again(table).await);
        }
        let found = self.find_more(&mut known).await;
        outcome.and(found)
    }

    async fn show_again(&self, table: &LakeTable) -> Result<()> {
        let snapshot = table.reload().await.map_err(|error| of_table(table.name(), error))?;
        self.catalog.show_import(table.name(), snapshot)
    }

    async fn find_more(&self, known: &mut BTreeMap<String, LakeTable>) -> Result<()> {
        let lake = self.catalog.lake();
        let mut outcome = Ok(());
        for name in names(lake, &self.imports, |name| known.contains_key(name)).await? {
            match load(lake, &name).await {
                Ok(Some(table)) => {
                    tracing::info!(table = name, "import table found");
                    outcome = outcome.and(self.catalog.show_import(&name, table.snapshot()));
                    known.insert(name, table);
                }
                Ok(None) => {}
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// Looks now and then; never completes.
    pub(crate) async fn follow(&self) {
        if self.imports.is_empty() {
            return std::future::pending().await;
        }
        loop {
            clock::pause(LOOK_EVERY).await;
            if let Err(error) = self.look().await {
                tracing::warn!(error = ?error, "import tables cannot be looked at; trying again");
            }
        }
    }

    /// The import table of this name.
    pub(crate) async fn get(&self, name: &str) -> Option<LakeTable> {
        self.known.lock().await.get(name).cloned()
    }

    /// Lets statements see what was rewritten.
    pub(crate) fn show(&self, table: &LakeTable) -> Result<()> {
        self.catalog.show_import(table.name(), table.snapshot())
    }

    /// Counts the rows of each.
    pub(crate) async fn verify(&self) -> Result<Vec<TableReport>> {
        let tables: Vec<LakeTable> = self.known.lock().await.values().cloned().collect();
        let mut reports = Vec::with_capacity(tables.len());
        for table in tables {
            table.reload().await?;
            reports.push(tarn_table::import::verify(&table).await?);
        }
        Ok(reports)
    }

    /// What each is.
    pub(crate) fn status(&self) -> Vec<TableStatus> {
        let shown = self.catalog.imports();
        let mut tables: Vec<TableStatus> = shown
            .tables
            .values()
            .filter_map(|table| Some(status_of(&table.name, table.lake.as_ref()?)))
            .collect();
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        tables
    }
}

/// The import tables in `lake` that the jobs may fill, but for those that `is_known`.
pub(crate) async fn find(
    lake: &Lake,
    imports: &[ImportConfig],
    is_known: impl Fn(&str) -> bool,
) -> Result<Vec<(String, LakeTable)>> {
    let mut found = Vec::new();
    for name in names(lake, imports, is_known).await? {
        if let Some(table) = load(lake, &name).await? {
            found.push((name, table));
        }
    }
    Ok(found)
}

/// Names of tables in `lake` that may be import tables.
async fn names(
    lake: &Lake,
    imports: &[ImportConfig],
    is_known: impl Fn(&str) -> bool,
) -> Result<Vec<String>> {
    if imports.is_empty() {
        return Ok(Vec::new());
    }
    let mut names = lake.table_names().await?;
    names.retain(|name| !is_known(name) && imports.iter().any(|import| import.may_fill(name)));
    Ok(names)
}

/// The table of this name, if it is an import table.
async fn load(lake: &Lake, name: &str) -> Result<Option<LakeTable>> {
    let table = lake.load(name, false).await.map_err(|error| of_table(name, error))?;
    Ok(table.filter(|table| is_import(&table.snapshot())))
}

fn of_table(name: &str, error: Error) -> Error {
    Error::new(error.kind(), format!("import table `{name}` cannot be read")).with_source(error)
}

/// Versions of all import tables of a config, which no vector of offsets tells; empty where there are none.
pub(crate) async fn versions(config: &Config) -> anyhow::Result<String> {
    if config.imports.is_empty() {
        return Ok(String::new());
    }
    let lake = rest::lake(config).await?;
    let tables = find(&lake, &config.imports, |_| false).await?;
    Ok(tables.iter().map(|(name, table)| format!(" {name}@{}", table.snapshot().version)).collect())
}

/// What an import table is: it has no topic, and nothing that it could lag behind.
pub(crate) fn status_of(name: &str, snapshot: &LakeSnapshot) -> TableStatus {
    TableStatus {
        name: name.to_owned(),
        state: "import".to_owned(),
        lake_rows: snapshot
            .statistics
            .rows
            .iter()
            .flatten()
            .map(|rows| u64::try_from(rows).unwrap_or(0))
            .sum(),
        files: snapshot.files.len() as u64,
        lake_bytes: snapshot.files.iter().map(|file| file.size).sum(),
        version: Some(snapshot.version),
        ..TableStatus::default()
    }
}
