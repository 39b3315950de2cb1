//! What a statement sees: the tables of the cuts it took, in the schemas `public`, `lake` and `live`, and nothing else.
//!
//! *Invariants*: the only object store is the lake's, so no function and no statement can reach another file. Nothing can be
//! registered: the catalog is made for one statement and is immutable.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::common::TableReference;
use datafusion::error::Result as DfResult;
use tarn_model::{Boundary, Error, OffsetVector, Result};
use tarn_table::scan::{Part, TableScan};
use tarn_table::{Catalog, Cut, CutTable, EventTime, Whole};

use crate::error::{from_datafusion, into_datafusion, nearest};
use crate::information::{INFORMATION_SCHEMA, Information};
use crate::pg_catalog::{self, Facts, PgSchema};
use crate::statement::Version;
use crate::views::SeenViews;
use crate::wholes;

/// Name of the one catalog.
pub(crate) const CATALOG: &str = "tarn";
/// The schema that names without one mean.
pub(crate) const DEFAULT_SCHEMA: &str = "public";

/// The schema of what a statement asks about Tarn itself; `information_schema` does not list it.
pub(crate) const SYSTEM_SCHEMA: &str = "system";
/// One row a view.
pub(crate) const VIEWS_TABLE: &str = "views";
/// What a view is, line by line.
pub(crate) const EXPLAIN_TABLE: &str = "explain_view";

/// The schemas of tables, and what each shows of them.
pub(crate) const SCHEMAS: [(&str, Part); 3] =
    [(DEFAULT_SCHEMA, Part::Both), ("lake", Part::Lake), ("live", Part::Live)];

/// One cut per topic, taken once.
#[derive(Debug)]
pub(crate) struct Moment {
    cuts: Vec<Arc<Cut>>,
    /// H, by topic.
    upto: OffsetVector,
    /// Whether that vector was asked for.
    as_of: bool,
    /// Scans at a vector of their own, by the name that stands in the statement.
    versions: HashMap<String, (String, OffsetVector)>,
    views: SeenViews,
    catalog: Catalog,
    /// Tables of many topics.
    wholes: BTreeMap<String, Arc<Whole>>,
}

impl Moment {
    /// Takes the newest cuts, and fixes the vector at which a statement over the tables `names` sees them: `as_of`, or as
    /// far as all of those on a topic have decoded. An `as_of` that names what cannot be seen is an error.
    pub(crate) fn take(
        catalog: &Catalog,
        views: SeenViews,
        names: &[TableReference],
        versions: &[Version],
        as_of: Option<&OffsetVector>,
    ) -> Result<Moment> {
        let mut cuts = catalog.cuts();
        cuts.push(catalog.imports());
        let upto = OffsetVector::new();
        let (as_of_asked, wholes) = (as_of.is_some(), catalog.wholes());
        let (versions_seen, catalog) = (HashMap::new(), catalog.clone());
        let mut moment =
            Moment { cuts, upto, as_of: as_of_asked, versions: versions_seen, views, catalog, wholes };
        for version in versions {
            moment.views.check(&version.table)?;
            let tables = moment.tables_behind(&version.table);
            if tables.is_empty() && moment.whole(&version.table).is_none() {
                return Err(moment.no_table(&version.table));
            }
            moment.check_topics(&version.vector)?;
            for table in &tables {
                check_visible(table, &version.vector)?;
            }
            let bound = (version.table.clone(), version.vector.clone());
            moment.versions.insert(version.name.clone(), bound);
        }
        for name in names.iter().filter(|name| moment.find(name.table()).is_none()) {
            moment.views.check(name.table())?;
        }
        let used: Vec<(Arc<Cut>, Arc<CutTable>)> =
            names.iter().flat_map(|name| moment.tables_behind(name.table())).collect();
        if let Some(as_of) = as_of {
            moment.check_topics(as_of)?;
            for table in &used {
                check_visible(table, as_of)?;
            }
            moment.upto = as_of.clone();
            return Ok(moment);
        }
        for cut in moment.cuts.iter().filter(|cut| !cut.topic.is_empty()) {
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

    /// The table of many topics of this name: exactly, or else the only one that differs in case.
    fn whole(&self, name: &str) -> Option<&Arc<Whole>> {
        if let Some(whole) = self.wholes.get(name) {
            return Some(whole);
        }
        let mut similar = self.wholes.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let (_, found) = similar.next()?;
        similar.next().is_none().then_some(found)
    }

    /// Whether `name` is a table of many topics.
    pub(crate) fn is_of_many(&self, name: &str) -> bool {
        self.find(name).is_none() && self.whole(name).is_some()
    }

    /// The table of this name, or the parts of the one of many topics.
    fn tables_of(&self, name: &str) -> Vec<(Arc<Cut>, Arc<CutTable>)> {
        match self.find(name) {
            Some(table) => vec![table],
            None => {
                self.whole(name).iter().flat_map(|whole| &whole.parts).filter_map(|p| self.find(p)).collect()
            }
        }
    }

    /// The tables of this name, or those that the view of this name reads.
    fn tables_behind(&self, name: &str) -> Vec<(Arc<Cut>, Arc<CutTable>)> {
        let tables = self.tables_of(name);
        if !tables.is_empty() {
            return tables;
        }
        self.views.tables(name).flat_map(|table| self.tables_of(table)).collect()
    }

    /// Whether `name` means something here.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.versions.contains_key(name)
            || self.find(name).is_some()
            || self.whole(name).is_some()
            || self.views.has(name)
    }

    /// Whether the vector was asked for.
    pub(crate) fn is_as_of(&self) -> bool {
        self.as_of
    }

    /// The views that are here.
    pub(crate) fn views(&self) -> &SeenViews {
        &self.views
    }

    /// Where the rows of the table of this name say when what they tell of happened.
    pub(crate) fn event_time(&self, table: &str) -> Option<Arc<EventTime>> {
        self.catalog.event_time(table)
    }

    /// The table of this name, and the vector at which the statement sees it.
    pub(crate) fn table_at(&self, name: &str) -> Option<(Arc<CutTable>, Boundary)> {
        let (cut, table) = self.find(name)?;
        let upto = self.upto.topic(&cut.topic);
        Some((table, upto))
    }

    /// The table of this name below `upto`, or below the statement's vector.
    pub(crate) fn scan_at(&self, name: &str, part: Part, upto: Option<&OffsetVector>) -> Option<TableScan> {
        let (cut, table) = self.find(name)?;
        let upto = upto.unwrap_or(&self.upto).topic(&cut.topic);
        Some(TableScan::new(table, part, upto))
    }

    /// The rows of the table of this name, of one topic or of many.
    pub(crate) fn rows_of(
        &self,
        name: &str,
        part: Part,
        upto: Option<&OffsetVector>,
    ) -> DfResult<Option<Arc<dyn TableProvider>>> {
        if let Some(scan) = self.scan_at(name, part, upto) {
            return Ok(Some(Arc::new(scan)));
        }
        let Some(whole) = self.whole(name) else { return Ok(None) };
        let upto = upto.unwrap_or(&self.upto);
        let scans = whole.parts.iter().filter_map(|name| self.find(name)).map(|(cut, table)| {
            let upto = upto.topic(&cut.topic);
            (cut.topic.to_string(), TableScan::new(table, part, upto))
        });
        wholes::table(&whole.schema, scans).map(Some)
    }

    /// What `name` means: a table, or a view.
    pub(crate) fn provider(&self, name: &str, part: Part) -> Result<Option<Arc<dyn TableProvider>>> {
        let (name, upto) = match self.versions.get(name) {
            Some((table, vector)) => (table.as_str(), Some(vector)),
            None => (name, None),
        };
        match self.rows_of(name, part, upto).map_err(from_datafusion)? {
            Some(rows) => Ok(Some(rows)),
            None => self.views.table(self, name, part, upto).transpose(),
        }
    }

    pub(crate) fn table_names(&self) -> Vec<String> {
        let tables = self.cuts.iter().flat_map(|cut| cut.tables.keys().cloned());
        let views = self.views.names().map(str::to_owned);
        let mut names: Vec<String> = tables.chain(self.wholes.keys().cloned()).chain(views).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The error for a table that is not here.
    pub(crate) fn no_table(&self, name: &str) -> Error {
        let names = self.table_names();
        let error = Error::invalid(format!("there is no table `{name}`")).with_sqlstate("42P01");
        match nearest(name, names.iter().map(String::as_str)) {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None if names.is_empty() => error.with_hint("there is no table yet"),
            None => error.with_hint(format!("tables: {}", names.join(", "))),
        }
    }

    fn check_topics(&self, vector: &OffsetVector) -> Result<()> {
        for (topic, _) in vector.iter() {
            if !self.cuts.iter().any(|cut| &*cut.topic == topic) {
                let topics: Vec<&str> =
                    self.cuts.iter().map(|cut| &*cut.topic).filter(|topic| !topic.is_empty()).collect();
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
    moment: Arc<Moment>,
    schemas: HashMap<&'static str, Arc<StatementSchema>>,
    system: Arc<SystemSchema>,
    /// For who comes through PostgreSQL's door.
    postgres: Option<Arc<PgSchema>>,
}

impl StatementCatalog {
    pub(crate) fn new(moment: &Arc<Moment>, facts: Option<&Arc<Facts>>) -> StatementCatalog {
        let schema = |(name, part)| (name, Arc::new(StatementSchema { moment: moment.clone(), part }));
        let system = Arc::new(SystemSchema { moment: moment.clone() });
        let postgres = facts.map(|facts| Arc::new(PgSchema(Arc::clone(facts))));
        let schemas = SCHEMAS.into_iter().map(schema).collect();
        StatementCatalog { moment: moment.clone(), schemas, system, postgres }
    }
}

impl CatalogProvider for StatementCatalog {
    fn schema_names(&self) -> Vec<String> {
        SCHEMAS.iter().map(|(name, _)| (*name).to_owned()).collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if name == SYSTEM_SCHEMA {
            return Some(self.system.clone());
        }
        if name == pg_catalog::SCHEMA {
            return self.postgres.clone().map(|schema| schema as Arc<dyn SchemaProvider>);
        }
        if name == INFORMATION_SCHEMA {
            return Some(Arc::new(Information::new(&self.moment)));
        }
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
        self.moment.provider(name, self.part).map_err(into_datafusion)
    }

    fn table_exist(&self, name: &str) -> bool {
        self.moment.has(name)
    }
}

/// Whether tables are found under this name.
pub(crate) fn is_schema(name: &str) -> bool {
    SCHEMAS.iter().any(|(known, _)| *known == name)
}

/// What `SHOW VIEWS` and `EXPLAIN VIEW` read.
#[derive(Debug)]
struct SystemSchema {
    moment: Arc<Moment>,
}

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        vec![VIEWS_TABLE.to_owned(), EXPLAIN_TABLE.to_owned()]
    }

    async fn table(&self, name: &str) -> DfResult<Option<Arc<dyn TableProvider>>> {
        let views = self.moment.views();
        Ok(match name {
            VIEWS_TABLE => Some(Arc::new(views.list(&self.moment)?)),
            EXPLAIN_TABLE => Some(Arc::new(views.explain(&self.moment)?)),
            _ => None,
        })
    }

    fn table_exist(&self, name: &str) -> bool {
        matches!(name, VIEWS_TABLE | EXPLAIN_TABLE)
    }
}

/// Memory of the tails that a statement over `names` holds on to, bytes.
pub(crate) fn pinned_bytes(moment: &Moment, names: &[TableReference]) -> usize {
    let mut tables: Vec<Arc<CutTable>> = Vec::new();
    for name in names.iter().filter(|name| name.schema() != Some("lake")) {
        let base = moment.versions.get(name.table()).map_or(name.table(), |(table, _)| table);
        for (_, table) in moment.tables_behind(base) {
            if !tables.iter().any(|known| Arc::ptr_eq(known, &table)) {
                tables.push(table);
            }
        }
    }
    tables.iter().map(|table| table.tail_bytes).sum()
}
