//! Where a table is split: at the values that a sample of a column has at even distances. A view or a query has no pages to sample:
//! its column is read whole.

use tarn_model::{Error, Result};

use super::types::is_splittable;
use super::{Postgres, first, quoted};
use crate::database::splitting::{Splits, conditions};
use crate::database::{Named, Selection};

/// Pages that are looked at, of 8 KiB.
const SAMPLED_PAGES: f64 = 3000.0;

impl Postgres {
    /// `count` parts of a table between values of `column`, and the snapshot of this transaction.
    pub(super) fn split(&mut self, what: &Selection, column: &str, count: usize) -> Result<Splits> {
        self.begin()?;
        let name = what.name();
        let (table, is_stored) = match &what.named {
            Named::Table(name) => {
                let relation = self.relation(name)?;
                (relation.quoted, relation.has_rows)
            }
            Named::Query(_) => (self.from(what)?, false),
        };
        let (doing, by) = (format!("look where to split `{name}`"), quoted(column));
        let described = self.connection.describe(&format!("SELECT {by} FROM {table}"), &doing)?;
        if !described.first().is_some_and(|column| is_splittable(column.type_id)) {
            return Err(Error::invalid(format!(
                "`{column}` of `{name}` is of a type that cannot be split by"
            ))
            .with_hint("choose a number, a date, a timestamp, text or a uuid for `split_by`"));
        }
        let sample = if is_stored { self.sample(&table, &doing)? } else { String::new() };
        let at: Vec<String> = (1..count).map(|i| format!("{:.6}", i as f64 / count as f64)).collect();
        let mut bounds: Vec<String> = Vec::new();
        if !at.is_empty() {
            let filter = what.filter.as_ref().map_or(String::new(), |filter| format!(" AND (\n{filter}\n)"));
            // They come in the column's own order, which sorting them once more could lose.
            let sql = format!(
                "SELECT b::text FROM unnest((SELECT percentile_disc(ARRAY[{}]::float8[]) WITHIN GROUP (ORDER BY {by}) \
                 FROM {table} {sample} WHERE {by} IS NOT NULL{filter})) WITH ORDINALITY AS bounds (b, i) \
                 WHERE b IS NOT NULL ORDER BY i",
                at.join(", ")
            );
            let found = self.connection.query(&sql, &doing)?;
            bounds.extend(found.into_iter().filter_map(|mut row| row.pop().flatten()));
            bounds.dedup();
        }
        let bounds: Vec<String> =
            bounds.iter().map(|bound| tarn_model::placeholders::literal(bound)).collect();
        let snapshot =
            self.connection.query("SELECT pg_export_snapshot()", "give the snapshot to the readers")?;
        let snapshot =
            first(&snapshot).ok_or_else(|| Error::internal("the snapshot is not told"))?.to_owned();
        Ok(Splits { snapshot, conditions: conditions(&by, &bounds) })
    }

    /// How a table is sampled: about so many pages of it.
    fn sample(&mut self, table: &str, doing: &str) -> Result<String> {
        let literal = tarn_model::placeholders::literal(table);
        let pages = self.connection.query(
            &format!(
                "SELECT sum(pg_relation_size(relid)) / 8192 FROM (SELECT relid FROM pg_partition_tree({literal}::regclass) \
                 UNION SELECT {literal}::regclass) AS parts"
            ),
            doing,
        )?;
        let pages: f64 = first(&pages).and_then(|pages| pages.parse().ok()).unwrap_or(0.0);
        let percent = (100.0 * SAMPLED_PAGES / pages.max(1.0)).min(100.0);
        Ok(format!("TABLESAMPLE SYSTEM ({percent:.6}) REPEATABLE (0)"))
    }
}
