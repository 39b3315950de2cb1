//! HTTP routes by which `tarn verify` and `tarn table` work on a running process.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use tarn_batch::Which;
use tarn_lake::LakeTable;
use tarn_log::Log;
use tarn_model::{Error, Kind, Result};
use tarn_table::verify::{TableReport, verify};
use tarn_table::{Catalog, OpenTable};

use crate::imports::ImportTables;
use crate::pipeline::Pipeline;
use crate::views::RunningViews;

struct Admin {
    log: Log,
    catalog: Catalog,
    pipeline: Arc<Pipeline>,
    views: Arc<RunningViews>,
    imports: Arc<ImportTables>,
    vacuum_retention: Duration,
}

/// `POST /v1/verify`, `POST /v1/imports/show`, `POST /v1/table/{name}/{action}` and `POST /v1/view/{name}/{action}`.
pub(crate) fn router(
    log: Log,
    catalog: Catalog,
    pipeline: Arc<Pipeline>,
    views: Arc<RunningViews>,
    imports: Arc<ImportTables>,
    vacuum_retention: Duration,
) -> Router {
    let admin = Arc::new(Admin { log, catalog, pipeline, views, imports, vacuum_retention });
    Router::new()
        .route("/v1/verify", post(verify_all))
        .route("/v1/imports/show", post(show_imports))
        .route("/v1/table/{name}/{action}", post(act))
        .route("/v1/view/{name}/{action}", post(act_on_view))
        .with_state(admin)
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
        let body = serde_json::json!({ "error": self.0.chain(), "hint": self.0.hint() });
        (status, Json(body)).into_response()
    }
}

async fn verify_all(State(admin): State<Arc<Admin>>) -> std::result::Result<Json<Vec<TableReport>>, Refusal> {
    let mut reports = Vec::new();
    for table in admin.pipeline.tables() {
        let report =
            verify(&admin.log, admin.catalog.lake(), &table.topic.name, &table.config.name, &table.format);
        reports.push(report.await.map_err(Refusal)?);
    }
    reports.extend(admin.imports.verify().await.map_err(Refusal)?);
    Ok(Json(reports))
}

/// Shows what another process has imported.
async fn show_imports(
    State(admin): State<Arc<Admin>>,
) -> std::result::Result<Json<serde_json::Value>, Refusal> {
    admin.imports.look().await.map_err(Refusal)?;
    Ok(Json(serde_json::json!({ "shown": true })))
}

/// Options of an action on a view, in the query.
#[derive(Debug, Default, Deserialize)]
struct ViewOptions {
    /// Whether the answer comes once the new build serves (it does), or at once.
    wait: Option<bool>,
    /// The build that is to serve.
    to: Option<u32>,
    /// The builds that are to go: `2,3`, or `old`.
    builds: Option<String>,
}

async fn act_on_view(
    State(admin): State<Arc<Admin>>,
    Path((name, action)): Path<(String, String)>,
    Query(options): Query<ViewOptions>,
) -> std::result::Result<Json<serde_json::Value>, Refusal> {
    let wait = options.wait.unwrap_or(true);
    admin.views.check(&name).map_err(Refusal)?;
    // Whoever asked may go away; what was begun is finished.
    let doing = tokio::spawn(async move { admin.act_on_view(&name, &action, options).await });
    if !wait {
        return Ok(Json(serde_json::json!({ "begun": true })));
    }
    match doing.await {
        Ok(done) => done.map(Json).map_err(Refusal),
        Err(error) => Err(Refusal(Error::internal("the action broke off").with_source(error))),
    }
}

/// Options of an action, in the query.
#[derive(Debug, Default, Deserialize)]
struct Options {
    retention: Option<tarn_model::config::Span>,
    dry_run: Option<bool>,
}

async fn act(
    State(admin): State<Arc<Admin>>,
    Path((name, action)): Path<(String, String)>,
    Query(options): Query<Options>,
) -> std::result::Result<Response, Refusal> {
    // Whoever asked may go away; what was begun is finished.
    let done = tokio::spawn(async move { admin.act(&name, &action, options).await }).await;
    match done {
        Ok(Ok(done)) => Ok(Json(done).into_response()),
        Ok(Err(error)) => Err(Refusal(error)),
        Err(error) => Err(Refusal(Error::internal("the action broke off").with_source(error))),
    }
}

impl Admin {
    async fn act_on_view(&self, name: &str, action: &str, options: ViewOptions) -> Result<serde_json::Value> {
        let owner = self.views.owner(name)?;
        Ok(match action {
            "rebuild" => serde_json::json!({ "version": owner.rebuild().await? }),
            "rollback" => serde_json::json!({ "version": owner.roll_back(options.to).await? }),
            "drop-builds" => {
                let which = which(options.builds.as_deref().unwrap_or_default())?;
                serde_json::json!({ "dropped": owner.drop_builds(which).await? })
            }
            _ => {
                return Err(Error::invalid(format!("there is no action `{action}`"))
                    .with_hint("actions: rebuild, rollback, drop-builds"));
            }
        })
    }

    async fn act(&self, name: &str, action: &str, options: Options) -> Result<serde_json::Value> {
        if let Some(table) = self.imports.get(name).await {
            let report = self.upkeep(&table, action, &options).await?;
            self.imports.show(&table)?;
            return Ok(report);
        }
        let tables = self.pipeline.tables();
        let table =
            tables.iter().find(|table| table.config.name == name || table.config.dead_letters_name() == name);
        let table = table.ok_or_else(|| {
            let known: Vec<&str> = tables.iter().map(|table| table.config.name.as_str()).collect();
            Error::invalid(format!("there is no table `{name}` that runs"))
                .with_hint(format!("tables: {}", known.join(", ")))
        })?;
        let lake = if table.config.name == name { &table.lake } else { &table.dead_letters };
        let report = self.upkeep(lake, action, &options).await?;
        self.show(table);
        Ok(report)
    }

    async fn upkeep(&self, lake: &LakeTable, action: &str, options: &Options) -> Result<serde_json::Value> {
        Ok(match action {
            "optimize" => json(&lake.optimize().await?),
            "vacuum" => {
                let retention = options.retention.map_or(self.vacuum_retention, |retention| retention.0);
                json(&lake.vacuum(retention, options.dry_run.unwrap_or(false)).await?)
            }
            "detach" | "adopt" => {
                return Err(Error::unavailable(format!("`{action}` needs the log and the lake at rest"))
                    .with_hint("stop the process first"));
            }
            _ => {
                return Err(Error::invalid(format!("there is no action `{action}`"))
                    .with_hint("actions: optimize, vacuum, detach, adopt"));
            }
        })
    }

    /// Lets statements see what was rewritten.
    fn show(&self, table: &OpenTable) {
        let hub = self.catalog.hub(&table.topic.name);
        for lake in [&table.lake, &table.dead_letters] {
            tarn_batch::show_snapshot(&hub, lake.name(), lake.snapshot());
        }
    }
}

/// `2,3`, or `old`.
fn which(builds: &str) -> Result<Which> {
    if builds == "old" {
        return Ok(Which::Old);
    }
    let numbers = builds.split(',').map(|number| {
        number.trim().parse().map_err(|_| {
            Error::invalid(format!("`{number}` is no build's number"))
                .with_hint("`builds=2,3`, or `builds=old`")
        })
    });
    Ok(Which::These(numbers.collect::<Result<_>>()?))
}

fn json(report: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(report).unwrap_or_default()
}
