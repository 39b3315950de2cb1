//! From the staging table into the target, in one transaction with the token.
//!
//! ```text
//! begin ─▶ token: not done ─▶ rows, a range of their numbers at a time ─▶ rejects to their file ─▶ token: done ─▶ commit
//!                              refused? back to the savepoint, and its halves; one row that is refused is rejected
//! ```
//!
//! *Invariants*: rows, token and, where the database can, the end of the staging table are one commit. The rejects' file is durable
//! before it.
//!
//! *Order*: a row that was refused because it refers to a later one is tried again once the others are in, as long as that lets any in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};
use tarn_model::{Error, Kind, Result, fault};

use super::gives::Gives;
use super::session::{Plan, PlanColumn, Session};
use super::staging::Rejects;
use super::{Counts, Mode, Order, tokens};

/// Tries, where other transactions are in the way.
const TRIES: u32 = 5;

/// What a try has found.
enum Tried {
    Moved(Counts),
    /// Another process has done it.
    Already,
}

/// Moves what is staged.
pub(super) struct Mover<'a> {
    pub(super) session: &'a mut dyn Session,
    pub(super) plan: &'a Plan,
    pub(super) order: &'a Order,
    pub(super) run: &'a str,
    pub(super) staged: u64,
    pub(super) rejects: &'a mut Rejects,
    /// The rejects' file, once it is there.
    pub(super) kept: Option<PathBuf>,
}

/// First and last number of rows.
type Range = (u64, u64);

impl Mover<'_> {
    /// Moves all rows; `None` when another process has done so.
    pub(super) fn run(&mut self) -> Result<Option<Counts>> {
        self.rejects.check()?;
        if self.session.words().analyzes {
            self.session.run(&format!("ANALYZE {}", self.plan.staging), "look at the staging table")?;
        }
        let mut tries = 1;
        loop {
            match self.attempt() {
                Ok(Tried::Moved(counts)) => return Ok(Some(counts)),
                Ok(Tried::Already) => return Ok(None),
                Err((error, may_retry)) => {
                    let rolled_back = self.session.run("ROLLBACK", "give the export up").is_ok();
                    let passing = error.kind() == Kind::Unavailable && may_retry && rolled_back;
                    if !passing || tries == TRIES {
                        return Err(error);
                    }
                    tries += 1;
                    tracing::info!(%error, "others are in the way of the export: it is tried again");
                }
            }
        }
    }

    fn attempt(&mut self) -> std::result::Result<Tried, (Error, bool)> {
        let again = |error| (error, true);
        self.session.run(self.session.words().begin, "begin a transaction").map_err(again)?;
        if tokens::is_done(self.session, self.plan, &self.order.job, self.run).map_err(again)? {
            self.session.run("ROLLBACK", "end a transaction").map_err(again)?;
            return Ok(Tried::Already);
        }
        let (mut counts, refused, unmatched) = self.rows().map_err(again)?;
        // From here on what was rejected is written down, which is done once.
        self.settle(&mut counts, refused, &unmatched).map_err(|error| (error, false))?;
        Ok(Tried::Moved(counts))
    }

    fn settle(
        &mut self,
        counts: &mut Counts,
        refused: BTreeMap<u64, String>,
        unmatched: &[u64],
    ) -> Result<()> {
        for (row, reason) in refused {
            let cells = self.staged_row(row)?;
            self.rejects.add(&reason, cells)?;
        }
        self.rejects.check()?;
        for row in unmatched {
            let cells = self.staged_row(*row)?;
            self.rejects.note("no row of the target has this key", cells)?;
        }
        counts.rejected = self.rejects.count();
        self.kept = self.rejects.settle()?;
        tokens::done(self.session, self.plan, &self.order.job, self.run, counts)?;
        if self.session.words().transactional_tables {
            self.session.run(&format!("DROP TABLE {}", self.plan.staging), "drop the staging table")?;
        }
        fault::point("export.move.before")?;
        self.session.run("COMMIT", "commit the export").map_err(|error| {
            error.with_hint(
                "it is not known whether it was committed: run the same export again, it finds out",
            )
        })?;
        fault::point("export.move.after")?;
        if !self.session.words().transactional_tables {
            // What is left goes with the next run.
            let _ = self
                .session
                .run(&format!("DROP TABLE IF EXISTS {}", self.plan.staging), "drop the staging table");
        }
        Ok(())
    }

    /// Brings all rows that can be into the target.
    fn rows(&mut self) -> Result<(Counts, BTreeMap<u64, String>, Vec<u64>)> {
        let mut counts = Counts::default();
        let (mut refused, mut unmatched) = (BTreeMap::new(), Vec::new());
        if self.staged == 0 {
            return Ok((counts, refused, unmatched));
        }
        if self.order.mode != Mode::Insert {
            self.leave_out_twins(&mut refused)?;
        }
        if self.order.mode == Mode::Update {
            unmatched = self.unmatched(&mut counts)?;
        }
        let mut inserted = 0;
        let mut open: Vec<Range> = vec![(1, self.staged)];
        while let Some(range) = open.pop() {
            match self.apply(range)? {
                Ok(count) => inserted += count,
                Err(reason) if range.0 == range.1 => {
                    refused.insert(range.0, reason);
                    if refused.len() as u64 > self.rejects.bearable() {
                        inserted += self.again(&mut refused)?;
                    }
                    self.not_too_many(&refused)?;
                }
                Err(_) => {
                    let middle = range.0 + (range.1 - range.0) / 2;
                    open.push((middle + 1, range.1));
                    open.push((range.0, middle));
                }
            }
        }
        inserted += self.again(&mut refused)?;
        counts.exported = self.staged - refused.len() as u64 - counts.unmatched;
        counts.inserted = match self.order.mode {
            Mode::Insert => counts.exported,
            Mode::Update => 0,
            Mode::Upsert => inserted,
        };
        counts.updated = counts.exported - counts.inserted.min(counts.exported);
        Ok((counts, refused, unmatched))
    }

    /// Tries what was refused once more, as long as that lets any in; how many were new in the target.
    fn again(&mut self, refused: &mut BTreeMap<u64, String>) -> Result<u64> {
        let (mut inserted, mut progress) = (0, true);
        while std::mem::take(&mut progress) {
            // Twins have gone from where rows are taken: nothing would be moved, and nothing refused.
            let rows: Vec<u64> =
                refused.iter().filter(|(_, reason)| *reason != TWIN).map(|(row, _)| *row).collect();
            for row in rows {
                if let Ok(count) = self.apply((row, row))? {
                    inserted += count;
                    refused.remove(&row);
                    progress = true;
                }
            }
        }
        Ok(inserted)
    }

    /// An early end, before more is looked for than is borne.
    fn not_too_many(&mut self, refused: &BTreeMap<u64, String>) -> Result<()> {
        if refused.len() as u64 <= self.rejects.bearable() {
            return Ok(());
        }
        let refused = refused.clone();
        for (row, reason) in refused {
            let cells = self.staged_row(row)?;
            self.rejects.add(&reason, cells)?;
        }
        Err(Error::internal("more rows are rejected than are borne"))
    }

    /// Brings a range of rows into the target; how many were new there, or why the database takes none of them.
    fn apply(&mut self, range: Range) -> Result<std::result::Result<u64, String>> {
        let doing = "write to the target";
        self.session.run("SAVEPOINT tarn", doing)?;
        let mut inserted = 0;
        for (statement, inserts) in self.statements(range) {
            match self.session.change(&statement, doing)? {
                Ok(count) if inserts => inserted += count,
                Ok(_) => {}
                Err(refused) => {
                    self.session.run("ROLLBACK TO SAVEPOINT tarn", doing)?;
                    self.session.run("RELEASE SAVEPOINT tarn", doing)?;
                    return Ok(Err(refused.reason));
                }
            }
        }
        self.session.run("RELEASE SAVEPOINT tarn", doing)?;
        Ok(Ok(inserted))
    }

    /// What brings a range of rows into the target, and whether it makes rows.
    fn statements(&self, (first, last): Range) -> Vec<(String, bool)> {
        let (plan, words) = (self.plan, self.session.words());
        let (table, staging) = (&plan.target.table, &plan.staging);
        let range = format!("s.tarn_row BETWEEN {first} AND {last}");
        let names = join(&plan.columns, ", ", |column| column.quoted.clone());
        let values = join(&plan.columns, ", ", |column| column.value.clone());
        let same_key = self.same_key();
        let update = || {
            let set: Vec<&PlanColumn> = plan.columns.iter().filter(|column| !column.is_key).collect();
            if set.is_empty() {
                return None;
            }
            Some(if words.joins_updates {
                let set: Vec<String> = set.iter().map(|c| format!("t.{} = {}", c.quoted, c.value)).collect();
                format!(
                    "UPDATE {table} t JOIN {staging} s ON {same_key} SET {} WHERE {range}",
                    set.join(", ")
                )
            } else {
                let set: Vec<String> = set.iter().map(|c| format!("{} = {}", c.quoted, c.value)).collect();
                format!(
                    "{} {table} AS t SET {} FROM {staging} AS s WHERE {same_key} AND {range}",
                    words.update,
                    set.join(", ")
                )
            })
        };
        match self.order.mode {
            Mode::Insert => {
                vec![(
                    format!(
                        "{} {table} ({names}) SELECT {values} FROM {staging} s WHERE {range}",
                        words.insert
                    ),
                    true,
                )]
            }
            Mode::Update => update().map(|update| (update, false)).into_iter().collect(),
            Mode::Upsert => {
                let absent = self.first_key();
                let insert = format!(
                    "{} {table} ({names}) SELECT {values} FROM {staging} s LEFT JOIN {table} t ON {same_key} \
                     WHERE {range} AND t.{absent} IS NULL",
                    words.insert
                );
                update().map(|update| (update, false)).into_iter().chain([(insert, true)]).collect()
            }
        }
    }

    fn keys(&self) -> Vec<&PlanColumn> {
        self.plan.columns.iter().filter(|column| column.is_key).collect()
    }

    fn first_key(&self) -> String {
        self.keys().first().map(|key| key.quoted.clone()).unwrap_or_default()
    }

    fn same_key(&self) -> String {
        let same = self.keys().into_iter().map(|key| format!("t.{} = {}", key.quoted, key.value));
        same.collect::<Vec<_>>().join(" AND ")
    }

    /// Rows of the export that have one key: which of them would stay is chance, so none does.
    fn leave_out_twins(&mut self, refused: &mut BTreeMap<u64, String>) -> Result<()> {
        let staging = &self.plan.staging;
        // What a connection of a run that died still brings has a higher number.
        let sent = format!("s.tarn_row BETWEEN 1 AND {}", self.staged);
        let keys: Vec<String> = self.keys().into_iter().map(|key| key.value.clone()).collect();
        let named: Vec<String> = keys.iter().enumerate().map(|(i, key)| format!("{key} AS k{i}")).collect();
        let same: Vec<String> = keys.iter().enumerate().map(|(i, key)| format!("d.k{i} = {key}")).collect();
        let sql = format!(
            "SELECT s.tarn_row FROM {staging} s JOIN (SELECT {} FROM {staging} s WHERE {sent} GROUP BY {} HAVING count(*) > 1) d \
             ON {} WHERE {sent} ORDER BY s.tarn_row LIMIT {}",
            named.join(", "),
            keys.join(", "),
            same.join(" AND "),
            self.rejects.bearable() + 1
        );
        let rows = numbers(self.session.query(&sql, "look for rows with one key")?);
        refused.extend(rows.iter().map(|row| (*row, TWIN.to_owned())));
        self.not_too_many(refused)?;
        for rows in rows.chunks(1_000) {
            let rows: Vec<String> = rows.iter().map(u64::to_string).collect();
            // They are read once more, to be told: they keep their numbers, below zero.
            let aside =
                format!("UPDATE {staging} SET tarn_row = -tarn_row WHERE tarn_row IN ({})", rows.join(", "));
            self.session.run(&aside, "leave rows out that have one key")?;
        }
        Ok(())
    }

    /// Rows that an update would find nothing for: their number, and the first of them.
    fn unmatched(&mut self, counts: &mut Counts) -> Result<Vec<u64>> {
        let (table, staging) = (&self.plan.target.table, &self.plan.staging);
        let from = format!(
            "FROM {staging} s WHERE s.tarn_row BETWEEN 1 AND {} AND NOT EXISTS (SELECT 1 FROM {table} t WHERE {})",
            self.staged,
            self.same_key()
        );
        let as_updated = self.session.words().as_updated;
        let doing = "look which keys the target has";
        let count = self.session.query(&format!("SELECT count(*) {from}{as_updated}"), doing)?;
        counts.unmatched = numbers(count).first().copied().unwrap_or(0);
        if counts.unmatched == 0 {
            return Ok(Vec::new());
        }
        let most = self.rejects.bearable();
        let sql = format!("SELECT s.tarn_row {from} ORDER BY s.tarn_row LIMIT {most}");
        let rows = numbers(self.session.query(&sql, doing)?);
        if self.order.strict {
            let mut told = Vec::new();
            for row in rows.iter().take(3) {
                told.push(Value::Object(self.staged_row(*row)?).to_string());
            }
            let message =
                format!("{} rows match nothing in the target, so nothing was exported", counts.unmatched);
            return Err(Error::invalid(message)
                .with_source(told.join("\n  and: "))
                .with_hint("`--mode upsert` inserts them; without `--strict` they are counted, and `--rejects FILE` names them"));
        }
        Ok(rows)
    }

    /// A staged row, to be told.
    fn staged_row(&mut self, row: u64) -> Result<Map<String, Value>> {
        let columns = join(&self.plan.columns, ", ", |column| column.staged.clone());
        let sql = format!("SELECT {columns} FROM {} WHERE tarn_row IN ({row}, -{row})", self.plan.staging);
        let rows = self.session.query(&sql, "read a row that is refused")?;
        let cells = rows.into_iter().next().unwrap_or_default();
        let named = self.plan.columns.iter().zip(cells);
        Ok(named.map(|(column, cell)| (column.name.clone(), said(column.gives, cell))).collect())
    }
}

/// Why none of several rows with one key is taken.
const TWIN: &str = "several rows of the export have this key";

fn said(gives: Gives, cell: Option<String>) -> Value {
    let Some(cell) = cell else { return Value::Null };
    match gives {
        Gives::Int | Gives::Double | Gives::Real => {
            serde_json::from_str::<serde_json::Number>(&cell).map_or(Value::String(cell), Value::Number)
        }
        Gives::Bool => Value::Bool(matches!(cell.as_str(), "t" | "1" | "true")),
        _ => Value::String(cell),
    }
}

fn numbers(rows: Vec<Vec<Option<String>>>) -> Vec<u64> {
    rows.into_iter().flatten().flatten().filter_map(|number| number.parse().ok()).collect()
}

fn join(columns: &[PlanColumn], between: &str, text: impl Fn(&PlanColumn) -> String) -> String {
    columns.iter().map(text).collect::<Vec<_>>().join(between)
}
