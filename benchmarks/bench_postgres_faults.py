"""What do 200 greenlets on 20 connections notice when the server fails, by stack?

The fault comes two seconds in, and nine are watched. Each stack meets each fault in one run:

- `restart`: the server is killed and started at once; `away`: started three seconds later.
- `terminate`: every backend is ended.
- `stopped`: the whole server stands still for four seconds; `backend`: one backend does, for good.
- `dropped`: the network swallows what goes over the connections there are, and keeps acknowledging,
  for good; new connections work.
- `exhausted`: twenty greenlets hold a connection each for the first four seconds; where a stack has
  a limit for waiting, it is two.

greenkit's queries have a deadline of three seconds; no rival has one. Errors: what greenlets were
told. Silent: the longest time without a finished query. Hung: greenlets that never came back.

Run: python benchmarks/bench_postgres_faults.py [FAULT ...]
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import platform
import signal
import socket
import subprocess
import sys
import threading
import time

import psycopg2

from greenkit.testing import PostgresServer

CHILD = pathlib.Path(__file__).parent / "rivals" / "postgres_faults.py"
STACKS = (
    "greenkit, psycopg2",
    "greenkit, psycopg 3",
    "psycogreen + bare queue",
    "SQLAlchemy pre-ping + psycogreen",
    "psycopg_pool + check",
    "django-db-geventpool",
)
SECONDS = 9.0


def restart(server, _line):
    server.kill()
    server.start()


def away(server, _line):
    server.kill()
    time.sleep(3)
    server.start()


@contextlib.contextmanager
def operator(server):
    conn = psycopg2.connect(server.dsn_for("template1"))  # its own database: a stack may fill the other
    conn.autocommit = True
    yield conn.cursor()
    conn.close()


def terminate(server, _line):
    with operator(server) as cursor:
        cursor.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'postgres'")


def stopped(server, _line):
    server.freeze()
    time.sleep(4)
    server.thaw()


def backend(server, _line):
    with operator(server) as cursor:
        cursor.execute("select pid from pg_stat_activity where datname = 'postgres' limit 1")
        os.kill(cursor.fetchone()[0], signal.SIGSTOP)


def dropped(_server, line):
    line.swallow()


def exhausted(_server, _line):
    """Happens in the child."""


class Line:
    """A network between the stack and the server, which can swallow what is on it."""

    def __init__(self, parameters):
        self._there = (parameters["host"], int(parameters["port"]))
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self._age = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self):
        self._age += 1

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                here = self._door.accept()[0]
                there = socket.create_connection(self._there)
                for way in ((here, there), (there, here)):
                    threading.Thread(target=self._pump, args=(*way, self._age), daemon=True).start()

    def _pump(self, source, target, age):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self._age == age:
                    target.sendall(data)
            if self._age == age:
                target.shutdown(socket.SHUT_WR)

    def close(self):
        self._door.close()


def watch(stack, fault, server, line):
    dsn = psycopg2.extensions.make_dsn(server.dsn, host="127.0.0.1", port=line.port) if line else server.dsn
    child = subprocess.Popen(
        [sys.executable, str(CHILD), stack, fault.__name__, str(SECONDS), dsn],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if child.stdout.readline() != "ready\n":
        return f"left out: {child.communicate()[1].strip().splitlines()[-1][:80]}"
    time.sleep(2)
    try:
        fault(server, line)
    except psycopg2.OperationalError as error:
        child.kill()
        return f"not even the operator gets in: {str(error).strip()[-50:]}"
    try:
        return child.communicate(timeout=SECONDS + 20)[0].strip()
    except subprocess.TimeoutExpired:
        child.kill()
        return "the process stands still"


FAULTS = (restart, away, terminate, stopped, backend, dropped, exhausted)


def main():
    python, driver = platform.python_version(), psycopg2.__version__.split()[0]
    print(f"Python {python}, psycopg2 {driver}, {platform.machine()}")
    for fault in FAULTS:
        if sys.argv[1:] and fault.__name__ not in sys.argv[1:]:
            continue
        print(fault.__name__)
        for stack in STACKS:
            with PostgresServer(own=True, tcp=fault is dropped) as server:
                line = Line(server.parameters) if fault is dropped else None
                print(f"  {stack:33}{watch(stack, fault, server, line)}", flush=True)
                if line:
                    line.close()


if __name__ == "__main__":
    main()
