//! Which states of a view become one.
//!
//! *Why by size*: a view of a million groups to which a thousand come at a time must not be written anew each time. States are merged with
//! what comes only while they are at most twice as many as all that is merged with them, smallest first. So each row is merged again about
//! as often as the number of states doubles, and what a read finds beside the largest part is at most about as much again.
//!
//! *Invariants*: merging is always right, and so is leaving it: a read merges whatever there is.

use tarn_lake::{LakeFile, LakeSnapshot};

/// Files of states that become one where they are small.
const MERGE_FILES: usize = 8;
/// Rows above which two files are worth a merge: reading them costs more than opening one.
const MANY_ROWS: usize = 64 * 1024;

/// Positions of the parts, `rows` rows each, that become one with `new` rows more. Where all that are small, that waits until there are
/// `least`, the new one counted.
pub(crate) fn to_merge(rows: &[usize], new: usize, least: usize) -> Vec<usize> {
    let mut by_size: Vec<usize> = (0..rows.len()).collect();
    by_size.sort_by_key(|at| rows[*at]);
    let (mut total, mut taken) = (new, Vec::new());
    for at in by_size {
        if rows[at] > total.saturating_mul(2) {
            break;
        }
        total = total.saturating_add(rows[at]);
        taken.push(at);
    }
    if total < MANY_ROWS && taken.len() + 1 < least { Vec::new() } else { taken }
}

/// The files of `snapshot` that become one with `new` rows more.
pub(crate) fn files_to_merge(snapshot: &LakeSnapshot, new: usize) -> Vec<LakeFile> {
    // A file of unknown size is left alone.
    let size = |rows: Option<i64>| rows.and_then(|rows| usize::try_from(rows).ok()).unwrap_or(usize::MAX);
    let rows: Vec<usize> = snapshot.statistics.rows.iter().map(size).collect();
    to_merge(&rows, new, MERGE_FILES).into_iter().map(|at| snapshot.files[at].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows written, and parts that are left, after `commits` commits of `new` rows each to a view of `groups` groups of which the first
    /// `before` are there.
    fn after(groups: usize, before: usize, new: usize, commits: usize, least: usize) -> (usize, Vec<usize>) {
        let (mut parts, mut written) = (vec![before], 0);
        for _ in 0..commits {
            let mut merging = to_merge(&parts, new, least);
            merging.sort_unstable();
            // At worst no two parts share a group, until all groups are there.
            let merged = (new + merging.iter().map(|at| parts[*at]).sum::<usize>()).min(groups);
            for at in merging.into_iter().rev() {
                parts.swap_remove(at);
            }
            parts.push(merged);
            written += merged;
        }
        (written, parts)
    }

    #[test]
    fn a_small_commit_to_a_large_view_costs_little() {
        for (new, most) in [(100, 8), (1_000, 8), (10_000, 8), (100_000, 5)] {
            let (written, parts) = after(1_000_000, 1_000_000, new, 1_000, MERGE_FILES);
            assert!(
                written <= most * new * 1_000,
                "{new} rows a commit: each was written {} times",
                written / new / 1_000
            );
            let left: usize = parts.iter().sum();
            assert!(parts.len() <= 16 && left <= 2_000_000, "{new} rows a commit: {parts:?}");
        }
    }

    #[test]
    fn a_small_view_is_one_file_again_and_again() {
        for least in [2, MERGE_FILES] {
            let (_, parts) = after(100, 100, 100, 1_001, least);
            assert!(parts.len() < least, "{parts:?}");
        }
        assert_eq!(to_merge(&[100; 6], 100, MERGE_FILES), Vec::<usize>::new(), "seven are left as they are");
        assert_eq!(to_merge(&[100; 7], 100, MERGE_FILES).len(), 7);
    }

    #[test]
    fn nothing_grows_without_end() {
        for new in [1, 7, 300, 5_000] {
            let (_, parts) = after(usize::MAX, 0, new, 3_000, MERGE_FILES);
            assert!(parts.len() <= 24, "{new} new groups a commit: {parts:?}");
        }
    }
}
