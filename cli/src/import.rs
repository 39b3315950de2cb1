//! `tarn import`: tables of a database straight into tables of the lake.
//!
//! ```text
//! reader of a split ── rows ──▶ batches, 2 waiting ──▶ Parquet files ──┐
//! reader of a split ── rows ──▶ batches, 2 waiting ──▶ Parquet files ──┴──▶ one commit: files, `txn` of the job, what was read
//! ```
//!
//! *Which run it is*: the table says which run of the job it has (`txn`). A run that begins writes its number into
//! `<data_dir>/imports/<job>.json` and takes that file away once its end was told. So when the file is there, the run before broke
//! off: the same number is run again, and tables that have it already are left as they are. With `--run` the caller numbers.
//!
//! *Incremental*: the bound that a run goes on from is in the commit of the run before, so it is one with the rows below it.
//!
//! One process at a time imports into a table (of this `data_dir`): it holds a lock on `imports/<table>.lock`.
//!
//! *Invariants*: until the commit nothing of a run is to be seen; memory is bounded by two batches and a row group for each
//! reader. A table that is made from a topic is never written to.
//!
//! *Failure*: files of a run that broke off are in no version, and are deleted by vacuum when they are old.

mod filler;
mod run_file;
mod validator;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;
use tarn_ingest::{Import, ImportBound, ImportedTable};
use tarn_lake::{Advance, Commit, Lake, LakeTable, NewFile, NewTable};
use tarn_model::columns::{Column, Columns};
use tarn_model::config::{Config, ImportConfig, ImportMode};
use tarn_model::{Error, Kind, clock, fault};
use tarn_table::decode::import_schema;
use tarn_table::import::{ImportRun, ROWS, RUN, app_id, is_import, last_run, rows_read};
use tarn_table::open::{IMPORT, KIND};

use crate::args::{ImportArgs, Report};
use crate::door::Door;
use crate::failure::Usage;
use crate::progress::ImportBar;
use crate::render::{Grid, bytes, number, out, seconds};
use crate::rest;
use crate::status::write_json;
use filler::Filler;
use run_file::{RunFile, TableLock};
use validator::Validated;

/// How often a commit is tried anew when somebody else committed meanwhile.
const ATTEMPTS: u32 = 8;

/// What became of one table.
#[derive(Debug, Serialize)]
struct Imported {
    job: String,
    run: i64,
    from: String,
    into: String,
    mode: &'static str,
    /// Rows that were read; of a run that was there already, what it read then.
    rows: u64,
    files: usize,
    bytes: u64,
    /// Delta version.
    version: u64,
    elapsed_s: f64,
    /// The run was committed before, and its answer was lost.
    already_there: bool,
    /// With `--validate`: both sides of each split.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    validated: Vec<Validated>,
}

pub(crate) async fn import(args: ImportArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    let jobs = jobs(&config, &args)?;
    if args.run.is_some() && jobs.len() > 1 {
        return Err(Usage::new("`--run` numbers the run of one job").with_hint("name the job").into());
    }
    let (store_options, options) = (rest::store_options(&config.lake), rest::lake_options(&config.lake));
    let lake = Lake::open(&config.lake.url, &store_options, options, clock::system());
    let lake = lake.await.with_context(|| format!("cannot open the lake at {}", config.lake.url))?;
    let (mut done, mut runs, mut ended) = (Vec::new(), Vec::new(), Ok(()));
    for job in jobs {
        match (Job { config: &config, lake: &lake, import: job, validate: args.validate })
            .run(args.run, &mut done)
            .await
        {
            Ok(run) => runs.push(run),
            Err(error) => {
                ended = Err(error);
                break;
            }
        }
    }
    // What is in the lake is told whatever came after it.
    if !done.is_empty() || ended.is_ok() {
        match args.output {
            Report::Json => write_json(&done)?,
            Report::Table => {
                let mut out = out();
                write!(out, "{}", grid(&done))?;
                for table in done.iter().filter(|table| !table.validated.is_empty()) {
                    write!(out, "\n{}\n{}", table.into, validator::grid(&table.validated))?;
                }
                out.flush()?;
            }
        }
    }
    if done.iter().any(|table| table.already_there) {
        eprintln!(
            "a run was in the lake already, its answer was lost: what is new since then comes with the next run"
        );
    }
    // Only what was told has ended.
    for run in runs {
        run.end()?;
    }
    ended
}

/// The jobs that are named, or all with `--all`.
fn jobs<'c>(config: &'c Config, args: &ImportArgs) -> anyhow::Result<Vec<&'c ImportConfig>> {
    let known: Vec<&str> = config.imports.iter().map(|import| import.name.as_str()).collect();
    let hint = match known.is_empty() {
        true => "the config has no `[[import]]`".to_owned(),
        false => format!("jobs: {}", known.join(", ")),
    };
    if args.all {
        return match config.imports.is_empty() {
            true => Err(Usage::new("there is nothing to import").with_hint(hint).into()),
            false => Ok(config.imports.iter().collect()),
        };
    }
    if args.jobs.is_empty() {
        return Err(Usage::new("no job is named")
            .with_hint(format!("{hint}; `--all` runs all of them"))
            .into());
    }
    let find = |name: &String| {
        let found = config.imports.iter().find(|import| import.name == *name);
        found.ok_or_else(|| Usage::new(format!("there is no import `{name}`")).with_hint(hint.clone()).into())
    };
    args.jobs.iter().map(find).collect()
}

fn grid(done: &[Imported]) -> Grid {
    let mut grid =
        Grid::new(&["job", "#run", "from", "into", "mode", "#rows", "#files", "#size", "#rows/s", ""]);
    for table in done {
        let rate = match table.already_there {
            true => "-".to_owned(),
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate, for people")]
            false => number((table.rows as f64 / table.elapsed_s.max(0.001)) as u64),
        };
        let note = match table.already_there {
            true => "was there already".to_owned(),
            false => format!("in {}", seconds(table.elapsed_s)),
        };
        grid.row([
            table.job.clone(),
            table.run.to_string(),
            table.from.clone(),
            table.into.clone(),
            table.mode.to_owned(),
            number(table.rows),
            table.files.to_string(),
            bytes(table.bytes),
            rate,
            note,
        ]);
    }
    grid
}

/// Files of a table, both sides of its splits, and what the next incremental run goes on from.
type Written = (Vec<NewFile>, Vec<Validated>, Option<ImportBound>);

/// One `[[import]]`.
struct Job<'a> {
    config: &'a Config,
    lake: &'a Lake,
    import: &'a ImportConfig,
    validate: bool,
}

impl Job<'_> {
    /// One run over all its tables; what is in the lake goes to `done`, also when the run fails afterwards.
    async fn run(&self, asked: Option<i64>, done: &mut Vec<Imported>) -> anyhow::Result<RunFile> {
        let name = &self.import.name;
        let mut database = tokio::task::block_in_place(|| Import::open(self.import, self.config))
            .with_context(|| format!("cannot open the database of import `{name}`"))?;
        let tables = tokio::task::block_in_place(|| database.tables())
            .with_context(|| format!("cannot tell what import `{name}` reads"))?;
        let mut there = Vec::with_capacity(tables.len());
        let mut locks = Vec::with_capacity(tables.len());
        for table in &tables {
            locks.push(TableLock::take(&self.config.data_dir, &table.into)?);
            there.push(self.lake_table(&table.into).await?);
        }
        let last = there.iter().flatten().filter_map(|table| self.last(table)).max().unwrap_or(0);
        let file = RunFile::begin(&self.config.data_dir, name, asked, last)?;
        let run = file.run();
        tracing::info!(job = name, run, tables = tables.len(), "import begins");
        for (table, there) in tables.iter().zip(there) {
            let imported = self
                .table(run, table, there, &mut database)
                .await
                .with_context(|| format!("cannot import `{}` into `{}`", table.name(), table.into))?;
            done.push(imported);
        }
        tokio::task::block_in_place(|| database.release())?;
        self.tell_who_runs().await;
        drop(locks);
        Ok(file)
    }

    fn last(&self, table: &LakeTable) -> Option<i64> {
        table.snapshot().txns.get(&app_id(&self.import.name)).copied()
    }

    async fn lake_table(&self, name: &str) -> anyhow::Result<Option<LakeTable>> {
        // As the one who writes to it: what a killed run left half-written goes.
        let Some(table) = self.lake.load(name, true).await? else { return Ok(None) };
        if !is_import(&table.snapshot()) {
            return Err(Error::invalid(format!("the table `{name}` is in the lake, and is no import table"))
                .with_hint("import into another one: mend `into`")
                .into());
        }
        Ok(Some(table))
    }

    async fn table(
        &self,
        run: i64,
        table: &ImportedTable,
        there: Option<LakeTable>,
        database: &mut Import,
    ) -> anyhow::Result<Imported> {
        let since = Instant::now();
        if let Some(there) = &there
            && self.last(there).is_some_and(|last| last >= run)
        {
            return Ok(self.already_there(run, table, there));
        }
        let found = tokio::task::block_in_place(|| database.columns(table))?;
        let columns = match &there {
            Some(there) => joined(&found, &Columns::from_table_schema(&there.snapshot().schema)?)?,
            None => found.clone(),
        };
        // Files have the columns that are read; those that only the table has are NULL.
        let read = Columns::new(
            found.iter().map(|column| columns.get(&column.name).unwrap_or(column).clone()).collect(),
        )?;
        let before = there.as_ref().map_or(Ok(None), |there| self.bound(there))?;
        let (files, validated, until) = self.files(table, &read, &columns, (database, before)).await?;
        let rows = files.iter().map(|file| file.rows).sum();
        let size = files.iter().map(|file| file.size).sum();
        let count = files.len();
        fault::point("import.commit.before")?;
        let committed = self.commit(run, table, there, &columns, (files, until)).await?;
        fault::point("import.commit.after")?;
        let version = committed.snapshot().version;
        tracing::info!(
            job = self.import.name,
            run,
            table = table.into,
            rows,
            files = count,
            version,
            "imported"
        );
        if let Err(error) = committed.upkeep().await {
            tracing::warn!(table = table.into, %error, "upkeep of the table failed; the next import tries again");
        }
        Ok(Imported {
            job: self.import.name.clone(),
            run,
            from: table.name().to_owned(),
            into: table.into.clone(),
            mode: self.import.mode.as_str(),
            rows,
            files: count,
            bytes: size,
            version,
            elapsed_s: since.elapsed().as_secs_f64(),
            already_there: false,
            validated,
        })
    }

    /// What an incremental run goes on from.
    fn bound(&self, there: &LakeTable) -> anyhow::Result<Option<ImportBound>> {
        let job = &self.import.name;
        if !self.import.incremental || self.last(there).is_none() {
            return Ok(None);
        }
        let told = last_run(&there.snapshot(), job).ok_or_else(|| {
            Error::corrupt(format!("the table does not say what the last run of `{job}` was"))
                .with_hint("look with `tarn verify`; import into another table")
        })?;
        let until = told.until.ok_or_else(|| {
            Error::invalid(format!("the last run of `{job}` read all rows, so nobody can tell which are new"))
                .with_hint("import into another table, or leave `incremental` out")
        })?;
        Ok(Some(serde_json::from_value(until).context("the bound of the last run cannot be read")?))
    }

    fn already_there(&self, run: i64, table: &ImportedTable, there: &LakeTable) -> Imported {
        let snapshot = there.snapshot();
        let told = last_run(&snapshot, &self.import.name);
        Imported {
            job: self.import.name.clone(),
            run,
            from: table.name().to_owned(),
            into: table.into.clone(),
            mode: self.import.mode.as_str(),
            rows: told.as_ref().map_or(0, |told| told.rows),
            files: told.as_ref().map_or(0, |told| told.files),
            bytes: 0,
            version: snapshot.version,
            elapsed_s: 0.0,
            already_there: true,
            validated: Vec::new(),
        }
    }

    /// Reads the table into files of the lake, which are in no version yet.
    async fn files(
        &self,
        table: &ImportedTable,
        read: &Columns,
        columns: &Columns,
        (database, since): (&mut Import, Option<ImportBound>),
    ) -> anyhow::Result<Written> {
        let writer = self.lake.bulk_writer(&table.into, &import_schema(columns))?;
        let rows = Arc::new(AtomicU64::new(0));
        let (files, validated, until) = tokio::task::block_in_place(|| -> anyhow::Result<Written> {
            let plan = match self.import.incremental {
                true => database.plan_new(table, since)?,
                false => database.plan(table)?,
            };
            let total = if ImportBar::is_wanted() { database.estimate(table) } else { None };
            let bar = ImportBar::start(table.name(), total, Arc::clone(&rows));
            let filler =
                Filler::new(writer.clone(), read, self.import.timezone.as_deref(), rows, plan.splits());
            let done = database.read(table, &plan, &|split| filler.taker(split));
            bar.finish();
            done?;
            let files = filler.files();
            let mut validated = Vec::new();
            if self.validate {
                let timezone = self.import.timezone.as_deref();
                validated = validator::validate(database, table, &plan, read, timezone, (&writer, &files))?;
                if let Err(error) = validator::check(&validated) {
                    eprint!("{}", validator::grid(&validated));
                    return Err(error.into());
                }
            }
            Ok((files.into_iter().flatten().collect(), validated, plan.bound()))
        })?;
        writer.check(&files).await?;
        Ok((files, validated, until))
    }

    /// Puts files, progress and what was read into the table at once.
    async fn commit(
        &self,
        run: i64,
        table: &ImportedTable,
        mut there: Option<LakeTable>,
        columns: &Columns,
        (files, until): (Vec<NewFile>, Option<ImportBound>),
    ) -> anyhow::Result<LakeTable> {
        let job = &self.import.name;
        let read: u64 = files.iter().map(|file| file.rows).sum();
        let told = ImportRun {
            run,
            from: table.name().to_owned(),
            mode: self.import.mode.as_str().to_owned(),
            rows: read,
            files: files.len(),
            at_ms: clock::system().now_ms(),
            until: until.map(serde_json::to_value).transpose()?,
        };
        let told = serde_json::to_string(&told)?;
        let mut expected = there.as_ref().and_then(|there| self.last(there));
        for attempt in 0..ATTEMPTS {
            let advance = Advance { app_id: app_id(job), expected, to: run };
            let mut commit = Commit {
                files: files.clone(),
                advances: vec![advance],
                operation: "IMPORT".to_owned(),
                ..Commit::default()
            };
            let Some(known) = &there else {
                let properties = BTreeMap::from([
                    (KIND.to_owned(), IMPORT.to_owned()),
                    (ROWS.to_owned(), read.to_string()),
                    (format!("{RUN}{job}"), told.clone()),
                ]);
                let new = NewTable { schema: import_schema(columns), partition_by: Vec::new(), properties };
                match self.lake.create_with(&table.into, &new, &commit).await {
                    Err(error) if error.kind() == Kind::Conflict && attempt + 1 < ATTEMPTS => {
                        // Another job made it first.
                        there = self.lake_table(&table.into).await?;
                        let theirs = there.as_ref().and_then(|there| self.last(there));
                        if theirs.is_some() {
                            return Err(error.into());
                        }
                        continue;
                    }
                    created => return Ok(created?),
                }
            };
            let snapshot = known.snapshot();
            let before = match self.import.mode {
                ImportMode::Append => rows_read(&snapshot).unwrap_or(0),
                ImportMode::Overwrite => {
                    commit.removes.clone_from(&snapshot.files);
                    0
                }
            };
            let stored = Columns::from_table_schema(&snapshot.schema)?;
            commit.schema = Some(import_schema(&joined(columns, &stored)?));
            commit.properties = BTreeMap::from([
                (ROWS.to_owned(), Some((before + read).to_string())),
                (format!("{RUN}{job}"), Some(told.clone())),
            ]);
            // The sum of rows is right for this version only: nobody may commit in between.
            match known.commit_at(commit, snapshot.version).await {
                Ok(_) => return Ok(known.clone()),
                Err(error) if error.kind() == Kind::Conflict && attempt + 1 < ATTEMPTS => {
                    let now = known.reload().await?;
                    let found = now.txns.get(&app_id(job)).copied();
                    if found != expected {
                        return Err(error.into());
                    }
                    expected = found;
                }
                Err(error) => {
                    // Whatever was said, the table knows.
                    let now = known.reload().await?;
                    if now.txns.get(&app_id(job)) == Some(&run) && expected != Some(run) {
                        return Ok(known.clone());
                    }
                    return Err(error.into());
                }
            }
        }
        Err(Error::conflict(format!("others keep committing to the table `{}`", table.into))
            .with_hint("nothing was imported: run it again")
            .into())
    }

    /// Lets a running process show the table at once; it looks by itself, too.
    async fn tell_who_runs(&self) {
        let told = async {
            if let Some(door) = Door::find(self.config).await? {
                door.imported().await?;
            }
            anyhow::Ok(())
        };
        if let Err(error) = told.await {
            tracing::warn!(error = format!("{error:#}"), "the running process shows the rows a little later");
        }
    }
}

/// The columns of a table that has `stored` and gets those of `found`: new ones come last, and a type stays what it is.
fn joined(found: &Columns, stored: &Columns) -> tarn_model::Result<Columns> {
    let mut columns: Vec<Column> = stored.iter().cloned().collect();
    for column in found.iter() {
        match stored.get(&column.name) {
            Some(known) if column.column_type.widens_to(known.column_type) => {}
            Some(known) => {
                return Err(Error::invalid(format!(
                    "column `{}` is {} in the table, and {} in the database",
                    column.name, known.column_type, column.column_type
                ))
                .with_hint(format!(
                    "say `types = \"\\\"{}\\\" {}\"`, or import into another table",
                    column.name, known.column_type
                )));
            }
            None => columns.push(column.clone()),
        }
    }
    Columns::new(columns)
}

/// A hash of a row's bytes, for sums that are compared within this process.
fn hash_of(row: &[u8]) -> u64 {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::default().hash_one(row)
}

/// Counts rows as they come.
pub(super) fn count(rows: &AtomicU64, more: usize) {
    rows.fetch_add(more as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_keeps_its_columns_and_gets_new_ones_at_its_end() {
        let columns = |text: &str| Columns::parse(text).expect("columns");
        let stored = columns("id BIGINT, name VARCHAR");
        assert_eq!(
            joined(&columns("more DATE, id INT"), &stored).expect("columns"),
            columns("id BIGINT, name VARCHAR, more DATE")
        );
        let error = joined(&columns("id VARCHAR"), &stored).expect_err("another type");
        assert!(error.to_string().contains("`id` is BIGINT in the table, and VARCHAR"), "{error}");
    }
}
