//! Which of the appends that wait go into the commit: repeats are sorted out, and what does not fit what is there.
//!
//! *Invariants*: nothing is answered as done before the commit that it stands on is made: a repeat of an append of the same
//! commit waits for that, and a request that changes nothing goes through the commit all the same.

use std::collections::HashMap;

use tarn_model::{Error, OffsetRange, PartitionId, Result};

use crate::append::{Appended, Idempotency};
use crate::batch;
use crate::committer::Committer;
use crate::producers::{Advanced, Verdict};
use crate::queue::Pending;
use crate::refused::Refused;
use crate::sealed::{SealedBatch, SealedPart};
use crate::transactions::{Changed, Ending, ProducerEpoch};

/// An append on its way through a commit.
pub(crate) struct Accepted {
    pub(crate) pending: Pending,
    pub(crate) topic_of_key: Option<i64>,
    /// One for each group offset.
    pub(crate) topics_of_offsets: Vec<i64>,
    pub(crate) appended: Appended,
}

/// What the commit changes beside records, positions and offsets.
#[derive(Default)]
pub(crate) struct Admission {
    pub(crate) advanced: Advanced,
    pub(crate) changed: Changed,
    /// Transactions that begin or end in a partition, in the order of the appends.
    pub(crate) steps: Vec<Step>,
}

/// A transaction's first record in a partition, or its marker there.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) topic: String,
    pub(crate) partition: PartitionId,
    pub(crate) producer: i64,
    /// The append at this place has it, as this part.
    pub(crate) place: usize,
    pub(crate) part: usize,
    /// Whether it was committed; `None` for a record.
    pub(crate) ends: Option<bool>,
}

/// What is to be done with an append.
enum Admitted {
    Fresh {
        topic_of_key: Option<i64>,
        topics_of_offsets: Vec<i64>,
        producer: Option<ProducerEpoch>,
    },
    /// It repeats the append at this place of the same commit.
    Repeat(usize),
    Known(Result<Appended>),
}

impl Committer {
    /// Sorts out repeats and appends to what is not there.
    pub(crate) fn admit(
        &mut self,
        appends: Vec<Pending>,
        admission: &mut Admission,
    ) -> (Vec<Accepted>, Vec<(Pending, usize)>) {
        let (mut accepted, mut repeats) = (Vec::<Accepted>::new(), Vec::new());
        let mut keys = HashMap::new();
        for mut pending in appends {
            let admitted = match pending.sealed.request.take() {
                Some(request) => self.admit_request(&mut pending, *request, admission, accepted.len()),
                None => self.admit_one(&pending, &keys, admission, accepted.len()),
            };
            match admitted {
                Admitted::Known(answer) => pending.answer(answer),
                Admitted::Repeat(first) => repeats.push((pending, first)),
                Admitted::Fresh { topic_of_key, topics_of_offsets, producer } => {
                    if let (Some(topic), Some(key)) = (topic_of_key, &pending.sealed.idempotency) {
                        keys.insert((topic, key.key.clone()), accepted.len());
                    }
                    let records = pending.sealed.records;
                    let appended = Appended {
                        ranges: Vec::new(),
                        records,
                        repeated: false,
                        producer,
                        append_time_ms: None,
                    };
                    accepted.push(Accepted { pending, topic_of_key, topics_of_offsets, appended });
                }
            }
        }
        (accepted, repeats)
    }

    fn admit_one(
        &self,
        pending: &Pending,
        keys: &HashMap<(i64, String), usize>,
        admission: &mut Admission,
        place: usize,
    ) -> Admitted {
        let visible = self.shared.visible.read();
        for part in &pending.sealed.parts {
            match visible.topic(&part.topic.name) {
                Ok(topic) if topic.info.id == part.topic.id => {}
                Ok(_) => {
                    let what = format!("topic `{}` is another one now", part.topic.name);
                    return Admitted::Known(
                        Err(Error::conflict(what).with_source(Refused::UnknownPartition)),
                    );
                }
                Err(error) => return Admitted::Known(Err(error.with_source(Refused::UnknownPartition))),
            }
        }
        let sealed = &pending.sealed;
        let mut topics_of_offsets = Vec::with_capacity(sealed.groups.offsets.len());
        for offset in &sealed.groups.offsets {
            match visible
                .topic(&offset.topic)
                .and_then(|topic| topic.partition(offset.partition).map(|_| topic))
            {
                Ok(topic) if offset.is_of(topic.info.id) => topics_of_offsets.push(topic.id),
                Ok(_) => {
                    let what = format!("topic `{}` is another one now", offset.topic);
                    return Admitted::Known(Err(Refused::UnknownPartition.because(what)));
                }
                Err(error) => return Admitted::Known(Err(error.with_source(Refused::UnknownPartition))),
            }
        }
        drop(visible);
        if let Some(part) = sealed.parts.first().filter(|_| sealed.stamp.is_some()) {
            match self.admit_batch(pending, part, admission, place) {
                Ok(Verdict::Fresh) => {}
                Ok(Verdict::RepeatOf(first)) => return Admitted::Repeat(first),
                Ok(Verdict::Refused(error)) | Err(error) => return Admitted::Known(Err(error)),
                Ok(Verdict::Repeat(from)) => {
                    let to = from + i64::try_from(sealed.records).unwrap_or(0);
                    let range = OffsetRange::new(from, to);
                    return Admitted::Known(Ok(Appended {
                        ranges: vec![(part.topic.name.clone(), part.partition, range)],
                        records: sealed.records,
                        repeated: true,
                        producer: None,
                        append_time_ms: None,
                    }));
                }
            }
        }
        let Some(key) = &sealed.idempotency else {
            return Admitted::Fresh { topic_of_key: None, topics_of_offsets, producer: None };
        };
        let topic = match self.shared.visible.read().topic(&key.topic) {
            Ok(topic) => topic.id,
            Err(error) => return Admitted::Known(Err(error)),
        };
        if let Some(first) = keys.get(&(topic, key.key.clone())) {
            return Admitted::Repeat(*first);
        }
        match self.ledger.key(topic, &key.key, self.shared.expire_before_ms()) {
            Ok(None) => Admitted::Fresh { topic_of_key: Some(topic), topics_of_offsets, producer: None },
            Ok(Some((body_hash, answer))) => Admitted::Known(repeated(key, body_hash, &answer)),
            Err(cause) => Admitted::Known(Err(cause.into())),
        }
    }

    /// Judges a batch with a producer's sequence, and notes it when it is fresh.
    fn admit_batch(
        &self,
        pending: &Pending,
        part: &SealedPart,
        admission: &mut Admission,
        place: usize,
    ) -> Result<Verdict> {
        let Some(stamp) = pending.sealed.stamp else { return Ok(Verdict::Fresh) };
        let visible = self.shared.visible.read();
        let (now_ms, known) = (self.shared.clock.now_ms(), &visible.transactions);
        let topic = visible.topic(&part.topic.name)?;
        let here = (topic.id, part.partition);
        let by = ProducerEpoch { producer: stamp.producer, epoch: stamp.epoch };
        if !stamp.transactional && admission.changed.is_transactional(known, stamp.producer) {
            return Err(
                Refused::NotInTransaction.because("a batch of a transactional producer is not marked so")
            );
        }
        let verdict = self.producers.judge(&admission.advanced, here, stamp);
        if !matches!(verdict, Verdict::Fresh) {
            return Ok(verdict);
        }
        if stamp.transactional {
            let (enlists, id) = (pending.sealed.enlists, pending.sealed.transactional_id.as_deref());
            admission.changed.check_id(known, by.producer, id)?;
            admission.changed.check_batch(known, by, (part.topic.id, part.partition), enlists)?;
            let at = (part.topic.name.as_str(), part.topic.id, part.partition);
            if admission.changed.batch(known, by, at, place, now_ms) {
                admission.steps.push(Step {
                    topic: part.topic.name.clone(),
                    partition: part.partition,
                    producer: stamp.producer,
                    place,
                    part: 0,
                    ends: None,
                });
            }
        }
        self.producers.take(&mut admission.advanced, here, stamp, place, now_ms);
        Ok(verdict)
    }

    /// Does what a producer asks of its transaction; an end becomes markers and offsets in this append.
    fn admit_request(
        &mut self,
        pending: &mut Pending,
        request: crate::transactions::Request,
        admission: &mut Admission,
        place: usize,
    ) -> Admitted {
        let (shared, now_ms) = (self.shared.clone(), self.shared.clock.now_ms());
        let visible = shared.visible.read();
        let mut fresh = || self.new_producer_id();
        let applied = admission.changed.apply(&visible.transactions, request, now_ms, &mut fresh);
        let (producer, ending) = match applied {
            Ok(applied) => applied,
            Err(error) => return Admitted::Known(Err(error)),
        };
        let mut topics_of_offsets = Vec::new();
        if let Some(Ending { by, committed, partitions, offsets }) = ending {
            for enlisted in partitions {
                // A topic that was deleted since took its records with it.
                let topic = visible.topics.get(&enlisted.topic).filter(|topic| topic.info.id == enlisted.id);
                let Some(topic) = topic else { continue };
                let batch = SealedBatch::marker(batch::marker(by.producer, by.epoch, committed, now_ms));
                let key = (topic.id, enlisted.partition, by.producer);
                self.producers.shut_out(&mut admission.advanced, key, by.epoch, now_ms);
                admission.steps.push(Step {
                    topic: enlisted.topic,
                    partition: enlisted.partition,
                    producer: by.producer,
                    place,
                    part: pending.sealed.parts.len(),
                    ends: Some(committed),
                });
                let (topic, partition) = (topic.info.clone(), enlisted.partition);
                pending.sealed.parts.push(SealedPart { topic, partition, batches: vec![batch] });
            }
            for offset in offsets {
                // With its topic an offset is forgotten, too.
                let topic = visible.topics.get(&offset.topic).filter(|topic| offset.is_of(topic.info.id));
                if let Some(topic) = topic.filter(|topic| topic.partition(offset.partition).is_ok()) {
                    topics_of_offsets.push(topic.id);
                    pending.sealed.groups.offsets.push(offset);
                }
            }
        }
        Admitted::Fresh { topic_of_key: None, topics_of_offsets, producer: Some(producer) }
    }
}

/// The answer to a key that is known.
fn repeated(key: &Idempotency, body_hash: u128, answer: &str) -> Result<Appended> {
    if body_hash != key.body_hash {
        return Err(other_body(key));
    }
    serde_json::from_str(answer)
        .map(|first: Appended| Appended { repeated: true, ..first })
        .map_err(|error| Error::corrupt("the ledger has an answer that cannot be read").with_source(error))
}

pub(crate) fn same_body(pending: &Pending, first: Option<&Idempotency>) -> Result<()> {
    match (&pending.sealed.idempotency, first) {
        (Some(key), Some(first)) if key.body_hash != first.body_hash => Err(other_body(key)),
        _ => Ok(()),
    }
}

fn other_body(key: &Idempotency) -> Error {
    Error::conflict(format!(
        "the idempotency key was used with another body: key=`{}` topic=`{}`",
        key.key, key.topic
    ))
    .with_hint("use a new key for a new request")
}
