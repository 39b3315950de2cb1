//! The speed layer: one reader per topic that decodes each partition once, as soon as the log has committed it, for every
//! table on the topic; and one keeper per view that makes states of the new rows.
//!
//! *Invariants*: a partition is decoded in offset order without gap or overlap; what every table on the topic has decoded
//! up to the same offset is decoded from one fetch. Live state is a pure function of the log at or above the tables'
//! boundaries, so a restart replays it and there is nothing to keep.
//!
//! *Not here*: the lake. The batch layer takes what is published; neither layer calls the other.

mod reader;
mod view_keeper;

pub use reader::{TopicReader, has_reached};
pub use view_keeper::ViewKeeper;
