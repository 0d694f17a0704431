"""One Django worker, 500 greenlets, 10 connections. Usage: worker.py [psycopg2|psycopg]"""

from __future__ import annotations

import greenkit.auto  # noqa: F401 - first of all: what comes now may wait

# isort: split
import os
import sys

import gevent

from greenkit.testing import PostgresServer

ACTIVE = "state = 'active'"
DRIVER = sys.argv[1] if len(sys.argv) > 1 else "psycopg2"


class View:
    """Look at the server over a connection of its own, as an operator would."""

    def __init__(self, dsn: str) -> None:
        self._conn = __import__(DRIVER).connect(dsn)
        self._conn.autocommit = True

    def count(self, where: str) -> int:
        cursor = self._conn.cursor()
        cursor.execute(f"select count(*) from pg_stat_activity where application_name = 'worker' and {where}")
        return cursor.fetchone()[0]


def crowd(view: View) -> None:
    import tasks

    greenlets = [gevent.spawn(tasks.slow_query, 0.02) for _ in range(500)]
    most = 0
    while not all(one.dead for one in greenlets):
        most = max(most, view.count("true"))
        gevent.sleep(0.02)
    failed = sum(not one.successful() for one in greenlets)
    print(f"crowd: 500 greenlets, {failed} failed, at most {most} connections")


def cancelled(view: View) -> None:
    import tasks

    task = gevent.spawn(tasks.slow_query, 60)
    while not view.count("wait_event = 'PgSleep'"):
        gevent.sleep(0.01)
    print(f"cancelled: {view.count(ACTIVE)} query runs in the server")
    task.kill()  # what a time limit or a revoke does
    print(f"cancelled: {view.count(ACTIVE)} queries run in the server after the task was killed")


def copied() -> None:
    import tasks

    print(f"copied: {tasks.fill(100_000)} rows in, {tasks.export()} bytes out")


def listening(dsn: str) -> None:
    import tasks

    from greenkit import postgres

    def feed() -> None:
        def connect():
            return __import__(DRIVER).connect(dsn, application_name="ear")

        for note in postgres.listen(connect, "jobs", timeout=10):
            gevent.spawn(tasks.do, int(note.payload)).join()
            if tasks.done() == 20:
                return

    ear = gevent.spawn(feed)
    gevent.sleep(0.3)
    gevent.joinall([gevent.spawn(tasks.offer, number) for number in range(20)], raise_error=True)
    ear.join()
    print(f"listening: 20 jobs notified, {tasks.done()} done")


def main() -> None:
    if DRIVER not in ("psycopg2", "psycopg"):
        sys.exit(f"there is no driver {DRIVER!r}; usage: worker.py [psycopg2|psycopg]")
    if DRIVER == "psycopg2":
        sys.modules["psycopg"] = None  # Django takes psycopg 3 where it can be imported
    with PostgresServer() as server:
        parameters = server.parameters
        os.environ.update(
            PGHOST=parameters["host"], PGPORT=parameters["port"], DJANGO_SETTINGS_MODULE="settings"
        )
        import django

        django.setup()
        view = View(server.dsn)
        print(f"driver: {DRIVER}")
        crowd(view)
        cancelled(view)
        copied()
        listening(server.dsn)


if __name__ == "__main__":
    main()
