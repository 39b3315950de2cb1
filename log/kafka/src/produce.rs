//! Produce: record batches from clients into the log, as they came.
//!
//! Every partition of a request is an append of its own, because each has its own answer; the log's group commit makes one
//! commit of what waits together. Appends are submitted in the order of the requests on a connection, and answered when they
//! are committed; so a producer may have many requests under way.

use bytes::Bytes;
use futures::future::BoxFuture;
use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ApiKey, ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use tarn_log::{Append, Log, Submitted, keyless};
use uuid::Uuid;

use crate::broker::{Answered, Broker, Incoming, code_of, told};
use crate::frame::{Answer, Header};

/// The versions below it, which had another batch format, are refused.
pub(crate) const FIRST_VERSION: i16 = 3;
/// From this version on, a transaction names a partition by writing to it.
const ENLISTING_VERSION: i16 = 12;
/// A request above this size is validated off the async threads.
const VALIDATE_INLINE_BYTES: usize = 32 << 10;

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

enum Outcome {
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
        let acks = if request.transactional_id.is_some() { -1..=-1 } else { -1..=1 };
        let refusal = (!acks.contains(&request.acks)).then_some(Code::InvalidRequiredAcks);
        let wants_answer = request.acks != 0;
        let log = self.log.clone();
        let enlists = header.version >= ENLISTING_VERSION;
        let validate = move || validate(&log, request, refusal, enlists);
        let mut topics = if bytes <= VALIDATE_INLINE_BYTES {
            validate()
        } else {
            tokio::task::spawn_blocking(validate)
                .await
                .map_err(|_| "validating a batch broke off".to_owned())?
        };
        for (_, outcome) in topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            if let Outcome::Valid(append) = outcome {
                *outcome = match self.log.pack(std::mem::take(append)).await {
                    Ok(packed) => Outcome::Waiting(self.log.submit(packed)),
                    Err(error) => Outcome::Refused(code_of(&error), told(&error), Vec::new()),
                };
            }
        }
        let begun = Begun { header, log: self.log.clone(), wants_answer, topics };
        Ok(Box::pin(begun.finish()))
    }
}

fn validate(log: &Log, request: ProduceRequest, refusal: Option<Code>, enlists: bool) -> Vec<BegunTopic> {
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for topic in request.topic_data {
        let info = if topic.topic_id.is_nil() {
            log.topic(&topic.name).ok_or(Code::UnknownTopicOrPartition)
        } else {
            log.topic_of_id(topic.topic_id).ok_or(Code::UnknownTopicId)
        };
        let validate_one = |index: i32, records: Option<Bytes>| {
            if let Some(code) = refusal {
                return Outcome::Refused(code, None, Vec::new());
            }
            let info = match &info {
                Ok(info) => info,
                Err(code) => return Outcome::Refused(*code, None, Vec::new()),
            };
            let mut append = Append::new();
            if enlists {
                append.enlists();
            }
            let records = records.unwrap_or_default();
            match append.push_batch(info, index, &records) {
                Ok(()) => Outcome::Valid(Box::new(append)),
                Err(error) => {
                    let code = code_of(&error);
                    let places =
                        if code == Code::InvalidRecord { keyless(info, &records) } else { Vec::new() };
                    Outcome::Refused(code, told(&error), places)
                }
            }
        };
        let partitions =
            topic.partition_data.into_iter().map(|p| (p.index, validate_one(p.index, p.records))).collect();
        topics.push(BegunTopic { name: topic.name, id: topic.topic_id, partitions });
    }
    topics
}

impl Begun {
    /// Waits until everything is committed or has failed.
    async fn finish(self) -> Answered {
        let mut answer = ProduceResponse::default();
        for topic in self.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for (index, outcome) in topic.partitions {
                partitions.push(finish_partition(&self.log, index, outcome).await);
            }
            answer.responses.push(
                TopicProduceResponse::default()
                    .with_name(topic.name)
                    .with_topic_id(topic.id)
                    .with_partition_responses(partitions),
            );
        }
        if !self.wants_answer {
            return Ok(None);
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
