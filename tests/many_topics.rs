//! One `[[table]]` of many topics, which Kafka's clients create and fill while the process is killed: exactly once per topic.
//!
//! A producer sends each batch with a sequence until it is acknowledged, so what it counts is what must be in the table.

use crate::harness::{
    Folder, Kafka, Keyed, Producer, Running, count, exactly_once, keyed_batch, seconds, wait_for,
};

const CONFIG: &str = r#"
data_dir = "data"

[log]
kafka = "127.0.0.1:0"
segment_size = "4KiB"
retention_size = "16KiB"
retention_every = "300ms"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"

[[table]]
name = "shop"
topics = "shop.*"
columns = "n BIGINT NOT NULL"
key_column = "id"
headers_column = "headers"
timestamp_column = "sent_at"
commit_every = "100ms"

[[view]]
name = "by_topic"
query = "SELECT _topic, count(*) AS n, sum(n) AS total FROM shop GROUP BY _topic"
"#;

const KILLS: usize = 4;
const BATCHES_BETWEEN_KILLS: usize = 12;

fn connect(running: &Running) -> Kafka {
    wait_for("a connection", seconds(60), || Kafka::connect(&running.kafka()?))
}

/// An idempotent producer of one topic.
struct Feeder {
    topic: String,
    by: Producer,
    sequence: i32,
    next: i64,
}

impl Feeder {
    /// A topic with its producer.
    fn create(kafka: &mut Kafka, topic: &str) -> Feeder {
        assert_eq!(kafka.create_topic(topic), Some(0), "the topic {topic} is made");
        let by = kafka.idempotent_producer().expect("a connection");
        Feeder { topic: topic.to_owned(), by, sequence: 0, next: 0 }
    }

    /// Sends one batch of three records; `None` when nobody answered: the same batch is sent again the next time.
    fn send(&mut self, kafka: &mut Kafka) -> Option<()> {
        let values: Vec<String> = (self.next..self.next + 3).map(|n| format!("{{\"n\": {n}}}")).collect();
        let keys: Vec<String> = (self.next..self.next + 3).map(|n| format!("key-{n}")).collect();
        let records: Vec<Keyed<'_>> = keys
            .iter()
            .zip(&values)
            .map(|(key, value)| Keyed {
                key: Some(key.as_bytes()),
                value: Some(value.as_bytes()),
                headers: &[("from", b"test")],
            })
            .collect();
        let batch = keyed_batch(self.by, self.sequence, &records);
        kafka.produce(&self.topic, 0, batch)?.expect("a batch that is in order is taken");
        (self.sequence, self.next) = (self.sequence + 3, self.next + 3);
        Some(())
    }
}

#[test]
fn topics_that_appear_under_kills_are_one_table_exactly_once() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    assert_eq!(count(&client, "shop"), Some(0), "the table is there before its first topic");
    let mut kafka = connect(&running);
    let mut feeders =
        vec![Feeder::create(&mut kafka, "shop.orders"), Feeder::create(&mut kafka, "shop.Items.EU")];
    // POLICY_VIOLATION
    assert_eq!(kafka.delete_topic("shop.orders"), Some(44), "its table holds it from its first moment on");
    assert_eq!(kafka.create_topic("other"), Some(0));
    assert_eq!(kafka.delete_topic("other"), Some(0));
    for kill in 0..KILLS {
        for _ in 0..BATCHES_BETWEEN_KILLS {
            for feeder in &mut feeders {
                feeder.send(&mut kafka).expect("the process runs");
            }
        }
        // The answer to the last batch is thrown away with the process: it is sent again.
        let lost = feeders[kill % 2].sequence;
        running.kill();
        running = folder.start();
        kafka = connect(&running);
        let feeder = &mut feeders[kill % 2];
        (feeder.sequence, feeder.next) = (lost - 3, feeder.next - 3);
        feeder.send(&mut kafka).expect("the process runs");
        feeders.push(Feeder::create(&mut kafka, &format!("shop.late_{kill}")));
    }
    for feeder in &mut feeders {
        feeder.send(&mut kafka).expect("the process runs");
    }
    let client = running.ready();
    let all: i64 = feeders.iter().map(|feeder| feeder.next).sum();
    wait_for("the table to have all", seconds(60), || (count(&client, "shop") == Some(all)).then_some(()));
    let by_topic = client.sql("SELECT _topic AS t, n, total FROM by_topic ORDER BY 1");
    let seen: Vec<(String, i64)> = by_topic
        .iter()
        .map(|row| (row["t"].as_str().unwrap_or_default().to_owned(), row["n"].as_i64().unwrap_or(-1)))
        .collect();
    let mut sent: Vec<(String, i64)> =
        feeders.iter().map(|feeder| (feeder.topic.clone(), feeder.next)).collect();
    sent.sort();
    assert_eq!(seen, sent, "a view reads the table, topic by topic");
    let rows = client.sql(
        "SELECT id, headers, sent_at = _timestamp AS same FROM shop WHERE _topic = 'shop.orders' AND n = 4",
    );
    assert_eq!(rows.len(), 1);
    assert_eq!((&rows[0]["id"], &rows[0]["same"]), (&"key-4".into(), &true.into()));
    assert_eq!(rows[0]["headers"], r#"{"from":"test"}"#);
    let refused = client.try_sql("SELECT * FROM shp").expect("an answer");
    assert!(refused.text().contains("did you mean `shop`?"), "{}", refused.text());
    let ended = running.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    // At rest the whole is read from the lake, and every part is exactly once.
    assert_eq!(folder.number("SELECT count(*) AS n FROM shop"), all);
    assert_eq!(folder.number("SELECT count(DISTINCT (_topic, n)) AS n FROM shop"), all);
    assert_eq!(folder.number("SELECT count(*) AS n FROM shop_dead_letters"), 0);
    for feeder in &feeders {
        let part = feeder.topic.to_lowercase().replace('.', "_");
        exactly_once(&folder, &part, feeder.next, 0);
    }
    folder.never_panicked();
}
