"""What every program here starts with: a patched process, a driver by name, an eye on the server.

Usage: `python program.py DSN psycopg2|psycopg [more] [through=DSN]`; the last line printed is JSON.
"""

from gevent import monkey

monkey.patch_all()

import importlib
import json
import sys
import time

import gevent

from greenkit import postgres

# gevent installs its handler of SIGCHLD after the first fork: a child that ends before is never heard of.
gevent.get_hub().loop.install_sigchld()

DSN, DRIVER, *MORE = sys.argv[1:]
# Where connections go; the eye looks at the server itself.
THROUGH = next((one.partition("through=")[2] for one in MORE if one.startswith("through=")), DSN)
driver = importlib.import_module(DRIVER)
APPLICATION = "greenkit_under_test"
THEIRS = f"from pg_stat_activity where application_name = '{APPLICATION}'"
postgres.install()


def connect(**options):
    if "wrapped" in MORE:  # as tracing agents hand them out
        import wrapt

        return wrapt.ObjectProxy(driver.connect(THROUGH, application_name=APPLICATION, **options))
    return driver.connect(THROUGH, application_name=APPLICATION, **options)


class Eye:
    """Look at the server from a connection of its own; `peak` is the most connections ever seen."""

    def __init__(self):
        self.peak = 0
        self._conn = driver.connect(DSN, application_name="eye")
        self._conn.autocommit = True
        self.encrypted = bool(
            self._conn.info.ssl_in_use if DRIVER == "psycopg2" else self._conn.pgconn.ssl_in_use
        )
        self._watcher = None

    def count(self, where="true"):
        cursor = self._conn.cursor()
        cursor.execute(f"select count(*) {THEIRS} and {where}")
        return cursor.fetchone()[0]

    def terminate(self):
        self._conn.cursor().execute(f"select pg_terminate_backend(pid) {THEIRS}")

    def __enter__(self):
        self._watcher = gevent.spawn(self._watch)
        return self

    def __exit__(self, *_):
        self._watcher.kill()
        self._conn.close()

    def _watch(self):
        # A connection of its own: two greenlets on one is what psycopg2 refuses.
        conn = driver.connect(DSN, application_name="watching eye")
        conn.autocommit = True
        cursor = conn.cursor()
        while True:
            cursor.execute(f"select count(*) {THEIRS}")
            self.peak = max(self.peak, cursor.fetchone()[0])
            gevent.sleep(0.001)


def until(condition, seconds=5.0):
    """Wait for something the server does in its own time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        gevent.sleep(0.005)
    return True


def answer(**facts):
    print(json.dumps(facts))  # a Counter is a dict
