//! Produce: record batches from clients into the log, as they came.
//!
//! Every partition of a request is an append of its own, because each has its own answer; the log's group commit makes one
//! commit of what waits together. Appends are submitted in the order of the requests on a connection, and answered when they
//! are committed; so a producer may have many requests under way.
//!
//! *Invariants*: what must be unpacked to be checked is so off the async threads, in few places at once, each of which holds one batch
//! unpacked beside what it is about to hand to the log's queue: 3 KiB may become 64 MiB. What is not compressed and small takes no
//! hop to another thread.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ApiKey, ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use tarn_log::{Append, Log, Submitted, TopicInfo, is_packed, keyless};
use uuid::Uuid;

use crate::broker::{Answered, Broker, Incoming, code_of, text, told};
use crate::frame::{Answer, Header};

/// The versions below it, which had another batch format, are refused.
pub(crate) const FIRST_VERSION: i16 = 3;
/// From this version on, a transaction names a partition by writing to it.
const ENLISTING_VERSION: i16 = 12;
/// A request above this size is validated off the async threads, and so is any with a compressed batch.
const VALIDATE_INLINE_BYTES: usize = 32 << 10;
/// Requests with compressed batches that are validated at once.
pub(crate) const UNPACKING_AT_ONCE: usize = 3;
/// Once batches of this many bytes are validated, they go to the log before more are.
const VALIDATED_BYTES: usize = 8 << 20;

/// A request whose appends stand in the log's queue.
struct Begun {
    header: Header,
    log: Log,
    wants_answer: bool,
    topics: Vec<BegunTopic>,
}

struct BegunTopic {
    name: TopicName,
    id: Uuid,
    partitions: Vec<(i32, Outcome)>,
}

/// A batch as it came, and all that it is judged by.
struct Sent {
    info: Arc<TopicInfo>,
    partition: i32,
    batch: Bytes,
    transactional_id: Option<StrBytes>,
    enlists: bool,
}

enum Outcome {
    Sent(Sent),
    /// With the places of the records that are at fault, where single ones are.
    Refused(Code, Option<StrBytes>, Vec<i32>),
    Valid(Box<Append>),
    Waiting(Submitted),
}

impl Broker {
    /// Does a whole request.
    pub(crate) async fn produce(&self, incoming: Incoming) -> Answered {
        self.begin_produce(incoming).await?.await
    }

    /// Submits a request's appends; what is returned waits for them.
    pub(crate) async fn begin_produce(
        &self,
        incoming: Incoming,
    ) -> Result<BoxFuture<'static, Answered>, String> {
        let bytes = incoming.body.len();
        let request: ProduceRequest = incoming.decode(ApiKey::Produce)?;
        let header = incoming.header;
        let wants_answer = request.acks != 0;
        let mut topics = take_apart(&self.log, request, header.version >= ENLISTING_VERSION);
        let is_packed = |outcome: &Outcome| matches!(outcome, Outcome::Sent(sent) if is_packed(&sent.batch));
        let unpacks =
            topics.iter().flat_map(|topic| &topic.partitions).any(|(_, outcome)| is_packed(outcome));
        let mut place = None;
        if unpacks {
            let free = Arc::clone(&self.unpacking).acquire_owned().await;
            place = Some(free.map_err(|_| "the listener has ended".to_owned())?);
        }
        loop {
            // The place goes with the work, which goes on when nobody waits for it any more.
            let validate = move || {
                let is_all = validate(&mut topics);
                (topics, is_all, place)
            };
            let is_all;
            (topics, is_all, place) = if bytes <= VALIDATE_INLINE_BYTES && !unpacks {
                validate()
            } else {
                let validated = tokio::task::spawn_blocking(validate).await;
                validated.map_err(|_| "validating a batch broke off".to_owned())?
            };
            for (_, outcome) in topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                if let Outcome::Valid(append) = outcome {
                    *outcome = match self.log.pack(std::mem::take(append)).await {
                        Ok(packed) => Outcome::Waiting(self.log.submit(packed)),
                        Err(error) => Outcome::Refused(code_of(&error), told(&error), Vec::new()),
                    };
                }
            }
            if is_all {
                break;
            }
        }
        drop(place);
        let begun = Begun { header, log: self.log.clone(), wants_answer, topics };
        Ok(Box::pin(begun.finish()))
    }
}

/// The batches of a request, each with its topic; those that no topic takes are refused.
fn take_apart(log: &Log, request: ProduceRequest, enlists: bool) -> Vec<BegunTopic> {
    let ProduceRequest { transactional_id, acks, topic_data, .. } = request;
    let allowed = if transactional_id.is_some() { -1..=-1 } else { -1..=1 };
    let refusal = (!allowed.contains(&acks)).then_some(Code::InvalidRequiredAcks);
    let transactional_id = transactional_id.map(|id| id.0);
    let begin = |topic: TopicProduceData| {
        let info = if topic.topic_id.is_nil() {
            log.topic(&topic.name).ok_or(Code::UnknownTopicOrPartition)
        } else {
            log.topic_of_id(topic.topic_id).ok_or(Code::UnknownTopicId)
        };
        let info = refusal.map_or(info, Err);
        let begin = |data: PartitionProduceData| {
            let outcome = match &info {
                Ok(info) => Outcome::Sent(Sent {
                    info: Arc::clone(info),
                    partition: data.index,
                    batch: data.records.unwrap_or_default(),
                    transactional_id: transactional_id.clone(),
                    enlists,
                }),
                Err(code) => Outcome::Refused(*code, None, Vec::new()),
            };
            (data.index, outcome)
        };
        let partitions = topic.partition_data.into_iter().map(begin).collect();
        BegunTopic { name: topic.name, id: topic.topic_id, partitions }
    };
    topic_data.into_iter().map(begin).collect()
}

/// Validates batches until enough are valid; whether none are left.
fn validate(topics: &mut [BegunTopic]) -> bool {
    let mut bytes = 0;
    for (_, outcome) in topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        if let Outcome::Sent(sent) = outcome {
            if bytes >= VALIDATED_BYTES {
                return false;
            }
            *outcome = sent.validate();
            if let Outcome::Valid(append) = outcome {
                bytes += append.bytes();
            }
        }
    }
    true
}

impl Sent {
    fn validate(&self) -> Outcome {
        let mut append = Append::new();
        if self.enlists {
            append.enlists();
        }
        if let Err(error) = append.push_batch(&self.info, self.partition, &self.batch) {
            let code = code_of(&error);
            let places =
                if code == Code::InvalidRecord { keyless(&self.info, &self.batch) } else { Vec::new() };
            return Outcome::Refused(code, told(&error), places);
        }
        if append.is_transactional() {
            let Some(id) = &self.transactional_id else {
                let why = text("a batch of a transaction came without a transactional id");
                return Outcome::Refused(Code::TransactionalIdAuthorizationFailed, Some(why), Vec::new());
            };
            append.transactional_id(id);
        }
        Outcome::Valid(Box::new(append))
    }
}

impl Begun {
    /// Waits until everything is committed or has failed. Who wants no answer can be told of a failure only by the end of the
    /// connection, upon which clients ask anew where their partitions are.
    async fn finish(self) -> Answered {
        let mut answer = ProduceResponse::default();
        let mut failed = None;
        for topic in self.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for (index, outcome) in topic.partitions {
                let mut done = finish_partition(&self.log, index, outcome).await;
                // It was there when the request came.
                let is_unknown = done.error_code == Code::UnknownTopicOrPartition.code();
                if is_unknown && !topic.id.is_nil() && self.log.topic_of_id(topic.id).is_none() {
                    done.error_code = Code::UnknownTopicId.code();
                }
                failed = failed.or((done.error_code != 0).then_some(done.error_code));
                partitions.push(done);
            }
            answer.responses.push(
                TopicProduceResponse::default()
                    .with_name(topic.name)
                    .with_topic_id(topic.id)
                    .with_partition_responses(partitions),
            );
        }
        if !self.wants_answer {
            return match failed {
                None => Ok(None),
                Some(code) => Err(format!("a batch whose answer is not wanted was refused with code {code}")),
            };
        }
        Answer::of(&self.header, self.header.version, &answer).map(Some)
    }
}

async fn finish_partition(log: &Log, index: i32, outcome: Outcome) -> PartitionProduceResponse {
    let answer = PartitionProduceResponse::default()
        .with_index(index)
        .with_base_offset(-1)
        .with_log_append_time_ms(-1)
        .with_log_start_offset(-1)
        .with_error_message(None)
        .with_current_leader(LeaderIdAndEpoch::default().with_leader_id((-1).into()).with_leader_epoch(-1));
    let refused = |code: Code, why: Option<StrBytes>| {
        tracing::debug!(
            partition = index,
            ?code,
            why = why.as_ref().map(|why| why.as_str()),
            "a batch was refused"
        );
        answer.clone().with_error_code(code.code()).with_error_message(why)
    };
    let appended = match outcome {
        Outcome::Refused(code, why, places) => {
            let record = |place| {
                BatchIndexAndErrorMessage::default()
                    .with_batch_index(place)
                    .with_batch_index_error_message(None)
            };
            return refused(code, why).with_record_errors(places.into_iter().map(record).collect());
        }
        Outcome::Sent(_) => return refused(Code::UnknownServerError, None),
        Outcome::Valid(append) => log.append(*append).await,
        Outcome::Waiting(submitted) => submitted.committed().await,
    };
    match appended {
        Err(error) => refused(code_of(&error), told(&error)),
        Ok(appended) => {
            let Some((topic, partition, range)) = appended.ranges.first() else {
                return refused(Code::UnknownServerError, None);
            };
            let start = log.span(topic, *partition).map_or(-1, |span| span.from);
            answer
                .with_base_offset(range.from)
                .with_log_start_offset(start)
                .with_log_append_time_ms(appended.append_time_ms.unwrap_or(-1))
        }
    }
}

#[cfg(test)]
mod tests;
