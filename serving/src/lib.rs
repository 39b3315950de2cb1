//! SQL over lake and tail, and the doors to it: HTTP, and PostgreSQL's wire protocol.

mod columns;
mod dashboards;
mod distinct;
mod engine;
mod error;
mod feeds;
#[cfg(test)]
mod fixture;
mod http;
mod information;
mod pg_catalog;
mod places;
mod postgres;
mod reads;
mod session;
mod statement;
mod views;
mod watermark;
mod wholes;

pub use dashboards::check_query;
pub use engine::{Answer, Engine, EngineOptions, StatementCounts};
pub use error::{from_datafusion, nearest};
pub use http::{Hosts, StatusSource, router};
pub use postgres::PostgresServer;
pub use statement::check_length;
