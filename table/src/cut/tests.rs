use std::collections::BTreeMap;

use arrow::array::{AsArray, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use proptest::prelude::*;
use tarn_lake::FileStatistics;
use tarn_model::columns::{OFFSET, system_fields};
use tarn_model::{Kind, OffsetRange};

use super::*;
use crate::fragment::Fragment;

const TABLE: &str = "t";
const DEAD: &str = "t_dead_letters";

fn schema(last: &str) -> SchemaRef {
    let mut fields = system_fields();
    fields.push(Field::new(last, DataType::Utf8, true));
    Arc::new(Schema::new(fields))
}

fn batch(last: &str, partition: PartitionId, offsets: &[i64]) -> RecordBatch {
    let texts = StringArray::from_iter_values(offsets.iter().map(|offset| format!("{partition}/{offset}")));
    RecordBatch::try_new(
        schema(last),
        vec![
            Arc::new(Int32Array::from(vec![partition; offsets.len()])),
            Arc::new(Int64Array::from(offsets.to_vec())),
            Arc::new(TimestampMicrosecondArray::from(vec![0; offsets.len()]).with_timezone("UTC")),
            Arc::new(texts),
        ],
    )
    .expect("a batch")
}

/// Offsets `[from, to)`, of which those in `dead` are dead letters.
fn fragment(partition: PartitionId, from: i64, to: i64, dead: &[i64]) -> SharedFragment {
    let rows: Vec<i64> = (from..to).filter(|offset| !dead.contains(offset)).collect();
    let dead = (!dead.is_empty()).then(|| batch("reason", partition, dead));
    Arc::new(Fragment::new(partition, OffsetRange::new(from, to), batch("text", partition, &rows), dead))
}

fn snapshot(version: u64) -> Arc<LakeSnapshot> {
    Arc::new(LakeSnapshot {
        version,
        schema: schema("text"),
        partition_by: Vec::new(),
        properties: BTreeMap::new(),
        txns: HashMap::new(),
        marks: BTreeMap::new(),
        files: Vec::new(),
        statistics: FileStatistics {
            rows: Int64Array::from(Vec::<i64>::new()),
            min: HashMap::new(),
            max: HashMap::new(),
            nulls: HashMap::new(),
        },
        foreign_version: None,
    })
}

fn table(name: &str, boundary: Boundary) -> CutTable {
    let dead_letters = name.ends_with(DEAD_LETTERS_SUFFIX);
    CutTable {
        name: name.into(),
        schema: schema(if dead_letters { "reason" } else { "text" }),
        dead_letters,
        lake: None,
        boundary,
        tail: Vec::new(),
        tail_bytes: 0,
    }
}

fn hub() -> TopicHub {
    let hub = TopicHub::new("clicks");
    hub.add_table(table(TABLE, Boundary::new())).expect("a table");
    hub.add_table(table(DEAD, Boundary::new())).expect("its dead letters");
    hub
}

fn publish(hub: &TopicHub, fragment: SharedFragment) -> Result<()> {
    hub.publish(fragment.partition, vec![(TABLE.into(), fragment.clone()), (DEAD.into(), fragment)])
}

/// What a table's tail shows: (partition, offset), checked to be gapless from boundary to `decoded`.
fn seen(cut: &Cut, name: &str) -> Vec<(PartitionId, i64)> {
    let table = &cut.tables[name];
    let mut next = table.boundary.clone();
    for fragment in &table.tail {
        next.advance(fragment.partition, fragment.range).expect("the tail is gapless");
    }
    assert!(next.is_at_least(&cut.decoded), "{name}: tail ends at {next}, decoded is {}", cut.decoded);
    let mut seen = Vec::new();
    for (partition, rows) in table.tail_batches() {
        let offsets = rows.column_by_name(OFFSET).expect("offsets").as_primitive::<Int64Type>();
        seen.extend(offsets.values().iter().map(|offset| (partition, *offset)));
    }
    assert_eq!(u64::try_from(seen.len()).expect("few"), table.tail_rows());
    seen
}

#[derive(Debug, Clone)]
enum Step {
    Publish { partition: PartitionId, shift: i64, len: i64, dead: Vec<bool> },
    Take,
    Commit { dead_letters: bool, held: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..2_i32, prop_oneof![9 => Just(0_i64), 1 => -2..3_i64], 0..6_i64, prop::collection::vec(prop::bool::weighted(0.1), 6))
            .prop_map(|(partition, shift, len, dead)| Step::Publish { partition, shift, len, dead }),
        1 => Just(Step::Take),
        1 => (any::<bool>(), 0..3_usize).prop_map(|(dead_letters, held)| Step::Commit { dead_letters, held }),
    ]
}

/// The whole hub as plain sets.
#[derive(Debug, Default)]
struct Model {
    decoded: Boundary,
    rows: Boundary,
    dead: Boundary,
    dead_letters: Vec<(PartitionId, i64)>,
}

impl Model {
    fn settled(&self) -> Boundary {
        self.dead.join(&self.rows)
    }

    fn between(&self, from: &Boundary, to: &Boundary, dead: bool) -> Vec<(PartitionId, i64)> {
        (0..2)
            .flat_map(|p| (from.next(p)..to.next(p)).map(move |offset| (p, offset)))
            .filter(|at| self.dead_letters.contains(at) == dead)
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_hub_shows_what_its_model_shows(steps in prop::collection::vec(step(), 1..120)) {
        let hub = hub();
        let mut model = Model::default();
        type Held = (Arc<Cut>, Vec<(PartitionId, i64)>, Vec<(PartitionId, i64)>);
        let mut held: Vec<Held> = Vec::new();
        let mut version = 0;
        for step in steps {
            let before = hub.cut();
            match step {
                Step::Publish { partition, shift, len, dead } => {
                    let from = (model.decoded.next(partition) + shift).max(0);
                    let dead: Vec<i64> =
                        (from..from + len).zip(dead).filter(|(_, dead)| *dead).map(|(offset, _)| offset).collect();
                    let range = OffsetRange::new(from, from + len);
                    let fits = model.decoded.advance(partition, range).is_ok();
                    prop_assert_eq!(publish(&hub, fragment(partition, from, from + len, &dead)).is_ok(), fits);
                    if fits {
                        model.dead_letters.extend(dead.iter().map(|offset| (partition, *offset)));
                    } else {
                        prop_assert!(Arc::ptr_eq(&before, &hub.cut()), "a rejected publish changes nothing");
                    }
                }
                Step::Take => {
                    let cut = hub.cut();
                    held.push((cut.clone(), seen(&cut, TABLE), seen(&cut, DEAD)));
                    if held.len() > 3 {
                        held.remove(0);
                    }
                }
                Step::Commit { dead_letters, held: at } => {
                    let Some((cut, _, _)) = held.get(at) else { continue };
                    let to = cut.decoded.clone();
                    version += 1;
                    let name = if dead_letters { DEAD } else { TABLE };
                    let known = if dead_letters { &model.dead } else { &model.rows };
                    let fits = to.is_at_least(known)
                        && (dead_letters || model.between(&model.settled(), &to, true).is_empty());
                    prop_assert_eq!(hub.committed(name, snapshot(version), to.clone()).is_ok(), fits);
                    if fits && dead_letters {
                        model.dead = to;
                    } else if fits {
                        model.rows = to;
                    } else {
                        prop_assert!(Arc::ptr_eq(&before, &hub.cut()), "a rejected commit changes nothing");
                    }
                }
            }
            let cut = hub.cut();
            prop_assert!(cut.decoded.is_at_least(&model.decoded) && model.decoded.is_at_least(&cut.decoded));
            prop_assert_eq!(seen(&cut, TABLE), model.between(&model.rows, &model.decoded, false));
            prop_assert_eq!(seen(&cut, DEAD), model.between(&model.settled(), &model.decoded, true));
            for (cut, rows, dead) in &held {
                prop_assert_eq!(&seen(cut, TABLE), rows, "a cut that is held stays as it was");
                prop_assert_eq!(&seen(cut, DEAD), dead, "a cut that is held stays as it was");
            }
        }
    }
}

#[test]
fn thousands_of_small_fragments_become_few_and_keep_their_order() {
    let hub = hub();
    for offset in 0..4000 {
        publish(&hub, fragment(0, offset, offset + 1, &[])).expect("the next offset");
    }
    let cut = hub.cut();
    assert!(cut.tables[TABLE].tail.len() < 40, "{} fragments", cut.tables[TABLE].tail.len());
    assert_eq!(seen(&cut, TABLE), (0..4000).map(|offset| (0, offset)).collect::<Vec<_>>());
}

#[test]
fn a_commit_drops_its_range_even_when_fragments_were_merged_across_it() {
    let hub = hub();
    for offset in 0..7 {
        publish(&hub, fragment(0, offset, offset + 1, &[])).expect("the next offset");
    }
    let taken = hub.cut();
    for offset in 7..9 {
        publish(&hub, fragment(0, offset, offset + 1, &[])).expect("the next offset");
    }
    assert!(hub.cut().tables[TABLE].tail[0].range.to > 7, "merged across the boundary");
    hub.committed(TABLE, snapshot(1), taken.decoded.clone()).expect("a commit");
    assert_eq!(seen(&hub.cut(), TABLE), vec![(0, 7), (0, 8)]);
    assert_eq!(seen(&taken, TABLE).len(), 7, "the cut that was taken stays");
}

#[test]
fn memory_of_shared_fragments_is_counted_once_and_freed_by_the_commit() {
    let hub = hub();
    publish(&hub, fragment(0, 0, 100, &[3])).expect("the first");
    let cut = hub.cut();
    assert_eq!(hub.tail_bytes(), cut.tables[TABLE].tail_bytes);
    assert_eq!(cut.tables[DEAD].tail_bytes, cut.tables[TABLE].tail_bytes, "both pin the same fragment");
    hub.committed(DEAD, snapshot(1), cut.decoded.clone()).expect("dead letters");
    hub.committed(TABLE, snapshot(1), cut.decoded.clone()).expect("rows");
    assert_eq!(hub.tail_bytes(), 0);
}

#[test]
fn rows_are_not_committed_before_their_dead_letters() {
    let hub = hub();
    publish(&hub, fragment(0, 0, 10, &[4])).expect("the first");
    let decoded = hub.cut().decoded.clone();
    let error = hub.committed(TABLE, snapshot(1), decoded.clone()).expect_err("dead letters first");
    assert_eq!(error.kind(), Kind::Conflict);
    hub.committed(TABLE, snapshot(1), Boundary::from_iter([(0, 4)])).expect("below the first dead letter");
    hub.committed(DEAD, snapshot(1), decoded.clone()).expect("dead letters");
    hub.committed(TABLE, snapshot(2), decoded).expect("then rows");
}

#[test]
fn dead_letters_ahead_of_their_table_stay_settled_after_a_restart() {
    let hub = TopicHub::new("clicks");
    hub.add_table(table(DEAD, Boundary::from_iter([(0, 10)]))).expect("dead letters");
    hub.add_table(table(TABLE, Boundary::from_iter([(0, 5)]))).expect("the table");
    assert_eq!(hub.cut().decoded, Boundary::from_iter([(0, 5)]), "the reader starts at the table's boundary");
    publish(&hub, fragment(0, 5, 12, &[11])).expect("starts at the table's end");
    let cut = hub.cut();
    assert_eq!(seen(&cut, TABLE), (5..11).map(|offset| (0, offset)).collect::<Vec<_>>());
    assert_eq!(seen(&cut, DEAD), vec![(0, 11)]);
}

#[test]
fn dead_letters_behind_their_table_count_as_settled_below_its_boundary() {
    let hub = TopicHub::new("clicks");
    hub.add_table(table(TABLE, Boundary::from_iter([(0, 5)]))).expect("the table");
    hub.add_table(table(DEAD, Boundary::new())).expect("dead letters, none so far");
    assert_eq!(hub.cut().decoded, Boundary::from_iter([(0, 5)]));
    assert_eq!(hub.cut().tables[DEAD].boundary, Boundary::from_iter([(0, 5)]));
}

#[test]
fn a_removed_table_is_gone_with_its_tail() {
    let hub = hub();
    publish(&hub, fragment(0, 0, 3, &[1])).expect("the first");
    assert!(hub.remove_table(TABLE) && hub.remove_table(DEAD));
    assert!(!hub.remove_table(TABLE));
    assert!(hub.cut().tables.is_empty());
    assert_eq!(hub.tail_bytes(), 0);
    publish(&hub, fragment(0, 3, 4, &[])).expect_err("there is no such table");
}

#[test]
fn every_swap_ticks() {
    let hub = hub();
    let changes = hub.changes();
    publish(&hub, fragment(0, 0, 1, &[])).expect("the first");
    assert!(changes.has_changed().expect("the hub lives"));
}
