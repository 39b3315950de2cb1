//! End-to-end tests: the real binary, started, fed, killed and asked.
//!
//! Each test has a folder of its own and a free port, so they run side by side. What needs root or other packages stands
//! in `servers` (feature `servers`), which `tests/servers/run` switches on.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests tell what they did")]

mod harness;

mod bad_input;
mod cli;
mod closed_doors;
mod compaction;
mod control;
mod crash;
mod database;
mod exactly_once;
mod examples;
mod exports;
mod flights;
mod groups;
mod imports;
mod increments;
mod many_topics;
mod messages;
mod mirror;
mod serving;
mod slow_readers;
mod streams;
mod tidy;
mod tools;
mod transactions;
mod union_read;
mod views;
mod watermarks;

#[cfg(feature = "servers")]
mod brokers;
#[cfg(feature = "servers")]
mod kafka;
#[cfg(feature = "servers")]
mod pages;
#[cfg(feature = "servers")]
mod postgres;
#[cfg(feature = "servers")]
mod senders;
#[cfg(feature = "servers")]
mod servers;
