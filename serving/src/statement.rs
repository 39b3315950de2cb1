//! From text to one statement that only reads: parsed, checked, and with every `AS OF` bound to a table of its own.
//!
//! *Why*: DataFusion's planner drops `AS OF` silently, and its dialect does not parse it. So the tokens
//! `t VERSION AS OF 'clicks:0=17'` and `t FOR SYSTEM_TIME AS OF '...'` become one quoted name before parsing, and each such
//! name resolves to a scan at that vector.
//!
//! *Invariants*: a statement is one `SELECT`, `VALUES`, `EXPLAIN`, `DESCRIBE` or `SHOW`; everything else is refused by name,
//! here and once more on the plan. A statement's text, tokens, nesting and chains of operators are bounded, because each of
//! them is a recursion somewhere, be it only when a tree is dropped.

use arrow::datatypes::DataType;
use datafusion::sql::parser::{DFParserBuilder, Statement as DfStatement};
use datafusion::sql::sqlparser::ast::{
    CastKind, DataType as SqlType, Expr as SqlExpr, Ident, ObjectName, ObjectNamePart,
    Statement as SqlStatement, TableAlias, TableFactor, Value, ValueWithSpan, VisitMut, VisitorMut,
    visit_expressions_mut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Word};
use std::ops::ControlFlow;
use tarn_model::{Error, OffsetVector, Result};

use crate::error::unparsed;
use crate::pg_catalog::{self, Visitor};
use crate::session::{EXPLAIN_TABLE, SYSTEM_SCHEMA, VIEWS_TABLE};

/// What `SHOW TABLES` says of each.
const SHOWN_OF_TABLES: &str = "table_name, table_type, version, boundary, lag_records, lag_s, live_bytes, lake_bytes, plan, watermark, late_records";
/// Longest text, bytes.
pub(crate) const MAX_TEXT_BYTES: usize = 256 << 10;
/// Deepest nesting of parentheses and subqueries.
const MAX_DEPTH: usize = 50;
/// Most operators in one chain, parentheses around it included.
const MAX_OPERATORS: usize = 500;

/// A statement that may be planned.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) ast: DfStatement,
    /// The table factors that have a vector of their own.
    pub(crate) versions: Vec<Version>,
    /// The view of an `EXPLAIN VIEW`.
    pub(crate) explained: Option<String>,
}

/// A table factor with its own vector.
#[derive(Debug)]
pub(crate) struct Version {
    /// The name that stands in the statement now, without schema.
    pub(crate) name: String,
    /// The table's name as it was written, without schema.
    pub(crate) table: String,
    /// The vector.
    pub(crate) vector: OffsetVector,
}

impl Statement {
    /// Parses `sql` and refuses what does not only read.
    ///
    /// For a visitor that speaks PostgreSQL, what its catalogs are asked is put in words that can be planned, and `types` are
    /// the types of `$1`, `$2`, ... as far as they are known.
    pub(crate) fn parse(
        sql: &str,
        visitor: Option<&Visitor>,
        types: &[Option<DataType>],
    ) -> Result<Statement> {
        if sql.len() > MAX_TEXT_BYTES {
            return Err(Error::invalid(format!(
                "a statement has at most {MAX_TEXT_BYTES} bytes, this one has {}",
                sql.len()
            ))
            .with_sqlstate("54000"));
        }
        let dialect = GenericDialect {};
        let tokens = Tokenizer::new(&dialect, sql)
            .tokenize_with_location()
            .map_err(|error| unparsed(&error.to_string()))?;
        check_chains(&tokens)?;
        if let Some((sql, explained)) = about_views(&tokens) {
            return Ok(Statement { explained, ..Statement::parse(&sql, None, &[])? });
        }
        let (tokens, versions) = bind_versions(tokens)?;
        let parse_error = |error| crate::error::from_datafusion(error);
        let mut parser =
            DFParserBuilder::new(tokens).with_recursion_limit(MAX_DEPTH).build().map_err(parse_error)?;
        let mut statements = parser.parse_statements().map_err(parse_error)?;
        let Some(mut ast) = statements.pop_front() else {
            return Err(Error::invalid("there is no statement")
                .with_sqlstate("42601")
                .with_hint("write for instance `SELECT 1`"));
        };
        if !statements.is_empty() {
            return Err(Error::invalid("there is more than one statement")
                .with_sqlstate("42601")
                .with_hint("send them one by one"));
        }
        check_reads(&ast)?;
        if let (Some(visitor), DfStatement::Statement(statement)) = (visitor, &mut ast) {
            pg_catalog::rewrite(statement, visitor);
            give_types(statement, types);
        }
        if !versions.is_empty() {
            name_versions(&mut ast, &versions);
        }
        Ok(Statement { ast, versions, explained: None })
    }
}

/// `SHOW VIEWS` and `EXPLAIN VIEW name`, which no parser knows, and `SHOW TABLES`, which says more here than elsewhere, as the
/// queries that answer them.
fn about_views(tokens: &[TokenWithSpan]) -> Option<(String, Option<String>)> {
    let skipped = |token: &&Token| !matches!(token, Token::Whitespace(_) | Token::SemiColon | Token::EOF);
    let words: Vec<&Token> = tokens.iter().map(|token| &token.token).filter(skipped).collect();
    let is = |token: &Token, keyword: &str| matches!(token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(keyword));
    match words[..] {
        [show, views] if is(show, "show") && is(views, "views") => {
            Some((format!("SELECT * FROM {SYSTEM_SCHEMA}.{VIEWS_TABLE} ORDER BY \"view\""), None))
        }
        [show, tables] if is(show, "show") && is(tables, "tables") => {
            let from = "information_schema.tables WHERE table_schema = 'public'";
            Some((format!("SELECT {SHOWN_OF_TABLES} FROM {from} ORDER BY table_name"), None))
        }
        [explain, view, Token::Word(name)] if is(explain, "explain") && is(view, "view") => {
            let quoted = name.value.to_lowercase().replace('\'', "''");
            let from = format!("{SYSTEM_SCHEMA}.{EXPLAIN_TABLE}");
            let sql = format!("SELECT property, value FROM {from} WHERE lower(\"view\") = '{quoted}'");
            Some((sql, Some(name.value.clone())))
        }
        _ => None,
    }
}

/// Refuses everything that does not only read.
fn check_reads(statement: &DfStatement) -> Result<()> {
    match statement {
        DfStatement::Statement(statement) => check_sql_reads(statement),
        DfStatement::Explain(explain) => check_reads(&explain.statement),
        DfStatement::CreateExternalTable(_) => Err(refused("CREATE EXTERNAL TABLE")),
        DfStatement::CopyTo(_) => Err(refused("COPY")),
        DfStatement::Reset(_) => Err(refused("RESET")),
    }
}

fn check_sql_reads(statement: &SqlStatement) -> Result<()> {
    match statement {
        SqlStatement::Query(_)
        | SqlStatement::ShowTables { .. }
        | SqlStatement::ShowColumns { .. }
        | SqlStatement::ShowVariable { .. }
        | SqlStatement::ShowFunctions { .. }
        | SqlStatement::ExplainTable { .. } => Ok(()),
        SqlStatement::Explain { statement, .. } => check_sql_reads(statement),
        other => {
            let text = other.to_string();
            let words: Vec<&str> = text.split_whitespace().take(2).collect();
            let words = if matches!(words.first(), Some(&"CREATE" | &"DROP" | &"ALTER")) {
                &words[..]
            } else {
                &words[..1]
            };
            Err(refused(&words.join(" ")))
        }
    }
}

fn refused(what: &str) -> Error {
    Error::invalid(format!("`{what}` is not allowed: statements here only read"))
        .with_sqlstate("25006")
        .with_hint("SELECT, VALUES, EXPLAIN, DESCRIBE, SHOW TABLES and SHOW COLUMNS are; tables are declared in the config")
}

/// Bounds the depth of every tree that a parser could make of `tokens`.
fn check_chains(tokens: &[TokenWithSpan]) -> Result<()> {
    // Operators seen at each level of parentheses since the last comma there; the sum is the deepest chain possible.
    let mut levels = vec![0_usize];
    let mut sum = 0_usize;
    for token in tokens {
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                // `a[1][1]` is a chain too.
                if token.token == Token::LBracket
                    && let Some(level) = levels.last_mut()
                {
                    *level += 1;
                    sum += 1;
                }
                levels.push(0);
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                sum -= levels.pop().unwrap_or(0);
                if levels.is_empty() {
                    levels.push(0);
                }
            }
            Token::Comma => {
                if let Some(level) = levels.last_mut() {
                    sum -= std::mem::take(level);
                }
            }
            Token::Whitespace(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::Period
            | Token::SemiColon
            | Token::EOF => {}
            Token::Word(word) if !is_operator(word) => {}
            _ => {
                if let Some(level) = levels.last_mut() {
                    *level += 1;
                    sum += 1;
                }
            }
        }
        if sum > MAX_OPERATORS {
            return Err(Error::invalid(format!(
                "a chain of operators has more than {MAX_OPERATORS} of them"
            ))
            .with_sqlstate("54001")
            .with_hint("write `x IN (...)` instead of `x = ... OR x = ...`, or join with VALUES"));
        }
        // The parser counts its own recursion; this is for what it reads in a loop.
        if levels.len() > MAX_DEPTH * 4 {
            return Err(Error::invalid(format!("parentheses are nested deeper than {MAX_DEPTH}"))
                .with_sqlstate("54001"));
        }
    }
    Ok(())
}

fn is_operator(word: &Word) -> bool {
    use Keyword::{
        AND, AT, BETWEEN, CASE, COLLATE, DIV, EXCEPT, ILIKE, IN, INTERSECT, IS, JOIN, LIKE, MINUS, NOT, OR,
        OVER, SIMILAR, UNION, XOR,
    };
    matches!(
        word.keyword,
        AND | AT
            | BETWEEN
            | CASE
            | COLLATE
            | DIV
            | EXCEPT
            | ILIKE
            | IN
            | INTERSECT
            | IS
            | JOIN
            | LIKE
            | MINUS
            | NOT
            | OR
            | OVER
            | SIMILAR
            | UNION
            | XOR
    )
}

/// Replaces `t VERSION AS OF '...'` and `t FOR SYSTEM_TIME AS OF '...'` by one quoted name each.
fn bind_versions(tokens: Vec<TokenWithSpan>) -> Result<(Vec<TokenWithSpan>, Vec<Version>)> {
    let mut bound: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut versions: Vec<Version> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let Some((vector, next)) = version_at(&tokens, at)? else {
            bound.push(tokens[at].clone());
            at += 1;
            continue;
        };
        let table = bound.iter_mut().rev().find(|token| !matches!(token.token, Token::Whitespace(_)));
        let Some(TokenWithSpan { token: Token::Word(word), .. }) = table else {
            return Err(Error::invalid("`AS OF` must stand behind a table's name"));
        };
        let table = if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() };
        let name = format!("{table} AS OF {vector}");
        *word = Word { value: name.clone(), quote_style: Some('"'), keyword: Keyword::NoKeyword };
        if !versions.iter().any(|version| version.name == name) {
            versions.push(Version { name, table, vector });
        }
        at = next;
    }
    Ok((bound, versions))
}

/// The vector of an `AS OF` that begins at token `at`, and the token behind it.
fn version_at(tokens: &[TokenWithSpan], at: usize) -> Result<Option<(OffsetVector, usize)>> {
    let is_start = matches!(&tokens[at].token, Token::Word(word) if word.quote_style.is_none()
        && (word.keyword == Keyword::FOR || word.value.eq_ignore_ascii_case("version")));
    if !is_start {
        return Ok(None);
    }
    let mut rest = (at..tokens.len()).filter(|i| !matches!(tokens[*i].token, Token::Whitespace(_)));
    let mut word = |expected: &str| {
        let next = rest.next().map(|i| &tokens[i].token);
        matches!(next, Some(Token::Word(word)) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(expected))
    };
    let starts = if word("version") { true } else { word("system_time") };
    if !(starts && word("as") && word("of")) {
        return Ok(None);
    }
    let Some(value) = rest.next() else {
        return Err(no_vector());
    };
    match &tokens[value].token {
        Token::SingleQuotedString(text) => Ok(Some((text.parse()?, value + 1))),
        _ => Err(no_vector()),
    }
}

fn no_vector() -> Error {
    Error::invalid("behind `AS OF` stands no offset vector").with_hint(
        "write `t VERSION AS OF 'clicks:0=17,1=4'`; every answer names the vector it saw in the header `Tarn-Vector`",
    )
}

/// Casts `$1`, `$2`, ... to what they are known to be, so that functions of them can be planned.
fn give_types(statement: &mut SqlStatement, types: &[Option<DataType>]) {
    let _ = visit_expressions_mut(statement, |expr| {
        if let SqlExpr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) = expr
            && let Some(at) = name.strip_prefix('$').and_then(|at| at.parse::<usize>().ok())
            && let Some(Some(known)) = at.checked_sub(1).and_then(|at| types.get(at))
            && let Some(data_type) = sql_type(known)
        {
            let placeholder = Box::new(expr.clone());
            *expr = SqlExpr::Cast {
                kind: CastKind::Cast,
                expr: placeholder,
                data_type,
                array: false,
                format: None,
            };
        }
        ControlFlow::<()>::Continue(())
    });
}

fn sql_type(known: &DataType) -> Option<SqlType> {
    use datafusion::sql::sqlparser::ast::{ExactNumberInfo, TimezoneInfo};
    Some(match known {
        DataType::Boolean => SqlType::Boolean,
        DataType::Int16 => SqlType::SmallInt(None),
        DataType::Int32 => SqlType::Int(None),
        DataType::Int64 => SqlType::BigInt(None),
        DataType::Float32 => SqlType::Real,
        DataType::Float64 => SqlType::Double(ExactNumberInfo::None),
        DataType::Utf8 => SqlType::Varchar(None),
        DataType::Binary => SqlType::Bytea,
        DataType::Date32 => SqlType::Date,
        DataType::Timestamp(_, Some(_)) => SqlType::Timestamp(Some(6), TimezoneInfo::WithTimeZone),
        DataType::Timestamp(_, None) => SqlType::Timestamp(Some(6), TimezoneInfo::None),
        _ => return None,
    })
}

/// Gives each bound table factor the alias by which the statement speaks of it: the table's own name.
fn name_versions(statement: &mut DfStatement, versions: &[Version]) {
    struct Namer<'a>(&'a [Version]);
    impl VisitorMut for Namer<'_> {
        type Break = ();

        fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
            if let TableFactor::Table { name: ObjectName(parts), alias, .. } = factor
                && alias.is_none()
                && let Some(ObjectNamePart::Identifier(last)) = parts.last()
                && let Some(version) = self.0.iter().find(|version| version.name == last.value)
            {
                *alias = Some(TableAlias {
                    explicit: true,
                    name: Ident::with_quote('"', &version.table),
                    columns: Vec::new(),
                    at: None,
                });
            }
            ControlFlow::Continue(())
        }
    }
    match statement {
        DfStatement::Statement(statement) => {
            let _ = statement.visit(&mut Namer(versions));
        }
        DfStatement::Explain(explain) => name_versions(&mut explain.statement, versions),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
