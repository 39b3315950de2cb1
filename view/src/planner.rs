//! The session in which definitions are planned and states are made.
//!
//! *Invariants*: it reaches the lake's store and nothing else; its memory is bounded; nothing is spilled to disk.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProviderList, SchemaProvider, Session, TableProvider,
};
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::object_store::ObjectStore;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionConfig;
use tarn_model::{Result, background};
use tarn_table::scan::OnlyTheLake;

use crate::error::from_datafusion;
use crate::functions::with_functions;

const CATALOG: &str = "tarn";
const SCHEMA: &str = "public";

/// Plans definitions and makes states; clones share it.
#[derive(Debug, Clone)]
pub struct Planner {
    state: Arc<SessionState>,
    runtime: Arc<RuntimeEnv>,
    memory_bytes: usize,
}

impl Planner {
    /// A planner over the lake's `store`, in which one making of states may take `memory_bytes`.
    pub fn new(store: Arc<dyn ObjectStore>, memory_bytes: usize) -> Result<Planner> {
        let mut config = SessionConfig::new()
            .with_default_catalog_and_schema(CATALOG, SCHEMA)
            .with_create_default_catalog_and_schema(false);
        config.options_mut().execution.time_zone = Some("UTC".to_owned());
        // As in statements: DataFusion 55.2 misses bounds with it (apache/datafusion#25147).
        config.options_mut().optimizer.enable_aggregate_dynamic_filter_pushdown = false;
        // A state is one row a group: rows that are passed on as states one by one would have to be merged all the same.
        config.options_mut().execution.skip_partial_aggregation_probe_ratio_threshold = 1.1;
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
        let runtime = RuntimeEnvBuilder::new()
            .with_object_store_registry(Arc::new(OnlyTheLake(store)))
            .with_disk_manager_builder(disk)
            .build_arc()
            .map_err(from_datafusion)?;
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_config(config)
            .with_runtime_env(Arc::clone(&runtime))
            .with_table_factories(Default::default());
        let state = with_functions(state).build();
        Ok(Planner { state: Arc::new(state), runtime, memory_bytes })
    }

    /// The same in one stream, with no more rules for plans than these, each tried once.
    #[cfg(test)]
    pub(crate) fn plain(&self, logical: &[&str], physical: &[&str]) -> Planner {
        let rules = self.state.optimizers().iter();
        let rules = rules.filter(|rule| logical.contains(&rule.name())).cloned().collect();
        let later = self.state.physical_optimizers().iter();
        let later = later.filter(|rule| physical.contains(&rule.name())).cloned().collect();
        let mut config = self.state.config().clone().with_target_partitions(1);
        config.options_mut().optimizer.max_passes = 1;
        let state = SessionStateBuilder::new_from_existing(SessionState::clone(&self.state));
        let state =
            state.with_config(config).with_optimizer_rules(rules).with_physical_optimizer_rules(later);
        Planner { state: Arc::new(state.build()), ..self.clone() }
    }

    /// Memory of one making of states, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Functions, rules and settings, without a catalog.
    pub(crate) fn state(&self) -> &SessionState {
        &self.state
    }

    /// A session that knows `tables` by name and nothing else.
    pub(crate) fn session(&self, tables: Arc<dyn SchemaProvider>) -> SessionState {
        let catalogs = MemoryCatalogProviderList::new();
        catalogs.register_catalog(CATALOG.to_owned(), Arc::new(OneSchema(tables)));
        let mut state = SessionState::clone(&self.state);
        state.register_catalog_list(Arc::new(catalogs));
        state
    }

    /// Runs a plan to its end in the background, with memory of its own.
    pub(crate) async fn run(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Vec<RecordBatch>> {
        let runtime = RuntimeEnv {
            memory_pool: Arc::new(GreedyMemoryPool::new(self.memory_bytes)),
            ..RuntimeEnv::clone(&self.runtime)
        };
        let task = Arc::new(TaskContext::from(&*self.state).with_runtime(Arc::new(runtime)));
        background::spawn(collect(plan, task)).await?.map_err(from_datafusion)
    }
}

/// A table by its columns only: for planning.
#[derive(Debug)]
pub(crate) struct Columns(pub(crate) SchemaRef);

#[async_trait]
impl TableProvider for Columns {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// As the rows' own, so that a plan which was optimized over the placeholder prunes files, too.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::Internal("a placeholder for rows was read".to_owned()))
    }
}

#[derive(Debug)]
struct OneSchema(Arc<dyn SchemaProvider>);

impl CatalogProvider for OneSchema {
    fn schema_names(&self) -> Vec<String> {
        vec![SCHEMA.to_owned()]
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        (name == SCHEMA).then(|| Arc::clone(&self.0))
    }
}
