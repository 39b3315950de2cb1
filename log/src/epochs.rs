//! Leader epochs: by them a reader learns that the log was cut back behind its back.
//!
//! *Why*: under `interval` and `none` a power failure takes back what was not synced, and other records get the same offsets. The
//! epoch is the number of times that this has happened; every batch bears the one it was written in. A reader that
//! comes with an older one is told where that ended, and so sees which of its records are no longer there. A restart alone takes
//! nothing back, and so begins no epoch.

use tarn_model::{Offset, PartitionId, Result};

use crate::Log;

impl Log {
    /// The epoch in which records are written now.
    pub fn leader_epoch(&self) -> i32 {
        self.shared().leader_epoch
    }

    /// The newest epoch that is not above `epoch` and where it ends in a partition; `None` for one that has not begun. Blocking.
    pub fn epoch_end(
        &self,
        topic: &str,
        partition: PartitionId,
        epoch: i32,
    ) -> Result<Option<(i32, Offset)>> {
        let (id, end) = {
            let visible = self.shared().visible.read();
            let topic = visible.topic(topic)?;
            (topic.id, topic.partition(partition)?.end())
        };
        let current = self.leader_epoch();
        if epoch >= current {
            return Ok((epoch == current).then_some((epoch, end)));
        }
        Ok(Some(end_of(&self.shared().reader.epochs(id, partition)?, epoch, end)))
    }

    /// The epoch in which the record at `offset` was written, where that is known. Blocking.
    pub fn epoch_at(&self, topic: &str, partition: PartitionId, offset: Offset) -> Result<Option<i32>> {
        let current = self.leader_epoch();
        if current == 0 {
            return Ok(Some(0));
        }
        let id = self.shared().visible.read().topic(topic)?.id;
        let epochs = self.shared().reader.epochs(id, partition)?;
        let begun = epochs.iter().rev().find(|(_, start)| *start <= offset).map(|(epoch, _)| *epoch);
        // What is below the first that was noted is of the one before it, if that was the very first.
        Ok(begun.or_else(|| epochs.first().filter(|(epoch, _)| *epoch == 1).map(|_| 0)))
    }
}

/// Where `epoch`, which is not the current one, ended: where the next one began. Nothing is known of epochs that an older
/// version began: then it ends with the log.
fn end_of(epochs: &[(i32, Offset)], epoch: i32, end: Offset) -> (i32, Offset) {
    let Some((_, next)) = epochs.iter().find(|(begun, _)| *begun > epoch) else { return (epoch, end) };
    let floor = epochs.iter().rev().find(|(begun, _)| *begun <= epoch);
    (floor.map_or(epoch, |(begun, _)| *begun), *next)
}

#[cfg(test)]
mod tests {
    use super::end_of;

    #[test]
    fn an_epoch_ends_where_the_next_one_began() {
        let epochs = [(1, 10), (4, 25)];
        for (epoch, want) in [(0, (0, 10)), (1, (1, 25)), (2, (1, 25)), (3, (1, 25))] {
            assert_eq!(end_of(&epochs, epoch, 90), want, "epoch {epoch}");
        }
        assert_eq!(end_of(&[], 2, 90), (2, 90), "nothing was noted");
    }
}
