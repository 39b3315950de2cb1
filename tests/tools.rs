//! `tarn topic`, `group`, `produce` and `consume` against the running process, as a person types them.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::{Ended, Folder, Kafka, seconds, wait_for};

const CONFIG: &str = r#"
data_dir = "data"

[log]
kafka = "127.0.0.1:0"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "clicks"
partitions = 3

[[table]]
name = "clicks"
columns = "n BIGINT NOT NULL"
key_column = "who"
"#;

/// `tarn` with this on its stdin.
fn fed(folder: &Folder, arguments: &[&str], input: &str) -> Ended {
    let (mut command, _said) = folder.command(arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start tarn");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("tarn reads");
    let output = child.wait_with_output().expect("tarn ends");
    Ended {
        code: output.status.code(),
        signal: None,
        printed: String::from_utf8_lossy(&output.stdout).into_owned(),
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[track_caller]
fn done(folder: &Folder, arguments: &[&str]) -> String {
    let ended = folder.tarn(arguments);
    assert_eq!(ended.code, Some(0), "{arguments:?}: {}{}", ended.printed, ended.said);
    ended.printed
}

#[track_caller]
fn json_of(folder: &Folder, arguments: &[&str]) -> Value {
    serde_json::from_str(&done(folder, &[arguments, &["--output", "json"]].concat())).expect("JSON")
}

#[track_caller]
fn refused(folder: &Folder, arguments: &[&str], code: i32, says: &str) {
    let ended = folder.tarn(arguments);
    assert_eq!(ended.code, Some(code), "{arguments:?}: {}{}", ended.printed, ended.said);
    assert!(ended.said.contains(says), "{arguments:?} does not say `{says}`: {}", ended.said);
}

#[test]
fn topics_are_made_changed_and_deleted() {
    let folder = Folder::new(CONFIG);
    refused(&folder, &["topic", "create", "x"], 2, "--bootstrap");
    let mut running = folder.start();
    running.ready();
    let made =
        done(&folder, &["topic", "create", "orders", "--partitions", "2", "--set", "retention.ms=60000"]);
    assert!(made.contains("2 partitions"), "{made}");
    refused(&folder, &["topic", "create", "orders"], 1, "tarn topic alter");
    refused(&folder, &["topic", "create", "o2", "--set", "retention.mss=1"], 1, "retention.mss");
    done(&folder, &["topic", "alter", "orders", "--partitions", "4", "--unset", "retention.ms"]);
    refused(&folder, &["topic", "alter", "ordres", "--partitions", "4"], 2, "did you mean `orders`?");
    let kafka = running.kafka().expect("an address");
    let described = json_of(&folder, &["topic", "describe", "orders", "--bootstrap", &kafka]);
    assert_eq!(described["partitions"].as_array().map(Vec::len), Some(4), "{described}");
    let settings = described["settings"].as_array().expect("settings");
    let own = |setting: &Value| setting["is_own"] == json!(true);
    assert!(!settings.is_empty() && !settings.iter().any(own), "{described}");
    let listed = json_of(&folder, &["topic", "list", "--bootstrap", &kafka]);
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    refused(&folder, &["topic", "delete", "clicks"], 1, "clicks");
    done(&folder, &["topic", "delete", "orders"]);
    refused(&folder, &["consume", "orders"], 2, "there is no topic `orders`");
    assert_eq!(running.stop().code, Some(0));
}

#[test]
fn what_is_produced_is_consumed_and_groups_are_reset() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    let sent = fed(
        &folder,
        &["produce", "clicks", "-K", ":", "-H", "from=test", "--compression", "zstd", "--output", "json"],
        "ada:{\"n\":1}\nbob:{\"n\":2}\nada:{\"n\":3}\n",
    );
    assert_eq!(sent.code, Some(0), "{}", sent.said);
    let sent: Value = serde_json::from_str(&sent.printed).expect("JSON");
    assert_eq!(sent["records"], 3);
    let wrong = fed(&folder, &["produce", "clicks", "--format", "json"], "{\"vaule\": \"x\"}\n");
    assert!(wrong.code == Some(1) && wrong.said.contains("did you mean `value`?"), "{}", wrong.said);
    let partition =
        sent["partitions"].as_object().and_then(|p| p.keys().next().cloned()).expect("a partition");
    let of_ada = done(&folder, &["consume", "clicks", "--output", "json"]);
    let records: Vec<Value> = of_ada.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(records.len(), 3);
    let of_ada: Vec<&Value> = records.iter().filter(|record| record["key"] == "ada").collect();
    assert_eq!((of_ada.len(), &of_ada[0]["value"]), (2, &json!("{\"n\":1}")));
    assert_eq!(of_ada[1]["headers"], json!({"from": "test"}));
    assert_eq!(of_ada[0]["partition"], of_ada[1]["partition"], "a key has one partition");
    // What one writes the other reads.
    let again = records.iter().map(|record| format!("{record}\n")).collect::<String>();
    let copied = fed(&folder, &["produce", "clicks", "--format", "json"], &again);
    assert_eq!(copied.code, Some(0), "{}", copied.said);
    let two = done(&folder, &["consume", "clicks", "-K", ":", "--count", "2", "--partition", &partition]);
    assert_eq!(two.lines().count(), 2, "{two}");
    assert_eq!(done(&folder, &["consume", "clicks", "--from", "latest"]), "");
    assert_eq!(done(&folder, &["consume", "clicks", "--from", "1h"]).lines().count(), 6);
    wait_for("the table", seconds(30), || {
        (crate::harness::count(&client, "clicks") == Some(6)).then_some(())
    });
    let who = client.sql("SELECT who, count(*) AS n FROM clicks GROUP BY 1 ORDER BY 1");
    assert_eq!(who, [json!({"who": "ada", "n": 4}), json!({"who": "bob", "n": 2})]);

    refused(&folder, &["group", "describe", "reports"], 2, "there is no group `reports`");
    let planned = json_of(&folder, &["group", "reset", "reports", "--to", "earliest", "--topic", "clicks"]);
    assert_eq!((&planned["executed"], planned["offsets"].as_array().map(Vec::len)), (&json!(false), Some(3)));
    assert_eq!(json_of(&folder, &["group", "list"]), json!([]), "a dry run changes nothing");
    done(&folder, &["group", "reset", "reports", "--to", "earliest", "--topic", "clicks", "--execute"]);
    let described = json_of(&folder, &["group", "describe", "reports"]);
    assert_eq!((&described["lag"], &described["state"]), (&json!(6), &json!("Empty")), "{described}");
    let metrics = client.get("/metrics").expect("an answer").text();
    let lag: f64 = metrics
        .lines()
        .filter(|line| line.starts_with("tarn_group_lag_records{group=\"reports\",topic=\"clicks\""))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert!((lag - 6.0).abs() < f64::EPSILON, "{metrics}");
    refused(&folder, &["group", "reset", "report", "--to", "latest"], 2, "did you mean `reports`?");
    refused(&folder, &["group", "reset", "reports", "--to", "yesterday"], 2, "earliest");
    done(&folder, &["group", "reset", "reports", "--to", "latest", "--execute"]);
    assert_eq!(json_of(&folder, &["group", "describe", "reports"])["lag"], 0);
    let one = format!("clicks:{partition}");
    done(&folder, &["group", "reset", "reports", "--to", "1", "--topic", &one, "--execute"]);
    let mut kafka = Kafka::connect(&running.kafka().expect("an address")).expect("a connection");
    assert!(kafka.topics().is_some());
    let at = json_of(&folder, &["group", "describe", "reports"]);
    let moved = at["partitions"].as_array().into_iter().flatten().filter(|p| p["committed"] == 1).count();
    assert!(moved >= 1, "{at}");
    done(&folder, &["group", "delete", "reports"]);
    assert_eq!(json_of(&folder, &["group", "list"]), json!([]));
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

/// A `tarn consume` that goes on until it is interrupted.
struct Following {
    child: std::process::Child,
    out: std::path::PathBuf,
}

impl Following {
    fn start(folder: &Folder, group: &str, name: &str) -> Following {
        let out = folder.path(name);
        let (mut command, _said) = folder.command(&["consume", "clicks", "--group", group, "--follow"]);
        let file = std::fs::File::create(&out).expect("a file");
        let child = command.stdin(Stdio::null()).stdout(file).spawn().expect("start tarn");
        Following { child, out }
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.out).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Ctrl-C.
    fn interrupt(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("interrupt it");
        let ended = wait_for("it to end", seconds(60), || self.child.try_wait().expect("a child"));
        assert!(ended.success(), "{ended}");
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn members_of_a_group_share_a_topic_and_go_on_where_it_has_committed() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    running.ready();
    let feed = |from: usize, to: usize| {
        let lines: String = (from..to).map(|n| format!("key{n}:{{\"n\":{n}}}\n")).collect();
        let sent = fed(&folder, &["produce", "clicks", "-K", ":"], &lines);
        assert_eq!(sent.code, Some(0), "{}", sent.said);
    };
    feed(0, 30);
    let read = || done(&folder, &["consume", "clicks", "--group", "reports"]).lines().count();
    assert_eq!(read(), 30);
    assert_eq!(read(), 0, "it was committed");
    let described = json_of(&folder, &["group", "describe", "reports"]);
    assert_eq!((&described["lag"], &described["state"]), (&json!(0), &json!("Empty")), "{described}");
    feed(30, 35);
    let some = done(&folder, &["consume", "clicks", "--group", "reports", "--count", "2"]);
    assert_eq!(some.lines().count(), 2);
    assert_eq!(read(), 3, "what was written was committed, and no more");
    refused(&folder, &["consume", "clicks", "--group", "reports", "--partition", "1"], 2, "--partition");

    let one = Following::start(&folder, "shared", "one");
    let shares = || -> Vec<usize> {
        let described = folder.tarn(&["group", "describe", "shared", "--output", "json"]);
        let described: Value = serde_json::from_str(&described.printed).unwrap_or_default();
        let count = |member: &Value| member["partitions"]["clicks"].as_array().map_or(0, Vec::len);
        let mut counts: Vec<usize> =
            described["members"].as_array().into_iter().flatten().map(count).collect();
        counts.sort_unstable();
        counts
    };
    wait_for("one to have all", seconds(60), || (shares() == [3]).then_some(()));
    let two = Following::start(&folder, "shared", "two");
    wait_for("both to have a share", seconds(60), || (shares() == [1, 2]).then_some(()));
    feed(35, 95);
    let all = || -> Vec<String> {
        let mut all = [one.lines(), two.lines()].concat();
        all.sort();
        all
    };
    wait_for("both to read all", seconds(60), || (all().len() >= 95).then_some(()));
    let (count, mut distinct) = (all().len(), all());
    distinct.dedup();
    assert_eq!((count, distinct.len()), (95, 95), "each record was read by one, once");
    assert!(!two.lines().is_empty());
    one.interrupt();
    wait_for("the other to have all", seconds(60), || (shares() == [3]).then_some(()));
    two.interrupt();
    assert_eq!(json_of(&folder, &["group", "describe", "shared"])["lag"], 0);
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}
