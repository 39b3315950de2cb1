#!/usr/bin/env python3
"""Avro and Parquet files from the libraries that people write them with, and whether a lake has their rows.

usage: columnar_files.py write FOLDER      files into FOLDER/parquet and FOLDER/avro
       columnar_files.py check FOLDER      compares them with the tables `parquet` and `avro` in FOLDER/lake

pyarrow and DuckDB write Parquet, fastavro Avro, in all packings that are read. DuckDB compares the values with those of the lake, column
by column; no code of Tarn takes part. Prints what is wrong. Exit code: 0 equal, 1 not.
"""

import datetime
import decimal
import pathlib
import sys
import uuid

import duckdb
import duckdb_extension_delta
import fastavro
import pyarrow
import pyarrow.parquet

ROWS = 4000
PARQUET_PACKINGS = ["none", "snappy", "zstd", "gzip", "brotli", "lz4"]
AVRO_PACKINGS = ["null", "deflate", "snappy", "zstandard"]
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def rows(first, last):
    """Values of many types; of each of the nullable ones some are null."""
    for n in range(first, last):
        yield {
            "n": n,
            "flag": None if n % 7 == 0 else n % 2 == 0,
            "small": n % 200 - 100,
            "price": None if n % 11 == 0 else decimal.Decimal(n * 37 - 5000).scaleb(-2),
            "ratio": n / 7,
            "name": None if n % 5 == 0 else f"näme \"{n}\"\n",
            "raw": bytes([n % 256, 255, 0]),
            "day": datetime.date(1950, 1, 1) + datetime.timedelta(days=n * 11),
            "at": EPOCH + datetime.timedelta(microseconds=(n - 2000) * 1_000_000_007),
            "tags": [f"t{n % 3}", None][: n % 3],
            "place": {"x": n, "y": None if n % 2 else "why"},
            "id": str(uuid.UUID(int=n * 2**64 + 7)),
        }


ARROW = pyarrow.schema(
    [
        ("n", pyarrow.int64()),
        ("flag", pyarrow.bool_()),
        ("small", pyarrow.int16()),
        ("price", pyarrow.decimal128(14, 2)),
        ("ratio", pyarrow.float64()),
        ("name", pyarrow.string()),
        ("raw", pyarrow.binary()),
        ("day", pyarrow.date32()),
        ("at", pyarrow.timestamp("us", tz="UTC")),
        ("tags", pyarrow.list_(pyarrow.string())),
        ("place", pyarrow.struct([("x", pyarrow.int64()), ("y", pyarrow.string())])),
        ("id", pyarrow.string()),
    ]
)


def optional(schema):
    return ["null", schema]


AVRO = {
    "type": "record",
    "name": "row",
    "fields": [
        {"name": "n", "type": "long"},
        {"name": "flag", "type": optional("boolean")},
        {"name": "small", "type": "int"},
        {
            "name": "price",
            "type": optional({"type": "bytes", "logicalType": "decimal", "precision": 14, "scale": 2}),
        },
        {"name": "ratio", "type": "double"},
        {"name": "name", "type": optional("string")},
        {"name": "raw", "type": "bytes"},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "tags", "type": {"type": "array", "items": optional("string")}},
        {
            "name": "place",
            "type": {
                "type": "record",
                "name": "place",
                "fields": [{"name": "x", "type": "long"}, {"name": "y", "type": optional("string")}],
            },
        },
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
    ],
}


def arrow_rows(first, last):
    return pyarrow.Table.from_pylist(list(rows(first, last)), schema=ARROW)


def put(path, write):
    """Written under a name that nobody reads, then renamed, as files are put into a spool folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path.with_name(f".{path.name}"))
    path.with_name(f".{path.name}").rename(path)


def write(folder):
    for i, packing in enumerate(PARQUET_PACKINGS):
        table = arrow_rows(i * ROWS, (i + 1) * ROWS)
        put(
            folder / "parquet" / f"pyarrow-{packing}.parquet",
            lambda path: pyarrow.parquet.write_table(table, path, compression=packing, row_group_size=1500),
        )
    first = len(PARQUET_PACKINGS) * ROWS
    everything = arrow_rows(first, first + ROWS)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("everything", everything)
    put(
        folder / "parquet" / "duckdb.parquet",
        lambda path: connection.execute(f"COPY everything TO '{path}' (FORMAT parquet)"),
    )
    for i, packing in enumerate(AVRO_PACKINGS):
        def write_avro(path):
            with open(path, "wb") as file:
                block = rows(i * ROWS, (i + 1) * ROWS)
                fastavro.writer(file, AVRO, block, codec=packing, sync_interval=16000)
        put(folder / "avro" / f"fastavro-{packing}.avro", write_avro)


def check(folder):
    package = pathlib.Path(duckdb_extension_delta.__file__).parent
    extension = next(package.glob(f"extensions/v{duckdb.__version__}/**/delta.duckdb_extension"))
    connection = duckdb.connect()
    connection.execute(f"LOAD '{extension}'")
    connection.execute("SET TimeZone = 'UTC'")
    wrong = 0
    # Of Parquet there is one file more: DuckDB's.
    for table, files in [("parquet", len(PARQUET_PACKINGS) + 1), ("avro", len(AVRO_PACKINGS))]:
        everything = arrow_rows(0, files * ROWS)
        connection.register("everything", everything)
        lake = folder / "lake" / table
        connection.execute(f"CREATE OR REPLACE TEMP TABLE found AS SELECT * FROM delta_scan('{lake}')")
        types = dict(connection.execute("SELECT column_name, column_type FROM (DESCRIBE found)").fetchall())
        wanted = {
            "n": "BIGINT", "flag": "BOOLEAN", "small": "SMALLINT" if table == "parquet" else "INTEGER",
            "price": "DECIMAL(14,2)", "ratio": "DOUBLE", "name": "VARCHAR", "raw": "BLOB", "day": "DATE",
            "at": "TIMESTAMP WITH TIME ZONE", "tags": "VARCHAR", "place": "VARCHAR", "id": "VARCHAR",
        }
        for name, column_type in wanted.items():
            if types.get(name) != column_type:
                print(f"{table}.{name} is {types.get(name)}, not {column_type}")
                wrong += 1
        count = connection.execute("SELECT count(*) FROM found").fetchone()[0]
        if count != files * ROWS:
            print(f"{table} has {count} rows")
            wrong += 1
        for name in wanted:
            nested = name in ("tags", "place")
            value = f"CAST(to_json(e.{name}) AS VARCHAR)" if nested else f"e.{name}"
            differ = connection.execute(
                f"SELECT e.n, {value}, f.{name} FROM everything e LEFT JOIN found f ON e.n = f.n "
                f"WHERE {value} IS DISTINCT FROM f.{name} ORDER BY 1 LIMIT 3"
            ).fetchall()
            for n, ours, found in differ:
                print(f"{table}.{name} of row {n}: {found!r}, not {ours!r}")
                wrong += 1
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](pathlib.Path(sys.argv[2]))
