use std::path::Path;

use crate::RunMode;
use crate::fixture::{Fixture, exists};

fn exec(script: &str, more: &str) -> String {
    let command = serde_json::to_string(&["sh", "-c", script]).unwrap();
    format!(
        "[[source]]\nname = \"e\"\ntopic = \"t\"\ntype = \"exec\"\ncommand = {command}\nrestart_after = \"10ms\"\n{more}"
    )
}

#[test]
fn a_command_that_is_to_run_once_is_read_to_its_end() {
    let fixture = Fixture::new();
    let status = fixture
        .drain(&exec("echo one; echo oops >&2; echo two; printf three", "restart = \"never\""))
        .unwrap();
    assert_eq!(fixture.texts("t"), ["one", "two", "three"]);
    assert_eq!((status[0].records, status[0].state.as_str()), (3, "done"));
}

#[test]
fn a_failure_of_a_command_that_is_to_run_once_ends_the_source() {
    let fixture = Fixture::new();
    let error = fixture.drain(&exec("echo one; exit 3", "restart = \"never\"")).unwrap_err().to_string();
    assert!(error.contains("`sh` ended with code 3"), "{error}");
    assert_eq!(fixture.texts("t"), ["one"], "what it had written is kept");
}

#[test]
fn a_command_that_ends_is_started_again() {
    let fixture = Fixture::new();
    let collectors = fixture.start(&exec("echo run", ""), RunMode::Continuous);
    fixture.wait_for_count("t", 3);
    fixture.stop(&collectors);
    let on_failure = "test -e DIR/failed && { echo second; exit 0; }; touch DIR/failed; echo first; exit 1";
    let fixture = Fixture::new();
    let collectors = fixture.start(&exec(on_failure, "restart = \"on_failure\""), RunMode::Continuous);
    fixture.wait_for("the end", || collectors.status()[0].state == "done");
    assert_eq!(fixture.texts("t"), ["first", "second"]);
    fixture.stop(&collectors);
}

#[test]
fn a_command_that_is_not_there_is_waited_for() {
    let fixture = Fixture::new();
    let config = "[[source]]\nname = \"e\"\ntopic = \"t\"\ntype = \"exec\"\ncommand = [\"DIR/no-such\"]\n";
    let collectors = fixture.start(config, RunMode::Continuous);
    fixture.wait_for("the source to wait", || collectors.status()[0].state == "waiting");
    assert!(collectors.status()[0].last_error.clone().unwrap().message.contains("cannot start"));
    fixture.stop(&collectors);
}

#[test]
fn a_stop_ends_the_command_and_keeps_what_it_wrote() {
    let fixture = Fixture::new();
    let script = "echo $$ > DIR/pid; trap 'touch DIR/asked; exit 0' TERM; i=0; while true; do echo $i; i=$((i+1)); sleep 0.01; done";
    let collectors = fixture.start(&exec(script, ""), RunMode::Continuous);
    fixture.wait_for_count("t", 5);
    fixture.stop(&collectors);
    assert!(exists(&fixture.path("asked")), "it was not asked to end");
    let pid = std::fs::read_to_string(fixture.path("pid")).unwrap();
    assert!(!exists(&Path::new("/proc").join(pid.trim())), "it still runs");
    let texts = fixture.texts("t");
    let expected: Vec<String> = (0..texts.len()).map(|n| n.to_string()).collect();
    assert_eq!(texts, expected);
}

#[test]
fn lines_of_a_command_are_taken_apart_and_joined() {
    let fixture = Fixture::new();
    let script = "printf 'a=1\\n  more=2\\na=3\\n'";
    let more = "restart = \"never\"\nformat = \"logfmt\"\n[source.multiline]\ncontinuation = '^ '\n";
    fixture.drain(&exec(script, more)).unwrap();
    let records = fixture.records("t");
    assert_eq!(records.len(), 2);
    assert_eq!(records[1].text(), r#"{"a":"3"}"#);
}

#[test]
fn a_command_that_closes_its_output_and_stays_does_not_hold_up_a_stop() {
    let fixture = Fixture::new();
    let collectors = fixture.start(&exec("echo one; exec >&- 2>&-; sleep 1000", ""), RunMode::Continuous);
    fixture.wait_for_count("t", 1);
    fixture.stop(&collectors);
    assert_eq!(fixture.texts("t"), ["one"]);
}
