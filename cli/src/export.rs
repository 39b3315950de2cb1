//! `tarn export`: the rows of a statement into a table of a database.
//!
//! The exporter blocks, so it has threads of its own; rows come to them through a channel that holds a few batches.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use arrow::array::RecordBatch;
use futures::TryStreamExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tarn_ingest::{Exporter, Finished, Order, Prepared};
use tarn_model::OffsetVector;
use tarn_model::config::{Config, Secret};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinSet, spawn_blocking};

use crate::args::{ExportArgs, Report};
use crate::door::Door;
use crate::failure::Usage;
use crate::imports;
use crate::render::out;
use crate::rest;
use crate::rows::Rows;
use crate::sql::{Sql, split};
use crate::status::write_json;

/// Where the password of an address is.
const PASSWORD: &str = "TARN_EXPORT_PASSWORD";
/// Batches that wait for a writer.
const WAITING: usize = 2;

pub(crate) async fn export(args: ExportArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    let (statement, is_table) = statement(&args.what)?;
    let order = Order {
        into: args.into.clone(),
        mode: args.mode.into(),
        keys: args.key.clone(),
        job: args.job.clone().unwrap_or_else(|| args.into.clone()),
        run: args.run.clone(),
        statement: args.what.trim().to_owned(),
        strict: args.strict,
        rejects: args.rejects.clone(),
        max_rejects: args.max_rejects,
    };
    if let Err(error) = order.check() {
        let usage = Usage::new(error.to_string());
        return Err(error.hint().into_iter().fold(usage, Usage::with_hint).into());
    }
    let start = Instant::now();
    let exporter = opened(&config, &args, order).await?;
    if let Some(done) = exporter.done()? {
        return told(&args, &done, start);
    }
    let as_of = match (exporter.begun_at()?, &args.as_of) {
        // What was begun goes on with the rows of then.
        (Some(cut), _) if !cut.is_empty() => {
            Some(cut.parse::<OffsetVector>().context("the run's cut is none")?)
        }
        (_, as_of) => as_of.clone(),
    };
    // Before anything that answers looks at them: so what it sees is never older, and an import that comes meanwhile makes the next
    // export another one.
    let imports = imports::versions(&config).await?;
    if !imports.is_empty()
        && let Some(door) = Door::find(&config).await?
    {
        door.imported().await?;
    }
    let sql = if args.lake { lake_only(&config).await? } else { Sql::open(&config).await? };
    let rows = sql.query(&statement, as_of.as_ref()).await?;
    let finished = moved(&args, exporter, rows, is_table, imports).await?;
    told(&args, &finished, start)
}

async fn opened(config: &Config, args: &ExportArgs, order: Order) -> anyhow::Result<Exporter> {
    let password = std::env::var(PASSWORD).ok().filter(|password| !password.is_empty()).map(Secret::new);
    let (config, to) = (config.clone(), args.to.clone());
    Ok(spawn_blocking(move || Exporter::open(&config, &to, password, order)).await??)
}

/// The lake at rest, for as long as it takes.
async fn lake_only(config: &Config) -> anyhow::Result<Sql> {
    let mut patient = config.clone();
    patient.serving.statement_timeout = tarn_model::config::Span::from_days(7);
    patient.serving.statement_rows = None;
    Ok(Sql::AtRest(rest::engine(&patient).await?))
}

/// The statement of what was named, and whether that is a table.
fn statement(what: &str) -> anyhow::Result<(String, bool)> {
    let statements = split(what);
    let [only] = statements[..] else {
        return Err(Usage::new("an export has one statement")
            .with_hint("name a table or a view, or write a query: `tarn export \"SELECT …\" --to … --into …`")
            .into());
    };
    let is_table = !only.contains(char::is_whitespace) || only.starts_with('"');
    Ok((if is_table { format!("SELECT * FROM {only}") } else { only.to_owned() }, is_table))
}

/// Compares the columns, and brings all rows into the target.
async fn moved(
    args: &ExportArgs,
    mut exporter: Exporter,
    rows: Rows,
    is_table: bool,
    imports: String,
) -> anyhow::Result<Finished> {
    let Rows { schema, vector: cut, mut batches } = rows;
    let (mut exporter, prepared) = spawn_blocking(move || {
        let prepared = exporter.prepare(&schema, is_table, &cut, &imports);
        (exporter, prepared)
    })
    .await?;
    match prepared? {
        Prepared::Ready => {}
        Prepared::Done(done) => return Ok(done),
        Prepared::Wrong(problems) => return Err(misfits(args, &problems)),
    }
    let bar = bar(&args.into);
    let (sender, receiver) = mpsc::channel::<RecordBatch>(WAITING);
    let receiver = Arc::new(Mutex::new(receiver));
    let mut stagers = JoinSet::new();
    for _ in 1..args.writers {
        let Some(mut stager) = tokio::task::block_in_place(|| exporter.stager())? else { break };
        let (receiver, bar) = (receiver.clone(), bar.clone());
        stagers.spawn_blocking(move || each(&receiver, &bar, |batch| stager.stage(batch)));
    }
    let (own, own_bar) = (receiver.clone(), bar.clone());
    let main = spawn_blocking(move || {
        let staged = each(&own, &own_bar, |batch| exporter.stage(batch));
        (exporter, staged)
    });
    // Whoever writes holds the other ends: when they are gone, so is the channel.
    drop(receiver);
    let sent = async {
        while let Some(batch) = batches.try_next().await? {
            if batch.num_rows() > 0 && sender.send(batch).await.is_err() {
                break;
            }
        }
        drop(sender);
        anyhow::Ok(())
    }
    .await;
    let (exporter, own) = main.await?;
    let mut staged = own.and(sent);
    while let Some(stager) = stagers.join_next().await {
        staged = staged.and(stager?);
    }
    if let Err(error) = staged {
        spawn_blocking(move || exporter.give_up()).await?;
        bar.finish_and_clear();
        return Err(error);
    }
    bar.set_message(format!("moving into {}", args.into));
    let finished = spawn_blocking(move || exporter.finish()).await?;
    bar.finish_and_clear();
    Ok(finished?)
}

/// Gives each batch that comes to `stage`, until there are no more.
fn each(
    receiver: &Mutex<mpsc::Receiver<RecordBatch>>,
    bar: &ProgressBar,
    mut stage: impl FnMut(&RecordBatch) -> tarn_model::Result<()>,
) -> anyhow::Result<()> {
    loop {
        let next = receiver.blocking_lock().blocking_recv();
        let Some(batch) = next else { return Ok(()) };
        if let Err(error) = stage(&batch) {
            // Nobody is to send more.
            receiver.blocking_lock().close();
            return Err(error.into());
        }
        bar.inc(batch.num_rows() as u64);
    }
}

fn bar(into: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{spinner} {msg}: {human_pos} rows, {per_sec}, {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.set_message(format!("staging for {into}"));
    bar
}

/// Every column that does not fit, then what that means.
fn misfits(args: &ExportArgs, problems: &[String]) -> anyhow::Error {
    for problem in problems {
        eprintln!("{problem}");
    }
    let s = if problems.len() == 1 { "" } else { "s" };
    Usage::new(format!("the columns do not fit `{}`: {} problem{s}", args.into, problems.len()))
        .with_hint("nothing was exported; name, cast and leave out columns in the statement: `SELECT CAST(a AS INT) AS b, … FROM …`")
        .into()
}

fn told(args: &ExportArgs, finished: &Finished, start: Instant) -> anyhow::Result<()> {
    let Finished { run, cut, counts, already, rejects } = finished;
    if args.output == Report::Json {
        return write_json(&json!({
            "job": args.job.as_ref().unwrap_or(&args.into),
            "run": run,
            "into": args.into,
            "cut": cut,
            "already_done_at": already,
            "exported": counts.exported,
            "inserted": counts.inserted,
            "updated": counts.updated,
            "unmatched": counts.unmatched,
            "rejected": counts.rejected,
            "rejects": rejects,
            "seconds": start.elapsed().as_secs_f64(),
        }));
    }
    let mut out = out();
    let what = format!(
        "{} rows exported into {}: {} inserted, {} updated",
        counts.exported, args.into, counts.inserted, counts.updated
    );
    match already {
        Some(at) => writeln!(out, "already done on {at} UTC: {what}")?,
        None => writeln!(out, "{what}")?,
    }
    if counts.unmatched > 0 {
        writeln!(out, "{} rows matched nothing there", counts.unmatched)?;
    }
    if counts.rejected > 0 {
        writeln!(out, "{} rows were rejected", counts.rejected)?;
    }
    if let Some(rejects) = rejects {
        writeln!(out, "they are in {}, with reasons", rejects.display())?;
    }
    if !cut.is_empty() {
        writeln!(out, "cut {cut}")?;
    }
    Ok(())
}
