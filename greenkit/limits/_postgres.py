"""Carry requests to PostgreSQL: one small unlogged table, one row per limiter, one connection per process.

The row is locked, `exchange()` runs here on the server's clock, and the row is written: two round
trips. Whoever stops in between is thrown out by the server after a second.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from greenkit.errors import ConfigError
from greenkit.limits._protocol import MICRO, RecordError, checked, exchange, numbers_in
from greenkit.limits._rates import EPOCH
from greenkit.limits._sync import masked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greenkit.limits._protocol import Reply, Request

__all__ = ["PostgresWire", "check_driver"]

_OPTIONS = (
    "-c statement_timeout=200 -c lock_timeout=200 -c idle_in_transaction_session_timeout=1000 "
    "-c synchronous_commit=off -c application_name=greenkit-limits"
)
# Unlogged: what a crash of the server loses, the processes still know.
# Of two processes that find no table and both make it, IF NOT EXISTS saves neither: one at a time.
_CREATE = """
SELECT pg_advisory_xact_lock(hashtext('greenkit_limits'));
CREATE UNLOGGED TABLE IF NOT EXISTS greenkit_limits
    (name text PRIMARY KEY, record text NOT NULL, expires timestamptz NOT NULL)
"""
# The clock is read after the lock is there.
_READ = """
BEGIN;
INSERT INTO greenkit_limits VALUES (%(name)s, '{}', clock_timestamp() + interval '1 minute')
    ON CONFLICT DO NOTHING;
SELECT 1 FROM greenkit_limits WHERE name = %(name)s FOR UPDATE;
SELECT record, extract(epoch FROM clock_timestamp())::float8 FROM greenkit_limits WHERE name = %(name)s
"""
_WRITE = """
UPDATE greenkit_limits SET record = %(record)s,
    expires = clock_timestamp() + make_interval(secs => %(lasts)s) WHERE name = %(name)s;
COMMIT
"""
_SWEEP = "DELETE FROM greenkit_limits WHERE expires < clock_timestamp()"
# Requests between two looks for rows nobody needs any more.
_SWEEP_EVERY = 1000


def check_driver(dsn: str) -> str:
    """Return the driver to use: the one that is loaded, else psycopg2, else psycopg.

    Raises:
        ConfigError: There is none.
    """
    drivers = ("psycopg2", "psycopg")
    found = [name for name in drivers if name in sys.modules] or [name for name in drivers if find_spec(name)]
    if not found:
        msg = f'share={masked(dsn)!r} needs a driver: pip install "greenkit[postgres]"'
        raise ConfigError(msg)
    return found[0]


class PostgresWire:
    """Keep the records in a table `greenkit_limits`, which is made when it is not there.

    Args:
        dsn: Address of the database.
    """

    __slots__ = ("_asked", "_conn", "_driver", "_dsn")

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._driver = check_driver(dsn)
        self._conn: Any = None
        self._asked = 0

    def ask(self, asked: Sequence[tuple[str, Request]], /) -> list[Reply | RecordError]:
        """Return the replies, or what is wrong with one record.

        Raises:
            Exception: What the driver raises.
        """
        if self._conn is None:
            self._conn = self._connect()
        with self._conn.cursor() as cursor:
            replies = [_exchange(cursor, record, request) for record, request in asked]
            self._asked += 1
            if self._asked % _SWEEP_EVERY == 0:
                cursor.execute(_SWEEP)
        return replies

    def close(self) -> None:
        """Give the connection up; the next request makes a new one."""
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()

    def abort(self) -> None:
        """Have `ask()`, which another native thread is in, fail."""
        conn = self._conn
        if conn is not None:
            # A copy of the descriptor: the connection is the other thread's, and is closed there.
            with socket.socket(fileno=os.dup(conn.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)

    def _connect(self) -> Any:
        driver = import_module(self._driver)
        # The last is for a host that is gone without a word; milliseconds.
        try:
            conn = driver.connect(self._dsn, connect_timeout=2, options=_OPTIONS, tcp_user_timeout=1000)
        except driver.ProgrammingError:  # it quotes what it cannot read, which may be the password
            msg = f"share={masked(self._dsn)!r} is no address of a PostgreSQL server that can be read"
            raise ConfigError(msg) from None
        try:
            conn.autocommit = True  # BEGIN and COMMIT travel with the statements they belong to
            if self._driver == "psycopg":
                conn.cursor_factory = driver.ClientCursor  # several statements in one round trip
            with conn.cursor() as cursor:
                cursor.execute("SELECT to_regclass('greenkit_limits')")
                if cursor.fetchone()[0] is None:
                    cursor.execute(_CREATE)
        except BaseException:
            conn.close()
            raise
        return conn


def _exchange(cursor: Any, name: str, request: Request) -> Reply | RecordError:
    cursor.execute(_READ, {"name": name})
    while hasattr(cursor, "nextset") and _more(cursor):
        pass
    text, seconds = cursor.fetchone()
    try:
        record = numbers_in(json.loads(text))
        reply = checked(exchange(record, request, (seconds - EPOCH) * MICRO), request)
    except (RecordError, ValueError) as error:
        cursor.execute("ROLLBACK")
        return error if isinstance(error, RecordError) else RecordError(f"the record is no JSON: {error}")
    lasts = request.lasts(record, reply.now) / MICRO
    cursor.execute(_WRITE, {"name": name, "record": json.dumps(record), "lasts": lasts})
    return reply


def _more(cursor: Any) -> bool:
    """Go to the next result; psycopg2 keeps only the last one, and knows no `nextset`."""
    try:
        return bool(cursor.nextset())
    except Exception as error:
        if type(error).__name__ != "NotSupportedError":
            raise
        return False
