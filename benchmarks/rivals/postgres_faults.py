"""200 greenlets over 20 connections of one stack, for as long as the parent's fault takes.

Usage: `python postgres_faults.py STACK FAULT SECONDS DSN`; says "ready", and at the end one line.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import os
import sys
import time
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise

import gevent

STACK, FAULT, SECONDS, DSN = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
SIZE, GREENLETS = 20, 200
DEADLINE = 3.0  # greenkit's; no rival has one for a query
PATIENCE = 2.0 if FAULT == "exhausted" else 30.0


def green():
    import psycogreen.gevent

    psycogreen.gevent.patch_psycopg()


def greenkit(driver):
    from greenkit import postgres

    postgres.install()
    pool = postgres.ConnectionPool(lambda: __import__(driver).connect(DSN), max_size=SIZE, timeout=PATIENCE)

    @contextmanager
    def borrow():
        with pool.connection() as conn, postgres.deadline(DEADLINE):
            yield conn
            conn.commit()  # the block's own commit would come after the deadline

    return borrow


def bare_queue():
    green()
    import psycopg2
    from gevent.queue import LifoQueue

    queue = LifoQueue()
    for _ in range(SIZE):
        queue.put(None)

    @contextmanager
    def borrow():
        conn = queue.get()
        try:
            if conn is None or conn.closed:
                conn = None
                conn = psycopg2.connect(DSN)
                conn.autocommit = True
            yield conn
        finally:
            queue.put(conn)

    return borrow


def sqlalchemy():
    green()
    import psycopg2
    from sqlalchemy import create_engine

    engine = create_engine(
        "postgresql+psycopg2://",
        creator=lambda: psycopg2.connect(DSN),
        pool_size=SIZE,
        max_overflow=0,
        pool_timeout=PATIENCE,
        pool_pre_ping=True,
    )

    @contextmanager
    def borrow():
        conn = engine.raw_connection()
        try:
            yield conn
            conn.commit()
        finally:
            conn.close()

    return borrow


def psycopg_pool():
    from psycopg_pool import ConnectionPool

    return ConnectionPool(
        DSN,
        min_size=SIZE,
        max_size=SIZE,
        timeout=PATIENCE,
        check=ConnectionPool.check_connection,
        open=True,
    ).connection


def geventpool():
    green()
    from django_db_geventpool.backends.postgresql_psycopg2 import base

    kinds = [
        one for one in vars(base).values() if isinstance(one, type) and hasattr(one, "create_connection")
    ]
    from psycopg2 import extensions

    pool = kinds[0](**{**extensions.parse_dsn(DSN), "MAX_CONNS": SIZE, "REUSE_CONNS": SIZE})

    @contextmanager
    def borrow():
        conn = pool.get()
        try:
            yield conn
        finally:
            pool.put(conn)

    return borrow


borrow = {
    "greenkit, psycopg2": lambda: greenkit("psycopg2"),
    "greenkit, psycopg 3": lambda: greenkit("psycopg"),
    "psycogreen + bare queue": bare_queue,
    "SQLAlchemy pre-ping + psycogreen": sqlalchemy,
    "psycopg_pool + check": psycopg_pool,
    "django-db-geventpool": geventpool,
}[STACK]()
started = time.monotonic()
done, errors = [], Counter()


def user():
    while time.monotonic() - started < SECONDS:
        try:
            with borrow() as conn:
                conn.cursor().execute("select pg_sleep(0.01)")
            done.append(time.monotonic() - started)
        except Exception as error:
            errors[type(error).__name__] += 1
            gevent.sleep(0.001)


def holder():
    with borrow():
        gevent.sleep(4.0)


# First, since not every stack would let them in later.
holders = [gevent.spawn(holder) for _ in range(SIZE if FAULT == "exhausted" else 0)]
gevent.sleep(0.5 if holders else 0)
users = [gevent.spawn(user) for _ in range(GREENLETS)]
print("ready", flush=True)
gevent.joinall(users, timeout=SECONDS + 6)
before = sum(1.0 < at < 2.0 for at in done)
after = sum(SECONDS - 1.0 < at < SECONDS for at in done)
gap = max((b - a for a, b in pairwise([*done, SECONDS])), default=SECONDS)
kinds = ", ".join(f"{count} {kind}" for kind, count in errors.most_common(2))
rate = f"{after / before:.0%}" if before else "-"
hung = sum(not one.dead for one in users)
print(
    f"{sum(errors.values()):6} errors, silent {gap:4.1f} s, rate after {rate:>5}, {hung:3} hung   {kinds}",
    flush=True,
)
os._exit(0)  # what hangs would keep the process
