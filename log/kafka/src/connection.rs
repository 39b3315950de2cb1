//! One connection: requests in, answers out in the same order.
//!
//! *Layout*: a reader takes frames off the socket; a worker answers them one after the other. A Produce request that has only
//! Produce requests before it is begun by the reader at once, so that its batches reach the log's queue while those before it
//! wait for their commit; the worker then only waits for it. Everything else is begun when all before it is answered.
//!
//! *Failure*: bytes that are no request close the connection. When the client hangs up, what it had submitted is still
//! appended; what else is under way has a second to end.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use kafka_protocol::messages::ApiKey;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};

use crate::broker::{Answered, Broker, Incoming, Peer};
use crate::frame::{self, Answer, Header, Pace, Room, Share};

/// Requests of one connection that are under way.
const UNDER_WAY: usize = 64;
/// A client that takes no byte of an answer for so long has gone, and so has one that takes a large one too slowly.
const STALLED: Duration = Duration::from_secs(60);
/// Requests of a client that has hung up get so long.
const LAST_STEPS: Duration = Duration::from_secs(1);
const READ_BUFFER_BYTES: usize = 16 << 10;
/// Parts of an answer that are handed to the socket at once.
const PARTS_AT_ONCE: usize = 64;

/// A request on its way to the worker, with the room it takes.
enum Step {
    Begun(BoxFuture<'static, Answered>, Room),
    ToDo(Incoming, Room),
}

/// Serves a client until it hangs up or `stop` says so.
pub(crate) async fn serve(
    broker: Arc<Broker>,
    stream: TcpStream,
    share: Share,
    mut stop: watch::Receiver<bool>,
) {
    let (Ok(here), Ok(there)) = (stream.local_addr(), stream.peer_addr()) else { return };
    let _ = stream.set_nodelay(true);
    let peer = Peer { here, there };
    let (input, output) = stream.into_split();
    let (steps, todo) = mpsc::channel(UNDER_WAY);
    let others = Arc::new(AtomicUsize::new(0));
    let mut worker = tokio::spawn(work(Arc::clone(&broker), peer.clone(), output, todo, Arc::clone(&others)));
    let ended = tokio::select! {
        ended = read(&broker, input, &share, &steps, &others) => ended,
        _ = &mut worker => Ok(()),
        () = stopped(&mut stop) => Ok(()),
    };
    match ended {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(client = %there, %error, "a Kafka connection was closed");
        }
        Err(error) => tracing::debug!(client = %there, %error, "a Kafka connection ended"),
    }
    // What came before the end is still done, if it does not wait for long: with acks=0 a producer does not wait for us.
    drop(steps);
    if !worker.is_finished() {
        let _ = tokio::time::timeout(LAST_STEPS, &mut worker).await;
        worker.abort();
    }
}

/// Completes when the listener is to stop.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means stop, too.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn read(
    broker: &Arc<Broker>,
    input: OwnedReadHalf,
    share: &Share,
    steps: &mpsc::Sender<Step>,
    others: &AtomicUsize,
) -> io::Result<()> {
    let mut input = BufReader::with_capacity(READ_BUFFER_BYTES, input);
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    while let Some(frame) = frame::read(&mut input, share).await? {
        let mut body = frame.bytes;
        let header =
            Header::take(&mut body).ok_or_else(|| wrong("a request whose header is torn".to_owned()))?;
        let is_produce = Broker::served(&header) == Some(ApiKey::Produce);
        let incoming = Incoming { header, body };
        let step = if is_produce && others.load(Ordering::Acquire) == 0 {
            Step::Begun(broker.begin_produce(incoming).await.map_err(wrong)?, frame.room)
        } else {
            others.fetch_add(1, Ordering::AcqRel);
            Step::ToDo(incoming, frame.room)
        };
        if steps.send(step).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn work(
    broker: Arc<Broker>,
    peer: Peer,
    mut output: OwnedWriteHalf,
    mut steps: mpsc::Receiver<Step>,
    others: Arc<AtomicUsize>,
) {
    while let Some(step) = steps.recv().await {
        let answered = match step {
            Step::Begun(begun, _room) => begun.await,
            Step::ToDo(incoming, _room) => {
                let answered = broker.answer(&peer, incoming).await;
                others.fetch_sub(1, Ordering::AcqRel);
                answered
            }
        };
        match answered {
            Ok(Some(answer)) => {
                if let Err(error) = write(&mut output, answer).await {
                    tracing::debug!(client = %peer.there, %error, "an answer was not taken");
                    return;
                }
            }
            Ok(None) => {}
            Err(what) => {
                tracing::warn!(client = %peer.there, error = what, "a Kafka connection is closed");
                return;
            }
        }
    }
}

/// Writes all parts, many with one call.
async fn write(output: &mut OwnedWriteHalf, answer: Answer) -> io::Result<()> {
    let Answer { parts, room: _room } = answer;
    let (mut parts, mut pace) = (std::collections::VecDeque::from(parts), Pace::new(STALLED));
    parts.retain(|part: &Bytes| !part.is_empty());
    while !parts.is_empty() {
        let slices: Vec<IoSlice<'_>> =
            parts.iter().take(PARTS_AT_ONCE).map(|part: &Bytes| IoSlice::new(part)).collect();
        let mut written = pace.of(output.write_vectored(&slices)).await?;
        while let Some(first) = parts.front_mut().filter(|_| written > 0) {
            let taken = written.min(first.len());
            first.advance(taken);
            written -= taken;
            if first.is_empty() {
                parts.pop_front();
            }
        }
    }
    Ok(())
}
