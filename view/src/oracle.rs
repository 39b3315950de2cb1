//! The oracle: a view equals its `SELECT` over the raw rows at the same vector, whatever was cut, merged and stored before.
//!
//! A case is a walk: rows arrive, are committed, files are optimized; states are made live, merged, stored, merged in the lake;
//! the process is restarted, the view is rebuilt, its query is changed, a build is rolled back; and in between the view is asked at
//! some vector, by its states and by the rows. Walks of neighbouring seeds share a few definitions. `TARN_VIEW_CASES` sets how many walks, `TARN_SEED` begins at one of them: the seed
//! of a failure is printed. A million: `TARN_VIEW_CASES=1000000 cargo test --release -p tarn-view oracle`.

mod data;
mod grammar;
mod ground;
mod sketch;
mod ways;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, col, lit};
use tarn_lake::{Advance, Commit, Lake, LakeFile, LakeOptions, LakeTable, NewTable};
use tarn_model::{Boundary, OffsetRange, clock};
use tarn_table::scan::{Part, TableScan, sql_schema};
use tarn_table::{CutTable, Fragment};

use self::data::{Dice, dimension, rows};
use self::ground::{Block, Ground, Known, Question, Tables};
use self::sketch::Sketches;
use crate::definition::{Definition, Way};
use crate::hub::ViewMoment;
use crate::live::{LiveStates, State};
use crate::planner::Planner;
use crate::scan::{Inputs, StatesScan};
use crate::split::Split;
use crate::stamp::Stamp;
use crate::versions::{Version, Versions};

pub(crate) const TOPIC_ID: &str = "00000000-0000-0000-0000-000000000001";
/// Steps of a long walk; most are shorter.
const STEPS: usize = 24;
/// Every so many walks one is planned as a process plans, with all rules and in several streams.
const WHOLE_EVERY: u64 = 64;
/// Walks with neighbouring seeds that share their definitions: planning one costs more than a walk over it.
const BLOCK: u64 = 16;
/// Definitions that they share.
const DEFINITIONS: usize = 4;

/// A topic, its table, and one view on it.
struct Walk<'a, 'g> {
    block: &'a mut Block<'g>,
    ground: &'g Ground,
    seed: u64,
    dice: Dice,
    schema: SchemaRef,
    dimension: RecordBatch,
    /// All rows that will ever be there.
    all: BTreeMap<i32, RecordBatch>,
    ends: Boundary,
    decoded: Boundary,
    table: LakeTable,
    boundary: Boundary,
    /// Which columns of a query are sketches, and the query of what they sketch.
    sketches: HashMap<String, Arc<Sketches>>,
    declared: String,
    definition: Arc<Definition>,
    build: Option<Version>,
    cached: Option<Vec<Arc<State>>>,
    live: LiveStates,
    log: Vec<String>,
    answers: u64,
}

impl<'a, 'g> Walk<'a, 'g> {
    async fn new(block: &'a mut Block<'g>, seed: u64) -> Walk<'a, 'g> {
        let mut dice = Dice(seed);
        let (ground, schema) = (block.ground, Arc::clone(&block.schema));
        let dimension = dimension(&mut dice);
        let Known { sql, sketches, definition } = block.definition(dice.roll(DEFINITIONS)).await;
        let keys = *dice.pick(&[1, 8, 8, 300]);
        let partitions = 1 + dice.int(3);
        let ends: Boundary = (0..partitions)
            .map(|p| (i32::try_from(p).expect("small"), *dice.pick(&[0, 1, 7, 60, 200]) + dice.int(3)))
            .collect();
        let all = ends.iter().map(|(p, end)| (p, rows(&mut dice, &schema, p, 0, end, keys))).collect();
        let table = create(&ground.lake, &format!("t{seed}"), &schema).await;
        let live = LiveStates::new(Stamp::now(&definition.plan_hash, None));
        Walk {
            block,
            ground,
            seed,
            dice,
            schema,
            dimension,
            all,
            decoded: Boundary::new(),
            boundary: Boundary::new(),
            ends,
            table,
            sketches: HashMap::from([(sql.clone(), sketches)]),
            declared: sql,
            definition,
            build: None,
            cached: None,
            live,
            log: Vec::new(),
            answers: 0,
        }
    }

    /// Takes all steps, and asks now and then.
    async fn go(mut self) -> u64 {
        self.decoded = between(&mut self.dice, &Boundary::new(), &self.ends);
        let steps = if self.dice.chance(10) { STEPS } else { 4 + self.dice.roll(STEPS / 3) };
        for _ in 0..steps {
            match self.dice.roll(24) {
                0..=2 => {
                    self.decoded = between(&mut self.dice, &self.decoded, &self.ends);
                    self.did(format!("decoded {}", self.decoded));
                }
                3..=5 => {
                    let to = between(&mut self.dice, &self.boundary, &self.decoded);
                    commit(&self.table, self.slice(&self.boundary, &to), &to).await;
                    self.boundary = to;
                    self.did(format!("committed {}", self.boundary));
                }
                6 => {
                    self.table.optimize().await.expect("optimized");
                    self.did("optimized".to_owned());
                }
                7..=11 => self.keep().await,
                12..=14 => self.follow().await,
                15 => self.restart().await,
                16 => self.rebuild().await,
                17 => self.change().await,
                18 => self.roll_back().await,
                _ => self.ask().await,
            }
        }
        self.ask().await;
        let versions = Versions::find(&self.ground.lake, &self.view()).await.expect("builds");
        let mut names: Vec<String> =
            versions.numbers().iter().map(|number| format!("{}@v{number}", self.view())).collect();
        names.push(self.table.name().to_owned());
        for name in names {
            self.ground.lake.remove(&name).await.expect("removed");
        }
        self.answers
    }

    fn did(&mut self, what: String) {
        self.log.push(what);
    }

    fn view(&self) -> String {
        format!("v{}", self.seed)
    }

    fn split(&self) -> Arc<Split> {
        let Way::States(split) = &self.definition.way else {
            panic!("seed {}: {}: {:?}", self.seed, self.definition.query, self.definition.way)
        };
        Arc::clone(split)
    }

    fn stamp(&self) -> Stamp {
        Stamp::now(&self.definition.plan_hash, None)
    }

    fn slice(&self, from: &Boundary, to: &Boundary) -> Vec<RecordBatch> {
        self.all
            .iter()
            .map(|(p, rows)| tarn_table::fragment::slice_rows(rows, from.next(*p), to.next(*p)))
            .filter(|rows| rows.num_rows() > 0)
            .collect()
    }

    /// The table now, its tail in fragments of any size.
    fn cut(&mut self) -> Arc<CutTable> {
        let mut tail = Vec::new();
        for (p, rows) in &self.all {
            let (mut from, end) = (self.boundary.next(*p), self.decoded.next(*p));
            while from < end {
                let to = (from + 1 + self.dice.int(90)).min(end);
                let rows = tarn_table::fragment::slice_rows(rows, from, to);
                tail.push(Arc::new(Fragment::new(*p, OffsetRange::new(from, to), rows, None)));
                from = to;
            }
        }
        Arc::new(CutTable {
            name: "t".into(),
            schema: Arc::clone(&self.schema),
            dead_letters: false,
            lake: Some(self.table.snapshot()),
            boundary: self.boundary.clone(),
            tail,
            tail_bytes: 0,
        })
    }

    fn moment(&self) -> ViewMoment {
        let batch =
            self.build.as_ref().map(|build| Arc::new(build.states(&self.stamp(), self.cached.clone())));
        ViewMoment { batch, live: Some(self.live.clone()), trouble: None }
    }

    /// One state more at the end of the live chain, which begins at the build's boundary.
    async fn keep(&mut self) {
        let start = self.build.as_ref().map(Version::boundary).unwrap_or_default();
        self.live.drop_below(&start);
        let mut from = self.live.range().map_or(start, |(_, to)| to.clone());
        if self.live.is_empty() && self.dice.chance(10) {
            // A chain that begins elsewhere may not be used.
            from = between(&mut self.dice, &Boundary::new(), &self.decoded);
        }
        let far = between(&mut self.dice, &from, &self.decoded);
        let to = if self.dice.chance(80) { nearer(&from, &far) } else { far };
        let (split, moment, cut) = (self.split(), self.moment(), self.cut());
        let made = Inputs::between(&split, &moment, &self.stamp(), &cut, &from, &to);
        let made = made.reduced(&self.ground.planner).await.expect("states");
        self.live.add(Arc::new(State::new(from, to.clone(), made))).expect("neighbours");
        if let Some(parts) = self.live.mergeable(&[]) {
            let merged = Inputs::states_only(&split, None, parts.clone());
            let merged = merged.reduced(&self.ground.planner).await.expect("merged");
            let merged = State::sorted(merged, split.keys()).await.expect("sorted");
            assert!(self.live.replace(&parts, merged));
        }
        self.did(format!("live up to {to}, {} states", self.live.len()));
    }

    /// The build follows its table; now and then some of its files become one.
    async fn follow(&mut self) {
        let Some(build) = self.build.clone() else { return self.rebuild().await };
        let (from, to) = (build.boundary(), self.boundary.clone());
        if from.is_at_least(&to) {
            return;
        }
        let (split, stamp, moment, cut) = (self.split(), self.stamp(), self.moment(), self.cut());
        let planner = &self.ground.planner;
        let made = Inputs::between(&split, &moment, &stamp, &cut, &from, &to);
        let mut made = made.reduced(planner).await.expect("states");
        let mut removes = build.table.snapshot().files.clone();
        let percent = *self.dice.pick(&[0, 0, 0, 60, 100]);
        removes.retain(|_| self.dice.chance(percent));
        if !removes.is_empty() {
            let part = |file: &LakeFile| removes.iter().any(|gone| gone.path == file.path);
            let more = vec![Arc::new(State::new(Boundary::new(), Boundary::new(), made))];
            let merged = Versions::merged(&build, part, more, &split, &stamp, planner).await;
            made = merged.expect("stored states");
        }
        let made = State::sorted(made, split.keys()).await.expect("sorted");
        let stored = made.batches.iter().map(|batch| split.stored().store(batch).expect("stored")).collect();
        commit_over(&build.table, stored, removes, &to).await;
        self.build = Some(build);
        self.remember().await;
        self.did(format!("states up to {to}"));
    }

    /// The build's states in memory, or not.
    async fn remember(&mut self) {
        self.cached = None;
        let half = self.dice.chance(50);
        let Some(build) = self.build.clone().filter(|_| half) else { return };
        let (split, stamp, planner) = (self.split(), self.stamp(), &self.ground.planner);
        let files = build.table.snapshot().files.clone();
        // In one run, or in as many as there are files.
        let parts: Vec<Vec<LakeFile>> = match self.dice.chance(70) {
            true => vec![files],
            false => files.into_iter().map(|file| vec![file]).collect(),
        };
        let mut runs = Vec::new();
        for part in parts {
            let part = |file: &LakeFile| part.iter().any(|kept| kept.path == file.path);
            let states = Versions::merged(&build, part, Vec::new(), &split, &stamp, planner).await;
            let states = State::sorted(states.expect("stored states"), split.keys()).await;
            runs.push(Arc::new(states.expect("sorted")));
        }
        self.cached = Some(runs);
    }

    /// Nothing but the lake and the log is left.
    async fn restart(&mut self) {
        let versions = Versions::find(&self.ground.lake, &self.view()).await.expect("builds");
        let answering = versions.answering(&self.declared).await.expect("a query");
        let query = answering.unwrap_or_else(|| self.declared.clone());
        self.definition = self.block.planned(&query).await;
        let usable = versions.usable(&self.stamp(), TOPIC_ID, true).await.expect("builds");
        self.build = usable.filter(|build| self.boundary.is_at_least(&build.boundary()));
        self.live = LiveStates::new(self.stamp());
        self.remember().await;
        let number = self.build.as_ref().map(|build| build.number);
        self.did(format!("restarted with build {number:?} of {query}"));
    }

    /// A build of its own, from the rows in the lake, takes over.
    async fn rebuild(&mut self) {
        let (split, stamp, cut) = (self.split(), self.stamp(), self.cut());
        let mut versions = Versions::find(&self.ground.lake, &self.view()).await.expect("builds");
        let build = versions.create(&self.definition, &split, &stamp, TOPIC_ID).await.expect("a build");
        let (nothing, zero) = (ViewMoment::default(), Boundary::new());
        let made = Inputs::between(&split, &nothing, &stamp, &cut, &zero, &self.boundary);
        let made = made.reduced(&self.ground.planner).await.expect("states");
        let stored = made.iter().map(|batch| split.stored().store(batch).expect("stored")).collect();
        if !zero.is_at_least(&self.boundary) {
            commit_over(&build.table, stored, Vec::new(), &self.boundary.clone()).await;
        }
        self.did(format!("rebuilt as {}", build.number));
        self.live.drop_below(&build.boundary());
        self.build = Some(build);
        self.remember().await;
    }

    /// The config has another query.
    async fn change(&mut self) {
        let Known { sql, sketches, .. } = self.block.definition(self.dice.roll(DEFINITIONS)).await;
        self.sketches.insert(sql.clone(), sketches);
        self.declared = sql;
        self.restart().await;
    }

    /// An older build, or a newer one again, serves.
    async fn roll_back(&mut self) {
        let versions = Versions::find(&self.ground.lake, &self.view()).await.expect("builds");
        let serving = self.build.as_ref().map(|build| build.number);
        let others: Vec<u32> =
            versions.numbers().iter().copied().filter(|number| Some(*number) != serving).collect();
        if others.is_empty() || serving.is_none() {
            return;
        }
        let to = *self.dice.pick(&others);
        let target = versions.open(to).await.expect("a build").expect("a build");
        if target.boundary().is_empty() {
            return;
        }
        versions.roll_back(&self.declared, to).await.expect("a build of the query in the config serves");
        self.did(format!("rolled back to {to}"));
        self.restart().await;
        let serving = self.build.as_ref().map(|build| build.number);
        assert_eq!(serving, Some(to), "{}", self.context());
    }

    fn context(&self) -> String {
        format!("seed {}: {}\n  {}", self.seed, self.definition.query, self.log.join("\n  "))
    }

    /// The view by its states and by the rows, at some vector.
    async fn ask(&mut self) {
        self.answers += 1;
        let newest = self.dice.chance(30);
        let upto = if newest {
            self.decoded.clone()
        } else {
            between(&mut self.dice, &Boundary::new(), &self.decoded)
        };
        let (split, moment, cut) = (self.split(), self.moment(), self.cut());
        let inputs = Inputs::at(&split, &moment, &self.stamp(), &cut, &upto);
        let context = format!("{}\n  at {upto} over {inputs}", self.context());
        let ground = self.ground;
        let sketches = Arc::clone(&self.sketches[&self.definition.query]);
        let exact = match sketches.exact() {
            Some(sql) => Some(self.block.planned(sql).await),
            None => None,
        };
        let schema = sql_schema(&self.schema);
        let pieces = self.slice(&Boundary::new(), &upto);
        let pieces: Vec<RecordBatch> = pieces.iter().map(|rows| shown(rows, &schema)).collect();
        let raw = Arc::new(MemTable::try_new(schema, vec![pieces]).expect("a table"));
        let dimension = MemTable::try_new(self.dimension.schema(), vec![vec![self.dimension.clone()]]);
        let dimension = Arc::new(dimension.expect("a table"));
        let rows = |name: &str| -> Option<Arc<dyn TableProvider>> {
            match name {
                "t" if !ground.is_whole => Some(Arc::clone(&raw) as _),
                "t" => Some(Arc::new(TableScan::new(Arc::clone(&cut), Part::Both, upto.clone())) as _),
                "d" => Some(Arc::clone(&dimension) as _),
                _ => None,
            }
        };
        let states = Arc::new(StatesScan::new(inputs.joined_with(&rows).expect("a join over its tables")));
        let definition = Arc::clone(&self.definition);
        // Around a sketch's value its answers may differ.
        let predicate = predicate(&mut self.dice, definition.schema()).filter(|_| sketches.of(0).is_none());
        let asked = predicate.as_ref().map(|predicate| format!("\n  where {predicate}"));
        let context = format!("{context}{}", asked.unwrap_or_default());
        let (predicate, context) = (predicate.as_ref(), context.as_str());
        let question = Question { definition: &definition, predicate, context };
        let exactly = exact.as_ref().map(|exact| Question { definition: exact, predicate, context });
        let (found, wanted, exact) = if ground.is_whole {
            let plan = definition.over_states(&split, states, &rows).expect("a plan over states");
            let found = question.answered(plan, &ground.planner).await;
            let wanted = definition.over_rows(&rows).expect("a plan over rows");
            let wanted = question.answered(wanted, &ground.truth).await;
            let exact = match exactly {
                Some(exactly) => {
                    let plan = exactly.definition.over_rows(&rows).expect("a plan over rows");
                    exactly.answered(plan, &ground.truth).await
                }
                None => Vec::new(),
            };
            (found, wanted, exact)
        } else {
            let is_joined = split.joins().next().is_some();
            let planner = if is_joined { &ground.joining } else { &ground.planner };
            let plan = self.block.over_states(&question, &split, states, &rows, planner);
            let found = question.answered_as_it_is(&plan, planner).await;
            let wanted = truth(&question, &rows, &ground.truth).await;
            let exact = match exactly {
                Some(exactly) => truth(&exactly, &rows, &ground.truth).await,
                None => Vec::new(),
            };
            (found, wanted, exact)
        };
        assert_eq!(found.len(), wanted.len(), "{context}\nfound  {found:?}\nwanted {wanted:?}");
        assert!(exact.is_empty() || exact.len() == found.len(), "{context}");
        for (row, (a, b)) in found.iter().zip(&wanted).enumerate() {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                let is_right = match (sketches.of(at), exact.get(row)) {
                    (Some(sketch), Some(exact)) => sketch.is_right(a, b, &exact[at]),
                    _ => alike(a, b),
                };
                assert!(
                    is_right,
                    "{context}\n  c{at}: found {a:?}, wanted {b:?}, exact {:?}",
                    exact.get(row)
                );
            }
        }
    }
}

/// The answer over all rows, by nothing but DataFusion.
async fn truth(question: &Question<'_>, tables: Tables<'_>, planner: &Planner) -> Vec<Vec<ScalarValue>> {
    let plan = question.definition.over_rows(tables).expect("a plan over rows");
    question.answered_as_it_is(&question.optimized(plan, planner), planner).await
}

/// Rows as SQL shows them.
fn shown(rows: &RecordBatch, schema: &SchemaRef) -> RecordBatch {
    let columns = rows.columns().iter().zip(schema.fields());
    let columns =
        columns.map(|(column, field)| arrow::compute::cast(column, field.data_type()).expect("a view"));
    RecordBatch::try_new(Arc::clone(schema), columns.collect()).expect("rows")
}

/// A statement's own predicate on the first column, which may be a key.
fn predicate(dice: &mut Dice, schema: &SchemaRef) -> Option<Expr> {
    use arrow::datatypes::DataType;
    let is_number = schema.field(0).data_type().is_numeric();
    // The sign of a NaN that a sum gives depends on the order of its rows, and by it the NaN lies above or below all numbers.
    let has_order = is_number && !schema.field(0).data_type().is_floating();
    let is_text = matches!(schema.field(0).data_type(), DataType::Utf8 | DataType::Utf8View);
    let is_time = schema.field(0).data_type().is_temporal();
    let is_boolean = *schema.field(0).data_type() == DataType::Boolean;
    // In the column's type, as an analyzed plan has it.
    let value = |value: ScalarValue| {
        lit(value.cast_to(schema.field(0).data_type()).expect("a number, a text or a time"))
    };
    match dice.roll(5) {
        0 => Some(col("c0").is_not_null()),
        1 if is_number => Some(col("c0").eq(value(ScalarValue::from(dice.int(3))))),
        2 if has_order => Some(col("c0").gt(value(ScalarValue::from(dice.int(3))))),
        1 if is_text => Some(col("c0").eq(value(ScalarValue::from("a")))),
        2 if is_text => Some(col("c0").gt(value(ScalarValue::from("a"))).or(col("c0").is_null())),
        1 | 2 if is_time => Some(col("c0").gt_eq(value(ScalarValue::TimestampMicrosecond(
            Some(1_700_000_000_000_000 + dice.int(40) * 600_000_000),
            None,
        )))),
        1 if is_boolean => Some(col("c0").is_not_true()),
        2 if is_boolean => Some(col("c0")),
        _ => None,
    }
}

pub(crate) async fn memory_lake() -> Lake {
    let options = LakeOptions {
        target_file_bytes: 1 << 20,
        optimize_after_files: 100,
        checkpoint_after_commits: 1000,
        vacuum_retention: Duration::from_secs(3600),
        log_retention: Duration::from_secs(3600),
    };
    Lake::open("memory:", &BTreeMap::new(), options, clock::system()).await.expect("a lake")
}

pub(crate) async fn create(lake: &Lake, name: &str, schema: &SchemaRef) -> LakeTable {
    let properties = BTreeMap::from([("tarn.topic_uuid".to_owned(), TOPIC_ID.to_owned())]);
    let table = NewTable { schema: Arc::clone(schema), partition_by: Vec::new(), properties };
    lake.create(name, &table).await.expect("a table")
}

pub(crate) async fn commit(table: &LakeTable, rows: Vec<RecordBatch>, to: &Boundary) {
    commit_over(table, rows, Vec::new(), to).await;
}

/// Commits rows in the place of the files `removes`.
async fn commit_over(table: &LakeTable, rows: Vec<RecordBatch>, removes: Vec<LakeFile>, to: &Boundary) {
    let files = table.write(rows).await.expect("files");
    let known = table.snapshot();
    let advances = to.iter().filter_map(|(partition, next)| {
        let app_id = format!("tarn/{TOPIC_ID}/{partition}");
        let expected = known.txns.get(&app_id).copied();
        (expected.unwrap_or(0) < next).then_some(Advance { app_id, expected, to: next })
    });
    let commit = Commit { advances: advances.collect(), files, removes, ..Commit::default() };
    table.commit(commit).await.expect("a commit");
}

/// A moment at or above `from` and at or below `upto`.
fn between(dice: &mut Dice, from: &Boundary, upto: &Boundary) -> Boundary {
    let span = |p: i32| usize::try_from(upto.next(p) - from.next(p)).expect("small") + 1;
    upto.iter().map(|(p, _)| (p, from.next(p) + dice.int(span(p)))).collect()
}

/// At most 20 offsets further in each partition.
fn nearer(from: &Boundary, to: &Boundary) -> Boundary {
    to.iter().map(|(p, next)| (p, next.min(from.next(p) + 20))).collect()
}

fn sortable(value: &ScalarValue) -> String {
    match value {
        ScalarValue::Float64(_) | ScalarValue::List(_) => String::new(),
        ScalarValue::Decimal128(value, _, _) => format!("{value:?}"),
        other => format!("{other:?}"),
    }
}

fn alike(a: &ScalarValue, b: &ScalarValue) -> bool {
    match (a, b) {
        (ScalarValue::Float64(Some(a)), ScalarValue::Float64(Some(b))) => {
            let tolerance = 1e-9 * a.abs().max(b.abs()).max(1.0);
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance
        }
        // DataFusion's rewrite of one DISTINCT beside sums gives a decimal more digits than it declares.
        (ScalarValue::Decimal128(a, _, a_scale), ScalarValue::Decimal128(b, _, b_scale)) => {
            (a, a_scale) == (b, b_scale)
        }
        _ => a == b,
    }
}

#[test]
fn a_view_is_its_query_over_the_rows_at_the_same_vector() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("TARN_SEED").unwrap_or(1);
    let walks = number("TARN_VIEW_CASES").unwrap_or(1_500);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, answers) = (AtomicU64::new(first / BLOCK), AtomicU64::new(0));
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(async {
                    let whole = Ground::new().await;
                    let plain = whole.plain();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let seeds = (number * BLOCK).max(first)..((number + 1) * BLOCK).min(first + walks);
                        if seeds.start >= first + walks {
                            return;
                        }
                        let mut blocks = (Block::new(&whole, number), Block::new(&plain, number));
                        for seed in seeds {
                            let is_whole = seed.is_multiple_of(WHOLE_EVERY);
                            let block = if is_whole { &mut blocks.0 } else { &mut blocks.1 };
                            let asked = Walk::new(block, seed).await.go().await;
                            answers.fetch_add(asked, Ordering::Relaxed);
                        }
                    }
                });
            });
        }
    });
    let answers = answers.into_inner();
    assert!(answers >= 2 * walks, "only {answers} answers were compared");
    println!("{walks} walks, {answers} answers compared, {:?}", start.elapsed());
}
