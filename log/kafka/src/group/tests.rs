use super::*;

mod kills;

const SESSION: Duration = Duration::from_secs(10);
const REBALANCE: Duration = Duration::from_secs(60);

fn join(member: &str) -> Join {
    Join {
        member: member.to_owned(),
        instance: None,
        client_id: "client".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        session_timeout: SESSION,
        rebalance_timeout: REBALANCE,
        protocol_type: "consumer".to_owned(),
        protocols: vec![
            ("range".to_owned(), Bytes::from_static(b"r")),
            ("roundrobin".to_owned(), Bytes::from_static(b"rr")),
        ],
        needs_id: false,
    }
}

fn fixed(instance: &str) -> Join {
    Join { instance: Some(instance.to_owned()), ..join("") }
}

fn later<T: std::fmt::Debug>(reply: Reply<T>) -> oneshot::Receiver<T> {
    match reply {
        Reply::Later(answer) => answer,
        Reply::Now(answer) => panic!("answered at once: {answer:?}"),
    }
}

fn now<T: std::fmt::Debug>(reply: Reply<T>) -> T {
    match reply {
        Reply::Now(answer) => answer,
        Reply::Later(mut answer) => answer.try_recv().expect("an answer"),
    }
}

fn sender(member: &str, generation: i32) -> Sender<'_> {
    Sender { member, instance: None, generation }
}

/// A stable group of `count` members, by their ids; the first leads.
fn stable(count: usize) -> (Group, Vec<String>, Instant) {
    let mut group = Group::default();
    let start = Instant::now();
    let mut waiting: Vec<_> = (0..count).map(|_| later(group.join(join(""), start))).collect();
    let at = start + INITIAL_DELAY;
    group.expire(at);
    let joined: Vec<Joined> = waiting.iter_mut().map(|w| w.try_recv().expect("joined")).collect();
    let ids: Vec<String> = joined.iter().map(|j| j.member.clone()).collect();
    assert!(joined.iter().all(|j| j.generation == 1 && j.error == 0 && j.leader == ids[0]));
    sync_all(&mut group, &ids, 1, at);
    (group, ids, at)
}

/// The leader, who is first, assigns to each member its place.
fn sync_all(group: &mut Group, ids: &[String], generation: i32, at: Instant) {
    let mut waiting: Vec<_> = ids[1..]
        .iter()
        .map(|id| later(group.sync(sender(id, generation), (None, None), Vec::new(), at)))
        .collect();
    let place = |n: usize| Bytes::from(n.to_string());
    let assignments = ids.iter().enumerate().map(|(n, id)| (id.clone(), place(n))).collect();
    let leader = later(group.sync(sender(&ids[0], generation), (None, None), assignments, at));
    waiting.insert(0, leader);
    for (n, mut synced) in waiting.into_iter().enumerate() {
        let synced = synced.try_recv().expect("synced");
        assert_eq!((synced.error, synced.assignment), (0, place(n)));
    }
    assert_eq!(group.state(), "Stable");
}

#[test]
fn members_join_are_led_by_the_first_and_get_their_assignments() {
    let (group, ids, _) = stable(3);
    assert_eq!(group.protocol(), "range");
    let described = group.describe();
    assert_eq!(described.len(), 3);
    assert!(described.iter().all(|member| ids.contains(&member.member) && member.metadata == "r"));
}

#[test]
fn a_new_member_is_given_an_id_first_and_the_generation_waits_for_it() {
    let (mut group, ids, at) = stable(1);
    let refused = now(group.join(Join { needs_id: true, ..join("") }, at));
    assert_eq!(refused.error, Code::MemberIdRequired.code());
    assert_eq!(group.state(), "Stable", "an id alone changes nothing");
    let mut second = later(group.join(Join { needs_id: true, ..join(&refused.member) }, at));
    assert_eq!(group.heartbeat(sender(&ids[0], 1), at), Err(Code::RebalanceInProgress));
    let mut first = later(group.join(join(&ids[0]), at));
    assert_eq!(first.try_recv().expect("joined").members.len(), 2, "the leader sees both");
    assert!(second.try_recv().expect("joined").members.is_empty());
}

#[test]
fn who_does_not_come_back_is_left_out() {
    let (mut group, ids, at) = stable(3);
    let mut fourth = later(group.join(join(""), at));
    let mut first = later(group.join(join(&ids[0]), at));
    assert!(first.try_recv().is_err(), "two are missing");
    // The sessions end before the rebalance does.
    group.expire(at + SESSION);
    let joined = first.try_recv().expect("joined");
    assert_eq!((joined.generation, joined.members.len()), (2, 2));
    assert_eq!(fourth.try_recv().expect("joined").generation, 2);
    assert_eq!(group.heartbeat(sender(&ids[1], 1), at + SESSION), Err(Code::UnknownMemberId));
}

#[test]
fn a_silent_member_is_given_up_and_the_others_share_its_part() {
    let (mut group, ids, at) = stable(2);
    let halfway = at + SESSION / 2;
    assert_eq!(group.heartbeat(sender(&ids[1], 1), halfway), Ok(()));
    group.expire(at + SESSION);
    assert_eq!(group.heartbeat(sender(&ids[0], 1), at + SESSION), Err(Code::UnknownMemberId));
    assert_eq!(group.heartbeat(sender(&ids[1], 1), at + SESSION), Err(Code::RebalanceInProgress));
    let joined = now(group.join(join(&ids[1]), at + SESSION));
    assert_eq!((joined.generation, joined.leader.as_str()), (2, ids[1].as_str()));
}

#[test]
fn another_generation_changes_nothing() {
    let (mut group, ids, at) = stable(1);
    for generation in [0, 2, -1] {
        let sender = sender(&ids[0], generation);
        assert_eq!(group.heartbeat(sender, at), Err(Code::IllegalGeneration));
        assert_eq!(group.may_commit(sender, at), Err(Code::IllegalGeneration));
        let synced = now(group.sync(sender, (None, None), Vec::new(), at));
        assert_eq!(synced.error, Code::IllegalGeneration.code());
    }
    assert_eq!(group.may_commit(sender("", -1), at), Err(Code::UnknownMemberId), "the group has members");
    assert_eq!(group.may_commit(sender(&ids[0], 1), at), Ok(()));
    assert_eq!(Group::default().may_commit(sender("", -1), at), Ok(()), "nobody is in it");
    assert_eq!(Group::default().may_commit(sender("a", -1), at), Ok(()), "whatever it calls itself");
    assert_eq!(Group::default().may_commit(sender("a", 0), at), Err(Code::UnknownMemberId));
}

#[test]
fn the_last_to_leave_empties_the_group() {
    let (mut group, ids, at) = stable(2);
    assert_eq!(group.leave(&ids[0], None, at), Ok(()));
    assert_eq!(group.leave(&ids[0], None, at), Err(Code::UnknownMemberId));
    assert_eq!(group.leave(&ids[1], None, at), Ok(()));
    assert!(group.is_empty());
    assert_eq!((group.state(), group.next_deadline()), ("Empty", None), "an empty group costs nothing");
}

#[test]
fn a_follower_that_joins_again_unchanged_is_told_at_once_and_a_leader_rebalances() {
    let (mut group, ids, at) = stable(2);
    let told = now(group.join(join(&ids[1]), at));
    assert_eq!((told.generation, told.error), (1, 0));
    assert_eq!(group.state(), "Stable");
    let _waits = later(group.join(join(&ids[0]), at));
    assert_eq!(group.state(), "PreparingRebalance");
}

#[test]
fn a_leader_that_never_assigns_is_given_up() {
    let mut group = Group::default();
    let start = Instant::now();
    let mut waiting: Vec<_> = (0..2).map(|_| later(group.join(join(""), start))).collect();
    let at = start + INITIAL_DELAY;
    group.expire(at);
    let ids: Vec<String> = waiting.iter_mut().map(|w| w.try_recv().expect("joined").member).collect();
    let mut follower = later(group.sync(sender(&ids[1], 1), (None, None), Vec::new(), at));
    group.expire(at + SESSION);
    assert_eq!(follower.try_recv().expect("answered").error, Code::RebalanceInProgress.code());
    let joined = now(group.join(join(&ids[1]), at + SESSION));
    assert_eq!((joined.generation, joined.leader.as_str()), (2, ids[1].as_str()));
}

#[test]
fn a_static_member_comes_back_without_a_rebalance_and_fences_its_former_self() {
    let mut group = Group::default();
    let start = Instant::now();
    let mut first = later(group.join(fixed("a"), start));
    let mut second = later(group.join(fixed("b"), start));
    let at = start + INITIAL_DELAY;
    group.expire(at);
    let ids = [first.try_recv().expect("joined").member, second.try_recv().expect("joined").member];
    let mut follower = later(group.sync(sender(&ids[1], 1), (None, None), Vec::new(), at));
    let assignments = vec![(ids[1].clone(), Bytes::from_static(b"mine"))];
    let _leader = later(group.sync(sender(&ids[0], 1), (None, None), assignments, at));
    assert_eq!(follower.try_recv().expect("synced").assignment, "mine");

    let again = now(group.join(fixed("b"), at));
    assert_eq!((again.error, again.generation), (0, 1), "the generation stays");
    assert_ne!(again.member, ids[1]);
    assert_eq!(group.state(), "Stable");
    let new = Sender { member: &again.member, instance: Some("b"), generation: 1 };
    assert_eq!(now(group.sync(new, (None, None), Vec::new(), at)).assignment, "mine");
    let old = Sender { member: &ids[1], instance: Some("b"), generation: 1 };
    assert_eq!(group.heartbeat(old, at), Err(Code::FencedInstanceId));
    assert_eq!(group.leave("", Some("b"), at), Ok(()));
    assert_eq!(group.state(), "PreparingRebalance");
}

#[test]
fn protocols_that_not_all_know_are_refused_or_not_elected() {
    let (mut group, ids, at) = stable(1);
    let stranger = |name: &str| Join { protocols: vec![(name.to_owned(), Bytes::new())], ..join("") };
    let refused = now(group.join(stranger("sticky"), at));
    assert_eq!(refused.error, Code::InconsistentGroupProtocol.code());
    let connect = Join { protocol_type: "connect".to_owned(), ..join("") };
    assert_eq!(now(group.join(connect, at)).error, Code::InconsistentGroupProtocol.code());
    let _second = later(group.join(stranger("roundrobin"), at));
    assert_eq!(
        now(group.join(join(&ids[0]), at)).protocol.as_deref(),
        Some("roundrobin"),
        "the one that all know"
    );
}

#[test]
fn a_member_that_hung_up_while_it_joined_is_given_up() {
    let (mut group, ids, at) = stable(1);
    drop(later(group.join(join(""), at)));
    assert_eq!(group.describe().len(), 2);
    assert_eq!(group.heartbeat(sender(&ids[0], 1), at + SESSION / 2), Err(Code::RebalanceInProgress));
    group.expire(at + SESSION);
    assert_eq!(group.describe().len(), 1);
}

/// The group as another process finds it.
fn woken(group: &Group, at: Instant) -> Group {
    let row = serde_json::to_string(&group.kept()).expect("a row");
    Group::woken(serde_json::from_str(&row).expect("a row"), at).expect("a group")
}

#[test]
fn what_must_outlive_the_process_is_said_to() {
    let (mut group, ids, at) = stable(2);
    assert!(group.take_unsaved());
    let _third = later(group.join(join(""), at));
    assert!(!group.take_unsaved(), "nobody was told anything");
    let _first = later(group.join(join(&ids[0]), at));
    assert!(!group.take_unsaved());
    let _second = later(group.join(join(&ids[1]), at));
    assert_eq!(group.state(), "CompletingRebalance");
    assert!(group.take_unsaved(), "a new generation");
    let _leader = later(group.sync(sender(&ids[0], 2), (None, None), Vec::new(), at));
    assert!(group.take_unsaved(), "assignments");
    assert_eq!(group.heartbeat(sender(&ids[1], 2), at), Ok(()));
    assert!(!group.take_unsaved());
    assert_eq!(group.leave(&ids[1], None, at), Ok(()));
    assert!(group.take_unsaved(), "somebody has gone");
}

#[test]
fn a_generation_whose_members_have_joined_goes_on_in_another_process() {
    let (mut group, ids, at) = stable(2);
    let mut first = later(group.join(join(&ids[0]), at));
    let mut second = later(group.join(join(&ids[1]), at));
    assert_eq!(first.try_recv().expect("joined").generation, 2);
    // The other is not reached any more.
    assert_eq!(second.try_recv().expect("joined").generation, 2);
    let mut group = woken(&group, at);
    let behind = sender(&ids[1], 1);
    assert_eq!(group.heartbeat(behind, at), Err(Code::RebalanceInProgress));
    assert_eq!(group.may_commit(behind, at), Err(Code::RebalanceInProgress));
    let again = now(group.join(join(&ids[1]), at));
    assert_eq!((again.error, again.generation, again.leader.as_str()), (0, 2, ids[0].as_str()));
    sync_all(&mut group, &ids, 2, at);
    assert_eq!(group.heartbeat(behind, at), Err(Code::IllegalGeneration), "it knows better now");
    let mut group = woken(&group, at);
    assert_eq!(now(group.sync(sender(&ids[1], 2), (None, None), Vec::new(), at)).assignment, "1");
}

#[test]
fn a_rebalance_goes_on_in_another_process_without_those_who_do_not_come_back() {
    let (mut group, ids, at) = stable(3);
    assert_eq!(group.leave(&ids[2], None, at), Ok(()));
    let mut group = woken(&group, at);
    assert_eq!(group.state(), "PreparingRebalance");
    assert_eq!(group.heartbeat(sender(&ids[0], 1), at), Err(Code::RebalanceInProgress));
    assert_eq!(group.heartbeat(sender(&ids[2], 1), at), Err(Code::UnknownMemberId), "it has left");
    let mut first = later(group.join(join(&ids[0]), at));
    assert!(first.try_recv().is_err(), "one is missing");
    group.expire(at + SESSION);
    let joined = first.try_recv().expect("joined");
    assert_eq!((joined.generation, joined.members.len()), (2, 1));
}

#[test]
fn a_leader_that_does_not_come_back_from_a_kill_is_given_up() {
    let (mut group, ids, at) = stable(2);
    for id in &ids {
        let _joins = later(group.join(join(id), at));
    }
    let mut group = woken(&group, at);
    assert_eq!(group.state(), "CompletingRebalance");
    let mut follower = later(group.sync(sender(&ids[1], 2), (None, None), Vec::new(), at));
    group.expire(at + SESSION);
    assert_eq!(follower.try_recv().expect("answered").error, Code::RebalanceInProgress.code());
    let joined = now(group.join(join(&ids[1]), at + SESSION));
    assert_eq!((joined.generation, joined.leader.as_str()), (3, ids[1].as_str()));
}

#[test]
fn rows_of_an_older_version_are_of_stable_groups() {
    let row = r#"{"generation": 7, "protocol_type": "consumer", "protocol": "range", "leader": "a", "members": [{"id": "a",
        "instance": null, "client_id": "c", "client_host": "/h", "session_timeout": {"secs": 10, "nanos": 0},
        "rebalance_timeout": {"secs": 60, "nanos": 0}, "protocols": [["range", ""]], "assignment": "bWluZQ=="}]}"#;
    let at = Instant::now();
    let mut group = Group::woken(serde_json::from_str(row).expect("a row"), at).expect("a group");
    let synced = now(group.sync(sender("a", 7), (None, None), Vec::new(), at));
    assert_eq!((synced.error, &synced.assignment[..]), (0, &b"mine"[..]));
}

#[test]
fn a_member_or_an_assignment_that_would_make_the_group_too_large_changes_nothing() {
    let large = |member: &str| Join {
        protocols: vec![("range".to_owned(), Bytes::from(vec![7; 1 << 20]))],
        ..join(member)
    };
    let mut group = Group::default();
    let start = Instant::now();
    let mut waiting: Vec<_> = (0..2).map(|_| later(group.join(large(""), start))).collect();
    assert_eq!(now(group.join(large(""), start)).error, Code::UnknownServerError.code());
    group.expire(start + INITIAL_DELAY);
    let ids: Vec<String> = waiting.iter_mut().map(|w| w.try_recv().expect("joined").member).collect();
    let assign = |bytes: usize| ids.iter().map(|id| (id.clone(), Bytes::from(vec![7; bytes]))).collect();
    let synced = group.sync(sender(&ids[0], 1), (None, None), assign(MOST_BYTES / 2 + 1), start);
    assert_eq!(now(synced).error, Code::UnknownServerError.code());
    let synced = group.sync(sender(&ids[0], 1), (None, None), assign(1 << 20), start);
    assert_eq!(now(synced).error, 0);
    // One that is in it may join again.
    assert!(matches!(group.join(large(&ids[0]), start), Reply::Later(_)));
}
