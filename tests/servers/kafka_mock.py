"""A cluster of three brokers that is not Tarn: librdkafka's own, inside a producer of it.

kafka_mock.py: prints the brokers' addresses. Then, for each line PACKING COUNT that comes, it sends so many numbered records to the topic
shop.orders, packed so, and prints how many there are in all once the brokers have confirmed them. Ends with its input.
"""

import sys

import confluent_kafka

CLUSTER = {"test.mock.num.brokers": 3, "bootstrap.servers": "", "log_level": 0}
first = confluent_kafka.Producer(CLUSTER)
brokers = first.list_topics("shop.orders", timeout=30).brokers.values()
addresses = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
print(addresses, flush=True)
sent = 0
for line in sys.stdin:
    packing, count = line.split()
    settings = {"bootstrap.servers": addresses, "compression.type": packing, "enable.idempotence": True}
    producer = confluent_kafka.Producer(settings)
    for n in range(sent, sent + int(count)):
        producer.produce(
            "shop.orders",
            key=f"k{n % 100}",
            value=None if n % 50 == 49 else f'{{"n": {n}}}',
            headers=[("h", b"\xff"), ("number", str(n).encode())],
            timestamp=1_700_000_000_000 + n,
        )
        producer.poll(0)
    if producer.flush(60):
        sys.exit("not all records were confirmed")
    sent += int(count)
    print(sent, flush=True)
