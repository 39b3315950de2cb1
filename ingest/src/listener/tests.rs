use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::sync::{mpsc, watch};

use super::{Shared, datagrams};
use crate::fixture::Fixture;
use crate::framer::Framing;
use crate::lines::Limits;
use crate::monitor::Monitor;
use crate::{Collectors, RunMode};

fn syslog() -> String {
    "[[source]]\nname = \"s\"\ntopic = \"t\"\ntype = \"syslog\"\ntcp = \"127.0.0.1:0\"\nudp = \"127.0.0.1:0\"\n".into()
}

fn netcat(more: &str) -> String {
    format!("[[source]]\nname = \"n\"\ntopic = \"t\"\ntype = \"netcat\"\ntcp = \"127.0.0.1:0\"\n{more}")
}

/// The address of a door, once it is open.
fn address(fixture: &Fixture, collectors: &Collectors, door: &str) -> String {
    let mut found = None;
    fixture.wait_for("an open door", || {
        let status = collectors.status();
        let addresses = status[0].addresses.iter().find_map(|address| address.strip_prefix(door));
        found = addresses.map(|address| address.trim().to_owned());
        found.is_some()
    });
    found.unwrap()
}

fn send(address: &str, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

fn values(fixture: &Fixture) -> Vec<Value> {
    fixture.records("t").iter().map(|record| serde_json::from_slice(&record.value).unwrap()).collect()
}

#[test]
fn syslog_comes_over_tcp_counted_or_by_lines_and_over_udp() {
    let fixture = Fixture::new();
    let collectors = fixture.start(&syslog(), RunMode::Continuous);
    let (tcp, udp) = (address(&fixture, &collectors, "tcp"), address(&fixture, &collectors, "udp"));
    let counted = "<34>1 2026-11-22T10:00:00Z h app - - - two\nlines";
    let _open =
        send(&tcp, format!("<13>Nov 22 10:00:00 h app[7]: one\n{} {counted}", counted.len()).as_bytes());
    fixture.wait_for_count("t", 2);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"<191>Nov 22 10:00:00 h app: three\n", &udp).unwrap();
    fixture.wait_for_count("t", 3);
    let messages: Vec<Value> = values(&fixture).iter().map(|value| value["message"].clone()).collect();
    assert_eq!(messages, [json!("one"), json!("two\nlines"), json!("three")]);
    assert_eq!(values(&fixture)[2]["severity"], "debug");
    let records = fixture.records("t");
    assert_eq!(records[2].header("peer"), socket.local_addr().unwrap().to_string());
    socket.send_to(b"no syslog", &udp).unwrap();
    fixture.wait_for_count("t", 4);
    let last = fixture.records("t").pop().unwrap();
    assert_eq!(
        (last.text().as_str(), last.header("tarn.error")),
        ("no syslog", "the line begins neither with a priority `<n>` nor with a time")
    );
    fixture.stop(&collectors);
}

#[test]
fn a_connection_stays_open_both_ways_while_its_sender_keeps_it() {
    let fixture = Fixture::new();
    let collectors = fixture.start(&netcat(""), RunMode::Continuous);
    let mut stream = send(&address(&fixture, &collectors, "tcp"), b"one\n");
    fixture.wait_for_count("t", 1);
    stream.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
    let error = stream.read(&mut [0; 1]).expect_err("the other half was shut: rsyslog would send again");
    assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{error}");
    stream.write_all(b"two\n").unwrap();
    fixture.wait_for_count("t", 2);
    fixture.stop(&collectors);
}

#[test]
fn what_was_received_before_a_stop_is_committed() {
    let fixture = Fixture::new();
    let collectors = fixture.start(&netcat(""), RunMode::Continuous);
    let tcp = address(&fixture, &collectors, "tcp");
    let lines: String = (0..5000).map(|n| format!("line {n}\n")).collect();
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(send(&tcp, lines.as_bytes()));
    }
    fixture.wait_for_count("t", 1);
    fixture.wait_for("everything to be read", || {
        collectors.status()[0].bytes == 4 * (lines.len() as u64 - 5000)
    });
    fixture.stop(&collectors);
    assert_eq!(fixture.count("t"), 20_000);
    // Each connection's lines are in order.
    let mut next = std::collections::HashMap::<String, usize>::new();
    for record in fixture.records("t") {
        let next = next.entry(record.header("peer").to_owned()).or_default();
        assert_eq!(record.text(), format!("line {next}"));
        *next += 1;
    }
    assert!(next.len() == 4 && next.values().all(|count| *count == 5000), "{next:?}");
    assert!(TcpStream::connect(&tcp).is_err(), "the door is closed");
}

#[test]
fn of_a_peer_that_is_lost_what_it_had_said_counts_and_the_piece_is_a_dead_letter() {
    let fixture = Fixture::new();
    let collectors = fixture.start(&netcat(""), RunMode::Continuous);
    let stream = send(&address(&fixture, &collectors, "tcp"), b"one\ntwo\nthr");
    fixture.wait_for_count("t", 2);
    // It goes with a reset, as a machine does that has lost its memory.
    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(stream);
    fixture.wait_for_count("t", 3);
    fixture.stop(&collectors);
    assert_eq!(fixture.texts("t"), ["one", "two", "thr"]);
    let records = fixture.records("t");
    assert!(records[1].header("tarn.error").is_empty());
    assert_eq!(records[2].header("tarn.error"), "the stream broke off within this message");
}

/// What comes without end, in few records: each has eight thousand bytes.
fn never_ending(letter: char) -> String {
    String::from(letter).repeat(8000)
}

/// Sends without a pause until the other side has closed; how many bytes went out.
fn send_without_end(mut stream: TcpStream) -> usize {
    let lines = format!("{}\n", never_ending('l')).repeat(10);
    let mut sent = 0;
    while let Ok(count) = stream.write(lines.as_bytes()) {
        sent += count;
        // Faster than it is read, and no more than that.
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    sent
}

#[test]
fn a_sender_that_never_stops_keeps_neither_a_pause_nor_a_stop_waiting() {
    let fixture = Fixture::new();
    let collectors = fixture.start(&netcat("udp = \"127.0.0.1:0\"\n"), RunMode::Continuous);
    let begin = |n: usize| {
        let stream = TcpStream::connect(address(&fixture, &collectors, "tcp")).unwrap();
        let sender = std::thread::spawn(move || send_without_end(stream));
        fixture.wait_for("its first lines", || fixture.count("t") > n);
        sender
    };
    let udp = address(&fixture, &collectors, "udp");
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let datagrams = std::thread::spawn({
        let over = over.clone();
        move || {
            let (socket, datagram) = (UdpSocket::bind("127.0.0.1:0").unwrap(), never_ending('d'));
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = socket.send_to(datagram.as_bytes(), &udp);
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        }
    });
    let sender = begin(0);
    assert!(fixture.runtime.block_on(collectors.pause("n")).unwrap(), "it comes to rest");
    sender.join().unwrap();
    let committed = fixture.count("t");
    fixture.runtime.block_on(collectors.resume("n")).unwrap();
    let sender = begin(committed);
    fixture.stop(&collectors);
    sender.join().unwrap();
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    datagrams.join().unwrap();
    let whole = ['l', 'd'].map(never_ending);
    let texts = fixture.texts("t");
    let cut = texts.iter().filter(|text| !whole.contains(text)).count();
    assert!(cut <= 2 && texts.len() > committed, "{cut} lines were cut: at most the last of each connection");
}

#[test]
fn a_sender_that_asks_for_it_is_told_of_every_line_that_is_in_the_log() {
    let fixture = Fixture::new();
    let collectors = fixture.start(&netcat("acknowledge = true\n"), RunMode::Continuous);
    let mut stream = send(&address(&fixture, &collectors, "tcp"), b"one\ntwo\nthree");
    let mut told = [0; 6];
    stream.read_exact(&mut told).unwrap();
    assert_eq!(&told, b"OK\nOK\n");
    assert!(fixture.count("t") >= 2, "told before it was committed");
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), fixture.count("t")), ("OK\n", 3), "a last line without a break counts");
    fixture.stop(&collectors);
}

#[test]
fn lines_of_one_connection_are_joined_and_complete_when_their_time_is_over() {
    let fixture = Fixture::new();
    let config = netcat("[source.multiline]\nstart = '^\\S'\ntimeout = \"50ms\"\n");
    let collectors = fixture.start(&config, RunMode::Continuous);
    let tcp = address(&fixture, &collectors, "tcp");
    let mut one = send(&tcp, b"E one\n  at a\n");
    let mut two = send(&tcp, b"E two\n");
    fixture.wait_for_count("t", 2);
    one.write_all(b"E three\n  at c\n").unwrap();
    two.write_all(b"E four\n").unwrap();
    drop((one, two));
    fixture.wait_for_count("t", 4);
    let mut texts = fixture.texts("t");
    texts.sort();
    assert_eq!(texts, ["E four", "E one\n  at a", "E three\n  at c", "E two"]);
    fixture.stop(&collectors);
}

#[test]
fn connections_beyond_the_limit_wait_for_their_turn() {
    let fixture = Fixture::new();
    let collectors = fixture.start(&netcat("max_connections = 1\n"), RunMode::Continuous);
    let tcp = address(&fixture, &collectors, "tcp");
    let first = send(&tcp, b"one\n");
    fixture.wait_for_count("t", 1);
    let second = send(&tcp, b"two\n");
    drop(first);
    fixture.wait_for_count("t", 2);
    drop(second);
    fixture.stop(&collectors);
    assert_eq!(fixture.texts("t"), ["one", "two"]);
}

#[test]
fn a_taken_address_is_waited_for() {
    let fixture = Fixture::new();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let collectors = fixture.start(&netcat("").replace("127.0.0.1:0", &taken), RunMode::Continuous);
    fixture.wait_for("the source to wait", || collectors.status()[0].state == "waiting");
    let error = collectors.status()[0].last_error.clone().unwrap().message;
    assert!(error.contains("cannot listen on") && error.contains("another program"), "{error}");
    drop(other);
    assert_eq!(address(&fixture, &collectors, "tcp"), taken);
    fixture.stop(&collectors);
}

#[test]
fn datagrams_that_the_kernel_had_no_room_for_are_counted_and_told() {
    const SENT: usize = 20_000;
    let fixture = Fixture::new();
    let monitor = Monitor::new("s", "syslog", "t", fixture.clock.clone());
    let (arrivals, mut arrived) = mpsc::channel(1);
    let (_open, closing) = watch::channel(false);
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let shared = Shared {
        source: "s".into(),
        monitor: monitor.clone(),
        arrivals,
        closing,
        framing: Framing::Syslog,
        limits: Limits::of_topic(1 << 20),
        acknowledge: false,
    };
    let lost = || {
        let told = monitor.status().last_error?.message;
        told.split_once(" datagrams were lost")?.0.parse::<usize>().ok()
    };
    fixture.runtime.block_on(async {
        let socket = tokio::net::UdpSocket::from_std(socket.into()).unwrap();
        let address = socket.local_addr().unwrap();
        let task = tokio::spawn(datagrams(socket, shared));
        // Nobody takes what arrives, as when the log cannot commit.
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for n in 0..SENT {
            sender.send_to(format!("<13>message {n}").as_bytes(), address).unwrap();
        }
        let mut received = 0;
        let all = async {
            while received + lost().unwrap_or(0) < SENT {
                let next = tokio::time::timeout(std::time::Duration::from_millis(50), arrived.recv()).await;
                received += next.map_or(0, |arrival| arrival.map_or(0, |arrival| arrival.messages.len()));
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), all)
            .await
            .expect("each is received or counted");
        assert_eq!(received + lost().unwrap(), SENT);
        assert!(lost().unwrap() > 0 && received > 0, "{received} were received");
        task.abort();
    });
}

#[test]
fn a_rate_limit_has_tcp_senders_wait_and_loses_nothing() {
    let fixture = Fixture::new();
    let config = netcat("acknowledge = true\n[source.rate_limit]\nrecords_per_second = 200\n");
    let collectors = fixture.start(&config, RunMode::Continuous);
    let (tcp, since) = (address(&fixture, &collectors, "tcp"), std::time::Instant::now());
    let lines: String = (0..600).map(|n| format!("line {n}\n")).collect();
    // What one read gave is taken whole, told, and owed.
    for (lines, count) in [(lines.as_str(), 600), ("another\n", 1)] {
        let mut stream = send(&tcp, lines.as_bytes());
        stream.shutdown(Shutdown::Write).unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).unwrap();
        assert_eq!(told, "OK\n".repeat(count));
    }
    let elapsed = since.elapsed();
    assert!(elapsed >= std::time::Duration::from_millis(1900), "600 records at 200 a second: {elapsed:?}");
    assert_eq!(fixture.count("t"), 601);
    fixture.stop(&collectors);
}
