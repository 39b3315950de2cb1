//! All collectors of a config: started, watched and stopped together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tarn_log::{Log, TopicOptions};
use tarn_model::clock::{self, Clock};
use tarn_model::config::{Config, RestartPolicy, SourceConfig, SourceKind, has_place};
use tarn_model::status::{RunStatus, SourceStatus};
use tarn_model::{Error, Result};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::appender::ENOUGH_BYTES;
use crate::control::{is_paused, set_paused};
use crate::database::{Database, history, last_run};
use crate::exec::Exec;
use crate::generator::Generator;
use crate::http::Door;
use crate::kafka::Kafka;
use crate::listener::Listener;
use crate::monitor::{Monitor, State};
use crate::mqtt::Mqtt;
use crate::source::{Collector, Ended, Source, spawn};
use crate::spooldir::Spooldir;
use crate::stop::Stop;
use crate::taildir::Taildir;
use crate::throttle::Throttle;

#[cfg(test)]
mod tests;

/// How long a word to pause waits for the source to come to rest.
const LONGEST_PAUSING: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long collectors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunMode {
    /// Until they are stopped.
    Continuous,
    /// Until every bounded source is read to the end it had at start.
    Drain,
}

/// The running collectors of a config. Dropping them stops them, without waiting.
#[derive(Debug)]
pub struct Collectors {
    mode: RunMode,
    running: Vec<Running>,
    monitors: Vec<Arc<Monitor>>,
    door: Arc<Door>,
    /// The signal of each source, by name.
    stops: BTreeMap<String, Arc<Stop>>,
    log: Log,
    clock: Arc<dyn Clock>,
    /// Held while a source is told to pause or to go on, so that the log says what the source does.
    controlling: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Running {
    name: String,
    /// Whether it has an end of its own.
    bounded: bool,
    ended: watch::Receiver<Option<Ended>>,
}

impl Running {
    async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or(Ended::Well),
            Err(_) => Ended::Well,
        }
    }
}

impl Collectors {
    /// Creates the topics that the sources fill (as the config declares them), and starts one thread per source. Called
    /// within a tokio runtime, on which the appends run.
    pub fn start(config: &Config, log: Log, clock: Arc<dyn Clock>, mode: RunMode) -> Result<Collectors> {
        Collectors::start_with(config, log, clock, mode, ENOUGH_BYTES)
    }

    /// The same with another size of appends.
    pub(crate) fn start_with(
        config: &Config,
        log: Log,
        clock: Arc<dyn Clock>,
        mode: RunMode,
        append_bytes: usize,
    ) -> Result<Collectors> {
        let runtime = Handle::try_current()
            .map_err(|error| Error::internal("collectors start within a runtime").with_source(error))?;
        let mut collectors = Collectors {
            mode,
            running: Vec::new(),
            monitors: Vec::new(),
            door: Arc::new(Door::new(log.clone(), clock.clone(), config.serving.max_request_size.as_usize())),
            stops: BTreeMap::new(),
            log: log.clone(),
            clock: clock.clone(),
            controlling: tokio::sync::Mutex::default(),
        };
        for source in &config.sources {
            let stop = Arc::new(Stop::new(is_paused(&log, &source.name)?));
            collectors.stops.insert(source.name.clone(), stop);
        }
        for source_config in &config.sources {
            let in_source = |error: Error| {
                let told = Error::new(error.kind(), format!("source `{}`: {error}", source_config.name));
                match error.hint() {
                    Some(hint) => told.with_hint(hint.to_owned()),
                    None => told,
                }
            };
            for topic in source_config.topics().filter(|topic| !has_place(topic)) {
                create_topic(&log, config, topic).map_err(in_source)?;
            }
            let monitor = Monitor::new(
                &source_config.name,
                source_config.kind.name(),
                &source_config.topic,
                clock.clone(),
            );
            if collectors.stops.get(&source_config.name).is_some_and(|stop| stop.is_paused()) {
                monitor.state(State::Paused);
            }
            collectors.monitors.push(monitor.clone());
            let source = Source {
                name: source_config.name.clone(),
                topic: source_config.topic.clone(),
                config: source_config.clone(),
                log: log.clone(),
                clock: clock.clone(),
                monitor,
                mode,
                runtime: runtime.clone(),
                stop: collectors.stops.get(&source_config.name).cloned().unwrap_or_default(),
                followers: collectors.followers_of(config, &source_config.name),
                leader: source_config.after().and_then(|leader| collectors.stops.get(leader).cloned()),
                throttle: source_config.rate_limit.as_ref().map(Throttle::new),
                append_bytes,
            };
            collectors.start_source(config, source_config, source).map_err(in_source)?;
        }
        Ok(collectors)
    }

    fn start_source(&mut self, config: &Config, source_config: &SourceConfig, source: Source) -> Result<()> {
        match &source_config.kind {
            SourceKind::Spooldir(kind) => self.run(source, true, Spooldir::new(kind.clone())?),
            SourceKind::Taildir(kind) => {
                self.run(source, true, Taildir::new(kind.clone(), config.data_dir.join("staging"))?)
            }
            SourceKind::Generator(kind) => {
                self.run(source, kind.count.is_some(), Generator::new(kind.clone()))
            }
            SourceKind::Http(_) => {
                let door = Arc::get_mut(&mut self.door)
                    .ok_or_else(|| Error::internal("the door is in use before it has all its topics"))?;
                if !source.stop.is_paused() {
                    source.monitor.state(State::Running);
                }
                door.open(&source.config, source.monitor, source.throttle, source.stop)
            }
            SourceKind::Syslog(kind) => self.run(source, false, Listener::of_syslog(kind.clone())),
            SourceKind::Netcat(kind) => self.run(source, false, Listener::of_netcat(kind.clone())?),
            SourceKind::Exec(kind) => {
                self.run(source, kind.restart == RestartPolicy::Never, Exec::new(kind.clone())?)
            }
            SourceKind::Mqtt(kind) => self.run(source, false, Mqtt::new(kind.clone())),
            SourceKind::Kafka(kind) => self.run(source, true, Kafka::new(kind.clone(), config)),
            SourceKind::Database(kind) => self.run(source, true, Database::new(kind.clone(), config)?),
        }
    }

    fn run(&mut self, source: Source, bounded: bool, collector: impl Collector) -> Result<()> {
        let name = source.name.clone();
        let ended = spawn(source, collector)?;
        self.running.push(Running { name, bounded, ended });
        Ok(())
    }

    /// `POST /v1/ingest/{topic}`.
    pub fn router(&self) -> axum::Router {
        self.door.clone().router()
    }

    /// Takes all the room for bodies, until what comes back is dropped.
    #[cfg(test)]
    pub(crate) fn hold_the_door(&self) -> impl Drop + '_ {
        self.door.take_all_room()
    }

    /// What each source does, in the order of the config.
    pub fn status(&self) -> Vec<SourceStatus> {
        self.monitors.iter().map(|monitor| monitor.status()).collect()
    }

    /// Pauses a source: durably first, then it comes to rest. Whether it has by now; one that is busy may take longer.
    pub async fn pause(&self, name: &str) -> Result<bool> {
        let (stop, monitor) = self.controls(name)?;
        let controlling = self.controlling.lock().await;
        set_paused(&self.log, &*self.clock, name, true).await?;
        stop.pause();
        let has_thread = self.running.iter().any(|running| running.name == name);
        if !has_thread {
            monitor.state(State::Paused);
            return Ok(true);
        }
        drop(controlling);
        let since = Instant::now();
        while !stop.is_at_rest() && since.elapsed() < LONGEST_PAUSING {
            clock::pause(LOOK_EVERY).await;
        }
        Ok(stop.is_at_rest())
    }

    /// Lets a paused source go on where it was.
    pub async fn resume(&self, name: &str) -> Result<()> {
        let (stop, monitor) = self.controls(name)?;
        let _one_at_a_time = self.controlling.lock().await;
        set_paused(&self.log, &*self.clock, name, false).await?;
        let has_thread = self.running.iter().any(|running| running.name == name);
        if has_thread {
            stop.resume();
        } else {
            monitor.state(State::Running);
            stop.resume_at_once();
        }
        Ok(())
    }

    /// Has a `database` source run now, whatever its schedule says; the number of the run, which begins after this call.
    pub fn run_now(&self, config: &Config, name: &str) -> Result<u64> {
        let (stop, _) = self.controls(name)?;
        has_runs(config, name)?;
        if self.mode == RunMode::Drain {
            return Err(Error::conflict("in a drain each source runs once").with_hint("wait for its end"));
        }
        if stop.is_paused() {
            return Err(Error::conflict(format!("source `{name}` is paused"))
                .with_hint(format!("`tarn source resume {name}` lets it go on")));
        }
        let last = last_run(&self.log, name)?.map_or(0, |run| run.number);
        Ok(stop.want_run(last))
    }

    /// The runs of a `database` source, the newest first.
    pub fn history(&self, config: &Config, name: &str) -> Result<Vec<RunStatus>> {
        let (stop, _) = self.controls(name)?;
        has_runs(config, name)?;
        history(&self.log, name, !stop.is_set() && !stop.has_ended())
    }

    fn controls(&self, name: &str) -> Result<(&Arc<Stop>, &Arc<Monitor>)> {
        let monitor = self.monitors.iter().find(|monitor| monitor.name() == name);
        self.stops.get(name).zip(monitor).ok_or_else(|| {
            let known: Vec<&str> = self.stops.keys().map(String::as_str).collect();
            Error::invalid(format!("there is no source `{name}` that runs"))
                .with_hint(format!("sources: {}", known.join(", ")))
        })
    }

    fn followers_of(&self, config: &Config, leader: &str) -> Vec<Arc<Stop>> {
        let follows = |source: &&SourceConfig| source.after() == Some(leader);
        let followers = config.sources.iter().filter(follows);
        followers.filter_map(|source| self.stops.get(&source.name).cloned()).collect()
    }

    /// Completes once every bounded source has ended by itself (in [`RunMode::Drain`]), or when one failed for good.
    /// Sources without an end (HTTP, a generator without a count) are not waited for.
    pub async fn drained(&self) -> Result<()> {
        let (done, mut told) = tokio::sync::mpsc::unbounded_channel();
        let mut waiting = tokio::task::JoinSet::new();
        for running in &self.running {
            let (done, ended, name) = (done.clone(), running.ended.clone(), running.name.clone());
            let running = Running { name, bounded: running.bounded, ended };
            waiting.spawn(async move {
                let how = running.ended().await;
                let _ = done.send((running.name, running.bounded, how));
            });
        }
        drop(done);
        let mut left = self.running.iter().filter(|running| running.bounded).count();
        while self.mode == RunMode::Continuous || left > 0 {
            match told.recv().await {
                Some((name, _, Ended::Failed(kind, message, hint))) => {
                    let error = Error::new(kind, format!("source `{name}` failed: {message}"));
                    return Err(match hint {
                        Some(hint) => error.with_hint(hint),
                        None => error,
                    });
                }
                Some((_, bounded, Ended::Well)) => left -= usize::from(bounded),
                None if self.mode == RunMode::Drain => return Ok(()),
                None => std::future::pending().await,
            }
        }
        Ok(())
    }

    /// Stops after what is under way; nothing half-read is committed.
    pub async fn stop(&self) {
        self.stops.values().for_each(|stop| stop.set());
        for running in &self.running {
            running.ended().await;
        }
        self.door.close().await;
    }
}

impl Drop for Collectors {
    fn drop(&mut self) {
        self.stops.values().for_each(|stop| stop.set());
    }
}

/// An error that says which sources have runs, when this one has none.
pub fn has_runs(config: &Config, name: &str) -> Result<()> {
    let is_job = |source: &&SourceConfig| matches!(source.kind, SourceKind::Database(_));
    if config.sources.iter().filter(is_job).any(|source| source.name == name) {
        return Ok(());
    }
    let jobs: Vec<&str> = config.sources.iter().filter(is_job).map(|source| source.name.as_str()).collect();
    let error = Error::invalid(format!("source `{name}` has no runs: it follows what comes"));
    Err(error.with_hint(match jobs.as_slice() {
        [] => "only `database` sources have runs".to_owned(),
        jobs => format!("sources with runs: {}", jobs.join(", ")),
    }))
}

/// Creates `name` as the config declares it, with one partition when it does not.
pub(crate) fn create_topic(log: &Log, config: &Config, name: &str) -> Result<()> {
    let declared = config.topics.iter().find(|topic| topic.name == name);
    let options = TopicOptions {
        partitions: declared.map_or(1, |topic| topic.partitions),
        retention_time: declared.and_then(|topic| topic.retention_time).map(|span| span.0),
        retention_bytes: declared.and_then(|topic| topic.retention_size).map(|size| size.0),
    };
    if declared.is_none() && log.topic(name).is_some() {
        return Ok(());
    }
    log.create_topic(name, &options).map(drop)
}
