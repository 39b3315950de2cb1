//! What clients of PostgreSQL write, in words that can be planned here.
//!
//! | written | planned |
//! |---|---|
//! | `pg_class`, `information_schema.columns` | a table of the schema `pg_catalog` |
//! | `pg_catalog.format_type(...)` | `format_type(...)` |
//! | `'t'::regclass`, `oid::regclass` | a function of it |
//! | `a OPERATOR(pg_catalog.~) b`, `a COLLATE "C"` | `a ~ b`, `a` |
//! | a `SELECT` over a catalog that never has rows | one that gives none, with the same columns |
//! | a subquery for one value of a catalog | its `max`, which it is if it is one |
//! | `ARRAY(SELECT …)` over catalogs | NULL: it gathers options and roles, of which there are none |
//! | `a LIKE b ESCAPE '/'` | `a LIKE b`, with `\` put for `/` |
//! | `generate_series(1, array_upper(x, 1)) AS s(r)` | `(SELECT unnest(generate_series(1, array_upper(x, 1))) AS r) AS s` |
//! | `x IN (SELECT ... current_setting('search_path') ...)`, the path taken apart by hand | `x IN ('ann', 'public')` |
//! | `count(*)`, and `oid` beside `*`, as an answer's column | the same, named `count`, and `oid` a second time (`names`) |
//!
//! *Why the empty ones*: two thirds of what tools ask is about indexes, constraints, triggers and policies, in the longest
//! words. There are none here, and what joins with nothing is nothing, whatever else it says.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, GroupByExpr, Ident, JoinOperator, ObjectName, ObjectNamePart,
    Query, Select, SelectItem, SetExpr, Statement, TableAlias, TableFactor, TableWithJoins, Value,
    ValueWithSpan, VisitMut, VisitorMut, visit_relations,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::functions::{REGCLASS, REGCLASS_NAME, REGNAMESPACE, REGNAMESPACE_NAME, REGTYPE, is_known};
use super::{SCHEMA, Visitor, empty, relations};

mod names;

pub(crate) use names::without_marks;
use names::{Taken, name_columns, name_of};

const INFORMATION_SCHEMA: &str = "information_schema";

/// Puts a statement in words that can be planned.
pub(crate) fn rewrite(statement: &mut Statement, visitor: &Visitor) {
    let query = match statement {
        Statement::Query(query) => query,
        Statement::Explain { statement, .. } => return rewrite(statement, visitor),
        _ => return,
    };
    let mut catalogs = Catalogs { visitor };
    let _ = query.visit(&mut catalogs);
    name_columns(query);
}

struct Catalogs<'v> {
    visitor: &'v Visitor,
}

impl VisitorMut for Catalogs<'_> {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<()> {
        if let Some(name) = self.catalog(relation) {
            *relation = ObjectName::from(vec![Ident::new(SCHEMA), Ident::new(name)]);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let Some(rows) = series(factor) {
            *factor = rows;
            return ControlFlow::Continue(());
        }
        if let TableFactor::Table { name, args, .. } = factor
            && last_of(name) == relations::KEYWORDS
        {
            *args = None;
        }
        if let TableFactor::Table { name, alias, .. } = factor
            && alias.is_none()
            && let Some(known) = self.catalog(name)
            && let Some(short) = known.strip_prefix("information_schema_")
        {
            *alias =
                Some(TableAlias { explicit: true, name: Ident::new(short), columns: Vec::new(), at: None });
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        if select.from.iter().any(gives_nothing) {
            empty_out(select);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let SetExpr::Select(select) = query.body.as_ref()
            && is_emptied(select)
        {
            query.order_by = None;
            query.limit_clause = None;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some(schemas) = self.search_path(expr) {
            *expr = schemas;
        }
        if let Some(other) = in_other_words(expr) {
            *expr = other;
        }
        ControlFlow::Continue(())
    }
}

impl Catalogs<'_> {
    /// The catalog that a name means, without its schema.
    fn catalog(&self, name: &ObjectName) -> Option<String> {
        let mut parts: Vec<String> = name.0.iter().map(part_of).collect::<Option<_>>()?;
        if parts.len() == 3 && parts[0] == self.visitor.database {
            parts.remove(0);
        }
        let known = match parts.as_slice() {
            [table] if table.starts_with("pg_") => table.clone(),
            [schema, table] if schema == SCHEMA => table.clone(),
            [schema, table] if schema == INFORMATION_SCHEMA => format!("{INFORMATION_SCHEMA}_{table}"),
            _ => return None,
        };
        (relations::NAMES.contains(&known.as_str()) || empty::is_empty(&known)).then_some(known)
    }

    /// `x IN (SELECT ...)` whose query reads the search path and nothing else.
    fn search_path(&self, expr: &Expr) -> Option<Expr> {
        let Expr::InSubquery { expr, subquery, negated } = expr else { return None };
        let reads_tables = visit_relations(subquery.as_ref(), |relation| match last_of(relation).as_str() {
            "string_to_array" | "generate_series" | "unnest" => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        });
        if reads_tables.is_break() || !subquery.to_string().contains("current_setting('search_path')") {
            return None;
        }
        let path = self.visitor.settings.get("search_path").unwrap_or("public");
        let schema = |name: &str| match name.trim().trim_matches('"') {
            "$user" => self.visitor.user.clone(),
            name => name.to_owned(),
        };
        let text = |name: String| Expr::value(Value::SingleQuotedString(name));
        let list = path.split(',').map(schema).map(text).collect();
        Some(Expr::InList { expr: expr.clone(), list, negated: *negated })
    }
}

/// `generate_series` from and to what only a running statement knows, as the rows of a list.
fn series(factor: &TableFactor) -> Option<TableFactor> {
    let TableFactor::Table { name, args: Some(args), alias: Some(alias), .. } = factor else { return None };
    let is_constant = |arg: &FunctionArg| {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = arg else { return false };
        matches!(expr, Expr::Value(_) | Expr::UnaryOp { .. })
    };
    if last_of(name) != "generate_series" || args.args.iter().all(is_constant) {
        return None;
    }
    let column = alias.columns.first().map_or(&alias.name, |column| &column.name);
    let list: Vec<String> = args.args.iter().map(ToString::to_string).collect();
    let sql = format!(
        "SELECT * FROM (SELECT unnest(generate_series({})) AS {column}) AS {}",
        list.join(", "),
        alias.name
    );
    let Statement::Query(query) = Parser::parse_sql(&GenericDialect {}, &sql).ok()?.pop()? else {
        return None;
    };
    let SetExpr::Select(select) = *query.body else { return None };
    Some(select.from.into_iter().next()?.relation)
}

fn part_of(part: &ObjectNamePart) -> Option<String> {
    match part {
        ObjectNamePart::Identifier(ident) if ident.quote_style.is_some() => Some(ident.value.clone()),
        ObjectNamePart::Identifier(ident) => Some(ident.value.to_lowercase()),
        ObjectNamePart::Function(_) => None,
    }
}

fn last_of(name: &ObjectName) -> String {
    name.0.last().and_then(part_of).unwrap_or_default()
}

/// Whether rows of `from` can never be.
fn gives_nothing(from: &TableWithJoins) -> bool {
    let mut nothing = is_nothing(&from.relation);
    for join in &from.joins {
        let joined = is_nothing(&join.relation);
        nothing = match join.join_operator {
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => nothing,
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) => joined,
            JoinOperator::FullOuter(_) => nothing && joined,
            _ => nothing || joined,
        };
    }
    nothing
}

fn is_nothing(factor: &TableFactor) -> bool {
    match factor {
        TableFactor::Table { name, .. } => {
            let is_a_catalog =
                name.0.len() == 1 || name.0.first().and_then(part_of).as_deref() == Some(SCHEMA);
            is_a_catalog && empty::is_empty(&last_of(name))
        }
        TableFactor::Derived { subquery, .. } => {
            matches!(subquery.body.as_ref(), SetExpr::Select(select) if is_emptied(select))
        }
        TableFactor::NestedJoin { table_with_joins, .. } => gives_nothing(table_with_joins),
        _ => false,
    }
}

/// Makes a `SELECT` one of the same columns and no rows; or of one row, where it is an aggregate of nothing.
fn empty_out(select: &mut Select) {
    let has_wildcard =
        |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    if select.projection.iter().any(has_wildcard) {
        return;
    }
    let groups = !matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    let aggregates = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => is_aggregate(expr),
        _ => false,
    };
    let gives_a_row = !groups && select.projection.iter().any(aggregates);
    let mut taken = Taken::default();
    for item in &mut select.projection {
        let (expr, name) = match item {
            SelectItem::UnnamedExpr(expr) => (expr.clone(), name_of(expr)),
            SelectItem::ExprWithAlias { expr, alias } => (expr.clone(), alias.value.clone()),
            _ => continue,
        };
        let is_count = matches!(&expr, Expr::Function(function) if last_of(&function.name) == "count");
        let value =
            if is_count && gives_a_row { Expr::value(Value::Number("0".to_owned(), false)) } else { null() };
        *item = SelectItem::ExprWithAlias { expr: value, alias: taken.take(name) };
    }
    select.from = Vec::new();
    select.distinct = None;
    select.group_by = GroupByExpr::Expressions(Vec::new(), Vec::new());
    select.having = None;
    select.selection = if gives_a_row { None } else { Some(Expr::value(Value::Boolean(false))) };
}

fn is_emptied(select: &Select) -> bool {
    select.from.is_empty()
        && matches!(&select.selection, Some(Expr::Value(value)) if value.value == Value::Boolean(false))
}

fn is_aggregate(expr: &Expr) -> bool {
    const AGGREGATES: [&str; 10] =
        ["count", "max", "min", "sum", "avg", "array_agg", "string_agg", "bool_or", "bool_and", "json_agg"];
    match expr {
        Expr::Function(function) if function.over.is_none() => {
            let args = match &function.args {
                FunctionArguments::List(list) => list.args.as_slice(),
                _ => &[],
            };
            AGGREGATES.contains(&last_of(&function.name).as_str())
                || args.iter().any(|arg| {
                    matches!(arg, FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) if is_aggregate(expr))
                })
        }
        Expr::Nested(expr)
        | Expr::Cast { expr, .. }
        | Expr::UnaryOp { expr, .. }
        | Expr::IsNull(expr)
        | Expr::IsNotNull(expr) => is_aggregate(expr),
        Expr::BinaryOp { left, right, .. } => is_aggregate(left) || is_aggregate(right),
        _ => false,
    }
}

/// What an expression is, where the planner wants other words for it.
fn in_other_words(expr: &mut Expr) -> Option<Expr> {
    match expr {
        Expr::Function(function) => {
            let name = last_of(&function.name);
            let schema = function.name.0.first().and_then(part_of).unwrap_or_default();
            if function.name.0.len() == 2 && matches!(schema.as_str(), SCHEMA | INFORMATION_SCHEMA) {
                function.name = ObjectName::from(vec![Ident::new(name.clone())]);
            }
            if let (FunctionArguments::Subquery(query), "array") = (&function.args, name.as_str()) {
                let emptied = matches!(query.body.as_ref(), SetExpr::Select(select) if is_emptied(select));
                return (emptied || is_over_catalogs(query)).then(|| cast(null(), text_array()));
            }
            if is_known(&name) && matches!(function.args, FunctionArguments::None) {
                return Some(call(&name, Vec::new()));
            }
            None
        }
        Expr::Identifier(ident) if ident.quote_style.is_none() => {
            let name = ident.value.to_lowercase();
            let is_a_call = matches!(
                name.as_str(),
                "current_user"
                    | "session_user"
                    | "current_catalog"
                    | "current_schema"
                    | "current_role"
                    | "user"
            );
            is_a_call.then(|| call(&name, Vec::new()))
        }
        Expr::CompoundIdentifier(parts) => {
            let is_ours = parts.len() == 3 && parts[0].value.eq_ignore_ascii_case(INFORMATION_SCHEMA);
            is_ours.then(|| Expr::CompoundIdentifier(parts[1..].to_vec()))
        }
        Expr::Collate { expr, .. } => Some(expr.as_ref().clone()),
        Expr::BinaryOp { left, op: BinaryOperator::PGCustomBinaryOperator(parts), right } => {
            let op = match parts.last()?.as_str() {
                "~" => BinaryOperator::PGRegexMatch,
                "~*" => BinaryOperator::PGRegexIMatch,
                "!~" => BinaryOperator::PGRegexNotMatch,
                "!~*" => BinaryOperator::PGRegexNotIMatch,
                "=" => BinaryOperator::Eq,
                "<>" => BinaryOperator::NotEq,
                "~~" => BinaryOperator::PGLikeMatch,
                "!~~" => BinaryOperator::PGNotLikeMatch,
                _ => return None,
            };
            Some(Expr::BinaryOp { left: left.clone(), op, right: right.clone() })
        }
        Expr::Cast { expr, data_type, .. } => casted(expr, data_type),
        Expr::Exists { subquery, negated } => {
            let nothing = matches!(subquery.body.as_ref(), SetExpr::Select(select) if is_emptied(select));
            nothing.then(|| Expr::value(Value::Boolean(*negated)))
        }
        Expr::InSubquery { subquery, negated, .. } => {
            let nothing = matches!(subquery.body.as_ref(), SetExpr::Select(select) if is_emptied(select));
            nothing.then(|| Expr::value(Value::Boolean(*negated)))
        }
        Expr::Subquery(query) => one_value(query),
        Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
            if let Some(escape) = escape_char.as_ref().and_then(escape_of).filter(|escape| escape != "\\") {
                **pattern = escaped_by_backslash(pattern.as_ref().clone(), &escape);
                *escape_char = None;
            }
            None
        }
        _ => None,
    }
}

/// A subquery for one value of a catalog: nothing, or the greatest of the at most one value that there is.
fn one_value(query: &mut Query) -> Option<Expr> {
    let only_catalogs = is_over_catalogs(query);
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    if is_emptied(select) {
        return Some(null());
    }
    if !only_catalogs || select.from.is_empty() || select.projection.len() != 1 {
        return None;
    }
    let groups = !matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    let item = match &select.projection[0] {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => expr.clone(),
        _ => return None,
    };
    if groups || is_aggregate(&item) {
        return None;
    }
    select.projection[0] = SelectItem::UnnamedExpr(call("max", vec![item]));
    select.distinct = None;
    query.order_by = None;
    query.limit_clause = None;
    None
}

/// Whether a query reads nothing but catalogs.
fn is_over_catalogs(query: &Query) -> bool {
    let others = visit_relations(query, |relation| {
        let schema = relation.0.first().and_then(part_of);
        if relation.0.len() == 2 && schema.as_deref() == Some(SCHEMA) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    others.is_continue()
}

fn escape_of(value: &ValueWithSpan) -> Option<String> {
    match &value.value {
        Value::SingleQuotedString(escape) if escape.chars().count() == 1 => Some(escape.clone()),
        _ => None,
    }
}

/// A pattern with another escape character as one with a backslash. An escape that escapes itself is put aside meanwhile.
fn escaped_by_backslash(pattern: Expr, escape: &str) -> Expr {
    const ASIDE: &str = "\u{1}";
    let text = |text: &str| Expr::value(Value::SingleQuotedString(text.to_owned()));
    let replace = |of: Expr, from: &str, to: &str| call("replace", vec![of, text(from), text(to)]);
    let doubled = replace(pattern, "\\", "\\\\");
    let aside = replace(doubled, &escape.repeat(2), ASIDE);
    replace(replace(aside, escape, "\\"), ASIDE, escape)
}

/// A cast to a type that only PostgreSQL has.
fn casted(expr: &Expr, data_type: &DataType) -> Option<Expr> {
    let is_a_name = match expr {
        Expr::Value(value) => matches!(value.value, Value::SingleQuotedString(_) | Value::Placeholder(_)),
        Expr::Cast { expr, .. } => {
            matches!(expr.as_ref(), Expr::Value(value) if matches!(value.value, Value::SingleQuotedString(_) | Value::Placeholder(_)))
        }
        Expr::Function(function) => {
            matches!(last_of(&function.name).as_str(), "format" | "quote_ident" | "concat")
        }
        Expr::BinaryOp { op, .. } => *op == BinaryOperator::StringConcat,
        Expr::Nested(expr) => {
            matches!(expr.as_ref(), Expr::BinaryOp { op: BinaryOperator::StringConcat, .. })
        }
        _ => false,
    };
    let name = match data_type {
        DataType::Custom(name, _) => last_of(name),
        DataType::Regclass => "regclass".to_owned(),
        DataType::JSON | DataType::JSONB | DataType::Uuid => "text".to_owned(),
        DataType::Array(ArrayElemTypeDef::SquareBracket(item, _)) => {
            if let Some(items) = array_literal(expr) {
                return Some(items);
            }
            let DataType::Custom(name, _) = item.as_ref() else { return None };
            let item = plain_type(&last_of(name))?;
            return Some(cast(
                expr.clone(),
                DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(item), None)),
            ));
        }
        _ => return None,
    };
    let of = |name: &str| Some(call(name, vec![expr.clone()]));
    match name.as_str() {
        "regclass" if is_a_name => of(REGCLASS),
        "regclass" => of(REGCLASS_NAME),
        "regtype" if is_a_name => of(REGTYPE),
        "regtype" => Some(call("format_type", vec![expr.clone(), null()])),
        "regnamespace" if is_a_name => of(REGNAMESPACE),
        "regnamespace" => of(REGNAMESPACE_NAME),
        "regrole" => of("pg_get_userbyid"),
        "regproc" if is_a_name => {
            let Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(name), .. }) = expr else {
                return Some(cast(expr.clone(), DataType::Varchar(None)));
            };
            let short = name.trim_start_matches("pg_catalog.").to_owned();
            Some(Expr::value(Value::SingleQuotedString(short)))
        }
        other => Some(cast(expr.clone(), plain_type(other)?)),
    }
}

fn plain_type(name: &str) -> Option<DataType> {
    Some(match name {
        "oid" | "xid" | "cid" | "int4" | "int" | "integer" | "cardinal_number" => DataType::Int(None),
        "int2" | "smallint" => DataType::SmallInt(None),
        "int8" | "bigint" => DataType::BigInt(None),
        "float4" => DataType::Real,
        "float8" => DataType::DoublePrecision,
        "bool" | "boolean" => DataType::Boolean,
        "name" | "char" | "bpchar" | "cstring" | "text" | "varchar" | "unknown" | "sql_identifier"
        | "character_data" | "yes_or_no" | "regproc" | "regprocedure" | "regoper" | "json" | "jsonb"
        | "uuid" | "inet" | "xml" => DataType::Varchar(None),
        _ => return None,
    })
}

/// `'{a,b}'` as an array of texts.
fn array_literal(expr: &Expr) -> Option<Expr> {
    let Expr::Value(value) = expr else { return None };
    let Value::SingleQuotedString(text) = &value.value else { return None };
    let inside = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    if inside.contains(['"', '{', '\\']) {
        return None;
    }
    let item = |item: &str| Expr::value(Value::SingleQuotedString(item.trim().to_owned()));
    let elem = inside.split(',').filter(|item| !item.trim().is_empty()).map(item).collect();
    Some(Expr::Array(datafusion::sql::sqlparser::ast::Array { elem, named: true }))
}

fn null() -> Expr {
    Expr::value(Value::Null)
}

fn text_array() -> DataType {
    DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(DataType::Varchar(None)), None))
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args,
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
