use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::fixture::{Fixture, ndjson};

fn state(collectors: &Collectors, name: &str) -> String {
    let status = collectors.status();
    status.iter().find(|source| source.name == name).map(|source| source.state.clone()).unwrap_or_default()
}

fn pause(fixture: &Fixture, collectors: &Collectors, name: &str) {
    assert!(fixture.runtime.block_on(collectors.pause(name)).unwrap(), "it comes to rest");
    assert_eq!(state(collectors, name), "paused");
}

fn resume(fixture: &Fixture, collectors: &Collectors, name: &str) {
    fixture.runtime.block_on(collectors.resume(name)).unwrap();
}

#[test]
fn a_paused_source_stays_paused_over_a_restart_and_goes_on_exactly_where_it_was() {
    let mut fixture = Fixture::new();
    let config = "[[source]]\nname = \"in\"\ntype = \"spooldir\"\npath = \"DIR/in\"\nformat = \"ndjson\"\n\
        topic = \"t\"\nevery = \"10ms\"\n[[source]]\nname = \"numbers\"\ntype = \"generator\"\nrate = 0\ntopic = \"n\"\n";
    fixture.put("in/a.ndjson", ndjson(0, 100));
    let collectors = fixture.start(config, RunMode::Continuous);
    fixture.wait_for_count("t", 100);
    fixture.wait_for_count("n", 100);
    pause(&fixture, &collectors, "in");
    pause(&fixture, &collectors, "numbers");
    pause(&fixture, &collectors, "numbers");
    let made = fixture.count("n");
    fixture.put("in/b.ndjson", ndjson(100, 100));
    fixture.stop(&collectors);
    drop(collectors);
    fixture.reopen();

    let status = fixture.drain(config).unwrap();
    assert_eq!(status[0].state, "paused", "a drain is without it");
    let collectors = fixture.start(config, RunMode::Continuous);
    fixture.wait_for("both to say so", || {
        state(&collectors, "in") == "paused" && state(&collectors, "numbers") == "paused"
    });
    assert_eq!((fixture.count("t"), fixture.count("n")), (100, made));
    resume(&fixture, &collectors, "in");
    resume(&fixture, &collectors, "numbers");
    fixture.wait_for_count("t", 200);
    fixture.wait_for_count("n", made + 100);
    fixture.stop(&collectors);
    assert_eq!(fixture.texts("t").join("\n") + "\n", ndjson(0, 200));
    let mut ids: Vec<i64> = fixture
        .texts("n")
        .iter()
        .map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap()["order_id"].as_i64().unwrap())
        .collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "none is made twice");
    assert!(!is_paused(fixture.log(), "in").unwrap());
}

#[test]
fn sources_that_listen_close_their_door_while_they_are_paused_and_lose_nothing_that_they_had() {
    let fixture = Fixture::new();
    let config = "[[source]]\nname = \"lines\"\ntype = \"netcat\"\ntcp = \"127.0.0.1:0\"\ntopic = \"t\"\n";
    let collectors = fixture.start(config, RunMode::Continuous);
    let address = || {
        let mut found = String::new();
        fixture.wait_for("an address", || {
            let status = collectors.status();
            found = status[0].addresses.first().cloned().unwrap_or_default();
            !found.is_empty()
        });
        found.trim_start_matches("tcp ").to_owned()
    };
    let first = address();
    let mut sender = TcpStream::connect(&first).unwrap();
    sender.write_all(b"one\ntwo\n").unwrap();
    fixture.wait_for_count("t", 2);
    pause(&fixture, &collectors, "lines");
    assert!(collectors.status()[0].addresses.is_empty(), "nobody listens");
    resume(&fixture, &collectors, "lines");
    let mut sender = TcpStream::connect(address()).unwrap();
    sender.write_all(b"three\n").unwrap();
    fixture.wait_for_count("t", 3);
    fixture.stop(&collectors);
    assert_eq!(fixture.texts("t"), ["one", "two", "three"]);
}

#[test]
fn a_command_ends_with_the_pause_and_begins_anew() {
    let fixture = Fixture::new();
    let config = "[[source]]\nname = \"command\"\ntype = \"exec\"\ntopic = \"t\"\n\
        command = [\"sh\", \"-c\", \"echo begun; exec sleep 1000\"]\n";
    let collectors = fixture.start(config, RunMode::Continuous);
    fixture.wait_for_count("t", 1);
    pause(&fixture, &collectors, "command");
    assert_eq!(fixture.count("t"), 1);
    resume(&fixture, &collectors, "command");
    fixture.wait_for_count("t", 2);
    fixture.stop(&collectors);
}

#[test]
fn words_to_sources_that_are_not_there_or_have_no_runs_are_refused() {
    let fixture = Fixture::new();
    let text = "[[source]]\nname = \"numbers\"\ntype = \"generator\"\ncount = 1\ntopic = \"n\"\n";
    let collectors = fixture.start(text, RunMode::Continuous);
    let config = fixture.config(text);
    let error = fixture.runtime.block_on(collectors.pause("nobody")).unwrap_err();
    assert_eq!((error.kind(), error.hint()), (tarn_model::Kind::Invalid, Some("sources: numbers")));
    let error = collectors.run_now(&config, "numbers").unwrap_err();
    assert!(error.to_string().contains("has no runs"), "{error}");
    assert!(collectors.history(&config, "numbers").is_err());
    fixture.stop(&collectors);
}

/// A clock that somebody sets.
#[derive(Debug)]
struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now_us(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[test]
fn a_clock_that_is_set_back_by_a_year_loses_and_doubles_nothing_of_files_and_sockets() {
    const YEAR_US: i64 = 365 * 86_400 * 1_000_000;
    let mut fixture = Fixture::new();
    let clock = Arc::new(SetClock(AtomicI64::new(1_800_000_000_000_000)));
    fixture.clock = clock.clone();
    fixture.reopen();
    let config = "[[source]]\nname = \"tail\"\ntype = \"taildir\"\npath = \"DIR/a.log\"\ntopic = \"f\"\nevery = \"2ms\"\n\
        [[source]]\nname = \"net\"\ntype = \"netcat\"\ntcp = \"127.0.0.1:0\"\nacknowledge = true\ntopic = \"s\"\n";
    let lines = |from: usize, to: usize| (from..to).map(|n| format!("line {n}\n")).collect::<String>();
    let send = |collectors: &Collectors, text: &str, count: usize| {
        let mut stream = TcpStream::connect(door(collectors)).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut told = vec![0; 3 * count];
        stream.read_exact(&mut told).unwrap();
        assert_eq!(told, "OK\n".repeat(count).as_bytes());
    };
    fixture.append_to("a.log", lines(0, 100));
    let collectors = fixture.start(config, RunMode::Continuous);
    fixture.wait_for_count("f", 100);
    send(&collectors, &lines(0, 100), 100);
    clock.0.fetch_sub(YEAR_US, Ordering::SeqCst);
    fixture.append_to("a.log", lines(100, 200));
    fixture.wait_for_count("f", 200);
    send(&collectors, &lines(100, 200), 100);
    fixture.stop(&collectors);
    drop(collectors);
    fixture.reopen();
    let collectors = fixture.start(config, RunMode::Continuous);
    fixture.append_to("a.log", lines(200, 300));
    fixture.wait_for_count("f", 300);
    send(&collectors, &lines(200, 300), 100);
    fixture.stop(&collectors);
    for topic in ["f", "s"] {
        assert_eq!(fixture.texts(topic).join("\n") + "\n", lines(0, 300), "{topic}");
        let times: Vec<i64> = fixture.records(topic).iter().map(|record| record.timestamp_ms).collect();
        assert_eq!(
            times[0] - times[299],
            YEAR_US / 1000,
            "{topic}: a record has the time that the clock told"
        );
    }
}

/// The address of the source `net`, once it is open.
fn door(collectors: &Collectors) -> String {
    let since = Instant::now();
    loop {
        assert!(since.elapsed() < Duration::from_secs(30), "the door does not open");
        let status = collectors.status();
        let net = status.iter().find(|source| source.name == "net");
        if let Some(address) = net.and_then(|net| net.addresses.first()?.strip_prefix("tcp ")) {
            return address.to_owned();
        }
        std::thread::yield_now();
    }
}
