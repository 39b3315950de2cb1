"""Elasticsearch's own client against Tarn's bulk interface: ADDRESS as http://host:port/elastic."""

import sys

from elasticsearch import Elasticsearch, helpers

address = sys.argv[1]

for compress in (False, True):
    client = Elasticsearch(address, http_compress=compress, request_timeout=60)
    assert client.info()["tagline"], "the client talks to it"
    documents = ({"_index": "events", "_id": f"{compress}-{n}", "n": n, "text": "ä \"quoted\""} for n in range(5000))
    taken, errors = helpers.bulk(client, documents, chunk_size=700)
    assert (taken, errors) == (5000, []), (taken, errors)

# A repeat of a request whose answer was lost.
operations = []
for n in range(10):
    operations += [{"index": {"_index": "events", "_id": f"again-{n}"}}, {"n": n, "text": "again"}]
first = client.bulk(operations=operations)
second = client.bulk(operations=operations)
assert first["errors"] is False and second["errors"] is False
assert [item["index"]["status"] for item in second["items"]] == [201] * 10

# What is refused is refused by itself, and says so.
mixed = [
    {"_index": "events", "_id": "good", "n": 1, "text": "mixed"},
    {"_index": "evnets", "_id": "lost", "n": 2},
    {"_op_type": "delete", "_index": "events", "_id": "good"},
    {"_op_type": "create", "_index": "events", "_id": "late", "n": 3, "text": "mixed"},
]
taken, errors = helpers.bulk(client, mixed, raise_on_error=False, raise_on_exception=False)
assert taken == 2, taken
reasons = [next(iter(error.values()))["error"]["reason"] for error in errors]
assert len(reasons) == 2 and "evnets" in reasons[0] and "only grows" in reasons[1], reasons
print("taken", 2 * 5000 + 10 + 2)
