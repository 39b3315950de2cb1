use proptest::prelude::*;

use super::*;

/// Topics by name: identity and number of partitions.
#[derive(Debug, Clone, Default)]
struct Catalog(BTreeMap<String, (Uuid, PartitionId)>);

impl Topics for Catalog {
    fn topic(&self, name: &str) -> Option<(Uuid, PartitionId)> {
        self.0.get(name).copied()
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

fn catalog(topics: &[(&str, PartitionId)]) -> Catalog {
    let topics = (1..).zip(topics);
    Catalog(topics.map(|(n, (name, count))| ((*name).to_owned(), (Uuid::from_u128(n), *count))).collect())
}

/// A first heartbeat.
fn join(member: &str, names: &[&str]) -> Beat {
    Beat {
        member: member.to_owned(),
        epoch: 0,
        client_id: "client".to_owned(),
        rebalance_timeout: Some(Duration::from_secs(60)),
        names: Some(names.iter().map(|name| (*name).to_owned()).collect()),
        owned: Some(Assignment::new()),
        ..Beat::default()
    }
}

fn beat(member: &str, epoch: i32, owned: &Assignment) -> Beat {
    Beat { member: member.to_owned(), epoch, owned: Some(owned.clone()), ..Beat::default() }
}

fn all(topics: &Catalog, name: &str, partitions: std::ops::Range<i32>) -> Assignment {
    partitions.map(|partition| (topics.0[name].0, partition)).collect()
}

#[test]
fn a_partition_is_given_up_before_another_gets_it() {
    let (topics, now) = (catalog(&[("t", 4)]), Instant::now());
    let mut group = ConsumerGroup::default();
    let first = group.beat(join("a", &["t"]), &topics, now).expect("joined");
    assert_eq!((first.epoch, first.assignment.as_ref()), (1, Some(&all(&topics, "t", 0..4))));
    assert_eq!(group.state(), "Stable");
    let whole = first.assignment.expect("told");

    let second = group.beat(join("b", &["t"]), &topics, now).expect("joined");
    assert_eq!((second.epoch, second.assignment), (2, Some(Assignment::new())), "nothing is free yet");
    assert_eq!(group.state(), "Reconciling");
    let told = group.beat(beat("a", 1, &whole), &topics, now).expect("known");
    let less = told.assignment.expect("it has to give up some");
    assert_eq!((told.epoch, less.len()), (1, 2), "its epoch is the old one until it has");
    let again = group.beat(beat("b", 2, &Assignment::new()), &topics, now).expect("known");
    assert_eq!(again.assignment, None, "nothing is free until it is given up");
    let told = group.beat(beat("a", 1, &whole), &topics, now).expect("known");
    assert_eq!((told.epoch, told.assignment), (1, None), "it still has them");
    let told = group.beat(beat("a", 1, &less), &topics, now).expect("known");
    assert_eq!((told.epoch, told.assignment), (2, None));
    let now_free = group.beat(beat("b", 2, &Assignment::new()), &topics, now).expect("known");
    assert_eq!(now_free.assignment, Some(whole.without(&less)));
    assert_eq!(group.state(), "Stable");
}

#[test]
fn another_epoch_is_fenced_but_for_a_lost_answer() {
    let (topics, now) = (catalog(&[("t", 4)]), Instant::now());
    let mut group = ConsumerGroup::default();
    let whole = group.beat(join("a", &["t"]), &topics, now).expect("joined").assignment.expect("told");
    for epoch in [2, 7] {
        assert_eq!(group.beat(beat("a", epoch, &whole), &topics, now), Err(Code::FencedMemberEpoch));
    }
    assert_eq!(group.beat(beat("b", 1, &whole), &topics, now), Err(Code::UnknownMemberId));
    // A topic grows; the answer with the new epoch is lost.
    let topics = catalog(&[("t", 5)]);
    let told = group.beat(beat("a", 1, &whole), &topics, now).expect("known");
    assert_eq!((told.epoch, told.assignment), (2, Some(all(&topics, "t", 0..5))));
    let again = group.beat(beat("a", 1, &whole), &topics, now).expect("it had missed it");
    assert_eq!(again.epoch, 2);
    let foreign = all(&topics, "t", 0..9);
    assert_eq!(group.beat(beat("a", 1, &foreign), &topics, now), Err(Code::FencedMemberEpoch));
    let sender = |epoch| Sender { member: "a", instance: None, generation: epoch };
    assert_eq!(group.may_commit(sender(2)), Ok(()));
    assert_eq!(group.may_commit(sender(1)), Err(Code::StaleMemberEpoch));
    assert_eq!(group.may_commit(Sender { member: "", ..sender(-1) }), Err(Code::UnknownMemberId));
    assert_eq!(ConsumerGroup::default().may_commit(Sender { member: "", ..sender(-1) }), Ok(()));
}

#[test]
fn a_static_member_comes_back_to_what_it_had_and_is_not_doubled() {
    let (topics, now) = (catalog(&[("t", 2)]), Instant::now());
    let mut group = ConsumerGroup::default();
    let fixed = |member: &str| Beat { instance: Some("i".to_owned()), ..join(member, &["t"]) };
    let first = group.beat(fixed("a"), &topics, now).expect("joined");
    assert_eq!(group.beat(fixed("b"), &topics, now), Err(Code::UnreleasedInstanceId));
    let other = group.beat(join("c", &["t"]), &topics, now).expect("joined");
    assert_eq!(other.assignment, Some(Assignment::new()));
    let leaving = Beat { epoch: COMES_BACK, ..fixed("a") };
    assert_eq!(group.beat(leaving, &topics, now).expect("known").epoch, COMES_BACK);
    let epoch = group.epoch();
    let back = group.beat(fixed("b"), &topics, now).expect("it is free now");
    assert_eq!(group.epoch(), epoch, "nobody has to move");
    assert_eq!(back.assignment.expect("told").len(), 1, "its share since the other joined");
    let former = Beat { instance: Some("i".to_owned()), ..beat("a", first.epoch, &Assignment::new()) };
    assert_eq!(group.beat(former, &topics, now), Err(Code::FencedInstanceId));
    // It goes, and does not come back.
    let leaving = Beat { epoch: COMES_BACK, ..fixed("b") };
    group.beat(leaving, &topics, now).expect("known");
    let later = now + SESSION / 2;
    group.beat(beat("c", other.epoch, &Assignment::new()), &topics, later).expect("known");
    group.expire(now + SESSION);
    let told = group.beat(beat("c", 2, &Assignment::new()), &topics, now + SESSION).expect("known");
    assert_eq!(told.assignment.expect("all of it").len(), 2);
}

#[test]
fn who_is_silent_or_gives_nothing_up_is_given_up() {
    let (topics, now) = (catalog(&[("t", 2)]), Instant::now());
    let mut group = ConsumerGroup::default();
    let hasty = Beat { rebalance_timeout: Some(Duration::from_secs(5)), ..join("a", &["t"]) };
    let whole = group.beat(hasty, &topics, now).expect("joined").assignment.expect("told");
    group.beat(join("b", &["t"]), &topics, now).expect("joined");
    group.beat(beat("a", 1, &whole), &topics, now).expect("told to give up");
    let later = now + Duration::from_secs(5);
    assert_eq!(group.next_deadline(), Some(later));
    group.expire(later);
    assert_eq!(group.beat(beat("a", 1, &whole), &topics, later), Err(Code::UnknownMemberId));
    let told = group.beat(beat("b", 2, &Assignment::new()), &topics, later).expect("known");
    assert_eq!(told.assignment, Some(whole));
    group.expire(later + SESSION);
    assert_eq!((group.state(), group.next_deadline()), ("Empty", None));
}

#[test]
fn expressions_find_topics_that_come_later_and_bad_ones_are_refused() {
    let now = Instant::now();
    let mut group = ConsumerGroup::default();
    let by = |pattern: &str| Beat { names: None, pattern: Some(pattern.to_owned()), ..join("a", &[]) };
    let topics = catalog(&[("shop.a", 1), ("shop.b", 1), ("workshop.c", 1)]);
    assert_eq!(group.beat(by("shop.[a"), &topics, now), Err(Code::InvalidRegularExpression));
    assert!(group.is_empty(), "nothing came of it");
    let told = group.beat(by("shop\\..*"), &topics, now).expect("joined");
    let shares = told.assignment.expect("told");
    assert_eq!(shares.len(), 2, "the whole name has to fit");
    let topics = catalog(&[("shop.a", 1), ("shop.b", 1), ("workshop.c", 1), ("shop.d", 3)]);
    let told = group.beat(beat("a", 1, &shares), &topics, now + LOOK_EVERY).expect("known");
    assert_eq!(told.assignment.expect("told").len(), 5);
    let other = Beat { assignor: Some("mine".to_owned()), ..join("b", &["shop.a"]) };
    assert_eq!(group.beat(other, &topics, now), Err(Code::UnsupportedAssignor));
}

/// A consumer as clients are: it uses what it was told to have, and gives up what it is no longer to have when it comes to it.
#[derive(Debug, Clone, Default)]
struct Client {
    /// `None`: it is not in the group.
    epoch: Option<i32>,
    names: Vec<String>,
    uses: Assignment,
    told: Assignment,
    /// The last answer did not come.
    unsure: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Join(usize, Vec<usize>),
    Beat { client: usize, gives_up: bool, is_lost: bool },
    Leave(usize),
    Die(usize),
    Wait(u64),
    Grow(usize),
    Recreate(usize),
    Restart,
}

const NAMES: [&str; 3] = ["x", "y", "z"];
const CLIENTS: usize = 5;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let names = || prop::sample::subsequence(vec![0, 1, 2], 1..=3);
    let step = prop_oneof![
        4 => (0..CLIENTS, names()).prop_map(|(client, names)| Step::Join(client, names)),
        20 => (0..CLIENTS, any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(client, gives_up, is_lost)| Step::Beat { client, gives_up, is_lost }),
        1 => (0..CLIENTS).prop_map(Step::Leave),
        1 => (0..CLIENTS).prop_map(Step::Die),
        2 => (1..40_u64).prop_map(Step::Wait),
        1 => (0..3_usize).prop_map(Step::Grow),
        1 => (0..3_usize).prop_map(Step::Recreate),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..120)
}

struct World {
    group: ConsumerGroup,
    topics: Catalog,
    clients: Vec<Client>,
    now: Instant,
    next_id: u128,
}

impl World {
    fn new() -> World {
        World {
            group: ConsumerGroup::default(),
            topics: catalog(&[("x", 3), ("y", 5), ("z", 1)]),
            clients: vec![Client::default(); CLIENTS],
            now: Instant::now(),
            next_id: 100,
        }
    }

    fn send(&mut self, client: usize, gives_up: bool, is_lost: bool) {
        let member = format!("m{client}");
        let c = &mut self.clients[client];
        let Some(epoch) = c.epoch else { return };
        if gives_up {
            c.uses = c.uses.and(&c.told);
        }
        let mut sent = beat(&member, epoch, &c.uses);
        if epoch == 0 || c.unsure {
            sent.names = Some(c.names.clone());
            sent.rebalance_timeout = Some(Duration::from_secs(60));
        }
        match self.group.beat(sent, &self.topics, self.now) {
            Ok(_) if is_lost => c.unsure = true,
            Ok(told) => {
                (c.epoch, c.unsure) = (Some(told.epoch), false);
                if let Some(assignment) = told.assignment {
                    c.told = assignment;
                }
                // What is new is used once nothing is left to give up.
                if c.uses.is_within(&c.told) {
                    c.uses = c.told.clone();
                }
            }
            Err(_) => {
                // Fenced, or given up: all is lost, and it begins again.
                (c.uses, c.told, c.epoch, c.unsure) = (Assignment::new(), Assignment::new(), Some(0), false);
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Join(client, names) => {
                let c = &mut self.clients[client];
                c.names = names.iter().map(|n| NAMES[*n].to_owned()).collect();
                match c.epoch {
                    None => {
                        *c = Client { epoch: Some(0), names: c.names.clone(), ..Client::default() };
                        self.send(client, true, false);
                    }
                    Some(epoch) if epoch > 0 => {
                        let mut sent = beat(&format!("m{client}"), epoch, &c.uses);
                        sent.names = Some(c.names.clone());
                        // The answer is lost; the next heartbeat says all again.
                        let _ = self.group.beat(sent, &self.topics, self.now);
                        c.unsure = true;
                    }
                    Some(_) => {}
                }
            }
            Step::Beat { client, gives_up, is_lost } => self.send(client, gives_up, is_lost),
            Step::Leave(client) => {
                let c = std::mem::take(&mut self.clients[client]);
                if c.epoch.is_some() {
                    let leaving =
                        Beat { epoch: LEAVES, ..beat(&format!("m{client}"), 0, &Assignment::new()) };
                    let _ = self.group.beat(leaving, &self.topics, self.now);
                }
            }
            // It says nothing any more, and goes on reading until its session is over.
            Step::Die(client) => self.clients[client].epoch = None,
            Step::Wait(seconds) => {
                self.now += Duration::from_secs(seconds);
                self.group.expire(self.now);
            }
            Step::Grow(topic) => {
                self.topics.0.get_mut(NAMES[topic]).expect("a topic").1 += 1;
            }
            Step::Recreate(topic) => {
                self.next_id += 1;
                self.topics.0.insert(NAMES[topic].to_owned(), (Uuid::from_u128(self.next_id), 2));
            }
            Step::Restart => {
                let text = serde_json::to_string(&self.group).expect("it can be written");
                self.group = serde_json::from_str(&text).expect("it can be read");
                self.group.wake(self.now);
            }
        }
        // Who was given up knows it: its session is over for itself, too.
        let there: BTreeSet<String> = self.group.describe().into_iter().map(|member| member.member).collect();
        for (n, client) in self.clients.iter_mut().enumerate() {
            if !there.contains(&format!("m{n}")) {
                (client.uses, client.told) = (Assignment::new(), Assignment::new());
            }
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let mut users: HashMap<Place, usize> = HashMap::new();
        for (n, client) in self.clients.iter().enumerate() {
            for place in client.uses.iter() {
                let other = users.insert(place, n);
                prop_assert!(other.is_none(), "{:?} is used by {} and {}", place, n, other.unwrap_or(n));
                prop_assert_eq!(self.group.holders(place), 1, "{:?} is in one member's hands", place);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_partition_is_used_by_two_and_in_the_end_every_one_is_used(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check()?;
        }
        for round in 0..12 {
            // Those who died are given up on the way.
            world.now += Duration::from_secs(10);
            for client in 0..CLIENTS {
                world.step(Step::Beat { client, gives_up: true, is_lost: false });
                world.check()?;
            }
            world.step(Step::Wait(if round == 0 { 1 } else { 0 }));
        }
        let wanted: BTreeSet<&String> =
            world.clients.iter().filter(|c| c.epoch.is_some()).flat_map(|c| &c.names).collect();
        for (name, (id, count)) in &world.topics.0 {
            for partition in 0..*count {
                let users = world.clients.iter().filter(|c| c.uses.contains((*id, partition))).count();
                prop_assert_eq!(users, usize::from(wanted.contains(name)), "users of {} {}", name, partition);
            }
        }
        let is_done = world.group.is_empty() || world.group.state() == "Stable";
        prop_assert!(is_done, "{}", world.group.state());
    }
}
