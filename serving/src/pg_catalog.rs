//! PostgreSQL's catalogs, for clients that ask them what is here.
//!
//! *Why*: psql's `\d`, drivers and tools read `pg_catalog` and `information_schema` before they ask anything else, in SQL that
//! only PostgreSQL plans. So the catalogs are small tables made when a statement names them, their functions are functions, and
//! what the planner here does not know is put in other words first.
//!
//! *Layout*: `rewrite` (words), `relations` (tables with rows), `empty` (tables that never have any: there are no indexes, no
//! constraints, no triggers), `sheet` (how rows become a table), `functions`.
//!
//! *Invariants*: only statements that come through PostgreSQL's door see any of this. Numbers of tables (`oid`) follow from
//! their names, so that they hold from one statement to the next.

mod empty;
mod functions;
mod relations;
mod rewrite;
mod sheet;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::error::Result as DfResult;
use datafusion::execution::{FunctionRegistry, SessionState};
use tarn_table::scan::Part;

use crate::postgres::settings::Settings;
use crate::session::{Moment, SCHEMAS};

pub(crate) use rewrite::{rewrite, without_marks};

/// The schema of these tables.
pub(crate) const SCHEMA: &str = "pg_catalog";
/// Numbers below this are PostgreSQL's own.
const FIRST_OID: i32 = 16_384;

/// Who asks through PostgreSQL's door.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) process: i32,
    /// Where the door is.
    pub(crate) address: SocketAddr,
    pub(crate) settings: Settings,
}

/// A table or view, in one of the schemas.
#[derive(Debug)]
struct Relation {
    oid: i32,
    schema: &'static str,
    name: String,
    is_view: bool,
    columns: SchemaRef,
}

/// What a statement's catalogs tell of; made when they are asked.
#[derive(Debug)]
pub(crate) struct Facts {
    visitor: Visitor,
    moment: Arc<Moment>,
    relations: OnceLock<Vec<Relation>>,
}

impl Facts {
    pub(crate) fn new(moment: &Arc<Moment>, visitor: &Visitor) -> Facts {
        Facts { visitor: visitor.clone(), moment: Arc::clone(moment), relations: OnceLock::new() }
    }

    fn relations(&self) -> &[Relation] {
        self.relations.get_or_init(|| {
            let mut relations = Vec::new();
            for name in self.moment.table_names() {
                let Ok(Some(table)) = self.moment.provider(&name, Part::Both) else { continue };
                let (columns, is_view) = (table.schema(), self.moment.views().has(&name));
                for (at, (schema, _)) in SCHEMAS.iter().enumerate() {
                    let oid = oid_of(&name, at);
                    relations.push(Relation {
                        oid,
                        schema,
                        name: name.clone(),
                        is_view,
                        columns: columns.clone(),
                    });
                }
            }
            relations
        })
    }

    /// The relation that `text` names: `t`, `lake.t`, `"T"`, or a number.
    fn named(&self, text: &str) -> Option<&Relation> {
        if let Ok(oid) = text.parse::<i32>() {
            return self.relations().iter().find(|relation| relation.oid == oid);
        }
        let mut parts = identifiers(text);
        let name = parts.pop()?;
        let schema = parts.last().map_or("public", String::as_str);
        self.relations().iter().find(|relation| relation.schema == schema && relation.name == name)
    }
}

/// The names of `a."B".c`, folded as PostgreSQL folds them.
fn identifiers(text: &str) -> Vec<String> {
    let (mut parts, mut is_quoted) = (vec![String::new()], false);
    for c in text.chars() {
        let part = parts.last_mut().expect("there is always one");
        match c {
            '"' => is_quoted = !is_quoted,
            '.' if !is_quoted => parts.push(String::new()),
            c if is_quoted => part.push(c),
            c => part.extend(c.to_lowercase()),
        }
    }
    parts
}

/// A number for a table: the same whenever it is asked for.
fn oid_of(name: &str, schema: usize) -> i32 {
    // FNV-1a.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let number = i32::try_from(hash % (1 << 27)).unwrap_or(0);
    FIRST_OID + number * 4 + i32::try_from(schema).unwrap_or(0)
}

/// Whether a name without schema means it.
fn is_visible(oid: i32) -> bool {
    oid < FIRST_OID || (oid - FIRST_OID) % 4 == 0
}

/// Makes the catalogs' functions known to a session.
pub(crate) fn attach(state: &mut SessionState, facts: &Arc<Facts>) -> DfResult<()> {
    for function in functions::all(facts) {
        state.register_udf(Arc::new(function))?;
    }
    Ok(())
}

/// The schema `pg_catalog`.
#[derive(Debug)]
pub(crate) struct PgSchema(pub(crate) Arc<Facts>);

#[async_trait]
impl SchemaProvider for PgSchema {
    fn table_names(&self) -> Vec<String> {
        relations::NAMES.iter().chain(empty::names()).map(|name| (*name).to_owned()).collect()
    }

    async fn table(&self, name: &str) -> DfResult<Option<Arc<dyn TableProvider>>> {
        match relations::sheet(name, &self.0) {
            Some(sheet) => Ok(Some(Arc::new(sheet.table()?))),
            None => empty::table(name),
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        relations::NAMES.contains(&name) || empty::is_empty(name)
    }
}
