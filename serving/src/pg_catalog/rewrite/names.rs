//! The names of an answer's columns: PostgreSQL's, and twice the same where it is asked for twice.
//!
//! *Why marks*: PostgreSQL answers `SELECT oid, n.*` with two columns `oid`, and tools ask so; the planner here takes each name
//! once. So a name that is taken gets marks behind it, which no client sees.

use std::collections::HashSet;

use datafusion::sql::sqlparser::ast::{Expr, Ident, Query, SelectItem, SetExpr};

use super::{REGCLASS, REGCLASS_NAME, REGNAMESPACE, REGNAMESPACE_NAME, REGTYPE, last_of};

/// Stands behind a name that is there a second time.
const MARK: char = '\u{1}';

/// A column's name as its client is to see it.
pub(crate) fn without_marks(name: &str) -> &str {
    name.trim_end_matches(MARK)
}

/// The names that an answer has so far.
#[derive(Default)]
pub(super) struct Taken(HashSet<String>);

impl Taken {
    /// `name`, with a mark for each time that it was taken before.
    pub(super) fn take(&mut self, mut name: String) -> Ident {
        while !self.0.insert(name.clone()) {
            name.push(MARK);
        }
        Ident::with_quote('"', name)
    }
}

/// Names an answer's columns as PostgreSQL does.
pub(super) fn name_columns(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_mut() else { return };
    let is_wildcard =
        |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    let has_wildcard = select.projection.iter().any(is_wildcard);
    let mut taken = Taken::default();
    // Names that were given, or that a column has anyway, come first: `ORDER BY` may mean them.
    let mut again: Vec<bool> = Vec::new();
    for item in &select.projection {
        let name = match item {
            SelectItem::UnnamedExpr(expr @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_))) => {
                Some(name_of(expr))
            }
            SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
            _ => None,
        };
        again.push(name.is_some_and(|name| !taken.0.insert(name)));
    }
    for (item, again) in select.projection.iter_mut().zip(again) {
        let (expr, is_column) = match &*item {
            SelectItem::UnnamedExpr(expr @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_))) => {
                (expr, true)
            }
            SelectItem::UnnamedExpr(expr) => (expr, false),
            SelectItem::ExprWithAlias { expr, alias } if again => {
                let (expr, name) = (expr.clone(), alias.value.clone());
                *item = SelectItem::ExprWithAlias { expr, alias: taken.take(name) };
                continue;
            }
            _ => continue,
        };
        let (expr, name) = (expr.clone(), name_of(expr));
        let alias = match (is_column, has_wildcard) {
            (true, false) if !again => continue,
            // The wildcard may bring a column of that name.
            (_, true) => taken.take(format!("{name}{MARK}")),
            _ => taken.take(name),
        };
        *item = SelectItem::ExprWithAlias { expr, alias };
    }
}

/// The name that PostgreSQL gives a column.
pub(super) fn name_of(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(ident) => folded(ident),
        Expr::CompoundIdentifier(parts) => parts.last().map_or_else(String::new, folded),
        Expr::Function(function) => match last_of(&function.name).as_str() {
            REGCLASS | REGCLASS_NAME => "regclass".to_owned(),
            REGTYPE => "regtype".to_owned(),
            REGNAMESPACE | REGNAMESPACE_NAME => "regnamespace".to_owned(),
            name => name.to_owned(),
        },
        Expr::Nested(expr) | Expr::Cast { expr, .. } if name_of(expr) != "?column?" => name_of(expr),
        Expr::Cast { data_type, .. } => data_type.to_string().to_lowercase(),
        Expr::Case { .. } => "case".to_owned(),
        Expr::Exists { .. } => "exists".to_owned(),
        Expr::Array(_) => "array".to_owned(),
        Expr::Extract { .. } => "extract".to_owned(),
        _ => "?column?".to_owned(),
    }
}

fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}
