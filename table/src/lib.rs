//! Log and lake joined into tables: decoding, tail, cuts, the union read.

pub mod budget;
pub mod catalog;
pub mod cut;
pub mod decode;
pub mod fragment;
pub mod import;
pub mod open;
pub mod scan;
pub mod verify;
pub mod watermark;

pub use budget::TailBudget;
pub use catalog::{Catalog, Whole};
pub use cut::{Cut, CutTable, TopicHub};
pub use decode::{Decoded, Decoder, TableFormat};
pub use fragment::Fragment;
pub use open::{OpenTable, TableOpener};
pub use watermark::EventTime;
