use rusqlite::Connection;
use tarn_model::status::RunStatus;

use super::last_run;
use crate::fixture::Fixture;
use crate::{Collectors, RunMode, history};

/// A source that reads new rows of `a`, and one that reads those of `b` after each run of the first.
fn config(first: &str) -> String {
    let source = |name: &str, rest: &str| {
        format!(
            "[[source]]\nname = \"{name}\"\ntype = \"database\"\nurl = \"sqlite:DIR/shop.sqlite\"\ntable = \"{name}\"\n\
             topic = \"{name}\"\nmode = \"append\"\ncursor = \"id\"\n{rest}\n"
        )
    };
    source("a", first) + &source("b", "after = \"a\"")
}

fn shop(fixture: &Fixture) -> Connection {
    let shop = Connection::open(fixture.path("shop.sqlite")).unwrap();
    let tables = "PRAGMA journal_mode = WAL; CREATE TABLE a (id INTEGER PRIMARY KEY, name TEXT); \
                  CREATE TABLE b (id INTEGER PRIMARY KEY, name TEXT);";
    shop.execute_batch(tables).unwrap();
    shop
}

fn insert(shop: &Connection, table: &str, ids: std::ops::Range<i64>) {
    for id in ids {
        shop.execute(&format!("INSERT INTO {table} VALUES (?1, 'a name')"), [id]).unwrap();
    }
}

fn runs(fixture: &Fixture, source: &str) -> Vec<RunStatus> {
    history(fixture.log(), source, false).unwrap()
}

/// Asks for a run, and waits for its end.
fn run_now(fixture: &Fixture, collectors: &Collectors, config: &str, source: &str) -> RunStatus {
    let config = fixture.config(config);
    let number = collectors.run_now(&config, source).unwrap();
    let mut done = None;
    fixture.wait_for("the run to be done", || {
        let runs = collectors.history(&config, source).unwrap();
        done = runs.into_iter().find(|run| run.number == number && run.state == "done");
        done.is_some()
    });
    done.unwrap()
}

#[test]
fn a_run_that_is_asked_for_has_all_that_was_there_before() {
    let fixture = Fixture::new();
    let shop = shop(&fixture);
    let config = config("every = \"1h\"");
    let collectors = fixture.start(&config, RunMode::Continuous);
    for round in 0..5 {
        insert(&shop, "a", round * 10..round * 10 + 10);
        let done = run_now(&fixture, &collectors, &config, "a");
        assert_eq!(fixture.count("a"), usize::try_from(round * 10 + 10).unwrap(), "round {round}");
        // The run that is due at the start may have taken rows of the first round.
        assert!(done.rows == 10 || round == 0, "{done:?}");
    }
    fixture.stop(&collectors);
    let runs = runs(&fixture, "a");
    assert_eq!(runs.iter().map(|run| run.rows).sum::<u64>(), 50);
    let name = "{\"id\":0,\"name\":\"a name\"}".len() as u64;
    assert_eq!(runs.iter().map(|run| run.bytes).sum::<u64>(), 50 * name + 40, "ids of two digits");
    assert_eq!(runs[0].reached.get("a").map(String::as_str), Some("49"));
    assert!(runs.iter().all(|run| run.state == "done" && run.attempts == 1 && run.error.is_none()));
    let numbers: Vec<u64> = runs.iter().map(|run| run.number).collect();
    assert!(numbers.is_sorted_by(|newer, older| newer == &(older + 1)), "{numbers:?}");
}

#[test]
fn each_run_that_is_done_is_followed_by_one_that_begins_later() {
    let mut fixture = Fixture::new();
    let shop = shop(&fixture);
    let config = config("every = \"1h\"");
    let collectors = fixture.start(&config, RunMode::Continuous);
    for round in 0..3 {
        insert(&shop, "b", round * 5..round * 5 + 5);
        run_now(&fixture, &collectors, &config, "a");
        fixture.wait_for_count("b", usize::try_from(round * 5 + 5).unwrap());
    }
    fixture.wait_for("the last to be followed, too", || {
        let run = |source: &str| last_run(fixture.log(), source).unwrap().unwrap();
        run("b").done && run("b").after == Some(run("a").number)
    });
    fixture.stop(&collectors);
    drop(collectors);
    let (first, second) = (runs(&fixture, "a").len(), runs(&fixture, "b").len());
    assert!((1..=first).contains(&second), "{second} runs follow {first}");

    // Nothing is due for it after a restart, until the first is done again.
    fixture.reopen();
    insert(&shop, "b", 15..20);
    let collectors = fixture.start(&config, RunMode::Continuous);
    run_now(&fixture, &collectors, &config, "a");
    fixture.wait_for_count("b", 20);
    fixture.stop(&collectors);
    assert_eq!(runs(&fixture, "b").len(), second + 1);
}

#[test]
fn a_drain_runs_each_source_once_and_those_that_follow_after_it() {
    let fixture = Fixture::new();
    let shop = shop(&fixture);
    insert(&shop, "a", 0..10);
    insert(&shop, "b", 0..10);
    for round in 1..4 {
        fixture.drain(&config("every = \"1h\"")).unwrap();
        let counts = (runs(&fixture, "a").len(), runs(&fixture, "b").len());
        assert_eq!(counts, (round, round));
    }
    assert_eq!((fixture.count("a"), fixture.count("b")), (10, 10));
}

#[test]
fn a_run_that_fails_is_one_run_with_its_attempts_and_its_error() {
    let fixture = Fixture::new();
    let config = config("every = \"1h\"");
    let collectors = fixture.start(&config, RunMode::Continuous);
    let parsed = fixture.config(&config);
    let newest = || collectors.history(&parsed, "a").unwrap().into_iter().next();
    fixture.wait_for("two attempts", || newest().is_some_and(|run| run.attempts >= 2));
    fixture.wait_for("its failure", || newest().is_some_and(|run| run.state == "waiting"));
    let waiting = newest().unwrap();
    assert!(waiting.error.is_some_and(|error| error.contains("shop.sqlite")), "it says why");
    let made = fixture.path("made.sqlite");
    let shop = Connection::open(&made).unwrap();
    shop.execute_batch(
        "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (id INTEGER PRIMARY KEY); \
                        INSERT INTO a VALUES (1), (2), (3);",
    )
    .unwrap();
    drop(shop);
    std::fs::rename(made, fixture.path("shop.sqlite")).unwrap();
    fixture.wait_for("the run to be done", || newest().is_some_and(|run| run.state == "done"));
    fixture.stop(&collectors);
    let runs = runs(&fixture, "a");
    let done = &runs[0];
    assert_eq!((runs.len(), done.number, done.rows), (1, 1, 3));
    assert!(done.attempts >= 3 && done.error.is_some(), "what went wrong is remembered: {done:?}");
}

#[test]
fn a_run_that_was_stopped_is_interrupted_and_then_done_with_all_its_rows() {
    let mut fixture = Fixture::new();
    let shop = shop(&fixture);
    insert(&shop, "a", 0..400);
    let config = config("every = \"1h\"");
    let mut stops = 0;
    while runs(&fixture, "a").first().is_none_or(|run| run.state != "done") {
        let collectors = fixture.start(&config, RunMode::Continuous);
        let before = fixture.count("a");
        let parsed = fixture.config(&config);
        fixture.wait_for("some rows", || {
            let is_done =
                collectors.history(&parsed, "a").unwrap().first().is_some_and(|run| run.state == "done");
            is_done || fixture.count("a") > before
        });
        fixture.stop(&collectors);
        drop(collectors);
        let newest = runs(&fixture, "a").into_iter().next().unwrap();
        assert!(["interrupted", "done"].contains(&newest.state.as_str()), "{newest:?}");
        assert_eq!(newest.rows, fixture.count("a") as u64, "as many as are committed");
        fixture.reopen();
        stops += 1;
        assert!(stops < 400, "it comes to an end");
    }
    let runs = runs(&fixture, "a");
    assert_eq!((runs.len(), runs[0].rows), (1, 400));
    assert!(u64::from(runs[0].attempts) <= stops);
}

#[test]
fn the_last_hundred_runs_are_kept() {
    let fixture = Fixture::new();
    drop(shop(&fixture));
    let config = config("every = \"1ms\"");
    let collectors = fixture.start(&config, RunMode::Continuous);
    fixture.wait_for("more than a hundred runs", || {
        last_run(fixture.log(), "a").unwrap().is_some_and(|run| run.number > 105)
    });
    fixture.stop(&collectors);
    let last = last_run(fixture.log(), "a").unwrap().unwrap().number;
    let numbers: Vec<u64> = runs(&fixture, "a").iter().map(|run| run.number).collect();
    assert_eq!(numbers, (last - 99..=last).rev().collect::<Vec<_>>());
    let config = fixture.config(&config);
    fixture.runtime.block_on(crate::forget(&config, fixture.log(), "a")).unwrap();
    assert!(runs(&fixture, "a").is_empty(), "a source that forgets forgets its runs");
}

#[test]
fn a_source_without_a_schedule_runs_again_when_it_is_asked_to() {
    let fixture = Fixture::new();
    let shop = shop(&fixture);
    insert(&shop, "a", 0..10);
    let config = config("").replace("mode = \"append\"\ncursor = \"id\"\n", "");
    let collectors = fixture.start(&config, RunMode::Continuous);
    fixture.wait_for("the first run", || collectors.status()[0].state == "done");
    assert_eq!(run_now(&fixture, &collectors, &config, "a").number, 2);
    fixture.wait_for_count("a", 20);
    fixture.stop(&collectors);
    assert_eq!(fixture.count("a"), 20, "a full run reads everything");
}
