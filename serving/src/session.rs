//! What a statement sees: the tables of the cuts it took, in the schemas `public`, `lake` and `live`, and nothing else.
//!
//! *Invariants*: the only object store is the lake's, so no function and no statement can reach another file. Nothing can be
//! registered: the catalog is made for one statement and is immutable.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::common::TableReference;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::object_store::ObjectStore;
use tarn_model::{Boundary, Error, OffsetVector, Result};
use tarn_table::scan::{Part, TableScan};
use tarn_table::{Catalog, Cut, CutTable};

use crate::error::nearest;
use crate::statement::Version;

/// Name of the one catalog.
pub(crate) const CATALOG: &str = "tarn";
/// The schema that names without one mean.
pub(crate) const DEFAULT_SCHEMA: &str = "public";

const SCHEMAS: [(&str, Part); 3] = [(DEFAULT_SCHEMA, Part::Both), ("lake", Part::Lake), ("live", Part::Live)];

/// One cut per topic, taken once.
#[derive(Debug)]
pub(crate) struct Moment {
    cuts: Vec<Arc<Cut>>,
    /// H, by topic.
    upto: OffsetVector,
    /// Scans at a vector of their own, by the name that stands in the statement.
    versions: HashMap<String, (String, OffsetVector)>,
}

impl Moment {
    /// Takes the newest cuts, and fixes the vector at which a statement over the tables `names` sees them: `as_of`, or as
    /// far as all of those on a topic have decoded. An `as_of` that names what cannot be seen is an error.
    pub(crate) fn take(
        catalog: &Catalog,
        names: &[TableReference],
        versions: &[Version],
        as_of: Option<&OffsetVector>,
    ) -> Result<Moment> {
        let cuts = catalog.cuts();
        let mut moment = Moment { cuts, upto: OffsetVector::new(), versions: HashMap::new() };
        for version in versions {
            let table = moment.find(&version.table).ok_or_else(|| moment.no_table(&version.table))?;
            moment.check_topics(&version.vector)?;
            check_visible(&table, &version.vector)?;
            let bound = (table.1.name.to_string(), version.vector.clone());
            moment.versions.insert(version.name.clone(), bound);
        }
        let used: Vec<(Arc<Cut>, Arc<CutTable>)> =
            names.iter().filter_map(|name| moment.find(name.table())).collect();
        if let Some(as_of) = as_of {
            moment.check_topics(as_of)?;
            for table in &used {
                check_visible(table, as_of)?;
            }
            moment.upto = as_of.clone();
            return Ok(moment);
        }
        for cut in &moment.cuts {
            let on_topic =
                used.iter().filter(|(other, _)| other.topic == cut.topic).map(|(_, table)| table.decoded());
            let upto = on_topic.reduce(|a, b| a.meet(&b)).unwrap_or_else(|| cut.decoded.clone());
            moment.upto.set(cut.topic.to_string(), upto);
        }
        Ok(moment)
    }

    /// The vector that the statement sees.
    pub(crate) fn vector(&self) -> &OffsetVector {
        &self.upto
    }

    /// The table of this name: exactly, or else the only one that differs in case.
    fn find(&self, name: &str) -> Option<(Arc<Cut>, Arc<CutTable>)> {
        let exact = self.cuts.iter().find_map(|cut| Some((cut.clone(), cut.tables.get(name)?.clone())));
        exact.or_else(|| {
            let mut similar = self.cuts.iter().flat_map(|cut| {
                cut.tables
                    .values()
                    .filter(|t| t.name.eq_ignore_ascii_case(name))
                    .map(move |t| (cut.clone(), t.clone()))
            });
            let found = similar.next()?;
            similar.next().is_none().then_some(found)
        })
    }

    /// Whether `name` means something here.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.versions.contains_key(name) || self.find(name).is_some()
    }

    fn scan(&self, name: &str, part: Part) -> Option<TableScan> {
        let (table, upto) = match self.versions.get(name) {
            Some((table, vector)) => (table.as_str(), Some(vector)),
            None => (name, None),
        };
        let (cut, table) = self.find(table)?;
        let upto = upto.unwrap_or(&self.upto).topic(&cut.topic);
        Some(TableScan::new(table, part, upto))
    }

    fn table_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.cuts.iter().flat_map(|cut| cut.tables.keys().cloned()).collect();
        names.sort();
        names
    }

    /// The error for a table that is not here.
    pub(crate) fn no_table(&self, name: &str) -> Error {
        let names = self.table_names();
        let error = Error::invalid(format!("there is no table `{name}`"));
        match nearest(name, names.iter().map(String::as_str)) {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None if names.is_empty() => error.with_hint("there is no table yet"),
            None => error.with_hint(format!("tables: {}", names.join(", "))),
        }
    }

    fn check_topics(&self, vector: &OffsetVector) -> Result<()> {
        for (topic, _) in vector.iter() {
            if !self.cuts.iter().any(|cut| &*cut.topic == topic) {
                let topics: Vec<&str> = self.cuts.iter().map(|cut| &*cut.topic).collect();
                return Err(Error::invalid(format!(
                    "the vector names the topic `{topic}`, which is not here"
                ))
                .with_hint(format!("topics: {}", topics.join(", "))));
            }
        }
        Ok(())
    }
}

/// A vector beyond what is decoded would silently give less than it promises.
fn check_visible((cut, table): &(Arc<Cut>, Arc<CutTable>), vector: &OffsetVector) -> Result<()> {
    let (decoded, wanted): (Boundary, Boundary) = (table.decoded(), vector.topic(&cut.topic));
    match wanted.iter().find(|(partition, next)| *next > decoded.next(*partition)) {
        None => Ok(()),
        Some((partition, next)) => Err(Error::invalid(format!(
            "the vector is ahead of table `{}`: topic `{}` partition {partition} wants offset {next}, seen are {}",
            table.name,
            cut.topic,
            decoded.next(partition)
        ))
        .with_hint("a lake at rest has committed rows only; ask the running process, or use an older vector")),
    }
}

/// The catalog of one statement.
#[derive(Debug)]
pub(crate) struct StatementCatalog {
    schemas: HashMap<&'static str, Arc<StatementSchema>>,
}

impl StatementCatalog {
    pub(crate) fn new(moment: &Arc<Moment>) -> StatementCatalog {
        let schema = |(name, part)| (name, Arc::new(StatementSchema { moment: moment.clone(), part }));
        StatementCatalog { schemas: SCHEMAS.into_iter().map(schema).collect() }
    }
}

impl CatalogProvider for StatementCatalog {
    fn schema_names(&self) -> Vec<String> {
        SCHEMAS.iter().map(|(name, _)| (*name).to_owned()).collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        self.schemas.get(name).map(|schema| schema.clone() as Arc<dyn SchemaProvider>)
    }
}

#[derive(Debug)]
struct StatementSchema {
    moment: Arc<Moment>,
    part: Part,
}

#[async_trait]
impl SchemaProvider for StatementSchema {
    fn table_names(&self) -> Vec<String> {
        self.moment.table_names()
    }

    async fn table(&self, name: &str) -> DfResult<Option<Arc<dyn TableProvider>>> {
        Ok(self.moment.scan(name, self.part).map(|scan| Arc::new(scan) as Arc<dyn TableProvider>))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.moment.has(name)
    }
}

/// Whether tables are found under this name.
pub(crate) fn is_schema(name: &str) -> bool {
    SCHEMAS.iter().any(|(known, _)| *known == name)
}

/// Memory of the tails that a statement over `names` holds on to, bytes.
pub(crate) fn pinned_bytes(moment: &Moment, names: &[TableReference]) -> usize {
    let mut tables: Vec<Arc<CutTable>> = Vec::new();
    for name in names.iter().filter(|name| name.schema() != Some("lake")) {
        let base = moment.versions.get(name.table()).map_or(name.table(), |(table, _)| table);
        if let Some((_, table)) = moment.find(base)
            && !tables.iter().any(|known| Arc::ptr_eq(known, &table))
        {
            tables.push(table);
        }
    }
    tables.iter().map(|table| table.tail_bytes).sum()
}

/// The lake's store, under its one URL.
pub(crate) struct OnlyTheLake(pub(crate) Arc<dyn ObjectStore>);

impl fmt::Debug for OnlyTheLake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnlyTheLake")
    }
}

impl ObjectStoreRegistry for OnlyTheLake {
    fn register_store(&self, _: &url::Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, url: &url::Url) -> DfResult<Arc<dyn ObjectStore>> {
        if url.as_str().starts_with(tarn_table::scan::lake_url().as_str()) {
            return Ok(self.0.clone());
        }
        Err(DataFusionError::Plan("only the lake can be read".to_owned()))
    }
}
