#!/usr/bin/env python3
"""Asks an independent engine whether the views of configs/flights.toml are right.

usage: flight_views.py CSVS ANSWERS

CSVS is a folder with flights*.csv and airlines*.csv (also .gz, also ending in .done); ANSWERS has one JSON file a view, an array
of objects: `SELECT * FROM <view>`. DuckDB aggregates the CSV files; no code of Tarn takes part. Prints one line per view and
one per thing that is wrong. Exit code: 0 right, 1 wrong.
"""

import datetime
import json
import math
import pathlib
import sys

import duckdb


def load(connection, folder, table):
    """All files of a table as one; NA is NULL."""
    files = sorted(path for path in folder.iterdir() if path.name.startswith(table) and ".csv" in path.name)
    parts = [
        f"SELECT * FROM read_csv('{path}', header = true, nullstr = 'NA', sample_size = -1,"
        f" compression = '{'gzip' if '.gz' in path.name else 'none'}')"
        for path in files
    ]
    connection.execute(f"CREATE TABLE {table} AS {' UNION ALL BY NAME '.join(parts)}")
    return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def instant(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def compare(name, found, wanted, same):
    """Lines that say in what `found` differs from `wanted`, both key -> values."""
    wrong = [f"{name}: {key} is missing" for key in wanted if key not in found]
    wrong += [f"{name}: {key} should not be there" for key in found if key not in wanted]
    wrong += [
        f"{name}: {key} is {found[key]}, not {wanted[key]}"
        for key in wanted
        if key in found and not same(found[key], wanted[key])
    ]
    print(f"{name}: {len(wanted)} groups, {len(wrong)} wrong")
    return wrong


def alike(a, b):
    """Equal; averages up to rounding."""
    number = lambda x: isinstance(x, (int, float))
    return all(
        math.isclose(x, y, rel_tol=1e-9) if number(x) and number(y) else x == y for x, y in zip(a, b, strict=True)
    )


def main():
    csvs, answers = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    rows = {table: load(connection, csvs, table) for table in ("flights", "airlines")}
    print(f"{rows['flights']} flights, {rows['airlines']} airlines")
    ask = lambda sql: connection.execute(sql).fetchall()
    read = lambda view: json.loads((answers / f"{view}.json").read_text())
    hour = "CAST(epoch(CAST(time_hour AS TIMESTAMPTZ)) AS BIGINT)"
    wrong = []

    wanted = ask(
        f"SELECT {hour} - {hour} % 3600, origin, count(*), avg(dep_delay), max(dep_delay) FROM flights GROUP BY 1, 2"
    )
    found = {
        (instant(row["hour"]), row["origin"]): (row["flights"], row.get("delay"), row.get("worst"))
        for row in read("delay_by_hour")
    }
    wrong += compare("delay_by_hour", found, {row[:2]: row[2:] for row in wanted}, alike)

    # Every window, compared with every flight of its three hours.
    wanted = ask(
        f"SELECT w, origin, count(*) FROM (SELECT {hour} AS h, origin FROM flights) AS f"
        f" JOIN (SELECT unnest(range((SELECT (min({hour}) // 3600) * 3600 - 7200 FROM flights),"
        f" (SELECT max({hour}) + 1 FROM flights), 3600)) AS w) AS s ON h >= w AND h < w + 10800 GROUP BY 1, 2"
    )
    found = {(instant(row["start"]), row["origin"]): (row["flights"],) for row in read("traffic")}
    wrong += compare("traffic", found, {row[:2]: row[2:] for row in wanted}, alike)

    wanted = ask(
        "SELECT year, month, count(*), count(*) FILTER (WHERE dep_time IS NULL) FROM flights GROUP BY 1, 2"
    )
    found = {(row["year"], row["month"]): (row["flights"], row["cancelled"]) for row in read("cancelled_by_month")}
    wrong += compare("cancelled_by_month", found, {row[:2]: row[2:] for row in wanted}, alike)

    # Percentiles are sketches: the share of flights below the value must be near what was asked for.
    wanted = ask("SELECT name, count(*) FROM flights JOIN airlines USING (carrier) GROUP BY 1")
    found = {row["name"]: row for row in read("delay_by_airline")}
    wrong += compare(
        "delay_by_airline", {name: (row["flights"],) for name, row in found.items()}, {n: (c,) for n, c in wanted}, alike
    )
    worst = 0.0
    for name, row in found.items():
        for column, share in (("median", 0.5), ("p90", 0.9)):
            delays = "FROM flights JOIN airlines USING (carrier) WHERE name = ? AND dep_delay IS NOT NULL"
            below, upto, all_of_them = connection.execute(
                f"SELECT count(*) FILTER (WHERE dep_delay < ?), count(*) FILTER (WHERE dep_delay <= ?), count(*) {delays}",
                [math.floor(row[column]), math.ceil(row[column]), name],
            ).fetchone()
            off = max(below / all_of_them - share, share - upto / all_of_them, 0.0)
            worst = max(worst, off)
            if off > 0.02:
                wrong.append(f"delay_by_airline: {column} of {name} is {row[column]}, off by {off:.3f} of all flights")
    print(f"delay_by_airline: percentiles are off by at most {worst:.4f} of the flights")

    for line in wrong[:20]:
        print(line)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
