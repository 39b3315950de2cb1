//! Collectors: files, HTTP pushes and databases into the log; and exports, out of the lake into databases.
//!
//! *Why*: a collector that keeps its own position file can lose or double records whenever that file and the records
//! disagree. Here what a source has reached is part of the same commit as the records it gave
//! ([`tarn_log::Append::position`]), and every collector is written as one function: *collect from the committed
//! position on*. A start, a crash and a retry after an error are therefore the same thing.
//!
//! *Layout*
//! ```text
//! source     what a collector is given: topic, log, clock, monitor, stop signal; the retry loop around it
//! stop       the signal to pause, to stop, to run now;  control: that a source is paused, durably
//! appender   appends of about 1 MiB, the next one built while the last commits; never two under way
//! feed       a reader's bytes in one growing block;  lines, rows: its lines and CSV rows;  unpack: gzip and zstd
//! columnar   rows of Avro and Parquet files
//! joiner     several lines that are one record;  format: a line's fields;  fields: those of one record
//! throttle   how fast a source may be;  trust: whom TLS believes;  scram: a login without the password
//! shaper     from what was found to records: format, interceptors, routes to topics
//! framer     messages of a byte stream;  inlet: messages that cannot be asked for again, until they are committed
//! spooldir, taildir, http, database, generator, listener (syslog, netcat), exec, mqtt, kafka       the collectors
//! export     the other way: rows of a statement into a table of a database
//! replay     dead letters that are taken in once more
//! monitor    counters and state, as `tarn status` shows them
//! ```
//!
//! *Invariants*: a collector has at most one append under way, so a failed append is never followed by one that commits
//! a later position. Records of one source keep their order within a partition. Memory per collector is bounded by one
//! append under way, one being built, and one block of input.
//!
//! *Failure*: an error that is worth another try ([`tarn_model::Kind::Unavailable`]) makes the source wait and collect
//! again from its committed position; any other error ends the source and is what [`Collectors::drained`] returns.
//!
//! What sockets and commands gave is held until it is committed, for it is nowhere else (`inlet`).
//!
//! *Not here*: the meaning of a record. Values pass as they came, or as the strings that a format finds in a line; tables
//! decode them.

mod appender;
mod collectors;
mod columnar;
mod control;
mod database;
mod exec;
mod export;
mod feed;
mod fields;
#[cfg(test)]
#[path = "tests/fixture.rs"]
mod fixture;
mod format;
mod framer;
mod generator;
mod http;
mod inlet;
mod joiner;
mod json;
mod kafka;
mod lines;
mod listener;
mod monitor;
mod mqtt;
mod replay;
mod rows;
mod scram;
mod shaper;
mod source;
mod spooldir;
mod stop;
mod taildir;
mod throttle;
mod trust;
mod unpack;

pub use collectors::{Collectors, RunMode, has_runs};
pub use columnar::write_row;
pub use control::{is_paused, set_paused};
pub use database::{
    ColumnSummary, ExploredColumn, Explorer, Import, ImportBound, ImportPlan, ImportedTable, RowTaker,
    Summary, TakerOf, forget, history,
};
pub use export::{Counts, Exporter, Finished, Mode, Order, Prepared, Stager};
pub use replay::{DeadLetter, REPLAY_HEADER, Replay, Replayed, Taken};
