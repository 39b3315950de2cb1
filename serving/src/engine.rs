//! Plans and runs statements.
//!
//! *Why*: queries are work for processors; ingestion is work for latency. So statements run on a runtime of their own, and
//! the rows come over through a short queue: a slow reader slows its statement and nothing else.
//!
//! *Invariants*
//! - One statement takes one cut per topic, once; every table in it is read at that vector.
//! - Time, memory, concurrency, text and depth of a statement are bounded; nothing is spilled to disk.
//! - Dropping an [`Answer`] ends its statement.

use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::CatalogProviderList;
use datafusion::catalog::MemoryCatalogProviderList;
use datafusion::common::TableReference;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::TaskContext;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{
    GreedyMemoryPool, MemoryConsumer, MemoryReservation, TrackConsumersPool,
};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{
    RecordBatchStream, SendableRecordBatchStream, SessionState, SessionStateBuilder,
};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use futures::{Stream, StreamExt};
use tarn_model::{Error, Kind, OffsetVector, Result};
use tarn_table::Catalog;
use tarn_table::scan::OnlyTheLake;
use tarn_view::{Planner, RunningStatement, Views};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use crate::distinct::CountDistinctByKey;
use crate::error::{between, from_datafusion, into_datafusion, nearest};
use crate::session::{
    CATALOG, DEFAULT_SCHEMA, Moment, SYSTEM_SCHEMA, StatementCatalog, is_schema, pinned_bytes,
};
use crate::statement::Statement;
use crate::views::SeenViews;

/// Statements that run at once; others wait, within their own time.
const MAX_STATEMENTS: usize = 64;
/// Record batches between a statement and its reader.
const QUEUE_BATCHES: usize = 2;
/// Threads for statements per core. An operator that gives no row for long keeps its thread even when its statement has been
/// cancelled; the others go on meanwhile.
const THREADS_PER_CORE: usize = 4;
/// The reader's own watch ends this long after the statement's, which says more.
const LAST_WORD: Duration = Duration::from_millis(250);
/// Address space of a thread's stack: plans are trees, and the deepest that a statement may have must fit.
const STACK_BYTES: usize = 32 << 20;
/// File reads at once.
const MAX_READS: usize = 64;
/// Memory for Parquet footers, shared by all statements.
const FOOTER_CACHE_BYTES: usize = 64 << 20;

/// Limits of a statement.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Memory of one statement, bytes.
    pub statement_memory_bytes: usize,
    /// Time after which it is cancelled, streaming included.
    pub statement_timeout: Duration,
}

/// Plans and runs statements over a catalog; clones share it.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    catalog: Catalog,
    views: Views,
    options: EngineOptions,
    /// Functions, rules and settings, without a catalog.
    state: SessionState,
    runtime_env: Arc<RuntimeEnv>,
    /// Taken only when the last engine is dropped.
    runtime: Option<Runtime>,
    permits: Arc<Semaphore>,
    counts: Counts,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The answer to one statement, streaming.
#[allow(missing_debug_implementations, reason = "holds a stream")]
pub struct Answer {
    /// What it saw.
    pub vector: OffsetVector,
    /// Its columns.
    pub schema: SchemaRef,
    /// Its rows; ends with an error at the deadline or the memory limit.
    pub rows: SendableRecordBatchStream,
}

impl Engine {
    /// An engine over `catalog`, without views.
    pub fn new(catalog: Catalog, options: EngineOptions) -> Result<Engine> {
        let planner = Planner::new(catalog.lake().store(), 0)?;
        Engine::with_views(catalog, Views::new(planner, []), options)
    }

    /// An engine over `catalog` with `views` on its tables.
    pub fn with_views(catalog: Catalog, views: Views, options: EngineOptions) -> Result<Engine> {
        let mut config = SessionConfig::new()
            .with_default_catalog_and_schema(CATALOG, DEFAULT_SCHEMA)
            .with_create_default_catalog_and_schema(false);
        config.options_mut().execution.time_zone = Some("UTC".to_owned());
        // Wrong in DataFusion 55.2: `min(x), max(x)` over files of which one has only NULLs now and then misses a bound
        // (apache/datafusion#25147).
        config.options_mut().optimizer.enable_aggregate_dynamic_filter_pushdown = false;
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
        let runtime_env = RuntimeEnvBuilder::new()
            .with_object_store_registry(Arc::new(OnlyTheLake(catalog.lake().store())))
            .with_disk_manager_builder(disk)
            .with_metadata_cache_limit(FOOTER_CACHE_BYTES)
            .build_arc()
            .map_err(from_datafusion)?;
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_config(config)
            .with_runtime_env(runtime_env.clone())
            .with_table_factories(Default::default())
            .with_optimizer_rule(Arc::new(CountDistinctByKey::new()))
            .build();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("tarn-sql")
            .worker_threads(std::thread::available_parallelism().map_or(2, usize::from) * THREADS_PER_CORE)
            .thread_stack_size(STACK_BYTES)
            .max_blocking_threads(MAX_READS)
            .enable_all()
            .build()
            .map_err(|error| Error::unavailable("no threads for statements").with_source(error))?;
        Ok(Engine {
            shared: Arc::new(Shared {
                catalog,
                views,
                options,
                state,
                runtime_env,
                runtime: Some(runtime),
                permits: Arc::new(Semaphore::new(MAX_STATEMENTS)),
                counts: Counts::default(),
            }),
        })
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    /// Runs one query. `as_of` cuts every table at that vector; otherwise the newest cuts are taken, once.
    ///
    /// Rows may end with an error; [`crate::from_datafusion`] says it in Tarn's words.
    pub async fn query(
        &self,
        sql: &str,
        params: &[serde_json::Value],
        as_of: Option<&OffsetVector>,
    ) -> Result<Answer> {
        let running = Running::new(self.shared.clone());
        let answer = self.start(sql, params, as_of, running).await;
        if answer.is_err() {
            self.shared.counts.failed.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    /// Statements so far.
    pub fn statements(&self) -> StatementCounts {
        self.shared.counts.read()
    }

    async fn start(
        &self,
        sql: &str,
        params: &[serde_json::Value],
        as_of: Option<&OffsetVector>,
        running: Running,
    ) -> Result<Answer> {
        let shared = self.shared.clone();
        if !shared.catalog.is_ready() {
            let to_go = shared.catalog.records_to_go();
            return Err(Error::unavailable(format!("still reading the log: {to_go} records to go"))
                .with_hint("SQL answers once everything committed before the start is visible again; try in a moment"));
        }
        let deadline = Instant::now() + shared.options.statement_timeout;
        let permit = timeout_at(deadline, shared.permits.clone().acquire_owned())
            .await
            .map_err(|_| late(&shared.options))?
            .map_err(|_| Error::unavailable("the engine is stopping"))?;
        let (sql, params, as_of) = (sql.to_owned(), params.to_vec(), as_of.cloned());
        let runtime = shared.runtime.as_ref().expect("it is taken only when the last engine is dropped");
        let planning = shared.clone();
        let planned =
            OnDrop(runtime.spawn(async move { planning.plan(&sql, &params, as_of.as_ref()).await }));
        let planned = timeout_at(deadline, planned).await.map_err(|_| late(&shared.options))?;
        let planned = planned.map_err(|error| Error::internal("planning panicked").with_source(error))??;
        let (sender, receiver) = mpsc::channel(QUEUE_BATCHES);
        let (schema, vector) = (planned.rows.schema(), planned.vector);
        let pump = Pump {
            rows: planned.rows,
            sender,
            deadline,
            options: shared.options.clone(),
            _held: (permit, planned.pinned),
        };
        let rows = Rows {
            schema: schema.clone(),
            receiver,
            pump: Some(OnDrop(runtime.spawn(pump.run()))),
            running: Some(running),
            watch: Box::pin(sleep_until(deadline + LAST_WORD)),
            options: shared.options.clone(),
        };
        Ok(Answer { vector, schema, rows: Box::pin(rows) })
    }
}

/// A statement that was planned and begun.
struct Planned {
    rows: SendableRecordBatchStream,
    vector: OffsetVector,
    pinned: MemoryReservation,
}

impl Shared {
    async fn plan(
        &self,
        sql: &str,
        params: &[serde_json::Value],
        as_of: Option<&OffsetVector>,
    ) -> Result<Planned> {
        let statement = Statement::parse(sql)?;
        let names = self.state.resolve_table_references(&statement.ast).map_err(from_datafusion)?;
        // Views first: their states are then never ahead of the tables.
        let views = SeenViews::take(&self.views, &self.catalog).await;
        if let Some(view) = &statement.explained {
            views.named(view)?;
        }
        let moment = Arc::new(Moment::take(&self.catalog, views, &names, &statement.versions, as_of)?);
        let (state, runtime_env) = (self.session(&moment), self.runtime_env());
        let pinned = MemoryConsumer::new("tail").register(&runtime_env.memory_pool);
        pinned.try_grow(pinned_bytes(&moment, &names)).map_err(from_datafusion)?;
        let explain = |error| explain(error, &moment, &names, &self.state);
        let mut plan = state.statement_to_plan(statement.ast).await.map_err(explain)?;
        let only_reads =
            SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        only_reads.verify_plan(&plan).map_err(explain)?;
        if !params.is_empty() {
            plan = plan.with_param_values(values(params)?).map_err(explain)?;
        }
        let plan = state.create_physical_plan(&plan).await.map_err(explain)?;
        let plan = let_joins_yield(plan).map_err(explain)?;
        let task = TaskContext::from(&state).with_runtime(runtime_env);
        let rows = execute_stream(plan, Arc::new(task)).map_err(explain)?;
        Ok(Planned { rows, vector: moment.vector().clone(), pinned })
    }

    /// A session of its own, with the moment's tables; functions, rules and settings are shared.
    fn session(&self, moment: &Arc<Moment>) -> SessionState {
        let catalogs = MemoryCatalogProviderList::new();
        catalogs.register_catalog(CATALOG.to_owned(), Arc::new(StatementCatalog::new(moment)));
        let mut state = self.state.clone();
        state.register_catalog_list(Arc::new(catalogs));
        state.mark_start_execution();
        state
    }

    /// A runtime environment with memory of its own; what is costly is shared.
    fn runtime_env(&self) -> Arc<RuntimeEnv> {
        let pool = GreedyMemoryPool::new(self.options.statement_memory_bytes);
        let top = NonZeroUsize::new(3).expect("three is not zero");
        Arc::new(RuntimeEnv {
            memory_pool: Arc::new(TrackConsumersPool::new(pool, top)),
            disk_manager: self.runtime_env.disk_manager.clone(),
            cache_manager: self.runtime_env.cache_manager.clone(),
            object_store_registry: self.runtime_env.object_store_registry.clone(),
        })
    }
}

/// A planning error, with the nearest name for one that is none.
fn explain(error: DataFusionError, moment: &Moment, names: &[TableReference], state: &SessionState) -> Error {
    let text = error.to_string();
    if let Some(function) = between(&text, "Invalid function '", "'") {
        let known = state.scalar_functions().keys().chain(state.aggregate_functions().keys());
        let near = nearest(function, known.chain(state.window_functions().keys()).map(String::as_str));
        let error = Error::invalid(format!("there is no function `{function}`"));
        return match near {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None => error,
        };
    }
    let not_found = |name: &&TableReference| text.contains("not found") && text.contains(name.table());
    let is_ours = |schema: &str| matches!(schema, "information_schema" | SYSTEM_SCHEMA);
    let known_schema =
        |name: &TableReference| name.schema().is_none_or(|schema| is_ours(schema) || is_schema(schema));
    if let Some(schema) =
        names.iter().filter(not_found).find(|name| !known_schema(name)).and_then(|name| name.schema())
    {
        return Error::invalid(format!("there is no schema `{schema}`"))
            .with_hint("`t` is a whole table, `lake.t` what of it is in the lake, `live.t` what is not yet");
    }
    let is_unknown =
        |name: &&TableReference| !name.schema().is_some_and(is_ours) && !moment.has(name.table());
    match names.iter().filter(not_found).find(is_unknown) {
        Some(name) => moment.no_table(name.table()),
        None => from_datafusion(error),
    }
}

fn late(options: &EngineOptions) -> Error {
    Error::unavailable(format!(
        "the statement took longer than {:?} and was cancelled",
        options.statement_timeout
    ))
    .with_hint("ask for less, read the answer faster, or raise `serving.statement_timeout`")
}

fn values(params: &[serde_json::Value]) -> Result<ParamValues> {
    use serde_json::Value;
    let value = |(at, param): (usize, &Value)| {
        Ok(match param {
            Value::Null => ScalarValue::Null,
            Value::Bool(value) => ScalarValue::Boolean(Some(*value)),
            Value::String(text) => ScalarValue::Utf8(Some(text.clone())),
            Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(value), _, _) => ScalarValue::Int64(Some(value)),
                (_, Some(value), _) => ScalarValue::UInt64(Some(value)),
                (_, _, value) => ScalarValue::Float64(value),
            },
            Value::Array(_) | Value::Object(_) => {
                return Err(Error::invalid(format!("parameter ${} is an array or an object", at + 1))
                    .with_hint("a parameter is null, a boolean, a number or a string"));
            }
        })
    };
    Ok(ParamValues::from(params.iter().enumerate().map(value).collect::<Result<Vec<_>>>()?))
}

/// Moves rows from the statement to its reader, until the deadline.
struct Pump {
    rows: SendableRecordBatchStream,
    sender: mpsc::Sender<RecordBatch>,
    deadline: Instant,
    options: EngineOptions,
    /// Given back when the statement ends.
    _held: (OwnedSemaphorePermit, MemoryReservation),
}

impl Pump {
    async fn run(mut self) -> DfResult<()> {
        loop {
            let Ok(next) = timeout_at(self.deadline, self.rows.next()).await else {
                return Err(into_datafusion(late(&self.options)));
            };
            let Some(rows) = next.transpose()? else { return Ok(()) };
            match timeout_at(self.deadline, self.sender.send(rows)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(()),
                Err(_) => return Err(into_datafusion(late(&self.options))),
            }
        }
    }
}

/// A join can make rows from two batches for hours without asking for a third, so that it never gives way to a deadline: it
/// is made to after every million rows or so.
fn let_joins_yield(plan: Arc<dyn ExecutionPlan>) -> DfResult<Arc<dyn ExecutionPlan>> {
    let yielding = plan.transform_up(|node| {
        Ok(if node.name().ends_with("JoinExec") {
            Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>)
        } else {
            Transformed::no(node)
        })
    });
    yielding.map(|transformed| transformed.data)
}

/// The reader's end of a statement.
struct Rows {
    schema: SchemaRef,
    receiver: mpsc::Receiver<RecordBatch>,
    /// `None` once it has ended.
    pump: Option<OnDrop<DfResult<()>>>,
    running: Option<Running>,
    /// On the reader's own threads: the statement's may be too busy to look at a clock.
    watch: Pin<Box<Sleep>>,
    options: EngineOptions,
}

impl Stream for Rows {
    type Item = DfResult<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.receiver.poll_recv(context) {
            Poll::Ready(Some(rows)) => return Poll::Ready(Some(Ok(rows))),
            Poll::Ready(None) => {}
            Poll::Pending => {
                std::task::ready!(self.watch.as_mut().poll(context));
                self.pump = None;
                self.receiver.close();
                if let Some(running) = self.running.take() {
                    running.ended(false);
                    return Poll::Ready(Some(Err(into_datafusion(late(&self.options)))));
                }
                return Poll::Ready(None);
            }
        }
        // The queue is closed: how the statement ended decides whether these were all rows.
        let Some(pump) = self.pump.as_mut() else { return Poll::Ready(None) };
        let ended = std::task::ready!(Pin::new(pump).poll(context));
        self.pump = None;
        let running = self.running.take();
        let ended = ended.unwrap_or_else(|error| Err(DataFusionError::ExecutionJoin(Box::new(error))));
        if let Some(running) = running {
            running.ended(ended.is_ok());
        }
        Poll::Ready(ended.err().map(Err))
    }
}

impl RecordBatchStream for Rows {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

/// A task that ends when nobody waits for it any more.
struct OnDrop<T>(JoinHandle<T>);

impl<T> Future for OnDrop<T> {
    type Output = std::result::Result<T, tokio::task::JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for OnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Upper ends of the latency histogram, milliseconds.
pub(crate) const LATENCY_MS: [u64; 12] =
    [1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000];

#[derive(Debug, Default)]
struct Counts {
    done: AtomicU64,
    failed: AtomicU64,
    running: AtomicU64,
    total_us: AtomicU64,
    latency: [AtomicU64; LATENCY_MS.len()],
}

impl Counts {
    fn read(&self) -> StatementCounts {
        StatementCounts {
            done: self.done.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            running: self.running.load(Ordering::Relaxed),
            total: Duration::from_micros(self.total_us.load(Ordering::Relaxed)),
            latency: std::array::from_fn(|at| self.latency[at].load(Ordering::Relaxed)),
        }
    }
}

/// Statements since the start.
#[derive(Debug, Clone)]
pub struct StatementCounts {
    /// Answered to the end.
    pub done: u64,
    /// Refused or ended with an error.
    pub failed: u64,
    /// Running now.
    pub running: u64,
    /// Time of all that were answered to the end.
    pub total: Duration,
    /// How many of those took at most 1, 3, 10, ... ms.
    pub latency: [u64; LATENCY_MS.len()],
}

/// Counts one statement, from its start to its end or its being dropped.
#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    since: Instant,
    /// Builds of views give way to it.
    _statement: RunningStatement,
}

impl Running {
    fn new(shared: Arc<Shared>) -> Running {
        shared.counts.running.fetch_add(1, Ordering::Relaxed);
        let statement = shared.views.statements().begin();
        Running { shared, since: Instant::now(), _statement: statement }
    }

    fn ended(&self, well: bool) {
        let counts = &self.shared.counts;
        if !well {
            counts.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let took = self.since.elapsed();
        counts.done.fetch_add(1, Ordering::Relaxed);
        counts.total_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        for (at, upto) in LATENCY_MS.iter().enumerate() {
            if took <= Duration::from_millis(*upto) {
                counts.latency[at].fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.counts.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether trying again later may help.
pub(crate) fn is_not_ready(engine: &Engine, error: &Error) -> bool {
    error.kind() == Kind::Unavailable && !engine.catalog().is_ready()
}

#[cfg(test)]
mod tests;
