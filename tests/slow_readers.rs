//! Readers that take a byte a second, cursors that nobody reads, questions that are too large: ingestion goes on, and memory
//! stays within what docs/sql.md states.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::json;

use crate::harness::{
    Client, Folder, Postgres, Running, committed, count, error_of, events, push, seconds, visible, wait_for,
};

const READERS: usize = 100;
const MIB: u64 = 1 << 20;
/// What docs/sql.md states: a process takes this much by itself, and this much for each open answer of narrow rows.
const PROCESS_MIB: u64 = 192;
const PER_READER_MIB: u64 = 1;
/// As the config below says.
const STATEMENT_MIB: u64 = 16;
const SQL_MIB: u64 = 64;
const TAIL_MIB: u64 = 16;
const VIEW_MIB: u64 = 16;

fn config() -> String {
    format!(
        r#"
data_dir = "data"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"
postgres = "127.0.0.1:0"
statement_memory = "{STATEMENT_MIB}MiB"
sql_memory = "{SQL_MIB}MiB"
tail_memory = "{TAIL_MIB}MiB"
view_memory = "{VIEW_MIB}MiB"

[[topic]]
name = "events"
partitions = 2

[[source]]
name = "push"
type = "http"
topic = "events"
key = "id"

[[table]]
name = "events"
columns = "id BIGINT NOT NULL, text VARCHAR"
commit_every = "500ms"

[[view]]
name = "totals"
query = "SELECT id % 10 AS digit, count(*) AS n, max(text) AS text FROM events GROUP BY 1"

[[dashboard]]
name = "d"

[[dashboard.panel]]
title = "Totals"
chart = "table"
query = "SELECT digit, n, text, repeat('x', 4000) AS wide FROM totals ORDER BY 1"
"#
    )
}

/// A connection whose buffer in the kernel is small, so that who does not read is noticed soon.
fn narrow(address: &str) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4 << 10).expect("a small buffer");
        socket.connect(address.parse().expect("an address")).await.expect("a connection").into_std()
    });
    let stream = stream.expect("a socket of the kernel");
    stream.set_nonblocking(false).expect("set");
    stream
}

fn asks(address: &str, request: &str) -> TcpStream {
    let mut stream = narrow(address);
    stream.write_all(request.as_bytes()).expect("sent");
    stream
}

/// A byte of each, for those that have one.
fn read_a_byte(readers: &mut [TcpStream]) -> usize {
    let mut byte = [0];
    let mut read = 0;
    for reader in readers {
        reader.set_nonblocking(true).expect("set");
        read += reader.read(&mut byte).unwrap_or(0);
    }
    read
}

/// Memory that is the process's own: what it has mapped of files can be taken from it at any time.
fn own_memory_bytes(running: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.id())).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn three_hundred_slow_readers_and_a_hundred_cursors_hold_up_nobody() {
    let folder = Folder::new(&config());
    let mut running = folder.start();
    let client = running.ready();
    let postgres = wait_for("the address", seconds(60), || running.postgres());
    let http = client.address().to_owned();
    assert_eq!(push(&client, &events(0, 2_000)), 200);
    visible(&client, 2_000);
    committed(&client);
    let at_rest = own_memory_bytes(&running);

    let endless = "SELECT value, value % 7 AS seven FROM generate_series(1, 1000000000)";
    let mut readers: Vec<TcpStream> = Vec::new();
    for _ in 0..READERS {
        let head = format!(
            "Host: {http}\r\nAccept: application/x-ndjson\r\nContent-Length: {}\r\n\r\n",
            endless.len()
        );
        readers.push(asks(&http, &format!("POST /v1/sql HTTP/1.1\r\n{head}{endless}")));
        let mut session = Postgres::over(narrow(&postgres)).expect("a session");
        session.send(b'Q', &[endless.as_bytes(), b"\0"].concat()).expect("sent");
        readers.push(session.stream);
        readers.push(asks(&http, &format!("GET /v1/dashboards/d/stream HTTP/1.1\r\nHost: {http}\r\n\r\n")));
    }
    let mut cursors = Postgres::connect(&postgres).expect("a session");
    cursors.query("BEGIN").expect("an answer");
    for at in 0..100 {
        let declared = format!("DECLARE c{at} CURSOR FOR SELECT id, text FROM events");
        let said = cursors.query(&declared).expect("an answer");
        assert!(error_of(&said).is_none(), "{:?}", error_of(&said));
        let said = cursors.query(&format!("FETCH 1 FROM c{at}")).expect("an answer");
        assert_eq!(
            said.iter().filter(|(kind, _)| *kind == b'D').count(),
            1,
            "cursor {at}: {:?}",
            error_of(&said)
        );
    }

    // A byte a second, while records come in, are counted, and reach the lake.
    let (mut rows, mut most) = (2_000, at_rest);
    let mut read = 0;
    for second in 0..6 {
        let began = Instant::now();
        read += read_a_byte(&mut readers);
        assert_eq!(push(&client, &events(rows, 500)), 200);
        rows += 500;
        visible(&client, rows);
        if second % 3 == 0 {
            too_large(&client, &postgres);
        }
        most = most.max(own_memory_bytes(&running));
        std::thread::sleep(seconds(1).saturating_sub(began.elapsed()));
    }
    assert!(read > 4 * readers.len(), "the readers were answered: {read} bytes");
    committed(&client);
    println!(
        "{} slow readers and 100 cursors: {} MiB, {} MiB before",
        readers.len(),
        most / MIB,
        at_rest / MIB
    );
    let open = (readers.len() + 100) as u64;
    let stated = (PROCESS_MIB + SQL_MIB + TAIL_MIB + VIEW_MIB + PER_READER_MIB * open) * MIB;
    assert!(most <= stated, "{} MiB are more than the {} MiB that are stated", most / MIB, stated / MIB);

    drop((readers, cursors));
    wait_for("their statements to end", seconds(60), || {
        let metrics = client.get("/metrics").ok()?.text();
        let running = metrics.lines().find_map(|line| line.strip_prefix("tarn_statements_running "))?;
        (running == "0").then_some(())
    });
    assert_eq!(count(&client, "events"), Some(rows));
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

/// Questions of ten times the memory that a statement may have: refused, with the limit to raise.
fn too_large(client: &Client, postgres: &str) {
    // Sorted numbers of 16 bytes each.
    let rows = 10 * STATEMENT_MIB * MIB / 16;
    let sql = format!("SELECT value FROM generate_series(1, {rows}) ORDER BY value % 1000, value");
    let told = json!("the statement needs more memory than it may have");
    let answer = client.try_sql(&sql).expect("an answer");
    assert_eq!(answer.json()["error"]["message"], told, "{}", answer.text());
    let hint = answer.json()["error"]["hint"].clone();
    assert!(hint.as_str().is_some_and(|hint| hint.contains("serving.statement_memory")), "{hint}");
    let error = Postgres::connect(postgres).expect("a session").error(&sql).expect("an answer");
    let error = error.expect("an error");
    assert_eq!((json!(error[&'M']), error[&'C'].as_str()), (told, "53200"));
}
