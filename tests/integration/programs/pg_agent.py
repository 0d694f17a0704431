"""Use connections as a tracing agent hands them out: pool, COPY, listen(), deadline, kill, cancel.

`MORE`: the agent, or "wrapt" for a bare `ObjectProxy`.
"""

import os
import sys

os.environ.update(
    DD_TRACE_AGENT_URL="http://127.0.0.1:1",
    DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
    NEW_RELIC_LICENSE_KEY="0" * 40,
    NEW_RELIC_DEVELOPER_MODE="true",
    NEW_RELIC_APP_NAME="tests",
)

from pg_world import DRIVER, DSN, MORE, THEIRS, answer, driver, gevent, postgres, until

agent, said = MORE[0], {}


def ddtrace():
    from ddtrace import patch

    patch(psycopg=True)


def newrelic():
    import newrelic.agent
    from newrelic.hooks import database_psycopg, database_psycopg2

    newrelic.agent.initialize()
    if DRIVER == "psycopg2":
        database_psycopg2.instrument_psycopg2(sys.modules["psycopg2"])
    else:
        database_psycopg.instrument_psycopg(sys.modules["psycopg"])


def elasticapm():
    from elasticapm.instrumentation.control import instrument

    instrument()


def xray():
    from aws_xray_sdk.core import patch, xray_recorder

    xray_recorder.configure(context_missing="IGNORE_ERROR", sampling=False)
    patch([DRIVER])


def wrapt():
    import wrapt as library

    connect = driver.connect
    driver.connect = lambda *args, **options: library.ObjectProxy(connect(*args, **options))


globals()[agent]()


def open_one():
    return driver.connect(DSN, application_name="greenkit_under_test")


def one(conn, sql):
    cursor = conn.cursor()
    cursor.execute(sql)
    return cursor.fetchone()[0]


kind = type(open_one())
said["wrapped"] = "__wrapped__" in dir(kind) or hasattr(open_one(), "__wrapped__")
pool = postgres.ConnectionPool(open_one, max_size=2, timeout=5.0)


def use(seconds=0.01):
    with pool.connection() as conn:
        assert type(conn) is kind, "the borrower lost the proxy that records the queries"
        return one(conn, f"select 1 from pg_sleep({seconds})")


served = [gevent.spawn(use) for _ in range(12)]
gevent.joinall(served)
said["served"] = sum(job.value == 1 for job in served)

with pool.connection() as conn:
    conn.cursor().execute("create temp table z (a int)")
    said["copied in"] = postgres.copy_in(conn.cursor(), "copy z from stdin", source=["1\n", "2\n"])
    said["copied out"] = len(list(postgres.copy_out(conn.cursor(), "copy z to stdout")))

try:
    with postgres.deadline(0.2):
        use(30)
except postgres.QueryTimeout:
    said["deadline"] = True


def cancelled():
    try:
        use(30)
    except driver.errors.QueryCanceled:
        said["cancelled"] = True


eye = driver.connect(DSN)
eye.autocommit = True


def running():
    return one(eye, f"select count(*) {THEIRS} and state = 'active' and query like '%pg_sleep(30)%'")


job = gevent.spawn(cancelled)
until(lambda: running() == 1)
lent = next(iter(pool._checked_out.values())).conn
lent.cancel()
job.join(5)
job = gevent.spawn(use, 30)
until(lambda: running() == 1)
job.kill()
said["orphans"] = running()


def listens():
    for note in postgres.listen(open_one, "news", timeout=5.0):
        return note.payload
    return None


job = gevent.spawn(listens)
until(lambda: one(eye, f"select count(*) {THEIRS} and query like 'LISTEN%'") == 1)
eye.cursor().execute("notify news, 'hello'")
job.join(5)
said["heard"] = job.value
now = pool.statistics()
said["pool"] = [now.in_use, now.size <= 2]
held = [pool.getconn(), pool.getconn()]
pool.putconn(held[0])
pool.putconn(getattr(held[1], "__wrapped__", held[1]))  # some give back what is inside
said["given back"] = pool.statistics().in_use
answer(**said)
sys.stdout.flush()  # `_exit()` drops what a pipe's buffer holds
os._exit(0)  # agents' threads have nothing to say
