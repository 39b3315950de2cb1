//! Messages that came from outside and cannot be asked for again, on their way to a commit.
//!
//! *Why*: what a socket or a pipe has given is nowhere else any more. It is held until the log says that it is committed,
//! so an append that fails (a full disk, say) loses nothing while the process lives. Senders feel it: the channel before
//! the inlet is short, so nobody reads from them meanwhile, and a stream's sender waits.
//!
//! *Layout* of the position `session`: `{"session", "messages"}`: how many messages of this process's session are in the
//! log. An append whose outcome could not be told is looked up there, so it is not made twice.
//!
//! *Invariant*: messages of one stream keep their order. What is held is at most what an [`Appender`] holds, and the
//! channel.
//!
//! *Failure*: a crash loses what was received and not committed. Only a sender that waits for an answer can know.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tarn_model::{Result, clock};
use tokio::sync::{mpsc, watch};

use crate::appender::Appender;
use crate::framer::Messages;
use crate::joiner::{Joiner, Joining};
use crate::monitor::State;
use crate::shaper::{Found, Place, Shaper};
use crate::source::Source;

/// Key of the one position.
const SESSION: &str = "session";
/// Arrivals that wait; each is one read of a socket or a pipe.
const MOST_WAITING: usize = 64;
/// Longest time without a look at the stop signal.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What one read gave.
pub(crate) struct Arrival {
    /// Which stream; 0 where messages do not follow one another.
    pub(crate) stream: u64,
    /// Who sent it.
    pub(crate) peer: Option<Arc<str>>,
    pub(crate) messages: Messages,
    /// Whether it is the last of its stream.
    pub(crate) ended: bool,
    /// Counts messages that are in the log, for who waits for an answer.
    pub(crate) told: Option<Arc<watch::Sender<u64>>>,
}

/// Why [`Inlet::pump`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// The stream that was waited for is at its end, and all of it is committed.
    Ended,
    /// The source is to stop.
    Stopping,
    /// Nobody can send any more, and all that came is committed.
    Closed,
}

/// Takes arrivals into the log.
pub(crate) struct Inlet {
    sender: Option<mpsc::Sender<Arrival>>,
    /// The sender that was closed, as long as somebody has a clone of it.
    closed: Option<mpsc::WeakSender<Arrival>>,
    arrivals: mpsc::Receiver<Arrival>,
    session: u128,
    /// Messages (after joining) that were taken.
    taken: u64,
    joining: Option<(Joining, Duration)>,
    pending: HashMap<u64, Pending>,
    held: VecDeque<Held>,
    /// The stream whose last arrival was taken last: it is known also after an error.
    ended: Option<u64>,
}

/// A record of several lines that may go on.
struct Pending {
    joiner: Joiner,
    peer: Option<Arc<str>>,
    since: Instant,
}

/// Messages that are not known to be committed.
struct Held {
    first: u64,
    peer: Option<Arc<str>>,
    messages: Messages,
    told: Option<Arc<watch::Sender<u64>>>,
    /// The append that it is in, counted from the appender's first.
    append: u64,
}

impl Inlet {
    pub(crate) fn new(joining: Option<(Joining, Duration)>) -> Inlet {
        let (sender, arrivals) = mpsc::channel(MOST_WAITING);
        Inlet {
            sender: Some(sender),
            closed: None,
            arrivals,
            session: clock::new_id().as_u128(),
            taken: 0,
            joining,
            pending: HashMap::new(),
            held: VecDeque::new(),
            ended: None,
        }
    }

    /// Where arrivals go; none after [`Inlet::close`].
    pub(crate) fn sender(&self) -> Option<mpsc::Sender<Arrival>> {
        self.sender.clone()
    }

    /// No new senders: [`Inlet::pump`] ends with the last arrival of those there are.
    pub(crate) fn close(&mut self) {
        if let Some(sender) = self.sender.take() {
            self.closed = Some(sender.downgrade());
        }
    }

    /// Takes senders again after [`Inlet::close`]; what had arrived and was not taken stays.
    pub(crate) fn reopen(&mut self) {
        if self.sender.is_some() {
            return;
        }
        // Somebody may be about to send still.
        if let Some(sender) = self.closed.take().and_then(|closed| closed.upgrade()) {
            self.sender = Some(sender);
            return;
        }
        let (sender, arrivals) = mpsc::channel(MOST_WAITING);
        while let Ok(arrival) = self.arrivals.try_recv() {
            // The new channel has room for all that the old one held.
            if sender.try_send(arrival).is_err() {
                break;
            }
        }
        (self.sender, self.arrivals) = (Some(sender), arrivals);
    }

    /// Messages that are not known to be committed.
    pub(crate) fn held(&self) -> usize {
        self.held.iter().map(|held| held.messages.len()).sum()
    }

    /// Takes arrivals until the source is to stop, or `stream` has ended, or nobody can send any more.
    pub(crate) fn pump(
        &mut self,
        source: &Source,
        shaper: &mut Shaper,
        stream: Option<u64>,
    ) -> Result<Pumped> {
        shaper.begin(source, source.topic_info()?)?;
        let mut appender = Appender::new(source);
        self.push_again(source, shaper, &mut appender)?;
        if stream.is_some() && self.ended == stream {
            return Ok(Pumped::Ended);
        }
        loop {
            let closing = self.sender.is_none();
            if source.stopping() && !closing {
                self.commit(&mut appender)?;
                return Ok(Pumped::Stopping);
            }
            let received = self.receive(source);
            let closed = received.is_none();
            let mut ended = false;
            if let Some(Some(arrival)) = received {
                source.monitor.state(State::Running);
                // Topics may have changed while nothing came.
                shaper.begin(source, source.topic_info()?)?;
                let mut next = Some(arrival);
                while let Some(arrival) = next {
                    if arrival.ended && stream == Some(arrival.stream) {
                        self.ended = stream;
                        ended = true;
                    }
                    self.take(source, shaper, &mut appender, arrival)?;
                    next = if ended || appender.is_full() { None } else { self.arrivals.try_recv().ok() };
                }
            } else {
                source.monitor.state(State::Idle);
            }
            self.complete_overdue(source, shaper, &mut appender, closed)?;
            self.submit(&mut appender)?;
            if ended || closed || self.arrivals.is_empty() {
                self.commit(&mut appender)?;
            }
            if !(ended || closed || appender.keep_pace(Duration::ZERO)?) {
                // Who waits for an answer does not wait for what others owe.
                self.commit(&mut appender)?;
                while !appender.keep_pace(LOOK_EVERY)? {}
            }
            self.release(&appender);
            match (ended, closed) {
                (true, _) => return Ok(Pumped::Ended),
                (_, true) => return Ok(Pumped::Closed),
                (false, false) => {}
            }
        }
    }

    /// Takes what has arrived, and commits it: the last work before a stop.
    pub(crate) fn try_finish(&mut self, source: &Source, shaper: &mut Shaper) -> Result<()> {
        self.close();
        shaper.begin(source, source.topic_info()?)?;
        let mut appender = Appender::new(source);
        self.push_again(source, shaper, &mut appender)?;
        while let Ok(arrival) = self.arrivals.try_recv() {
            self.take(source, shaper, &mut appender, arrival)?;
            if appender.is_full() {
                self.submit(&mut appender)?;
            }
        }
        self.complete_overdue(source, shaper, &mut appender, true)?;
        self.commit(&mut appender)
    }

    /// The next arrival; `None` when there will be no other, `Some(None)` when there is none yet.
    fn receive(&mut self, source: &Source) -> Option<Option<Arrival>> {
        if let Ok(arrival) = self.arrivals.try_recv() {
            return Some(Some(arrival));
        }
        let arrivals = &mut self.arrivals;
        let received =
            source.runtime.block_on(async { tokio::time::timeout(LOOK_EVERY, arrivals.recv()).await });
        match received {
            Ok(Some(arrival)) => Some(Some(arrival)),
            Ok(None) => None,
            Err(_) => Some(None),
        }
    }

    /// What is held and not in the log, after an error.
    fn push_again(
        &mut self,
        source: &Source,
        shaper: &mut Shaper,
        appender: &mut Appender<'_>,
    ) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let position = source.log.position(&source.name, SESSION)?.unwrap_or_default();
        let is_ours = position["session"] == format!("{:032x}", self.session);
        let reached = position["messages"].as_u64().filter(|_| is_ours).unwrap_or(0);
        while let Some(held) =
            self.held.pop_front_if(|held| held.first + held.messages.len() as u64 <= reached)
        {
            tell(&held);
        }
        for held in &mut self.held {
            push(source, shaper, appender, self.session, held)?;
            held.append = appender.submitted() + 1;
        }
        self.commit(appender)
    }

    fn take(
        &mut self,
        source: &Source,
        shaper: &mut Shaper,
        appender: &mut Appender<'_>,
        arrival: Arrival,
    ) -> Result<()> {
        source.monitor.read(arrival.messages.byte_len() as u64);
        let Arrival { stream, peer, messages, ended, told } = arrival;
        let messages = match &self.joining {
            None => messages,
            Some((joining, _)) => {
                let pending = self.pending.entry(stream).or_insert_with(|| Pending {
                    joiner: Joiner::new(joining.clone()),
                    peer: peer.clone(),
                    since: Instant::now(),
                });
                pending.since = Instant::now();
                // Datagrams do not follow one another.
                let is_last = ended || stream == 0;
                let joined = join(&mut pending.joiner, &messages, is_last);
                if is_last {
                    self.pending.remove(&stream);
                }
                joined
            }
        };
        self.hold(source, shaper, appender, peer, messages, told)
    }

    fn hold(
        &mut self,
        source: &Source,
        shaper: &mut Shaper,
        appender: &mut Appender<'_>,
        peer: Option<Arc<str>>,
        messages: Messages,
        told: Option<Arc<watch::Sender<u64>>>,
    ) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let held = Held { first: self.taken, peer, messages, told, append: appender.submitted() + 1 };
        self.taken += held.messages.len() as u64;
        let pushed = push(source, shaper, appender, self.session, &held);
        self.held.push_back(held);
        pushed
    }

    /// Records of several lines to which nothing was added for their time, or (`all`) nothing will be.
    fn complete_overdue(
        &mut self,
        source: &Source,
        shaper: &mut Shaper,
        appender: &mut Appender<'_>,
        all: bool,
    ) -> Result<()> {
        let Some((_, timeout)) = self.joining else { return Ok(()) };
        let overdue = |pending: &Pending| all || pending.since.elapsed() >= timeout;
        let streams: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| overdue(pending)).map(|(stream, _)| *stream).collect();
        for stream in streams {
            if let Some(mut pending) = self.pending.remove(&stream) {
                let messages = join(&mut pending.joiner, &Messages::default(), true);
                self.hold(source, shaper, appender, pending.peer, messages, None)?;
            }
        }
        Ok(())
    }

    fn submit(&self, appender: &mut Appender<'_>) -> Result<()> {
        if !appender.is_empty() {
            let position = json!({"session": format!("{:032x}", self.session), "messages": self.taken});
            appender.position(SESSION, Some(position));
            appender.submit()?;
        }
        Ok(())
    }

    fn commit(&mut self, appender: &mut Appender<'_>) -> Result<()> {
        self.submit(appender)?;
        appender.finish()?;
        self.release(appender);
        Ok(())
    }

    /// Lets go what is committed, and tells who waits for it.
    fn release(&mut self, appender: &Appender<'_>) {
        while let Some(held) = self.held.pop_front_if(|held| held.append <= appender.committed()) {
            tell(&held);
        }
    }
}

fn tell(held: &Held) {
    if let Some(told) = &held.told {
        told.send_modify(|count| *count += held.messages.len() as u64);
    }
}

/// Pushes the records of `held`, each with an origin of its own.
fn push(
    source: &Source,
    shaper: &mut Shaper,
    appender: &mut Appender<'_>,
    session: u128,
    held: &Held,
) -> Result<()> {
    let now_ms = source.clock.now_ms();
    let header = held.peer.as_deref().map(|peer| ("peer", peer));
    for (number, message) in (held.first..).zip(held.messages.iter()) {
        let place = Place { header, origin: (session, number), ..Place::default() };
        let found =
            Found { value: message.bytes, key: None, oversize: message.oversize, error: message.error };
        shaper.push(appender, now_ms, &place, &found)?;
    }
    Ok(())
}

/// The records of these lines; what may go on stays in `joiner`, unless this `is_last`.
fn join(joiner: &mut Joiner, lines: &Messages, is_last: bool) -> Messages {
    let mut records = Messages::default();
    for line in lines.iter() {
        let alone = line.oversize.is_some() || line.error.is_some();
        if joiner.is_pending() && (alone || joiner.ends_before(line.bytes)) {
            records.push(joiner.pending());
            joiner.clear();
        }
        if alone { records.push_message(&line) } else { joiner.add(line.bytes) }
    }
    if is_last && joiner.is_pending() {
        records.push(joiner.pending());
        joiner.clear();
    }
    records
}
