"""What do greenkit's driver and pool cost, beside what they replace?

Client CPU per operation, the least of five rounds, all stacks in turn in each round (a busy
neighbour slows them all); each in a process of its own, against one server on a unix socket:

1. `SELECT 1`: 20 connections, 100 greenlets; borrow, execute, fetch, give back.
2. Borrow and give back, nothing else.
3. Django: a greenlet that runs one query and closes.
4. Django: connections the server sees when 500 greenlets come at once, for `max_size` 20.

Rivals that are not installed are left out, and named: pip install asyncpg django-db-geventpool psycopg-pool
Run: python benchmarks/bench_postgres.py
"""

from __future__ import annotations

import json
import pathlib
import platform
import subprocess
import sys

import psycopg2
from psycopg2 import extensions

from greenkit.testing import PostgresServer

ROUNDS = 5
CHILD = pathlib.Path(__file__).parent / "rivals" / "postgres_stacks.py"
DRIVERS = (
    "psycopg2 + psycogreen + bare queue",
    "psycopg2 + psycogreen + fair queue",
    "greenkit psycopg2 + bare queue",
    "greenkit psycopg2 pool",
    "greenkit psycopg 3 pool",
    "psycopg_pool (psycopg 3)",
    "SQLAlchemy QueuePool + psycogreen",
)
DJANGO = (
    "django-db-geventpool, psycopg2",
    "greenkit.django.postgresql, psycopg2",
    "greenkit.django.postgresql, psycopg 3",
    "Django's pool, psycopg 3",
    "Django without a pool, psycopg2",
)
missing: set[str] = set()


def measure(stack, what, dsn):
    child = subprocess.run(
        [sys.executable, str(CHILD), stack, what, dsn], capture_output=True, text=True, check=False
    )
    if child.returncode == 0:
        return json.loads(child.stdout.splitlines()[-1])
    missing.add(f"{stack}, {what}: {child.stderr.strip().splitlines()[-1][:90]}")
    return None


def table(title, stacks, what, dsn, rounds=ROUNDS):
    print(title, flush=True)
    seen = {stack: [] for stack in stacks}
    for _ in range(rounds):
        for stack in stacks:
            value = measure(stack, what, dsn)
            if value is not None:
                seen[stack].append(value)
    base = min(seen[stacks[0]], default=None)
    for stack, values in seen.items():
        if values:
            ratio = f"{min(values) / base:6.2f} x" if base else ""
            print(f"  {stack:42} {min(values):8.1f}  {ratio}", flush=True)


def main():
    versions = f"psycopg2 {psycopg2.__version__.split()[0]} (libpq {extensions.libpq_version()})"
    print(f"Python {platform.python_version()}, {versions}, {platform.machine()}")
    with PostgresServer() as server:
        dsn = " ".join(f"{key}={value}" for key, value in extensions.parse_dsn(server.dsn).items())
        table("CPU us per SELECT 1", (*DRIVERS, "asyncpg pool"), "queries", dsn)
        table("CPU us per borrow and give back", DRIVERS[:2] + DRIVERS[3:], "checkouts", dsn)
        table("CPU us per Django greenlet with one query", DJANGO, "units", dsn)
        table("connections for 500 greenlets and a max_size of 20", DJANGO[:4], "burst", dsn, rounds=1)
    for stack in sorted(missing):
        print("  left out:", stack)


if __name__ == "__main__":
    main()
