//! `generator`: made-up shop orders and clicks.
//!
//! Record `n` is a function of the seed and `n` alone (but for its time, which is the wall clock when a rate is set), so
//! the position is the number of records, and a restart goes on as if nothing had happened.

use std::time::{Duration, Instant};

use serde_json::json;
use tarn_model::config::{GeneratorConfig, GeneratorStream};
use tarn_model::{Error, Result};

use crate::appender::Appender;
use crate::monitor::State;
use crate::shaper::{Found, Place, Shaper};
use crate::source::{Collector, Source};

mod dice;
mod shop;

use dice::Dice;
use shop::TimeText;

/// Key of the one position.
const POSITION: &str = "records";
/// Time between two appends when a rate is set.
const TICK: Duration = Duration::from_millis(25);
/// After a pause (a log that was not there), at most this much is made up for.
const LONGEST_ARREARS: Duration = Duration::from_secs(1);
/// Time of record 0 when no rate is set: 2026-01-01T00:00:00Z, ms; then one record every 10 ms.
const FIRST_TIME_MS: i64 = 1_767_225_600_000;
const STEP_MS: i64 = 10;

/// Makes records up.
pub(crate) struct Generator {
    config: GeneratorConfig,
    value: Vec<u8>,
    key: Vec<u8>,
    time: TimeText,
}

impl Generator {
    pub(crate) fn new(config: GeneratorConfig) -> Generator {
        Generator { config, value: Vec::with_capacity(512), key: Vec::new(), time: TimeText::default() }
    }

    /// Makes record `n` at `time_ms` into `self.value`, and its key into `self.key`.
    fn make(&mut self, n: u64, time_ms: i64, key: Option<&str>) {
        self.value.clear();
        self.key.clear();
        let mut dice = Dice::new(self.config.seed, n);
        let time = self.time.of(time_ms);
        match self.config.stream {
            GeneratorStream::Orders => shop::order(&mut self.value, n, &mut dice, time),
            GeneratorStream::Clicks => shop::click(&mut self.value, &mut dice, time),
        }
        if let Some(name) = key
            && let Ok(Some(text)) = crate::json::field(&self.value, name)
        {
            self.key.extend_from_slice(text.as_bytes());
        }
    }

    /// Makes the records up to `upto`; `false` when the source is to stop.
    fn fill(
        &mut self,
        source: &Source,
        shaper: &mut Shaper,
        appender: &mut Appender<'_>,
        made: &mut u64,
        upto: u64,
    ) -> Result<bool> {
        shaper.begin(source, source.topic_info()?)?;
        let now_ms = source.clock.now_ms();
        while *made < upto {
            let n = *made;
            let time_ms = if self.config.rate > 0 {
                now_ms
            } else {
                FIRST_TIME_MS.saturating_add(i64::try_from(n).unwrap_or(i64::MAX).saturating_mul(STEP_MS))
            };
            self.make(n, time_ms, source.config.key.as_deref());
            let key = std::str::from_utf8(&self.key).ok().filter(|key| !key.is_empty());
            let place = Place { origin: (u128::from(self.config.seed), n), ..Place::default() };
            shaper.push(appender, time_ms, &place, &Found { key, ..Found::value(&self.value) })?;
            source.monitor.read(self.value.len() as u64);
            *made += 1;
            if appender.is_full() {
                if source.stopping() {
                    return Ok(false);
                }
                appender.position(POSITION, Some(json!(*made)));
                appender.submit()?;
            }
        }
        if !appender.is_empty() {
            appender.position(POSITION, Some(json!(*made)));
            appender.submit()?;
        }
        Ok(true)
    }
}

impl Collector for Generator {
    fn collect(&mut self, source: &Source) -> Result<()> {
        let mut made = match source.log.position(&source.name, POSITION)? {
            None => 0,
            Some(position) => {
                position.as_u64().ok_or_else(|| Error::internal("a generator's position is a number"))?
            }
        };
        let count = self.config.count.unwrap_or(u64::MAX);
        let mut appender = Appender::new(source);
        let mut shaper = Shaper::of_objects(&source.config)?;
        if self.config.rate == 0 {
            let all = self.fill(source, &mut shaper, &mut appender, &mut made, count)?;
            return if all { appender.finish() } else { Ok(()) };
        }
        let rate = u128::from(self.config.rate);
        let (mut since, mut base) = (Instant::now(), made);
        while made < count && !source.stopping() {
            let due_of =
                |elapsed: Duration| u64::try_from(elapsed.as_micros() * rate / 1_000_000).unwrap_or(u64::MAX);
            let due = base.saturating_add(due_of(since.elapsed()));
            if due.saturating_sub(made) > due_of(LONGEST_ARREARS).max(1) {
                (since, base) = (Instant::now(), made);
                continue;
            }
            let upto = due.min(count);
            if upto > made {
                source.monitor.state(State::Running);
                if !self.fill(source, &mut shaper, &mut appender, &mut made, upto)? {
                    return Ok(());
                }
            }
            source.pause(TICK);
        }
        appender.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    fn generator(stream: GeneratorStream, seed: u64) -> Generator {
        Generator::new(GeneratorConfig { stream, rate: 0, count: None, seed })
    }

    #[test]
    fn record_n_depends_on_nothing_but_the_seed_and_n() {
        for stream in [GeneratorStream::Orders, GeneratorStream::Clicks] {
            let (mut forwards, mut backwards) = (generator(stream, 7), generator(stream, 7));
            let mut made: Vec<Vec<u8>> = Vec::new();
            for n in 0..200 {
                forwards.make(n, FIRST_TIME_MS, None);
                made.push(forwards.value.clone());
            }
            for n in (0..200).rev() {
                backwards.make(n, FIRST_TIME_MS, None);
                assert_eq!(backwards.value, made[usize::try_from(n).unwrap()]);
            }
            let mut other = generator(stream, 8);
            other.make(5, FIRST_TIME_MS, None);
            assert_ne!(other.value, made[5]);
        }
    }

    #[test]
    fn orders_are_json_objects_with_plausible_skewed_values() {
        let mut generator = generator(GeneratorStream::Orders, 42);
        let mut customers = std::collections::HashMap::<u64, u32>::new();
        for n in 0..5000 {
            generator.make(n, FIRST_TIME_MS + 123, Some("customer_id"));
            let order: serde_json::Value = serde_json::from_slice(&generator.value).unwrap();
            assert_eq!(order["order_id"], n + 1);
            assert_eq!(order["ts"], "2026-01-01T00:00:00.123Z");
            let price = order["price"].as_str().unwrap();
            let (whole, cents) = price.split_once('.').unwrap();
            assert!(whole.parse::<u32>().is_ok() && cents.len() == 2, "{price}");
            assert!((1..=10).contains(&order["quantity"].as_u64().unwrap()));
            let customer = order["customer_id"].as_u64().unwrap();
            assert_eq!(generator.key, customer.to_string().as_bytes());
            *customers.entry(customer).or_default() += 1;
        }
        let most = customers.values().max().copied().unwrap_or_default();
        assert!(
            customers.len() > 1000 && most > 20,
            "{} customers, the best has {most} orders",
            customers.len()
        );
    }

    #[test]
    fn clicks_are_json_objects() {
        let mut generator = generator(GeneratorStream::Clicks, 42);
        for n in 0..1000 {
            generator.make(n, FIRST_TIME_MS, None);
            let click: serde_json::Value = serde_json::from_slice(&generator.value).unwrap();
            assert!(click["page"].as_str().unwrap().starts_with('/'));
            assert!(click["duration_ms"].as_u64().is_some());
            assert!(click["user_id"].is_u64() || click["user_id"].is_null());
        }
    }

    const SHOP: &str = r#"
[[source]]
name = "shop"
type = "generator"
topic = "orders"
count = 3000
rate = 0
"#;

    #[test]
    fn a_restart_goes_on_where_it_stopped_and_the_records_are_the_same() {
        let mut fixture = Fixture::new();
        fixture.drain(SHOP).unwrap();
        let whole = fixture.texts("orders");
        assert_eq!(whole.len(), 3000);
        assert!(whole[2999].starts_with("{\"order_id\":3000,"));
        fixture.reopen();
        fixture.drain(SHOP).unwrap();
        assert_eq!(fixture.count("orders"), 3000);
        let mut other = Fixture::new();
        for stop in [10, 1500] {
            let collectors = other.start(SHOP, crate::RunMode::Continuous);
            other.wait_for_count("orders", stop);
            other.stop(&collectors);
            drop(collectors);
            other.reopen();
        }
        other.drain(SHOP).unwrap();
        assert!(other.texts("orders") == whole, "the records differ");
    }

    #[test]
    fn a_rate_is_kept() {
        let fixture = Fixture::new();
        let since = Instant::now();
        fixture.drain(&SHOP.replace("rate = 0", "rate = 10000").replace("orders", "clicks")).unwrap();
        assert!(since.elapsed() >= Duration::from_millis(280), "{:?}", since.elapsed());
        assert_eq!(fixture.count("clicks"), 3000);
    }
}
