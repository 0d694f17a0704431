"""Forty tasks that read a row, call an API and write, over a pool of four connections.

After `green`: "release" for release_between_queries; "seconds=0.5" for an API that takes so long. Without it
calls end when as many are under way as there can be.
"""

import sys
import time

from dj_world import DATABASE, DRIVER, SIZE, answer, set_up

# isort: split
import gevent
import gevent.event

TASKS = 40
seconds = float(next((word[len("seconds=") :] for word in sys.argv if word.startswith("seconds=")), 0))
pool_options = {**DATABASE["OPTIONS"]["pool"], "release_between_queries": "release" in sys.argv}
set_up(DATABASES={"default": {**DATABASE, "OPTIONS": {**DATABASE["OPTIONS"], "pool": pool_options}}})

from django.db import close_old_connections, connection

under_way, most, answered = [], [0], gevent.event.Event()


def ask(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def call_the_api(number):
    under_way.append(number)
    most.append(len(under_way))
    gevent.sleep(seconds) if seconds else answered.wait(30)
    under_way.remove(number)


def task(number):
    try:
        ask("select 1")
        call_the_api(number)
        return ask(f"select {number}")
    finally:
        close_old_connections()


began = time.monotonic()
tasks = [gevent.spawn(task, number) for number in range(TASKS)]
if not seconds:
    pool = connection.pool
    # Each task calls, or waits for a connection that those who call hold.
    while len(under_way) + pool.statistics().waiting < TASKS:
        gevent.sleep(0.01)
    answered.set()
gevent.joinall(tasks, timeout=60)
answer(
    driver=DRIVER,
    size=SIZE,
    most=max(most),
    done=[greenlet.value for greenlet in tasks] == list(range(TASKS)),
    seconds=round(time.monotonic() - began, 2),
    peak=connection.pool.statistics().peak,
    in_use=connection.pool.statistics().in_use,
)
