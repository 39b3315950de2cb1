//! Other programs that send: rsyslog, and Elasticsearch's own client.
//!
//! `tests/servers/run` brings them.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{Folder, count, exactly_once, seconds, wait_for};

const CONFIG: &str = r#"
data_dir = "data"
[lake]
url = "file:lake"
[serving]
http = "127.0.0.1:0"

[[source]]
name = "syslog"
type = "syslog"
tcp = "127.0.0.1:0"
topic = "syslog"
[[source]]
name = "push"
type = "http"
topic = "events"

[[table]]
name = "syslog"
columns = "priority INT, time TIMESTAMP, host VARCHAR, app VARCHAR, message VARCHAR"
unknown_fields = "drop"
commit_every = "300ms"
[[table]]
name = "events"
columns = "n BIGINT NOT NULL, text VARCHAR"
commit_every = "300ms"
"#;

#[test]
fn rsyslog_delivers_every_line_of_a_file_in_order() {
    const LINES: usize = 20_000;
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    let port = wait_for("the port", seconds(30), || {
        let status = client.get("/v1/status").ok()?.json();
        let address = status["sources"][0]["addresses"][0].as_str()?.to_owned();
        Some(address.rsplit(':').next()?.to_owned())
    });
    let lines: String = (0..LINES).map(|n| format!("number {n} with \"quotes\" and ä\n")).collect();
    folder.put("lines.log", lines);
    let dir = folder.path("").to_string_lossy().into_owned();
    folder.put(
        "rsyslog.conf",
        format!(
            "global(workDirectory=\"{dir}\")\nmodule(load=\"imfile\")\n\
             input(type=\"imfile\" File=\"{dir}/lines.log\" Tag=\"file:\" Facility=\"local5\" Severity=\"notice\")\n\
             action(type=\"omfwd\" target=\"127.0.0.1\" port=\"{port}\" protocol=\"tcp\" tcp_framing=\"octet-counted\" \
             template=\"RSYSLOG_SyslogProtocol23Format\")\n"
        ),
    );
    let (config, pid) = (folder.path("rsyslog.conf"), folder.path("rsyslog.pid"));
    let mut rsyslog = Command::new("rsyslogd")
        .args(["-n", "-f", &config.to_string_lossy(), "-i", &pid.to_string_lossy()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("rsyslogd");
    let rows = i64::try_from(LINES).expect("a number");
    let own = "SELECT count(*) AS n, count(DISTINCT message) AS d FROM syslog WHERE app = 'file' AND priority = 173";
    wait_for("every line", seconds(120), || (client.sql(own)[0]["n"].as_i64()? >= rows).then_some(()));
    let _ = rsyslog.kill();
    let _ = rsyslog.wait();
    assert_eq!(client.sql(own), [json!({"n": rows, "d": rows})]);
    let in_order = "SELECT count(*) AS n FROM (SELECT message, row_number() OVER (ORDER BY _offset) - 1 AS place \
        FROM syslog WHERE app = 'file') t WHERE message = 'number ' || place || ' with \"quotes\" and ä'";
    assert_eq!(client.sql(in_order), [json!({"n": rows})]);
    assert_eq!(running.stop().code, Some(0));
}

#[test]
fn elasticsearchs_client_is_told_the_truth_item_by_item() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    let python = std::env::var("TARN_PYTHON").expect("TARN_PYTHON: start these tests with tests/servers/run");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/servers/bulk_clients.py");
    let address = format!("http://{}/elastic", client.address());
    let ended = Command::new(python).arg(script).arg(address).output().expect("python");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&ended.stdout).trim(), "taken 10012");
    wait_for("what was taken", seconds(60), || (count(&client, "events")? == 10_012).then_some(()));
    assert_eq!(running.stop().code, Some(0));
    folder.drained();
    exactly_once(&folder, "events", 10_012, 0);
}
