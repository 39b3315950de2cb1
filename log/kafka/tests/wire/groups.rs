//! Groups of both protocols: what is there after a restart, what the broker shares out, who may do what; and leader epochs.

use super::*;

fn group(name: &str) -> GroupId {
    GroupId(StrBytes::from_string(name.to_owned()))
}

fn join(name: &str, member: StrBytes, instance: Option<&str>) -> JoinGroupRequest {
    let protocol = join_group_request::JoinGroupRequestProtocol::default()
        .with_name(StrBytes::from_static_str("range"))
        .with_metadata(Bytes::from_static(b"meta"));
    JoinGroupRequest::default()
        .with_group_id(group(name))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_member_id(member)
        .with_group_instance_id(instance.map(|name| StrBytes::from_string(name.to_owned())))
        .with_protocol_type(StrBytes::from_static_str("consumer"))
        .with_protocols(vec![protocol])
}

/// The only member of a group, with an assignment.
async fn alone(wire: &mut Wire, name: &str, instance: Option<&str>) -> StrBytes {
    let mut joined = wire.ask(&join(name, StrBytes::new(), instance), 9).await;
    if joined.error_code == 79 {
        joined = wire.ask(&join(name, joined.member_id, instance), 9).await;
    }
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    let mine = sync_group_request::SyncGroupRequestAssignment::default()
        .with_member_id(joined.member_id.clone())
        .with_assignment(Bytes::from_static(b"mine"));
    let sync = sync(name, &joined.member_id, 1, vec![mine]);
    let synced = wire.ask(&sync, 5).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"mine"[..]));
    joined.member_id
}

fn sync(
    name: &str,
    member: &StrBytes,
    generation: i32,
    assignments: Vec<sync_group_request::SyncGroupRequestAssignment>,
) -> SyncGroupRequest {
    SyncGroupRequest::default()
        .with_group_id(group(name))
        .with_generation_id(generation)
        .with_member_id(member.clone())
        .with_assignments(assignments)
}

fn heartbeat(name: &str, member: &StrBytes, generation: i32) -> HeartbeatRequest {
    HeartbeatRequest::default()
        .with_group_id(group(name))
        .with_member_id(member.clone())
        .with_generation_id(generation)
}

fn commit(name: &str, member: &StrBytes, generation: i32, offset: i64) -> OffsetCommitRequest {
    let of = offset_commit_request::OffsetCommitRequestPartition::default()
        .with_committed_offset(offset)
        .with_committed_metadata(Some(StrBytes::from_static_str("note")));
    let of = offset_commit_request::OffsetCommitRequestTopic::default()
        .with_name(super::name("t"))
        .with_partitions(vec![of]);
    OffsetCommitRequest::default()
        .with_group_id(group(name))
        .with_member_id(member.clone())
        .with_generation_id_or_member_epoch(generation)
        .with_topics(vec![of])
}

/// What a group has committed in the topic `t`: error, offset, metadata.
async fn committed(wire: &mut Wire, name: &str) -> (i16, i64, String) {
    let of = offset_fetch_request::OffsetFetchRequestTopics::default()
        .with_name(super::name("t"))
        .with_partition_indexes(vec![0]);
    let of = offset_fetch_request::OffsetFetchRequestGroup::default()
        .with_group_id(group(name))
        .with_topics(Some(vec![of]));
    let answer = wire.ask(&OffsetFetchRequest::default().with_groups(vec![of]), 8).await;
    let found = &answer.groups[0].topics[0].partitions[0];
    let metadata = found.metadata.as_ref().map(ToString::to_string).unwrap_or_default();
    (found.error_code, found.committed_offset, metadata)
}

/// Sends a request of version 9 as one of version 10: with `id` in the place of the topic `t`.
async fn ask_by_id<R: Request>(wire: &mut Wire, request: &R, id: uuid::Uuid) -> R::Response {
    let mut body = BytesMut::new();
    request.encode(&mut body, 9).expect("a request");
    if let Some(at) = body.windows(2).rposition(|bytes| bytes == b"\x02t") {
        body = BytesMut::from(&[&body[..at], id.as_bytes(), &body[at + 2..]].concat()[..]);
    }
    wire.correlation += 1;
    let mut frame = BytesMut::new();
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(10)
        .with_correlation_id(wire.correlation)
        .with_client_id(Some(StrBytes::from_static_str("wire")));
    header.encode(&mut frame, 2).expect("a header");
    frame.extend_from_slice(&body);
    wire.send_raw(&frame).await;
    wire.receive::<R::Response>(10).await.1
}

#[tokio::test]
async fn a_client_that_shares_nothing_commits_whatever_it_calls_itself() {
    let bench = Bench::new().await;
    bench.topic("t", 1).await;
    let mut wire = bench.connect().await;
    let itself = StrBytes::from_static_str("a-uuid");
    let code = |answer: OffsetCommitResponse| answer.topics[0].partitions[0].error_code;
    for offset in [5, 6] {
        assert_eq!(code(wire.ask(&commit("g", &itself, -1, offset), 9).await), 0);
        assert_eq!(committed(&mut wire, "g").await.1, offset);
    }
    assert_eq!(code(wire.ask(&commit("g", &itself, 1, 7), 9).await), 25, "a generation is a member's");
    alone(&mut wire, "g", None).await;
    assert_eq!(code(wire.ask(&commit("g", &itself, -1, 8), 9).await), 25, "now it is shared");
    assert_eq!(committed(&mut wire, "g").await.1, 6);
}

#[tokio::test]
async fn offsets_are_committed_and_fetched_by_the_ids_of_topics() {
    let bench = Bench::new().await;
    let t = bench.topic("t", 1).await;
    let mut wire = bench.connect().await;
    let nobody = StrBytes::new();
    let stranger = uuid::Uuid::from_u128(7);
    for (id, want) in [(t.id, 0), (stranger, 100)] {
        let answer = ask_by_id(&mut wire, &commit("g", &nobody, -1, 5), id).await;
        assert_eq!((answer.topics[0].topic_id, answer.topics[0].partitions[0].error_code), (id, want));
    }
    assert_eq!(committed(&mut wire, "g").await, (0, 5, "note".to_owned()));
    let of = |topics| {
        let of = offset_fetch_request::OffsetFetchRequestGroup::default()
            .with_group_id(group("g"))
            .with_member_epoch(-1)
            .with_topics(topics);
        OffsetFetchRequest::default().with_groups(vec![of])
    };
    let topic = offset_fetch_request::OffsetFetchRequestTopics::default()
        .with_name(super::name("t"))
        .with_partition_indexes(vec![0]);
    let named = of(Some(vec![topic]));
    for (request, id, want) in
        [(&named, t.id, (0, 5)), (&named, stranger, (100, -1)), (&of(None), t.id, (0, 5))]
    {
        let answer = ask_by_id(&mut wire, request, id).await;
        let found = &answer.groups[0].topics[0];
        let partition = &found.partitions[0];
        assert_eq!((found.topic_id, partition.error_code, partition.committed_offset), (id, want.0, want.1));
    }
    // Its name is another's now.
    bench.log.delete_topic("t").await.expect("deleted");
    let other = bench.topic("t", 1).await;
    let answer = ask_by_id(&mut wire, &commit("g", &nobody, -1, 6), t.id).await;
    assert_eq!(answer.topics[0].partitions[0].error_code, 100);
    let answer = ask_by_id(&mut wire, &named, other.id).await;
    assert_eq!(answer.groups[0].topics[0].partitions[0].committed_offset, -1);
}

/// Name, state, protocol type and kind of all groups.
async fn listed(wire: &mut Wire) -> Vec<(String, String, String, String)> {
    let answer = wire.ask(&ListGroupsRequest::default(), 5).await;
    let mut groups: Vec<_> = answer
        .groups
        .iter()
        .map(|g| {
            let texts = [&g.group_id.0, &g.group_state, &g.protocol_type, &g.group_type];
            let [name, state, kind, of] = texts.map(ToString::to_string);
            (name, state, kind, of)
        })
        .collect();
    groups.sort();
    groups
}

fn strings(row: [&str; 4]) -> (String, String, String, String) {
    let [a, b, c, d] = row.map(str::to_owned);
    (a, b, c, d)
}

#[tokio::test]
async fn members_of_a_classic_group_go_on_after_a_restart_as_if_nothing_had_been() {
    let bench = Bench::new().await;
    bench.topic("t", 1).await;
    let (mut one, mut two, mut three) = (bench.connect().await, bench.connect().await, bench.connect().await);
    let member = alone(&mut one, "g", None).await;
    let fixed = alone(&mut two, "fixed", Some("i")).await;
    let leaver = alone(&mut three, "left", None).await;
    for (wire, name, member) in
        [(&mut one, "g", &member), (&mut two, "fixed", &fixed), (&mut three, "left", &leaver)]
    {
        let answer = wire.ask(&commit(name, member, 1, 0), 8).await;
        assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    }
    let identity = leave_group_request::MemberIdentity::default().with_member_id(leaver);
    let leave = LeaveGroupRequest::default().with_group_id(group("left")).with_members(vec![identity]);
    assert_eq!(three.ask(&leave, 5).await.members[0].error_code, 0);
    let stored = async {
        while !bench
            .log
            .group_members()
            .expect("groups")
            .iter()
            .any(|(name, row)| name == "left" && row.contains("\"members\":[]"))
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), stored).await.expect("that it is empty is stored");

    let bench = bench.restarted().await;
    let mut wire = bench.connect().await;
    assert_eq!(wire.ask(&heartbeat("g", &member, 1), 4).await.error_code, 0);
    assert_eq!(wire.ask(&heartbeat("g", &member, 2), 4).await.error_code, 22, "another generation is fenced");
    assert_eq!(wire.ask(&commit("g", &member, 1, 1), 8).await.topics[0].partitions[0].error_code, 0);
    assert_eq!(committed(&mut wire, "g").await, (0, 1, "note".to_owned()));
    let synced = wire.ask(&sync("g", &member, 1, Vec::new()), 5).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"mine"[..]));
    let want = [
        strings(["fixed", "Stable", "consumer", "classic"]),
        strings(["g", "Stable", "consumer", "classic"]),
        strings(["left", "Empty", "consumer", "classic"]),
    ];
    assert_eq!(listed(&mut wire).await, want);
    let described = wire.ask(&DescribeGroupsRequest::default().with_groups(vec![group("g")]), 6).await;
    let only = &described.groups[0];
    assert_eq!((only.protocol_data.as_str(), only.members.len()), ("range", 1));
    assert_eq!(
        (&only.members[0].member_metadata[..], &only.members[0].member_assignment[..]),
        (&b"meta"[..], &b"mine"[..])
    );
    assert_eq!(committed(&mut wire, "left").await, (0, 0, "note".to_owned()));
    // The static member's process was killed, too: it comes as a new one, and nothing has to be shared out again.
    let back = wire.ask(&join("fixed", StrBytes::new(), Some("i")), 9).await;
    assert_eq!((back.error_code, back.generation_id), (0, 1));
    assert_ne!(back.member_id, fixed);
    let synced = wire.ask(&sync("fixed", &back.member_id, 1, Vec::new()), 5).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"mine"[..]));
    // A group that was left goes on behind its generations.
    let again = wire.ask(&join("left", StrBytes::new(), None), 9).await;
    let again = wire.ask(&join("left", again.member_id, None), 9).await;
    assert!(again.generation_id > 2, "generation {}", again.generation_id);
}

/// A member's id, given before it joins.
async fn id(wire: &mut Wire, name: &str) -> StrBytes {
    let given = wire.ask(&join(name, StrBytes::new(), None), 9).await;
    assert_eq!(given.error_code, 79);
    given.member_id
}

fn assigned(member: &StrBytes, what: &'static [u8]) -> sync_group_request::SyncGroupRequestAssignment {
    sync_group_request::SyncGroupRequestAssignment::default()
        .with_member_id(member.clone())
        .with_assignment(Bytes::from_static(what))
}

/// Waits until a member hears that its group is rebalancing.
async fn rebalancing(wire: &mut Wire, name: &str, member: &StrBytes, generation: i32) {
    let heard = async { while wire.ask(&heartbeat(name, member, generation), 4).await.error_code != 27 {} };
    tokio::time::timeout(Duration::from_secs(20), heard).await.expect("it is told to join again");
}

#[tokio::test]
async fn whoever_was_told_a_generation_is_in_it_after_a_restart() {
    let bench = Bench::new().await;
    let mut one = bench.connect().await;
    let first = id(&mut one, "g").await;
    assert_eq!(one.ask(&join("g", first.clone(), None), 9).await.generation_id, 1);

    // Killed before the leader has assigned.
    let bench = bench.restarted().await;
    let (mut one, mut two) = (bench.connect().await, bench.connect().await);
    assert_eq!(one.ask(&heartbeat("g", &first, 1), 4).await.error_code, 0);
    let synced = one.ask(&sync("g", &first, 1, vec![assigned(&first, b"all")]), 5).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all"[..]));
    let second = id(&mut two, "g").await;
    two.send(&join("g", second.clone(), None), 9).await;
    rebalancing(&mut one, "g", &first, 1).await;
    let led = one.ask(&join("g", first.clone(), None), 9).await;
    assert_eq!((led.error_code, led.generation_id, led.members.len()), (0, 2, 2));
    let (_, follows) = two.receive::<JoinGroupResponse>(9).await;
    assert_eq!((follows.error_code, follows.generation_id), (0, 2));

    // And in the midst of a rebalance of two.
    let bench = bench.restarted().await;
    let (mut one, mut two) = (bench.connect().await, bench.connect().await);
    two.send(&sync("g", &second, 2, Vec::new()), 5).await;
    let both = vec![assigned(&first, b"one half"), assigned(&second, b"the other")];
    let synced = one.ask(&sync("g", &first, 2, both), 5).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"one half"[..]));
    let (_, synced) = two.receive::<SyncGroupResponse>(5).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"the other"[..]));

    let bench = bench.restarted().await;
    let mut wire = bench.connect().await;
    for member in [&first, &second] {
        assert_eq!(wire.ask(&heartbeat("g", member, 2), 4).await.error_code, 0);
    }
}

#[tokio::test]
async fn a_static_member_that_came_back_is_known_after_a_restart() {
    let bench = Bench::new().await;
    let mut wire = bench.connect().await;
    let former = alone(&mut wire, "g", Some("i")).await;
    let back = wire.ask(&join("g", StrBytes::new(), Some("i")), 9).await;
    assert_eq!((back.error_code, back.generation_id), (0, 1));

    let bench = bench.restarted().await;
    let mut wire = bench.connect().await;
    let instance = Some(StrBytes::from_static_str("i"));
    let of = |member: &StrBytes| heartbeat("g", member, 1).with_group_instance_id(instance.clone());
    assert_eq!(wire.ask(&of(&back.member_id), 4).await.error_code, 0);
    assert_eq!(wire.ask(&of(&former), 4).await.error_code, 82, "its former self is fenced");
}

#[tokio::test]
async fn a_member_that_a_kill_kept_from_hearing_of_its_generation_joins_again_and_loses_nothing() {
    let bench = Bench::new().await;
    bench.topic("t", 1).await;
    let (mut one, mut two) = (bench.connect().await, bench.connect().await);
    let first = alone(&mut one, "g", None).await;
    let second = id(&mut two, "g").await;
    two.send(&join("g", second.clone(), None), 9).await;
    rebalancing(&mut one, "g", &first, 1).await;
    // Its answer never comes: killed behind the step that stores the generation.
    one.send(&join("g", first.clone(), None), 9).await;
    let stored = async {
        while !bench.log.group_members().expect("groups")[0].1.contains("\"generation\":2") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), stored).await.expect("the generation is stored");

    let bench = bench.restarted().await;
    let (mut one, mut two) = (bench.connect().await, bench.connect().await);
    assert_eq!(one.ask(&heartbeat("g", &first, 1), 4).await.error_code, 27);
    assert_eq!(one.ask(&commit("g", &first, 1, 0), 8).await.topics[0].partitions[0].error_code, 27);
    for (wire, member) in [(&mut one, &first), (&mut two, &second)] {
        let told = wire.ask(&join("g", member.clone(), None), 9).await;
        assert_eq!((told.error_code, told.generation_id, &told.member_id), (0, 2, member));
    }
    let all = vec![assigned(&first, b"mine"), assigned(&second, b"")];
    let synced = one.ask(&sync("g", &first, 2, all), 5).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"mine"[..]));
    assert_eq!(one.ask(&commit("g", &first, 2, 1), 8).await.topics[0].partitions[0].error_code, 0);
    assert_eq!(one.ask(&heartbeat("g", &first, 1), 4).await.error_code, 22, "it knows better now");
}

/// A heartbeat of the new protocol; the first one subscribes to `t`.
fn beat(
    name: &str,
    member: &str,
    epoch: i32,
    has: &[(uuid::Uuid, Vec<i32>)],
) -> ConsumerGroupHeartbeatRequest {
    let of = |(id, partitions): &(uuid::Uuid, Vec<i32>)| {
        consumer_group_heartbeat_request::TopicPartitions::default()
            .with_topic_id(*id)
            .with_partitions(partitions.clone())
    };
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group(name))
        .with_member_id(StrBytes::from_string(member.to_owned()))
        .with_member_epoch(epoch)
        .with_rebalance_timeout_ms(if epoch == 0 { 60_000 } else { -1 })
        .with_subscribed_topic_names((epoch == 0).then(|| vec![super::name("t")]))
        .with_topic_partitions(Some(has.iter().map(of).collect()))
}

/// The partitions that an answer tells, if it does.
fn told(answer: &ConsumerGroupHeartbeatResponse) -> Option<Vec<i32>> {
    assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
    let topics = &answer.assignment.as_ref()?.topic_partitions;
    Some(topics.iter().flat_map(|topic| topic.partitions.clone()).collect())
}

#[tokio::test]
async fn the_broker_shares_out_partitions_and_knows_who_has_them_after_a_restart() {
    let bench = Bench::new().await;
    let t = bench.topic("t", 4).await;
    let mut wire = bench.connect().await;
    let first = wire.ask(&beat("g", "a", 0, &[]), 1).await;
    assert_eq!((first.member_epoch, told(&first)), (1, Some(vec![0, 1, 2, 3])));
    let second = wire.ask(&beat("g", "b", 0, &[]), 1).await;
    assert_eq!((second.member_epoch, told(&second)), (2, Some(vec![])));
    let less = wire.ask(&beat("g", "a", 1, &[(t.id, vec![0, 1, 2, 3])]), 1).await;
    let kept = told(&less).expect("it has to give up two");
    assert_eq!((less.member_epoch, kept.len()), (1, 2));

    // Killed in the midst of it: what was told is known.
    let bench = bench.restarted().await;
    let mut wire = bench.connect().await;
    let waits = wire.ask(&beat("g", "b", 2, &[]), 1).await;
    assert_eq!((waits.member_epoch, told(&waits)), (2, None), "nobody has given anything up");
    let done = wire.ask(&beat("g", "a", 1, &[(t.id, kept.clone())]), 1).await;
    assert_eq!((done.member_epoch, told(&done)), (2, None));
    let got = told(&wire.ask(&beat("g", "b", 2, &[]), 1).await).expect("the rest");
    assert_eq!(got.len(), 2);
    assert!(got.iter().all(|partition| !kept.contains(partition)));

    let described = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group("g"), group("none")]);
    let described = wire.ask(&described, 1).await;
    let of = &described.groups[0];
    assert_eq!((of.error_code, of.group_state.as_str(), of.assignor_name.as_str()), (0, "Stable", "uniform"));
    assert_eq!((of.group_epoch, of.assignment_epoch, of.members.len()), (2, 2, 2));
    let shares = of.members[0].assignment.topic_partitions[0].clone();
    assert_eq!((shares.topic_name.as_str(), shares.partitions), ("t", kept.clone()));
    assert_eq!(described.groups[1].error_code, 69);
    assert_eq!(listed(&mut wire).await, [strings(["g", "Stable", "consumer", "consumer"])]);

    // Offsets: of members of their epochs only.
    let member = StrBytes::from_static_str("a");
    for (epoch, want) in [(2, 0), (1, 113)] {
        let answer = wire.ask(&commit("g", &member, epoch, 0), 9).await;
        assert_eq!(answer.topics[0].partitions[0].error_code, want, "epoch {epoch}");
    }
    let of = offset_fetch_request::OffsetFetchRequestGroup::default()
        .with_group_id(group("g"))
        .with_member_id(Some(member))
        .with_topics(None);
    for (epoch, want) in [(2, 0), (1, 113)] {
        let asked = OffsetFetchRequest::default().with_groups(vec![of.clone().with_member_epoch(epoch)]);
        assert_eq!(wire.ask(&asked, 9).await.groups[0].error_code, want, "epoch {epoch}");
    }
    // The older protocol has no place in it while it has members, and takes it over when it has none.
    let refused = wire.ask(&join("g", StrBytes::new(), None), 9).await;
    assert_eq!(refused.error_code, 23);
    let delete = DeleteGroupsRequest::default().with_groups_names(vec![group("g")]);
    assert_eq!(wire.ask(&delete, 2).await.results[0].error_code, 68, "it has members");
    for (member, epoch) in [("a", 2), ("b", 2)] {
        assert!(wire.ask(&beat("g", member, epoch, &[]).with_member_epoch(-1), 1).await.error_code == 0);
    }
    let taken = wire.ask(&join("g", StrBytes::new(), None), 9).await;
    let taken = wire.ask(&join("g", taken.member_id, None), 9).await;
    assert_eq!(taken.error_code, 0);
    assert!(taken.generation_id > 2, "generations go on behind the epochs: {}", taken.generation_id);
    let refused = wire.ask(&beat("g", "a", 0, &[]), 1).await;
    assert_eq!(refused.error_code, 69, "now it is a classic group");
    assert_eq!(committed(&mut wire, "g").await, (0, 0, "note".to_owned()), "the offsets are the same");
}

#[tokio::test]
async fn a_heartbeat_that_says_too_little_is_refused_and_old_clients_are_given_ids() {
    let bench = Bench::new().await;
    bench.topic("t", 1).await;
    let mut wire = bench.connect().await;
    let good = || beat("g", "a", 0, &[]);
    for (what, wrong) in [
        ("no subscription", good().with_subscribed_topic_names(None)),
        ("no time", good().with_rebalance_timeout_ms(-1)),
        ("no list of partitions", good().with_topic_partitions(None)),
        ("no id", good().with_member_id(StrBytes::new())),
        ("an empty group", good().with_group_id(group(""))),
        ("no such epoch", good().with_member_epoch(-3)),
    ] {
        assert_eq!(wire.ask(&wrong, 1).await.error_code, 42, "{what}");
    }
    let wrong = good().with_subscribed_topic_regex(Some(StrBytes::from_static_str("[")));
    assert_eq!(wire.ask(&wrong, 1).await.error_code, 128);
    let wrong = good().with_server_assignor(Some(StrBytes::from_static_str("mine")));
    assert_eq!(wire.ask(&wrong, 1).await.error_code, 112);
    assert_eq!(wire.ask(&beat("g", "a", 3, &[]), 1).await.error_code, 25, "nobody knows it");
    let given = wire.ask(&good().with_member_id(StrBytes::new()), 0).await;
    assert!(given.error_code == 0 && given.member_id.is_some_and(|id| !id.is_empty()));
}

#[tokio::test]
async fn epochs_of_the_leader_are_told_and_others_are_refused() {
    let bench = Bench::new().await;
    let t = bench.topic("t", 1).await;
    let mut wire = bench.connect().await;
    let batch = bench.batch(&["a", "b"], -1, 0).await;
    wire.ask(&produce(&t, 9, -1, &batch), 9).await;
    let asked = metadata_request::MetadataRequestTopic::default().with_name(Some(name("t")));
    let metadata = wire.ask(&MetadataRequest::default().with_topics(Some(vec![asked])), 9).await;
    assert_eq!(metadata.topics[0].partitions[0].leader_epoch, 0);
    // Older versions of answers have no room for it, and are answered all the same.
    let of = list_offsets_request::ListOffsetsPartition::default().with_timestamp(-1);
    let of = list_offsets_request::ListOffsetsTopic::default().with_name(name("t")).with_partitions(vec![of]);
    let list = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![of]);
    for version in 1..=10 {
        let answer = wire.ask(&list, version).await;
        let latest = &answer.topics[0].partitions[0];
        let epoch = if version < 4 { -1 } else { 0 };
        assert_eq!(
            (latest.error_code, latest.offset, latest.leader_epoch),
            (0, 2, epoch),
            "version {version}"
        );
    }
    let ends = |current: i32, epoch: i32| {
        let of = offset_for_leader_epoch_request::OffsetForLeaderPartition::default()
            .with_current_leader_epoch(current)
            .with_leader_epoch(epoch);
        let of = offset_for_leader_epoch_request::OffsetForLeaderTopic::default()
            .with_topic(name("t"))
            .with_partitions(vec![of]);
        OffsetForLeaderEpochRequest::default().with_replica_id((-1).into()).with_topics(vec![of])
    };
    for version in 2..=4 {
        for (current, epoch, want) in
            [(0, 0, (0, 0, 2)), (-1, 0, (0, 0, 2)), (0, 1, (0, -1, -1)), (1, 0, (75, -1, -1))]
        {
            let answer = wire.ask(&ends(current, epoch), version).await;
            let end = &answer.topics[0].partitions[0];
            assert_eq!((end.error_code, end.leader_epoch, end.end_offset), want, "{current} {epoch}");
        }
    }
    let mut asked = fetch(&t, 12, 0, 0);
    asked.topics[0].partitions[0].current_leader_epoch = 7;
    assert_eq!(wire.ask(&asked, 12).await.responses[0].partitions[0].error_code, 75);
    asked.topics[0].partitions[0].current_leader_epoch = 0;
    assert_eq!(wire.ask(&asked, 12).await.responses[0].partitions[0].error_code, 0);
}

#[tokio::test]
async fn metadata_and_assignments_that_no_group_needs_are_refused() {
    let bench = Bench::new().await;
    let mut wire = bench.connect().await;
    let large = Bytes::from(vec![7; (1 << 20) + 1]);
    let mut too_large = join("g", StrBytes::new(), None);
    too_large.protocols[0].metadata = large.clone();
    for version in [0, 5, 9] {
        assert_eq!(wire.ask(&too_large, version).await.error_code, -1);
    }
    let member = alone(&mut wire, "g", None).await;
    let mine = sync_group_request::SyncGroupRequestAssignment::default()
        .with_member_id(member.clone())
        .with_assignment(large);
    assert_eq!(wire.ask(&sync("g", &member, 1, vec![mine]), 5).await.error_code, -1);
    assert_eq!(wire.ask(&heartbeat("g", &member, 1), 4).await.error_code, 0, "the group is as it was");
}
