"""COPY as iteration, with either driver: `copy_in()` takes chunks, `copy_out()` yields rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from greenkit.errors import ConfigError
from greenkit.postgres import _driver
from greenkit.postgres._time_slice import TimeSlice

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["copy_in", "copy_out"]


def copy_in(cursor: Any, sql: Any, *, source: Any) -> int:
    """Run `COPY … FROM STDIN` with what `source` gives; return the rows copied.

    Others run meanwhile. When it ends early, whatever the reason, nothing is copied, the
    connection can be used again, and the reason is raised.

    Args:
        cursor: Of psycopg2 or psycopg 3, or Django's around one.
        sql: The statement, as the driver takes it.
        source: A file (anything with `read(size)`), or an iterable of str or bytes.

    Switches: may.
    """
    cursor = _unwrapped(cursor)
    if _driver.is_psycopg2(cursor):
        cursor.copy_expert(sql, source if hasattr(source, "read") else _Reader(source))
    else:
        with cursor.copy(sql) as copy:
            time_slice = TimeSlice()  # it sends without waiting
            for piece in _pieces(source):
                copy.write(piece)
                time_slice.pass_on()
    return int(cursor.rowcount)


def copy_out(cursor: Any, sql: Any) -> Iterator[bytes]:
    """Run `COPY … TO STDOUT`; yield its output row by row (in pieces, for `FORMAT binary`).

    Others run meanwhile. Until the iterator is exhausted or closed, the connection belongs to the
    greenlet that iterates; closed early, the query is cancelled in the server.

    Raises:
        ConfigError: psycopg2 is not green here: `install()` is missing.

    Switches: may.
    """
    cursor = _unwrapped(cursor)
    return _rows_of_psycopg2(cursor, sql) if _driver.is_psycopg2(cursor) else _rows_of_psycopg3(cursor, sql)


def _unwrapped(cursor: Any) -> Any:
    # Django's wrappers, and an agent's proxies of those, have the next one there. What is left may
    # be an agent's proxy of the driver's cursor.
    while (inner := getattr(cursor, "cursor", None)) is not None:
        cursor = inner
    return cursor


class _Reader:
    """Be a file to read from for what iterates."""

    def __init__(self, pieces: Iterable[str | bytes]) -> None:
        self._pieces = iter(pieces)

    def read(self, _size: int) -> str | bytes:
        # An empty piece is no end of file: `next` skips to the one after.
        return next((piece for piece in self._pieces if piece), b"")


def _pieces(source: Any) -> Iterator[Any]:
    if not hasattr(source, "read"):
        yield from source
        return
    while piece := source.read(1 << 16):
        yield piece


def _rows_of_psycopg3(cursor: Any, sql: Any) -> Iterator[bytes]:
    with cursor.copy(sql) as copy:
        for row in copy:
            yield bytes(row)


def _rows_of_psycopg2(cursor: Any, sql: Any) -> Iterator[bytes]:
    # Late: the file imports psycopg2.
    from greenkit.postgres._copy import Copy, is_green
    from greenkit.postgres._psycopg2_connection import GuardedConnection, use

    cursor = _driver.raw(cursor)  # the copying is done on libpq; an agent's proxy has no part in it
    conn = cursor.connection
    if not is_green(cursor) or not isinstance(conn, GuardedConnection):
        msg = (
            f"copy_out() needs a psycopg2 connection made after greenkit.postgres.install(), which {conn!r} "
            "is not. Call it first, or use cursor.copy_expert() with a file."
        )
        raise ConfigError(msg)
    copy = use(conn, "copy_out", Copy, cursor, sql)
    if copy.state is None:
        msg = f"copy_out() runs COPY … TO STDOUT; it was given {sql!r}, which has been executed"
        raise ValueError(msg)
    conn.gk_user = getcurrent()
    try:
        with copy:
            yield from copy.rows()
    finally:
        conn.gk_user = None
