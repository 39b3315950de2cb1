//! `mqtt`: the messages of a broker, acknowledged once they are in the log.
//!
//! *Why* a protocol of our own: a message of quality 2 is there exactly once only if its id is remembered in the same commit
//! as the record, and forgotten in a commit before the broker may use it again. A client library does that in its own memory.
//!
//! *Layout* of the position `session`: `{"broker", "name", "filters", "received"}`: what the session that the broker keeps is
//! subscribed to, and the ids of committed messages whose release is not answered yet.
//!
//! | quality | acknowledged | a crash, or a broken connection, before that |
//! |---|---|---|
//! | 0 | not at all | what was not committed is lost |
//! | 1 | after the commit | the broker sends it again: what was committed already is there twice |
//! | 2 | after the commit; the id is free after another | the broker sends it again: its id says that it is there |
//!
//! Ids of quality 1 do not tell doubles from new messages: the broker uses an id again as soon as it has the acknowledgement,
//! which nobody confirms.
//!
//! *Invariant*: nothing is acknowledged that is not committed, and no id is given back before the commit that forgets it.
//!
//! *Failure*: after any error the connection is made anew, and the broker sends again what was not acknowledged. Nothing is
//! held here meanwhile.
//!
//! *Not here*: TLS, shared subscriptions, MQTT 5.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tarn_model::config::MqttConfig;
use tarn_model::{Error, Result, clock};
use tracing::{info, warn};

use crate::appender::Appender;
use crate::lines::Limits;
use crate::monitor::State;
use crate::shaper::{Found, Place, Shaper};
use crate::source::{Collector, Source};

mod link;
mod packet;
#[cfg(test)]
mod tests;

use link::Link;
use packet::{Message, Packet};

/// Key of the one position.
const SESSION: &str = "session";
/// Messages of one commit, however small they are.
const MOST_MESSAGES: u64 = 10_000;

/// Longest wait for the rate limit without a word to the broker.
const LONGEST_SILENCE: Duration = Duration::from_millis(500);

/// Follows the topics of one broker.
pub(crate) struct Mqtt {
    config: MqttConfig,
    shaper: Option<Shaper>,
    /// Of this process; with the number of a message its origin.
    seed: u128,
    taken: u64,
}

/// What the log knows of the session that the broker keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    broker: String,
    name: String,
    /// With their quality of service.
    filters: BTreeMap<String, u8>,
    /// Messages of quality 2 that are committed, and not released.
    received: BTreeSet<u16>,
}

/// What follows the next commit.
#[derive(Default)]
struct Batch {
    messages: u64,
    /// Packets that are sent once it is committed.
    answers: Vec<u8>,
}

impl Mqtt {
    pub(crate) fn new(config: MqttConfig) -> Mqtt {
        Mqtt { config, shaper: None, seed: clock::new_id().as_u128(), taken: 0 }
    }

    /// Connects, and subscribes where that is not done yet; with packets that came meanwhile.
    fn open(
        &self,
        source: &Source,
        session: &mut Session,
        appender: &mut Appender<'_>,
    ) -> Result<(Link, Vec<Packet>)> {
        let name = self.config.session_name(&source.name);
        let limits = Limits::of_topic(source.topic_info()?.max_record_bytes);
        let (mut link, present) = Link::open(&self.config, &name, limits)?;
        let ours = session.broker == self.config.broker && session.name == name;
        if !(present && ours) {
            if ours && !session.filters.is_empty() {
                warn!(
                    source = source.name,
                    "the broker does not know the session any more: messages since the last ones may be lost"
                );
            }
            *session = Session { broker: self.config.broker.clone(), name, ..Session::default() };
        }
        let wanted: BTreeMap<String, u8> =
            self.config.subscribe.iter().map(|filter| (filter.clone(), self.config.qos)).collect();
        let mut early = Vec::new();
        let unwanted: Vec<&str> = session
            .filters
            .keys()
            .filter(|filter| !wanted.contains_key(*filter))
            .map(String::as_str)
            .collect();
        if !unwanted.is_empty() {
            link.send(&packet::unsubscribe(unwanted.into_iter()))?;
            link.answer(|packet| *packet == Packet::Unsubscribed, &mut early)?;
        }
        let missing: Vec<&str> = wanted
            .iter()
            .filter(|(filter, qos)| session.filters.get(*filter) != Some(qos))
            .map(|(filter, _)| filter.as_str())
            .collect();
        if !missing.is_empty() {
            link.send(&packet::subscribe(missing.iter().copied(), self.config.qos))?;
            let answer = link.answer(|packet| matches!(packet, Packet::Subscribed(_)), &mut early)?;
            if let Packet::Subscribed(codes) = answer
                && let Some(refused) = codes.iter().position(|code| *code > 2)
            {
                let filter = missing.get(refused).unwrap_or(&"");
                return Err(Error::unavailable(format!("the broker refuses the subscription `{filter}`"))
                    .with_hint("give the user the right to read it, in the broker"));
            }
        }
        if session.filters != wanted {
            session.filters = wanted;
            self.commit(session, appender, &mut link, &mut Batch::default(), true)?;
        }
        info!(source = source.name, broker = self.config.broker, session_present = present, "connected");
        Ok((link, early))
    }

    fn handle(
        &mut self,
        source: &Source,
        shaper: &mut Shaper,
        appender: &mut Appender<'_>,
        session: &mut Session,
        batch: &mut Batch,
        packet: Packet,
    ) -> Result<()> {
        match packet {
            Packet::Message(message) => {
                // Sent again, and committed before: only the answer was lost.
                let known = message.qos == 2 && session.received.contains(&message.id);
                if !known {
                    self.push(source, shaper, appender, &message)?;
                }
                match message.qos {
                    0 => {}
                    1 => batch.answers.extend(packet::acknowledged(message.id)),
                    _ => {
                        session.received.insert(message.id);
                        batch.answers.extend(packet::received(message.id));
                    }
                }
                batch.messages += 1;
            }
            Packet::Release(id) => {
                session.received.remove(&id);
                batch.answers.extend(packet::completed(id));
            }
            Packet::Connected { .. } | Packet::Subscribed(_) | Packet::Unsubscribed | Packet::Pong => {}
        }
        Ok(())
    }

    fn push(
        &mut self,
        source: &Source,
        shaper: &mut Shaper,
        appender: &mut Appender<'_>,
        message: &Message,
    ) -> Result<()> {
        source.monitor.read(message.payload.len() as u64);
        let header = Some(("topic", message.topic.as_str()));
        let place = Place { header, origin: (self.seed, self.taken), ..Place::default() };
        self.taken += 1;
        let found = Found { oversize: message.oversize, ..Found::value(&message.payload) };
        shaper.push(appender, source.clock.now_ms(), &place, &found).map(drop)
    }

    /// Commits what came with what is known of the session, then answers.
    fn commit(
        &self,
        session: &Session,
        appender: &mut Appender<'_>,
        link: &mut Link,
        batch: &mut Batch,
        always: bool,
    ) -> Result<()> {
        if always || batch.messages > 0 || !batch.answers.is_empty() {
            let position = serde_json::to_value(session)
                .map_err(|error| Error::internal("a position is no JSON").with_source(error))?;
            appender.position(SESSION, Some(position));
            appender.finish()?;
        }
        let batch = std::mem::take(batch);
        link.send(&batch.answers)
    }
}

impl Collector for Mqtt {
    fn collect(&mut self, source: &Source) -> Result<()> {
        let mut shaper = match self.shaper.take() {
            Some(shaper) => shaper,
            None => Shaper::of_lines(&source.config, self.config.format, &self.config.lines)?,
        };
        shaper.begin(source, source.topic_info()?)?;
        let mut appender = Appender::new(source);
        let mut session: Session = match source.log.position(&source.name, SESSION)? {
            Some(position) => serde_json::from_value(position).map_err(|error| {
                Error::internal("the position of the session cannot be read").with_source(error)
            })?,
            None => Session::default(),
        };
        let (mut link, early) = self.open(source, &mut session, &mut appender)?;
        source.monitor.recovered();
        let scheme = if self.config.tls { "mqtts" } else { "mqtt" };
        source.monitor.listens(vec![format!("{scheme}://{}", self.config.broker)]);
        let mut batch = Batch::default();
        for packet in early {
            self.handle(source, &mut shaper, &mut appender, &mut session, &mut batch, packet)?;
        }
        loop {
            let waits = batch.messages == 0 && batch.answers.is_empty();
            let next = link.next(waits)?;
            let idle = next.is_none();
            if let Some(packet) = next {
                source.monitor.state(State::Running);
                self.handle(source, &mut shaper, &mut appender, &mut session, &mut batch, packet)?;
            } else if waits {
                source.monitor.state(State::Idle);
                // Topics may have changed while nothing came.
                shaper.begin(source, source.topic_info()?)?;
            }
            let stopping = source.stopping();
            if idle || stopping || appender.is_full() || batch.messages >= MOST_MESSAGES {
                self.commit(&session, &mut appender, &mut link, &mut batch, false)?;
                while !appender.keep_pace(LONGEST_SILENCE)? {
                    link.say_alive()?;
                }
            }
            if stopping {
                self.shaper = Some(shaper);
                return link.send(&packet::DISCONNECT);
            }
        }
    }
}
