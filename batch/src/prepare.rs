//! What the next commit of a table takes from its tail.

use arrow::array::RecordBatch;
use tarn_model::{Boundary, Offset, PartitionId};
use tarn_table::fragment::slice_rows;
use tarn_table::open::offsets;
use tarn_table::{Cut, CutTable, Fragment};

/// Rows and dead letters of `[boundary, to)`, in offset order within each partition.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Where the commit leads.
    pub(crate) to: Boundary,
    /// Rows of the table.
    pub(crate) rows: Vec<RecordBatch>,
    /// Its dead letters.
    pub(crate) dead: Vec<RecordBatch>,
    /// Memory of both, bytes.
    pub(crate) bytes: usize,
}

/// Takes about `limit_bytes` from the tail, never beyond what every table on the topic has decoded.
pub(crate) fn take(cut: &Cut, table: &CutTable, limit_bytes: usize) -> Taken {
    let mut taken = Taken { to: table.boundary.clone(), ..Taken::default() };
    let mut fragments: Vec<&Fragment> = table.tail.iter().map(AsRef::as_ref).collect();
    fragments.sort_by_key(|fragment| (fragment.range.from, fragment.partition));
    for fragment in fragments {
        let partition = fragment.partition;
        let upto = fragment.range.to.min(cut.decoded.next(partition));
        // Partitions take turns by offset; one that was passed over for its size stays passed over.
        if fragment.range.from != taken.to.next(partition) || upto <= fragment.range.from {
            continue;
        }
        if taken.bytes >= limit_bytes {
            break;
        }
        take_fragment(&mut taken, fragment, partition, upto);
    }
    taken
}

fn take_fragment(taken: &mut Taken, fragment: &Fragment, partition: PartitionId, upto: Offset) {
    let whole = upto == fragment.range.to;
    let cut =
        |rows: &RecordBatch| if whole { rows.clone() } else { slice_rows(rows, fragment.range.from, upto) };
    let rows = cut(&fragment.rows);
    debug_assert!(offsets(&rows).values().iter().all(|offset| fragment.range.contains(*offset)));
    if rows.num_rows() > 0 {
        taken.rows.push(rows);
    }
    if let Some(dead) = fragment.dead.as_ref().map(cut).filter(|dead| dead.num_rows() > 0) {
        taken.dead.push(dead);
    }
    taken.bytes += fragment.bytes;
    taken.to.set(partition, upto);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use tarn_model::OffsetRange;
    use tarn_model::columns::Columns;

    use super::*;

    fn fragment(partition: PartitionId, from: Offset, to: Offset) -> Arc<Fragment> {
        let schema = Columns::parse("a INT").expect("columns").table_schema(false);
        let n = usize::try_from(to - from).expect("small");
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(arrow::array::Int32Array::from(vec![partition; n])),
            Arc::new(arrow::array::Int64Array::from_iter_values(from..to)),
            Arc::new(arrow::array::TimestampMicrosecondArray::from(vec![0; n]).with_timezone("UTC")),
            Arc::new(arrow::array::Int32Array::from(vec![Some(1); n])),
        ];
        let rows = RecordBatch::try_new(schema, columns).expect("rows");
        Arc::new(Fragment { partition, range: OffsetRange::new(from, to), rows, dead: None, bytes: 10 })
    }

    fn cut(tail: Vec<Arc<Fragment>>, boundary: Boundary, decoded: Boundary) -> (Cut, CutTable) {
        let schema = Columns::parse("a INT").expect("columns").table_schema(false);
        let table = CutTable {
            name: "t".into(),
            schema,
            dead_letters: false,
            lake: None,
            boundary,
            tail,
            tail_bytes: 0,
        };
        (Cut { topic: "t".into(), decoded, tables: HashMap::new() }, table)
    }

    fn rows(taken: &Taken) -> usize {
        taken.rows.iter().map(RecordBatch::num_rows).sum()
    }

    #[test]
    fn nothing_beyond_what_every_table_has_decoded_is_taken() {
        let tail = vec![fragment(0, 5, 9), fragment(0, 9, 12)];
        let (cut, table) = cut(tail, Boundary::from_iter([(0, 5)]), Boundary::from_iter([(0, 10)]));
        let taken = take(&cut, &table, 1000);
        assert_eq!(taken.to, Boundary::from_iter([(0, 10)]));
        assert_eq!(rows(&taken), 5);
    }

    #[test]
    fn a_limit_leaves_whole_fragments_behind_and_no_gap() {
        let tail = vec![fragment(0, 0, 4), fragment(0, 4, 8), fragment(1, 0, 3), fragment(1, 3, 6)];
        let (cut, table) = cut(tail, Boundary::new(), Boundary::from_iter([(0, 8), (1, 6)]));
        let taken = take(&cut, &table, 25);
        assert_eq!(taken.to, Boundary::from_iter([(0, 4), (1, 6)]));
        assert_eq!(rows(&taken), 10);
    }
}
