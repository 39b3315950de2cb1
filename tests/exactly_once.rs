//! Killed with SIGKILL at random moments, while three kinds of collectors feed one table and a client counts.
//!
//! `TARN_KILLS=50` makes it long, `TARN_SEED=...` repeats a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{Client, Folder, count, exactly_once, seconds, wait_for};

const CONFIG: &str = r#"
data_dir = "data"

[log]
segment_size = "64KiB"

[lake]
url = "file:lake"
optimize_after_files = 4
checkpoint_after_commits = 5
vacuum_retention = "2s"

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "events"
partitions = 3

[[source]]
name = "tail"
type = "taildir"
path = "logs/app.log*"
format = "ndjson"
topic = "events"
key = "source"
every = "20ms"

[[source]]
name = "spool"
type = "spooldir"
path = "in"
format = "ndjson"
topic = "events"
key = "source"
every = "50ms"

[[source]]
name = "push"
type = "http"
topic = "events"
key = "source"

[[table]]
name = "events"
columns = "source VARCHAR NOT NULL, seq BIGINT NOT NULL, text VARCHAR"
commit_every = "300ms"
"#;

/// What the feeders know to be the pipeline's debt.
#[derive(Default)]
struct Owed {
    tail: AtomicI64,
    spool: AtomicI64,
    push: AtomicI64,
}

struct Fire<'a> {
    folder: &'a Folder,
    address: Mutex<Option<Client>>,
    over: AtomicBool,
    owed: Owed,
    /// Counts that a client was told.
    answers: AtomicU64,
    seed: u64,
}

impl Fire<'_> {
    fn client(&self) -> Option<Client> {
        self.address.lock().expect("a lock").clone()
    }

    fn lines(source: &str, from: i64, records: i64) -> String {
        let mut text = String::new();
        for seq in from..from + records {
            writeln!(text, r#"{{"source":"{source}","seq":{seq},"text":"{source} number {seq}"}}"#)
                .expect("memory");
        }
        text
    }

    /// Lines appended to a growing file, torn in the middle, renamed away now and then.
    fn tail(&self) {
        let mut rng = StdRng::seed_from_u64(self.seed ^ 1);
        let mut rotations = 0;
        let mut next = 0;
        while !self.over.load(Ordering::SeqCst) {
            let records = rng.random_range(1..60);
            let text = Self::lines("tail", next, records);
            let torn = rng.random_range(1..text.len());
            self.folder.grow("logs/app.log", &text[..torn]);
            pace(rng.random_range(0..15));
            self.folder.grow("logs/app.log", &text[torn..]);
            next += records;
            self.owed.tail.store(next, Ordering::SeqCst);
            if rng.random_ratio(1, 40) {
                rotations += 1;
                let rotated = self.folder.path(format!("logs/app.log.{rotations}"));
                std::fs::rename(self.folder.path("logs/app.log"), rotated).expect("rotate");
            }
            pace(rng.random_range(5..30));
        }
    }

    fn spool(&self) {
        let mut rng = StdRng::seed_from_u64(self.seed ^ 2);
        let (mut files, mut next) = (0, 0);
        while !self.over.load(Ordering::SeqCst) {
            let records = rng.random_range(1..400);
            let text = Self::lines("spool", next, records);
            let name = format!("in/{files:06}.ndjson");
            if rng.random_bool(0.5) {
                self.folder.put_gz(&name, text)
            } else {
                self.folder.put(&name, text)
            }
            files += 1;
            next += records;
            self.owed.spool.store(next, Ordering::SeqCst);
            pace(rng.random_range(50..250));
        }
    }

    /// Requests with idempotency keys, each tried again until it is acknowledged; some are sent twice on purpose.
    fn push(&self) {
        let mut rng = StdRng::seed_from_u64(self.seed ^ 3);
        let (mut requests, mut next) = (0, 0);
        while !self.over.load(Ordering::SeqCst) {
            let records = rng.random_range(1..50);
            let text = Self::lines("push", next, records);
            let key = format!("request-{requests}");
            let mut acknowledged = 0;
            let wanted = if rng.random_ratio(1, 10) { 2 } else { 1 };
            wait_for("a request to be acknowledged", seconds(90), || {
                let answer = self.client()?.post(
                    "/v1/ingest/events",
                    &[("Content-Type", "application/x-ndjson"), ("Idempotency-Key", &key)],
                    text.as_bytes(),
                );
                match answer {
                    Ok(answer) if answer.status == 200 => acknowledged += 1,
                    Ok(answer) => assert!(
                        answer.status >= 500 || answer.status == 429,
                        "{}: {}",
                        answer.status,
                        answer.text()
                    ),
                    Err(_) => {}
                }
                (acknowledged == wanted).then_some(())
            });
            requests += 1;
            next += records;
            self.owed.push.store(next, Ordering::SeqCst);
            pace(rng.random_range(0..20));
        }
    }

    /// Counts in a loop: what was acknowledged before the question is in the answer, and no answer is below an earlier one.
    fn count(&self) {
        let mut highest = 0;
        while !self.over.load(Ordering::SeqCst) {
            if let Some(client) = self.client()
                && let Some(n) = count(&client, "events")
            {
                assert!(n >= highest, "the count fell from {highest} to {n}");
                highest = n;
                self.answers.fetch_add(1, Ordering::SeqCst);
            }
            pace(3);
        }
    }
}

/// Spaces out what a feeder does.
fn pace(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_when_killed_at_random() {
    let kills: u32 = std::env::var("TARN_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let seed: u64 = std::env::var("TARN_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_130_101);
    println!("TARN_SEED={seed} TARN_KILLS={kills}");
    let folder = Folder::new(CONFIG);
    std::fs::create_dir_all(folder.path("in")).expect("create the folder");
    let fire = Fire {
        folder: &folder,
        address: Mutex::new(None),
        over: AtomicBool::new(false),
        owed: Owed::default(),
        answers: AtomicU64::new(0),
        seed,
    };
    let mut rng = StdRng::seed_from_u64(seed);
    std::thread::scope(|scope| {
        let feeders =
            [scope.spawn(|| fire.tail()), scope.spawn(|| fire.spool()), scope.spawn(|| fire.push())];
        let counter = scope.spawn(|| fire.count());
        // However this ends, the feeders must end too.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for kill in 0..kills {
                let mut running = folder.start();
                // One in four dies while it starts, the others after a while of work.
                if rng.random_ratio(3, 4) {
                    *fire.address.lock().expect("a lock") = Some(running.ready());
                }
                let until = Instant::now() + Duration::from_millis(rng.random_range(50..1800));
                while Instant::now() < until {
                    assert!(running.runs(), "it ended by itself: {}", running.said());
                    pace(1);
                }
                let ended = running.kill();
                assert_eq!(ended.signal, Some(9), "kill {kill}: it had ended by itself: {}", ended.said);
            }
            let mut running = folder.start();
            *fire.address.lock().expect("a lock") = Some(running.ready());
            // Starts take most of the time on a slow machine; the client must have asked in earnest all the same.
            wait_for("the client to be answered often", seconds(90), || {
                assert!(running.runs(), "it ended by itself: {}", running.said());
                (fire.answers.load(Ordering::SeqCst) > 10).then_some(())
            });
            running
        }));
        fire.over.store(true, Ordering::SeqCst);
        for feeder in feeders {
            feeder.join().expect("a feeder");
        }
        counter.join().expect("the counter");
        let mut running = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let client = running.ready();
        let owed = total(&fire.owed);
        wait_for("everything owed to be visible", seconds(60), || {
            assert!(running.runs(), "it ended by itself: {}", running.said());
            let n = count(&client, "events")?;
            assert!(n <= owed, "{n} rows of {owed} records: something came twice");
            (n == owed).then_some(())
        });
        assert_eq!(running.stop().code, Some(0), "it did not stop well");
    });
    let answers = fire.answers.load(Ordering::SeqCst);
    println!("{answers} counts were answered, {} records were owed", total(&fire.owed));

    folder.drained();
    exactly_once(&folder, "events", total(&fire.owed), 0);
    let expected = BTreeMap::from([
        ("tail", fire.owed.tail.load(Ordering::SeqCst)),
        ("spool", fire.owed.spool.load(Ordering::SeqCst)),
        ("push", fire.owed.push.load(Ordering::SeqCst)),
    ]);
    for (source, owed) in expected {
        let rows = folder.sql(&format!(
            "SELECT _partition AS p, seq FROM events WHERE source = '{source}' ORDER BY _partition, _offset"
        ));
        assert!(
            rows.iter().all(|row| row["p"] == rows[0]["p"]),
            "one key went to two partitions: source=`{source}`"
        );
        let seqs: Vec<i64> = rows.iter().map(|row| row["seq"].as_i64().expect("a number")).collect();
        let in_order: Vec<i64> = (0..owed).collect();
        assert!(
            seqs == in_order,
            "not the records in their order, once each: source=`{source}` {}",
            differs(&seqs)
        );
    }
    folder.never_panicked();
}

fn total(owed: &Owed) -> i64 {
    [&owed.tail, &owed.spool, &owed.push].iter().map(|n| n.load(Ordering::SeqCst)).sum()
}

fn differs(seqs: &[i64]) -> String {
    match seqs.iter().enumerate().find(|(i, seq)| i64::try_from(*i).ok() != Some(**seq)) {
        Some((i, _)) => {
            let around = i.saturating_sub(3)..(i + 4).min(seqs.len());
            format!("at {i}: {:?}", &seqs[around])
        }
        None => format!("only {} came", seqs.len()),
    }
}
