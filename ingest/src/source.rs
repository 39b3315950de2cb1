//! What every collector is given, and the loop around it.
//!
//! A collector is one thread that blocks: it reads files and databases, which block anyway, and waits on a signal that
//! [`Source::pause`] listens to. Only the commit runs on the async runtime. A source that is paused keeps its thread, and has its
//! collector called again once it goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tarn_log::{Log, TopicInfo};
use tarn_model::clock::Clock;
use tarn_model::config::SourceConfig;
use tarn_model::{Error, Kind, Result};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::RunMode;
use crate::monitor::{Monitor, State, tell};
use crate::stop::{Rest, Stop};
use crate::throttle::Throttle;

const FIRST_BACK_OFF: Duration = Duration::from_millis(200);
const LAST_BACK_OFF: Duration = Duration::from_secs(10);
/// How long a source that is to stop tries to commit what it holds.
const LONGEST_FINISH: Duration = Duration::from_secs(5);

/// Brings what a source has into the log.
pub(crate) trait Collector: Send + 'static {
    /// Collects from the committed position on. Returns when the source is at its end or [`Source::stopping`]; an error
    /// of a kind that is worth another try has this called again.
    fn collect(&mut self, source: &Source) -> Result<()>;

    /// Commits what came and cannot be asked for again: the last work of a source that stops, whatever `collect` said. It
    /// is called again after an error that is worth another try, for a few seconds.
    fn finish(&mut self, _source: &Source) -> Result<()> {
        Ok(())
    }

    /// Messages that came, cannot be asked for again, and are not known to be committed.
    fn held(&self) -> usize {
        0
    }
}

/// One source of the config, as its collector sees it.
#[derive(Debug)]
pub(crate) struct Source {
    /// Name under which positions are kept.
    pub(crate) name: String,
    /// Topic that it fills.
    pub(crate) topic: String,
    /// All that the config says of it.
    pub(crate) config: SourceConfig,
    pub(crate) log: Log,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) mode: RunMode,
    pub(crate) runtime: Handle,
    pub(crate) stop: Arc<Stop>,
    /// Sources that run after each run of this one.
    pub(crate) followers: Vec<Arc<Stop>>,
    /// The source after whose runs this one runs.
    pub(crate) leader: Option<Arc<Stop>>,
    /// How fast it may be, if that is limited.
    pub(crate) throttle: Option<Throttle>,
    /// Size of an append.
    pub(crate) append_bytes: usize,
}

impl Source {
    /// The topic as it is now.
    pub(crate) fn topic_info(&self) -> Result<Arc<TopicInfo>> {
        self.topic_named(&self.topic)
    }

    pub(crate) fn topic_named(&self, name: &str) -> Result<Arc<TopicInfo>> {
        self.log.topic(name).ok_or_else(|| {
            Error::invalid(format!("there is no topic `{name}`")).with_hint("declare it under `[[topic]]`")
        })
    }

    /// Whether to return from `collect`.
    pub(crate) fn stopping(&self) -> bool {
        self.stop.is_set()
    }

    /// Waits for `duration`, or less when the source is to stop or was nudged.
    pub(crate) fn pause(&self, duration: Duration) {
        self.stop.wait(duration);
    }

    pub(crate) fn draining(&self) -> bool {
        self.mode == RunMode::Drain
    }
}

/// How a source ended.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    /// By itself, or because it was stopped.
    Well,
    /// For good; the parts of its error.
    Failed(Kind, String, Option<String>),
}

impl Ended {
    fn failed(error: &Error) -> Ended {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Ended::Failed(error.kind(), text, error.hint().map(str::to_owned))
    }
}

/// Runs `collector` on a thread of its own until it ends; the receiver tells how.
pub(crate) fn spawn(source: Source, mut collector: impl Collector) -> Result<watch::Receiver<Option<Ended>>> {
    let (ended, told) = watch::channel(None);
    std::thread::Builder::new()
        .name(format!("in-{}", source.name))
        .spawn(move || {
            let outcome =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&source, &mut collector)));
            let outcome = outcome
                .unwrap_or_else(|_| Err(Error::internal(format!("source `{}` panicked", source.name))));
            let how = match outcome {
                Ok(()) => {
                    let state = match (source.stop.is_paused(), source.stopping()) {
                        (true, _) => State::Paused,
                        (false, true) => State::Stopped,
                        (false, false) => State::Done,
                    };
                    source.monitor.state(state);
                    info!(source = source.name, records = source.monitor.records(), ?state, "source ended");
                    Ended::Well
                }
                Err(error) => {
                    error!(source = source.name, error = tell(&error), "source failed for good");
                    source.monitor.error(&error);
                    source.monitor.state(State::Stopped);
                    Ended::failed(&error)
                }
            };
            drop(collector);
            source.stop.end();
            source.followers.iter().for_each(|follower| follower.nudge());
            let _ = ended.send(Some(how));
        })
        .map_err(|error| Error::unavailable("no thread for a source").with_source(error))?;
    Ok(told)
}

fn run(source: &Source, collector: &mut impl Collector) -> Result<()> {
    loop {
        if !source.stop.is_paused() {
            until_it_rests(source, collector)?;
        }
        if !source.stop.is_paused() {
            return Ok(());
        }
        source.monitor.state(State::Paused);
        match source.stop.come_to_rest() {
            Rest::GoesOn => {}
            Rest::Stays if source.draining() => {
                warn!(source = source.name, "the source is paused: the drain is without it");
                return Ok(());
            }
            Rest::Stays => info!(source = source.name, "source is paused"),
            Rest::Ends => return Ok(()),
        }
        if !source.stop.wait_while_paused() {
            if collector.held() > 0 {
                let finished = finish(source, collector);
                let (lost, error) = (collector.held(), finished.as_ref().err().map(tell));
                warn!(source = source.name, lost, error, "it ends while it is paused");
            }
            return Ok(());
        }
        info!(source = source.name, "source goes on");
    }
}

/// Collects, and commits what the collector holds when it is to come to rest.
fn until_it_rests(source: &Source, collector: &mut impl Collector) -> Result<()> {
    let collected = collect(source, collector);
    let finished = if source.stopping() { finish(source, collector) } else { Ok(()) };
    let lost = collector.held();
    if lost > 0 && !source.stop.is_paused() {
        let error = collected.as_ref().err().or(finished.as_ref().err()).map(tell);
        warn!(source = source.name, lost, error, "what was received is not committed");
    }
    collected
}

/// Collects until the source is at its end, has failed for good, or is to stop.
fn collect(source: &Source, collector: &mut impl Collector) -> Result<()> {
    let mut back_off = FIRST_BACK_OFF;
    source.monitor.state(State::Running);
    loop {
        let before = source.monitor.records();
        let error = match collector.collect(source) {
            Ok(()) => return Ok(()),
            Err(_) if source.stopping() => return Ok(()),
            Err(error) => error,
        };
        if !is_worth_another_try(source, &error) {
            return Err(error);
        }
        if source.monitor.records() > before {
            back_off = FIRST_BACK_OFF;
        }
        warn!(source = source.name, error = tell(&error), retry_in_ms = back_off.as_millis(), "source waits");
        source.monitor.waiting(&error);
        source.pause(back_off);
        if source.stopping() {
            return Ok(());
        }
        back_off = (back_off * 2).min(LAST_BACK_OFF);
    }
}

fn finish(source: &Source, collector: &mut impl Collector) -> Result<()> {
    let since = Instant::now();
    loop {
        match collector.finish(source) {
            Err(error) if is_worth_another_try(source, &error) && since.elapsed() < LONGEST_FINISH => {
                std::thread::park_timeout(FIRST_BACK_OFF);
            }
            finished => return finished,
        }
    }
}

/// A log that has stopped does not start again within this process.
fn is_worth_another_try(source: &Source, error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::Conflict) && source.log.failure().is_none()
}
