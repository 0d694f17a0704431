"""Interrupt one query in each way and look at the connection, the server and the clock."""

import os
import signal

from pg_world import DRIVER, Eye, answer, connect, driver, gevent, postgres, time, until

results = {}


def slow(conn):
    conn.cursor().execute("select pg_sleep(30)")


def borrow():
    with pool.connection() as conn:
        slow(conn)


def running():
    return eye.count("state = 'active'")


def judge(name, outcome, started):
    results[name] = {
        "outcome": outcome,
        "seconds": time.monotonic() - started,
        "orphans": running(),
        "in_use": pool.statistics().in_use,
        "thrown_away": pool.statistics().thrown_away,
    }


def by_kill():
    one = gevent.spawn(borrow)
    assert until(running)
    started = time.monotonic()
    one.kill()
    judge("kill", type(one.value).__name__, started)


def by_timeout():
    started = time.monotonic()
    with gevent.Timeout(0.1, False), pool.connection() as conn:
        slow(conn)
    judge("timeout", "swallowed", started)


def by_deadline():
    started = time.monotonic()
    try:
        with postgres.deadline(60.0), postgres.deadline(0.1), postgres.deadline(60.0):
            borrow()
    except driver.OperationalError as error:
        judge("deadline", "QueryTimeout" * isinstance(error, postgres.QueryTimeout), started)


def by_ctrl_c():
    gevent.spawn(lambda: until(running) and os.kill(os.getpid(), signal.SIGINT))
    started = time.monotonic()
    try:
        borrow()
    except KeyboardInterrupt:
        judge("ctrl-c", "KeyboardInterrupt", started)


def by_error():
    started = time.monotonic()
    try:
        with pool.connection() as conn:
            conn.cursor().execute("select 1/0")
    except driver.errors.DivisionByZero:
        judge("error", "DivisionByZero", started)


def by_server():
    borrowed = []

    def borrow():
        with pool.connection() as conn:
            borrowed.append(conn)
            slow(conn)

    one = gevent.spawn(borrow)
    assert until(running)
    started = time.monotonic()
    eye.terminate()
    one.join()
    judge("server", "OperationalError" * isinstance(one.exception, driver.OperationalError), started)


with Eye() as eye:
    pool = postgres.ConnectionPool(connect, max_size=2, timeout=2.0)
    for scene in (by_kill, by_timeout, by_deadline, by_ctrl_c, by_error, by_server):
        scene()
        with pool.connection() as conn:
            conn.cursor().execute("select 1")
    answer(driver=DRIVER, results=results, peak=eye.peak)
