//! Windows of time as group keys: `tumble(ts, size)`, `tumble_end(ts, size)` and `hop(ts, slide, size)`.
//!
//! | | the windows of a row |
//! |---|---|
//! | `tumble(ts, size)` | the one that it falls into, by its start |
//! | `tumble_end(ts, size)` | the same, by its end |
//! | `hop(ts, slide, size)` | `size / slide` of them, by their starts: one row becomes one row for each |
//!
//! Windows are half-open, `[start, start + size)`, and aligned to 1970-01-01 00:00 UTC; a day has 24 hours. NULL is in a window
//! of its own, NULL. Where a window reaches beyond what a timestamp can hold, its edge is the end of time.
//!
//! *Why `hop` is no set-returning function*: it is written as a key, has the type of a key, and may stand in expressions,
//! `HAVING` and `ORDER BY` like one. [`ExpandHops`] then puts the windows below the aggregate (or select list) that names
//! them. So a `hop` that is left anywhere else is an error.
//!
//! *Invariants*: sizes are constants, fixed and longer than zero; a row falls into at most [`MAX_HOPS`] windows. A comparison
//! of `tumble` with the start of a window becomes one of its timestamp, so that statistics of files prune.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, IntervalMonthDayNano, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError, Result as DfResult, ScalarValue, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    Aggregate, ColumnarValue, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Projection,
    ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};
use datafusion::optimizer::AnalyzerRule;
use tarn_model::Error;

/// Most windows of one row.
const MAX_HOPS: i64 = 512;
/// The column of windows, below the node that names them.
pub(crate) const WINDOWS: &str = "__hop";
const DAY_NS: i128 = 86_400_000_000_000;

/// The functions, and the rule that puts the windows of `hop` below what names them.
pub(crate) fn windows() -> ([Arc<ScalarUDF>; 3], Arc<dyn AnalyzerRule + Send + Sync>) {
    let functions = [Kind::Tumble, Kind::TumbleEnd, Kind::Hop].map(|kind| Arc::new(Window::function(kind)));
    (functions, Arc::new(ExpandHops::new()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Tumble,
    TumbleEnd,
    /// A name for what [`ExpandHops`] replaces.
    Hop,
    /// All windows of a row, as a list.
    Hops,
}

/// A window, in ticks of its timestamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    slide: i64,
    size: i64,
}

impl Ticks {
    /// The start of the last window that `at` falls into.
    fn last(self, at: i64) -> i64 {
        at.saturating_sub(at.rem_euclid(self.slide))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Window {
    kind: Kind,
    signature: Signature,
}

impl Window {
    fn function(kind: Kind) -> ScalarUDF {
        let signature = Signature::variadic_any(Volatility::Immutable);
        ScalarUDF::new_from_impl(Window { kind, signature })
    }

    fn arguments(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Tumble | Kind::TumbleEnd => &["ts", "size"],
            Kind::Hop | Kind::Hops => &["ts", "slide", "size"],
        }
    }

    /// The type of the windows' edges over timestamps of type `of`.
    fn edge(&self, of: &DataType) -> DfResult<DataType> {
        match of {
            DataType::Timestamp(..) => Ok(of.clone()),
            DataType::Date32 | DataType::Date64 | DataType::Null => {
                Ok(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
            }
            other => Err(refused(
                Error::invalid(format!("`{}` takes a TIMESTAMP or a DATE, not `{other}`", self.name()))
                    .with_hint("`CAST(x AS TIMESTAMP)` makes one of a text"),
            )),
        }
    }

    /// The window that constants say, in ticks of `edge`.
    fn ticks(&self, constants: &[Option<&ScalarValue>], edge: &DataType) -> DfResult<Ticks> {
        let tick_ns: i128 = match edge {
            DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
            DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
            DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
            _ => 1,
        };
        let mut sizes = Vec::with_capacity(constants.len());
        for constant in constants {
            let ns = self.nanoseconds(*constant)?;
            if ns % tick_ns != 0 {
                return Err(self.wrong("is finer than its timestamps", "write a longer one"));
            }
            let ticks = i64::try_from(ns / tick_ns)
                .map_err(|_| self.wrong("is longer than all of time", "write a shorter one"))?;
            sizes.push(ticks);
        }
        match sizes[..] {
            [size] => Ok(Ticks { slide: size, size }),
            [slide, size] if size % slide != 0 => Err(refused(
                Error::invalid("the size of a `hop` must be a multiple of its slide")
                    .with_hint("for instance `hop(ts, INTERVAL '5 minutes', INTERVAL '15 minutes')`: the slide stands first"),
            )),
            [slide, size] if size / slide > MAX_HOPS => Err(refused(
                Error::invalid(format!("a row falls into at most {MAX_HOPS} windows of a `hop`, not {}", size / slide))
                    .with_hint("take a longer slide, or `tumble` by the slide and add windows up in the statement that reads"),
            )),
            [slide, size] => Ok(Ticks { slide, size }),
            _ => internal_err!("`{}` has other arguments than it takes", self.name()),
        }
    }

    fn nanoseconds(&self, constant: Option<&ScalarValue>) -> DfResult<i128> {
        let (months, days, ns) = match constant {
            Some(ScalarValue::IntervalMonthDayNano(Some(it))) => {
                (it.months, it.days, i128::from(it.nanoseconds))
            }
            Some(ScalarValue::IntervalDayTime(Some(it))) => {
                (0, it.days, i128::from(it.milliseconds) * 1_000_000)
            }
            Some(ScalarValue::IntervalYearMonth(Some(months))) => (*months, 0, 0),
            Some(ScalarValue::DurationSecond(Some(it))) => (0, 0, i128::from(*it) * 1_000_000_000),
            Some(ScalarValue::DurationMillisecond(Some(it))) => (0, 0, i128::from(*it) * 1_000_000),
            Some(ScalarValue::DurationMicrosecond(Some(it))) => (0, 0, i128::from(*it) * 1_000),
            Some(ScalarValue::DurationNanosecond(Some(it))) => (0, 0, i128::from(*it)),
            _ => return Err(self.wrong("must be a constant interval", "write it as `INTERVAL '5 minutes'`")),
        };
        if months != 0 {
            return Err(self.wrong(
                "must be fixed, and months are not",
                "write days, or take `date_trunc('month', ts)` as the key",
            ));
        }
        match i128::from(days) * DAY_NS + ns {
            ns if ns > 0 => Ok(ns),
            _ => Err(self.wrong("must be longer than zero", "write it as `INTERVAL '5 minutes'`")),
        }
    }

    fn wrong(&self, what: &str, hint: &str) -> DataFusionError {
        let which = if self.kind == Kind::Tumble || self.kind == Kind::TumbleEnd {
            "the size"
        } else {
            "each interval"
        };
        refused(Error::invalid(format!("{which} of `{}` {what}", self.name())).with_hint(hint))
    }
}

/// An error of Tarn on its way through DataFusion.
fn refused(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl ScalarUDFImpl for Window {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Tumble => "tumble",
            Kind::TumbleEnd => "tumble_end",
            Kind::Hop | Kind::Hops => "hop",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        internal_err!("the type of a window depends on its constants")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        let takes = self.arguments();
        if args.arg_fields.len() != takes.len() {
            let (name, takes) = (self.name(), (takes.len(), takes.join(", ")));
            return Err(refused(
                Error::invalid(format!(
                    "`{name}` takes {} arguments, not {}",
                    takes.0,
                    args.arg_fields.len()
                ))
                .with_hint(format!("`{name}({})`", takes.1)),
            ));
        }
        let edge = self.edge(args.arg_fields[0].data_type())?;
        self.ticks(&args.scalar_arguments[1..], &edge)?;
        let edge = match self.kind {
            Kind::Hops => DataType::new_list(edge, true),
            _ => edge,
        };
        Ok(Arc::new(Field::new(self.name(), edge, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let edge = self.edge(&args.args[0].data_type())?;
        let constants: Vec<Option<&ScalarValue>> = args.args[1..]
            .iter()
            .map(|arg| match arg {
                ColumnarValue::Scalar(value) => Some(value),
                ColumnarValue::Array(_) => None,
            })
            .collect();
        let ticks = self.ticks(&constants, &edge)?;
        let is_scalar = matches!(args.args[0], ColumnarValue::Scalar(_));
        let at = args.args[0].to_array(if is_scalar { 1 } else { args.number_rows })?;
        let at = cast(&cast(&at, &edge)?, &DataType::Int64)?;
        let at = at.as_primitive::<Int64Type>();
        let windows: ArrayRef = match self.kind {
            Kind::Tumble => cast(&at.unary::<_, Int64Type>(|at| ticks.last(at)), &edge)?,
            Kind::TumbleEnd => {
                cast(&at.unary::<_, Int64Type>(|at| ticks.last(at).saturating_add(ticks.size)), &edge)?
            }
            Kind::Hops => hops(at, ticks, &edge)?,
            Kind::Hop => return Err(out_of_place("here")),
        };
        if is_scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&windows, 0)?));
        }
        Ok(ColumnarValue::Array(windows))
    }

    /// `tumble(ts, size) = start` is `start <= ts < start + size`.
    fn preimage(&self, args: &[Expr], value: &Expr, info: &SimplifyContext) -> DfResult<PreimageResult> {
        let (Kind::Tumble, [at, size], Expr::Literal(start, _)) = (self.kind, args, value) else {
            return Ok(PreimageResult::None);
        };
        let (edge, Expr::Literal(size, _)) = (info.get_data_type(at)?, size) else {
            return Ok(PreimageResult::None);
        };
        let DataType::Timestamp(_, _) = &edge else { return Ok(PreimageResult::None) };
        if start.data_type() != edge {
            return Ok(PreimageResult::None);
        }
        let ticks = self.ticks(&[Some(size)], &edge)?;
        let ScalarValue::Int64(Some(from)) = start.cast_to(&DataType::Int64)? else {
            return Ok(PreimageResult::None);
        };
        let (true, Some(to)) = (ticks.last(from) == from, from.checked_add(ticks.size)) else {
            return Ok(PreimageResult::None);
        };
        let end = ScalarValue::Int64(Some(to)).cast_to(&edge)?;
        let interval = Box::new(Interval::try_new(start.clone(), end)?);
        Ok(PreimageResult::Range { expr: at.clone(), interval })
    }
}

/// How long a window by which `expr` groups the times in `column` stays open, µs: of several windows of one row, the first.
pub(crate) fn window_us(expr: &Expr, column: &str) -> Option<i64> {
    let Expr::ScalarFunction(call) = expr else { return None };
    // `date_bin` is planned over a time of nanoseconds, which falls into the same windows.
    let at = |expr: &Expr| match expr {
        Expr::Cast(cast)
            if matches!(cast.field.data_type(), DataType::Timestamp(TimeUnit::Nanosecond, _)) =>
        {
            Expr::clone(&cast.expr)
        }
        other => other.clone(),
    };
    let is_time = |expr: &Expr| matches!(at(expr), Expr::Column(of) if of.name == column);
    let of = Window::function(Kind::Tumble);
    let of = of.inner().downcast_ref::<Window>()?;
    let size =
        match (call.func.inner().downcast_ref::<Window>().map(|window| window.kind), call.args.as_slice()) {
            (Some(_), [at, size, ..]) if is_time(at) => size,
            (None, [size, at]) if call.func.name() == "date_bin" && is_time(at) => size,
            _ => return None,
        };
    let Expr::Literal(size, _) = size else { return None };
    i64::try_from(of.nanoseconds(Some(size)).ok()? / 1_000).ok().filter(|size| *size > 0)
}

/// `date_trunc('hour', ts)` and the like as the `tumble` that it is where time is UTC: DataFusion takes each of its values apart into
/// the parts of a calendar. Anything else as it is.
pub(crate) fn by_ticks(expr: &Expr, schema: &DFSchema) -> Expr {
    let ticks = |call: &ScalarFunction| {
        let [Expr::Literal(precision, _), at] = call.args.as_slice() else { return None };
        let precision = precision.try_as_str().flatten()?.to_lowercase();
        let seconds = match precision.as_str() {
            "second" => 1,
            "minute" => 60,
            "hour" => 3_600,
            "day" => 86_400,
            _ => return None,
        };
        let (data_type, nullable) = (at.get_type(schema).ok()?, at.nullable(schema).ok()?);
        let is_utc = matches!(&data_type, DataType::Timestamp(TimeUnit::Microsecond, zone) if zone.as_deref().is_none_or(|zone| zone == "UTC"));
        let size =
            ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(0, 0, seconds * 1_000_000_000)));
        // A window is always nullable, and its states' columns must be what they would have been.
        (call.func.name() == "date_trunc" && is_utc && nullable)
            .then(|| Window::function(Kind::Tumble).call(vec![at.clone(), lit(size)]))
    };
    match expr.clone().unalias_nested().data {
        Expr::ScalarFunction(call) => ticks(&call).unwrap_or_else(|| expr.clone()),
        _ => expr.clone(),
    }
}

fn hops(at: &Int64Array, ticks: Ticks, edge: &DataType) -> DfResult<ArrayRef> {
    let each = ticks.size / ticks.slide;
    let windows = at.iter().flatten().flat_map(|at| {
        let last = ticks.last(at);
        (0..each).rev().map(move |back| last.saturating_sub(back.saturating_mul(ticks.slide)))
    });
    let windows: Int64Array = windows.collect();
    let each = usize::try_from(each).unwrap_or_default();
    let lengths = (0..at.len()).map(|row| if at.is_null(row) { 0 } else { each });
    let field = Arc::new(Field::new_list_field(edge.clone(), true));
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(ListArray::try_new(field, offsets, cast(&windows, edge)?, at.nulls().cloned())?))
}

fn out_of_place(place: &str) -> DataFusionError {
    refused(Error::invalid(format!("`hop` is a key: it cannot stand {place}")).with_hint(
        "group by it, or name it in the select list of a subquery, where a row becomes one for each window",
    ))
}

/// Puts a row for each window below the aggregate or the select list that names `hop`.
///
/// ```text
/// Aggregate: hop(ts, …), k          Aggregate: __hop AS "hop(ts, …)", k
///   input                    ─►       Unnest: __hop
///                                       Projection: input.*, hops(ts, …) AS __hop
///                                         input
/// ```
#[derive(Debug)]
struct ExpandHops {
    hops: Arc<ScalarUDF>,
}

impl ExpandHops {
    fn new() -> ExpandHops {
        ExpandHops { hops: Arc::new(Window::function(Kind::Hops)) }
    }

    fn expand(&self, plan: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
        let mut calls: Vec<ScalarFunction> = Vec::new();
        plan.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Some(call) = as_hop(expr)
                    && !calls.contains(call)
                {
                    calls.push(call.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        let call = match (calls.len(), &plan) {
            (0, _) => return Ok(Transformed::no(plan)),
            (1, LogicalPlan::Aggregate(_) | LogicalPlan::Projection(_)) => calls.remove(0),
            (1, LogicalPlan::Filter(_)) => return Err(out_of_place("in WHERE")),
            (1, LogicalPlan::Join(_)) => return Err(out_of_place("in the condition of a join")),
            (1, _) => return Err(out_of_place("here")),
            _ => {
                return Err(refused(
                    Error::invalid("there is more than one `hop` in one list of keys")
                        .with_hint("name one of them in the select list of a subquery"),
                ));
            }
        };
        let names = NamePreserver::new(&plan);
        let named = |expr: &Expr| {
            let name = names.save(expr);
            let swapped = expr.clone().transform_down(|expr| match as_hop(&expr) {
                Some(_) => Ok(Transformed::yes(Expr::Column(Column::from_name(WINDOWS)))),
                None => Ok(Transformed::no(expr)),
            })?;
            Ok(name.restore(swapped.data))
        };
        let below = |input: &LogicalPlan| -> DfResult<Arc<LogicalPlan>> {
            let mut columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
            let hops = ScalarFunction { func: Arc::clone(&self.hops), args: call.args.clone() };
            columns.push(Expr::ScalarFunction(hops).alias(WINDOWS));
            let plan = LogicalPlanBuilder::from(input.clone()).project(columns)?;
            Ok(Arc::new(plan.unnest_column(Column::from_name(WINDOWS))?.build()?))
        };
        let expanded = match &plan {
            LogicalPlan::Aggregate(node) => {
                let in_aggregates =
                    node.aggr_expr.iter().map(|expr| expr.exists(|e| Ok(as_hop(e).is_some())));
                if in_aggregates.collect::<DfResult<Vec<bool>>>()?.contains(&true) {
                    return Err(out_of_place("in an aggregate function"));
                }
                let keys = node.group_expr.iter().map(named).collect::<DfResult<Vec<Expr>>>()?;
                let input = below(&node.input)?;
                LogicalPlan::Aggregate(Aggregate::try_new(input, keys, node.aggr_expr.clone())?)
            }
            LogicalPlan::Projection(node) => {
                let exprs = node.expr.iter().map(named).collect::<DfResult<Vec<Expr>>>()?;
                LogicalPlan::Projection(Projection::try_new(exprs, below(&node.input)?)?)
            }
            _ => return internal_err!("`hop` was expanded where it cannot stand"),
        };
        Ok(Transformed::yes(expanded))
    }
}

fn as_hop(expr: &Expr) -> Option<&ScalarFunction> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let window = call.func.inner().downcast_ref::<Window>()?;
    (window.kind == Kind::Hop).then_some(call)
}

impl AnalyzerRule for ExpandHops {
    fn name(&self) -> &str {
        "expand_hops"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DfResult<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| self.expand(node)).map(|expanded| expanded.data)
    }
}

#[cfg(test)]
mod tests;
