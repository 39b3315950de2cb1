use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::fixture::{Fixture, gzip};
use crate::source::spawn;
use crate::stop::Stop;
use crate::{Collectors, RunMode};

const LINES: &str = r#"
[[source]]
name = "tail"
type = "taildir"
path = "DIR/log/app.log*"
topic = "lines"
every = "2ms"
"#;

fn only_app_log() -> String {
    LINES.replace("app.log*", "app.log")
}

fn run(fixture: &Fixture, config: &str) -> Collectors {
    fixture.start(config, RunMode::Continuous)
}

/// The lines in their order, which is that of the offsets: there is one partition.
fn told(fixture: &Fixture) -> Vec<String> {
    fixture.texts("lines")
}

fn stop(fixture: &Fixture, collectors: Collectors) {
    fixture.stop(&collectors);
}

#[test]
fn lines_come_as_they_are_written_and_the_unfinished_one_is_held_back() {
    let fixture = Fixture::new();
    fixture.append_to("log/app.log", "one\ntw");
    let collectors = run(&fixture, LINES);
    fixture.wait_for_count("lines", 1);
    fixture.append_to("log/app.log", "o\r\nthree\n");
    fixture.wait_for_count("lines", 3);
    stop(&fixture, collectors);
    assert_eq!(told(&fixture), ["one", "two", "three"]);
    let records = fixture.records("lines");
    assert_eq!(records[2].header("line"), "3");
    assert!(records[2].header("file").ends_with("/log/app.log"));
}

fn joined(timeout: &str) -> String {
    format!("{LINES}[source.multiline]\nstart = '^\\S'\ntimeout = \"{timeout}\"\n")
}

#[test]
fn a_record_of_several_lines_is_held_back_until_the_next_one_begins_and_read_again_after_a_stop() {
    let mut fixture = Fixture::new();
    fixture.append_to("log/app.log", "E one\n  at a\r\nE two\n");
    let collectors = run(&fixture, &joined("1h"));
    fixture.wait_for_count("lines", 1);
    fixture.append_to("log/app.log", "  at b\n\n  at");
    fixture.wait_for("the source to look", || collectors.status()[0].lag_bytes == Some(18));
    stop(&fixture, collectors);
    fixture.reopen();
    assert_eq!(told(&fixture), ["E one\n  at a"], "the second one may go on");
    let collectors = run(&fixture, &joined("1h"));
    fixture.append_to("log/app.log", " c\nE three\n");
    fixture.wait_for_count("lines", 2);
    stop(&fixture, collectors);
    fixture.reopen();
    fixture.drain(&joined("1h")).unwrap();
    assert_eq!(
        told(&fixture),
        ["E one\n  at a", "E two\n  at b\n\n  at c", "E three"],
        "a drain waits for nothing"
    );
    let places: Vec<_> =
        fixture.records("lines").iter().map(|record| record.header("line").to_owned()).collect();
    assert_eq!(places, ["1", "3", "7"], "a record stands where its first line does");
}

#[test]
fn a_record_of_several_lines_is_complete_when_its_time_is_over() {
    let fixture = Fixture::new();
    let collectors = run(&fixture, &joined("30ms"));
    fixture.append_to("log/app.log", "E one\n  at a\n");
    fixture.wait_for_count("lines", 1);
    fixture.append_to("log/app.log", "E two\n");
    fixture.wait_for_count("lines", 2);
    stop(&fixture, collectors);
    assert_eq!(told(&fixture), ["E one\n  at a", "E two"]);
}

#[test]
fn records_of_several_lines_are_bounded_whatever_comes() {
    let fixture = Fixture::new();
    let many: String = (0..2000).map(|n| format!("  line {n} of a record without an end\n")).collect();
    let long = "x".repeat(3 << 20);
    fixture.append_to("log/app.log", format!("E one\n{many}E two\n  at b\n{long}\n\n\nE three\n"));
    let config = joined("1h") + "max_size = \"4KiB\"\n";
    fixture.drain(&config).unwrap();
    let records = fixture.records("lines");
    let whole: Vec<_> =
        records.iter().filter(|record| !record.headers.contains_key("tarn.oversize")).collect();
    assert_eq!(records.len() - whole.len(), 1, "the line that is too long is one record");
    assert!(whole.iter().all(|record| record.value.len() <= 4096));
    let texts: Vec<String> = whole.iter().map(|record| record.text()).collect();
    assert_eq!(texts.join("\n"), format!("E one\n{many}E two\n  at b\n\n\nE three"), "nothing is lost");
}

#[test]
fn a_renamed_file_is_read_to_its_end_and_not_again() {
    for config in [LINES.to_owned(), only_app_log()] {
        let mut fixture = Fixture::new();
        fixture.append_to("log/app.log", "1\n2\n");
        let collectors = run(&fixture, &config);
        fixture.wait_for_count("lines", 2);
        fs::rename(fixture.path("log/app.log"), fixture.path("log/app.log.1")).unwrap();
        fixture.append_to("log/app.log.1", "3\n");
        fixture.wait_for_count("lines", 3);
        fixture.append_to("log/app.log", "4\n");
        fixture.wait_for_count("lines", 4);
        stop(&fixture, collectors);
        fixture.reopen();
        fixture.drain(&config).unwrap();
        assert_eq!(told(&fixture), ["1", "2", "3", "4"]);
    }
}

#[test]
fn a_file_that_was_renamed_while_nobody_looked_is_found_by_its_inode() {
    let mut fixture = Fixture::new();
    let config = only_app_log();
    fixture.append_to("log/app.log", "1\n2\n");
    fixture.drain(&config).unwrap();
    fixture.reopen();
    fixture.append_to("log/app.log", "3\n");
    fs::rename(fixture.path("log/app.log"), fixture.path("log/app.log-20260101")).unwrap();
    fixture.append_to("log/app.log", "4\n");
    fixture.drain(&config).unwrap();
    let mut lines = told(&fixture);
    lines.sort();
    assert_eq!(lines, ["1", "2", "3", "4"]);
}

#[test]
fn a_truncated_file_is_read_from_its_start() {
    let fixture = Fixture::new();
    fixture.append_to("log/app.log", "one\ntwo\n");
    let collectors = run(&fixture, LINES);
    fixture.wait_for_count("lines", 2);
    fixture.put("log/app.log", "three\n");
    fixture.wait_for_count("lines", 3);
    // Truncated and written again past the position, between two looks: the bytes below it tell.
    fixture.put("log/app.log", "four\nfive\nsix\nseven\n");
    fixture.wait_for_count("lines", 7);
    stop(&fixture, collectors);
    assert_eq!(told(&fixture), ["one", "two", "three", "four", "five", "six", "seven"]);
}

#[test]
fn a_file_that_is_truncated_and_rewritten_while_nobody_looks_is_new_content() {
    let mut fixture = Fixture::new();
    fixture.put("log/app.log", "header\none\n");
    fixture.drain(LINES).unwrap();
    fixture.reopen();
    fixture.put("log/app.log", "header\ntwo\nthree\n");
    fixture.drain(LINES).unwrap();
    assert_eq!(told(&fixture), ["header", "one", "header", "two", "three"]);
}

#[test]
fn copytruncate_gives_every_line_once() {
    let fixture = Fixture::new();
    fixture.append_to("log/app.log", "1\n2\n");
    let collectors = run(&fixture, LINES);
    fixture.wait_for_count("lines", 2);
    fs::copy(fixture.path("log/app.log"), fixture.path("log/app.log.1")).unwrap();
    fixture.put("log/app.log", "");
    fixture.append_to("log/app.log", "3\n");
    fixture.wait_for_count("lines", 3);
    // Past the copy, so it has been looked at.
    fixture.append_to("log/app.log", "4\n");
    fixture.wait_for_count("lines", 4);
    stop(&fixture, collectors);
    fixture.drain(LINES).unwrap();
    assert_eq!(told(&fixture), ["1", "2", "3", "4"]);
}

#[test]
fn copytruncate_while_nobody_looks_gives_the_rest_out_of_the_copy() {
    let mut fixture = Fixture::new();
    fixture.append_to("log/app.log", "1\n2\n");
    fixture.drain(LINES).unwrap();
    fixture.reopen();
    fixture.append_to("log/app.log", "3\n");
    fs::copy(fixture.path("log/app.log"), fixture.path("log/app.log.1")).unwrap();
    fixture.put("log/app.log", "4\n");
    fixture.drain(LINES).unwrap();
    let mut lines = told(&fixture);
    lines.sort();
    assert_eq!(lines, ["1", "2", "3", "4"]);
}

#[test]
fn short_files_with_equal_first_bytes_are_files_of_their_own() {
    let fixture = Fixture::new();
    fixture.put("log/app.log.a", "started\n");
    fixture.put("log/app.log.b", "started\n");
    fixture.drain(LINES).unwrap();
    assert_eq!(told(&fixture), ["started", "started"]);
    fixture.append_to("log/app.log.a", "a\n");
    fixture.append_to("log/app.log.b", "b\n");
    fixture.drain(LINES).unwrap();
    assert_eq!(told(&fixture), ["started", "started", "a", "b"]);
}

#[test]
fn a_new_file_that_begins_like_another_is_read_once_its_watch_is_over() {
    let fixture = Fixture::new();
    fixture.put("log/app.log", "started\n");
    let source_config = fixture.config(LINES).sources.remove(0);
    let config: TaildirConfig = match &source_config.kind {
        tarn_model::config::SourceKind::Taildir(config) => config.clone(),
        _ => unreachable!("a taildir"),
    };
    fixture
        .log()
        .create_topic(
            "lines",
            &tarn_log::TopicOptions { partitions: 1, retention_time: None, retention_bytes: None },
        )
        .unwrap();
    let mut taildir = Taildir::new(config, fixture.path("staging")).unwrap();
    taildir.copy_watch = Duration::from_millis(20);
    let stop = Arc::new(Stop::default());
    let monitor = crate::monitor::Monitor::new("tail", "taildir", "lines", fixture.clock.clone());
    let source = Source {
        name: "tail".into(),
        topic: "lines".into(),
        config: source_config,
        log: fixture.log().clone(),
        clock: fixture.clock.clone(),
        monitor,
        mode: RunMode::Continuous,
        runtime: fixture.runtime.handle().clone(),
        stop: stop.clone(),
        followers: Vec::new(),
        leader: None,
        throttle: None,
        append_bytes: 1024,
    };
    let mut ended = spawn(source, taildir).unwrap();
    fixture.wait_for_count("lines", 1);
    fixture.put("log/app.log.2", "started\n");
    fixture.wait_for_count("lines", 2);
    stop.set();
    fixture.runtime.block_on(ended.wait_for(Option::is_some)).unwrap();
    assert_eq!(told(&fixture), ["started", "started"]);
}

#[test]
fn a_deleted_file_is_read_to_its_end_and_one_made_anew_from_its_start() {
    let fixture = Fixture::new();
    fixture.append_to("log/app.log", "1\n");
    let collectors = run(&fixture, LINES);
    fixture.wait_for_count("lines", 1);
    fixture.append_to("log/app.log", "2\n");
    fs::remove_file(fixture.path("log/app.log")).unwrap();
    fixture.append_to("log/app.log", "other\n");
    fixture.wait_for_count("lines", 3);
    stop(&fixture, collectors);
    let mut lines = told(&fixture);
    lines.sort();
    assert_eq!(lines, ["1", "2", "other"]);
}

#[test]
fn a_file_made_anew_under_the_same_inode_while_nobody_looked_is_new_content() {
    let mut fixture = Fixture::new();
    fixture.put("log/app.log", "first\n");
    fixture.drain(LINES).unwrap();
    fixture.reopen();
    // The same inode for certain: the file is emptied and filled, as if it had been used again.
    fixture.put("log/app.log", "other, and longer than it was\n");
    fixture.drain(LINES).unwrap();
    assert_eq!(told(&fixture), ["first", "other, and longer than it was"]);
}

#[test]
fn from_end_concerns_the_files_of_the_first_look_only() {
    let fixture = Fixture::new();
    let config = format!("{LINES}\nfrom = \"end\"\n");
    fixture.append_to("log/app.log", "old\nhalf a ");
    let collectors = run(&fixture, &config);
    fixture.wait_for("the first look", || !fixture.log().positions("tail").unwrap().is_empty());
    fixture.append_to("log/app.log", "line\n");
    fixture.wait_for_count("lines", 1);
    fixture.append_to("log/app.log.new", "from its start\n");
    fixture.wait_for_count("lines", 2);
    stop(&fixture, collectors);
    assert_eq!(told(&fixture), ["half a line", "from its start"]);
    assert_eq!(fixture.records("lines")[0].header("line"), "", "its number is not known");
}

#[test]
fn a_drain_reads_to_the_last_newline_and_leaves_the_rest_for_later() {
    let fixture = Fixture::new();
    fixture.append_to("log/app.log", "one\npart");
    let status = fixture.drain(LINES).unwrap();
    assert_eq!((status[0].state.as_str(), status[0].lag_bytes), ("done", Some(4)));
    fixture.append_to("log/app.log", "ial\n");
    fixture.drain(LINES).unwrap();
    assert_eq!(told(&fixture), ["one", "partial"]);
}

#[test]
fn packed_files_are_not_followed() {
    let fixture = Fixture::new();
    fixture.put("log/app.log.1.gz", gzip(b"one\n"));
    fixture.append_to("log/app.log", "two\n");
    fixture.drain(LINES).unwrap();
    assert_eq!(told(&fixture), ["two"]);
}

#[test]
fn a_line_beyond_all_limits_is_a_head_with_its_size_however_it_arrives() {
    let fixture = Fixture::new();
    let collectors = run(&fixture, LINES);
    fixture.append_to("log/app.log", "before\n");
    fixture.wait_for_count("lines", 1);
    let piece = vec![b'x'; 1_500_000];
    for _ in 0..4 {
        fixture.append_to("log/app.log", &piece);
        let path = fixture.path("log/app.log");
        fixture.wait_for("the file to be read", || fs::metadata(&path).is_ok());
    }
    fixture.append_to("log/app.log", "\nafter\n");
    fixture.wait_for_count("lines", 3);
    fixture.append_to("log/app.log", "last\n");
    fixture.wait_for_count("lines", 4);
    stop(&fixture, collectors);
    let records = fixture.records("lines");
    assert_eq!(records[1].header("tarn.oversize"), (4 * piece.len()).to_string());
    let whole: Vec<u8> = piece.iter().copied().cycle().take(4 * piece.len()).collect();
    assert_eq!(records[1].header("tarn.xxh3"), format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&whole)));
    assert_eq!((records[2].text().as_str(), records[3].text().as_str()), ("after", "last"));
}

#[test]
fn a_busy_file_does_not_starve_its_neighbours() {
    let mut fixture = Fixture::new();
    fixture.append_bytes = 1 << 20;
    let line = format!("{}\n", "x".repeat(999));
    fixture.put("log/app.log.a", line.repeat(8000));
    fixture.put("log/app.log.b", "short\n");
    fixture.drain(LINES).unwrap();
    let records = fixture.records("lines");
    assert_eq!(records.len(), 8001);
    let short = records.iter().position(|record| record.text() == "short").unwrap();
    assert!(short < 3000, "the short file came after {short} lines of the long one");
}

/// gzip(1) of a file: the packed one is whole before the plain one goes.
fn pack(fixture: &Fixture, name: &str) {
    let plain = fixture.path(name);
    fixture.put(&format!("{name}.gz"), gzip(&fs::read(&plain).unwrap()));
    fs::remove_file(plain).unwrap();
}

fn rename(fixture: &Fixture, from: &str, to: &str) {
    fs::rename(fixture.path(from), fixture.path(to)).unwrap();
}

#[test]
fn a_file_that_is_packed_after_its_rotation_is_not_read_again() {
    let mut fixture = Fixture::new();
    fixture.append_to("log/app.log", "1\n2\n");
    let collectors = run(&fixture, LINES);
    fixture.wait_for_count("lines", 2);
    rename(&fixture, "log/app.log", "log/app.log.1");
    fixture.append_to("log/app.log.1", "3\n");
    fixture.append_to("log/app.log", "4\n");
    pack(&fixture, "log/app.log.1");
    fixture.wait_for_count("lines", 4);
    rename(&fixture, "log/app.log.1.gz", "log/app.log.2.gz");
    fixture.append_to("log/app.log", "5\n");
    fixture.wait_for_count("lines", 5);
    stop(&fixture, collectors);
    for _ in 0..2 {
        fixture.reopen();
        fixture.drain(LINES).unwrap();
    }
    let mut lines = told(&fixture);
    lines.sort();
    assert_eq!(lines, ["1", "2", "3", "4", "5"]);
}

#[test]
fn the_rest_of_a_file_that_was_packed_while_nobody_looked_comes_out_of_the_packed_one() {
    for config in [LINES.to_owned(), only_app_log()] {
        let mut fixture = Fixture::new();
        let many =
            |from: usize, to: usize| -> String { (from..to).map(|n| format!("line {n:06}\n")).collect() };
        fixture.append_to("log/app.log", many(0, 1000));
        fixture.drain(&config).unwrap();
        fixture.reopen();
        fixture.append_to("log/app.log", many(1000, 3000) + "the last one");
        rename(&fixture, "log/app.log", "log/app.log.1");
        pack(&fixture, "log/app.log.1");
        // Others that hold something else: one begins alike.
        fixture.put("log/app.log.2.gz", gzip(many(0, 500).as_bytes()));
        fixture.put("log/app.log.3.gz", gzip(b"other\n"));
        fixture.put("log/app.log.4.gz", &gzip(many(0, 2000).as_bytes())[..300]);
        fixture.append_to("log/app.log", "new\n");
        for _ in 0..3 {
            fixture.drain(&config).unwrap();
            fixture.reopen();
        }
        let mut lines = told(&fixture);
        lines.sort();
        let mut expected: Vec<String> = many(0, 3000).lines().map(str::to_owned).collect();
        expected.extend(["new".to_owned(), "the last one".to_owned()]);
        let missing = expected.iter().filter(|line| !lines.contains(line)).count();
        assert_eq!((lines.len(), missing), (expected.len(), 0), "{config}");
        let records = fixture.records("lines");
        let last = records.iter().find(|record| record.text() == "the last one").unwrap();
        assert_eq!(last.header("line"), "3001", "lines are counted on");
        assert!(last.header("file").ends_with("app.log.1.gz"));
        assert_eq!(fixture.names("data/staging"), [""; 0], "what was unpacked leaves nothing behind");
    }
}

#[test]
fn a_copy_that_was_packed_gives_what_was_not_read_before_the_truncation() {
    let mut fixture = Fixture::new();
    fixture.append_to("log/app.log", "1\n2\n");
    fixture.drain(LINES).unwrap();
    fixture.reopen();
    fixture.append_to("log/app.log", "3\n");
    fs::copy(fixture.path("log/app.log"), fixture.path("log/app.log.1")).unwrap();
    fixture.put("log/app.log", "4\n");
    pack(&fixture, "log/app.log.1");
    for _ in 0..2 {
        fixture.drain(LINES).unwrap();
        fixture.reopen();
    }
    let mut lines = told(&fixture);
    lines.sort();
    assert_eq!(lines, ["1", "2", "3", "4"]);
}

#[test]
fn a_copy_that_was_read_is_not_read_again_out_of_the_packed_one_beside_it() {
    let mut fixture = Fixture::new();
    let config = LINES.replace("DIR/log/app.log*", "DIR/in/*.log");
    fixture.append_to("in/app.log", "1\n2\n");
    fixture.drain(&config).unwrap();
    fixture.append_to("in/app.log", "3\n");
    fs::copy(fixture.path("in/app.log"), fixture.path("in/app-1.log")).unwrap();
    fixture.put("in/app.log", "4\n");
    fixture.drain(&config).unwrap();
    // Long after, the copy is packed under a name that the pattern does not have, and its position is forgotten.
    let id = FileId::of(&fs::metadata(fixture.path("in/app-1.log")).unwrap());
    pack(&fixture, "in/app-1.log");
    let mut append = tarn_log::Append::new();
    append.position("tail", &id.key(), None);
    fixture.runtime.block_on(fixture.log().append(append)).unwrap();
    for _ in 0..2 {
        fixture.reopen();
        fixture.drain(&config).unwrap();
    }
    let mut lines = told(&fixture);
    lines.sort();
    assert_eq!(lines, ["1", "2", "3", "4"]);
}

#[test]
fn a_file_in_a_folder_that_is_made_later_is_found() {
    let fixture = Fixture::new();
    let config = LINES.replace("DIR/log/app.log*", "DIR/later/*/app-*.log");
    let collectors = run(&fixture, &config);
    fixture.wait_for("the first look", || !fixture.log().positions("tail").unwrap().is_empty());
    fixture.put("later/one/app-1.log", "1\n");
    fixture.put("later/one/other.log", "no\n");
    fixture.wait_for_count("lines", 1);
    fixture.put("later/two/app-2.log", "2\n");
    fixture.wait_for_count("lines", 2);
    stop(&fixture, collectors);
    assert_eq!(told(&fixture), ["1", "2"]);
}

/// Says that a test is over, however it ends: what waits for that in other threads would wait for ever.
struct Ends<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn ten_thousand_files_are_followed_with_a_few_hundred_of_them_open() {
    const FILES: usize = 10_000;
    let mut fixture = Fixture::new();
    fixture.append_bytes = 1 << 20;
    let config = LINES.replace("DIR/log/app.log*", "DIR/many/*.log").replace("2ms", "100ms");
    // Equal to the first KiB and beyond, as files with a banner are; and others that are short.
    let banner = "= a banner that all of these files begin with =\n".repeat(30);
    let name = |n: usize| format!("many/{n:05}.log");
    for n in 0..FILES {
        let text = if n % 100 == 0 { format!("{banner}first of {n}\n") } else { format!("first of {n}\n") };
        fixture.put(&name(n), text);
    }
    let lines = FILES + FILES / 100 * 30;
    let folder = fixture.path("many");
    let most_open = std::sync::atomic::AtomicUsize::new(0);
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&over);
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                // A look now and then, for it takes its time from those who read.
                std::thread::park_timeout(Duration::from_millis(50));
                let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
                let open =
                    open.filter(|fd| fs::read_link(fd.path()).is_ok_and(|file| file.starts_with(&folder)));
                most_open.fetch_max(open.count(), std::sync::atomic::Ordering::Relaxed);
            }
        });
        fixture.drain(&config).unwrap();
        let collectors = run(&fixture, &config);
        for n in (0..FILES).step_by(7) {
            fixture.append_to(&name(n), "second\n");
        }
        fixture.wait_for_count("lines", lines + FILES.div_ceil(7));
        stop(&fixture, collectors);
    });
    let texts = told(&fixture);
    assert_eq!(texts.len(), lines + FILES.div_ceil(7));
    let first: HashSet<&String> = texts.iter().filter(|text| text.starts_with("first of")).collect();
    assert_eq!(first.len(), FILES);
    let open = most_open.into_inner();
    assert!(open > 0 && open <= MOST_OPEN + 16, "{open} were open at once");
}

#[test]
fn a_file_that_grows_faster_than_it_is_read_holds_up_neither_its_neighbours_nor_new_files() {
    let mut fixture = Fixture::new();
    fixture.append_bytes = 1 << 20;
    let chunk = format!("{}\n", "x".repeat(99)).repeat(40_000);
    fixture.put("log/app.log.busy", &chunk);
    fixture.put("log/app.log.quiet", "quiet 0\n");
    let collectors = run(&fixture, LINES);
    let over = std::sync::atomic::AtomicBool::new(false);
    let seen = |text: &str| {
        let ends = fixture.log().ends("lines").unwrap().next(0);
        let mut from = 0;
        while from < ends {
            let mut fetch = fixture.log().fetch("lines", 0, from, 8 << 20).unwrap();
            let records = fetch.records().unwrap();
            from = fetch.next;
            if records.iter().any(|record| record.value == Some(text.as_bytes())) {
                return true;
            }
        }
        false
    };
    std::thread::scope(|scope| {
        let _ends = Ends(&over);
        scope.spawn(|| {
            // 4 MB at a time, whenever less than that is left: it is never read to its end. Bounded, should nothing be read.
            for _ in 0..100 {
                fixture.append_to("log/app.log.busy", &chunk);
                let behind = || collectors.status()[0].lag_bytes.is_some_and(|lag| lag > 8_000_000);
                while behind() && !over.load(std::sync::atomic::Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                if over.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
            }
        });
        fixture.append_to("log/app.log.quiet", "quiet 1\n");
        fixture.put("log/app.log.new", "new\n");
        for text in ["quiet 1", "new"] {
            fixture.wait_for(text, || seen(text));
        }
    });
    stop(&fixture, collectors);
}

/// All that lies in a folder, below it too.
fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn positions_cannot_be_torn_from_their_records() {
    let fixture = Fixture::new();
    let config = LINES.replace("DIR/log/app.log*", "DIR/growing/app.log");
    let mut expected = Vec::new();
    let collectors = run(&fixture, &config);
    for n in 0..40 {
        fixture.append_to("growing/app.log", format!("line {n:03}\n"));
        fixture.wait_for_count("lines", n + 1);
        expected.push(format!("line {n:03}"));
    }
    // The disk as a crash leaves it, while the log is open.
    let crashed = fixture.path("crashed");
    copy_all(&fixture.path("log"), &crashed);
    stop(&fixture, collectors);
    assert_eq!(fixture.names("growing"), ["app.log"], "no file is kept beside those that are read");
    let find = |folder: &Path| -> PathBuf {
        let paths = glob::glob(&format!("{}/**/ledger.sqlite-wal", folder.display())).unwrap();
        paths.flatten().next().expect("the ledger has a journal")
    };
    let whole = fs::metadata(find(&crashed)).unwrap().len();
    let mut went_back = false;
    for part in [0, 1, 3, 5, 7, 9, 10] {
        let mut torn = Fixture::new();
        torn.replace_log(|log| {
            copy_all(&crashed, log);
            let journal = fs::OpenOptions::new().write(true).open(find(log)).unwrap();
            journal.set_len(whole * part / 10 + (part % 3) * 7).unwrap();
        });
        let known = torn.log().topic("lines").is_some();
        went_back |= !known || torn.count("lines") < expected.len();
        fs::create_dir_all(torn.path("growing")).unwrap();
        // The same file, by its inode.
        fs::hard_link(fixture.path("growing/app.log"), torn.path("growing/app.log")).unwrap();
        torn.drain(&config).unwrap();
        assert_eq!(told(&torn), expected, "{part} tenths of the journal");
    }
    assert!(went_back, "nothing was torn");
}

/// What a test does to the file between two looks.
#[derive(Debug, Clone)]
enum Act {
    Write(u8),
    /// A piece of a line, whose end comes later.
    Piece,
    Rename,
    CopyTruncate,
    /// The file that was rotated last is packed, if some of it was read.
    Pack,
    Restart,
    Drain,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 60, ..ProptestConfig::default() })]

    /// Whatever happens to a log file, every line is there once, and the lines of one content are in order. What is not
    /// read before a `copytruncate` comes out of the copy.
    #[test]
    fn every_line_is_there_once(acts in prop::collection::vec(
        prop_oneof![
            4 => (1_u8..20).prop_map(Act::Write),
            1 => Just(Act::Piece),
            1 => Just(Act::Rename),
            1 => Just(Act::CopyTruncate),
            1 => Just(Act::Pack),
            1 => Just(Act::Restart),
            3 => Just(Act::Drain),
        ],
        1..25,
    )) {
        let mut fixture = Fixture::new();
        let (mut written, mut rotated) = (0_u32, 0);
        let mut open_line = false;
        // Whether some of the current content was read, and of the one that was rotated last.
        let (mut has_lines, mut was_read, mut can_be_packed) = (false, false, false);
        for act in acts {
            match act {
                Act::Write(count) => {
                    for _ in 0..count {
                        let text = if open_line { format!("{written:05}\n") } else { format!("line {written:05}\n") };
                        fixture.append_to("log/app.log", text);
                        open_line = false;
                        has_lines = true;
                        written += 1;
                    }
                }
                Act::Piece if !open_line => {
                    fixture.append_to("log/app.log", "line ");
                    open_line = true;
                }
                // A line is not torn in two by its writer's rotation.
                Act::Rename if !open_line && fixture.path("log/app.log").exists() => {
                    rotated += 1;
                    fs::rename(fixture.path("log/app.log"), fixture.path(&format!("log/app.log.{rotated}"))).unwrap();
                    can_be_packed = std::mem::take(&mut was_read);
                    has_lines = false;
                }
                Act::CopyTruncate if !open_line && fixture.path("log/app.log").exists() => {
                    rotated += 1;
                    fs::copy(fixture.path("log/app.log"), fixture.path(&format!("log/app.log.{rotated}"))).unwrap();
                    fixture.put("log/app.log", "");
                    can_be_packed = std::mem::take(&mut was_read);
                    has_lines = false;
                }
                Act::Pack if std::mem::take(&mut can_be_packed) => pack(&fixture, &format!("log/app.log.{rotated}")),
                Act::Restart => fixture.reopen(),
                Act::Drain => {
                    fixture.drain(LINES).unwrap();
                    was_read = has_lines;
                }
                _ => {}
            }
        }
        fixture.drain(LINES).unwrap();
        let mut lines = told(&fixture);
        lines.sort();
        let finished: Vec<String> = (0..written).map(|n| format!("line {n:05}")).collect();
        prop_assert_eq!(lines, finished);
    }
}

#[test]
fn a_rate_limit_is_kept_whatever_the_number_of_files_and_a_stop_does_not_wait_for_it() {
    let mut fixture = Fixture::new();
    fixture.append_bytes = 1 << 20;
    let all: Vec<String> = (0..600).map(|n| format!("line {n}")).collect();
    for (n, part) in all.chunks(150).enumerate() {
        fixture.put(&format!("log/app.log.{n}"), part.join("\n") + "\n");
    }
    let limited = |rate: u64| format!("{LINES}[source.rate_limit]\nrecords_per_second = {rate}\n");
    let collectors = run(&fixture, &limited(50));
    fixture.wait_for("the source to be limited", || collectors.status()[0].state == "limited");
    stop(&fixture, collectors);
    let before = told(&fixture).len();
    assert!((50..600).contains(&before), "{before} lines of a source that was stopped at once");
    fixture.reopen();
    let since = Instant::now();
    fixture.drain(&limited(200)).unwrap();
    let elapsed = since.elapsed();
    let least = Duration::from_millis(400_usize.saturating_sub(before) as u64 * 5)
        .saturating_sub(Duration::from_millis(200));
    assert!(elapsed >= least, "{} lines at 200 a second took {elapsed:?}", 600 - before);
    let mut texts = told(&fixture);
    assert_eq!(texts.len(), 600);
    texts.sort_by_key(|text| text.trim_start_matches("line ").parse::<u32>().unwrap());
    assert_eq!(texts, all);
}

#[test]
fn a_record_of_several_lines_is_whole_under_a_rate_limit() {
    let fixture = Fixture::new();
    let text: String = (0..60).map(|n| format!("E {n}\n  at a\n  at b\n")).collect();
    fixture.append_to("log/app.log", text);
    fixture.drain(&format!("{}[source.rate_limit]\nrecords_per_second = 30\n", joined("1h"))).unwrap();
    let records: Vec<String> = (0..60).map(|n| format!("E {n}\n  at a\n  at b")).collect();
    assert_eq!(told(&fixture), records);
}
