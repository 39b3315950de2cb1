//! Reads the tail: record batches in memory, projected and turned into the schema of SQL as they stream.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions, SchedulingType,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};

/// A scan of record batches that are shared with the tail.
#[derive(Debug)]
pub struct TailExec {
    /// What each output partition reads.
    groups: Vec<Arc<[RecordBatch]>>,
    rows: usize,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl TailExec {
    /// Reads `batches` into `schema` (columns by name; absent ones are NULL), in up to `partitions` streams.
    pub fn new(batches: Vec<RecordBatch>, schema: SchemaRef, partitions: usize) -> TailExec {
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let share = rows.div_ceil(partitions.max(1)).max(1);
        let mut groups: Vec<Arc<[RecordBatch]>> = Vec::new();
        let (mut group, mut group_rows) = (Vec::new(), 0);
        for batch in batches {
            group_rows += batch.num_rows();
            group.push(batch);
            if group_rows >= share {
                groups.push(std::mem::take(&mut group).into());
                group_rows = 0;
            }
        }
        if !group.is_empty() || groups.is_empty() {
            groups.push(group.into());
        }
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(groups.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        TailExec {
            groups,
            rows,
            schema,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl DisplayAs for TailExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let batches: usize = self.groups.iter().map(|group| group.len()).sum();
        match format {
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                write!(f, "TailExec: batches={batches}, rows={}", self.rows)
            }
            DisplayFormatType::TreeRender => write!(f, "batches={batches}\nrows={}", self.rows),
        }
    }
}

impl ExecutionPlan for TailExec {
    fn name(&self) -> &'static str {
        "TailExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(group) = self.groups.get(partition).cloned() else {
            return internal_err!("the tail has {} partitions, not {partition}", self.groups.len());
        };
        let chunk = context.session_config().batch_size().max(1);
        let (schema, metrics) = (self.schema.clone(), BaselineMetrics::new(&self.metrics, partition));
        let chunks = (0..group.len()).flat_map(move |at| {
            let rows = group[at].num_rows();
            let group = group.clone();
            (0..rows).step_by(chunk).map(move |from| group[at].slice(from, chunk.min(rows - from)))
        });
        let read = chunks.map(move |rows| {
            let _timer = metrics.elapsed_compute().timer();
            let rows = fit(&rows, &schema)?;
            metrics.record_output(rows.num_rows());
            Ok(rows)
        });
        let stream = RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::iter(read));
        Ok(Box::pin(cooperative(stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let rows = match args.partition() {
            None => self.rows,
            Some(at) => self.groups.get(at).map_or(0, |group| group.iter().map(RecordBatch::num_rows).sum()),
        };
        Ok(Arc::new(Statistics::new_unknown(&self.schema).with_num_rows(Precision::Exact(rows))))
    }
}

/// `rows` as `schema` has them: columns by name, absent ones NULL, types cast.
fn fit(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| -> Result<ArrayRef> {
        Ok(match rows.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => column.clone(),
            Some(column) => cast(column, field.data_type())?,
            None => new_null_array(field.data_type(), rows.num_rows()),
        })
    });
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns.collect::<Result<_>>()?, &options)?)
}
