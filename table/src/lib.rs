//! Log and lake joined into tables: decoding, tail, cuts, the union read.

pub mod catalog;
pub mod cut;
pub mod decode;
pub mod fragment;
pub mod scan;
pub mod verify;

pub use catalog::Catalog;
pub use cut::{Cut, CutTable, TopicHub};
pub use decode::{Decoded, Decoder, TableFormat};
pub use fragment::Fragment;
