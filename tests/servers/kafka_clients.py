#!/usr/bin/env python3
"""Kafka's own clients against a running Tarn.

usage: kafka_clients.py BOOTSTRAP CLIENT [CHECK...]

CLIENT is confluent (librdkafka), confluent-consumer (the same with the groups of KIP-848) or kafka-python. Each CHECK is a function below; without one, all are run. Prints one line per
check (`not there` of one for what the client has not), and of a check that fails what was wrong. Exit code: 0 all passed, 1 some failed.

       kafka_clients.py BOOTSTRAP CLIENT member GROUP TOPIC

runs one member of a group until it is killed: a line `PARTITION OFFSET` on stdout for each record, committed after each. What its
user would see of trouble, and what it is assigned or loses, is told on stderr.
"""

import collections
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import uuid

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
Record = collections.namedtuple("Record", "partition offset timestamp key value headers")


class Confluent:
    """confluent-kafka, on librdkafka."""

    grouping = {}

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap

    def version(self):
        import confluent_kafka
        return f"confluent-kafka {confluent_kafka.__version__}, librdkafka {confluent_kafka.libversion()[0]}"

    def create(self, topic, partitions=1, config=None):
        from confluent_kafka.admin import AdminClient, NewTopic
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for done in admin.create_topics([NewTopic(topic, partitions, 1, config=config or {})]).values():
            done.result(30)

    def produce(self, topic, records, codec="none", idempotent=False, partition=None, timestamp=None, acks="all"):
        from confluent_kafka import Producer
        producer = Producer({
            "bootstrap.servers": self.bootstrap, "compression.type": codec, "enable.idempotence": idempotent,
            "acks": "all" if idempotent else acks, "linger.ms": 5,
        })
        failed, offsets = [], []
        def told(error, message):
            (failed.append(error) if error else offsets.append((message.partition(), message.offset())))
        for key, value, headers in records:
            more = {"partition": partition} if partition is not None else {}
            more |= {"timestamp": timestamp} if timestamp is not None else {}
            producer.produce(topic, value, key, headers=headers, on_delivery=told, **more)
            producer.poll(0)
        assert producer.flush(60) == 0, "not everything was delivered"
        assert not failed, failed[:3]
        return offsets

    def consume(self, topic, count, group=None, seconds=60, commit=False):
        from confluent_kafka import Consumer
        consumer = Consumer({
            "bootstrap.servers": self.bootstrap, "group.id": group or f"g-{uuid.uuid4()}",
            "auto.offset.reset": "earliest", "enable.auto.commit": False, "check.crcs": True, **self.grouping,
        })
        consumer.subscribe([topic])
        records, until = [], time.monotonic() + seconds
        while len(records) < count and time.monotonic() < until:
            message = consumer.poll(0.5)
            if message is None:
                continue
            assert not message.error(), message.error()
            records.append(Record(message.partition(), message.offset(), message.timestamp()[1], message.key(),
                                  message.value(), message.headers() or []))
        if commit:
            consumer.commit(asynchronous=False)
        consumer.close()
        return records

    def offset_at(self, topic, partition, timestamp):
        from confluent_kafka import Consumer, TopicPartition
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "times"})
        found = consumer.offsets_for_times([TopicPartition(topic, partition, timestamp)], timeout=30)[0]
        consumer.close()
        return found.offset

    def ends(self, topic, partition):
        from confluent_kafka import Consumer, TopicPartition
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "ends"})
        low_high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
        consumer.close()
        return low_high

    def groups(self):
        from confluent_kafka.admin import AdminClient
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        return {g.group_id for g in admin.list_consumer_groups().result(30).valid}

    def administer(self, topic):
        from confluent_kafka import KafkaException, TopicPartition
        from confluent_kafka.admin import (
            AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, ResourceType)
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        try:
            self.create(topic)
        except KafkaException as error:
            assert error.args[0].name() == "TOPIC_ALREADY_EXISTS", error
        else:
            raise AssertionError("a topic was created twice")
        for done in admin.create_partitions([NewPartitions(topic, 3)]).values():
            done.result(30)
        assert len(admin.list_topics(topic, timeout=30).topics[topic].partitions) == 3
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[
            ConfigEntry("retention.ms", "86400000", incremental_operation=AlterConfigOpType.SET)])
        for done in admin.incremental_alter_configs([resource]).values():
            done.result(30)
        for done in admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values():
            assert done.result(30)["retention.ms"].value == "86400000"
        for done in admin.delete_records([TopicPartition(topic, 0, 2)]).values():
            assert done.result(30).low_watermark == 2
        assert admin.describe_cluster().result(30).cluster_id == "tarn"
        return lambda: [done.result(30) for done in admin.delete_topics([topic]).values()]

    def describe_group(self, group):
        from confluent_kafka.admin import AdminClient
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        described = admin.describe_consumer_groups([group])[group].result(30)
        offsets = admin.list_consumer_group_offsets(
            [__import__("confluent_kafka").ConsumerGroupTopicPartitions(group)])[group].result(30)
        return described.state.name, sum(p.offset for p in offsets.topic_partitions)

    def delete_group(self, group):
        from confluent_kafka.admin import AdminClient
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for done in admin.delete_consumer_groups([group]).values():
            done.result(30)

    def transactional(self, id):
        from confluent_kafka import Producer
        producer = Producer({
            "bootstrap.servers": self.bootstrap, "transactional.id": id, "transaction.timeout.ms": 60000, "linger.ms": 2,
        })
        producer.init_transactions(60)
        return producer

    def transaction(self, producer, topic, values, commit, offsets=None):
        """Values to partition 0 and 1 in turn; offsets are a consumer and what it has reached."""
        producer.begin_transaction()
        failed = []
        for n, value in enumerate(values):
            producer.produce(topic, value, partition=n % 2, on_delivery=lambda error, _: failed.append(error) if error else None)
        assert producer.flush(60) == 0 and not failed, failed[:3]
        if offsets:
            consumer, reached = offsets
            producer.send_offsets_to_transaction(reached, consumer.consumer_group_metadata(), 60)
        (producer.commit_transaction if commit else producer.abort_transaction)(60)

    def fenced(self, producer):
        """Whether a producer that was replaced is told so when it ends what it left open."""
        from confluent_kafka import KafkaError, KafkaException
        try:
            producer.commit_transaction(60)
        except KafkaException as error:
            codes = KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH
            assert error.args[0].code() in codes, error
            return True
        return False

    def read(self, topic, isolation, partitions=2):
        """All values of a topic up to its end, with this isolation level."""
        from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
        consumer = Consumer({
            "bootstrap.servers": self.bootstrap, "group.id": fresh("reader"), "isolation.level": isolation,
            "enable.partition.eof": True, "enable.auto.commit": False, "check.crcs": True,
        })
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(partitions)])
        values, ended, until = [], set(), time.monotonic() + 60
        while len(ended) < partitions:
            assert time.monotonic() < until, f"only {len(values)} values and the ends of {ended}"
            message = consumer.poll(0.5)
            if message is None:
                continue
            if message.error():
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                ended.add(message.partition())
                continue
            values.append(message.value())
        consumer.close()
        return values

    def copy(self, source, target, group, id, count):
        """Reads, processes and writes exactly once, some of it twice on the way: every third transaction is aborted."""
        from confluent_kafka import Consumer, TopicPartition
        producer = self.transactional(id)
        consumer = Consumer({
            "bootstrap.servers": self.bootstrap, "group.id": group, "isolation.level": "read_committed",
            "auto.offset.reset": "earliest", "enable.auto.commit": False,
        })
        consumer.subscribe([source])
        done, turn, until = 0, 0, time.monotonic() + 90
        while done < count:
            assert time.monotonic() < until, f"{done} of {count} were copied"
            messages = [m for m in consumer.consume(25, 1) if not m.error()]
            if not messages:
                continue
            turn += 1
            commit = turn % 3 != 0
            reached = consumer.position(consumer.assignment())
            reached = [at for at in reached if at.offset >= 0]
            self.transaction(producer, target, [m.value() + b" copied" for m in messages], commit, (consumer, reached))
            if commit:
                done += len(messages)
                continue
            # What was aborted is read again, from what the group has committed.
            first = {}
            for m in messages:
                first[m.partition()] = min(m.offset(), first.get(m.partition(), m.offset()))
            for partition, offset in first.items():
                consumer.seek(TopicPartition(source, partition, offset))
        consumer.close()

    def member(self, group, topic):
        from confluent_kafka import Consumer
        consumer = Consumer({
            "bootstrap.servers": self.bootstrap, "group.id": group, "auto.offset.reset": "earliest",
            "enable.auto.commit": False, **(self.grouping or {"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000}),
            "reconnect.backoff.max.ms": 200,
        })
        tell = lambda what: lambda _, partitions: print(what, len(partitions), file=sys.stderr, flush=True)
        consumer.subscribe([topic], on_assign=tell("assigned"), on_revoke=tell("revoked"), on_lost=tell("lost"))
        while True:
            message = consumer.poll(1)
            if message is None or message.error():
                continue
            print(message.partition(), message.offset(), flush=True)
            try:
                consumer.commit(message, asynchronous=False)
            except Exception as error:
                print("not committed:", error, file=sys.stderr, flush=True)


class ConfluentConsumer(Confluent):
    """confluent-kafka with the groups of KIP-848."""

    grouping = {"group.protocol": "consumer"}

    def static(self, group, topic, instance):
        from confluent_kafka import Consumer
        consumer = Consumer({
            "bootstrap.servers": self.bootstrap, "group.id": group, "group.instance.id": instance,
            "auto.offset.reset": "earliest", "enable.auto.commit": False, **self.grouping,
        })
        consumer.subscribe([topic])
        return consumer


class KafkaPython:
    """kafka-python, written in Python."""

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap

    def version(self):
        import kafka
        return f"kafka-python {kafka.__version__}"

    def admin(self):
        from kafka.admin import KafkaAdminClient
        return KafkaAdminClient(bootstrap_servers=self.bootstrap)

    def create(self, topic, partitions=1, config=None):
        from kafka.admin import NewTopic
        admin = self.admin()
        admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=config or {})])
        admin.close()

    def produce(self, topic, records, codec="none", idempotent=False, partition=None, timestamp=None, acks="all"):
        from kafka import KafkaProducer
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap, compression_type=None if codec == "none" else codec,
            acks="all" if idempotent else (int(acks) if acks != "all" else acks),
            enable_idempotence=idempotent, linger_ms=5)
        futures = [
            producer.send(topic, value, key, headers=headers or [], partition=partition, timestamp_ms=timestamp)
            for key, value, headers in records
        ]
        producer.flush(60)
        done = [future.get(60) for future in futures]
        producer.close()
        return [(sent.partition, sent.offset) for sent in done]

    def consume(self, topic, count, group=None, seconds=60, commit=False):
        from kafka import KafkaConsumer
        consumer = KafkaConsumer(
            topic, bootstrap_servers=self.bootstrap, group_id=group or f"g-{uuid.uuid4()}",
            auto_offset_reset="earliest", enable_auto_commit=False, check_crcs=True, consumer_timeout_ms=1000)
        records, until = [], time.monotonic() + seconds
        while len(records) < count and time.monotonic() < until:
            for m in consumer:
                records.append(Record(m.partition, m.offset, m.timestamp, m.key, m.value, m.headers))
                if len(records) == count:
                    break
        if commit:
            consumer.commit()
        consumer.close()
        return records

    def transactional(self, id):
        from kafka import KafkaProducer
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap, transactional_id=id, enable_idempotence=True, acks="all",
            transaction_timeout_ms=60000, linger_ms=2)
        producer.init_transactions()
        producer.produce = lambda topic, value, partition: producer.send(topic, value, partition=partition)
        flush = producer.flush
        producer.flush = lambda timeout=None: flush(timeout) or 0
        return producer

    def transaction(self, producer, topic, values, commit):
        producer.begin_transaction()
        for n, value in enumerate(values):
            producer.send(topic, value, partition=n % 2)
        producer.flush(60)
        (producer.commit_transaction if commit else producer.abort_transaction)()

    def fenced(self, producer):
        from kafka.errors import InvalidProducerEpochError, ProducerFencedError
        try:
            producer.commit_transaction()
        except (ProducerFencedError, InvalidProducerEpochError):
            return True
        return False

    def read(self, topic, isolation, partitions=2):
        from kafka import KafkaConsumer, TopicPartition
        consumer = KafkaConsumer(
            bootstrap_servers=self.bootstrap, isolation_level=isolation, enable_auto_commit=False, consumer_timeout_ms=2000)
        consumer.assign([TopicPartition(topic, p) for p in range(partitions)])
        consumer.seek_to_beginning()
        values = [m.value for m in consumer]
        consumer.close()
        return values

    def reader(self):
        from kafka import KafkaConsumer
        return KafkaConsumer(bootstrap_servers=self.bootstrap)

    def offset_at(self, topic, partition, timestamp):
        from kafka import TopicPartition
        reader, at = self.reader(), TopicPartition(topic, partition)
        found = reader.offsets_for_times({at: timestamp})[at]
        reader.close()
        return found.offset if found else -1

    def ends(self, topic, partition):
        from kafka import TopicPartition
        reader, at = self.reader(), TopicPartition(topic, partition)
        found = reader.beginning_offsets([at])[at], reader.end_offsets([at])[at]
        reader.close()
        return found

    def groups(self):
        admin = self.admin()
        groups = {g["group_id"] if isinstance(g, dict) else g[0] for g in admin.list_groups()} \
            if hasattr(admin, "list_groups") else {g[0] for g in admin.list_consumer_groups()}
        admin.close()
        return groups

    def administer(self, topic):
        from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions
        from kafka.errors import TopicAlreadyExistsError
        try:
            self.create(topic)
        except TopicAlreadyExistsError:
            pass
        else:
            raise AssertionError("a topic was created twice")
        admin = self.admin()
        admin.create_partitions({topic: NewPartitions(3)})
        assert len(admin.describe_topics([topic])[0]["partitions"]) == 3
        described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        assert "retention.ms" in str(described), described
        return lambda: (admin.delete_topics([topic]), admin.close())

    def describe_group(self, group):
        admin = self.admin()
        described = (admin.describe_groups if hasattr(admin, "describe_groups") else admin.describe_consumer_groups)([group])
        offsets = (admin.list_group_offsets if hasattr(admin, "list_group_offsets") else admin.list_consumer_group_offsets)(group)
        admin.close()
        if isinstance(offsets, dict) and group in offsets:
            offsets = offsets[group]
        state = "EMPTY" if "Empty" in str(described) or "EMPTY" in str(described) else str(described)
        return state, sum(p.offset for p in offsets.values())

    def delete_group(self, group):
        admin = self.admin()
        (admin.delete_groups if hasattr(admin, "delete_groups") else admin.delete_consumer_groups)([group])
        admin.close()

    def member(self, group, topic):
        from kafka import KafkaConsumer
        from kafka.structs import OffsetAndMetadata, TopicPartition
        consumer = KafkaConsumer(
            topic, bootstrap_servers=self.bootstrap, group_id=group, auto_offset_reset="earliest",
            enable_auto_commit=False, session_timeout_ms=6000, heartbeat_interval_ms=1000, max_poll_records=10)
        for m in consumer:
            print(m.partition, m.offset, flush=True)
            try:
                consumer.commit({TopicPartition(topic, m.partition): OffsetAndMetadata(m.offset + 1, "", -1)})
            except Exception as error:
                print("not committed:", error, file=sys.stderr, flush=True)


CLIENTS = {"confluent": Confluent, "confluent-consumer": ConfluentConsumer, "kafka-python": KafkaPython}


def fresh(name):
    return f"{name}-{uuid.uuid4().hex[:8]}"


def every_compression_with_keys_and_headers(client):
    topic = fresh("codecs")
    client.create(topic)
    sent = []
    for codec in CODECS:
        records = [
            (f"key-{n}".encode(), f"{codec} {n} ".encode() * 50, [("codec", codec.encode()), ("n", str(n).encode())])
            for n in range(200)
        ]
        records.append((None, b"", [("empty", b"")]))
        records.append((b"only a key", None, []))
        client.produce(topic, records, codec)
        sent += records
    got = client.consume(topic, len(sent))
    assert [(r.key, r.value, list(r.headers)) for r in got] == sent, f"{len(got)} of {len(sent)}, or others"
    assert [r.offset for r in got] == list(range(len(sent)))


def acks_zero_one_and_all(client):
    topic = fresh("acks")
    client.create(topic)
    for acks in ["0", "1", "all"]:
        client.produce(topic, [(None, f"{acks} {n}".encode(), []) for n in range(100)], acks=acks)
    got = client.consume(topic, 300)
    assert len(got) == 300, len(got)


def idempotent_producer(client):
    topic = fresh("idempotent")
    client.create(topic, partitions=4)
    sent = [(str(n % 17).encode(), str(n).encode(), []) for n in range(5000)]
    client.produce(topic, sent, "lz4", idempotent=True)
    got = client.consume(topic, len(sent))
    by_key = collections.defaultdict(list)
    for record in got:
        by_key[record.key].append(int(record.value))
    assert len(got) == len(sent) and all(numbers == sorted(numbers) for numbers in by_key.values())


def offsets_by_time(client):
    topic = fresh("times")
    client.create(topic)
    for n in range(10):
        client.produce(topic, [(None, b"x", [])], timestamp=1_000_000 + n * 1000)
    assert client.ends(topic, 0) == (0, 10), client.ends(topic, 0)
    assert client.offset_at(topic, 0, 1_000_000) == 0
    assert client.offset_at(topic, 0, 1_004_500) == 5


def a_topic_is_created_by_being_asked_for(client):
    topic = fresh("auto")
    client.produce(topic, [(None, b"first", [])])
    assert [r.value for r in client.consume(topic, 1)] == [b"first"]


def a_group_goes_on_where_it_committed(client):
    topic, group = fresh("resume"), fresh("group")
    client.create(topic)
    client.produce(topic, [(None, str(n).encode(), []) for n in range(100)])
    first = client.consume(topic, 100, group, commit=True)
    client.produce(topic, [(None, str(n).encode(), []) for n in range(100, 150)])
    second = client.consume(topic, 50, group, commit=True)
    assert [int(r.value) for r in first + second] == list(range(150))
    assert group in client.groups()
    state, offsets = client.describe_group(group)
    assert (state, offsets) == ("EMPTY", 150), (state, offsets)
    client.delete_group(group)
    assert group not in client.groups()


def administration(client):
    topic = fresh("admin")
    client.create(topic, config={"retention.ms": "3600000"})
    client.produce(topic, [(None, b"x", [])] * 5, partition=0)
    delete = client.administer(topic)
    delete()
    client.create(topic)
    assert client.ends(topic, 0) == (0, 0), "the old records are gone"


def a_compacted_topic_keeps_the_last_of_every_key(client):
    topic = fresh("compacted")
    client.create(topic, 1, {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0"})
    keys, sent = 20, 3000
    records = [(f"k{n % keys}".encode(), f"{n}:{'x' * 500}".encode(), []) for n in range(sent)]
    # In pieces: a client that was held up sends half of it as one batch, which is then the segment that is written to.
    for at in range(0, sent, 300):
        client.produce(topic, records[at:at + 300], partition=0)
    until = time.monotonic() + 150
    while True:
        found = client.consume(topic, sent, seconds=8)
        # The segment that is written to is not touched: 256 KiB of it.
        if len(found) < sent / 2:
            break
        assert time.monotonic() < until, f"{len(found)} of {sent} records are still there"
    assert all(int(record.value.split(b":")[0]) == record.offset for record in found), "an offset has changed"
    newest = {record.key: record.offset for record in found}
    assert sorted(newest.values()) == list(range(sent - keys, sent)), newest
    offsets = [record.offset for record in found]
    assert offsets == sorted(set(offsets)), "out of order"


def transactions_count_whole_or_not_at_all(client):
    if not hasattr(client, "transactional"):
        return NOT_THERE
    topic, id = fresh("transactions"), fresh("id")
    client.create(topic, partitions=2)
    producer = client.transactional(id)
    committed, all_values = [], []
    for n in range(12):
        values = [f"{n} {m}".encode() for m in range(10)]
        client.transaction(producer, topic, values, n % 3 != 0)
        all_values += values
        committed += values if n % 3 != 0 else []
    assert sorted(client.read(topic, "read_committed")) == sorted(committed)
    assert sorted(client.read(topic, "read_uncommitted")) == sorted(all_values)
    # Who begins under the same id aborts what was left open and shuts the other out.
    producer.begin_transaction()
    producer.produce(topic, b"left open", partition=0)
    assert producer.flush(60) == 0
    assert b"left open" not in client.read(topic, "read_committed")
    newer = client.transactional(id)
    assert client.fenced(producer), "the older producer went on"
    client.transaction(newer, topic, [b"the newer"], True)
    assert sorted(client.read(topic, "read_committed")) == sorted(committed + [b"the newer"])


def what_is_read_is_processed_once(client):
    if not hasattr(client, "copy"):
        return NOT_THERE
    source, target, group = fresh("source"), fresh("target"), fresh("group")
    client.create(source, partitions=2)
    client.create(target, partitions=2)
    sent = [f"{n}".encode() for n in range(400)]
    client.produce(source, [(None, value, []) for value in sent])
    client.copy(source, target, group, fresh("id"), len(sent))
    assert sorted(client.read(target, "read_committed")) == sorted(value + b" copied" for value in sent)
    state, offsets = client.describe_group(group)
    assert offsets == len(sent), offsets
    assert len(client.read(target, "read_uncommitted")) > len(sent), "nothing was aborted"


def three_members_share_and_one_is_killed(client):
    topic, group = fresh("shared"), fresh("group")
    client.create(topic, partitions=6)
    name = next(name for name, kind in CLIENTS.items() if type(client) is kind)
    folder = pathlib.Path(tempfile.mkdtemp())
    members = []
    for n in range(3):
        out = open(folder / f"{n}.out", "w")
        members.append(subprocess.Popen(
            [sys.executable, __file__, client.bootstrap, name, "member", group, topic], stdout=out,
            stderr=open(folder / f"{n}.err", "w")))
    def seen(n):
        lines = (folder / f"{n}.out").read_text().splitlines()
        return [tuple(map(int, line.split())) for line in lines if len(line.split()) == 2]
    # A member of KIP-848's groups is given up after 45 seconds, whatever it wishes.
    def wait(what, condition, seconds=120):
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, f"{what}: {[len(seen(n)) for n in range(3)]}"
            time.sleep(0.1)
    try:
        def feed(count):
            for partition in range(6):
                client.produce(topic, [(None, b"x", [])] * count, partition=partition)
        sent = 0
        def all_read():
            return len({at for n in range(3) for at in seen(n)}) == sent
        # Once all three have joined, each of them reads two partitions.
        until = time.monotonic() + 60
        while not all(len({p for p, _ in seen(n)}) >= 2 for n in range(3)):
            assert time.monotonic() < until, "not all three get records"
            feed(2)
            sent += 12
            time.sleep(0.5)
        wait("everything is read", all_read)
        members[1].send_signal(signal.SIGKILL)
        members[1].wait()
        feed(20)
        sent += 120
        wait("the two that are left read everything", all_read)
        twice = collections.Counter(at for n in range(3) for at in seen(n))
        again = sum(1 for times in twice.values() if times > 1)
        # A record whose commit was under way when its member lost the partition is read twice, at most one per partition
        # and rebalance.
        assert again <= 24, f"{again} records were read twice"
    finally:
        for member in members:
            member.kill()


def assigned(consumer, count, seconds=60):
    until = time.monotonic() + seconds
    while len(consumer.assignment()) != count:
        assert time.monotonic() < until, f"{len(consumer.assignment())} partitions, not {count}"
        consumer.poll(0.2)


def a_static_member_comes_back_to_what_it_had(client):
    if not hasattr(client, "static"):
        return NOT_THERE
    topic, group = fresh("static"), fresh("group")
    client.create(topic, partitions=4)
    one, two = client.static(group, topic, "one"), client.static(group, topic, "two")
    until = time.monotonic() + 60
    while [len(c.assignment()) for c in (one, two)] != [2, 2]:
        assert time.monotonic() < until, "they do not share"
        one.poll(0.2)
        two.poll(0.2)
    had = sorted(p.partition for p in one.assignment())
    one.close()
    again = client.static(group, topic, "one")
    assigned(again, 2)
    assert sorted(p.partition for p in again.assignment()) == had
    assert len(two.assignment()) == 2, "the other had to move"
    for consumer in (again, two):
        consumer.close()


def an_expression_finds_topics_that_come_later(client):
    if not hasattr(client, "static"):
        return NOT_THERE
    prefix, group = fresh("expression"), fresh("group")
    client.create(f"{prefix}.a", partitions=2)
    consumer = client.static(group, f"^{prefix}\\..*", "one")
    assigned(consumer, 2)
    client.create(f"{prefix}.b", partitions=3)
    client.create(f"other-{prefix}.c", partitions=3)
    assigned(consumer, 5)
    consumer.close()


# Of a check for what a client, or what is written of it here, has not.
NOT_THERE = "not there"

CHECKS = [
    every_compression_with_keys_and_headers, acks_zero_one_and_all, idempotent_producer, offsets_by_time,
    a_topic_is_created_by_being_asked_for, a_group_goes_on_where_it_committed, administration,
    a_compacted_topic_keeps_the_last_of_every_key, transactions_count_whole_or_not_at_all, what_is_read_is_processed_once,
    a_static_member_comes_back_to_what_it_had, an_expression_finds_topics_that_come_later, three_members_share_and_one_is_killed,
]


def main():
    bootstrap, name, *wanted = sys.argv[1:]
    client = CLIENTS[name](bootstrap)
    if wanted[:1] == ["member"]:
        client.member(*wanted[1:])
        return 0
    print(client.version(), flush=True)
    failed = 0
    for check in CHECKS:
        if wanted and check.__name__ not in wanted:
            continue
        begin = time.monotonic()
        try:
            outcome = check(client) or "passed"
            print(f"{outcome} {check.__name__} ({time.monotonic() - begin:.1f} s)", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {check.__name__}\n{traceback.format_exc()}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
