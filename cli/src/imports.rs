//! The import tables of a config, as a process that runs shows and keeps them.
//!
//! `tarn import` is another process: it commits to the lake and says so. Whoever imports from another machine says nothing, so this
//! looks by itself, too.

use std::collections::BTreeMap;
use std::time::Duration;

use tarn_lake::{Lake, LakeSnapshot, LakeTable};
use tarn_model::config::{Config, ImportConfig};
use tarn_model::status::TableStatus;
use tarn_model::{Result, clock};
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

    /// Shows what has been imported since the last look.
    pub(crate) async fn look(&self) -> Result<()> {
        if self.imports.is_empty() {
            return Ok(());
        }
        let mut known = self.known.lock().await;
        for table in known.values() {
            let snapshot = table.reload().await?;
            self.catalog.show_import(table.name(), snapshot)?;
        }
        for (name, table) in find(self.catalog.lake(), &self.imports, |name| known.contains_key(name)).await?
        {
            tracing::info!(table = name, "import table found");
            self.catalog.show_import(&name, table.snapshot())?;
            known.insert(name, table);
        }
        Ok(())
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
    if imports.is_empty() {
        return Ok(found);
    }
    for name in lake.table_names().await? {
        if is_known(&name) || !imports.iter().any(|import| import.may_fill(&name)) {
            continue;
        }
        if let Some(table) = lake.load(&name, false).await?
            && is_import(&table.snapshot())
        {
            found.push((name, table));
        }
    }
    Ok(found)
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
