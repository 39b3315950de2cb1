//! Live states: a chain of states over neighbouring ranges, each range from one moment of the topic to a later one.
//!
//! ```text
//! view's boundary                                            decoded
//!        ├───────────────┬────────┬───┬──┬─┤                    │
//!             state        state   …        └── rows, until they are a state, too
//! ```
//!
//! *Why*: a moment is a whole boundary, all partitions at once, so a chain is a list and a view of hundreds of partitions
//! costs no more states than one of a single partition. Eight states of one tier become one, as fragments do, but none across an edge
//! at which a commit of the table ends: there the chain will be cut, and what lies across it would have to be made again, of rows.
//!
//! *Invariants*: states are immutable and neighbours: each begins where the one before it ends. A state is used only if all of
//! it lies below the statement's vector.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tarn_model::{Boundary, Error, Result};

use crate::groups::{Bounds, memory_bytes, sorted};
use crate::stamp::Stamp;

/// States of one tier that become one.
const MERGE_STATES: usize = 8;
/// More of them are worth an order at once, as after a start; fewer get it when they are merged.
const MANY_ROWS: usize = 8192;

/// Partial aggregates of the rows of `[from, to)`.
#[derive(Debug)]
pub struct State {
    /// Where the range begins.
    pub from: Boundary,
    /// Where it ends.
    pub to: Boundary,
    /// The states, in the split's state schema.
    pub batches: Vec<RecordBatch>,
    /// Memory, bytes.
    pub bytes: usize,
    /// How often states were merged on the way to this one.
    tier: u32,
    /// Bounds of the keys in each batch, where they stand in the order of their keys and are many.
    pub(crate) bounds: Option<Bounds>,
}

impl State {
    /// States that know no range, such as a part of those that lie in the lake, in the order of their first `keys` columns, in batches
    /// that share no memory.
    pub async fn sorted(batches: Vec<RecordBatch>, keys: usize) -> Result<State> {
        let (batches, bounds) = sorted(batches, keys).await?;
        Ok(State { bounds, ..State::new(Boundary::new(), Boundary::new(), batches) })
    }

    /// The same of `[from, to)`, made of rows.
    pub async fn made(from: Boundary, to: Boundary, batches: Vec<RecordBatch>, keys: usize) -> Result<State> {
        let state = State::new(from, to, batches);
        if state.rows() <= MANY_ROWS {
            return Ok(state);
        }
        let State { from, to, batches, .. } = state;
        Ok(State { from, to, ..State::sorted(batches, keys).await? })
    }

    /// Number of its rows: groups, or parts of groups.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// States as they are.
    pub(crate) fn new(from: Boundary, to: Boundary, batches: Vec<RecordBatch>) -> State {
        let bytes = memory_bytes(&batches);
        State { from, to, batches, bytes, tier: 0, bounds: None }
    }
}

/// A chain of states, at one moment; a clone is cheap.
#[derive(Debug, Clone)]
pub struct LiveStates {
    stamp: Stamp,
    states: Vec<Arc<State>>,
}

impl LiveStates {
    /// No states yet.
    pub fn new(stamp: Stamp) -> LiveStates {
        LiveStates { stamp, states: Vec::new() }
    }

    /// What they are made with.
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// Memory of all states, bytes.
    pub fn bytes(&self) -> usize {
        self.states.iter().map(|state| state.bytes).sum()
    }

    /// Number of states.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether there is no state.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Where the chain begins and ends.
    pub fn range(&self) -> Option<(&Boundary, &Boundary)> {
        Some((&self.states.first()?.from, &self.states.last()?.to))
    }

    /// Appends a state that begins where the chain ends, or puts it in front when it ends where the chain begins.
    pub fn add(&mut self, state: Arc<State>) -> Result<()> {
        let Some((from, to)) = self.range() else {
            self.states.push(state);
            return Ok(());
        };
        if same(to, &state.from) {
            self.states.push(state);
        } else if same(from, &state.to) {
            self.states.insert(0, state);
        } else {
            return Err(Error::conflict(format!(
                "a state of [{}, {}) does not continue the states of [{from}, {to})",
                state.from, state.to
            )));
        }
        Ok(())
    }

    /// Lets go of every state that does not lie wholly at or above `boundary`.
    pub fn drop_below(&mut self, boundary: &Boundary) {
        let first = self.states.iter().position(|state| state.from.is_at_least(boundary));
        self.states.drain(..first.unwrap_or(self.states.len()));
    }

    /// The states from `from` on that lie wholly below `upto`, and how far they reach.
    pub fn within(&self, from: &Boundary, upto: &Boundary) -> (Vec<Arc<State>>, Boundary) {
        let start = self.states.iter().position(|state| same(&state.from, from));
        let mut reached = from.clone();
        let mut found = Vec::new();
        for state in self.states.iter().skip(start.unwrap_or(self.states.len())) {
            if !upto.is_at_least(&state.to) {
                break;
            }
            reached = state.to.clone();
            found.push(Arc::clone(state));
        }
        (found, reached)
    }

    /// The end of the chain that should be merged into one state, which no edge of `edges` cuts.
    pub fn mergeable(&self, edges: &[Boundary]) -> Option<Vec<Arc<State>>> {
        let tier = self.states.last()?.tier;
        let mut run = 0;
        for state in self.states.iter().rev().take_while(|state| state.tier == tier) {
            run += 1;
            if edges.iter().any(|edge| same(edge, &state.from)) {
                break;
            }
        }
        (run >= MERGE_STATES).then(|| self.states[self.states.len() - run..].to_vec())
    }

    /// Whether `edge` lies within a state, so that it would have to be made again.
    pub fn is_cut_by(&self, edge: &Boundary) -> bool {
        self.states.iter().any(|state| is_within(edge, &state.from, &state.to))
    }

    /// Puts `merged`, which `parts` were merged to, in their place; `false` when the chain has moved on meanwhile.
    pub fn replace(&mut self, parts: &[Arc<State>], merged: State) -> bool {
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return false };
        let Some(at) = self.states.iter().position(|state| Arc::ptr_eq(state, first)) else { return false };
        let same_run = self
            .states
            .get(at..at + parts.len())
            .is_some_and(|run| run.iter().zip(parts).all(|(a, b)| Arc::ptr_eq(a, b)));
        if !same_run {
            return false;
        }
        let merged = State { from: first.from.clone(), to: last.to.clone(), tier: last.tier + 1, ..merged };
        self.states.splice(at..at + parts.len(), [Arc::new(merged)]);
        true
    }
}

/// `[from, to)` in parts that no edge of `edges` cuts.
pub fn cut_at(from: Boundary, to: Boundary, edges: &[Boundary]) -> Vec<(Boundary, Boundary)> {
    let mut inner: Vec<&Boundary> = edges.iter().filter(|edge| is_within(edge, &from, &to)).collect();
    inner.sort_by_key(|edge| edge.records_above(&from));
    let (mut parts, mut at) = (Vec::with_capacity(inner.len() + 1), from);
    for edge in inner {
        if is_within(edge, &at, &to) {
            parts.push((std::mem::replace(&mut at, edge.clone()), edge.clone()));
        }
    }
    parts.push((at, to));
    parts
}

/// Whether `edge` lies between `from` and `to` and is neither.
fn is_within(edge: &Boundary, from: &Boundary, to: &Boundary) -> bool {
    edge.is_at_least(from) && to.is_at_least(edge) && !same(edge, from) && !same(edge, to)
}

/// Whether both cover the same offsets: an absent partition is at 0.
pub(crate) fn same(a: &Boundary, b: &Boundary) -> bool {
    a.is_at_least(b) && b.is_at_least(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(first: i64, second: i64) -> Boundary {
        Boundary::from_iter([(0, first), (1, second)])
    }

    fn chain(edges: &[(i64, i64)]) -> LiveStates {
        let mut chain = LiveStates::new(Stamp::now("p", None));
        for pair in edges.windows(2) {
            let state = State::new(at(pair[0].0, pair[0].1), at(pair[1].0, pair[1].1), Vec::new());
            chain.add(Arc::new(state)).expect("neighbours");
        }
        chain
    }

    #[test]
    fn only_neighbours_join_a_chain() {
        let mut chain = chain(&[(0, 0), (3, 1), (4, 4)]);
        let state = |from: Boundary, to: Boundary| Arc::new(State::new(from, to, Vec::new()));
        assert!(chain.add(state(at(5, 4), at(6, 6))).is_err(), "gap");
        assert!(chain.add(state(at(3, 4), at(6, 6))).is_err(), "overlap");
        assert!(chain.add(state(at(4, 4), at(6, 6))).is_ok());
        assert_eq!(chain.range(), Some((&at(0, 0), &at(6, 6))));
    }

    #[test]
    fn a_state_that_straddles_the_vector_is_not_used() {
        let chain = chain(&[(0, 0), (3, 1), (4, 4), (9, 9)]);
        let reached = |from: Boundary, upto: Boundary| {
            let (states, reached) = chain.within(&from, &upto);
            (states.len(), reached)
        };
        assert_eq!(reached(at(0, 0), at(9, 9)), (3, at(9, 9)));
        assert_eq!(reached(at(0, 0), at(8, 9)), (2, at(4, 4)));
        assert_eq!(reached(at(0, 0), at(9, 3)), (1, at(3, 1)));
        assert_eq!(reached(at(3, 1), at(9, 9)), (2, at(9, 9)));
        assert_eq!(reached(at(2, 1), at(9, 9)), (0, at(2, 1)), "no state begins there");
        assert_eq!(reached(Boundary::new(), at(0, 0)), (0, Boundary::new()));
    }

    #[test]
    fn a_boundary_across_a_state_drops_it() {
        let mut chain = chain(&[(0, 0), (3, 1), (4, 4), (9, 9)]);
        chain.drop_below(&at(3, 2));
        assert_eq!(chain.range(), Some((&at(4, 4), &at(9, 9))));
        chain.drop_below(&at(9, 10));
        assert!(chain.is_empty());
    }

    #[test]
    fn eight_states_become_one_and_keep_the_chain() {
        let edges: Vec<(i64, i64)> = (0..=9).map(|n| (n, n)).collect();
        let mut chain = chain(&edges);
        let parts = chain.mergeable(&[]).expect("nine of a tier");
        assert_eq!(parts.len(), 9);
        let merged = || State::new(Boundary::new(), Boundary::new(), Vec::new());
        assert!(chain.replace(&parts, merged()));
        assert_eq!((chain.len(), chain.range()), (1, Some((&at(0, 0), &at(9, 9)))));
        assert!(!chain.replace(&parts, merged()), "they are gone");
        assert!(chain.mergeable(&[]).is_none());
    }

    #[test]
    fn no_state_is_made_or_merged_across_an_edge() {
        let edges: Vec<(i64, i64)> = (0..=20).map(|n| (n, n)).collect();
        let chain = chain(&edges);
        assert_eq!(chain.mergeable(&[at(12, 12)]).expect("eight of a tier").len(), 8);
        assert!(chain.mergeable(&[at(13, 13)]).is_none(), "seven above the edge");
        assert_eq!(chain.mergeable(&[at(12, 13)]).expect("an edge within a state is lost").len(), 20);
        assert!(
            chain.is_cut_by(&at(12, 13)) && !chain.is_cut_by(&at(12, 12)) && !chain.is_cut_by(&at(30, 30))
        );

        let cut = |edges: &[Boundary]| cut_at(at(2, 2), at(9, 9), edges);
        assert_eq!(cut(&[at(2, 2), at(9, 9), at(1, 5), at(10, 10), at(3, 10)]), [(at(2, 2), at(9, 9))]);
        assert_eq!(
            cut(&[at(9, 5), at(4, 2)]),
            [(at(2, 2), at(4, 2)), (at(4, 2), at(9, 5)), (at(9, 5), at(9, 9))]
        );
        assert_eq!(
            cut(&[at(5, 3), at(3, 5)]).len(),
            2,
            "of two that lie across each other the first is taken"
        );
    }
}
