//! What users of the log rely on, seen from outside.

mod captured;
mod claimed;
mod clients;
mod committing;
mod compaction;
mod keeping;
mod model;
mod recovering;
mod support;
mod transactions;
