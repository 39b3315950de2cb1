#!/usr/bin/env python3
"""Asks an independent reader whether a lake table holds every offset exactly once.

usage: lake_check.py FOLDER TABLE [--rows N] [--dead N]

FOLDER is the lake, TABLE the table's name; its dead letters lie beside it. DuckDB reads both tables, and delta-rs must
count the same rows; no code of Tarn takes part. A table that has a checkpoint is also read without the commits below it.
In each partition the offsets of rows and dead letters together must be 0, 1, 2, ... without a repeat or a hole, and
the transaction version that the Delta log keeps for the partition must be the next offset. Prints one line per partition
and one per thing that is wrong. Exit code: 0 exactly once, 1 wrong, 2 not readable.
"""

import argparse
import json
import pathlib
import shutil
import sys
import tempfile

import deltalake
import duckdb
import duckdb_extension_delta


def reader():
    """A DuckDB connection with its Delta extension, loaded from the installed package: no network."""
    package = pathlib.Path(duckdb_extension_delta.__file__).parent
    extension = next(package.glob(f"extensions/v{duckdb.__version__}/**/delta.duckdb_extension"))
    connection = duckdb.connect()
    connection.execute(f"LOAD '{extension}'")
    return connection


def transaction_versions(connection, table):
    """Application id -> version, as the Delta log says: the newest checkpoint, then the commits above it."""
    log = table / "_delta_log"
    versions = {}
    checkpoint = -1
    names = sorted(log.glob("*.checkpoint*.parquet"))
    if names:
        checkpoint = int(names[-1].name.split(".")[0])
        for name in names:
            if int(name.name.split(".")[0]) == checkpoint:
                rows = connection.execute(
                    "SELECT txn.appId, txn.version FROM read_parquet(?) WHERE txn IS NOT NULL AND txn.appId IS NOT NULL",
                    [str(name)],
                ).fetchall()
                versions.update(rows)
    for commit in sorted(log.glob("[0-9]*.json")):
        if int(commit.name.split(".")[0]) <= checkpoint:
            continue
        for line in commit.read_text().splitlines():
            action = json.loads(line).get("txn")
            if action:
                versions[action["appId"]] = action["version"]
    return versions


def offsets(connection, table):
    """partition -> (rows, distinct offsets, least, greatest)."""
    found = connection.execute(
        "SELECT _partition, count(*), count(DISTINCT _offset), min(_offset), max(_offset) FROM delta_scan(?) GROUP BY ALL",
        [str(table)],
    ).fetchall()
    return {row[0]: row[1:] for row in found}


def protocol_of(table):
    """The last protocol action in the commits that are still there."""
    last = None
    for commit in sorted((table / "_delta_log").glob("[0-9]*.json")):
        for line in commit.read_text().splitlines():
            last = json.loads(line).get("protocol", last)
    return last


def recount(connection, table, rows):
    """What other ways to read the table make of its number of rows, where they differ, in words."""
    wrong = []
    found = deltalake.DeltaTable(str(table)).count()
    if found != rows:
        wrong.append(f"{table.name}: delta-rs counts {found} rows, DuckDB {rows}")
    log = table / "_delta_log"
    checkpoints = sorted(log.glob("*.checkpoint.parquet"))
    if not checkpoints:
        return wrong
    with tempfile.TemporaryDirectory() as folder:
        rest = pathlib.Path(folder) / table.name
        rest.mkdir()
        for entry in table.iterdir():
            if entry != log:
                (rest / entry.name).symlink_to(entry)
        (rest / "_delta_log").mkdir()
        base = checkpoints[-1].name.split(".")[0]
        for file in log.iterdir():
            if file.name == "_last_checkpoint" or (file.name.split(".")[0] > base and file.suffix == ".json"):
                shutil.copy(file, rest / "_delta_log")
        shutil.copy(checkpoints[-1], rest / "_delta_log")
        counts = {
            "DuckDB": connection.execute("SELECT count(*) FROM delta_scan(?)", [str(rest)]).fetchone()[0],
            "delta-rs": deltalake.DeltaTable(str(rest)).count(),
        }
        for reader_name, found in counts.items():
            if found != rows:
                wrong.append(f"{table.name}: from its checkpoint on, {reader_name} counts {found} rows, not {rows}")
    return wrong


def check(connection, lake, name, expected):
    """Everything that is wrong with the table, in words."""
    wrong = []
    table, dead_letters = lake / name, lake / f"{name}_dead_letters"
    parts = [part for part in (table, dead_letters) if (part / "_delta_log").is_dir()]
    counts = {part.name: connection.execute("SELECT count(*) FROM delta_scan(?)", [str(part)]).fetchone()[0] for part in parts}
    for part in parts:
        wrong += recount(connection, part, counts[part.name])
    for part, wanted in expected.items():
        if wanted is not None and counts.get(part, 0) != wanted:
            wrong.append(f"{part} holds {counts.get(part, 0)} rows, {wanted} were expected")

    union = " UNION ALL ".join(f"SELECT _partition, _offset FROM delta_scan('{part}')" for part in parts)
    rows = connection.execute(
        f"SELECT _partition, count(*), count(DISTINCT _offset), min(_offset), max(_offset) FROM ({union}) GROUP BY ALL ORDER BY 1"
    ).fetchall()
    ends = {}
    for partition, n, distinct, first, last in rows:
        ends[partition] = last + 1
        print(f"partition {partition}: {n} offsets, {first} to {last}")
        if distinct != n:
            wrong.append(f"partition {partition}: {n - distinct} offsets are repeated")
        if distinct != last + 1:
            wrong.append(f"partition {partition}: {last + 1 - distinct} offsets are missing")

    for part in parts:
        own = {partition: found[3] + 1 for partition, found in offsets(connection, part).items()}
        next_offsets = {}
        for app, version in transaction_versions(connection, part).items():
            partition = app.rsplit("/", 1)[1]
            if not (app.startswith("tarn/") and partition.isdigit()):
                wrong.append(f"{part.name}: `{app}` is no partition's progress")
            else:
                next_offsets[int(partition)] = version
        # The boundary of the table covers dead letters too; that of the dead letters covers at least its own rows.
        for partition, end in (ends if part == table else own).items():
            found = next_offsets.get(partition)
            if found is None:
                wrong.append(f"{part.name}: partition {partition} has no transaction version")
            elif part == table and found != end:
                wrong.append(f"{part.name}: partition {partition} is at {found} and its offsets end at {end}")
            elif part != table and found < end:
                wrong.append(f"{part.name}: partition {partition} is at {found}, below its own offsets, which end at {end}")
        protocol = protocol_of(part)
        if protocol and (protocol["minReaderVersion"], protocol["minWriterVersion"]) != (1, 2):
            wrong.append(f"{part.name}: the protocol is {protocol}, which not every engine reads")
    return wrong


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("lake", type=pathlib.Path)
    arguments.add_argument("table")
    arguments.add_argument("--rows", type=int)
    arguments.add_argument("--dead", type=int)
    given = arguments.parse_args()
    expected = {given.table: given.rows, f"{given.table}_dead_letters": given.dead}
    try:
        wrong = check(reader(), given.lake.resolve(), given.table, expected)
    except (duckdb.Error, deltalake.exceptions.DeltaError, OSError, ValueError, KeyError) as error:
        print(f"not readable: {error}")
        return 2
    for line in wrong:
        print(f"wrong: {line}")
    if not wrong:
        print("exactly once")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
