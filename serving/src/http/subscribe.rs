//! `GET /v1/subscribe?sql=…`: a query's answer, and how it changes, as server-sent events.
//!
//! | event | data |
//! |---|---|
//! | `snapshot` | `{"columns": […], "rows": [{"id": 7, "row": {…}}, …]}`: the whole answer, in its order |
//! | `upsert` | `{"rows": [{"id": 7, "row": {…}}, …]}`: rows that are new or have changed, of the same columns |
//! | `delete` | `{"ids": [7, …]}` |
//! | `progress` | `{"vector": "…"}`: all before it together is the answer at this vector; the event's `id` resumes |
//! | `trouble` | `{"message": "…"}`: there is no newer answer; the subscription goes on |
//!
//! With `whole=true` every change is a `snapshot`.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use super::{Doors, error_response};
use crate::feeds::{Feed, FeedState, Row};

/// A comment keeps proxies from ending a stream on which nothing happens.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Debug, Deserialize)]
pub(super) struct Parameters {
    sql: String,
    /// Columns that a row is known by, with commas between them.
    key: Option<String>,
    /// Whether each change comes as a whole answer, in its order.
    #[serde(default)]
    whole: bool,
}

pub(super) async fn subscribe(
    State(doors): State<Doors>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    let key = parameters.key.iter().flat_map(|key| key.split(',')).map(|name| name.trim().to_owned());
    let (feed, states) = match doors.feeds.subscribe(&parameters.sql, key.collect()).await {
        Ok(subscription) => subscription,
        Err(error) => return error_response(&error),
    };
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let seen = last.and_then(|id| {
        let (of, tick) = id.split_once('.')?;
        (of == feed.id).then(|| tick.parse().ok()).flatten()
    });
    let subscriber = Subscriber { feed, states, whole: parameters.whole, seen, trouble: None, begun: false };
    let events = futures::stream::unfold(subscriber, |mut subscriber| async move {
        let text = subscriber.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), subscriber))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (StatusCode::OK, headers, Body::from_stream(events)).into_response()
}

/// One reader of a feed.
struct Subscriber {
    feed: Arc<Feed>,
    states: watch::Receiver<Arc<FeedState>>,
    whole: bool,
    /// The last tick that it was told of.
    seen: Option<u64>,
    trouble: Option<String>,
    begun: bool,
}

impl Subscriber {
    /// The next events; `None` when the feed has ended.
    async fn next(&mut self) -> Option<String> {
        loop {
            let state = self.states.borrow_and_update().clone();
            let mut text = self.catch_up(&state);
            if state.trouble != self.trouble {
                if let Some(message) = &state.trouble {
                    event(&mut text, "trouble", None, &json!({ "message": message }).to_string());
                }
                self.trouble.clone_from(&state.trouble);
            }
            if !std::mem::replace(&mut self.begun, true) && text.is_empty() {
                // Headers reach the reader with the first bytes.
                text.push_str(": here\n\n");
            }
            if !text.is_empty() {
                return Some(text);
            }
            match tokio::time::timeout(KEEP_ALIVE, self.states.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => return Some(": still here\n\n".to_owned()),
            }
        }
    }

    /// From the last tick that was told to the newest: tick by tick where they are still there, else all at once.
    fn catch_up(&mut self, state: &FeedState) -> String {
        let mut text = String::new();
        let seen = self.seen.replace(state.tick);
        if seen == Some(state.tick) {
            return text;
        }
        let missed = seen.filter(|_| !self.whole).and_then(|seen| {
            let at = state.ticks.iter().position(|tick| tick.number == seen + 1)?;
            Some(state.ticks.iter().skip(at))
        });
        match missed {
            Some(ticks) => {
                for tick in ticks {
                    if !tick.upserts.is_empty() {
                        event(&mut text, "upsert", None, &format!("{{\"rows\":{}}}", rows(&tick.upserts)));
                    }
                    if !tick.deletes.is_empty() {
                        event(&mut text, "delete", None, &json!({ "ids": tick.deletes }).to_string());
                    }
                    self.progress(&mut text, tick.number, &tick.vector);
                }
            }
            None => {
                let names: Vec<&str> = state.columns.iter().map(|column| column.name.as_str()).collect();
                let columns = json!(names);
                let data = format!("{{\"columns\":{columns},\"rows\":{}}}", rows(&state.rows));
                event(&mut text, "snapshot", None, &data);
                self.progress(&mut text, state.tick, &state.vector);
            }
        }
        text
    }

    fn progress(&self, text: &mut String, tick: u64, vector: &str) {
        let id = format!("{}.{tick}", self.feed.id);
        event(text, "progress", Some(&id), &json!({ "vector": vector }).to_string());
    }
}

/// One event; JSON on one line has no line breaks of its own.
pub(super) fn event(text: &mut String, name: &str, id: Option<&str>, data: &str) {
    if let Some(id) = id {
        let _ = writeln!(text, "id: {id}");
    }
    let _ = write!(text, "event: {name}\ndata: {data}\n\n");
}

fn rows(rows: &[Row]) -> String {
    let rows: Vec<String> =
        rows.iter().map(|row| format!("{{\"id\":{},\"row\":{}}}", row.number, row.json)).collect();
    format!("[{}]", rows.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::Feeds;
    use crate::fixture::Shop;

    /// The names of events, in their order.
    fn names(text: &str) -> Vec<&str> {
        text.lines().filter_map(|line| line.strip_prefix("event: ")).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_is_slow_gets_the_changes_and_when_they_are_too_many_the_whole_answer() {
        let shop = Shop::open().await;
        let feeds = Feeds::new(shop.engine.clone());
        let (feed, _) = feeds.subscribe("SELECT 1 AS n", Vec::new()).await.expect("a feed");
        let (id, mut state) = (feed.id.clone(), FeedState::default().then(&["n"], &[(1, "{\"n\":0}")]));
        let (sender, states) = watch::channel(Arc::new(state.clone()));
        let begin = |seen| Subscriber {
            feed: Arc::clone(&feed),
            states: states.clone(),
            whole: false,
            seen,
            trouble: None,
            begun: false,
        };
        let mut slow = begin(None);
        assert_eq!(names(&slow.next().await.expect("events")), ["snapshot", "progress"]);
        for (changes, is_whole) in [(3, false), (64, false), (65, true), (1, false), (200, true)] {
            let seen = state.tick;
            for _ in 0..changes {
                let row = format!("{{\"n\":{}}}", state.tick);
                state = state.then(&["n"], &[(1, &row)]);
                sender.send_replace(Arc::new(state.clone()));
            }
            let newest = format!("id: {id}.{}\n", state.tick);
            // The same for who was cut off, and resumes.
            for text in [slow.next().await, begin(Some(seen)).next().await] {
                let text = text.expect("events");
                if is_whole {
                    assert_eq!(names(&text), ["snapshot", "progress"], "{changes} changes");
                } else {
                    assert_eq!(names(&text), ["upsert", "progress"].repeat(changes), "{changes} changes");
                }
                assert!(text.contains(&newest), "{text}");
            }
        }
        state = state.then(&["n", "m"], &[(1, "{\"n\":1,\"m\":2}")]);
        sender.send_replace(Arc::new(state.clone()));
        let text = slow.next().await.expect("events");
        assert_eq!(names(&text), ["snapshot", "progress"], "of other columns");
        assert!(text.contains("\"columns\":[\"n\",\"m\"]"), "{text}");
    }
}
