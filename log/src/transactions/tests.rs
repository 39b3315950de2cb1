use super::*;

const ID: &str = "shop";
const TOPIC: Uuid = Uuid::from_u128(1);

/// Transactions without a log: each request is a commit of its own.
#[derive(Default)]
struct Bench {
    committed: Transactions,
    next: i64,
    now_ms: i64,
}

impl Bench {
    fn ask(&mut self, action: Action) -> Result<(ProducerEpoch, Option<Ending>)> {
        let mut changed = Changed::default();
        let next = &mut self.next;
        let mut fresh = || {
            *next += 1;
            Ok(*next)
        };
        let request = Request { id: ID.to_owned(), action };
        let answer = changed.apply(&self.committed, request, self.now_ms, &mut fresh);
        changed.settle(|_| 0);
        self.committed.commit(changed);
        answer
    }

    fn begin(&mut self, expected: Option<ProducerEpoch>) -> Result<ProducerEpoch> {
        self.ask(Action::Begin { timeout_ms: 1000, expected }).map(|(by, _)| by)
    }

    fn enlist(&mut self, by: ProducerEpoch) -> Result<()> {
        let partitions = vec![("t".to_owned(), TOPIC, 0)];
        self.ask(Action::Enlist { by, partitions, groups: vec!["g".to_owned()] }).map(|_| ())
    }

    fn end(
        &mut self,
        by: ProducerEpoch,
        commit: bool,
        renews: bool,
    ) -> Result<(ProducerEpoch, Option<Ending>)> {
        self.ask(Action::End { by, commit, renews })
    }

    /// A batch of `by`, first record at `offset`.
    fn write(&mut self, by: ProducerEpoch, enlists: bool, offset: Offset) -> Result<bool> {
        let mut changed = Changed::default();
        changed.check_batch(&self.committed, by, (TOPIC, 0), enlists)?;
        let first = changed.batch(&self.committed, by, ("t", TOPIC, 0), 3, self.now_ms);
        changed.settle(|place| offset + i64::try_from(place).expect("few"));
        self.committed.commit(changed);
        Ok(first)
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T>) -> Option<Refused> {
    Refused::of(&result.expect_err("it is refused"))
}

#[test]
fn a_transaction_ends_once_however_often_it_is_asked_for() {
    let mut bench = Bench::default();
    let by = bench.begin(None).expect("begun");
    assert_eq!(refused(bench.end(by, true, false)), Some(Refused::NotInTransaction), "nothing is open");
    bench.enlist(by).expect("enlisted");
    assert!(bench.write(by, false, 10).expect("written"));
    assert!(!bench.write(by, false, 20).expect("written"), "only the first batch is a step");
    let (_, ending) = bench.end(by, true, false).expect("ended");
    let ending = ending.expect("an ending");
    assert!(ending.committed && ending.by == by);
    assert_eq!(ending.partitions[0].first, Some(13));
    assert!(bench.end(by, true, false).expect("again").1.is_none());
    assert_eq!(refused(bench.end(by, false, false)), Some(Refused::NotInTransaction), "it was committed");
    assert_eq!(refused(bench.write(by, false, 30)), Some(Refused::NotInTransaction), "none is open");
    assert!(bench.write(by, true, 30).expect("it opens one"));
}

#[test]
fn a_partition_without_records_gets_no_marker() {
    let mut bench = Bench::default();
    let by = bench.begin(None).expect("begun");
    bench.enlist(by).expect("enlisted");
    assert!(bench.end(by, false, false).expect("ended").1.expect("an ending").partitions.is_empty());
}

#[test]
fn who_begins_shuts_out_the_one_before_and_aborts_what_it_left_open() {
    let mut bench = Bench::default();
    let old = bench.begin(None).expect("begun");
    bench.enlist(old).expect("enlisted");
    bench.write(old, false, 0).expect("written");
    let (new, ending) = bench.ask(Action::Begin { timeout_ms: 1000, expected: None }).expect("begun");
    let ending = ending.expect("the open one is aborted");
    assert_eq!((new.producer, new.epoch, ending.committed), (old.producer, 1, false));
    assert_eq!((ending.by, ending.partitions.len()), (new, 1));
    assert_eq!(refused(bench.enlist(old)), Some(Refused::StaleEpoch));
    assert_eq!(refused(bench.write(old, true, 9)), Some(Refused::StaleEpoch));
    assert_eq!(refused(bench.end(old, true, false)), Some(Refused::StaleEpoch));
    assert_eq!(refused(bench.begin(Some(old))), Some(Refused::StaleEpoch));
    bench.enlist(new).expect("the new one goes on");
}

#[test]
fn a_producer_that_asks_for_a_new_epoch_twice_gets_one() {
    let mut bench = Bench::default();
    let first = bench.begin(None).expect("begun");
    let second = bench.begin(Some(first)).expect("renewed");
    assert_eq!((second.producer, second.epoch), (first.producer, 1));
    assert_eq!(bench.begin(Some(first)).expect("again"), second);
    assert_eq!(bench.begin(Some(second)).expect("renewed").epoch, 2);
    assert_eq!(refused(bench.begin(Some(first))), Some(Refused::StaleEpoch));
}

#[test]
fn an_end_that_renews_gives_each_transaction_its_epoch_and_is_answered_again() {
    let mut bench = Bench::default();
    let first = bench.begin(None).expect("begun");
    bench.write(first, true, 0).expect("written");
    let (second, ending) = bench.end(first, true, true).expect("ended");
    assert_eq!((second.epoch, ending.expect("an ending").by), (1, second));
    assert_eq!(bench.end(first, true, true).expect("again").0, second);
    assert_eq!(refused(bench.end(first, false, true)), Some(Refused::StaleEpoch), "it was committed");
    assert_eq!(refused(bench.write(first, true, 1)), Some(Refused::StaleEpoch), "late");
    assert_eq!(bench.end(second, false, true).expect("an empty one is aborted").0.epoch, 2);
}

#[test]
fn behind_the_last_epoch_comes_a_new_producer() {
    let mut bench = Bench::default();
    let mut by = bench.begin(None).expect("begun");
    let first = by.producer;
    for _ in 0..LAST_EPOCH {
        by = bench.begin(Some(by)).expect("renewed");
    }
    assert_eq!((by.producer, by.epoch), (first, LAST_EPOCH));
    bench.enlist(by).expect("enlisted");
    bench.write(by, false, 0).expect("written");
    let (new, ending) = bench.end(by, true, true).expect("ended");
    assert_eq!((new.producer, new.epoch), (first + 1, 0));
    assert_eq!(ending.expect("an ending").by, ProducerEpoch { producer: first, epoch: i16::MAX });
    assert_eq!(refused(bench.write(by, true, 1)), Some(Refused::UnknownProducer));
    assert!(bench.write(new, true, 1).expect("written"));
}

#[test]
fn a_transaction_whose_time_is_up_is_aborted_and_its_producer_shut_out() {
    let mut bench = Bench::default();
    let by = bench.begin(None).expect("begun");
    bench.enlist(by).expect("enlisted");
    bench.write(by, false, 0).expect("written");
    bench.now_ms = 999;
    assert!(bench.committed.overdue(999).is_empty());
    assert!(bench.ask(Action::TimeOut { by }).expect("too early").1.is_none());
    bench.now_ms = 1000;
    assert_eq!(bench.committed.overdue(1000), [(ID.to_owned(), by)]);
    let ending = bench.ask(Action::TimeOut { by }).expect("aborted").1.expect("an ending");
    assert!(!ending.committed && ending.by.epoch == 1);
    assert_eq!(refused(bench.end(by, true, false)), Some(Refused::StaleEpoch));
}

#[test]
fn offsets_count_when_it_is_committed_and_the_last_of_a_partition_wins() {
    let offset = |offset| GroupOffset {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        topic_id: None,
        partition: 0,
        committed: Some(crate::offsets::CommittedOffset {
            offset,
            leader_epoch: -1,
            metadata: None,
            at_ms: 0,
        }),
    };
    for commit in [true, false] {
        let mut bench = Bench::default();
        let by = bench.begin(None).expect("begun");
        let early = bench.ask(Action::Offsets { by, offsets: vec![offset(1)], enlists: false });
        assert_eq!(refused(early), Some(Refused::NotInTransaction));
        bench.enlist(by).expect("enlisted");
        for n in [1, 2] {
            bench.ask(Action::Offsets { by, offsets: vec![offset(n)], enlists: false }).expect("taken");
        }
        let ending = bench.end(by, commit, false).expect("ended").1.expect("an ending");
        assert_eq!(ending.offsets, if commit { vec![offset(2)] } else { vec![] });
    }
}
