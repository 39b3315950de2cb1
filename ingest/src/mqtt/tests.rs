use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use tarn_log::Log;

use crate::RunMode;
use crate::fixture::Fixture;

const CONFIG: &str = r#"
[[source]]
name = "sensors"
type = "mqtt"
broker = "ADDRESS"
subscribe = ["a/+", "b/#"]
qos = 2
topic = "readings"
format = "lines"
"#;

/// A broker that does what a test says, on one connection after another.
struct Broker {
    listener: TcpListener,
}

/// One connection of its client.
struct Client(TcpStream);

impl Broker {
    fn new() -> Broker {
        Broker { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    fn config(&self) -> String {
        CONFIG.replace("ADDRESS", &self.listener.local_addr().unwrap().to_string())
    }

    /// The next connection, whose session is known or not.
    fn accept(&self, session_present: bool) -> Client {
        let (stream, _) = self.listener.accept().unwrap();
        let mut client = Client(stream);
        let (kind, body) = client.packet();
        assert_eq!((kind, &body[..8]), (0x10, &b"\0\x04MQTT\x04\0"[..]), "a session that is kept");
        assert!(body.ends_with(b"\0\x0ctarn-sensors"));
        client.send(&[0x20, 2, u8::from(session_present), 0]);
        client
    }
}

impl Client {
    fn packet(&mut self) -> (u8, Vec<u8>) {
        let mut byte = || {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            byte[0]
        };
        let kind = byte();
        let (mut length, mut shift) = (0, 0);
        loop {
            let part = byte();
            length |= usize::from(part & 0x7f) << shift;
            shift += 7;
            if part & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (kind, body)
    }

    /// The next packet must be this one, with this id.
    #[track_caller]
    fn expect(&mut self, kind: u8, id: u8) {
        let (is, body) = self.packet();
        assert_eq!((is, &body[..2]), (kind, &[0, id][..]));
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn subscribed(&mut self) {
        self.expect(0x82, 1);
        self.send(&[0x90, 4, 0, 1, 2, 2]);
    }

    fn publish(&mut self, flags: u8, id: u8, topic: &str, payload: &str) {
        let mut body = vec![0, u8::try_from(topic.len()).unwrap()];
        body.extend_from_slice(topic.as_bytes());
        if flags & 6 > 0 {
            body.extend([0, id]);
        }
        body.extend_from_slice(payload.as_bytes());
        self.send(&[0x30 | flags, u8::try_from(body.len()).unwrap()]);
        self.send(&body);
    }

    /// The client says good-bye, and nothing more.
    fn gone(mut self) {
        assert_eq!(self.packet(), (0xe0, vec![]));
        assert_eq!(self.0.read(&mut [0]).unwrap(), 0);
    }
}

const ONE: u8 = 2;
const TWO: u8 = 4;
const AGAIN: u8 = 8;
const ACKNOWLEDGED: u8 = 0x40;
const RECEIVED: u8 = 0x50;
const COMPLETED: u8 = 0x70;

fn release(id: u8) -> [u8; 4] {
    [0x62, 2, 0, id]
}

fn count(log: &Log) -> i64 {
    log.ends("readings").unwrap().next(0)
}

fn play(broker: Broker, script: impl FnOnce(&Broker) + Send + 'static) -> JoinHandle<Broker> {
    std::thread::spawn(move || {
        script(&broker);
        broker
    })
}

#[test]
fn a_message_is_acknowledged_once_it_is_in_the_log() {
    let fixture = Fixture::new();
    let broker = Broker::new();
    let config = broker.config();
    let log = fixture.log().clone();
    let (stop, stopped) = std::sync::mpsc::channel();
    let played = play(broker, move |broker| {
        let mut client = broker.accept(false);
        client.subscribed();
        for id in 1..=3 {
            client.publish(ONE, id, "a/1", "one");
            client.expect(ACKNOWLEDGED, id);
            assert_eq!(count(&log), i64::from(id), "it was acknowledged before it was committed");
        }
        client.publish(0, 0, "b/x/y", "none");
        client.publish(TWO, 9, "b", "two");
        client.expect(RECEIVED, 9);
        assert_eq!(count(&log), 5);
        client.send(&release(9));
        client.expect(COMPLETED, 9);
        stop.send(()).unwrap();
        client.gone();
    });
    let collectors = fixture.start(&config, RunMode::Continuous);
    stopped.recv().unwrap();
    fixture.stop(&collectors);
    played.join().unwrap();
    let records = fixture.records("readings");
    let told: Vec<_> =
        records.iter().map(|record| (record.text(), record.header("topic").to_owned())).collect();
    let told: Vec<_> = told.iter().map(|(text, topic)| (text.as_str(), topic.as_str())).collect();
    assert_eq!(told[2..], [("one", "a/1"), ("none", "b/x/y"), ("two", "b")]);
}

#[test]
fn of_quality_two_nothing_is_there_twice_whatever_answer_is_lost() {
    let mut fixture = Fixture::new();
    let mut broker = Broker::new();
    let config = broker.config();
    // The connection breaks before the id is released; then again before the release is answered; then Tarn starts anew.
    for restart in [false, true] {
        let log = fixture.log().clone();
        let before = count_or_none(&log);
        let (stop, stopped) = std::sync::mpsc::channel();
        let played = play(broker, move |broker| {
            let mut client = broker.accept(restart);
            if !restart {
                client.subscribed();
            }
            client.publish(TWO, 7, "a/1", "seven");
            client.expect(RECEIVED, 7);
            drop(client);
            let mut client = broker.accept(true);
            client.publish(TWO | AGAIN, 7, "a/1", "seven");
            client.publish(TWO, 8, "a/1", "eight");
            client.expect(RECEIVED, 7);
            client.expect(RECEIVED, 8);
            assert_eq!(count(&log), before + 2);
            client.send(&release(7));
            client.expect(COMPLETED, 7);
            client.send(&release(8));
            drop(client);
            let mut client = broker.accept(true);
            client.send(&release(8));
            client.expect(COMPLETED, 8);
            // The id is free: this is another message.
            client.publish(TWO, 7, "a/1", "seven");
            client.expect(RECEIVED, 7);
            assert_eq!(count(&log), before + 3);
            client.send(&release(7));
            client.expect(COMPLETED, 7);
            stop.send(()).unwrap();
            client.gone();
        });
        let collectors = fixture.start(&config, RunMode::Continuous);
        stopped.recv().unwrap();
        fixture.stop(&collectors);
        broker = played.join().unwrap();
        drop(collectors);
        fixture.reopen();
    }
    assert_eq!(fixture.texts("readings"), ["seven", "eight", "seven", "seven", "eight", "seven"]);
}

fn count_or_none(log: &Log) -> i64 {
    log.topic("readings").map_or(0, |_| count(log))
}

#[test]
fn subscriptions_are_made_once_and_when_they_change_or_the_broker_has_forgotten() {
    let mut fixture = Fixture::new();
    let mut broker = Broker::new();
    let config = broker.config();
    let other = config.replace("\"b/#\"", "\"c\"");
    type Script = fn(&mut Client);
    let starts: [(&str, bool, Script); 4] = [
        (&config, false, |client| {
            client.subscribed();
            client.publish(TWO, 5, "a/1", "0");
            client.expect(RECEIVED, 5);
        }),
        // Known, and nothing changed: what brokers retain does not come again.
        (&config, true, |client| client.publish(TWO | AGAIN, 5, "a/1", "0")),
        (&other, true, |client| {
            let (kind, body) = client.packet();
            assert_eq!((kind, body), (0xa2, b"\0\x02\0\x03b/#".to_vec()));
            client.send(&[0xb0, 2, 0, 2]);
            let (kind, body) = client.packet();
            assert_eq!((kind, body), (0x82, b"\0\x01\0\x01c\x02".to_vec()));
            // A message that comes before the answer is taken, too.
            client.publish(TWO, 6, "a/1", "1");
            client.send(&[0x90, 3, 0, 1, 2]);
            client.expect(RECEIVED, 6);
        }),
        // The broker lost the session: all is subscribed again, and its ids begin anew.
        (&other, false, |client| {
            client.subscribed();
            client.publish(TWO, 5, "a/1", "2");
        }),
    ];
    for (config, present, script) in starts {
        let (stop, stopped) = std::sync::mpsc::channel();
        let played = play(broker, move |broker| {
            let mut client = broker.accept(present);
            script(&mut client);
            client.publish(ONE, 1, "a/1", "end");
            loop {
                if client.packet().0 == ACKNOWLEDGED {
                    break;
                }
            }
            stop.send(()).unwrap();
            client.gone();
        });
        let collectors = fixture.start(config, RunMode::Continuous);
        stopped.recv().unwrap();
        fixture.stop(&collectors);
        broker = played.join().unwrap();
        drop(collectors);
        fixture.reopen();
    }
    assert_eq!(fixture.texts("readings"), ["0", "end", "end", "1", "end", "2", "end"]);
}

#[test]
fn a_broker_that_refuses_is_asked_again_and_the_reason_is_told() {
    let fixture = Fixture::new();
    let broker = Broker::new();
    let config = broker.config().replace("qos = 2", "qos = 2\nuser = \"me\"\npassword = \"wrong\"");
    let played = play(broker, |broker| {
        for code in [4, 0] {
            let (stream, _) = broker.listener.accept().unwrap();
            let mut client = Client(stream);
            let (kind, body) = client.packet();
            assert_eq!((kind, body[7]), (0x10, 0xc0));
            assert!(body.ends_with(b"\0\x02me\0\x05wrong"));
            client.send(&[0x20, 2, 0, code]);
            if code == 0 {
                client.subscribed();
                client.gone();
            }
        }
    });
    let collectors = fixture.start(&config, RunMode::Continuous);
    fixture.wait_for("the refusal", || {
        let error = collectors.status()[0].last_error.clone();
        error.is_some_and(|error| error.message.contains("user or password are wrong"))
    });
    fixture.wait_for("the second try", || collectors.status()[0].last_error.is_none());
    fixture.stop(&collectors);
    played.join().unwrap();
}

#[test]
fn a_rate_limit_has_the_broker_keep_its_messages_and_the_connection_stays() {
    let fixture = Fixture::new();
    let broker = Broker::new();
    let limit = "keep_alive = \"1s\"\n[source.rate_limit]\nbytes_per_second = \"1KiB\"\n";
    let config = format!("{}{limit}", broker.config());
    let (stop, stopped) = std::sync::mpsc::channel();
    let played = play(broker, move |broker| {
        let mut client = broker.accept(false);
        client.subscribed();
        // Eight seconds' worth, in one message.
        let payload = "x".repeat(8 << 10);
        let length = 2 + 3 + 2 + payload.len();
        client.send(&[0x32, u8::try_from(length & 0x7f | 0x80).unwrap(), u8::try_from(length >> 7).unwrap()]);
        client.send(b"\0\x03a/1\0\x01");
        client.send(payload.as_bytes());
        client.publish(ONE, 2, "a/1", "later");
        client.expect(ACKNOWLEDGED, 1);
        assert_eq!(
            client.packet(),
            (0xc0, vec![]),
            "it says that it is there, before the other is acknowledged"
        );
        stop.send(()).unwrap();
        // What came is not waited for at a stop.
        while client.packet() != (0xe0, vec![]) {}
    });
    let collectors = fixture.start(&config, RunMode::Continuous);
    stopped.recv().unwrap();
    fixture.wait_for("the source to be limited", || collectors.status()[0].state == "limited");
    fixture.stop(&collectors);
    played.join().unwrap();
}
