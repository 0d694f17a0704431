"""Many units of work over few connections: closing, forgetting, failing, two databases' worth of set-up."""

from dj_world import DRIVER, SIZE, WORLD, answer, set_up

# isort: split
import threading
import time
from dataclasses import replace

set_up()

from django.core import signals
from django.db import close_old_connections, connection, connections, transaction
from django.db.utils import OperationalError, ProgrammingError

from greenkit import postgres

# Of this database alone: the other worker's tests sleep on the same server.
SLEEPING = (
    "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"
)
peaks, errors = [], []


def unit(number):
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                "select count(*) from pg_stat_activity"
                " where application_name = 'dj' and datname = current_database()"
            )
            peaks.append(cursor.fetchone()[0])
            cursor.execute("select pg_sleep(0.005)")
        if number % 3 == 0:
            connection.close()
        elif number % 3 == 1:
            close_old_connections()
        # else: forget it; the end of the greenlet or thread brings it back
    except Exception as error:
        errors.append(repr(error))


def run(count):
    threads = [threading.Thread(target=unit, args=(number,)) for number in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


run(60 if WORLD == "green" else 8)
pool = connections["default"].pool
for _ in range(200):  # the last greenlets' connections are on their way home
    if pool.statistics().in_use == 0:
        break
    time.sleep(0.01)
seen = pool.statistics()


def fail_and_go_on():
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("select nonsense")
    except ProgrammingError:
        pass
    with connection.cursor() as cursor:
        cursor.execute("select current_setting('TimeZone')")
        return cursor.fetchone()[0]


def exhaust():
    held = [pool.getconn() for _ in range(SIZE)]
    pool._settings = replace(pool._settings, timeout=0.05)
    try:
        connection.ensure_connection()
    except OperationalError as error:
        return type(error.__cause__).__name__
    finally:
        for one in held:
            pool.putconn(one)


def share():
    """As a live server test does: a thread opens the connection, another closes it."""
    given = []

    def open_it():
        connection.inc_thread_sharing()
        connection.ensure_connection()
        given.append(connections["default"])

    before = pool.statistics().in_use
    thread = threading.Thread(target=open_it)
    thread.start()
    thread.join()
    time.sleep(0.1)
    kept = pool.statistics().in_use - before
    with given[0].cursor() as cursor:
        cursor.execute("select 1")
        works = cursor.fetchone() == (1,)
    given[0].close()
    return [kept, works, pool.statistics().in_use - before]


def cancelled():
    """Kill a unit of work in its query and count what runs on in the server."""
    if WORLD == "plain":
        return 0
    import gevent

    def slow():
        with connection.cursor() as cursor:
            cursor.execute("select pg_sleep(30)")

    one = gevent.spawn(slow)
    gevent.sleep(0.3)
    one.kill()
    with connection.cursor() as cursor:
        cursor.execute(SLEEPING)
        left = cursor.fetchone()[0]
    connection.close()
    return left


shared = share()
time_zone = fail_and_go_on()
borrowed = pool.statistics().in_use
signals.request_finished.send(sender=None)
answer(
    errors=errors,
    peak=max(peaks),
    done=len(peaks),
    size=SIZE,
    in_use=seen.in_use,
    taken_back=seen.taken_back,
    created=seen.created,
    time_zone=time_zone,
    shared=shared,
    cancelled=cancelled(),
    borrowed=borrowed,
    after_request=pool.statistics().in_use,
    exhausted=exhaust(),
    kinds=[connection.ops_class.__name__, connection.SchemaEditorClass.__name__],
    installed=postgres.installed() if DRIVER == "psycopg2" else None,
)
