//! What users of the log rely on, seen from outside.

mod clients;
mod committing;
mod keeping;
mod model;
mod recovering;
mod support;
mod transactions;
