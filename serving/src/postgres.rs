//! The door on PostgreSQL's wire protocol, version 3: psql, psycopg, JDBC and what stands on them.
//!
//! *Why by hand*: rows go from Arrow straight into the bytes that are sent, and what comes in is bounded before it is read. The
//! crate for the protocol, pgwire 0.42, keeps messages of up to a gigabyte and panics on those that are shorter than their fields.
//!
//! *Layout*: `frame` (bytes to messages), `reply` (messages to bytes), `types`, `encode` and `decode` (values), `command` (what
//! a statement is), `settings`, `portal` (an answer that is read bit by bit), `opening` and `connection` (one session), `copy`.
//!
//! *Invariants*
//! - One session per connection; nothing of it outlives the connection, and nothing in it changes anything but itself.
//! - Connections, messages, prepared statements, portals and waiting bytes are bounded. A client that does not read holds its
//!   connection and one piece of its answer, until the statement's time is over.
//! - A cancel request ends the statement that runs on the connection it names, if it knows the secret, and no other.
//!
//! *Not here*: users, passwords and encryption. So it listens on this machine only.

mod command;
mod connection;
mod copy;
mod decode;
mod encode;
mod frame;
mod opening;
mod portal;
mod reply;
pub(crate) mod settings;
pub(crate) mod types;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tarn_model::clock;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::engine::Engine;

/// Most connections at once; more are told to come back.
const MAX_CONNECTIONS: usize = 256;
/// Connections that are being told so, or that only bring a cancel request.
const MAX_VISITS: usize = 64;
/// After a connection that could not be accepted, the next is tried after this time.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A running listener.
#[derive(Debug)]
pub struct PostgresServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl PostgresServer {
    /// Answers on `listener` from `engine`.
    pub fn start(listener: TcpListener, engine: Engine) -> std::io::Result<PostgresServer> {
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            engine,
            cancels: Cancels::default(),
            address,
            sessions: Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS)),
        });
        let task = tokio::spawn(accept(listener, shared, stopped));
        Ok(PostgresServer { address, stop, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every statement and hangs up on every client, who is told why.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.task.await;
    }
}

/// What connections share.
#[derive(Debug)]
struct Shared {
    engine: Engine,
    cancels: Cancels,
    address: SocketAddr,
    sessions: Arc<tokio::sync::Semaphore>,
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS + MAX_VISITS => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(opening::serve(Arc::clone(&shared), stream, stopped.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a PostgreSQL connection was not accepted");
                clock::pause(ACCEPT_AGAIN).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Which connection a cancel request means.
#[derive(Debug, Default)]
struct Cancels {
    next: AtomicI32,
    by_process: Mutex<HashMap<i32, (i32, watch::Sender<u64>)>>,
}

impl Cancels {
    /// A number and a secret for a connection, and what tells it of cancel requests.
    fn register(self: &Cancels, shared: &Arc<Shared>) -> Cancellable {
        let process = self.next.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & i32::MAX;
        let [a, b, c, d, ..] = clock::new_id().into_bytes();
        let secret = i32::from_be_bytes([a, b, c, d]);
        let (sender, receiver) = watch::channel(0);
        self.by_process.lock().insert(process, (secret, sender));
        Cancellable { process, secret, requests: receiver, shared: Arc::clone(shared) }
    }

    fn cancel(&self, process: i32, secret: i32) {
        let connections = self.by_process.lock();
        match connections.get(&process) {
            Some((known, sender)) if *known == secret => sender.send_modify(|count| *count += 1),
            _ => tracing::debug!(process, "a cancel request names no connection"),
        }
    }
}

/// A connection as cancel requests know it, until it is dropped.
struct Cancellable {
    process: i32,
    secret: i32,
    requests: watch::Receiver<u64>,
    shared: Arc<Shared>,
}

impl Drop for Cancellable {
    fn drop(&mut self) {
        self.shared.cancels.by_process.lock().remove(&self.process);
    }
}

#[cfg(test)]
mod tests;
