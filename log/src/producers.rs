//! Idempotent producers: which of their batches a partition has, so that a batch sent twice is kept once and none is left out.
//!
//! A producer numbers its records per partition. A batch is taken when it follows the last one of the same producer, or when
//! nothing is known of the producer there; one of the last five that comes again is answered as it was the first time; all
//! else is refused. A higher epoch begins at 0 and shuts out the lower ones.
//!
//! *Invariants*: the state of a partition changes in the commit that appends the batch, and with it is taken back; it outlives
//! the process, in the ledger. Only the committer has it.

use std::collections::{HashMap, VecDeque};

use tarn_model::{Error, Offset, PartitionId};

use crate::refused::Refused;

/// Batches per producer and partition that are known again: as many as a producer may have in flight.
const KNOWN_BATCHES: usize = 5;
const BATCH_ROW_BYTES: usize = 16;

/// Producer, epoch and sequences of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) producer: i64,
    pub(crate) epoch: i16,
    /// Sequence of the first record.
    pub(crate) first: i32,
    /// Sequence of the last record.
    pub(crate) last: i32,
    /// Whether the batch belongs to a transaction.
    pub(crate) transactional: bool,
}

impl Stamp {
    /// The stamp of a batch that begins at the sequence `first`; sequences wrap to 0 behind the largest.
    pub(crate) fn new(producer: i64, epoch: i16, first: i32, last_offset_delta: i32) -> Stamp {
        let last = first.checked_add(last_offset_delta).unwrap_or_else(|| {
            // Both are at most `i32::MAX`, so the sum passes it by less than that.
            first.wrapping_add(last_offset_delta) & i32::MAX
        });
        Stamp { producer, epoch, first, last, transactional: false }
    }
}

/// A partition's topic (its number in the ledger), its number, and a producer.
pub(crate) type ProducerKey = (i64, PartitionId, i64);

/// What a partition knows of a producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProducerState {
    pub(crate) epoch: i16,
    /// The last batches, the newest behind.
    batches: VecDeque<Known>,
    /// When the newest was appended.
    pub(crate) at_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    first: i32,
    last: i32,
    base: Base,
}

/// Where a known batch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Committed(Offset),
    /// The append at this place of the commit that is being made.
    Under(usize),
}

/// What is to be done with a batch.
#[derive(Debug)]
pub(crate) enum Verdict {
    Fresh,
    /// It is at this offset.
    Repeat(Offset),
    /// It repeats the append at this place of the same commit.
    RepeatOf(usize),
    Refused(Error),
}

/// All producers, as committed.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    states: HashMap<ProducerKey, ProducerState>,
}

/// Producers as the commit that is being made changes them.
#[derive(Debug, Default)]
pub(crate) struct Advanced {
    pub(crate) states: HashMap<ProducerKey, ProducerState>,
}

impl Producers {
    pub(crate) fn new(states: HashMap<ProducerKey, ProducerState>) -> Producers {
        Producers { states }
    }

    /// Judges a batch on top of what `advanced` already has.
    pub(crate) fn judge(
        &self,
        advanced: &Advanced,
        (topic, partition): (i64, PartitionId),
        stamp: Stamp,
    ) -> Verdict {
        let key = (topic, partition, stamp.producer);
        self.known(advanced, &key).map_or(Verdict::Fresh, |known| known.judge(stamp))
    }

    /// Notes in `advanced` a fresh batch, the append at `place`.
    pub(crate) fn take(
        &self,
        advanced: &mut Advanced,
        (topic, partition): (i64, PartitionId),
        stamp: Stamp,
        place: usize,
        now_ms: i64,
    ) {
        let key = (topic, partition, stamp.producer);
        let known = self.known(advanced, &key).cloned();
        let mut state = known.unwrap_or_else(|| ProducerState::new(stamp.epoch, now_ms));
        state.take(stamp, Base::Under(place), now_ms);
        advanced.states.insert(key, state);
    }

    /// Notes in `advanced` that a marker of this epoch shuts out the lower ones.
    pub(crate) fn shut_out(&self, advanced: &mut Advanced, key: ProducerKey, epoch: i16, now_ms: i64) {
        if self.known(advanced, &key).is_none_or(|known| known.epoch < epoch) {
            advanced.states.insert(key, ProducerState::new(epoch, now_ms));
        }
    }

    /// Those that a partition remembers: producer, epoch, last sequence (-1 when it has none), when it last wrote.
    pub(crate) fn of(
        &self,
        topic: i64,
        partition: PartitionId,
    ) -> impl Iterator<Item = (i64, i16, i32, i64)> + '_ {
        self.states.iter().filter(move |((of, at, _), _)| *of == topic && *at == partition).map(
            |((_, _, producer), state)| {
                let last = state.batches.back().map_or(-1, |known| known.last);
                (*producer, state.epoch, last, state.at_ms)
            },
        )
    }

    fn known<'a>(&'a self, advanced: &'a Advanced, key: &ProducerKey) -> Option<&'a ProducerState> {
        advanced.states.get(key).or_else(|| self.states.get(key))
    }

    /// The commit was made.
    pub(crate) fn commit(&mut self, advanced: Advanced) {
        self.states.extend(advanced.states);
    }

    /// Forgets the producers of a topic that is gone.
    pub(crate) fn forget_topic(&mut self, topic: i64) {
        self.states.retain(|(of, _, _), _| *of != topic);
    }

    /// Forgets producers that have not written since `before_ms`; whether there were any.
    pub(crate) fn expire(&mut self, before_ms: i64) -> bool {
        let before = self.states.len();
        self.states.retain(|_, state| state.at_ms >= before_ms);
        self.states.len() < before
    }
}

impl Advanced {
    /// The appends of this commit have their offsets: `base(place)` is where the append at `place` begins.
    pub(crate) fn settle(&mut self, base: impl Fn(usize) -> Offset) {
        for known in self.states.values_mut().flat_map(|state| &mut state.batches) {
            if let Base::Under(place) = known.base {
                known.base = Base::Committed(base(place));
            }
        }
    }
}

impl ProducerState {
    fn new(epoch: i16, at_ms: i64) -> ProducerState {
        ProducerState { epoch, batches: VecDeque::new(), at_ms }
    }

    fn judge(&self, stamp: Stamp) -> Verdict {
        let told = |what: String| format!("{what} producer=`{}` epoch=`{}`", stamp.producer, stamp.epoch);
        if stamp.epoch < self.epoch {
            let what = format!("a producer of epoch {} has taken over", self.epoch);
            return Verdict::Refused(Refused::StaleEpoch.because(told(what)));
        }
        if stamp.epoch > self.epoch {
            if stamp.first == 0 {
                return Verdict::Fresh;
            }
            let what = format!("a new epoch begins at sequence 0, not {}", stamp.first);
            return Verdict::Refused(Refused::OutOfOrder.because(told(what)));
        }
        if let Some(known) = self.batches.iter().find(|k| (k.first, k.last) == (stamp.first, stamp.last)) {
            return match known.base {
                Base::Committed(offset) => Verdict::Repeat(offset),
                Base::Under(place) => Verdict::RepeatOf(place),
            };
        }
        // Without a batch the epoch has just begun.
        let next = self.batches.back().map_or(0, |newest| newest.last.checked_add(1).unwrap_or(0));
        if stamp.first == next {
            return Verdict::Fresh;
        }
        let what = format!("the next sequence is {next}, not {}", stamp.first);
        Verdict::Refused(Refused::OutOfOrder.because(told(what)))
    }

    fn take(&mut self, stamp: Stamp, base: Base, now_ms: i64) {
        if stamp.epoch != self.epoch {
            self.epoch = stamp.epoch;
            self.batches.clear();
        }
        if self.batches.len() == KNOWN_BATCHES {
            self.batches.pop_front();
        }
        self.batches.push_back(Known { first: stamp.first, last: stamp.last, base });
        self.at_ms = now_ms;
    }

    /// The batches as the ledger keeps them: first sequence, last sequence, base offset, big-endian.
    pub(crate) fn batches_row(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(self.batches.len() * BATCH_ROW_BYTES);
        for known in &self.batches {
            let Base::Committed(base) = known.base else { continue };
            row.extend(known.first.to_be_bytes());
            row.extend(known.last.to_be_bytes());
            row.extend(base.to_be_bytes());
        }
        row
    }

    /// What [`ProducerState::batches_row`] wrote; `None` when it is torn.
    pub(crate) fn from_row(epoch: i16, row: &[u8], at_ms: i64) -> Option<ProducerState> {
        let mut state = ProducerState::new(epoch, at_ms);
        let rows = row.chunks_exact(BATCH_ROW_BYTES);
        if !rows.remainder().is_empty() || rows.len() > KNOWN_BATCHES {
            return None;
        }
        for row in rows {
            state.batches.push_back(Known {
                first: i32::from_be_bytes(*row.first_chunk()?),
                last: i32::from_be_bytes(*row[4..].first_chunk()?),
                base: Base::Committed(i64::from_be_bytes(*row.last_chunk()?)),
            });
        }
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: (i64, PartitionId) = (1, 0);

    fn batch(epoch: i16, first: i32, records: i32) -> Stamp {
        Stamp::new(7, epoch, first, records - 1)
    }

    /// Commits one append with this batch at `offset`.
    fn commit(producers: &mut Producers, stamp: Stamp, offset: Offset) -> Verdict {
        let mut advanced = Advanced::default();
        let verdict = advance(producers, &mut advanced, stamp, 0);
        advanced.settle(|_| offset);
        producers.commit(advanced);
        verdict
    }

    fn advance(producers: &Producers, advanced: &mut Advanced, stamp: Stamp, place: usize) -> Verdict {
        let verdict = producers.judge(advanced, HERE, stamp);
        if matches!(verdict, Verdict::Fresh) {
            producers.take(advanced, HERE, stamp, place, 1);
        }
        verdict
    }

    #[test]
    fn a_batch_that_follows_is_taken_and_one_that_does_not_is_refused() {
        let mut producers = Producers::default();
        assert!(matches!(commit(&mut producers, batch(0, 0, 10), 100), Verdict::Fresh));
        assert!(matches!(commit(&mut producers, batch(0, 10, 5), 110), Verdict::Fresh));
        for gap in [16, 14, 0] {
            let Verdict::Refused(error) = commit(&mut producers, batch(0, gap, 4), 999) else {
                panic!("sequence {gap} was taken")
            };
            assert_eq!(Refused::of(&error), Some(Refused::OutOfOrder));
        }
        assert!(matches!(commit(&mut producers, batch(0, 15, 1), 115), Verdict::Fresh));
    }

    #[test]
    fn the_last_five_batches_are_known_again_with_their_offsets() {
        let mut producers = Producers::default();
        for n in 0..7 {
            assert!(matches!(commit(&mut producers, batch(0, n * 10, 10), i64::from(n)), Verdict::Fresh));
        }
        for n in 2..7 {
            let Verdict::Repeat(offset) = commit(&mut producers, batch(0, n * 10, 10), 999) else {
                panic!("batch {n} is not known")
            };
            assert_eq!(offset, i64::from(n));
        }
        assert!(matches!(commit(&mut producers, batch(0, 10, 10), 999), Verdict::Refused(_)), "the sixth");
    }

    #[test]
    fn a_repeat_within_one_commit_points_at_the_first() {
        let producers = Producers::default();
        let mut advanced = Advanced::default();
        assert!(matches!(advance(&producers, &mut advanced, batch(0, 0, 1), 3), Verdict::Fresh));
        assert!(matches!(advance(&producers, &mut advanced, batch(0, 0, 1), 4), Verdict::RepeatOf(3)));
        assert!(matches!(advance(&producers, &mut advanced, batch(0, 1, 1), 5), Verdict::Fresh));
    }

    #[test]
    fn a_higher_epoch_begins_at_zero_and_shuts_out_the_lower() {
        let mut producers = Producers::default();
        assert!(matches!(commit(&mut producers, batch(3, 40, 1), 0), Verdict::Fresh), "nothing is known yet");
        assert!(matches!(commit(&mut producers, batch(4, 41, 1), 0), Verdict::Refused(_)));
        assert!(matches!(commit(&mut producers, batch(4, 0, 1), 1), Verdict::Fresh));
        let Verdict::Refused(error) = commit(&mut producers, batch(3, 41, 1), 0) else { panic!("taken") };
        assert_eq!(Refused::of(&error), Some(Refused::StaleEpoch));
    }

    #[test]
    fn a_marker_of_a_higher_epoch_shuts_out_the_lower_and_one_of_the_same_changes_nothing() {
        let mut producers = Producers::default();
        commit(&mut producers, batch(3, 0, 2), 0);
        let mut advanced = Advanced::default();
        producers.shut_out(&mut advanced, (HERE.0, HERE.1, 7), 3, 1);
        assert!(matches!(producers.judge(&advanced, HERE, batch(3, 2, 1)), Verdict::Fresh));
        producers.shut_out(&mut advanced, (HERE.0, HERE.1, 7), 4, 1);
        producers.commit(advanced);
        assert!(matches!(commit(&mut producers, batch(3, 2, 1), 9), Verdict::Refused(_)));
        assert!(matches!(commit(&mut producers, batch(4, 0, 1), 9), Verdict::Fresh));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let mut producers = Producers::default();
        let stamp = batch(0, i32::MAX - 1, 4);
        assert_eq!(stamp.last, 1);
        assert!(matches!(commit(&mut producers, stamp, 0), Verdict::Fresh));
        assert!(matches!(commit(&mut producers, batch(0, 2, 1), 4), Verdict::Fresh));
        let mut producers = Producers::default();
        assert!(matches!(commit(&mut producers, batch(0, i32::MAX, 1), 0), Verdict::Fresh));
        assert!(matches!(commit(&mut producers, batch(0, 0, 1), 1), Verdict::Fresh));
    }

    #[test]
    fn a_state_comes_back_from_its_row() {
        let mut producers = Producers::default();
        for n in 0..6 {
            commit(&mut producers, batch(2, n, 1), i64::from(n) * 3);
        }
        let state = &producers.states[&(HERE.0, HERE.1, 7)];
        let row = state.batches_row();
        assert_eq!(ProducerState::from_row(2, &row, 1).as_ref(), Some(state));
        assert_eq!(ProducerState::from_row(2, &row[1..], 1), None);
    }
}
