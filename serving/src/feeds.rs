//! Feeds: a query that is evaluated again whenever there are new records, once for all who subscribe to it.
//!
//! ```text
//! catalog moves ──► at most 5 times a second, all feeds at the same moments: run the query ──► compare by key ──► tick n: upserts, deletes, vector
//!                                                                                    │ watch: only the newest state
//!                                                        subscriber at tick m < n ◄──┘
//!                                     ticks m+1..n are still there: these; else: the whole answer
//! ```
//!
//! *Why no queue per subscriber*: whoever is slow sees fewer and larger steps, and in the end a snapshot; nothing grows.
//!
//! *Invariants*: a tick is the difference of two whole answers, each at one vector; applying it to the one gives the other. Rows
//! are known by a number that a row's key keeps as long as the feed lives. A feed without subscribers ends by itself. A feed
//! rests as long as it works, so that a query that is dear is asked less often.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tarn_model::{Error, Result, clock};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::columns::{Column, columns_of};
use crate::engine::{Answer, Engine};
use crate::error::from_datafusion;
use crate::http::lines;

/// Time between two looks for new records.
const TICK: Duration = Duration::from_millis(200);
/// Ticks that a subscriber may have missed.
const MOST_TICKS: usize = 64;
/// Feeds at once.
const MOST_FEEDS: usize = 256;
/// Rows of one feed's answer.
const MOST_ROWS: usize = 10_000;
/// JSON of one feed's answer, bytes.
const MOST_BYTES: usize = 16 << 20;
/// Time after which a query that asks for the time of day is run again, even when there are no new records.
const CLOCK_TICK: Duration = Duration::from_secs(1);
/// A feed without subscribers waits this many ticks for one to come back.
const LONELY_TICKS: u32 = 150;

/// All feeds of a process; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Feeds {
    engine: Engine,
    /// From when on all feeds count their ticks.
    began: Instant,
    feeds: Arc<Mutex<HashMap<Question, Arc<Feed>>>>,
}

/// A feed, and a look at its states.
pub(crate) type Subscription = (Arc<Feed>, watch::Receiver<Arc<FeedState>>);

/// What a feed answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    sql: String,
    key: Vec<String>,
}

impl Question {
    /// Whether the answer changes without new records.
    fn asks_for_the_time(&self) -> bool {
        let sql = self.sql.to_lowercase();
        ["now()", "current_timestamp", "current_date", "current_time"].iter().any(|name| sql.contains(name))
    }
}

/// One query with its newest answer.
#[derive(Debug)]
pub(crate) struct Feed {
    /// Tells this feed's ticks from those of an earlier process.
    pub(crate) id: String,
    pub(crate) states: watch::Sender<Arc<FeedState>>,
}

/// An answer, and the ticks that led to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct FeedState {
    /// Number of the newest tick; 0 before the first answer.
    pub(crate) tick: u64,
    /// The vector of the answer.
    pub(crate) vector: String,
    /// Its columns.
    pub(crate) columns: Vec<Column>,
    /// Its rows in its order.
    pub(crate) rows: Arc<Vec<Row>>,
    /// The newest ticks, oldest first.
    pub(crate) ticks: VecDeque<Arc<Tick>>,
    /// Why there is no newer answer.
    pub(crate) trouble: Option<String>,
}

/// A row as JSON, with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) number: u64,
    pub(crate) json: Arc<str>,
}

/// What changed from one answer to the next.
#[derive(Debug)]
pub(crate) struct Tick {
    pub(crate) number: u64,
    pub(crate) vector: String,
    pub(crate) upserts: Vec<Row>,
    pub(crate) deletes: Vec<u64>,
}

impl Feeds {
    pub(crate) fn new(engine: Engine) -> Feeds {
        Feeds { engine, began: Instant::now(), feeds: Arc::default() }
    }

    /// The feed of `sql`, whose rows are known by the columns `key` (none: by all). The first subscriber waits for the first
    /// answer, and gets its error.
    pub(crate) async fn subscribe(&self, sql: &str, key: Vec<String>) -> Result<Subscription> {
        let question = Question { sql: sql.trim().trim_end_matches(';').to_owned(), key };
        if let Some(known) = joined(&self.feeds.lock(), &question) {
            return Ok(known);
        }
        let mut numbers = Numbers::default();
        // What comes while the first answer is made is newer than it.
        let seen = decoded(&self.engine);
        let first = evaluate(&self.engine, &question, &mut numbers, &FeedState::default()).await?;
        let mut feeds = self.feeds.lock();
        // Somebody else may have asked the same meanwhile.
        if let Some(known) = joined(&feeds, &question) {
            return Ok(known);
        }
        if feeds.len() >= MOST_FEEDS {
            return Err(Error::unavailable(format!(
                "there are {MOST_FEEDS} subscriptions to different queries"
            ))
            .with_hint("subscribe to a query that others have, or wait for one of them to end"));
        }
        let id = clock::new_id().simple().to_string();
        let feed = Arc::new(Feed { id, states: watch::channel(Arc::new(first)).0 });
        let states = feed.states.subscribe();
        feeds.insert(question.clone(), Arc::clone(&feed));
        tokio::spawn(self.clone().keep(question, Arc::clone(&feed), numbers, seen));
        Ok((feed, states))
    }

    /// Evaluates the query whenever the catalog has moved, until nobody has listened for a while.
    async fn keep(self, question: Question, feed: Arc<Feed>, mut numbers: Numbers, mut seen: Vec<String>) {
        let (mut lonely, mut evaluated, mut rest) = (0, Instant::now(), Duration::ZERO);
        let by_the_clock = question.asks_for_the_time();
        loop {
            clock::pause(self.until_next_tick(rest)).await;
            rest = Duration::ZERO;
            lonely = if feed.states.receiver_count() == 0 { lonely + 1 } else { 0 };
            if lonely >= LONELY_TICKS {
                // Whoever joins holds this lock: a feed that is found is one that goes on.
                let mut feeds = self.feeds.lock();
                if feed.states.receiver_count() == 0 {
                    feeds.remove(&question);
                    return;
                }
            }
            let now = decoded(&self.engine);
            let is_old = by_the_clock && evaluated.elapsed() >= CLOCK_TICK;
            if (now == seen && !is_old) || lonely > 0 {
                continue;
            }
            evaluated = Instant::now();
            let state = feed.states.borrow().clone();
            match evaluate(&self.engine, &question, &mut numbers, &state).await {
                Ok(next) => {
                    seen = now;
                    feed.states.send_replace(Arc::new(next));
                }
                Err(error) => {
                    tracing::debug!(error = %error.chain(), "a feed has no newer answer");
                    let trouble = Some(error.to_string());
                    if state.trouble != trouble {
                        feed.states.send_replace(Arc::new(FeedState { trouble, ..FeedState::clone(&state) }));
                    }
                }
            }
            rest = evaluated.elapsed();
        }
    }

    /// Time until the next tick that is `rest` away or more. Feeds tick together, so that what a page shows changes at once.
    fn until_next_tick(&self, rest: Duration) -> Duration {
        let passed = (self.began.elapsed() + rest).as_micros();
        let next = (passed / TICK.as_micros() + 1) * TICK.as_micros();
        let wait = next - self.began.elapsed().as_micros().min(next);
        Duration::from_micros(u64::try_from(wait).unwrap_or(0)).min(rest + TICK)
    }
}

/// The feed of `question`, if there is one, joined under the lock that the map is behind.
fn joined(feeds: &HashMap<Question, Arc<Feed>>, question: &Question) -> Option<Subscription> {
    let feed = feeds.get(question)?;
    Some((Arc::clone(feed), feed.states.subscribe()))
}

/// How far every topic is decoded, and the versions of import tables: what moves when there are new rows.
fn decoded(engine: &Engine) -> Vec<String> {
    let catalog = engine.catalog();
    let topics = catalog.cuts();
    let topics = topics.iter().map(|cut| format!("{}:{}", cut.topic, cut.decoded));
    let imports = catalog.imports();
    let mut imports: Vec<String> = imports
        .tables
        .values()
        .map(|table| format!("{} {:?}", table.name, table.lake.as_ref().map(|lake| lake.version)))
        .collect();
    imports.sort_unstable();
    topics.chain(imports).collect()
}

/// Gives each key a number.
#[derive(Debug, Default)]
struct Numbers {
    known: HashMap<String, u64>,
    last: u64,
}

impl Numbers {
    fn of(&mut self, key: String) -> u64 {
        let last = &mut self.last;
        *self.known.entry(key).or_insert_with(|| {
            *last += 1;
            *last
        })
    }

    /// Forgets keys that no row has any more.
    fn keep_only(&mut self, rows: &[Row]) {
        let live: std::collections::HashSet<u64> = rows.iter().map(|row| row.number).collect();
        self.known.retain(|_, number| live.contains(number));
    }
}

async fn evaluate(
    engine: &Engine,
    question: &Question,
    numbers: &mut Numbers,
    before: &FeedState,
) -> Result<FeedState> {
    let Answer { vector, schema, mut rows } = engine.query(&question.sql, &[], None).await?;
    let columns = columns_of(&schema);
    if let Some(unknown) = question.key.iter().find(|name| !columns.iter().any(|one| one.name == **name)) {
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        return Err(Error::invalid(format!("the key `{unknown}` is no column of the query"))
            .with_hint(format!("columns: {}", names.join(", "))));
    }
    let (mut found, mut bytes) = (Vec::new(), 0);
    let mut seen: HashMap<String, u32> = HashMap::new();
    while let Some(batch) = rows.next().await {
        let text = lines(&batch.map_err(from_datafusion)?)
            .map_err(|error| Error::invalid("the rows cannot be written as JSON").with_source(error))?;
        let text = String::from_utf8(text)
            .map_err(|error| Error::internal("JSON that is no text").with_source(error))?;
        for line in text.lines().filter(|line| !line.is_empty()) {
            bytes += line.len();
            let mut key = key_of(line, &question.key)?;
            // Rows that share a key are told apart by their place among each other.
            let twins = seen.entry(key.clone()).or_insert(0);
            *twins += 1;
            if *twins > 1 {
                key.push_str(&format!("#{twins}"));
            }
            found.push(Row { number: numbers.of(key), json: line.into() });
        }
        if found.len() > MOST_ROWS || bytes > MOST_BYTES {
            return Err(Error::invalid(format!(
                "a subscription has at most {MOST_ROWS} rows and {} MiB",
                MOST_BYTES >> 20
            ))
            .with_hint("subscribe to an aggregate, or add LIMIT"));
        }
    }
    numbers.keep_only(&found);
    Ok(next_state(before, vector.to_string(), columns, found))
}

/// The values of the key's columns; the whole row without a key.
fn key_of(line: &str, key: &[String]) -> Result<String> {
    if key.is_empty() {
        return Ok(line.to_owned());
    }
    let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line)
        .map_err(|error| Error::internal("a row is no JSON object").with_source(error))?;
    let values: Vec<&serde_json::Value> = key.iter().filter_map(|name| row.get(name)).collect();
    serde_json::to_string(&values).map_err(|error| Error::internal("a key is no JSON").with_source(error))
}

fn next_state(before: &FeedState, vector: String, columns: Vec<Column>, rows: Vec<Row>) -> FeedState {
    let old: BTreeMap<u64, &Arc<str>> = before.rows.iter().map(|row| (row.number, &row.json)).collect();
    let new: BTreeMap<u64, &Arc<str>> = rows.iter().map(|row| (row.number, &row.json)).collect();
    let upserts = rows.iter().filter(|row| old.get(&row.number) != Some(&&row.json)).cloned().collect();
    let deletes = old.keys().filter(|number| !new.contains_key(number)).copied().collect();
    let number = before.tick + 1;
    let mut ticks = before.ticks.clone();
    ticks.push_back(Arc::new(Tick { number, vector: vector.clone(), upserts, deletes }));
    while ticks.len() > MOST_TICKS {
        ticks.pop_front();
    }
    FeedState { tick: number, vector, columns, rows: Arc::new(rows), ticks, trouble: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(of: &[(u64, &str)]) -> Vec<Row> {
        of.iter().map(|(number, json)| Row { number: *number, json: (*json).into() }).collect()
    }

    #[test]
    fn applying_ticks_to_an_answer_gives_the_next() {
        let answers = [
            rows(&[(1, "a"), (2, "b")]),
            rows(&[(1, "a"), (2, "b2"), (3, "c")]),
            rows(&[(3, "c")]),
            rows(&[]),
            rows(&[(4, "d")]),
        ];
        let mut state = FeedState::default();
        let mut shown: BTreeMap<u64, Arc<str>> = BTreeMap::new();
        for answer in answers {
            state = next_state(&state, "v".into(), Vec::new(), answer.clone());
            let tick = state.ticks.back().expect("a tick");
            for row in &tick.upserts {
                shown.insert(row.number, row.json.clone());
            }
            for number in &tick.deletes {
                assert!(shown.remove(number).is_some());
            }
            assert_eq!(shown, answer.iter().map(|row| (row.number, row.json.clone())).collect());
        }
        assert_eq!(state.ticks.iter().map(|tick| tick.upserts.len()).collect::<Vec<_>>(), [2, 2, 0, 0, 1]);
    }

    #[test]
    fn a_key_keeps_its_number() {
        let mut numbers = Numbers::default();
        let (a, b) = (numbers.of("a".into()), numbers.of("b".into()));
        assert_eq!(numbers.of("a".into()), a);
        numbers.keep_only(&rows(&[(b, "")]));
        assert_ne!(numbers.of("a".into()), a, "it was forgotten");
        assert_eq!(numbers.of("b".into()), b);
    }
}
