//! Members of a group over kills, in whatever order chance finds: who was told a generation is known by it, or told to join again.
//!
//! *Model*: a client has one request under way. An answer that tells a generation or an assignment reaches it when the group was stored after
//! that was decided, as `membership.rs` does it; a kill puts the group back to what was stored and takes all answers that are under way.
//! Nobody is silent for so long that its session ends.

use proptest::prelude::*;

use super::*;

const LONG: Duration = Duration::from_secs(3600);
/// Clients; the last is a static member.
const CLIENTS: usize = 4;

#[derive(Debug, Clone, Copy)]
enum Op {
    /// A client sends what comes next for it.
    Act(usize),
    Commit(usize),
    Leave(usize),
    /// The static member's process ends, and comes again.
    Restart,
    Store,
    /// Who waited for its assignment asks for it again, or joins again.
    Kill {
        asks_again: bool,
    },
    /// Long enough for a new group's first generation.
    Tick,
}

fn op() -> impl Strategy<Value = Op> {
    let who = || 0..CLIENTS;
    prop_oneof![
        12 => who().prop_map(Op::Act),
        3 => who().prop_map(Op::Commit),
        1 => who().prop_map(Op::Leave),
        1 => Just(Op::Restart),
        5 => Just(Op::Store),
        2 => any::<bool>().prop_map(|asks_again| Op::Kill { asks_again }),
        3 => Just(Op::Tick),
    ]
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Join,
    Sync,
    Beat,
}

#[derive(Debug, Default)]
enum Waits {
    #[default]
    ForNothing,
    ToJoin(oneshot::Receiver<Joined>),
    Joined(Joined),
    ToSync(oneshot::Receiver<Synced>),
    Synced(Synced),
}

#[derive(Debug, Default)]
struct Client {
    id: String,
    instance: Option<String>,
    /// The newest generation that it was told; 0 before.
    generation: i32,
    /// Whom it has to assign to.
    leads: Vec<String>,
    next: Next,
    waits: Waits,
}

impl Client {
    fn new(n: usize) -> Client {
        let instance = (n + 1 == CLIENTS).then(|| "static".to_owned());
        Client { instance, ..Client::default() }
    }

    fn sender(&self) -> Sender<'_> {
        Sender { member: &self.id, instance: self.instance.as_deref(), generation: self.generation }
    }
}

struct World {
    group: Group,
    stored: Option<String>,
    clients: Vec<Client>,
    now: Instant,
    attempts: u32,
    /// What was told of each generation's assignment.
    told: BTreeMap<i32, Bytes>,
}

impl World {
    fn new() -> World {
        World {
            group: Group::default(),
            stored: None,
            clients: (0..CLIENTS).map(Client::new).collect(),
            now: Instant::now(),
            attempts: 0,
            told: BTreeMap::new(),
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Act(n) => self.act(n),
            Op::Commit(n)
                if self.clients[n].generation > 0 && matches!(self.clients[n].waits, Waits::ForNothing) =>
            {
                let allowed = self.group.may_commit(self.clients[n].sender(), self.now);
                assert!(
                    matches!(allowed, Ok(()) | Err(Code::RebalanceInProgress)),
                    "a commit of {n} is refused: {allowed:?}"
                );
            }
            Op::Leave(n)
                if self.clients[n].generation > 0 && matches!(self.clients[n].waits, Waits::ForNothing) =>
            {
                let client = std::mem::replace(&mut self.clients[n], Client::new(n));
                let left = self.group.leave(&client.id, client.instance.as_deref(), self.now);
                assert_eq!(left, Ok(()), "{n} leaves");
            }
            Op::Restart => self.clients[CLIENTS - 1] = Client::new(CLIENTS - 1),
            Op::Store => self.store(),
            Op::Kill { asks_again } => self.kill(asks_again),
            Op::Tick => {
                self.now += INITIAL_DELAY;
                self.group.expire(self.now);
            }
            Op::Commit(_) | Op::Leave(_) => {}
        }
        self.collect();
    }

    fn act(&mut self, n: usize) {
        let client = &mut self.clients[n];
        if !matches!(client.waits, Waits::ForNothing) {
            return;
        }
        match client.next {
            Next::Join => {
                let join = Join {
                    instance: client.instance.clone(),
                    session_timeout: LONG,
                    rebalance_timeout: LONG,
                    needs_id: true,
                    ..join(&client.id)
                };
                match self.group.join(join, self.now) {
                    Reply::Later(answer) => client.waits = Waits::ToJoin(answer),
                    Reply::Now(answer) => self.joined(n, answer),
                }
            }
            Next::Sync => {
                self.attempts += 1;
                let share = Bytes::from(self.attempts.to_string());
                let shares = client.leads.iter().map(|id| (id.clone(), share.clone())).collect();
                let sender = Sender {
                    member: &client.id,
                    instance: client.instance.as_deref(),
                    generation: client.generation,
                };
                match self.group.sync(sender, (None, None), shares, self.now) {
                    Reply::Later(answer) => client.waits = Waits::ToSync(answer),
                    Reply::Now(answer) => self.synced(n, answer),
                }
            }
            Next::Beat => match self.group.heartbeat(client.sender(), self.now) {
                Ok(()) => {}
                Err(Code::RebalanceInProgress) => client.next = Next::Join,
                Err(code) => panic!("the heartbeat of {n} in {} is refused: {code:?}", client.generation),
            },
        }
    }

    fn joined(&mut self, n: usize, answer: Joined) {
        let client = &mut self.clients[n];
        client.waits = Waits::ForNothing;
        match answer.error {
            0 => client.waits = Waits::Joined(answer),
            code if code == Code::MemberIdRequired.code() => client.id = answer.member,
            code => {
                assert_eq!(client.generation, 0, "{n} was told a generation, and is refused with {code}");
                assert_eq!(code, Code::UnknownMemberId.code(), "{n}");
                client.id.clear();
            }
        }
    }

    fn synced(&mut self, n: usize, answer: Synced) {
        let client = &mut self.clients[n];
        client.waits = Waits::ForNothing;
        match answer.error {
            0 => client.waits = Waits::Synced(answer),
            code => {
                assert_eq!(code, Code::RebalanceInProgress.code(), "{n} syncs in {}", client.generation);
                client.next = Next::Join;
            }
        }
    }

    /// Takes the answers that are there.
    fn collect(&mut self) {
        for n in 0..CLIENTS {
            match std::mem::take(&mut self.clients[n].waits) {
                Waits::ToJoin(mut answer) => match answer.try_recv() {
                    Ok(answer) => self.joined(n, answer),
                    Err(_) => self.clients[n].waits = Waits::ToJoin(answer),
                },
                Waits::ToSync(mut answer) => match answer.try_recv() {
                    Ok(answer) => self.synced(n, answer),
                    Err(_) => self.clients[n].waits = Waits::ToSync(answer),
                },
                other => self.clients[n].waits = other,
            }
        }
    }

    /// Stores the group; what was decided before reaches the clients.
    fn store(&mut self) {
        self.stored = Some(serde_json::to_string(&self.group.kept()).expect("a row"));
        for client in &mut self.clients {
            match std::mem::take(&mut client.waits) {
                Waits::Joined(joined) => {
                    let leads = joined.leader == joined.member && !joined.skip_assignment;
                    let members = joined.members.into_iter().map(|(id, ..)| id);
                    client.leads = if leads { members.collect() } else { Vec::new() };
                    (client.id, client.generation, client.next) =
                        (joined.member, joined.generation, Next::Sync);
                }
                Waits::Synced(synced) => {
                    let told = self.told.entry(client.generation).or_insert(synced.assignment.clone());
                    assert_eq!(
                        *told, synced.assignment,
                        "generation {} has one assignment",
                        client.generation
                    );
                    client.next = Next::Beat;
                }
                other => client.waits = other,
            }
        }
    }

    fn kill(&mut self, asks_again: bool) {
        self.group = match &self.stored {
            Some(row) => Group::woken(serde_json::from_str(row).expect("a row"), self.now).expect("a group"),
            None => Group::default(),
        };
        for client in &mut self.clients {
            match std::mem::take(&mut client.waits) {
                Waits::ToSync(_) | Waits::Synced(_) if !asks_again => client.next = Next::Join,
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn whoever_was_told_a_generation_is_never_told_that_it_is_not_in_it(
        ops in prop::collection::vec(op(), 0..120),
    ) {
        let mut world = World::new();
        for op in ops {
            world.step(op);
        }
    }
}
