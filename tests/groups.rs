//! A consumer group against the real binary, killed: whoever was told a generation is in it, with what it was told.
//!
//! The only member of a group joins again and again, is assigned something new in each generation, and commits. Whatever happens to the
//! process at whatever step, afterwards it is known by what it was told, and goes on.

use tarn_kafka::kafka_protocol::protocol::StrBytes;

use crate::harness::{Folder, Kafka, seconds};
use crate::transactions::{CONFIG, connect};

const GROUP: &str = "readers";
/// Generations before it is said that the fault is never reached.
const ROUNDS: usize = 20;

const UNKNOWN_MEMBER: i16 = 25;
const REBALANCE_IN_PROGRESS: i16 = 27;
const NOT_AVAILABLE: i16 = 15;
const ID_REQUIRED: i16 = 79;

/// A member that keeps account of what it was told.
#[derive(Default)]
struct Member {
    id: StrBytes,
    /// 0: none.
    generation: i32,
    /// The generation whose assignment it was told.
    assigned: i32,
    committed: i64,
    /// An offset whose commit was not answered.
    in_doubt: Option<i64>,
}

fn share(generation: i32) -> String {
    format!("the share of {generation}")
}

impl Member {
    /// Joins, is assigned, commits. `None` when the connection broke.
    fn round(&mut self, kafka: &mut Kafka) -> Option<Result<(), i16>> {
        let (id, generation) = match kafka.join_group(GROUP, &self.id)? {
            Ok(told) => told,
            Err((ID_REQUIRED, id)) => {
                self.id = id;
                match kafka.join_group(GROUP, &self.id)? {
                    Ok(told) => told,
                    Err((code, _)) => return Some(Err(code)),
                }
            }
            Err((code, _)) => return Some(Err(code)),
        };
        assert!(generation > self.assigned, "generation {generation} was there already");
        (self.id, self.generation) = (id, generation);
        match kafka.sync_group(GROUP, &self.id, generation, &share(generation))? {
            Ok(assignment) => assert_eq!(assignment, share(generation)),
            Err(code) => return Some(Err(code)),
        }
        self.assigned = generation;
        let next = self.committed + 1;
        self.in_doubt = Some(next);
        if let Err(code) = kafka.commit(GROUP, (&self.id, generation), "events", next)? {
            return Some(Err(code));
        }
        (self.committed, self.in_doubt) = (next, None);
        Some(Ok(()))
    }

    /// After a fault: it is known by what it was told.
    fn goes_on(&mut self, kafka: &mut Kafka) {
        if self.generation > 0 {
            let told = kafka.heartbeat(GROUP, &self.id, self.generation).expect("a connection");
            assert!([0, REBALANCE_IN_PROGRESS].contains(&told), "generation {}: {told}", self.generation);
            if told == 0 && self.generation == self.assigned {
                let synced = kafka.sync_group(GROUP, &self.id, self.generation, "").expect("a connection");
                assert_eq!(synced, Ok(share(self.generation).into()));
            }
        }
        let offset = kafka.committed(GROUP, "events").expect("a connection").max(0);
        assert!(offset == self.committed || Some(offset) == self.in_doubt, "{offset} is committed");
        (self.committed, self.in_doubt) = (offset, None);
        for _ in 0..3 {
            match self.round(kafka).expect("a connection") {
                Ok(()) => {}
                // It was given an id and has never been told a generation.
                Err(UNKNOWN_MEMBER) if self.generation == 0 => self.id = StrBytes::new(),
                Err(code) => panic!("it was refused with {code} in generation {}", self.generation),
            }
        }
        assert_eq!(kafka.heartbeat(GROUP, &self.id, self.generation), Some(0));
    }
}

/// Kills the process when `point` is passed for the `passes`th time, and proves.
pub(crate) fn killed(point: &str, passes: u32) {
    let folder = Folder::new(CONFIG);
    let mut member = Member::default();
    let skip = if passes == 0 { String::new() } else { format!("{passes}*off->") };
    let mut running = folder.start_with(&format!("{point}={skip}1*return(kill)"), &[]);
    let mut kafka = connect(&mut running);
    let broke = (0..ROUNDS).any(|_| match member.round(&mut kafka) {
        None => true,
        Some(outcome) => {
            outcome.expect("only the connection breaks");
            false
        }
    });
    assert!(broke, "the fault was never reached: {}", running.said());
    assert_eq!(running.end(seconds(10)).signal, Some(9));
    let mut running = folder.start();
    member.goes_on(&mut connect(&mut running));
    // And once more, in the midst of nothing.
    running.kill();
    let mut running = folder.start();
    member.goes_on(&mut connect(&mut running));
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

/// Lets the step at `point` fail, or succeed and be reported as failed, and proves.
pub(crate) fn told_of_an_error(point: &str, passes: u32) {
    let folder = Folder::new(CONFIG);
    let mut member = Member::default();
    let skip = if passes == 0 { String::new() } else { format!("{passes}*off->") };
    let mut running = folder.start_with(&format!("{point}={skip}1*return(error)"), &[]);
    let mut kafka = connect(&mut running);
    let mark = format!("fault injected at `{point}`");
    let refused = (0..ROUNDS).find_map(|_| member.round(&mut kafka).expect("the process goes on").err());
    assert_eq!(refused, Some(NOT_AVAILABLE), "it is told to try again: {}", running.said());
    assert!(running.said().contains(&mark), "{}", running.said());
    member.goes_on(&mut kafka);
    running.kill();
    let mut running = folder.start();
    member.goes_on(&mut connect(&mut running));
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

#[test]
fn whoever_was_told_a_generation_is_in_it_after_a_kill_at_any_step_of_the_log() {
    for (point, passes) in [
        ("kafka.groups.before", 1),
        ("kafka.groups.after", 1),
        ("kafka.groups.before", 4),
        ("kafka.groups.after", 4),
        ("log.commit.before", 9),
        ("log.commit.after", 10),
        ("log.commit.after", 11),
    ] {
        println!("{point} {passes}");
        killed(point, passes);
    }
}
