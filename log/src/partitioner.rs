//! Which partition a record belongs to: by the murmur2 hash of its key, as Kafka's Java client chooses it.

use std::sync::atomic::{AtomicU32, Ordering};

use tarn_model::PartitionId;

/// The partition of `key`: `(murmur2(key) & 0x7fffffff) % partitions`.
#[inline]
pub fn of_key(key: &[u8], partitions: i32) -> PartitionId {
    (murmur2(key) & 0x7fff_ffff).cast_signed() % partitions.max(1)
}

/// A number that changes from append to append; keyless records of one append stay together in the partition
/// `turn % partitions`.
pub(crate) fn next_turn() -> u32 {
    static TURN: AtomicU32 = AtomicU32::new(0);
    TURN.fetch_add(1, Ordering::Relaxed)
}

/// Murmur2, 32 bits, with the seed of Kafka's clients.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    // Kafka's clients take the length as a Java int: it wraps, though no key is that long.
    #[expect(clippy::cast_possible_truncation, reason = "wraps as in the reference")]
    let mut hash = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of the test `testMurmur2` in Apache Kafka's `UtilsTest`.
    #[test]
    fn murmur2_agrees_with_kafka() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn a_key_always_has_the_same_partition_in_range() {
        for partitions in 1..7 {
            for key in 0_u32..200 {
                let partition = of_key(&key.to_be_bytes(), partitions);
                assert!((0..partitions).contains(&partition));
                assert_eq!(partition, of_key(&key.to_be_bytes(), partitions));
            }
        }
    }
}
