//! What waits for the committer: appends, and jobs that only it may do.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tarn_model::{Error, Result};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::append::Appended;
use crate::committer::Committer;
use crate::error::LogError;
use crate::sealed::Sealed;

/// Most bytes of appends that one commit takes.
const COMMIT_BYTES: usize = 64 << 20;

/// An append that waits for its commit.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) sealed: Sealed,
    pub(crate) bytes: usize,
    pub(crate) answer: oneshot::Sender<Result<Appended>>,
    /// Its share of the queue's bounds, given back with the answer.
    pub(crate) room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Pending {
    pub(crate) fn answer(self, answer: Result<Appended>) {
        drop(self.room);
        // A client that no longer waits has no use for the answer.
        let _ = self.answer.send(answer);
    }
}

/// Something that only the committer may do, between two commits.
pub(crate) type Job = Box<dyn FnOnce(&mut Committer) + Send>;

/// What the committer does next.
pub(crate) enum Work {
    Job(Job),
    Appends(Vec<Pending>),
    /// The deadline has come.
    Tick,
    /// Nothing will come any more; `true` when all that came is to be synced.
    End {
        clean: bool,
    },
}

/// First come, first served; jobs before appends.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    appends: VecDeque<Pending>,
    jobs: VecDeque<Job>,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Clean,
    Abrupt,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("appends", &self.waiting.lock().appends.len()).finish_non_exhaustive()
    }
}

impl Queue {
    /// Adds an append; a closed log answers it at once.
    pub(crate) fn append(&self, pending: Pending) {
        let mut waiting = self.waiting.lock();
        if waiting.end.is_some() {
            drop(waiting);
            return pending.answer(Err(LogError::Closed.into()));
        }
        waiting.appends.push_back(pending);
        self.changed.notify_one();
    }

    /// Adds a job; a closed log drops it.
    pub(crate) fn job(&self, job: Job) {
        let mut waiting = self.waiting.lock();
        if waiting.end.is_none() {
            waiting.jobs.push_back(job);
            self.changed.notify_one();
        }
    }

    /// What waits is still done, nothing new is taken.
    pub(crate) fn close(&self) {
        self.end(End::Clean);
    }

    /// Nothing that waits is done.
    pub(crate) fn abandon(&self) {
        self.end(End::Abrupt);
        // Whoever waits for a job sees that it was dropped; dropped outside the lock.
        let jobs = std::mem::take(&mut self.waiting.lock().jobs);
        drop(jobs);
    }

    fn end(&self, end: End) {
        let mut waiting = self.waiting.lock();
        if waiting.end != Some(End::Abrupt) {
            waiting.end = Some(end);
        }
        self.changed.notify_one();
    }

    /// Waits for work, until `deadline` if there is one.
    pub(crate) fn next(&self, deadline: Option<Instant>) -> Work {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.end == Some(End::Abrupt) {
                return Work::End { clean: false };
            }
            if let Some(job) = waiting.jobs.pop_front() {
                return Work::Job(job);
            }
            if !waiting.appends.is_empty() {
                return Work::Appends(waiting.take_appends());
            }
            if waiting.end.is_some() {
                return Work::End { clean: true };
            }
            match deadline {
                None => self.changed.wait(&mut waiting),
                Some(deadline) => {
                    if self.changed.wait_until(&mut waiting, deadline).timed_out() {
                        return Work::Tick;
                    }
                }
            }
        }
    }

    /// Answers everything that waits with an error.
    pub(crate) fn refuse_all(&self, why: impl Fn() -> Error) {
        let appends = std::mem::take(&mut self.waiting.lock().appends);
        for pending in appends {
            pending.answer(Err(why()));
        }
    }
}

impl Waiting {
    fn take_appends(&mut self) -> Vec<Pending> {
        let mut bytes = 0;
        let more = |pending: &Pending| {
            bytes += pending.bytes;
            bytes <= COMMIT_BYTES
        };
        let count = self.appends.iter().map(more).take_while(|more| *more).count().max(1);
        self.appends.drain(..count).collect()
    }
}
