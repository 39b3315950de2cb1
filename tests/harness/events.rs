//! The topic and table `events` that most tests fill over HTTP, and waiting for what becomes of it.

use serde_json::Value;

use super::http::Client;
use super::proof::count;
use super::wait::{seconds, wait_for};

/// NDJSON of `n` records with `id` and `text`.
pub(crate) fn events(from: i64, n: i64) -> String {
    (from..from + n).map(|id| format!("{{\"id\":{id},\"text\":\"event {id}\"}}\n")).collect()
}

/// Pushes NDJSON; the answer's status.
#[track_caller]
pub(crate) fn push(client: &Client, body: &str) -> u16 {
    client.post("/v1/ingest/events", &[], body.as_bytes()).expect("an answer").status
}

/// Waits until SQL counts `n` rows.
#[track_caller]
pub(crate) fn visible(client: &Client, n: i64) {
    wait_for(&format!("{n} records to be visible"), seconds(60), || {
        (count(client, "events")? == n).then_some(())
    });
}

/// What the process says of the table.
pub(crate) fn table_status(client: &Client) -> Option<Value> {
    let status = client.get("/v1/status").ok()?.json();
    status["tables"].as_array()?.iter().find(|table| table["name"] == "events").cloned()
}

/// Waits until the lake has everything.
#[track_caller]
pub(crate) fn committed(client: &Client) {
    wait_for("everything to be in the lake", seconds(60), || {
        (table_status(client)?["uncommitted_records"] == 0).then_some(())
    });
}
