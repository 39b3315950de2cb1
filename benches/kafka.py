"""Benchmark m: Kafka's protocol, measured with librdkafka's own `rdkafka_performance`.

The tool is built out of the package `rdkafka-sys`, which cargo fetches; RDKAFKA names a folder in which it was built before.
Client and process share the machine's cores, so the client's CPU seconds stand apart from the process's.
"""

import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

PACKAGE = "rdkafka-sys"
VERSION = "=4.10.0"
DIR = pathlib.Path(os.environ.get("BENCH_DIR", tempfile.gettempdir()))
TARN = os.environ.get("TARN", "tarn")
# Medians of three: there are 36 cells, and all of them together should not take longer than ten minutes.
RUNS = min(3, int(os.environ.get("RUNS", 3)))
# How many bytes each run moves, and for how long latency is measured; smaller for a look at whether it works at all.
MOVED = int(os.environ.get("KAFKA_BYTES", 256 << 20))
LATENCY_SECONDS = int(os.environ.get("LATENCY_SECONDS", 8))


def built():
    """The folder of librdkafka, with the tool built."""
    folder = pathlib.Path(os.environ.get("RDKAFKA", DIR / "librdkafka"))
    if (folder / "examples/rdkafka_performance").exists():
        return folder
    if not (folder / "configure").exists():
        project = DIR / "rdkafka-project"
        (project / "src").mkdir(parents=True, exist_ok=True)
        (project / "src/lib.rs").write_text("")
        (project / "Cargo.toml").write_text(
            f'[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n'
            f'[dependencies]\n{PACKAGE} = {{ version = "{VERSION}", default-features = false }}\n'
        )
        subprocess.run(["cargo", "fetch", "--quiet"], cwd=project, check=True)
        metadata = subprocess.run(
            ["cargo", "metadata", "--format-version", "1"], cwd=project, check=True, capture_output=True
        )
        packages = json.loads(metadata.stdout)["packages"]
        source = next(p for p in packages if p["name"] == PACKAGE)["manifest_path"]
        shutil.copytree(pathlib.Path(source).parent / "librdkafka", folder)
    quiet = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(["./configure"], **quiet)
    subprocess.run(["make", "libs"], **quiet)
    subprocess.run(["make", "-C", "examples", "rdkafka_performance"], **quiet)
    return folder


class Broker:
    """A process of Tarn that speaks Kafka's protocol, in a fresh folder."""

    def __init__(self, sync, partitions, topics=1):
        self.folder = DIR / "m"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        declared = "".join(
            f'\n[[topic]]\nname = "t{n}"\npartitions = {partitions}\n' for n in range(topics)
        )
        (self.folder / "tarn.toml").write_text(
            f'data_dir = "data"\n[log]\nsync = "{sync}"\nkafka = "127.0.0.1:0"\n'
            f'[lake]\nurl = "file:lake"\n[serving]\nhttp = "127.0.0.1:0"\n{declared}'
        )
        self.said = open(self.folder / "stderr", "ab")
        self.process = subprocess.Popen(
            [TARN, "run", str(self.folder / "tarn.toml")], stderr=self.said, stdout=subprocess.DEVNULL
        )
        until = time.monotonic() + 60
        while True:
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit(f"it does not run: see {self.said.name}")
            try:
                told = json.loads((self.folder / "data/process.json").read_text())
                self.address = told["kafka"]
                return
            except (OSError, ValueError, KeyError):
                time.sleep(0.02)

    def cpu_s(self):
        """CPU seconds so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024

    def end(self):
        self.process.terminate()
        self.process.wait()


def tool(folder, *arguments):
    """Runs the tool: what it printed, its CPU seconds."""
    environment = dict(os.environ, LD_LIBRARY_PATH=f"{folder}/src")
    command = [str(folder / "examples/rdkafka_performance"), *arguments]
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        printed = out.read()
    if process.returncode != 0:
        sys.exit(f"{command} ended with {process.returncode}: {printed[-2000:]}")
    return printed, usage.ru_utime + usage.ru_stime


def rate(printed):
    """Messages a second and MB a second of the tool's last line that has them."""
    found = re.findall(r"(\d+) msgs/s (?:and )?\(?([\d.]+) MB/s", printed)
    if not found:
        sys.exit(f"the tool printed no rate: {printed[-2000:]}")
    messages, megabytes = found[-1]
    return int(messages), float(megabytes)


def disk_mb_s():
    """The disk's own rate, by dd."""
    path = DIR / "dd"
    count = max(16, MOVED >> 20)
    done = subprocess.run(
        ["dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={count}", "conv=fdatasync"],
        capture_output=True, text=True, check=True, env=dict(os.environ, LC_ALL="C"),
    )
    path.unlink()
    seconds = float(re.search(r"([\d.]+) s, ", done.stderr).group(1))
    return count * (1 << 20) / 1e6 / seconds


def produce(folder, address, size, acks, partitions):
    count = str(max(1000, MOVED // max(size, 200)))
    spread = [] if partitions > 1 else ["-p", "0"]
    return tool(
        folder, "-P", "-t", "t0", *spread, "-b", address, "-s", str(size), "-c", count, "-a", str(acks), "-q",
        "-X", "linger.ms=5", "-X", "batch.num.messages=10000", "-X", "queue.buffering.max.messages=500000",
    )


def consume(folder, address, size, partitions):
    count = str(max(1000, MOVED // max(size, 200)))
    # The tool consumes one partition after the other with several -p.
    chosen = [part for p in range(partitions) for part in ("-p", str(p))]
    return tool(
        folder, "-C", "-t", "t0", *chosen, "-b", address, "-c", count, "-o", "beginning", "-q",
        "-X", "fetch.message.max.bytes=4194304", "-X", "queued.min.messages=1000000",
    )


def latencies(folder, address, size, messages_s):
    """End to end, from a message's making to its reading, at a fixed rate: p50, p99, p999 in ms."""
    told = DIR / "latencies"
    told.unlink(missing_ok=True)
    environment = dict(os.environ, LD_LIBRARY_PATH=f"{folder}/src")
    performance = str(folder / "examples/rdkafka_performance")
    count = str(messages_s * LATENCY_SECONDS)
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    consumer = subprocess.Popen(
        [performance, "-C", "-t", "t0", "-p", "0", "-b", address, "-o", "end", "-l", "-A", str(told), "-q",
         "-c", count, "-X", "fetch.wait.max.ms=10"], **quiet)
    time.sleep(2)
    subprocess.run(
        [performance, "-P", "-t", "t0", "-p", "0", "-b", address, "-s", str(size), "-c", count, "-l", "-q",
         "-r", str(messages_s), "-X", "linger.ms=0"], check=True, **quiet)
    try:
        consumer.wait(timeout=30)
    except subprocess.TimeoutExpired:
        consumer.terminate()
        consumer.wait()
    micros = sorted(int(line) for line in told.read_text().split() if line.isdigit())
    # The first second is connections and first batches.
    if len(micros) < messages_s:
        sys.exit(f"only {len(micros)} of {count} messages came")
    at = lambda share: micros[min(len(micros) - 1, int(len(micros) * share))] / 1000
    return at(0.5), at(0.99), at(0.999)


def median(values):
    return statistics.median(values)


def m():
    """Kafka's protocol with librdkafka's rdkafka_performance: produce, consume, end-to-end latency, memory."""
    folder = built()
    disk = median([disk_mb_s() for _ in range(min(RUNS, 3))])
    print(f"the disk by itself: {disk:.0f} MB/s (dd, conv=fdatasync)\n")
    print("| sync | bytes | partitions | acks | msg/s | MB/s | of the disk | client CPU s | Tarn CPU s | read msg/s | read MB/s |")
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    half = {}
    for sync in ("none", "interval", "group"):
        for size in (100, 1024):
            for partitions in (1, 8):
                for acks in (1, -1):
                    wrote, read, client, own = [], [], [], []
                    for _ in range(RUNS):
                        broker = Broker(sync, partitions)
                        printed, cpu = produce(folder, broker.address, size, acks, partitions)
                        wrote.append(rate(printed))
                        client.append(cpu)
                        own.append(broker.cpu_s())
                        # What all of them read differs in nothing but who wrote it.
                        if acks == 1:
                            read.append(rate(consume(folder, broker.address, size, partitions)[0]))
                        broker.end()
                    messages, megabytes = (median([one[i] for one in wrote]) for i in (0, 1))
                    if (size, partitions, acks) == (1024, 1, -1):
                        half[sync] = round(messages / 2, -3)
                    readings = "| | " if not read else "| {:,.0f} | {:.0f} ".format(
                        median([one[0] for one in read]), median([one[1] for one in read]))
                    print(f"| {sync} | {size} | {partitions} | {'all' if acks == -1 else acks} | {messages:,.0f} | {megabytes:.0f} "
                          f"| {megabytes / disk:.2f} | {median(client):.1f} | {median(own):.1f} {readings}|", flush=True)
    print("\n| sync | messages a second | p50 ms | p99 ms | p99.9 ms |\n|---|---|---|---|---|", flush=True)
    for sync in ("none", "interval", "group"):
        # Half load: half of what it has just written with one partition and acks=all.
        for messages_s in (1000, 10000, int(half[sync])):
            found = []
            for _ in range(RUNS):
                broker = Broker(sync, 1)
                found.append(latencies(folder, broker.address, 1024, messages_s))
                broker.end()
            p50, p99, p999 = (median([one[i] for one in found]) for i in range(3))
            print(f"| {sync} | {messages_s} | {p50:.1f} | {p99:.1f} | {p999:.1f} |", flush=True)
    idle()


def idle():
    """Memory of a process with nothing to do, and of one with 1,000 partitions and 1,000 idle connections."""
    import socket

    broker = Broker("group", 1)
    time.sleep(3)
    alone = broker.rss_mib()
    broker.end()
    broker = Broker("group", 100, topics=10)
    host, port = broker.address.rsplit(":", 1)
    connections = [socket.create_connection((host, int(port))) for _ in range(1000)]
    time.sleep(3)
    full = broker.rss_mib()
    for connection in connections:
        connection.close()
    broker.end()
    print(f"\nresident: {alone:.0f} MiB idle with one partition, {full:.0f} MiB with 1,000 partitions and 1,000 idle connections")


BENCHES = {"m": m}
