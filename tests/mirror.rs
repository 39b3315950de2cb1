//! A `kafka` source against another process's log: what is there is here, each record once, whoever is killed.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::{Folder, Kafka, Keyed, Running, batch, count, keyed_batch, seconds, verified, wait_for};
use crate::transactions::{Account, CONFIG as THERE, connect};

/// Leads connections to wherever the other cluster listens now: a process that is started again has another port.
struct Lead {
    address: SocketAddr,
    to: Arc<Mutex<Option<String>>>,
}

impl Lead {
    fn new() -> Lead {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let to = Arc::new(Mutex::new(None::<String>));
        let whither = Arc::clone(&to);
        std::thread::spawn(move || {
            for here in listener.incoming().flatten() {
                let there = whither.lock().expect("not poisoned").clone();
                // Whoever comes while nobody is there is turned away.
                let Some(there) = there.and_then(|there| TcpStream::connect(there).ok()) else { continue };
                for (mut from, mut to) in [
                    (here.try_clone().expect("a socket"), there.try_clone().expect("a socket")),
                    (there, here),
                ] {
                    std::thread::spawn(move || {
                        let mut block = [0; 4096];
                        while let Ok(read @ 1..) = from.read(&mut block) {
                            if to.write_all(&block[..read]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        Lead { address, to }
    }

    fn to(&self, running: &mut Running) -> Kafka {
        let kafka = connect(running);
        *self.to.lock().expect("not poisoned") = running.kafka();
        kafka
    }

    /// The config of a mirror.
    fn here(&self) -> String {
        format!(
            r#"
data_dir = "data"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "events"
partitions = 2

[[source]]
name = "mirror"
type = "kafka"
brokers = "{}"
topics = "ev*"
topic = "{{topic}}"
look_every = "200ms"

[[table]]
name = "events"
columns = "n BIGINT NOT NULL, part INT"
commit_every = "100ms"
"#,
            self.address
        )
    }
}

/// Every record, partition by partition, in order.
fn records(folder: &Folder) -> Vec<Value> {
    folder.sql("SELECT _partition AS p, n, part, _timestamp AS at FROM events ORDER BY _partition, _offset")
}

fn state(client: &crate::harness::Client, source: &str) -> Option<Value> {
    let status = client.get("/v1/status").ok()?.json();
    status["sources"].as_array()?.iter().find(|found| found["name"] == source).cloned()
}

#[test]
fn a_mirror_has_each_committed_record_once_whichever_side_is_killed() {
    let (there, lead) = (Folder::new(THERE), Lead::new());
    let here = Folder::new(&lead.here());
    let mut other = there.start();
    let mut kafka = lead.to(&mut other);
    let mut account = Account::new();
    let points = [
        "log.append.before",
        "log.append.after",
        "log.sync.after",
        "log.commit.before",
        "log.commit.after",
        "lake.commit.after",
    ];
    for (round, point) in points.iter().enumerate() {
        let mut mirror = here.start_with(&format!("{point}={}*off->1*return(kill)", 2 + round), &[]);
        wait_for(&format!("the mirror to be killed at {point}"), seconds(120), || {
            account.transact(&mut kafka).expect("the other side runs").expect("no error");
            (!mirror.runs()).then_some(())
        });
        assert_eq!(mirror.end(seconds(10)).signal, Some(9), "{point}");
    }
    let mirror = here.start();
    for _ in 0..3 {
        for _ in 0..10 {
            account.transact(&mut kafka).expect("the other side runs").expect("no error");
        }
        // In the middle of a transaction, which nobody will end.
        let by = kafka.begin_producer("other").expect("a connection").expect("begun");
        kafka.enlist("other", by, "events", &[0], "g").expect("a connection").expect("enlisted");
        let open = batch(Some(by), 0, &["{\"n\": -1, \"part\": 0}".to_owned()]);
        kafka.produce_for(Some("other"), "events", 0, open).expect("a connection").expect("written");
        other.kill();
        other = there.start();
        kafka = lead.to(&mut other);
        account.settle(&mut other);
        kafka.begin_producer("other").expect("a connection").expect("the open one is aborted");
    }
    mirror.kill();
    here.drained();
    assert_eq!(other.stop().code, Some(0));
    account.proven(&there);
    let (want, found) = (records(&there), records(&here));
    assert!(want.len() > 50, "there is something to compare");
    assert_eq!(found, want);
    verified(&here);
    here.never_panicked();
}

#[test]
fn a_cluster_that_is_away_is_waited_for_and_read_on() {
    let (there, lead) = (Folder::new(THERE), Lead::new());
    let here = Folder::new(&lead.here());
    let mut mirror = here.start();
    let client = mirror.ready();
    wait_for("the mirror to wait", seconds(60), || {
        let source = state(&client, "mirror")?;
        (source["state"] == "waiting" && source["last_error"]["message"].is_string()).then_some(())
    });
    let mut other = there.start();
    let mut kafka = lead.to(&mut other);
    let mut account = Account::new();
    for _ in 0..8 {
        account.transact(&mut kafka).expect("a connection").expect("no error");
    }
    wait_for("what it has", seconds(60), || (count(&client, "events")? == 14).then_some(()));
    other.kill();
    wait_for("the mirror to wait again", seconds(60), || {
        (state(&client, "mirror")?["state"] == "waiting").then_some(())
    });
    let mut other = there.start();
    let mut kafka = lead.to(&mut other);
    account.settle(&mut other);
    for _ in 0..2 {
        account.transact(&mut kafka).expect("a connection").expect("no error");
    }
    // Of the ten, two were aborted.
    wait_for("the rest", seconds(60), || (count(&client, "events")? == 16).then_some(()));
    assert_eq!(client.sql("SELECT count(DISTINCT n * 2 + part) AS n FROM events"), [json!({"n": 16})]);
    wait_for("its error to be over", seconds(60), || {
        state(&client, "mirror")?["last_error"].is_null().then_some(())
    });
    assert_eq!(mirror.stop().code, Some(0));
}

#[test]
fn the_example_mirrors_topics_that_tables_are_made_of() {
    let (there, lead) = (Folder::new(THERE), Lead::new());
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/mirror.toml");
    let example = std::fs::read_to_string(path).expect("read the example");
    let example = example
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:9092", &lead.address.to_string())
        .replace("data-mirror", "data");
    let here = Folder::new(&example);
    let mut other = there.start();
    let mut kafka = lead.to(&mut other);
    assert_eq!(kafka.create_topic("shop.orders"), Some(0));
    let by = kafka.idempotent_producer().expect("a producer");
    let orders = [
        Keyed {
            key: Some(b"one"),
            value: Some(b"{\"id\": 1, \"name\": \"Oslo\"}"),
            headers: &[("by", b"a")],
        },
        Keyed { key: Some(b"two"), value: Some(b"{\"id\": 2, \"name\": \"Lima\"}"), headers: &[] },
    ];
    kafka.produce("shop.orders", 0, keyed_batch(by, 0, &orders)).expect("a connection").expect("written");
    here.drained();
    assert_eq!(
        here.sql("SELECT id, name, key FROM shop_orders ORDER BY id"),
        [json!({"id": 1, "name": "Oslo", "key": "one"}), json!({"id": 2, "name": "Lima", "key": "two"})]
    );
    assert_eq!(other.stop().code, Some(0));
}
