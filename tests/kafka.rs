//! Kafka's own clients against the real binary: kcat, confluent-kafka (both librdkafka), kafka-python and kafkajs.
//!
//! `tests/servers/run` brings the clients. `TARN_KILLS=50` makes the kill tests long.

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::harness::{Folder, Running, count, exactly_once, seconds, verified, wait_for};

fn config(kafka: &str) -> String {
    format!(
        r#"
data_dir = "data"

[log]
kafka = "{kafka}"
segment_size = "256KiB"
retention_every = "500ms"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "events"
partitions = 3

[[table]]
name = "events"
columns = "n BIGINT NOT NULL"
commit_every = "300ms"
"#
    )
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/servers").join(name)
}

fn python(script_name: &str) -> Command {
    let python = std::env::var("TARN_PYTHON").expect("TARN_PYTHON: start these tests with tests/servers/run");
    let mut command = Command::new(python);
    command.arg(script(script_name));
    command
}

#[track_caller]
fn ended_well(output: &Output) -> String {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

fn address(running: &Running) -> String {
    wait_for("the Kafka address", seconds(60), || running.kafka())
}

/// kcat with these arguments and this input.
#[track_caller]
fn kcat(bootstrap: &str, arguments: &[&str], input: &[u8]) -> String {
    let mut kcat = Command::new("kcat")
        .args(["-b", bootstrap, "-q"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kcat: start these tests with tests/servers/run");
    kcat.stdin.take().expect("piped").write_all(input).expect("kcat reads");
    ended_well(&kcat.wait_with_output().expect("kcat ends"))
}

#[test]
fn what_kcat_sends_kcat_reads_and_the_table_has() {
    let folder = Folder::new(&config("127.0.0.1:0"));
    let mut running = folder.start();
    let bootstrap = address(&running);
    let mut sent = 0;
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let lines: String =
            (0..400).map(|n| format!("key{n}:{{\"n\": {n}, \"codec\": \"{codec}\"}}\n")).collect();
        let codec_setting = format!("compression.codec={codec}");
        kcat(
            &bootstrap,
            &["-P", "-t", "events", "-K:", "-X", &codec_setting, "-H", "from=kcat"],
            lines.as_bytes(),
        );
        sent += 400;
    }
    let read = kcat(&bootstrap, &["-C", "-t", "events", "-e", "-f", "%p %o %k %h %s\n"], b"");
    assert_eq!(read.lines().count(), sent);
    assert!(read.lines().all(|line| line.contains("from=kcat") && line.contains("key")));
    let metadata = kcat(&bootstrap, &["-L"], b"");
    assert!(metadata.contains("topic \"events\" with 3 partitions"), "{metadata}");

    let client = running.ready();
    let sent = i64::try_from(sent).expect("small");
    wait_for("the table to have all", seconds(30), || (count(&client, "events") == Some(sent)).then_some(()));
    running.stop();
    exactly_once(&folder, "events", sent, 0);
    folder.never_panicked();
}

/// The checks that `printed` says were passed: one that is `not there` counts as none.
fn passed(printed: &str) -> usize {
    printed.lines().filter(|line| line.starts_with("passed ")).count()
}

/// All `checks` that are written for this client pass.
fn every_check_passes(client: &str, checks: usize) {
    let folder = Folder::new(&config("127.0.0.1:0"));
    let running = folder.start();
    let output =
        python("kafka_clients.py").args([&address(&running), client]).output().expect("start python");
    let printed = ended_well(&output);
    println!("{printed}");
    assert!(printed.contains("passed three_members_share_and_one_is_killed"), "{printed}");
    assert_eq!(passed(&printed), checks, "{printed}");
    running.stop();
    folder.never_panicked();
}

#[test]
fn every_check_passes_with_confluent_kafka() {
    every_check_passes("confluent", 11);
}

#[test]
fn every_check_passes_with_confluent_kafka_where_the_broker_shares_out() {
    every_check_passes("confluent-consumer", 13);
}

#[test]
fn every_check_passes_with_kafka_python() {
    every_check_passes("kafka-python", 10);
}

/// Kills the process again and again under the members of a group: they go on, and their users see nothing of it but a pause.
fn members_go_on_over_kills(client: &str) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let bootstrap = format!("127.0.0.1:{port}");
    let folder = Folder::new(&config(&bootstrap));
    let mut running = folder.start();
    running.ready();
    let members: Vec<Producer> = (0..2)
        .map(|n| {
            let file = |kind: &str| File::create(folder.path(format!("{kind}{n}"))).expect("a file");
            let member = python("kafka_clients.py")
                .args([&bootstrap, client, "member", "readers", "events"])
                .stdout(file("read"))
                .stderr(file("told"))
                .spawn();
            Producer(member.expect("start python"))
        })
        .collect();
    let text = |name: String| std::fs::read_to_string(folder.path(name)).unwrap_or_default();
    let read = || -> std::collections::HashSet<String> {
        (0..members.len())
            .flat_map(|n| text(format!("read{n}")).lines().map(str::to_owned).collect::<Vec<_>>())
            .filter(|line| line.split(' ').count() == 2)
            .collect()
    };
    let shares = || (0..members.len()).map(|n| text(format!("told{n}"))).collect::<Vec<_>>();
    let mut sent = 0;
    let mut feed = || {
        let lines: String = (0..30).map(|n| format!("key{n}:{{\"n\": {n}}}\n")).collect();
        kcat(&bootstrap, &["-P", "-t", "events", "-K:"], lines.as_bytes());
        sent += 30;
        sent
    };
    wait_for("both to have a share", seconds(60), || {
        shares().iter().all(|told| told.contains("assigned")).then_some(())
    });
    let all = feed();
    wait_for("all to be read", seconds(60), || (read().len() == all).then_some(()));
    let before: Vec<usize> = shares().iter().map(|told| told.matches("assigned").count()).collect();
    for _ in 0..3 {
        running.kill();
        running = folder.start();
        running.ready();
        let all = feed();
        wait_for("all to be read", seconds(60), || (read().len() == all).then_some(()));
    }
    for (told, before) in shares().iter().zip(before) {
        assert_eq!(told.matches("assigned").count(), before, "nothing was shared out again: {told}");
        for trouble in
            ["lost", "UNKNOWN_MEMBER", "ILLEGAL_GENERATION", "FENCED", "STALE", "Unknown member", "fenced"]
        {
            assert!(!told.contains(trouble), "{trouble}: {told}");
        }
    }
    let group = folder.tarn(&["group", "describe", "readers"]);
    assert!(group.printed.contains("Stable, 2 members"), "{}{}", group.printed, group.said);
    drop(members);
    running.stop();
    folder.never_panicked();
}

#[test]
fn members_of_a_classic_group_go_on_over_kills() {
    members_go_on_over_kills("confluent");
}

#[test]
fn members_that_the_broker_shares_out_among_go_on_over_kills() {
    members_go_on_over_kills("confluent-consumer");
}

/// librdkafka's own tests: a part of them, which takes a minute.
#[test]
fn librdkafkas_own_tests_pass() {
    let folder =
        std::env::var("TARN_LIBRDKAFKA").expect("TARN_LIBRDKAFKA: start these tests with tests/servers/run");
    let output = python("librdkafka.py").args([env!("CARGO_BIN_EXE_tarn"), &folder, "quick"]).output();
    println!("{}", ended_well(&output.expect("start python")));
}

/// A producer that ends with the test.
struct Producer(Child);

impl Drop for Producer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Kills the process again and again under a producer that keeps account.
fn what_was_acknowledged_survives(mode: &str) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let bootstrap = format!("127.0.0.1:{port}");
    let folder = Folder::new(&config(&bootstrap));
    let mut running = folder.start();
    running.ready();
    let acked = folder.path("acked");
    let acked_text = acked.to_string_lossy().into_owned();
    let said = File::create(folder.path("producer")).expect("a file");
    let producer = python("kafka_verify.py")
        .args(["produce", &bootstrap, "events", "3", &acked_text, mode])
        .stdout(said.try_clone().expect("a file"))
        .stderr(said)
        .spawn()
        .expect("start python");
    let mut producer = Producer(producer);
    // Transactions are followed by a group of the one protocol, the others by one of the other.
    let protocol = if mode == "transactional" { "consumer" } else { "classic" };
    let read = folder.path("read").to_string_lossy().into_owned();
    let said_of_follower = File::create(folder.path("follower")).expect("a file");
    let follower = python("kafka_verify.py")
        .args(["follow", &bootstrap, "events", &read, protocol])
        .stdout(said_of_follower.try_clone().expect("a file"))
        .stderr(said_of_follower)
        .spawn();
    let mut follower = Producer(follower.expect("start python"));
    let kills: u64 = std::env::var("TARN_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(6);
    for kill in 0..kills {
        let before = lines(&acked);
        wait_for("records to be acknowledged", seconds(60), || (lines(&acked) > before + 300).then_some(()));
        // Not always at the same place of what goes on.
        std::thread::sleep(std::time::Duration::from_millis(37 * (kill % 11)));
        running.kill();
        running = folder.start();
    }
    let before = lines(&acked);
    wait_for("the producer to go on", seconds(60), || (lines(&acked) > before + 300).then_some(()));
    let pid = rustix::process::Pid::from_child(&producer.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal the producer");
    let ended = wait_for("the producer to end", seconds(150), || producer.0.try_wait().expect("a child"));
    let said = std::fs::read_to_string(folder.path("producer")).unwrap_or_default();
    assert!(ended.success(), "{said}");
    let pid = rustix::process::Pid::from_child(&follower.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal the follower");
    let ended = wait_for("the follower to end", seconds(150), || follower.0.try_wait().expect("a child"));
    let followed = std::fs::read_to_string(folder.path("follower")).unwrap_or_default();
    assert!(ended.success(), "{followed}");
    let output =
        python("kafka_verify.py").args(["consume", &bootstrap, "events", &acked_text, mode, &read]).output();
    let printed = ended_well(&output.expect("start python"));
    println!("{mode}, {kills} kills: {said}{followed}{printed}");
    let client = running.ready();
    let found = printed.split_once(" acknowledged, ").and_then(|(_, rest)| rest.split(' ').next());
    let found: i64 = found.and_then(|found| found.parse().ok()).expect("a number");
    wait_for("the table to have all", seconds(60), || {
        (count(&client, "events") == Some(found)).then_some(())
    });
    running.stop();
    if mode == "transactional" {
        // Markers and what was aborted have offsets of their own.
        verified(&folder);
    } else {
        exactly_once(&folder, "events", found, 0);
    }
    folder.never_panicked();
}

fn lines(path: &Path) -> usize {
    std::fs::read(path).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count())
}

#[test]
fn what_was_acknowledged_survives_kills() {
    what_was_acknowledged_survives("plain");
}

#[test]
fn an_idempotent_producer_is_not_doubled_by_kills() {
    what_was_acknowledged_survives("idempotent");
}

#[test]
fn transactions_are_whole_under_kills() {
    what_was_acknowledged_survives("transactional");
}

#[test]
fn the_example_takes_what_kcat_sends() {
    let text = std::fs::read_to_string(script("../../configs/kafka.toml")).expect("read the example");
    let text = text.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:9092", "127.0.0.1:0");
    let folder = Folder::new(&text.replace("data-kafka", "data"));
    let mut running = folder.start();
    let bootstrap = address(&running);
    let click = b"ada:{\"user\": \"ada\", \"page\": \"/\", \"ms\": 12}\n";
    kcat(&bootstrap, &["-P", "-t", "clicks", "-K:"], click);
    assert_eq!(kcat(&bootstrap, &["-C", "-t", "clicks", "-e"], b"").as_bytes(), &click[4..]);
    let client = running.ready();
    wait_for("the click", seconds(30), || (count(&client, "clicks")? == 1).then_some(()));
    assert_eq!(running.stop().code, Some(0));
}

#[test]
fn every_check_passes_with_kafkajs() {
    let folder = Folder::new(&config("127.0.0.1:0"));
    let running = folder.start();
    let modules =
        std::env::var("TARN_NODE_PATH").expect("TARN_NODE_PATH: start these tests with tests/servers/run");
    let output = Command::new("node")
        .arg(script("kafkajs_check.cjs"))
        .arg(address(&running))
        .env("NODE_PATH", modules)
        .output()
        .expect("start node");
    let printed = ended_well(&output);
    println!("{printed}");
    assert_eq!(passed(&printed), 5, "{printed}");
    running.stop();
    folder.never_panicked();
}
