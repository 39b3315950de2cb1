//! Transactions and producers as those who look after them see them.

use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::{
    DescribeProducersRequest, DescribeProducersResponse, DescribeTransactionsRequest,
    DescribeTransactionsResponse, ListTransactionsRequest, ListTransactionsResponse, TopicName,
    TransactionalId, describe_producers_response, describe_transactions_response, list_transactions_response,
};
use tarn_log::{ActiveProducer, TransactionInfo, TransactionState};

use crate::broker::{Broker, text};
use crate::consumers::Patterns;

/// Kafka's names of states.
const STATES: [&str; 4] = ["Empty", "Ongoing", "CompleteCommit", "CompleteAbort"];

impl Broker {
    pub(crate) fn list_transactions(&self, request: &ListTransactionsRequest) -> ListTransactionsResponse {
        let states: Vec<&str> = request.state_filters.iter().map(|state| state.as_str()).collect();
        let now_ms = self.clock.now_ms();
        let answer = ListTransactionsResponse::default();
        let pattern = request.transactional_id_pattern.as_ref().filter(|pattern| !pattern.is_empty());
        let pattern = match pattern.map(|pattern| Patterns::compile(pattern)).transpose() {
            Ok(pattern) => pattern,
            Err(code) => return answer.with_error_code(code.code()),
        };
        let is_wanted = |info: &TransactionInfo| {
            let producers = &request.producer_id_filters;
            let age_ms = info.begun_ms.map_or(-1, |begun| now_ms - begun);
            (states.is_empty() || states.contains(&state_of(info)))
                && (producers.is_empty() || producers.iter().any(|id| id.0 == info.producer.producer))
                && pattern.as_ref().is_none_or(|pattern| pattern.is_match(&info.id))
                && (request.duration_filter < 0 || age_ms >= request.duration_filter)
        };
        let listed = self.log.transactions().into_iter().filter(is_wanted).map(|info| {
            list_transactions_response::TransactionState::default()
                .with_transaction_state(text(state_of(&info)))
                .with_producer_id(info.producer.producer.into())
                .with_transactional_id(TransactionalId(text(info.id)))
        });
        let unknown = request.state_filters.iter().filter(|state| !STATES.contains(&state.as_str())).cloned();
        answer.with_transaction_states(listed.collect()).with_unknown_state_filters(unknown.collect())
    }

    pub(crate) async fn describe_producers(
        &self,
        request: DescribeProducersRequest,
    ) -> DescribeProducersResponse {
        let mut answer = DescribeProducersResponse::default();
        for topic in request.topics {
            let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
            for index in topic.partition_indexes {
                let of = describe_producers_response::PartitionResponse::default()
                    .with_partition_index(index)
                    .with_error_message(None);
                partitions.push(match self.log.producers(&topic.name, index).await {
                    Ok(producers) => of.with_active_producers(producers.into_iter().map(described).collect()),
                    Err(_) => of.with_error_code(Code::UnknownTopicOrPartition.code()),
                });
            }
            let of = describe_producers_response::TopicResponse::default();
            answer.topics.push(of.with_name(topic.name).with_partitions(partitions));
        }
        answer
    }

    pub(crate) fn describe_transactions(
        &self,
        request: DescribeTransactionsRequest,
    ) -> DescribeTransactionsResponse {
        let all = self.log.transactions();
        let described = request.transactional_ids.into_iter().map(|id| {
            let answer = describe_transactions_response::TransactionState::default()
                .with_producer_id((-1).into())
                .with_producer_epoch(-1)
                .with_transaction_start_time_ms(-1);
            let Some(info) = all.iter().find(|info| info.id == id.as_str()) else {
                return answer
                    .with_transactional_id(id)
                    .with_error_code(Code::TransactionalIdNotFound.code());
            };
            let mut topics: Vec<describe_transactions_response::TopicData> = Vec::new();
            for (topic, partition) in &info.partitions {
                match topics.iter_mut().find(|known| known.topic.as_str() == topic) {
                    Some(known) => known.partitions.push(*partition),
                    None => topics.push(
                        describe_transactions_response::TopicData::default()
                            .with_topic(TopicName(text(topic.clone())))
                            .with_partitions(vec![*partition]),
                    ),
                }
            }
            answer
                .with_transactional_id(id)
                .with_transaction_state(text(state_of(info)))
                .with_transaction_timeout_ms(i32::try_from(info.timeout.as_millis()).unwrap_or(i32::MAX))
                .with_transaction_start_time_ms(info.begun_ms.unwrap_or(-1))
                .with_producer_id(info.producer.producer.into())
                .with_producer_epoch(info.producer.epoch)
                .with_topics(topics)
        });
        DescribeTransactionsResponse::default().with_transaction_states(described.collect())
    }
}

fn described(producer: ActiveProducer) -> describe_producers_response::ProducerState {
    describe_producers_response::ProducerState::default()
        .with_producer_id(producer.by.producer.into())
        .with_producer_epoch(i32::from(producer.by.epoch))
        .with_last_sequence(producer.last_sequence)
        .with_last_timestamp(producer.at_ms)
        .with_coordinator_epoch(0)
        .with_current_txn_start_offset(producer.open_from.unwrap_or(-1))
}

fn state_of(info: &TransactionInfo) -> &'static str {
    match info.state {
        TransactionState::Empty => STATES[0],
        TransactionState::Ongoing => STATES[1],
        TransactionState::Committed => STATES[2],
        TransactionState::Aborted => STATES[3],
    }
}
