//! When a run is due: now, at a time, after another source's run, when it is asked for.
//!
//! *Invariants*: a run that was begun and is not done comes first. A source that runs `after` another keeps, with its run, which
//! of the other's runs it follows, so that each of those is followed by one that began later, and none by two.

use chrono::DateTime;
use croner::Cron;
use serde::{Deserialize, Serialize};
use tarn_log::Log;
use tarn_model::config::{DatabaseConfig, DatabaseMode};
use tarn_model::{Error, Result};

use super::{RUN, from_json};
use crate::source::Source;

#[cfg(test)]
mod tests;

/// The run under way, or the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) number: u64,
    pub(super) started_ms: i64,
    pub(super) done: bool,
    /// The newest run of the source that it follows that was done when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<u64>,
}

/// What the log knows of a source's newest run.
pub(crate) fn last_run(log: &Log, source: &str) -> Result<Option<Run>> {
    log.position(source, RUN)?.map(from_json).transpose()
}

/// When the next run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    /// At this time, ms since 1970.
    At(i64),
    /// When another source's run is done.
    Later,
    /// Only when it is asked for.
    Never,
}

/// The schedule of one source.
pub(super) struct Schedule {
    cron: Option<Cron>,
    config: DatabaseConfig,
    /// In a drain there is one run, but for what follows others.
    pub(super) ran: bool,
}

impl Schedule {
    pub(super) fn new(config: &DatabaseConfig) -> Result<Schedule> {
        let cron = config.cron.as_deref().map(str::parse::<Cron>).transpose();
        let cron = cron.map_err(|error| Error::invalid("`cron` is no cron expression").with_source(error))?;
        Ok(Schedule { cron, config: config.clone(), ran: false })
    }

    pub(super) fn due(&self, source: &Source, last: Option<Run>) -> Result<Due> {
        let number = last.map_or(0, |run| run.number);
        if last.is_some_and(|run| !run.done) || source.stop.wanted_run() > number {
            return Ok(Due::Now);
        }
        if self.config.after.is_some() {
            // Asked in this order: a run that is done before its source has ended is seen.
            let ended = source.leader.as_ref().is_none_or(|leader| leader.has_ended());
            let done = self.leaders_run(source)?;
            let is_new = done.is_some() && done != last.and_then(|run| run.after);
            return Ok(match (is_new, source.draining() && ended) {
                (true, _) => Due::Now,
                (false, false) => Due::Later,
                (false, true) => Due::Never,
            });
        }
        let now_ms = source.clock.now_ms();
        let Some(last) = last else {
            return match &self.cron {
                Some(cron) if !source.draining() => next_of(cron, now_ms).map(|at| at_or_now(at, now_ms)),
                _ => Ok(Due::Now),
            };
        };
        // Without a schedule, rows that were read whole are not read again by a restart; new ones are.
        let is_new = self.config.mode != DatabaseMode::Full;
        let is_scheduled = self.cron.is_some() || self.config.every.is_some();
        if source.draining() || !is_scheduled {
            let again = !self.ran && (is_new || is_scheduled);
            return Ok(if again { Due::Now } else { Due::Never });
        }
        let at = match (&self.cron, self.config.every) {
            (Some(cron), _) => next_of(cron, last.started_ms)?,
            (None, every) => last.started_ms.saturating_add(every.map_or(0, |every| every.as_millis())),
        };
        Ok(at_or_now(at, now_ms))
    }

    /// The newest run that is done of the source that this one follows.
    pub(super) fn leaders_run(&self, source: &Source) -> Result<Option<u64>> {
        let Some(leader) = &self.config.after else { return Ok(None) };
        let run = last_run(&source.log, leader)?;
        Ok(run.map(|run| if run.done { run.number } else { run.number - 1 }).filter(|number| *number > 0))
    }
}

fn at_or_now(at_ms: i64, now_ms: i64) -> Due {
    if at_ms > now_ms { Due::At(at_ms) } else { Due::Now }
}

fn next_of(cron: &Cron, after_ms: i64) -> Result<i64> {
    let after = DateTime::from_timestamp_millis(after_ms).unwrap_or(DateTime::UNIX_EPOCH);
    let next = cron.find_next_occurrence(&after, false);
    next.map(|next| next.timestamp_millis())
        .map_err(|error| Error::invalid("`cron` never comes to pass").with_source(error))
}
