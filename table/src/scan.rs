//! The union read: a table provider over one table of one cut.
//!
//! *Why*: lake and tail of a cut meet at an exact boundary, so their union is a plain `UNION ALL`: no deduplication, no
//! merge. When the tail is empty the plan is DataFusion's own Parquet scan and nothing else.
//!
//! *Invariants*
//! - `lake.t` and `live.t` of one cut are disjoint, and together they are `t`.
//! - A scan at a vector H shows exactly the rows with `_offset < H[_partition]` (absent = 0), wherever they lie. H is
//!   never above what the table has decoded: the one who makes a scan has checked it.
//! - Strings and binaries are shown as views (`Utf8View`, `BinaryView`), the form in which Parquet is read without a copy;
//!   the tail's are turned into views as they are read.
//!
//! *Failure*: a file that vacuum took under a long statement is an error of the object store (`NotFound`), never fewer rows.
//!
//! *Not here*: which table a name in SQL means, and parsing `AS OF`.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType, col, lit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExecBuilder;
use datafusion::physical_plan::union::UnionExec;
use tarn_model::Boundary;
use tarn_model::columns::{OFFSET, PARTITION};

use crate::cut::CutTable;

mod files;
mod statistics;
mod store;
mod tail;

pub use store::OnlyTheLake;
pub use tail::TailExec;

/// Under this URL the lake's store is registered in a session's runtime environment.
pub fn lake_url() -> ObjectStoreUrl {
    ObjectStoreUrl::parse("tarn-lake://lake/").expect("a constant URL")
}

/// Which part of a table a scan shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `t`: lake and tail.
    Both,
    /// `lake.t`: what is committed.
    Lake,
    /// `live.t`: what is not committed yet.
    Live,
}

/// One table of one cut, as DataFusion reads it.
#[derive(Debug, Clone)]
pub struct TableScan {
    table: Arc<CutTable>,
    part: Part,
    /// Nothing below this is shown.
    from: Boundary,
    /// The vector H, as this table's topic has it.
    upto: Boundary,
    schema: SchemaRef,
}

impl TableScan {
    /// Shows `part` of `table` below `upto`, which is at most what the table has decoded.
    pub fn new(table: Arc<CutTable>, part: Part, upto: Boundary) -> TableScan {
        let schema = sql_schema(&table.schema);
        TableScan { table, part, from: Boundary::new(), upto, schema }
    }

    /// Shows only rows with `_offset >= from[_partition]`: the half-open range `[from, upto)`.
    #[must_use]
    pub fn above(mut self, from: Boundary) -> TableScan {
        self.from = from;
        self
    }

    /// Whether the range of this scan holds no offset.
    pub fn is_empty(&self) -> bool {
        self.from.is_at_least(&self.upto)
    }

    /// Offsets in the range of this scan.
    pub fn records(&self) -> u64 {
        self.upto.records_above(&self.from.meet(&self.upto))
    }

    /// Memory of the tail that this scan holds on to, bytes.
    pub fn pinned_bytes(&self) -> usize {
        if self.part == Part::Lake { 0 } else { self.table.tail_bytes }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.table.name
    }

    /// Which part of the table it shows.
    pub fn part(&self) -> Part {
        self.part
    }

    /// All its rows, where they lie in memory, in offset order within each partition; `None` when some may lie in the lake.
    pub fn in_memory(&self) -> Option<Vec<RecordBatch>> {
        (!self.reads_lake()).then(|| self.tail())
    }

    /// Whether rows in the lake may be among those that are shown.
    fn reads_lake(&self) -> bool {
        let Some(lake) = &self.table.lake else { return false };
        let is_above = self.from.is_at_least(&self.table.boundary.meet(&self.upto));
        self.part != Part::Live && !lake.files.is_empty() && (!is_above || self.table.boundary.is_empty())
    }

    fn lake_is_cut(&self) -> bool {
        !self.upto.is_at_least(&self.table.boundary) || self.from.iter().any(|(_, next)| next > 0)
    }

    async fn scan_lake(
        &self,
        state: &dyn Session,
        projection: &[usize],
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(lake) = self.table.lake.as_ref().filter(|_| self.reads_lake()) else { return Ok(None) };
        if !self.lake_is_cut() {
            return files::scan(lake, &self.schema, state, projection, filters, limit);
        }
        // Rows outside the range are filtered here, where nobody can project the system columns away before.
        let mut columns = projection.to_vec();
        for name in [PARTITION, OFFSET] {
            let index = self.schema.index_of(name)?;
            if !columns.contains(&index) {
                columns.push(index);
            }
        }
        let within = within(&self.from, &self.upto);
        let filters: Vec<Expr> = filters.iter().cloned().chain([within.clone()]).collect();
        let Some(scan) = files::scan(lake, &self.schema, state, &columns, &filters, None)? else {
            return Ok(None);
        };
        let predicate = state.create_physical_expr(within, &DFSchema::try_from(scan.schema())?)?;
        let shown = (0..projection.len()).collect();
        let filter = FilterExecBuilder::new(predicate, scan).apply_projection(Some(shown))?.build()?;
        Ok(Some(Arc::new(filter)))
    }

    /// The rows of the tail that are shown; no copy.
    fn tail(&self) -> Vec<RecordBatch> {
        if self.part == Part::Lake {
            return Vec::new();
        }
        let within = |(partition, rows)| {
            crate::fragment::slice_rows(rows, self.from.next(partition), self.upto.next(partition))
        };
        self.table.tail_batches().map(within).filter(|rows| rows.num_rows() > 0).collect()
    }

    fn scan_tail(&self, state: &dyn Session, projected: &SchemaRef) -> Option<Arc<dyn ExecutionPlan>> {
        let batches = self.tail();
        if batches.is_empty() {
            return None;
        }
        let partitions = state.config().target_partitions();
        Some(Arc::new(TailExec::new(batches, projected.clone(), partitions)))
    }
}

/// The range of the rows that are shown.
impl fmt::Display for TableScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from.is_empty() {
            return write!(f, "[0, {})", self.upto);
        }
        write!(f, "[{}, {})", self.from, self.upto)
    }
}

#[async_trait]
impl TableProvider for TableScan {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Files and row groups are pruned by filters; each row is filtered above.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize>;
        let projection = match projection {
            Some(projection) => projection,
            None => {
                all = (0..self.schema.fields().len()).collect();
                &all
            }
        };
        let projected: SchemaRef = Arc::new(self.schema.project(projection)?);
        let lake = match self.part {
            Part::Both | Part::Lake => self.scan_lake(state, projection, filters, limit).await?,
            Part::Live => None,
        };
        let tail = match self.part {
            Part::Both | Part::Live => self.scan_tail(state, &projected),
            Part::Lake => None,
        };
        match (lake, tail) {
            (Some(lake), Some(tail)) => UnionExec::try_new(vec![lake, tail]),
            (Some(one), None) | (None, Some(one)) => Ok(one),
            (None, None) => Ok(Arc::new(EmptyExec::new(projected))),
        }
    }
}

/// A table's schema as SQL shows it: strings and binaries as views.
pub fn sql_schema(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let data_type = match field.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
            DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
            other => other.clone(),
        };
        Field::new(field.name(), data_type, field.is_nullable())
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// `from[_partition] <= _offset < H[_partition]`.
fn within(from: &Boundary, upto: &Boundary) -> Expr {
    upto.iter()
        .filter(|(partition, next)| *next > from.next(*partition))
        .map(|(partition, next)| {
            let below = col(PARTITION).eq(lit(partition)).and(col(OFFSET).lt(lit(next)));
            match from.next(partition) {
                0 => below,
                first => below.and(col(OFFSET).gt_eq(lit(first))),
            }
        })
        .reduce(Expr::or)
        .unwrap_or_else(|| lit(false))
}

#[cfg(test)]
mod tests;
