//! What a collector says of itself: counters it bumps while it works, read by `tarn status` at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tarn_model::Error;
use tarn_model::clock::Clock;
use tarn_model::status::{LastError, SourceStatus};

/// A number that may be unknown, in one atomic.
const UNKNOWN: u64 = u64::MAX;

/// What a source does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It reads.
    Running,
    /// There is nothing to read.
    Idle,
    /// It waits, for it was as fast as its rate limit lets it be.
    Limited,
    /// Something is wrong; it tries again.
    Waiting,
    /// Somebody paused it.
    Paused,
    /// It has ended by itself.
    Done,
    /// It was stopped, or failed for good.
    Stopped,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Idle => "idle",
            State::Limited => "limited",
            State::Waiting => "waiting",
            State::Paused => "paused",
            State::Done => "done",
            State::Stopped => "stopped",
        }
    }
}

/// Counters and state of one source.
#[derive(Debug)]
pub(crate) struct Monitor {
    name: String,
    kind: &'static str,
    topic: String,
    clock: Arc<dyn Clock>,
    records: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
    lag_bytes: AtomicU64,
    total_bytes: AtomicU64,
    /// Where it listens.
    addresses: Mutex<Vec<String>>,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    state: State,
    last_error: Option<LastError>,
    /// Whether the error is over once something succeeds; one about a file that was set aside stays.
    passing: bool,
}

impl Monitor {
    pub(crate) fn new(name: &str, kind: &'static str, topic: &str, clock: Arc<dyn Clock>) -> Arc<Monitor> {
        Arc::new(Monitor {
            name: name.to_owned(),
            kind,
            topic: topic.to_owned(),
            clock,
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            addresses: Mutex::new(Vec::new()),
            lag_bytes: AtomicU64::new(UNKNOWN),
            total_bytes: AtomicU64::new(UNKNOWN),
            now: Mutex::new(Now { state: State::Idle, last_error: None, passing: false }),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Records were committed: the source works again, so an error that made it wait is over.
    pub(crate) fn committed(&self, records: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.recovered();
    }

    pub(crate) fn read(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A filter dropped records, and that is committed.
    pub(crate) fn dropped(&self, records: u64) {
        self.dropped.fetch_add(records, Ordering::Relaxed);
    }

    pub(crate) fn listens(&self, addresses: Vec<String>) {
        *self.addresses.lock() = addresses;
    }

    pub(crate) fn lag(&self, bytes: u64) {
        self.lag_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn total(&self, bytes: u64) {
        self.total_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Changes the state, but not from waiting: only a success ends that.
    pub(crate) fn state(&self, state: State) {
        let mut now = self.now.lock();
        if now.state != State::Waiting || matches!(state, State::Paused | State::Done | State::Stopped) {
            now.state = state;
        }
    }

    /// Something succeeded.
    pub(crate) fn recovered(&self) {
        let mut now = self.now.lock();
        if now.state == State::Waiting {
            now.state = State::Running;
        }
        if now.passing {
            *now = Now { state: now.state, last_error: None, passing: false };
        }
    }

    /// Keeps `error` for people to see: it stays.
    pub(crate) fn error(&self, error: &Error) {
        let mut now = self.now.lock();
        now.last_error = Some(self.last_error(error));
        now.passing = false;
    }

    /// Keeps `error` and waits; the next success ends both.
    pub(crate) fn waiting(&self, error: &Error) {
        *self.now.lock() =
            Now { state: State::Waiting, last_error: Some(self.last_error(error)), passing: true };
    }

    fn last_error(&self, error: &Error) -> LastError {
        LastError { message: tell(error), at_ms: self.clock.now_ms() }
    }

    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    pub(crate) fn status(&self) -> SourceStatus {
        let known = |number: &AtomicU64| Some(number.load(Ordering::Relaxed)).filter(|n| *n != UNKNOWN);
        let (state, last_error) = {
            let now = self.now.lock();
            (now.state, now.last_error.clone())
        };
        SourceStatus {
            name: self.name.clone(),
            kind: self.kind.to_owned(),
            topic: self.topic.clone(),
            state: state.as_str().to_owned(),
            records: self.records(),
            bytes: self.bytes.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            addresses: self.addresses.lock().clone(),
            lag_bytes: known(&self.lag_bytes),
            total_bytes: known(&self.total_bytes),
            last_error,
            ..SourceStatus::default()
        }
    }
}

/// An error with its causes and its hint, in one line.
pub(crate) fn tell(error: &Error) -> String {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    if let Some(hint) = error.hint() {
        text.push_str(" (");
        text.push_str(hint);
        text.push(')');
    }
    text
}
