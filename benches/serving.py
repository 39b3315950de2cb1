"""Benchmarks of the doors: dashboards in a browser, PostgreSQL's wire protocol, Arrow over HTTP.

What they need beside `benches/run` they install: Chromium, PostgreSQL (to compare with) and nodejs from Debian,
puppeteer-core from npm, pyarrow from PyPI. SECONDS_EACH, PROBES, TRIPS and ROWS shrink them for a look at whether they work.
"""

import json
import os
import pathlib
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

from harness import BENCH, COLUMNS, RUNS, TARN, Tarn, config, fresh

HERE = pathlib.Path(__file__).parent
PROBES = int(os.environ.get("PROBES", 400))
TRIPS = int(os.environ.get("TRIPS", 2000))
ROWS = int(os.environ.get("ROWS", 1_000_000))
SECONDS_EACH = float(os.environ.get("SECONDS_EACH", 30))
EVENT_BYTES = 215
# What PostgreSQL says of itself.
SAID = pathlib.Path(os.environ["BENCH_DIR"]) / "postgres.stderr"


# --- what is installed

def installed(program, package):
    """The path of a program, from Debian's package if it is not there."""
    found = shutil.which(program)
    if not found:
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", package]):
            subprocess.run(command, stdout=subprocess.DEVNULL, check=command[1] == "install")
        found = shutil.which(program)
    return found or sys.exit(f"{program} is missing, and {package} did not bring it")


def browser_environment():
    """Where `page.mjs` finds its browser and what drives it: the same as the tests'."""
    modules = pathlib.Path(os.environ["CARGO_TARGET_DIR"]) / "tests-node"
    if not (modules / "node_modules/puppeteer-core").exists():
        modules.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--silent", "--no-save", "--prefix", str(modules), "kafkajs@2.2.4", "puppeteer-core@25.16.0"]
        subprocess.run(install, check=True)
    chromium = os.environ.get("TARN_CHROMIUM") or installed("chromium", "chromium")
    return {**os.environ, "TARN_NODE_PATH": str(modules / "node_modules"), "TARN_CHROMIUM": chromium}


def pyarrow():
    try:
        import pyarrow.ipc
    except ImportError:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "pyarrow==22.0.0"]
        subprocess.run(pip, check=True)
        import pyarrow.ipc
    return pyarrow


# --- a page that moves

CLICKS = (
    "session_id VARCHAR, user_id BIGINT, page VARCHAR, referrer VARCHAR, device VARCHAR, ts TIMESTAMP, duration_ms BIGINT"
)
PROBE_PANEL = """
[[dashboard.panel]]
title = "Newest probe"
chart = "number"
query = "SELECT newest FROM by_kind WHERE kind = 'probe'"
"""
EIGHT_PANELS = "".join(
    f"\n[[dashboard.panel]]\ntitle = \"{chart}\"\nchart = \"{chart}\"\nquery = \"{query}\"\n"
    for chart, query in (
        ("number", "SELECT date_bin($interval, time) AS time, sum(clicks) AS clicks FROM traffic WHERE time >= $from AND time < $to GROUP BY 1 ORDER BY 1"),
        ("line", "SELECT date_bin($interval, time) AS time, device, sum(clicks) AS clicks FROM traffic WHERE time >= $from AND time < $to GROUP BY 1, 2 ORDER BY 1"),
        ("area", "SELECT date_bin($interval, time) AS time, device, sum(duration_ms) AS ms FROM traffic WHERE time >= $from AND time < $to GROUP BY 1, 2 ORDER BY 1"),
        ("stacked_bar", "SELECT date_bin($interval, time) AS time, page, sum(clicks) AS clicks FROM traffic WHERE time >= $from AND time < $to GROUP BY 1, 2 ORDER BY 1"),
        ("heatmap", "SELECT device, page, sum(clicks) AS clicks FROM traffic GROUP BY 1, 2 ORDER BY 1, 2"),
        ("pie", "SELECT device, sum(clicks) AS clicks FROM traffic GROUP BY 1 ORDER BY 2 DESC"),
        ("bar", "SELECT page, sum(clicks) AS clicks FROM traffic GROUP BY 1 ORDER BY 2 DESC"),
        ("table", "SELECT page, device, sum(clicks) AS clicks, sum(duration_ms) AS ms FROM traffic GROUP BY 1, 2 ORDER BY 1, 2"),
    )
)


def page_config(folder, panels, clicks_a_second, refresh):
    """A pipeline with probes over HTTP, made-up clicks, and a dashboard `page`."""
    generator = f'[[source]]\nname = "clicks"\ntype = "generator"\nstream = "clicks"\nrate = {clicks_a_second}\ntopic = "clicks"\n'
    path = folder / "tarn.toml"
    path.write_text(f"""
data_dir = "data"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "clicks"
partitions = 2

{generator if clicks_a_second else ""}
[[source]]
name = "probes"
type = "http"
topic = "probes"

[[table]]
name = "probes"
columns = "kind VARCHAR, n BIGINT"

[[table]]
name = "clicks"
columns = "{CLICKS}"

[[view]]
name = "by_kind"
query = "SELECT kind, max(n) AS newest FROM probes GROUP BY kind"

[[view]]
name = "traffic"
query = \"\"\"
    SELECT date_bin(INTERVAL '1 second', ts) AS time, device, split_part(page, '/', 2) AS page,
           count(*) AS clicks, sum(duration_ms) AS duration_ms
    FROM clicks GROUP BY 1, 2, 3
\"\"\"

[[dashboard]]
name = "page"
range = "5m"
refresh = "{refresh}"
{panels}
""")
    return path


def i():
    """From an acknowledgement over HTTP to the value on a dashboard, in Chromium."""
    environment = browser_environment()
    cases = (
        ("one panel, nothing else", PROBE_PANEL, 0),
        ("nine panels, 1,000 clicks/s beside", PROBE_PANEL + EIGHT_PANELS, 1000),
    )
    print("| acknowledged to pixel, ms | p50 | p90 | p99 | worst | probes |\n|---|---|---|---|---|---|")
    for name, panels, clicks in cases:
        tarn = Tarn(page_config(fresh("i"), panels, clicks, "200ms"))
        tarn.ready()
        base = f"http://{tarn.address}"
        command = ["node", str(HERE / "page.mjs"), "pixel", f"{base}/d/page", f"{base}/v1/ingest/probes", str(PROBES)]
        took = sorted(json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout))
        tarn.end()
        figures = [percentile(took, share) for share in (0.5, 0.9, 0.99)] + [took[-1]]
        print(f"| {name} | {' | '.join(f'{figure:.0f}' for figure in figures)} | {len(took)} |", flush=True)


def j():
    """CPU of the process and of the browser with eight panels at 4 Hz, 1,000 clicks/s beside."""
    environment = browser_environment()
    tarn = Tarn(page_config(fresh("j"), EIGHT_PANELS, 1000, "250ms"))
    tarn.ready()
    time.sleep(min(10, SECONDS_EACH))
    alone, _ = cpu_share([tarn.process.pid])
    command = ["node", str(HERE / "page.mjs"), "watch", f"http://{tarn.address}/d/page"]
    page = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    browser = json.loads(page.stdout.readline())["pid"]

    def updates():
        page.stdin.write("\n")
        page.stdin.flush()
        return json.loads(page.stdout.readline())["updates"]

    time.sleep(min(10, SECONDS_EACH))
    updates()
    watched, seconds = cpu_share([tarn.process.pid], [browser])
    rate = updates() / seconds
    page.stdin.close()
    page.wait()
    rss = tarn.rss_mib()
    tarn.end()
    print("| percent of one core | |\n|---|---|")
    print(f"| the process, no page open | {alone[0]:.0f} |")
    print(f"| the process, one page | {watched[0]:.0f} |")
    print(f"| the browser, all its processes | {watched[1]:.0f} |")
    print(f"\n{rate:.1f} updates a second over {seconds:.0f} s, 1,000 clicks/s; peak RSS of the process {rss:.0f} MiB")


def cpu_share(*trees):
    """Percent of one core that each tree of processes takes over SECONDS_EACH, and the seconds."""
    before, began = [cpu_seconds(tree) for tree in trees], time.monotonic()
    time.sleep(SECONDS_EACH)
    after, seconds = [cpu_seconds(tree) for tree in trees], time.monotonic() - began
    return [100 * (new - old) / seconds for old, new in zip(before, after)], seconds


def cpu_seconds(roots):
    """CPU seconds of processes and their descendants that live."""
    parents, spent = {}, {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(") ", 1)[1].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
        spent[int(path.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def belongs(process):
        while process in parents:
            if process in roots:
                return True
            process = parents[process]
        return False

    return sum(seconds for process, seconds in spent.items() if belongs(process))


def percentile(ordered, share):
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# --- PostgreSQL's wire protocol

class Wire:
    """A connection that speaks protocol 3.0 and decodes no rows: what is measured is the server."""

    def __init__(self, address, user="bench", database="tarn"):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray(1 << 20)
        words = b"".join(word.encode() + b"\0" for word in ("user", user, "database", database)) + b"\0"
        self.socket.sendall(struct.pack("!ii", len(words) + 8, 196608) + words)
        self.drain()

    @staticmethod
    def message(kind, body):
        return kind + struct.pack("!i", len(body) + 4) + body

    @staticmethod
    def simple(sql):
        return Wire.message(b"Q", sql.encode() + b"\0")

    @staticmethod
    def parse(name, sql):
        return Wire.message(b"P", name.encode() + b"\0" + sql.encode() + b"\0" + struct.pack("!h", 0)) + Wire.message(b"S", b"")

    @staticmethod
    def execute(name, parameters=(), binary=False):
        """Bind, describe, execute and sync in one piece, as drivers send them."""
        values = b"".join(struct.pack("!i", len(value)) + value for value in parameters)
        bind = b"\0" + name.encode() + b"\0" + struct.pack("!hh", 0, len(parameters)) + values + struct.pack("!hh", 1, int(binary))
        return (
            Wire.message(b"B", bind) + Wire.message(b"D", b"P\0") + Wire.message(b"E", b"\0" + struct.pack("!i", 0)) + Wire.message(b"S", b"")
        )

    def ask(self, request):
        self.socket.sendall(request)
        return self.drain()

    def drain(self):
        """Reads to ReadyForQuery: bytes, and the words of the last CommandComplete."""
        size, tail = 0, b""
        while True:
            count = self.socket.recv_into(self.buffer)
            if count == 0:
                sys.exit("the server has hung up")
            size += count
            tail = (tail + bytes(self.buffer[max(0, count - 4096):count]))[-4096:]
            if tail[-6:-1] == b"Z\0\0\0\5":
                break
        if size < 4096 and tail[:1] == b"E":
            sys.exit(f"the server says {tail!r}")
        at = tail.rfind(b"C\0\0\0", 0, -6)
        return size, tail[at + 5:-7].decode() if at >= 0 else ""

    def close(self):
        self.socket.sendall(self.message(b"X", b""))
        self.socket.close()


class Postgres:
    """PostgreSQL itself on a free port, as a user without rights when root starts it."""

    def __init__(self):
        if not shutil.which("psql"):
            installed("psql", "postgresql")
        found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        if not found:
            installed("pg_ctlcluster", "postgresql")
            found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        programs = found[-1].parent
        self.become = []
        self.folder = fresh("postgres")
        if os.geteuid() == 0:
            # It refuses to run as root, and another user may not be let into BENCH_DIR.
            self.become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
            allowed = subprocess.run([*self.become, "test", "-x", str(self.folder)], check=False).returncode == 0
            if not allowed:
                self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tarn-bench-postgres-"))
            shutil.chown(self.folder, "postgres", "postgres")
        data = self.folder / "data"
        options = {"cwd": self.folder, "stdout": subprocess.DEVNULL, "stderr": open(SAID, "wb")}
        initdb = [*self.become, str(programs / "initdb"), "-D", str(data), "-U", "bench", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]
        subprocess.run(initdb, check=True, **options)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        settings = ["listen_addresses=127.0.0.1", f"port={self.port}", "unix_socket_directories=", "shared_buffers=512MB", "timezone=UTC"]
        command = [*self.become, str(programs / "postgres"), "-D", str(data)] + [word for one in settings for word in ("-c", one)]
        self.process = subprocess.Popen(command, **options)
        self.address = f"127.0.0.1:{self.port}"
        deadline = time.monotonic() + 60
        while self.psql("SELECT 1", check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"PostgreSQL did not start: see {SAID}")
            time.sleep(0.1)

    def psql(self, *commands, check=True, **options):
        words = [word for command in commands for word in ("-c", command)]
        psql = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port), "-U", "bench", "postgres", *words]
        return subprocess.run(psql, check=check, stdout=subprocess.DEVNULL, stderr=None if check else subprocess.DEVNULL, **options)

    def copy(self, table, tarn, query):
        """Fills a table with what Tarn answers: both then serve the same rows."""
        request = urllib.request.Request(f"http://{tarn.address}/v1/sql", query.encode(), {"Accept": "text/csv"})
        psql = ["psql", "-X", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "bench", "postgres"]
        filler = subprocess.Popen([*psql, "-c", f"COPY {table} FROM STDIN WITH (FORMAT csv, HEADER)"], stdin=subprocess.PIPE)
        with urllib.request.urlopen(request) as answer:
            shutil.copyfileobj(answer, filler.stdin, 1 << 20)
        filler.stdin.close()
        if filler.wait() != 0:
            sys.exit(f"PostgreSQL did not take the rows of {table}")
        self.psql(f"VACUUM ANALYZE {table}")

    def end(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def postgres_address(tarn):
    return json.loads((tarn.folder / "data/process.json").read_text())["postgres"]


# What one person asks of psql again and again: the sizes are those of a table of codes and of a view's answer.
SMALL = (
    ("SELECT 1", "SELECT 1", None),
    ("one of 200 rows", "SELECT * FROM codes WHERE code = {}", "c017"),
    ("20 groups", "SELECT * FROM by_group ORDER BY 1", None),
)


def k():
    """A small query and its answer over PostgreSQL's protocol, beside PostgreSQL itself."""
    folder = fresh("k")
    (folder / "tarn.toml").write_text("""
data_dir = "data"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"
postgres = "127.0.0.1:0"

[[source]]
name = "codes"
type = "http"
topic = "codes"

[[table]]
name = "codes"
columns = "code VARCHAR, name VARCHAR, groups VARCHAR, weight DOUBLE"
commit_every = "200ms"

[[view]]
name = "by_group"
query = "SELECT groups, count(*) AS codes, sum(weight) AS weight FROM codes GROUP BY groups"
""")
    tarn = Tarn(folder / "tarn.toml")
    tarn.ready()
    lines = "\n".join(json.dumps({"code": f"c{at:03}", "name": f"name of {at}", "groups": f"g{at % 20:02}", "weight": at / 4}) for at in range(200))
    urllib.request.urlopen(urllib.request.Request(f"http://{tarn.address}/v1/ingest/codes", lines.encode())).read()
    while tarn.sql("SELECT count(*) AS n FROM lake.codes")[0]["n"] < 200:
        time.sleep(0.05)
    postgres = Postgres()
    postgres.psql("CREATE TABLE codes (code text PRIMARY KEY, name text, groups text, weight float8)")
    postgres.copy("codes", tarn, "SELECT code, name, groups, weight FROM codes")
    postgres.psql("CREATE VIEW by_group AS SELECT groups, count(*) AS codes, sum(weight) AS weight FROM codes GROUP BY groups")
    servers = {"Tarn": Wire(postgres_address(tarn)), "PostgreSQL": Wire(postgres.address, database="postgres")}
    print("| round trip, ms | protocol | Tarn p50 | Tarn p99 | PostgreSQL p50 | PostgreSQL p99 |\n|---|---|---|---|---|---|")
    for at, (name, sql, value) in enumerate(SMALL):
        for protocol in ("simple", "prepared"):
            took = {server: [] for server in servers}
            if protocol == "prepared":
                request = Wire.execute(f"s{at}", [value.encode()] if value else [])
                for wire in servers.values():
                    wire.ask(Wire.parse(f"s{at}", sql.format("$1")))
            else:
                request = Wire.simple(sql.format(f"'{value}'"))
            said = {server: wire.ask(request)[1] for server, wire in servers.items()}
            if len(set(said.values())) != 1:
                sys.exit(f"`{sql}`: the answers differ: {said}")
            for trip in range(-TRIPS // 10, TRIPS):
                for server, wire in servers.items():
                    begin = time.perf_counter()
                    wire.ask(request)
                    if trip >= 0:
                        took[server].append((time.perf_counter() - begin) * 1e3)
            figures = [percentile(sorted(took[server]), share) for server in servers for share in (0.5, 0.99)]
            print(f"| {name} | {protocol} | {' | '.join(f'{figure:.2f}' for figure in figures)} |", flush=True)
    print(f"\n{TRIPS} trips each, by turns, one connection each")
    for wire in servers.values():
        wire.close()
    postgres.end()
    tarn.end()


ALL_ROWS = "SELECT id, ts, \"user\", session, event, page, country, ms, agent FROM events"


def l():
    """1 million rows over PostgreSQL's protocol and as Arrow over HTTP, beside PostgreSQL serving the same rows."""
    arrow = pyarrow()
    folder = fresh("l")
    (folder / "in").mkdir()
    subprocess.run([BENCH, "events", str(folder / "in/events.ndjson"), str(ROWS * EVENT_BYTES), "1"], check=True, stdout=subprocess.DEVNULL)
    source = 'type = "spooldir"\npath = "in"\nformat = "ndjson"'
    path = config(folder, source, more='[lake]\nurl = "file:lake"')
    path.write_text(path.read_text().replace("[serving]", '[serving]\npostgres = "127.0.0.1:0"'))
    with open(folder / "stderr", "wb") as said:
        subprocess.run([TARN, "run", str(path), "--drain"], stderr=said, stdout=subprocess.DEVNULL, check=True)
    tarn = Tarn(path)
    tarn.ready()
    rows = tarn.sql("SELECT count(*) AS n FROM events")[0]["n"]
    postgres = Postgres()
    columns = COLUMNS.replace("VARCHAR", "text").replace("TIMESTAMP", "timestamptz").replace("DOUBLE", "float8").replace("user ", '"user" ')
    postgres.psql(f"CREATE TABLE events ({columns})")
    postgres.copy("events", tarn, ALL_ROWS)
    addresses = {"Tarn": (postgres_address(tarn), "tarn"), "PostgreSQL": (postgres.address, "postgres")}

    def over_the_wire(server, how):
        wire = Wire(addresses[server][0], database=addresses[server][1])
        if how == "binary":
            wire.ask(Wire.parse("all", ALL_ROWS))
            request = Wire.execute("all", binary=True)
        else:
            request = Wire.simple(f"COPY ({ALL_ROWS}) TO STDOUT" if how == "COPY" else ALL_ROWS)
        begin = time.perf_counter()
        size, words = wire.ask(request)
        seconds = time.perf_counter() - begin
        wire.close()
        if words.split()[-1:] != [str(rows)]:
            sys.exit(f"{server} sent `{words}` instead of {rows} rows")
        return seconds, size

    def as_arrow():
        request = urllib.request.Request(
            f"http://{tarn.address}/v1/sql", ALL_ROWS.encode(), {"Accept": "application/vnd.apache.arrow.stream"}
        )
        begin = time.perf_counter()
        with urllib.request.urlopen(request) as answer:
            table = arrow.ipc.open_stream(answer).read_all()
        seconds = time.perf_counter() - begin
        if table.num_rows != rows:
            sys.exit(f"{table.num_rows} rows came as Arrow instead of {rows}")
        return seconds, table.nbytes

    ways = [(server, how) for how in ("text", "binary", "COPY") for server in addresses]
    took = {way: [] for way in ways} | {("Tarn", "Arrow over HTTP"): []}
    for run in range(RUNS + 1):
        for way, found in took.items():
            figures = as_arrow() if way[1] == "Arrow over HTTP" else over_the_wire(*way)
            if run > 0:  # The first round fills caches.
                found.append(figures)
    peak = tarn.rss_mib()
    postgres.end()
    tarn.end()
    print(f"| {rows} rows | Tarn, rows/s | PostgreSQL, rows/s | ratio | Tarn, MB |\n|---|---|---|---|---|")
    median = {way: statistics.median(seconds for seconds, _ in found) for way, found in took.items()}
    for how in ("text", "binary", "COPY"):
        ratio = statistics.median(p[0] / t[0] for t, p in zip(took["Tarn", how], took["PostgreSQL", how]))
        ours, theirs = (rows / median[server, how] / 1e6 for server in ("Tarn", "PostgreSQL"))
        print(f"| PostgreSQL's protocol, {how} | {ours:.2f} M | {theirs:.2f} M | {ratio:.2f} | {took['Tarn', how][0][1] / 1e6:.0f} |")
    way = "Tarn", "Arrow over HTTP"
    ratio = statistics.median(p[0] / t[0] for t, p in zip(took[way], took["PostgreSQL", "binary"]))
    print(f"| Arrow over HTTP, beside binary | {rows / median[way] / 1e6:.2f} M | | {ratio:.2f} | {took[way][0][1] / 1e6:.0f} |")
    print(f"\n{RUNS} runs by turns; peak RSS of Tarn {peak:.0f} MiB")


BENCHES = {"i": i, "j": j, "k": k, "l": l}
