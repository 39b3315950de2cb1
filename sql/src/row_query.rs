//! A query over one record: what the interceptor `sql` does to each.
//!
//! *Why* one: which records a collector happens to hold together is chance, and another chance after a restart. A query over all of them
//! would make other records of the same lines. So it is a `SELECT` of expressions with a `WHERE`, by functions whose value depends on
//! nothing but what they are given, and each record is what it is.
//!
//! *Layout*: the record is a table `batch` of one row. Its columns are the fields that the query names, all of them text; a field that is
//! not there is NULL. `*` stands for the fields that the query does not make itself.
//!
//! *Invariants*: nothing is read but the record: no other table, no file, no clock. No function makes a text whose size its
//! arguments choose.
//!
//! *Failure*: what a query refuses is told when it is compiled; what an expression cannot do with a value (a cast, say) is the
//! error of that record.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::{
    self, Ident, Query, Select, SelectItem, SetExpr, TableFactor, visit_expressions,
};
use futures::executor::block_on;

/// The name of the table.
const TABLE: &str = "batch";
/// Functions whose answer is as large as an argument says.
const UNBOUNDED: [&str; 9] = [
    "repeat",
    "lpad",
    "rpad",
    "space",
    "array_repeat",
    "list_repeat",
    "array_resize",
    "range",
    "generate_series",
];
const SHAPE: &str = "write `SELECT ... FROM batch`, or `SELECT ... FROM batch WHERE ...`";

/// A query that is ready to be run.
#[derive(Debug)]
pub struct RowQuery {
    inputs: Vec<String>,
    keeps_fields: bool,
    /// Of the record.
    schema: SchemaRef,
    filter: Option<Arc<dyn PhysicalExpr>>,
    outputs: Vec<Arc<dyn PhysicalExpr>>,
    /// Of the answer.
    answer: SchemaRef,
}

impl RowQuery {
    /// Compiles `query`; the error says what cannot be, and perhaps what to write.
    pub fn compile(query: &str) -> Result<RowQuery, String> {
        let (statement, inputs, keeps_fields, no_outputs) = parse(query)?;
        let fields: Vec<Field> = inputs.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let mut config = SessionConfig::new();
        config.options_mut().execution.time_zone = Some("UTC".to_owned());
        let context = SessionContext::new_with_config(config);
        let told = |error: datafusion::error::DataFusionError| error.strip_backtrace();
        context.register_table(TABLE, Arc::new(EmptyTable::new(Arc::clone(&schema)))).map_err(told)?;
        let session = context.state();
        let plan = block_on(crate::plan(&session, statement)).map_err(told)?;
        refuse_functions(&plan)?;
        let plan =
            session.analyzer().execute_and_check(plan, session.config_options(), |_, _| {}).map_err(told)?;
        let LogicalPlan::Projection(projection) = &plan else { return Err(shape()) };
        let (predicate, input) = match projection.input.as_ref() {
            LogicalPlan::Filter(filter) => (Some(filter.predicate.clone()), filter.input.as_ref()),
            input => (None, input),
        };
        if !is_the_table(input) {
            return Err(shape());
        }
        let over = input.schema();
        let filter = predicate.map(|predicate| session.create_physical_expr(predicate, over));
        let filter = filter.transpose().map_err(told)?;
        let (mut outputs, mut answer) = (Vec::new(), Vec::new());
        for (expr, field) in
            projection.expr.iter().zip(projection.schema.fields()).skip(usize::from(no_outputs))
        {
            let output = session.create_physical_expr(expr.clone(), over).map_err(told)?;
            let data_type = output.data_type(&schema).map_err(told)?;
            answer.push(Field::new(field.name(), data_type, true));
            outputs.push(output);
        }
        Ok(RowQuery { inputs, keeps_fields, schema, filter, outputs, answer: Arc::new(Schema::new(answer)) })
    }

    /// The fields that it looks at.
    pub fn inputs(&self) -> &[String] {
        &self.inputs
    }

    /// Whether the record's fields stay, but for those that the query makes: it says `*`.
    pub fn keeps_fields(&self) -> bool {
        self.keeps_fields
    }

    /// What it makes of a record whose [`RowQuery::inputs`] say `texts`: one row, or none when its `WHERE` lets it not pass.
    pub fn run(&self, texts: &[Option<&str>]) -> Result<Option<RecordBatch>, String> {
        let told = |error: datafusion::error::DataFusionError| error.strip_backtrace();
        let one = RecordBatchOptions::new().with_row_count(Some(1));
        let columns = texts.iter().map(|text| Arc::new(StringArray::from(vec![*text])) as ArrayRef);
        let row = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns.collect(), &one);
        let row = row.map_err(|error| error.to_string())?;
        if let Some(filter) = &self.filter {
            let passes = filter.evaluate(&row).and_then(|value| value.into_array(1)).map_err(told)?;
            let passes = passes.as_boolean_opt().ok_or("the condition is no truth value")?;
            if passes.iter().next().flatten() != Some(true) {
                return Ok(None);
            }
        }
        let mut made = Vec::with_capacity(self.outputs.len());
        for output in &self.outputs {
            made.push(output.evaluate(&row).and_then(|value| value.into_array(1)).map_err(told)?);
        }
        let made = RecordBatch::try_new_with_options(Arc::clone(&self.answer), made, &one);
        made.map(Some).map_err(|error| error.to_string())
    }
}

fn shape() -> String {
    format!(
        "this is not done to one record at a time: {SHAPE}, without joins, aggregates, windows, orders and limits"
    )
}

/// The statement without its `*`, the fields that it names, whether there was a `*`, and whether nothing else was selected.
fn parse(query: &str) -> Result<(Statement, Vec<String>, bool, bool), String> {
    let mut statements = DFParser::parse_sql(query).map_err(|error| error.strip_backtrace())?;
    let (Some(mut statement), true) = (statements.pop_front(), statements.is_empty()) else {
        return Err(shape());
    };
    let Statement::Statement(inner) = &mut statement else { return Err(shape()) };
    let ast::Statement::Query(query) = inner.as_mut() else { return Err(shape()) };
    let alias = check_query(query)?;
    let SetExpr::Select(select) = query.body.as_mut() else { return Err(shape()) };
    let before = select.projection.len();
    select.projection.retain(|item| !matches!(item, SelectItem::Wildcard(_)));
    let keeps_fields = select.projection.len() < before;
    let inputs = inputs_of(select, &alias)?;
    let no_outputs = select.projection.is_empty();
    if no_outputs {
        let one = ast::Expr::Value(ast::Value::Number("1".to_owned(), false).into());
        select.projection.push(SelectItem::UnnamedExpr(one));
    }
    Ok((statement, inputs, keeps_fields, no_outputs))
}

/// Refuses what is not one `SELECT` over the one table; the name that it goes by.
fn check_query(query: &Query) -> Result<String, String> {
    let SetExpr::Select(select) = query.body.as_ref() else { return Err(shape()) };
    let has_more = query.with.is_some()
        || query.order_by.is_some()
        || query.limit_clause.is_some()
        || query.fetch.is_some()
        || !query.pipe_operators.is_empty()
        || select.distinct.is_some()
        || select.into.is_some()
        || select.having.is_some()
        || select.qualify.is_some()
        || !select.lateral_views.is_empty();
    let [from] = select.from.as_slice() else { return Err(shape()) };
    let TableFactor::Table { name, alias, args: None, version: None, sample: None, .. } = &from.relation
    else {
        return Err(shape());
    };
    if has_more || !from.joins.is_empty() {
        return Err(shape());
    }
    if !name.to_string().eq_ignore_ascii_case(TABLE) {
        return Err(format!("there is only the table `{TABLE}`, the record; not `{name}`"));
    }
    Ok(alias.as_ref().map_or_else(|| TABLE.to_owned(), |alias| folded(&alias.name)))
}

/// The fields that `select` names.
fn inputs_of(select: &Select, alias: &str) -> Result<Vec<String>, String> {
    let mut names = BTreeSet::new();
    let mut look = |expr: &ast::Expr| {
        match expr {
            ast::Expr::Identifier(name) => drop(names.insert(folded(name))),
            ast::Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, name] if folded(table) == alias => drop(names.insert(folded(name))),
                _ => return ControlFlow::Break(format!("`{expr}` is no field of the record")),
            },
            ast::Expr::Subquery(_) | ast::Expr::InSubquery { .. } | ast::Expr::Exists { .. } => {
                return ControlFlow::Break(shape());
            }
            _ => {}
        }
        ControlFlow::Continue(())
    };
    let mut flow = visit_expressions(&select.projection, &mut look);
    if let (ControlFlow::Continue(()), Some(selection)) = (&flow, &select.selection) {
        flow = visit_expressions(selection, &mut look);
    }
    match flow {
        ControlFlow::Break(why) => Err(why),
        ControlFlow::Continue(()) => Ok(names.into_iter().collect()),
    }
}

/// A name as SQL has it: in lower case, unless it is quoted.
fn folded(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

fn is_the_table(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::TableScan(scan) => scan.table_name.table() == TABLE,
        LogicalPlan::SubqueryAlias(alias) => is_the_table(&alias.input),
        _ => false,
    }
}

/// What gives another value at another time would make another record of the same line; what chooses how much it makes could
/// make too much.
fn refuse_functions(plan: &LogicalPlan) -> Result<(), String> {
    let mut found = None;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                let Expr::ScalarFunction(call) = expr else { return Ok(TreeNodeRecursion::Continue) };
                let name = call.func.name();
                let why = if call.func.signature().volatility != Volatility::Immutable {
                    "another value at another time, and so another record after a restart"
                } else if UNBOUNDED.contains(&name) {
                    "as much as its argument says, and a record has a largest size"
                } else {
                    return Ok(TreeNodeRecursion::Continue);
                };
                found = Some(format!("`{name}()` gives {why}: it is not allowed here"));
                Ok(TreeNodeRecursion::Stop)
            })
        })
    });
    walked.map_err(|error| error.strip_backtrace())?;
    found.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;

    use super::*;

    /// The answer's one row as `name=value` pairs.
    fn ran(query: &str, record: &[(&str, &str)]) -> Result<Option<String>, String> {
        let query = RowQuery::compile(query)?;
        let text = |name: &String| record.iter().find(|(field, _)| field == name).map(|(_, text)| *text);
        let texts: Vec<_> = query.inputs().iter().map(text).collect();
        let Some(row) = query.run(&texts)? else { return Ok(None) };
        assert_eq!(row.num_rows(), 1);
        let pretty = pretty_format_batches(&[row]).map_err(|error| error.to_string())?.to_string();
        let lines: Vec<&str> = pretty.lines().collect();
        let cells = |line: &str| line.split('|').map(str::trim).map(str::to_owned).collect::<Vec<_>>();
        let (names, values) = (cells(lines[1]), cells(lines[3]));
        let pairs = names.iter().zip(&values).filter(|(name, _)| !name.is_empty());
        Ok(Some(pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")))
    }

    #[test]
    fn a_record_is_selected_from_and_filtered() {
        let record = [("level", "warn"), ("ms", "1500"), ("Who", "Ada")];
        for (query, answer) in [
            (
                "SELECT upper(level) AS level, CAST(ms AS DOUBLE) / 1000 AS s FROM batch",
                Some("level=WARN s=1.5"),
            ),
            ("SELECT \"Who\" AS who, nothing FROM batch WHERE level <> 'debug'", Some("who=Ada nothing=")),
            ("select b.ms from batch b where b.level = 'error'", None),
            ("SELECT ms FROM batch WHERE nothing = 'x'", None),
            (
                "SELECT CASE WHEN TRY_CAST(ms AS INT) > 1000 THEN 'slow' ELSE 'fast' END AS speed FROM batch",
                Some("speed=slow"),
            ),
            ("SELECT 'x' AS fixed FROM batch", Some("fixed=x")),
        ] {
            assert_eq!(ran(query, &record).expect(query).as_deref(), answer, "{query}");
        }
        assert!(ran("SELECT CAST(level AS INT) AS n FROM batch", &record).unwrap_err().contains("warn"));
    }

    #[test]
    fn a_star_keeps_the_fields_that_are_not_made() {
        let all = RowQuery::compile("SELECT *, upper(a) AS a FROM batch WHERE b IS NOT NULL").unwrap();
        assert!(all.keeps_fields());
        assert_eq!(all.inputs(), ["a", "b"]);
        let only = RowQuery::compile("SELECT * FROM batch WHERE a = 'x'").unwrap();
        assert_eq!(only.run(&[Some("x")]).unwrap().unwrap().num_columns(), 0);
        assert!(only.run(&[Some("y")]).unwrap().is_none());
        assert!(!RowQuery::compile("SELECT a FROM batch").unwrap().keeps_fields());
    }

    #[test]
    fn nothing_is_compiled_that_needs_more_than_the_record() {
        for (query, why) in [
            ("SELECT count(*) FROM batch", "one record at a time"),
            ("SELECT a, sum(CAST(b AS INT)) FROM batch GROUP BY a", "one record at a time"),
            ("SELECT row_number() OVER () AS n FROM batch", "one record at a time"),
            ("SELECT DISTINCT a FROM batch", "one record at a time"),
            ("SELECT a FROM batch ORDER BY a", "one record at a time"),
            ("SELECT a FROM batch LIMIT 1", "one record at a time"),
            ("SELECT a FROM batch UNION ALL SELECT a FROM batch", "one record at a time"),
            ("SELECT x.a FROM batch x JOIN batch y ON x.a = y.a", "one record at a time"),
            ("SELECT a FROM (SELECT a FROM batch)", "one record at a time"),
            ("WITH t AS (SELECT 1 AS a) SELECT a FROM t", "one record at a time"),
            ("SELECT (SELECT 1) AS a FROM batch", "one record at a time"),
            ("SELECT a FROM batch WHERE a IN (SELECT a FROM batch)", "one record at a time"),
            ("SELECT unnest(make_array(1, 2)) AS a FROM batch", "one record at a time"),
            ("SELECT 1; SELECT 2", "one record at a time"),
            ("SELECT 1 AS a", "one record at a time"),
            ("SELECT value FROM generate_series(1, 10)", "one record at a time"),
            ("SELECT a FROM other", "only the table `batch`"),
            ("SELECT a FROM 'secret.csv'", "only the table `batch`"),
            ("SELECT a FROM information_schema.tables", "only the table `batch`"),
            ("COPY batch TO 'stolen.csv'", "one record at a time"),
            ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'secret.csv'", "one record at a time"),
            ("INSERT INTO batch VALUES (1)", "one record at a time"),
            ("SET datafusion.execution.time_zone = 'UTC'", "one record at a time"),
            ("SELECT random() AS r FROM batch", "`random()` gives another value"),
            ("SELECT a FROM batch WHERE now() > TIMESTAMP '2026-01-01'", "`now()` gives another value"),
            ("SELECT uuid() AS id FROM batch", "`uuid()` gives another value"),
            ("SELECT repeat(a, 1000000000) AS a FROM batch", "`repeat()` gives as much"),
            ("SELECT no_such_function(a) AS a FROM batch", "no_such_function"),
            ("SELECT other.a FROM batch", "`other.a` is no field"),
            ("SELECT a AS x, b AS x FROM batch", "x"),
            ("SELEC a", ""),
        ] {
            let error = RowQuery::compile(query).expect_err(query);
            assert!(error.contains(why), "{query}: {error}");
        }
    }
}
