//! Where a table is split: at the values that a sample of a column has at even distances, or, without a column, at even numbers of
//! its pages. A view or a query has no pages: its column is read whole.
//!
//! *Pages*: a row of a snapshot stays where it is for as long as the snapshot is held, whoever changes or deletes it meanwhile (what
//! they write goes elsewhere), and the coordinator's lock keeps those out who rewrite the table (`VACUUM FULL`, `CLUSTER`). It has the
//! lock since it described the table. Partitions are not locked by that, so a table that has some is not split so.

use tarn_model::{Error, Result};

use super::types::is_splittable;
use super::{Postgres, first, quoted};
use crate::database::splitting::{Parted, Readers, Splits, conditions, ranges};
use crate::database::{Named, Selection};

/// Pages that are looked at, of 8 KiB.
const SAMPLED_PAGES: f64 = 3000.0;
/// Pages that are worth a split.
const LEAST_PAGES: usize = 64;

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
        Ok(Splits { readers: self.exported()?, conditions: conditions(&by, &bounds) })
    }

    /// Up to `count` parts of a table by its pages, and the snapshot of this transaction.
    pub(super) fn split_by_pages(&mut self, what: &Selection, count: usize) -> Result<Parted> {
        let Named::Table(name) = &what.named else {
            return Ok(Parted::Whole(Some("a query has no pages".to_owned())));
        };
        // This locks the table.
        self.fields(what)?;
        let literal = tarn_model::placeholders::literal(&self.relation(name)?.quoted);
        let sql = format!(
            "SELECT c.relkind, a.amname, EXISTS (SELECT 1 FROM pg_inherits WHERE inhparent = c.oid), \
             current_setting('server_version_num')::int >= 140000, \
             CASE WHEN c.relkind = 'r' THEN pg_relation_size(c.oid) / current_setting('block_size')::int END \
             FROM pg_class c LEFT JOIN pg_am a ON a.oid = c.relam WHERE c.oid = {literal}::regclass"
        );
        let found = self.connection.query(&sql, &format!("look where to split `{name}`"))?;
        let row: Vec<&str> = found.iter().flatten().map(|cell| cell.as_deref().unwrap_or_default()).collect();
        let (has_children, has_ranges, pages) = match row.as_slice() {
            ["r", "heap", has_children, has_ranges, pages] => (*has_children, *has_ranges, *pages),
            ["p", ..] => return Ok(Parted::Whole(Some("it has partitions".to_owned()))),
            _ => return Ok(Parted::Whole(Some("it is no table that has pages".to_owned()))),
        };
        if has_children == "t" {
            return Ok(Parted::Whole(Some("other tables inherit from it".to_owned())));
        }
        if has_ranges != "t" {
            return Ok(Parted::Whole(Some("the server is older than PostgreSQL 14".to_owned())));
        }
        let pages: usize = pages.parse().unwrap_or(0);
        let count = count.min(pages / LEAST_PAGES);
        if count < 2 {
            return Ok(Parted::Whole(None));
        }
        let bounds: Vec<String> = (1..count).map(|i| format!("'({},0)'::tid", pages * i / count)).collect();
        Ok(Parted::Splits(Splits { readers: self.exported()?, conditions: ranges("ctid", &bounds) }))
    }

    /// The snapshot of this transaction, for others.
    fn exported(&mut self) -> Result<Readers> {
        let doing = "give the snapshot to the readers";
        let snapshot = self.connection.query("SELECT pg_export_snapshot()", doing)?;
        let snapshot = first(&snapshot).map(|snapshot| Readers::Exported(snapshot.to_owned()));
        snapshot.ok_or_else(|| Error::internal("the snapshot is not told"))
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
