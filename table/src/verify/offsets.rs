//! A set of offsets, dense or not, in memory that follows what is in it.

use std::collections::BTreeMap;

use tarn_model::{Offset, OffsetRange};

/// Offsets, as bits in chunks. A chunk that is complete needs no bits, so a table that is read roughly in order takes
/// next to no memory, and one that is read in any order one bit an offset.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    chunks: BTreeMap<i64, Chunk>,
}

#[derive(Debug)]
enum Chunk {
    Some(Box<[u64; WORDS]>, usize),
    All,
}

const WORDS: usize = 1024;
const CHUNK_BITS: usize = WORDS * 64;
const CHUNK: i64 = 65_536;

impl Offsets {
    /// Adds `offset`; whether it is new.
    pub(super) fn insert(&mut self, offset: Offset) -> bool {
        let (index, word, bit) = place(offset);
        let chunk = self.chunks.entry(index).or_insert_with(|| Chunk::Some(Box::new([0; WORDS]), 0));
        let Chunk::Some(words, count) = chunk else { return false };
        let new = words[word] & bit == 0;
        if new {
            words[word] |= bit;
            *count += 1;
            if *count == CHUNK_BITS {
                *chunk = Chunk::All;
            }
        }
        new
    }

    /// Whether `offset` is in.
    pub(super) fn contains(&self, offset: Offset) -> bool {
        let (index, word, bit) = place(offset);
        match self.chunks.get(&index) {
            None => false,
            Some(Chunk::All) => true,
            Some(Chunk::Some(words, _)) => words[word] & bit != 0,
        }
    }

    /// Calls `gap` with each range within `range` that is not in, in order.
    pub(super) fn gaps(&self, range: OffsetRange, mut gap: impl FnMut(OffsetRange)) {
        let mut covered = range.from;
        // Ranges of offsets that are in, merged with `covered` as they come.
        let mut take = |from: Offset, to: Offset| {
            let (from, to) = (from.max(range.from), to.min(range.to));
            if from >= to {
                return;
            }
            if from > covered {
                gap(OffsetRange::new(covered, from));
            }
            covered = covered.max(to);
        };
        for (index, chunk) in self.chunks.range(range.from.div_euclid(CHUNK)..=range.to.div_euclid(CHUNK)) {
            let start = index * CHUNK;
            match chunk {
                Chunk::All => take(start, start + CHUNK),
                Chunk::Some(words, _) => {
                    for (word, bits) in (0_i64..).zip(words.iter()) {
                        let (mut bits, mut at) = (*bits, start + word * 64);
                        while bits != 0 {
                            let skip = bits.trailing_zeros();
                            let run = (bits >> skip).trailing_ones();
                            take(at + i64::from(skip), at + i64::from(skip + run));
                            bits = bits.checked_shr(skip + run).unwrap_or(0);
                            at += i64::from(skip + run);
                        }
                    }
                }
            }
        }
        if covered < range.to {
            gap(OffsetRange::new(covered, range.to));
        }
    }
}

fn place(offset: Offset) -> (i64, usize, u64) {
    let bit = usize::try_from(offset.rem_euclid(CHUNK)).expect("a remainder is not negative");
    (offset.div_euclid(CHUNK), bit / 64, 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn gaps(offsets: &Offsets, range: OffsetRange) -> Vec<OffsetRange> {
        let mut gaps = Vec::new();
        offsets.gaps(range, |gap| gaps.push(gap));
        gaps
    }

    #[test]
    fn a_complete_chunk_holds_no_bits() {
        let mut offsets = Offsets::default();
        assert!((0..CHUNK + 1).all(|offset| offsets.insert(offset)));
        assert!(!offsets.insert(0) && !offsets.insert(CHUNK));
        assert!(matches!(offsets.chunks[&0], Chunk::All));
        assert!(matches!(offsets.chunks[&1], Chunk::Some(_, 1)));
        assert_eq!(gaps(&offsets, OffsetRange::new(0, CHUNK + 3)), [OffsetRange::new(CHUNK + 1, CHUNK + 3)]);
    }

    proptest! {
        #[test]
        fn it_is_a_set(added in prop::collection::vec(0_i64..400, 0..300), from in 0_i64..300, length in 0_i64..200, base in prop_oneof![Just(0), Just(CHUNK - 100)]) {
            let mut offsets = Offsets::default();
            let mut model = BTreeSet::new();
            for offset in added {
                prop_assert_eq!(offsets.insert(base + offset), model.insert(base + offset));
            }
            let range = OffsetRange::new(base + from, base + from + length);
            let missing: Vec<Offset> = (range.from..range.to).filter(|offset| !model.contains(offset)).collect();
            let found = gaps(&offsets, range);
            prop_assert!(found.iter().all(|gap| !gap.is_empty()));
            prop_assert!(found.windows(2).all(|pair| pair[0].to < pair[1].from));
            prop_assert_eq!(found.iter().flat_map(|gap| gap.from..gap.to).collect::<Vec<_>>(), missing);
            prop_assert!((0..400).all(|o| offsets.contains(base + o) == model.contains(&(base + o))));
        }
    }
}
