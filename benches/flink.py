"""Runs one windowed aggregate over a file of events in Flink's SQL, embedded, several times in one JVM.

    flink.py EVENTS FOLDER JOBS     writes FOLDER/jobs.ndjson and each job's answer to FOLDER/job-N

Parallelism 2, checkpoints every ten seconds (as often as Tarn commits) into FOLDER. Splits of one file are read in no order of time, so the watermark stays a day
behind: windows close at the end of the file, and no row is dropped for being late.
"""

import json
import os
import pathlib
import sys
import time

START = time.monotonic()

from pyflink.common import Configuration  # noqa: E402
from pyflink.java_gateway import get_gateway  # noqa: E402
from pyflink.table import EnvironmentSettings, TableEnvironment  # noqa: E402

source, folder, jobs = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
settings = Configuration()
for key, value in {
    "parallelism.default": "2",
    "table.local-time-zone": "UTC",
    "execution.checkpointing.interval": "10 s",
    "execution.checkpointing.dir": f"file://{folder}/checkpoints",
}.items():
    settings.set_string(key, value)
tables = TableEnvironment.create(EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(settings).build())
tables.execute_sql(f"""
    CREATE TABLE events (
        id BIGINT NOT NULL, ts TIMESTAMP_LTZ(3), `user` STRING, `session` STRING, event STRING, page STRING, country STRING, ms DOUBLE,
        agent STRING, WATERMARK FOR ts AS ts - INTERVAL '1' DAY
    ) WITH (
        'connector' = 'filesystem', 'path' = 'file://{source}', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601'
    )""")
java = pathlib.Path(f"/proc/{get_gateway().jvm.java.lang.ProcessHandle.current().pid()}")


def cpu_s():
    """CPU seconds of the JVM so far."""
    fields = (java / "stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib():
    """Peak resident memory of the JVM so far."""
    found = [line for line in (java / "status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(found[0].split()[1]) / 1024


with open(folder / "jobs.ndjson", "w", encoding="utf-8") as told:
    for job in range(1, jobs + 1):
        tables.execute_sql(f"""
            CREATE TABLE answer_{job} (window_start TIMESTAMP(3), country STRING, n BIGINT, ms DOUBLE, last BIGINT)
            WITH ('connector' = 'filesystem', 'path' = 'file://{folder}/job-{job}', 'format' = 'json')""")
        begin, before = time.monotonic(), cpu_s() if job > 1 else 0.0
        tables.execute_sql(f"""
            INSERT INTO answer_{job}
            SELECT window_start, country, COUNT(*), AVG(ms), MAX(id)
            FROM TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE)
            GROUP BY window_start, window_end, country""").wait()
        end = time.monotonic()
        figures = {"seconds": end - begin, "since_start_s": end - START, "cpu_s": cpu_s() - before, "rss_mib": rss_mib()}
        told.write(json.dumps(figures) + "\n")
        told.flush()
