"""Benchmarks of databases as sources: TPC-H's lineitem out of PostgreSQL.

What they need beside `benches/run` they install: PostgreSQL from Debian; tpchgen-cli, connectorx, pyarrow and DuckDB's extension for
PostgreSQL from PyPI. TPCH_SCALE (default 0.2: 1.2 million rows) is the scale.
"""

import importlib.util
import os
import pathlib
import statistics
import subprocess
import sys

from harness import DIR, RUNS, TARN, fresh, measured
from serving import Postgres

SCALE = os.environ.get("TPCH_SCALE", "0.2")
PACKAGES = ("tpchgen-cli==4.0.0", "connectorx==0.4.6", "duckdb-extension-postgres==1.5.5", "pyarrow==22.0.0")
LINEITEM = (
    "l_orderkey BIGINT, l_partkey BIGINT, l_suppkey BIGINT, l_linenumber INT, l_quantity NUMERIC(15,2), l_extendedprice NUMERIC(15,2), "
    "l_discount NUMERIC(15,2), l_tax NUMERIC(15,2), l_returnflag CHAR(1), l_linestatus CHAR(1), l_shipdate DATE, l_commitdate DATE, "
    "l_receiptdate DATE, l_shipinstruct CHAR(25), l_shipmode CHAR(10), l_comment VARCHAR(44)"
)
CONNECTORX = (
    "import connectorx, pyarrow.parquet, sys; t = connectorx.read_sql(sys.argv[1], 'SELECT * FROM lineitem', return_type = 'arrow', "
    "partition_on = 'l_orderkey', partition_num = 2); pyarrow.parquet.write_table(t, sys.argv[2], compression = 'zstd')"
)
DUCKDB = (
    "import duckdb, glob, os, sys; c = duckdb.connect(config = {'allow_unsigned_extensions': 'true'}); c.execute('SET threads = 2'); "
    "c.execute(f\"LOAD '{sys.argv[3]}'\"); c.execute(f\"ATTACH '{sys.argv[1]}' AS pg (TYPE postgres, READ_ONLY)\"); "
    "c.execute(f\"COPY (SELECT * FROM pg.lineitem) TO '{sys.argv[2]}' (FORMAT parquet, COMPRESSION zstd)\")"
)
CONFIG = """
data_dir = "data"
[lake]
url = "file:lake"
[serving]
http = "127.0.0.1:0"
[[topic]]
name = "lineitem"
partitions = 2
[[source]]
name = "tpch"
type = "database"
url = "{url}"
table = "lineitem"
topic = "lineitem"
[[table]]
name = "lineitem"
[[import]]
name = "imported"
url = "{url}"
table = "lineitem"
readers = 2
[[import]]
name = "imported_by_one"
url = "{url}"
table = "lineitem"
"""


def brought():
    """Installs the packages; the path of DuckDB's extension and of tpchgen-cli."""
    names = ("connectorx", "duckdb_extension_postgres", "pyarrow")
    generator = pathlib.Path(sys.executable).with_name("tpchgen-cli")
    if not generator.exists() or any(importlib.util.find_spec(name) is None for name in names):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
        subprocess.run(pip, check=True)
        importlib.invalidate_caches()
    folder = pathlib.Path(importlib.util.find_spec("duckdb_extension_postgres").origin).parent
    # DuckDB takes the name of an extension's entry from its file's.
    extension = DIR / "postgres_scanner.duckdb_extension"
    extension.unlink(missing_ok=True)
    extension.symlink_to(next(folder.rglob("*.duckdb_extension")))
    return str(extension), str(generator)


def lineitem(postgres, generator):
    folder = DIR / f"tpch-{SCALE}"
    file = folder / "lineitem.csv"
    if not file.exists():
        subprocess.run([generator, "csv", "-s", SCALE, "--tables", "lineitem", "--output-dir", str(folder)], check=True)
    postgres.psql(f"CREATE TABLE lineitem ({LINEITEM})")
    with open(file, "rb") as rows:
        postgres.psql("COPY lineitem FROM STDIN (FORMAT csv, HEADER)", stdin=rows)
    postgres.psql("VACUUM (FREEZE, ANALYZE) lineitem", "CHECKPOINT")


def n():
    """TPC-H lineitem from PostgreSQL into the lake, through the log and straight, beside connectorx and DuckDB to Parquet, and COPY to nowhere."""
    extension, generator = brought()
    postgres = Postgres()
    lineitem(postgres, generator)
    url = f"postgresql://bench@{postgres.address}/postgres"
    psql = ["psql", "-X", "-q", url]
    copied = ("COPY lineitem TO STDOUT (FORMAT binary)", "SELECT count(*) FROM lineitem")
    rows = int(subprocess.run([*psql, "-At", "-c", copied[1]], check=True, capture_output=True, text=True).stdout)
    took = {}
    for run in range(RUNS):
        folder = fresh("n")
        (folder / "tarn.toml").write_text(CONFIG.format(url=url))
        with open(folder / "stderr", "wb") as said:
            commands = {
                "Tarn: log, then lake": ([TARN, "run", str(folder / "tarn.toml"), "--drain"], {"stderr": said}),
                "Tarn: import, 2 readers": ([TARN, "import", "-c", str(folder / "tarn.toml"), "imported"], {"stderr": said}),
                "Tarn: import, 1 reader": ([TARN, "import", "-c", str(folder / "tarn.toml"), "imported_by_one"], {"stderr": said}),
                "connectorx, 2 partitions: Parquet": ([sys.executable, "-c", CONNECTORX, url, str(folder / "cx.parquet")], {}),
                "DuckDB, 2 threads: Parquet": ([sys.executable, "-c", DUCKDB, url, str(folder / "duck.parquet"), extension], {}),
                "binary COPY to /dev/null": ([*psql, "-c", copied[0]], {}),
            }
            for name, (command, options) in commands.items():
                took.setdefault(name, []).append(measured(command, stdout=subprocess.DEVNULL, **options))
        print(f"run {run + 1}: " + ", ".join(f"{name} {found[-1][0]:.1f} s" for name, found in took.items()), file=sys.stderr)
    postgres.end()
    for table in ("lineitem", "imported", "imported_by_one"):
        query = f"SELECT count(*) AS n FROM {table}"
        answer = subprocess.run(
            [TARN, "sql", "-c", str(DIR / "n/tarn.toml"), "--output", "csv", query], check=True, capture_output=True, text=True
        )
        if answer.stdout.split() != ["n", str(rows)]:
            sys.exit(f"PostgreSQL has {rows} rows, the lake says of {table}: {answer.stdout}")
    print("| | seconds | rows/s | CPU seconds without the server's | peak RSS, MiB |\n|---|---|---|---|---|")
    for name, found in took.items():
        seconds, rss, cpu = (statistics.median(values) for values in zip(*found))
        print(f"| {name} | {seconds:.2f} | {rows / seconds / 1e6:.2f} M | {cpu:.2f} | {rss:.0f} |")
    for way in (name for name in took if name.startswith("Tarn")):
        ours = [seconds for seconds, _, _ in took[way]]
        ratios = {name: statistics.median(t[0] / o for t, o in zip(found, ours)) for name, found in took.items()}
        told = ", ".join(f"{name.split(',')[0].split(':')[0]} {ratio:.2f}" for name, ratio in ratios.items() if not name.startswith("Tarn"))
        print(f"\nrate of {way} / rate of: {told} ({RUNS} runs by turns, scale {SCALE}, {rows} rows)")


BENCHES = {"n": n}
