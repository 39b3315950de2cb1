#!/usr/bin/env python3
"""librdkafka's own test suite against Tarn: every test that is suited, each by itself, against a fresh broker.

usage: librdkafka.py TARN FOLDER [quick|all|NUMBER...] [--protocol consumer]

TARN is the binary; FOLDER is where librdkafka is built, out of the package `rdkafka-sys`, which cargo fetches, and where brokers have
their data. `all` (the default) are the tests of a broker: not those of the client alone, of librdkafka's mock broker, of its broken
sockets (sockem), nor those that need what NOT_SUITED says. `quick` is a part of them that takes about a minute. A test runs as it does with
`-Q`; one of which nothing runs so is run whole. With `--protocol consumer` consumers use the groups of KIP-848. Prints a line per test, and at the end the counts. Exit code: 0 all passed or skipped
themselves, 1 some failed.

One thing is changed in the suite: 0103 creates its topics with three replicas, and there is one broker, so it asks for one. Of 0081, the
admin client, the parts run that need neither access lists nor SCRAM. 0092 is told that the broker is of version 4, where the older
message formats that it wants are gone.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

PACKAGE, VERSION = "rdkafka-sys", "=4.10.0"
NOT_SUITED = {
    "0028": "needs long topic names of an older broker",
    "0052": "needs the broker's scripts", "0064": "needs TLS", "0077": "needs the broker's scripts",
    "0097": "needs TLS", "0101": "needs racks", "0107": "needs several brokers", "0109": "needs the broker's scripts",
    "0115": "needs the broker's scripts and ACLs", "0119": "needs the broker's scripts and ACLs", "0126": "needs OAuth",
    "0135": "needs SASL", "0142": "needs SASL",
}
ADMIN = [f"do_test_{part}:" for part in (
    "unclean_destroy", "CreateTopics", "DeleteTopics", "CreatePartitions", "AlterConfigs", "IncrementalAlterConfigs", "DescribeConfigs",
    "DescribeConfigs_groups", "DeleteRecords", "ListConsumerGroups", "DescribeConsumerGroups", "DescribeCluster", "DeleteGroups",
    "DeleteConsumerGroupOffsets", "ListOffsets", "AlterConsumerGroupOffsets", "ListConsumerGroupOffsets")]
QUICK = ["0001", "0002", "0011", "0012", "0013", "0017", "0019", "0029", "0031", "0048", "0054", "0057", "0063", "0070", "0073",
         "0085", "0099", "0112", "0129", "0130", "0140"]
SECONDS_EACH = 400


def built(folder):
    """The folder of librdkafka's tests, built."""
    root = folder / "librdkafka"
    if (root / "tests/test-runner").exists():
        return root
    if not (root / "configure").exists():
        project = folder / "rdkafka-project"
        (project / "src").mkdir(parents=True, exist_ok=True)
        (project / "src/lib.rs").write_text("")
        (project / "Cargo.toml").write_text(
            '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n'
            f'[dependencies]\n{PACKAGE} = {{ version = "{VERSION}", default-features = false }}\n')
        subprocess.run(["cargo", "fetch", "--quiet"], cwd=project, check=True)
        told = subprocess.run(["cargo", "metadata", "--format-version", "1"], cwd=project, check=True, capture_output=True)
        source = next(p for p in json.loads(told.stdout)["packages"] if p["name"] == PACKAGE)["manifest_path"]
        shutil.copytree(pathlib.Path(source).parent / "librdkafka", root)
    replicas = root / "tests/0103-transactions.c"
    text = replicas.read_text()
    replicas.write_text(re.sub(r"(test_create_topic_wait_exists\([^;]*?, )3(, 5000\))", r"\g<1>1\2", text))
    quiet = {"cwd": root, "check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(["./configure"], **quiet)
    subprocess.run(["make", "libs"], **quiet)
    subprocess.run(["make", "-C", "tests", "build"], **quiet)
    return root


def suited(root):
    """Numbers of the tests of a broker, in order."""
    text = (root / "tests/test.c").read_text()
    found = set()
    for name, rest in re.findall(r"_TEST\((\d{4}_\w+),([^;]*?)(?=_TEST\(|\{NULL\})", text, re.S):
        alone = any(flag in rest for flag in ("TEST_F_LOCAL", "TEST_F_MANUAL", "TEST_F_SOCKEM"))
        if not alone and not name.endswith("_mock") and name[:4] not in NOT_SUITED:
            found.add(name[:4])
    return sorted(found - {"0000"})


class Broker:
    """A fresh process."""

    def __init__(self, tarn, folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "tarn.toml").write_text(
            'data_dir = "data"\n[log]\nsync = "none"\nkafka = "127.0.0.1:0"\ndefault_partitions = 4\n'
            '[lake]\nurl = "file:lake"\n[serving]\nhttp = "127.0.0.1:0"\n')
        self.said = open(folder / "stderr", "wb")
        self.process = subprocess.Popen([tarn, "run", str(folder / "tarn.toml")], stderr=self.said, stdout=self.said)
        until = time.monotonic() + 60
        while True:
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit(f"it does not run: see {self.said.name}")
            try:
                self.address = json.loads((folder / "data/process.json").read_text())["kafka"]
                return
            except (OSError, ValueError, KeyError):
                time.sleep(0.02)

    def end(self):
        self.process.kill()
        self.process.wait()


def run(root, tarn, folder, number, protocol):
    """Outcome, seconds, and what went wrong of one test."""
    if number != "0081":
        return run_one(root, tarn, folder, number, protocol)
    outcome, seconds, wrong = "PASSED", 0, []
    for part in ADMIN:
        of_part, took, what = run_one(root, tarn, folder, number, protocol, part)
        seconds += took
        if of_part == "FAILED":
            outcome = of_part
            wrong.append(f"{part} {what}")
    return outcome, seconds, "; ".join(wrong)


def run_one(root, tarn, folder, number, protocol, part=None, quick=True):
    broker = Broker(tarn, folder / "broker")
    conf = folder / "test.conf"
    conf.write_text(f"bootstrap.servers={broker.address}\n")
    environment = dict(os.environ, LD_LIBRARY_PATH=f"{root}/src:{root}/src-cpp", TESTS=number, RDKAFKA_TEST_CONF=str(conf))
    if protocol:
        environment["TEST_CONSUMER_GROUP_PROTOCOL"] = protocol
    if part:
        environment["SUBTESTS"] = part
    if number == "0092":
        environment["TEST_KAFKA_VERSION"] = "4.0.0"
    begin, log = time.monotonic(), folder / f"{number}{part.strip(':') if part else ''}.log"
    with open(log, "wb") as out:
        try:
            subprocess.run(["./test-runner", "-p1", "-E", *(["-Q"] if quick else [])], cwd=root / "tests", env=environment, stdout=out,
                           stderr=subprocess.STDOUT, timeout=SECONDS_EACH)
        except subprocess.TimeoutExpired:
            pass
    seconds = time.monotonic() - begin
    alive = broker.process.poll() is None
    broker.end()
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    found = re.findall(rf"\|\s*({number}_\w+)\s*\|\s*(\w+)\s*\|\s*([\d.]+)s", text)
    found = [(name, state, float(took)) for name, state, took in found if "_mock" not in name and "_local" not in name]
    if quick and found and all(state == "PASSED" and took < 0.02 for _, state, took in found):
        # Nothing of it is quick, so nothing of it ran.
        return run_one(root, tarn, folder, number, protocol, part, False)
    states = {name: state for name, state, _ in found}
    wrong = re.findall(r"### Test \S+ failed.*|Assertion failed.*|TEST FAILURE.*?\n.*", text)
    if not alive:
        return "FAILED", seconds, "the broker ended"
    if not states:
        return "FAILED", seconds, (wrong or ["its time was over"])[0]
    if any(state in ("FAILED", "RUNNING") for state in states.values()):
        return "FAILED", seconds, (wrong or ["see its log"])[0]
    return ("PASSED" if "PASSED" in states.values() else "SKIPPED"), seconds, ""


def main(tarn, folder, *wanted):
    wanted, protocol = list(wanted), None
    if "--protocol" in wanted:
        at = wanted.index("--protocol")
        protocol = wanted[at + 1]
        del wanted[at:at + 2]
    folder = pathlib.Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    root = built(folder)
    numbers = {"quick": QUICK, "all": suited(root)}.get(wanted[0] if wanted else "all", wanted)
    counts = {}
    for number in numbers:
        outcome, seconds, wrong = run(root, str(pathlib.Path(tarn).resolve()), folder, number, protocol)
        counts.setdefault(outcome, []).append(number)
        print(f"{number} {outcome:8} {seconds:6.1f} s  {' '.join(wrong.split())[:300]}", flush=True)
    print(f"{len(numbers)} tests: " + ", ".join(f"{len(of)} {outcome.lower()}" for outcome, of in sorted(counts.items()))
          + f"; failed: {' '.join(counts.get('FAILED', [])) or 'none'}; skipped: {' '.join(counts.get('SKIPPED', [])) or 'none'}")
    return 1 if counts.get("FAILED") else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
