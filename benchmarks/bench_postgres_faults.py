"""What do 200 greenlets on 20 connections notice when the server fails, by stack?

The fault comes two seconds in, and ten are watched. Each stack meets each fault in one run:
`restart` (killed and started at once), `away` (killed, started three seconds later), `terminate`
(every backend), `stopped` (the server is stopped for four seconds, as behind a dead network:
greenkit's queries have a deadline of three). Hung: greenlets that never came back.

Run: python benchmarks/bench_postgres_faults.py
"""

from __future__ import annotations

import pathlib
import platform
import subprocess
import sys
import time

import psycopg2

from greenkit.testing import PostgresServer

CHILD = pathlib.Path(__file__).parent / "rivals" / "postgres_faults.py"
STACKS = (
    "greenkit, psycopg2",
    "greenkit, psycopg 3",
    "SQLAlchemy pre-ping + psycogreen",
    "psycopg_pool + check",
    "django-db-geventpool",
)
SECONDS = 10.0


def restart(server):
    server.kill()
    server.start()


def away(server):
    server.kill()
    time.sleep(3)
    server.start()


def terminate(server):
    conn = psycopg2.connect(server.dsn_for("template1"))  # its own database: a stack may fill the other
    conn.autocommit = True
    conn.cursor().execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'postgres'")
    conn.close()


def stopped(server):
    server.freeze()
    time.sleep(4)
    server.thaw()


def watch(stack, fault, server):
    child = subprocess.Popen(
        [sys.executable, str(CHILD), stack, str(SECONDS), server.dsn],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if child.stdout.readline() != "ready\n":
        return f"left out: {child.communicate()[1].strip().splitlines()[-1][:80]}"
    time.sleep(2)
    try:
        fault(server)
    except psycopg2.OperationalError as error:
        child.kill()
        return f"not even the operator gets in: {str(error).strip()[-50:]}"
    try:
        return child.communicate(timeout=SECONDS + 20)[0].strip()
    except subprocess.TimeoutExpired:
        child.kill()
        return "the process stands still"


def main():
    python, driver = platform.python_version(), psycopg2.__version__.split()[0]
    print(f"Python {python}, psycopg2 {driver}, {platform.machine()}")
    for fault in (restart, away, terminate, stopped):
        print(fault.__name__)
        for stack in STACKS:
            with PostgresServer(own=True) as server:
                print(f"  {stack:34} {watch(stack, fault, server)}", flush=True)


if __name__ == "__main__":
    main()
