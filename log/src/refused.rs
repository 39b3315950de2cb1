//! Why the log refuses what a client sent: the part of an error that a protocol has a code for.

use std::error::Error as StdError;

use tarn_model::{Error, Kind};

/// The cause in the source chain of an [`Error`], where there is one: see [`Refused::of`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The bytes are not a record batch, or not the one that was sent: a length or the CRC is wrong.
    #[error("the batch is torn or corrupt")]
    Corrupt,
    /// The batch is whole, and holds what the log does not take.
    #[error("the batch breaks a rule")]
    Malformed,
    /// The batch or a record in it is larger than the topic takes.
    #[error("the batch is too large")]
    TooLarge,
    /// The batch says that its records have the time of their append, which only the log gives.
    #[error("the timestamps are not the producer's")]
    Timestamps,
    /// The batch has a compression that nobody knows.
    #[error("the compression is unknown")]
    UnknownCompression,
    /// The producer's epoch is below one that has written here.
    #[error("the producer's epoch is stale")]
    StaleEpoch,
    /// The producer's sequence does not follow the last one that is here.
    #[error("the producer's sequence is out of order")]
    OutOfOrder,
    /// The producer has no such transactional id, or the id another producer.
    #[error("the transactional id is not this producer's")]
    UnknownProducer,
    /// It belongs to a transaction, and that is not open or does not have the partition.
    #[error("no such transaction is open")]
    NotInTransaction,
    /// There is no such topic or partition.
    #[error("the topic or partition is unknown")]
    UnknownPartition,
}

impl Refused {
    /// The cause of this kind in `error`.
    pub fn of(error: &Error) -> Option<Refused> {
        let mut cause: Option<&(dyn StdError + 'static)> = error.source();
        while let Some(source) = cause {
            if let Some(refused) = source.downcast_ref::<Refused>() {
                return Some(*refused);
            }
            cause = source.source();
        }
        None
    }

    /// An error with this cause.
    pub(crate) fn because(self, message: impl Into<String>) -> Error {
        let kind = if self == Refused::StaleEpoch { Kind::Fenced } else { Kind::Invalid };
        Error::new(kind, message).with_source(self)
    }
}
