"""One way to reach PostgreSQL, measured in a process of its own.

Usage: `python postgres_stacks.py STACK MEASURE DSN`; prints one JSON value. Rivals run as their
documentation says: psycogreen's callback, autocommit, pools as large as the number allows.
"""

from __future__ import annotations

import json
import sys
import time

STACK, MEASURE, DSN = sys.argv[1:]
if STACK != "asyncpg pool":
    from gevent import monkey

    monkey.patch_all()

SIZE, GREENLETS, QUERIES = 20, 100, 6_000
REPEATS = 6


def psycogreen():
    import psycogreen.gevent

    psycogreen.gevent.patch_psycopg()


def ours():
    from greenkit import postgres

    postgres.install()
    return postgres


def connecting(name):
    def connect():
        conn = __import__(name).connect(DSN)
        conn.autocommit = True
        return conn

    return connect


def bare_queue(connect):
    from gevent.queue import LifoQueue

    queue = LifoQueue()
    for _ in range(SIZE):
        queue.put(connect())
    return queue.get, queue.put


def fair_queue(connect):
    """Hand each connection to who has waited longest, and do nothing else: the floor of any fair pool."""
    from collections import deque

    from gevent import get_hub, getcurrent

    idle, waiting = deque(connect() for _ in range(SIZE)), deque()
    hub = get_hub()

    def get():
        if idle:
            return idle.pop()
        waiting.append(getcurrent())
        return hub.switch()

    def put(conn):
        if waiting:
            hub.loop.run_callback(waiting.popleft().switch, conn)
        else:
            idle.append(conn)

    return get, put


def django(engine, pool, driver):
    """Return what ends a unit of work, and what runs one query."""
    if driver == "psycopg2":
        sys.modules["psycopg"] = None
    from django.conf import settings

    where = dict(one.split("=", 1) for one in DSN.split())
    names = {"dbname": "NAME", "user": "USER", "host": "HOST", "port": "PORT"}
    database = {names[key]: value for key, value in where.items()}
    settings.configure(DATABASES={"default": {"ENGINE": engine, "OPTIONS": pool, **database}})
    import django as package

    package.setup()
    from django.db import connection

    def query():
        with connection.cursor() as cursor:
            cursor.execute("select 1")
            cursor.fetchone()

    return lambda: connection.close(), query  # noqa: PLW0108 - not the `close` of the main greenlet


def lender():
    """Return (get, put) of the stack's pool."""
    driver = "psycopg" if "psycopg 3" in STACK or "psycopg_pool" in STACK else "psycopg2"
    connect = connecting(driver)
    if STACK.startswith("greenkit"):
        postgres = ours()
        if "bare queue" in STACK:
            return bare_queue(connect)
        pool = postgres.ConnectionPool(connect, min_size=SIZE, max_size=SIZE)
        pool.wait()
        return pool.getconn, pool.putconn
    if driver == "psycopg2":
        psycogreen()
    if STACK.startswith("psycopg_pool"):
        from psycopg_pool import ConnectionPool

        pool = ConnectionPool(DSN, kwargs={"autocommit": True}, min_size=SIZE, max_size=SIZE, open=True)
        pool.wait()
        return pool.getconn, pool.putconn
    if STACK.startswith("SQLAlchemy"):
        from sqlalchemy.pool import QueuePool

        pool = QueuePool(connect, pool_size=SIZE, max_overflow=0, reset_on_return=None)
        return pool.connect, lambda conn: conn.close()
    return (fair_queue if "fair" in STACK else bare_queue)(connect)


def cpu(work, count):
    """Return the CPU microseconds of one of `count`, of so many rounds that full collections even out."""
    started = time.process_time()
    for _ in range(REPEATS):
        work()
    return (time.process_time() - started) / (REPEATS * count) * 1e6


def queries():
    import gevent

    get, put = lender()

    def user():
        for _ in range(QUERIES // GREENLETS):
            conn = get()
            cursor = conn.cursor()
            cursor.execute("select 1")
            cursor.fetchone()
            put(conn)

    def all_of_them():
        gevent.joinall([gevent.spawn(user) for _ in range(GREENLETS)], raise_error=True)

    all_of_them()
    return cpu(all_of_them, QUERIES)


def checkouts():
    get, put = lender()

    def borrow():
        for _ in range(20_000):
            put(get())

    borrow()
    return cpu(borrow, 20_000)


def units(engine, pool, driver):
    """Greenlet, one query, close: what a Django request or task costs its process."""
    import gevent

    close, query = django(engine, pool, driver)

    def unit():
        query()
        close()

    def many():
        for _ in range(20):
            gevent.joinall([gevent.spawn(unit) for _ in range(50)], raise_error=True)

    many()
    return cpu(many, 1000)


def burst(engine, pool, driver):
    """500 greenlets at once on a cold pool; return the connections the server had at most."""
    import gevent
    import psycopg2

    close, query = django(engine, pool, driver)
    watching = psycopg2.connect(DSN)
    watching.autocommit = True
    cursor, peak = watching.cursor(), 0

    def unit():
        query()
        gevent.sleep(0.1)
        close()

    everybody = [gevent.spawn(unit) for _ in range(500)]
    end = time.monotonic() + 60
    while time.monotonic() < end and not all(one.dead for one in everybody):
        cursor.execute("select count(*) from pg_stat_activity where backend_type = 'client backend'")
        peak = max(peak, cursor.fetchone()[0] - 1)
        gevent.sleep(0.005)
    return peak


def asyncpg_queries():
    import asyncio

    import asyncpg

    async def user(pool):
        for _ in range(QUERIES // GREENLETS):
            async with pool.acquire() as conn:
                await conn.fetchrow("select 1")

    async def everything():
        where = dict(one.split("=", 1) for one in DSN.split())
        names = {"dbname": "database"}
        pool = await asyncpg.create_pool(
            min_size=SIZE, max_size=SIZE, **{names.get(key, key): value for key, value in where.items()}
        )
        for number in range(REPEATS + 1):
            if number == 1:
                started = time.process_time()
            await asyncio.gather(*(user(pool) for _ in range(GREENLETS)))
        return (time.process_time() - started) / (REPEATS * QUERIES) * 1e6

    return asyncio.run(everything())


OURS, STOCK = "greenkit.django.postgresql", "django.db.backends.postgresql"
GEVENTPOOL = "django_db_geventpool.backends.postgresql_psycopg2"
POOL = {"pool": {"max_size": SIZE, "timeout": 60}}
DJANGO = {
    "greenkit.django.postgresql, psycopg2": (OURS, POOL, "psycopg2"),
    "greenkit.django.postgresql, psycopg 3": (OURS, POOL, "psycopg"),
    "django-db-geventpool, psycopg2": (GEVENTPOOL, {"MAX_CONNS": SIZE, "REUSE_CONNS": SIZE}, "psycopg2"),
    "Django's pool, psycopg 3": (STOCK, POOL, "psycopg"),
    "Django without a pool, psycopg2": (STOCK, {}, "psycopg2"),
}

if STACK in DJANGO:
    if "geventpool" in STACK or "without" in STACK:
        psycogreen()
    result = (units if MEASURE == "units" else burst)(*DJANGO[STACK])
elif STACK == "asyncpg pool":
    result = asyncpg_queries()
else:
    result = {"queries": queries, "checkouts": checkouts}[MEASURE]()
print(json.dumps(result))
