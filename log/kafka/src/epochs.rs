//! OffsetForLeaderEpoch: what a consumer asks to learn whether records that it has read were taken back; and the epoch that it
//! takes to be ours.

use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use tarn_log::Log;

use crate::broker::{Broker, blocking, code_of};

/// What a client says that knows no epoch, and what it is told of one that is not known.
pub(crate) const NO_EPOCH: i32 = -1;

/// Whether a client that takes `epoch` to be the current one knows as much as it should.
pub(crate) fn check_current(log: &Log, epoch: i32) -> Result<(), Code> {
    let current = log.leader_epoch();
    if epoch == NO_EPOCH || epoch == current {
        return Ok(());
    }
    Err(if epoch < current { Code::FencedLeaderEpoch } else { Code::UnknownLeaderEpoch })
}

impl Broker {
    pub(crate) async fn epoch_ends(
        &self,
        request: OffsetForLeaderEpochRequest,
    ) -> OffsetForLeaderEpochResponse {
        let log = self.log.clone();
        let ends = blocking(move || {
            let topics = request.topics.into_iter().map(|topic| {
                let of = |asked: &OffsetForLeaderPartition| epoch_end(&log, &topic.topic, asked);
                let partitions = topic.partitions.iter().map(of).collect();
                OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions)
            });
            Ok(topics.collect())
        });
        OffsetForLeaderEpochResponse::default().with_topics(ends.await.unwrap_or_default())
    }
}

fn epoch_end(log: &Log, topic: &str, asked: &OffsetForLeaderPartition) -> EpochEndOffset {
    let answer = EpochEndOffset::default()
        .with_partition(asked.partition)
        .with_leader_epoch(NO_EPOCH)
        .with_end_offset(-1);
    if log.span(topic, asked.partition).is_err() {
        return answer.with_error_code(Code::UnknownTopicOrPartition.code());
    }
    if let Err(code) = check_current(log, asked.current_leader_epoch) {
        return answer.with_error_code(code.code());
    }
    match log.epoch_end(topic, asked.partition, asked.leader_epoch.max(NO_EPOCH)) {
        Ok(Some((epoch, end))) if asked.leader_epoch >= 0 => {
            answer.with_leader_epoch(epoch).with_end_offset(end)
        }
        Ok(_) => answer,
        Err(error) => answer.with_error_code(code_of(&error).code()),
    }
}
