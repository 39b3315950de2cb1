//! The batch layer: one owner per table moves its tail into the lake, exactly once, and keeps the lake in shape;
//! one owner per view lets its states in the lake follow the table.
//!
//! *Invariants*
//! - All commits to a table go through its owner, one after another.
//! - Before a Delta commit up to an offset, the log is durable up to it.
//! - Dead letters are committed before the rows of the same range.
//! - A boundary moves in the commit that adds the rows below it, and nowhere else.
//!
//! *Failure*: whatever a kill leaves (files without a commit, dead letters without their rows, a commit that the owner never
//! heard of) is settled when the table is opened again, see `tarn_table::open`.

mod adopt;
mod owner;
mod prepare;
mod view_build;
mod view_owner;
mod view_tiers;

pub use adopt::{adopt, detach};
pub use owner::{OwnerOptions, TableOwner, show_snapshot};
pub use view_owner::{ViewOwner, Which};
