//! Plans and runs statements.
//!
//! *Why*: queries are work for processors; ingestion is work for latency. So statements run on a runtime of their own, and
//! the rows come over through a short queue: a slow reader slows its statement and nothing else.
//!
//! *Invariants*
//! - One statement takes one cut per topic, once; every table in it is read at that vector.
//! - Time, memory, concurrency, text and depth of a statement are bounded; nothing is spilled to disk.
//! - Dropping an [`Answer`] ends its statement.

use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::CatalogProviderList;
use datafusion::catalog::MemoryCatalogProviderList;
use datafusion::common::TableReference;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::TaskContext;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{
    GreedyMemoryPool, MemoryConsumer, MemoryReservation, TrackConsumersPool,
};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionConfig;
use tarn_model::config::ServingConfig;
use tarn_model::{Error, Kind, OffsetVector, Result};
use tarn_table::Catalog;
use tarn_table::scan::OnlyTheLake;
use tarn_view::{Planner, Views, watermark_function, with_functions};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use self::counts::{Counts, Running};
use self::memory::{StatementPool, TAIL};
use self::plans::{Key, Lasting, Plan, Plans};
use self::rows::{Begun, OnDrop, Pump, Rows, late};
use crate::distinct::CountDistinctByKey;
use crate::error::{between, from_datafusion, nearest};
use crate::pg_catalog::{self, Facts, Visitor};
use crate::places::Places;
use crate::reads::{Reads, Sight};
use crate::session::{
    CATALOG, DEFAULT_SCHEMA, Moment, SYSTEM_SCHEMA, StatementCatalog, is_schema, pinned_bytes,
};
use crate::statement::Statement;
use crate::views::SeenViews;
use crate::watermark;

mod counts;
mod memory;
mod physical;
mod plans;
mod rows;

pub(crate) use self::counts::LATENCY_MS;
pub use self::counts::StatementCounts;
pub(crate) use self::plans::OF_THE_TIME;

/// Statements that work at once; others wait, within their own time. One whose reader is slow does not work.
const MAX_WORKING: usize = 64;
/// Statements that are open at once, waiting for their readers included; more are refused.
const MAX_OPEN: usize = 1024;
/// Record batches between a statement and its reader.
const QUEUE_BATCHES: usize = 2;
/// Threads for statements per core. An operator that gives no row for long keeps its thread even when its statement has been
/// cancelled; the others go on meanwhile.
const THREADS_PER_CORE: usize = 4;
/// An engine that is dropped gives its threads this long to end.
const LAST_STATEMENTS: Duration = Duration::from_secs(30);
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
    /// Most rows of an answer.
    pub statement_rows: Option<u64>,
    /// Memory of all statements together, bytes.
    pub sql_memory_bytes: usize,
}

impl EngineOptions {
    /// What a config says.
    pub fn of(serving: &ServingConfig) -> EngineOptions {
        EngineOptions {
            statement_memory_bytes: serving.statement_memory.as_usize(),
            statement_timeout: serving.statement_timeout.0,
            statement_rows: serving.statement_rows,
            sql_memory_bytes: serving.sql_memory.as_usize(),
        }
    }
}

/// A statement with what belongs to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) sql: String,
    /// Values of `$1`, `$2`, ...
    pub(crate) params: Vec<ScalarValue>,
    pub(crate) as_of: Option<OffsetVector>,
    /// A time shorter than the engine's.
    pub(crate) timeout: Option<Duration>,
    /// Who asks, when a client of PostgreSQL does.
    pub(crate) visitor: Option<Visitor>,
}

/// What a statement takes and gives.
#[derive(Debug, Clone)]
pub(crate) struct Outline {
    /// Types of `$1`, `$2`, ...; `None` where nothing tells.
    pub(crate) params: Vec<DataType>,
    pub(crate) schema: SchemaRef,
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
    /// The same for what reads little: one stream, and no rules but those that a plan needs.
    brief: SessionState,
    runtime_env: Arc<RuntimeEnv>,
    /// Taken only when the last engine is dropped.
    runtime: Option<Runtime>,
    /// One for each statement that works.
    working: Arc<Semaphore>,
    /// One for each statement.
    open: Arc<Semaphore>,
    memory: Arc<GreedyMemoryPool>,
    plans: Plans,
    counts: Counts,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // On a thread of its own, since whoever drops this may not wait. Not `shutdown_background`: it detaches threads while they
        // end, and glibc then reads what such a thread may have given back already.
        if let Some(runtime) = self.runtime.take().map(ManuallyDrop::new) {
            let end = move || ManuallyDrop::into_inner(runtime).shutdown_timeout(LAST_STATEMENTS);
            // Without a thread the runtime stays, which harms less than a panic here.
            let _ = std::thread::Builder::new().name("tarn-sql-end".to_owned()).spawn(end);
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
            .with_optimizer_rule(Arc::new(CountDistinctByKey::new()));
        let state = with_functions(state).build();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("tarn-sql")
            .worker_threads(std::thread::available_parallelism().map_or(2, usize::from) * THREADS_PER_CORE)
            .thread_stack_size(STACK_BYTES)
            .max_blocking_threads(MAX_READS)
            .enable_all()
            .build()
            .map_err(|error| Error::unavailable("no threads for statements").with_source(error))?;
        let plans = Plans::new(state.config_options());
        Ok(Engine {
            shared: Arc::new(Shared {
                catalog,
                views,
                brief: physical::brief(&state),
                state,
                runtime_env,
                runtime: Some(runtime),
                memory: Arc::new(GreedyMemoryPool::new(options.sql_memory_bytes)),
                options,
                working: Arc::new(Semaphore::new(MAX_WORKING)),
                open: Arc::new(Semaphore::new(MAX_OPEN)),
                plans,
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
        let (sql, as_of) = (sql.to_owned(), as_of.cloned());
        self.run(Request { sql, params: values(params)?, as_of, ..Request::default() }).await
    }

    /// Runs one query.
    pub(crate) async fn run(&self, request: Request) -> Result<Answer> {
        let running = Running::new(self.shared.clone());
        let answer = self.start(request, running).await;
        if answer.is_err() {
            self.shared.counts.failed.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    /// The longest that a statement may take.
    pub(crate) fn statement_timeout(&self) -> Duration {
        self.shared.options.statement_timeout
    }

    /// Statements so far.
    pub fn statements(&self) -> StatementCounts {
        self.shared.counts.read()
    }

    /// What a statement would take and give, without running it. `known` are the types that the client has named.
    pub(crate) async fn outline(&self, request: Request, known: Vec<Option<DataType>>) -> Result<Outline> {
        self.ready()?;
        let deadline = Instant::now() + self.timeout_of(&request);
        let _working = self.place_to_work(deadline).await?;
        let planning = self.shared.clone();
        self.planned(deadline, async move { planning.outline(&request, known).await }).await
    }

    /// What a query reads, without planning it.
    pub(crate) async fn reads(&self, sql: &str) -> Result<Reads> {
        let (shared, sql) = (self.shared.clone(), sql.to_owned());
        // Where stacks are deep enough for any text that may be.
        let deadline = Instant::now() + self.statement_timeout();
        self.planned(deadline, async move { Reads::of(&sql, &shared.state) }).await
    }

    /// How what a query reads stands now.
    pub(crate) fn sight(&self, reads: &Reads) -> Sight {
        reads.sight(&self.shared.catalog, &self.shared.views)
    }

    fn ready(&self) -> Result<()> {
        let catalog = &self.shared.catalog;
        if catalog.is_ready() {
            return Ok(());
        }
        let to_go = catalog.records_to_go();
        Err(Error::unavailable(format!("still reading the log: {to_go} records to go"))
            .with_sqlstate("57P03")
            .with_hint(
                "SQL answers once everything committed before the start is visible again; try in a moment",
            ))
    }

    fn timeout_of(&self, request: &Request) -> Duration {
        let most = self.shared.options.statement_timeout;
        request.timeout.map_or(most, |timeout| timeout.min(most))
    }

    async fn place_to_work(&self, deadline: Instant) -> Result<OwnedSemaphorePermit> {
        timeout_at(deadline, self.shared.working.clone().acquire_owned())
            .await
            .map_err(|_| late(self.shared.options.statement_timeout))?
            .map_err(|_| Error::unavailable("the engine is stopping"))
    }

    /// Plans on the statements' threads.
    async fn planned<T: Send + 'static>(
        &self,
        deadline: Instant,
        planning: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let runtime = self.shared.runtime.as_ref().expect("it is taken only when the last engine is dropped");
        let planned = timeout_at(deadline, OnDrop(runtime.spawn(planning)));
        let planned = planned.await.map_err(|_| late(self.shared.options.statement_timeout))?;
        planned.map_err(|error| Error::internal("planning panicked").with_source(error))?
    }

    async fn start(&self, request: Request, running: Running) -> Result<Answer> {
        let shared = self.shared.clone();
        self.ready()?;
        let open = shared.open.clone().try_acquire_owned().map_err(|_| {
            Error::unavailable(format!("there are {MAX_OPEN} open statements already"))
                .with_sqlstate("53300")
                .with_hint("read answers to their end, or close them; try again in a moment")
        })?;
        let timeout = self.timeout_of(&request);
        let deadline = Instant::now() + timeout;
        let working = self.place_to_work(deadline).await?;
        let (sender, receiver) = mpsc::channel(QUEUE_BATCHES);
        let (begun, begins) = oneshot::channel();
        let (planning, rows_to_go) = (shared.clone(), shared.options.statement_rows.unwrap_or(u64::MAX));
        // One task from the first word to the last row: each change of threads is a wait of its own on a machine that is busy.
        let work = async move {
            let planned = match planning.plan(&request).await {
                Ok(planned) => planned,
                Err(error) => {
                    // Whoever asked may have gone.
                    let _ = begun.send(Err(error));
                    return Ok(());
                }
            };
            let (rows, places, vector) = (planned.rows, planning.working.clone(), planned.vector);
            let (schema, working, held) = (rows.schema(), Some(working), (open, planned.pinned));
            let mut pump = Pump { rows, sender, deadline, timeout, rows_to_go, places, working, _held: held };
            let early = pump.early().await;
            let is_all = early.is_all();
            if begun.send(Ok(Begun { schema, vector, early })).is_err() || is_all {
                return Ok(());
            }
            pump.run().await
        };
        let runtime = shared.runtime.as_ref().expect("it is taken only when the last engine is dropped");
        let work = OnDrop(runtime.spawn(work));
        let begun = timeout_at(deadline, begins).await.map_err(|_| late(shared.options.statement_timeout))?;
        let Begun { schema, vector, early } =
            begun.map_err(|_| Error::internal("the statement panicked"))??;
        let rows = Rows {
            schema: schema.clone(),
            early,
            receiver,
            pump: Some(work),
            running: Some(running),
            watch: Box::pin(sleep_until(deadline + LAST_WORD)),
            timeout,
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
    async fn plan(&self, request: &Request) -> Result<Planned> {
        let key = Key::of(request);
        if let Some(key) = &key
            && let Some(known) = self.plans.get(key)
        {
            match self.plan_again(&known, request).await? {
                Some(planned) => return Ok(planned),
                None => self.plans.forget(key),
            }
        }
        let types = request.params.iter().map(|value| Some(value.data_type())).collect::<Vec<_>>();
        let statement = Statement::parse(&request.sql, request.visitor.as_ref(), &types)?;
        let place = Places::of(&request.sql);
        let mut seen = self.see(&statement, request).await?;
        let runtime_env = self.runtime_env();
        let pinned = pin(&seen.moment, &seen.names, &runtime_env)?;
        let is_told = !seen.asked.is_empty();
        self.tell_watermarks(&mut seen, &runtime_env).await?;
        let Seen { moment, names, state, .. } = &seen;
        let explain = |error| place.find(explain(error, moment, names, state));
        let mut plan = self.logical(&statement, state).await.map_err(explain)?;
        if !request.params.is_empty() {
            plan = plan.with_param_values(ParamValues::from(request.params.clone())).map_err(explain)?;
        }
        let optimized = state.optimize(&plan).map_err(explain)?;
        if let Some(key) = key.filter(|_| !is_told) {
            match plans::lasting(&statement, &plan) {
                Lasting::All => self.plans.keep(key, names, &optimized, Lasting::All, moment),
                // Once more by a session that was not told the time.
                Lasting::ButTheTime => {
                    if let Ok(open) = self.state.optimize(&plan) {
                        self.plans.keep(key, names, &open, Lasting::ButTheTime, moment);
                    }
                }
                Lasting::Nothing => {}
            }
        }
        let task = TaskContext::from(state).with_runtime(runtime_env);
        let plan = physical::plan(&optimized, state).await;
        let rows = plan.and_then(|plan| physical::begin(plan, task)).map_err(explain)?;
        Ok(Planned { rows, vector: moment.vector().clone(), pinned })
    }

    /// The same for a statement that was planned before; `None` where that plan does not fit the moment.
    async fn plan_again(&self, known: &Plan, request: &Request) -> Result<Option<Planned>> {
        let views = SeenViews::take(&self.views, &self.catalog).await;
        let moment = Moment::take(&self.catalog, views, &known.names, &[], None)?;
        let explain = |error| Places::of(&request.sql).find(from_datafusion(error));
        let plan = match known.as_before(&moment, &self.brief).await {
            Some(plan) => plan,
            None => {
                // What goes wrong here is told with its place when it is planned anew.
                let Ok(Some(plan)) = self.plans.bind(known, &moment) else { return Ok(None) };
                physical::plan_again(known, &plan, &self.state, &self.brief).await.map_err(explain)?
            }
        };
        let runtime_env = self.runtime_env();
        let pinned = pin(&moment, &known.names, &runtime_env)?;
        // Its functions stand in the plan, and the time as well.
        let (id, config) = (self.state.session_id().to_owned(), self.state.config().clone());
        let none = (HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new());
        let task = TaskContext::new(None, id, config, none.0, none.1, none.2, none.3, runtime_env);
        let rows = physical::begin(plan, task).map_err(explain)?;
        self.counts.planned_before.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Planned { rows, vector: moment.vector().clone(), pinned }))
    }

    async fn outline(&self, request: &Request, known: Vec<Option<DataType>>) -> Result<Outline> {
        let statement = Statement::parse(&request.sql, request.visitor.as_ref(), &known)?;
        let place = Places::of(&request.sql);
        let mut seen = self.see(&statement, request).await?;
        self.tell_watermarks(&mut seen, &self.runtime_env()).await?;
        let Seen { moment, names, state, .. } = seen;
        let explain = |error| place.find(explain(error, &moment, &names, &state));
        let plan = self.logical(&statement, &state).await.map_err(explain)?;
        let told = plan.get_parameter_types().map_err(explain)?;
        let count = told.keys().filter_map(|name| name.trim_start_matches('$').parse::<usize>().ok()).max();
        let count = count.unwrap_or(0).max(known.len());
        let type_of = |at: usize| {
            let told = told.get(&format!("${}", at + 1)).cloned().flatten();
            let known = known.get(at).cloned().flatten();
            known.or(told).filter(|found| *found != DataType::Null).unwrap_or(DataType::Utf8)
        };
        let params: Vec<DataType> = (0..count).map(type_of).collect();
        let mut plan = plan;
        if !params.is_empty() {
            let nulls = params.iter().map(ScalarValue::try_new_null).collect::<DfResult<Vec<_>>>();
            plan = plan.with_param_values(ParamValues::from(nulls.map_err(explain)?)).map_err(explain)?;
        }
        // What the analyzer refuses is refused now, and what types it gives are known.
        let plan =
            state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {}).map_err(explain)?;
        Ok(Outline { params, schema: Arc::new(plan.schema().as_arrow().clone()) })
    }

    /// What a statement sees.
    async fn see(&self, statement: &Statement, request: &Request) -> Result<Seen> {
        let asked = watermark::asked(&statement.ast);
        let mut names = self.state.resolve_table_references(&statement.ast).map_err(from_datafusion)?;
        names.extend(watermark::references(&asked));
        // Views first: their states are then never ahead of the tables.
        let views = SeenViews::take(&self.views, &self.catalog).await;
        if let Some(view) = &statement.explained {
            views.named(view)?;
        }
        let moment = Arc::new(Moment::take(
            &self.catalog,
            views,
            &names,
            &statement.versions,
            request.as_of.as_ref(),
        )?);
        let facts = request.visitor.as_ref().map(|visitor| Arc::new(Facts::new(&moment, visitor)));
        let mut state = self.session(&moment, facts.as_ref());
        if let Some(facts) = &facts {
            pg_catalog::attach(&mut state, facts).map_err(from_datafusion)?;
        }
        Ok(Seen { moment, names, state, asked })
    }

    /// Puts the watermarks that a statement asks for into its session.
    async fn tell_watermarks(&self, seen: &mut Seen, runtime_env: &Arc<RuntimeEnv>) -> Result<()> {
        if seen.asked.is_empty() {
            return Ok(());
        }
        let task = Arc::new(TaskContext::from(&seen.state).with_runtime(Arc::clone(runtime_env)));
        let asked = std::mem::take(&mut seen.asked);
        let values = watermark::values(asked, &self.catalog, &seen.moment, &seen.state, &task).await?;
        seen.state.register_udf(watermark_function(values)).map_err(from_datafusion)?;
        Ok(())
    }

    /// The statement as a plan that only reads.
    async fn logical(&self, statement: &Statement, state: &SessionState) -> DfResult<LogicalPlan> {
        let plan = tarn_sql::plan(state, statement.ast.clone()).await?;
        let only_reads =
            SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        only_reads.verify_plan(&plan)?;
        Ok(plan)
    }

    /// A session of its own, with the moment's tables; functions, rules and settings are shared.
    fn session(&self, moment: &Arc<Moment>, facts: Option<&Arc<Facts>>) -> SessionState {
        let catalogs = MemoryCatalogProviderList::new();
        let catalog = StatementCatalog::new(moment, facts);
        catalogs.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
        let mut state = self.state.clone();
        state.register_catalog_list(Arc::new(catalogs));
        state.mark_start_execution();
        state
    }

    /// A runtime environment with memory of its own; what is costly is shared.
    fn runtime_env(&self) -> Arc<RuntimeEnv> {
        let pool = StatementPool::new(self.options.statement_memory_bytes, Arc::clone(&self.memory));
        let top = NonZeroUsize::new(3).expect("three is not zero");
        Arc::new(RuntimeEnv {
            memory_pool: Arc::new(TrackConsumersPool::new(pool, top)),
            disk_manager: self.runtime_env.disk_manager.clone(),
            cache_manager: self.runtime_env.cache_manager.clone(),
            object_store_registry: self.runtime_env.object_store_registry.clone(),
        })
    }
}

/// Counts the tails that a statement holds on to as its memory.
fn pin(
    moment: &Moment,
    names: &[TableReference],
    runtime_env: &Arc<RuntimeEnv>,
) -> Result<MemoryReservation> {
    let pinned = MemoryConsumer::new(TAIL).register(&runtime_env.memory_pool);
    pinned.try_grow(pinned_bytes(moment, names)).map_err(from_datafusion)?;
    Ok(pinned)
}

/// The tables that a statement sees, and the session in which it is planned.
struct Seen {
    moment: Arc<Moment>,
    names: Vec<TableReference>,
    state: SessionState,
    /// Tables whose watermarks it asks for and was not told yet.
    asked: Vec<String>,
}

/// A planning error, with the nearest name for one that is none.
fn explain(error: DataFusionError, moment: &Moment, names: &[TableReference], state: &SessionState) -> Error {
    let text = error.to_string();
    if let Some(function) = between(&text, "Invalid function '", "'") {
        let known = state.scalar_functions().keys().chain(state.aggregate_functions().keys());
        let near = nearest(function, known.chain(state.window_functions().keys()).map(String::as_str));
        let error = Error::invalid(format!("there is no function `{function}`")).with_sqlstate("42883");
        return match near {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None => error,
        };
    }
    let not_found = |name: &&TableReference| text.contains("not found") && text.contains(name.table());
    let is_ours = |schema: &str| matches!(schema, "information_schema" | SYSTEM_SCHEMA | pg_catalog::SCHEMA);
    let known_schema =
        |name: &TableReference| name.schema().is_none_or(|schema| is_ours(schema) || is_schema(schema));
    if let Some(schema) =
        names.iter().filter(not_found).find(|name| !known_schema(name)).and_then(|name| name.schema())
    {
        return Error::invalid(format!("there is no schema `{schema}`"))
            .with_sqlstate("3F000")
            .with_hint("`t` is a whole table, `lake.t` what of it is in the lake, `live.t` what is not yet");
    }
    let is_unknown =
        |name: &&TableReference| !name.schema().is_some_and(is_ours) && !moment.has(name.table());
    match names.iter().filter(not_found).find(is_unknown) {
        Some(name) => moment.no_table(name.table()),
        None => from_datafusion(error),
    }
}

fn values(params: &[serde_json::Value]) -> Result<Vec<ScalarValue>> {
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
    params.iter().enumerate().map(value).collect()
}

/// Whether trying again later may help.
pub(crate) fn is_not_ready(engine: &Engine, error: &Error) -> bool {
    error.kind() == Kind::Unavailable && !engine.catalog().is_ready()
}

#[cfg(test)]
mod tests;
