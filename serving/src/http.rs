//! The doors on HTTP: SQL, status, health, metrics, dashboards, and the pages.
//!
//! *Why the guard*: a page anywhere on the web can make a browser post `text/plain` to 127.0.0.1, and a name that its owner
//! points at 127.0.0.1 gets past the same-origin rule. So every request must name this server in `Host`, and, where a
//! browser says who asks, in `Origin`.
//!
//! *Failure*: an answer is streamed, so an error may come when its status is long sent. Then the connection is broken off:
//! the body never ends as if it were whole.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use tarn_model::config::DashboardConfig;
use tarn_model::status::Status;
use tarn_model::{Error, Kind};

use crate::engine::Engine;
use crate::feeds::Feeds;

mod assets;
mod dashboards;
mod format;
mod hosts;
mod metrics;
mod pages;
mod sql;
mod subscribe;

pub(crate) use format::lines;
pub use hosts::Hosts;

/// Largest body of `POST /v1/sql`, bytes: a statement and its parameters.
const MAX_SQL_BODY_BYTES: usize = 1 << 20;

/// Where the HTTP server gets the pipeline's status from.
pub trait StatusSource: Send + Sync + 'static {
    /// The status now.
    fn status(&self) -> Status;
}

/// What the handlers share.
#[derive(Clone)]
struct Doors {
    engine: Engine,
    feeds: Feeds,
    dashboards: Arc<[DashboardConfig]>,
    status: Arc<dyn StatusSource>,
}

/// `/v1/sql`, `/v1/subscribe`, `/v1/dashboards`, `/v1/status`, `/healthz`, `/metrics`, and the pages. `other` (the
/// collectors' routes) is merged in; every request passes the check of `Host` and `Origin` against `hosts`.
pub fn router(
    engine: Engine,
    status: Arc<dyn StatusSource>,
    dashboards: Vec<DashboardConfig>,
    hosts: Hosts,
    other: Router,
) -> Router {
    let doors = Doors { feeds: Feeds::new(engine.clone()), engine, dashboards: dashboards.into(), status };
    Router::new()
        .route("/", get(pages::home))
        .route("/d/{name}", get(pages::dashboard))
        .route("/sql", get(pages::sql))
        .route("/catalog", get(pages::catalog))
        .route("/pipeline", get(pages::pipeline))
        .route("/assets/{*name}", get(assets::asset))
        .route("/healthz", get(health))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/status", get(status_json))
        .route("/v1/sql", post(sql::sql).layer(DefaultBodyLimit::max(MAX_SQL_BODY_BYTES)))
        .route("/v1/dashboards", get(dashboards::list))
        .route("/v1/dashboards/{name}", get(dashboards::one))
        .route("/v1/dashboards/{name}/stream", get(dashboards::stream))
        .route("/v1/subscribe", get(subscribe::subscribe))
        .with_state(doors)
        .merge(other)
        .fallback(nowhere)
        .method_not_allowed_fallback(another_method)
        .layer(middleware::from_fn_with_state(Arc::new(hosts), hosts::guard))
}

async fn nowhere(uri: Uri) -> Response {
    let error = Error::invalid(format!("there is nothing at `{}`", uri.path())).with_hint(
        "`POST /v1/sql`, `POST /v1/ingest/{topic}`, `/v1/status`, `/metrics` and `/healthz` are there, and a page at `/`",
    );
    error_with_status(StatusCode::NOT_FOUND, &error)
}

async fn another_method(method: Method, uri: Uri) -> Response {
    let error = Error::invalid(format!("`{}` does not take {method}", uri.path())).with_hint(match method {
        Method::GET => "send it with POST, as `curl --data-binary` does",
        _ => "send it with GET",
    });
    error_with_status(StatusCode::METHOD_NOT_ALLOWED, &error)
}

/// 200 once SQL answers, 503 before.
async fn health(State(doors): State<Doors>) -> Response {
    let catalog = doors.engine.catalog();
    if catalog.is_ready() {
        return (StatusCode::OK, "ready\n").into_response();
    }
    let text = format!("still reading the log: {} records to go\n", catalog.records_to_go());
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], text).into_response()
}

async fn status_json(State(doors): State<Doors>) -> Response {
    axum::Json(doors.status.status()).into_response()
}

/// An error as `{"error": {"kind", "message", "hint", "sqlstate", "line", "column", "causes"}}` with the status that its kind
/// means.
fn error_response(error: &Error) -> Response {
    let status = match error.kind() {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Unavailable | Kind::Fenced => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Corrupt | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(?error, "statement failed");
    }
    error_with_status(status, error)
}

fn error_with_status(status: StatusCode, error: &Error) -> Response {
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    let body = json!({ "error": {
        "kind": format!("{:?}", error.kind()).to_lowercase(),
        "message": error.to_string(),
        "hint": error.hint(),
        "sqlstate": error.sqlstate(),
        "line": error.place().map(|place| place.line),
        "column": error.place().map(|place| place.column),
        "causes": causes,
    }});
    let mut response = (status, axum::Json(body)).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests;
