"""Publishes numbered messages with paho-mqtt, through whatever happens to the broker meanwhile.

mqtt_send.py PORT QOS COUNT RATE: `{"n": 0}` to `{"n": COUNT - 1}`, by turns to the topics s/0/celsius to s/3/celsius. Prints a
line for every hundred that the broker has confirmed, waits for a line, and goes on once it is connected; ends once the broker
has confirmed them all. Whoever restarts the broker does it while this waits: what is in flight between the two then is not
what is tested.
"""

import json
import sys
import time

import paho.mqtt.client as mqtt

port, qos, count, rate = (int(word) for word in sys.argv[1:])
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"sender-{qos}", clean_session=False)
client.max_queued_messages_set(0)
client.reconnect_delay_set(min_delay=1, max_delay=1)
confirmed = 0


def count_one(*_):
    """Called once for each message that the broker has confirmed; one that was sent without a connection is sent with the next."""
    global confirmed
    confirmed += 1


client.on_publish = count_one
client.connect("127.0.0.1", port, keepalive=5)
client.loop_start()
begin = time.monotonic()
for n in range(count):
    client.publish(f"s/{n % 4}/celsius", json.dumps({"n": n, "qos": qos}), qos=qos)
    ahead = begin + n / rate - time.monotonic()
    if ahead > 0:
        time.sleep(ahead)
    if n % 100 == 99:
        while confirmed <= n:
            time.sleep(0.005)
        print(n + 1, flush=True)
        sys.stdin.readline()
        while not client.is_connected():
            time.sleep(0.005)
        begin = time.monotonic() - n / rate
while confirmed < count:
    time.sleep(0.005)
client.disconnect()
client.loop_stop()
