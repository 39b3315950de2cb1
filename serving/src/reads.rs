//! What a query reads, and how that stands: as long as it stands the same, so does the query's answer.
//!
//! *Why*: an answer that is kept must be made anew when it would be another one, and only then. New records are not all that
//! makes it another: a commit moves rows from `live.t` to `lake.t`, a view may answer another query, a table may get a column.
//!
//! *Invariants*: a whole table is the same before and after a commit, so a commit alone changes nothing for who reads it.
//!
//! *Not here*: the time of day, at which only whoever keeps the answer can look.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::TableReference;
use datafusion::execution::SessionState;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{Expr, ObjectNamePart, Statement as SqlStatement, Visit, Visitor};
use tarn_model::{Boundary, Result};
use tarn_table::scan::Part;
use tarn_table::{Catalog, Cut, CutTable, Whole};
use tarn_view::{Definition, View, Views};

use crate::engine::OF_THE_TIME;
use crate::error::from_datafusion;
use crate::session::SCHEMAS;
use crate::statement::Statement;
use crate::watermark;

/// What a query reads.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// Tables and views, in lower case, and which part of each.
    names: Vec<(String, Part)>,
    /// It reads of how all of them stand, and not only of their rows.
    everything: bool,
    by_the_clock: bool,
}

impl Reads {
    /// Of a statement that cannot be told yet: it may read anything.
    pub(crate) fn anything() -> Reads {
        Reads { names: Vec::new(), everything: true, by_the_clock: true }
    }

    /// Of `sql`, as `state` would plan it.
    pub(crate) fn of(sql: &str, state: &SessionState) -> Result<Reads> {
        let statement = Statement::parse(sql, None, &[])?;
        let asked = watermark::asked(&statement.ast);
        let mut found = state.resolve_table_references(&statement.ast).map_err(from_datafusion)?;
        found.extend(watermark::references(&asked));
        let is_query =
            matches!(&statement.ast, DfStatement::Statement(ast) if matches!(**ast, SqlStatement::Query(_)));
        let (mut names, mut asks_of_tarn) = (Vec::new(), false);
        for name in found {
            let part = part_of(&name);
            asks_of_tarn |= part.is_none();
            // A table at a vector of its own stands there under another name.
            let versions = statement.versions.iter().find(|version| version.name == name.table());
            let table = versions.map_or(name.table(), |version| version.table.as_str());
            names.extend(part.map(|part| (table.to_lowercase(), part)));
        }
        let by_the_clock = asks_of_tarn || asks_for_the_time(&statement.ast, state);
        Ok(Reads { names, everything: asks_of_tarn || !is_query, by_the_clock })
    }

    /// Whether the answer changes by itself as time passes.
    pub(crate) fn by_the_clock(&self) -> bool {
        self.by_the_clock
    }

    /// How all of it stands now.
    pub(crate) fn sight(&self, catalog: &Catalog, views: &Views) -> Sight {
        let cuts = catalog.cuts();
        let decoded = cuts.iter().map(|cut| (Arc::clone(&cut.topic), cut.decoded.clone())).collect();
        let imports = catalog.imports();
        let mut looking = Looking { cuts, imports, wholes: catalog.wholes(), sight: Sight::default() };
        looking.sight.decoded = decoded;
        let all = looking.imports.tables.values();
        looking.sight.imports = all
            .map(|table| (Arc::clone(&table.name), table.lake.as_ref().map(|lake| lake.version)))
            .collect();
        looking.sight.imports.sort_unstable();
        if self.everything {
            looking.at_everything(views);
        } else {
            for (name, part) in &self.names {
                looking.at(name, *part, views);
            }
        }
        // In hash maps they have no order.
        looking.sight.tables.sort_by(|a, b| (&a.name, a.part).cmp(&(&b.name, b.part)));
        looking.sight
    }
}

/// How what a query reads stands at one moment.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Sight {
    /// How far each topic is decoded.
    decoded: Vec<(Arc<str>, Boundary)>,
    /// Import tables, which have no offsets, and their versions.
    imports: Vec<(Arc<str>, Option<u64>)>,
    tables: Vec<TableSight>,
    views: Vec<ViewSight>,
}

#[derive(Debug, PartialEq)]
struct TableSight {
    name: Arc<str>,
    schema: SchemaRef,
    /// Which part is looked at, by its place among the parts.
    part: usize,
    /// Where the lake's part ends; `None` where nobody can tell.
    boundary: Option<Boundary>,
    /// Of the lake's part, where all that can be told of a table is asked for.
    version: Option<u64>,
    /// The last version of it that another engine wrote.
    foreign_version: Option<u64>,
}

#[derive(Debug, PartialEq)]
struct ViewSight {
    name: String,
    query: Arc<String>,
    /// Which build answers.
    build: Option<u32>,
    /// Changes of its states, where they are asked for.
    changes: Option<u64>,
}

/// A look that is under way.
struct Looking {
    cuts: Vec<Arc<Cut>>,
    imports: Arc<Cut>,
    wholes: BTreeMap<String, Arc<Whole>>,
    sight: Sight,
}

impl Looking {
    /// Looks at the tables, of one topic or of many, and the views of this name, in lower case. More than one may be meant: they differ
    /// in case.
    fn at(&mut self, name: &str, part: Part, views: &Views) {
        self.at_tables(name, part);
        for view in views.iter().filter(|view| view.name().to_lowercase() == name) {
            let query = view.query();
            for table in tables_of(view, &query) {
                self.at_tables(&table.to_lowercase(), part);
            }
            self.sight.views.push(ViewSight { query, ..ViewSight::of(view) });
        }
    }

    fn at_tables(&mut self, name: &str, part: Part) {
        let wholes = self.wholes.iter().filter(|(known, _)| known.to_lowercase() == name);
        let parts: Vec<&str> = wholes.flat_map(|(_, whole)| &whole.parts).map(String::as_str).collect();
        let is_meant =
            |table: &&Arc<CutTable>| table.name.to_lowercase() == name || parts.contains(&&*table.name);
        let all = self.cuts.iter().chain([&self.imports]).flat_map(|cut| cut.tables.values());
        self.sight.tables.extend(all.filter(is_meant).map(|table| TableSight::of(table, part)));
    }

    fn at_everything(&mut self, views: &Views) {
        let all = self.cuts.iter().chain([&self.imports]).flat_map(|cut| cut.tables.values());
        self.sight.tables = all
            .map(|table| {
                let version = table.lake.as_ref().map(|lake| lake.version);
                TableSight { version, ..TableSight::of(table, Part::Lake) }
            })
            .collect();
        self.sight.views = views
            .iter()
            .map(|view| ViewSight { changes: Some(*view.changes().borrow()), ..ViewSight::of(view) })
            .collect();
    }
}

impl TableSight {
    fn of(table: &CutTable, part: Part) -> TableSight {
        TableSight {
            name: Arc::clone(&table.name),
            schema: Arc::clone(&table.schema),
            part: SCHEMAS.iter().position(|(_, known)| *known == part).unwrap_or_default(),
            boundary: (part != Part::Both).then(|| table.boundary.clone()),
            version: None,
            foreign_version: table.lake.as_ref().and_then(|lake| lake.foreign_version),
        }
    }
}

impl ViewSight {
    fn of(view: &View) -> ViewSight {
        let build = view.moment().batch.as_ref().map(|batch| batch.version);
        ViewSight { name: view.name().to_owned(), query: view.query(), build, changes: None }
    }
}

/// The tables that `view` reads while it answers `query`.
fn tables_of(view: &View, query: &str) -> Vec<String> {
    match view.known().filter(|known| known.query == query) {
        Some(known) => known.tables.keys().cloned().collect(),
        // What cannot be read has no tables, and no answer.
        None => Definition::tables_of(query).unwrap_or_default(),
    }
}

/// The part that a name in a statement means; `None` where it is asked of Tarn itself.
fn part_of(name: &TableReference) -> Option<Part> {
    match name.schema() {
        None => Some(Part::Both),
        Some(schema) => {
            SCHEMAS.iter().find(|(known, _)| known.eq_ignore_ascii_case(schema)).map(|(_, part)| *part)
        }
    }
}

/// Whether a function stands in `statement` whose value is the time at which it began.
fn asks_for_the_time(statement: &DfStatement, state: &SessionState) -> bool {
    struct Calls<'s>(&'s SessionState);
    impl Visitor for Calls<'_> {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            if let Expr::Function(call) = expr
                && let [ObjectNamePart::Identifier(name)] = call.name.0.as_slice()
                && let Some(function) = self.0.scalar_functions().get(&name.value.to_lowercase())
                && OF_THE_TIME.contains(&function.name())
            {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        }
    }
    match statement {
        DfStatement::Statement(statement) => statement.visit(&mut Calls(state)).is_break(),
        DfStatement::Explain(explain) => asks_for_the_time(&explain.statement, state),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
