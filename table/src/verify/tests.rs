use std::time::Duration;

use arrow::array::{Int64Array, StringArray};
use arrow::compute::concat_batches;
use proptest::prelude::*;
use tarn_lake::{Commit, LakeOptions};
use tarn_log::{Append, LogOptions, RecordRef, TopicOptions};
use tarn_model::clock;
use tarn_model::config::{LogConfig, TableConfig};

use super::*;
use crate::open::{OpenTable, TableOpener, advances};

const PARTITIONS: i32 = 2;

/// A log and a lake, and the table `t` between them.
struct Pair {
    _folder: tempfile::TempDir,
    log: Log,
    lake: Lake,
    table: OpenTable,
}

/// Rows and dead letters as a sound pipeline would commit them; a test may damage them first.
struct Part {
    rows: RecordBatch,
    dead: RecordBatch,
}

impl Pair {
    async fn new(config: &str) -> Pair {
        let folder = tempfile::tempdir().expect("a folder");
        let options = LogOptions { segment_bytes: 4096, ..LogOptions::from(&LogConfig::default()) };
        let log = Log::open(folder.path(), options, clock::system()).expect("a log");
        let topic = TopicOptions { partitions: PARTITIONS, retention_time: None, retention_bytes: None };
        log.create_topic("t", &topic).expect("a topic");
        let options = LakeOptions {
            target_file_bytes: 1 << 24,
            optimize_after_files: 2,
            checkpoint_after_commits: 100,
            vacuum_retention: Duration::ZERO,
            log_retention: Duration::ZERO,
        };
        let lake = Lake::open("memory:", &BTreeMap::new(), options, clock::system()).await.expect("a lake");
        let config: TableConfig = serde_json::from_str(config).expect("a config");
        let table = open_table(&log, &lake, &config).await;
        Pair { _folder: folder, log, lake, table }
    }

    /// Appends `records` records to each partition; every seventh is no row.
    async fn append(&self, records: i64) {
        for partition in 0..PARTITIONS {
            let from = self.log.ends("t").expect("ends").next(partition);
            let offsets: Vec<Offset> = (from..from + records).collect();
            for some in offsets.chunks(10) {
                let mut append = Append::new();
                for at in some {
                    self.push(&mut append, partition, *at);
                }
                self.log.append(append).await.expect("appended");
            }
        }
    }

    fn push(&self, append: &mut Append, partition: PartitionId, at: Offset) {
        let value = match at % 7 {
            6 => format!("{{\"id\":\"word {at}\"}}"),
            5 => format!("{{\"id\":{at}}}"),
            _ => {
                format!(
                    "{{\"id\":{at},\"origin\":\"J/K {}\",\"delay\":{}.5,\"more\":[{at}]}}",
                    at % 3,
                    at % 11
                )
            }
        };
        let record = RecordRef {
            timestamp_ms: 1_700_000_000_000 + at,
            key: Some(b"k"),
            value: Some(value.as_bytes()),
            headers: &[("file", b"f.csv")],
        };
        append.push_to(&self.table.topic, partition, &record).expect("pushed");
    }

    /// Decodes what the lake does not have yet.
    fn parts(&self) -> Vec<Part> {
        let mut decoder = Decoder::new(&self.table.format).expect("a decoder");
        let boundary = boundary_of(&self.table.lake.snapshot());
        let part = |partition: PartitionId| {
            let (mut next, mut rows, mut dead) = (boundary.next(partition), Vec::new(), Vec::new());
            while next < self.log.ends("t").expect("ends").next(partition) {
                let mut fetch = self.log.fetch("t", partition, next, FETCH_BYTES).expect("fetched");
                let records = fetch.records().expect("records");
                next = fetch.next;
                let decoded = decoder.decode(partition, &records, &|_| false).expect("decoded");
                rows.push(open::align(&decoded.rows, &self.table.schema).expect("aligned"));
                dead.extend(decoded.dead);
            }
            Part {
                rows: concat_batches(&self.table.schema, &rows).expect("rows"),
                dead: concat_batches(&dead_letter_schema(), &dead).expect("dead letters"),
            }
        };
        (0..PARTITIONS).map(part).collect()
    }

    async fn commit(&self, parts: Vec<Part>) {
        let to = self.log.ends("t").expect("ends");
        let topic = &self.table.topic;
        let (rows, dead): (Vec<_>, Vec<_>) = parts.into_iter().map(|part| (part.rows, part.dead)).unzip();
        for (table, batches) in [(&self.table.dead_letters, dead), (&self.table.lake, rows)] {
            let files = table.write(batches).await.expect("written");
            let advances = advances(topic, &table.snapshot(), &to);
            let commit = Commit { files, advances, operation: "WRITE".to_owned(), ..Commit::default() };
            table.commit(commit).await.expect("committed");
        }
    }

    async fn verify(&self) -> TableReport {
        verify(&self.log, &self.lake, "t", "t", &self.table.format).await.expect("verified")
    }
}

async fn open_table(log: &Log, lake: &Lake, config: &TableConfig) -> OpenTable {
    let opener = TableOpener::new(log.clone(), lake.clone());
    opener.open(config).await.expect("opened").expect("the columns are declared")
}

const PLAIN: &str = r#"{"name": "t", "columns": "id BIGINT, origin VARCHAR, delay DOUBLE"}"#;

/// The problems of all partitions.
fn problems(report: &TableReport) -> Vec<&str> {
    assert_eq!(
        report.ok,
        report.problems.is_empty() && report.partitions.iter().all(|p| p.problems.is_empty())
    );
    let partitions = report.partitions.iter().flat_map(|partition| &partition.problems);
    report.problems.iter().chain(partitions).map(String::as_str).collect()
}

fn without(batch: &RecordBatch, row: usize) -> RecordBatch {
    let parts = [batch.slice(0, row), batch.slice(row + 1, batch.num_rows() - row - 1)];
    concat_batches(&batch.schema(), &parts).expect("a batch")
}

fn with_column(batch: &RecordBatch, name: &str, column: arrow::array::ArrayRef) -> RecordBatch {
    let mut columns = batch.columns().to_vec();
    columns[batch.schema().index_of(name).expect("a column")] = column;
    RecordBatch::try_new(batch.schema(), columns).expect("a batch")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_table_agrees_and_every_record_is_counted_and_compared() {
    let pair = Pair::new(PLAIN).await;
    let report = pair.verify().await;
    assert!(
        report.ok && report.partitions.iter().all(|p| p.boundary == 0 && p.content_agrees.is_none()),
        "{report:?}"
    );
    for _ in 0..2 {
        pair.append(50).await;
        pair.commit(pair.parts()).await;
    }
    // What is not committed yet is not looked at.
    pair.append(3).await;
    let report = pair.verify().await;
    assert_eq!(problems(&report), Vec::<&str>::new());
    assert_eq!(report.partitions.len(), 2);
    for partition in &report.partitions {
        assert_eq!((partition.boundary, partition.rows, partition.dead_letters), (100, 86, 14));
        assert_eq!(
            (partition.missing, partition.repeated, partition.lost, partition.compared),
            (0, 0, 0, 100)
        );
        assert_eq!(partition.content_agrees, Some(true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_unpacks_to_more_than_is_read_at_once_is_compared_whole() {
    let pair = Pair::new(PLAIN).await;
    // Each is a batch of 0.9 MB that packs to a few KiB: the first fetch has all of them.
    for at in 0..12 {
        let value = format!("{{\"id\":{at}{}}}", " ".repeat(900_000));
        let record = RecordRef {
            timestamp_ms: 1_700_000_000_000,
            key: None,
            value: Some(value.as_bytes()),
            headers: &[],
        };
        let mut append = Append::new();
        append.push_to(&pair.table.topic, 0, &record).expect("pushed");
        pair.log.append(append).await.expect("appended");
    }
    let mut fetch = pair.log.fetch("t", 0, 0, FETCH_BYTES).expect("fetched");
    assert_eq!(fetch.next, 12);
    fetch.records().expect("records");
    assert!((8..12).contains(&fetch.next), "{}", fetch.next);
    pair.commit(pair.parts()).await;
    let report = pair.verify().await;
    assert_eq!(problems(&report), Vec::<&str>::new());
    let partition = &report.partitions[0];
    assert_eq!((partition.rows, partition.compared, partition.content_agrees), (12, 12, Some(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_columns_are_part_of_the_content() {
    let config =
        r#"{"name": "t", "columns": "id BIGINT, origin VARCHAR, delay DOUBLE", "partition_by": ["origin"]}"#;
    let pair = Pair::new(config).await;
    pair.append(50).await;
    pair.commit(pair.parts()).await;
    let report = pair.verify().await;
    assert_eq!(problems(&report), Vec::<&str>::new());
    assert!(report.partitions.iter().all(|p| p.content_agrees == Some(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubled_row_is_found() {
    let pair = Pair::new(PLAIN).await;
    pair.append(50).await;
    let mut parts = pair.parts();
    let rows = &parts[1].rows;
    parts[1].rows = concat_batches(&rows.schema(), [rows, &rows.slice(8, 1)]).expect("rows");
    pair.commit(parts).await;
    let report = pair.verify().await;
    let found = problems(&report);
    assert_eq!(found[0], "1 offsets occur more than once: 9");
    assert_eq!(found[1], "the content differs from the log's within offsets [0, 50)");
    assert_eq!((report.partitions[1].repeated, report.partitions[1].content_agrees), (1, Some(false)));
    assert!(report.partitions[0].problems.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_row_and_a_missing_dead_letter_are_found() {
    let pair = Pair::new(PLAIN).await;
    pair.append(50).await;
    let mut parts = pair.parts();
    parts[0].rows = without(&parts[0].rows, 3);
    parts[1].dead = without(&parts[1].dead, 0);
    pair.commit(parts).await;
    let report = pair.verify().await;
    assert_eq!((report.partitions[0].missing, report.partitions[1].missing), (1, 1));
    assert_eq!(report.partitions[0].problems[0], "1 offsets are neither row nor dead letter: [3, 4)");
    assert_eq!(report.partitions[1].problems[0], "1 offsets are neither row nor dead letter: [6, 7)");
    assert_eq!(report.partitions[1].content_agrees, Some(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_cell_and_a_changed_dead_letter_are_found() {
    let pair = Pair::new(PLAIN).await;
    pair.append(50).await;
    let mut parts = pair.parts();
    let ids = parts[0].rows.column_by_name("id").expect("ids").as_primitive::<arrow::datatypes::Int64Type>();
    let changed = ids.values().iter().map(|id| if *id == 17 { 18 } else { *id });
    parts[0].rows = with_column(&parts[0].rows, "id", Arc::new(Int64Array::from_iter_values(changed)));
    let headers = StringArray::from(vec!["{\"file\":\"g.csv\"}"; parts[1].dead.num_rows()]);
    parts[1].dead = with_column(&parts[1].dead, "headers", Arc::new(headers));
    pair.commit(parts).await;
    let report = pair.verify().await;
    let differs = "the content differs from the log's within offsets [0, 50)";
    assert_eq!(problems(&report), [differs, differs]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_a_reason_are_not_part_of_the_content() {
    let pair = Pair::new(PLAIN).await;
    pair.append(50).await;
    let mut parts = pair.parts();
    let reasons = StringArray::from(vec!["other words"; parts[1].dead.num_rows()]);
    parts[1].dead = with_column(&parts[1].dead, "reason", Arc::new(reasons));
    pair.commit(parts).await;
    assert_eq!(problems(&pair.verify().await), Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_is_both_row_and_dead_letter_is_found() {
    let pair = Pair::new(PLAIN).await;
    pair.append(50).await;
    let mut parts = pair.parts();
    let dead = &parts[0].dead;
    let offsets = with_column(&dead.slice(0, 1), "_offset", Arc::new(Int64Array::from(vec![3])));
    parts[0].dead = concat_batches(&dead.schema(), [dead, &offsets]).expect("dead letters");
    pair.commit(parts).await;
    let report = pair.verify().await;
    assert_eq!(report.partitions[0].repeated, 1);
    assert_eq!(report.partitions[0].problems[0], "1 offsets occur more than once: 3 (a dead letter)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_should_be_a_dead_letter_is_found() {
    let pair = Pair::new(PLAIN).await;
    pair.append(50).await;
    let mut parts = pair.parts();
    let rows = parts[0].rows.clone();
    let wrong = with_column(&rows.slice(0, 1), "_offset", Arc::new(Int64Array::from(vec![6])));
    parts[0].rows = concat_batches(&rows.schema(), [&rows, &wrong]).expect("rows");
    parts[0].dead = without(&parts[0].dead, 0);
    pair.commit(parts).await;
    let report = pair.verify().await;
    assert_eq!(
        report.partitions[0].problems[0],
        "offsets are no dead letters in the lake, but the log decodes them as such: 6 (f.csv: column `id` takes BIGINT, not `word 6`)"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_file_that_is_gone_is_found() {
    use object_store::ObjectStoreExt as _;
    let pair = Pair::new(PLAIN).await;
    pair.append(50).await;
    pair.commit(pair.parts()).await;
    let path = pair.table.lake.snapshot().files[0].path.clone();
    pair.lake.store().delete(&path).await.expect("deleted");
    let report = pair.verify().await;
    assert_eq!(report.problems, [format!("the data file `{path}` is not there")]);
    assert!(!report.ok && report.partitions.iter().any(|p| p.missing > 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_the_log_no_longer_has_are_counted_but_not_compared() {
    let pair = Pair::new(PLAIN).await;
    pair.append(100).await;
    pair.commit(pair.parts()).await;
    pair.log.trim("t", &Boundary::from_iter([(0, 60)]), false).await.expect("trimmed");
    let start = pair.log.starts("t").expect("starts").next(0);
    assert!(start > 0, "a whole segment went");
    let report = pair.verify().await;
    assert_eq!(problems(&report), Vec::<&str>::new());
    assert_eq!(report.partitions[0].rows + report.partitions[0].dead_letters, 100);
    assert_eq!(i64::try_from(report.partitions[0].compared).expect("small"), 100 - start);
    assert_eq!(report.partitions[1].compared, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_older_format_are_counted_but_not_decoded_again() {
    let mut pair = Pair::new(PLAIN).await;
    pair.append(50).await;
    pair.commit(pair.parts()).await;
    let grown = r#"{"name": "t", "columns": "id BIGINT, origin VARCHAR, delay DOUBLE, more VARCHAR"}"#;
    let config = serde_json::from_str(grown).expect("a config");
    pair.table = open_table(&pair.log, &pair.lake, &config).await;
    pair.append(20).await;
    pair.commit(pair.parts()).await;
    let report = pair.verify().await;
    assert_eq!(problems(&report), Vec::<&str>::new());
    for partition in &report.partitions {
        assert_eq!((partition.rows + partition.dead_letters, partition.compared), (70, 20));
        assert_eq!(partition.content_agrees, Some(true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_made_of_a_topic_whose_beginning_is_gone_starts_there() {
    let pair = Pair::new(PLAIN).await;
    pair.append(100).await;
    pair.log.trim("t", &Boundary::from_iter([(0, 60)]), false).await.expect("trimmed");
    let start = pair.log.starts("t").expect("starts").next(0);
    assert!(start > 0, "a whole segment went");
    let config = PLAIN.replace(r#""t""#, r#""late""#).replace('}', r#", "topic": "t"}"#);
    let config: TableConfig = serde_json::from_str(&config).expect("a config");
    let late = open_table(&pair.log, &pair.lake, &config).await;
    let properties = &late.lake.snapshot().properties;
    assert_eq!(
        properties.get(open::START).map(String::as_str),
        Some(format!("{{\"0\":{start},\"1\":0}}").as_str())
    );
    let report = verify(&pair.log, &pair.lake, "t", "late", &late.format).await.expect("verified");
    assert_eq!(problems(&report), Vec::<&str>::new());
}

#[test]
fn offsets_that_a_forced_trim_took_are_lost_and_not_missing() {
    let range = OffsetRange::new;
    let mut ledger = Ledger::new(0, range(0, 10), range(10, 10), vec![range(2, 5), range(8, 12)]);
    let offsets = [0, 1, 5, 6];
    ledger.lake(Kind::Rows, &rows(&offsets.map(|offset| (offset, 0))), None).expect("counted");
    let report = ledger.report();
    assert_eq!((report.rows, report.lost, report.missing), (4, 5, 1));
    assert_eq!(report.problems, ["1 offsets are neither row nor dead letter: [7, 10)"]);
    assert_eq!(report.content_agrees, None);
}

#[test]
fn a_trim_while_the_log_is_read_shortens_the_comparison() {
    let all: Vec<(Offset, i64)> = (0..10_000).map(|offset| (offset, offset)).collect();
    let mut damaged = all.clone();
    damaged[100].1 += 1;
    for (trimmed_to, agrees) in [(0, Some(false)), (101, Some(true)), (9_999, None)] {
        let mut ledger = Ledger::new(0, OffsetRange::new(0, 10_000), OffsetRange::new(0, 10_000), Vec::new());
        let mut hasher = Hasher::new(Kind::Rows, &rows(&[]).schema()).expect("a hasher");
        ledger.lake(Kind::Rows, &rows(&damaged), Some(&mut hasher)).expect("lake");
        if trimmed_to > 0 {
            ledger.log(&rows(&all[..50]), &mut hasher).expect("log");
            ledger.trimmed_to(trimmed_to);
        }
        let from = usize::try_from(ledger.compared().from).expect("small");
        ledger.log(&rows(&all[from..]), &mut hasher).expect("log");
        let report = ledger.report();
        assert_eq!(report.content_agrees, agrees, "{trimmed_to}: {report:?}");
    }
}

/// Rows of (offset, value).
fn rows(of: &[(Offset, i64)]) -> RecordBatch {
    let format = TableFormat {
        columns: tarn_model::columns::Columns::parse("v BIGINT").expect("columns"),
        unknown_fields: tarn_model::config::UnknownFields::Drop,
        timezone: None,
        record: Default::default(),
    };
    let column = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as arrow::array::ArrayRef;
    let n = of.len();
    let columns = vec![
        Arc::new(arrow::array::Int32Array::from(vec![0; n])) as arrow::array::ArrayRef,
        column(of.iter().map(|(offset, _)| *offset).collect()),
        Arc::new(arrow::array::TimestampMicrosecondArray::from(vec![0; n]).with_timezone("UTC")),
        column(of.iter().map(|(_, value)| *value).collect()),
    ];
    RecordBatch::try_new(format.schema(), columns).expect("rows")
}

#[derive(Debug, Clone)]
enum Damage {
    Double(usize),
    Drop(usize),
    Change(usize),
    Swap(usize, usize),
    MoveOffset(usize, Offset),
}

proptest! {
    /// Whatever the order in which rows are read: no damage, no problem; any damage, a problem.
    #[test]
    fn any_damage_is_found_and_only_damage(
        n in 2_usize..200,
        chunk in 1_usize..50,
        order in any::<u64>(),
        damage in prop::option::of(prop_oneof![
            any::<usize>().prop_map(Damage::Double),
            any::<usize>().prop_map(Damage::Drop),
            any::<usize>().prop_map(Damage::Change),
            (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Damage::Swap(a, b)),
            (any::<usize>(), -3_i64..300).prop_map(|(a, o)| Damage::MoveOffset(a, o)),
        ]),
    ) {
        let sound: Vec<(Offset, i64)> = (0..).zip((0..n).map(|at| i64::try_from(at * at).expect("small"))).collect();
        let mut lake = sound.clone();
        match damage {
            None => {}
            Some(Damage::Double(at)) => lake.push(lake[at % n]),
            Some(Damage::Drop(at)) => drop(lake.remove(at % n)),
            Some(Damage::Change(at)) => lake[at % n].1 ^= 1,
            Some(Damage::Swap(a, b)) => {
                let (a, b) = (a % n, b % n);
                (lake[a].1, lake[b].1) = (lake[b].1, lake[a].1);
            }
            Some(Damage::MoveOffset(at, offset)) => lake[at % n].0 = offset,
        }
        let damaged = {
            let mut sorted = lake.clone();
            sorted.sort_unstable();
            sorted != sound
        };
        // Some order or other.
        lake.sort_by_key(|(offset, _)| xxhash_rust::xxh3::xxh3_64_with_seed(&offset.to_le_bytes(), order));
        let to = Offset::try_from(n).expect("small");
        let mut ledger = Ledger::new(0, OffsetRange::new(0, to), OffsetRange::new(0, to), Vec::new());
        let mut hasher = Hasher::new(Kind::Rows, &rows(&[]).schema()).expect("a hasher");
        for part in lake.chunks(chunk) {
            ledger.lake(Kind::Rows, &rows(part), Some(&mut hasher)).expect("lake");
        }
        for part in sound.chunks(chunk + 1) {
            ledger.log(&rows(part), &mut hasher).expect("log");
        }
        let report = ledger.report();
        prop_assert_eq!(damaged, !report.problems.is_empty(), "{:?}", report);
    }
}
