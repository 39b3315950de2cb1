//! Many subscribers to one query while events come in.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Client;
use serde_json::json;
use tokio::sync::mpsc;

use crate::load::Load;

/// Says `subscribed` once all have the first answer, `over` when the time is, and then how many updates each got.
pub(crate) async fn run(load: Load<'_>, count: u64, query: &str) -> Result<()> {
    // So that there is something to subscribe to.
    Load { seconds: 1, ..load }.prepare().send().await?;
    let prepared = load.prepare();
    let (began, mut begun) = mpsc::unbounded_channel();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut subscribers = tokio::task::JoinSet::new();
    for _ in 0..count {
        let request = Client::builder().tcp_nodelay(true).build()?;
        let request = request.get(format!("http://{}/v1/subscribe", load.address)).query(&[("sql", query)]);
        let (began, mut stopped) = (began.clone(), stopped.clone());
        subscribers.spawn(async move {
            let mut answer = request.send().await?;
            ensure!(answer.status().is_success(), "a subscription was answered {}", answer.status());
            let (mut updates, mut end) = (0_u64, Vec::new());
            loop {
                let chunk = tokio::select! {
                    chunk = answer.chunk() => chunk?.context("a subscription ended")?,
                    _ = stopped.wait_for(|stop| *stop) => return Ok(updates),
                };
                // An event may lie across two chunks: the end of what came before is looked at once more.
                const MARK: &[u8] = b"event: progress";
                end.extend_from_slice(&chunk);
                let found = end.windows(MARK.len()).filter(|part| *part == MARK).count();
                if found > 0 && updates == 0 {
                    // Who counts may have gone, with an error of its own.
                    let _ = began.send(());
                }
                updates += found as u64;
                end.drain(..end.len().saturating_sub(MARK.len() - 1));
            }
        });
    }
    drop(began);
    for _ in 0..count {
        tokio::select! {
            told = begun.recv() => told.context("a subscriber broke off")?,
            broke = subscribers.join_next(), if !subscribers.is_empty() => {
                broke.context("no subscriber")???;
            }
        }
    }
    println!("subscribed");
    prepared.send().await?;
    tarn_model::clock::pause(Duration::from_millis(500)).await;
    println!("over");
    stop.send_replace(true);
    let mut updates: Vec<u64> = Vec::new();
    while let Some(done) = subscribers.join_next().await {
        updates.push(done??);
    }
    let (most, least) = (updates.iter().max(), updates.iter().min());
    println!("{}", json!({ "most": most.unwrap_or(&0), "least": least.unwrap_or(&0) }));
    Ok(())
}
