//! Pushes that prepare a log and a lake: one lake commit each, or as fast as they are acknowledged.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Client;

use crate::event::{Events, LINE_BYTES};

/// The version of the table `events`, if it has one.
async fn version(client: &Client, address: &str) -> Result<u64> {
    let answer = client.get(format!("http://{address}/v1/status")).send().await?.bytes().await?;
    let status: serde_json::Value = serde_json::from_slice(&answer)?;
    let tables = status["tables"].as_array().context("no tables in the status")?;
    let table = tables.iter().find(|table| table["name"] == "events").context("no table `events`")?;
    Ok(if table["uncommitted_records"] == 0 { table["version"].as_u64().unwrap_or(0) } else { 0 })
}

async fn send(client: &Client, address: &str, body: Vec<u8>) -> Result<()> {
    let answer = client.post(format!("http://{address}/v1/ingest/events")).body(body).send().await?;
    ensure!(answer.status().is_success(), "a push was answered {}", answer.status());
    Ok(())
}

fn body(events: &mut Events, rows: u64) -> Vec<u8> {
    let mut body = Vec::new();
    (0..rows).for_each(|_| events.append_to(&mut body));
    body
}

/// Pushes `rows` events at a time until the table has `commits` commits.
pub(crate) async fn commits(address: &str, commits: u64, rows: u64) -> Result<()> {
    let client = Client::new();
    let mut at = version(&client, address).await?;
    let mut events = Events::new(at);
    while at < commits {
        send(&client, address, body(&mut events, rows)).await?;
        loop {
            let now = version(&client, address).await?;
            if now > at {
                at = now;
                break;
            }
            tarn_model::clock::pause(Duration::from_millis(1)).await;
        }
        if at.is_multiple_of(1000) {
            println!("{at} commits");
        }
    }
    Ok(())
}

/// Pushes `bytes` bytes in requests of 1 MB.
pub(crate) async fn push(address: &str, bytes: u64) -> Result<()> {
    let client = Client::new();
    let mut events = Events::new(1);
    let rows = 1_000_000 / LINE_BYTES as u64;
    let mut sent = 0;
    while sent < bytes {
        let body = body(&mut events, rows);
        sent += body.len() as u64;
        send(&client, address, body).await?;
    }
    println!("{sent} bytes acknowledged");
    Ok(())
}
