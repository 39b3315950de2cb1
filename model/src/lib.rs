//! What every room of Tarn shares: boundaries and offset vectors, columns, config types, errors, the clock and fault
//! points.
//!
//! *Not here*: anything that touches a disk or a socket, but for reading the config file itself.

pub mod background;
pub mod boundary;
pub mod clock;
pub mod columns;
pub mod config;
pub mod error;
pub mod fault;
pub mod grok;
pub mod placeholders;
pub mod record_columns;
pub mod status;
pub mod value;
pub mod vector;

pub use boundary::{Boundary, Offset, OffsetRange, PartitionId};
pub use error::{Error, Kind, Place, Result};
pub use record_columns::{RecordColumns, RecordPart};
pub use value::Value;
pub use vector::OffsetVector;
