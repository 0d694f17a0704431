"""Move bulk both ways while another greenlet counts how often it gets its turn."""

import io
from contextlib import contextmanager

from pg_world import DRIVER, Eye, answer, connect, driver, gevent, postgres, until

ROWS = 200_000
said, turns = {}, {}


@contextmanager
def counting(name):
    """Count the turns of a bystander; a call that stops the hub lets it have none."""
    count = 0

    def tick():
        nonlocal count
        while True:
            gevent.sleep(0.001)
            count += 1

    bystander = gevent.spawn(tick)
    gevent.sleep(0)
    before = count
    try:
        yield
    finally:
        turns[name] = count - before
        bystander.kill()


def scalar(conn, sql):
    cursor = conn.cursor()
    cursor.execute(sql)
    return cursor.fetchone()[0]


def lines(count=ROWS):
    return (f"{number}\trow {number}\n" for number in range(count))


def table(conn):
    conn.cursor().execute("create temp table t (id int, words text) on commit drop")


def in_and_out():
    conn = connect()
    table(conn)
    cursor = conn.cursor()
    with counting("in"):
        said["in"] = [postgres.copy_in(cursor, "copy t from stdin", source=lines())]
    said["in"].append(scalar(conn, "select count(*) from t"))
    with counting("out"):
        rows = list(postgres.copy_out(cursor, "copy (select id from t order by id) to stdout"))
    said["out"] = [len(rows), rows[1] == b"1\n"]
    file = io.StringIO("7\tfile\n")
    copied = postgres.copy_in(cursor, "copy t from stdin", source=file)
    said["file"] = [copied, scalar(conn, "select count(*) from t where words = 'file'")]
    conn.close()


def broken(name, source, error):
    conn = connect()
    table(conn)
    conn.cursor().execute("savepoint here")
    try:
        postgres.copy_in(conn.cursor(), "copy t from stdin", source=source)
    except error as raised:
        said[name] = [type(raised).__name__]
    conn.cursor().execute("rollback to savepoint here")
    said[name] += [scalar(conn, "select count(*) from t")]
    conn.close()


def failing():
    yield "1\tone\n"
    raise LookupError("no more")


def killed_in():
    conn = connect()
    table(conn)
    conn.cursor().execute("savepoint here")

    def slow():
        yield "1\tone\n"
        gevent.sleep(30)

    one = gevent.spawn(postgres.copy_in, conn.cursor(), "copy t from stdin", source=slow())
    gevent.sleep(0.05)
    one.kill()
    conn.cursor().execute("rollback to savepoint here")
    said["killed in"] = [type(one.value).__name__, scalar(conn, "select count(*) from t")]
    conn.close()


def cut_short(name, cut):
    conn = connect()
    seen = []

    def read():
        for row in postgres.copy_out(conn.cursor(), "copy (select generate_series(1, 100000000)) to stdout"):
            seen.append(row)
            if cut is None:
                break
            gevent.sleep(0)

    one = gevent.spawn(read)
    until(lambda: seen)
    if cut is not None:
        one.kill(cut)
    one.join()
    conn.rollback()
    said[name] = [
        type(one.exception or one.value).__name__,
        scalar(conn, "select 1"),
        eye.count("state = 'active'"),
    ]
    conn.close()


def bystanders():
    conn = connect()
    table(conn)
    cursor = conn.cursor()
    with counting("many rows"):
        if DRIVER == "psycopg2":
            from psycopg2.extras import execute_values

            execute_values(cursor, "insert into t values %s", [(n, "x") for n in range(10_000)])
        else:
            with conn.pipeline():
                cursor.executemany("insert into t values (%s, 'x')", [(n,) for n in range(10_000)])
    named = conn.cursor("named")
    with counting("named cursor"):
        named.execute("select id from t order by id")
        said["rows"] = sum(1 for _ in named)
    conn.close()


def psycopg2_only():
    conn = connect()
    try:
        conn.cursor().execute("copy (select 1) to stdout")
    except driver.ProgrammingError as error:
        said["execute copy"] = ["copy_expert" in str(error)]
    conn.rollback()
    said["execute copy"].append(scalar(conn, "select 1"))
    try:
        conn.cursor().execute("copy pg_am from stdin")
    except driver.ProgrammingError:
        conn.rollback()
        said["execute copy"].append(scalar(conn, "select 1"))
    with counting("large object"):
        thing = conn.lobject(mode="wb")
        thing.write(b"x" * 1_000_000)
        thing.close()
        again = conn.lobject(thing.oid, "rb")
        again.seek(999_990)
        said["large object"] = again.read().decode()

        class Mine(driver.extensions.lobject):
            """An application's own class."""

        said["own class"] = isinstance(conn.lobject(lobject_factory=Mine), Mine)
    native = io.StringIO()
    conn.cursor().copy_to(native, "pg_am", columns=["amname"])
    said["copy_to"] = "heap" in native.getvalue()
    conn.commit()
    with counting("commits of nothing"):
        for _ in range(50_000):
            conn.commit()
    conn.close()


with Eye() as eye:
    in_and_out()
    broken("failing source", failing(), LookupError)
    broken("bad data", ["no number\tx\n"], driver.errors.InvalidTextRepresentation)
    killed_in()
    cut_short("killed out", gevent.GreenletExit)
    cut_short("error out", LookupError)
    cut_short("left early", None)
    bystanders()
    if DRIVER == "psycopg2":
        psycopg2_only()
    answer(said=said, turns=turns)
