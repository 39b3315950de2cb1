//! `information_schema`: DataFusion's, with `tables` telling also how fresh each table and view is.
//!
//! *Why here*: freshness is a fact about a relation like its name and type, so it stands where tools look for those.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use async_trait::async_trait;
use datafusion::catalog::information_schema::{INFORMATION_SCHEMA_TABLES, InformationSchemaProvider};
use datafusion::catalog::{
    CatalogProviderList, MemTable, MemoryCatalogProviderList, SchemaProvider, TableProvider,
};
use datafusion::error::Result as DfResult;
use tarn_model::clock;
use tarn_table::CutTable;
use tarn_view::{Freshness, age_s};

use crate::session::{CATALOG, DEFAULT_SCHEMA, Moment, SCHEMAS, StatementCatalog};

/// The schema's name.
pub(crate) const INFORMATION_SCHEMA: &str = "information_schema";
const TABLES: &str = "tables";

/// The schema of one statement.
#[derive(Debug)]
pub(crate) struct Information {
    moment: Arc<Moment>,
    rest: InformationSchemaProvider,
}

/// One row of `tables`.
#[derive(Debug, Default)]
struct Relation {
    schema: &'static str,
    name: String,
    kind: &'static str,
    version: Option<u64>,
    boundary: Option<String>,
    lag_records: Option<u64>,
    lag_s: Option<f64>,
    live_bytes: Option<u64>,
    lake_bytes: Option<u64>,
    plan: Option<String>,
}

impl Information {
    pub(crate) fn new(moment: &Arc<Moment>) -> Information {
        // A catalog of its own: the statement's holds on to this schema.
        let catalogs = MemoryCatalogProviderList::new();
        catalogs.register_catalog(CATALOG.to_owned(), Arc::new(StatementCatalog::new(moment, None)));
        Information { moment: moment.clone(), rest: InformationSchemaProvider::new(Arc::new(catalogs)) }
    }

    fn tables(&self) -> DfResult<MemTable> {
        let mut relations = Vec::new();
        for (schema, _) in SCHEMAS {
            for name in self.moment.table_names() {
                relations.push(self.relation(schema, name));
            }
        }
        for name in INFORMATION_SCHEMA_TABLES {
            let (schema, name, kind) = (INFORMATION_SCHEMA, (*name).to_owned(), "VIEW");
            relations.push(Relation { schema, name, kind, ..Relation::default() });
        }
        let text = |of: &dyn Fn(&Relation) -> Option<&str>| -> ArrayRef {
            Arc::new(relations.iter().map(of).collect::<StringArray>())
        };
        let count = |of: &dyn Fn(&Relation) -> Option<u64>| -> ArrayRef {
            Arc::new(relations.iter().map(of).collect::<UInt64Array>())
        };
        let lag_s: ArrayRef = Arc::new(relations.iter().map(|r| r.lag_s).collect::<Float64Array>());
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("table_catalog", text(&|_| Some(CATALOG)), false),
            ("table_schema", text(&|r| Some(r.schema)), false),
            ("table_name", text(&|r| Some(&r.name)), false),
            ("table_type", text(&|r| Some(r.kind)), false),
            ("version", count(&|r| r.version), true),
            ("boundary", text(&|r| r.boundary.as_deref()), true),
            ("lag_records", count(&|r| r.lag_records), true),
            ("lag_s", lag_s, true),
            ("live_bytes", count(&|r| r.live_bytes), true),
            ("lake_bytes", count(&|r| r.lake_bytes), true),
            ("plan", text(&|r| r.plan.as_deref()), true),
        ])?;
        MemTable::try_new(batch.schema(), vec![vec![batch]])
    }

    fn relation(&self, schema: &'static str, name: String) -> Relation {
        let is_whole = schema == DEFAULT_SCHEMA;
        match self.moment.table_at(&name) {
            Some((table, _)) if is_whole => of_table(schema, name, &table),
            Some(_) => Relation { schema, name, kind: "BASE TABLE", ..Relation::default() },
            None => {
                let fresh = is_whole.then(|| self.moment.views().freshness(&name, &self.moment)).flatten();
                of_view(schema, name, fresh.unwrap_or_default())
            }
        }
    }
}

/// A table lags by what is not in the lake yet.
fn of_table(schema: &'static str, name: String, table: &CutTable) -> Relation {
    let now_us = clock::system().now_ms() * 1000;
    Relation {
        schema,
        name,
        kind: "BASE TABLE",
        version: table.lake.as_ref().map(|lake| lake.version),
        boundary: Some(table.boundary.to_string()),
        lag_records: Some(table.decoded().records_above(&table.boundary)),
        lag_s: Some(age_s(table, &table.boundary, now_us)),
        live_bytes: u64::try_from(table.tail_bytes).ok(),
        lake_bytes: table.lake.as_ref().map(|lake| lake.files.iter().map(|file| file.size).sum()),
        plan: None,
    }
}

/// A view lags by what its states in the lake do not cover.
fn of_view(schema: &'static str, name: String, fresh: Freshness) -> Relation {
    Relation {
        schema,
        name,
        kind: "VIEW",
        version: fresh.version.map(u64::from),
        boundary: fresh.boundary.map(|boundary| boundary.to_string()),
        lag_records: fresh.lag_records,
        lag_s: fresh.lag_s,
        live_bytes: fresh.live_bytes,
        lake_bytes: fresh.lake_bytes,
        plan: Some(fresh.plan).filter(|plan| !plan.is_empty()),
    }
}

#[async_trait]
impl SchemaProvider for Information {
    fn table_names(&self) -> Vec<String> {
        self.rest.table_names()
    }

    async fn table(&self, name: &str) -> DfResult<Option<Arc<dyn TableProvider>>> {
        if name == TABLES {
            return Ok(Some(Arc::new(self.tables()?)));
        }
        self.rest.table(name).await
    }

    fn table_exist(&self, name: &str) -> bool {
        self.rest.table_exist(name)
    }
}
