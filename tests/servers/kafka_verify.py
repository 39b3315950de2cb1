#!/usr/bin/env python3
"""A producer and a consumer that keep account, while the broker is killed again and again.

usage: kafka_verify.py produce BOOTSTRAP TOPIC PARTITIONS ACKED_FILE idempotent|plain|transactional
       kafka_verify.py follow BOOTSTRAP TOPIC READ_FILE classic|consumer
       kafka_verify.py consume BOOTSTRAP TOPIC ACKED_FILE idempotent|plain|transactional [READ_FILE]

`produce` sends numbered records until SIGTERM; each that is acknowledged is a line `NUMBER PARTITION OFFSET` in ACKED_FILE. A
record's value is {"n": NUMBER}. `consume` then reads the whole topic and checks: every acknowledged record is there, at the
offset it was acknowledged with; idempotent: no record is there twice, and those of a partition are in the order in which they
were sent. Transactional: records come in transactions of 20, of which every fourth is aborted; a record counts as acknowledged once its
transaction is committed; no transaction is found in part, and none that was aborted. Prints what it found. Exit code: 0 all holds, 1 not.

`follow` reads as a member of a group, meanwhile, and commits what it has read; each record it reads is a line `PARTITION OFFSET NUMBER` in
READ_FILE. After SIGTERM it reads on to the ends. It checks that it never reads below an offset whose commit was acknowledged, that it is given
partitions once and keeps them to the end, and that a commit fails only because the broker is not there. If not, it prints what its client said of
the group last. `consume` then checks that it has read every record that was acknowledged.
"""

import collections
import json
import logging
import signal
import sys
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

IN_ONE_TRANSACTION = 20
# A commit that fails so was not refused: nobody was there to answer it.
NOT_THERE = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._WAIT_COORD, KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE,
             KafkaError.REQUEST_TIMED_OUT, KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE}
# A member that has not reached its coordinator for so long gives up its partitions by itself: none of these runs keeps it away as long.
PATIENCE_MS = 600000
RECONNECT = {"reconnect.backoff.max.ms": 200, "retry.backoff.ms": 50}


def produce(bootstrap, topic, partitions, path, mode):
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    producer = Producer({
        "bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": mode == "idempotent", "linger.ms": 2,
        "message.timeout.ms": 120000, "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 50, "compression.type": "lz4",
        "queue.buffering.max.messages": 5000,
    })
    failed = []
    with open(path, "w") as acked:
        def told(error, message):
            if error:
                failed.append(str(error))
            else:
                number = json.loads(message.value())["n"]
                acked.write(f"{number} {message.partition()} {message.offset()}\n")
        number = 0
        while not stop:
            try:
                producer.produce(topic, json.dumps({"n": number}), partition=number % int(partitions), on_delivery=told)
                number += 1
            except BufferError:
                producer.poll(0.05)
            producer.poll(0)
            if number % 50 == 0:
                time.sleep(0.005)
        left = producer.flush(120)
    print(f"{number} sent, {len(failed)} failed, {left} left", failed[:3])
    return 0 if not failed and not left else 1


def transact(bootstrap, topic, partitions, path):
    """Transactions until SIGTERM."""
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    def begin():
        producer = Producer({
            "bootstrap.servers": bootstrap, "transactional.id": "verify", "transaction.timeout.ms": 60000, "linger.ms": 2,
            "message.timeout.ms": 50000, "compression.type": "lz4", **RECONNECT})
        producer.init_transactions(60)
        return producer
    producer, number, turn, again = begin(), 0, 0, 0
    with open(path, "w") as acked:
        while not stop:
            turn += 1
            commit, sent = turn % 4 != 0, []
            try:
                producer.begin_transaction()
                for _ in range(IN_ONE_TRANSACTION):
                    value = json.dumps({"n": number, "t": turn if commit else -turn})
                    producer.produce(topic, value, partition=number % int(partitions),
                                     on_delivery=lambda error, m: None if error else sent.append(m))
                    number += 1
                while True:
                    try:
                        (producer.commit_transaction if commit else producer.abort_transaction)(60)
                        break
                    except KafkaException as error:
                        if not error.args[0].retriable():
                            raise
            except KafkaException as error:
                again += 1
                # Whether it was committed is not known: its records are not counted as acknowledged.
                if error.args[0].txn_requires_abort():
                    producer.abort_transaction(60)
                else:
                    producer = begin()
                continue
            if commit:
                for m in sent:
                    acked.write(f"{json.loads(m.value())['n']} {m.partition()} {m.offset()}\n")
                acked.flush()
    print(f"{number} sent in {turn} transactions, {again} begun again")
    return 0


def follow(bootstrap, topic, path, protocol):
    """A member of a group, until SIGTERM and the ends."""
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(time.monotonic()))
    wrong, committed, next_offset, given = [], {}, {}, []
    said = collections.deque(maxlen=300)
    class Said(logging.Handler):
        def emit(self, record):
            said.append(f"{time.strftime('%H:%M:%S')} {record.getMessage()}")
    logger = logging.Logger("librdkafka", logging.DEBUG)
    logger.addHandler(Said())
    # The broker says how long a member of the new protocol may be silent.
    patience = {"session.timeout.ms": PATIENCE_MS, "max.poll.interval.ms": PATIENCE_MS} if protocol == "classic" else {}
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": f"followers-{protocol}", "auto.offset.reset": "earliest",
        "enable.auto.commit": False, "isolation.level": "read_committed", "enable.partition.eof": True, "group.protocol": protocol,
        "debug": "cgrp", **patience, **RECONNECT}, logger=logger)
    closing = []
    def assigned(_, partitions):
        # It goes on where it has committed.
        given.append(len(partitions))
        next_offset.clear()
        if len(given) > 1:
            wrong.append(f"it is given {len(partitions)} partitions again")
    def taken(what):
        def told(_, partitions):
            if not closing:
                wrong.append(f"{len(partitions)} partitions are {what}")
        return told
    consumer.subscribe([topic], on_assign=assigned, on_revoke=taken("revoked"), on_lost=taken("lost"))
    failed, at_end, count = 0, set(), 0
    with open(path, "w") as read:
        while not stop or not given or len(at_end) < given[-1]:
            if stop and time.monotonic() > stop[0] + 90:
                wrong.append(f"the ends were not reached: {sorted(at_end)}")
                break
            messages = consumer.consume(500, 0.5)
            for message in messages:
                partition = message.partition()
                if message.error():
                    if message.error().code() == KafkaError._PARTITION_EOF:
                        at_end.add(partition)
                    elif message.error().code() not in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                        wrong.append(str(message.error()))
                    continue
                at_end.discard(partition)
                if message.offset() < committed.get(partition, 0):
                    wrong.append(f"{partition} {message.offset()} is read, and {committed[partition]} was committed")
                if message.offset() < next_offset.get(partition, 0):
                    wrong.append(f"{partition} {message.offset()} is read behind {next_offset[partition]}")
                next_offset[partition] = message.offset() + 1
                count += 1
                read.write(f"{partition} {message.offset()} {json.loads(message.value())['n']}\n")
            read.flush()
            offsets = [TopicPartition(topic, p, offset) for p, offset in next_offset.items() if committed.get(p) != offset]
            if offsets:
                try:
                    for done in consumer.commit(offsets=offsets, asynchronous=False):
                        if done.error:
                            raise KafkaException(done.error)
                        committed[done.partition] = done.offset
                except KafkaException as error:
                    # The process was killed under it.
                    failed += 1
                    if error.args[0].code() not in NOT_THERE:
                        wrong.append(f"a commit is refused: {error.args[0]}")
    if wrong:
        print("\n".join(said))
    closing.append(True)
    consumer.close()
    print(f"{protocol}: {count} followed, given partitions {len(given)} times, {failed} commits failed;", "; ".join(wrong[:5]) or "all holds")
    return 1 if wrong else 0


def consume(bootstrap, topic, path, mode, followed=None):
    with open(path) as file:
        acked = [tuple(map(int, line.split())) for line in file]
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "verify", "enable.auto.commit": False,
                         "auto.offset.reset": "earliest", "enable.partition.eof": True, "isolation.level": "read_committed"})
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    found, order, parts = {}, collections.defaultdict(list), collections.Counter()
    left, until = set(partitions), time.monotonic() + 120
    while left and time.monotonic() < until:
        for message in consumer.consume(1000, 1):
            if message.error():
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                left.discard(message.partition())
                continue
            if mode == "transactional":
                parts[json.loads(message.value())["t"]] += 1
            found[(message.partition(), message.offset())] = number = json.loads(message.value())["n"]
            order[message.partition()].append(number)
    consumer.close()
    wrong = []
    if left:
        wrong.append(f"the ends of partitions {left} were not reached")
    missing = [record for record in acked if found.get(record[1:]) != record[0]]
    if missing:
        wrong.append(f"{len(missing)} acknowledged records are not where they were acknowledged: {missing[:5]}")
    if followed:
        with open(followed) as file:
            read = {tuple(map(int, line.split())) for line in file}
        unread = [record for record in acked if (record[1], record[2], record[0]) not in read]
        if unread:
            wrong.append(f"{len(unread)} acknowledged records were not read by the group: {unread[:5]}")
        # What was aborted, say, or is not there.
        others = [record for record in sorted(read) if found.get(record[:2]) != record[2]]
        if others:
            wrong.append(f"{len(others)} records that the group read are not there: {others[:5]}")
    times = collections.Counter(found.values())
    twice = [number for number, count in times.items() if count > 1]
    aborted = [turn for turn in parts if turn < 0]
    torn = [turn for turn, records in parts.items() if records != IN_ONE_TRANSACTION]
    if aborted or torn:
        wrong.append(f"aborted transactions are read: {aborted[:5]}, and parts of others: {torn[:5]}")
    if mode != "plain":
        if twice:
            wrong.append(f"{len(twice)} records are there twice: {twice[:5]}")
        for partition, numbers in order.items():
            if numbers != sorted(numbers):
                wrong.append(f"partition {partition} is out of order")
    print(f"{len(acked)} acknowledged, {len(found)} found, {len(twice)} twice;", "; ".join(wrong) or "all holds")
    return 1 if wrong else 0


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "produce" and arguments[-1] == "transactional":
        sys.exit(transact(*arguments[:-1]))
    sys.exit({"produce": produce, "consume": consume, "follow": follow}[what](*arguments))
