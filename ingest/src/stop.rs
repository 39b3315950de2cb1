//! What a source is told from outside while it works: to pause, to go on, to stop, to run now.
//!
//! *Why one signal*: whatever makes a collector stop (a thread that waits, a connection that reads) makes it pause as well. A
//! paused source is one whose collector has come back, with what it had committed or held, and is called again later: it goes on
//! from its committed position, as after an error. A pause that a collector may have seen lasts until it has come back, also when
//! it is taken back meanwhile: half of it would stop, and half go on.
//!
//! *Not here*: that a source is paused still after a restart: [`crate::control`].

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// The signal of one source.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    signals: Mutex<Signals>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Signals {
    phase: Phase,
    /// Whether somebody has woken it since it waited last.
    nudged: bool,
    /// Whether it has come to rest since it was paused.
    halted: bool,
    /// Whether its thread has ended.
    ended: bool,
    /// The newest run that has begun, and the newest that is wanted.
    begun: u64,
    wanted: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Going,
    Paused,
    /// Paused, and to go on once it has come to rest.
    Resuming,
    Stopped,
}

/// What a source does that has come to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    GoesOn,
    Stays,
    Ends,
}

impl Stop {
    /// The signal of a source that is paused at its start, or not.
    pub(crate) fn new(paused: bool) -> Stop {
        let stop = Stop::default();
        if paused {
            stop.pause();
        }
        stop
    }

    /// Ends the source for good.
    pub(crate) fn set(&self) {
        self.change(|signals| signals.phase = Phase::Stopped);
    }

    /// Whether the source is to come to rest: to stop, or to pause.
    pub(crate) fn is_set(&self) -> bool {
        self.signals.lock().phase != Phase::Going
    }

    pub(crate) fn pause(&self) {
        self.change(|signals| match signals.phase {
            Phase::Going => (signals.phase, signals.halted) = (Phase::Paused, false),
            Phase::Resuming => signals.phase = Phase::Paused,
            Phase::Paused | Phase::Stopped => {}
        });
    }

    pub(crate) fn resume(&self) {
        self.change(|signals| {
            if signals.phase == Phase::Paused {
                let rests = signals.halted || signals.ended;
                signals.phase = if rests { Phase::Going } else { Phase::Resuming };
            }
        });
    }

    /// Goes on at once: of what has no thread that must come to rest.
    pub(crate) fn resume_at_once(&self) {
        self.change(|signals| {
            if signals.phase != Phase::Stopped {
                signals.phase = Phase::Going;
            }
        });
    }

    pub(crate) fn is_paused(&self) -> bool {
        matches!(self.signals.lock().phase, Phase::Paused | Phase::Resuming)
    }

    /// Whether a source that was paused does nothing any more.
    pub(crate) fn is_at_rest(&self) -> bool {
        let signals = self.signals.lock();
        signals.ended || signals.halted
    }

    /// The source has come to rest: what it does now.
    pub(crate) fn come_to_rest(&self) -> Rest {
        let mut signals = self.signals.lock();
        signals.halted = true;
        match signals.phase {
            Phase::Resuming => {
                (signals.phase, signals.halted) = (Phase::Going, false);
                Rest::GoesOn
            }
            Phase::Going => {
                signals.halted = false;
                Rest::GoesOn
            }
            Phase::Paused => Rest::Stays,
            Phase::Stopped => Rest::Ends,
        }
    }

    /// Waits while the source is paused; whether it is to go on.
    pub(crate) fn wait_while_paused(&self) -> bool {
        loop {
            match self.come_to_rest() {
                Rest::GoesOn => return true,
                Rest::Ends => return false,
                Rest::Stays => {}
            }
            let mut signals = self.signals.lock();
            if signals.phase == Phase::Paused {
                self.changed.wait(&mut signals);
            }
        }
    }

    /// Wakes the source, or keeps it from its next wait: there may be something to do.
    pub(crate) fn nudge(&self) {
        self.change(|signals| signals.nudged = true);
    }

    /// Waits for `duration`, or less when the source is to come to rest or was nudged.
    pub(crate) fn wait(&self, duration: Duration) {
        let mut signals = self.signals.lock();
        if signals.phase == Phase::Going && !signals.nudged {
            self.changed.wait_for(&mut signals, duration);
        }
        signals.nudged = false;
    }

    /// Its thread has ended.
    pub(crate) fn end(&self) {
        self.change(|signals| signals.ended = true);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.signals.lock().ended
    }

    /// Run `number` begins: it may see anything that is written from now on.
    pub(crate) fn begin_run(&self, number: u64) {
        self.signals.lock().begun = number;
    }

    /// Asks for a run that begins after this call; `last` is the newest one that the log knows. The run's number.
    pub(crate) fn want_run(&self, last: u64) -> u64 {
        let mut signals = self.signals.lock();
        let number = signals.begun.max(last) + 1;
        signals.wanted = signals.wanted.max(number);
        signals.nudged = true;
        drop(signals);
        self.changed.notify_all();
        number
    }

    /// The newest run that is wanted.
    pub(crate) fn wanted_run(&self) -> u64 {
        self.signals.lock().wanted
    }

    fn change(&self, change: impl FnOnce(&mut Signals)) {
        change(&mut self.signals.lock());
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nudge_before_the_wait_is_not_lost() {
        let stop = Stop::default();
        stop.nudge();
        let since = std::time::Instant::now();
        stop.wait(Duration::from_secs(3600));
        assert!(since.elapsed() < Duration::from_secs(600));
    }

    #[test]
    fn a_pause_ends_with_resume_or_stop_and_stop_is_for_good() {
        let stop = Stop::new(true);
        assert!(stop.is_paused() && stop.is_set() && !stop.is_at_rest());
        stop.resume();
        assert!(stop.is_set() && stop.wait_while_paused() && !stop.is_set());
        stop.pause();
        assert!(!stop.is_at_rest());
        assert_eq!(stop.come_to_rest(), Rest::Stays);
        assert!(stop.is_at_rest());
        stop.resume();
        assert!(!stop.is_set() && stop.wait_while_paused());
        stop.set();
        stop.pause();
        stop.resume();
        assert!(stop.is_set() && !stop.is_paused() && !stop.wait_while_paused());
    }

    #[test]
    fn a_pause_that_is_taken_back_holds_until_the_source_has_come_to_rest() {
        let stop = Stop::new(false);
        stop.pause();
        let seen = stop.is_set();
        stop.resume();
        assert!(seen && stop.is_set() && stop.is_paused(), "who looks a second time sees the same");
        assert_eq!(stop.come_to_rest(), Rest::GoesOn);
        assert!(!stop.is_set() && !stop.is_paused());
        stop.pause();
        stop.resume();
        stop.pause();
        assert_eq!(stop.come_to_rest(), Rest::Stays, "the last word counts");
        stop.set();
        assert_eq!(stop.come_to_rest(), Rest::Ends);
    }

    #[test]
    fn a_run_that_is_asked_for_is_one_that_begins_later() {
        let stop = Stop::default();
        assert_eq!((stop.want_run(0), stop.want_run(0)), (1, 1));
        stop.begin_run(1);
        assert_eq!(stop.want_run(0), 2, "the log does not know of run 1 yet");
        assert_eq!(stop.want_run(1), 2);
        stop.begin_run(2);
        assert_eq!((stop.want_run(1), stop.wanted_run()), (3, 3));
    }
}
