//! Claims about the lake, checked through its public face on every kind of store.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod faulty;
mod model;
mod protocol;
mod round_trip;
mod rows;
mod scale;
mod upkeep;
