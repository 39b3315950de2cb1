//! SQL over lake and tail, and the HTTP doors to it.

mod distinct;
mod engine;
mod error;
mod feeds;
#[cfg(test)]
mod fixture;
mod http;
mod information;
mod session;
mod statement;
mod views;

pub use engine::{Answer, Engine, EngineOptions, StatementCounts};
pub use error::{from_datafusion, nearest};
pub use http::{Hosts, StatusSource, router};
