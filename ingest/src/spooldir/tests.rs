use std::fs;

use proptest::prelude::*;

use crate::RunMode;
use crate::fixture::{Fixture, exists, gzip, ndjson};

const NDJSON: &str = r#"
[[source]]
name = "spool"
type = "spooldir"
path = "DIR/in"
format = "ndjson"
topic = "events"
every = "5ms"
"#;

fn csv(extra: &str) -> String {
    NDJSON.replace("ndjson", "csv") + extra
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

#[test]
fn files_come_in_name_order_with_file_and_line_and_are_marked_done() {
    let fixture = Fixture::new();
    fixture.put("in/b.ndjson", ndjson(100, 50));
    fixture.put("in/a.ndjson", ndjson(0, 100));
    fixture.put("in/.hidden", "{}");
    fixture.put("in/old.done", "{}");
    let status = fixture.drain(NDJSON).unwrap();
    let records = fixture.records("events");
    assert_eq!(fixture.texts("events"), lines(&ndjson(0, 150)));
    assert_eq!((records[0].header("file"), records[0].header("line")), ("a.ndjson", "1"));
    assert_eq!((records[149].header("file"), records[149].header("line")), ("b.ndjson", "50"));
    assert_eq!(fixture.names("in"), [".hidden", "a.ndjson.done", "b.ndjson.done", "old.done"]);
    assert_eq!((status[0].state.as_str(), status[0].records), ("done", 150));
    assert_eq!((status[0].lag_bytes, status[0].total_bytes), (Some(0), Some(ndjson(0, 150).len() as u64)));
}

#[test]
fn the_same_content_is_read_once_under_any_name() {
    let fixture = Fixture::new();
    fixture.put("in/a.ndjson", ndjson(0, 10));
    fixture.put("in/b.ndjson", ndjson(0, 10));
    fixture.drain(NDJSON).unwrap();
    fixture.put("in/a.ndjson", ndjson(0, 10));
    fixture.put("in/c.ndjson", ndjson(0, 11));
    fixture.drain(NDJSON).unwrap();
    assert_eq!(fixture.count("events"), 10 + 11);
    let done = ["a.ndjson.done", "a.ndjson.done.1", "b.ndjson.done", "c.ndjson.done"];
    assert_eq!(fixture.names("in"), done, "a rename never overwrites");
}

#[test]
fn files_can_be_moved_instead_and_nothing_is_overwritten() {
    let fixture = Fixture::new();
    let config = format!("{NDJSON}\ndone = \"move\"\ndone_path = \"DIR/done\"\n");
    fixture.put("done/a.ndjson", "kept");
    fixture.put("in/a.ndjson", ndjson(0, 3));
    fixture.drain(&config).unwrap();
    assert!(fixture.names("in").is_empty());
    assert_eq!(fixture.names("done"), ["a.ndjson", "a.ndjson.1"]);
    assert_eq!(fs::read(fixture.path("done/a.ndjson")).unwrap(), b"kept");
}

#[test]
fn empty_files_and_bare_headers_have_no_records_and_are_done() {
    let fixture = Fixture::new();
    fixture.put("in/empty.csv", "");
    fixture.put("in/header.csv", "a,b\n");
    fixture.put("in/one.csv", "a,b\n1,2");
    fixture.drain(&csv("")).unwrap();
    assert_eq!(fixture.texts("events"), [r#"{"a":"1","b":"2"}"#]);
    assert_eq!(fixture.names("in").len(), 3);
    assert!(fixture.names("in").iter().all(|name| name.ends_with(".done")));
}

#[test]
fn csv_rows_become_objects_with_keys_and_odd_rows_become_dead_letters() {
    let fixture = Fixture::new();
    fixture.put("in/a.csv", b"id,name\n1,x\n2\nNA,\xff\nNA,\"two\nlines\"\n3,y\n");
    let status = fixture.drain(&csv("key = \"id\"\nnull_values = [\"NA\"]\n")).unwrap();
    assert!(Some(status[0].bytes) <= status[0].total_bytes, "the header is not counted twice");
    let records = fixture.records("events");
    let told: Vec<_> =
        records.iter().map(|r| (r.text(), r.key.clone(), r.header("line").to_owned())).collect();
    let row = |text: &str, key: Option<&str>, line: &str| {
        (text.to_owned(), key.map(str::to_owned), line.to_owned())
    };
    assert_eq!(
        told,
        [
            row(r#"{"id":"1","name":"x"}"#, Some("1"), "2"),
            row("2", None, "3"),
            row("NA,\u{fffd}", None, "4"),
            row("{\"id\":null,\"name\":\"two\\nlines\"}", None, "5"),
            row(r#"{"id":"3","name":"y"}"#, Some("3"), "7"),
        ]
    );
    assert_eq!(records[1].header("tarn.error"), "line 3 has 1 field, the header has 2");
    assert_eq!(records[2].header("tarn.error"), "line 4 is not valid UTF-8 in the field \"name\"");
    assert_eq!(records[2].value, b"NA,\xff");
    assert_eq!(records[0].header("tarn.error"), "");
}

#[test]
fn header_names_can_be_given_or_made_up() {
    let fixture = Fixture::new();
    fixture.put("in/a.csv", "1;2\n3;4\n");
    fixture.drain(&csv("delimiter = \";\"\nheader = [\"x\", \"y\"]\n")).unwrap();
    fixture.put("in/b.csv", "5;6\n");
    fixture.drain(&csv("delimiter = \";\"\nheader = false\n")).unwrap();
    let rows = [r#"{"x":"1","y":"2"}"#, r#"{"x":"3","y":"4"}"#, r#"{"c1":"5","c2":"6"}"#];
    assert_eq!(fixture.texts("events"), rows);
}

#[test]
fn gzip_members_and_zstd_frames_are_unpacked_whatever_the_name() {
    let fixture = Fixture::new();
    let mut members = gzip(ndjson(0, 40).as_bytes());
    members.extend(gzip(ndjson(40, 40).as_bytes()));
    fixture.put("in/a", &members);
    let mut frames = zstd::encode_all(ndjson(80, 10).as_bytes(), 1).unwrap();
    frames.extend(zstd::encode_all(ndjson(90, 10).as_bytes(), 1).unwrap());
    fixture.put("in/b.txt", &frames);
    fixture.drain(NDJSON).unwrap();
    assert_eq!(fixture.texts("events"), lines(&ndjson(0, 100)));
}

#[test]
fn a_truncated_gzip_gives_what_is_there_and_says_where_it_ends() {
    let fixture = Fixture::new();
    let whole = ndjson(0, 3000);
    let packed = gzip(whole.as_bytes());
    fixture.put("in/a.gz", &packed[..packed.len() / 2]);
    fixture.put("in/b.ndjson", ndjson(9000, 5));
    let status = fixture.drain(NDJSON).unwrap();
    let mut records = fixture.records("events");
    let after = records.split_off(records.len() - 5);
    assert_eq!(after[0].header("file"), "b.ndjson", "the next file is read");
    let last = records.pop().unwrap();
    let expected = lines(&whole);
    assert!(records.len() > 500, "{}", records.len());
    for (record, line) in records.iter().zip(&expected) {
        assert_eq!(&record.text(), line);
    }
    let error = format!("a.gz: unexpected end of gzip stream after line {}", records.len());
    assert_eq!(last.header("tarn.error"), error);
    assert!(expected[records.len()].starts_with(&last.text()), "the piece that was left is kept");
    assert_eq!(fixture.names("in"), ["a.gz.done", "b.ndjson.done"]);
    assert!(status[0].last_error.as_ref().unwrap().message.contains("unexpected end"), "{status:?}");
}

#[test]
fn a_corrupt_gzip_says_so() {
    let fixture = Fixture::new();
    let mut packed = gzip(ndjson(0, 100).as_bytes());
    let checksum = packed.len() - 8;
    packed[checksum] ^= 1;
    fixture.put("in/a.gz", &packed);
    fixture.drain(NDJSON).unwrap();
    let records = fixture.records("events");
    assert_eq!(records.len(), 101);
    assert!(records[100].header("tarn.error").starts_with("a.gz: corrupt gzip stream"), "{:?}", records[100]);
}

#[test]
fn a_file_that_changes_after_it_was_begun_is_set_aside_and_a_record_says_so() {
    let fixture = Fixture::new();
    fixture.put("in/a.ndjson", ndjson(0, 20_000));
    let collectors = fixture.start(NDJSON, RunMode::Continuous);
    fixture.wait_for("a part of it", || {
        fixture.log().topic("events").is_some() && fixture.count("events") > 100
    });
    fixture.stop(&collectors);
    let before = fixture.count("events");
    if before == 20_000 {
        return; // It was faster than the stop.
    }
    fixture.append_to("in/a.ndjson", "{\"n\":\"late\"}\n");
    let status = fixture.drain(NDJSON).unwrap();
    let records = fixture.records("events");
    assert_eq!(records.len(), before + 1, "nothing is read twice");
    let error = records[before].header("tarn.error");
    assert!(error.starts_with("a.ndjson: the file changed while it was read after line "), "{error}");
    assert_eq!(fixture.names("in"), ["a.ndjson.failed"]);
    assert!(status[0].last_error.is_some());
}

#[test]
fn a_missing_folder_is_waited_for_and_in_a_drain_an_error() {
    let fixture = Fixture::new();
    let error = fixture.drain(NDJSON).unwrap_err();
    assert!(error.to_string().contains("cannot list the folder"), "{error}");
    let collectors = fixture.start(NDJSON, RunMode::Continuous);
    fixture.wait_for("the source to wait", || collectors.status()[0].state == "waiting");
    assert!(collectors.status()[0].last_error.is_some());
    fixture.put("in/a.ndjson", ndjson(0, 3));
    fixture.wait_for_count("events", 3);
    fixture.wait_for("the error to be over", || collectors.status()[0].last_error.is_none());
    fixture.stop(&collectors);
}

#[test]
fn a_line_of_100_mb_is_a_head_with_its_size_and_the_rest_goes_on() {
    let fixture = Fixture::new();
    let mut bytes = b"{\"n\":1}\n{\"long\":\"".to_vec();
    bytes.resize(100_000_000, b'x');
    bytes.extend_from_slice(b"\"}\n{\"n\":3}\n");
    fixture.put("in/a.ndjson", &bytes);
    fixture.drain(NDJSON).unwrap();
    let records = fixture.records("events");
    assert_eq!(records.len(), 3);
    let size = bytes.len() - 8 - 9;
    assert_eq!(records[1].header("tarn.oversize"), size.to_string());
    let hash = xxhash_rust::xxh3::xxh3_128(&bytes[8..8 + size]);
    assert_eq!(records[1].header("tarn.xxh3"), format!("{hash:032x}"));
    assert_eq!(records[1].value, &bytes[8..8 + 4096]);
    assert_eq!((records[2].text().as_str(), records[2].header("line")), ("{\"n\":3}", "3"));
}

#[test]
fn a_key_chooses_the_partition_of_ndjson_records() {
    let fixture = Fixture::new();
    let config = format!("[[topic]]\nname = \"events\"\npartitions = 4\n{NDJSON}\nkey = \"n\"\n");
    fixture.put("in/a.ndjson", format!("{}not json\n", ndjson(0, 40)));
    fixture.drain(&config).unwrap();
    let records = fixture.records("events");
    assert_eq!(records.len(), 41, "what is no JSON passes without a key");
    assert!(records.iter().any(|record| record.partition == 3));
    for record in records.iter().filter(|record| record.text() != "not json") {
        let n: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
        assert_eq!(record.key, Some(n["n"].to_string()));
    }
}

#[test]
fn a_file_is_renamed_when_only_that_was_missing() {
    let fixture = Fixture::new();
    let path = fixture.put("in/a.ndjson", ndjson(0, 5));
    fixture.drain(NDJSON).unwrap();
    // As if the process had died between the last append and the rename.
    fs::rename(fixture.path("in/a.ndjson.done"), &path).unwrap();
    let positions = fixture.log().positions("spool").unwrap();
    let mut append = tarn_log::Append::new();
    let (key, mut value) = positions[0].clone();
    value["state"] = "done".into();
    append.position("spool", &key, Some(value));
    fixture.runtime.block_on(fixture.log().append(append)).unwrap();
    fixture.drain(NDJSON).unwrap();
    assert_eq!(fixture.count("events"), 5);
    assert!(!exists(&path));
    assert_eq!(fixture.log().positions("spool").unwrap()[0].1["state"], "retired");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// Whatever the format and packing, and wherever it is stopped, every record is there once and in order.
    #[test]
    fn stopped_anywhere_it_goes_on_exactly(
        rows in 1_usize..2500,
        stops in prop::collection::vec(0_usize..2500, 0..4),
        is_csv in any::<bool>(),
        packing in 0..3,
    ) {
        let mut fixture = Fixture::new();
        let text: String = if is_csv {
            let row = |n| if n % 7 == 0 { format!("{n},\"two\nlines\"\r\n") } else { format!("{n},some text\r\n") };
            "n,text\r\n".to_owned() + &(0..rows).map(row).collect::<String>()
        } else {
            ndjson(0, rows)
        };
        let bytes = match packing {
            0 => text.into_bytes(),
            1 => gzip(text.as_bytes()),
            _ => zstd::encode_all(text.as_bytes(), 1).unwrap(),
        };
        fixture.put("in/a", &bytes);
        let config = if is_csv { csv("") } else { NDJSON.to_owned() };
        for stop in stops {
            let collectors = fixture.start(&config, RunMode::Continuous);
            fixture.wait_for("records", || fixture.count("events") >= stop.min(rows));
            fixture.stop(&collectors);
            drop(collectors);
            fixture.reopen();
        }
        fixture.drain(&config).unwrap();
        let numbers: Vec<usize> = fixture
            .records("events")
            .iter()
            .map(|record| {
                let value: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
                value["n"].as_u64().map_or_else(
                    || value["n"].as_str().unwrap().parse().unwrap(),
                    |n| usize::try_from(n).unwrap(),
                )
            })
            .collect();
        prop_assert_eq!(numbers, (0..rows).collect::<Vec<_>>());
    }
}

/// `cargo test --release -p tarn-ingest spool_rate -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, for an optimised build"]
fn spool_rate() {
    use std::time::Instant;

    use tarn_log::{Append, RecordRef, TopicOptions};

    use crate::lines::{Limits, LineCutter};

    const ROWS: usize = 2_500_000;
    let mut fixture = Fixture::new();
    fixture.append_bytes = 1 << 20;
    let padding = "x".repeat(150);
    let text: String = (0..ROWS)
        .map(|n| format!("{{\"n\":{n:010},\"user\":\"user {n:010}\",\"text\":\"{padding}\"}}\n"))
        .collect();
    let path = fixture.put("in/a.ndjson", &text);
    let mb = text.len() as f64 / 1e6;
    let rate = |what: &str, since: Instant| {
        let seconds = since.elapsed().as_secs_f64();
        println!("{what}: {:.0} MB/s, {:.2} M records/s", mb / seconds, ROWS as f64 / 1e6 / seconds);
    };
    let options = TopicOptions { partitions: 1, retention_time: None, retention_bytes: None };
    let topic = fixture.log().create_topic("probe", &options).unwrap();
    for _ in 0..3 {
        let since = Instant::now();
        let file = fs::File::open(&path).unwrap();
        let mut cutter = LineCutter::new(file, 0, 0, Limits::of_topic(1 << 20));
        let mut append = Append::new();
        while let Some(line) = cutter.next().unwrap() {
            let mut number = itoa::Buffer::new();
            let headers = [("file", &b"a.ndjson"[..]), ("line", number.format(line.number).as_bytes())];
            append
                .push(
                    &topic,
                    &RecordRef { timestamp_ms: 1, key: None, value: Some(line.bytes), headers: &headers },
                )
                .unwrap();
            if append.bytes() > 1 << 20 {
                append = Append::new();
            }
        }
        rate("cut and encode, without the log", since);
    }
    let since = Instant::now();
    fixture.drain(NDJSON).unwrap();
    rate("spooldir ndjson into the log (lz4, sync none), hashing included", since);
    assert_eq!(fixture.count("events"), ROWS);
    fs::rename(fixture.path("in/a.ndjson.done"), fixture.path("b.ndjson")).unwrap();
    fixture.put("in/c.ndjson", &text[1..]);
    let since = Instant::now();
    fixture.drain(&format!("{NDJSON}key = \"user\"\n")).unwrap();
    rate("the same with a key", since);
    let rows: String = (0..ROWS).map(|n| format!("{n:010},user {n:010},{padding},{n},1.5,EWR\n")).collect();
    fixture.put("in/d.csv", format!("n,user,text,m,x,origin\n{rows}"));
    let since = Instant::now();
    fixture.drain(&csv("")).unwrap();
    rate("the same rows as csv of six columns (MB of JSON without names)", since);
}

#[test]
fn records_of_several_lines_are_joined_over_appends_and_restarts() {
    let trace = |n: usize| format!("E {n}\n  at a\n\n  at b{n}");
    let text: String = (0..3000).map(|n| trace(n) + "\n").collect();
    let config = NDJSON.replace("ndjson", "lines") + "[source.multiline]\nstart = '^E'\n";
    let mut fixture = Fixture::new();
    fixture.put("in/a.log", &text);
    for stop in [50, 1000] {
        let collectors = fixture.start(&config, RunMode::Continuous);
        fixture.wait_for_count("events", stop);
        fixture.stop(&collectors);
        drop(collectors);
        fixture.reopen();
    }
    fixture.drain(&config).unwrap();
    let records = fixture.records("events");
    assert_eq!(records.len(), 3000);
    for (n, record) in records.iter().enumerate() {
        assert_eq!((record.text(), record.header("line")), (trace(n), (4 * n + 1).to_string().as_str()));
    }
}

#[test]
fn an_access_log_becomes_objects_and_what_does_not_fit_keeps_its_bytes() {
    let fixture = Fixture::new();
    let line = |n: usize| {
        format!("10.0.0.1 - - [22/Nov/2026:10:00:00 +0000] \"GET /{n} HTTP/1.1\" 200 {n} \"-\" \"curl/8\"\n")
    };
    fixture.put("in/access.log", gzip((line(1) + "not one\n" + &line(2)).as_bytes()));
    let config = NDJSON.replace("ndjson", "combined") + "key = \"path\"\n";
    let status = fixture.drain(&config).unwrap();
    assert_eq!(status[0].records, 3);
    let mut records = fixture.records("events");
    records.sort_by_key(|record| record.header("line").to_owned());
    assert_eq!((records[0].key.as_deref(), records[2].key.as_deref()), (Some("/1"), Some("/2")));
    assert!(records[2].text().contains(r#""time":"2026-11-22T10:00:00+00:00""#), "{}", records[2].text());
    assert_eq!((records[1].text().as_str(), records[1].header("line")), ("not one", "2"));
    assert!(records[1].header("tarn.error").starts_with("the line "));
}

/// A Parquet file of `count` rows in groups of 400.
fn parquet(count: i64) -> Vec<u8> {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray};

    let mut writer = None;
    for from in (0..count).step_by(400) {
        let numbers = from..count.min(from + 400);
        let prices = Decimal128Array::from_iter_values(numbers.clone().map(|n| i128::from(n) * 5));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from_iter_values(numbers.clone()))),
            (
                "text",
                Arc::new(StringArray::from_iter_values(numbers.map(|n| format!("the row with number {n}")))),
            ),
            ("price", Arc::new(prices.with_precision_and_scale(10, 2).unwrap())),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let writer = writer.get_or_insert_with(|| {
            ::parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap()
        });
        writer.write(&batch).unwrap();
        writer.flush().unwrap();
    }
    writer.unwrap().into_inner().unwrap()
}

fn row(n: i64) -> String {
    let price = n * 5;
    format!(r#"{{"n":{n},"text":"the row with number {n}","price":"{}.{:02}"}}"#, price / 100, price % 100)
}

#[test]
fn the_rows_of_a_parquet_file_come_once_whenever_it_is_stopped() {
    let mut fixture = Fixture::new();
    let config = NDJSON.replace("ndjson", "parquet") + "key = \"n\"\n";
    fixture.put("in/a.parquet", parquet(3000));
    for stop in [1, 399, 1500] {
        let collectors = fixture.start(&config, RunMode::Continuous);
        fixture.wait_for_count("events", stop);
        fixture.stop(&collectors);
        drop(collectors);
        fixture.reopen();
    }
    fixture.drain(&config).unwrap();
    let records = fixture.records("events");
    assert_eq!(
        records.iter().map(|record| record.text()).collect::<Vec<_>>(),
        (0..3000).map(row).collect::<Vec<_>>()
    );
    assert_eq!(records[7].key.as_deref(), Some("7"));
    assert_eq!((records[2999].header("file"), records[2999].header("line")), ("a.parquet", "3000"));
    let topic = fixture.log().topic("events").unwrap();
    assert_eq!(topic.columns.as_ref().unwrap().to_string(), "n BIGINT, text VARCHAR, price DECIMAL(10,2)");
    // What follows has other columns: the topic's types stay, the rows come.
    fixture.put("in/b.parquet", parquet(1));
    fixture.drain(&config).unwrap();
    assert_eq!(
        (fixture.count("events"), fixture.names("in")),
        (3001, vec!["a.parquet.done".into(), "b.parquet.done".into()])
    );
}

#[test]
fn a_damaged_parquet_file_gives_its_rows_and_one_record_that_says_where_it_ended() {
    let fixture = Fixture::new();
    let mut file = parquet(1200);
    let text = b"the row with number 800";
    let at = file.windows(text.len()).position(|part| part == text).unwrap();
    file[at - 30..at + 300].fill(0xff);
    fixture.put("in/a.parquet", file);
    fixture.put("in/b.parquet", b"no such file");
    fixture.put("in/c.parquet", gzip(&parquet(1)));
    let status = fixture.drain(&NDJSON.replace("ndjson", "parquet")).unwrap();
    let records = fixture.records("events");
    let errors: Vec<_> = records.iter().map(|r| r.header("tarn.error")).filter(|e| !e.is_empty()).collect();
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(
        errors[0].starts_with("a.parquet: row group 2 is damaged (") && errors[0].ends_with(" after row 800"),
        "{}",
        errors[0]
    );
    assert!(errors[1].starts_with("b.parquet: ") && errors[1].ends_with(" after row 0"), "{}", errors[1]);
    assert!(errors[2].starts_with("c.parquet: the file is packed as a whole"), "{}", errors[2]);
    assert_eq!(records.len(), 800 + 3);
    assert_eq!(records[799].text(), row(799));
    assert_eq!(records[800].header("line"), "801");
    assert!(status[0].last_error.as_ref().unwrap().message.contains("c.parquet"));
    assert_eq!(fixture.names("in"), ["a.parquet.done", "b.parquet.done", "c.parquet.done"]);
}
