//! What users of the log rely on, seen from outside.

mod committing;
mod support;
