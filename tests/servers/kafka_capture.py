#!/usr/bin/env python3
"""Captures what Kafka's own clients send, for the corpora that tests read without them.

    kafka_capture.py ADDRESS CORPUS BATCHES COMMAND...

stands between the clients that COMMAND starts ({} in it is the address to use) and the broker at ADDRESS. One request of each API,
version and client goes to CORPUS as the bytes behind its length, one record batch of each client, compression and kind to BATCHES.
"""

import pathlib
import socket
import struct
import subprocess
import sys
import threading

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
TABLE = []
for n in range(256):
    for _ in range(8):
        n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
    TABLE.append(n)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def batches(request):
    """Record batches in a request: found by their magic and proven by their CRC."""
    for at in range(len(request) - 61):
        if request[at + 16] == 2 and request[at:at + 8] == bytes(8):
            (length,) = struct.unpack_from(">i", request, at + 8)
            batch = request[at:at + 12 + length]
            if 49 < length <= len(request) - at - 12 and struct.unpack_from(">I", batch, 17)[0] == crc32c(batch[21:]):
                yield batch


def keep(request, corpus, into):
    key, version, _, length = struct.unpack_from(">hhih", request)
    client = request[10:10 + max(length, 0)].decode(errors="replace").split("-")[0].split("#")[0] or "client"
    path = corpus / f"{key:02}-{version:02}-{client}.bin"
    if not path.exists() and len(request) < 16384:
        path.write_bytes(request)
    if key == 0:
        for batch in batches(request):
            (attributes,) = struct.unpack_from(">h", batch, 21)
            (producer,) = struct.unpack_from(">q", batch, 43)
            kind = "transactional" if attributes & 16 else "idempotent" if producer >= 0 else "plain"
            path = into / f"{client}-{CODECS[attributes & 7]}-{kind}.bin"
            if not path.exists() and len(batch) < 16384:
                path.write_bytes(batch)


def requests(source, target, corpus, into):
    waiting = b""
    while data := source.recv(65536):
        target.sendall(data)
        waiting += data
        while len(waiting) >= 4 and len(waiting) >= 4 + (size := struct.unpack_from(">i", waiting)[0]):
            keep(waiting[4:4 + size], corpus, into)
            waiting = waiting[4 + size:]
    target.shutdown(socket.SHUT_WR)


def answers(source, target, ours, theirs):
    while data := source.recv(65536):
        # Clients come back by the address that they are told: both have five digits and four dots.
        target.sendall(data.replace(struct.pack(">i", theirs), struct.pack(">i", ours)))


def main():
    address, corpus, into = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    host, port = address.rsplit(":", 1)
    corpus.mkdir(parents=True, exist_ok=True)
    into.mkdir(parents=True, exist_ok=True)
    listener = socket.create_server(("127.0.0.1", 0))
    ours = listener.getsockname()[1]

    def serve():
        while True:
            client, _ = listener.accept()
            broker = socket.create_connection((host, int(port)))
            threading.Thread(target=requests, args=(client, broker, corpus, into), daemon=True).start()
            threading.Thread(target=answers, args=(broker, client, ours, int(port)), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    command = [part.replace("{}", f"127.0.0.1:{ours}") for part in sys.argv[4:]]
    sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
