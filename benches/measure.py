#!/usr/bin/env python3
"""Runs one benchmark and prints its table; `benches/run` calls it with the binaries built.

Each number is a median over RUNS runs. Where two programs are compared their runs take turns, so that what the machine does
beside hits both. Other files beside this one have benchmarks of their own, in a dict `BENCHES` by letter.
"""

import importlib.util
import os
import pathlib
import signal
import statistics
import subprocess
import sys

from harness import (  # noqa: F401  (for the other files, too)
    BENCH, BYTES, COLUMNS, DIR, RUNS, TARN, Tarn, config, events_file, fresh, measured,
)

COMMITS = os.environ.get("COMMITS", "10000")
OTHERS = ("views", "serving", "kafka", "databases", "collectors")


def a():
    """From a file through the log into the lake, beside DuckDB's conversion."""
    source = events_file()
    rows = source.stat().st_size // 215
    script = (
        "import duckdb, sys; c = duckdb.connect(); c.execute('SET threads = 2'); "
        "c.execute(\"COPY (SELECT * FROM read_json('\" + sys.argv[1] + \"', format = 'newline_delimited')) "
        "TO '\" + sys.argv[2] + \"' (FORMAT parquet, COMPRESSION zstd)\")"
    )
    tarn, duck = [], []
    for run in range(RUNS):
        folder = fresh("a")
        (folder / "in").mkdir()
        os.link(source, folder / "in/events.ndjson")
        path = config(folder, 'type = "spooldir"\npath = "in"\nformat = "ndjson"', more='[lake]\nurl = "file:lake"')
        with open(folder / "stderr", "wb") as said:
            tarn.append(measured([TARN, "run", str(path), "--drain"], stderr=said, stdout=subprocess.DEVNULL))
        duck.append(measured([sys.executable, "-c", script, str(source), str(folder / "x.parquet")]))
        print(f"run {run + 1}: tarn {tarn[-1][0]:.2f} s, duckdb {duck[-1][0]:.2f} s", file=sys.stderr)
    answer = subprocess.run(
        [TARN, "sql", "-c", str(DIR / "a/tarn.toml"), "--output", "csv", "SELECT count(*) AS n FROM events"],
        check=True, capture_output=True, text=True,
    )
    if answer.stdout.split() != ["n", str(rows)]:
        sys.exit(f"{rows} rows were fed, the lake says {answer.stdout}")
    sizes = {name: sum(f.stat().st_size for f in (DIR / "a" / name).rglob("*") if f.is_file()) / 1e6 for name in ("data", "lake")}
    print("| | seconds | rows/s | CPU seconds | peak RSS, MiB |\n|---|---|---|---|---|")
    for name, found in (("Tarn: log, then lake", tarn), ("DuckDB: COPY", duck)):
        seconds, rss, cpu = (statistics.median(values) for values in zip(*found))
        print(f"| {name} | {seconds:.2f} | {rows / seconds / 1e6:.2f} M | {cpu:.2f} | {rss:.0f} |")
    ratio = statistics.median(d[0] / t[0] for t, d in zip(tarn, duck))
    print(f"\nrate of Tarn / rate of DuckDB: {ratio:.2f} ({RUNS} runs by turns, {rows} rows); "
          f"log {sizes['data']:.0f} MB, lake {sizes['lake']:.0f} MB")


def b():
    """Aggregates over the lake that `a` has left."""
    if not (DIR / "a/lake/events/_delta_log").exists():
        sys.exit("run `a` first: its lake is measured here")
    subprocess.run([BENCH, "aggregate", str(DIR / "a/lake"), "events", str(RUNS)], check=True)


def c():
    """Freshness, with commits every second, and with none."""
    seconds = os.environ.get("SECONDS_EACH", "30")
    for name, every in (("a commit every second", "1s"), ("no commits", "1h")):
        folder = fresh("c")
        tarn = Tarn(config(folder, 'type = "http"', commit_every=every, more='[lake]\nurl = "file:lake"\noptimize_after_files = 8'))
        tarn.ready()
        print(f"{name}:", flush=True)
        subprocess.run([BENCH, "freshness", tarn.address, "20000", seconds], check=True)
        versions = len(list((folder / "lake/events/_delta_log").glob("*.json")))
        print(f"{versions} Delta versions, peak RSS {tarn.rss_mib():.0f} MiB\n", flush=True)
        tarn.end()


def d():
    """Start-up."""
    folder = DIR / "d"
    quiet = '[log]\ncompression = "none"\n[lake]\nurl = "file:lake"\noptimize_after_files = 1000000'
    if not (folder / "prepared").exists():
        folder = fresh("d")
        # 10,000 commits of one file each, 465 events of 215 bytes in each: 1 GB of log.
        tarn = Tarn(config(folder, 'type = "http"', commit_every="1ms", more=quiet))
        tarn.ready()
        subprocess.run([BENCH, "commits", tarn.address, COMMITS, "465"], check=True)
        tarn.end()
        # 64 MB that no commit has.
        tarn = Tarn(config(folder, 'type = "http"', commit_every="1h", more_table='commit_size = "4GiB"', more=quiet))
        tarn.ready()
        subprocess.run([BENCH, "push", tarn.address, str(64 * BYTES // 1000)], check=True)
        tarn.end(signal.SIGKILL)
        (folder / "prepared").write_text("")
    seconds, memory = [], []
    for _ in range(RUNS):
        tarn = Tarn(folder / "tarn.toml")
        seconds.append(tarn.ready())
        rows = tarn.sql("SELECT count(*) AS n FROM events")[0]["n"]
        live = tarn.sql("SELECT count(*) AS n FROM live.events")[0]["n"]
        memory.append(tarn.rss_mib())
        tarn.end(signal.SIGKILL)
        print(f"ready after {seconds[-1]:.2f} s: {rows} rows, {live} of them live", file=sys.stderr)
    log = sum(f.stat().st_size for f in (folder / "data").rglob("*.log")) / 1e6
    files = list((folder / "lake/events").rglob("*.parquet"))
    lake = sum(f.stat().st_size for f in files) / 1e6
    print(f"ready after {statistics.median(seconds):.2f} s (median of {RUNS}; worst {max(seconds):.2f} s), peak RSS "
          f"{statistics.median(memory):.0f} MiB; log {log:.0f} MB, lake {lake:.0f} MB in {len(files)} files")


def all_of_them():
    """All benchmarks, by letter."""
    found = {"a": a, "b": b, "c": c, "d": d}
    for name in OTHERS:
        path = pathlib.Path(__file__).with_name(f"{name}.py")
        if path.exists():
            spec = importlib.util.spec_from_file_location(f"benches_{name}", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            found |= module.BENCHES
    return found


if __name__ == "__main__":
    known = all_of_them()
    chosen = sys.argv[1:] or sorted(known)
    for name in chosen:
        if name not in known:
            sys.exit(f"benches/run {'|'.join(sorted(known))}")
        print(f"--- {name}: {known[name].__doc__}", flush=True)
        known[name]()
