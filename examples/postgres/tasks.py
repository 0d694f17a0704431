"""What the worker does, in Django's ordinary synchronous words."""

from __future__ import annotations

from django.db import connection, transaction

from greenkit import postgres


def slow_query(seconds: float) -> None:
    with connection.cursor() as cursor:
        cursor.execute("select pg_sleep(%s)", [seconds])


def fill(rows: int) -> int:
    """COPY into a table: psycopg2 refuses it in a green process, `copy_in()` does it with either driver."""
    lines = (f"{number}\tjob {number}\n" for number in range(rows))
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("create table if not exists jobs (id int, name text, done bool default false)")
        return postgres.copy_in(cursor, "copy jobs (id, name) from stdin", source=lines)


def export() -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        return sum(len(row) for row in postgres.copy_out(cursor, "copy jobs to stdout with (format csv)"))


def offer(number: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("select pg_notify('jobs', %s)", [str(number)])


def do(number: int) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("update jobs set done = true where id = %s", [number])


def done() -> int:
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from jobs where done")
        return cursor.fetchone()[0]
