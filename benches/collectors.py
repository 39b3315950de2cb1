"""Benchmarks o and p: a growing access log, and syslog at a fixed rate.

`o` needs rsyslog beside Tarn, which it has apt-get install where there is none. ACCESS_BYTES is the size of the access log
(default: BYTES), SYSLOG_RATE the messages a second (default 20,000), SECONDS_EACH how long they are sent (default 30).
"""

import os
import pathlib
import random
import shutil
import socket
import statistics
import subprocess
import sys
import time

from harness import BYTES, DIR, RUNS, TARN, Tarn, fresh, measured

ACCESS_BYTES = int(os.environ.get("ACCESS_BYTES", BYTES))
SYSLOG_RATE = int(os.environ.get("SYSLOG_RATE", 20_000))
SECONDS_EACH = int(os.environ.get("SECONDS_EACH", 30))

ACCESS = """
data_dir = "data"
[lake]
url = "file:lake"
[serving]
http = "127.0.0.1:0"

[[source]]
name = "access"
type = "taildir"
path = "access.log"
format = "combined"
topic = "access"

[[table]]
name = "access"
columns = \"\"\"host VARCHAR, ident VARCHAR, user VARCHAR, time TIMESTAMP, request VARCHAR, method VARCHAR, path VARCHAR,
protocol VARCHAR, status INT, size BIGINT, referer VARCHAR, agent VARCHAR\"\"\"
"""

SYSLOG = """
data_dir = "data"
[lake]
url = "file:lake"
[serving]
http = "127.0.0.1:0"

[[source]]
name = "syslog"
type = "syslog"
tcp = "127.0.0.1:0"
udp = "127.0.0.1:0"
topic = "syslog"

[[table]]
name = "syslog"
columns = "facility VARCHAR, severity VARCHAR, time TIMESTAMP, host VARCHAR, app VARCHAR, pid VARCHAR, message VARCHAR"
unknown_fields = "drop"
commit_every = "5s"
"""


def access_log():
    """The log, and how many lines it has; made once."""
    path = DIR / f"access-{ACCESS_BYTES}.log"
    count = path.with_suffix(".lines")
    if not count.exists():
        dice = random.Random(1)
        agents = [
            f"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{n}.0.{n * 37}.9 Safari/537.36"
            for n in range(90, 140)
        ]
        hosts = [".".join(str(dice.randrange(1, 255)) for _ in range(4)) for _ in range(5000)]
        months = time.strftime("%d/%b/%Y", time.gmtime(1_700_000_000))
        size = lines = 0
        with open(path, "w", buffering=1 << 20) as file:
            while size < ACCESS_BYTES:
                at = lines // 40
                stamp = f"{months}:{at // 3600 % 24:02}:{at // 60 % 60:02}:{at % 60:02} +0000"
                draw = dice.random()
                status = 200 if draw < 0.9 else 304 if draw < 0.95 else 404 if draw < 0.99 else 500
                line = (
                    f'{hosts[int(draw * 1e7) % 5000]} - - [{stamp}] "GET /shop/item/{int(draw * 1e9) % 100_000}?page={lines % 9} '
                    f'HTTP/1.1" {status} {int(draw * 1e8) % 50_000} "https://example.com/list/{lines % 500}" "{agents[lines % 50]}"\n'
                )
                size += len(line)
                lines += 1
                file.write(line)
        count.write_text(str(lines))
    with open(path, "rb") as file:  # into the page cache
        while file.read(1 << 24):
            pass
    return path, int(count.read_text())


def rsyslog(log):
    """rsyslog reads `log` and writes its lines to another file: seconds, peak RSS in MiB, CPU seconds."""
    folder = fresh("o-rsyslog")
    out = folder / "out.log"
    (folder / "rsyslog.conf").write_text(
        f'global(workDirectory="{folder}")\nmodule(load="imfile")\n'
        f'template(name="line" type="string" string="%msg%\\n")\n'
        f'ruleset(name="copy") {{ action(type="omfile" file="{out}" template="line" ioBufferSize="64k" flushOnTXEnd="off") }}\n'
        f'input(type="imfile" File="{log}" Tag="access" ruleset="copy")\n'
    )
    begin = time.monotonic()
    process = subprocess.Popen(
        ["rsyslogd", "-n", "-f", str(folder / "rsyslog.conf"), "-i", str(folder / "pid")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    # What is still in its buffers when it has read everything is written at its end: that is waited for, too.
    size, seen, still = log.stat().st_size, -1, time.monotonic()
    while seen < max(1, size - (1 << 20)) or time.monotonic() - still < 1:
        if process.poll() is not None:
            sys.exit("rsyslogd ended")
        time.sleep(0.02)
        now = out.stat().st_size if out.exists() else 0
        if now != seen:
            seen, still = now, time.monotonic()
    waited = time.monotonic() - still
    seconds = time.monotonic() - begin - waited
    process.terminate()
    _, _, usage = os.wait4(process.pid, 0)
    if out.stat().st_size != size:
        sys.exit(f"rsyslog wrote {out.stat().st_size} of {size} bytes")
    shutil.rmtree(folder)
    return seconds, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def o():
    """An access log by taildir into the lake, beside rsyslog writing the same lines to a file."""
    if not shutil.which("rsyslogd"):
        subprocess.run("apt-get install -y -q rsyslog || (apt-get update -q && apt-get install -y -q rsyslog)",
                       shell=True, check=True, stdout=subprocess.DEVNULL)
    log, lines = access_log()
    tarn, other = [], []
    for run in range(RUNS):
        folder = fresh("o")
        os.link(log, folder / "access.log")
        (folder / "tarn.toml").write_text(ACCESS)
        with open(folder / "stderr", "wb") as said:
            command = [TARN, "run", str(folder / "tarn.toml"), "--drain"]
            tarn.append(measured(command, stderr=said, stdout=subprocess.DEVNULL))
        other.append(rsyslog(log))
        print(f"run {run + 1}: tarn {tarn[-1][0]:.2f} s, rsyslog {other[-1][0]:.2f} s", file=sys.stderr)
    answer = subprocess.run(
        [TARN, "sql", "-c", str(DIR / "o/tarn.toml"), "--output", "csv", "SELECT count(*) AS n FROM access WHERE time IS NOT NULL"],
        check=True, capture_output=True, text=True,
    )
    if answer.stdout.split() != ["n", str(lines)]:
        sys.exit(f"{lines} lines were there, the lake says {answer.stdout}")
    print("| | seconds | rows/s | CPU seconds per million rows | peak RSS, MiB |\n|---|---|---|---|---|")
    for name, found in (("Tarn: parsed, log, lake", tarn), ("rsyslog: lines to a file", other)):
        seconds, rss, cpu = (statistics.median(values) for values in zip(*found))
        print(f"| {name} | {seconds:.2f} | {lines / seconds:,.0f} | {cpu / lines * 1e6:.2f} | {rss:.0f} |")
    ratio = statistics.median(r[0] / t[0] for t, r in zip(tarn, other))
    print(f"\nrate of Tarn / rate of rsyslog: {ratio:.2f} ({RUNS} runs by turns, {lines:,} lines, {log.stat().st_size:,} bytes)")


def send(port, stream):
    """Sends numbered messages at the rate, one after another: how many, and in how many seconds."""
    kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
    link = socket.socket(socket.AF_INET, kind)
    link.connect(("127.0.0.1", port))
    step = max(SYSLOG_RATE // 100, 1)
    total = SYSLOG_RATE * SECONDS_EACH
    begin = time.monotonic()
    sent = 0
    while sent < total:
        until = min(sent + step, total)
        messages = [
            f"<134>1 2026-01-01T00:00:00.{n % 1000000:06}Z host app 42 - - message number {n} of a service that says what it does".encode()
            for n in range(sent, until)
        ]
        if stream:
            link.sendall(b"".join(b"%d %b" % (len(message), message) for message in messages))
        else:
            for message in messages:
                link.send(message)
        sent = until
        ahead = begin + sent / SYSLOG_RATE - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
    seconds = time.monotonic() - begin
    link.close()
    return sent, seconds


def p():
    """Syslog over TCP and UDP at a fixed rate, and what was lost."""
    print("| | sent/s | sent | in the table | lost | told as lost | CPU seconds per million | peak RSS, MiB |\n|---|---|---|---|---|---|---|---|")
    for name, stream in (("TCP", True), ("UDP", False)):
        folder = fresh("p")
        (folder / "tarn.toml").write_text(SYSLOG)
        tarn = Tarn(folder / "tarn.toml")
        tarn.ready()
        status = tarn.get_json("/v1/status")["sources"][0]["addresses"]
        port = next(int(a.rsplit(":", 1)[1]) for a in status if a.startswith(name.lower()))
        before = tarn.cpu_s()
        sent, seconds = send(port, stream)
        count, still = -1, time.monotonic()
        while time.monotonic() - still < 3:
            now = tarn.sql("SELECT count(*) AS n FROM syslog")[0]["n"]
            if now != count:
                count, still = now, time.monotonic()
            time.sleep(0.2)
        cpu = tarn.cpu_s() - before
        distinct = tarn.sql("SELECT count(DISTINCT message) AS n FROM syslog")[0]["n"]
        told = (tarn.get_json("/v1/status")["sources"][0].get("last_error") or {}).get("message", "")
        rss = tarn.rss_mib()
        tarn.end()
        if distinct != count:
            sys.exit(f"{count - distinct} messages are there twice")
        print(f"| {name} | {sent / seconds:,.0f} | {sent:,} | {count:,} | {sent - count:,} | {told or '-'} | {cpu / sent * 1e6:.2f} | {rss:.0f} |", flush=True)
        if stream and count != sent:
            sys.exit("TCP must lose nothing")


BENCHES = {"o": o, "p": p}
