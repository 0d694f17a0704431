"""Interrupt a query in every construct around it, and go on with the same connection."""

from contextlib import suppress

from pg_world import DRIVER, Eye, answer, connect, gevent, until

SLOW = "select pg_sleep(30)"
said = {}


class SoftError(Exception):
    """What a soft time limit throws in."""


def plain(conn):
    conn.cursor().execute(SLOW)


def with_connection(conn):
    if DRIVER == "psycopg2":  # psycopg 3 closes the connection at the end of the block
        with conn:
            conn.cursor().execute(SLOW)
    else:
        plain(conn)


def in_transaction(conn):
    if DRIVER == "psycopg":
        with conn.transaction():
            conn.cursor().execute(SLOW)
    else:
        with conn.cursor() as cursor:
            cursor.execute("savepoint here")
            cursor.execute(SLOW)


def many(conn):
    conn.cursor().executemany("select pg_sleep(%s)", [(30,)] * 3)


def pipeline(conn):
    if DRIVER == "psycopg":
        with conn.pipeline():
            for _ in range(3):
                conn.execute(SLOW)
    else:
        plain(conn)


def stream(conn):
    if DRIVER == "psycopg":
        for _ in conn.cursor().stream(SLOW):
            pass
    else:
        named = conn.cursor("named")
        named.execute(SLOW)
        named.fetchone()


def before_commit(conn):
    cursor = conn.cursor()
    cursor.execute("create temp table if not exists t (id int primary key deferrable initially deferred)")
    cursor.execute(
        "create or replace function pg_temp.slow() returns trigger language plpgsql as "
        "$$ begin perform pg_sleep(30); return null; end $$"
    )
    cursor.execute(
        "create constraint trigger slow after insert on t deferrable initially deferred "
        "for each row execute function pg_temp.slow()"
    )
    cursor.execute("insert into t values (1)")
    conn.commit()


SCENES = (plain, with_connection, in_transaction, many, pipeline, stream, before_commit)
INTERRUPTS = {"kill": gevent.GreenletExit, "timeout": gevent.Timeout, "exception": SoftError}


def run(scene, interrupt):
    conn = connect()
    cursor = conn.cursor()
    cursor.execute("select pg_backend_pid()")
    pid = cursor.fetchone()[0]
    thrown = interrupt()

    def work():
        try:
            scene(conn)
        except BaseException as error:  # what the caller sees
            return error is thrown or repr(error)
        return "nothing"

    worker = gevent.spawn(work)
    there = until(lambda: eye.count("state = 'active' and wait_event = 'PgSleep'"))
    worker.kill(thrown, block=False)
    worker.join(timeout=10)
    orphans = eye.count("state = 'active'")
    with suppress(Exception):
        conn.rollback()
        cursor = conn.cursor()
        cursor.execute("select pg_backend_pid()")
        return [there, worker.value, cursor.fetchone()[0] == pid, orphans]
    return [there, worker.value, f"closed={conn.closed}", orphans]


with Eye() as eye:
    for name, interrupt in INTERRUPTS.items():
        for scene in SCENES:
            said[f"{scene.__name__} {name}"] = run(scene, interrupt)
    answer(said=said)
