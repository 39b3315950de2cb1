//! `GET /v1/dashboards`, and `GET /v1/dashboards/{name}/stream`: all panels of a page as one stream of server-sent events.
//!
//! | event | data |
//! |---|---|
//! | `dashboard` | the dashboard as the config has it; the first event |
//! | `variable` | `{"index": 0, "options": ["DE", …]}`: what can be chosen |
//! | `panel` | `{"index": 0, "vector": "…", "columns": […], "whole": true, "rows": {"7": {…}}, "order": [7, …]}`: the rows that are new or changed (or all, when `whole`), and which rows there are now, in the answer's order |
//! | `trouble` | `{"index": 0, "panel": true, "message": "…", "hint": "…"}`: there is no newer answer; what was shown stays |
//! | `progress` | `{"at": 1767225600000}`: everything before it belongs on the page, at once |
//! | `beat` | `{"at": …}`: nothing has changed for a while |
//!
//! *Why the page waits for `progress`*: it never shows half of an update. *Why no queue*: a reader that is slow is told the
//! difference between what it was last told and the newest answer, however many there were in between.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use tarn_model::config::DashboardConfig;
use tarn_model::{Error, clock};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::subscribe::event;
use super::{Doors, error_response};
use crate::dashboards::{Choices, questions};
use crate::error::nearest;
use crate::feeds::{FeedState, Feeds};

/// Feeds tick together; what comes this long after the first answer is shown with it. Nobody waits once all have answered.
const GATHER: Duration = Duration::from_millis(60);
/// A page that hears nothing for longer than this doubts that what it shows is new.
const BEAT: Duration = Duration::from_secs(5);
/// Time after which a question that had no answer is asked again.
const RETRY: Duration = Duration::from_secs(2);

pub(super) async fn list(State(doors): State<Doors>) -> Response {
    let dashboards = doors.dashboards.iter().map(|dashboard| {
        json!({
            "name": dashboard.name,
            "title": dashboard.shown_title(),
            "description": dashboard.description,
            "panels": dashboard.panels.len(),
        })
    });
    axum::Json(dashboards.collect::<Vec<Value>>()).into_response()
}

pub(super) async fn one(State(doors): State<Doors>, Path(name): Path<String>) -> Response {
    match find(&doors, &name) {
        Ok(dashboard) => axum::Json(dashboard).into_response(),
        Err(error) => super::error_with_status(StatusCode::NOT_FOUND, &error),
    }
}

pub(super) async fn stream(
    State(doors): State<Doors>,
    Path(name): Path<String>,
    Query(choices): Query<Vec<(String, String)>>,
) -> Response {
    let dashboard = match find(&doors, &name) {
        Ok(dashboard) => dashboard,
        Err(error) => return super::error_with_status(StatusCode::NOT_FOUND, &error),
    };
    let questions = match questions(dashboard, &Choices::new(choices)) {
        Ok(questions) => questions,
        Err(error) => return error_response(&error),
    };
    let variables = questions.variables.into_iter().enumerate();
    let variables = variables.filter_map(|(index, sql)| Some((Part::Variable(index), sql?)));
    let panels = questions.panels.into_iter().enumerate().map(|(index, sql)| (Part::Panel(index), sql));
    let watched =
        variables.chain(panels).map(|(part, sql)| Watched::new(doors.feeds.clone(), part, sql).next());
    let mut begin = String::new();
    event(&mut begin, "dashboard", None, &json!(dashboard).to_string());
    let page = Page { watched: watched.collect(), refresh: dashboard.refresh.0, least: Instant::now() };
    let events = futures::stream::unfold(page, |mut page| async move {
        let text = page.next().await;
        Some((Ok::<_, Infallible>(Bytes::from(text)), page))
    });
    let begin = futures::stream::once(async move { Ok::<_, Infallible>(Bytes::from(begin)) });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (StatusCode::OK, headers, Body::from_stream(begin.chain(events))).into_response()
}

/// The dashboard of this name, or an error with the nearest.
pub(super) fn find<'d>(doors: &'d Doors, name: &str) -> Result<&'d DashboardConfig, Error> {
    if let Some(found) = doors.dashboards.iter().find(|dashboard| dashboard.name == name) {
        return Ok(found);
    }
    let names = || doors.dashboards.iter().map(|dashboard| dashboard.name.as_str());
    let error = Error::invalid(format!("there is no dashboard `{name}`"));
    Err(match nearest(name, names()) {
        Some(near) => error.with_hint(format!("did you mean `{near}`?")),
        None if doors.dashboards.is_empty() => {
            error.with_hint("dashboards are declared in the config: `[[dashboard]]`")
        }
        None => error.with_hint(format!("dashboards: {}", names().collect::<Vec<_>>().join(", "))),
    })
}

/// One reader of a page's stream.
struct Page {
    watched: FuturesUnordered<BoxFuture<'static, (Watched, String)>>,
    /// Shortest time between two progresses.
    refresh: Duration,
    /// When the next one may be. It counts from the first answer of the last one: one that took long makes no later one late.
    least: Instant,
}

impl Page {
    /// The next events, to their progress.
    async fn next(&mut self) -> String {
        let Ok(first) = timeout_at(Instant::now() + BEAT, self.watched.next()).await else {
            let mut text = String::new();
            event(&mut text, "beat", None, &json!({ "at": clock::system().now_ms() }).to_string());
            return text;
        };
        let (begin, least) = (Instant::now(), self.least);
        let mut text = self.go_on(first).await;
        let mut answers = 1;
        loop {
            let until = if answers < self.watched.len() { least.max(begin + GATHER) } else { least };
            let Ok(more) = timeout_at(until, self.watched.next()).await else { break };
            text.push_str(&self.go_on(more).await);
            answers += 1;
        }
        self.least = begin + self.refresh;
        event(&mut text, "progress", None, &json!({ "at": clock::system().now_ms() }).to_string());
        text
    }

    /// Watches on, and gives what was seen. A page on which nothing is watched waits.
    async fn go_on(&mut self, seen: Option<(Watched, String)>) -> String {
        match seen {
            Some((watched, text)) => {
                self.watched.push(watched.next());
                text
            }
            None => std::future::pending().await,
        }
    }
}

/// What a question is asked for.
#[derive(Debug, Clone, Copy)]
enum Part {
    Variable(usize),
    Panel(usize),
}

/// One question of a page, with what its reader was last told.
struct Watched {
    feeds: Feeds,
    part: Part,
    sql: String,
    states: Option<watch::Receiver<Arc<FeedState>>>,
    told: Option<Arc<FeedState>>,
    trouble: Option<String>,
    retry: bool,
}

impl Watched {
    fn new(feeds: Feeds, part: Part, sql: String) -> Watched {
        Watched { feeds, part, sql, states: None, told: None, trouble: None, retry: false }
    }

    /// Waits for something to tell.
    fn next(mut self) -> BoxFuture<'static, (Watched, String)> {
        Box::pin(async move {
            loop {
                let mut text = String::new();
                match &mut self.states {
                    None => self.ask(&mut text).await,
                    Some(states) => {
                        let state = states.borrow_and_update().clone();
                        self.tell(&mut text, &state);
                        if text.is_empty()
                            && let Some(states) = &mut self.states
                            && states.changed().await.is_err()
                        {
                            self.states = None;
                        }
                    }
                }
                if !text.is_empty() {
                    return (self, text);
                }
            }
        })
    }

    async fn ask(&mut self, text: &mut String) {
        if std::mem::take(&mut self.retry) {
            clock::pause(RETRY).await;
        }
        // Of its own, so that a reader who is slow does not hold up a statement that others wait for.
        let (feeds, sql) = (self.feeds.clone(), self.sql.clone());
        let subscribed = tokio::spawn(async move { feeds.subscribe(&sql, Vec::new()).await });
        let subscribed = subscribed
            .await
            .unwrap_or_else(|error| Err(Error::internal("a query panicked").with_source(error)));
        match subscribed {
            Ok((_, states)) => self.states = Some(states),
            Err(error) => {
                self.retry = true;
                self.complain(text, Some(&error.to_string()), error.hint());
            }
        }
    }

    /// The difference between what was told and `state`.
    fn tell(&mut self, text: &mut String, state: &Arc<FeedState>) {
        let is_new = self
            .told
            .as_ref()
            .is_none_or(|told| told.tick != state.tick || !Arc::ptr_eq(&told.rows, &state.rows));
        if is_new {
            match self.part {
                Part::Variable(index) => event(text, "variable", None, &options(index, state)),
                Part::Panel(index) => {
                    let told = self.told.as_deref().filter(|told| told.columns == state.columns);
                    event(text, "panel", None, &difference(index, told, state));
                }
            }
            self.told = Some(Arc::clone(state));
        }
        self.complain(text, state.trouble.as_deref(), None);
    }

    /// Tells of trouble once; that it is over, the next answer tells.
    fn complain(&mut self, text: &mut String, trouble: Option<&str>, hint: Option<&str>) {
        if let Some(message) = trouble
            && self.trouble.as_deref() != trouble
        {
            let (panel, index) = match self.part {
                Part::Variable(index) => (false, index),
                Part::Panel(index) => (true, index),
            };
            let data = json!({ "panel": panel, "index": index, "message": message, "hint": hint });
            event(text, "trouble", None, &data.to_string());
        }
        self.trouble = trouble.map(str::to_owned);
    }
}

/// The values of a variable's first column.
fn options(index: usize, state: &FeedState) -> String {
    let name = state.columns.first().map_or("", |column| column.name.as_str());
    let value = |json: &str| {
        let row: serde_json::Map<String, Value> = serde_json::from_str(json).ok()?;
        match row.get(name)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    };
    let options: Vec<String> = state.rows.iter().filter_map(|row| value(&row.json)).collect();
    json!({ "index": index, "options": options }).to_string()
}

/// What changed from `told` to `state`; the whole answer without `told`.
fn difference(index: usize, told: Option<&FeedState>, state: &FeedState) -> String {
    let old: std::collections::HashMap<u64, &str> =
        told.iter().flat_map(|told| told.rows.iter()).map(|row| (row.number, &*row.json)).collect();
    let mut rows = String::new();
    let mut order = String::new();
    for row in state.rows.iter() {
        if old.get(&row.number) != Some(&&*row.json) {
            let comma = if rows.is_empty() { "" } else { "," };
            let _ = write!(rows, "{comma}\"{}\":{}", row.number, row.json);
        }
        let comma = if order.is_empty() { "" } else { "," };
        let _ = write!(order, "{comma}{}", row.number);
    }
    let columns = json!(state.columns);
    let (vector, whole) = (json!(state.vector), told.is_none());
    format!(
        "{{\"index\":{index},\"vector\":{vector},\"columns\":{columns},\"whole\":{whole},\"rows\":{{{rows}}},\"order\":[{order}]}}"
    )
}
