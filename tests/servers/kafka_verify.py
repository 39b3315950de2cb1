#!/usr/bin/env python3
"""A producer and a consumer that keep account, while the broker is killed again and again.

usage: kafka_verify.py produce BOOTSTRAP TOPIC PARTITIONS ACKED_FILE idempotent|plain
       kafka_verify.py consume BOOTSTRAP TOPIC ACKED_FILE idempotent|plain

`produce` sends numbered records until SIGTERM; each that is acknowledged is a line `NUMBER PARTITION OFFSET` in ACKED_FILE. A
record's value is {"n": NUMBER}. `consume` then reads the whole topic and checks: every acknowledged record is there, at the
offset it was acknowledged with; idempotent: no record is there twice, and those of a partition are in the order in which they
were sent. Prints what it found. Exit code: 0 all holds, 1 not.
"""

import collections
import json
import signal
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition


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


def consume(bootstrap, topic, path, mode):
    with open(path) as file:
        acked = [tuple(map(int, line.split())) for line in file]
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "verify", "enable.auto.commit": False,
                         "auto.offset.reset": "earliest", "enable.partition.eof": False})
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)[1] for p in partitions}
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    found, order = {}, collections.defaultdict(list)
    left, until = sum(ends.values()), time.monotonic() + 120
    while left and time.monotonic() < until:
        for message in consumer.consume(1000, 1):
            assert not message.error(), message.error()
            found[(message.partition(), message.offset())] = number = json.loads(message.value())["n"]
            order[message.partition()].append(number)
            left -= 1
    consumer.close()
    wrong = []
    if left:
        wrong.append(f"{left} records could not be read")
    missing = [record for record in acked if found.get(record[1:]) != record[0]]
    if missing:
        wrong.append(f"{len(missing)} acknowledged records are not where they were acknowledged: {missing[:5]}")
    times = collections.Counter(found.values())
    twice = [number for number, count in times.items() if count > 1]
    if mode == "idempotent":
        if twice:
            wrong.append(f"{len(twice)} records are there twice: {twice[:5]}")
        for partition, numbers in order.items():
            if numbers != sorted(numbers):
                wrong.append(f"partition {partition} is out of order")
    print(f"{len(acked)} acknowledged, {len(found)} found, {len(twice)} twice;", "; ".join(wrong) or "all holds")
    return 1 if wrong else 0


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    sys.exit({"produce": produce, "consume": consume}[what](*arguments))
