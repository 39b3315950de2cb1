//! Reads at fixed times while events come in: what a dashboard's reader waits, from when the read was due.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use reqwest::Client;
use serde_json::{Value, json};

use crate::freshness::percentile;
use crate::load::Load;

/// Prints one JSON object: what came in, and each query's latencies in milliseconds.
pub(crate) async fn run(load: Load<'_>, reads_per_second: u64, queries: &[&str]) -> Result<()> {
    ensure!(!queries.is_empty() && reads_per_second > 0, "there is nothing to read");
    let client = Client::builder().tcp_nodelay(true).build()?;
    for query in queries {
        read(&client, load.address, query).await?;
    }
    let prepared = load.prepare();
    let begin = Instant::now();
    let end = begin + Duration::from_secs(load.seconds);
    let reading = async {
        let mut latencies_ms = vec![Vec::new(); queries.len()];
        for number in 0.. {
            let due = begin + Duration::from_secs_f64(number as f64 / reads_per_second as f64);
            if due >= end {
                break;
            }
            tarn_model::clock::pause(due.saturating_duration_since(Instant::now())).await;
            let which = usize::try_from(number)? % queries.len();
            read(&client, load.address, queries[which]).await?;
            latencies_ms[which].push(due.elapsed().as_secs_f64() * 1e3);
        }
        anyhow::Ok(latencies_ms)
    };
    let (acknowledged, latencies_ms) = tokio::try_join!(prepared.send(), reading)?;
    let told: Vec<Value> = latencies_ms
        .into_iter()
        .map(|mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            let at = |share: f64| percentile(&values, share);
            json!({ "reads": values.len(), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0) })
        })
        .collect();
    let seconds = begin.elapsed().as_secs_f64();
    println!("{}", json!({ "acknowledged": acknowledged, "seconds": seconds, "queries": told }));
    Ok(())
}

async fn read(client: &Client, address: &str, query: &str) -> Result<()> {
    let request = client.post(format!("http://{address}/v1/sql")).header("accept", "application/json");
    let answer = request.body(query.to_owned()).send().await?;
    let (status, body) = (answer.status(), answer.bytes().await?);
    ensure!(status.is_success(), "`{query}` was answered {status}: {}", String::from_utf8_lossy(&body));
    ensure!(body.len() > 2, "`{query}` has no rows");
    Ok(())
}
