//! Reads the lake part: DataFusion's Parquet scan over the files that the filters leave.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use chrono::DateTime;
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::object_store::ObjectMeta;
use datafusion::physical_plan::ExecutionPlan;
use tarn_lake::{LakeFile, LakeSnapshot};

use super::lake_url;
use super::statistics::Pruning;

/// Above this number of files a scan carries statistics of the whole only, so that planning stays cheap.
const MOST_FILES_WITH_STATISTICS: usize = 512;

/// A scan of the files of `lake` that `filters` leave; `None` when they leave none. `projection` is by `schema`, the
/// table's schema as SQL shows it.
pub(super) fn scan(
    lake: &LakeSnapshot,
    schema: &SchemaRef,
    state: &dyn Session,
    projection: &[usize],
    filters: &[Expr],
    limit: Option<usize>,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let layout = Layout::new(lake, schema)?;
    let partition_values = partition_values(lake, &layout)?;
    let pruning = Pruning::new(lake, &layout.partition_by, &partition_values);
    let kept = match conjunction(filters.iter().cloned()) {
        Some(filter) => {
            let filter = state.create_physical_expr(filter, &DFSchema::try_from(schema.as_ref().clone())?)?;
            pruning.prune(filter, schema)
        }
        None => (0..lake.files.len()).collect(),
    };
    if kept.is_empty() {
        return Ok(None);
    }
    let columns = layout.indices(schema, projection);
    let table = layout.table.table_schema();
    let statistics = pruning.statistics(table, &columns, &kept);
    let per_file = kept.len() <= MOST_FILES_WITH_STATISTICS;
    let mut files = Vec::with_capacity(kept.len());
    for at in &kept {
        let mut file = PartitionedFile::new_from_meta(object_meta(&lake.files[*at]));
        file.partition_values = partition_values
            .iter()
            .map(|values| ScalarValue::try_from_array(values, *at))
            .collect::<Result<_>>()?;
        if per_file {
            file.statistics = Some(Arc::new(pruning.statistics(table, &columns, &[*at])));
        }
        files.push(file);
    }
    let options = state.default_table_options().parquet;
    let size_hint = options.global.metadata_size_hint;
    let runtime = state.runtime_env();
    let footers = runtime.cache_manager.get_file_metadata_cache();
    let readers = CachedParquetFileReaderFactory::new(runtime.object_store(lake_url())?, footers);
    let mut source = ParquetSource::new(layout.table)
        .with_table_parquet_options(options)
        .with_parquet_file_reader_factory(Arc::new(readers));
    if let Some(size_hint) = size_hint {
        source = source.with_metadata_size_hint(size_hint);
    }
    let config = FileScanConfigBuilder::new(lake_url(), Arc::new(source))
        .with_file_groups(group(files, state.config().target_partitions()))
        .with_statistics(statistics)
        .with_projection_indices(Some(columns))?
        .with_limit(limit)
        .build();
    Ok(Some(DataSourceExec::from_data_source(config)))
}

/// Where the table's columns come from: the files, or their partition values.
struct Layout {
    table: TableSchema,
    partition_by: Vec<FieldRef>,
}

impl Layout {
    fn new(lake: &LakeSnapshot, schema: &Schema) -> Result<Layout> {
        let (partition_by, in_files): (Vec<FieldRef>, Vec<FieldRef>) =
            schema.fields().iter().cloned().partition(|field| lake.partition_by.contains(field.name()));
        // In the order in which files give their values.
        let partition_by: Vec<FieldRef> = lake
            .partition_by
            .iter()
            .filter_map(|name| partition_by.iter().find(|field| field.name() == name).cloned())
            .collect();
        let table = TableSchema::builder(Arc::new(Schema::new(in_files)))
            .with_table_partition_cols(partition_by.clone())
            .build();
        Ok(Layout { table, partition_by })
    }

    /// `projection` by the table's schema, as indices of files' columns and then partition columns.
    fn indices(&self, schema: &Schema, projection: &[usize]) -> Vec<usize> {
        let table = self.table.table_schema();
        let index =
            |at: &usize| table.index_of(schema.field(*at).name()).expect("both have the same columns");
        projection.iter().map(index).collect()
    }
}

/// The files' values of each partition column, in the column's type.
fn partition_values(lake: &LakeSnapshot, layout: &Layout) -> Result<Vec<ArrayRef>> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let columns = layout.partition_by.iter().map(|field| {
        let at =
            lake.partition_by.iter().position(|name| name == field.name()).expect("it was taken from there");
        let texts: StringArray = lake
            .files
            .iter()
            .map(|file| file.partition_values.get(at).and_then(|value| value.as_deref()))
            .collect();
        Ok(cast_with_options(&texts, field.data_type(), &strict)?)
    });
    columns.collect()
}

fn object_meta(file: &LakeFile) -> ObjectMeta {
    ObjectMeta {
        location: file.path.clone(),
        last_modified: DateTime::from_timestamp_millis(file.modified_ms).unwrap_or_default(),
        size: file.size,
        e_tag: None,
        version: None,
    }
}

/// Files in up to `groups` groups of about the same size, neighbours kept together.
fn group(files: Vec<PartitionedFile>, groups: usize) -> Vec<FileGroup> {
    let total: u64 = files.iter().map(PartitionedFile::effective_size).sum();
    let share = total.div_ceil(u64::try_from(groups.max(1)).unwrap_or(1)).max(1);
    let mut grouped = Vec::new();
    let (mut group, mut size) = (Vec::new(), 0);
    for file in files {
        size += file.effective_size();
        group.push(file);
        if size >= share {
            grouped.push(FileGroup::new(std::mem::take(&mut group)));
            size = 0;
        }
    }
    if !group.is_empty() {
        grouped.push(FileGroup::new(group));
    }
    grouped
}
