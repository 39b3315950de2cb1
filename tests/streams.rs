//! Streams of lines: real senders, and the sum that must hold: lines in = rows + dead letters + what was dropped.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::harness::{Client, Folder, count, exactly_once, seconds, verified, wait_for};

/// An example as a folder's config, on free ports.
fn example(name: &str) -> Folder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../configs/{name}.toml"));
    let mut text = std::fs::read_to_string(path).expect("read the example");
    for port in ["8080", "5514", "6666"] {
        text = text.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:0");
    }
    Folder::new(
        &text
            .replace(&format!("file:data-{name}/lake"), "file:lake")
            .replace(&format!("data-{name}"), "data"),
    )
}

/// The port at which the first source listens by `door`.
fn port(client: &Client, door: &str) -> String {
    wait_for("an open door", seconds(30), || {
        let status = client.get("/v1/status").ok()?.json();
        let addresses = status["sources"][0]["addresses"].as_array()?.clone();
        let address = addresses.iter().find_map(|address| address.as_str()?.strip_prefix(door))?;
        Some(address.rsplit(':').next()?.to_owned())
    })
}

fn dropped(client: &Client) -> i64 {
    let status = client.get("/v1/status").expect("a status").json();
    status["sources"][0]["dropped"].as_i64().expect("a number")
}

/// `logger`, util-linux's own sender.
fn logger(port: &str, arguments: &[&str]) {
    let mut command = Command::new("logger");
    command.args(["--server", "127.0.0.1", "--port", port]).args(arguments);
    let ended = command.stdin(Stdio::null()).output().expect("util-linux has `logger`");
    assert!(ended.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn what_logger_sends_is_in_the_tables_in_every_dialect() {
    let folder = example("syslog");
    let mut running = folder.start();
    let client = running.ready();
    let (tcp, udp) = (port(&client, "tcp"), port(&client, "udp"));
    logger(
        &tcp,
        &["--tcp", "--rfc5424", "-p", "local3.warning", "-t", "shop", "--msgid", "M1", "five, counted not"],
    );
    logger(
        &tcp,
        &["--tcp", "--octet-count", "--rfc5424", "-p", "daemon.err", "-t", "shop", "five, \"counted\" ä"],
    );
    logger(&tcp, &["--tcp", "--rfc3164", "-p", "cron.info", "-t", "job", "-i", "three"]);
    logger(&udp, &["--udp", "--rfc5424", "-p", "auth.notice", "-t", "su", "five over udp"]);
    logger(&udp, &["--udp", "--rfc3164", "-p", "user.debug", "-t", "app", "three over udp"]);
    wait_for("four messages", seconds(60), || (count(&client, "syslog")? == 4).then_some(()));
    wait_for("one of security", seconds(60), || (count(&client, "auth")? == 1).then_some(()));
    let rows = client.sql("SELECT facility, severity, app, message FROM syslog ORDER BY message");
    let row = |facility: &str, severity: &str, app: &str, message: &str| json!({"facility": facility, "severity": severity, "app": app, "message": message});
    assert_eq!(
        rows,
        [
            row("daemon", "err", "shop", "five, \"counted\" ä"),
            row("local3", "warning", "shop", "five, counted not"),
            row("cron", "info", "job", "three"),
            row("user", "debug", "app", "three over udp"),
        ]
    );
    assert_eq!(
        client.sql("SELECT facility, message FROM auth"),
        [json!({"facility": "auth", "message": "five over udp"})]
    );
    let whole = "SELECT count(*) AS n FROM syslog WHERE host IS NOT NULL AND time > now() - INTERVAL '2 days' \
        AND (app <> 'job' OR pid IS NOT NULL) AND (priority <> 156 OR msgid = 'M1')";
    assert_eq!(client.sql(whole), [json!({"n": 4})], "the parts of a message are where they belong");
    // A whole file of them, and one that is no syslog.
    let lines: String = (0..2000).map(|n| format!("line {n}\n")).collect();
    folder.put("lines.txt", lines);
    let file = folder.path("lines.txt");
    logger(&tcp, &["--tcp", "--octet-count", "-t", "file", "-f", &file.to_string_lossy()]);
    let mut stream = TcpStream::connect(format!("127.0.0.1:{tcp}")).expect("connect");
    stream.write_all(b"this is none\n").expect("send");
    wait_for("the file", seconds(60), || (count(&client, "syslog")? == 2004).then_some(()));
    wait_for("a dead letter", seconds(60), || (count(&client, "syslog_dead_letters")? == 1).then_some(()));
    assert_eq!(
        client.sql("SELECT count(DISTINCT message) AS n FROM syslog WHERE app = 'file'"),
        [json!({"n": 2000})]
    );
    assert_eq!(running.stop().code, Some(0));
    folder.drained();
    exactly_once(&folder, "syslog", 2004, 1);
}

#[test]
fn a_sender_that_repeats_what_was_not_answered_loses_nothing_however_often_tarn_is_killed() {
    let folder = example("netcat");
    let mut rng = StdRng::seed_from_u64(7);
    let (mut next, total) = (0_u32, 600);
    let mut sent_again = 0;
    while next < total {
        let mut running = folder.start();
        let client = running.ready();
        let mut stream = TcpStream::connect(format!("127.0.0.1:{}", port(&client, "tcp"))).expect("connect");
        let mut answers = BufReader::new(stream.try_clone().expect("a second handle"));
        let kill_at = (next + rng.random_range(100..300)).min(total);
        while next < kill_at {
            let until = (next + 20).min(kill_at);
            let lines: String = (next..until).map(|n| format!("sensor=s{n} celsius={n}.5\n")).collect();
            stream.write_all(lines.as_bytes()).expect("send");
            for _ in next..until {
                let mut answer = String::new();
                answers.read_line(&mut answer).expect("an answer");
                assert_eq!(answer, "OK\n");
            }
            next = until;
        }
        // Some more that nobody waits for: they are in the log, or not; the sender repeats them.
        let more: String =
            (next..(next + 5).min(total)).map(|n| format!("sensor=s{n} celsius={n}.5\n")).collect();
        sent_again += i64::from((next + 5).min(total) - next);
        let _ = stream.write_all(more.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
        running.kill();
    }
    folder.start().stop();
    let mut running = folder.start();
    let client = running.ready();
    let answer = client
        .sql("SELECT count(*) AS n, count(DISTINCT sensor) AS s, count(DISTINCT id) AS ids FROM readings");
    let number = |name: &str| answer[0][name].as_i64().expect("a number");
    assert_eq!(number("s"), i64::from(total), "a line that was answered is missing");
    assert!(number("n") <= i64::from(total) + sent_again && number("ids") == number("n"), "{answer:?}");
    assert_eq!(running.stop().code, Some(0));
    verified(&folder);
}

const ROUTED: &str = r#"
data_dir = "data"
[lake]
url = "file:lake"
[serving]
http = "127.0.0.1:0"

[[source]]
name = "access"
type = "taildir"
path = "logs/access.log*"
format = "combined"
topic = "access"
every = "20ms"

[[source.interceptor]]
type = "filter"
field = "path"
regex = '^/health'
drop = true
[[source.interceptor]]
type = "uuid"

[[source.route]]
topic = "archive"
copy = true
[[source.route]]
topic = "failures"
field = "status"
values = ["500", "503"]

[[topic]]
name = "archive"
partitions = 3

[[table]]
name = "access"
columns = "id VARCHAR, path VARCHAR, status INT"
unknown_fields = "drop"
commit_every = "200ms"
[[table]]
name = "archive"
columns = "id VARCHAR, path VARCHAR, status INT"
unknown_fields = "drop"
commit_every = "300ms"
[[table]]
name = "failures"
columns = "id VARCHAR, path VARCHAR, status INT"
unknown_fields = "drop"
commit_every = "400ms"
"#;

#[test]
fn every_line_is_in_all_of_its_topics_or_in_none_whatever_is_killed() {
    let folder = Folder::new(ROUTED);
    let mut rng = StdRng::seed_from_u64(11);
    let (mut ok, mut failed, mut torn, mut health) = (0_i64, 0_i64, 0_i64, 0_i64);
    let mut n = 0;
    for round in 0..4 {
        let mut running = folder.start();
        let client = running.ready();
        for _ in 0..rng.random_range(3..8) {
            let mut text = String::new();
            for _ in 0..rng.random_range(50..600) {
                n += 1;
                let (path, status) = match rng.random_range(0..20) {
                    0 => {
                        torn += 1;
                        text.push_str("10.0.0.1 - - [broken\n");
                        continue;
                    }
                    1 => {
                        health += 1;
                        ("/health".to_owned(), 200)
                    }
                    2 => {
                        failed += 1;
                        (format!("/p{n}"), if n % 2 == 0 { 500 } else { 503 })
                    }
                    _ => {
                        ok += 1;
                        (format!("/p{n}"), 200)
                    }
                };
                text += &format!(
                    "10.0.0.1 - - [22/Nov/2026:10:00:00 +0000] \"GET {path} HTTP/1.1\" {status} 5 \"-\" \"-\"\n"
                );
            }
            folder.grow("logs/access.log", text);
            wait_for("some of it", seconds(60), || count(&client, "archive").filter(|seen| *seen > 0));
        }
        if round == 2 {
            std::fs::rename(folder.path("logs/access.log"), folder.path("logs/access.log.1"))
                .expect("rotate");
        }
        running.kill();
    }
    folder.drained();
    exactly_once(&folder, "access", ok, torn);
    exactly_once(&folder, "archive", ok + failed, 0);
    exactly_once(&folder, "failures", failed, 0);
    assert_eq!(folder.number("SELECT count(DISTINCT id) FROM archive"), ok + failed);
    let copies = "SELECT count(*) FROM archive a JOIN (SELECT id, path FROM access UNION ALL SELECT id, path FROM failures) t \
        ON a.id = t.id AND a.path = t.path";
    assert_eq!(folder.number(copies), ok + failed, "a copy has the identity of its original");
    // What a filter dropped is counted in the log, over all the kills.
    let mut running = folder.start();
    let client = running.ready();
    folder.grow(
        "logs/access.log",
        "10.0.0.1 - - [22/Nov/2026:10:00:00 +0000] \"GET /health HTTP/1.1\" 200 5 \"-\" \"-\"\n",
    );
    wait_for("the drop", seconds(60), || (dropped(&client) == 1).then_some(()));
    assert_eq!(running.stop().code, Some(0));
    assert_eq!(logged_drops(&folder), health + 1);
}

/// The count of dropped records that the log keeps.
fn logged_drops(folder: &Folder) -> i64 {
    let ended = folder.tarn(&["status", "-c", "tarn.toml", "--output", "json"]);
    let status: Value = serde_json::from_str(&ended.printed).expect("a status");
    status["sources"][0]["dropped"].as_i64().expect("a number")
}

const LEVELS: &str = r#"
data_dir = "data"
[lake]
url = "file:lake"
[serving]
http = "127.0.0.1:0"

[[source]]
name = "app"
type = "taildir"
path = "logs/app.log"
format = "regex"
regex = '^(?<level>[A-Z]+) (?<n>\S+)(?: (?<extra>\S+))?$'
topic = "app"
every = "20ms"

[[table]]
name = "app"
columns = "level VARCHAR, n BIGINT"
unknown_fields = "dead_letter"
commit_every = "200ms"
"#;

#[test]
fn a_dead_letter_is_replayed_once_after_the_fix_whatever_is_killed() {
    const LINES: i64 = 3000;
    let folder = Folder::new(LEVELS);
    // One of three has another form, and some of the others have a field that the table lacks.
    let line = |n: i64| match (n % 3, n % 5) {
        (0, _) => format!("WARN:{n}\n"),
        (_, 0) => format!("INFO {n} x\n"),
        _ => format!("INFO {n}\n"),
    };
    folder.put("logs/app.log", (0..LINES).map(line).collect::<String>());
    folder.drained();
    let unknown = (0..LINES).filter(|n| n % 3 > 0 && n % 5 == 0).count();
    let unknown = i64::try_from(unknown).expect("a small number");
    let malformed = LINES / 3;
    exactly_once(&folder, "app", LINES - malformed - unknown, malformed + unknown);
    let letters = |arguments: &[&str]| {
        let mut all = vec!["source", "dead-letters"];
        all.extend(arguments);
        all.extend(["-c", "tarn.toml", "--output", "json"]);
        folder.tarn(&all)
    };
    let told = |arguments: &[&str]| -> Value {
        let ended = letters(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.said);
        serde_json::from_str(&ended.printed).expect("json")
    };
    let list = told(&["list"]);
    assert_eq!((&list[0]["dead_letters"], &list[0]["replayed"]), (&json!(malformed + unknown), &json!(0)));
    let shown = told(&["show", "app", "--where", "field IS NULL", "--limit", "2"]);
    assert_eq!(shown[1]["value"], "WARN:3");
    assert!(shown[1]["reason"].as_str().expect("a reason").contains("does not fit the regular expression"));
    assert_eq!(letters(&["replay", "app"]).code, Some(2), "nothing runs");

    // Before anything is mended nothing is taken.
    let mut running = folder.start();
    running.ready();
    let done = told(&["replay", "app"]);
    assert_eq!((&done["replayed"], &done["refused"]), (&json!(0), &json!(malformed + unknown)), "{done}");
    assert_eq!(running.stop().code, Some(0));

    // The regular expression is mended; the process dies before the commit, then after it, with its answer.
    folder.configure(&LEVELS.replace("[A-Z]+) ", "[A-Z]+)[ :]"));
    for point in ["log.commit.before", "log.commit.after"] {
        let mut running = folder.start_with(&format!("{point}=1*return(kill)"), &[]);
        running.ready();
        assert_eq!(letters(&["replay", "app"]).code, Some(1), "{point}");
        running.end(seconds(60));
        let replayed = told(&["list"])[0]["replayed"].as_i64();
        assert_eq!(replayed, Some(if point.ends_with("after") { malformed } else { 0 }), "{point}");
    }
    let mut running = folder.start();
    running.ready();
    let done = told(&["replay", "app"]);
    let parts = ["replayed", "before", "refused"].map(|part| done[part].as_i64().expect("a number"));
    assert_eq!(parts, [0, malformed, unknown], "{done}");
    assert!(done["reasons"][0]["reason"].as_str().expect("a reason").contains("`extra`"), "{done}");
    assert_eq!(running.stop().code, Some(0));

    // The table gets the column.
    folder
        .configure(&LEVELS.replace("[A-Z]+) ", "[A-Z]+)[ :]").replace("n BIGINT", "n BIGINT, extra VARCHAR"));
    let mut running = folder.start();
    let client = running.ready();
    let dry = told(&["replay", "app", "--dry-run", "--where", "field = 'extra'"]);
    assert_eq!((&dry["replayed"], &dry["dry_run"]), (&json!(unknown), &json!(true)));
    assert_eq!(told(&["replay", "app"])["replayed"], unknown);
    assert_eq!(told(&["replay", "app"])["before"], malformed + unknown);
    wait_for("every line", seconds(60), || (count(&client, "app")? == LINES).then_some(()));
    let each = "SELECT count(DISTINCT n) AS d, sum(n) AS s, count(extra) AS e FROM app";
    assert_eq!(client.sql(each), [json!({"d": LINES, "s": LINES * (LINES - 1) / 2, "e": unknown})]);
    assert_eq!(told(&["list"])[0]["replayed"], malformed + unknown);
    assert_eq!(running.stop().code, Some(0));
    folder.drained();
    exactly_once(&folder, "app", LINES, malformed + unknown);
}
