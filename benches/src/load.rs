//! Events that come in, open loop: requests of 100 leave at fixed times whatever the answers do.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use reqwest::Client;

use crate::event::Events;

const EVENTS_PER_REQUEST: u64 = 100;
/// Requests that are made before the first leaves; then they are sent again.
const MOST_BODIES: u64 = 2_000;

/// What comes in, where, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load<'a> {
    pub(crate) address: &'a str,
    /// Events a second; 0 for none.
    pub(crate) rate: u64,
    /// Number of the first event, and so its time.
    pub(crate) first: u64,
    pub(crate) seconds: u64,
}

impl<'a> Load<'a> {
    /// Makes the requests: what takes time without being sent.
    pub(crate) fn prepare(self) -> Prepared<'a> {
        let mut events = Events::from_number(self.first, 7);
        let bodies = (0..self.requests().min(MOST_BODIES)).map(|_| {
            let mut body = Vec::new();
            (0..EVENTS_PER_REQUEST).for_each(|_| events.append_to(&mut body));
            body
        });
        Prepared { bodies: bodies.collect(), load: self }
    }

    fn per_second(&self) -> u64 {
        self.rate.div_ceil(EVENTS_PER_REQUEST)
    }

    fn requests(&self) -> u64 {
        self.per_second() * self.seconds
    }
}

/// A load whose requests are made.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    load: Load<'a>,
    bodies: Vec<Vec<u8>>,
}

impl Prepared<'_> {
    /// Sends all of it, from now on; events that were acknowledged.
    pub(crate) async fn send(self) -> Result<u64> {
        let Prepared { load, bodies } = self;
        let (per_second, total) = (load.per_second(), load.requests());
        if total == 0 {
            tarn_model::clock::pause(Duration::from_secs(load.seconds)).await;
            return Ok(0);
        }
        let client = Client::builder().pool_max_idle_per_host(64).tcp_nodelay(true).build()?;
        let url = format!("http://{}/v1/ingest/events", load.address);
        let begin = Instant::now();
        let mut requests = tokio::task::JoinSet::new();
        for number in 0..total {
            let due = begin + Duration::from_secs_f64(number as f64 / per_second as f64);
            tarn_model::clock::pause(due.saturating_duration_since(Instant::now())).await;
            let request = client.post(&url).body(bodies[usize::try_from(number)? % bodies.len()].clone());
            requests.spawn(async move {
                let answer = request.send().await?;
                ensure!(answer.status().is_success(), "a push was answered {}", answer.status());
                anyhow::Ok(())
            });
        }
        while let Some(done) = requests.join_next().await {
            done??;
        }
        Ok(total * EVENTS_PER_REQUEST)
    }
}
