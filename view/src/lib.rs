//! Views: a `SELECT` with aggregates, planned once, split in two at its aggregate, and kept by both layers.
//!
//! ```text
//! rows ──► Partial ──► states ──► PartialReduce ──► states ──► Final ──► HAVING, ORDER BY, expressions ──► answer
//!          lake, tail             memory, Delta                 at H
//! ```
//!
//! *Invariants*
//! - A view at a vector H is its states below some boundary V ≤ H and the rows of `[V, H)`, partition by partition: no gap, no
//!   overlap. States only spare work: whatever is missing is aggregated from the rows, so the answer is the same without any.
//! - A state carries the plan, the engine and the table that it was made with; another stamp means that it is not used.
//! - Only immutable functions may stand in a view, so that a state means the same tomorrow.

mod definition;
mod difference;
mod dimension;
mod error;
mod extremes;
mod freshness;
mod functions;
mod groups;
mod hub;
mod late;
mod live;
#[cfg(test)]
mod oracle;
mod pace;
mod planner;
mod scan;
mod simplifier;
mod split;
mod stamp;
mod stored;
mod tail_plan;
mod versions;
mod watermark_function;
mod windows;

pub use definition::{Definition, Way};
pub use difference::{Difference, Example};
pub use error::{from_datafusion, is_damage, is_too_large};
pub use freshness::{Freshness, age_s};
pub use functions::with_functions;
pub use groups::memory_bytes;
pub use hub::{BatchStates, Building, Commits, View, ViewMoment, Views};
pub use late::{Late, LateRule, add_late};
pub use live::{LiveStates, State, cut_at};
pub use pace::{Pace, RunningStatement, Statements};
pub use planner::Planner;
pub use scan::{Inputs, KeptPlan, StatesScan, reads_little};
pub use split::Split;
pub use stamp::{ENGINE, Stamp};
pub use stored::StoredStates;
pub use versions::{Version, Versions};
pub use watermark_function::{WATERMARK, Watermarks, watermark_function};
