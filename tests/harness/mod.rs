//! What every end-to-end test needs: a folder, a process in it, HTTP to that process, and a model of what it owes us.

mod events;
mod folder;
mod http;
mod kafka;
mod postgres;
mod process;
mod proof;
mod wait;

#[cfg(feature = "servers")]
pub(crate) use events::table_status;
pub(crate) use events::{committed, events, push, visible};
pub(crate) use folder::{Folder, gzip};
pub(crate) use http::{Answer, Client, VECTOR};
pub(crate) use kafka::{Kafka, Keyed, Producer, batch, keyed_batch};
pub(crate) use postgres::{Postgres, error_of};
pub(crate) use process::{Ended, Running};
pub(crate) use proof::{count, exactly_once, verified};
pub(crate) use wait::{seconds, wait_for};
