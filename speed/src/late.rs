//! Counts rows that come for a window that had closed.
//!
//! A window is closed once the watermark has passed its end by the view's grace. Here that is the watermark of the row's own
//! partition, by the rows before it: so the count depends on the log and on nothing else. A row in several windows is late
//! when the first of them had closed. It is in the view's answer all the same.
//!
//! *Failure*: the count begins anew with the process, at the table's boundary. Rows that reach the lake before they were looked
//! at, which takes a keeper that is behind by a whole commit, are not counted.

use std::sync::Arc;

use tarn_model::Boundary;
use tarn_table::fragment::slice_rows;
use tarn_table::watermark::{Newest, advance};
use tarn_table::{CutTable, EventTime};

/// Late rows of one view.
#[derive(Debug)]
pub(crate) struct LateCounter {
    time: Arc<EventTime>,
    window_us: i64,
    grace_us: i64,
    /// What has been looked at; `None` before the first look.
    counted: Option<Boundary>,
    newest: Newest,
    late: u64,
}

impl LateCounter {
    pub(crate) fn new(time: Arc<EventTime>, window_us: i64, grace_us: i64) -> LateCounter {
        LateCounter { time, window_us, grace_us, counted: None, newest: Newest::new(), late: 0 }
    }

    /// Looks at what is new in `table`; how many rows were late so far.
    pub(crate) fn count(&mut self, table: &CutTable) -> u64 {
        let counted = self.counted.take().unwrap_or_default();
        let is_behind = !counted.is_at_least(&table.boundary) || counted.is_empty();
        if let Some(lake) = table.lake.as_ref().filter(|_| is_behind) {
            for (partition, at) in self.time.in_lake(lake).unwrap_or_default() {
                if counted.next(partition) < table.boundary.next(partition) {
                    advance(&mut self.newest, partition, at);
                }
            }
        }
        for (partition, rows) in table.tail_batches() {
            let from = counted.next(partition).max(table.boundary.next(partition));
            let rows = slice_rows(rows, from, i64::MAX);
            let (window_us, grace_us) = (self.window_us, self.grace_us);
            self.late += self.time.count_late(&mut self.newest, partition, &rows, |at| {
                let start = at.saturating_sub(at.rem_euclid(window_us));
                start.saturating_add(window_us).saturating_add(grace_us)
            });
        }
        self.counted = Some(table.decoded());
        self.late
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
    use tarn_model::OffsetRange;
    use tarn_model::columns::Columns;
    use tarn_table::Fragment;

    use super::*;

    /// A table whose tail begins at offset 0 and has these event times.
    fn table(partitions: &[(i32, &[Option<i64>])]) -> CutTable {
        let schema = Columns::parse("ts TIMESTAMP").expect("columns").table_schema(false);
        let fragment = |(partition, times): &(i32, &[Option<i64>])| {
            let n = i64::try_from(times.len()).expect("few");
            let utc = |times: Vec<Option<i64>>| TimestampMicrosecondArray::from(times).with_timezone("UTC");
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int32Array::from(vec![*partition; times.len()])),
                Arc::new(Int64Array::from_iter_values(0..n)),
                Arc::new(utc(vec![Some(0); times.len()])),
                Arc::new(utc(times.to_vec())),
            ];
            let rows = RecordBatch::try_new(Arc::clone(&schema), columns).expect("rows");
            Arc::new(Fragment::new(*partition, OffsetRange::new(0, n), rows, None))
        };
        CutTable {
            name: "t".into(),
            schema: Arc::clone(&schema),
            dead_letters: false,
            lake: None,
            boundary: Boundary::new(),
            tail: partitions.iter().map(fragment).collect(),
            tail_bytes: 0,
        }
    }

    #[test]
    fn a_row_is_late_when_its_partition_had_passed_its_window_and_the_grace() {
        let time = Arc::new(EventTime {
            column: "ts".to_owned(),
            allowed_lateness_us: 5,
            idle_after_us: 0,
            partitions: 2,
        });
        let rows: [(i32, &[Option<i64>]); 2] = [
            // The watermark is 120 after the first row: [100, 110) and what lies before has ended; with a grace of 10 what
            // ended at 110 is closed, and what ended at 115 would not be.
            (0, &[Some(125), Some(109), Some(110), None, Some(99), Some(131), Some(119)]),
            (1, &[Some(0), Some(5), Some(3)]),
        ];
        let mut strict = LateCounter::new(Arc::clone(&time), 10, 0);
        assert_eq!(strict.count(&table(&rows)), 4);
        assert_eq!(strict.count(&table(&rows)), 4, "nothing is counted twice");
        assert_eq!(LateCounter::new(Arc::clone(&time), 10, 10).count(&table(&rows)), 2);
        assert_eq!(LateCounter::new(Arc::clone(&time), 10, 20).count(&table(&rows)), 1);
        assert_eq!(LateCounter::new(time, 1_000, 0).count(&table(&rows)), 0);
    }
}
