//! `information_schema`: DataFusion's, with `tables` telling also how fresh each table and view is.
//!
//! *Why here*: freshness is a fact about a relation like its name and type, so it stands where tools look for those.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use async_trait::async_trait;
use datafusion::catalog::information_schema::{INFORMATION_SCHEMA_TABLES, InformationSchemaProvider};
use datafusion::catalog::{
    CatalogProviderList, MemTable, MemoryCatalogProviderList, SchemaProvider, TableProvider,
};
use datafusion::error::Result as DfResult;
use tarn_model::{Boundary, clock};
use tarn_table::import::is_import;
use tarn_table::{CutTable, EventTime};
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
    watermark_us: Option<i64>,
    late_records: Option<u64>,
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
        let watermark = relations.iter().map(|r| r.watermark_us).collect::<TimestampMicrosecondArray>();
        let watermark = watermark.with_timezone("UTC");
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
            ("watermark", Arc::new(watermark), true),
            ("late_records", count(&|r| r.late_records), true),
        ])?;
        MemTable::try_new(batch.schema(), vec![vec![batch]])
    }

    fn relation(&self, schema: &'static str, name: String) -> Relation {
        let is_whole = schema == DEFAULT_SCHEMA;
        match self.moment.table_at(&name) {
            Some((table, upto)) => {
                let lateness =
                    self.moment.event_time(&table.name).map(|time| lateness(&time, schema, &table, &upto));
                let (watermark_us, late_records) = lateness.unwrap_or_default();
                let plain = if is_whole {
                    of_table(schema, name, &table)
                } else {
                    Relation { schema, name, kind: "BASE TABLE", ..Relation::default() }
                };
                Relation { watermark_us, late_records, ..plain }
            }
            None => {
                let fresh = is_whole.then(|| self.moment.views().freshness(&name, &self.moment)).flatten();
                of_view(schema, name, fresh.unwrap_or_default())
            }
        }
    }
}

/// How far `table` has come below `upto` in event time, µs since 1970 UTC, and how many of its rows were late; of the part that `schema`
/// shows. `None` where only rows in the lake can tell.
fn lateness(
    time: &EventTime,
    schema: &'static str,
    table: &CutTable,
    upto: &Boundary,
) -> (Option<i64>, Option<u64>) {
    if !upto.is_at_least(&table.boundary) {
        return (None, None);
    }
    let in_lake = table.lake.as_ref().map_or(0, |lake| time.late_in_lake(lake));
    match schema {
        "lake" => {
            let newest = table.lake.as_ref().and_then(|lake| time.in_lake(lake)).unwrap_or_default();
            (time.watermark(&newest), Some(in_lake))
        }
        "live" => (None, time.late_in_tail(table, upto)),
        _ => {
            let newest = time.newest(table, upto).unwrap_or_default();
            (time.watermark(&newest), time.late_in_tail(table, upto).map(|late| late + in_lake))
        }
    }
}

/// A table lags by what is not in the lake yet; an import table has no offsets to lag by.
fn of_table(schema: &'static str, name: String, table: &CutTable) -> Relation {
    let lake_bytes = table.lake.as_ref().map(|lake| lake.files.iter().map(|file| file.size).sum());
    let version = table.lake.as_ref().map(|lake| lake.version);
    if table.lake.as_ref().is_some_and(|lake| is_import(lake)) {
        let plan = Some("import".to_owned());
        return Relation {
            schema,
            name,
            kind: "BASE TABLE",
            version,
            lake_bytes,
            plan,
            ..Relation::default()
        };
    }
    let now_us = clock::system().now_ms() * 1000;
    Relation {
        schema,
        name,
        kind: "BASE TABLE",
        version,
        boundary: Some(table.boundary.to_string()),
        lag_records: Some(table.decoded().records_above(&table.boundary)),
        lag_s: Some(age_s(table, &table.boundary, now_us)),
        live_bytes: u64::try_from(table.tail_bytes).ok(),
        lake_bytes,
        ..Relation::default()
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
        late_records: fresh.late_records,
        watermark_us: None,
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
