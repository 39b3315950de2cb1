"""psycopg, psycopg2 and SQLAlchemy against a running Tarn: each as its users use it.

usage: postgres_clients.py HOST:PORT
"""

import datetime
import decimal
import sys
import threading
import time

import psycopg
import psycopg2
import psycopg2.extras
import sqlalchemy

HOST, PORT = sys.argv[1].rsplit(":", 1)
WHERE = f"host={HOST} port={PORT} user=ann dbname=tarn"
UTC = datetime.timezone.utc
checks = []


def check(function):
    checks.append(function)
    return function


@check
def psycopg_reads_every_type_in_text_and_binary():
    with psycopg.connect(WHERE) as connection:
        for binary in (False, True):
            with connection.cursor(binary=binary) as cursor:
                cursor.execute("SELECT id, city, price, at, day, paid, weight, [1, 2, NULL] FROM sales WHERE id = %s", (7,))
                row = cursor.fetchone()
                assert row[:2] == (7, "Lima"), row
                assert row[2] == decimal.Decimal("7.25"), row
                assert row[3] == datetime.datetime(2026, 5, 1, 8, 0, 0, 500000, tzinfo=UTC), row
                assert row[4] == datetime.date(2026, 5, 1), row
                assert row[5:] == (False, 0.5, [1, 2, None]), row


@check
def psycopg_binds_every_type():
    with psycopg.connect(WHERE, autocommit=True) as connection:
        for given in (
            7, 70000, 2**40, 0.5, "text", True, None, decimal.Decimal("12.30"), datetime.date(2024, 2, 29),
            datetime.datetime(2024, 2, 29, 12, 30, tzinfo=UTC), b"\x00\xff", [1, 2], datetime.timedelta(days=1, seconds=2),
        ):
            for mark in ("%s", "%b", "%t"):
                row = connection.execute(f"SELECT {mark}", (given,)).fetchone()
                assert row[0] == given, (mark, given, row)


@check
def psycopg_prepares_and_pipelines():
    with psycopg.connect(WHERE, prepare_threshold=1) as connection:
        for at in range(20):
            row = connection.execute("SELECT city FROM sales WHERE id = %s AND paid = %s", (at * 2, True)).fetchone()
            assert row == (["Oslo", "Lima", "Pune"][at * 2 % 3],)
        with connection.pipeline():
            cursors = [connection.execute("SELECT price FROM sales WHERE id = %s", (at,)) for at in range(10)]
            assert [cursor.fetchone()[0] for cursor in cursors] == [decimal.Decimal(f"{at}.25") for at in range(10)]


@check
def psycopg_reads_with_a_server_cursor():
    with psycopg.connect(WHERE) as connection, connection.cursor(name="many") as cursor:
        cursor.itersize = 64
        cursor.execute("SELECT id FROM sales ORDER BY id")
        assert [row[0] for row in cursor] == list(range(1000))


@check
def psycopg_copies():
    with psycopg.connect(WHERE) as connection, connection.cursor() as cursor:
        with cursor.copy("COPY (SELECT id, city FROM sales ORDER BY id) TO STDOUT") as copy:
            rows = list(copy.rows())
        assert len(rows) == 1000 and rows[1] == ("1", "Lima"), rows[:3]


@check
def errors_are_the_classes_that_programs_catch():
    with psycopg.connect(WHERE) as connection:
        for sql, error in (
            ("SELECT wrod FROM sales", psycopg.errors.UndefinedColumn),
            ("SELECT * FROM saels", psycopg.errors.UndefinedTable),
            ("SELEC 1", psycopg.errors.SyntaxError),
            ("DELETE FROM sales", psycopg.errors.ReadOnlySqlTransaction),
            ("SELECT 1 / (id - id) FROM sales", psycopg.errors.DivisionByZero),
        ):
            try:
                connection.execute(sql).fetchall()
            except error as caught:
                assert caught.diag.message_primary, sql
            else:
                raise AssertionError(f"{sql} was answered")
            connection.rollback()


@check
def a_statement_is_cancelled():
    with psycopg.connect(WHERE, autocommit=True) as connection:
        threading.Timer(0.5, connection.cancel).start()
        begun = time.monotonic()
        try:
            connection.execute("SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE a.value < b.value")
        except psycopg.errors.QueryCanceled:
            assert time.monotonic() - begun < 20
        else:
            raise AssertionError("it was answered")
        assert connection.execute("SELECT 1").fetchone() == (1,)


@check
def psycopg2_asks_with_words_in_place_of_values():
    with psycopg2.connect(WHERE) as connection:
        connection.set_session(readonly=True)
        with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
            cursor.execute("SELECT count(*) AS n, max(at) AS last FROM sales WHERE city IN %s", (("Oslo", "Lima"),))
            row = cursor.fetchone()
            assert row["n"] == 667 and row["last"].utcoffset() == datetime.timedelta(0), row


def reflects(driver):
    engine = sqlalchemy.create_engine(f"postgresql+{driver}://ann@{HOST}:{PORT}/tarn")
    inspector = sqlalchemy.inspect(engine)
    assert set(inspector.get_schema_names()) >= {"public", "lake", "live"}, inspector.get_schema_names()
    assert "sales" in inspector.get_table_names(), inspector.get_table_names()
    assert "sales" in inspector.get_table_names(schema="lake")
    assert inspector.get_view_names() == ["by_city"], inspector.get_view_names()
    assert inspector.has_table("sales") and not inspector.has_table("saels")
    columns = {column["name"]: column for column in inspector.get_columns("sales")}
    assert isinstance(columns["id"]["type"], sqlalchemy.BIGINT) and not columns["id"]["nullable"], columns["id"]
    price = columns["price"]["type"]
    assert isinstance(price, sqlalchemy.NUMERIC) and (price.precision, price.scale) == (10, 2), price
    assert isinstance(columns["at"]["type"], sqlalchemy.TIMESTAMP) and columns["at"]["type"].timezone
    assert inspector.get_pk_constraint("sales")["constrained_columns"] == []
    assert inspector.get_foreign_keys("sales") == [] and inspector.get_indexes("sales") == []
    table = sqlalchemy.Table("sales", sqlalchemy.MetaData(), autoload_with=engine)
    with engine.connect() as connection:
        query = sqlalchemy.select(table.c.city, sqlalchemy.func.sum(table.c.price).label("total")).where(table.c.id < 10)
        rows = connection.execute(query.group_by(table.c.city).order_by(table.c.city)).all()
        assert rows[0] == ("Lima", decimal.Decimal("12.75")), rows
        streamed = connection.execution_options(stream_results=True, yield_per=100).execute(sqlalchemy.select(table.c.id))
        assert len(streamed.all()) == 1000
    engine.dispose()


@check
def sqlalchemy_reflects_and_selects_with_psycopg():
    reflects("psycopg")


@check
def sqlalchemy_reflects_and_selects_with_psycopg2():
    reflects("psycopg2")


failed = 0
for function in checks:
    try:
        function()
        print("passed", function.__name__)
    except Exception as error:  # noqa: BLE001: each check is told
        failed += 1
        print("FAILED", function.__name__, type(error).__name__, str(error)[:2000])
print("all checks passed" if not failed else f"{failed} checks failed")
sys.exit(failed > 0)
