//! Kafka's wire protocol in front of the log.
//!
//! One listener, one broker, no cluster: every client of Kafka 1.0 and later finds its topics, partitions, groups and offsets
//! here, and what it produces is stored as it came. Which APIs in which versions, `broker::SERVED` says; which clients were
//! seen to work, `docs/kafka-compatibility.md`.
//!
//! *Layout*: `frame` (bytes), `shape` (bounds before decoding), `connection` (order), `broker` (who answers what), and one
//! module for each family of requests.
//!
//! *Invariants*: answers of a connection leave in the order of its requests; nothing that a client claims is allocated before it
//! has come; an unknown API or version is answered with an error.
//!
//! *Not here*: authentication, quotas. Nothing of them is advertised.

mod allowed;
mod assignment;
mod assignor;
mod broker;
mod by_id;
pub mod client;
mod committed;
mod configs;
mod connection;
mod consumers;
mod coordinator;
mod epochs;
mod expiry;
mod fetch;
mod frame;
mod group;
mod groups;
mod heartbeats;
mod inventory;
mod membership;
mod metadata;
mod offsets;
mod overview;
mod produce;
mod shape;
mod topics;
mod transactions;

/// The messages, for tests that are clients.
#[doc(hidden)]
pub use kafka_protocol;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tarn_log::Log;
use tarn_model::clock::{self, Clock};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::broker::Broker;
use crate::coordinator::Coordinator;

/// Most connections at once, if the process may have so many files open.
const MOST_CONNECTIONS: usize = 10_000;
/// Of the files that the process may have open, connections leave this part to everything else, and this many at least.
const FILES_LEFT: (usize, usize) = (4, 256);
/// After a connection that could not be accepted, the next is tried after this time.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How the listener behaves.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// Whether a topic that a client asks for and that is not there is created, if the client lets us.
    pub auto_create_topics: bool,
    /// Partitions of a topic that is created without a number.
    pub default_partitions: i32,
    /// How long an offset is kept that a group without members has committed.
    pub offsets_retention: Duration,
}

/// A running listener.
#[derive(Debug)]
pub struct KafkaServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl KafkaServer {
    /// Serves `log` on `listener`.
    pub fn start(
        listener: TcpListener,
        log: Log,
        options: KafkaOptions,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<KafkaServer> {
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let broker = Broker {
            log,
            options,
            coordinator: Arc::new(Coordinator::new(Arc::clone(&clock))),
            clock,
            answers: fetch::Answers::new(),
            unpacking: Arc::new(tokio::sync::Semaphore::new(produce::UNPACKING_AT_ONCE)),
            seeking: Arc::new(tokio::sync::Semaphore::new(offsets::SEEKING_AT_ONCE)),
            admin: tokio::sync::Mutex::new(()),
        };
        let task = tokio::spawn(accept(listener, Arc::new(broker), stopped));
        Ok(KafkaServer { address, stop, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Hangs up on every client. What clients had submitted is still appended.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.task.await;
    }
}

/// How many connections there may be when the process may have so many files open.
fn most_connections(files: Option<u64>) -> usize {
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    let (part, least) = FILES_LEFT;
    files.saturating_sub((files / part).max(least)).clamp(1, MOST_CONNECTIONS)
}

async fn accept(listener: TcpListener, broker: Arc<Broker>, mut stopped: watch::Receiver<bool>) {
    let budget = frame::Budget::new();
    let most = most_connections(tarn_log::file_limit());
    let mut connections = JoinSet::new();
    broker.wake_groups().await;
    let storing = tokio::spawn(membership::store_changes(Arc::clone(&broker)));
    let overdue = tokio::spawn(transactions::end_overdue(broker.log.clone()));
    let expiry = tokio::spawn(expiry::expire_offsets(Arc::clone(&broker)));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if connections.len() < most => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = connection::stopped(&mut stopped) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let serve =
                    connection::serve(Arc::clone(&broker), stream, budget.connection(), stopped.clone());
                connections.spawn(serve);
            }
            Err(error) => {
                tracing::warn!(%error, "a Kafka connection was not accepted");
                clock::pause(ACCEPT_AGAIN).await;
            }
        }
    }
    overdue.abort();
    expiry.abort();
    while connections.join_next().await.is_some() {}
    storing.abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_to_everything_else() {
        let most = [None, Some(1 << 20), Some(4096), Some(1024), Some(100)].map(most_connections);
        assert_eq!(most, [MOST_CONNECTIONS, MOST_CONNECTIONS, 3072, 768, 1]);
    }
}
