"""COPY over a green psycopg2 connection, which psycopg2 refuses: done with the libpq it has loaded.

psycopg2's own `execute()` sends the statement (it opens the transaction and tracks its state), then fails
because it has no file, and leaves libpq in the middle of a COPY. From there this module drives libpq in
non-blocking calls. Meanwhile the calling greenlet is the connection's only user (`_psycopg2_connection`).
"""

from __future__ import annotations

import ctypes
import io
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import errors, extensions, sql

from greenkit.errors import WaitTimeout
from greenkit.postgres import _closing, _libpq
from greenkit.postgres._deadline import current
from greenkit.postgres._errors import QueryTimeout, for_driver
from greenkit.postgres._time_slice import TimeSlice
from greenkit.wait import Deadline, FdWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Copy", "is_green", "leave", "run", "statement"]

_ACTIVE = extensions.TRANSACTION_STATUS_ACTIVE
_LIBRARY: str = psycopg2._psycopg.__file__
_Timeout = for_driver(QueryTimeout, psycopg2.OperationalError)


def is_green(cursor: Any) -> bool:
    """Tell whether psycopg2 would refuse to copy here."""
    return extensions.get_wait_callback() is not None and not cursor.connection.async_


def statement(cursor: Any, direction: str, table: str, *, sep: str, null: str, columns: Any) -> Any:
    """Compose the statement of `copy_from()` and `copy_to()`."""
    names: Any = sql.SQL("")
    if columns is not None:
        names = sql.SQL(" ({})").format(sql.SQL(",").join(map(sql.Identifier, columns)))
    whole = sql.SQL("COPY {}{} " + direction + " WITH DELIMITER AS {} NULL AS {}")
    return whole.format(sql.Identifier(table), names, sql.Literal(sep), sql.Literal(null)).as_string(cursor)


def run(cursor: Any, command: Any, file: Any, size: int) -> int:
    """Run `command` with `file` at our end; return the rows copied, -1 when unknown."""
    with_file = Copy(cursor, command)
    if with_file.state is None:
        return int(extensions.cursor.rowcount.__get__(cursor))
    with with_file:
        if with_file.state == _libpq.COPY_IN:
            while data := file.read(size):
                with_file.put(data)
        else:
            decoded = with_file.codec if isinstance(file, io.TextIOBase) else None
            for row in with_file.rows():
                file.write(row.decode(decoded) if decoded else row)
    return with_file.count


def leave(cursor: Any, error: Exception) -> None:
    """End the COPY that `execute()` began and cannot go on with; other errors are none of ours.

    Raises:
        ProgrammingError: It was a COPY; says what runs one.
    """
    conn = cursor.connection
    if not is_green(cursor) or conn.closed or conn.info.transaction_status != _ACTIVE:
        return
    if "can't execute COPY" not in str(error):
        return
    Copy(cursor, None).abandon()
    msg = (
        "execute() cannot run COPY, which needs somewhere to read or write: use copy_expert(), copy_from() "
        "or copy_to() of this cursor, or greenkit.postgres.copy_in() and copy_out(). Nothing was copied."
    )
    raise psycopg2.ProgrammingError(msg) from None


class Copy:
    """One COPY under way; leaving its `with` block ends it, for better or worse.

    Attributes:
        state: `COPY_IN`, `COPY_OUT`, or None when the command was no COPY (and has been executed).
        count: Rows copied, known at the end.
    """

    def __init__(self, cursor: Any, command: Any) -> None:
        self._conn = cursor.connection
        self._libpq = _libpq.quick(_LIBRARY)
        self._until = current()
        self._query_timeout: float | None = getattr(self._conn, "gk_query_timeout", None)
        self.count = -1
        self.state: int | None = None
        if command is not None and not self._begin(cursor, command):
            return
        self._pgconn = self._conn.pgconn_ptr
        self._libpq.PQsetnonblocking(self._pgconn, 1)
        self.codec = extensions.encodings[self._conn.encoding]
        self._watch = FdWatch(self._conn.fileno())
        self._time_slice = TimeSlice()
        result = self._libpq.PQgetResult(self._pgconn)  # in COPY it is made up on the spot
        self.state = self._libpq.PQresultStatus(result)
        self._libpq.PQclear(result)

    def _begin(self, cursor: Any, command: Any) -> bool:
        try:
            extensions.cursor.execute(cursor, command)
        except psycopg2.ProgrammingError:
            if self._conn.closed or self._conn.info.transaction_status != _ACTIVE:
                raise
            return True
        return False

    def __enter__(self) -> Copy:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.abandon(error)
            return
        try:
            if self.state == _libpq.COPY_IN:
                self._end(None)
            self._take_results()
        except psycopg2.DatabaseError as failed:
            if isinstance(failed, _Timeout):
                self.abandon(failed)
            raise
        except BaseException as interrupt:
            self.abandon(interrupt)
            raise
        finally:
            self._watch.close()

    def put(self, data: str | bytes) -> None:
        """Send a piece of the input, of any length."""
        if isinstance(data, str):
            data = data.encode(self.codec)
        while (sent := self._libpq.PQputCopyData(self._pgconn, data, len(data))) == 0:
            self._wait_write()
        if sent < 0:
            self._take_results()  # the server has given up, and says why
            raise psycopg2.OperationalError(self._words())
        self._flush()

    def rows(self) -> Iterator[bytes]:
        """Yield the output row by row, as the server cuts it."""
        buffer = ctypes.c_void_p()
        while True:
            length = self._libpq.PQgetCopyData(self._pgconn, ctypes.byref(buffer), 1)
            if length > 0:
                row = ctypes.string_at(buffer.value or 0, length)
                self._libpq.PQfreemem(buffer)
                self._time_slice.pass_on()
                yield row
            elif length == 0:
                self._wait_read()
            elif length == -1:
                return
            else:
                raise psycopg2.OperationalError(self._words())

    def abandon(self, error: BaseException | None = None) -> None:
        """End it without its result; close the connection when the server does not agree in time."""
        grace = self._until = Deadline.after(_closing.GRACE)
        ended: list[bool] = []

        def end() -> None:
            with suppress(psycopg2.Error, WaitTimeout):
                if self.state == _libpq.COPY_IN:
                    self._end(f"given up: {type(error).__name__} {error}" if error else "given up")
                else:
                    self._conn.cancel()
                    for _ in self.rows():
                        pass
                with suppress(psycopg2.Error):
                    self._take_results()
                ended.append(self._conn.info.transaction_status != _ACTIVE)

        try:
            _closing.run_uninterrupted(end, grace)
        finally:
            self._watch.close()
            if not any(ended):
                _closing.shut_down(self._conn.fileno())
                extensions.connection.close(self._conn)

    def _end(self, problem: str | None) -> None:
        words = None if problem is None else problem.encode(self.codec, "replace")[:1000]
        while (ended := self._libpq.PQputCopyEnd(self._pgconn, words)) == 0:
            self._wait_write()
        if ended > 0:
            self._flush()

    def _take_results(self) -> None:
        failure: Exception | None = None
        while True:
            while self._libpq.PQisBusy(self._pgconn):
                self._wait_read()
            result = self._libpq.PQgetResult(self._pgconn)
            if not result:
                break
            if self._libpq.PQresultStatus(result) == _libpq.FATAL:
                failure = failure or self._error(result)
            else:
                self.count = int(self._libpq.PQcmdTuples(result) or -1)
            self._libpq.PQclear(result)
        if failure is not None:
            raise failure

    def _error(self, result: int) -> Exception:
        text = (self._libpq.PQresultErrorMessage(result) or b"").decode(self.codec, "replace")
        code = (self._libpq.PQresultErrorField(result, ord("C")) or b"").decode()
        kind: Any = psycopg2.DatabaseError
        with suppress(KeyError):
            kind = errors.lookup(code)
        made: Exception = kind(text.partition(":  ")[2] or text)
        made.__setstate__({"pgcode": code or None, "pgerror": text})
        return made

    def _words(self) -> str:
        words: bytes = self._libpq.PQerrorMessage(self._pgconn) or b"COPY failed"
        return words.decode(self.codec, "replace")

    def _flush(self) -> None:
        while self._libpq.PQflush(self._pgconn) == 1:
            self._wait_write()
        self._time_slice.pass_on()

    def _wait_write(self) -> None:
        self._wait(self._watch.wait_write)

    def _wait_read(self) -> None:
        self._wait(self._watch.wait_read)
        if not self._libpq.PQconsumeInput(self._pgconn):
            raise psycopg2.OperationalError(self._words())

    def _wait(self, wait: Any) -> None:
        limit = self._until.timeout()
        try:
            # How long a whole COPY takes depends on its data; a dead network shows in a single wait.
            wait(self._query_timeout if limit is None else limit)
        except WaitTimeout:
            if limit is None:
                msg = (
                    f"the COPY stood still for the pool's query_timeout ({self._query_timeout:g} s); it was "
                    "cancelled. Give it more time with greenkit.postgres.deadline(seconds)."
                )
            else:
                msg = "the COPY passed its deadline; it was cancelled"
            raise _Timeout(msg) from None
        self._time_slice.renew()
