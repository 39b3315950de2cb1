//! Feeds: a query that is evaluated again whenever its answer may be another one, once for all who subscribe to it.
//!
//! ```text
//! what it reads moves ──► at most 5 times a second, all feeds at the same moments: run the query ──► compare by key ──► tick n: upserts, deletes, vector
//!                                                                                    │ watch: only the newest state
//!                                                        subscriber at tick m < n ◄──┘
//!                                     ticks m+1..n are still there: these; else: the whole answer
//! ```
//!
//! *Why no queue per subscriber*: whoever is slow sees fewer and larger steps, and in the end a snapshot; nothing grows.
//!
//! *Invariants*: a tick is the difference of two whole answers of the same columns, each at one vector; applying it to the one gives
//! the other. Rows are known by a number that a row's key keeps as long as the feed lives. However many ask first, the first answer is
//! made once, and its error is told to all of them and kept for nobody. A feed without subscribers rests, is brought up to date before
//! the next one sees it, and ends by itself. A feed rests as long as it works, so that a query that is dear is asked less often.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, Shared, WeakShared};
use parking_lot::Mutex;
use tarn_model::{Error, Result, clock};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::columns::{Column, columns_of};
use crate::engine::{Answer, Engine};
use crate::error::from_datafusion;
use crate::http::lines;
use crate::reads::{Reads, Sight};

/// Time between two looks at what a query reads.
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
    known: Arc<Mutex<HashMap<Question, Known>>>,
}

/// A feed, and a look at its states.
pub(crate) type Subscription = (Arc<Feed>, watch::Receiver<Arc<FeedState>>);

/// What a feed answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    sql: String,
    key: Vec<String>,
}

/// A feed that there is, or that is being made.
#[derive(Debug)]
enum Known {
    Kept(Arc<Feed>),
    /// It is made as long as somebody waits for it.
    Made(Token, WeakShared<BoxFuture<'static, Made>>),
}

/// The first answer that all who ask for it wait for.
type Making = Shared<BoxFuture<'static, Made>>;
type Made = std::result::Result<(), Arc<Error>>;
/// Tells the making of a feed from another one for the same question.
type Token = Arc<()>;

/// Where a feed that is being made stands; it is vacant again when none comes of it.
struct Place {
    feeds: Feeds,
    question: Question,
    token: Token,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut known = self.feeds.known.lock();
        if let Some(Known::Made(token, _)) = known.get(&self.question)
            && Arc::ptr_eq(token, &self.token)
        {
            known.remove(&self.question);
        }
    }
}

/// One query with its newest answer.
#[derive(Debug)]
pub(crate) struct Feed {
    /// Tells this feed's ticks from those of an earlier process.
    pub(crate) id: String,
    pub(crate) states: watch::Sender<Arc<FeedState>>,
    question: Question,
    reads: Reads,
    /// Nobody listened when it was to be looked after last, so its answer may be old.
    sleeps: AtomicBool,
    keeping: tokio::sync::Mutex<Keeping>,
}

/// What makes the next answer of a feed from the last.
#[derive(Debug)]
struct Keeping {
    numbers: Numbers,
    /// How what it reads stood before the newest answer.
    seen: Sight,
    evaluated: Instant,
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
        Feeds { engine, began: Instant::now(), known: Arc::default() }
    }

    /// The feed of `sql`, whose rows are known by the columns `key` (none: by all). The first subscribers wait for the first
    /// answer, and get its error.
    pub(crate) async fn subscribe(&self, sql: &str, key: Vec<String>) -> Result<Subscription> {
        let question = Question { sql: sql.trim().trim_end_matches(';').to_owned(), key };
        loop {
            match self.join(&question)? {
                Joined::Kept((feed, states)) => {
                    if feed.sleeps.load(Ordering::Acquire) {
                        feed.catch_up(&self.engine).await;
                    }
                    return Ok((feed, states));
                }
                Joined::Made(making) => making.await.map_err(|error| told(&error))?,
            }
        }
    }

    /// The feed of `question`, joined under the lock that the map is behind, or its making, which begins here if it has not.
    fn join(&self, question: &Question) -> Result<Joined> {
        let mut known = self.known.lock();
        match known.get(question) {
            Some(Known::Kept(feed)) => {
                return Ok(Joined::Kept((Arc::clone(feed), feed.states.subscribe())));
            }
            Some(Known::Made(_, making)) => {
                if let Some(making) = making.upgrade() {
                    return Ok(Joined::Made(making));
                }
            }
            None if known.len() >= MOST_FEEDS => {
                return Err(Error::unavailable(format!(
                    "there are {MOST_FEEDS} subscriptions to different queries"
                ))
                .with_hint("subscribe to a query that others have, or wait for one of them to end"));
            }
            None => {}
        }
        let token = Token::default();
        let place = Place { feeds: self.clone(), question: question.clone(), token: Arc::clone(&token) };
        let making = async move { place.fill().await.map_err(Arc::new) }.boxed().shared();
        if let Some(weak) = making.downgrade() {
            known.insert(question.clone(), Known::Made(token, weak));
        }
        Ok(Joined::Made(making))
    }

    /// Evaluates the query whenever what it reads has moved, until nobody has listened for a while.
    async fn keep(self, feed: Arc<Feed>) {
        let (mut lonely, mut rest) = (0, Duration::ZERO);
        loop {
            clock::pause(self.until_next_tick(rest)).await;
            rest = Duration::ZERO;
            if feed.states.receiver_count() == 0 {
                // Whoever joins holds this lock: a feed that is found is one that goes on.
                let mut known = self.known.lock();
                if feed.states.receiver_count() == 0 {
                    feed.sleeps.store(true, Ordering::Release);
                    lonely += 1;
                    if lonely >= LONELY_TICKS {
                        known.remove(&feed.question);
                        return;
                    }
                    continue;
                }
            }
            lonely = 0;
            rest = feed.catch_up(&self.engine).await;
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

/// What is there for a question.
enum Joined {
    Kept(Subscription),
    Made(Making),
}

impl Place {
    /// Makes the feed, and lets everybody find it.
    async fn fill(self) -> Result<()> {
        let engine = &self.feeds.engine;
        // What cannot be read as a statement is refused below, with more to say.
        // What cannot be told now may be anything; a statement that is wrong is refused when it is evaluated.
        let reads = engine.reads(&self.question.sql).await.unwrap_or_else(|_| Reads::anything());
        // What comes while the first answer is made is newer than it.
        let (seen, evaluated, mut numbers) = (engine.sight(&reads), Instant::now(), Numbers::default());
        let answer = evaluate(engine, &self.question, &mut numbers).await?;
        let first = answer.after(&FeedState::default());
        let feed = Arc::new(Feed {
            id: clock::new_id().simple().to_string(),
            states: watch::channel(Arc::new(first)).0,
            question: self.question.clone(),
            reads,
            sleeps: AtomicBool::new(false),
            keeping: tokio::sync::Mutex::new(Keeping { numbers, seen, evaluated }),
        });
        self.feeds.known.lock().insert(self.question.clone(), Known::Kept(Arc::clone(&feed)));
        tokio::spawn(self.feeds.clone().keep(feed));
        Ok(())
    }
}

impl Feed {
    /// Evaluates the query if its answer may be another one by now; how long that took.
    async fn catch_up(&self, engine: &Engine) -> Duration {
        let mut keeping = self.keeping.lock().await;
        let now = engine.sight(&self.reads);
        let is_old = self.reads.by_the_clock() && keeping.evaluated.elapsed() >= CLOCK_TICK;
        let in_trouble = self.states.borrow().trouble.is_some();
        if now == keeping.seen && !is_old && !in_trouble {
            self.sleeps.store(false, Ordering::Release);
            return Duration::ZERO;
        }
        let begun = Instant::now();
        keeping.evaluated = begun;
        let state = self.states.borrow().clone();
        match evaluate(engine, &self.question, &mut keeping.numbers).await {
            Ok(answer) => {
                keeping.seen = now;
                self.sleeps.store(false, Ordering::Release);
                if !answer.is_told_by(&state) {
                    self.states.send_replace(Arc::new(answer.after(&state)));
                }
            }
            Err(error) => {
                keeping.numbers.keep_only(&state.rows);
                tracing::debug!(error = %error.chain(), "a feed has no newer answer");
                let trouble = Some(error.to_string());
                if state.trouble != trouble {
                    self.states.send_replace(Arc::new(FeedState { trouble, ..FeedState::clone(&state) }));
                }
            }
        }
        begun.elapsed()
    }
}

/// An error that many wait for, for one of them.
fn told(error: &Arc<Error>) -> Error {
    /// The causes of an error that others have, too.
    #[derive(Debug)]
    struct Cause(Arc<Error>);

    impl Cause {
        fn cause(&self) -> Option<&(dyn std::error::Error + 'static)> {
            std::error::Error::source(&*self.0)
        }
    }

    impl fmt::Display for Cause {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.cause().map_or(Ok(()), |cause| fmt::Display::fmt(cause, f))
        }
    }

    impl std::error::Error for Cause {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            self.cause().and_then(std::error::Error::source)
        }
    }

    let mut copy = Error::new(error.kind(), error.to_string());
    if let Some(hint) = error.hint() {
        copy = copy.with_hint(hint);
    }
    if let Some(code) = error.sqlstate() {
        copy = copy.with_sqlstate(code);
    }
    if let Some(place) = error.place() {
        copy = copy.with_place(place);
    }
    let cause = Cause(Arc::clone(error));
    if cause.cause().is_some() { copy.with_source(cause) } else { copy }
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

/// A whole answer.
struct Whole {
    vector: String,
    columns: Vec<Column>,
    rows: Vec<Row>,
}

async fn evaluate(engine: &Engine, question: &Question, numbers: &mut Numbers) -> Result<Whole> {
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
    Ok(Whole { vector: vector.to_string(), columns, rows: found })
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

impl Whole {
    /// Whether whoever knows `state` knows all of it.
    fn is_told_by(&self, state: &FeedState) -> bool {
        state.trouble.is_none()
            && self.vector == state.vector
            && self.columns == state.columns
            && self.rows == *state.rows
    }

    /// The state that follows `before`. Other columns are no change of rows: no tick leads there.
    fn after(self, before: &FeedState) -> FeedState {
        let Whole { vector, columns, rows } = self;
        let number = before.tick + 1;
        let mut ticks = VecDeque::new();
        if columns == before.columns {
            let old: BTreeMap<u64, &Arc<str>> =
                before.rows.iter().map(|row| (row.number, &row.json)).collect();
            let new: BTreeMap<u64, &Arc<str>> = rows.iter().map(|row| (row.number, &row.json)).collect();
            let upserts =
                rows.iter().filter(|row| old.get(&row.number) != Some(&&row.json)).cloned().collect();
            let deletes = old.keys().filter(|number| !new.contains_key(number)).copied().collect();
            ticks.clone_from(&before.ticks);
            ticks.push_back(Arc::new(Tick { number, vector: vector.clone(), upserts, deletes }));
            while ticks.len() > MOST_TICKS {
                ticks.pop_front();
            }
        }
        FeedState { tick: number, vector, columns, rows: Arc::new(rows), ticks, trouble: None }
    }
}

#[cfg(test)]
mod tests;
