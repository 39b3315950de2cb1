"""What all benchmarks share: a config, a running process, and how long a command takes."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

TARN, BENCH = os.environ["TARN"], os.environ["TARN_BENCH"]
DIR = pathlib.Path(os.environ["BENCH_DIR"]).resolve()
RUNS = int(os.environ["RUNS"])
COLUMNS = (
    "id BIGINT NOT NULL, ts TIMESTAMP, user VARCHAR, session VARCHAR, event VARCHAR, page VARCHAR, country VARCHAR, "
    "ms DOUBLE, agent VARCHAR"
)
BYTES = int(os.environ.get("BYTES", 1_000_000_000))


def config(folder, source, commit_every="10s", more_table="", more="", serving=""):
    """Writes a config for one topic `events` and returns its path; what follows the table may stand in `more_table`."""
    path = folder / "tarn.toml"
    path.write_text(
        f"""
data_dir = "data"
{more}
[serving]
http = "127.0.0.1:0"
tail_memory = "{os.environ.get('TAIL_MEMORY', '128MiB')}"
{serving}

[[topic]]
name = "events"
partitions = 2

[[source]]
name = "events"
topic = "events"
{source}

[[table]]
name = "events"
columns = "{COLUMNS}"
commit_every = "{commit_every}"
{more_table}
"""
    )
    return path


def fresh(name):
    folder = DIR / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def measured(command, **options):
    """Runs a command: seconds, and peak resident memory in MiB."""
    begin = time.monotonic()
    process = subprocess.Popen(command, **options)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command} ended with {process.returncode}")
    return time.monotonic() - begin, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


class Tarn:
    """A running process."""

    def __init__(self, path):
        self.folder = path.parent
        self.said = open(self.folder / "stderr", "ab")
        self.begin = time.monotonic()
        self.process = subprocess.Popen([TARN, "run", str(path)], stderr=self.said, stdout=subprocess.DEVNULL)

    def ready(self):
        """Waits for /healthz: seconds since the start."""
        while True:
            if self.process.poll() is not None:
                sys.exit(f"it ended: see {self.said.name}")
            try:
                file = json.loads((self.folder / "data/process.json").read_text())
                if file["pid"] == self.process.pid:
                    self.address = file["http"]
                    with urllib.request.urlopen(f"http://{self.address}/healthz") as answer:
                        if answer.status == 200:
                            return time.monotonic() - self.begin
            except (OSError, ValueError, KeyError):
                pass
            time.sleep(0.005)

    def post(self, path, body=b""):
        request = urllib.request.Request(f"http://{self.address}{path}", body)
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    def get_json(self, path):
        with urllib.request.urlopen(f"http://{self.address}{path}") as answer:
            return json.loads(answer.read())

    def metric(self, line):
        """The value of one line of `/metrics`, by all that stands before it."""
        with urllib.request.urlopen(f"http://{self.address}/metrics") as answer:
            for found in answer.read().decode().splitlines():
                if found.startswith(line + " "):
                    return float(found.rsplit(" ", 1)[1])
        sys.exit(f"/metrics has no {line}")

    def cpu_s(self):
        """CPU seconds so far, of all its threads."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def sql(self, query):
        request = urllib.request.Request(f"http://{self.address}/v1/sql", query.encode(), {"Accept": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    def rss_mib(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait()


def events_file():
    path = DIR / "events.ndjson"
    if not path.exists() or path.stat().st_size // 215 != BYTES // 215:
        subprocess.run([BENCH, "events", str(path), str(BYTES), "1"], check=True)
    with open(path, "rb") as file:  # into the page cache
        while file.read(1 << 24):
            pass
    return path
