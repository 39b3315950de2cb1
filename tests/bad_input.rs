//! Broken bytes, broken configs, broken lakes: each a clear error or a dead letter with a hint, never a panic, never a
//! wrong row.

use std::fs;
use std::net::TcpListener;

use crate::harness::{Ended, Folder, events, exactly_once, gzip, push, visible};

const CONFIG: &str = r#"
data_dir = "data"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "events"

[[source]]
name = "spool"
type = "spooldir"
path = "in"
format = "ndjson"
topic = "events"
every = "50ms"

[[source]]
name = "push"
type = "http"
topic = "events"

[[table]]
name = "events"
columns = "id BIGINT NOT NULL, text VARCHAR"
commit_every = "1h"
"#;

/// It ended with an error that says all of `words`, and a hint.
#[track_caller]
fn refused(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}", ended.said);
    assert!(ended.said.contains("error:"), "no error is said: {}", ended.said);
    assert!(ended.said.contains("hint:"), "no hint is given: {}", ended.said);
    for word in words {
        assert!(ended.said.contains(word), "`{word}` is not said: {}", ended.said);
    }
}

#[test]
fn flipped_bytes_in_a_segment_are_an_error_that_names_the_segment() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    for i in 0..5 {
        assert_eq!(push(&client, &events(i * 100, 100)), 200);
    }
    running.kill();
    let segment =
        folder.find("data", ".log").into_iter().find(|path| fs::metadata(path).is_ok_and(|m| m.len() > 0));
    let segment = segment.expect("a segment");
    let mut bytes = fs::read(&segment).expect("read the segment");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&segment, bytes).expect("write the segment");

    let ended = folder.drain();
    assert_eq!(ended.code, Some(1), "a drain over flipped bytes did not fail: {}", ended.said);
    let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(ended.said.contains(&name), "the segment `{name}` is not named: {}", ended.said);
    assert!(ended.said.contains("offset"), "the offset is not named: {}", ended.said);
    assert!(ended.said.contains("hint:"), "no hint is given: {}", ended.said);
    folder.never_panicked();
}

#[test]
fn a_truncated_gzip_yields_no_wrong_row_and_is_named() {
    let folder = Folder::new(CONFIG);
    let whole = gzip(events(0, 5_000).as_bytes());
    folder.put("in/torn.ndjson.gz", &whole[..whole.len() / 2]);
    folder.put("in/zgood.ndjson", events(10_000, 10));
    folder.drained();
    // What could be read may be there, each record whole and once; the good file must be.
    let rows = folder.sql("SELECT id, text FROM events");
    let mut ids = std::collections::HashSet::new();
    for row in &rows {
        let id = row["id"].as_i64().expect("a number");
        assert_eq!(row["text"], format!("event {id}"), "a wrong row");
        assert!(ids.insert(id), "twice: {row}");
    }
    assert!((10_000..10_010).all(|id| ids.contains(&id)), "the good file is not in");
    let dead = folder.sql("SELECT reason, headers FROM events_dead_letters");
    assert!(!dead.is_empty(), "the damage left no dead letter");
    assert!(dead.iter().all(|letter| letter["headers"].to_string().contains("torn.ndjson.gz")), "{dead:?}");
    assert!(dead.iter().any(|letter| letter["reason"].to_string().contains("gzip")), "{dead:?}");
    let count = |rows: usize| i64::try_from(rows).expect("a small number");
    exactly_once(&folder, "events", count(rows.len()), count(dead.len()));
    folder.never_panicked();
}

#[test]
fn a_line_of_100_mb_is_a_dead_letter_beside_good_rows() {
    let folder = Folder::new(CONFIG);
    let mut bytes = events(0, 1).into_bytes();
    bytes.extend_from_slice(b"{\"id\":1,\"text\":\"");
    bytes.resize(bytes.len() + 100_000_000, b'x');
    bytes.extend_from_slice(b"\"}\n");
    bytes.extend_from_slice(events(2, 1).as_bytes());
    folder.put("in/long.ndjson", bytes);
    folder.drained();
    exactly_once(&folder, "events", 2, 1);
    let dead = folder
        .sql("SELECT reason, headers, octet_length(CAST(value AS VARCHAR)) AS kept FROM events_dead_letters");
    assert!(dead[0]["kept"].as_i64().is_some_and(|kept| kept <= 1 << 20), "{}", dead[0]["kept"]);
    assert!(dead[0].to_string().contains("1000000"), "its size is not told: {}", dead[0]["headers"]);
    folder.never_panicked();
}

#[test]
fn invalid_utf8_is_a_dead_letter() {
    let folder = Folder::new(CONFIG);
    let mut bytes = events(0, 1).into_bytes();
    bytes.extend_from_slice(b"{\"id\":1,\"text\":\"caf\xe9\"}\n");
    bytes.extend_from_slice(b"\xff\xfe\xfd\n");
    bytes.extend_from_slice(events(3, 1).as_bytes());
    folder.put("in/latin1.ndjson", bytes);
    folder.drained();
    exactly_once(&folder, "events", 2, 2);
    let dead = folder.sql("SELECT reason FROM events_dead_letters");
    assert!(dead.iter().all(|letter| letter["reason"].to_string().contains("UTF-8")), "{dead:?}");
    folder.never_panicked();
}

#[test]
fn json_that_is_no_object_is_a_dead_letter() {
    let folder = Folder::new(CONFIG);
    folder.put(
        "in/odd.ndjson",
        "[1,2]\n42\n{\"id\":\nnull\n{\"id\":7,\"text\":\"good\"}\n{\"text\":\"no id\"}\n",
    );
    folder.drained();
    exactly_once(&folder, "events", 1, 5);
    folder.never_panicked();
}

#[test]
fn a_zero_byte_delta_commit_is_refused_with_a_repair_hint() {
    let folder = Folder::new(CONFIG);
    folder.put("in/a.ndjson", events(0, 10));
    folder.drained();
    let newest = folder.find("lake/events/_delta_log", ".json").pop().expect("a commit");
    let version: u64 =
        newest.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok()).expect("a version");
    let empty = format!("{:020}.json", version + 1);
    fs::write(folder.path(format!("lake/events/_delta_log/{empty}")), b"").expect("write");
    folder.put("in/b.ndjson", events(10, 10));
    let ended = folder.drain();
    refused(&ended, 1, &[&empty]);
    let ended = folder.tarn(&["sql", "-c", "tarn.toml", "SELECT count(*) FROM events"]);
    assert_eq!(ended.code, Some(1), "a torn table was read: {}{}", ended.printed, ended.said);
    // The repair that the hint names: take the empty file away.
    fs::remove_file(folder.path(format!("lake/events/_delta_log/{empty}"))).expect("remove");
    folder.drained();
    exactly_once(&folder, "events", 20, 0);
    folder.never_panicked();
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_key() {
    let folder = Folder::new(&CONFIG.replace("commit_every", "comit_every"));
    for arguments in [["check", "tarn.toml"], ["run", "tarn.toml"]] {
        let ended = folder.tarn(&arguments);
        assert_eq!(ended.code, Some(2), "{}", ended.said);
        for word in ["comit_every", "commit_every", "tarn.toml", "table"] {
            assert!(ended.said.contains(word), "`{word}` is not said: {}", ended.said);
        }
        let line = CONFIG.lines().position(|line| line.starts_with("commit_every")).expect("a line") + 1;
        assert!(ended.said.contains(&format!(":{line}")), "line {line} is not said: {}", ended.said);
    }
}

#[test]
fn a_port_in_use_is_an_error_with_a_hint() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let folder = Folder::new(&CONFIG.replace("127.0.0.1:0", &address));
    refused(&folder.tarn(&["run", "tarn.toml"]), 1, &[&address]);
    folder.never_panicked();
}

#[test]
fn a_second_process_on_the_same_folder_is_refused() {
    let folder = Folder::new(CONFIG);
    let mut first = folder.start();
    let client = first.ready();
    refused(&folder.tarn(&["run", "tarn.toml"]), 1, &["data"]);
    assert_eq!(push(&client, &events(0, 3)), 200, "the first process goes on");
    visible(&client, 3);
    assert!(first.address().is_some(), "the second process took the first one's process file");
    assert_eq!(first.stop().code, Some(0));
    folder.never_panicked();
}

#[test]
fn a_lake_whose_log_is_gone_is_refused_with_the_way_out() {
    let folder = Folder::new(CONFIG);
    folder.put("in/a.ndjson", events(0, 10));
    folder.drained();
    fs::remove_dir_all(folder.path("data")).expect("delete the log");
    folder.put("in/b.ndjson", events(10, 10));
    let ended = folder.drain();
    refused(&ended, 1, &["events", "tarn table"]);
    assert!(
        ended.said.contains("detach") || ended.said.contains("adopt"),
        "no way out is named: {}",
        ended.said
    );
    assert_eq!(folder.number("SELECT count(*) AS n FROM events"), 10, "the refused table was touched");
    let adopted = folder.tarn(&["table", "adopt", "events", "-c", "tarn.toml"]);
    assert_eq!(adopted.code, Some(0), "{}", adopted.said);
    folder.drained();
    assert_eq!(folder.number("SELECT count(*) AS n FROM events"), 20, "the waiting file came once");
    assert_eq!(
        folder.number("SELECT count(DISTINCT _offset) AS n FROM events"),
        20,
        "an offset was given twice"
    );
    let verified = folder.tarn(&["verify", "-c", "tarn.toml"]);
    assert_eq!(verified.code, Some(0), "{}", verified.said);
    folder.never_panicked();
}

#[test]
fn a_detached_table_is_left_alone_until_it_is_adopted_again() {
    let folder = Folder::new(CONFIG);
    folder.put("in/a.ndjson", events(0, 10));
    folder.drained();
    assert_eq!(folder.tarn(&["table", "detach", "events", "-c", "tarn.toml"]).code, Some(0));
    folder.put("in/b.ndjson", events(10, 10));
    refused(&folder.drain(), 1, &["events", "adopt"]);
    assert_eq!(folder.tarn(&["table", "adopt", "events", "-c", "tarn.toml"]).code, Some(0));
    folder.drained();
    assert_eq!(folder.number("SELECT count(*) AS n FROM events"), 20);
    folder.never_panicked();
}
