//! A lake on S3: a real server (moto), and a proxy before it for what S3 does on a bad day.

mod proxy;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;

use super::while_the_lake_refuses;
use crate::harness::{
    Client, Folder, committed, events, exactly_once, push, seconds, table_status, visible, wait_for,
};
use proxy::{Fate, Proxy, Request};

const SECRET: &str = "correct-horse-battery-staple";
const PREFIX: &str = "some/prefix";
/// Names the endpoint of a folder whose lake is on S3.
const ENDPOINT: &str = "s3-endpoint";

const CONFIG: &str = r#"
data_dir = "data"

[lake]
url = "s3://lake/some/prefix"
optimize_after_files = 4
checkpoint_after_commits = 10

[lake.options]
endpoint = "http://ENDPOINT"
allow_http = "true"
region = "us-east-1"
access_key_id = "from-the-config"
secret_access_key = "${TARN_TEST_SECRET}"

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "events"
partitions = 2

[[source]]
name = "push"
type = "http"
topic = "events"
key = "id"

[[source]]
name = "spool"
type = "spooldir"
path = "in"
format = "ndjson"
topic = "events"
key = "id"
every = "50ms"

[[table]]
name = "events"
columns = "id BIGINT NOT NULL, text VARCHAR"
commit_every = "100ms"
"#;

/// moto's S3, in a process of its own, with the bucket `lake`.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start() -> Server {
        let python =
            std::env::var("TARN_PYTHON").expect("TARN_PYTHON: start these tests with tests/servers/run");
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .expect("a port")
            .local_addr()
            .expect("an address")
            .port();
        let child = Command::new(Path::new(&python).with_file_name("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start moto");
        let server = Server { child, address: format!("127.0.0.1:{port}") };
        let client = Client::new(&server.address);
        wait_for("the bucket to be there", seconds(60), || {
            client.request("PUT", "/lake", &[], b"").ok().filter(|answer| answer.status == 200)
        });
        server
    }

    /// A folder whose lake is on this server, reached through `address`.
    fn folder(&self, address: &str) -> Folder {
        let folder = Folder::new(&CONFIG.replace("ENDPOINT", address)).with_env("TARN_TEST_SECRET", SECRET);
        fs::create_dir_all(folder.path("in")).expect("create the folder");
        fs::write(folder.path(ENDPOINT), format!("http://{}", self.address)).expect("write the endpoint");
        folder
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies a lake that is on S3 to where the independent reader looks; how many objects there are.
#[track_caller]
pub(super) fn copy_lake(folder: &Folder) -> Option<usize> {
    let endpoint = fs::read_to_string(folder.path(ENDPOINT)).ok()?;
    let python = std::env::var("TARN_PYTHON").expect("TARN_PYTHON: start these tests with tests/servers/run");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/servers/s3_copy.py");
    let output = Command::new(python)
        .arg(script)
        .args([&endpoint, "lake", PREFIX])
        .arg(folder.path("lake"))
        .output()
        .expect("start the copy");
    assert!(output.status.success(), "the copy of the bucket: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number of objects"))
}

#[track_caller]
fn never_told_its_secret(folder: &Folder) {
    assert!(!folder.said().contains(SECRET), "the secret was printed");
    for arguments in [&["check"][..], &["check", "--output", "json"]] {
        let ended = folder.tarn(arguments);
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        assert!(!ended.printed.contains(SECRET) && !ended.said.contains(SECRET), "{}", ended.printed);
    }
}

#[test]
fn a_lake_on_s3_is_exactly_once_over_kills() {
    let server = Server::start();
    let folder = server.folder(&server.address);
    let mut pushed = 0;
    for round in 0..6 {
        let mut running = folder.start();
        let client = running.ready();
        visible(&client, pushed);
        for _ in 0..10 + round * 3 {
            assert_eq!(push(&client, &events(pushed, 40)), 200);
            pushed += 40;
        }
        if round % 2 == 0 {
            committed(&client);
            assert_eq!(push(&client, &events(pushed, 40)), 200);
            pushed += 40;
        }
        running.kill();
    }
    // Large enough to be uploaded in parts.
    folder.put("in/large.ndjson", noise(60_000));
    folder.drained();
    pushed += 60_000;
    exactly_once(&folder, "events", pushed, 0);
    let optimized = folder.tarn(&["table", "optimize", "events"]);
    assert_eq!(optimized.code, Some(0), "{}", optimized.said);
    let vacuumed = folder.tarn(&["table", "vacuum", "events", "--retention", "0s"]);
    assert_eq!(vacuumed.code, Some(0), "{}", vacuumed.said);
    assert!(vacuumed.printed.contains("deleted"), "{}", vacuumed.printed);
    exactly_once(&folder, "events", pushed, 0);
    never_told_its_secret(&folder);
    folder.never_panicked();
}

/// Records that do not compress.
fn noise(n: i64) -> String {
    let mut state = 42_u64;
    let mut line = |id: i64| {
        let mut text = String::new();
        for _ in 0..20 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            text += &format!("{:016x}", state ^ (state >> 29));
        }
        format!("{{\"id\":{id},\"text\":\"{text}\"}}\n")
    };
    (0..n).map(&mut line).collect()
}

#[test]
fn a_store_that_ignores_conditions_is_refused() {
    let server = Server::start();
    let proxy = Proxy::start(&server.address, |_| Fate::Unconditional);
    let folder = server.folder(&proxy.address);
    let ended = folder.drain();
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(ended.said.contains("does not honour a conditional put"), "{}", ended.said);
    assert!(ended.said.contains("hint: "), "{}", ended.said);
    assert_eq!(copy_lake(&folder), Some(0), "nothing was left behind");
    proxy.decide(|_| Fate::Pass);
    folder.put("in/a.ndjson", events(0, 10));
    folder.drained();
    exactly_once(&folder, "events", 10, 0);
}

/// Refusals without a commit, commits without an answer, in turn.
#[test]
fn conflicts_and_lost_answers_of_s3_double_nothing() {
    let server = Server::start();
    let used: Arc<Mutex<BTreeMap<&str, usize>>> = Arc::default();
    let fates = [
        ("409 without a commit", Fate::Refused(409, "ConditionalRequestConflict")),
        ("500 after the commit, so that the retry gets 412", Fate::DoneButFailed),
        ("broken off after the commit", Fate::DoneButSilent),
        ("503 without a commit", Fate::Refused(503, "SlowDown")),
        ("a good day", Fate::Pass),
    ];
    let (mut commits, mut files, count) = (0, 0, used.clone());
    let proxy = Proxy::start(&server.address, move |request: &Request| {
        let is_commit = request.is_conditional() && request.path.contains("_delta_log");
        if is_commit {
            commits += 1;
            let (name, fate) = fates[commits % fates.len()];
            *count.lock().entry(name).or_default() += 1;
            return fate;
        }
        files += usize::from(request.method == "PUT");
        if request.method == "PUT" && files.is_multiple_of(7) { Fate::DoneButSilent } else { Fate::Pass }
    });
    let folder = server.folder(&proxy.address);
    let mut running = folder.start();
    let client = running.ready();
    let mut pushed = 0;
    wait_for("each fate to be met a few times", seconds(120), || {
        assert!(running.runs(), "{}", running.said());
        assert_eq!(push(&client, &events(pushed, 25)), 200);
        pushed += 25;
        visible(&client, pushed);
        committed(&client);
        let used = used.lock();
        (used.len() == fates.len() && used.values().all(|times| *times > 3)).then_some(())
    });
    assert_eq!(running.stop().code, Some(0));
    proxy.decide(|_| Fate::Pass);
    folder.drained();
    exactly_once(&folder, "events", pushed, 0);
    never_told_its_secret(&folder);
    folder.never_panicked();
}

#[test]
fn s3_that_takes_nothing_is_waited_out() {
    let server = Server::start();
    let proxy = Proxy::start(&server.address, |_| Fate::Pass);
    let folder = server.folder(&proxy.address);
    let refuse = || {
        proxy.decide(
            |request| {
                if request.method == "PUT" { Fate::Refused(503, "SlowDown") } else { Fate::Pass }
            },
        );
    };
    while_the_lake_refuses(&folder, refuse, || proxy.decide(|_| Fate::Pass));
}

#[test]
fn a_table_that_s3_does_not_let_be_made_is_made_later() {
    let server = Server::start();
    let proxy = Proxy::start(&server.address, |request: &Request| {
        let makes = request.is_conditional() && request.path.contains("_delta_log");
        if makes { Fate::Refused(503, "SlowDown") } else { Fate::Pass }
    });
    let folder = server.folder(&proxy.address);
    let mut running = folder.start();
    let client = wait_for("its address", seconds(60), || running.address());
    wait_for("the table to say that it waits", seconds(60), || {
        let table = table_status(&client)?;
        (table["state"] == "waiting" && table["last_error"]["message"].is_string()).then_some(())
    });
    assert_eq!(push(&client, &events(0, 50)), 200, "the log takes records meanwhile");
    proxy.decide(|_| Fate::Pass);
    running.ready();
    visible(&client, 50);
    assert_eq!(running.stop().code, Some(0));
    folder.drained();
    exactly_once(&folder, "events", 50, 0);
}

#[test]
fn what_is_wrong_with_s3_is_said_and_credentials_come_from_the_environment() {
    let server = Server::start();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let note = seen.clone();
    let proxy = Proxy::start(&server.address, move |request: &Request| {
        note.lock().push(request.header("authorization").unwrap_or_default().to_owned());
        Fate::Pass
    });
    let folder = server.folder(&proxy.address);
    let right = CONFIG.replace("ENDPOINT", &proxy.address);
    for (what, config, word) in [
        ("no such bucket", right.replace("s3://lake/", "s3://other/"), "there is no bucket"),
        ("no TLS", right.replace("allow_http = \"true\"", ""), "allow_http"),
        ("nobody listens", right.replace(&proxy.address, "127.0.0.1:1"), "endpoint"),
        ("a typo", right.replace("region =", "regoin ="), "regoin"),
    ] {
        folder.configure(&config);
        let ended = folder.drain();
        assert_eq!(ended.code, Some(1), "{what}: {}", ended.said);
        assert!(ended.said.contains(word) && ended.said.contains("hint: "), "{what}: {}", ended.said);
    }
    folder.configure(&right);
    proxy.decide(|_| Fate::Refused(403, "InvalidAccessKeyId"));
    let ended = folder.drain();
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(ended.said.contains("AWS_ACCESS_KEY_ID"), "{}", ended.said);
    proxy.decide(|_| Fate::Refused(501, "NotImplemented"));
    let ended = folder.drain();
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(ended.said.contains("does not honour a conditional put"), "{}", ended.said);
    assert!(
        seen.lock().iter().any(|value| value.contains("Credential=from-the-config/")),
        "signed with the config's key"
    );

    let note = seen.clone();
    proxy.decide(move |request: &Request| {
        note.lock().push(request.header("authorization").unwrap_or_default().to_owned());
        Fate::Pass
    });
    let without: Vec<&str> = right.lines().filter(|line| !line.contains("access_key")).collect();
    folder.configure(&without.join("\n"));
    let folder = folder
        .with_env("AWS_ACCESS_KEY_ID", "from-the-environment")
        .with_env("AWS_SECRET_ACCESS_KEY", SECRET);
    folder.put("in/a.ndjson", events(0, 10));
    folder.drained();
    exactly_once(&folder, "events", 10, 0);
    assert!(seen.lock().iter().any(|value| value.contains("Credential=from-the-environment/")));
    never_told_its_secret(&folder);
}
