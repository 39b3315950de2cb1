//! Transactions of Kafka's producers against the real binary, killed: each is in the table whole, or not at all.
//!
//! A transaction writes one record to each of two partitions and an offset of a group. Whatever happens to the process at
//! whatever step, afterwards both records are there and the offset is the transaction's, or neither and it is not.

use std::collections::BTreeSet;

use crate::harness::{Folder, Kafka, Producer, Running, batch, count, seconds, verified, wait_for};

/// Config of the folders; also for faults around a topic's deletion.
pub(crate) const CONFIG: &str = r#"
data_dir = "data"

[log]
kafka = "127.0.0.1:0"
segment_size = "4KiB"
retention_size = "8KiB"
retention_every = "300ms"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "events"
partitions = 2

[[table]]
name = "events"
columns = "n BIGINT NOT NULL, part INT"
commit_every = "100ms"
"#;

const ID: &str = "shop";
const GROUP: &str = "readers";

/// A producer of numbered transactions that keeps account.
pub(crate) struct Account {
    next: i64,
    sequences: [i32; 2],
    by: Option<Producer>,
    /// Transactions whose end was answered.
    committed: BTreeSet<i64>,
    /// The one whose end was asked for and not answered.
    in_doubt: Option<i64>,
}

impl Account {
    pub(crate) fn new() -> Account {
        Account { next: 0, sequences: [0; 2], by: None, committed: BTreeSet::new(), in_doubt: None }
    }

    /// Does one transaction; each fifth is aborted. `None` when the connection broke.
    pub(crate) fn transact(&mut self, kafka: &mut Kafka) -> Option<Result<(), i16>> {
        let by = match self.by {
            Some(by) => by,
            None => {
                let by = match kafka.begin_producer(ID)? {
                    Ok(by) => by,
                    Err(code) => return Some(Err(code)),
                };
                (self.by, self.sequences) = (Some(by), [0; 2]);
                by
            }
        };
        let n = self.next;
        self.next += 1;
        let steps = self.write(kafka, by, n)?;
        if steps.is_err() {
            // The next begins anew, which aborts this one.
            self.by = None;
            return Some(steps);
        }
        let commit = n % 5 != 4;
        self.in_doubt = commit.then_some(n);
        let ended = kafka.end_transaction(ID, by, commit)?;
        if ended.is_err() {
            self.by = None;
            return Some(ended);
        }
        if commit {
            self.committed.insert(n);
        }
        self.in_doubt = None;
        Some(Ok(()))
    }

    fn write(&mut self, kafka: &mut Kafka, by: Producer, n: i64) -> Option<Result<(), i16>> {
        if let Err(code) = kafka.enlist(ID, by, "events", &[0, 1], GROUP)? {
            return Some(Err(code));
        }
        for (partition, sequence) in (0..).zip(&mut self.sequences) {
            let value = format!("{{\"n\": {n}, \"part\": {partition}}}");
            let batch = batch(Some(by), *sequence, &[value]);
            if let Err(code) = kafka.produce_for(Some(ID), "events", partition, batch)? {
                return Some(Err(code));
            }
            *sequence += 1;
        }
        kafka.transaction_offset(ID, by, GROUP, "events", n + 1)
    }

    /// After a fault: the group's offset says what became of the transaction in doubt. That its records say the same,
    /// [`Account::proven`] sees.
    pub(crate) fn settle(&mut self, running: &mut Running) {
        self.by = None;
        let mut kafka = connect(running);
        // Whatever is open is aborted, so that everything is decided.
        kafka.begin_producer(ID).expect("a connection").expect("begun");
        let committed = kafka.committed(GROUP, "events").expect("a connection");
        if let Some(n) = self.in_doubt.take().filter(|n| committed == n + 1) {
            assert!(self.committed.insert(n));
        }
        let last = self.committed.last().map_or(-1, |n| n + 1);
        assert_eq!(committed, last, "the group's offset is that of the last committed transaction");
    }

    /// The table has exactly the records of committed transactions, and `tarn verify` agrees.
    #[track_caller]
    pub(crate) fn proven(&self, folder: &Folder) {
        folder.drained();
        let rows = i64::try_from(self.committed.len()).expect("few") * 2;
        assert_eq!(folder.number("SELECT count(*) AS n FROM events"), rows);
        assert_eq!(folder.number("SELECT count(DISTINCT n * 2 + part) AS n FROM events"), rows);
        let numbers: BTreeSet<i64> = folder
            .sql("SELECT DISTINCT n FROM events")
            .iter()
            .map(|row| row["n"].as_i64().expect("a number"))
            .collect();
        assert_eq!(numbers, self.committed);
        verified(folder);
        folder.never_panicked();
    }
}

pub(crate) fn connect(running: &mut Running) -> Kafka {
    wait_for("the Kafka listener", seconds(60), || {
        assert!(running.runs(), "it ended: {}", running.said());
        Kafka::connect(&running.kafka()?)
    })
}

/// Transactions until the connection breaks.
fn until_it_breaks(account: &mut Account, running: &mut Running) {
    let mut kafka = connect(running);
    for _ in 0..200 {
        match account.transact(&mut kafka) {
            None => return,
            Some(outcome) => outcome.expect("only the connection breaks"),
        }
    }
    panic!("the fault was never reached: {}", running.said());
}

/// Kills the process when `point` is passed for the `passes`th time, and proves.
pub(crate) fn killed(point: &str, passes: u32) {
    let folder = Folder::new(CONFIG);
    let mut account = Account::new();
    let skip = if passes == 0 { String::new() } else { format!("{passes}*off->") };
    let mut running = folder.start_with(&format!("{point}={skip}1*return(kill)"), &[]);
    until_it_breaks(&mut account, &mut running);
    assert_eq!(running.end(seconds(10)).signal, Some(9));
    let mut running = folder.start();
    account.settle(&mut running);
    let mut kafka = connect(&mut running);
    for _ in 0..7 {
        account.transact(&mut kafka).expect("a connection").expect("no error");
    }
    running.stop();
    account.proven(&folder);
}

/// Lets the step at `point` fail, or succeed and be reported as failed, and proves.
pub(crate) fn told_of_an_error(point: &str, passes: u32) {
    let folder = Folder::new(CONFIG);
    let mut account = Account::new();
    let skip = if passes == 0 { String::new() } else { format!("{passes}*off->") };
    let mut running = folder.start_with(&format!("{point}={skip}1*return(error)"), &[]);
    let mut kafka = connect(&mut running);
    let mark = format!("fault injected at `{point}`");
    for _ in 0..200 {
        let outcome = account.transact(&mut kafka).expect("the process goes on");
        if outcome.is_err() {
            account.settle(&mut running);
        }
        if running.said().contains(&mark) && outcome.is_ok() {
            break;
        }
    }
    assert!(running.said().contains(&mark), "the fault was never reached: {}", running.said());
    assert_eq!(running.stop().code, Some(0));
    account.proven(&folder);
}

#[test]
fn a_kill_at_any_step_of_the_log_leaves_each_transaction_whole_or_not_at_all() {
    for (point, passes) in [
        ("log.append.before", 9),
        ("log.append.after", 22),
        ("log.sync.after", 37),
        ("log.commit.before", 24),
        ("log.commit.after", 31),
        ("log.transaction.before", 4),
        ("log.transaction.after", 4),
    ] {
        println!("{point} {passes}");
        killed(point, passes);
    }
}

#[test]
fn sql_sees_whole_transactions_only() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    let mut kafka = connect(&mut running);
    let mut account = Account::new();
    let by = kafka.begin_producer(ID).expect("a connection").expect("begun");
    account.by = Some(by);
    account.write(&mut kafka, by, 0).expect("a connection").expect("written");
    account.next = 1;
    // What stands behind an undecided record waits with it; what stands in another topic does not.
    kafka
        .produce("events", 0, batch(None, 0, &["{\"n\": 1000, \"part\": 0}".to_owned()]))
        .expect("sent")
        .expect("taken");
    for _ in 0..20 {
        assert_eq!(count(&client, "events"), Some(0));
    }
    kafka.end_transaction(ID, by, true).expect("a connection").expect("ended");
    account.committed.insert(0);
    wait_for("all three", seconds(30), || match count(&client, "events") {
        Some(3) => Some(()),
        // Partitions are read one after the other; a statement sees each at its own offset.
        Some(0..=2) | None => None,
        Some(more) => panic!("{more} rows"),
    });
    for _ in 0..9 {
        account.transact(&mut kafka).expect("a connection").expect("no error");
    }
    running.stop();
    folder.drained();
    let rows = i64::try_from(account.committed.len()).expect("few") * 2 + 1;
    assert_eq!(folder.number("SELECT count(*) AS n FROM events"), rows);
    verified(&folder);
}

#[test]
fn the_proof_holds_when_retention_has_taken_markers_and_what_was_aborted() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let mut kafka = connect(&mut running);
    let mut account = Account::new();
    for _ in 0..120 {
        account.transact(&mut kafka).expect("a connection").expect("no error");
    }
    wait_for("retention to take the first segments", seconds(60), || {
        folder.find("data/log", "/00000000000000000000.log").is_empty().then_some(())
    });
    running.stop();
    account.proven(&folder);
    let ended = folder.tarn(&["verify", "-c", "tarn.toml", "--output", "json"]);
    let reports: serde_json::Value = serde_json::from_str(&ended.printed).expect("a report");
    let partitions = reports[0]["partitions"].as_array().expect("partitions");
    let sum = |field: &str| partitions.iter().filter_map(|p| p[field].as_u64()).sum::<u64>();
    // A marker for each transaction in each partition, and the records of those 24 that were aborted.
    assert_eq!((sum("rows"), sum("passed")), (2 * 96, 2 * (120 + 24)));
    assert!(sum("compared") < sum("rows"), "the log no longer has all");
}

/// Deletes topics until the process dies or reports the fault at `point`.
pub(crate) fn deleting(point: &str, action: &str, passes: u32) {
    let folder = Folder::new(CONFIG);
    let skip = if passes == 0 { String::new() } else { format!("{passes}*off->") };
    let mut running = folder.start_with(&format!("{point}={skip}1*return({action})"), &[]);
    let mut kafka = connect(&mut running);
    let mut deleted = BTreeSet::new();
    let mut in_doubt = None;
    for n in 0..=passes {
        let name = format!("short-{n}");
        assert_eq!(kafka.create_topic(&name), Some(0));
        kafka.produce(&name, 0, batch(None, 0, &["gone".to_owned()])).expect("sent").expect("taken");
        match kafka.delete_topic(&name) {
            Some(0) => assert!(deleted.insert(name)),
            _ => in_doubt = Some(name),
        }
    }
    let in_doubt = in_doubt.expect("the fault was reached");
    if action == "kill" {
        assert_eq!(running.end(seconds(10)).signal, Some(9));
    } else {
        assert!(running.said().contains(&format!("fault injected at `{point}`")));
        assert_eq!(running.stop().code, Some(0));
    }
    let mut running = folder.start();
    let mut kafka = connect(&mut running);
    let topics = kafka.topics().expect("a connection");
    assert!(deleted.iter().all(|name| !topics.contains(name)), "{topics:?}");
    let is_there = topics.contains(&in_doubt);
    assert_eq!(is_there, point.ends_with(".before"), "{topics:?}");
    // What is there has its records, what is not has left nothing.
    let records = kafka.produce(&in_doubt, 0, batch(None, 0, &["more".to_owned()])).expect("sent");
    assert_eq!(records, if is_there { Ok(1) } else { Err(3) });
    if !is_there {
        assert_eq!(kafka.create_topic(&in_doubt), Some(0));
        let first = kafka.produce(&in_doubt, 0, batch(None, 0, &["new".to_owned()])).expect("sent");
        assert_eq!(first, Ok(0), "a new topic begins at 0");
    }
    assert_eq!(kafka.delete_topic(&in_doubt), Some(0));
    running.stop();
    let left = folder.find("data/log", ".log");
    assert_eq!(left.len(), 2, "the folders of deleted topics are gone: {left:?}");
    folder.never_panicked();
}
