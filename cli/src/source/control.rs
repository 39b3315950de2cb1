//! `tarn source run|pause|resume|history`, and the routes by which they reach a running process.
//!
//! `run` is asked for in one request and its end looked for in the history in others: a run takes as long as it takes.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use arrow::temporal_conversions::timestamp_ms_to_datetime;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tarn_ingest::{Collectors, has_runs, history as runs_of, is_paused, set_paused};
use tarn_model::clock::{self, Clock as _, SystemClock};
use tarn_model::config::Config;
use tarn_model::status::RunStatus;
use tarn_model::{Error, Kind, Result};

use super::known;
use crate::args::Report;
use crate::door::Door;
use crate::render::{Grid, bytes, number, out, seconds};
use crate::rest;
use crate::status::write_json;

/// Time between two looks whether a run is done.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Characters of an error on the terminal; `--output json` has it whole.
const LONGEST_ERROR: usize = 60;

/// What the routes work on.
struct Desk {
    config: Config,
    collectors: Arc<Collectors>,
}

/// `POST /v1/source/{name}/{run|pause|resume}` and `GET /v1/source/{name}/history`.
pub(crate) fn router(config: Config, collectors: Arc<Collectors>) -> Router {
    Router::new()
        .route("/v1/source/{name}/history", get(history_of))
        .route("/v1/source/{name}/{action}", post(act))
        .with_state(Arc::new(Desk { config, collectors }))
}

/// An error as `{"error": …, "hint": …}`.
struct Refusal(Error);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.kind() {
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Conflict | Kind::Fenced => StatusCode::CONFLICT,
            Kind::Corrupt | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(json!({ "error": self.0.chain(), "hint": self.0.hint() }))).into_response()
    }
}

async fn act(
    State(desk): State<Arc<Desk>>,
    Path((name, action)): Path<(String, String)>,
) -> std::result::Result<Json<Value>, Refusal> {
    // Whoever asked may go away; what was begun is finished.
    let doing = tokio::spawn(async move { desk.act(&name, &action).await });
    match doing.await {
        Ok(done) => done.map(Json).map_err(Refusal),
        Err(error) => Err(Refusal(Error::internal("the action broke off").with_source(error))),
    }
}

async fn history_of(
    State(desk): State<Arc<Desk>>,
    Path(name): Path<String>,
) -> std::result::Result<Json<Vec<RunStatus>>, Refusal> {
    desk.collectors.history(&desk.config, &name).map(Json).map_err(Refusal)
}

impl Desk {
    async fn act(&self, name: &str, action: &str) -> Result<Value> {
        Ok(match action {
            "run" => json!({ "run": self.collectors.run_now(&self.config, name)? }),
            "pause" => json!({ "paused": true, "at_rest": self.collectors.pause(name).await? }),
            "resume" => {
                self.collectors.resume(name).await?;
                json!({ "paused": false })
            }
            _ => {
                return Err(Error::invalid(format!("there is no action `{action}`"))
                    .with_hint("actions: run, pause, resume"));
            }
        })
    }
}

/// Has a source run now, and waits for the end of that run.
pub(super) async fn run(config: &Config, name: &str, wait: bool, output: Report) -> anyhow::Result<()> {
    known(config, name)?;
    has_runs(config, name)?;
    let Some(door) = Door::find(config).await? else {
        return Err(Error::unavailable("nothing runs on this config")
            .with_hint("start it with `tarn run`; `tarn run --drain` runs every source once and ends")
            .into());
    };
    let asked = door.source(name, "run").await?;
    let run = asked["run"].as_u64().unwrap_or(0);
    if !wait {
        return match output {
            Report::Json => write_json(&json!({ "run": run })),
            Report::Table => Ok(writeln!(out(), "run {run} of {name} begins")?),
        };
    }
    let mut told = None;
    loop {
        let runs = door.source_history(name).await?;
        let found = runs.iter().find(|found| found.number == run);
        match found {
            Some(done) if done.state == "done" => {
                return match output {
                    Report::Json => write_json(done),
                    Report::Table => {
                        let (rows, took) = (number(done.rows), took(done));
                        Ok(writeln!(out(), "run {run} of {name} is done: {rows} rows in {took}")?)
                    }
                };
            }
            Some(failed) if failed.state == "failed" => {
                let why = failed.error.clone().unwrap_or_default();
                return Err(Error::unavailable(format!("run {run} of {name} failed: {why}")).into());
            }
            Some(paused) if paused.state == "interrupted" => {
                return Err(Error::unavailable(format!("run {run} of {name} was interrupted"))
                    .with_hint(format!("`tarn source resume {name}` lets it go on"))
                    .into());
            }
            Some(waiting) if waiting.state == "waiting" && told != waiting.error => {
                let why = waiting.error.as_deref().unwrap_or_default();
                eprintln!("run {run} waits, and is tried again: {why}");
                told.clone_from(&waiting.error);
            }
            None if is_paused_now(&door, name).await? => {
                return Err(Error::unavailable(format!("{name} was paused before run {run} began"))
                    .with_hint(format!("`tarn source resume {name}` lets it go on"))
                    .into());
            }
            _ => {}
        }
        clock::pause(LOOK_EVERY).await;
    }
}

async fn is_paused_now(door: &Door, name: &str) -> anyhow::Result<bool> {
    let status = door.status().await?;
    Ok(status.sources.iter().any(|source| source.name == name && source.state == "paused"))
}

/// Pauses a source, or lets it go on: of a running process, or for the next one.
pub(super) async fn set(config: &Config, name: &str, paused: bool, output: Report) -> anyhow::Result<()> {
    known(config, name)?;
    let mut at_rest = true;
    match Door::find(config).await? {
        Some(door) => {
            let answer = door.source(name, if paused { "pause" } else { "resume" }).await?;
            at_rest = answer["at_rest"].as_bool().unwrap_or(true);
        }
        None => {
            let log = rest::log_or_new(config).await?;
            let done = set_paused(&log, &SystemClock, name, paused).await;
            log.close().await?;
            done?;
        }
    }
    if output == Report::Json {
        return write_json(&json!({ "source": name, "paused": paused, "at_rest": at_rest }));
    }
    let told = match (paused, at_rest) {
        (true, true) => "is paused, until it is resumed",
        (true, false) => "is paused once it has finished what it is at",
        (false, _) => "goes on where it was",
    };
    Ok(writeln!(out(), "{name} {told}")?)
}

/// Shows the last runs of a source, the newest first.
pub(super) async fn history(config: &Config, name: &str, last: usize, output: Report) -> anyhow::Result<()> {
    known(config, name)?;
    has_runs(config, name)?;
    let mut runs = match Door::find(config).await? {
        Some(door) => door.source_history(name).await?,
        None => {
            let log = rest::log(config).await?;
            let runs = runs_of(&log, name, false);
            if is_paused(&log, name)? {
                eprintln!("{name} is paused");
            }
            log.close().await?;
            runs?
        }
    };
    runs.truncate(last);
    if output == Report::Json {
        return write_json(&runs);
    }
    let mut grid =
        Grid::new(&["#run", "began", "#took", "state", "#attempts", "#rows", "#bytes", "reached", "error"]);
    for run in &runs {
        let began = timestamp_ms_to_datetime(run.started_ms);
        let reached: Vec<String> = run.reached.iter().map(|(table, at)| format!("{table} {at}")).collect();
        let reached = if reached.len() == 1 {
            run.reached.values().next().cloned().unwrap_or_default()
        } else {
            reached.join(", ")
        };
        grid.row([
            run.number.to_string(),
            began.map_or_else(|| "-".into(), |began| began.format("%Y-%m-%d %H:%M:%S").to_string()),
            took(run),
            run.state.clone(),
            run.attempts.to_string(),
            number(run.rows),
            bytes(run.bytes),
            if reached.is_empty() { "-".into() } else { short(&reached) },
            run.error.as_deref().map_or_else(|| "-".into(), short),
        ]);
    }
    Ok(write!(out(), "{grid}")?)
}

fn short(text: &str) -> String {
    match text.char_indices().nth(LONGEST_ERROR) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

/// How long a run took, or takes so far.
fn took(run: &RunStatus) -> String {
    let end = run.ended_ms.unwrap_or_else(|| SystemClock.now_ms());
    seconds(end.saturating_sub(run.started_ms).max(0) as f64 / 1000.0)
}
