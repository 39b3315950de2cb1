"""Benchmarks of views: what they cost on the way in, what a read costs, what a rebuild and many subscribers cost.

Sizes shrink by the environment, for a look at whether it works at all: BYTES (e), ROWS (f: what is there before, g: what is
rebuilt), SECONDS_EACH, RATE (events/s in f and h), SUBSCRIBERS (h).
"""

import datetime
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

from harness import BENCH, DIR, RUNS, TARN, Tarn, config, events_file, fresh, measured

LINE_BYTES = 215
LAKE = '[lake]\nurl = "file:lake"'
SPOOL = 'type = "spooldir"\npath = "in"\nformat = "ndjson"'
SECONDS_EACH = os.environ.get("SECONDS_EACH", "30")
RATE = os.environ.get("RATE", "20000")
FLINK = "2.3.0"
KNOWN = "import pyflink.table, pyflink.version; assert pyflink.version.__version__ == '%s'" % FLINK

# The aggregate that Flink runs, too.
BY_MINUTE = (
    "SELECT tumble(ts, INTERVAL '1 minute') AS minute, country, count(*) AS n, avg(ms) AS ms, max(id) AS last "
    "FROM events GROUP BY 1, 2"
)
THREE = {
    "by_minute": BY_MINUTE,
    "by_page": "SELECT page, count(*) AS n, sum(ms) AS ms, max(ts) AS last FROM events GROUP BY 1",
    "by_event": (
        "SELECT event, date_trunc('hour', ts) AS hour, count(*) AS n, count(*) FILTER (WHERE ms > 1000) AS slow, "
        "stddev(ms) AS spread, approx_percentile_cont(0.95) WITHIN GROUP (ORDER BY ms) AS p95 FROM events GROUP BY 1, 2"
    ),
}


def blocks(views):
    return "".join(f'\n[[view]]\nname = "{name}"\nquery = """{query}"""\n' for name, query in views.items())


def at_rest(path, query):
    """The answer of the lake at rest, as a list of objects."""
    command = [TARN, "sql", "-c", str(path), "--output", "ndjson", query]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in answer.stdout.splitlines() if line]


def millions(rows, seconds):
    return rows / seconds / 1e6


def flink_python():
    """The interpreter of an environment with Flink, made once, and a Java that it runs on."""
    if not shutil.which("java"):
        install = "apt-get install -y -q --no-install-recommends openjdk-17-jre-headless"
        subprocess.run(f"({install} || (apt-get update -q && {install})) >/dev/null", shell=True, check=True)
    folder = pathlib.Path(os.environ["CARGO_TARGET_DIR"]) / "flink-venv"
    python = folder / "bin/python"
    known = python.exists() and subprocess.run([python, "-c", KNOWN], capture_output=True, check=False).returncode == 0
    if not known:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        quiet = [folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*quiet, "setuptools<81", "wheel"], check=True)
        subprocess.run([*quiet, f"apache-flink=={FLINK}"], check=True)
        subprocess.run([python, "-c", KNOWN], check=True)
    return python


def e():
    """Events/s through log, table and three views, and without views, beside Flink's SQL with one of them."""
    source = events_file()
    rows = source.stat().st_size // LINE_BYTES
    python = flink_python()
    answers = {"tarn": None, "flink": None}

    def tarn(views):
        folder = fresh("e")
        (folder / "in").mkdir()
        os.link(source, folder / "in/events.ndjson")
        path = config(folder, SPOOL, more=LAKE, more_table=blocks(views))
        with open(folder / "stderr", "wb") as said:
            took = measured([TARN, "run", str(path), "--drain"], stderr=said, stdout=subprocess.DEVNULL)
        for name in views:
            total = at_rest(path, f"SELECT sum(n) AS n FROM {name}")[0]["n"]
            if total != rows:
                sys.exit(f"{rows} rows were fed, view {name} counts {total}")
        if views and answers["tarn"] is None:
            found = at_rest(path, "SELECT CAST(minute AS BIGINT) / 1000000 AS s, country, n, ms, last FROM by_minute")
            answers["tarn"] = sorted((row["s"], row["country"], row["n"], round(row["ms"], 6), row["last"]) for row in found)
        return took

    def flink():
        folder = fresh("e-flink")
        command = [str(python), str(pathlib.Path(__file__).with_name("flink.py")), str(source), str(folder), "3"]
        with open(folder / "said", "wb") as said:
            subprocess.run(command, stdout=said, stderr=subprocess.STDOUT, check=True)
        jobs = [json.loads(line) for line in (folder / "jobs.ndjson").read_text().splitlines()]
        if answers["flink"] is None:
            found = [json.loads(line) for file in (folder / "job-1").rglob("*part-*") for line in file.read_text().splitlines()]
            utc = datetime.timezone.utc

            def seconds(text):
                return int(datetime.datetime.fromisoformat(text).replace(tzinfo=utc).timestamp())

            answers["flink"] = sorted(
                (seconds(row["window_start"]), row["country"], row["n"], round(row["ms"], 6), row["last"]) for row in found
            )
        # Cold: all from the start of the program to its first answer; warm: the last job of a JVM that has run two.
        kept = ("rss_mib", "cpu_s")
        first, last = jobs[0], jobs[-1]
        return [first["since_start_s"], *(first[name] for name in kept)], [last["seconds"], *(last[name] for name in kept)]

    plain, with_views, cold, warm = [], [], [], []
    for run in range(RUNS):
        plain.append(tarn({}))
        with_views.append(tarn(THREE))
        one_cold, one_warm = flink()
        cold.append(one_cold)
        warm.append(one_warm)
        print(f"run {run + 1}: no views {plain[-1][0]:.2f} s, three {with_views[-1][0]:.2f} s, flink {cold[-1][0]:.2f} s cold, "
              f"{warm[-1][0]:.2f} s warm", file=sys.stderr)
    if answers["tarn"] != answers["flink"]:
        sys.exit(f"the answers differ: {len(answers['tarn'])} groups here, {len(answers['flink'])} in Flink's")
    middle = statistics.median
    print("| | seconds | rows/s | CPU seconds | peak RSS, MiB |\n|---|---|---|---|---|")
    named = {
        "Tarn, no views": plain, "Tarn, three views": with_views,
        "Flink, one aggregate, cold": cold, "Flink, one aggregate, warm": warm,
    }
    for name, found in named.items():
        seconds, rss, cpu = (middle(values) for values in zip(*found))
        print(f"| {name} | {seconds:.2f} | {millions(rows, seconds):.2f} M | {cpu:.2f} | {rss:.0f} |")
    kept = middle(p[0] / v[0] for p, v in zip(plain, with_views))
    beside = middle(f[0] / v[0] for f, v in zip(warm, with_views))
    print(f"\nrate with three views / without: {kept:.2f}; / Flink's warm rate: {beside:.2f} ({RUNS} runs by turns, {rows} rows, "
          f"{len(answers['flink'])} groups, equal answers)")


def f():
    """Reads of views of 100 and of a million groups while events come in, and how soon they are live after a kill."""
    rows = int(os.environ.get("ROWS", 6_000_000))
    # An event a millisecond: 6,000,000 are 20 windows of five minutes by 5 events, and 5 of twenty minutes by 200,000 users.
    views = {
        "small": "SELECT tumble(ts, INTERVAL '5 minutes') AS start, event, count(*) AS n, avg(ms) AS ms FROM events GROUP BY 1, 2",
        "large": "SELECT tumble(ts, INTERVAL '20 minutes') AS start, \"user\", count(*) AS n, avg(ms) AS ms FROM events GROUP BY 1, 2",
    }
    folder = fresh("f")
    memory = 'view_memory = "1GiB"'
    (folder / "in").mkdir()
    subprocess.run([BENCH, "events", str(folder / "in/events.ndjson"), str(rows * LINE_BYTES), "1"], check=True)
    path = config(folder, SPOOL, more=LAKE, more_table=blocks(views), serving=memory)
    with open(folder / "stderr", "wb") as said:
        subprocess.run([TARN, "run", str(path), "--drain"], stderr=said, stdout=subprocess.DEVNULL, check=True)
    shutil.rmtree(folder / "in")
    path = config(folder, 'type = "http"', more=LAKE, more_table=blocks(views), serving=memory)
    tarn = Tarn(path)
    tarn.ready()
    groups = {name: tarn.sql(f"SELECT count(*) AS n FROM {name}")[0]["n"] for name in views}
    newest = datetime.datetime(2026, 1, 1) + datetime.timedelta(milliseconds=rows)

    def since(minutes):
        return f"TIMESTAMP '{max(newest - datetime.timedelta(minutes=minutes), datetime.datetime(2026, 1, 1)):%Y-%m-%dT%H:%M:%SZ}'"

    # Each by itself, so often a second that it is answered before the next is due.
    queries = {
        f"{groups['small']} groups: the windows of the last half hour":
            (20, f"SELECT start, event, n, ms FROM small WHERE start >= {since(30)} ORDER BY 1, 2"),
        f"{groups['large']} groups: one user's windows of the last hour":
            (20, f"SELECT start, n, ms FROM large WHERE start >= {since(60)} AND \"user\" = 'u000007' ORDER BY 1"),
        f"{groups['large']} groups: the ten first users of the last half hour":
            (1, f"SELECT start, \"user\", n FROM large WHERE start >= {since(30)} ORDER BY n DESC, 2 LIMIT 10"),
    }
    first = rows
    print(f"| read, {RATE} events/s coming in | reads | p50, ms | p90 | p99 | max | CPUs |\n|---|---|---|---|---|---|---|")
    for name, (reads, query) in queries.items():
        before = tarn.cpu_s()
        told = subprocess.run(
            [BENCH, "reads", tarn.address, RATE, str(first), SECONDS_EACH, str(reads), query],
            check=True, capture_output=True, text=True,
        )
        told = json.loads(told.stdout)
        first += told["acknowledged"]
        cpu, (read,) = (tarn.cpu_s() - before) / told["seconds"], told["queries"]
        print(f"| {name} | {read['reads']} | {read['p50']:.1f} | {read['p90']:.1f} | {read['p99']:.1f} | {read['max']:.1f} | {cpu:.2f} |",
              flush=True)
    print(f"\n{first - rows} events acknowledged, peak RSS {tarn.rss_mib():.0f} MiB", flush=True)
    for view in views:
        metrics = ("commits", "commit_seconds", "aggregated_records")
        count, seconds, records = (tarn.metric(f'tarn_view_{what}_total{{view="{view}"}}') for what in metrics)
        print(f"states of {groups[view]} groups: {count:.0f} commits, {seconds / max(count, 1):.2f} s each (mean); each record was "
              f"aggregated {records / max(first - rows, 1):.2f} times", flush=True)
    before = tarn.metric("tarn_statements_planned_before_total")
    print(f"{before:.0f} statements were begun with a plan made before", flush=True)

    # Killed with some seconds of events in no commit: until it is ready, answers, and has all of it in states again.
    figures, (_, query) = [], next(iter(queries.values()))
    for _ in range(RUNS):
        told = subprocess.run(
            [BENCH, "reads", tarn.address, RATE, str(first), "5", "1", query],
            check=True, capture_output=True, text=True,
        )
        first += json.loads(told.stdout)["acknowledged"]
        tarn.end(signal.SIGKILL)
        tarn = Tarn(path)
        ready = tarn.ready()
        live = tarn.sql("SELECT count(*) AS n, (SELECT sum(n) FROM small) = (SELECT count(*) FROM events) AS same FROM live.events")[0]
        answered = time.monotonic() - tarn.begin
        if not live["same"]:
            sys.exit("after a kill the view is not its query")
        while True:
            shown = tarn.sql("SHOW VIEWS")
            if all(view["boundary"] and (view["live_records"] or 0) >= view["lag_records"] for view in shown):
                break
            time.sleep(0.01)
        figures.append((ready, answered, time.monotonic() - tarn.begin))
        print(f"killed with {live['n']} rows in no commit: live after {figures[-1][2]:.2f} s", file=sys.stderr)
    ready, answered, live = (statistics.median(values) for values in zip(*figures))
    print(f"after kill -9: ready {ready:.2f} s, first answer of a view, right, {answered:.2f} s, all states live {live:.2f} s "
          f"(medians of {RUNS}; worst {max(f[2] for f in figures):.2f} s)")
    tarn.end()


def lake_of(rows, views):
    """A log and a lake with so many rows, made once, a gigabyte of events at a time."""
    folder = DIR / "g"
    small = LAKE + '\n[log]\nretention_size = "256MiB"\nretention_every = "5s"\n'
    mark = folder / "prepared"
    if not mark.exists() or mark.read_text() != str(rows):
        folder = fresh("g")
        (folder / "in").mkdir()
        path = config(folder, SPOOL, more=small)
        def events(made):
            """The next gigabyte, made while the one before it is read."""
            part = min(rows - made, 4_000_000)
            return part, part and subprocess.Popen(
                [BENCH, "events", str(folder / "next.ndjson"), str(part * LINE_BYTES), str(made + 1)], stdout=subprocess.DEVNULL
            )

        begin, made = time.monotonic(), 0
        part, making = events(made)
        while part:
            if making.wait() != 0:
                sys.exit("the events could not be made")
            os.rename(folder / "next.ndjson", folder / "in/events.ndjson")
            made += part
            part, making = events(made)
            with open(folder / "stderr", "ab") as said:
                subprocess.run([TARN, "run", str(path), "--drain"], stderr=said, stdout=subprocess.DEVNULL, check=True)
            for done in (folder / "in").iterdir():
                done.unlink()
            print(f"{made} rows in the lake after {time.monotonic() - begin:.0f} s", file=sys.stderr)
        mark.write_text(str(rows))
    return config(folder, 'type = "http"', more=small, more_table=blocks(views), serving='view_memory = "512MiB"')


def g():
    """A rebuild from the lake beside plain DataFusion on the same files, and what others see of it."""
    rows = int(os.environ.get("ROWS", 50_000_000))
    path = lake_of(rows, {"by_minute": BY_MINUTE, "by_event": "SELECT event, count(*) AS n, avg(ms) AS ms FROM events GROUP BY 1"})
    lake = path.parent / "lake"
    tarn = Tarn(path)
    tarn.ready()
    while any(view["lag_records"] != 0 or not view["boundary"] for view in tarn.sql("SHOW VIEWS")):
        time.sleep(0.1)
    plain = "SELECT date_bin(INTERVAL '1 minute', ts) AS minute, country, count(*) AS n, avg(ms) AS ms, max(id) AS last FROM t GROUP BY 1, 2"

    def rebuild():
        begin = time.monotonic()
        tarn.post("/v1/view/by_minute/rebuild")
        return time.monotonic() - begin

    def datafusion():
        told = subprocess.run([BENCH, "plain", str(lake), "events", plain], check=True, capture_output=True, text=True)
        return json.loads(told.stdout)

    # All of it, 50 million rows on their way into the lake included, is meant to take ten minutes.
    runs, seconds_each = min(RUNS, 3), str(min(int(SECONDS_EACH), 15))
    ours, theirs = [], []
    for run in range(runs):
        ours.append(rebuild())
        theirs.append(datafusion())
        print(f"run {run + 1}: rebuild {ours[-1]:.2f} s, DataFusion {theirs[-1]['seconds']:.2f} s", file=sys.stderr)
    same = tarn.sql("SELECT count(*) AS groups, sum(n) AS n FROM by_minute")[0]
    if (same["groups"], same["n"]) != (theirs[-1]["rows"], rows):
        sys.exit(f"the answers differ: {same} here, {theirs[-1]} there")
    files = len(list((lake / "events").rglob("*.parquet")))
    print(f"| | seconds | rows/s |\n|---|---|---|\n| `tarn view rebuild` | {statistics.median(ours):.2f} | "
          f"{millions(rows, statistics.median(ours)):.1f} M |\n| DataFusion | {statistics.median(t['seconds'] for t in theirs):.2f} | "
          f"{millions(rows, statistics.median(t['seconds'] for t in theirs)):.1f} M |")
    print(f"\nseconds of the rebuild / DataFusion's: {statistics.median(o / t['seconds'] for o, t in zip(ours, theirs)):.2f} "
          f"({runs} runs by turns, {rows} rows, {files} files)\n", flush=True)

    queries = {
        "a view, 5 groups": "SELECT event, n, ms FROM by_event ORDER BY 1",
        "rows, a hundredth of the lake": "SELECT country, count(*) AS n FROM events WHERE ts < TIMESTAMP '2026-01-01T00:00:40Z' GROUP BY 1 ORDER BY 1",
    }
    print("| others' latency | reads | p50, ms | p90 | p99 | max |\n|---|---|---|---|---|---|")
    for state in ("at rest", "while it is rebuilt"):
        rebuilds, over = [], threading.Event()

        def again():
            while not over.is_set():
                rebuilds.append(rebuild())

        other = threading.Thread(target=again)
        if state != "at rest":
            other.start()
        for name, query in queries.items():
            told = subprocess.run(
                [BENCH, "reads", tarn.address, "0", "0", seconds_each, "5", query], check=True, capture_output=True, text=True,
            )
            (read,) = json.loads(told.stdout)["queries"]
            print(f"| {name}, {state} | {read['reads']} | {read['p50']:.1f} | {read['p90']:.1f} | {read['p99']:.1f} | {read['max']:.1f} |",
                  flush=True)
        over.set()
        if state != "at rest":
            other.join()
    print(f"\na rebuild beside these statements: {statistics.median(rebuilds):.2f} s")
    tarn.post("/v1/view/by_minute/drop-builds?builds=old")
    tarn.end()


def h():
    """One query, nobody, one and many subscribers: CPU of the process, and how often the query is evaluated."""
    many = int(os.environ.get("SUBSCRIBERS", 200))
    views = {"by_minute": BY_MINUTE}
    query = "SELECT country, sum(n) AS n, max(last) AS last FROM by_minute GROUP BY 1"
    evaluations = 'tarn_statements_total{outcome="done"}'
    print("| subscribers | evaluations | CPU seconds | updates that each got | of them at least |\n|---|---|---|---|---|")
    found = {}
    for count in (0, 1, many):
        runs = []
        for _ in range(RUNS):
            folder = fresh("h")
            tarn = Tarn(config(folder, 'type = "http"', more=LAKE, more_table=blocks(views)))
            tarn.ready()
            command = [BENCH, "subscribe", tarn.address, RATE, SECONDS_EACH, str(count), query]
            subscribers = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            # It says `subscribed` once all are, and then when the time is over.
            if subscribers.stdout.readline().strip() != "subscribed":
                sys.exit("the subscribers did not get there")
            before = tarn.metric(evaluations), tarn.cpu_s()
            if subscribers.stdout.readline().strip() != "over":
                sys.exit("the subscribers broke off")
            after = tarn.metric(evaluations), tarn.cpu_s()
            told = json.loads(subscribers.stdout.readline())
            if subscribers.wait() != 0:
                sys.exit("the subscribers failed")
            runs.append((after[0] - before[0], after[1] - before[1], told["most"], told["least"]))
            tarn.end()
        found[count] = [statistics.median(values) for values in zip(*runs)]
        evaluated, cpu, most, least = found[count]
        print(f"| {count} | {evaluated:.0f} | {cpu:.2f} | {most:.0f} | {least:.0f} |", flush=True)
    print(f"\n{RATE} events/s for {SECONDS_EACH} s; CPU of {many} subscribers / of one: {found[many][1] / found[1][1]:.2f}")


BENCHES = {"e": e, "f": f, "g": g, "h": h}
