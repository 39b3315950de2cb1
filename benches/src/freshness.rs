//! Freshness, open loop: requests leave at fixed times whatever the answers do; the time from a request's acknowledgement
//! to the end of the first SQL answer that has its records.
//!
//! A prober asks `SELECT count(*)` again and again. The answer's vector says exactly which offsets it has, the
//! acknowledgement says which offsets the records got, and the count must be what the vector says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Client;
use tarn_model::OffsetVector;
use tokio::sync::mpsc;

use crate::event::Events;

const EVENTS_PER_REQUEST: u64 = 100;

/// An acknowledged request: when, and the offsets it reached.
struct Acknowledged {
    at: Instant,
    ends: Vec<(i32, i64)>,
}

/// Prints percentiles.
pub(crate) async fn run(address: &str, rate: u64, seconds: u64) -> Result<()> {
    let requests_per_second = rate / EVENTS_PER_REQUEST;
    let total = requests_per_second * seconds;
    let mut events = Events::new(7);
    let bodies: Vec<Vec<u8>> = (0..total.min(2_000))
        .map(|_| {
            let mut body = Vec::new();
            (0..EVENTS_PER_REQUEST).for_each(|_| events.append_to(&mut body));
            body
        })
        .collect();
    let (acknowledged, waiting) = mpsc::unbounded_channel();
    let over = Arc::new(AtomicBool::new(false));
    let prober = tokio::spawn(probe(address.to_string(), waiting, over.clone()));
    let client = Client::builder().pool_max_idle_per_host(64).tcp_nodelay(true).build()?;
    let begin = Instant::now();
    let mut requests = tokio::task::JoinSet::new();
    for number in 0..total {
        let due = begin + Duration::from_secs_f64(number as f64 / requests_per_second as f64);
        tarn_model::clock::pause(due.saturating_duration_since(Instant::now())).await;
        let body = bodies[usize::try_from(number)? % bodies.len()].clone();
        let (client, acknowledged) = (client.clone(), acknowledged.clone());
        let url = format!("http://{address}/v1/ingest/events");
        requests.spawn(async move {
            let answer = client.post(url).body(body).send().await?;
            ensure!(answer.status().is_success(), "a push was answered {}", answer.status());
            let text = answer.bytes().await?;
            let at = Instant::now();
            let ends = ends(&text)?;
            acknowledged.send(Acknowledged { at, ends }).ok().context("the prober has gone")?;
            anyhow::Ok((at - due).as_secs_f64() * 1e3)
        });
    }
    drop(acknowledged);
    let mut acknowledge_ms = Vec::new();
    while let Some(done) = requests.join_next().await {
        acknowledge_ms.push(done??);
    }
    over.store(true, Ordering::SeqCst);
    let (mut fresh_ms, probes) = prober.await??;
    ensure!(
        fresh_ms.len() == acknowledge_ms.len(),
        "{} of {} requests were seen",
        fresh_ms.len(),
        acknowledge_ms.len()
    );
    println!(
        "{} requests of {EVENTS_PER_REQUEST} events in {:.1} s, {probes} answers",
        fresh_ms.len(),
        begin.elapsed().as_secs_f64()
    );
    println!("due to acknowledged, ms: {}", percentiles(&mut acknowledge_ms));
    println!("acknowledged to first answer that has it, ms: {}", percentiles(&mut fresh_ms));
    Ok(())
}

fn ends(acknowledgement: &[u8]) -> Result<Vec<(i32, i64)>> {
    let answer: serde_json::Value = serde_json::from_slice(acknowledgement)?;
    let ranges = answer["ranges"].as_array().context("the acknowledgement has no ranges")?;
    ranges
        .iter()
        .map(|range| {
            let partition = range["partition"].as_i64().context("no partition")?;
            Ok((i32::try_from(partition)?, range["to"].as_i64().context("no end")?))
        })
        .collect()
}

async fn probe(
    address: String,
    mut acknowledged: mpsc::UnboundedReceiver<Acknowledged>,
    over: Arc<AtomicBool>,
) -> Result<(Vec<f64>, u64)> {
    let client = Client::new();
    let (mut waiting, mut fresh_ms, mut probes) = (Vec::<Acknowledged>::new(), Vec::new(), 0);
    loop {
        let answer = client
            .post(format!("http://{address}/v1/sql"))
            .header("accept", "application/json")
            .body("SELECT count(*) AS n FROM events")
            .send()
            .await?;
        ensure!(answer.status().is_success(), "a statement was answered {}", answer.status());
        let vector =
            answer.headers().get("tarn-vector").context("the answer has no vector")?.to_str()?.to_string();
        let rows: serde_json::Value = serde_json::from_slice(&answer.bytes().await?)?;
        let now = Instant::now();
        probes += 1;
        let seen = vector.parse::<OffsetVector>()?.topic("events");
        let below: i64 = seen.iter().map(|(_, next)| next).sum();
        ensure!(
            rows[0]["n"].as_i64() == Some(below),
            "the count {} is not what the vector {vector} says",
            rows[0]["n"]
        );
        while let Ok(request) = acknowledged.try_recv() {
            waiting.push(request);
        }
        waiting.retain(|request| {
            let has = request.ends.iter().all(|(partition, end)| seen.next(*partition) >= *end);
            if has {
                // An answer may be on its way while the acknowledgement is: that counts as at once.
                fresh_ms.push(now.saturating_duration_since(request.at).as_secs_f64() * 1e3);
            }
            !has
        });
        if over.load(Ordering::SeqCst) && waiting.is_empty() && acknowledged.is_empty() {
            return Ok((fresh_ms, probes));
        }
    }
}

/// The value below which `share` of the sorted `values` lie.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index below the length")]
    let index = (share * (values.len().saturating_sub(1)) as f64).round() as usize;
    values.get(index).copied().unwrap_or(f64::NAN)
}

fn percentiles(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| percentile(values, share);
    format!(
        "p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1}",
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0)
    )
}
