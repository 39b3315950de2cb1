//! Numbers that look random and are a function of a seed: splitmix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom
//! Number Generators", 2014), begun anew for each record.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The throws that make one record.
pub(super) struct Dice {
    state: u64,
}

impl Dice {
    pub(super) fn new(seed: u64, n: u64) -> Dice {
        Dice { state: xxh3_64_with_seed(&n.to_le_bytes(), seed) }
    }

    pub(super) fn throw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In `0..sides`, evenly.
    pub(super) fn below(&mut self, sides: u64) -> u64 {
        let product = u128::from(self.throw()) * u128::from(sides);
        u64::try_from(product >> 64).unwrap_or(0)
    }

    /// In `0..sides`, small numbers far more often: the cube of an even number.
    pub(super) fn skewed(&mut self, sides: u64) -> u64 {
        const UNIT: u64 = 1 << 20;
        let even = u128::from(self.below(UNIT));
        let unit = u128::from(UNIT);
        u64::try_from(even * even * even * u128::from(sides) / (unit * unit * unit)).unwrap_or(0)
    }

    /// One of `choices`, by weight.
    pub(super) fn pick<'c, T>(&mut self, choices: &'c [(u64, T)]) -> &'c T {
        let mut left = self.below(choices.iter().map(|(weight, _)| weight).sum());
        for (weight, choice) in choices {
            if left < *weight {
                return choice;
            }
            left -= weight;
        }
        &choices[0].1
    }
}
