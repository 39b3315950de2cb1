//! `tarn_exports`: the table of the target database that knows what was exported.
//!
//! | column | |
//! |---|---|
//! | `job`, `run` | what an export is known by |
//! | `state` | `staging`, then `done`, in the transaction that brings the rows |
//! | `cut` | the vector of offsets at which the statement was asked |
//! | `statement` | what was exported, as a hash: the same run cannot become another export |
//! | `exported`, `inserted`, `updated`, `unmatched`, `rejected` | numbers of rows, once it is done |
//! | `begun_at`, `done_at` | UTC |

use chrono::DateTime;
use tarn_model::{Error, Result, clock};

use super::session::{Plan, Session};
use super::{Counts, Finished};

/// Name of the table.
pub(super) const TABLE: &str = "tarn_exports";
/// What runs are called that nobody gave a name: the rest is a hash of their cut.
const UNNAMED: &str = "cut-";

/// A row of the table.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) run: String,
    pub(super) done: bool,
    pub(super) cut: String,
    pub(super) statement: String,
    pub(super) counts: Counts,
    pub(super) done_at: String,
}

impl Token {
    /// The run of a cut that nobody gave a name.
    pub(super) fn unnamed(cut: &str) -> String {
        format!("{UNNAMED}{:032x}", xxhash_rust::xxh3::xxh3_128(cut.as_bytes()))
    }

    pub(super) fn is_named(&self) -> bool {
        !self.run.starts_with(UNNAMED)
    }

    pub(super) fn finished(&self) -> Finished {
        Finished {
            run: self.run.clone(),
            cut: self.cut.clone(),
            counts: self.counts,
            already: Some(self.done_at.clone()),
            rejects: None,
        }
    }
}

/// Makes the table if it is not there.
pub(super) fn create(session: &mut dyn Session, tokens: &str) -> Result<()> {
    let words = session.words();
    let (name, long, number) = (words.name, words.long, words.number);
    session.run(
        &format!(
            "CREATE TABLE IF NOT EXISTS {tokens} (job {name} NOT NULL, run {name} NOT NULL, state {name} NOT NULL, cut {long}, \
             statement {name}, exported {number}, inserted {number}, updated {number}, unmatched {number}, rejected {number}, \
             begun_at {name}, done_at {name}, PRIMARY KEY (job, run))"
        ),
        "create the table `tarn_exports`",
    )?;
    Ok(())
}

/// The rows of a job.
pub(super) fn of_job(session: &mut dyn Session, tokens: &str, job: &str) -> Result<Vec<Token>> {
    let job = session.words().literal(job);
    let rows = session.query(
        &format!(
            "SELECT run, state, cut, statement, exported, inserted, updated, unmatched, rejected, done_at FROM {tokens} WHERE job = {job}"
        ),
        "read `tarn_exports`",
    )?;
    Ok(rows.into_iter().map(|row| token(&row)).collect())
}

fn token(row: &[Option<String>]) -> Token {
    let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
    let number = |at: usize| text(at).parse().unwrap_or(0);
    Token {
        run: text(0),
        done: text(1) == "done",
        cut: text(2),
        statement: text(3),
        counts: Counts {
            exported: number(4),
            inserted: number(5),
            updated: number(6),
            unmatched: number(7),
            rejected: number(8),
        },
        done_at: text(9),
    }
}

/// Says that a run has begun, and makes its staging table; that of a run that died goes.
///
/// `done` is how many runs of the job were known to be done: who has waited here for another process knows too little.
pub(super) fn begin(
    session: &mut dyn Session,
    plan: &Plan,
    job: &str,
    token: &Token,
    done: usize,
) -> Result<()> {
    let words = session.words();
    let doing = "begin the export";
    let columns = plan.columns.iter().map(|column| format!(", {} {}", column.staged, column.staged_as));
    let create = format!(
        "{} {} (tarn_row {} PRIMARY KEY{})",
        words.create_staging,
        plan.staging,
        words.number,
        columns.collect::<String>()
    );
    let drop = format!("DROP TABLE IF EXISTS {}", plan.staging);
    if !words.transactional_tables {
        session.run(&drop, doing)?;
        session.run(&create, "create the staging table")?;
    }
    session.run(words.begin, doing)?;
    let now_done = of_job(session, &plan.tokens, job)?.iter().filter(|token| token.done).count();
    if now_done != done {
        session.run("ROLLBACK", doing)?;
        return Err(Error::unavailable(format!("another process has exported the job `{job}` meanwhile"))
            .with_hint("run it again"));
    }
    if words.transactional_tables {
        session.run(&drop, doing)?;
        session.run(&create, "create the staging table")?;
    }
    let (job, run) = (words.literal(job), words.literal(&token.run));
    // Of runs without names that died, nobody will ask for the cut.
    session.run(
        &format!(
            "DELETE FROM {} WHERE job = {job} AND state = 'staging' AND (run = {run} OR run LIKE '{UNNAMED}%')",
            plan.tokens
        ),
        doing,
    )?;
    let (cut, statement) = (words.literal(&token.cut), words.literal(&token.statement));
    session.run(
        &format!(
            "INSERT INTO {} (job, run, state, cut, statement, begun_at) VALUES ({job}, {run}, 'staging', {cut}, {statement}, {})",
            plan.tokens,
            words.literal(&now())
        ),
        doing,
    )?;
    session.run("COMMIT", doing)?;
    Ok(())
}

/// Whether a run is done, in the transaction that would do it; nobody else does it meanwhile.
pub(super) fn is_done(session: &mut dyn Session, plan: &Plan, job: &str, run: &str) -> Result<bool> {
    let words = session.words();
    let sql = format!(
        "SELECT state FROM {} WHERE job = {} AND run = {}{}",
        plan.tokens,
        words.literal(job),
        words.literal(run),
        words.for_update
    );
    let rows = session.query(&sql, "look whether the export is done")?;
    match rows.first().and_then(|row| row.first()).and_then(Option::as_deref) {
        Some("done") => Ok(true),
        Some(_) => Ok(false),
        None => Err(Error::conflict("the export's row in `tarn_exports` is gone")
            .with_hint("somebody else deleted it, or exports the same job: run it again")),
    }
}

/// Says that a run is done, in the transaction that does it.
pub(super) fn done(
    session: &mut dyn Session,
    plan: &Plan,
    job: &str,
    run: &str,
    counts: &Counts,
) -> Result<()> {
    let words = session.words();
    let Counts { exported, inserted, updated, unmatched, rejected } = counts;
    let sql = format!(
        "UPDATE {} SET state = 'done', exported = {exported}, inserted = {inserted}, updated = {updated}, unmatched = {unmatched}, \
         rejected = {rejected}, done_at = {} WHERE job = {} AND run = {}",
        plan.tokens,
        words.literal(&now()),
        words.literal(job),
        words.literal(run)
    );
    match session.run(&sql, "mark the export as done")? {
        1 => Ok(()),
        _ => Err(Error::conflict("the export's row in `tarn_exports` is gone").with_hint("run it again")),
    }
}

fn now() -> String {
    let now = DateTime::from_timestamp_millis(clock::system().now_ms()).unwrap_or_default();
    now.format("%Y-%m-%d %H:%M:%S").to_string()
}
