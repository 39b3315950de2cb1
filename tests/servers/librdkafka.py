#!/usr/bin/env python3
"""librdkafka's own test suite against Tarn: every test that is suited, each by itself, against a fresh broker.

usage: librdkafka.py TARN FOLDER [quick|all|NUMBER...] [--protocol consumer]

TARN is the binary; FOLDER is where librdkafka is built, out of the package `rdkafka-sys`, which cargo fetches, and where brokers have
their data. `all` (the default) are the tests of a broker: not those of the client alone, of librdkafka's mock broker, of its broken
sockets (sockem), nor those that need what NOT_SUITED says. `quick` is a part of them that takes about a minute. A test that has parts which
`-Q` leaves out is run whole, the others with `-Q`, which takes fewer messages. The broker says of itself that it is Kafka 4.0. Tests of the
scenario `noautocreate` have a broker without automatic topics. With `--protocol consumer` consumers use the groups of KIP-848.

What a test asks of Kafka's `kafka-topics.sh`, `tarn topic` does (KAFKA_TOPICS).

Where the headers of RapidJSON are installed (`rapidjson-dev`) when librdkafka is built, 0098 and 0110 run, and 0053 looks at values; without,
they skip themselves.

What is changed in the suite, CHANGES says. Of 0081, the admin client, the parts run that need neither access lists nor SCRAM, as against
Kafka 3.9, which has no settings of groups.

Prints a line per test, and at the end the counts. Exit code: 0 all passed or skipped themselves, 1 some failed, or ran nothing.
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
    "0028": "librdkafka calls it a known issue", "0047": "librdkafka calls it a known issue",
    "0064": "needs TLS", "0097": "needs TLS", "0101": "needs racks", "0115": "needs ACLs", "0119": "needs ACLs", "0126": "needs OAuth",
    "0135": "needs SASL", "0142": "needs SASL",
}
# File, what stands there, what is to stand there, and why.
CHANGES = [
    ("test.c", "rd_kafka_NewTopic_new(topicname, partition_cnt, replication_factor,",
     "rd_kafka_NewTopic_new(topicname, partition_cnt, 1,", "there is one broker"),
    ("0081-admin.c", r'''"58000");
                TEST_ASSERT(!err, "%s", rd_kafka_err2str(err));

                exp_err[ci] = RD_KAFKA_RESP_ERR_NO_ERROR;''', r'''"58000");
                TEST_ASSERT(!err, "%s", rd_kafka_err2str(err));

                exp_err[ci] = RD_KAFKA_RESP_ERR_INVALID_REQUEST;''', "settings of the broker stand in its config file"),
    ("0081-admin.c", r'''RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET, "58000");
                TEST_ASSERT(!error, "%s", rd_kafka_error_string(error));

                exp_err[ci] = RD_KAFKA_RESP_ERR_NO_ERROR;''', r'''RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET, "58000");
                TEST_ASSERT(!error, "%s", rd_kafka_error_string(error));

                exp_err[ci] = RD_KAFKA_RESP_ERR_INVALID_REQUEST;''', "settings of the broker stand in its config file"),
    ("0081-admin.c", r'''                TEST_SAY(
                    "Testing test helper with SET and APPEND with BROKER "
                    "resource type\n");''', r'''                if (!group_configs_supported())
                        break;
                TEST_SAY(
                    "Testing test helper with SET and APPEND with BROKER "
                    "resource type\n");''', "settings of the broker and of groups"),
    ("0109-auto_create_topics.cpp", "bool has_acl_cli = ", "bool has_acl_cli = false && ", "there are no access lists"),
    ("0098-consumer-txn.cpp", "  do_test_consumer_txn_test(true /* with java producer */);\n", "", "needs Kafka's Java client"),
]
# Settings of topics that Tarn does not have are left out: 0077 asks for `segment.ms` and `file.delete.delay.ms`.
KAFKA_TOPICS = """#!/usr/bin/env python3
import argparse, os, sys
parser = argparse.ArgumentParser()
for verb in ("--create", "--alter", "--delete"):
    parser.add_argument(verb, action="store_true")
for name in ("--bootstrap-server", "--topic", "--partitions", "--replication-factor"):
    parser.add_argument(name)
parser.add_argument("--config", action="append", default=[])
asked = parser.parse_args()
verb = "create" if asked.create else "alter" if asked.alter else "delete"
more = ["--partitions", asked.partitions] if asked.partitions else []
for config in asked.config:
    if config.split("=")[0] not in ("segment.ms", "file.delete.delay.ms"):
        more += ["--set", config]
command = [os.environ["TARN"], "topic", verb, asked.topic, "--bootstrap", asked.bootstrap_server, *more]
os.execv(command[0], command)
"""
ADMIN = [f"do_test_{part}:" for part in (
    "unclean_destroy", "CreateTopics", "DeleteTopics", "CreatePartitions", "AlterConfigs", "IncrementalAlterConfigs", "DescribeConfigs",
    "DescribeConfigs_groups", "DeleteRecords", "ListConsumerGroups", "DescribeConsumerGroups", "DescribeTopics", "DescribeCluster", "DeleteGroups",
    "DeleteConsumerGroupOffsets", "ListOffsets", "AlterConsumerGroupOffsets", "ListConsumerGroupOffsets")]
QUICK = ["0001", "0002", "0011", "0012", "0013", "0017", "0019", "0029", "0031", "0048", "0054", "0057", "0063", "0070", "0073",
         "0085", "0099", "0112", "0129", "0130", "0140"]
SECONDS_EACH = {"quick": 400, "whole": 1200}


def built(folder):
    """The folder of librdkafka's tests, built."""
    root = folder / "librdkafka"
    stamp, changes = root / "tests/changed.json", json.dumps(CHANGES)
    if (root / "tests/test-runner").exists() and stamp.exists() and stamp.read_text() == changes:
        return root
    pristine = source(folder)
    if not (root / "configure").exists():
        shutil.copytree(pristine, root)
    for name in {change[0] for change in CHANGES}:
        text = (pristine / "tests" / name).read_text()
        for _, before, after, why in (change for change in CHANGES if change[0] == name):
            if text.count(before) != 1:
                sys.exit(f"{name} is not as it was, and cannot be changed ({why}): {before}")
            text = text.replace(before, after)
        (root / "tests" / name).write_text(text)
    quiet = {"cwd": root, "check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if not (root / "Makefile.config").exists():
        subprocess.run(["./configure"], **quiet)
    subprocess.run(["make", "libs"], **quiet)
    subprocess.run(["make", "-C", "tests", "build"], **quiet)
    stamp.write_text(changes)
    return root


def source(folder):
    """librdkafka as it is published."""
    project = folder / "rdkafka-project"
    (project / "src").mkdir(parents=True, exist_ok=True)
    (project / "src/lib.rs").write_text("")
    (project / "Cargo.toml").write_text(
        '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n'
        f'[dependencies]\n{PACKAGE} = {{ version = "{VERSION}", default-features = false }}\n')
    subprocess.run(["cargo", "fetch", "--quiet"], cwd=project, check=True)
    told = subprocess.run(["cargo", "metadata", "--format-version", "1"], cwd=project, check=True, capture_output=True)
    manifest = next(p for p in json.loads(told.stdout)["packages"] if p["name"] == PACKAGE)["manifest_path"]
    return pathlib.Path(manifest).parent / "librdkafka"


def suited(root):
    """Numbers of the tests of a broker with the scenarios that they have tests of, in order."""
    text = (root / "tests/test.c").read_text()
    found = {}
    for name, rest in re.findall(r"_TEST\((\d{4}_\w+),([^;]*?)(?=_TEST\(|\{NULL\})", text, re.S):
        alone = any(flag in rest for flag in ("TEST_F_LOCAL", "TEST_F_MANUAL", "TEST_F_SOCKEM"))
        if not alone and not name.endswith("_mock") and name[:4] not in NOT_SUITED:
            scenario = "noautocreate" if '"noautocreate"' in rest else "default"
            found.setdefault(name[:4], set()).add(scenario)
    return {number: sorted(found[number]) for number in sorted(found) if number != "0000"}


def says(root, number, pattern):
    """Whether the source of a test has something."""
    sources = [*(root / "tests").glob(f"{number}-*.c"), *(root / "tests").glob(f"{number}-*.cpp")]
    return any(re.search(pattern, path.read_text()) for path in sources if "mock" not in path.name)


def has_longer_parts(root, number):
    """Whether `-Q` leaves something of a test out."""
    return says(root, number, r"\bSUB_TEST\(|\bif \(test_quick\)")


class Broker:
    """A fresh process."""

    def __init__(self, tarn, folder, sync, auto_create, retention_every):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "tarn.toml").write_text(
            f'data_dir = "data"\n[log]\nsync = "{sync}"\nkafka = "127.0.0.1:0"\ndefault_partitions = 4\n'
            f'auto_create_topics = {"true" if auto_create else "false"}\nretention_every = "{retention_every}"\n'
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
        self.said.close()


class Suite:
    """librdkafka's tests against one binary."""

    def __init__(self, tarn, folder, protocol):
        self.root, self.tarn, self.folder, self.protocol = built(folder), tarn, folder, protocol
        scripts = folder / "kafka/bin"
        scripts.mkdir(parents=True, exist_ok=True)
        (scripts / "kafka-topics.sh").write_text(KAFKA_TOPICS)
        (scripts / "kafka-topics.sh").chmod(0o755)

    def run(self, number, scenario):
        """Outcome, seconds, and what went wrong of one test."""
        outcome, seconds, wrong = "SKIPPED", 0, []
        for part in ADMIN if number == "0081" else [None]:
            of_part, took, what = self.run_one(number, scenario, part)
            seconds += took
            outcome = max(outcome, of_part, key=["SKIPPED", "PASSED", "NOTHING", "FAILED"].index)
            if what:
                wrong.append(f"{part or ''} {what}")
        return outcome, seconds, "; ".join(wrong)

    def run_one(self, number, scenario, part):
        # What is set for a topic to sync by has a meaning only where the log syncs first.
        sync = "group" if number == "0081" else "none"
        # 0077 waits for compaction, which comes with retention.
        retention_every = "1s" if number == "0077" else "30s"
        broker = Broker(self.tarn, self.folder / "broker", sync, scenario == "default", retention_every)
        conf = self.folder / "test.conf"
        conf.write_text(f"bootstrap.servers={broker.address}\n")
        whole = has_longer_parts(self.root, number)
        environment = dict(os.environ, LD_LIBRARY_PATH=f"{self.root}/src:{self.root}/src-cpp", TESTS=number,
                           RDKAFKA_TEST_CONF=str(conf), TEST_KAFKA_VERSION="3.9.0" if number == "0081" else "4.0.0",
                           KAFKA_PATH=str(self.folder / "kafka"), BROKERS=broker.address, TARN=self.tarn)
        # With the older protocol the ids of which it tells are not the client's.
        protocol = "consumer" if number == "0153" else self.protocol
        if protocol:
            environment["TEST_CONSUMER_GROUP_PROTOCOL"] = protocol
        if part:
            environment["SUBTESTS"] = part
        name = "-".join(filter(None, [number, part and part.strip(":"), scenario != "default" and scenario]))
        begin, log = time.monotonic(), self.folder / f"{name}.log"
        command = ["./test-runner", "-p1", "-E", "-s", scenario, *([] if whole else ["-Q"])]
        with open(log, "wb") as out:
            try:
                subprocess.run(command, cwd=self.root / "tests", env=environment, stdout=out, stderr=subprocess.STDOUT,
                               timeout=SECONDS_EACH["whole" if whole else "quick"])
            except subprocess.TimeoutExpired:
                pass
        seconds = time.monotonic() - begin
        alive = broker.process.poll() is None
        broker.end()
        shutil.copyfile(self.folder / "broker/stderr", self.folder / f"{name}.broker")
        return self.judged(number, log.read_text(errors="replace"), seconds, alive)

    def judged(self, number, text, seconds, alive):
        text = re.sub(r"\x1b\[[0-9;]*m", "", text)
        found = re.findall(rf"\|\s*({number}_\w+)\s*\|\s*(\w+)\s*\|", text)
        states = {state for name, state in found if "_mock" not in name and "_local" not in name}
        wrong = re.findall(r"### Test \S+ failed.*|Assertion failed.*|TEST FAILURE.*?\n.*", text)
        if not alive:
            return "FAILED", seconds, "the broker ended"
        if not states:
            return "FAILED", seconds, (wrong or ["its time was over"])[0]
        if states & {"FAILED", "RUNNING"}:
            return "FAILED", seconds, (wrong or ["see its log"])[0]
        if "PASSED" not in states:
            why = re.findall(r"SKIP[^\n]*", text)
            return "SKIPPED", seconds, (why or ["it does not say why"])[0]
        if says(self.root, number, r"\bSUB_TEST(_QUICK)?\(") and ": PASS (" not in text:
            return "NOTHING", seconds, "no part of it ran"
        return "PASSED", seconds, ""


def main(tarn, folder, *wanted):
    wanted, protocol = list(wanted), None
    if "--protocol" in wanted:
        at = wanted.index("--protocol")
        protocol = wanted[at + 1]
        del wanted[at:at + 2]
    folder = pathlib.Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    suite = Suite(str(pathlib.Path(tarn).resolve()), folder, protocol)
    all_of_them = suited(suite.root)
    numbers = {"quick": QUICK, "all": list(all_of_them)}.get(wanted[0] if wanted else "all", wanted)
    counts = {}
    for number in numbers:
        for scenario in all_of_them.get(number, ["default"]):
            outcome, seconds, wrong = suite.run(number, scenario)
            name = number if scenario == "default" else f"{number}/{scenario}"
            counts.setdefault(outcome, []).append(name)
            print(f"{name} {outcome:8} {seconds:6.1f} s  {' '.join(wrong.split())[:300]}", flush=True)
    print(f"{sum(map(len, counts.values()))} tests: " + ", ".join(f"{len(of)} {outcome.lower()}" for outcome, of in sorted(counts.items()))
          + "; " + "; ".join(f"{outcome.lower()}: {' '.join(counts.get(outcome, [])) or 'none'}" for outcome in ("FAILED", "NOTHING", "SKIPPED")))
    return 1 if counts.get("FAILED") or counts.get("NOTHING") else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
