//! Exports: the rows of a statement into a table of a database, exactly once.
//!
//! *Why a staging table*: rows that are written straight into the target are seen before all of them are there, and a run that breaks
//! off leaves a part of them that nobody can tell from the rest. So rows go to a staging table first, as many transactions as it takes,
//! and from there into the target in one, which marks the run as done too.
//!
//! ```text
//! lock the job ─▶ done already? ─▶ types ─▶ token: staging, table made ─▶ rows ─▶ [ target, token: done ] ─▶ staging table gone
//!                                                                                  one transaction
//! ```
//!
//! *Layout*
//! ```text
//! gives, fitting   what columns give and take: asked before the first row, and of each value
//! staging          rows of a batch, and those that do not fit
//! moving           from the staging table into the target; rows that the database refuses
//! tokens           `tarn_exports`
//! session          what is asked of a database;  postgres, mysql, sqlite
//! ```
//!
//! *Invariants*: an export is known by its job and its run, and a run is done once. The run of an export that nobody named is the cut at
//! which its statement was asked.
//!
//! *Failure*: killed at any moment, an export has done nothing or all; run again it finds out which. Its staging table is dropped by the
//! job's next run.
//!
//! *Not here*: the rows, which whoever asks for them brings as they stream.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;
use serde_json::json;
use tarn_model::columns::{OFFSET, PARTITION, REST, TIMESTAMP, TOPIC};
use tarn_model::config::{Config, DatabaseConfig, Secret, SourceKind};
use tarn_model::{Error, Result, fault};

use crate::database::Kind;

mod fitting;
mod gives;
mod moving;
mod mysql;
mod postgres;
mod session;
mod sqlite;
mod staging;
mod tokens;

use gives::Gives;
use moving::Mover;
pub(crate) use session::Refused;
use session::{Plan, PlanColumn, Session, Target, TargetColumn};
use staging::{Rejects, Shared};
use tokens::Token;

/// How long somebody else's export of the same job, or a writer of SQLite, is waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Longest name of a job and of a run.
const MOST_NAME: usize = 190;

/// What happens to the target's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Rows are added.
    Insert,
    /// Rows with the same key get the new values; others are left out, and counted.
    Update,
    /// Rows with the same key get the new values; others are added.
    Upsert,
}

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Order {
    /// The table of the target.
    pub into: String,
    /// What happens to its rows.
    pub mode: Mode,
    /// Columns by which rows are found.
    pub keys: Vec<String>,
    /// What the export is known by.
    pub job: String,
    /// Which of its runs this is; `None` for that of the cut.
    pub run: Option<String>,
    /// The statement, as it was written.
    pub statement: String,
    /// An update that matches nothing ends it.
    pub strict: bool,
    /// Where rows go that the target does not take; `None` when there must be none.
    pub rejects: Option<PathBuf>,
    /// Most such rows.
    pub max_rejects: u64,
}

impl Order {
    /// What is wrong with it, before any database is asked.
    pub fn check(&self) -> Result<()> {
        if self.mode == Mode::Insert && !self.keys.is_empty() {
            return Err(Error::invalid("rows that are inserted are not found by a key")
                .with_hint("leave `--key` out, or say `--mode upsert` or `--mode update`"));
        }
        if self.mode != Mode::Insert && self.keys.is_empty() {
            return Err(Error::invalid("there is no key to find rows by")
                .with_hint("name its columns: `--key id` or `--key order_id,line`"));
        }
        for (what, name) in [("job", Some(&self.job)), ("run", self.run.as_ref())] {
            let Some(name) = name else { continue };
            let right =
                !name.is_empty() && name.chars().count() <= MOST_NAME && !name.chars().any(char::is_control);
            if !right || (what == "run" && name.starts_with("cut-")) {
                return Err(Error::invalid(format!("`{name}` is no name of a {what}")).with_hint(format!(
                    "1 to {MOST_NAME} characters; names of runs do not begin with `cut-`"
                )));
            }
        }
        Ok(())
    }

    /// What tells this export from another one of the same job.
    fn fingerprint(&self) -> String {
        let mode = format!("{:?}", self.mode);
        let said = json!([self.into, mode, self.keys, self.statement]).to_string();
        format!("{:032x}", xxhash_rust::xxh3::xxh3_128(said.as_bytes()))
    }
}

/// Numbers of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that came into the target: inserted or updated.
    pub exported: u64,
    /// Those that are new there.
    pub inserted: u64,
    /// Those that found a row.
    pub updated: u64,
    /// Those of an update that found none.
    pub unmatched: u64,
    /// Those that the target does not take.
    pub rejected: u64,
}

/// A run that is done.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Which run.
    pub run: String,
    /// The vector of offsets at which the statement was asked.
    pub cut: String,
    /// Numbers of rows.
    pub counts: Counts,
    /// When it was done, where that was before.
    pub already: Option<String>,
    /// The file with the rows that were rejected or matched nothing.
    pub rejects: Option<PathBuf>,
}

/// What is known once the statement's columns are.
#[derive(Debug)]
pub enum Prepared {
    /// Rows are awaited.
    Ready,
    /// There is nothing left to do.
    Done(Finished),
    /// What does not fit, column by column.
    Wrong(Vec<String>),
}

/// The database of `to`: a `database` source of the config by its name, or an address without a password, which is `password`.
fn kind_of(config: &Config, to: &str, password: Option<Secret>) -> Result<Kind> {
    let schemes = ["sqlite:", "postgres://", "postgresql://", "mysql://", "mariadb://"];
    if schemes.iter().any(|scheme| to.starts_with(scheme)) {
        if url::Url::parse(to).is_ok_and(|url| url.password().is_some()) {
            return Err(Error::invalid("a password on the command line is seen by everybody on this machine")
                .with_hint("put it into the environment as TARN_EXPORT_PASSWORD, or name a `database` source of the config"));
        }
        let mut said = json!({"url": to});
        if let Some(password) = password {
            said["password"] = json!(password.reveal());
        }
        let database: DatabaseConfig =
            serde_json::from_value(said).map_err(|_| Error::invalid("`--to` is no address of a database"))?;
        return Kind::of(&database);
    }
    let sources = config.sources.iter().filter_map(|source| match &source.kind {
        SourceKind::Database(database) => Some((source.name.as_str(), database)),
        _ => None,
    });
    let found: Vec<(&str, &DatabaseConfig)> = sources.collect();
    if let Some((_, database)) = found.iter().find(|(name, _)| *name == to) {
        return Kind::of(database);
    }
    let known: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
    let sources = match known.is_empty() {
        true => String::new(),
        false => format!("; `database` sources of the config: {}", known.join(", ")),
    };
    // A password may stand in what looks like an address.
    let shown = if to.contains("://") || to.contains('@') { "the address" } else { &format!("`{to}`") };
    Err(Error::invalid(format!("{shown} is no database that is known")).with_hint(format!(
        "write an address, such as `postgres://USER@HOST/DATABASE` or `sqlite:PATH`{sources}"
    )))
}

fn open(kind: &Kind) -> Result<Box<dyn Session>> {
    Ok(match kind {
        Kind::Sqlite(path) => Box::new(sqlite::Sqlite::open(path)?),
        Kind::Postgres(address) => Box::new(postgres::Postgres::open(address)?),
        Kind::Mysql(address) => Box::new(mysql::Mysql::open(address)?),
    })
}

/// An export under way. It blocks.
pub struct Exporter {
    kind: Kind,
    session: Box<dyn Session>,
    order: Order,
    target: Target,
    tokens: String,
    known: Vec<Token>,
    running: Option<Running>,
}

/// What an export has once its rows are awaited.
struct Running {
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    run: String,
    cut: String,
}

/// One more connection that brings rows into the staging table. It blocks.
pub struct Stager {
    session: Box<dyn Session>,
    plan: Arc<Plan>,
    shared: Arc<Shared>,
}

impl Stager {
    /// Stages rows.
    pub fn stage(&mut self, batch: &RecordBatch) -> Result<()> {
        stage(&mut *self.session, &self.plan, &self.shared, batch)
    }
}

fn stage(session: &mut dyn Session, plan: &Plan, shared: &Shared, batch: &RecordBatch) -> Result<()> {
    fault::point("export.stage.before")?;
    staging::stage(plan, shared, batch, |rows| session.stage(plan, rows))?;
    fault::point("export.stage.after")
}

impl Exporter {
    /// Connects to `to`, waits for whoever exports the same job, and looks what was exported before.
    pub fn open(config: &Config, to: &str, password: Option<Secret>, order: Order) -> Result<Exporter> {
        let kind = kind_of(config, to, password)?;
        let mut session = open(&kind)?;
        let target = session.describe(&order.into)?;
        if !session.lock(&format!("{}{}", target.place, order.job))? {
            return Err(Error::unavailable(format!("somebody else exports the job `{}`", order.job))
                .with_hint("wait for its end; another export needs a `--job` of its own"));
        }
        let tokens = format!("{}{}", target.place, tokens::TABLE);
        tokens::create(&mut *session, &tokens)?;
        let known = tokens::of_job(&mut *session, &tokens, &order.job)?;
        Ok(Exporter { kind, session, order, target, tokens, known, running: None })
    }

    /// The run, where it has a name and is done.
    pub fn done(&self) -> Result<Option<Finished>> {
        Ok(self.named()?.filter(|token| token.done).map(Token::finished))
    }

    /// The cut at which the run was begun, where it has a name: the rows are to be those of then.
    pub fn begun_at(&self) -> Result<Option<&str>> {
        Ok(self.named()?.map(|token| token.cut.as_str()))
    }

    fn named(&self) -> Result<Option<&Token>> {
        let Some(token) = self.known.iter().find(|token| Some(&token.run) == self.order.run.as_ref()) else {
            return Ok(None);
        };
        if token.statement != self.order.fingerprint() {
            return Err(Error::invalid(format!("the run `{}` was another export", token.run))
                .with_hint("its statement, table, mode and key stay as they are; give this one another `--run` or `--job`"));
        }
        Ok(Some(token))
    }

    /// Compares the statement's columns with the target's, and begins. Of a whole table, columns of Tarn's own that the target has not
    /// are left out.
    ///
    /// `imports` is what no cut tells: the versions of import tables.
    pub fn prepare(
        &mut self,
        schema: &SchemaRef,
        is_table: bool,
        cut: &str,
        imports: &str,
    ) -> Result<Prepared> {
        let statement = self.order.fingerprint();
        let run = match &self.order.run {
            Some(run) => run.clone(),
            None => Token::unnamed(&format!("{statement} {cut}{imports}")),
        };
        if let Some(done) = self.known.iter().find(|token| token.done && token.run == run) {
            return Ok(Prepared::Done(done.finished()));
        }
        if self.order.mode == Mode::Insert
            && self.order.run.is_none()
            && let Some(done) = self
                .known
                .iter()
                .find(|token| token.done && token.statement == statement && !token.is_named())
        {
            let message = format!(
                "`{}` was exported on {} UTC at another cut: the rows of then would be inserted once more",
                self.order.job, done.done_at
            );
            return Err(Error::invalid(message).with_hint(
                "`--run NAME` says that this is another run; `--mode upsert --key …` brings the target up to date",
            ));
        }
        let (columns, problems) = self.columns(schema, is_table);
        if !problems.is_empty() {
            return Ok(Prepared::Wrong(problems));
        }
        let staging = format!("tarn_staging_{:016x}", xxhash_rust::xxh3::xxh3_64(self.order.job.as_bytes()));
        let plan = Plan {
            staging: format!("{}{}", self.target.staging_place, self.session.words().quoted(&staging)),
            tokens: self.tokens.clone(),
            zero_bytes: self.session.words().zero_bytes,
            target: self.target.clone(),
            columns,
        };
        let rejects =
            Rejects::new(&self.order.job, &run, self.order.rejects.as_deref(), self.order.max_rejects)?;
        let token = Token {
            run: run.clone(),
            done: false,
            cut: cut.to_owned(),
            statement,
            counts: Counts::default(),
            done_at: String::new(),
        };
        fault::point("export.begin.before")?;
        let done = self.known.iter().filter(|token| token.done).count();
        tokens::begin(&mut *self.session, &plan, &self.order.job, &token, done)?;
        fault::point("export.begin.after")?;
        let shared = Shared { staged: AtomicU64::new(0), rejects: Mutex::new(rejects) };
        self.running =
            Some(Running { plan: Arc::new(plan), shared: Arc::new(shared), run, cut: cut.to_owned() });
        Ok(Prepared::Ready)
    }

    /// Where each column goes, and what does not fit.
    fn columns(&self, schema: &SchemaRef, is_table: bool) -> (Vec<PlanColumn>, Vec<String>) {
        let (mut columns, mut problems) = (Vec::<PlanColumn>::new(), Vec::new());
        let (into, words) = (&self.order.into, self.session.words());
        let is_key = |column: &TargetColumn| self.order.keys.iter().any(|key| is_called(column, key));
        for (at, field) in schema.fields().iter().enumerate() {
            let name = field.name();
            let Some(column) = self.target_column(name) else {
                if !(is_table && is_system(name)) {
                    let known: Vec<&str> = self.target.columns.iter().map(|c| c.name.as_str()).collect();
                    problems
                        .push(format!("{name}: `{into}` has no such column; it has {}", known.join(", ")));
                }
                continue;
            };
            let mut wrong = |what: String| problems.push(format!("{name}: {what}"));
            if columns.iter().any(|other| other.quoted == words.quoted(&column.name)) {
                wrong("the statement gives this column twice".into());
                continue;
            }
            if column.generated {
                wrong("the database gives this column its values: leave it out".into());
                continue;
            }
            let Some(gives) = Gives::of(field.data_type()) else {
                wrong(format!("no database takes `{}`: cast it in the statement", field.data_type()));
                continue;
            };
            if let Err(what) = fitting::fits(gives, column.takes) {
                let declared = if column.declared.is_empty() { "untyped" } else { &column.declared };
                wrong(format!("{gives} does not go into `{declared}`: {what}"));
                continue;
            }
            if let Some(why) = column.no_key.as_ref().filter(|_| is_key(column)) {
                wrong(format!("it cannot be a key here: {why}"));
                continue;
            }
            let staged = format!("c{}", columns.len());
            columns.push(PlanColumn {
                at,
                name: column.name.clone(),
                quoted: words.quoted(&column.name),
                gives,
                takes: column.takes,
                nullable: column.nullable,
                is_key: is_key(column),
                value: column.from_staged.replace("{}", &format!("s.{staged}")),
                staged_as: self.staged_as(gives, column),
                staged,
            });
        }
        self.whole(&columns, &mut problems);
        (columns, problems)
    }

    fn staged_as(&self, gives: Gives, column: &TargetColumn) -> String {
        let staged = self.session.staged_type(gives);
        if gives == Gives::Text { format!("{staged}{}", column.staged_as) } else { staged }
    }

    /// What is wrong with the columns as a whole.
    fn whole(&self, columns: &[PlanColumn], problems: &mut Vec<String>) {
        let into = &self.order.into;
        let given = |name: &str| columns.iter().any(|column| column.name == name);
        for key in &self.order.keys {
            match self.target_column(key) {
                None => problems.push(format!("{key}: `{into}` has no such column to be a key")),
                Some(column) if !given(&column.name) => {
                    problems.push(format!("{key}: the statement does not give this key"));
                }
                Some(_) => {}
            }
        }
        let is_key = |name: &String| columns.iter().any(|column| column.is_key && column.name == *name);
        let one_row = self.target.unique.iter().any(|unique| unique.iter().all(is_key));
        if self.order.mode == Mode::Upsert && problems.is_empty() && !one_row {
            problems.push(format!(
                "{}: `{into}` has no unique index on the key, so it could have several rows of it",
                self.order.keys.join(", ")
            ));
        }
        if self.order.mode == Mode::Update
            && problems.is_empty()
            && columns.iter().all(|column| column.is_key)
        {
            problems.push(format!("{}: there is nothing but the key to update", self.order.keys.join(", ")));
        }
        if self.order.mode != Mode::Update {
            for column in &self.target.columns {
                if !column.nullable && !column.has_default && !column.generated && !given(&column.name) {
                    problems.push(format!(
                        "{}: `{into}` takes no row without it, and the statement does not give it",
                        column.name
                    ));
                }
            }
        }
    }

    fn target_column(&self, name: &str) -> Option<&TargetColumn> {
        let exact = self.target.columns.iter().find(|column| column.name == name);
        exact.or_else(|| {
            let mut alike = self.target.columns.iter().filter(|column| is_called(column, name));
            alike.next().filter(|_| alike.next().is_none())
        })
    }

    /// One more connection for rows; `None` where the database has one writer.
    pub fn stager(&self) -> Result<Option<Stager>> {
        let running = self.running()?;
        if matches!(self.kind, Kind::Sqlite(_)) {
            return Ok(None);
        }
        let session = open(&self.kind)?;
        Ok(Some(Stager { session, plan: running.plan.clone(), shared: running.shared.clone() }))
    }

    /// Stages rows.
    pub fn stage(&mut self, batch: &RecordBatch) -> Result<()> {
        let Running { plan, shared, .. } = self.running()?;
        let (plan, shared) = (plan.clone(), shared.clone());
        stage(&mut *self.session, &plan, &shared, batch)
    }

    /// Brings what is staged into the target.
    pub fn finish(mut self) -> Result<Finished> {
        let Running { plan, shared, run, cut } =
            self.running.take().ok_or_else(|| Error::internal("the export was not prepared"))?;
        let mut rejects = shared.rejects.lock();
        let mut mover = Mover {
            session: &mut *self.session,
            plan: &plan,
            order: &self.order,
            run: &run,
            staged: shared.staged.load(Ordering::SeqCst),
            rejects: &mut rejects,
            kept: None,
        };
        let moved = mover.run();
        let rejects = mover.kept;
        match moved {
            Ok(Some(counts)) => Ok(Finished { run, cut, counts, already: None, rejects }),
            Ok(None) => {
                let known = tokens::of_job(&mut *self.session, &self.tokens, &self.order.job)?;
                let done = known.iter().find(|token| token.run == run && token.done).map(Token::finished);
                done.ok_or_else(|| Error::internal("the export is done, and is not"))
            }
            Err(error) => {
                self.drop_staging(&plan);
                Err(error)
            }
        }
    }

    /// Gives up what was begun: nothing of it is in the target.
    pub fn give_up(mut self) {
        if let Some(running) = self.running.take() {
            self.drop_staging(&running.plan);
        }
    }

    fn drop_staging(&mut self, plan: &Plan) {
        let drop = format!("DROP TABLE IF EXISTS {}", plan.staging);
        if let Err(error) = self.session.run(&drop, "drop the staging table") {
            tracing::debug!(%error, "the staging table is left to the next run");
        }
    }

    fn running(&self) -> Result<&Running> {
        self.running.as_ref().ok_or_else(|| Error::internal("the export was not prepared"))
    }
}

fn is_called(column: &TargetColumn, name: &str) -> bool {
    column.name == name || column.name.to_lowercase() == name.to_lowercase()
}

/// Whether Tarn gives every table this column.
fn is_system(name: &str) -> bool {
    [TOPIC, PARTITION, OFFSET, TIMESTAMP, REST].contains(&name)
}

/// Names by what stands before them.
fn grouped(rows: Vec<Vec<Option<String>>>) -> Vec<Vec<String>> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for row in rows {
        let [Some(group), Some(name)] = row.as_slice() else { continue };
        match groups.last_mut() {
            Some((last, names)) if last == group => names.push(name.clone()),
            _ => groups.push((group.clone(), vec![name.clone()])),
        }
    }
    groups.into_iter().map(|(_, names)| names).collect()
}

fn first(rows: &[Vec<Option<String>>]) -> Option<&str> {
    rows.first()?.first()?.as_deref()
}
